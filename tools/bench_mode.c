#include "tools/bench_mode.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/util.h"
#include "tools/limit.h"
#include "tools/tool.h"

/* What the child tells its parent. */
struct answer {
    int rc;
    struct bench_sample sample;
    struct ps_error err;
};

/* ---- the child ------------------------------------------------------------------------------- */

/* Bytes that this process has had the drives read, the page cache's misses included. */
static uint64_t drive_bytes(void)
{
    FILE *file = fopen("/proc/self/io", "re");
    char line[128];
    uint64_t bytes = 0;

    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "read_bytes: %" SCNu64, &bytes) == 1)
            break;
    }
    if (file)
        fclose(file);
    return bytes;
}

static uint64_t cpu_ns(const struct rusage *usage)
{
    return ((uint64_t)usage->ru_utime.tv_sec + (uint64_t)usage->ru_stime.tv_sec) * 1000000000u +
           ((uint64_t)usage->ru_utime.tv_usec + (uint64_t)usage->ru_stime.tv_usec) * 1000u;
}

static int eval_each(struct ps_session *session, const int32_t *ids, uint32_t count,
                     struct ps_error *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < count && rc >= 0; i++)
        rc = ps_session_eval(session, &ids[i], 1, NULL, NULL, err);
    return rc;
}

static int measure(const struct bench_job *job, struct ps_engine *engine,
                   struct ps_session *session, struct bench_sample *sample, struct ps_error *err)
{
    struct ps_engine_stats a, b;
    struct rusage before, after;
    int rc = eval_each(session, job->ids, job->warm, err);

    if (rc < 0)
        return rc;
    ps_engine_stats(engine, &a);
    getrusage(RUSAGE_SELF, &before);
    uint64_t drive = drive_bytes(), begin_ns = ps_now_ns();
    rc = eval_each(session, job->ids + job->warm, job->tokens, err);
    if (rc < 0)
        return rc;
    sample->ns = ps_now_ns() - begin_ns;
    getrusage(RUSAGE_SELF, &after);
    sample->drive_bytes = drive_bytes() - drive;
    sample->cpu_ns = cpu_ns(&after) - cpu_ns(&before);
    sample->faults_major = (uint64_t)(after.ru_majflt - before.ru_majflt);
    sample->faults_minor = (uint64_t)(after.ru_minflt - before.ru_minflt);
    ps_engine_stats(engine, &b);
    sample->streamed_bytes = b.store.streamed_bytes - a.store.streamed_bytes;
    sample->wait_ns = b.store.wait_ns - a.store.wait_ns;
    sample->hits = b.store.hits - a.store.hits;
    sample->misses = b.store.misses - a.store.misses;
    sample->slots = b.store.slot_count;
    sample->peak_bytes = b.memory_peak_bytes;
    sample->hugepage_bytes = b.hugepage_bytes;
    sample->budget_bytes = b.budget_bytes;
    snprintf(sample->engine, sizeof(sample->engine), "%s", b.store.engine);
    return 0;
}

static int run(const struct bench_job *job, const char *mode, const struct tool_limit *limit,
               struct bench_sample *sample, struct ps_error *err)
{
    struct ps_model *model = NULL;
    struct ps_engine *engine = NULL;
    struct ps_session *session = NULL;
    struct ps_engine_stats stats;
    struct ps_engine_options options = {
        .memory_bytes = job->memory_bytes,
        .io = mode,
        .threads = job->threads,
        .ctx = job->warm + job->tokens,
    };
    bool joined = limit->dir[0] != '\0' && tool_limit_join(limit) == 0;
    int rc = ps_model_open(&model, job->paths, job->path_count, err);

    if (rc >= 0)
        rc = ps_engine_open(&engine, model, &options, err);
    if (rc >= 0)
        rc = ps_session_open(&session, engine, err);
    if (rc >= 0) {
        ps_engine_stats(engine, &stats);
        uint64_t huge = ps_min_u64(stats.hugepage_bytes, stats.budget_bytes);
        sample->is_limited = joined && tool_limit_set(limit, stats.budget_bytes - huge) == 0;
        rc = measure(job, engine, session, sample, err);
    }
    ps_session_close(&session);
    ps_engine_close(&engine);
    ps_model_close(&model);
    return rc < 0 ? rc : 0;
}

/* ---- the parent ------------------------------------------------------------------------------ */

/* What the last run has left in the page cache must not serve this one. */
static int drop_from_page_cache(const struct bench_job *job, struct ps_error *err)
{
    struct ps_volume *volume = NULL;
    int rc = ps_volume_open(&volume, job->paths, job->path_count, err);

    if (rc < 0)
        return rc;
    for (int i = 0; i < ps_volume_member_count(volume); i++) {
        struct ps_member_info member;
        ps_volume_member(volume, i, &member);
        int fd = member.is_missing ? -1 : open(member.path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (!member.is_device)
            fdatasync(fd);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    ps_volume_close(&volume);
    return 0;
}

static void be_child(const struct bench_job *job, const char *mode, const struct tool_limit *limit,
                     int out)
{
    static struct answer answer;

    /* Its parent handles them; the child just ends, at the latest with its parent. */
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    answer.rc = run(job, mode, limit, &answer.sample, &answer.err);
    _exit(write(out, &answer, sizeof(answer)) == (ssize_t)sizeof(answer) ? 0 : 1);
}

static int take_answer(const char *mode, pid_t child, int in, struct answer *answer,
                       struct ps_error *err)
{
    ssize_t got = read(in, answer, sizeof(*answer));
    int status = 0;

    if (tool_stop_status() != 0)
        kill(child, SIGTERM);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (tool_stop_status() != 0)
        return ps_error_set(err, -EINTR, mode, "stopped");
    if (WIFSIGNALED(status))
        return ps_error_set(err, -EIO, mode, "the run was ended by signal %d%s", WTERMSIG(status),
                            WTERMSIG(status) == SIGKILL
                                ? ", as the memory cgroup does when the ceiling does not hold"
                                : "");
    if (got != (ssize_t)sizeof(*answer))
        return ps_error_set(err, -EIO, mode, "the run ended without a result");
    if (answer->rc < 0 && err != NULL)
        *err = answer->err;
    return answer->rc;
}

int bench_mode_run(const struct bench_job *job, const char *mode, struct bench_sample *sample,
                   struct ps_error *err)
{
    struct tool_limit limit = {.dir = ""};
    static struct answer answer;
    int out[2];
    int rc = drop_from_page_cache(job, err);

    if (rc < 0)
        return rc;
    if (pipe2(out, O_CLOEXEC) < 0)
        return ps_error_set(err, -errno, mode, "no pipe to a child process: %s", strerror(errno));
    tool_limit_make(&limit);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        be_child(job, mode, &limit, out[1]);
    close(out[1]);
    if (child < 0)
        rc = ps_error_set(err, -EAGAIN, mode, "no further process could be started");
    else
        rc = take_answer(mode, child, out[0], &answer, err);
    close(out[0]);
    tool_limit_remove(&limit);
    if (rc == 0)
        *sample = answer.sample;
    return rc;
}
