/* Reading config.json and generation_config.json (spec A.1, A.10). */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "model/arch.h"

#define WHERE "config.json"
#define GENERATION "generation_config.json"
#define CONTEXT_DEFAULT 32768 /* the model classes' own */

int ps_hf_u32(const struct ps_checkpoint *c, const char *field, int64_t fallback, uint32_t *out,
              struct ps_error *err)
{
    const json_t *value = json_object_get(c->text, field);

    if (!value || json_is_null(value)) {
        if (fallback < 0)
            return ps_error_set(err, -PS_ERR_FORMAT, WHERE, "config.json has no \"%s\"", field);
        *out = (uint32_t)fallback;
        return 0;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > UINT32_MAX)
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE,
                            "\"%s\" in config.json is not a whole number of 32 bits", field);
    *out = (uint32_t)json_integer_value(value);
    return 0;
}

int ps_hf_bool(const struct ps_checkpoint *c, const char *field, bool fallback, bool *out,
               struct ps_error *err)
{
    const json_t *value = json_object_get(c->text, field);

    if (!value || json_is_null(value))
        value = json_object_get(c->root, field);
    if (!value || json_is_null(value)) {
        *out = fallback;
        return 0;
    }
    if (!json_is_boolean(value))
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE,
                            "\"%s\" in config.json is neither true nor false", field);
    *out = json_is_true(value);
    return 0;
}

static int get_number(const json_t *object, const char *field, double fallback, double *out,
                      const char *file, struct ps_error *err)
{
    const json_t *value = json_object_get(object, field);

    if (!value || json_is_null(value)) {
        *out = fallback;
        return 0;
    }
    if (!json_is_number(value))
        return ps_error_set(err, -PS_ERR_FORMAT, file, "\"%s\" in %s is not a number", field, file);
    *out = json_number_value(value);
    return 0;
}

int ps_hf_number(const struct ps_checkpoint *c, const char *field, double fallback, double *out,
                 struct ps_error *err)
{
    return get_number(c->text, field, fallback, out, WHERE, err);
}

/* Variants that would compute something else than what is implemented. */
static int refuse_variants(const struct ps_checkpoint *c, struct ps_error *err)
{
    static const char *const flags[] = {"attention_bias", "use_sliding_window"};
    const char *act = json_string_value(json_object_get(c->text, "hidden_act"));

    if (act && strcmp(act, "silu"))
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, WHERE,
                            "the activation \"%.32s\" is not supported: only \"silu\" is", act);
    for (size_t i = 0; i < PS_ARRAY_LEN(flags); i++) {
        bool set = false;
        int rc = ps_hf_bool(c, flags[i], false, &set, err);

        if (rc < 0)
            return rc;
        if (set)
            return ps_error_set(err, -PS_ERR_UNSUPPORTED, WHERE,
                                "\"%s\": true in config.json is not supported", flags[i]);
    }
    return 0;
}

int ps_hf_common(const struct ps_checkpoint *c, struct ps_config *config, double rotary,
                 struct ps_error *err)
{
    const char *name = json_string_value(json_object_get(c->root, "_name_or_path"));
    const char *slash = name ? strrchr(name, '/') : NULL;
    const char *experts = c->arch->hf_expert_count ? c->arch->hf_expert_count : "num_experts";
    const char *width = c->arch->plain_width ? "intermediate_size" : "moe_intermediate_size";
    double eps = 0;
    int rc = refuse_variants(c, err);

    if (rc < 0 || (rc = ps_hf_u32(c, "vocab_size", -1, &config->vocab_rows, err)) < 0 ||
        (rc = ps_hf_u32(c, "hidden_size", -1, &config->hidden, err)) < 0 ||
        (rc = ps_hf_u32(c, "num_hidden_layers", -1, &config->layer_count, err)) < 0 ||
        (rc = ps_hf_u32(c, "max_position_embeddings", CONTEXT_DEFAULT, &config->context_max, err)) <
            0 ||
        (rc = ps_hf_number(c, "rms_norm_eps", c->arch->eps_default, &eps, err)) < 0 ||
        (rc = ps_hf_u32(c, "num_attention_heads", -1, &config->head_count, err)) < 0 ||
        (rc = ps_hf_u32(c, "num_key_value_heads", config->head_count, &config->kv_head_count,
                        err)) < 0 ||
        (rc = ps_hf_u32(c, "head_dim", config->head_count ? config->hidden / config->head_count : 0,
                        &config->head_dim, err)) < 0 ||
        (rc = ps_hf_rope(c, config, rotary, err)) < 0 ||
        (rc = ps_hf_u32(c, experts, -1, &config->expert_count, err)) < 0 ||
        (rc = ps_hf_u32(c, "num_experts_per_tok", -1, &config->experts_used, err)) < 0 ||
        (rc = ps_hf_u32(c, width, -1, &config->expert_width, err)) < 0)
        return rc;
    if (config->layer_count == 0 || config->layer_count > PS_LAYER_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE,
                            "\"num_hidden_layers\" in config.json is %u, not within 1 to %d",
                            config->layer_count, PS_LAYER_COUNT_MAX);
    config->norm_eps = (float)eps;
    name = slash ? slash + 1 : name;
    if (!name || !*name)
        name = c->source->name;
    ps_source_plain_text(config->name, sizeof(config->name), name, strlen(name));
    return 0;
}

/* ---- generation ------------------------------------------------------------ */

/* Adds an id unless it is there already, is no token of the model, or eight have been found. */
static void add_end_id(struct ps_config *config, const json_t *value)
{
    json_int_t id = json_integer_value(value);

    if (!json_is_integer(value) || id < 0 || id >= (json_int_t)config->vocab_rows ||
        config->end_id_count == PS_END_ID_COUNT_MAX)
        return;
    for (uint32_t i = 0; i < config->end_id_count; i++)
        if (config->end_ids[i] == id)
            return;
    config->end_ids[config->end_id_count++] = (int32_t)id;
}

static void add_end_ids(struct ps_config *config, const json_t *value)
{
    add_end_id(config, value);
    for (size_t i = 0; i < json_array_size(value); i++)
        add_end_id(config, json_array_get(value, i));
}

/* do_sample false, or absent as in the model classes, means greedy. */
static int read_sampling(const json_t *root, struct ps_config *config, struct ps_error *err)
{
    double temperature = 0, top_p = 0, min_p = 0, penalty = 0, top_k = 0;
    int rc;

    if ((rc = get_number(root, "temperature", 1, &temperature, GENERATION, err)) < 0 ||
        (rc = get_number(root, "top_p", 1, &top_p, GENERATION, err)) < 0 ||
        (rc = get_number(root, "min_p", 0, &min_p, GENERATION, err)) < 0 ||
        (rc = get_number(root, "repetition_penalty", 1, &penalty, GENERATION, err)) < 0 ||
        (rc = get_number(root, "top_k", 0, &top_k, GENERATION, err)) < 0)
        return rc;
    if (!json_is_true(json_object_get(root, "do_sample")))
        temperature = 0;
    if (!(temperature >= 0 && temperature <= 1000) || !(top_p > 0 && top_p <= 1) ||
        !(min_p >= 0 && min_p <= 1) || !(penalty > 0 && penalty <= 1000) ||
        !(top_k >= 0 && top_k <= INT_MAX))
        return ps_error_set(err, -PS_ERR_FORMAT, GENERATION,
                            "a sampling setting in " GENERATION " is out of its range");
    config->sampling = (struct ps_config_sampling){
        .has = true,
        .temperature = (float)temperature,
        .top_p = (float)top_p,
        .min_p = (float)min_p,
        .repeat_penalty = (float)penalty,
        .top_k = (int)top_k,
    };
    return 0;
}

int ps_hf_generation(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    json_t *root = NULL;
    int rc = ps_source_sidecar_json(c->source, GENERATION, &root, err);

    if (rc == 0) {
        add_end_ids(config, json_object_get(root, "eos_token_id"));
        rc = read_sampling(root, config, err);
    } else if (rc == -ENOENT) {
        rc = 0;
    }
    add_end_ids(config, json_object_get(c->text, "eos_token_id"));
    add_end_ids(config, json_object_get(c->root, "eos_token_id"));
    json_decref(root);
    return rc;
}
