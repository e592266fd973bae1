/* Generation: evaluate the prompt, then sample, hand over, evaluate, until something ends it. */
#include <errno.h>
#include <string.h>

#include "model/generate.h"

#define TOKEN_TEXT_BYTES_MAX 4096

/* Hands a token and the characters that it completed to the caller; 1 if that wants no more. */
static int give_token(struct ps_sequence *sequence, struct ps_error *err)
{
    const struct ps_model *model = sequence->session->engine->model;
    char raw[TOKEN_TEXT_BYTES_MAX], text[PS_UTF8_JOIN_BYTES(TOKEN_TEXT_BYTES_MAX)];
    size_t bytes = 0;

    if (model->tokenizer) {
        int64_t n =
            ps_tokenizer_decode(model->tokenizer, &sequence->id, 1, true, raw, sizeof(raw), err);
        /* Rows of the head beyond the tokenizer's vocabulary are padding; they have no text. */
        if (n < 0 && n != -PS_ERR_ARGUMENT)
            return (int)n;
        if (n > 0)
            bytes =
                ps_utf8_join(&sequence->joiner, (const uint8_t *)raw,
                             (size_t)n < sizeof(raw) ? (size_t)n : sizeof(raw), text, sizeof(text));
    }
    if (!sequence->on_token)
        return 0;
    return sequence->on_token(sequence->ctx, sequence->id, text, bytes) ? 1 : 0;
}

void ps_sequence_begin(struct ps_sequence *sequence, const int32_t *prompt, size_t prompt_count)
{
    for (size_t i = 0; i < prompt_count; i++)
        ps_sampler_accept(sequence->sampler, prompt[i]);
}

void ps_sequence_choose(struct ps_sequence *sequence)
{
    if (sequence->token_count < sequence->max_tokens)
        sequence->id = ps_sampler_next(sequence->sampler, ps_session_logits(sequence->session));
}

int ps_sequence_take(struct ps_sequence *sequence, struct ps_error *err)
{
    const struct ps_engine *engine = sequence->session->engine;

    if (sequence->token_count == sequence->max_tokens)
        return PS_STOP_LENGTH;
    if (ps_model_is_end(engine->model, sequence->id))
        return PS_STOP_END;
    ps_sampler_accept(sequence->sampler, sequence->id);
    sequence->session->ids[ps_session_position(sequence->session)] = sequence->id;
    sequence->session->has_pending = true;
    int rc = give_token(sequence, err);
    if (rc < 0)
        return rc;
    sequence->token_count++;
    if (rc > 0)
        return PS_STOP_CALLER;
    if (sequence->token_count == sequence->max_tokens)
        return PS_STOP_LENGTH;
    return ps_session_position(sequence->session) < engine->options.ctx ? PS_SEQUENCE_ON
                                                                        : PS_STOP_CONTEXT;
}

/* Chooses the next token, and notes how long that took. */
static void choose(struct ps_sequence *sequence)
{
    struct ps_engine *engine = sequence->session->engine;
    uint64_t begin_ns = ps_now_ns();

    ps_sequence_choose(sequence);
    engine->sample_ns += ps_now_ns() - begin_ns;
    ps_usage_record(engine, PS_EVENT_SAMPLE, begin_ns, (uint32_t)sequence->id, 0);
}

/* The token that an earlier call handed over last, which was not evaluated then, and the prompt. */
static int eval_prompt(struct ps_session *session, const int32_t *prompt, size_t prompt_count,
                       struct ps_error *err)
{
    int rc = 0;

    if (session->has_pending) {
        int32_t id = session->ids[session->position];
        rc = ps_session_eval(session, &id, 1, NULL, NULL, err);
    }
    if (rc >= 0 && (prompt_count > 0 || !ps_session_logits(session)))
        rc = ps_session_eval(session, prompt, prompt_count, NULL, NULL, err);
    return rc;
}

int ps_session_generate(struct ps_session *session, const int32_t *prompt, size_t prompt_count,
                        uint32_t max_tokens, struct ps_sampler *sampler, ps_token_fn *on_token,
                        void *ctx, struct ps_error *err)
{
    struct ps_sequence sequence = {.session = session,
                                   .sampler = sampler,
                                   .max_tokens = max_tokens,
                                   .on_token = on_token,
                                   .ctx = ctx};

    ps_sequence_begin(&sequence, prompt, prompt_count);
    int rc = eval_prompt(session, prompt, prompt_count, err);
    while (rc >= 0) {
        choose(&sequence);
        uint64_t begin_ns = ps_usage_begin(session->engine);
        rc = ps_sequence_take(&sequence, err);
        ps_usage_record(session->engine, PS_EVENT_TEXT, begin_ns, (uint32_t)sequence.id, 0);
        if (rc != PS_SEQUENCE_ON)
            break;
        rc = ps_session_eval(session, &sequence.id, 1, NULL, NULL, err);
    }
    return rc;
}
