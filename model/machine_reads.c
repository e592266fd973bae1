/*
 * What a layer waits for that misses some of its experts: the store itself reads experts that it
 * does not hold, as many at once, until the threads that compute have been woken.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/forecast.h"
#include "nvme/measure.h"

/* For each number of misses, and so many layers at least. */
#define TIMED_NS UINT64_C(150000000)
#define TIMED_LAYERS 6u
/* Experts drawn, for each that is wanted, before the cache is taken to hold them all. */
#define DRAWS_MAX 64u

struct reading {
    struct ps_model *model;
    struct ps_store *store;
    struct ps_pool *pool;
    struct ps_lease leases[PS_MISS_COUNT_MAX];
    uint32_t layer_count, layers[PS_LAYER_COUNT_MAX]; /* with experts */
    uint64_t random;
};

struct checks {
    void (*task)(void *ctx, uint32_t i);
    void *ctx;
    uint32_t count;
    _Atomic uint32_t next;
};

static void check_thread(void *ctx, int thread, int threads)
{
    struct checks *c = ctx;

    (void)thread, (void)threads;
    for (uint32_t i; (i = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed)) < c->count;)
        c->task(c->ctx, i);
}

/* As a run does: whoever is awake checks the next. */
static void checks_run(void *ctx, void (*task)(void *task_ctx, uint32_t i), void *task_ctx,
                       uint32_t count)
{
    struct checks c = {.task = task, .ctx = task_ctx, .count = count};
    struct reading *r = ctx;

    ps_pool_offer(r->pool, check_thread, &c);
}

static int open_reading(struct reading *r, const struct ps_engine_options *options, uint32_t most,
                        struct ps_error *err)
{
    const struct ps_config *c = &r->model->config;
    struct ps_store_options store = {
        .engine = options->io, .lease_count = most, .run = checks_run, .run_ctx = r};

    for (uint32_t l = 0; l < c->layer_count; l++)
        if (c->layers[l].ffn == PS_FFN_MOE)
            r->layers[r->layer_count++] = l;
    store.cache_bytes = ps_store_floor_bytes(r->model->volume, &store);
    r->random = ps_now_ns();
    int rc = ps_pool_open(&r->pool, options->threads, err);
    return rc == 0 ? ps_store_open(&r->store, r->model->volume, &store, err) : rc;
}

/* Misses so many experts of one layer. Returns the time from the first that was asked for, 0 if
 * some were held. */
static int read_layer(struct reading *r, uint32_t count, uint64_t *ns, struct ps_error *err)
{
    uint32_t layer = r->layers[ps_random_next(&r->random) % r->layer_count], held = 0, got = 0;
    uint64_t order = ps_random_next(&r->random), begin_ns = ps_now_ns();
    int rc = 0;

    for (; rc >= 0 && got < count; got += rc >= 0) {
        uint64_t expert = ps_bench_shuffle(got, r->model->config.expert_count, order);
        rc = ps_store_get(r->store, layer, (uint32_t)expert, &r->leases[got], err);
        held += rc == 1;
    }
    for (uint32_t left = got; rc >= 0 && left > 0;) {
        rc = ps_store_wait(r->store, r->leases, got, err);
        left = 0;
        for (uint32_t i = 0; i < got; i++)
            left += r->leases[i].state != PS_LEASE_READY;
    }
    ps_pool_run(r->pool, ps_run_nothing, NULL);
    *ns = held > 0 ? 0 : ps_now_ns() - begin_ns;
    for (uint32_t i = 0; i < got; i++)
        ps_store_put(r->store, &r->leases[i]);
    return rc < 0 ? rc : 0;
}

/* The mean: a run waits for the slow ones, too. */
static int time_layers(struct reading *r, uint32_t count, const volatile int *stop, double *seconds,
                       struct ps_error *err)
{
    uint64_t sum_ns = 0, ns = 0, layers = 0, end_ns = ps_now_ns() + TIMED_NS;

    for (uint32_t i = 0; layers < TIMED_LAYERS || ps_now_ns() < end_ns; i++) {
        int rc = read_layer(r, count, &ns, err);
        if (rc < 0)
            return rc;
        if (stop && *stop)
            return ps_error_set(err, -EINTR, NULL, "the measurement was stopped");
        sum_ns += ns;
        layers += ns > 0;
        if (layers == 0 && i > DRAWS_MAX)
            return 0;
    }
    *seconds = (double)sum_ns / 1e9 / (double)layers;
    return 0;
}

int ps_model_time_misses(struct ps_model *model, const struct ps_engine_options *options,
                         struct ps_miss_times *times, struct ps_error *err)
{
    const struct ps_config *c = &model->config;
    uint32_t used = options->experts_used > 0 ? options->experts_used : c->experts_used;
    uint32_t most = (uint32_t)ps_min_u64(used, PS_MISS_COUNT_MAX), last = 0;
    struct reading *r = calloc(1, sizeof(*r));
    int rc;

    memset(times, 0, sizeof(*times));
    if (!r)
        return ps_error_set(err, -ENOMEM, NULL, "there is not enough memory to measure reads");
    r->model = model;
    rc = open_reading(r, options, most, err);
    for (uint32_t n = 1; rc == 0 && r->layer_count > 0 && last < most;
         n = (uint32_t)ps_min_u64(2ull * n, most)) {
        double seconds = 0;
        rc = time_layers(r, n, options->stop, &seconds, err);
        if (rc < 0 || seconds <= 0)
            break;
        /* Between those that are measured in a straight line. */
        for (uint32_t i = last + 1; i <= n; i++) {
            double before = last > 0 ? times->seconds[last - 1] : seconds;
            times->seconds[i - 1] = before + (seconds - before) * (i - last) / (n - last);
        }
        last = n;
    }
    times->count = rc == 0 && last == most ? last : 0;
    if (r->store)
        ps_store_close(&r->store);
    ps_pool_close(&r->pool);
    free(r);
    return rc;
}
