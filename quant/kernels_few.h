/*
 * Matrix times a few columns, written once for every CPU level and included by kernels_vector.h
 * alone. As with one column, weights go from memory through registers: up to FEW_COLUMNS columns
 * share a decoding, and where there are more, the weights of the second pass come from L1. From
 * FEW_COLUMNS_MAX columns on the panels of kernels_gemm.h are faster. Measured on one core of Zen 5
 * in GFLOP/s, 4096 columns of Q4_0: 2 columns 118 (panels 60), 4: 154 (105), 8: 153 (125).
 * The formats of kernels_blocks.h, whose rows are not side by side: Q4_K, 2048 columns, 2: 88 (64).
 */

/* FEW_ROWS rows. */
struct few {
    const uint8_t *row[FEW_ROWS];
    const float *x;
    size_t ldx;
    v16 acc[FEW_COLUMNS][FEW_ROWS];
};

/*
 * Columns [k, k + count * DECODE_LEN) of the matrix, for n columns of x. The bytes `ahead` are
 * fetched as in gemv_columns(), for the same reason.
 */
static ALWAYS_INLINE void few_columns(struct few *s, size_t k, size_t count, size_t ahead,
                                      const struct format f, const int n)
{
    _Alignas(64) float scale[FEW_ROWS][SCALE_COUNT];
    size_t offset = k / DECODE_LEN * f.src_bytes;
    const float *x = s->x + k;

    for (int i = 0; f.scaled && i < FEW_ROWS; i++) {
        uint16_t half[SCALE_COUNT];
        if (count < SCALE_COUNT)
            memset(half, 0, sizeof(half));
        gather_scales(s->row[i] + offset, f.src_bytes, count, half);
        v_store(scale[i], v_from_halves(half));
    }
    for (size_t b = 0; b < count; b++, offset += f.src_bytes, x += DECODE_LEN) {
        UNROLL for (int i = 0; i < FEW_ROWS; i++)
        {
            v16 w[2];
            if (f.scaled)
                _mm_prefetch((const char *)(s->row[i] + offset + ahead), _MM_HINT_T0);
            f.decode(s->row[i] + offset, &scale[i][b], w);
            UNROLL for (int j = 0; j < n; j++)
            {
                const float *column = x + (size_t)j * s->ldx;
                s->acc[j][i] = v_fma(w[0], v_load(column), s->acc[j][i]);
                s->acc[j][i] = v_fma(w[1], v_load(column + PS_LANES), s->acc[j][i]);
            }
        }
    }
}

/* The same of the formats in kernels_blocks.h: PS_SUPER_LEN columns or fewer of row after row. */
static ALWAYS_INLINE void few_super(struct few *s, size_t k, size_t count, const struct format f,
                                    const int n)
{
    put_fn *const put = n == 2 ? put_two : n == 3 ? put_three : put_few;
    const size_t step = PS_SUPER_LEN / f.block_len * f.block_bytes,
                 offset = k / PS_SUPER_LEN * step;
    struct prepared p[FEW_ROWS];

    for (int i = 0; i < FEW_ROWS; i++) {
        const uint8_t *src = s->row[i] + offset;
        for (size_t line = 0; line < step; line += 64)
            _mm_prefetch((const char *)(src + 2 * step + line), _MM_HINT_T0);
        if (f.prepare != NULL)
            f.prepare(src, &p[i]);
    }
    for (int i = 0; i < FEW_ROWS; i++) {
        const uint8_t *src = s->row[i] + offset;
        struct sink sink = {.x = s->x + k, .ldx = s->ldx};
        UNROLL for (int j = 0; j < n; j++) sink.acc[j] = s->acc[j][i];
        for (size_t b = 0; b < count; b++, src += f.block_bytes, sink.x += f.block_len)
            f.block(src, &p[i], put, &sink);
        UNROLL for (int j = 0; j < n; j++) s->acc[j][i] = sink.acc[j];
    }
}

static ALWAYS_INLINE void few_blocks(struct few *s, size_t cols, const struct format f, const int n)
{
    size_t k = 0;

    for (; k + PS_SUPER_LEN <= cols; k += PS_SUPER_LEN)
        few_super(s, k, PS_SUPER_LEN / f.block_len, f, n);
    if (f.block_len < PS_SUPER_LEN && k < cols)
        few_super(s, k, (cols - k) / f.block_len, f, n);
}

static ALWAYS_INLINE void few_end(const struct ps_matmul *m, const struct few *s, size_t r,
                                  size_t c, const int n)
{
    const size_t rows = m->rows - r < FEW_ROWS ? m->rows - r : FEW_ROWS;

    if (m->lanes_out != NULL) {
        UNROLL for (int j = 0; j < n; j++)
        {
            float *lanes = m->lanes_out + ((c + (size_t)j) * m->rows + r) * PS_LANES;
            for (size_t i = 0; i < rows; i++)
                v_store(lanes + i * PS_LANES, s->acc[j][i]);
        }
        return;
    }
    float y[FEW_COLUMNS][FEW_ROWS];
    UNROLL for (int i = 0; i < FEW_COLUMNS * FEW_ROWS; i += 4)
        _mm_storeu_ps(&y[0][0] + i, sum_four(&s->acc[0][0] + i));
    for (int j = 0; j < n; j++)
        memcpy(m->y + (c + (size_t)j) * m->ldy + r, y[j], rows * sizeof(y[j][0]));
}

/* Rows [r, r + FEW_ROWS), or those of them that there are, times columns [c, c + n). */
static ALWAYS_INLINE void few_rows(const struct ps_matmul *m, size_t r, size_t c,
                                   const struct format f, const int n)
{
    struct few s = {.x = m->x + c * m->ldx, .ldx = m->ldx};
    size_t k = 0;

    /* Where rows are missing the last one is computed again, as in gemv_rows(). */
    UNROLL for (size_t i = 0; i < FEW_ROWS; i++)
    {
        size_t actual = r + i < m->rows ? r + i : m->rows - 1;
        s.row[i] = (const uint8_t *)m->w + actual * m->w_stride_bytes;
        UNROLL for (int j = 0; j < FEW_COLUMNS; j++) s.acc[j][i] =
            j < n && m->lanes_in != NULL
                ? v_load(m->lanes_in + ((c + (size_t)j) * m->rows + actual) * PS_LANES)
                : v_zero();
    }
    if (f.block != NULL) {
        few_blocks(&s, m->cols, f, n);
        few_end(m, &s, r, c, n);
        return;
    }
    for (; k + SCALE_COLS < m->cols; k += SCALE_COLS)
        few_columns(&s, k, SCALE_COUNT, SCALE_COUNT * f.src_bytes, f, n);
    few_columns(&s, k, (m->cols - k) / DECODE_LEN,
                FEW_ROWS * m->w_stride_bytes - k / DECODE_LEN * f.src_bytes, f, n);
    few_end(m, &s, r, c, n);
}

/* Is this the way for n columns? */
static ALWAYS_INLINE bool is_few(const struct ps_matmul *m, const struct format f)
{
    if (f.block != NULL)
        return m->n <= FEW_COLUMNS_MAX_OF_BLOCKS;
    return m->n <= FEW_COLUMNS_MAX && m->cols % DECODE_LEN == 0;
}

static ALWAYS_INLINE void few(const struct ps_matmul *m, const struct format f)
{
    /* Passes of equal width: five columns are 3 and 2, not 4 and 1. */
    const size_t passes = (m->n + FEW_COLUMNS - 1) / FEW_COLUMNS;
    size_t n;

    for (size_t r = 0; r < m->rows; r += FEW_ROWS) {
        size_t c = 0;
        for (size_t pass = 0; pass < passes; pass++, c += n) {
            n = (m->n - c + passes - pass - 1) / (passes - pass);
            if (n == 2)
                few_rows(m, r, c, f, 2);
            else if (n == 3)
                few_rows(m, r, c, f, 3);
            else if (f.block == NULL || FEW_COLUMNS_MAX_OF_BLOCKS >= FEW_COLUMNS)
                few_rows(m, r, c, f, FEW_COLUMNS);
        }
    }
}
