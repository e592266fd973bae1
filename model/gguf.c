/*
 * GGUF v2 and v3, single files and split sets (spec B; the GGUF specification). The header is read
 * into one growing buffer: positions, not pointers, are kept while it grows. Nothing in it is
 * believed before it has been compared with the bytes that are left in the file.
 */
#include "model/gguf.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/util.h"
#include "quant/type.h"

#define HEADER_BYTES_MAX (1ull << 30)
#define READ_AHEAD_BYTES (1ull << 20)
#define KEY_BYTES_MAX 65535u
#define NAME_BYTES_MAX 512u
#define ALIGNMENT_DEFAULT 32u
#define ALIGNMENT_MAX (1u << 24)
#define DIM_COUNT_MAX 4u
#define ARRAY_DEPTH_MAX 8

/* Types that GGUF has and quant/type.h has no use for: plain numbers. */
static const struct {
    uint32_t type, bytes;
    const char *name;
} plain_types[] = {{24, 1, "I8"}, {25, 2, "I16"}, {26, 4, "I32"}, {27, 8, "I64"}, {28, 8, "F64"}};

struct reader {
    struct ps_source *source;
    uint32_t file;
    const char *name; /* base name, for messages */
    uint8_t *buf;
    uint64_t have, capacity; /* bytes in buf, from the file's begin */
    uint64_t at;
    struct ps_gguf_value *values; /* data and key are offsets until the header is complete */
    uint64_t value_count, tensor_count;
    struct ps_error *err;
};

static int damaged(const struct reader *r, const char *what)
{
    return ps_error_set(r->err, -PS_ERR_FORMAT, r->source->files[r->file].path,
                        "%s is damaged near byte %llu: %s", r->name, (unsigned long long)r->at,
                        what);
}

static uint64_t left(const struct reader *r)
{
    return r->source->files[r->file].bytes - r->at;
}

/* Makes the next `bytes` bytes present in the buffer. */
static int need(struct reader *r, uint64_t bytes)
{
    uint64_t size = r->source->files[r->file].bytes, end;
    int rc;

    if (bytes > left(r))
        return ps_error_set(r->err, -PS_ERR_TRUNCATED, r->source->files[r->file].path,
                            "%s is cut short: its header needs %llu bytes at byte %llu, the file "
                            "has %llu bytes in all",
                            r->name, (unsigned long long)bytes, (unsigned long long)r->at,
                            (unsigned long long)size);
    if (r->at + bytes <= r->have)
        return 0;
    if (r->at + bytes > HEADER_BYTES_MAX)
        return damaged(r, "the header is larger than any model's");
    end = ps_min_u64(ps_max_u64(r->at + bytes, ps_max_u64(2 * r->have, READ_AHEAD_BYTES)), size);
    if (end > r->capacity) {
        uint8_t *grown = realloc(r->buf, end);
        if (!grown)
            return ps_error_set(r->err, -ENOMEM, r->name, "memory for a header of %llu bytes",
                                (unsigned long long)end);
        r->buf = grown;
        r->capacity = end;
    }
    rc = ps_source_read(r->source, r->file, r->have, r->buf + r->have, end - r->have, r->err);
    if (rc == 0)
        r->have = end;
    return rc;
}

static int read_u32(struct reader *r, uint32_t *out)
{
    int rc = need(r, sizeof(*out));
    if (rc < 0)
        return rc;
    memcpy(out, r->buf + r->at, sizeof(*out));
    *out = le32toh(*out);
    r->at += sizeof(*out);
    return 0;
}

static int read_u64(struct reader *r, uint64_t *out)
{
    int rc = need(r, sizeof(*out));
    if (rc < 0)
        return rc;
    memcpy(out, r->buf + r->at, sizeof(*out));
    *out = le64toh(*out);
    r->at += sizeof(*out);
    return 0;
}

/* A string: its place in the buffer is returned, its bytes are passed over. */
static int read_string(struct reader *r, uint64_t bytes_max, uint64_t *at, uint64_t *bytes)
{
    int rc = read_u64(r, bytes);

    if (rc < 0)
        return rc;
    if (*bytes > bytes_max)
        return damaged(r, "a name or key is absurdly long");
    rc = need(r, *bytes);
    if (rc < 0)
        return rc;
    *at = r->at;
    r->at += *bytes;
    return 0;
}

/* ---- metadata ------------------------------------------------------------ */

static int skip_items(struct reader *r, uint32_t kind, uint64_t count, int depth);

/* Arrays of arrays are allowed by the GGUF specification. No key that is looked up here holds one,
 * so they are only passed over. */
static int skip_arrays(struct reader *r, uint64_t count, int depth)
{
    uint32_t kind;
    uint64_t items;
    int rc = 0;

    if (depth == ARRAY_DEPTH_MAX)
        return damaged(r, "arrays are nested deeper than any metadata needs");
    if (count > left(r) / (sizeof(kind) + sizeof(items)))
        return damaged(r, "an array has more arrays than the file has room for");
    while (rc == 0 && count--)
        if ((rc = read_u32(r, &kind)) == 0 && (rc = read_u64(r, &items)) == 0)
            rc = skip_items(r, kind, items, depth + 1);
    return rc;
}

/* depth: of the arrays that the items are in. */
static int skip_items(struct reader *r, uint32_t kind, uint64_t count, int depth)
{
    uint64_t at, bytes;
    int rc = 0;

    if (kind >= PS_GGUF_KIND_COUNT)
        return damaged(r, "a value is of a kind that GGUF does not have");
    if (kind == PS_GGUF_ARRAY)
        return skip_arrays(r, count, depth);
    if (ps_gguf_kind_bytes[kind]) {
        if (count > left(r) / ps_gguf_kind_bytes[kind])
            return damaged(r, "an array has more items than the file has bytes");
        rc = need(r, count * ps_gguf_kind_bytes[kind]);
        if (rc == 0)
            r->at += count * ps_gguf_kind_bytes[kind];
        return rc;
    }
    if (count > left(r) / sizeof(uint64_t))
        return damaged(r, "an array has more strings than the file has room for");
    while (rc == 0 && count--)
        rc = read_string(r, UINT64_MAX, &at, &bytes);
    return rc;
}

static int read_value(struct reader *r, struct ps_gguf_value *value)
{
    uint64_t key_at = 0, begin;
    int rc;

    if ((rc = read_string(r, KEY_BYTES_MAX, &key_at, &value->key_bytes)) < 0 ||
        (rc = read_u32(r, &value->type)) < 0)
        return rc;
    value->count = 1;
    value->item_type = value->type;
    if (value->type == PS_GGUF_ARRAY &&
        ((rc = read_u32(r, &value->item_type)) < 0 || (rc = read_u64(r, &value->count)) < 0))
        return rc;
    begin = r->at;
    rc = skip_items(r, value->item_type, value->count, 1);
    value->bytes = r->at - begin;
    value->key = (const char *)(uintptr_t)key_at;
    value->data = (const uint8_t *)(uintptr_t)begin;
    return rc;
}

static int read_values(struct reader *r)
{
    /* A key, a kind and one byte are the least that a pair can be. */
    if (r->value_count > left(r) / 13)
        return damaged(r, "more metadata is announced than the file has room for");
    r->values = calloc(r->value_count + 1, sizeof(*r->values));
    if (!r->values)
        return ps_error_set(r->err, -ENOMEM, r->name, "memory for the metadata is not to be had");
    for (uint64_t i = 0; i < r->value_count; i++) {
        int rc = read_value(r, &r->values[i]);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* After the last byte of the header is in the buffer, which will not move any more. */
static int settle_values(struct reader *r)
{
    for (uint64_t i = 0; i < r->value_count; i++) {
        r->values[i].key = (const char *)r->buf + (uintptr_t)r->values[i].key;
        r->values[i].data = r->buf + (uintptr_t)r->values[i].data;
    }
    qsort(r->values, r->value_count, sizeof(*r->values), ps_gguf_by_key);
    for (uint64_t i = 1; i < r->value_count; i++)
        if (ps_gguf_by_key(&r->values[i - 1], &r->values[i]) == 0)
            return damaged(r, "a metadata key is there twice");
    return 0;
}

/* ---- tensors ------------------------------------------------------------ */

static int refuse_tensor(const struct reader *r, const struct ps_source_tensor *t, int code,
                         const char *what)
{
    return ps_error_set(r->err, code, t->name, "%s: tensor %s %s", r->name, t->name, what);
}

/* Sets type_name and the bytes by the type's number. */
static int size_tensor(const struct reader *r, struct ps_source_tensor *t)
{
    /* Numbers beyond GGUF's are of types of this project, which such a file cannot mean. */
    const struct ps_type_info *info = t->type < PS_TYPE_COUNT ? ps_type_info(t->type) : NULL;
    uint64_t elements = 1, row, block_len = 1, block_bytes = 0;

    for (uint32_t i = 0; i < t->dim_count; i++)
        if (t->dims[i] == 0 || __builtin_mul_overflow(elements, t->dims[i], &elements))
            return refuse_tensor(r, t, -PS_ERR_FORMAT, "has a shape that is empty or absurd");
    row = t->dims[t->dim_count - 1];
    if (info) {
        block_len = info->block_len;
        block_bytes = info->block_bytes;
        snprintf(t->type_name, sizeof(t->type_name), "%s", info->name);
    }
    for (size_t i = 0; !info && i < PS_ARRAY_LEN(plain_types); i++)
        if (plain_types[i].type == t->type) {
            block_bytes = plain_types[i].bytes;
            snprintf(t->type_name, sizeof(t->type_name), "%s", plain_types[i].name);
        }
    if (!block_bytes)
        return ps_error_set(r->err, -PS_ERR_UNSUPPORTED, t->name,
                            "%s: tensor %s has type number %u, which is not known", r->name,
                            t->name, t->type);
    if (row % block_len)
        return ps_error_set(r->err, -PS_ERR_FORMAT, t->name,
                            "%s: tensor %s has rows of %llu values, but %s comes in blocks of %llu",
                            r->name, t->name, (unsigned long long)row, t->type_name,
                            (unsigned long long)block_len);
    if (__builtin_mul_overflow(elements / block_len, block_bytes, &t->bytes))
        return refuse_tensor(r, t, -PS_ERR_FORMAT, "has a shape that is absurdly large");
    if (!info)
        t->type = PS_SOURCE_TYPE_OTHER;
    return 0;
}

static int read_tensor(struct reader *r)
{
    struct ps_source_tensor t = {.file = r->file};
    uint64_t name_at = 0, name_bytes = 0;
    int rc;

    if ((rc = read_string(r, NAME_BYTES_MAX, &name_at, &name_bytes)) < 0 ||
        (rc = read_u32(r, &t.dim_count)) < 0)
        return rc;
    if (name_bytes == 0 || memchr(r->buf + name_at, 0, name_bytes))
        return damaged(r, "a tensor's name is empty or holds a zero byte");
    if (t.dim_count == 0 || t.dim_count > DIM_COUNT_MAX)
        return damaged(r, "a tensor does not have one to four dimensions");
    for (uint32_t i = t.dim_count; i-- > 0;)
        if ((rc = read_u64(r, &t.dims[i])) < 0)
            return rc;
    if ((rc = read_u32(r, &t.type)) < 0 || (rc = read_u64(r, &t.offset_bytes)) < 0)
        return rc;
    rc = ps_source_add_tensor(r->source, &t, (const char *)r->buf + name_at, name_bytes, r->err);
    if (rc == 0)
        rc = size_tensor(r, &r->source->tensors[r->source->tensor_count - 1]);
    return rc;
}

static int by_offset(const void *a_ptr, const void *b_ptr)
{
    const struct ps_source_tensor *a = a_ptr, *b = b_ptr;
    return (a->offset_bytes > b->offset_bytes) - (a->offset_bytes < b->offset_bytes);
}

/* Turns offsets into places in the file; refuses what lies outside, off its alignment or on top of
 * another tensor. */
static int place_tensors(struct reader *r, size_t first, uint32_t alignment)
{
    uint64_t file_bytes = r->source->files[r->file].bytes;
    uint64_t data_begin = ps_align_up(r->at, alignment);
    size_t count = r->source->tensor_count - first;
    struct ps_source_tensor *tensors;

    if (count == 0)
        return 0;
    tensors = r->source->tensors + first;
    qsort(tensors, count, sizeof(*tensors), by_offset);
    for (size_t i = 0; i < count; i++) {
        struct ps_source_tensor *t = &tensors[i];
        uint64_t room = file_bytes > data_begin ? file_bytes - data_begin : 0;

        if (t->offset_bytes % alignment)
            return refuse_tensor(r, t, -PS_ERR_FORMAT, "does not begin on the file's alignment");
        if (t->offset_bytes > room || t->bytes > room - t->offset_bytes)
            return refuse_tensor(r, t, -PS_ERR_TRUNCATED,
                                 "lies beyond the end of the file: it is cut short or damaged");
        t->offset_bytes += data_begin;
        if (i && t[-1].offset_bytes + t[-1].bytes > t->offset_bytes)
            return refuse_tensor(r, t, -PS_ERR_FORMAT, "overlaps another tensor");
    }
    return 0;
}

static int read_tensors(struct reader *r)
{
    size_t first = r->source->tensor_count;
    struct ps_source view = {.gguf_values = r->values, .gguf_value_count = r->value_count};
    uint32_t alignment = ALIGNMENT_DEFAULT;
    int rc;

    /* A length, a dimension count, one dimension, a type and an offset. */
    if (r->tensor_count > left(r) / 32)
        return damaged(r, "more tensors are announced than the file has room for");
    for (uint64_t i = 0; i < r->tensor_count; i++)
        if ((rc = read_tensor(r)) < 0)
            return rc;
    r->source->files[r->file].header_hash = XXH3_64bits(r->buf, r->at);
    if ((rc = settle_values(r)) < 0 ||
        (rc = ps_gguf_u32(&view, "general.alignment", &alignment, r->err)) < 0)
        return rc;
    if (alignment == 0 || (alignment & (alignment - 1)) || alignment > ALIGNMENT_MAX)
        return damaged(r, "general.alignment is not a power of two in reason");
    return place_tensors(r, first, alignment);
}

static int read_header(struct reader *r)
{
    uint32_t version;
    int rc = need(r, 4);

    if (rc < 0)
        return rc;
    if (memcmp(r->buf, "GGUF", 4))
        return damaged(r, "the file does not begin with \"GGUF\"");
    r->at = 4;
    if ((rc = read_u32(r, &version)) < 0)
        return rc;
    if (version != 2 && version != 3)
        return ps_error_set(r->err, -PS_ERR_UNSUPPORTED, r->source->files[r->file].path,
                            "%s has GGUF version %u; versions 2 and 3, little endian, are read",
                            r->name, version);
    if ((rc = read_u64(r, &r->tensor_count)) < 0 || (rc = read_u64(r, &r->value_count)) < 0 ||
        (rc = read_values(r)) < 0)
        return rc;
    return read_tensors(r);
}

/* ---- files ------------------------------------------------------------ */

/* Reads one file. The first leaves its metadata with the source; of others only the split keys are
 * wanted. split: number of this part and how many there are; 0 of 1 without the keys. */
static int read_file(struct ps_source *source, const char *path, uint32_t split[2],
                     struct ps_error *err)
{
    const char *slash = strrchr(path, '/');
    struct reader r = {.source = source, .name = slash ? slash + 1 : path, .err = err};
    int rc = ps_source_add_file(source, path, err);

    if (rc < 0)
        return rc;
    r.file = (uint32_t)rc;
    rc = read_header(&r);
    split[0] = 0;
    split[1] = 1;
    if (rc == 0) {
        struct ps_source view = {.gguf_values = r.values, .gguf_value_count = r.value_count};

        if ((rc = ps_gguf_u32(&view, "split.no", &split[0], err)) >= 0)
            rc = ps_gguf_u32(&view, "split.count", &split[1], err);
        rc = rc < 0 ? rc : 0;
    }
    if (rc == 0 && r.file == 0) {
        source->gguf_header = r.buf;
        source->gguf_values = r.values;
        source->gguf_value_count = r.value_count;
        return 0;
    }
    free(r.buf);
    free(r.values);
    return rc;
}

/* The path of part `i` of `count`, given that of the first. NULL with *err filled. */
static char *part_path(const char *first, uint32_t i, uint32_t count, struct ps_error *err)
{
    char tail[40], *path = NULL;
    size_t len = strlen(first), tail_len;

    snprintf(tail, sizeof(tail), "-%05u-of-%05u.gguf", 1u, count);
    tail_len = strlen(tail);
    if (len < tail_len || strcmp(first + len - tail_len, tail)) {
        ps_error_set(err, -PS_ERR_FORMAT, first,
                     "the file is the first of %u parts, but its name does not end in \"%s\": the "
                     "others cannot be found",
                     count, tail);
        return NULL;
    }
    if (asprintf(&path, "%.*s-%05u-of-%05u.gguf", (int)(len - tail_len), first, i + 1, count) < 0) {
        ps_error_set(err, -ENOMEM, first, "memory for a path is not to be had");
        return NULL;
    }
    return path;
}

static int read_part(struct ps_source *source, const char *first, uint32_t i, uint32_t count,
                     struct ps_error *err)
{
    char *path = part_path(first, i, count, err);
    uint32_t split[2];
    int rc;

    if (!path)
        return err ? err->code : -PS_ERR_FORMAT;
    rc = read_file(source, path, split, err);
    if (rc == -ENOENT)
        ps_error_set(err, rc, path, "part %u of %u is missing: %s", i + 1, count,
                     strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
    else if (rc == 0 && (split[0] != i || split[1] != count))
        rc = ps_error_set(err, -PS_ERR_FORMAT, path,
                          "the file says that it is part %u of %u, not %u of %u", split[0] + 1,
                          split[1], i + 1, count);
    free(path);
    return rc;
}

int ps_gguf_read(struct ps_source *source, const char *path, struct ps_error *err)
{
    uint32_t split[2], announced = 0;
    int rc;

    source->kind = PS_SOURCE_GGUF;
    rc = read_file(source, path, split, err);
    if (rc < 0)
        return rc;
    if (split[0] != 0)
        return ps_error_set(err, -PS_ERR_FORMAT, path,
                            "%s is part %u of %u: name the first part of the set", source->name,
                            split[0] + 1, split[1]);
    if (split[1] > PS_SOURCE_FILE_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, path, "%s is one of %u parts; %d at most",
                            source->name, split[1], PS_SOURCE_FILE_COUNT_MAX);
    for (uint32_t i = 1; i < split[1]; i++)
        if ((rc = read_part(source, path, i, split[1], err)) < 0)
            return rc;
    rc = ps_gguf_u32(source, "split.tensors.count", &announced, err);
    if (rc > 0 && announced != source->tensor_count)
        return ps_error_set(err, -PS_ERR_FORMAT, path,
                            "the set should hold %u tensors, but its parts hold %zu", announced,
                            source->tensor_count);
    return rc < 0 ? rc : 0;
}
