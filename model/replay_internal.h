/* Between replay.c, replay_ahead.c, replay_guess.c and replay_trace.c. */
#ifndef PENSTOCK_MODEL_REPLAY_INTERNAL_H
#define PENSTOCK_MODEL_REPLAY_INTERNAL_H

#include "model/replay.h"
#include "model/staging.h"

/* A trace in memory. */
struct ps_replay {
    struct ps_trace_info info; /* layers and expert_bytes are those below */
    uint32_t *layers;          /* [L] */
    uint64_t *expert_bytes;    /* [L] */
    uint16_t *experts;         /* [T, L, K] ascending, PS_TRACE_NONE behind the last one */
    uint16_t *ranks;           /* [T, L, D, R] or NULL */
    uint64_t asked;            /* experts, over all */
};

/* The experts of a token in a layer, ascending; returns how many. */
uint32_t ps_replay_experts(const struct ps_replay *replay, uint64_t token, uint32_t layer,
                           const uint16_t **experts);

/*
 * What is guessed of `layer` so many layers before it, best first, into guess[E]; returns how many.
 * A pure function of its arguments, none of which is looked at for more than it says.
 */
uint32_t ps_replay_guess(const struct ps_replay *replay, const struct ps_replay_options *options,
                         uint64_t token, uint32_t layer, uint32_t depth, uint32_t *guess);

/* ---- reads ahead ----------------------------------------------------------------------------- */

struct ps_replay_ahead {
    const struct ps_replay *replay;
    const struct ps_replay_options *options;
    struct ps_store *store; /* set by the caller, */
    uint64_t expert_bytes;  /* and how large they are, and staging.capacity */
    uint32_t depth;         /* layers; 0: as many as an oracle is asked for */
    struct ps_prefetch prefetch;
    struct ps_staging staging;
    uint64_t asked; /* an oracle, of the layers until this step (model/staging.h) */
    uint32_t ranked_count;
    uint32_t *experts; /* [E] */
    bool *is_missing, *is_chosen;
    bool *was_staged; /* [E] of the layer that was settled: it was read, or begun, on a guess */
};

/* Errors: -PS_ERR_ARGUMENT (depth), -ENOMEM; to be closed in any case. */
int ps_replay_ahead_open(struct ps_replay_ahead *ahead, const struct ps_replay *replay,
                         const struct ps_replay_options *options, struct ps_error *err);
void ps_replay_ahead_close(struct ps_replay_ahead *ahead);

/* Guesses that a cache with so many slots may hold. */
uint32_t ps_replay_ahead_slots(const struct ps_replay *replay,
                               const struct ps_replay_options *options, uint32_t slot_count);

/* In the order of a layer, as in model/ahead.h: what it needs is known; its shared expert has been
 * computed (true: the predictor took its time); all it needs has been asked for. */
void ps_replay_ahead_settle(struct ps_replay_ahead *ahead, uint32_t layer, const uint32_t *experts,
                            uint32_t count);
bool ps_replay_ahead_guess(struct ps_replay_ahead *ahead, uint64_t token, uint32_t layer);

#endif
