/* The stored form: damaged anywhere, it is refused or still safe to use. */
#include <endian.h>

#include "core/util.h"
#include "tokenizer_fixture.h"

struct stored {
    uint8_t *blob;
    size_t bytes;
};

static struct stored make(void)
{
    struct fixture f = {.tokens = {"ab", "abc"},
                        .merges = {"a b", "ab c"},
                        .added = "[{\"id\":258,\"content\":\"<|end|>\",\"special\":true},"
                                 "{\"id\":260,\"content\":\"\xC3\xA9t\",\"normalized\":true}]",
                        .normalizer = "{\"type\":\"NFC\"}",
                        .pre = "{\"type\":\"ByteLevel\",\"use_regex\":true}"};
    struct stored s;
    struct ps_error err = {0};
    void *blob = NULL;
    char *text = fixture_text(&f);
    if (ps_tokenizer_build_json(text, strlen(text), &blob, &s.bytes, &err) < 0)
        fail_msg("%s", err.text);
    free(text);
    s.blob = blob;
    return s;
}

/* Opens a copy that is exactly as long as it claims, and uses it if it opens. Returns what open
 * did. */
static int try_blob(const uint8_t *blob, size_t bytes)
{
    struct ps_tokenizer *t = NULL;
    struct ps_error err = {0};
    uint8_t *copy = malloc(bytes ? bytes : 1);
    int32_t ids[64];
    char text[256];
    assert_non_null(copy);
    memcpy(copy, blob, bytes);
    int rc = ps_tokenizer_open(&t, copy, bytes, &err);
    if (rc < 0) {
        assert_null(t);
        assert_true(err.text[0]);
        assert_int_equal(err.code, rc);
    } else {
        static const char sample[] = "abc \xC3\xA9t<|end|> e\xCC\x81t\xFF"
                                     "1";
        int64_t n = ps_tokenizer_encode(t, sample, sizeof(sample) - 1, ids, 64, &err);
        for (int64_t i = 0; i < n && i < 64; i++)
            assert_in_range(ids[i], 0, ps_tokenizer_vocab_count(t) - 1);
        if (n >= 0)
            assert_true(ps_tokenizer_decode(t, ids, (size_t)ps_min_u64((uint64_t)n, 64), false,
                                            text, sizeof(text), &err) >= 0);
    }
    ps_tokenizer_close(&t);
    free(copy);
    return rc;
}

static void opens(void **state)
{
    (void)state;
    struct stored s = make();
    assert_int_equal(try_blob(s.blob, s.bytes), 0);
    /* Nothing in it need be aligned. */
    uint8_t *odd = malloc(s.bytes + 1);
    struct ps_tokenizer *t = NULL;
    memcpy(odd + 1, s.blob, s.bytes);
    assert_int_equal(ps_tokenizer_open(&t, odd + 1, s.bytes, NULL), 0);
    EXPECT_IDS(t, "abcab<|end|>e\xCC\x81t", 257, 256, 258, 260);
    ps_tokenizer_close(&t);
    free(odd);
    free(s.blob);
}

static void truncated_or_longer(void **state)
{
    (void)state;
    struct stored s = make();
    for (size_t n = 0; n < s.bytes; n++)
        assert_true(try_blob(s.blob, n) < 0);
    uint8_t *longer = calloc(1, s.bytes + 1);
    memcpy(longer, s.blob, s.bytes);
    assert_int_equal(try_blob(longer, s.bytes + 1), -PS_ERR_FORMAT);
    free(longer);
    free(s.blob);
}

static void flipped_bits(void **state)
{
    (void)state;
    struct stored s = make();
    int refused = 0;
    for (size_t i = 0; i < s.bytes; i++) {
        for (int bit = 0; bit < 8; bit++) {
            s.blob[i] ^= (uint8_t)(1 << bit);
            refused += try_blob(s.blob, s.bytes) < 0;
            s.blob[i] ^= (uint8_t)(1 << bit);
        }
    }
    /* All of the header and the bounds: 48 + 4 * 261 bytes, to the last bit. */
    assert_true(refused >= 8 * (48 + 4 * 261));
    free(s.blob);
}

/* One field set to one value; what the message says tells that the right check found it. */
static void expect(struct stored s, size_t offset, uint32_t value, const char *says)
{
    struct ps_tokenizer *t = NULL;
    struct ps_error err = {0};
    uint32_t kept;
    memcpy(&kept, s.blob + offset, 4);
    value = htole32(value);
    memcpy(s.blob + offset, &value, 4);
    assert_true(ps_tokenizer_open(&t, s.blob, s.bytes, &err) < 0);
    if (!strstr(err.text, says))
        fail_msg("offset %zu: \"%s\" does not say \"%s\"", offset, err.text, says);
    memcpy(s.blob + offset, &kept, 4);
}

static void hostile_fields(void **state)
{
    (void)state;
    struct stored s = make();
    size_t merges = 48 + 4 * 261, kinds = merges + 2 * 12 + 4;
    expect(s, 0, 0, "magic");
    expect(s, 8, 3, "version 3");
    expect(s, 8, 2, "flags"); /* of the other version */
    expect(s, 12, 4, "flags");
    expect(s, 16, UINT32_MAX, "counts");
    expect(s, 20, UINT32_MAX, "counts");
    expect(s, 24, 9, "counts");
    expect(s, 24, 0, "announces");
    expect(s, 28, 1, "flags");
    expect(s, 36, 1, "counts");
    expect(s, 44, 1, "counts");
    expect(s, 48, UINT32_MAX, "bounds of its tokens");
    expect(s, 48 + 4 * 260, 0, "bounds of its tokens");
    expect(s, merges, 261, "not there"); /* no such id */
    expect(s, merges, 258, "not there"); /* not a normal token */
    expect(s, merges, 259, "not there"); /* an unused id */
    expect(s, merges + 8, 257, "does not make");
    expect(s, merges + 4, 'c', "does not make");
    expect(s, merges + 24, UINT32_MAX, "patterns");
    expect(s, kinds, 0x01010110, "kind");
    expect(s, kinds, 0x01010100, "no token"); /* byte 0 is gone */
    free(s.blob);
}

/* An added token that is half a character would leave the rest of the text no valid UTF-8. */
static void half_a_character(void **state)
{
    (void)state;
    struct stored s = make();
    uint8_t *at = memmem(s.blob, s.bytes, "<|end|>", 7);
    assert_non_null(at);
    at[0] = 0xA9;
    struct ps_tokenizer *t = NULL;
    struct ps_error err = {0};
    assert_int_equal(ps_tokenizer_open(&t, s.blob, s.bytes, &err), -PS_ERR_FORMAT);
    assert_non_null(strstr(err.text, "added token"));
    free(s.blob);
}

static void close_takes_null(void **state)
{
    (void)state;
    struct ps_tokenizer *t = NULL;
    ps_tokenizer_close(NULL);
    ps_tokenizer_close(&t);
    assert_null(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens),
        cmocka_unit_test(truncated_or_longer),
        cmocka_unit_test(flipped_bits),
        cmocka_unit_test(hostile_fields),
        cmocka_unit_test(half_a_character),
        cmocka_unit_test(close_takes_null),
    };
    return cmocka_run_group_tests_name("tokenizer_blob", tests, NULL, NULL);
}
