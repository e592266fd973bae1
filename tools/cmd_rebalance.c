/* penstock rebalance VOLUME MEMBER...: moves a volume to other members, without its source. */
#include "tools/tool.h"

#include <errno.h>

#include "core/budget.h"
#include "core/util.h"
#include "tools/profile.h"

enum { KEY_COPIES = 1, KEY_PROFILE, KEY_RESUME, KEY_DESTROY, KEY_JSON };

struct rebalance_args {
    struct ps_rebalance_options options;
    const char *paths[PS_MEMBER_COUNT_MAX]; /* of the old volume */
    int path_count;
    const char *volume; /* the first of them */
    const char *members[PS_MEMBER_COUNT_MAX];
    const char *destroy[PS_MEMBER_COUNT_MAX];
    const char *profile;
    struct ps_member_profile profiles[PS_MEMBER_COUNT_MAX];
    uint64_t total_bytes;
    struct tool_progress progress;
    bool json, verbose;
};

static void position_parse(struct rebalance_args *args, const char *arg, struct argp_state *state)
{
    if (*arg == '\0')
        argp_error(state, "a VOLUME or MEMBER is an empty text");
    else if (args->volume == NULL)
        args->volume = arg;
    else if (args->options.member_count == PS_MEMBER_COUNT_MAX)
        argp_error(state, "a volume has at most %d members", PS_MEMBER_COUNT_MAX);
    else
        args->members[args->options.member_count++] = arg;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct rebalance_args *args = state->input;

    switch (key) {
    case KEY_COPIES:
        args->options.copies = (uint32_t)tool_number(state, "--copies", arg, 1, 2);
        break;
    case KEY_PROFILE:
        args->profile = arg;
        break;
    case KEY_RESUME:
        args->options.resume = true;
        break;
    case KEY_DESTROY:
        if (args->options.destroy_count == PS_MEMBER_COUNT_MAX)
            argp_error(state, "--destroy: at most %d times", PS_MEMBER_COUNT_MAX);
        else
            args->destroy[args->options.destroy_count++] = arg;
        break;
    case 'm':
        if (args->path_count == PS_MEMBER_COUNT_MAX - 1)
            argp_error(state, "--member: at most %d times", PS_MEMBER_COUNT_MAX - 1);
        else
            args->paths[1 + args->path_count++] = arg;
        break;
    case 't':
        args->options.threads = (int)tool_number(state, "--threads", arg, 1, 512);
        break;
    case 'v':
        args->verbose = true;
        break;
    case KEY_JSON:
        args->json = true;
        break;
    case ARGP_KEY_ARG:
        position_parse(args, arg, state);
        break;
    case ARGP_KEY_END:
        if (args->options.member_count == 0)
            argp_error(state, "name a VOLUME and at least one MEMBER for it");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp_option options[] = {
    {"copies", KEY_COPIES, "N", 0,
     "copies of everything from now on: 1 or 2 (default: as many as there are)", 0},
    {"profile", KEY_PROFILE, "FILE", 0,
     "cut by what penstock probe --out has measured (default: a short look at the drives)", 0},
    {"resume", KEY_RESUME, NULL, 0, "continue a rebalance that was stopped", 0},
    {"destroy", KEY_DESTROY, "IDENTITY", 0,
     "allow what a refusal named by this identity to be overwritten; may be repeated", 0},
    {"member", 'm', "PATH", 0, "a member of the old volume that is not where it was", 0},
    {"threads", 't', "N", 0, "threads that copy (default: by CPUs and members)", 0},
    {"verbose", 'v', NULL, 0, "say more on standard error", 0},
    {"json", KEY_JSON, NULL, 0, "print the report as JSON", 0},
    {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "VOLUME MEMBER...",
    .doc =
        "Moves VOLUME, named by any of its members, to the MEMBERs, without its source: to more, "
        "fewer or other ones, or to the same ones with the weights that they have now. "
        "Everything is checked as it is read. Until the new volume is complete the old one "
        "stays as it is, so members of both need room for both; members that are left over are "
        "given back."};

static void progress_take(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct rebalance_args *args = ctx;

    args->total_bytes = total_bytes;
    tool_progress_step(&args->progress, done_bytes, total_bytes);
}

static json_t *report_json(const struct rebalance_args *args, uint64_t ns)
{
    json_t *members = json_array();

    for (int i = 0; i < args->options.member_count; i++)
        json_array_append_new(members, tool_json_text(args->members[i]));
    return json_pack("{s:o, s:o, s:I, s:f}", "volume", tool_json_text(args->volume), "members",
                     members, "bytes", (json_int_t)args->total_bytes, "seconds", (double)ns / 1e9);
}

static int report_print(const struct rebalance_args *args, uint64_t ns)
{
    char size[32], time[32], rate[32];

    if (args->json)
        return tool_json_print(report_json(args, ns));
    if (args->total_bytes == 0) {
        puts("nothing was left to do");
        return 0;
    }
    printf("moved %s to %d member%s in %s (%s/s)\n",
           ps_size_text(args->total_bytes, size, sizeof(size)), args->options.member_count,
           args->options.member_count == 1 ? "" : "s", tool_time_text(ns, time),
           ps_size_text((uint64_t)tool_rate(args->total_bytes, ns), rate, sizeof(rate)));
    return 0;
}

int cmd_rebalance(int argc, char **argv)
{
    struct rebalance_args args = {0};
    struct ps_error err = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    tool_log_start(args.verbose);
    tool_subject_set(args.volume);
    tool_progress_init(&args.progress, "moving");
    args.paths[0] = args.volume;
    args.options.members = args.members;
    args.options.destroy = args.destroy;
    args.options.progress = progress_take;
    args.options.progress_ctx = &args;
    args.options.stop = tool_stop_flag();

    int rc = tool_profile_get(args.profile, args.options.resume, args.members,
                              args.options.member_count, args.profiles, &err);
    if (rc < 0)
        return tool_end(rc, &err);
    args.options.profiles = rc == 1 ? args.profiles : NULL;

    uint64_t begin_ns = ps_now_ns();
    rc = ps_volume_rebalance(args.paths, 1 + args.path_count, &args.options, &err);
    tool_progress_end(&args.progress);
    if (rc == -EINTR && tool_stop_status() != 0) {
        fputs("penstock: stopped; the same command with --resume continues it\n", stderr);
        return tool_stop_status();
    }
    return rc < 0 ? tool_fail(&err) : report_print(&args, ps_now_ns() - begin_ns);
}
