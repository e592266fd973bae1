/* The cache without any reading: plans under a budget, and slots against a simple model of LRU. */
#include "util.h"

#include "core/util.h"
#include "nvme/cache.h"

#define GIB (UINT64_C(1) << 30)

struct world {
    uint32_t object_count;
    const uint64_t *sizes; /* 0 = resident */
    uint64_t size;         /* of all, without sizes */
    int node_count;        /* 0 = 1 */
    const int *nodes;      /* [SLICES] of each slice; NULL = none belongs to one */
    uint32_t copy_count;   /* 0 = 1 */
};

#define SLICES 4u

static bool describe(const void *ctx, uint32_t object, struct ps_cache_object *out)
{
    const struct world *w = ctx;
    *out = (struct ps_cache_object){
        .bytes = w->sizes ? w->sizes[object] : w->size, .slice_count = SLICES, .part_count = 5};
    return out->bytes > 0;
}

/* Quarters in whole blocks; the last slice takes the rest. */
static int describe_slice(const void *ctx, uint32_t object, uint32_t slice, uint32_t *bytes)
{
    const struct world *w = ctx;
    struct ps_cache_object o;
    describe(ctx, object, &o);
    uint64_t quarter = o.bytes / SLICES & ~UINT64_C(4095);
    *bytes = (uint32_t)(slice + 1 < SLICES ? quarter : o.bytes - (SLICES - 1) * quarter);
    return w->nodes ? w->nodes[slice] : w->node_count > 1 ? PS_CACHE_NODE_ANY : 0;
}

static struct ps_cache_source source_of(const struct world *w)
{
    return (struct ps_cache_source){w,
                                    w->object_count,
                                    describe,
                                    describe_slice,
                                    w->node_count > 1 ? w->node_count : 1,
                                    w->copy_count > 1 ? w->copy_count : 1};
}

static uint64_t plan_bytes(const struct ps_cache_plan *plan)
{
    return plan->mapped_bytes + plan->table_bytes;
}

static void test_plan_one_size(void **state)
{
    struct world w = {.object_count = 1000, .size = 7 << 20};
    struct ps_cache_source source = source_of(&w);
    struct ps_cache_plan plan;
    (void)state;

    assert_true(ps_cache_plan_make(&plan, &source, 8, GIB, 0));
    assert_int_equal(plan.class_count, 1);
    assert_int_equal(plan.slot_count, 8);
    uint64_t floor = plan_bytes(&plan);
    assert_true(floor >= 8 * w.size && floor < 8 * w.size + (2 << 20) + (1 << 20));
    assert_false(ps_cache_plan_make(&plan, &source, 8, GIB, floor - 1));
    assert_true(ps_cache_plan_make(&plan, &source, 8, GIB, floor));
    assert_int_equal(plan.slot_count, 8);

    /* As many as fit, and not one less. */
    for (uint64_t budget = floor; budget < 9 * GIB; budget += GIB / 3) {
        assert_true(ps_cache_plan_make(&plan, &source, 8, GIB, budget));
        assert_true(plan_bytes(&plan) <= budget);
        assert_true(plan.slot_count == 1000 ||
                    plan_bytes(&plan) + w.size + (2 << 20) + 4096 > budget);
        assert_true(plan.waste_bytes < plan.mapped_bytes * 3 / 100 + (2 << 20));
        assert_true(plan.region_count >= ps_div_up(plan.slot_count * w.size, GIB));
    }
    assert_int_equal(plan.slot_count, 1000);
    assert_true(ps_cache_plan_make(&plan, &source, 2000, GIB, 0));
    assert_int_equal(plan.slot_count, 1000);

    /* What hangs is read to another slot from a second copy. */
    source.copy_count = 2;
    assert_true(ps_cache_plan_make(&plan, &source, 8, GIB, 0));
    assert_int_equal(plan.slot_count, 16);
    assert_true(ps_cache_plan_make(&plan, &source, 2000, GIB, 0));
    assert_int_equal(plan.slot_count, 2000);
}

static void test_plan_classes(void **state)
{
    uint64_t sizes[300];
    struct world w = {.object_count = 300, .sizes = sizes};
    struct ps_cache_source source = source_of(&w);
    struct ps_cache_plan plan;
    (void)state;

    /* 100 each of 1 MiB, 1 MiB less 2 %, and 3 MiB; the first of each is resident. */
    for (uint32_t i = 0; i < 300; i++)
        sizes[i] = i % 100 == 0 ? 0 : i < 100 ? 1 << 20 : i < 200 ? (1 << 20) - 5 * 4096 : 3 << 20;
    assert_true(ps_cache_plan_make(&plan, &source, 10, GIB, GIB / 4));
    assert_int_equal(plan.class_count, 2);
    assert_int_equal(plan.classes[0].slot_bytes, 3 << 20);
    assert_int_equal(plan.classes[0].object_count, 99);
    assert_int_equal(plan.classes[1].slot_bytes, 1 << 20);
    assert_int_equal(plan.classes[1].object_count, 198);
    /* In proportion to bytes: the same share of the objects of each. */
    uint32_t a = plan.classes[0].slot_count, b = plan.classes[1].slot_count;
    assert_true(a >= 10 && b >= 10 && a * 2 <= b + 2 && b <= a * 2 + 2);
    assert_true(plan.waste_bytes <= plan.mapped_bytes * 3 / 100 + (2 << 20));

    /* Where each class cannot have its ten, all share slots of the largest size. */
    assert_true(ps_cache_plan_make(&plan, &source, 10, GIB, 0));
    assert_int_equal(plan.class_count, 1);
    assert_int_equal(plan.slot_count, 10);
    uint64_t floor = plan_bytes(&plan);
    assert_true(floor < 33 << 20);
    assert_true(ps_cache_plan_make(&plan, &source, 10, GIB, floor));
    assert_int_equal(plan.class_count, 1);
    assert_true(ps_cache_plan_make(&plan, &source, 10, GIB, floor + (12 << 20)));
    assert_int_equal(plan.class_count, 2);
}

/* One huge object must not cost lease_count times its size. */
static void test_plan_one_giant(void **state)
{
    uint64_t sizes[101];
    struct world w = {.object_count = 101, .sizes = sizes};
    struct ps_cache_source source = source_of(&w);
    struct ps_cache_plan plan;
    (void)state;

    for (uint32_t i = 0; i < 101; i++)
        sizes[i] = i == 50 ? 3 * GIB : 1 << 20;
    assert_true(ps_cache_plan_make(&plan, &source, 8, GIB, 0));
    assert_int_equal(plan.class_count, 2);
    assert_int_equal(plan.classes[0].slot_count, 1);
    assert_int_equal(plan.classes[1].slot_count, 8);
    assert_int_equal(plan.region_count, 2);
    assert_true(plan.mapped_bytes < 3 * GIB + (12 << 20));
}

static void test_plan_many_sizes(void **state)
{
    uint64_t sizes[2000];
    struct world w = {.object_count = 2000, .sizes = sizes};
    struct ps_cache_source source = source_of(&w);
    struct ps_cache_plan plan;
    (void)state;

    for (uint32_t i = 0; i < 2000; i++)
        sizes[i] = 4096 * (i + 1);
    assert_true(ps_cache_plan_make(&plan, &source, 4, GIB, 2 * GIB));
    assert_true(plan.class_count <= PS_CACHE_CLASS_COUNT_MAX);
    assert_true(plan_bytes(&plan) <= 2 * GIB);
}

static void test_plan_nothing_streamed(void **state)
{
    uint64_t sizes[2] = {0, 0};
    struct world w = {.object_count = 2, .sizes = sizes};
    struct ps_cache_source source = source_of(&w);
    struct ps_cache_plan plan;
    (void)state;

    assert_true(ps_cache_plan_make(&plan, &source, 8, GIB, 0));
    assert_int_equal(plan.slot_count + plan.region_count + plan.class_count, 0);
    assert_int_equal(plan.mapped_bytes, 0);
}

static struct ps_cache *open_cache(const struct world *w, uint32_t lease_count, uint64_t budget,
                                   uint64_t region_bytes, void **table)
{
    struct ps_cache *cache = calloc(1, sizeof(*cache));
    struct ps_cache_source source = source_of(w);
    struct ps_cache_plan plan;
    int nodes[] = {0, 1, 2};

    assert_true(ps_cache_plan_make(&plan, &source, lease_count, region_bytes, budget));
    *table = aligned_alloc(64, plan.table_bytes);
    assert_non_null(*table);
    assert_int_equal(ps_cache_init(cache, &plan, &source, nodes, *table, NULL), 0);
    return cache;
}

static void close_cache(struct ps_cache *cache, void *table)
{
    ps_cache_fini(cache);
    free(cache);
    free(table);
}

/* No two slots overlap, none straddles two regions, all are writable. */
static void test_slots_are_apart(void **state)
{
    uint64_t sizes[60];
    struct world w = {.object_count = 60, .sizes = sizes};
    void *table;
    (void)state;

    for (uint32_t i = 0; i < 60; i++)
        sizes[i] = i % 2 ? 3 * 4096 : 100 * 4096;
    struct ps_cache *cache = open_cache(&w, 60, 64 << 20, 1 << 20, &table);
    assert_int_equal(cache->plan.slot_count, 60);
    assert_true(cache->plan.region_count > 10);
    for (uint32_t o = 0; o < 60; o++) {
        uint32_t slot = ps_cache_take(cache, o);
        assert_int_not_equal(slot, PS_CACHE_NONE);
        uint8_t *data = cache->slots[slot].fetch.slices[0];
        bool inside = false;
        for (uint32_t r = 0; r < cache->plan.region_count; r++) {
            uint8_t *base = cache->regions[r].base;
            inside |= data >= base && data + sizes[o] <= base + cache->regions[r].bytes;
        }
        assert_true(inside);
        memset(data, (int)o + 1, sizes[o]);
    }
    for (uint32_t o = 0; o < 60; o++) {
        const uint8_t *data = cache->slots[ps_cache_find(cache, o)].fetch.slices[0];
        for (uint64_t i = 0; i < sizes[o]; i += 4096)
            assert_int_equal(data[i], o + 1);
        assert_int_equal(data[sizes[o] - 1], o + 1);
    }
    close_cache(cache, table);
}

/* Which region an address lies in. */
static uint32_t region_of(const struct ps_cache *cache, const uint8_t *p, uint64_t bytes)
{
    for (uint32_t r = 0; r < cache->plan.region_count; r++) {
        const uint8_t *base = cache->regions[r].base;
        if (p >= base && p + bytes <= base + cache->regions[r].bytes)
            return r;
    }
    fail_msg("a slice lies in no region");
    return 0;
}

/* Slices of one node share regions with no slice of another; none overlaps another. */
static void test_slices_by_node(void **state)
{
    static const int nodes[SLICES] = {2, 0, 2, PS_CACHE_NODE_ANY}; /* the last: 3 * 3 / 4 = 2 */
    static const uint8_t resolved[SLICES] = {2, 0, 2, 2};
    struct world w = {.object_count = 30, .size = 5 * 4096, .node_count = 3, .nodes = nodes};
    int node_of_region[64];
    void *table;
    struct ps_cache *cache = open_cache(&w, 30, 0, 40 * 4096, &table);
    (void)state;

    assert_int_equal(cache->plan.slot_count, 30);
    assert_false(cache->plan.classes[0].is_floating);
    assert_int_equal(cache->plan.classes[0].node_bytes[0], 4096);
    assert_int_equal(cache->plan.classes[0].node_bytes[1], 0);
    assert_int_equal(cache->plan.classes[0].node_bytes[2], 4 * 4096);
    assert_int_equal(cache->plan.classes[0].slot_bytes, w.size);
    assert_int_equal(cache->plan.node_mapped_bytes[1], 0);
    assert_true(cache->plan.region_count > 3 && cache->plan.region_count <= 64);
    assert_int_equal(cache->plan.node_mapped_bytes[0] + cache->plan.node_mapped_bytes[2],
                     cache->plan.mapped_bytes);
    for (uint32_t r = 0; r < 64; r++)
        node_of_region[r] = -1;
    for (uint32_t o = 0; o < 30; o++) {
        struct ps_slot *slot = &cache->slots[ps_cache_take(cache, o)];
        for (uint32_t s = 0; s < SLICES; s++) {
            uint32_t bytes;
            describe_slice(&w, o, s, &bytes);
            assert_int_equal(slot->nodes[s], resolved[s]);
            int *node = &node_of_region[region_of(cache, slot->fetch.slices[s], bytes)];
            assert_true(*node == -1 || *node == resolved[s]);
            *node = resolved[s];
            memset(slot->fetch.slices[s], (int)(o * SLICES + s), bytes);
        }
    }
    for (uint32_t o = 0; o < 30; o++) {
        const struct ps_slot *slot = &cache->slots[ps_cache_find(cache, o)];
        for (uint32_t s = 0; s < SLICES; s++) {
            uint32_t bytes;
            describe_slice(&w, o, s, &bytes);
            assert_int_equal(slot->fetch.slices[s][0], o * SLICES + s);
            assert_int_equal(slot->fetch.slices[s][bytes - 1], o * SLICES + s);
        }
    }
    close_cache(cache, table);
}

/* Objects of no node lie whole on one, slot by slot on the next. */
static void test_slices_of_no_node(void **state)
{
    struct world w = {.object_count = 12, .size = 8 * 4096, .node_count = 3};
    uint32_t slots_on[3] = {0};
    void *table;
    struct ps_cache *cache = open_cache(&w, 12, 0, GIB, &table);
    (void)state;

    assert_true(cache->plan.classes[0].is_floating);
    assert_int_equal(cache->plan.region_count, 3);
    for (uint32_t o = 0; o < 12; o++) {
        const struct ps_slot *slot = &cache->slots[ps_cache_take(cache, o)];
        uint32_t region = region_of(cache, slot->fetch.slices[0], w.size);
        for (uint32_t s = 0; s < SLICES; s++) {
            assert_int_equal(slot->nodes[s], region);
            assert_ptr_equal(slot->fetch.slices[s], slot->fetch.slices[0] + s * w.size / SLICES);
        }
        slots_on[region]++;
    }
    for (int n = 0; n < 3; n++)
        assert_int_equal(slots_on[n], 4);
    close_cache(cache, table);
}

/* To be asked for next: a guess is one no more, and what is touched goes last. `slot_idx` is being
 * read, and all others are leased. */
static void check_touch(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_slot *slots = cache->slots;

    slots[slot_idx].fetch.landed_count = slots[slot_idx].fetch.slice_count = SLICES;
    slots[slot_idx].fetch.is_left = false;
    ps_cache_finish(cache, slot_idx);
    ps_cache_release(cache, slot_idx);
    ps_cache_touch(cache, slot_idx);
    assert_int_equal(cache->lists[0].lru.newest, slot_idx);
    uint32_t right = ps_cache_stage(cache, 9, 9);
    assert_int_equal(right, slot_idx);
    slots[right].fetch.slice_count = slots[right].fetch.landed_count = SLICES;
    ps_cache_finish(cache, right);
    ps_cache_touch(cache, right);
    assert_int_equal(cache->staged_count, 0);
    assert_int_equal(cache->lists[0].lru.newest, right);
    assert_int_equal(cache->lists[0].staged.newest, PS_CACHE_NONE);

    /* The same while it is read; what was let go since is newer when it lands. */
    right = ps_cache_stage(cache, 4, 1);
    assert_int_equal(ps_cache_stage(cache, 5, 1), PS_CACHE_NONE);
    ps_cache_touch(cache, right);
    assert_int_equal(cache->staged_count + cache->lists[0].staged_count, 0);
    assert_true(slots[right].was_guessed);
    slots[right].fetch.slice_count = slots[right].fetch.landed_count = SLICES;
    ps_cache_finish(cache, right);
    assert_int_equal(cache->lists[0].lru.newest, right);
    assert_int_equal(cache->lists[0].staged.newest, PS_CACHE_NONE);
}

/* Guesses have a list of their own, give way to demand last, and become like others by use. */
static void test_staged(void **state)
{
    struct world w = {.object_count = 10, .size = 4096};
    void *table;
    struct ps_cache *cache = open_cache(&w, 3, 0, GIB, &table);
    (void)state;

    assert_int_equal(cache->plan.slot_count, 3);
    uint32_t used = ps_cache_take(cache, 0), guess = ps_cache_stage(cache, 1, 9);
    struct ps_slot *slots = cache->slots;
    slots[used].fetch.slice_count = slots[used].fetch.landed_count = SLICES;
    ps_cache_finish(cache, used);
    ps_cache_release(cache, used);
    assert_int_equal(cache->staged_count, 1);
    assert_true(ps_cache_has_orphans(cache, 1));
    slots[guess].fetch.slice_count = slots[guess].fetch.landed_count = SLICES;
    ps_cache_finish(cache, guess);
    assert_false(ps_cache_has_orphans(cache, 1));

    /* One free slot, then what was used goes before the guess. */
    uint32_t other = ps_cache_take(cache, 2);
    assert_int_equal(cache->eviction_count, 0);
    assert_int_equal(ps_cache_take(cache, 3), used);
    assert_int_equal(ps_cache_find(cache, 0), PS_CACHE_NONE);
    assert_int_equal(cache->staged_count, 1);
    slots[guess].fetch.guess_bytes = 4096;
    assert_int_equal(ps_cache_take(cache, 9), guess);
    assert_int_equal(cache->guesses.vain_count, 1);
    assert_int_equal(cache->guesses.vain_bytes, 4096);
    assert_int_equal(cache->staged_count, 0);
    assert_int_equal(ps_cache_find(cache, 1), PS_CACHE_NONE);
    slots[used].fetch.slice_count = slots[used].fetch.landed_count = SLICES;
    ps_cache_finish(cache, used);
    ps_cache_release(cache, used);
    /* A guess takes the place of what was used least recently, but not that of another guess. */
    uint32_t next = ps_cache_stage(cache, 4, 9);
    assert_int_equal(next, used);
    assert_int_equal(ps_cache_stage(cache, 5, 9), PS_CACHE_NONE);

    /* Asked for while it is read: a lease like any other. */
    ps_cache_lease(cache, next);
    assert_int_equal(cache->staged_count, 0);
    slots[next].fetch.landed_count = slots[next].fetch.slice_count = SLICES;
    ps_cache_finish(cache, next);
    ps_cache_release(cache, next);
    assert_int_equal(cache->lists[0].lru.newest, next);

    /* Taken back: in memory, then while it is read. */
    uint32_t wrong = ps_cache_stage(cache, 6, 9);
    slots[wrong].fetch.landed_count = slots[wrong].fetch.slice_count = SLICES;
    ps_cache_finish(cache, wrong);
    ps_cache_unstage(cache, wrong);
    assert_int_equal(ps_cache_find(cache, 6), PS_CACHE_NONE);
    wrong = ps_cache_stage(cache, 7, 9);
    slots[wrong].fetch.landed_count = 0;
    ps_cache_unstage(cache, wrong);
    assert_int_equal(ps_cache_find(cache, 7), PS_CACHE_NONE);
    assert_int_equal(ps_cache_take(cache, 8), PS_CACHE_NONE);
    slots[wrong].fetch.is_left = true;
    ps_cache_finish(cache, wrong);
    assert_int_equal(ps_cache_take(cache, 8), wrong);
    assert_int_equal(cache->staged_count, 0);

    check_touch(cache, wrong);
    ps_cache_release(cache, other);
    close_cache(cache, table);
}

static void read_whole(struct ps_cache *cache, uint32_t slot_idx)
{
    struct ps_fetch *fetch = &cache->slots[slot_idx].fetch;

    fetch->slice_count = fetch->landed_count = SLICES;
    ps_cache_finish(cache, slot_idx);
}

/* What is guessed and in memory stays there until it is used, or the guess is taken back. */
static void test_held(void **state)
{
    struct world w = {.object_count = 10, .size = 4096};
    void *table;
    struct ps_cache *cache = open_cache(&w, 3, 0, GIB, &table);
    struct ps_slot *slots = cache->slots;
    uint32_t of[3];

    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        of[i] = i == 2 ? ps_cache_stage(cache, i, 1) : ps_cache_take(cache, i);
        read_whole(cache, of[i]);
    }
    slots[of[2]].fetch.guess_bytes = 4096;
    ps_cache_lease(cache, of[2]);
    for (uint32_t i = 0; i < 3; i++)
        ps_cache_release(cache, of[i]);
    assert_int_equal(cache->guesses.used_bytes, 4096);

    /* The oldest two are held: a guess and a demand take the third, and then there is none. */
    assert_true(ps_cache_hold(cache, of[0], 2));
    assert_true(ps_cache_hold(cache, of[1], 2));
    assert_false(ps_cache_hold(cache, of[2], 2));
    assert_int_equal(cache->staged_count, 2);
    assert_int_equal(ps_cache_stage(cache, 3, 9), of[2]);
    assert_int_equal(ps_cache_stage(cache, 4, 9), PS_CACHE_NONE);
    slots[of[2]].fetch.guess_bytes = 0; /* demanded before a drive was asked */
    ps_cache_lease(cache, of[2]);
    read_whole(cache, of[2]);

    /* Used and taken back: in memory like others, the newest ones. Neither has cost a read. */
    ps_cache_lease(cache, of[1]);
    ps_cache_release(cache, of[1]);
    ps_cache_unstage(cache, of[0]);
    assert_int_equal(cache->staged_count + cache->lists[0].staged_count, 0);
    assert_int_equal(ps_cache_find(cache, 0), of[0]);
    assert_int_equal(cache->lists[0].lru.oldest, of[1]);
    assert_int_equal(cache->lists[0].lru.newest, of[0]);
    ps_cache_release(cache, of[2]);

    /* What was read for one guess and is held for the next counts once. */
    assert_true(ps_cache_hold(cache, of[2], 9));
    ps_cache_lease(cache, of[2]);
    assert_int_equal(cache->guesses.used_count, 1);
    assert_int_equal(cache->guesses.used_bytes, 4096);
    assert_int_equal(cache->guesses.vain_count, 0);
    ps_cache_release(cache, of[2]);

    /* With nothing else left a demand takes one that is held, too. */
    for (uint32_t i = 0; i < 3; i++)
        assert_true(ps_cache_hold(cache, of[i], 9));
    assert_int_equal(ps_cache_take(cache, 5), of[0]);
    assert_int_equal(cache->guesses.vain_count, 0);
    read_whole(cache, of[0]);
    ps_cache_release(cache, of[0]);
    close_cache(cache, table);
}

/* An object whose reads hang: its leases go to another slot, the old one is nobody's until the
 * last read has come back and the last lease has been followed. */
static void test_move(void **state)
{
    struct world w = {.object_count = 10, .size = 4096};
    void *table;
    (void)state;

    for (int order = 0; order < 2; order++) {
        struct ps_cache *cache = open_cache(&w, 3, 0, GIB, &table);
        uint32_t old = ps_cache_take(cache, 4);
        ps_cache_lease(cache, old);
        cache->slots[old].fetch.is_active = true;
        uint32_t to = ps_cache_move(cache, old);
        assert_int_not_equal(to, old);
        assert_int_equal(ps_cache_find(cache, 4), to);
        uint32_t again = ps_cache_move(cache, to); /* and that hangs, too */
        assert_int_equal(ps_cache_move(cache, again), PS_CACHE_NONE);
        cache->slots[to].fetch.is_active = true;
        if (order == 0) {
            cache->slots[old].fetch.is_active = cache->slots[to].fetch.is_active = false;
            ps_cache_finish(cache, old);
            ps_cache_finish(cache, to);
            assert_int_equal(ps_cache_take(cache, 5), PS_CACHE_NONE);
        }
        assert_int_equal(ps_cache_follow(cache, old), again);
        assert_int_equal(ps_cache_follow(cache, old), again);
        if (order == 1) {
            assert_true(ps_cache_has_orphans(cache, 5));
            assert_int_equal(ps_cache_take(cache, 5), PS_CACHE_NONE);
            cache->slots[old].fetch.is_active = cache->slots[to].fetch.is_active = false;
            ps_cache_finish(cache, old);
            ps_cache_finish(cache, to);
        }
        assert_int_equal(cache->slots[again].lease_count, 2);
        assert_int_not_equal(ps_cache_take(cache, 5), PS_CACHE_NONE);
        assert_int_not_equal(ps_cache_take(cache, 6), PS_CACHE_NONE);
        assert_false(ps_cache_has_orphans(cache, 5));
        close_cache(cache, table);
    }
}

/* Random leases, puts, joins and failures beside a list that does the same the slow way. */
struct model {
    uint32_t lru[64], lru_count; /* objects nobody leases, oldest first */
    uint32_t leased[64];         /* leases per object */
    uint32_t slot_count, used_count;
    uint64_t evictions;
};

static bool model_take(struct model *m, uint32_t object)
{
    if (m->used_count < m->slot_count) {
        m->used_count++;
    } else if (m->lru_count > 0) {
        memmove(m->lru, m->lru + 1, --m->lru_count * sizeof(*m->lru));
        m->evictions++;
    } else {
        return false;
    }
    m->leased[object] = 1;
    return true;
}

static bool model_find(struct model *m, uint32_t object)
{
    if (m->leased[object])
        return true;
    for (uint32_t i = 0; i < m->lru_count; i++) {
        if (m->lru[i] != object)
            continue;
        memmove(m->lru + i, m->lru + i + 1, (--m->lru_count - i) * sizeof(*m->lru));
        return true;
    }
    return false;
}

static void test_lru_model(void **state)
{
    struct world w = {.object_count = 40, .size = 4096};
    struct model m = {.slot_count = 8};
    uint32_t slot_of_lease[64], object_of_lease[64], lease_count = 0;
    uint64_t seed = 99, refusals = 0, hits = 0;
    void *table;
    struct ps_cache *cache = open_cache(&w, 8, 0, GIB, &table);
    (void)state;

    assert_int_equal(cache->plan.slot_count, 8);
    for (int step = 0; step < 200000; step++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint32_t object = (uint32_t)(seed >> 33) % 40, dice = (uint32_t)(seed >> 50) % 100;
        if (dice < 50 && lease_count < 12) {
            uint32_t slot = ps_cache_find(cache, object);
            bool known = model_find(&m, object);
            assert_int_equal(slot != PS_CACHE_NONE, known);
            if (known) {
                ps_cache_lease(cache, slot);
                m.leased[object]++;
                hits++;
            } else {
                slot = ps_cache_take(cache, object);
                bool taken = model_take(&m, object);
                assert_int_equal(slot != PS_CACHE_NONE, taken);
                refusals += !taken;
                if (!taken)
                    continue;
                bool fails = dice < 5;
                cache->slots[slot].fetch.slice_count = SLICES;
                cache->slots[slot].fetch.landed_count = SLICES;
                cache->slots[slot].fetch.error = fails ? -EIO : 0;
                ps_cache_finish(cache, slot);
                if (fails) {
                    assert_int_equal(ps_cache_find(cache, object), PS_CACHE_NONE);
                    ps_cache_release(cache, slot);
                    m.leased[object] = 0;
                    m.used_count--;
                    continue;
                }
            }
            assert_int_equal(cache->slots[slot].fetch.object, object);
            slot_of_lease[lease_count] = slot;
            object_of_lease[lease_count++] = object;
        } else if (lease_count > 0) {
            uint32_t i = (uint32_t)(seed >> 20) % lease_count;
            ps_cache_release(cache, slot_of_lease[i]);
            if (--m.leased[object_of_lease[i]] == 0)
                m.lru[m.lru_count++] = object_of_lease[i];
            slot_of_lease[i] = slot_of_lease[--lease_count];
            object_of_lease[i] = object_of_lease[lease_count];
        }
        assert_int_equal(cache->eviction_count, m.evictions);
    }
    assert_true(refusals > 100 && hits > 1000 && m.evictions > 1000);
    close_cache(cache, table);
}

/* A slot that is still being read is nobody's until the reads have ended. */
static void test_orphans(void **state)
{
    struct world w = {.object_count = 10, .size = 4096};
    void *table;
    struct ps_cache *cache = open_cache(&w, 1, 0, GIB, &table);
    (void)state;

    assert_int_equal(cache->plan.slot_count, 1);
    uint32_t slot = ps_cache_take(cache, 3);
    assert_false(ps_cache_has_orphans(cache, 4));
    assert_int_equal(ps_cache_take(cache, 4), PS_CACHE_NONE);
    ps_cache_release(cache, slot);
    assert_true(ps_cache_has_orphans(cache, 4));
    assert_int_equal(ps_cache_take(cache, 4), PS_CACHE_NONE);
    assert_int_equal(ps_cache_find(cache, 3), slot);
    ps_cache_lease(cache, slot);
    assert_false(ps_cache_has_orphans(cache, 4));
    ps_cache_release(cache, slot);
    ps_cache_finish(cache, slot);
    assert_false(ps_cache_has_orphans(cache, 4));
    assert_int_equal(ps_cache_take(cache, 4), slot);
    assert_int_equal(cache->eviction_count, 1);
    assert_int_equal(ps_cache_find(cache, 3), PS_CACHE_NONE);

    /* A failed one, given up before its reads end, is free afterwards. */
    cache->slots[slot].fetch.error = -EIO;
    ps_cache_release(cache, slot);
    assert_int_equal(ps_cache_find(cache, 4), PS_CACHE_NONE);
    ps_cache_finish(cache, slot);
    assert_int_equal(ps_cache_take(cache, 4), slot);
    assert_int_equal(cache->eviction_count, 1);
    close_cache(cache, table);
}

/* What is let go first goes first, whichever read has ended first. */
static void test_order_of_release(void **state)
{
    struct world w = {.object_count = 10, .size = 4096};
    void *table;
    struct ps_cache *cache = open_cache(&w, 3, 0, GIB, &table);
    uint32_t slots[3];
    (void)state;

    assert_int_equal(cache->plan.slot_count, 3);
    for (uint32_t i = 0; i < 3; i++)
        slots[i] = ps_cache_take(cache, i);
    for (uint32_t i = 0; i < 3; i++)
        ps_cache_release(cache, slots[i]);
    ps_cache_finish(cache, slots[1]);
    ps_cache_finish(cache, slots[2]);
    ps_cache_finish(cache, slots[0]);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(ps_cache_take(cache, 3 + i), slots[i]);
    close_cache(cache, table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_one_size),
        cmocka_unit_test(test_plan_classes),
        cmocka_unit_test(test_plan_one_giant),
        cmocka_unit_test(test_plan_many_sizes),
        cmocka_unit_test(test_plan_nothing_streamed),
        cmocka_unit_test(test_slots_are_apart),
        cmocka_unit_test(test_slices_by_node),
        cmocka_unit_test(test_slices_of_no_node),
        cmocka_unit_test(test_staged),
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_move),
        cmocka_unit_test(test_lru_model),
        cmocka_unit_test(test_orphans),
        cmocka_unit_test(test_order_of_release),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
