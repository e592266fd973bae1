/* Condition variables whose waits have a deadline on the clock of ps_now_ns. Private to Penstock.
 */
#ifndef PENSTOCK_CORE_COND_H
#define PENSTOCK_CORE_COND_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* pthread_cond_destroy undoes it. */
static inline void ps_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

/* Waits as pthread_cond_wait does, until a deadline of ps_deadline_ns; false: it has passed. */
static inline bool ps_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns)
{
    struct timespec end = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                           .tv_nsec = (long)(deadline_ns % 1000000000u)};

    if (deadline_ns == 0)
        return false;
    if (deadline_ns == UINT64_MAX)
        return pthread_cond_wait(cond, lock) == 0;
    return pthread_cond_timedwait(cond, lock, &end) == 0;
}

#endif
