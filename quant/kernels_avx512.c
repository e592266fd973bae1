/*
 * AVX-512 (F, BW, CD, DQ, VL): a v16 is one register. There are 32 of them: a tile of 4 rows by 6
 * columns keeps 24 chains going with 10 loads for 24 multiply-adds.
 */
#include "quant/kernels_internal.h"

#if defined(__x86_64__) && !defined(PS_SANITIZED)

#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "quant/kernels_bytes.h"

#define GEMV_ROWS 8
#define TILE_ROWS 4
#define TILE_COLUMNS 6
#define BLOCK_ROWS_SMALL 16
#define FEW_ROWS 4
#define FEW_COLUMNS 4
#define FEW_COLUMNS_MAX 8
#define FEW_COLUMNS_MAX_OF_BLOCKS 3
#define SUM_COLUMNS 8
#define DELTA_VECTORS 4

typedef __m512 v16;
typedef __m512 vm;
#define VM_LANES 16

static ALWAYS_INLINE v16 v_zero(void)
{
    return _mm512_setzero_ps();
}

static ALWAYS_INLINE v16 v_set1(float f)
{
    return _mm512_set1_ps(f);
}

static ALWAYS_INLINE v16 v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static ALWAYS_INLINE void v_store(float *p, v16 v)
{
    _mm512_storeu_ps(p, v);
}

static ALWAYS_INLINE __mmask16 first_lanes(size_t count)
{
    return (__mmask16)((1u << count) - 1);
}

/* Lanes from count on are 0, and their memory is not touched. */
static ALWAYS_INLINE v16 v_load_part(const float *p, size_t count)
{
    return _mm512_maskz_loadu_ps(first_lanes(count), p);
}

static ALWAYS_INLINE void v_store_part(float *p, v16 v, size_t count)
{
    _mm512_mask_storeu_ps(p, first_lanes(count), v);
}

/* The first count lanes of a, the others of b. */
static ALWAYS_INLINE v16 v_select_part(v16 a, v16 b, size_t count)
{
    return _mm512_mask_blend_ps(first_lanes(count), b, a);
}

static ALWAYS_INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
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

static ALWAYS_INLINE v16 v_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}

static ALWAYS_INLINE v16 v_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

static ALWAYS_INLINE v16 v_negate(v16 v)
{
    return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f));
}

static ALWAYS_INLINE __m256 v_add_halves(v16 v)
{
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

/* p times 2^n in two factors, n in the low mantissa bits of n + PS_EXP_ROUND. */
static ALWAYS_INLINE v16 v_scale_by_exponent(v16 p, v16 rounded)
{
    const __m512i bias = _mm512_set1_epi32(127);
    __m512i n =
        _mm512_sub_epi32(_mm512_castps_si512(rounded), _mm512_set1_epi32(PS_EXP_ROUND_BITS));
    __m512i first = _mm512_srai_epi32(n, 1);
    __m512i second = _mm512_sub_epi32(n, first);
    first = _mm512_slli_epi32(_mm512_add_epi32(first, bias), 23);
    second = _mm512_slli_epi32(_mm512_add_epi32(second, bias), 23);
    return _mm512_mul_ps(_mm512_mul_ps(p, _mm512_castsi512_ps(first)), _mm512_castsi512_ps(second));
}

static ALWAYS_INLINE vm vm_zero(void)
{
    return _mm512_setzero_ps();
}

/* Lanes l and l + 8 of a dot product; `low` would be its lanes in memory below the last register.
 */
static ALWAYS_INLINE __m256 vm_add_halves(vm last, const float *low)
{
    (void)low;
    return v_add_halves(last);
}

static ALWAYS_INLINE vm vm_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static ALWAYS_INLINE void vm_store(float *p, vm v)
{
    _mm512_storeu_ps(p, v);
}

static ALWAYS_INLINE vm vm_fma(vm a, vm b, vm c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static ALWAYS_INLINE v16 v_from_halves(const uint16_t *half)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)half));
}

static ALWAYS_INLINE void v_to_halves(uint16_t *half, v16 v)
{
    _mm256_storeu_si256((void *)half, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

static ALWAYS_INLINE void decode_f32(const uint8_t *src, const float *scale, v16 *w)
{
    (void)scale;
    w[0] = _mm512_loadu_ps(src);
    w[1] = _mm512_loadu_ps(src + 64);
}

static ALWAYS_INLINE void decode_f16(const uint8_t *src, const float *scale, v16 *w)
{
    (void)scale;
    w[0] = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)src));
    w[1] = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(src + 32)));
}

static ALWAYS_INLINE v16 widen_bf16(const uint8_t *src)
{
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)src));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

static ALWAYS_INLINE void decode_bf16(const uint8_t *src, const float *scale, v16 *w)
{
    (void)scale;
    w[0] = widen_bf16(src);
    w[1] = widen_bf16(src + 32);
}

static ALWAYS_INLINE void decode_q8_0(const uint8_t *src, const float *scale, v16 *w)
{
    v16 d = _mm512_set1_ps(*scale);
    __m512i low = _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(src + 2)));
    __m512i high = _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(src + 18)));
    w[0] = _mm512_mul_ps(d, _mm512_cvtepi32_ps(low));
    w[1] = _mm512_mul_ps(d, _mm512_cvtepi32_ps(high));
}

/*
 * The sixteen values that a block can hold fit one register: d * (q - 8) is a look-up, and one
 * multiplication serves 32 weights. The permutation reads the low four bits of an index only.
 */
static ALWAYS_INLINE void decode_q4_0(const uint8_t *src, const float *scale, v16 *w)
{
    const v16 steps = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    v16 values = _mm512_mul_ps(_mm512_set1_ps(*scale), steps);
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(src + 2)));
    w[0] = _mm512_permutexvar_ps(bytes, values);
    w[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), values);
}

/* ---- What kernels_blocks.h needs ---- */

static ALWAYS_INLINE v16 v_two_halves(float low, float high)
{
    return _mm512_insertf32x8(_mm512_set1_ps(low), _mm256_set1_ps(high), 1);
}

static ALWAYS_INLINE v16 v_from_half_words(__m256i halves)
{
    return _mm512_cvtph_ps(halves);
}

static ALWAYS_INLINE v16 v_from_bytes(__m128i bytes)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

/* A byte of ones for every set bit. */
static ALWAYS_INLINE __m256i spread_bits(uint32_t bits)
{
    return _mm256_movm_epi8(bits);
}

/* Sixteen bytes whose halves are indices into two tables, as in decode_q4_0. */
static ALWAYS_INLINE void look_up(const uint8_t *codes, v16 low_table, v16 high_table, v16 *low,
                                  v16 *high)
{
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)codes));
    *low = _mm512_permutexvar_ps(bytes, low_table);
    *high = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), high_table);
}

/* d * values[code] for the low halves of sixteen bytes, then the high ones. */
static ALWAYS_INLINE void v_nibbles_table(const uint8_t *codes, float d, const int8_t *values,
                                          v16 *w)
{
    v16 table = v_from_bytes(_mm_loadu_si128((const void *)values));
    table = _mm512_mul_ps(_mm512_set1_ps(d), table);
    look_up(codes, table, table, &w[0], &w[1]);
}

static ALWAYS_INLINE v16 offset_table(float d, float plus)
{
    const v16 steps = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_fmadd_ps(_mm512_set1_ps(d), steps, _mm512_set1_ps(plus));
}

/* d * code + plus. */
static ALWAYS_INLINE void v_nibbles_offset(const uint8_t *codes, float d, float plus, v16 *w)
{
    v16 table = offset_table(d, plus);
    look_up(codes, table, table, &w[0], &w[1]);
}

/* The same with scales and offsets of their own for low and high halves. */
static ALWAYS_INLINE void v_nibbles_offset_pair(const uint8_t *codes, const float *d,
                                                const float *plus, v16 *low, v16 *high)
{
    look_up(codes, offset_table(d[0], plus[0]), offset_table(d[1], plus[1]), low, high);
}

/* Sixteen values of two bits each, as indices whose upper bits are to be ignored. */
static ALWAYS_INLINE __m512i two_bit_indices(uint32_t codes)
{
    const __m512i shifts =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_srlv_epi32(_mm512_set1_epi32((int)codes), shifts);
}

/* Sixteen values of four bits each. */
static ALWAYS_INLINE __m512i four_bit_indices(uint64_t codes)
{
    const __m512i words = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512i shifts =
        _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    __m512i both = _mm512_castsi128_si512(_mm_cvtsi64_si128((long long)codes));
    return _mm512_srlv_epi32(_mm512_permutexvar_epi32(words, both), shifts);
}

/* Look-ups read four bits of an index: tables of codes of two bits hold everything four times. */
static ALWAYS_INLINE v16 four_times(float a, float b, float c)
{
    return _mm512_setr_ps(a, b, c, 0, a, b, c, 0, a, b, c, 0, a, b, c, 0);
}

static ALWAYS_INLINE v16 negate_where(v16 v, uint32_t signs)
{
    return _mm512_mask_xor_ps(v, (__mmask16)signs, v, _mm512_set1_ps(-0.0f));
}

/* Thirty-two values of IQ2: four entries, signs, a scale for each sixteen. */
static ALWAYS_INLINE void v_iq2(uint64_t entries, uint32_t signs, float d0, float d1, v16 *w)
{
    const v16 magnitudes = four_times(8, 25, 43);
    v16 first = v_mul(v_set1(d0), magnitudes), second = v_mul(v_set1(d1), magnitudes);
    first = _mm512_permutexvar_ps(two_bit_indices((uint32_t)entries), first);
    second = _mm512_permutexvar_ps(two_bit_indices((uint32_t)(entries >> 32)), second);
    w[0] = negate_where(first, signs);
    w[1] = negate_where(second, signs >> 16);
}

/* Thirty-two values of IQ3: eight entries, signs, what the codes stand for, one scale. */
static ALWAYS_INLINE void v_iq3(uint64_t first, uint64_t second, uint32_t signs,
                                const int8_t *values, float d, v16 *w)
{
    v16 table = v_mul(v_set1(d), v_from_bytes(load128((const void *)values)));
    w[0] = negate_where(_mm512_permutexvar_ps(four_bit_indices(first), table), signs);
    w[1] = negate_where(_mm512_permutexvar_ps(four_bit_indices(second), table), signs >> 16);
}

/* Sixteen values of IQ1, in eighths: eight times the grid's, and one less or more. */
static ALWAYS_INLINE v16 half_of_iq1(uint32_t entries, uint32_t below, float d)
{
    v16 over = v_mul(v_set1(d), four_times(-7, 1, 9)),
        under = v_mul(v_set1(d), four_times(-9, -1, 7));
    __m512i idx = two_bit_indices(entries);
    v16 w = _mm512_permutexvar_ps(idx, over);
    return _mm512_mask_permutexvar_ps(w, (__mmask16)below, idx, under);
}

static ALWAYS_INLINE void v_iq1(uint64_t entries, uint32_t below, float d0, float d1, v16 *w)
{
    w[0] = half_of_iq1((uint32_t)entries, below, d0);
    w[1] = half_of_iq1((uint32_t)(entries >> 32), below >> 16, d1);
}

/* Channels 0-3, 4-7, 8-11 and 12-15 come in one register each; tap i is every fourth value. */
static ALWAYS_INLINE void v_taps4(const float *w, v16 *tap)
{
    const __m512i even =
        _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(2));
    v16 a = v_load(w), b = v_load(w + 16), c = v_load(w + 32), d = v_load(w + 48);
    v16 ab01 = _mm512_permutex2var_ps(a, even, b), cd01 = _mm512_permutex2var_ps(c, even, d);
    v16 ab23 = _mm512_permutex2var_ps(a, odd, b), cd23 = _mm512_permutex2var_ps(c, odd, d);
    tap[0] = _mm512_shuffle_f32x4(ab01, cd01, 0x44);
    tap[1] = _mm512_shuffle_f32x4(ab01, cd01, 0xee);
    tap[2] = _mm512_shuffle_f32x4(ab23, cd23, 0x44);
    tap[3] = _mm512_shuffle_f32x4(ab23, cd23, 0xee);
}

#include "quant/kernels_vector.h"

void ps_kernels_init_avx512(struct ps_kernels *table)
{
    init_table(table);
}

#else

void ps_kernels_init_avx512(struct ps_kernels *table)
{
    (void)table;
}

#endif
