/* The recorder: many threads at once, a table that fills up, and starting anew. */
#include "util.h"

#include <pthread.h>

#include "core/timeline.h"

#define THREADS 4
#define EVENTS_EACH 1000u

struct adder {
    struct ps_timeline *timeline;
    uint16_t lane;
};

static struct ps_timeline *timeline_make(uint32_t event_count)
{
    uint64_t bytes = (ps_timeline_bytes(event_count) + 63) / 64 * 64;
    void *memory = aligned_alloc(64, bytes);

    assert_non_null(memory);
    memset(memory, 0, bytes);
    return ps_timeline_init(memory, event_count);
}

static void *add_many(void *arg)
{
    const struct adder *adder = arg;

    for (uint32_t i = 0; i < EVENTS_EACH; i++)
        ps_timeline_add(adder->timeline, &(struct ps_timeline_event){
                                             .kind = 7,
                                             .lane = adder->lane,
                                             .begin_ns = i,
                                             .end_ns = i + adder->lane,
                                             .values = {i, adder->lane, i + 1, i + 2, i + 3}});
    return NULL;
}

static void add_from_threads(struct ps_timeline *timeline)
{
    struct adder adders[THREADS];
    pthread_t threads[THREADS];

    for (int t = 0; t < THREADS; t++) {
        adders[t] = (struct adder){timeline, (uint16_t)t};
        assert_int_equal(pthread_create(&threads[t], NULL, add_many, &adders[t]), 0);
    }
    for (int t = 0; t < THREADS; t++)
        assert_int_equal(pthread_join(threads[t], NULL), 0);
}

/* Every event is whole, and those of one thread are in its order. */
static void check_events(const struct ps_timeline *timeline, uint32_t count)
{
    int64_t last[THREADS] = {-1, -1, -1, -1};

    assert_int_equal(ps_timeline_count(timeline), count);
    for (uint32_t i = 0; i < count; i++) {
        struct ps_timeline_event e;
        assert_int_equal(ps_timeline_get(timeline, i, &e), 1);
        assert_int_equal(e.kind, 7);
        assert_true(e.lane < THREADS);
        assert_int_equal(e.values[1], e.lane);
        assert_int_equal(e.end_ns, e.begin_ns + e.lane);
        for (uint32_t v = 0; v < PS_TIMELINE_VALUE_COUNT; v++)
            assert_int_equal(e.values[v], v == 1 ? e.lane : e.begin_ns + (v == 0 ? 0 : v - 1));
        assert_true((int64_t)e.begin_ns > last[e.lane]);
        last[e.lane] = (int64_t)e.begin_ns;
    }
}

static void keeps_what_many_threads_add(void **state)
{
    (void)state;
    struct ps_timeline *timeline = timeline_make(THREADS * EVENTS_EACH);
    add_from_threads(timeline);
    check_events(timeline, THREADS * EVENTS_EACH);
    assert_int_equal(ps_timeline_dropped(timeline), 0);
    free(timeline);
}

static void counts_what_does_not_fit(void **state)
{
    (void)state;
    struct ps_timeline *timeline = timeline_make(EVENTS_EACH);
    add_from_threads(timeline);
    check_events(timeline, EVENTS_EACH);
    assert_int_equal(ps_timeline_dropped(timeline), (THREADS - 1) * EVENTS_EACH);
    free(timeline);
}

static void begins_anew(void **state)
{
    struct ps_timeline *timeline = timeline_make(10);
    struct ps_timeline_event e = {.kind = 1, .begin_ns = 5, .end_ns = 9};

    (void)state;
    for (int i = 0; i < 12; i++)
        ps_timeline_add(timeline, &e);
    assert_int_equal(ps_timeline_dropped(timeline), 2);
    ps_timeline_reset(timeline);
    assert_int_equal(ps_timeline_count(timeline), 0);
    assert_int_equal(ps_timeline_dropped(timeline), 0);
    assert_int_equal(ps_timeline_get(timeline, 0, &e), 0);
    ps_timeline_add(timeline, &e);
    assert_int_equal(ps_timeline_count(timeline), 1);
    assert_int_equal(ps_timeline_get(timeline, 0, &e), 1);
    assert_int_equal(e.end_ns, 9);
    free(timeline);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_many_threads_add),
        cmocka_unit_test(counts_what_does_not_fit),
        cmocka_unit_test(begins_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
