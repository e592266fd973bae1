/*
 * Reads ahead of the router: while a MoE layer is computed, experts that a later one is guessed to
 * choose are read with bandwidth that would be idle (model/prefetch.h). Nothing that is computed
 * depends on it.
 */
#ifndef PENSTOCK_MODEL_AHEAD_H
#define PENSTOCK_MODEL_AHEAD_H

#include "model/engine.h"

/* The kinds of options.predictor. */
enum ps_predictor {
    PS_PREDICTOR_OFF,
    PS_PREDICTOR_GATE,
    PS_PREDICTOR_LEARNED,
    PS_PREDICTOR_ORACLE
};

/* The kind of a name, or -1. */
int ps_predictor_from_name(const char *name);

/* Objects that guesses may hold, of a cache with so many slots: what leases leave is shared. */
uint32_t ps_ahead_slots(const struct ps_model *model, const struct ps_engine_options *options,
                        uint32_t slot_count);

/*
 * Guesses what the next MoE layers will choose for the chunk's n tokens, once `layer` has been
 * routed, its mixer's output is in work.x and its shared expert's in work.y. ps_staging_issue has
 * them read: only when all that the layer itself needs has been asked for.
 */
void ps_ahead_guess(struct ps_engine *engine, uint32_t layer, uint32_t n);

/*
 * What `layer` chose for n tokens is in work.jobs[0 .. job_count): guesses that were wrong are
 * dropped, what was right and wrong is learned from, and what is in memory stays there until it is
 * leased.
 */
void ps_ahead_settle(struct ps_engine *engine, uint32_t layer, uint32_t job_count, uint32_t n);

/* Drops all guesses. */
void ps_ahead_reset(struct ps_engine *engine);

#endif
