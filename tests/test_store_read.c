/*
 * The store on real volumes of one and three members, under every engine: resident objects, leases
 * against a simple model of LRU, leases given up while reads are in flight, damage.
 */
#include "store_fixture.h"

#include "core/log.h"
#include "core/util.h"

#define STREAMED (STORE_GROUPS * STORE_INDEXES)

static struct store_volume beds[2];
static const char *const engine_names[] = {"uring", "pread", "pagecache", "mmap"};

static void print_log(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx;
    (void)level;
    printf("log: %s\n", text);
}

static struct ps_store *open_store(const struct store_volume *v,
                                   const struct ps_store_options *options)
{
    struct ps_store *store = NULL;
    struct ps_error err = {0};
    if (ps_store_open(&store, v->volume, options, &err) < 0)
        fail_msg("open: %s: %s", err.where, err.text);
    return store;
}

static struct ps_store_options floor_options(const struct store_volume *v, const char *engine,
                                             uint32_t lease_count)
{
    struct ps_store_options o = {.engine = engine, .lease_count = lease_count};
    o.cache_bytes = ps_store_floor_bytes(v->volume, &o);
    return o;
}

static void get(struct ps_store *store, uint32_t object, struct ps_lease *lease, int expect)
{
    struct ps_error err = {0};
    int rc = ps_store_get(store, object / STORE_INDEXES, object % STORE_INDEXES, lease, &err);
    if (rc != expect)
        fail_msg("get %u: %d instead of %d: %s", object, rc, expect, err.text);
}

static void wait_all(struct ps_store *store, struct ps_lease *leases, size_t count)
{
    struct ps_error err = {0};
    for (int rc = 1; rc != 0;) {
        rc = ps_store_wait(store, leases, count, &err);
        if (rc < 0)
            fail_msg("wait: %s: %s", err.where, err.text);
    }
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(leases[i].state, PS_LEASE_READY);
        assert_int_equal(leases[i].landed_count, leases[i].slice_count);
    }
}

static void test_resident(void **state)
{
    (void)state;
    for (size_t b = 0; b < PS_ARRAY_LEN(beds); b++) {
        for (size_t e = 0; e < PS_ARRAY_LEN(engine_names); e++) {
            struct ps_store_options o = floor_options(&beds[b], engine_names[e], 1);
            struct ps_store *store = open_store(&beds[b], &o);
            const char *names[] = {"small", "large"};
            uint64_t total = 0;
            for (int i = 0; i < 2; i++) {
                uint32_t object = (uint32_t)ps_volume_find_resident(beds[b].volume, names[i]);
                struct ps_object_info info;
                ps_volume_object(beds[b].volume, object, &info);
                uint8_t *buf = aligned_alloc(4096, info.bytes);
                memset(buf, 0xAA, info.bytes);
                assert_int_equal(ps_store_read(store, object, buf, NULL), 0);
                store_check_object(&beds[b], object, buf);
                total += info.bytes;
                assert_int_equal(ps_store_read(store, object, buf + 8, NULL), -PS_ERR_ARGUMENT);
                free(buf);
            }
            struct ps_store_stats stats;
            ps_store_stats(store, &stats);
            assert_string_equal(stats.engine, engine_names[e]);
            assert_int_equal(stats.read_bytes, total);
            assert_int_equal(stats.streamed_bytes, 0);
            assert_true(stats.read_count >= 10);
            assert_int_equal(ps_store_read(store, 9999, NULL, NULL), -ENOENT);
            ps_store_close(&store);
            assert_null(store);
        }
    }
}

/* The least recently used list of one class, oldest first. */
struct model {
    uint32_t objects[STREAMED], count, slots;
    uint64_t hits, misses, evictions;
};

static bool model_use(struct model *m, uint32_t object)
{
    uint32_t i = 0;
    while (i < m->count && m->objects[i] != object)
        i++;
    bool hit = i < m->count;
    if (!hit && m->count == m->slots) {
        i = 0;
        m->evictions++;
    }
    if (i < m->count)
        memmove(m->objects + i, m->objects + i + 1, (--m->count - i) * sizeof(m->objects[0]));
    m->objects[m->count++] = object;
    m->hits += hit;
    m->misses += !hit;
    return hit;
}

/* Every slice that has landed holds what it should, whatever else is still on its way. */
static void check_landed(const struct store_volume *v, const struct ps_lease *leases, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t s = 0; s < leases[i].slice_count; s++) {
            struct ps_slice_info info;
            ps_volume_slice(v->volume, leases[i].object, s, &info);
            if (leases[i].landed[s])
                store_check_slice(v, leases[i].object, s, leases[i].slices[s]);
        }
    }
}

/*
 * Random use of all objects, several at a time, put in the order in which they were leased, so that
 * the model's order is the cache's. At the floor all sizes share one class of lease_count slots.
 */
static void random_use(const struct store_volume *v, const char *engine, uint32_t lease_count,
                       int steps)
{
    struct ps_store_options o = floor_options(v, engine, lease_count);
    struct ps_store *store = open_store(v, &o);
    struct ps_lease leases[STREAMED] = {{0}};
    struct model m = {.slots = lease_count};
    struct ps_store_stats stats;
    uint64_t seed = lease_count;

    ps_store_stats(store, &stats);
    assert_int_equal(stats.slot_count, lease_count);
    assert_true(stats.memory_bytes <= o.cache_bytes);
    for (int step = 0; step < steps; step++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint32_t n = 1 + (uint32_t)(seed >> 59) % (lease_count < 4 ? lease_count : 4);
        uint32_t first = (uint32_t)(seed >> 33) % STREAMED;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t object = (first + i * 5) % STREAMED;
            get(store, object, &leases[i], model_use(&m, object));
            assert_int_equal(leases[i].object, object);
        }
        for (int rc = 1; rc != 0;) {
            rc = ps_store_wait(store, leases, n, NULL);
            assert_true(rc >= 0);
            check_landed(v, leases, n);
        }
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(leases[i].state, PS_LEASE_READY);
            assert_int_equal(leases[i].landed_count, leases[i].slice_count);
            ps_store_put(store, &leases[i]);
            assert_null(leases[i].slices);
        }
    }
    ps_store_stats(store, &stats);
    assert_int_equal(stats.hits, m.hits);
    assert_int_equal(stats.misses, m.misses);
    assert_int_equal(stats.evictions, m.evictions);
    assert_int_equal(stats.read_bytes, stats.streamed_bytes);
    assert_int_equal(m.evictions > 0, lease_count < STREAMED);
    ps_store_close(&store);
}

static void test_random_use(void **state)
{
    (void)state;
    /* Sanitizers look at every byte that is compared: minutes, with as many steps. */
    int less = PS_TEST_SANITIZED ? 3 : 1;

    for (size_t b = 0; b < PS_ARRAY_LEN(beds); b++) {
        for (size_t e = 0; e < PS_ARRAY_LEN(engine_names); e++) {
            random_use(&beds[b], engine_names[e], 1, 12 / less);
            random_use(&beds[b], engine_names[e], 5, 30 / less);
            random_use(&beds[b], engine_names[e], STREAMED, 30 / less);
        }
    }
}

/* Every slot leased: the next is refused, and nothing is lost by it. */
static void test_all_leased(void **state)
{
    struct ps_store_options o = floor_options(&beds[1], "uring", 4);
    struct ps_store *store = open_store(&beds[1], &o);
    struct ps_lease leases[5] = {{0}};
    struct ps_lease twin = {0};
    struct ps_error err = {0};
    (void)state;

    for (int round = 0; round < 20; round++) {
        uint32_t base = (uint32_t)round % 12;
        for (uint32_t i = 0; i < 4; i++)
            assert_true(ps_store_get(store, (base + i * 2) / STORE_INDEXES,
                                     (base + i * 2) % STORE_INDEXES, &leases[i], NULL) >= 0);
        assert_int_equal(ps_store_get(store, 2, 7, &leases[4], &err), -EAGAIN);
        assert_null(leases[4].slices);
        /* The same object again takes no slot of its own. */
        int rc = ps_store_get(store, base / STORE_INDEXES, base % STORE_INDEXES, &twin, NULL);
        assert_true(rc >= 0);
        assert_ptr_equal(twin.slices[0], leases[0].slices[0]);
        wait_all(store, &twin, 1);
        wait_all(store, leases, 4);
        ps_store_put(store, &leases[0]);
        store_check_lease(&beds[1], &twin);
        assert_int_equal(ps_store_get(store, 2, 7, &leases[4], &err), -EAGAIN);
        ps_store_put(store, &twin);
        for (int i = 0; i < 4; i++)
            ps_store_put(store, &leases[i]);
    }
    assert_int_equal(ps_store_get(store, 7, 0, &leases[0], &err), -ENOENT);
    assert_int_equal(ps_store_get(store, 0, 99, &leases[0], &err), -ENOENT);
    assert_int_equal(ps_store_wait(store, leases, 5, &err), 0);
    ps_store_put(store, &leases[0]);
    ps_store_close(&store);
}

/* Leases given up at once: slots come back when the reads have ended, and never before. */
static void test_put_while_reading(void **state)
{
    (void)state;
    for (size_t e = 0; e < PS_ARRAY_LEN(engine_names); e++) {
        struct ps_store_options o = floor_options(&beds[1], engine_names[e], 2);
        struct ps_store *store = open_store(&beds[1], &o);
        struct ps_lease lease = {0}, other = {0};
        for (uint32_t i = 0; i < 40; i++) {
            uint32_t object = i * 7 % STREAMED;
            int rc =
                ps_store_get(store, object / STORE_INDEXES, object % STORE_INDEXES, &lease, NULL);
            assert_true(rc >= 0);
            if (i % 4 == 3) {
                wait_all(store, &lease, 1);
                store_check_lease(&beds[1], &lease);
            }
            if (i % 8 == 5) { /* joined by another before it is given up */
                rc = ps_store_get(store, object / STORE_INDEXES, object % STORE_INDEXES, &other,
                                  NULL);
                assert_true(rc >= 0);
                ps_store_put(store, &lease);
                wait_all(store, &other, 1);
                store_check_lease(&beds[1], &other);
                ps_store_put(store, &other);
            }
            ps_store_put(store, &lease);
        }
        /* And closed with reads in flight. */
        assert_true(ps_store_get(store, 2, 5, &lease, NULL) >= 0);
        ps_store_put(store, &lease);
        assert_true(ps_store_get(store, 2, 6, &lease, NULL) >= 0);
        ps_store_close(&store);
    }
}

/* A resident object is read while leases are on their way. */
static void test_read_between(void **state)
{
    struct ps_store_options o = floor_options(&beds[1], "uring", 8);
    struct ps_store *store = open_store(&beds[1], &o);
    uint32_t object = (uint32_t)ps_volume_find_resident(beds[1].volume, "large");
    struct ps_object_info info;
    struct ps_lease leases[8] = {{0}};
    (void)state;

    ps_volume_object(beds[1].volume, object, &info);
    uint8_t *buf = aligned_alloc(4096, info.bytes);
    for (uint32_t i = 0; i < 8; i++)
        get(store, 2 * STORE_INDEXES + i, &leases[i], 0);
    assert_int_equal(ps_store_read(store, object, buf, NULL), 0);
    store_check_object(&beds[1], object, buf);
    wait_all(store, leases, 8);
    for (uint32_t i = 0; i < 8; i++)
        store_check_lease(&beds[1], &leases[i]);
    free(buf);
    ps_store_close(&store);
}

/* Groups that are never leased take no memory, and their objects are not to be had. */
static void test_group_count(void **state)
{
    const struct store_volume *v = &beds[1];
    struct ps_store_options o = floor_options(v, "pread", 3);
    uint64_t floor_all = o.cache_bytes;
    struct ps_lease lease = {0};
    struct ps_error err = {0};

    (void)state;
    o.group_count = 2;
    o.cache_bytes = ps_store_floor_bytes(v->volume, &o);
    /* The third group has the largest objects: three slots of 5 MiB. */
    assert_true(o.cache_bytes + (15 << 20) <= floor_all);
    struct ps_store *store = open_store(v, &o);
    assert_int_equal(ps_store_get(store, 2, 0, &lease, &err), -ENOENT);
    assert_int_equal(ps_store_get(store, 1, 0, &lease, &err), 0);
    wait_all(store, &lease, 1);
    store_check_lease(v, &lease);
    ps_store_put(store, &lease);
    ps_store_close(&store);
}

static void test_plan(void **state)
{
    const struct store_volume *v = &beds[1];
    struct ps_store *store = NULL;
    struct ps_store_stats stats;
    struct ps_error err = {0};
    uint64_t last_slots = 0;
    (void)state;

    for (size_t e = 0; e < PS_ARRAY_LEN(engine_names); e++) {
        struct ps_store_options o = floor_options(v, engine_names[e], 3);
        uint64_t floor = o.cache_bytes;
        assert_int_equal(ps_store_plan_bytes(v->volume, &o, NULL), floor);
        o.cache_bytes = floor - 1;
        assert_int_equal(ps_store_plan_bytes(v->volume, &o, NULL), 0);
        assert_int_equal(ps_store_open(&store, v->volume, &o, &err), -PS_ERR_MEMORY_FLOOR);
        o.cache_bytes = 0;
        assert_int_equal(ps_store_plan_bytes(v->volume, &o, NULL), 0);
        assert_int_equal(ps_store_open(&store, v->volume, &o, &err), -PS_ERR_MEMORY_FLOOR);
        last_slots = 0;
        for (uint64_t bytes = floor; bytes < 72 << 20; bytes += 6 << 20) {
            uint32_t slots = 0;
            o.cache_bytes = bytes;
            uint64_t planned = ps_store_plan_bytes(v->volume, &o, &slots);
            store = open_store(v, &o);
            ps_store_stats(store, &stats);
            assert_true(planned <= bytes);
            assert_true(stats.memory_bytes <= planned);
            assert_int_equal(stats.slot_count, slots);
            assert_true(slots >= last_slots);
            assert_true(stats.cache_waste_bytes < stats.cache_bytes);
            last_slots = slots;
            ps_store_close(&store);
        }
        assert_int_equal(last_slots, STREAMED);
    }
    struct ps_store_options o = floor_options(v, "floppy", 1);
    o.cache_bytes = 1 << 30;
    assert_int_equal(ps_store_open(&store, v->volume, &o, &err), -PS_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "floppy"));
    o = floor_options(v, "uring", 1);
    o.queue_depth = 4000;
    assert_int_equal(ps_store_open(&store, v->volume, &o, &err), -PS_ERR_ARGUMENT);
    assert_null(store);
    ps_store_close(&store);
    ps_store_close(NULL);
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void expect_text(const struct ps_error *err, const char *part)
{
    if (!strstr(err->text, part))
        fail_msg("'%s' is not in: %s", part, err->text);
}

/* A flipped bit in the second slice of one expert: it is named, never ready, and nothing else
 * suffers; once the byte is right again the object can be had. */
static void damaged_slice(const char *engine, int member_count)
{
    struct store_volume v;
    struct ps_lease leases[3] = {{0}};
    struct ps_error err = {0};
    int rc;

    store_volume_make(&v, member_count);
    uint32_t bad = 1 * STORE_INDEXES + 4;
    store_corrupt(&v, bad, 1);
    struct ps_store_options o = floor_options(&v, engine, 3);
    struct ps_store *store = open_store(&v, &o);
    get(store, bad - 1, &leases[0], 0);
    get(store, bad, &leases[1], 0);
    get(store, bad + 1, &leases[2], 0);
    do {
        rc = ps_store_wait(store, leases, 3, &err);
        assert_true(leases[1].state == PS_LEASE_READING && !leases[1].landed[1]);
    } while (rc > 0);
    assert_int_equal(rc, -PS_ERR_CHECKSUM);
    assert_int_equal(err.code, rc);
    expect_text(&err, "layer 1 expert 4, slice 2 of 3 (bytes ");
    expect_text(&err, "/volume.");
    expect_text(&err, "penstock verify");

    /* Asked for again while the damaged lease is held: a new attempt, the same answer. */
    struct ps_lease again = {0};
    ps_store_put(store, &leases[0]);
    assert_int_equal(ps_store_get(store, 1, 4, &again, NULL), 0);
    assert_true(again.slices[0] != leases[1].slices[0]);
    while ((rc = ps_store_wait(store, &again, 1, &err)) > 0) {
    }
    assert_int_equal(rc, -PS_ERR_CHECKSUM);
    ps_store_put(store, &again);
    ps_store_put(store, &leases[1]);
    wait_all(store, &leases[2], 1);
    store_check_lease(&v, &leases[2]);
    ps_store_put(store, &leases[2]);

    store_corrupt(&v, bad, 1); /* flips the bit back */
    for (int i = 0; i < 10; i++) {
        for (uint32_t k = 0; k < 3; k++) {
            rc =
                ps_store_get(store, 1, (4 + (uint32_t)i * 3 + k) % STORE_INDEXES, &leases[k], &err);
            assert_true(rc >= 0);
        }
        wait_all(store, leases, 3);
        for (uint32_t k = 0; k < 3; k++) {
            store_check_lease(&v, &leases[k]);
            ps_store_put(store, &leases[k]);
        }
    }
    ps_store_close(&store);
    store_volume_remove(&v);
}

static void test_damaged_slice(void **state)
{
    (void)state;
    for (size_t e = 0; e < PS_ARRAY_LEN(engine_names); e++)
        damaged_slice(engine_names[e], e % 2 ? 1 : 3);
}

static void test_damaged_resident(void **state)
{
    struct store_volume v;
    struct ps_object_info info;
    struct ps_error err = {0};
    (void)state;

    store_volume_make(&v, 3);
    uint32_t object = (uint32_t)ps_volume_find_resident(v.volume, "large");
    ps_volume_object(v.volume, object, &info);
    uint8_t *buf = aligned_alloc(4096, info.bytes);
    struct ps_store_options o = floor_options(&v, "uring", 1);
    struct ps_store *store = open_store(&v, &o);
    store_corrupt(&v, object, 3);
    assert_int_equal(ps_store_read(store, object, buf, &err), -PS_ERR_CHECKSUM);
    expect_text(&err, "large, slice 4 of 9");
    store_corrupt(&v, object, 3);
    assert_int_equal(ps_store_read(store, object, buf, &err), 0);
    store_check_object(&v, object, buf);
    ps_store_close(&store);
    free(buf);
    store_volume_remove(&v);
}

/* A member that is cut short while it is in use. */
static void test_shrunk_member(void **state)
{
    (void)state;
    for (size_t e = 0; e < PS_ARRAY_LEN(engine_names); e++) {
        struct store_volume v;
        struct ps_object_info info;
        struct ps_error err = {0};
        struct ps_lease lease = {0};
        int rc;
        store_volume_make(&v, 1);
        struct ps_store_options o = floor_options(&v, engine_names[e], 1);
        struct ps_store *store = open_store(&v, &o);
        struct ps_member_info member;
        ps_volume_member(v.volume, 0, &member);
        struct ps_piece_info piece;
        uint32_t last = STREAMED - 1;
        ps_volume_object(v.volume, last, &info);
        ps_volume_piece(v.volume, last, info.slice_count - 1, 0, &piece);
        assert_int_equal(truncate(member.path, (off_t)piece.offset_bytes + 8192), 0);
        get(store, last, &lease, 0);
        while ((rc = ps_store_wait(store, &lease, 1, &err)) > 0) {
        }
        assert_int_equal(rc, -PS_ERR_SHORT_READ);
        assert_string_equal(err.where, member.path);
        expect_text(&err, "layer 2 expert 7, slice 2 of 2");
        ps_store_put(store, &lease);
        get(store, 0, &lease, 0);
        wait_all(store, &lease, 1);
        store_check_lease(&v, &lease);
        ps_store_close(&store);
        store_volume_remove(&v);
    }
}

static int set_up(void **state)
{
    (void)state;
    store_volume_make(&beds[0], 1);
    store_volume_make(&beds[1], 3);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    store_volume_remove(&beds[0]);
    store_volume_remove(&beds[1]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resident),
        cmocka_unit_test(test_random_use),
        cmocka_unit_test(test_all_leased),
        cmocka_unit_test(test_put_while_reading),
        cmocka_unit_test(test_read_between),
        cmocka_unit_test(test_group_count),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_damaged_slice),
        cmocka_unit_test(test_damaged_resident),
        cmocka_unit_test(test_shrunk_member),
    };
    ps_log_set(print_log, NULL);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
