/*
 * OLMoE (spec A.10): plain attention in every layer, q and k normalised over all their heads at
 * once and, in some releases, clipped; router weights as the softmax gives them.
 */
#include "model/arch.h"

static void set_fixed(struct ps_config *config)
{
    config->qk_norm = config->qk_norm_whole = true;
}

static int config_hf(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    double clip = 0;
    int rc;

    if ((rc = ps_hf_common(c, config, 1.0, err)) < 0 ||
        (rc = ps_hf_layer_types(c, config, err)) < 0 ||
        (rc = ps_hf_bool(c, "norm_topk_prob", false, &config->renormalise, err)) < 0 ||
        (rc = ps_hf_number(c, "clip_qkv", 0, &clip, err)) < 0)
        return rc;
    if (!(clip >= 0 && clip <= 1e30))
        return ps_error_set(err, -PS_ERR_FORMAT, "config.json",
                            "\"clip_qkv\" in config.json is not a positive number");
    config->qkv_clip = (float)clip;
    set_fixed(config);
    return 0;
}

static int config_gguf(const struct ps_checkpoint *c, struct ps_config *config,
                       struct ps_error *err)
{
    double clip = 0;
    int rc;

    if ((rc = ps_gguf_common(c, config, err)) < 0 ||
        (rc = ps_gguf_arch_bool(c, "expert_weights_norm", &config->renormalise, err)) < 0 ||
        (rc = ps_gguf_arch_number(c, "attention.clamp_kqv", 0, &clip, err)) < 0)
        return rc;
    if (!(clip >= 0 && clip <= 1e30))
        return ps_gguf_refuse_key(c, "attention.clamp_kqv", err);
    config->qkv_clip = (float)clip;
    set_fixed(config);
    return 0;
}

static const char *const hf_names[] = {"OlmoeForCausalLM", "olmoe", NULL};

const struct ps_arch ps_arch_olmoe = {
    .id = "olmoe",
    .hf_names = hf_names,
    .gguf_name = "olmoe",
    .theta_default = 1e4,
    .eps_default = 1e-5,
    .plain_width = true,
    .config_hf = config_hf,
    .config_gguf = config_gguf,
};
