/*
 * The IQ formats: groups of values are entries of a codebook, stored as their index; IQ2 and IQ3
 * hold magnitudes there and the signs beside them.
 */
#include "quant/decode.h"

#include <stdbool.h>

#include "quant/type.h"

#define DELTA 0.125f /* IQ1 values are off their grid by this much, up or down */

static float load_half(const uint8_t *p)
{
    return ps_f16_to_f32(ps_load_u16(p));
}

/* Eight values of an IQ2 entry. */
static void put_iq2(float *dst, float d, uint16_t entry, uint8_t signs)
{
    static const uint8_t magnitudes[4] = {8, 25, 43, 0};

    for (int i = 0; i < 8; i++) {
        int value = magnitudes[entry >> 2 * i & 3];
        dst[i] = d * (float)(signs >> i & 1 ? -value : value);
    }
}

/* d, then for every 32 values four indices and a word: four times seven signs, a scale. */
void ps_iq2_xxs_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 66) {
        for (int j = 0; j < 8; j++) {
            const uint8_t *idx = src + 2 + 8 * j;
            uint32_t word = ps_load_u32(idx + 4);
            float d = load_half(src) * (0.5f + (float)(word >> 28)) * 0.25f;
            for (int l = 0; l < 4; l++, dst += 8)
                put_iq2(dst, d, ps_grid_iq2_xxs[idx[l]], ps_iq_signs(word >> 7 * l));
        }
    }
}

/* d, 32 times nine bits of index and seven signs, scales[8] of four bits for every 16 values. */
void ps_iq2_xs_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 74) {
        for (int i = 0; i < 32; i++, dst += 8) {
            uint16_t code = ps_load_u16(src + 2 + 2 * i);
            int scale = src[66 + i / 4] >> i / 2 % 2 * 4 & 15;
            float d = load_half(src) * (0.5f + (float)scale) * 0.25f;
            put_iq2(dst, d, ps_grid_iq2_xs[code & 511], ps_iq_signs(code >> 9));
        }
    }
}

/* d, low[32], signs[32], high[8] (two more bits for each index), scales[8] as in IQ2_XS. */
void ps_iq2_s_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 82) {
        for (int i = 0; i < 32; i++, dst += 8) {
            int idx = src[2 + i] | (src[66 + i / 4] >> i % 4 * 2 & 3) << 8;
            int scale = src[74 + i / 4] >> i / 2 % 2 * 4 & 15;
            float d = load_half(src) * (0.5f + (float)scale) * 0.25f;
            put_iq2(dst, d, ps_grid_iq2_s[idx], src[34 + i]);
        }
    }
}

/* d, idx[64], then for every 32 values a word as in IQ2_XXS. */
void ps_iq3_xxs_decode(const uint8_t *src, float *dst, size_t block_count)
{
    static const uint8_t magnitudes[8] = {4, 12, 20, 28, 36, 44, 52, 62};

    for (; block_count > 0; block_count--, src += 98) {
        for (int i = 0; i < 64; i++) {
            uint32_t word = ps_load_u32(src + 66 + i / 8 * 4);
            uint16_t entry = ps_grid_iq3_xxs[src[2 + i]];
            int signs = ps_iq_signs(word >> i / 2 % 4 * 7) >> i % 2 * 4;
            float d = load_half(src) * (0.5f + (float)(word >> 28)) * 0.5f;
            for (int l = 0; l < 4; l++) {
                int value = magnitudes[entry >> 4 * l & 7];
                *dst++ = d * (float)(signs >> l & 1 ? -value : value);
            }
        }
    }
}

/* d, low[64], high[8] (the ninth bits of the indices), signs[32], scales[4] of four bits for 32. */
void ps_iq3_s_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 110) {
        for (int i = 0; i < 64; i++) {
            int idx = src[2 + i] | (src[66 + i / 8] >> i % 8 & 1) << 8;
            int scale = src[106 + i / 16] >> i / 8 % 2 * 4 & 15;
            int signs = src[74 + i / 2] >> i % 2 * 4;
            float d = load_half(src) * (float)(1 + 2 * scale);
            for (int l = 0; l < 4; l++) {
                int value = 1 + 2 * (ps_grid_iq3_s[idx] >> 4 * l & 7);
                *dst++ = d * (float)(signs >> l & 1 ? -value : value);
            }
        }
    }
}

/* Eight values of an IQ1 entry. */
static void put_iq1(float *dst, float d, uint16_t entry, bool below)
{
    float delta = below ? -DELTA : DELTA;

    for (int i = 0; i < 8; i++)
        dst[i] = d * ((float)((entry >> 2 * i & 3) - 1) + delta);
}

/* d, low[32], and for every 32 values a word: four times three bits of index, scale, side. */
void ps_iq1_s_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 50) {
        for (int j = 0; j < 8; j++) {
            uint16_t word = ps_load_u16(src + 34 + 2 * j);
            float d = load_half(src) * (float)(2 * (word >> 12 & 7) + 1);
            for (int l = 0; l < 4; l++, dst += 8) {
                int idx = src[2 + 4 * j + l] | (word >> 3 * l & 7) << 8;
                put_iq1(dst, d, ps_grid_iq1[idx], word >> 15);
            }
        }
    }
}

/*
 * low[32], high[16] (for each index three bits and its side), scales: four words of four times
 * three bits, one for every 16 values, whose topmost four bits together are d.
 */
void ps_iq1_m_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 56) {
        uint16_t half = 0;
        for (int i = 0; i < 4; i++)
            half |= (uint16_t)(ps_load_u16(src + 48 + 2 * i) >> 12 << 4 * i);
        for (int i = 0; i < 32; i++, dst += 8) {
            int high = src[32 + i / 2] >> i % 2 * 4 & 15;
            int scale = ps_load_u16(src + 48 + i / 8 * 2) >> i / 2 % 4 * 3 & 7;
            float d = ps_f16_to_f32(half) * (float)(2 * scale + 1);
            put_iq1(dst, d, ps_grid_iq1[src[i] | (high & 7) << 8], high >> 3);
        }
    }
}

/* d, two high bits and (four bytes) four low bits of the scales of 32 values, codes as IQ4_NL. */
void ps_iq4_xs_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 136) {
        for (int j = 0; j < 8; j++, dst += 32) {
            int low = src[4 + j / 2] >> j % 2 * 4 & 15;
            int high = ps_load_u16(src + 2) >> 2 * j & 3;
            float d = load_half(src) * (float)((low | high << 4) - 32);
            for (int i = 0; i < 32; i++) {
                uint8_t codes = src[8 + 16 * j + i % 16];
                dst[i] = d * (float)ps_iq4_values[i < 16 ? codes & 15 : codes >> 4];
            }
        }
    }
}
