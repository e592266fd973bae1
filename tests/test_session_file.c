/*
 * Sessions in files: a restored one goes on with the bits of one that was never interrupted,
 * whatever the context, threads and memory; and every file that is not whole, or not for this
 * engine, is refused and leaves an empty session.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "model_fixture.h"
#include "oracle.h"
#include "util.h"

#define TOKEN_COUNT 640u
#define CONTEXT 1024u /* the models' */
#define HEADER_BYTES 80u

static char dir[256];
static struct fixture_volume volume;
static struct ps_model *model;
static struct ps_model_info info;
static int32_t ids[TOKEN_COUNT];

struct bytes {
    char *data;
    size_t count;
};

static void check(int rc, const struct ps_error *err)
{
    if (rc < 0)
        fail_msg("%s: %s (%d)", err->where, err->text, rc);
}

static void lay_out(struct fixture_volume *v, uint32_t experts, uint64_t slice_bytes, int members)
{
    struct tiny_model m = tiny_default(true);

    m.context = CONTEXT;
    m.head_dim = 32;
    m.experts = experts;
    fixture_layout(v, tiny_write_gguf(&m, dir), "keep", slice_bytes, members);
}

static int set_up(void **state)
{
    (void)state;
    ps_test_dir_make(dir, sizeof(dir));
    lay_out(&volume, 6, 1u << 20, 1);
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

static struct ps_session *open_session(struct ps_model *of, const struct ps_engine_options *options,
                                       struct ps_engine **engine)
{
    struct ps_session *session = NULL;
    struct ps_error err = {0};

    check(ps_engine_open(engine, of, options, &err), &err);
    check(ps_session_open(&session, *engine, &err), &err);
    return session;
}

static void close_session(struct ps_session **session, struct ps_engine **engine)
{
    ps_session_close(session);
    ps_engine_close(engine);
}

static struct bytes save(const struct ps_session *session)
{
    struct bytes b = {0};
    struct ps_error err = {0};
    FILE *file = open_memstream(&b.data, &b.count);

    assert_non_null(file);
    check(ps_session_save(session, file, &err), &err);
    assert_int_equal(fclose(file), 0);
    return b;
}

static int restore(struct ps_session *session, const char *data, size_t count, struct ps_error *err)
{
    FILE *file = count ? fmemopen((void *)data, count, "rb") : fopen("/dev/null", "rb");

    assert_non_null(file);
    int rc = ps_session_restore(session, file, err);
    fclose(file);
    return rc;
}

/* The first `count` tokens in a session of their own. */
static struct bytes save_after(const struct ps_engine_options *options, uint32_t count)
{
    struct ps_engine *engine = NULL;
    struct ps_session *session = open_session(model, options, &engine);
    struct ps_error err = {0};

    check(ps_session_eval(session, ids, count, NULL, NULL, &err), &err);
    struct bytes b = save(session);
    close_session(&session, &engine);
    return b;
}

struct sink {
    const float *want;
    uint32_t next;
};

static void compare(void *ctx, uint32_t position, const float *logits)
{
    struct sink *sink = ctx;

    assert_int_equal(position, sink->next);
    if (memcmp(logits, sink->want + (size_t)position * info.vocab_rows,
               info.vocab_rows * sizeof(float)) != 0)
        fail_msg("the logits of token %u differ", position);
    sink->next++;
}

struct subject {
    const char *name, *kv, *activations;
    uint32_t window;
};

static const struct subject subjects[] = {
    {"half floats, all tokens", "f16", "f32", 0},
    {"Q8_0, a window of 100, 8-bit activations", "q8_0", "q8", 100},
    {"floats, a window of 1", "f32", "f32", 1},
};

static void test_round_trip(void **state)
{
    const struct subject *s = *state;
    static const uint32_t cuts[] = {1, 4, 99, 104, 300, 513, 639};
    struct ps_engine_options options = {
        .kv = s->kv, .activations = s->activations, .kv_window = s->window, .ctx = CONTEXT};
    struct fixture_run run = {.options = options};
    float *want = fixture_logits(model, &run, ids, TOKEN_COUNT, NULL);

    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        struct ps_engine *engine = NULL;
        struct ps_error err = {0};
        struct sink sink = {want, cuts[i]};
        size_t count;
        /* A context of its own in each run: rings of other lengths, or none. */
        options.ctx = i % 2 ? CONTEXT : TOKEN_COUNT;
        struct bytes b = save_after(&options, cuts[i]);
        options.ctx = i % 2 ? TOKEN_COUNT + (uint32_t)i : CONTEXT;
        options.threads = 1 + (int)i % 3;
        options.memory_bytes = i % 2 ? PS_MEMORY_MIN : 0;
        struct ps_session *session = open_session(model, &options, &engine);
        check(ps_session_eval(session, ids + 7, 30, NULL, NULL, &err), &err);
        check(restore(session, b.data, b.count, &err), &err);
        assert_int_equal(ps_session_position(session), cuts[i]);
        assert_memory_equal(ps_session_tokens(session, &count), ids, cuts[i] * sizeof(ids[0]));
        assert_int_equal(count, cuts[i]);
        assert_non_null(ps_session_logits(session));
        assert_memory_equal(ps_session_logits(session),
                            want + (cuts[i] - 1) * (size_t)info.vocab_rows,
                            info.vocab_rows * sizeof(float));
        struct bytes again = save(session);
        assert_int_equal(again.count, b.count);
        assert_memory_equal(again.data, b.data, b.count);
        check(ps_session_eval(session, ids + cuts[i], TOKEN_COUNT - cuts[i], compare, &sink, &err),
              &err);
        assert_int_equal(sink.next, TOKEN_COUNT);
        close_session(&session, &engine);
        free(b.data);
        free(again.data);
    }
    free(want);
}

struct taken {
    int32_t ids[32];
    uint32_t count;
};

static int take(void *ctx, int32_t id, const char *text, size_t text_bytes)
{
    struct taken *taken = ctx;

    (void)text;
    (void)text_bytes;
    taken->ids[taken->count++] = id;
    return 0;
}

/* Generates on a session, with a sampler that knows its tokens; returns why it stopped. */
static int generate(struct ps_session *session, const int32_t *prompt, size_t prompt_count,
                    uint32_t most, struct taken *taken)
{
    struct ps_sampling sampling = {
        .temperature = 1, .top_p = 1, .repeat_penalty = 1.5f, .repeat_last_n = 64, .seed = 7};
    struct ps_sampler *sampler = NULL;
    struct ps_error err = {0};
    size_t count;
    const int32_t *tokens = ps_session_tokens(session, &count);

    check(ps_sampler_open(&sampler, model, &sampling, &err), &err);
    for (size_t i = 0; i < count; i++)
        ps_sampler_accept(sampler, tokens[i]);
    int rc = ps_session_generate(session, prompt, prompt_count, most, sampler, take, taken, &err);
    check(rc, &err);
    ps_sampler_close(&sampler);
    return rc;
}

/* 24 tokens at once, and in parts: two calls on one session, a file between them, and a context
 * that is full. Then a prompt behind tokens of which the last was not evaluated. */
static void test_generate(void **state)
{
    struct ps_engine_options options = {.ctx = 18};
    struct ps_engine *engine = NULL;
    struct ps_error err = {0};
    struct taken whole = {0}, parts = {0};

    (void)state;
    struct ps_session *session = open_session(model, NULL, &engine);
    assert_int_equal(generate(session, ids + 20, 5, 24, &whole), PS_STOP_LENGTH);
    assert_int_equal(ps_session_position(session), 5 + 23);
    generate(session, ids + 5, 3, 4, &whole);
    close_session(&session, &engine);

    session = open_session(model, &options, &engine);
    generate(session, ids + 20, 5, 7, &parts);
    struct bytes first = save(session);
    ps_session_reset(session);
    check(restore(session, first.data, first.count, &err), &err);
    assert_int_equal(generate(session, NULL, 0, 17, &parts), PS_STOP_CONTEXT);
    assert_int_equal(parts.count, 14);
    struct bytes second = save(session);
    close_session(&session, &engine);

    session = open_session(model, NULL, &engine);
    check(restore(session, second.data, second.count, &err), &err);
    generate(session, NULL, 0, 4, &parts);
    generate(session, NULL, 0, 6, &parts);
    generate(session, ids + 5, 3, 4, &parts);
    close_session(&session, &engine);
    assert_int_equal(parts.count, whole.count);
    assert_memory_equal(parts.ids, whole.ids, whole.count * sizeof(whole.ids[0]));
    free(first.data);
    free(second.data);
}

static void expect_empty(struct ps_session *session)
{
    struct ps_error err = {0};
    size_t count;

    assert_int_equal(ps_session_position(session), 0);
    ps_session_tokens(session, &count);
    assert_int_equal(count, 0);
    assert_null(ps_session_logits(session));
    check(ps_session_eval(session, ids, 1, NULL, NULL, &err), &err);
}

static void test_damage(void **state)
{
    struct ps_engine_options options = {.ctx = 64};
    struct ps_engine *engine = NULL;
    struct bytes b = save_after(&options, 20);
    struct ps_session *session = open_session(model, &options, &engine);
    struct ps_error err = {0};

    (void)state;
    for (size_t n = 0; n < b.count; n += n < 100 ? 1 : 997) {
        assert_int_equal(restore(session, b.data, n, &err),
                         n < 8 ? -PS_ERR_FORMAT : -PS_ERR_TRUNCATED);
        expect_empty(session);
    }
    assert_int_equal(restore(session, b.data, b.count - 1, &err), -PS_ERR_TRUNCATED);
    for (size_t at = 0; at < b.count; at += at < 200 ? 1 : 1499) {
        int want = at < 8 ? -PS_ERR_FORMAT : at < 12 ? -PS_ERR_UNSUPPORTED : -PS_ERR_CHECKSUM;
        b.data[at] ^= 0x10;
        assert_int_equal(restore(session, b.data, b.count, &err), want);
        b.data[at] ^= 0x10;
        expect_empty(session);
    }
    char *longer = calloc(1, b.count + 1);
    assert_non_null(longer);
    memcpy(longer, b.data, b.count);
    assert_int_equal(restore(session, longer, b.count + 1, &err), -PS_ERR_FORMAT);
    check(restore(session, b.data, b.count, &err), &err);
    free(longer);
    free(b.data);
    close_session(&session, &engine);
}

static void refuse(const struct ps_engine_options *options, struct bytes b, int code,
                   const char *where, const char *text)
{
    struct ps_engine *engine = NULL;
    struct ps_session *session = open_session(model, options, &engine);
    struct ps_error err = {0};

    assert_int_equal(restore(session, b.data, b.count, &err), code);
    assert_string_equal(err.where, where);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" is not in \"%s\"", text, err.text);
    expect_empty(session);
    close_session(&session, &engine);
}

static void test_options(void **state)
{
    struct ps_engine_options made = {.kv = "f16", .ctx = 64};
    struct bytes b = save_after(&made, 20);
    struct ps_engine_options o = made;

    (void)state;
    o.kv = "q8_0";
    refuse(&o, b, -PS_ERR_ARGUMENT, "--kv", "f16");
    o = made;
    o.kv_window = 30;
    refuse(&o, b, -PS_ERR_ARGUMENT, "--kv-window", "no window");
    struct bytes windowed = save_after(&o, 20);
    o.kv_window = 31;
    refuse(&o, windowed, -PS_ERR_ARGUMENT, "--kv-window", "30");
    refuse(&made, windowed, -PS_ERR_ARGUMENT, "--kv-window", "30");
    o = made;
    o.activations = "q8";
    refuse(&o, b, -PS_ERR_ARGUMENT, "--activations", "f32");
    o = made;
    o.experts_used = 1;
    refuse(&o, b, -PS_ERR_ARGUMENT, "--experts-used", "2");
    o = made;
    o.ctx = 19;
    refuse(&o, b, -PS_ERR_CONTEXT_FULL, "--ctx", "20");
    /* A type of a later version, under a header that is sound. */
    uint32_t kv_type = 1000;
    memcpy(b.data + 36, &kv_type, sizeof(kv_type));
    uint64_t checksum = XXH3_64bits(b.data, 72);
    memcpy(b.data + 72, &checksum, sizeof(checksum));
    refuse(&made, b, -PS_ERR_UNSUPPORTED, "--kv", "number 1000");
    free(windowed.data);
    free(b.data);
}

/* Another model is refused, and so are other slices; the same ones on other members are not. */
static void test_models(void **state)
{
    static const struct {
        uint32_t experts;
        uint64_t slice_bytes;
        int members, code;
    } others[] = {
        {6, 1u << 20, 2, 0}, {5, 1u << 20, 1, -PS_ERR_MEMBER}, {6, 4096, 1, -PS_ERR_MEMBER}};
    struct ps_engine_options options = {.ctx = 64};
    struct bytes b = save_after(&options, 20);

    (void)state;
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        struct fixture_volume v;
        struct ps_engine *engine = NULL;
        struct ps_error err = {0};
        lay_out(&v, others[i].experts, others[i].slice_bytes, others[i].members);
        struct ps_model *other = fixture_open(&v);
        struct ps_session *session = open_session(other, &options, &engine);
        assert_int_equal(restore(session, b.data, b.count, &err), others[i].code);
        close_session(&session, &engine);
        ps_model_close(&other);
        fixture_remove(&v);
    }
    free(b.data);
}

/* What cannot be written is said, and a session that broke half way is not saved. */
static void test_save_fails(void **state)
{
    volatile int stop = 0;
    struct ps_engine_options options = {.ctx = 64, .stop = &stop};
    struct ps_engine *engine = NULL;
    struct ps_session *session = open_session(model, &options, &engine);
    struct ps_error err = {0};
    char small[HEADER_BYTES];

    (void)state;
    check(ps_session_eval(session, ids, 5, NULL, NULL, &err), &err);
    FILE *file = fmemopen(small, sizeof(small), "wb");
    assert_non_null(file);
    setvbuf(file, NULL, _IONBF, 0);
    assert_true(ps_session_save(session, file, &err) < 0);
    assert_non_null(strstr(err.text, "cannot write"));
    stop = 1;
    assert_int_equal(ps_session_eval(session, ids, 5, NULL, NULL, &err), -EINTR);
    assert_int_equal(ps_session_save(session, file, &err), -EIO);
    fclose(file);
    close_session(&session, &engine);
}

int main(void)
{
    enum { SUBJECT_COUNT = sizeof(subjects) / sizeof(subjects[0]), OTHER_COUNT = 5 };
    struct CMUnitTest tests[SUBJECT_COUNT + OTHER_COUNT] = {
        cmocka_unit_test(test_generate),   cmocka_unit_test(test_damage),
        cmocka_unit_test(test_options),    cmocka_unit_test(test_models),
        cmocka_unit_test(test_save_fails),
    };

    for (size_t i = 0; i < SUBJECT_COUNT; i++) {
        tests[OTHER_COUNT + i] =
            (struct CMUnitTest)cmocka_unit_test_prestate(test_round_trip, (void *)&subjects[i]);
        tests[OTHER_COUNT + i].name = subjects[i].name;
    }
    return cmocka_run_group_tests_name("session_file", tests, set_up, tear_down) ? 1 : 0;
}
