/* penstock verify VOLUME...: reads everything and checks every checksum. */
#include "tools/tool.h"

enum { KEY_JSON = 1 };

struct verify_args {
    struct tool_volume volume;
    bool json;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct verify_args *args = state->input;

    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"json", KEY_JSON, NULL, 0, "print the result as JSON", 0}, {0}};
static const struct argp_child children[] = {{&tool_volume_argp, 0, "Volume:", 5}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .doc = "Reads every byte of a volume, checks every checksum and names every bad slice or "
           "range, one per line. The exit status is 1 if there is any."};

int cmd_verify(int argc, char **argv)
{
    struct verify_args args = {0};
    struct ps_verify_options verify = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    return tool_check(&args.volume, &verify, args.json);
}
