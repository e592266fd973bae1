/*
 * The block types as integers: the same formats as in convert.c (spec B.4), with the scales left
 * apart. s and t are exact: a half float of the block, its negative, or a power of two.
 */
#include <assert.h>
#include <string.h>

#include "quant/q8_internal.h"

#define SUPER 8 /* blocks of 32 in a block of 256 */

const int8_t ps_q8_mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
const int8_t ps_q8_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

static float half_at(const uint8_t *p)
{
    return ps_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static void set_both(int32_t *pair, int32_t value)
{
    pair[0] = pair[1] = value;
}

static void unpack_q8_0(const uint8_t *src, struct ps_q8_block *out)
{
    out->s = half_at(src);
    memcpy(out->q, src + 2, PS_Q8_BLOCK);
}

/* Sixteen bytes, the low halves first. */
static void unpack_nibbles(const uint8_t *qs, int offset, int8_t *q)
{
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)((qs[i] & 15) - offset);
        q[i + 16] = (int8_t)((qs[i] >> 4) - offset);
    }
}

static void add_fifth_bits(const uint8_t *qh, int8_t *q)
{
    for (int i = 0; i < PS_Q8_BLOCK; i++)
        q[i] = (int8_t)(q[i] + ((qh[i / 8] >> i % 8 & 1) << 4));
}

/* Q4_0 and Q4_1, Q5_0 and Q5_1: with a minimum, or with half of the range as offset. */
static void unpack_simple(const uint8_t *src, bool five_bits, bool minimum, struct ps_q8_block *out)
{
    const uint8_t *qh = src + (minimum ? 4 : 2);
    const uint8_t *qs = five_bits ? qh + 4 : qh;

    out->s = half_at(src);
    unpack_nibbles(qs, minimum ? 0 : five_bits ? 16 : 8, out->q);
    if (five_bits)
        add_fifth_bits(qh, out->q);
    if (minimum) {
        out->t = half_at(src + 2);
        set_both(out->m, 1);
    }
}

static void look_up_nibbles(const uint8_t *qs, const int8_t *values, int8_t *q)
{
    for (int i = 0; i < 16; i++) {
        q[i] = values[qs[i] & 15];
        q[i + 16] = values[qs[i] >> 4];
    }
}

/* 2^(e - 128); the two least exponents give denormals. */
static float power_of_two(uint8_t e)
{
    uint32_t bits = e < 2 ? 0x200000u << e : (uint32_t)(e - 1) << 23;
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Block b of eight; 16 scale bytes, 64 bytes of crumbs, d, dmin. */
static void unpack_q2_k(const uint8_t *src, size_t b, struct ps_q8_block *out)
{
    for (int i = 0; i < PS_Q8_BLOCK; i++)
        out->q[i] = (int8_t)(src[16 + b / 4 * 32 + (size_t)i] >> b % 4 * 2 & 3);
    for (int half = 0; half < 2; half++) {
        uint8_t scales = src[2 * b + (size_t)half];
        out->c[half] = scales & 15;
        out->m[half] = scales >> 4;
    }
    out->s = half_at(src + 80);
    out->t = -half_at(src + 82);
}

static int32_t q3_k_scale(const uint8_t *scales, size_t i)
{
    int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
    int high = scales[8 + i % 4] >> i / 4 * 2 & 3;
    return (low | high << 4) - 32;
}

/* 32 bytes of third bits, 64 of crumbs, 12 of scales, d. */
static void unpack_q3_k(const uint8_t *src, size_t b, struct ps_q8_block *out)
{
    for (size_t i = 0; i < PS_Q8_BLOCK; i++) {
        int low = src[32 + b / 4 * 32 + i] >> b % 4 * 2 & 3;
        out->q[i] = (int8_t)(low - (src[i] >> b & 1 ? 0 : 4));
    }
    for (size_t half = 0; half < 2; half++)
        out->c[half] = q3_k_scale(src + 96, 2 * b + half);
    out->s = half_at(src + 108);
}

/* Q4_K and Q5_K: d, dmin, 12 bytes of scales and minima, [32 of fifth bits,] 128 of nibbles. */
static void unpack_q45_k(const uint8_t *src, size_t b, bool five_bits, struct ps_q8_block *out)
{
    const uint8_t *scales = src + 4, *qh = src + 16;
    const uint8_t *qs = (five_bits ? qh + 32 : qh) + b / 2 * 32;

    for (int i = 0; i < PS_Q8_BLOCK; i++) {
        int q = b % 2 ? qs[i] >> 4 : qs[i] & 15;
        out->q[i] = (int8_t)(five_bits ? q | (qh[i] >> b & 1) << 4 : q);
    }
    if (b < 4) {
        set_both(out->c, scales[b] & 63);
        set_both(out->m, scales[b + 4] & 63);
    } else {
        set_both(out->c, (scales[b + 4] & 15) | scales[b - 4] >> 6 << 4);
        set_both(out->m, scales[b + 4] >> 4 | scales[b] >> 6 << 4);
    }
    out->s = half_at(src);
    out->t = -half_at(src + 2);
}

/* 128 bytes of nibbles, 64 of high crumbs, 16 scales, d. */
static void unpack_q6_k(const uint8_t *src, size_t b, struct ps_q8_block *out)
{
    const uint8_t *ql = src + b / 4 * 64 + b % 2 * 32, *qh = src + 128 + b / 4 * 32;

    for (int i = 0; i < PS_Q8_BLOCK; i++) {
        int low = b % 4 < 2 ? ql[i] & 15 : ql[i] >> 4;
        int high = qh[i] >> b % 4 * 2 & 3;
        out->q[i] = (int8_t)((low | high << 4) - 32);
    }
    for (size_t half = 0; half < 2; half++)
        out->c[half] = (int8_t)src[192 + 2 * b + half];
    out->s = half_at(src + 208);
}

/* d, two bits of each scale, four of each, 16 bytes of nibbles a block. */
static void unpack_iq4_xs(const uint8_t *src, size_t b, struct ps_q8_block *out)
{
    int high = (src[2] | src[3] << 8) >> 2 * b & 3;
    int low = src[4 + b / 2] >> b % 2 * 4 & 15;

    look_up_nibbles(src + 8 + 16 * b, ps_q8_iq4_values, out->q);
    set_both(out->c, (low | high << 4) - 32);
    out->s = half_at(src);
}

bool ps_q8_has(uint32_t type)
{
    switch (type) {
    case PS_TYPE_Q4_0:
    case PS_TYPE_Q4_1:
    case PS_TYPE_Q5_0:
    case PS_TYPE_Q5_1:
    case PS_TYPE_Q8_0:
    case PS_TYPE_Q2_K:
    case PS_TYPE_Q3_K:
    case PS_TYPE_Q4_K:
    case PS_TYPE_Q5_K:
    case PS_TYPE_Q6_K:
    case PS_TYPE_IQ4_NL:
    case PS_TYPE_IQ4_XS:
    case PS_TYPE_MXFP4:
        return true;
    default:
        return false;
    }
}

bool ps_q8_has_minima(uint32_t type)
{
    return type == PS_TYPE_Q4_1 || type == PS_TYPE_Q5_1 || type == PS_TYPE_Q2_K ||
           type == PS_TYPE_Q4_K || type == PS_TYPE_Q5_K;
}

void ps_q8_unpack(uint32_t type, const void *row, size_t b, struct ps_q8_block *out)
{
    const struct ps_type_info *info = ps_type_info(type);
    const size_t per = info->block_len / PS_Q8_BLOCK;
    const uint8_t *src = (const uint8_t *)row + b / per * info->block_bytes;

    b %= per;
    set_both(out->c, 1);
    set_both(out->m, 0);
    out->t = 0;
    switch (type) {
    case PS_TYPE_Q4_0:
    case PS_TYPE_Q4_1:
    case PS_TYPE_Q5_0:
    case PS_TYPE_Q5_1:
        unpack_simple(src, type == PS_TYPE_Q5_0 || type == PS_TYPE_Q5_1, ps_q8_has_minima(type),
                      out);
        return;
    case PS_TYPE_Q8_0:
        unpack_q8_0(src, out);
        return;
    case PS_TYPE_Q2_K:
        unpack_q2_k(src, b, out);
        return;
    case PS_TYPE_Q3_K:
        unpack_q3_k(src, b, out);
        return;
    case PS_TYPE_Q4_K:
    case PS_TYPE_Q5_K:
        unpack_q45_k(src, b, type == PS_TYPE_Q5_K, out);
        return;
    case PS_TYPE_Q6_K:
        unpack_q6_k(src, b, out);
        return;
    case PS_TYPE_IQ4_NL:
        out->s = half_at(src);
        look_up_nibbles(src + 2, ps_q8_iq4_values, out->q);
        return;
    case PS_TYPE_IQ4_XS:
        unpack_iq4_xs(src, b, out);
        return;
    case PS_TYPE_MXFP4:
        out->s = power_of_two(src[0]);
        look_up_nibbles(src + 1, ps_q8_mxfp4_values, out->q);
        return;
    default:
        assert(!"a type with ps_q8_has()");
    }
}
