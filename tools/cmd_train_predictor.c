/* penstock train-predictor VOLUME TRACE...: teaches the predictor from recorded traces. */
#include "tools/tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/budget.h"
#include "core/util.h"
#include "model/predictor_train.h"

enum { KEY_OUT = 1, KEY_RANK, KEY_PASSES, KEY_SEED, KEY_MEMORY, KEY_JSON };

#define TRACE_COUNT_MAX 64

struct train_args {
    struct tool_volume volume;
    struct ps_train_options train;
    const char *traces[TRACE_COUNT_MAX];
    const char *out;
    bool json;
};

static error_t trace_add(struct train_args *args, struct argp_state *state, const char *path)
{
    if (args->volume.path_count == 0) {
        args->volume.paths[args->volume.path_count++] = path;
        return 0;
    }
    if (args->train.trace_count == TRACE_COUNT_MAX)
        argp_error(state, "there are more than %d traces", TRACE_COUNT_MAX);
    else
        args->traces[args->train.trace_count++] = path;
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct train_args *args = state->input;

    switch (key) {
    case ARGP_KEY_ARG:
        return trace_add(args, state, arg);
    case KEY_OUT:
        args->out = arg;
        return 0;
    case KEY_RANK:
        args->train.rank = (uint32_t)tool_number(state, "--rank", arg, 8, 64);
        if (args->train.rank % 8 != 0)
            argp_error(state, "--rank: %s is no multiple of 8", arg);
        return 0;
    case KEY_PASSES:
        args->train.pass_count = (uint32_t)tool_number(state, "--passes", arg, 1, 1000);
        return 0;
    case KEY_SEED:
        args->train.seed = tool_number(state, "--seed", arg, 0, UINT64_MAX);
        return 0;
    case KEY_MEMORY:
        args->train.memory_bytes = tool_size(state, "--memory", arg);
        return 0;
    case 't':
        args->train.threads = (int)tool_number(state, "--threads", arg, 1, 512);
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    case ARGP_KEY_END:
        if (args->train.trace_count == 0)
            argp_error(state, "name a VOLUME and at least one TRACE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"out", KEY_OUT, "FILE", 0, "write the predictor there instead of into the volume", 1},
    {"rank", KEY_RANK, "N", 0,
     "8, 16, ... 64: larger ones learn more and cost more (default: the most up to 32 that the "
     "volume has room for; 32 with --out)",
     1},
    {"passes", KEY_PASSES, "N", 0, "how often every token is learned from (8)", 1},
    {"seed", KEY_SEED, "N", 0, "of what chance decides (0)", 1},
    {"memory", KEY_MEMORY, "SIZE", 0,
     "for tokens: as many layers are trained at a time as fit (1G)", 1},
    {"threads", 't', "N", 0, "threads, each of which trains a layer (default: one per CPU)", 1},
    {"json", KEY_JSON, NULL, 0, "print the result as JSON", 1},
    {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "VOLUME TRACE...",
    .doc = "Trains corrections of the gate predictor on traces that penstock trace --hidden has "
           "recorded of the same model, but for the last tenth of each, on which it tells what "
           "they find. Keeps those that find more than the gate alone."};

static double share(uint64_t found, const struct ps_train_depth *depth)
{
    return (double)found / (double)ps_max_u64(depth->chosen, 1);
}

/* Precision of the first k is their recall: so many are chosen. */
static json_t *found_json(const struct ps_train_report *report, uint64_t found_k, uint64_t found_2k,
                          const struct ps_train_depth *depth)
{
    double k = share(found_k, depth), k2 = share(found_2k, depth);
    double of_2k = (double)report->experts_used / (double)report->rank_2k;

    return json_pack("{s:f, s:f, s:f, s:f}", "recall_k", k, "recall_2k", k2, "precision_k", k,
                     "precision_2k", k2 * of_2k);
}

static int report_json(FILE *to, const struct ps_train_report *report, size_t bytes, uint64_t ns)
{
    json_t *depths = json_array();

    for (int d = 0; depths != NULL && d < PS_TRAIN_DEPTHS; d++) {
        const struct ps_train_depth *r = &report->depths[d];
        json_array_append_new(depths,
                              json_pack("{s:i, s:i, s:i, s:o, s:o}", "depth", d + 1, "layers",
                                        (int)r->layer_count, "kept", (int)r->kept_count, "gate",
                                        found_json(report, r->gate_k, r->gate_2k, r), "learned",
                                        found_json(report, r->learned_k, r->learned_2k, r)));
    }
    return tool_json_write(
        to, json_pack("{s:I, s:I, s:i, s:i, s:I, s:f, s:o?}", "tokens", (json_int_t)report->tokens,
                      "tokens_held_out", (json_int_t)report->tokens_held_out, "rank",
                      (int)report->rank, "experts_used", (int)report->experts_used, "bytes",
                      (json_int_t)bytes, "seconds", (double)ns / 1e9, "depths", depths));
}

static int report_print(const struct train_args *args, const struct ps_train_report *report,
                        size_t bytes, uint64_t ns)
{
    FILE *to = tool_report_file(args->out);
    char tokens[32], held[32], size[32], time[32];

    if (args->json)
        return report_json(to, report, bytes, ns);
    fprintf(to, "rank %u, %s, from %s tokens in %s; found in one half of %s tokens held out:\n",
            report->rank, ps_size_text(bytes, size, sizeof(size)),
            tool_count_text(report->tokens, tokens), tool_time_text(ns, time),
            tool_count_text(report->tokens_held_out, held));
    fprintf(to, "%16s of %2u guessed  of %2u guessed\n", "", report->experts_used, report->rank_2k);
    for (int d = 0; d < PS_TRAIN_DEPTHS; d++) {
        const struct ps_train_depth *r = &report->depths[d];
        fprintf(to, "%d ahead: gate     %8.1f %%     %8.1f %%\n", d + 1, 100 * share(r->gate_k, r),
                100 * share(r->gate_2k, r));
        fprintf(to, "         learned  %8.1f %%     %8.1f %%   kept for %u of %u layers\n",
                100 * share(r->learned_k, r), 100 * share(r->learned_2k, r), r->kept_count,
                r->layer_count);
    }
    return 0;
}

static int file_write(struct tool_output *out, const void *data, size_t bytes, struct ps_error *err)
{
    errno = 0;
    if (fwrite(data, 1, bytes, out->file) != bytes) {
        int code = errno > 0 ? -errno : -EIO;
        return ps_error_set(err, code, out->name, "cannot write: %s", strerror(-code));
    }
    return tool_output_commit(out, err);
}

static int train(struct train_args *args, struct ps_model *model, struct ps_error *err)
{
    struct ps_train_report report;
    struct tool_progress progress;
    uint64_t begin_ns = ps_now_ns();
    struct tool_output out = {0};
    void *data = NULL;
    size_t bytes = 0;

    args->train.traces = args->traces;
    if (args->out != NULL && args->train.rank == 0)
        args->train.rank = 32;
    args->train.is_for_volume = args->out == NULL;
    /* Now, so that a bad name is not found only after hours. */
    int rc = args->out != NULL ? tool_output_open(&out, args->out, err) : 0;
    if (rc < 0)
        return rc;
    tool_progress_init(&progress, "training");
    rc = ps_model_predictor_train(model, &args->train, &report, &data, &bytes, err);
    tool_progress_end(&progress);
    if (rc == 0) {
        uint64_t ns = ps_now_ns() - begin_ns;
        rc = args->out != NULL ? file_write(&out, data, bytes, err)
                               : ps_model_predictor_save(model, data, bytes, err);
        /* What was learned is told also where it could not be kept. */
        int printed = report_print(args, &report, bytes, ns);
        rc = rc < 0 ? rc : printed;
    }
    tool_output_abandon(&out);
    free(data);
    return rc;
}

int cmd_train_predictor(int argc, char **argv)
{
    struct train_args args = {0};
    struct ps_model *model = NULL;
    struct ps_error err = {0};
    int status = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    args.train.stop = tool_stop_flag();
    int rc = tool_inputs_check("TRACE", args.traces, args.train.trace_count, args.out, &err);
    if (rc == 0)
        rc = tool_model_open(&model, &args.volume, &err);
    if (rc == 0)
        rc = train(&args, model, &err);
    if (rc < 0)
        status = tool_end(rc, &err);
    ps_model_close(&model);
    return status;
}
