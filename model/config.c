#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "model/expert.h"
#include "quant/type.h"

/* Limits far above any model that exists, and low enough that
 * no product of sizes below overflows. */
#define VOCAB_ROWS_MAX (1u << 24)
#define HIDDEN_MAX (1u << 17)
#define HEAD_COUNT_MAX 4096u
#define HEAD_DIM_MAX 8192u
#define CONV_TAPS_MAX 16u
#define WIDTH_MAX (1u << 20)
#define CONTEXT_MAX (1u << 28)
#define HEADS_WIDTH_MAX (1u << 20) /* heads times their width */

static const char *const role_names[PS_ROLE_COUNT] = {
    [PS_ROLE_EMBED] = "token_embd.weight",
    [PS_ROLE_OUT_NORM] = "output_norm.weight",
    [PS_ROLE_HEAD] = "output.weight",
    [PS_ROLE_ATTN_NORM] = "attn_norm.weight",
    [PS_ROLE_FFN_NORM] = "ffn_norm.weight",
    [PS_ROLE_ATTN_Q] = "attn_q.weight",
    [PS_ROLE_ATTN_K] = "attn_k.weight",
    [PS_ROLE_ATTN_V] = "attn_v.weight",
    [PS_ROLE_ATTN_OUT] = "attn_output.weight",
    [PS_ROLE_ATTN_Q_NORM] = "attn_q_norm.weight",
    [PS_ROLE_ATTN_K_NORM] = "attn_k_norm.weight",
    [PS_ROLE_DELTA_QKV] = "attn_qkv.weight",
    [PS_ROLE_DELTA_Z] = "attn_gate.weight",
    [PS_ROLE_DELTA_BETA] = "ssm_beta.weight",
    [PS_ROLE_DELTA_ALPHA] = "ssm_alpha.weight",
    [PS_ROLE_DELTA_CONV] = "ssm_conv1d.weight",
    [PS_ROLE_DELTA_A] = "ssm_a",
    [PS_ROLE_DELTA_DT] = "ssm_dt.bias",
    [PS_ROLE_DELTA_NORM] = "ssm_norm.weight",
    [PS_ROLE_DELTA_OUT] = "ssm_out.weight",
    [PS_ROLE_ROUTER] = "ffn_gate_inp.weight",
    [PS_ROLE_SHARED_GATE_INP] = "ffn_gate_inp_shexp.weight",
    [PS_ROLE_SHARED_GATE] = "ffn_gate_shexp.weight",
    [PS_ROLE_SHARED_UP] = "ffn_up_shexp.weight",
    [PS_ROLE_SHARED_DOWN] = "ffn_down_shexp.weight",
    [PS_ROLE_DENSE_GATE] = "ffn_gate.weight",
    [PS_ROLE_DENSE_UP] = "ffn_up.weight",
    [PS_ROLE_DENSE_DOWN] = "ffn_down.weight",
    [PS_ROLE_PREDICT_PROJ] = "nextn.eh_proj.weight",
    [PS_ROLE_PREDICT_EMBED_NORM] = "nextn.enorm.weight",
    [PS_ROLE_PREDICT_HIDDEN_NORM] = "nextn.hnorm.weight",
    [PS_ROLE_PREDICT_OUT_NORM] = "nextn.shared_head_norm.weight",
};

const char *ps_role_name(enum ps_role role, uint32_t layer, char *buf, size_t buf_bytes)
{
    if (role < PS_ROLE_LAYER_FIRST)
        snprintf(buf, buf_bytes, "%s", role_names[role]);
    else
        snprintf(buf, buf_bytes, "blk.%u.%s", layer, role < PS_ROLE_COUNT ? role_names[role] : "?");
    return buf;
}

bool ps_role_present(const struct ps_config *config, enum ps_role role, uint32_t layer)
{
    if (role < PS_ROLE_LAYER_FIRST)
        return true;
    if (role >= PS_ROLE_COUNT || layer >= ps_config_layers_all(config))
        return false;
    if (role >= PS_ROLE_PREDICT_PROJ)
        return layer >= config->layer_count;

    const struct ps_config_layer *l = &config->layers[layer];
    if (role <= PS_ROLE_FFN_NORM)
        return true;
    if (role == PS_ROLE_ATTN_Q_NORM || role == PS_ROLE_ATTN_K_NORM)
        return l->mixer == PS_MIXER_ATTENTION && config->qk_norm;
    if (role <= PS_ROLE_ATTN_K_NORM)
        return l->mixer == PS_MIXER_ATTENTION;
    if (role <= PS_ROLE_DELTA_OUT)
        return l->mixer == PS_MIXER_DELTA;
    if (role == PS_ROLE_ROUTER)
        return l->ffn == PS_FFN_MOE;
    if (role == PS_ROLE_SHARED_GATE_INP)
        return l->ffn == PS_FFN_MOE && config->shared_width > 0 && config->shared_gate;
    if (role <= PS_ROLE_SHARED_DOWN)
        return l->ffn == PS_FFN_MOE && config->shared_width > 0;
    return l->ffn == PS_FFN_DENSE;
}

void ps_role_shape(const struct ps_config *c, enum ps_role role, uint64_t *rows, uint64_t *cols)
{
    uint64_t q_dim = (uint64_t)c->head_count * c->head_dim;
    uint64_t kv_dim = (uint64_t)c->kv_head_count * c->head_dim;
    uint64_t v_dim = (uint64_t)c->delta_v_heads * c->delta_v_dim;
    uint64_t conv_dim = 2ull * c->delta_k_heads * c->delta_k_dim + v_dim;
    const uint64_t shapes[PS_ROLE_COUNT][2] = {
        [PS_ROLE_EMBED] = {c->vocab_rows, c->hidden},
        [PS_ROLE_OUT_NORM] = {1, c->hidden},
        [PS_ROLE_HEAD] = {c->vocab_rows, c->hidden},
        [PS_ROLE_ATTN_NORM] = {1, c->hidden},
        [PS_ROLE_FFN_NORM] = {1, c->hidden},
        [PS_ROLE_ATTN_Q] = {c->attn_gate ? 2 * q_dim : q_dim, c->hidden},
        [PS_ROLE_ATTN_K] = {kv_dim, c->hidden},
        [PS_ROLE_ATTN_V] = {kv_dim, c->hidden},
        [PS_ROLE_ATTN_OUT] = {c->hidden, q_dim},
        [PS_ROLE_ATTN_Q_NORM] = {1, c->qk_norm_whole ? q_dim : c->head_dim},
        [PS_ROLE_ATTN_K_NORM] = {1, c->qk_norm_whole ? kv_dim : c->head_dim},
        [PS_ROLE_DELTA_QKV] = {conv_dim, c->hidden},
        [PS_ROLE_DELTA_Z] = {v_dim, c->hidden},
        [PS_ROLE_DELTA_BETA] = {c->delta_v_heads, c->hidden},
        [PS_ROLE_DELTA_ALPHA] = {c->delta_v_heads, c->hidden},
        [PS_ROLE_DELTA_CONV] = {conv_dim, c->conv_taps},
        [PS_ROLE_DELTA_A] = {1, c->delta_v_heads},
        [PS_ROLE_DELTA_DT] = {1, c->delta_v_heads},
        [PS_ROLE_DELTA_NORM] = {1, c->delta_v_dim},
        [PS_ROLE_DELTA_OUT] = {c->hidden, v_dim},
        [PS_ROLE_ROUTER] = {c->expert_count, c->hidden},
        [PS_ROLE_SHARED_GATE_INP] = {1, c->hidden},
        [PS_ROLE_SHARED_GATE] = {c->shared_width, c->hidden},
        [PS_ROLE_SHARED_UP] = {c->shared_width, c->hidden},
        [PS_ROLE_SHARED_DOWN] = {c->hidden, c->shared_width},
        [PS_ROLE_DENSE_GATE] = {c->dense_width, c->hidden},
        [PS_ROLE_DENSE_UP] = {c->dense_width, c->hidden},
        [PS_ROLE_DENSE_DOWN] = {c->hidden, c->dense_width},
        [PS_ROLE_PREDICT_PROJ] = {c->hidden, 2ull * c->hidden},
        [PS_ROLE_PREDICT_EMBED_NORM] = {1, c->hidden},
        [PS_ROLE_PREDICT_HIDDEN_NORM] = {1, c->hidden},
        [PS_ROLE_PREDICT_OUT_NORM] = {1, c->hidden},
    };

    *rows = shapes[role][0];
    *cols = shapes[role][1];
}

bool ps_role_is_vector(enum ps_role role)
{
    switch (role) {
    case PS_ROLE_OUT_NORM:
    case PS_ROLE_ATTN_NORM:
    case PS_ROLE_FFN_NORM:
    case PS_ROLE_ATTN_Q_NORM:
    case PS_ROLE_ATTN_K_NORM:
    case PS_ROLE_DELTA_CONV:
    case PS_ROLE_DELTA_A:
    case PS_ROLE_DELTA_DT:
    case PS_ROLE_DELTA_NORM:
    case PS_ROLE_PREDICT_EMBED_NORM:
    case PS_ROLE_PREDICT_HIDDEN_NORM:
    case PS_ROLE_PREDICT_OUT_NORM:
        return true;
    default:
        return false;
    }
}

struct limit {
    const char *name;
    uint32_t value, least, most;
};

static int check_limits(const struct limit *limits, size_t count, struct ps_error *err)
{
    for (size_t i = 0; i < count; i++)
        if (limits[i].value < limits[i].least || limits[i].value > limits[i].most)
            return ps_error_set(err, -PS_ERR_FORMAT, "model configuration",
                                "%s is %u, which is not within %u to %u", limits[i].name,
                                limits[i].value, limits[i].least, limits[i].most);
    return 0;
}

static int refuse(struct ps_error *err, const char *what)
{
    return ps_error_set(err, -PS_ERR_FORMAT, "model configuration", "%s", what);
}

static int check_model(const struct ps_config *c, struct ps_error *err)
{
    const struct limit limits[] = {
        {"vocab_rows", c->vocab_rows, 1, VOCAB_ROWS_MAX},
        {"hidden", c->hidden, 1, HIDDEN_MAX},
        {"layer_count", c->layer_count, 1, PS_LAYER_COUNT_MAX},
        {"prediction_count", c->prediction_count, 0, PS_LAYER_COUNT_MAX},
        {"context_max", c->context_max, 1, CONTEXT_MAX},
        {"end_id_count", c->end_id_count, 0, PS_END_ID_COUNT_MAX},
    };
    int rc = check_limits(limits, PS_ARRAY_LEN(limits), err);

    if (rc < 0)
        return rc;
    if (ps_config_layers_all(c) > PS_LAYER_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_FORMAT, "model configuration",
                            "%u layers and %u that predict are more than %d", c->layer_count,
                            c->prediction_count, PS_LAYER_COUNT_MAX);
    if (!c->arch[0] || !memchr(c->arch, 0, sizeof(c->arch)) ||
        !memchr(c->name, 0, sizeof(c->name)) || !memchr(c->source_name, 0, sizeof(c->source_name)))
        return refuse(err, "arch is empty or a name has no end");
    if (!isfinite(c->norm_eps) || c->norm_eps <= 0)
        return refuse(err, "norm_eps is not a positive number");
    for (uint32_t i = 0; i < c->end_id_count; i++)
        if (c->end_ids[i] < 0 || (uint32_t)c->end_ids[i] >= c->vocab_rows)
            return ps_error_set(err, -PS_ERR_FORMAT, "model configuration",
                                "end token %d is outside the vocabulary of %u", c->end_ids[i],
                                c->vocab_rows);
    return 0;
}

static int check_sampling(const struct ps_config_sampling *s, struct ps_error *err)
{
    if (!s->has)
        return 0;
    /* Written so that NaN fails. */
    if (!(s->temperature >= 0 && s->temperature <= 1000) || !(s->top_p > 0 && s->top_p <= 1) ||
        !(s->min_p >= 0 && s->min_p <= 1) ||
        !(s->repeat_penalty > 0 && s->repeat_penalty <= 1000) || s->top_k < 0)
        return refuse(err, "a sampling setting is out of its range");
    return 0;
}

static int check_heads(const char *name, uint32_t count, uint32_t dim, struct ps_error *err)
{
    if ((uint64_t)count * dim <= HEADS_WIDTH_MAX)
        return 0;
    return ps_error_set(err, -PS_ERR_FORMAT, "model configuration",
                        "%u %s of %u values are more than %u values together", count, name, dim,
                        HEADS_WIDTH_MAX);
}

static int check_rope(const struct ps_config *c, struct ps_error *err)
{
    if (c->rope_dims % 2)
        return refuse(err, "rope_dims is odd");
    if (!isfinite(c->rope_theta) || c->rope_theta <= 0)
        return refuse(err, "rope_theta is not a positive number");
    if (!isfinite(c->rope_scale) || c->rope_scale <= 0)
        return refuse(err, "rope_scale is not a positive number");
    if (c->rope_table_count > PS_ROPE_TABLE_MAX ||
        (c->rope_table_count && c->rope_table_count != c->rope_dims / 2))
        return refuse(err, "the table of rope frequencies is not of half as many as rope_dims");
    for (uint32_t i = 0; i < c->rope_table_count; i++)
        if (!isfinite(c->rope_table[i]) || c->rope_table[i] < 0)
            return refuse(err, "the table of rope frequencies holds something that is none");
    return 0;
}

/* Sizes are computed from all fields, also from those that no layer uses: what `used` waives is
 * only that there must be something. */
static int check_attention(const struct ps_config *c, bool used, struct ps_error *err)
{
    const struct limit limits[] = {
        {"head_count", c->head_count, used, HEAD_COUNT_MAX},
        {"kv_head_count", c->kv_head_count, used, HEAD_COUNT_MAX},
        {"head_dim", c->head_dim, used, HEAD_DIM_MAX},
        {"rope_dims", c->rope_dims, 0, c->head_dim},
    };
    int rc = check_limits(limits, PS_ARRAY_LEN(limits), err);

    if (rc == 0)
        rc = check_heads("heads", c->head_count, c->head_dim, err);
    if (rc < 0 || !used)
        return rc;
    if (c->head_count % c->kv_head_count)
        return refuse(err, "head_count is not a multiple of kv_head_count");
    if (c->qk_norm_whole && c->attn_gate)
        return refuse(err, "a norm over all heads does not go with gates between them");
    if (!isfinite(c->qkv_clip) || c->qkv_clip < 0)
        return refuse(err, "qkv_clip is not a number, or negative");
    return check_rope(c, err);
}

static int check_delta(const struct ps_config *c, bool used, struct ps_error *err)
{
    const struct limit limits[] = {
        {"delta_k_heads", c->delta_k_heads, used, HEAD_COUNT_MAX},
        {"delta_v_heads", c->delta_v_heads, used, HEAD_COUNT_MAX},
        {"delta_k_dim", c->delta_k_dim, used, HEAD_DIM_MAX},
        {"delta_v_dim", c->delta_v_dim, used, HEAD_DIM_MAX},
        {"conv_taps", c->conv_taps, used ? 2 : 0, CONV_TAPS_MAX},
    };
    int rc = check_limits(limits, PS_ARRAY_LEN(limits), err);

    if (rc == 0)
        rc = check_heads("key heads", c->delta_k_heads, c->delta_k_dim, err);
    if (rc == 0)
        rc = check_heads("value heads", c->delta_v_heads, c->delta_v_dim, err);
    if (rc < 0 || !used)
        return rc;
    if (c->delta_v_heads % c->delta_k_heads)
        return refuse(err, "delta_v_heads is not a multiple of delta_k_heads");
    return 0;
}

static int check_ffn(const struct ps_config *c, bool moe, bool dense, struct ps_error *err)
{
    const struct limit limits[] = {
        {"expert_count", c->expert_count, moe, PS_EXPERT_COUNT_MAX},
        {"experts_used", c->experts_used, moe, PS_EXPERT_COUNT_MAX},
        {"expert_width", c->expert_width, moe, WIDTH_MAX},
        {"shared_width", c->shared_width, 0, WIDTH_MAX},
        {"dense_width", c->dense_width, dense, WIDTH_MAX},
    };
    int rc = check_limits(limits, PS_ARRAY_LEN(limits), err);

    if (rc < 0 || !moe)
        return rc;
    if (c->experts_used > c->expert_count)
        return ps_error_set(err, -PS_ERR_FORMAT, "model configuration",
                            "experts_used is %u, but there are %u experts", c->experts_used,
                            c->expert_count);
    if (!isfinite(c->expert_scale))
        return refuse(err, "expert_scale is not a number");
    return 0;
}

static int check_experts(const struct ps_config *c, struct ps_error *err)
{
    for (uint32_t i = 0; i < ps_config_layers_all(c); i++) {
        const struct ps_config_layer *l = &c->layers[i];
        struct ps_expert_shape shape = {c->hidden, c->expert_width, l->gate_type, l->up_type,
                                        l->down_type};
        int rc;

        if (l->ffn != PS_FFN_MOE)
            continue;
        rc = ps_expert_check(&shape, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int ps_config_check(const struct ps_config *c, struct ps_error *err)
{
    bool attention = false, delta = false, moe = false, dense = false;
    int rc = check_model(c, err);

    if (rc == 0)
        rc = check_sampling(&c->sampling, err);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < ps_config_layers_all(c); i++) {
        attention |= c->layers[i].mixer == PS_MIXER_ATTENTION;
        delta |= c->layers[i].mixer == PS_MIXER_DELTA;
        moe |= c->layers[i].ffn == PS_FFN_MOE;
        dense |= c->layers[i].ffn == PS_FFN_DENSE;
        if ((unsigned)c->layers[i].mixer > PS_MIXER_DELTA ||
            (unsigned)c->layers[i].ffn > PS_FFN_DENSE)
            return refuse(err, "a layer is of no known kind");
    }
    if ((rc = check_attention(c, attention, err)) < 0 || (rc = check_delta(c, delta, err)) < 0 ||
        (rc = check_ffn(c, moe, dense, err)) < 0)
        return rc;
    return check_experts(c, err);
}
