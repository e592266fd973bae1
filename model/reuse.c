#include "model/reuse.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

#define OBJECT_COUNT_MAX (1u << 24)
#define CURVE_COUNT_MAX 16
/* Experts of one layer and token of which pairs are looked at. */
#define LAYER_EXPERTS_MAX 64u
/* Tokens between two accesses to an object are told apart up to so many. */
#define GAP_MAX 4096u

/*
 * Marks in a line of places: one for each object seen, at the place of its last access. A tree of
 * sums over the places (Fenwick) counts those behind any of them. When the line is full the marks
 * are moved together, which keeps their order.
 */
struct ps_reuse {
    uint32_t experts, object_count, seen_count;
    uint32_t place_count, next; /* places 1 .. place_count */
    uint32_t *place_of;         /* [object_count]: 0 = never seen */
    uint32_t *object_at;        /* [place_count + 1] */
    uint32_t *sums;             /* [place_count + 1] */
    double *hits;               /* [object_count + 2]: accesses by distance */
    double *spread;             /* [object_count + 2]: differences of those spread over a range */
    uint64_t counted;
    uint32_t *token_of; /* [object_count]: 1 + the token of the last access, or 0 */
    uint64_t *gaps;     /* [GAP_MAX + 1]: counted accesses by tokens since the last one, or more */
    uint64_t layer_ends, layers_counted;
    int is_layer_counted;
    /* Pairs of experts of a layer: both miss with fewer slots than the lesser of their distances.
     */
    uint64_t *pairs; /* [object_count + 2], by that */
    uint64_t pair_count;
    uint32_t layer_distances[LAYER_EXPERTS_MAX], layer_count; /* since the last end */
    uint64_t random;
};

int ps_reuse_open(struct ps_reuse **out, uint32_t layers, uint32_t experts, struct ps_error *err)
{
    uint64_t objects = (uint64_t)layers * experts;

    if (objects == 0 || objects > OBJECT_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                            "%u layers of %u experts are none, or absurdly many", layers, experts);
    struct ps_reuse *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory");
    r->experts = experts;
    r->object_count = (uint32_t)objects;
    r->place_count = r->object_count * 4 + 64;
    r->next = 1;
    r->place_of = calloc(r->object_count, sizeof(*r->place_of));
    r->object_at = calloc((size_t)r->place_count + 1, sizeof(*r->object_at));
    r->sums = calloc((size_t)r->place_count + 1, sizeof(*r->sums));
    r->hits = calloc((size_t)r->object_count + 2, sizeof(*r->hits));
    r->spread = calloc((size_t)r->object_count + 2, sizeof(*r->spread));
    r->pairs = calloc((size_t)r->object_count + 2, sizeof(*r->pairs));
    r->token_of = calloc(r->object_count, sizeof(*r->token_of));
    r->gaps = calloc(GAP_MAX + 1, sizeof(*r->gaps));
    if (!r->place_of || !r->object_at || !r->sums || !r->hits || !r->spread || !r->pairs ||
        !r->token_of || !r->gaps) {
        ps_reuse_close(&r);
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory");
    }
    *out = r;
    return 0;
}

void ps_reuse_close(struct ps_reuse **reuse)
{
    struct ps_reuse *r = *reuse;

    if (r == NULL)
        return;
    free(r->place_of);
    free(r->object_at);
    free(r->sums);
    free(r->hits);
    free(r->spread);
    free(r->pairs);
    free(r->token_of);
    free(r->gaps);
    free(r);
    *reuse = NULL;
}

static void add(struct ps_reuse *r, uint32_t place, uint32_t delta)
{
    for (; place <= r->place_count; place += place & -place)
        r->sums[place] += delta; /* wraps around for -1 */
}

static uint32_t sum_to(const struct ps_reuse *r, uint32_t place)
{
    uint32_t sum = 0;

    for (; place > 0; place -= place & -place)
        sum += r->sums[place];
    return sum;
}

static void move_together(struct ps_reuse *r)
{
    uint32_t to = 1;

    memset(r->sums, 0, ((size_t)r->place_count + 1) * sizeof(*r->sums));
    for (uint32_t from = 1; from < r->next; from++) {
        uint32_t object = r->object_at[from];
        if (r->place_of[object] != from)
            continue;
        r->object_at[to] = object;
        r->place_of[object] = to++;
    }
    for (uint32_t place = 1; place < to; place++)
        add(r, place, 1);
    r->next = to;
}

static void gap_count(struct ps_reuse *r, uint32_t object, int is_counted)
{
    uint32_t token = (uint32_t)(r->layer_ends / (r->object_count / r->experts));
    uint32_t gap = r->token_of[object] > 0 ? token + 1 - r->token_of[object] : GAP_MAX;

    r->token_of[object] = token + 1;
    if (!is_counted)
        return;
    r->gaps[ps_min_u64(gap, GAP_MAX)]++;
    r->is_layer_counted = 1;
}

void ps_reuse_access(struct ps_reuse *r, uint32_t layer, uint32_t expert, int is_counted)
{
    uint32_t object = layer * r->experts + expert;

    if (r->next > r->place_count)
        move_together(r);
    gap_count(r, object, is_counted);
    uint32_t place = r->place_of[object], distance;
    r->counted += is_counted != 0;
    if (place == 0) {
        uint32_t least = r->seen_count++;
        if (is_counted) {
            double each = 1.0 / (r->object_count - least);
            r->spread[least + 1] += each;
            r->spread[r->object_count + 1] -= each;
        }
        distance = least + 1 + (uint32_t)(ps_random_next(&r->random) % (r->object_count - least));
    } else {
        distance = r->seen_count - sum_to(r, place) + 1;
        r->hits[distance] += is_counted ? 1 : 0;
        add(r, place, (uint32_t)-1);
    }
    r->place_of[object] = r->next;
    r->object_at[r->next] = object;
    add(r, r->next++, 1);
    if (is_counted && r->layer_count < LAYER_EXPERTS_MAX)
        r->layer_distances[r->layer_count++] = distance;
}

void ps_reuse_layer_end(struct ps_reuse *r)
{
    for (uint32_t i = 1; i < r->layer_count; i++) {
        for (uint32_t j = 0; j < i; j++)
            r->pairs[ps_min_u64(r->layer_distances[i], r->layer_distances[j])]++;
        r->pair_count += i;
    }
    r->layer_count = 0;
    r->layer_ends++;
    r->layers_counted += r->is_layer_counted;
    r->is_layer_counted = 0;
}

double ps_reuse_hit_rate(const struct ps_reuse *r, double slots)
{
    double sum = 0, each = 0;

    for (uint32_t d = 1; d <= r->object_count && d <= slots; d++) {
        each += r->spread[d];
        sum += r->hits[d] + each;
    }
    return r->counted ? sum / (double)r->counted : 0;
}

double ps_reuse_clustering(const struct ps_reuse *r, double slots)
{
    double miss = 1 - ps_reuse_hit_rate(r, slots);
    uint64_t both = 0;

    if (r->pair_count == 0 || miss <= 0 || miss >= 1)
        return 0;
    for (uint32_t d = r->object_count; d >= 1 && d > slots; d--)
        both += r->pairs[d];
    double together = (double)both / (double)r->pair_count;
    return fmin(fmax((together - miss * miss) / (miss * (1 - miss)), 0), 1);
}

/* Token j of a row brings those that were not chosen by the j before it: whose gap is longer. */
double ps_reuse_distinct(const struct ps_reuse *r, uint32_t tokens)
{
    uint64_t longer = r->counted;
    double sum = 0;

    for (uint32_t j = 0; j < tokens; j++) {
        longer -= j <= GAP_MAX - 1 ? r->gaps[j] : 0;
        sum += (double)longer;
    }
    return r->layers_counted ? sum / (double)r->layers_counted : 0;
}

/* ---- curves ---------------------------------------------------------------------------------- */

static double at_point(const double *curve, double x)
{
    int i = 1;

    while (i < PS_REUSE_POINT_COUNT - 1 && x > ps_reuse_points[i])
        i++;
    double left = ps_reuse_points[i - 1], width = ps_reuse_points[i] - left;
    double low = curve[i - 1], high = curve[i];
    return low + (high - low) * (x - left) / width;
}

void ps_reuse_predict(double fraction, uint32_t used, uint32_t experts, struct ps_hit_rate *rate)
{
    double least = (double)used / experts, x = 1, rates[CURVE_COUNT_MAX],
           clusterings[CURVE_COUNT_MAX];
    size_t n = 0;

    *rate = (struct ps_hit_rate){0};
    if (fraction < least)
        return;
    if (least < 1)
        x = fraction < 1 ? (fraction - least) / (1 - least) : 1;
    for (const struct ps_reuse_curve *c = ps_reuse_table; c->name && n < CURVE_COUNT_MAX; c++) {
        clusterings[n] = at_point(c->clustering, x);
        rates[n++] = at_point(c->hit_rate, x);
    }
    qsort(rates, n, sizeof(*rates), ps_compare_double);
    qsort(clusterings, n, sizeof(*clusterings), ps_compare_double);
    rate->low = rates[0];
    rate->high = rates[n - 1];
    rate->central = (rates[(n - 1) / 2] + rates[n / 2]) / 2;
    rate->clustering = (clusterings[(n - 1) / 2] + clusterings[n / 2]) / 2;
}
