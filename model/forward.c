/* The forward pass: embedding, layers, head. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "core/util.h"
#include "model/engine.h"
#include "model/predictor.h"

struct norm_run {
    const float *weight;
    const float *x;
    float *y;
};

static void norm_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t token)
{
    const struct norm_run *run = ctx;
    size_t h = engine->config->hidden;

    (void)thread_idx;
    engine->k->rmsnorm(run->y + token * h, run->x + token * h, run->weight, h,
                       engine->config->norm_eps);
}

static void norm(struct ps_engine *engine, const struct ps_weight *w, const float *x, uint32_t n)
{
    struct norm_run run = {ps_weight_f32(w), x, engine->work.xn};

    ps_tasks_run(engine, norm_task, &run, n);
}

static void residual_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t token)
{
    size_t h = engine->config->hidden;

    (void)ctx;
    (void)thread_idx;
    engine->k->add(engine->work.x + token * h, engine->work.y + token * h, h);
}

struct embed_run {
    const int32_t *ids;
};

/* The token's row of the embedding, and the angles of its position. */
static void embed_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t token)
{
    const struct embed_run *run = ctx;
    const struct ps_weight *w = &engine->embed;
    uint32_t half = engine->config->rope_dims / 2;
    double scale = (double)engine->config->rope_scale;

    (void)thread_idx;
    ps_row_decode(w->type, w->data + (uint64_t)run->ids[token] * w->stride_bytes,
                  engine->work.x + token * w->cols, w->cols);
    for (uint32_t j = 0; j < half; j++) {
        double angle = (double)engine->inv_freq[j] * engine->work.tokens[token].position;
        engine->work.rope_cos[token * half + j] = (float)(scale * cos(angle));
        engine->work.rope_sin[token * half + j] = (float)(scale * sin(angle));
    }
}

static int run_layer(struct ps_engine *engine, uint32_t layer, uint32_t n, struct ps_error *err)
{
    const struct ps_config_layer *l = &engine->config->layers[layer];
    uint64_t begin_ns = ps_usage_begin(engine);

    engine->layer = layer;
    engine->stage = PS_STAGE_MIXER;
    ps_guess_same_report(engine, layer, n);
    norm(engine, ps_layer_weight(engine, layer, PS_ROLE_ATTN_NORM), engine->work.x, n);
    if (l->mixer == PS_MIXER_ATTENTION)
        ps_attention_run(engine, layer, n);
    else
        ps_delta_run(engine, layer, n);
    ps_tasks_run(engine, residual_task, NULL, n);
    engine->stage = l->ffn == PS_FFN_MOE ? PS_STAGE_ROUTER : PS_STAGE_DENSE;
    norm(engine, ps_layer_weight(engine, layer, PS_ROLE_FFN_NORM), engine->work.x, n);
    if (l->ffn == PS_FFN_MOE) {
        int rc = ps_moe_run(engine, layer, n, err);
        if (rc < 0)
            return rc;
    } else {
        ps_dense_run(engine, layer, n);
    }
    ps_tasks_run(engine, residual_task, NULL, n);
    ps_usage_record(engine, PS_EVENT_LAYER, begin_ns, layer, n);
    return 0;
}

int ps_forward_chunk(struct ps_engine *engine, const int32_t *ids, uint32_t n, struct ps_error *err)
{
    uint64_t begin_ns = ps_usage_begin(engine);

    ps_tasks_run(engine, embed_task, &(struct embed_run){ids}, n);
    for (uint32_t layer = 0; layer < engine->config->layer_count; layer++) {
        if (engine->options.stop && *engine->options.stop)
            return ps_error_set(err, -EINTR, NULL, "stopped");
        int rc = run_layer(engine, layer, n, err);
        if (rc < 0)
            return rc;
    }
    ps_usage_record(engine, PS_EVENT_EVAL, begin_ns, n, engine->work.tokens[0].position);
    return 0;
}

void ps_forward_logits(struct ps_engine *engine, uint32_t first, uint32_t n, uint32_t row)
{
    const float *x = engine->work.x + (uint64_t)first * engine->config->hidden;
    struct ps_linear head = {&engine->head, engine->work.xn, engine->config->hidden,
                             engine->work.logits + (uint64_t)row * engine->config->vocab_rows,
                             engine->config->vocab_rows};
    uint64_t begin_ns = ps_usage_begin(engine);

    engine->layer = engine->config->layer_count;
    engine->stage = PS_STAGE_HEAD;
    norm(engine, &engine->out_norm, x, n);
    ps_linear_run(engine, &head, 1, n);
    ps_usage_record(engine, PS_EVENT_LOGITS, begin_ns, n, 0);
}
