/*
 * The product with AMX tiles, over four operations that the including file defines: quant/
 * q8_gemm_amx.c as instructions, the checker as plain C, so that this source is checked where no
 * processor has tiles.
 *     t_begin(), t_end()              the shapes of the tiles, below; and that they are free again
 *     t_dot(words, w, x, stride, sum) sum[v][r] = the products of vector v (16 of them, the
 *                                     second one `stride` bytes behind the first) with row r of
 *                                     `words` words of a panel: signed times unsigned bytes
 * A panel's words are as AMX wants its second factor: four columns of sixteen rows to a tile's row.
 * Vectors that do not fill a tile are multiplied with VNNI.
 */
#define TILE_VECTORS 16

/* Sixteen vectors from c on times one panel. */
static ALWAYS_INLINE void tile_amx(struct group *g, size_t b, size_t lane, const int8_t *x,
                                   size_t stride, size_t c, size_t panel, const struct format f)
{
    _Alignas(64) int32_t sums[2][TILE_VECTORS][PANEL_ROWS];
    const uint8_t *w = g->panel[panel].q[b][0];
    struct scales k;

    if (f.halves) {
        t_dot(BLOCK_WORDS / 2, w, x, stride, sums[0]);
        t_dot(BLOCK_WORDS / 2, w + BLOCK_WORDS / 2 * PANEL_ROWS * 4, x + PS_Q8_BLOCK / 2, stride,
              sums[1]);
    } else {
        t_dot(BLOCK_WORDS, w, x, stride, sums[0]);
    }
    scales_load(&k, &g->panel[panel], b, 0, f);
    for (size_t j = 0; j < TILE_VECTORS; j++) {
        const struct vector *v = &g->vector[c + j];
        mint sum[2];
        sum[0] = m_add32(m_load(sums[0][j]), block_start(v, b, 0, f));
        if (f.halves)
            sum[1] = m_add32(m_load(sums[1][j]), block_start(v, b, 1, f));
        block_add(g->lanes[c + j][lane][panel], &k, v, b, sum, f);
    }
}

static ALWAYS_INLINE void multiply_block(struct group *g, size_t b, size_t lane, const int8_t *x,
                                         size_t stride, size_t n, const int panels,
                                         const struct format f)
{
    size_t c = 0;

    for (; c + TILE_VECTORS <= n; c += TILE_VECTORS) {
        for (size_t p = 0; p < (size_t)panels; p++)
            tile_amx(g, b, lane, x + c * stride, stride, c, p, f);
    }
    multiply_vnni(g, b, lane, x, stride, c, n, panels, f);
}

#include "quant/q8_gemm_types.h"

static bool multiply_many_amx(const struct ps_q8_matmul *m)
{
    if (m->n < TILE_VECTORS)
        return false;
    t_begin();
    bool done = multiply_many(m);
    t_end();
    return done;
}
