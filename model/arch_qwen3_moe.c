/* Qwen3 MoE (spec A.10): plain attention with normalised heads in every layer, no shared expert. */
#include "model/arch.h"

static int config_hf(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    int rc;

    if ((rc = ps_hf_common(c, config, 1.0, err)) < 0 ||
        (rc = ps_hf_layer_types(c, config, err)) < 0 ||
        (rc = ps_hf_bool(c, "norm_topk_prob", false, &config->renormalise, err)) < 0)
        return rc;
    config->qk_norm = true;
    return ps_hf_dense_layers(c, config, err);
}

static int config_gguf(const struct ps_checkpoint *c, struct ps_config *config,
                       struct ps_error *err)
{
    int rc = ps_gguf_common(c, config, err);

    if (rc < 0)
        return rc;
    config->qk_norm = true;
    config->renormalise = true; /* what this name stands for, unless a key says so (spec B.1) */
    rc = ps_gguf_arch_bool(c, "expert_weights_norm", &config->renormalise, err);
    return rc < 0 ? rc : ps_gguf_dense_layers(c, config, err);
}

static const char *const hf_names[] = {"Qwen3MoeForCausalLM", "qwen3_moe", NULL};

const struct ps_arch ps_arch_qwen3_moe = {
    .id = "qwen3_moe",
    .hf_names = hf_names,
    .gguf_name = "qwen3moe",
    .theta_default = 1e4,
    .eps_default = 1e-6,
    .config_hf = config_hf,
    .config_gguf = config_gguf,
};
