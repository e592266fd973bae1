#include "hostile_source.h"

int hostile_set_up(void **state)
{
    struct hostile *f = calloc(1, sizeof(*f));

    ps_test_dir_make(f->dir, sizeof(f->dir));
    f->m = tiny_default(true);
    *state = f;
    return 0;
}

int hostile_tear_down(void **state)
{
    struct hostile *f = *state;

    ps_test_dir_remove(f->dir);
    writer_fini(&f->w);
    free(f);
    return 0;
}

void hostile_expect_with(const char *path, const char *quant, int code, const char *word,
                         const char *other_word)
{
    struct ps_model_layout_options options = {.source = path, .quant = quant};
    struct ps_import *import = NULL;
    struct ps_error err = {0};
    int rc = ps_import_open(&import, &options, 1, &err);

    if (rc == 0)
        fail_msg("%s was accepted (expected: %s)", path, word);
    assert_null(import);
    if (rc != code || err.code != code || !strstr(err.text, word) ||
        (other_word && !strstr(err.text, other_word)))
        fail_msg("expected %d with \"%s\" and \"%s\", got %d: %s", code, word,
                 other_word ? other_word : "", rc, err.text);
    assert_null(strchr(err.text, '\n'));
}

void hostile_expect(const char *path, int code, const char *word, const char *other_word)
{
    hostile_expect_with(path, "keep", code, word, other_word);
}

const char *hostile_put_file(struct hostile *f, const char *name, const void *data, size_t bytes)
{
    static char path[600];

    ps_test_file_write(f->dir, name, data, bytes);
    snprintf(path, sizeof(path), "%s/%s", f->dir, name);
    return path;
}
