#include "model/ahead.h"

#include <errno.h>
#include <string.h>

#include "core/util.h"
#include "model/predictor.h"

int ps_predictor_from_name(const char *name)
{
    static const char *const names[] = {"off", "gate", "learned", "oracle"};

    for (size_t i = 0; i < PS_ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) == 0)
            return (int)i;
    }
    return -1;
}

uint32_t ps_ahead_slots(const struct ps_model *model, const struct ps_engine_options *options,
                        uint32_t slot_count)
{
    uint32_t leased = options->experts_used * ps_volume_copy_count(model->volume);

    return slot_count > leased ? (slot_count - leased) / 2 : 0;
}

/* ---- guesses --------------------------------------------------------------------------------- */

/* For the next MoE layer. */
static void add_guess(struct ps_engine *engine, uint32_t layer, uint32_t expert, double chance)
{
    struct ps_staging *s = &engine->work.staging;

    ps_staging_add(
        s, &(struct ps_guess){
               .layer = layer, .expert = expert, .due = s->step + 1, .chance = (float)chance});
}

/* The first MoE layer after `layer`; layer_count: there is none. */
static uint32_t next_moe(const struct ps_config *c, uint32_t layer)
{
    do
        layer++;
    while (layer < c->layer_count && c->layers[layer].ffn != PS_FFN_MOE);
    return layer;
}

/* Fills in of the guesses, all of one layer, whether they would have to be read, and how much that
 * is. */
static void find_missing(struct ps_engine *engine)
{
    struct ps_work *w = &engine->work;
    uint32_t count = engine->work.staging.guess_count;
    struct ps_object_info info;

    if (count == 0)
        return;
    for (uint32_t i = 0; i < count; i++)
        w->guess_experts[i] = w->staging.guesses[i].expert;
    ps_store_missing(engine->store, w->staging.guesses[0].layer, w->guess_experts, count,
                     w->guess_missing);
    ps_volume_object(
        engine->model->volume,
        (uint32_t)ps_volume_find_streamed(engine->model->volume, w->staging.guesses[0].layer, 0),
        &info);
    for (uint32_t i = 0; i < count; i++) {
        w->staging.guesses[i].is_missing = w->guess_missing[i];
        w->staging.guesses[i].bytes = (float)info.bytes;
    }
}

/* The gate's first ranks for each token, by what they are worth together. */
static void guess_by_gate(struct ps_engine *engine, uint32_t from, uint32_t layer, uint32_t n)
{
    const struct ps_config *c = engine->config;
    struct ps_work *w = &engine->work;
    uint32_t ranks = (uint32_t)ps_min_u64(2ull * engine->options.experts_used, c->expert_count);

    ps_predict(engine, layer, layer - from, ps_predict_input(engine, 0, n), 0, n);
    memset(w->guess_need, 0, c->expert_count * sizeof(float));
    for (uint32_t t = 0; t < n; t++) {
        uint32_t *ranked = w->guess_ranks + (size_t)t * ranks;
        uint32_t found =
            ps_top_k(w->guess_p + (size_t)t * c->expert_count, c->expert_count, ranks, ranked);
        for (uint32_t r = 0; r < found; r++) {
            float *need = &w->guess_need[ranked[r]];
            double chance = ps_prefetch_chance(&engine->ahead.prefetch, r);
            *need = 1 - (1 - *need) * (float)(1 - chance);
        }
    }
    engine->ahead.ranked_tokens = n;
    engine->ahead.rank_count = ranks;
    const uint32_t *best = w->guess_ranks;
    uint32_t count = ranks;
    if (n > 1) {
        count =
            ps_top_k(w->guess_need, c->expert_count,
                     (uint32_t)ps_min_u64((uint64_t)ranks * n, c->expert_count), w->guess_experts);
        best = w->guess_experts;
    }
    for (uint32_t i = 0; i < count; i++)
        add_guess(engine, layer, best[i], (double)w->guess_need[best[i]]);
}

/* Many tokens may choose most experts of a layer between them, in the order of the drives: as many
 * as of the layer before. */
static void guess_all(struct ps_engine *engine, uint32_t layer)
{
    for (uint32_t e = 0; e < engine->config->expert_count; e++)
        add_guess(engine, layer, e, engine->ahead.chunk_chance);
}

/* ---- the oracle -------------------------------------------------------------------------------
 */

/* Marks in guess_need what the oracle says of a layer: for the tokens of the chunk, or for the one
 * so many tokens `ahead` of the last of each session. */
static void ask_oracle(struct ps_engine *engine, uint32_t layer, uint32_t ahead, uint32_t n)
{
    struct ps_work *w = &engine->work;

    memset(w->guess_need, 0, engine->config->expert_count * sizeof(float));
    for (uint32_t t = 0, run = 0; t < n; t += run) {
        const struct ps_session *session = w->tokens[t].session;
        for (run = 1; t + run < n && w->tokens[t + run].session == session; run++)
            ;
        for (uint32_t i = ahead > 0 ? t + run - 1 : t; session->oracle && i < t + run; i++) {
            uint32_t count = session->oracle(session->oracle_ctx, layer,
                                             w->tokens[i].position + ahead, w->guess_experts);
            for (uint32_t j = 0; j < ps_min_u64(count, engine->options.experts_used); j++)
                if (w->guess_experts[j] < engine->config->expert_count)
                    w->guess_need[w->guess_experts[j]] = 1;
        }
    }
}

/* What the oracle has been asked holds for layers of the same chunk, and for the one after it if
 * that is the next token of each session. Other sessions' guesses are dropped; the same one's stay,
 * as those of a prompt's last chunk are for its next token. */
static void follow_chunk(struct ps_engine *engine, uint32_t n)
{
    const struct ps_sequence_token *tokens = engine->work.tokens;
    struct ps_staging *s = &engine->work.staging;
    struct ps_asked *asked = &engine->ahead.asked;
    struct ps_asked now = {.tokens = n, .first = tokens[0].position};

    for (uint32_t t = 0; t < n; t++) {
        if (t == 0 || tokens[t].session != tokens[t - 1].session) {
            now.who = now.who * 31 + (uintptr_t)tokens[t].session;
            now.sessions++;
        }
        if (now.sessions == 1)
            now.last = tokens[t].position;
    }
    bool is_same = now.first == asked->first && n == asked->tokens;
    bool is_next = now.first == asked->last + 1 && n == now.sessions;
    if (now.who != asked->who || now.sessions != asked->sessions)
        ps_staging_reset(s, engine->store);
    else if (!is_same && !is_next)
        ps_staging_clear(s);
    else
        now.due = asked->due;
    now.due = ps_max_u64(now.due, s->step);
    *asked = now;
}

/*
 * The layers after `layer`, and those of the tokens after these, each once. They are in the order
 * in which they are due, whatever is in memory: that is to stay there. Behind a prompt's chunk may
 * come another one: no more than its first token is looked at.
 */
static void guess_by_oracle(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    const struct ps_config *c = engine->config;
    struct ps_staging *s = &engine->work.staging;
    uint64_t most = ps_min_u64((uint64_t)n * engine->options.experts_used, c->expert_count);
    uint32_t ahead = 0;

    follow_chunk(engine, n);
    for (uint64_t due = s->step + 1; s->guess_capacity - s->guess_count >= most; due++) {
        layer = next_moe(c, layer);
        if (layer == c->layer_count) {
            layer = c->layers[0].ffn == PS_FFN_MOE ? 0 : next_moe(c, 0);
            ahead++;
        }
        if (ahead > (n == engine->ahead.asked.sessions ? PS_ORACLE_TOKENS : 1))
            return;
        if (due <= engine->ahead.asked.due)
            continue;
        engine->ahead.asked.due = due;
        ask_oracle(engine, layer, ahead, n);
        for (uint32_t e = 0; e < c->expert_count; e++)
            if (engine->work.guess_need[e] > 0)
                ps_staging_add(
                    s,
                    &(struct ps_guess){
                        .layer = layer, .expert = e, .due = due, .chance = 1, .is_wanted = true});
    }
}

static bool has_oracle(const struct ps_engine *engine, uint32_t n)
{
    for (uint32_t t = 0; t < n; t++)
        if (engine->work.tokens[t].session->oracle)
            return true;
    return false;
}

/* ---- both ------------------------------------------------------------------------------------ */

void ps_ahead_guess(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    struct ps_ahead *a = &engine->ahead;
    struct ps_staging *s = &engine->work.staging;
    uint32_t next = next_moe(engine->config, layer);
    uint64_t begin_ns = ps_now_ns();
    struct ps_store_pace pace;

    a->ranked_tokens = 0;
    if (a->predictor == PS_PREDICTOR_OFF || s->capacity == 0)
        return;
    /* Before the drives have been seen to pause there is nothing to be won, and nothing to learn.
     */
    ps_store_pace(engine->store, &pace);
    if (pace.idle_ns <= 0)
        return;
    if (a->predictor == PS_PREDICTOR_ORACLE && has_oracle(engine, n)) {
        guess_by_oracle(engine, layer, n);
        return;
    }
    if (a->asked.sessions > 0)
        ps_ahead_reset(engine); /* what an oracle has said of another session */
    else
        ps_staging_clear(s);
    if (next == engine->config->layer_count)
        return;
    if (n > PS_GUESS_TOKENS) {
        guess_all(engine, next);
        find_missing(engine);
        ps_prefetch_choose(&pace, s->guesses, s->guess_count);
        return;
    }
    if (!ps_prefetch_wants(&a->prefetch))
        return;
    guess_by_gate(engine, layer, next, n);
    find_missing(engine);
    double gain_ns = ps_prefetch_choose(&pace, s->guesses, s->guess_count);
    ps_prefetch_note(&a->prefetch, gain_ns, (double)(ps_now_ns() - begin_ns));
}

/* ---- what they were worth ---------------------------------------------------------------------
 */

static bool has_chosen(const struct ps_engine *engine, uint32_t token, uint32_t expert)
{
    uint32_t k = engine->options.experts_used;
    const uint32_t *route = engine->work.route + (size_t)token * k;

    for (uint32_t i = 0; i < k; i++)
        if (route[i] == expert)
            return true;
    return false;
}

/* How often each rank was right, of what was not in memory when it was guessed for the layer. */
static void learn(struct ps_engine *engine, uint32_t layer)
{
    struct ps_ahead *a = &engine->ahead;
    struct ps_work *w = &engine->work;

    if (a->ranked_tokens == 0)
        return;
    memset(w->guess_missing, 0, engine->config->expert_count * sizeof(*w->guess_missing));
    for (uint32_t i = 0; i < w->staging.guess_count; i++)
        if (w->staging.guesses[i].layer == layer)
            w->guess_missing[w->staging.guesses[i].expert] = w->staging.guesses[i].is_missing;
    for (uint32_t i = 0; i < a->ranked_tokens * a->rank_count; i++) {
        uint32_t expert = w->guess_ranks[i];
        if (w->guess_missing[expert])
            ps_prefetch_learn(&a->prefetch, i % a->rank_count,
                              has_chosen(engine, i / a->rank_count, expert));
    }
}

/* Which share of the experts that were not in memory before they were guessed a chunk of many
 * tokens has chosen. */
static void learn_chunk(struct ps_engine *engine, uint32_t layer)
{
    struct ps_ahead *a = &engine->ahead;
    struct ps_work *w = &engine->work;
    uint32_t count = engine->config->expert_count, missing = 0, chosen = 0;

    for (uint32_t e = 0; e < count; e++)
        w->guess_experts[e] = e;
    ps_store_missing(engine->store, layer, w->guess_experts, count, w->guess_missing);
    for (uint32_t i = 0; i < w->staging.staged_count; i++)
        if (w->staging.staged[i].layer == layer && w->staging.staged[i].was_read)
            w->guess_missing[w->staging.staged[i].expert] = true;
    for (uint32_t e = 0; e < count; e++) {
        missing += w->guess_missing[e];
        chosen += w->guess_missing[e] && w->guess_chosen[e];
    }
    a->chunk_chance = missing > 0 ? (double)chosen / missing : 0;
}

void ps_ahead_settle(struct ps_engine *engine, uint32_t layer, uint32_t job_count, uint32_t n)
{
    struct ps_ahead *a = &engine->ahead;
    struct ps_work *w = &engine->work;

    if (a->predictor != PS_PREDICTOR_OFF) {
        memset(w->guess_chosen, 0, engine->config->expert_count * sizeof(*w->guess_chosen));
        for (uint32_t j = 0; j < job_count; j++)
            w->guess_chosen[w->jobs[j].expert] = true;
        learn(engine, layer);
        if (n > PS_GUESS_TOKENS)
            learn_chunk(engine, layer);
        ps_staging_settle(&engine->work.staging, engine->store, layer, w->guess_chosen, NULL);
        a->ranked_tokens = 0;
    }
    for (uint32_t j = 0; j < job_count; j++)
        w->guess_experts[j] = w->jobs[j].expert;
    ps_store_touch(engine->store, layer, w->guess_experts, job_count);
}

void ps_ahead_reset(struct ps_engine *engine)
{
    ps_staging_reset(&engine->work.staging, engine->store);
    engine->ahead.asked = (struct ps_asked){.due = 0};
}
