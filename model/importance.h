/*
 * Private to import: how much each input column of a matrix matters, as llama.cpp's imatrix tool
 * records it. The file is a GGUF file with two F32 tensors for each matrix NAME of a GGUF model:
 * NAME.in_sum2 [matrices, columns], sums of squared activations, and NAME.counts [matrices], how
 * many activations were added up; matrices is the number of experts, or 1. Values are read where
 * they are needed, since the sums of large models are larger than a layout's memory should be.
 */
#ifndef PENSTOCK_MODEL_IMPORTANCE_H
#define PENSTOCK_MODEL_IMPORTANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

struct ps_importance;

/* Opens a file. *out is owned by the caller. Errors: those of ps_source_open; -PS_ERR_FORMAT for a
 * file that holds no importance, -PS_ERR_UNSUPPORTED for the older form that is no GGUF file. */
int ps_importance_open(struct ps_importance **out, const char *path, struct ps_error *err);
void ps_importance_close(struct ps_importance **importance);

bool ps_importance_has(const struct ps_importance *importance, const char *name);

/*
 * Whether there is an entry for a tensor, `matrices` of `cols` columns: 1, or 0; -PS_ERR_FORMAT
 * when it has another shape or type: then the file was made for another model.
 */
int ps_importance_find(const struct ps_importance *importance, const char *name, uint64_t matrices,
                       uint64_t cols, struct ps_error *err);

/*
 * The importance of the columns of one matrix, up to a factor, into values [cols]: 1; or 0 when no
 * activation was counted for it. For entries that ps_importance_find has found. -PS_ERR_FORMAT for
 * values that are no finite numbers from 0 up, and the errors of ps_source_read. Thread-safe.
 */
int ps_importance_read(const struct ps_importance *importance, const char *name, uint64_t matrix,
                       uint64_t cols, float *values, struct ps_error *err);

/* Of names, sizes and samples, for the fingerprint of a layout. */
int ps_importance_fingerprint(const struct ps_importance *importance, uint64_t fingerprint[2],
                              struct ps_error *err);

#endif
