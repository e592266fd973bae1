/* Damaged, hostile and unsupported sources: each must be refused with
 * one sentence that names what. */
#include "model/import.h"
#include "quant/type.h"
#include "source_writer.h"
#include "util.h"

struct fixture {
    char dir[256];
    struct source_writer w;
    struct tiny_model m;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    ps_test_dir_make(f->dir, sizeof(f->dir));
    f->m = tiny_default(true);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    ps_test_dir_remove(f->dir);
    writer_fini(&f->w);
    free(f);
    return 0;
}

/* The source must be refused with this code and these words in one sentence. */
static void expect_with(const char *path, const char *quant, int code, const char *word,
                        const char *other_word)
{
    struct ps_model_layout_options options = {.source = path, .quant = quant};
    struct ps_import *import = NULL;
    struct ps_error err = {0};
    int rc = ps_import_open(&import, &options, 1, &err);

    if (rc == 0)
        fail_msg("%s was accepted (expected: %s)", path, word);
    assert_null(import);
    if (rc != code || err.code != code || !strstr(err.text, word) ||
        (other_word && !strstr(err.text, other_word)))
        fail_msg("expected %d with \"%s\" and \"%s\", got %d: %s", code, word,
                 other_word ? other_word : "", rc, err.text);
    assert_null(strchr(err.text, '\n'));
}

static void expect(const char *path, int code, const char *word, const char *other_word)
{
    expect_with(path, "keep", code, word, other_word);
}

static const char *put_file(struct fixture *f, const char *name, const void *data, size_t bytes)
{
    static char path[600];

    ps_test_file_write(f->dir, name, data, bytes);
    snprintf(path, sizeof(path), "%s/%s", f->dir, name);
    return path;
}

static const char *put_gguf(struct fixture *f)
{
    struct writer_bytes b = writer_gguf(&f->w, 0, f->w.tensor_count);
    const char *path = put_file(f, "bad.gguf", b.data, b.bytes);

    free(b.data);
    return path;
}

/* ---- GGUF ------------------------------------------------------------ */

/* Every length of a small file, and many of a whole model: nothing
 * short of all of it is accepted. */
static void test_gguf_truncated(void **state)
{
    struct fixture *f = *state;
    struct writer_bytes b;
    const float values[64] = {0};
    const uint64_t dims[] = {2, 32};

    writer_init(&f->w);
    writer_key_text(&f->w, "general.architecture", "qwen3moe");
    writer_key_i32s(&f->w, "a.list", (const int32_t[]){1, 2, 3}, 3);
    writer_add(&f->w, "first", PS_TYPE_Q8_0, values, 2, dims);
    writer_add(&f->w, "second", PS_TYPE_F32, values, 2, dims);
    b = writer_gguf(&f->w, 0, 2);
    for (size_t len = 4; len <= b.bytes; len++) {
        const char *path = put_file(f, "cut.gguf", b.data, len);
        struct ps_source *source = NULL;
        struct ps_error err = {0};
        int rc = ps_source_open(&source, path, &err);

        /* A count that the rest of the file cannot hold may as well be damage. */
        if (len == b.bytes)
            assert_int_equal(rc, 0);
        else
            assert_true(rc == -PS_ERR_TRUNCATED || rc == -PS_ERR_FORMAT);
        assert_true((err.text[0] != 0) == (rc < 0));
        ps_source_close(&source);
    }
    free(b.data);
    writer_fini(&f->w);

    tiny_gguf(&f->m, &f->w);
    b = writer_gguf(&f->w, 0, f->w.tensor_count);
    for (size_t len = 4096; len < b.bytes; len += b.bytes / 61)
        expect(put_file(f, "cut.gguf", b.data, len), -PS_ERR_TRUNCATED, "cut short", NULL);
    expect(put_file(f, "cut.gguf", b.data, b.bytes - 1), -PS_ERR_TRUNCATED, "cut short", NULL);
    free(b.data);
}

/* A header by hand: counts, then whatever follows. */
static struct writer_bytes header(uint32_t version, uint64_t tensors, uint64_t values)
{
    struct writer_bytes b = {0};

    writer_put(&b, "GGUF", 4);
    writer_put_u32(&b, version);
    writer_put_u64(&b, tensors);
    writer_put_u64(&b, values);
    return b;
}

static void expect_bytes(struct fixture *f, struct writer_bytes *b, int code, const char *word)
{
    static const uint8_t zeroes[256];

    writer_put(b, zeroes, sizeof(zeroes));
    expect(put_file(f, "bad.gguf", b->data, b->bytes), code, word, NULL);
    free(b->data);
}

static void test_gguf_counts(void **state)
{
    struct fixture *f = *state;
    struct writer_bytes b;

    b = header(3, UINT64_MAX, 0);
    expect_bytes(f, &b, -PS_ERR_FORMAT, "more tensors");
    b = header(3, 0, UINT64_MAX / 2);
    expect_bytes(f, &b, -PS_ERR_FORMAT, "more metadata");
    b = header(3, 0, 1); /* a key of 2^63 bytes */
    writer_put_u64(&b, 1ull << 63);
    expect_bytes(f, &b, -PS_ERR_FORMAT, "absurdly long");
    b = header(3, 0, 1); /* a text of 2^40 bytes */
    writer_put_text(&b, "key");
    writer_put_u32(&b, 8);
    writer_put_u64(&b, 1ull << 40);
    expect_bytes(f, &b, -PS_ERR_TRUNCATED, "cut short");
    b = header(3, 0, 1); /* an array of 2^61 numbers: its bytes overflow 64 bits */
    writer_put_text(&b, "key");
    writer_put_u32(&b, 9);
    writer_put_u32(&b, 10);
    writer_put_u64(&b, 1ull << 61);
    expect_bytes(f, &b, -PS_ERR_FORMAT, "more items");
    b = header(3, 0, 1); /* an array of 2^60 texts */
    writer_put_text(&b, "key");
    writer_put_u32(&b, 9);
    writer_put_u32(&b, 8);
    writer_put_u64(&b, 1ull << 60);
    expect_bytes(f, &b, -PS_ERR_FORMAT, "more strings");
    b = header(3, 0, 1); /* arrays in arrays could nest without end */
    writer_put_text(&b, "key");
    writer_put_u32(&b, 9);
    for (int depth = 0; depth < 1000; depth++) {
        writer_put_u32(&b, 9);
        writer_put_u64(&b, 1);
    }
    expect_bytes(f, &b, -PS_ERR_FORMAT, "nested deeper");
    b = header(3, 0, 1); /* an array of 2^60 arrays */
    writer_put_text(&b, "key");
    writer_put_u32(&b, 9);
    writer_put_u32(&b, 9);
    writer_put_u64(&b, 1ull << 60);
    expect_bytes(f, &b, -PS_ERR_FORMAT, "more arrays");
    b = header(3, 0, 1);
    writer_put_text(&b, "key");
    writer_put_u32(&b, 77);
    expect_bytes(f, &b, -PS_ERR_FORMAT, "kind");
    b = header(1, 0, 0);
    expect_bytes(f, &b, -PS_ERR_UNSUPPORTED, "version 1");
    b = header(0x03000000, 0, 0); /* big endian */
    expect_bytes(f, &b, -PS_ERR_UNSUPPORTED, "little endian");
    b = header(3, 0, 0);
    expect_bytes(f, &b, -PS_ERR_FORMAT, "no tensors");
    b = header(3, 0, 2);
    for (int i = 0; i < 2; i++) {
        writer_put_text(&b, "same");
        writer_put_u32(&b, 4);
        writer_put_u32(&b, 1);
    }
    expect_bytes(f, &b, -PS_ERR_FORMAT, "twice");
}

struct info {
    const char *name;
    uint32_t dim_count;
    uint64_t dims[5];
    uint32_t type;
    uint64_t offset;
};

static void put_info(struct writer_bytes *b, const struct info *t)
{
    writer_put_text(b, t->name);
    writer_put_u32(b, t->dim_count);
    for (uint32_t i = 0; i < t->dim_count; i++)
        writer_put_u64(b, t->dims[i]);
    writer_put_u32(b, t->type);
    writer_put_u64(b, t->offset);
}

static void test_gguf_tensors(void **state)
{
    static const struct {
        struct info tensors[2];
        int code;
        const char *word;
    } cases[] = {
        {{{"a", 1, {8}, 0, 0}, {"b", 1, {8}, 0, 0}}, -PS_ERR_FORMAT, "overlaps"},
        {{{"a", 1, {16}, 0, 0}, {"b", 1, {8}, 0, 32}}, -PS_ERR_FORMAT, "overlaps"},
        {{{"a", 1, {8}, 0, 0}, {"a", 1, {8}, 0, 32}}, -PS_ERR_FORMAT, "twice"},
        {{{"a", 1, {8}, 0, 0}, {"b", 1, {8}, 0, 33}}, -PS_ERR_FORMAT, "alignment"},
        {{{"a", 1, {8}, 0, 0}, {"b", 1, {8}, 0, 1 << 20}}, -PS_ERR_TRUNCATED, "beyond"},
        {{{"a", 1, {8}, 0, 0}, {"b", 1, {8}, 0, -32ull}}, -PS_ERR_TRUNCATED, "beyond"},
        {{{"a", 1, {8}, 0, 0}, {"b", 1, {1 << 20}, 0, 32}}, -PS_ERR_TRUNCATED, "beyond"},
        {{{"a", 1, {8}, 0, 0}, {"b", 2, {1ull << 40, 1ull << 40}, 0, 32}},
         -PS_ERR_FORMAT,
         "absurd"},
        {{{"a", 1, {8}, 0, 0}, {"b", 1, {1ull << 63}, 0, 32}}, -PS_ERR_FORMAT, "absurd"},
        {{{"a", 1, {8}, 0, 0}, {"b", 1, {0}, 0, 32}}, -PS_ERR_FORMAT, "empty"},
        {{{"a", 1, {8}, 0, 0}, {"b", 0, {0}, 0, 32}}, -PS_ERR_FORMAT, "dimensions"},
        {{{"a", 1, {8}, 0, 0}, {"b", 5, {1, 1, 1, 1, 1}, 0, 32}}, -PS_ERR_FORMAT, "dimensions"},
        {{{"a", 1, {8}, 0, 0}, {"b", 1, {8}, 99, 32}}, -PS_ERR_UNSUPPORTED, "type number 99"},
        {{{"a", 1, {8}, 0, 0}, {"b", 1, {33}, 8, 32}}, -PS_ERR_FORMAT, "Q8_0"},
        {{{"a", 1, {8}, 0, 0}, {"", 1, {8}, 0, 32}}, -PS_ERR_FORMAT, "name"},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct writer_bytes b = header(3, 2, 0);

        put_info(&b, &cases[i].tensors[0]);
        put_info(&b, &cases[i].tensors[1]);
        expect_bytes(f, &b, cases[i].code, cases[i].word);
    }
    for (uint32_t alignment = 0; alignment < 100; alignment += 33) {
        struct writer_bytes b = header(3, 1, 1);
        const struct info t = {"a", 1, {8}, 0, 0};

        writer_put_text(&b, "general.alignment");
        writer_put_u32(&b, 4);
        writer_put_u32(&b, alignment);
        put_info(&b, &t);
        expect_bytes(f, &b, -PS_ERR_FORMAT, "alignment");
    }
}

static void test_gguf_split(void **state)
{
    struct fixture *f = *state;
    struct writer_bytes b;

    tiny_gguf(&f->m, &f->w);
    writer_key_u16(&f->w, "split.no", 0);
    writer_key_u16(&f->w, "split.count", 2);
    b = writer_gguf(&f->w, 0, f->w.tensor_count);
    expect(put_file(f, "x-00001-of-00002.gguf", b.data, b.bytes), -ENOENT, "part 2 of 2 is missing",
           "x-00002-of-00002.gguf");
    expect(put_file(f, "renamed.gguf", b.data, b.bytes), -PS_ERR_FORMAT, "-00001-of-00002.gguf",
           NULL);
    put_file(f, "x-00002-of-00002.gguf", b.data, b.bytes);
    expect(put_file(f, "x-00001-of-00002.gguf", b.data, b.bytes), -PS_ERR_FORMAT, "part 1 of 2",
           NULL);
    free(b.data);
    writer_fini(&f->w);

    tiny_gguf(&f->m, &f->w);
    writer_key_u16(&f->w, "split.no", 1);
    writer_key_u16(&f->w, "split.count", 2);
    expect(put_gguf(f), -PS_ERR_FORMAT, "name the first part", NULL);
    writer_fini(&f->w);

    tiny_gguf(&f->m, &f->w);
    writer_key_u16(&f->w, "split.no", 0);
    writer_key_u16(&f->w, "split.count", 1);
    writer_key_u32(&f->w, "split.tensors.count", 3);
    expect(put_gguf(f), -PS_ERR_FORMAT, "should hold 3 tensors", NULL);
}

/* ---- models, from either format ------------------------------------------------------------ */

static void test_missing_tensors(void **state)
{
    struct fixture *f = *state;
    uint32_t count;

    tiny_gguf(&f->m, &f->w);
    count = f->w.tensor_count;
    writer_fini(&f->w);
    for (uint32_t i = 0; i < count; i++) {
        char name[96];

        tiny_gguf(&f->m, &f->w);
        snprintf(name, sizeof(name), "%s", f->w.tensors[i].name);
        writer_remove(&f->w, name);
        if (strcmp(name, "output.weight")) /* without it, the head is tied */
            expect(put_gguf(f), -PS_ERR_FORMAT, name, "missing");
        writer_fini(&f->w);
    }
}

/* Every tensor with one row less than it should have. */
static void test_wrong_shapes(void **state)
{
    struct fixture *f = *state;
    uint32_t count;

    tiny_gguf(&f->m, &f->w);
    count = f->w.tensor_count;
    writer_fini(&f->w);
    for (uint32_t i = 0; i < count; i++) {
        struct writer_tensor *t;

        tiny_gguf(&f->m, &f->w);
        t = &f->w.tensors[i];
        /* The rows of the vocabulary are what the embedding says, so there the head is wrong. */
        const char *name = strcmp(t->name, "token_embd.weight") ? t->name : "output.weight";
        const char *wanted = strstr(name, "shexp") ? "shexp" : name;
        t->bytes -= t->bytes / t->dims[0];
        t->dims[0]--;
        expect(put_gguf(f), -PS_ERR_FORMAT, wanted, "the shape [");
        writer_fini(&f->w);
    }
}

static void test_unknown(void **state)
{
    struct fixture *f = *state;
    const float zeroes[64] = {0};
    const uint64_t dims[] = {64};

    writer_init(&f->w);
    writer_key_text(&f->w, "general.architecture", "mamba");
    writer_add(&f->w, "x", PS_TYPE_F32, zeroes, 1, dims);
    expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "\"mamba\"", "qwen35moe, qwen3moe");
    writer_fini(&f->w);

    /* A bias would be left out silently, and the model would say something else. */
    tiny_gguf(&f->m, &f->w);
    writer_add(&f->w, "blk.3.attn_q.bias", PS_TYPE_F32, zeroes, 1, dims);
    expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "blk.3.attn_q.bias", NULL);
    writer_fini(&f->w);

    f->m.type = PS_TYPE_F32;
    tiny_gguf(&f->m, &f->w);
    writer_find(&f->w, "blk.1.ffn_down_shexp.weight")->type = 26; /* I32 */
    expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "blk.1.ffn_down_shexp.weight", "I32");
}

/* A type that is known but not computed with is named with its tensor. */
static void test_types(void **state)
{
    struct fixture *f = *state;
    struct writer_tensor *t;

    f->m.width = 256;
    tiny_gguf(&f->m, &f->w);
    t = writer_find(&f->w, "blk.3.ffn_down_exps.weight");
    t->type = PS_TYPE_IQ1_S;
    t->bytes = f->m.experts * f->m.hidden * ps_row_bytes(PS_TYPE_IQ1_S, 256);
    if (ps_type_info(PS_TYPE_IQ1_S)->has_kernels)
        fail_msg("this test needs a type that is not computed with");
    expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "blk.3.ffn_down_exps.weight", "IQ1_S");
}

static void test_keys(void **state)
{
    static const struct {
        const char *key;
        uint32_t value;
        int code;
        const char *word;
    } cases[] = {
        {"qwen35moe.attention.sliding_window", 512, -PS_ERR_UNSUPPORTED, "sliding_window"},
        {"qwen35moe.expert_gating_func", 2, -PS_ERR_UNSUPPORTED, "expert_gating_func"},
        {"general.name", 3, -PS_ERR_FORMAT, "general.name"},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tiny_gguf(&f->m, &f->w);
        if (!strcmp(cases[i].key, "general.name")) { /* under its own key it would be twice there */
            writer_fini(&f->w);
            writer_key_text(&f->w, "general.architecture", "qwen35moe");
            const float zeroes[4] = {0};
            writer_add(&f->w, "token_embd.weight", PS_TYPE_F32, zeroes, 1, (uint64_t[]){4});
        }
        writer_key_u32(&f->w, cases[i].key, cases[i].value);
        expect(put_gguf(f), cases[i].code, cases[i].word, NULL);
        writer_fini(&f->w);
    }
    tiny_gguf(&f->m, &f->w);
    writer_key_text(&f->w, "qwen35moe.rope.scaling.type", "yarn");
    expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "rope.scaling.type", NULL);
    writer_fini(&f->w);
    f->m.implicit_head_dim = true; /* keys of hidden / 2 = 32, values of 16 */
    f->m.heads = 2;
    tiny_gguf(&f->m, &f->w);
    expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "attention.value_length", NULL);
}

static void test_quant_words(void **state)
{
    static const char *const bad[] = {"",
                                      "q4_0",
                                      "experts=",
                                      "experts=q9",
                                      "experts=q4_K",
                                      "experts=q4_0,",
                                      ",rest=q8_0",
                                      "rest=f32,rest=f16",
                                      "experts=q4_0 rest=q8_0",
                                      "norms=q4_0",
                                      "experts=q4_0,experts=q4_0"};
    struct fixture *f = *state;
    const char *path = tiny_write_gguf(&f->m, f->dir);

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        expect_with(path, bad[i], -PS_ERR_ARGUMENT, "not understood", NULL);
    f->m.width = 80; /* no multiple of 32 */
    f->m.merged = true;
    expect_with(tiny_write_gguf(&f->m, f->dir), "experts=q4_0", -PS_ERR_UNSUPPORTED,
                "blk.0.ffn_down_exps.weight", "80");
}

/* ---- safetensors ------------------------------------------------------------ */

static const char *put_header(struct fixture *f, const char *json, size_t data_bytes)
{
    struct writer_bytes b = {0};
    const char *path;

    writer_put_u64(&b, strlen(json));
    writer_put(&b, json, strlen(json));
    for (size_t i = 0; i < data_bytes; i++)
        writer_put(&b, "", 1);
    path = put_file(f, "bad.safetensors", b.data, b.bytes);
    free(b.data);
    return path;
}

static void test_safetensors_header(void **state)
{
#define T(DTYPE, SHAPE, BEGIN, END)                                                                \
    "{\"dtype\":\"" DTYPE "\",\"shape\":" SHAPE ",\"data_offsets\":[" #BEGIN "," #END "]}"
    static const struct {
        const char *json;
        size_t data_bytes;
        int code;
        const char *word;
    } cases[] = {
        {"", 8, -PS_ERR_FORMAT, "not a JSON object"},
        {"[]", 8, -PS_ERR_FORMAT, "not a JSON object"},
        {"{\"a\":", 8, -PS_ERR_FORMAT, "not a JSON object"},
        {"{}", 0, -PS_ERR_FORMAT, "no tensors"},
        {"{\"a\":1}", 8, -PS_ERR_FORMAT, "\"a\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, -PS_ERR_FORMAT, "data_offsets"},
        {"{\"a\":" T("F32", "[2]", 0, 8) "}", 7, -PS_ERR_TRUNCATED, "beyond"},
        {"{\"a\":" T("F32", "[2]", 0, 8) "}", 9, -PS_ERR_FORMAT, "behind the last"},
        {"{\"a\":" T("F32", "[2]", 1, 9) "}", 9, -PS_ERR_FORMAT, "hole"},
        {"{\"a\":" T("F32", "[2]", 8, 0) "}", 8, -PS_ERR_FORMAT, "before it begins"},
        {"{\"a\":" T("F32", "[3]", 0, 8) "}", 8, -PS_ERR_FORMAT, "other bytes"},
        {"{\"a\":" T("F32", "[-2]", 0, 8) "}", 8, -PS_ERR_FORMAT, "dimension"},
        {"{\"a\":" T("F32", "[2.5]", 0, 8) "}", 8, -PS_ERR_FORMAT, "dimension"},
        {"{\"a\":" T("F32", "[2,2,2,2,2,2,2,2,2]", 0, 8) "}", 8, -PS_ERR_FORMAT, "dimensions"},
        {"{\"a\":" T("F32", "[4611686018427387904,4]", 0, 8) "}", 8, -PS_ERR_FORMAT, "absurd"},
        {"{\"a\":" T("F32", "[2]", 0, 8) ",\"b\":" T("F32", "[2]", 4, 12) "}", 12, -PS_ERR_FORMAT,
         "overlaps"},
        {"{\"a\":" T("F32", "[2]", 0, 8) ",\"a\":" T("F32", "[2]", 8, 16) "}", 16, -PS_ERR_FORMAT,
         "duplicate"},
        {"{\"\":" T("F32", "[2]", 0, 8) "}", 8, -PS_ERR_FORMAT, "name"},
        {"{\"a\":" T("F32", "[2]", 0, 99999999999999999999) "}", 8, -PS_ERR_FORMAT, "integer"},
    };
#undef T
    struct fixture *f = *state;
    const uint64_t lengths[] = {9, 1u << 20, 1ull << 40, UINT64_MAX};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        expect(put_header(f, cases[i].json, cases[i].data_bytes), cases[i].code, cases[i].word,
               NULL);
    for (size_t i = 0; i < 4; i++) {
        uint8_t file[16] = {0};

        memcpy(file, &lengths[i], sizeof(lengths[i]));
        expect(put_file(f, "bad.safetensors", file, sizeof(file)),
               i < 2 ? -PS_ERR_TRUNCATED : -PS_ERR_FORMAT, i < 2 ? "cut short" : "absurd", NULL);
    }
    expect(put_file(f, "bad.safetensors", "1234567", 7), -PS_ERR_TRUNCATED, "cut short", NULL);
}

static void write_hf(struct fixture *f)
{
    char *config = tiny_config(&f->m);
    struct writer_bytes b = writer_safetensors(&f->w, 0, f->w.tensor_count);

    put_file(f, "hf/config.json", config, strlen(config));
    put_file(f, "hf/model.safetensors", b.data, b.bytes);
    free(b.data);
    free(config);
}

static const char *hf_dir(struct fixture *f)
{
    static char path[600];

    snprintf(path, sizeof(path), "%s/hf", f->dir);
    return path;
}

static void test_safetensors_truncated(void **state)
{
    struct fixture *f = *state;
    struct writer_bytes b;

    tiny_safetensors(&f->m, &f->w);
    b = writer_safetensors(&f->w, 0, f->w.tensor_count);
    for (size_t len = 0; len < b.bytes; len += len < 2000 ? 1 : b.bytes / 97) {
        struct ps_source *source = NULL;
        struct ps_error err = {0};
        const char *path = put_file(f, "cut.safetensors", b.data, len);

        assert_int_equal(ps_source_open(&source, path, &err), -PS_ERR_TRUNCATED);
        assert_true(err.text[0]);
        ps_source_close(&source);
    }
    free(b.data);
}

static void test_safetensors_model(void **state)
{
    struct fixture *f = *state;
    const float zeroes[64] = {0};
    const uint64_t dims[] = {64};

    /* A dtype that is not computed with matters only where it is needed. */
    tiny_safetensors(&f->m, &f->w);
    writer_remove(&f->w, "model.layers.2.mlp.experts.1.up_proj.weight");
    write_hf(f);
    expect(hf_dir(f), -PS_ERR_FORMAT, "model.layers.2.mlp.experts.1.up_proj.weight", "missing");
    writer_fini(&f->w);

    tiny_safetensors(&f->m, &f->w);
    writer_add(&f->w, "model.layers.3.self_attn.q_proj.bias", PS_TYPE_F32, zeroes, 1, dims);
    write_hf(f);
    expect(hf_dir(f), -PS_ERR_UNSUPPORTED, "model.layers.3.self_attn.q_proj.bias", NULL);
    writer_fini(&f->w);

    tiny_safetensors(&f->m, &f->w);
    struct writer_bytes b = writer_safetensors(&f->w, 0, f->w.tensor_count);
    char *at = memmem(b.data, b.bytes, "self_attn.k_proj.weight\":{\"dtype\":\"BF16\"", 40);
    assert_non_null(at);
    memcpy(strstr(at, "BF16"), "I16 ", 4);
    memcpy(strstr(at, "I16 \""), "I16\" ", 5);
    put_file(f, "hf/model.safetensors", b.data, b.bytes);
    free(b.data);
    expect(hf_dir(f), -PS_ERR_UNSUPPORTED, "self_attn.k_proj.weight", "I16");
}

static void test_index(void **state)
{
    static const struct {
        const char *index;
        int code;
        const char *word;
    } cases[] = {
        {"[]", -PS_ERR_FORMAT, "JSON object"},
        {"{}", -PS_ERR_FORMAT, "weight_map"},
        {"{\"weight_map\":{}}", -PS_ERR_FORMAT, "weight_map"},
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", -ENOENT, "gone.safetensors"},
        {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", -PS_ERR_FORMAT, "file name"},
        {"{\"weight_map\":{\"a\":3}}", -PS_ERR_FORMAT, "file name"},
        {"{\"weight_map\":{\"a\":\"model.safetensors\"}}", -PS_ERR_FORMAT, "tensor a is not in"},
    };
    struct fixture *f = *state;

    tiny_safetensors(&f->m, &f->w);
    write_hf(f);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put_file(f, "hf/model.safetensors.index.json", cases[i].index, strlen(cases[i].index));
        expect(hf_dir(f), cases[i].code, cases[i].word, NULL);
    }
}

/* The same tensors in two shards. */
static void test_duplicate_shards(void **state)
{
    struct fixture *f = *state;
    struct writer_bytes b;

    tiny_safetensors(&f->m, &f->w);
    b = writer_safetensors(&f->w, 0, f->w.tensor_count);
    put_file(f, "hf/a.safetensors", b.data, b.bytes);
    put_file(f, "hf/b.safetensors", b.data, b.bytes);
    free(b.data);
    expect(hf_dir(f), -PS_ERR_FORMAT, "twice", "b.safetensors");
}

static void test_config_json(void **state)
{
    static const struct {
        const char *from, *to;
        int code;
        const char *word;
    } cases[] = {
        {"{\"arch", "x{\"arch", -PS_ERR_FORMAT, "JSON"},
        {"\"Qwen3_5MoeForConditionalGeneration\"],\"model_type\":\"qwen3_5_moe\"",
         "\"GptOssForCausalLM\"],\"model_type\":\"gpt_oss\"", -PS_ERR_UNSUPPORTED, "gpt_oss"},
        {"\"hidden_size\":64,", "", -PS_ERR_FORMAT, "hidden_size"},
        {"\"hidden_size\":64", "\"hidden_size\":\"64\"", -PS_ERR_FORMAT, "hidden_size"},
        {"\"hidden_size\":64", "\"hidden_size\":128", -PS_ERR_FORMAT, "the shape ["},
        {"\"num_hidden_layers\":4", "\"num_hidden_layers\":100000", -PS_ERR_FORMAT,
         "hidden_layers"},
        {"\"num_hidden_layers\":4", "\"num_hidden_layers\":5", -PS_ERR_FORMAT, "layers.4."},
        {"\"num_hidden_layers\":4", "\"num_hidden_layers\":3", -PS_ERR_UNSUPPORTED, "layers.3."},
        {"\"num_experts\":4", "\"num_experts\":5", -PS_ERR_FORMAT, "the shape ["},
        {"\"num_experts_per_tok\":2", "\"num_experts_per_tok\":9", -PS_ERR_FORMAT, "experts"},
        {"\"silu\"", "\"gelu\"", -PS_ERR_UNSUPPORTED, "gelu"},
        {"\"attention_bias\":false", "\"attention_bias\":true", -PS_ERR_UNSUPPORTED,
         "attention_bias"},
        {"\"rope_theta\":1000000.0", "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}",
         -PS_ERR_UNSUPPORTED, "yarn"},
        {"\"rope_theta\":1000000.0", "\"rope_theta\":\"big\"", -PS_ERR_FORMAT, "rope_theta"},
        {"\"rope_theta\":1000000.0", "\"rope_scaling\":5", -PS_ERR_FORMAT, "rope_scaling"},
        {"\"rope_theta\":1000000.0", "\"rope_parameters\":[]", -PS_ERR_FORMAT, "rope_parameters"},
        {"\"rope_theta\":1000000.0",
         "\"rope_parameters\":{\"rope_theta\":1e6},\"rope_scaling\":{\"type\":\"linear\"}",
         -PS_ERR_UNSUPPORTED, "linear"},
        {"\"rope_theta\":1000000.0", "\"full_attention_interval\":0", -PS_ERR_FORMAT, "interval"},
        {"\"rope_theta\":1000000.0", "\"layer_types\":[\"full_attention\"]", -PS_ERR_FORMAT,
         "layer_types"},
        {"\"rope_theta\":1000000.0", "\"layer_types\":[\"a\",\"b\",\"c\",\"d\"]",
         -PS_ERR_UNSUPPORTED, "\"a\""},
        {"\"rope_theta\":1000000.0", "\"use_sliding_window\":true", -PS_ERR_UNSUPPORTED,
         "use_sliding_window"},
        {"\"rope_theta\":1000000.0", "\"quantization_config\":{\"quant_method\":\"gptq\"}",
         -PS_ERR_UNSUPPORTED, "gptq"},
        {"\"rope_theta\":1000000.0", "\"partial_rotary_factor\":7", -PS_ERR_FORMAT, "rotary"},
        {"\"linear_num_value_heads\":4", "\"linear_num_value_heads\":3", -PS_ERR_FORMAT,
         "delta_v_heads"},
    };
    struct fixture *f = *state;
    char *good;

    tiny_safetensors(&f->m, &f->w);
    write_hf(f);
    good = tiny_config(&f->m);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *at = strstr(good, cases[i].from);
        char *bad = NULL;
        int n;

        assert_non_null(at);
        n = asprintf(&bad, "%.*s%s%s", (int)(at - good), good, cases[i].to,
                     at + strlen(cases[i].from));
        put_file(f, "hf/config.json", bad, (size_t)n);
        expect(hf_dir(f), cases[i].code, cases[i].word, NULL);
        free(bad);
    }
    put_file(f, "hf/config.json", good, strlen(good));
    put_file(f, "hf/generation_config.json", "{\"do_sample\":true,\"top_p\":7}", 28);
    expect(hf_dir(f), -PS_ERR_FORMAT, "generation_config.json", NULL);
    put_file(f, "hf/generation_config.json", "{\"min_p\":\"low\"}", 15);
    expect(hf_dir(f), -PS_ERR_FORMAT, "\"min_p\" in generation_config.json", NULL);
    put_file(f, "hf/generation_config.json", "{}", 2);
    put_file(f, "hf/tokenizer.json", "{\"model\"", 8);
    expect(hf_dir(f), -PS_ERR_FORMAT, "", NULL);
    free(good);
}

static void test_no_source(void **state)
{
    struct fixture *f = *state;

    expect("/nonexistent/model.gguf", -ENOENT, "cannot be opened", NULL);
    expect(f->dir, -PS_ERR_FORMAT, "no .safetensors files", NULL);
    expect(put_file(f, "notes.txt", "hello", 5), -PS_ERR_FORMAT, "neither a GGUF file", NULL);
    expect(put_file(f, "empty.gguf", "", 0), -PS_ERR_FORMAT, "neither a GGUF file", NULL);
    tiny_safetensors(&f->m, &f->w);
    write_hf(f);
    assert_int_equal(unlink(put_file(f, "hf/config.json", "", 0)), 0);
    expect(hf_dir(f), -ENOENT, "config.json", NULL);
}

/* The file shrinks after its header was read: an error when its data is asked for, not a crash. */
static void test_shrinking(void **state)
{
    struct fixture *f = *state;
    const char *path = tiny_write_gguf(&f->m, f->dir);
    struct ps_model_layout_options options = {.source = path};
    struct ps_import *import = NULL;
    struct ps_error err = {0};
    uint8_t *buf = malloc(1 << 20);

    assert_int_equal(ps_import_open(&import, &options, 1, &err), 0);
    assert_int_equal(truncate(path, 4096), 0);
    assert_int_equal(ps_import_fill(import, 0, import->object_count - 1, 0,
                                    import->objects[import->object_count - 1].slice_count, buf,
                                    &err),
                     -PS_ERR_TRUNCATED);
    assert_non_null(strstr(err.text, "cut short"));
    free(buf);
    ps_import_close(&import);
}

/* A pipe in a file's place is refused; nothing waits for somebody to write into it. */
static void test_pipes(void **state)
{
    static const char *const names[] = {"tokenizer.json", "generation_config.json", "config.json",
                                        "model.safetensors.index.json", "model.safetensors"};
    struct fixture *f = *state;

    tiny_safetensors(&f->m, &f->w);
    write_hf(f);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char name[64];

        snprintf(name, sizeof(name), "hf/%s", names[i]);
        const char *path = put_file(f, name, "", 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkfifo(path, 0600), 0);
        expect(hf_dir(f), -PS_ERR_FORMAT, names[i], NULL);
        assert_int_equal(unlink(path), 0);
    }
    const char *pipe_path = put_file(f, "pipe.gguf", "", 0);
    assert_int_equal(unlink(pipe_path), 0);
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    expect(pipe_path, -PS_ERR_FORMAT, "neither a file nor a directory", NULL);
}

/* Somebody writes to the file after it was opened: what is read then may fit to nothing. */
static void test_changing(void **state)
{
    struct fixture *f = *state;
    const char *path = tiny_write_gguf(&f->m, f->dir);
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}};
    struct ps_model_layout_options options = {.source = path};
    struct ps_import *import = NULL;
    struct ps_error err = {0};
    uint8_t *buf = malloc(1 << 20);

    assert_int_equal(ps_import_open(&import, &options, 1, &err), 0);
    uint32_t last = import->object_count - 1, count = import->objects[last].slice_count;
    assert_int_equal(ps_import_fill(import, 0, last, 0, count, buf, &err), 0);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_int_equal(ps_import_fill(import, 0, last, 0, count, buf, &err), -PS_ERR_SOURCE_CHANGED);
    assert_non_null(strstr(err.text, "was written to"));
    free(buf);
    ps_import_close(&import);
}

/* The source as a member, consent or not, by its name, through a link and as a second name. */
static void test_source_as_member(void **state)
{
    struct fixture *f = *state;
    const char *path = tiny_write_gguf(&f->m, f->dir);
    char *link_path = NULL, *name_path = NULL, *identity = NULL;
    struct stat before, after;

    assert_true(asprintf(&link_path, "%s/link", f->dir) > 0);
    assert_true(asprintf(&name_path, "%s/name", f->dir) > 0);
    assert_int_equal(symlink(path, link_path), 0);
    assert_int_equal(link(path, name_path), 0);
    assert_int_equal(stat(path, &before), 0);
    const char *members[] = {path, link_path, name_path};
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        const char *base = i == 2 ? "name" : strrchr(path, '/') + 1;
        assert_true(asprintf(&identity, "file:%s:%lld", base, (long long)before.st_size) > 0);
        struct ps_model_layout_options options = {.source = path,
                                                  .members = &members[i],
                                                  .member_count = 1,
                                                  .destroy = (const char *const *)&identity,
                                                  .destroy_count = 1};
        struct ps_error err = {0};

        assert_int_equal(ps_model_layout(&options, NULL, &err), -PS_ERR_ARGUMENT);
        assert_non_null(strstr(err.text, "the source itself"));
        assert_int_equal(stat(path, &after), 0);
        assert_int_equal(after.st_size, before.st_size);
        free(identity);
    }
    free(link_path);
    free(name_path);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_gguf_truncated),
        TEST(test_gguf_counts),
        TEST(test_gguf_tensors),
        TEST(test_gguf_split),
        TEST(test_missing_tensors),
        TEST(test_wrong_shapes),
        TEST(test_unknown),
        TEST(test_types),
        TEST(test_keys),
        TEST(test_quant_words),
        TEST(test_safetensors_header),
        TEST(test_safetensors_truncated),
        TEST(test_safetensors_model),
        TEST(test_index),
        TEST(test_duplicate_shards),
        TEST(test_config_json),
        TEST(test_no_source),
        TEST(test_shrinking),
        TEST(test_pipes),
        TEST(test_changing),
        TEST(test_source_as_member),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
