/* Cuts text into pieces by the regexes of a tokenizer (spec C.1 step 2), with PCRE2. */
#ifndef PENSTOCK_MODEL_PRETOKENIZER_H
#define PENSTOCK_MODEL_PRETOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

#define PS_SPLIT_COUNT_MAX 8
#define PS_SPLIT_PATTERN_BYTES_MAX 65535u

struct ps_text_span {
    const char *data; /* not 0-terminated */
    size_t bytes;
};

/* The pattern of a named pre-tokenizer ("qwen35", "qwen2", "dbrx", "gpt2"), or NULL. */
const char *ps_split_pattern(const char *name);

struct ps_splitter;

/*
 * Compiles `count` patterns, each of which splits the pieces that the one before left: matches and
 * what lies between them become pieces. Patterns are in the dialect that Hugging Face's tokenizers
 * read (Oniguruma); where PCRE2 would read one otherwise it is refused.
 * Errors: -PS_ERR_FORMAT (not a regex), -PS_ERR_UNSUPPORTED (names the construct), -ENOMEM.
 */
int ps_splitter_open(struct ps_splitter **out, const struct ps_text_span *patterns, uint32_t count,
                     struct ps_error *err);
void ps_splitter_close(struct ps_splitter **splitter);
uint64_t ps_splitter_memory_bytes(const struct ps_splitter *splitter);

/* One piece, never empty. Return < 0 to stop with that value. */
typedef int ps_piece_fn(void *ctx, const char *piece, size_t bytes);

/*
 * Hands the pieces of text (valid UTF-8) to fn in order. Thread-safe on one splitter. Errors: what
 * fn returned, -ENOMEM, -PS_ERR_UNSUPPORTED (a pattern that needs more steps than its limit).
 */
int ps_splitter_run(const struct ps_splitter *splitter, struct ps_text_span text, ps_piece_fn *fn,
                    void *ctx, struct ps_error *err);

#endif
