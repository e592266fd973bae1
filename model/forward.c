/* The forward pass: embedding, layers, head; and how work is dealt to the threads. */
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "core/util.h"
#include "model/engine.h"

/* ---- dealing work --------------------------------------------------------------------------- */

struct tasks {
    struct ps_engine *engine;
    ps_task_fn *fn;
    void *ctx;
    uint64_t count;
    _Atomic uint64_t next;
};

static void tasks_thread(void *ctx, int thread_idx, int thread_count)
{
    struct tasks *t = ctx;

    (void)thread_count;
    for (;;) {
        uint64_t i = atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed);
        if (i >= t->count)
            return;
        t->fn(t->engine, t->ctx, thread_idx, i);
    }
}

/* Tasks write to places of their own, and none depends on another, so which thread does which
 * cannot change a bit. */
void ps_tasks_run(struct ps_engine *engine, ps_task_fn *fn, void *ctx, uint64_t task_count)
{
    struct tasks t = {.engine = engine, .fn = fn, .ctx = ctx, .count = task_count};

    if (task_count <= 1 || engine->thread_count == 1) {
        for (uint64_t i = 0; i < task_count; i++)
            fn(engine, ctx, 0, i);
        return;
    }
    atomic_init(&t.next, 0);
    ps_pool_run(engine->pool, tasks_thread, &t);
}

float *ps_thread_scratch(struct ps_engine *engine, int thread_idx)
{
    return engine->work.thread + (uint64_t)thread_idx * engine->work.thread_floats;
}

/* ---- dense matrices -------------------------------------------------------------------------- */

#define LINEAR_TASK_BYTES                                                                          \
    (64u << 10)         /* weights per task: small beside L2, large beside the hand-out */
#define LINEAR_COLS 32u /* tokens per pass over them, so that these stay in L2, too */
#define LINEAR_ITEM_COUNT_MAX 4

struct linear_run {
    const struct ps_linear *items;
    int item_count;
    uint32_t n;
    uint32_t task_rows[LINEAR_ITEM_COUNT_MAX];
    uint64_t task_end[LINEAR_ITEM_COUNT_MAX]; /* cumulated task counts */
};

static void linear_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task)
{
    const struct linear_run *run = ctx;
    int i = 0;

    (void)thread_idx;
    while (task >= run->task_end[i])
        i++;
    const struct ps_linear *item = &run->items[i];
    uint64_t row = (task - (i ? run->task_end[i - 1] : 0)) * run->task_rows[i];
    struct ps_matmul m = {
        .type = item->w->type,
        .w = item->w->data + row * item->w->stride_bytes,
        .w_stride_bytes = item->w->stride_bytes,
        .rows = ps_min_u64(run->task_rows[i], item->w->rows - row),
        .cols = item->w->cols,
        .ldx = item->ldx,
        .ldy = item->ldy,
    };
    for (uint32_t c = 0; c < run->n; c += LINEAR_COLS) {
        m.x = item->x + c * item->ldx;
        m.y = item->y + c * item->ldy + row;
        m.n = ps_min_u64(LINEAR_COLS, run->n - c);
        engine->k->matmul(&m);
    }
}

void ps_linear_run(struct ps_engine *engine, const struct ps_linear *items, int item_count,
                   uint32_t n)
{
    struct linear_run run = {.items = items, .item_count = item_count, .n = n};
    uint64_t tasks = 0;

    for (int i = 0; i < item_count; i++) {
        uint64_t rows = LINEAR_TASK_BYTES / items[i].w->stride_bytes;
        run.task_rows[i] = (uint32_t)ps_min_u64(ps_max_u64(rows & ~3ull, 4), 256);
        tasks += ps_div_up(items[i].w->rows, run.task_rows[i]);
        run.task_end[i] = tasks;
    }
    ps_tasks_run(engine, linear_task, &run, tasks);
}

/* ---- norms, embedding, head ------------------------------------------------------------------ */

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

static void embed(struct ps_engine *engine, const int32_t *ids, uint32_t n)
{
    const struct ps_weight *w = &engine->embed;

    for (uint32_t i = 0; i < n; i++)
        ps_row_decode(w->type, w->data + (uint64_t)ids[i] * w->stride_bytes,
                      engine->work.x + (uint64_t)i * w->cols, w->cols);
}

static void make_rope(struct ps_engine *engine, uint32_t position, uint32_t n)
{
    uint32_t half = engine->config->rope_dims / 2;

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < half; j++) {
            double angle = (double)engine->inv_freq[j] * (position + i);
            engine->work.rope_cos[i * half + j] = (float)cos(angle);
            engine->work.rope_sin[i * half + j] = (float)sin(angle);
        }
}

static int run_layer(struct ps_session *session, uint32_t layer, uint32_t n, struct ps_error *err)
{
    struct ps_engine *engine = session->engine;
    const struct ps_config_layer *l = &engine->config->layers[layer];

    norm(engine, ps_layer_weight(engine, layer, PS_ROLE_ATTN_NORM), engine->work.x, n);
    if (l->mixer == PS_MIXER_ATTENTION)
        ps_attention_run(engine, layer, session->position, n);
    else
        ps_delta_run(engine, layer, n);
    ps_tasks_run(engine, residual_task, NULL, n);
    norm(engine, ps_layer_weight(engine, layer, PS_ROLE_FFN_NORM), engine->work.x, n);
    if (l->ffn == PS_FFN_MOE) {
        int rc = ps_moe_run(session, layer, session->position, n, err);
        if (rc < 0)
            return rc;
    } else {
        ps_dense_run(engine, layer, n);
    }
    ps_tasks_run(engine, residual_task, NULL, n);
    return 0;
}

int ps_forward_chunk(struct ps_session *session, const int32_t *ids, uint32_t n,
                     struct ps_error *err)
{
    struct ps_engine *engine = session->engine;

    embed(engine, ids, n);
    make_rope(engine, session->position, n);
    for (uint32_t layer = 0; layer < engine->config->layer_count; layer++) {
        if (engine->options.stop && *engine->options.stop)
            return ps_error_set(err, -EINTR, NULL, "stopped");
        int rc = run_layer(session, layer, n, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

void ps_forward_logits(struct ps_engine *engine, uint32_t first, uint32_t n)
{
    const float *x = engine->work.x + (uint64_t)first * engine->config->hidden;
    struct ps_linear head = {&engine->head, engine->work.xn, engine->config->hidden,
                             engine->work.logits, engine->config->vocab_rows};

    norm(engine, &engine->out_norm, x, n);
    ps_linear_run(engine, &head, 1, n);
}

/* ---- dense feed-forward ---------------------------------------------------------------------- */

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
