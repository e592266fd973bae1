/* A session: one sequence of tokens and its state. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/ahead.h"
#include "model/engine.h"

int ps_session_open(struct ps_session **out, struct ps_engine *engine, struct ps_error *err)
{
    if (engine->session)
        return ps_error_set(err, -EBUSY, NULL,
                            "the engine's sequence state is held by another session; close that");
    struct ps_session *session = calloc(1, sizeof(*session));
    if (!session)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening a session");
    session->engine = engine;
    engine->session = session;
    ps_session_reset(session);
    *out = session;
    return 0;
}

void ps_session_close(struct ps_session **session)
{
    if (!session || !*session)
        return;
    (*session)->engine->session = NULL;
    free(*session);
    *session = NULL;
}

/* Rows of the KV cache beyond the position are never read, so only the recurrent state is cleared.
 */
void ps_session_reset(struct ps_session *session)
{
    struct ps_engine *engine = session->engine;

    memset((uint8_t *)engine->state_region.base + engine->state.kv_bytes, 0,
           engine->state.recurrent_bytes);
    ps_ahead_reset(engine);
    session->position = 0;
    session->broken = false;
    session->has_logits = false;
}

uint32_t ps_session_position(const struct ps_session *session)
{
    return session->position;
}

const float *ps_session_logits(const struct ps_session *session)
{
    return session->has_logits ? session->engine->work.logits : NULL;
}

void ps_session_on_route(struct ps_session *session, ps_route_fn *fn, void *ctx)
{
    session->on_route = fn;
    session->on_route_ctx = ctx;
}

void ps_session_on_guess(struct ps_session *session, ps_guess_fn *fn, void *ctx)
{
    session->on_guess = fn;
    session->on_guess_ctx = ctx;
}

void ps_session_oracle(struct ps_session *session, ps_oracle_fn *fn, void *ctx)
{
    session->oracle = fn;
    session->oracle_ctx = ctx;
}

void ps_session_on_router_input(struct ps_session *session, ps_router_input_fn *fn, void *ctx)
{
    session->on_router_input = fn;
    session->on_router_input_ctx = ctx;
}

static int check_eval(const struct ps_session *session, const int32_t *ids, size_t id_count,
                      struct ps_error *err)
{
    const struct ps_engine *engine = session->engine;

    if (session->broken)
        return ps_error_set(err, -EIO, NULL,
                            "an earlier evaluation failed half way; reset the session first");
    if (id_count == 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "there are no tokens to evaluate");
    if (id_count > engine->options.ctx - session->position)
        return ps_error_set(err, -PS_ERR_CONTEXT_FULL, "--ctx",
                            "%zu tokens after %" PRIu32 " do not fit into a context of %" PRIu32
                            "; give a larger --ctx",
                            id_count, session->position, engine->options.ctx);
    for (size_t i = 0; i < id_count; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= engine->config->vocab_rows)
            return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                                "token %" PRId32 " is outside the vocabulary (0 to %" PRIu32 ")",
                                ids[i], engine->config->vocab_rows - 1);
    return 0;
}

static void give_logits(struct ps_session *session, uint32_t n, ps_logits_fn *on_logits, void *ctx)
{
    struct ps_engine *engine = session->engine;
    size_t row = engine->config->vocab_rows;

    for (uint32_t first = 0; first < n; first += PS_LOGITS_ROWS) {
        uint32_t rows = n - first < PS_LOGITS_ROWS ? n - first : PS_LOGITS_ROWS;
        ps_forward_logits(engine, first, rows);
        for (uint32_t i = 0; i < rows; i++)
            on_logits(ctx, session->position + first + i, engine->work.logits + i * row);
    }
    /* ps_session_logits promises the last token's row at the front. */
    uint32_t last = (n - 1) % PS_LOGITS_ROWS;
    if (last)
        memmove(engine->work.logits, engine->work.logits + last * row, row * sizeof(float));
}

int ps_session_eval(struct ps_session *session, const int32_t *ids, size_t id_count,
                    ps_logits_fn *on_logits, void *ctx, struct ps_error *err)
{
    struct ps_engine *engine = session->engine;
    bool decode = id_count == 1 && session->position > 0;
    uint64_t start = ps_now_ns();
    struct ps_usage before;
    size_t done = 0;

    int rc = check_eval(session, ids, id_count, err);
    if (rc < 0)
        return rc;
    session->has_logits = false;
    ps_usage_take(engine, &before);
    while (done < id_count) {
        uint32_t n = (uint32_t)ps_min_u64(id_count - done, engine->work.chunk);
        rc = ps_forward_chunk(session, ids + done, n, err);
        if (rc < 0) {
            session->broken = true;
            return rc;
        }
        done += n;
        if (on_logits)
            give_logits(session, n, on_logits, ctx);
        else if (done == id_count)
            ps_forward_logits(engine, n - 1, 1);
        session->position += n;
    }
    session->has_logits = true;
    ps_usage_add(engine, &before, decode ? &engine->decode_usage : &engine->prefill_usage);
    if (decode) {
        engine->decode_tokens++;
        engine->decode_ns += ps_now_ns() - start;
    } else {
        engine->prefill_tokens += id_count;
        engine->prefill_ns += ps_now_ns() - start;
    }
    return 0;
}
