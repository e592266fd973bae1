/* Lookups in the metadata of a GGUF file. Every length in it
 * was checked when the header was read. */
#include "model/gguf.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

/* Fixed sizes of the kinds; 0 for those that carry a length. */
const uint8_t ps_gguf_kind_bytes[PS_GGUF_KIND_COUNT] = {
    [PS_GGUF_U8] = 1,  [PS_GGUF_I8] = 1,  [PS_GGUF_U16] = 2, [PS_GGUF_I16] = 2,
    [PS_GGUF_U32] = 4, [PS_GGUF_I32] = 4, [PS_GGUF_F32] = 4, [PS_GGUF_BOOL] = 1,
    [PS_GGUF_U64] = 8, [PS_GGUF_I64] = 8, [PS_GGUF_F64] = 8,
};

int ps_gguf_by_key(const void *a_ptr, const void *b_ptr)
{
    const struct ps_gguf_value *a = a_ptr, *b = b_ptr;
    int order = memcmp(a->key, b->key, ps_min_u64(a->key_bytes, b->key_bytes));

    if (order)
        return order;
    return (a->key_bytes > b->key_bytes) - (a->key_bytes < b->key_bytes);
}

const struct ps_gguf_value *ps_gguf_find(const struct ps_source *source, const char *key)
{
    struct ps_gguf_value wanted = {.key = key, .key_bytes = strlen(key)};

    if (!source->gguf_value_count)
        return NULL;
    return bsearch(&wanted, source->gguf_values, source->gguf_value_count, sizeof(wanted),
                   ps_gguf_by_key);
}

static int wrong_kind(const struct ps_source *source, const char *key, const char *wanted,
                      struct ps_error *err)
{
    return ps_error_set(err, -PS_ERR_FORMAT, source->name, "the GGUF key %s is not %s", key,
                        wanted);
}

/* One item of an array (or the value itself) of whole numbers. -1: it is of another kind. */
static int item_integer(const struct ps_gguf_value *value, uint64_t i, int64_t *out)
{
    const uint8_t *p;
    uint64_t raw = 0;
    size_t bytes;

    if (value->item_type >= PS_GGUF_KIND_COUNT || value->item_type == PS_GGUF_F32 ||
        value->item_type == PS_GGUF_F64 || !ps_gguf_kind_bytes[value->item_type])
        return -1;
    bytes = ps_gguf_kind_bytes[value->item_type];
    p = value->data + i * bytes;
    for (size_t k = 0; k < bytes; k++)
        raw |= (uint64_t)p[k] << (8 * k);
    switch (value->item_type) {
    case PS_GGUF_I8:
        *out = (int8_t)raw;
        break;
    case PS_GGUF_I16:
        *out = (int16_t)raw;
        break;
    case PS_GGUF_I32:
        *out = (int32_t)raw;
        break;
    default:
        *out = (int64_t)raw;
        break;
    }
    return value->item_type == PS_GGUF_U64 && raw > INT64_MAX ? -1 : 0;
}

int ps_gguf_u32(const struct ps_source *source, const char *key, uint32_t *out,
                struct ps_error *err)
{
    const struct ps_gguf_value *value = ps_gguf_find(source, key);
    int64_t number;

    if (!value)
        return 0;
    if (value->type == PS_GGUF_ARRAY || item_integer(value, 0, &number) < 0 || number < 0 ||
        number > UINT32_MAX)
        return wrong_kind(source, key, "a single whole number of 32 bits", err);
    *out = (uint32_t)number;
    return 1;
}

int ps_gguf_number(const struct ps_source *source, const char *key, double *out,
                   struct ps_error *err)
{
    const struct ps_gguf_value *value = ps_gguf_find(source, key);
    int64_t number;
    float single;

    if (!value)
        return 0;
    if (value->type == PS_GGUF_F32) {
        memcpy(&single, value->data, sizeof(single));
        *out = single;
        return 1;
    }
    if (value->type == PS_GGUF_F64) {
        memcpy(out, value->data, sizeof(*out));
        return 1;
    }
    if (value->type == PS_GGUF_ARRAY || item_integer(value, 0, &number) < 0)
        return wrong_kind(source, key, "a single number", err);
    *out = (double)number;
    return 1;
}

static uint64_t string_at(const uint8_t *p, struct ps_gguf_string *out)
{
    uint64_t bytes;

    memcpy(&bytes, p, sizeof(bytes));
    out->bytes = le64toh(bytes);
    out->data = (const char *)p + sizeof(bytes);
    return sizeof(bytes) + out->bytes;
}

int ps_gguf_text(const struct ps_source *source, const char *key, struct ps_gguf_string *out,
                 struct ps_error *err)
{
    const struct ps_gguf_value *value = ps_gguf_find(source, key);

    if (!value)
        return 0;
    if (value->type != PS_GGUF_STRING)
        return wrong_kind(source, key, "a text", err);
    string_at(value->data, out);
    return 1;
}

int ps_gguf_texts(const struct ps_source *source, const char *key, struct ps_gguf_string **out,
                  uint64_t *count, struct ps_error *err)
{
    const struct ps_gguf_value *value = ps_gguf_find(source, key);
    struct ps_gguf_string *list;
    const uint8_t *p;

    if (!value)
        return 0;
    if (value->type != PS_GGUF_ARRAY || value->item_type != PS_GGUF_STRING)
        return wrong_kind(source, key, "a list of texts", err);
    list = malloc((value->count + 1) * sizeof(*list));
    if (!list)
        return ps_error_set(err, -ENOMEM, key, "memory for a list of %llu texts is not to be had",
                            (unsigned long long)value->count);
    p = value->data;
    for (uint64_t i = 0; i < value->count; i++)
        p += string_at(p, &list[i]);
    *out = list;
    *count = value->count;
    return 1;
}

int ps_gguf_integers(const struct ps_source *source, const char *key, int32_t **out,
                     uint64_t *count, struct ps_error *err)
{
    const struct ps_gguf_value *value = ps_gguf_find(source, key);
    int32_t *list;

    if (!value)
        return 0;
    if (value->type != PS_GGUF_ARRAY)
        return wrong_kind(source, key, "a list of whole numbers", err);
    list = malloc((value->count + 1) * sizeof(*list));
    if (!list)
        return ps_error_set(err, -ENOMEM, key, "memory for a list of %llu numbers is not to be had",
                            (unsigned long long)value->count);
    for (uint64_t i = 0; i < value->count; i++) {
        int64_t number;

        if (item_integer(value, i, &number) < 0 || number < INT32_MIN || number > INT32_MAX) {
            free(list);
            return wrong_kind(source, key, "a list of whole numbers of 32 bits", err);
        }
        list[i] = (int32_t)number;
    }
    *out = list;
    *count = value->count;
    return 1;
}

int ps_gguf_floats(const struct ps_source *source, const char *key, float **out, uint64_t *count,
                   struct ps_error *err)
{
    const struct ps_gguf_value *value = ps_gguf_find(source, key);
    float *list;

    if (!value)
        return 0;
    if (value->type != PS_GGUF_ARRAY || value->item_type != PS_GGUF_F32)
        return wrong_kind(source, key, "a list of numbers of kind F32", err);
    list = malloc((value->count + 1) * sizeof(*list));
    if (!list)
        return ps_error_set(err, -ENOMEM, key, "memory for a list of %llu numbers is not to be had",
                            (unsigned long long)value->count);
    memcpy(list, value->data, value->count * sizeof(*list));
    *out = list;
    *count = value->count;
    return 1;
}
