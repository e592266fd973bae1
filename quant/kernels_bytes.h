/* Loads of any alignment and codes of four bits, in AVX2 registers: what decoders of every vector
 * level start from. Nothing but a kernels_<level>.c may include this. */
#include <immintrin.h>
#include <string.h>

static ALWAYS_INLINE uint16_t load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static ALWAYS_INLINE uint32_t load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static ALWAYS_INLINE uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static ALWAYS_INLINE __m128i load128(const uint8_t *p)
{
    return _mm_loadu_si128((const void *)p);
}

static ALWAYS_INLINE __m256i load256(const uint8_t *p)
{
    return _mm256_loadu_si256((const void *)p);
}

static ALWAYS_INLINE float load_scale(const uint8_t *p)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(load16(p))));
}

/* The low halves of sixteen bytes, then the high ones. */
static ALWAYS_INLINE __m256i nibbles(const uint8_t *src)
{
    __m128i bytes = load128(src);
    __m256i both = _mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* Sixteen nibbles of eight bytes in order, low half first. */
static ALWAYS_INLINE __m128i nibbles_in_order(uint64_t v)
{
    __m128i bytes = _mm_cvtsi64_si128((long long)v);
    __m128i both = _mm_unpacklo_epi8(bytes, _mm_srli_epi16(bytes, 4));
    return _mm_and_si128(both, _mm_set1_epi8(15));
}

static ALWAYS_INLINE __m256i select_bits(__m256i bytes, int bits)
{
    return _mm256_and_si256(bytes, _mm256_set1_epi8((char)bits));
}
