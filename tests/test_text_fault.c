/*
 * Memory that runs out: the Nth allocation of text's own code fails, once or from there on, for
 * N = 1, 2, 3 ... until none is reached. Linked with --wrap for malloc, calloc and realloc.
 */
#include "core/util.h"
#include "model/chat.h"
#include "model/model.h"
#include "tokenizer_fixture.h"

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);

static long fail_at; /* 0 = never */
static long reached;
static bool fail_on;

static bool fails(void)
{
    if (!fail_at)
        return false;
    reached++;
    return fail_on ? reached >= fail_at : reached == fail_at;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}

/* Runs work with the Nth allocation failing; it must say -ENOMEM, or not have met the failure. */
static void at_every_n(int (*work)(struct ps_error *err))
{
    for (int on = 0; on < 2; on++) {
        for (long n = 1;; n++) {
            struct ps_error err = {0};
            fail_on = on;
            reached = 0;
            fail_at = n;
            int rc = work(&err);
            fail_at = 0;
            if (reached < n) {
                assert_int_equal(rc, 0);
                assert_true(n > 1);
                break;
            }
            if (rc != -ENOMEM || err.code != -ENOMEM)
                fail_msg("allocation %ld: %d, \"%s\"", n, rc, err.text);
        }
    }
}

static char *source_text;
static struct ps_tokenizer *tokenizer;

static int build_and_open(struct ps_error *err)
{
    void *blob = NULL;
    size_t bytes;
    struct ps_tokenizer *t = NULL;
    int rc = ps_tokenizer_build_json(source_text, strlen(source_text), &blob, &bytes, err);
    if (rc >= 0)
        rc = ps_tokenizer_open(&t, blob, bytes, err);
    ps_tokenizer_close(&t);
    free(blob);
    return rc;
}

static int encode(struct ps_error *err)
{
    /* Invalid bytes, text to normalise, and a piece longer than the first scratch. */
    static char text[400];
    memset(text, 'a', sizeof(text));
    memcpy(text, "ab\xFF e\xCC\x81\xCC\xA3\xCC\x81 <|end|>", 18);
    int64_t rc = ps_tokenizer_encode(tokenizer, text, sizeof(text), NULL, 0, err);
    return rc < 0 ? (int)rc : 0;
}

static int chat(struct ps_error *err)
{
    char *text = NULL;
    int rc = ps_chat_render(PS_CHAT_QWEN3_5,
                            "{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"a\"}]},"
                            "{\"role\":\"assistant\",\"content\":\"b\",\"tool_calls\":[{\"name\":"
                            "\"f\",\"arguments\":{\"x\":[1]}}]}],\"tools\":[{}]}",
                            &text, err);
    free(text);
    return rc;
}

static int sampler(struct ps_error *err)
{
    static struct ps_model model;
    struct ps_sampler *s = NULL;
    struct ps_sampling options = {.top_p = 1, .repeat_penalty = 2, .repeat_last_n = 4};
    model.config.vocab_rows = 16;
    int rc = ps_sampler_open(&s, &model, &options, err);
    ps_sampler_close(&s);
    return rc;
}

static void everything(void **state)
{
    (void)state;
    struct fixture f = {.tokens = {"ab", "abcd"},
                        .merges = {"a b"},
                        .added =
                            "[{\"id\":258,\"content\":\"<|end|>\",\"special\":true},{\"id\":259,"
                            "\"content\":\"\xC3\xA9!\",\"normalized\":true}]",
                        .normalizer = "{\"type\":\"NFC\"}",
                        .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
                               "\"pattern\":{\"String\":\"-\"},\"behavior\":\"Isolated\"},"
                               "{\"type\":\"ByteLevel\",\"use_regex\":true}]}",
                        .model_extra = "\"ignore_merges\":true"};
    void *blob;
    tokenizer = fixture_open(&f, &blob);
    source_text = fixture_text(&f);
    at_every_n(build_and_open);
    at_every_n(encode);
    at_every_n(chat);
    at_every_n(sampler);
    ps_tokenizer_close(&tokenizer);
    free(source_text);
    free(blob);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(everything)};
    return cmocka_run_group_tests_name("text_fault", tests, NULL, NULL);
}
