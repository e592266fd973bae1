/* AVX2: pairs of byte products, 32 at a time. Sixteen rows are two registers. */
#include "quant/q8_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "quant/kernels_internal.h"

typedef struct {
    __m256i low, high;
} w16;
typedef struct {
    __m256 low, high;
} f16;

static ALWAYS_INLINE w16 w16_all(uint32_t v)
{
    __m256i one = _mm256_set1_epi32((int)v);
    return (w16){one, one};
}

static ALWAYS_INLINE w16 w16_load(const void *p)
{
    const __m256i *at = p;
    return (w16){_mm256_load_si256(at), _mm256_load_si256(at + 1)};
}

static ALWAYS_INLINE void w16_store(void *p, w16 v)
{
    __m256i *at = p;
    _mm256_store_si256(at, v.low);
    _mm256_store_si256(at + 1, v.high);
}

static ALWAYS_INLINE w16 w16_and(w16 a, w16 b)
{
    return (w16){_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
}

static ALWAYS_INLINE w16 w16_or(w16 a, w16 b)
{
    return (w16){_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
}

static ALWAYS_INLINE w16 w16_xor(w16 a, w16 b)
{
    return (w16){_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
}

static ALWAYS_INLINE w16 w16_sub(w16 a, w16 b)
{
    return (w16){_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}

/* To the left; to the right if negative. */
static ALWAYS_INLINE w16 w16_shift(w16 v, int bits)
{
    if (bits < 0)
        return (w16){_mm256_srli_epi32(v.low, -bits), _mm256_srli_epi32(v.high, -bits)};
    return (w16){_mm256_slli_epi32(v.low, bits), _mm256_slli_epi32(v.high, bits)};
}

/* Bytes of a table of sixteen. */
static ALWAYS_INLINE w16 w16_look_up(const uint8_t *table, w16 index)
{
    __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
    return (w16){_mm256_shuffle_epi8(values, index.low), _mm256_shuffle_epi8(values, index.high)};
}

static ALWAYS_INLINE __m256i load_two(const uint8_t *a, const uint8_t *b)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const void *)a)),
                                   _mm_loadu_si128((const void *)b), 1);
}

/* Four registers of two times four by four 32-bit numbers: rows become columns in each half. */
static ALWAYS_INLINE void transpose_halves(__m256i *w)
{
    __m256i ab0 = _mm256_unpacklo_epi32(w[0], w[1]), ab1 = _mm256_unpackhi_epi32(w[0], w[1]);
    __m256i cd0 = _mm256_unpacklo_epi32(w[2], w[3]), cd1 = _mm256_unpackhi_epi32(w[2], w[3]);
    w[0] = _mm256_unpacklo_epi64(ab0, cd0);
    w[1] = _mm256_unpackhi_epi64(ab0, cd0);
    w[2] = _mm256_unpacklo_epi64(ab1, cd1);
    w[3] = _mm256_unpackhi_epi64(ab1, cd1);
}

/* Sixteen bytes of each row: w[i] becomes bytes 4 i to 4 i + 3 of all rows. */
static ALWAYS_INLINE void w16_load4(const uint8_t *const *row, size_t offset, w16 *w)
{
    __m256i low[4], high[4];

    UNROLL for (int i = 0; i < 4; i++)
    {
        low[i] = load_two(row[i] + offset, row[4 + i] + offset);
        high[i] = load_two(row[8 + i] + offset, row[12 + i] + offset);
    }
    transpose_halves(low);
    transpose_halves(high);
    UNROLL for (int i = 0; i < 4; i++) w[i] = (w16){low[i], high[i]};
}

/* The inverse. */
static ALWAYS_INLINE void w16_store4(uint8_t *const *row, size_t offset, w16 *w)
{
    __m256i low[4] = {w[0].low, w[1].low, w[2].low, w[3].low};
    __m256i high[4] = {w[0].high, w[1].high, w[2].high, w[3].high};

    transpose_halves(low);
    transpose_halves(high);
    for (int i = 0; i < 4; i++) {
        _mm_storeu_si128((void *)(row[i] + offset), _mm256_castsi256_si128(low[i]));
        _mm_storeu_si128((void *)(row[4 + i] + offset), _mm256_extracti128_si256(low[i], 1));
        _mm_storeu_si128((void *)(row[8 + i] + offset), _mm256_castsi256_si128(high[i]));
        _mm_storeu_si128((void *)(row[12 + i] + offset), _mm256_extracti128_si256(high[i], 1));
    }
}

static ALWAYS_INLINE f16 f16_load(const float *p)
{
    return (f16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static ALWAYS_INLINE void f16_store(float *p, f16 v)
{
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
}

static ALWAYS_INLINE f16 f16_add(f16 a, f16 b)
{
    return (f16){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

static ALWAYS_INLINE f16 f16_negative(f16 v)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (f16){_mm256_xor_ps(v.low, sign), _mm256_xor_ps(v.high, sign)};
}

static ALWAYS_INLINE f16 f16_from_ints(w16 v)
{
    return (f16){_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)};
}

static ALWAYS_INLINE f16 f16_from_halves(const uint16_t *half)
{
    return (f16){_mm256_cvtph_ps(_mm_loadu_si128((const void *)half)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const void *)(half + 8)))};
}

static ALWAYS_INLINE __m256 from_low_halves(__m256i v)
{
    __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    return _mm256_cvtph_ps(
        _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}

/* The low sixteen bits of each number are a half float. */
static ALWAYS_INLINE f16 f16_from_low_halves(w16 v)
{
    return (f16){from_low_halves(v.low), from_low_halves(v.high)};
}

/* ---- What is multiplied: eight rows at a time ---- */

typedef __m256i mint;
typedef __m256 mfloat;
#define M_ROWS 8
#define TILE_PIECES 1
#define TILE_COLUMNS 4

static ALWAYS_INLINE mint m_load(const void *p)
{
    return _mm256_load_si256(p);
}

static ALWAYS_INLINE mint m_all(int32_t v)
{
    return _mm256_set1_epi32(v);
}

static ALWAYS_INLINE mint m_and(mint a, mint b)
{
    return _mm256_and_si256(a, b);
}

static ALWAYS_INLINE mint m_srl16(mint v, int bits)
{
    return _mm256_srli_epi16(v, bits);
}

static ALWAYS_INLINE mint m_add16(mint a, mint b)
{
    return _mm256_add_epi16(a, b);
}

static ALWAYS_INLINE mint m_add32(mint a, mint b)
{
    return _mm256_add_epi32(a, b);
}

/* Unsigned times signed bytes, in pairs. */
static ALWAYS_INLINE mint m_mul8(mint u, mint s)
{
    return _mm256_maddubs_epi16(u, s);
}

static ALWAYS_INLINE mint m_add_pairs(mint v, int16_t factor)
{
    return _mm256_madd_epi16(v, _mm256_set1_epi16(factor));
}

static ALWAYS_INLINE mfloat m_to_float(mint v)
{
    return _mm256_cvtepi32_ps(v);
}

static ALWAYS_INLINE mfloat m_load_floats(const float *p)
{
    return _mm256_load_ps(p);
}

static ALWAYS_INLINE void m_store_floats(float *p, mfloat v)
{
    _mm256_store_ps(p, v);
}

static ALWAYS_INLINE mfloat m_all_floats(float v)
{
    return _mm256_set1_ps(v);
}

static ALWAYS_INLINE mfloat m_mul(mfloat a, mfloat b)
{
    return _mm256_mul_ps(a, b);
}

static ALWAYS_INLINE mfloat m_fma(mfloat a, mfloat b, mfloat c)
{
    return _mm256_fmadd_ps(a, b, c);
}

#include "quant/q8_gemm.h"

#include "quant/q8_gemm_block.h"
#include "quant/q8_gemm_unpack.h"

#include "quant/q8_gemm_pairs.h"

#include "quant/q8_gemm_types.h"

void ps_q8_init_gemm_avx2(struct ps_q8_versions *v)
{
    v->many = multiply_many;
}

#else

void ps_q8_init_gemm_avx2(struct ps_q8_versions *v)
{
    (void)v;
}

#endif
