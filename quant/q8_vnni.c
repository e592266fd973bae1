/*
 * AVX-512 VNNI: one instruction multiplies 64 pairs of bytes and adds fours of them to 32 bits. One
 * factor is unsigned; weights of eight bits are offset by 128, and 128 times the vector's sum is
 * subtracted from the block sums. Nothing saturates, so that high nibbles may stay where they are.
 * VBMI collects bytes from any of 128: two loads and a permutation fetch sixteen bytes of four
 * blocks, or the scales of all.
 */
#include "quant/q8_internal.h"

#if defined(__x86_64__) && !defined(PS_SANITIZED)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "quant/kernels_internal.h"
#include "quant/q8_avx512_ops.h"

#define WIDE_BIAS 128
#define HIGH_IN_PLACE true

static ALWAYS_INLINE vq q_wide(vq v)
{
    return _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
}

static ALWAYS_INLINE vq q_dot(vq acc, vq u, vq x)
{
    return _mm512_dpbusd_epi32(acc, u, x);
}

static ALWAYS_INLINE vq q_dot_wide(vq acc, vq u, vq x)
{
    return _mm512_dpbusd_epi32(acc, u, x);
}

/* The table four times, so that the index's next two bits do not matter; the highest two never do.
 */
static ALWAYS_INLINE vq q_table(const int8_t *values, int bias)
{
    return q_lanes(_mm_add_epi8(_mm_loadu_si128((const void *)values), _mm_set1_epi8((char)bias)));
}

static ALWAYS_INLINE vq q_look_up(vq table, vq index)
{
    return _mm512_permutexvar_epi8(index, table);
}

/* Eight bytes of each lane, the lower or the upper, widened to 32 bits: lanes 0 and 1, 2 and 3. */
static ALWAYS_INLINE void q_widen_rows(vq v, int upper, vq *out)
{
    const __m512i from =
        _mm512_cvtepu8_epi32(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23));
    const __mmask64 lowest = 0x1111111111111111;
    out[0] = _mm512_maskz_permutexvar_epi8(lowest,
                                           _mm512_add_epi32(from, _mm512_set1_epi32(8 * upper)), v);
    out[1] = _mm512_maskz_permutexvar_epi8(
        lowest, _mm512_add_epi32(from, _mm512_set1_epi32(8 * upper + 32)), v);
}

/*
 * Indices for permutations of two loads of 64 bytes, of which the second begins `second` bytes
 * behind the first: bytes, and words at even places.
 */
#define BYTE_AT(at, second) ((at) < 64 ? (at) : (at) - (second) + 64)
#define BYTES4(at, second)                                                                         \
    BYTE_AT(at, second), BYTE_AT((at) + 1, second), BYTE_AT((at) + 2, second),                     \
        BYTE_AT((at) + 3, second)
#define BYTES16(at, second)                                                                        \
    BYTES4(at, second), BYTES4((at) + 4, second), BYTES4((at) + 8, second),                        \
        BYTES4((at) + 12, second)
#define SECOND_OF(size) (3 * (size)-48) /* its last byte is the last that is wanted */
#define PIECES(size)                                                                               \
    {                                                                                              \
        BYTES16(0, SECOND_OF(size)), BYTES16(size, SECOND_OF(size)),                               \
            BYTES16(2 * (size), SECOND_OF(size)), BYTES16(3 * (size), SECOND_OF(size))             \
    }

/* Sixteen bytes of four blocks of `size` bytes. */
static ALWAYS_INLINE vq q_load_blocks(const uint8_t *p, size_t size)
{
    static const _Alignas(64) uint8_t pieces[][64] = {PIECES(17), PIECES(18), PIECES(20),
                                                      PIECES(22), PIECES(24), PIECES(34)};
    const int which = size == 17   ? 0
                      : size == 18 ? 1
                      : size == 20 ? 2
                      : size == 22 ? 3
                      : size == 24 ? 4
                                   : 5;
    if (size == 16)
        return _mm512_loadu_si512(p);
    return _mm512_permutex2var_epi8(_mm512_loadu_si512(p), _mm512_load_si512(pieces[which]),
                                    _mm512_loadu_si512(p + 3 * size - 48));
}

/* Words at the beginning of four blocks, the second load being `second` bytes behind the first. */
#define WORD_AT(at, second) ((at) < 64 ? (at) / 2 : ((at) - (second)) / 2 + 32)
#define WORDS4(at, size, second)                                                                   \
    WORD_AT(at, second), WORD_AT((at) + (size), second), WORD_AT((at) + 2 * (size), second),       \
        WORD_AT((at) + 3 * (size), second)

/* The halves of eight blocks of at most 20 bytes: both loads hold four. Twice. */
static ALWAYS_INLINE __m256i eight_halves(const uint8_t *p, size_t size)
{
#define WORDS8(size) WORDS4(0, size, 0), 32, 32 + (size) / 2, 32 + (size), 32 + 3 * (size) / 2
    static const _Alignas(64)
        uint16_t words[][32] = {{WORDS8(18), WORDS8(18)}, {WORDS8(20), WORDS8(20)}};
#undef WORDS8
    __m512i from = _mm512_load_si512(words[size == 18 ? 0 : 1]);
    return _mm512_castsi512_si256(
        _mm512_permutex2var_epi16(_mm512_loadu_si512(p), from, _mm512_loadu_si512(p + 4 * size)));
}

/* The halves of four blocks, larger ones, four times. */
static ALWAYS_INLINE __m256i four_halves(const uint8_t *p, size_t size)
{
#define WORDS16(size)                                                                              \
    {                                                                                              \
        WORDS4(0, size, 3 * (size)-62), WORDS4(0, size, 3 * (size)-62),                            \
            WORDS4(0, size, 3 * (size)-62), WORDS4(0, size, 3 * (size)-62)                         \
    }
    static const _Alignas(64) uint16_t words[][32] = {WORDS16(22), WORDS16(24), WORDS16(34)};
#undef WORDS16
    __m512i from = _mm512_load_si512(words[size == 22 ? 0 : size == 24 ? 1 : 2]);
    return _mm512_castsi512_si256(_mm512_permutex2var_epi16(_mm512_loadu_si512(p), from,
                                                            _mm512_loadu_si512(p + 3 * size - 62)));
}

/* The halves at the beginning of the blocks of four rows, of which two fill a register. */
static ALWAYS_INLINE void gather_halves(const uint8_t *const *row, size_t size, vf *s)
{
    for (int i = 0; i < 2; i++) {
        const uint8_t *a = row[2 * i], *b = row[2 * i + 1];
        __m256i half;
        if (size <= 20) {
            half = _mm256_blend_epi32(eight_halves(a, size), eight_halves(b, size), 0xf0);
        } else {
            half = _mm256_blend_epi32(four_halves(a, size), four_halves(a + 4 * size, size), 0x0c);
            half = _mm256_blend_epi32(half, four_halves(b, size), 0x30);
            half = _mm256_blend_epi32(half, four_halves(b + 4 * size, size), 0xc0);
        }
        s[i] = _mm512_cvtph_ps(half);
    }
}

/* The first bytes of the blocks of two rows, widened to 32 bits. Blocks of 17 bytes. */
static ALWAYS_INLINE vq gather_bytes(const uint8_t *const *row, size_t size)
{
    const __m512i from =
        _mm512_setr_epi32(0, 17, 34, 51, 64, 81, 98, 115, 0, 17, 34, 51, 64, 81, 98, 115);
    __m512i first = _mm512_maskz_permutex2var_epi8(0x11111111, _mm512_loadu_si512(row[0]), from,
                                                   _mm512_loadu_si512(row[0] + 4 * size));
    __m512i second = _mm512_maskz_permutex2var_epi8(0x1111111100000000, _mm512_loadu_si512(row[1]),
                                                    from, _mm512_loadu_si512(row[1] + 4 * size));
    return _mm512_or_si512(first, second);
}

#include "quant/q8_common.h"
#include "quant/q8_vector.h"

void ps_q8_init_vnni(struct ps_q8_versions *v)
{
    init_versions(v);
}

#else

void ps_q8_init_vnni(struct ps_q8_versions *v)
{
    (void)v;
}

#endif
