#include "model/expert.h"

#include "core/util.h"
#include "quant/kernels.h"
#include "quant/type.h"

/* Parts begin on a cache line, so that a kernel's first load of a part never splits one. */
#define PART_ALIGN 64u

void ps_slice_parts(const struct ps_expert_shape *shape, uint32_t n, struct ps_slice_parts *parts)
{
    parts->gate_stride = ps_row_bytes(shape->gate_type, shape->hidden);
    parts->up_stride = ps_row_bytes(shape->up_type, shape->hidden);
    parts->down_stride = ps_row_bytes(shape->down_type, n);
    parts->gate_offset = 0;
    parts->up_offset = ps_align_up(parts->gate_stride * n, PART_ALIGN);
    parts->down_offset = ps_align_up(parts->up_offset + parts->up_stride * n, PART_ALIGN);
    parts->bytes = parts->down_offset + parts->down_stride * shape->hidden;
}

uint32_t ps_slice_grain(const struct ps_expert_shape *shape)
{
    const struct ps_type_info *info = ps_type_info(shape->down_type);
    uint32_t block = info ? info->block_len : 1;
    uint32_t a = block, b = PS_LANES;

    while (b) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return block / a * PS_LANES;
}

/* The largest multiple of `step` neurons, at least one step, whose slice is within target_bytes. */
static uint64_t largest_multiple(const struct ps_expert_shape *shape, uint32_t step,
                                 uint64_t target_bytes)
{
    uint64_t low = 1, high = ps_div_up(shape->width, step);

    while (low < high) {
        uint64_t mid = low + (high - low + 1) / 2;
        struct ps_slice_parts parts;

        ps_slice_parts(shape, (uint32_t)(mid * step), &parts);
        if (parts.bytes <= target_bytes)
            low = mid;
        else
            high = mid - 1;
    }
    return low * step;
}

uint32_t ps_slice_neurons(const struct ps_expert_shape *shape, uint64_t target_bytes)
{
    uint32_t step = PS_FOLD_NEURONS;
    struct ps_slice_parts parts;

    ps_slice_parts(shape, step, &parts);
    if (parts.bytes > target_bytes)
        step = ps_slice_grain(shape);
    return (uint32_t)ps_min_u64(largest_multiple(shape, step, target_bytes), shape->width);
}

int ps_expert_check(const struct ps_expert_shape *shape, struct ps_error *err)
{
    const struct {
        const char *name;
        uint32_t type, cols;
    } parts[] = {
        {"gate", shape->gate_type, shape->hidden},
        {"up", shape->up_type, shape->hidden},
        {"down", shape->down_type, shape->width},
    };

    if (shape->hidden == 0 || shape->width == 0)
        return ps_error_set(err, -PS_ERR_FORMAT, "experts", "an expert of width %u x %u is empty",
                            shape->width, shape->hidden);
    for (size_t i = 0; i < PS_ARRAY_LEN(parts); i++) {
        const struct ps_type_info *info = ps_type_info(parts[i].type);

        if (!info)
            return ps_error_set(err, -PS_ERR_FORMAT, "experts",
                                "the %s matrices have type number %u, which is not known",
                                parts[i].name, parts[i].type);
        if (parts[i].cols % info->block_len)
            return ps_error_set(err, -PS_ERR_FORMAT, "experts",
                                "the %s matrices have %u columns, which %s cannot hold: its blocks "
                                "are %u values long",
                                parts[i].name, parts[i].cols, info->name, info->block_len);
    }
    return 0;
}
