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
    .zero_centred_norms = true,
    .gguf_roles = {[PS_ROLE_FFN_NORM] = "post_attention_norm.weight"},
    .skip_prefixes = skip_prefixes,
    .packed_role = packed_role,
};
