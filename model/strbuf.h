/* A growing string with a sticky failure: callers append freely and look at `failed` once. */
#ifndef PENSTOCK_MODEL_STRBUF_H
#define PENSTOCK_MODEL_STRBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Zero-initialise. data is malloc'd, owned by the buffer, and always 0-terminated once not NULL. */
struct ps_strbuf {
    char *data;
    size_t bytes, capacity;
    bool failed; /* out of memory: later appends do nothing */
};

/* Makes room for `more` bytes and a final 0. Returns false when memory is out. */
static inline bool ps_strbuf_reserve(struct ps_strbuf *buf, size_t more)
{
    if (buf->failed)
        return false;
    if (buf->capacity - buf->bytes > more)
        return true;
    size_t capacity = buf->capacity ? buf->capacity : 64;
    while (capacity - buf->bytes <= more) {
        if (capacity > SIZE_MAX / 2) {
            buf->failed = true;
            return false;
        }
        capacity *= 2;
    }
    char *data = realloc(buf->data, capacity);
    if (!data) {
        buf->failed = true;
        return false;
    }
    buf->data = data;
    buf->capacity = capacity;
    return true;
}

static inline void ps_strbuf_add(struct ps_strbuf *buf, const char *text, size_t bytes)
{
    if (!ps_strbuf_reserve(buf, bytes))
        return;
    if (bytes)
        memcpy(buf->data + buf->bytes, text, bytes);
    buf->bytes += bytes;
    buf->data[buf->bytes] = 0;
}

static inline void ps_strbuf_puts(struct ps_strbuf *buf, const char *text)
{
    ps_strbuf_add(buf, text, strlen(text));
}

static inline void ps_strbuf_putc(struct ps_strbuf *buf, char c)
{
    ps_strbuf_add(buf, &c, 1);
}

static inline void ps_strbuf_free(struct ps_strbuf *buf)
{
    free(buf->data);
    *buf = (struct ps_strbuf){0};
}

#endif
