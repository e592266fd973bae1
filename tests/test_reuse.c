/* Stack distances against a plain LRU, and what the shipped curves give. */
#include <math.h>
#include <stdlib.h>

#include "core/util.h"
#include "model/reuse.h"
#include "model/trace.h"
#include "util.h"

#define LAYERS 3
#define EXPERTS 20
#define OBJECTS (LAYERS * EXPERTS)
#define ACCESSES 6000

static uint32_t random_next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Hits of a list kept in order of last use, over accesses from `warm` on. */
static uint32_t lru_hits(const uint32_t *objects, uint32_t slots, uint32_t warm)
{
    uint32_t list[OBJECTS], count = 0, hits = 0;

    for (uint32_t i = 0; i < ACCESSES; i++) {
        uint32_t at = 0;
        while (at < count && list[at] != objects[i])
            at++;
        hits += i >= warm && at < count;
        if (at == count && count < slots)
            count++;
        at = at < count ? at : count - 1;
        memmove(list + 1, list, at * sizeof(*list));
        list[0] = objects[i];
    }
    return hits;
}

static void test_against_lru(void **state)
{
    uint32_t objects[ACCESSES], warm = ACCESSES / 2;
    struct ps_reuse *reuse;
    struct ps_error err = {0};
    uint64_t seed = 7;

    (void)state;
    assert_int_equal(ps_reuse_open(&reuse, LAYERS, EXPERTS, &err), 0);
    for (uint32_t i = 0; i < ACCESSES; i++) {
        uint32_t near = random_next(&seed) % 5, far = random_next(&seed) % EXPERTS;
        uint32_t layer = i % LAYERS, expert = random_next(&seed) % 3 ? near : far;
        objects[i] = layer * EXPERTS + expert;
        ps_reuse_access(reuse, layer, expert, i >= warm);
    }
    for (uint32_t slots = 1; slots <= OBJECTS; slots++) {
        double rate = ps_reuse_hit_rate(reuse, slots);
        assert_int_equal((uint32_t)(rate * (ACCESSES - warm) + 0.5),
                         lru_hits(objects, slots, warm));
    }
    ps_reuse_close(&reuse);
    assert_int_equal(ps_reuse_open(&reuse, 0, 8, &err), -PS_ERR_ARGUMENT);
}

/* What comes for the first time hits where everything fits, and nowhere else for certain. */
static void test_first_touches(void **state)
{
    struct ps_reuse *reuse;
    struct ps_error err = {0};

    (void)state;
    assert_int_equal(ps_reuse_open(&reuse, 1, 10, &err), 0);
    for (uint32_t i = 0; i < 5; i++)
        ps_reuse_access(reuse, 0, i, 0);
    ps_reuse_access(reuse, 0, 9, 1);
    assert_true(ps_reuse_hit_rate(reuse, 5) == 0);
    assert_true(ps_reuse_hit_rate(reuse, 7) > 0.39 && ps_reuse_hit_rate(reuse, 7) < 0.41);
    assert_true(ps_reuse_hit_rate(reuse, 10) > 0.999);
    ps_reuse_close(&reuse);
}

/* Tokens that always choose the same, each others in turn, and any. */
static void test_distinct(void **state)
{
    struct ps_reuse *same, *turn, *any;
    uint64_t seed = 5;

    (void)state;
    assert_int_equal(ps_reuse_open(&same, 2, 64, NULL), 0);
    assert_int_equal(ps_reuse_open(&turn, 2, 64, NULL), 0);
    assert_int_equal(ps_reuse_open(&any, 2, 64, NULL), 0);
    assert_true(ps_reuse_distinct(any, 10) == 0);
    for (uint32_t i = 0; i < 4000; i++) {
        for (uint32_t l = 0; l < 2; l++) {
            uint32_t first = random_next(&seed) % 64, second = random_next(&seed) % 63;
            for (uint32_t k = 0; k < 2; k++) {
                ps_reuse_access(same, l, k, i >= 2000);
                ps_reuse_access(turn, l, (2 * i + k) % 64, i >= 2000);
                ps_reuse_access(any, l, k == 0 ? first : second + (second >= first), i >= 2000);
            }
            ps_reuse_layer_end(same);
            ps_reuse_layer_end(turn);
            ps_reuse_layer_end(any);
        }
    }
    for (uint32_t n = 1; n <= 100; n++) {
        double all = 64 * (1 - pow(1 - 2.0 / 64, n));
        assert_true(ps_reuse_distinct(same, n) == 2);
        assert_true(ps_reuse_distinct(turn, n) == ps_min_u64(2 * n, 64));
        assert_true(fabs(ps_reuse_distinct(any, n) - all) < 0.02 * all);
    }
    /* Rows longer than gaps are counted for. */
    assert_true(ps_reuse_distinct(same, 6000) == 2);
    ps_reuse_close(&same);
    ps_reuse_close(&turn);
    ps_reuse_close(&any);
}

/* Layers that miss as a whole, or not at all, and layers of which each expert misses by itself. */
static void test_clustering(void **state)
{
    struct ps_reuse *together, *apart;
    struct ps_error err = {0};
    uint64_t seed = 3;

    (void)state;
    assert_int_equal(ps_reuse_open(&together, 1, 64, &err), 0);
    assert_int_equal(ps_reuse_open(&apart, 1, 64, &err), 0);
    for (uint32_t t = 0; t < 4000; t++) {
        uint32_t far = 8 * (1 + random_next(&seed) % 7);
        for (uint32_t i = 0; i < 8; i++) {
            ps_reuse_access(together, 0, t % 2 ? i : far + i, t > 200);
            uint32_t other = 8 * (1 + random_next(&seed) % 7);
            ps_reuse_access(apart, 0, random_next(&seed) % 2 ? i : other + i, t > 200);
        }
        ps_reuse_layer_end(together);
        ps_reuse_layer_end(apart);
    }
    assert_true(ps_reuse_clustering(together, 24) > 0.9);
    assert_true(ps_reuse_clustering(apart, 24) < 0.05);
    assert_true(ps_reuse_clustering(together, 0) == 0 && ps_reuse_clustering(together, 64) == 0);
    ps_reuse_close(&together);
    ps_reuse_close(&apart);
}

static void test_curves(void **state)
{
    struct ps_hit_rate rate, before = {0};

    (void)state;
    for (const struct ps_reuse_curve *c = ps_reuse_table; c->name; c++)
        for (int i = 1; i < PS_REUSE_POINT_COUNT; i++)
            assert_true(c->hit_rate[i] >= c->hit_rate[i - 1] && c->hit_rate[i] <= 1 &&
                        c->clustering[i] >= 0 && c->clustering[i] < 1);
    for (double fraction = 0; fraction <= 1.2; fraction += 0.01) {
        ps_reuse_predict(fraction, 10, 512, &rate);
        assert_true(rate.low <= rate.central && rate.central <= rate.high);
        assert_true(rate.central >= before.central && rate.low >= before.low);
        before = rate;
    }
    assert_true(before.low == 1);
    ps_reuse_predict(0.019, 10, 512, &rate);
    assert_true(rate.high == 0);
    ps_reuse_predict(0.3, 8, 8, &rate);
    assert_true(rate.high == 0);
}

#define TRACE_TOKENS 40
#define TRACE_LAYERS 16u
#define TRACE_USED 8u

/* 40 tokens that take the same experts every second time: all of the second half hit with room for
 * two tokens, none with room for one. */
static void test_own_trace(void **state)
{
    static uint16_t experts[TRACE_LAYERS * TRACE_USED];
    uint32_t layers[TRACE_LAYERS];
    uint64_t bytes[TRACE_LAYERS] = {0};
    struct ps_trace_info info = {.token_count = TRACE_TOKENS,
                                 .layer_count = TRACE_LAYERS,
                                 .expert_count = 64,
                                 .experts_used = TRACE_USED,
                                 .layers = layers,
                                 .expert_bytes = bytes};
    struct ps_model_describe_options olmoe = {.source = "olmoe", .member_count = 1};
    struct ps_model_describe_options other = {.source = "mixtral-8x7b", .member_count = 1};
    struct ps_trace_writer *writer;
    struct ps_model *model;
    struct ps_reuse *reuse;
    struct ps_error err = {0};
    char dir[256], path[300];

    (void)state;
    ps_test_dir_make(dir, sizeof(dir));
    snprintf(path, sizeof(path), "%s/t.trace", dir);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (uint32_t l = 0; l < TRACE_LAYERS; l++)
        layers[l] = l;
    assert_int_equal(ps_trace_writer_open(&writer, file, path, &info, &err), 0);
    for (uint32_t t = 0; t < TRACE_TOKENS; t++) {
        struct ps_trace_token token = {.id = t, .begins = t == 0, .experts = experts};
        for (uint32_t i = 0; i < TRACE_LAYERS * TRACE_USED; i++)
            experts[i] = (uint16_t)(i % TRACE_USED + t % 2 * 20);
        assert_int_equal(ps_trace_writer_add(writer, &token, &err), 0);
    }
    assert_int_equal(ps_trace_writer_finish(writer, &err), 0);
    ps_trace_writer_close(&writer);
    fclose(file);
    assert_int_equal(ps_model_describe(&model, &olmoe, &err), 0);
    assert_int_equal(ps_reuse_open_trace(&reuse, path, model, &err), 0);
    assert_true(ps_reuse_hit_rate(reuse, TRACE_LAYERS * TRACE_USED) == 0);
    assert_true(ps_reuse_hit_rate(reuse, 2 * TRACE_LAYERS * TRACE_USED) == 1);
    ps_reuse_close(&reuse);
    ps_model_close(&model);
    assert_int_equal(ps_model_describe(&model, &other, &err), 0);
    assert_int_equal(ps_reuse_open_trace(&reuse, path, model, &err), -PS_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "16 layers of 64"));
    assert_int_equal(ps_reuse_open_trace(&reuse, dir, model, &err) < 0, 1);
    ps_model_close(&model);
    ps_test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_lru), cmocka_unit_test(test_first_touches),
        cmocka_unit_test(test_distinct),    cmocka_unit_test(test_clustering),
        cmocka_unit_test(test_curves),      cmocka_unit_test(test_own_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
