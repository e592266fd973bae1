/*
 * Products with 8-bit vectors: every type, shapes around the edges of groups and tiles, and blocks
 * of planted extremes, since sums of products of bytes can saturate where others are exact.
 */
#include "checkkernel.h"

#include <math.h>
#include <string.h>

#include "quant/q8.h"
#include "quant/q8_internal.h"

enum { SLOT_W, SLOT_X, SLOT_Y, SLOT_Y_SCALAR, SLOT_LANES, SLOT_LANES_SCALAR, SLOT_X_PART };

/* Where a block of the type keeps its half floats. Returns how many there are. */
static int half_offsets(uint32_t type, size_t *at)
{
    at[0] = type == PS_TYPE_Q2_K ? 80 : type == PS_TYPE_Q3_K ? 108 : type == PS_TYPE_Q6_K ? 208 : 0;
    at[1] = at[0] + 2;
    return type == PS_TYPE_MXFP4 ? 0 : ps_q8_has_minima(type) ? 2 : 1;
}

/* Fills bytes with all bits clear or set, all least or greatest of 8 bits, turns of two, or any. */
static void fill_bytes(uint8_t *p, size_t bytes)
{
    static const uint8_t plain[] = {0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0};
    uint32_t manner = check_random() % 4;
    uint8_t even = CHECK_PICK(plain), odd = manner == 1 ? CHECK_PICK(plain) : even;

    for (size_t i = 0; i < bytes; i++)
        p[i] = manner >= 2 ? (uint8_t)check_random() : i % 2 ? odd : even;
}

static void fill_row(uint8_t *row, uint32_t type, size_t cols, enum check_kind kind)
{
    const struct ps_type_info *info = ps_type_info(type);
    size_t at[2];
    int count = half_offsets(type, at);

    for (size_t i = 0; i < cols / info->block_len; i++, row += info->block_bytes) {
        fill_bytes(row, info->block_bytes);
        for (int j = 0; j < count; j++) {
            uint16_t half = check_half(kind);
            memcpy(row + at[j], &half, 2);
        }
        if (type == PS_TYPE_MXFP4 && kind == CHECK_NORMAL)
            row[0] = (uint8_t)check_between(118, 136);
        else if (type == PS_TYPE_MXFP4 && kind == CHECK_DENORMAL)
            row[0] = (uint8_t)check_between(0, 3);
    }
}

/* Blocks of equal magnitudes become blocks of 127, of one sign, of turns, or of runs of two. */
static void plant_extremes(float *x, size_t cols)
{
    for (size_t b = 0; b < cols / PS_Q8_BLOCK; b++) {
        uint32_t manner = check_random() % 8;
        float v = check_random() % 2 ? 1.5f : -1.5f;
        for (size_t i = 0; i < PS_Q8_BLOCK && manner < 4; i++) {
            bool flip = (manner == 1 && i % 2 != 0) || (manner == 2 && i / 2 % 2 != 0);
            x[b * PS_Q8_BLOCK + i] = manner == 3 ? 0 : flip ? -v : v;
        }
    }
}

/* n vectors of `stride` bytes, rounded by the definition. */
static void fill_x(uint8_t *x, size_t n, size_t stride, size_t cols, enum check_kind kind)
{
    static float values[2048];

    for (size_t c = 0; c < n; c++) {
        check_fill(values, cols, kind);
        if (check_random() % 2)
            plant_extremes(values, cols);
        ps_q8_quantize_scalar(values, cols, x + c * stride);
    }
}

static struct ps_q8_matmul random_matmul(uint32_t type, enum check_kind w_kind,
                                         enum check_kind x_kind)
{
    static const size_t row_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 31, 32, 33, 48};
    static const size_t column_counts[] = {1, 1, 1, 1, 2, 3, 4, 5, 6, 8, 16, 17, 48, 63, 65, 97};
    static const size_t widths[] = {32, 64, 96, 160, 224, 256, 288, 480, 512, 544, 768, 1056};
    static const size_t long_widths[] = {256, 512, 768, 1024};
    const struct ps_type_info *info = ps_type_info(type);
    const bool is_long = info->block_len > PS_Q8_BLOCK;
    struct ps_q8_matmul m = {
        .type = type, .rows = CHECK_PICK(row_counts), .n = CHECK_PICK(column_counts)};

    m.cols = is_long ? CHECK_PICK(long_widths) : CHECK_PICK(widths);
    m.first_block = check_random() % 2 ? 0 : check_between(0, 17) * (is_long ? 8 : 1);
    size_t row_bytes = (size_t)ps_row_bytes(type, m.cols);
    m.w_stride_bytes = row_bytes + (check_random() % 2 ? check_between(0, 67) : 0);
    m.x_stride_bytes = ps_q8_bytes(m.cols) + 64 * check_between(0, 2);
    m.ldy = m.rows + check_between(0, 5);

    uint8_t *w = check_bytes(SLOT_W, (m.rows - 1) * m.w_stride_bytes + row_bytes);
    for (size_t r = 0; r < m.rows; r++)
        fill_row(w + r * m.w_stride_bytes, type, m.cols, w_kind);
    m.w = w;
    uint8_t *x = check_bytes(SLOT_X, (m.n - 1) * m.x_stride_bytes + ps_q8_bytes(m.cols));
    fill_x(x, m.n, m.x_stride_bytes, m.cols, x_kind);
    m.x = x;
    check_case(
        "q8 matmul %s, weights %s, inputs %s, rows %zu, cols %zu from block %zu, n %zu, stride %zu",
        info->name, check_kind_name(w_kind), check_kind_name(x_kind), m.rows, m.cols, m.first_block,
        m.n, m.w_stride_bytes);
    return m;
}

static size_t y_count(const struct ps_q8_matmul *m)
{
    return (m->n - 1) * m->ldy + m->rows;
}

/* Lanes on their own; and continued from others, in place. */
static void check_lanes(struct ps_q8_matmul m, const struct ps_q8_kernels *scalar,
                        const struct ps_q8_kernels *level)
{
    const size_t count = m.n * m.rows * PS_Q8_LANES;
    float *expected = check_floats(SLOT_LANES_SCALAR, count);
    float *got = check_floats(SLOT_LANES, count);

    m.lanes_out = expected;
    scalar->matmul(&m);
    m.lanes_out = got;
    level->matmul(&m);
    check_same("lanes", expected, got, count);

    m.lanes_in = m.lanes_out = expected;
    scalar->matmul(&m);
    m.lanes_in = m.lanes_out = got;
    level->matmul(&m);
    check_same("lanes continued", expected, got, count);
}

/* Columns [from, from + part->cols) of the vectors, as vectors of their own. */
static void cut_x(const struct ps_q8_matmul *whole, size_t from, struct ps_q8_matmul *part)
{
    const size_t blocks = part->cols / PS_Q8_BLOCK, first = from / PS_Q8_BLOCK;
    const size_t bytes = ps_q8_bytes(part->cols);
    uint8_t *x = check_bytes(SLOT_X_PART, whole->n * bytes);

    memset(x, 0, whole->n * bytes);
    for (size_t c = 0; c < whole->n; c++) {
        const uint8_t *src = (const uint8_t *)whole->x + c * whole->x_stride_bytes;
        uint8_t *dst = x + c * bytes;
        memcpy(dst, src + from, part->cols);
        memcpy((float *)ps_q8_scales(dst, part->cols), ps_q8_scales(src, whole->cols) + first,
               blocks * sizeof(float));
        memcpy((int16_t *)ps_q8_sums(dst, part->cols), ps_q8_sums(src, whole->cols) + 2 * first,
               2 * blocks * sizeof(int16_t));
    }
    part->x = x;
    part->x_stride_bytes = bytes;
}

/* The first columns into lanes, the others continued from there: the bits of the uncut product. */
static void check_cut(const struct ps_q8_matmul *whole, const struct ps_q8_kernels *level,
                      const float *expected)
{
    const size_t grain = ps_type_info(whole->type)->block_len;
    const size_t cut = check_between(0, whole->cols / grain) * grain;
    struct ps_q8_matmul m = *whole;

    m.cols = cut;
    m.lanes_out = check_floats(SLOT_LANES, whole->n * whole->rows * PS_Q8_LANES);
    cut_x(whole, 0, &m);
    level->matmul(&m);
    m.lanes_in = m.lanes_out;
    m.lanes_out = NULL;
    m.cols = whole->cols - cut;
    m.first_block += cut / PS_Q8_BLOCK;
    m.w = (const uint8_t *)whole->w + ps_row_bytes(whole->type, cut);
    cut_x(whole, cut, &m);
    m.y = check_floats(SLOT_Y, y_count(whole));
    level->matmul(&m);
    check_same("y of two parts", expected, m.y, y_count(whole));
}

static void check_one(const struct ps_q8_kernels *scalar, const struct ps_q8_kernels *level,
                      uint32_t type, enum check_kind w_kind, enum check_kind x_kind)
{
    struct ps_q8_matmul m = random_matmul(type, w_kind, x_kind);
    /* Where y has gaps between its columns, both are filled alike and must stay so. */
    const float *expected = m.y = check_floats(SLOT_Y_SCALAR, y_count(&m));
    scalar->matmul(&m);
    m.y = check_floats(SLOT_Y, y_count(&m));
    level->matmul(&m);
    check_same("y", expected, m.y, y_count(&m));

    check_lanes(m, scalar, level);
    check_cut(&m, level, expected);

    /* A vector alone gives what it gives in company. */
    size_t c = check_between(0, m.n - 1);
    m.n = 1;
    m.x = (const uint8_t *)m.x + c * m.x_stride_bytes;
    m.y = check_floats(SLOT_Y, m.rows);
    level->matmul(&m);
    check_same("y of one vector", expected + c * m.ldy, m.y, m.rows);
    check_done();
}

static void check_quantize(const struct ps_q8_kernels *scalar, const struct ps_q8_kernels *level,
                           enum check_kind kind)
{
    const size_t cols = check_between(1, 700), bytes = ps_q8_bytes(cols);
    float *x = check_floats(SLOT_W, cols);
    uint8_t *expected = check_bytes(SLOT_Y_SCALAR, bytes), *got = check_bytes(SLOT_Y, bytes);

    check_fill(x, cols, kind);
    if (check_random() % 2)
        plant_extremes(x, cols);
    check_case("q8 quantize, inputs %s, cols %zu", check_kind_name(kind), cols);
    scalar->quantize(x, cols, expected);
    level->quantize(x, cols, got);
    check_same_bytes("vector", expected, got, bytes);
    check_done();
}

void check_q8(enum ps_cpu_level number)
{
    check_q8_table(ps_q8_kernels_get(number));
}

void check_q8_table(const struct ps_q8_kernels *level)
{
    const struct ps_q8_kernels *scalar = ps_q8_kernels_get(PS_CPU_SCALAR);

    for (int kind = 0; kind < CHECK_KIND_COUNT; kind++) {
        for (int i = 0; i < 100; i++)
            check_quantize(scalar, level, (enum check_kind)kind);
        for (uint32_t type = 0; type < PS_TYPE_COUNT; type++) {
            for (int i = 0; ps_q8_has(type) && i < 12; i++) {
                enum check_kind w_kind = (enum check_kind)kind;
                enum check_kind other = (enum check_kind)check_between(0, CHECK_KIND_COUNT - 1);
                check_one(scalar, level, type, w_kind, i % 2 ? CHECK_NORMAL : w_kind);
                check_one(scalar, level, type, w_kind, other);
            }
        }
    }
}

/* The sum over a row of what the integers stand for, and of the magnitudes of its two terms. */
static double exact_product(const struct ps_q8_matmul *m, size_t r, size_t c, double *magnitude)
{
    const uint8_t *row = (const uint8_t *)m->w + r * m->w_stride_bytes;
    const uint8_t *x = (const uint8_t *)m->x + c * m->x_stride_bytes;
    const float *d = ps_q8_scales(x, m->cols);
    double sum = 0;

    *magnitude = 0;
    for (size_t b = 0; b < m->cols / PS_Q8_BLOCK; b++) {
        struct ps_q8_block w;
        ps_q8_unpack(m->type, row, b, &w);
        for (size_t i = 0; i < PS_Q8_BLOCK; i++) {
            double value = (double)d[b] * (int8_t)x[b * PS_Q8_BLOCK + i];
            double scaled = (double)w.s * w.c[i / 16] * w.q[i] * value;
            double min = (double)w.t * w.m[i / 16] * value;
            sum += scaled + min;
            *magnitude += fabs(scaled) + fabs(min);
        }
    }
    return sum;
}

static void oracle_one(const struct ps_q8_kernels *scalar, uint32_t type, enum check_kind kind)
{
    struct ps_q8_matmul m = random_matmul(type, kind, CHECK_NORMAL);
    m.y = check_floats(SLOT_Y, y_count(&m));
    scalar->matmul(&m);

    for (size_t c = 0; c < m.n; c++) {
        for (size_t r = 0; r < m.rows; r++) {
            double magnitude, sum = exact_product(&m, r, c, &magnitude);
            /*
             * Each block rounds its scale, its integer and twice its lane; three steps of the tree.
             * A scale that underflows is off by 2^-150, times an integer below 2^25.
             */
            double blocks = (double)(m.cols / PS_Q8_BLOCK);
            double bound = (blocks / PS_Q8_LANES * 2 + 8) * 0x1p-24 * magnitude + blocks * 0x1p-124;
            check_near("y", c * m.ldy + r, sum, bound, m.y[c * m.ldy + r]);
        }
    }
    check_done();
}

void check_q8_oracle(void)
{
    const struct ps_q8_kernels *scalar = ps_q8_kernels_get(PS_CPU_SCALAR);

    for (uint32_t type = 0; type < PS_TYPE_COUNT; type++) {
        for (int kind = 0; ps_q8_has(type) && kind < CHECK_ORACLE_KINDS; kind++) {
            for (int i = 0; i < 6; i++) {
                /* Any exponent but those of ordinary weights makes sums that overflow. */
                if (type != PS_TYPE_MXFP4 || kind != CHECK_ZERO)
                    oracle_one(scalar, type, (enum check_kind)kind);
            }
        }
    }
}
