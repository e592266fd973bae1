/* Qwen3 MoE (spec A.10): plain attention with normalised heads in every layer, no shared expert. */
#include <stdio.h>
#include <string.h>

#include "model/arch.h"

/* Layers named here, or off the step, are dense (spec A.10). */
static int read_dense_layers(const struct ps_checkpoint *c, struct ps_config *config,
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
        config->layers[i].mixer = PS_MIXER_ATTENTION;
        config->layers[i].ffn = moe ? PS_FFN_MOE : PS_FFN_DENSE;
    }
    return 0;
}

static bool has_dense_layer(const struct ps_config *config)
{
    for (uint32_t i = 0; i < config->layer_count; i++)
        if (config->layers[i].ffn == PS_FFN_DENSE)
            return true;
    return false;
}

static int check_layer_types(const struct ps_checkpoint *c, struct ps_error *err)
{
    const json_t *types = json_object_get(c->text, "layer_types");

    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));

        if (!type || strcmp(type, "full_attention"))
            return ps_error_set(err, -PS_ERR_UNSUPPORTED, "config.json",
                                "layer %zu is of type \"%.32s\", which is not supported", i,
                                type ? type : "");
    }
    return 0;
}

static int config_hf(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    int rc;

    if ((rc = ps_hf_common(c, config, 1.0, err)) < 0 || (rc = check_layer_types(c, err)) < 0 ||
        (rc = ps_hf_bool(c, "norm_topk_prob", false, &config->renormalise, err)) < 0 ||
        (rc = read_dense_layers(c, config, err)) < 0)
        return rc;
    config->qk_norm = true;
    if (!has_dense_layer(config))
        return 0;
    return ps_hf_u32(c, "intermediate_size", -1, &config->dense_width, err);
}

static int config_gguf(const struct ps_checkpoint *c, struct ps_config *config,
                       struct ps_error *err)
{
    int rc = ps_gguf_common(c, config, err);

    if (rc < 0)
        return rc;
    config->qk_norm = true;
    config->renormalise = true; /* fixed for this name; no key says so (spec B.1) */
    for (uint32_t i = 0; i < config->layer_count; i++) {
        config->layers[i].mixer = PS_MIXER_ATTENTION;
        /* No key lists the dense layers: they are those with a dense gate. */
        config->layers[i].ffn =
            ps_checkpoint_has(c, i, "ffn_gate.weight") ? PS_FFN_DENSE : PS_FFN_MOE;
    }
    if (!has_dense_layer(config))
        return 0;
    return ps_gguf_arch_u32(c, "feed_forward_length", -1, &config->dense_width, err);
}

static const char *const hf_names[] = {"Qwen3MoeForCausalLM", "qwen3_moe", NULL};
static const char *const skip_prefixes[] = {NULL};

const struct ps_arch ps_arch_qwen3_moe = {
    .id = "qwen3_moe",
    .hf_names = hf_names,
    .gguf_name = "qwen3moe",
    .config_hf = config_hf,
    .config_gguf = config_gguf,
    .hf_roles =
        {
            [PS_ROLE_EMBED] = {"embed_tokens.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_OUT_NORM] = {"norm.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_HEAD] = {"lm_head.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_NORM] = {"input_layernorm.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_FFN_NORM] = {"post_attention_layernorm.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_Q] = {"self_attn.q_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_K] = {"self_attn.k_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_V] = {"self_attn.v_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_OUT] = {"self_attn.o_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_Q_NORM] = {"self_attn.q_norm.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_K_NORM] = {"self_attn.k_norm.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ROUTER] = {"mlp.gate.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DENSE_GATE] = {"mlp.gate_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DENSE_UP] = {"mlp.up_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DENSE_DOWN] = {"mlp.down_proj.weight", PS_TRANSFORM_NONE},
        },
    .hf_merged_gate_up = "mlp.experts.gate_up_proj",
    .hf_merged_down = "mlp.experts.down_proj",
    .hf_expert_prefix = "mlp.experts.",
    .hf_expert_suffix = {".gate_proj.weight", ".up_proj.weight", ".down_proj.weight"},
    .skip_prefixes = skip_prefixes,
};
