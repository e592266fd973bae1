/* penstock probe MEMBER...: what drives give at every request size and depth. */
#include "tools/tool.h"

#include <errno.h>
#include <unistd.h>

#include "core/budget.h"
#include "tools/profile.h"

#define SECONDS_EACH 30.0

enum { KEY_OUT = 1, KEY_SAVE, KEY_SECONDS, KEY_ENGINE, KEY_JSON };

struct probe_args {
    const char *paths[PS_MEMBER_COUNT_MAX];
    int path_count;
    const char *out, *engine;
    double seconds; /* 0: SECONDS_EACH for each */
    bool save, json, verbose;
};

/* What is probed: what was named, or all members of the volume. */
struct probe_run {
    struct tool_probed probed[PS_MEMBER_COUNT_MAX];
    int count;
    struct ps_volume *volume; /* with --save */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct probe_args *args = state->input;

    switch (key) {
    case KEY_OUT:
        args->out = arg;
        return 0;
    case KEY_SAVE:
        args->save = true;
        return 0;
    case KEY_SECONDS:
        args->seconds = tool_real(state, "--seconds", arg, 0.001, 1e6);
        return 0;
    case KEY_ENGINE:
        tool_engine_check(state, "--engine", arg);
        args->engine = arg;
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    case 'v':
        args->verbose = true;
        return 0;
    case ARGP_KEY_ARG:
        if (args->path_count == PS_MEMBER_COUNT_MAX)
            argp_error(state, "at most %d files or drives", PS_MEMBER_COUNT_MAX);
        else
            args->paths[args->path_count++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (args->path_count == 0)
            argp_error(state, "name at least one MEMBER: a file, a partition or a drive");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"out", KEY_OUT, "FILE", 0, "write the profile, for penstock layout --profile", 0},
    {"save", KEY_SAVE, NULL, 0,
     "probe all members of the volume that a MEMBER belongs to, and record the result in it", 0},
    {"seconds", KEY_SECONDS, "T", 0, "how long it may take in all (30 for each MEMBER)", 0},
    {"engine", KEY_ENGINE, "ENGINE", 0, "what reads, as --io of run (uring)", 0},
    {"verbose", 'v', NULL, 0, "say more on standard error", 0},
    {"json", KEY_JSON, NULL, 0, "print the profile as JSON", 0},
    {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "MEMBER...",
    .doc = "Measures files, partitions or drives, one after the other, with reads of 64 KiB to "
           "8 MiB and 1 to 64 of them in flight, and finds the knee: the least in flight at which "
           "a drive gives all it can. Reads only."};

/* ---- the tables ------------------------------------------------------------------------------ */

static void depths_print(FILE *to, const char *title)
{
    fprintf(to, "%-10s", title);
    for (uint32_t d = 0; d < PS_PROBE_DEPTH_COUNT; d++)
        fprintf(to, "%9u", 1u << d);
    fputc('\n', to);
}

/* One table: cell() writes a point's value. */
static void table_print(FILE *to, const char *title, const struct ps_probe_result *probe,
                        void (*cell)(const struct ps_probe_point *point, double unit, char *text),
                        double unit)
{
    depths_print(to, title);
    for (uint32_t s = 0; s < PS_PROBE_SIZE_COUNT; s++) {
        fprintf(to, "%6u KiB", probe->points[s][0].request_bytes >> 10);
        for (uint32_t d = 0; d < PS_PROBE_DEPTH_COUNT; d++) {
            const struct ps_probe_point *point = &probe->points[s][d];
            bool is_knee = s == probe->knee_size && d == probe->knee_depth;
            char text[32] = "-", marked[40];
            if (point->bytes_per_s > 0)
                cell(point, unit, text);
            snprintf(marked, sizeof(marked), "%s%s", is_knee ? "*" : "", text);
            fprintf(to, "%9s", marked);
        }
        fputc('\n', to);
    }
}

static void bandwidth_cell(const struct ps_probe_point *point, double unit, char *text)
{
    double value = (double)point->bytes_per_s / unit;
    snprintf(text, 32, value < 10 ? "%.2f" : "%.1f", value);
}

static void latency_cell(const struct ps_probe_point *point, double unit, char *text)
{
    double value = (double)point->latency_p50_ns / unit;
    snprintf(text, 32, value < 10 ? "%.2f" : "%.1f", value);
}

static void probed_print(FILE *to, const struct tool_probed *probed)
{
    const struct ps_probe_result *probe = &probed->probe;
    const struct ps_member_profile *profile = &probe->profile;
    bool is_fast = profile->bytes_per_s >= 1000000000;
    char size[32], piece[32], alone[32];

    fprintf(to, "%s", probed->path);
    if (probed->has_drive)
        fprintf(to, ": %s%s%s%s", probed->drive.is_file ? "on " : "",
                probed->drive.is_file ? probed->drive.drive : "",
                probed->drive.is_file && probed->drive.model[0] != '\0' ? ", " : "",
                probed->drive.model);
    fprintf(to, "\n%s%s%s, %u round%s\n\n", probe->engine, probe->direct ? ", O_DIRECT" : "",
            probe->registered ? ", registered buffers" : "", probe->round_count,
            probe->round_count == 1 ? "" : "s");
    table_print(to, is_fast ? "GB/s" : "MB/s", probe, bandwidth_cell, is_fast ? 1e9 : 1e6);
    fputc('\n', to);
    table_print(to, "p50, ms", probe, latency_cell, 1e6);
    fprintf(
        to,
        "\nknee*: reads of %s, %u in flight: %.2f %s; one alone takes %s; pieces of %s or more;\n"
        "%.0f %% of that beside busy processors\n",
        ps_size_text_binary(profile->request_bytes, size, sizeof(size)), profile->depth,
        (double)profile->bytes_per_s / (is_fast ? 1e9 : 1e6), is_fast ? "GB/s" : "MB/s",
        tool_latency_text(profile->latency_ns, alone),
        ps_size_text_binary(profile->piece_bytes_min, piece, sizeof(piece)),
        100 * probe->busy_share);
}

/* ---- probing --------------------------------------------------------------------------------- */

static int probe_one(const struct probe_args *args, int count, struct tool_probed *probed,
                     struct ps_error *err)
{
    struct tool_progress progress;
    char verb[160];
    double seconds = args->seconds > 0 ? args->seconds / count : SECONDS_EACH;
    struct ps_probe_options probe = {
        .path = probed->path,
        .engine = args->engine,
        .ns_max = (uint64_t)(seconds * 1e9),
        .progress = tool_progress_step,
        .progress_ctx = &progress,
        .stop = tool_stop_flag(),
    };

    snprintf(verb, sizeof(verb), "probing %.140s", probed->path);
    tool_progress_init(&progress, verb);
    progress.counts_ns = true;
    int rc = ps_probe_run(&probe, &probed->probe, err);
    tool_progress_end(&progress);
    probed->has_drive = ps_drive_info(probed->path, &probed->drive) == 0;
    if (rc == 0 && probed->probe.is_blank)
        tool_warn_blank(probed->path);
    return rc;
}

/* What is to be probed. A volume with a missing member cannot be: its record would be of the others
 * alone. */
static int run_begin(const struct probe_args *args, struct probe_run *run, struct ps_error *err)
{
    struct ps_member_info member;
    char use[160];

    if (!args->save) {
        run->count = args->path_count;
        for (int i = 0; i < run->count; i++)
            run->probed[i].path = args->paths[i];
        return 0;
    }
    /* Said before the measurement, not after it. */
    if (ps_drive_use(args->paths[0], use, sizeof(use)) == 1)
        return ps_error_set(
            err, -PS_ERR_IN_USE, args->paths[0],
            "it is in use (%s), and a volume can be written to by one process alone; "
            "stop that one, or leave --save out",
            use);
    int rc = ps_volume_open(&run->volume, args->paths, args->path_count, err);
    if (rc < 0)
        return rc;
    run->count = ps_volume_member_count(run->volume);
    for (int i = 0; i < run->count; i++) {
        ps_volume_member(run->volume, i, &member);
        if (member.is_missing)
            return ps_error_set(err, -PS_ERR_MEMBER, args->paths[0],
                                "member %d of %d is missing, so the volume cannot be probed as a "
                                "whole; penstock rebalance restores it",
                                i + 1, run->count);
        if (access(member.path, W_OK) != 0)
            return ps_error_set(err, -errno, member.path,
                                "nothing can be recorded on it: %s; for a drive, run as root, or "
                                "leave --save out",
                                ps_strerror(-errno));
        run->probed[i].path = member.path;
    }
    return 0;
}

static int run_save(struct probe_run *run, struct ps_error *err)
{
    struct ps_member_profile profiles[PS_MEMBER_COUNT_MAX];

    for (int i = 0; i < run->count; i++)
        profiles[i] = run->probed[i].probe.profile;
    return ps_volume_profile_save(run->volume, profiles, err);
}

static void results_print(FILE *to, const struct probe_run *run)
{
    for (int i = 0; i < run->count; i++) {
        if (i > 0)
            fputc('\n', to);
        probed_print(to, &run->probed[i]);
    }
    if (run->volume != NULL)
        fprintf(
            to,
            "\nrecorded in volume %s: its reads go by it from now on; probe with --out, too, and "
            "penstock rebalance --profile cuts it anew\n",
            ps_volume_uuid(run->volume));
}

static int run_all(const struct probe_args *args, struct probe_run *run, struct tool_output *out,
                   struct ps_error *err)
{
    int rc = run_begin(args, run, err);

    if (rc == 0 && args->out != NULL)
        rc = tool_output_open(out, args->out, err);
    for (int i = 0; i < run->count && rc == 0; i++)
        rc = probe_one(args, run->count, &run->probed[i], err);
    if (rc == 0 && args->save)
        rc = run_save(run, err);
    if (rc == 0 && args->out != NULL)
        rc = tool_profile_write(out->file, args->out, run->probed, run->count, err);
    if (rc == 0 && args->out != NULL)
        rc = tool_output_commit(out, err);
    return rc;
}

int cmd_probe(int argc, char **argv)
{
    struct probe_args args = {0};
    static struct probe_run run;
    struct tool_output out = {0};
    struct ps_error err = {0};
    int status = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    FILE *to = tool_report_file(args.out);
    tool_log_start(args.verbose);
    tool_subject_set(args.paths[0]);
    int rc = tool_inputs_check("MEMBER", args.paths, args.path_count, args.out, &err);
    if (rc == 0)
        rc = run_all(&args, &run, &out, &err);
    if (rc < 0)
        status = tool_end(rc, &err);
    else if (args.json)
        status = tool_json_write(to, tool_profile_json(run.probed, run.count));
    else
        results_print(to, &run);
    tool_output_abandon(&out);
    ps_volume_close(&run.volume);
    return status;
}
