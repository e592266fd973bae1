#include "model_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void check(int rc, const struct ps_error *err)
{
    if (rc < 0)
        fail_msg("%s: %s (%d)", err->where, err->text, rc);
}

static void lay_out(struct fixture_volume *volume, struct ps_model_layout_options *options)
{
    const char *tmp = getenv("TMPDIR");
    const char *paths[FIXTURE_MEMBER_COUNT_MAX];
    struct ps_model_layout_report report;
    struct ps_error err = {0};

    memset(volume, 0, sizeof(*volume));
    snprintf(volume->dir, sizeof(volume->dir), "%s/penstock-test-XXXXXX", tmp ? tmp : "/var/tmp");
    assert_non_null(mkdtemp(volume->dir));
    volume->member_count = options->member_count;
    for (int i = 0; i < volume->member_count; i++) {
        snprintf(volume->members[i], sizeof(volume->members[i]), "%s/m%d.pst", volume->dir, i);
        paths[i] = volume->members[i];
    }
    options->members = paths;
    check(ps_model_layout(options, &report, &err), &err);
}

void fixture_layout(struct fixture_volume *volume, const char *source, const char *quant,
                    uint64_t slice_bytes, int member_count)
{
    struct ps_model_layout_options options = {
        .source = source, .member_count = member_count, .quant = quant, .slice_bytes = slice_bytes};
    lay_out(volume, &options);
}

void fixture_layout_twice(struct fixture_volume *volume, const char *source, int member_count)
{
    struct ps_model_layout_options options = {
        .source = source, .member_count = member_count, .copies = 2};
    lay_out(volume, &options);
}

void fixture_remove(struct fixture_volume *volume)
{
    for (int i = 0; i < volume->member_count; i++)
        unlink(volume->members[i]);
    rmdir(volume->dir);
}

struct ps_model *fixture_open(const struct fixture_volume *volume)
{
    const char *path = volume->members[volume->member_count - 1];
    struct ps_model *model = NULL;
    struct ps_error err = {0};

    check(ps_model_open(&model, &path, 1, &err), &err);
    return model;
}

struct sink {
    float *logits;
    size_t row, next;
};

static void take_logits(void *ctx, uint32_t position, const float *logits)
{
    struct sink *sink = ctx;

    assert_int_equal(position, sink->next);
    memcpy(sink->logits + sink->next * sink->row, logits, sink->row * sizeof(float));
    sink->next++;
}

uint32_t fixture_guess_wildly(void *ctx, uint32_t layer, uint32_t position, uint32_t *experts)
{
    uint32_t *state = ctx, count;

    *state = *state * 1664525u + 1013904223u + layer + position;
    count = *state >> 30;
    for (uint32_t i = 0; i < count; i++)
        experts[i] = i < 2 ? (*state >> (4 * i + 8)) % 4 : UINT32_MAX;
    return count;
}

float *fixture_logits(struct ps_model *model, const struct fixture_run *run, const int32_t *ids,
                      size_t count, struct ps_engine_stats *stats)
{
    struct ps_engine *engine = NULL;
    struct ps_session *session = NULL;
    struct ps_model_info info;
    struct ps_error err = {0};
    size_t done = 0;

    ps_model_info(model, &info);
    struct sink sink = {.logits = malloc(count * info.vocab_rows * sizeof(float)),
                        .row = info.vocab_rows};
    assert_non_null(sink.logits);
    check(ps_engine_open(&engine, model, &run->options, &err), &err);
    check(ps_session_open(&session, engine, &err), &err);
    ps_session_on_route(session, run->on_route, run->on_route_ctx);
    ps_session_oracle(session, run->oracle, run->oracle_ctx);
    while (done < count) {
        size_t n = run->one_by_one                ? 1
                   : done == 0 && run->first_call ? run->first_call
                                                  : count - done;
        check(ps_session_eval(session, ids + done, n, take_logits, &sink, &err), &err);
        done += n;
        /* The row that the session keeps is the one that was handed over last. */
        assert_memory_equal(ps_session_logits(session), sink.logits + (done - 1) * sink.row,
                            sink.row * sizeof(float));
    }
    assert_int_equal(sink.next, count);
    if (stats)
        ps_engine_stats(engine, stats);
    ps_session_close(&session);
    ps_engine_close(&engine);
    return sink.logits;
}

const char *fixture_find(const char *const *candidates, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (access(candidates[i], R_OK) == 0)
            return candidates[i];
    return NULL;
}
