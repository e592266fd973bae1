/*
 * Sessions evaluated together: every one's logits are, to the bit, those that it has alone, however
 * prompts and single tokens are mixed and cut; and the rules of ps_session_eval_batch.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model_fixture.h"
#include "oracle.h"
#include "util.h"

#define SEQUENCE_COUNT 5
#define TOKEN_COUNT 40

static char dir[256];
static struct fixture_volume volume;
static struct ps_model *model;
static struct ps_model_info info;
static int32_t ids[SEQUENCE_COUNT][TOKEN_COUNT];
static float *alone[SEQUENCE_COUNT]; /* [TOKEN_COUNT, V] */

struct subject {
    const char *name, *activations, *kv;
    uint32_t chunk, sessions;
    int threads;
    const char *io, *predictor;
};

static const struct subject subjects[] = {
    {"default chunk", "f32", "f16", 0, SEQUENCE_COUNT, 2, "uring", NULL},
    {"chunks of 3, 8-bit activations", "q8", "q8_0", 3, SEQUENCE_COUNT, 3, "uring", NULL},
    {"chunks of 1", "f32", "f32", 1, SEQUENCE_COUNT, 1, "pread", NULL},
    {"chunks of 7, states to spare", "q8", "f16", 7, SEQUENCE_COUNT + 4, 2, "pread", NULL},
    {"guesses that are wrong", "q8", "f16", 5, SEQUENCE_COUNT, 2, "uring", "oracle"},
};

static void check(int rc, const struct ps_error *err)
{
    if (rc < 0)
        fail_msg("%s: %s (%d)", err->where, err->text, rc);
}

/* The layers of Qwen3.5: most of them recurrent, one with attention and an output gate. */
static int set_up(void **state)
{
    struct tiny_model m = tiny_default(true);

    (void)state;
    m.layers = 4;
    m.experts = 12;
    m.used = 3;
    m.head_dim = 32;
    ps_test_dir_make(dir, sizeof(dir));
    fixture_layout(&volume, tiny_write_gguf(&m, dir), "experts=q8_0,rest=bf16", 4096, 1);
    model = fixture_open(&volume);
    ps_model_info(model, &info);
    for (uint32_t s = 0; s < SEQUENCE_COUNT; s++)
        for (uint32_t t = 0; t < TOKEN_COUNT; t++)
            ids[s][t] = (int32_t)((t * t * (s + 3) + t * 17 + s * 29) % info.vocab_rows);
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

static void open_sessions(const struct ps_engine_options *options, struct ps_engine **engine,
                          struct ps_session **sessions, uint32_t count)
{
    struct ps_error err = {0};

    check(ps_engine_open(engine, model, options, &err), &err);
    for (uint32_t s = 0; s < count; s++)
        check(ps_session_open(&sessions[s], *engine, &err), &err);
}

static void close_sessions(struct ps_engine **engine, struct ps_session **sessions, uint32_t count)
{
    for (uint32_t s = 0; s < count; s++)
        ps_session_close(&sessions[s]);
    ps_engine_close(engine);
}

static void expect_alone(const struct ps_session *session, uint32_t sequence)
{
    const float *logits = ps_session_logits(session);
    uint32_t last = ps_session_position(session) - 1;

    assert_non_null(logits);
    if (memcmp(logits, alone[sequence] + (size_t)last * info.vocab_rows,
               info.vocab_rows * sizeof(float)) != 0)
        fail_msg("the logits of token %u of sequence %u differ", last, sequence);
}

/* Tokens that a sequence gets in a step: mostly one, now and then some, or it sits the step out. */
static uint32_t step_tokens(uint32_t step, uint32_t sequence, uint32_t position)
{
    uint32_t n = (step * 7 + sequence * 5) % 11;

    n = position == 0 ? 2 + sequence * 3 : n == 0 ? 0 : n < 9 ? 1 : n - 6;
    return n < TOKEN_COUNT - position ? n : TOKEN_COUNT - position;
}

static void test_bits(void **state)
{
    const struct subject *subject = *state;
    struct ps_engine_options options = {.activations = subject->activations,
                                        .kv = subject->kv,
                                        .chunk_tokens = subject->chunk,
                                        .threads = subject->threads,
                                        .io = subject->io,
                                        .ctx = TOKEN_COUNT};
    struct fixture_run run = {.options = options};
    struct ps_session *sessions[SEQUENCE_COUNT] = {0};
    struct ps_engine *engine = NULL;
    struct ps_error err = {0};
    struct ps_engine_stats stats;
    struct ps_plan plan;
    uint32_t evaluated = 0, seed = 1;

    for (uint32_t s = 0; s < SEQUENCE_COUNT; s++)
        alone[s] = fixture_logits(model, &run, ids[s], TOKEN_COUNT, NULL);
    options.sessions = subject->sessions;
    options.memory_bytes = PS_MEMORY_MIN;
    options.predictor = subject->predictor;
    check(ps_model_plan(model, &options, &plan, &err), &err);
    while (subject->predictor && plan.expert_slots < 20) {
        options.memory_bytes =
            (options.memory_bytes == PS_MEMORY_MIN ? plan.floor_bytes : options.memory_bytes) +
            (UINT64_C(64) << 10);
        check(ps_model_plan(model, &options, &plan, &err), &err);
    }
    open_sessions(&options, &engine, sessions, SEQUENCE_COUNT);
    /* The last one has no oracle. */
    for (uint32_t s = 0; s + 1 < SEQUENCE_COUNT; s++)
        ps_session_oracle(sessions[s], fixture_guess_wildly, &seed);
    for (uint32_t step = 0; evaluated < SEQUENCE_COUNT * TOKEN_COUNT; step++) {
        struct ps_session_input inputs[SEQUENCE_COUNT];
        uint32_t sequence[SEQUENCE_COUNT], count = 0;
        for (uint32_t i = 0; i < SEQUENCE_COUNT; i++) {
            uint32_t s = (i + step) % SEQUENCE_COUNT, at = ps_session_position(sessions[s]);
            uint32_t n = step < s ? 0 : step_tokens(step, s, at);
            if (n == 0)
                continue;
            sequence[count] = s;
            inputs[count++] = (struct ps_session_input){sessions[s], ids[s] + at, n};
            evaluated += n;
        }
        if (count == 0)
            continue;
        check(ps_session_eval_batch(inputs, count, &err), &err);
        for (uint32_t i = 0; i < count; i++)
            expect_alone(inputs[i].session, sequence[i]);
    }
    ps_engine_stats(engine, &stats);
    assert_true(!subject->predictor ||
                (stats.guesses_right > 0 && stats.guesses_right < stats.guesses_read));
    close_sessions(&engine, sessions, SEQUENCE_COUNT);
    for (uint32_t s = 0; s < SEQUENCE_COUNT; s++)
        free(alone[s]);
}

/* A new sequence in a state that another one has left, beside one that goes on. */
static void test_reset_beside(void **state)
{
    struct ps_engine_options options = {.sessions = 2};
    struct ps_session *sessions[2] = {0};
    struct ps_engine *engine = NULL;
    struct ps_error err = {0};

    (void)state;
    for (uint32_t s = 0; s < 3; s++)
        alone[s] = fixture_logits(model, &(struct fixture_run){0}, ids[s], TOKEN_COUNT, NULL);
    open_sessions(&options, &engine, sessions, 2);
    struct ps_session_input first[2] = {{sessions[0], ids[0], 8}, {sessions[1], ids[1], 5}};
    check(ps_session_eval_batch(first, 2, &err), &err);
    ps_session_reset(sessions[0]);
    assert_null(ps_session_logits(sessions[0]));
    struct ps_session_input second[2] = {{sessions[1], ids[1] + 5, 1}, {sessions[0], ids[2], 9}};
    check(ps_session_eval_batch(second, 2, &err), &err);
    expect_alone(sessions[0], 2);
    expect_alone(sessions[1], 1);
    /* An eval of one session ends the others' logits, and no more than those. */
    check(ps_session_eval(sessions[0], ids[2] + 9, 1, NULL, NULL, &err), &err);
    expect_alone(sessions[0], 2);
    assert_null(ps_session_logits(sessions[1]));
    check(ps_session_eval(sessions[1], ids[1] + 6, 4, NULL, NULL, &err), &err);
    expect_alone(sessions[1], 1);
    close_sessions(&engine, sessions, 2);
    for (uint32_t s = 0; s < 3; s++)
        free(alone[s]);
}

static void test_arguments(void **state)
{
    volatile int stop = 0;
    struct ps_engine_options options = {.sessions = 2, .ctx = 8, .stop = &stop};
    struct ps_session *sessions[3] = {0};
    struct ps_engine *engine = NULL;
    struct ps_plan one, two;
    struct ps_error err = {0};

    (void)state;
    open_sessions(&options, &engine, sessions, 2);
    assert_int_equal(ps_session_open(&sessions[2], engine, &err), -EBUSY);
    struct ps_session_input inputs[2] = {{sessions[0], ids[0], 3}, {sessions[0], ids[1], 3}};
    assert_int_equal(ps_session_eval_batch(inputs, 2, &err), -PS_ERR_ARGUMENT);
    assert_int_equal(ps_session_eval_batch(inputs, 0, &err), -PS_ERR_ARGUMENT);
    inputs[1] = (struct ps_session_input){sessions[1], ids[1], 9};
    assert_int_equal(ps_session_eval_batch(inputs, 2, &err), -PS_ERR_CONTEXT_FULL);
    assert_int_equal(ps_session_position(sessions[0]), 0);
    inputs[1].id_count = 3;
    stop = 1;
    assert_int_equal(ps_session_eval_batch(inputs, 2, &err), -EINTR);
    stop = 0;
    assert_int_equal(ps_session_eval_batch(inputs, 2, &err), -EIO);
    ps_session_reset(sessions[0]);
    ps_session_reset(sessions[1]);
    check(ps_session_eval_batch(inputs, 2, &err), &err);
    close_sessions(&engine, sessions, 2);
    options = (struct ps_engine_options){.sessions = 257};
    assert_int_equal(ps_model_plan(model, &options, &two, &err), -PS_ERR_ARGUMENT);
    options.memory_bytes = PS_MEMORY_MIN;
    options.sessions = 1;
    check(ps_model_plan(model, &options, &one, &err), &err);
    options.sessions = 64;
    check(ps_model_plan(model, &options, &two, &err), &err);
    assert_true(two.floor_bytes > one.floor_bytes);
    assert_int_equal(two.chunk_tokens, 64);
}

int main(void)
{
    enum { SUBJECT_COUNT = sizeof(subjects) / sizeof(subjects[0]) };
    struct CMUnitTest tests[SUBJECT_COUNT + 2] = {
        cmocka_unit_test(test_reset_beside),
        cmocka_unit_test(test_arguments),
    };

    for (size_t i = 0; i < SUBJECT_COUNT; i++) {
        tests[i + 2] =
            (struct CMUnitTest)cmocka_unit_test_prestate(test_bits, (void *)&subjects[i]);
        tests[i + 2].name = subjects[i].name;
    }
    return cmocka_run_group_tests_name("batch", tests, set_up, tear_down) ? 1 : 0;
}
