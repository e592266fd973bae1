/*
 * The bytes of the volume, from those of the source. Types that stay are moved without a change;
 * others are decoded exactly to F32 and encoded, row by row, so a result never depends on how it
 * was cut.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/fp8.h"
#include "model/import.h"
#include "quant/encode.h"
#include "quant/type.h"

#define ENCODE_VALUES 16384u
#define CONVERT_BYTES (4u << 20) /* of source read at once while converting */

static int grow(void **memory, size_t *have, size_t need, struct ps_error *err)
{
    void *grown;

    if (*have >= need)
        return 0;
    grown = realloc(*memory, need);
    if (!grown)
        return ps_error_set(err, -ENOMEM, NULL,
                            "memory for converting a tensor (%zu bytes) is not "
                            "to be had",
                            need);
    *memory = grown;
    *have = need;
    return 0;
}

static int grow_for(struct ps_import_scratch *s, size_t raw_bytes, size_t value_count,
                    size_t row_bytes, struct ps_error *err)
{
    int rc = grow((void **)&s->raw, &s->raw_bytes, raw_bytes, err);

    if (rc == 0)
        rc = grow((void **)&s->values, &s->values_bytes, value_count * sizeof(float), err);
    if (rc == 0)
        rc = grow((void **)&s->row, &s->row_bytes, row_bytes, err);
    return rc;
}

/* The type in which read_rows gives rows. */
static uint32_t row_type(const struct ps_tensor_ref *ref)
{
    return ps_fp8_row_type(ref->tensor->type, ref->cols);
}

/* True when the bytes in the source are those of the volume. */
static bool is_moved(const struct ps_tensor_ref *ref, uint32_t type)
{
    return type == row_type(ref) && ref->transform == PS_TRANSFORM_NONE && !ref->scales &&
           ref->order.kind == PS_ORDER_PLAIN;
}

/* Bytes [begin, end) of the referenced rows as they lie in the source; not of F8_E4M3. */
static int read_range(const struct ps_import *import, struct ps_import_scratch *s,
                      const struct ps_tensor_ref *ref, uint64_t begin, uint64_t end, void *buf,
                      struct ps_error *err)
{
    uint64_t row_bytes = ps_row_bytes(ref->tensor->type, ref->cols);

    return ps_source_window_read(import->source, &s->window, ref->tensor->file,
                                 ref->tensor->offset_bytes + ref->row_begin * row_bytes + begin,
                                 buf, end - begin, err);
}

/* Rows up to `end` of the reference are going to be read. */
static void expect_rows(struct ps_import_scratch *s, const struct ps_tensor_ref *ref, uint64_t end)
{
    uint64_t stride = ref->scales ? ref->cols : ps_row_bytes(ref->tensor->type, ref->cols);

    s->window.until_file = ref->tensor->file;
    s->window.until = ref->tensor->offset_bytes + (ref->row_begin + end) * stride;
}

/* Rows [first, first + count) of the scales, as floats. A scale that is no number would make a
 * square of weights none; such a file is damaged. */
static int read_factors(const struct ps_import *import, struct ps_import_scratch *s,
                        const struct ps_source_tensor *scales, uint64_t first, uint64_t count,
                        float **factors, struct ps_error *err)
{
    uint64_t cols = scales->dims[scales->dim_count - 1];
    uint64_t stride = ps_row_bytes(scales->type, cols), values = count * cols;
    int rc = grow((void **)&s->factors, &s->factors_bytes, values * 2 * sizeof(float), err);

    if (rc == 0)
        rc = ps_source_window_read(import->source, &s->window, scales->file,
                                   scales->offset_bytes + first * stride,
                                   s->factors + values * sizeof(float), count * stride, err);
    if (rc < 0)
        return rc;
    *factors = (float *)(void *)s->factors;
    ps_row_decode(scales->type, s->factors + values * sizeof(float), *factors, values);
    for (uint64_t i = 0; i < values; i++)
        if (!isfinite((*factors)[i]))
            return ps_error_set(err, -PS_ERR_FORMAT, scales->name,
                                "the scales %s are damaged: the one of row %llu, column %llu is "
                                "not a finite number",
                                scales->name, (unsigned long long)(first + i / cols),
                                (unsigned long long)(i % cols));
    return 0;
}

static int read_f8_rows(const struct ps_import *import, struct ps_import_scratch *s,
                        const struct ps_tensor_ref *ref, uint64_t begin, uint64_t end, uint8_t *dst,
                        struct ps_error *err)
{
    uint64_t cols = ref->cols, stride = ps_row_bytes(row_type(ref), cols);
    uint64_t chunk = ps_max_u64(CONVERT_BYTES / cols, 1);
    uint64_t factor_cols = ps_div_up(cols, PS_FP8_BLOCK);
    int rc = grow((void **)&s->codes, &s->codes_bytes, chunk * cols, err);

    for (; begin < end && rc == 0; begin += chunk) {
        uint64_t count = ps_min_u64(chunk, end - begin);
        uint64_t first = ps_fp8_scale_row(ref, begin);
        float *factors = NULL;

        rc = read_factors(import, s, ref->scales, first,
                          ps_fp8_scale_row(ref, begin + count - 1) + 1 - first, &factors, err);
        if (rc == 0)
            rc = ps_source_window_read(import->source, &s->window, ref->tensor->file,
                                       ref->tensor->offset_bytes + (ref->row_begin + begin) * cols,
                                       s->codes, count * cols, err);
        for (uint64_t i = 0; i < count && rc == 0; i++, dst += stride)
            ps_fp8_join(s->codes + i * cols,
                        factors + (ps_fp8_scale_row(ref, begin + i) - first) * factor_cols, cols,
                        dst);
    }
    return rc;
}

/* Rows [begin, end) of the reference in row_type, back to back. */
static int read_rows(const struct ps_import *import, struct ps_import_scratch *s,
                     const struct ps_tensor_ref *ref, uint64_t begin, uint64_t end, uint8_t *dst,
                     struct ps_error *err)
{
    uint64_t stride = ps_row_bytes(row_type(ref), ref->cols);

    if (ref->scales)
        return read_f8_rows(import, s, ref, begin, end, dst, err);
    return read_range(import, s, ref, begin * stride, end * stride, dst, err);
}

/*
 * In double and rounded once, so that the volume's bytes do not depend on whose expf is linked.
 */
static void transform(enum ps_transform what, float *values, uint64_t count)
{
    if (what == PS_TRANSFORM_PLUS_ONE)
        for (uint64_t i = 0; i < count; i++)
            values[i] = values[i] + 1.0f;
    else if (what == PS_TRANSFORM_NEG_EXP)
        for (uint64_t i = 0; i < count; i++)
            values[i] = (float)-exp((double)values[i]);
}

/* Rows that are decoded before they are encoded: they stay in the cache, and fill the lanes. */
static uint64_t encode_row_count(uint64_t cols)
{
    return ps_max_u64(ENCODE_VALUES / cols, 1);
}

/* The first `count` rows of s->raw into dst, in `type`, back to back. */
static void encode_rows(struct ps_import_scratch *s, const struct ps_tensor_ref *ref,
                        uint64_t count, uint32_t type, uint8_t *dst)
{
    uint32_t source_type = row_type(ref);
    uint64_t source_stride = ps_row_bytes(source_type, ref->cols);
    uint64_t some = encode_row_count(ref->cols);
    struct ps_encode e = {
        .type = type, .cols = ref->cols, .values = s->values, .importance = s->weights, .dst = dst};

    for (uint64_t row = 0; row < count; row += some) {
        e.rows = ps_min_u64(some, count - row);
        for (uint64_t i = 0; i < e.rows; i++)
            ps_row_decode(source_type, s->raw + (row + i) * source_stride,
                          s->values + i * ref->cols, ref->cols);
        transform(ref->transform, s->values, e.rows * ref->cols);
        ps_encode_rows(&e);
        e.dst = (uint8_t *)e.dst + e.rows * ps_row_bytes(type, ref->cols);
    }
}

/* Rows [begin, end) of the reference into dst, in `type`, back to back. */
static int convert_rows(const struct ps_import *import, struct ps_import_scratch *s,
                        const struct ps_tensor_ref *ref, uint64_t begin, uint64_t end,
                        uint32_t type, uint8_t *dst, struct ps_error *err)
{
    uint32_t source_type = row_type(ref);
    uint64_t source_stride = ps_row_bytes(source_type, ref->cols);
    uint64_t stride = ps_row_bytes(type, ref->cols);
    uint64_t chunk = ps_max_u64(CONVERT_BYTES / source_stride, 1);
    int rc;

    if (type == source_type && ref->transform == PS_TRANSFORM_NONE)
        return read_rows(import, s, ref, begin, end, dst, err);
    rc = grow_for(s, chunk * source_stride, encode_row_count(ref->cols) * ref->cols, 0, err);
    for (uint64_t row = begin; row < end && rc == 0; row += chunk) {
        uint64_t count = ps_min_u64(chunk, end - row);

        rc = read_rows(import, s, ref, row, row + count, s->raw, err);
        if (rc == 0)
            encode_rows(s, ref, count, type, dst);
        dst += count * stride;
    }
    return rc;
}

/* The same where the source has the rows in another order: run by run. */
static int convert_ordered(const struct ps_import *import, struct ps_import_scratch *s,
                           const struct ps_tensor_ref *ref, uint64_t begin, uint64_t end,
                           uint32_t type, uint8_t *dst, struct ps_error *err)
{
    uint64_t stride = ps_row_bytes(type, ref->cols);
    int rc = 0;

    if (ref->order.kind == PS_ORDER_PLAIN)
        return convert_rows(import, s, ref, begin, end, type, dst, err);
    for (uint64_t row = begin; row < end && rc == 0;) {
        struct ps_tensor_ref part = *ref;
        uint64_t run;

        part.row_begin = ps_tensor_ref_row(ref, row, &run);
        part.rows = ps_min_u64(run, end - row);
        part.order.kind = PS_ORDER_PLAIN;
        rc = convert_rows(import, s, &part, 0, part.rows, type, dst, err);
        row += part.rows;
        dst += part.rows * stride;
    }
    return rc;
}

/* What the file says of matrix `matrix` of a tensor, for what is encoded next. name may be NULL. */
static int set_weights(const struct ps_import *import, struct ps_import_scratch *s,
                       const char *name, uint64_t matrix, uint64_t cols, struct ps_error *err)
{
    int rc;

    s->weights = NULL;
    if (!name || !ps_importance_has(import->importance, name))
        return 0;
    rc = grow((void **)&s->importance, &s->importance_bytes, cols * sizeof(float), err);
    if (rc == 0)
        rc = ps_importance_read(import->importance, name, matrix, cols, s->importance, err);
    if (rc > 0)
        s->weights = s->importance;
    return rc < 0 ? rc : 0;
}

/* ---- resident tensors ------------------------------------------------------------ */

/* The part of one row that lies in [begin, end) of the tensor's bytes. */
static int fill_part_row(const struct ps_import *import, struct ps_import_scratch *s,
                         const struct ps_tensor_ref *ref, uint32_t type, uint64_t begin,
                         uint64_t end, uint8_t *buf, struct ps_error *err)
{
    uint64_t stride = ps_row_bytes(type, ref->cols);
    uint64_t row = begin / stride;
    int rc = grow_for(s, 0, 0, stride, err);

    if (rc == 0)
        rc = convert_ordered(import, s, ref, row, row + 1, type, s->row, err);
    if (rc == 0)
        memcpy(buf, s->row + (begin - row * stride), end - begin);
    return rc;
}

/* Slices end at multiples of 4 MiB, rows where they like: only the outer rows are cut. */
static int fill_resident(const struct ps_import *import, struct ps_import_scratch *s,
                         uint32_t tensor, uint64_t begin, uint64_t end, uint8_t *buf,
                         struct ps_error *err)
{
    const struct ps_tensor_ref *ref = &import->refs[tensor];
    uint32_t type = import->tensors[tensor].type;
    uint64_t stride = ps_row_bytes(type, ref->cols);
    uint64_t whole_begin = ps_div_up(begin, stride), whole_end = end / stride;
    char name[64];
    int rc;

    expect_rows(s, ref, ps_div_up(end, stride));
    if (is_moved(ref, type))
        return read_range(import, s, ref, begin, end, buf, err);
    rc = set_weights(import, s,
                     ps_importance_role_name(import, import->tensors[tensor].role,
                                             import->tensors[tensor].layer, type, name,
                                             sizeof(name)),
                     0, ref->cols, err);
    if (rc < 0)
        return rc;
    if (begin < whole_begin * stride) {
        uint64_t cut = ps_min_u64(end, whole_begin * stride);

        rc = fill_part_row(import, s, ref, type, begin, cut, buf, err);
        if (rc < 0 || cut == end)
            return rc;
    }
    if (whole_begin < whole_end)
        rc = convert_ordered(import, s, ref, whole_begin, whole_end, type,
                             buf + (whole_begin * stride - begin), err);
    if (rc == 0 && whole_end * stride < end)
        rc = fill_part_row(import, s, ref, type, whole_end * stride, end,
                           buf + (whole_end * stride - begin), err);
    return rc;
}

/* ---- experts ------------------------------------------------------------ */

/* Gate or up: a slice's rows are a run of the matrix's rows. */
static int fill_rows(const struct ps_import *import, struct ps_import_scratch *s,
                     const struct ps_import_layer *l, const struct ps_tensor_ref *ref,
                     enum ps_expert_part part, uint8_t *buf, struct ps_error *err)
{
    uint32_t type = part == PS_EXPERT_GATE ? l->shape.gate_type : l->shape.up_type;
    int rc = 0;

    expect_rows(s, ref, ref->rows);
    for (uint32_t i = 0; i < l->slice_count && rc == 0; i++) {
        const struct ps_layout_slice *slice = &l->slices[i];
        struct ps_slice_parts parts;

        ps_slice_parts(&l->shape, slice->unit_count, &parts);
        rc = convert_rows(
            import, s, ref, slice->unit_begin, (uint64_t)slice->unit_begin + slice->unit_count,
            type, buf + (part == PS_EXPERT_GATE ? parts.gate_offset : parts.up_offset), err);
        buf += slice->bytes;
    }
    return rc;
}

/* Copies one row of the down matrix, a run of columns to each slice. */
static void spread_row(const struct ps_import_layer *l, const uint8_t *whole, uint64_t row,
                       uint8_t *buf)
{
    const struct ps_type_info *info = ps_type_info(l->shape.down_type);

    for (uint32_t i = 0; i < l->slice_count; i++) {
        const struct ps_layout_slice *slice = &l->slices[i];
        struct ps_slice_parts parts;

        ps_slice_parts(&l->shape, slice->unit_count, &parts);
        memcpy(buf + parts.down_offset + row * parts.down_stride,
               whole + (uint64_t)slice->unit_begin / info->block_len * info->block_bytes,
               parts.down_stride);
        buf += slice->bytes;
    }
}

/* Slices end between blocks, so whole rows are encoded and then cut. */
static int fill_down(const struct ps_import *import, struct ps_import_scratch *s,
                     const struct ps_import_layer *l, const struct ps_tensor_ref *ref, uint8_t *buf,
                     struct ps_error *err)
{
    uint32_t type = l->shape.down_type, source_type = row_type(ref);
    uint64_t source_stride = ps_row_bytes(source_type, ref->cols);
    uint64_t stride = ps_row_bytes(type, ref->cols);
    uint64_t chunk = ps_max_u64(CONVERT_BYTES / source_stride, 1);
    bool same = type == source_type;
    int rc = grow_for(s, chunk * source_stride, encode_row_count(ref->cols) * ref->cols,
                      same ? 0 : chunk * stride, err);

    expect_rows(s, ref, ref->rows);
    for (uint64_t row = 0; row < ref->rows && rc == 0; row += chunk) {
        uint64_t count = ps_min_u64(chunk, ref->rows - row);
        const uint8_t *whole = same ? s->raw : s->row;

        rc = read_rows(import, s, ref, row, row + count, s->raw, err);
        if (rc == 0 && !same)
            encode_rows(s, ref, count, type, s->row);
        for (uint64_t i = 0; i < count && rc == 0; i++)
            spread_row(l, whole + i * stride, row + i, buf);
    }
    return rc;
}

/* Parts begin at multiples of 64 bytes: what lies between them is zero. */
static void clear_gaps(const struct ps_import_layer *l, uint8_t *buf)
{
    for (uint32_t i = 0; i < l->slice_count; i++) {
        uint64_t n = l->slices[i].unit_count;
        struct ps_slice_parts parts;

        ps_slice_parts(&l->shape, (uint32_t)n, &parts);
        uint64_t gate_end = parts.gate_offset + n * parts.gate_stride;
        uint64_t up_end = parts.up_offset + n * parts.up_stride;
        memset(buf + gate_end, 0, parts.up_offset - gate_end);
        memset(buf + up_end, 0, parts.down_offset - up_end);
        buf += l->slices[i].bytes;
    }
}

static int fill_expert(const struct ps_import *import, struct ps_import_scratch *s, uint32_t layer,
                       uint32_t expert, uint8_t *buf, struct ps_error *err)
{
    const struct ps_import_layer *l = &import->layers[layer];
    const uint32_t types[] = {l->shape.gate_type, l->shape.up_type, l->shape.down_type};
    char name[64];
    int rc = 0;

    clear_gaps(l, buf);
    for (int part = 0; part < PS_EXPERT_PART_COUNT && rc == 0; part++) {
        struct ps_tensor_ref ref;

        rc = ps_checkpoint_find_expert(&import->checkpoint, &import->config, layer, expert,
                                       (enum ps_expert_part)part, &ref, err);
        if (rc == 0)
            rc = set_weights(import, s,
                             ps_importance_expert_name(import, layer, (enum ps_expert_part)part,
                                                       types[part], name, sizeof(name)),
                             expert, ref.cols, err);
        if (rc < 0)
            return rc;
        rc = part == PS_EXPERT_DOWN
                 ? fill_down(import, s, l, &ref, buf, err)
                 : fill_rows(import, s, l, &ref, (enum ps_expert_part)part, buf, err);
    }
    return rc;
}

int ps_import_fill(void *ctx, int worker, uint32_t object, uint32_t slice_begin, uint32_t slice_end,
                   uint8_t *buf, struct ps_error *err)
{
    struct ps_import *import = ctx;
    struct ps_import_scratch *s = &import->scratch[worker];
    const struct ps_layout_object *o = &import->objects[object];
    uint64_t begin = 0, bytes = 0;

    if (slice_begin >= slice_end || slice_end > o->slice_count)
        return ps_error_set(err, -PS_ERR_ARGUMENT, o->name, "slices %u to %u are not there",
                            slice_begin, slice_end);
    if (o->kind == PS_OBJECT_STREAMED)
        return fill_expert(import, s, o->group, o->index, buf, err);
    for (uint32_t i = 0; i < slice_end; i++) {
        if (i < slice_begin)
            begin += o->slices[i].bytes;
        else
            bytes += o->slices[i].bytes;
    }
    return fill_resident(import, s, o->index, begin, begin + bytes, buf, err);
}
