/*
 * Replay against the engine: the routes of a run, played back with as many slots, hit and miss as
 * often as the run did, whatever the memory, the slices and the members. And what follows from the
 * model of drives and arithmetic by itself.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/util.h"
#include "model/replay.h"
#include "model/replay_internal.h"
#include "model_fixture.h"

#define TOKENS 96u
#define LAYERS_MAX 8u
#define USED_MAX 8u

/* What the engine chose. */
struct routes {
    uint32_t layer_count, used;
    uint16_t experts[TOKENS][LAYERS_MAX][USED_MAX];
};

static void note_route(void *ctx, uint32_t layer, uint32_t position, uint32_t count,
                       const uint32_t *experts, const float *weights)
{
    struct routes *routes = ctx;

    (void)weights;
    assert_true(layer < LAYERS_MAX && position < TOKENS && count <= USED_MAX);
    routes->layer_count = (uint32_t)ps_max_u64(routes->layer_count, layer + 1);
    routes->used = count;
    for (uint32_t i = 0; i < count; i++)
        routes->experts[position][layer][i] = (uint16_t)experts[i];
}

static struct ps_replay *open_routes(const struct routes *routes, uint32_t token_count,
                                     uint32_t expert_count, uint64_t expert_bytes)
{
    char path[] = "/tmp/penstock-replay-XXXXXX";
    uint32_t layers[LAYERS_MAX];
    uint64_t bytes[LAYERS_MAX];
    uint16_t flat[LAYERS_MAX * USED_MAX];
    struct ps_trace_info info = {.token_count = token_count,
                                 .layer_count = routes->layer_count,
                                 .expert_count = expert_count,
                                 .experts_used = routes->used,
                                 .layers = layers,
                                 .expert_bytes = bytes};
    struct ps_trace_writer *writer = NULL;
    struct ps_trace *trace = NULL;
    struct ps_replay *replay = NULL;
    struct ps_error err = {0};

    for (uint32_t l = 0; l < LAYERS_MAX; l++) {
        layers[l] = l;
        bytes[l] = expert_bytes;
    }
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "wb");
    assert_non_null(file);
    assert_true(ps_trace_writer_open(&writer, file, path, &info, &err) >= 0);
    for (uint32_t t = 0; t < token_count; t++) {
        struct ps_trace_token token = {.id = t, .begins = t == 0, .experts = flat};
        for (uint32_t l = 0; l < routes->layer_count; l++)
            memcpy(flat + l * routes->used, routes->experts[t][l], routes->used * sizeof(uint16_t));
        assert_true(ps_trace_writer_add(writer, &token, &err) >= 0);
    }
    assert_true(ps_trace_writer_finish(writer, &err) >= 0);
    ps_trace_writer_close(&writer);
    assert_int_equal(fclose(file), 0);
    assert_true(ps_trace_open(&trace, path, &err) >= 0);
    assert_true(ps_replay_open(&replay, trace, &err) >= 0);
    ps_trace_close(&trace);
    unlink(path);
    return replay;
}

static void play(const struct ps_replay *replay, const struct ps_replay_options *options,
                 struct ps_replay_result *result)
{
    struct ps_error err = {0};

    if (ps_replay_run(replay, options, result, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
}

/* ---- against the engine ---------------------------------------------------------------------- */

/* Memory, by steps of 64 KiB, that has so many slots. What the process holds by itself grows a
 * little meanwhile. */
static uint64_t memory_for(struct ps_model *model, uint32_t slot_count)
{
    struct ps_engine_options options = {.memory_bytes = PS_MEMORY_MIN, .ctx = 2 * TOKENS};
    struct ps_plan plan;
    struct ps_error err = {0};

    assert_int_equal(ps_model_plan(model, &options, &plan, &err), 0);
    if (slot_count <= plan.expert_slots)
        return PS_MEMORY_MIN;
    options.memory_bytes = plan.floor_bytes;
    while (ps_model_plan(model, &options, &plan, &err) == -PS_ERR_MEMORY_FLOOR ||
           plan.expert_slots < slot_count)
        options.memory_bytes += 64u << 10;
    return options.memory_bytes;
}

/* With about this many slots. */
static void compare(struct ps_model *model, uint32_t slot_count)
{
    struct routes *routes = calloc(1, sizeof(*routes));
    struct ps_replay_drive drives[3] = {
        {NULL, UINT64_C(3000000000), 80000}, {NULL, 900000000, 100000}, {NULL, 900000000, 0}};
    struct fixture_run run = {
        .options = {.memory_bytes = memory_for(model, slot_count), .ctx = 2 * TOKENS},
        .one_by_one = true,
        .on_route = note_route,
        .on_route_ctx = routes};
    struct ps_engine_stats stats;
    struct ps_model_info info;
    struct ps_replay_result result;
    int32_t ids[TOKENS];

    assert_non_null(routes);
    ps_model_info(model, &info);
    for (uint32_t i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)(i * i * 7 % 61 * 5 + i % 4) % (int32_t)info.vocab_rows;
    free(fixture_logits(model, &run, ids, TOKENS, &stats));
    struct ps_replay *replay = open_routes(routes, TOKENS, info.expert_count, 0);
    for (int drive_count = 1; drive_count <= 3; drive_count += 2) {
        struct ps_replay_options options = {.drives = drives,
                                            .drive_count = drive_count,
                                            .volume = ps_model_volume(model),
                                            .slot_count = (uint32_t)stats.store.slot_count};
        play(replay, &options, &result);
        assert_int_equal(result.slot_count, stats.store.slot_count);
        assert_int_equal(result.tokens, TOKENS);
        assert_int_equal(result.hits, stats.store.hits);
        assert_int_equal(result.asked - result.hits, stats.store.misses);
        assert_int_equal(result.demands, stats.store.misses);
        assert_int_equal(result.read_bytes, stats.store.streamed_bytes);
        assert_int_equal(result.demand_bytes, stats.store.streamed_bytes);
    }
    printf("%llu slots: %llu hits, %llu misses, as the engine\n",
           (unsigned long long)stats.store.slot_count, (unsigned long long)stats.store.hits,
           (unsigned long long)stats.store.misses);
    ps_replay_close(&replay);
    free(routes);
}

static void compare_all(const char *source, uint64_t slice_bytes, int member_count)
{
    struct fixture_volume volume;
    struct ps_model_info info;

    fixture_layout(&volume, source, "keep", slice_bytes, member_count);
    struct ps_model *model = fixture_open(&volume);
    ps_model_info(model, &info);
    uint32_t all = info.expert_count * info.moe_layer_count;
    compare(model, 1);
    compare(model, all / 3);
    compare(model, all * 5 / 8);
    compare(model, all);
    ps_model_close(&model);
    fixture_remove(&volume);
}

static void test_hits_of_the_engine(void **state)
{
    (void)state;
    compare_all(PS_TEST_DATA_DIR "/golden/qwen3moe", 8192, 1);
    compare_all(PS_TEST_DATA_DIR "/golden/qwen3moe", 0, 3);
    const char *demo = fixture_find(
        (const char *[]){PS_SOURCE_DIR "/tools/demo/demo-q4_0.gguf", PS_DEMO_DIR "/demo-q4_0.gguf"},
        2);
    if (demo)
        compare_all(demo, 0, 2);
    else
        printf("without the demo model, which is not there\n");
}

/* ---- by itself ------------------------------------------------------------------------------- */

#define EXPERTS 32u

/* Two experts of each of four layers, some of them often. */
static struct ps_replay *make_replay(uint64_t expert_bytes)
{
    struct routes *routes = calloc(1, sizeof(*routes));
    uint32_t state = 1;

    assert_non_null(routes);
    routes->layer_count = 4;
    routes->used = 2;
    for (uint32_t t = 0; t < TOKENS; t++) {
        for (uint32_t l = 0; l < 4; l++) {
            state = state * 1664525u + 1013904223u;
            uint32_t a = (state >> 8) % EXPERTS, b = (state >> 16) % 5;
            routes->experts[t][l][0] = (uint16_t)a;
            routes->experts[t][l][1] = (uint16_t)(b == a ? (a + 1) % EXPERTS : b);
        }
    }
    struct ps_replay *replay = open_routes(routes, TOKENS, EXPERTS, expert_bytes);
    free(routes);
    return replay;
}

static const struct ps_replay_drive drive = {NULL, UINT64_C(2) << 30, 50000};

static void test_bounds(void **state)
{
    struct ps_replay *replay = make_replay(8u << 20);
    struct ps_replay_options options = {
        .drives = &drive,
        .drive_count = 1,
        .slot_count = 48,
        .compute = {
            .mixer_ns = 300000, .shared_ns = 200000, .expert_ns = 500000, .token_ns = 1000000}};
    struct ps_replay_result off, checked, woken, oracle, guess, bad;

    (void)state;
    play(replay, &options, &off);
    assert_int_equal(off.asked, TOKENS * 4 * 2);
    assert_int_equal(off.compute_ns, TOKENS * (4 * (500000 + 2 * 500000) + UINT64_C(1000000)));
    assert_true(off.ns >= off.bound_layers_ns && off.bound_layers_ns >= off.bound_overlap_ns);
    assert_int_equal(off.ns, off.compute_ns + off.stall_ns);
    assert_true(off.busy[0] > 0 && off.busy[0] <= 1);
    assert_true(off.firsts < off.asked - off.hits);

    /* Each expert that was read is checked once; every wait has an end. */
    options.compute.check_ns = 1000;
    play(replay, &options, &checked);
    assert_in_range(checked.compute_ns - off.compute_ns, (off.demands - 1) * 999,
                    off.demands * 1000);
    assert_true(checked.ns > off.ns && checked.hits == off.hits);
    options.compute.check_ns = 0;
    options.compute.wake_ns = 1000;
    play(replay, &options, &woken);
    assert_in_range(woken.compute_ns - off.compute_ns, 1000, 4 * off.demands * 1000);
    options.compute.wake_ns = 0;

    assert_true(ps_replay_predictor_parse("oracle", &options));
    play(replay, &options, &oracle);
    assert_true(oracle.ns < off.ns && oracle.ns >= oracle.bound_overlap_ns);
    assert_true(oracle.prefetches > 0);
    assert_int_equal(oracle.prefetches, oracle.prefetches_used);
    assert_int_equal(oracle.read_bytes, oracle.demand_bytes);

    assert_true(ps_replay_predictor_parse("recall=0.8,precision=0.7", &options));
    play(replay, &options, &guess);
    assert_true(guess.ns > oracle.ns);
    assert_true(guess.prefetches_used < guess.prefetches);
    assert_true(guess.read_bytes > guess.demand_bytes);
    play(replay, &options, &bad);
    assert_memory_equal(&guess, &bad, sizeof(bad));
    ps_replay_close(&replay);
}

static void test_policies_and_sizes(void **state)
{
    static const char *const policies[] = {"lru", "lfu", "least-stale", "belady"};
    struct ps_replay *replay = make_replay(1u << 20);
    struct ps_replay_options options = {.drives = &drive, .drive_count = 1};
    struct ps_replay_result r, best;

    (void)state;
    for (uint32_t slots = 2; slots <= 128; slots *= 4) {
        options.slot_count = slots;
        options.policy = "belady";
        play(replay, &options, &best);
        for (size_t p = 0; p < PS_ARRAY_LEN(policies); p++) {
            options.policy = policies[p];
            play(replay, &options, &r);
            assert_int_equal(r.slot_count, slots);
            assert_true(r.hits <= best.hits);
            assert_true(slots < 128 || r.asked - r.hits == r.firsts);
        }
    }
    ps_replay_close(&replay);
}

static void test_refusals(void **state)
{
    struct ps_replay *replay = make_replay(0);
    struct ps_replay_options options = {.drives = &drive, .drive_count = 1, .slot_count = 8};
    struct ps_replay_result r;
    struct ps_error err = {0};

    (void)state;
    assert_int_equal(ps_replay_run(replay, &options, &r, &err), -PS_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "--expert-bytes"));
    options.expert_bytes = UINT64_MAX;
    assert_int_equal(ps_replay_run(replay, &options, &r, &err), -PS_ERR_ARGUMENT);
    options.expert_bytes = 1;
    play(replay, &options, &r);
    options.policy = "fifo";
    assert_int_equal(ps_replay_run(replay, &options, &r, &err), -PS_ERR_ARGUMENT);
    options.policy = NULL;
    options.predictor = PS_REPLAY_TRACE;
    assert_int_equal(ps_replay_run(replay, &options, &r, &err), -PS_ERR_ARGUMENT);
    options.predictor = PS_REPLAY_OFF;
    options.drive_count = 0;
    assert_int_equal(ps_replay_run(replay, &options, &r, &err), -PS_ERR_ARGUMENT);
    options.drive_count = 1;
    options.cache_bytes = 1;
    assert_int_equal(ps_replay_run(replay, &options, &r, &err), -PS_ERR_MEMORY_FLOOR);
    assert_false(ps_replay_predictor_parse("recall=", &options));
    assert_false(ps_replay_predictor_parse("recall=1.5", &options));
    assert_false(ps_replay_predictor_parse("recall=0.5,precision=x", &options));
    assert_false(ps_replay_predictor_parse("recall=0.5,", &options));
    assert_false(ps_replay_predictor_parse("gates", &options));
    assert_true(ps_replay_predictor_parse("off", &options));
    ps_replay_close(&replay);
}

/* Wrong guesses come on top of the right ones, as many as there are others. */
static void test_precision(void **state)
{
    struct routes *routes = calloc(1, sizeof(*routes));
    struct ps_replay_options options = {0};
    uint32_t guess[6], counts[2] = {0};

    (void)state;
    assert_non_null(routes);
    routes->layer_count = 1;
    routes->used = 4;
    for (uint32_t t = 0; t < TOKENS; t++) {
        for (uint32_t i = 0; i < 4; i++)
            routes->experts[t][0][i] = (uint16_t)((t + i) % 6);
    }
    struct ps_replay *replay = open_routes(routes, TOKENS, 6, 0);
    free(routes);
    assert_true(ps_replay_predictor_parse("recall=1,precision=0.8", &options));
    for (uint32_t t = 0; t < TOKENS; t++)
        counts[0] += ps_replay_guess(replay, &options, t, 0, 1, guess);
    assert_int_equal(counts[0], TOKENS * 5);
    assert_true(ps_replay_predictor_parse("recall=1,precision=1e-300", &options));
    for (uint32_t t = 0; t < TOKENS; t++)
        counts[1] += ps_replay_guess(replay, &options, t, 0, 1, guess);
    assert_int_equal(counts[1], TOKENS * 6);
    ps_replay_close(&replay);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hits_of_the_engine), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_policies_and_sizes), cmocka_unit_test(test_precision),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("replay", tests, NULL, NULL) ? 1 : 0;
}
