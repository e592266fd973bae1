/*
 * Mixtral (spec A.10): plain attention in every layer, no norm of q and k, few wide experts under
 * names of their own. In GGUF it is one of the models called "llama", and the rows of q and k lie
 * so that neighbours are rotated together: the volume has them in halves, as safetensors does.
 */
#include "model/arch.h"

static int config_hf(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    uint32_t window;
    int rc;

    if ((rc = ps_hf_common(c, config, 1.0, err)) < 0 ||
        (rc = ps_hf_layer_types(c, config, err)) < 0 ||
        (rc = ps_hf_u32(c, "sliding_window", 0, &window, err)) < 0)
        return rc;
    if (window && window < config->context_max &&
        !json_is_false(json_object_get(c->text, "use_sliding_window")))
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, "config.json",
                            "\"sliding_window\" in config.json is %u: attention that looks back "
                            "less far than the context of %u is not supported",
                            window, config->context_max);
    config->renormalise = true;
    return 0;
}

static int config_gguf(const struct ps_checkpoint *c, struct ps_config *config,
                       struct ps_error *err)
{
    uint32_t experts;
    int rc = ps_gguf_arch_u32(c, "expert_count", 0, &experts, err);

    if (rc < 0)
        return rc;
    if (experts == 0)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, c->source->name,
                            "it is a llama model without experts: there is nothing to stream");
    config->renormalise = true; /* what this name stands for, unless a key says so (spec B.1) */
    if ((rc = ps_gguf_common(c, config, err)) < 0)
        return rc;
    return ps_gguf_arch_bool(c, "expert_weights_norm", &config->renormalise, err);
}

/* In transformers' own names the router is where other families have it. */
static bool packed_role(const struct ps_checkpoint *c, const struct ps_config *config,
                        enum ps_role role, uint32_t layer, struct ps_packed_role *packed)
{
    if (role != PS_ROLE_ROUTER || c->source->kind == PS_SOURCE_GGUF ||
        ps_checkpoint_has(c, layer, c->arch->hf_roles[role]) ||
        !ps_checkpoint_has(c, layer, "mlp.gate.weight"))
        return false;
    *packed = (struct ps_packed_role){.name = "mlp.gate.weight", .rows = config->expert_count};
    return true;
}

static const char *const hf_names[] = {"MixtralForCausalLM", "mixtral", NULL};

const struct ps_arch ps_arch_mixtral = {
    .id = "mixtral",
    .hf_names = hf_names,
    .gguf_name = "llama",
    .theta_default = 1e6,
    .eps_default = 1e-5,
    .hf_expert_count = "num_local_experts",
    .plain_width = true,
    .paired_rope = true,
    .config_hf = config_hf,
    .config_gguf = config_gguf,
    .hf_roles = {[PS_ROLE_ROUTER] = "block_sparse_moe.gate.weight"},
    .hf_expert_prefix = "block_sparse_moe.experts.",
    .hf_expert_suffix = {".w1.weight", ".w3.weight", ".w2.weight"},
    .packed_role = packed_role,
};
