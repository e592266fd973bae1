/*
 * The source of the AMX product over tiles in plain C, as the instructions are documented (Intel
 * SDM volume 2, TDPBSUD), on processors that have the rest of what it needs.
 */
#include "checkkernel.h"

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

static void t_begin(void)
{
}

static void t_end(void)
{
}

static void t_dot(int words, const uint8_t *w, const int8_t *x, size_t stride, int32_t (*sum)[16])
{
    memset(sum, 0, 16 * sizeof(*sum));
    for (size_t v = 0; v < 16; v++) {
        for (size_t k = 0; k < (size_t)words * 4; k++) {
            for (size_t r = 0; r < 16; r++)
                sum[v][r] += x[v * stride + k] * w[k / 4 * 64 + 4 * r + k % 4];
        }
    }
}

#include "quant/q8_gemm_amx.h"

static void matmul(const struct ps_q8_matmul *m)
{
    if (!multiply_many_amx(m))
        ps_q8_kernels_get(PS_CPU_VNNI)->matmul(m);
}

bool check_q8_tiles(void)
{
    if (ps_cpu_level() < PS_CPU_VNNI)
        return false;
    const struct ps_q8_kernels tiles = {matmul, ps_q8_kernels_get(PS_CPU_VNNI)->quantize};
    check_q8_table(&tiles);
    return true;
}

#else

bool check_q8_tiles(void)
{
    return false;
}

#endif
