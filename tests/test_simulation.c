/* A store that only simulates: times that can be worked out by hand, and orders of eviction. */
#include "util.h"

#include "core/util.h"
#include "nvme/policy.h"
#include "nvme/simulation.h"

#define MIB (1u << 20)
#define GROUPS 3u
#define INDEXES 8u

static const struct ps_layout_slice slices[4] = {
    {MIB, 0, 256}, {MIB, 256, 256}, {MIB, 512, 256}, {MIB, 768, 256}};

static struct ps_volume *make_volume(const struct ps_sim_drive *drives, int drive_count)
{
    struct ps_layout_object objects[GROUPS * INDEXES];
    char names[GROUPS * INDEXES][16];
    struct ps_volume *volume = NULL;
    struct ps_error err = {0};

    for (uint32_t i = 0; i < GROUPS * INDEXES; i++) {
        snprintf(names[i], sizeof(names[i]), "%u.%u", i / INDEXES, i % INDEXES);
        objects[i] = (struct ps_layout_object){PS_OBJECT_STREAMED, i / INDEXES, i % INDEXES,
                                               names[i],           slices,      4};
    }
    if (ps_volume_simulate(&volume, objects, GROUPS * INDEXES, drives, drive_count, &err) < 0)
        fail_msg("%s", err.text);
    return volume;
}

static struct ps_store *make_store(struct ps_volume *volume, uint32_t slot_count,
                                   const struct ps_sim_drive *drives)
{
    struct ps_store_options options = {.lease_count = 2, .prefetch_count = 2};
    struct ps_store *store = NULL;
    struct ps_store_stats stats;
    struct ps_error err = {0};

    if (ps_store_simulate(&store, volume, &options, drives, slot_count, &err) < 0)
        fail_msg("%s", err.text);
    ps_store_stats(store, &stats);
    assert_string_equal(stats.engine, "simulated");
    assert_int_equal(stats.slot_count, slot_count);
    return store;
}

static bool touch(struct ps_store *store, uint32_t group, uint32_t index)
{
    struct ps_lease lease = {0};
    struct ps_error err = {0};
    int hit = ps_store_get(store, group, index, &lease, &err);

    assert_true(hit >= 0);
    while (lease.state != PS_LEASE_READY)
        assert_true(ps_store_wait(store, &lease, 1, &err) > 0);
    ps_store_put(store, &lease);
    return hit;
}

static void assert_near(uint64_t a, uint64_t b)
{
    if (a + b / 1000 + 10 < b || b + b / 1000 + 10 < a)
        fail_msg("%llu is not %llu", (unsigned long long)a, (unsigned long long)b);
}

static void test_drive(void **state)
{
    struct ps_probe_result probe = {0};
    struct ps_sim_drive drive;
    uint64_t service_ns, latency_ns;

    (void)state;
    assert_false(ps_sim_drive_probed(&drive, &probe));
    /* 64 KiB: 1 GiB/s at most; 128 KiB: 2 GiB/s. */
    probe.points[0][0] = (struct ps_probe_point){65536, 1, 500000000, 131072, 0};
    probe.points[0][1] = (struct ps_probe_point){65536, 8, 1u << 30, 500000, 0};
    probe.points[1][0] = (struct ps_probe_point){131072, 1, 655360000, 190000, 0};
    probe.points[1][1] = (struct ps_probe_point){131072, 8, 1u << 31, 500000, 0};
    assert_true(ps_sim_drive_probed(&drive, &probe));
    assert_int_equal(drive.point_count, 2);
    ps_sim_drive_cost(&drive, 65536, &service_ns, &latency_ns);
    assert_near(service_ns, 61035);
    assert_near(service_ns + latency_ns, 131072);
    ps_sim_drive_cost(&drive, 98304, &service_ns, &latency_ns);
    assert_near(service_ns, 61035);
    assert_near(latency_ns, (131072 - 61035 + 200000 - 61035) / 2);
    ps_sim_drive_cost(&drive, 262144, &service_ns, &latency_ns);
    assert_near(service_ns, 122070);
}

/* One drive of 1 GiB/s and 100 us: an object of four reads takes 4 MiB's time and one latency. */
static void test_times(void **state)
{
    struct ps_sim_drive drives[2];
    struct ps_store *store;
    struct ps_error err = {0};
    struct ps_store_stats stats;
    uint64_t mib_ns = 1000000000 / 1024;

    (void)state;
    ps_sim_drive_init(&drives[0], 1u << 30, 100000);
    ps_sim_drive_init(&drives[1], 1u << 30, 100000);
    struct ps_volume *volume = make_volume(drives, 1);
    store = make_store(volume, 4, drives);
    uint64_t begin_ns = ps_store_sim_now_ns(store);
    assert_false(touch(store, 0, 0));
    assert_near(ps_store_sim_now_ns(store) - begin_ns, 4 * mib_ns + 100000);
    assert_near(ps_store_sim_busy_ns(store, 0), 4 * mib_ns);
    assert_true(touch(store, 0, 0));

    /* What was guessed is there when so much time has passed. */
    assert_int_equal(ps_store_prefetch(store, 1, 3, 0.5, &err), 0);
    assert_int_equal(ps_store_sim_advance(store, 5 * mib_ns, &err), 0);
    begin_ns = ps_store_sim_now_ns(store);
    assert_true(touch(store, 1, 3));
    assert_int_equal(ps_store_sim_now_ns(store), begin_ns);

    /* Half of the way it is a miss that takes the other half. */
    assert_int_equal(ps_store_prefetch(store, 1, 4, 0.5, &err), 0);
    assert_int_equal(ps_store_sim_advance(store, 2 * mib_ns, &err), 0);
    assert_false(touch(store, 1, 4));
    assert_true(ps_store_sim_now_ns(store) - begin_ns < 5 * mib_ns);
    ps_store_stats(store, &stats);
    assert_int_equal(stats.hits, 2);
    assert_int_equal(stats.misses, 2);
    assert_int_equal(stats.prefetches_used, 2);
    assert_int_equal(stats.streamed_bytes, 3 * 4 * MIB);
    /* Of the one on its way one read had come back, and two were with the drive. */
    assert_int_equal(stats.prefetch_used_bytes, 4 * MIB + 3 * MIB);

    /* What is taken back before a drive is asked for it has cost nothing; later, what it was. */
    assert_int_equal(ps_store_prefetch(store, 1, 5, 0.5, &err), 0);
    ps_store_drop(store, 1, 5);
    ps_store_stats(store, &stats);
    assert_int_equal(stats.prefetches, 2);
    assert_int_equal(stats.prefetch_vain_bytes, 0);
    assert_int_equal(ps_store_prefetch(store, 1, 5, 0.5, &err), 0);
    assert_int_equal(ps_store_sim_advance(store, mib_ns / 2, &err), 0);
    ps_store_drop(store, 1, 5);
    assert_int_equal(ps_store_sim_advance(store, 5 * mib_ns, &err), 0);
    ps_store_stats(store, &stats);
    assert_int_equal(stats.prefetches, 3);
    assert_int_equal(stats.prefetches_used, 2);
    assert_int_equal(stats.prefetch_vain_bytes, 2 * MIB);
    assert_int_equal(stats.streamed_bytes, (3 * 4 + 2) * MIB);
    ps_store_close(&store);
    ps_volume_close(&volume);

    /* Two drives share an object. */
    volume = make_volume(drives, 2);
    store = make_store(volume, 4, drives);
    begin_ns = ps_store_sim_now_ns(store);
    assert_false(touch(store, 0, 0));
    assert_near(ps_store_sim_now_ns(store) - begin_ns, 2 * mib_ns + 100000);
    ps_store_close(&store);
    ps_volume_close(&volume);
}

/* What is in memory is held, as the one guess that half of what leases leave has room for. */
static void test_held(void **state)
{
    struct ps_sim_drive drive;
    struct ps_error err = {0};

    (void)state;
    ps_sim_drive_init(&drive, 1u << 30, 100000);
    struct ps_volume *volume = make_volume(&drive, 1);
    struct ps_store *store = make_store(volume, 4, &drive);
    assert_false(touch(store, 0, 0));
    assert_false(touch(store, 1, 3));
    assert_int_equal(ps_store_prefetch(store, 0, 0, 0.5, &err), 1);
    assert_int_equal(ps_store_prefetch(store, 0, 0, 0.5, &err), 2);
    assert_int_equal(ps_store_prefetch(store, 1, 3, 0.5, &err), -EAGAIN);
    ps_store_drop(store, 0, 0);
    assert_true(touch(store, 0, 0));
    ps_store_close(&store);
    ps_volume_close(&volume);
}

/* What processors have to do with reads: a drive of 1 GiB/s and 100 us again. */
static void test_processors(void **state)
{
    struct ps_sim_drive drive;
    struct ps_error err = {0};
    uint64_t mib_ns = 1000000000 / 1024;

    (void)state;
    ps_sim_drive_init(&drive, 1u << 30, 100000);
    /* Beside arithmetic the drive has half of its speed, in a wait all of it. */
    drive.busy_share = 0.5;
    struct ps_volume *volume = make_volume(&drive, 1);
    struct ps_store *store = make_store(volume, 4, &drive);
    assert_int_equal(ps_store_prefetch(store, 1, 3, 0.5, &err), 0);
    assert_int_equal(ps_store_sim_advance(store, 4 * mib_ns, &err), 0);
    uint64_t begin_ns = ps_store_sim_now_ns(store);
    assert_false(touch(store, 1, 3));
    assert_near(ps_store_sim_now_ns(store) - begin_ns, 2 * mib_ns + 100000);
    ps_store_close(&store);
    ps_volume_close(&volume);
    drive.busy_share = 1;

    /* Each of four reads is issued before it is served: the first alone, the others meanwhile. */
    volume = make_volume(&drive, 1);
    store = make_store(volume, 4, &drive);
    ps_store_sim_issue(store, mib_ns / 2);
    begin_ns = ps_store_sim_now_ns(store);
    assert_false(touch(store, 0, 0));
    assert_near(ps_store_sim_now_ns(store) - begin_ns, 4 * mib_ns + mib_ns / 2 + 100000);
    ps_store_close(&store);
    ps_volume_close(&volume);
}

/* Two thirds of the bytes go to the drive that is twice as fast. */
static void test_uneven_drives(void **state)
{
    struct ps_sim_drive drives[2];

    (void)state;
    ps_sim_drive_init(&drives[0], 2u << 20 << 9, 0);
    ps_sim_drive_init(&drives[1], 1u << 20 << 9, 0);
    struct ps_volume *volume = make_volume(drives, 2);
    struct ps_store *store = make_store(volume, 24, drives);
    for (uint32_t i = 0; i < GROUPS * INDEXES; i++)
        touch(store, i / INDEXES, i % INDEXES);
    uint64_t a = ps_store_sim_busy_ns(store, 0), b = ps_store_sim_busy_ns(store, 1);
    assert_true(a < b + b / 20 && b < a + a / 20);
    ps_store_close(&store);
    ps_volume_close(&volume);
}

static uint32_t count_hits(enum ps_policy_kind kind, uint32_t slot_count, const uint32_t *uses,
                           uint32_t use_count)
{
    struct ps_sim_drive drive;
    struct ps_policy *policy = NULL;
    struct ps_error err = {0};
    uint32_t hits = 0;

    ps_sim_drive_init(&drive, 1u << 30, 0);
    struct ps_volume *volume = make_volume(&drive, 1);
    struct ps_store *store = make_store(volume, slot_count, &drive);
    bool is_belady = kind == PS_POLICY_BELADY;
    assert_int_equal(ps_policy_open(&policy, kind, volume, is_belady ? uses : NULL,
                                    is_belady ? use_count : 0, &err),
                     0);
    ps_store_policy_set(store, ps_policy_hook(policy));
    for (uint32_t i = 0; i < use_count; i++)
        hits += touch(store, uses[i] / INDEXES, uses[i] % INDEXES);
    ps_store_close(&store);
    ps_policy_close(&policy);
    ps_volume_close(&volume);
    return hits;
}

static void test_policies(void **state)
{
    /* Six objects in turn, in a cache for four: LRU has none of them when it is asked for. Belady
     * keeps three of the last four, and so hits half of the time. */
    uint32_t in_turn[60], mixed[300];

    (void)state;
    for (uint32_t i = 0; i < 60; i++)
        in_turn[i] = i % 6;
    assert_int_equal(count_hits(PS_POLICY_LRU, 4, in_turn, 60), 0);
    uint32_t best = count_hits(PS_POLICY_BELADY, 4, in_turn, 60);
    assert_true(best >= 30 && best <= 36);

    /* Every group in turn, one object of each always the same one, one of seven others. */
    for (uint32_t i = 0; i < 300; i++)
        mixed[i] = i / 2 % 3 * INDEXES + (i % 2 == 0 ? 0 : 1 + i / 6 * 5 % 7);
    uint32_t lru = count_hits(PS_POLICY_LRU, 6, mixed, 300);
    uint32_t lfu = count_hits(PS_POLICY_LFU, 6, mixed, 300);
    uint32_t stale = count_hits(PS_POLICY_LEAST_STALE, 6, mixed, 300);
    best = count_hits(PS_POLICY_BELADY, 6, mixed, 300);
    assert_true(lfu >= 147);
    assert_true(best >= lru && best >= lfu && best >= stale);
    assert_true(best > lru);
}

/* Nothing but the order of eviction: what fits is never read twice. */
static void test_policies_with_room(void **state)
{
    uint32_t uses[200];

    (void)state;
    for (uint32_t i = 0; i < 200; i++)
        uses[i] = i * 7 % (GROUPS * INDEXES);
    for (int kind = 0; kind < PS_POLICY_COUNT; kind++) {
        assert_int_equal(count_hits(kind, GROUPS * INDEXES, uses, 200), 200 - GROUPS * INDEXES);
        assert_int_equal(ps_policy_find(ps_policy_name(kind)), kind);
    }
    assert_int_equal(ps_policy_find("fifo"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drive),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_processors),
        cmocka_unit_test(test_uneven_drives),
        cmocka_unit_test(test_policies),
        cmocka_unit_test(test_policies_with_room),
    };
    return cmocka_run_group_tests_name("simulation", tests, NULL, NULL) ? 1 : 0;
}
