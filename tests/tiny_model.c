/* Tiny models in both formats, with their names spelt out: nothing
 * here asks the code under test. */
#include "source_writer.h"

#include <math.h>

#include "quant/type.h"
#include "util.h"

struct tiny_model tiny_default(bool qwen3_5)
{
    return (struct tiny_model){
        .qwen3_5 = qwen3_5,
        .layers = qwen3_5 ? 4 : 2,
        .hidden = 64,
        .heads = 4,
        .kv_heads = 2,
        .head_dim = 16,
        .k_heads = 2,
        .v_heads = 4,
        .k_dim = 16,
        .v_dim = 16,
        .taps = 4,
        .experts = 4,
        .used = 2,
        .width = 96,
        .shared = 32,
        .vocab = 80,
        .type = PS_TYPE_BF16,
        .expert_type = PS_TYPE_BF16,
    };
}

/* Multiples of 1/64 within -1 and 1 (1/64 to 3 for norms and decays, which are positive or are
 * logarithms): few enough bits for BF16, F16 and sums with 1. */
float tiny_value(const char *name, uint64_t i)
{
    uint64_t h = 14695981039346656037ull;

    for (const char *p = name; *p; p++)
        h = (h ^ (uint8_t)*p) * 1099511628211ull;
    h = (h ^ i) * 0x9E3779B97F4A7C15ull;
    h ^= h >> 32;
    if (strstr(name, "ssm_a"))
        return -exp2f((float)(h % 7) - 3.0f);
    return (float)((int64_t)(h % 127) - 63) / 64.0f;
}

struct out {
    const struct tiny_model *m;
    struct source_writer *w;
    bool gguf;
    const char *prefix;
};

enum how { PLAIN, ZERO_CENTRED, LOGARITHM };

/* What the architectures are called: config.json's class and type, GGUF's name. */
static const char *const *arch_names(const struct tiny_model *m)
{
    static const char *const names[][3] = {
        {"Qwen3MoeForCausalLM", "qwen3_moe", "qwen3moe"},
        {"Qwen3NextForCausalLM", "qwen3_next", "qwen3next"},
        {"OlmoeForCausalLM", "olmoe", "olmoe"},
        {"MixtralForCausalLM", "mixtral", "llama"},
        {"Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", "qwen35moe"},
    };

    return names[m->kind == TINY_PLAIN && m->qwen3_5 ? 4 : m->kind];
}

static float *values_of(const char *canonical, uint64_t count, enum how how, bool gguf)
{
    float *v = malloc(count * sizeof(*v));

    assert_non_null(v);
    for (uint64_t i = 0; i < count; i++) {
        v[i] = tiny_value(canonical, i);
        if (how == ZERO_CENTRED && !gguf)
            v[i] -= 1.0f;
        if (how == LOGARITHM && !gguf)
            v[i] = logf(-v[i]);
    }
    return v;
}

/* Layers behind the last one are those that predict. */
static void hf_layer(const struct out *o, int layer, const char *suffix, char name[96])
{
    int count = (int)o->m->layers;

    if (layer >= count)
        snprintf(name, 96, "mtp.layers.%d.%s", layer - count, suffix);
    else
        snprintf(name, 96, "%slayers.%d.%s", o->prefix, layer, suffix);
}

/* Rows of several canonical matrices under one name: row r is row rows[r] of canonical[of[r]]. */
struct packing {
    const char *canonical[2];
    uint32_t count, rows[1024];
    uint8_t of[1024];
};

static void pack_row(struct packing *p, int of, uint32_t row)
{
    assert_true(p->count < 1024);
    p->of[p->count] = (uint8_t)of;
    p->rows[p->count++] = row;
}

static void pack(const struct out *o, int layer, const char *suffix, const struct packing *p)
{
    const uint64_t dims[] = {p->count, o->m->hidden};
    float *v = malloc(p->count * dims[1] * sizeof(*v));
    char key[96], name[96];

    assert_non_null(v);
    for (uint64_t r = 0; r < p->count; r++) {
        snprintf(key, sizeof(key), "blk.%d.%s", layer, p->canonical[p->of[r]]);
        for (uint64_t c = 0; c < dims[1]; c++)
            v[r * dims[1] + c] = tiny_value(key, p->rows[r] * dims[1] + c);
    }
    if (o->gguf)
        snprintf(name, sizeof(name), "blk.%d.%s", layer, suffix);
    else
        hf_layer(o, layer, suffix, name);
    writer_add(o->w, name, o->m->type, v, 2, dims);
    free(v);
}

/* Heads whose halves are interleaved (spec B.3). */
static void paired(const struct out *o, int layer, const char *canonical, uint32_t heads)
{
    struct packing p = {.canonical = {canonical}};
    uint32_t half = o->m->head_dim / 2;

    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t j = 0; j < half; j++) {
            pack_row(&p, 0, h * 2 * half + j);
            pack_row(&p, 0, h * 2 * half + half + j);
        }
    pack(o, layer, canonical, &p);
}

/* Qwen3-Next: for each key head its rows of q, k, v and z, and those of beta and alpha. */
static void grouped(const struct out *o, int layer)
{
    const struct tiny_model *m = o->m;
    struct packing qkvz = {.canonical = {"attn_qkv.weight", "attn_gate.weight"}};
    struct packing ba = {.canonical = {"ssm_beta.weight", "ssm_alpha.weight"}};
    uint32_t r = m->v_heads / m->k_heads, own = r * m->v_dim, kd = m->k_heads * m->k_dim;

    for (uint32_t g = 0; g < m->k_heads; g++) {
        for (uint32_t i = 0; i < 2 * m->k_dim; i++)
            pack_row(&qkvz, 0, (i < m->k_dim ? 0 : kd) + g * m->k_dim + i % m->k_dim);
        for (uint32_t i = 0; i < 2 * own; i++)
            pack_row(&qkvz, i >= own, (i < own ? 2 * kd : 0) + g * own + i % own);
        for (uint32_t i = 0; i < 2 * r; i++)
            pack_row(&ba, i >= r, g * r + i % r);
    }
    pack(o, layer, o->gguf ? "ssm_ba.weight" : "linear_attn.in_proj_ba.weight", &ba);
    if (!o->gguf || m->old_form)
        pack(o, layer, o->gguf ? "ssm_in.weight" : "linear_attn.in_proj_qkvz.weight", &qkvz);
}

/* Adds a tensor known by its canonical (GGUF) suffix under the name of the format. */
static void put(const struct out *o, int layer, const char *canonical, const char *gguf_suffix,
                const char *hf_suffix, uint32_t type, uint64_t rows, uint64_t cols, enum how how)
{
    uint64_t dims[3] = {rows, cols, 1}, dim_count = 2;
    char name[96], key[96];
    float *v;

    if (layer >= 0)
        snprintf(key, sizeof(key), "blk.%d.%s", layer, canonical);
    else
        snprintf(key, sizeof(key), "%s", canonical);
    if (o->gguf && layer >= 0)
        snprintf(name, sizeof(name), "blk.%d.%s", layer, gguf_suffix);
    else if (o->gguf)
        snprintf(name, sizeof(name), "%s", gguf_suffix);
    else if (!strncmp(hf_suffix, "mtp.", 4))
        snprintf(name, sizeof(name), "%s", hf_suffix);
    else if (layer >= 0)
        hf_layer(o, layer, hf_suffix, name);
    else
        snprintf(name, sizeof(name), "%s%s", strcmp(hf_suffix, "lm_head.weight") ? o->prefix : "",
                 hf_suffix);
    v = values_of(key, rows * cols, how, o->gguf);
    if (rows == 1 && (o->gguf || strcmp(canonical, "ffn_gate_inp_shexp.weight"))) {
        dims[0] = cols;
        dim_count = 1;
    } else if (!o->gguf && !strcmp(canonical, "ssm_conv1d.weight")) {
        dims[1] = 1; /* [C, 1, taps] */
        dims[2] = cols;
        dim_count = 3;
    }
    writer_add(o->w, name, type, v, (uint32_t)dim_count, dims);
    free(v);
}

static void matrix(const struct out *o, int layer, const char *canonical, const char *hf_suffix,
                   uint64_t rows, uint64_t cols)
{
    put(o, layer, canonical, canonical, hf_suffix, o->m->type, rows, cols, PLAIN);
}

static void vector(const struct out *o, int layer, const char *canonical, const char *hf_suffix,
                   uint64_t n, enum how how)
{
    uint32_t type = o->gguf || how == LOGARITHM ? PS_TYPE_F32 : o->m->type;

    put(o, layer, canonical, canonical, hf_suffix, type, 1, n, how);
}

static enum how norm(const struct out *o)
{
    return o->m->qwen3_5 ? ZERO_CENTRED : PLAIN;
}

static void attention(const struct out *o, int layer)
{
    const struct tiny_model *m = o->m;
    uint64_t q = (uint64_t)m->heads * m->head_dim, kv = (uint64_t)m->kv_heads * m->head_dim;

    if (m->kind == TINY_MIXTRAL && o->gguf) {
        paired(o, layer, "attn_q.weight", m->heads);
        paired(o, layer, "attn_k.weight", m->kv_heads);
    } else {
        matrix(o, layer, "attn_q.weight", "self_attn.q_proj.weight", m->qwen3_5 ? 2 * q : q,
               m->hidden);
        matrix(o, layer, "attn_k.weight", "self_attn.k_proj.weight", kv, m->hidden);
    }
    matrix(o, layer, "attn_v.weight", "self_attn.v_proj.weight", kv, m->hidden);
    matrix(o, layer, "attn_output.weight", "self_attn.o_proj.weight", m->hidden, q);
    if (m->kind == TINY_MIXTRAL)
        return;
    vector(o, layer, "attn_q_norm.weight", "self_attn.q_norm.weight",
           m->kind == TINY_OLMOE ? q : m->head_dim, norm(o));
    vector(o, layer, "attn_k_norm.weight", "self_attn.k_norm.weight",
           m->kind == TINY_OLMOE ? kv : m->head_dim, norm(o));
}

static void delta(const struct out *o, int layer)
{
    const struct tiny_model *m = o->m;
    uint64_t v = (uint64_t)m->v_heads * m->v_dim, c = 2ull * m->k_heads * m->k_dim + v;

    if (m->kind == TINY_NEXT)
        grouped(o, layer);
    if (m->kind != TINY_NEXT || (o->gguf && !m->old_form)) {
        matrix(o, layer, "attn_qkv.weight", "linear_attn.in_proj_qkv.weight", c, m->hidden);
        matrix(o, layer, "attn_gate.weight", "linear_attn.in_proj_z.weight", v, m->hidden);
    }
    if (m->kind != TINY_NEXT) {
        matrix(o, layer, "ssm_beta.weight", "linear_attn.in_proj_b.weight", m->v_heads, m->hidden);
        matrix(o, layer, "ssm_alpha.weight", "linear_attn.in_proj_a.weight", m->v_heads, m->hidden);
    }
    put(o, layer, "ssm_conv1d.weight", "ssm_conv1d.weight", "linear_attn.conv1d.weight",
        o->gguf ? PS_TYPE_F32 : m->type, c, m->taps, PLAIN);
    vector(o, layer, "ssm_a", "linear_attn.A_log", m->v_heads, LOGARITHM);
    vector(o, layer, "ssm_dt.bias", "linear_attn.dt_bias", m->v_heads, PLAIN);
    vector(o, layer, "ssm_norm.weight", "linear_attn.norm.weight", m->v_dim, PLAIN);
    matrix(o, layer, "ssm_out.weight", "linear_attn.out_proj.weight", m->hidden, v);
}

/* Experts [e][part rows][cols] stacked from canonical "blk.L.PART.e"; two
 * parts for fused tensors. */
static void stacked(const struct out *o, int layer, const char *name, const char *const *parts,
                    uint64_t part_count, uint64_t rows, uint64_t cols)
{
    const uint64_t dims[] = {o->m->experts, part_count * rows, cols};
    float *v = malloc(dims[0] * dims[1] * cols * sizeof(*v)), *p = v;
    char key[96], full[96];

    assert_non_null(v);
    for (uint32_t e = 0; e < o->m->experts; e++)
        for (uint64_t k = 0; k < part_count; k++) {
            snprintf(key, sizeof(key), "blk.%d.%s.%u", layer, parts[k], e);
            for (uint64_t i = 0; i < rows * cols; i++)
                *p++ = tiny_value(key, i);
        }
    if (o->gguf)
        snprintf(full, sizeof(full), "blk.%d.%s", layer, name);
    else
        hf_layer(o, layer, name, full);
    writer_add(o->w, full, o->m->expert_type, v, 3, dims);
    free(v);
}

static void experts(const struct out *o, int layer)
{
    static const char *const parts[] = {"gate", "up", "down"};
    const struct tiny_model *m = o->m;
    const char *gguf_names[] = {"ffn_gate_exps.weight", "ffn_up_exps.weight",
                                "ffn_down_exps.weight"};

    if (m->merged) {
        stacked(o, layer, o->gguf ? "ffn_gate_up_exps.weight" : "mlp.experts.gate_up_proj", parts,
                2, m->width, m->hidden);
        stacked(o, layer, o->gguf ? gguf_names[2] : "mlp.experts.down_proj", parts + 2, 1,
                m->hidden, m->width);
        return;
    }
    for (int p = 0; p < 3; p++) {
        uint64_t rows = p == 2 ? m->hidden : m->width, cols = p == 2 ? m->width : m->hidden;

        if (o->gguf && !m->old_form) {
            stacked(o, layer, gguf_names[p], parts + p, 1, rows, cols);
            continue;
        }
        for (uint32_t e = 0; e < m->experts; e++) {
            const uint64_t dims[] = {rows, cols};
            char key[96], own[64], name[96];
            float *v;

            snprintf(key, sizeof(key), "blk.%d.%s.%u", layer, parts[p], e);
            if (m->kind == TINY_MIXTRAL)
                snprintf(own, sizeof(own), "block_sparse_moe.experts.%u.w%d.weight", e,
                         (int[]){1, 3, 2}[p]);
            else
                snprintf(own, sizeof(own), "mlp.experts.%u.%s_proj.weight", e, parts[p]);
            if (o->gguf)
                snprintf(name, sizeof(name), "blk.%d.ffn_%s.%u.weight", layer, parts[p], e);
            else
                hf_layer(o, layer, own, name);
            v = values_of(key, rows * cols, PLAIN, false);
            writer_add(o->w, name, m->expert_type, v, 2, dims);
            free(v);
        }
    }
}

static void feed_forward(const struct out *o, int layer)
{
    const struct tiny_model *m = o->m;

    if (m->dense && layer == 0) {
        matrix(o, layer, "ffn_gate.weight", "mlp.gate_proj.weight", m->dense, m->hidden);
        matrix(o, layer, "ffn_up.weight", "mlp.up_proj.weight", m->dense, m->hidden);
        matrix(o, layer, "ffn_down.weight", "mlp.down_proj.weight", m->hidden, m->dense);
        return;
    }
    put(o, layer, "ffn_gate_inp.weight", "ffn_gate_inp.weight",
        m->kind == TINY_MIXTRAL && !m->merged ? "block_sparse_moe.gate.weight" : "mlp.gate.weight",
        o->gguf ? PS_TYPE_F32 : m->type, m->experts, m->hidden, PLAIN);
    experts(o, layer);
    if (!m->qwen3_5)
        return;
    vector(o, layer, "ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", m->hidden,
           PLAIN);
    matrix(o, layer, "ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight", m->shared,
           m->hidden);
    matrix(o, layer, "ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", m->shared,
           m->hidden);
    matrix(o, layer, "ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight", m->hidden,
           m->shared);
}

static void layer(const struct out *o, int i, bool is_attention)
{
    const struct tiny_model *m = o->m;

    vector(o, i, "attn_norm.weight", "input_layernorm.weight", m->hidden, norm(o));
    put(o, i, "ffn_norm.weight", m->qwen3_5 ? "post_attention_norm.weight" : "ffn_norm.weight",
        "post_attention_layernorm.weight", o->gguf ? PS_TYPE_F32 : m->type, 1, m->hidden, norm(o));
    if (is_attention)
        attention(o, i);
    else
        delta(o, i);
    feed_forward(o, i);
}

/* A layer behind the others, and what leads to it (spec A.7, B.2). */
static void prediction(const struct out *o)
{
    const struct tiny_model *m = o->m;
    int i = (int)m->layers;

    layer(o, i, true);
    matrix(o, i, "nextn.eh_proj.weight", "mtp.fc.weight", m->hidden, 2ull * m->hidden);
    vector(o, i, "nextn.enorm.weight", "mtp.pre_fc_norm_embedding.weight", m->hidden, norm(o));
    vector(o, i, "nextn.hnorm.weight", "mtp.pre_fc_norm_hidden.weight", m->hidden, norm(o));
    vector(o, i, "nextn.shared_head_norm.weight", "mtp.norm.weight", m->hidden, norm(o));
}

static void model(const struct out *o)
{
    const struct tiny_model *m = o->m;

    matrix(o, -1, "token_embd.weight", "embed_tokens.weight", m->vocab, m->hidden);
    vector(o, -1, "output_norm.weight", "norm.weight", m->hidden, norm(o));
    if (!m->tied)
        matrix(o, -1, "output.weight", "lm_head.weight", m->vocab, m->hidden);
    for (int i = 0; i < (int)m->layers; i++)
        layer(o, i, !m->qwen3_5 || i % 4 == 3);
    if (m->prediction)
        prediction(o);
}

static void arch_u32(struct source_writer *w, const char *arch, const char *key, uint32_t v)
{
    char full[96];

    snprintf(full, sizeof(full), "%s.%s", arch, key);
    writer_key_u32(w, full, v);
}

static void gguf_keys(const struct tiny_model *m, struct source_writer *w)
{
    bool plain_width = m->kind == TINY_OLMOE || m->kind == TINY_MIXTRAL;
    const char *a = arch_names(m)[2];
    char full[96];

    writer_key_text(w, "general.architecture", a);
    writer_key_text(w, "general.name", "tiny");
    arch_u32(w, a, "block_count", m->layers + m->prediction);
    if (m->prediction)
        arch_u32(w, a, "nextn_predict_layers", 1);
    arch_u32(w, a, "context_length", m->context ? m->context : 512);
    arch_u32(w, a, "embedding_length", m->hidden);
    arch_u32(w, a, "feed_forward_length", plain_width ? m->width : m->dense);
    arch_u32(w, a, "attention.head_count", m->heads);
    arch_u32(w, a, "attention.head_count_kv", m->kv_heads);
    if (!m->implicit_head_dim)
        arch_u32(w, a, "attention.key_length", m->head_dim);
    arch_u32(w, a, "attention.value_length", m->head_dim);
    arch_u32(w, a, "expert_count", m->experts);
    arch_u32(w, a, "expert_used_count", m->used);
    if (!plain_width)
        arch_u32(w, a, "expert_feed_forward_length", m->width);
    if (m->clip > 0) {
        snprintf(full, sizeof(full), "%s.attention.clamp_kqv", a);
        writer_key_f32(w, full, m->clip);
    }
    snprintf(full, sizeof(full), "%s.attention.layer_norm_rms_epsilon", a);
    writer_key_f32(w, full, 1e-6f);
    snprintf(full, sizeof(full), "%s.rope.freq_base", a);
    writer_key_f32(w, full, 1e6f);
    writer_key_u32(w, "tokenizer.ggml.eos_token_id", 7);
    if (m->yarn) {
        snprintf(full, sizeof(full), "%s.rope.scaling.type", a);
        writer_key_text(w, full, "yarn");
        snprintf(full, sizeof(full), "%s.rope.scaling.factor", a);
        writer_key_f32(w, full, 4);
        arch_u32(w, a, "rope.scaling.original_context_length", 256);
    }
    if (!m->qwen3_5)
        return;
    arch_u32(w, a, "rope.dimension_count", m->head_dim / 4);
    arch_u32(w, a, "expert_shared_feed_forward_length", m->shared);
    arch_u32(w, a, "ssm.conv_kernel", m->taps);
    arch_u32(w, a, "ssm.state_size", m->k_dim);
    arch_u32(w, a, "ssm.group_count", m->k_heads);
    arch_u32(w, a, "ssm.time_step_rank", m->v_heads);
    arch_u32(w, a, "ssm.inner_size", m->v_heads * m->v_dim);
    arch_u32(w, a, "full_attention_interval", 4);
}

void tiny_gguf(const struct tiny_model *m, struct source_writer *w)
{
    struct out o = {m, w, true, ""};

    writer_init(w);
    gguf_keys(m, w);
    model(&o);
}

void tiny_safetensors(const struct tiny_model *m, struct source_writer *w)
{
    struct out o = {m, w, false, m->multimodal ? "model.language_model." : "model."};
    const float zeroes[16] = {0};
    const uint64_t dims[] = {4, 4};

    writer_init(w);
    model(&o);
    if (m->multimodal) {
        writer_add(w, "model.visual.blocks.0.attn.qkv.weight", PS_TYPE_BF16, zeroes, 2, dims);
        writer_add(w, "model.visual.patch_embed.proj.weight", PS_TYPE_BF16, zeroes, 2, dims);
    }
}

char *tiny_config(const struct tiny_model *m)
{
    char *text = NULL, head_dim[32] = "";
    bool plain_width = m->kind == TINY_OLMOE || m->kind == TINY_MIXTRAL;

    if (!m->implicit_head_dim)
        snprintf(head_dim, sizeof(head_dim), "\"head_dim\":%u,", m->head_dim);
    int n = asprintf(
        &text,
        "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",%s"
        "\"vocab_size\":%u,\"hidden_size\":%u,\"num_hidden_layers\":%u,"
        "\"num_attention_heads\":%u,\"num_key_value_heads\":%u,%s"
        "\"%s\":%u,\"num_experts_per_tok\":%u,\"moe_intermediate_size\":%u,"
        "\"intermediate_size\":%u,\"mlp_only_layers\":[%s],\"rms_norm_eps\":1e-06,"
        "\"max_position_embeddings\":512,\"hidden_act\":\"silu\",\"attention_bias\":false,"
        "\"linear_num_key_heads\":%u,\"linear_num_value_heads\":%u,\"linear_key_head_dim\":%u,"
        "\"linear_value_head_dim\":%u,\"linear_conv_kernel_dim\":%u,\"rope_theta\":1000000.0,"
        "\"eos_token_id\":7,\"clip_qkv\":%g%s%s,\"tie_word_embeddings\":%s}",
        arch_names(m)[0], arch_names(m)[1], m->multimodal ? "\"text_config\":{" : "", m->vocab,
        m->hidden, m->layers, m->heads, m->kv_heads, head_dim,
        m->kind == TINY_MIXTRAL ? "num_local_experts" : "num_experts", m->experts, m->used,
        m->width, plain_width ? m->width : m->dense, m->dense ? "0" : "", m->k_heads, m->v_heads,
        m->k_dim, m->v_dim, m->taps, (double)m->clip,
        m->yarn ? ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,"
                  "\"original_max_position_embeddings\":256}"
                : "",
        m->multimodal ? "}" : "", m->tied ? "true" : "false");

    assert_true(n > 0);
    return text;
}

const char *tiny_write_gguf(const struct tiny_model *m, const char *dir)
{
    static char path[4096];
    struct source_writer *w = malloc(sizeof(*w));
    struct writer_bytes b;

    assert_non_null(w);
    tiny_gguf(m, w);
    b = writer_gguf(w, 0, w->tensor_count);
    ps_test_file_write(dir, "tiny.gguf", b.data, b.bytes);
    snprintf(path, sizeof(path), "%s/tiny.gguf", dir);
    free(b.data);
    writer_fini(w);
    free(w);
    return path;
}

const char *tiny_write_safetensors(const struct tiny_model *m, const char *dir)
{
    static char path[4096];
    struct source_writer *w = malloc(sizeof(*w));
    struct writer_bytes b;
    char *config = tiny_config(m);

    assert_non_null(w);
    tiny_safetensors(m, w);
    b = writer_safetensors(w, 0, w->tensor_count);
    ps_test_file_write(dir, "hf/model.safetensors", b.data, b.bytes);
    ps_test_file_write(dir, "hf/config.json", config, strlen(config));
    snprintf(path, sizeof(path), "%s/hf", dir);
    free(b.data);
    free(config);
    writer_fini(w);
    free(w);
    return path;
}
