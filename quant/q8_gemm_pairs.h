/*
 * multiply_block for levels whose byte products come in pairs summed to 16 bits, saturating
 * (pmaddubsw): with M_ROWS, TILE_PIECES and TILE_COLUMNS, and the m_ operations.
 *
 * How many of these sums can be added in 16 bits follows from the greatest number in a panel:
 * 2 * 127 * greatest * words must stay below 2^15. Numbers of eight bits would saturate a single
 * pair; they are multiplied as two numbers of four bits.
 */
#define PIECES_PER_PANEL (PANEL_ROWS / M_ROWS)

static ALWAYS_INLINE int words_per_sum(const struct format f)
{
    const int most = f.greatest > 63 || f.greatest <= 15 ? 8 : f.greatest <= 31 ? 4 : 2;
    return f.halves && most > BLOCK_WORDS / 2 ? BLOCK_WORDS / 2 : most;
}

/* Sums in 16 bits of `count` words from `first` on; of their high halves apart, if wide. */
static ALWAYS_INLINE void sum_words(const uint8_t *const *q, int first, int count, const int8_t *x,
                                    size_t stride, mint (*sum)[TILE_PIECES][2], const int n,
                                    const int pieces, const bool wide)
{
    const mint mask = m_all(0x0f0f0f0f);

    UNROLL for (int i = 0; i < count; i++)
    {
        mint low[TILE_PIECES], high[TILE_PIECES];
        UNROLL for (int p = 0; p < pieces; p++)
        {
            low[p] = m_load(q[p] + (size_t)(first + i) * PANEL_ROWS * 4);
            if (wide) {
                high[p] = m_and(m_srl16(low[p], 4), mask);
                low[p] = m_and(low[p], mask);
            }
        }
        UNROLL for (int j = 0; j < n; j++)
        {
            mint four = x_word(x + (size_t)j * stride, first + i);
            UNROLL for (int p = 0; p < pieces; p++)
            {
                mint pairs = m_mul8(low[p], four);
                sum[j][p][0] = i == 0 ? pairs : m_add16(sum[j][p][0], pairs);
                if (wide) {
                    pairs = m_mul8(high[p], four);
                    sum[j][p][1] = i == 0 ? pairs : m_add16(sum[j][p][1], pairs);
                }
            }
        }
    }
}

/* n vectors times pieces [piece, piece + pieces) of M_ROWS rows each. */
static ALWAYS_INLINE void tile(struct group *g, size_t b, size_t lane, const int8_t *x,
                               size_t stride, size_t c, size_t piece, const int n, const int pieces,
                               const struct format f)
{
    const bool wide = f.greatest > 63;
    const int words = words_per_sum(f);
    const uint8_t *q[TILE_PIECES];
    mint sum[TILE_COLUMNS][TILE_PIECES][2];

    UNROLL for (int p = 0; p < pieces; p++)
    {
        size_t at = piece + (size_t)p;
        q[p] = g->panel[at / PIECES_PER_PANEL].q[b][0] + at % PIECES_PER_PANEL * M_ROWS * 4;
    }
    UNROLL for (int i = 0; i < BLOCK_WORDS; i += words)
    {
        const int half = f.halves && i >= BLOCK_WORDS / 2;
        const bool begins = i == 0 || (f.halves && i == BLOCK_WORDS / 2);
        mint part[TILE_COLUMNS][TILE_PIECES][2];
        sum_words(q, i, words, x + c * stride, stride, part, n, pieces, wide);
        UNROLL for (int j = 0; j < n; j++)
        {
            UNROLL for (int p = 0; p < pieces; p++)
            {
                mint so_far =
                    begins ? block_start(&g->vector[c + (size_t)j], b, half, f) : sum[j][p][half];
                sum[j][p][half] = m_add32(so_far, m_add_pairs(part[j][p][0], 1));
                if (wide)
                    sum[j][p][half] = m_add32(sum[j][p][half], m_add_pairs(part[j][p][1], 16));
            }
        }
    }
    UNROLL for (int p = 0; p < pieces; p++)
    {
        size_t panel = (piece + (size_t)p) / PIECES_PER_PANEL;
        size_t row = (piece + (size_t)p) % PIECES_PER_PANEL * M_ROWS;
        struct scales k;
        scales_load(&k, &g->panel[panel], b, row, f);
        UNROLL for (int j = 0; j < n; j++) block_add(g->lanes[c + (size_t)j][lane][panel] + row, &k,
                                                     &g->vector[c + (size_t)j], b, sum[j][p], f);
    }
}

static ALWAYS_INLINE void multiply_block(struct group *g, size_t b, size_t lane, const int8_t *x,
                                         size_t stride, size_t n, const int panels,
                                         const struct format f)
{
    const int all = panels * PIECES_PER_PANEL, pieces = all < TILE_PIECES ? all : TILE_PIECES;

    for (size_t piece = 0; piece < (size_t)all; piece += (size_t)pieces) {
        size_t c = 0;
        for (; c + TILE_COLUMNS <= n; c += TILE_COLUMNS)
            tile(g, b, lane, x, stride, c, piece, TILE_COLUMNS, pieces, f);
        for (; c < n; c++)
            tile(g, b, lane, x, stride, c, piece, 1, pieces, f);
    }
}
