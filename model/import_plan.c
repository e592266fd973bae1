/* What goes into the volume, in which type, cut how: decided before anything is written. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/fp8.h"
#include "model/import.h"
#include "quant/type.h"

#define SLICE_PAYLOAD_MAX (PS_SLICE_BYTES_MAX - (1u << 20)) /* room for any alignment's padding */
#define OBJECT_NAME_BYTES 64
#define GROUP_COUNT_MAX 64

static int no_memory(struct ps_error *err)
{
    return ps_error_set(err, -ENOMEM, NULL, "memory for the plan of the layout is not to be had");
}

/* ---- types ------------------------------------------------------------ */

/* Can values of this tensor be read at all? */
static int check_readable(const struct ps_source_tensor *t, struct ps_error *err)
{
    const struct ps_type_info *info =
        t->type == PS_SOURCE_TYPE_OTHER ? NULL : ps_type_info(t->type);
    char list[256] = "";

    if (info && info->has_kernels)
        return 0;
    for (uint32_t type = 0; type < PS_TYPE_END; type++) {
        size_t n = strlen(list);

        info = ps_type_info(type);
        if (info && info->has_kernels)
            snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "", info->name);
    }
    return ps_error_set(err, -PS_ERR_UNSUPPORTED, t->name,
                        "the tensor %s is of type %s, which is not supported; these are: %s",
                        t->name, t->type_name, list);
}

static bool is_plain(uint32_t type)
{
    return type == PS_TYPE_F32 || type == PS_TYPE_F16 || type == PS_TYPE_BF16;
}

/* The type a matrix of `cols` columns is laid out in. */
static int target_type(struct ps_import *import, const struct ps_source_tensor *t, uint32_t wanted,
                       uint64_t cols, uint32_t *type, struct ps_error *err)
{
    uint32_t kept = ps_fp8_row_type(t->type, cols);
    uint32_t chosen = wanted == PS_QUANT_KEEP ? kept : ps_quant_fit(wanted, cols);
    int rc = check_readable(t, err);

    if (rc < 0)
        return rc;
    if (wanted != PS_QUANT_KEEP && chosen != wanted)
        import->quant_counts.fallbacks[wanted == PS_TYPE_Q6_K]++;
    if (chosen != kept && !is_plain(chosen) && !is_plain(kept))
        import->quant_counts.requantised++;
    if (!ps_row_bytes(chosen, cols))
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, t->name,
                            "the tensor %s has rows of %llu values, which %s cannot hold in its "
                            "blocks of %u: choose another type with --quant",
                            t->name, (unsigned long long)cols, ps_type_info(chosen)->name,
                            ps_type_info(chosen)->block_len);
    *type = chosen;
    return 0;
}

/* What a preset's tensors are made of: matrices as released, routers as GGUF files have them. */
static char preset_name[] = "preset";
static const struct ps_source_tensor preset_matrix = {
    .name = preset_name, .type = PS_TYPE_BF16, .type_name = "BF16"};
static const struct ps_source_tensor preset_router = {
    .name = preset_name, .type = PS_TYPE_F32, .type_name = "F32"};

/* As ps_checkpoint_find; a preset has every tensor that its configuration speaks of. */
static int find_resident(const struct ps_import *import, enum ps_role role, uint32_t layer,
                         struct ps_tensor_ref *ref, struct ps_error *err)
{
    bool is_router = role == PS_ROLE_ROUTER || role == PS_ROLE_SHARED_GATE_INP;

    if (import->source)
        return ps_checkpoint_find(&import->checkpoint, &import->config, role, layer, ref, err);
    *ref = (struct ps_tensor_ref){.tensor = is_router ? &preset_router : &preset_matrix};
    ps_role_shape(&import->config, role, &ref->rows, &ref->cols);
    return 1;
}

static int find_expert(const struct ps_import *import, uint32_t layer, uint32_t expert,
                       enum ps_expert_part part, struct ps_tensor_ref *ref, struct ps_error *err)
{
    const struct ps_config *c = &import->config;
    bool is_down = part == PS_EXPERT_DOWN;

    if (import->source)
        return ps_checkpoint_find_expert(&import->checkpoint, c, layer, expert, part, ref, err);
    *ref = (struct ps_tensor_ref){.tensor = &preset_matrix,
                                  .rows = is_down ? c->hidden : c->expert_width,
                                  .cols = is_down ? c->expert_width : c->hidden};
    return 0;
}

static int resident_type(struct ps_import *import, enum ps_role role,
                         const struct ps_tensor_ref *ref, uint32_t *type, struct ps_error *err)
{
    uint32_t wanted = import->quant.types[ps_quant_group_of(role)];

    if (ps_role_is_vector(role))
        wanted = PS_TYPE_F32;
    else if (role == PS_ROLE_ROUTER || role == PS_ROLE_SHARED_GATE_INP)
        wanted = is_plain(ref->tensor->type) ? PS_QUANT_KEEP : PS_TYPE_F32;
    return target_type(import, ref->tensor, wanted, ref->cols, type, err);
}

/* ---- resident tensors ------------------------------------------------------------ */

static void mark_used(struct ps_import *import, const struct ps_tensor_ref *ref)
{
    if (!import->source)
        return;
    import->used[ref->tensor - import->source->tensors] = true;
    if (ref->scales)
        import->used[ref->scales - import->source->tensors] = true;
}

/* Is there an importance, and does it fit? name: NULL for none that could be. */
static int check_importance(struct ps_import *import, const char *name, uint64_t matrices,
                            uint64_t cols, struct ps_error *err)
{
    int rc = name ? ps_importance_find(import->importance, name, matrices, cols, err) : 1;

    if (rc == 0)
        import->quant_counts.without_importance++;
    return rc < 0 ? rc : 0;
}

static int cut_resident(uint64_t bytes, struct ps_layout_slice **out, struct ps_error *err)
{
    uint64_t count = ps_div_up(bytes, PS_RESIDENT_SLICE_BYTES);
    struct ps_layout_slice *slices;

    if (count > UINT32_MAX)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, NULL, "a tensor is absurdly large");
    slices = calloc(count, sizeof(*slices));
    if (!slices)
        return no_memory(err);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t begin = i * PS_RESIDENT_SLICE_BYTES;

        /* Units of resident slices are 4 KiB pages of the tensor. */
        slices[i].bytes = (uint32_t)ps_min_u64(bytes - begin, PS_RESIDENT_SLICE_BYTES);
        slices[i].unit_begin = (uint32_t)(begin / 4096);
        slices[i].unit_count = (uint32_t)ps_div_up(slices[i].bytes, 4096);
    }
    *out = slices;
    return 0;
}

static int plan_resident(struct ps_import *import, enum ps_role role, uint32_t layer,
                         struct ps_error *err)
{
    uint32_t i = import->tensor_count;
    struct ps_tensor_ref *ref = &import->refs[i];
    struct ps_config_tensor *t = &import->tensors[i];
    char name[OBJECT_NAME_BYTES];
    int rc;

    if (!ps_role_present(&import->config, role, layer))
        return 0;
    rc = find_resident(import, role, layer, ref, err);
    if (rc <= 0)
        return rc;
    *t = (struct ps_config_tensor){role, layer, 0};
    if ((rc = resident_type(import, role, ref, &t->type, err)) < 0 ||
        (rc = cut_resident(ref->rows * ps_row_bytes(t->type, ref->cols), &import->cuts[i], err)) <
            0)
        return rc;
    mark_used(import, ref);
    import->tensor_count++;
    return check_importance(
        import, ps_importance_role_name(import, role, layer, t->type, name, sizeof(name)), 1,
        ref->cols, err);
}

static int plan_residents(struct ps_import *import, struct ps_error *err)
{
    uint32_t layers = ps_config_layers_all(&import->config);
    size_t most = (size_t)layers * PS_ROLE_COUNT + PS_ROLE_LAYER_FIRST;
    int rc = 0;

    import->tensors = calloc(most, sizeof(*import->tensors));
    import->refs = calloc(most, sizeof(*import->refs));
    import->cuts = calloc(most, sizeof(*import->cuts));
    if (!import->tensors || !import->refs || !import->cuts)
        return no_memory(err);
    for (int role = 0; role < PS_ROLE_LAYER_FIRST && rc == 0; role++)
        rc = plan_resident(import, (enum ps_role)role, 0, err);
    for (uint32_t layer = 0; layer < layers; layer++)
        for (int role = PS_ROLE_LAYER_FIRST; role < PS_ROLE_COUNT && rc == 0; role++)
            rc = plan_resident(import, (enum ps_role)role, layer, err);
    return rc;
}

/* ---- experts ------------------------------------------------------------ */

/* Kept types must be the same for all experts of a layer: the volume states them per layer. */
static int plan_part(struct ps_import *import, uint32_t layer, uint32_t expert,
                     enum ps_expert_part part, uint32_t *type, struct ps_error *err)
{
    struct ps_tensor_ref ref;
    char name[OBJECT_NAME_BYTES];
    uint32_t chosen;
    int rc = find_expert(import, layer, expert, part, &ref, err);

    if (rc < 0 || (rc = target_type(import, ref.tensor, import->quant.types[PS_QUANT_EXPERTS],
                                    ref.cols, &chosen, err)) < 0)
        return rc;
    if (expert > 0 && chosen != *type)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, ref.tensor->name,
                            "the tensor %s is %s, but expert 0 of its layer is %s: choose one type "
                            "with --quant experts=TYPE",
                            ref.tensor->name, ref.tensor->type_name, ps_type_info(*type)->name);
    *type = chosen;
    mark_used(import, &ref);
    if (expert > 0)
        return 0;
    return check_importance(
        import, ps_importance_expert_name(import, layer, part, chosen, name, sizeof(name)),
        import->config.expert_count, ref.cols, err);
}

static int cut_layer(struct ps_import *import, struct ps_import_layer *l, struct ps_error *err)
{
    uint32_t width = l->shape.width;
    uint32_t neurons = ps_slice_neurons(&l->shape, import->slice_bytes);

    l->slice_count = (uint32_t)ps_div_up(width, neurons);
    l->slices = calloc(l->slice_count, sizeof(*l->slices));
    if (!l->slices)
        return no_memory(err);
    for (uint32_t i = 0; i < l->slice_count; i++) {
        uint32_t begin = i * neurons;
        uint32_t n = (uint32_t)ps_min_u64(width - begin, neurons);
        struct ps_slice_parts parts;

        ps_slice_parts(&l->shape, n, &parts);
        if (parts.bytes > SLICE_PAYLOAD_MAX)
            return ps_error_set(err, -PS_ERR_UNSUPPORTED, "--slice-bytes",
                                "a slice of %u neurons takes up %llu bytes; %u is the most", n,
                                (unsigned long long)parts.bytes, SLICE_PAYLOAD_MAX);
        l->slices[i] = (struct ps_layout_slice){(uint32_t)parts.bytes, begin, n};
    }
    return 0;
}

static int plan_layer(struct ps_import *import, uint32_t layer, struct ps_error *err)
{
    struct ps_config_layer *cl = &import->config.layers[layer];
    struct ps_import_layer *l = &import->layers[layer];
    uint32_t *const types[] = {&cl->gate_type, &cl->up_type, &cl->down_type};
    int rc;

    for (uint32_t expert = 0; expert < import->config.expert_count; expert++)
        for (int part = 0; part < PS_EXPERT_PART_COUNT; part++) {
            rc = plan_part(import, layer, expert, (enum ps_expert_part)part, types[part], err);
            if (rc < 0)
                return rc;
        }
    l->shape = (struct ps_expert_shape){import->config.hidden, import->config.expert_width,
                                        cl->gate_type, cl->up_type, cl->down_type};
    rc = ps_expert_check(&l->shape, err);
    return rc < 0 ? rc : cut_layer(import, l, err);
}

/* ---- objects ------------------------------------------------------------ */

static void add_object(struct ps_import *import, enum ps_object_kind kind, uint32_t group,
                       uint32_t index, const struct ps_layout_slice *slices, uint32_t slice_count)
{
    import->objects[import->object_count] = (struct ps_layout_object){
        .kind = kind,
        .group = group,
        .index = index,
        .name = import->names + (size_t)import->object_count * OBJECT_NAME_BYTES,
        .slices = slices,
        .slice_count = slice_count,
    };
    import->object_count++;
}

static int list_objects(struct ps_import *import, struct ps_error *err)
{
    uint32_t experts = import->config.expert_count;
    uint32_t layers = ps_config_layers_all(&import->config);
    size_t most = import->tensor_count + (size_t)layers * experts;

    import->objects = calloc(most, sizeof(*import->objects));
    import->names = calloc(most, OBJECT_NAME_BYTES);
    if (!import->objects || !import->names)
        return no_memory(err);
    for (uint32_t i = 0; i < import->tensor_count; i++) {
        const struct ps_config_tensor *t = &import->tensors[i];
        uint64_t bytes = import->refs[i].rows * ps_row_bytes(t->type, import->refs[i].cols);

        ps_role_name(t->role, t->layer, import->names + (size_t)i * OBJECT_NAME_BYTES,
                     OBJECT_NAME_BYTES);
        add_object(import, PS_OBJECT_RESIDENT, 0, i, import->cuts[i],
                   (uint32_t)ps_div_up(bytes, PS_RESIDENT_SLICE_BYTES));
    }
    for (uint32_t layer = 0; layer < layers; layer++)
        for (uint32_t e = 0; e < experts && import->layers[layer].slices; e++) {
            snprintf(import->names + (size_t)import->object_count * OBJECT_NAME_BYTES,
                     OBJECT_NAME_BYTES, "layer %u expert %u", layer, e);
            add_object(import, PS_OBJECT_STREAMED, layer, e, import->layers[layer].slices,
                       import->layers[layer].slice_count);
        }
    return 0;
}

/* ---- what is left out ------------------------------------------------------------ */

struct group {
    char name[80];
    uint64_t count;
};

static void report_groups(struct ps_model_layout_report *report, const struct group *groups,
                          uint32_t group_count)
{
    size_t n = 0, room = sizeof(report->skipped_groups);

    report->skipped_groups[0] = 0;
    for (uint32_t i = 0; i < group_count && n < room; i++)
        n += (size_t)snprintf(report->skipped_groups + n, room - n, "%s%s (%llu)", i ? ", " : "",
                              groups[i].name, (unsigned long long)groups[i].count);
}

static int count_tensors(struct ps_import *import, struct ps_error *err)
{
    const struct ps_source_tensor *divisors = ps_source_find(import->source, "rope_freqs.weight");
    struct group groups[GROUP_COUNT_MAX];
    uint32_t group_count = 0;

    if (divisors && import->config.rope_table_count) /* they are in the configuration */
        mark_used(import, &(struct ps_tensor_ref){.tensor = divisors});
    for (size_t i = 0; i < import->source->tensor_count; i++) {
        char name[sizeof(groups->name)];
        uint32_t g = 0;
        int rc;

        if (import->used[i]) {
            import->report.tensors_used++;
            continue;
        }
        rc = ps_checkpoint_skip_group(&import->checkpoint, import->source->tensors[i].name, name,
                                      sizeof(name), err);
        if (rc < 0)
            return rc;
        import->report.tensors_skipped++;
        while (g < group_count && strcmp(groups[g].name, name))
            g++;
        if (g == GROUP_COUNT_MAX) /* the last group takes what does not fit */
            g--;
        else if (g == group_count)
            groups[group_count++] = (struct group){{0}, 0};
        if (!groups[g].count)
            strcpy(groups[g].name, name);
        groups[g].count++;
    }
    report_groups(&import->report, groups, group_count);
    return 0;
}

int ps_import_plan(struct ps_import *import, struct ps_error *err)
{
    bool moe = false;
    int rc;

    if (import->source) {
        import->used = calloc(import->source->tensor_count, sizeof(*import->used));
        if (!import->used)
            return no_memory(err);
    }
    for (uint32_t i = 0; i < import->config.layer_count; i++)
        moe |= import->config.layers[i].ffn == PS_FFN_MOE;
    if (!moe)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, import->config.source_name,
                            "the model has no layer with experts: there is nothing to stream");
    /* The experts' types are not chosen yet; F32 fits every width. */
    rc = ps_config_check(&import->config, err);
    if (rc == 0)
        rc = plan_residents(import, err);
    for (uint32_t i = 0; i < ps_config_layers_all(&import->config) && rc == 0; i++)
        if (import->config.layers[i].ffn == PS_FFN_MOE)
            rc = plan_layer(import, i, err);
    if (rc == 0 && import->source)
        rc = count_tensors(import, err);
    if (rc == 0)
        rc = list_objects(import, err);
    return rc;
}
