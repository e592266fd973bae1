/*
 * Encoding matrices into block types with the least squared error that a bounded search finds. No
 * I/O, no threads, no allocation: callers split the rows. Every block is encoded by itself and all
 * CPU levels give the same bits, so the result depends on the values alone, however they were cut.
 *
 * What is made small is, for each block, sum of importance * (value - decoded value)^2:
 *     F32, F16, BF16   nearest even; nothing to search
 *     Q8_0             d = max|x| / 127 and rounding, as ps_row_encode; no importance
 *     Q4_0, MXFP4      several scales, each rounded to what the block can store
 *     Q4_K, Q6_K       the same for the scale (and offset) of every sub-block, in whole steps of
 * the scale of its block In types other than the first four NaN counts as 0, and magnitudes are cut
 * to 2^50 and then to what the format can hold.
 */
#ifndef PENSTOCK_QUANT_ENCODE_H
#define PENSTOCK_QUANT_ENCODE_H

#include <stddef.h>
#include <stdint.h>

#include "core/cpu.h"
#include "quant/type.h"

struct ps_encode {
    uint32_t type;           /* enum ps_type with has_encoder */
    size_t rows, cols;       /* cols a multiple of the type's block length */
    const float *values;     /* [rows, cols] */
    const float *importance; /* [cols], finite, in [0, 2^100]; or NULL: all columns count alike */
    void *dst;               /* rows * ps_row_bytes(type, cols) bytes; no alignment is needed */
};

/* Encodes with the fastest code of this processor. */
void ps_encode_rows(const struct ps_encode *e);

/* The same with the code of a level, but not beyond ps_cpu_level(). For tests and comparisons. */
void ps_encode_rows_at(enum ps_cpu_level level, const struct ps_encode *e);

#endif
