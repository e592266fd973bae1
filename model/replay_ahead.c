/* The steps of model/ahead.c on guesses that come from a trace; what becomes a read is decided by
 * the same arithmetic (model/prefetch.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/replay_internal.h"

/* An oracle's reads of so many layers together are even where a layer's are not. */
#define ORACLE_LAYERS 3u
#define DEPTH_MAX PS_TRACE_DEPTH_COUNT_MAX

int ps_replay_ahead_open(struct ps_replay_ahead *a, const struct ps_replay *replay,
                         const struct ps_replay_options *options, struct ps_error *err)
{
    uint32_t depth = options->depth                           ? options->depth
                     : options->predictor == PS_REPLAY_ORACLE ? ORACLE_LAYERS
                                                              : 1;
    size_t experts = replay->info.expert_count;

    *a = (struct ps_replay_ahead){.replay = replay, .options = options, .depth = depth};
    if (depth > DEPTH_MAX || (options->predictor == PS_REPLAY_TRACE && depth > 1))
        return ps_error_set(err, -PS_ERR_ARGUMENT, "depth",
                            options->predictor == PS_REPLAY_TRACE
                                ? "what a trace has guessed is read one layer ahead"
                                : "at most 8 layers ahead are guessed");
    ps_prefetch_init(&a->prefetch);
    a->guess_capacity = (uint32_t)(depth * experts);
    a->guesses = calloc(a->guess_capacity, sizeof(*a->guesses));
    a->staged = calloc(a->guess_capacity, sizeof(*a->staged));
    a->experts = calloc(experts, sizeof(*a->experts));
    a->is_missing = calloc(experts, sizeof(*a->is_missing));
    a->is_chosen = calloc(experts, sizeof(*a->is_chosen));
    a->was_staged = calloc(experts, sizeof(*a->was_staged));
    if (!a->guesses || !a->staged || !a->experts || !a->is_missing || !a->is_chosen ||
        !a->was_staged)
        return ps_error_set(err, -ENOMEM, "replay", "out of memory");
    return 0;
}

void ps_replay_ahead_close(struct ps_replay_ahead *a)
{
    free(a->guesses);
    free(a->staged);
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
    bool is_sure = a->options->predictor == PS_REPLAY_ORACLE;

    count = (uint32_t)ps_min_u64(count, a->guess_capacity - a->guess_count);
    ps_store_missing(a->store, layer, a->experts, count, a->is_missing);
    for (uint32_t i = 0; i < count; i++)
        a->guesses[a->guess_count++] = (struct ps_guess){
            .layer = layer,
            .expert = a->experts[i],
            .chance = is_sure ? 1 : (float)ps_prefetch_chance(&a->prefetch, i),
            .bytes = (float)a->expert_bytes,
            .is_missing = a->is_missing[i],
        };
    /* Guesses one layer ahead are settled next, and learned from. */
    if (depth == 1)
        a->ranked_count = is_sure ? 0 : count;
}

bool ps_replay_ahead_guess(struct ps_replay_ahead *a, uint64_t token, uint32_t layer)
{
    const struct ps_trace_info *info = &a->replay->info;
    bool is_oracle = a->options->predictor == PS_REPLAY_ORACLE;
    struct ps_store_pace pace;

    a->guess_count = a->guess_next = a->ranked_count = 0;
    if (a->options->predictor == PS_REPLAY_OFF || a->capacity == 0)
        return false;
    /* Only an oracle knows what comes after this token. */
    if (!is_oracle && (layer + 1 == info->layer_count || !ps_prefetch_wants(&a->prefetch)))
        return false;
    for (uint32_t d = 1; d <= a->depth; d++) {
        uint64_t at = layer + d;
        uint64_t then = token + at / info->layer_count;
        if ((at >= info->layer_count && !is_oracle) || then >= info->token_count)
            break;
        guess_layer(a, then, (uint32_t)(at % info->layer_count), d);
    }
    ps_store_pace(a->store, &pace);
    double gain_ns = ps_prefetch_choose(&pace, a->guesses, a->guess_count);
    if (!is_oracle)
        ps_prefetch_note(&a->prefetch, gain_ns,
                         (double)ps_max_u64(a->options->compute.predict_ns, 1));
    return !is_oracle;
}

/* ---- reads ----------------------------------------------------------------------------------- */

void ps_replay_ahead_issue(struct ps_replay_ahead *a)
{
    for (; a->guess_next < a->guess_count; a->guess_next++) {
        const struct ps_guess *g = &a->guesses[a->guess_next];
        if (!g->is_wanted)
            continue;
        if (a->staged_count == ps_min_u64(a->capacity, a->guess_capacity))
            return;
        int rc = ps_store_prefetch(a->store, g->layer, g->expert, (double)g->chance, NULL);
        if (rc < 0)
            return;
        if (rc == 0)
            a->staged[a->staged_count++] = *g;
    }
}

void ps_replay_ahead_settle(struct ps_replay_ahead *a, uint32_t layer, const uint32_t *experts,
                            uint32_t count)
{
    uint32_t left = 0;

    memset(a->is_chosen, 0, a->replay->info.expert_count * sizeof(*a->is_chosen));
    memset(a->was_staged, 0, a->replay->info.expert_count * sizeof(*a->was_staged));
    for (uint32_t i = 0; i < count; i++)
        a->is_chosen[experts[i]] = true;
    for (uint32_t i = 0; i < a->ranked_count; i++) {
        if (a->guesses[i].layer == layer && a->guesses[i].is_missing)
            ps_prefetch_learn(&a->prefetch, i, a->is_chosen[a->guesses[i].expert]);
    }
    for (uint32_t i = 0; i < a->staged_count; i++) {
        const struct ps_guess s = a->staged[i];
        if (s.layer != layer)
            a->staged[left++] = s;
        else if (a->is_chosen[s.expert])
            a->was_staged[s.expert] = true;
        else
            ps_store_drop(a->store, s.layer, s.expert);
    }
    a->staged_count = left;
    a->guess_count = a->guess_next = a->ranked_count = 0;
    ps_store_touch(a->store, layer, experts, count);
}
