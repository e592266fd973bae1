/*
 * Writes small checkpoints for tests: GGUF and safetensors from one list of tensors, and tiny
 * models of all architectures whose values any test can compute again. Failures fail the cmocka
 * test.
 */
#ifndef PENSTOCK_TESTS_SOURCE_WRITER_H
#define PENSTOCK_TESTS_SOURCE_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WRITER_TENSOR_COUNT_MAX 512

struct writer_tensor {
    char name[96];
    uint32_t type; /* enum ps_type */
    uint32_t dim_count;
    uint64_t dims[4]; /* outermost first */
    uint8_t *data;
    size_t bytes;
};

struct writer_bytes {
    uint8_t *data;
    size_t bytes, capacity;
};

struct source_writer {
    struct writer_tensor tensors[WRITER_TENSOR_COUNT_MAX];
    uint32_t tensor_count;
    struct writer_bytes values; /* GGUF key-value pairs */
    uint64_t value_count;
};

void writer_init(struct source_writer *w);
void writer_fini(struct source_writer *w);

void writer_put(struct writer_bytes *b, const void *data, size_t bytes);
void writer_put_u32(struct writer_bytes *b, uint32_t v);
void writer_put_u64(struct writer_bytes *b, uint64_t v);
void writer_put_text(struct writer_bytes *b, const char *text); /* length and bytes, as in GGUF */

/* Adds a tensor encoded from floats; rows are the last dimension. */
struct writer_tensor *writer_add(struct source_writer *w, const char *name, uint32_t type,
                                 const float *values, uint32_t dim_count, const uint64_t *dims);
struct writer_tensor *writer_find(struct source_writer *w, const char *name);
void writer_remove(struct source_writer *w, const char *name);

void writer_key_u32(struct source_writer *w, const char *key, uint32_t v);
void writer_key_u16(struct source_writer *w, const char *key, uint16_t v);
void writer_key_f32(struct source_writer *w, const char *key, float v);
void writer_key_text(struct source_writer *w, const char *key, const char *text);
void writer_key_texts(struct source_writer *w, const char *key, const char *const *texts,
                      uint64_t count);
void writer_key_i32s(struct source_writer *w, const char *key, const int32_t *v, uint64_t count);

/* The file's bytes; the caller frees .data. Tensors [first, end). */
struct writer_bytes writer_gguf(const struct source_writer *w, uint32_t first, uint32_t end);
struct writer_bytes writer_safetensors(const struct source_writer *w, uint32_t first, uint32_t end);

/* ---- tiny models ------------------------------------------------------------ */

enum tiny_kind { TINY_PLAIN, TINY_NEXT, TINY_OLMOE, TINY_MIXTRAL };

struct tiny_model {
    bool qwen3_5; /* delta layers and a shared expert, else neither */
    enum tiny_kind
        kind;      /* PLAIN: qwen3_5_moe or qwen3_moe; NEXT goes with qwen3_5, others do not */
    float clip;    /* OLMOE: clip_qkv */
    bool old_form; /* GGUF: ssm_in of older Qwen3-Next, experts one by one of older Mixtral */
    uint32_t layers, hidden, heads, kv_heads, head_dim;
    uint32_t k_heads, v_heads, k_dim, v_dim, taps;
    uint32_t context;                                    /* GGUF: positions; 0 = 512 */
    uint32_t experts, used, width, shared, vocab, dense; /* dense: width of dense layers, or 0 */
    uint32_t type;                                       /* of matrices in the source */
    uint32_t expert_type;                                /* of experts in the source */
    bool merged;     /* safetensors: experts stacked; GGUF: gate and up fused */
    bool multimodal; /* safetensors: the prefix of multimodal releases, and a vision tensor */
    bool tied;
    bool prediction; /* with the tensors of a prediction head */
    bool yarn;       /* rope scaled by YaRN: 4 times 256 positions; heads of 16 values only */
    bool implicit_head_dim; /* left to hidden / heads: no head_dim, no key_length */
};

/* Small sizes, all fields filled. */
struct tiny_model tiny_default(bool qwen3_5);

/* Value i of the canonical tensor `name` ("blk.0.attn_q.weight"; experts: "blk.0.gate.3"), exactly
 * representable in BF16 and F16: what a volume of the model must hold, before any quantisation. */
float tiny_value(const char *name, uint64_t i);

void tiny_gguf(const struct tiny_model *m, struct source_writer *w);
void tiny_safetensors(const struct tiny_model *m, struct source_writer *w);
/* config.json of the model; the caller frees. */
char *tiny_config(const struct tiny_model *m);

/* Write the model into dir: returns the path to lay out (static buffer). */
const char *tiny_write_gguf(const struct tiny_model *m, const char *dir);
const char *tiny_write_safetensors(const struct tiny_model *m, const char *dir);

#endif
