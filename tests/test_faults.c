/*
 * Drives that fail while the demo model generates: every kind of fault at every read of three
 * tokens. The logits are the right ones, or the generation stops with one sentence, and the next
 * one is right.
 *
 * PS_FAULT_TOKENS=N makes it N tokens, with one kind of fault after the other counted and timed:
 * the long run of docs/performance.md.
 */
#include "core/log.h"
#include "core/util.h"
#include "model/engine.h"
#include "model_fixture.h"
#include "nvme/io.h"
#include "nvme/store_internal.h"
#include "util.h"

#define TOKENS_DEFAULT 3u
#define TOKENS_MAX 512u
#define TIMEOUT_MS                                                                                 \
    400u /* what a thread waits for its turn on a busy machine is no drive that hangs */
#define NO_FAULT "slow=1@1000000000000"

static struct fixture_volume single, twin; /* one copy on two members, two copies on three */
static uint32_t token_count = TOKENS_DEFAULT;
static int32_t ids[TOKENS_MAX];
static float *expected; /* [token_count, V] */

struct bed {
    struct ps_model *model;
    struct ps_engine *engine;
    struct ps_session *session;
    struct ps_model_info info;
};

/* With as little memory as can be, so that nearly every expert is read; a little more with two
 * copies, so that objects whose reads hang can move. */
static void bed_open(struct bed *bed, const struct fixture_volume *volume, const char *faults,
                     const char *inner)
{
    char io[96];
    struct ps_engine_options options = {
        .memory_bytes = PS_MEMORY_MIN, .ctx = TOKENS_MAX + 1, .io = io, .threads = 1};
    struct ps_error err = {0};
    struct ps_plan plan;

    snprintf(io, sizeof(io), "fault:%s:%s", faults, inner);
    bed->model = fixture_open(volume);
    ps_model_info(bed->model, &bed->info);
    assert_int_equal(ps_model_plan(bed->model, &options, &plan, NULL), 0);
    options.memory_bytes = plan.floor_bytes + (volume == &twin ? 2 << 20 : 0);
    if (ps_engine_open(&bed->engine, bed->model, &options, &err) < 0 ||
        ps_session_open(&bed->session, bed->engine, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
}

static void bed_close(struct bed *bed)
{
    ps_session_close(&bed->session);
    ps_engine_close(&bed->engine);
    ps_model_close(&bed->model);
}

/* Evaluates the tokens one by one. Every row that comes out is right. Returns 0 or the error. */
static int generate(struct bed *bed, struct ps_error *err)
{
    size_t row_bytes = bed->info.vocab_rows * sizeof(float);
    int rc = 0;

    ps_session_reset(bed->session);
    for (uint32_t i = 0; i < token_count && rc == 0; i++) {
        rc = ps_session_eval(bed->session, &ids[i], 1, NULL, NULL, err);
        if (rc == 0)
            assert_memory_equal(ps_session_logits(bed->session),
                                expected + (size_t)i * bed->info.vocab_rows, row_bytes);
    }
    return rc;
}

static void check_error(const struct fixture_volume *volume, const struct ps_error *err, int rc)
{
    assert_int_equal(err->code, rc);
    assert_true(err->text[0] != '\0' && strchr(err->text, '\n') == NULL);
    if (strstr(err->text, "the cache's memory waits"))
        return;
    assert_non_null(strstr(err->text, "layer "));
    assert_non_null(strstr(err->text, ", slice "));
    assert_non_null(strstr(err->text, volume->dir));
}

struct tally {
    uint32_t struck, errors;
};

enum outcome { RECOVERS, EITHER };

/* The fault at read n. Returns whether there was such a read. */
static bool strike_one(struct bed *bed, const struct fixture_volume *volume, const char *fault,
                       enum outcome outcome, struct tally *tally)
{
    struct ps_io *io = ps_store_io(bed->engine->store);
    struct ps_error err = {0};

    ps_io_faults_set(io, fault);
    int rc = generate(bed, &err);
    bool struck = ps_io_fault_count(io) > 0;
    if (rc < 0) {
        check_error(volume, &err, rc);
        if (outcome == RECOVERS || !struck)
            fail_msg("%s: %s: %s", fault, err.where, err.text);
    }
    tally->struck += struck;
    tally->errors += rc < 0;
    return struck;
}

/* A fault that is over when it has struck: one engine sees them all. */
static void strike_passing(const struct fixture_volume *volume, const char *kind)
{
    struct tally tally = {0};
    struct bed bed = {0};
    bool struck = true;

    bed_open(&bed, volume, NO_FAULT, "uring");
    for (uint32_t n = 1; struck; n++) {
        char fault[48];
        snprintf(fault, sizeof(fault), "%s@%u", kind, n);
        struck = strike_one(&bed, volume, fault, RECOVERS, &tally);
    }
    assert_true(tally.struck > 20 * token_count);
    printf("%s: %u faults, %u errors\n", kind, tally.struck, tally.errors);
    bed_close(&bed);
}

/*
 * One that stays. When the drive is well again the next generation is right. Every engine sees one
 * fault: with two copies a member that has failed is not asked for a while.
 */
static void strike_lasting(const struct fixture_volume *volume, const char *inner, const char *kind,
                           const char *end, uint32_t step, enum outcome outcome)
{
    struct tally tally = {0};
    bool struck = true, hangs = strncmp(kind, "hang", 4) == 0;

    for (uint32_t n = 1; struck; n += step) {
        struct bed bed = {0};
        char fault[48];
        struct ps_error err = {0};
        bed_open(&bed, volume, NO_FAULT, inner);
        if (hangs)
            ps_store_timeout_set(bed.engine->store, TIMEOUT_MS);
        snprintf(fault, sizeof(fault), "%s@%u%s", kind, n, end);
        struck = strike_one(&bed, volume, fault, outcome, &tally);
        ps_io_faults_set(ps_store_io(bed.engine->store), NO_FAULT);
        if (!hangs && generate(&bed, &err) != 0)
            fail_msg("after %s: %s: %s", fault, err.where, err.text);
        bed_close(&bed);
    }
    assert_true(tally.struck * step > 5 * token_count); /* of one member's reads, too */
    printf("%s%s: %u faults, %u errors\n", kind, end, tally.struck, tally.errors);
}

static void test_passing(void **state)
{
    static const char *const kinds[] = {"error", "short", "empty", "corrupt", "slow=1"};
    (void)state;
    for (size_t k = 0; k < PS_ARRAY_LEN(kinds); k++) {
        strike_passing(&single, kinds[k]);
        strike_passing(&twin, kinds[k]);
    }
}

static void test_lasting(void **state)
{
    (void)state;
    strike_lasting(&single, "uring", "gone", "", 1, EITHER);
    strike_lasting(&single, "uring", "corrupt", "+", 1, EITHER);
    strike_lasting(&twin, "uring", "gone", "", 1, RECOVERS);
    strike_lasting(&twin, "uring", "error", "+/1", 1, RECOVERS);
    strike_lasting(&twin, "uring", "corrupt", "+/2", 1, RECOVERS);
}

static void test_hanging_single(void **state)
{
    (void)state;
    strike_lasting(&single, "pread", "hang", "", 1, EITHER);
}

static void test_hanging_twin(void **state)
{
    (void)state;
    strike_lasting(&twin, "pread", "hang", "", 1, RECOVERS);
    /* Late, and with garbage, while other reads use the memory that is left. */
    strike_lasting(&twin, "pread", "hang=700", "", 5, RECOVERS);
}

/* A drive hangs while the weights that stay in memory are read: they are had from the others. */
static void test_hanging_load(void **state)
{
    struct bed bed = {0};
    struct ps_error err = {0};
    (void)state;

    bed_open(&bed, &twin, "hang@1/0", "pread");
    assert_int_equal(ps_io_fault_count(ps_store_io(bed.engine->store)), 1);
    if (generate(&bed, &err) != 0)
        fail_msg("%s: %s", err.where, err.text);
    bed_close(&bed);
}

/* The kinds are tests of their own, because most of their time is spent waiting. */
int main(int argc, char **argv)
{
    const struct CMUnitTest quick[] = {
        cmocka_unit_test(test_passing),
        cmocka_unit_test(test_lasting),
    };
    const struct CMUnitTest hanging_single[] = {cmocka_unit_test(test_hanging_single)};
    const struct CMUnitTest hanging_twin[] = {
        cmocka_unit_test(test_hanging_load),
        cmocka_unit_test(test_hanging_twin),
    };
    const char *demo = PS_SOURCE_DIR "/tools/demo/demo-q4_0.gguf",
               *tokens = getenv("PS_FAULT_TOKENS");
    struct fixture_run one_by_one = {.one_by_one = true, .options.threads = 1};

    ps_log_set(ps_test_log, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    /* In memory, where no read looks as if it hung because the disk is busy. */
    if (argc > 1 && access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 1);
    if (tokens)
        token_count = (uint32_t)ps_min_u64(ps_max_u64(strtoul(tokens, NULL, 10), 3), TOKENS_MAX);
    for (uint32_t i = 0; i < token_count; i++)
        ids[i] = (int32_t)((i * 2654435761u >> 7) % 4096);
    fixture_layout(&single, demo, NULL, 0, 2);
    fixture_layout_twice(&twin, demo, 3);
    struct ps_model *model = fixture_open(&single);
    expected = fixture_logits(model, &one_by_one, ids, token_count, NULL);
    ps_model_close(&model);
    const char *which = argc > 1 ? argv[1] : "";
    int rc = strcmp(which, "single") == 0 ? cmocka_run_group_tests(hanging_single, NULL, NULL)
             : strcmp(which, "twin") == 0 ? cmocka_run_group_tests(hanging_twin, NULL, NULL)
                                          : cmocka_run_group_tests(quick, NULL, NULL);
    free(expected);
    fixture_remove(&single);
    fixture_remove(&twin);
    return rc;
}
