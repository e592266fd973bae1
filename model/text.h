/* Joins the bytes of tokens to whole characters, for output that arrives token by token. */
#ifndef PENSTOCK_MODEL_TEXT_H
#define PENSTOCK_MODEL_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Zero-initialise. Plain data. */
struct ps_utf8_joiner {
    uint8_t hold[4]; /* the beginning of a character whose end has not come yet */
    int n;           /* bytes in hold, 0 to 3 */
};

/* Most bytes that ps_utf8_join and ps_utf8_join_flush put out for n bytes of input. */
#define PS_UTF8_JOIN_BYTES(n) (3 * ((size_t)(n) + 3))

/*
 * Takes n bytes and writes the characters that are complete with them to out; an ill-formed
 * sequence comes out as U+FFFD as soon as it is seen to be one, so that what comes out is always
 * valid UTF-8. Returns the number of bytes written; cap must be at least PS_UTF8_JOIN_BYTES(n).
 */
size_t ps_utf8_join(struct ps_utf8_joiner *joiner, const uint8_t *bytes, size_t n, char *out,
                    size_t cap);

/* At the end of the text: U+FFFD for a character that was begun (0 or 3 bytes; cap at least 3). */
size_t ps_utf8_join_flush(struct ps_utf8_joiner *joiner, char *out, size_t cap);

#endif
