/*
 * Qwen3.5 MoE (spec A, B.2): three layers of the gated delta rule to one of gated attention,
 * experts with a shared one in every layer. Qwen3.6 MoE releases are the same classes.
 */
#include <stdlib.h>
#include <string.h>

#include "model/arch.h"
#include "model/gguf.h"

static int check_pattern_interval(uint32_t interval, struct ps_error *err)
{
    if (interval == 0)
        return ps_error_set(err, -PS_ERR_FORMAT, "full_attention_interval",
                            "the interval of full attention layers is 0");
    return 0;
}

static void set_layers(struct ps_config *config, uint32_t interval)
{
    for (uint32_t i = 0; i < config->layer_count; i++)
        config->layers[i] = (struct ps_config_layer){
            .mixer = (i + 1) % interval == 0 ? PS_MIXER_ATTENTION : PS_MIXER_DELTA,
            .ffn = PS_FFN_MOE,
        };
}

static void set_fixed(struct ps_config *config)
{
    config->attn_gate = true;
    config->qk_norm = true;
    config->renormalise = true; /* always in this family, whatever norm_topk_prob says (spec A.1) */
    config->shared_gate = config->shared_width > 0;
}

/* layer_types, which overrides the interval. */
static int read_layer_types(const json_t *types, struct ps_config *config, struct ps_error *err)
{
    if (json_array_size(types) != config->layer_count)
        return ps_error_set(err, -PS_ERR_FORMAT, "config.json",
                            "\"layer_types\" in config.json does not name %u layers",
                            config->layer_count);
    for (uint32_t i = 0; i < config->layer_count; i++) {
        const char *type = json_string_value(json_array_get(types, i));

        if (type && !strcmp(type, "full_attention"))
            config->layers[i].mixer = PS_MIXER_ATTENTION;
        else if (type && !strcmp(type, "linear_attention"))
            config->layers[i].mixer = PS_MIXER_DELTA;
        else
            return ps_error_set(err, -PS_ERR_UNSUPPORTED, "config.json",
                                "layer %u is of type \"%.32s\", which this family does not have", i,
                                type ? type : "");
    }
    return 0;
}

/* The shared expert's width is that of its tensors; the field is in doubt in some releases. */
static int read_shared_width(const struct ps_checkpoint *c, struct ps_config *config,
                             const char *name, struct ps_error *err)
{
    const struct ps_source_tensor *t = ps_source_find(c->source, name);

    if (!t)
        return ps_error_set(err, -PS_ERR_FORMAT, name, "the tensor %s is missing from the source",
                            name);
    if (t->dim_count != 2 || t->dims[0] > UINT32_MAX)
        return ps_error_set(err, -PS_ERR_FORMAT, name, "the tensor %s is not a matrix", name);
    config->shared_width = (uint32_t)t->dims[0];
    return 0;
}

static int config_hf(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    const json_t *types = json_object_get(c->text, "layer_types");
    uint32_t interval;
    char name[256];
    int rc;

    if ((rc = ps_hf_common(c, config, 0.25, err)) < 0 ||
        (rc = ps_hf_u32(c, "full_attention_interval", 4, &interval, err)) < 0 ||
        (rc = check_pattern_interval(interval, err)) < 0 ||
        (rc = ps_hf_u32(c, "linear_num_key_heads", -1, &config->delta_k_heads, err)) < 0 ||
        (rc = ps_hf_u32(c, "linear_num_value_heads", -1, &config->delta_v_heads, err)) < 0 ||
        (rc = ps_hf_u32(c, "linear_key_head_dim", -1, &config->delta_k_dim, err)) < 0 ||
        (rc = ps_hf_u32(c, "linear_value_head_dim", -1, &config->delta_v_dim, err)) < 0 ||
        (rc = ps_hf_u32(c, "linear_conv_kernel_dim", 4, &config->conv_taps, err)) < 0)
        return rc;
    snprintf(name, sizeof(name), "%slayers.0.mlp.shared_expert.gate_proj.weight", c->prefix);
    if ((rc = read_shared_width(c, config, name, err)) < 0)
        return rc;
    set_layers(config, interval);
    set_fixed(config);
    return json_is_array(types) ? read_layer_types(types, config, err) : 0;
}

/* An array of booleans, true for delta layers, overrides the interval; it may cover the prediction
 * layers, too. */
static int read_recurrent(const struct ps_checkpoint *c, struct ps_config *config,
                          struct ps_error *err)
{
    static const char key[] = "qwen35moe.attention.recurrent_layers";
    int32_t *flags = NULL;
    uint64_t count = 0;
    int rc = ps_gguf_integers(c->source, key, &flags, &count, err);

    if (rc > 0 && count < config->layer_count)
        rc = ps_error_set(err, -PS_ERR_FORMAT, key, "%s does not name %u layers", key,
                          config->layer_count);
    for (uint32_t i = 0; rc > 0 && i < config->layer_count; i++)
        config->layers[i].mixer = flags[i] ? PS_MIXER_DELTA : PS_MIXER_ATTENTION;
    free(flags);
    return rc < 0 ? rc : 0;
}

static int config_gguf(const struct ps_checkpoint *c, struct ps_config *config,
                       struct ps_error *err)
{
    uint32_t interval, inner;
    int rc;

    if ((rc = ps_gguf_common(c, config, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "full_attention_interval", 4, &interval, err)) < 0 ||
        (rc = check_pattern_interval(interval, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "ssm.group_count", -1, &config->delta_k_heads, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "ssm.time_step_rank", -1, &config->delta_v_heads, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "ssm.state_size", -1, &config->delta_k_dim, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "ssm.inner_size", -1, &inner, err)) < 0 ||
        (rc = ps_gguf_arch_u32(c, "ssm.conv_kernel", 4, &config->conv_taps, err)) < 0 ||
        (rc = read_shared_width(c, config, "blk.0.ffn_gate_shexp.weight", err)) < 0)
        return rc;
    if (config->delta_v_heads == 0 || inner % config->delta_v_heads)
        return ps_error_set(err, -PS_ERR_FORMAT, "qwen35moe.ssm.inner_size",
                            "qwen35moe.ssm.inner_size is no multiple of ssm.time_step_rank");
    config->delta_v_dim = inner / config->delta_v_heads;
    /* Conversion re-orders the value heads unless there are as many as key heads (spec B.3). */
    config->delta_tiled = config->delta_k_heads != config->delta_v_heads;
    set_layers(config, interval);
    set_fixed(config);
    return read_recurrent(c, config, err);
}

static const char *const hf_names[] = {"Qwen3_5MoeForConditionalGeneration",
                                       "Qwen3_5MoeForCausalLM", "qwen3_5_moe", "qwen3_5_moe_text",
                                       NULL};
static const char *const skip_prefixes[] = {"model.visual.", "visual.", "mtp.", NULL};

const struct ps_arch ps_arch_qwen3_5_moe = {
    .id = "qwen3_5_moe",
    .hf_names = hf_names,
    .gguf_name = "qwen35moe",
    .config_hf = config_hf,
    .config_gguf = config_gguf,
    .hf_roles =
        {
            [PS_ROLE_EMBED] = {"embed_tokens.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_OUT_NORM] = {"norm.weight", PS_TRANSFORM_PLUS_ONE},
            [PS_ROLE_HEAD] = {"lm_head.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_NORM] = {"input_layernorm.weight", PS_TRANSFORM_PLUS_ONE},
            [PS_ROLE_FFN_NORM] = {"post_attention_layernorm.weight", PS_TRANSFORM_PLUS_ONE},
            [PS_ROLE_ATTN_Q] = {"self_attn.q_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_K] = {"self_attn.k_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_V] = {"self_attn.v_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_OUT] = {"self_attn.o_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ATTN_Q_NORM] = {"self_attn.q_norm.weight", PS_TRANSFORM_PLUS_ONE},
            [PS_ROLE_ATTN_K_NORM] = {"self_attn.k_norm.weight", PS_TRANSFORM_PLUS_ONE},
            [PS_ROLE_DELTA_QKV] = {"linear_attn.in_proj_qkv.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DELTA_Z] = {"linear_attn.in_proj_z.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DELTA_BETA] = {"linear_attn.in_proj_b.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DELTA_ALPHA] = {"linear_attn.in_proj_a.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DELTA_CONV] = {"linear_attn.conv1d.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DELTA_A] = {"linear_attn.A_log", PS_TRANSFORM_NEG_EXP},
            [PS_ROLE_DELTA_DT] = {"linear_attn.dt_bias", PS_TRANSFORM_NONE},
            [PS_ROLE_DELTA_NORM] = {"linear_attn.norm.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DELTA_OUT] = {"linear_attn.out_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_ROUTER] = {"mlp.gate.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_SHARED_GATE_INP] = {"mlp.shared_expert_gate.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_SHARED_GATE] = {"mlp.shared_expert.gate_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_SHARED_UP] = {"mlp.shared_expert.up_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_SHARED_DOWN] = {"mlp.shared_expert.down_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DENSE_GATE] = {"mlp.gate_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DENSE_UP] = {"mlp.up_proj.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_DENSE_DOWN] = {"mlp.down_proj.weight", PS_TRANSFORM_NONE},
        },
    .hf_merged_gate_up = "mlp.experts.gate_up_proj",
    .hf_merged_down = "mlp.experts.down_proj",
    .hf_expert_prefix = "mlp.experts.",
    .hf_expert_suffix = {".gate_proj.weight", ".up_proj.weight", ".down_proj.weight"},
    .gguf_roles = {[PS_ROLE_FFN_NORM] = {"post_attention_norm.weight", PS_TRANSFORM_NONE}},
    .skip_prefixes = skip_prefixes,
};
