/* penstock wipe MEMBER: gives a member back. */
#include "tools/tool.h"

#include <string.h>
#include <unistd.h>

struct wipe_args {
    const char *path;
    bool yes;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct wipe_args *args = state->input;

    switch (key) {
    case 'y':
        args->yes = true;
        return 0;
    case ARGP_KEY_ARG:
        if (args->path != NULL)
            argp_error(state, "one MEMBER at a time");
        args->path = arg;
        return 0;
    case ARGP_KEY_END:
        if (args->path == NULL)
            argp_error(state, "name the MEMBER to give back");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"yes", 'y', NULL, 0, "do not ask, even on a terminal", 0}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "MEMBER",
    .doc = "Makes MEMBER, a device or file, no longer part of a volume; a plain file is removed. "
           "The volume, finished or stopped, cannot be opened afterwards. Anything that is not a "
           "member of a volume, or is in use, is refused."};

/* Asks only where somebody can answer: without a terminal the command line itself is the consent.
 */
static bool confirmed(const struct wipe_args *args)
{
    char answer[16];

    if (args->yes || isatty(STDIN_FILENO) != 1)
        return true;
    fprintf(stderr, "Wipe %s? The volume on it will be lost. [y/N] ", args->path);
    if (fgets(answer, sizeof(answer), stdin) == NULL)
        return false;
    return strcmp(answer, "y\n") == 0 || strcmp(answer, "yes\n") == 0;
}

int cmd_wipe(int argc, char **argv)
{
    struct wipe_args args = {0};
    struct ps_error err = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    tool_log_start(false);
    tool_subject_set(args.path);
    if (!confirmed(&args))
        return tool_fail_text(args.path, "left as it is");
    if (ps_member_wipe(args.path, &err) < 0)
        return tool_fail(&err);
    printf("%s is no longer part of a volume\n", args.path);
    return 0;
}
