/* Private to model/: the engine's parts, shared by the files of the forward pass. */
#ifndef PENSTOCK_MODEL_ENGINE_H
#define PENSTOCK_MODEL_ENGINE_H

#include "core/mem.h"
#include "core/pool.h"
#include "core/topology.h"
#include "core/util.h"
#include "model/expert.h"
#include "model/model.h"
#include "model/staging.h"
#include "quant/kernels.h"
#include "quant/q8.h"

#define PS_CHUNK_TOKENS_MAX 4096u
#define PS_CHUNK_TOKENS_DEFAULT 512u /* most where the prompt is not known */
#define PS_CHUNK_TOKENS_MIN 8u
#define PS_CTX_DEFAULT 4096u
#define PS_LOGITS_ROWS 4u      /* rows of the head's output computed together */
#define PS_ATTENTION_PART 256u /* positions whose scores are taken together: fixes the bits */
#define PS_KV_SINKS 4u         /* first positions that every token sees, whatever the window */
#define PS_ATTENTION_HEADS 16u /* most heads of one task */
#define PS_CONV_BLOCK 256u     /* channels whose convolution history is stored together */
#define PS_EXPERT_PAIRS 64u    /* (token, expert) pairs in work at once, when chunks are short */
#define PS_DOWN_ROWS 128u      /* output rows of a down projection done as one task */
#define PS_CUT_TOKENS 16u      /* tokens whose lanes are carried where slices end inside folds */
#define PS_UP_ROWS 64u         /* neurons done as one task */
#define PS_FOLD_ROWS 256u      /* output rows of one fold done as one task, on several nodes */
#define PS_FOLD_PAIRS 64u      /* most pairs of a layer for which folds are kept apart */
#define PS_GUESS_TOKENS 16u    /* tokens guessed for together */
#define PS_GUESS_DEPTH 3u      /* layers that listeners are told guesses ahead */

/* Attention of prompts: most queries that are multiplied together, whole tiles at all CPU levels;
 * and the fewest tokens of a sequence that are. */
#define PS_ATTENTION_COLUMNS 24u
#define PS_ATTENTION_TOKENS_MIN 8u

#define PS_THREAD_COUNT_MAX 512
#define PS_SESSION_COUNT_MAX 256 /* sessions of one engine */
#define PS_SPARE_COUNT_MAX 3     /* places for weights whose reads hung */

/* A resident matrix [rows, cols], or a vector [1, cols]. data points into the resident region. */
struct ps_weight {
    const uint8_t *data; /* NULL: the model has no such tensor */
    uint64_t stride_bytes;
    uint32_t rows, cols, type;
};

struct ps_layer {
    struct ps_weight weights[PS_ROLE_COUNT]; /* indexed by role; global roles unused */
    uint32_t mixer_idx;                      /* number among the layers with the same mixer */
};

/* Byte sizes and offsets of one sequence's state. F32 but for keys and values. */
struct ps_state_shape {
    uint32_t kv_type;        /* enum ps_type of K and V */
    uint64_t kv_row;         /* values of K (or V) per token and attention layer */
    uint64_t kv_row_bytes;   /* the same, stored */
    uint32_t kv_window;      /* last positions that a token sees, itself included */
    uint32_t kv_rows;        /* of the ring: position p lies in row p % kv_rows */
    uint32_t kv_sink_row;    /* row of position 0, once the ring has passed it; 0: it never does */
    uint64_t kv_layer_bytes; /* one attention layer: rows of K, and of V in the second half */
    uint64_t delta_layer_bytes;
    uint64_t conv_layer_bytes;
    uint32_t attention_count, delta_count;
    uint64_t kv_bytes, recurrent_bytes; /* totals */
    uint64_t ids_bytes;                 /* ctx ids, and one that is not evaluated yet */
    uint64_t bytes;                     /* of one sequence, in this order */
};

/* One active expert of a layer: the tokens that chose it, and how far it is computed. */
struct ps_expert_job {
    uint32_t expert;
    uint32_t pair_begin, pair_count; /* into work.pair_token and pair_weight */
    uint32_t row;                    /* first row in work.expert_x, expert_act, expert_out */
    uint32_t done_slices;
    uint32_t take_end; /* in the current round: slices [done_slices, take_end) */
};

/* A block of neurons of one slice of one job. */
struct ps_up_task {
    uint32_t job, slice, neuron, neuron_count; /* neuron: within the slice */
};

/* One fold of one job, which lies in one slice. */
struct ps_fold_task {
    uint32_t job, slice, fold;
};

/* What the sizes of the work buffers follow from. */
struct ps_work_size {
    const struct ps_config *config;
    uint32_t chunk, ctx, experts_used;
    uint32_t sessions;
    int threads;
    uint32_t slice_count;   /* most slices of an expert */
    uint32_t up_task_count; /* most up tasks of an expert */
    int node_count;         /* NUMA nodes */
    uint32_t guess_count;   /* most guesses that are not settled */
    bool q8;                /* activations of 8 bits */
};

/* One token in work. Those of one session follow each other in the order of their positions. */
struct ps_sequence_token {
    struct ps_session *session;
    uint32_t position;
};

/* Buffers of the forward pass for `chunk` tokens; floats unless said otherwise. */
struct ps_work {
    uint32_t chunk; /* tokens */
    uint32_t pairs; /* (token, expert) pairs in work at once */
    uint32_t logits_rows;
    struct ps_sequence_token *tokens; /* [chunk] whose they are, and where */
    float *x;                         /* [chunk, H] residual stream */
    float *xn;                        /* [chunk, H] normalised input of a block */
    float *y;                         /* [chunk, H] output of a block */
    float *wide;         /* [chunk, wide_cols] q|gate, or q|k|v of a delta layer, or dense gate */
    float *z;            /* [chunk, z_cols] gate of a delta layer, or up of a dense/shared FFN */
    float *mix;          /* [chunk, mix_cols] output of the heads */
    float *beta, *alpha; /* [chunk, delta_v_heads] */
    uint32_t *attention_blocks;      /* [chunk + 1] their first tokens, and the end of all */
    float *rope_cos, *rope_sin;      /* [chunk, rope_dims / 2] */
    float *router;                   /* [chunk, E] */
    float *shared_scale;             /* [chunk] */
    float *route_weight;             /* [chunk, K] best first */
    uint32_t *route;                 /* [chunk, K] */
    uint32_t *pair_token;            /* [chunk * K] tokens grouped by expert */
    float *pair_weight;              /* [chunk * K] */
    uint32_t *expert_begin;          /* [E + 1] into pair_token */
    float *expert_x;                 /* [pairs, H] */
    uint8_t *xq;                     /* [chunk] 8-bit vectors of the widest input; with q8 only */
    uint8_t *token_xq;               /* [chunk] 8-bit vectors of H; with q8 only, as the next two */
    uint8_t *expert_xq;              /* [pairs] 8-bit vectors of H */
    uint8_t *expert_aq;              /* [pairs, folds] 8-bit vectors of PS_FOLD_NEURONS */
    float *expert_act;               /* [pairs, I] */
    float *expert_out;               /* [pairs, H] */
    struct ps_expert_job *jobs;      /* [E]: the active experts of a layer */
    struct ps_lease *leases;         /* [E], beside the jobs */
    uint32_t *round_jobs;            /* [E] jobs with work in the round */
    struct ps_up_task *up_tasks;     /* of one round */
    struct ps_slice_info *slices;    /* of every expert of the layer in work */
    struct ps_fold_task *fold_tasks; /* of one round; on several nodes only, as the next */
    float *fold_out;                 /* [PS_FOLD_PAIRS, folds, H] */
    float *guess_x, *guess_xn;       /* [PS_GUESS_TOKENS, H] */
    float *guess_p;                  /* [PS_GUESS_TOKENS, E] */
    float *guess_need;               /* [E] */
    uint32_t *guess_experts;         /* [E] */
    uint32_t *guess_ranks;           /* [PS_GUESS_TOKENS, 2 K] experts, best first */
    bool *guess_missing;             /* [E] */
    bool *guess_chosen;              /* [E] */
    struct ps_staging staging;       /* what is guessed, best first or in order of being due */
    float *logits;                   /* [logits_rows, V] */
    float *thread;                   /* per thread: scores [ctx], temporaries */
    uint64_t thread_floats;
    uint64_t wide_cols, z_cols, mix_cols;
    uint64_t xq_bytes; /* of one vector of xq */
};

/* What an oracle has been asked: of the layers until step `due` (model/staging.h), by a chunk of so
 * many tokens of so many sessions. */
struct ps_asked {
    uint64_t due;
    uint64_t who; /* a hash of the sessions */
    uint32_t tokens, sessions;
    uint32_t first, last; /* positions of the first session in the chunk */
};

/* Reads ahead of the router (ahead.c). */
struct ps_ahead {
    int predictor; /* enum ps_predictor */
    struct ps_prefetch prefetch;
    uint32_t ranked_tokens; /* in work.guess_ranks: */
    uint32_t rank_count;    /* experts for each of them */
    double chunk_chance;    /* of an expert to be chosen by a chunk of many tokens */
    struct ps_asked asked;
};

struct ps_engine {
    struct ps_model *model;
    const struct ps_config *config;
    const struct ps_kernels *k;
    const struct ps_q8_kernels *q8; /* NULL: activations are floats */
    struct ps_pool *pool;
    int thread_count, node_count;
    struct ps_store *store;
    struct ps_engine_options options; /* resolved: no zeroes for defaults */
    struct ps_plan plan;

    struct ps_region resident_region, state_region, work_region;
    struct ps_region spare_regions[PS_SPARE_COUNT_MAX];
    int spare_count;
    struct ps_weight embed, out_norm, head;
    struct ps_layer *layers;

    struct ps_state_shape state;
    struct ps_work work;
    float *inv_freq; /* [rope_dims / 2], rounded to float as the reference has them */

    struct ps_ahead ahead;
    struct ps_learned *learned;                        /* NULL: the gate alone guesses */
    struct ps_session *sessions[PS_SESSION_COUNT_MAX]; /* by state, or NULL */
    uint64_t eval_count; /* an eval invalidates the logits of those before it */
    uint64_t prefill_tokens, prefill_ns, decode_tokens, decode_ns, sample_ns;
    uint64_t expert_ns, shared_ns;

    /* Set between runs of the threads: what they compute, for a timeline. */
    uint32_t layer, stage;
    struct ps_timeline *timeline; /* NULL: nothing is recorded */
    struct ps_region timeline_region;
    struct ps_thread_time *thread_times; /* [thread_count] */
    uint64_t open_ns, open_ticks;        /* when these were made, by both clocks */
    struct ps_usage prefill_usage, decode_usage;
};

/* Each thread writes to a cache line of its own. */
struct ps_thread_time {
    _Alignas(64) uint64_t busy; /* in units of ps_usage_clock */
};

struct ps_session {
    struct ps_engine *engine;
    uint32_t idx;        /* of its state, and into engine.sessions */
    uint8_t *state;      /* [state.bytes] in the engine's state region */
    int32_t *ids;        /* [ctx + 1] behind the rest of the state: its tokens */
    uint32_t position;   /* tokens evaluated */
    bool has_pending;    /* ids[position] was handed over by generate, and not evaluated */
    bool broken;         /* an eval failed half way */
    const float *logits; /* [V] of its last token, while logits_eval is the engine's eval_count */
    uint64_t logits_eval;
    ps_route_fn *on_route;
    void *on_route_ctx;
    ps_guess_fn *on_guess;
    void *on_guess_ctx;
    ps_oracle_fn *oracle;
    void *oracle_ctx;
    ps_router_input_fn *on_router_input;
    void *on_router_input_ctx;
};

/* ---- what is busy (usage.c) ---- */

/* Before anything runs. Errors: -ENOMEM. */
int ps_usage_open(struct ps_engine *engine, struct ps_error *err);
void ps_usage_close(struct ps_engine *engine);

/* Now: for a timeline in nanoseconds, without one in ps_ticks. */
static inline uint64_t ps_usage_clock(const struct ps_engine *engine)
{
    return engine->timeline ? ps_now_ns() : ps_ticks();
}

/* A thread has done tasks from `begin` by ps_usage_clock until now. Called by that thread. */
void ps_usage_thread(struct ps_engine *engine, int thread_idx, uint64_t begin, uint64_t task_count);

/* Records an event from begin_ns until now, if there is a timeline. */
void ps_usage_record(const struct ps_engine *engine, enum ps_engine_event kind, uint64_t begin_ns,
                     uint32_t a, uint32_t b);

/* Now, where the time is of use to a timeline alone. */
static inline uint64_t ps_usage_begin(const struct ps_engine *engine)
{
    return engine->timeline ? ps_now_ns() : 0;
}

/* The sums so far; then, later, what came to them since is added to *sum. */
void ps_usage_take(const struct ps_engine *engine, struct ps_usage *usage);
void ps_usage_add(const struct ps_engine *engine, const struct ps_usage *before,
                  struct ps_usage *sum);

/* ---- shapes and plan (plan.c) ---- */

/* The object that holds a resident tensor, which ps_model_open has found to be there. */
uint32_t ps_tensor_object(const struct ps_model *model, const struct ps_config_tensor *tensor,
                          struct ps_object_info *info);

/* All of them, as they follow each other in the resident region: planned and mapped by this. */
uint64_t ps_resident_bytes(const struct ps_model *model);

/* "f16" of a type that options.kv may name; "" of others. */
const char *ps_kv_name(uint32_t type);

void ps_state_shape(const struct ps_config *config, const struct ps_engine_options *options,
                    struct ps_state_shape *shape);

/* Whether these options (with defaults resolved) ask for activations of 8 bits. */
bool ps_activations_are_q8(const struct ps_engine_options *options);

/* What the work buffers of these options (with defaults resolved) follow from. */
void ps_work_size(const struct ps_model *model, const struct ps_engine_options *options,
                  struct ps_work_size *size);

/*
 * Lays the work buffers out one after the other from base (NULL: only counts). Returns the bytes
 * that they take. The same function plans and places, so the two cannot disagree.
 */
uint64_t ps_work_place(const struct ps_work_size *size, uint8_t *base, struct ps_work *work);

/* Resolves defaults and fills the plan and the store's cache size. */
int ps_engine_plan_make(struct ps_model *model, const struct ps_engine_options *options,
                        struct ps_engine_options *resolved, uint64_t *cache_bytes,
                        struct ps_plan *plan, struct ps_error *err);

/* ---- pieces of the forward pass ---- */

struct ps_linear {
    const struct ps_weight *w;
    const float *x;
    size_t ldx;
    float *y;
    size_t ldy;
};

/* ---- products (product.c) ---- */

/* The 8-bit vector of a fold, as quant/q8.h lays it out: values, scales, sums. */
#define PS_FOLD_VECTOR_BYTES 640u
#define PS_FOLD_SCALES 512u
#define PS_FOLD_SUMS 576u

/* Rows of a weight matrix times n vectors: x, or xq where ps_product_is_q8 says so. The fields are
 * those of struct ps_matmul and struct ps_q8_matmul. */
struct ps_product {
    uint32_t type;
    const uint8_t *w;
    size_t w_stride_bytes;
    size_t rows, cols;
    const float *x;
    size_t ldx;
    const uint8_t *xq;
    size_t xq_stride_bytes;
    float *y;
    size_t ldy;
    size_t n;
    size_t first_block;
    const float *lanes_in;
    float *lanes_out;
};

/* Whether products with weights of this type take 8-bit vectors. */
bool ps_product_is_q8(const struct ps_engine *engine, uint32_t type);
void ps_product_run(const struct ps_engine *engine, const struct ps_product *product);

/* Rows of activations, [n, cols], ldx floats from one to the next. */
struct ps_rows {
    const float *x;
    size_t ldx, cols;
};

/* Rounds n rows to 8-bit vectors at dst, each stride_bytes after the one before. */
void ps_quantize_rows(struct ps_engine *engine, const struct ps_rows *rows, uint8_t *dst,
                      size_t stride_bytes, uint32_t n);

/* Rounds `count` neurons (at most PS_UP_ROWS) to the block at `begin` of a fold's vector. */
void ps_fold_quantize(const struct ps_engine *engine, const float *x, uint32_t begin,
                      uint32_t count, uint8_t *fold);

/* The vector of neurons [begin, begin + count) of a fold, PS_FOLD_VECTOR_BYTES at part. */
void ps_fold_part(const uint8_t *fold, uint32_t begin, uint32_t count, uint8_t *part);

/* The k largest of p[count], the lower index first among equals, in idx[k]. Returns how many. */
uint32_t ps_top_k(const float *p, uint32_t count, uint32_t k, uint32_t *idx);

/* y = W x for n tokens and several matrices with the same x, rows dealt to all threads in one go.
 */
void ps_linear_run(struct ps_engine *engine, const struct ps_linear *items, int item_count,
                   uint32_t n);

/* fn(engine, ctx, thread_idx, task_idx) for every task, dealt to the threads as they come free. */
typedef void ps_task_fn(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task_idx);
void ps_tasks_run(struct ps_engine *engine, ps_task_fn *fn, void *ctx, uint64_t task_count);

/*
 * The same for tasks that stand in the order of the NUMA nodes whose memory they read: those of
 * node n end before task_end[n]. Threads take their own node's first, then help the others.
 */
void ps_tasks_run_near(struct ps_engine *engine, ps_task_fn *fn, void *ctx,
                       const uint64_t *task_end);

/* A ps_run_fn for the store, which is called between runs of the threads; ctx: the engine. */
void ps_store_tasks_run(void *ctx, void (*task)(void *task_ctx, uint32_t i), void *task_ctx,
                        uint32_t count);

/* Scratch of a thread, [work.thread_floats]. */
float *ps_thread_scratch(struct ps_engine *engine, int thread_idx);

/* work.y = Mixer(work.xn) for the n tokens of work.tokens; updates their sessions' states. */
void ps_attention_run(struct ps_engine *engine, uint32_t layer, uint32_t n);
void ps_delta_run(struct ps_engine *engine, uint32_t layer, uint32_t n);

/* work.y = FFN(work.xn). */
int ps_moe_run(struct ps_engine *engine, uint32_t layer, uint32_t n, struct ps_error *err);
void ps_dense_run(struct ps_engine *engine, uint32_t layer, uint32_t n);
/* The same for the shared expert of a MoE layer, not yet scaled. */
void ps_shared_run(struct ps_engine *engine, uint32_t layer, uint32_t n);

/*
 * Runs n <= chunk tokens through all layers, for the sessions and at the positions that work.tokens
 * says; work.x then holds the last layer's output. A token's values do not depend on which others
 * are in the chunk. Does not move the sessions' positions.
 */
int ps_forward_chunk(struct ps_engine *engine, const int32_t *ids, uint32_t n,
                     struct ps_error *err);

/* work.logits rows [row, row + n) = head of the tokens first .. first + n - 1 of the last chunk. */
void ps_forward_logits(struct ps_engine *engine, uint32_t first, uint32_t n, uint32_t row);

static inline const struct ps_weight *ps_layer_weight(const struct ps_engine *engine,
                                                      uint32_t layer, enum ps_role role)
{
    return &engine->layers[layer].weights[role];
}

static inline const float *ps_weight_f32(const struct ps_weight *w)
{
    return (const float *)(const void *)w->data;
}

#endif
