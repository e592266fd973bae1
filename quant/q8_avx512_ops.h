/*
 * Registers of 512 bits for q8_vector.h, with AVX-512 F, BW, CD, DQ and VL. The including file adds
 * how weights are multiplied.
 */
typedef __m512i vq;
typedef __m512 vf;

static ALWAYS_INLINE vq q_zero(void)
{
    return _mm512_setzero_si512();
}

static ALWAYS_INLINE vq q_set8(int v)
{
    return _mm512_set1_epi8((char)v);
}

static ALWAYS_INLINE vq q_set16(int v)
{
    return _mm512_set1_epi16((short)v);
}

static ALWAYS_INLINE vq q_set32(int v)
{
    return _mm512_set1_epi32(v);
}

/* 32 bytes each. */
static ALWAYS_INLINE vq q_load2(const uint8_t *a, const uint8_t *b)
{
    __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)a));
    return _mm512_inserti64x4(low, _mm256_loadu_si256((const void *)b), 1);
}

/* Sixteen bytes each. */
static ALWAYS_INLINE vq q_load4(const uint8_t *a, const uint8_t *b, const uint8_t *c,
                                const uint8_t *d)
{
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const void *)a));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)b), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)c), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const void *)d), 3);
}

static ALWAYS_INLINE vq q_load64(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}

/* The same sixteen bytes in every lane. */
static ALWAYS_INLINE vq q_lanes(__m128i v)
{
    return _mm512_broadcast_i32x4(v);
}

/* Lanes 0 and 2 of a, then of b. */
static ALWAYS_INLINE vq q_even_lanes(vq a, vq b)
{
    return _mm512_shuffle_i32x4(a, b, 0x88);
}

static ALWAYS_INLINE vq q_odd_lanes(vq a, vq b)
{
    return _mm512_shuffle_i32x4(a, b, 0xdd);
}

static ALWAYS_INLINE vq q_shuffle8(vq v, vq from)
{
    return _mm512_shuffle_epi8(v, from);
}

static ALWAYS_INLINE vq q_and(vq a, vq b)
{
    return _mm512_and_si512(a, b);
}

static ALWAYS_INLINE vq q_or(vq a, vq b)
{
    return _mm512_or_si512(a, b);
}

static ALWAYS_INLINE vq q_srl16(vq v, int bits)
{
    return _mm512_srli_epi16(v, (unsigned)bits);
}

static ALWAYS_INLINE vq q_sll16(vq v, int bits)
{
    return _mm512_slli_epi16(v, (unsigned)bits);
}

static ALWAYS_INLINE vq q_sll32(vq v, int bits)
{
    return _mm512_slli_epi32(v, (unsigned)bits);
}

static ALWAYS_INLINE vq q_srlv32(vq v, vq bits)
{
    return _mm512_srlv_epi32(v, bits);
}

static ALWAYS_INLINE vq q_srav32(vq v, vq bits)
{
    return _mm512_srav_epi32(v, bits);
}

static ALWAYS_INLINE vq q_sllv32(vq v, vq bits)
{
    return _mm512_sllv_epi32(v, bits);
}

/* The upper 32 bytes shifted to the right, in units of 16 bits. */
static ALWAYS_INLINE vq q_shift_upper(vq v, int bits)
{
    return _mm512_mask_srli_epi16(v, 0xffff0000u, v, (unsigned)bits);
}

static ALWAYS_INLINE vq q_add32(vq a, vq b)
{
    return _mm512_add_epi32(a, b);
}

static ALWAYS_INLINE vq q_sub32(vq a, vq b)
{
    return _mm512_sub_epi32(a, b);
}

static ALWAYS_INLINE vq q_mul32(vq a, vq b)
{
    return _mm512_mullo_epi32(a, b);
}

static ALWAYS_INLINE vq q_madd16(vq a, vq b)
{
    return _mm512_madd_epi16(a, b);
}

static ALWAYS_INLINE vq q_unpacklo32(vq a, vq b)
{
    return _mm512_unpacklo_epi32(a, b);
}

static ALWAYS_INLINE vq q_unpackhi32(vq a, vq b)
{
    return _mm512_unpackhi_epi32(a, b);
}

static ALWAYS_INLINE vq q_unpacklo64(vq a, vq b)
{
    return _mm512_unpacklo_epi64(a, b);
}

static ALWAYS_INLINE vq q_unpackhi64(vq a, vq b)
{
    return _mm512_unpackhi_epi64(a, b);
}

/* Lanes 0 + 1 and 2 + 3 of a, then of b. */
static ALWAYS_INLINE vq q_add_lanes(vq a, vq b)
{
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

/*
 * From sums of which lane i holds [block i, block i + 4] of one row and of the next, or [block 2 i,
 * block 2 i + 1], to [row][block].
 */
static ALWAYS_INLINE vq q_from_ascending(vq v)
{
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v);
}

static ALWAYS_INLINE vq q_from_by_two(vq v)
{
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), v);
}

/* Adds v to the bytes whose bit is set. */
static ALWAYS_INLINE vq q_add_bits(vq u, uint64_t bits, int v)
{
    return _mm512_mask_add_epi8(u, bits, u, q_set8(v));
}

/* One byte for all of a lane. */
static ALWAYS_INLINE vq q_bits_of_lanes(int a, int b, int c, int d)
{
    return _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_setr_m128i(_mm_set1_epi8((char)a), _mm_set1_epi8((char)b))),
        _mm256_setr_m128i(_mm_set1_epi8((char)c), _mm_set1_epi8((char)d)), 1);
}

/* Adds v to the bytes of u where those of h have the bit. */
static ALWAYS_INLINE vq q_add_where(vq u, vq h, vq bit, int v)
{
    return _mm512_mask_add_epi8(u, _mm512_test_epi8_mask(h, bit), u, q_set8(v));
}

static ALWAYS_INLINE vq q_widen8_32(__m128i v)
{
    return _mm512_cvtepi8_epi32(v);
}

static ALWAYS_INLINE vq q_widen8_16(__m128i a, __m128i b)
{
    return _mm512_cvtepi8_epi16(_mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1));
}

/* a eight times, then b. */
static ALWAYS_INLINE vq q_spread32(uint32_t a, uint32_t b)
{
    return _mm512_inserti64x4(_mm512_set1_epi32((int)a), _mm256_set1_epi32((int)b), 1);
}

/* step * [0, 1, ... 7, 0, 1, ... 7] */
static ALWAYS_INLINE vq q_multiples32(int step)
{
    return _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7),
                              _mm512_set1_epi32(step));
}

/* Where a < b, `less`, elsewhere `other`. */
static ALWAYS_INLINE vq q_select32_less(vq a, vq b, vq less, vq other)
{
    return _mm512_mask_blend_epi32(_mm512_cmplt_epi32_mask(a, b), other, less);
}

static ALWAYS_INLINE vf q_to_float(vq v)
{
    return _mm512_cvtepi32_ps(v);
}

static ALWAYS_INLINE vf f_from_bits(vq v)
{
    return _mm512_castsi512_ps(v);
}

static ALWAYS_INLINE vf f_zero(void)
{
    return _mm512_setzero_ps();
}

/* Eight floats each. */
static ALWAYS_INLINE vf f_load2(const float *a, const float *b)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
}

static ALWAYS_INLINE void f_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}

static ALWAYS_INLINE vf f_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

static ALWAYS_INLINE vf f_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* c - a * b */
static ALWAYS_INLINE vf f_fma_negated(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

static ALWAYS_INLINE vf f_from_halves(__m128i first, __m128i second)
{
    return _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1));
}

/* Element i eight times, then element j. */
static ALWAYS_INLINE vf f_spread(__m256 v, int i, int j)
{
    return _mm512_permutexvar_ps(_mm512_setr_epi32(i, i, i, i, i, i, i, i, j, j, j, j, j, j, j, j),
                                 _mm512_castps256_ps512(v));
}

/* The lanes' first two half floats: of lanes 0 and 1, and of 2 and 3, spread over eight blocks. */
static ALWAYS_INLINE void f_first_halves(vq lanes, vf *s, vf *t)
{
    __m512i packed = _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12), lanes);
    __m256 all = _mm256_cvtph_ps(_mm512_castsi512_si128(packed));
    s[0] = f_spread(all, 0, 2);
    t[0] = f_spread(all, 1, 3);
    s[1] = f_spread(all, 4, 6);
    t[1] = f_spread(all, 5, 7);
}

static ALWAYS_INLINE __m256 f_first(vf v)
{
    return _mm512_castps512_ps256(v);
}

static ALWAYS_INLINE __m256 f_second(vf v)
{
    return _mm512_extractf32x8_ps(v, 1);
}

/* Elements [from, from + count) of each row are a's, the others b's. */
static ALWAYS_INLINE vf f_select(vf a, vf b, size_t from, size_t count)
{
    unsigned row = ((1u << count) - 1) << from;
    return _mm512_mask_blend_ps((__mmask16)(row | row << 8), b, a);
}

/* ---- Rounding ---- */

static ALWAYS_INLINE void quantize_block(const float *x, int8_t *q, float *d, int16_t *sum)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    __m512i bits = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                                    _mm512_and_si512(_mm512_castps_si512(b), magnitude));
    uint32_t max_bits = _mm512_reduce_max_epu32(bits);
    float max, inverse = 0;

    memcpy(&max, &max_bits, sizeof(max));
    *d = 0;
    if (max_bits >= PS_Q8_SPECIAL_BITS) {
        *d = NAN;
        a = b = _mm512_setzero_ps(); /* infinity times zero is no number either */
    } else if (max_bits >= PS_Q8_LEAST_BITS) {
        *d = max / 127;
        inverse = 127 / max;
    }
    __m512i qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, _mm512_set1_ps(inverse)));
    __m512i qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, _mm512_set1_ps(inverse)));
    _mm_storeu_si128((void *)q, _mm512_cvtepi32_epi8(qa));
    _mm_storeu_si128((void *)(q + 16), _mm512_cvtepi32_epi8(qb));
    sum[0] = (int16_t)_mm512_reduce_add_epi32(qa);
    sum[1] = (int16_t)_mm512_reduce_add_epi32(qb);
}
