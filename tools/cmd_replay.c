/* penstock replay TRACE: what a cache, drives and a predictor would have done. */
#include "tools/replay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tools/svg.h"

#define ROW_COUNT_MAX 1024

enum {
    KEY_MEMORY = 1,
    KEY_DRIVES,
    KEY_POLICY,
    KEY_PREDICTOR,
    KEY_COMPUTE,
    KEY_VOLUME,
    KEY_EXPERT_BYTES,
    KEY_SLICE_BYTES,
    KEY_DEPTH,
    KEY_SEED,
    KEY_JSON,
    KEY_SVG
};

struct list {
    const char *items[REPLAY_LIST_MAX];
    int count;
};

struct replay_args {
    const char *trace, *volume, *memory, *compute, *svg;
    struct list drives, policies, predictors;
    struct ps_replay_options options;
    bool json;
};

static void list_add(struct argp_state *state, struct list *list, const char *arg)
{
    if (list->count == REPLAY_LIST_MAX)
        argp_error(state, "an option may be given %d times", REPLAY_LIST_MAX);
    list->items[list->count++] = arg;
}

static error_t parse_size(int key, char *arg, struct argp_state *state)
{
    struct replay_args *args = state->input;

    switch (key) {
    case KEY_EXPERT_BYTES:
        args->options.expert_bytes = tool_size(state, "--expert-bytes", arg);
        return 0;
    case KEY_SLICE_BYTES:
        args->options.slice_bytes = tool_size(state, "--slice-bytes", arg);
        return 0;
    case KEY_DEPTH:
        args->options.depth =
            (uint32_t)tool_number(state, "--depth", arg, 1, PS_TRACE_DEPTH_COUNT_MAX);
        return 0;
    case KEY_SEED:
        args->options.seed = tool_number(state, "--seed", arg, 0, UINT64_MAX);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct replay_args *args = state->input;

    switch (key) {
    case KEY_MEMORY:
        args->memory = arg;
        return 0;
    case KEY_DRIVES:
        list_add(state, &args->drives, arg);
        return 0;
    case KEY_POLICY:
        list_add(state, &args->policies, arg);
        return 0;
    case KEY_PREDICTOR:
        list_add(state, &args->predictors, arg);
        return 0;
    case KEY_COMPUTE:
        args->compute = arg;
        return 0;
    case KEY_VOLUME:
        args->volume = arg;
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    case KEY_SVG:
        args->svg = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (args->trace != NULL)
            argp_error(state, "one TRACE at a time");
        args->trace = arg;
        return 0;
    case ARGP_KEY_END:
        if (args->trace == NULL)
            argp_error(state, "name a TRACE, as penstock trace writes it");
        return 0;
    default:
        return parse_size(key, arg, state);
    }
}

static const struct argp_option options[] = {
    {"memory", KEY_MEMORY, "SIZE,...", 0,
     "memory for experts, or with --volume for the whole engine: 24G, 30% of all experts, min, or "
     "a range of ten, 10%..100% (default)",
     0},
    {"drives", KEY_DRIVES, "SPEC", 0,
     "drives as N x bytes/s @ latency, 2x3.5G or 7G@80us,3.5G@100us, or a file of penstock probe "
     "--out; may be repeated (default: 3.5G@100us)",
     0},
    {"policy", KEY_POLICY, "NAME", 0,
     "what leaves the cache first: lru (default), lfu, least-stale or belady, the bound; may be "
     "repeated",
     0},
    {"predictor", KEY_PREDICTOR, "NAME", 0,
     "what is guessed: off (default), oracle, recall=R[,precision=P], or trace, as recorded; may "
     "be repeated",
     0},
    {"depth", KEY_DEPTH, "N", 0,
     "layers that are guessed ahead (default: 1, of an oracle as many as there is room for)", 0},
    {"compute", KEY_COMPUTE, "SPEC", 0,
     "what arithmetic takes: mixer=TIME, shared=TIME and predict=TIME per layer, expert=TIME, "
     "token=TIME; what reads cost the processors: check=TIME per expert, read=TIME, issue=TIME "
     "until the next, wake=TIME per wait; or memory=RATE,dense=SIZE, at which experts and SIZE "
     "other bytes per token are read "
     "(default: no time)",
     0},
    {"volume", KEY_VOLUME, "PATH", 0, "take the sizes and cuts of the experts of this volume", 0},
    {"expert-bytes", KEY_EXPERT_BYTES, "SIZE", 0, "size of an expert (default: as recorded)", 0},
    {"slice-bytes", KEY_SLICE_BYTES, "SIZE", 0, "size aimed at for its slices (default: 2M)", 0},
    {"seed", KEY_SEED, "N", 0, "of recall=R (default: 0)", 0},
    {"svg", KEY_SVG, "FILE", 0, "draw hit rates over memory", 0},
    {"json", KEY_JSON, NULL, 0, "print it as JSON", 0},
    {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "TRACE",
    .doc = "Plays a recorded trace on the engine's own cache, scheduler and queues, with drives "
           "and arithmetic that are only figures. Nothing is read but the trace."};

/* ---- one run --------------------------------------------------------------------------------- */

/* With a volume the engine's own plan says what is left to experts. */
static int memory_set(struct ps_model *model, const struct replay_memory *memory,
                      uint32_t expert_count, struct ps_replay_options *o, struct ps_error *err)
{
    struct ps_engine_options engine = {.memory_bytes = memory->bytes, .activations = "q8"};
    struct ps_plan plan;

    o->cache_bytes = 0;
    o->slot_count = 0;
    if (memory->share > 0) {
        o->slot_count = (uint32_t)(memory->share * expert_count + 0.5);
        return 0;
    }
    if (model == NULL) {
        o->cache_bytes = memory->bytes;
        return 0;
    }
    int rc = ps_model_plan(model, &engine, &plan, err);
    o->slot_count = plan.expert_slots;
    return rc;
}

static uint64_t ns_of(double bytes, double bytes_per_s)
{
    double ns = bytes * 1e9 / bytes_per_s;
    return ns < (double)REPLAY_TIME_NS_MAX ? (uint64_t)ns : REPLAY_TIME_NS_MAX;
}

static void compute_set(const struct replay_compute *c, const struct ps_trace_info *info,
                        uint64_t expert_bytes, struct ps_replay_options *o)
{
    o->compute = c->times;
    if (c->memory_bytes_per_s == 0)
        return;
    if (o->compute.expert_ns == 0)
        o->compute.expert_ns = ns_of((double)expert_bytes, c->memory_bytes_per_s);
    if (o->compute.mixer_ns == 0)
        o->compute.mixer_ns =
            ns_of((double)c->dense_bytes / info->layer_count, c->memory_bytes_per_s);
}

struct work {
    const struct replay_args *args;
    struct ps_model *model; /* or NULL */
    struct ps_replay *replay;
    struct ps_trace_info info; /* its arrays are the trace's */
    struct replay_compute compute;
    struct replay_memory memories[REPLAY_LIST_MAX];
    int memory_count;
    struct replay_drives drives[REPLAY_LIST_MAX];
    struct replay_row *rows;
    int row_count;
    struct tool_output svg;
};

static uint64_t largest_expert(const struct work *w)
{
    uint64_t bytes = w->args->options.expert_bytes;
    struct ps_model_info info;

    if (w->model != NULL) {
        ps_model_info(w->model, &info);
        return info.expert_bytes_max;
    }
    for (uint32_t l = 0; w->args->options.expert_bytes == 0 && l < w->info.layer_count; l++)
        bytes = ps_max_u64(bytes, w->info.expert_bytes[l]);
    return bytes;
}

static int run_one(struct work *w, const struct replay_drives *drives, struct replay_row *row,
                   struct ps_error *err)
{
    struct ps_replay_options o = w->args->options;

    o.drives = drives->drives;
    o.drive_count = drives->count;
    o.policy = row->policy;
    o.volume = w->model != NULL ? ps_model_volume(w->model) : NULL;
    o.stop = tool_stop_flag();
    compute_set(&w->compute, &w->info, largest_expert(w), &o);
    if (!ps_replay_predictor_parse(row->predictor, &o))
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--predictor",
                            "\"%s\" is no predictor; there are off, oracle, trace and "
                            "recall=R[,precision=P], R and P above 0 and up to 1",
                            row->predictor);
    int rc =
        memory_set(w->model, &row->memory, w->info.layer_count * w->info.expert_count, &o, err);
    return rc < 0 ? rc : ps_replay_run(w->replay, &o, &row->result, err);
}

/* All combinations, memory fastest, so that the rows of a curve stand together. */
static int run_all(struct work *w, struct ps_error *err)
{
    const struct replay_args *a = w->args;
    int count = a->drives.count * a->predictors.count * a->policies.count * w->memory_count;
    int rc = 0;

    if (count > ROW_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "that is %d runs; %d are the most", count,
                            ROW_COUNT_MAX);
    w->rows = calloc((size_t)count, sizeof(*w->rows));
    if (w->rows == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory");
    for (; rc == 0 && w->row_count < count; w->row_count += rc == 0) {
        struct replay_row *row = &w->rows[w->row_count];
        int i = w->row_count / w->memory_count;
        const struct replay_drives *drives =
            &w->drives[i / a->policies.count / a->predictors.count];
        row->memory = w->memories[w->row_count % w->memory_count];
        row->policy = a->policies.items[i % a->policies.count];
        row->predictor = a->predictors.items[i / a->policies.count % a->predictors.count];
        row->drives = drives->text;
        rc = run_one(w, drives, row, err);
    }
    return rc;
}

static int distinct_count(const struct list *list)
{
    int count = 0;

    for (int i = 0; i < list->count; i++) {
        int j = 0;
        while (strcmp(list->items[j], list->items[i]) != 0)
            j++;
        count += j == i;
    }
    return count;
}

static int svg_open(struct work *w, struct ps_error *err)
{
    const struct replay_args *a = w->args;
    int lines =
        distinct_count(&a->policies) * distinct_count(&a->predictors) * distinct_count(&a->drives);

    if (a->svg == NULL)
        return 0;
    if (lines > SVG_LINE_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--svg",
                            "that would be %d lines, and a drawing has room for %d: give fewer of "
                            "--policy, --predictor and --drives",
                            lines, SVG_LINE_COUNT_MAX);
    return tool_output_open(&w->svg, a->svg, err);
}

static int specs_parse(struct work *w, struct ps_error *err)
{
    const struct replay_args *a = w->args;
    int rc = replay_memories_parse(a->memory, w->memories, &w->memory_count, err);

    if (rc == 0 && a->compute != NULL)
        rc = replay_compute_parse(a->compute, &w->compute, err);
    for (int i = 0; rc == 0 && i < a->drives.count; i++)
        rc = replay_drives_parse(a->drives.items[i], &w->drives[i], err);
    return rc;
}

/* The drawing last, so that where it cannot be written the figures are there all the same. */
static int report(struct work *w, struct ps_error *err)
{
    FILE *to = tool_report_file(w->args->svg);
    int status = 0;

    if (w->args->json)
        status = tool_json_write(to, replay_json(&w->info, w->rows, w->row_count));
    else
        replay_print(to, &w->info, w->rows, w->row_count);
    if (w->svg.file == NULL)
        return status;
    fflush(to);
    int rc = replay_svg_write(&w->svg, &w->info, w->rows, w->row_count, err);
    return rc < 0 ? rc : status;
}

int cmd_replay(int argc, char **argv)
{
    struct replay_args args = {.memory = "10%..100%"};
    struct work w = {.args = &args};
    struct ps_trace *trace = NULL;
    struct ps_error err = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    args.drives = args.drives.count ? args.drives : (struct list){{"3.5G@100us"}, 1};
    args.policies = args.policies.count ? args.policies : (struct list){{"lru"}, 1};
    args.predictors = args.predictors.count ? args.predictors : (struct list){{"off"}, 1};
    tool_log_start(false);
    tool_subject_set(args.trace);
    const struct tool_name names[] = {{"TRACE", args.trace, true}, {"--svg", args.svg, false}};
    int rc = tool_names_check(names, PS_ARRAY_LEN(names), &err);
    if (rc == 0)
        rc = specs_parse(&w, &err);
    if (rc == 0 && args.volume != NULL)
        rc = ps_model_open(&w.model, &args.volume, 1, &err);
    if (rc == 0)
        rc = ps_trace_open(&trace, args.trace, &err);
    if (rc == 0) {
        w.info = *ps_trace_info(trace);
        rc = ps_replay_open(&w.replay, trace, &err);
    }
    if (rc == 0)
        rc = svg_open(&w, &err);
    if (rc == 0)
        rc = run_all(&w, &err);
    int status = rc < 0 ? tool_end(rc, &err) : report(&w, &err);
    if (status < 0)
        status = tool_fail(&err);
    for (int i = 0; i < args.drives.count; i++)
        free(w.drives[i].probes);
    tool_output_abandon(&w.svg);
    free(w.rows);
    ps_replay_close(&w.replay);
    ps_trace_close(&trace);
    ps_model_close(&w.model);
    return status;
}
