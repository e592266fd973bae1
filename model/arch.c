#include "model/arch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "model/fp8.h"
#include "model/gguf.h"

#define NAME_BYTES 256

const struct ps_arch *const ps_arch_table[] = {
    &ps_arch_qwen3_5_moe, &ps_arch_qwen3_next, &ps_arch_qwen3_moe,
    &ps_arch_olmoe,       &ps_arch_mixtral,    NULL,
};

/* Behind the prefix for global roles, behind "layers.N." for layer roles. */
static const char *const hf_role_names[PS_ROLE_COUNT] = {
    [PS_ROLE_EMBED] = "embed_tokens.weight",
    [PS_ROLE_OUT_NORM] = "norm.weight",
    [PS_ROLE_HEAD] = "lm_head.weight",
    [PS_ROLE_ATTN_NORM] = "input_layernorm.weight",
    [PS_ROLE_FFN_NORM] = "post_attention_layernorm.weight",
    [PS_ROLE_ATTN_Q] = "self_attn.q_proj.weight",
    [PS_ROLE_ATTN_K] = "self_attn.k_proj.weight",
    [PS_ROLE_ATTN_V] = "self_attn.v_proj.weight",
    [PS_ROLE_ATTN_OUT] = "self_attn.o_proj.weight",
    [PS_ROLE_ATTN_Q_NORM] = "self_attn.q_norm.weight",
    [PS_ROLE_ATTN_K_NORM] = "self_attn.k_norm.weight",
    [PS_ROLE_DELTA_QKV] = "linear_attn.in_proj_qkv.weight",
    [PS_ROLE_DELTA_Z] = "linear_attn.in_proj_z.weight",
    [PS_ROLE_DELTA_BETA] = "linear_attn.in_proj_b.weight",
    [PS_ROLE_DELTA_ALPHA] = "linear_attn.in_proj_a.weight",
    [PS_ROLE_DELTA_CONV] = "linear_attn.conv1d.weight",
    [PS_ROLE_DELTA_A] = "linear_attn.A_log",
    [PS_ROLE_DELTA_DT] = "linear_attn.dt_bias",
    [PS_ROLE_DELTA_NORM] = "linear_attn.norm.weight",
    [PS_ROLE_DELTA_OUT] = "linear_attn.out_proj.weight",
    [PS_ROLE_ROUTER] = "mlp.gate.weight",
    [PS_ROLE_SHARED_GATE_INP] = "mlp.shared_expert_gate.weight",
    [PS_ROLE_SHARED_GATE] = "mlp.shared_expert.gate_proj.weight",
    [PS_ROLE_SHARED_UP] = "mlp.shared_expert.up_proj.weight",
    [PS_ROLE_SHARED_DOWN] = "mlp.shared_expert.down_proj.weight",
    [PS_ROLE_DENSE_GATE] = "mlp.gate_proj.weight",
    [PS_ROLE_DENSE_UP] = "mlp.up_proj.weight",
    [PS_ROLE_DENSE_DOWN] = "mlp.down_proj.weight",
    [PS_ROLE_PREDICT_PROJ] = "mtp.fc.weight",
    [PS_ROLE_PREDICT_EMBED_NORM] = "mtp.pre_fc_norm_embedding.weight",
    [PS_ROLE_PREDICT_HIDDEN_NORM] = "mtp.pre_fc_norm_hidden.weight",
    [PS_ROLE_PREDICT_OUT_NORM] = "mtp.norm.weight",
};

/* [E, 2I, H] and [E, H, I], behind "layers.N."; or experts one by one. */
#define HF_MERGED_GATE_UP "mlp.experts.gate_up_proj"
#define HF_MERGED_DOWN "mlp.experts.down_proj"
#define HF_EXPERT_PREFIX "mlp.experts."
static const char *const hf_expert_suffixes[PS_EXPERT_PART_COUNT] = {
    ".gate_proj.weight", ".up_proj.weight", ".down_proj.weight"};

/* ---- recognising ------------------------------------------------------------ */

static int unknown_arch(const char *what, bool gguf, struct ps_error *err)
{
    char list[256] = "";

    for (size_t i = 0; ps_arch_table[i]; i++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof(list) - n, "%s%s", i ? ", " : "",
                 gguf ? ps_arch_table[i]->gguf_name : ps_arch_table[i]->id);
    }
    return ps_error_set(err, -PS_ERR_UNSUPPORTED, what,
                        "the architecture \"%.64s\" is not supported; these are: %s", what, list);
}

static const struct ps_arch *arch_by_hf_name(const char *name)
{
    for (size_t i = 0; name && ps_arch_table[i]; i++)
        for (const char *const *n = ps_arch_table[i]->hf_names; *n; n++)
            if (!strcmp(*n, name))
                return ps_arch_table[i];
    return NULL;
}

static const struct {
    const char *prefix, *head_prefix;
} hf_prefixes[] = {
    {"model.language_model.", ""},                /* multimodal release */
    {"model.", ""},                               /* text-only export */
    {"language_model.model.", "language_model."}, /* older multimodal exports */
};

static int find_prefix(struct ps_checkpoint *c, struct ps_error *err)
{
    char name[NAME_BYTES];

    for (size_t i = 0; i < PS_ARRAY_LEN(hf_prefixes); i++) {
        snprintf(name, sizeof(name), "%s%s", hf_prefixes[i].prefix, hf_role_names[PS_ROLE_EMBED]);
        if (ps_source_find(c->source, name)) {
            c->prefix = hf_prefixes[i].prefix;
            c->head_prefix = hf_prefixes[i].head_prefix;
            return 0;
        }
    }
    return ps_error_set(err, -PS_ERR_FORMAT, c->source->name,
                        "the tensor model.embed_tokens.weight is missing, also behind the prefixes "
                        "of multimodal releases");
}

static int init_hf(struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    int rc = ps_source_sidecar_json(c->source, "config.json", &c->root, err);
    const char *type, *class;
    const json_t *quantised, *tied;

    if (rc == -ENOENT)
        return ps_error_set(err, rc, c->source->name,
                            "there is no config.json beside the tensors: the whole directory of "
                            "the checkpoint is needed");
    if (rc < 0)
        return rc;
    c->text = json_object_get(c->root, "text_config");
    if (!json_is_object(c->text))
        c->text = c->root;
    type = json_string_value(json_object_get(c->root, "model_type"));
    class = json_string_value(json_array_get(json_object_get(c->root, "architectures"), 0));
    c->arch = arch_by_hf_name(class);
    if (!c->arch)
        c->arch = arch_by_hf_name(type);
    if (!c->arch)
        return unknown_arch(type ? type : class ? class : "(none named)", false, err);
    quantised = json_object_get(c->root, "quantization_config");
    if (!quantised)
        quantised = json_object_get(c->text, "quantization_config");
    if (json_is_object(quantised) && (rc = ps_fp8_check_config(quantised, err)) < 0)
        return rc;
    /* The outer configuration decides where both have an opinion: its class owns the head. */
    tied = json_object_get(c->root, "tie_word_embeddings");
    c->tied = json_is_true(tied ? tied : json_object_get(c->text, "tie_word_embeddings"));
    if ((rc = find_prefix(c, err)) < 0 || (rc = c->arch->config_hf(c, config, err)) < 0)
        return rc;
    return ps_hf_generation(c, config, err);
}

static int init_gguf(struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    struct ps_gguf_string text = {0};
    char name[64] = "";
    int rc = ps_gguf_text(c->source, "general.architecture", &text, err);

    if (rc < 0)
        return rc;
    if (rc > 0)
        ps_source_plain_text(name, sizeof(name), text.data, text.bytes);
    for (size_t i = 0; ps_arch_table[i]; i++)
        if (!strcmp(ps_arch_table[i]->gguf_name, name))
            c->arch = ps_arch_table[i];
    if (!c->arch)
        return unknown_arch(name[0] ? name : "(none named)", true, err);
    c->tied = !ps_source_find(c->source, "output.weight");
    if ((rc = c->arch->config_gguf(c, config, err)) < 0)
        return rc;
    return ps_gguf_generation(c, config, err);
}

int ps_checkpoint_init(struct ps_checkpoint *c, const struct ps_source *source,
                       struct ps_config *config, struct ps_error *err)
{
    int rc;

    *c = (struct ps_checkpoint){
        .source = source, .prefix = "", .head_prefix = "", .layer_count = UINT32_MAX};
    memset(config, 0, sizeof(*config));
    config->expert_scale = 1;
    config->rope_scale = 1;
    rc = source->kind == PS_SOURCE_GGUF ? init_gguf(c, config, err) : init_hf(c, config, err);
    if (rc < 0) {
        ps_checkpoint_fini(c);
        return rc;
    }
    snprintf(config->arch, sizeof(config->arch), "%s", c->arch->id);
    snprintf(config->source_name, sizeof(config->source_name), "%s", source->name);
    c->layer_count = config->layer_count;
    c->prediction_count = config->prediction_count;
    return 0;
}

void ps_checkpoint_fini(struct ps_checkpoint *c)
{
    json_decref(c->root);
    *c = (struct ps_checkpoint){0};
}

/* ---- tensors ------------------------------------------------------------ */

static void layer_name(const struct ps_checkpoint *c, uint32_t layer, const char *name,
                       char buf[NAME_BYTES])
{
    if (c->source->kind == PS_SOURCE_GGUF)
        snprintf(buf, NAME_BYTES, "blk.%u.%s", layer, name);
    else if (layer >= c->layer_count)
        snprintf(buf, NAME_BYTES, "mtp.layers.%u.%s", layer - c->layer_count, name);
    else
        snprintf(buf, NAME_BYTES, "%slayers.%u.%s", c->prefix, layer, name);
}

bool ps_checkpoint_has(const struct ps_checkpoint *c, uint32_t layer, const char *name)
{
    char full[NAME_BYTES];

    layer_name(c, layer, name, full);
    return ps_source_find(c->source, full) != NULL;
}

static void role_source_name(const struct ps_checkpoint *c, enum ps_role role, uint32_t layer,
                             char buf[NAME_BYTES])
{
    bool gguf = c->source->kind == PS_SOURCE_GGUF;
    const char *own = gguf ? c->arch->gguf_roles[role] : c->arch->hf_roles[role];
    const char *name = own ? own : hf_role_names[role];

    if (gguf && !own)
        ps_role_name(role, layer, buf, NAME_BYTES);
    else if (role >= PS_ROLE_PREDICT_PROJ) /* of the model, not of the layer */
        snprintf(buf, NAME_BYTES, "%s", name);
    else if (role >= PS_ROLE_LAYER_FIRST)
        layer_name(c, layer, name, buf);
    else
        snprintf(buf, NAME_BYTES, "%s%s", role == PS_ROLE_HEAD ? c->head_prefix : c->prefix, name);
}

/* GGUF has the values as they are used. */
static enum ps_transform role_transform(const struct ps_checkpoint *c, enum ps_role role)
{
    if (c->source->kind == PS_SOURCE_GGUF)
        return PS_TRANSFORM_NONE;
    switch (role) {
    case PS_ROLE_DELTA_A:
        return PS_TRANSFORM_NEG_EXP;
    case PS_ROLE_OUT_NORM:
    case PS_ROLE_ATTN_NORM:
    case PS_ROLE_FFN_NORM:
    case PS_ROLE_ATTN_Q_NORM:
    case PS_ROLE_ATTN_K_NORM:
    case PS_ROLE_PREDICT_EMBED_NORM:
    case PS_ROLE_PREDICT_HIDDEN_NORM:
    case PS_ROLE_PREDICT_OUT_NORM:
        return c->arch->zero_centred_norms ? PS_TRANSFORM_PLUS_ONE : PS_TRANSFORM_NONE;
    default:
        return PS_TRANSFORM_NONE;
    }
}

/* Equal but for dimensions of 1: [C, 1, 4] is [C, 4], and [1, H] is [H]. */
static bool same_shape(const struct ps_source_tensor *t, const uint64_t *dims, uint32_t dim_count)
{
    uint32_t i = 0, k = 0;

    for (;;) {
        while (i < t->dim_count && t->dims[i] == 1)
            i++;
        while (k < dim_count && dims[k] == 1)
            k++;
        if (i == t->dim_count || k == dim_count)
            return i == t->dim_count && k == dim_count;
        if (t->dims[i++] != dims[k++])
            return false;
    }
}

/* The tensor of that name with that shape (outermost first), or an error that names it. */
static int find_shaped(const struct ps_checkpoint *c, const char *name, const uint64_t *dims,
                       uint32_t dim_count, const struct ps_source_tensor **out,
                       struct ps_error *err)
{
    const struct ps_source_tensor *t = ps_source_find(c->source, name);
    char is[96], needed[96];

    if (!t)
        return ps_error_set(err, -PS_ERR_FORMAT, name, "the tensor %s is missing from the source",
                            name);
    if (!same_shape(t, dims, dim_count))
        return ps_error_set(err, -PS_ERR_FORMAT, name,
                            "the tensor %s has the shape %s, but the model's configuration asks "
                            "for %s (outermost dimension first)",
                            name, ps_source_shape_text(t->dims, t->dim_count, is, sizeof(is)),
                            ps_source_shape_text(dims, dim_count, needed, sizeof(needed)));
    *out = t;
    return 0;
}

/* Rows of q or k whose heads are to be rotated neighbour by neighbour (spec B.3). */
static bool is_paired(const struct ps_checkpoint *c, enum ps_role role)
{
    return c->arch->paired_rope && c->source->kind == PS_SOURCE_GGUF &&
           (role == PS_ROLE_ATTN_Q || role == PS_ROLE_ATTN_K);
}

int ps_checkpoint_find(const struct ps_checkpoint *c, const struct ps_config *config,
                       enum ps_role role, uint32_t layer, struct ps_tensor_ref *ref,
                       struct ps_error *err)
{
    struct ps_tensor_ref found = {0};
    struct ps_packed_role packed;
    char name[NAME_BYTES];
    uint64_t dims[2];
    int rc;

    if (role == PS_ROLE_HEAD && c->tied)
        return 0;
    ps_role_shape(config, role, &found.rows, &found.cols);
    dims[0] = found.rows;
    dims[1] = found.cols;
    if (c->arch->packed_role && c->arch->packed_role(c, config, role, layer, &packed)) {
        layer_name(c, layer, packed.name, name);
        dims[0] = packed.rows;
        found.order = packed.order;
    } else {
        role_source_name(c, role, layer, name);
        found.transform = role_transform(c, role);
    }
    if (is_paired(c, role))
        found.order = (struct ps_row_order){
            .kind = PS_ORDER_PAIRED, .head = config->head_dim, .rotated = config->rope_dims};
    rc = find_shaped(c, name, dims, 2, &found.tensor, err);
    if (rc < 0)
        return rc;
    rc = ps_fp8_find_scales(c->source, &found, err);
    if (rc < 0)
        return rc;
    *ref = found;
    return 1;
}

static uint64_t grouped_row(const struct ps_row_order *o, uint64_t row, uint64_t *run)
{
    int i = 0;

    while (i + 1 < PS_ORDER_PART_COUNT_MAX && row >= o->parts[i].rows)
        row -= o->parts[i++].rows;
    *run = o->parts[i].run - row % o->parts[i].run;
    return row / o->parts[i].run * o->parts[i].stride + o->parts[i].offset + row % o->parts[i].run;
}

uint64_t ps_tensor_ref_row(const struct ps_tensor_ref *ref, uint64_t row, uint64_t *run)
{
    const struct ps_row_order *o = &ref->order;
    uint64_t in_head, half = o->rotated / 2;

    switch (o->kind) {
    case PS_ORDER_GROUPED:
        return grouped_row(o, row, run);
    case PS_ORDER_PAIRED:
        in_head = row % o->head;
        *run = in_head < o->rotated ? 1 : o->head - in_head;
        if (in_head >= o->rotated)
            return row;
        return row - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
    default:
        *run = ref->rows - row;
        return ref->row_begin + row;
    }
}

/* Experts of a layer stacked in one tensor of [E, rows, cols], of which this one's part begins at
 * row `first` of its own. */
static int find_stacked(const struct ps_checkpoint *c, const struct ps_config *config,
                        uint32_t layer, uint32_t expert, const char *short_name, uint64_t rows_all,
                        uint64_t first, struct ps_tensor_ref *ref, struct ps_error *err)
{
    const uint64_t dims[] = {config->expert_count, rows_all, ref->cols};
    char name[NAME_BYTES];

    layer_name(c, layer, short_name, name);
    ref->row_begin = expert * rows_all + first;
    return find_shaped(c, name, dims, 3, &ref->tensor, err);
}

static int find_expert_gguf(const struct ps_checkpoint *c, const struct ps_config *config,
                            uint32_t layer, uint32_t expert, enum ps_expert_part part,
                            struct ps_tensor_ref *ref, struct ps_error *err)
{
    static const char *const names[] = {"ffn_gate_exps.weight", "ffn_up_exps.weight",
                                        "ffn_down_exps.weight"};
    static const char *const single[] = {"ffn_gate", "ffn_up", "ffn_down"};
    static const char fused[] = "ffn_gate_up_exps.weight";
    char own[64], name[NAME_BYTES];

    /* Files of before 2024-04 have each expert by itself. */
    if (ps_checkpoint_has(c, layer, "ffn_gate.0.weight")) {
        const uint64_t dims[] = {ref->rows, ref->cols};

        snprintf(own, sizeof(own), "%s.%u.weight", single[part], expert);
        layer_name(c, layer, own, name);
        return find_shaped(c, name, dims, 2, &ref->tensor, err);
    }
    if (part != PS_EXPERT_DOWN && ps_checkpoint_has(c, layer, fused))
        return find_stacked(c, config, layer, expert, fused, 2 * ref->rows,
                            part == PS_EXPERT_UP ? ref->rows : 0, ref, err);
    return find_stacked(c, config, layer, expert, names[part], ref->rows, 0, ref, err);
}

static int find_expert_hf(const struct ps_checkpoint *c, const struct ps_config *config,
                          uint32_t layer, uint32_t expert, enum ps_expert_part part,
                          struct ps_tensor_ref *ref, struct ps_error *err)
{
    const struct ps_arch *a = c->arch;
    const uint64_t dims[] = {ref->rows, ref->cols};
    char name[NAME_BYTES], tail[NAME_BYTES / 2];

    if (ps_checkpoint_has(c, layer, HF_MERGED_GATE_UP)) {
        if (part == PS_EXPERT_DOWN)
            return find_stacked(c, config, layer, expert, HF_MERGED_DOWN, ref->rows, 0, ref, err);
        return find_stacked(c, config, layer, expert, HF_MERGED_GATE_UP, 2 * ref->rows,
                            part == PS_EXPERT_UP ? ref->rows : 0, ref, err);
    }
    snprintf(tail, sizeof(tail), "%s%u%s",
             a->hf_expert_prefix ? a->hf_expert_prefix : HF_EXPERT_PREFIX, expert,
             a->hf_expert_suffix[part] ? a->hf_expert_suffix[part] : hf_expert_suffixes[part]);
    layer_name(c, layer, tail, name);
    return find_shaped(c, name, dims, 2, &ref->tensor, err);
}

int ps_checkpoint_find_expert(const struct ps_checkpoint *c, const struct ps_config *config,
                              uint32_t layer, uint32_t expert, enum ps_expert_part part,
                              struct ps_tensor_ref *ref, struct ps_error *err)
{
    bool down = part == PS_EXPERT_DOWN;
    struct ps_tensor_ref found = {.rows = down ? config->hidden : config->expert_width,
                                  .cols = down ? config->expert_width : config->hidden};
    int rc = c->source->kind == PS_SOURCE_GGUF
                 ? find_expert_gguf(c, config, layer, expert, part, &found, err)
                 : find_expert_hf(c, config, layer, expert, part, &found, err);

    if (rc == 0)
        rc = ps_fp8_find_scales(c->source, &found, err);
    if (rc == 0)
        *ref = found;
    return rc;
}

/* ---- what is left out ------------------------------------------------------------ */

static bool has_prefix(const char *name, const char *prefix)
{
    return !strncmp(name, prefix, strlen(prefix));
}

/* The layer's number in "blk.N.", or -1. */
static int64_t gguf_layer(const char *name)
{
    unsigned layer;
    char dot;

    return sscanf(name, "blk.%9u%c", &layer, &dot) == 2 && dot == '.' ? (int64_t)layer : -1;
}

int ps_checkpoint_skip_group(const struct ps_checkpoint *c, const char *name, char *buf,
                             size_t buf_bytes, struct ps_error *err)
{
    static const char inv_freq[] = ".rotary_emb.inv_freq"; /* a table that the config implies */
    size_t len = strlen(name);

    for (const char *const *p = c->arch->skip_prefixes; p && *p; p++)
        if (has_prefix(name, *p) && !(c->prediction_count && has_prefix(name, "mtp."))) {
            snprintf(buf, buf_bytes, "%s*", *p);
            return 0;
        }
    if (c->source->kind == PS_SOURCE_GGUF &&
        gguf_layer(name) >= (int64_t)c->layer_count + c->prediction_count) {
        snprintf(buf, buf_bytes, "blk.%lld.*", (long long)gguf_layer(name));
        return 0;
    }
    if (len > strlen(inv_freq) && !strcmp(name + len - strlen(inv_freq), inv_freq)) {
        snprintf(buf, buf_bytes, "*%s", inv_freq);
        return 0;
    }
    if (c->tied && len >= 14 && !strcmp(name + len - 14, "lm_head.weight")) {
        snprintf(buf, buf_bytes, "%.60s", name);
        return 0;
    }
    return ps_error_set(err, -PS_ERR_UNSUPPORTED, name,
                        "the tensor %s is no part of a %s model as it is known here; leaving it "
                        "out could change what the model says",
                        name, c->arch->id);
}
