/* The tokenizer against the reference implementation's output, from both sources, both ways. */
#include "core/util.h"
#include "model/import.h"
#include "model/model.h"
#include "tokenizer_fixture.h"

#define DATA PS_TEST_DATA_DIR "/tokenizer/"

struct opened {
    void *blob;
    size_t blob_bytes;
    struct ps_tokenizer *tokenizer;
};

static void open_blob(struct opened *o)
{
    struct ps_error err = {0};
    if (ps_tokenizer_open(&o->tokenizer, o->blob, o->blob_bytes, &err) < 0)
        fail_msg("%s", err.text);
}

static struct opened open_json(void)
{
    struct opened o = {0};
    struct ps_error err = {0};
    size_t bytes;
    char *text = fixture_read(DATA "tokenizer.json", &bytes);
    if (ps_tokenizer_build_json(text, bytes, &o.blob, &o.blob_bytes, &err) < 0)
        fail_msg("%s", err.text);
    free(text);
    open_blob(&o);
    return o;
}

/* What a GGUF file made from the same tokenizer.json holds (spec B.1). */
static struct opened open_gguf(void)
{
    struct opened o = {0};
    struct ps_error err = {0};
    static struct ps_gguf_string tokens[4096], merges[4096];
    static int32_t types[4096];
    json_t *root = fixture_json(DATA "tokenizer.json");
    json_t *model = json_object_get(root, "model"), *value,
           *added = json_object_get(root, "added_tokens");
    const char *key;
    size_t i, count = 0;
    json_object_foreach(json_object_get(model, "vocab"), key, value)
    {
        size_t id = (size_t)json_integer_value(value);
        tokens[id] = (struct ps_gguf_string){key, strlen(key)};
        types[id] = 1;
        count = id + 1 > count ? id + 1 : count;
    }
    json_array_foreach(added, i, value)
    {
        size_t id = (size_t)json_integer_value(json_object_get(value, "id"));
        const char *content = json_string_value(json_object_get(value, "content"));
        tokens[id] = (struct ps_gguf_string){content, strlen(content)};
        types[id] = 3;
        count = id + 1 > count ? id + 1 : count;
    }
    json_t *list = json_object_get(model, "merges");
    json_array_foreach(list, i, value) merges[i] =
        (struct ps_gguf_string){json_string_value(value), json_string_length(value)};
    struct ps_tokenizer_gguf source = {.model = {"gpt2", 4},
                                       .pre = {"qwen35", 6},
                                       .tokens = tokens,
                                       .token_count = count,
                                       .types = types,
                                       .merges = merges,
                                       .merge_count = json_array_size(list)};
    if (ps_tokenizer_build_gguf(&source, &o.blob, &o.blob_bytes, &err) < 0)
        fail_msg("%s", err.text);
    json_decref(root);
    open_blob(&o);
    return o;
}

static void close_opened(struct opened *o)
{
    ps_tokenizer_close(&o->tokenizer);
    assert_null(o->tokenizer);
    free(o->blob);
}

static void check_case(const struct ps_tokenizer *t, const json_t *entry)
{
    const json_t *text = json_object_get(entry, "text"), *ids = json_object_get(entry, "ids");
    const json_t *decoded = json_object_get(entry, "decoded");
    size_t count = json_array_size(ids);
    int32_t got[512];
    char bytes[2048];
    assert_int_equal(ps_tokenizer_encode(t, json_string_value(text), json_string_length(text), got,
                                         PS_ARRAY_LEN(got), NULL),
                     count);
    for (size_t i = 0; i < count; i++)
        if (got[i] != json_integer_value(json_array_get(ids, i)))
            fail_msg("\"%s\": id %zu is %d", json_string_value(text), i, got[i]);
    assert_int_equal(ps_tokenizer_decode(t, got, count, false, bytes, sizeof(bytes), NULL),
                     json_string_length(decoded));
    assert_memory_equal(bytes, json_string_value(decoded), json_string_length(decoded));
}

static void check_golden(struct opened o)
{
    /* The texts include U+0000, which plain C strings, and jansson unless told so, stop at. */
    json_error_t error;
    json_t *cases = json_load_file(DATA "demo_tokens.json", JSON_ALLOW_NUL, &error), *entry;
    size_t i;
    assert_non_null(cases);
    assert_true(json_array_size(cases) >= 33);
    json_array_foreach(cases, i, entry) check_case(o.tokenizer, entry);
    json_decref(cases);
    close_opened(&o);
}

static void golden_json(void **state)
{
    (void)state;
    check_golden(open_json());
}

static void golden_gguf(void **state)
{
    (void)state;
    check_golden(open_gguf());
}

static void both_sources_give_one_blob(void **state)
{
    (void)state;
    struct opened a = open_json(), b = open_gguf();
    assert_int_equal(a.blob_bytes, b.blob_bytes);
    assert_memory_equal(a.blob, b.blob, a.blob_bytes);
    close_opened(&a);
    close_opened(&b);
}

/* The demo model as it stands in the tree: its GGUF file must give what its tokenizer.json gives.
 */
static void demo_gguf(void **state)
{
    (void)state;
    struct opened o = open_json();
    struct ps_source *source = NULL;
    struct ps_error err = {0};
    void *blob = NULL;
    size_t bytes = 0;
    char *chat = NULL;
    if (ps_source_open(&source, PS_SOURCE_DIR "/tools/demo/demo-q4_0.gguf", &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    assert_int_equal(ps_import_tokenizer(source, &blob, &bytes, &err), 1);
    assert_int_equal(bytes, o.blob_bytes);
    assert_memory_equal(blob, o.blob, bytes);
    assert_int_equal(ps_import_chat(source, &chat, &bytes, &err), 1);
    assert_int_equal(ps_chat_detect(chat, bytes), PS_CHAT_CHATML);
    free(chat);
    free(blob);
    ps_source_close(&source);
    close_opened(&o);
}

static void of_a_model(void **state)
{
    (void)state;
    static struct ps_model model;
    struct opened o = open_json();
    struct ps_error err = {0};
    int32_t ids[8];
    char text[32], *chat = NULL;
    model.config.vocab_rows = 4100;
    assert_int_equal(ps_model_tokenize(&model, "a", 1, ids, 8, &err), -PS_ERR_NO_TOKENIZER);
    assert_int_equal(ps_model_detokenize(&model, ids, 0, false, text, 32, &err),
                     -PS_ERR_NO_TOKENIZER);
    assert_int_equal(ps_model_chat(&model, "{}", &chat, &err), -PS_ERR_UNSUPPORTED);
    model.tokenizer = o.tokenizer;
    model.chat_family = PS_CHAT_CHATML;
    assert_int_equal(ps_model_tokenize(&model, "1<|im_end|>", 11, ids, 8, &err), 2);
    assert_int_equal(ids[1], 4095);
    /* Rows of the head beyond the tokenizer's stand for nothing; beyond the head is no id. */
    const int32_t mixed[] = {4096, 49, 4099, 4095, 50, 4097};
    assert_int_equal(ps_model_detokenize(&model, mixed, 6, true, text, 32, &err), 2);
    assert_memory_equal(text, "12", 2);
    assert_int_equal(ps_model_detokenize(&model, mixed, 6, false, text, 3, &err), 12);
    assert_memory_equal(text, "1<|", 3);
    assert_int_equal(ps_model_detokenize(&model, mixed, 6, false, NULL, 0, &err), 12);
    assert_int_equal(ps_model_detokenize(&model, (int32_t[]){49, 4100}, 2, false, text, 32, &err),
                     -PS_ERR_ARGUMENT);
    assert_int_equal(ps_model_detokenize(&model, (int32_t[]){-1}, 1, false, text, 32, &err),
                     -PS_ERR_ARGUMENT);
    assert_int_equal(ps_model_chat(&model, "{\"messages\":[{\"role\":\"user\"}]}", &chat, &err), 0);
    assert_string_equal(chat, "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n");
    free(chat);
    close_opened(&o);
}

static void properties(void **state)
{
    (void)state;
    struct opened o = open_json();
    assert_int_equal(ps_tokenizer_vocab_count(o.tokenizer), 4096);
    assert_int_equal(ps_tokenizer_find(o.tokenizer, "<|im_end|>"), 4095);
    assert_int_equal(ps_tokenizer_find(o.tokenizer, "<|endoftext|>"), 4093);
    assert_int_equal(ps_tokenizer_find(o.tokenizer, "<|im_end|>x"), -1);
    assert_int_equal(ps_tokenizer_find(o.tokenizer, "<|im_end|"), -1);
    assert_int_equal(ps_tokenizer_find(o.tokenizer, "the"), -1);
    assert_int_equal(ps_tokenizer_find(o.tokenizer, ""), -1);
    /* 3,837 merges: a table of 8,192 ranks of 4 bytes, and little besides. */
    assert_in_range(ps_tokenizer_memory_bytes(o.tokenizer), 8192 * 4, 8192 * 4 + 65536);
    close_opened(&o);
}

static void capacity_and_bad_ids(void **state)
{
    (void)state;
    struct opened o = open_json();
    int32_t ids[8] = {-7, -7, -7, -7, -7, -7, -7, -7};
    char text[16];
    struct ps_error err = {0};
    assert_int_equal(ps_tokenizer_encode(o.tokenizer, "1234", 4, ids, 2, &err), 4);
    assert_int_equal(ids[1], 50);
    assert_int_equal(ids[2], -7);
    assert_int_equal(ps_tokenizer_encode(o.tokenizer, "1234", 4, NULL, 0, &err), 4);
    memset(text, '.', sizeof(text));
    assert_int_equal(
        ps_tokenizer_decode(o.tokenizer, (int32_t[]){4095, 49}, 2, false, text, 4, &err), 11);
    assert_memory_equal(text, "<|im....", 8);
    assert_int_equal(
        ps_tokenizer_decode(o.tokenizer, (int32_t[]){4095, 49}, 2, true, text, 4, &err), 1);
    assert_int_equal(text[0], '1');
    assert_int_equal(ps_tokenizer_decode(o.tokenizer, (int32_t[]){4096}, 1, false, text, 16, &err),
                     -PS_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "4096"));
    assert_int_equal(ps_tokenizer_decode(o.tokenizer, (int32_t[]){-1}, 1, false, text, 16, &err),
                     -PS_ERR_ARGUMENT);
    close_opened(&o);
}

static void invalid_utf8_is_replaced(void **state)
{
    (void)state;
    struct opened o = open_json();
    const char bad[] = "a\xFF\xE2\x82z\xC3", good[] = "a\xEF\xBF\xBD\xEF\xBF\xBDz\xEF\xBF\xBD";
    int32_t a[32], b[32];
    int64_t n = ps_tokenizer_encode(o.tokenizer, bad, sizeof(bad) - 1, a, 32, NULL);
    assert_int_equal(ps_tokenizer_encode(o.tokenizer, good, sizeof(good) - 1, b, 32, NULL), n);
    assert_memory_equal(a, b, (size_t)n * sizeof(*a));
    close_opened(&o);
}

/* A long piece must cost little more than its length: these took hours if merging were quadratic.
 */
static void long_text(struct ps_tokenizer *t, const char *unit, size_t bytes)
{
    size_t unit_bytes = strlen(unit);
    char *text = malloc(bytes + unit_bytes), *back = malloc(3 * bytes);
    int32_t *ids = malloc(2 * bytes * sizeof(*ids));
    struct ps_error err = {0};
    assert_non_null(text);
    for (size_t at = 0; at < bytes; at += unit_bytes)
        memcpy(text + at, unit, unit_bytes);
    bytes = bytes / unit_bytes * unit_bytes;
    uint64_t begin = ps_now_ns();
    int64_t count = ps_tokenizer_encode(t, text, bytes, ids, 2 * bytes, &err);
    uint64_t ns = ps_now_ns() - begin;
    if (count < 0)
        fail_msg("%s", err.text);
    assert_in_range(ns, 0, (PS_TEST_SANITIZED ? 60 : 10) * 1000000000ull);
    assert_int_equal(ps_tokenizer_decode(t, ids, (size_t)count, false, back, 3 * bytes, NULL),
                     bytes);
    assert_memory_equal(back, text, bytes);
    free(text);
    free(back);
    free(ids);
}

static void long_pieces(void **state)
{
    (void)state;
    static const char *const units[] = {"x",
                                        "th",
                                        " ",
                                        "\n",
                                        " \n",
                                        "the ",
                                        "7",
                                        "!",
                                        "<|im_start|",
                                        "\xE6\x97\xA5",
                                        "\xF0\x9F\x91\xA9\xE2\x80\x8D"};
    struct opened o = open_json();
    for (size_t i = 0; i < PS_ARRAY_LEN(units); i++)
        long_text(o.tokenizer, units[i], 1 << 20);
    close_opened(&o);
}

/* A million marks of falling class: the order of marks is sorted, and not by neighbours. */
static void long_run_of_marks(void **state)
{
    (void)state;
    struct opened o = open_json();
    size_t pairs = 250000;
    char *text = malloc(4 * pairs);
    assert_non_null(text);
    for (size_t i = 0; i < pairs; i++)
        memcpy(text + 4 * i, "\xCC\x81\xCC\xA3", 4); /* classes 230 and 220 */
    uint64_t begin = ps_now_ns();
    assert_true(ps_tokenizer_encode(o.tokenizer, text, 4 * pairs, NULL, 0, NULL) > 0);
    assert_in_range(ps_now_ns() - begin, 0, (PS_TEST_SANITIZED ? 60 : 10) * 1000000000ull);
    free(text);
    close_opened(&o);
}

static void check_split(const char *regex, const json_t *entry)
{
    const json_t *text = json_object_get(entry, "text"), *pieces = json_object_get(entry, regex);
    size_t ends[256], at = 0, i;
    json_t *piece;
    struct ps_error err = {0};
    int64_t count = ps_pretokenize(regex, json_string_value(text), json_string_length(text), ends,
                                   PS_ARRAY_LEN(ends), &err);
    if (count < 0)
        fail_msg("%s", err.text);
    json_array_foreach(pieces, i, piece)
    {
        at += json_string_length(piece);
        if (i >= (size_t)count || ends[i] != at)
            fail_msg("%s, \"%s\": piece %zu is not \"%s\"", regex, json_string_value(text), i,
                     json_string_value(piece));
    }
    assert_int_equal(count, json_array_size(pieces));
}

static void splits(void **state)
{
    (void)state;
    json_error_t error;
    json_t *cases = json_load_file(DATA "pretok.json", JSON_ALLOW_NUL, &error), *entry;
    size_t i;
    assert_non_null(cases);
    assert_true(json_array_size(cases) >= 45);
    json_array_foreach(cases, i, entry)
    {
        check_split("qwen35", entry);
        check_split("qwen2", entry);
    }
    json_decref(cases);
    struct ps_error err = {0};
    assert_int_equal(ps_pretokenize("qwen1", "a", 1, NULL, 0, &err), -PS_ERR_ARGUMENT);
    assert_int_equal(ps_pretokenize("qwen2", "\xFF", 1, NULL, 0, &err), -PS_ERR_ARGUMENT);
    /* U+180E has not been white space since Unicode 6.3, whatever PCRE2's \s says. */
    size_t ends[8];
    assert_int_equal(ps_pretokenize("qwen2", "!\xE1\xA0\x8E!", 5, ends, 4, &err), 1);
    /* Contractions in any case, digits in threes, a blank to the word behind it. */
    static const size_t want[] = {2, 4, 5, 8, 10, 14};
    assert_int_equal(ps_pretokenize("dbrx", "IT'S 12345 day", 14, ends, 8, &err), 6);
    for (size_t k = 0; k < 6; k++)
        assert_int_equal(ends[k], want[k]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_json),
        cmocka_unit_test(golden_gguf),
        cmocka_unit_test(both_sources_give_one_blob),
        cmocka_unit_test(demo_gguf),
        cmocka_unit_test(of_a_model),
        cmocka_unit_test(properties),
        cmocka_unit_test(capacity_and_bad_ids),
        cmocka_unit_test(invalid_utf8_is_replaced),
        cmocka_unit_test(long_pieces),
        cmocka_unit_test(long_run_of_marks),
        cmocka_unit_test(splits),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
