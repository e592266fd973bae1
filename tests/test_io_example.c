/* The example of docs/io.md as a program of its own: right sum, right errors; and the page shows it
 * as it is. */
#include "store_fixture.h"

#include <inttypes.h>

static struct store_volume bed;

/* Runs the example with 2 > 1; fills in its output and returns its exit status. */
static int run_example(const char *volume, const char *memory, char *out, size_t out_bytes)
{
    char command[1024];
    snprintf(command, sizeof(command), "'%s' '%s' %s 2>&1", PS_EXAMPLE, volume, memory);
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    size_t n = fread(out, 1, out_bytes - 1, pipe);
    out[n] = '\0';
    int status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_sum(void **state)
{
    char out[1024], expected[128];
    uint64_t sum = 0, bytes = 0;
    struct ps_store *store = NULL;
    struct ps_store_options options = {.lease_count = 1, .cache_bytes = 64 << 20};
    (void)state;

    assert_int_equal(ps_store_open(&store, bed.volume, &options, NULL), 0);
    for (uint32_t i = 0; i < STORE_GROUPS * STORE_INDEXES; i++) {
        struct ps_object_info info;
        ps_volume_object(bed.volume, i, &info);
        uint8_t *buf = aligned_alloc(4096, info.bytes);
        assert_int_equal(ps_store_read(store, i, buf, NULL), 0);
        for (uint64_t k = 0; k < info.bytes; k++)
            sum += buf[k];
        bytes += info.bytes;
        free(buf);
    }
    ps_store_close(&store);
    snprintf(expected, sizeof(expected), "sum %" PRIu64 ", %" PRIu64 " bytes read by ", sum, bytes);
    assert_int_equal(run_example(bed.members[1], "32", out, sizeof(out)), 0);
    if (strncmp(out, expected, strlen(expected)) != 0)
        fail_msg("'%s' does not begin with '%s'", out, expected);
}

static void test_errors(void **state)
{
    char out[1024];
    (void)state;

    assert_int_equal(run_example(bed.members[0], "1", out, sizeof(out)), 1);
    assert_non_null(strstr(out, "needs at least"));
    assert_int_equal(run_example("/nonexistent/volume", "64", out, sizeof(out)), 1);
    assert_non_null(strstr(out, "/nonexistent/volume"));
    store_corrupt(&bed, 2, 1);
    assert_int_equal(run_example(bed.members[0], "32", out, sizeof(out)), 1);
    store_corrupt(&bed, 2, 1);
    assert_non_null(strstr(out, "layer 0 expert 2, slice 2 of 3"));
}

static char *read_text(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = calloc(1, 1 << 20);
    assert_non_null(file);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    return text;
}

static void test_page_shows_it(void **state)
{
    char *page = read_text(PS_SOURCE_DIR "/docs/io.md");
    char *source = read_text(PS_SOURCE_DIR "/docs/examples/read_objects.c");
    (void)state;

    const char *code = strstr(page, "```c\n");
    assert_non_null(code);
    assert_int_equal(strncmp(code + 5, source, strlen(source)), 0);
    free(page);
    free(source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_page_shows_it),
    };
    store_volume_make(&bed, 2);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    store_volume_remove(&bed);
    return rc;
}
