#include "nvme/policy.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

#define LFU_HALF_LIFE 0.5 /* uses per object */
/* Scores grow instead of shrinking, and are scaled down before they overflow. */
#define LFU_EXPONENT_MAX 512

struct ps_policy {
    struct ps_cache_policy hook;
    enum ps_policy_kind kind;
    uint32_t object_count;
    /* LFU: sum over the uses of 2^(when / half-life). */
    double *scores; /* [object_count] */
    double now;     /* uses so far, in half-lives */
    double step;
    /* LEAST_STALE */
    uint32_t *groups; /* [object_count] */
    uint32_t group;   /* being passed */
    /* BELADY: the numbers of the uses of every object, one object after the other. */
    uint32_t *ends;  /* [object_count] */
    uint32_t *nexts; /* [object_count]: of the next use, an index of times */
    uint32_t *times; /* [use_count] */
};

static const char *const names[PS_POLICY_COUNT] = {"lru", "lfu", "least-stale", "belady"};

const char *ps_policy_name(enum ps_policy_kind kind)
{
    return names[kind];
}

int ps_policy_find(const char *name)
{
    for (int i = 0; i < PS_POLICY_COUNT; i++) {
        if (strcmp(name, names[i]) == 0)
            return i;
    }
    return -1;
}

/* ---- least frequently used ------------------------------------------------------------------- */

static void lfu_used(void *ctx, uint32_t object)
{
    struct ps_policy *p = ctx;

    p->now += p->step;
    if (p->now > LFU_EXPONENT_MAX) {
        for (uint32_t i = 0; i < p->object_count; i++)
            p->scores[i] = ldexp(p->scores[i], -LFU_EXPONENT_MAX);
        p->now -= LFU_EXPONENT_MAX;
    }
    p->scores[object] += exp2(p->now);
}

static double lfu_worth(void *ctx, uint32_t object)
{
    return ((const struct ps_policy *)ctx)->scores[object];
}

/* ---- least stale ----------------------------------------------------------------------------- */

static void stale_used(void *ctx, uint32_t object)
{
    struct ps_policy *p = ctx;
    p->group = p->groups[object];
}

static double stale_worth(void *ctx, uint32_t object)
{
    const struct ps_policy *p = ctx;
    return p->groups[object] > p->group;
}

/* ---- Belady ---------------------------------------------------------------------------------- */

static void belady_used(void *ctx, uint32_t object)
{
    struct ps_policy *p = ctx;
    if (p->nexts[object] < p->ends[object])
        p->nexts[object]++;
}

static double belady_worth(void *ctx, uint32_t object)
{
    const struct ps_policy *p = ctx;
    uint32_t next = p->nexts[object];
    return next < p->ends[object] ? -(double)p->times[next] : -HUGE_VAL;
}

static void sort_uses(struct ps_policy *p, const uint32_t *uses, uint64_t use_count)
{
    uint32_t sum = 0;

    for (uint64_t i = 0; i < use_count; i++)
        p->ends[uses[i]]++;
    for (uint32_t o = 0; o < p->object_count; o++) {
        p->nexts[o] = sum;
        sum += p->ends[o];
        p->ends[o] = p->nexts[o];
    }
    for (uint64_t i = 0; i < use_count; i++)
        p->times[p->ends[uses[i]]++] = (uint32_t)i;
}

/* ---- all ------------------------------------------------------------------------------------- */

static bool allocate(struct ps_policy *p, uint64_t use_count)
{
    size_t count = ps_max_u64(p->object_count, 1);

    switch (p->kind) {
    case PS_POLICY_LFU:
        p->scores = calloc(count, sizeof(*p->scores));
        return p->scores;
    case PS_POLICY_LEAST_STALE:
        p->groups = calloc(count, sizeof(*p->groups));
        return p->groups;
    case PS_POLICY_BELADY:
        p->ends = calloc(count, sizeof(*p->ends));
        p->nexts = calloc(count, sizeof(*p->nexts));
        p->times = calloc(ps_max_u64(use_count, 1), sizeof(*p->times));
        return p->ends && p->nexts && p->times;
    default:
        return true;
    }
}

int ps_policy_open(struct ps_policy **out, enum ps_policy_kind kind, const struct ps_volume *volume,
                   const uint32_t *uses, uint64_t use_count, struct ps_error *err)
{
    struct ps_policy *p = calloc(1, sizeof(*p));

    if (p) {
        p->kind = kind;
        p->object_count = ps_volume_object_count(volume);
        p->step = 1 / LFU_HALF_LIFE / (double)ps_max_u64(p->object_count, 1);
        p->hook.ctx = p;
    }
    if (!p || !allocate(p, use_count)) {
        ps_policy_close(&p);
        return ps_error_set(err, -ENOMEM, "replay", "out of memory");
    }
    for (uint32_t i = 0; p->groups && i < p->object_count; i++) {
        struct ps_object_info info;
        ps_volume_object(volume, i, &info);
        p->groups[i] = info.group;
    }
    if (kind == PS_POLICY_BELADY)
        sort_uses(p, uses, use_count);
    p->hook.used = kind == PS_POLICY_LFU      ? lfu_used
                   : kind == PS_POLICY_BELADY ? belady_used
                                              : stale_used;
    p->hook.worth = kind == PS_POLICY_LFU      ? lfu_worth
                    : kind == PS_POLICY_BELADY ? belady_worth
                                               : stale_worth;
    *out = p;
    return 0;
}

void ps_policy_close(struct ps_policy **policy)
{
    struct ps_policy *p = policy ? *policy : NULL;

    if (!p)
        return;
    free(p->scores);
    free(p->groups);
    free(p->ends);
    free(p->nexts);
    free(p->times);
    free(p);
    *policy = NULL;
}

const struct ps_cache_policy *ps_policy_hook(const struct ps_policy *policy)
{
    return policy->kind == PS_POLICY_LRU ? NULL : &policy->hook;
}
