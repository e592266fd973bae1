/*
 * Exact conversion between floats and the block types, one value or block at a time. These are the
 * definitions of the formats (spec B.4): the kernels' decoders must give the same floats.
 */
#include "quant/type.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "quant/decode.h"
#include "quant/encode.h"

#define Q_BLOCK_LEN 32
#define Q4_0_BYTES 18
#define Q8_0_BYTES 34
#define F8_BLOCK_LEN 128
#define F8_BYTES 132

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static void store_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

float ps_f8_e4m3_to_f32(uint8_t code)
{
    uint32_t sign = (uint32_t)(code & 0x80) << 24;
    uint32_t exponent = code >> 3 & 15;
    uint32_t mantissa = code & 7;

    if ((code & 0x7f) == 0x7f) /* the format's only NaN; it has no infinities */
        return float_of(sign | 0x7fc00000);
    if (exponent == 0) {
        float value = (float)mantissa * 0x1p-9f;
        return sign ? -value : value;
    }
    return float_of(sign | (exponent + 120) << 23 | mantissa << 20);
}

float ps_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = h >> 10 & 0x1f;
    uint32_t mantissa = h & 0x3ff;

    if (exponent == 0) {
        /* Zero or denormal: mantissa * 2^-24, which every float holds exactly. */
        float value = (float)mantissa * 0x1p-24f;
        return sign ? -value : value;
    }
    if (exponent == 31) {
        /* Infinity, or a NaN made quiet as the processors' own conversion does. */
        uint32_t quiet = mantissa != 0 ? 0x400000 : 0;
        return float_of(sign | 0x7f800000 | quiet | mantissa << 13);
    }
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t ps_f32_to_f16(float f)
{
    uint32_t u = bits_of(f);
    uint32_t sign = u >> 16 & 0x8000;
    uint32_t a = u & 0x7fffffff;

    if (a > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >=
        0x477ff000) /* 65520, halfway between the largest half and the next step: to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) {
        /* Below 2^-14: a count of 2^-24, rounded to nearest even. 2^-25 and less round to zero. */
        uint32_t exponent = a >> 23;
        if (exponent < 102)
            return (uint16_t)sign;
        uint32_t mantissa = (a & 0x7fffff) | 0x800000;
        uint32_t shift = 126 - exponent;
        uint32_t odd = mantissa >> shift & 1;
        return (uint16_t)(sign | (mantissa + (1u << (shift - 1)) - 1 + odd) >> shift);
    }
    /* A carry out of the mantissa raises the exponent, as rounding should. */
    return (uint16_t)(sign | (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13);
}

float ps_bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

uint16_t ps_f32_to_bf16(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 |
                          0x40); /* cutting a NaN could leave an infinity: set the quiet bit */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void decode_q8_0(const uint8_t *src, float *dst, size_t block_count)
{
    for (size_t b = 0; b < block_count; b++, src += Q8_0_BYTES, dst += Q_BLOCK_LEN) {
        float d = ps_f16_to_f32(ps_load_u16(src));
        for (int i = 0; i < Q_BLOCK_LEN; i++)
            dst[i] = d * (float)(int8_t)src[2 + i];
    }
}

static void decode_q4_0(const uint8_t *src, float *dst, size_t block_count)
{
    for (size_t b = 0; b < block_count; b++, src += Q4_0_BYTES, dst += Q_BLOCK_LEN) {
        float d = ps_f16_to_f32(ps_load_u16(src));
        for (int i = 0; i < Q_BLOCK_LEN / 2; i++) {
            dst[i] = d * (float)((src[2 + i] & 15) - 8);
            dst[i + Q_BLOCK_LEN / 2] = d * (float)((src[2 + i] >> 4) - 8);
        }
    }
}

typedef void block_decoder(const uint8_t *src, float *dst, size_t block_count);

static block_decoder *const block_decoders[PS_TYPE_COUNT] = {
    [PS_TYPE_Q4_0] = decode_q4_0,          [PS_TYPE_Q4_1] = ps_q4_1_decode,
    [PS_TYPE_Q5_0] = ps_q5_0_decode,       [PS_TYPE_Q5_1] = ps_q5_1_decode,
    [PS_TYPE_Q8_0] = decode_q8_0,          [PS_TYPE_Q2_K] = ps_q2_k_decode,
    [PS_TYPE_Q3_K] = ps_q3_k_decode,       [PS_TYPE_Q4_K] = ps_q4_k_decode,
    [PS_TYPE_Q5_K] = ps_q5_k_decode,       [PS_TYPE_Q6_K] = ps_q6_k_decode,
    [PS_TYPE_IQ2_XXS] = ps_iq2_xxs_decode, [PS_TYPE_IQ2_XS] = ps_iq2_xs_decode,
    [PS_TYPE_IQ3_XXS] = ps_iq3_xxs_decode, [PS_TYPE_IQ1_S] = ps_iq1_s_decode,
    [PS_TYPE_IQ4_NL] = ps_iq4_nl_decode,   [PS_TYPE_IQ3_S] = ps_iq3_s_decode,
    [PS_TYPE_IQ2_S] = ps_iq2_s_decode,     [PS_TYPE_IQ4_XS] = ps_iq4_xs_decode,
    [PS_TYPE_IQ1_M] = ps_iq1_m_decode,     [PS_TYPE_MXFP4] = ps_mxfp4_decode,
};

static void decode_f8_e4m3(const uint8_t *src, float *dst, size_t block_count)
{
    for (size_t b = 0; b < block_count; b++, src += F8_BYTES, dst += F8_BLOCK_LEN) {
        float scale = float_of(ps_load_u32(src));
        for (int i = 0; i < F8_BLOCK_LEN; i++)
            dst[i] = ps_f8_e4m3_to_f32(src[4 + i]) * scale;
    }
}

void ps_row_decode(uint32_t type, const void *src, float *dst, size_t count)
{
    const uint8_t *p = src;

    switch (type) {
    case PS_TYPE_F32:
        for (size_t i = 0; i < count; i++)
            dst[i] = float_of(ps_load_u32(p + 4 * i));
        return;
    case PS_TYPE_F16:
        for (size_t i = 0; i < count; i++)
            dst[i] = ps_f16_to_f32(ps_load_u16(p + 2 * i));
        return;
    case PS_TYPE_BF16:
        for (size_t i = 0; i < count; i++)
            dst[i] = ps_bf16_to_f32(ps_load_u16(p + 2 * i));
        return;
    case PS_TYPE_F8_E4M3:
        decode_f8_e4m3(p, dst, count / F8_BLOCK_LEN);
        return;
    default:
        assert(block_decoders[type] != NULL); /* a type with has_kernels */
        block_decoders[type](p, dst, count / ps_type_info(type)->block_len);
    }
}

/*
 * The cast of a quotient to an integer in [low, high]. Quotients are in range but for blocks that
 * hold infinities or NaN, or whose scale is so small that its reciprocal overflows; a cast out of
 * range is undefined, so these are cut first, and NaN becomes 0.
 */
static int cut_to_int(float v, int low, int high)
{
    if (!(v == v))
        return 0;
    if (v < (float)low)
        return low;
    return v > (float)high ? high : (int)v;
}

static void encode_q8_0(const float *src, uint8_t *dst, size_t block_count)
{
    for (size_t b = 0; b < block_count; b++, src += Q_BLOCK_LEN, dst += Q8_0_BYTES) {
        float max = 0;
        for (int i = 0; i < Q_BLOCK_LEN; i++)
            max = fabsf(src[i]) > max ? fabsf(src[i]) : max;
        float d = max / 127;
        /* GGUF's makers multiply by the reciprocal of the unrounded scale; a quotient could differ.
         */
        float inverse = d != 0 ? 1 / d : 0;
        store_u16(dst, ps_f32_to_f16(d));
        for (int i = 0; i < Q_BLOCK_LEN; i++)
            dst[2 + i] = (uint8_t)cut_to_int(roundf(src[i] * inverse), -127, 127);
    }
}

static void encode_q4_0(const float *src, uint8_t *dst, size_t block_count)
{
    for (size_t b = 0; b < block_count; b++, src += Q_BLOCK_LEN, dst += Q4_0_BYTES) {
        float max = 0, largest = 0;
        for (int i = 0; i < Q_BLOCK_LEN; i++) {
            if (fabsf(src[i]) > max) {
                max = fabsf(src[i]);
                largest = src[i];
            }
        }
        float d = largest / -8;
        float inverse = d != 0 ? 1 / d : 0;
        store_u16(dst, ps_f32_to_f16(d));
        for (int i = 0; i < Q_BLOCK_LEN / 2; i++) {
            int low = cut_to_int(src[i] * inverse + 8.5f, 0, 15);
            int high = cut_to_int(src[i + Q_BLOCK_LEN / 2] * inverse + 8.5f, 0, 15);
            dst[2 + i] = (uint8_t)(low | high << 4);
        }
    }
}

void ps_row_encode(uint32_t type, const float *src, void *dst, size_t count)
{
    uint8_t *p = dst;

    switch (type) {
    case PS_TYPE_F32:
        for (size_t i = 0; i < count; i++) {
            uint32_t u = bits_of(src[i]);
            store_u16(p + 4 * i, (uint16_t)u);
            store_u16(p + 4 * i + 2, (uint16_t)(u >> 16));
        }
        return;
    case PS_TYPE_F16:
        for (size_t i = 0; i < count; i++)
            store_u16(p + 2 * i, ps_f32_to_f16(src[i]));
        return;
    case PS_TYPE_BF16:
        for (size_t i = 0; i < count; i++)
            store_u16(p + 2 * i, ps_f32_to_bf16(src[i]));
        return;
    case PS_TYPE_Q8_0:
        encode_q8_0(src, p, count / Q_BLOCK_LEN);
        return;
    case PS_TYPE_Q4_0:
        encode_q4_0(src, p, count / Q_BLOCK_LEN);
        return;
    default:
        ps_encode_rows(
            &(struct ps_encode){.type = type, .rows = 1, .cols = count, .values = src, .dst = dst});
    }
}
