#include "nvme/cache.h"

#include <assert.h>
#include <string.h>

#include "core/util.h"

/* ---- set-up ---------------------------------------------------------------------------------- */

static int map_regions(struct ps_cache *cache, const int *node_ids, struct ps_error *err)
{
    const struct ps_cache_plan *plan = &cache->plan;
    struct ps_cache_walk w = {0}, last = {0};
    int rc = 0;

    for (bool more = true; more && rc == 0; last = w) {
        more = ps_cache_walk_next(plan, &w);
        if (last.used == 0 || (more && w.region == last.region))
            continue;
        int node = plan->node_count > 1 && node_ids ? node_ids[last.node] : -1;
        struct ps_region *region = &cache->regions[last.region];
        rc = node_ids ? ps_region_map(region, last.used, node, err)
                      : ps_region_reserve(region, last.used, err);
    }
    return rc;
}

static void list_init(struct ps_cache_lists *lists)
{
    *lists = (struct ps_cache_lists){
        .free = PS_CACHE_NONE,
        .lru = {PS_CACHE_NONE, PS_CACHE_NONE},
        .staged = {PS_CACHE_NONE, PS_CACHE_NONE},
    };
}

static void make_free(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];
    struct ps_cache_lists *lists = &cache->lists[slot->class_idx];

    slot->state = PS_SLOT_FREE;
    slot->moved_to = PS_CACHE_NONE;
    slot->newer = lists->free;
    lists->free = slot_idx;
}

static void place_slots(struct ps_cache *cache)
{
    const struct ps_cache_plan *plan = &cache->plan;
    struct ps_cache_walk w = {0};
    uint64_t slice = 0, part = 0;
    uint32_t slot_idx = 0;

    memset(cache->slot_parts, 0,
           plan->slot_count * (size_t)plan->node_count * sizeof(*cache->slot_parts));
    while (ps_cache_walk_next(plan, &w))
        cache->slot_parts[(size_t)w.slot * (size_t)plan->node_count + (size_t)w.node] =
            (uint8_t *)cache->regions[w.region].base + w.at;
    for (uint32_t i = 0; i < plan->class_count; i++) {
        list_init(&cache->lists[i]);
        for (uint32_t n = 0; n < plan->classes[i].slot_count; n++, slot_idx++) {
            struct ps_slot *slot = &cache->slots[slot_idx];
            *slot = (struct ps_slot){.class_idx = (uint8_t)i};
            slot->nodes = cache->nodes + slice;
            slot->fetch.slices = cache->slices + slice;
            slot->fetch.landed = cache->landed + slice;
            slot->shown = cache->shown + slice;
            slot->fetch.tries = cache->tries + slice;
            slot->fetch.pending = cache->pending + slice;
            slot->fetch.parts = cache->parts + part;
            slice += plan->classes[i].slice_count_max;
            part += plan->classes[i].part_count_max;
            make_free(cache, slot_idx);
        }
    }
}

static void find_class_of_objects(struct ps_cache *cache)
{
    for (uint32_t i = 0; i < cache->source.object_count; i++) {
        struct ps_cache_object o;
        uint32_t c = cache->plan.class_count;
        cache->slot_of[i] = PS_CACHE_NONE;
        if (!cache->source.object(cache->source.ctx, i, &o))
            continue;
        /* Descending: the last class whose objects are as large. */
        while (cache->plan.classes[c - 1].object_bytes_max < o.bytes)
            c--;
        cache->class_of[i] = (uint8_t)(c - 1);
    }
}

int ps_cache_init(struct ps_cache *cache, const struct ps_cache_plan *plan,
                  const struct ps_cache_source *source, const int *node_ids, void *table,
                  struct ps_error *err)
{
    memset(cache, 0, sizeof(*cache));
    cache->plan = *plan;
    cache->source = *source;
    ps_cache_tables_place(cache, plan, table);
    memset(cache->regions, 0, plan->region_count * sizeof(*cache->regions));
    int rc = map_regions(cache, node_ids, err);
    if (rc < 0)
        return rc;
    place_slots(cache);
    find_class_of_objects(cache);
    return 0;
}

void ps_cache_fini(struct ps_cache *cache)
{
    for (uint32_t i = 0; cache->regions && i < cache->plan.region_count; i++)
        ps_region_unmap(&cache->regions[i]);
    memset(cache, 0, sizeof(*cache));
}

/* ---- lists ----------------------------------------------------------------------------------- */

static struct ps_cache_list *list_of(struct ps_cache *cache, const struct ps_slot *slot)
{
    struct ps_cache_lists *lists = &cache->lists[slot->class_idx];
    return slot->is_staged ? &lists->staged : &lists->lru;
}

/*
 * By the order in which slots were let go, which is nearly always behind the newest. A lease may be
 * put when its last slice has landed, a moment before its fetch has ended: by the order of the ends
 * what is in memory later would depend on such moments.
 */
static void list_insert(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];
    struct ps_cache_list *list = list_of(cache, slot);
    uint32_t older = list->newest, newer = PS_CACHE_NONE;

    while (older != PS_CACHE_NONE && cache->slots[older].order > slot->order) {
        newer = older;
        older = cache->slots[older].older;
    }
    slot->older = older;
    slot->newer = newer;
    *(older == PS_CACHE_NONE ? &list->oldest : &cache->slots[older].newer) = slot_idx;
    *(newer == PS_CACHE_NONE ? &list->newest : &cache->slots[newer].older) = slot_idx;
}

static void list_remove(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];
    struct ps_cache_list *list = list_of(cache, slot);

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

static void set_staged(struct ps_cache *cache, struct ps_slot *slot, bool is_staged)
{
    uint32_t change = (uint32_t)is_staged - (uint32_t)slot->is_staged;

    cache->staged_count += change;
    cache->lists[slot->class_idx].staged_count += change;
    slot->is_staged = is_staged;
}

/* Takes any slot: a staged one becomes one like others. What no drive was asked for, nobody has
 * read. */
static void end_guess(struct ps_cache *cache, struct ps_slot *slot, bool is_used)
{
    struct ps_cache_guesses *g = &cache->guesses;

    if (!slot->is_staged)
        return;
    set_staged(cache, slot, false);
    *(is_used ? &g->used_count : &g->vain_count) += slot->fetch.guess_bytes > 0;
    *(is_used ? &g->used_bytes : &g->vain_bytes) += slot->fetch.guess_bytes;
}

/* ---- slots ----------------------------------------------------------------------------------- */

uint32_t ps_cache_find(const struct ps_cache *cache, uint32_t object)
{
    uint32_t slot_idx = cache->slot_of[object];

    if (slot_idx == PS_CACHE_NONE)
        return slot_idx;
    const struct ps_fetch *fetch = &cache->slots[slot_idx].fetch;
    return fetch->error || fetch->is_left ? PS_CACHE_NONE : slot_idx;
}

/* From the oldest on, so that the oldest goes first among equals. */
static uint32_t least_worth(const struct ps_cache *cache, const struct ps_cache_list *list)
{
    const struct ps_cache_policy *policy = cache->policy;
    uint32_t least = list->oldest;
    double least_worth = 0;

    for (uint32_t i = least; i != PS_CACHE_NONE; i = cache->slots[i].newer) {
        double worth = policy->worth(policy->ctx, cache->slots[i].fetch.object);
        if (i != list->oldest && worth >= least_worth)
            continue;
        least = i;
        least_worth = worth;
    }
    return least;
}

static void note_use(const struct ps_cache *cache, uint32_t object)
{
    if (cache->policy)
        cache->policy->used(cache->policy->ctx, object);
}

/* Guesses go in the order in which they came, whatever the policy. */
static uint32_t evict(struct ps_cache *cache, const struct ps_cache_list *list, bool is_lru)
{
    uint32_t slot_idx = is_lru && cache->policy ? least_worth(cache, list) : list->oldest;

    if (slot_idx == PS_CACHE_NONE)
        return slot_idx;
    list_remove(cache, slot_idx);
    forget(cache, slot_idx);
    end_guess(cache, &cache->slots[slot_idx], false);
    cache->eviction_count++;
    return slot_idx;
}

/* Where the object's slices lie in the slot: each behind the one before it on the same node. */
static void place_slices(struct ps_cache *cache, uint32_t slot_idx, uint32_t object)
{
    struct ps_slot *slot = &cache->slots[slot_idx];
    const struct ps_cache_class *c = &cache->plan.classes[slot->class_idx];
    uint32_t nodes = (uint32_t)cache->plan.node_count, home = 0, bytes;
    uint8_t **parts = &cache->slot_parts[(size_t)slot_idx * nodes];
    uint64_t used[PS_NODE_COUNT_MAX];
    struct ps_cache_object o = {0};

    cache->source.object(cache->source.ctx, object, &o);
    for (uint32_t n = 0; n < nodes; n++) {
        used[n] = 0;
        home = c->is_floating && parts[n] ? n : home;
    }
    for (uint32_t s = 0; s < o.slice_count; s++) {
        int known = cache->source.slice(cache->source.ctx, object, s, &bytes);
        uint32_t node = c->is_floating ? home
                        : known == PS_CACHE_NODE_ANY
                            ? (uint32_t)((uint64_t)s * nodes / o.slice_count)
                            : (uint32_t)known;
        slot->nodes[s] = (uint8_t)node;
        slot->fetch.slices[s] = parts[node] + used[node];
        used[node] += bytes;
    }
}

/* Takes a slot for the object, in the state of being read. */
static uint32_t take(struct ps_cache *cache, uint32_t object, bool is_guess)
{
    struct ps_cache_lists *lists = &cache->lists[cache->class_of[object]];
    uint32_t slot_idx = lists->free;

    if (slot_idx != PS_CACHE_NONE)
        lists->free = cache->slots[slot_idx].newer;
    else
        slot_idx = evict(cache, &lists->lru, true);
    if (slot_idx == PS_CACHE_NONE && !is_guess)
        slot_idx = evict(cache, &lists->staged, false);
    if (slot_idx == PS_CACHE_NONE)
        return PS_CACHE_NONE;
    struct ps_slot *slot = &cache->slots[slot_idx];
    slot->state = PS_SLOT_READING;
    slot->lease_count = 0;
    slot->fetch.object = object;
    slot->fetch.error = 0;
    slot->was_guessed = is_guess;
    place_slices(cache, slot_idx, object);
    cache->slot_of[object] = slot_idx;
    return slot_idx;
}

uint32_t ps_cache_take(struct ps_cache *cache, uint32_t object)
{
    uint32_t slot_idx = take(cache, object, false);

    if (slot_idx == PS_CACHE_NONE)
        return slot_idx;
    note_use(cache, object);
    cache->slots[slot_idx].lease_count = 1;
    return slot_idx;
}

uint32_t ps_cache_stage(struct ps_cache *cache, uint32_t object, uint32_t most)
{
    struct ps_cache_lists *lists = &cache->lists[cache->class_of[object]];
    uint32_t slot_idx = lists->staged_count < most ? take(cache, object, true) : PS_CACHE_NONE;

    if (slot_idx != PS_CACHE_NONE) {
        set_staged(cache, &cache->slots[slot_idx], true);
        cache->slots[slot_idx].order = ++cache->order_count;
        lists->orphan_count++;
    }
    return slot_idx;
}

bool ps_cache_hold(struct ps_cache *cache, uint32_t slot_idx, uint32_t most)
{
    struct ps_slot *slot = &cache->slots[slot_idx];

    if (cache->lists[slot->class_idx].staged_count >= most)
        return false;
    assert(slot->state == PS_SLOT_READY && slot->lease_count == 0 && !slot->is_staged);
    list_remove(cache, slot_idx);
    set_staged(cache, slot, true);
    slot->was_guessed = false;
    slot->fetch.guess_bytes = 0;
    slot->order = ++cache->order_count;
    list_insert(cache, slot_idx);
    return true;
}

bool ps_cache_has_orphans(const struct ps_cache *cache, uint32_t object)
{
    return cache->lists[cache->class_of[object]].orphan_count > 0;
}

void ps_cache_lease(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];

    note_use(cache, slot->fetch.object);
    if (slot->lease_count++ > 0)
        return;
    if (slot->state == PS_SLOT_READY)
        list_remove(cache, slot_idx);
    else
        cache->lists[slot->class_idx].orphan_count--;
    end_guess(cache, slot, true);
    slot->was_guessed = false;
}

void ps_cache_touch(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];
    bool is_listed = slot->state == PS_SLOT_READY;

    assert(slot->lease_count == 0);
    if (is_listed)
        list_remove(cache, slot_idx);
    end_guess(cache, slot, true);
    slot->order = ++cache->order_count;
    if (is_listed)
        list_insert(cache, slot_idx);
}

/* What is to happen with a slot without leases. */
static void settle(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];

    if (slot->state == PS_SLOT_READY)
        list_insert(cache, slot_idx);
    else if (slot->state == PS_SLOT_FAILED)
        make_free(cache, slot_idx);
    else
        cache->lists[slot->class_idx].orphan_count++;
}

void ps_cache_release(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];

    assert(slot->lease_count > 0);
    if (--slot->lease_count > 0)
        return;
    slot->order = ++cache->order_count;
    settle(cache, slot_idx);
}

void ps_cache_unstage(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];

    assert(slot->is_staged);
    if (!slot->was_guessed) {
        ps_cache_touch(cache, slot_idx);
        return;
    }
    forget(cache, slot_idx);
    if (slot->state == PS_SLOT_READY) {
        list_remove(cache, slot_idx);
        make_free(cache, slot_idx);
    }
    end_guess(cache, slot, false);
}

/* ---- moves and ends -------------------------------------------------------------------------- */

uint32_t ps_cache_move(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];
    uint32_t to_idx = take(cache, slot->fetch.object, false);

    if (to_idx == PS_CACHE_NONE)
        return to_idx;
    cache->slots[to_idx].lease_count = slot->lease_count;
    cache->slots[to_idx].order = slot->order;
    if (slot->lease_count == 0)
        cache->lists[slot->class_idx].orphan_count++; /* both of them now */
    slot->moved_to = to_idx;
    slot->state = PS_SLOT_LEFT;
    return to_idx;
}

uint32_t ps_cache_follow(struct ps_cache *cache, uint32_t slot_idx)
{
    while (cache->slots[slot_idx].moved_to != PS_CACHE_NONE) {
        struct ps_slot *slot = &cache->slots[slot_idx];
        uint32_t to_idx = slot->moved_to;
        if (slot->lease_count > 0 && --slot->lease_count == 0) {
            if (slot->fetch.is_active)
                cache->lists[slot->class_idx].orphan_count++;
            else
                make_free(cache, slot_idx);
        }
        slot_idx = to_idx;
    }
    return slot_idx;
}

void ps_cache_finish(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slot = &cache->slots[slot_idx];
    bool is_good = slot->fetch.landed_count == slot->fetch.slice_count && !slot->fetch.error &&
                   !slot->fetch.is_left;

    assert(slot->state == PS_SLOT_READING || slot->state == PS_SLOT_LEFT);
    if (slot->lease_count == 0)
        cache->lists[slot->class_idx].orphan_count--;
    if (slot->state == PS_SLOT_LEFT) {
        if (slot->lease_count == 0)
            make_free(cache, slot_idx);
        return;
    }
    slot->state = is_good ? PS_SLOT_READY : PS_SLOT_FAILED;
    if (slot->state == PS_SLOT_FAILED) {
        forget(cache, slot_idx);
        end_guess(cache, slot, false);
    }
    if (slot->lease_count == 0)
        settle(cache, slot_idx);
}
