/*
 * The vector versions of the kernels, written once over sixteen floats and included by one file per
 * CPU level. That file first defines
 *     v16                    sixteen floats in registers, and the v_ operations on them
 *     vm, VM_LANES, vm_...   one machine register of floats
 *     decode_<type>          32 values of a type, from packed bytes to two v16
 *     v_nibbles_..., v_iq..., v_from_bytes, v_from_half_words, v_two_halves, spread_bits
 *                            for kernels_blocks.h
 *     v_taps4                a [16, 4] matrix to its four columns
 *     GEMV_ROWS, TILE_ROWS, TILE_COLUMNS, DELTA_VECTORS   what the registers of the level hold
 * and afterwards finds init_table() to fill its entries with. Everything here is static; nothing
 * but a kernels_<level>.c may include this.
 *
 * Why the bits are those of kernels.c: a v16 is the sixteen lanes of the definition, every
 * operation is one IEEE operation per lane in the order of the definition, and lanes beyond the end
 * of a vector keep their value instead of taking a product with zero (which could turn -0 into +0).
 */
#define LONG_ROW_BYTES 4096 /* a page: the reach of the processor's own prefetching */
#define DECODE_LEN 32       /* values per call of a decoder; divides SCALE_COLS */

/* Decodes a block; *scale is its scale, where the format has one. */
typedef void decode_fn(const uint8_t *src, const float *scale, v16 *w);

#include "quant/kernels_blocks.h"

/* Always passed as a constant to inlined functions, so that the decoder is inlined too. */
struct format {
    decode_fn *decode;
    size_t src_bytes; /* per DECODE_LEN values */
    bool scaled;      /* a block begins with a half float, its scale */
    /* Or, of the formats in kernels_blocks.h: */
    block_fn *block;
    prepare_fn *prepare;           /* NULL unless block_len is PS_SUPER_LEN */
    size_t block_len, block_bytes; /* block_len divides PS_SUPER_LEN */
};

/*
 * Scales are fetched for many blocks ahead of their use: integer units move the halves together,
 * one instruction converts sixteen, and the decoder's multiplication takes each from memory. One at
 * a time they would cost more of the vector units than the weights do.
 */
#define SCALE_COUNT PS_LANES
#define SCALE_COLS (SCALE_COUNT * DECODE_LEN)

static ALWAYS_INLINE void gather_scales(const uint8_t *src, size_t src_bytes, size_t count,
                                        uint16_t *half)
{
    for (size_t i = 0; i < count; i++)
        memcpy(&half[i], src + i * src_bytes, sizeof(*half));
}

/* With a constant count of 16 these are plain loads and stores. */
static ALWAYS_INLINE v16 load_upto(const float *p, size_t count)
{
    return count == PS_LANES ? v_load(p) : v_load_part(p, count);
}

static ALWAYS_INLINE void store_upto(float *p, v16 v, size_t count)
{
    if (count == PS_LANES)
        v_store(p, v);
    else
        v_store_part(p, v, count);
}

/* One step of a dot product over the first `count` lanes. */
static ALWAYS_INLINE v16 fma_upto(v16 a, v16 b, v16 acc, size_t count)
{
    v16 sum = v_fma(a, b, acc);
    return count == PS_LANES ? sum : v_select_part(sum, acc, count);
}

/*
 * Trees of four dot products at once. First l + (l + 8) and l + (l + 4) on each, which leaves four
 * lanes; then pairs of products share a register for l + (l + 2), and all four for l + (l + 1).
 */
static ALWAYS_INLINE __m128 sum_halves(const __m256 *half)
{
    __m128 quarter[4];
    UNROLL for (int i = 0; i < 4; i++) quarter[i] =
        _mm_add_ps(_mm256_castps256_ps128(half[i]), _mm256_extractf128_ps(half[i], 1));
    __m128 ab =
        _mm_add_ps(_mm_movelh_ps(quarter[0], quarter[1]), _mm_movehl_ps(quarter[1], quarter[0]));
    __m128 cd =
        _mm_add_ps(_mm_movelh_ps(quarter[2], quarter[3]), _mm_movehl_ps(quarter[3], quarter[2]));
    return _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd));
}

static ALWAYS_INLINE __m128 sum_four(const v16 *acc)
{
    __m256 half[4];
    UNROLL for (int i = 0; i < 4; i++) half[i] = v_add_halves(acc[i]);
    return sum_halves(half);
}

static ALWAYS_INLINE float sum_one(v16 acc)
{
    v16 four[4] = {acc, acc, acc, acc};
    return _mm_cvtss_f32(sum_four(four));
}

/* ---- Matrix times one vector: weights go from memory through registers once ---- */

/* The last columns, fewer than DECODE_LEN: only types with blocks of one value have any. */
static void gemv_tail(const struct ps_matmul *m, const uint8_t *const *row, size_t k, v16 *acc)
{
    const size_t value_bytes = ps_type_info(m->type)->block_bytes;

    for (; k < m->cols; k += PS_LANES) {
        size_t count = m->cols - k < PS_LANES ? m->cols - k : PS_LANES;
        v16 x = load_upto(m->x + k, count);
        for (int i = 0; i < GEMV_ROWS; i++) {
            float w[PS_LANES] = {0};
            ps_row_decode(m->type, row[i] + k * value_bytes, w, count);
            acc[i] = fma_upto(v_load(w), x, acc[i], count);
        }
    }
}

/* The scales of columns [k, k + count * DECODE_LEN) of all rows. */
static ALWAYS_INLINE void gemv_scales(const uint8_t *const *row, size_t k, size_t count,
                                      const struct format f, float (*scale)[SCALE_COUNT])
{
    uint16_t half[GEMV_ROWS][SCALE_COUNT];

    if (count == SCALE_COUNT) {
        for (int i = 0; i < GEMV_ROWS; i++)
            gather_scales(row[i] + k / DECODE_LEN * f.src_bytes, f.src_bytes, SCALE_COUNT, half[i]);
    } else {
        memset(half, 0, sizeof(half));
        for (int i = 0; i < GEMV_ROWS; i++)
            gather_scales(row[i] + k / DECODE_LEN * f.src_bytes, f.src_bytes, count, half[i]);
    }
    for (int i = 0; i < GEMV_ROWS; i++)
        v_store(scale[i], v_from_halves(half[i]));
}

/*
 * Columns [k, k + count * DECODE_LEN) of all rows, side by side: that hides the latency of the
 * arithmetic, which is the limit for formats with scales. Their runs of a few hundred bytes in many
 * rows are too short for the processor's own prefetching, so the bytes `ahead` are asked for here.
 */
static ALWAYS_INLINE void gemv_columns(const uint8_t *const *row, const float *x, size_t k,
                                       size_t count, size_t ahead, const struct format f, v16 *acc)
{
    _Alignas(64) float scale[GEMV_ROWS][SCALE_COUNT];
    size_t offset = k / DECODE_LEN * f.src_bytes;

    if (f.scaled)
        gemv_scales(row, k, count, f, scale);
    for (size_t b = 0; b < count; b++, offset += f.src_bytes) {
        v16 x0 = v_load(x + k + b * DECODE_LEN), x1 = v_load(x + k + b * DECODE_LEN + PS_LANES);
        UNROLL for (int i = 0; i < GEMV_ROWS; i++)
        {
            v16 w[2];
            if (f.scaled)
                _mm_prefetch((const char *)(row[i] + offset + ahead), _MM_HINT_T0);
            f.decode(row[i] + offset, &scale[i][b], w);
            acc[i] = v_fma(w[0], x0, acc[i]);
            acc[i] = v_fma(w[1], x1, acc[i]);
        }
    }
}

static ALWAYS_INLINE void gemv_long_rows(const uint8_t *const *row, const struct ps_matmul *m,
                                         size_t cols, const struct format f, v16 *acc)
{
    size_t k = 0;
    for (; k + SCALE_COLS < cols; k += SCALE_COLS)
        gemv_columns(row, m->x, k, SCALE_COUNT, SCALE_COUNT * f.src_bytes, f, acc);
    /* The last columns look ahead to the first ones of the next rows. */
    if (k < cols)
        gemv_columns(row, m->x, k, (cols - k) / DECODE_LEN,
                     GEMV_ROWS * m->w_stride_bytes - k / DECODE_LEN * f.src_bytes, f, acc);
}

/*
 * Without scales memory is the limit, and short rows come fastest strictly in order: 31 GB/s
 * instead of 10 for 256 columns of F32 (Zen 4). Several rows overlap in the processor all the same.
 */
static ALWAYS_INLINE v16 gemv_short_row(const uint8_t *row, const float *x, size_t cols,
                                        const struct format f, v16 acc)
{
    for (size_t k = 0; k < cols; k += DECODE_LEN, row += f.src_bytes) {
        v16 w[2];
        f.decode(row, NULL, w);
        acc = v_fma(w[0], v_load(x + k), acc);
        acc = v_fma(w[1], v_load(x + k + PS_LANES), acc);
    }
    return acc;
}

/*
 * Up to PS_SUPER_LEN columns of one row after the other. Within a row every product waits for the
 * one before; the processor works ahead on the next rows meanwhile.
 */
static ALWAYS_INLINE void gemv_super(const uint8_t *const *row, size_t offset, size_t ahead,
                                     const float *x, size_t blocks, const struct format f, v16 *acc)
{
    struct prepared p[GEMV_ROWS];

    for (size_t i = 0; i < GEMV_ROWS; i++) {
        const uint8_t *src = row[i] + offset;
        for (size_t line = 0; line < PS_SUPER_LEN / f.block_len * f.block_bytes; line += 64)
            _mm_prefetch((const char *)(src + ahead + line), _MM_HINT_T0);
        if (f.prepare != NULL)
            f.prepare(src, &p[i]);
    }
    for (size_t i = 0; i < GEMV_ROWS; i++) {
        const uint8_t *src = row[i] + offset;
        struct sink s = {.x = x, .acc = {acc[i]}};
        for (size_t b = 0; b < blocks; b++, src += f.block_bytes, s.x += f.block_len)
            f.block(src, &p[i], put_product, &s);
        acc[i] = s.acc[0];
    }
}

static ALWAYS_INLINE void gemv_blocks(const uint8_t *const *row, const struct ps_matmul *m,
                                      const struct format f, v16 *acc)
{
    const size_t blocks = PS_SUPER_LEN / f.block_len, step = blocks * f.block_bytes;
    size_t k = 0, offset = 0;

    for (; k + PS_SUPER_LEN <= m->cols; k += PS_SUPER_LEN, offset += step)
        gemv_super(row, offset, 2 * step, m->x + k, blocks, f, acc);
    if (f.block_len < PS_SUPER_LEN && k < m->cols)
        gemv_super(row, offset, 2 * step, m->x + k, (m->cols - k) / f.block_len, f, acc);
}

/* Rows [r, r + GEMV_ROWS), or those of them that there are. */
static ALWAYS_INLINE void gemv_rows(const struct ps_matmul *m, size_t r, const struct format f)
{
    const uint8_t *row[GEMV_ROWS];
    v16 acc[GEMV_ROWS];
    size_t count = m->rows - r < GEMV_ROWS ? m->rows - r : GEMV_ROWS;

    /* Where rows are missing the last one is computed again: rare, and cheaper than more variants.
     */
    for (size_t i = 0; i < GEMV_ROWS; i++) {
        size_t actual = r + (i < count ? i : count - 1);
        row[i] = (const uint8_t *)m->w + actual * m->w_stride_bytes;
        acc[i] = m->lanes_in != NULL ? v_load(m->lanes_in + actual * PS_LANES) : v_zero();
    }

    size_t full = m->cols / DECODE_LEN * DECODE_LEN;
    if (f.block != NULL) {
        gemv_blocks(row, m, f, acc);
    } else if (f.scaled || full / DECODE_LEN * f.src_bytes >= LONG_ROW_BYTES) {
        gemv_long_rows(row, m, full, f, acc);
    } else {
        for (size_t i = 0; i < count; i++)
            acc[i] = gemv_short_row(row[i], m->x, full, f, acc[i]);
    }
    if (full < m->cols)
        gemv_tail(m, row, full, acc);

    if (m->lanes_out != NULL) {
        for (size_t i = 0; i < count; i++)
            v_store(m->lanes_out + (r + i) * PS_LANES, acc[i]);
        return;
    }
    float y[GEMV_ROWS];
    for (int i = 0; i < GEMV_ROWS; i += 4)
        _mm_storeu_ps(y + i, sum_four(acc + i));
    memcpy(m->y + r, y, count * sizeof(*y));
}

static ALWAYS_INLINE void gemv(const struct ps_matmul *m, const struct format f)
{
    for (size_t r = 0; r < m->rows; r += GEMV_ROWS)
        gemv_rows(m, r, f);
}

#include "quant/kernels_few.h"
#include "quant/kernels_gemm.h"

/* One pair of functions per type, so that its decoder is inlined into both loops. */
#define MATMUL_WITH(type, ...)                                                                     \
    static void matmul_##type(const struct ps_matmul *m)                                           \
    {                                                                                              \
        const struct format f = {__VA_ARGS__};                                                     \
        if (m->n == 1)                                                                             \
            gemv(m, f);                                                                            \
        else if (is_few(m, f))                                                                     \
            few(m, f);                                                                             \
        else                                                                                       \
            gemm(m, f);                                                                            \
    }
#define MATMUL_OF(type, bytes, is_scaled)                                                          \
    MATMUL_WITH(type, .decode = decode_##type, .src_bytes = bytes, .scaled = is_scaled)
#define MATMUL_OF_BLOCKS(type, bytes)                                                              \
    MATMUL_WITH(type, .block = block_##type, .block_len = 32, .block_bytes = bytes)
#define MATMUL_OF_SUPER(type, bytes)                                                               \
    MATMUL_WITH(type, .block = block_##type, .prepare = prepare_##type, .block_len = PS_SUPER_LEN, \
                .block_bytes = bytes)

MATMUL_OF(f32, 128, false)
MATMUL_OF(f16, 64, false)
MATMUL_OF(bf16, 64, false)
MATMUL_OF(q8_0, 34, true)
MATMUL_OF(q4_0, 18, true)
MATMUL_OF_BLOCKS(q4_1, 20)
MATMUL_OF_BLOCKS(q5_0, 22)
MATMUL_OF_BLOCKS(q5_1, 24)
MATMUL_OF_BLOCKS(iq4_nl, 18)
MATMUL_OF_BLOCKS(mxfp4, 17)
MATMUL_WITH(f8_e4m3, .block = block_f8_e4m3, .block_len = 128, .block_bytes = 132)
MATMUL_OF_SUPER(q2_k, 84)
MATMUL_OF_SUPER(q3_k, 110)
MATMUL_OF_SUPER(q4_k, 144)
MATMUL_OF_SUPER(q5_k, 176)
MATMUL_OF_SUPER(q6_k, 210)
MATMUL_OF_SUPER(iq1_s, 50)
MATMUL_OF_SUPER(iq1_m, 56)
MATMUL_OF_SUPER(iq2_xxs, 66)
MATMUL_OF_SUPER(iq2_xs, 74)
MATMUL_OF_SUPER(iq2_s, 82)
MATMUL_OF_SUPER(iq3_xxs, 98)
MATMUL_OF_SUPER(iq3_s, 110)
MATMUL_OF_SUPER(iq4_xs, 136)

static void matmul(const struct ps_matmul *m)
{
    static void (*const by_type[PS_TYPE_END])(const struct ps_matmul *) = {
        [PS_TYPE_F32] = matmul_f32,         [PS_TYPE_F16] = matmul_f16,
        [PS_TYPE_BF16] = matmul_bf16,       [PS_TYPE_Q8_0] = matmul_q8_0,
        [PS_TYPE_Q4_0] = matmul_q4_0,       [PS_TYPE_Q4_1] = matmul_q4_1,
        [PS_TYPE_Q5_0] = matmul_q5_0,       [PS_TYPE_Q5_1] = matmul_q5_1,
        [PS_TYPE_Q2_K] = matmul_q2_k,       [PS_TYPE_Q3_K] = matmul_q3_k,
        [PS_TYPE_Q4_K] = matmul_q4_k,       [PS_TYPE_Q5_K] = matmul_q5_k,
        [PS_TYPE_Q6_K] = matmul_q6_k,       [PS_TYPE_IQ1_S] = matmul_iq1_s,
        [PS_TYPE_IQ1_M] = matmul_iq1_m,     [PS_TYPE_IQ2_XXS] = matmul_iq2_xxs,
        [PS_TYPE_IQ2_XS] = matmul_iq2_xs,   [PS_TYPE_IQ2_S] = matmul_iq2_s,
        [PS_TYPE_IQ3_XXS] = matmul_iq3_xxs, [PS_TYPE_IQ3_S] = matmul_iq3_s,
        [PS_TYPE_IQ4_NL] = matmul_iq4_nl,   [PS_TYPE_IQ4_XS] = matmul_iq4_xs,
        [PS_TYPE_MXFP4] = matmul_mxfp4,     [PS_TYPE_F8_E4M3] = matmul_f8_e4m3,
    };

    if (m->type < PS_TYPE_COUNT && by_type[m->type] != NULL)
        by_type[m->type](m);
    else /* a type that has scalar kernels only, Penstock's own among them */
        ps_kernels_get(PS_CPU_SCALAR)->matmul(m);
}

/* ---- Vectors ---- */

/*
 * Runs step(i, count) over a vector: whole registers with the constant 16, which folds the checks
 * of load_upto away, then the rest.
 */
#define FOR_LANES(n, step)                                                                         \
    do {                                                                                           \
        size_t at = 0;                                                                             \
        for (; at + PS_LANES <= (n); at += PS_LANES)                                               \
            step(at, PS_LANES);                                                                    \
        if (at < (n))                                                                              \
            step(at, (n)-at);                                                                      \
    } while (0)

static float dot(const float *a, const float *b, size_t n)
{
    v16 acc = v_zero();
#define STEP(i, count)                                                                             \
    acc = fma_upto(load_upto(a + (i), count), load_upto(b + (i), count), acc, count)
    FOR_LANES(n, STEP);
#undef STEP
    return sum_one(acc);
}

static void axpy(float *y, float a, const float *x, size_t n)
{
    v16 factor = v_set1(a);
#define STEP(i, count)                                                                             \
    store_upto(y + (i), v_fma(factor, load_upto(x + (i), count), load_upto(y + (i), count)), count)
    FOR_LANES(n, STEP);
#undef STEP
}

static void add(float *y, const float *x, size_t n)
{
#define STEP(i, count)                                                                             \
    store_upto(y + (i), v_add(load_upto(y + (i), count), load_upto(x + (i), count)), count)
    FOR_LANES(n, STEP);
#undef STEP
}

static void scale(float *y, float a, const float *x, size_t n)
{
    v16 factor = v_set1(a);
#define STEP(i, count) store_upto(y + (i), v_mul(factor, load_upto(x + (i), count)), count)
    FOR_LANES(n, STEP);
#undef STEP
}

static void rmsnorm(float *y, const float *x, const float *w, size_t n, float eps)
{
    v16 s = v_set1(1 / sqrtf(dot(x, x, n) / (float)n + eps));
#define STEP(i, count)                                                                             \
    store_upto(y + (i), v_mul(v_mul(load_upto(x + (i), count), s), load_upto(w + (i), count)),     \
               count)
    FOR_LANES(n, STEP);
#undef STEP
}

static void l2norm(float *y, const float *x, size_t n, float eps, float a)
{
    v16 s = v_set1(1 / sqrtf(dot(x, x, n) + eps)), factor = v_set1(a);
#define STEP(i, count)                                                                             \
    store_upto(y + (i), v_mul(v_mul(load_upto(x + (i), count), s), factor), count)
    FOR_LANES(n, STEP);
#undef STEP
}

/* ps_expf in every lane; v_min and v_max return their second operand if it is NaN. */
static ALWAYS_INLINE v16 v_exp(v16 x)
{
    x = v_min(v_set1(PS_EXP_MAX), x);
    x = v_max(v_set1(PS_EXP_MIN), x);

    v16 rounded = v_fma(x, v_set1(PS_LOG2_E), v_set1(PS_EXP_ROUND));
    v16 n = v_sub(rounded, v_set1(PS_EXP_ROUND));
    v16 r = v_fma(n, v_set1(-PS_LN2_HIGH), x);
    r = v_fma(n, v_set1(-PS_LN2_LOW), r);

    v16 p = v_fma(v_set1(PS_EXP_C6), r, v_set1(PS_EXP_C5));
    p = v_fma(p, r, v_set1(PS_EXP_C4));
    p = v_fma(p, r, v_set1(PS_EXP_C3));
    p = v_fma(p, r, v_set1(PS_EXP_C2));
    p = v_fma(p, r, v_set1(1));
    p = v_fma(p, r, v_set1(1));
    return v_scale_by_exponent(p, rounded);
}

static ALWAYS_INLINE v16 one_plus_exp_minus(v16 x)
{
    return v_add(v_set1(1), v_exp(v_negate(x)));
}

static ALWAYS_INLINE v16 silu_of(v16 x)
{
    return v_div(x, one_plus_exp_minus(x));
}

static void swiglu(float *y, const float *gate, const float *up, size_t n)
{
#define STEP(i, count)                                                                             \
    store_upto(y + (i), v_mul(silu_of(load_upto(gate + (i), count)), load_upto(up + (i), count)),  \
               count)
    FOR_LANES(n, STEP);
#undef STEP
}

static void silu(float *y, const float *x, size_t n)
{
#define STEP(i, count) store_upto(y + (i), silu_of(load_upto(x + (i), count)), count)
    FOR_LANES(n, STEP);
#undef STEP
}

static ALWAYS_INLINE void sigmoid_mul_step(float *y, const float *x, const float *gate,
                                           size_t count)
{
    v16 sigmoid = v_div(v_set1(1), one_plus_exp_minus(load_upto(gate, count)));
    store_upto(y, v_mul(load_upto(x, count), sigmoid), count);
}

static void sigmoid_mul(float *y, const float *x, const float *gate, size_t n)
{
#define STEP(i, count) sigmoid_mul_step(y + (i), x + (i), gate + (i), count)
    FOR_LANES(n, STEP);
#undef STEP
}

static float maximum(const float *x, size_t n)
{
    v16 max = v_set1(x[0]);
#define STEP(i, count) max = v_select_part(v_max(load_upto(x + (i), count), max), max, count)
    FOR_LANES(n, STEP);
#undef STEP
    float lanes[PS_LANES];
    v_store(lanes, max);
    for (int l = 1; l < PS_LANES; l++)
        lanes[0] = lanes[l] > lanes[0] ? lanes[l] : lanes[0];
    return lanes[0];
}

static ALWAYS_INLINE v16 softmax_step(float *x, v16 max, v16 sum, size_t count)
{
    v16 e = v_exp(v_sub(load_upto(x, count), max));
    store_upto(x, e, count);
    return v_select_part(v_add(sum, e), sum, count);
}

static void softmax(float *x, size_t n)
{
    v16 max = v_set1(maximum(x, n)), sum = v_zero();
#define STEP(i, count) sum = softmax_step(x + (i), max, sum, count)
    FOR_LANES(n, STEP);
#undef STEP
    v16 divisor = v_set1(sum_one(sum));
#define STEP(i, count) store_upto(x + (i), v_div(load_upto(x + (i), count), divisor), count)
    FOR_LANES(n, STEP);
#undef STEP
}

#include "quant/kernels_attention.h"

/* ---- Gated delta rule ---- */

struct delta {
    float *state;
    const float *q, *k, *v;
    float *o;
    size_t dk, dv;
    float decay, beta;
};

/*
 * `vectors` registers of columns from j on, of which `count` lanes exist. The decayed state is
 * computed twice (to the same bits) instead of being stored in between: one pass of writes instead
 * of two.
 */
static ALWAYS_INLINE void delta_columns(const struct delta *s, size_t j, const int vectors,
                                        size_t count)
{
    v16 sum[DELTA_VECTORS], d[DELTA_VECTORS], decay = v_set1(s->decay);

    UNROLL for (int l = 0; l < vectors; l++) sum[l] = v_zero();
    for (size_t i = 0; i < s->dk; i++) {
        const float *row = s->state + i * s->dv + j;
        v16 k = v_set1(s->k[i]);
        UNROLL for (int l = 0; l < vectors; l++) sum[l] =
            v_fma(v_mul(decay, load_upto(row + l * PS_LANES, count)), k, sum[l]);
    }
    UNROLL for (int l = 0; l < vectors; l++)
    {
        v16 v = load_upto(s->v + j + (size_t)l * PS_LANES, count);
        d[l] = v_mul(v_set1(s->beta), v_sub(v, sum[l]));
        sum[l] = v_zero();
    }
    for (size_t i = 0; i < s->dk; i++) {
        float *row = s->state + i * s->dv + j;
        v16 k = v_set1(s->k[i]), q = v_set1(s->q[i]);
        UNROLL for (int l = 0; l < vectors; l++)
        {
            v16 decayed = v_mul(decay, load_upto(row + l * PS_LANES, count));
            v16 updated = v_fma(k, d[l], decayed);
            store_upto(row + l * PS_LANES, updated, count);
            sum[l] = v_fma(updated, q, sum[l]);
        }
    }
    UNROLL for (int l = 0; l < vectors; l++)
        store_upto(s->o + j + (size_t)l * PS_LANES, sum[l], count);
}

static void delta_step(float *state, const float *q, const float *k, const float *v, float *o,
                       float *tmp, size_t dk, size_t dv, float decay, float beta)
{
    const struct delta s = {state, q, k, v, o, dk, dv, decay, beta};
    size_t j = 0;

    (void)tmp;
    for (; j + DELTA_VECTORS * PS_LANES <= dv; j += DELTA_VECTORS * PS_LANES)
        delta_columns(&s, j, DELTA_VECTORS, PS_LANES);
    for (; j + PS_LANES <= dv; j += PS_LANES)
        delta_columns(&s, j, 1, PS_LANES);
    if (j < dv)
        delta_columns(&s, j, 1, dv - j);
}

/* ---- Causal convolution, four taps: the only length that models of this kind have ---- */

struct conv {
    float *y, *history;
    const float *x, *w;
    size_t channels;
};

static ALWAYS_INLINE void conv_channels(const struct conv *s, size_t ch, size_t count)
{
    float edge[4 * PS_LANES] = {0};
    const float *w = s->w + 4 * ch;
    v16 tap[4];

    if (count < PS_LANES) {
        memcpy(edge, w, 4 * count * sizeof(*w));
        w = edge;
    }
    v_taps4(w, tap);

    float *row = s->history + ch;
    v16 h0 = load_upto(row, count), h1 = load_upto(row + s->channels, count);
    v16 h2 = load_upto(row + 2 * s->channels, count), newest = load_upto(s->x + ch, count);
    v16 sum = v_fma(tap[0], h0, v_zero());
    sum = v_fma(tap[1], h1, sum);
    sum = v_fma(tap[2], h2, sum);
    sum = v_fma(tap[3], newest, sum);
    store_upto(row, h1, count);
    store_upto(row + s->channels, h2, count);
    store_upto(row + 2 * s->channels, newest, count);
    store_upto(s->y + ch, silu_of(sum), count);
}

static void conv_step(float *y, float *history, const float *x, const float *w, size_t channels,
                      size_t taps)
{
    const struct conv s = {y, history, x, w, channels};

    if (taps != 4) {
        ps_kernels_get(PS_CPU_SCALAR)->conv_step(y, history, x, w, channels, taps);
        return;
    }
#define STEP(i, count) conv_channels(&s, i, count)
    FOR_LANES(channels, STEP);
#undef STEP
}

static ALWAYS_INLINE void rope_step(float *low, float *high, const float *cos, const float *sin,
                                    size_t count)
{
    v16 a = load_upto(low, count), b = load_upto(high, count);
    v16 c = load_upto(cos, count), s = load_upto(sin, count);
    store_upto(low, v_fma(a, c, v_negate(v_mul(b, s))), count);
    store_upto(high, v_fma(b, c, v_mul(a, s)), count);
}

static void rope(float *x, const float *cos, const float *sin, size_t half)
{
#define STEP(i, count) rope_step(x + (i), x + half + (i), cos + (i), sin + (i), count)
    FOR_LANES(half, STEP);
#undef STEP
}

static void to_half(uint16_t *y, const float *x, size_t n)
{
    size_t i = 0;

    for (; i + PS_LANES <= n; i += PS_LANES)
        v_to_halves(y + i, v_load(x + i));
    if (i < n) {
        uint16_t edge[PS_LANES];
        v_to_halves(edge, load_upto(x + i, n - i));
        memcpy(y + i, edge, (n - i) * sizeof(*y));
    }
}

static void init_table(struct ps_kernels *table)
{
    table->matmul = matmul;
    table->dot = dot;
    table->axpy = axpy;
    table->add = add;
    table->scale = scale;
    table->rmsnorm = rmsnorm;
    table->l2norm = l2norm;
    table->swiglu = swiglu;
    table->silu = silu;
    table->sigmoid_mul = sigmoid_mul;
    table->softmax = softmax;
    table->softmax_part = softmax_part;
    table->weighted_sum = weighted_sum;
    table->delta_step = delta_step;
    table->conv_step = conv_step;
    table->rope = rope;
    table->to_half = to_half;
}
