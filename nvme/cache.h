/*
 * The cache of streamed objects: which object lies in which slot, and which slot is next to go.
 * Knows nothing of reading; every step is O(slices) at most and nothing is allocated after init.
 *
 * Objects differ in size, so slots come in classes; each class has its own share of the memory, in
 * proportion to the bytes of its objects, and its own end of the least-recently-used list. On
 * machines with several NUMA nodes a slot has a part on each node that slices of its objects belong
 * to.
 */
#ifndef PENSTOCK_NVME_CACHE_H
#define PENSTOCK_NVME_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "core/mem.h"
#include "core/topology.h"
#include "nvme/scheduler.h"

#define PS_CACHE_NONE UINT32_MAX
#define PS_CACHE_CLASS_COUNT_MAX 32
#define PS_CACHE_NODE_ANY (-1)

/* What is to be cached. */
struct ps_cache_object {
    uint64_t bytes;
    uint32_t slice_count, part_count;
};
struct ps_cache_source {
    const void *ctx;
    uint32_t object_count;
    /* Fills in *out; false for an object that is not streamed. */
    bool (*object)(const void *ctx, uint32_t object, struct ps_cache_object *out);
    /* The bytes of a slice, and the node (0 .. node_count - 1) it belongs to, or ANY. */
    int (*slice)(const void *ctx, uint32_t object, uint32_t slice, uint32_t *bytes);
    int node_count;      /* >= 1 */
    uint32_t copy_count; /* of every object on the drives */
};

struct ps_cache_class {
    uint64_t slot_bytes;       /* of a slot, all its parts together */
    uint64_t object_bytes_max; /* size of its largest object */
    uint64_t object_bytes;     /* sum over its objects */
    uint32_t object_count;
    uint32_t slot_count;
    uint32_t slice_count_max, part_count_max;
    bool is_floating; /* no slice belongs to a node: slots lie on the nodes in turn, each whole */
    uint64_t node_bytes[PS_NODE_COUNT_MAX]; /* of a slot's part on each node, unless floating */
};

/* How a budget is cut up. Plain data. */
struct ps_cache_plan {
    struct ps_cache_class classes[PS_CACHE_CLASS_COUNT_MAX]; /* by size, descending */
    uint32_t class_count;
    uint32_t object_count; /* of the source, resident ones included */
    int node_count;
    uint32_t copy_count;
    uint32_t slot_count, region_count;
    uint64_t region_bytes_max; /* no part of a slot straddles two regions */
    uint64_t slice_count;      /* entries for slices over all slots */
    uint64_t part_count;       /* entries for parts of reading over all slots */
    uint64_t mapped_bytes;     /* regions */
    uint64_t node_mapped_bytes[PS_NODE_COUNT_MAX];
    uint64_t table_bytes;
    uint64_t waste_bytes; /* of mapped_bytes, never used: rounding of slots and pages */
};

/*
 * Plans the most slots that fit budget_bytes (regions and tables together): in every class at least
 * min(lease_count, objects) for each copy, as an object whose read hangs keeps its slot while it is
 * read to another from its second copy; else at most one per object. Sizes within 3 % of each other
 * share a class; where that leaves no room for the leases, classes are joined. region_bytes_max:
 * the length aimed at for regions; larger objects get one each. Returns false when it cannot be
 * done; budget 0 plans the least, and always succeeds.
 */
bool ps_cache_plan_make(struct ps_cache_plan *plan, const struct ps_cache_source *source,
                        uint32_t lease_count, uint64_t region_bytes_max, uint64_t budget_bytes);

/* Takes slots away from a plan, from all classes in proportion, until there are no more than
 * slot_count; every class keeps its leases. */
void ps_cache_plan_limit(struct ps_cache_plan *plan, uint32_t lease_count, uint32_t slot_count);

/* LEFT: moved to another slot, and still written to by reads that hang. */
enum ps_slot_state { PS_SLOT_FREE, PS_SLOT_READING, PS_SLOT_READY, PS_SLOT_FAILED, PS_SLOT_LEFT };

struct ps_slot {
    struct ps_fetch fetch;
    uint8_t *nodes; /* [slice_count]: the node of each slice's memory */
    uint8_t *shown; /* [slice_count]: fetch.landed as leases have been told */
    uint32_t lease_count;
    uint32_t newer, older; /* in a list of the class, or newer: in its free list */
    uint32_t moved_to;     /* LEFT: where leases find the object now */
    uint64_t order;        /* when it was last let go: ascending from oldest to newest in a list */
    uint8_t state;         /* enum ps_slot_state */
    uint8_t class_idx;
    bool is_staged;   /* guessed, and not asked for so far; read for that, or held */
    bool was_guessed; /* read on a guess, and not leased since */
};

struct ps_cache_list {
    uint32_t oldest, newest;
};

/* The slots of one class that nobody uses. */
struct ps_cache_lists {
    uint32_t free;
    struct ps_cache_list lru, staged; /* READY slots without leases */
    uint32_t orphan_count;            /* being written to, but leased no more */
    uint32_t staged_count;            /* slots with is_staged */
};

/*
 * Whose slot is taken when one is needed and none is free: that of the object that is worth the
 * least, the least recently used one among equals. Without a policy all are worth the same. Called
 * with whatever lock is over the cache.
 */
struct ps_cache_policy {
    void *ctx;
    /* Somebody asks for the object, whether it is in memory or not. */
    void (*used)(void *ctx, uint32_t object);
    double (*worth)(void *ctx, uint32_t object);
};

/* What became of the guesses of which a drive was asked for anything: used or in vain; and the
 * bytes that drives were asked for by then. */
struct ps_cache_guesses {
    uint64_t used_count, vain_count, used_bytes, vain_bytes;
};

struct ps_cache {
    const struct ps_cache_policy *policy; /* NULL: least recently used; set after init */
    struct ps_cache_plan plan;
    struct ps_cache_source source;
    struct ps_region *regions; /* [region_count] */
    struct ps_slot *slots;     /* [slot_count] */
    uint8_t **slot_parts;      /* [slot_count, node_count]: NULL where a slot has none */
    uint32_t *slot_of;         /* [object_count]: slot or PS_CACHE_NONE */
    uint8_t *class_of;         /* [object_count] */
    uint8_t **slices;          /* [slice_count] */
    uint8_t *landed, *shown;   /* [slice_count] */
    uint8_t *nodes;            /* [slice_count] */
    uint8_t *tries;            /* [slice_count] */
    uint32_t *pending;         /* [slice_count] */
    uint8_t *parts;            /* [part_count] */
    struct ps_cache_lists lists[PS_CACHE_CLASS_COUNT_MAX];
    uint32_t staged_count; /* slots with is_staged */
    struct ps_cache_guesses guesses;
    uint64_t order_count;
    uint64_t eviction_count;
};

/* Places the cache's tables from `table` on (NULL: only counts). Returns their bytes. */
uint64_t ps_cache_tables_place(struct ps_cache *cache, const struct ps_cache_plan *plan,
                               void *table);

/* The parts of all slots, node by node, in the order in which they lie in the regions. Starts as
 * {0}; walks over nothing else than the plan. */
struct ps_cache_walk {
    int node;
    uint32_t class_idx, in_class, slot; /* of this part */
    uint32_t region;
    uint64_t at, bytes; /* of this part, in its region */
    uint64_t used;      /* of the region so far */
    bool has_begun;
};
bool ps_cache_walk_next(const struct ps_cache_plan *plan, struct ps_cache_walk *walk);

/*
 * Sets the cache up in `table` (plan->table_bytes, aligned to 64, the caller's) and maps its
 * regions in hugepages, each on its node: node_ids[source->node_count] are the kernel's numbers;
 * NULL: nothing is ever read, and addresses alone will do. *source is kept, and its ctx must
 * outlive the cache. Errors: -ENOMEM. ps_cache_fini unmaps, also after an error, and takes a zeroed
 * cache.
 */
int ps_cache_init(struct ps_cache *cache, const struct ps_cache_plan *plan,
                  const struct ps_cache_source *source, const int *node_ids, void *table,
                  struct ps_error *err);
void ps_cache_fini(struct ps_cache *cache);

/* The slot that holds or is being filled with the object, neither failed nor given up; or
 * PS_CACHE_NONE. */
uint32_t ps_cache_find(const struct ps_cache *cache, uint32_t object);

/*
 * Gives the object a slot: a free one, as the policy has it that of an object nobody leases, or
 * that of a guess nobody asked for. It is PS_SLOT_READING with one lease; the caller starts its
 * fetch. PS_CACHE_NONE: all are leased or (see ps_cache_has_orphans) still being written to.
 */
uint32_t ps_cache_take(struct ps_cache *cache, uint32_t object);
bool ps_cache_has_orphans(const struct ps_cache *cache, uint32_t object);

/* The same for an object that is guessed: staged, without a lease; does not take other guesses'
 * slots, and leaves them `most` of its class at most. */
uint32_t ps_cache_stage(struct ps_cache *cache, uint32_t object, uint32_t most);

/* What is guessed, in memory and not leased is staged where it is: nothing but a lease that finds
 * no other slot takes its place. False: guesses have `most` of its class already. */
bool ps_cache_hold(struct ps_cache *cache, uint32_t slot, uint32_t most);

/* A guess has proved wrong. What is still being read of it is to be left by the caller afterwards:
 * the slot is free when that has come back. What had been in memory stays there, as the most
 * recently used. */
void ps_cache_unstage(struct ps_cache *cache, uint32_t slot);

/* One more lease on a slot that was found, and one less. A staged slot becomes one like others. */
void ps_cache_lease(struct ps_cache *cache, uint32_t slot);
void ps_cache_release(struct ps_cache *cache, uint32_t slot);

/* What is in memory or on its way, and nobody leases, will be asked for shortly: it is the most
 * recently used one now, and no guess any more. */
void ps_cache_touch(struct ps_cache *cache, uint32_t slot);

/*
 * Gives the object of a slot that is being read another one, which takes its leases over, or
 * returns PS_CACHE_NONE. The old slot is LEFT: nobody's until its fetch has ended and every lease
 * on it has been followed.
 */
uint32_t ps_cache_move(struct ps_cache *cache, uint32_t slot);
/* The slot where a lease finds its object now; to be called once for every lease. */
uint32_t ps_cache_follow(struct ps_cache *cache, uint32_t slot);

/* The fetch of a slot has ended. A failed one is forgotten, and free once nobody leases it. */
void ps_cache_finish(struct ps_cache *cache, uint32_t slot);

#endif
