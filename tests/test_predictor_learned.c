/* The stored predictor: what was packed corrects as it says; what is cut off, damaged or hostile is
 * refused in one sentence. Traces that are exchanged while they are trained with are noticed. */
#include <math.h>
#include <xxhash.h>

#include "core/util.h"
#include "model/predictor_learned.h"
#include "model/predictor_samples.h"
#include "util.h"

#define LAYERS 5u
#define EXPERTS 11u
#define HIDDEN 13u
#define RANK 8u

static float a[HIDDEN * RANK], b[RANK * EXPERTS], bias[EXPERTS];

static const struct ps_learned_shape shape = {LAYERS, EXPERTS, HIDDEN, RANK, "a model"};

static float noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / (1 << 23) - 1;
}

/* Two layers that guess: layer 1 at depths 1 and 3, layer 2 at depth 2. */
static uint8_t *pack(size_t *bytes)
{
    struct ps_learned_source sources[2] = {
        {1, a, 2, {{1, 0.75f, bias, b}, {3, 1.0f, bias, b}}},
        {2, a, 1, {{2, 0.5f, bias, b}}},
    };
    uint32_t state = 7;
    void *data = NULL;

    for (size_t i = 0; i < PS_ARRAY_LEN(a); i++)
        a[i] = noise(&state);
    for (size_t i = 0; i < PS_ARRAY_LEN(b); i++)
        b[i] = noise(&state);
    for (size_t i = 0; i < PS_ARRAY_LEN(bias); i++)
        bias[i] = noise(&state);
    assert_int_equal(ps_learned_pack(&shape, sources, 2, &data, bytes, NULL), 0);
    assert_int_equal(*bytes, ps_learned_packed_bytes(&shape, 2, 3));
    return data;
}

static int open_rc(const uint8_t *data, size_t bytes)
{
    struct ps_learned *learned = NULL;
    struct ps_error err = {0};
    /* A copy of its own size, so that a read beyond its end is seen. */
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);

    assert_non_null(copy);
    memcpy(copy, data, bytes);
    int rc = ps_learned_open(&learned, copy, bytes, "input", &err);
    assert_true(rc == 0 || (err.code == rc && err.text[0] != '\0' && !learned));
    ps_learned_close(&learned);
    return rc;
}

/* p' = softmax(s log p + b + B (A x)) in double, with matrices that were not rounded. */
static void reference(const float *x, const float *p, double gate, double *out)
{
    double low[RANK] = {0}, sum = 0;

    for (uint32_t i = 0; i < HIDDEN; i++)
        for (uint32_t r = 0; r < RANK; r++)
            low[r] += (double)a[i * RANK + r] * (double)x[i];
    for (uint32_t e = 0; e < EXPERTS; e++) {
        double z = gate * log(fmax((double)p[e], (double)PS_LEARNED_P_MIN)) + (double)bias[e];
        for (uint32_t r = 0; r < RANK; r++)
            z += (double)b[r * EXPERTS + e] * low[r];
        sum += out[e] = exp(z);
    }
    for (uint32_t e = 0; e < EXPERTS; e++)
        out[e] /= sum;
}

static void corrects(void **state)
{
    struct ps_learned *learned = NULL;
    float x[HIDDEN], p[EXPERTS], q[EXPERTS];
    double expected[EXPERTS], sum = 0;
    uint32_t random = 3;
    size_t bytes;
    uint8_t *data = pack(&bytes);

    (void)state;
    assert_int_equal(ps_learned_open(&learned, data, bytes, "input", NULL), 0);
    for (uint32_t layer = 0; layer < LAYERS + 2; layer++)
        for (uint32_t depth = 0; depth < 5; depth++)
            assert_int_equal(ps_learned_has(learned, layer, depth),
                             (layer == 2 && depth == 1) || (layer == 4 && depth == 3) ||
                                 (layer == 4 && depth == 2));
    for (uint32_t i = 0; i < HIDDEN; i++)
        x[i] = noise(&random) / 2;
    for (uint32_t e = 0; e < EXPERTS; e++)
        p[e] = e == 3 ? 0 : 0.1f;
    memcpy(q, p, sizeof(p));
    ps_learned_apply(learned, 2, 1, x, p);
    reference(x, q, 0.75, expected);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        assert_true(fabs((double)p[e] - expected[e]) < 0.05 * expected[e] + 1e-6);
        sum += (double)p[e];
    }
    assert_true(fabs(sum - 1) < 1e-5);
    ps_learned_apply(learned, 4, 2, x, q);
    assert_memory_not_equal(p, q, sizeof(p));
    ps_learned_close(&learned);
}

static void cut_and_damaged(void **state)
{
    size_t bytes;
    uint8_t *data = pack(&bytes);

    (void)state;
    for (size_t n = 0; n < bytes; n++)
        assert_int_equal(open_rc(data, n), n < 8 ? -PS_ERR_FORMAT : -PS_ERR_TRUNCATED);
    for (size_t n = 0; n < bytes; n++) {
        data[n] ^= 0x20;
        assert_true(open_rc(data, bytes) < 0);
        data[n] ^= 0x20;
    }
    assert_int_equal(open_rc(data, bytes), 0);
    free(data);
}

/* Puts a number in and makes the checksum right again. */
static int hostile_rc(size_t offset, uint32_t value)
{
    size_t bytes;
    uint8_t *data = pack(&bytes);
    uint64_t sum = 0;

    memcpy(data + offset, &value, sizeof(value));
    memcpy(data + 56, &sum, sizeof(sum));
    sum = XXH3_64bits(data, bytes);
    memcpy(data + 56, &sum, sizeof(sum));
    int rc = open_rc(data, bytes);
    free(data);
    return rc;
}

static void hostile(void **state)
{
    static const uint32_t values[] = {0, 1, 7, 8, 12, 16, 64, 65, 4097, 1u << 31, UINT32_MAX};
    size_t source = 64, target = source + 8 + RANK * 4 + RANK * HIDDEN;

    (void)state;
    assert_int_equal(hostile_rc(8, 2), -PS_ERR_UNSUPPORTED);
    for (size_t i = 0; i < PS_ARRAY_LEN(values); i++)
        for (size_t offset = 12; offset < 36; offset += 4)
            if (!(offset == 28 && values[i] == RANK))
                assert_true(hostile_rc(offset, values[i]) < 0 ||
                            (offset == 16 && values[i] > 4 && values[i] <= PS_LAYER_COUNT_MAX));
    assert_int_equal(hostile_rc(source, 2), -PS_ERR_FORMAT); /* 2, 2 */
    assert_int_equal(hostile_rc(source, 0), 0);
    assert_int_equal(hostile_rc(source + 4, 3), -PS_ERR_FORMAT);          /* targets */
    assert_int_equal(hostile_rc(source + 8, 0x7f800000), -PS_ERR_FORMAT); /* scale */
    assert_int_equal(hostile_rc(target, 4), -PS_ERR_FORMAT);              /* depth */
    assert_int_equal(hostile_rc(target, 3), -PS_ERR_FORMAT);              /* 3, 3 */
    assert_int_equal(hostile_rc(target + 4, 0x7fc00000), -PS_ERR_FORMAT); /* gate */
    assert_int_equal(hostile_rc(target + 8 + RANK * 4, 0x7c00), -PS_ERR_FORMAT);
}

/* ---- traces that are trained with ------------------------------------------------------------ */

#define MOE_LAYERS 4u
#define USED 2u

static void trace_write(const char *path, uint64_t token_count, const uint32_t *layers)
{
    static const uint64_t expert_bytes[MOE_LAYERS];
    static uint16_t experts[MOE_LAYERS * USED], ranks[MOE_LAYERS * PS_TRAIN_DEPTHS * EXPERTS],
        rank_f16[PS_ARRAY_LEN(ranks)], hidden[MOE_LAYERS * HIDDEN];
    struct ps_trace_info info = {.token_count = token_count,
                                 .layer_count = MOE_LAYERS,
                                 .expert_count = EXPERTS,
                                 .experts_used = USED,
                                 .depth_count = PS_TRAIN_DEPTHS,
                                 .rank_count = EXPERTS,
                                 .hidden = HIDDEN,
                                 .model = "a model",
                                 .layers = layers,
                                 .expert_bytes = expert_bytes};
    struct ps_trace_token token = {
        .experts = experts, .ranks = ranks, .rank_f16 = rank_f16, .hidden = hidden};
    struct ps_trace_writer *writer = NULL;
    FILE *file = fopen(path, "wb");

    for (uint32_t i = 0; i < PS_ARRAY_LEN(experts); i++)
        experts[i] = (uint16_t)(i % EXPERTS);
    for (uint32_t i = 0; i < PS_ARRAY_LEN(ranks); i++)
        ranks[i] = (uint16_t)(i % EXPERTS);
    assert_non_null(file);
    assert_int_equal(ps_trace_writer_open(&writer, file, path, &info, NULL), 0);
    for (uint64_t t = 0; t < token_count; t++)
        assert_int_equal(ps_trace_writer_add(writer, &token, NULL), 0);
    assert_int_equal(ps_trace_writer_finish(writer, NULL), 0);
    ps_trace_writer_close(&writer);
    assert_int_equal(fclose(file), 0);
}

static int samples_rc(const struct ps_sample_set *set)
{
    struct ps_samples samples[MOE_LAYERS];
    struct ps_error err = {0};
    int rc = ps_samples_read(set, 0, MOE_LAYERS, samples, &err);

    ps_samples_fini(samples, MOE_LAYERS);
    assert_true(rc == 0 || (err.code == rc && err.text[0] != '\0'));
    return rc;
}

static void exchanged(void **state)
{
    static const uint32_t layers[] = {0, 1, 2, 4}, others[] = {0, 1, 3, 4};
    static struct ps_model model = {
        .config = {
            .name = "a model", .layer_count = LAYERS, .expert_count = EXPERTS, .hidden = HIDDEN}};
    char dir[512], path[600];
    const char *paths[] = {path};
    volatile int stop = 0;
    struct ps_train_options options = {.traces = paths, .trace_count = 1, .stop = &stop};
    struct ps_sample_set set;

    (void)state;
    ps_test_dir_make(dir, sizeof(dir));
    snprintf(path, sizeof(path), "%s/trace", dir);
    trace_write(path, 200, layers);
    assert_int_equal(ps_sample_set_init(&set, &model, &options, NULL), 0);
    assert_int_equal(samples_rc(&set), 0);
    stop = 1;
    assert_int_equal(samples_rc(&set), -EINTR);
    stop = 0;
    for (uint64_t count = 190; count <= 210; count += 10) {
        trace_write(path, count, count == 200 ? others : layers);
        assert_int_equal(samples_rc(&set), -PS_ERR_SOURCE_CHANGED);
    }
    ps_sample_set_fini(&set);
    ps_test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(corrects),
                                       cmocka_unit_test(cut_and_damaged), cmocka_unit_test(hostile),
                                       cmocka_unit_test(exchanged)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
