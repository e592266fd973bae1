/* penstock tokenize VOLUME...: text on standard input to a JSON array of ids, or back. */
#include "tools/tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_DECODE = 1, KEY_JSON };

struct tokenize_args {
    struct tool_volume volume;
    bool decode;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct tokenize_args *args = state->input;

    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        return 0;
    case KEY_DECODE:
        args->decode = true;
        return 0;
    case KEY_JSON: /* the ids are JSON anyway */
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"decode", KEY_DECODE, NULL, 0, "a JSON array of ids on standard input to text", 0},
    {"json", KEY_JSON, NULL, 0, "print ids as JSON, as always", 0},
    {0}};
static const struct argp_child children[] = {{&tool_volume_argp, 0, "Volume:", 5}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .doc = "Turns the text on standard input into a JSON array of token ids. Special tokens in the "
           "text are recognised; none is added but the BOS token of models that want one."};

static int encode(const struct ps_model *model, const char *text, size_t text_bytes,
                  struct ps_error *err)
{
    int32_t *ids = NULL;
    size_t id_count = 0;
    int rc = tool_tokenize(model, text, text_bytes, &ids, &id_count, err);

    if (rc < 0)
        return rc;
    putchar('[');
    for (size_t i = 0; i < id_count; i++)
        printf(i == 0 ? "%d" : ", %d", ids[i]);
    puts("]");
    free(ids);
    return 0;
}

static int ids_decode(const struct ps_model *model, const int32_t *ids, size_t id_count,
                      struct ps_error *err)
{
    int64_t bytes = ps_model_detokenize(model, ids, id_count, false, NULL, 0, err);
    char *text;

    if (bytes < 0)
        return (int)bytes;
    text = malloc((size_t)bytes + 1);
    if (text == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory for the text");
    bytes = ps_model_detokenize(model, ids, id_count, false, text, (size_t)bytes, err);
    if (bytes > 0)
        fwrite(text, 1, (size_t)bytes, stdout);
    free(text);
    return bytes < 0 ? (int)bytes : 0;
}

int cmd_tokenize(int argc, char **argv)
{
    struct tokenize_args args = {0};
    struct ps_model *model = NULL;
    struct ps_error err = {0};
    char *text = NULL;
    int32_t *ids = NULL;
    size_t text_bytes = 0, id_count = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    int rc = tool_model_open(&model, &args.volume, &err);
    if (rc == 0)
        rc = tool_text_read("-", &text, &text_bytes, &err);
    if (rc == 0 && args.decode) {
        rc = tool_ids_text_parse(text, text_bytes, &ids, &id_count, &err);
        if (rc == 0)
            rc = ids_decode(model, ids, id_count, &err);
    } else if (rc == 0) {
        rc = encode(model, text, text_bytes, &err);
    }
    free(ids);
    free(text);
    ps_model_close(&model);
    return rc < 0 ? tool_fail(&err) : 0;
}
