/*
 * Decoders of whole blocks, and the codebooks of the IQ formats: private to quant. Every decoder
 * turns block_count blocks at src (little endian, any alignment) into floats at dst, exactly as the
 * format is defined (spec B.4, the GGUF specification); products are written in the order that
 * decides the sign of a zero. Thread-safe.
 */
#ifndef PENSTOCK_QUANT_DECODE_H
#define PENSTOCK_QUANT_DECODE_H

#include <stddef.h>
#include <stdint.h>

#define PS_SUPER_LEN 256 /* values in a block of the K and IQ formats */

static inline uint16_t ps_load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t ps_load_u32(const uint8_t *p)
{
    return (uint32_t)ps_load_u16(p) | (uint32_t)ps_load_u16(p + 2) << 16;
}

void ps_q4_1_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_q5_0_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_q5_1_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_iq4_nl_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_mxfp4_decode(const uint8_t *src, float *dst, size_t block_count);

void ps_q2_k_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_q3_k_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_q4_k_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_q5_k_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_q6_k_decode(const uint8_t *src, float *dst, size_t block_count);

void ps_iq1_s_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_iq1_m_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_iq2_xxs_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_iq2_xs_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_iq2_s_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_iq3_xxs_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_iq3_s_decode(const uint8_t *src, float *dst, size_t block_count);
void ps_iq4_xs_decode(const uint8_t *src, float *dst, size_t block_count);

/* What the sixteen codes of IQ4_NL and IQ4_XS, and those of MXFP4 (twice E2M1), stand for. */
extern const int8_t ps_iq4_values[16];
extern const int8_t ps_mxfp4_values[16];

/* 2^(e - 128), the scale that belongs to the doubled values of MXFP4. */
float ps_mxfp4_scale(uint8_t e);

/*
 * The 6-bit scale and minimum of sub-block j (0 to 7) of Q4_K and Q5_K, from their twelve bytes.
 */
static inline void ps_k4_scale(const uint8_t *s, int j, uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (uint8_t)((s[j + 4] & 15) | s[j - 4] >> 6 << 4);
        *min = (uint8_t)(s[j + 4] >> 4 | s[j] >> 6 << 4);
    }
}

/*
 * Codebooks: an entry is eight values, value j its bits 2j and 2j + 1. IQ2: the codes 0, 1, 2 are
 * the magnitudes 8, 25, 43; IQ1: -1, 0, 1. IQ3: an entry is four values of four bits, code c the
 * magnitude 4 + 8 c (IQ3_XXS, but code 7 is 62) or 1 + 2 c (IQ3_S).
 */
extern const uint16_t ps_grid_iq2_xxs[256];
extern const uint16_t ps_grid_iq2_xs[512];
extern const uint16_t ps_grid_iq2_s[1024];
extern const uint16_t ps_grid_iq3_xxs[256];
extern const uint16_t ps_grid_iq3_s[512];
extern const uint16_t ps_grid_iq1[2048];

/* Seven signs of IQ2_XXS, IQ2_XS and IQ3_XXS are stored; the eighth makes their number even. */
static inline uint8_t ps_iq_signs(uint32_t code)
{
    code &= 127;
    return (uint8_t)(code | (uint32_t)__builtin_parity(code) << 7);
}

#endif
