/*
 * Products of quantised matrices with several 8-bit vectors, written once and included by one file
 * per CPU level. That file first defines
 *     w16, f16               sixteen rows of four bytes or of one integer; of one float
 *     w16_..., f16_...       the operations on them
 * then includes this one, which brings the panels and all around them; then defines
 *     multiply_block         a block's columns of panels times a group of vectors
 * and includes quant/q8_gemm_types.h, after which multiply_many() is the product. Everything here
 * is static; nothing but a q8_gemm_<level>.c may include this.
 *
 * PANELS. Sixteen rows times 256 columns of weights are unpacked at a time, to bytes in the order
 * in which the processors' byte products want them: four columns of each of the sixteen rows make
 * one word of 64 bytes, so that one instruction multiplies them with four values of a vector, and
 * sixteen sums grow side by side without ever being added across a register. The transposing this
 * takes is done on packed weights, and all vectors of a group share its cost.
 *
 * Why the bits are those of the definition (quant/q8.h): the sum over a block is exact in any order
 * and fits a float exactly; so do its products with c, and those of m, and their sums, because they
 * stay below 2^24 in every format: 32 * 127 * 127 * 32 for IQ4_XS and 32 * 32 * 127 * 128 for Q6_K
 * are the largest. A zero's sign can differ, but no lane is ever -0 and so cannot tell. Lanes, and
 * the order of blocks in a lane, are the definition's.
 */
#define PANEL_ROWS 16
#define PANEL_BLOCKS 8
#define BLOCK_WORDS 8  /* of four columns each */
#define PANELS 2       /* multiplied together: they share what is loaded of the vectors */
#define PIECE_BYTES 16 /* what the transposing loads take from each row */
/*
 * Vectors per unpacked panel. More would unpack less often, but their lanes (64 KiB) and their
 * values (half a megabyte for 8192 columns) have outgrown the first-level cache as it is, and are
 * to stay in the second.
 */
#define GROUP_COLUMNS 64

struct panel {
    _Alignas(64) uint8_t q[PANEL_BLOCKS][BLOCK_WORDS][PANEL_ROWS * 4];
    float s[PANEL_BLOCKS][PANEL_ROWS], t[PANEL_BLOCKS][PANEL_ROWS];
    float c[PANEL_BLOCKS][2][PANEL_ROWS], m[PANEL_BLOCKS][2][PANEL_ROWS];
};

/* What a vector brings to eight blocks besides its bytes; [0] alone where halves are alike. */
struct vector {
    float d[PANEL_BLOCKS];
    int32_t start[2][PANEL_BLOCKS]; /* - offset * sum: block sums begin here instead of at 0 */
    float sum[2][PANEL_BLOCKS];
};

struct group {
    /* One more than there are: vectors a power of two apart would share the cache's sets. */
    _Alignas(64) float lanes[GROUP_COLUMNS][PS_Q8_LANES + 1][PANELS][PANEL_ROWS];
    struct panel panel[PANELS];
    struct vector vector[GROUP_COLUMNS];
};

/* Unpacks up to eight blocks of sixteen rows, from byte `offset` of each. */
typedef void unpack_fn(struct panel *p, const uint8_t *const *row, size_t offset, size_t blocks);

/* Always passed as a constant to inlined functions. */
struct format {
    unpack_fn *unpack;
    size_t bytes; /* of 256 columns */
    int offset;   /* added to the integers in a panel, which are unsigned */
    int greatest; /* of the integers in a panel */
    bool scaled;  /* c is not 1 */
    bool minima;  /* t is not 0 */
    bool unit;    /* m is 1 */
    bool halves;  /* c and m differ between the halves of a block; otherwise [0] is for both */
};

/* Blocks [b, b + PANEL_BLOCKS) of vectors [c, c + n): padding makes them readable. */
static ALWAYS_INLINE void vectors_begin(struct group *g, const struct ps_q8_matmul *m, size_t c,
                                        size_t n, size_t block, const struct format f)
{
    for (size_t j = 0; j < n; j++) {
        const void *x = (const uint8_t *)m->x + (c + j) * m->x_stride_bytes;
        const int16_t *sum = ps_q8_sums(x, m->cols) + 2 * block;
        struct vector *v = &g->vector[j];
        memcpy(v->d, ps_q8_scales(x, m->cols) + block, sizeof(v->d));
        for (int b = 0; b < PANEL_BLOCKS; b++) {
            int32_t first = f.halves ? sum[2 * b] : sum[2 * b] + sum[2 * b + 1];
            if (f.offset != 0)
                v->start[0][b] = -f.offset * first;
            if (f.offset != 0 && f.halves)
                v->start[1][b] = -f.offset * sum[2 * b + 1];
            if (f.minima)
                v->sum[0][b] = (float)first;
            if (f.minima && f.halves)
                v->sum[1][b] = (float)sum[2 * b + 1];
        }
    }
}

/* Eight rows of four lanes to four lanes of sixteen rows, twice; and back. */
static ALWAYS_INLINE void lanes_begin(struct group *g, const struct ps_q8_matmul *m, size_t r,
                                      size_t rows, size_t c, size_t n)
{
    if (m->lanes_in == NULL) {
        memset(g->lanes, 0, n * sizeof(g->lanes[0]));
        return;
    }
    for (size_t j = 0; j < n; j++) {
        const float *in = m->lanes_in + ((c + j) * m->rows + r) * PS_Q8_LANES;
        for (size_t p = 0; p * PANEL_ROWS < rows; p++) {
            const uint8_t *row[PANEL_ROWS];
            for (size_t i = 0; i < PANEL_ROWS; i++) {
                size_t actual = p * PANEL_ROWS + i < rows ? p * PANEL_ROWS + i : rows - 1;
                row[i] = (const uint8_t *)(in + actual * PS_Q8_LANES);
            }
            for (size_t part = 0; part < 2; part++) {
                w16 w[4];
                w16_load4(row, part * PIECE_BYTES, w);
                for (size_t l = 0; l < 4; l++)
                    w16_store(g->lanes[j][4 * part + l][p], w[l]);
            }
        }
    }
}

static ALWAYS_INLINE void lanes_store(const struct group *g, float *out, size_t rows, size_t j)
{
    float beyond[PS_Q8_LANES] = {0};

    for (size_t p = 0; p * PANEL_ROWS < rows; p++) {
        uint8_t *row[PANEL_ROWS];
        for (size_t i = 0; i < PANEL_ROWS; i++) {
            size_t r = p * PANEL_ROWS + i;
            row[i] = (uint8_t *)(r < rows ? out + r * PS_Q8_LANES : beyond);
        }
        for (size_t part = 0; part < 2; part++) {
            w16 w[4];
            for (size_t l = 0; l < 4; l++)
                w[l] = w16_load(g->lanes[j][4 * part + l][p]);
            w16_store4(row, part * PIECE_BYTES, w);
        }
    }
}

static ALWAYS_INLINE void lanes_add(const struct group *g, float *y, size_t rows, size_t j)
{
    for (size_t p = 0; p * PANEL_ROWS < rows; p++) {
        size_t count = rows - p * PANEL_ROWS;
        f16 four[4];
        for (int l = 0; l < 4; l++)
            four[l] = f16_add(f16_load(g->lanes[j][l][p]), f16_load(g->lanes[j][l + 4][p]));
        f16 total = f16_add(f16_add(four[0], four[2]), f16_add(four[1], four[3]));
        if (count >= PANEL_ROWS) {
            f16_store(y + p * PANEL_ROWS, total);
        } else {
            float part[PANEL_ROWS];
            f16_store(part, total);
            memcpy(y + p * PANEL_ROWS, part, count * sizeof(*part));
        }
    }
}

static ALWAYS_INLINE void lanes_end(const struct group *g, const struct ps_q8_matmul *m, size_t r,
                                    size_t rows, size_t c, size_t n)
{
    for (size_t j = 0; j < n; j++) {
        if (m->lanes_out != NULL)
            lanes_store(g, m->lanes_out + ((c + j) * m->rows + r) * PS_Q8_LANES, rows, j);
        else
            lanes_add(g, m->y + (c + j) * m->ldy + r, rows, j);
    }
}

/*
 * A part of what the next eight blocks take of the weights: runs of so few bytes in so many rows
 * are beyond the processor's own prefetching.
 */
static ALWAYS_INLINE void ask_for_rows(const uint8_t *const *row, size_t rows, size_t bytes,
                                       size_t offset, size_t part)
{
    for (size_t i = rows * part / PANEL_BLOCKS; i < rows * (part + 1) / PANEL_BLOCKS; i++) {
        for (size_t k = 0; k < bytes; k += 64)
            _mm_prefetch((const char *)(row[i] + offset + k), _MM_HINT_T0);
    }
}
