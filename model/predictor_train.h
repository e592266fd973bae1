/*
 * Training the learned predictor (model/predictor_learned.h) from traces that were recorded with
 * router inputs and guesses of all experts.
 */
#ifndef PENSTOCK_MODEL_PREDICTOR_TRAIN_H
#define PENSTOCK_MODEL_PREDICTOR_TRAIN_H

#include "model/penstock.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PS_TRAIN_DEPTHS 3

struct ps_train_options {
    const char *const *traces; /* paths; the last tenth of each is held out */
    int trace_count;
    uint32_t rank;            /* 8, 16, ... 64; 0: the most up to 32 that the record area holds */
    bool is_for_volume;       /* the result is to be saved in the volume: it is found out before
                                 training whether that can be done */
    uint32_t pass_count;      /* over the tokens; 0 = 8 */
    uint64_t seed;            /* the same seed, traces and CPU level give the same predictor */
    uint64_t memory_bytes;    /* for tokens: layers are trained so many at a time; 0 = 1 GiB */
    int threads;              /* 0 = one per CPU; each trains another layer */
    const volatile int *stop; /* non-zero: -EINTR; may be NULL */
    void (*progress)(void *ctx, uint64_t done, uint64_t total); /* layers; may be NULL */
    void *progress_ctx;
};

/* On one half of the tokens held out; by the other it was chosen what is kept. Index depth - 1. */
struct ps_train_depth {
    uint64_t chosen;                /* experts */
    uint64_t gate_k, gate_2k;       /* of them among the first k and 2k of the gate predictor */
    uint64_t learned_k, learned_2k; /* and as stored: the gate alone where training did not win */
    uint32_t layer_count, kept_count;
};

struct ps_train_report {
    uint64_t tokens, tokens_held_out;
    uint32_t rank, experts_used;
    uint32_t rank_2k; /* 2k, or all experts if those are fewer */
    struct ps_train_depth depths[PS_TRAIN_DEPTHS];
};

/*
 * Trains for this model. *data, malloc'd and owned by the caller, is the stored form: what
 * ps_model_predictor_save and --predictor-file take. Errors: those of ps_trace_open and
 * ps_trace_next, -PS_ERR_ARGUMENT (a trace of another model, without router inputs, or too short; a
 * rank out of range), -ENOSPC (the record area may not hold the rank that was asked for and
 * is_for_volume, or rank 0 and not even 8), with is_for_volume those of ps_model_predictor_save,
 * -ENOMEM, -EINTR. Blocks for seconds to minutes.
 */
int ps_model_predictor_train(struct ps_model *model, const struct ps_train_options *options,
                             struct ps_train_report *report, void **data, size_t *bytes,
                             struct ps_error *err);

/*
 * Puts a predictor into the volume's record area, in place of the one that was there. Needs the
 * volume to itself for a moment, and the right to write it. Errors: -ENOSPC (it does not fit: the
 * area has 64 KB), -PS_ERR_IN_USE, -EACCES, -errno, and those of ps_learned_open.
 */
int ps_model_predictor_save(struct ps_model *model, const void *data, size_t bytes,
                            struct ps_error *err);

#ifdef __cplusplus
}
#endif

#endif
