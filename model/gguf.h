/*
 * Private to import: metadata of a GGUF file (spec B.1). Lookups return 1 when the key is there, 0
 * when it is not (then *out is untouched), and -PS_ERR_FORMAT when its value is of another kind.
 */
#ifndef PENSTOCK_MODEL_GGUF_H
#define PENSTOCK_MODEL_GGUF_H

#include "model/source.h"
#include "model/tokenizer.h"

enum ps_gguf_kind {
    PS_GGUF_U8,
    PS_GGUF_I8,
    PS_GGUF_U16,
    PS_GGUF_I16,
    PS_GGUF_U32,
    PS_GGUF_I32,
    PS_GGUF_F32,
    PS_GGUF_BOOL,
    PS_GGUF_STRING,
    PS_GGUF_ARRAY,
    PS_GGUF_U64,
    PS_GGUF_I64,
    PS_GGUF_F64,
    PS_GGUF_KIND_COUNT
};

/* Bytes of a value of each kind; 0 for texts and arrays, which carry a length. */
extern const uint8_t ps_gguf_kind_bytes[PS_GGUF_KIND_COUNT];

/* The order of keys, for qsort and bsearch over struct ps_gguf_value. */
int ps_gguf_by_key(const void *a, const void *b);

/* The value of a key, or NULL. Owned by the source. */
const struct ps_gguf_value *ps_gguf_find(const struct ps_source *source, const char *key);

/* Any whole number (booleans count as 0 and 1) from 0 to UINT32_MAX. */
int ps_gguf_u32(const struct ps_source *source, const char *key, uint32_t *out,
                struct ps_error *err);
/* Any number. */
int ps_gguf_number(const struct ps_source *source, const char *key, double *out,
                   struct ps_error *err);
/* A view into the header. */
int ps_gguf_text(const struct ps_source *source, const char *key, struct ps_gguf_string *out,
                 struct ps_error *err);
/* Views of an array of strings: *out is malloc'd, owned by the caller. */
int ps_gguf_texts(const struct ps_source *source, const char *key, struct ps_gguf_string **out,
                  uint64_t *count, struct ps_error *err);
/* An array of whole numbers or booleans: *out is malloc'd, owned by the caller. */
int ps_gguf_integers(const struct ps_source *source, const char *key, int32_t **out,
                     uint64_t *count, struct ps_error *err);
/* An array of 32-bit floats: *out is malloc'd, owned by the caller. */
int ps_gguf_floats(const struct ps_source *source, const char *key, float **out, uint64_t *count,
                   struct ps_error *err);

#endif
