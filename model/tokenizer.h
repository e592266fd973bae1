/*
 * Byte-level BPE (spec C.1): NFC, added tokens split out, pre-tokenizer regex (PCRE2), merges by
 * rank. And BPE over characters with bytes for unknown ones (Llama 2, Mixtral): added tokens split
 * out, a blank before the text, merges by rank or by the tokens' scores, a BOS token in front.
 * Built from tokenizer.json or GGUF metadata at layout, kept in the volume as the blob
 * "tokenizer" in a compact form that is read in place at open.
 */
#ifndef PENSTOCK_MODEL_TOKENIZER_H
#define PENSTOCK_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

/* Builders give the blob: malloc'd, owned by the caller. */

/* From the text of a Hugging Face tokenizer.json. -PS_ERR_FORMAT, -PS_ERR_UNSUPPORTED (names what).
 */
int ps_tokenizer_build_json(const char *json, size_t json_bytes, void **blob, size_t *blob_bytes,
                            struct ps_error *err);

struct ps_gguf_string {
    const char *data; /* not 0-terminated */
    uint64_t bytes;
};

struct ps_tokenizer_gguf {
    struct ps_gguf_string model;         /* tokenizer.ggml.model: "gpt2" or "llama" */
    struct ps_gguf_string pre;           /* tokenizer.ggml.pre with "gpt2": "qwen35", ... */
    const struct ps_gguf_string *tokens; /* as they are spelled there */
    uint64_t token_count;
    const int32_t *types;                /* token_count values, or NULL */
    const struct ps_gguf_string *merges; /* "left right" */
    uint64_t merge_count;
    /* With "llama": */
    const float *scores; /* token_count values */
    bool add_bos, add_space_prefix;
    uint32_t bos;
};
int ps_tokenizer_build_gguf(const struct ps_tokenizer_gguf *source, void **blob, size_t *blob_bytes,
                            struct ps_error *err);

struct ps_tokenizer;

/* Opens a blob (which must outlive the tokenizer). Checks everything: a hostile blob is an error.
 */
int ps_tokenizer_open(struct ps_tokenizer **out, const void *blob, size_t blob_bytes,
                      struct ps_error *err);
void ps_tokenizer_close(struct ps_tokenizer **tokenizer);
uint64_t ps_tokenizer_memory_bytes(const struct ps_tokenizer *tokenizer); /* besides the blob */
uint32_t ps_tokenizer_vocab_count(const struct ps_tokenizer *tokenizer);

/* As ps_model_tokenize / ps_model_detokenize. _decode goes on with a text: its first token keeps
 * the blank that the vocabularies with a blank before the text have there; _decode_text begins one.
 */
int64_t ps_tokenizer_encode(const struct ps_tokenizer *tokenizer, const char *text,
                            size_t text_bytes, int32_t *ids, size_t capacity, struct ps_error *err);
/* As ps_model_tokenize_more. */
int64_t ps_tokenizer_encode_more(const struct ps_tokenizer *tokenizer, const char *text,
                                 size_t text_bytes, int32_t *ids, size_t capacity,
                                 struct ps_error *err);
int64_t ps_tokenizer_decode(const struct ps_tokenizer *tokenizer, const int32_t *ids,
                            size_t id_count, bool skip_special, char *text, size_t capacity,
                            struct ps_error *err);
int64_t ps_tokenizer_decode_text(const struct ps_tokenizer *tokenizer, const int32_t *ids,
                                 size_t id_count, bool skip_special, char *text, size_t capacity,
                                 struct ps_error *err);
/* The id whose content is exactly this text (special tokens), or -1. */
int32_t ps_tokenizer_find(const struct ps_tokenizer *tokenizer, const char *text);

/* The pre-tokenizer alone, for its tests: the ends of the pieces of `text` under a named regex
 * ("qwen35", "qwen2"). Returns the number of pieces, or an error. */
int64_t ps_pretokenize(const char *regex_name, const char *text, size_t text_bytes, size_t *ends,
                       size_t capacity, struct ps_error *err);

#endif
