/*
 * Gated DeltaNet (spec A.5), in its recurrent form for prompts too: each value head walks through
 * the chunk's tokens with its state in cache. So a token's value does not depend on where a prompt
 * was cut, and prompt and decode agree to the bit (docs/decisions/0003).
 */
#include <math.h>
#include <string.h>

#include "core/util.h"
#include "model/engine.h"

#define L2_EPS 1e-6f /* the reference's constant, not the model's eps (spec A.3) */

/* Of the sequence that a token belongs to: [v_heads, dk, dv]. */
static float *state_delta(struct ps_engine *engine, uint32_t delta_idx, uint32_t token)
{
    uint8_t *base = engine->work.tokens[token].session->state + engine->state.kv_bytes;

    return (float *)(void *)(base + delta_idx * engine->state.delta_layer_bytes);
}

/* Blocks of [taps - 1, PS_CONV_BLOCK] channels, the last one narrower. */
static float *state_conv(struct ps_engine *engine, uint32_t delta_idx, uint32_t token)
{
    uint8_t *base = engine->work.tokens[token].session->state + engine->state.kv_bytes +
                    engine->state.delta_count * engine->state.delta_layer_bytes;

    return (float *)(void *)(base + delta_idx * engine->state.conv_layer_bytes);
}

struct delta_run {
    uint32_t layer, n;
    uint32_t delta_idx;
    uint32_t channels;
    uint32_t k_offset, v_offset; /* of the k and v parts in a row of work.wide */
};

/* A block of channels through all tokens, in place: the history is private to the block. */
static void conv_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t block)
{
    const struct delta_run *run = ctx;
    uint32_t taps = engine->config->conv_taps;
    uint32_t first = (uint32_t)block * PS_CONV_BLOCK;
    uint32_t count = run->channels - first < PS_CONV_BLOCK ? run->channels - first : PS_CONV_BLOCK;
    const float *w =
        ps_weight_f32(ps_layer_weight(engine, run->layer, PS_ROLE_DELTA_CONV)) + first * taps;
    float *tmp = ps_thread_scratch(engine, thread_idx);

    for (uint32_t t = 0; t < run->n; t++) {
        float *u = engine->work.wide + t * engine->work.wide_cols + first;
        float *history = state_conv(engine, run->delta_idx, t) + (size_t)first * (taps - 1);
        engine->k->conv_step(tmp, history, u, w, count, taps);
        memcpy(u, tmp, count * sizeof(float));
    }
}

static void head_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t head)
{
    const struct delta_run *run = ctx;
    const struct ps_config *c = engine->config;
    const struct ps_kernels *k = engine->k;
    size_t dk = c->delta_k_dim, dv = c->delta_v_dim;
    uint64_t key_head =
        c->delta_tiled ? head % c->delta_k_heads : head / (c->delta_v_heads / c->delta_k_heads);
    float a = ps_weight_f32(ps_layer_weight(engine, run->layer, PS_ROLE_DELTA_A))[head];
    float dt = ps_weight_f32(ps_layer_weight(engine, run->layer, PS_ROLE_DELTA_DT))[head];
    const float *norm = ps_weight_f32(ps_layer_weight(engine, run->layer, PS_ROLE_DELTA_NORM));
    float *q = ps_thread_scratch(engine, thread_idx), *key = q + dk, *o = key + dk, *tmp = o + dv;

    for (uint32_t t = 0; t < run->n; t++) {
        float *state = state_delta(engine, run->delta_idx, t) + head * dk * dv;
        const float *u = engine->work.wide + t * engine->work.wide_cols;
        const float *z = engine->work.z + t * engine->work.z_cols + head * dv;
        float *out = engine->work.mix + t * engine->work.mix_cols + head * dv;
        float beta = ps_sigmoidf(engine->work.beta[t * c->delta_v_heads + head]);
        float alpha = engine->work.alpha[t * c->delta_v_heads + head];
        float decay = ps_expf(a * ps_softplusf(alpha + dt));

        k->l2norm(q, u + key_head * dk, dk, L2_EPS, 1.0f / sqrtf((float)dk));
        k->l2norm(key, u + run->k_offset + key_head * dk, dk, L2_EPS, 1.0f);
        k->delta_step(state, q, key, u + run->v_offset + head * dv, o, tmp, dk, dv, decay, beta);
        k->rmsnorm(o, o, norm, dv, c->norm_eps);
        k->swiglu(out, z, o, dv);
    }
}

void ps_delta_run(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    const struct ps_config *c = engine->config;
    struct ps_work *w = &engine->work;
    uint32_t kd = c->delta_k_heads * c->delta_k_dim;
    struct delta_run run = {
        .layer = layer,
        .n = n,
        .delta_idx = engine->layers[layer].mixer_idx,
        .channels = 2 * kd + c->delta_v_heads * c->delta_v_dim,
        .k_offset = kd,
        .v_offset = 2 * kd,
    };
    size_t h = c->hidden, heads = c->delta_v_heads;
    struct ps_linear in[4] = {
        {ps_layer_weight(engine, layer, PS_ROLE_DELTA_QKV), w->xn, h, w->wide, w->wide_cols},
        {ps_layer_weight(engine, layer, PS_ROLE_DELTA_Z), w->xn, h, w->z, w->z_cols},
        {ps_layer_weight(engine, layer, PS_ROLE_DELTA_BETA), w->xn, h, w->beta, heads},
        {ps_layer_weight(engine, layer, PS_ROLE_DELTA_ALPHA), w->xn, h, w->alpha, heads},
    };
    struct ps_linear out = {ps_layer_weight(engine, layer, PS_ROLE_DELTA_OUT), w->mix, w->mix_cols,
                            w->y, h};

    ps_linear_run(engine, in, 4, n);
    ps_tasks_run(engine, conv_task, &run, ps_div_up(run.channels, PS_CONV_BLOCK));
    ps_tasks_run(engine, head_task, &run, heads);
    ps_linear_run(engine, &out, 1, n);
}
