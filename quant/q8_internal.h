/* What the versions of the products with 8-bit vectors share. */
#ifndef PENSTOCK_QUANT_Q8_INTERNAL_H
#define PENSTOCK_QUANT_Q8_INTERNAL_H

#include "quant/q8.h"

#define PS_Q8_SPECIAL_BITS                                                                         \
    0x7f800000                      /* of |x|: infinities and NaN, and nothing else, from here     \
                                     */
#define PS_Q8_LEAST_BITS 0x0d800000 /* 2^-100: smaller maxima count as zero */

/* Products of up to this many vectors walk the weights once and keep nothing decoded. */
#define PS_Q8_FEW 4

/* One block of 32 weights: weight i is s * c[i / 16] * q[i] + t * m[i / 16]. */
struct ps_q8_block {
    int8_t q[PS_Q8_BLOCK];
    int32_t c[2], m[2];
    float s, t;
};

/* Block b of the row at `row`: columns [32 b, 32 b + 32). For types with ps_q8_has(). */
void ps_q8_unpack(uint32_t type, const void *row, size_t b, struct ps_q8_block *out);

/* Whether blocks of the type have a second term: otherwise t and m are 0, and it is not added. */
bool ps_q8_has_minima(uint32_t type);

/* The numbers that four bits stand for: MXFP4 (twice its value), and IQ4_NL and IQ4_XS. */
extern const int8_t ps_q8_mxfp4_values[16];
extern const int8_t ps_q8_iq4_values[16];

/* A version of the product. Returns false, and has done nothing, if it has none for m's type. */
typedef bool ps_q8_product(const struct ps_q8_matmul *m);

/* What one CPU level adds; NULL where the level below serves. */
struct ps_q8_versions {
    ps_q8_product *few;  /* n <= PS_Q8_FEW */
    ps_q8_product *many; /* more; where there is none, `few` is called for PS_Q8_FEW at a time */
    void (*quantize)(const float *x, size_t cols, void *dst);
};

/* Set the entries that this level has its own version of; nothing where it is not built. */
void ps_q8_init_avx2(struct ps_q8_versions *v);
void ps_q8_init_avx512(struct ps_q8_versions *v);
void ps_q8_init_vnni(struct ps_q8_versions *v);
void ps_q8_init_gemm_avx2(struct ps_q8_versions *v);
void ps_q8_init_gemm_avx512(struct ps_q8_versions *v);
void ps_q8_init_gemm_vnni(struct ps_q8_versions *v);
void ps_q8_init_gemm_amx(struct ps_q8_versions *v);

/* The definitions, which serve where a level has no version. */
void ps_q8_matmul_scalar(const struct ps_q8_matmul *m);
void ps_q8_quantize_scalar(const float *x, size_t cols, void *dst);

#endif
