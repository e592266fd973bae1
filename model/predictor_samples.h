/* Private to training: what traces say of some layers, kept together layer by layer. */
#ifndef PENSTOCK_MODEL_PREDICTOR_SAMPLES_H
#define PENSTOCK_MODEL_PREDICTOR_SAMPLES_H

#include "model/model.h"
#include "model/predictor_train.h"
#include "model/trace.h"

/* Of one layer that guesses, for n tokens. */
struct ps_samples {
    uint32_t layer; /* in the model */
    uint16_t *x;    /* [n, H] F16 */
    struct {
        bool there;       /* whether the layer so far ahead is a MoE layer */
        uint16_t *log_p;  /* [n, E] F16 logarithms of the gate predictor's probabilities */
        uint16_t *chosen; /* [n, K] */
    } depths[PS_TRAIN_DEPTHS];
};

/* The traces' common shape; tokens [0, train_count) of all samples are to be trained with, the
 * rest is held out. */
struct ps_sample_set {
    const struct ps_train_options *options;
    uint32_t layer_count; /* MoE layers */
    uint32_t expert_count, experts_used, hidden;
    uint32_t *layers; /* [layer_count] in the model */
    uint64_t token_count, train_count;
};

/* Looks at the headers of all traces. -PS_ERR_ARGUMENT where one does not fit the model. */
int ps_sample_set_init(struct ps_sample_set *set, const struct ps_model *model,
                       const struct ps_train_options *options, struct ps_error *err);
void ps_sample_set_fini(struct ps_sample_set *set);

/* Bytes of one layer's samples, with all depths. */
uint64_t ps_samples_bytes(const struct ps_sample_set *set);

/* Reads samples of the MoE layers [first, first + count), samples[count]. Release them with
 * ps_samples_fini also after an error. */
int ps_samples_read(const struct ps_sample_set *set, uint32_t first, uint32_t count,
                    struct ps_samples *samples, struct ps_error *err);
void ps_samples_fini(struct ps_samples *samples, uint32_t count);

#endif
