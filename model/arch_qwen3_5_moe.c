/*
 * Qwen3.5 MoE (spec A, B.2): three layers of the gated delta rule to one of gated attention,
 * experts with a shared one in every layer. Qwen3.6 MoE releases are the same classes.
 */
#include "model/arch.h"

static int config_hf(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    int rc;

    if ((rc = ps_hf_common(c, config, 0.25, err)) < 0 || (rc = ps_hf_delta(c, config, err)) < 0)
        return rc;
    config->renormalise = true; /* always in this family, whatever norm_topk_prob says (spec A.1) */
    ps_find_prediction(c, config);
    return 0;
}

static int config_gguf(const struct ps_checkpoint *c, struct ps_config *config,
                       struct ps_error *err)
{
    int rc;

    if ((rc = ps_gguf_common(c, config, err)) < 0 || (rc = ps_gguf_delta(c, config, err)) < 0)
        return rc;
    config->renormalise = true;
    /* Conversion re-orders the value heads unless there are as many as key heads (spec B.3). */
    config->delta_tiled = config->delta_k_heads != config->delta_v_heads;
    ps_find_prediction(c, config);
    return 0;
}

static const char *const hf_names[] = {"Qwen3_5MoeForConditionalGeneration",
                                       "Qwen3_5MoeForCausalLM", "qwen3_5_moe", "qwen3_5_moe_text",
                                       NULL};
static const char *const skip_prefixes[] = {"model.visual.", "visual.", "mtp.", NULL};

const struct ps_arch ps_arch_qwen3_5_moe = {
    .id = "qwen3_5_moe",
    .hf_names = hf_names,
    .gguf_name = "qwen35moe",
    .theta_default = 1e4,
    .eps_default = 1e-6,
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
            [PS_ROLE_PREDICT_PROJ] = {"mtp.fc.weight", PS_TRANSFORM_NONE},
            [PS_ROLE_PREDICT_EMBED_NORM] = {"mtp.pre_fc_norm_embedding.weight",
                                            PS_TRANSFORM_PLUS_ONE},
            [PS_ROLE_PREDICT_HIDDEN_NORM] = {"mtp.pre_fc_norm_hidden.weight",
                                             PS_TRANSFORM_PLUS_ONE},
            [PS_ROLE_PREDICT_OUT_NORM] = {"mtp.norm.weight", PS_TRANSFORM_PLUS_ONE},
        },
    .hf_merged_gate_up = "mlp.experts.gate_up_proj",
    .hf_merged_down = "mlp.experts.down_proj",
    .hf_expert_prefix = "mlp.experts.",
    .hf_expert_suffix = {".gate_proj.weight", ".up_proj.weight", ".down_proj.weight"},
    .gguf_roles = {[PS_ROLE_FFN_NORM] = {"post_attention_norm.weight", PS_TRANSFORM_NONE}},
    .skip_prefixes = skip_prefixes,
};
