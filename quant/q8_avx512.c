/*
 * AVX-512 without VNNI: pairs of products are summed in 16 bits, saturating. An unsigned factor
 * below 128 cannot reach that; weights of eight bits hand their sign to the vector, which has no
 * -128, so that the sum of two products is at most 2 * 128 * 127.
 */
#include "quant/q8_internal.h"

#if defined(__x86_64__) && !defined(PS_SANITIZED)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "quant/kernels_internal.h"
#include "quant/q8_avx512_ops.h"

#define WIDE_BIAS 0
#define HIGH_IN_PLACE false

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

/* The table in every lane, for look-ups by the low four bits of a byte. */
static ALWAYS_INLINE vq q_table(const int8_t *values, int bias)
{
    return q_lanes(_mm_add_epi8(_mm_loadu_si128((const void *)values), _mm_set1_epi8((char)bias)));
}

static ALWAYS_INLINE vq q_look_up(vq table, vq index)
{
    return _mm512_shuffle_epi8(table, _mm512_and_si512(index, q_set8(15)));
}

static ALWAYS_INLINE vq q_widen8u_32(__m128i v)
{
    return _mm512_cvtepu8_epi32(v);
}

/* Eight bytes of each lane, the lower or the upper, widened to 32 bits: lanes 0 and 1, 2 and 3. */
static ALWAYS_INLINE void q_widen_rows(vq v, int upper, vq *out)
{
    __m512i packed = _mm512_permutexvar_epi64(
        _mm512_setr_epi64(upper, 2 + upper, 4 + upper, 6 + upper, 0, 0, 0, 0), v);
    out[0] = _mm512_cvtepu8_epi32(_mm512_castsi512_si128(packed));
    out[1] = _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(packed, 1));
}

#include "quant/q8_common.h"

#include "quant/q8_gather.h"
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
