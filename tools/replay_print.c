#include "tools/replay.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "core/budget.h"
#include "core/util.h"
#include "tools/svg.h"

double replay_warm_rate(const struct ps_replay_result *r)
{
    uint64_t warm = r->asked - r->firsts;
    return warm > 0 ? (double)r->warm_hits / (double)warm : 0;
}

static double share_of(uint64_t part, uint64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0;
}

static double busy_mean(const struct ps_replay_result *r)
{
    double sum = 0;

    for (int d = 0; d < r->drive_count; d++)
        sum += r->busy[d];
    return sum / r->drive_count;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *row_json(const struct replay_row *row)
{
    const struct ps_replay_result *r = &row->result;
    json_t *busy = json_array();

    for (int d = 0; d < r->drive_count; d++)
        json_array_append_new(busy, json_real(r->busy[d]));
    json_t *json = json_pack(
        "{s:o, s:s, s:s, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "drives",
        tool_json_text(row->drives), "policy", row->policy, "predictor", row->predictor,
        "cache_bytes", (json_int_t)r->cache_bytes, "slots", (json_int_t)r->slot_count,
        "cached_share", share_of(r->slot_count, r->expert_count), "asked", (json_int_t)r->asked,
        "hits", (json_int_t)r->hits, "firsts", (json_int_t)r->firsts, "warm_hits",
        (json_int_t)r->warm_hits, "demands", (json_int_t)r->demands, "hit_rate",
        share_of(r->hits, r->asked), "warm_hit_rate", replay_warm_rate(r));
    json_t *more =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:o}",
                  "demands_guessed_k", (json_int_t)r->demands_guessed_k, "demands_guessed_2k",
                  (json_int_t)r->demands_guessed_2k, "read_bytes", (json_int_t)r->read_bytes,
                  "demand_bytes", (json_int_t)r->demand_bytes, "prefetches",
                  (json_int_t)r->prefetches, "prefetches_used", (json_int_t)r->prefetches_used,
                  "tokens", (json_int_t)r->tokens, "seconds", (double)r->ns / 1e9, "tokens_per_s",
                  tool_rate(r->tokens, r->ns), "stall_share", share_of(r->stall_ns, r->ns),
                  "compute_share", share_of(r->compute_ns, r->ns), "bound_layers_tokens_per_s",
                  tool_rate(r->tokens, r->bound_layers_ns), "bound_overlap_tokens_per_s",
                  tool_rate(r->tokens, r->bound_overlap_ns), "busy_shares", busy);
    json_object_update(json, more);
    json_decref(more);
    return json;
}

json_t *replay_json(const struct ps_trace_info *info, const struct replay_row *rows, int count)
{
    json_t *list = json_array();

    for (int i = 0; i < count; i++)
        json_array_append_new(list, row_json(&rows[i]));
    return json_pack("{s:o, s:I, s:i, s:i, s:i, s:o}", "model", tool_json_text(info->model),
                     "tokens", (json_int_t)info->token_count, "layers", (int)info->layer_count,
                     "experts", (int)info->expert_count, "experts_used", (int)info->experts_used,
                     "runs", list);
}

/* ---- for people ------------------------------------------------------------------------------ */

void replay_print(FILE *to, const struct ps_trace_info *info, const struct replay_row *rows,
                  int count)
{
    char size[32], expert[32];

    tool_text_print(to, info->model[0] != '\0' ? info->model : "a model without a name", 0);
    fprintf(to, ": %llu tokens, %u layers of %u experts, %u used, %s each\n",
            (unsigned long long)info->token_count, info->layer_count, info->expert_count,
            info->experts_used, ps_size_text(rows[0].result.expert_bytes, expert, sizeof(expert)));
    fprintf(to, "%10s %6s  %-11s %-14s %-12s %6s %6s %9s %9s %7s %6s %9s %9s\n", "cache", "share",
            "policy", "predictor", "drives", "hits", "warm", "MB/token", "tokens/s", "stalled",
            "busy", "bound", "overlap");
    for (int i = 0; i < count; i++) {
        const struct ps_replay_result *r = &rows[i].result;
        fprintf(to, "%10s %5.1f%%  %-11s %-14s ",
                ps_size_text_binary(r->cache_bytes, size, sizeof(size)),
                100 * share_of(r->slot_count, r->expert_count), rows[i].policy, rows[i].predictor);
        tool_text_print(to, rows[i].drives, 12);
        fprintf(to, " %5.1f%% %5.1f%% %9.1f %9.2f %6.1f%% %5.1f%% %9.2f %9.2f\n",
                100 * share_of(r->hits, r->asked), 100 * replay_warm_rate(r),
                (double)r->read_bytes / (double)r->tokens / 1e6, tool_rate(r->tokens, r->ns),
                100 * share_of(r->stall_ns, r->ns), 100 * busy_mean(r),
                tool_rate(r->tokens, r->bound_layers_ns),
                tool_rate(r->tokens, r->bound_overlap_ns));
    }
}

/* ---- a picture ------------------------------------------------------------------------------- */

static bool is_same_line(const struct replay_row *a, const struct replay_row *b)
{
    return strcmp(a->policy, b->policy) == 0 && strcmp(a->predictor, b->predictor) == 0 &&
           strcmp(a->drives, b->drives) == 0;
}

/* "lru, oracle, 7G@80us": the policy, and of the rest what tells the lines apart. */
static void line_name(const struct replay_row *row, const struct replay_row *rows, int count,
                      char *name, size_t bytes)
{
    bool one_policy = true, one_predictor = true, one_drives = true;

    for (int i = 0; i < count; i++) {
        one_policy = one_policy && strcmp(rows[i].policy, row->policy) == 0;
        one_predictor = one_predictor && strcmp(rows[i].predictor, row->predictor) == 0;
        one_drives = one_drives && strcmp(rows[i].drives, row->drives) == 0;
    }
    bool has_policy = !one_policy || (one_predictor && one_drives);
    snprintf(name, bytes, "%s%s%s%s%s", has_policy ? row->policy : "",
             has_policy && !one_predictor ? ", " : "", one_predictor ? "" : row->predictor,
             !one_drives && (has_policy || !one_predictor) ? ", " : "",
             one_drives ? "" : row->drives);
}

int replay_svg_write(struct tool_output *out, const struct ps_trace_info *info,
                     const struct replay_row *rows, int count, struct ps_error *err)
{
    struct svg_line lines[SVG_LINE_COUNT_MAX] = {0};
    char title[192], names[SVG_LINE_COUNT_MAX][128];
    int line_count = 0;

    static_assert(SVG_POINT_COUNT_MAX >= REPLAY_LIST_MAX, "a line holds every size of memory");
    /* The rows of a line are not side by side. */
    for (int i = 0; i < count; i++) {
        int l = 0;
        while (l < line_count && !is_same_line(&rows[i], lines[l].owner))
            l++;
        assert(l < SVG_LINE_COUNT_MAX);
        struct svg_line *line = &lines[l];
        if (l == line_count) {
            line_count++;
            line->owner = &rows[i];
            line->name = names[l];
            line_name(&rows[i], rows, count, names[l], sizeof(names[l]));
        }
        if (line->point_count == SVG_POINT_COUNT_MAX)
            continue; /* the same policy, or other, given twice: the same points */
        const struct ps_replay_result *r = &rows[i].result;
        line->x[line->point_count] = 100 * share_of(r->slot_count, r->expert_count);
        line->y[line->point_count++] = 100 * replay_warm_rate(r);
    }
    snprintf(title, sizeof(title), "Hits of a cache for experts: %s",
             info->model[0] != '\0' ? info->model : "replay");
    svg_lines_write(out->file, title,
                    (const char *const[2]){"% of the experts asked for that were in memory, first "
                                           "touches apart,",
                                           "over the share of the model's experts that the cache "
                                           "holds, %"},
                    lines, line_count);
    return tool_output_commit(out, err);
}
