/*
 * Attention through a window: what the definition gives, in double; the same bits however the
 * prompt is cut, whatever the threads, the ring and the sessions beside; and those of no window
 * where it reaches over the whole context. And heads of all usual sizes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "model_fixture.h"
#include "oracle.h"
#include "util.h"

#define TOKEN_COUNT 820u
#define CONTEXT 1536u    /* the models' */
#define HEADS_COUNT 280u /* tokens: more than a part */
#define TOLERANCE 1e-4   /* of the largest logit */

static const uint32_t windows[] = {1, 5, 100, 257, 300};

static char dir[256];
static struct tiny_model tiny;
static struct fixture_volume volume;
static struct ps_model *model;
static struct ps_model_info info;
static int32_t ids[TOKEN_COUNT];

static void check(int rc, const struct ps_error *err)
{
    if (rc < 0)
        fail_msg("%s: %s (%d)", err->where, err->text, rc);
}

/* Small enough for the oracle to take every token. All experts are used: no near tie decides. */
static int set_up(void **state)
{
    (void)state;
    tiny = tiny_default(false);
    tiny.context = CONTEXT;
    tiny.hidden = 32;
    tiny.heads = 2;
    tiny.kv_heads = 1;
    tiny.experts = 2;
    tiny.width = 32;
    tiny.vocab = 48;
    ps_test_dir_make(dir, sizeof(dir));
    fixture_layout(&volume, tiny_write_gguf(&tiny, dir), "keep", 1u << 20, 1);
    model = fixture_open(&volume);
    ps_model_info(model, &info);
    for (uint32_t i = 0; i < TOKEN_COUNT; i++)
        ids[i] = (int32_t)((i * i * 7 + i * 3 + i / 48) % info.vocab_rows);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ps_model_close(&model);
    fixture_remove(&volume);
    ps_test_dir_remove(dir);
    return 0;
}

static void test_definition(void **state)
{
    double want[64];

    (void)state;
    for (size_t w = 0; w < sizeof(windows) / sizeof(windows[0]); w += 2) {
        struct fixture_run run = {.options = {.kv = "f32", .kv_window = windows[w]}};
        struct oracle o = {
            .m = &tiny, .renormalise = true, .used = tiny.used, .window = windows[w]};
        float *got = fixture_logits(model, &run, ids, TOKEN_COUNT, NULL);
        double worst = 0;
        oracle_init(&o, TOKEN_COUNT);
        for (size_t t = 0; t < TOKEN_COUNT; t++) {
            double largest = 0;
            oracle_step(&o, ids[t], want);
            for (uint32_t i = 0; i < info.vocab_rows; i++)
                largest = fmax(largest, fabs(want[i]));
            for (uint32_t i = 0; i < info.vocab_rows; i++) {
                double d = fabs((double)got[t * info.vocab_rows + i] - want[i]) / largest;
                if (!(d <= TOLERANCE))
                    fail_msg("window %u, token %zu, logit %u: off by %g", windows[w], t, i, d);
                worst = fmax(worst, d);
            }
        }
        printf("  window %u: largest difference %.1e\n", windows[w], worst);
        oracle_fini(&o);
        free(got);
    }
}

static void expect(const struct fixture_run *run, const float *want, uint32_t count,
                   const char *what)
{
    float *got = fixture_logits(model, run, ids, count, NULL);
    size_t row = info.vocab_rows * sizeof(float);

    for (uint32_t t = 0; t < count; t++)
        if (memcmp((char *)got + t * row, (const char *)want + t * row, row) != 0)
            fail_msg("%s, window %u: the logits of token %u differ", what, run->options.kv_window,
                     t);
    free(got);
}

static void test_bits(void **state)
{
    (void)state;
    for (size_t w = 0; w < sizeof(windows) / sizeof(windows[0]); w++) {
        struct fixture_run run = {.options = {.kv_window = windows[w]}}, other = run;
        float *want = fixture_logits(model, &run, ids, TOKEN_COUNT, NULL);
        other.one_by_one = true;
        other.options.threads = 3;
        expect(&other, want, TOKEN_COUNT, "one by one");
        other = run;
        for (uint32_t chunk = 7; chunk < 600; chunk = 2 * chunk + 9) {
            other.options.chunk_tokens = chunk;
            other.options.threads = 1 + (int)chunk % 4;
            other.first_call = chunk * 3 / 2;
            expect(&other, want, TOKEN_COUNT, "in chunks");
        }
        other = run;
        other.options.memory_bytes = PS_MEMORY_MIN;
        expect(&other, want, TOKEN_COUNT, "least memory");
        /* A context that holds every row: 768 + 4 is the longest that a window of 300 does not
         * make a ring of. */
        other.options.ctx = 512 + 256 * (windows[w] > 257);
        expect(&other, want, other.options.ctx, "all rows kept");
        free(want);
    }
}

static void test_whole(void **state)
{
    struct fixture_run run = {.options = {.ctx = TOKEN_COUNT}};
    static const uint32_t enough[] = {TOKEN_COUNT - 4, TOKEN_COUNT, 5000, UINT32_MAX};

    (void)state;
    float *want = fixture_logits(model, &run, ids, TOKEN_COUNT, NULL);
    for (size_t i = 0; i < sizeof(enough) / sizeof(enough[0]); i++) {
        run.options.kv_window = enough[i];
        expect(&run, want, TOKEN_COUNT, "as long as the context");
    }
    run.options.kv_window = TOKEN_COUNT - 5;
    float *less = fixture_logits(model, &run, ids, TOKEN_COUNT, NULL);
    size_t row = info.vocab_rows, last = (TOKEN_COUNT - 1) * row;
    assert_memory_equal(less, want, last * sizeof(float));
    assert_memory_not_equal(less + last, want + last, row * sizeof(float));
    free(less);
    free(want);
}

/* Sessions evaluated together go round their rings at different times. */
static void test_together(void **state)
{
    struct ps_engine_options options = {
        .kv_window = 100, .sessions = 2, .chunk_tokens = 200, .threads = 2};
    struct fixture_run run = {.options = options};
    float *want = fixture_logits(model, &run, ids, TOKEN_COUNT, NULL);
    struct ps_session *sessions[2] = {0};
    struct ps_engine *engine = NULL;
    struct ps_error err = {0};

    (void)state;
    check(ps_engine_open(&engine, model, &options, &err), &err);
    for (int s = 0; s < 2; s++)
        check(ps_session_open(&sessions[s], engine, &err), &err);
    for (uint32_t a = 0, b = 0, n = 0; a < TOKEN_COUNT || b < TOKEN_COUNT; a += n) {
        uint32_t m = b + 37 < TOKEN_COUNT ? 37 : TOKEN_COUNT - b;
        n = a + 290 < TOKEN_COUNT ? 290 : TOKEN_COUNT - a;
        struct ps_session_input inputs[2] = {{sessions[1], ids + b, m}, {sessions[0], ids + a, n}};
        check(ps_session_eval_batch(inputs + (m == 0), (m != 0) + (n != 0), &err), &err);
        b += m;
        for (int s = 0; s < 2; s++) {
            const float *got = ps_session_logits(sessions[s]);
            size_t last = ps_session_position(sessions[s]) - 1;
            if (got && memcmp(got, want + last * info.vocab_rows, info.vocab_rows * sizeof(float)))
                fail_msg("session %d: the logits of token %zu differ", s, last);
        }
    }
    for (int s = 0; s < 2; s++)
        ps_session_close(&sessions[s]);
    ps_engine_close(&engine);
    free(want);
}

/* Heads of all usual sizes, shared by one to twelve, with and without a gate: tokens one by one,
 * whose heads are multiplied together, against tokens multiplied together. */
static void test_heads(void **state)
{
    static const struct {
        uint32_t heads, kv_heads, head_dim;
        bool gate;
        const char *kv;
    } shapes[] = {{2, 2, 128, false, "f16"},
                  {12, 1, 64, false, "q8_0"},
                  {3, 1, 256, true, "f16"},
                  {4, 2, 40, true, "f32"}};
    struct ps_model *whole = model;

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        struct tiny_model m = tiny_default(shapes[i].gate);
        struct fixture_run run = {.options = {.kv = shapes[i].kv, .threads = 1},
                                  .one_by_one = true};
        struct fixture_volume shape;
        m.heads = shapes[i].heads;
        m.kv_heads = shapes[i].kv_heads;
        m.head_dim = shapes[i].head_dim;
        m.vocab = tiny.vocab;
        fixture_layout(&shape, tiny_write_gguf(&m, dir), "keep", 1u << 20, 1);
        model = fixture_open(&shape);
        float *want = fixture_logits(model, &run, ids, HEADS_COUNT, NULL);
        run.one_by_one = false;
        for (int threads = 1; threads < 10; threads += 8) {
            run.options.threads = threads;
            run.options.chunk_tokens = threads == 9 ? 37 : 0;
            expect(&run, want, HEADS_COUNT, shapes[i].kv);
        }
        free(want);
        ps_model_close(&model);
        fixture_remove(&shape);
    }
    model = whole;
}

static void test_plan(void **state)
{
    struct ps_engine_options options = {.kv_window = 257, .memory_bytes = PS_MEMORY_MIN};
    struct ps_plan plan, whole;
    struct ps_error err = {0};

    (void)state;
    check(ps_model_plan(model, &options, &plan, &err), &err);
    assert_int_equal(plan.ctx, CONTEXT); /* positions behind a window cost nothing */
    options = (struct ps_engine_options){.ctx = CONTEXT, .memory_bytes = PS_MEMORY_MIN};
    check(ps_model_plan(model, &options, &whole, &err), &err);
    /* K and V of 2 layers in half floats: 16 values each; the other rows are not there. */
    uint64_t rows = CONTEXT - (512 + 4);
    uint64_t pages = whole.floor_bytes - plan.floor_bytes;
    assert_true(pages + 8192 > rows * 16 * 2 * 2 * 2 && pages < rows * 16 * 2 * 2 * 2 + 8192);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition), cmocka_unit_test(test_bits),
        cmocka_unit_test(test_whole),      cmocka_unit_test(test_together),
        cmocka_unit_test(test_heads),      cmocka_unit_test(test_plan),
    };
    return cmocka_run_group_tests_name("window", tests, set_up, tear_down) ? 1 : 0;
}
