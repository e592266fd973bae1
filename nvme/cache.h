/*
 * The cache of streamed objects: which object lies in which slot, and which slot is next to go.
 * Knows nothing of reading; every step is O(1) and nothing is allocated after init.
 *
 * Objects differ in size, so slots come in classes; each class has its own share of the memory, in
 * proportion to the bytes of its objects, and its own end of the least-recently-used list.
 */
#ifndef PENSTOCK_NVME_CACHE_H
#define PENSTOCK_NVME_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "core/mem.h"
#include "nvme/scheduler.h"

#define PS_CACHE_NONE UINT32_MAX
#define PS_CACHE_CLASS_COUNT_MAX 32

/* What is to be cached. */
struct ps_cache_source {
    const void *ctx;
    uint32_t object_count;
    /* Fills in size and slices of an object; false for one that is not streamed. */
    bool (*object)(const void *ctx, uint32_t object, uint64_t *bytes, uint32_t *slice_count);
};

struct ps_cache_class {
    uint64_t slot_bytes;   /* size of its largest object */
    uint64_t object_bytes; /* sum over its objects */
    uint32_t object_count;
    uint32_t slot_count;
    uint32_t slice_count_max;
};

/* How a budget is cut up. Plain data. */
struct ps_cache_plan {
    struct ps_cache_class classes[PS_CACHE_CLASS_COUNT_MAX]; /* by slot_bytes, descending */
    uint32_t class_count;
    uint32_t object_count; /* of the source, resident ones included */
    uint32_t slot_count, region_count;
    uint64_t region_bytes_max; /* no slot straddles two regions */
    uint64_t slice_count;      /* entries for slices over all slots */
    uint64_t mapped_bytes;     /* regions */
    uint64_t table_bytes;
    uint64_t waste_bytes; /* of mapped_bytes, never used: rounding of slots and pages */
};

/*
 * Plans the most slots that fit budget_bytes (regions and tables together): at least
 * min(lease_count, objects) in every class, at most one per object. Sizes within 3 % of each other
 * share a class; where that leaves no room for the leases, classes are joined. region_bytes_max:
 * the length aimed at for regions; larger objects get one each. Returns false when it cannot be
 * done; budget 0 plans the least, and always succeeds.
 */
bool ps_cache_plan_make(struct ps_cache_plan *plan, const struct ps_cache_source *source,
                        uint32_t lease_count, uint64_t region_bytes_max, uint64_t budget_bytes);

enum ps_slot_state { PS_SLOT_FREE, PS_SLOT_READING, PS_SLOT_READY, PS_SLOT_FAILED };

struct ps_slot {
    struct ps_fetch fetch;
    uint32_t lease_count;
    uint32_t newer, older; /* in the LRU list of the class, or newer: in its free list */
    uint8_t state;         /* enum ps_slot_state */
    uint8_t class_idx;
};

/* The slots of one class that nobody uses. */
struct ps_cache_list {
    uint32_t free, oldest, newest;
    uint32_t orphan_count; /* being read, but leased no more */
};

struct ps_cache {
    struct ps_cache_plan plan;
    struct ps_region *regions; /* [region_count] */
    struct ps_slot *slots;     /* [slot_count] */
    uint32_t *slot_of;         /* [object_count]: slot or PS_CACHE_NONE */
    uint8_t *class_of;         /* [object_count] */
    uint8_t *landed;           /* [slice_count] */
    uint32_t *pending;         /* [slice_count] */
    struct ps_cache_list lists[PS_CACHE_CLASS_COUNT_MAX];
    uint64_t eviction_count;
};

/*
 * Sets the cache up in `table` (plan->table_bytes, aligned to 64, the caller's) and maps its
 * regions in hugepages, in turn on each of the nodes. Errors: -ENOMEM. ps_cache_fini unmaps, also
 * after an error, and takes a zeroed cache.
 */
int ps_cache_init(struct ps_cache *cache, const struct ps_cache_plan *plan,
                  const struct ps_cache_source *source, const int *node_ids, int node_count,
                  void *table, struct ps_error *err);
void ps_cache_fini(struct ps_cache *cache);

/* The slot that holds or is being filled with the object, without a failure; or PS_CACHE_NONE. */
uint32_t ps_cache_find(const struct ps_cache *cache, uint32_t object);

/*
 * Gives the object a slot: a free one, or that of the least recently used object nobody leases. It
 * is PS_SLOT_READING with one lease; the caller starts its fetch. PS_CACHE_NONE: all are leased or
 * (see ps_cache_has_orphans) still being read.
 */
uint32_t ps_cache_take(struct ps_cache *cache, uint32_t object);
bool ps_cache_has_orphans(const struct ps_cache *cache, uint32_t object);

/* One more lease on a slot that was found, and one less. */
void ps_cache_lease(struct ps_cache *cache, uint32_t slot);
void ps_cache_release(struct ps_cache *cache, uint32_t slot);

/* The fetch of a slot has ended. A failed one is forgotten, and free once nobody leases it. */
void ps_cache_finish(struct ps_cache *cache, uint32_t slot);

#endif
