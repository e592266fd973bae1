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

/* For qsort, ascending. */
static inline int ps_compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static inline int ps_compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): small, and any state will do. */
#define PS_RANDOM_STEP UINT64_C(0x9e3779b97f4a7c15)
static inline uint64_t ps_random_next(uint64_t *state)
{
    uint64_t z = *state += PS_RANDOM_STEP;

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Monotonic nanoseconds. */
static inline uint64_t ps_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A count that grows evenly, in units of its own, for time spans that are taken so often that
 * ps_now_ns would show. To be compared on one thread only. */
static inline uint64_t ps_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return ps_now_ns();
#endif
}

/* When a wait of wait_ns from now ends; UINT64_MAX, never, for waits without end. */
static inline uint64_t ps_deadline_ns(uint64_t wait_ns)
{
    uint64_t now_ns;

    if (wait_ns == 0)
        return 0;
    now_ns = ps_now_ns();
    return wait_ns < UINT64_MAX - now_ns ? now_ns + wait_ns : UINT64_MAX;
}

/* What is left until a deadline: 0 once it has passed, UINT64_MAX if there is none. */
static inline uint64_t ps_left_ns(uint64_t deadline_ns)
{
    uint64_t now_ns;

    if (deadline_ns == 0 || deadline_ns == UINT64_MAX)
        return deadline_ns;
    now_ns = ps_now_ns();
    return now_ns < deadline_ns ? deadline_ns - now_ns : 0;
}

#endif
