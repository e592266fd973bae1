/* penstock batch VOLUME... --in PROMPTS --out ANSWERS: answers many prompts, several together. */
#include "tools/batch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"

#define PARALLEL_MAX 256
#define PARALLEL_DEFAULT 16
#define DRAW_INTERVAL_NS 200000000u
#define LOG_INTERVAL_NS 60000000000u /* where standard error is no terminal */

enum { KEY_IN = 1, KEY_OUT, KEY_PARALLEL, KEY_STATS };

struct batch_args {
    struct tool_volume volume;
    struct ps_engine_options engine; /* sessions: 0 = as memory allows */
    struct batch_defaults defaults;
    const char *in, *out, *stats;
};

/* One request under generation. */
struct batch_item {
    struct batch_run *run;
    struct batch_item *before, *after; /* those in work */
    struct batch_request request;
    size_t idx;
    char *text;
    size_t text_bytes, text_room;
    json_t *ids; /* of the answer, where the prompt was given as ids; else NULL */
    uint32_t token_count;
    bool is_stopped; /* by one of its texts */
    int failure;     /* -errno */
};

struct batch_run {
    struct batch_input input;
    struct batch_answers answers;
    struct tool_progress progress;
    struct batch_item *items; /* in work */
    uint32_t ctx;
    size_t next_idx;
    size_t answer_count, error_count; /* of this run */
    uint64_t prompt_tokens, answer_tokens;
    uint64_t begin_ns, drawn_ns;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct batch_args *args = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        state->child_inputs[1] = &args->engine;
        state->child_inputs[2] = &args->defaults.sampling;
        return 0;
    case KEY_IN:
        args->in = arg;
        return 0;
    case KEY_OUT:
        args->out = arg;
        return 0;
    case KEY_PARALLEL:
        args->engine.sessions = (uint32_t)tool_number(state, "--parallel", arg, 1, PARALLEL_MAX);
        return 0;
    case 'n':
        args->defaults.max_tokens = (uint32_t)tool_number(state, "-n", arg, 1, UINT32_MAX);
        return 0;
    case KEY_STATS:
        args->stats = arg;
        return 0;
    case ARGP_KEY_END:
        if (args->in == NULL || args->out == NULL)
            argp_error(state, "--in and --out are needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"in", KEY_IN, "FILE", 0, "requests, one JSON object a line, with \"prompt\" or \"messages\"",
     1},
    {"out", KEY_OUT, "FILE", 0,
     "answers, one a line, are appended to FILE as they are finished; those that are there already "
     "are not computed again",
     1},
    {"parallel", KEY_PARALLEL, "N", 0,
     "sequences that are computed together (default: up to 16, as memory allows)", 1},
    {"tokens", 'n', "N", 0,
     "at most N tokens for a request that does not say (default: until the model ends or the "
     "context is full)",
     1},
    {"stats", KEY_STATS, "FILE", 0, "write the statistics to FILE as JSON", 3},
    {0}};
static const struct argp_child children[] = {{&tool_volume_argp, 0, "Volume:", 9},
                                             {&tool_engine_argp, 0, "Memory, disk, processor:", 8},
                                             {&tool_sampling_argp, 0, "Sampling:", 2},
                                             {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .doc = "Answers the requests in a file, several together, so that each expert is read once for "
           "all of them. What was stopped, or killed, goes on when the same command is given "
           "again. A request's sampling settings stand before the options."};

/* ---- progress ---------------------------------------------------------------------------------
 */

static size_t done_count(const struct batch_run *run)
{
    return run->answers.found_count + run->answer_count + run->error_count;
}

static void progress_draw(struct batch_run *run)
{
    uint64_t now = ps_now_ns(), passed = now - run->begin_ns;
    size_t done = done_count(run), total = run->input.line_count;
    char left[48] = "", time[32];

    if (now - run->drawn_ns < (run->progress.shown ? DRAW_INTERVAL_NS : LOG_INTERVAL_NS))
        return;
    run->drawn_ns = now;
    if (run->answer_count > 0)
        snprintf(left, sizeof(left), "  %s left",
                 tool_time_text((uint64_t)((double)passed / (double)run->answer_count *
                                           (double)(total - done)),
                                time));
    if (run->progress.shown)
        tool_progress_text(&run->progress, "answered %zu of %zu  %.1f tokens/s%s", done, total,
                           tool_rate(run->answer_tokens, passed), left);
    else
        fprintf(stderr, "answered %zu of %zu  %.1f tokens/s%s\n", done, total,
                tool_rate(run->answer_tokens, passed), left);
}

/* ---- one request ------------------------------------------------------------------------------
 */

static void item_free(struct batch_item *item)
{
    *(item->before != NULL ? &item->before->after : &item->run->items) = item->after;
    if (item->after != NULL)
        item->after->before = item->before;
    batch_request_fini(&item->request);
    json_decref(item->ids);
    free(item->text);
    free(item);
}

static int item_append(struct batch_item *item, const char *text, size_t text_bytes)
{
    if (item->text_room - item->text_bytes < text_bytes) {
        size_t room = 2 * item->text_room + text_bytes + 256;
        char *grown = realloc(item->text, room);
        if (grown == NULL)
            return -ENOMEM;
        item->text = grown;
        item->text_room = room;
    }
    if (text_bytes > 0)
        memcpy(item->text + item->text_bytes, text, text_bytes);
    item->text_bytes += text_bytes;
    return 0;
}

/* Cuts the text off where one of the texts that end it begins. added: bytes that are new. */
static bool item_cut(struct batch_item *item, size_t added)
{
    size_t cut = SIZE_MAX;

    for (int i = 0; i < item->request.stop_count; i++) {
        size_t bytes = strlen(item->request.stops[i]), known = item->text_bytes - added;
        size_t from = known >= bytes ? known - bytes + 1 : 0;
        const char *at = added == 0 ? NULL
                                    : memmem(item->text + from, item->text_bytes - from,
                                             item->request.stops[i], bytes);
        if (at != NULL && (size_t)(at - item->text) < cut)
            cut = (size_t)(at - item->text);
    }
    if (cut == SIZE_MAX)
        return false;
    item->text_bytes = cut;
    return true;
}

static int token_take(void *ctx, int32_t id, const char *text, size_t text_bytes)
{
    struct batch_item *item = ctx;

    item->token_count++;
    item->run->answer_tokens++;
    item->failure = item_append(item, text, text_bytes);
    if (item->failure == 0 && item->ids != NULL &&
        json_array_append_new(item->ids, json_integer(id)) != 0)
        item->failure = -ENOMEM;
    item->is_stopped = item_cut(item, text_bytes);
    progress_draw(item->run);
    return item->failure < 0 || item->is_stopped || tool_stop_status() != 0;
}

/* "id" first, as far as there is one. */
static json_t *answer_begin(const struct batch_request *request)
{
    json_t *answer = json_object();

    if (answer != NULL && request->id != NULL)
        json_object_set(answer, "id", request->id);
    return answer;
}

static int answer_add(struct batch_item *item, bool is_end, struct ps_error *err)
{
    const struct batch_request *request = &item->request;
    json_t *answer = answer_begin(request);
    json_t *usage = json_pack("{s:I, s:I, s:I}", "prompt_tokens", (json_int_t)request->prompt_count,
                              "completion_tokens", (json_int_t)item->token_count, "total_tokens",
                              (json_int_t)request->prompt_count + item->token_count);

    json_object_set_new(answer, "text",
                        json_stringn(item->text == NULL ? "" : item->text, item->text_bytes));
    if (item->ids != NULL)
        json_object_set(answer, "ids", item->ids);
    json_object_set_new(answer, "finish_reason", json_string(is_end ? "stop" : "length"));
    if (request->sampling.temperature > 0)
        json_object_set_new(answer, "seed", json_integer((json_int_t)request->sampling.seed));
    json_object_set_new(answer, "usage", usage);
    return batch_answers_add(&item->run->answers, &item->run->input, item->idx, answer, err);
}

static int item_end(void *ctx, int reason, struct ps_error *err)
{
    struct batch_item *item = ctx;
    struct batch_run *run = item->run;
    int rc = 0;

    if (item->failure < 0)
        rc = ps_error_set(err, item->failure, NULL, "not enough memory for an answer");
    else if (reason == PS_STOP_CALLER && !item->is_stopped)
        rc = ps_error_set(err, -EINTR, NULL, "stopped");
    else
        rc = answer_add(item, reason == PS_STOP_END || item->is_stopped, err);
    if (rc == 0) {
        run->answer_count++;
        run->prompt_tokens += item->request.prompt_count;
        run->input.lines[item->idx].is_done = true;
    }
    item_free(item);
    return rc;
}

/* What no context holds is answered at once. */
static int refuse_long(struct batch_run *run, const struct batch_item *item, struct ps_error *err)
{
    json_t *answer = answer_begin(&item->request);
    char text[128];

    snprintf(text, sizeof(text), "the prompt has %zu tokens, and the context holds %" PRIu32,
             item->request.prompt_count, run->ctx);
    json_object_set_new(
        answer, "error",
        json_pack("{s:s, s:s}", "code", "context_length_exceeded", "message", text));
    int rc = batch_answers_add(&run->answers, &run->input, item->idx, answer, err);
    run->error_count += rc == 0;
    return rc;
}

static struct batch_item *item_make(struct batch_run *run, struct ps_error *err)
{
    struct batch_item *item = calloc(1, sizeof(*item));

    if (item == NULL) {
        ps_error_set(err, -ENOMEM, NULL, "not enough memory for a request");
        return NULL;
    }
    item->run = run;
    item->after = run->items;
    if (item->after != NULL)
        item->after->before = item;
    run->items = item;
    item->idx = run->next_idx++;
    if (batch_input_read(&run->input, item->idx, &item->request, err) < 0) {
        item_free(item);
        return NULL;
    }
    if (item->request.from_ids)
        item->ids = json_array();
    if (!item->request.has_seed && item->request.sampling.temperature > 0)
        item->request.sampling.seed = tool_seed_make();
    return item;
}

static int item_next(void *ctx, struct ps_generation *generation, struct ps_error *err)
{
    struct batch_run *run = ctx;

    for (;;) {
        while (run->next_idx < run->input.line_count && run->input.lines[run->next_idx].is_done)
            run->next_idx++;
        if (run->next_idx == run->input.line_count)
            return 0;
        struct batch_item *item = item_make(run, err);
        if (item == NULL)
            return err->code;
        if (item->request.prompt_count <= run->ctx) {
            *generation = (struct ps_generation){.prompt = item->request.prompt,
                                                 .prompt_count = item->request.prompt_count,
                                                 .max_tokens = item->request.max_tokens,
                                                 .sampling = item->request.sampling,
                                                 .ctx = item};
            return 1;
        }
        int rc = refuse_long(run, item, err);
        item_free(item);
        if (rc < 0)
            return rc;
    }
}

/* ---- the whole --------------------------------------------------------------------------------
 */

/* What the answers depend on beside the requests, with defaults resolved: another model, or other
 * options, do not add to the same answers. A window as long as the context is none. */
static void settings_text(const struct batch_args *args, struct ps_model *model, uint32_t ctx,
                          char *text, size_t text_bytes)
{
    const struct tool_sampling *s = &args->defaults.sampling;
    const struct ps_engine_options *o = &args->engine;
    struct ps_model_info info;

    ps_model_info(model, &info);
    snprintf(text, text_bytes,
             "%016" PRIx64 "|%u|%s|%s|%u|%u|%u|%.9g|%.9g|%.9g|%.9g|%lld|%d|%" PRIu64,
             ps_volume_content(ps_model_volume(model)),
             o->experts_used != 0 ? o->experts_used : info.experts_used, o->activations,
             o->kv != NULL ? o->kv : "f16", o->kv_window < ctx ? o->kv_window : 0, ctx,
             args->defaults.max_tokens, s->temperature, s->top_p, s->min_p, s->repeat_penalty,
             (long long)s->top_k, (int)s->has_seed, s->seed);
}

/* As many sequences as there are requests left, at most 16, whose states take no more than a
 * quarter of what is free beyond the floor of one: what they take is lost to the expert cache. */
static uint32_t parallel_choose(struct ps_model *model, const struct ps_engine_options *asked,
                                size_t left)
{
    struct ps_engine_options o = *asked;
    struct ps_plan one, many;
    uint32_t n = left < PARALLEL_DEFAULT ? (uint32_t)left : PARALLEL_DEFAULT;

    o.sessions = 1;
    if (n <= 1 || ps_model_plan(model, &o, &one, NULL) < 0)
        return 1;
    for (; n > 1; n--) {
        o.sessions = n;
        if (ps_model_plan(model, &o, &many, NULL) >= 0 &&
            many.floor_bytes - one.floor_bytes <= (one.budget_bytes - one.floor_bytes) / 4)
            break;
    }
    return n;
}

static json_t *stats_json(const struct batch_run *run, const struct ps_engine_stats *stats,
                          uint32_t parallel, uint64_t ns)
{
    json_t *json = tool_stats_json(stats);
    json_t *batch = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "requests",
        (json_int_t)run->input.line_count, "answered_before", (json_int_t)run->answers.found_count,
        "answered", (json_int_t)run->answer_count, "refused", (json_int_t)run->error_count,
        "parallel", (json_int_t)parallel, "prompt_tokens", (json_int_t)run->prompt_tokens,
        "answer_tokens", (json_int_t)run->answer_tokens, "seconds", (double)ns / 1e9,
        "answer_tokens_per_s", tool_rate(run->answer_tokens, ns));

    if (json != NULL)
        json_object_set_new(json, "batch", batch);
    return json;
}

static int report(const struct batch_run *run, const struct ps_engine *engine, uint32_t parallel,
                  struct tool_output *out, struct ps_error *err)
{
    uint64_t ns = ps_now_ns() - run->begin_ns;
    struct ps_engine_stats stats;
    char time[32], tokens[32];
    int rc = 0;

    ps_engine_stats(engine, &stats);
    fprintf(stderr, "  %-9s %zu of %zu", "answered", done_count(run), run->input.line_count);
    if (run->answers.found_count > 0)
        fprintf(stderr, ", %zu of them before", run->answers.found_count);
    if (run->error_count > 0)
        fprintf(stderr, ", %zu refused: their prompts are longer than the context",
                run->error_count);
    fprintf(stderr, "\n  %-9s %s tokens in %s, %" PRIu32 " sequences together: %.2f tokens/s\n",
            "batch", tool_count_text(run->answer_tokens, tokens), tool_time_text(ns, time),
            parallel, tool_rate(run->answer_tokens, ns));
    tool_stats_print(&stats);
    if (tool_stop_status() != 0)
        fputs("  stopped   the same command goes on\n", stderr);
    if (out->file != NULL) {
        json_t *json = stats_json(run, &stats, parallel, ns);
        json_dumpf(json, out->file, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        fputc('\n', out->file);
        json_decref(json);
        rc = tool_output_commit(out, err);
    }
    return rc;
}

static int generate(struct batch_run *run, struct batch_args *args, struct ps_model *model,
                    struct ps_error *err)
{
    struct ps_generate_options generate_options = {
        .next = item_next, .next_ctx = run, .on_token = token_take, .on_end = item_end};
    size_t left = run->input.line_count - run->answers.found_count;
    struct tool_output stats = {0};
    struct ps_session *session = NULL;
    struct ps_engine *engine = NULL;

    if (args->engine.sessions == 0)
        args->engine.sessions = parallel_choose(model, &args->engine, left);
    int rc = tool_engine_open(&engine, &session, model, &args->engine, err);
    if (rc < 0)
        return rc;
    ps_session_close(&session); /* the batch opens its own */
    /* Now, so that a bad name is not found only after a night. */
    rc = args->stats != NULL ? tool_output_open(&stats, args->stats, err) : 0;
    if (rc == 0) {
        tool_progress_init(&run->progress, "answered");
        run->begin_ns = ps_now_ns();
        run->drawn_ns = run->begin_ns;
        rc = ps_engine_generate(engine, &generate_options, err);
        tool_progress_end(&run->progress);
        while (run->items != NULL)
            item_free(run->items);
        struct ps_error late = {0};
        int late_rc = batch_answers_sync(&run->answers, &late);
        if (rc == -EINTR && tool_stop_status() != 0)
            rc = 0;
        if (rc == 0 && late_rc < 0) {
            rc = late_rc;
            *err = late;
        }
        if (rc == 0)
            rc = report(run, engine, args->engine.sessions, &stats, err);
    }
    tool_output_abandon(&stats);
    ps_engine_close(&engine);
    return rc;
}

static int batch(struct batch_args *args, struct ps_model *model)
{
    struct batch_run run = {.input.fd = -1, .answers.fd = -1};
    char settings[512];
    struct ps_error err = {0};
    struct ps_plan plan;

    /* Too little memory is no hindrance yet: there may be nothing left to do. */
    int rc = ps_model_plan(model, &args->engine, &plan, &err);
    if (rc < 0 && rc != -PS_ERR_MEMORY_FLOOR)
        return tool_fail(&err);
    run.ctx = plan.ctx;
    settings_text(args, model, run.ctx, settings, sizeof(settings));
    rc = batch_input_open(&run.input, args->in, model, &args->defaults, settings, args->engine.stop,
                          &err);
    if (rc == 0)
        rc = batch_answers_open(&run.answers, args->out, &run.input, &err);
    if (rc == 0 && run.answers.found_count == run.input.line_count)
        fprintf(stderr, "  %-9s %zu of %zu: nothing is left to do\n", "answered",
                run.answers.found_count, run.input.line_count);
    else if (rc == 0)
        rc = generate(&run, args, model, &err);
    batch_answers_close(&run.answers);
    batch_input_close(&run.input);
    return rc < 0 ? tool_end(rc, &err) : tool_stop_status();
}

static int names_check(const struct batch_args *args, struct ps_error *err)
{
    const struct tool_name names[] = {
        {"--in", args->in, true},
        {"--predictor-file", args->engine.predictor_file, true},
        {"--out", args->out, false},
        {"--stats", args->stats, false},
    };

    return tool_names_check(names, PS_ARRAY_LEN(names), err);
}

int cmd_batch(int argc, char **argv)
{
    struct batch_args args = {
        .engine.activations = "q8",
        .engine.predictor = "gate",
        .defaults = {.max_tokens = UINT32_MAX, .sampling = TOOL_SAMPLING_OWN},
    };
    struct ps_model *model = NULL;
    struct ps_error err = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    if (names_check(&args, &err) < 0 || tool_model_open(&model, &args.volume, &err) < 0)
        return tool_fail(&err);
    args.engine.stop = tool_stop_flag();
    int status = batch(&args, model);
    ps_model_close(&model);
    return status;
}
