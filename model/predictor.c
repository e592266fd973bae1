#include "model/predictor.h"

#include <string.h>

#include "core/util.h"
#include "model/predictor_learned.h"

static void run_gate(struct ps_engine *engine, uint32_t layer, const float *x, uint32_t n)
{
    const struct ps_config *c = engine->config;
    struct ps_linear router = {ps_layer_weight(engine, layer, PS_ROLE_ROUTER),
                               engine->work.guess_xn, c->hidden, engine->work.guess_p,
                               c->expert_count};

    for (uint32_t t = 0; t < n; t++)
        engine->k->rmsnorm(engine->work.guess_xn + (size_t)t * c->hidden, x + (size_t)t * c->hidden,
                           ps_weight_f32(ps_layer_weight(engine, layer, PS_ROLE_FFN_NORM)),
                           c->hidden, c->norm_eps);
    ps_linear_run(engine, &router, 1, n);
    for (uint32_t t = 0; t < n; t++)
        engine->k->softmax(engine->work.guess_p + (size_t)t * c->expert_count, c->expert_count);
}

/* What is learned of guesses in guess_p, [n], that are made in the layer whose router has just had
 * work.xn for its input. */
static void correct(struct ps_engine *engine, uint32_t layer, uint32_t depth, uint32_t first,
                    uint32_t n)
{
    size_t hidden = engine->config->hidden, experts = engine->config->expert_count;

    if (!engine->learned || !ps_learned_has(engine->learned, layer, depth))
        return;
    for (uint32_t t = 0; t < n; t++)
        ps_learned_apply(engine->learned, layer, depth, engine->work.xn + (first + t) * hidden,
                         engine->work.guess_p + t * experts);
}

const float *ps_predict_input(struct ps_engine *engine, uint32_t first, uint32_t n)
{
    size_t hidden = engine->config->hidden;
    struct ps_work *w = &engine->work;

    memcpy(w->guess_x, w->x + first * hidden, n * hidden * sizeof(float));
    for (uint32_t t = 0; t < n; t++)
        engine->k->add(w->guess_x + t * hidden, w->y + (first + t) * hidden, hidden);
    return w->guess_x;
}

void ps_predict(struct ps_engine *engine, uint32_t layer, uint32_t depth, const float *x,
                uint32_t first, uint32_t n)
{
    run_gate(engine, layer, x, n);
    correct(engine, layer, depth, first, n);
}

static bool any_listens(const struct ps_engine *engine, uint32_t first, uint32_t n)
{
    for (uint32_t t = first; t < first + n; t++)
        if (engine->work.tokens[t].session->on_guess)
            return true;
    return false;
}

/* Tells what the predictor says of `layer` for tokens first .. first + n - 1 of the chunk. */
static void report(struct ps_engine *engine, uint32_t layer, uint32_t depth, uint32_t first,
                   uint32_t n, const float *x)
{
    size_t experts = engine->config->expert_count;

    if (layer >= engine->config->layer_count || engine->config->layers[layer].ffn != PS_FFN_MOE)
        return;
    ps_predict(engine, layer, depth, x, first, n);
    for (uint32_t t = 0; t < n; t++) {
        const struct ps_sequence_token *token = &engine->work.tokens[first + t];
        const struct ps_session *session = token->session;
        if (session->on_guess)
            session->on_guess(session->on_guess_ctx, layer, depth, token->position,
                              engine->work.guess_p + t * experts);
    }
}

void ps_guesses_report(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    for (uint32_t first = 0; first < n; first += PS_GUESS_TOKENS) {
        uint32_t count = (uint32_t)ps_min_u64(PS_GUESS_TOKENS, n - first);
        if (!any_listens(engine, first, count))
            continue;
        const float *x = ps_predict_input(engine, first, count);
        for (uint32_t depth = 1; depth <= PS_GUESS_DEPTH; depth++)
            report(engine, layer + depth, depth, first, count, x);
    }
}

void ps_guess_same_report(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    for (uint32_t first = 0; first < n; first += PS_GUESS_TOKENS) {
        uint32_t count = (uint32_t)ps_min_u64(PS_GUESS_TOKENS, n - first);
        if (any_listens(engine, first, count))
            report(engine, layer, 0, first, count,
                   engine->work.x + (size_t)first * engine->config->hidden);
    }
}
