/* AVX-512 VNNI: all of the product is in quant/q8_gemm.h and quant/q8_gemm_vnni.h. */
#include "quant/q8_internal.h"

#if defined(__x86_64__) && !defined(PS_SANITIZED)

#include <immintrin.h>
#include <string.h>

#include "quant/kernels_internal.h"
#include "quant/q8_gemm_avx512_ops.h"

#include "quant/q8_gemm.h"

#include "quant/q8_gemm_block.h"
#include "quant/q8_gemm_unpack.h"

#include "quant/q8_gemm_vnni.h"

static ALWAYS_INLINE void multiply_block(struct group *g, size_t b, size_t lane, const int8_t *x,
                                         size_t stride, size_t n, const int panels,
                                         const struct format f)
{
    multiply_vnni(g, b, lane, x, stride, 0, n, panels, f);
}

#include "quant/q8_gemm_types.h"

void ps_q8_init_gemm_vnni(struct ps_q8_versions *v)
{
    v->many = multiply_many;
}

#else

void ps_q8_init_gemm_vnni(struct ps_q8_versions *v)
{
    (void)v;
}

#endif
