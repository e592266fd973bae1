/* Reader of the reference outputs (safetensors with F32 and I64 tensors). For tests only. */
#ifndef PENSTOCK_TESTS_GOLDEN_FILE_H
#define PENSTOCK_TESTS_GOLDEN_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct golden_file;

struct golden_tensor {
    const void *data; /* float or int64_t, unaligned access is fine on x86-64 */
    bool is_float;
    int dim_count;
    size_t dims[6];
    size_t count;
};

struct golden_file *golden_open(const char *path); /* NULL if it cannot be read */
void golden_close(struct golden_file *file);
bool golden_get(const struct golden_file *file, const char *name, struct golden_tensor *tensor);

#endif
