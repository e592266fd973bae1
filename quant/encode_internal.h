/* Private to encode*.c. */
#ifndef PENSTOCK_QUANT_ENCODE_INTERNAL_H
#define PENSTOCK_QUANT_ENCODE_INTERNAL_H

#include <stdbool.h>

#include "quant/encode.h"
#include "quant/kernels_internal.h"

/* Sub-blocks that are encoded together, each in a lane of its own. */
#define PS_ENCODE_LANES 16

/* Halves: the smallest above zero, and the largest. */
#define PS_HALF_MIN 0x1p-24f
#define PS_HALF_MAX 65504.0f

/* One for each level; called for Q8_0, Q4_0, Q4_K, Q6_K and MXFP4, only where the level runs. */
void ps_encode_scalar(const struct ps_encode *e);
void ps_encode_avx2(const struct ps_encode *e);
void ps_encode_avx512(const struct ps_encode *e);

#endif
