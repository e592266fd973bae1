/*
 * The learned predictor: a low-rank correction of the gate predictor (model/predictor.h), trained
 * from traces by `penstock train-predictor` and kept in the volume's record area or in a file.
 *
 * With x[H], the input of the router of layer - depth, and p[E], what the gate predictor makes of
 * `layer` there: p' = softmax(s log p + b + B (A x)), with A [rank, H] for each layer that guesses
 * and s, b [E], B [E, rank] for each depth. Where training did not win, there is no correction.
 * docs/format.md has the bytes.
 */
#ifndef PENSTOCK_MODEL_PREDICTOR_LEARNED_H
#define PENSTOCK_MODEL_PREDICTOR_LEARNED_H

#include "model/model.h"

#define PS_LEARNED_DEPTH_MAX 3u
#define PS_LEARNED_RANK_MAX 64u
#define PS_LEARNED_RECORD "predictor" /* the entry of the record area */
#define PS_LEARNED_P_MIN 1e-6f        /* smaller probabilities count as this one */

struct ps_learned;

/*
 * From its stored form, data: malloc'd, taken over, freed also after an error.
 * Errors: -PS_ERR_FORMAT, -PS_ERR_TRUNCATED, -PS_ERR_CHECKSUM, -PS_ERR_UNSUPPORTED (another
 * version), -ENOMEM. name: of what it comes from, for errors; may be NULL.
 */
int ps_learned_open(struct ps_learned **out, void *data, size_t bytes, const char *name,
                    struct ps_error *err);
/* The same of a copy of data, which stays the caller's. */
int ps_learned_open_copy(struct ps_learned **out, const void *data, size_t bytes, const char *name,
                         struct ps_error *err);
void ps_learned_close(struct ps_learned **learned);

/* From a file, or from the volume's record area (path NULL), for this model: -PS_ERR_ARGUMENT if it
 * was trained for another, -ENOENT if the volume has none; and as above. Blocks. */
int ps_learned_load(struct ps_learned **out, const struct ps_model *model, const char *path,
                    struct ps_error *err);

/* Memory that ps_learned_load takes, and its errors as far as the first bytes tell; for a described
 * model as much as a volume can hold. Blocks. */
int ps_learned_load_bytes(const struct ps_model *model, const char *path, uint64_t *memory_bytes,
                          struct ps_error *err);

/* Whether there is a correction for guesses of `layer`, depth layers before it. */
bool ps_learned_has(const struct ps_learned *learned, uint32_t layer, uint32_t depth);

/* Corrects p[E] in place, as above; ps_learned_has must be true. Costs rank * (H + E) multiply-adds
 * and E exponentials. Any number of threads may do so at a time. */
void ps_learned_apply(const struct ps_learned *learned, uint32_t layer, uint32_t depth,
                      const float *x, float *p);

/* The softmax of the above, in place, the same on every processor. */
void ps_learned_softmax(float *p, uint32_t count);

/* ---- what training makes -------------------------------------------------------------------- */

struct ps_learned_target {
    uint32_t depth;
    float gate;        /* s */
    const float *bias; /* [E] b */
    const float *b;    /* [rank, E] B, transposed */
};

struct ps_learned_source {
    uint32_t layer; /* in the model, whose router's input is x */
    const float *a; /* [H, rank] A, transposed */
    uint32_t target_count;
    struct ps_learned_target targets[PS_LEARNED_DEPTH_MAX]; /* depths ascend */
};

struct ps_learned_shape {
    uint32_t layer_count, expert_count, hidden, rank; /* rank: a multiple of 8 */
    const char *model;                                /* its name */
};

/* Bytes of the stored form with so many sources and targets. */
uint64_t ps_learned_packed_bytes(const struct ps_learned_shape *shape, uint32_t source_count,
                                 uint32_t target_count);

/* The stored form, matrices rounded to 8 bits with a scale for each of `rank`. sources ascend in
 * layer. *data is malloc'd, owned by the caller. -ENOMEM. */
int ps_learned_pack(const struct ps_learned_shape *shape, const struct ps_learned_source *sources,
                    uint32_t source_count, void **data, size_t *bytes, struct ps_error *err);

#endif
