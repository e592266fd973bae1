/* What fuzz targets do with a tokenizer that opened. */
#ifndef PENSTOCK_TESTS_FUZZ_TOKENIZER_USE_H
#define PENSTOCK_TESTS_FUZZ_TOKENIZER_USE_H

#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"

/* Unlike assert, also in a build without assertions. */
#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

/* Encodes text and decodes what came out; every id must be one of the vocabulary's. */
static inline void fuzz_use(const struct ps_tokenizer *t, const char *text, size_t bytes)
{
    struct ps_error err = {0};
    int64_t count = ps_tokenizer_encode(t, text, bytes, NULL, 0, &err);
    if (count < 0) {
        FUZZ_CHECK(err.code == count && err.text[0]);
        return;
    }
    size_t n = (size_t)count;
    int32_t *ids = malloc((n + 1) * sizeof(*ids));
    if (!ids)
        return;
    int64_t again = ps_tokenizer_encode(t, text, bytes, ids, n, &err);
    FUZZ_CHECK(again == count);
    for (size_t i = 0; i < n; i++)
        FUZZ_CHECK(ids[i] >= 0 && (uint32_t)ids[i] < ps_tokenizer_vocab_count(t));
    int64_t decoded = ps_tokenizer_decode(t, ids, n, false, NULL, 0, &err);
    FUZZ_CHECK(decoded >= 0);
    char *out = malloc((size_t)decoded + 1);
    if (out) {
        again = ps_tokenizer_decode(t, ids, n, false, out, (size_t)decoded, &err);
        FUZZ_CHECK(again == decoded);
    }
    free(out);
    free(ids);
}

#endif
