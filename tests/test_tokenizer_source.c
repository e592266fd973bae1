/* What the two readers accept, how each option acts, and what they refuse, by name. */
#include "core/util.h"
#include "model/tokenizer_blob.h"
#include "tokenizer_fixture.h"

static void merges_by_rank(void **state)
{
    (void)state;
    /* "abc" is ab+c, not a+bc: the rank decides, not the place. "bc" wins where no a is before it.
     */
    struct fixture f = {.tokens = {"ab", "bc", "abc", "aa"},
                        .merges = {"a b", "b c", "ab c", "a a"}};
    void *blob;
    struct ps_tokenizer *t = fixture_open(&f, &blob);
    EXPECT_IDS(t, "abc", 258);
    EXPECT_IDS(t, "xbc", 'x', 257);
    EXPECT_IDS(t, "aaa", 259, 'a'); /* leftmost first among equals */
    EXPECT_IDS(t, "aab", 'a', 256);
    EXPECT_IDS(t, "", -1);
    EXPECT_IDS(t, "\n \xC2\xAD", '\n', ' ', 0xC2, 0xAD);
    ps_tokenizer_close(&t);
    free(blob);
}

static void ignore_merges(void **state)
{
    (void)state;
    /* "abcd" has no merge that makes it: only ignore_merges reaches it, as a whole piece. */
    struct fixture f = {.tokens = {"ab", "abcd"},
                        .merges = {"a b"},
                        .pre = "{\"type\":\"ByteLevel\",\"use_regex\":true}"};
    void *blob;
    struct ps_tokenizer *t = fixture_open(&f, &blob);
    EXPECT_IDS(t, "abcd", 256, 'c', 'd');
    ps_tokenizer_close(&t);
    free(blob);
    f.model_extra = "\"ignore_merges\":true";
    t = fixture_open(&f, &blob);
    EXPECT_IDS(t, "abcd", 257);
    EXPECT_IDS(t, "abcde", 256, 'c', 'd', 'e');
    EXPECT_IDS(t, "abcd!", 257, '!');
    ps_tokenizer_close(&t);
    free(blob);
}

static void added_tokens(void **state)
{
    (void)state;
    struct fixture f = {
        .tokens = {"<t", "<th"},
        .merges = {"< t", "<t h"},
        .added = "[{\"id\":300,\"content\":\"<think>\",\"special\":false},"
                 "{\"id\":301,\"content\":\"<th\",\"special\":true},"
                 "{\"id\":302,\"content\":\"<think>x\",\"special\":true},"
                 "{\"id\":303,\"content\":\"\xC3\xA9!\",\"special\":false,\"normalized\":true}]",
        .normalizer = "{\"type\":\"NFC\"}"};
    /* Id 301 is also the vocabulary's token 257: that contradicts. */
    struct ps_error err = {0};
    void *blob = NULL;
    size_t bytes;
    char *text = fixture_text(&f);
    assert_int_equal(ps_tokenizer_build_json(text, strlen(text), &blob, &bytes, &err),
                     -PS_ERR_FORMAT);
    assert_non_null(strstr(err.text, "301"));
    free(text);
    f.tokens[1] = f.merges[1] = NULL;
    struct ps_tokenizer *t = fixture_open(&f, &blob);
    EXPECT_IDS(t, "<think", 301, 'i', 'n', 'k');
    EXPECT_IDS(t, "a<think>b", 'a', 300, 'b');
    EXPECT_IDS(t, "<think>x<think>", 302, 300);
    EXPECT_IDS(t, "<<th<t", '<', 301, 256);
    /* Matched after normalisation: the decomposed form is found, too. */
    EXPECT_IDS(t, "e\xCC\x81!", 303);
    EXPECT_IDS(t, "\xC3\xA9!<think>\xC3\xA9?", 303, 300, 0xC3, 0xA9, '?');
    assert_int_equal(ps_tokenizer_find(t, "<think>"), 300);
    assert_int_equal(ps_tokenizer_find(t, "\xC3\xA9!"), 303);
    /* Ids 257 to 299 are not used: they decode to nothing. */
    char out[32];
    assert_int_equal(ps_tokenizer_vocab_count(t), 304);
    assert_int_equal(ps_tokenizer_decode(t, (int32_t[]){280, 301, 300}, 3, true, out, 32, &err), 7);
    assert_memory_equal(out, "<think>", 7);
    ps_tokenizer_close(&t);
    free(blob);
}

/* Added tokens are taken from the raw text: a mark after one does not join its last letter. */
static void added_before_normalisation(void **state)
{
    (void)state;
    struct fixture f = {.added = "[{\"id\":256,\"content\":\"#e\",\"special\":true}]",
                        .normalizer =
                            "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}"};
    void *blob;
    struct ps_tokenizer *t = fixture_open(&f, &blob);
    EXPECT_IDS(t, "#e\xCC\x81", 256, 0xCC, 0x81);
    EXPECT_IDS(t, "e\xCC\x81", 0xC3, 0xA9);
    ps_tokenizer_close(&t);
    free(blob);
    f.normalizer = NULL;
    t = fixture_open(&f, &blob);
    EXPECT_IDS(t, "e\xCC\x81", 'e', 0xCC, 0x81);
    ps_tokenizer_close(&t);
    free(blob);
}

/* Pieces show in what cannot merge across them: "a b" would be one token without a split. */
static void split_steps(void **state)
{
    (void)state;
    struct fixture f = {.tokens = {"aa", "aaaa", "a-", "a-a"},
                        .merges = {"a a", "aa aa", "a -", "a- a"},
                        .pre = "{\"type\":\"Sequence\",\"pretokenizers\":["
                               "{\"type\":\"Split\",\"pattern\":{\"String\":\"-\"},"
                               "\"behavior\":\"Isolated\",\"invert\":false},"
                               "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a{2}\"},"
                               "\"behavior\":\"Isolated\",\"invert\":false},"
                               "{\"type\":\"ByteLevel\",\"use_regex\":false,"
                               "\"add_prefix_space\":false}]}"};
    void *blob;
    struct ps_tokenizer *t = fixture_open(&f, &blob);
    EXPECT_IDS(t, "aaaa-aaa-a", 256, 256, '-', 256, 'a', '-', 'a');
    ps_tokenizer_close(&t);
    free(blob);
    f.pre = NULL;
    t = fixture_open(&f, &blob);
    EXPECT_IDS(t, "aaaa-a", 257, '-', 'a');
    EXPECT_IDS(t, "a-a", 259);
    ps_tokenizer_close(&t);
    free(blob);
}

static void empty_matches_cut(void **state)
{
    (void)state;
    struct fixture f = {.tokens = {"aa", "bb"},
                        .merges = {"a a", "b b"},
                        .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
                               "\"pattern\":{\"Regex\":\"a*\"},\"behavior\":\"Isolated\"},"
                               "{\"type\":\"ByteLevel\",\"use_regex\":false}]}"};
    void *blob;
    struct ps_tokenizer *t = fixture_open(&f, &blob);
    EXPECT_IDS(t, "bbaabb", 'b', 'b', 256, 'b', 'b');
    EXPECT_IDS(t, "\xC3\xA9", 0xC3, 0xA9);
    ps_tokenizer_close(&t);
    free(blob);
}

/* A pattern that backtracks without end is ended by its limit, with an error. */
static void runaway_pattern(void **state)
{
    (void)state;
    struct fixture f = {.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
                               "\"pattern\":{\"Regex\":\"(a|a)+(a|a)+(a|aa)+b\"},"
                               "\"behavior\":\"Isolated\"},"
                               "{\"type\":\"ByteLevel\",\"use_regex\":false}]}"};
    void *blob;
    struct ps_error err = {0};
    struct ps_tokenizer *t = fixture_open(&f, &blob);
    char text[200];
    memset(text, 'a', sizeof(text));
    memcpy(text + sizeof(text) - 2, "cb", 2); /* a "b" there must be, or no match is tried */
    assert_int_equal(ps_tokenizer_encode(t, text, sizeof(text), NULL, 0, &err),
                     -PS_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "limit"));
    ps_tokenizer_close(&t);
    free(blob);
}

/* Every case changes one thing of a good file; the message must name it. */
static const struct {
    struct fixture f;
    int code;
    const char *says;
} refused[] = {
    {{.normalizer = "{\"type\":\"NFKC\"}"}, PS_ERR_UNSUPPORTED, "NFKC"},
    {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}"},
     PS_ERR_UNSUPPORTED,
     "Lowercase"},
    {{.pre = "null"}, PS_ERR_UNSUPPORTED, "null"},
    {{.pre = "{\"type\":\"Metaspace\"}"}, PS_ERR_UNSUPPORTED, "Metaspace"},
    {{.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[]}"}, PS_ERR_UNSUPPORTED, "without steps"},
    {{.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
             "{\"type\":\"ByteLevel\"}]}"},
     PS_ERR_UNSUPPORTED,
     "ByteLevel"},
    {{.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":"
             "\"Removed\"},{\"type\":\"ByteLevel\"}]}"},
     PS_ERR_UNSUPPORTED,
     "Removed"},
    {{.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":"
             "\"Isolated\"},{\"type\":\"ByteLevel\"}]}"},
     PS_ERR_FORMAT,
     "no pattern"},
    {{.pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}"},
     PS_ERR_UNSUPPORTED,
     "add_prefix_space"},
    {{.model_extra = "\"byte_fallback\":true"}, PS_ERR_UNSUPPORTED, "byte_fallback"},
    {{.model_extra = "\"dropout\":0.1"}, PS_ERR_UNSUPPORTED, "dropout"},
    {{.model_extra = "\"end_of_word_suffix\":\"</w>\""}, PS_ERR_UNSUPPORTED, "end_of_word_suffix"},
    {{.model_extra = "\"continuing_subword_prefix\":\"##\""},
     PS_ERR_UNSUPPORTED,
     "continuing_subword_prefix"},
    {{.added = "7"}, PS_ERR_FORMAT, "added_tokens"},
    {{.added = "[7]"}, PS_ERR_FORMAT, "content"},
    {{.added = "[{\"id\":256,\"content\":\"x y\",\"lstrip\":true}]"}, PS_ERR_UNSUPPORTED, "lstrip"},
    {{.added = "[{\"id\":256,\"content\":\"x y\",\"rstrip\":true}]"}, PS_ERR_UNSUPPORTED, "rstrip"},
    {{.added = "[{\"id\":256,\"content\":\"x y\",\"single_word\":true}]"},
     PS_ERR_UNSUPPORTED,
     "single_word"},
    {{.added = "[{\"id\":-1,\"content\":\"x y\"}]"}, PS_ERR_FORMAT, "id"},
    {{.added = "[{\"id\":9999999,\"content\":\"x y\"}]"}, PS_ERR_FORMAT, "id"},
    {{.added = "[{\"id\":7,\"content\":\"x y\"}]"}, PS_ERR_FORMAT, "Added token 7"},
    {{.added = "[{\"id\":256,\"content\":\"a\"}]"}, PS_ERR_FORMAT, "Added token 256"},
    {{.added = "[{\"id\":256,\"content\":\"e\xCC\x81\",\"normalized\":true}]",
      .normalizer = "{\"type\":\"NFC\"}"},
     PS_ERR_UNSUPPORTED,
     "NFC"},
    {{.merges = {"a b"}}, PS_ERR_FORMAT, "Merge 0"},
    {{.merges = {"ab"}, .tokens = {"ab"}}, PS_ERR_FORMAT, "Merge 0"},
    {{.merges = {"a b", "a b c"}, .tokens = {"ab"}}, PS_ERR_FORMAT, "Merge 1"},
    {{.merges = {"\xE6\x97\xA5 a"},
      .tokens = {"\xE6\x97\xA5", "\xE6\x97\xA5"
                                 "a"}},
     PS_ERR_UNSUPPORTED,
     "Merge 0"},
};

static void refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < PS_ARRAY_LEN(refused); i++) {
        struct ps_error err = {0};
        void *blob = NULL;
        size_t bytes;
        char *text = fixture_text(&refused[i].f);
        int rc = ps_tokenizer_build_json(text, strlen(text), &blob, &bytes, &err);
        if (rc != -refused[i].code || !strstr(err.text, refused[i].says))
            fail_msg("case %zu: %d, \"%s\"", i, rc, err.text);
        assert_null(blob);
        free(text);
    }
}

/* Patterns that the other dialect would read otherwise, or that are none at all. */
static void refused_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        int code;
    } cases[] = {{"(", PS_ERR_FORMAT},
                 {"a\\\\", PS_ERR_FORMAT},
                 {"[a", PS_ERR_FORMAT},
                 {"\\\\h+", PS_ERR_UNSUPPORTED},
                 {"a\\\\Kb", PS_ERR_UNSUPPORTED},
                 {"\\\\C", PS_ERR_UNSUPPORTED},
                 {"[\\\\S]", PS_ERR_UNSUPPORTED},
                 {"[a[bc]]", PS_ERR_UNSUPPORTED},
                 {"[a-z&&b]", PS_ERR_UNSUPPORTED}};
    for (size_t i = 0; i < PS_ARRAY_LEN(cases); i++) {
        struct fixture f = {0};
        struct ps_error err = {0};
        char pre[256];
        void *blob;
        size_t bytes;
        snprintf(pre, sizeof(pre),
                 "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
                 "\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Isolated\"},"
                 "{\"type\":\"ByteLevel\",\"use_regex\":false}]}",
                 cases[i].pattern);
        f.pre = pre;
        char *text = fixture_text(&f);
        int rc = ps_tokenizer_build_json(text, strlen(text), &blob, &bytes, &err);
        if (rc != -cases[i].code)
            fail_msg("%s: %d, \"%s\"", cases[i].pattern, rc, err.text);
        free(text);
    }
}

static void not_a_tokenizer(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
    } cases[] = {{"", PS_ERR_FORMAT},
                 {"{", PS_ERR_FORMAT},
                 {"[]", PS_ERR_UNSUPPORTED},
                 {"{}", PS_ERR_UNSUPPORTED},
                 {"{\"model\":{\"type\":\"Unigram\"}}", PS_ERR_UNSUPPORTED},
                 {"{\"model\":{\"type\":\"BPE\"}}", PS_ERR_FORMAT},
                 {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\","
                  "\"vocab\":{\"a\":0},\"merges\":[]}}",
                  PS_ERR_UNSUPPORTED}};
    for (size_t i = 0; i < PS_ARRAY_LEN(cases); i++) {
        struct ps_error err = {0};
        void *blob;
        size_t bytes;
        int rc = ps_tokenizer_build_json(cases[i].text, strlen(cases[i].text), &blob, &bytes, &err);
        if (rc != -cases[i].code || !err.text[0])
            fail_msg("case %zu: %d, \"%s\"", i, rc, err.text);
    }
}

/* ---- GGUF ----------------------------------------------------------------------------------- */

struct gguf {
    char surfaces[256][4];
    struct ps_gguf_string tokens[260], merges[2];
    int32_t types[260];
    struct ps_tokenizer_gguf source;
};

static void gguf_make(struct gguf *g)
{
    static const char *const extra[] = {"ab", "<|end|>", "<think>", "[PAD3]"};
    static const int32_t types[] = {1, 3, 4, 5};
    memset(g, 0, sizeof(*g));
    for (int i = 0; i < 260; i++) {
        if (i < 256)
            fixture_surface(i, g->surfaces[i]);
        const char *text = i < 256 ? g->surfaces[i] : extra[i - 256];
        g->tokens[i] = (struct ps_gguf_string){text, strlen(text)};
        g->types[i] = i < 256 ? 1 : types[i - 256];
    }
    g->merges[0] = (struct ps_gguf_string){"a b", 3};
    g->source = (struct ps_tokenizer_gguf){.model = {"gpt2", 4},
                                           .pre = {"qwen2", 5},
                                           .tokens = g->tokens,
                                           .token_count = 260,
                                           .types = g->types,
                                           .merges = g->merges,
                                           .merge_count = 1};
}

/* Names of pre-tokenizers, and whether text is brought to NFC for each. */
static void gguf_names(void **state)
{
    static const struct {
        const char *pre;
        bool nfc;
    } cases[] = {{"qwen35", true}, {"qwen2", true}, {"olmo", true}, {"dbrx", false}};
    static struct gguf g;
    (void)state;
    gguf_make(&g);
    for (size_t i = 0; i < 4; i++) {
        struct ps_error err = {0};
        struct ps_token_blob view;
        void *blob;
        size_t bytes;
        g.source.pre = (struct ps_gguf_string){cases[i].pre, strlen(cases[i].pre)};
        assert_int_equal(ps_tokenizer_build_gguf(&g.source, &blob, &bytes, &err), 0);
        assert_int_equal(ps_token_blob_view(&view, blob, bytes, &err), 0);
        assert_int_equal(view.flags, cases[i].nfc ? PS_TOKENIZER_NFC : 0);
        free(blob);
    }
}

static void gguf_kinds(void **state)
{
    (void)state;
    static struct gguf g;
    struct ps_error err = {0};
    struct ps_tokenizer *t = NULL;
    void *blob;
    size_t bytes;
    gguf_make(&g);
    assert_int_equal(ps_tokenizer_build_gguf(&g.source, &blob, &bytes, &err), 0);
    assert_int_equal(ps_tokenizer_open(&t, blob, bytes, &err), 0);
    EXPECT_IDS(t, "ab<|end|><think>ab", 256, 257, 258, 256);
    EXPECT_IDS(t, "[PAD3]", '[', 'P', 'A', 'D', '3', ']');
    EXPECT_IDS(t, "e\xCC\x81", 0xC3, 0xA9); /* normalised */
    char out[32];
    assert_int_equal(ps_tokenizer_decode(t, (int32_t[]){257, 258, 259}, 3, true, out, 32, &err), 7);
    assert_memory_equal(out, "<think>", 7);
    ps_tokenizer_close(&t);
    free(blob);
    /* Without types all are normal: nothing is special, and "<" is where a merge would start. */
    g.source.types = NULL;
    assert_int_equal(ps_tokenizer_build_gguf(&g.source, &blob, &bytes, &err), 0);
    assert_int_equal(ps_tokenizer_open(&t, blob, bytes, &err), 0);
    EXPECT_IDS(t, "<|end|>", '<', '|', 'e', 'n', 'd', '|', '>');
    ps_tokenizer_close(&t);
    free(blob);
}

static void gguf_expect(struct gguf *g, int code, const char *says)
{
    struct ps_error err = {0};
    void *blob;
    size_t bytes;
    int rc = ps_tokenizer_build_gguf(&g->source, &blob, &bytes, &err);
    if (rc != -code || !strstr(err.text, says))
        fail_msg("%d, \"%s\" does not say \"%s\"", rc, err.text, says);
    gguf_make(g);
}

static void gguf_refusals(void **state)
{
    (void)state;
    static struct gguf g;
    gguf_make(&g);
    g.source.model = (struct ps_gguf_string){"llama", 5};
    gguf_expect(&g, PS_ERR_UNSUPPORTED, "\"llama\"");
    g.source.pre = (struct ps_gguf_string){"tekken", 6};
    gguf_expect(&g, PS_ERR_UNSUPPORTED, "\"tekken\"");
    g.source.pre = (struct ps_gguf_string){NULL, 0};
    gguf_expect(&g, PS_ERR_UNSUPPORTED, "tokenizer.ggml.pre");
    g.types[17] = 6;
    gguf_expect(&g, PS_ERR_UNSUPPORTED, "Token 17");
    g.types[17] = -3;
    gguf_expect(&g, PS_ERR_UNSUPPORTED, "Token 17");
    g.tokens[17] = g.tokens[18];
    gguf_expect(&g, PS_ERR_FORMAT, "Tokens 17 and 18");
    g.merges[0].bytes = 2;
    gguf_expect(&g, PS_ERR_FORMAT, "Merge 0");
    g.merges[0].bytes = 0;
    gguf_expect(&g, PS_ERR_FORMAT, "Merge 0");
    g.source.token_count = UINT64_MAX;
    gguf_expect(&g, PS_ERR_UNSUPPORTED, "tokens");
    g.source.merge_count = 1u << 30;
    gguf_expect(&g, PS_ERR_UNSUPPORTED, "merges");
    g.source.token_count = 200;
    g.source.merge_count = 0;
    gguf_expect(&g, PS_ERR_UNSUPPORTED, "0xC8");
    g.tokens[257] = (struct ps_gguf_string){"\xC3", 1};
    gguf_expect(&g, PS_ERR_FORMAT, "UTF-8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_by_rank),   cmocka_unit_test(ignore_merges),
        cmocka_unit_test(added_tokens),     cmocka_unit_test(added_before_normalisation),
        cmocka_unit_test(split_steps),      cmocka_unit_test(empty_matches_cut),
        cmocka_unit_test(runaway_pattern),  cmocka_unit_test(refusals),
        cmocka_unit_test(refused_patterns), cmocka_unit_test(not_a_tokenizer),
        cmocka_unit_test(gguf_names),       cmocka_unit_test(gguf_kinds),
        cmocka_unit_test(gguf_refusals),
    };
    return cmocka_run_group_tests_name("tokenizer_source", tests, NULL, NULL);
}
