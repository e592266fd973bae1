/* Formats with blocks of 32 values: codes of four or five bits, the low halves of sixteen bytes
 * first. */
#include "quant/decode.h"

#include <string.h>

#include "quant/type.h"

#define BLOCK_LEN 32
#define HALF_LEN 16

const int8_t ps_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
const int8_t ps_mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

void ps_q4_1_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 20, dst += BLOCK_LEN) {
        float d = ps_f16_to_f32(ps_load_u16(src)), m = ps_f16_to_f32(ps_load_u16(src + 2));
        for (int i = 0; i < HALF_LEN; i++) {
            dst[i] = d * (float)(src[4 + i] & 15) + m;
            dst[i + HALF_LEN] = d * (float)(src[4 + i] >> 4) + m;
        }
    }
}

/* The fifth bit of value i is bit i of `high`. */
static int five_bits(const uint8_t *low, uint32_t high, int i)
{
    int code = i < HALF_LEN ? low[i] & 15 : low[i - HALF_LEN] >> 4;
    return code | (int)(high >> i & 1) << 4;
}

void ps_q5_0_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 22, dst += BLOCK_LEN) {
        float d = ps_f16_to_f32(ps_load_u16(src));
        uint32_t high = ps_load_u32(src + 2);
        for (int i = 0; i < BLOCK_LEN; i++)
            dst[i] = d * (float)(five_bits(src + 6, high, i) - 16);
    }
}

void ps_q5_1_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 24, dst += BLOCK_LEN) {
        float d = ps_f16_to_f32(ps_load_u16(src)), m = ps_f16_to_f32(ps_load_u16(src + 2));
        uint32_t high = ps_load_u32(src + 4);
        for (int i = 0; i < BLOCK_LEN; i++)
            dst[i] = d * (float)five_bits(src + 8, high, i) + m;
    }
}

static void decode_table(const uint8_t *codes, float d, const int8_t *values, float *dst)
{
    for (int i = 0; i < HALF_LEN; i++) {
        dst[i] = d * (float)values[codes[i] & 15];
        dst[i + HALF_LEN] = d * (float)values[codes[i] >> 4];
    }
}

void ps_iq4_nl_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 18, dst += BLOCK_LEN)
        decode_table(src + 2, ps_f16_to_f32(ps_load_u16(src)), ps_iq4_values, dst);
}

float ps_mxfp4_scale(uint8_t e)
{
    /* 2^-128 and 2^-127 are denormal: one bit of the mantissa. */
    uint32_t bits = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return scale;
}

void ps_mxfp4_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 17, dst += BLOCK_LEN)
        decode_table(src + 1, ps_mxfp4_scale(src[0]), ps_mxfp4_values, dst);
}
