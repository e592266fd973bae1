#include "golden_file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct golden_file {
    uint8_t *bytes;
    size_t size;
    const uint8_t *data;
    json_t *header;
};

struct golden_file *golden_open(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct golden_file *g = calloc(1, sizeof(*g));
    uint64_t header_bytes = 0;

    if (!f || !g || fseek(f, 0, SEEK_END) != 0)
        goto fail;
    g->size = (size_t)ftell(f);
    rewind(f);
    g->bytes = malloc(g->size + 1);
    if (!g->bytes || g->size < 8 || fread(g->bytes, 1, g->size, f) != g->size)
        goto fail;
    memcpy(&header_bytes, g->bytes, 8);
    if (header_bytes > g->size - 8)
        goto fail;
    g->header = json_loadb((const char *)g->bytes + 8, header_bytes, 0, NULL);
    if (!g->header)
        goto fail;
    g->data = g->bytes + 8 + header_bytes;
    fclose(f);
    return g;

fail:
    if (f)
        fclose(f);
    golden_close(g);
    return NULL;
}

void golden_close(struct golden_file *file)
{
    if (!file)
        return;
    json_decref(file->header);
    free(file->bytes);
    free(file);
}

bool golden_get(const struct golden_file *file, const char *name, struct golden_tensor *tensor)
{
    const json_t *info = json_object_get(file->header, name);
    const json_t *shape = json_object_get(info, "shape");
    const char *dtype = json_string_value(json_object_get(info, "dtype"));

    if (!info || !dtype || json_array_size(shape) > 6)
        return false;
    tensor->is_float = strcmp(dtype, "F32") == 0;
    tensor->dim_count = (int)json_array_size(shape);
    tensor->count = 1;
    for (int i = 0; i < tensor->dim_count; i++) {
        tensor->dims[i] = (size_t)json_integer_value(json_array_get(shape, (size_t)i));
        tensor->count *= tensor->dims[i];
    }
    tensor->data =
        file->data + json_integer_value(json_array_get(json_object_get(info, "data_offsets"), 0));
    return true;
}
