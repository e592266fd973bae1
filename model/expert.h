/*
 * How an expert is cut along its intermediate dimension, and how a slice is laid out inside: gate
 * rows [n, H], up rows [n, H], down columns [H, n], each part at a multiple of 64 bytes.
 *
 * Folds: the down projection of an expert is summed in folds of PS_FOLD_NEURONS neurons. Inside a
 * fold the dot product has the shape of quant/kernels.h, whole folds are then added in ascending
 * order. So where slices end cannot change a bit, and slices that begin on a fold are independent
 * of each other.
 */
#ifndef PENSTOCK_MODEL_EXPERT_H
#define PENSTOCK_MODEL_EXPERT_H

#include <stdint.h>

#include "core/error.h"

#define PS_FOLD_NEURONS 256u
#define PS_SLICE_BYTES_DEFAULT (2u << 20)

struct ps_expert_shape {
    uint32_t hidden, width;
    uint32_t gate_type, up_type, down_type;
};

struct ps_slice_parts {
    uint64_t gate_offset, up_offset, down_offset; /* bytes from the slice's begin */
    uint64_t gate_stride, up_stride, down_stride; /* bytes per row; down rows hold n columns */
    uint64_t bytes;                               /* payload of the slice */
};

/* Parts of a slice of n neurons. The caller has checked that n suits the types. */
void ps_slice_parts(const struct ps_expert_shape *shape, uint32_t n, struct ps_slice_parts *parts);

/* Neurons between two places where a cut is allowed: the least common multiple of the down type's
 * block length and PS_LANES. */
uint32_t ps_slice_grain(const struct ps_expert_shape *shape);

/*
 * Neurons per slice for slices of about target_bytes: whole folds if at least one fits, else whole
 * grains, at least one grain, at most the width. The last slice of the expert may be shorter.
 */
uint32_t ps_slice_neurons(const struct ps_expert_shape *shape, uint64_t target_bytes);

/* -PS_ERR_FORMAT unless hidden and width are multiples of the types' blocks. */
int ps_expert_check(const struct ps_expert_shape *shape, struct ps_error *err);

#endif
