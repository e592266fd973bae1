#include "model/preset.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/util.h"

#define DELTA_K_HEADS 16u
#define DELTA_DIM 128u
#define DELTA_TAPS 4u

/* config.json of the releases; parameters as their model cards have them. */
/* clang-format off */
const struct ps_preset ps_presets[] = {
    /* name, arch, 10^9, layers, hidden, vocab, context, heads, kv, dim, interval, delta v heads,
     * experts, used, width, shared, theta, rope dims */
    {"Qwen3.5-397B-A17B", "qwen3_5_moe", 397, 60, 4096, 248320, 262144, 32, 2, 256, 4, 64,
     512, 10, 1024, 1024, 1e7, 64},
    {"Qwen3.5-122B-A10B", "qwen3_5_moe", 122, 48, 3072, 248320, 262144, 32, 2, 256, 4, 64,
     256, 8, 1024, 1024, 1e7, 64},
    {"Qwen3.5-35B-A3B", "qwen3_5_moe", 35, 40, 2048, 248320, 262144, 16, 2, 256, 4, 32,
     256, 8, 512, 512, 1e7, 64},
    {"Qwen3-235B-A22B", "qwen3_moe", 235, 94, 4096, 151936, 40960, 64, 4, 128, 1, 0,
     128, 8, 1536, 0, 1e6, 128},
    {"Qwen3-30B-A3B", "qwen3_moe", 30.5, 48, 2048, 151936, 40960, 32, 4, 128, 1, 0,
     128, 8, 768, 0, 1e6, 128},
    {"Qwen3-Next-80B-A3B", "qwen3_next", 80, 48, 2048, 151936, 262144, 16, 2, 256, 4, 32,
     512, 10, 512, 512, 1e7, 64},
    {"OLMoE-1B-7B", "olmoe", 6.92, 16, 2048, 50304, 4096, 16, 16, 128, 1, 0,
     64, 8, 1024, 0, 1e4, 128},
    {"Mixtral-8x7B", "mixtral", 46.7, 32, 4096, 32000, 32768, 32, 8, 128, 1, 0,
     8, 2, 14336, 0, 1e6, 128},
    {"Mixtral-8x22B", "mixtral", 140.6, 56, 6144, 32768, 65536, 48, 8, 128, 1, 0,
     8, 2, 16384, 0, 1e6, 128},
    {0},
};
/* clang-format on */

static int find_error(const char *name, bool all, struct ps_error *err)
{
    char list[256] = "";
    size_t n = 0;

    for (const struct ps_preset *p = ps_presets; p->name && n < sizeof(list); p++)
        if (all || strncasecmp(p->name, name, strlen(name)) == 0)
            n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "", p->name);
    if (!all)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                            "\"%.64s\" begins the name of several presets: %s", name, list);
    return ps_error_set(err, -ENOENT, NULL,
                        "\"%.64s\" is neither a file or directory nor a preset; presets are %s",
                        name, list);
}

int ps_preset_find(const struct ps_preset **out, const char *name, struct ps_error *err)
{
    const struct ps_preset *found = NULL;
    int count = 0;

    for (const struct ps_preset *p = ps_presets; p->name && *name; p++) {
        if (strcasecmp(p->name, name) == 0) {
            *out = p;
            return 0;
        }
        if (strncasecmp(p->name, name, strlen(name)) == 0) {
            found = p;
            count++;
        }
    }
    if (count != 1)
        return find_error(name, count == 0, err);
    *out = found;
    return 0;
}

static void set_delta(const struct ps_preset *p, struct ps_config *c)
{
    c->attn_gate = true;
    c->delta_k_heads = DELTA_K_HEADS;
    c->delta_v_heads = p->delta_v_heads;
    c->delta_k_dim = c->delta_v_dim = DELTA_DIM;
    c->conv_taps = DELTA_TAPS;
    for (uint32_t l = 0; l < p->layers; l++)
        if ((l + 1) % p->interval != 0)
            c->layers[l].mixer = PS_MIXER_DELTA;
}

void ps_preset_config(const struct ps_preset *p, struct ps_config *c)
{
    bool is_olmoe = strcmp(p->arch, "olmoe") == 0, is_mixtral = strcmp(p->arch, "mixtral") == 0;

    memset(c, 0, sizeof(*c));
    snprintf(c->arch, sizeof(c->arch), "%s", p->arch);
    snprintf(c->name, sizeof(c->name), "%s", p->name);
    snprintf(c->source_name, sizeof(c->source_name), "%s", p->name);
    c->vocab_rows = p->vocab;
    c->hidden = p->hidden;
    c->layer_count = p->layers;
    c->context_max = p->context;
    c->norm_eps = is_olmoe || is_mixtral ? 1e-5f : 1e-6f;
    c->head_count = p->heads;
    c->kv_head_count = p->kv_heads;
    c->head_dim = p->head_dim;
    c->qk_norm = !is_mixtral;
    c->qk_norm_whole = is_olmoe;
    c->rope_dims = p->rope_dims;
    c->rope_theta = p->rope_theta;
    c->rope_scale = 1;
    c->expert_count = p->experts;
    c->experts_used = p->used;
    c->expert_width = p->width;
    c->renormalise = !is_olmoe;
    c->expert_scale = 1;
    c->shared_width = p->shared;
    c->shared_gate = p->shared > 0;
    if (p->interval > 1)
        set_delta(p, c);
}

int ps_preset_quant(const char *text, struct ps_quant_spec *spec, struct ps_error *err)
{
    char both[64];

    if (!text)
        text = "experts=q4_k,rest=q8_0";
    if (strpbrk(text, "=,") || strcmp(text, "keep") == 0)
        return ps_quant_spec_parse(text, PS_SOURCE_GGUF, spec, err);
    snprintf(both, sizeof(both), "experts=%.16s,rest=%.16s", text, text);
    return ps_quant_spec_parse(both, PS_SOURCE_GGUF, spec, err);
}
