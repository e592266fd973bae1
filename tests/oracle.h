/*
 * The forward pass of a tiny model (source_writer.h) in double, token by token, straight from the
 * formulas of spec A.3 to A.6 and A.10: what the engine is compared with where no reference output
 * exists. For tests only.
 */
#ifndef PENSTOCK_TESTS_ORACLE_H
#define PENSTOCK_TESTS_ORACLE_H

#include "source_writer.h"

struct oracle {
    const struct tiny_model *m;
    bool tiled;        /* value head h uses key head h mod k_heads (GGUF), not h / (v / k) */
    bool renormalise;  /* the chosen experts' weights are divided by their sum */
    bool plain_heads;  /* q and k heads are not normalised */
    uint32_t used;     /* experts per token */
    uint32_t window;   /* attention sees the first 4 positions and the last so many; 0 = all */
    double worst_gap;  /* out: smallest relative gap between the last expert chosen and the next */
    double **state;    /* private: per layer, K and V rows or the delta rule's state */
    double **history;  /* private: per layer, the convolution's last inputs */
    uint32_t position; /* private */
};

void oracle_init(struct oracle *o, uint32_t token_count_max);
/* The logits [vocab] of the next token. */
void oracle_step(struct oracle *o, int32_t id, double *logits);
void oracle_fini(struct oracle *o);

#endif
