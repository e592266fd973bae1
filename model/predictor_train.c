/*
 * Stochastic gradients by Adam (Kingma and Ba, arXiv:1412.6980) on the cross-entropy between the
 * corrected probabilities and the experts that were chosen, each 1/K. Layers know nothing of each
 * other, so each is trained by one thread, and the result does not depend on their number.
 */
#include "model/predictor_train.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/pool.h"
#include "core/util.h"
#include "model/predictor_learned.h"
#include "model/predictor_samples.h"
#include "nvme/record.h"
#include "quant/type.h"

#define RANK_DEFAULT_MAX 32u
#define RANK_GRAIN 8u
#define PASS_COUNT_DEFAULT 8u
#define MEMORY_DEFAULT (UINT64_C(1) << 30)
#define BATCH_TOKENS 64u
#define RATE 5e-3f
#define BETA1 0.9f
#define BETA2 0.999f
#define EPSILON 1e-8f
#define HALF_COUNT 4u /* the whole correction, a half, a quarter, an eighth */

static_assert(PS_TRAIN_DEPTHS == PS_LEARNED_DEPTH_MAX, "depths");

/* Parameters of one layer, one behind the other in each of these vectors. */
struct vectors {
    float *value, *gradient, *mean, *square; /* [count] */
    size_t count;
};

/* Where they lie: A [H, rank] first, then for each depth the gate's factor, the bias, B. */
struct places {
    size_t gate[PS_TRAIN_DEPTHS], bias[PS_TRAIN_DEPTHS], b[PS_TRAIN_DEPTHS];
};

struct training {
    const struct ps_train_options *options;
    struct ps_sample_set set;
    struct ps_learned_shape shape;
    uint32_t pass_count;
    struct ps_samples *samples; /* of the layers in work */
    uint32_t first, count;      /* which these are */
    struct vectors *trained;    /* [layers] value alone is left when a layer is done */
    struct places places;
    size_t value_count;             /* of one layer */
    bool *kept;                     /* [layers, PS_TRAIN_DEPTHS] */
    struct ps_train_depth *results; /* [layers, PS_TRAIN_DEPTHS] */
    _Atomic uint64_t passes_done;
    _Atomic int rc;      /* of the first layer that failed */
    struct ps_error err; /* and what it says */
};

/* Scratch of one layer in work. */
struct scratch {
    float *x, *log_p, *p, *low, *low_gradient; /* [H], [E], [E], [rank], [rank] */
    uint32_t *order;                           /* [tokens to train with] */
};

/* ---- memory -----------------------------------------------------------------------------------
 */

static void vectors_fini(struct vectors *v)
{
    free(v->value);
    free(v->gradient);
    free(v->mean);
    free(v->square);
    *v = (struct vectors){0};
}

static int vectors_init(struct vectors *v, size_t count)
{
    *v = (struct vectors){.count = count,
                          .value = calloc(count, sizeof(float)),
                          .gradient = calloc(count, sizeof(float)),
                          .mean = calloc(count, sizeof(float)),
                          .square = calloc(count, sizeof(float))};
    return v->value && v->gradient && v->mean && v->square ? 0 : -ENOMEM;
}

static size_t places_set(struct places *places, const struct ps_learned_shape *shape)
{
    size_t at = (size_t)shape->hidden * shape->rank;

    for (uint32_t d = 0; d < PS_TRAIN_DEPTHS; d++) {
        places->gate[d] = at++;
        places->bias[d] = at;
        at += shape->expert_count;
        places->b[d] = at;
        at += (size_t)shape->rank * shape->expert_count;
    }
    return at;
}

static void scratch_fini(struct scratch *s)
{
    free(s->x);
    free(s->log_p);
    free(s->p);
    free(s->low);
    free(s->low_gradient);
    free(s->order);
}

static int scratch_init(struct scratch *s, const struct training *t)
{
    *s = (struct scratch){.x = calloc(t->shape.hidden, sizeof(float)),
                          .log_p = calloc(t->shape.expert_count, sizeof(float)),
                          .p = calloc(t->shape.expert_count, sizeof(float)),
                          .low = calloc(t->shape.rank, sizeof(float)),
                          .low_gradient = calloc(t->shape.rank, sizeof(float)),
                          .order = calloc(t->set.train_count, sizeof(uint32_t))};
    return s->x && s->log_p && s->p && s->low && s->low_gradient && s->order ? 0 : -ENOMEM;
}

/* ---- chance -----------------------------------------------------------------------------------
 */

/* Even in [-1, 1). */
static float random_signed(uint64_t *state)
{
    return (float)(ps_random_next(state) >> 40) / (1 << 23) - 1;
}

static void order_shuffle(uint32_t *order, uint64_t count, uint64_t *state)
{
    for (uint64_t i = count; i > 1; i--) {
        uint64_t j = ps_random_next(state) % i;
        uint32_t swapped = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swapped;
    }
}

/* ---- gradients --------------------------------------------------------------------------------
 */

static void halves_get(const uint16_t *halves, float *to, size_t count)
{
    ps_row_decode(PS_TYPE_F16, halves, to, count);
}

/* Eight sums beside each other, so that they need not wait for each other. */
static float dot(const float *a, const float *b, uint32_t count)
{
    float sums[8] = {0}, sum = 0;
    uint32_t i = 0;

    for (; i + 8 <= count; i += 8)
        for (uint32_t j = 0; j < 8; j++)
            sums[j] += a[i + j] * b[i + j];
    for (; i < count; i++)
        sum += a[i] * b[i];
    for (uint32_t j = 0; j < 8; j++)
        sum += sums[j];
    return sum;
}

static void axpy(float *restrict y, float a, const float *restrict x, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        y[i] += a * x[i];
}

/* low = A x of a token. */
static void low_get(const struct training *t, const struct vectors *v, struct scratch *s)
{
    memset(s->low, 0, t->shape.rank * sizeof(float));
    for (uint32_t i = 0; i < t->shape.hidden; i++)
        axpy(s->low, s->x[i], v->value + (size_t)i * t->shape.rank, t->shape.rank);
}

/* Adds the gradients of a token's guesses at one depth, and what they ask of low. */
static void depth_learn(const struct training *t, const struct ps_samples *samples, uint64_t token,
                        uint32_t d, struct vectors *v, struct scratch *s)
{
    uint32_t experts = t->shape.expert_count, rank = t->shape.rank, k = t->set.experts_used;
    const uint16_t *chosen = samples->depths[d].chosen + token * k;
    const float *bias = v->value + t->places.bias[d], *b = v->value + t->places.b[d];
    float *b_gradient = v->gradient + t->places.b[d], gate = v->value[t->places.gate[d]];
    uint32_t chosen_count = 0;

    while (chosen_count < k && chosen[chosen_count] != UINT16_MAX)
        chosen_count++;
    if (chosen_count == 0)
        return;
    halves_get(samples->depths[d].log_p + token * experts, s->log_p, experts);
    for (uint32_t e = 0; e < experts; e++)
        s->p[e] = gate * s->log_p[e] + bias[e];
    for (uint32_t r = 0; r < rank; r++)
        axpy(s->p, s->low[r], b + (size_t)r * experts, experts);
    ps_learned_softmax(s->p, experts);
    for (uint32_t i = 0; i < chosen_count; i++)
        s->p[chosen[i]] -= 1 / (float)chosen_count;
    v->gradient[t->places.gate[d]] += dot(s->p, s->log_p, experts);
    axpy(v->gradient + t->places.bias[d], 1, s->p, experts);
    for (uint32_t r = 0; r < rank; r++) {
        axpy(b_gradient + (size_t)r * experts, s->low[r], s->p, experts);
        s->low_gradient[r] += dot(b + (size_t)r * experts, s->p, experts);
    }
}

static void token_learn(const struct training *t, const struct ps_samples *samples, uint64_t token,
                        struct vectors *v, struct scratch *s)
{
    uint32_t rank = t->shape.rank;

    halves_get(samples->x + token * t->shape.hidden, s->x, t->shape.hidden);
    low_get(t, v, s);
    memset(s->low_gradient, 0, rank * sizeof(float));
    for (uint32_t d = 0; d < PS_TRAIN_DEPTHS; d++)
        if (samples->depths[d].there)
            depth_learn(t, samples, token, d, v, s);
    for (uint32_t i = 0; i < t->shape.hidden; i++)
        axpy(v->gradient + (size_t)i * rank, s->x[i], s->low_gradient, rank);
}

/* One step of Adam with the gradients of `tokens` tokens, which are then forgotten. */
static void step(struct vectors *v, uint32_t tokens, float rate, uint64_t step_count)
{
    float unbias1 = 1 - powf(BETA1, (float)step_count),
          unbias2 = 1 - powf(BETA2, (float)step_count);

    for (size_t i = 0; i < v->count; i++) {
        float g = v->gradient[i] / (float)tokens;
        v->mean[i] = BETA1 * v->mean[i] + (1 - BETA1) * g;
        v->square[i] = BETA2 * v->square[i] + (1 - BETA2) * g * g;
        v->value[i] -= rate * (v->mean[i] / unbias1) / (sqrtf(v->square[i] / unbias2) + EPSILON);
        v->gradient[i] = 0;
    }
}

/* B begins as zero and the gate's factor as 1: the gate predictor itself. A is even noise that
 * gives a typical x a low of about 1. */
static void values_begin(const struct training *t, const struct ps_samples *samples,
                         struct vectors *v, struct scratch *s, uint64_t *state)
{
    double squares = 0;

    for (uint64_t n = 0; n < 64; n++) {
        halves_get(samples->x + n % t->set.train_count * t->shape.hidden, s->x, t->shape.hidden);
        squares += (double)dot(s->x, s->x, t->shape.hidden) / 64;
    }
    float width = (float)sqrt(3 / fmax(squares, 1e-12));
    for (size_t i = 0; i < (size_t)t->shape.hidden * t->shape.rank; i++)
        v->value[i] = width * random_signed(state);
    for (uint32_t d = 0; d < PS_TRAIN_DEPTHS; d++)
        v->value[t->places.gate[d]] = 1;
}

static bool stopped(const struct training *t)
{
    return (t->options->stop && *t->options->stop) || atomic_load(&t->rc) < 0;
}

static void layer_learn(struct training *t, const struct ps_samples *samples, struct vectors *v,
                        struct scratch *s, bool tells)
{
    uint64_t n = t->set.train_count, step_count = 0;
    uint64_t step_total = t->pass_count * ps_div_up(n, BATCH_TOKENS);
    uint64_t state = t->options->seed * UINT64_C(0x2545f4914f6cdd1d) + samples->layer;

    values_begin(t, samples, v, s, &state);
    for (uint64_t i = 0; i < n; i++)
        s->order[i] = (uint32_t)i;
    for (uint32_t pass = 0; pass < t->pass_count && !stopped(t); pass++) {
        order_shuffle(s->order, n, &state);
        for (uint64_t i = 0; i < n && !stopped(t); i += BATCH_TOKENS) {
            uint32_t tokens = (uint32_t)ps_min_u64(BATCH_TOKENS, n - i);
            for (uint32_t j = 0; j < tokens; j++)
                token_learn(t, samples, s->order[i + j], v, s);
            float done = (float)step_count / (float)step_total;
            step(v, tokens, RATE * 0.5f * (1 + cosf(3.14159265f * done)), ++step_count);
        }
        atomic_fetch_add(&t->passes_done, 1);
        if (tells && t->options->progress)
            t->options->progress(t->options->progress_ctx, atomic_load(&t->passes_done),
                                 (uint64_t)t->pass_count * t->set.layer_count);
    }
}

/* ---- what it is worth -------------------------------------------------------------------------
 */

/* Of the experts chosen, those with fewer than `ahead` others before them. Equals go by number. */
static void found_count(const float *p, uint32_t experts, const uint16_t *chosen, uint32_t k,
                        uint64_t *found_k, uint64_t *found_2k)
{
    for (uint32_t i = 0; i < k && chosen[i] != UINT16_MAX; i++) {
        uint32_t before = 0, c = chosen[i];
        for (uint32_t e = 0; e < experts; e++)
            before += p[e] > p[c] || (e < c && p[e] == p[c]);
        *found_k += before < k;
        *found_2k += before < 2 * k;
    }
}

/* On every other token held out, from the first or the second on. */
static void depth_measure(const struct training *t, const struct ps_samples *samples, uint32_t d,
                          const struct ps_learned *learned, uint64_t from, struct scratch *s,
                          struct ps_train_depth *result)
{
    uint32_t experts = t->shape.expert_count, k = t->set.experts_used;

    for (uint64_t n = t->set.train_count + from; n < t->set.token_count; n += 2) {
        const uint16_t *chosen = samples->depths[d].chosen + n * k;
        for (uint32_t i = 0; i < k; i++)
            result->chosen += chosen[i] != UINT16_MAX;
        halves_get(samples->depths[d].log_p + n * experts, s->p, experts);
        found_count(s->p, experts, chosen, k, &result->gate_k, &result->gate_2k);
        for (uint32_t e = 0; e < experts; e++)
            s->p[e] = expf(s->p[e]);
        halves_get(samples->x + n * t->shape.hidden, s->x, t->shape.hidden);
        ps_learned_apply(learned, samples->layer + d + 1, d + 1, s->x, s->p);
        found_count(s->p, experts, chosen, k, &result->learned_k, &result->learned_2k);
    }
}

/* The source of a layer with the targets that are kept. */
static struct ps_learned_source source_of(const struct training *t, uint32_t layer_idx,
                                          const bool *kept)
{
    const float *value = t->trained[layer_idx].value;
    struct ps_learned_source source = {.layer = t->set.layers[layer_idx], .a = value};

    for (uint32_t d = 0; d < PS_TRAIN_DEPTHS; d++)
        if (kept[d])
            source.targets[source.target_count++] = (struct ps_learned_target){
                d + 1, value[t->places.gate[d]], value + t->places.bias[d], value + t->places.b[d]};
    return source;
}

static void correction_scale(const struct training *t, struct vectors *v, uint32_t d, float factor)
{
    float *bias = v->value + t->places.bias[d], *b = v->value + t->places.b[d];

    for (uint32_t e = 0; e < t->shape.expert_count; e++)
        bias[e] *= factor;
    for (size_t i = 0; i < (size_t)t->shape.rank * t->shape.expert_count; i++)
        b[i] *= factor;
}

/* The layer, rounded as it would be stored, with the depths that are there. */
static int layer_open(const struct training *t, const struct ps_samples *samples,
                      uint32_t layer_idx, struct ps_learned **learned, struct ps_error *err)
{
    bool there[PS_TRAIN_DEPTHS];
    void *data = NULL;
    size_t bytes;

    for (uint32_t d = 0; d < PS_TRAIN_DEPTHS; d++)
        there[d] = samples->depths[d].there;
    struct ps_learned_source source = source_of(t, layer_idx, there);
    int rc = ps_learned_pack(&t->shape, &source, 1, &data, &bytes, err);
    if (rc == 0)
        rc = ps_learned_open(learned, data, bytes, NULL, err);
    if (rc == -PS_ERR_FORMAT)
        return ps_error_set(err, rc, NULL,
                            "training layer %u led to numbers too large to be kept: try another "
                            "--seed, or more tokens",
                            samples->layer);
    return rc;
}

static uint64_t found(const struct ps_train_depth *r)
{
    return r->learned_k + r->learned_2k;
}

/* The likelihood that was trained for is not the order at the edge of the chosen: where the gate
 * alone is nearly right, less of the correction finds more. So halves of it are tried, down to
 * none, on one half of the tokens held out; what is best there is kept. */
static int layer_choose(struct training *t, const struct ps_samples *samples, uint32_t layer_idx,
                        struct scratch *s, struct ps_error *err)
{
    bool *kept = t->kept + (size_t)layer_idx * PS_TRAIN_DEPTHS;
    struct vectors *v = &t->trained[layer_idx];
    uint64_t best[PS_TRAIN_DEPTHS] = {0};
    float shares[PS_TRAIN_DEPTHS] = {0}, share = 1;
    int rc = 0;

    for (uint32_t round = 0; rc == 0 && round < HALF_COUNT; round++, share /= 2) {
        struct ps_learned *learned = NULL;
        rc = layer_open(t, samples, layer_idx, &learned, err);
        for (uint32_t d = 0; rc == 0 && d < PS_TRAIN_DEPTHS; d++) {
            struct ps_train_depth r = {0};
            if (!samples->depths[d].there)
                continue;
            depth_measure(t, samples, d, learned, 0, s, &r);
            best[d] = ps_max_u64(best[d], r.gate_k + r.gate_2k);
            if (found(&r) > best[d]) {
                best[d] = found(&r);
                shares[d] = share;
            }
            correction_scale(t, v, d, 0.5f);
        }
        ps_learned_close(&learned);
    }
    for (uint32_t d = 0; d < PS_TRAIN_DEPTHS; d++) {
        kept[d] = shares[d] > 0;
        correction_scale(t, v, d, (kept[d] ? shares[d] : 1) / share);
    }
    return rc;
}

/* What is kept of a layer, on the tokens by which it was not chosen. */
static int layer_measure(struct training *t, const struct ps_samples *samples, uint32_t layer_idx,
                         struct scratch *s, struct ps_error *err)
{
    const bool *kept = t->kept + (size_t)layer_idx * PS_TRAIN_DEPTHS;
    struct ps_learned *learned = NULL;
    int rc = layer_open(t, samples, layer_idx, &learned, err);

    for (uint32_t d = 0; rc == 0 && d < PS_TRAIN_DEPTHS; d++) {
        struct ps_train_depth *r = &t->results[(size_t)layer_idx * PS_TRAIN_DEPTHS + d];
        if (!samples->depths[d].there)
            continue;
        depth_measure(t, samples, d, learned, 1, s, r);
        if (!kept[d]) {
            r->learned_k = r->gate_k;
            r->learned_2k = r->gate_2k;
        }
        r->layer_count = 1;
        r->kept_count = kept[d];
    }
    ps_learned_close(&learned);
    return rc;
}

static int layer_train(struct training *t, const struct ps_samples *samples, uint32_t layer_idx,
                       bool tells, struct ps_error *err)
{
    struct vectors *v = &t->trained[layer_idx];
    struct scratch s;
    int rc = scratch_init(&s, t);

    if (rc == 0)
        rc = vectors_init(v, t->value_count);
    if (rc < 0)
        ps_error_set(err, rc, NULL, "not enough memory to train a predictor");
    if (rc == 0)
        layer_learn(t, samples, v, &s, tells);
    if (rc == 0 && !stopped(t))
        rc = layer_choose(t, samples, layer_idx, &s, err);
    if (rc == 0 && !stopped(t))
        rc = layer_measure(t, samples, layer_idx, &s, err);
    scratch_fini(&s);
    struct vectors left = {.value = v->value, .count = v->count};
    v->value = NULL;
    vectors_fini(v);
    *v = left;
    return rc;
}

static bool any_depth(const struct ps_samples *samples)
{
    bool any = false;

    for (uint32_t d = 0; d < PS_TRAIN_DEPTHS; d++)
        any |= samples->depths[d].there;
    return any;
}

static void group_train(void *ctx, int thread_idx, int thread_count)
{
    struct training *t = ctx;

    for (uint32_t i = (uint32_t)thread_idx; i < t->count; i += (uint32_t)thread_count) {
        if (!any_depth(&t->samples[i]))
            continue;
        struct ps_error err = {0};
        int none = 0;
        int rc =
            stopped(t) ? 0 : layer_train(t, &t->samples[i], t->first + i, thread_idx == 0, &err);
        /* The pool's end makes the sentence seen by the thread that waits for it. */
        if (rc < 0 && atomic_compare_exchange_strong(&t->rc, &none, rc))
            t->err = err;
    }
}

/* ---- all layers -------------------------------------------------------------------------------
 */

/* Bytes that the record area has for a predictor: a half, less its header, this entry's and the
 * profile of all members. */
static uint64_t record_room(const struct ps_model *model)
{
    return PS_RECORD_HALF_BYTES - sizeof(struct ps_disk_record) - 2 * sizeof(struct ps_disk_entry) -
           (uint64_t)ps_volume_member_count(model->volume) * sizeof(struct ps_disk_profile);
}

static int rank_set(struct training *t, const struct ps_model *model, struct ps_error *err)
{
    uint32_t layers = t->set.layer_count, rank = t->options->rank;

    if (rank > 0) {
        t->shape.rank = rank;
        if (rank % RANK_GRAIN != 0 || rank > PS_LEARNED_RANK_MAX)
            return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                                "a rank is a multiple of 8 from 8 to 64, and not %u", rank);
        uint64_t most = ps_learned_packed_bytes(&t->shape, layers, layers * PS_TRAIN_DEPTHS);
        if (t->options->is_for_volume && most > record_room(model))
            return ps_error_set(err, -ENOSPC, NULL,
                                "a predictor of rank %u may take %llu bytes, and the volume's "
                                "record area has room for %llu: give a smaller --rank, or have it "
                                "written to a file with --out",
                                rank, (unsigned long long)most,
                                (unsigned long long)record_room(model));
        return 0;
    }
    for (t->shape.rank = RANK_DEFAULT_MAX; t->shape.rank > 0; t->shape.rank -= RANK_GRAIN)
        if (ps_learned_packed_bytes(&t->shape, layers, layers * PS_TRAIN_DEPTHS) <=
            record_room(model))
            return 0;
    return ps_error_set(err, -ENOSPC, NULL,
                        "a predictor for this model does not fit into the volume's record area, "
                        "which has 64 KB: have it written to a file with --out");
}

static int training_init(struct training *t, struct ps_model *model,
                         const struct ps_train_options *options, struct ps_error *err)
{
    int rc = ps_sample_set_init(&t->set, model, options, err);

    if (rc < 0)
        return rc;
    t->options = options;
    t->pass_count = options->pass_count > 0 ? options->pass_count : PASS_COUNT_DEFAULT;
    t->shape = (struct ps_learned_shape){.layer_count = model->config.layer_count,
                                         .expert_count = model->config.expert_count,
                                         .hidden = model->config.hidden,
                                         .model = model->config.name};
    rc = rank_set(t, model, err);
    if (rc < 0)
        return rc;
    t->value_count = places_set(&t->places, &t->shape);
    size_t cells = (size_t)t->set.layer_count * PS_TRAIN_DEPTHS;
    t->trained = calloc(t->set.layer_count, sizeof(*t->trained));
    t->samples = calloc(t->set.layer_count, sizeof(*t->samples));
    t->kept = calloc(cells, sizeof(*t->kept));
    t->results = calloc(cells, sizeof(*t->results));
    if (!t->trained || !t->samples || !t->kept || !t->results)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory to train a predictor");
    if (t->set.train_count > UINT32_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "more than 4 billion tokens are too many");
    return 0;
}

static void training_fini(struct training *t)
{
    for (uint32_t i = 0; t->trained && i < t->set.layer_count; i++)
        vectors_fini(&t->trained[i]);
    free(t->trained);
    free(t->samples);
    free(t->kept);
    free(t->results);
    ps_sample_set_fini(&t->set);
}

static int groups_train(struct training *t, struct ps_error *err)
{
    uint64_t memory = t->options->memory_bytes > 0 ? t->options->memory_bytes : MEMORY_DEFAULT;
    uint32_t most =
        (uint32_t)ps_min_u64(t->set.layer_count, ps_max_u64(1, memory / ps_samples_bytes(&t->set)));
    struct ps_pool *pool = NULL;
    int rc = ps_pool_open(&pool, t->options->threads, err);

    for (t->first = 0; rc >= 0 && t->first < t->set.layer_count; t->first += t->count) {
        t->count = (uint32_t)ps_min_u64(most, t->set.layer_count - t->first);
        rc = ps_samples_read(&t->set, t->first, t->count, t->samples, err);
        if (rc >= 0) {
            ps_pool_run(pool, group_train, t);
            rc = atomic_load(&t->rc);
            if (rc < 0 && err)
                *err = t->err;
        }
        ps_samples_fini(t->samples, t->count);
        if (rc >= 0 && t->options->stop && *t->options->stop)
            rc = ps_error_set(err, -EINTR, NULL, "stopped");
    }
    ps_pool_close(&pool);
    return rc;
}

static void report_fill(const struct training *t, struct ps_train_report *report)
{
    *report = (struct ps_train_report){
        .tokens = t->set.token_count,
        .tokens_held_out = t->set.token_count - t->set.train_count,
        .rank = t->shape.rank,
        .experts_used = t->set.experts_used,
        .rank_2k = (uint32_t)ps_min_u64(2ull * t->set.experts_used, t->shape.expert_count)};
    for (uint32_t i = 0; i < t->set.layer_count * PS_TRAIN_DEPTHS; i++) {
        const struct ps_train_depth *r = &t->results[i];
        struct ps_train_depth *sum = &report->depths[i % PS_TRAIN_DEPTHS];
        sum->chosen += r->chosen;
        sum->gate_k += r->gate_k;
        sum->gate_2k += r->gate_2k;
        sum->learned_k += r->learned_k;
        sum->learned_2k += r->learned_2k;
        sum->layer_count += r->layer_count;
        sum->kept_count += r->kept_count;
    }
}

static int all_pack(const struct training *t, void **data, size_t *bytes, struct ps_error *err)
{
    struct ps_learned_source *sources = calloc(t->set.layer_count, sizeof(*sources));
    uint32_t count = 0;

    if (!sources)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory for the predictor");
    for (uint32_t i = 0; i < t->set.layer_count; i++) {
        sources[count] = source_of(t, i, t->kept + (size_t)i * PS_TRAIN_DEPTHS);
        count += sources[count].target_count > 0;
    }
    int rc = ps_learned_pack(&t->shape, sources, count, data, bytes, err);
    free(sources);
    return rc;
}

int ps_model_predictor_train(struct ps_model *model, const struct ps_train_options *options,
                             struct ps_train_report *report, void **data, size_t *bytes,
                             struct ps_error *err)
{
    struct training t = {0};
    int rc = training_init(&t, model, options, err);

    if (rc == 0 && options->is_for_volume)
        rc = ps_record_put_check(model->volume, err);
    if (rc == 0)
        rc = groups_train(&t, err);
    if (rc >= 0)
        rc = all_pack(&t, data, bytes, err);
    if (rc >= 0)
        report_fill(&t, report);
    training_fini(&t);
    return rc < 0 ? rc : 0;
}

int ps_model_predictor_save(struct ps_model *model, const void *data, size_t bytes,
                            struct ps_error *err)
{
    struct ps_learned *learned = NULL;
    int rc = ps_learned_open_copy(&learned, data, bytes, "the predictor", err);

    ps_learned_close(&learned);
    if (rc < 0)
        return rc;
    if (bytes > record_room(model))
        return ps_error_set(err, -ENOSPC, NULL,
                            "the predictor has %zu bytes, and the volume's record area has room "
                            "for %llu: have it written to a file with --out",
                            bytes, (unsigned long long)record_room(model));
    return ps_record_put(model->volume, PS_LEARNED_RECORD, data, (uint32_t)bytes, err);
}
