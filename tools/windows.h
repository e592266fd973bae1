/* A text in windows of tokens, and the logits that a model gives in them: perplexity, quality. */
#ifndef PENSTOCK_TOOLS_WINDOWS_H
#define PENSTOCK_TOOLS_WINDOWS_H

#include <argp.h>

#include "model/penstock.h"

/* Windows of `window` tokens without overlap; an incomplete last one is left out. */
struct tool_windows {
    int32_t *ids; /* [id_count], owned */
    size_t id_count;
    uint32_t window;
    uint64_t window_count;
    uint64_t scored_count; /* tokens that a window predicts: all but its first */
};

/* Sets the default of --ctx, which is the window, or ends with wrong usage when it is too small. */
void tool_windows_check(struct argp_state *state, struct ps_engine_options *options);

/*
 * Reads the text file ("-": standard input), of whose tokens at most `tokens_max` are used (0:
 * all). A text shorter than one window is an error. Release with tool_windows_close.
 */
int tool_windows_open(struct tool_windows *windows, const struct ps_model *model, const char *file,
                      uint32_t window, uint64_t tokens_max, struct ps_error *err);
void tool_windows_close(struct tool_windows *windows);

/*
 * Is called once for every token that is predicted, in order: `next` is that token, logits the
 * [V] floats that predict it. Returns < 0 to stop, with *err filled.
 */
typedef int tool_predicted_fn(void *ctx, int32_t next, const float *logits, struct ps_error *err);

/* Runs each window from an empty state, with a line of progress on a terminal. Blocks. */
int tool_windows_eval(const struct tool_windows *windows, struct ps_session *session,
                      tool_predicted_fn *predicted, void *ctx, const char *progress_verb,
                      struct ps_error *err);

/* ln(sum(exp(logits[i]))), [V] floats, added up in double: V may be 248,320. */
double tool_log_sum_exp(const float *logits, uint32_t count);

#endif
