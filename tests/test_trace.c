/* The trace format: what is written comes back; whatever is cut off, damaged or hostile is refused
 * in one sentence. */
#include <math.h>
#include <xxhash.h>

#include "core/util.h"
#include "model/trace.h"
#include "util.h"

#define LAYERS 3u
#define EXPERTS 12u
#define USED 2u
#define DEPTHS 2u
#define RANKS 3u
#define HIDDEN 5u
#define HEADER_BYTES (192u + LAYERS * 16u)

static char dir[512], path[600];

static const uint32_t layer_numbers[LAYERS] = {1, 2, 4};
static const uint64_t expert_bytes[LAYERS] = {4096, 0, 8192};

/* One token's arrays, with something else in every place for every token. */
struct values {
    uint16_t experts[LAYERS * USED], ranks[LAYERS * DEPTHS * RANKS];
    uint16_t rank_f16[LAYERS * DEPTHS * RANKS], hidden[LAYERS * HIDDEN];
    float weights[LAYERS * USED];
};

static struct ps_trace_info info_full(uint64_t token_count)
{
    return (struct ps_trace_info){.token_count = token_count,
                                  .layer_count = LAYERS,
                                  .expert_count = EXPERTS,
                                  .experts_used = USED,
                                  .depth_count = DEPTHS,
                                  .rank_count = RANKS,
                                  .hidden = HIDDEN,
                                  .has_weights = true,
                                  .model = "a model",
                                  .layers = layer_numbers,
                                  .expert_bytes = expert_bytes};
}

static void values_set(struct values *v, struct ps_trace_token *token, uint32_t t)
{
    memset(v, 0, sizeof(*v));
    for (uint32_t i = 0; i < PS_ARRAY_LEN(v->experts); i++) {
        v->experts[i] = (uint16_t)((t + i * 5) % EXPERTS);
        v->weights[i] = (float)(t * 100 + i) / 7;
    }
    if (t % 3 == 0)
        v->experts[USED - 1] = PS_TRACE_NONE;
    for (uint32_t i = 0; i < PS_ARRAY_LEN(v->ranks); i++) {
        v->ranks[i] = (uint16_t)((t + i * 7) % EXPERTS);
        v->rank_f16[i] = (uint16_t)(t + i);
    }
    for (uint32_t i = 0; i < PS_ARRAY_LEN(v->hidden); i++)
        v->hidden[i] = (uint16_t)((t * 31 + i) & 0x3fff);
    *token = (struct ps_trace_token){.id = t == 1 ? PS_TRACE_NO_TOKEN : t + 1000,
                                     .begins = t == 0,
                                     .experts = v->experts,
                                     .weights = v->weights,
                                     .ranks = v->ranks,
                                     .rank_f16 = v->rank_f16,
                                     .hidden = v->hidden};
}

static void trace_write(const struct ps_trace_info *info)
{
    struct ps_trace_writer *writer = NULL;
    struct ps_trace_token token;
    struct values v;
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(ps_trace_writer_open(&writer, file, path, info, NULL), 0);
    for (uint32_t t = 0; t < info->token_count; t++) {
        values_set(&v, &token, t);
        assert_int_equal(ps_trace_writer_add(writer, &token, NULL), 0);
    }
    assert_int_equal(ps_trace_writer_finish(writer, NULL), 0);
    ps_trace_writer_close(&writer);
    assert_int_equal(fclose(file), 0);
}

/* Reads to the end. Returns the number of tokens, or the first error, which has a sentence. */
static int64_t trace_count(void)
{
    struct ps_trace *trace = NULL;
    struct ps_trace_token token;
    struct ps_error err = {0};
    int64_t count = 0;
    int rc = ps_trace_open(&trace, path, &err);

    while (rc >= 0 && (rc = ps_trace_next(trace, &token, &err)) == 1)
        count++;
    ps_trace_close(&trace);
    if (rc < 0) {
        assert_int_equal(err.code, rc);
        assert_true(err.text[0] != '\0' && !strchr(err.text, '\n'));
    }
    return rc < 0 ? rc : count;
}

static void same(const void *got, const void *expected, size_t bytes, bool there)
{
    if (there)
        assert_memory_equal(got, expected, bytes);
    else
        assert_null(got);
}

static void round_trip_one(const struct ps_trace_info *info)
{
    struct ps_trace *trace = NULL;
    struct ps_trace_token token, expected;
    struct values v;

    trace_write(info);
    assert_int_equal(ps_trace_open(&trace, path, NULL), 0);
    const struct ps_trace_info *got = ps_trace_info(trace);
    assert_int_equal(got->token_count, info->token_count);
    assert_string_equal(got->model, info->model);
    assert_memory_equal(got->layers, layer_numbers, sizeof(layer_numbers));
    assert_memory_equal(got->expert_bytes, expert_bytes, sizeof(expert_bytes));
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t t = 0; t < info->token_count; t++) {
            values_set(&v, &expected, t);
            assert_int_equal(ps_trace_next(trace, &token, NULL), 1);
            assert_int_equal(token.id, expected.id);
            assert_int_equal(token.begins, expected.begins);
            same(token.experts, v.experts, sizeof(v.experts), true);
            same(token.weights, v.weights, sizeof(v.weights), info->has_weights);
            same(token.ranks, v.ranks, sizeof(v.ranks), info->depth_count > 0);
            same(token.rank_f16, v.rank_f16, sizeof(v.rank_f16), info->depth_count > 0);
            same(token.hidden, v.hidden, sizeof(v.hidden), info->hidden > 0);
            if (info->depth_count > 0)
                assert_ptr_equal(ps_trace_ranks(got, &token, 2, 1),
                                 token.ranks + 2 * DEPTHS * RANKS);
        }
        assert_int_equal(ps_trace_next(trace, &token, NULL), 0);
        ps_trace_rewind(trace);
    }
    ps_trace_close(&trace);
}

static void round_trip(void **state)
{
    (void)state;
    for (uint32_t parts = 0; parts < 8; parts++) {
        /* The longer one fills more than one block. */
        struct ps_trace_info info = info_full(parts == 7 ? 12000 : 5);
        info.has_weights = parts & 1;
        if (!(parts & 2))
            info.depth_count = info.rank_count = 0;
        if (!(parts & 4))
            info.hidden = 0;
        round_trip_one(&info);
    }
}

static uint8_t *bytes_read(size_t *count)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = malloc(1 << 16);

    assert_true(file && bytes);
    *count = fread(bytes, 1, 1 << 16, file);
    fclose(file);
    return bytes;
}

static void bytes_write(const uint8_t *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    fclose(file);
}

static void cut_off(void **state)
{
    struct ps_trace_info info = info_full(3);
    size_t count;

    (void)state;
    trace_write(&info);
    uint8_t *bytes = bytes_read(&count);
    for (size_t n = 0; n < count; n++) {
        bytes_write(bytes, n);
        assert_int_equal(trace_count(), n < 8 ? -PS_ERR_FORMAT : -PS_ERR_TRUNCATED);
    }
    bytes_write(bytes, count + 1);
    assert_int_equal(trace_count(), -PS_ERR_FORMAT);
    bytes_write(bytes, count);
    assert_int_equal(trace_count(), 3);
    free(bytes);
}

static void damaged(void **state)
{
    struct ps_trace_info info = info_full(3);
    size_t count;

    (void)state;
    trace_write(&info);
    uint8_t *bytes = bytes_read(&count);
    for (size_t n = 0; n < count; n++) {
        bytes[n] ^= 0x10;
        bytes_write(bytes, count);
        int64_t rc = trace_count();
        assert_true(rc < 0);
        if (n >= HEADER_BYTES)
            assert_int_equal(rc, -PS_ERR_CHECKSUM);
        bytes[n] ^= 0x10;
    }
    free(bytes);
}

/* Puts a number into the header and makes all checksums right again. */
static int64_t hostile_header(size_t offset, uint64_t value, size_t value_bytes)
{
    struct ps_trace_info info = info_full(3);
    size_t count;
    uint64_t sum = 0;

    trace_write(&info);
    uint8_t *bytes = bytes_read(&count);
    memcpy(bytes + offset, &value, value_bytes);
    memcpy(bytes + 184, &sum, sizeof(sum));
    sum = XXH3_64bits(bytes, HEADER_BYTES);
    memcpy(bytes + 184, &sum, sizeof(sum));
    uint64_t block = XXH3_64bits_withSeed(bytes + HEADER_BYTES, count - HEADER_BYTES - 8, sum);
    memcpy(bytes + count - 8, &block, sizeof(block));
    bytes_write(bytes, count);
    free(bytes);
    return trace_count();
}

static void hostile(void **state)
{
    static const uint32_t values[] = {0, 1, 2, 4, 511, 4097, 65537, 1u << 31, UINT32_MAX};
    int64_t rc;

    (void)state;
    assert_int_equal(hostile_header(8, 2, 4), -PS_ERR_UNSUPPORTED);
    assert_int_equal(hostile_header(56, 'b', 1), 3); /* another model: nothing is wrong */
    for (size_t offset = 12; offset < 56; offset += 4)
        for (size_t i = 0; i < PS_ARRAY_LEN(values); i++) {
            rc = hostile_header(offset, values[i], 4);
            assert_true(rc == 3 || rc == -PS_ERR_FORMAT || rc == -PS_ERR_TRUNCATED ||
                        rc == -PS_ERR_CHECKSUM);
        }
    for (int shift = 0; shift < 64; shift++)
        assert_true(hostile_header(16, UINT64_C(3) ^ (UINT64_C(1) << shift), 8) < 0);
    assert_int_equal(hostile_header(192 + 16, 1, 4), -PS_ERR_FORMAT); /* layers 1, 1, 4 */
    /* Experts that there are not, twice the same, one behind a missing one; no number. */
    size_t token = HEADER_BYTES, experts = token + 8 + LAYERS * USED * sizeof(float);
    assert_int_equal(hostile_header(experts, EXPERTS, 2), -PS_ERR_FORMAT);
    assert_int_equal(hostile_header(experts + 4, 3 | 3 << 16, 4), -PS_ERR_FORMAT);
    assert_int_equal(hostile_header(experts + 4, PS_TRACE_NONE, 2), -PS_ERR_FORMAT);
    assert_int_equal(hostile_header(experts + 4, 3 | 4 << 16, 4), 3);
    assert_int_equal(hostile_header(token + 8, 0x7f800000, 4), -PS_ERR_FORMAT);
}

static void writer_refuses(void **state)
{
    struct ps_trace_info info = info_full(2);
    struct ps_trace_writer *writer = NULL;
    struct ps_trace_token token;
    struct ps_error err = {0};
    struct values v;
    FILE *file = fopen(path, "wb");

    (void)state;
    info.experts_used = EXPERTS + 1;
    assert_int_equal(ps_trace_writer_open(&writer, file, path, &info, &err), -PS_ERR_ARGUMENT);
    info = info_full(0);
    assert_int_equal(ps_trace_writer_open(&writer, file, path, &info, &err), -PS_ERR_ARGUMENT);
    info = info_full(2);
    assert_int_equal(ps_trace_writer_open(&writer, file, path, &info, &err), 0);
    values_set(&v, &token, 1);
    v.weights[1] = NAN;
    assert_int_equal(ps_trace_writer_add(writer, &token, &err), -PS_ERR_ARGUMENT);
    v.weights[1] = 0;
    assert_int_equal(ps_trace_writer_add(writer, &token, &err), 0);
    v.experts[0] = v.experts[1];
    assert_int_equal(ps_trace_writer_add(writer, &token, &err), -PS_ERR_ARGUMENT);
    assert_int_equal(ps_trace_writer_finish(writer, &err), -PS_ERR_ARGUMENT);
    values_set(&v, &token, 2);
    assert_int_equal(ps_trace_writer_add(writer, &token, &err), 0);
    assert_int_equal(ps_trace_writer_add(writer, &token, &err), -PS_ERR_ARGUMENT);
    assert_int_equal(ps_trace_writer_finish(writer, &err), 0);
    ps_trace_writer_close(&writer);
    fclose(file);
    assert_int_equal(trace_count(), 2);
    /* A full drive is a failure, not a shorter trace. */
    file = fopen("/dev/full", "wb");
    if (file) {
        setvbuf(file, NULL, _IONBF, 0);
        assert_int_equal(ps_trace_writer_open(&writer, file, "full", &info, &err), -ENOSPC);
        fclose(file);
    }
}

static void no_trace(void **state)
{
    struct ps_trace *trace = NULL;
    struct ps_error err = {0};

    (void)state;
    bytes_write((const uint8_t *)"[[0, 8], [0, 48]]\n", 18);
    assert_int_equal(trace_count(), -PS_ERR_FORMAT);
    assert_int_equal(ps_trace_open(&trace, dir, &err), -PS_ERR_ARGUMENT);
    assert_int_equal(ps_trace_open(&trace, "/nonexistent/trace", &err), -ENOENT);
    assert_null(trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip), cmocka_unit_test(cut_off),        cmocka_unit_test(damaged),
        cmocka_unit_test(hostile),    cmocka_unit_test(writer_refuses), cmocka_unit_test(no_trace)};

    ps_test_dir_make(dir, sizeof(dir));
    snprintf(path, sizeof(path), "%s/trace", dir);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ps_test_dir_remove(dir);
    return failed;
}
