#include "model/predictor_samples.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/predictor_learned.h"
#include "quant/type.h"

#define TOKEN_COUNT_MIN 100u
#define HELD_OUT 10u /* one token of so many */

/* Of one trace: the first tokens, which are trained with. */
static uint64_t train_count(uint64_t token_count)
{
    return token_count - token_count / HELD_OUT;
}

static int trace_check(const struct ps_trace_info *info, const struct ps_model *model,
                       const char *path, struct ps_error *err)
{
    const struct ps_config *c = &model->config;

    if (strncmp(info->model, c->name, sizeof(info->model) - 1) != 0 ||
        info->expert_count != c->expert_count ||
        info->layers[info->layer_count - 1] >= c->layer_count)
        return ps_error_set(err, -PS_ERR_ARGUMENT, path,
                            "is a trace of another model, \"%s\" with %u layers of %u experts",
                            info->model, info->layer_count, info->expert_count);
    if (info->hidden != c->hidden || info->depth_count < PS_TRAIN_DEPTHS ||
        info->rank_count != info->expert_count)
        return ps_error_set(err, -PS_ERR_ARGUMENT, path,
                            "holds no router inputs, or guesses of some experts only: record it "
                            "with penstock trace --hidden");
    if (info->token_count < TOKEN_COUNT_MIN)
        return ps_error_set(err, -PS_ERR_ARGUMENT, path,
                            "has %llu tokens, and fewer than %u teach nothing",
                            (unsigned long long)info->token_count, TOKEN_COUNT_MIN);
    return 0;
}

static int layers_take(struct ps_sample_set *set, const struct ps_trace_info *info,
                       const char *path, struct ps_error *err)
{
    size_t bytes = info->layer_count * sizeof(*set->layers);

    if (set->layers == NULL) {
        set->layers = malloc(bytes);
        if (!set->layers)
            return ps_error_set(err, -ENOMEM, path, "not enough memory");
        memcpy(set->layers, info->layers, bytes);
        set->layer_count = info->layer_count;
        set->experts_used = info->experts_used;
    }
    if (info->layer_count != set->layer_count || info->experts_used != set->experts_used ||
        memcmp(set->layers, info->layers, bytes) != 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, path,
                            "has other layers, or other numbers of experts, than the first trace");
    return 0;
}

int ps_sample_set_init(struct ps_sample_set *set, const struct ps_model *model,
                       const struct ps_train_options *options, struct ps_error *err)
{
    int rc = 0;

    *set = (struct ps_sample_set){.options = options,
                                  .expert_count = model->config.expert_count,
                                  .hidden = model->config.hidden};
    for (int i = 0; rc >= 0 && i < options->trace_count; i++) {
        struct ps_trace *trace = NULL;
        rc = ps_trace_open(&trace, options->traces[i], err);
        if (rc < 0)
            break;
        const struct ps_trace_info *info = ps_trace_info(trace);
        rc = trace_check(info, model, options->traces[i], err);
        if (rc == 0)
            rc = layers_take(set, info, options->traces[i], err);
        set->token_count += info->token_count;
        set->train_count += train_count(info->token_count);
        ps_trace_close(&trace);
    }
    if (rc < 0)
        ps_sample_set_fini(set);
    return rc;
}

void ps_sample_set_fini(struct ps_sample_set *set)
{
    free(set->layers);
    set->layers = NULL;
}

uint64_t ps_samples_bytes(const struct ps_sample_set *set)
{
    return set->token_count * 2 *
           (set->hidden + PS_TRAIN_DEPTHS * (uint64_t)(set->expert_count + set->experts_used));
}

/* The number of the MoE layer that is `depth` layers of the model behind one; -1 where it is none.
 */
static int64_t ahead(const struct ps_sample_set *set, uint32_t layer_idx, uint32_t depth)
{
    for (uint32_t i = layer_idx + 1; i < set->layer_count; i++)
        if (set->layers[i] == set->layers[layer_idx] + depth)
            return i;
    return -1;
}

static int samples_init(const struct ps_sample_set *set, uint32_t layer_idx, struct ps_samples *s)
{
    uint64_t n = set->token_count;

    s->layer = set->layers[layer_idx];
    s->x = malloc(n * set->hidden * sizeof(*s->x));
    if (!s->x)
        return -ENOMEM;
    for (uint32_t d = 0; d < PS_TRAIN_DEPTHS; d++) {
        s->depths[d].there = ahead(set, layer_idx, d + 1) >= 0;
        if (!s->depths[d].there)
            continue;
        s->depths[d].log_p = malloc(n * set->expert_count * sizeof(uint16_t));
        s->depths[d].chosen = malloc(n * set->experts_used * sizeof(uint16_t));
        if (!s->depths[d].log_p || !s->depths[d].chosen)
            return -ENOMEM;
    }
    return 0;
}

void ps_samples_fini(struct ps_samples *samples, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        free(samples[i].x);
        for (uint32_t d = 0; d < PS_TRAIN_DEPTHS; d++) {
            free(samples[i].depths[d].log_p);
            free(samples[i].depths[d].chosen);
        }
    }
    memset(samples, 0, count * sizeof(*samples));
}

/* Token `to` of a layer's samples. */
static void token_take(const struct ps_sample_set *set, const struct ps_trace_info *info,
                       const struct ps_trace_token *token, uint32_t layer_idx, uint64_t to,
                       struct ps_samples *s)
{
    uint32_t e_count = set->expert_count, k = set->experts_used;

    memcpy(s->x + to * set->hidden, token->hidden + (uint64_t)layer_idx * set->hidden,
           set->hidden * sizeof(*s->x));
    for (uint32_t d = 0; d < PS_TRAIN_DEPTHS; d++) {
        if (!s->depths[d].there)
            continue;
        uint32_t target = (uint32_t)ahead(set, layer_idx, d + 1);
        const uint16_t *ranks = ps_trace_ranks(info, token, target, d + 1);
        const uint16_t *p = token->rank_f16 + (ranks - token->ranks);
        uint16_t *log_p = s->depths[d].log_p + to * e_count;
        uint16_t least = ps_f32_to_f16(logf(PS_LEARNED_P_MIN));
        for (uint32_t e = 0; e < e_count; e++)
            log_p[e] = least;
        for (uint32_t r = 0; r < e_count && ranks[r] != PS_TRACE_NONE; r++)
            log_p[ranks[r]] = ps_f32_to_f16(logf(fmaxf(ps_f16_to_f32(p[r]), PS_LEARNED_P_MIN)));
        memcpy(s->depths[d].chosen + to * k, token->experts + (uint64_t)target * k,
               k * sizeof(uint16_t));
    }
}

/* A file may have been exchanged since its header was looked at. */
static int changed(const char *path, struct ps_error *err)
{
    return ps_error_set(err, -PS_ERR_SOURCE_CHANGED, path, "has changed meanwhile");
}

static int trace_take(const struct ps_sample_set *set, const char *path, uint32_t first,
                      uint32_t count, struct ps_samples *samples, uint64_t *train_at,
                      uint64_t *held_at, struct ps_error *err)
{
    const volatile int *stop = set->options->stop;
    struct ps_trace *trace = NULL;
    struct ps_trace_token token;
    int rc = ps_trace_open(&trace, path, err);

    if (rc < 0)
        return rc;
    const struct ps_trace_info *info = ps_trace_info(trace);
    uint64_t train = train_count(info->token_count);
    if (info->layer_count != set->layer_count || info->hidden != set->hidden ||
        info->expert_count != set->expert_count || info->experts_used != set->experts_used ||
        info->rank_count != set->expert_count || info->depth_count < PS_TRAIN_DEPTHS ||
        memcmp(info->layers, set->layers, set->layer_count * sizeof(*set->layers)) != 0)
        rc = changed(path, err);
    for (uint64_t t = 0; rc == 0 && (rc = ps_trace_next(trace, &token, err)) == 1; t++, rc = 0) {
        uint64_t *at = t < train ? train_at : held_at;
        if (*at == (t < train ? set->train_count : set->token_count)) {
            rc = changed(path, err);
            break;
        }
        for (uint32_t i = 0; i < count; i++)
            token_take(set, info, &token, first + i, *at, &samples[i]);
        ++*at;
        if (stop && *stop) {
            rc = ps_error_set(err, -EINTR, NULL, "stopped");
            break;
        }
    }
    ps_trace_close(&trace);
    return rc;
}

int ps_samples_read(const struct ps_sample_set *set, uint32_t first, uint32_t count,
                    struct ps_samples *samples, struct ps_error *err)
{
    uint64_t train_at = 0, held_at = set->train_count;
    int rc = 0;

    memset(samples, 0, count * sizeof(*samples));
    for (uint32_t i = 0; rc == 0 && i < count; i++)
        rc = samples_init(set, first + i, &samples[i]);
    if (rc < 0)
        return ps_error_set(err, rc, NULL,
                            "not enough memory for the tokens of %u layers: give fewer tokens, or "
                            "less memory at a time",
                            count);
    for (int i = 0; rc >= 0 && i < set->options->trace_count; i++)
        rc = trace_take(set, set->options->traces[i], first, count, samples, &train_at, &held_at,
                        err);
    /* Places that no token was put to hold nothing, not even numbers of experts. */
    if (rc >= 0 && (train_at != set->train_count || held_at != set->token_count))
        rc = changed(set->options->trace_count == 1 ? set->options->traces[0] : "one of the traces",
                     err);
    return rc;
}
