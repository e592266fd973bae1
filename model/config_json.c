/* "model.json", the configuration blob of a volume: written at layout, read back at open. */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/config.h"
#include "quant/type.h"

#define WHERE "model.json"
/* 2 where a field is there that says what an older release would leave out of its sums. */
#define JSON_VERSION 1
#define JSON_VERSION_MORE 2

static const char *const mixer_names[] = {"attention", "delta"};
static const char *const ffn_names[] = {"moe", "dense"};

/* The fields of struct ps_config that are plain values, once, for writing and for reading. */
enum kind { KIND_U32, KIND_BOOL, KIND_FLOAT, KIND_DOUBLE };
static const struct field {
    const char *name;
    enum kind kind;
    size_t offset;
    double absent; /* what it is where it is not there; such fields are written only when other */
} fields[] =
    {
#define F(KIND, NAME) #NAME, KIND, offsetof(struct ps_config, NAME), 0
        {F(KIND_U32, vocab_rows)},    {F(KIND_U32, hidden)},         {F(KIND_U32, layer_count)},
        {F(KIND_U32, context_max)},   {F(KIND_FLOAT, norm_eps)},     {F(KIND_U32, head_count)},
        {F(KIND_U32, kv_head_count)}, {F(KIND_U32, head_dim)},       {F(KIND_BOOL, attn_gate)},
        {F(KIND_BOOL, qk_norm)},      {F(KIND_U32, rope_dims)},      {F(KIND_DOUBLE, rope_theta)},
        {F(KIND_U32, delta_k_heads)}, {F(KIND_U32, delta_v_heads)},  {F(KIND_U32, delta_k_dim)},
        {F(KIND_U32, delta_v_dim)},   {F(KIND_U32, conv_taps)},      {F(KIND_BOOL, delta_tiled)},
        {F(KIND_U32, expert_count)},  {F(KIND_U32, experts_used)},   {F(KIND_U32, expert_width)},
        {F(KIND_BOOL, renormalise)},  {F(KIND_FLOAT, expert_scale)}, {F(KIND_U32, shared_width)},
        {F(KIND_BOOL, shared_gate)},  {F(KIND_U32, dense_width)},
#undef F
},
  more_fields[] = {
#define F(KIND, NAME, ABSENT) #NAME, KIND, offsetof(struct ps_config, NAME), ABSENT
      {F(KIND_BOOL, qk_norm_whole, 0)},
      {F(KIND_FLOAT, qkv_clip, 0)},
      {F(KIND_FLOAT, rope_scale, 1)},
#undef F
};

/* ---- writing ------------------------------------------------------------ */

static json_t *field_to_json(const struct field *f, const struct ps_config *config)
{
    const void *at = (const char *)config + f->offset;

    switch (f->kind) {
    case KIND_U32:
        return json_integer(*(const uint32_t *)at);
    case KIND_BOOL:
        return json_boolean(*(const bool *)at);
    case KIND_FLOAT:
        return json_real(*(const float *)at);
    default:
        return json_real(*(const double *)at);
    }
}

static json_t *layer_to_json(const struct ps_config_layer *l)
{
    if (l->ffn == PS_FFN_DENSE)
        return json_pack("{ss ss}", "mixer", mixer_names[l->mixer], "ffn", ffn_names[l->ffn]);
    return json_pack("{ss ss ss ss ss}", "mixer", mixer_names[l->mixer], "ffn", ffn_names[l->ffn],
                     "gate", ps_type_info(l->gate_type)->name, "up", ps_type_info(l->up_type)->name,
                     "down", ps_type_info(l->down_type)->name);
}

static json_t *tensor_to_json(const struct ps_config_tensor *t)
{
    char name[64];

    ps_role_name(t->role, t->layer, name, sizeof(name));
    return json_pack("{ss ss}", "name", name, "type", ps_type_info(t->type)->name);
}

static json_t *sampling_to_json(const struct ps_config_sampling *s)
{
    return json_pack("{sf sf sf sf si}", "temperature", (double)s->temperature, "top_p",
                     (double)s->top_p, "min_p", (double)s->min_p, "repeat_penalty",
                     (double)s->repeat_penalty, "top_k", s->top_k);
}

/* Takes over `value`, NULL included. 0 or -1. */
static int append(json_t *array, json_t *value)
{
    return json_array_append_new(array, value);
}

/* Fields that most models do not need. Returns how many there are, or -1. */
static int fill_more(json_t *root, const struct ps_config *config)
{
    int count = 0, bad = 0;

    for (size_t i = 0; i < PS_ARRAY_LEN(more_fields); i++) {
        json_t *value = field_to_json(&more_fields[i], config);
        double number = json_is_boolean(value) ? json_is_true(value) : json_number_value(value);

        if (number == more_fields[i].absent) {
            json_decref(value);
            continue;
        }
        bad |= json_object_set_new(root, more_fields[i].name, value);
        count++;
    }
    if (config->rope_table_count) {
        json_t *table = json_array();

        bad |= json_object_set_new(root, "rope_table", table);
        for (uint32_t i = 0; i < config->rope_table_count && !bad; i++)
            bad |= append(table, json_real((double)config->rope_table[i]));
        count++;
    }
    return bad ? -1 : count;
}

/* Layers [first, end) and their tensors; those of the whole model go with the first layers. */
static int fill_layers(json_t *object, const struct ps_config *config, uint32_t first, uint32_t end,
                       const struct ps_config_tensor *tensors, uint32_t tensor_count)
{
    json_t *layers = json_array(), *list = json_array();
    int bad = 0;

    /* Into the object first: it owns them whatever fails. */
    bad |= json_object_set_new(object, "layers", layers);
    bad |= json_object_set_new(object, "tensors", list);
    for (uint32_t i = first; i < end && !bad; i++)
        bad |= append(layers, layer_to_json(&config->layers[i]));
    for (uint32_t i = 0; i < tensor_count && !bad; i++)
        if (tensors[i].layer >= first && tensors[i].layer < end)
            bad |= append(list, tensor_to_json(&tensors[i]));
    return bad;
}

static int fill_object(json_t *root, const struct ps_config *config,
                       const struct ps_config_tensor *tensors, uint32_t tensor_count)
{
    json_t *end_ids = json_array();
    int bad = 0, more;

    /* The place of the version in the text is the first, whatever it turns out to be. */
    bad |= json_object_set_new(root, "version", json_integer(JSON_VERSION));
    bad |= json_object_set_new(root, "arch", json_string(config->arch));
    bad |= json_object_set_new(root, "name", json_string(config->name));
    bad |= json_object_set_new(root, "source_name", json_string(config->source_name));
    for (size_t i = 0; i < PS_ARRAY_LEN(fields); i++)
        bad |= json_object_set_new(root, fields[i].name, field_to_json(&fields[i], config));
    bad |= json_object_set_new(root, "end_ids", end_ids);
    bad |= fill_layers(root, config, 0, config->layer_count, tensors, tensor_count);
    if (config->sampling.has)
        bad |= json_object_set_new(root, "sampling", sampling_to_json(&config->sampling));
    more = bad ? -1 : fill_more(root, config);
    if (more < 0)
        return -1;
    if (more)
        bad |= json_object_set_new(root, "version", json_integer(JSON_VERSION_MORE));
    for (uint32_t i = 0; i < config->end_id_count; i++)
        bad |= append(end_ids, json_integer(config->end_ids[i]));
    if (config->prediction_count) {
        json_t *prediction = json_object();

        bad |= json_object_set_new(root, "prediction", prediction);
        bad |= fill_layers(prediction, config, config->layer_count, ps_config_layers_all(config),
                           tensors, tensor_count);
    }
    return bad ? -1 : 0;
}

static int check_tensors(const struct ps_config *config, const struct ps_config_tensor *tensors,
                         uint32_t tensor_count, struct ps_error *err);

int ps_config_to_json(const struct ps_config *config, const struct ps_config_tensor *tensors,
                      uint32_t tensor_count, char **json, struct ps_error *err)
{
    int rc = ps_config_check(config, err);
    char *text = NULL;
    json_t *root;

    if (rc == 0)
        rc = check_tensors(config, tensors, tensor_count, err);
    if (rc < 0)
        return rc;
    root = json_object();
    if (root && fill_object(root, config, tensors, tensor_count) == 0)
        text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    json_decref(root);
    if (!text)
        return ps_error_set(err, -ENOMEM, WHERE,
                            "the model's configuration cannot be written: a name is not valid "
                            "UTF-8, or memory ran out");
    *json = text;
    return 0;
}

/* ---- reading ------------------------------------------------------------ */

static int wrong(struct ps_error *err, const char *field, const char *what)
{
    return ps_error_set(err, -PS_ERR_FORMAT, WHERE,
                        "the model's configuration is damaged: \"%s\" %s", field, what);
}

static int field_from_json(const struct field *f, const json_t *root, struct ps_config *config,
                           struct ps_error *err)
{
    const json_t *value = json_object_get(root, f->name);
    void *at = (char *)config + f->offset;

    switch (f->kind) {
    case KIND_U32:
        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            json_integer_value(value) > UINT32_MAX)
            return wrong(err, f->name, "is not a whole number of 32 bits");
        *(uint32_t *)at = (uint32_t)json_integer_value(value);
        return 0;
    case KIND_BOOL:
        if (!json_is_boolean(value))
            return wrong(err, f->name, "is neither true nor false");
        *(bool *)at = json_is_true(value);
        return 0;
    case KIND_FLOAT:
        if (!json_is_number(value) || !(fabs(json_number_value(value)) <= 1e30))
            return wrong(err, f->name, "is not a number in range");
        *(float *)at = (float)json_number_value(value);
        return 0;
    default:
        if (!json_is_number(value))
            return wrong(err, f->name, "is not a number");
        *(double *)at = json_number_value(value);
        return 0;
    }
}

static int text_from_json(const json_t *root, const char *name, char *out, size_t out_bytes,
                          struct ps_error *err)
{
    const char *text = json_string_value(json_object_get(root, name));

    if (!text || strlen(text) >= out_bytes)
        return wrong(err, name, "is not a text, or too long");
    strcpy(out, text);
    return 0;
}

static int name_from_json(const json_t *object, const char *key, const char *const *names,
                          int name_count)
{
    const char *text = json_string_value(json_object_get(object, key));

    for (int i = 0; text && i < name_count; i++)
        if (!strcmp(text, names[i]))
            return i;
    return -1;
}

static int type_from_json(const json_t *object, const char *key, uint32_t *type)
{
    const char *text = json_string_value(json_object_get(object, key));
    int found = text ? ps_type_from_name(text) : -1;

    if (found < 0)
        return -1;
    *type = (uint32_t)found;
    return 0;
}

static int more_from_json(const json_t *root, struct ps_config *config, struct ps_error *err)
{
    const json_t *table = json_object_get(root, "rope_table");

    config->rope_scale = 1;
    for (size_t i = 0; i < PS_ARRAY_LEN(more_fields); i++) {
        int rc = json_object_get(root, more_fields[i].name)
                     ? field_from_json(&more_fields[i], root, config, err)
                     : 0;
        if (rc < 0)
            return rc;
    }
    if (!table)
        return 0;
    if (!json_is_array(table) || json_array_size(table) > PS_ROPE_TABLE_MAX)
        return wrong(err, "rope_table", "is not a list, or too long");
    config->rope_table_count = (uint32_t)json_array_size(table);
    for (uint32_t i = 0; i < config->rope_table_count; i++) {
        const json_t *value = json_array_get(table, i);

        if (!json_is_number(value) || !(fabs(json_number_value(value)) <= 1e30))
            return wrong(err, "rope_table", "holds something that is not a number in range");
        config->rope_table[i] = (float)json_number_value(value);
    }
    return 0;
}

/* Layers from `first` on, `count` of them. */
static int layers_from_json(const json_t *root, struct ps_config *config, uint32_t first,
                            uint32_t count, struct ps_error *err)
{
    const json_t *array = json_object_get(root, "layers");

    if (count > PS_LAYER_COUNT_MAX || first > PS_LAYER_COUNT_MAX - count ||
        json_array_size(array) != count)
        return wrong(err, "layers", "does not have layer_count entries");
    for (uint32_t i = 0; i < count; i++) {
        const json_t *object = json_array_get(array, i);
        struct ps_config_layer *l = &config->layers[first + i];
        int mixer = name_from_json(object, "mixer", mixer_names, PS_ARRAY_LEN(mixer_names));
        int ffn = name_from_json(object, "ffn", ffn_names, PS_ARRAY_LEN(ffn_names));

        if (mixer < 0 || ffn < 0)
            return wrong(err, "layers", "has an entry of no known kind");
        l->mixer = (enum ps_mixer)mixer;
        l->ffn = (enum ps_ffn)ffn;
        if (l->ffn == PS_FFN_MOE && (type_from_json(object, "gate", &l->gate_type) ||
                                     type_from_json(object, "up", &l->up_type) ||
                                     type_from_json(object, "down", &l->down_type)))
            return wrong(err, "layers", "has an expert type that is not known");
    }
    return 0;
}

static int prediction_from_json(const json_t *root, struct ps_config *config, struct ps_error *err)
{
    const json_t *object = json_object_get(root, "prediction");
    size_t count = json_array_size(json_object_get(object, "layers"));

    if (!object)
        return 0;
    if (count == 0 || count > PS_LAYER_COUNT_MAX)
        return wrong(err, "prediction", "has no layers, or too many");
    config->prediction_count = (uint32_t)count;
    return layers_from_json(object, config, config->layer_count, config->prediction_count, err);
}

static int end_ids_from_json(const json_t *root, struct ps_config *config, struct ps_error *err)
{
    const json_t *array = json_object_get(root, "end_ids");

    if (!json_is_array(array) || json_array_size(array) > PS_END_ID_COUNT_MAX)
        return wrong(err, "end_ids", "is not a list, or too long");
    config->end_id_count = (uint32_t)json_array_size(array);
    for (uint32_t i = 0; i < config->end_id_count; i++) {
        const json_t *id = json_array_get(array, i);

        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT_MAX)
            return wrong(err, "end_ids", "holds something that is not a token id");
        config->end_ids[i] = (int32_t)json_integer_value(id);
    }
    return 0;
}

static int sampling_from_json(const json_t *root, struct ps_config *config, struct ps_error *err)
{
    const json_t *object = json_object_get(root, "sampling");
    double temperature, top_p, min_p, repeat_penalty;
    json_int_t top_k;

    if (!object)
        return 0;
    if (json_unpack((json_t *)object, "{sF sF sF sF sI}", "temperature", &temperature, "top_p",
                    &top_p, "min_p", &min_p, "repeat_penalty", &repeat_penalty, "top_k", &top_k) ||
        top_k < 0 || top_k > INT_MAX || !(fabs(temperature) <= 1000) ||
        !(fabs(repeat_penalty) <= 1000) || !(fabs(top_p) <= 1) || !(fabs(min_p) <= 1))
        return wrong(err, "sampling", "lacks a setting, or one is out of its range");
    config->sampling = (struct ps_config_sampling){
        true, (float)temperature, (float)top_p, (float)min_p, (float)repeat_penalty, (int)top_k};
    return 0;
}

/* "blk.12.attn_q.weight" to role and layer: the one whose name it is. */
static int tensor_from_name(const char *name, struct ps_config_tensor *tensor)
{
    int first = 0, end = PS_ROLE_LAYER_FIRST;
    char expected[64];
    uint32_t layer = 0;
    size_t skip = 0;

    if (!strncmp(name, "blk.", 4)) {
        for (name += 4; *name >= '0' && *name <= '9' && layer < PS_LAYER_COUNT_MAX; name++)
            layer = layer * 10 + (uint32_t)(*name - '0');
        if (*name++ != '.')
            return -1;
        first = PS_ROLE_LAYER_FIRST;
        end = PS_ROLE_COUNT;
        skip = strlen("blk.0.");
    }
    for (int role = first; role < end; role++) {
        ps_role_name((enum ps_role)role, 0, expected, sizeof(expected));
        if (!strcmp(name, expected + skip)) {
            tensor->role = (enum ps_role)role;
            tensor->layer = layer;
            return 0;
        }
    }
    return -1;
}

/* Entries of `array` into tensors, which has room. Those of predicting layers, and no others, stand
 * in the list of these. */
static int tensor_list(const json_t *array, const struct ps_config *config, bool predicts,
                       struct ps_config_tensor *tensors, struct ps_error *err)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *object = json_array_get(array, i);
        const char *name = json_string_value(json_object_get(object, "name"));

        if (!name || tensor_from_name(name, &tensors[i]) < 0 ||
            type_from_json(object, "type", &tensors[i].type) < 0)
            return wrong(err, "tensors", "has an entry whose name or type is not known");
        if (predicts != (tensors[i].layer >= config->layer_count))
            return wrong(err, "tensors", "has a tensor that this model has no place for");
    }
    return 0;
}

static int tensors_from_json(const json_t *root, const struct ps_config *config,
                             struct ps_config_tensor **out, uint32_t *out_count,
                             struct ps_error *err)
{
    const json_t *array = json_object_get(root, "tensors");
    const json_t *more = json_object_get(json_object_get(root, "prediction"), "tensors");
    size_t first = json_array_size(array), count = first + json_array_size(more);
    struct ps_config_tensor *tensors;
    int rc;

    if (!json_is_array(array) || first == 0 || count > PS_LAYER_COUNT_MAX * PS_ROLE_COUNT)
        return wrong(err, "tensors", "is not a list, or empty, or too long");
    tensors = calloc(count, sizeof(*tensors));
    if (!tensors)
        return ps_error_set(err, -ENOMEM, WHERE, "memory for %zu tensor records is not to be had",
                            count);
    if ((rc = tensor_list(array, config, false, tensors, err)) < 0 ||
        (rc = tensor_list(more, config, true, tensors + first, err)) < 0) {
        free(tensors);
        return rc;
    }
    *out = tensors;
    *out_count = (uint32_t)count;
    return 0;
}

static int check_tensor(const struct ps_config *config, const struct ps_config_tensor *t,
                        struct ps_error *err)
{
    char name[64];
    uint64_t rows, cols;

    if ((unsigned)t->role >= PS_ROLE_COUNT || !ps_role_present(config, t->role, t->layer) ||
        (t->role < PS_ROLE_LAYER_FIRST && t->layer != 0))
        return wrong(err, "tensors", "has a tensor that this model has no place for");
    ps_role_name(t->role, t->layer, name, sizeof(name));
    ps_role_shape(config, t->role, &rows, &cols);
    if (!ps_type_info(t->type) || ps_row_bytes(t->type, cols) == 0)
        return wrong(err, name, "has a type that rows of its length cannot have");
    if (ps_role_is_vector(t->role) && t->type != PS_TYPE_F32)
        return wrong(err, name, "is a vector and must be F32");
    return 0;
}

/* Every tensor belongs to the model, none is there twice, and only a tied head may be absent. */
static int check_tensors(const struct ps_config *config, const struct ps_config_tensor *tensors,
                         uint32_t tensor_count, struct ps_error *err)
{
    uint8_t *seen = calloc(ps_config_layers_all(config), PS_ROLE_COUNT);
    int rc = 0;

    if (!seen)
        return ps_error_set(err, -ENOMEM, WHERE, "memory for checking tensors is not to be had");
    for (uint32_t i = 0; i < tensor_count && rc == 0; i++) {
        rc = check_tensor(config, &tensors[i], err);
        if (rc == 0 && seen[tensors[i].layer * PS_ROLE_COUNT + tensors[i].role]++)
            rc = wrong(err, "tensors", "has the same tensor twice");
    }
    for (uint32_t layer = 0; layer < ps_config_layers_all(config) && rc == 0; layer++)
        for (int role = layer ? PS_ROLE_LAYER_FIRST : 0; role < PS_ROLE_COUNT && rc == 0; role++)
            if (role != PS_ROLE_HEAD && ps_role_present(config, (enum ps_role)role, layer) &&
                !seen[layer * PS_ROLE_COUNT + (uint32_t)role]) {
                char name[64];
                rc = wrong(err, ps_role_name((enum ps_role)role, layer, name, sizeof(name)),
                           "is missing among the tensors");
            }
    free(seen);
    return rc;
}

static int config_from_root(const json_t *root, struct ps_config *config, struct ps_error *err)
{
    int rc;

    json_int_t version = json_integer_value(json_object_get(root, "version"));
    if (version != JSON_VERSION && version != JSON_VERSION_MORE)
        return wrong(err, "version", "is neither 1 nor 2: the volume was made by a later release");
    if ((rc = text_from_json(root, "arch", config->arch, sizeof(config->arch), err)) < 0 ||
        (rc = text_from_json(root, "name", config->name, sizeof(config->name), err)) < 0 ||
        (rc = text_from_json(root, "source_name", config->source_name, sizeof(config->source_name),
                             err)) < 0)
        return rc;
    for (size_t i = 0; i < PS_ARRAY_LEN(fields); i++)
        if ((rc = field_from_json(&fields[i], root, config, err)) < 0)
            return rc;
    if ((rc = more_from_json(root, config, err)) < 0 ||
        (rc = layers_from_json(root, config, 0, config->layer_count, err)) < 0 ||
        (rc = prediction_from_json(root, config, err)) < 0 ||
        (rc = end_ids_from_json(root, config, err)) < 0 ||
        (rc = sampling_from_json(root, config, err)) < 0)
        return rc;
    return ps_config_check(config, err);
}

int ps_config_from_json(const char *json, size_t json_bytes, struct ps_config *config,
                        struct ps_config_tensor **tensors, uint32_t *tensor_count,
                        struct ps_error *err)
{
    struct ps_config *parsed = calloc(1, sizeof(*parsed));
    struct ps_config_tensor *list = NULL;
    uint32_t count = 0;
    json_error_t at;
    json_t *root = json_loadb(json, json_bytes, JSON_REJECT_DUPLICATES, &at);
    int rc;

    if (!parsed)
        rc = ps_error_set(err, -ENOMEM, WHERE, "memory for the configuration is not to be had");
    else if (!root)
        rc = ps_error_set(err, -PS_ERR_FORMAT, WHERE,
                          "the model's configuration is damaged: line %d: %s", at.line, at.text);
    else
        rc = config_from_root(root, parsed, err);
    if (rc == 0)
        rc = tensors_from_json(root, parsed, &list, &count, err);
    if (rc == 0)
        rc = check_tensors(parsed, list, count, err);
    if (rc == 0) {
        *config = *parsed;
        *tensors = list;
        *tensor_count = count;
    } else {
        free(list);
    }
    json_decref(root);
    free(parsed);
    return rc;
}
