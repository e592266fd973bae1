/*
 * Products of quantised weights with activations that are rounded to 8 bits. The float kernels
 * (quant/kernels.h) decode every weight; here integers are multiplied as they are stored, which is
 * several times less work, and the only loss is the rounding of the activations.
 *
 * AN 8-BIT VECTOR holds x in blocks of 32: d = max|x| / 127, q = round(x / d) in [-127, 127],
 * x ~ d * q, with the sums that formats with offsets need. The sums are 16 bits wide, so that one
 * instruction multiplies both halves' by their minima and adds (pmaddwd).
 *
 * THE SHAPE OF SUMMATION. A block type with q8 kernels stores, for each block b of 32 columns,
 * integers q[32], integer scales c of both halves of sixteen, integer minima m of both, and two
 * floats s and t, so that the weight is s * c * q + t * m (formats without them: c = 1, m = 0).
 * For every row and vector, whatever the CPU level, the number of vectors, or the thread:
 *     S = c0 * sum(q[i] * xq[i], i < 16) + c1 * sum(q[i] * xq[i], i >= 16)       exact, int32
 *     M = m0 * sum(xq[i], i < 16) + m1 * sum(xq[i], i >= 16)                     exact, int32
 *     lane = b mod 8, blocks in ascending order, each lane starting at +0:
 *         acc[lane] = fma((float)S, s * xd, acc[lane])
 *         acc[lane] = fma((float)M, t * xd, acc[lane])          only formats with minima
 *     then the lanes are added as a tree: l + (l+4), l + (l+2), l + (l+1).
 * s * xd and t * xd are rounded once; S and M are converted with one rounding. So all levels and
 * matrix-vector and matrix-matrix kernels give the same bits, and tiles (VNNI, AMX) may sum the
 * integers in any order.
 */
#ifndef PENSTOCK_QUANT_Q8_H
#define PENSTOCK_QUANT_Q8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/cpu.h"
#include "quant/type.h"

#define PS_Q8_BLOCK 32
#define PS_Q8_LANES 8

/*
 * One vector of `cols` values in one piece of memory, 64-byte aligned, ps_q8_bytes(cols) long:
 *     int8_t  q[P * 32]      P = blocks rounded up to a multiple of 16; what is beyond cols is 0
 *     float   d[P]
 *     int16_t sum[2 * P]     of each half block's q: sum[2 b] of the first sixteen
 */
static inline size_t ps_q8_padded_blocks(size_t cols)
{
    return (cols + 511) / 512 * 16;
}

static inline size_t ps_q8_bytes(size_t cols)
{
    return ps_q8_padded_blocks(cols) * (PS_Q8_BLOCK + sizeof(float) + 2 * sizeof(int16_t));
}

static inline const float *ps_q8_scales(const void *x, size_t cols)
{
    return (const float *)(const void *)((const int8_t *)x +
                                         ps_q8_padded_blocks(cols) * PS_Q8_BLOCK);
}

static inline const int16_t *ps_q8_sums(const void *x, size_t cols)
{
    return (const int16_t *)(const void *)(ps_q8_scales(x, cols) + ps_q8_padded_blocks(cols));
}

/*
 * y[c * ldy + r] = row r of w times vector c, for r in [0, rows), c in [0, n).
 * w as in struct ps_matmul: any alignment, never read past the last row's last byte. x: n vectors
 * of ps_q8_bytes(cols), each x_stride_bytes (a multiple of 64) after the one before.
 *
 * lanes_in and lanes_out cut a product along the columns, as in struct ps_matmul: [n, rows,
 * PS_Q8_LANES] floats. Every part but the last must be a multiple of PS_Q8_BLOCK columns, and
 * first_block says how many blocks of the product lie before this part: block b of the part takes
 * lane (first_block + b) mod 8.
 */
struct ps_q8_matmul {
    uint32_t type; /* enum ps_type for which ps_q8_has() */
    const void *w;
    size_t w_stride_bytes;
    size_t rows, cols; /* cols a multiple of the type's block length */
    const void *x;
    size_t x_stride_bytes;
    float *y;
    size_t ldy;
    size_t n;
    size_t first_block;    /* 0 unless the product is cut */
    const float *lanes_in; /* or NULL */
    float *lanes_out;      /* or NULL */
};

struct ps_q8_kernels {
    void (*matmul)(const struct ps_q8_matmul *m);

    /*
     * Rounds x [cols] to an 8-bit vector at dst. inverse = 127 / max|x| (0 for a block of zeros),
     * q = round to nearest even of x * inverse, d = max|x| / 127. A block whose max|x| is below
     * 2^-100 counts as zeros: 127 / max|x| would overflow for the smallest ones. A block with
     * infinities or NaN gets d = NaN and q = 0, so that every product with it is NaN. cols may be
     * any number; dst is 64-byte aligned, ps_q8_bytes(cols) long.
     */
    void (*quantize)(const float *x, size_t cols, void *dst);
};

/* Whether the type's blocks can be multiplied as integers. False for unknown types. */
bool ps_q8_has(uint32_t type);

/* The table of a level, never beyond ps_cpu_level(); never NULL. Thread-safe. */
const struct ps_q8_kernels *ps_q8_kernels_get(enum ps_cpu_level level);

#endif
