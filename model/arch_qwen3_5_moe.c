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
    .zero_centred_norms = true,
    .gguf_roles = {[PS_ROLE_FFN_NORM] = "post_attention_norm.weight"},
    .skip_prefixes = skip_prefixes,
};
