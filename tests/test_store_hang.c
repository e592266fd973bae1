/*
 * A drive that hangs while a store's own thread waits for it: who is told, when, and what it costs.
 */
#include "store_fixture.h"

#include "core/log.h"
#include "core/util.h"
#include "nvme/store_internal.h"

/* Reads that hang are tried on the page cache: no drive there is slow when the machine is busy. */
#define ENGINE "pagecache"
#define TIMEOUT_MS 200u
/* For what is to come back even when the machine is busy. */
#define TIMEOUT_LONG_MS 20000u
#define MS UINT64_C(1000000)
/* Where the other drive must not be taken to hang as well, on a busy machine under a sanitizer. */
#define PATIENT_MS 1500u
/* Longer than any wait that ends by itself. */
#define LOST_S 60u

static struct store_volume single, twin; /* one copy on two members, two copies on three */

static struct ps_store *open_store(const struct store_volume *v, const char *faults, uint32_t depth)
{
    char engine[96];
    struct ps_store_options o = {.lease_count = 2,
                                 .queue_depth = depth,
                                 .prefetch_count = 2,
                                 .timeout_ms = TIMEOUT_MS,
                                 .engine = engine};
    struct ps_store *store = NULL;
    struct ps_error err = {0};

    snprintf(engine, sizeof(engine), "fault:%s:" ENGINE, faults);
    o.cache_bytes = ps_store_floor_bytes(v->volume, &o) + (64 << 20);
    if (ps_store_open(&store, v->volume, &o, &err) < 0)
        fail_msg("%s: %s: %s", engine, err.where, err.text);
    alarm(LOST_S);
    return store;
}

static int wait_ready(struct ps_store *store, struct ps_lease *lease, struct ps_error *err)
{
    int rc = 0;

    while (rc >= 0 && lease->state != PS_LEASE_READY)
        rc = ps_store_wait(store, lease, 1, err);
    return rc < 0 ? rc : 0;
}

static int read_object(const struct store_volume *v, struct ps_store *store, uint32_t index)
{
    struct ps_lease lease = {0};
    struct ps_error err = {0};
    int rc = ps_store_get(store, 0, index, &lease, &err);

    if (rc >= 0)
        rc = wait_ready(store, &lease, &err);
    if (rc >= 0)
        store_check_lease(v, &lease);
    ps_store_put(store, &lease);
    return rc;
}

/* A guess whose reads hang is given up by itself; who asks for the object then has it read. */
static void test_guess(void **state)
{
    (void)state;
    struct ps_store *store = open_store(&single, "hang@1", 0);
    assert_int_equal(ps_store_prefetch(store, 0, 0, 0.5, NULL), 0);
    usleep(3 * TIMEOUT_MS * 1000);
    ps_store_timeout_set(store, TIMEOUT_LONG_MS);
    assert_int_equal(read_object(&single, store, 0), 0);
    ps_store_close(&store);
}

/* One of an object's reads fails, another hangs: its memory is not the reader's yet. */
static void test_whole(void **state)
{
    uint32_t object = (uint32_t)ps_volume_find_resident(single.volume, "large");
    struct ps_object_info info;
    struct ps_error err = {0};
    (void)state;

    ps_volume_object(single.volume, object, &info);
    uint8_t *buf = aligned_alloc(4096, info.bytes);
    struct ps_store *store = open_store(&single, "error@1+/0,hang@1/1", 0);
    assert_int_equal(ps_store_read(store, object, buf, &err), -ETIMEDOUT);
    assert_int_equal(err.code, -ETIMEDOUT);
    assert_non_null(strstr(err.text, "Input/output error"));
    ps_store_close(&store);
    free(buf);
}

/* One copy's drive is full of reads that hang, and the other copy cannot be read. */
static void test_full_and_failing(void **state)
{
    (void)state;
    for (uint32_t other = 0; other < 2; other++) {
        char faults[64];
        snprintf(faults, sizeof(faults), "hang@1+/%u,error@1+/%u", other, 1 - other);
        struct ps_store *store = open_store(&twin, faults, 1);
        for (uint32_t i = 0; i < STORE_INDEXES; i++) {
            int rc = read_object(&twin, store, i);
            assert_true(rc == 0 || rc == -ETIMEDOUT || rc == -EIO);
        }
        ps_store_close(&store);
    }
}

/* Where every queue is full of reads that hang, whatever else is asked for has failed, too. */
static void test_all_full(void **state)
{
    (void)state;
    for (int copies = 1; copies <= 2; copies++) {
        const struct store_volume *v = copies == 1 ? &single : &twin;
        struct ps_store *store = open_store(v, "hang@1+", 1);
        for (uint32_t i = 0; i < 3; i++)
            assert_int_equal(read_object(v, store, i), -ETIMEDOUT);
        ps_store_close(&store);
    }
}

/*
 * With the least memory that a store takes, all of it leased: what one drive hangs with is read to
 * other memory from the other copies.
 */
static void test_least_memory(void **state)
{
    struct ps_store_options o = {
        .lease_count = 3, .timeout_ms = PATIENT_MS, .engine = "fault:hang@1+/1:" ENGINE};
    struct ps_store *store = NULL;
    struct ps_error err = {0};
    (void)state;

    o.cache_bytes = ps_store_floor_bytes(twin.volume, &o);
    assert_int_equal(ps_store_open(&store, twin.volume, &o, &err), 0);
    alarm(LOST_S);
    for (uint32_t i = 0; i < STORE_GROUPS * STORE_INDEXES; i += 3) {
        struct ps_lease leases[3] = {0};
        for (uint32_t n = 0; n < 3 && i + n < STORE_GROUPS * STORE_INDEXES; n++)
            assert_int_equal(ps_store_get(store, (i + n) / STORE_INDEXES, (i + n) % STORE_INDEXES,
                                          &leases[n], &err),
                             0);
        for (uint32_t n = 0; n < 3 && leases[n].slices; n++) {
            if (wait_ready(store, &leases[n], &err) < 0)
                fail_msg("%s: %s", err.where, err.text);
            store_check_lease(&twin, &leases[n]);
        }
        for (uint32_t n = 0; n < 3; n++)
            ps_store_put(store, &leases[n]);
    }
    ps_store_close(&store);
}

/* Of all threads. */
static uint64_t cpu_ns(void)
{
    struct timespec used;

    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used), 0);
    return (uint64_t)used.tv_sec * 1000 * MS + (uint64_t)used.tv_nsec;
}

/* Nobody waits for a drive that hangs: neither does the store's thread. */
static void test_idle(void **state)
{
    (void)state;
    struct ps_store *store = open_store(&single, "hang@1+", 1);
    assert_int_equal(read_object(&single, store, 0), -ETIMEDOUT);
    usleep(2 * TIMEOUT_MS * 1000);
    uint64_t begin_ns = cpu_ns();
    usleep(1000000);
    uint64_t used_ns = cpu_ns() - begin_ns;
    assert_true(used_ns < 100 * MS);
    ps_store_close(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guess),
        cmocka_unit_test(test_all_full),
        cmocka_unit_test(test_full_and_failing),
        cmocka_unit_test(test_least_memory),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_whole),
    };
    ps_log_set(ps_test_log, NULL);
    store_volume_make(&single, 2);
    store_volume_make_copies(&twin, 3, 2);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    store_volume_remove(&single);
    store_volume_remove(&twin);
    return rc;
}
