/*
 * Sources of tokenizers. An input is a tokenizer.json, then, after a zero byte, text to encode with
 * it; or, when its first byte is 'G', the lists of a GGUF file, a line each: a digit (the type) and
 * a token, or 'm' and a merge. The 256 single bytes come first of themselves there.
 */
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "fuzz_tokenizer_use.h"

static void try_json(const uint8_t *data, size_t bytes)
{
    const uint8_t *zero = memchr(data, 0, bytes);
    size_t json_bytes = zero ? (size_t)(zero - data) : bytes;
    struct ps_error err = {0};
    void *blob = NULL;
    size_t blob_bytes = 0;
    int rc = ps_tokenizer_build_json((const char *)data, json_bytes, &blob, &blob_bytes, &err);
    if (rc < 0) {
        FUZZ_CHECK(err.code == rc && err.text[0] && !blob);
        return;
    }
    struct ps_tokenizer *t = NULL;
    rc = ps_tokenizer_open(&t, blob, blob_bytes, &err);
    FUZZ_CHECK(rc == 0); /* what a builder makes, open accepts */
    fuzz_use(t, (const char *)data + json_bytes, bytes - json_bytes);
    fuzz_use(t, (const char *)data, ps_min_u64(bytes, 64));
    ps_tokenizer_close(&t);
    free(blob);
}

static void surface(int byte, char out[2], size_t *bytes)
{
    static int codes[256];
    if (!codes['a'])
        for (int b = 0, next = 0x100; b < 256; b++)
            codes[b] = (b > 32 && b < 127) || (b > 160 && b != 173) ? b : next++;
    *bytes = codes[byte] < 0x80 ? 1 : 2;
    out[0] = (char)(*bytes == 1 ? codes[byte] : 0xC0 | codes[byte] >> 6);
    out[1] = (char)(0x80 | (codes[byte] & 0x3F));
}

static void try_gguf(const uint8_t *data, size_t bytes)
{
    static char letters[256][2];
    static struct ps_gguf_string tokens[256 + 4096], merges[4096];
    static int32_t types[256 + 4096];
    struct ps_tokenizer_gguf source = {.model = {"gpt2", 4},
                                       .pre = {"qwen35", 6},
                                       .tokens = tokens,
                                       .token_count = 256,
                                       .types = types,
                                       .merges = merges};
    for (int b = 0; b < 256; b++) {
        size_t n;
        surface(b, letters[b], &n);
        tokens[b] = (struct ps_gguf_string){letters[b], n};
        types[b] = 1;
    }
    for (size_t at = 1; at < bytes;) {
        const uint8_t *end = memchr(data + at, '\n', bytes - at);
        size_t stop = end ? (size_t)(end - data) : bytes;
        struct ps_gguf_string text = {(const char *)data + at + 1, stop > at ? stop - at - 1 : 0};
        if (stop > at && data[at] == 'm' && source.merge_count < 4096) {
            merges[source.merge_count++] = text;
        } else if (stop > at && source.token_count < 256 + 4096) {
            types[source.token_count] = data[at] - '0';
            tokens[source.token_count++] = text;
        }
        at = stop + 1;
    }
    struct ps_error err = {0};
    void *blob = NULL;
    size_t blob_bytes;
    int rc = ps_tokenizer_build_gguf(&source, &blob, &blob_bytes, &err);
    if (rc < 0) {
        FUZZ_CHECK(err.code == rc && err.text[0] && !blob);
        return;
    }
    struct ps_tokenizer *t = NULL;
    rc = ps_tokenizer_open(&t, blob, blob_bytes, &err);
    FUZZ_CHECK(rc == 0);
    fuzz_use(t, (const char *)data, bytes);
    ps_tokenizer_close(&t);
    free(blob);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes && data[0] == 'G')
        try_gguf(data, bytes);
    else
        try_json(data, bytes);
    return 0;
}
