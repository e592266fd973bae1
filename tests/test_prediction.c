/*
 * The layer that predicts, from what a volume would hold of it: its tensors are made into a model
 * of one layer, whose "embedding" is what the layer gets as input (spec A.8), and the logits of
 * that must be the reference's. So its tensors are whole, in their places, and what the engine can
 * run.
 */
#include <math.h>

#include "golden_file.h"
#include "model/import.h"
#include "model_fixture.h"
#include "quant/type.h"
#include "source_writer.h"
#include "util.h"

#define TOLERANCE 5e-4
#define SET PS_TEST_DATA_DIR "/golden/qwen35moe-mtp/"

static float *values_of(struct ps_import *import, uint32_t object, uint64_t bytes)
{
    uint8_t *raw = malloc(bytes);
    struct ps_error err = {0};

    assert_non_null(raw);
    if (ps_import_fill(import, 0, object, 0, import->objects[object].slice_count, raw, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    return (float *)(void *)raw;
}

/* Values of a resident tensor; *rows and *cols may be NULL. */
static float *resident(struct ps_import *import, const char *name, uint64_t *rows, uint64_t *cols)
{
    uint32_t i = 0;
    uint64_t r, c;

    while (i < import->tensor_count && strcmp(import->objects[i].name, name))
        i++;
    if (i == import->tensor_count)
        fail_msg("%s is not there", name);
    const struct ps_config_tensor *t = &import->tensors[i];
    ps_role_shape(&import->config, t->role, &r, &c);
    void *raw = values_of(import, i, r * ps_row_bytes(t->type, c));
    float *v = malloc(r * c * sizeof(*v));
    assert_non_null(v);
    ps_row_decode(t->type, raw, v, r * c);
    free(raw);
    if (rows)
        *rows = r;
    if (cols)
        *cols = c;
    return v;
}

/* Under a name of the new model. */
static void copy(struct ps_import *import, const char *from, struct source_writer *w,
                 const char *to)
{
    uint64_t dims[2];
    float *v = resident(import, from, &dims[0], &dims[1]);

    if (dims[0] == 1)
        writer_add(w, to, PS_TYPE_F32, v, 1, &dims[1]);
    else
        writer_add(w, to, PS_TYPE_F32, v, 2, dims);
    free(v);
}

static void copy_layer(struct ps_import *import, struct source_writer *w)
{
    uint32_t layer = import->config.layer_count;
    char prefix[32], to[96];

    snprintf(prefix, sizeof(prefix), "blk.%u.", layer);
    for (uint32_t i = 0; i < import->tensor_count; i++) {
        const char *name = import->objects[i].name, *own = name + strlen(prefix);

        if (strncmp(name, prefix, strlen(prefix)) || !strncmp(own, "nextn.", 6))
            continue;
        if (!strcmp(own, "ffn_norm.weight")) /* the family's own name for it */
            own = "post_attention_norm.weight";
        snprintf(to, sizeof(to), "blk.0.%s", own);
        copy(import, name, w, to);
    }
}

static void copy_experts(struct ps_import *import, struct source_writer *w)
{
    static const char *const names[] = {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight",
                                        "blk.0.ffn_down_exps.weight"};
    const struct ps_config *c = &import->config;
    const struct ps_import_layer *l = &import->layers[c->layer_count];
    uint64_t count = (uint64_t)c->expert_width * c->hidden;
    struct ps_slice_parts parts;
    float *v[3];

    assert_int_equal(l->slice_count, 1);
    ps_slice_parts(&l->shape, c->expert_width, &parts);
    for (int p = 0; p < 3; p++)
        assert_non_null(v[p] = malloc(c->expert_count * count * sizeof(float)));
    for (uint32_t i = import->tensor_count; i < import->object_count; i++) {
        const struct ps_layout_object *o = &import->objects[i];

        if (o->group != c->layer_count)
            continue;
        uint8_t *raw = (uint8_t *)values_of(import, i, parts.bytes);
        ps_row_decode(l->shape.gate_type, raw + parts.gate_offset, v[0] + o->index * count, count);
        ps_row_decode(l->shape.up_type, raw + parts.up_offset, v[1] + o->index * count, count);
        ps_row_decode(l->shape.down_type, raw + parts.down_offset, v[2] + o->index * count, count);
        free(raw);
    }
    for (int p = 0; p < 3; p++) {
        const uint64_t dims[] = {c->expert_count, p < 2 ? c->expert_width : c->hidden,
                                 p < 2 ? c->hidden : c->expert_width};

        writer_add(w, names[p], PS_TYPE_F32, v[p], 3, dims);
        free(v[p]);
    }
}

static void normalise(const float *x, const float *w, uint64_t n, float eps, double *y)
{
    double sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    for (uint64_t i = 0; i < n; i++)
        y[i] = (double)x[i] / sqrt(sum / (double)n + (double)eps) * (double)w[i];
}

/* Row t of the "embedding": fc [norm(embedding of token t + 1); norm(state of token t)]. */
static void put_inputs(struct ps_import *import, const struct golden_file *golden,
                       struct source_writer *w)
{
    struct golden_tensor next, state;
    uint64_t rows, h, layer = import->config.layer_count;
    float *embed = resident(import, "token_embd.weight", &rows, &h);
    char name[64];
    float *parts[3];
    static const char *const names[] = {"eh_proj", "enorm", "hnorm"};

    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "blk.%u.nextn.%s.weight", (uint32_t)layer, names[i]);
        parts[i] = resident(import, name, NULL, NULL);
    }
    assert_true(golden_get(golden, "mtp.next_tokens", &next));
    assert_true(golden_get(golden, "prefill.final_norm", &state));
    assert_true(next.count <= rows && state.dims[0] == next.count && state.dims[1] == h);
    float *x = calloc(rows * h, sizeof(*x));
    double *both = malloc(2 * h * sizeof(*both));
    assert_true(x && both);
    for (size_t t = 0; t < next.count; t++) {
        const float *e = embed + (uint64_t)((const int64_t *)next.data)[t] * h;

        normalise(e, parts[1], h, import->config.norm_eps, both);
        normalise((const float *)state.data + t * h, parts[2], h, import->config.norm_eps,
                  both + h);
        for (uint64_t r = 0; r < h; r++) {
            double sum = 0;
            for (uint64_t c = 0; c < 2 * h; c++)
                sum += (double)parts[0][r * 2 * h + c] * both[c];
            x[t * h + r] = (float)sum;
        }
    }
    writer_add(w, "token_embd.weight", PS_TYPE_F32, x, 2, (uint64_t[]){rows, h});
    for (int i = 0; i < 3; i++)
        free(parts[i]);
    free(both);
    free(embed);
    free(x);
}

static void put_keys(const struct ps_config *c, struct source_writer *w)
{
    const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        {"block_count", 1},
        {"context_length", c->context_max},
        {"embedding_length", c->hidden},
        {"attention.head_count", c->head_count},
        {"attention.head_count_kv", c->kv_head_count},
        {"attention.key_length", c->head_dim},
        {"attention.value_length", c->head_dim},
        {"rope.dimension_count", c->rope_dims},
        {"expert_count", c->expert_count},
        {"expert_used_count", c->experts_used},
        {"expert_feed_forward_length", c->expert_width},
        {"full_attention_interval", 1},
        {"ssm.group_count", c->delta_k_heads},
        {"ssm.time_step_rank", c->delta_v_heads},
        {"ssm.state_size", c->delta_k_dim},
        {"ssm.inner_size", c->delta_v_heads * c->delta_v_dim},
    };
    char key[96];

    writer_key_text(w, "general.architecture", "qwen35moe");
    writer_key_f32(w, "qwen35moe.attention.layer_norm_rms_epsilon", c->norm_eps);
    writer_key_f32(w, "qwen35moe.rope.freq_base", (float)c->rope_theta);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        snprintf(key, sizeof(key), "qwen35moe.%s", numbers[i].key);
        writer_key_u32(w, key, numbers[i].value);
    }
}

static void write_model(struct ps_import *import, const struct golden_file *golden, const char *dir)
{
    struct source_writer *w = malloc(sizeof(*w));
    char name[64];

    assert_non_null(w);
    writer_init(w);
    put_keys(&import->config, w);
    put_inputs(import, golden, w);
    snprintf(name, sizeof(name), "blk.%u.nextn.shared_head_norm.weight",
             import->config.layer_count);
    copy(import, name, w, "output_norm.weight");
    copy(import, "output.weight", w, "output.weight");
    copy_layer(import, w);
    copy_experts(import, w);
    struct writer_bytes b = writer_gguf(w, 0, w->tensor_count);
    ps_test_file_write(dir, "one.gguf", b.data, b.bytes);
    free(b.data);
    writer_fini(w);
    free(w);
}

static void test_logits(void **state)
{
    struct ps_model_layout_options options = {.source = SET "model-bf16.gguf", .quant = "keep"};
    struct golden_file *golden = golden_open(SET "golden.safetensors");
    struct golden_tensor want;
    struct fixture_volume volume;
    struct fixture_run run = {.options = {.kv = "f32"}};
    struct ps_import *import = NULL;
    struct ps_error err = {0};
    char dir[256], path[300];
    double worst = 0;

    (void)state;
    assert_non_null(golden);
    assert_true(golden_get(golden, "mtp.logits", &want));
    assert_int_equal(ps_import_open(&import, &options, 1, &err), 0);
    assert_int_equal(import->config.prediction_count, 1);
    ps_test_dir_make(dir, sizeof(dir));
    write_model(import, golden, dir);
    ps_import_close(&import);
    snprintf(path, sizeof(path), "%s/one.gguf", dir);
    fixture_layout(&volume, path, "keep", 0, 1);
    struct ps_model *model = fixture_open(&volume);
    int32_t *ids = malloc(want.dims[0] * sizeof(*ids));
    assert_non_null(ids);
    for (size_t t = 0; t < want.dims[0]; t++)
        ids[t] = (int32_t)t;
    float *got = fixture_logits(model, &run, ids, want.dims[0], NULL);
    for (size_t i = 0; i < want.count; i++)
        worst = fmax(worst, fabs((double)got[i] - (double)((const float *)want.data)[i]));
    printf("    %zu tokens, largest difference %.1e\n", want.dims[0], worst);
    assert_true(worst <= TOLERANCE);
    free(got);
    free(ids);
    ps_model_close(&model);
    fixture_remove(&volume);
    ps_test_dir_remove(dir);
    golden_close(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_logits)};

    return cmocka_run_group_tests_name("prediction", tests, NULL, NULL) ? 1 : 0;
}
