/*
 * Softmax attention with grouped KV heads, optional per-head norms and output gate (spec A.4,
 * A.10). The positions are taken in parts of PS_ATTENTION_PART that begin at multiples of it, with
 * the largest score so far (arXiv:2205.14135 section 3.1): the parts of a token depend on its
 * position alone, and its heads not on each other, so neither the cut of a prompt nor the number of
 * threads can change its value. K and V are stored as options.kv says (docs/decisions/0010) and
 * read as they are stored.
 *
 * With a window (docs/decisions/0011) a token sees the first PS_KV_SINKS positions, as a part of
 * their own, and the last kv_window, whose first part begins where the window does: again a matter
 * of its position alone. Rows are then kept in a ring of whole parts, so that none wraps round.
 */
#include <math.h>
#include <string.h>

#include "core/util.h"
#include "model/engine.h"
#include "quant/type.h"

struct attention_run {
    uint32_t layer;
    uint32_t attention_idx;
    uint32_t first, count; /* tokens of the chunk that are stored and then attend together */
    uint32_t q_stride;     /* floats between the queries of two heads in work.wide */
    uint32_t heads_each;   /* heads of one task: they share a KV head */
    uint32_t group_tasks;  /* tasks of one KV head */
};

/* The keys of a token's sequence: rows of state.kv_row_bytes, the ring and then the sinks. */
static uint8_t *state_k(const struct ps_engine *engine, const struct attention_run *run,
                        uint64_t token)
{
    uint8_t *base = engine->work.tokens[token].session->state;

    return base + run->attention_idx * engine->state.kv_layer_bytes;
}

static uint8_t *state_v(const struct ps_engine *engine, const struct attention_run *run,
                        uint64_t token)
{
    return state_k(engine, run, token) + engine->state.kv_layer_bytes / 2;
}

/* The new keys and values of a token, [kv_row] each, before they are stored. */
static float *new_k(const struct ps_engine *engine, uint64_t token)
{
    return engine->work.z + token * engine->work.z_cols;
}

static float *new_v(const struct ps_engine *engine, uint64_t token)
{
    return new_k(engine, token) + engine->state.kv_row;
}

static void clip(float *v, size_t n, float limit)
{
    for (size_t i = 0; i < n; i++)
        v[i] = v[i] > limit ? limit : v[i] < -limit ? -limit : v[i];
}

/* Norm, clipping and rotation of the heads of one token; `norm` may be absent. A norm over all
 * heads at once needs them without gaps, so models with output gates have none. */
static void prepare_heads(struct ps_engine *engine, float *heads, uint32_t count, size_t stride,
                          const struct ps_weight *norm, uint32_t token)
{
    const struct ps_config *c = engine->config;
    size_t half = c->rope_dims / 2;

    if (norm->data && c->qk_norm_whole)
        engine->k->rmsnorm(heads, heads, ps_weight_f32(norm), (size_t)count * c->head_dim,
                           c->norm_eps);
    for (uint32_t h = 0; h < count; h++) {
        float *head = heads + h * stride;
        if (norm->data && !c->qk_norm_whole)
            engine->k->rmsnorm(head, head, ps_weight_f32(norm), c->head_dim, c->norm_eps);
        if (c->qkv_clip > 0)
            clip(head, c->head_dim, c->qkv_clip);
        engine->k->rope(head, engine->work.rope_cos + token * half,
                        engine->work.rope_sin + token * half, half);
    }
}

/* One task per token: its query heads, and its new keys and values. */
static void prepare_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t token)
{
    const struct attention_run *run = ctx;
    const struct ps_config *c = engine->config;
    float *q = engine->work.wide + token * engine->work.wide_cols;
    float *k = new_k(engine, token);

    (void)thread_idx;
    prepare_heads(engine, q, c->head_count, run->q_stride,
                  ps_layer_weight(engine, run->layer, PS_ROLE_ATTN_Q_NORM), (uint32_t)token);
    prepare_heads(engine, k, c->kv_head_count, c->head_dim,
                  ps_layer_weight(engine, run->layer, PS_ROLE_ATTN_K_NORM), (uint32_t)token);
    if (c->qkv_clip > 0)
        clip(new_v(engine, token), engine->state.kv_row, c->qkv_clip);
}

static void store_row(const struct ps_engine *engine, const float *values, uint8_t *row)
{
    const struct ps_state_shape *s = &engine->state;

    if (s->kv_type == PS_TYPE_F16)
        engine->k->to_half((uint16_t *)(void *)row, values, s->kv_row);
    else
        ps_row_encode(s->kv_type, values, row, s->kv_row);
}

static void store_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task)
{
    const struct attention_run *run = ctx;
    const struct ps_state_shape *s = &engine->state;
    uint64_t token = run->first + task, position = engine->work.tokens[token].position;
    uint64_t at = position % s->kv_rows * s->kv_row_bytes;
    uint8_t *k = state_k(engine, run, token), *v = state_v(engine, run, token);

    (void)thread_idx;
    store_row(engine, new_k(engine, token), k + at);
    store_row(engine, new_v(engine, token), v + at);
    if (s->kv_sink_row > 0 && position < PS_KV_SINKS) {
        uint64_t sink = (s->kv_sink_row + position) * s->kv_row_bytes;
        memcpy(k + sink, k + at, s->kv_row_bytes);
        memcpy(v + sink, v + at, s->kv_row_bytes);
    }
}

/* Heads of one token that share a KV head. */
struct attention_heads {
    uint32_t count;
    const float *q; /* [count, q_stride] */
    size_t q_stride;
    const uint8_t *k, *v; /* their part of position 0's row */
    float *out;           /* [count, head_dim] */
    float *score;         /* [count, PS_ATTENTION_PART] */
    float max[PS_ATTENTION_HEADS], sum[PS_ATTENTION_HEADS];
};

/* Rows [row, row + n): positions of one part. */
static void add_part(const struct ps_engine *engine, struct attention_heads *h, uint64_t row,
                     uint32_t n)
{
    const struct ps_state_shape *s = &engine->state;
    size_t dim = engine->config->head_dim;
    struct ps_matmul scores = {
        .type = s->kv_type,
        .w = h->k + row * s->kv_row_bytes,
        .w_stride_bytes = s->kv_row_bytes,
        .rows = n,
        .cols = dim,
        .x = h->q,
        .ldx = h->q_stride,
        .y = h->score,
        .ldy = PS_ATTENTION_PART,
        .n = h->count,
    };
    struct ps_weighted_sum values = {
        .type = s->kv_type,
        .v = h->v + row * s->kv_row_bytes,
        .v_stride_bytes = s->kv_row_bytes,
        .positions = n,
        .dim = dim,
        .weight = h->score,
        .ldw = PS_ATTENTION_PART,
        .y = h->out,
        .ldy = dim,
        .n = h->count,
    };

    engine->k->matmul(&scores);
    for (uint32_t i = 0; i < h->count; i++) {
        float factor = engine->k->softmax_part(h->score + (size_t)i * PS_ATTENTION_PART, n,
                                               1.0f / sqrtf((float)dim), &h->max[i], &h->sum[i]);
        engine->k->scale(h->out + i * dim, factor, h->out + i * dim, dim);
    }
    engine->k->weighted_sum(&values);
}

/* What the last of the first `positions` tokens sees. A window that reaches down to the sinks is
 * one range with them, cut as it is without a window. */
static void add_seen(const struct ps_engine *engine, struct attention_heads *h, uint32_t positions)
{
    const struct ps_state_shape *s = &engine->state;
    uint32_t at = positions > s->kv_window ? positions - s->kv_window : 0;

    if (at > PS_KV_SINKS)
        add_part(engine, h, s->kv_sink_row, PS_KV_SINKS);
    else
        at = 0;
    while (at < positions) {
        uint32_t part_left = PS_ATTENTION_PART - at % PS_ATTENTION_PART;
        uint32_t n = (uint32_t)ps_min_u64(part_left, positions - at);
        add_part(engine, h, at % s->kv_rows, n);
        at += n;
    }
}

static void heads_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task)
{
    const struct attention_run *run = ctx;
    const struct ps_config *c = engine->config;
    size_t dim = c->head_dim;
    uint32_t group = c->head_count / c->kv_head_count;
    /* Tasks of one token that share keys are neighbours, so these are found in a cache. */
    uint32_t part = (uint32_t)(task % run->group_tasks) * run->heads_each;
    uint64_t kv = task / run->group_tasks % c->kv_head_count;
    uint64_t token = run->first + task / run->group_tasks / c->kv_head_count;
    uint64_t head = kv * group + part, kv_offset = ps_row_bytes(engine->state.kv_type, kv * dim);
    struct attention_heads h = {
        .count = (uint32_t)ps_min_u64(run->heads_each, group - part),
        .q = engine->work.wide + token * engine->work.wide_cols + head * run->q_stride,
        .q_stride = run->q_stride,
        .k = state_k(engine, run, token) + kv_offset,
        .v = state_v(engine, run, token) + kv_offset,
        .out = engine->work.mix + token * engine->work.mix_cols + head * dim,
        .score = ps_thread_scratch(engine, thread_idx),
    };

    memset(h.out, 0, h.count * dim * sizeof(float));
    for (uint32_t i = 0; i < h.count; i++)
        h.max[i] = -INFINITY;
    add_seen(engine, &h, engine->work.tokens[token].position + 1);
    for (uint32_t i = 0; i < h.count; i++) {
        float *out = h.out + i * dim;
        engine->k->scale(out, 1 / h.sum[i], out, dim);
        if (c->attn_gate)
            engine->k->sigmoid_mul(out, out, h.q + i * run->q_stride + dim, dim);
    }
}

/* Heads together read their keys once, but every thread should have a task. */
static void deal_heads(const struct ps_engine *engine, struct attention_run *run)
{
    const struct ps_config *c = engine->config;
    uint32_t group = c->head_count / c->kv_head_count;
    uint64_t tasks = (uint64_t)run->count * c->kv_head_count,
             wanted = 2ull * (uint64_t)engine->thread_count;
    uint64_t parts = ps_max_u64(ps_div_up(group, PS_ATTENTION_HEADS), ps_div_up(wanted, tasks));

    run->heads_each = (uint32_t)ps_div_up(group, ps_min_u64(parts, group));
    run->group_tasks = (uint32_t)ps_div_up(group, run->heads_each);
}

/*
 * Tokens that can be stored together. Where the ring is shorter than the context a token's row
 * takes the place of one that the tokens before it may still see, so that those of a sequence's
 * next part have to wait.
 */
static uint32_t count_together(const struct ps_engine *engine, uint32_t first, uint32_t n)
{
    const struct ps_sequence_token *t = engine->work.tokens;
    uint32_t end = first + 1;

    if (engine->state.kv_sink_row == 0)
        return n - first;
    while (end < n &&
           (t[end].session != t[end - 1].session || t[end].position % PS_ATTENTION_PART != 0))
        end++;
    return end - first;
}

void ps_attention_run(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    const struct ps_config *c = engine->config;
    struct ps_work *w = &engine->work;
    struct attention_run run = {
        .layer = layer,
        .attention_idx = engine->layers[layer].mixer_idx,
        .q_stride = c->attn_gate ? 2 * c->head_dim : c->head_dim,
    };
    size_t h = c->hidden;
    struct ps_linear in[3] = {
        {ps_layer_weight(engine, layer, PS_ROLE_ATTN_Q), w->xn, h, w->wide, w->wide_cols},
        {ps_layer_weight(engine, layer, PS_ROLE_ATTN_K), w->xn, h, new_k(engine, 0), w->z_cols},
        {ps_layer_weight(engine, layer, PS_ROLE_ATTN_V), w->xn, h, new_v(engine, 0), w->z_cols},
    };
    struct ps_linear out = {ps_layer_weight(engine, layer, PS_ROLE_ATTN_OUT), w->mix, w->mix_cols,
                            w->y, h};

    ps_linear_run(engine, in, 3, n);
    ps_tasks_run(engine, prepare_task, &run, n);
    for (run.first = 0; run.first < n; run.first += run.count) {
        run.count = count_together(engine, run.first, n);
        ps_tasks_run(engine, store_task, &run, run.count);
        deal_heads(engine, &run);
        ps_tasks_run(engine, heads_task, &run,
                     (uint64_t)run.count * c->kv_head_count * run.group_tasks);
    }
    ps_linear_run(engine, &out, 1, n);
}
