/*
 * The bits of the logits are the same for every I/O engine, ceiling, thread count, number of
 * members, slice size, and cut of the prompt, decode included.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/util.h"
#include "model_fixture.h"

#define TOKEN_COUNT 70

struct subject {
    const char *name;
    const char *sources[2];
    const char *quant;
    const char *activations;
};

static const struct subject subjects[] = {
    {"qwen35moe-mtp BF16",
     {PS_TEST_DATA_DIR "/golden/qwen35moe-mtp/model-bf16.gguf",
      PS_GOLDEN_DIR "/qwen35moe-mtp-gguf/model-bf16.gguf"},
     "keep",
     "f32"},
    {"qwen3moe with Q8_0 experts",
     {PS_TEST_DATA_DIR "/golden/qwen3moe", PS_GOLDEN_DIR "/qwen3moe"},
     "experts=q8_0,rest=bf16",
     "f32"},
    {"demo model, Q4_0 and Q8_0",
     {PS_SOURCE_DIR "/tools/demo/demo-q4_0.gguf", PS_DEMO_DIR "/demo-q4_0.gguf"},
     "keep",
     "f32"},
    {"demo model, 8-bit activations",
     {PS_SOURCE_DIR "/tools/demo/demo-q4_0.gguf", PS_DEMO_DIR "/demo-q4_0.gguf"},
     "keep",
     "q8"},
    {"Q8_0 experts of width 96", {PS_GOLDEN_DIR "/gguf-q8_0-96/model.gguf", ""}, "keep", "f32"},
    {"Q8_0 experts of width 96, 8-bit activations",
     {PS_GOLDEN_DIR "/gguf-q8_0-96/model.gguf", ""},
     "keep",
     "q8"},
};

static int32_t ids[TOKEN_COUNT];
static size_t row_bytes;
static const char *activations;

static void expect(struct ps_model *model, const struct fixture_run *run, const float *want,
                   const char *what, struct ps_engine_stats *stats)
{
    struct fixture_run with = *run;

    with.options.activations = activations;
    float *got = fixture_logits(model, &with, ids, TOKEN_COUNT, stats);

    for (size_t t = 0; t < TOKEN_COUNT; t++)
        if (memcmp((const char *)got + t * row_bytes, (const char *)want + t * row_bytes,
                   row_bytes) != 0)
            fail_msg("%s: the logits of token %zu differ", what, t);
    free(got);
}

static void vary_guesses(struct ps_model *model, const float *want)
{
    static const struct {
        const char *predictor;
        bool has_room, one_by_one;
        uint32_t chunk;
    } ways[] = {{"oracle", true, true, 0},  {"gate", true, true, 0},    {"oracle", false, true, 0},
                {"gate", false, false, 0},  {"oracle", true, false, 0}, {"oracle", true, false, 16},
                {"oracle", true, false, 1}, {"gate", true, false, 16}};
    struct ps_engine_stats stats;
    uint32_t state = 1;
    struct ps_plan plan;
    struct ps_engine_options options = {.memory_bytes = PS_MEMORY_MIN};

    for (size_t i = 0; i < PS_ARRAY_LEN(ways); i++) {
        /* Anew each time: what the process itself holds grows under a sanitizer. */
        assert_int_equal(ps_model_plan(model, &options, &plan, NULL), 0);
        struct fixture_run run = {
            .options = {.memory_bytes =
                            ways[i].has_room ? plan.floor_bytes + (2u << 20) : PS_MEMORY_MIN,
                        .chunk_tokens = ways[i].chunk,
                        .predictor = ways[i].predictor},
            .one_by_one = ways[i].one_by_one,
            .oracle = fixture_guess_wildly,
            .oracle_ctx = &state,
        };
        expect(model, &run, want, "guesses", &stats);
        assert_true(stats.guesses_right <= stats.guesses_read);
        assert_true(i > 0 || stats.guesses_right > 0);
        assert_int_equal(stats.guesses_right > 0, stats.guesses_right_bytes > 0);
        assert_int_equal(stats.guesses_right<stats.guesses_read, stats.guesses_vain_bytes> 0);
    }
}

static void vary_run(struct ps_model *model, const float *want)
{
    static const char *const engines[] = {"uring", "pread", "pagecache", "mmap"};
    struct ps_engine_stats stats;
    struct ps_plan plan;
    struct ps_error err = {0};

    for (size_t i = 0; i < 4; i++)
        expect(model, &(struct fixture_run){.options = {.io = engines[i]}}, want, engines[i], NULL);
    for (int threads = 1; threads <= 3; threads++)
        expect(model, &(struct fixture_run){.options = {.threads = threads}}, want, "threads",
               NULL);
    for (size_t first = 1; first < TOKEN_COUNT; first += 23)
        expect(model, &(struct fixture_run){.first_call = first}, want, "first call", NULL);
    for (uint32_t chunk = 1; chunk <= 65; chunk += 16)
        expect(model, &(struct fixture_run){.options = {.chunk_tokens = chunk}}, want, "chunk",
               NULL);
    expect(model, &(struct fixture_run){.options = {.threads = 2}, .one_by_one = true}, want,
           "one by one", NULL);
    vary_guesses(model, want);
    struct fixture_run least = {.options = {.memory_bytes = PS_MEMORY_MIN}, .one_by_one = true};
    expect(model, &least, want, "least memory", &stats);
    assert_true(stats.store.evictions > 0);
    assert_true(stats.store.misses > 0);
    assert_int_equal(ps_model_plan(model, &least.options, &plan, &err), 0);
    for (int step = 1; step <= 3; step++) {
        struct fixture_run run = {
            .options = {.memory_bytes = plan.floor_bytes + (uint64_t)step * (2u << 20)}};
        expect(model, &run, want, "memory", NULL);
    }
}

static void check_subject(void **state)
{
    const struct subject *s = *state;
    const char *source = fixture_find(s->sources, 2);
    static const uint64_t slice_bytes[] = {1, 20000, 100000, 1u << 30};
    struct fixture_volume volume;
    struct ps_model_info info;

    if (!source) {
        printf("SKIP: %s: not in the tree and not in %s\n", s->name, PS_GOLDEN_DIR);
        return;
    }
    fixture_layout(&volume, source, s->quant, 0, 1);
    struct ps_model *model = fixture_open(&volume);
    ps_model_info(model, &info);
    row_bytes = info.vocab_rows * sizeof(float);
    for (size_t i = 0; i < TOKEN_COUNT; i++)
        ids[i] = (int32_t)((i * i * 7 + i * 31 + 5) % info.vocab_rows);
    activations = s->activations;
    struct fixture_run plain = {.options = {.activations = activations}};
    float *want = fixture_logits(model, &plain, ids, TOKEN_COUNT, NULL);
    vary_run(model, want);
    ps_model_close(&model);
    fixture_remove(&volume);

    uint32_t slices[4];
    for (size_t i = 0; i < 4; i++) {
        fixture_layout(&volume, source, s->quant, slice_bytes[i], i % 2 ? 3 : 1);
        model = fixture_open(&volume);
        ps_model_info(model, &info);
        slices[i] = info.slices_per_expert;
        struct fixture_run least = {.options = {.memory_bytes = PS_MEMORY_MIN}};
        expect(model, &least, want, "slices and members", NULL);
        ps_model_close(&model);
        fixture_remove(&volume);
    }
    printf("  %s: slices per expert %u, %u, %u, %u\n", s->name, slices[0], slices[1], slices[2],
           slices[3]);
    assert_true(slices[0] > 1);
    assert_int_equal(slices[3], 1);
    free(want);
}

int main(void)
{
    struct CMUnitTest tests[sizeof(subjects) / sizeof(subjects[0])];
    size_t count = sizeof(subjects) / sizeof(subjects[0]);

    for (size_t i = 0; i < count; i++) {
        tests[i] =
            (struct CMUnitTest)cmocka_unit_test_prestate(check_subject, (void *)&subjects[i]);
        tests[i].name = subjects[i].name;
    }
    return cmocka_run_group_tests_name("exact", tests, NULL, NULL) ? 1 : 0;
}
