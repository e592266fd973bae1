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
    uint32_t idx = 0;

    while (idx < engine->options.sessions && engine->sessions[idx])
        idx++;
    if (idx == engine->options.sessions)
        return ps_error_set(err, -EBUSY, NULL,
                            "the engine has %" PRIu32 " sequence state%s, and none is free; close "
                            "a session, or open the engine with more",
                            idx, idx == 1 ? "" : "s");
    struct ps_session *session = calloc(1, sizeof(*session));
    if (!session)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening a session");
    session->engine = engine;
    session->idx = idx;
    session->state = (uint8_t *)engine->state_region.base + idx * engine->state.bytes;
    session->ids = (int32_t *)(void *)(session->state + engine->state.kv_bytes +
                                       engine->state.recurrent_bytes);
    engine->sessions[idx] = session;
    ps_session_reset(session);
    *out = session;
    return 0;
}

void ps_session_close(struct ps_session **session)
{
    if (!session || !*session)
        return;
    (*session)->engine->sessions[(*session)->idx] = NULL;
    free(*session);
    *session = NULL;
}

/* Rows of the KV cache beyond the position are never read, so only the recurrent state is cleared.
 */
void ps_session_reset(struct ps_session *session)
{
    const struct ps_state_shape *state = &session->engine->state;

    memset(session->state + state->kv_bytes, 0, state->recurrent_bytes);
    ps_ahead_reset(session->engine);
    session->position = 0;
    session->has_pending = false;
    session->broken = false;
    session->logits = NULL;
}

uint32_t ps_session_position(const struct ps_session *session)
{
    return session->position;
}

const int32_t *ps_session_tokens(const struct ps_session *session, size_t *count)
{
    *count = session->position + (session->has_pending ? 1u : 0u);
    return session->ids;
}

const float *ps_session_logits(const struct ps_session *session)
{
    return session->logits_eval == session->engine->eval_count ? session->logits : NULL;
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
    if (id_count > engine->options.ctx - session->position &&
        engine->options.ctx == engine->config->context_max)
        return ps_error_set(err, -PS_ERR_CONTEXT_FULL, "--ctx",
                            "%zu tokens after %" PRIu32 " are more than the %" PRIu32
                            " that this model was made for",
                            id_count, session->position, engine->options.ctx);
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

/* The state is that of no sequence any more, nor are there logits. */
static void break_sessions(const struct ps_session_input *inputs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        inputs[i].session->broken = true;
        inputs[i].session->logits = NULL;
    }
}

static void keep_logits(struct ps_session *session, uint32_t row)
{
    struct ps_engine *engine = session->engine;

    session->logits = engine->work.logits + (uint64_t)row * engine->config->vocab_rows;
    session->logits_eval = engine->eval_count;
}

/* The session's next token but `ahead` is token i of the chunk. */
static void place_token(struct ps_session *session, uint32_t ahead, int32_t id, uint32_t i)
{
    uint32_t position = session->position + ahead;

    session->engine->work.tokens[i] = (struct ps_sequence_token){session, position};
    session->ids[position] = id;
    session->has_pending = false;
}

/* One chunk of one session. */
static int run_chunk(struct ps_session *session, const int32_t *ids, uint32_t n,
                     struct ps_error *err)
{
    struct ps_engine *engine = session->engine;

    for (uint32_t i = 0; i < n; i++)
        place_token(session, i, ids[i], i);
    return ps_forward_chunk(engine, ids, n, err);
}

static void give_logits(struct ps_session *session, uint32_t n, ps_logits_fn *on_logits, void *ctx)
{
    struct ps_engine *engine = session->engine;
    size_t row = engine->config->vocab_rows;

    for (uint32_t first = 0; first < n; first += PS_LOGITS_ROWS) {
        uint32_t rows = n - first < PS_LOGITS_ROWS ? n - first : PS_LOGITS_ROWS;
        ps_forward_logits(engine, first, rows, 0);
        for (uint32_t i = 0; i < rows; i++)
            on_logits(ctx, session->position + first + i, engine->work.logits + i * row);
    }
    keep_logits(session, (n - 1) % PS_LOGITS_ROWS);
}

static void count_tokens(struct ps_engine *engine, bool decode, uint64_t tokens, uint64_t ns)
{
    if (decode) {
        engine->decode_tokens += tokens;
        engine->decode_ns += ns;
    } else {
        engine->prefill_tokens += tokens;
        engine->prefill_ns += ns;
    }
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
    engine->eval_count++;
    ps_usage_take(engine, &before);
    while (done < id_count) {
        uint32_t n = (uint32_t)ps_min_u64(id_count - done, engine->work.chunk);
        rc = run_chunk(session, ids + done, n, err);
        if (rc < 0) {
            break_sessions(&(struct ps_session_input){.session = session}, 1);
            return rc;
        }
        done += n;
        if (on_logits) {
            give_logits(session, n, on_logits, ctx);
        } else if (done == id_count) {
            ps_forward_logits(engine, n - 1, 1, 0);
            keep_logits(session, 0);
        }
        session->position += n;
    }
    ps_usage_add(engine, &before, decode ? &engine->decode_usage : &engine->prefill_usage);
    count_tokens(engine, decode, id_count, ps_now_ns() - start);
    if (decode)
        ps_prefetch_time(&engine->ahead.prefetch, 1, (double)(ps_now_ns() - start));
    return 0;
}

/* ---- several sessions together ----------------------------------------------------------------
 */

static int check_batch(const struct ps_session_input *inputs, size_t count, struct ps_error *err)
{
    if (count == 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "there are no sessions to evaluate");
    for (size_t i = 0; i < count; i++) {
        int rc = check_eval(inputs[i].session, inputs[i].ids, inputs[i].id_count, err);
        if (rc < 0)
            return rc;
        for (size_t j = 0; j < i; j++)
            if (inputs[j].session == inputs[i].session)
                return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                                    "a session stands twice in one batch");
        if (inputs[i].session->engine != inputs[0].session->engine)
            return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                                "the sessions of a batch belong to different engines");
    }
    return 0;
}

/* How far a batch is evaluated. */
struct batch_walk {
    const struct ps_session_input *inputs;
    size_t count;
    size_t input, offset; /* the next token */
};

/* Fills a chunk with the next tokens and moves their sessions' positions. Returns how many. */
static uint32_t fill_chunk(struct ps_engine *engine, struct batch_walk *walk, int32_t *ids)
{
    uint32_t n = 0;

    while (n < engine->work.chunk && walk->input < walk->count) {
        const struct ps_session_input *in = &walk->inputs[walk->input];
        ids[n] = in->ids[walk->offset++];
        place_token(in->session, 0, ids[n], n);
        in->session->position++;
        n++;
        if (walk->offset == in->id_count) {
            walk->input++;
            walk->offset = 0;
        }
    }
    return n;
}

/*
 * The head of the inputs from `row` on whose last token is in the chunk. Their rows of the residual
 * stream move to its front, where they are no longer needed for anything else, so that the head's
 * weights are read once for all of them.
 */
static void batch_logits(struct ps_engine *engine, const struct batch_walk *walk, uint32_t row,
                         uint32_t n)
{
    size_t hidden = engine->config->hidden;
    uint32_t found = 0;

    for (uint32_t t = 0; t < n; t++) {
        struct ps_session *session = engine->work.tokens[t].session;
        if (row + found == walk->input || session != walk->inputs[row + found].session ||
            engine->work.tokens[t].position + 1 != session->position)
            continue;
        memmove(engine->work.x + found * hidden, engine->work.x + t * hidden,
                hidden * sizeof(float));
        keep_logits(session, row + found);
        found++;
    }
    if (found > 0)
        ps_forward_logits(engine, 0, found, row);
}

int ps_session_eval_batch(const struct ps_session_input *inputs, size_t count, struct ps_error *err)
{
    struct batch_walk walk = {.inputs = inputs, .count = count};
    uint64_t start = ps_now_ns(), tokens = 0;
    bool decode = true;
    int32_t ids[PS_CHUNK_TOKENS_MAX];
    struct ps_usage before;

    int rc = check_batch(inputs, count, err);
    if (rc < 0)
        return rc;
    struct ps_engine *engine = inputs[0].session->engine;
    for (size_t i = 0; i < count; i++)
        decode &= inputs[i].id_count == 1 && inputs[i].session->position > 0;
    engine->eval_count++;
    ps_usage_take(engine, &before);
    while (walk.input < count) {
        uint32_t row = (uint32_t)walk.input, n = fill_chunk(engine, &walk, ids);
        rc = ps_forward_chunk(engine, ids, n, err);
        if (rc < 0) {
            break_sessions(inputs, count);
            return rc;
        }
        batch_logits(engine, &walk, row, n);
        tokens += n;
    }
    ps_usage_add(engine, &before, decode ? &engine->decode_usage : &engine->prefill_usage);
    count_tokens(engine, decode, tokens, ps_now_ns() - start);
    if (decode)
        ps_prefetch_time(&engine->ahead.prefetch, (uint32_t)count, (double)(ps_now_ns() - start));
    return 0;
}
