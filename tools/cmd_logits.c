/* penstock logits VOLUME... --ids 1,2,3 --out FILE: the logits of given tokens, float32 [T, V]. */
#include "tools/tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/budget.h"

enum { KEY_IDS = 1, KEY_OUT, KEY_DECODE };

struct logits_args {
    struct tool_volume volume;
    struct ps_engine_options engine;
    const char *ids, *out;
    bool decode;
};

struct logits_writer {
    FILE *file;
    size_t row_bytes;
    int failure; /* -errno of the first failed write */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct logits_args *args = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        state->child_inputs[1] = &args->engine;
        return 0;
    case KEY_IDS:
        args->ids = arg;
        return 0;
    case KEY_OUT:
        args->out = arg;
        return 0;
    case KEY_DECODE:
        args->decode = true;
        return 0;
    case ARGP_KEY_END:
        if (args->ids == NULL || args->out == NULL)
            argp_error(state, "--ids and --out are needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"ids", KEY_IDS, "IDS", 0, "token ids: 1,2,3; - reads them from standard input", 1},
    {"out", KEY_OUT, "FILE", 0, "where the logits go", 1},
    {"decode", KEY_DECODE, NULL, 0, "feed the tokens one by one instead of as one prompt", 1},
    {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = tool_run_children,
    .doc = "Writes one row of logits per token to FILE: little-endian float32, [tokens, rows of "
           "the head]. FILE appears when it is whole."};

/* x86-64 is little endian, and so are the floats in memory. */
static void row_write(void *ctx, uint32_t position, const float *logits)
{
    struct logits_writer *writer = ctx;

    (void)position;
    errno = 0;
    if (writer->failure == 0 &&
        fwrite(logits, 1, writer->row_bytes, writer->file) != writer->row_bytes)
        writer->failure = errno != 0 ? -errno : -EIO;
}

static int tokens_eval(const struct logits_args *args, struct ps_session *session,
                       const int32_t *ids, size_t id_count, struct logits_writer *writer,
                       struct ps_error *err)
{
    size_t step = args->decode ? 1 : id_count;
    int rc = 0;

    for (size_t i = 0; rc >= 0 && i < id_count; i += step) {
        rc = ps_session_eval(session, ids + i, step, row_write, writer, err);
        if (rc >= 0 && writer->failure < 0) {
            rc = ps_error_set(err, writer->failure, args->out, "cannot write: %s",
                              strerror(-writer->failure));
        }
    }
    return rc;
}

static int logits_write(struct logits_args *args, struct ps_model *model, const int32_t *ids,
                        size_t id_count, struct ps_error *err)
{
    struct logits_writer writer = {0};
    struct tool_output out = {0};
    struct ps_session *session = NULL;
    struct ps_engine *engine = NULL;
    struct ps_model_info info;
    int rc;

    ps_model_info(model, &info);
    rc = tool_engine_open(&engine, &session, model, &args->engine, err);
    if (rc == 0)
        rc = tool_output_open(&out, args->out, err);
    if (rc == 0) {
        writer.file = out.file;
        writer.row_bytes = info.vocab_rows * sizeof(float);
        rc = tokens_eval(args, session, ids, id_count, &writer, err);
    }
    if (rc >= 0)
        rc = tool_output_commit(&out, err);
    else
        tool_output_abandon(&out);
    ps_session_close(&session);
    ps_engine_close(&engine);
    if (rc >= 0) {
        fprintf(stderr, "wrote [%zu, %u] float32 to %s\n", id_count, info.vocab_rows, args->out);
    }
    return rc;
}

static int ids_get(const struct logits_args *args, int32_t **ids, size_t *id_count,
                   struct ps_error *err)
{
    char *text = NULL;
    size_t text_bytes;
    int rc;

    if (strcmp(args->ids, "-") != 0)
        return tool_ids_parse("--ids", args->ids, ids, id_count, err);
    rc = tool_text_read("-", &text, &text_bytes, err);
    if (rc == 0)
        rc = tool_ids_text_parse(text, text_bytes, ids, id_count, err);
    free(text);
    return rc;
}

int cmd_logits(int argc, char **argv)
{
    struct logits_args args = {.engine.kv = "f32"};
    struct ps_model *model = NULL;
    struct ps_error err = {0};
    int32_t *ids = NULL;
    size_t id_count = 0;
    int status = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    args.engine.stop = tool_stop_flag();
    int rc = ids_get(&args, &ids, &id_count, &err);
    if (rc == 0)
        rc = tool_model_open(&model, &args.volume, &err);
    /* Without --ctx the context is no smaller than what it is asked to hold. */
    if (args.engine.ctx == 0 && id_count > 4096)
        args.engine.ctx = (uint32_t)(id_count < UINT32_MAX ? id_count : UINT32_MAX);
    if (rc == 0)
        rc = logits_write(&args, model, ids, id_count, &err);
    if (rc < 0)
        status = tool_end(rc, &err);
    free(ids);
    ps_model_close(&model);
    return status;
}
