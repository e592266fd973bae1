/* Block types: the table, decoding and encoding against reference data, single values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "quant/type.h"

#define GOLDEN_COUNT 2048 /* values in every file of tests/data/quant: 4 rows of 512 */

/* The types whose blocks and floats are there. */
static const uint32_t golden[] = {
    PS_TYPE_F16,    PS_TYPE_BF16,   PS_TYPE_Q8_0,  PS_TYPE_Q4_0,    PS_TYPE_Q4_1,    PS_TYPE_Q5_0,
    PS_TYPE_Q5_1,   PS_TYPE_Q2_K,   PS_TYPE_Q3_K,  PS_TYPE_Q4_K,    PS_TYPE_Q5_K,    PS_TYPE_Q6_K,
    PS_TYPE_IQ1_S,  PS_TYPE_IQ1_M,  PS_TYPE_IQ2_S, PS_TYPE_IQ2_XS,  PS_TYPE_IQ2_XXS, PS_TYPE_IQ3_S,
    PS_TYPE_IQ4_NL, PS_TYPE_IQ4_XS, PS_TYPE_MXFP4, PS_TYPE_IQ3_XXS,
};

/* Reads exactly `bytes` bytes of tests/data/quant/<name>. */
static void read_golden(const char *name, void *buf, size_t bytes)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/quant/%s", PS_TEST_DATA_DIR, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(buf, 1, bytes, f), bytes);
    assert_int_equal(fgetc(f), EOF);
    fclose(f);
}

static void test_table_matches_reference(void **state)
{
    (void)state;
    FILE *f = fopen(PS_TEST_DATA_DIR "/quant/types.txt", "r");
    assert_non_null(f);
    char name[32];
    unsigned id, block_len, block_bytes;
    int lines = 0;
    while (fscanf(f, "%31s type_id=%u blck=%u bytes=%u", name, &id, &block_len, &block_bytes) ==
           4) {
        const struct ps_type_info *info = ps_type_info(id);
        assert_non_null(info);
        assert_string_equal(info->name, name);
        assert_int_equal(info->block_len, block_len);
        assert_int_equal(info->block_bytes, block_bytes);
        assert_int_equal(ps_type_from_name(name), id);
        lines++;
    }
    fclose(f);
    assert_int_equal(lines, 22);
}

static void test_lookups(void **state)
{
    (void)state;
    static const uint32_t encoded[] = {PS_TYPE_F32, PS_TYPE_F16, PS_TYPE_BF16, PS_TYPE_Q8_0,
                                       PS_TYPE_Q4_0};
    int count = 0;
    for (uint32_t type = 0; type < PS_TYPE_COUNT; type++)
        count += ps_type_info(type) != NULL && ps_type_info(type)->has_kernels;
    assert_int_equal(count, sizeof(golden) / sizeof(golden[0]) + 1); /* and F32 */
    for (size_t i = 0; i < sizeof(golden) / sizeof(golden[0]); i++)
        assert_true(ps_type_info(golden[i])->has_kernels);
    for (size_t i = 0; i < 5; i++)
        assert_true(ps_type_info(encoded[i])->has_kernels && ps_type_info(encoded[i])->has_encoder);

    assert_null(ps_type_info(4));
    assert_null(ps_type_info(PS_TYPE_COUNT));
    assert_null(ps_type_info(PS_TYPE_OWN_FIRST - 1));
    assert_null(ps_type_info(PS_TYPE_END));
    assert_null(ps_type_info(UINT32_MAX));
    assert_int_equal(ps_type_from_name("f8_e4m3"), PS_TYPE_F8_E4M3);
    assert_string_equal(ps_type_info(PS_TYPE_F8_E4M3)->name, "F8_E4M3");
    assert_int_equal(ps_type_from_name("q4_0"), PS_TYPE_Q4_0);
    assert_int_equal(ps_type_from_name("bf16"), PS_TYPE_BF16);
    assert_int_equal(ps_type_from_name("q4"), -1);
    assert_int_equal(ps_type_from_name(""), -1);
}

static void test_row_bytes(void **state)
{
    (void)state;
    assert_int_equal(ps_row_bytes(PS_TYPE_F32, 7), 28);
    assert_int_equal(ps_row_bytes(PS_TYPE_Q4_0, 4096), 2304);
    assert_int_equal(ps_row_bytes(PS_TYPE_Q4_K, 4096), 2304);
    assert_int_equal(ps_row_bytes(PS_TYPE_Q8_0, 0), 0);
    assert_int_equal(ps_row_bytes(PS_TYPE_Q8_0, 48), 0);
    assert_int_equal(ps_row_bytes(5, 32), 0);
    assert_int_equal(ps_row_bytes(PS_TYPE_F8_E4M3, 4096), 4224);
    assert_int_equal(ps_row_bytes(PS_TYPE_F8_E4M3, 192), 0);
    assert_int_equal(ps_row_bytes(PS_TYPE_F32, UINT64_MAX / 2), 0);
}

static void read_golden_type(uint32_t type, const char *suffix, void *buf, size_t bytes)
{
    char name[32];
    snprintf(name, sizeof(name), "%s.%s.bin", ps_type_info(type)->name, suffix);
    read_golden(name, buf, bytes);
}

static void test_decode_matches_reference(void **state)
{
    (void)state;
    static uint8_t blocks[GOLDEN_COUNT * 4 + 1];
    static float expected[GOLDEN_COUNT], got[GOLDEN_COUNT];

    for (size_t i = 0; i < sizeof(golden) / sizeof(golden[0]); i++) {
        size_t bytes = (size_t)ps_row_bytes(golden[i], GOLDEN_COUNT);
        read_golden_type(golden[i], "f32", expected, sizeof(expected));
        read_golden_type(golden[i], "blocks", blocks + 1, bytes); /* odd addresses are allowed */
        ps_row_decode(golden[i], blocks + 1, got, GOLDEN_COUNT);
        for (size_t k = 0; k < GOLDEN_COUNT; k++) {
            if (memcmp(&got[k], &expected[k], sizeof(got[k])) != 0)
                fail_msg("%s, value %zu: %a, the reference has %a", ps_type_info(golden[i])->name,
                         k, (double)got[k], (double)expected[k]);
        }
    }
}

/* Every code of e4m3fn under scales of either sign, with all bits, and so small that products are
 * denormal. */
static void test_decode_f8_e4m3(void **state)
{
    (void)state;
    static const float scales[] = {1, -0x1.89abcep-7f, 0x1.fffffep-130f, 0};
    uint8_t blocks[2 * 132 + 1];
    float got[256];

    for (size_t s = 0; s < sizeof(scales) / sizeof(scales[0]); s++) {
        for (int i = 0; i < 256; i++) {
            memcpy(blocks + 1 + i / 128 * 132, &scales[s], 4);
            blocks[1 + i / 128 * 132 + 4 + i % 128] = (uint8_t)i;
        }
        ps_row_decode(PS_TYPE_F8_E4M3, blocks + 1, got, 256);
        for (int i = 0; i < 256; i++) {
            int exponent = i >> 3 & 15, mantissa = i & 7;
            double v = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
            float want = (float)(i & 128 ? -v : v) * scales[s];
            if ((i & 127) == 127)
                assert_true(isnan(got[i]) && isnan(ps_f8_e4m3_to_f32((uint8_t)i)));
            else
                assert_memory_equal(&got[i], &want, sizeof(want));
        }
    }
    assert_true(ps_f8_e4m3_to_f32(0x7e) == 448 && ps_f8_e4m3_to_f32(1) == 0x1p-9f);
}

/* The reference Q4_0 blocks were chosen with importance weights, so only their decoding is
 * compared. */
static void test_encode_matches_reference(void **state)
{
    (void)state;
    static uint8_t expected[GOLDEN_COUNT * 4], got[GOLDEN_COUNT * 4];
    static float source[GOLDEN_COUNT], back[GOLDEN_COUNT];

    read_golden("source.f32.bin", source, sizeof(source));
    static const uint32_t types[] = {PS_TYPE_F16, PS_TYPE_BF16, PS_TYPE_Q8_0};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        size_t bytes = (size_t)ps_row_bytes(types[i], GOLDEN_COUNT);
        read_golden_type(types[i], "blocks", expected, bytes);
        ps_row_encode(types[i], source, got, GOLDEN_COUNT);
        assert_memory_equal(got, expected, bytes);
    }
    ps_row_encode(PS_TYPE_F32, source, got, GOLDEN_COUNT);
    ps_row_decode(PS_TYPE_F32, got, back, GOLDEN_COUNT);
    assert_memory_equal(back, source, sizeof(source));
}

/* Q4_0 from its definition: the value of largest magnitude becomes -8 steps. */
static void test_encode_q4_0(void **state)
{
    (void)state;
    static float source[GOLDEN_COUNT];
    static uint8_t blocks[GOLDEN_COUNT];
    read_golden("source.f32.bin", source, sizeof(source));
    ps_row_encode(PS_TYPE_Q4_0, source, blocks, GOLDEN_COUNT);

    for (size_t b = 0; b < GOLDEN_COUNT / 32; b++) {
        const float *x = source + 32 * b;
        const uint8_t *block = blocks + 18 * b;
        float largest = 0;
        for (int i = 0; i < 32; i++)
            largest = fabsf(x[i]) > fabsf(largest) ? x[i] : largest;
        float d = largest / -8;
        assert_int_equal(block[0] | block[1] << 8, ps_f32_to_f16(d));
        for (int i = 0; i < 32; i++) {
            int q = i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4;
            int expected = d == 0 ? 8 : (int)((double)x[i] / (double)d + 8.5);
            assert_int_equal(q, expected > 15 ? 15 : expected);
        }
    }
}

static void test_encode_ties_and_ends(void **state)
{
    (void)state;
    float x[32] = {127, 0.5f, -0.5f, 1.5f, -1.5f, 126.5f, -127, -126.49f};
    const int8_t expected[8] = {127, 1, -1, 2, -2, 127, -127, -126};
    uint8_t block[34];
    ps_row_encode(PS_TYPE_Q8_0, x, block, 32);
    assert_int_equal(block[0] | block[1] << 8, 0x3c00);
    assert_memory_equal(block + 2, expected, sizeof(expected));

    /* Blocks that no scale describes must not run into undefined conversions. */
    const float odd[] = {NAN, INFINITY, -INFINITY, 0x1p-149f, 0x1p-130f, 3.4e38f};
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        for (int j = 0; j < 32; j++)
            x[j] = j % 3 == 0 ? odd[i] : j % 3 == 1 ? -odd[i] : 1e-40f;
        ps_row_encode(PS_TYPE_Q8_0, x, block, 32);
        ps_row_encode(PS_TYPE_Q4_0, x, block, 32);
    }
}

static void test_every_half_comes_back(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = ps_f16_to_f32((uint16_t)h);
        int exponent = h >> 10 & 31, mantissa = h & 1023;
        if (exponent == 31 && mantissa != 0) {
            assert_true(isnan(f));
            assert_int_equal(ps_f32_to_f16(f), h | 0x200);
            continue;
        }
        double value = exponent == 31  ? INFINITY
                       : exponent == 0 ? ldexp(mantissa, -24)
                                       : ldexp(1024 + mantissa, exponent - 25);
        assert_true((double)f == (h & 0x8000 ? -value : value));
        assert_int_equal(signbit(f) != 0, h >> 15);
        assert_int_equal(ps_f32_to_f16(f), h);
    }
}

static void test_every_bf16_comes_back(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = ps_bf16_to_f32((uint16_t)h);
        uint32_t bits;
        memcpy(&bits, &f, sizeof(bits));
        assert_int_equal(bits, h << 16);
        assert_int_equal(ps_f32_to_bf16(f), isnan(f) ? h | 0x40 : h);
    }
}

/* Between every two neighbouring halves: below, at and above the middle. */
static void test_f16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        double low = (double)ps_f16_to_f32((uint16_t)h),
               high = (double)ps_f16_to_f32((uint16_t)(h + 1));
        float middle = (float)((low + high) / 2);
        assert_int_equal(ps_f32_to_f16(middle), h + (h & 1));
        assert_int_equal(ps_f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(ps_f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(ps_f32_to_f16(-middle), (h + (h & 1)) | 0x8000);
    }
    assert_int_equal(ps_f32_to_f16(nextafterf(65520, 0)), 0x7bff);
    assert_int_equal(ps_f32_to_f16(65520), 0x7c00);
    assert_int_equal(ps_f32_to_f16(-3e38f), 0xfc00);
    assert_int_equal(ps_f32_to_f16(0x1p-149f), 0);
}

static void test_bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    assert_int_equal(ps_f32_to_bf16(0x1.01p0f), 0x3f80);
    assert_int_equal(ps_f32_to_bf16(0x1.010002p0f), 0x3f81);
    assert_int_equal(ps_f32_to_bf16(0x1.03p0f), 0x3f82);
    assert_int_equal(ps_f32_to_bf16(-0x1.03p0f), 0xbf82);
    assert_int_equal(ps_f32_to_bf16(3.4e38f), 0x7f80);
    float nan_low;
    memcpy(&nan_low, &(uint32_t){0x7f800001}, sizeof(nan_low));
    assert_int_equal(ps_f32_to_bf16(nan_low), 0x7fc0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_matches_reference),
        cmocka_unit_test(test_lookups),
        cmocka_unit_test(test_row_bytes),
        cmocka_unit_test(test_decode_matches_reference),
        cmocka_unit_test(test_decode_f8_e4m3),
        cmocka_unit_test(test_encode_matches_reference),
        cmocka_unit_test(test_encode_q4_0),
        cmocka_unit_test(test_encode_ties_and_ends),
        cmocka_unit_test(test_every_half_comes_back),
        cmocka_unit_test(test_every_bf16_comes_back),
        cmocka_unit_test(test_f16_rounds_to_nearest_even),
        cmocka_unit_test(test_bf16_rounds_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
