/* AVX-512 without VNNI: pairs of byte products, 64 at a time. */
#include "quant/q8_internal.h"

#if defined(__x86_64__) && !defined(PS_SANITIZED)

#include <immintrin.h>
#include <string.h>

#include "quant/kernels_internal.h"
#include "quant/q8_gemm_avx512_ops.h"

#define TILE_PIECES 2
#define TILE_COLUMNS 4

static ALWAYS_INLINE mint m_and(mint a, mint b)
{
    return _mm512_and_si512(a, b);
}

static ALWAYS_INLINE mint m_srl16(mint v, int bits)
{
    return _mm512_srli_epi16(v, (unsigned)bits);
}

static ALWAYS_INLINE mint m_add16(mint a, mint b)
{
    return _mm512_add_epi16(a, b);
}

/* Unsigned times signed bytes, in pairs. */
static ALWAYS_INLINE mint m_mul8(mint u, mint s)
{
    return _mm512_maddubs_epi16(u, s);
}

static ALWAYS_INLINE mint m_add_pairs(mint v, int16_t factor)
{
    return _mm512_madd_epi16(v, _mm512_set1_epi16(factor));
}

#include "quant/q8_gemm.h"

#include "quant/q8_gemm_block.h"
#include "quant/q8_gemm_unpack.h"

#include "quant/q8_gemm_pairs.h"

#include "quant/q8_gemm_types.h"

void ps_q8_init_gemm_avx512(struct ps_q8_versions *v)
{
    v->many = multiply_many;
}

#else

void ps_q8_init_gemm_avx512(struct ps_q8_versions *v)
{
    (void)v;
}

#endif
