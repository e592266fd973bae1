/*
 * What the forward pass needs to know of a model, in one canonical form for all sources; stored in
 * the volume as the metadata blob "model.json" (docs/format.md) and read back at open.
 *
 * Canonical weights: every norm weight is the plain factor (the "1 +" of zero-centred checkpoints
 * is applied at import), ssm_a is -exp(A_log), the convolution is [channels, taps] F32, matrices
 * are [rows = out, cols = in]. The order of value heads is the source's: delta_tiled tells which it
 * is.
 */
#ifndef PENSTOCK_MODEL_CONFIG_H
#define PENSTOCK_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

#define PS_LAYER_COUNT_MAX 512
#define PS_EXPERT_COUNT_MAX 4096
#define PS_END_ID_COUNT_MAX 8
#define PS_ROPE_TABLE_MAX 512

enum ps_mixer { PS_MIXER_ATTENTION, PS_MIXER_DELTA };
enum ps_ffn { PS_FFN_MOE, PS_FFN_DENSE };

struct ps_config_layer {
    enum ps_mixer mixer;
    enum ps_ffn ffn;
    uint32_t gate_type, up_type, down_type; /* of the experts; MoE layers only */
};

struct ps_config_sampling { /* from generation_config.json; has = false without one */
    bool has;
    float temperature, top_p, min_p, repeat_penalty;
    int top_k;
};

struct ps_config {
    char arch[32]; /* "qwen3_5_moe", "mixtral": a row of the table in arch.c */
    char name[128];
    char source_name[256];
    uint32_t vocab_rows, hidden, layer_count, context_max;
    float norm_eps;

    uint32_t head_count, kv_head_count, head_dim; /* attention */
    bool attn_gate;                               /* q rows are query|gate interleaved per head */
    bool qk_norm;                                 /* RMS over head_dim of every q and k head */
    bool qk_norm_whole;                           /* with qk_norm: over all heads at once instead */
    float qkv_clip;     /* q, k, v clamped to +-this behind the norm; 0 no */
    uint32_t rope_dims; /* rotated leading dimensions of a head, even */
    double rope_theta;
    float rope_scale; /* multiplies the cosines and sines; 1 but for YaRN */
    uint32_t
        rope_table_count; /* 0, or rope_dims / 2: inverse frequencies that theta does not give */
    float rope_table[PS_ROPE_TABLE_MAX];

    uint32_t delta_k_heads, delta_v_heads, delta_k_dim, delta_v_dim, conv_taps; /* 0 without */
    bool delta_tiled; /* value head h uses key head h % k_heads (GGUF), not h / (v_heads/k_heads) */

    uint32_t expert_count, experts_used, expert_width;
    bool renormalise;      /* top-k weights divided by their sum */
    float expert_scale;    /* multiplies the routed weights; 1 for these families */
    uint32_t shared_width; /* 0 = no shared expert */
    bool shared_gate;      /* the shared expert's output is scaled by sigmoid(gate_inp . x) */
    uint32_t dense_width;  /* of dense layers; 0 = none */

    int32_t end_ids[PS_END_ID_COUNT_MAX];
    uint32_t end_id_count;
    struct ps_config_sampling sampling;

    /* Layers behind the last one that predict a token further ahead (spec A.8), [layer_count ..
     * layer_count + prediction_count) of `layers`. They are kept in the volume, and not yet run. */
    uint32_t prediction_count;
    struct ps_config_layer layers[PS_LAYER_COUNT_MAX];
};

/* Resident tensors, by role. Names in the volume: ps_role_name; "blk.N." + suffix for layer roles.
 */
enum ps_role {
    PS_ROLE_EMBED,    /* token_embd.weight [V, H] */
    PS_ROLE_OUT_NORM, /* output_norm.weight [H] */
    PS_ROLE_HEAD,     /* output.weight [V, H]; absent when tied: the embedding serves */
    PS_ROLE_LAYER_FIRST,
    PS_ROLE_ATTN_NORM = PS_ROLE_LAYER_FIRST, /* attn_norm.weight [H]: before the mixer */
    PS_ROLE_FFN_NORM,        /* ffn_norm.weight [H]: before the feed-forward block */
    PS_ROLE_ATTN_Q,          /* attn_q.weight [nh * hd * (gate ? 2 : 1), H] */
    PS_ROLE_ATTN_K,          /* attn_k.weight [nkv * hd, H] */
    PS_ROLE_ATTN_V,          /* attn_v.weight */
    PS_ROLE_ATTN_OUT,        /* attn_output.weight [H, nh * hd] */
    PS_ROLE_ATTN_Q_NORM,     /* attn_q_norm.weight [hd], whole: [nh * hd] */
    PS_ROLE_ATTN_K_NORM,     /* attn_k_norm.weight [hd], whole: [nkv * hd] */
    PS_ROLE_DELTA_QKV,       /* attn_qkv.weight [2 nk dk + nv dv, H] */
    PS_ROLE_DELTA_Z,         /* attn_gate.weight [nv dv, H] */
    PS_ROLE_DELTA_BETA,      /* ssm_beta.weight [nv, H] */
    PS_ROLE_DELTA_ALPHA,     /* ssm_alpha.weight [nv, H] */
    PS_ROLE_DELTA_CONV,      /* ssm_conv1d.weight [2 nk dk + nv dv, taps] F32 */
    PS_ROLE_DELTA_A,         /* ssm_a [nv] F32 = -exp(A_log) */
    PS_ROLE_DELTA_DT,        /* ssm_dt.bias [nv] F32 */
    PS_ROLE_DELTA_NORM,      /* ssm_norm.weight [dv] F32 */
    PS_ROLE_DELTA_OUT,       /* ssm_out.weight [H, nv dv] */
    PS_ROLE_ROUTER,          /* ffn_gate_inp.weight [E, H], never quantised */
    PS_ROLE_SHARED_GATE_INP, /* ffn_gate_inp_shexp.weight [H], never quantised */
    PS_ROLE_SHARED_GATE,     /* ffn_gate_shexp.weight [Is, H] */
    PS_ROLE_SHARED_UP,       /* ffn_up_shexp.weight [Is, H] */
    PS_ROLE_SHARED_DOWN,     /* ffn_down_shexp.weight [H, Is] */
    PS_ROLE_DENSE_GATE,      /* ffn_gate.weight [Id, H] */
    PS_ROLE_DENSE_UP,        /* ffn_up.weight */
    PS_ROLE_DENSE_DOWN,      /* ffn_down.weight [H, Id] */
    PS_ROLE_PREDICT_PROJ,    /* nextn.eh_proj.weight [H, 2 H]: of the embedding, then the state */
    PS_ROLE_PREDICT_EMBED_NORM,  /* nextn.enorm.weight [H] */
    PS_ROLE_PREDICT_HIDDEN_NORM, /* nextn.hnorm.weight [H] */
    PS_ROLE_PREDICT_OUT_NORM,    /* nextn.shared_head_norm.weight [H] */
    PS_ROLE_COUNT
};

/* "token_embd.weight" or "blk.3.attn_q.weight" into buf; layer is ignored for global roles. */
const char *ps_role_name(enum ps_role role, uint32_t layer, char *buf, size_t buf_bytes);

/* Layers with their predicting ones. */
static inline uint32_t ps_config_layers_all(const struct ps_config *config)
{
    return config->layer_count + config->prediction_count;
}

/* Is the role part of this layer (or of the model, for global roles)? The head is (tied or not). */
bool ps_role_present(const struct ps_config *config, enum ps_role role, uint32_t layer);

/* Rows and columns by the configuration; vectors are [1, n]. */
void ps_role_shape(const struct ps_config *config, enum ps_role role, uint64_t *rows,
                   uint64_t *cols);

/* True for norms, biases, conv, ssm_a: always F32 in a volume. Routers and the shared gate are F32
 * too unless the source has them as BF16/F16 and is kept. */
bool ps_role_is_vector(enum ps_role role);

/* A resident tensor as the volume holds it; rows back to back, object payload = rows * row bytes.
 */
struct ps_config_tensor {
    enum ps_role role;
    uint32_t layer;
    uint32_t type; /* enum ps_type */
};

/*
 * Checks every field against its limits and the others (head counts divide, widths fit the blocks
 * of the types, experts_used <= expert_count, ...), so that later code need not. -PS_ERR_FORMAT.
 */
int ps_config_check(const struct ps_config *config, struct ps_error *err);

/* To and from "model.json". *json is malloc'd, 0-terminated, owned by the caller; likewise
 * *tensors. */
int ps_config_to_json(const struct ps_config *config, const struct ps_config_tensor *tensors,
                      uint32_t tensor_count, char **json, struct ps_error *err);
int ps_config_from_json(const char *json, size_t json_bytes, struct ps_config *config,
                        struct ps_config_tensor **tensors, uint32_t *tensor_count,
                        struct ps_error *err);

#endif
