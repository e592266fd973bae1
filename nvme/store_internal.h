/* Between store.c, store_plan.c and store_stats.c. */
#ifndef PENSTOCK_NVME_STORE_INTERNAL_H
#define PENSTOCK_NVME_STORE_INTERNAL_H

#include "core/topology.h"
#include "nvme/cache.h"
#include "nvme/issuer.h"
#include "nvme/penstock_io.h"
#include "nvme/scheduler_internal.h"

/* What the cache's source looks at. */
struct ps_store_source {
    const struct ps_volume *volume;
    int member_node[PS_MEMBER_COUNT_MAX]; /* index of the node, or PS_CACHE_NODE_ANY */
    int node_count;
    uint32_t group_count; /* of the groups that may be leased */
};

/* What a store's options come to. */
struct ps_store_plan {
    struct ps_store_options options; /* defaults filled in */
    struct ps_store_source source_ctx;
    struct ps_cache_source source; /* ctx: source_ctx, of this very plan */
    struct ps_cache_plan cache;
    struct ps_topology topology;
    uint64_t scheduler_bytes;                 /* tables */
    uint32_t slice_count_max, part_count_max; /* of any object, for ps_store_read */
    uint64_t piece_bytes_max;                 /* of a streamed object's piece on one member */
    uint64_t fixed_bytes;                     /* all but the cache */
};

/* budget_bytes 0: the floor. Returns false when the budget is below that; plan->cache is the floor
 * then. */
bool ps_store_plan_make(struct ps_store_plan *plan, const struct ps_volume *volume,
                        const struct ps_store_options *options, uint64_t budget_bytes);

/* Bytes of the store with this plan. */
uint64_t ps_store_plan_total(const struct ps_store_plan *plan);

/* A read that hangs keeps its fetch; the others are for what is read to other memory instead. */
#define PS_STORE_WHOLE_COUNT 4

/* The scheduler's lock is over all of it, as the issuer changes slots when reads come back. */
struct ps_store {
    struct ps_volume *volume;
    struct ps_scheduler scheduler;
    struct ps_issuer issuer;
    struct ps_cache cache;
    struct ps_store_source source;
    struct ps_fetch whole[PS_STORE_WHOLE_COUNT]; /* what ps_store_read reads, or has given up */
    void *tables;
    uint64_t table_bytes, memory_bytes;
    uint32_t prefetch_count, lease_count; /* as in the options */
    uint64_t piece_bytes_max; /* what a drive reads of an object at once is not longer */
    uint64_t hits, misses, wait_ns;
};

static inline void ps_store_lock(struct ps_store *store)
{
    pthread_mutex_lock(&store->scheduler.lock);
}

static inline void ps_store_unlock(struct ps_store *store)
{
    pthread_mutex_unlock(&store->scheduler.lock);
}

/* Tables for ps_store_read's fetches, placed from `table` on (NULL: only counts). whole:
 * [PS_STORE_WHOLE_COUNT]. Returns bytes. */
uint64_t ps_store_whole_place(const struct ps_store_plan *plan, void *table,
                              struct ps_fetch *whole);

/* -PS_ERR_ARGUMENT or -PS_ERR_MEMORY_FLOOR with a sentence, or 0. fits: what plan_make said. */
int ps_store_plan_check(const struct ps_store_plan *plan, bool fits, struct ps_error *err);

/* The engine that a store reads with, for tests. */
struct ps_io *ps_store_io(struct ps_store *store);
/* Also for tests: ps_store_options.timeout_ms of a store that is open. */
void ps_store_timeout_set(struct ps_store *store, uint32_t timeout_ms);

#endif
