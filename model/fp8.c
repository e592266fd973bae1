#include "model/fp8.h"

#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "quant/type.h"

#define NAME_BYTES 256

int ps_fp8_check_config(const json_t *quantised, struct ps_error *err)
{
    const char *method = json_string_value(json_object_get(quantised, "quant_method"));
    const char *fmt = json_string_value(json_object_get(quantised, "fmt"));
    const json_t *block = json_object_get(quantised, "weight_block_size");

    if (!method || strcmp(method, "fp8"))
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, "config.json",
                            "the checkpoint is quantised (\"%.32s\"), which is not supported from "
                            "safetensors; use the FP8 or BF16 release or a GGUF",
                            method ? method : "by no method named");
    if (fmt && strcmp(fmt, "e4m3"))
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, "config.json",
                            "the checkpoint is FP8 of the format \"%.32s\", and only \"e4m3\" is "
                            "supported; use the BF16 release or a GGUF",
                            fmt);
    if (!json_is_array(block))
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, "config.json",
                            "the checkpoint is FP8 without \"weight_block_size\" in config.json, "
                            "so with scales for whole tensors or rows, and only blocks of 128 x "
                            "128 are supported; use the BF16 release or a GGUF");
    if (json_array_size(block) != 2 ||
        json_integer_value(json_array_get(block, 0)) != PS_FP8_BLOCK ||
        json_integer_value(json_array_get(block, 1)) != PS_FP8_BLOCK)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, "config.json",
                            "\"weight_block_size\" in config.json is not [128, 128], which alone "
                            "is supported; use the BF16 release or a GGUF");
    return 0;
}

static int check_companion(const struct ps_source_tensor *t, const struct ps_source_tensor *scales,
                           struct ps_error *err)
{
    uint64_t dims[PS_SOURCE_DIM_COUNT_MAX];
    char is[96], needed[96];

    if (scales->type != PS_TYPE_BF16 && scales->type != PS_TYPE_F32)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, scales->name,
                            "the scales %s are of type %s, and only BF16 and F32 are supported; "
                            "use the BF16 release or a GGUF",
                            scales->name, scales->type_name);
    for (uint32_t i = 0; i < t->dim_count; i++)
        dims[i] = i + 2 < t->dim_count ? t->dims[i] : ps_div_up(t->dims[i], PS_FP8_BLOCK);
    if (scales->dim_count == t->dim_count &&
        !memcmp(scales->dims, dims, t->dim_count * sizeof(*dims)))
        return 0;
    return ps_error_set(err, -PS_ERR_FORMAT, scales->name,
                        "the scales %s have the shape %s, but blocks of 128 x 128 of %s ask for %s",
                        scales->name,
                        ps_source_shape_text(scales->dims, scales->dim_count, is, sizeof(is)),
                        t->name, ps_source_shape_text(dims, t->dim_count, needed, sizeof(needed)));
}

int ps_fp8_find_scales(const struct ps_source *source, struct ps_tensor_ref *ref,
                       struct ps_error *err)
{
    const struct ps_source_tensor *t = ref->tensor, *scales;
    char name[NAME_BYTES + 16];
    int rc;

    if (t->type != PS_TYPE_F8_E4M3)
        return 0;
    if (t->dim_count < 2 || t->dims[t->dim_count - 1] != ref->cols)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, t->name,
                            "the tensor %s is F8_E4M3 without being a matrix, and only matrices in "
                            "it are supported",
                            t->name);
    snprintf(name, sizeof(name), "%.255s_scale_inv", t->name);
    scales = ps_source_find(source, name);
    if (!scales) {
        snprintf(name, sizeof(name), "%.255s_scale", t->name);
        if (ps_source_find(source, name))
            return ps_error_set(err, -PS_ERR_UNSUPPORTED, t->name,
                                "the tensor %s is F8_E4M3 with the scales %s, of whole tensors or "
                                "rows, and only blocks of 128 x 128 (%s_inv) are supported; use "
                                "the BF16 release or a GGUF",
                                t->name, name, name);
        return ps_error_set(err, -PS_ERR_FORMAT, t->name,
                            "the tensor %s is F8_E4M3, but its scales %s_inv are missing from the "
                            "source",
                            t->name, name);
    }
    rc = check_companion(t, scales, err);
    if (rc == 0)
        ref->scales = scales;
    return rc;
}

uint32_t ps_fp8_row_type(uint32_t tensor_type, uint64_t cols)
{
    return tensor_type == PS_TYPE_F8_E4M3 && cols % PS_FP8_BLOCK ? PS_TYPE_F32 : tensor_type;
}

uint64_t ps_fp8_scale_row(const struct ps_tensor_ref *ref, uint64_t row)
{
    uint64_t rows = ref->tensor->dims[ref->tensor->dim_count - 2]; /* of each matrix */
    uint64_t at = ref->row_begin + row;

    return at / rows * ps_div_up(rows, PS_FP8_BLOCK) + at % rows / PS_FP8_BLOCK;
}

void ps_fp8_join(const uint8_t *codes, const float *factors, uint64_t cols, uint8_t *dst)
{
    if (cols % PS_FP8_BLOCK == 0) {
        for (uint64_t k = 0; k < cols; k += PS_FP8_BLOCK) {
            ps_row_encode(PS_TYPE_F32, factors++, dst, 1);
            memcpy(dst + sizeof(float), codes + k, PS_FP8_BLOCK);
            dst += sizeof(float) + PS_FP8_BLOCK;
        }
        return;
    }
    for (uint64_t k = 0; k < cols; k++) {
        float value = ps_f8_e4m3_to_f32(codes[k]) * factors[k / PS_FP8_BLOCK];
        ps_row_encode(PS_TYPE_F32, &value, dst + k * sizeof(float), 1);
    }
}
