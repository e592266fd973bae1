/* What the versions of the kernels share.
 */
#ifndef PENSTOCK_QUANT_KERNELS_INTERNAL_H
#define PENSTOCK_QUANT_KERNELS_INTERNAL_H

#include "quant/kernels.h"

/*
 * exp(x) = 2^n * exp(r), n = x / ln 2 rounded to an integer, r = x - n ln 2 in [-0.347, 0.347].
 * Arguments are cut to [PS_EXP_MIN, PS_EXP_MAX] first: beyond them the result is 0 or infinity
 * anyway, and inside n stays within [-150, 128]. Adding PS_EXP_ROUND leaves the rounded integer in
 * the low mantissa bits. ln 2 comes in two parts; n * HIGH under fma cancels without error. exp(r)
 * = 1 + r + r^2 (C2 + C3 r + C4 r^2 + C5 r^3 + C6 r^4), fitted for the least relative error (3.1e-9
 * before rounding, 1/20 ulp). 2^n is applied as two factors, so that results near both ends
 * overflow and underflow gradually with a single rounding.
 */
#define PS_EXP_MIN (-104.0f)
#define PS_EXP_MAX 89.0f
#define PS_EXP_ROUND 0x1.8p23f
#define PS_EXP_ROUND_BITS 0x4b400000
#define PS_LOG2_E 0x1.715476p+0f
#define PS_LN2_HIGH 0x1.62e430p-1f
#define PS_LN2_LOW -0x1.05c610p-29f
#define PS_EXP_C2 0x1.fffffcp-2f
#define PS_EXP_C3 0x1.555492p-3f
#define PS_EXP_C4 0x1.5558f2p-5f
#define PS_EXP_C5 0x1.123a20p-7f
#define PS_EXP_C6 0x1.6a23d0p-10f

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Loops of constant length over arrays that must stay in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* Override the entries that this level has its own version of; do nothing where it is not built. */
void ps_kernels_init_avx2(struct ps_kernels *table);
void ps_kernels_init_avx512(struct ps_kernels *table);

#endif
