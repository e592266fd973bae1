/* The one way by which libraries speak: a callback that the program sets. Libraries never print. */
#ifndef PENSTOCK_CORE_LOG_H
#define PENSTOCK_CORE_LOG_H

enum ps_log_level { PS_LOG_ERROR, PS_LOG_WARN, PS_LOG_INFO, PS_LOG_DEBUG };

/* text is one sentence without a newline, valid during the call only. Called from any thread, with
 * locks of the library held: it must not call the library, and others wait while it blocks. */
typedef void ps_log_fn(void *ctx, enum ps_log_level level, const char *text);

/* Sets the process-wide callback (NULL: silence, the initial state). Call before threads start. */
void ps_log_set(ps_log_fn *fn, void *ctx);

/* Formats and hands one sentence to the callback. Thread-safe; messages over 1023 bytes are cut. */
void ps_log(enum ps_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
