#include "nvme/cache.h"

#include <assert.h>
#include <string.h>

#include "core/arena.h"
#include "core/util.h"

/* ---- plan ------------------------------------------------------------------------------------ */

/* Percent of a slot that its smallest object may leave unused. 3 is the aim (decided for models
 * whose layers are quantised differently); more only where leases would not fit otherwise. */
static const uint32_t tolerances[] = {3, 10, 30, 100};

/*
 * Finds classes from the largest size downwards: each takes in the sizes within its tolerance. One
 * pass over the objects per class needs no memory, and there are few sizes. Returns false when they
 * are too many.
 */
static bool find_classes(struct ps_cache_plan *plan, const struct ps_cache_source *source,
                         uint32_t tolerance)
{
    uint64_t below = UINT64_MAX; /* sizes from here on have a class */

    plan->class_count = 0;
    for (;;) {
        struct ps_cache_class c = {0};
        uint64_t bytes, low;
        uint32_t slices;
        for (uint32_t i = 0; i < source->object_count; i++) {
            if (source->object(source->ctx, i, &bytes, &slices) && bytes < below)
                c.slot_bytes = ps_max_u64(c.slot_bytes, bytes);
        }
        if (c.slot_bytes == 0)
            return true;
        if (plan->class_count == PS_CACHE_CLASS_COUNT_MAX)
            return false;
        low = c.slot_bytes - c.slot_bytes / 100 * tolerance;
        low = tolerance == 100 ? 1 : low;
        for (uint32_t i = 0; i < source->object_count; i++) {
            if (!source->object(source->ctx, i, &bytes, &slices) || bytes >= below || bytes < low)
                continue;
            c.object_count++;
            c.object_bytes += bytes;
            c.slice_count_max = (uint32_t)ps_max_u64(c.slice_count_max, slices);
        }
        plan->classes[plan->class_count++] = c;
        below = low;
    }
}

/* Walks over the slots in order and says in which region each lies, and where. */
struct walk {
    uint64_t region_bytes_max;
    uint64_t used; /* bytes of the region so far */
    uint64_t mapped_bytes;
    uint32_t region;
};

static uint64_t walk_slot(struct walk *w, uint64_t bytes)
{
    if (w->used > 0 && w->used + bytes > w->region_bytes_max) {
        w->mapped_bytes += ps_region_bytes(w->used);
        w->region++;
        w->used = 0;
    }
    uint64_t at = w->used;
    w->used += bytes;
    return at;
}

static uint64_t place_tables(struct ps_cache *cache, const struct ps_cache_plan *plan, void *table)
{
    struct ps_arena a = {table, 0};
    uint64_t objects = plan->object_count;

    cache->regions = ps_arena_take(&a, plan->region_count, sizeof(*cache->regions));
    cache->slots = ps_arena_take(&a, plan->slot_count, sizeof(*cache->slots));
    cache->slot_of = ps_arena_take(&a, objects, sizeof(*cache->slot_of));
    cache->class_of = ps_arena_take(&a, objects, sizeof(*cache->class_of));
    cache->landed = ps_arena_take(&a, plan->slice_count, sizeof(*cache->landed));
    cache->pending = ps_arena_take(&a, plan->slice_count, sizeof(*cache->pending));
    return a.used;
}

/* Gives every class share / 2^20 of a slot per object, and adds up what that takes. */
static uint64_t size_plan(struct ps_cache_plan *plan, uint32_t lease_count, uint64_t share)
{
    struct walk w = {.region_bytes_max = plan->region_bytes_max};
    struct ps_cache none;

    plan->slot_count = 0;
    plan->slice_count = 0;
    plan->waste_bytes = 0;
    uint64_t slot_bytes = 0;
    for (uint32_t i = 0; i < plan->class_count; i++) {
        struct ps_cache_class *c = &plan->classes[i];
        uint64_t least = ps_min_u64(lease_count, c->object_count);
        c->slot_count = (uint32_t)ps_max_u64(least, c->object_count * share >> 20);
        for (uint32_t n = 0; n < c->slot_count; n++)
            walk_slot(&w, c->slot_bytes);
        slot_bytes += c->slot_count * c->slot_bytes;
        plan->waste_bytes +=
            c->slot_count * (c->slot_bytes - ps_div_up(c->object_bytes, c->object_count));
        plan->slot_count += c->slot_count;
        plan->slice_count += (uint64_t)c->slot_count * c->slice_count_max;
    }
    plan->mapped_bytes = w.mapped_bytes + ps_region_bytes(w.used);
    plan->region_count = plan->slot_count > 0 ? w.region + 1 : 0;
    plan->waste_bytes += plan->mapped_bytes - slot_bytes;
    plan->table_bytes = place_tables(&none, plan, NULL);
    return plan->mapped_bytes + plan->table_bytes;
}

/* The largest share that fits. */
static void fill_plan(struct ps_cache_plan *plan, uint32_t lease_count, uint64_t budget_bytes)
{
    uint64_t low = 0, high = (UINT64_C(1) << 20) + 1;

    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (size_plan(plan, lease_count, middle) <= budget_bytes)
            low = middle;
        else
            high = middle;
    }
    size_plan(plan, lease_count, low);
}

bool ps_cache_plan_make(struct ps_cache_plan *plan, const struct ps_cache_source *source,
                        uint32_t lease_count, uint64_t region_bytes_max, uint64_t budget_bytes)
{
    struct ps_cache_plan least;
    uint64_t least_bytes = UINT64_MAX;

    memset(plan, 0, sizeof(*plan));
    plan->object_count = source->object_count;
    plan->region_bytes_max = region_bytes_max;
    for (size_t i = 0; i < PS_ARRAY_LEN(tolerances); i++) {
        if (!find_classes(plan, source, tolerances[i]))
            continue;
        uint64_t bytes = size_plan(plan, lease_count, 0);
        if (bytes <= budget_bytes) {
            fill_plan(plan, lease_count, budget_bytes);
            return true;
        }
        if (bytes < least_bytes) {
            least = *plan;
            least_bytes = bytes;
        }
    }
    /* With everything in one class the last round cannot have failed. */
    assert(least_bytes != UINT64_MAX);
    *plan = least;
    return budget_bytes == 0;
}

/* ---- set-up ---------------------------------------------------------------------------------- */

static int map_regions(struct ps_cache *cache, const int *node_ids, int node_count,
                       struct ps_error *err)
{
    const struct ps_cache_plan *plan = &cache->plan;
    struct walk w = {.region_bytes_max = plan->region_bytes_max};
    uint32_t slot = 0;

    for (uint32_t i = 0; i < plan->class_count; i++) {
        for (uint32_t n = 0; n < plan->classes[i].slot_count; n++, slot++) {
            uint32_t region = w.region;
            uint64_t used = w.used;
            walk_slot(&w, plan->classes[i].slot_bytes);
            int node = node_count > 1 ? node_ids[region % (uint32_t)node_count] : -1;
            int rc =
                w.region == region ? 0 : ps_region_map(&cache->regions[region], used, node, err);
            if (rc < 0)
                return rc;
        }
    }
    if (slot == 0)
        return 0;
    int node = node_count > 1 ? node_ids[w.region % (uint32_t)node_count] : -1;
    return ps_region_map(&cache->regions[w.region], w.used, node, err);
}

static void place_slots(struct ps_cache *cache)
{
    const struct ps_cache_plan *plan = &cache->plan;
    struct walk w = {.region_bytes_max = plan->region_bytes_max};
    uint64_t slice = 0;
    uint32_t slot_idx = 0;

    for (uint32_t i = 0; i < plan->class_count; i++) {
        struct ps_cache_list *list = &cache->lists[i];
        *list = (struct ps_cache_list){PS_CACHE_NONE, PS_CACHE_NONE, PS_CACHE_NONE, 0};
        for (uint32_t n = 0; n < plan->classes[i].slot_count; n++, slot_idx++) {
            struct ps_slot *slot = &cache->slots[slot_idx];
            uint64_t at = walk_slot(&w, plan->classes[i].slot_bytes);
            *slot = (struct ps_slot){.class_idx = (uint8_t)i, .newer = list->free};
            slot->fetch.data = (uint8_t *)cache->regions[w.region].base + at;
            slot->fetch.landed = cache->landed + slice;
            slot->fetch.pending = cache->pending + slice;
            slice += plan->classes[i].slice_count_max;
            list->free = slot_idx;
        }
    }
}

static void find_class_of_objects(struct ps_cache *cache, const struct ps_cache_source *source)
{
    for (uint32_t i = 0; i < source->object_count; i++) {
        uint64_t bytes;
        uint32_t slices, c = cache->plan.class_count;
        cache->slot_of[i] = PS_CACHE_NONE;
        if (!source->object(source->ctx, i, &bytes, &slices))
            continue;
        /* Descending: the last class whose slots are large enough. */
        while (cache->plan.classes[c - 1].slot_bytes < bytes)
            c--;
        cache->class_of[i] = (uint8_t)(c - 1);
    }
}

int ps_cache_init(struct ps_cache *cache, const struct ps_cache_plan *plan,
                  const struct ps_cache_source *source, const int *node_ids, int node_count,
                  void *table, struct ps_error *err)
{
    memset(cache, 0, sizeof(*cache));
    cache->plan = *plan;
    place_tables(cache, plan, table);
    memset(cache->regions, 0, plan->region_count * sizeof(*cache->regions));
    int rc = map_regions(cache, node_ids, node_count, err);
    if (rc < 0)
        return rc;
    place_slots(cache);
    find_class_of_objects(cache, source);
    return 0;
}

void ps_cache_fini(struct ps_cache *cache)
{
    for (uint32_t i = 0; cache->regions && i < cache->plan.region_count; i++)
        ps_region_unmap(&cache->regions[i]);
    memset(cache, 0, sizeof(*cache));
}

/* ---- slots ----------------------------------------------------------------------------------- */

static void list_append(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];
    struct ps_cache_list *list = &cache->lists[slot->class_idx];

    slot->older = list->newest;
    slot->newer = PS_CACHE_NONE;
    if (list->newest == PS_CACHE_NONE)
        list->oldest = slot_idx;
    else
        cache->slots[list->newest].newer = slot_idx;
    list->newest = slot_idx;
}

static void list_remove(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];
    struct ps_cache_list *list = &cache->lists[slot->class_idx];

    if (slot->older == PS_CACHE_NONE)
        list->oldest = slot->newer;
    else
        cache->slots[slot->older].newer = slot->newer;
    if (slot->newer == PS_CACHE_NONE)
        list->newest = slot->older;
    else
        cache->slots[slot->newer].older = slot->older;
}

static void forget(struct ps_cache *cache, uint32_t slot_idx)
{
    uint32_t *of = &cache->slot_of[cache->slots[slot_idx].fetch.object];
    /* The object may have been given another slot while this one was failing. */
    if (*of == slot_idx)
        *of = PS_CACHE_NONE;
}

static void make_free(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];
    struct ps_cache_list *list = &cache->lists[slot->class_idx];

    slot->state = PS_SLOT_FREE;
    slot->newer = list->free;
    list->free = slot_idx;
}

uint32_t ps_cache_find(const struct ps_cache *cache, uint32_t object)
{
    uint32_t slot_idx = cache->slot_of[object];

    return slot_idx == PS_CACHE_NONE || cache->slots[slot_idx].fetch.error ? PS_CACHE_NONE
                                                                           : slot_idx;
}

uint32_t ps_cache_take(struct ps_cache *cache, uint32_t object)
{
    struct ps_cache_list *list = &cache->lists[cache->class_of[object]];
    uint32_t slot_idx = list->free;

    if (slot_idx != PS_CACHE_NONE) {
        list->free = cache->slots[slot_idx].newer;
    } else if (list->oldest != PS_CACHE_NONE) {
        slot_idx = list->oldest;
        list_remove(cache, slot_idx);
        forget(cache, slot_idx);
        cache->eviction_count++;
    } else {
        return PS_CACHE_NONE;
    }
    struct ps_slot *slot = &cache->slots[slot_idx];
    slot->state = PS_SLOT_READING;
    slot->lease_count = 1;
    slot->fetch.object = object;
    slot->fetch.error = 0;
    cache->slot_of[object] = slot_idx;
    return slot_idx;
}

bool ps_cache_has_orphans(const struct ps_cache *cache, uint32_t object)
{
    return cache->lists[cache->class_of[object]].orphan_count > 0;
}

void ps_cache_lease(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];

    if (slot->lease_count++ > 0)
        return;
    if (slot->state == PS_SLOT_READY)
        list_remove(cache, slot_idx);
    else
        cache->lists[slot->class_idx].orphan_count--;
}

/* What is to happen with a slot without leases. */
static void settle(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];

    if (slot->state == PS_SLOT_READY)
        list_append(cache, slot_idx);
    else if (slot->state == PS_SLOT_FAILED)
        make_free(cache, slot_idx);
    else
        cache->lists[slot->class_idx].orphan_count++;
}

void ps_cache_release(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];

    assert(slot->lease_count > 0);
    if (--slot->lease_count == 0)
        settle(cache, slot_idx);
}

void ps_cache_finish(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];

    assert(slot->state == PS_SLOT_READING);
    slot->state = slot->fetch.error ? PS_SLOT_FAILED : PS_SLOT_READY;
    if (slot->state == PS_SLOT_FAILED)
        forget(cache, slot_idx);
    if (slot->lease_count == 0) {
        cache->lists[slot->class_idx].orphan_count--;
        settle(cache, slot_idx);
    }
}
