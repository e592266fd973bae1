/*
 * AVX-512 VNNI: one instruction multiplies 64 pairs of bytes and adds fours of them to 32 bits. One
 * factor is unsigned; weights of eight bits are offset by 128, and 128 times the vector's sum is
 * subtracted from the block sums.
 */
#include "quant/q8_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "quant/kernels_internal.h"
#include "quant/q8_avx512_ops.h"

#define WIDE_BIAS 128

static ALWAYS_INLINE vq q_wide(vq v)
{
    return _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
}

static ALWAYS_INLINE vq q_dot(vq acc, vq u, vq x)
{
    return _mm512_dpbusd_epi32(acc, u, x);
}

static ALWAYS_INLINE vq q_dot_wide(vq acc, vq u, vq x)
{
    return _mm512_dpbusd_epi32(acc, u, x);
}

#include "quant/q8_quantize.h"
#include "quant/q8_vector.h"

void ps_q8_init_vnni(struct ps_q8_versions *v)
{
    init_versions(v);
}

#else

void ps_q8_init_vnni(struct ps_q8_versions *v)
{
    (void)v;
}

#endif
