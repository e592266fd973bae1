/* Rules of model, engine and session: limits, errors, reset, stopping, fewer experts. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model_fixture.h"

static struct fixture_volume volume;
static struct ps_model *model;
static struct ps_model_info info;

static int set_up(void **state)
{
    (void)state;
    fixture_layout(&volume, PS_TEST_DATA_DIR "/golden/qwen3moe", "keep", 8192, 1);
    model = fixture_open(&volume);
    ps_model_info(model, &info);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ps_model_close(&model);
    assert_null(model);
    fixture_remove(&volume);
    return 0;
}

static void open_both(struct ps_engine **engine, struct ps_session **session,
                      const struct ps_engine_options *options)
{
    struct ps_error err = {0};

    if (ps_engine_open(engine, model, options, &err) < 0 ||
        ps_session_open(session, *engine, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
}

static void test_info(void **state)
{
    (void)state;
    assert_string_equal(info.arch, "qwen3_moe");
    assert_int_equal(info.layer_count, 4);
    assert_int_equal(info.expert_count, 16);
    assert_int_equal(info.experts_used, 4);
    assert_int_equal(info.vocab_rows, 384);
    assert_true(info.token_bytes >= 4ull * 4 * 3 * 128 * 64 * 2);
    assert_false(info.has_tokenizer);
}

static void test_context_and_arguments(void **state)
{
    struct ps_engine_options options = {.ctx = 10};
    struct ps_engine *engine = NULL;
    struct ps_session *session = NULL;
    struct ps_error err = {0};
    int32_t ids[11] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, bad[2] = {3, 384}, negative[1] = {-1};

    (void)state;
    open_both(&engine, &session, &options);
    assert_null(ps_session_logits(session));
    assert_int_equal(ps_session_eval(session, ids, 11, NULL, NULL, &err), -PS_ERR_CONTEXT_FULL);
    assert_non_null(strstr(err.text, "context of 10"));
    assert_int_equal(ps_session_eval(session, bad, 2, NULL, NULL, &err), -PS_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "384"));
    assert_int_equal(ps_session_eval(session, negative, 1, NULL, NULL, &err), -PS_ERR_ARGUMENT);
    assert_int_equal(ps_session_eval(session, ids, 0, NULL, NULL, &err), -PS_ERR_ARGUMENT);
    assert_int_equal(ps_session_position(session), 0);
    assert_int_equal(ps_session_eval(session, ids, 10, NULL, NULL, &err), 0);
    assert_int_equal(ps_session_position(session), 10);
    assert_int_equal(ps_session_eval(session, ids, 1, NULL, NULL, &err), -PS_ERR_CONTEXT_FULL);
    ps_session_close(&session);
    ps_engine_close(&engine);
    assert_null(session);
    assert_null(engine);
}

static void test_one_of_each(void **state)
{
    struct ps_engine *engine = NULL, *second = NULL;
    struct ps_session *session = NULL, *other = NULL;
    struct ps_error err = {0};

    (void)state;
    open_both(&engine, &session, NULL);
    assert_int_equal(ps_engine_open(&second, model, NULL, &err), -EBUSY);
    assert_int_equal(ps_session_open(&other, engine, &err), -EBUSY);
    assert_null(second);
    assert_null(other);
    ps_session_close(&session);
    assert_int_equal(ps_session_open(&session, engine, &err), 0);
    ps_session_close(&session);
    ps_engine_close(&engine);
    ps_engine_close(&engine);
    ps_session_close(&session);
}

/* A reset session answers as a new one does. */
static void test_reset(void **state)
{
    struct ps_engine *engine = NULL;
    struct ps_session *session = NULL;
    struct ps_error err = {0};
    int32_t ids[5] = {9, 8, 7, 6, 5};
    size_t bytes = info.vocab_rows * sizeof(float);
    float *first = malloc(bytes);

    (void)state;
    assert_non_null(first);
    open_both(&engine, &session, NULL);
    assert_int_equal(ps_session_eval(session, ids, 5, NULL, NULL, &err), 0);
    memcpy(first, ps_session_logits(session), bytes);
    assert_int_equal(ps_session_eval(session, ids, 5, NULL, NULL, &err), 0);
    assert_memory_not_equal(first, ps_session_logits(session), bytes);
    ps_session_reset(session);
    assert_null(ps_session_logits(session));
    assert_int_equal(ps_session_eval(session, ids, 5, NULL, NULL, &err), 0);
    assert_memory_equal(first, ps_session_logits(session), bytes);
    ps_session_close(&session);
    ps_engine_close(&engine);
    free(first);
}

static void test_stop(void **state)
{
    volatile int stop = 0;
    struct ps_engine_options options = {.stop = &stop};
    struct ps_engine *engine = NULL;
    struct ps_session *session = NULL;
    struct ps_error err = {0};
    int32_t ids[3] = {1, 2, 3};

    (void)state;
    open_both(&engine, &session, &options);
    assert_int_equal(ps_session_eval(session, ids, 3, NULL, NULL, &err), 0);
    stop = 1;
    assert_int_equal(ps_session_eval(session, ids, 3, NULL, NULL, &err), -EINTR);
    stop = 0;
    assert_int_equal(ps_session_eval(session, ids, 3, NULL, NULL, &err), -EIO);
    ps_session_reset(session);
    assert_int_equal(ps_session_eval(session, ids, 3, NULL, NULL, &err), 0);
    ps_session_close(&session);
    ps_engine_close(&engine);
}

static void test_memory(void **state)
{
    struct ps_engine_options options = {.memory_bytes = 1u << 20};
    struct ps_engine *engine = NULL;
    struct ps_plan plan;
    struct ps_error err = {0};
    uint64_t sum = 0, floor = 0;

    (void)state;
    assert_int_equal(ps_model_plan(model, &options, &plan, &err), -PS_ERR_MEMORY_FLOOR);
    assert_non_null(strstr(err.text, "resident weights"));
    assert_int_equal(ps_engine_open(&engine, model, &options, &err), -PS_ERR_MEMORY_FLOOR);
    assert_null(engine);
    for (int i = 0; i < plan.line_count; i++) {
        sum += plan.lines[i].bytes;
        floor += plan.lines[i].floor_bytes;
    }
    assert_int_equal(sum, plan.total_bytes);
    assert_int_equal(floor, plan.floor_bytes);
    options.memory_bytes = PS_MEMORY_MIN;
    assert_int_equal(ps_model_plan(model, &options, &plan, &err), 0);
    assert_int_equal(plan.expert_slots, 4);
    options.memory_bytes = 1ull << 32;
    assert_int_equal(ps_model_plan(model, &options, &plan, &err), 0);
    assert_int_equal(plan.expert_slots, 4 * 16);
    assert_true(plan.total_bytes <= plan.budget_bytes);
    options = (struct ps_engine_options){.ctx = info.context_max + 1};
    assert_int_equal(ps_model_plan(model, &options, &plan, &err), -PS_ERR_ARGUMENT);
    options = (struct ps_engine_options){.threads = -1};
    assert_int_equal(ps_model_plan(model, &options, &plan, &err), -PS_ERR_ARGUMENT);
    options = (struct ps_engine_options){.io = "tape"};
    assert_int_equal(ps_engine_open(&engine, model, &options, &err), -PS_ERR_ARGUMENT);
}

static void count_routes(void *ctx, uint32_t layer, uint32_t position, uint32_t count,
                         const uint32_t *experts, const float *weights)
{
    float sum = 0;

    (void)layer;
    (void)position;
    (void)experts;
    for (uint32_t i = 0; i < count; i++)
        sum += weights[i];
    assert_true(sum > 0.999f && sum < 1.001f);
    *(uint32_t *)ctx = count;
}

static void test_fewer_experts(void **state)
{
    uint32_t count = 0;
    struct fixture_run run = {.on_route = count_routes, .on_route_ctx = &count};
    struct ps_engine_options too_many = {.experts_used = 5};
    struct ps_plan plan;
    struct ps_error err = {0};
    int32_t ids[4] = {1, 2, 3, 4};

    (void)state;
    float *whole = fixture_logits(model, &run, ids, 4, NULL);
    assert_int_equal(count, 4);
    run.options.experts_used = 2;
    float *fewer = fixture_logits(model, &run, ids, 4, NULL);
    assert_int_equal(count, 2);
    assert_memory_not_equal(whole, fewer, info.vocab_rows * sizeof(float));
    assert_int_equal(ps_model_plan(model, &too_many, &plan, &err), -PS_ERR_ARGUMENT);
    free(whole);
    free(fewer);
}

/* Within one prompt pass every expert is read at most once, also with the least memory. */
static void test_prompt_reads_once(void **state)
{
    struct fixture_run run = {.options = {.memory_bytes = PS_MEMORY_MIN, .chunk_tokens = 64}};
    struct ps_engine_stats stats;
    int32_t ids[64];

    (void)state;
    for (int i = 0; i < 64; i++)
        ids[i] = i * 5;
    free(fixture_logits(model, &run, ids, 64, &stats));
    assert_true(stats.store.misses <= 4 * 16);
    assert_true(stats.store.streamed_bytes <= info.streamed_bytes);
    assert_int_equal(stats.prefill_tokens, 64);
    assert_int_equal(stats.decode_tokens, 0);
}

/* Turns the first byte of an expert over, on the one member. */
static void turn_byte(uint32_t layer, uint32_t expert)
{
    struct ps_volume *v = ps_model_volume(model);
    int64_t object = ps_volume_find_streamed(v, layer, expert);
    struct ps_piece_info piece;
    uint8_t byte;

    assert_true(object >= 0);
    ps_volume_piece(v, (uint32_t)object, 0, 0, &piece);
    int fd = open(volume.members[0], O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)piece.offset_bytes), 1);
    byte ^= 0x55;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)piece.offset_bytes), 1);
    assert_int_equal(fsync(fd), 0);
    close(fd);
}

/*
 * A layer with a damaged expert fails, as often as it is tried, and gives its slots back each time:
 * with the least memory a single lease left behind would soon be one too few. When the expert is
 * whole again, so is the output.
 */
static void test_damage(void **state)
{
    const char *io = *state;
    struct ps_engine_options options = {.memory_bytes = PS_MEMORY_MIN, .io = io, .threads = 2};
    struct ps_engine *engine = NULL;
    struct ps_session *session = NULL;
    struct ps_error err = {0};
    size_t bytes = info.vocab_rows * sizeof(float);
    int32_t ids[24];

    for (int i = 0; i < 24; i++)
        ids[i] = i * 11;
    float *want = fixture_logits(model, &(struct fixture_run){0}, ids, 24, NULL);
    open_both(&engine, &session, &options);
    for (uint32_t expert = 0; expert < info.expert_count; expert += 3) {
        turn_byte(2, expert);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(ps_session_eval(session, ids, 24, NULL, NULL, &err), -PS_ERR_CHECKSUM);
            assert_null(ps_session_logits(session));
            assert_int_equal(ps_session_eval(session, ids, 24, NULL, NULL, &err), -EIO);
            ps_session_reset(session);
        }
        turn_byte(2, expert);
        assert_int_equal(ps_session_eval(session, ids, 24, NULL, NULL, &err), 0);
        assert_memory_equal(ps_session_logits(session), want + 23 * info.vocab_rows, bytes);
        ps_session_reset(session);
    }
    ps_session_close(&session);
    ps_engine_close(&engine);
    free(want);
}

int main(void)
{
    static char by_uring[] = "uring", by_threads[] = "pread";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_context_and_arguments),
        cmocka_unit_test(test_one_of_each),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_fewer_experts),
        cmocka_unit_test(test_prompt_reads_once),
        cmocka_unit_test_prestate(test_damage, by_uring),
        cmocka_unit_test_prestate(test_damage, by_threads),
    };
    return cmocka_run_group_tests_name("session", tests, set_up, tear_down) ? 1 : 0;
}
