/*
 * A safetensors file and its config.json, both of any content: the input is the configuration, a
 * zero byte, and the file (all of it is the file when it holds no zero byte).
 */
#include <string.h>

#include "fuzz_import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char dir[64];

static void remove_dir(void)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/config.json", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    unlink(path);
    rmdir(dir);
}

static void put(const char *name, const uint8_t *data, size_t bytes)
{
    char path[128];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    file = fopen(path, "we");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const uint8_t *zero = bytes ? memchr(data, 0, bytes) : NULL;
    size_t config_bytes = zero ? (size_t)(zero - data) : 0;

    if (!dir[0]) {
        strcpy(dir, access("/dev/shm", W_OK) == 0 ? "/dev/shm/penstock-fuzz-XXXXXX"
                                                  : "/var/tmp/penstock-fuzz-XXXXXX");
        if (!mkdtemp(dir))
            abort();
        atexit(remove_dir);
    }
    put("config.json", data, config_bytes);
    if (zero)
        put("model.safetensors", zero + 1, bytes - config_bytes - 1);
    else
        put("model.safetensors", data, bytes);
    fuzz_layout(dir);
    return 0;
}
