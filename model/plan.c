/* How a memory ceiling is spent: shapes of state and work buffers, the table, the floor. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "core/budget.h"
#include "core/timeline.h"
#include "core/topology.h"
#include "core/util.h"
#include "model/ahead.h"
#include "model/engine.h"
#include "model/predictor_learned.h"

/* Room for what cannot be counted beforehand: thread stacks, the heap of the tool on top, the C
 * library's own buffers. */
#define RESERVE_BYTES (3u << 20)
/* How much the resident set of one program differs from run to run: 1.1 MiB were seen where the
 * page cache did not hold all of the program and its libraries for one of them, so that the kernel
 * mapped less around each fault. A ceiling that another run, or `penstock plan`, has named as the
 * least must do for this one: the reserve bears the difference. */
#define JITTER_BYTES (3u << 19)
#define THREAD_BYTES (64u << 10)
#define TOKEN_TEXT_BYTES 16u /* of a token as an id and as text */

/* What the engine keeps outside of its regions, and what is beside it for each session: a sampler,
 * and beyond the reserve, from the second on, the prompt and the text. */
static uint64_t table_bytes(const struct ps_config *c, const struct ps_engine_options *o)
{
    return sizeof(struct ps_engine) + c->layer_count * sizeof(struct ps_layer) +
           c->rope_dims / 2 * sizeof(float) +
           o->sessions * (sizeof(struct ps_session) + ps_sampler_bytes(c->vocab_rows)) +
           (o->sessions - 1ull) * o->ctx * TOKEN_TEXT_BYTES;
}

static const char *const kv_names[] = {"f32", "f16", "q8_0"};

/* The type of a name that options.kv may have, or -1. */
static int kv_type(const char *name)
{
    for (size_t i = 0; i < PS_ARRAY_LEN(kv_names); i++) {
        if (strcmp(name, kv_names[i]) == 0)
            return ps_type_from_name(name);
    }
    return -1;
}

const char *ps_kv_name(uint32_t type)
{
    for (size_t i = 0; i < PS_ARRAY_LEN(kv_names); i++) {
        if (ps_type_from_name(kv_names[i]) == (int)type)
            return kv_names[i];
    }
    return "";
}

/*
 * The ring holds the window of a part's first token and the part itself: whole parts. The sinks
 * follow it. A context that is no longer holds every row instead.
 */
static void shape_ring(const struct ps_engine_options *options, struct ps_state_shape *s)
{
    uint64_t window = options->kv_window ? options->kv_window : options->ctx;
    uint64_t ring = ps_align_up(window - 1, PS_ATTENTION_PART) + PS_ATTENTION_PART;
    bool wraps = ring + PS_KV_SINKS < options->ctx;

    s->kv_window = (uint32_t)window;
    s->kv_rows = wraps ? (uint32_t)ring : options->ctx;
    s->kv_sink_row = wraps ? s->kv_rows : 0;
    s->kv_layer_bytes =
        2 * ps_align_up(s->kv_row_bytes * (s->kv_rows + (wraps ? PS_KV_SINKS : 0)), 64);
}

/* options: with defaults resolved. */
void ps_state_shape(const struct ps_config *c, const struct ps_engine_options *options,
                    struct ps_state_shape *s)
{
    memset(s, 0, sizeof(*s));
    for (uint32_t l = 0; l < c->layer_count; l++) {
        if (c->layers[l].mixer == PS_MIXER_ATTENTION)
            s->attention_count++;
        else
            s->delta_count++;
    }
    uint64_t channels =
        2ull * c->delta_k_heads * c->delta_k_dim + (uint64_t)c->delta_v_heads * c->delta_v_dim;
    s->kv_row = (uint64_t)c->kv_head_count * c->head_dim;
    s->kv_type = (uint32_t)kv_type(options->kv);
    s->kv_row_bytes = ps_row_bytes(s->kv_type, s->kv_row);
    shape_ring(options, s);
    s->delta_layer_bytes = ps_align_up(
        (uint64_t)c->delta_v_heads * c->delta_k_dim * c->delta_v_dim * sizeof(float), 64);
    s->conv_layer_bytes =
        c->conv_taps ? ps_align_up(channels * (c->conv_taps - 1) * sizeof(float), 64) : 0;
    s->kv_bytes = s->attention_count * s->kv_layer_bytes;
    s->recurrent_bytes = s->delta_count * (s->delta_layer_bytes + s->conv_layer_bytes);
    s->ids_bytes = ps_align_up((options->ctx + 1ull) * sizeof(int32_t), 64);
    s->bytes = s->kv_bytes + s->recurrent_bytes + s->ids_bytes;
}

/* ---- work buffers --------------------------------------------------------------------------- */

static uint64_t max3(uint64_t a, uint64_t b, uint64_t c)
{
    return ps_max_u64(a, ps_max_u64(b, c));
}

static void work_widths(const struct ps_config *c, struct ps_work *w)
{
    uint64_t q = (uint64_t)c->head_count * c->head_dim;
    uint64_t dv = (uint64_t)c->delta_v_heads * c->delta_v_dim;
    uint64_t channels = 2ull * c->delta_k_heads * c->delta_k_dim + dv;
    uint64_t ffn = ps_max_u64(c->shared_width, c->dense_width);

    w->wide_cols = max3(c->attn_gate ? 2 * q : q, channels, ffn);
    w->z_cols = max3(dv, ffn, 2ull * c->kv_head_count * c->head_dim); /* new keys and values */
    w->mix_cols = ps_max_u64(q, dv);
}

static uint64_t thread_floats(const struct ps_config *c, uint32_t pairs)
{
    uint64_t scores = (uint64_t)PS_ATTENTION_COLUMNS * PS_ATTENTION_PART;
    uint64_t delta = 2ull * c->delta_k_dim + 2ull * c->delta_v_dim;
    uint64_t up = (uint64_t)pairs * PS_UP_ROWS;
    uint64_t down =
        (uint64_t)pairs * PS_DOWN_ROWS +
        PS_CUT_TOKENS * (PS_DOWN_ROWS * PS_LANES + PS_FOLD_VECTOR_BYTES / sizeof(float));

    return ps_align_up(max3(ps_max_u64(scores, delta), ps_max_u64(up, down), PS_CONV_BLOCK), 16);
}

/* Every job in work has a row of its own at least, so there are no more of them than rows. */
static void place_jobs(struct ps_arena *a, const struct ps_work_size *size, struct ps_work *w)
{
    uint64_t jobs = size->config->expert_count;

    w->jobs = ps_arena_take(a, jobs, sizeof(*w->jobs));
    w->leases = ps_arena_take(a, jobs, sizeof(*w->leases));
    w->round_jobs = ps_arena_take(a, jobs, sizeof(*w->round_jobs));
    w->up_tasks =
        ps_arena_take(a, ps_min_u64(jobs, w->pairs) * size->up_task_count, sizeof(*w->up_tasks));
    w->slices = ps_arena_take(a, size->slice_count, sizeof(*w->slices));
    uint64_t folds = ps_div_up(size->config->expert_width, PS_FOLD_NEURONS);
    uint64_t apart = size->node_count > 1 ? PS_FOLD_PAIRS : 0;
    w->fold_tasks = ps_arena_take(a, apart * folds, sizeof(*w->fold_tasks));
    w->fold_out = ps_arena_take(a, apart * folds * size->config->hidden, sizeof(float));
}

static void place_q8(struct ps_arena *a, const struct ps_work_size *size, struct ps_work *w)
{
    const struct ps_config *c = size->config;
    uint64_t widest = max3(c->hidden, w->wide_cols, w->mix_cols);
    uint64_t on = size->q8 ? 1 : 0, folds = ps_div_up(c->expert_width, PS_FOLD_NEURONS);

    w->xq_bytes = ps_q8_bytes(widest);
    w->xq = ps_arena_take(a, on * w->chunk, w->xq_bytes);
    w->token_xq = ps_arena_take(a, on * w->chunk, ps_q8_bytes(c->hidden));
    w->expert_xq = ps_arena_take(a, on * w->pairs, ps_q8_bytes(c->hidden));
    w->expert_aq = ps_arena_take(a, on * w->pairs * folds, PS_FOLD_VECTOR_BYTES);
}

static void place_guesses(struct ps_arena *a, const struct ps_work_size *size, struct ps_work *w)
{
    uint64_t experts = size->config->expert_count, tokens = PS_GUESS_TOKENS;
    uint64_t layers = size->config->layer_count;

    w->guess_x = ps_arena_take(a, tokens * size->config->hidden, sizeof(float));
    w->guess_xn = ps_arena_take(a, tokens * size->config->hidden, sizeof(float));
    w->guess_p = ps_arena_take(a, tokens * experts, sizeof(float));
    w->guess_need = ps_arena_take(a, experts, sizeof(float));
    w->guess_experts = ps_arena_take(a, experts, sizeof(uint32_t));
    w->guess_ranks = ps_arena_take(a, tokens * 2 * size->experts_used, sizeof(uint32_t));
    w->guess_missing = ps_arena_take(a, experts, sizeof(bool));
    w->guess_chosen = ps_arena_take(a, experts, sizeof(bool));
    w->staging.expert_count = size->config->expert_count;
    w->staging.guess_capacity = size->guess_count;
    w->staging.guesses = ps_arena_take(a, size->guess_count, sizeof(*w->staging.guesses));
    w->staging.staged = ps_arena_take(a, size->guess_count, sizeof(*w->staging.staged));
    w->staging.staged_of = ps_arena_take(a, size->guess_count > 0 ? layers * experts : 0,
                                         sizeof(*w->staging.staged_of));
}

uint64_t ps_work_place(const struct ps_work_size *size, uint8_t *base, struct ps_work *w)
{
    const struct ps_config *c = size->config;
    struct ps_arena a = {base, 0};
    uint64_t chunk = size->chunk, all_pairs = chunk * size->experts_used;

    memset(w, 0, sizeof(*w));
    work_widths(c, w);
    w->chunk = size->chunk;
    w->pairs = (uint32_t)max3(chunk, size->experts_used, ps_min_u64(all_pairs, PS_EXPERT_PAIRS));
    w->thread_floats = thread_floats(c, w->pairs);
    w->logits_rows = (uint32_t)ps_max_u64(PS_LOGITS_ROWS, size->sessions);
    w->tokens = ps_arena_take(&a, chunk, sizeof(*w->tokens));
    w->x = ps_arena_take(&a, chunk * c->hidden, sizeof(float));
    w->xn = ps_arena_take(&a, chunk * c->hidden, sizeof(float));
    w->y = ps_arena_take(&a, chunk * c->hidden, sizeof(float));
    w->wide = ps_arena_take(&a, chunk * w->wide_cols, sizeof(float));
    w->z = ps_arena_take(&a, chunk * w->z_cols, sizeof(float));
    w->mix = ps_arena_take(&a, chunk * w->mix_cols, sizeof(float));
    w->beta = ps_arena_take(&a, chunk * c->delta_v_heads, sizeof(float));
    w->alpha = ps_arena_take(&a, chunk * c->delta_v_heads, sizeof(float));
    w->attention_blocks = ps_arena_take(&a, chunk + 1, sizeof(uint32_t));
    w->rope_cos = ps_arena_take(&a, chunk * (c->rope_dims / 2), sizeof(float));
    w->rope_sin = ps_arena_take(&a, chunk * (c->rope_dims / 2), sizeof(float));
    w->router = ps_arena_take(&a, chunk * c->expert_count, sizeof(float));
    w->shared_scale = ps_arena_take(&a, chunk, sizeof(float));
    w->route_weight = ps_arena_take(&a, all_pairs, sizeof(float));
    w->route = ps_arena_take(&a, all_pairs, sizeof(uint32_t));
    w->pair_token = ps_arena_take(&a, all_pairs, sizeof(uint32_t));
    w->pair_weight = ps_arena_take(&a, all_pairs, sizeof(float));
    w->expert_begin = ps_arena_take(&a, (uint64_t)c->expert_count + 1, sizeof(uint32_t));
    w->expert_x = ps_arena_take(&a, (uint64_t)w->pairs * c->hidden, sizeof(float));
    place_q8(&a, size, w);
    w->expert_act = ps_arena_take(&a, (uint64_t)w->pairs * c->expert_width, sizeof(float));
    w->expert_out = ps_arena_take(&a, (uint64_t)w->pairs * c->hidden, sizeof(float));
    place_jobs(&a, size, w);
    place_guesses(&a, size, w);
    w->logits = ps_arena_take(&a, (uint64_t)w->logits_rows * c->vocab_rows, sizeof(float));
    w->thread = ps_arena_take(&a, w->thread_floats * (uint64_t)size->threads, sizeof(float));
    return a.used;
}

/* ---- the table ------------------------------------------------------------------------------ */

static void add_line(struct ps_plan *plan, const char *name, uint64_t bytes, uint64_t floor_bytes)
{
    int i = plan->line_count++;

    snprintf(plan->lines[i].name, sizeof(plan->lines[i].name), "%s", name);
    plan->lines[i].bytes = bytes;
    plan->lines[i].floor_bytes = floor_bytes;
    plan->total_bytes += bytes;
    plan->floor_bytes += floor_bytes;
}

bool ps_activations_are_q8(const struct ps_engine_options *options)
{
    return strcmp(options->activations, "q8") == 0;
}

static int resolve_kv(const struct ps_config *c, struct ps_engine_options *out,
                      struct ps_error *err)
{
    if (!out->kv)
        out->kv = "f16";
    int type = kv_type(out->kv);
    if (type < 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--kv",
                            "\"%s\" is not a type of keys and values; there are f32, f16 and q8_0",
                            out->kv);
    if (c->head_dim % ps_type_info((uint32_t)type)->block_len != 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--kv",
                            "%s needs heads of a multiple of %" PRIu32
                            " values, and this model's have %" PRIu32 "; take f16",
                            out->kv, ps_type_info((uint32_t)type)->block_len, c->head_dim);
    return 0;
}

static int resolve(const struct ps_model *model, const struct ps_engine_options *in,
                   struct ps_engine_options *out, struct ps_error *err)
{
    static const struct ps_engine_options defaults;
    struct ps_topology topo;

    *out = in ? *in : defaults;
    if (!out->io)
        out->io = "uring";
    if (!out->activations)
        out->activations = "f32";
    if (!ps_activations_are_q8(out) && strcmp(out->activations, "f32") != 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--activations",
                            "\"%s\" is not a type of activations; there are f32 and q8",
                            out->activations);
    if (out->threads < 0 || out->threads > PS_THREAD_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--threads",
                            "%d is out of range; give 1 to %d, or 0 for one per CPU", out->threads,
                            PS_THREAD_COUNT_MAX);
    if (out->threads == 0) {
        ps_topology_get(&topo);
        out->threads = topo.cpu_count < PS_THREAD_COUNT_MAX ? topo.cpu_count : PS_THREAD_COUNT_MAX;
    }
    /* Behind a window, positions cost no memory. */
    if (out->ctx == 0)
        out->ctx = out->kv_window ? model->config.context_max
                                  : (uint32_t)ps_min_u64(PS_CTX_DEFAULT, model->config.context_max);
    if (out->ctx > model->config.context_max)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--ctx",
                            "%" PRIu32 " tokens are more than the %" PRIu32
                            " that this model was made for",
                            out->ctx, model->config.context_max);
    if (out->experts_used == 0)
        out->experts_used = model->config.experts_used;
    if (out->experts_used > model->config.experts_used)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--experts-used",
                            "%" PRIu32 " is more than the %" PRIu32
                            " experts per token that this model was made for",
                            out->experts_used, model->config.experts_used);
    if (out->sessions == 0)
        out->sessions = 1;
    if (out->sessions > PS_SESSION_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--parallel",
                            "%" PRIu32 " sequences are more than the %d that run together",
                            out->sessions, PS_SESSION_COUNT_MAX);
    if (out->chunk_tokens > PS_CHUNK_TOKENS_MAX)
        out->chunk_tokens = PS_CHUNK_TOKENS_MAX;
    if (!out->predictor)
        out->predictor = "off";
    if (ps_predictor_from_name(out->predictor) < 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--predictor",
                            "\"%s\" is not a predictor; there are off, gate and learned",
                            out->predictor);
    return resolve_kv(&model->config, out, err);
}

uint32_t ps_tensor_object(const struct ps_model *model, const struct ps_config_tensor *tensor,
                          struct ps_object_info *info)
{
    char name[64];

    ps_role_name(tensor->role, tensor->layer, name, sizeof(name));
    uint32_t object = (uint32_t)ps_volume_find_resident(model->volume, name);
    ps_volume_object(model->volume, object, info);
    return object;
}

uint64_t ps_resident_bytes(const struct ps_model *model)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < model->tensor_count; i++) {
        struct ps_object_info info;
        ps_tensor_object(model, &model->tensors[i], &info);
        bytes += info.bytes;
    }
    return bytes;
}

static int node_count(void)
{
    struct ps_topology topo;

    ps_topology_get(&topo);
    return topo.node_count;
}

/* Guesses other than an oracle's are for all experts of one layer. */
static uint64_t guess_count(const struct ps_config *c, const struct ps_engine_options *o)
{
    int predictor = ps_predictor_from_name(o->predictor);

    if (predictor == PS_PREDICTOR_ORACLE)
        return ps_oracle_guess_count(c->layer_count, c->expert_count, o->experts_used);
    return predictor == PS_PREDICTOR_OFF ? 0 : c->expert_count;
}

/* All experts of a layer are cut alike (model/open.c), so the first of each speaks for it. */
void ps_work_size(const struct ps_model *model, const struct ps_engine_options *o,
                  struct ps_work_size *size)
{
    *size = (struct ps_work_size){.config = &model->config,
                                  .chunk = o->chunk_tokens,
                                  .ctx = o->ctx,
                                  .experts_used = o->experts_used,
                                  .sessions = o->sessions,
                                  .threads = o->threads,
                                  .q8 = ps_activations_are_q8(o),
                                  .node_count = node_count(),
                                  .guess_count = (uint32_t)guess_count(&model->config, o)};
    for (uint32_t l = 0; l < model->config.layer_count; l++) {
        struct ps_object_info object;
        uint32_t tasks = 0;

        if (model->config.layers[l].ffn != PS_FFN_MOE)
            continue;
        uint32_t first = (uint32_t)ps_volume_find_streamed(model->volume, l, 0);
        ps_volume_object(model->volume, first, &object);
        for (uint32_t s = 0; s < object.slice_count; s++) {
            struct ps_slice_info slice;
            ps_volume_slice(model->volume, first, s, &slice);
            tasks +=
                (uint32_t)ps_div_up(slice.unit_begin % PS_UP_ROWS + slice.unit_count, PS_UP_ROWS);
        }
        size->slice_count = (uint32_t)ps_max_u64(size->slice_count, object.slice_count);
        size->up_task_count = (uint32_t)ps_max_u64(size->up_task_count, tasks);
    }
}

static uint64_t work_bytes(const struct ps_work_size *size, uint32_t chunk)
{
    struct ps_work_size s = *size;
    struct ps_work work;

    s.chunk = chunk;
    return ps_region_bytes(ps_work_place(&s, NULL, &work));
}

/* With several sessions, a token of each of them, so that they read their experts together. */
static uint32_t smallest_chunk(const struct ps_work_size *size)
{
    uint64_t tokens = ps_max_u64(ps_min_u64(PS_CHUNK_TOKENS_MIN, size->ctx), size->sessions);

    return (uint32_t)(size->chunk ? ps_min_u64(size->chunk, ps_max_u64(size->ctx, size->sessions))
                                  : tokens);
}

/* The longest chunk whose buffers take no more than a quarter of what is free beyond the floor:
 * longer chunks read each expert more rarely in a prompt, a larger cache more rarely in what
 * follows. */
static uint32_t choose_chunk(const struct ps_work_size *size, uint32_t prompt_tokens,
                             uint64_t spare_bytes)
{
    uint32_t smallest = smallest_chunk(size);
    uint64_t smallest_bytes = work_bytes(size, smallest);
    uint64_t tokens_max = (uint64_t)size->ctx * size->sessions;

    if (size->chunk)
        return smallest;
    uint32_t most = prompt_tokens ? prompt_tokens : PS_CHUNK_TOKENS_DEFAULT;
    most = (uint32_t)ps_min_u64(ps_min_u64(most, PS_CHUNK_TOKENS_MAX), tokens_max);
    for (uint32_t parts = 1, chunk = most; chunk > smallest;
         parts *= 2, chunk = (uint32_t)ps_div_up(most, parts))
        if (work_bytes(size, chunk) - smallest_bytes <= spare_bytes / 4)
            return chunk;
    return smallest;
}

static int floor_error(const struct ps_plan *plan, struct ps_error *err)
{
    char parts[256] = "", need[32], have[32], size[32];
    size_t used = 0;

    for (int i = 0; i < plan->line_count; i++) {
        int n = snprintf(parts + used, sizeof(parts) - used, "%s%s %s", i ? ", " : "",
                         plan->lines[i].name,
                         ps_size_text_binary(plan->lines[i].floor_bytes, size, sizeof(size)));
        if (n < 0 || (size_t)n >= sizeof(parts) - used)
            break;
        used += (size_t)n;
    }
    return ps_error_set(
        err, -PS_ERR_MEMORY_FLOOR, "--memory",
        "%s is less than the %s (%" PRIu64 " bytes) that this model needs at least: %s; give more, "
        "or a smaller --ctx",
        ps_size_text_binary(plan->budget_bytes, have, sizeof(have)),
        ps_size_text_binary(plan->floor_bytes, need, sizeof(need)), plan->floor_bytes, parts);
}

/* In the modes that read through the page cache the slots stay at the minimum, and the rest of the
 * ceiling is the page cache's. */
static bool uses_page_cache(const char *io)
{
    const char *name = strrchr(io, ':'); /* "fault:...:NAME" */

    name = name ? name + 1 : io;
    return strcmp(name, "pagecache") == 0 || strcmp(name, "mmap") == 0;
}

int ps_engine_plan_make(struct ps_model *model, const struct ps_engine_options *options,
                        struct ps_engine_options *resolved, uint64_t *cache_bytes,
                        struct ps_plan *plan, struct ps_error *err)
{
    struct ps_engine_options o;
    struct ps_state_shape state;
    struct ps_work_size size;
    uint64_t learned = 0;

    memset(plan, 0, sizeof(*plan));
    int rc = resolve(model, options, &o, err);
    if (rc < 0)
        return rc;
    if (ps_predictor_from_name(o.predictor) == PS_PREDICTOR_LEARNED)
        rc = ps_learned_load_bytes(model, o.predictor_file, &learned, err);
    if (rc < 0)
        return rc;
    ps_state_shape(&model->config, &o, &state);
    ps_work_size(model, &o, &size);
    struct ps_store_options so = {
        .engine = o.io, .lease_count = o.experts_used, .group_count = model->config.layer_count};
    uint64_t floor_cache = ps_store_floor_bytes(model->volume, &so);
    uint64_t resident = ps_region_bytes(ps_resident_bytes(model));
    uint64_t base = ps_rss_peak_bytes() + ps_mem_hugetlb_bytes() + RESERVE_BYTES +
                    (uint64_t)o.threads * (THREAD_BYTES + sizeof(struct ps_thread_time)) +
                    table_bytes(&model->config, &o) + model->unheld_bytes;
    uint64_t state_bytes = ps_region_bytes(o.sessions * state.bytes);
    uint64_t floor_work = work_bytes(&size, smallest_chunk(&size));
    uint64_t timeline =
        o.timeline_events ? ps_region_bytes(ps_timeline_bytes(o.timeline_events)) : 0;
    uint64_t floor_total =
        base + resident + state_bytes + floor_work + floor_cache + timeline + learned;

    plan->budget_bytes = o.memory_bytes == PS_MEMORY_DEFAULT ? ps_budget_default_bytes()
                         : o.memory_bytes == PS_MEMORY_MIN   ? floor_total
                                                             : o.memory_bytes;
    if (plan->budget_bytes < floor_total && floor_total - plan->budget_bytes <= JITTER_BYTES) {
        base -= floor_total - plan->budget_bytes;
        floor_total = plan->budget_bytes;
    }
    uint64_t spare = plan->budget_bytes > floor_total ? plan->budget_bytes - floor_total : 0;
    plan->ctx = o.ctx;
    plan->chunk_tokens = choose_chunk(&size, o.prompt_tokens, spare);
    uint64_t work = work_bytes(&size, plan->chunk_tokens);
    spare -= ps_min_u64(spare, work - floor_work);
    so.cache_bytes = floor_cache + (uses_page_cache(o.io) ? 0 : spare);
    uint64_t cache = ps_store_plan_bytes(model->volume, &so, &plan->expert_slots);
    ps_store_placement(model->volume, &so, &plan->placement);
    plan->threads = o.threads;

    add_line(plan, "program and tables", base, base);
    add_line(plan, "resident weights", resident, resident);
    add_line(plan, "KV cache and recurrent state", state_bytes, state_bytes);
    add_line(plan, "work buffers", work, floor_work);
    add_line(plan, "expert cache", cache, floor_cache);
    if (learned > 0)
        add_line(plan, "learned predictor", learned, learned);
    if (timeline > 0)
        add_line(plan, "timeline", timeline, timeline);
    o.memory_bytes = plan->budget_bytes;
    o.chunk_tokens = plan->chunk_tokens;
    if (resolved)
        *resolved = o;
    if (cache_bytes)
        *cache_bytes = so.cache_bytes;
    return plan->budget_bytes < plan->floor_bytes ? floor_error(plan, err) : 0;
}

int ps_model_plan(struct ps_model *model, const struct ps_engine_options *options,
                  struct ps_plan *plan, struct ps_error *err)
{
    return ps_engine_plan_make(model, options, NULL, NULL, plan, err);
}
