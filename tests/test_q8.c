/* Products with 8-bit vectors: blocks as integers against reference floats, rounding, products. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "quant/q8.h"
#include "quant/q8_internal.h"

#define GOLDEN_COUNT 2048 /* values in every file: 4 rows of 512 */

/* A file of tests/data/quant, or of the larger reference outputs. False if neither has it. */
static bool read_golden(uint32_t type, const char *suffix, void *buf, size_t bytes)
{
    static const char *const folders[] = {PS_TEST_DATA_DIR, PS_GOLDEN_DIR};
    FILE *f = NULL;
    for (int i = 0; f == NULL && i < 2; i++) {
        char path[512];
        snprintf(path, sizeof(path), "%s/quant/%s.%s.bin", folders[i], ps_type_info(type)->name,
                 suffix);
        f = fopen(path, "rb");
    }
    if (f == NULL)
        return false;
    assert_int_equal(fread(buf, 1, bytes, f), bytes);
    assert_int_equal(fgetc(f), EOF);
    fclose(f);
    return true;
}

static void check_block(const struct ps_q8_block *w, bool minima, const float *expected)
{
    for (int i = 0; i < PS_Q8_BLOCK; i++) {
        double scaled = (double)w->s * w->c[i / 16] * w->q[i];
        double min = (double)w->t * w->m[i / 16];
        double bound = 0x1p-23 * (fabs(scaled) + fabs(min));
        assert_true(fabs(scaled + min - (double)expected[i]) <= bound);
        assert_true(minima || min == 0);
    }
}

static void test_unpack_matches_reference(void **state)
{
    (void)state;
    static uint8_t blocks[GOLDEN_COUNT * 4 + 1];
    static float expected[GOLDEN_COUNT];
    int found = 0;

    for (uint32_t type = 0; type < PS_TYPE_COUNT; type++) {
        if (!ps_q8_has(type))
            continue;
        size_t bytes = (size_t)ps_row_bytes(type, GOLDEN_COUNT);
        if (!read_golden(type, "f32", expected, sizeof(expected)) ||
            !read_golden(type, "blocks", blocks + 1, bytes)) /* odd addresses are allowed */
            continue;
        found++;
        for (size_t b = 0; b < GOLDEN_COUNT / PS_Q8_BLOCK; b++) {
            struct ps_q8_block w;
            ps_q8_unpack(type, blocks + 1, b, &w);
            check_block(&w, ps_q8_has_minima(type), expected + b * PS_Q8_BLOCK);
        }
    }
    assert_true(found >= 2);
    print_message("%d types had reference data\n", found);
}

static void test_every_exponent_of_mxfp4(void **state)
{
    (void)state;
    for (int e = 0; e < 256; e++) {
        uint8_t src[17] = {(uint8_t)e};
        struct ps_q8_block w;
        ps_q8_unpack(PS_TYPE_MXFP4, src, 0, &w);
        assert_true(w.s == ldexpf(1, e - 128));
    }
}

static void test_only_block_types(void **state)
{
    (void)state;
    assert_false(ps_q8_has(PS_TYPE_F32));
    assert_false(ps_q8_has(PS_TYPE_F16));
    assert_false(ps_q8_has(PS_TYPE_BF16));
    assert_false(ps_q8_has(PS_TYPE_COUNT));
    assert_false(ps_q8_has(UINT32_MAX));
}

/* The error of every value is at most half a step, sums are sums, the padding is zero. */
static void test_quantize(void **state)
{
    (void)state;
    enum { COLS = 96 + 7 };
    _Alignas(64) uint8_t dst[1024];
    float x[COLS];

    assert_true(ps_q8_bytes(COLS) <= sizeof(dst));
    for (int i = 0; i < COLS; i++)
        x[i] = sinf((float)i) * (float)(i / 32 + 1);
    for (int i = 32; i < 64; i++)
        x[i] = 0x1p-101f;
    x[70] = INFINITY;
    memset(dst, 0xa5, sizeof(dst));
    ps_q8_kernels_get(PS_CPU_SCALAR)->quantize(x, COLS, dst);

    const int8_t *q = (const int8_t *)dst;
    const float *d = ps_q8_scales(dst, COLS);
    const int16_t *sum = ps_q8_sums(dst, COLS);
    assert_true(d[1] == 0);
    assert_true(isnan(d[2]));
    for (int i = 0; i < 512; i++) {
        if (i / 32 == 1 || i / 32 == 2 || i >= COLS)
            assert_int_equal(q[i], 0);
        else
            assert_true(fabsf(x[i] - d[i / 32] * q[i]) <= 0.5001f * d[i / 32]);
    }
    for (int half = 0; half < 32; half++) {
        int expected = 0;
        for (int i = 0; i < 16; i++)
            expected += q[half * 16 + i];
        assert_int_equal(sum[half], expected);
    }
    for (int b = 4; b < 16; b++)
        assert_true(d[b] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unpack_matches_reference),
        cmocka_unit_test(test_every_exponent_of_mxfp4),
        cmocka_unit_test(test_only_block_types),
        cmocka_unit_test(test_quantize),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
