/* Between replay.c, replay_guess.c and replay_trace.c. */
#ifndef PENSTOCK_MODEL_REPLAY_INTERNAL_H
#define PENSTOCK_MODEL_REPLAY_INTERNAL_H

#include "model/replay.h"

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

#endif
