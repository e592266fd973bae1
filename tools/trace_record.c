/*
 * A text through a model, with listeners. Tokens are evaluated some at a time, which the engine
 * does layer by layer: what it says of them is kept until all layers have spoken.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "quant/type.h"
#include "tools/tool.h"
#include "tools/tracing.h"

#define STEP_TOKENS_MAX 64u
#define STEP_BYTES_MAX (64u << 20)
#define NO_LAYER UINT32_MAX
#define GUESS_COUNT (TOOL_TRACE_DEPTHS + 1) /* with depth 0 */
#define F16_MAX 65504.0f

struct ranked {
    float p;
    uint16_t expert;
};

struct recorder {
    struct ps_trace_info info;
    struct ps_trace_writer *writer;
    struct tool_record_report *report;
    uint32_t *layers;       /* [L] */
    uint64_t *expert_bytes; /* [L] */
    uint32_t *layer_idx;    /* [layers of the model] number among the MoE layers, or NO_LAYER */
    uint32_t model_layers;
    uint32_t width;          /* experts kept of a guess: what is recorded, and 2k to be counted */
    uint32_t first_position; /* of the tokens in work */
    uint32_t step;           /* most of them */
    uint16_t *experts;       /* [step, L, K] */
    float *weights;          /* [step, L, K] */
    uint16_t *guesses;       /* [step, L, GUESS_COUNT, width] */
    uint16_t *guess_f16;     /* the same */
    uint16_t *hidden;        /* [step, L, H], or NULL */
    uint16_t *ranks;         /* [L, D, R] of one token, as they are recorded */
    uint16_t *rank_f16;
    struct ranked *order; /* [E] */
};

static void recorder_fini(struct recorder *r)
{
    ps_trace_writer_close(&r->writer);
    free(r->layers);
    free(r->expert_bytes);
    free(r->layer_idx);
    free(r->experts);
    free(r->weights);
    free(r->guesses);
    free(r->guess_f16);
    free(r->hidden);
    free(r->ranks);
    free(r->rank_f16);
    free(r->order);
}

static int layers_find(struct recorder *r, struct ps_model *model)
{
    const struct ps_volume *volume = ps_model_volume(model);
    struct ps_object_info object;

    r->layers = calloc(r->model_layers, sizeof(*r->layers));
    r->expert_bytes = calloc(r->model_layers, sizeof(*r->expert_bytes));
    r->layer_idx = calloc(r->model_layers, sizeof(*r->layer_idx));
    if (!r->layers || !r->expert_bytes || !r->layer_idx)
        return -ENOMEM;
    for (uint32_t l = 0; l < r->model_layers; l++) {
        int64_t first = ps_volume_find_streamed(volume, l, 0);
        r->layer_idx[l] = first >= 0 ? r->info.layer_count : NO_LAYER;
        if (first < 0)
            continue;
        ps_volume_object(volume, (uint32_t)first, &object);
        r->expert_bytes[r->info.layer_count] = object.bytes;
        r->layers[r->info.layer_count++] = l;
    }
    r->info.layers = r->layers;
    r->info.expert_bytes = r->expert_bytes;
    return 0;
}

static int buffers_open(struct recorder *r)
{
    const struct ps_trace_info *info = &r->info;
    size_t chosen = (size_t)info->layer_count * info->experts_used;
    size_t guessed = (size_t)info->layer_count * GUESS_COUNT * r->width;
    size_t ranks = (size_t)info->layer_count * TOOL_TRACE_DEPTHS * info->rank_count;
    size_t hidden = (size_t)info->layer_count * info->hidden;
    size_t bytes = chosen * 6 + guessed * 4 + hidden * 2;

    r->step = (uint32_t)ps_max_u64(1, ps_min_u64(STEP_TOKENS_MAX, STEP_BYTES_MAX / bytes));
    r->experts = calloc(r->step * chosen, sizeof(*r->experts));
    r->weights = calloc(r->step * chosen, sizeof(*r->weights));
    r->guesses = calloc(r->step * guessed, sizeof(*r->guesses));
    r->guess_f16 = calloc(r->step * guessed, sizeof(*r->guess_f16));
    r->hidden = calloc(r->step * hidden + 1, sizeof(*r->hidden));
    r->ranks = calloc(ranks + 1, sizeof(*r->ranks));
    r->rank_f16 = calloc(ranks + 1, sizeof(*r->rank_f16));
    r->order = calloc(info->expert_count, sizeof(*r->order));
    if (!r->experts || !r->weights || !r->guesses || !r->guess_f16 || !r->hidden || !r->ranks ||
        !r->rank_f16 || !r->order)
        return -ENOMEM;
    return 0;
}

static int recorder_init(struct recorder *r, const struct tool_record_options *options,
                         struct ps_model *model, struct tool_record_report *report)
{
    struct ps_model_info info;

    ps_model_info(model, &info);
    *r = (struct recorder){.report = report, .model_layers = info.layer_count};
    r->info.expert_count = info.expert_count;
    r->info.experts_used = options->experts_used > 0 ? options->experts_used : info.experts_used;
    r->info.rank_count = (uint32_t)ps_min_u64(options->rank_count, info.expert_count);
    r->info.depth_count = r->info.rank_count > 0 ? TOOL_TRACE_DEPTHS : 0;
    r->info.hidden = options->hidden ? info.hidden : 0;
    r->info.has_weights = true;
    snprintf(r->info.model, sizeof(r->info.model), "%s", info.name);
    report->experts_used = r->info.experts_used;
    report->rank_2k = (uint32_t)ps_min_u64(2 * r->info.experts_used, info.expert_count);
    r->width = (uint32_t)ps_max_u64(r->info.rank_count, report->rank_2k);
    int rc = layers_find(r, model);
    report->layer_count = r->info.layer_count;
    return rc < 0 ? rc : buffers_open(r);
}

/* ---- listeners --------------------------------------------------------------------------------
 */

/* The row of a token and layer in the buffers. */
static size_t row(const struct recorder *r, uint32_t layer, uint32_t position)
{
    return (size_t)(position - r->first_position) * r->info.layer_count + r->layer_idx[layer];
}

static void route_take(void *ctx, uint32_t layer, uint32_t position, uint32_t count,
                       const uint32_t *experts, const float *weights)
{
    struct recorder *r = ctx;
    size_t at = row(r, layer, position) * r->info.experts_used;

    for (uint32_t i = 0; i < count && i < r->info.experts_used; i++) {
        r->experts[at + i] = (uint16_t)experts[i];
        r->weights[at + i] = weights[i];
    }
}

/* Most probable first; of equals the one that comes first. */
static int ranked_compare(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->p != y->p)
        return x->p < y->p ? 1 : -1;
    return (int)x->expert - (int)y->expert;
}

static void guess_take(void *ctx, uint32_t layer, uint32_t depth, uint32_t position,
                       const float *probabilities)
{
    struct recorder *r = ctx;
    size_t at = (row(r, layer, position) * GUESS_COUNT + depth) * r->width;

    if (depth >= GUESS_COUNT)
        return;
    for (uint32_t e = 0; e < r->info.expert_count; e++)
        r->order[e] = (struct ranked){probabilities[e], (uint16_t)e};
    qsort(r->order, r->info.expert_count, sizeof(*r->order), ranked_compare);
    for (uint32_t i = 0; i < r->width; i++) {
        r->guesses[at + i] = r->order[i].expert;
        r->guess_f16[at + i] = ps_f32_to_f16(r->order[i].p);
    }
}

static void input_take(void *ctx, uint32_t layer, uint32_t position, const float *x)
{
    struct recorder *r = ctx;
    uint16_t *to = r->hidden + row(r, layer, position) * r->info.hidden;

    for (uint32_t i = 0; i < r->info.hidden; i++)
        to[i] = ps_f32_to_f16(fminf(fmaxf(x[i], -F16_MAX), F16_MAX));
}

/* ---- tokens -----------------------------------------------------------------------------------
 */

static void found_count(struct recorder *r, const uint16_t *experts, const uint16_t *guess,
                        uint32_t depth)
{
    struct tool_record_report *report = r->report;

    if (guess[0] == PS_TRACE_NONE)
        return;
    for (uint32_t i = 0; i < r->info.experts_used; i++) {
        report->chosen[depth]++;
        for (uint32_t j = 0; j < report->rank_2k; j++) {
            report->found_k[depth] += j < r->info.experts_used && guess[j] == experts[i];
            report->found_2k[depth] += guess[j] == experts[i];
        }
    }
}

/* Token t of those in work: counted, and written. */
static int token_write(struct recorder *r, uint32_t t, int32_t id, bool begins,
                       struct ps_error *err)
{
    const struct ps_trace_info *info = &r->info;
    size_t layers = info->layer_count, ranks = info->rank_count;
    size_t chosen = layers * info->experts_used;
    struct ps_trace_token token = {.id = (uint32_t)id,
                                   .begins = begins,
                                   .experts = r->experts + t * chosen,
                                   .weights = r->weights + t * chosen,
                                   .ranks = r->ranks,
                                   .rank_f16 = r->rank_f16,
                                   .hidden = r->hidden + t * layers * info->hidden};

    for (size_t l = 0; l < layers; l++) {
        for (uint32_t d = 0; d < GUESS_COUNT; d++) {
            size_t at = ((t * layers + l) * GUESS_COUNT + d) * r->width;
            size_t to = (l * TOOL_TRACE_DEPTHS + d - 1) * ranks;
            found_count(r, token.experts + l * info->experts_used, r->guesses + at, d);
            if (d == 0 || ranks == 0)
                continue;
            memcpy(r->ranks + to, r->guesses + at, ranks * sizeof(uint16_t));
            memcpy(r->rank_f16 + to, r->guess_f16 + at, ranks * sizeof(uint16_t));
        }
    }
    return ps_trace_writer_add(r->writer, &token, err);
}

static int step_run(struct recorder *r, struct ps_session *session, const int32_t *ids,
                    uint32_t count, struct ps_error *err)
{
    size_t layers = r->info.layer_count;
    int rc;

    r->first_position = ps_session_position(session);
    /* No guess, and none chosen, until the listeners hear of one: 0xffff is PS_TRACE_NONE. */
    memset(r->experts, 0xff, count * layers * r->info.experts_used * sizeof(*r->experts));
    memset(r->guesses, 0xff, count * layers * GUESS_COUNT * r->width * sizeof(*r->guesses));
    memset(r->guess_f16, 0, count * layers * GUESS_COUNT * r->width * sizeof(*r->guess_f16));
    rc = ps_session_eval(session, ids, count, NULL, NULL, err);
    for (uint32_t t = 0; rc >= 0 && t < count; t++)
        rc = token_write(r, t, ids[t], r->first_position + t == 0, err);
    return rc;
}

static int windows_run(struct recorder *r, const struct tool_record_options *options,
                       struct ps_session *session, const int32_t *ids, struct ps_error *err)
{
    struct tool_progress progress;
    uint64_t count = r->info.token_count;
    int rc = 0;

    tool_progress_init(&progress, "trace");
    for (uint64_t i = 0; rc >= 0 && i < count;) {
        uint32_t position = (uint32_t)(i % options->window);
        uint64_t most = ps_min_u64(count - i, options->window - position);
        uint32_t n = (uint32_t)ps_min_u64(most, r->step);
        if (position == 0)
            ps_session_reset(session);
        rc = step_run(r, session, ids + i, n, err);
        i += n;
        tool_progress_text(&progress, "trace: %llu of %llu tokens", (unsigned long long)i,
                           (unsigned long long)count);
    }
    tool_progress_end(&progress);
    return rc;
}

static int ids_get(const struct tool_record_options *options, const struct ps_model *model,
                   int32_t **ids, size_t *id_count, struct ps_error *err)
{
    char *text = NULL;
    size_t text_bytes;
    int rc = tool_text_read(options->file, &text, &text_bytes, err);

    if (rc == 0 && options->are_ids)
        rc = tool_ids_text_parse(text, text_bytes, ids, id_count, err);
    else if (rc == 0)
        rc = tool_tokenize(model, text, text_bytes, ids, id_count, err);
    free(text);
    if (rc == 0 && *id_count == 0)
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, options->file, "the text has no tokens");
    if (rc == 0 && options->tokens_max > 0)
        *id_count = ps_min_u64(*id_count, options->tokens_max);
    return rc;
}

static int trace_write(struct recorder *r, const struct tool_record_options *options,
                       struct ps_session *session, const int32_t *ids, struct ps_error *err)
{
    struct tool_output out;
    int rc = tool_output_open(&out, options->out, err);

    if (rc < 0)
        return rc;
    rc = ps_trace_writer_open(&r->writer, out.file, options->out, &r->info, err);
    if (rc >= 0) {
        ps_session_on_route(session, route_take, r);
        ps_session_on_guess(session, guess_take, r);
        ps_session_on_router_input(session, r->info.hidden > 0 ? input_take : NULL, r);
        rc = windows_run(r, options, session, ids, err);
        ps_session_on_route(session, NULL, NULL);
        ps_session_on_guess(session, NULL, NULL);
        ps_session_on_router_input(session, NULL, NULL);
    }
    if (rc >= 0)
        rc = ps_trace_writer_finish(r->writer, err);
    if (rc >= 0) {
        r->report->bytes = ps_trace_writer_bytes(r->writer);
        return tool_output_commit(&out, err);
    }
    tool_output_abandon(&out);
    return rc;
}

int tool_trace_record(const struct tool_record_options *options, struct ps_model *model,
                      struct ps_session *session, struct tool_record_report *report,
                      struct ps_error *err)
{
    struct recorder r = {0};
    int32_t *ids = NULL;
    size_t id_count = 0;
    int rc = ids_get(options, model, &ids, &id_count, err);

    *report = (struct tool_record_report){.tokens = id_count};
    if (rc == 0) {
        rc = recorder_init(&r, options, model, report);
        if (rc < 0)
            ps_error_set(err, rc, options->out, "not enough memory for the tokens in work");
    }
    if (rc == 0) {
        r.info.token_count = id_count;
        rc = trace_write(&r, options, session, ids, err);
    }
    recorder_fini(&r);
    free(ids);
    return rc;
}
