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
