#include "source_writer.h"

#include "quant/type.h"
#include "util.h"

#define ALIGNMENT 32u

void writer_init(struct source_writer *w)
{
    memset(w, 0, sizeof(*w));
}

void writer_fini(struct source_writer *w)
{
    for (uint32_t i = 0; i < w->tensor_count; i++)
        free(w->tensors[i].data);
    free(w->values.data);
    memset(w, 0, sizeof(*w));
}

void writer_put(struct writer_bytes *b, const void *data, size_t bytes)
{
    if (b->bytes + bytes > b->capacity) {
        b->capacity = 2 * (b->bytes + bytes);
        b->data = realloc(b->data, b->capacity);
        assert_non_null(b->data);
    }
    if (bytes)
        memcpy(b->data + b->bytes, data, bytes);
    b->bytes += bytes;
}

void writer_put_u32(struct writer_bytes *b, uint32_t v)
{
    writer_put(b, &v, sizeof(v));
}

void writer_put_u64(struct writer_bytes *b, uint64_t v)
{
    writer_put(b, &v, sizeof(v));
}

void writer_put_text(struct writer_bytes *b, const char *text)
{
    writer_put_u64(b, strlen(text));
    writer_put(b, text, strlen(text));
}

struct writer_tensor *writer_add(struct source_writer *w, const char *name, uint32_t type,
                                 const float *values, uint32_t dim_count, const uint64_t *dims)
{
    assert_true(w->tensor_count < WRITER_TENSOR_COUNT_MAX);
    struct writer_tensor *t = &w->tensors[w->tensor_count++];
    uint64_t rows = 1, cols = dims[dim_count - 1];

    memset(t, 0, sizeof(*t));
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->type = type;
    t->dim_count = dim_count;
    memcpy(t->dims, dims, dim_count * sizeof(*dims));
    for (uint32_t i = 0; i + 1 < dim_count; i++)
        rows *= dims[i];
    t->bytes = rows * ps_row_bytes(type, cols);
    assert_true(t->bytes > 0);
    t->data = malloc(t->bytes);
    assert_non_null(t->data);
    for (uint64_t r = 0; r < rows; r++)
        ps_row_encode(type, values + r * cols, t->data + r * ps_row_bytes(type, cols), cols);
    return t;
}

struct writer_tensor *writer_find(struct source_writer *w, const char *name)
{
    for (uint32_t i = 0; i < w->tensor_count; i++)
        if (!strcmp(w->tensors[i].name, name))
            return &w->tensors[i];
    fail_msg("the tiny model has no tensor %s", name);
    return NULL;
}

void writer_remove(struct source_writer *w, const char *name)
{
    struct writer_tensor *t = writer_find(w, name);

    free(t->data);
    *t = w->tensors[--w->tensor_count];
}

/* ---- GGUF ------------------------------------------------------------ */

static void key(struct source_writer *w, const char *name, uint32_t type)
{
    writer_put_text(&w->values, name);
    writer_put_u32(&w->values, type);
    w->value_count++;
}

void writer_key_u32(struct source_writer *w, const char *name, uint32_t v)
{
    key(w, name, 4);
    writer_put_u32(&w->values, v);
}

void writer_key_u16(struct source_writer *w, const char *name, uint16_t v)
{
    key(w, name, 2);
    writer_put(&w->values, &v, sizeof(v));
}

void writer_key_f32(struct source_writer *w, const char *name, float v)
{
    key(w, name, 6);
    writer_put(&w->values, &v, sizeof(v));
}

void writer_key_text(struct source_writer *w, const char *name, const char *text)
{
    key(w, name, 8);
    writer_put_text(&w->values, text);
}

void writer_key_texts(struct source_writer *w, const char *name, const char *const *texts,
                      uint64_t count)
{
    key(w, name, 9);
    writer_put_u32(&w->values, 8);
    writer_put_u64(&w->values, count);
    for (uint64_t i = 0; i < count; i++)
        writer_put_text(&w->values, texts[i]);
}

void writer_key_i32s(struct source_writer *w, const char *name, const int32_t *v, uint64_t count)
{
    key(w, name, 9);
    writer_put_u32(&w->values, 5);
    writer_put_u64(&w->values, count);
    writer_put(&w->values, v, count * sizeof(*v));
}

static void pad(struct writer_bytes *b)
{
    static const uint8_t zeroes[ALIGNMENT];
    writer_put(b, zeroes, (ALIGNMENT - b->bytes % ALIGNMENT) % ALIGNMENT);
}

struct writer_bytes writer_gguf(const struct source_writer *w, uint32_t first, uint32_t end)
{
    struct writer_bytes b = {0};
    uint64_t offset = 0;

    writer_put(&b, "GGUF", 4);
    writer_put_u32(&b, 3);
    writer_put_u64(&b, end - first);
    writer_put_u64(&b, w->value_count);
    writer_put(&b, w->values.data, w->values.bytes);
    for (uint32_t i = first; i < end; i++) {
        const struct writer_tensor *t = &w->tensors[i];

        writer_put_text(&b, t->name);
        writer_put_u32(&b, t->dim_count);
        for (uint32_t k = t->dim_count; k-- > 0;)
            writer_put_u64(&b, t->dims[k]);
        writer_put_u32(&b, t->type);
        writer_put_u64(&b, offset);
        offset = (offset + t->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    for (uint32_t i = first; i < end; i++) {
        pad(&b);
        writer_put(&b, w->tensors[i].data, w->tensors[i].bytes);
    }
    return b;
}

struct writer_bytes writer_safetensors(const struct source_writer *w, uint32_t first, uint32_t end)
{
    struct writer_bytes b = {0}, header = {0};
    uint64_t offset = 0;
    char line[512];

    writer_put(&header, "{\"__metadata__\":{\"format\":\"pt\"}", 31);
    for (uint32_t i = first; i < end; i++) {
        const struct writer_tensor *t = &w->tensors[i];
        int n = snprintf(line, sizeof(line), ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name,
                         ps_type_info(t->type)->name);

        for (uint32_t k = 0; k < t->dim_count; k++)
            n += snprintf(line + n, sizeof(line) - (size_t)n, "%s%llu", k ? "," : "",
                          (unsigned long long)t->dims[k]);
        n += snprintf(line + n, sizeof(line) - (size_t)n, "],\"data_offsets\":[%llu,%llu]}",
                      (unsigned long long)offset, (unsigned long long)(offset + t->bytes));
        writer_put(&header, line, (size_t)n);
        offset += t->bytes;
    }
    writer_put(&header, "}", 1);
    writer_put_u64(&b, header.bytes);
    writer_put(&b, header.data, header.bytes);
    for (uint32_t i = first; i < end; i++)
        writer_put(&b, w->tensors[i].data, w->tensors[i].bytes);
    free(header.data);
    return b;
}
