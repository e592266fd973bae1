/*
 * FP8 checkpoints: what a volume is filled with, beside the same weights written as F32 by the test
 * itself, in both forms of experts; and scales that are missing, misshapen, damaged or of another
 * kind, each refused with one sentence.
 */
#include <math.h>

#include "hostile_source.h"

#define SQUARE 128u

static uint32_t hash(uint32_t v)
{
    v = (v ^ v >> 16) * 0x45d9f3bu;
    v = (v ^ v >> 16) * 0x45d9f3bu;
    return v ^ v >> 16;
}

/* The format in words: four bits of exponent with bias 7, three of mantissa. */
static float code_value(uint8_t code)
{
    int exponent = code >> 3 & 15, mantissa = code & 7;
    double v = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);

    return (float)(code & 128 ? -v : v);
}

static bool is_matrix(const struct writer_tensor *t)
{
    return t->dim_count >= 2 && strstr(t->name, "_proj");
}

/* Every third tensor's scales are F32 with all their bits, the others' BF16. */
static float factor(uint32_t tensor, uint32_t i)
{
    float f = ldexpf(1.0f + (float)(hash(tensor * 7919 + i) % 8388608) / 8388608.0f,
                     -(int)(hash(i + 99 * tensor) % 9));

    return tensor % 3 ? ps_bf16_to_f32(ps_f32_to_bf16(f)) : f;
}

static uint8_t code(uint32_t tensor, uint64_t i)
{
    uint8_t c = (uint8_t)hash((uint32_t)i + 104729 * tensor);
    return (c & 0x7f) == 0x7f ? 0x80 : c;
}

/* The matrices of w anew, in FP8 or as the floats that these stand for. */
static void requantise(struct source_writer *w, bool fp8)
{
    uint32_t count = w->tensor_count;

    for (uint32_t k = 0; k < count; k++) {
        struct writer_tensor *t = &w->tensors[k];
        if (!is_matrix(t))
            continue;
        uint64_t dims[4], rows = t->dims[t->dim_count - 2], cols = t->dims[t->dim_count - 1];
        uint64_t matrices = t->dim_count == 3 ? t->dims[0] : 1, n = matrices * rows * cols;
        char name[128];

        memcpy(dims, t->dims, sizeof(dims));
        dims[t->dim_count - 2] = (rows + SQUARE - 1) / SQUARE;
        dims[t->dim_count - 1] = (cols + SQUARE - 1) / SQUARE;
        uint64_t per = dims[t->dim_count - 2] * dims[t->dim_count - 1];
        float *factors = malloc(matrices * per * sizeof(*factors));
        for (uint64_t i = 0; i < matrices * per; i++)
            factors[i] = factor(k, (uint32_t)i);
        free(t->data);
        t->type = fp8 ? PS_TYPE_F8_E4M3 : PS_TYPE_F32;
        t->bytes = fp8 ? n : n * sizeof(float);
        t->data = malloc(t->bytes);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t row = i / cols % rows, at = i / cols / rows * per;
            float v =
                code_value(code(k, i)) *
                factors[at + row / SQUARE * ((cols + SQUARE - 1) / SQUARE) + i % cols / SQUARE];
            if (fp8)
                t->data[i] = code(k, i);
            else
                memcpy(t->data + i * sizeof(v), &v, sizeof(v));
        }
        snprintf(name, sizeof(name), "%s_scale_inv", t->name);
        if (fp8)
            writer_add(w, name, k % 3 ? PS_TYPE_BF16 : PS_TYPE_F32, factors, t->dim_count, dims);
        free(factors);
    }
}

#define FP8_CONFIG                                                                                 \
    "{\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"weight_block_size\":"   \
    "[128,128],\"modules_to_not_convert\":[\"lm_head\"]},"

/* Writes w into the folder `name` with a config.json that begins with `head`. */
static const char *write_hf(struct hostile *f, const char *name, const char *head)
{
    static char path[600];
    struct writer_bytes b = writer_safetensors(&f->w, 0, f->w.tensor_count);
    char *config = tiny_config(&f->m), *text = NULL, file[64];
    int n = asprintf(&text, "%s%s", head, config + 1);

    assert_true(n > 0);
    snprintf(file, sizeof(file), "%s/config.json", name);
    hostile_put_file(f, file, text, (size_t)n);
    snprintf(file, sizeof(file), "%s/model.safetensors", name);
    hostile_put_file(f, file, b.data, b.bytes);
    snprintf(path, sizeof(path), "%s/%s", f->dir, name);
    free(text);
    free(config);
    free(b.data);
    return path;
}

static struct ps_import *open_import(const char *path, const char *quant, uint64_t slice_bytes)
{
    struct ps_model_layout_options options = {
        .source = path, .quant = quant, .slice_bytes = slice_bytes};
    struct ps_import *import = NULL;
    struct ps_error err = {0};

    if (ps_import_open(&import, &options, 1, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    return import;
}

static uint8_t *fill(struct ps_import *import, uint32_t object, uint64_t *bytes)
{
    const struct ps_layout_object *o = &import->objects[object];
    struct ps_error err = {0};

    *bytes = 0;
    for (uint32_t i = 0; i < o->slice_count; i++)
        *bytes += o->slices[i].bytes;
    uint8_t *buf = malloc(*bytes);
    if (ps_import_fill(import, 0, object, 0, o->slice_count, buf, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    return buf;
}

/* The matrices of an expert as floats: gate [width, hidden], up the same, down [hidden, width]. */
static float *expert_values(struct ps_import *import, uint32_t object, uint64_t *count)
{
    const struct ps_layout_object *o = &import->objects[object];
    const struct ps_import_layer *l = &import->layers[o->group];
    uint64_t hidden = l->shape.hidden, width = l->shape.width, bytes;
    uint8_t *raw = fill(import, object, &bytes), *at = raw;
    float *v = malloc(3 * hidden * width * sizeof(*v));

    for (uint32_t i = 0; i < o->slice_count; i++) {
        uint64_t first = o->slices[i].unit_begin, n = o->slices[i].unit_count;
        struct ps_slice_parts p;

        ps_slice_parts(&l->shape, (uint32_t)n, &p);
        ps_row_decode(l->shape.gate_type, at + p.gate_offset, v + first * hidden, n * hidden);
        ps_row_decode(l->shape.up_type, at + p.up_offset, v + (width + first) * hidden, n * hidden);
        for (uint64_t r = 0; r < hidden; r++)
            ps_row_decode(l->shape.down_type, at + p.down_offset + r * p.down_stride,
                          v + 2 * width * hidden + r * width + first, n);
        at += o->slices[i].bytes;
    }
    free(raw);
    *count = 3 * hidden * width;
    return v;
}

static float *object_values(struct ps_import *import, uint32_t object, uint64_t *count)
{
    if (import->objects[object].kind == PS_OBJECT_STREAMED)
        return expert_values(import, object, count);
    const struct ps_config_tensor *t = &import->tensors[object];
    uint64_t rows, cols, bytes;
    uint8_t *raw = fill(import, object, &bytes);

    ps_role_shape(&import->config, t->role, &rows, &cols);
    assert_int_equal(bytes, rows * ps_row_bytes(t->type, cols));
    *count = rows * cols;
    float *v = malloc(*count * sizeof(*v));
    ps_row_decode(t->type, raw, v, *count);
    free(raw);
    return v;
}

static void check_same(struct ps_import *fp8, struct ps_import *plain)
{
    assert_int_equal(fp8->object_count, plain->object_count);
    for (uint32_t i = 0; i < fp8->object_count; i++) {
        uint64_t count, plain_count;
        float *got = object_values(fp8, i, &count), *want = object_values(plain, i, &plain_count);

        assert_int_equal(count, plain_count);
        for (uint64_t k = 0; k < count; k++)
            if (memcmp(&got[k], &want[k], sizeof(*got)))
                fail_msg("value %llu of %s is %a, not %a", (unsigned long long)k,
                         fp8->objects[i].name, (double)got[k], (double)want[k]);
        free(got);
        free(want);
    }
}

static struct tiny_model model_of(bool qwen3_5, bool merged, uint32_t width)
{
    struct tiny_model m = tiny_default(qwen3_5);

    m.hidden = 256;
    m.width = width;
    m.shared = 144;
    m.experts = 3;
    m.merged = merged;
    return m;
}

/*
 * Widths of 384, in blocks, and of 160 and 96, whose last square is short: down is F32 there, and
 * in stacked tensors a square spans gate and up rows. The default keeps; what is asked to be
 * quantised is quantised from the same values.
 */
static void test_values(void **state)
{
    static const uint32_t widths[] = {384, 160, 96};
    struct hostile *f = *state;

    for (int form = 0; form < 12; form++) {
        f->m = model_of(form & 1, form & 2, widths[form / 4]);
        tiny_safetensors(&f->m, &f->w);
        requantise(&f->w, true);
        write_hf(f, "fp8", form & 2 ? FP8_CONFIG : "{"); /* the tensors' own types decide */
        writer_fini(&f->w);
        tiny_safetensors(&f->m, &f->w);
        requantise(&f->w, false);
        write_hf(f, "plain", "{");
        writer_fini(&f->w);

        char fp8_path[300], plain_path[300];
        snprintf(fp8_path, sizeof(fp8_path), "%s/fp8", f->dir);
        snprintf(plain_path, sizeof(plain_path), "%s/plain", f->dir);
        ps_source_set_large_bytes(form & 2 ? 0 : UINT64_MAX);
        struct ps_import *fp8 = open_import(fp8_path, NULL, form & 1 ? 1 : 0);
        struct ps_import *plain = open_import(plain_path, "keep", 0);
        const struct ps_config_layer *l = &fp8->config.layers[0];
        assert_int_equal(l->gate_type, PS_TYPE_F8_E4M3);
        assert_int_equal(l->down_type, f->m.width % SQUARE ? PS_TYPE_F32 : PS_TYPE_F8_E4M3);
        if (form == 1 || form == 3)
            assert_int_equal(fp8->layers[0].slice_count, 3);
        check_same(fp8, plain);
        ps_import_close(&fp8);
        ps_import_close(&plain);

        if (form >= 4)
            continue;
        fp8 = open_import(fp8_path, "experts=q8_0,rest=f16", 0);
        plain = open_import(plain_path, "experts=q8_0,rest=f16", 0);
        check_same(fp8, plain);
        ps_import_close(&fp8);
        ps_import_close(&plain);
    }
}

#define VICTIM "model.layers.1.mlp.experts.2.down_proj.weight"

static const char *write_fp8(struct hostile *f, const char *head)
{
    const char *path = write_hf(f, "fp8", head);

    writer_fini(&f->w);
    return path;
}

static void fresh(struct hostile *f)
{
    f->m = model_of(false, false, 384);
    tiny_safetensors(&f->m, &f->w);
    requantise(&f->w, true);
}

static void test_scales(void **state)
{
    struct hostile *f = *state;
    struct writer_tensor *t;

    fresh(f);
    writer_remove(&f->w, VICTIM "_scale_inv");
    hostile_expect(write_fp8(f, FP8_CONFIG), -PS_ERR_FORMAT, VICTIM, "missing");

    fresh(f);
    t = writer_find(&f->w, VICTIM "_scale_inv");
    strcpy(t->name, VICTIM "_scale");
    hostile_expect(write_fp8(f, FP8_CONFIG), -PS_ERR_UNSUPPORTED, VICTIM "_scale",
                   "blocks of 128 x 128");

    fresh(f);
    t = writer_find(&f->w, VICTIM "_scale_inv");
    assert_int_equal(t->dims[0], 2);
    assert_int_equal(t->dims[1], 3);
    t->dims[0] = 3;
    t->dims[1] = 2;
    hostile_expect(write_fp8(f, FP8_CONFIG), -PS_ERR_FORMAT, "[3, 2]", "[2, 3]");

    fresh(f);
    t = writer_find(&f->w, VICTIM "_scale_inv");
    t->type = PS_TYPE_F16;
    t->bytes = 2 * 6;
    hostile_expect(write_fp8(f, FP8_CONFIG), -PS_ERR_UNSUPPORTED, VICTIM "_scale_inv", "F16");

    /* Scales that belong to nothing, and a vector in FP8. */
    fresh(f);
    t = writer_find(&f->w, VICTIM "_scale_inv");
    strcpy(t->name, "model.layers.1.mlp.gate.weight_scale_inv");
    const float one = 1;
    writer_add(&f->w, VICTIM "_scale_inv", PS_TYPE_F32, &one, 2, (uint64_t[]){1, 1});
    hostile_expect(write_fp8(f, FP8_CONFIG), -PS_ERR_FORMAT, "[1, 1]", NULL);
    fresh(f);
    writer_add(&f->w, "model.layers.1.mlp.gate.weight_scale_inv", PS_TYPE_F32, &one, 2,
               (uint64_t[]){1, 1});
    hostile_expect(write_fp8(f, FP8_CONFIG), -PS_ERR_UNSUPPORTED,
                   "model.layers.1.mlp.gate.weight_scale_inv", NULL);
    fresh(f);
    t = writer_find(&f->w, "model.norm.weight");
    t->type = PS_TYPE_F8_E4M3;
    t->bytes = 256;
    hostile_expect(write_fp8(f, FP8_CONFIG), -PS_ERR_UNSUPPORTED, "model.norm.weight", "matri");
}

static void test_config(void **state)
{
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"\"quant_method\":\"fbgemm_fp8\"", "fbgemm_fp8"},
        {"\"bits\":4", "no method"},
        {"\"quant_method\":\"fp8\",\"fmt\":\"e5m2\",\"weight_block_size\":[128,128]", "e5m2"},
        {"\"quant_method\":\"fp8\",\"fmt\":\"e4m3\"", "weight_block_size"},
        {"\"quant_method\":\"fp8\",\"weight_block_size\":null", "weight_block_size"},
        {"\"quant_method\":\"fp8\",\"weight_block_size\":[64,128]", "[128, 128]"},
        {"\"quant_method\":\"fp8\",\"weight_block_size\":[128]", "[128, 128]"},
    };
    struct hostile *f = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char head[200];

        snprintf(head, sizeof(head), "{\"quantization_config\":{%s},", cases[i].text);
        fresh(f);
        hostile_expect(write_fp8(f, head), -PS_ERR_UNSUPPORTED, cases[i].word, NULL);
    }
}

/* Read past the page cache: pieces of any alignment, the end of the file, a file that shrinks. */
static void test_window(void **state)
{
    struct hostile *f = *state;
    struct ps_source_window w = {0};
    struct ps_source *source = NULL;
    struct ps_error err = {0};
    size_t bytes = (9u << 20) + 777;
    uint8_t *data = malloc(bytes), *got = malloc(bytes);
    char header[128];
    int n = snprintf(header + 8, sizeof(header) - 8,
                     "{\"a\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[0,%zu]}}",
                     bytes - 128, bytes - 128);

    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)hash((uint32_t)i);
    memset(header + 8 + n, ' ', 120 - (size_t)n);
    memcpy(header, &(uint64_t){120}, 8);
    memcpy(data, header, 128);
    const char *path = hostile_put_file(f, "large.safetensors", data, bytes);
    ps_source_set_large_bytes(0);
    assert_int_equal(ps_source_open(&source, path, &err), 0);
    for (uint32_t i = 0; i < 300; i++) {
        size_t at = i % 7 ? hash(i) % bytes : bytes - 1 - i % 5000;
        size_t count = i % 3 ? hash(i + 1000) % 9000 : hash(i + 2000) % bytes;

        count = count < bytes - at ? count : bytes - at;
        w.until = i % 2 ? at + count + hash(i + 3000) % bytes : 0; /* beyond the end, too */
        memset(got, 0, count);
        assert_int_equal(ps_source_window_read(source, &w, 0, at, got, count, &err), 0);
        assert_memory_equal(got, data + at, count);
    }
    w.end = w.begin; /* or it might hold what is asked for */
    assert_int_equal(truncate(path, 1 << 20), 0);
    assert_int_equal(ps_source_window_read(source, &w, 0, 3 << 20, got, 4096, &err) == 0, 0);
    assert_true(err.code == -PS_ERR_TRUNCATED || err.code == -PS_ERR_SOURCE_CHANGED);
    ps_source_window_fini(&w);
    ps_source_close(&source);
    free(data);
    free(got);
}

/* Found when the expert is produced: planning reads no data. */
static void test_damaged_scales(void **state)
{
    const uint16_t codes[] = {0x7fc0, 0x7f80, 0xff80};
    struct hostile *f = *state;

    for (size_t i = 0; i < 3; i++) {
        struct ps_error err = {0};
        uint64_t bytes = 0;

        fresh(f);
        struct writer_tensor *t = writer_find(&f->w, VICTIM "_scale_inv");
        memcpy(t->data + (t->type == PS_TYPE_F32 ? 4 * 4 + 2 : 2 * 4), &codes[i], 2);
        struct ps_import *import = open_import(write_fp8(f, FP8_CONFIG), "keep", 0);
        uint32_t last = import->object_count - 1;
        const struct ps_layout_object *o = &import->objects[last];
        for (uint32_t k = 0; k < o->slice_count; k++)
            bytes += o->slices[k].bytes;
        uint8_t *buf = malloc(bytes);
        assert_int_equal(ps_import_fill(import, 0, last, 0, o->slice_count, buf, &err),
                         -PS_ERR_FORMAT);
        if (!strstr(err.text, VICTIM "_scale_inv") || !strstr(err.text, "row 1, column 1"))
            fail_msg("%s", err.text);
        free(buf);
        ps_import_close(&import);
    }
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, hostile_set_up, hostile_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_values),         TEST(test_scales), TEST(test_config),
        TEST(test_damaged_scales), TEST(test_window),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
