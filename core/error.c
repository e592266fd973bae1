#include "core/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int ps_error_set(struct ps_error *err, int code, const char *where, const char *fmt, ...)
{
    if (!err)
        return code;

    /* Callers may pass err->where or err->text back in, to wrap a sentence: format beside first. */
    struct ps_error next = {.code = code};
    va_list args;
    va_start(args, fmt);
    vsnprintf(next.text, sizeof(next.text), fmt, args);
    va_end(args);
    snprintf(next.where, sizeof(next.where), "%s", where ? where : "");
    *err = next;
    return code;
}

static const char *own_text(int code)
{
    switch ((enum ps_err)code) {
    case PS_ERR_FORMAT:
        return "the input is malformed";
    case PS_ERR_TRUNCATED:
        return "the input is cut short";
    case PS_ERR_UNSUPPORTED:
        return "not supported";
    case PS_ERR_CHECKSUM:
        return "the checksum does not match";
    case PS_ERR_INCOMPLETE:
        return "the layout was not finished";
    case PS_ERR_MEMBER:
        return "a member of the volume is missing, repeated or foreign";
    case PS_ERR_MEMORY_FLOOR:
        return "the memory ceiling is too low";
    case PS_ERR_IN_USE:
        return "in use by somebody else";
    case PS_ERR_WOULD_DESTROY:
        return "existing data would be destroyed";
    case PS_ERR_SOURCE_CHANGED:
        return "the source has changed";
    case PS_ERR_NO_TOKENIZER:
        return "the model has no tokenizer";
    case PS_ERR_SHORT_READ:
        return "a read ended early";
    case PS_ERR_CONTEXT_FULL:
        return "the context is full";
    case PS_ERR_ARGUMENT:
        return "an argument is out of range";
    }
    return NULL;
}

const char *ps_strerror(int code)
{
    if (code >= 0)
        return "success";
    const char *text = code <= -PS_ERR_FORMAT ? own_text(-code) : strerrordesc_np(-code);
    return text ? text : "unknown error";
}
