/*
 * AVX2: 64 bytes are two registers. Pairs of products are summed in 16 bits, saturating. An
 * unsigned factor below 128 cannot reach that; weights of eight bits hand their sign to the vector,
 * which has no -128, so that the sum of two products is at most 2 * 128 * 127.
 */
#include "quant/q8_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "quant/kernels_internal.h"

typedef struct {
    __m256i low, high;
} vq;
typedef struct {
    __m256 low, high;
} vf;

#define WIDE_BIAS 0
#define HIGH_IN_PLACE false

/* An operation on both registers. */
#define Q_BOTH(op, a) ((vq){op((a).low), op((a).high)})
#define Q_BOTH2(op, a, b) ((vq){op((a).low, (b).low), op((a).high, (b).high)})
#define Q_BOTH_BY(op, a, by) ((vq){op((a).low, by), op((a).high, by)})

static ALWAYS_INLINE vq q_zero(void)
{
    return (vq){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

static ALWAYS_INLINE vq q_set8(int v)
{
    __m256i one = _mm256_set1_epi8((char)v);
    return (vq){one, one};
}

static ALWAYS_INLINE vq q_set16(int v)
{
    __m256i one = _mm256_set1_epi16((short)v);
    return (vq){one, one};
}

static ALWAYS_INLINE vq q_set32(int v)
{
    __m256i one = _mm256_set1_epi32(v);
    return (vq){one, one};
}

static ALWAYS_INLINE __m256i load32(const uint8_t *p)
{
    return _mm256_loadu_si256((const void *)p);
}

static ALWAYS_INLINE __m256i load16_twice(const uint8_t *a, const uint8_t *b)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const void *)a)),
                                   _mm_loadu_si128((const void *)b), 1);
}

/* 32 bytes each. */
static ALWAYS_INLINE vq q_load2(const uint8_t *a, const uint8_t *b)
{
    return (vq){load32(a), load32(b)};
}

/* Sixteen bytes each. */
static ALWAYS_INLINE vq q_load4(const uint8_t *a, const uint8_t *b, const uint8_t *c,
                                const uint8_t *d)
{
    return (vq){load16_twice(a, b), load16_twice(c, d)};
}

static ALWAYS_INLINE vq q_load64(const uint8_t *p)
{
    return q_load2(p, p + 32);
}

/* The same sixteen bytes in every lane. */
static ALWAYS_INLINE vq q_lanes(__m128i v)
{
    __m256i twice = _mm256_broadcastsi128_si256(v);
    return (vq){twice, twice};
}

/* Lanes 0 and 2 of a, then of b. */
static ALWAYS_INLINE vq q_even_lanes(vq a, vq b)
{
    return (vq){_mm256_permute2x128_si256(a.low, a.high, 0x20),
                _mm256_permute2x128_si256(b.low, b.high, 0x20)};
}

static ALWAYS_INLINE vq q_odd_lanes(vq a, vq b)
{
    return (vq){_mm256_permute2x128_si256(a.low, a.high, 0x31),
                _mm256_permute2x128_si256(b.low, b.high, 0x31)};
}

static ALWAYS_INLINE vq q_shuffle8(vq v, vq from)
{
    return Q_BOTH2(_mm256_shuffle_epi8, v, from);
}

static ALWAYS_INLINE vq q_and(vq a, vq b)
{
    return Q_BOTH2(_mm256_and_si256, a, b);
}

static ALWAYS_INLINE vq q_or(vq a, vq b)
{
    return Q_BOTH2(_mm256_or_si256, a, b);
}

static ALWAYS_INLINE vq q_srl16(vq v, int bits)
{
    return Q_BOTH_BY(_mm256_srli_epi16, v, bits);
}

static ALWAYS_INLINE vq q_sll16(vq v, int bits)
{
    return Q_BOTH_BY(_mm256_slli_epi16, v, bits);
}

static ALWAYS_INLINE vq q_sll32(vq v, int bits)
{
    return Q_BOTH_BY(_mm256_slli_epi32, v, bits);
}

static ALWAYS_INLINE vq q_srlv32(vq v, vq bits)
{
    return Q_BOTH2(_mm256_srlv_epi32, v, bits);
}

static ALWAYS_INLINE vq q_srav32(vq v, vq bits)
{
    return Q_BOTH2(_mm256_srav_epi32, v, bits);
}

static ALWAYS_INLINE vq q_sllv32(vq v, vq bits)
{
    return Q_BOTH2(_mm256_sllv_epi32, v, bits);
}

/* The upper 32 bytes shifted to the right, in units of 16 bits. */
static ALWAYS_INLINE vq q_shift_upper(vq v, int bits)
{
    return (vq){v.low, _mm256_srli_epi16(v.high, bits)};
}

static ALWAYS_INLINE vq q_add32(vq a, vq b)
{
    return Q_BOTH2(_mm256_add_epi32, a, b);
}

static ALWAYS_INLINE vq q_sub32(vq a, vq b)
{
    return Q_BOTH2(_mm256_sub_epi32, a, b);
}

static ALWAYS_INLINE vq q_mul32(vq a, vq b)
{
    return Q_BOTH2(_mm256_mullo_epi32, a, b);
}

static ALWAYS_INLINE vq q_madd16(vq a, vq b)
{
    return Q_BOTH2(_mm256_madd_epi16, a, b);
}

static ALWAYS_INLINE vq q_unpacklo32(vq a, vq b)
{
    return Q_BOTH2(_mm256_unpacklo_epi32, a, b);
}

static ALWAYS_INLINE vq q_unpackhi32(vq a, vq b)
{
    return Q_BOTH2(_mm256_unpackhi_epi32, a, b);
}

static ALWAYS_INLINE vq q_unpacklo64(vq a, vq b)
{
    return Q_BOTH2(_mm256_unpacklo_epi64, a, b);
}

static ALWAYS_INLINE vq q_unpackhi64(vq a, vq b)
{
    return Q_BOTH2(_mm256_unpackhi_epi64, a, b);
}

static ALWAYS_INLINE __m256i add_lanes(vq v)
{
    return _mm256_add_epi32(_mm256_permute2x128_si256(v.low, v.high, 0x20),
                            _mm256_permute2x128_si256(v.low, v.high, 0x31));
}

/* Lanes 0 + 1 and 2 + 3 of a, then of b. */
static ALWAYS_INLINE vq q_add_lanes(vq a, vq b)
{
    return (vq){add_lanes(a), add_lanes(b)};
}

/*
 * From sums of which lane i holds [block i, block i + 4] of one row and of the next, or [block 2 i,
 * block 2 i + 1], to [row][block].
 */
static ALWAYS_INLINE vq q_from_ascending(vq v)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7);
    return (vq){_mm256_permutevar8x32_epi32(_mm256_unpacklo_epi64(v.low, v.high), order),
                _mm256_permutevar8x32_epi32(_mm256_unpackhi_epi64(v.low, v.high), order)};
}

static ALWAYS_INLINE vq q_from_by_two(vq v)
{
    return (vq){_mm256_permute4x64_epi64(_mm256_unpacklo_epi64(v.low, v.high), 0xd8),
                _mm256_permute4x64_epi64(_mm256_unpackhi_epi64(v.low, v.high), 0xd8)};
}

/* The table in every lane, for look-ups by the low four bits of a byte. */
static ALWAYS_INLINE vq q_table(const int8_t *values, int bias)
{
    return q_lanes(_mm_add_epi8(_mm_loadu_si128((const void *)values), _mm_set1_epi8((char)bias)));
}

static ALWAYS_INLINE vq q_look_up(vq table, vq index)
{
    return Q_BOTH2(_mm256_shuffle_epi8, table, q_and(index, q_set8(15)));
}

/* One byte for all of a lane. */
static ALWAYS_INLINE vq q_bits_of_lanes(int a, int b, int c, int d)
{
    return (vq){_mm256_setr_m128i(_mm_set1_epi8((char)a), _mm_set1_epi8((char)b)),
                _mm256_setr_m128i(_mm_set1_epi8((char)c), _mm_set1_epi8((char)d))};
}

static ALWAYS_INLINE __m256i add_where(__m256i u, __m256i h, __m256i bit, int v)
{
    __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(h, bit), bit);
    return _mm256_add_epi8(u, _mm256_and_si256(set, _mm256_set1_epi8((char)v)));
}

/* Adds v to the bytes of u where those of h have the bit. */
static ALWAYS_INLINE vq q_add_where(vq u, vq h, vq bit, int v)
{
    return (vq){add_where(u.low, h.low, bit.low, v), add_where(u.high, h.high, bit.high, v)};
}

/* v in the bytes whose bit is set. */
static ALWAYS_INLINE __m256i spread_bits(uint32_t bits, int v)
{
    const __m256i which = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                           2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), which);
    __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    return _mm256_and_si256(set, _mm256_set1_epi8((char)v));
}

/* Adds v to the bytes whose bit is set. */
static ALWAYS_INLINE vq q_add_bits(vq u, uint64_t bits, int v)
{
    return (vq){_mm256_add_epi8(u.low, spread_bits((uint32_t)bits, v)),
                _mm256_add_epi8(u.high, spread_bits((uint32_t)(bits >> 32), v))};
}

static ALWAYS_INLINE vq q_widen8_32(__m128i v)
{
    return (vq){_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))};
}

static ALWAYS_INLINE vq q_widen8u_32(__m128i v)
{
    return (vq){_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
}

/* Eight bytes of each lane, the lower or the upper, widened to 32 bits: lanes 0 and 1, 2 and 3. */
static ALWAYS_INLINE vq widen_lanes(__m256i v)
{
    return (vq){_mm256_cvtepu8_epi32(_mm256_castsi256_si128(v)),
                _mm256_cvtepu8_epi32(_mm256_extracti128_si256(v, 1))};
}

static ALWAYS_INLINE void q_widen_rows(vq v, int upper, vq *out)
{
    out[0] = widen_lanes(upper ? _mm256_srli_si256(v.low, 8) : v.low);
    out[1] = widen_lanes(upper ? _mm256_srli_si256(v.high, 8) : v.high);
}

static ALWAYS_INLINE vq q_widen8_16(__m128i a, __m128i b)
{
    return (vq){_mm256_cvtepi8_epi16(a), _mm256_cvtepi8_epi16(b)};
}

/* a eight times, then b. */
static ALWAYS_INLINE vq q_spread32(uint32_t a, uint32_t b)
{
    return (vq){_mm256_set1_epi32((int)a), _mm256_set1_epi32((int)b)};
}

/* step * [0, 1, ... 7, 0, 1, ... 7] */
static ALWAYS_INLINE vq q_multiples32(int step)
{
    __m256i one =
        _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(step));
    return (vq){one, one};
}

/* Where a < b, `less`, elsewhere `other`. */
static ALWAYS_INLINE vq q_select32_less(vq a, vq b, vq less, vq other)
{
    return (vq){
        _mm256_blendv_epi8(other.low, less.low, _mm256_cmpgt_epi32(b.low, a.low)),
        _mm256_blendv_epi8(other.high, less.high, _mm256_cmpgt_epi32(b.high, a.high)),
    };
}

static ALWAYS_INLINE vq q_wide(vq v)
{
    return v;
}

static ALWAYS_INLINE vq q_dot(vq acc, vq u, vq x)
{
    vq pairs = Q_BOTH2(_mm256_maddubs_epi16, u, x);
    return q_add32(acc, q_madd16(pairs, q_set16(1)));
}

static ALWAYS_INLINE vq q_dot_wide(vq acc, vq w, vq x)
{
    return q_dot(acc, Q_BOTH(_mm256_abs_epi8, w), Q_BOTH2(_mm256_sign_epi8, x, w));
}

static ALWAYS_INLINE vf q_to_float(vq v)
{
    return (vf){_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)};
}

static ALWAYS_INLINE vf f_from_bits(vq v)
{
    return (vf){_mm256_castsi256_ps(v.low), _mm256_castsi256_ps(v.high)};
}

static ALWAYS_INLINE vf f_zero(void)
{
    return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

/* Eight floats each. */
static ALWAYS_INLINE vf f_load2(const float *a, const float *b)
{
    return (vf){_mm256_loadu_ps(a), _mm256_loadu_ps(b)};
}

static ALWAYS_INLINE void f_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
}

static ALWAYS_INLINE vf f_mul(vf a, vf b)
{
    return (vf){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

static ALWAYS_INLINE vf f_fma(vf a, vf b, vf c)
{
    return (vf){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

/* c - a * b */
static ALWAYS_INLINE vf f_fma_negated(vf a, vf b, vf c)
{
    return (vf){_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}

static ALWAYS_INLINE vf f_from_halves(__m128i first, __m128i second)
{
    return (vf){_mm256_cvtph_ps(first), _mm256_cvtph_ps(second)};
}

/* Element i eight times, then element j. */
static ALWAYS_INLINE vf f_spread(__m256 v, int i, int j)
{
    return (vf){_mm256_permutevar8x32_ps(v, _mm256_set1_epi32(i)),
                _mm256_permutevar8x32_ps(v, _mm256_set1_epi32(j))};
}

/* The lanes' first two half floats: of lanes 0 and 1, and of 2 and 3, spread over eight blocks. */
static ALWAYS_INLINE void f_first_halves(vq lanes, vf *s, vf *t)
{
    __m256i first = _mm256_unpacklo_epi32(lanes.low, lanes.high); /* rows 0, 2 and 1, 3 */
    __m256 all = _mm256_cvtph_ps(
        _mm_unpacklo_epi64(_mm256_castsi256_si128(first), _mm256_extracti128_si256(first, 1)));
    s[0] = f_spread(all, 0, 4);
    t[0] = f_spread(all, 1, 5);
    s[1] = f_spread(all, 2, 6);
    t[1] = f_spread(all, 3, 7);
}

static ALWAYS_INLINE __m256 f_first(vf v)
{
    return v.low;
}

static ALWAYS_INLINE __m256 f_second(vf v)
{
    return v.high;
}

/* Elements [from, from + count) of each row are a's, the others b's. */
static ALWAYS_INLINE vf f_select(vf a, vf b, size_t from, size_t count)
{
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i after = _mm256_cmpgt_epi32(index, _mm256_set1_epi32((int)from - 1));
    __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(from + count)), index);
    __m256 mask = _mm256_castsi256_ps(_mm256_and_si256(after, before));
    return (vf){_mm256_blendv_ps(b.low, a.low, mask), _mm256_blendv_ps(b.high, a.high, mask)};
}

/* ---- Rounding ---- */

static ALWAYS_INLINE uint32_t reduce_max(__m256i v)
{
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

static ALWAYS_INLINE int16_t sum_bytes(__m128i q)
{
    __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), q);
    __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi16(1));
    fours = _mm_add_epi32(fours, _mm_shuffle_epi32(fours, 0x4e));
    return (int16_t)_mm_cvtsi128_si32(_mm_add_epi32(fours, _mm_shuffle_epi32(fours, 0xb1)));
}

static ALWAYS_INLINE void quantize_block(const float *x, int8_t *q, float *d, int16_t *sum)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i bits = _mm256_setzero_si256(), r[4];
    float max, inverse = 0;

    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_loadu_si256((const void *)(x + 8 * i));
        bits = _mm256_max_epu32(bits, _mm256_and_si256(r[i], magnitude));
    }
    uint32_t max_bits = reduce_max(bits);
    memcpy(&max, &max_bits, sizeof(max));
    *d = 0;
    if (max_bits >= PS_Q8_SPECIAL_BITS) {
        *d = NAN;
        memset(r, 0, sizeof(r)); /* infinity times zero is no number either */
    } else if (max_bits >= PS_Q8_LEAST_BITS) {
        *d = max / 127;
        inverse = 127 / max;
    }
    for (int i = 0; i < 4; i++)
        r[i] =
            _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_castsi256_ps(r[i]), _mm256_set1_ps(inverse)));
    /* Packing works within lanes: the last permutation restores the order of the fours. */
    __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(r[0], r[1]), _mm256_packs_epi32(r[2], r[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((void *)q, bytes);
    sum[0] = sum_bytes(_mm256_castsi256_si128(bytes));
    sum[1] = sum_bytes(_mm256_extracti128_si256(bytes, 1));
}

#include "quant/q8_common.h"

#include "quant/q8_gather.h"
#include "quant/q8_vector.h"

void ps_q8_init_avx2(struct ps_q8_versions *v)
{
    init_versions(v);
}

#else

void ps_q8_init_avx2(struct ps_q8_versions *v)
{
    (void)v;
}

#endif
