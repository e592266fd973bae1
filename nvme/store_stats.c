/* What a store has done so far. */
#include <string.h>

#include "nvme/store_internal.h"

void ps_store_stats(struct ps_store *store, struct ps_store_stats *stats)
{
    const struct ps_cache_plan *plan = &store->cache.plan;
    const struct ps_cache_guesses *guesses = &store->cache.guesses;
    const struct ps_io *io = store->scheduler.io;

    ps_store_lock(store);
    ps_load_step(&store->scheduler, ps_scheduler_now_ns(&store->scheduler));
    *stats = (struct ps_store_stats){
        .engine = io->ops->id,
        .direct = io->direct,
        .registered_buffers = io->registered,
        .read_bytes = store->scheduler.read_bytes,
        .read_count = store->scheduler.read_count,
        .streamed_bytes = store->scheduler.streamed_bytes,
        .hits = store->hits,
        .misses = store->misses,
        .evictions = store->cache.eviction_count,
        .prefetches = guesses->used_count + guesses->vain_count,
        .prefetches_used = guesses->used_count,
        .prefetch_used_bytes = guesses->used_bytes,
        .prefetch_vain_bytes = guesses->vain_bytes,
        .prefetch_bytes = store->scheduler.guess_bytes,
        .wait_ns = store->wait_ns,
        .check_ns = store->scheduler.check_ns,
        .slot_count = plan->slot_count,
        .cache_bytes = plan->mapped_bytes,
        .cache_waste_bytes = plan->waste_bytes,
        .memory_bytes = store->memory_bytes,
    };
    memcpy(stats->wait_cause_ns, store->scheduler.load.wait_ns, sizeof(stats->wait_cause_ns));
    for (int m = 0; m < store->scheduler.member_count; m++) {
        stats->retries += store->scheduler.tallies[m].retries;
        stats->errors += store->scheduler.tallies[m].errors;
    }
    ps_store_unlock(store);
}

void ps_store_member_stats(struct ps_store *store, int member, struct ps_store_member_stats *stats)
{
    struct ps_scheduler *s = &store->scheduler;
    const struct ps_queue *queue = &s->queues[s->queue_of[member]];

    ps_store_lock(store);
    ps_load_step(s, ps_scheduler_now_ns(s));
    *stats = (struct ps_store_member_stats){
        .read_bytes = s->tallies[member].bytes,
        .read_count = s->tallies[member].reads,
        .retries = s->tallies[member].retries,
        .errors = s->tallies[member].errors,
        .busy_ns = s->load.busy_ns[s->queue_of[member]],
        .is_slow = queue->is_slow,
        .is_off = ps_health_is_off(&s->health[member]),
    };
    ps_store_unlock(store);
}
