/* penstock run VOLUME... -p TEXT: generates text. */
#include "tools/session_file.h"
#include "tools/timeline.h"
#include "tools/tool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"

enum { KEY_CHAT = 1, KEY_SYSTEM, KEY_NO_THINK, KEY_IDS, KEY_SESSION, KEY_STATS, KEY_JSON };

struct run_args {
    struct tool_volume volume;
    struct ps_engine_options engine;
    struct tool_timeline timeline;
    const char *prompt, *system, *ids, *session_path, *stats;
    struct tool_session_file session;
    uint32_t token_count;
    struct tool_sampling sampling;
    bool chat, no_think, json;
};

struct generation {
    FILE *out; /* NULL: into text and ids, for JSON */
    json_t *ids;
    char *text;
    size_t text_bytes, text_room;
    uint32_t token_count;
    char last;
    int failure; /* -errno of writing or of memory */
    struct tool_output stats;
};

static void args_check(const struct run_args *args, struct argp_state *state)
{
    bool none = args->prompt == NULL && args->ids == NULL;

    if ((args->prompt != NULL && args->ids != NULL) || (none && args->session_path == NULL))
        argp_error(state, "give a prompt: -p TEXT (\"-\" reads it from standard input) or --ids");
    if (args->chat && args->prompt == NULL)
        argp_error(state, "--chat needs -p TEXT");
    if (!args->chat && (args->no_think || args->system != NULL))
        argp_error(state, "--no-think and --system need --chat");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct run_args *args = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        state->child_inputs[1] = &args->engine;
        state->child_inputs[2] = &args->timeline;
        state->child_inputs[3] = &args->sampling;
        return 0;
    case 'p':
        args->prompt = arg;
        return 0;
    case 'n':
        args->token_count = (uint32_t)tool_number(state, "-n", arg, 1, UINT32_MAX);
        return 0;
    case KEY_IDS:
        args->ids = arg;
        return 0;
    case KEY_CHAT:
        args->chat = true;
        return 0;
    case KEY_SYSTEM:
        args->system = arg;
        return 0;
    case KEY_NO_THINK:
        args->no_think = true;
        return 0;
    case KEY_SESSION:
        args->session_path = arg;
        return 0;
    case KEY_STATS:
        args->stats = arg;
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    case ARGP_KEY_END:
        args_check(args, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"prompt", 'p', "TEXT", 0, "the text to continue; - reads it from standard input", 1},
    {"ids", KEY_IDS, "IDS", 0, "a prompt of token ids (1,2,3) instead of text", 1},
    {"tokens", 'n', "N", 0,
     "at most N tokens (default: until the model ends or the context is full)", 1},
    {"chat", KEY_CHAT, NULL, 0, "put TEXT through the model's chat template", 1},
    {"system", KEY_SYSTEM, "TEXT", 0, "system message for --chat", 1},
    {"no-think", KEY_NO_THINK, NULL, 0, "with --chat: answer without a thought first", 1},
    {"session", KEY_SESSION, "FILE", 0,
     "go on with the session in FILE, if it is there, and keep it there: the prompt, which may be "
     "left out then, follows what was said",
     1},
    {NULL, 0, NULL, 0, "Output:", 3},
    {"stats", KEY_STATS, "FILE", 0, "write the statistics to FILE as JSON", 3},
    {"json", KEY_JSON, NULL, 0, "print text, ids and statistics as JSON at the end", 3},
    {0}};
static const struct argp_child children[] = {{&tool_volume_argp, 0, "Volume:", 9},
                                             {&tool_engine_argp, 0, "Memory, disk, processor:", 8},
                                             {&tool_timeline_argp, 0, "Timeline:", 7},
                                             {&tool_sampling_argp, 0, "Sampling:", 2},
                                             {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .doc = "Continues TEXT. The continuation goes to standard output as it comes, everything else "
           "to standard error. Ctrl-C stops; what was generated stays."};

/* The prompt with its chat template around it; *text is malloc'd. */
static int chat_render(const struct run_args *args, const struct ps_model *model,
                       const char *prompt, size_t prompt_bytes, char **text, struct ps_error *err)
{
    json_t *messages = json_array();
    json_t *user = json_pack("{s:s, s:s%}", "role", "user", "content", prompt, prompt_bytes);
    int rc;

    if (args->system != NULL) {
        json_array_append_new(messages,
                              json_pack("{s:s, s:s}", "role", "system", "content", args->system));
    }
    json_array_append_new(messages, user);
    json_t *chat = json_pack("{s:o, s:b, s:b}", "messages", messages, "enable_thinking",
                             args->no_think ? 0 : 1, "continues", args->session.exists ? 1 : 0);
    char *json = user == NULL || chat == NULL ? NULL : json_dumps(chat, 0);
    json_decref(chat);
    if (json == NULL)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "-p", "the prompt is not valid UTF-8");
    rc = ps_model_chat(model, json, text, err);
    free(json);
    return rc;
}

static int prompt_text_ids(const struct run_args *args, const struct ps_model *model, int32_t **ids,
                           size_t *id_count, struct ps_error *err)
{
    char *read = NULL, *rendered = NULL;
    const char *text = args->prompt;
    size_t text_bytes = strlen(text);
    int rc = 0;

    if (strcmp(args->prompt, "-") == 0) {
        rc = tool_text_read("-", &read, &text_bytes, err);
        text = read;
    }
    if (rc == 0 && args->chat) {
        rc = chat_render(args, model, text, text_bytes, &rendered, err);
        text = rendered;
        text_bytes = rendered == NULL ? 0 : strlen(rendered);
    }
    if (rc == 0)
        rc = (args->session.exists ? tool_tokenize_more : tool_tokenize)(model, text, text_bytes,
                                                                         ids, id_count, err);
    free(read);
    free(rendered);
    if (rc == 0 && *id_count == 0) {
        free(*ids);
        *ids = NULL;
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, "-p",
                          "the prompt is empty: there is nothing to continue");
    }
    return rc;
}

static int prompt_ids(const struct run_args *args, const struct ps_model *model, int32_t **ids,
                      size_t *id_count, struct ps_error *err)
{
    if (args->ids != NULL)
        return tool_ids_parse("--ids", args->ids, ids, id_count, err);
    if (args->session.exists && args->system != NULL)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--system",
                            "the session has begun: a system message can only stand before it");
    if (args->prompt == NULL && args->session.exists)
        return 0;
    if (args->prompt == NULL)
        return ps_error_set(err, -ENOENT, args->session.path,
                            "no session is there yet to go on with: give a prompt");
    return prompt_text_ids(args, model, ids, id_count, err);
}

static int text_append(struct generation *gen, int32_t id, const char *text, size_t text_bytes)
{
    if (gen->text_room - gen->text_bytes < text_bytes) {
        size_t room = 2 * gen->text_room + text_bytes + 4096;
        char *grown = realloc(gen->text, room);
        if (grown == NULL)
            return -ENOMEM;
        gen->text = grown;
        gen->text_room = room;
    }
    if (text_bytes > 0) /* without a tokenizer there is neither text nor room for it */
        memcpy(gen->text + gen->text_bytes, text, text_bytes);
    gen->text_bytes += text_bytes;
    return json_array_append_new(gen->ids, json_integer(id)) == 0 ? 0 : -ENOMEM;
}

static int token_take(void *ctx, int32_t id, const char *text, size_t text_bytes)
{
    struct generation *gen = ctx;

    gen->token_count++;
    if (gen->out == NULL) {
        gen->failure = text_append(gen, id, text, text_bytes);
    } else if (text_bytes > 0) {
        errno = 0;
        gen->last = text[text_bytes - 1];
        if (fwrite(text, 1, text_bytes, gen->out) != text_bytes || fflush(gen->out) != 0)
            gen->failure = errno != 0 ? -errno : -EIO;
    }
    return gen->failure < 0 || tool_stop_status() != 0;
}

static const char *stop_name(int reason)
{
    switch (reason) {
    case PS_STOP_LENGTH:
        return "length";
    case PS_STOP_END:
        return "end";
    case PS_STOP_CONTEXT:
        return "context";
    default:
        return "interrupted";
    }
}

static json_t *stats_json(const struct run_args *args, const struct ps_engine_stats *stats,
                          const struct ps_sampling *sampling, const struct generation *gen,
                          int reason)
{
    json_t *json = tool_stats_json(stats);

    if (json == NULL)
        return NULL;
    json_object_set_new(json, "generated_tokens", json_integer(gen->token_count));
    json_object_set_new(json, "stop", json_string(stop_name(reason)));
    if (sampling->temperature > 0)
        json_object_set_new(json, "seed", json_integer((json_int_t)sampling->seed));
    if (args->engine.experts_used != 0)
        json_object_set_new(json, "experts_used", json_integer(args->engine.experts_used));
    return json;
}

static int stats_write(struct tool_output *out, const json_t *json, struct ps_error *err)
{
    json_dumpf(json, out->file, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    fputc('\n', out->file);
    return tool_output_commit(out, err);
}

/* Prints what there is to say at the end. Returns the exit status. */
static int run_report(const struct run_args *args, const struct ps_engine *engine,
                      const struct ps_sampling *sampling, struct generation *gen, int reason)
{
    struct ps_engine_stats stats;
    struct ps_error err = {0};
    int status = tool_stop_status();

    if (gen->out != NULL && gen->last != '\0' && gen->last != '\n' && isatty(STDOUT_FILENO) == 1)
        putchar('\n');
    ps_engine_stats(engine, &stats);
    json_t *json = stats_json(args, &stats, sampling, gen, reason);
    if (args->json) {
        json_t *text = json_stringn(gen->text == NULL ? "" : gen->text, gen->text_bytes);
        int rc =
            tool_json_print(json_pack("{s:o, s:O, s:O}", "text", text == NULL ? json_null() : text,
                                      "ids", gen->ids, "stats", json));
        status = rc != 0 ? rc : status;
    } else {
        fputc('\n', stderr);
        tool_stats_print(&stats);
        if (reason == PS_STOP_CONTEXT)
            fputs("  stopped   the context is full; --ctx N makes it larger\n", stderr);
    }
    /* Last, so that a failure is the last thing said. */
    if (args->stats != NULL && stats_write(&gen->stats, json, &err) < 0)
        status = tool_fail(&err);
    json_decref(json);
    return status;
}

/* Ids go in, but no text can come out. */
static void note_no_text(const struct run_args *args, const struct ps_model *model)
{
    struct ps_model_info info;

    ps_model_info(model, &info);
    if (!info.has_tokenizer && !args->json)
        fprintf(stderr, "penstock: this model has no tokenizer, so no text is printed; --json "
                        "prints the ids\n");
}

/* Takes the session up where its file leaves it, and tells the sampler what was said in it. */
static int session_begin(struct run_args *args, struct ps_session *session,
                         struct ps_sampler *sampler, struct ps_error *err)
{
    size_t count;
    int rc = tool_session_begin(&args->session, session, err);

    const int32_t *tokens = ps_session_tokens(session, &count);
    for (size_t i = 0; rc == 0 && i < count; i++)
        ps_sampler_accept(sampler, tokens[i]);
    return rc;
}

static int generate(struct run_args *args, struct ps_model *model, const int32_t *ids,
                    size_t id_count)
{
    struct generation gen = {.out = args->json ? NULL : stdout, .ids = json_array()};
    struct ps_sampler *sampler = NULL;
    struct ps_session *session = NULL;
    struct ps_engine *engine = NULL;
    struct ps_sampling sampling;
    struct ps_error err = {0};
    int status = 1, rc;

    rc = tool_timeline_open(&args->timeline, &args->engine, &err);
    if (rc == 0)
        rc = tool_engine_open(&engine, &session, model, &args->engine, &err);
    /* Now, so that a bad name is not found only after an hour of text. */
    if (rc == 0 && args->stats != NULL)
        rc = tool_output_open(&gen.stats, args->stats, &err);
    if (rc == 0) {
        ps_model_sampling(model, &sampling);
        tool_sampling_apply(&args->sampling, &sampling);
        if (!args->sampling.has_seed && sampling.temperature > 0) {
            sampling.seed = tool_seed_make();
            fprintf(stderr, "seed %" PRIu64 "\n", sampling.seed);
        }
        rc = ps_sampler_open(&sampler, model, &sampling, &err);
    }
    if (rc == 0)
        rc = session_begin(args, session, sampler, &err);
    if (rc == 0) {
        note_no_text(args, model);
        rc = ps_session_generate(session, ids, id_count, args->token_count, sampler, token_take,
                                 &gen, &err);
    }
    if (rc == -EINTR && tool_stop_status() != 0)
        rc = PS_STOP_CALLER;
    if (rc == PS_STOP_CALLER && gen.failure < 0)
        rc = ps_error_set(&err, gen.failure, "standard output", "%s", strerror(-gen.failure));
    if (rc >= 0) {
        int saved = tool_session_end(&args->session, session, &err);
        rc = saved < 0 ? saved : rc;
    }
    if (rc < 0) {
        if (gen.failure < 0) { /* said here: what could not be written is not tried again */
            __fpurge(stdout);
            clearerr(stdout);
        }
        fflush(stdout);
        status = tool_fail(&err);
    } else {
        status = run_report(args, engine, &sampling, &gen, rc);
        if (tool_timeline_write(&args->timeline, engine, model, &err) < 0)
            status = tool_fail(&err);
    }
    ps_sampler_close(&sampler);
    ps_session_close(&session);
    ps_engine_close(&engine);
    tool_output_abandon(&args->session.out);
    tool_output_abandon(&gen.stats);
    tool_timeline_abandon(&args->timeline);
    json_decref(gen.ids);
    free(gen.text);
    return status;
}

static int names_check(const struct run_args *args, struct ps_error *err)
{
    const struct tool_name names[] = {
        {"--predictor-file", args->engine.predictor_file, true},
        {"--session", args->session_path, false},
        {"--stats", args->stats, false},
        {"--timeline", args->timeline.path, false},
    };

    return tool_names_check(names, PS_ARRAY_LEN(names), err);
}

int cmd_run(int argc, char **argv)
{
    struct run_args args = {.engine.activations = "q8",
                            .engine.predictor = "gate",
                            .token_count = UINT32_MAX,
                            .sampling = TOOL_SAMPLING_OWN};
    struct ps_model *model = NULL;
    struct ps_error err = {0};
    int32_t *ids = NULL;
    size_t id_count = 0;
    int status;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    if (names_check(&args, &err) < 0 ||
        tool_session_find(&args.session, args.session_path, &err) < 0 ||
        tool_model_open(&model, &args.volume, &err) < 0)
        return tool_fail(&err);
    if (prompt_ids(&args, model, &ids, &id_count, &err) < 0) {
        status = tool_fail(&err);
    } else {
        args.engine.prompt_tokens = (uint32_t)id_count;
        /* A session can only be kept between two tokens: Ctrl-C then waits for the one in work. */
        const volatile int *stop = tool_stop_flag();
        args.engine.stop = args.session.path == NULL ? stop : NULL;
        status = generate(&args, model, ids, id_count);
    }
    free(ids);
    ps_model_close(&model);
    return status;
}
