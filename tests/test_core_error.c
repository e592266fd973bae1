/* Error records, their texts, and the log callback. */
#include "util.h"

#include "core/error.h"
#include "core/log.h"

static void fills_the_record(void **state)
{
    (void)state;
    struct ps_error err;
    memset(&err, 0x55, sizeof(err));
    int rc = ps_error_set(&err, -PS_ERR_CHECKSUM, "member 2", "Slice %d of expert %d.", 3, 17);
    assert_int_equal(rc, -4099);
    assert_int_equal(err.code, -4099);
    assert_string_equal(err.where, "member 2");
    assert_string_equal(err.text, "Slice 3 of expert 17.");

    assert_int_equal(ps_error_set(&err, -ENOMEM, NULL, "None."), -ENOMEM);
    assert_string_equal(err.where, "");
    assert_int_equal(ps_error_set(NULL, -EIO, "x", "%s", "y"), -EIO);
}

static void cuts_what_is_too_long(void **state)
{
    (void)state;
    struct ps_error err;
    char text[2000];
    memset(text, 'a', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    ps_error_set(&err, -EIO, text, "%s", text);
    assert_int_equal(strlen(err.where), sizeof(err.where) - 1);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

static void wraps_its_own_sentence(void **state)
{
    (void)state;
    struct ps_error err;
    ps_error_set(&err, -EIO, "disk", "inner");
    ps_error_set(&err, err.code, err.where, "outer: %s", err.text);
    assert_string_equal(err.where, "disk");
    assert_string_equal(err.text, "outer: inner");
}

static void names_every_code(void **state)
{
    (void)state;
    for (int a = PS_ERR_FORMAT; a <= PS_ERR_ARGUMENT; a++) {
        assert_string_not_equal(ps_strerror(-a), "unknown error");
        for (int b = PS_ERR_FORMAT; b < a; b++)
            assert_string_not_equal(ps_strerror(-a), ps_strerror(-b));
    }
    assert_string_equal(ps_strerror(-ENOMEM), "Cannot allocate memory");
    assert_string_equal(ps_strerror(-(PS_ERR_ARGUMENT + 1)), "unknown error");
    assert_string_equal(ps_strerror(-3000), "unknown error");
    assert_string_equal(ps_strerror(0), "success");
}

struct heard {
    int count;
    enum ps_log_level level;
    char text[2048];
};

static void hear(void *ctx, enum ps_log_level level, const char *text)
{
    struct heard *heard = ctx;
    heard->count++;
    heard->level = level;
    snprintf(heard->text, sizeof(heard->text), "%s", text);
}

static void logs_through_the_callback(void **state)
{
    (void)state;
    struct heard heard = {0};
    ps_log(PS_LOG_ERROR, "Nobody listens yet.");
    ps_log_set(hear, &heard);
    ps_log(PS_LOG_WARN, "%d of %d", 1, 2);
    assert_int_equal(heard.count, 1);
    assert_int_equal(heard.level, PS_LOG_WARN);
    assert_string_equal(heard.text, "1 of 2");

    ps_log(PS_LOG_INFO, "%01500d", 7);
    assert_int_equal(strlen(heard.text), 1023);
    ps_log_set(NULL, NULL);
    ps_log(PS_LOG_INFO, "Silence again.");
    assert_int_equal(heard.count, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_the_record),          cmocka_unit_test(cuts_what_is_too_long),
        cmocka_unit_test(wraps_its_own_sentence),    cmocka_unit_test(names_every_code),
        cmocka_unit_test(logs_through_the_callback),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
