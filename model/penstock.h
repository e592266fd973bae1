/*
 * Penstock: run Mixture-of-Experts models larger than memory. The public C API; docs/api.md
 * explains it with an example. Everything here is prefixed ps_/PS_.
 *
 * A *model* is an open volume with its configuration and tokenizer: cheap, no weights in memory. An
 * *engine* holds the resident weights, the expert cache and the threads, under one memory ceiling.
 * A *session* is one sequence of tokens with its state; an engine holds as many as it was opened
 * for, and evaluates them one by one or together. Results do not depend on the ceiling, the
 * I/O engine, the thread count, the members, the slice size, how a prompt is cut into calls,
 * or which sessions are evaluated together.
 *
 * Thread rule: one thread at a time per model, its engine and its sessions. Functions return >= 0,
 * or -errno / -PS_ERR_* with *err filled. Close in reverse order; close functions take NULL.
 */
#ifndef PENSTOCK_H
#define PENSTOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "core/error.h"
#include "core/log.h"
#include "nvme/penstock_io.h"

#define PENSTOCK_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- layout: from a checkpoint to a volume ----------------------------------------------------
 */

struct ps_model_layout_options {
    const char *source; /* a .gguf file (the first of a split set), or a safetensors directory */
    const char *const *members; /* files, partitions or drives */
    int member_count;
    /*
     * NULL: the source's default ("keep" for GGUF and FP8, "experts=q4_0,rest=bf16" for
     * other safetensors).
     * "keep", or a comma list of GROUP=TYPE: groups experts, attention, embeddings, head, shared
     * (shared experts and dense layers) and rest (all others but the experts, and these groups
     * where they are not named); types f32, f16, bf16, q8_0, q4_0, q4_k, q6_k, mxfp4, keep. A group
     * that is not named is kept. Q4_K and Q6_K become Q8_0 where their blocks do not divide the
     * rows. Routers, norms and other vectors are never quantised.
     */
    const char *quant;
    const char *importance; /* llama.cpp's importance matrix (GGUF or .dat), or NULL */
    uint64_t slice_bytes;   /* size aimed at for the slices of an expert; 0 = 2 MiB */
    uint32_t copies;        /* of every slice, on different members: 0 or 1: one; 2: two */
    /* [member_count], or NULL: what each member's drive can do. Faster members get more. */
    const struct ps_member_profile *profiles;
    bool resume;
    const char *const *destroy; /* identities that may be overwritten */
    int destroy_count;
    int threads; /* that read, convert and write; 0 = four more than CPUs */
    void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_ctx;
    const volatile int *stop; /* non-zero stops cleanly (resumable) */
};

struct ps_model_layout_report {
    uint64_t bytes; /* of data written, over all members */
    uint64_t tensors_used;
    uint64_t tensors_skipped;
    char skipped_groups[512]; /* "model.visual.* (333), mtp.* (19)"; empty when none */
    char notes[512]; /* on types that were not as asked for, on importance; empty when none */
    bool has_tokenizer;
};

/* Lays a checkpoint out. Errors: those of ps_layout_write (nvme/layout.h) and of the formats:
 * -PS_ERR_FORMAT, -PS_ERR_TRUNCATED, -PS_ERR_UNSUPPORTED (architecture or type named). Blocks. */
int ps_model_layout(const struct ps_model_layout_options *options,
                    struct ps_model_layout_report *report, struct ps_error *err);

/* ---- model --------------------------------------------------------------------------------------
 */

struct ps_model;

struct ps_model_info {
    const char *arch; /* "qwen3_5_moe"; strings are owned by the model */
    const char *name; /* may be empty */
    uint32_t layer_count, moe_layer_count;
    uint32_t hidden;
    uint32_t vocab_rows; /* V: rows of the head, length of a logits row */
    uint32_t expert_count, experts_used, expert_width;
    uint32_t context_max;
    uint64_t resident_bytes;    /* weights that stay in memory */
    uint64_t streamed_bytes;    /* all experts, as laid out */
    uint64_t expert_bytes_max;  /* largest expert, as laid out */
    uint64_t token_bytes;       /* expert bytes one token reads when nothing is cached */
    uint32_t slices_per_expert; /* of the first MoE layer */
    const char *expert_types;   /* "gate Q4_0, up Q4_0, down Q4_0" of the first MoE layer */
    const char *chat_family;    /* "qwen3.5", "qwen3", "chatml", or "" without a template */
    bool has_tokenizer;
    const char *source_name;
    uint32_t prediction_count; /* layers that predict a token further ahead: kept, not yet run */
    uint64_t prediction_bytes; /* of all their weights; in none of the sums above */
};

/* paths: any one member of the volume, or several (see ps_volume_open). */
int ps_model_open(struct ps_model **out, const char *const *paths, int path_count,
                  struct ps_error *err);
void ps_model_close(struct ps_model **model);

struct ps_model_describe_options {
    const char
        *source;       /* a checkpoint as of a layout, or the name of a preset (docs/commands.md) */
    const char *quant; /* as of a layout; for a preset also one type for all matrices */
    uint64_t slice_bytes; /* as of a layout */
    int member_count;     /* drives that it would be laid out over: 1 .. PS_MEMBER_COUNT_MAX */
    const struct ps_member_profile *profiles; /* [member_count] of them, or NULL */
};

/*
 * The model that a layout would make, for ps_model_info and ps_model_plan, without writing it: only
 * headers and samples of a checkpoint are read, and a preset needs nothing at all. An engine does
 * not open on it (-PS_ERR_ARGUMENT). Errors: those of ps_model_layout; -ENOENT (neither a file nor
 * a preset; text lists the presets).
 */
int ps_model_describe(struct ps_model **out, const struct ps_model_describe_options *options,
                      struct ps_error *err);
void ps_model_info(const struct ps_model *model, struct ps_model_info *info);
struct ps_volume *ps_model_volume(struct ps_model *model); /* owned by the model */

/*
 * Text to ids. text: UTF-8 (invalid bytes become U+FFFD). Special tokens in the text are
 * recognised; none is added, except the BOS token in front where the model's tokenizer says so and
 * the text does not begin with it (Mixtral). Returns the number of ids (which may exceed
 * `capacity`: then only the first were stored; call again with more room), or -PS_ERR_NO_TOKENIZER,
 * -ENOMEM.
 */
int64_t ps_model_tokenize(const struct ps_model *model, const char *text, size_t text_bytes,
                          int32_t *ids, size_t capacity, struct ps_error *err);
/* The same for text that goes on with a sequence: no BOS token, and no blank, is put in front. */
int64_t ps_model_tokenize_more(const struct ps_model *model, const char *text, size_t text_bytes,
                               int32_t *ids, size_t capacity, struct ps_error *err);

/*
 * Ids to bytes (UTF-8 once joined; a single token may be part of a character). Returns the number
 * of bytes, of which at most `capacity` were stored; errors as above, -PS_ERR_ARGUMENT for an id
 * outside the vocabulary. skip_special leaves out control tokens. The blank that some tokenizers
 * put before a text is left out if the bytes would begin with it.
 */
int64_t ps_model_detokenize(const struct ps_model *model, const int32_t *ids, size_t id_count,
                            bool skip_special, char *text, size_t capacity, struct ps_error *err);

/*
 * Renders a conversation with the model's own template. json: an object with "messages" (and
 * optional "tools", "add_generation_prompt" (default true here), "enable_thinking"), as in the chat
 * completions API. With "continues": true the text begins with the end of a turn, for a session
 * that stands in one. *text is malloc'd, 0-terminated, owned by the caller (free()). Errors:
 * -PS_ERR_ARGUMENT (bad JSON or conversation), -PS_ERR_UNSUPPORTED (no template known for this
 * model).
 */
int ps_model_chat(const struct ps_model *model, const char *json, char **text,
                  struct ps_error *err);

/* True for the ids that end a generation. */
bool ps_model_is_end(const struct ps_model *model, int32_t id);

/* ---- plan and engine ----------------------------------------------------------------------------
 */

#define PS_MEMORY_DEFAULT 0u     /* what the machine and the cgroup leave */
#define PS_MEMORY_MIN UINT64_MAX /* the floor */

struct ps_engine_options {
    uint64_t memory_bytes;   /* ceiling on resident set plus hugepages */
    const char *io;          /* ps_store_options.engine; NULL = "uring" */
    int threads;             /* 0 = one per CPU */
    uint32_t ctx;            /* tokens a session can hold; 0 = min(4096, the model's), with a window
                                the model's */
    uint32_t experts_used;   /* 0 = the model's; fewer changes the output */
    const char *activations; /* "f32" or "q8" (docs/decisions/0008); NULL = "f32" */
    const char *kv;          /* keys and values: "f32", "f16", "q8_0" (0010); NULL = "f16" */
    uint32_t kv_window;      /* attention sees the first 4 tokens and the last so many; bounds the
                                memory of keys and values, changes the output (0011); 0 = all */
    const char
        *predictor; /* "off", "gate", "learned" or "oracle" (ps_session_oracle); NULL = "off" */
    const char *predictor_file; /* of "learned"; NULL = in the volume */
    uint32_t chunk_tokens;      /* most prompt tokens per pass; 0 = as memory allows */
    uint32_t prompt_tokens; /* of the longest prompt to come, for chunk_tokens 0; 0 = not known */
    uint32_t sessions; /* that can be open at a time, each with its state; 0 = 1; at most 256 */
    const volatile int *stop; /* non-zero: eval returns -EINTR at the next layer; may be NULL */
    uint32_t timeline_events; /* room for so many events of ps_engine_timeline; 0 = no timeline */
};

#define PS_PLAN_LINE_COUNT_MAX 16
struct ps_plan {
    struct {
        char name[48]; /* "resident weights", "expert cache", "KV cache", ... */
        uint64_t bytes;
        uint64_t floor_bytes;
    } lines[PS_PLAN_LINE_COUNT_MAX];
    int line_count;
    uint64_t total_bytes;  /* sum of bytes */
    uint64_t floor_bytes;  /* sum of floor_bytes: what --memory min gives */
    uint64_t budget_bytes; /* the ceiling that was resolved */
    uint32_t ctx, chunk_tokens, expert_slots;
    int threads;
    struct ps_store_placement placement; /* of the expert cache on the NUMA nodes */
};

/*
 * How a ceiling would be spent. Fills *plan also when it returns -PS_ERR_MEMORY_FLOOR (the ceiling
 * is under the floor; err's sentence gives both figures and what the floor is made of).
 */
int ps_model_plan(struct ps_model *model, const struct ps_engine_options *options,
                  struct ps_plan *plan, struct ps_error *err);

/* ---- forecast: what a machine will do with a model ----------------------------------------------
 */

#define PS_MACHINE_RATE_COUNT_MAX 64

/* What a processor and its memory can do, all threads together. */
struct ps_machine {
    int threads;
    double read_bytes_per_s; /* plain reads of memory */
    double float_ops_per_s;  /* multiply-adds of floats count as two */
    double run_ns;  /* handing work to all threads and waiting for the last; 0: not known */
    double wake_ns; /* the same where they have gone to sleep; 0: not known */
    bool is_here;   /* rates were measured, on this machine, for one model and its options */
    struct ps_machine_rate { /* of products with weights of a type, rows of so many columns */
        uint32_t type, cols;
        uint32_t vectors; /* multiplied at once */
        double bytes_per_s;
    } rates[PS_MACHINE_RATE_COUNT_MAX];
    int rate_count;
};

/*
 * Measures the products that the model is made of with this process's CPUs, at the sizes that the
 * engine asks for with these options: adds rates, run_ns and wake_ns to a machine whose other
 * figures the caller has filled in. Takes about 60 ms for each, and memory of 256 MiB at most.
 * Errors: -ENOMEM, those of ps_model_plan.
 */
int ps_machine_measure(struct ps_machine *machine, struct ps_model *model,
                       const struct ps_engine_options *options, struct ps_error *err);

/* What a layer waits for that misses its experts: seconds[i] for i + 1 of them, from when they are
 * asked for until all have been checked and all threads are awake. */
#define PS_MISS_COUNT_MAX 64
struct ps_miss_times {
    uint32_t count; /* 0: not known */
    double seconds[PS_MISS_COUNT_MAX];
};

/*
 * Measures that with a store of its own on the model's volume, which must be one that can be read:
 * up to as many as a token uses, for about 0.15 s each power of two. Takes memory for as many
 * experts. Errors: those of ps_store_open and ps_store_wait, -EINTR (options->stop), -ENOMEM.
 */
int ps_model_time_misses(struct ps_model *model, const struct ps_engine_options *options,
                         struct ps_miss_times *times, struct ps_error *err);

enum ps_routing {
    PS_ROUTING_REAL,    /* as of models in use: hit rates from traces (model/reuse.h) */
    PS_ROUTING_UNIFORM, /* every expert as likely as any other: models of random weights */
};

/*
 * Hit rates from a trace of this model (docs/trace.md): the first half of its tokens warms the
 * cache, the second is counted. *out is owned by the caller. Errors: those of ps_trace_open and
 * ps_trace_next; -PS_ERR_ARGUMENT for another model's trace.
 */
struct ps_reuse;
int ps_reuse_open_trace(struct ps_reuse **out, const char *path, const struct ps_model *model,
                        struct ps_error *err);
void ps_reuse_close(struct ps_reuse **reuse);

struct ps_forecast_options {
    const struct ps_engine_options *engine; /* NULL = defaults */
    const struct ps_machine *machine;       /* NULL: only bytes and hit rates */
    const struct ps_member_profile *drives; /* [drive_count]; bytes_per_s is what matters most */
    const double *shares; /* [drive_count] of the data, sum 1; NULL: by bandwidth */
    int drive_count;      /* 0: not known */
    double busy_share;    /* of that, what drives give while all processors compute; 0: not known */
    double read_cpu_s;    /* what the processor does for one read by itself; 0: not known */
    const struct ps_miss_times *miss_times; /* measured, of these drives; or NULL */
    enum ps_routing routing;
    const struct ps_reuse *reuse; /* instead of routing; or NULL */
    const struct ps_plan *plan; /* made before anything was measured, which took memory; or NULL */
    uint32_t prompt_tokens;     /* of the prompt that is forecast, cut to the context; 0 = 512 */
};

enum ps_limit { PS_LIMIT_UNKNOWN, PS_LIMIT_DRIVES, PS_LIMIT_MEMORY, PS_LIMIT_ARITHMETIC };

/* Tokens per second, and for each what the time goes to. */
struct ps_forecast_rate {
    double tokens_per_s; /* 0: not known */
    enum ps_limit limit;
    double read_share; /* of the time, waiting for drives with nothing to compute */
};

struct ps_forecast {
    struct ps_plan plan;
    uint64_t routed_bytes;   /* expert bytes of one token, hit or missed */
    uint64_t resident_bytes; /* of resident weights and state, touched by one token */
    double cached_fraction;  /* of all experts */
    double hit_low, hit_central, hit_high;
    uint64_t missed_bytes; /* of one token, at the central hit rate */
    struct ps_forecast_rate decode, decode_low, decode_high; /* at each hit rate */
    struct ps_forecast_rate decode_overlapped; /* with every read asked for in time: the bound */
    struct ps_forecast_rate prefill;
    double drive_bytes_per_s; /* of all drives together, as the data lies on them; 0: not known */
};

/*
 * Forecasts a warm run (the cache has seen some hundred tokens), half of the context filled,
 * without prediction: layer by layer the mixer, then the slower of its missed reads and its
 * arithmetic. Errors: those of ps_model_plan (-PS_ERR_MEMORY_FLOOR fills forecast->plan).
 */
int ps_model_forecast(struct ps_model *model, const struct ps_forecast_options *options,
                      struct ps_forecast *forecast, struct ps_error *err);

struct ps_engine;

/* Allocates everything, reads and checks the resident weights. Blocks. NULL options = defaults. */
int ps_engine_open(struct ps_engine **out, struct ps_model *model,
                   const struct ps_engine_options *options, struct ps_error *err);
void ps_engine_close(struct ps_engine **engine);

struct ps_timeline;

/* The engine's record of what drives and threads did since it was opened (core/timeline.h), or
 * NULL. Holds enum ps_store_event and enum ps_engine_event; read while nothing is evaluated. */
struct ps_timeline *ps_engine_timeline(struct ps_engine *engine);

/* What an engine records beside its store, with the lane and the values of each. */
enum ps_engine_event {
    PS_EVENT_EVAL = PS_EVENT_STORE_END, /* tokens in one pass: how many, position of the first */
    PS_EVENT_LAYER,                     /* of a pass: its number */
    PS_EVENT_LOGITS,                    /* of how many tokens */
    PS_EVENT_SAMPLE,                    /* a token was chosen: which */
    PS_EVENT_TEXT,                      /* its text was made and handed over: which token */
    /* Lane: thread. What one thread did of what all were given: layer, enum ps_stage, tasks. */
    PS_EVENT_TASKS,
    PS_EVENT_ENGINE_END
};

/* What threads compute. Norms and sums belong to what they come before. */
enum ps_stage {
    PS_STAGE_MIXER,
    PS_STAGE_ROUTER,
    PS_STAGE_SHARED,
    PS_STAGE_UP,    /* gate and up matrices of experts */
    PS_STAGE_DOWN,  /* down matrices of experts */
    PS_STAGE_DENSE, /* feed-forward blocks without experts */
    PS_STAGE_HEAD,
    PS_STAGE_CHECK, /* checksums */
    PS_STAGE_COUNT
};

/* What was busy in the time of the eval calls of one phase. */
struct ps_usage {
    uint64_t compute_ns; /* in work dealt to threads, all of them together */
    uint64_t wait_ns;    /* the caller waited for the store */
    uint64_t wait_cause_ns[PS_WAIT_CAUSE_COUNT]; /* of it */
    uint64_t drive_ns[PS_MEMBER_COUNT_MAX];      /* by member, as ps_store_member_stats.busy_ns */
};

struct ps_engine_stats {
    struct ps_store_stats store;
    int member_count;
    struct ps_store_member_stats members[PS_MEMBER_COUNT_MAX];
    /* Experts that drives were asked for ahead of the router, at least in part, and those it chose
     * afterwards; and the bytes that drives were asked for before it chose, of these and of the
     * others. An expert that it has not come to yet is in none. */
    uint64_t guesses_read, guesses_right, guesses_right_bytes, guesses_vain_bytes;
    uint64_t prefill_tokens, prefill_ns;
    uint64_t expert_ns, shared_ns;     /* of both: in routed and shared experts' arithmetic */
    uint64_t decode_tokens, decode_ns; /* eval calls of one token after the first call */
    struct ps_usage prefill_usage, decode_usage;
    uint64_t sample_ns;         /* choosing tokens, in ps_session_generate */
    uint64_t memory_peak_bytes; /* VmHWM plus the most hugetlb pages held */
    uint64_t hugepage_bytes;    /* hugetlb pages held now */
    uint64_t budget_bytes;
    int threads;
    const char *cpu; /* "avx512" */
};
void ps_engine_stats(const struct ps_engine *engine, struct ps_engine_stats *stats);
/* The store's part of it alone, which may be asked for in every layer: nothing of it is looked up
 * in the kernel. */
void ps_engine_store_stats(const struct ps_engine *engine, struct ps_store_stats *stats);

/* ---- session ------------------------------------------------------------------------------------
 */

struct ps_session;

/* Takes one of the engine's sequence states, emptied. -EBUSY while other sessions hold them all. */
int ps_session_open(struct ps_session **out, struct ps_engine *engine, struct ps_error *err);
void ps_session_close(struct ps_session **session);
void ps_session_reset(struct ps_session *session); /* back to no tokens */
uint32_t ps_session_position(const struct ps_session *session);

/* One row of logits, [V] floats, valid during the call, for the token at `position`. */
typedef void ps_logits_fn(void *ctx, uint32_t position, const float *logits);

/*
 * Appends tokens. With on_logits, every token's logits are computed and handed over in order;
 * without, only the last token's, to be had from ps_session_logits. Errors: -PS_ERR_ARGUMENT (id
 * outside the vocabulary, none given), -PS_ERR_CONTEXT_FULL, -EINTR (options.stop), and those of
 * ps_store_wait. After the last two the state is that of no sequence: eval refuses (-EIO) until
 * ps_session_reset.
 */
int ps_session_eval(struct ps_session *session, const int32_t *ids, size_t id_count,
                    ps_logits_fn *on_logits, void *ctx, struct ps_error *err);

/* What one session is to evaluate in a batch. */
struct ps_session_input {
    struct ps_session *session;
    const int32_t *ids; /* [id_count] */
    size_t id_count;
};

/*
 * Appends tokens to several sessions of one engine: one token each to decode them together, or
 * whole prompts, or some of both. Every expert that their next tokens ask for is read once for all
 * of them. A session's logits (of its last token; ps_session_logits) are, to the bit, those that it
 * would have alone. Sessions later in the list come later in the passes that tokens are cut into,
 * so short inputs should stand first. Errors: those of ps_session_eval, -PS_ERR_ARGUMENT also for a
 * session that stands twice. When arguments are refused no session has changed; after other errors
 * all of them want a reset.
 */
int ps_session_eval_batch(const struct ps_session_input *inputs, size_t count,
                          struct ps_error *err);

/*
 * The ids of the session's tokens, owned by it, valid until it changes. *count: those evaluated,
 * and where ps_session_generate has handed over a token that it did not evaluate any more, that
 * one.
 */
const int32_t *ps_session_tokens(const struct ps_session *session, size_t *count);

/*
 * Writes the session to a file as it is: tokens, logits, keys and values that later tokens see,
 * recurrent state (docs/format.md). Errors: -EIO (the session is that of no sequence), -errno.
 */
int ps_session_save(const struct ps_session *session, FILE *file, struct ps_error *err);

/*
 * Replaces the session by a saved one; what it then gives is to the bit what the saved one would
 * have given. Ends the logits of the engine's other sessions. The context may be another one, if
 * it is long enough; all options that change the output must be the same. On errors the session is
 * empty: -PS_ERR_FORMAT (not a session, or damaged), -PS_ERR_TRUNCATED, -PS_ERR_CHECKSUM,
 * -PS_ERR_UNSUPPORTED (version), -PS_ERR_MEMBER (of another model), -PS_ERR_ARGUMENT (other
 * options, named), -PS_ERR_CONTEXT_FULL (more tokens than the context), -errno.
 */
int ps_session_restore(struct ps_session *session, FILE *file, struct ps_error *err);

/* [V] floats of the last token evaluated, owned by the session, valid until the next eval of any
 * session of the engine; NULL before the first and after that. */
const float *ps_session_logits(const struct ps_session *session);

/* Called once per token and MoE layer with the experts chosen, best first, and their weights. */
typedef void ps_route_fn(void *ctx, uint32_t layer, uint32_t position, uint32_t count,
                         const uint32_t *experts, const float *weights);
void ps_session_on_route(struct ps_session *session, ps_route_fn *fn, void *ctx);

/*
 * Called once per token, MoE layer and depth with what the gate predictor makes of the layer's
 * router, [E] probabilities, valid during the call: at depths 1 to 3 so many layers before the
 * layer, after their mixer and shared expert; at depth 0 before the layer's own mixer. With
 * options.predictor "learned" depths 1 to 3 are what that one makes of it. Costs time for as long
 * as fn is not NULL, and changes no bit.
 */
typedef void ps_guess_fn(void *ctx, uint32_t layer, uint32_t depth, uint32_t position,
                         const float *probabilities);
void ps_session_on_guess(struct ps_session *session, ps_guess_fn *fn, void *ctx);

/*
 * With options.predictor "oracle": asked which experts a layer will choose for the token at
 * `position`, to see what reading ahead could win at most. Writes up to the model's experts_used
 * into experts, and returns how many; 0: not known. Numbers that are no expert's are passed over.
 * Called before the layer's router has run, for the layers that follow and those of up to 32 tokens
 * that do, whether there will be so many or not, and now and then again.
 */
typedef uint32_t ps_oracle_fn(void *ctx, uint32_t layer, uint32_t position, uint32_t *experts);
void ps_session_oracle(struct ps_session *session, ps_oracle_fn *fn, void *ctx);

/* Called once per token and MoE layer with what its router sees, [H] normalised values, valid
 * during the call. */
typedef void ps_router_input_fn(void *ctx, uint32_t layer, uint32_t position, const float *x);
void ps_session_on_router_input(struct ps_session *session, ps_router_input_fn *fn, void *ctx);

/* ---- sampling and generation
 * ---------------------------------------------------------------------- */

struct ps_sampling {
    float temperature;    /* 0 = greedy: the largest logit, the lowest id among equals */
    int top_k;            /* 0 = off */
    float top_p;          /* 1 = off */
    float min_p;          /* 0 = off */
    float repeat_penalty; /* 1 = off; divides positive and multiplies negative logits */
    int repeat_last_n;    /* tokens looked back on */
    uint64_t seed;        /* of random choices, each of which follows from it and its position */
};

/* The model's own generation settings where the source had them, else greedy. Seed 0. */
void ps_model_sampling(const struct ps_model *model, struct ps_sampling *sampling);

struct ps_sampler;
int ps_sampler_open(struct ps_sampler **out, const struct ps_model *model,
                    const struct ps_sampling *sampling, struct ps_error *err);
void ps_sampler_close(struct ps_sampler **sampler);
/* Tells the sampler of a token that is part of the sequence (prompt tokens, too, and those of a
 * session that is taken up again). */
void ps_sampler_accept(struct ps_sampler *sampler, int32_t id);
/* Chooses from [V] logits. Same seed, same history, same logits: same token, however often it
 * is asked. Does not accept it. */
int32_t ps_sampler_next(struct ps_sampler *sampler, const float *logits);

/* Return non-zero to stop. text: the bytes that became whole UTF-8 characters with this token. */
typedef int ps_token_fn(void *ctx, int32_t id, const char *text, size_t text_bytes);

enum ps_stop_reason { PS_STOP_LENGTH, PS_STOP_END, PS_STOP_CONTEXT, PS_STOP_CALLER };

/*
 * Evaluates a token that an earlier call has handed over last, if it has not been evaluated since,
 * and the prompt, which may be empty where that leaves logits; then samples and evaluates up to
 * max_tokens tokens, each handed to on_token (end tokens are not). Returns a ps_stop_reason, or an
 * error. A model without tokenizer passes empty texts. A character that the last token leaves
 * unfinished is not handed over.
 */
int ps_session_generate(struct ps_session *session, const int32_t *prompt, size_t prompt_count,
                        uint32_t max_tokens, struct ps_sampler *sampler, ps_token_fn *on_token,
                        void *ctx, struct ps_error *err);

/* One sequence of several that are generated together. */
struct ps_generation {
    const int32_t *prompt; /* [prompt_count], the caller's; must last until its end is reported */
    size_t prompt_count;
    uint32_t max_tokens;
    struct ps_sampling sampling;
    void *ctx; /* the caller's, handed back with the sequence's tokens and its end */
};

struct ps_generate_options {
    /* Fills *generation and returns 1; or returns 0: there are no more (it is not asked again); or
     * < 0, with *err filled, which ends all. */
    int (*next)(void *ctx, struct ps_generation *generation, struct ps_error *err);
    void *next_ctx;
    ps_token_fn *on_token; /* ctx: the sequence's */
    /* A sequence has ended. reason: a ps_stop_reason. Returns < 0, with *err filled, to end all. */
    int (*on_end)(void *ctx, int reason, struct ps_error *err); /* ctx: the sequence's */
};

/*
 * Generates sequences, as many together as the engine has free sequence states, until there are no
 * more: where one ends, the next one begins with its prompt in the same pass as the others' next
 * tokens. Each gets the tokens that ps_session_generate would give it alone. Returns 0, or an
 * error: -EBUSY (no free state), those of ps_session_eval_batch and ps_sampler_open, and what the
 * callbacks return. After an error (-EINTR included) the ends of those that were begun are not
 * reported. Allocates a sampler for each sequence. Blocks.
 */
int ps_engine_generate(struct ps_engine *engine, const struct ps_generate_options *options,
                       struct ps_error *err);

#ifdef __cplusplus
}
#endif

#endif
