/*
 * Orders of eviction to compare the least-recently-used one with (penstock replay). Each is a
 * struct ps_cache_policy over a table with an entry per object.
 */
#ifndef PENSTOCK_NVME_POLICY_H
#define PENSTOCK_NVME_POLICY_H

#include "core/error.h"
#include "nvme/cache.h"
#include "nvme/penstock_io.h"

enum ps_policy_kind {
    PS_POLICY_LRU,
    /* Least frequently used, where a use counts half after half as many further uses as there are
     * objects: some tokens. Of 0.25, 0.5, 1 and 4 times as many this was best on real traces. */
    PS_POLICY_LFU,
    /* The groups are passed in ascending order again and again: objects of those that have been
     * passed this time go first, as they are needed last. */
    PS_POLICY_LEAST_STALE,
    /* The object that is not asked for the longest, known beforehand: no order misses less
     * (Belady, IBM Systems Journal 5, 1966), but for what is leased and cannot go. */
    PS_POLICY_BELADY,
    PS_POLICY_COUNT
};

/* "lru", "lfu", "least-stale", "belady". */
const char *ps_policy_name(enum ps_policy_kind kind);
/* The kind of a name, or -1. */
int ps_policy_find(const char *name);

struct ps_policy;

/*
 * uses: [use_count], for BELADY: the objects in the order in which they will be asked for; else
 * NULL and 0. *out is the caller's to close, after the store. Errors: -ENOMEM.
 */
int ps_policy_open(struct ps_policy **out, enum ps_policy_kind kind, const struct ps_volume *volume,
                   const uint32_t *uses, uint64_t use_count, struct ps_error *err);
void ps_policy_close(struct ps_policy **policy);

/* What a cache is given; NULL for LRU. Owned by the policy. */
const struct ps_cache_policy *ps_policy_hook(const struct ps_policy *policy);

#endif
