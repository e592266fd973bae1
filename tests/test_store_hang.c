/*
 * A drive that hangs while a store's own thread waits for it: who is told, when, and what it costs.
 */
#include "store_fixture.h"

#include "core/log.h"
#include "nvme/store_internal.h"

/* Reads that hang are tried on the page cache: no drive there is slow when the machine is busy. */
#define ENGINE "pagecache"
#define TIMEOUT_MS 200u
/* For what is to come back even when the machine is busy. */
#define TIMEOUT_LONG_MS 20000u
/* Longer than any wait that ends by itself. */
#define LOST_S 60u

static struct store_volume single; /* one copy on two members */

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
    assert_int_equal(ps_store_prefetch(store, 0, 0, NULL), 0);
    usleep(3 * TIMEOUT_MS * 1000);
    ps_store_timeout_set(store, TIMEOUT_LONG_MS);
    assert_int_equal(read_object(&single, store, 0), 0);
    ps_store_close(&store);
}

static void quiet_log(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx;
    (void)level;
    if (getenv("PS_TEST_VERBOSE"))
        printf("log: %s\n", text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guess),
    };
    ps_log_set(quiet_log, NULL);
    store_volume_make(&single, 2);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    store_volume_remove(&single);
    return rc;
}
