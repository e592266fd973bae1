/*
 * Choosing the next token. Every sum runs in a fixed order in double, and the exponential is our
 * own: the same logits, seed and history give the same token on every machine, which libm, with its
 * variants per processor, does not promise.
 */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "core/util.h"
#include "model/model.h"

#define REPEAT_LAST_N_DEFAULT 64
#define REPEAT_LAST_N_MAX (1 << 22)
#define BLOCK 64u /* logits that are looked at together */
#define LANES 16u /* of them at once: independent, so that compilers use vectors */

struct candidate {
    float logit;
    int32_t id;
};

struct ps_sampler {
    struct ps_sampling options;
    uint32_t vocab;
    uint64_t position; /* tokens told of */
    int32_t *recent;   /* ring of the last repeat_last_n ids; NULL when the penalty is off */
    uint32_t recent_count, recent_next;
    uint32_t *seen;               /* [vocab] how often an id is in the ring */
    struct candidate *candidates; /* [vocab] */
    double *weights;              /* [vocab] */
};

/* ---- numbers ----------------------------------------------------------------------------------
 */

/*
 * SplitMix64's number at a position: its state only counts. So a text that is continued, in another
 * run and whatever has been drawn there, gets the numbers that it would have got in one. The seed
 * is mixed first, as users take neighbours.
 */
static uint64_t random_at(uint64_t seed, uint64_t position)
{
    uint64_t state = ps_random_next(&seed) + position * PS_RANDOM_STEP;

    return ps_random_next(&state);
}

/* exp(x) for x <= 0 within a few units in the last place: x = n ln 2 + r, |r| <= ln 2 / 2, and the
 * Taylor series of exp(r) to the 13th power, whose remainder is under 2^-57. */
static double exp_fixed(double x)
{
    static const double inverse_factorial[] = {1.0,
                                               1.0,
                                               1.0 / 2,
                                               1.0 / 6,
                                               1.0 / 24,
                                               1.0 / 120,
                                               1.0 / 720,
                                               1.0 / 5040,
                                               1.0 / 40320,
                                               1.0 / 362880,
                                               1.0 / 3628800,
                                               1.0 / 39916800,
                                               1.0 / 479001600,
                                               1.0 / 6227020800.0};
    if (!(x > -700))
        return 0;
    double n = floor(x * 1.4426950408889634 + 0.5);
    /* ln 2 in two parts: the first has enough zero bits at its end for n * it to be exact. */
    double r = x - n * 0.69314718036912381649 - n * 1.9082149292705877e-10;
    double sum = inverse_factorial[13];
    for (int i = 12; i >= 0; i--)
        sum = inverse_factorial[i] + sum * r;
    return ldexp(sum, (int)n);
}

/* ---- open and close ---------------------------------------------------------------------------
 */

void ps_model_sampling(const struct ps_model *model, struct ps_sampling *sampling)
{
    const struct ps_config_sampling *own = &model->config.sampling;
    *sampling = (struct ps_sampling){
        .temperature = 0, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = REPEAT_LAST_N_DEFAULT};
    if (!own->has)
        return;
    sampling->temperature = own->temperature;
    sampling->top_k = own->top_k;
    sampling->top_p = own->top_p;
    sampling->min_p = own->min_p;
    sampling->repeat_penalty = own->repeat_penalty;
}

static int check(const struct ps_sampling *s, struct ps_error *err)
{
    const char *what = NULL;
    if (!(s->temperature >= 0) || !isfinite(s->temperature))
        what = "The temperature must be 0 (greedy) or more";
    else if (s->top_k < 0)
        what = "top-k must be 0 (off) or more";
    else if (!(s->top_p >= 0 && s->top_p <= 1))
        what = "top-p must be between 0 and 1 (off)";
    else if (!(s->min_p >= 0 && s->min_p <= 1))
        what = "min-p must be between 0 (off) and 1";
    else if (!(s->repeat_penalty > 0) || !isfinite(s->repeat_penalty))
        what = "The repetition penalty must be more than 0 (1 is off)";
    else if (s->repeat_last_n < 0 || s->repeat_last_n > REPEAT_LAST_N_MAX)
        what = "The repetition penalty can look back on 0 to 4194304 tokens";
    return what ? ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "%s.", what) : 0;
}

uint64_t ps_sampler_bytes(uint32_t vocab_rows)
{
    const struct ps_sampler *s;

    return sizeof(*s) + REPEAT_LAST_N_DEFAULT * sizeof(*s->recent) +
           (vocab_rows + 1ull) * (sizeof(*s->candidates) + sizeof(*s->weights) + sizeof(*s->seen));
}

int ps_sampler_open(struct ps_sampler **out, const struct ps_model *model,
                    const struct ps_sampling *sampling, struct ps_error *err)
{
    int rc = check(sampling, err);
    if (rc < 0)
        return rc;
    struct ps_sampler *s = calloc(1, sizeof(*s));
    if (!s)
        return ps_error_set(err, -ENOMEM, NULL, "Out of memory for the sampler.");
    s->options = *sampling;
    s->vocab = model->config.vocab_rows;
    s->candidates = malloc((s->vocab + 1ull) * sizeof(*s->candidates));
    s->weights = malloc((s->vocab + 1ull) * sizeof(*s->weights));
    bool penalty = sampling->repeat_penalty != 1.0f && sampling->repeat_last_n;
    if (penalty) {
        s->recent = malloc((size_t)sampling->repeat_last_n * sizeof(*s->recent));
        s->seen = calloc(s->vocab + 1ull, sizeof(*s->seen));
    }
    if (!s->candidates || !s->weights || (penalty && (!s->recent || !s->seen))) {
        ps_sampler_close(&s);
        return ps_error_set(err, -ENOMEM, NULL, "Out of memory for the sampler.");
    }
    *out = s;
    return 0;
}

void ps_sampler_close(struct ps_sampler **sampler)
{
    if (!sampler || !*sampler)
        return;
    free((*sampler)->recent);
    free((*sampler)->seen);
    free((*sampler)->candidates);
    free((*sampler)->weights);
    free(*sampler);
    *sampler = NULL;
}

void ps_sampler_accept(struct ps_sampler *s, int32_t id)
{
    s->position++;
    if (!s->recent || id < 0 || (uint32_t)id >= s->vocab)
        return;
    if (s->recent_count == (uint32_t)s->options.repeat_last_n)
        s->seen[s->recent[s->recent_next]]--;
    else
        s->recent_count++;
    s->recent[s->recent_next] = id;
    s->recent_next = (s->recent_next + 1) % (uint32_t)s->options.repeat_last_n;
    s->seen[id]++;
}

/* ---- choosing ---------------------------------------------------------------------------------
 */

/* The logit with the penalty, finite or -inf: NaN counts as impossible, +inf as the largest. */
static float logit_of(const struct ps_sampler *s, const float *logits, uint32_t id)
{
    float value = logits[id];
    if (s->seen && s->seen[id])
        value = value > 0 ? value / s->options.repeat_penalty : value * s->options.repeat_penalty;
    if (isnan(value))
        return -INFINITY;
    return value > FLT_MAX ? FLT_MAX : value;
}

/* Strict order: larger logit first, lower id among equals. */
static bool before(struct candidate a, struct candidate b)
{
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/*
 * Most logits are far below those that count. The first block of ids, from `id` on, in which one is
 * larger than `least`: its first id in *id, its end as the result. What is left at the end of the
 * vocabulary, less than a block, counts as one. NaN is larger than nothing. A
 * penalty under 1 makes logits larger, so nothing can be left out then.
 */
static uint32_t next_block(const struct ps_sampler *s, const float *logits, uint32_t *id,
                           float least)
{
    bool skips = !s->seen || s->options.repeat_penalty >= 1;

    for (; s->vocab - *id >= BLOCK; *id += BLOCK) {
        float max[LANES];
        for (uint32_t l = 0; l < LANES; l++)
            max[l] = least;
        for (uint32_t i = 0; skips && i < BLOCK; i += LANES)
            for (uint32_t l = 0; l < LANES; l++)
                max[l] = logits[*id + i + l] > max[l] ? logits[*id + i + l] : max[l];
        for (uint32_t l = 0; l < LANES; l++)
            if (!skips || max[l] > least)
                return *id + BLOCK;
    }
    return s->vocab;
}

static int32_t greedy(const struct ps_sampler *s, const float *logits)
{
    struct candidate best = {logit_of(s, logits, 0), 0};
    for (uint32_t id = 1, end; id < s->vocab; id = end) {
        end = next_block(s, logits, &id, best.logit);
        for (; id < end; id++) {
            struct candidate c = {logit_of(s, logits, id), (int32_t)id};
            if (before(c, best))
                best = c;
        }
    }
    return best.id;
}

/* Restores a heap below `at`. With worst_first the root is the last in order, else the first. */
static void sift_down(struct candidate *heap, uint32_t count, uint32_t at, bool worst_first)
{
    struct candidate moved = heap[at];
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && before(heap[child + 1], heap[child]) != worst_first)
            child++;
        if (before(heap[child], moved) == worst_first)
            break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static void make_heap(struct candidate *heap, uint32_t count, bool worst_first)
{
    for (uint32_t i = count / 2; i > 0; i--)
        sift_down(heap, count, i - 1, worst_first);
}

/* The top k in order, in candidates[0, k): one pass with a heap of k, so that a small k does not
 * pay for sorting a vocabulary. */
static uint32_t select_top_k(struct ps_sampler *s, const float *logits, uint32_t k)
{
    struct candidate *heap = s->candidates;
    for (uint32_t id = 0; id < k; id++)
        heap[id] = (struct candidate){logit_of(s, logits, id), (int32_t)id};
    make_heap(heap, k, true);
    for (uint32_t id = k, end; id < s->vocab; id = end) {
        end = next_block(s, logits, &id, heap[0].logit);
        for (; id < end; id++) {
            struct candidate c = {logit_of(s, logits, id), (int32_t)id};
            if (before(c, heap[0])) {
                heap[0] = c;
                sift_down(heap, k, 0, true);
            }
        }
    }
    for (uint32_t left = k; left > 1; left--) {
        struct candidate worst = heap[0];
        heap[0] = heap[left - 1];
        heap[left - 1] = worst;
        sift_down(heap, left - 1, 0, true);
    }
    return k;
}

static float largest(const struct candidate *c, uint32_t count)
{
    float max = c[0].logit;
    for (uint32_t i = 1; i < count; i++)
        max = c[i].logit > max ? c[i].logit : max;
    return max;
}

/*
 * The shortest run of best candidates whose probabilities (at temperature 1) reach top_p; at least
 * one. Candidates that are not sorted yet are taken from a heap one by one: a nucleus is short.
 * Taken ones collect at the end of the array, best last, and are then brought to the front.
 */
static uint32_t select_nucleus(struct ps_sampler *s, uint32_t count, bool sorted)
{
    struct candidate *c = s->candidates;
    float max = largest(c, count);
    double total = 0, reached = 0;
    for (uint32_t i = 0; i < count; i++)
        total += exp_fixed((double)c[i].logit - max);
    double wanted = total * s->options.top_p;
    uint32_t kept = 0;
    if (!sorted)
        make_heap(c, count, false);
    while (kept < count && (!kept || reached < wanted)) {
        uint32_t left = count - kept;
        struct candidate best = sorted ? c[kept] : c[0];
        if (!sorted) {
            c[0] = c[left - 1];
            c[left - 1] = best;
            sift_down(c, left - 1, 0, false);
        }
        reached += exp_fixed((double)best.logit - max);
        kept++;
    }
    if (sorted)
        return kept;
    for (uint32_t i = 0; i < count / 2; i++) {
        struct candidate swap = c[i];
        c[i] = c[count - 1 - i];
        c[count - 1 - i] = swap;
    }
    return kept;
}

/* Drops candidates less probable than min_p times the best one; keeps the order. */
static uint32_t select_min_p(struct ps_sampler *s, uint32_t count)
{
    struct candidate *c = s->candidates;
    float max = largest(c, count);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++)
        if (exp_fixed((double)c[i].logit - max) >= s->options.min_p)
            c[kept++] = c[i];
    return kept;
}

static int32_t draw(struct ps_sampler *s, uint32_t count)
{
    const struct candidate *c = s->candidates;
    float max = largest(c, count);
    double total = 0;
    for (uint32_t i = 0; i < count; i++) {
        s->weights[i] = exp_fixed(((double)c[i].logit - max) / s->options.temperature);
        total += s->weights[i];
    }
    double left = (double)(random_at(s->options.seed, s->position) >> 11) * 0x1p-53 * total;
    int32_t last = c[0].id;
    for (uint32_t i = 0; i < count; i++) {
        if (s->weights[i] <= 0)
            continue;
        last = c[i].id;
        left -= s->weights[i];
        if (left < 0)
            break;
    }
    return last;
}

int32_t ps_sampler_next(struct ps_sampler *s, const float *logits)
{
    const struct ps_sampling *o = &s->options;
    if (o->temperature == 0)
        return greedy(s, logits);
    bool sorted = o->top_k && (uint32_t)o->top_k < s->vocab;
    uint32_t count = s->vocab;
    if (sorted) {
        count = select_top_k(s, logits, (uint32_t)o->top_k);
    } else {
        for (uint32_t id = 0; id < s->vocab; id++)
            s->candidates[id] = (struct candidate){logit_of(s, logits, id), (int32_t)id};
    }
    if (largest(s->candidates, count) == -INFINITY) /* nothing is possible: nothing to draw from */
        return greedy(s, logits);
    if (o->top_p < 1)
        count = select_nucleus(s, count, sorted);
    if (o->min_p > 0)
        count = select_min_p(s, count);
    return draw(s, count);
}
