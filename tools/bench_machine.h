/* What the machine can do, beside which kernels are measured: reads of memory, multiply-adds. */
#ifndef PENSTOCK_TOOLS_BENCH_MACHINE_H
#define PENSTOCK_TOOLS_BENCH_MACHINE_H

#include <stddef.h>
#include <stdint.h>

#include "core/pool.h"

/*
 * Does a piece of work that takes at most some milliseconds, the `step`-th of thread `thread` of
 * `threads`. Returns how much it was, in units of the caller's.
 */
typedef uint64_t bench_step_fn(void *ctx, int thread, int threads, uint64_t step);

/*
 * Units per second, added up over all threads of the pool, each working step after step. The best
 * of a few samples: other load on the machine only takes. 0 if no step did anything. Blocks for
 * about a tenth of a second.
 */
double bench_rate(struct ps_pool *pool, bench_step_fn *step, void *ctx);

/* Bytes per second that all threads together read of [bytes] at p, 64-byte aligned, in order. */
double bench_read_rate(struct ps_pool *pool, const uint8_t *p, size_t bytes);

/* The same, of checksums as every slice that is read has to pass. */
double bench_checksum_rate(struct ps_pool *pool, const uint8_t *p, size_t bytes);

/* Operations per second (a multiply-add is two) of all threads, on registers alone: floats with the
 * widest multiply-add there is, and products of 8 bits with VNNI (0 where there is none). */
double bench_float_rate(struct ps_pool *pool);
double bench_int8_rate(struct ps_pool *pool);

#endif
