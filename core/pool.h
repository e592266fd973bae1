/* A pool of pinned threads that run one function together (fork and join). */
#ifndef PENSTOCK_CORE_POOL_H
#define PENSTOCK_CORE_POOL_H

#include <stdint.h>

#include "core/error.h"

struct ps_pool;

/* thread_idx in [0, thread_count); index 0 is the calling thread. */
typedef void ps_pool_fn(void *ctx, int thread_idx, int thread_count);

/*
 * Starts thread_count - 1 threads (0 = one per CPU that this process may use), each pinned to one
 * CPU (the caller is not pinned). No thread is created later. *out is owned by the caller.
 * Errors: -ENOMEM, -EAGAIN (thread limit), -PS_ERR_ARGUMENT (a count below 0 or above 1024).
 * Thread rule: open, run and close from one thread at a time.
 */
int ps_pool_open(struct ps_pool **out, int thread_count, struct ps_error *err);

int ps_pool_thread_count(const struct ps_pool *pool);

/* The NUMA node (index into ps_topology.node_id) whose CPUs thread thread_idx runs on. Fewer
 * threads than CPUs are spread over the nodes evenly. */
int ps_pool_thread_node(const struct ps_pool *pool, int thread_idx);

/*
 * Runs fn(ctx, i, n) once for every i and returns when all have returned. Writes made by each are
 * seen by the caller. Waiting threads spin for a few microseconds, then sleep on a futex.
 */
void ps_pool_run(struct ps_pool *pool, ps_pool_fn *fn, void *ctx);

/*
 * For work that whoever comes takes the next piece of: runs fn(ctx, 0, n) on the calling thread,
 * and once on every other that has woken up before it returns from that. Returns when all that
 * began have returned: nobody waits for a thread that slept until there was nothing left to do.
 */
void ps_pool_offer(struct ps_pool *pool, ps_pool_fn *fn, void *ctx);

/* Stops the threads and frees. Takes NULL and pointers to NULL; sets *pool to NULL. */
void ps_pool_close(struct ps_pool **pool);

/* The share of `count` items that thread i of n does: [begin, end), in multiples of `grain`. */
static inline void ps_pool_share(uint64_t count, uint64_t grain, int i, int n, uint64_t *begin,
                                 uint64_t *end)
{
    uint64_t grains = (count + grain - 1) / grain;
    uint64_t b = grains * (uint64_t)i / (uint64_t)n * grain;
    uint64_t e = grains * (uint64_t)(i + 1) / (uint64_t)n * grain;
    *begin = b < count ? b : count;
    *end = e < count ? e : count;
}

#endif
