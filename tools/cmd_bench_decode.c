/*
 * penstock bench decode VOLUME: how fast prompts are read and tokens are made, with the same tokens
 * every time. With room for all experts the rounds that are timed read nothing, so what is measured
 * is arithmetic and memory.
 */
#include "tools/timeline.h"
#include "tools/tool.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/budget.h"
#include "core/timeline.h"
#include "core/util.h"

#define ROUNDS_MAX 101
#define TOKENS_MAX (1u << 20)

enum { KEY_PROMPT = 1, KEY_TOKENS, KEY_REPEAT, KEY_IDS, KEY_JSON };

struct decode_args {
    struct tool_volume volume;
    struct ps_engine_options engine;
    struct tool_timeline timeline;
    uint32_t prompt, tokens, rounds;
    const char *ids; /* NULL: the fixed sequence */
    bool json;
};

/* Of all rounds that were timed. */
struct phase {
    uint64_t ns[ROUNDS_MAX];
    uint64_t streamed_bytes; /* of experts */
    uint64_t total_ns, wait_ns, expert_ns, shared_ns;
    uint64_t hits, misses, guesses_read, guesses_right;
    uint64_t guesses_right_bytes, guesses_vain_bytes, guesses_read_bytes;
};

#define READS_MAX 64

/* How many layers of the tokens decoded had to wait for the reads of so many experts, which nobody
 * had guessed, or not in time; parts of one are rounded. */
struct waits {
    struct ps_engine *engine;
    uint64_t expert_bytes;
    uint64_t before_bytes; /* read on demand until the layer before was routed */
    bool has_begun;
    uint64_t layers[READS_MAX + 1];
};

/* What the layers chose in the first round, for the oracle of the others. */
struct routes {
    uint32_t layer_count, experts_used, position_count;
    uint32_t *experts; /* [position_count, layer_count, experts_used] */
};

struct measurement {
    struct decode_args args;
    struct phase prefill, decode;
    struct routes routes;
    struct waits waits;
    struct ps_engine_stats stats; /* of the end */
    uint64_t logits_hash;         /* of the last token: what came before is in it */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct decode_args *args = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        state->child_inputs[1] = &args->engine;
        state->child_inputs[2] = &args->timeline;
        return 0;
    case KEY_PROMPT:
        args->prompt = (uint32_t)tool_number(state, "--prompt", arg, 1, TOKENS_MAX);
        return 0;
    case KEY_TOKENS:
        args->tokens = (uint32_t)tool_number(state, "--tokens", arg, 1, TOKENS_MAX);
        return 0;
    case KEY_REPEAT:
        args->rounds = (uint32_t)tool_number(state, "--repeat", arg, 1, ROUNDS_MAX);
        return 0;
    case KEY_IDS:
        args->ids = arg;
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"prompt", KEY_PROMPT, "N", 0, "tokens of the prompt (512)", 1},
    {"tokens", KEY_TOKENS, "N", 0, "tokens after it, one by one (64)", 1},
    {"repeat", KEY_REPEAT, "N", 0, "rounds that are timed, after one that is not (5)", 1},
    {"ids", KEY_IDS, "FILE", 0,
     "token ids to take instead of the fixed ones, separated by commas or blanks", 1},
    {"json", KEY_JSON, NULL, 0, "print the result as JSON", 1},
    {0}};
static const struct argp_child children[] = {{&tool_volume_argp, 0, "Volume:", 7},
                                             {&tool_engine_argp, 0, "Memory, disk, processor:", 6},
                                             {&tool_timeline_argp, 0, "Timeline:", 5},
                                             {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .doc = "Evaluates a prompt and then tokens one by one, the same fixed sequence in every round, "
           "and prints the medians of tokens/s of both. Says what was read from the drives "
           "meanwhile: nothing, when --memory has room for all experts. With --predictor oracle "
           "the experts that the first round chose are read ahead in the others: what guesses "
           "could win at most."};

/* ---- the rounds ------------------------------------------------------------------------------ */

static uint32_t *route_at(const struct routes *r, uint32_t layer, uint32_t position)
{
    return r->experts + ((size_t)position * r->layer_count + layer) * r->experts_used;
}

static void route_take(void *ctx, uint32_t layer, uint32_t position, uint32_t count,
                       const uint32_t *experts, const float *weights)
{
    const struct routes *r = ctx;

    (void)weights;
    memcpy(route_at(r, layer, position), experts, count * sizeof(*experts));
}

static uint32_t route_tell(void *ctx, uint32_t layer, uint32_t position, uint32_t *experts)
{
    const struct routes *r = ctx;

    if (position >= r->position_count)
        return 0;
    memcpy(experts, route_at(r, layer, position), r->experts_used * sizeof(*experts));
    return r->experts_used;
}

static int routes_begin(struct measurement *m, const struct ps_model_info *info,
                        struct ps_session *session, struct ps_error *err)
{
    struct routes *r = &m->routes;

    if (m->args.engine.predictor == NULL || strcmp(m->args.engine.predictor, "oracle") != 0)
        return 0;
    r->layer_count = info->layer_count;
    r->experts_used =
        m->args.engine.experts_used > 0 ? m->args.engine.experts_used : info->experts_used;
    r->position_count = m->args.prompt + m->args.tokens;
    r->experts =
        calloc((size_t)r->position_count * r->layer_count, r->experts_used * sizeof(*r->experts));
    if (r->experts == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory for the routes of %u tokens",
                            r->position_count);
    ps_session_on_route(session, route_take, r);
    return 0;
}

/* The first round has told all. */
static void routes_tell(struct measurement *m, struct ps_session *session)
{
    if (m->routes.experts == NULL)
        return;
    ps_session_on_route(session, NULL, NULL);
    ps_session_oracle(session, route_tell, &m->routes);
}

/* What was read since the last layer was routed, that layer has waited for. */
static void waits_note(struct waits *w)
{
    struct ps_store_stats stats;

    ps_engine_store_stats(w->engine, &stats);
    uint64_t bytes = stats.streamed_bytes - stats.prefetch_bytes;
    if (w->has_begun)
        w->layers[ps_min_u64(
            (uint64_t)((double)(bytes - w->before_bytes) / (double)w->expert_bytes + 0.5),
            READS_MAX)]++;
    w->before_bytes = bytes;
    w->has_begun = true;
}

static void waits_take(void *ctx, uint32_t layer, uint32_t position, uint32_t count,
                       const uint32_t *experts, const float *weights)
{
    (void)layer, (void)position, (void)count, (void)experts, (void)weights;
    waits_note(ctx);
}

static void waits_begin(struct waits *w, struct ps_session *session)
{
    w->has_begun = false;
    ps_session_on_route(session, waits_take, w);
}

/* The last layer has waited, too. */
static void waits_end(struct waits *w, struct ps_session *session)
{
    ps_session_on_route(session, NULL, NULL);
    waits_note(w);
}

/* Adds what has happened between two looks. */
static void phase_add(struct phase *phase, const struct ps_engine_stats *before,
                      const struct ps_engine_stats *after)
{
    phase->streamed_bytes += after->store.streamed_bytes - before->store.streamed_bytes;
    phase->wait_ns += after->store.wait_ns - before->store.wait_ns;
    phase->expert_ns += after->expert_ns - before->expert_ns;
    phase->shared_ns += after->shared_ns - before->shared_ns;
    phase->hits += after->store.hits - before->store.hits;
    phase->misses += after->store.misses - before->store.misses;
    phase->guesses_read += after->guesses_read - before->guesses_read;
    phase->guesses_right += after->guesses_right - before->guesses_right;
    phase->guesses_right_bytes += after->guesses_right_bytes - before->guesses_right_bytes;
    phase->guesses_vain_bytes += after->guesses_vain_bytes - before->guesses_vain_bytes;
    phase->guesses_read_bytes += after->store.prefetch_bytes - before->store.prefetch_bytes;
}

/* Evaluates `count` tokens in calls of `step` and notes the time and what was read. */
static int phase_run(struct ps_engine *engine, struct ps_session *session, const int32_t *ids,
                     uint32_t count, uint32_t step, struct phase *phase, uint32_t round,
                     struct ps_error *err)
{
    struct ps_engine_stats before, after;
    int rc = 0;

    ps_engine_stats(engine, &before);
    uint64_t begin_ns = ps_now_ns();
    for (uint32_t i = 0; i < count && rc >= 0; i += step)
        rc = ps_session_eval(session, ids + i, step, NULL, NULL, err);
    phase->ns[round] = ps_now_ns() - begin_ns;
    phase->total_ns += phase->ns[round];
    ps_engine_stats(engine, &after);
    phase_add(phase, &before, &after);
    return rc;
}

/* The first round is not timed: it fetches experts and faults memory in. */
static int rounds_run(struct measurement *m, struct ps_engine *engine, struct ps_session *session,
                      const int32_t *ids, size_t logits_bytes, struct ps_error *err)
{
    const struct decode_args *args = &m->args;
    int rc = 0;

    for (uint32_t i = 0; i <= args->rounds && rc >= 0; i++) {
        uint32_t round = i > 0 ? i - 1 : 0;
        if (i <= 1) {
            m->prefill = (struct phase){.ns = {0}};
            m->decode = (struct phase){.ns = {0}};
        }
        if (i == 1)
            routes_tell(m, session);
        ps_session_reset(session);
        if (ps_engine_timeline(engine) != NULL)
            ps_timeline_reset(ps_engine_timeline(engine));
        rc = phase_run(engine, session, ids, args->prompt, args->prompt, &m->prefill, round, err);
        if (rc >= 0 && i > 0)
            waits_begin(&m->waits, session);
        if (rc >= 0)
            rc = phase_run(engine, session, ids + args->prompt, args->tokens, 1, &m->decode, round,
                           err);
        if (rc >= 0 && i > 0)
            waits_end(&m->waits, session);
    }
    ps_engine_stats(engine, &m->stats);
    if (rc >= 0)
        m->logits_hash = XXH3_64bits(ps_session_logits(session), logits_bytes);
    return rc;
}

static int ids_get(const struct decode_args *args, uint32_t vocab_rows, int32_t **ids,
                   struct ps_error *err)
{
    uint32_t count = args->prompt + args->tokens;
    char *text = NULL;
    size_t text_bytes, id_count;
    int rc;

    if (args->ids == NULL)
        return tool_ids_fixed(count, vocab_rows, ids, err);
    rc = tool_text_read(args->ids, &text, &text_bytes, err);
    if (rc == 0)
        rc = tool_ids_text_parse(text, text_bytes, ids, &id_count, err);
    free(text);
    if (rc == 0 && id_count < count)
        rc =
            ps_error_set(err, -PS_ERR_ARGUMENT, args->ids,
                         "holds %zu token ids, and --prompt and --tokens take %u", id_count, count);
    return rc;
}

static int measure(struct measurement *m, struct ps_model *model, struct ps_error *err)
{
    struct decode_args *args = &m->args;
    struct ps_session *session = NULL;
    struct ps_engine *engine = NULL;
    struct ps_model_info info;
    int32_t *ids = NULL;
    int rc;

    ps_model_info(model, &info);
    if (args->engine.ctx == 0)
        args->engine.ctx = args->prompt + args->tokens;
    if (args->engine.ctx < args->prompt + args->tokens)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--ctx",
                            "a context of %u does not hold --prompt and --tokens, %u together",
                            args->engine.ctx, args->prompt + args->tokens);
    args->engine.prompt_tokens = args->prompt;
    rc = ids_get(args, info.vocab_rows, &ids, err);
    if (rc == 0)
        rc = tool_timeline_open(&args->timeline, &args->engine, err);
    if (rc == 0)
        rc = tool_engine_open(&engine, &session, model, &args->engine, err);
    m->waits.engine = engine;
    m->waits.expert_bytes = info.expert_bytes_max;
    if (rc == 0)
        rc = routes_begin(m, &info, session, err);
    if (rc == 0)
        rc = rounds_run(m, engine, session, ids, info.vocab_rows * sizeof(float), err);
    if (rc >= 0)
        rc = tool_timeline_write(&args->timeline, engine, model, err);
    tool_timeline_abandon(&args->timeline);
    ps_session_close(&session);
    ps_engine_close(&engine);
    free(m->routes.experts);
    free(ids);
    return rc;
}

/* ---- results ----------------------------------------------------------------------------------
 */

/* The k-th slowest round in tokens/s. */
static double rate_of(const struct measurement *m, const struct phase *phase, uint32_t k)
{
    uint32_t tokens = phase == &m->prefill ? m->args.prompt : m->args.tokens;
    return tool_rate(tokens, phase->ns[m->args.rounds - 1 - k]);
}

static void phase_print(const struct measurement *m, const struct phase *phase, const char *name)
{
    uint32_t rounds = m->args.rounds;

    printf("%-9s %10.2f tokens/s (%.2f-%.2f), %u tokens\n", name, rate_of(m, phase, rounds / 2),
           rate_of(m, phase, 0), rate_of(m, phase, rounds - 1),
           phase == &m->prefill ? m->args.prompt : m->args.tokens);
}

static void result_print(const struct measurement *m)
{
    uint64_t streamed = m->prefill.streamed_bytes + m->decode.streamed_bytes;
    char size[32];

    phase_print(m, &m->prefill, "prefill");
    phase_print(m, &m->decode, "decode");
    if (streamed == 0)
        printf("read      nothing: all experts needed were in memory\n");
    else
        printf("read      %s of experts from the drives\n",
               ps_size_text(streamed, size, sizeof(size)));
    printf("compute   %d threads, %s; %u rounds, medians\n", m->stats.threads, m->stats.cpu,
           m->args.rounds);
}

static json_t *phase_json(const struct measurement *m, const struct phase *phase)
{
    uint32_t rounds = m->args.rounds;

    return json_pack(
        "{s:I, s:{s:f, s:f, s:f}, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
        "tokens", (json_int_t)(phase == &m->prefill ? m->args.prompt : m->args.tokens),
        "tokens_per_s", "median", rate_of(m, phase, rounds / 2), "least", rate_of(m, phase, 0),
        "most", rate_of(m, phase, rounds - 1), "streamed_bytes", (json_int_t)phase->streamed_bytes,
        "total_ns", (json_int_t)phase->total_ns, "wait_ns", (json_int_t)phase->wait_ns, "expert_ns",
        (json_int_t)phase->expert_ns, "shared_ns", (json_int_t)phase->shared_ns, "hits",
        (json_int_t)phase->hits, "misses", (json_int_t)phase->misses, "guesses_read",
        (json_int_t)phase->guesses_read, "guesses_right", (json_int_t)phase->guesses_right,
        "guesses_right_bytes", (json_int_t)phase->guesses_right_bytes, "guesses_vain_bytes",
        (json_int_t)phase->guesses_vain_bytes, "guesses_read_bytes",
        (json_int_t)phase->guesses_read_bytes);
}

/* Up to the most that there was. */
static json_t *waits_json(const struct waits *w)
{
    json_t *list = json_array();
    int most = READS_MAX;

    while (most > 0 && w->layers[most] == 0)
        most--;
    for (int i = 0; i <= most; i++)
        json_array_append_new(list, json_integer((json_int_t)w->layers[i]));
    return list;
}

static json_t *result_json(const struct measurement *m)
{
    json_t *decode = phase_json(m, &m->decode);
    char hash[17];

    json_object_set_new(decode, "layers_by_reads", waits_json(&m->waits));
    snprintf(hash, sizeof(hash), "%016" PRIx64, m->logits_hash);
    return json_pack("{s:o, s:o, s:s, s:I, s:I, s:I, s:s}", "prefill", phase_json(m, &m->prefill),
                     "decode", decode, "logits_hash", hash, "slots",
                     (json_int_t)m->stats.store.slot_count, "rounds", (json_int_t)m->args.rounds,
                     "threads", (json_int_t)m->stats.threads, "cpu", m->stats.cpu);
}

int cmd_bench_decode(int argc, char **argv)
{
    static struct measurement m = {
        .args = {.engine.activations = "q8", .prompt = 512, .tokens = 64, .rounds = 5}};
    struct ps_model *model = NULL;
    struct ps_error err = {0};
    int status = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &m.args);
    m.args.engine.stop = tool_stop_flag();
    const struct tool_name names[] = {{"--ids", m.args.ids, true},
                                      {"--predictor-file", m.args.engine.predictor_file, true},
                                      {"--timeline", m.args.timeline.path, false}};
    int rc = tool_names_check(names, PS_ARRAY_LEN(names), &err);
    if (rc == 0)
        rc = tool_model_open(&model, &m.args.volume, &err);
    if (rc == 0)
        rc = measure(&m, model, &err);
    if (rc >= 0) {
        qsort(m.prefill.ns, m.args.rounds, sizeof(uint64_t), ps_compare_u64);
        qsort(m.decode.ns, m.args.rounds, sizeof(uint64_t), ps_compare_u64);
    }
    if (rc < 0)
        status = tool_end(rc, &err);
    else if (m.args.json)
        status = tool_json_print(result_json(&m));
    else
        result_print(&m);
    ps_model_close(&model);
    return status;
}
