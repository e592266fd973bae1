/* Stored tokenizers. An input is one byte n, n bytes of text to encode, and the blob. */
#include "fuzz_tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    size_t text_bytes = bytes ? data[0] : 0;
    if (bytes < 1 + text_bytes)
        return 0;
    struct ps_tokenizer *t = NULL;
    struct ps_error err = {0};
    /* A copy of its own, so that a read beyond its end is seen. */
    size_t blob_bytes = bytes - 1 - text_bytes;
    uint8_t *blob = malloc(blob_bytes ? blob_bytes : 1);
    if (!blob)
        return 0;
    memcpy(blob, data + 1 + text_bytes, blob_bytes);
    int rc = ps_tokenizer_open(&t, blob, blob_bytes, &err);
    if (rc < 0)
        FUZZ_CHECK(err.code == rc && err.text[0] && !t);
    else
        fuzz_use(t, (const char *)data + 1, text_bytes);
    ps_tokenizer_close(&t);
    free(blob);
    return 0;
}
