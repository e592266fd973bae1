/* Checking every checksum of a volume: what verify and scrub share. */
#include "tools/tool.h"

#include <errno.h>

#include "core/budget.h"
#include "core/util.h"

struct check_run {
    struct tool_progress progress;
    uint64_t total_bytes; /* as the last progress told */
    json_t *bad;          /* sentences; NULL: print them as they come */
};

static void bad_take(void *ctx, const char *text)
{
    struct check_run *run = ctx;

    if (run->bad != NULL)
        json_array_append_new(run->bad, tool_json_text(text));
    else
        puts(text);
}

static void progress_take(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct check_run *run = ctx;

    run->total_bytes = total_bytes;
    tool_progress_step(&run->progress, done_bytes, total_bytes);
}

static int result_print(struct check_run *run, const struct ps_verify_report *report, bool stopped,
                        uint64_t ns)
{
    char slices[32], bad[32], size[32], total[32], time[32], rate[32];

    if (run->bad != NULL) {
        return tool_json_print(json_pack(
            "{s:b, s:b, s:I, s:I, s:I, s:f, s:O}", "good", report->slices_bad == 0 && !stopped,
            "stopped", (int)stopped, "slices_checked", (json_int_t)report->slices_checked,
            "slices_bad", (json_int_t)report->slices_bad, "bytes_read",
            (json_int_t)report->bytes_read, "seconds", (double)ns / 1e9, "bad", run->bad));
    }
    printf("%s slices checked, %s bad; read %s", tool_count_text(report->slices_checked, slices),
           report->slices_bad == 0 ? "none" : tool_count_text(report->slices_bad, bad),
           ps_size_text(report->bytes_read, size, sizeof(size)));
    if (stopped && run->total_bytes > 0)
        printf(" of %s", ps_size_text(run->total_bytes, total, sizeof(total)));
    printf(" in %s (%s/s)\n", tool_time_text(ns, time),
           ps_size_text((uint64_t)tool_rate(report->bytes_read, ns), rate, sizeof(rate)));
    return 0;
}

static int check(const struct tool_volume *paths, struct ps_volume *volume,
                 const struct ps_verify_options *how, bool json)
{
    struct check_run run = {.bad = json ? json_array() : NULL};
    struct ps_verify_options options = *how;
    struct ps_verify_report report = {0};
    struct ps_error err = {0};
    uint64_t begin_ns = ps_now_ns();
    int rc, status;

    options.bad = bad_take;
    options.progress = progress_take;
    options.ctx = &run;
    tool_progress_init(&run.progress, "checking");
    rc = ps_volume_verify(volume, &options, &report, &err);
    tool_progress_end(&run.progress);
    bool stopped = rc == -EINTR && tool_stop_status() != 0;
    if (rc < 0 && !stopped)
        status = tool_fail(&err);
    else
        status = result_print(&run, &report, stopped, ps_now_ns() - begin_ns);
    if (report.slices_bad > 0)
        status = tool_fail_text(paths->paths[0],
                                "the volume is damaged: lay the model out again, or, where there "
                                "are good second copies, rebalance it (%llu bad)",
                                (unsigned long long)report.slices_bad);
    json_decref(run.bad);
    return stopped ? tool_stop_status() : status;
}

int tool_check(const struct tool_volume *paths, const struct ps_verify_options *options, bool json)
{
    struct ps_volume *volume = NULL;
    struct ps_error err = {0};
    int status;

    tool_log_start(paths->verbose);
    tool_subject_set(paths->paths[0]);
    if (ps_volume_open(&volume, paths->paths, paths->path_count, &err) < 0)
        return tool_fail(&err);
    status = check(paths, volume, options, json);
    ps_volume_close(&volume);
    return status;
}
