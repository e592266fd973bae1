/* Small tokenizers made to measure, and the demo model's own, for the tests of text. */
#ifndef PENSTOCK_TESTS_TOKENIZER_FIXTURE_H
#define PENSTOCK_TESTS_TOKENIZER_FIXTURE_H

#include <jansson.h>

#include "model/tokenizer.h"
#include "util.h"

static inline char *fixture_read(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    struct stat st;
    if (!file || fstat(fileno(file), &st) < 0)
        fail_msg("cannot open %s", path);
    char *data = malloc((size_t)st.st_size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)st.st_size, file), st.st_size);
    data[st.st_size] = 0;
    *bytes = (size_t)st.st_size;
    fclose(file);
    return data;
}

static inline json_t *fixture_json(const char *path)
{
    json_error_t error;
    json_t *json = json_load_file(path, 0, &error);
    if (!json)
        fail_msg("%s: %s", path, error.text);
    return json;
}

/* The character that stands for a byte in the byte-level alphabet, as UTF-8. */
static inline void fixture_surface(int byte, char out[4])
{
    static const char odd[] = "\xAD";
    int code = byte, next = 0x100;
    for (int b = 0; b <= byte; b++) {
        int plain = (b > 32 && b < 127) || (b > 160 && b != (uint8_t)odd[0]);
        code = plain ? b : next;
        next += !plain;
    }
    if (code < 0x80) {
        snprintf(out, 4, "%c", code);
    } else {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        out[2] = 0;
    }
}

/* The ids of a fixture's single bytes are the bytes; those of its extra tokens follow from 256. */
struct fixture {
    const char *tokens[16];  /* extra tokens of the vocabulary */
    const char *merges[16];  /* "left right" */
    const char *added;       /* JSON of added_tokens; NULL = none */
    const char *normalizer;  /* JSON; NULL = null */
    const char *pre;         /* JSON; NULL = ByteLevel without a regex */
    const char *model_extra; /* one more "key":value of model, or NULL */
};

static inline char *fixture_text(const struct fixture *f)
{
    json_t *vocab = json_object(), *merges = json_array();
    for (int b = 0; b < 256; b++) {
        char surface[4];
        fixture_surface(b, surface);
        json_object_set_new(vocab, surface, json_integer(b));
    }
    for (int i = 0; i < 16 && f->tokens[i]; i++)
        json_object_set_new(vocab, f->tokens[i], json_integer(256 + i));
    for (int i = 0; i < 16 && f->merges[i]; i++)
        json_array_append_new(merges, json_string(f->merges[i]));
    char *v = json_dumps(vocab, JSON_COMPACT), *m = json_dumps(merges, JSON_COMPACT), *text = NULL;
    assert_true(asprintf(&text,
                         "{\"added_tokens\":%s,\"normalizer\":%s,\"pre_tokenizer\":%s,"
                         "\"model\":{\"type\":\"BPE\",%s%s\"vocab\":%s,\"merges\":%s}}",
                         f->added ? f->added : "[]", f->normalizer ? f->normalizer : "null",
                         f->pre ? f->pre : "{\"type\":\"ByteLevel\",\"use_regex\":false}",
                         f->model_extra ? f->model_extra : "", f->model_extra ? "," : "", v,
                         m) > 0);
    free(v);
    free(m);
    json_decref(vocab);
    json_decref(merges);
    return text;
}

/* Builds a fixture that must be good; *blob is freed by the caller after the tokenizer. */
static inline struct ps_tokenizer *fixture_open(const struct fixture *f, void **blob)
{
    struct ps_tokenizer *tokenizer = NULL;
    struct ps_error err = {0};
    size_t bytes;
    char *text = fixture_text(f);
    if (ps_tokenizer_build_json(text, strlen(text), blob, &bytes, &err) < 0 ||
        ps_tokenizer_open(&tokenizer, *blob, bytes, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    free(text);
    return tokenizer;
}

/* Encodes and compares with a list of ids that ends in -1. */
static inline void fixture_expect(const struct ps_tokenizer *t, const char *text, size_t bytes,
                                  const int32_t *want)
{
    int32_t ids[64];
    struct ps_error err = {0};
    int64_t count = ps_tokenizer_encode(t, text, bytes, ids, 64, &err);
    int64_t wanted = 0;
    while (want[wanted] >= 0)
        wanted++;
    if (count < 0)
        fail_msg("\"%s\": %s", text, err.text);
    for (int64_t i = 0; i < count && i < wanted; i++)
        if (ids[i] != want[i])
            fail_msg("\"%s\": id %d is %d, not %d", text, (int)i, ids[i], want[i]);
    if (count != wanted)
        fail_msg("\"%s\": %d ids, not %d", text, (int)count, (int)wanted);
}

#define EXPECT_IDS(t, text, ...)                                                                   \
    fixture_expect(t, text, sizeof(text) - 1, (const int32_t[]){__VA_ARGS__, -1})

#endif
