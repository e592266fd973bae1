/* The steps of model/ahead.c on guesses that come from a trace; what becomes a read, and when, is
 * decided by the same code (model/prefetch.h, model/staging.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/replay_internal.h"

#define DEPTH_MAX PS_TRACE_DEPTH_COUNT_MAX

int ps_replay_ahead_open(struct ps_replay_ahead *a, const struct ps_replay *replay,
                         const struct ps_replay_options *options, struct ps_error *err)
{
    bool is_oracle = options->predictor == PS_REPLAY_ORACLE;
    uint32_t depth = options->depth || is_oracle ? options->depth : 1;
    const struct ps_trace_info *info = &replay->info;
    size_t experts = info->expert_count, most = depth * experts;

    *a = (struct ps_replay_ahead){.replay = replay, .options = options, .depth = depth};
    if (depth > DEPTH_MAX || (options->predictor == PS_REPLAY_TRACE && depth > 1))
        return ps_error_set(err, -PS_ERR_ARGUMENT, "depth",
                            options->predictor == PS_REPLAY_TRACE
                                ? "what a trace has guessed is read one layer ahead"
                                : "at most 8 layers ahead are guessed");
    if (is_oracle)
        most = ps_oracle_guess_count(info->layer_count, info->expert_count, info->experts_used);
    ps_prefetch_init(&a->prefetch);
    a->staging.expert_count = info->expert_count;
    a->staging.guess_capacity = (uint32_t)most;
    a->staging.guesses = calloc(most, sizeof(*a->staging.guesses));
    a->staging.staged = calloc(most, sizeof(*a->staging.staged));
    a->staging.staged_of = calloc(info->layer_count * experts, sizeof(*a->staging.staged_of));
    a->experts = calloc(experts, sizeof(*a->experts));
    a->is_missing = calloc(experts, sizeof(*a->is_missing));
    a->is_chosen = calloc(experts, sizeof(*a->is_chosen));
    a->was_staged = calloc(experts, sizeof(*a->was_staged));
    if (!a->staging.guesses || !a->staging.staged || !a->staging.staged_of || !a->experts ||
        !a->is_missing || !a->is_chosen || !a->was_staged)
        return ps_error_set(err, -ENOMEM, "replay", "out of memory");
    return 0;
}

void ps_replay_ahead_close(struct ps_replay_ahead *a)
{
    free(a->staging.guesses);
    free(a->staging.staged);
    free(a->staging.staged_of);
    free(a->experts);
    free(a->is_missing);
    free(a->is_chosen);
    free(a->was_staged);
}

uint32_t ps_replay_ahead_slots(const struct ps_replay *replay,
                               const struct ps_replay_options *options, uint32_t slot_count)
{
    uint32_t leased = replay->info.experts_used;

    if (options->predictor == PS_REPLAY_OFF || slot_count <= leased)
        return 0;
    return (slot_count - leased) / 2;
}

/* ---- guesses --------------------------------------------------------------------------------- */

/* Those of one layer of a token. */
static void guess_layer(struct ps_replay_ahead *a, uint64_t token, uint32_t layer, uint32_t depth)
{
    uint32_t count = ps_replay_guess(a->replay, a->options, token, layer, depth, a->experts);

    ps_store_missing(a->store, layer, a->experts, count, a->is_missing);
    for (uint32_t i = 0; i < count; i++)
        ps_staging_add(&a->staging,
                       &(struct ps_guess){.layer = layer,
                                          .expert = a->experts[i],
                                          .due = a->staging.step + depth,
                                          .chance = (float)ps_prefetch_chance(&a->prefetch, i),
                                          .bytes = (float)a->expert_bytes,
                                          .is_missing = a->is_missing[i]});
    /* Guesses one layer ahead are settled next, and learned from. */
    if (depth == 1)
        a->ranked_count = count;
}

static void guess(struct ps_replay_ahead *a, uint64_t token, uint32_t layer)
{
    struct ps_staging *s = &a->staging;
    struct ps_store_pace pace;

    for (uint32_t d = 1; d <= a->depth && layer + d < a->replay->info.layer_count; d++)
        guess_layer(a, token, layer + d, d);
    ps_store_pace(a->store, &pace);
    double gain_ns = ps_prefetch_choose(&pace, s->guesses, s->guess_count);
    ps_prefetch_note(&a->prefetch, gain_ns, (double)ps_max_u64(a->options->compute.predict_ns, 1));
}

/* Only an oracle knows what comes after this token. */
static void guess_by_oracle(struct ps_replay_ahead *a, uint64_t token, uint32_t layer)
{
    const struct ps_trace_info *info = &a->replay->info;
    struct ps_staging *s = &a->staging;
    uint64_t here = token * info->layer_count + layer;
    uint64_t steps = a->depth ? a->depth : (uint64_t)PS_ORACLE_TOKENS * info->layer_count;
    uint64_t end = info->token_count * info->layer_count;
    struct ps_store_pace pace;

    ps_store_pace(a->store, &pace);
    if (pace.idle_ns <= 0)
        return;
    a->asked = ps_max_u64(a->asked, s->step);
    while (a->asked < s->step + steps && here + a->asked + 1 - s->step < end &&
           s->guess_capacity - s->guess_count >= info->experts_used) {
        uint64_t at = here + ++a->asked - s->step;
        uint32_t then = (uint32_t)(at % info->layer_count);
        uint32_t count =
            ps_replay_guess(a->replay, a->options, at / info->layer_count, then, 0, a->experts);
        for (uint32_t i = 0; i < count; i++)
            ps_staging_add(s, &(struct ps_guess){.layer = then,
                                                 .expert = a->experts[i],
                                                 .due = a->asked,
                                                 .chance = 1,
                                                 .is_wanted = true});
    }
}

bool ps_replay_ahead_guess(struct ps_replay_ahead *a, uint64_t token, uint32_t layer)
{
    a->ranked_count = 0;
    if (a->options->predictor == PS_REPLAY_OFF || a->staging.capacity == 0)
        return false;
    if (a->options->predictor == PS_REPLAY_ORACLE) {
        guess_by_oracle(a, token, layer);
        return false;
    }
    ps_staging_clear(&a->staging);
    if (layer + 1 == a->replay->info.layer_count || !ps_prefetch_wants(&a->prefetch))
        return false;
    guess(a, token, layer);
    return true;
}

void ps_replay_ahead_settle(struct ps_replay_ahead *a, uint32_t layer, const uint32_t *experts,
                            uint32_t count)
{
    const struct ps_guess *guesses = a->staging.guesses;

    memset(a->is_chosen, 0, a->replay->info.expert_count * sizeof(*a->is_chosen));
    memset(a->was_staged, 0, a->replay->info.expert_count * sizeof(*a->was_staged));
    for (uint32_t i = 0; i < count; i++)
        a->is_chosen[experts[i]] = true;
    for (uint32_t i = 0; i < a->ranked_count; i++) {
        if (guesses[i].layer == layer && guesses[i].is_missing)
            ps_prefetch_learn(&a->prefetch, i, a->is_chosen[guesses[i].expert]);
    }
    ps_staging_settle(&a->staging, a->store, layer, a->is_chosen, a->was_staged);
    a->ranked_count = 0;
    ps_store_touch(a->store, layer, experts, count);
}
