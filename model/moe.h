/* Private to model/: what the MoE block allocates once. */
#ifndef PENSTOCK_MODEL_MOE_H
#define PENSTOCK_MODEL_MOE_H

#include "model/engine.h"

/* One active expert of a layer: the tokens that chose it, and how far it is computed. */
struct ps_expert_job {
    uint32_t expert;
    uint32_t pair_begin, pair_count; /* into work.pair_token and pair_weight */
    uint32_t row;                    /* first row in work.expert_x, expert_act, expert_out */
    uint32_t done_slices;
    uint32_t take_end; /* in the current round: slices [done_slices, take_end) */
};

/* A block of neurons of one slice of one job. */
struct ps_up_task {
    uint32_t job, slice, neuron, neuron_count; /* neuron: within the slice */
};

int ps_moe_open(struct ps_engine *engine, struct ps_error *err);
void ps_moe_close(struct ps_engine *engine);

#endif
