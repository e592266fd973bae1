/* Where the blocks of a type keep their scales: for tests that make blocks of random bytes. */
#ifndef PENSTOCK_TESTS_BLOCKS_H
#define PENSTOCK_TESTS_BLOCKS_H

#include <string.h>

#include "quant/type.h"

/* Types whose scale, a half float, is not at the block's beginning; the K formats with minima. */
static inline int blocks_scale_offset(uint32_t type)
{
    switch (type) {
    case PS_TYPE_Q2_K:
        return 80;
    case PS_TYPE_Q3_K:
        return 108;
    case PS_TYPE_Q6_K:
        return 208;
    default:
        return 0;
    }
}

static inline bool blocks_have_offset(uint32_t type)
{
    return type == PS_TYPE_Q4_1 || type == PS_TYPE_Q5_1 || type == PS_TYPE_Q2_K ||
           type == PS_TYPE_Q4_K || type == PS_TYPE_Q5_K;
}

/*
 * Puts half floats (bits) in the place of a block's scale and, where it has one, its offset or the
 * scale of its minima. MXFP4's scale is a power of two: the one nearest below the half's magnitude,
 * or its least for zeros and denormals, its greatest for infinities and NaN.
 */
static inline void blocks_set_scales(uint32_t type, uint8_t *block, uint16_t scale, uint16_t offset)
{
    if (type == PS_TYPE_MXFP4) {
        int exponent = scale >> 10 & 31;
        block[0] = (uint8_t)(exponent == 0 ? 0 : exponent == 31 ? 255 : exponent - 15 + 128);
        return;
    }
    if (type == PS_TYPE_IQ1_M) {
        for (int i = 0; i < 4; i++) /* four bits of it on top of each word */
            block[49 + 2 * i] = (uint8_t)((block[49 + 2 * i] & 15) | (scale >> 4 * i & 15) << 4);
        return;
    }
    uint8_t *at = block + blocks_scale_offset(type);
    memcpy(at, &scale, sizeof(scale));
    if (blocks_have_offset(type))
        memcpy(at + 2, &offset, sizeof(offset));
}

#endif
