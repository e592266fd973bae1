/* What penstock plan found, for people and as JSON. */
#include <string.h>

#include "core/budget.h"
#include "tools/plan.h"

static json_t *members_json(const struct ps_volume *volume)
{
    json_t *members = json_array();

    for (int i = 0; i < ps_volume_member_count(volume); i++) {
        struct ps_member_info info;
        int node = ps_volume_member_node(volume, i);
        ps_volume_member(volume, i, &info);
        json_array_append_new(members,
                              json_pack("{s:o, s:o, s:f}", "path", tool_json_text(info.path),
                                        "node", node < 0 ? json_null() : json_integer(node),
                                        "share", tool_member_share(volume, i)));
    }
    return members;
}

static json_t *nodes_json(const struct ps_store_placement *placement)
{
    json_t *nodes = json_array();

    for (int n = 0; n < placement->node_count; n++)
        json_array_append_new(nodes,
                              json_pack("{s:i, s:I, s:I}", "node", placement->node_id[n],
                                        "cache_bytes", (json_int_t)placement->cache_bytes[n],
                                        "expert_bytes", (json_int_t)placement->object_bytes[n]));
    return nodes;
}

static const char *limit_name(enum ps_limit limit)
{
    static const char *const names[] = {"not known", "drives", "memory", "arithmetic"};
    return names[limit];
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *rate_json(const struct ps_forecast_rate *rate)
{
    if (rate->tokens_per_s <= 0)
        return json_null();
    return json_pack("{s:f, s:s, s:f}", "tokens_per_s", rate->tokens_per_s, "limit",
                     limit_name(rate->limit), "waiting_share", rate->read_share);
}

static json_t *forecast_json(const struct ps_forecast *f)
{
    return json_pack("{s:I, s:I, s:I, s:f, s:{s:f, s:f, s:f}, s:o, s:o, s:o, s:o, s:o}",
                     "routed_bytes", (json_int_t)f->routed_bytes, "resident_bytes",
                     (json_int_t)f->resident_bytes, "missed_bytes", (json_int_t)f->missed_bytes,
                     "cached_fraction", f->cached_fraction, "hit_rate", "low", f->hit_low,
                     "central", f->hit_central, "high", f->hit_high, "decode",
                     rate_json(&f->decode), "decode_low", rate_json(&f->decode_low), "decode_high",
                     rate_json(&f->decode_high), "decode_overlapped",
                     rate_json(&f->decode_overlapped), "prefill", rate_json(&f->prefill));
}

static json_t *drives_json(const struct plan_drives *d)
{
    json_t *list = json_array();

    for (int i = 0; i < d->count; i++)
        json_array_append_new(list, json_pack("{s:I, s:I}", "bytes_per_s",
                                              (json_int_t)d->drives[i].bytes_per_s, "latency_ns",
                                              (json_int_t)d->drives[i].latency_ns));
    return list;
}

static json_t *machine_json(const struct plan_machine *m)
{
    if (!m->is_known)
        return json_null();
    return json_pack("{s:i, s:f, s:f, s:b}", "threads", m->machine.threads, "read_bytes_per_s",
                     m->machine.read_bytes_per_s, "float_ops_per_s", m->machine.float_ops_per_s,
                     "probed", (int)m->is_probed);
}

static json_t *misses_json(const struct ps_miss_times *times)
{
    json_t *misses = json_array();

    for (uint32_t i = 0; i < times->count; i++)
        json_array_append_new(misses, json_real(times->seconds[i]));
    return misses;
}

json_t *plan_json(const struct plan_result *r)
{
    const struct ps_plan *plan = &r->now.plan;
    json_t *lines = json_array(), *more = json_object();

    for (int i = 0; i < plan->line_count; i++) {
        json_array_append_new(lines,
                              json_pack("{s:s, s:I, s:I}", "name", plan->lines[i].name, "bytes",
                                        (json_int_t)plan->lines[i].bytes, "floor_bytes",
                                        (json_int_t)plan->lines[i].floor_bytes));
    }
    json_t *json =
        json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:I}", "fits", (int)r->fits,
                  "budget_bytes", (json_int_t)plan->budget_bytes, "total_bytes",
                  (json_int_t)plan->total_bytes, "floor_bytes", (json_int_t)plan->floor_bytes,
                  "ctx", (json_int_t)plan->ctx, "chunk_tokens", (json_int_t)plan->chunk_tokens,
                  "expert_slots", (json_int_t)plan->expert_slots, "lines", lines, "members",
                  members_json(ps_model_volume(r->model)), "nodes", nodes_json(&plan->placement),
                  "floating_bytes", (json_int_t)plan->placement.floating_bytes);
    if (json == NULL || !r->fits)
        return json;
    json_object_set_new(json, "forecast", forecast_json(&r->now));
    json_object_set_new(json, "drives", drives_json(&r->drives));
    if (r->drives.miss_times.count > 0)
        json_object_set_new(json, "miss_seconds", misses_json(&r->drives.miss_times));
    if (r->drives.busy_share > 0)
        json_object_set_new(json, "drives_busy_share", json_real(r->drives.busy_share));
    json_object_set_new(json, "machine", machine_json(&r->machine));
    if (r->has_drive)
        json_object_set_new(more, "drive", forecast_json(&r->drive));
    if (r->has_memory)
        json_object_set_new(more, "memory", forecast_json(&r->memory));
    json_object_set_new(json, "more", more);
    return json;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void row_print(const char *name, uint64_t bytes, uint64_t floor_bytes)
{
    char a[32], b[32];

    printf("%-28s %12s %12s\n", name, ps_size_text_binary(bytes, a, sizeof(a)),
           ps_size_text_binary(floor_bytes, b, sizeof(b)));
}

static void memory_print(const struct ps_plan *plan)
{
    char size[32];

    printf("%-28s %12s %12s\n", "", "planned", "at least");
    for (int i = 0; i < plan->line_count; i++)
        row_print(plan->lines[i].name, plan->lines[i].bytes, plan->lines[i].floor_bytes);
    row_print("total", plan->total_bytes, plan->floor_bytes);
    printf("\nThe ceiling is %s: a context of %u tokens, prompts in chunks of %u, %u experts in "
           "memory.\n",
           ps_size_text_binary(plan->budget_bytes, size, sizeof(size)), plan->ctx,
           plan->chunk_tokens, plan->expert_slots);
}

/* Which drive feeds which node's memory. Nothing to tell on one drive and one node. */
static void placement_print(const struct ps_store_placement *p, const struct ps_volume *volume)
{
    int members = ps_volume_member_count(volume);
    char size[32], share[32];

    if (members == 1 && p->node_count == 1)
        return;
    printf("\n");
    for (int i = 0; i < members; i++) {
        struct ps_member_info info;
        int node = ps_volume_member_node(volume, i);
        char where[32] = "its drive tells no node";
        if (node >= 0)
            snprintf(where, sizeof(where), "node %d", node);
        ps_volume_member(volume, i, &info);
        printf("member %d: %.0f %% of the data, %s: %s%s\n", i + 1,
               100 * tool_member_share(volume, i), where, info.path,
               info.is_missing ? " (missing)" : "");
    }
    for (int n = 0; n < p->node_count && p->node_count > 1; n++)
        printf("node %d: %s of the expert cache, for %s of experts\n", p->node_id[n],
               ps_size_text_binary(p->cache_bytes[n], size, sizeof(size)),
               ps_size_text(p->object_bytes[n], share, sizeof(share)));
    if (p->node_count > 1 && p->floating_bytes > 0)
        printf("any node: %s of experts, slot by slot in turn\n",
               ps_size_text(p->floating_bytes, size, sizeof(size)));
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void bytes_print(const struct plan_result *r)
{
    const struct ps_forecast *f = &r->now;
    struct ps_model_info info;
    char a[32], b[32];

    ps_model_info(r->model, &info);
    printf("\nexperts    %s in all: %u layers of %u, %u of each for a token; %.1f %% of them in "
           "memory\n",
           ps_size_text(info.streamed_bytes, a, sizeof(a)), info.moe_layer_count, info.expert_count,
           info.experts_used, 100 * f->cached_fraction);
    printf("a token    %s of experts, %s of resident weights and state\n",
           ps_size_text(f->routed_bytes, a, sizeof(a)),
           ps_size_text(f->resident_bytes, b, sizeof(b)));
    printf("hits       %.0f %%", 100 * f->hit_central);
    if (f->hit_low < f->hit_high)
        printf(" (%.0f to %.0f)", 100 * f->hit_low, 100 * f->hit_high);
    printf(" once warm, by %s: %s read for a token; a cold start reads all of them at first\n",
           r->hits_from, ps_size_text(f->missed_bytes, a, sizeof(a)));
}

static void basis_print(const struct plan_result *r)
{
    const struct plan_drives *d = &r->drives;
    const struct ps_machine *m = &r->machine.machine;

    if (d->count > 0) {
        printf("drives     ");
        for (int i = 0; i < d->count; i++)
            printf("%s%.2f", i > 0 ? " + " : "", (double)d->drives[i].bytes_per_s / 1e9);
        printf(" GB/s");
        if (d->busy_share > 0)
            printf(" (%.0f %% of it beside busy processors)", 100 * d->busy_share);
        printf(", %s\n", d->origin);
    }
    if (r->machine.is_known)
        printf("machine    %d threads, %.0f GB/s of memory, %.0f GFLOP/s, %s\n", m->threads,
               m->read_bytes_per_s / 1e9, m->float_ops_per_s / 1e9,
               r->machine.is_probed ? "measured now" : "given");
}

static void rate_print(const char *name, const struct ps_forecast_rate *rate,
                       const struct ps_forecast_rate *low, const struct ps_forecast_rate *high,
                       const char *what)
{
    printf("%-10s ", name);
    if (rate->tokens_per_s <= 0) {
        printf("not known without drives: give --drives\n");
        return;
    }
    printf("%.2f tokens/s", rate->tokens_per_s);
    if (low != NULL && low->tokens_per_s < high->tokens_per_s)
        printf(" (%.2f to %.2f)", low->tokens_per_s, high->tokens_per_s);
    printf(", limited by %s, %.0f %% of the time waiting for reads%s\n", limit_name(rate->limit),
           100 * rate->read_share, what);
}

static void change_print(const char *name, const struct ps_forecast *now,
                         const struct ps_forecast *then)
{
    if (now->decode.tokens_per_s <= 0 || then->decode.tokens_per_s <= 0)
        return;
    printf("%s: decode %.2f tokens/s (%+.0f %%)", name, then->decode.tokens_per_s,
           100 * (then->decode.tokens_per_s / now->decode.tokens_per_s - 1));
    if (now->prefill.tokens_per_s > 0 && then->prefill.tokens_per_s > 0)
        printf(", prefill %.1f (%+.0f %%)", then->prefill.tokens_per_s,
               100 * (then->prefill.tokens_per_s / now->prefill.tokens_per_s - 1));
    printf("\n");
}

static void rates_print(const struct plan_result *r)
{
    const struct ps_forecast *f = &r->now;
    char name[64];

    basis_print(r);
    if (!r->machine.is_known) {
        printf(
            "\nGive --machine probe, or describe one with --machine and --drives, for tokens/s.\n");
        return;
    }
    rate_print("decode", &f->decode, &f->decode_low, &f->decode_high, "");
    rate_print("at best", &f->decode_overlapped, NULL, NULL, ", were every read asked for in time");
    rate_print("prefill", &f->prefill, NULL, NULL, "");
    snprintf(name, sizeof(name), "one more drive of %.2f GB/s", r->more_drive_bytes_per_s / 1e9);
    if (r->has_drive)
        change_print(name, f, &r->drive);
    if (r->has_memory)
        change_print("64 GiB more memory", f, &r->memory);
}

void plan_print(const struct plan_result *r)
{
    memory_print(&r->now.plan);
    if (r->is_volume)
        placement_print(&r->now.plan.placement, ps_model_volume(r->model));
    if (!r->fits)
        return;
    bytes_print(r);
    rates_print(r);
}
