/* penstock perplexity VOLUME... --file TEXT: how well the model predicts a text. */
#include "tools/tool.h"

#include <math.h>

#include "core/util.h"
#include "tools/windows.h"

enum { KEY_FILE = 1, KEY_JSON };

struct perplexity_args {
    struct tool_volume volume;
    struct ps_engine_options engine;
    const char *file;
    bool json;
};

/* Sums -log p. */
struct scorer {
    uint32_t vocab_rows;
    double nats;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct perplexity_args *args = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        state->child_inputs[1] = &args->engine;
        return 0;
    case KEY_FILE:
        args->file = arg;
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    case ARGP_KEY_END:
        if (args->file == NULL)
            argp_error(state, "--file is needed");
        tool_windows_check(state, &args->engine);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"file", KEY_FILE, "TEXT", 0, "the text file; - reads standard input", 1},
    {"json", KEY_JSON, NULL, 0, "print the result as JSON", 1},
    {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = tool_run_children,
    .doc = "Cuts the text's tokens into windows of --ctx N tokens (256 here) without overlap, runs "
           "each from an empty state, and scores every token but the first of its window. An "
           "incomplete last window is dropped."};

static int row_score(void *ctx, int32_t next, const float *logits, struct ps_error *err)
{
    struct scorer *scorer = ctx;

    (void)err;
    scorer->nats += tool_log_sum_exp(logits, scorer->vocab_rows) - (double)logits[next];
    return 0;
}

static int result_print(const struct perplexity_args *args, double nats,
                        const struct tool_windows *windows, uint64_t ns)
{
    char tokens[32], scored[32], counted[32], time[32];

    if (args->json) {
        return tool_json_print(json_pack(
            "{s:f, s:f, s:I, s:I, s:I, s:I, s:f}", "perplexity", exp(nats), "nats_per_token", nats,
            "tokens", (json_int_t)windows->id_count, "tokens_scored",
            (json_int_t)windows->scored_count, "windows", (json_int_t)windows->window_count, "ctx",
            (json_int_t)args->engine.ctx, "seconds", (double)ns / 1e9));
    }
    printf("perplexity %.4f (%.5f nats per token)\n", exp(nats), nats);
    printf("%s tokens, %s windows of %u, %s scored, in %s (%.1f tokens/s)\n",
           tool_count_text(windows->id_count, tokens),
           tool_count_text(windows->window_count, counted), args->engine.ctx,
           tool_count_text(windows->scored_count, scored), tool_time_text(ns, time),
           tool_rate(windows->scored_count, ns));
    return 0;
}

static int perplexity(struct perplexity_args *args, struct ps_model *model, struct ps_error *err)
{
    struct scorer scorer = {0};
    struct tool_windows windows = {0};
    struct ps_session *session = NULL;
    struct ps_engine *engine = NULL;
    struct ps_model_info info;
    uint64_t begin_ns = 0;

    ps_model_info(model, &info);
    scorer.vocab_rows = info.vocab_rows;
    int rc = tool_windows_open(&windows, model, args->file, args->engine.ctx, 0, err);
    if (rc == 0)
        rc = tool_engine_open(&engine, &session, model, &args->engine, err);
    if (rc == 0) {
        begin_ns = ps_now_ns();
        rc = tool_windows_eval(&windows, session, row_score, &scorer, "perplexity", err);
    }
    if (rc >= 0)
        rc = result_print(args, scorer.nats / (double)windows.scored_count, &windows,
                          ps_now_ns() - begin_ns);
    ps_session_close(&session);
    ps_engine_close(&engine);
    tool_windows_close(&windows);
    return rc;
}

int cmd_perplexity(int argc, char **argv)
{
    struct perplexity_args args = {.engine.kv = "f32"};
    struct ps_model *model = NULL;
    struct ps_error err = {0};
    int status = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    args.engine.stop = tool_stop_flag();
    int rc = tool_model_open(&model, &args.volume, &err);
    if (rc == 0)
        rc = perplexity(&args, model, &err);
    if (rc < 0)
        status = tool_end(rc, &err);
    ps_model_close(&model);
    return status;
}
