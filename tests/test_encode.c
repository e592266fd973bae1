/* The encoders with a search: how near they come to the best there is, and what odd input gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>

#include "quant/encode.h"

#define COLS 512
#define ROWS 16

static const uint32_t types[] = {PS_TYPE_Q8_0, PS_TYPE_Q4_0, PS_TYPE_Q4_K, PS_TYPE_Q6_K,
                                 PS_TYPE_MXFP4};
#define TYPE_COUNT (sizeof(types) / sizeof(types[0]))

static uint64_t random_state = 7;

/* About normally distributed: the sum of twelve uniform numbers. */
static float gaussian(void)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(random_state >> 11) * 0x1p-53;
    }
    return (float)sum;
}

static void fill(float *x, float *w)
{
    for (size_t i = 0; i < ROWS * COLS; i++)
        x[i] = 0.02f * gaussian();
    for (size_t i = 0; i < COLS; i++)
        w[i] = expf(gaussian());
}

static void encode(uint32_t type, const float *x, size_t rows, size_t cols, const float *w,
                   void *dst)
{
    ps_encode_rows(&(struct ps_encode){type, rows, cols, x, w, dst});
}

/* sum w (x - decoded)^2. */
static double error_of(uint32_t type, const float *x, const void *blocks, size_t rows, size_t cols,
                       const float *w)
{
    static float back[ROWS * COLS];
    double error = 0;

    for (size_t r = 0; r < rows; r++)
        ps_row_decode(type, (const uint8_t *)blocks + r * ps_row_bytes(type, cols), back + r * cols,
                      cols);
    for (size_t i = 0; i < rows * cols; i++) {
        double e = (double)x[i] - (double)back[i];
        error += e * e * (w != NULL ? (double)w[i % cols] : 1);
    }
    return error;
}

/*
 * Relative squared errors that were reached on this data when the encoders were written, and a
 * hundredth more: a worse search shows. Without importance, and with it.
 */
static void test_error_stays_within_bounds(void **state)
{
    (void)state;
    static const double bounds[TYPE_COUNT][2] = {
        {2.774e-5, 2.738e-5}, {6.408e-3, 5.639e-3},   {4.816e-3, 4.009e-3},
        {2.855e-4, 2.448e-4}, {1.2228e-2, 1.1683e-2},
    };
    static float x[ROWS * COLS], w[COLS];
    static uint8_t blocks[ROWS * COLS * 2];

    fill(x, w);
    for (size_t t = 0; t < TYPE_COUNT; t++)
        for (int weighted = 0; weighted < 2; weighted++) {
            const float *importance = weighted ? w : NULL;
            double energy = 0;
            for (size_t i = 0; i < ROWS * COLS; i++)
                energy += (double)x[i] * (double)x[i] * (weighted ? (double)w[i % COLS] : 1);
            encode(types[t], x, ROWS, COLS, importance, blocks);
            double relative = error_of(types[t], x, blocks, ROWS, COLS, importance) / energy;
            if (relative > bounds[t][weighted] * 1.01)
                print_error("%s: %g\n", ps_type_info(types[t])->name, relative);
            assert_true(relative <= bounds[t][weighted] * 1.01);
        }
}

/* The least error of a block of Q4_0 over every half that could be its scale. */
static double best_q4_0(const float *x)
{
    double best = INFINITY;

    for (uint32_t h = 1; h < 0x7c00; h++) {
        for (int sign = -1; sign <= 1; sign += 2) {
            double d = sign * (double)ps_f16_to_f32((uint16_t)h), error = 0;
            for (int i = 0; i < 32; i++) {
                double q = rint((double)x[i] / d);
                q = q < -8 ? -8 : q > 7 ? 7 : q;
                error += ((double)x[i] - d * q) * ((double)x[i] - d * q);
            }
            best = error < best ? error : best;
        }
    }
    return best;
}

static double best_mxfp4(const float *x)
{
    static const double levels[] = {0, 1, 2, 3, 4, 6, 8, 12};
    double best = INFINITY;

    for (int e = 80; e < 140; e++) {
        double error = 0;
        for (int i = 0; i < 32; i++) {
            double nearest = INFINITY;
            for (int l = 0; l < 8; l++)
                nearest = fmin(nearest, fabs(fabs((double)x[i]) - ldexp(levels[l], e - 128)));
            error += nearest * nearest;
        }
        best = error < best ? error : best;
    }
    return best;
}

static void test_nearly_the_best_scale(void **state)
{
    (void)state;
    double found[2] = {0, 0}, best[2] = {0, 0};
    uint8_t block[18];

    for (int n = 0; n < 24; n++) {
        float x[32];
        for (int i = 0; i < 32; i++)
            x[i] = gaussian();
        encode(PS_TYPE_Q4_0, x, 1, 32, NULL, block);
        found[0] += error_of(PS_TYPE_Q4_0, x, block, 1, 32, NULL);
        best[0] += best_q4_0(x);
        encode(PS_TYPE_MXFP4, x, 1, 32, NULL, block);
        found[1] += error_of(PS_TYPE_MXFP4, x, block, 1, 32, NULL);
        best[1] += best_mxfp4(x);
    }
    assert_true(found[0] <= 1.08 * best[0]);
    assert_true(found[0] >= best[0] * (1 - 1e-6));
    assert_true(found[1] <= best[1] * (1 + 1e-6));
}

/* What a type holds exactly comes back exactly. */
static void test_exact_values_come_back(void **state)
{
    (void)state;
    static float x[COLS];
    uint8_t blocks[COLS * 2];

    for (size_t t = 0; t < TYPE_COUNT; t++) {
        memset(x, 0, sizeof(x));
        encode(types[t], x, 1, COLS, NULL, blocks);
        assert_true(error_of(types[t], x, blocks, 1, COLS, NULL) == 0);
        /* Zeros are all zeros, but for the nibbles of Q4_0 and the like. */
        assert_true(blocks[0] == 0 || types[t] == PS_TYPE_Q6_K);

        for (size_t i = 0; i < COLS; i++)
            x[i] = i / 256 ? -0.75f : 1.5f;
        encode(types[t], x, 1, COLS, NULL, blocks);
        assert_true(error_of(types[t], x, blocks, 1, COLS, NULL) < COLS * 1e-6);

        memset(x, 0, sizeof(x));
        x[77] = -1;
        x[300] = 12;
        encode(types[t], x, 1, COLS, NULL, blocks);
        assert_true(error_of(types[t], x, blocks, 1, COLS, NULL) < 1e-3);
    }
}

/* Blocks are encoded each by itself, so rows may be cut anywhere. */
static void test_cuts_do_not_matter(void **state)
{
    (void)state;
    static float x[ROWS * COLS], w[COLS];
    static uint8_t whole[ROWS * COLS * 2], part[COLS * 2];

    fill(x, w);
    for (size_t t = 0; t < TYPE_COUNT; t++) {
        size_t stride = ps_row_bytes(types[t], COLS), half = stride / 2;
        encode(types[t], x, ROWS, COLS, w, whole);
        for (size_t r = 0; r < ROWS; r += 5) {
            encode(types[t], x + r * COLS, 1, COLS / 2, w, part);
            encode(types[t], x + r * COLS + COLS / 2, 1, COLS / 2, w + COLS / 2, part + half);
            assert_memory_equal(whole + r * stride, part, stride);
        }
    }
}

static void test_odd_values_are_defined(void **state)
{
    (void)state;
    static const float odd[] = {NAN,      INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 0x1p-149f,
                                0x1p-30f, 65504,    1e6f,      -1e9f,   -0.0f};
    static float x[ROWS * COLS], w[COLS], back[COLS];
    uint8_t blocks[COLS * 2];

    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
        for (size_t t = 1; t < TYPE_COUNT; t++)
            for (int filled = 0; filled < 2; filled++) {
                fill(x, w);
                for (size_t k = 0; k < COLS; k++)
                    x[k] = filled || k % 64 == 5 ? odd[i] : x[k];
                for (int weighted = 0; weighted < 2; weighted++) {
                    memset(w, 0, weighted ? sizeof(w) / 2 : 0);
                    encode(types[t], x, 1, COLS, weighted ? w : NULL, blocks);
                    ps_row_decode(types[t], blocks, back, COLS);
                    for (size_t k = 0; k < COLS; k++) {
                        assert_true(isfinite(back[k]));
                        /* The smallest may drown in what stands beside them. */
                        assert_true(!(fabsf(x[k]) > 1) || (back[k] > 0) == (x[k] > 0));
                        assert_true(!isnan(x[k]) || fabsf(back[k]) < 0.1f);
                    }
                }
            }
}

/* A column without importance may be anything; one with all of it is kept best. */
static void test_importance_is_heeded(void **state)
{
    (void)state;
    static float x[ROWS * COLS], w[COLS];
    static uint8_t plain[ROWS * COLS * 2], weighted[ROWS * COLS * 2];

    fill(x, w);
    for (size_t t = 1; t < TYPE_COUNT; t++) {
        encode(types[t], x, ROWS, COLS, NULL, plain);
        encode(types[t], x, ROWS, COLS, w, weighted);
        assert_true(error_of(types[t], x, weighted, ROWS, COLS, w) <
                    error_of(types[t], x, plain, ROWS, COLS, w));
        assert_true(error_of(types[t], x, weighted, ROWS, COLS, NULL) >
                    error_of(types[t], x, plain, ROWS, COLS, NULL));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_stays_within_bounds),
        cmocka_unit_test(test_nearly_the_best_scale),
        cmocka_unit_test(test_exact_values_come_back),
        cmocka_unit_test(test_cuts_do_not_matter),
        cmocka_unit_test(test_odd_values_are_defined),
        cmocka_unit_test(test_importance_is_heeded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
