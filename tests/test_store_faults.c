/*
 * Drives that fail in every way at every read: the right bytes or a clean error, and a store that
 * goes on. The engine's faults strike at the Nth read for N = 1, 2, 3 ... until none is reached.
 */
#include "store_fixture.h"

#include "core/log.h"
#include "core/util.h"
#include "nvme/io.h"
#include "nvme/store_internal.h"

/* Reads that hang are tried on the page cache: no drive there is slow when the machine is busy. */
#define HANG_ENGINE "pagecache"
/* On a busy machine a thread that waits for its turn looks like a drive that hangs. What fails with
 * the short one must do so with the long one, too. */
#define TIMEOUT_MS 100u
#define TIMEOUT_LONG_MS 3000u
#define OBJECTS 9u /* that are read: some of each group, one of the large ones */
#define AT_ONCE 3u

static uint32_t hang_timeout_ms = TIMEOUT_MS;
static struct store_volume single, twin; /* one copy on two members, two copies on three */

static uint32_t object_at(uint32_t i)
{
    return i == 3 ? 2 * STORE_INDEXES : i % 2 * STORE_INDEXES + i / 2;
}

/* roomy: slots to move an object to, should its reads hang. */
static struct ps_store *open_store(const struct store_volume *v, const char *engine, bool roomy)
{
    bool hangs = strstr(engine, HANG_ENGINE) != NULL;
    struct ps_store_options o = {
        .engine = engine, .lease_count = AT_ONCE, .timeout_ms = hangs ? hang_timeout_ms : 20000};
    struct ps_store *store = NULL;
    struct ps_error err = {0};

    o.cache_bytes = ps_store_floor_bytes(v->volume, &o) + (roomy ? 64 << 20 : 0);
    if (ps_store_open(&store, v->volume, &o, &err) < 0)
        fail_msg("%s: %s: %s", engine, err.where, err.text);
    return store;
}

/* Every error is one sentence about a slice and a member, or about the memory that is set aside. */
static void check_error(const struct store_volume *v, const struct ps_error *err, int rc)
{
    assert_int_equal(err->code, rc);
    assert_null(strchr(err->text, '\n'));
    if (strstr(err->text, "the cache's memory waits"))
        return;
    assert_non_null(strstr(err->text, ", slice "));
    assert_non_null(strstr(err->text, v->dir));
    assert_non_null(strstr(err->text, "; "));
}

/* Reads the objects a few at a time. What lands is right, whatever else happens. Returns the last
 * error. */
static int read_objects(const struct store_volume *v, struct ps_store *store)
{
    int last = 0;

    for (uint32_t first = 0; first < OBJECTS; first += AT_ONCE) {
        struct ps_lease leases[AT_ONCE] = {{0}};
        uint32_t seen[AT_ONCE] = {0}; /* bit s: slice s has been looked at when it landed */
        struct ps_error err = {0};
        int rc = 0;
        for (uint32_t i = 0; i < AT_ONCE && rc >= 0; i++) {
            uint32_t object = object_at(first + i);
            rc = ps_store_get(store, object / STORE_INDEXES, object % STORE_INDEXES, &leases[i],
                              &err);
        }
        while (rc >= 0 && (rc = ps_store_wait(store, leases, AT_ONCE, &err)) > 0) {
            for (uint32_t i = 0; i < AT_ONCE; i++) {
                for (uint32_t s = 0; s < leases[i].slice_count; s++) {
                    if (!leases[i].landed[s] || seen[i] >> s & 1)
                        continue;
                    store_check_slice(v, leases[i].object, s, leases[i].slices[s]);
                    seen[i] |= UINT32_C(1) << s;
                }
            }
        }
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            if (rc == 0)
                store_check_lease(v, &leases[i]);
            ps_store_put(store, &leases[i]);
        }
        if (rc < 0) {
            check_error(v, &err, rc);
            last = rc;
        }
    }
    return last;
}

enum outcome { RECOVERS, FAILS, EITHER };

/* One kind of fault at every read. */
static void strike(const struct store_volume *v, const char *inner, const char *kind,
                   const char *end, enum outcome outcome)
{
    uint64_t fired = 1;

    for (uint32_t n = 1; fired > 0; n++) {
        char engine[96];
        snprintf(engine, sizeof(engine), "fault:%s@%u%s:%s", kind, n, end, inner);
        struct ps_store *store = open_store(v, engine, true);
        int rc = read_objects(v, store);
        if (rc == -ETIMEDOUT && hang_timeout_ms == TIMEOUT_MS) {
            ps_store_close(&store);
            hang_timeout_ms = TIMEOUT_LONG_MS;
            store = open_store(v, engine, true);
            rc = read_objects(v, store);
            hang_timeout_ms = TIMEOUT_MS;
        }
        fired = ps_io_fault_count(ps_store_io(store));
        if (fired == 0 || outcome == RECOVERS) {
            if (rc < 0)
                fail_msg("%s: %d", engine, rc);
        } else if (outcome == FAILS) {
            assert_true(rc < 0);
        }
        /* What struck once is over: everything can be had, from memory or anew. */
        if (end[0] == '\0' && strcmp(kind, "gone") != 0)
            assert_int_equal(read_objects(v, store), 0);
        struct ps_store_stats stats;
        ps_store_stats(store, &stats);
        assert_int_equal(stats.errors > 0, fired > 0 && strncmp(kind, "slow", 4) != 0);
        ps_store_close(&store);
        assert_true(n < 1000);
    }
}

static void test_once(void **state)
{
    static const char *const kinds[] = {"error", "short", "empty", "corrupt", "slow=3"};
    (void)state;
    for (size_t k = 0; k < PS_ARRAY_LEN(kinds); k++) {
        strike(&single, "uring", kinds[k], "", RECOVERS);
        strike(&twin, "uring", kinds[k], "", RECOVERS);
    }
    strike(&single, "pread", "error", "", RECOVERS);
    strike(&single, "pread", "corrupt", "", RECOVERS);
    strike(&single, HANG_ENGINE, "hang", "", RECOVERS);
    strike(&twin, HANG_ENGINE, "hang", "", RECOVERS);
    strike(&twin, HANG_ENGINE, "hang=800", "", RECOVERS);
}

/* From then on: one copy is an error, two are enough while only one member fails. */
static void test_for_good(void **state)
{
    static const char *const kinds[] = {"error", "short", "empty", "corrupt"};
    (void)state;
    for (size_t k = 0; k < PS_ARRAY_LEN(kinds); k++) {
        strike(&twin, "uring", kinds[k], "+/1", RECOVERS);
        strike(&single, "uring", kinds[k], "+", FAILS);
    }
    strike(&twin, HANG_ENGINE, "hang", "+/1", RECOVERS);
    strike(&single, "uring", "gone", "", EITHER);
    strike(&twin, "uring", "gone", "", RECOVERS);
    strike(&single, "uring", "slow=2", "+", RECOVERS);
}

/* A drive that never answers: the reader hears of it after twice the timeout, memory that may
 * still be written to is nobody's, and closing does not wait for ever. */
static void test_hang_for_good(void **state)
{
    (void)state;
    for (int roomy = 0; roomy < 2; roomy++) {
        struct ps_store *store = open_store(&single, "fault:hang@4+:" HANG_ENGINE, roomy != 0);
        struct ps_store_member_stats stats;
        assert_int_equal(read_objects(&single, store), -ETIMEDOUT);
        ps_store_member_stats(store, 0, &stats);
        assert_true(stats.is_off);
        assert_true(stats.errors > 0);
        ps_store_close(&store);
    }
}

/* What comes back late overwrites its buffer with garbage: nobody may be looking at it then. */
static void test_late_writes(void **state)
{
    (void)state;
    for (uint32_t n = 1; n < 9; n++) {
        char engine[64];
        snprintf(engine, sizeof(engine), "fault:hang=%u@%u:" HANG_ENGINE, 8 * TIMEOUT_MS, n);
        struct ps_store *store = open_store(&single, engine, true);
        uint64_t begin_ns = ps_now_ns();
        /* Again and again, past the moment of the late writes; little fits in memory for long. */
        while (ps_now_ns() - begin_ns < 10 * TIMEOUT_MS * UINT64_C(1000000)) {
            int rc = read_objects(&single, store);
            assert_true(rc == 0 || rc == -ETIMEDOUT);
        }
        ps_store_timeout_set(store, TIMEOUT_LONG_MS);
        struct ps_lease lease = {0};
        for (uint32_t i = 0; i < STORE_GROUPS * STORE_INDEXES; i++) {
            assert_true(ps_store_get(store, i / STORE_INDEXES, i % STORE_INDEXES, &lease, NULL) >=
                        0);
            while (lease.state != PS_LEASE_READY)
                assert_true(ps_store_wait(store, &lease, 1, NULL) >= 0);
            store_check_lease(&single, &lease);
            ps_store_put(store, &lease);
        }
        ps_store_close(&store);
    }
}

static void wait_large(struct ps_store *store, struct ps_lease *lease)
{
    struct ps_error err = {0};
    int rc = 0;

    while (rc >= 0 && lease->state != PS_LEASE_READY)
        rc = ps_store_wait(store, lease, 1, &err);
    if (rc < 0)
        fail_msg("%d: %s", rc, err.text);
}

/*
 * A guess is dropped at any moment, also while the bytes of its last slice are checked and found
 * damaged, and its slot, the only one, goes to another object. Were they read once more, garbage
 * would be written to that, late.
 */
static void test_dropped_guess(void **state)
{
    struct ps_store_options o = {.engine = "fault:slow=1@1000000:uring",
                                 .lease_count = 1,
                                 .prefetch_count = 1,
                                 .timeout_ms = 20000};
    struct ps_store *store = NULL;
    struct ps_lease held[STORE_INDEXES] = {{0}}, *lease = held;
    struct ps_store_stats stats;
    uint32_t count = 0;
    char faults[64];
    (void)state;

    /* The least cache of a volume with copies has two for a lease and none for guesses. */
    o.cache_bytes = 2 * ps_store_floor_bytes(twin.volume, &o);
    assert_int_equal(ps_store_open(&store, twin.volume, &o, NULL), 0);
    alarm(120);
    while (ps_store_get(store, 2, 7 - count, &held[count], NULL) != -EAGAIN)
        wait_large(store, &held[count++]);
    assert_in_range(count, 4, 6);
    ps_store_put(store, lease);
    ps_store_stats(store, &stats);
    unsigned parts = (unsigned)stats.read_count / count;
    snprintf(faults, sizeof(faults), "corrupt@1,corrupt@%u,hang=20@%u", parts + 1, 2 * parts);
    for (uint32_t i = 0; i < 150; i++) {
        ps_io_faults_set(ps_store_io(store), faults);
        assert_int_equal(ps_store_prefetch(store, 2, i % 2, 0.5, NULL), 0);
        usleep(i * 37 % 8000);
        ps_store_drop(store, 2, i % 2);
        assert_true(ps_store_get(store, 2, 7, lease, NULL) >= 0);
        wait_large(store, lease);
        store_check_lease(&twin, lease);
        usleep(25000);
        store_check_lease(&twin, lease);
        ps_store_put(store, lease);
    }
    alarm(0);
    for (uint32_t i = 1; i < count; i++)
        ps_store_put(store, &held[i]);
    ps_store_close(&store);
}

static void read_resident(const struct store_volume *v, const char *engine, int expect)
{
    uint32_t object = (uint32_t)ps_volume_find_resident(v->volume, "large");
    struct ps_object_info info;
    struct ps_error err = {0};
    struct ps_store *store = open_store(v, engine, false);

    ps_volume_object(v->volume, object, &info);
    uint8_t *buf = aligned_alloc(4096, info.bytes);
    int rc = ps_store_read(store, object, buf, &err);
    if (rc != expect)
        fail_msg("%s: %d instead of %d: %s", engine, rc, expect, err.text);
    if (rc == 0)
        store_check_object(v, object, buf);
    else
        check_error(v, &err, rc);
    if (rc == -ETIMEDOUT) {
        /* What hangs may still be written to its buffer: the other copy goes to another one. */
        uint8_t *other = aligned_alloc(4096, info.bytes);
        rc = ps_store_read(store, object, other, &err);
        assert_int_equal(rc, v == &twin ? 0 : -ETIMEDOUT);
        if (rc == 0)
            store_check_object(v, object, other);
        free(other);
    } else if (strstr(engine, "+:") == NULL && strstr(engine, "gone") == NULL) {
        assert_int_equal(ps_store_read(store, object, buf, NULL), 0);
        store_check_object(v, object, buf);
    }
    ps_store_close(&store);
    free(buf);
}

static void test_resident(void **state)
{
    char engine[64];
    (void)state;

    for (uint32_t n = 1; n < 24; n++) {
        static const char *const kinds[] = {"error", "short", "empty", "corrupt"};
        for (size_t k = 0; k < PS_ARRAY_LEN(kinds); k++) {
            snprintf(engine, sizeof(engine), "fault:%s@%u:uring", kinds[k], n);
            read_resident(&single, engine, 0);
            read_resident(&twin, engine, 0);
        }
    }
    read_resident(&single, "fault:error@3+:uring", -EIO);
    read_resident(&single, "fault:empty@3+:uring", -PS_ERR_SHORT_READ);
    read_resident(&single, "fault:corrupt@3+:uring", -PS_ERR_CHECKSUM);
    read_resident(&single, "fault:hang@3+:" HANG_ENGINE, -ETIMEDOUT);
    read_resident(&twin, "fault:hang@1/0:" HANG_ENGINE, -ETIMEDOUT);
    read_resident(&single, "fault:gone@3:uring", -ENODEV);
    read_resident(&twin, "fault:gone@3:uring", 0);
}

/* Both copies of a slice are damaged, in the same place or in different pieces: refused. One of
 * them: read from the other. */
static void test_damaged_copies(void **state)
{
    struct store_volume v;
    struct ps_error err = {0};
    struct ps_lease lease = {0};
    uint32_t object = 2 * STORE_INDEXES + 3;
    int rc;
    (void)state;

    store_volume_make_copies(&v, 3, 2);
    store_corrupt(&v, object, 0);
    struct ps_store *store = open_store(&v, "uring", false);
    assert_int_equal(ps_store_get(store, 2, 3, &lease, &err), 0);
    while (lease.state != PS_LEASE_READY)
        assert_true(ps_store_wait(store, &lease, 1, &err) >= 0);
    store_check_lease(&v, &lease);
    ps_store_put(store, &lease);
    ps_store_close(&store);

    store_corrupt_copy(&v, object, 0, 1);
    store = open_store(&v, "uring", false);
    assert_int_equal(ps_store_get(store, 2, 3, &lease, &err), 0);
    while ((rc = ps_store_wait(store, &lease, 1, &err)) > 0) {
    }
    assert_int_equal(rc, -PS_ERR_CHECKSUM);
    assert_non_null(strstr(err.text, "layer 2 expert 3, slice 1 of 2"));
    assert_non_null(strstr(err.text, "nor has its other copy"));
    ps_store_put(store, &lease);
    ps_store_close(&store);
    store_volume_remove(&v);
}

/* Each member in turn is not there. */
static void test_missing_member(void **state)
{
    (void)state;
    for (int missing = 0; missing < 3; missing++) {
        struct store_volume v;
        struct ps_volume *degraded = NULL;
        const char *path;
        store_volume_make_copies(&v, 3, 2);
        unlink(v.members[missing]);
        ps_volume_close(&v.volume);
        path = v.members[(missing + 1) % 3];
        assert_int_equal(ps_volume_open(&degraded, &path, 1, NULL), 0);
        v.volume = degraded;
        read_resident(&v, "uring", 0);
        read_resident(&v, "pread", 0);
        struct ps_store *store = open_store(&v, "uring", false);
        assert_int_equal(read_objects(&v, store), 0);
        ps_store_close(&store);
        /* And one of the two that are left fails now and then. */
        strike(&v, "uring", "error", "", RECOVERS);
        store_volume_remove(&v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_once),           cmocka_unit_test(test_for_good),
        cmocka_unit_test(test_hang_for_good),  cmocka_unit_test(test_late_writes),
        cmocka_unit_test(test_resident),       cmocka_unit_test(test_damaged_copies),
        cmocka_unit_test(test_missing_member), cmocka_unit_test(test_dropped_guess),
    };
    ps_log_set(ps_test_log, NULL);
    store_volume_make(&single, 2);
    store_volume_make_copies(&twin, 3, 2);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    store_volume_remove(&single);
    store_volume_remove(&twin);
    return rc;
}
