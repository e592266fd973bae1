/* penstock layout SOURCE MEMBER...: from a checkpoint to a volume. */
#include "tools/tool.h"

#include <errno.h>

#include "core/budget.h"
#include "core/util.h"
#include "tools/profile.h"

enum {
    KEY_QUANT = 1,
    KEY_SLICE_BYTES,
    KEY_RESUME,
    KEY_DESTROY,
    KEY_JSON,
    KEY_COPIES,
    KEY_PROFILE,
    KEY_IMPORTANCE
};

struct layout_args {
    struct ps_model_layout_options options;
    const char *members[PS_MEMBER_COUNT_MAX];
    const char *destroy[PS_MEMBER_COUNT_MAX];
    const char *profile; /* a file, or NULL */
    struct ps_member_profile profiles[PS_MEMBER_COUNT_MAX];
    bool json, verbose;
};

static void position_parse(struct layout_args *args, const char *arg, struct argp_state *state)
{
    if (*arg == '\0')
        argp_error(state, "a SOURCE or MEMBER is an empty text");
    else if (args->options.source == NULL)
        args->options.source = arg;
    else if (args->options.member_count == PS_MEMBER_COUNT_MAX)
        argp_error(state, "a volume has at most %d members", PS_MEMBER_COUNT_MAX);
    else
        args->members[args->options.member_count++] = arg;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct layout_args *args = state->input;

    switch (key) {
    case KEY_QUANT:
        args->options.quant = arg;
        break;
    case KEY_IMPORTANCE:
        args->options.importance = arg;
        break;
    case KEY_SLICE_BYTES:
        args->options.slice_bytes = tool_size(state, "--slice-bytes", arg);
        if (args->options.slice_bytes == 0)
            argp_error(state, "--slice-bytes: a slice holds at least 1 byte");
        break;
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
            argp_error(state, "name a SOURCE and at least one MEMBER");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp_option options[] = {
    {"quant", KEY_QUANT, "SPEC", 0,
     "keep (default for GGUF and FP8: blocks move unchanged), or GROUP=TYPE[,GROUP=TYPE...]: "
     "groups "
     "experts, attention, embeddings, head, shared (shared experts and dense layers) and rest (all "
     "of these but experts that are not named); types f32, f16, bf16, q8_0, q4_0, q4_k, q6_k, "
     "mxfp4, keep (default for other safetensors: experts=q4_0,rest=bf16). Routers and norms are "
     "never quantised",
     0},
    {"importance", KEY_IMPORTANCE, "FILE", 0,
     "weigh errors by llama.cpp's importance matrix (GGUF) when quantising", 0},
    {"slice-bytes", KEY_SLICE_BYTES, "SIZE", 0, "size aimed at for an expert's slices (2M)", 0},
    {"copies", KEY_COPIES, "N", 0,
     "copies of everything, each on other members: 1 or 2 (default 1). With 2, a member may fail",
     0},
    {"profile", KEY_PROFILE, "FILE", 0,
     "cut by what penstock probe has measured (default: measure the drives for a second each, if "
     "there are several)",
     0},
    {"resume", KEY_RESUME, NULL, 0, "continue a layout that was stopped", 0},
    {"destroy", KEY_DESTROY, "IDENTITY", 0,
     "allow what a refusal named by this identity to be overwritten; may be repeated", 0},
    {"threads", 't', "N", 0, "threads that read, convert and write (default: four more than CPUs)",
     0},
    {"verbose", 'v', NULL, 0, "say more on standard error", 0},
    {"json", KEY_JSON, NULL, 0, "print the report as JSON", 0},
    {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "SOURCE MEMBER...",
    .doc = "Lays SOURCE, a GGUF file (the first of a split set) or a directory of safetensors, out "
           "as a volume on the MEMBERs: files, partitions or whole drives. With several, the bytes "
           "of every expert are cut over all of them."};

static void report_print(const struct layout_args *args,
                         const struct ps_model_layout_report *report, uint64_t ns)
{
    char size[32], time[32], used[32], skipped[32];

    printf("wrote %s to %d member%s in %s (%.2f GB/s)\n",
           ps_size_text(report->bytes, size, sizeof(size)), args->options.member_count,
           args->options.member_count == 1 ? "" : "s", tool_time_text(ns, time),
           tool_rate(report->bytes, ns) / 1e9);
    printf("tensors: %s used, %s skipped", tool_count_text(report->tensors_used, used),
           tool_count_text(report->tensors_skipped, skipped));
    printf(report->skipped_groups[0] != '\0' ? ": %s\n" : "\n", report->skipped_groups);
    if (report->notes[0] != '\0')
        printf("types: %s\n", report->notes);
    if (!report->has_tokenizer)
        puts("the source has no tokenizer: commands that take token ids work, those that take text "
             "do not");
}

static json_t *report_json(const struct layout_args *args,
                           const struct ps_model_layout_report *report, uint64_t ns)
{
    json_t *members = json_array();

    for (int i = 0; i < args->options.member_count; i++)
        json_array_append_new(members, tool_json_text(args->members[i]));
    return json_pack("{s:o, s:o, s:I, s:f, s:I, s:I, s:s, s:s, s:b}", "source",
                     tool_json_text(args->options.source), "members", members, "bytes",
                     (json_int_t)report->bytes, "seconds", (double)ns / 1e9, "tensors_used",
                     (json_int_t)report->tensors_used, "tensors_skipped",
                     (json_int_t)report->tensors_skipped, "skipped_groups", report->skipped_groups,
                     "notes", report->notes, "has_tokenizer", (int)report->has_tokenizer);
}

int cmd_layout(int argc, char **argv)
{
    struct layout_args args = {0};
    struct ps_model_layout_report report = {0};
    struct tool_progress progress;
    struct ps_error err = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    tool_log_start(args.verbose);
    tool_subject_set(args.options.source);
    tool_progress_init(&progress, "writing");
    args.options.members = args.members;
    args.options.destroy = args.destroy;
    args.options.progress = tool_progress_step;
    args.options.progress_ctx = &progress;
    args.options.stop = tool_stop_flag();
    int rc = tool_profile_get(args.profile, args.options.resume, args.members,
                              args.options.member_count, args.profiles, &err);
    if (rc < 0)
        return tool_end(rc, &err);
    args.options.profiles = rc == 1 ? args.profiles : NULL;

    uint64_t begin_ns = ps_now_ns();
    rc = ps_model_layout(&args.options, &report, &err);
    tool_progress_end(&progress);
    if (rc == -EINTR && tool_stop_status() != 0) {
        fputs("penstock: stopped; the same command with --resume continues it\n", stderr);
        return tool_stop_status();
    }
    if (rc < 0)
        return tool_fail(&err);
    uint64_t ns = ps_now_ns() - begin_ns;
    if (args.json)
        return tool_json_print(report_json(&args, &report, ns));
    report_print(&args, &report, ns);
    return 0;
}
