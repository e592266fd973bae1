/* penstock verify VOLUME...: reads everything and checks every checksum. */
#include "tools/tool.h"

#include "core/budget.h"
#include "core/util.h"

enum { KEY_JSON = 1 };

struct verify_args {
    struct tool_volume volume;
    bool json;
};

struct verify_run {
    struct tool_progress progress;
    json_t *bad; /* sentences; NULL: print them as they come */
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

static void bad_take(void *ctx, const char *text)
{
    struct verify_run *run = ctx;

    if (run->bad != NULL)
        json_array_append_new(run->bad, json_string(text));
    else
        puts(text);
}

static void progress_take(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct verify_run *run = ctx;
    tool_progress_step(&run->progress, done_bytes, total_bytes);
}

static int result_print(struct verify_run *run, const struct ps_verify_report *report, uint64_t ns)
{
    char slices[32], bad[32], size[32], time[32];

    if (run->bad != NULL) {
        return tool_json_print(
            json_pack("{s:b, s:I, s:I, s:I, s:f, s:O}", "good", report->slices_bad == 0,
                      "slices_checked", (json_int_t)report->slices_checked, "slices_bad",
                      (json_int_t)report->slices_bad, "bytes_read", (json_int_t)report->bytes_read,
                      "seconds", (double)ns / 1e9, "bad", run->bad));
    }
    printf("%s slices checked, %s bad; read %s in %s (%.2f GB/s)\n",
           tool_count_text(report->slices_checked, slices),
           report->slices_bad == 0 ? "none" : tool_count_text(report->slices_bad, bad),
           ps_size_text(report->bytes_read, size, sizeof(size)), tool_time_text(ns, time),
           tool_rate(report->bytes_read, ns) / 1e9);
    return 0;
}

int cmd_verify(int argc, char **argv)
{
    struct verify_args args = {0};
    struct verify_run run = {0};
    struct ps_verify_options verify = {.bad = bad_take, .progress = progress_take, .ctx = &run};
    struct ps_verify_report report = {0};
    struct ps_volume *volume = NULL;
    struct ps_error err = {0};
    int rc, status;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    tool_log_start(args.volume.verbose);
    tool_subject_set(args.volume.paths[0]);
    rc = ps_volume_open(&volume, args.volume.paths, args.volume.path_count, &err);
    if (rc < 0)
        return tool_fail(&err);
    if (args.json)
        run.bad = json_array();
    tool_progress_init(&run.progress, "checking");
    uint64_t begin_ns = ps_now_ns();
    rc = ps_volume_verify(volume, &verify, &report, &err);
    tool_progress_end(&run.progress);
    status = rc < 0 ? tool_fail(&err) : result_print(&run, &report, ps_now_ns() - begin_ns);
    if (rc == 0 && report.slices_bad > 0) {
        status = tool_fail_text(args.volume.paths[0],
                                "the volume is damaged: lay the model out again (%llu bad)",
                                (unsigned long long)report.slices_bad);
    }
    json_decref(run.bad);
    ps_volume_close(&volume);
    return status;
}
