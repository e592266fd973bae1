/* A model: an open volume, its configuration, its tokenizer. No weights. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/engine.h"

/*
 * Every expert that the configuration speaks of must be in the volume with the size that its types
 * give, and every resident tensor too: then nothing later has to check. That the list of tensors is
 * complete, and their types right, ps_config_from_json has checked.
 */
static int check_resident(const struct ps_model *model, struct ps_error *err)
{
    for (uint32_t i = 0; i < model->tensor_count_all; i++) {
        const struct ps_config_tensor *t = &model->tensors[i];
        struct ps_object_info info;
        uint64_t rows, cols;
        char name[64];

        ps_role_name(t->role, t->layer, name, sizeof(name));
        int64_t object = ps_volume_find_resident(model->volume, name);
        if (object < 0)
            return ps_error_set(err, -PS_ERR_FORMAT, name,
                                "the volume has no such tensor; lay the model out again");
        if (!ps_type_info(t->type)->has_kernels)
            return ps_error_set(err, -PS_ERR_UNSUPPORTED, name,
                                "the tensor's type, %s, cannot be computed with by this version",
                                ps_type_info(t->type)->name);
        ps_role_shape(&model->config, t->role, &rows, &cols);
        uint64_t bytes = rows * ps_row_bytes(t->type, cols);
        ps_volume_object(model->volume, (uint32_t)object, &info);
        if (info.bytes < bytes)
            return ps_error_set(err, -PS_ERR_FORMAT, name,
                                "the tensor has %llu bytes in the volume and needs %llu; lay the "
                                "model out again",
                                (unsigned long long)info.bytes, (unsigned long long)bytes);
    }
    return 0;
}

/* The slices of an expert cover its neurons in order, end where the types allow it, and have the
 * bytes that their neurons need. */
static int check_slices(const struct ps_model *model, const struct ps_expert_shape *shape,
                        uint32_t object, struct ps_error *err)
{
    struct ps_object_info info;
    uint32_t next = 0;

    ps_volume_object(model->volume, object, &info);
    for (uint32_t s = 0; s < info.slice_count; s++) {
        struct ps_slice_info slice;
        struct ps_slice_parts parts;

        ps_volume_slice(model->volume, object, s, &slice);
        if (slice.unit_begin != next || slice.unit_count == 0 ||
            slice.unit_count > shape->width - next || slice.unit_begin % ps_slice_grain(shape) != 0)
            break;
        ps_slice_parts(shape, slice.unit_count, &parts);
        if (slice.bytes < parts.bytes)
            break;
        next += slice.unit_count;
    }
    if (next != shape->width)
        return ps_error_set(err, -PS_ERR_FORMAT, info.name,
                            "its slices do not cover its %u neurons; lay the model out again",
                            shape->width);
    return 0;
}

/* Is the expert cut as the first of its layer is? The engine looks at the slices of that one. */
static bool is_cut_alike(const struct ps_model *model, uint32_t first, uint32_t object)
{
    struct ps_object_info a, b;

    ps_volume_object(model->volume, first, &a);
    ps_volume_object(model->volume, object, &b);
    if (a.slice_count != b.slice_count)
        return false;
    for (uint32_t s = 0; s < a.slice_count; s++) {
        struct ps_slice_info x, y;

        ps_volume_slice(model->volume, first, s, &x);
        ps_volume_slice(model->volume, object, s, &y);
        if (x.unit_begin != y.unit_begin || x.unit_count != y.unit_count || x.bytes != y.bytes)
            return false;
    }
    return true;
}

static int check_expert(const struct ps_model *model, const struct ps_expert_shape *shape,
                        uint32_t layer, uint32_t expert, struct ps_error *err)
{
    int64_t first = ps_volume_find_streamed(model->volume, layer, 0);
    int64_t object = ps_volume_find_streamed(model->volume, layer, expert);
    struct ps_object_info info;

    if (object < 0)
        return ps_error_set(err, -PS_ERR_FORMAT, NULL,
                            "the volume has no expert %u of layer %u; lay the model out again",
                            expert, layer);
    if (expert == 0)
        return check_slices(model, shape, (uint32_t)object, err);
    if (is_cut_alike(model, (uint32_t)first, (uint32_t)object))
        return 0;
    ps_volume_object(model->volume, (uint32_t)object, &info);
    return ps_error_set(err, -PS_ERR_FORMAT, info.name,
                        "it is cut into other slices than the first expert of its layer; lay the "
                        "model out again");
}

static int check_types(const struct ps_expert_shape *shape, uint32_t layer, struct ps_error *err)
{
    const uint32_t types[] = {shape->gate_type, shape->up_type, shape->down_type};

    for (size_t i = 0; i < PS_ARRAY_LEN(types); i++)
        if (!ps_type_info(types[i])->has_kernels)
            return ps_error_set(err, -PS_ERR_UNSUPPORTED, NULL,
                                "the experts of layer %u are of type %s, which cannot be computed "
                                "with by this version",
                                layer, ps_type_info(types[i])->name);
    return 0;
}

static int check_experts(const struct ps_model *model, struct ps_error *err)
{
    for (uint32_t layer = 0; layer < ps_config_layers_all(&model->config); layer++) {
        const struct ps_config_layer *l = &model->config.layers[layer];
        struct ps_expert_shape shape = {model->config.hidden, model->config.expert_width,
                                        l->gate_type, l->up_type, l->down_type};
        if (l->ffn != PS_FFN_MOE)
            continue;
        int rc = check_types(&shape, layer, err);
        for (uint32_t e = 0; rc >= 0 && e < model->config.expert_count; e++)
            rc = check_expert(model, &shape, layer, e, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int load_metadata(struct ps_model *model, struct ps_error *err)
{
    const void *data;
    uint64_t bytes;
    int rc;

    if (ps_volume_metadata(model->volume, PS_BLOB_MODEL, &data, &bytes) < 0)
        return ps_error_set(err, -PS_ERR_FORMAT, NULL,
                            "the volume holds no model (it was not made by penstock layout)");
    rc = ps_config_from_json(data, bytes, &model->config, &model->tensors, &model->tensor_count_all,
                             err);
    if (rc < 0)
        return rc;
    while (model->tensor_count < model->tensor_count_all &&
           model->tensors[model->tensor_count].layer < model->config.layer_count)
        model->tensor_count++;
    if (ps_volume_metadata(model->volume, PS_BLOB_TOKENIZER, &data, &bytes) >= 0) {
        rc = ps_tokenizer_open(&model->tokenizer, data, bytes, err);
        if (rc < 0)
            return rc;
    }
    if (ps_volume_metadata(model->volume, PS_BLOB_CHAT, &data, &bytes) >= 0)
        model->chat_family = ps_chat_detect(data, bytes);
    return 0;
}

static void describe_types(struct ps_model *model)
{
    for (uint32_t layer = 0; layer < model->config.layer_count; layer++) {
        const struct ps_config_layer *l = &model->config.layers[layer];
        if (l->ffn != PS_FFN_MOE)
            continue;
        snprintf(model->expert_types, sizeof(model->expert_types), "gate %s, up %s, down %s",
                 ps_type_info(l->gate_type)->name, ps_type_info(l->up_type)->name,
                 ps_type_info(l->down_type)->name);
        return;
    }
}

int ps_model_take(struct ps_model **out, struct ps_volume *volume, struct ps_error *err)
{
    struct ps_model *model = calloc(1, sizeof(*model));
    int rc;

    if (!model) {
        ps_volume_close(&volume);
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the model");
    }
    model->volume = volume;
    rc = load_metadata(model, err);
    if (rc >= 0)
        rc = check_resident(model, err);
    if (rc >= 0)
        rc = check_experts(model, err);
    if (rc < 0) {
        ps_model_close(&model);
        return rc;
    }
    describe_types(model);
    *out = model;
    return 0;
}

int ps_model_open(struct ps_model **out, const char *const *paths, int path_count,
                  struct ps_error *err)
{
    struct ps_volume *volume;
    int rc = ps_volume_open(&volume, paths, path_count, err);

    if (rc >= 0)
        rc = ps_model_take(out, volume, err);
    if (rc < 0 && err && err->where[0] == 0 && path_count > 0)
        snprintf(err->where, sizeof(err->where), "%s", paths[0]);
    return rc;
}

void ps_model_close(struct ps_model **model)
{
    if (!model || !*model)
        return;
    ps_tokenizer_close(&(*model)->tokenizer);
    free((*model)->tensors);
    ps_volume_close(&(*model)->volume);
    free(*model);
    *model = NULL;
}

struct ps_volume *ps_model_volume(struct ps_model *model)
{
    return model->volume;
}

bool ps_model_is_end(const struct ps_model *model, int32_t id)
{
    for (uint32_t i = 0; i < model->config.end_id_count; i++)
        if (model->config.end_ids[i] == id)
            return true;
    return false;
}

static uint64_t prediction_resident_bytes(const struct ps_model *model)
{
    uint64_t bytes = 0;

    for (uint32_t i = model->tensor_count; i < model->tensor_count_all; i++) {
        struct ps_object_info o;
        ps_tensor_object(model, &model->tensors[i], &o);
        bytes += o.bytes;
    }
    return bytes;
}

static uint64_t prediction_bytes(const struct ps_model *model)
{
    uint64_t bytes = prediction_resident_bytes(model);

    for (uint32_t i = 0; i < ps_volume_object_count(model->volume); i++) {
        struct ps_object_info o;
        ps_volume_object(model->volume, i, &o);
        if (o.kind == PS_OBJECT_STREAMED && o.group >= model->config.layer_count)
            bytes += o.bytes;
    }
    return bytes;
}

static void info_bytes(const struct ps_model *model, struct ps_model_info *info)
{
    uint32_t count = ps_volume_object_count(model->volume);
    uint64_t layer_max[PS_LAYER_COUNT_MAX] = {0};

    info->prediction_bytes = prediction_bytes(model);
    for (uint32_t i = 0; i < count; i++) {
        struct ps_object_info o;
        ps_volume_object(model->volume, i, &o);
        if (o.kind == PS_OBJECT_RESIDENT) {
            info->resident_bytes += o.bytes;
            continue;
        }
        if (o.group >= model->config.layer_count)
            continue;
        info->streamed_bytes += o.bytes;
        if (o.bytes > info->expert_bytes_max)
            info->expert_bytes_max = o.bytes;
        if (o.group < PS_LAYER_COUNT_MAX && o.bytes > layer_max[o.group])
            layer_max[o.group] = o.bytes;
        if (info->slices_per_expert == 0)
            info->slices_per_expert = o.slice_count;
    }
    info->resident_bytes -= prediction_resident_bytes(model);
    for (uint32_t l = 0; l < model->config.layer_count; l++)
        info->token_bytes += layer_max[l] * model->config.experts_used;
}

void ps_model_info(const struct ps_model *model, struct ps_model_info *info)
{
    const struct ps_config *c = &model->config;

    memset(info, 0, sizeof(*info));
    info->arch = c->arch;
    info->name = c->name;
    info->source_name = c->source_name;
    info->layer_count = c->layer_count;
    for (uint32_t l = 0; l < c->layer_count; l++)
        info->moe_layer_count += c->layers[l].ffn == PS_FFN_MOE;
    info->prediction_count = c->prediction_count;
    info->hidden = c->hidden;
    info->vocab_rows = c->vocab_rows;
    info->expert_count = c->expert_count;
    info->experts_used = c->experts_used;
    info->expert_width = c->expert_width;
    info->context_max = c->context_max;
    info->expert_types = model->expert_types;
    info->chat_family = ps_chat_family_name(model->chat_family);
    info->has_tokenizer = model->tokenizer != NULL;
    info_bytes(model, info);
}
