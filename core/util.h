/* Small arithmetic used everywhere. Header only. */
#ifndef PENSTOCK_CORE_UTIL_H
#define PENSTOCK_CORE_UTIL_H

#include <stdint.h>
#include <string.h>
#include <time.h>

#define PS_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* align must be a power of two. The caller has excluded overflow. */
static inline uint64_t ps_align_up(uint64_t value, uint64_t align)
{
    return (value + align - 1) & ~(align - 1);
}

static inline uint64_t ps_div_up(uint64_t value, uint64_t divisor)
{
    return value / divisor + (value % divisor != 0);
}

static inline uint64_t ps_min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t ps_max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Monotonic nanoseconds. */
static inline uint64_t ps_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#endif
