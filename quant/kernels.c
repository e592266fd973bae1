/*
 * The definitions: scalar versions of every kernel, and the choice of a table by CPU level.
 * Whatever the vector versions do must give these bits. fmaf is one rounding by the C standard; on
 * processors without the instruction the C library computes the same result in software.
 */
#include "quant/kernels.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "quant/kernels_internal.h"

#define DECODE_COLS 256 /* floats decoded at a time: a multiple of every block length */
#define COLUMN_TILE 16  /* columns of x that share one decoding */

static float add_lanes(const float *lanes)
{
    float sum[PS_LANES];
    memcpy(sum, lanes, sizeof(sum));
    for (int half = PS_LANES / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; l++)
            sum[l] = sum[l] + sum[l + half];
    }
    return sum[0];
}

/* Continues the lanes with products k = 0, 1, ...; a is at a multiple of PS_LANES of its vector. */
static void accumulate(float *lanes, const float *a, const float *b, size_t n)
{
    for (size_t k = 0; k < n; k++)
        lanes[k % PS_LANES] = fmaf(a[k], b[k], lanes[k % PS_LANES]);
}

/* Row r times columns [c0, c0 + n). */
static void matmul_row(const struct ps_matmul *m, size_t r, size_t c0, size_t n)
{
    const struct ps_type_info *info = ps_type_info(m->type);
    const uint8_t *row = (const uint8_t *)m->w + r * m->w_stride_bytes;
    float lanes[COLUMN_TILE][PS_LANES] = {{0}};
    float w[DECODE_COLS];

    for (size_t c = 0; c < n && m->lanes_in != NULL; c++)
        memcpy(lanes[c], m->lanes_in + ((c0 + c) * m->rows + r) * PS_LANES, sizeof(lanes[c]));
    for (size_t k = 0; k < m->cols; k += DECODE_COLS) {
        size_t count = m->cols - k < DECODE_COLS ? m->cols - k : DECODE_COLS;
        ps_row_decode(m->type, row + k / info->block_len * info->block_bytes, w, count);
        for (size_t c = 0; c < n; c++)
            accumulate(lanes[c], w, m->x + (c0 + c) * m->ldx + k, count);
    }
    for (size_t c = 0; c < n; c++) {
        if (m->lanes_out != NULL)
            memcpy(m->lanes_out + ((c0 + c) * m->rows + r) * PS_LANES, lanes[c], sizeof(lanes[c]));
        else
            m->y[(c0 + c) * m->ldy + r] = add_lanes(lanes[c]);
    }
}

static void matmul(const struct ps_matmul *m)
{
    for (size_t r = 0; r < m->rows; r++) {
        for (size_t c = 0; c < m->n; c += COLUMN_TILE)
            matmul_row(m, r, c, m->n - c < COLUMN_TILE ? m->n - c : COLUMN_TILE);
    }
}

static float dot(const float *a, const float *b, size_t n)
{
    float lanes[PS_LANES] = {0};
    accumulate(lanes, a, b, n);
    return add_lanes(lanes);
}

static void axpy(float *y, float a, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = fmaf(a, x[i], y[i]);
}

static void add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = y[i] + x[i];
}

static void scale(float *y, float a, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a * x[i];
}

static void rmsnorm(float *y, const float *x, const float *w, size_t n, float eps)
{
    float s = 1 / sqrtf(dot(x, x, n) / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * s * w[i];
}

static void l2norm(float *y, const float *x, size_t n, float eps, float a)
{
    float s = 1 / sqrtf(dot(x, x, n) + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * s * a;
}

/* 2^n for n in [-126, 127]. */
static float power_of_two(int32_t n)
{
    uint32_t bits = (uint32_t)(n + 127) << 23;
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

float ps_expf(float x)
{
    /* Both comparisons are false for NaN, which goes through. */
    x = x > PS_EXP_MAX ? PS_EXP_MAX : x;
    x = x < PS_EXP_MIN ? PS_EXP_MIN : x;
    if (x != x)
        return x;

    float rounded = fmaf(x, PS_LOG2_E, PS_EXP_ROUND);
    float n = rounded - PS_EXP_ROUND;
    float r = fmaf(n, -PS_LN2_HIGH, x);
    r = fmaf(n, -PS_LN2_LOW, r);

    float p = fmaf(PS_EXP_C6, r, PS_EXP_C5);
    p = fmaf(p, r, PS_EXP_C4);
    p = fmaf(p, r, PS_EXP_C3);
    p = fmaf(p, r, PS_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);

    int32_t exponent = (int32_t)n;
    int32_t first = (exponent + 256) / 2 - 128; /* floor(exponent / 2) */
    return p * power_of_two(first) * power_of_two(exponent - first);
}

float ps_sigmoidf(float x)
{
    return 1 / (1 + ps_expf(-x));
}

/*
 * In double, so that the C library's last bit cannot show in the float: this runs once per head and
 * token, never in a vector loop.
 */
float ps_softplusf(float x)
{
    double v = x;
    return (float)(v > 0 ? v + log1p(exp(-v)) : log1p(exp(v)));
}

static float silu_of(float v)
{
    return v / (1 + ps_expf(-v));
}

static void swiglu(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = silu_of(gate[i]) * up[i];
}

static void silu(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = silu_of(x[i]);
}

static void sigmoid_mul(float *y, const float *x, const float *gate, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * ps_sigmoidf(gate[i]);
}

static void softmax(float *x, size_t n)
{
    /* The order of a maximum does not matter but for NaN, and a NaN makes the sum NaN. */
    float max = x[0];
    for (size_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;

    float lanes[PS_LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        x[i] = ps_expf(x[i] - max);
        lanes[i % PS_LANES] = lanes[i % PS_LANES] + x[i];
    }
    float sum = add_lanes(lanes);
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] / sum;
}

static float softmax_part(float *x, size_t n, float factor, float *max, float *sum)
{
    float top = *max, lanes[PS_LANES] = {0};

    for (size_t i = 0; i < n; i++) {
        x[i] = factor * x[i];
        top = x[i] > top ? x[i] : top;
    }
    top = top + 0.0f; /* of +0 and -0 either may have been found first */
    for (size_t i = 0; i < n; i++) {
        x[i] = ps_expf(x[i] - top);
        lanes[i % PS_LANES] = lanes[i % PS_LANES] + x[i];
    }
    float before = ps_expf(*max - top);
    *sum = fmaf(*sum, before, add_lanes(lanes));
    *max = top;
    return before;
}

static void weighted_sum(const struct ps_weighted_sum *s)
{
    const struct ps_type_info *info = ps_type_info(s->type);
    float v[DECODE_COLS];

    for (size_t p = 0; p < s->positions; p++) {
        const uint8_t *row = (const uint8_t *)s->v + p * s->v_stride_bytes;
        for (size_t i = 0; i < s->dim; i += DECODE_COLS) {
            size_t count = s->dim - i < DECODE_COLS ? s->dim - i : DECODE_COLS;
            ps_row_decode(s->type, row + i / info->block_len * info->block_bytes, v, count);
            for (size_t c = 0; c < s->n; c++)
                axpy(s->y + c * s->ldy + i, s->weight[c * s->ldw + p], v, count);
        }
    }
}

static void delta_step(float *state, const float *q, const float *k, const float *v, float *o,
                       float *tmp, size_t dk, size_t dv, float decay, float beta)
{
    memset(tmp, 0, dv * sizeof(*tmp));
    memset(o, 0, dv * sizeof(*o));
    for (size_t i = 0; i < dk; i++) {
        float *row = state + i * dv;
        for (size_t j = 0; j < dv; j++) {
            row[j] = decay * row[j];
            tmp[j] = fmaf(row[j], k[i], tmp[j]);
        }
    }
    for (size_t j = 0; j < dv; j++)
        tmp[j] = beta * (v[j] - tmp[j]);
    for (size_t i = 0; i < dk; i++) {
        float *row = state + i * dv;
        for (size_t j = 0; j < dv; j++) {
            row[j] = fmaf(k[i], tmp[j], row[j]);
            o[j] = fmaf(row[j], q[i], o[j]);
        }
    }
}

static void conv_step(float *y, float *history, const float *x, const float *w, size_t channels,
                      size_t taps)
{
    for (size_t ch = 0; ch < channels; ch++) {
        const float *tap = w + ch * taps;
        float newest = x[ch];
        float sum = 0;
        for (size_t i = 0; i + 1 < taps; i++) {
            float *past = history + i * channels + ch;
            sum = fmaf(tap[i], *past, sum);
            *past = i + 2 < taps ? past[channels] : newest;
        }
        sum = fmaf(tap[taps - 1], newest, sum);
        y[ch] = silu_of(sum);
    }
}

static void rope(float *x, const float *cos, const float *sin, size_t half)
{
    for (size_t j = 0; j < half; j++) {
        float a = x[j], b = x[j + half];
        x[j] = fmaf(a, cos[j], -(b * sin[j]));
        x[j + half] = fmaf(b, cos[j], a * sin[j]);
    }
}

static void to_half(uint16_t *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = ps_f32_to_f16(x[i]);
}

static struct ps_kernels tables[PS_CPU_LEVEL_COUNT];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void fill_tables(void)
{
    const struct ps_kernels scalar = {
        .matmul = matmul,
        .dot = dot,
        .axpy = axpy,
        .add = add,
        .scale = scale,
        .rmsnorm = rmsnorm,
        .l2norm = l2norm,
        .swiglu = swiglu,
        .silu = silu,
        .sigmoid_mul = sigmoid_mul,
        .softmax = softmax,
        .softmax_part = softmax_part,
        .weighted_sum = weighted_sum,
        .delta_step = delta_step,
        .conv_step = conv_step,
        .rope = rope,
        .to_half = to_half,
    };

    /* The functions that fill a level are compiled for it, and the compiler uses what it may: they
     * must not run where the level does not. */
    enum ps_cpu_level usable = ps_cpu_level();

    tables[PS_CPU_SCALAR] = scalar;
    tables[PS_CPU_AVX2] = scalar;
    if (usable >= PS_CPU_AVX2)
        ps_kernels_init_avx2(&tables[PS_CPU_AVX2]);
    tables[PS_CPU_AVX512] = tables[PS_CPU_AVX2];
    if (usable >= PS_CPU_AVX512)
        ps_kernels_init_avx512(&tables[PS_CPU_AVX512]);
    /* The levels above add integer instructions, which have no place in float arithmetic. */
    for (int level = PS_CPU_AVX512 + 1; level < PS_CPU_LEVEL_COUNT; level++)
        tables[level] = tables[PS_CPU_AVX512];
}

const struct ps_kernels *ps_kernels_get(enum ps_cpu_level level)
{
    pthread_once(&tables_once, fill_tables);
    return &tables[level < PS_CPU_LEVEL_COUNT ? level : PS_CPU_LEVEL_COUNT - 1];
}
