/*
 * Safetensors files and the index of a sharded checkpoint. The format allows neither holes nor
 * overlaps nor bytes behind the last tensor, and all of that is checked.
 */
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/util.h"
#include "model/source.h"
#include "quant/type.h"

/* The format's own limit for its header. */
#define HEADER_BYTES_MAX 100000000u
#define INDEX_NAME "model.safetensors.index.json"

static const struct {
    const char *name;
    uint32_t type, bytes;
} dtypes[] = {
    {"F32", PS_TYPE_F32, 4},
    {"F16", PS_TYPE_F16, 2},
    {"BF16", PS_TYPE_BF16, 2},
    {"F64", PS_SOURCE_TYPE_OTHER, 8},
    {"I64", PS_SOURCE_TYPE_OTHER, 8},
    {"U64", PS_SOURCE_TYPE_OTHER, 8},
    {"I32", PS_SOURCE_TYPE_OTHER, 4},
    {"U32", PS_SOURCE_TYPE_OTHER, 4},
    {"I16", PS_SOURCE_TYPE_OTHER, 2},
    {"U16", PS_SOURCE_TYPE_OTHER, 2},
    {"I8", PS_SOURCE_TYPE_OTHER, 1},
    {"U8", PS_SOURCE_TYPE_OTHER, 1},
    {"BOOL", PS_SOURCE_TYPE_OTHER, 1},
    {"F8_E4M3", PS_TYPE_F8_E4M3, 1}, /* without its scales, which are a tensor of their own */
    {"F8_E5M2", PS_SOURCE_TYPE_OTHER, 1},
};

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int damaged(struct ps_error *err, const char *path, const char *tensor, const char *what)
{
    return ps_error_set(err, -PS_ERR_FORMAT, path, "%s is damaged: %s%s%s %s", base_name(path),
                        tensor ? "tensor \"" : "its header", tensor ? tensor : "",
                        tensor ? "\"" : "", what);
}

static int get_u64(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return -1;
    *out = (uint64_t)json_integer_value(value);
    return 0;
}

/* The bytes that shape and dtype ask for must be those of
 * the range; unknown dtypes have no size. */
static int check_size(const char *path, const char *name, struct ps_source_tensor *t,
                      struct ps_error *err)
{
    uint64_t bytes = 0;
    bool empty = false;

    t->type = PS_SOURCE_TYPE_OTHER;
    for (size_t i = 0; i < PS_ARRAY_LEN(dtypes); i++)
        if (!strcmp(dtypes[i].name, t->type_name)) {
            t->type = dtypes[i].type;
            bytes = dtypes[i].bytes;
        }
    if (!bytes)
        return 0;
    for (uint32_t i = 0; i < t->dim_count; i++)
        empty |= t->dims[i] == 0;
    for (uint32_t i = 0; i < t->dim_count && !empty; i++)
        if (__builtin_mul_overflow(bytes, t->dims[i], &bytes))
            return damaged(err, path, name, "has an absurd shape");
    if (t->bytes != (empty ? 0 : bytes))
        return damaged(err, path, name, "takes up other bytes than its shape and type need");
    return 0;
}

static int read_entry(struct ps_source *source, const char *path, const char *name,
                      const json_t *entry, struct ps_source_tensor *t, struct ps_error *err)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    uint64_t begin, end;
    int rc;

    if (!*name)
        return damaged(err, path, name, "has no name");
    if (!dtype || strlen(dtype) >= sizeof(t->type_name) || !json_is_array(shape) ||
        !json_is_array(offsets) || json_array_size(offsets) != 2 ||
        get_u64(json_array_get(offsets, 0), &begin) || get_u64(json_array_get(offsets, 1), &end))
        return damaged(err, path, name, "lacks a dtype, a shape or data_offsets");
    if (json_array_size(shape) > PS_SOURCE_DIM_COUNT_MAX)
        return damaged(err, path, name, "has an absurd number of dimensions");
    if (begin > end)
        return damaged(err, path, name, "ends before it begins");
    strcpy(t->type_name, dtype);
    t->dim_count = (uint32_t)json_array_size(shape);
    t->offset_bytes = begin; /* until the size of the header is added */
    t->bytes = end - begin;
    for (uint32_t i = 0; i < t->dim_count; i++)
        if (get_u64(json_array_get(shape, i), &t->dims[i]))
            return damaged(err, path, name, "has a dimension that is not a whole number");
    rc = check_size(path, name, t, err);
    return rc < 0 ? rc : ps_source_add_tensor(source, t, name, strlen(name), err);
}

static int by_offset(const void *a_ptr, const void *b_ptr)
{
    const struct ps_source_tensor *a = a_ptr, *b = b_ptr;

    if (a->offset_bytes != b->offset_bytes)
        return a->offset_bytes > b->offset_bytes ? 1 : -1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes); /* empty tensors first */
}

/* Tensors must tile the data exactly. Makes their offsets absolute. */
static int place_tensors(struct ps_source *source, const char *path, size_t first,
                         uint64_t data_begin, uint64_t file_bytes, struct ps_error *err)
{
    size_t count = source->tensor_count - first;
    struct ps_source_tensor *tensors = count ? source->tensors + first : NULL;
    uint64_t data_bytes = file_bytes - data_begin, end = 0;

    if (count)
        qsort(tensors, count, sizeof(*tensors), by_offset);
    for (size_t i = 0; i < count; i++) {
        struct ps_source_tensor *t = &tensors[i];

        if (t->offset_bytes > data_bytes || t->bytes > data_bytes - t->offset_bytes)
            return ps_error_set(err, -PS_ERR_TRUNCATED, path,
                                "%s is cut short or damaged: tensor %s lies beyond its end",
                                base_name(path), t->name);
        if (t->offset_bytes < end)
            return damaged(err, path, t->name, "overlaps another tensor");
        if (t->offset_bytes > end)
            return damaged(err, path, t->name, "has a hole before it");
        end = t->offset_bytes + t->bytes;
        t->offset_bytes += data_begin;
    }
    if (end != data_bytes)
        return damaged(err, path, NULL, "leaves bytes behind the last tensor");
    return 0;
}

static int read_entries(struct ps_source *source, uint32_t file, const char *path, json_t *root,
                        struct ps_error *err)
{
    const char *name;
    json_t *entry;

    json_object_foreach(root, name, entry)
    {
        struct ps_source_tensor t = {.file = file};
        int rc;

        if (!strcmp(name, "__metadata__"))
            continue;
        rc = read_entry(source, path, name, entry, &t, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Reads the header of one more .safetensors file. */
static int read_file(struct ps_source *source, const char *path, struct ps_error *err)
{
    size_t first = source->tensor_count;
    uint64_t header_bytes = 0, file_bytes;
    char *header = NULL;
    json_t *root = NULL;
    json_error_t at;
    int rc = ps_source_add_file(source, path, err);

    if (rc < 0)
        return rc;
    uint32_t file = (uint32_t)rc;
    file_bytes = source->files[file].bytes;
    if (file_bytes < sizeof(header_bytes))
        return ps_error_set(err, -PS_ERR_TRUNCATED, path, "%s is cut short: it has %llu bytes",
                            base_name(path), (unsigned long long)file_bytes);
    rc = ps_source_read(source, file, 0, &header_bytes, sizeof(header_bytes), err);
    if (rc < 0)
        return rc;
    header_bytes = le64toh(header_bytes);
    if (header_bytes > HEADER_BYTES_MAX)
        return damaged(err, path, NULL, "has an absurd length: this is no safetensors file");
    if (header_bytes > file_bytes - sizeof(header_bytes))
        return ps_error_set(err, -PS_ERR_TRUNCATED, path,
                            "%s is cut short: its header of %llu bytes is longer than the file",
                            base_name(path), (unsigned long long)header_bytes);
    header = malloc(header_bytes + 1);
    rc = header ? ps_source_read(source, file, sizeof(header_bytes), header, header_bytes, err)
                : ps_error_set(err, -ENOMEM, path, "memory for a header is not to be had");
    if (rc < 0)
        goto done;
    source->files[file].header_hash = XXH3_64bits(header, header_bytes);
    root = json_loadb(header, header_bytes, JSON_REJECT_DUPLICATES, &at);
    if (!json_is_object(root))
        rc = ps_error_set(err, -PS_ERR_FORMAT, path,
                          "%s is damaged: its header is not a JSON object: %s", base_name(path),
                          root ? "something else is there" : at.text);
    else
        rc = read_entries(source, file, path, root, err);
    if (rc == 0)
        rc = place_tensors(source, path, first, header_bytes + sizeof(header_bytes), file_bytes,
                           err);
done:
    json_decref(root);
    free(header);
    return rc;
}

/* ---- checkpoints of several files ------------------------------------------------------------ */

static int read_beside(struct ps_source *source, const char *name, struct ps_error *err)
{
    char *path = NULL;
    int rc;

    if (asprintf(&path, "%s/%s", source->directory, name) < 0)
        return ps_error_set(err, -ENOMEM, name, "memory for a path is not to be had");
    rc = read_file(source, path, err);
    free(path);
    return rc;
}

static int file_number(const struct ps_source *source, const char *name)
{
    for (uint32_t i = 0; i < source->file_count; i++)
        if (!strcmp(base_name(source->files[i].path), name))
            return (int)i;
    return -1;
}

/* Opens every shard that the index names, once. */
static int read_shards(struct ps_source *source, const json_t *map, struct ps_error *err)
{
    const char *tensor;
    json_t *value;

    json_object_foreach((json_t *)map, tensor, value)
    {
        const char *shard = json_string_value(value);
        int rc;

        if (!shard || !*shard || strchr(shard, '/') || !strcmp(shard, ".."))
            return ps_error_set(err, -PS_ERR_FORMAT, INDEX_NAME,
                                INDEX_NAME " gives no usable file name for tensor %s", tensor);
        if (file_number(source, shard) >= 0)
            continue;
        rc = read_beside(source, shard, err);
        if (rc == -ENOENT)
            return ps_error_set(err, rc, shard,
                                "the shard %s is missing: " INDEX_NAME " names it, for tensor %s",
                                shard, tensor);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int by_name_and_file(const void *a_ptr, const void *b_ptr)
{
    const struct ps_source_tensor *a = a_ptr, *b = b_ptr;
    int order = strcmp(a->name, b->name);

    return order ? order : (a->file > b->file) - (a->file < b->file);
}

/* Every tensor of the index must be in the shard that the index says. */
static int check_index(struct ps_source *source, const json_t *map, struct ps_error *err)
{
    const char *name;
    json_t *value;

    if (source->tensor_count)
        qsort(source->tensors, source->tensor_count, sizeof(*source->tensors), by_name_and_file);
    json_object_foreach((json_t *)map, name, value)
    {
        struct ps_source_tensor key = {.name = (char *)name};

        key.file = (uint32_t)file_number(source, json_string_value(value));
        if (!source->tensor_count ||
            !bsearch(&key, source->tensors, source->tensor_count, sizeof(key), by_name_and_file))
            return ps_error_set(err, -PS_ERR_FORMAT, name,
                                "tensor %s is not in %s, where " INDEX_NAME " says it is", name,
                                json_string_value(value));
    }
    return 0;
}

static int ends_with(const char *text, const char *tail)
{
    size_t n = strlen(text), m = strlen(tail);
    return n > m && !strcmp(text + n - m, tail);
}

static int is_shard(const struct dirent *entry)
{
    return ends_with(entry->d_name, ".safetensors");
}

/* Without an index: model.safetensors alone, else every .safetensors file,
 * in the order of names. */
static int read_loose(struct ps_source *source, struct ps_error *err)
{
    struct dirent **list = NULL;
    int rc = read_beside(source, "model.safetensors", err);

    if (rc != -ENOENT)
        return rc;
    int count = scandir(source->directory, &list, is_shard, alphasort);
    if (count <= 0) {
        free(list);
        return ps_error_set(err, -PS_ERR_FORMAT, source->directory,
                            "%s holds no .safetensors files: name a GGUF file or the directory of "
                            "a safetensors checkpoint",
                            source->directory);
    }
    rc = 0;
    for (int i = 0; i < count; i++) {
        if (rc == 0)
            rc = read_beside(source, list[i]->d_name, err);
        free(list[i]);
    }
    free(list);
    return rc;
}

static int read_directory(struct ps_source *source, struct ps_error *err)
{
    json_t *index = NULL, *map;
    int rc = ps_source_sidecar_json(source, INDEX_NAME, &index, err);

    if (rc == -ENOENT)
        return read_loose(source, err);
    if (rc < 0)
        return rc;
    map = json_object_get(index, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        rc = ps_error_set(err, -PS_ERR_FORMAT, INDEX_NAME, INDEX_NAME " has no weight_map");
    if (rc == 0)
        rc = read_shards(source, map, err);
    if (rc == 0)
        rc = check_index(source, map, err);
    json_decref(index);
    return rc;
}

int ps_safetensors_read(struct ps_source *source, const char *path, bool is_directory,
                        struct ps_error *err)
{
    const char *slash = strrchr(path, '/');

    source->kind = PS_SOURCE_SAFETENSORS;
    if (is_directory)
        source->directory = strdup(path);
    else if (slash)
        source->directory = strndup(path, slash == path ? 1 : (size_t)(slash - path));
    else
        source->directory = strdup(".");
    if (!source->directory)
        return ps_error_set(err, -ENOMEM, path, "memory for a path is not to be had");
    return is_directory ? read_directory(source, err) : read_file(source, path, err);
}
