#include "core/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/topology.h"
#include "core/util.h"

/*
 * Long enough to bridge the caller's serial work between two runs (a norm, a top-k), short enough
 * not to take the processor from the threads that reap I/O.
 */
#define SPIN_NS 8000u
#define CACHE_LINE_BYTES 64

struct worker {
    struct ps_pool *pool;
    pthread_t thread;
    int thread_idx;
    int cpu, node;
};

/* Of a gate: the number of the run, whether workers may still join it, how many have. */
#define GATE_OPEN (UINT64_C(1) << 31)
#define GATE_JOINED (GATE_OPEN - 1)
#define GATE_RUN_SHIFT 32

/* Words that different sides write stand on lines of their own. */
struct ps_pool {
    /* Written by the caller: one more for each run, behind the gate. Workers wait for it. */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t generation;
    _Atomic uint32_t stop;
    ps_pool_fn *fn;
    void *ctx;
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t sleeper_count; /* workers in or near futex_wait */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t gate;
    _Atomic uint32_t left_count; /* workers that have run fn */
    _Atomic uint32_t caller_sleeps;
    _Alignas(CACHE_LINE_BYTES) int thread_count;
    int started_count; /* workers whose thread exists: less than thread_count - 1 if half built */
    uint64_t spin_ns;
    struct worker workers[];
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Spins until (*word == value) is `wanted`; returns 1 then, 0 when the time is up before. */
static int spin(_Atomic uint32_t *word, uint32_t value, int wanted, uint64_t spin_ns)
{
    uint64_t end_ns = 0;
    for (unsigned i = 0;; i++) {
        if ((atomic_load_explicit(word, memory_order_acquire) == value) == wanted)
            return 1;
        if (i % 16 == 0) {
            uint64_t now_ns = ps_now_ns();
            end_ns = i == 0 ? now_ns + spin_ns : end_ns;
            if (now_ns >= end_ns)
                return 0;
        }
        cpu_pause();
    }
}

/*
 * Sleeping is announced before the word is looked at again, and the other side changes the word
 * before it looks for sleepers, both sequentially consistent: one of the two sees the other, so no
 * wake-up is lost and none is sent when nobody sleeps.
 */
static void wait_for_run(struct ps_pool *pool, uint32_t seen)
{
    if (spin(&pool->generation, seen, 0, pool->spin_ns))
        return;
    atomic_fetch_add(&pool->sleeper_count, 1);
    while (atomic_load(&pool->generation) == seen)
        futex_wait(&pool->generation, seen);
    atomic_fetch_sub(&pool->sleeper_count, 1);
}

static void wait_for_workers(struct ps_pool *pool, uint32_t count)
{
    if (spin(&pool->left_count, count, 1, pool->spin_ns))
        return;
    atomic_store(&pool->caller_sleeps, 1);
    for (uint32_t left; (left = atomic_load(&pool->left_count)) != count;)
        futex_wait(&pool->left_count, left);
    atomic_store(&pool->caller_sleeps, 0);
}

/* Refused pinning (cpusets that changed, seccomp) costs speed only. */
static void pin_self(int cpu)
{
    size_t bytes = CPU_ALLOC_SIZE(PS_CPU_COUNT_MAX);
    cpu_set_t *set = CPU_ALLOC(PS_CPU_COUNT_MAX);
    if (!set)
        return;
    CPU_ZERO_S(bytes, set);
    CPU_SET_S((size_t)cpu, bytes, set);
    (void)pthread_setaffinity_np(pthread_self(), bytes, set);
    CPU_FREE(set);
}

/* Joins the newest run if it is not `seen` yet and still open; *seen is that one then. */
static bool join_run(struct ps_pool *pool, uint32_t *seen)
{
    uint64_t gate = atomic_load_explicit(&pool->gate, memory_order_acquire);

    do {
        if (!(gate & GATE_OPEN) || (uint32_t)(gate >> GATE_RUN_SHIFT) == *seen) {
            *seen = (uint32_t)(gate >> GATE_RUN_SHIFT);
            return false;
        }
    } while (!atomic_compare_exchange_weak(&pool->gate, &gate, gate + 1));
    *seen = (uint32_t)(gate >> GATE_RUN_SHIFT);
    return true;
}

static void *worker_main(void *arg)
{
    struct worker *self = arg;
    struct ps_pool *pool = self->pool;
    char name[16];
    snprintf(name, sizeof(name), "ps-pool-%d", self->thread_idx);
    (void)pthread_setname_np(pthread_self(), name);
    pin_self(self->cpu);

    for (uint32_t seen = 0;;) {
        wait_for_run(pool, seen);
        bool has_joined = join_run(pool, &seen);
        /* Set before the gate of the last generation, which may be the one that was seen. */
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed))
            return NULL;
        if (!has_joined)
            continue;
        pool->fn(pool->ctx, self->thread_idx, pool->thread_count);
        atomic_fetch_add(&pool->left_count, 1);
        if (atomic_load(&pool->caller_sleeps))
            futex_wake(&pool->left_count, 1);
    }
}

static void start_generation(struct ps_pool *pool, uint64_t open)
{
    uint32_t run = atomic_load_explicit(&pool->generation, memory_order_relaxed) + 1;

    atomic_store_explicit(&pool->gate, (uint64_t)run << GATE_RUN_SHIFT | open,
                          memory_order_release);
    atomic_store(&pool->generation, run);
    if (atomic_load(&pool->sleeper_count) > 0)
        futex_wake(&pool->generation, INT_MAX);
}

static void start_run(struct ps_pool *pool, ps_pool_fn *fn, void *ctx)
{
    pool->fn = fn;
    pool->ctx = ctx;
    atomic_store_explicit(&pool->left_count, 0, memory_order_relaxed);
    start_generation(pool, GATE_OPEN);
}

void ps_pool_run(struct ps_pool *pool, ps_pool_fn *fn, void *ctx)
{
    if (pool->thread_count > 1)
        start_run(pool, fn, ctx);
    fn(ctx, 0, pool->thread_count);
    if (pool->thread_count > 1)
        wait_for_workers(pool, (uint32_t)pool->thread_count - 1);
}

void ps_pool_offer(struct ps_pool *pool, ps_pool_fn *fn, void *ctx)
{
    if (pool->thread_count > 1)
        start_run(pool, fn, ctx);
    fn(ctx, 0, pool->thread_count);
    if (pool->thread_count > 1)
        wait_for_workers(pool, (uint32_t)(atomic_fetch_and(&pool->gate, ~GATE_OPEN) & GATE_JOINED));
}

/* CPUs stand in the order of their nodes, so even steps through them meet every node. */
static int cpu_of_thread(int thread_idx, int thread_count, const struct ps_topology *topo)
{
    if (thread_count >= topo->cpu_count)
        return thread_idx % topo->cpu_count;
    return (int)((int64_t)thread_idx * topo->cpu_count / thread_count);
}

static int start_workers(struct ps_pool *pool, const struct ps_topology *topo)
{
    /* Signals are for the program's own threads: Ctrl-C must interrupt the main one. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0;
    for (int i = 1; i < pool->thread_count && rc == 0; i++) {
        struct worker *worker = &pool->workers[i - 1];
        worker->pool = pool;
        worker->thread_idx = i;
        int cpu_idx = cpu_of_thread(i, pool->thread_count, topo);
        worker->cpu = topo->cpu_id[cpu_idx];
        worker->node = topo->cpu_node[cpu_idx];
        rc = -pthread_create(&worker->thread, NULL, worker_main, worker);
        pool->started_count += rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int ps_pool_open(struct ps_pool **out, int thread_count, struct ps_error *err)
{
    struct ps_topology topo;
    ps_topology_get(&topo);
    if (thread_count == 0)
        thread_count = topo.cpu_count;
    if (thread_count < 0 || thread_count > PS_CPU_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "threads",
                            "%d threads were asked for; between 1 and %d can be had, 0 means one "
                            "per CPU.",
                            thread_count, PS_CPU_COUNT_MAX);

    size_t bytes = sizeof(struct ps_pool) + (size_t)thread_count * sizeof(struct worker);
    struct ps_pool *pool = aligned_alloc(CACHE_LINE_BYTES, ps_align_up(bytes, CACHE_LINE_BYTES));
    if (!pool)
        return ps_error_set(err, -ENOMEM, "threads", "There is no memory for %d threads.",
                            thread_count);
    memset(pool, 0, bytes);
    pool->thread_count = thread_count;
    /* With more threads than CPUs a spinning thread keeps the one it waits for from running. */
    pool->spin_ns = thread_count <= topo.cpu_count ? SPIN_NS : 0;

    int rc = start_workers(pool, &topo);
    if (rc < 0) {
        ps_error_set(err, rc, "threads", "Thread %d of %d did not start: %s; ask for fewer.",
                     pool->started_count + 2, thread_count, ps_strerror(rc));
        ps_pool_close(&pool);
        return rc;
    }
    *out = pool;
    return 0;
}

int ps_pool_thread_count(const struct ps_pool *pool)
{
    return pool->thread_count;
}

/* The caller is not pinned, but its first CPU would be that of node 0. */
int ps_pool_thread_node(const struct ps_pool *pool, int thread_idx)
{
    return thread_idx == 0 ? 0 : pool->workers[thread_idx - 1].node;
}

void ps_pool_close(struct ps_pool **pool)
{
    if (!pool || !*pool)
        return;
    atomic_store(&(*pool)->stop, 1);
    start_generation(*pool, 0);
    for (int i = 0; i < (*pool)->started_count; i++)
        pthread_join((*pool)->workers[i].thread, NULL);
    free(*pool);
    *pool = NULL;
}
