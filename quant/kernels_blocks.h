/*
 * Decoders of the formats with more than a scale a block, written once over bytes in AVX2 registers
 * and sixteen floats (v16); part of kernels_vector.h, by whose rules they live. A decoder hands the
 * values of one block in ascending order, sixteen at a time, to a put_fn, which multiplies them or
 * stores them.
 *
 * Why the bits are those of the definitions: every product of a scale, a sub-scale and a code fits
 * the 24 bits of a float (11 + 6 + 7 at most), so it is exact in any order of factors, and fused
 * with the subtraction of a minimum it is rounded once, as there. Factors of zero keep the sign
 * that the definitions give them, because codes are multiplied last. Magnitudes with signs are
 * signed as integers, and as integers a code is never -0.
 */
#include "quant/decode.h"

/* Where sixteen values go. */
struct sink {
    const float *x; /* to be multiplied with these, of up to FEW_COLUMNS columns */
    size_t ldx;
    v16 acc[FEW_COLUMNS];
    float *w; /* or stored here */
};

/*
 * What a block of 256 has to be told about its sub-blocks, found before its values are: many at a
 * time, and early enough to be read from memory into all lanes at no cost.
 */
struct prepared {
    _Alignas(64) float d[PS_LANES], plus[PS_LANES];
    uint8_t signs[32];
};

typedef void put_fn(struct sink *s, size_t at, v16 w);
typedef void prepare_fn(const uint8_t *src, struct prepared *p);
typedef void block_fn(const uint8_t *src, const struct prepared *p, put_fn *put, struct sink *s);

static ALWAYS_INLINE void put_product(struct sink *s, size_t at, v16 w)
{
    s->acc[0] = v_fma(w, v_load(s->x + at), s->acc[0]);
}

static ALWAYS_INLINE void put_products(struct sink *s, size_t at, v16 w, const int n)
{
    UNROLL for (int j = 0; j < n; j++) s->acc[j] =
        v_fma(w, v_load(s->x + (size_t)j * s->ldx + at), s->acc[j]);
}

static ALWAYS_INLINE void put_two(struct sink *s, size_t at, v16 w)
{
    put_products(s, at, w, 2);
}

static ALWAYS_INLINE void put_three(struct sink *s, size_t at, v16 w)
{
    put_products(s, at, w, 3);
}

static ALWAYS_INLINE void put_few(struct sink *s, size_t at, v16 w)
{
    put_products(s, at, w, FEW_COLUMNS);
}

static ALWAYS_INLINE void put_value(struct sink *s, size_t at, v16 w)
{
    v_store(s->w + at, w);
}

static ALWAYS_INLINE void put_pair(put_fn *put, struct sink *s, size_t at, const v16 *w)
{
    put(s, at, w[0]);
    put(s, at + 16, w[1]);
}

/* Thirty-two signed bytes as floats times a scale for each sixteen. */
static ALWAYS_INLINE void put_scaled(put_fn *put, struct sink *s, size_t at, __m256i q, float d0,
                                     float d1)
{
    put(s, at, v_mul(v_set1(d0), v_from_bytes(_mm256_castsi256_si128(q))));
    put(s, at + 16, v_mul(v_set1(d1), v_from_bytes(_mm256_extracti128_si256(q, 1))));
}

/* The same with something added to each product. */
static ALWAYS_INLINE void put_offset(put_fn *put, struct sink *s, size_t at, __m256i q,
                                     const float *d, const float *plus)
{
    put(s, at, v_fma(v_set1(d[0]), v_from_bytes(_mm256_castsi256_si128(q)), v_set1(plus[0])));
    put(s, at + 16,
        v_fma(v_set1(d[1]), v_from_bytes(_mm256_extracti128_si256(q, 1)), v_set1(plus[1])));
}

/* ---- blocks of 32 ---- */

static ALWAYS_INLINE void block_q4_1(const uint8_t *src, const struct prepared *p, put_fn *put,
                                     struct sink *s)
{
    (void)p;
    v16 w[2];
    v_nibbles_offset(src + 4, load_scale(src), load_scale(src + 2), w);
    put_pair(put, s, 0, w);
}

static ALWAYS_INLINE void block_q5_0(const uint8_t *src, const struct prepared *p, put_fn *put,
                                     struct sink *s)
{
    (void)p;
    float d = load_scale(src);
    /* Without its fifth bit a code is sixteen less: the high bits of a negative byte. */
    __m256i less = _mm256_andnot_si256(spread_bits(load32(src + 2)), _mm256_set1_epi8(-16));
    put_scaled(put, s, 0, _mm256_or_si256(nibbles(src + 6), less), d, d);
}

static ALWAYS_INLINE void block_q5_1(const uint8_t *src, const struct prepared *p, put_fn *put,
                                     struct sink *s)
{
    (void)p;
    const float d[2] = {load_scale(src), load_scale(src)};
    const float m[2] = {load_scale(src + 2), load_scale(src + 2)};
    __m256i high = select_bits(spread_bits(load32(src + 4)), 16);
    put_offset(put, s, 0, _mm256_or_si256(nibbles(src + 8), high), d, m);
}

static ALWAYS_INLINE void block_iq4_nl(const uint8_t *src, const struct prepared *p, put_fn *put,
                                       struct sink *s)
{
    (void)p;
    v16 w[2];
    v_nibbles_table(src + 2, load_scale(src), ps_iq4_values, w);
    put_pair(put, s, 0, w);
}

static ALWAYS_INLINE void block_mxfp4(const uint8_t *src, const struct prepared *p, put_fn *put,
                                      struct sink *s)
{
    (void)p;
    uint32_t e = src[0], bits = e < 2 ? 0x00200000u << e : (e - 1) << 23;
    float d;
    v16 w[2];
    memcpy(&d, &bits, sizeof(d));
    v_nibbles_table(src + 1, d, ps_mxfp4_values, w);
    put_pair(put, s, 0, w);
}

/* ---- F8_E4M3 ---- */

/*
 * Sixteen codes as half floats of 2^-8 times their value: the exponent's bias is 15 instead of 7,
 * and the conversion of halves knows denormals. Codes of NaN would come out as numbers.
 */
static ALWAYS_INLINE __m256i halves_of_e4m3(const uint8_t *src)
{
    __m256i words = _mm256_slli_epi16(_mm256_cvtepi8_epi16(load128(src)), 7);
    return _mm256_and_si256(words, _mm256_set1_epi16((short)0xbf80));
}

static ALWAYS_INLINE bool has_nan_e4m3(const uint8_t *src)
{
    __m256i most = _mm256_setzero_si256();
    UNROLL for (int i = 0; i < 4; i++) most =
        _mm256_max_epu8(most, select_bits(load256(src + 32 * i), 0x7f));
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(most, _mm256_set1_epi8(0x7f))) != 0;
}

static __attribute__((noinline)) void decode_rare_f8_e4m3(const uint8_t *src, float *w)
{
    ps_row_decode(PS_TYPE_F8_E4M3, src, w, 128);
}

/*
 * The factor 2^8 goes into the scale, so that each value is rounded once, as it is defined. Where
 * the scale has no room for it, and for codes of NaN, the definition itself decodes: hardly ever.
 */
static ALWAYS_INLINE void block_f8_e4m3(const uint8_t *src, const struct prepared *p, put_fn *put,
                                        struct sink *s)
{
    (void)p;
    float scale;
    memcpy(&scale, src, sizeof(scale));
    if (__builtin_expect(has_nan_e4m3(src + 4) || !(fabsf(scale) < 0x1p119f), 0)) {
        _Alignas(64) float w[128];
        decode_rare_f8_e4m3(src, w);
        for (size_t at = 0; at < 128; at += 16)
            put(s, at, v_load(w + at));
        return;
    }
    v16 factor = v_set1(scale * 256);
    UNROLL for (size_t at = 0; at < 128; at += 16)
        put(s, at, v_mul(v_from_half_words(halves_of_e4m3(src + 4 + at)), factor));
}

/* ---- K formats ---- */

static ALWAYS_INLINE void prepare_q2_k(const uint8_t *src, struct prepared *p)
{
    __m128i scales = load128(src), low = _mm_set1_epi8(15);
    v_store(p->d, v_mul(v_set1(load_scale(src + 80)), v_from_bytes(_mm_and_si128(scales, low))));
    scales = _mm_and_si128(_mm_srli_epi16(scales, 4), low);
    v_store(p->plus, v_negate(v_mul(v_set1(load_scale(src + 82)), v_from_bytes(scales))));
}

static ALWAYS_INLINE void block_q2_k(const uint8_t *src, const struct prepared *p, put_fn *put,
                                     struct sink *s)
{
    for (int n = 0; n < 2; n++) {
        __m256i bytes = load256(src + 16 + 32 * n);
        UNROLL for (int j = 0; j < 4; j++)
        {
            int run = 4 * n + j;
            __m256i q = select_bits(_mm256_srli_epi16(bytes, 2 * j), 3);
            put_offset(put, s, (size_t)run * 32, q, p->d + 2 * run, p->plus + 2 * run);
        }
    }
}

static ALWAYS_INLINE void prepare_q3_k(const uint8_t *src, struct prepared *p)
{
    uint64_t low = load64(src + 96), h = load32(src + 104);
    uint64_t h01 = h | h >> 2 << 32, h23 = h >> 4 | h >> 6 << 32;
    __m128i lows = _mm_set_epi64x((long long)(low >> 4), (long long)low);
    __m128i highs = _mm_set_epi64x((long long)h23, (long long)h01);
    lows = _mm_and_si128(lows, _mm_set1_epi8(15));
    highs = _mm_slli_epi16(_mm_and_si128(highs, _mm_set1_epi8(3)), 4);
    __m128i scales = _mm_sub_epi8(_mm_or_si128(lows, highs), _mm_set1_epi8(32));
    v_store(p->d, v_mul(v_set1(load_scale(src + 108)), v_from_bytes(scales)));
}

static ALWAYS_INLINE void block_q3_k(const uint8_t *src, const struct prepared *p, put_fn *put,
                                     struct sink *s)
{
    __m256i mask = load256(src);

    for (int n = 0; n < 2; n++) {
        __m256i bytes = load256(src + 32 + 32 * n);
        UNROLL for (int j = 0; j < 4; j++)
        {
            int run = 4 * n + j;
            __m256i clear = _mm256_cmpeq_epi8(select_bits(mask, 1 << run), _mm256_setzero_si256());
            __m256i q = select_bits(_mm256_srli_epi16(bytes, 2 * j), 3);
            q = _mm256_or_si256(q, select_bits(clear, -4));
            put_scaled(put, s, (size_t)run * 32, q, p->d[2 * run], p->d[2 * run + 1]);
        }
    }
}

/* Scales times d, and minima times -dmin, of the eight sub-blocks of Q4_K and Q5_K. */
static ALWAYS_INLINE void prepare_q4_k(const uint8_t *src, struct prepared *p)
{
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x30303030;
    uint32_t a = load32(src + 4), b = load32(src + 8), c = load32(src + 12);
    uint64_t scales = (a & six) | (uint64_t)((c & four) | (a >> 2 & two)) << 32;
    uint64_t minima = (b & six) | (uint64_t)((c >> 4 & four) | (b >> 2 & two)) << 32;
    v16 codes = v_from_bytes(_mm_set_epi64x((long long)minima, (long long)scales));
    v_store(p->d, v_mul(codes, v_two_halves(load_scale(src), -load_scale(src + 2))));
}

static ALWAYS_INLINE void block_q4_k(const uint8_t *src, const struct prepared *p, put_fn *put,
                                     struct sink *s)
{
    UNROLL for (int c = 0; c < 4; c++)
    {
        const uint8_t *q = src + 16 + 32 * c;
        const float *pair = p->d + 2 * c;
        v16 w[4];
        v_nibbles_offset_pair(q, pair, pair + 8, w, w + 2);
        v_nibbles_offset_pair(q + 16, pair, pair + 8, w + 1, w + 3);
        for (int i = 0; i < 4; i++)
            put(s, (size_t)(64 * c + 16 * i), w[i]);
    }
}

static ALWAYS_INLINE void prepare_q5_k(const uint8_t *src, struct prepared *p)
{
    prepare_q4_k(src, p);
}

static ALWAYS_INLINE void block_q5_k(const uint8_t *src, const struct prepared *p, put_fn *put,
                                     struct sink *s)
{
    __m256i high = load256(src + 16);

    UNROLL for (int j = 0; j < 8; j++)
    {
        __m256i q = load256(src + 48 + j / 2 * 32);
        q = select_bits(j % 2 ? _mm256_srli_epi16(q, 4) : q, 15);
        __m256i bit = j < 4 ? _mm256_slli_epi16(high, 4 - j) : _mm256_srli_epi16(high, j - 4);
        q = _mm256_or_si256(q, select_bits(bit, 16));
        const float d[2] = {p->d[j], p->d[j]}, plus[2] = {p->d[8 + j], p->d[8 + j]};
        put_offset(put, s, (size_t)j * 32, q, d, plus);
    }
}

static ALWAYS_INLINE void prepare_q6_k(const uint8_t *src, struct prepared *p)
{
    v_store(p->d, v_mul(v_set1(load_scale(src + 208)), v_from_bytes(load128(src + 192))));
}

static ALWAYS_INLINE void block_q6_k(const uint8_t *src, const struct prepared *p, put_fn *put,
                                     struct sink *s)
{
    for (int n = 0; n < 2; n++) {
        __m256i high = load256(src + 128 + 32 * n);
        UNROLL for (int j = 0; j < 4; j++)
        {
            __m256i q = load256(src + 64 * n + j % 2 * 32);
            q = select_bits(j / 2 ? _mm256_srli_epi16(q, 4) : q, 15);
            __m256i bits =
                j < 2 ? _mm256_slli_epi16(high, 4 - 2 * j) : _mm256_srli_epi16(high, 2 * j - 4);
            q = _mm256_or_si256(q, select_bits(bits, 48));
            q = _mm256_sub_epi8(q, _mm256_set1_epi8(32));
            put_scaled(put, s, (size_t)(128 * n + 32 * j), q, p->d[8 * n + 2 * j],
                       p->d[8 * n + 2 * j + 1]);
        }
    }
}

/* ---- IQ formats ---- */

/* Bytes of seven signs each: the eighth is set where their number is odd. */
static ALWAYS_INLINE __m256i complete_signs(__m256i seven)
{
    const __m256i odd =
        _mm256_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0, 0,
                         -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
    __m256i low = _mm256_shuffle_epi8(odd, select_bits(seven, 15));
    __m256i high = _mm256_shuffle_epi8(odd, select_bits(_mm256_srli_epi16(seven, 4), 7));
    return _mm256_or_si256(seven, _mm256_xor_si256(low, high));
}

/* 2 c + 1 for sixteen codes, times a scale. */
static ALWAYS_INLINE v16 odd_scales(__m128i codes, float d)
{
    codes = _mm_add_epi8(_mm_add_epi8(codes, codes), _mm_set1_epi8(1));
    return v_mul(v_set1(d), v_from_bytes(codes));
}

/* The same for eight codes. */
static ALWAYS_INLINE void store_odd_scales(__m256i codes, float scale, float *d)
{
    codes = _mm256_add_epi32(_mm256_add_epi32(codes, codes), _mm256_set1_epi32(1));
    _mm256_storeu_ps(d, _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_cvtepi32_ps(codes)));
}

/* Words of four times seven signs and a scale of four bits, as IQ2_XXS and IQ3_XXS have them. */
static ALWAYS_INLINE void prepare_words(__m256i words, float d, struct prepared *p)
{
    __m256i signs = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
    for (int i = 1; i < 4; i++)
        signs = _mm256_or_si256(
            signs, _mm256_and_si256(_mm256_slli_epi32(words, i), _mm256_set1_epi32(0x7f << 8 * i)));
    _mm256_storeu_si256((void *)p->signs, complete_signs(signs));
    store_odd_scales(_mm256_srli_epi32(words, 28), d, p->d);
}

static ALWAYS_INLINE uint64_t four_entries(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    return a | b << 16 | c << 32 | d << 48;
}

/* The words are every second one of 64 bytes. */
static ALWAYS_INLINE void prepare_iq2_xxs(const uint8_t *src, struct prepared *p)
{
    __m256 a = _mm256_castsi256_ps(load256(src + 2)), b = _mm256_castsi256_ps(load256(src + 34));
    __m256i words = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
    prepare_words(_mm256_permute4x64_epi64(words, 0xd8), load_scale(src) * 0.125f, p);
}

static ALWAYS_INLINE void block_iq2_xxs(const uint8_t *src, const struct prepared *p, put_fn *put,
                                        struct sink *s)
{
    const uint16_t *grid = ps_grid_iq2_xxs;

    for (size_t j = 0; j < 8; j++) {
        const uint8_t *idx = src + 2 + 8 * j;
        uint64_t entries = four_entries(grid[idx[0]], grid[idx[1]], grid[idx[2]], grid[idx[3]]);
        v16 w[2];
        v_iq2(entries, load32(p->signs + 4 * j), p->d[j], p->d[j], w);
        put_pair(put, s, 32 * j, w);
    }
}

static ALWAYS_INLINE void prepare_iq2_xs(const uint8_t *src, struct prepared *p)
{
    __m256i a = _mm256_srli_epi16(load256(src + 2), 9), b = _mm256_srli_epi16(load256(src + 34), 9);
    __m256i signs = _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xd8);
    _mm256_storeu_si256((void *)p->signs, complete_signs(signs));
    v_store(p->d, odd_scales(nibbles_in_order(load64(src + 66)), load_scale(src) * 0.125f));
}

static ALWAYS_INLINE void block_iq2_xs(const uint8_t *src, const struct prepared *p, put_fn *put,
                                       struct sink *s)
{
    const uint16_t *grid = ps_grid_iq2_xs;

    for (size_t j = 0; j < 8; j++) {
        uint64_t codes = load64(src + 2 + 8 * j);
        uint64_t entries = four_entries(grid[codes & 511], grid[codes >> 16 & 511],
                                        grid[codes >> 32 & 511], grid[codes >> 48 & 511]);
        v16 w[2];
        v_iq2(entries, load32(p->signs + 4 * j), p->d[2 * j], p->d[2 * j + 1], w);
        put_pair(put, s, 32 * j, w);
    }
}

static ALWAYS_INLINE void prepare_iq2_s(const uint8_t *src, struct prepared *p)
{
    v_store(p->d, odd_scales(nibbles_in_order(load64(src + 74)), load_scale(src) * 0.125f));
}

static ALWAYS_INLINE void block_iq2_s(const uint8_t *src, const struct prepared *p, put_fn *put,
                                      struct sink *s)
{
    const uint16_t *grid = ps_grid_iq2_s;

    for (size_t j = 0; j < 8; j++) {
        const uint8_t *low = src + 2 + 4 * j;
        uint32_t high = src[66 + j];
        uint64_t entries =
            four_entries(grid[low[0] | (high << 8 & 0x300)], grid[low[1] | (high << 6 & 0x300)],
                         grid[low[2] | (high << 4 & 0x300)], grid[low[3] | (high << 2 & 0x300)]);
        v16 w[2];
        v_iq2(entries, load32(low + 32), p->d[2 * j], p->d[2 * j + 1], w);
        put_pair(put, s, 32 * j, w);
    }
}

static ALWAYS_INLINE void prepare_iq3_xxs(const uint8_t *src, struct prepared *p)
{
    prepare_words(load256(src + 66), load_scale(src) * 0.25f, p);
}

static ALWAYS_INLINE void block_iq3_xxs(const uint8_t *src, const struct prepared *p, put_fn *put,
                                        struct sink *s)
{
    static const int8_t values[16] = {4, 12, 20, 28, 36, 44, 52, 62};
    const uint16_t *grid = ps_grid_iq3_xxs;

    for (size_t j = 0; j < 8; j++) {
        const uint8_t *idx = src + 2 + 8 * j;
        v16 w[2];
        v_iq3(four_entries(grid[idx[0]], grid[idx[1]], grid[idx[2]], grid[idx[3]]),
              four_entries(grid[idx[4]], grid[idx[5]], grid[idx[6]], grid[idx[7]]),
              load32(p->signs + 4 * j), values, p->d[j], w);
        put_pair(put, s, 32 * j, w);
    }
}

/* Entry i of eight that share a byte of ninth bits. */
static ALWAYS_INLINE uint64_t iq3_s_entry(const uint8_t *low, uint32_t high, int i)
{
    return ps_grid_iq3_s[low[i] | (high << (8 - i) & 0x100)];
}

static ALWAYS_INLINE void prepare_iq3_s(const uint8_t *src, struct prepared *p)
{
    v_store(p->d, odd_scales(nibbles_in_order(load32(src + 106)), load_scale(src)));
}

static ALWAYS_INLINE void block_iq3_s(const uint8_t *src, const struct prepared *p, put_fn *put,
                                      struct sink *s)
{
    static const int8_t values[16] = {1, 3, 5, 7, 9, 11, 13, 15};

    for (size_t j = 0; j < 8; j++) {
        const uint8_t *low = src + 2 + 8 * j;
        uint32_t h = src[66 + j];
        v16 w[2];
        v_iq3(four_entries(iq3_s_entry(low, h, 0), iq3_s_entry(low, h, 1), iq3_s_entry(low, h, 2),
                           iq3_s_entry(low, h, 3)),
              four_entries(iq3_s_entry(low, h, 4), iq3_s_entry(low, h, 5), iq3_s_entry(low, h, 6),
                           iq3_s_entry(low, h, 7)),
              load32(src + 74 + 4 * j), values, p->d[j], w);
        put_pair(put, s, 32 * j, w);
    }
}

static ALWAYS_INLINE void prepare_iq1_s(const uint8_t *src, struct prepared *p)
{
    __m256i words = _mm256_cvtepu16_epi32(load128(src + 34));
    __m256i codes = _mm256_and_si256(_mm256_srli_epi32(words, 12), _mm256_set1_epi32(7));
    store_odd_scales(codes, load_scale(src) * 0.125f, p->d);
}

static ALWAYS_INLINE void block_iq1_s(const uint8_t *src, const struct prepared *p, put_fn *put,
                                      struct sink *s)
{
    const uint16_t *grid = ps_grid_iq1;

    for (size_t j = 0; j < 8; j++) {
        const uint8_t *low = src + 2 + 4 * j;
        uint32_t word = load16(src + 34 + 2 * j);
        uint64_t entries =
            four_entries(grid[low[0] | (word << 8 & 0x700)], grid[low[1] | (word << 5 & 0x700)],
                         grid[low[2] | (word << 2 & 0x700)], grid[low[3] | (word >> 1 & 0x700)]);
        v16 w[2];
        v_iq1(entries, word >> 15 ? UINT32_MAX : 0, p->d[j], p->d[j], w);
        put_pair(put, s, 32 * j, w);
    }
}

/* The sixteen scales of three bits are four to a word of sixteen bits, below four bits of d. */
static ALWAYS_INLINE void prepare_iq1_m(const uint8_t *src, struct prepared *p)
{
    uint64_t words = load64(src + 48), top = words >> 12 & 0x000f000f000f000f;
    top |= top >> 12;
    uint32_t half = (uint32_t)((top & 0xff) | (top >> 32 & 0xff) << 8);
    const uint64_t three = 0x0007000700070007;
    __m128i a = _mm_cvtsi64_si128((long long)(words & three));
    __m128i b = _mm_cvtsi64_si128((long long)(words >> 3 & three));
    __m128i c = _mm_cvtsi64_si128((long long)(words >> 6 & three));
    __m128i e = _mm_cvtsi64_si128((long long)(words >> 9 & three));
    __m128i codes = _mm_unpacklo_epi16(_mm_or_si128(a, _mm_slli_epi16(b, 8)),
                                       _mm_or_si128(c, _mm_slli_epi16(e, 8)));
    float scale = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128((int)half)));
    v_store(p->d, odd_scales(codes, scale * 0.125f));
}

static ALWAYS_INLINE void block_iq1_m(const uint8_t *src, const struct prepared *p, put_fn *put,
                                      struct sink *s)
{
    const uint16_t *grid = ps_grid_iq1;

    for (size_t j = 0; j < 8; j++) {
        const uint8_t *low = src + 4 * j;
        uint32_t high = load16(src + 32 + 2 * j);
        uint64_t entries =
            four_entries(grid[low[0] | (high << 8 & 0x700)], grid[low[1] | (high << 4 & 0x700)],
                         grid[low[2] | (high & 0x700)], grid[low[3] | (high >> 4 & 0x700)]);
        /* Bits 3, 7, 11 and 15 say below, each for eight values. */
        uint32_t below =
            (high >> 3 & 1) | (high << 1 & 0x100) | (high << 5 & 0x10000) | (high << 9 & 0x1000000);
        v16 w[2];
        v_iq1(entries, below * 0xff, p->d[2 * j], p->d[2 * j + 1], w);
        put_pair(put, s, 32 * j, w);
    }
}

static ALWAYS_INLINE void prepare_iq4_xs(const uint8_t *src, struct prepared *p)
{
    const __m256i twice = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    __m256i low = _mm256_set1_epi32((int)load32(src + 4)),
            high = _mm256_set1_epi32(load16(src + 2));
    low = _mm256_srlv_epi32(low, _mm256_add_epi32(twice, twice));
    high = _mm256_slli_epi32(_mm256_srlv_epi32(high, twice), 4);
    low = _mm256_and_si256(low, _mm256_set1_epi32(15));
    high = _mm256_and_si256(high, _mm256_set1_epi32(48));
    __m256i codes = _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
    __m256 d = _mm256_set1_ps(load_scale(src));
    _mm256_storeu_ps(p->d, _mm256_mul_ps(d, _mm256_cvtepi32_ps(codes)));
}

static ALWAYS_INLINE void block_iq4_xs(const uint8_t *src, const struct prepared *p, put_fn *put,
                                       struct sink *s)
{
    UNROLL for (int j = 0; j < 8; j++)
    {
        v16 w[2];
        v_nibbles_table(src + 8 + 16 * j, p->d[j], ps_iq4_values, w);
        put_pair(put, s, (size_t)j * 32, w);
    }
}
