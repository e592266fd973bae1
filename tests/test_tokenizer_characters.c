/* Vocabularies of characters with a token for every byte, as Llama 2's and Mixtral's: both sources,
 * against a reference that looks at every pair each time. */
#include <math.h>

#include "core/util.h"
#include "model/tokenizer_blob.h"
#include "tokenizer_fixture.h"

#define MARK "\xE2\x96\x81"
#define FIRST 259 /* 0 to 2 are special, 3 to 258 the bytes */
#define TOKENS (FIRST + (int)PS_ARRAY_LEN(words))

/* In the order of their scores; the last is an added one. */
static const char *const words[] = {"he",    MARK "t",     "th",      "lo",       MARK "the", "hel",
                                    "hello", MARK "hello", MARK MARK, MARK,       "e",        "t",
                                    "h",     "l",          "o",       "\xC3\xA9", "a",        "aa",
                                    "aaa",   "n",          "\n",      "[INST]"};

struct vocabulary {
    char bytes[256][8];
    struct ps_gguf_string tokens[512];
    int32_t types[512];
    float scores[512];
    struct ps_tokenizer_gguf source;
};

static void make(struct vocabulary *v)
{
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    memset(v, 0, sizeof(*v));
    for (int i = 0; i < TOKENS; i++) {
        const char *text = i < 3 ? special[i] : i < FIRST ? v->bytes[i - 3] : words[i - FIRST];
        if (i >= 3 && i < FIRST)
            snprintf(v->bytes[i - 3], 8, "<0x%02X>", (unsigned)(i - 3));
        v->tokens[i] = (struct ps_gguf_string){text, strlen(text)};
        v->types[i] = i == 0 ? 2 : i < 3 ? 3 : i < FIRST ? 6 : i + 1 < TOKENS ? 1 : 4;
        v->scores[i] = i < FIRST ? 0 : (float)(FIRST - i);
    }
    v->source = (struct ps_tokenizer_gguf){.model = {"llama", 5},
                                           .tokens = v->tokens,
                                           .token_count = (uint64_t)TOKENS,
                                           .types = v->types,
                                           .scores = v->scores,
                                           .add_bos = true,
                                           .add_space_prefix = true,
                                           .bos = 1};
}

static struct ps_tokenizer *open_gguf(const struct vocabulary *v, void **blob)
{
    struct ps_tokenizer *t = NULL;
    struct ps_error err = {0};
    size_t bytes;
    if (ps_tokenizer_build_gguf(&v->source, blob, &bytes, &err) < 0 ||
        ps_tokenizer_open(&t, *blob, bytes, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    return t;
}

/* ---- tokenizer.json -------------------------------------------------------------------------- */

#define LEGACY                                                                                     \
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"    \
    "\"" MARK "\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK       \
    "\"}]},\"pre_tokenizer\":null"
#define METASPACE(scheme, split)                                                                   \
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" MARK        \
    "\",\"prepend_scheme\":\"" scheme "\",\"split\":" split "}"
#define TEMPLATE                                                                                   \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"            \
    "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[1]}}}"

/* The merges that lead to a token: each cut of it into two tokens, tokens by their scores. */
static json_t *merges_of(json_t *vocab)
{
    json_t *merges = json_array();
    for (int i = 0; i + 1 < (int)PS_ARRAY_LEN(words); i++)
        for (size_t cut = 1; cut < strlen(words[i]); cut++) {
            char left[32], both[64];
            snprintf(left, sizeof(left), "%.*s", (int)cut, words[i]);
            snprintf(both, sizeof(both), "%s %s", left, words[i] + cut);
            if (json_object_get(vocab, left) && json_object_get(vocab, words[i] + cut))
                json_array_append_new(merges, json_string(both));
        }
    return merges;
}

static char *json_text(const struct vocabulary *v, const char *steps, const char *post)
{
    json_t *vocab = json_object();
    for (int i = 0; i + 1 < TOKENS; i++)
        json_object_set_new(vocab, v->tokens[i].data, json_integer(i));
    json_t *merges = merges_of(vocab);
    char *v_text = json_dumps(vocab, JSON_COMPACT), *m = json_dumps(merges, JSON_COMPACT);
    char *text = NULL;
    assert_true(asprintf(&text,
                         "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true},"
                         "{\"id\":1,\"content\":\"<s>\",\"special\":true},"
                         "{\"id\":2,\"content\":\"</s>\",\"special\":true},"
                         "{\"id\":%d,\"content\":\"[INST]\"}],%s,\"post_processor\":%s,"
                         "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\"},"
                         "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\"}]},"
                         "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":%s,"
                         "\"merges\":%s}}",
                         TOKENS - 1, steps, post, v_text, m) > 0);
    free(v_text);
    free(m);
    json_decref(vocab);
    json_decref(merges);
    return text;
}

static struct ps_tokenizer *open_json(const struct vocabulary *v, const char *steps,
                                      const char *post, void **blob)
{
    struct ps_tokenizer *t = NULL;
    struct ps_error err = {0};
    size_t bytes;
    char *text = json_text(v, steps, post);
    if (ps_tokenizer_build_json(text, strlen(text), blob, &bytes, &err) < 0 ||
        ps_tokenizer_open(&t, *blob, bytes, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    free(text);
    return t;
}

/* ---- the reference --------------------------------------------------------------------------- */

static int find_token(const struct vocabulary *v, const char *text, size_t bytes)
{
    for (int i = FIRST; i + 1 < TOKENS; i++)
        if (v->tokens[i].bytes == bytes && !memcmp(v->tokens[i].data, text, bytes))
            return i;
    return -1;
}

/* text: with marks, no special tokens. */
static int reference(const struct vocabulary *v, const char *text, int32_t *ids)
{
    size_t at[256], count = 0, bytes = strlen(text);
    for (size_t i = 0; i < bytes; i++)
        if (((uint8_t)text[i] & 0xC0) != 0x80)
            at[count++] = i;
    at[count] = bytes;
    for (;;) {
        size_t best = count;
        float score = -INFINITY;
        for (size_t i = 0; i + 1 < count; i++) {
            int id = find_token(v, text + at[i], at[i + 2] - at[i]);
            if (id >= 0 && v->scores[id] > score) {
                score = v->scores[id];
                best = i;
            }
        }
        if (best == count)
            break;
        memmove(at + best + 1, at + best + 2, (count - best - 1) * sizeof(*at));
        count--;
    }
    int out = 0;
    for (size_t i = 0; i < count; i++) {
        int id = find_token(v, text + at[i], at[i + 1] - at[i]);
        for (size_t b = at[i]; id < 0 && b < at[i + 1]; b++)
            ids[out++] = 3 + (uint8_t)text[b];
        if (id >= 0)
            ids[out++] = id;
    }
    return out;
}

/* ---- tests ----------------------------------------------------------------------------------- */

#define W(n) (FIRST + (n))

/* Ids worked out by hand. */
static void expect_both(const struct ps_tokenizer *t)
{
    EXPECT_IDS(t, "", 1);
    EXPECT_IDS(t, "hello", 1, W(7));
    EXPECT_IDS(t, " hello", 1, W(9), W(7));             /* the blank in front comes as well */
    EXPECT_IDS(t, MARK "hello", 1, W(9), W(7));         /* and is no other than the mark */
    EXPECT_IDS(t, "the", 1, W(4));                      /* by way of "_t" and "he" */
    EXPECT_IDS(t, "athe", 1, W(9), W(16), W(11), W(0)); /* "he" is better than "th" */
    EXPECT_IDS(t, "\n", 1, W(9), W(20));
    EXPECT_IDS(t, "\xE6\x97\xA5", 1, W(9), 3 + 0xE6, 3 + 0x97, 3 + 0xA5);
    EXPECT_IDS(t, "\xC3\xA9", 1, W(9), W(15));
    EXPECT_IDS(t, "</s>hello", 1, 2, W(7)); /* each stretch gets its blank */
    EXPECT_IDS(t, "hello[INST]e<unk>", 1, W(7), W(21), W(9), W(10), 0);
    EXPECT_IDS(t, "<s>e", 1, W(9), W(10)); /* not twice */
    EXPECT_IDS(t, "<0x0A>", 1, W(9), 3 + '<', 3 + '0', 3 + 'x', 3 + '0', 3 + 'A', 3 + '>');
}

static void by_hand(void **state)
{
    static struct vocabulary v;
    void *blob;
    (void)state;
    make(&v);
    struct ps_tokenizer *t = open_gguf(&v, &blob);
    expect_both(t);
    ps_tokenizer_close(&t);
    free(blob);
    t = open_json(&v, LEGACY, TEMPLATE, &blob);
    expect_both(t);
    ps_tokenizer_close(&t);
    free(blob);
}

static void prefixes(void **state)
{
    static struct vocabulary v;
    void *blob;
    (void)state;
    make(&v);
    struct ps_tokenizer *t = open_json(&v, METASPACE("first", "false"), "null", &blob);
    EXPECT_IDS(t, "hello</s>hello", W(7), 2, W(6));
    EXPECT_IDS(t, " hello", W(7)); /* has its blank */
    EXPECT_IDS(t, "</s>hello", 2, W(6));
    ps_tokenizer_close(&t);
    free(blob);
    t = open_json(&v, METASPACE("always", "false"), "null", &blob);
    EXPECT_IDS(t, "hello</s>hello</s> hello", W(7), 2, W(7), 2, W(7));
    ps_tokenizer_close(&t);
    free(blob);
    v.source.add_bos = v.source.add_space_prefix = false;
    t = open_gguf(&v, &blob);
    EXPECT_IDS(t, "hello", W(6));
    EXPECT_IDS(t, "", -1);
    ps_tokenizer_close(&t);
    free(blob);
}

static void expect_more(const struct ps_tokenizer *t, const char *text, const int32_t *want,
                        int64_t count)
{
    struct ps_error err = {0};
    int32_t ids[8];

    assert_int_equal(ps_tokenizer_encode_more(t, text, strlen(text), ids, 8, &err), count);
    assert_memory_equal(ids, want, (size_t)count * sizeof(*ids));
}

/* The rest of a text: no BOS, and no blank but that of a stretch behind an added token. */
static void goes_on(void **state)
{
    static const int32_t want[] = {W(6), 2, W(7)};
    static struct vocabulary v;
    void *blob;
    (void)state;
    make(&v);
    struct ps_tokenizer *t = open_json(&v, METASPACE("always", "false"), TEMPLATE, &blob);
    expect_more(t, "hello", want, 1);
    expect_more(t, " hello", want + 2, 1);
    expect_more(t, "hello</s>hello", want, 3);
    expect_more(t, "", want, 0);
    ps_tokenizer_close(&t);
    free(blob);
    t = open_gguf(&v, &blob);
    expect_more(t, "hello", want, 1);
    ps_tokenizer_close(&t);
    free(blob);
}

/* Random texts: ids as the reference's, and back to the text. */
static void random_texts(const struct vocabulary *v, const struct ps_tokenizer *t, bool decodes)
{
    static const char *const parts[] = {" ", "t", "h", "e",  "l",        "o",
                                        "a", "n", "z", "\n", "\xC3\xA9", "\xF0\x9F\x98\x80"};
    uint32_t seed = 1;
    for (int round = 0; round < 2000; round++) {
        char text[128] = "", marked[256] = MARK, out[256];
        int32_t ids[300], want[300] = {1};
        struct ps_error err = {0};
        for (int i = 0; i < 1 + round % 20; i++) {
            seed = seed * 1664525 + 1013904223;
            const char *part = parts[(seed >> 16) % PS_ARRAY_LEN(parts)];
            strcat(text, part);
            strcat(marked, *part == ' ' ? MARK : part);
        }
        int wanted = 1 + reference(v, marked, want + 1);
        int64_t n = ps_tokenizer_encode(t, text, strlen(text), ids, 300, &err);
        if (n != wanted || memcmp(ids, want, (size_t)n * sizeof(*ids)) != 0)
            fail_msg("\"%s\": other ids than the reference's", text);
        if (!decodes)
            continue;
        int64_t bytes = ps_tokenizer_decode_text(t, ids, (size_t)n, true, out, 256, &err);
        assert_int_equal(bytes, strlen(text));
        assert_memory_equal(out, text, bytes);
    }
}

static void against_reference(void **state)
{
    static struct vocabulary v;
    void *blob;
    (void)state;
    make(&v);
    struct ps_tokenizer *t = open_gguf(&v, &blob);
    random_texts(&v, t, true);
    ps_tokenizer_close(&t);
    free(blob);
    t = open_json(&v, LEGACY, TEMPLATE, &blob);
    random_texts(&v, t, true);
    ps_tokenizer_close(&t);
    free(blob);
    /* Equal scores: the leftmost pair. */
    for (int i = FIRST; i < TOKENS; i++)
        v.scores[i] = (float)(i % 3);
    t = open_gguf(&v, &blob);
    random_texts(&v, t, true);
    ps_tokenizer_close(&t);
    free(blob);
}

static void decoding(void **state)
{
    static struct vocabulary v;
    struct ps_error err = {0};
    void *blob;
    char out[32];
    (void)state;
    make(&v);
    struct ps_tokenizer *t = open_gguf(&v, &blob);
    const int32_t ids[] = {1, W(7), W(7), 3 + 0xE6};
    assert_int_equal(ps_tokenizer_decode_text(t, ids, 4, true, out, 32, &err), 12);
    assert_memory_equal(out, "hello hello\xE6", 12);
    assert_int_equal(ps_tokenizer_decode_text(t, ids, 4, false, out, 32, &err), 16);
    assert_memory_equal(out, "<s> hello hello\xE6", 16);
    assert_int_equal(ps_tokenizer_decode(t, ids + 1, 1, true, out, 32, &err), 6);
    assert_memory_equal(out, " hello", 6);
    ps_tokenizer_close(&t);
    free(blob);
}

static void expect_refused(struct vocabulary *v, const char *says)
{
    struct ps_error err = {0};
    void *blob = NULL;
    size_t bytes;
    int rc = ps_tokenizer_build_gguf(&v->source, &blob, &bytes, &err);
    if (rc >= 0 || !strstr(err.text, says))
        fail_msg("%d, \"%s\" does not say \"%s\"", rc, err.text, says);
    assert_null(blob);
    make(v);
}

static void expect_json_refused(const struct vocabulary *v, const char *steps, const char *post,
                                const char *says)
{
    struct ps_error err = {0};
    void *blob = NULL;
    size_t bytes;
    char *text = json_text(v, steps, post);
    int rc = ps_tokenizer_build_json(text, strlen(text), &blob, &bytes, &err);
    if (rc >= 0 || !strstr(err.text, says))
        fail_msg("%d, \"%s\" does not say \"%s\"", rc, err.text, says);
    assert_null(blob);
    free(text);
}

static void refusals(void **state)
{
    static struct vocabulary v;
    (void)state;
    make(&v);
    v.source.scores = NULL;
    expect_refused(&v, "no scores");
    v.scores[300 % TOKENS] = NAN;
    expect_refused(&v, "not a number");
    v.source.bos = (uint32_t)TOKENS;
    expect_refused(&v, "BOS");
    v.tokens[3 + 0x41] = (struct ps_gguf_string){"<0xzz>", 6};
    expect_refused(&v, "0x41");
    v.types[FIRST] = 7;
    expect_refused(&v, "type 7");
    expect_json_refused(&v, METASPACE("first", "true"), "null", "Metaspace");
    expect_json_refused(&v, METASPACE("some", "false"), "null", "some");
    expect_json_refused(&v, "\"normalizer\":{\"type\":\"NFC\"}", "null", "NFC");
    expect_json_refused(&v, "\"normalizer\":null", "null", "byte_fallback");
    expect_json_refused(&v, LEGACY, "{\"type\":\"BertProcessing\"}", "BertProcessing");
    expect_json_refused(&v, LEGACY, "{\"type\":\"TemplateProcessing\",\"single\":[]}", "Template");
    expect_json_refused(&v, LEGACY,
                        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
                        "{\"id\":\"<s>\"}},{\"Sequence\":{}}]}",
                        "no id");
}

/* The stored form, each byte of header, ranks and kinds changed: refused, or safe to use. */
static void damaged(void **state)
{
    static struct vocabulary v;
    struct ps_error err = {0};
    void *blob;
    size_t bytes;
    (void)state;
    make(&v);
    assert_int_equal(ps_tokenizer_build_gguf(&v.source, &blob, &bytes, &err), 0);
    for (size_t i = 0; i < bytes; i++) {
        for (int bit = 0; bit < 8; bit += 1 + (i >= 48)) {
            struct ps_tokenizer *t = NULL;
            int32_t ids[64];
            ((uint8_t *)blob)[i] ^= (uint8_t)(1 << bit);
            if (ps_tokenizer_open(&t, blob, bytes, &err) == 0) {
                int64_t n =
                    ps_tokenizer_encode(t, "the hello\xF0\x9F\x98\x80</s> a", 19, ids, 64, &err);
                for (int64_t k = 0; k < n && k < 64; k++)
                    assert_in_range(ids[k], 0, TOKENS - 1);
            }
            ps_tokenizer_close(&t);
            ((uint8_t *)blob)[i] ^= (uint8_t)(1 << bit);
        }
    }
    free(blob);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),           cmocka_unit_test(prefixes), cmocka_unit_test(goes_on),
        cmocka_unit_test(against_reference), cmocka_unit_test(decoding), cmocka_unit_test(refusals),
        cmocka_unit_test(damaged),
    };
    return cmocka_run_group_tests_name("tokenizer_characters", tests, NULL, NULL);
}
