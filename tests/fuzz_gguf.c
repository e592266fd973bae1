/* A GGUF file of any content: header, metadata, tensors, model, tokenizer, plan and fill. */
#include "fuzz_import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char path[64];
    int fd = fuzz_file(data, bytes, path, sizeof(path));

    fuzz_layout(path);
    close(fd);
    return 0;
}
