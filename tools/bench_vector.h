/* The kernels that are not matrix products: one call of a usual size, from the cache, one thread.
 */
#ifndef PENSTOCK_TOOLS_BENCH_VECTOR_H
#define PENSTOCK_TOOLS_BENCH_VECTOR_H

#include <stddef.h>

#include "core/cpu.h"

extern const size_t bench_vector_count;

/* "dot, 4096": what is called, and how long the vectors are. */
const char *bench_vector_name(size_t idx);

/* The least time of a call in nanoseconds at a level that the processor has. Blocks for a few
 * hundredths of a second. One thread at a time. */
double bench_vector_ns(size_t idx, enum ps_cpu_level level);

#endif
