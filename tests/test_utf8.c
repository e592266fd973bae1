/* UTF-8: repair as Python's errors="replace", NFC, and the joiner of streamed characters. */
#include "core/util.h"
#include "model/text.h"
#include "model/utf8.h"
#include "util.h"

#define FFFD "\xEF\xBF\xBD"

struct pair {
    const char *in, *out;
};

/* Outputs of CPython 3.11: bytes.decode("utf-8", errors="replace"). */
static const struct pair repairs[] = {
    {"plain", "plain"},
    {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"},
    {"\x80", FFFD},
    {"\xC0\x80", FFFD FFFD},
    {"\xC1\xBF", FFFD FFFD},
    {"\xC3", FFFD},
    {"\xC3(", FFFD "("},
    {"\xE2\x82", FFFD},
    {"\xE2\x82(", FFFD "("},
    {"\xE0\x80\x80", FFFD FFFD FFFD},
    {"\xED\xA0\x80", FFFD FFFD FFFD},
    {"\xED\x9F\xBF", "\xED\x9F\xBF"},
    {"\xF0\x9F\x98", FFFD},
    {"\xF0\x9F\x98\xF0\x9F\x98\x80", FFFD "\xF0\x9F\x98\x80"},
    {"\xF0\x80\x80\x80", FFFD FFFD FFFD FFFD},
    {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},
    {"\xF4\x90\x80\x80", FFFD FFFD FFFD FFFD},
    {"\xF5\x80", FFFD FFFD},
    {"\xFE\xFF", FFFD FFFD},
    {"a\xE2\x28\xA1z", "a" FFFD "(" FFFD "z"},
};

static void repair(void **state)
{
    (void)state;
    for (size_t i = 0; i < PS_ARRAY_LEN(repairs); i++) {
        struct ps_strbuf out = {0};
        size_t bytes = strlen(repairs[i].in);
        ps_utf8_repair(&out, repairs[i].in, bytes);
        assert_string_equal(out.data, repairs[i].out);
        assert_int_equal(ps_utf8_valid(repairs[i].in, bytes),
                         !strcmp(repairs[i].in, repairs[i].out));
        assert_true(ps_utf8_valid(out.data, out.bytes));
        ps_strbuf_free(&out);
    }
}

/* From the Unicode normalisation forms: composition, exclusion, Hangul, order and blocking of
 * marks. */
static const struct pair nfc_pairs[] = {
    {"", ""},
    {"plain text", "plain text"},
    {"e\xCC\x81", "\xC3\xA9"},
    {"\xC3\xA9", "\xC3\xA9"},
    {"\xE2\x84\xAB", "\xC3\x85"},                             /* Angstrom sign */
    {"\xE2\x84\xA6", "\xCE\xA9"},                             /* Ohm sign */
    {"\xEF\xAC\x81", "\xEF\xAC\x81"},                         /* fi ligature stays */
    {"\xE0\xA5\x98", "\xE0\xA4\x95\xE0\xA4\xBC"},             /* composition exclusion */
    {"\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED\x95\x9C"}, /* conjoining jamo */
    {"\xED\x95\x98\xE1\x86\xAB", "\xED\x95\x9C"},             /* LV and T */
    {"a\xCC\x81\xCC\xA3", "\xE1\xBA\xA1\xCC\x81"},            /* classes 230, 220 */
    {"a\xCC\x80\xCC\x81", "\xC3\xA0\xCC\x81"},                /* the second mark is blocked */
    {"\xCC\x81"
     "e",
     "\xCC\x81"
     "e"},                            /* nothing before it */
    {"\xE1\xBE\x82", "\xE1\xBE\x82"}, /* three-step decomposition */
    {"\xCD\x80", "\xCC\x80"},         /* singleton */
};

static void nfc(void **state)
{
    (void)state;
    for (size_t i = 0; i < PS_ARRAY_LEN(nfc_pairs); i++) {
        struct ps_strbuf out = {0};
        ps_strbuf_add(&out, "", 0);
        ps_utf8_nfc(&out, nfc_pairs[i].in, strlen(nfc_pairs[i].in));
        assert_false(out.failed);
        assert_string_equal(out.data, nfc_pairs[i].out);
        ps_strbuf_free(&out);
    }
    assert_true(ps_utf8_nfc_trivial("caf\xC3\xA9 \xCB\xBF", 8));
    assert_false(ps_utf8_nfc_trivial("\xCC\x80", 2));
}

/* Long text is normalised stretch by stretch; where the cuts fall must not show. */
static void nfc_in_stretches(void **state)
{
    (void)state;
    struct ps_strbuf in = {0}, want = {0}, out = {0};
    for (int i = 0; i < 5000; i++) {
        ps_strbuf_puts(&in, i % 7 ? "e\xCC\x81" : "e\xCC\x81\xCC\xA3\xCC\x80 x");
        ps_strbuf_puts(&want, i % 7 ? "\xC3\xA9" : "\xE1\xBA\xB9\xCC\x81\xCC\x80 x");
    }
    ps_utf8_nfc(&out, in.data, in.bytes);
    assert_string_equal(out.data, want.data);
    ps_strbuf_free(&in);
    ps_strbuf_free(&want);
    ps_strbuf_free(&out);
}

/* Joining in chunks of `step` must give what repairing the whole gives. */
static void join_steps(const char *text, size_t step)
{
    struct ps_utf8_joiner joiner = {0};
    struct ps_strbuf want = {0}, out = {0};
    size_t bytes = strlen(text);
    char part[PS_UTF8_JOIN_BYTES(8)];
    ps_strbuf_add(&out, "", 0);
    ps_utf8_repair(&want, text, bytes);
    for (size_t at = 0; at < bytes; at += step) {
        size_t n = ps_min_u64(step, bytes - at);
        n = ps_utf8_join(&joiner, (const uint8_t *)text + at, n, part, PS_UTF8_JOIN_BYTES(n));
        assert_true(ps_utf8_valid(part, n));
        ps_strbuf_add(&out, part, n);
    }
    ps_strbuf_add(&out, part, ps_utf8_join_flush(&joiner, part, sizeof(part)));
    assert_int_equal(joiner.n, 0);
    assert_string_equal(out.data, want.data);
    ps_strbuf_free(&want);
    ps_strbuf_free(&out);
}

static void join(void **state)
{
    (void)state;
    for (size_t i = 0; i < PS_ARRAY_LEN(repairs); i++)
        for (size_t step = 1; step <= 8; step++)
            join_steps(repairs[i].in, step);
    /* A character comes out with its last byte, and not before. */
    struct ps_utf8_joiner joiner = {0};
    char out[32];
    assert_int_equal(ps_utf8_join(&joiner, (const uint8_t *)"a\xF0\x9F", 3, out, 32), 1);
    assert_int_equal(ps_utf8_join(&joiner, (const uint8_t *)"\x98", 1, out, 32), 0);
    assert_int_equal(ps_utf8_join(&joiner, (const uint8_t *)"\x80z", 2, out, 32), 5);
    assert_memory_equal(out, "\xF0\x9F\x98\x80z", 5);
    assert_int_equal(ps_utf8_join_flush(&joiner, out, 32), 0);
    assert_int_equal(ps_utf8_join(&joiner, (const uint8_t *)"", 0, out, 32), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repair),
        cmocka_unit_test(nfc),
        cmocka_unit_test(nfc_in_stretches),
        cmocka_unit_test(join),
    };
    return cmocka_run_group_tests_name("utf8", tests, NULL, NULL);
}
