/* The kernel checker's own tools: random and extreme inputs, guarded memory, comparison. */
#ifndef PENSTOCK_TESTS_CHECKKERNEL_H
#define PENSTOCK_TESTS_CHECKKERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/kernels.h"
#include "quant/q8.h"

/* Kinds of input. The first CHECK_ORACLE_KINDS are those for which a double oracle has a bound. */
enum check_kind {
    CHECK_NORMAL,    /* magnitudes about 1 */
    CHECK_DENORMAL,  /* denormals, both signs */
    CHECK_ZERO,      /* +0 and -0 */
    CHECK_VANISH,    /* about 2^-90, one sign per array: products underflow to +0 or -0 */
    CHECK_WIDE,      /* any finite float: sums overflow and cancel */
    CHECK_ALTERNATE, /* the largest values of alternating sign */
    CHECK_SPECIAL,   /* normal ones with NaN, infinities, zeros and denormals strewn in */
    CHECK_KIND_COUNT
};
#define CHECK_ORACLE_KINDS 3
const char *check_kind_name(enum check_kind kind);

/* Names the case that is being run, for messages and for the report of a fault at a guard page. */
void check_case(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Uniform in [low, high]. */
size_t check_between(size_t low, size_t high);
uint32_t check_random(void);
/* One of the array's elements. */
#define CHECK_PICK(array) (array)[check_between(0, sizeof(array) / sizeof((array)[0]) - 1)]

void check_fill(float *x, size_t count, enum check_kind kind);
/* Half floats: ordinary scales of either sign, zeros, denormals; specials only where asked for. */
uint16_t check_half(enum check_kind kind);

/*
 * `bytes` bytes that end at a page which cannot be touched, or, in one of four calls, begin behind
 * one. Filled with 0xa5, like the bytes on the other side, which check_done() looks at. There are
 * CHECK_SLOTS such areas; a slot is taken again by asking for it again.
 */
#define CHECK_SLOTS 10
void *check_bytes(int slot, size_t bytes);
float *check_floats(int slot, size_t count);

/* Reports slots whose surroundings were written to. Call at the end of every case. */
void check_done(void);

/* Reports a difference unless the bits are equal or both are NaN. */
void check_same(const char *what, const float *expected, const float *got, size_t count);

/* Reports a difference between any bytes. */
void check_same_bytes(const char *what, const uint8_t *expected, const uint8_t *got, size_t bytes);

/* Reports unless |got - exact| <= bound. */
void check_near(const char *what, size_t i, double exact, double bound, float got);

/* Run every case once: `scalar` defines, `level` is compared. */
void check_matmul(const struct ps_kernels *scalar, const struct ps_kernels *level);
void check_vectors(const struct ps_kernels *scalar, const struct ps_kernels *level);
void check_q8(enum ps_cpu_level level);
void check_encode(enum ps_cpu_level level);

/* The scalar table against doubles. */
void check_matmul_oracle(const struct ps_kernels *scalar);
void check_vectors_oracle(const struct ps_kernels *scalar);
void check_q8_oracle(void);

/* Every case of products with 8-bit vectors, with this table. */
void check_q8_table(const struct ps_q8_kernels *level);

/* The AMX product over emulated tiles. Returns false where even those cannot run. */
bool check_q8_tiles(void);

#endif
