/*
 * Panels times vectors with AVX-512 VNNI: one instruction multiplies 64 pairs of bytes, unsigned
 * weights and signed values, and adds fours of them to sixteen sums. For the files of the levels
 * that have it.
 */
#define TILE_COLUMNS 4 /* times two panels: eight sums, two words, one of a vector */

static ALWAYS_INLINE void tile(struct group *g, size_t b, size_t lane, const int8_t *x,
                               size_t stride, size_t c, const int n, const int panels,
                               const struct format f)
{
    mint sum[TILE_COLUMNS][PANELS][2];

    UNROLL for (int j = 0; j < n; j++)
    {
        UNROLL for (int p = 0; p < panels; p++)
        {
            sum[j][p][0] = block_start(&g->vector[c + (size_t)j], b, 0, f);
            if (f.halves)
                sum[j][p][1] = block_start(&g->vector[c + (size_t)j], b, 1, f);
        }
    }
    UNROLL for (int i = 0; i < BLOCK_WORDS; i++)
    {
        const int half = f.halves && i >= BLOCK_WORDS / 2;
        mint w[PANELS];
        UNROLL for (int p = 0; p < panels; p++) w[p] = m_load(g->panel[p].q[b][i]);
        UNROLL for (int j = 0; j < n; j++)
        {
            mint four = x_word(x + (c + (size_t)j) * stride, i);
            UNROLL for (int p = 0; p < panels; p++) sum[j][p][half] =
                _mm512_dpbusd_epi32(sum[j][p][half], w[p], four);
        }
    }
    UNROLL for (int p = 0; p < panels; p++)
    {
        struct scales k;
        scales_load(&k, &g->panel[p], b, 0, f);
        UNROLL for (int j = 0; j < n; j++) block_add(g->lanes[c + (size_t)j][lane][p], &k,
                                                     &g->vector[c + (size_t)j], b, sum[j][p], f);
    }
}

/* Vectors [c, n). */
static ALWAYS_INLINE void multiply_vnni(struct group *g, size_t b, size_t lane, const int8_t *x,
                                        size_t stride, size_t c, size_t n, const int panels,
                                        const struct format f)
{
    for (; c + TILE_COLUMNS <= n; c += TILE_COLUMNS)
        tile(g, b, lane, x, stride, c, TILE_COLUMNS, panels, f);
    _Static_assert(TILE_COLUMNS == 4, "a case for each number of vectors that may be left");
    switch (n - c) {
    case 3:
        tile(g, b, lane, x, stride, c, 3, panels, f);
        break;
    case 2:
        tile(g, b, lane, x, stride, c, 2, panels, f);
        break;
    case 1:
        tile(g, b, lane, x, stride, c, 1, panels, f);
        break;
    default:
        break;
    }
}
