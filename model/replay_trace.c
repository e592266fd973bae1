/* A whole trace in memory: a replay looks ahead in it, and is played many times. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/replay_internal.h"

static int compare(const void *a, const void *b)
{
    return *(const uint16_t *)a - *(const uint16_t *)b;
}

static size_t route_count(const struct ps_trace_info *info)
{
    return (size_t)info->layer_count * info->experts_used;
}

static size_t rank_count(const struct ps_trace_info *info)
{
    return (size_t)info->layer_count * info->depth_count * info->rank_count;
}

static bool allocate(struct ps_replay *r)
{
    const struct ps_trace_info *info = &r->info;
    size_t layers = info->layer_count;

    r->layers = calloc(layers, sizeof(*r->layers));
    r->expert_bytes = calloc(layers, sizeof(*r->expert_bytes));
    r->experts = calloc(info->token_count, route_count(info) * sizeof(*r->experts));
    if (rank_count(info) > 0)
        r->ranks = calloc(info->token_count, rank_count(info) * sizeof(*r->ranks));
    return r->layers && r->expert_bytes && r->experts && (rank_count(info) == 0 || r->ranks);
}

/* Experts are leased in ascending order, as the engine does it; "none" is the largest number. */
static void keep(struct ps_replay *r, uint64_t at, const struct ps_trace_token *token)
{
    const struct ps_trace_info *info = &r->info;
    uint16_t *experts = r->experts + at * route_count(info);

    memcpy(experts, token->experts, route_count(info) * sizeof(*experts));
    for (uint32_t l = 0; l < info->layer_count; l++)
        qsort(experts + l * info->experts_used, info->experts_used, sizeof(*experts), compare);
    for (size_t i = 0; i < route_count(info); i++)
        r->asked += experts[i] != PS_TRACE_NONE;
    if (r->ranks)
        memcpy(r->ranks + at * rank_count(info), token->ranks,
               rank_count(info) * sizeof(*r->ranks));
}

int ps_replay_open(struct ps_replay **out, struct ps_trace *trace, struct ps_error *err)
{
    const struct ps_trace_info *info = ps_trace_info(trace);
    struct ps_replay *r = calloc(1, sizeof(*r));
    struct ps_trace_token token;
    uint64_t at = 0;
    int rc = 0;

    if (r)
        r->info = *info;
    if (!r || !allocate(r)) {
        ps_replay_close(&r);
        return ps_error_set(err, -ENOMEM, "replay", "the trace does not fit in memory");
    }
    memcpy(r->layers, info->layers, info->layer_count * sizeof(*r->layers));
    memcpy(r->expert_bytes, info->expert_bytes, info->layer_count * sizeof(*r->expert_bytes));
    r->info.layers = r->layers;
    r->info.expert_bytes = r->expert_bytes;
    ps_trace_rewind(trace);
    while (at < info->token_count && (rc = ps_trace_next(trace, &token, err)) > 0)
        keep(r, at++, &token);
    if (rc < 0) {
        ps_replay_close(&r);
        return rc;
    }
    r->info.token_count = at;
    *out = r;
    return 0;
}

void ps_replay_close(struct ps_replay **replay)
{
    struct ps_replay *r = replay ? *replay : NULL;

    if (!r)
        return;
    free(r->layers);
    free(r->expert_bytes);
    free(r->experts);
    free(r->ranks);
    free(r);
    *replay = NULL;
}

uint32_t ps_replay_experts(const struct ps_replay *r, uint64_t token, uint32_t layer,
                           const uint16_t **experts)
{
    uint32_t k = r->info.experts_used, count = 0;

    *experts = r->experts + (token * r->info.layer_count + layer) * k;
    while (count < k && (*experts)[count] != PS_TRACE_NONE)
        count++;
    return count;
}
