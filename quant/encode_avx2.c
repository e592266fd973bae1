/* The encoders with AVX2, FMA and F16C: a v16 is two registers. */
#include "quant/encode_internal.h"

#if defined(__x86_64__)

#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "core/util.h"
#include "quant/encode_x86.h"

typedef struct {
    __m256 low, high;
} v16;
typedef v16 vmask;

static ALWAYS_INLINE v16 v_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static ALWAYS_INLINE void v_store(float *p, v16 v)
{
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
}

static ALWAYS_INLINE v16 v_set1(float f)
{
    __m256 v = _mm256_set1_ps(f);
    return (v16){v, v};
}

static ALWAYS_INLINE v16 v_add(v16 a, v16 b)
{
    return (v16){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

static ALWAYS_INLINE v16 v_sub(v16 a, v16 b)
{
    return (v16){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}

static ALWAYS_INLINE v16 v_mul(v16 a, v16 b)
{
    return (v16){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

static ALWAYS_INLINE v16 v_div(v16 a, v16 b)
{
    return (v16){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}

static ALWAYS_INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

static ALWAYS_INLINE v16 v_fnma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}

static ALWAYS_INLINE v16 v_min(v16 a, v16 b)
{
    return (v16){_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}

static ALWAYS_INLINE v16 v_max(v16 a, v16 b)
{
    return (v16){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}

static ALWAYS_INLINE v16 v_abs(v16 a)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}

#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

static ALWAYS_INLINE v16 v_round(v16 a)
{
    return (v16){_mm256_round_ps(a.low, NEAREST), _mm256_round_ps(a.high, NEAREST)};
}

static ALWAYS_INLINE v16 v_half(v16 a)
{
    return (v16){_mm256_cvtph_ps(_mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT)),
                 _mm256_cvtph_ps(_mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT))};
}

static ALWAYS_INLINE __m256 snap(__m256 a)
{
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(a), _mm256_set1_epi32(0x200000));
    return _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32((int)0xffc00000)));
}

static ALWAYS_INLINE v16 v_snap(v16 a)
{
    return (v16){snap(a.low), snap(a.high)};
}

static ALWAYS_INLINE v16 v_pow2(v16 a)
{
    const __m256 exponent = _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000));
    return (v16){_mm256_and_ps(a.low, exponent), _mm256_and_ps(a.high, exponent)};
}

static ALWAYS_INLINE vmask v_less(v16 a, v16 b)
{
    return (vmask){_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ),
                   _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
}

static ALWAYS_INLINE v16 v_pick(vmask m, v16 a, v16 b)
{
    return (v16){_mm256_blendv_ps(b.low, a.low, m.low), _mm256_blendv_ps(b.high, a.high, m.high)};
}

static ALWAYS_INLINE bool v_all(vmask m)
{
    return _mm256_movemask_ps(_mm256_and_ps(m.low, m.high)) == 0xff;
}

static ALWAYS_INLINE __m256i join_words(__m256 low, __m256 high)
{
    return _mm256_or_si256(_mm256_cvttps_epi32(low),
                           _mm256_slli_epi32(_mm256_cvttps_epi32(high), 16));
}

static ALWAYS_INLINE void v_words(uint32_t *words, v16 low, v16 high)
{
    _mm256_storeu_si256((void *)words, join_words(low.low, high.low));
    _mm256_storeu_si256((void *)(words + 8), join_words(low.high, high.high));
}

/* An 8 x 8 transposition: pairs, fours, then halves of registers. */
static ALWAYS_INLINE void turn_square(__m256 *r)
{
    __m256 t[8];

    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int h = 0; h < 2; h++) {
            __m256d a = _mm256_castps_pd(t[i + h]), b = _mm256_castps_pd(t[i + 2 + h]);
            r[i + 2 * h] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
            r[i + 2 * h + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
        }
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x20);
        t[4 + i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x31);
    }
    for (int i = 0; i < 8; i++)
        r[i] = t[i];
}

static ALWAYS_INLINE void turn_in(const float *const *src, int n, float (*out)[PS_ENCODE_LANES])
{
    for (int k = 0; k < n; k += 8) {
        for (int half = 0; half < PS_ENCODE_LANES; half += 8) {
            __m256 r[8];
            for (int l = 0; l < 8; l++)
                r[l] = _mm256_loadu_ps(src[half + l] + k);
            turn_square(r);
            for (int l = 0; l < 8; l++)
                _mm256_storeu_ps(out[k + l] + half, r[l]);
        }
    }
}

#include "quant/encode_lanes.h"

#include "quant/encode_lanes_k.h"

#include "quant/encode_lanes_rows.h"

void ps_encode_avx2(const struct ps_encode *e)
{
    encode_rows(e);
}

#else

void ps_encode_avx2(const struct ps_encode *e)
{
    ps_encode_scalar(e);
}

#endif
