/* Block types: how weights are stored. Numbers and names below PS_TYPE_COUNT are those of the GGUF
 * specification; those from PS_TYPE_OWN_FIRST on are Penstock's own and in no GGUF file. */
#ifndef PENSTOCK_QUANT_TYPE_H
#define PENSTOCK_QUANT_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Values are on disk in volumes and GGUF files; never renumbered. */
enum ps_type {
    PS_TYPE_F32 = 0,
    PS_TYPE_F16 = 1,
    PS_TYPE_Q4_0 = 2,
    PS_TYPE_Q4_1 = 3,
    PS_TYPE_Q5_0 = 6,
    PS_TYPE_Q5_1 = 7,
    PS_TYPE_Q8_0 = 8,
    PS_TYPE_Q2_K = 10,
    PS_TYPE_Q3_K = 11,
    PS_TYPE_Q4_K = 12,
    PS_TYPE_Q5_K = 13,
    PS_TYPE_Q6_K = 14,
    PS_TYPE_IQ2_XXS = 16,
    PS_TYPE_IQ2_XS = 17,
    PS_TYPE_IQ3_XXS = 18,
    PS_TYPE_IQ1_S = 19,
    PS_TYPE_IQ4_NL = 20,
    PS_TYPE_IQ3_S = 21,
    PS_TYPE_IQ2_S = 22,
    PS_TYPE_IQ4_XS = 23,
    PS_TYPE_IQ1_M = 29,
    PS_TYPE_BF16 = 30,
    PS_TYPE_TQ1_0 = 34,
    PS_TYPE_TQ2_0 = 35,
    PS_TYPE_MXFP4 = 39,
    PS_TYPE_COUNT = 40,
    PS_TYPE_OWN_FIRST = 64,
    /*
     * A block is 128 values of a row: a little-endian F32 scale, then 128 bytes of e4m3fn (bias 7,
     * no infinities, 0x7f and 0xff are NaN). A value is its byte's number times the scale, rounded
     * once to F32.
     */
    PS_TYPE_F8_E4M3 = 64,
    PS_TYPE_END = 65 /* beyond every type; most numbers below are none */
};

struct ps_type_info {
    const char *name;     /* "Q4_0" */
    uint32_t block_len;   /* values in a block */
    uint32_t block_bytes; /* bytes of a block */
    bool has_kernels;     /* can be computed with; otherwise it is known by name and size only */
    bool has_encoder;     /* ps_row_encode can produce it */
};

/* NULL for a number that no type known here has. Takes any value. */
const struct ps_type_info *ps_type_info(uint32_t type);

/* Case-insensitive ("q4_0", "BF16"). Returns the type, or -1. */
int ps_type_from_name(const char *name);

/* Bytes of a row of `cols` values; 0 if the type is unknown or cols no multiple of its block. */
uint64_t ps_row_bytes(uint32_t type, uint64_t cols);

/*
 * Decodes `count` values (a multiple of the block length) to float, exactly: the floats are those
 * of the format's definition. For types with has_kernels. src needs no alignment.
 */
void ps_row_decode(uint32_t type, const void *src, float *dst, size_t count);

/*
 * Encodes `count` floats (a multiple of the block length). For types with has_encoder. Rounding:
 * F16 and BF16 to nearest even (NaN stays NaN); Q8_0: d = max|x|/127, q = round(x * (1/d)), halves
 * away from zero; Q4_0: d = m/-8 with m the first value of largest magnitude, q = min(15, trunc(x *
 * (1/d) + 8.5)), as GGUF's makers define them; d is rounded to a half afterwards. Blocks with
 * infinities or NaN have no meaningful encoding: q is then cut to its range, and NaN becomes 0.
 * Other types: as ps_encode_rows, which also has a better encoding for Q4_0.
 */
void ps_row_encode(uint32_t type, const float *src, void *dst, size_t count);

/* Single values. */
float ps_f8_e4m3_to_f32(uint8_t code);
float ps_f16_to_f32(uint16_t h);
uint16_t ps_f32_to_f16(float f);
float ps_bf16_to_f32(uint16_t h);
uint16_t ps_f32_to_bf16(float f);

#endif
