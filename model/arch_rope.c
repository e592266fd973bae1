/*
 * The frequencies of the rotary embedding (spec A.4, A.10, B.1) and what scales them. A volume
 * holds what comes of it: a table where theta alone does not give the frequencies, and a factor for
 * the cosines and sines. So the engine knows no names of methods.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/arch.h"
#include "model/gguf.h"
#include "quant/type.h"

#define WHERE "config.json"

/* What YaRN (arXiv:2309.00071) is told; the numbers of llama3 share the struct. */
struct scaling {
    double factor, original_context;
    double beta_fast, beta_slow; /* yarn: rotations within the original context */
    bool whole_dims;             /* yarn: the borders of the ramp are rounded outwards */
    double low, high;            /* llama3: wavelengths as parts of the original context */
};

/* The reference computes in float; rounding like it keeps far positions equal. */
static double plain_frequency(const struct ps_config *config, uint32_t j)
{
    return (double)(float)pow(config->rope_theta, -2.0 * j / config->rope_dims);
}

static int begin_table(struct ps_config *config, struct ps_error *err)
{
    uint32_t pairs = config->rope_dims / 2;

    if (config->rope_dims % 2 || pairs > PS_ROPE_TABLE_MAX || pairs == 0)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, "rope scaling",
                            "scaled rope frequencies of %u dimensions are not supported: an even "
                            "number of 2 to %d is",
                            config->rope_dims, 2 * PS_ROPE_TABLE_MAX);
    config->rope_table_count = pairs;
    return 0;
}

static int check_factor(double factor, const char *where, struct ps_error *err)
{
    if (isfinite(factor) && factor > 0)
        return 0;
    return ps_error_set(err, -PS_ERR_FORMAT, where,
                        "the factor that the rope frequencies are scaled by is missing or not a "
                        "positive number");
}

static int scale_linear(struct ps_config *config, double factor, struct ps_error *err)
{
    int rc = begin_table(config, err);

    for (uint32_t j = 0; rc == 0 && j < config->rope_table_count; j++)
        config->rope_table[j] = (float)(plain_frequency(config, j) / factor);
    return rc;
}

/* The dimension that turns so many times within the original context. */
static double yarn_dim(const struct ps_config *config, double context, double rotations)
{
    return config->rope_dims * log(context / (rotations * 2 * M_PI)) /
           (2 * log(config->rope_theta));
}

/* Fast dimensions stay, slow ones are stretched, with a ramp between. */
static int scale_yarn(struct ps_config *config, const struct scaling *s, struct ps_error *err)
{
    double low = yarn_dim(config, s->original_context, s->beta_fast);
    double high = yarn_dim(config, s->original_context, s->beta_slow);
    int rc = begin_table(config, err);

    if (s->whole_dims) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, config->rope_dims - 1.0);
    if (low == high)
        high += 0.001; /* a step, not a division by 0 */
    for (uint32_t j = 0; rc == 0 && j < config->rope_table_count; j++) {
        double f = plain_frequency(config, j);
        double ramp = fmin(fmax((j - low) / (high - low), 0), 1);

        config->rope_table[j] = (float)(f / s->factor * ramp + f * (1 - ramp));
    }
    return rc;
}

/* Short wavelengths stay, long ones are stretched, those between are blended. */
static int scale_llama3(struct ps_config *config, const struct scaling *s, struct ps_error *err)
{
    int rc = begin_table(config, err);

    if (rc == 0 && !(s->low > 0 && s->high > s->low))
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE,
                            "\"low_freq_factor\" and \"high_freq_factor\" in config.json are "
                            "missing or not in order");
    for (uint32_t j = 0; rc == 0 && j < config->rope_table_count; j++) {
        double f = plain_frequency(config, j), wave = 2 * M_PI / f;
        double blend = (s->original_context / wave - s->low) / (s->high - s->low);

        if (wave > s->original_context / s->low)
            config->rope_table[j] = (float)(f / s->factor);
        else if (wave < s->original_context / s->high)
            config->rope_table[j] = (float)f;
        else
            config->rope_table[j] = (float)((1 - blend) * f / s->factor + blend * f);
    }
    return rc;
}

static double yarn_magnitude(double factor, double scale)
{
    return factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1;
}

static int check_magnitude(struct ps_config *config, double scale, const char *where,
                           struct ps_error *err)
{
    if (!isfinite(scale) || scale <= 0 || scale > 1e6)
        return ps_error_set(err, -PS_ERR_FORMAT, where,
                            "the attention factor of the rope scaling is not a positive number");
    config->rope_scale = (float)scale;
    return 0;
}

/* ---- config.json ------------------------------------------------------------ */

static int get_number(const json_t *object, const char *field, double fallback, double *out,
                      struct ps_error *err)
{
    const json_t *value = json_object_get(object, field);

    if (value && !json_is_null(value) && !json_is_number(value))
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE, "\"%s\" in config.json is not a number",
                            field);
    *out = json_is_number(value) ? json_number_value(value) : fallback;
    return 0;
}

static const char *rope_type(const json_t *rope)
{
    const char *type = json_string_value(json_object_get(rope, "rope_type"));

    return type ? type : json_string_value(json_object_get(rope, "type"));
}

static int hf_yarn(struct ps_config *config, const json_t *rope, struct scaling *s,
                   struct ps_error *err)
{
    const json_t *truncate = json_object_get(rope, "truncate");
    double given = 0, scale = 0, scale_all = 0;
    int rc;

    if ((rc = get_number(rope, "beta_fast", 0, &s->beta_fast, err)) < 0 ||
        (rc = get_number(rope, "beta_slow", 0, &s->beta_slow, err)) < 0 ||
        (rc = get_number(rope, "attention_factor", -1, &given, err)) < 0 ||
        (rc = get_number(rope, "mscale", 0, &scale, err)) < 0 ||
        (rc = get_number(rope, "mscale_all_dim", 0, &scale_all, err)) < 0)
        return rc;
    s->beta_fast = s->beta_fast == 0 ? 32 : s->beta_fast;
    s->beta_slow = s->beta_slow == 0 ? 1 : s->beta_slow;
    s->whole_dims = !json_is_false(truncate);
    if (!(s->beta_fast > 0 && s->beta_slow > 0))
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE,
                            "\"beta_fast\" or \"beta_slow\" in config.json is negative");
    if (given == -1) {
        given = yarn_magnitude(s->factor, 1);
        if (scale != 0 && scale_all != 0)
            given = yarn_magnitude(s->factor, scale) / yarn_magnitude(s->factor, scale_all);
    }
    rc = check_magnitude(config, given, WHERE, err);
    return rc < 0 ? rc : scale_yarn(config, s, err);
}

static int hf_scaling(struct ps_config *config, const json_t *rope, struct ps_error *err)
{
    const char *type = rope_type(rope);
    struct scaling s = {0};
    int rc;

    if (!type || !strcmp(type, "default") || !strcmp(type, "mrope"))
        return 0;
    if (strcmp(type, "linear") && strcmp(type, "yarn") && strcmp(type, "llama3"))
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, WHERE,
                            "the rope type \"%.32s\" is not supported; these are: default, linear, "
                            "yarn, llama3",
                            type);
    if ((rc = get_number(rope, "factor", 0, &s.factor, err)) < 0 ||
        (rc = get_number(rope, "original_max_position_embeddings", config->context_max,
                         &s.original_context, err)) < 0 ||
        (rc = get_number(rope, "low_freq_factor", 0, &s.low, err)) < 0 ||
        (rc = get_number(rope, "high_freq_factor", 0, &s.high, err)) < 0)
        return rc;
    if (!(s.original_context > 0 && s.original_context <= 1e12))
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE,
                            "\"original_max_position_embeddings\" in config.json is not a positive "
                            "number");
    if (s.factor == 0 && !strcmp(type, "yarn"))
        s.factor = config->context_max / s.original_context;
    if ((rc = check_factor(s.factor, WHERE, err)) < 0)
        return rc;
    if (!strcmp(type, "linear"))
        return scale_linear(config, s.factor, err);
    return !strcmp(type, "yarn") ? hf_yarn(config, rope, &s, err) : scale_llama3(config, &s, err);
}

/* *out is NULL when the field is absent or null. */
static int get_object(const json_t *text, const char *field, const json_t **out,
                      struct ps_error *err)
{
    const json_t *value = json_object_get(text, field);

    *out = NULL;
    if (!value || json_is_null(value))
        return 0;
    if (!json_is_object(value))
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE, "\"%s\" in config.json is not an object",
                            field);
    *out = value;
    return 0;
}

/* The rope's parameters are an object of their own since transformers 5; before, two fields and an
 * object that scales. Where there are both objects, the one that asks for something counts. */
int ps_hf_rope(const struct ps_checkpoint *c, struct ps_config *config, double rotary,
               struct ps_error *err)
{
    double theta = c->arch->theta_default, factor = rotary;
    const json_t *rope, *scaling;
    int rc;

    if ((rc = get_object(c->text, "rope_parameters", &rope, err)) < 0 ||
        (rc = get_object(c->text, "rope_scaling", &scaling, err)) < 0 ||
        (rc = get_number(c->text, "rope_theta", theta, &theta, err)) < 0 ||
        (rc = get_number(scaling, "rope_theta", theta, &theta, err)) < 0 ||
        (rc = get_number(rope, "rope_theta", theta, &theta, err)) < 0 ||
        (rc = get_number(c->text, "partial_rotary_factor", factor, &factor, err)) < 0 ||
        (rc = get_number(scaling, "partial_rotary_factor", factor, &factor, err)) < 0 ||
        (rc = get_number(rope, "partial_rotary_factor", factor, &factor, err)) < 0)
        return rc;
    if (!(factor > 0 && factor <= 1))
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE,
                            "\"partial_rotary_factor\" in config.json is not within 0 to 1");
    if (!(theta > 0 && theta <= 1e30))
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE,
                            "\"rope_theta\" in config.json is not a positive number");
    config->rope_theta = theta;
    config->rope_dims = (uint32_t)(config->head_dim * factor);
    if (!rope || (scaling && (!rope_type(rope) || !strcmp(rope_type(rope), "default"))))
        rope = scaling;
    return rope ? hf_scaling(config, rope, err) : 0;
}

/* ---- GGUF ------------------------------------------------------------ */

/* Frequencies divided one by one: how llama3 is written into a GGUF file. */
static int read_divisors(const struct ps_checkpoint *c, struct ps_config *config,
                         struct ps_error *err)
{
    const struct ps_source_tensor *t = ps_source_find(c->source, "rope_freqs.weight");
    float divisors[PS_ROPE_TABLE_MAX];
    int rc;

    if (!t)
        return 0;
    if (t->type != PS_TYPE_F32 || t->dim_count != 1 || t->dims[0] != config->rope_dims / 2)
        return ps_error_set(err, -PS_ERR_FORMAT, t->name,
                            "the tensor rope_freqs.weight is not of %u values in F32",
                            config->rope_dims / 2);
    if (config->rope_table_count == 0 && (rc = scale_linear(config, 1, err)) < 0)
        return rc;
    rc = ps_source_read(c->source, t->file, t->offset_bytes, divisors,
                        config->rope_table_count * sizeof(float), err);
    for (uint32_t j = 0; rc >= 0 && j < config->rope_table_count; j++) {
        if (!isfinite(divisors[j]) || divisors[j] <= 0)
            return ps_error_set(err, -PS_ERR_FORMAT, t->name,
                                "the tensor rope_freqs.weight holds a value that is not positive");
        config->rope_table[j] /= divisors[j];
    }
    return rc < 0 ? rc : 0;
}

static int gguf_yarn(const struct ps_checkpoint *c, struct ps_config *config, struct scaling *s,
                     double attention, struct ps_error *err)
{
    double log_scale = 0, blend = 1, attention_more = 1;
    int rc;

    if ((rc = ps_gguf_arch_number(c, "rope.scaling.yarn_beta_fast", 32, &s->beta_fast, err)) < 0 ||
        (rc = ps_gguf_arch_number(c, "rope.scaling.yarn_beta_slow", 1, &s->beta_slow, err)) < 0 ||
        (rc = ps_gguf_arch_number(c, "rope.scaling.yarn_log_multiplier", 0, &log_scale, err)) < 0 ||
        (rc = ps_gguf_arch_number(c, "rope.scaling.yarn_ext_factor", 1, &blend, err)) < 0 ||
        (rc = ps_gguf_arch_number(c, "rope.scaling.yarn_attn_factor", 1, &attention_more, err)) < 0)
        return rc;
    if (blend != 1)
        return ps_gguf_refuse_key(c, "rope.scaling.yarn_ext_factor", err);
    if (attention_more != 1)
        return ps_gguf_refuse_key(c, "rope.scaling.yarn_attn_factor", err);
    if (!(s->beta_fast > 0))
        return ps_gguf_refuse_key(c, "rope.scaling.yarn_beta_fast", err);
    if (!(s->beta_slow > 0))
        return ps_gguf_refuse_key(c, "rope.scaling.yarn_beta_slow", err);
    attention *= yarn_magnitude(s->factor, 1);
    if (log_scale != 0)
        attention /= yarn_magnitude(s->factor, log_scale);
    s->whole_dims = true;
    rc = check_magnitude(config, attention, c->source->name, err);
    return rc < 0 ? rc : scale_yarn(config, s, err);
}

static int gguf_scaling(const struct ps_checkpoint *c, struct ps_config *config, const char *type,
                        struct ps_error *err)
{
    struct scaling s = {0};
    double old = 0, attention = 1, alpha = 0;
    int rc;

    if ((rc = ps_gguf_arch_number(c, "rope.scale_linear", 0, &old, err)) < 0 ||
        (rc = ps_gguf_arch_number(c, "rope.scaling.factor", old, &s.factor, err)) < 0 ||
        (rc = ps_gguf_arch_number(c, "rope.scaling.attn_factor", 1, &attention, err)) < 0 ||
        (rc = ps_gguf_arch_number(c, "rope.scaling.alpha", 0, &alpha, err)) < 0 ||
        (rc = ps_gguf_arch_number(c, "rope.scaling.original_context_length", config->context_max,
                                  &s.original_context, err)) < 0)
        return rc;
    if (alpha != 0)
        return ps_gguf_refuse_key(c, "rope.scaling.alpha", err);
    if (s.factor == 0)
        s.factor = 1; /* no factor, or 0, is none */
    if ((rc = check_factor(s.factor, c->source->name, err)) < 0)
        return rc;
    if (!(s.original_context > 0 && s.original_context <= 1e12))
        return ps_gguf_refuse_key(c, "rope.scaling.original_context_length", err);
    if (!strcmp(type, "yarn"))
        return gguf_yarn(c, config, &s, attention, err);
    if ((rc = check_magnitude(config, attention, c->source->name, err)) < 0)
        return rc;
    return s.factor == 1 || !strcmp(type, "none") ? 0 : scale_linear(config, s.factor, err);
}

int ps_gguf_rope(const struct ps_checkpoint *c, struct ps_config *config, struct ps_error *err)
{
    struct ps_gguf_string text = {0};
    char key[128], type[32] = "linear"; /* where only a factor is there */
    int rc;

    snprintf(key, sizeof(key), "%s.rope.scaling.type", c->arch->gguf_name);
    rc = ps_gguf_text(c->source, key, &text, err);
    if (rc < 0)
        return rc;
    if (rc > 0 && text.bytes)
        ps_source_plain_text(type, sizeof(type), text.data, text.bytes);
    if (strcmp(type, "none") && strcmp(type, "linear") && strcmp(type, "yarn"))
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, key,
                            "the rope scaling \"%s\" in the GGUF key %s is not supported; these "
                            "are: none, linear, yarn",
                            type, key);
    if (!(config->rope_theta > 0 && config->rope_theta <= 1e30))
        return ps_gguf_refuse_key(c, "rope.freq_base", err);
    rc = gguf_scaling(c, config, type, err);
    return rc < 0 ? rc : read_divisors(c, config, err);
}
