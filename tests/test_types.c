/*
 * Every block type in a whole model, in experts of every usual width: a layer per type, with blocks
 * of random bytes in its attention and its experts. The bits of the logits are those of the same
 * model decoded to F32, and do not depend on slices, members, memory, threads or cuts of the
 * prompt.
 */
#include "blocks.h"
#include "model_fixture.h"
#include "source_writer.h"
#include "util.h"

#define TOKEN_COUNT 7
#define HIDDEN 256
#define LARGEST 0.125f /* of the weights */

static const int32_t ids[TOKEN_COUNT] = {3, 70, 41, 41, 8, 25, 0};
static uint64_t random_state = 1;

static uint32_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

/* Any codes and sub-scales, and a scale that keeps the weights small. */
static void random_block(uint32_t type, uint8_t *block)
{
    const uint16_t one = 0x3c00, sign = 0x8000;
    const struct ps_type_info *info = ps_type_info(type);
    float values[256], largest = 0;

    for (uint32_t i = 0; i < info->block_bytes; i++)
        block[i] = (uint8_t)next_random();
    blocks_set_scales(type, block, one, info->block_len > 32 ? one : one | sign);
    ps_row_decode(type, block, values, info->block_len);
    for (uint32_t i = 0; i < info->block_len; i++) {
        float magnitude = values[i] < 0 ? -values[i] : values[i];
        largest = magnitude > largest ? magnitude : largest;
    }
    uint16_t scale = ps_f32_to_f16(LARGEST / (largest > 0 ? largest : 1));
    blocks_set_scales(type, block, scale, info->block_len > 32 ? scale : scale | sign);
}

/* Gives a matrix of BF16 another type: the same values, or blocks of its own. */
static void retype(struct source_writer *w, const char *name, uint32_t type)
{
    struct writer_tensor *t = writer_find(w, name);
    const struct ps_type_info *info = ps_type_info(type);
    uint64_t count = t->bytes / 2; /* BF16 */

    if (info->block_len == 1) {
        float *values = malloc(count * sizeof(*values));
        assert_non_null(values);
        ps_row_decode(t->type, t->data, values, count);
        for (uint64_t i = 0; i < count; i++)
            values[i] *= LARGEST;
        t->bytes = count * info->block_bytes;
        free(t->data);
        assert_non_null(t->data = malloc(t->bytes));
        ps_row_encode(type, values, t->data, count);
        free(values);
    } else {
        assert_int_equal(t->dims[t->dim_count - 1] % info->block_len, 0);
        t->bytes = count / info->block_len * info->block_bytes;
        free(t->data);
        assert_non_null(t->data = malloc(t->bytes));
        for (uint64_t b = 0; b < t->bytes; b += info->block_bytes)
            random_block(type, t->data + b);
    }
    t->type = type;
}

/* Decodes it where it is. */
static void to_f32(struct writer_tensor *t)
{
    const struct ps_type_info *info = ps_type_info(t->type);
    uint64_t count = t->bytes / info->block_bytes * info->block_len;
    uint8_t *data = malloc(count * sizeof(float));

    assert_non_null(data);
    ps_row_decode(t->type, t->data, (float *)(void *)data, count);
    free(t->data);
    t->data = data;
    t->bytes = count * sizeof(float);
    t->type = PS_TYPE_F32;
}

/* Plain floats take the room of all others together: they are there up to the width HIDDEN. */
static uint32_t types_for(uint32_t width, uint32_t *types)
{
    uint32_t count = 0;

    for (uint32_t type = 0; type < PS_TYPE_COUNT; type++) {
        const struct ps_type_info *info = ps_type_info(type);
        if (info && info->has_kernels && width % info->block_len == 0 &&
            (info->block_len > 1 || width <= HIDDEN))
            types[count++] = type;
    }
    return count;
}

static void make_model(uint32_t width, struct source_writer *w)
{
    static const char *const matrices[] = {"attn_q",       "attn_k",        "attn_v",
                                           "attn_output",  "ffn_gate_exps", "ffn_up_exps",
                                           "ffn_down_exps"};
    uint32_t types[PS_TYPE_COUNT];
    struct tiny_model m = tiny_default(false);

    m.hidden = HIDDEN;
    m.head_dim = HIDDEN / m.heads;
    m.width = width;
    m.experts = 3;
    m.layers = types_for(width, types);
    tiny_gguf(&m, w);
    for (uint32_t layer = 0; layer < m.layers; layer++) {
        for (size_t i = 0; i < sizeof(matrices) / sizeof(matrices[0]); i++) {
            char name[64];
            snprintf(name, sizeof(name), "blk.%u.%s.weight", layer, matrices[i]);
            retype(w, name, types[layer]);
        }
    }
}

static void write_model(const struct source_writer *w, const char *dir)
{
    struct writer_bytes b = writer_gguf(w, 0, w->tensor_count);

    ps_test_file_write(dir, "types.gguf", b.data, b.bytes);
    free(b.data);
}

static void lay_out(struct fixture_volume *volume, const char *dir, uint64_t slice_bytes,
                    int member_count)
{
    char path[320];

    snprintf(path, sizeof(path), "%s/types.gguf", dir);
    fixture_layout(volume, path, "keep", slice_bytes, member_count);
}

static void expect(const struct fixture_volume *volume, const struct fixture_run *run,
                   const float *want, size_t row)
{
    struct ps_model *model = fixture_open(volume);
    float *got = fixture_logits(model, run, ids, TOKEN_COUNT, NULL);

    for (size_t i = 0; i < TOKEN_COUNT * row; i++) {
        assert_true(got[i] - got[i] == 0); /* finite */
        if (memcmp(&got[i], &want[i], sizeof(*got)) != 0)
            fail_msg("logit %zu of token %zu is %a instead of %a", i % row, i / row, (double)got[i],
                     (double)want[i]);
    }
    free(got);
    ps_model_close(&model);
}

static void check_width(void **state)
{
    const uint32_t width = *(const uint32_t *)*state;
    struct source_writer *w = malloc(sizeof(*w));
    struct fixture_volume volume;
    struct ps_model_info info;
    char dir[256];

    assert_non_null(w);
    ps_test_dir_make(dir, sizeof(dir));
    make_model(width, w);
    write_model(w, dir);
    lay_out(&volume, dir, 1u << 30, 1);
    struct ps_model *model = fixture_open(&volume);
    ps_model_info(model, &info);
    float *want = fixture_logits(model, &(struct fixture_run){0}, ids, TOKEN_COUNT, NULL);
    ps_model_close(&model);
    struct fixture_run run = {.options = {.threads = 3, .memory_bytes = PS_MEMORY_MIN},
                              .one_by_one = true};
    expect(&volume, &run, want, info.vocab_rows);
    fixture_remove(&volume);

    lay_out(&volume, dir, 1, 3);
    expect(&volume, &run, want, info.vocab_rows);
    run = (struct fixture_run){.options = {.threads = 2, .chunk_tokens = 3}};
    expect(&volume, &run, want, info.vocab_rows);
    fixture_remove(&volume);

    if (width <= HIDDEN) { /* floats of wider experts would make the test slow */
        for (uint32_t i = 0; i < w->tensor_count; i++)
            to_f32(&w->tensors[i]);
        write_model(w, dir);
        lay_out(&volume, dir, 0, 1);
        expect(&volume, &(struct fixture_run){0}, want, info.vocab_rows);
        fixture_remove(&volume);
    }
    printf("    %u layers\n", info.layer_count);
    free(want);
    writer_fini(w);
    free(w);
    ps_test_dir_remove(dir);
}

int main(void)
{
    static uint32_t widths[] = {96, 256, 512, 768, 1024};
    struct CMUnitTest tests[sizeof(widths) / sizeof(widths[0])];
    char names[sizeof(widths) / sizeof(widths[0])][32];

    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        snprintf(names[i], sizeof(names[i]), "width %u", widths[i]);
        tests[i] = (struct CMUnitTest)cmocka_unit_test_prestate(check_width, &widths[i]);
        tests[i].name = names[i];
    }
    return cmocka_run_group_tests_name("types", tests, NULL, NULL) ? 1 : 0;
}
