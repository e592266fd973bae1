/* Generation: evaluate the prompt, then sample, hand over, evaluate, until something ends it. */
#include <errno.h>
#include <string.h>

#include "model/engine.h"
#include "model/text.h"

#define TOKEN_TEXT_BYTES_MAX 4096

/* Chooses the next token. */
static int32_t choose(struct ps_session *session, struct ps_sampler *sampler)
{
    uint64_t begin_ns = ps_now_ns();
    int32_t id = ps_sampler_next(sampler, ps_session_logits(session));

    session->engine->sample_ns += ps_now_ns() - begin_ns;
    ps_usage_record(session->engine, PS_EVENT_SAMPLE, begin_ns, (uint32_t)id, 0);
    return id;
}

/* Hands a token and the characters that it completed to the caller; 1 if that wants no more. */
static int give_token(const struct ps_model *model, struct ps_utf8_joiner *joiner, int32_t id,
                      ps_token_fn *on_token, void *ctx, struct ps_error *err)
{
    char raw[TOKEN_TEXT_BYTES_MAX], text[PS_UTF8_JOIN_BYTES(TOKEN_TEXT_BYTES_MAX)];
    size_t bytes = 0;

    if (model->tokenizer) {
        int64_t n = ps_tokenizer_decode(model->tokenizer, &id, 1, true, raw, sizeof(raw), err);
        /* Rows of the head beyond the tokenizer's vocabulary are padding; they have no text. */
        if (n < 0 && n != -PS_ERR_ARGUMENT)
            return (int)n;
        if (n > 0)
            bytes =
                ps_utf8_join(joiner, (const uint8_t *)raw,
                             (size_t)n < sizeof(raw) ? (size_t)n : sizeof(raw), text, sizeof(text));
    }
    return on_token && on_token(ctx, id, text, bytes) ? 1 : 0;
}

int ps_session_generate(struct ps_session *session, const int32_t *prompt, size_t prompt_count,
                        uint32_t max_tokens, struct ps_sampler *sampler, ps_token_fn *on_token,
                        void *ctx, struct ps_error *err)
{
    const struct ps_model *model = session->engine->model;
    struct ps_utf8_joiner joiner = {0};
    int reason = PS_STOP_LENGTH;

    for (size_t i = 0; i < prompt_count; i++)
        ps_sampler_accept(sampler, prompt[i]);
    int rc = ps_session_eval(session, prompt, prompt_count, NULL, NULL, err);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < max_tokens; i++) {
        int32_t id = choose(session, sampler);
        if (ps_model_is_end(model, id)) {
            reason = PS_STOP_END;
            break;
        }
        ps_sampler_accept(sampler, id);
        uint64_t begin_ns = ps_usage_begin(session->engine);
        rc = give_token(model, &joiner, id, on_token, ctx, err);
        ps_usage_record(session->engine, PS_EVENT_TEXT, begin_ns, (uint32_t)id, 0);
        if (rc < 0)
            return rc;
        if (rc > 0) {
            reason = PS_STOP_CALLER;
            break;
        }
        if (i + 1 == max_tokens)
            break;
        if (ps_session_position(session) >= session->engine->options.ctx) {
            reason = PS_STOP_CONTEXT;
            break;
        }
        rc = ps_session_eval(session, &id, 1, NULL, NULL, err);
        if (rc < 0)
            return rc;
    }
    return reason;
}
