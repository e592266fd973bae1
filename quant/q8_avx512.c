/*
 * AVX-512 without VNNI: pairs of products are summed in 16 bits, saturating. An unsigned factor
 * below 128 cannot reach that; weights of eight bits hand their sign to the vector, which has no
 * -128, so that the sum of two products is at most 2 * 128 * 127.
 */
#include "quant/q8_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "quant/kernels_internal.h"
#include "quant/q8_avx512_ops.h"

#define WIDE_BIAS 0

static ALWAYS_INLINE vq q_wide(vq v)
{
    return v;
}

static ALWAYS_INLINE vq q_dot(vq acc, vq u, vq x)
{
    return _mm512_add_epi32(acc,
                            _mm512_madd_epi16(_mm512_maddubs_epi16(u, x), _mm512_set1_epi16(1)));
}

static ALWAYS_INLINE vq q_dot_wide(vq acc, vq w, vq x)
{
    vq signed_x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    return q_dot(acc, _mm512_abs_epi8(w), signed_x);
}

#include "quant/q8_quantize.h"
#include "quant/q8_vector.h"

void ps_q8_init_avx512(struct ps_q8_versions *v)
{
    init_versions(v);
}

#else

void ps_q8_init_avx512(struct ps_q8_versions *v)
{
    (void)v;
}

#endif
