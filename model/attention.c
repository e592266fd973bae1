/*
 * Softmax attention with grouped KV heads, optional per-head norms and output gate (spec A.4,
 * A.10). Every (token, head) is computed by itself over the positions in ascending order, so
 * neither the cut of a prompt nor the number of threads can change its value.
 */
#include <math.h>

#include "model/engine.h"

static float *state_k(struct ps_engine *engine, uint32_t attention_idx)
{
    uint8_t *base = engine->state_region.base;

    return (float *)(void *)(base + attention_idx * engine->state.kv_layer_bytes);
}

static float *state_v(struct ps_engine *engine, uint32_t attention_idx)
{
    return state_k(engine, attention_idx) + engine->state.kv_row * engine->options.ctx;
}

struct attention_run {
    uint32_t layer, position, n;
    uint32_t q_stride; /* floats between the queries of two heads in work.wide */
    float *k, *v;      /* [ctx, kv_row] */
};

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

/* One task per token: its query heads, and its key and value heads where they lie in the cache. */
static void prepare_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t token)
{
    const struct attention_run *run = ctx;
    const struct ps_config *c = engine->config;
    float *q = engine->work.wide + token * engine->work.wide_cols;
    float *k = run->k + (run->position + token) * engine->state.kv_row;

    (void)thread_idx;
    prepare_heads(engine, q, c->head_count, run->q_stride,
                  ps_layer_weight(engine, run->layer, PS_ROLE_ATTN_Q_NORM), (uint32_t)token);
    prepare_heads(engine, k, c->kv_head_count, c->head_dim,
                  ps_layer_weight(engine, run->layer, PS_ROLE_ATTN_K_NORM), (uint32_t)token);
    if (c->qkv_clip > 0)
        clip(run->v + (run->position + token) * engine->state.kv_row, engine->state.kv_row,
             c->qkv_clip);
}

static void head_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task)
{
    const struct attention_run *run = ctx;
    const struct ps_config *c = engine->config;
    const struct ps_kernels *k = engine->k;
    /* Heads of one token that share keys are neighbours, so their thread finds these in its cache.
     */
    uint64_t token = task / c->head_count, head = task % c->head_count;
    size_t kv = head / (c->head_count / c->kv_head_count) * c->head_dim;
    size_t positions = run->position + token + 1;
    const float *q = engine->work.wide + token * engine->work.wide_cols + head * run->q_stride;
    float *out = engine->work.mix + token * engine->work.mix_cols + head * c->head_dim;
    float *score = ps_thread_scratch(engine, thread_idx);

    for (size_t p = 0; p < positions; p++)
        score[p] = k->dot(q, run->k + p * engine->state.kv_row + kv, c->head_dim);
    k->scale(score, 1.0f / sqrtf((float)c->head_dim), score, positions);
    k->softmax(score, positions);
    k->scale(out, score[0], run->v + kv, c->head_dim);
    for (size_t p = 1; p < positions; p++)
        k->axpy(out, score[p], run->v + p * engine->state.kv_row + kv, c->head_dim);
    if (c->attn_gate)
        k->sigmoid_mul(out, out, q + c->head_dim, c->head_dim);
}

void ps_attention_run(struct ps_engine *engine, uint32_t layer, uint32_t position, uint32_t n)
{
    const struct ps_config *c = engine->config;
    struct ps_work *w = &engine->work;
    uint32_t idx = engine->layers[layer].mixer_idx;
    struct attention_run run = {
        .layer = layer,
        .position = position,
        .n = n,
        .q_stride = c->attn_gate ? 2 * c->head_dim : c->head_dim,
        .k = state_k(engine, idx),
        .v = state_v(engine, idx),
    };
    size_t row = engine->state.kv_row, h = c->hidden;
    struct ps_linear in[3] = {
        {ps_layer_weight(engine, layer, PS_ROLE_ATTN_Q), w->xn, h, w->wide, w->wide_cols},
        {ps_layer_weight(engine, layer, PS_ROLE_ATTN_K), w->xn, h, run.k + position * row, row},
        {ps_layer_weight(engine, layer, PS_ROLE_ATTN_V), w->xn, h, run.v + position * row, row},
    };
    struct ps_linear out = {ps_layer_weight(engine, layer, PS_ROLE_ATTN_OUT), w->mix, w->mix_cols,
                            w->y, h};

    ps_linear_run(engine, in, 3, n);
    ps_tasks_run(engine, prepare_task, &run, n);
    ps_tasks_run(engine, head_task, &run, (uint64_t)n * c->head_count);
    ps_linear_run(engine, &out, 1, n);
}
