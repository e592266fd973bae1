/* The matrix kernels: every type, shapes around the edges of blocks, tiles and panels. */
#include "checkkernel.h"

#include <math.h>
#include <string.h>

#include "blocks.h"

#define COLS_MAX 1280 /* of the widths below */

enum { SLOT_W, SLOT_X, SLOT_Y, SLOT_Y_SCALAR, SLOT_LANES, SLOT_LANES_SCALAR };

/* The quants of a block: random, all least, all greatest, or alternating extremes. */
static void fill_quants(uint8_t *q, size_t bytes, uint32_t type)
{
    const uint8_t least = type == PS_TYPE_Q8_0 ? 0x80 : 0x00;
    const uint8_t greatest = type == PS_TYPE_Q8_0 ? 0x7f : 0xff;
    uint32_t manner = check_random() % 6;

    for (size_t i = 0; i < bytes; i++) {
        uint8_t alternating = i % 2 ? least : greatest;
        q[i] = manner == 0   ? least
               : manner == 1 ? greatest
               : manner == 2 ? alternating
                             : (uint8_t)check_random();
    }
}

/* Of e4m3: as fill_quants, with the codes of NaN only where they are asked for. */
static void fill_codes(uint8_t *codes, size_t count, enum check_kind kind)
{
    uint32_t manner = check_random() % 6;

    for (size_t i = 0; i < count; i++) {
        codes[i] =
            manner < 3 ? (manner + i * (manner == 2)) % 2 ? 0x7e : 0xfe : (uint8_t)check_random();
        if ((codes[i] & 0x7f) == 0x7f && (kind != CHECK_SPECIAL || check_random() % 8))
            codes[i] ^= 1;
    }
}

static void fill_row(uint8_t *row, uint32_t type, size_t cols, enum check_kind kind)
{
    const struct ps_type_info *info = ps_type_info(type);

    for (size_t i = 0; i < cols / info->block_len; i++, row += info->block_bytes) {
        uint16_t half = check_half(kind);
        float f;
        switch (type) {
        case PS_TYPE_F16:
            memcpy(row, &half, 2);
            break;
        case PS_TYPE_F32:
        case PS_TYPE_BF16:
            check_fill(&f, 1, kind);
            if (kind == CHECK_ALTERNATE && i % 2)
                f = -f;
            memcpy(row, type == PS_TYPE_F32 ? (uint8_t *)&f : (uint8_t *)&f + 2, info->block_bytes);
            break;
        case PS_TYPE_F8_E4M3:
            check_fill(&f, 1, kind);
            memcpy(row, &f, sizeof(f));
            fill_codes(row + sizeof(f), info->block_len, kind);
            break;
        default:
            fill_quants(row, info->block_bytes, type);
            blocks_set_scales(type, row, half, check_half(kind));
        }
    }
}

/* A random shape with w and x in guarded memory; y and lanes are left to the caller. */
static struct ps_matmul random_matmul(uint32_t type, enum check_kind w_kind, enum check_kind x_kind)
{
    static const size_t row_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17};
    static const size_t column_counts[] = {1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 16, 47, 48, 49, 97};
    static const size_t widths[] = {1,  2,  7,  8,  15,  16,  17,  31,  32,  33,  47,  48,
                                    63, 64, 65, 96, 127, 511, 512, 513, 527, 544, 1041};
    static const size_t block_widths[] = {1, 2, 3, 15, 16, 17, 33};
    static const size_t super_widths[] = {1, 1, 2, 2, 3, 4, 5};
    const struct ps_type_info *info = ps_type_info(type);
    struct ps_matmul m = {
        .type = type, .rows = CHECK_PICK(row_counts), .n = CHECK_PICK(column_counts)};

    m.cols = info->block_len == 1    ? CHECK_PICK(widths)
             : info->block_len <= 32 ? info->block_len * CHECK_PICK(block_widths)
                                     : info->block_len * CHECK_PICK(super_widths);
    size_t row_bytes = (size_t)ps_row_bytes(type, m.cols);
    m.w_stride_bytes = row_bytes + (check_random() % 2 ? check_between(0, 67) : 0);
    m.ldx = m.cols + check_between(0, 5);
    m.ldy = m.rows + check_between(0, 5);

    uint8_t *w = check_bytes(SLOT_W, (m.rows - 1) * m.w_stride_bytes + row_bytes);
    for (size_t r = 0; r < m.rows; r++)
        fill_row(w + r * m.w_stride_bytes, type, m.cols, w_kind);
    size_t x_count = (m.n - 1) * m.ldx + m.cols;
    float *x = check_floats(SLOT_X, x_count);
    check_fill(x, x_count, x_kind);
    m.w = w;
    m.x = x;
    check_case("matmul %s, weights %s, inputs %s, rows %zu, cols %zu, n %zu, stride %zu",
               info->name, check_kind_name(w_kind), check_kind_name(x_kind), m.rows, m.cols, m.n,
               m.w_stride_bytes);
    return m;
}

static size_t y_count(const struct ps_matmul *m)
{
    return (m->n - 1) * m->ldy + m->rows;
}

/* Lanes on their own, of rows of any length. */
static void check_lanes(struct ps_matmul m, const struct ps_kernels *scalar,
                        const struct ps_kernels *level)
{
    const size_t lane_count = m.n * m.rows * PS_LANES;
    const float *expected = m.lanes_out = check_floats(SLOT_LANES_SCALAR, lane_count);
    scalar->matmul(&m);
    m.lanes_out = check_floats(SLOT_LANES, lane_count);
    level->matmul(&m);
    check_same("lanes", expected, m.lanes_out, lane_count);
}

/* The first columns into lanes, the others continued from there: the bits of the uncut product. */
static void check_cut(const struct ps_matmul *whole, const struct ps_kernels *level,
                      const float *expected)
{
    const struct ps_type_info *info = ps_type_info(whole->type);
    const size_t grain = info->block_len > PS_LANES ? info->block_len : PS_LANES;
    const size_t cut = check_between(0, whole->cols / grain) * grain;
    const size_t lane_count = whole->n * whole->rows * PS_LANES;
    struct ps_matmul m = *whole;

    m.cols = cut;
    m.lanes_out = check_floats(SLOT_LANES, lane_count);
    level->matmul(&m);
    m.lanes_in = m.lanes_out;
    m.lanes_out = NULL;
    m.cols = whole->cols - cut;
    m.w = (const uint8_t *)whole->w + ps_row_bytes(whole->type, cut);
    m.x = whole->x + cut;
    m.y = check_floats(SLOT_Y, y_count(whole));
    level->matmul(&m);
    check_same("y of two parts", expected, m.y, y_count(whole));
}

static void check_one(const struct ps_kernels *scalar, const struct ps_kernels *level,
                      uint32_t type, enum check_kind w_kind, enum check_kind x_kind)
{
    struct ps_matmul m = random_matmul(type, w_kind, x_kind);
    /* Where y has gaps between its columns, both are filled alike and must stay so. */
    const float *expected = m.y = check_floats(SLOT_Y_SCALAR, y_count(&m));
    scalar->matmul(&m);
    m.y = check_floats(SLOT_Y, y_count(&m));
    level->matmul(&m);
    check_same("y", expected, m.y, y_count(&m));

    check_lanes(m, scalar, level);
    check_cut(&m, level, expected);

    /* A column alone gives what it gives in company. */
    size_t c = check_between(0, m.n - 1);
    m.n = 1;
    m.x += c * m.ldx;
    m.y = check_floats(SLOT_Y, m.rows);
    level->matmul(&m);
    check_same("y of one column", expected + c * m.ldy, m.y, m.rows);
    check_done();
}

/* How many cases of a type: long blocks make long rows. */
static int case_count(uint32_t type)
{
    const struct ps_type_info *info = ps_type_info(type);

    if (info == NULL || !info->has_kernels)
        return 0;
    return info->block_len == 1 ? 60 : info->block_len <= 32 ? 24 : 8;
}

void check_matmul(const struct ps_kernels *scalar, const struct ps_kernels *level)
{
    for (uint32_t type = 0; type < PS_TYPE_END; type++) {
        for (int kind = 0; kind < CHECK_KIND_COUNT; kind++) {
            for (int i = 0; i < case_count(type); i++) {
                enum check_kind w_kind = (enum check_kind)kind;
                enum check_kind other = (enum check_kind)check_between(0, CHECK_KIND_COUNT - 1);
                check_one(scalar, level, type, w_kind, i % 2 ? CHECK_NORMAL : w_kind);
                check_one(scalar, level, type, w_kind, other);
            }
        }
    }
}

/* The oracle's own decoder: ldexp instead of bits. */
static double half_value(const uint8_t *p)
{
    int h = p[0] | p[1] << 8, exponent = h >> 10 & 31, mantissa = h & 1023;
    double v = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -v : v;
}

static double block_value(uint32_t type, const uint8_t *block, size_t i)
{
    float f = 0;

    switch (type) {
    case PS_TYPE_F32:
        memcpy(&f, block, 4);
        return (double)f;
    case PS_TYPE_BF16:
        memcpy((uint8_t *)&f + 2, block, 2);
        return (double)f;
    case PS_TYPE_F16:
        return half_value(block);
    case PS_TYPE_Q8_0:
        return half_value(block) * (block[2 + i] < 128 ? block[2 + i] : block[2 + i] - 256);
    default:
        return half_value(block) * ((i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4) - 8);
    }
}

/* The types that block_value does not know are compared with reference blocks elsewhere
 * (test_quant_type.c). */
static void row_values(uint32_t type, const uint8_t *row, size_t cols, double *values)
{
    const struct ps_type_info *info = ps_type_info(type);
    float decoded[COLS_MAX];

    if (info->block_len == 1 || type == PS_TYPE_Q8_0 || type == PS_TYPE_Q4_0) {
        for (size_t k = 0; k < cols; k++) {
            const uint8_t *block = row + k / info->block_len * info->block_bytes;
            values[k] = block_value(type, block, k % info->block_len);
        }
        return;
    }
    ps_row_decode(type, row, decoded, cols);
    for (size_t k = 0; k < cols; k++)
        values[k] = (double)decoded[k];
}

static void oracle_one(const struct ps_kernels *scalar, uint32_t type, enum check_kind kind)
{
    struct ps_matmul m = random_matmul(type, kind, CHECK_NORMAL);
    double w[COLS_MAX];
    m.y = check_floats(SLOT_Y, y_count(&m));
    scalar->matmul(&m);

    for (size_t r = 0; r < m.rows; r++) {
        row_values(type, (const uint8_t *)m.w + r * m.w_stride_bytes, m.cols, w);
        for (size_t c = 0; c < m.n; c++) {
            double sum = 0, magnitude = 0;
            for (size_t k = 0; k < m.cols; k++) {
                double product = w[k] * (double)m.x[c * m.ldx + k];
                sum += product;
                magnitude += fabs(product);
            }
            /* cols / 16 roundings in a lane, four in the tree; underflow loses 2^-150 each. */
            double steps = (double)(m.cols / PS_LANES + 6);
            check_near("y", c * m.ldy + r, sum, steps * (0x1p-24 * magnitude + 0x1p-150),
                       m.y[c * m.ldy + r]);
        }
    }
    check_done();
}

void check_matmul_oracle(const struct ps_kernels *scalar)
{
    for (uint32_t type = 0; type < PS_TYPE_END; type++) {
        for (int kind = 0; kind < CHECK_ORACLE_KINDS; kind++) {
            for (int i = 0; i < case_count(type) / 3; i++)
                oracle_one(scalar, type, (enum check_kind)kind);
        }
    }
}
