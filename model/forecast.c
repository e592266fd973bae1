/*
 * Tokens per second before there is a run: the products of every layer at the machine's rates, the
 * misses of every layer at the drives'.
 */
#include "model/forecast.h"

#include <math.h>
#include <string.h>

#include "core/util.h"
#include "model/reuse.h"

#define PROMPT_TOKENS 512u

/*
 * Shares of the plain figures that kernels reach where nothing was measured: `penstock bench
 * kernel`, two cores of Zen 5, medians over Q4_K, Q8_0, Q4_0 and MXFP4 (docs/performance.md).
 */
#define MEMORY_SHARE 0.8          /* of plain reads, one vector */
#define OPS_SHARE_ONE_Q8 0.45     /* of the float peak, one vector, activations of 8 bits */
#define OPS_SHARE_ONE_FLOAT 0.21  /* the same with floats */
#define OPS_SHARE_MANY_Q8 1.9     /* many vectors */
#define OPS_SHARE_MANY_FLOAT 0.64 /* the same with floats */
#define ATTENTION_OPS_SHARE 0.3
#define MANY 8u /* vectors */
#define RUN_NS_UNKNOWN 2000.0
#define WAKE_NS_UNKNOWN 20000.0
/* Reads in a drive's queue where no probe has told, and the share of plain reads that checksums of
 * what has just come reach. */
#define DEPTH_UNKNOWN 8u
#define CHECK_SHARE 0.5
/* Less is none. */
#define CLUSTERING_MIN 0.001
/* Norms, residuals, rounding, top-k, leases: what one thread does alone in a layer, by the width of
 * the model. */
#define ALONE_LAYER_NS 8000.0
#define ALONE_HIDDEN_NS 2.0
/* Work handed out to all threads in a layer, rounds of landed slices not counted. */
#define RUNS_ATTENTION 3
#define RUNS_DELTA 4
#define RUNS_MOE 6
#define RUNS_ROUND 2 /* of a prompt: experts are taken as many at once as there are rows for */
/* What all threads do for each token of a prompt besides products: norms, sums, rounding, copies of
 * its row for every expert and back, by the width of the model; top-k, by its experts. */
#define TOKEN_HIDDEN_NS 0.3
#define TOKEN_PASSES 8
#define TOKEN_EXPERT_PASSES 3
#define TOKEN_ROUTE_NS 2.0

/* ---- products -------------------------------------------------------------------------------- */

static bool role_is_in(enum ps_role role, enum ps_forecast_part part)
{
    if (ps_role_is_vector(role) || role == PS_ROLE_DELTA_CONV)
        return false;
    if (role >= PS_ROLE_SHARED_GATE && role <= PS_ROLE_DENSE_DOWN)
        return part == PS_PART_SHARED;
    return part == PS_PART_MIXER && role >= PS_ROLE_ATTN_Q && role < PS_ROLE_SHARED_GATE;
}

static int expert_products(const struct ps_config *c, const struct ps_config_layer *l,
                           struct ps_forecast_product *products)
{
    uint32_t fold = (uint32_t)ps_min_u64(PS_FOLD_NEURONS, c->expert_width);

    if (l->ffn != PS_FFN_MOE)
        return 0;
    products[0] = (struct ps_forecast_product){l->gate_type, c->hidden, c->expert_width};
    products[1] = (struct ps_forecast_product){l->up_type, c->hidden, c->expert_width};
    products[2] = (struct ps_forecast_product){
        l->down_type, fold, (uint64_t)c->hidden * ps_div_up(c->expert_width, fold)};
    return 3;
}

int ps_forecast_products(const struct ps_model *model, uint32_t layer, enum ps_forecast_part part,
                         struct ps_forecast_product *products)
{
    int count = 0;

    if (part == PS_PART_EXPERT)
        return expert_products(&model->config, &model->config.layers[layer], products);
    for (uint32_t i = 0; i < model->tensor_count && count < PS_FORECAST_PRODUCT_MAX; i++) {
        const struct ps_config_tensor *t = &model->tensors[i];
        uint64_t rows, cols;
        if (t->layer != layer || t->role < PS_ROLE_LAYER_FIRST || !role_is_in(t->role, part))
            continue;
        ps_role_shape(&model->config, t->role, &rows, &cols);
        products[count++] = (struct ps_forecast_product){t->type, (uint32_t)cols, rows};
    }
    return count;
}

struct ps_forecast_product ps_forecast_head(const struct ps_model *model)
{
    const struct ps_config *c = &model->config;
    struct ps_forecast_product head = {PS_TYPE_F32, c->hidden, c->vocab_rows};

    /* The head follows the embedding, which serves where there is none. */
    for (uint32_t i = 0; i < model->tensor_count; i++) {
        const struct ps_config_tensor *t = &model->tensors[i];
        if (t->role == PS_ROLE_EMBED || t->role == PS_ROLE_HEAD)
            head.type = t->type;
        if (t->role == PS_ROLE_HEAD)
            break;
    }
    return head;
}

/* Experts that at least one of the tokens chooses, each as likely as any other. */
static double union_of(const struct ps_config *c, uint32_t used, uint32_t tokens)
{
    return c->expert_count * (1 - pow(1 - (double)used / c->expert_count, tokens));
}

static uint32_t vectors_each(uint32_t used, uint32_t chunk, double experts)
{
    return (uint32_t)ceil((double)chunk * used / experts);
}

uint32_t ps_forecast_expert_vectors(const struct ps_config *c, uint32_t used, uint32_t chunk)
{
    return vectors_each(used, chunk, union_of(c, used, chunk));
}

static double rate_guess(const struct ps_machine *m, const struct ps_forecast_product *p,
                         uint32_t vectors, bool is_q8)
{
    double bytes_per_weight = (double)ps_row_bytes(p->type, p->cols) / p->cols;
    bool many = vectors >= MANY, q8 = is_q8 && ps_q8_has(p->type);
    double share = many ? (q8 ? OPS_SHARE_MANY_Q8 : OPS_SHARE_MANY_FLOAT)
                        : (q8 ? OPS_SHARE_ONE_Q8 : OPS_SHARE_ONE_FLOAT);
    double by_ops = share * m->float_ops_per_s / (2.0 * vectors) * bytes_per_weight;

    return fmin(by_ops, MEMORY_SHARE * m->read_bytes_per_s);
}

double ps_machine_rate_of(const struct ps_machine *machine, const struct ps_forecast_product *p,
                          uint32_t vectors, bool is_q8)
{
    const struct ps_machine_rate *best = NULL;
    double nearest = 0;

    for (int i = 0; i < machine->rate_count; i++) {
        const struct ps_machine_rate *r = &machine->rates[i];
        double apart = fabs(log((double)r->vectors / vectors));
        if (r->type != p->type || r->cols != p->cols || (best && apart >= nearest))
            continue;
        best = r;
        nearest = apart;
    }
    if (!best)
        return rate_guess(machine, p, vectors, is_q8);
    return best->bytes_per_s * (best->vectors > 1 ? (double)best->vectors / vectors : 1);
}

/* ---- one layer ------------------------------------------------------------------------------- */

struct forecasting {
    struct ps_model *model;
    const struct ps_config *config;
    const struct ps_machine *machine;
    const struct ps_forecast_options *options;
    struct ps_engine_options engine; /* resolved */
    struct ps_state_shape state;
    bool is_q8;
    double drive_bytes_per_s; /* of all drives */
    double drive_alone_s;     /* a read that has its drive for itself */
    double drive_full_s;      /* as many reads together as the drives' queues hold: */
    double drive_full_bytes;
    uint32_t drive_depth;
    double clustering; /* of misses in a layer */
};

static double part_seconds(const struct forecasting *f, uint32_t layer, enum ps_forecast_part part,
                           uint32_t vectors)
{
    struct ps_forecast_product p[PS_FORECAST_PRODUCT_MAX];
    int count = ps_forecast_products(f->model, layer, part, p);
    double sum = 0;

    for (int i = 0; i < count; i++)
        sum += (double)(p[i].rows * ps_row_bytes(p[i].type, p[i].cols)) /
               ps_machine_rate_of(f->machine, &p[i], vectors, f->is_q8);
    return sum;
}

static uint64_t part_bytes(const struct forecasting *f, uint32_t layer, enum ps_forecast_part part)
{
    struct ps_forecast_product p[PS_FORECAST_PRODUCT_MAX];
    int count = ps_forecast_products(f->model, layer, part, p);
    uint64_t sum = 0;

    for (int i = 0; i < count; i++)
        sum += p[i].rows * ps_row_bytes(p[i].type, p[i].cols);
    return sum;
}

/* Positions that a token sees at most: without a window, as many as the context holds. */
static double seen_max(const struct forecasting *f)
{
    return (double)f->state.kv_window + PS_KV_SINKS;
}

/* Bytes of state that a layer goes through for one token, half of the context filled: keys and
 * values that it sees once, a recurrent state to and fro. */
static double state_bytes(const struct forecasting *f, uint32_t layer)
{
    if (f->config->layers[layer].mixer == PS_MIXER_ATTENTION)
        return 2.0 * (double)f->state.kv_row_bytes * fmin(f->engine.ctx / 2.0, seen_max(f));
    return 2.0 * (double)f->state.delta_layer_bytes;
}

static double alone_seconds(const struct forecasting *f, uint32_t layer)
{
    const struct ps_config_layer *l = &f->config->layers[layer];
    double run_ns = f->machine->run_ns > 0 ? f->machine->run_ns : RUN_NS_UNKNOWN;
    int runs = l->mixer == PS_MIXER_ATTENTION ? RUNS_ATTENTION : RUNS_DELTA;

    runs = f->machine->threads > 1 ? runs + RUNS_MOE : 0;
    return (ALONE_LAYER_NS + ALONE_HIDDEN_NS * f->config->hidden + runs * run_ns) / 1e9;
}

static uint64_t expert_bytes(const struct forecasting *f, uint32_t layer)
{
    struct ps_object_info info;
    int64_t object = ps_volume_find_streamed(f->model->volume, layer, 0);

    if (object < 0)
        return 0;
    ps_volume_object(f->model->volume, (uint32_t)object, &info);
    return info.bytes;
}

/* Reads beside arithmetic may be slower: what drives lack meanwhile follows behind it. */
static double beside_compute(const struct forecasting *f, double seconds, double compute)
{
    double share = f->options->busy_share > 0 ? f->options->busy_share : 1;

    return seconds + (1 - share) * fmin(compute, seconds);
}

/* A drive serves what its queue holds together: so many times the queues are full, and then the
 * rest, which takes longer than its share. Then the threads that compute are woken; to wake the one
 * that waits is in a drive's latency, which was measured by waiting. */
static double read_seconds(const struct forecasting *f, double bytes, double compute)
{
    double wake_ns = f->machine->wake_ns > 0 ? f->machine->wake_ns : WAKE_NS_UNKNOWN;
    double one = 1.0 / f->drive_depth;

    if (bytes <= 0)
        return 0;
    double full = floor(bytes / f->drive_full_bytes), rest = bytes / f->drive_full_bytes - full;
    double seconds = 0;
    if (rest > 0)
        seconds = f->drive_alone_s;
    if (rest > one)
        seconds += (rest - one) / (1 - one) * (f->drive_full_s - f->drive_alone_s);
    seconds += full * f->drive_full_s;
    return wake_ns / 1e9 + beside_compute(f, seconds, compute);
}

/* Reads of so many missing experts: as measured, or as the drives' figures say. */
static double miss_seconds(const struct forecasting *f, uint32_t misses, double bytes,
                           double compute)
{
    const struct ps_miss_times *t = f->options->miss_times;

    if (misses == 0)
        return 0;
    if (!t || misses > t->count)
        return read_seconds(f, misses * bytes, compute);
    return beside_compute(f, t->seconds[misses - 1], compute);
}

/* ---- decoding -------------------------------------------------------------------------------- */

/* That so many of k experts miss, each with probability `miss`, any two correlated by `clustering`:
 * the beta-binomial distribution, without clustering the binomial one. */
static double miss_chance(uint32_t k, uint32_t misses, double miss, double clustering)
{
    double n = k, m = misses;
    double ways = lgamma(n + 1) - lgamma(m + 1) - lgamma(n - m + 1);

    if (miss <= 0 || miss >= 1)
        return misses == (miss >= 1 ? k : 0);
    if (clustering < CLUSTERING_MIN)
        return exp(ways + m * log(miss) + (n - m) * log(1 - miss));
    double a = miss * (1 / clustering - 1), b = (1 - miss) * (1 / clustering - 1);
    return exp(ways + lgamma(m + a) + lgamma(n - m + b) - lgamma(n + a + b) + lgamma(a + b) -
               lgamma(a) - lgamma(b));
}

struct spent {
    double seconds, waiting;
    double product_bytes, product_seconds; /* of weights */
};

/*
 * The slower of a layer's reads and its arithmetic, for every number of misses that it may have:
 * the mean of the slower is more than the slower of the means. A drive reads what is in its queue
 * at the same time: the last slices land together, and are checked and computed behind the reads.
 */
static void decode_experts(const struct forecasting *f, uint32_t layer, double hit, struct spent *s)
{
    uint32_t k = f->engine.experts_used;
    double one = part_seconds(f, layer, PS_PART_EXPERT, 1);
    double compute = part_seconds(f, layer, PS_PART_SHARED, 1) + k * one;
    uint64_t bytes = expert_bytes(f, layer);
    struct ps_object_info info;
    double slice;

    ps_volume_object(f->model->volume,
                     (uint32_t)ps_volume_find_streamed(f->model->volume, layer, 0), &info);
    slice = one / info.slice_count;
    if (!f->options->miss_times || f->options->miss_times->count == 0)
        slice += (double)bytes / info.slice_count / (CHECK_SHARE * f->machine->read_bytes_per_s);
    s->product_seconds += compute;
    s->product_bytes +=
        (double)(part_bytes(f, layer, PS_PART_SHARED) + k * part_bytes(f, layer, PS_PART_EXPERT));
    if (f->drive_bytes_per_s <= 0 || hit >= 1) {
        s->seconds += compute;
        return;
    }
    for (uint32_t misses = 0; misses <= k; misses++) {
        double chance = miss_chance(k, misses, 1 - hit, f->clustering);
        double reads = miss_seconds(f, misses, (double)bytes, compute);
        double tail = slice * fmin(f->drive_depth, (double)misses * info.slice_count);
        double time = fmax(misses ? reads + tail : 0, compute);
        s->seconds += chance * time;
        s->waiting += chance * (time - compute);
    }
}

static void decode_layer(const struct forecasting *f, uint32_t layer, double hit, struct spent *s)
{
    double products = part_seconds(f, layer, PS_PART_MIXER, 1);
    double mixer = products + alone_seconds(f, layer) +
                   state_bytes(f, layer) / (MEMORY_SHARE * f->machine->read_bytes_per_s);

    s->seconds += mixer;
    s->product_seconds += products;
    s->product_bytes += (double)part_bytes(f, layer, PS_PART_MIXER);
    if (f->config->layers[layer].ffn == PS_FFN_MOE) {
        decode_experts(f, layer, hit, s);
        return;
    }
    double dense = part_seconds(f, layer, PS_PART_SHARED, 1);
    s->seconds += dense;
}

static double head_seconds(const struct forecasting *f)
{
    struct ps_forecast_product head = ps_forecast_head(f->model);

    return (double)(head.rows * ps_row_bytes(head.type, head.cols)) /
           ps_machine_rate_of(f->machine, &head, 1, f->is_q8);
}

static struct ps_forecast_rate rate_from(const struct forecasting *f, const struct spent *s,
                                         double tokens)
{
    struct ps_forecast_rate rate = {.tokens_per_s = tokens / s->seconds,
                                    .read_share = s->waiting / s->seconds};
    double reached = s->product_seconds > 0 ? s->product_bytes / s->product_seconds : 0;

    if (rate.read_share >= 0.5)
        rate.limit = PS_LIMIT_DRIVES;
    else
        rate.limit =
            reached > 0.6 * f->machine->read_bytes_per_s ? PS_LIMIT_MEMORY : PS_LIMIT_ARITHMETIC;
    return rate;
}

static struct spent decode_spent(const struct forecasting *f, double hit)
{
    struct spent s = {0};

    for (uint32_t l = 0; l < f->config->layer_count; l++)
        decode_layer(f, l, hit, &s);
    double head = head_seconds(f);
    s.seconds += head;
    return s;
}

static struct ps_forecast_rate decode_rate(const struct forecasting *f, double hit)
{
    struct spent s = decode_spent(f, hit);

    if (hit < 1 && f->drive_bytes_per_s <= 0)
        return (struct ps_forecast_rate){0};
    return rate_from(f, &s, 1);
}

static struct ps_forecast_rate decode_overlapped(const struct forecasting *f, double missed_bytes)
{
    struct spent s = decode_spent(f, 1);

    if (missed_bytes > 0 && f->drive_bytes_per_s <= 0)
        return (struct ps_forecast_rate){0};
    if (missed_bytes > 0) {
        double reads = missed_bytes / f->drive_bytes_per_s;
        s.waiting = fmax(reads - s.seconds, 0);
        s.seconds = fmax(reads, s.seconds);
        struct ps_forecast_rate rate = rate_from(f, &s, 1);
        if (s.waiting > 0)
            rate.limit = PS_LIMIT_DRIVES;
        return rate;
    }
    return rate_from(f, &s, 1);
}

/* ---- prompts --------------------------------------------------------------------------------- */

/* Scores and sums over half of the prompt or what a token sees of it, or the recurrent state for
 * every token: the latter stays in the caches of the core that computes its head. */
static double prefill_state_seconds(const struct forecasting *f, uint32_t layer, double tokens,
                                    double prompt)
{
    const struct ps_config *c = f->config;

    if (c->layers[layer].mixer == PS_MIXER_ATTENTION)
        return tokens * fmin(prompt / 2, seen_max(f)) * 4.0 * c->head_count * c->head_dim /
               (ATTENTION_OPS_SHARE * f->machine->float_ops_per_s);
    return tokens * 6.0 * c->delta_v_heads * c->delta_k_dim * c->delta_v_dim /
           (ATTENTION_OPS_SHARE * f->machine->float_ops_per_s);
}

static double prefill_token_seconds(const struct forecasting *f, double tokens)
{
    const struct ps_config *c = f->config;
    double passes = TOKEN_PASSES + TOKEN_EXPERT_PASSES * f->engine.experts_used;
    double run_ns = f->machine->run_ns > 0 ? f->machine->run_ns : RUN_NS_UNKNOWN;
    double rows = fmax(f->engine.chunk_tokens, PS_EXPERT_PAIRS);
    double rounds = f->machine->threads > 1 ? ceil(tokens * f->engine.experts_used / rows) : 0;
    double ns = passes * TOKEN_HIDDEN_NS * c->hidden + TOKEN_ROUTE_NS * c->expert_count;

    return (tokens * ns / f->machine->threads + rounds * RUNS_ROUND * run_ns) / 1e9;
}

/*
 * Misses of one layer of a chunk, of the experts that it asks for; `before` is what the layers
 * before it missed. Experts are taken in the order of the drives, layer after layer. What was in
 * memory before the prompt is there until as many others have come; of what does not fit as a
 * whole an LRU holds nothing when the next chunk asks for it again.
 */
static double prefill_misses(const struct forecasting *f, double distinct, double fraction,
                             double before, double slots, bool is_first)
{
    if (!is_first)
        return fraction * f->config->expert_count < distinct ? distinct : distinct * (1 - fraction);
    double most = distinct * (1 - fraction * fmax(1 - before / slots, 0));
    return distinct * (1 - fraction * fmax(1 - (before + most / 2) / slots, 0));
}

/* Experts of a layer that a chunk asks for: as the trace says, if there is one. */
static double prefill_experts(const struct forecasting *f, uint32_t chunk)
{
    double traced = f->options->reuse ? ps_reuse_distinct(f->options->reuse, chunk) : 0;

    return traced > 0 ? fmin(traced, f->config->expert_count)
                      : union_of(f->config, f->engine.experts_used, chunk);
}

static void prefill_chunk(const struct forecasting *f, double fraction, double slots,
                          uint32_t prompt, uint32_t chunk, bool is_first, struct spent *s)
{
    const struct ps_config *c = f->config;
    double distinct = prefill_experts(f, chunk), missed = 0;
    uint32_t vectors = vectors_each(f->engine.experts_used, chunk, distinct);

    for (uint32_t l = 0; l < c->layer_count; l++) {
        double mixer = part_seconds(f, l, PS_PART_MIXER, chunk) +
                       prefill_state_seconds(f, l, chunk, prompt) + alone_seconds(f, l) +
                       prefill_token_seconds(f, chunk);
        double compute = part_seconds(f, l, PS_PART_SHARED, chunk) +
                         distinct * part_seconds(f, l, PS_PART_EXPERT, vectors);
        double reads = 0;
        if (c->layers[l].ffn == PS_FFN_MOE && fraction < 1) {
            double misses = prefill_misses(f, distinct, fraction, missed, slots, is_first);
            missed += misses;
            reads = read_seconds(f, misses * (double)expert_bytes(f, l), compute);
        }
        s->seconds += mixer + fmax(reads, compute);
        s->waiting += fmax(reads - compute, 0);
    }
}

static struct ps_forecast_rate prefill_rate(const struct forecasting *f, double fraction,
                                            double slots)
{
    uint32_t asked = f->options->prompt_tokens ? f->options->prompt_tokens : PROMPT_TOKENS;
    uint32_t prompt = (uint32_t)ps_min_u64(asked, f->engine.ctx);
    uint32_t chunk = (uint32_t)ps_min_u64(prompt, f->engine.chunk_tokens);
    double more = ceil((double)prompt / chunk) - 1;
    struct spent s = {0}, later = {0};

    if (fraction < 1 && f->drive_bytes_per_s <= 0)
        return (struct ps_forecast_rate){0};
    prefill_chunk(f, fraction, slots, prompt, chunk, true, &s);
    prefill_chunk(f, fraction, slots, prompt, chunk, false, &later);
    s.seconds += more * later.seconds + head_seconds(f);
    s.waiting += more * later.waiting;
    return rate_from(f, &s, prompt);
}

/* ---- the forecast ---------------------------------------------------------------------------- */

/* Every expert is cut over all drives: it is there when the last has brought its share. */
static void find_drives(struct forecasting *f)
{
    const struct ps_forecast_options *o = f->options;
    double sum = 0;

    for (int i = 0; i < o->drive_count; i++) {
        const struct ps_member_profile *d = &o->drives[i];
        double alone = (double)d->latency_ns / 1e9, rate = (double)d->bytes_per_s;
        uint32_t depth = d->depth > 0 ? d->depth : DEPTH_UNKNOWN;
        if (rate <= 0)
            return;
        sum += rate;
        f->drive_alone_s = fmax(f->drive_alone_s, alone);
        f->drive_full_s = fmax(f->drive_full_s, depth * (double)d->request_bytes / rate);
        f->drive_depth += depth;
    }
    f->drive_full_s = fmax(f->drive_full_s, f->drive_alone_s);
    f->drive_bytes_per_s = sum;
    for (int i = 0; i < o->drive_count && o->shares; i++)
        if (o->shares[i] > 0)
            f->drive_bytes_per_s =
                fmin(f->drive_bytes_per_s, (double)o->drives[i].bytes_per_s / o->shares[i]);
    f->drive_full_bytes = f->drive_full_s * f->drive_bytes_per_s;
    /* One thread issues them, each by itself, as they are asked for. */
    f->drive_full_s =
        fmax(f->drive_full_s, f->drive_alone_s + (f->drive_depth - 1) * o->read_cpu_s);
}

static void find_hits(struct forecasting *f, struct ps_forecast *out)
{
    uint32_t experts = f->config->expert_count, layers = 0;
    struct ps_hit_rate rate;

    for (uint32_t l = 0; l < f->config->layer_count; l++)
        layers += f->config->layers[l].ffn == PS_FFN_MOE;
    out->cached_fraction = (double)out->plan.expert_slots / ((double)experts * layers);
    if (f->options->reuse) {
        rate.central = ps_reuse_hit_rate(f->options->reuse, out->plan.expert_slots);
        rate.low = rate.high = rate.central;
        rate.clustering = ps_reuse_clustering(f->options->reuse, out->plan.expert_slots);
    } else if (f->options->routing == PS_ROUTING_UNIFORM) {
        bool none = out->cached_fraction < (double)f->engine.experts_used / experts;
        rate.central = none ? 0 : fmin(out->cached_fraction, 1);
        rate.low = rate.high = rate.central;
        rate.clustering = 0;
    } else {
        ps_reuse_predict(out->cached_fraction, f->engine.experts_used, experts, &rate);
    }
    f->clustering = fmin(rate.clustering, 1 - CLUSTERING_MIN);
    out->hit_low = rate.low;
    out->hit_central = rate.central;
    out->hit_high = rate.high;
}

static void find_bytes(const struct forecasting *f, struct ps_forecast *out)
{
    struct ps_forecast_product head = ps_forecast_head(f->model);
    double resident = 0;

    for (uint32_t l = 0; l < f->config->layer_count; l++) {
        resident += (double)(part_bytes(f, l, PS_PART_MIXER) + part_bytes(f, l, PS_PART_SHARED)) +
                    state_bytes(f, l);
        if (f->config->layers[l].ffn == PS_FFN_MOE)
            out->routed_bytes += f->engine.experts_used * expert_bytes(f, l);
    }
    out->resident_bytes = (uint64_t)resident + head.rows * ps_row_bytes(head.type, head.cols);
    out->missed_bytes = (uint64_t)((1 - out->hit_central) * (double)out->routed_bytes);
}

int ps_model_forecast(struct ps_model *model, const struct ps_forecast_options *options,
                      struct ps_forecast *out, struct ps_error *err)
{
    struct forecasting f = {
        .model = model, .config = &model->config, .machine = options->machine, .options = options};

    memset(out, 0, sizeof(*out));
    int rc = ps_engine_plan_make(model, options->engine, &f.engine, NULL, &out->plan, err);
    if (options->plan && (rc == 0 || rc == -PS_ERR_MEMORY_FLOOR)) {
        out->plan = *options->plan;
        f.engine.chunk_tokens = out->plan.chunk_tokens;
        rc = 0;
    }
    if (rc < 0)
        return rc;
    f.is_q8 = ps_activations_are_q8(&f.engine);
    ps_state_shape(&model->config, &f.engine, &f.state);
    find_drives(&f);
    find_hits(&f, out);
    find_bytes(&f, out);
    out->drive_bytes_per_s = f.drive_bytes_per_s;
    if (!f.machine)
        return 0;
    out->decode = decode_rate(&f, out->hit_central);
    out->decode_low = decode_rate(&f, out->hit_low);
    out->decode_high = decode_rate(&f, out->hit_high);
    out->decode_overlapped = decode_overlapped(&f, (double)out->missed_bytes);
    out->prefill = prefill_rate(&f, out->cached_fraction, out->plan.expert_slots);
    return 0;
}
