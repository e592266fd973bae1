/* Guesses of an oracle on a store that only simulates: what is held, until when, and in which
 * order. */
#include "util.h"

#include "core/util.h"
#include "model/staging.h"
#include "nvme/simulation.h"

#define MIB (1u << 20)
#define LAYERS 2u
#define EXPERTS 8u
#define ROOM 16u

struct world {
    struct ps_sim_drive drive;
    struct ps_volume *volume;
    struct ps_store *store;
    struct ps_guess guesses[ROOM];
    struct ps_staged staged[ROOM];
    uint32_t staged_of[LAYERS * EXPERTS];
    struct ps_staging s;
};

/* Experts of 1 MiB that take about 1 ms each. */
static void open_world(struct world *w, uint32_t slot_count, uint32_t capacity)
{
    static const struct ps_layout_slice slice = {MIB, 0, 256};
    struct ps_layout_object objects[LAYERS * EXPERTS];
    char names[LAYERS * EXPERTS][16];
    struct ps_store_options options = {.lease_count = 2, .prefetch_count = capacity};
    struct ps_error err = {0};

    memset(w, 0, sizeof(*w));
    ps_sim_drive_init(&w->drive, 1u << 30, 100000);
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++) {
        snprintf(names[i], sizeof(names[i]), "%u.%u", i / EXPERTS, i % EXPERTS);
        objects[i] = (struct ps_layout_object){PS_OBJECT_STREAMED, i / EXPERTS, i % EXPERTS,
                                               names[i],           &slice,      1};
    }
    if (ps_volume_simulate(&w->volume, objects, LAYERS * EXPERTS, &w->drive, 1, &err) < 0 ||
        ps_store_simulate(&w->store, w->volume, &options, &w->drive, slot_count, &err) < 0)
        fail_msg("%s", err.text);
    w->s = (struct ps_staging){.guesses = w->guesses,
                               .staged = w->staged,
                               .staged_of = w->staged_of,
                               .expert_count = EXPERTS,
                               .guess_capacity = ROOM,
                               .capacity = capacity};
}

static void close_world(struct world *w)
{
    ps_store_close(&w->store);
    ps_volume_close(&w->volume);
}

static void guess(struct world *w, uint64_t due, uint32_t expert)
{
    ps_staging_add(&w->s, &(struct ps_guess){.layer = (uint32_t)(due - 1) % LAYERS,
                                             .expert = expert,
                                             .due = due,
                                             .chance = 1,
                                             .is_wanted = true});
}

/* Routes the next layer, which chooses one expert and uses it; returns whether that was there, and
 * fills in whether it was read for a guess. */
static bool route(struct world *w, uint32_t expert, bool *was_staged)
{
    bool is_chosen[EXPERTS] = {false}, staged[EXPERTS] = {false};
    uint32_t layer = (uint32_t)w->s.step % LAYERS;
    struct ps_lease lease = {0};
    struct ps_error err = {0};

    is_chosen[expert] = true;
    ps_staging_settle(&w->s, w->store, layer, is_chosen, staged);
    ps_store_touch(w->store, layer, &expert, 1);
    int hit = ps_store_get(w->store, layer, expert, &lease, &err);
    assert_true(hit >= 0);
    ps_staging_issue(&w->s, w->store);
    while (lease.state != PS_LEASE_READY)
        assert_true(ps_store_wait(w->store, &lease, 1, &err) > 0);
    ps_store_put(w->store, &lease);
    *was_staged = staged[expert];
    return hit;
}

static void pass(struct world *w, uint64_t ms)
{
    struct ps_error err = {0};

    assert_int_equal(ps_store_sim_advance(w->store, ms * 1000000, &err), 0);
}

static bool is_missing(struct world *w, uint32_t layer, uint32_t expert)
{
    bool missing;

    ps_store_missing(w->store, layer, &expert, 1, &missing);
    return missing;
}

/* Expert 0 of the first layer is read for step 3 and wanted again at 5 and 9: it is read once. */
static void test_again(void **state)
{
    struct ps_store_stats stats;
    struct world w;
    bool staged;

    (void)state;
    open_world(&w, 8, 3);
    assert_false(route(&w, 7, &staged));
    guess(&w, 3, 0);
    guess(&w, 5, 0);
    guess(&w, 9, 0);
    ps_staging_issue(&w.s, w.store);
    assert_int_equal(w.s.staged_count, 3);
    assert_int_equal(w.s.first_count, 1);
    pass(&w, 5);
    assert_false(route(&w, 7, &staged));
    assert_true(route(&w, 0, &staged));
    assert_true(staged);
    /* In use, then held for the next guess, and not read for it. */
    assert_int_equal(w.s.staged_count, 2);
    assert_false(w.staged[0].is_held);
    assert_true(route(&w, 7, &staged));
    assert_true(w.staged[0].is_held && !w.staged[0].was_read);
    assert_true(route(&w, 0, &staged));
    assert_false(staged);
    /* Chosen though it is due later: used, and held again. */
    assert_true(route(&w, 7, &staged));
    assert_true(route(&w, 0, &staged));
    assert_int_equal(w.s.first_count, 1);
    assert_true(route(&w, 7, &staged));
    assert_true(w.staged[0].is_held);
    assert_true(route(&w, 0, &staged));
    assert_int_equal(w.s.staged_count + w.s.first_count, 0);
    ps_store_stats(w.store, &stats);
    assert_int_equal(stats.prefetches, 1);
    assert_int_equal(stats.prefetches_used, 1);
    assert_int_equal(stats.streamed_bytes, 3 * MIB);
    close_world(&w);
}

/* What is held is not what makes room, whatever was used since; a wrong guess is dropped when it is
 * due, or handed on. */
static void test_held(void **state)
{
    struct world w;
    bool staged;

    (void)state;
    open_world(&w, 6, 2);
    assert_false(route(&w, 0, &staged));
    assert_false(route(&w, 1, &staged));
    guess(&w, 9, 0);
    guess(&w, 4, 2);
    guess(&w, 6, 2);
    guess(&w, 9, 3);
    ps_staging_issue(&w.s, w.store);
    /* No room for the last one, which is kept for later. */
    assert_int_equal(w.s.first_count, 2);
    assert_int_equal(w.s.guess_count - w.s.guess_next, 1);
    pass(&w, 5);
    assert_false(route(&w, 4, &staged));
    assert_false(route(&w, 4, &staged));
    assert_false(is_missing(&w, 1, 2));
    assert_true(w.staged[1].is_held && w.staged[1].due == 6);
    assert_false(route(&w, 5, &staged));
    assert_false(route(&w, 5, &staged));
    assert_true(is_missing(&w, 1, 2));
    assert_int_equal(w.s.guess_count - w.s.guess_next, 0);
    pass(&w, 5);
    assert_false(route(&w, 6, &staged));
    assert_false(route(&w, 6, &staged));
    assert_false(is_missing(&w, 0, 0) || is_missing(&w, 0, 3));
    ps_staging_reset(&w.s, w.store);
    /* What had been in memory before the guess stays there. */
    assert_false(is_missing(&w, 0, 0));
    assert_true(is_missing(&w, 0, 3));
    assert_int_equal(w.s.staged_count + w.s.first_count + w.s.guess_count, 0);
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_held),
    };
    return cmocka_run_group_tests_name("staging", tests, NULL, NULL) ? 1 : 0;
}
