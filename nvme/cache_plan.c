/* How the cache's memory is cut up: classes of slots, regions, tables. */
#include <assert.h>
#include <string.h>

#include "core/arena.h"
#include "core/util.h"
#include "nvme/cache.h"

/* Percent of a slot that its smallest object may leave unused. 3 is the aim (decided for models
 * whose layers are quantised differently); more only where leases would not fit otherwise. */
static const uint32_t tolerances[] = {3, 10, 30, 100};

/* ---- classes --------------------------------------------------------------------------------- */

/* Slices of no node that share an object with slices of one are dealt over the nodes. */
static int node_of(const struct ps_cache_source *source, uint32_t object, uint32_t slice,
                   uint32_t slice_count, uint32_t *bytes, bool *is_known)
{
    int node = source->slice(source->ctx, object, slice, bytes);

    *is_known = node != PS_CACHE_NODE_ANY;
    return *is_known ? node : (int)((uint64_t)slice * (uint32_t)source->node_count / slice_count);
}

/* Widens the parts of the class's slots so that they take the object. */
static void fit_nodes(struct ps_cache_class *c, const struct ps_cache_source *source,
                      uint32_t object, uint32_t slice_count)
{
    uint64_t sums[PS_NODE_COUNT_MAX] = {0};

    for (uint32_t s = 0; s < slice_count; s++) {
        uint32_t bytes;
        bool is_known;
        int node = node_of(source, object, s, slice_count, &bytes, &is_known);
        sums[node] += bytes;
        c->is_floating &= !is_known;
    }
    for (int n = 0; n < source->node_count; n++)
        c->node_bytes[n] = ps_max_u64(c->node_bytes[n], sums[n]);
}

static void finish_class(struct ps_cache_class *c, int node_count)
{
    c->slot_bytes = c->object_bytes_max;
    if (c->is_floating)
        return;
    c->slot_bytes = 0;
    for (int n = 0; n < node_count; n++)
        c->slot_bytes += c->node_bytes[n];
}

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
        struct ps_cache_class c = {.is_floating = true};
        struct ps_cache_object o;
        for (uint32_t i = 0; i < source->object_count; i++) {
            if (source->object(source->ctx, i, &o) && o.bytes < below)
                c.object_bytes_max = ps_max_u64(c.object_bytes_max, o.bytes);
        }
        if (c.object_bytes_max == 0)
            return true;
        if (plan->class_count == PS_CACHE_CLASS_COUNT_MAX)
            return false;
        uint64_t low = c.object_bytes_max - c.object_bytes_max / 100 * tolerance;
        low = tolerance == 100 ? 1 : low;
        for (uint32_t i = 0; i < source->object_count; i++) {
            if (!source->object(source->ctx, i, &o) || o.bytes >= below || o.bytes < low)
                continue;
            c.object_count++;
            c.object_bytes += o.bytes;
            c.slice_count_max = (uint32_t)ps_max_u64(c.slice_count_max, o.slice_count);
            c.part_count_max = (uint32_t)ps_max_u64(c.part_count_max, o.part_count);
            if (source->node_count > 1)
                fit_nodes(&c, source, i, o.slice_count);
        }
        finish_class(&c, source->node_count);
        plan->classes[plan->class_count++] = c;
        below = low;
    }
}

/* ---- places ---------------------------------------------------------------------------------- */

static uint64_t part_bytes(const struct ps_cache_plan *plan, const struct ps_cache_walk *w)
{
    const struct ps_cache_class *c = &plan->classes[w->class_idx];

    if (!c->is_floating)
        return c->node_bytes[w->node];
    return w->in_class % (uint32_t)plan->node_count == (uint32_t)w->node ? c->slot_bytes : 0;
}

/* Moves to the next slot, or to the first of the next node; false after the last. */
static bool step(const struct ps_cache_plan *plan, struct ps_cache_walk *w)
{
    if (w->has_begun) {
        w->slot++;
        w->in_class++;
    }
    w->has_begun = true;
    while (w->class_idx < plan->class_count &&
           w->in_class == plan->classes[w->class_idx].slot_count) {
        w->class_idx++;
        w->in_class = 0;
    }
    if (w->class_idx < plan->class_count)
        return true;
    if (w->node + 1 >= plan->node_count || w->slot == 0)
        return false;
    w->node++;
    w->class_idx = w->in_class = w->slot = 0;
    w->has_begun = false;
    /* Regions are of one node each. */
    w->region += w->used > 0;
    w->used = 0;
    return step(plan, w);
}

bool ps_cache_walk_next(const struct ps_cache_plan *plan, struct ps_cache_walk *w)
{
    do {
        if (!step(plan, w))
            return false;
        w->bytes = part_bytes(plan, w);
    } while (w->bytes == 0);
    if (w->used > 0 && w->used + w->bytes > plan->region_bytes_max) {
        w->region++;
        w->used = 0;
    }
    w->at = w->used;
    w->used += w->bytes;
    return true;
}

uint64_t ps_cache_tables_place(struct ps_cache *cache, const struct ps_cache_plan *plan,
                               void *table)
{
    struct ps_arena a = {table, 0};
    uint64_t objects = plan->object_count, slots = plan->slot_count;

    cache->regions = ps_arena_take(&a, plan->region_count, sizeof(*cache->regions));
    cache->slots = ps_arena_take(&a, slots, sizeof(*cache->slots));
    cache->slot_parts =
        ps_arena_take(&a, slots * (uint64_t)plan->node_count, sizeof(*cache->slot_parts));
    cache->slot_of = ps_arena_take(&a, objects, sizeof(*cache->slot_of));
    cache->class_of = ps_arena_take(&a, objects, sizeof(*cache->class_of));
    cache->slices = ps_arena_take(&a, plan->slice_count, sizeof(*cache->slices));
    cache->landed = ps_arena_take(&a, plan->slice_count, sizeof(*cache->landed));
    cache->shown = ps_arena_take(&a, plan->slice_count, sizeof(*cache->shown));
    cache->nodes = ps_arena_take(&a, plan->slice_count, sizeof(*cache->nodes));
    cache->tries = ps_arena_take(&a, plan->slice_count, sizeof(*cache->tries));
    cache->pending = ps_arena_take(&a, plan->slice_count, sizeof(*cache->pending));
    cache->parts = ps_arena_take(&a, plan->part_count, sizeof(*cache->parts));
    return a.used;
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* Adds up the regions that the slots need. */
static void size_regions(struct ps_cache_plan *plan)
{
    struct ps_cache_walk w = {0};
    uint64_t used = 0;
    uint32_t region = 0;
    int node = 0;

    plan->mapped_bytes = 0;
    memset(plan->node_mapped_bytes, 0, sizeof(plan->node_mapped_bytes));
    for (bool more = true; more;) {
        more = ps_cache_walk_next(plan, &w);
        if (used > 0 && (!more || w.region != region)) {
            plan->mapped_bytes += ps_region_bytes(used);
            plan->node_mapped_bytes[node] += ps_region_bytes(used);
        }
        if (more) {
            used = w.used;
            region = w.region;
            node = w.node;
        }
    }
    plan->region_count = used > 0 ? region + 1 : 0;
}

/* Gives every class share / 2^20 of a slot per object, and adds up what that takes. */
static uint64_t size_plan(struct ps_cache_plan *plan, uint32_t lease_count, uint64_t share)
{
    struct ps_cache none;
    uint64_t slot_bytes = 0;

    plan->slot_count = 0;
    plan->slice_count = plan->part_count = 0;
    plan->waste_bytes = 0;
    for (uint32_t i = 0; i < plan->class_count; i++) {
        struct ps_cache_class *c = &plan->classes[i];
        uint64_t least = ps_min_u64(lease_count, c->object_count) * plan->copy_count;
        c->slot_count = (uint32_t)ps_max_u64(least, c->object_count * share >> 20);
        slot_bytes += c->slot_count * c->slot_bytes;
        plan->waste_bytes +=
            c->slot_count * (c->slot_bytes - ps_div_up(c->object_bytes, c->object_count));
        plan->slot_count += c->slot_count;
        plan->slice_count += (uint64_t)c->slot_count * c->slice_count_max;
        plan->part_count += (uint64_t)c->slot_count * c->part_count_max;
    }
    size_regions(plan);
    plan->waste_bytes += plan->mapped_bytes - slot_bytes;
    plan->table_bytes = ps_cache_tables_place(&none, plan, NULL);
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

void ps_cache_plan_limit(struct ps_cache_plan *plan, uint32_t lease_count, uint32_t slot_count)
{
    uint64_t low = 0, high = (UINT64_C(1) << 20) + 1;

    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        size_plan(plan, lease_count, middle);
        if (plan->slot_count <= slot_count)
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
    plan->node_count = source->node_count;
    plan->copy_count = source->copy_count;
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
