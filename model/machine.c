/*
 * What this machine's cores do with the products that a model is made of. The kernels run over
 * weights of the model's own types and row lengths, on all threads, in tasks as large as the
 * engine's: a row of 256 columns costs more per byte than one of 4096, and a model that fits into
 * the caches less than one that does not.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/util.h"
#include "model/forecast.h"

#define WEIGHTS_BYTES_MAX (192ull << 20)
#define WEIGHTS_BYTES_MIN (1ull << 20)
#define SAMPLE_NS 10000000u
#define SAMPLES 5
#define RUNS 2000
#define WAKES 1000
#define WAKE_PAUSE_NS 80000
/* Bytes of all types that are numbers of some size, whatever the format: no denormals. */
#define FILL 0x3c

struct measuring {
    const struct ps_kernels *k;
    const struct ps_q8_kernels *q8;
    struct ps_pool *pool;
    struct ps_region weights;
    uint64_t weight_bytes;
    struct ps_forecast_product product;
    uint32_t vectors;
    uint64_t stride, task_rows, task_bytes, tasks;
    float *x;    /* [vectors, cols] */
    uint8_t *xq; /* the same, 8 bits */
    float *y;    /* [threads, vectors, task_rows] */
    _Atomic uint64_t next;
    uint64_t begin_ns;
};

static void task_run(struct measuring *m, uint64_t task, int thread)
{
    const uint8_t *w = (const uint8_t *)m->weights.base + task % m->tasks * m->task_bytes;
    float *y = m->y + (uint64_t)thread * m->vectors * m->task_rows;

    if (m->q8 && ps_q8_has(m->product.type)) {
        struct ps_q8_matmul q = {.type = m->product.type,
                                 .w = w,
                                 .w_stride_bytes = m->stride,
                                 .rows = m->task_rows,
                                 .cols = m->product.cols,
                                 .x = m->xq,
                                 .x_stride_bytes = ps_q8_bytes(m->product.cols),
                                 .y = y,
                                 .ldy = m->task_rows,
                                 .n = m->vectors};
        m->q8->matmul(&q);
        return;
    }
    struct ps_matmul f = {.type = m->product.type,
                          .w = w,
                          .w_stride_bytes = m->stride,
                          .rows = m->task_rows,
                          .cols = m->product.cols,
                          .x = m->x,
                          .ldx = m->product.cols,
                          .y = y,
                          .ldy = m->task_rows,
                          .n = m->vectors};
    m->k->matmul(&f);
}

static void sample_thread(void *ctx, int thread, int threads)
{
    struct measuring *m = ctx;

    (void)threads;
    do
        task_run(m, atomic_fetch_add_explicit(&m->next, 1, memory_order_relaxed), thread);
    while (ps_now_ns() - m->begin_ns < SAMPLE_NS);
}

/* The median of some samples: what a run meets on this machine as it is now. */
static double sample_all(struct measuring *m)
{
    double rates[SAMPLES];

    for (int i = 0; i < SAMPLES; i++) {
        uint64_t first = atomic_load(&m->next);
        m->begin_ns = ps_now_ns();
        ps_pool_run(m->pool, sample_thread, m);
        uint64_t ns = ps_now_ns() - m->begin_ns;
        rates[i] = (double)((atomic_load(&m->next) - first) * m->task_bytes) * 1e9 / (double)ns;
    }
    qsort(rates, SAMPLES, sizeof(*rates), ps_compare_double);
    return rates[SAMPLES / 2];
}

static int measure_one(struct measuring *m, struct ps_machine *machine,
                       const struct ps_forecast_product *product, uint32_t vectors)
{
    int threads = ps_pool_thread_count(m->pool);
    uint64_t xq_bytes = ps_q8_bytes(product->cols);

    m->product = *product;
    m->vectors = vectors;
    m->stride = ps_row_bytes(product->type, product->cols);
    m->task_rows = product->cols <= PS_FOLD_NEURONS ? PS_DOWN_ROWS : PS_UP_ROWS;
    m->task_rows = ps_min_u64(m->task_rows, m->weight_bytes / m->stride);
    m->task_bytes = m->task_rows * m->stride;
    m->tasks = m->weight_bytes / m->task_bytes;
    m->x = aligned_alloc(64, ps_align_up((uint64_t)vectors * product->cols * sizeof(float), 64));
    m->xq = aligned_alloc(64, ps_align_up(vectors * xq_bytes, 64));
    m->y = malloc((uint64_t)threads * vectors * m->task_rows * sizeof(float));
    int rc = m->x && m->xq && m->y ? 0 : -ENOMEM;
    for (uint64_t i = 0; rc == 0 && i < (uint64_t)vectors * product->cols; i++)
        m->x[i] = (float)(i % 17) - 8;
    for (uint32_t i = 0; rc == 0 && m->q8 && i < vectors; i++)
        m->q8->quantize(m->x + (uint64_t)i * product->cols, product->cols, m->xq + i * xq_bytes);
    if (rc == 0)
        machine->rates[machine->rate_count++] =
            (struct ps_machine_rate){product->type, product->cols, vectors, sample_all(m)};
    free(m->x);
    free(m->xq);
    free(m->y);
    return rc;
}

/* Each kind of product once. */
static int measure_new(struct measuring *m, struct ps_machine *machine,
                       const struct ps_forecast_product *products, int count, uint32_t vectors)
{
    for (int i = 0; i < count; i++) {
        int at = 0;
        while (at < machine->rate_count && (machine->rates[at].type != products[i].type ||
                                            machine->rates[at].cols != products[i].cols ||
                                            machine->rates[at].vectors != vectors))
            at++;
        if (at < machine->rate_count || at == PS_MACHINE_RATE_COUNT_MAX)
            continue;
        if (measure_one(m, machine, &products[i], vectors) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int measure_layers(struct measuring *m, struct ps_machine *machine,
                          const struct ps_model *model, uint32_t vectors, uint32_t expert_vectors)
{
    struct ps_forecast_product products[PS_FORECAST_PRODUCT_MAX];
    int rc = 0;

    for (uint32_t l = 0; l < model->config.layer_count && rc == 0; l++)
        for (int part = PS_PART_MIXER; part <= PS_PART_EXPERT && rc == 0; part++) {
            int count = ps_forecast_products(model, l, (enum ps_forecast_part)part, products);
            rc = measure_new(m, machine, products, count,
                             part == PS_PART_EXPERT ? expert_vectors : vectors);
        }
    return rc;
}

void ps_run_nothing(void *ctx, int thread, int threads)
{
    (void)ctx, (void)thread, (void)threads;
}

static double measure_run(struct ps_pool *pool)
{
    uint64_t begin_ns = ps_now_ns();

    for (int i = 0; i < RUNS; i++)
        ps_pool_run(pool, ps_run_nothing, NULL);
    return (double)(ps_now_ns() - begin_ns) / RUNS;
}

/* The same behind a pause as long as a read. */
static double measure_wake(struct ps_pool *pool)
{
    const struct timespec pause = {.tv_nsec = WAKE_PAUSE_NS};
    uint64_t ns = 0;

    for (int i = 0; i < WAKES; i++) {
        nanosleep(&pause, NULL);
        uint64_t begin_ns = ps_now_ns();
        ps_pool_run(pool, ps_run_nothing, NULL);
        ns += ps_now_ns() - begin_ns;
    }
    return (double)ns / WAKES;
}

int ps_machine_measure(struct ps_machine *machine, struct ps_model *model,
                       const struct ps_engine_options *options, struct ps_error *err)
{
    struct measuring m = {.k = ps_kernels_get(ps_cpu_level())};
    struct ps_forecast_product head = ps_forecast_head(model);
    struct ps_engine_options o;
    struct ps_model_info info;
    uint64_t cache_bytes;
    struct ps_plan plan;
    int rc = ps_engine_plan_make(model, options, &o, &cache_bytes, &plan, err);

    if (rc < 0)
        return rc;
    if (ps_activations_are_q8(&o))
        m.q8 = ps_q8_kernels_get(ps_cpu_level());
    /* As much as a run goes through again and again: caches hold it there if they do here. */
    ps_model_info(model, &info);
    m.weight_bytes = ps_resident_bytes(model) + ps_min_u64(cache_bytes, info.streamed_bytes);
    m.weight_bytes = ps_max_u64(ps_min_u64(m.weight_bytes, WEIGHTS_BYTES_MAX), WEIGHTS_BYTES_MIN);
    rc = ps_region_map(&m.weights, m.weight_bytes, -1, err);
    if (rc == 0)
        rc = ps_pool_open(&m.pool, o.threads, err);
    if (rc == 0) {
        memset(m.weights.base, FILL, m.weight_bytes);
        machine->threads = o.threads;
        machine->is_here = true;
        machine->run_ns = measure_run(m.pool);
        machine->wake_ns = measure_wake(m.pool);
        machine->rate_count = 0;
        rc = measure_layers(&m, machine, model, 1, 1);
        if (rc == 0)
            rc = measure_new(&m, machine, &head, 1, 1);
        if (rc == 0)
            rc = measure_layers(
                &m, machine, model, o.chunk_tokens,
                ps_forecast_expert_vectors(&model->config, o.experts_used, o.chunk_tokens));
        if (rc < 0)
            ps_error_set(err, rc, NULL, "there is not enough memory to measure this machine");
    }
    ps_pool_close(&m.pool);
    ps_region_unmap(&m.weights);
    return rc;
}
