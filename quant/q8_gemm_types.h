/* The product over panels, and its versions for all types: the last part of quant/q8_gemm.h. */

/* Rows [r, r + PANELS * PANEL_ROWS), or those of them that there are, times vectors [c, c + n). */
static ALWAYS_INLINE void multiply_panels(struct group *g, const struct ps_q8_matmul *m, size_t r,
                                          size_t c, size_t n, const struct format f)
{
    const size_t blocks = m->cols / PS_Q8_BLOCK, most = PANELS * PANEL_ROWS;
    const size_t rows = m->rows - r < most ? m->rows - r : most;
    const size_t panels = (rows + PANEL_ROWS - 1) / PANEL_ROWS;
    const uint8_t *row[PANELS * PANEL_ROWS];

    /* Where rows are missing the last one is computed again. */
    for (size_t i = 0; i < panels * PANEL_ROWS; i++)
        row[i] = (const uint8_t *)m->w + (r + (i < rows ? i : rows - 1)) * m->w_stride_bytes;
    lanes_begin(g, m, r, rows, c, n);
    for (size_t b = 0; b < blocks; b += PANEL_BLOCKS) {
        const size_t count = blocks - b < PANEL_BLOCKS ? blocks - b : PANEL_BLOCKS;
        const size_t offset = b / PANEL_BLOCKS * f.bytes;
        /* The last columns look ahead to the first ones of the next rows. */
        const size_t ahead =
            b + PANEL_BLOCKS < blocks ? offset + f.bytes : most * m->w_stride_bytes;
        for (size_t p = 0; p < panels; p++)
            f.unpack(&g->panel[p], row + p * PANEL_ROWS, offset, count);
        vectors_begin(g, m, c, n, b, f);
        for (size_t i = 0; i < count; i++) {
            size_t lane = (m->first_block + b + i) % PS_Q8_LANES;
            const int8_t *x = (const int8_t *)m->x + c * m->x_stride_bytes + (b + i) * PS_Q8_BLOCK;
            ask_for_rows(row, panels * PANEL_ROWS, f.bytes, ahead, i);
            if (panels == PANELS)
                multiply_block(g, i, lane, x, m->x_stride_bytes, n, PANELS, f);
            else
                multiply_block(g, i, lane, x, m->x_stride_bytes, n, 1, f);
        }
    }
    lanes_end(g, m, r, rows, c, n);
}

/* The vectors of a group stay in the second-level cache while all rows pass. */
static ALWAYS_INLINE void multiply(const struct ps_q8_matmul *m, const struct format f)
{
    struct group g;

    for (size_t c = 0; c < m->n; c += GROUP_COLUMNS) {
        size_t n = m->n - c < GROUP_COLUMNS ? m->n - c : GROUP_COLUMNS;
        for (size_t r = 0; r < m->rows; r += PANELS * PANEL_ROWS)
            multiply_panels(&g, m, r, c, n, f);
    }
}

#define DEFINE_MULTIPLY(name, ...)                                                                 \
    static __attribute__((noinline)) void multiply_##name(const struct ps_q8_matmul *m)            \
    {                                                                                              \
        multiply(m, (struct format){.unpack = unpack_##name, __VA_ARGS__});                        \
    }

DEFINE_MULTIPLY(q4_0, .bytes = 144, .offset = 8, .greatest = 15)
DEFINE_MULTIPLY(q4_1, .bytes = 160, .greatest = 15, .minima = true, .unit = true)
DEFINE_MULTIPLY(q5_0, .bytes = 176, .offset = 16, .greatest = 31)
DEFINE_MULTIPLY(q5_1, .bytes = 192, .greatest = 31, .minima = true, .unit = true)
DEFINE_MULTIPLY(q8_0, .bytes = 272, .offset = 128, .greatest = 255)
DEFINE_MULTIPLY(q2_k, .bytes = 84, .greatest = 3, .scaled = true, .minima = true, .halves = true)
DEFINE_MULTIPLY(q3_k, .bytes = 110, .offset = 4, .greatest = 7, .scaled = true, .halves = true)
DEFINE_MULTIPLY(q4_k, .bytes = 144, .greatest = 15, .scaled = true, .minima = true)
DEFINE_MULTIPLY(q5_k, .bytes = 176, .greatest = 31, .scaled = true, .minima = true)
DEFINE_MULTIPLY(q6_k, .bytes = 210, .offset = 32, .greatest = 63, .scaled = true, .halves = true)
DEFINE_MULTIPLY(iq4_nl, .bytes = 144, .offset = 128, .greatest = 255)
DEFINE_MULTIPLY(iq4_xs, .bytes = 136, .offset = 128, .greatest = 255, .scaled = true)
DEFINE_MULTIPLY(mxfp4, .bytes = 136, .offset = 12, .greatest = 24)

static bool multiply_many(const struct ps_q8_matmul *m)
{
    static void (*const by_type[PS_TYPE_COUNT])(const struct ps_q8_matmul *) = {
        [PS_TYPE_Q4_0] = multiply_q4_0,     [PS_TYPE_Q4_1] = multiply_q4_1,
        [PS_TYPE_Q5_0] = multiply_q5_0,     [PS_TYPE_Q5_1] = multiply_q5_1,
        [PS_TYPE_Q8_0] = multiply_q8_0,     [PS_TYPE_Q2_K] = multiply_q2_k,
        [PS_TYPE_Q3_K] = multiply_q3_k,     [PS_TYPE_Q4_K] = multiply_q4_k,
        [PS_TYPE_Q5_K] = multiply_q5_k,     [PS_TYPE_Q6_K] = multiply_q6_k,
        [PS_TYPE_IQ4_NL] = multiply_iq4_nl, [PS_TYPE_IQ4_XS] = multiply_iq4_xs,
        [PS_TYPE_MXFP4] = multiply_mxfp4,
    };
    if (m->type >= PS_TYPE_COUNT || by_type[m->type] == NULL)
        return false;
    by_type[m->type](m);
    return true;
}
