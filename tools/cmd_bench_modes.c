/*
 * penstock bench modes VOLUME --memory SIZE: what does reading past the page cache win under one
 * memory ceiling? Decodes the same tokens with every I/O engine in turn, several rounds, each run
 * in a process of its own with the volume dropped from the page cache before.
 */
#include "tools/tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/budget.h"
#include "core/util.h"
#include "tools/bench_mode.h"
#include "tools/svg.h"

#define ROUNDS_MAX 101
#define DRIVE_DEPTH 8u
#define DRIVE_NS UINT64_C(1000000000)
#define REQUEST_BYTES_MAX (4u << 20) /* the store's longest read, docs/io.md */
#define REQUEST_BYTES_DEFAULT (1u << 20)

static const char *const modes[] = {"uring", "pread", "pagecache", "mmap"};
#define MODE_COUNT PS_ARRAY_LEN(modes)

enum { KEY_MEMORY = 1, KEY_TOKENS, KEY_WARM, KEY_REPEAT, KEY_FILE, KEY_SVG, KEY_JSON };

struct modes_args {
    struct tool_volume volume;
    struct bench_job job;
    uint32_t rounds;
    const char *file, *svg;
    bool json;
};

struct comparison {
    struct modes_args args;
    char model[256];
    uint64_t request_bytes; /* of a typical read of an expert */
    int32_t *ids;
    struct bench_sample samples[MODE_COUNT][ROUNDS_MAX];
    uint64_t drive_bytes_per_s[ROUNDS_MAX];
    bool is_limited;
};

/* ---- arguments ------------------------------------------------------------------------------- */

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct modes_args *args = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        return 0;
    case KEY_MEMORY:
        args->job.memory_bytes =
            strcmp(arg, "min") == 0 ? PS_MEMORY_MIN : tool_size(state, "--memory", arg);
        return 0;
    case KEY_TOKENS:
        args->job.tokens = (uint32_t)tool_number(state, "--tokens", arg, 1, 1u << 20);
        return 0;
    case KEY_WARM:
        args->job.warm = (uint32_t)tool_number(state, "--warm", arg, 0, 1u << 20);
        return 0;
    case KEY_REPEAT:
        args->rounds = (uint32_t)tool_number(state, "--repeat", arg, 1, ROUNDS_MAX);
        return 0;
    case 't':
        args->job.threads = (int)tool_number(state, "--threads", arg, 1, 512);
        return 0;
    case KEY_FILE:
        args->file = arg;
        return 0;
    case KEY_SVG:
        args->svg = arg;
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    case ARGP_KEY_END:
        if (args->volume.named_count > 0 && args->job.memory_bytes == 0)
            argp_error(state, "--memory SIZE is needed: the ceiling to compare under, or min");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"memory", KEY_MEMORY, "SIZE", 0,
     "the ceiling on everything each run holds, hugepages and page cache included, or min", 0},
    {"tokens", KEY_TOKENS, "N", 0, "tokens that are timed (64)", 0},
    {"warm", KEY_WARM, "N", 0, "tokens before them (32)", 0},
    {"repeat", KEY_REPEAT, "N", 0, "rounds over all engines (5)", 0},
    {"threads", 't', "N", 0, "threads that compute (default: one per CPU)", 0},
    {"file", KEY_FILE, "TEXT", 0, "take the tokens from this text (default: a fixed sequence)", 0},
    {"svg", KEY_SVG, "FILE", 0, "draw the result", 0},
    {"json", KEY_JSON, NULL, 0, "print the result as JSON", 0},
    {0}};
static const struct argp_child children[] = {{&tool_volume_argp, 0, "Volume:", 5}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .doc = "Decodes the same tokens with each I/O engine under one memory ceiling, in turn: direct "
           "reads (uring, pread) beside the page cache (pagecache) and page faults (mmap)."};

/* ---- the volume ------------------------------------------------------------------------------ */

/* The mean read over all experts: pieces, cut where the store cuts them. */
static uint64_t typical_request(const struct ps_volume *volume)
{
    uint64_t bytes = 0, count = 0;

    for (uint32_t o = 0; o < ps_volume_object_count(volume); o++) {
        struct ps_object_info object;
        ps_volume_object(volume, o, &object);
        for (uint32_t s = 0; object.kind == PS_OBJECT_STREAMED && s < object.slice_count; s++) {
            struct ps_slice_info slice;
            ps_volume_slice(volume, o, s, &slice);
            for (uint32_t p = 0; p < slice.piece_count; p++) {
                struct ps_piece_info piece;
                ps_volume_piece(volume, o, s, p, &piece);
                bytes += piece.bytes;
                count += ps_div_up(piece.bytes, REQUEST_BYTES_MAX);
            }
        }
    }
    return count > 0 ? ps_align_up(bytes / count, 4096) : REQUEST_BYTES_DEFAULT;
}

/* Tokens of the text, over again where it is too short; without a text, a fixed sequence. */
static int make_ids(struct comparison *c, const struct ps_model *model, uint32_t vocab,
                    struct ps_error *err)
{
    uint32_t count = c->args.job.warm + c->args.job.tokens;
    int32_t *text_ids = NULL;
    size_t text_bytes, text_count = 0;
    char *text = NULL;
    int rc = tool_ids_fixed(count, vocab, &c->ids, err);

    if (rc < 0 || c->args.file == NULL)
        return rc;
    rc = tool_text_read(c->args.file, &text, &text_bytes, err);
    if (rc == 0)
        rc = tool_tokenize(model, text, text_bytes, &text_ids, &text_count, err);
    if (rc == 0 && text_count == 0)
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, c->args.file, "the text is empty");
    for (uint32_t i = 0; i < count && rc == 0; i++)
        c->ids[i] = text_ids[i % text_count];
    free(text_ids);
    free(text);
    return rc;
}

static int look_at_volume(struct comparison *c, struct ps_error *err)
{
    struct ps_model *model = NULL;
    struct ps_model_info info;
    char streamed[32], token[32];
    int rc = tool_model_open(&model, &c->args.volume, err);

    if (rc < 0)
        return rc;
    ps_model_info(model, &info);
    c->request_bytes = typical_request(ps_model_volume(model));
    snprintf(c->model, sizeof(c->model),
             "%.64s: %d member%s, %s of experts, %s per token when nothing is cached",
             info.name[0] != '\0' ? info.name : info.arch,
             ps_volume_member_count(ps_model_volume(model)),
             ps_volume_member_count(ps_model_volume(model)) == 1 ? "" : "s",
             ps_size_text(info.streamed_bytes, streamed, sizeof(streamed)),
             ps_size_text(info.token_bytes, token, sizeof(token)));
    rc = make_ids(c, model, info.vocab_rows, err);
    ps_model_close(&model);
    return rc;
}

/* What the drives give alone, with reads as long as those of the experts. */
static int measure_drives(const struct comparison *c, uint64_t seed, uint64_t *bytes_per_s,
                          struct ps_error *err)
{
    const char *paths[PS_MEMBER_COUNT_MAX];
    struct ps_volume *volume = NULL;
    struct ps_measure_result result;
    struct ps_member_info member;
    struct ps_measure_options measure = {
        .paths = paths,
        .request_bytes = (uint32_t)c->request_bytes,
        .depth = DRIVE_DEPTH,
        .ns_max = DRIVE_NS,
        .seed = seed,
        .stop = tool_stop_flag(),
    };
    int rc = ps_volume_open(&volume, c->args.volume.paths, c->args.volume.path_count, err);

    if (rc < 0)
        return rc;
    for (int i = 0; i < ps_volume_member_count(volume); i++) {
        ps_volume_member(volume, i, &member);
        if (!member.is_missing)
            paths[measure.path_count++] = member.path;
    }
    rc = ps_measure_run(&measure, &result, err);
    if (rc == 0)
        *bytes_per_s = result.bytes_per_s;
    ps_volume_close(&volume);
    return rc;
}

/* ---- the rounds ------------------------------------------------------------------------------ */

static int run_rounds(struct comparison *c, struct ps_error *err)
{
    int rc = 0;

    c->is_limited = true;
    for (uint32_t r = 0; r < c->args.rounds && rc == 0; r++) {
        rc = measure_drives(c, r, &c->drive_bytes_per_s[r], err);
        for (size_t m = 0; m < MODE_COUNT && rc == 0; m++) {
            /* Another one is first every time: each has what the one before has warmed or worn. */
            size_t mode = (m + r) % MODE_COUNT;
            rc = bench_mode_run(&c->args.job, modes[mode], &c->samples[mode][r], err);
            c->is_limited = c->is_limited && c->samples[mode][r].is_limited;
        }
    }
    return rc;
}

static int by_time(const void *a, const void *b)
{
    uint64_t x = ((const struct bench_sample *)a)->ns, y = ((const struct bench_sample *)b)->ns;
    return (x > y) - (x < y);
}

static void sort_rounds(struct comparison *c)
{
    for (size_t m = 0; m < MODE_COUNT; m++)
        qsort(c->samples[m], c->args.rounds, sizeof(c->samples[m][0]), by_time);
    qsort(c->drive_bytes_per_s, c->args.rounds, sizeof(c->drive_bytes_per_s[0]), ps_compare_u64);
}

/* ---- results: samples are sorted by time, so the fastest is the first --------------------------
 */

struct row {
    const char *mode;
    const struct bench_sample *sample; /* the median by time */
    double tokens_per_s, least, most;
    double bytes_per_token, bytes_per_s, drive_bytes_per_s;
    double faults_major, faults_minor, cpu_s; /* per token */
};

static struct row row_of(const struct comparison *c, size_t mode)
{
    const struct bench_sample *s = &c->samples[mode][c->args.rounds / 2];
    double tokens = c->args.job.tokens;

    return (struct row){
        .mode = modes[mode],
        .sample = s,
        .tokens_per_s = tool_rate(c->args.job.tokens, s->ns),
        .least = tool_rate(c->args.job.tokens, c->samples[mode][c->args.rounds - 1].ns),
        .most = tool_rate(c->args.job.tokens, c->samples[mode][0].ns),
        .bytes_per_token = (double)s->streamed_bytes / tokens,
        .bytes_per_s = tool_rate(s->streamed_bytes, s->ns),
        .drive_bytes_per_s = tool_rate(s->drive_bytes, s->ns),
        .faults_major = (double)s->faults_major / tokens,
        .faults_minor = (double)s->faults_minor / tokens,
        .cpu_s = (double)s->cpu_ns / 1e9 / tokens,
    };
}

static const char *memory_text(const struct comparison *c, char *buf, size_t buf_bytes)
{
    return ps_size_text_binary(c->samples[0][0].budget_bytes, buf, buf_bytes);
}

static void head_print(FILE *to, const struct comparison *c)
{
    char memory[32];

    fprintf(to, "%s\n", c->model);
    fprintf(
        to,
        "ceiling %s; %u tokens one by one after %u to warm up; %u rounds, median by tokens/s\n\n",
        memory_text(c, memory, sizeof(memory)), c->args.job.tokens, c->args.job.warm,
        c->args.rounds);
    fprintf(to, "%-16s %9s %15s %9s %7s %7s %8s %8s %8s %6s %6s %9s\n", "engine", "tokens/s",
            "(least-most)", "MB read", "GB/s", "drive", "faults", "faults", "CPU s", "wait", "hits",
            "peak");
    fprintf(to, "%-16s %9s %15s %9s %7s %7s %8s %8s %8s %6s %6s %9s\n", "", "", "", "/token", "",
            "GB/s", "maj/tok", "min/tok", "/token", "%", "%", "MiB");
}

static void row_print(FILE *to, const struct row *row)
{
    const struct bench_sample *s = row->sample;
    uint64_t asked = s->hits + s->misses;
    char name[40], range[40];

    snprintf(name, sizeof(name), "%s%s%s", row->mode,
             strcmp(row->mode, s->engine) == 0 ? "" : " as ",
             strcmp(row->mode, s->engine) == 0 ? "" : s->engine);
    snprintf(range, sizeof(range), "(%.2f-%.2f)", row->least, row->most);
    fprintf(to, "%-16s %9.2f %15s %9.1f %7.2f %7.2f %8.1f %8.1f %8.4f %6.1f %6.1f %9.1f\n", name,
            row->tokens_per_s, range, row->bytes_per_token / 1e6, row->bytes_per_s / 1e9,
            row->drive_bytes_per_s / 1e9, row->faults_major, row->faults_minor, row->cpu_s,
            100.0 * (double)s->wait_ns / (double)s->ns,
            asked > 0 ? 100.0 * (double)s->hits / (double)asked : 0.0,
            (double)s->peak_bytes / (1 << 20));
}

static void result_print(FILE *to, const struct comparison *c)
{
    char size[32];

    head_print(to, c);
    for (size_t m = 0; m < MODE_COUNT; m++) {
        struct row row = row_of(c, m);
        row_print(to, &row);
    }
    fprintf(to,
            "%-16s %9s %15s %9s %7.2f   random reads of %s by penstock bench io, %u in flight\n",
            "drives alone", "", "", "", (double)c->drive_bytes_per_s[c->args.rounds / 2] / 1e9,
            ps_size_text_binary(c->request_bytes, size, sizeof(size)), DRIVE_DEPTH);
    if (!c->is_limited)
        fputs("\nNo memory cgroup could be made, so pagecache and mmap had the page cache of the "
              "whole machine: run this as root.\n",
              to);
}

static json_t *row_json(const struct row *row)
{
    const struct bench_sample *s = row->sample;
    uint64_t asked = s->hits + s->misses;
    json_t *json = json_pack(
        "{s:s, s:s, s:{s:f, s:f, s:f}, s:f, s:f, s:f, s:f}", "mode", row->mode, "engine", s->engine,
        "tokens_per_s", "median", row->tokens_per_s, "least", row->least, "most", row->most,
        "read_bytes_per_token", row->bytes_per_token, "read_bytes_per_s", row->bytes_per_s,
        "drive_bytes_per_s", row->drive_bytes_per_s, "cpu_s_per_token", row->cpu_s);
    json_t *more =
        json_pack("{s:{s:f, s:f}, s:f, s:f, s:I, s:I, s:I, s:b}", "page_faults_per_token", "major",
                  row->faults_major, "minor", row->faults_minor, "wait_share",
                  (double)s->wait_ns / (double)s->ns, "hit_rate",
                  asked > 0 ? (double)s->hits / (double)asked : 0.0, "slots", (json_int_t)s->slots,
                  "peak_bytes", (json_int_t)s->peak_bytes, "hugepage_bytes",
                  (json_int_t)s->hugepage_bytes, "limited", (int)s->is_limited);

    json_object_update(json, more);
    json_decref(more);
    return json;
}

static json_t *result_json(const struct comparison *c)
{
    json_t *list = json_array();

    for (size_t m = 0; m < MODE_COUNT; m++) {
        struct row row = row_of(c, m);
        json_array_append_new(list, row_json(&row));
    }
    return json_pack("{s:o, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:o}", "model",
                     tool_json_text(c->model), "memory_bytes",
                     (json_int_t)c->samples[0][0].budget_bytes, "tokens",
                     (json_int_t)c->args.job.tokens, "warm", (json_int_t)c->args.job.warm, "rounds",
                     (json_int_t)c->args.rounds, "limited", (int)c->is_limited, "request_bytes",
                     (json_int_t)c->request_bytes, "drives_bytes_per_s",
                     (json_int_t)c->drive_bytes_per_s[c->args.rounds / 2], "modes", list);
}

static void draw(const struct comparison *c, FILE *file)
{
    struct svg_panel panels[] = {{.title = "Decoding, tokens/s"},
                                 {.title = "Read from the drives, GB/s"},
                                 {.title = "Page faults per token"},
                                 {.title = "CPU time per token, ms"}};
    char title[128], note[128], memory[32];

    for (size_t m = 0; m < MODE_COUNT; m++) {
        struct row row = row_of(c, m);
        panels[0].values[m] = row.tokens_per_s;
        panels[0].least[m] = row.least;
        panels[0].most[m] = row.most;
        panels[1].values[m] = row.drive_bytes_per_s / 1e9;
        panels[2].values[m] = row.faults_major + row.faults_minor;
        panels[3].values[m] = row.cpu_s * 1e3;
    }
    snprintf(title, sizeof(title), "Direct reads beside the page cache, ceiling %s",
             memory_text(c, memory, sizeof(memory)));
    snprintf(note, sizeof(note), "%u tokens one by one, median of %u rounds%s", c->args.job.tokens,
             c->args.rounds,
             c->args.rounds > 1 ? "; the line is from the slowest to the fastest" : "");
    const char *notes[2] = {c->model, note};
    svg_write(file, title, notes, modes, (int)MODE_COUNT, panels, (int)PS_ARRAY_LEN(panels));
}

static int svg_file_write(const struct comparison *c, struct tool_output *out, struct ps_error *err)
{
    if (c->args.svg == NULL)
        return 0;
    draw(c, out->file);
    return tool_output_commit(out, err);
}

int cmd_bench_modes(int argc, char **argv)
{
    static struct comparison c = {.args = {.job = {.tokens = 64, .warm = 32}, .rounds = 5}};
    struct tool_output out = {0};
    struct ps_error err = {0};
    int status = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &c.args);
    FILE *to = tool_report_file(c.args.svg);
    tool_stop_flag();
    int rc = look_at_volume(&c, &err);
    c.args.job.paths = c.args.volume.paths;
    c.args.job.path_count = c.args.volume.path_count;
    c.args.job.ids = c.ids;
    if (rc == 0 && c.args.svg != NULL)
        rc = tool_output_open(&out, c.args.svg, &err);
    if (rc == 0)
        rc = run_rounds(&c, &err);
    if (rc == 0) {
        sort_rounds(&c);
        if (c.args.json)
            status = tool_json_write(to, result_json(&c));
        else
            result_print(to, &c);
        fflush(to);
        rc = svg_file_write(&c, &out, &err);
    }
    if (rc < 0)
        status = tool_end(rc, &err);
    tool_output_abandon(&out);
    free(c.ids);
    return status;
}
