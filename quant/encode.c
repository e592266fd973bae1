/*
 * The definition of the encoders: encode_lanes.h over plain arrays of floats, and the choice of a
 * level.
 */
#include "quant/encode.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/util.h"
#include "quant/encode_internal.h"

typedef struct {
    float lane[PS_ENCODE_LANES];
} v16;
typedef struct {
    bool lane[PS_ENCODE_LANES];
} vmask;

#define EACH_LANE for (int l = 0; l < PS_ENCODE_LANES; l++)

static inline v16 v_load(const float *p)
{
    v16 r;
    memcpy(&r, p, sizeof(r));
    return r;
}

static inline void v_store(float *p, v16 v)
{
    memcpy(p, &v, sizeof(v));
}

static inline v16 v_set1(float f)
{
    v16 r;
    EACH_LANE r.lane[l] = f;
    return r;
}

static inline v16 v_add(v16 a, v16 b)
{
    EACH_LANE a.lane[l] = a.lane[l] + b.lane[l];
    return a;
}

static inline v16 v_sub(v16 a, v16 b)
{
    EACH_LANE a.lane[l] = a.lane[l] - b.lane[l];
    return a;
}

static inline v16 v_mul(v16 a, v16 b)
{
    EACH_LANE a.lane[l] = a.lane[l] * b.lane[l];
    return a;
}

static inline v16 v_div(v16 a, v16 b)
{
    EACH_LANE a.lane[l] = a.lane[l] / b.lane[l];
    return a;
}

/* a b + c and c - a b, rounded once. */
static inline v16 v_fma(v16 a, v16 b, v16 c)
{
    EACH_LANE a.lane[l] = fmaf(a.lane[l], b.lane[l], c.lane[l]);
    return a;
}

static inline v16 v_fnma(v16 a, v16 b, v16 c)
{
    EACH_LANE a.lane[l] = fmaf(-a.lane[l], b.lane[l], c.lane[l]);
    return a;
}

/* The second where one is NaN or both are equal, as the processors have it. */
static inline v16 v_min(v16 a, v16 b)
{
    EACH_LANE a.lane[l] = a.lane[l] < b.lane[l] ? a.lane[l] : b.lane[l];
    return a;
}

static inline v16 v_max(v16 a, v16 b)
{
    EACH_LANE a.lane[l] = a.lane[l] > b.lane[l] ? a.lane[l] : b.lane[l];
    return a;
}

static inline v16 v_abs(v16 a)
{
    EACH_LANE a.lane[l] = fabsf(a.lane[l]);
    return a;
}

/* To whole numbers, halves to even. */
static inline v16 v_round(v16 a)
{
    EACH_LANE a.lane[l] = rintf(a.lane[l]);
    return a;
}

/* To the nearest half float, ties to even. */
static inline v16 v_half(v16 a)
{
    EACH_LANE a.lane[l] = ps_f16_to_f32(ps_f32_to_f16(a.lane[l]));
    return a;
}

static inline uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

static inline float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

/* To two significant bits, halves up. */
static inline v16 v_snap(v16 a)
{
    EACH_LANE a.lane[l] = float_of((bits_of(a.lane[l]) + 0x200000) & 0xffc00000);
    return a;
}

/* The power of two at or below a positive number; 0 below the smallest normal one. */
static inline v16 v_pow2(v16 a)
{
    EACH_LANE a.lane[l] = float_of(bits_of(a.lane[l]) & 0x7f800000);
    return a;
}

static inline vmask v_less(v16 a, v16 b)
{
    vmask m;
    EACH_LANE m.lane[l] = a.lane[l] < b.lane[l];
    return m;
}

static inline v16 v_pick(vmask m, v16 a, v16 b)
{
    EACH_LANE b.lane[l] = m.lane[l] ? a.lane[l] : b.lane[l];
    return b;
}

static inline bool v_all(vmask m)
{
    bool all = true;
    EACH_LANE all = all && m.lane[l];
    return all;
}

/* Whole numbers of 16 bits to words: low | high << 16. */
static inline void v_words(uint32_t *words, v16 low, v16 high)
{
    EACH_LANE words[l] = (uint32_t)low.lane[l] | (uint32_t)high.lane[l] << 16;
}

static void turn_in(const float *const *src, int n, float (*out)[PS_ENCODE_LANES])
{
    for (int k = 0; k < n; k++)
        EACH_LANE out[k][l] = src[l][k];
}

static void turn_out(const uint32_t (*words)[PS_ENCODE_LANES], uint8_t (*bytes)[16])
{
    EACH_LANE for (int i = 0; i < 16; i++) bytes[l][i] = (uint8_t)(words[i / 4][l] >> 8 * (i % 4));
}

static void encode_q8_0(const float *src, uint8_t *dst, size_t block_count)
{
    ps_row_encode(PS_TYPE_Q8_0, src, dst, 32 * block_count);
}

#include "quant/encode_lanes.h"

#include "quant/encode_lanes_k.h"

#include "quant/encode_lanes_rows.h"

void ps_encode_scalar(const struct ps_encode *e)
{
    encode_rows(e);
}

void ps_encode_rows_at(enum ps_cpu_level level, const struct ps_encode *e)
{
    enum ps_cpu_level usable = ps_cpu_level();

    if (e->type == PS_TYPE_F32 || e->type == PS_TYPE_F16 || e->type == PS_TYPE_BF16)
        ps_row_encode(e->type, e->values, e->dst, e->rows * e->cols);
    else if (level >= PS_CPU_AVX512 && usable >= PS_CPU_AVX512)
        ps_encode_avx512(e);
    else if (level >= PS_CPU_AVX2 && usable >= PS_CPU_AVX2)
        ps_encode_avx2(e);
    else
        ps_encode_scalar(e);
}

void ps_encode_rows(const struct ps_encode *e)
{
    ps_encode_rows_at(PS_CPU_LEVEL_COUNT, e);
}
