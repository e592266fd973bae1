/* Reading the metadata of a GGUF checkpoint (spec B.1). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/arch.h"
#include "model/gguf.h"

#define KEY_BYTES 128

static const char *full_key(const struct ps_checkpoint *c, const char *key, char buf[KEY_BYTES])
{
    snprintf(buf, KEY_BYTES, "%s.%s", c->arch->gguf_name, key);
    return buf;
}

int ps_gguf_arch_u32(const struct ps_checkpoint *c, const char *key, int64_t fallback,
                     uint32_t *out, struct ps_error *err)
{
    char buf[KEY_BYTES];
    int rc = ps_gguf_u32(c->source, full_key(c, key, buf), out, err);

    if (rc < 0)
        return rc;
    if (rc == 0 && fallback < 0)
        return ps_error_set(err, -PS_ERR_FORMAT, buf, "the GGUF file has no key %s", buf);
    if (rc == 0)
        *out = (uint32_t)fallback;
    return 0;
}

int ps_gguf_arch_number(const struct ps_checkpoint *c, const char *key, double fallback,
                        double *out, struct ps_error *err)
{
    char buf[KEY_BYTES];
    int rc = ps_gguf_number(c->source, full_key(c, key, buf), out, err);

    if (rc == 0)
        *out = fallback;
    return rc < 0 ? rc : 0;
}

int ps_gguf_arch_bool(const struct ps_checkpoint *c, const char *key, bool *out,
                      struct ps_error *err)
{
    uint32_t value;
    int rc = ps_gguf_arch_u32(c, key, *out, &value, err);

    if (rc == 0)
        *out = value != 0;
    return rc;
}

int ps_gguf_refuse_key(const struct ps_checkpoint *c, const char *key, struct ps_error *err)
{
    return ps_error_set(err, -PS_ERR_UNSUPPORTED, c->source->name,
                        "the value of the GGUF key %s.%s asks for something that is not supported",
                        c->arch->gguf_name, key);
}

/* Variants that would compute something else than what is implemented. */
static int refuse_variants(const struct ps_checkpoint *c, const struct ps_config *config,
                           struct ps_error *err)
{
    uint32_t window, gating;
    int rc;

    if ((rc = ps_gguf_arch_u32(c, "attention.sliding_window", 0, &window, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "expert_gating_func", 1, &gating, err)) < 0)
        return rc;
    if (window && window < config->context_max) /* a longer one hides nothing */
        return ps_gguf_refuse_key(c, "attention.sliding_window", err);
    if (gating != 1) /* softmax */
        return ps_gguf_refuse_key(c, "expert_gating_func", err);
    return 0;
}

static int read_numbers(const struct ps_checkpoint *c, struct ps_config *config,
                        struct ps_error *err)
{
    double eps, theta, scale;
    int rc;

    if ((rc = ps_gguf_arch_number(c, "attention.layer_norm_rms_epsilon", -1, &eps, err)) < 0 ||
        (rc = ps_gguf_arch_number(c, "rope.freq_base", 1e4, &theta, err)) < 0 ||
        (rc = ps_gguf_arch_number(c, "expert_weights_scale", 1, &scale, err)) < 0)
        return rc;
    if (eps == -1)
        return ps_error_set(err, -PS_ERR_FORMAT, c->source->name,
                            "the GGUF file has no key %s.attention.layer_norm_rms_epsilon",
                            c->arch->gguf_name);
    config->norm_eps = (float)eps;
    config->rope_theta = theta;
    config->expert_scale = scale == 0 ? 1 : (float)scale; /* some writers put 0 for "none" */
    return 0;
}

/* The name and the rows of the vocabulary, which no key states reliably. */
static int read_identity(const struct ps_checkpoint *c, struct ps_config *config,
                         struct ps_error *err)
{
    const struct ps_source_tensor *embed = ps_source_find(c->source, "token_embd.weight");
    struct ps_gguf_string name = {0};
    int rc = ps_gguf_text(c->source, "general.name", &name, err);

    if (rc < 0)
        return rc;
    if (!embed || embed->dim_count != 2 || embed->dims[0] > UINT32_MAX)
        return ps_error_set(err, -PS_ERR_FORMAT, "token_embd.weight",
                            "the tensor token_embd.weight is missing or not a matrix");
    config->vocab_rows = (uint32_t)embed->dims[0];
    if (name.bytes)
        ps_source_plain_text(config->name, sizeof(config->name), name.data, name.bytes);
    return 0;
}

int ps_gguf_common(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    uint32_t blocks, nextn, heads, value_length, plain = 0;
    int rc = read_identity(c, config, err);

    if (rc < 0 || (rc = read_numbers(c, config, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "block_count", -1, &blocks, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "nextn_predict_layers", 0, &nextn, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "context_length", -1, &config->context_max, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "embedding_length", -1, &config->hidden, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "attention.head_count", -1, &heads, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "attention.head_count_kv", heads, &config->kv_head_count, err)) <
            0 ||
        (rc = ps_gguf_arch_u32(c, "attention.key_length", heads ? config->hidden / heads : 0,
                               &config->head_dim, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "attention.value_length", config->head_dim, &value_length, err)) <
            0 ||
        (rc = ps_gguf_arch_u32(c, "rope.dimension_count", config->head_dim, &config->rope_dims,
                               err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "expert_count", -1, &config->expert_count, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "expert_used_count", -1, &config->experts_used, err)) < 0 ||
        (c->arch->plain_width &&
         (rc = ps_gguf_arch_u32(c, "feed_forward_length", -1, &plain, err)) < 0) ||
        (rc = ps_gguf_arch_u32(c, "expert_feed_forward_length", plain ? (int64_t)plain : -1,
                               &config->expert_width, err)) < 0 ||
        (rc = refuse_variants(c, config, err)) < 0 || (rc = ps_gguf_rope(c, config, err)) < 0)
        return rc;
    if (value_length != config->head_dim)
        return ps_gguf_refuse_key(c, "attention.value_length", err);
    if (blocks <= nextn || blocks - nextn > PS_LAYER_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_FORMAT, c->source->name,
                            "%s.block_count is %u, of which %u predict ahead: 1 to %d others can "
                            "be had",
                            c->arch->gguf_name, blocks, nextn, PS_LAYER_COUNT_MAX);
    config->layer_count = blocks - nextn;
    config->head_count = heads;
    return 0;
}

/* ---- generation ------------------------------------------------------------ */

static void add_end_id(struct ps_config *config, uint64_t id)
{
    if (id >= config->vocab_rows || config->end_id_count == PS_END_ID_COUNT_MAX)
        return;
    for (uint32_t i = 0; i < config->end_id_count; i++)
        if ((uint64_t)config->end_ids[i] == id)
            return;
    config->end_ids[config->end_id_count++] = (int32_t)id;
}

/* GGUF names one end token, while these families stop at two: of a turn and of a document. */
static int add_control_tokens(const struct ps_checkpoint *c, struct ps_config *config,
                              struct ps_error *err)
{
    static const char *const stops[] = {"<|im_end|>", "<|endoftext|>"};
    struct ps_gguf_string *tokens = NULL;
    uint64_t token_count = 0, type_count = 0;
    int32_t *types = NULL;
    int rc = ps_gguf_texts(c->source, "tokenizer.ggml.tokens", &tokens, &token_count, err);

    if (rc > 0)
        rc = ps_gguf_integers(c->source, "tokenizer.ggml.token_type", &types, &type_count, err);
    for (uint64_t i = 0; rc > 0 && i < ps_min_u64(token_count, type_count); i++)
        for (size_t s = 0; s < PS_ARRAY_LEN(stops); s++)
            if (types[i] == 3 && tokens[i].bytes == strlen(stops[s]) &&
                !memcmp(tokens[i].data, stops[s], tokens[i].bytes))
                add_end_id(config, i);
    free(tokens);
    free(types);
    return rc < 0 ? rc : 0;
}

int ps_gguf_generation(const struct ps_checkpoint *c, struct ps_config *config,
                       struct ps_error *err)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};

    for (size_t i = 0; i < PS_ARRAY_LEN(keys); i++) {
        uint32_t id;
        int rc = ps_gguf_u32(c->source, keys[i], &id, err);

        if (rc < 0)
            return rc;
        if (rc > 0)
            add_end_id(config, id);
    }
    return add_control_tokens(c, config, err);
}
