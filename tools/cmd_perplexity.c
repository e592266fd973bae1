/* penstock perplexity VOLUME... --file TEXT: how well the model predicts a text. */
#include "tools/tool.h"

#include <math.h>
#include <stdlib.h>

#include "core/util.h"

#define WINDOW_DEFAULT 256u

enum { KEY_FILE = 1, KEY_JSON };

struct perplexity_args {
    struct tool_volume volume;
    struct ps_engine_options engine;
    const char *file;
    bool json;
};

/* Sums -log p of every token of a window but its first. */
struct scorer {
    const int32_t *window;
    uint32_t vocab_rows;
    double nats;
    uint64_t scored;
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
        if (args->engine.ctx == 0)
            args->engine.ctx = WINDOW_DEFAULT;
        if (args->engine.ctx < 2)
            argp_error(state, "--ctx: a window of one token has nothing to score");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"file", KEY_FILE, "TEXT", 0, "the text file; - reads standard input", 1},
    {"json", KEY_JSON, NULL, 0, "print the result as JSON", 1},
    {0}};
static const struct argp_child children[] = {{&tool_volume_argp, 0, "Volume:", 7},
                                             {&tool_engine_argp, 0, "Memory, disk, processor:", 6},
                                             {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .doc = "Cuts the text's tokens into windows of --ctx N tokens (256 here) without overlap, runs "
           "each from an empty state, and scores every token but the first of its window. An "
           "incomplete last window is dropped."};

/* The logits at position i predict token i + 1. Sums in double: V may be 248,320. */
static void row_score(void *ctx, uint32_t position, const float *logits)
{
    struct scorer *scorer = ctx;
    double max = logits[0];

    for (uint32_t i = 1; i < scorer->vocab_rows; i++)
        max = logits[i] > max ? logits[i] : max;
    double sum = exp((double)logits[0] - max);
    for (uint32_t i = 1; i < scorer->vocab_rows; i++)
        sum += exp((double)logits[i] - max);
    scorer->nats += log(sum) + max - (double)logits[scorer->window[position + 1]];
    scorer->scored++;
}

static int windows_score(struct ps_session *session, const int32_t *ids, uint64_t window_count,
                         uint32_t window, struct scorer *scorer, struct ps_error *err)
{
    struct tool_progress progress;
    int rc = 0;

    tool_progress_init(&progress, NULL);
    for (uint64_t i = 0; rc >= 0 && i < window_count; i++) {
        scorer->window = ids + i * window;
        ps_session_reset(session);
        /* The last token's own logits would predict a token of the next window. */
        rc = ps_session_eval(session, scorer->window, window - 1, row_score, scorer, err);
        if (progress.shown && rc >= 0) {
            fprintf(stderr, "\r%llu of %llu windows, perplexity %.4f\033[K",
                    (unsigned long long)i + 1, (unsigned long long)window_count,
                    exp(scorer->nats / (double)scorer->scored));
        }
    }
    if (progress.shown)
        fputs("\r\033[K", stderr);
    return rc;
}

static int result_print(const struct perplexity_args *args, const struct scorer *scorer,
                        size_t id_count, uint64_t window_count, uint64_t ns)
{
    double nats = scorer->nats / (double)scorer->scored;
    char tokens[32], scored[32], windows[32], time[32];

    if (args->json) {
        return tool_json_print(
            json_pack("{s:f, s:f, s:I, s:I, s:I, s:I, s:f}", "perplexity", exp(nats),
                      "nats_per_token", nats, "tokens", (json_int_t)id_count, "tokens_scored",
                      (json_int_t)scorer->scored, "windows", (json_int_t)window_count, "ctx",
                      (json_int_t)args->engine.ctx, "seconds", (double)ns / 1e9));
    }
    printf("perplexity %.4f (%.5f nats per token)\n", exp(nats), nats);
    printf("%s tokens, %s windows of %u, %s scored, in %s (%.1f tokens/s)\n",
           tool_count_text(id_count, tokens), tool_count_text(window_count, windows),
           args->engine.ctx, tool_count_text(scorer->scored, scored), tool_time_text(ns, time),
           tool_rate(scorer->scored, ns));
    return 0;
}

static int text_ids(const struct perplexity_args *args, const struct ps_model *model, int32_t **ids,
                    size_t *id_count, struct ps_error *err)
{
    char *text = NULL;
    size_t text_bytes;
    int rc = tool_text_read(args->file, &text, &text_bytes, err);

    if (rc == 0)
        rc = tool_tokenize(model, text, text_bytes, ids, id_count, err);
    free(text);
    if (rc == 0 && *id_count < args->engine.ctx) {
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, args->file,
                          "the text has %zu tokens, fewer than one window of %u: give a longer "
                          "text or a smaller --ctx",
                          *id_count, args->engine.ctx);
    }
    return rc;
}

static int perplexity(struct perplexity_args *args, struct ps_model *model, struct ps_error *err)
{
    struct scorer scorer = {0};
    struct ps_session *session = NULL;
    struct ps_engine *engine = NULL;
    struct ps_model_info info;
    int32_t *ids = NULL;
    size_t id_count = 0;
    uint64_t begin_ns = 0, window_count = 0;

    ps_model_info(model, &info);
    scorer.vocab_rows = info.vocab_rows;
    int rc = text_ids(args, model, &ids, &id_count, err);
    if (rc == 0)
        rc = tool_engine_open(&engine, &session, model, &args->engine, err);
    if (rc == 0) {
        window_count = id_count / args->engine.ctx;
        begin_ns = ps_now_ns();
        rc = windows_score(session, ids, window_count, args->engine.ctx, &scorer, err);
    }
    if (rc >= 0)
        rc = result_print(args, &scorer, id_count, window_count, ps_now_ns() - begin_ns);
    ps_session_close(&session);
    ps_engine_close(&engine);
    free(ids);
    return rc;
}

int cmd_perplexity(int argc, char **argv)
{
    struct perplexity_args args = {0};
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
