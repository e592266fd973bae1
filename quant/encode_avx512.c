/* The encoders with AVX-512: a v16 is one register. */
#include "quant/encode_internal.h"

#if defined(__x86_64__) && !defined(PS_SANITIZED)

#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "core/util.h"
#include "quant/encode_x86.h"

typedef __m512 v16;
typedef __mmask16 vmask;

static ALWAYS_INLINE v16 v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static ALWAYS_INLINE void v_store(float *p, v16 v)
{
    _mm512_storeu_ps(p, v);
}

static ALWAYS_INLINE v16 v_set1(float f)
{
    return _mm512_set1_ps(f);
}

static ALWAYS_INLINE v16 v_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}

static ALWAYS_INLINE v16 v_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}

static ALWAYS_INLINE v16 v_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}

static ALWAYS_INLINE v16 v_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}

static ALWAYS_INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static ALWAYS_INLINE v16 v_fnma(v16 a, v16 b, v16 c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

static ALWAYS_INLINE v16 v_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}

static ALWAYS_INLINE v16 v_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

static ALWAYS_INLINE v16 v_abs(v16 a)
{
    return _mm512_abs_ps(a);
}

static ALWAYS_INLINE v16 v_round(v16 a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static ALWAYS_INLINE v16 v_half(v16 a)
{
    return _mm512_cvtph_ps(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static ALWAYS_INLINE v16 v_snap(v16 a)
{
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(0x200000));
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xffc00000)));
}

static ALWAYS_INLINE v16 v_pow2(v16 a)
{
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7f800000)));
}

static ALWAYS_INLINE vmask v_less(v16 a, v16 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

static ALWAYS_INLINE v16 v_pick(vmask m, v16 a, v16 b)
{
    return _mm512_mask_blend_ps(m, b, a);
}

static ALWAYS_INLINE bool v_all(vmask m)
{
    return m == 0xffff;
}

static ALWAYS_INLINE void v_words(uint32_t *words, v16 low, v16 high)
{
    __m512i a = _mm512_cvttps_epi32(low), b = _mm512_cvttps_epi32(high);
    _mm512_storeu_si512(words, _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
}

/* A 16 x 16 transposition: pairs, fours, then quarters of registers twice. */
static ALWAYS_INLINE void turn_square(__m512 *r)
{
    __m512 t[16];

    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        for (int h = 0; h < 2; h++) {
            __m512d a = _mm512_castps_pd(t[i + h]), b = _mm512_castps_pd(t[i + 2 + h]);
            r[i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

static ALWAYS_INLINE void turn_in(const float *const *src, int n, float (*out)[PS_ENCODE_LANES])
{
    for (int k = 0; k < n; k += 16) {
        __m512 r[16];
        for (int l = 0; l < 16; l++)
            r[l] = _mm512_loadu_ps(src[l] + k);
        turn_square(r);
        for (int l = 0; l < 16; l++)
            _mm512_storeu_ps(out[k + l], r[l]);
    }
}

#include "quant/encode_lanes.h"

#include "quant/encode_lanes_k.h"

#include "quant/encode_lanes_rows.h"

void ps_encode_avx512(const struct ps_encode *e)
{
    encode_rows(e);
}

#else

void ps_encode_avx512(const struct ps_encode *e)
{
    ps_encode_scalar(e);
}

#endif
