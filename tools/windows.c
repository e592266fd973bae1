#include "tools/windows.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "core/util.h"
#include "tools/tool.h"

#define WINDOW_DEFAULT 256u

void tool_windows_check(struct argp_state *state, struct ps_engine_options *options)
{
    if (options->ctx == 0)
        options->ctx = WINDOW_DEFAULT;
    if (options->ctx < 2)
        argp_error(state, "--ctx: a window of one token has nothing to score");
}

int tool_windows_open(struct tool_windows *windows, const struct ps_model *model, const char *file,
                      uint32_t window, uint64_t tokens_max, struct ps_error *err)
{
    struct tool_windows w = {.window = window};
    char *text = NULL;
    size_t text_bytes;
    int rc = tool_text_read(file, &text, &text_bytes, err);

    if (rc == 0)
        rc = tool_tokenize(model, text, text_bytes, &w.ids, &w.id_count, err);
    free(text);
    if (rc < 0)
        return rc;
    if (tokens_max > 0)
        w.id_count = (size_t)ps_min_u64(w.id_count, tokens_max);
    if (w.id_count < window) {
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, file,
                          "the text has %zu tokens, fewer than one window of %u: give a longer "
                          "text or a smaller --ctx",
                          w.id_count, window);
        free(w.ids);
        return rc;
    }
    w.window_count = w.id_count / window;
    w.scored_count = w.window_count * (window - 1);
    *windows = w;
    return 0;
}

void tool_windows_close(struct tool_windows *windows)
{
    free(windows->ids);
    windows->ids = NULL;
}

struct window_eval {
    const int32_t *window;
    tool_predicted_fn *predicted;
    void *ctx;
    struct ps_error *err;
    int rc;
};

/* The logits at position i predict token i + 1. */
static void row_take(void *ctx, uint32_t position, const float *logits)
{
    struct window_eval *eval = ctx;

    if (eval->rc >= 0)
        eval->rc = eval->predicted(eval->ctx, eval->window[position + 1], logits, eval->err);
}

int tool_windows_eval(const struct tool_windows *windows, struct ps_session *session,
                      tool_predicted_fn *predicted, void *ctx, const char *progress_verb,
                      struct ps_error *err)
{
    struct window_eval eval = {.predicted = predicted, .ctx = ctx, .err = err};
    struct tool_progress progress;
    int rc = 0;

    tool_progress_init(&progress, progress_verb);
    for (uint64_t i = 0; rc >= 0 && i < windows->window_count; i++) {
        eval.window = windows->ids + i * windows->window;
        ps_session_reset(session);
        /* The last token's own logits would predict a token of the next window. */
        rc = ps_session_eval(session, eval.window, windows->window - 1, row_take, &eval, err);
        rc = rc >= 0 ? eval.rc : rc;
        tool_progress_text(&progress, "%s: %llu of %llu windows", progress_verb,
                           (unsigned long long)i + 1, (unsigned long long)windows->window_count);
    }
    tool_progress_end(&progress);
    return rc;
}

double tool_log_sum_exp(const float *logits, uint32_t count)
{
    double max = logits[0];

    for (uint32_t i = 1; i < count; i++)
        max = logits[i] > max ? logits[i] : max;
    double sum = exp((double)logits[0] - max);
    for (uint32_t i = 1; i < count; i++)
        sum += exp((double)logits[i] - max);
    return log(sum) + max;
}
