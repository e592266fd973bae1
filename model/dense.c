/* Dense feed-forward blocks: those of dense layers, and the shared expert of MoE layers. */
#include "model/engine.h"

static void swiglu_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t token)
{
    const uint32_t *width = ctx;
    float *gate = engine->work.wide + token * engine->work.wide_cols;

    (void)thread_idx;
    engine->k->swiglu(gate, gate, engine->work.z + token * engine->work.z_cols, *width);
}

/* y = down(silu(gate x) * up x) with resident matrices; the down input is work.wide. */
static void dense_ffn(struct ps_engine *engine, const struct ps_weight *gate,
                      const struct ps_weight *up, const struct ps_weight *down, uint32_t n)
{
    struct ps_work *w = &engine->work;
    size_t h = engine->config->hidden;
    uint32_t width = gate->rows;
    struct ps_linear in[2] = {{gate, w->xn, h, w->wide, w->wide_cols},
                              {up, w->xn, h, w->z, w->z_cols}};
    struct ps_linear out = {down, w->wide, w->wide_cols, w->y, h};

    ps_linear_run(engine, in, 2, n);
    ps_tasks_run(engine, swiglu_task, &width, n);
    ps_linear_run(engine, &out, 1, n);
}

void ps_dense_run(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    dense_ffn(engine, ps_layer_weight(engine, layer, PS_ROLE_DENSE_GATE),
              ps_layer_weight(engine, layer, PS_ROLE_DENSE_UP),
              ps_layer_weight(engine, layer, PS_ROLE_DENSE_DOWN), n);
}

void ps_shared_run(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    dense_ffn(engine, ps_layer_weight(engine, layer, PS_ROLE_SHARED_GATE),
              ps_layer_weight(engine, layer, PS_ROLE_SHARED_UP),
              ps_layer_weight(engine, layer, PS_ROLE_SHARED_DOWN), n);
}
