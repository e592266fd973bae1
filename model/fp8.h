/*
 * Private to import: matrices of F8_E4M3 in safetensors (spec A.7). A tensor X of [..., rows, cols]
 * holds one byte for each value; its companion X_scale_inv of [..., ceil(rows / 128), ceil(cols /
 * 128)], BF16 or F32, holds one factor for each square of 128 by 128 values, which is multiplied,
 * its name notwithstanding. In a volume the factors stand before their 128 bytes of each row
 * (PS_TYPE_F8_E4M3): the same bytes and the same values. Rows that are no multiple of 128 long fit
 * no such blocks; they are decoded to F32, which holds the values exactly as they are defined.
 */
#ifndef PENSTOCK_MODEL_FP8_H
#define PENSTOCK_MODEL_FP8_H

#include "model/arch.h"

#define PS_FP8_BLOCK 128u

/*
 * Of "quantization_config": 0 for blocks of 128 x 128 in e4m3, else -PS_ERR_UNSUPPORTED. Which
 * tensors are quantised is told by each tensor's own dtype, not by the lists in there.
 */
int ps_fp8_check_config(const json_t *quantised, struct ps_error *err);

/*
 * Sets ref->scales where ref->tensor is F8_E4M3; other tensors are left alone. -PS_ERR_FORMAT (the
 * companion is missing or has another shape), -PS_ERR_UNSUPPORTED (another kind of scales), both
 * with the tensor's name.
 */
int ps_fp8_find_scales(const struct ps_source *source, struct ps_tensor_ref *ref,
                       struct ps_error *err);

/* The type in which rows of `cols` values of a tensor are handed on: its own, or F32. */
uint32_t ps_fp8_row_type(uint32_t tensor_type, uint64_t cols);

/* The row of ref->scales for row `row` of the reference. */
uint64_t ps_fp8_scale_row(const struct ps_tensor_ref *ref, uint64_t row);

/* One row of codes with its factors, one for each 128 columns, as a row of ps_fp8_row_type. */
void ps_fp8_join(const uint8_t *codes, const float *factors, uint64_t cols, uint8_t *dst);

#endif
