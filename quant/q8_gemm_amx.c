/* AMX tiles of 8-bit integers (Intel SDM volume 1, chapter 18; volume 2, TDPBSUD). */
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

/* Tile 0: sums; 1 and 2: 32 bytes of vectors, 8 words of a panel; 3 and 4: 16 bytes, 4 words. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct tile_config) == 64, "what LDTILECFG reads");

static ALWAYS_INLINE void t_begin(void)
{
    const struct tile_config config = {
        .palette = 1,
        .row_bytes = {64, 32, 64, 16, 64},
        .rows = {16, 16, 8, 16, 4},
    };
    _tile_loadconfig(&config);
}

static ALWAYS_INLINE void t_end(void)
{
    _tile_release();
}

static ALWAYS_INLINE void t_dot(int words, const uint8_t *w, const int8_t *x, size_t stride,
                                int32_t (*sum)[16])
{
    _tile_zero(0);
    if (words == 8) {
        _tile_loadd(1, x, (long)stride);
        _tile_loadd(2, w, 64);
        _tile_dpbsud(0, 1, 2);
    } else {
        _tile_loadd(3, x, (long)stride);
        _tile_loadd(4, w, 64);
        _tile_dpbsud(0, 3, 4);
    }
    _tile_stored(0, sum, 64);
}

#include "quant/q8_gemm_amx.h"

void ps_q8_init_gemm_amx(struct ps_q8_versions *v)
{
    v->many = multiply_many_amx;
}

#else

void ps_q8_init_gemm_amx(struct ps_q8_versions *v)
{
    (void)v;
}

#endif
