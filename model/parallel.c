/* How work is dealt to the threads, and the dense matrices, which are dealt by rows. */
#include <stdatomic.h>
#include <stdbool.h>

#include "core/topology.h"
#include "core/util.h"
#include "model/engine.h"

struct tasks {
    struct ps_engine *engine;
    ps_task_fn *fn;
    void *ctx;
    uint64_t count, grain;
    _Atomic uint64_t next;
};

/*
 * Light tasks, one for every token of a prompt, are taken several at a time: a counter that all
 * threads change costs as much as some of them. What is left at the end is at most a sixteenth of a
 * thread's share.
 */
#define GRAINS_EACH 16u
#define GRAIN_MAX 16u

static uint64_t grain_of(const struct ps_engine *engine, uint64_t task_count)
{
    uint64_t grain = task_count / ((uint64_t)engine->thread_count * GRAINS_EACH);

    return ps_max_u64(1, ps_min_u64(grain, GRAIN_MAX));
}

static void tasks_thread(void *ctx, int thread_idx, int thread_count)
{
    struct tasks *t = ctx;
    uint64_t begin = ps_usage_clock(t->engine), done = 0;

    (void)thread_count;
    for (;;) {
        uint64_t i = atomic_fetch_add_explicit(&t->next, t->grain, memory_order_relaxed);
        uint64_t end = ps_min_u64(i + t->grain, t->count);
        if (i >= t->count)
            break;
        done += end - i;
        for (; i < end; i++)
            t->fn(t->engine, t->ctx, thread_idx, i);
    }
    if (done > 0)
        ps_usage_thread(t->engine, thread_idx, begin, done);
}

/* Tasks write to places of their own, and none depends on another, so which thread does which
 * cannot change a bit. */
void ps_tasks_run(struct ps_engine *engine, ps_task_fn *fn, void *ctx, uint64_t task_count)
{
    struct tasks t = {.engine = engine,
                      .fn = fn,
                      .ctx = ctx,
                      .count = task_count,
                      .grain = grain_of(engine, task_count)};

    if (task_count <= 1 || engine->thread_count == 1) {
        /* One task alone is a norm or the like, not worth its own measurement. */
        bool is_timed = task_count > 1 || engine->timeline;
        uint64_t begin = is_timed ? ps_usage_clock(engine) : 0;
        for (uint64_t i = 0; i < task_count; i++)
            fn(engine, ctx, 0, i);
        if (is_timed)
            ps_usage_thread(engine, 0, begin, task_count);
        return;
    }
    atomic_init(&t.next, 0);
    ps_pool_offer(engine->pool, tasks_thread, &t);
}

struct store_tasks {
    void (*task)(void *ctx, uint32_t i);
    void *ctx;
};

static void store_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task_idx)
{
    const struct store_tasks *tasks = ctx;

    (void)engine;
    (void)thread_idx;
    tasks->task(tasks->ctx, (uint32_t)task_idx);
}

void ps_store_tasks_run(void *ctx, void (*task)(void *task_ctx, uint32_t i), void *task_ctx,
                        uint32_t count)
{
    struct store_tasks tasks = {task, task_ctx};
    struct ps_engine *engine = ctx;
    uint32_t stage = engine->stage;

    engine->stage = PS_STAGE_CHECK;
    ps_tasks_run(engine, store_task, &tasks, count);
    engine->stage = stage;
}

struct near_tasks {
    struct ps_engine *engine;
    ps_task_fn *fn;
    void *ctx;
    const uint64_t *end;
    _Atomic uint64_t next[PS_NODE_COUNT_MAX];
};

static void near_thread(void *ctx, int thread_idx, int thread_count)
{
    struct near_tasks *t = ctx;
    int own = ps_pool_thread_node(t->engine->pool, thread_idx);
    uint64_t begin = ps_usage_clock(t->engine), done = 0;

    (void)thread_count;
    for (int k = 0; k < t->engine->node_count; k++) {
        int node = (own + k) % t->engine->node_count;
        for (;; done++) {
            uint64_t i = atomic_fetch_add_explicit(&t->next[node], 1, memory_order_relaxed);
            if (i >= t->end[node])
                break;
            t->fn(t->engine, t->ctx, thread_idx, i);
        }
    }
    if (done > 0)
        ps_usage_thread(t->engine, thread_idx, begin, done);
}

void ps_tasks_run_near(struct ps_engine *engine, ps_task_fn *fn, void *ctx,
                       const uint64_t *task_end)
{
    struct near_tasks t = {.engine = engine, .fn = fn, .ctx = ctx, .end = task_end};

    if (engine->node_count == 1) {
        ps_tasks_run(engine, fn, ctx, task_end[0]);
        return;
    }
    for (int n = 0; n < engine->node_count; n++)
        atomic_init(&t.next[n], n ? task_end[n - 1] : 0);
    ps_pool_offer(engine->pool, near_thread, &t);
}

float *ps_thread_scratch(struct ps_engine *engine, int thread_idx)
{
    return engine->work.thread + (uint64_t)thread_idx * engine->work.thread_floats;
}

/* ---- dense matrices -------------------------------------------------------------------------- */

/* Weights per task: small beside L2, large beside the hand-out. */
#define LINEAR_TASK_BYTES (384u << 10)
/* Least rows per task for several tokens: they share what a kernel reads of the tokens. */
#define LINEAR_ROWS 64u
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
    struct ps_product p = {
        .type = item->w->type,
        .w = item->w->data + row * item->w->stride_bytes,
        .w_stride_bytes = item->w->stride_bytes,
        .rows = ps_min_u64(run->task_rows[i], item->w->rows - row),
        .cols = item->w->cols,
        .x = item->x,
        .ldx = item->ldx,
        .xq = engine->work.xq,
        .xq_stride_bytes = engine->work.xq_bytes,
        .y = item->y + row,
        .ldy = item->ldy,
        .n = run->n,
    };
    ps_product_run(engine, &p);
}

void ps_linear_run(struct ps_engine *engine, const struct ps_linear *items, int item_count,
                   uint32_t n)
{
    struct linear_run run = {.items = items, .item_count = item_count, .n = n};
    uint64_t tasks = 0;
    bool q8 = false;

    for (int i = 0; i < item_count; i++)
        q8 |= ps_product_is_q8(engine, items[i].w->type);
    if (q8)
        ps_quantize_rows(engine, &(struct ps_rows){items->x, items->ldx, items->w->cols},
                         engine->work.xq, engine->work.xq_bytes, n);
    for (int i = 0; i < item_count; i++) {
        uint64_t rows = LINEAR_TASK_BYTES / items[i].w->stride_bytes;
        run.task_rows[i] =
            (uint32_t)ps_min_u64(ps_max_u64(rows & ~15ull, n > 1 ? LINEAR_ROWS : 8), 256);
        tasks += ps_div_up(items[i].w->rows, run.task_rows[i]);
        run.task_end[i] = tasks;
    }
    ps_tasks_run(engine, linear_task, &run, tasks);
}
