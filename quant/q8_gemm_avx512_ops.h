/* Registers of 512 bits for q8_gemm.h: AVX-512 F, BW, DQ and VL. */
typedef __m512i w16;
typedef __m512 f16;

static ALWAYS_INLINE w16 w16_all(uint32_t v)
{
    return _mm512_set1_epi32((int)v);
}

static ALWAYS_INLINE w16 w16_load(const void *p)
{
    return _mm512_load_si512(p);
}

static ALWAYS_INLINE void w16_store(void *p, w16 v)
{
    _mm512_store_si512(p, v);
}

static ALWAYS_INLINE w16 w16_and(w16 a, w16 b)
{
    return _mm512_and_si512(a, b);
}

static ALWAYS_INLINE w16 w16_or(w16 a, w16 b)
{
    return _mm512_or_si512(a, b);
}

static ALWAYS_INLINE w16 w16_xor(w16 a, w16 b)
{
    return _mm512_xor_si512(a, b);
}

static ALWAYS_INLINE w16 w16_sub(w16 a, w16 b)
{
    return _mm512_sub_epi32(a, b);
}

/* To the left; to the right if negative. */
static ALWAYS_INLINE w16 w16_shift(w16 v, int bits)
{
    return bits < 0 ? _mm512_srli_epi32(v, (unsigned)-bits) : _mm512_slli_epi32(v, (unsigned)bits);
}

/* Bytes of a table of sixteen. */
static ALWAYS_INLINE w16 w16_look_up(const uint8_t *table, w16 index)
{
    __m128i values = _mm_loadu_si128((const void *)table);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), index);
}

/* Sixteen bytes of rows 0, 4, 8 and 12. */
static ALWAYS_INLINE w16 load_every_fourth(const uint8_t *const *row, size_t offset)
{
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(row[0] + offset)));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(row[4] + offset)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(row[8] + offset)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(row[12] + offset)), 3);
}

/* Four registers of four by four 32-bit numbers: rows become columns in each quarter. */
static ALWAYS_INLINE void transpose_quarters(w16 *w)
{
    w16 ab0 = _mm512_unpacklo_epi32(w[0], w[1]), ab1 = _mm512_unpackhi_epi32(w[0], w[1]);
    w16 cd0 = _mm512_unpacklo_epi32(w[2], w[3]), cd1 = _mm512_unpackhi_epi32(w[2], w[3]);
    w[0] = _mm512_unpacklo_epi64(ab0, cd0);
    w[1] = _mm512_unpackhi_epi64(ab0, cd0);
    w[2] = _mm512_unpacklo_epi64(ab1, cd1);
    w[3] = _mm512_unpackhi_epi64(ab1, cd1);
}

/* Sixteen bytes of each row: w[i] becomes bytes 4 i to 4 i + 3 of all rows. */
static ALWAYS_INLINE void w16_load4(const uint8_t *const *row, size_t offset, w16 *w)
{
    for (int i = 0; i < 4; i++)
        w[i] = load_every_fourth(row + i, offset);
    transpose_quarters(w);
}

/* The inverse. */
static ALWAYS_INLINE void w16_store4(uint8_t *const *row, size_t offset, w16 *w)
{
    transpose_quarters(w);
    for (int i = 0; i < 4; i++) {
        _mm_storeu_si128((void *)(row[i] + offset), _mm512_castsi512_si128(w[i]));
        _mm_storeu_si128((void *)(row[4 + i] + offset), _mm512_extracti32x4_epi32(w[i], 1));
        _mm_storeu_si128((void *)(row[8 + i] + offset), _mm512_extracti32x4_epi32(w[i], 2));
        _mm_storeu_si128((void *)(row[12 + i] + offset), _mm512_extracti32x4_epi32(w[i], 3));
    }
}

static ALWAYS_INLINE f16 f16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static ALWAYS_INLINE void f16_store(float *p, f16 v)
{
    _mm512_storeu_ps(p, v);
}

static ALWAYS_INLINE f16 f16_add(f16 a, f16 b)
{
    return _mm512_add_ps(a, b);
}

static ALWAYS_INLINE f16 f16_negative(f16 v)
{
    return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f));
}

static ALWAYS_INLINE f16 f16_from_ints(w16 v)
{
    return _mm512_cvtepi32_ps(v);
}

static ALWAYS_INLINE f16 f16_from_halves(const uint16_t *half)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)half));
}

/* The low sixteen bits of each number are a half float. */
static ALWAYS_INLINE f16 f16_from_low_halves(w16 v)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}

/* ---- What is multiplied: rows of one register of integers, which here are all of a panel ---- */

typedef __m512i mint;
typedef __m512 mfloat;
#define M_ROWS 16

static ALWAYS_INLINE mint m_load(const void *p)
{
    return _mm512_load_si512(p);
}

static ALWAYS_INLINE mint m_all(int32_t v)
{
    return _mm512_set1_epi32(v);
}

static ALWAYS_INLINE mint m_add32(mint a, mint b)
{
    return _mm512_add_epi32(a, b);
}

static ALWAYS_INLINE mfloat m_to_float(mint v)
{
    return _mm512_cvtepi32_ps(v);
}

static ALWAYS_INLINE mfloat m_load_floats(const float *p)
{
    return _mm512_load_ps(p);
}

static ALWAYS_INLINE void m_store_floats(float *p, mfloat v)
{
    _mm512_store_ps(p, v);
}

static ALWAYS_INLINE mfloat m_all_floats(float v)
{
    return _mm512_set1_ps(v);
}

static ALWAYS_INLINE mfloat m_mul(mfloat a, mfloat b)
{
    return _mm512_mul_ps(a, b);
}

static ALWAYS_INLINE mfloat m_fma(mfloat a, mfloat b, mfloat c)
{
    return _mm512_fmadd_ps(a, b, c);
}
