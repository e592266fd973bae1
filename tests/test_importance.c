/* Which type each matrix gets, and the importance file: what it changes, and what it may not be. */
#include <math.h>

#include "core/util.h"
#include "hostile_source.h"
#include "quant/encode.h"

#define ENTRY "blk.0.ffn_down_exps.weight"

/* Importance of column k for expert e: uneven enough to matter. */
static float importance_of(uint64_t e, uint64_t k)
{
    return (float)((k * 7 + e * 3) % 16 == 0 ? 1000 : 1 + k % 3);
}

/* Entries for the down matrices of layer 0; the last expert was never used. */
static void make_entries(struct hostile *f)
{
    uint64_t sum_dims[] = {f->m.experts, f->m.width}, count_dims[] = {f->m.experts, 1};
    float sums[8192], counts[256];

    assert_true(f->m.experts * f->m.width <= 8192 && f->m.experts <= 256);
    for (uint64_t e = 0; e < f->m.experts; e++) {
        counts[e] = e + 1 < f->m.experts ? 5 : 0;
        for (uint64_t k = 0; k < f->m.width; k++)
            sums[e * f->m.width + k] = 5 * importance_of(e, k);
    }
    writer_init(&f->w);
    writer_key_text(&f->w, "general.type", "imatrix");
    writer_add(&f->w, ENTRY ".in_sum2", PS_TYPE_F32, sums, 2, sum_dims);
    writer_add(&f->w, ENTRY ".counts", PS_TYPE_F32, counts, 2, count_dims);
}

static const char *put_importance(struct hostile *f)
{
    struct writer_bytes b = writer_gguf(&f->w, 0, f->w.tensor_count);
    const char *path = hostile_put_file(f, "importance.gguf", b.data, b.bytes);

    free(b.data);
    return path;
}

static int open_with(struct hostile *f, const char *quant, const char *importance,
                     struct ps_import **import, struct ps_error *err)
{
    char path[600];
    struct ps_model_layout_options options = {.quant = quant, .importance = importance};

    snprintf(path, sizeof(path), "%s", tiny_write_gguf(&f->m, f->dir));
    options.source = path;
    *import = NULL;
    return ps_import_open(import, &options, 1, err);
}

static int fill_expert(struct ps_import *import, uint32_t expert, uint8_t *buf,
                       struct ps_error *err)
{
    uint32_t i = import->tensor_count + expert;

    assert_int_equal(import->objects[i].kind, PS_OBJECT_STREAMED);
    assert_int_equal(import->objects[i].index, expert);
    return ps_import_fill(import, 0, i, 0, import->objects[i].slice_count, buf, err);
}

/* Expert e's down matrix, encoded with its importance or without. */
static void check_down(struct ps_import *import, const struct tiny_model *m, uint32_t e,
                       bool weighted)
{
    static uint8_t buf[1 << 20], want[1 << 16];
    static float values[16384];
    float weights[256];
    struct ps_slice_parts parts;
    struct ps_error err = {0};
    char name[64];

    assert_true(m->hidden * m->width <= 16384 && m->width <= 256);
    assert_int_equal(import->layers[0].slice_count, 1);
    assert_int_equal(fill_expert(import, e, buf, &err), 0);
    ps_slice_parts(&import->layers[0].shape, m->width, &parts);
    snprintf(name, sizeof(name), "blk.0.down.%u", e);
    for (uint64_t i = 0; i < (uint64_t)m->hidden * m->width; i++)
        values[i] = tiny_value(name, i);
    for (uint64_t k = 0; k < m->width; k++)
        weights[k] = 5 * importance_of(e, k);
    ps_encode_rows(&(struct ps_encode){PS_TYPE_Q4_0, m->hidden, m->width, values,
                                       weighted ? weights : NULL, want});
    assert_memory_equal(buf + parts.down_offset, want, parts.down_stride * m->hidden);
}

static void test_importance_is_used(void **state)
{
    struct hostile *f = *state;
    struct ps_import *import;
    struct ps_error err = {0};

    make_entries(f);
    assert_int_equal(open_with(f, "experts=q4_0,rest=q8_0", put_importance(f), &import, &err), 0);
    check_down(import, &f->m, 0, true);
    check_down(import, &f->m, 1, true);
    check_down(import, &f->m, f->m.experts - 1, false);
    /* Gate and up of every layer, and down of all but the first. */
    snprintf(err.text, sizeof(err.text), "%u matrices are not in the importance file",
             3 * f->m.layers - 1);
    assert_non_null(strstr(import->report.notes, err.text));
    ps_import_close(&import);
}

/* A fingerprint without the importance would let a resumed layout mix both. */
static void test_importance_is_in_the_fingerprint(void **state)
{
    struct hostile *f = *state;
    struct ps_import *import;
    struct ps_error err = {0};
    uint64_t prints[2];

    make_entries(f);
    for (int with = 0; with < 2; with++) {
        assert_int_equal(
            open_with(f, "experts=q4_0", with ? put_importance(f) : NULL, &import, &err), 0);
        prints[with] = import->spec.source_fingerprint[0];
        ps_import_close(&import);
    }
    assert_true(prints[0] != prints[1]);
}

static void expect(struct hostile *f, const char *importance, int code, const char *word)
{
    struct ps_import *import;
    struct ps_error err = {0};
    int rc = open_with(f, "experts=q4_0", importance, &import, &err);

    if (rc != code || !strstr(err.text, word) || strchr(err.text, '\n'))
        fail_msg("expected %d with \"%s\", got %d: %s", code, word, rc, err.text);
    assert_null(import);
}

static void test_files_that_do_not_fit(void **state)
{
    struct hostile *f = *state;
    const char *path;

    make_entries(f);
    writer_find(&f->w, ENTRY ".in_sum2")->dims[1] /= 2;
    writer_find(&f->w, ENTRY ".in_sum2")->bytes /= 2;
    expect(f, put_importance(f), -PS_ERR_FORMAT, ENTRY);
    writer_fini(&f->w);
    make_entries(f);
    writer_remove(&f->w, ENTRY ".counts");
    expect(f, put_importance(f), -PS_ERR_FORMAT, ENTRY);
    writer_remove(&f->w, ENTRY ".in_sum2");
    writer_add(&f->w, "other", PS_TYPE_F32, (float[]){1}, 1, (uint64_t[]){1});
    expect(f, put_importance(f), -PS_ERR_FORMAT, "holds no importance");
    path = hostile_put_file(f, "old.dat", "\5\0\0\0\5\0\0\0", 8);
    expect(f, path, -PS_ERR_UNSUPPORTED, "GGUF form");
    path = hostile_put_file(f, "empty", "", 0);
    expect(f, path, -PS_ERR_UNSUPPORTED, "GGUF form");
    expect(f, "/nonexistent/file", -ENOENT, "cannot be opened");
}

static void test_truncated_files(void **state)
{
    struct hostile *f = *state;
    struct writer_bytes b;

    make_entries(f);
    b = writer_gguf(&f->w, 0, f->w.tensor_count);
    for (size_t bytes = 4; bytes < b.bytes; bytes += 1 + bytes / 4) {
        struct ps_import *import;
        struct ps_error err = {0};
        int rc = open_with(f, "experts=q4_0", hostile_put_file(f, "importance.gguf", b.data, bytes),
                           &import, &err);

        assert_true(rc < 0 && err.text[0] && !strchr(err.text, '\n'));
    }
    free(b.data);
}

/* Values are read where they are used: a bad one stops the layout there. */
static void test_bad_values(void **state)
{
    static const float bad[] = {NAN, INFINITY, -1};
    static uint8_t buf[1 << 20];
    struct hostile *f = *state;

    for (size_t i = 0; i < PS_ARRAY_LEN(bad); i++) {
        struct ps_import *import;
        struct ps_error err = {0};

        make_entries(f);
        memcpy(writer_find(&f->w, ENTRY ".in_sum2")->data + 12, &bad[i], sizeof(bad[i]));
        assert_int_equal(open_with(f, "experts=q4_0", put_importance(f), &import, &err), 0);
        assert_int_equal(fill_expert(import, 1, buf, &err), 0);
        assert_int_equal(fill_expert(import, 0, buf, &err), -PS_ERR_FORMAT);
        assert_non_null(strstr(err.text, "column 3 of matrix 0"));
        ps_import_close(&import);
        writer_fini(&f->w);
    }
    make_entries(f);
}

static uint32_t type_of(const struct ps_import *import, enum ps_role role)
{
    for (uint32_t i = 0; i < import->tensor_count; i++)
        if (import->tensors[i].role == role)
            return import->tensors[i].type;
    fail_msg("no tensor of role %d", role);
    return 0;
}

static void test_groups(void **state)
{
    struct hostile *f = *state;
    struct ps_import *import;
    struct ps_error err = {0};

    f->m.type = PS_TYPE_BF16;
    assert_int_equal(open_with(f,
                               "attention=q8_0,experts=mxfp4,embeddings=f16,head=q4_0,"
                               "shared=f32,rest=q8_0",
                               NULL, &import, &err),
                     0);
    assert_int_equal(type_of(import, PS_ROLE_ATTN_Q), PS_TYPE_Q8_0);
    assert_int_equal(type_of(import, PS_ROLE_DELTA_OUT), PS_TYPE_Q8_0);
    assert_int_equal(type_of(import, PS_ROLE_EMBED), PS_TYPE_F16);
    assert_int_equal(type_of(import, PS_ROLE_HEAD), PS_TYPE_Q4_0);
    assert_int_equal(type_of(import, PS_ROLE_SHARED_UP), PS_TYPE_F32);
    assert_int_equal(type_of(import, PS_ROLE_OUT_NORM), PS_TYPE_F32);
    assert_int_not_equal(type_of(import, PS_ROLE_ROUTER), PS_TYPE_Q8_0);
    assert_int_equal(import->layers[0].shape.down_type, PS_TYPE_MXFP4);
    assert_string_equal(import->report.notes, "");
    ps_import_close(&import);

    /* Blocks of 256 fit none of these rows. Groups that are not named follow the rest. */
    assert_int_equal(open_with(f, "experts=q4_k,rest=q6_k", NULL, &import, &err), 0);
    assert_int_equal(type_of(import, PS_ROLE_HEAD), PS_TYPE_Q8_0);
    assert_int_equal(import->layers[0].shape.gate_type, PS_TYPE_Q8_0);
    assert_non_null(strstr(import->report.notes, "Q8_0 instead of Q4_K"));
    assert_non_null(strstr(import->report.notes, "Q8_0 instead of Q6_K"));
    ps_import_close(&import);

    f->m.expert_type = PS_TYPE_Q8_0;
    assert_int_equal(open_with(f, "experts=q4_0", NULL, &import, &err), 0);
    assert_non_null(strstr(import->report.notes, "quantised in the source"));
    assert_int_equal(type_of(import, PS_ROLE_HEAD), PS_TYPE_BF16);
    ps_import_close(&import);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, hostile_set_up, hostile_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_importance_is_used),
        TEST(test_importance_is_in_the_fingerprint),
        TEST(test_files_that_do_not_fit),
        TEST(test_truncated_files),
        TEST(test_bad_values),
        TEST(test_groups),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
