/* What a layer is made of, as several architectures tell it (spec A.2, A.10, B.1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/arch.h"
#include "model/gguf.h"

/* ---- feed-forward blocks ------------------------------------------------------------ */

static bool has_dense_layer(const struct ps_config *config)
{
    for (uint32_t i = 0; i < config->layer_count; i++)
        if (config->layers[i].ffn == PS_FFN_DENSE)
            return true;
    return false;
}

/* Layers named in mlp_only_layers, or off the step, are dense. */
int ps_hf_dense_layers(const struct ps_checkpoint *c, struct ps_config *config,
                       struct ps_error *err)
{
    const json_t *only = json_object_get(c->text, "mlp_only_layers");
    uint32_t step;
    int rc = ps_hf_u32(c, "decoder_sparse_step", 1, &step, err);

    if (rc < 0)
        return rc;
    if (step == 0)
        return ps_error_set(err, -PS_ERR_FORMAT, "config.json",
                            "\"decoder_sparse_step\" in config.json is 0");
    if (only && !json_is_null(only) && !json_is_array(only))
        return ps_error_set(err, -PS_ERR_FORMAT, "config.json",
                            "\"mlp_only_layers\" in config.json is not a list");
    for (uint32_t i = 0; i < config->layer_count; i++) {
        bool moe = config->expert_count > 0 && (i + 1) % step == 0;

        for (size_t k = 0; k < json_array_size(only); k++)
            if (json_integer_value(json_array_get(only, k)) == (json_int_t)i)
                moe = false;
        config->layers[i].ffn = moe ? PS_FFN_MOE : PS_FFN_DENSE;
    }
    if (!has_dense_layer(config))
        return 0;
    return ps_hf_u32(c, "intermediate_size", -1, &config->dense_width, err);
}

/* No key lists the dense layers: they are those with a dense gate. */
int ps_gguf_dense_layers(const struct ps_checkpoint *c, struct ps_config *config,
                         struct ps_error *err)
{
    for (uint32_t i = 0; i < config->layer_count; i++)
        config->layers[i].ffn =
            ps_checkpoint_has(c, i, "ffn_gate.weight") ? PS_FFN_DENSE : PS_FFN_MOE;
    if (!has_dense_layer(config))
        return 0;
    return ps_gguf_arch_u32(c, "feed_forward_length", -1, &config->dense_width, err);
}

/* ---- mixers ------------------------------------------------------------ */

int ps_hf_layer_types(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    const json_t *types = json_object_get(c->text, "layer_types");

    if (!types || json_is_null(types))
        return 0;
    if (!json_is_array(types) || json_array_size(types) != config->layer_count)
        return ps_error_set(err, -PS_ERR_FORMAT, "config.json",
                            "\"layer_types\" in config.json does not name %u layers",
                            config->layer_count);
    for (uint32_t i = 0; i < config->layer_count; i++) {
        const char *type = json_string_value(json_array_get(types, i));

        if (type && !strcmp(type, "full_attention"))
            config->layers[i].mixer = PS_MIXER_ATTENTION;
        else if (type && !strcmp(type, "linear_attention") && config->delta_k_heads)
            config->layers[i].mixer = PS_MIXER_DELTA;
        else
            return ps_error_set(err, -PS_ERR_UNSUPPORTED, "config.json",
                                "layer %u is of type \"%.32s\", which this family does not have, "
                                "or not here",
                                i, type ? type : "");
    }
    return 0;
}

static int set_mixers(struct ps_config *config, uint32_t interval, struct ps_error *err)
{
    if (interval == 0)
        return ps_error_set(err, -PS_ERR_FORMAT, "full_attention_interval",
                            "the interval of full attention layers is 0");
    for (uint32_t i = 0; i < config->layer_count; i++)
        config->layers[i].mixer = (i + 1) % interval == 0 ? PS_MIXER_ATTENTION : PS_MIXER_DELTA;
    return 0;
}

/* The shared expert's width is that of its tensors; the field is in doubt in some releases. */
static int read_shared_width(const struct ps_checkpoint *c, struct ps_config *config,
                             struct ps_error *err)
{
    bool gguf = c->source->kind == PS_SOURCE_GGUF;
    const struct ps_source_tensor *t;
    char name[256];
    uint32_t i = 0;

    while (i + 1 < config->layer_count && config->layers[i].ffn != PS_FFN_MOE)
        i++;
    if (gguf)
        snprintf(name, sizeof(name), "blk.%u.ffn_gate_shexp.weight", i);
    else
        snprintf(name, sizeof(name), "%slayers.%u.mlp.shared_expert.gate_proj.weight", c->prefix,
                 i);
    t = ps_source_find(c->source, name);
    if (!t)
        return ps_error_set(err, -PS_ERR_FORMAT, name, "the tensor %s is missing from the source",
                            name);
    if (t->dim_count != 2 || t->dims[0] > UINT32_MAX)
        return ps_error_set(err, -PS_ERR_FORMAT, name, "the tensor %s is not a matrix", name);
    config->shared_width = (uint32_t)t->dims[0];
    return 0;
}

static void set_fixed(struct ps_config *config)
{
    config->attn_gate = true;
    config->qk_norm = true;
    config->shared_gate = config->shared_width > 0;
}

int ps_hf_delta(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    uint32_t interval;
    int rc;

    if ((rc = ps_hf_u32(c, "full_attention_interval", 4, &interval, err)) < 0 ||
        (rc = set_mixers(config, interval, err)) < 0 ||
        (rc = ps_hf_u32(c, "linear_num_key_heads", -1, &config->delta_k_heads, err)) < 0 ||
        (rc = ps_hf_u32(c, "linear_num_value_heads", -1, &config->delta_v_heads, err)) < 0 ||
        (rc = ps_hf_u32(c, "linear_key_head_dim", -1, &config->delta_k_dim, err)) < 0 ||
        (rc = ps_hf_u32(c, "linear_value_head_dim", -1, &config->delta_v_dim, err)) < 0 ||
        (rc = ps_hf_u32(c, "linear_conv_kernel_dim", 4, &config->conv_taps, err)) < 0 ||
        (rc = read_shared_width(c, config, err)) < 0)
        return rc;
    set_fixed(config);
    return ps_hf_layer_types(c, config, err);
}

/* An array of booleans, true for delta layers, overrides the interval; it may cover the predicting
 * layers, too. */
static int read_recurrent(const struct ps_checkpoint *c, struct ps_config *config,
                          struct ps_error *err)
{
    int32_t *flags = NULL;
    uint64_t count = 0;
    char key[128];
    int rc;

    snprintf(key, sizeof(key), "%s.attention.recurrent_layers", c->arch->gguf_name);
    rc = ps_gguf_integers(c->source, key, &flags, &count, err);
    if (rc > 0 && count < config->layer_count)
        rc = ps_error_set(err, -PS_ERR_FORMAT, key, "%s does not name %u layers", key,
                          config->layer_count);
    for (uint32_t i = 0; rc > 0 && i < config->layer_count; i++)
        config->layers[i].mixer = flags[i] ? PS_MIXER_DELTA : PS_MIXER_ATTENTION;
    free(flags);
    return rc < 0 ? rc : 0;
}

int ps_gguf_delta(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    uint32_t interval, inner;
    int rc;

    if ((rc = ps_gguf_arch_u32(c, "full_attention_interval", 4, &interval, err)) < 0 ||
        (rc = set_mixers(config, interval, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "ssm.group_count", -1, &config->delta_k_heads, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "ssm.time_step_rank", -1, &config->delta_v_heads, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "ssm.state_size", -1, &config->delta_k_dim, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "ssm.inner_size", -1, &inner, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "ssm.conv_kernel", 4, &config->conv_taps, err)) < 0 ||
        (rc = read_shared_width(c, config, err)) < 0)
        return rc;
    if (config->delta_v_heads == 0 || inner % config->delta_v_heads)
        return ps_error_set(err, -PS_ERR_FORMAT, c->source->name,
                            "%s.ssm.inner_size is no multiple of ssm.time_step_rank",
                            c->arch->gguf_name);
    config->delta_v_dim = inner / config->delta_v_heads;
    set_fixed(config);
    return read_recurrent(c, config, err);
}

/* ---- the layer that predicts ------------------------------------------------------------ */

/*
 * One layer that shares embedding and head with the model is what all releases have; there its
 * tensors are kept. Whatever else there may be is left out and named, as the engine would not know
 * how to run it.
 */
void ps_find_prediction(const struct ps_checkpoint *c, struct ps_config *config)
{
    const struct ps_source *s = c->source;
    bool found;

    if (s->kind == PS_SOURCE_GGUF) {
        uint32_t n = config->layer_count;

        found = ps_checkpoint_has(c, n, "nextn.eh_proj.weight") &&
                !ps_checkpoint_has(c, n, "nextn.embed_tokens.weight") &&
                !ps_checkpoint_has(c, n, "nextn.shared_head_head.weight") &&
                !ps_checkpoint_has(c, n + 1, "nextn.eh_proj.weight");
    } else {
        found = ps_source_find(s, "mtp.fc.weight") &&
                !ps_source_find(s, "mtp.embed_tokens.weight") &&
                !ps_source_find(s, "mtp.lm_head.weight") &&
                !ps_source_find(s, "mtp.layers.1.input_layernorm.weight");
    }
    if (!found || config->layer_count >= PS_LAYER_COUNT_MAX)
        return;
    config->prediction_count = 1;
    config->layers[config->layer_count] = (struct ps_config_layer){.mixer = PS_MIXER_ATTENTION};
}
