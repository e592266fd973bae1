#include "core/busy.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

struct ps_busy {
    atomic_bool at_end;
    int count;
    pthread_t threads[];
};

static void *spin(void *ctx)
{
    struct ps_busy *busy = ctx;
    const struct sched_param least = {0};

    /* Only what nobody else wants of a processor. */
    pthread_setschedparam(pthread_self(), SCHED_IDLE, &least);
    while (!atomic_load_explicit(&busy->at_end, memory_order_relaxed))
        ;
    return NULL;
}

struct ps_busy *ps_busy_begin(void)
{
    cpu_set_t set;
    int processors = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    struct ps_busy *busy = calloc(1, sizeof(*busy) + (size_t)processors * sizeof(pthread_t));

    if (!busy)
        return NULL;
    while (busy->count < processors &&
           pthread_create(&busy->threads[busy->count], NULL, spin, busy) == 0)
        busy->count++;
    if (busy->count > 0)
        return busy;
    free(busy);
    return NULL;
}

void ps_busy_end(struct ps_busy *busy)
{
    if (!busy)
        return;
    atomic_store(&busy->at_end, true);
    for (int i = 0; i < busy->count; i++)
        pthread_join(busy->threads[i], NULL);
    free(busy);
}
