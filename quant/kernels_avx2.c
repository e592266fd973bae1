/*
 * AVX2 with FMA and F16C: a v16 is two registers of eight, of which there are sixteen. Tiles work
 * on one register of lanes at a time: 4 rows by 3 columns are 12 chains.
 */
#include "quant/kernels_internal.h"

#if defined(__x86_64__)

#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "quant/kernels_bytes.h"

#define GEMV_ROWS 8
#define TILE_ROWS 4
#define TILE_COLUMNS 3
#define BLOCK_ROWS_SMALL 4
#define FEW_ROWS 1
#define FEW_COLUMNS 4
#define FEW_COLUMNS_MAX 4
#define FEW_COLUMNS_MAX_OF_BLOCKS 4
#define SUM_COLUMNS 2
#define DELTA_VECTORS 2

typedef struct {
    __m256 low, high;
} v16;
typedef __m256 vm;
#define VM_LANES 8

static ALWAYS_INLINE v16 v_pair(__m256 low, __m256 high)
{
    return (v16){low, high};
}

static ALWAYS_INLINE v16 v_set1(float f)
{
    __m256 v = _mm256_set1_ps(f);
    return v_pair(v, v);
}

static ALWAYS_INLINE v16 v_zero(void)
{
    return v_set1(0);
}

static ALWAYS_INLINE v16 v_load(const float *p)
{
    return v_pair(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

static ALWAYS_INLINE void v_store(float *p, v16 v)
{
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
}

/* Sixteen set words, then sixteen clear ones: a window into it selects the first lanes. */
static const int32_t lane_masks[32] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                       -1, -1, -1, -1, -1, -1, -1, -1};

static ALWAYS_INLINE __m256i first_lanes(size_t count, size_t offset)
{
    return _mm256_loadu_si256((const void *)(lane_masks + 16 - count + offset));
}

/* Lanes from count on are 0, and their memory is not touched. */
static ALWAYS_INLINE v16 v_load_part(const float *p, size_t count)
{
    return v_pair(_mm256_maskload_ps(p, first_lanes(count, 0)),
                  _mm256_maskload_ps(p + 8, first_lanes(count, 8)));
}

static ALWAYS_INLINE void v_store_part(float *p, v16 v, size_t count)
{
    _mm256_maskstore_ps(p, first_lanes(count, 0), v.low);
    _mm256_maskstore_ps(p + 8, first_lanes(count, 8), v.high);
}

/* The first count lanes of a, the others of b. */
static ALWAYS_INLINE v16 v_select_part(v16 a, v16 b, size_t count)
{
    __m256 low = _mm256_castsi256_ps(first_lanes(count, 0));
    __m256 high = _mm256_castsi256_ps(first_lanes(count, 8));
    return v_pair(_mm256_blendv_ps(b.low, a.low, low), _mm256_blendv_ps(b.high, a.high, high));
}

static ALWAYS_INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    return v_pair(_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high));
}

static ALWAYS_INLINE v16 v_add(v16 a, v16 b)
{
    return v_pair(_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high));
}

static ALWAYS_INLINE v16 v_sub(v16 a, v16 b)
{
    return v_pair(_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high));
}

static ALWAYS_INLINE v16 v_mul(v16 a, v16 b)
{
    return v_pair(_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high));
}

static ALWAYS_INLINE v16 v_div(v16 a, v16 b)
{
    return v_pair(_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high));
}

static ALWAYS_INLINE v16 v_min(v16 a, v16 b)
{
    return v_pair(_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high));
}

static ALWAYS_INLINE v16 v_max(v16 a, v16 b)
{
    return v_pair(_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high));
}

static ALWAYS_INLINE v16 v_negate(v16 v)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return v_pair(_mm256_xor_ps(v.low, sign), _mm256_xor_ps(v.high, sign));
}

static ALWAYS_INLINE __m256 v_add_halves(v16 v)
{
    return _mm256_add_ps(v.low, v.high);
}

/* p times 2^n in two factors, n in the low mantissa bits of n + PS_EXP_ROUND. */
static ALWAYS_INLINE __m256 scale_by_exponent(__m256 p, __m256 rounded)
{
    const __m256i bias = _mm256_set1_epi32(127);
    __m256i n =
        _mm256_sub_epi32(_mm256_castps_si256(rounded), _mm256_set1_epi32(PS_EXP_ROUND_BITS));
    __m256i first = _mm256_srai_epi32(n, 1);
    __m256i second = _mm256_sub_epi32(n, first);
    first = _mm256_slli_epi32(_mm256_add_epi32(first, bias), 23);
    second = _mm256_slli_epi32(_mm256_add_epi32(second, bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}

static ALWAYS_INLINE v16 v_scale_by_exponent(v16 p, v16 rounded)
{
    return v_pair(scale_by_exponent(p.low, rounded.low), scale_by_exponent(p.high, rounded.high));
}

static ALWAYS_INLINE vm vm_zero(void)
{
    return _mm256_setzero_ps();
}

/* Lanes l and l + 8 of a dot product whose lanes below the last register are in memory at `low`. */
static ALWAYS_INLINE __m256 vm_add_halves(vm last, const float *low)
{
    return _mm256_add_ps(_mm256_loadu_ps(low), last);
}

static ALWAYS_INLINE vm vm_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static ALWAYS_INLINE void vm_store(float *p, vm v)
{
    _mm256_storeu_ps(p, v);
}

static ALWAYS_INLINE vm vm_fma(vm a, vm b, vm c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static ALWAYS_INLINE v16 v_from_halves(const uint16_t *half)
{
    return v_pair(_mm256_cvtph_ps(_mm_loadu_si128((const void *)half)),
                  _mm256_cvtph_ps(_mm_loadu_si128((const void *)(half + 8))));
}

static ALWAYS_INLINE void v_to_halves(uint16_t *half, v16 v)
{
    _mm_storeu_si128((void *)half, _mm256_cvtps_ph(v.low, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((void *)(half + 8), _mm256_cvtps_ph(v.high, _MM_FROUND_TO_NEAREST_INT));
}

static ALWAYS_INLINE void decode_f32(const uint8_t *src, const float *scale, v16 *w)
{
    (void)scale;
    w[0] = v_load((const void *)src);
    w[1] = v_load((const void *)(src + 64));
}

static ALWAYS_INLINE __m256 widen_f16(const uint8_t *src)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)src));
}

static ALWAYS_INLINE void decode_f16(const uint8_t *src, const float *scale, v16 *w)
{
    (void)scale;
    w[0] = v_pair(widen_f16(src), widen_f16(src + 16));
    w[1] = v_pair(widen_f16(src + 32), widen_f16(src + 48));
}

static ALWAYS_INLINE __m256 widen_bf16(const uint8_t *src)
{
    __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)src));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}

static ALWAYS_INLINE void decode_bf16(const uint8_t *src, const float *scale, v16 *w)
{
    (void)scale;
    w[0] = v_pair(widen_bf16(src), widen_bf16(src + 16));
    w[1] = v_pair(widen_bf16(src + 32), widen_bf16(src + 48));
}

/* d times sixteen signed bytes. */
static ALWAYS_INLINE v16 scale_bytes(__m256 d, __m128i bytes)
{
    __m256i low = _mm256_cvtepi8_epi32(bytes);
    __m256i high = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes));
    return v_pair(_mm256_mul_ps(d, _mm256_cvtepi32_ps(low)),
                  _mm256_mul_ps(d, _mm256_cvtepi32_ps(high)));
}

static ALWAYS_INLINE void decode_q8_0(const uint8_t *src, const float *scale, v16 *w)
{
    __m256 d = _mm256_set1_ps(*scale);
    w[0] = scale_bytes(d, _mm_loadu_si128((const void *)(src + 2)));
    w[1] = scale_bytes(d, _mm_loadu_si128((const void *)(src + 18)));
}

static ALWAYS_INLINE void decode_q4_0(const uint8_t *src, const float *scale, v16 *w)
{
    const __m128i nibble = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    __m256 d = _mm256_set1_ps(*scale);
    __m128i bytes = _mm_loadu_si128((const void *)(src + 2));
    __m128i low = _mm_and_si128(bytes, nibble);
    __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble);
    w[0] = scale_bytes(d, _mm_sub_epi8(low, eight));
    w[1] = scale_bytes(d, _mm_sub_epi8(high, eight));
}

/* ---- What kernels_blocks.h needs ---- */

static ALWAYS_INLINE v16 v_two_halves(float low, float high)
{
    return v_pair(_mm256_set1_ps(low), _mm256_set1_ps(high));
}

static ALWAYS_INLINE v16 v_from_half_words(__m256i halves)
{
    return v_pair(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
                  _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
}

static ALWAYS_INLINE v16 v_from_bytes(__m128i bytes)
{
    __m256i low = _mm256_cvtepi8_epi32(bytes);
    __m256i high = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes));
    return v_pair(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high));
}

/* A byte of ones for every set bit. */
static ALWAYS_INLINE __m256i spread_bits(uint32_t bits)
{
    const __m256i source = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                            2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), source);
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
}

static ALWAYS_INLINE void split_nibbles(const uint8_t *codes, __m128i *low, __m128i *high)
{
    const __m128i nibble = _mm_set1_epi8(15);
    __m128i bytes = _mm_loadu_si128((const void *)codes);
    *low = _mm_and_si128(bytes, nibble);
    *high = _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble);
}

/* d * values[code] for the low halves of sixteen bytes, then the high ones. */
static ALWAYS_INLINE void v_nibbles_table(const uint8_t *codes, float d, const int8_t *values,
                                          v16 *w)
{
    __m128i table = _mm_loadu_si128((const void *)values), low, high;
    split_nibbles(codes, &low, &high);
    w[0] = scale_bytes(_mm256_set1_ps(d), _mm_shuffle_epi8(table, low));
    w[1] = scale_bytes(_mm256_set1_ps(d), _mm_shuffle_epi8(table, high));
}

/* d * code + plus, with scales and offsets of their own for low and high halves. */
static ALWAYS_INLINE void v_nibbles_offset_pair(const uint8_t *codes, const float *d,
                                                const float *plus, v16 *low, v16 *high)
{
    __m128i first, second;
    split_nibbles(codes, &first, &second);
    *low = v_fma(v_set1(d[0]), v_from_bytes(first), v_set1(plus[0]));
    *high = v_fma(v_set1(d[1]), v_from_bytes(second), v_set1(plus[1]));
}

/* The same with one scale and offset. */
static ALWAYS_INLINE void v_nibbles_offset(const uint8_t *codes, float d, float plus, v16 *w)
{
    const float both_d[2] = {d, d}, both_plus[2] = {plus, plus};
    v_nibbles_offset_pair(codes, both_d, both_plus, &w[0], &w[1]);
}

/* Thirty-two signed bytes, times a scale for each half. */
static ALWAYS_INLINE void v_scaled_bytes(__m256i q, float d0, float d1, v16 *w)
{
    w[0] = scale_bytes(_mm256_set1_ps(d0), _mm256_castsi256_si128(q));
    w[1] = scale_bytes(_mm256_set1_ps(d1), _mm256_extracti128_si256(q, 1));
}

/* Four entries of two bits a value, mapped to bytes: 0, 1 and 2 to a, b and c. */
static ALWAYS_INLINE __m256i two_bit_values(uint64_t entries, char a, char b, char c)
{
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4,
                                            4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
    /* Of four bytes the first two have their code low, and the others too after a shift by four;
     * then even ones are at bit 0 and odd ones at bit 2. */
    const __m256i values = _mm256_setr_epi8(a, b, c, 0, b, 0, 0, 0, c, 0, 0, 0, 0, 0, 0, 0, a, b, c,
                                            0, b, 0, 0, 0, c, 0, 0, 0, 0, 0, 0, 0);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi64x((long long)entries), spread);
    bytes = _mm256_blend_epi16(bytes, _mm256_srli_epi16(bytes, 4), 0xaa);
    bytes = _mm256_and_si256(bytes, _mm256_set1_epi16(0x0c03));
    return _mm256_shuffle_epi8(values, bytes);
}

static ALWAYS_INLINE __m256i with_signs(__m256i magnitudes, uint32_t signs)
{
    __m256i negative = spread_bits(signs);
    return _mm256_sub_epi8(_mm256_xor_si256(magnitudes, negative), negative);
}

/* Thirty-two values of IQ2: four entries, signs, a scale for each sixteen. */
static ALWAYS_INLINE void v_iq2(uint64_t entries, uint32_t signs, float d0, float d1, v16 *w)
{
    v_scaled_bytes(with_signs(two_bit_values(entries, 8, 25, 43), signs), d0, d1, w);
}

/* Thirty-two values of IQ3: eight entries, signs, what the codes stand for, one scale. */
static ALWAYS_INLINE void v_iq3(uint64_t first, uint64_t second, uint32_t signs,
                                const int8_t *values, float d, v16 *w)
{
    __m256i codes = _mm256_set_m128i(nibbles_in_order(second), nibbles_in_order(first));
    __m256i table = _mm256_broadcastsi128_si256(load128((const void *)values));
    v_scaled_bytes(with_signs(_mm256_shuffle_epi8(table, codes), signs), d, d, w);
}

/* Thirty-two values of IQ1 in eighths: eight times the grid's, and one less or more. */
static ALWAYS_INLINE void v_iq1(uint64_t entries, uint32_t below, float d0, float d1, v16 *w)
{
    __m256i side = _mm256_or_si256(spread_bits(below), _mm256_set1_epi8(1));
    v_scaled_bytes(_mm256_add_epi8(two_bit_values(entries, -8, 0, 8), side), d0, d1, w);
}

/*
 * Four taps of eight channels: channels i and i + 4 share a register, so that a transposition
 * within its 128-bit halves leaves the channels in order.
 */
static ALWAYS_INLINE void taps4(const float *w, __m256 *tap)
{
    __m256 c[4];
    for (int i = 0; i < 4; i++) {
        __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(w + 4 * i));
        c[i] = _mm256_insertf128_ps(low, _mm_loadu_ps(w + 4 * (i + 4)), 1);
    }
    __m256 low01 = _mm256_unpacklo_ps(c[0], c[1]), high01 = _mm256_unpackhi_ps(c[0], c[1]);
    __m256 low23 = _mm256_unpacklo_ps(c[2], c[3]), high23 = _mm256_unpackhi_ps(c[2], c[3]);
    tap[0] = _mm256_shuffle_ps(low01, low23, 0x44);
    tap[1] = _mm256_shuffle_ps(low01, low23, 0xee);
    tap[2] = _mm256_shuffle_ps(high01, high23, 0x44);
    tap[3] = _mm256_shuffle_ps(high01, high23, 0xee);
}

static ALWAYS_INLINE void v_taps4(const float *w, v16 *tap)
{
    __m256 low[4], high[4];
    taps4(w, low);
    taps4(w + 32, high);
    for (int i = 0; i < 4; i++)
        tap[i] = v_pair(low[i], high[i]);
}

#include "quant/kernels_vector.h"

void ps_kernels_init_avx2(struct ps_kernels *table)
{
    init_table(table);
}

#else

void ps_kernels_init_avx2(struct ps_kernels *table)
{
    (void)table;
}

#endif
