/*
 * The K formats: blocks of 256 values in sub-blocks of 16 or 32, whose scales (and minima) are
 * small integers times the block's own.
 */
#include "quant/decode.h"

#include "quant/type.h"

static float load_half(const uint8_t *p)
{
    return ps_f16_to_f32(ps_load_u16(p));
}

/* scales[16], q[64], d, dmin; runs of 128 values share 32 bytes, two bits for each run of 32. */
void ps_q2_k_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 84, dst += PS_SUPER_LEN) {
        float d = load_half(src + 80), min = load_half(src + 82);
        for (int i = 0; i < PS_SUPER_LEN; i++) {
            uint8_t scale = src[i / 16];
            uint8_t q = src[16 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
            dst[i] = d * (float)(scale & 15) * (float)q - min * (float)(scale >> 4);
        }
    }
}

/* hmask[32], q[64], scales[12], d; q as in Q2_K, bit i / 32 of hmask[i % 32] set means 4 more. */
void ps_q3_k_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 110, dst += PS_SUPER_LEN) {
        const uint8_t *s = src + 96;
        float d = load_half(src + 108);
        for (int i = 0; i < PS_SUPER_LEN; i++) {
            int j = i / 16;
            int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4, high = s[8 + j % 4] >> j / 4 * 2 & 3;
            int q = src[32 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
            q -= src[i % 32] >> i / 32 & 1 ? 0 : 4;
            dst[i] = d * (float)((low | high << 4) - 32) * (float)q;
        }
    }
}

/* d, dmin, scales[12], q[128]; 32 bytes hold a sub-block in their low and the next in their high
 * halves. */
void ps_q4_k_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 144, dst += PS_SUPER_LEN) {
        float d = load_half(src), min = load_half(src + 2);
        for (int j = 0; j < 8; j++) {
            const uint8_t *q = src + 16 + j / 2 * 32;
            uint8_t scale, least;
            ps_k4_scale(src + 4, j, &scale, &least);
            float ds = d * (float)scale, m = min * (float)least;
            for (int i = 0; i < 32; i++)
                dst[32 * j + i] = ds * (float)(q[i] >> j % 2 * 4 & 15) - m;
        }
    }
}

/* Q4_K with high[32] before q: bit j of high[i] is the fifth bit of value i of sub-block j. */
void ps_q5_k_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 176, dst += PS_SUPER_LEN) {
        float d = load_half(src), min = load_half(src + 2);
        for (int j = 0; j < 8; j++) {
            const uint8_t *q = src + 48 + j / 2 * 32;
            uint8_t scale, least;
            ps_k4_scale(src + 4, j, &scale, &least);
            float ds = d * (float)scale, m = min * (float)least;
            for (int i = 0; i < 32; i++) {
                int high = src[16 + i] >> j & 1;
                dst[32 * j + i] = ds * (float)((q[i] >> j % 2 * 4 & 15) | high << 4) - m;
            }
        }
    }
}

/*
 * low[128], high[64], int8 scales[16], d. Of 128 values, run j of 32 has its low bits in half j / 2
 * of the bytes low[32 (j % 2) ...] and its high bits at 2 j in high.
 */
void ps_q6_k_decode(const uint8_t *src, float *dst, size_t block_count)
{
    for (; block_count > 0; block_count--, src += 210, dst += PS_SUPER_LEN) {
        float d = load_half(src + 208);
        for (int i = 0; i < PS_SUPER_LEN; i++) {
            int n = i / 128, j = i % 128 / 32, l = i % 32;
            int low = src[64 * n + j % 2 * 32 + l] >> j / 2 * 4 & 15;
            int high = src[128 + 32 * n + l] >> 2 * j & 3;
            dst[i] = d * (float)(int8_t)src[192 + i / 16] * (float)((low | high << 4) - 32);
        }
    }
}
