/* Puts a fuzz input where the readers expect it: into files of a memory file system. */
#ifndef PENSTOCK_TESTS_FUZZ_IMPORT_H
#define PENSTOCK_TESTS_FUZZ_IMPORT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/import.h"

/* A memory file that holds the bytes; its path is put into buf. */
static inline int fuzz_file(const uint8_t *data, size_t bytes, char *buf, size_t buf_bytes)
{
    int fd = memfd_create("input", MFD_CLOEXEC);

    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes)
        abort();
    snprintf(buf, buf_bytes, "/proc/self/fd/%d", fd);
    return fd;
}

/* Plans the layout of the source and fills every object: whatever the plan accepts must be readable
 * without a fault, whether the reads succeed or not. */
static inline void fuzz_layout(const char *path)
{
    struct ps_model_layout_options options = {.source = path, .quant = "keep", .slice_bytes = 4096};
    struct ps_import *import = NULL;
    struct ps_error err = {0};

    if (ps_import_open(&import, &options, 1, &err) < 0) {
        if (!err.text[0] || err.code >= 0)
            abort(); /* a refusal without a sentence */
        return;
    }
    for (uint32_t i = 0; i < import->object_count; i++) {
        const struct ps_layout_object *o = &import->objects[i];
        uint64_t bytes = 0;
        uint8_t *buf;

        for (uint32_t k = 0; k < o->slice_count; k++)
            bytes += o->slices[k].bytes;
        buf = malloc(bytes);
        if (buf)
            (void)ps_import_fill(import, 0, i, 0, o->slice_count, buf, &err);
        free(buf);
    }
    ps_import_close(&import);
}

#endif
