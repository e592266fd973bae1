/*
 * Qwen3-Next (spec A.10, B.3): the layers of Qwen3.5 MoE with other tensors. Each key head has its
 * rows of q, k, v and z together in one matrix, and those of beta and alpha in another. The volume
 * has them apart, value heads in the order of their key heads.
 */
#include "model/arch.h"

/* The rows of role in a matrix that has q, k, v and z together, key head by key head. */
static bool order_qkvz(const struct ps_config *c, enum ps_role role, struct ps_packed_role *packed)
{
    uint64_t dk = c->delta_k_dim, keys = c->delta_k_heads, values = (uint64_t)c->delta_v_heads;
    uint64_t own = keys ? values / keys * c->delta_v_dim : 0, stride = 2 * dk + 2 * own;
    struct ps_row_order *o = &packed->order;

    packed->rows = keys * stride;
    o->kind = PS_ORDER_GROUPED;
    if (role == PS_ROLE_DELTA_Z) {
        o->parts[0].rows = keys * own;
        o->parts[0].run = own;
        o->parts[0].stride = stride;
        o->parts[0].offset = 2 * dk + own;
        return true;
    }
    for (int i = 0; i < 3; i++) {
        uint64_t run = i < 2 ? dk : own;

        o->parts[i].rows = keys * run;
        o->parts[i].run = run;
        o->parts[i].stride = stride;
        o->parts[i].offset = dk * (uint64_t)i;
    }
    return true;
}

/* The same for beta and alpha. */
static bool order_ba(const struct ps_config *c, enum ps_role role, struct ps_packed_role *packed)
{
    uint64_t own = c->delta_k_heads ? c->delta_v_heads / c->delta_k_heads : 0;
    struct ps_row_order *o = &packed->order;

    packed->rows = 2 * own * c->delta_k_heads;
    o->kind = PS_ORDER_GROUPED;
    o->parts[0].rows = own * c->delta_k_heads;
    o->parts[0].run = own;
    o->parts[0].stride = 2 * own;
    o->parts[0].offset = role == PS_ROLE_DELTA_ALPHA ? own : 0;
    return true;
}

static bool packed_role(const struct ps_checkpoint *c, const struct ps_config *config,
                        enum ps_role role, uint32_t layer, struct ps_packed_role *packed)
{
    bool gguf = c->source->kind == PS_SOURCE_GGUF;

    *packed = (struct ps_packed_role){0};
    if (role == PS_ROLE_DELTA_BETA || role == PS_ROLE_DELTA_ALPHA) {
        packed->name = gguf ? "ssm_ba.weight" : "linear_attn.in_proj_ba.weight";
        return order_ba(config, role, packed);
    }
    if (role != PS_ROLE_DELTA_QKV && role != PS_ROLE_DELTA_Z)
        return false;
    /* Only older files have them together. */
    packed->name = gguf ? "ssm_in.weight" : "linear_attn.in_proj_qkvz.weight";
    return (!gguf || ps_checkpoint_has(c, layer, packed->name)) && order_qkvz(config, role, packed);
}

static int config_hf(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    int rc;

    if ((rc = ps_hf_common(c, config, 0.25, err)) < 0 ||
        (rc = ps_hf_bool(c, "norm_topk_prob", true, &config->renormalise, err)) < 0 ||
        (rc = ps_hf_dense_layers(c, config, err)) < 0 || (rc = ps_hf_delta(c, config, err)) < 0)
        return rc;
    ps_find_prediction(c, config);
    return 0;
}

static int config_gguf(const struct ps_checkpoint *c, struct ps_config *config,
                       struct ps_error *err)
{
    int rc;

    config->renormalise = true; /* what this name stands for, unless a key says so (spec B.1) */
    if ((rc = ps_gguf_common(c, config, err)) < 0 ||
        (rc = ps_gguf_arch_bool(c, "expert_weights_norm", &config->renormalise, err)) < 0 ||
        (rc = ps_gguf_dense_layers(c, config, err)) < 0 || (rc = ps_gguf_delta(c, config, err)) < 0)
        return rc;
    ps_find_prediction(c, config);
    return 0;
}

static const char *const hf_names[] = {"Qwen3NextForCausalLM", "qwen3_next", NULL};
static const char *const skip_prefixes[] = {"mtp.", NULL};

const struct ps_arch ps_arch_qwen3_next = {
    .id = "qwen3_next",
    .hf_names = hf_names,
    .gguf_name = "qwen3next",
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
    .packed_role = packed_role,
};
