/*
 * The definitions: scalar versions of the rounding and of the product, and the choice of a version
 * by CPU level. Whatever the vector versions do must give these bits.
 */
#include "quant/q8.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "quant/q8_internal.h"

static uint32_t magnitude_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return u & 0x7fffffff;
}

/* One block, of which `count` values exist. */
static void quantize_block(const float *x, size_t count, int8_t *q, float *d, int16_t *sum)
{
    /* As integers, so that a NaN is greater than all. */
    uint32_t max_bits = 0;
    for (size_t i = 0; i < count; i++)
        max_bits = magnitude_bits(x[i]) > max_bits ? magnitude_bits(x[i]) : max_bits;

    memset(q, 0, PS_Q8_BLOCK);
    sum[0] = sum[1] = 0;
    *d = max_bits >= PS_Q8_SPECIAL_BITS ? NAN : 0;
    if (max_bits >= PS_Q8_SPECIAL_BITS || max_bits < PS_Q8_LEAST_BITS)
        return;

    float max;
    memcpy(&max, &max_bits, sizeof(max));
    float inverse = 127 / max;
    *d = max / 127;
    for (size_t i = 0; i < count; i++) {
        q[i] = (int8_t)rintf(x[i] * inverse);
        sum[i / 16] = (int16_t)(sum[i / 16] + q[i]);
    }
}

void ps_q8_quantize_scalar(const float *x, size_t cols, void *dst)
{
    int8_t *q = dst;
    float *d = (float *)ps_q8_scales(dst, cols);
    int16_t *sum = (int16_t *)ps_q8_sums(dst, cols);

    for (size_t b = 0; b < ps_q8_padded_blocks(cols); b++) {
        size_t k = b * PS_Q8_BLOCK, left = k < cols ? cols - k : 0;
        quantize_block(x + (left > 0 ? k : 0), left < PS_Q8_BLOCK ? left : PS_Q8_BLOCK, q + k,
                       d + b, sum + 2 * b);
    }
}

/* One block into its lane. */
static void accumulate(const struct ps_q8_block *w, bool minima, const int8_t *xq, float xd,
                       const int16_t *xsum, float *lane)
{
    int32_t dot[2] = {0};
    for (int i = 0; i < PS_Q8_BLOCK; i++)
        dot[i / 16] += w->q[i] * xq[i];
    int32_t s = w->c[0] * dot[0] + w->c[1] * dot[1];
    float scale = w->s * xd;
    *lane = fmaf((float)s, scale, *lane);
    if (minima) {
        int32_t m = w->m[0] * xsum[0] + w->m[1] * xsum[1];
        float min_scale = w->t * xd;
        *lane = fmaf((float)m, min_scale, *lane);
    }
}

static float add_lanes(const float *lanes)
{
    float sum[PS_Q8_LANES];
    memcpy(sum, lanes, sizeof(sum));
    for (int half = PS_Q8_LANES / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; l++)
            sum[l] = sum[l] + sum[l + half];
    }
    return sum[0];
}

/* Row r times vector c. */
static void multiply_row(const struct ps_q8_matmul *m, size_t r, size_t c)
{
    const uint8_t *row = (const uint8_t *)m->w + r * m->w_stride_bytes;
    const void *x = (const uint8_t *)m->x + c * m->x_stride_bytes;
    const size_t at = (c * m->rows + r) * PS_Q8_LANES;
    const bool minima = ps_q8_has_minima(m->type);
    float lanes[PS_Q8_LANES] = {0};

    if (m->lanes_in != NULL)
        memcpy(lanes, m->lanes_in + at, sizeof(lanes));
    for (size_t b = 0; b < m->cols / PS_Q8_BLOCK; b++) {
        struct ps_q8_block w;
        ps_q8_unpack(m->type, row, b, &w);
        accumulate(&w, minima, (const int8_t *)x + b * PS_Q8_BLOCK, ps_q8_scales(x, m->cols)[b],
                   ps_q8_sums(x, m->cols) + 2 * b, &lanes[(m->first_block + b) % PS_Q8_LANES]);
    }
    if (m->lanes_out != NULL)
        memcpy(m->lanes_out + at, lanes, sizeof(lanes));
    else
        m->y[c * m->ldy + r] = add_lanes(lanes);
}

void ps_q8_matmul_scalar(const struct ps_q8_matmul *m)
{
    for (size_t r = 0; r < m->rows; r++) {
        for (size_t c = 0; c < m->n; c++)
            multiply_row(m, r, c);
    }
}

/* ---- Levels ---- */

static struct ps_q8_versions versions[PS_CPU_LEVEL_COUNT];
static struct ps_q8_kernels tables[PS_CPU_LEVEL_COUNT];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static bool multiply_few(enum ps_cpu_level level, const struct ps_q8_matmul *m)
{
    for (int l = (int)level; l > PS_CPU_SCALAR; l--) {
        if (versions[l].few != NULL && versions[l].few(m))
            return true;
    }
    return false;
}

static bool multiply_many(enum ps_cpu_level level, const struct ps_q8_matmul *m)
{
    for (int l = (int)level; l > PS_CPU_SCALAR; l--) {
        if (versions[l].many != NULL && versions[l].many(m))
            return true;
    }
    return false;
}

/* The vectors from c on, as many as a product of few may have. */
static struct ps_q8_matmul part_of(const struct ps_q8_matmul *m, size_t c)
{
    struct ps_q8_matmul part = *m;
    const size_t lanes_before = c * m->rows * PS_Q8_LANES;

    part.n = m->n - c < PS_Q8_FEW ? m->n - c : PS_Q8_FEW;
    part.x = (const uint8_t *)m->x + c * m->x_stride_bytes;
    if (m->lanes_out == NULL)
        part.y = m->y + c * m->ldy;
    else
        part.lanes_out = m->lanes_out + lanes_before;
    if (m->lanes_in != NULL)
        part.lanes_in = m->lanes_in + lanes_before;
    return part;
}

static void multiply(enum ps_cpu_level level, const struct ps_q8_matmul *m)
{
    if (m->n > PS_Q8_FEW && multiply_many(level, m))
        return;
    for (size_t c = 0; c < m->n; c += PS_Q8_FEW) {
        struct ps_q8_matmul part = part_of(m, c);
        if (!multiply_few(level, &part))
            ps_q8_matmul_scalar(&part);
    }
}

static void matmul_avx2(const struct ps_q8_matmul *m)
{
    multiply(PS_CPU_AVX2, m);
}

static void matmul_avx512(const struct ps_q8_matmul *m)
{
    multiply(PS_CPU_AVX512, m);
}

static void matmul_vnni(const struct ps_q8_matmul *m)
{
    multiply(PS_CPU_VNNI, m);
}

static void matmul_amx(const struct ps_q8_matmul *m)
{
    multiply(PS_CPU_AMX, m);
}

static void fill_tables(void)
{
    static const struct ps_q8_kernels definitions[PS_CPU_LEVEL_COUNT] = {
        [PS_CPU_SCALAR] = {ps_q8_matmul_scalar, ps_q8_quantize_scalar},
        [PS_CPU_AVX2] = {matmul_avx2, ps_q8_quantize_scalar},
        [PS_CPU_AVX512] = {matmul_avx512, ps_q8_quantize_scalar},
        [PS_CPU_VNNI] = {matmul_vnni, ps_q8_quantize_scalar},
        [PS_CPU_AMX] = {matmul_amx, ps_q8_quantize_scalar},
    };
    const int usable = (int)ps_cpu_level();

    /* Compiled for their level, the functions that fill it must not run where the level does not.
     */
    if (usable >= PS_CPU_AVX2) {
        ps_q8_init_avx2(&versions[PS_CPU_AVX2]);
        ps_q8_init_gemm_avx2(&versions[PS_CPU_AVX2]);
    }
    if (usable >= PS_CPU_AVX512) {
        ps_q8_init_avx512(&versions[PS_CPU_AVX512]);
        ps_q8_init_gemm_avx512(&versions[PS_CPU_AVX512]);
    }
    if (usable >= PS_CPU_VNNI) {
        ps_q8_init_vnni(&versions[PS_CPU_VNNI]);
        ps_q8_init_gemm_vnni(&versions[PS_CPU_VNNI]);
    }
    if (usable >= PS_CPU_AMX)
        ps_q8_init_gemm_amx(&versions[PS_CPU_AMX]);
    for (int level = 0; level < PS_CPU_LEVEL_COUNT; level++) {
        if (level > usable) {
            tables[level] = tables[usable];
            continue;
        }
        tables[level] = definitions[level];
        if (versions[level].quantize != NULL)
            tables[level].quantize = versions[level].quantize;
        else if (level > PS_CPU_SCALAR)
            tables[level].quantize = tables[level - 1].quantize;
    }
}

const struct ps_q8_kernels *ps_q8_kernels_get(enum ps_cpu_level level)
{
    pthread_once(&tables_once, fill_tables);
    return &tables[level < PS_CPU_LEVEL_COUNT ? level : PS_CPU_LEVEL_COUNT - 1];
}
