#include "core/log.h"

#include <stdarg.h>
#include <stdio.h>

/* Set before threads start, by contract, so that plain loads are enough here. */
static ps_log_fn *log_fn;
static void *log_ctx;

void ps_log_set(ps_log_fn *fn, void *ctx)
{
    log_fn = fn;
    log_ctx = ctx;
}

void ps_log(enum ps_log_level level, const char *fmt, ...)
{
    if (!log_fn)
        return;

    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    log_fn(log_ctx, level, text);
}
