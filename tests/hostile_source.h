/* What the tests of bad sources share: a folder, a tiny model, and the way a refusal is checked. */
#ifndef PENSTOCK_TESTS_HOSTILE_SOURCE_H
#define PENSTOCK_TESTS_HOSTILE_SOURCE_H

#include "model/import.h"
#include "quant/type.h"
#include "source_writer.h"
#include "util.h"

struct hostile {
    char dir[256];
    struct source_writer w;
    struct tiny_model m;
};

/* cmocka's set-up and tear-down of a test whose state is a struct hostile. */
int hostile_set_up(void **state);
int hostile_tear_down(void **state);

/* The source must be refused with this code and these words (the second may be NULL) in one
 * sentence. */
void hostile_expect_with(const char *path, const char *quant, int code, const char *word,
                         const char *other_word);
void hostile_expect(const char *path, int code, const char *word, const char *other_word);

/* Writes a file into the folder; its path, valid until the next call. */
const char *hostile_put_file(struct hostile *f, const char *name, const void *data, size_t bytes);

#endif
