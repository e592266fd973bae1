/* Damaged, hostile and unsupported GGUF files: each must be refused with one sentence that names
 * what. */
#include "hostile_source.h"

static const char *put_gguf(struct hostile *f)
{
    struct writer_bytes b = writer_gguf(&f->w, 0, f->w.tensor_count);
    const char *path = hostile_put_file(f, "bad.gguf", b.data, b.bytes);

    free(b.data);
    return path;
}

/* Every length of a small file, and many of a whole model: nothing
 * short of all of it is accepted. */
static void test_gguf_truncated(void **state)
{
    struct hostile *f = *state;
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
        const char *path = hostile_put_file(f, "cut.gguf", b.data, len);
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
        hostile_expect(hostile_put_file(f, "cut.gguf", b.data, len), -PS_ERR_TRUNCATED, "cut short",
                       NULL);
    hostile_expect(hostile_put_file(f, "cut.gguf", b.data, b.bytes - 1), -PS_ERR_TRUNCATED,
                   "cut short", NULL);
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

static void expect_bytes(struct hostile *f, struct writer_bytes *b, int code, const char *word)
{
    static const uint8_t zeroes[256];

    writer_put(b, zeroes, sizeof(zeroes));
    hostile_expect(hostile_put_file(f, "bad.gguf", b->data, b->bytes), code, word, NULL);
    free(b->data);
}

static void test_gguf_counts(void **state)
{
    struct hostile *f = *state;
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
    struct hostile *f = *state;

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
    struct hostile *f = *state;
    struct writer_bytes b;

    tiny_gguf(&f->m, &f->w);
    writer_key_u16(&f->w, "split.no", 0);
    writer_key_u16(&f->w, "split.count", 2);
    b = writer_gguf(&f->w, 0, f->w.tensor_count);
    hostile_expect(hostile_put_file(f, "x-00001-of-00002.gguf", b.data, b.bytes), -ENOENT,
                   "part 2 of 2 is missing", "x-00002-of-00002.gguf");
    hostile_expect(hostile_put_file(f, "renamed.gguf", b.data, b.bytes), -PS_ERR_FORMAT,
                   "-00001-of-00002.gguf", NULL);
    hostile_put_file(f, "x-00002-of-00002.gguf", b.data, b.bytes);
    hostile_expect(hostile_put_file(f, "x-00001-of-00002.gguf", b.data, b.bytes), -PS_ERR_FORMAT,
                   "part 1 of 2", NULL);
    free(b.data);
    writer_fini(&f->w);

    tiny_gguf(&f->m, &f->w);
    writer_key_u16(&f->w, "split.no", 1);
    writer_key_u16(&f->w, "split.count", 2);
    hostile_expect(put_gguf(f), -PS_ERR_FORMAT, "name the first part", NULL);
    writer_fini(&f->w);

    tiny_gguf(&f->m, &f->w);
    writer_key_u16(&f->w, "split.no", 0);
    writer_key_u16(&f->w, "split.count", 1);
    writer_key_u32(&f->w, "split.tensors.count", 3);
    hostile_expect(put_gguf(f), -PS_ERR_FORMAT, "should hold 3 tensors", NULL);
}

/* ---- models, from either format ------------------------------------------------------------ */

static void test_missing_tensors(void **state)
{
    struct hostile *f = *state;
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
            hostile_expect(put_gguf(f), -PS_ERR_FORMAT, name, "missing");
        writer_fini(&f->w);
    }
}

/* Every tensor with one row less than it should have. */
static void test_wrong_shapes(void **state)
{
    struct hostile *f = *state;
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
        hostile_expect(put_gguf(f), -PS_ERR_FORMAT, wanted, "the shape [");
        writer_fini(&f->w);
    }
}

static void test_unknown(void **state)
{
    struct hostile *f = *state;
    const float zeroes[64] = {0};
    const uint64_t dims[] = {64};

    writer_init(&f->w);
    writer_key_text(&f->w, "general.architecture", "mamba");
    writer_add(&f->w, "x", PS_TYPE_F32, zeroes, 1, dims);
    hostile_expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "\"mamba\"",
                   "qwen35moe, qwen3next, qwen3moe, olmoe, llama");
    writer_fini(&f->w);

    /* A bias would be left out silently, and the model would say something else. */
    tiny_gguf(&f->m, &f->w);
    writer_add(&f->w, "blk.3.attn_q.bias", PS_TYPE_F32, zeroes, 1, dims);
    hostile_expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "blk.3.attn_q.bias", NULL);
    writer_fini(&f->w);

    f->m.type = PS_TYPE_F32;
    tiny_gguf(&f->m, &f->w);
    writer_find(&f->w, "blk.1.ffn_down_shexp.weight")->type = 26; /* I32 */
    hostile_expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "blk.1.ffn_down_shexp.weight", "I32");
}

/* A type that is known but not computed with is named with its tensor. */
static void test_types(void **state)
{
    struct hostile *f = *state;
    struct writer_tensor *t;

    f->m.width = 256;
    tiny_gguf(&f->m, &f->w);
    t = writer_find(&f->w, "blk.3.ffn_down_exps.weight");
    t->type = PS_TYPE_TQ1_0;
    t->bytes = f->m.experts * f->m.hidden * ps_row_bytes(PS_TYPE_TQ1_0, 256);
    if (ps_type_info(PS_TYPE_TQ1_0)->has_kernels)
        fail_msg("this test needs a type that is not computed with");
    hostile_expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "blk.3.ffn_down_exps.weight", "TQ1_0");
}

static void test_keys(void **state)
{
    static const struct {
        const char *key;
        uint32_t value;
        int code;
        const char *word;
    } cases[] = {
        {"qwen35moe.attention.sliding_window", 256, -PS_ERR_UNSUPPORTED, "sliding_window"},
        {"qwen35moe.expert_gating_func", 2, -PS_ERR_UNSUPPORTED, "expert_gating_func"},
        {"general.name", 3, -PS_ERR_FORMAT, "general.name"},
    };
    struct hostile *f = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tiny_gguf(&f->m, &f->w);
        if (!strcmp(cases[i].key, "general.name")) { /* under its own key it would be twice there */
            writer_fini(&f->w);
            writer_key_text(&f->w, "general.architecture", "qwen35moe");
            const float zeroes[4] = {0};
            writer_add(&f->w, "token_embd.weight", PS_TYPE_F32, zeroes, 1, (uint64_t[]){4});
        }
        writer_key_u32(&f->w, cases[i].key, cases[i].value);
        hostile_expect(put_gguf(f), cases[i].code, cases[i].word, NULL);
        writer_fini(&f->w);
    }
    tiny_gguf(&f->m, &f->w);
    writer_key_text(&f->w, "qwen35moe.rope.scaling.type", "longrope");
    hostile_expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "rope.scaling.type", "longrope");
    writer_fini(&f->w);
    f->m.implicit_head_dim = true; /* keys of hidden / 2 = 32, values of 16 */
    f->m.heads = 2;
    tiny_gguf(&f->m, &f->w);
    hostile_expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "attention.value_length", NULL);
}

/* The other families, and the layer that predicts. */
static void test_families(void **state)
{
    static const struct {
        enum tiny_kind kind;
        bool old_form;
        const char *missing;
    } cases[] = {
        {TINY_NEXT, false, "blk.0.ssm_ba.weight"},
        {TINY_NEXT, false, "blk.1.attn_gate.weight"},
        {TINY_NEXT, false, "blk.4.nextn.shared_head_norm.weight"},
        {TINY_NEXT, false, "blk.4.ffn_gate_shexp.weight"},
        {TINY_OLMOE, false, "blk.1.attn_q_norm.weight"},
        {TINY_MIXTRAL, false, "blk.1.attn_k.weight"},
        {TINY_MIXTRAL, true, "blk.1.ffn_up.3.weight"},
    };
    struct hostile *f = *state;
    struct writer_tensor *t;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        f->m = tiny_default(cases[i].kind == TINY_NEXT);
        f->m.kind = cases[i].kind;
        f->m.old_form = cases[i].old_form;
        f->m.prediction = cases[i].kind == TINY_NEXT;
        tiny_gguf(&f->m, &f->w);
        writer_remove(&f->w, cases[i].missing);
        hostile_expect(put_gguf(f), -PS_ERR_FORMAT, cases[i].missing, "missing");
        writer_fini(&f->w);
        tiny_gguf(&f->m, &f->w);
        t = writer_find(&f->w, cases[i].missing);
        t->bytes -= t->bytes / t->dims[0];
        t->dims[0]--;
        hostile_expect(put_gguf(f), -PS_ERR_FORMAT, cases[i].missing, "the shape [");
        writer_fini(&f->w);
    }
    writer_init(&f->w);
    writer_key_text(&f->w, "general.architecture", "llama");
    const float zeroes[4] = {0};
    writer_add(&f->w, "token_embd.weight", PS_TYPE_F32, zeroes, 1, (uint64_t[]){4});
    hostile_expect(put_gguf(f), -PS_ERR_UNSUPPORTED, "without experts", NULL);
}

static void expect_key(struct hostile *f, const char *key, float value, int code, const char *word)
{
    tiny_gguf(&f->m, &f->w);
    writer_key_text(&f->w, "llama.rope.scaling.type", "yarn");
    writer_key_f32(&f->w, key, value);
    hostile_expect(put_gguf(f), code, word, NULL);
    writer_fini(&f->w);
}

static void test_rope(void **state)
{
    struct hostile *f = *state;
    const float divisors[8] = {1, 1, 1, -1, 1, 1, 1, 1};

    f->m = tiny_default(false);
    f->m.kind = TINY_MIXTRAL;
    expect_key(f, "llama.rope.scaling.factor", -4, -PS_ERR_FORMAT, "positive");
    expect_key(f, "llama.rope.scaling.alpha", 2, -PS_ERR_UNSUPPORTED, "rope.scaling.alpha");
    expect_key(f, "llama.rope.scaling.yarn_ext_factor", 2, -PS_ERR_UNSUPPORTED, "yarn_ext_factor");
    expect_key(f, "llama.rope.scaling.yarn_beta_fast", -1, -PS_ERR_UNSUPPORTED, "yarn_beta_fast");
    expect_key(f, "llama.rope.scaling.attn_factor", 0, -PS_ERR_FORMAT, "attention factor");
    expect_key(f, "llama.rope.scaling.original_context_length", 0, -PS_ERR_UNSUPPORTED,
               "original_context_length");
    for (uint64_t count = 7; count <= 8; count++) {
        tiny_gguf(&f->m, &f->w);
        writer_add(&f->w, "rope_freqs.weight", PS_TYPE_F32, divisors, 1, &count);
        hostile_expect(put_gguf(f), -PS_ERR_FORMAT, "rope_freqs.weight",
                       count == 7 ? "not of 8 values" : "not positive");
        writer_fini(&f->w);
    }
}

static void test_quant_words(void **state)
{
    static const char *const bad[] = {"",
                                      "q4_0",
                                      "experts=",
                                      "experts=q9",
                                      "experts=q5_K",
                                      "experts=q4_0,",
                                      ",rest=q8_0",
                                      "rest=f32,rest=f16",
                                      "experts=q4_0 rest=q8_0",
                                      "norms=q4_0",
                                      "experts=q4_0,experts=q4_0"};
    struct hostile *f = *state;
    const char *path = tiny_write_gguf(&f->m, f->dir);

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        hostile_expect_with(path, bad[i], -PS_ERR_ARGUMENT, "not understood", NULL);
    f->m.width = 80; /* no multiple of 32 */
    f->m.merged = true;
    hostile_expect_with(tiny_write_gguf(&f->m, f->dir), "experts=q4_0", -PS_ERR_UNSUPPORTED,
                        "blk.0.ffn_down_exps.weight", "80");
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, hostile_set_up, hostile_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_gguf_truncated), TEST(test_gguf_counts),     TEST(test_gguf_tensors),
        TEST(test_gguf_split),     TEST(test_missing_tensors), TEST(test_wrong_shapes),
        TEST(test_unknown),        TEST(test_types),           TEST(test_keys),
        TEST(test_quant_words),    TEST(test_families),        TEST(test_rope),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
