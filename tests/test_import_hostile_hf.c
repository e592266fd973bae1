/*
 * Damaged safetensors and what lies beside them, and sources that are no files, change under the
 * reader's hands, or are a member at the same time: each is refused with one sentence.
 */
#include "hostile_source.h"

static const char *put_header(struct hostile *f, const char *json, size_t data_bytes)
{
    struct writer_bytes b = {0};
    const char *path;

    writer_put_u64(&b, strlen(json));
    writer_put(&b, json, strlen(json));
    for (size_t i = 0; i < data_bytes; i++)
        writer_put(&b, "", 1);
    path = hostile_put_file(f, "bad.safetensors", b.data, b.bytes);
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
    struct hostile *f = *state;
    const uint64_t lengths[] = {9, 1u << 20, 1ull << 40, UINT64_MAX};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        hostile_expect(put_header(f, cases[i].json, cases[i].data_bytes), cases[i].code,
                       cases[i].word, NULL);
    for (size_t i = 0; i < 4; i++) {
        uint8_t file[16] = {0};

        memcpy(file, &lengths[i], sizeof(lengths[i]));
        hostile_expect(hostile_put_file(f, "bad.safetensors", file, sizeof(file)),
                       i < 2 ? -PS_ERR_TRUNCATED : -PS_ERR_FORMAT, i < 2 ? "cut short" : "absurd",
                       NULL);
    }
    hostile_expect(hostile_put_file(f, "bad.safetensors", "1234567", 7), -PS_ERR_TRUNCATED,
                   "cut short", NULL);
}

static void write_hf(struct hostile *f)
{
    char *config = tiny_config(&f->m);
    struct writer_bytes b = writer_safetensors(&f->w, 0, f->w.tensor_count);

    hostile_put_file(f, "hf/config.json", config, strlen(config));
    hostile_put_file(f, "hf/model.safetensors", b.data, b.bytes);
    free(b.data);
    free(config);
}

static const char *hf_dir(struct hostile *f)
{
    static char path[600];

    snprintf(path, sizeof(path), "%s/hf", f->dir);
    return path;
}

static void test_safetensors_truncated(void **state)
{
    struct hostile *f = *state;
    struct writer_bytes b;

    tiny_safetensors(&f->m, &f->w);
    b = writer_safetensors(&f->w, 0, f->w.tensor_count);
    for (size_t len = 0; len < b.bytes; len += len < 2000 ? 1 : b.bytes / 97) {
        struct ps_source *source = NULL;
        struct ps_error err = {0};
        const char *path = hostile_put_file(f, "cut.safetensors", b.data, len);

        assert_int_equal(ps_source_open(&source, path, &err), -PS_ERR_TRUNCATED);
        assert_true(err.text[0]);
        ps_source_close(&source);
    }
    free(b.data);
}

static void test_safetensors_model(void **state)
{
    struct hostile *f = *state;
    const float zeroes[64] = {0};
    const uint64_t dims[] = {64};

    /* A dtype that is not computed with matters only where it is needed. */
    tiny_safetensors(&f->m, &f->w);
    writer_remove(&f->w, "model.layers.2.mlp.experts.1.up_proj.weight");
    write_hf(f);
    hostile_expect(hf_dir(f), -PS_ERR_FORMAT, "model.layers.2.mlp.experts.1.up_proj.weight",
                   "missing");
    writer_fini(&f->w);

    tiny_safetensors(&f->m, &f->w);
    writer_add(&f->w, "model.layers.3.self_attn.q_proj.bias", PS_TYPE_F32, zeroes, 1, dims);
    write_hf(f);
    hostile_expect(hf_dir(f), -PS_ERR_UNSUPPORTED, "model.layers.3.self_attn.q_proj.bias", NULL);
    writer_fini(&f->w);

    tiny_safetensors(&f->m, &f->w);
    struct writer_bytes b = writer_safetensors(&f->w, 0, f->w.tensor_count);
    char *at = memmem(b.data, b.bytes, "self_attn.k_proj.weight\":{\"dtype\":\"BF16\"", 40);
    assert_non_null(at);
    memcpy(strstr(at, "BF16"), "I16 ", 4);
    memcpy(strstr(at, "I16 \""), "I16\" ", 5);
    hostile_put_file(f, "hf/model.safetensors", b.data, b.bytes);
    free(b.data);
    hostile_expect(hf_dir(f), -PS_ERR_UNSUPPORTED, "self_attn.k_proj.weight", "I16");
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
    struct hostile *f = *state;

    tiny_safetensors(&f->m, &f->w);
    write_hf(f);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        hostile_put_file(f, "hf/model.safetensors.index.json", cases[i].index,
                         strlen(cases[i].index));
        hostile_expect(hf_dir(f), cases[i].code, cases[i].word, NULL);
    }
}

/* The same tensors in two shards. */
static void test_duplicate_shards(void **state)
{
    struct hostile *f = *state;
    struct writer_bytes b;

    tiny_safetensors(&f->m, &f->w);
    b = writer_safetensors(&f->w, 0, f->w.tensor_count);
    hostile_put_file(f, "hf/a.safetensors", b.data, b.bytes);
    hostile_put_file(f, "hf/b.safetensors", b.data, b.bytes);
    free(b.data);
    hostile_expect(hf_dir(f), -PS_ERR_FORMAT, "twice", "b.safetensors");
}

/* A part of the good config.json, what it becomes, and what is said of it. */
static const struct {
    const char *from, *to;
    int code;
    const char *word;
} config_cases[] = {
    {"{\"arch", "x{\"arch", -PS_ERR_FORMAT, "JSON"},
    {"\"Qwen3_5MoeForConditionalGeneration\"],\"model_type\":\"qwen3_5_moe\"",
     "\"GptOssForCausalLM\"],\"model_type\":\"gpt_oss\"", -PS_ERR_UNSUPPORTED, "gpt_oss"},
    {"\"hidden_size\":64,", "", -PS_ERR_FORMAT, "hidden_size"},
    {"\"hidden_size\":64", "\"hidden_size\":\"64\"", -PS_ERR_FORMAT, "hidden_size"},
    {"\"hidden_size\":64", "\"hidden_size\":128", -PS_ERR_FORMAT, "the shape ["},
    {"\"num_hidden_layers\":4", "\"num_hidden_layers\":100000", -PS_ERR_FORMAT, "hidden_layers"},
    {"\"num_hidden_layers\":4", "\"num_hidden_layers\":5", -PS_ERR_FORMAT, "layers.4."},
    {"\"num_hidden_layers\":4", "\"num_hidden_layers\":3", -PS_ERR_UNSUPPORTED, "layers.3."},
    {"\"num_experts\":4", "\"num_experts\":5", -PS_ERR_FORMAT, "the shape ["},
    {"\"num_experts_per_tok\":2", "\"num_experts_per_tok\":9", -PS_ERR_FORMAT, "experts"},
    {"\"silu\"", "\"gelu\"", -PS_ERR_UNSUPPORTED, "gelu"},
    {"\"attention_bias\":false", "\"attention_bias\":true", -PS_ERR_UNSUPPORTED, "attention_bias"},
    {"\"rope_theta\":1000000.0", "\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":4}",
     -PS_ERR_UNSUPPORTED, "longrope"},
    {"\"rope_theta\":1000000.0", "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":4}",
     -PS_ERR_UNSUPPORTED, "dynamic"},
    {"\"rope_theta\":1000000.0", "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":-4}",
     -PS_ERR_FORMAT, "factor"},
    {"\"rope_theta\":1000000.0",
     "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"attention_factor\":-2}", -PS_ERR_FORMAT,
     "attention factor"},
    {"\"rope_theta\":1000000.0",
     "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"beta_fast\":\"fast\"}", -PS_ERR_FORMAT,
     "beta_fast"},
    {"\"rope_theta\":1000000.0", "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8}",
     -PS_ERR_FORMAT, "low_freq_factor"},
    {"\"rope_theta\":1000000.0",
     "\"rope_parameters\":{\"rope_type\":\"yarn\",\"original_max_position_embeddings\":0}",
     -PS_ERR_FORMAT, "original_max"},
    {"\"rope_theta\":1000000.0", "\"rope_theta\":-1", -PS_ERR_FORMAT, "rope_theta"},
    {"\"rope_theta\":1000000.0", "\"rope_theta\":\"big\"", -PS_ERR_FORMAT, "rope_theta"},
    {"\"rope_theta\":1000000.0", "\"rope_scaling\":5", -PS_ERR_FORMAT, "rope_scaling"},
    {"\"rope_theta\":1000000.0", "\"rope_parameters\":[]", -PS_ERR_FORMAT, "rope_parameters"},
    {"\"rope_theta\":1000000.0",
     "\"rope_parameters\":{\"rope_theta\":1e6},\"rope_scaling\":{\"type\":\"linear\"}",
     -PS_ERR_FORMAT, "factor"},
    {"\"rope_theta\":1000000.0", "\"full_attention_interval\":0", -PS_ERR_FORMAT, "interval"},
    {"\"rope_theta\":1000000.0", "\"layer_types\":[\"full_attention\"]", -PS_ERR_FORMAT,
     "layer_types"},
    {"\"rope_theta\":1000000.0", "\"layer_types\":[\"a\",\"b\",\"c\",\"d\"]", -PS_ERR_UNSUPPORTED,
     "\"a\""},
    {"\"rope_theta\":1000000.0", "\"use_sliding_window\":true", -PS_ERR_UNSUPPORTED,
     "use_sliding_window"},
    {"\"rope_theta\":1000000.0", "\"quantization_config\":{\"quant_method\":\"gptq\"}",
     -PS_ERR_UNSUPPORTED, "gptq"},
    {"\"rope_theta\":1000000.0", "\"partial_rotary_factor\":7", -PS_ERR_FORMAT, "rotary"},
    {"\"linear_num_value_heads\":4", "\"linear_num_value_heads\":3", -PS_ERR_FORMAT,
     "delta_v_heads"},
};

static void test_config_json(void **state)
{
    struct hostile *f = *state;
    char *good;

    tiny_safetensors(&f->m, &f->w);
    write_hf(f);
    good = tiny_config(&f->m);
    for (size_t i = 0; i < sizeof(config_cases) / sizeof(config_cases[0]); i++) {
        const char *at = strstr(good, config_cases[i].from);
        char *bad = NULL;
        int n;

        assert_non_null(at);
        n = asprintf(&bad, "%.*s%s%s", (int)(at - good), good, config_cases[i].to,
                     at + strlen(config_cases[i].from));
        hostile_put_file(f, "hf/config.json", bad, (size_t)n);
        hostile_expect(hf_dir(f), config_cases[i].code, config_cases[i].word, NULL);
        free(bad);
    }
    hostile_put_file(f, "hf/config.json", good, strlen(good));
    hostile_put_file(f, "hf/generation_config.json", "{\"do_sample\":true,\"top_p\":7}", 28);
    hostile_expect(hf_dir(f), -PS_ERR_FORMAT, "generation_config.json", NULL);
    hostile_put_file(f, "hf/generation_config.json", "{\"min_p\":\"low\"}", 15);
    hostile_expect(hf_dir(f), -PS_ERR_FORMAT, "\"min_p\" in generation_config.json", NULL);
    hostile_put_file(f, "hf/generation_config.json", "{}", 2);
    hostile_put_file(f, "hf/tokenizer.json", "{\"model\"", 8);
    hostile_expect(hf_dir(f), -PS_ERR_FORMAT, "", NULL);
    free(good);
}

/* One edit of the configuration of each of the other families. */
static void test_families(void **state)
{
    static const struct {
        enum tiny_kind kind;
        const char *from, *to;
        int code;
        const char *word;
    } cases[] = {
        {TINY_MIXTRAL, "\"rope_theta\":1000000.0", "\"sliding_window\":128", -PS_ERR_UNSUPPORTED,
         "sliding_window"},
        {TINY_MIXTRAL, "\"num_local_experts\":4,", "", -PS_ERR_FORMAT, "num_local_experts"},
        {TINY_MIXTRAL, "\"rope_theta\":1000000.0",
         "\"layer_types\":[\"sliding_attention\",\"sliding_attention\"]", -PS_ERR_UNSUPPORTED,
         "sliding_attention"},
        {TINY_OLMOE, "\"clip_qkv\":0", "\"clip_qkv\":-3", -PS_ERR_FORMAT, "clip_qkv"},
        {TINY_OLMOE, "\"clip_qkv\":0", "\"clip_qkv\":\"8\"", -PS_ERR_FORMAT, "clip_qkv"},
        {TINY_OLMOE, "\"intermediate_size\":96", "\"intermediate_size\":64", -PS_ERR_FORMAT,
         "the shape ["},
        {TINY_NEXT, "\"mlp_only_layers\":[]", "\"mlp_only_layers\":3", -PS_ERR_FORMAT,
         "mlp_only_layers"},
        {TINY_NEXT, "\"mlp_only_layers\":[]", "\"mlp_only_layers\":[1]", -PS_ERR_FORMAT, "dense"},
        {TINY_NEXT, "\"mlp_only_layers\":[]", "\"decoder_sparse_step\":0", -PS_ERR_FORMAT,
         "decoder_sparse_step"},
        {TINY_NEXT, "\"linear_num_key_heads\":2", "\"linear_num_key_heads\":4", -PS_ERR_FORMAT,
         "the shape ["},
    };
    struct hostile *f = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        f->m = tiny_default(cases[i].kind == TINY_NEXT);
        f->m.kind = cases[i].kind;
        tiny_safetensors(&f->m, &f->w);
        write_hf(f);
        writer_fini(&f->w);
        char *good = tiny_config(&f->m), *bad = NULL, *at = strstr(good, cases[i].from);
        assert_non_null(at);
        int n = asprintf(&bad, "%.*s%s%s", (int)(at - good), good, cases[i].to,
                         at + strlen(cases[i].from));
        hostile_put_file(f, "hf/config.json", bad, (size_t)n);
        hostile_expect(hf_dir(f), cases[i].code, cases[i].word, NULL);
        free(good);
        free(bad);
    }
}

/* A layer that predicts is whole, or it is an error; one with an embedding of its own is left out.
 */
static void test_prediction(void **state)
{
    struct hostile *f = *state;
    const float zeroes[64] = {0};
    const uint64_t dims[] = {64};

    f->m.prediction = true;
    tiny_safetensors(&f->m, &f->w);
    writer_remove(&f->w, "mtp.pre_fc_norm_hidden.weight");
    write_hf(f);
    hostile_expect(hf_dir(f), -PS_ERR_FORMAT, "mtp.pre_fc_norm_hidden.weight", "missing");
    writer_fini(&f->w);

    tiny_safetensors(&f->m, &f->w);
    writer_add(&f->w, "mtp.layers.0.self_attn.q_proj.bias", PS_TYPE_F32, zeroes, 1, dims);
    write_hf(f);
    hostile_expect(hf_dir(f), -PS_ERR_UNSUPPORTED, "mtp.layers.0.self_attn.q_proj.bias", NULL);
    writer_fini(&f->w);

    tiny_safetensors(&f->m, &f->w);
    writer_add(&f->w, "mtp.embed_tokens.weight", PS_TYPE_F32, zeroes, 1, dims);
    write_hf(f);
    struct ps_model_layout_options options = {.source = hf_dir(f)};
    struct ps_import *import = NULL;
    struct ps_error err = {0};
    assert_int_equal(ps_import_open(&import, &options, 1, &err), 0);
    assert_int_equal(import->config.prediction_count, 0);
    assert_non_null(strstr(import->report.skipped_groups, "mtp.* ("));
    ps_import_close(&import);
}

static void test_no_source(void **state)
{
    struct hostile *f = *state;

    hostile_expect("/nonexistent/model.gguf", -ENOENT, "cannot be opened", NULL);
    hostile_expect(f->dir, -PS_ERR_FORMAT, "no .safetensors files", NULL);
    hostile_expect(hostile_put_file(f, "notes.txt", "hello", 5), -PS_ERR_FORMAT,
                   "neither a GGUF file", NULL);
    hostile_expect(hostile_put_file(f, "empty.gguf", "", 0), -PS_ERR_FORMAT, "neither a GGUF file",
                   NULL);
    tiny_safetensors(&f->m, &f->w);
    write_hf(f);
    assert_int_equal(unlink(hostile_put_file(f, "hf/config.json", "", 0)), 0);
    hostile_expect(hf_dir(f), -ENOENT, "config.json", NULL);
}

/* The file shrinks after its header was read: an error when its data is asked for, not a crash. */
static void test_shrinking(void **state)
{
    struct hostile *f = *state;
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
    struct hostile *f = *state;

    tiny_safetensors(&f->m, &f->w);
    write_hf(f);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char name[64];

        snprintf(name, sizeof(name), "hf/%s", names[i]);
        const char *path = hostile_put_file(f, name, "", 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkfifo(path, 0600), 0);
        hostile_expect(hf_dir(f), -PS_ERR_FORMAT, names[i], NULL);
        assert_int_equal(unlink(path), 0);
    }
    const char *pipe_path = hostile_put_file(f, "pipe.gguf", "", 0);
    assert_int_equal(unlink(pipe_path), 0);
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    hostile_expect(pipe_path, -PS_ERR_FORMAT, "neither a file nor a directory", NULL);
}

/* Somebody writes to the file after it was opened: what is read then may fit to nothing. */
static void test_changing(void **state)
{
    struct hostile *f = *state;
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
    struct hostile *f = *state;
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

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, hostile_set_up, hostile_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_safetensors_header),
        TEST(test_safetensors_truncated),
        TEST(test_safetensors_model),
        TEST(test_index),
        TEST(test_duplicate_shards),
        TEST(test_config_json),
        TEST(test_no_source),
        TEST(test_families),
        TEST(test_prediction),
        TEST(test_shrinking),
        TEST(test_pipes),
        TEST(test_changing),
        TEST(test_source_as_member),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
