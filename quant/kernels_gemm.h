/*
 * Matrix times matrix, written once for every CPU level and included by kernels_vector.h alone.
 *
 * A block of BLOCK_ROWS rows is decoded PANEL_COLS columns at a time and multiplied with up to
 * GROUP_COLUMNS columns of x. A tile of TILE_ROWS by TILE_COLUMNS dot products lives in registers
 * for the length of a panel. Every lane of every dot product has an accumulator of its own, so a
 * step of the tile loads as many vectors as it has rows and columns, and L1 must supply most of
 * them: the tile's columns of x stay there for all rows of the block, and its rows stream from L2,
 * where the decoded block and the lanes of all its dot products lie.
 */
#define PANEL_COLS (SCALE_COUNT * DECODE_LEN)
#define BLOCK_ROWS 32    /* decoded: 64 KiB */
#define GROUP_COLUMNS 96 /* per decoding; the lanes of a block are 192 KiB */
#define SMALL_COLUMNS 48 /* up to here BLOCK_ROWS_SMALL rows at a time: their panel stays in L1 */

static_assert(BLOCK_ROWS % TILE_ROWS == 0 && TILE_ROWS % 4 == 0, "sums are taken four at a time");

struct block {
    _Alignas(64) float w[BLOCK_ROWS][PANEL_COLS];
    _Alignas(64) float lanes[GROUP_COLUMNS][BLOCK_ROWS][PS_LANES];
};

/* The part of a product that one call of multiply() does. */
struct part {
    const struct ps_matmul *m;
    size_t r, rows; /* rows of the block */
    size_t c, n;    /* columns of the group */
    size_t k, cols; /* columns of the panel */
    bool first;     /* lanes start at zero, and are not in memory yet */
    bool sums;      /* lanes are added up to y instead of being stored */
};

/* Sums of TILE_ROWS rows of one column, or those of them that there are. */
static ALWAYS_INLINE void tile_sums(float *y, const __m256 *half, size_t rows)
{
    UNROLL for (int i = 0; i < TILE_ROWS; i += 4)
    {
        __m128 sum = sum_halves(half + i);
        if (rows >= (size_t)i + 4) {
            _mm_storeu_ps(y + i, sum);
        } else if (rows > (size_t)i) {
            float few[4];
            _mm_storeu_ps(few, sum);
            memcpy(y + i, few, (rows - (size_t)i) * sizeof(*y));
        }
    }
}

/*
 * The rows from i0 and columns from j0 of the block, over the whole steps of the panel. The lanes
 * of one machine register are independent of the others, so narrow registers walk the panel more
 * than once, and meet what came before in memory when they are added up.
 */
static ALWAYS_INLINE void tile(struct block *b, const struct part *p, size_t i0, size_t j0,
                               const int n)
{
    const float *w = b->w[i0], *x = p->m->x + (p->c + j0) * p->m->ldx + p->k;
    const size_t ldx = p->m->ldx, cols = p->cols / PS_LANES * PS_LANES;
    float(*lanes)[BLOCK_ROWS][PS_LANES] = &b->lanes[j0];

    for (int lane = 0; lane < PS_LANES; lane += VM_LANES) {
        vm acc[TILE_COLUMNS][TILE_ROWS];
        UNROLL for (int j = 0; j < n; j++)
        {
            UNROLL for (int i = 0; i < TILE_ROWS; i++) acc[j][i] =
                p->first ? vm_zero() : vm_load(&lanes[j][i0 + (size_t)i][lane]);
        }
        for (size_t k = (size_t)lane; k < cols; k += PS_LANES) {
            vm column[TILE_COLUMNS];
            UNROLL for (int j = 0; j < n; j++) column[j] = vm_load(x + (size_t)j * ldx + k);
            UNROLL for (int i = 0; i < TILE_ROWS; i++)
            {
                vm row = vm_load(w + (size_t)i * PANEL_COLS + k);
                UNROLL for (int j = 0; j < n; j++) acc[j][i] = vm_fma(row, column[j], acc[j][i]);
            }
        }
        const bool sum = p->sums && lane + VM_LANES == PS_LANES;
        UNROLL for (int j = 0; j < n; j++)
        {
            if (sum) {
                __m256 half[TILE_ROWS];
                UNROLL for (int i = 0; i < TILE_ROWS; i++) half[i] =
                    vm_add_halves(acc[j][i], lanes[j][i0 + (size_t)i]);
                tile_sums(p->m->y + (p->c + j0 + (size_t)j) * p->m->ldy + p->r + i0, half,
                          p->rows - i0);
            } else {
                UNROLL for (int i = 0; i < TILE_ROWS; i++)
                    vm_store(&lanes[j][i0 + (size_t)i][lane], acc[j][i]);
            }
        }
    }
}

/* All rows of the block, so that the columns of x are read from beyond L1 once. */
static void tile_column(struct block *b, const struct part *p, size_t j, const int n)
{
    for (size_t i = 0; i < p->rows; i += TILE_ROWS) {
        switch (n) {
        case 1:
            tile(b, p, i, j, 1);
            break;
        case 2:
            tile(b, p, i, j, 2);
            break;
        case 3:
            tile(b, p, i, j, 3);
            break;
#if TILE_COLUMNS > 3
        case 4:
            tile(b, p, i, j, 4);
            break;
        case 5:
            tile(b, p, i, j, 5);
            break;
#endif
        default:
            tile(b, p, i, j, TILE_COLUMNS);
        }
    }
}

/* The last columns of rows whose length is not a multiple of PS_LANES. */
static void multiply_tail(struct block *b, const struct part *p)
{
    const size_t end = p->cols / PS_LANES * PS_LANES, count = p->cols - end;

    for (size_t c = 0; c < p->n; c++) {
        v16 x = v_load_part(p->m->x + (p->c + c) * p->m->ldx + p->k + end, count);
        for (size_t i = 0; i < p->rows; i++) {
            v16 acc = v_load(b->lanes[c][i]);
            v_store(b->lanes[c][i], fma_upto(v_load_part(&b->w[i][end], count), x, acc, count));
        }
    }
}

static void multiply(struct block *b, const struct part *p)
{
    size_t j = 0;

    for (; j + TILE_COLUMNS <= p->n; j += TILE_COLUMNS)
        tile_column(b, p, j, TILE_COLUMNS);
    if (j < p->n)
        tile_column(b, p, j, (int)(p->n - j));
}

static void lanes_begin(struct block *b, const struct part *p)
{
    if (p->m->lanes_in == NULL)
        memset(b->lanes, 0, p->n * sizeof(b->lanes[0]));
    for (size_t j = 0; j < p->n && p->m->lanes_in != NULL; j++)
        memcpy(b->lanes[j], p->m->lanes_in + ((p->c + j) * p->m->rows + p->r) * PS_LANES,
               p->rows * sizeof(b->lanes[j][0]));
}

static void lanes_end(const struct block *b, const struct part *p)
{
    for (size_t j = 0; j < p->n; j++)
        memcpy(p->m->lanes_out + ((p->c + j) * p->m->rows + p->r) * PS_LANES, b->lanes[j],
               p->rows * sizeof(b->lanes[j][0]));
}

/* After a tail, which leaves all lanes in memory. */
static void lanes_sum(const struct block *b, const struct part *p)
{
    for (size_t j = 0; j < p->n; j++) {
        float *y = p->m->y + (p->c + j) * p->m->ldy + p->r;
        for (size_t i = 0; i < p->rows; i++)
            y[i] = sum_one(v_load(b->lanes[j][i]));
    }
}

/* Row i of the panel, of the formats in kernels_blocks.h. */
static ALWAYS_INLINE void panel_decode_blocks(struct block *b, const struct part *p, size_t i,
                                              const uint8_t *src, const struct format f)
{
    struct sink s = {.w = b->w[i]};
    struct prepared prepared;

    src += p->k / f.block_len * f.block_bytes;
    for (size_t k = 0; k < p->cols; k += f.block_len, src += f.block_bytes, s.w += f.block_len) {
        if (f.prepare != NULL)
            f.prepare(src, &prepared);
        f.block(src, &prepared, put_value, &s);
    }
}

/* Row i of the panel, of the others. */
static ALWAYS_INLINE void panel_decode_row(struct block *b, const struct part *p, size_t i,
                                           const uint8_t *src, const struct format f)
{
    const size_t blocks = p->cols / DECODE_LEN, end = blocks * DECODE_LEN;
    float scale[SCALE_COUNT];

    src += p->k / DECODE_LEN * f.src_bytes;
    if (f.scaled) {
        uint16_t half[SCALE_COUNT] = {0};
        gather_scales(src, f.src_bytes, blocks, half);
        v_store(scale, v_from_halves(half));
    }
    for (size_t d = 0; d < blocks; d++, src += f.src_bytes) {
        v16 w[2];
        f.decode(src, &scale[d], w);
        v_store(&b->w[i][d * DECODE_LEN], w[0]);
        v_store(&b->w[i][d * DECODE_LEN + PS_LANES], w[1]);
    }
    if (end < p->cols)
        ps_row_decode(p->m->type, src, &b->w[i][end], p->cols - end);
}

static ALWAYS_INLINE void panel_decode(struct block *b, const struct part *p, const struct format f)
{
    for (size_t i = 0; i < p->rows; i++) {
        const uint8_t *row = (const uint8_t *)p->m->w + (p->r + i) * p->m->w_stride_bytes;
        if (f.block != NULL)
            panel_decode_blocks(b, p, i, row, f);
        else
            panel_decode_row(b, p, i, row, f);
    }
    /* Rows that the last tile has too many of are computed like the others: they must be floats,
     * and not such that make arithmetic slow. */
    for (size_t i = p->rows; i % TILE_ROWS != 0; i++)
        memset(b->w[i], 0, p->cols * sizeof(b->w[i][0]));
}

/* A block of rows times a group of columns, over all columns of the matrix. */
static ALWAYS_INLINE void gemm_block(struct block *b, struct part *p, const struct format f)
{
    const struct ps_matmul *m = p->m;
    const bool tail = m->cols % PS_LANES != 0 || m->cols == 0;

    if (m->lanes_in != NULL || m->cols == 0)
        lanes_begin(b, p);
    for (p->k = 0; p->k < m->cols; p->k += PANEL_COLS) {
        bool last = m->cols - p->k <= PANEL_COLS;
        p->cols = last ? m->cols - p->k : PANEL_COLS;
        p->first = p->k == 0 && m->lanes_in == NULL;
        p->sums = last && m->lanes_out == NULL && !tail;
        panel_decode(b, p, f);
        multiply(b, p);
        if (last && tail)
            multiply_tail(b, p);
    }
    if (m->lanes_out != NULL)
        lanes_end(b, p);
    else if (tail)
        lanes_sum(b, p);
}

static ALWAYS_INLINE void gemm(const struct ps_matmul *m, const struct format f)
{
    struct block b;
    struct part p = {.m = m};
    const size_t rows = m->n > SMALL_COLUMNS ? BLOCK_ROWS : BLOCK_ROWS_SMALL;
    /* Groups of equal size, in whole tiles: 100 columns are 54 and 46, not 96 and 4. */
    const size_t groups = (m->n + GROUP_COLUMNS - 1) / GROUP_COLUMNS;
    const size_t each = (m->n + groups - 1) / groups;
    const size_t columns = (each + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;

    for (p.r = 0; p.r < m->rows; p.r += rows) {
        p.rows = m->rows - p.r < rows ? m->rows - p.r : rows;
        for (p.c = 0; p.c < m->n; p.c += columns) {
            p.n = m->n - p.c < columns ? m->n - p.c : columns;
            gemm_block(&b, &p, f);
        }
    }
}
