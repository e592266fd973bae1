/*
 * The same weights from safetensors and from GGUF must be the same model: the reference sets that
 * come in both formats, tensor by tensor and expert by expert.
 */
#include <math.h>

#include "model/import.h"
#include "quant/type.h"
#include "util.h"

static bool exists(const char *path)
{
    return access(path, R_OK) == 0;
}

static struct ps_import *open_import(const char *path)
{
    struct ps_model_layout_options options = {.source = path, .quant = "keep"};
    struct ps_import *import = NULL;
    struct ps_error err = {0};

    if (ps_import_open(&import, &options, 1, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    return import;
}

static uint32_t find_object(const struct ps_import *import, const char *name)
{
    for (uint32_t i = 0; i < import->object_count; i++)
        if (!strcmp(import->objects[i].name, name))
            return i;
    fail_msg("%s is not in %s", name, import->source->name);
    return 0;
}

static uint8_t *fill(struct ps_import *import, uint32_t object, uint64_t *bytes)
{
    const struct ps_layout_object *o = &import->objects[object];
    struct ps_error err = {0};
    uint8_t *buf;

    *bytes = 0;
    for (uint32_t i = 0; i < o->slice_count; i++)
        *bytes += o->slices[i].bytes;
    buf = malloc(*bytes);
    assert_non_null(buf);
    if (ps_import_fill(import, 0, object, 0, o->slice_count, buf, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    return buf;
}

static float *resident(struct ps_import *import, uint32_t i, uint64_t *rows, uint64_t *cols)
{
    const struct ps_config_tensor *t = &import->tensors[i];
    uint64_t bytes;
    uint8_t *raw = fill(import, i, &bytes);
    float *v;

    ps_role_shape(&import->config, t->role, rows, cols);
    v = malloc(*rows * *cols * sizeof(*v));
    assert_non_null(v);
    assert_int_equal(bytes, *rows * ps_row_bytes(t->type, *cols));
    ps_row_decode(t->type, raw, v, *rows * *cols);
    free(raw);
    return v;
}

/* Value head t of a GGUF file is head (t mod nk) r + t / nk of the checkpoint (spec B.3). `first`
 * rows (or columns) come before the value heads, each of which has `width`. */
static uint64_t source_index(const struct ps_config *c, uint64_t i, uint64_t first, uint64_t width)
{
    uint64_t nk = c->delta_k_heads, r = c->delta_v_heads / nk, t;

    if (!c->delta_tiled || i < first)
        return i;
    t = (i - first) / width;
    return first + ((t % nk) * r + t / nk) * width + (i - first) % width;
}

struct order {
    uint64_t first, row_width, col_width; /* 0 = that axis is not re-ordered */
};

/* Only with tiled heads; see source_index. */
static struct order order_of(const struct ps_config *c, enum ps_role role)
{
    uint64_t keys = 2ull * c->delta_k_heads * c->delta_k_dim;

    switch (role) {
    case PS_ROLE_DELTA_QKV:
    case PS_ROLE_DELTA_CONV:
        return (struct order){keys, c->delta_v_dim, 0};
    case PS_ROLE_DELTA_Z:
        return (struct order){0, c->delta_v_dim, 0};
    case PS_ROLE_DELTA_BETA:
    case PS_ROLE_DELTA_ALPHA:
        return (struct order){0, 1, 0};
    case PS_ROLE_DELTA_A:
    case PS_ROLE_DELTA_DT:
        return (struct order){0, 0, 1};
    case PS_ROLE_DELTA_OUT:
        return (struct order){0, 0, c->delta_v_dim};
    default:
        return (struct order){0, 0, 0};
    }
}

static void compare_resident(struct ps_import *hf, struct ps_import *gguf, uint32_t i)
{
    const struct ps_config *c = &gguf->config;
    enum ps_role role = gguf->tensors[i].role;
    struct order o = order_of(c, role);
    uint64_t rows, cols, hf_rows, hf_cols;
    float *g = resident(gguf, i, &rows, &cols);
    float *h = resident(hf, find_object(hf, gguf->objects[i].name), &hf_rows, &hf_cols);
    /* One rounding apart: the two sides compute the exponential each in their own way. */
    float tolerance = role == PS_ROLE_DELTA_A ? 2e-7f : 0;

    assert_int_equal(rows, hf_rows);
    assert_int_equal(cols, hf_cols);
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t k = 0; k < cols; k++) {
            uint64_t from_row = o.row_width ? source_index(c, r, o.first, o.row_width) : r;
            uint64_t from_col = o.col_width ? source_index(c, k, o.first, o.col_width) : k;
            float want = h[from_row * cols + from_col], got = g[r * cols + k];

            if (!(fabsf(got - want) <= tolerance * fabsf(want)))
                fail_msg("%s [%llu, %llu]: %.9g from GGUF, %.9g from safetensors",
                         gguf->objects[i].name, (unsigned long long)r, (unsigned long long)k, got,
                         want);
        }
    free(g);
    free(h);
}

static void compare_expert(struct ps_import *hf, struct ps_import *gguf, uint32_t i)
{
    uint64_t bytes, hf_bytes;
    uint8_t *g = fill(gguf, i, &bytes);
    uint8_t *h = fill(hf, find_object(hf, gguf->objects[i].name), &hf_bytes);

    assert_int_equal(bytes, hf_bytes);
    assert_memory_equal(g, h, bytes);
    free(g);
    free(h);
}

static void compare_configs(const struct ps_config *a, const struct ps_config *b)
{
    assert_string_equal(a->arch, b->arch);
    assert_int_equal(a->vocab_rows, b->vocab_rows);
    assert_int_equal(a->hidden, b->hidden);
    assert_int_equal(a->layer_count, b->layer_count);
    assert_int_equal(a->context_max, b->context_max);
    assert_true(a->norm_eps == b->norm_eps);
    assert_int_equal(a->head_count, b->head_count);
    assert_int_equal(a->kv_head_count, b->kv_head_count);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->attn_gate, b->attn_gate);
    assert_int_equal(a->qk_norm, b->qk_norm);
    assert_int_equal(a->qk_norm_whole, b->qk_norm_whole);
    assert_int_equal(a->prediction_count, b->prediction_count);
    assert_int_equal(a->rope_dims, b->rope_dims);
    assert_true(a->rope_theta == b->rope_theta);
    assert_int_equal(a->delta_k_heads, b->delta_k_heads);
    assert_int_equal(a->delta_v_heads, b->delta_v_heads);
    assert_int_equal(a->delta_k_dim, b->delta_k_dim);
    assert_int_equal(a->delta_v_dim, b->delta_v_dim);
    assert_int_equal(a->conv_taps, b->conv_taps);
    assert_int_equal(a->expert_count, b->expert_count);
    assert_int_equal(a->experts_used, b->experts_used);
    assert_int_equal(a->expert_width, b->expert_width);
    assert_int_equal(a->renormalise, b->renormalise);
    assert_int_equal(a->shared_width, b->shared_width);
    assert_int_equal(a->shared_gate, b->shared_gate);
    assert_int_equal(a->end_id_count, b->end_id_count);
    for (uint32_t i = 0; i < a->layer_count; i++)
        assert_int_equal(a->layers[i].mixer, b->layers[i].mixer);
}

static void compare(const char *hf_path, const char *gguf_path)
{
    struct ps_import *hf, *gguf;

    if (!exists(hf_path) || !exists(gguf_path))
        PS_SKIP_ONE("%s or %s is not there", hf_path, gguf_path);
    hf = open_import(hf_path);
    gguf = open_import(gguf_path);
    compare_configs(&hf->config, &gguf->config);
    assert_int_equal(hf->object_count, gguf->object_count);
    for (uint32_t i = 0; i < gguf->object_count; i++) {
        if (gguf->objects[i].kind == PS_OBJECT_RESIDENT)
            compare_resident(hf, gguf, i);
        else
            compare_expert(hf, gguf, i);
    }
    ps_import_close(&hf);
    ps_import_close(&gguf);
}

static void test_both_forms(void **state)
{
    static const char *const sets[][2] = {
        {PS_GOLDEN_DIR "/qwen3moe", PS_GOLDEN_DIR "/qwen3moe/model-bf16.gguf"},
        {PS_GOLDEN_DIR "/qwen35moe-mtp", PS_GOLDEN_DIR "/qwen35moe-mtp-gguf/model-bf16.gguf"},
        {PS_GOLDEN_DIR "/qwen3next", PS_GOLDEN_DIR "/qwen3next/model-bf16.gguf"},
        {PS_GOLDEN_DIR "/olmoe", PS_GOLDEN_DIR "/olmoe/model-bf16.gguf"},
        {PS_GOLDEN_DIR "/mixtral", PS_GOLDEN_DIR "/mixtral/model-bf16.gguf"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++)
        compare(sets[i][0], sets[i][1]);
}

static void test_in_tree(void **state)
{
    struct ps_import *import =
        open_import(PS_TEST_DATA_DIR "/golden/qwen35moe-mtp/model-bf16.gguf");

    (void)state;
    assert_string_equal(import->report.skipped_groups, "");
    assert_int_equal(import->config.prediction_count, 1);
    find_object(import, "blk.4.nextn.eh_proj.weight");
    find_object(import, "layer 4 expert 15");
    assert_false(import->report.has_tokenizer); /* a placeholder */
    assert_int_equal(import->config.shared_width, 64);
    ps_import_close(&import);
    import = open_import(PS_TEST_DATA_DIR "/golden/qwen3moe");
    assert_string_equal(import->report.skipped_groups, "");
    assert_true(import->config.renormalise);
    ps_import_close(&import);
}

/* Groups that are left out, in the sharded set with its vision tensors. */
static void test_groups(void **state)
{
    struct ps_import *import;

    (void)state;
    if (!exists(PS_GOLDEN_DIR "/qwen35moe"))
        PS_SKIP_ONE("%s is not there", PS_GOLDEN_DIR "/qwen35moe");
    import = open_import(PS_GOLDEN_DIR "/qwen35moe");
    assert_string_equal(import->report.skipped_groups, "model.visual.* (1)");
    assert_int_equal(import->source->file_count, 2);
    ps_import_close(&import);
    import = open_import(PS_GOLDEN_DIR "/qwen35moe-mtp");
    assert_string_equal(import->report.skipped_groups, "model.visual.* (1)");
    ps_import_close(&import);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_forms),
        cmocka_unit_test(test_in_tree),
        cmocka_unit_test(test_groups),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
