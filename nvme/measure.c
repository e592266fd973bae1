#include "nvme/measure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/budget.h"
#include "core/busy.h"
#include "core/util.h"
#include "nvme/drive.h"
#include "nvme/histogram.h"
#include "nvme/raw_io.h"

/* Completions taken at once, and so reads begun by one call. */
#define BATCH_COUNT 64u
/* How long a wait for completions goes on before it looks whether it shall stop. */
#define WAIT_NS 100000000u
/* A drive that has answered nothing for so long, or since it was to stop, is given up. */
#define HANG_NS UINT64_C(60000000000)
#define STOP_HANG_NS UINT64_C(2000000000)
/* A file of which more than one part in so many was never written is refused. */
#define HOLE_SHARE 64u
#define BLANK_BYTES 4096u

struct target {
    const char *path; /* the caller's */
    int fd;
    uint64_t bytes;
    bool is_device;
    struct ps_region region;
    /* Of the point that is being read. */
    uint64_t block_count, next;
    uint64_t seed;
};

struct ps_bench {
    struct ps_io *io;
    struct target targets[PS_MEMBER_COUNT_MAX];
    int target_count;
    uint32_t depth_max;
    uint64_t in_flight_bytes_max;
    uint64_t *begin_ns; /* [target_count * depth_max] when each read in flight was begun */
    struct ps_histogram latency;
};

/* ---- targets --------------------------------------------------------------------------------- */

static int open_error(int code, const char *path, struct ps_error *err)
{
    if (code == -EACCES || code == -EPERM)
        return ps_error_set(err, code, path,
                            "no permission to read it; for a drive, join its group (often 'disk') "
                            "or run as root");
    return ps_error_set(err, code, path, "it cannot be opened for reading: %s", ps_strerror(code));
}

/*
 * Reads of what was never written (holes, space that is only set aside) are answered by the file
 * system with zeroes: they would measure the processor, not the drive.
 */
static int check_written(const struct target *t, struct ps_error *err)
{
    uint64_t written = 0;
    off_t at = 0;
    char have[32], all[32];

    while (written < t->bytes && (at = lseek(t->fd, at, SEEK_DATA)) >= 0) {
        off_t end = lseek(t->fd, at, SEEK_HOLE);
        if (end <= at)
            return 0; /* a file system that cannot tell */
        written += (uint64_t)(end - at);
        at = end;
    }
    if (at < 0 && errno != ENXIO)
        return 0;
    if (written >= t->bytes - t->bytes / HOLE_SHARE)
        return 0;
    return ps_error_set(err, -PS_ERR_ARGUMENT, t->path,
                        "only %s of its %s have ever been written, and reads of the rest would not "
                        "reach the drive; name a file that is written whole",
                        ps_size_text(written, have, sizeof(have)),
                        ps_size_text(t->bytes, all, sizeof(all)));
}

/* What is in the page cache would be read faster than the drive can; dirty pages cannot be dropped
 * before they are written. */
static void drop_cached(const struct target *t)
{
    if (!t->is_device)
        fdatasync(t->fd);
    posix_fadvise(t->fd, 0, 0, POSIX_FADV_DONTNEED);
}

static int open_target(struct target *t, const char *path, uint64_t buffer_bytes,
                       struct ps_error *err)
{
    struct ps_drive_info drive;

    t->path = path;
    /* O_NONBLOCK: opening a FIFO by mistake must not hang; reads of files do not heed it. */
    t->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (t->fd < 0)
        return open_error(-errno, path, err);
    int rc = ps_raw_size(t->fd, &t->bytes, &t->is_device);
    if (rc < 0)
        return ps_error_set(err, rc, path, "only files and block devices can be measured: %s",
                            ps_strerror(rc));
    rc = t->is_device ? 0 : check_written(t, err);
    if (rc < 0)
        return rc;
    drop_cached(t);
    int node = ps_drive_info(path, &drive) == 0 ? drive.node : -1;
    return ps_region_map(&t->region, buffer_bytes, node, err);
}

static int open_engine(struct ps_bench *bench, const char *engine, struct ps_error *err)
{
    int fds[PS_MEMBER_COUNT_MAX];
    const char *names[PS_MEMBER_COUNT_MAX];
    struct ps_region regions[PS_MEMBER_COUNT_MAX];
    struct ps_io_config config = {
        .engine = engine != NULL ? engine : "uring",
        .fds = fds,
        .names = names,
        .member_count = bench->target_count,
        .depth = bench->depth_max,
        .buffers = regions,
        .buffer_count = (uint32_t)bench->target_count,
    };

    for (int i = 0; i < bench->target_count; i++) {
        fds[i] = bench->targets[i].fd;
        names[i] = bench->targets[i].path;
        regions[i] = bench->targets[i].region;
    }
    return ps_io_open(&bench->io, &config, err);
}

int ps_bench_open(struct ps_bench **out, const char *const *paths, int path_count,
                  const char *engine, uint32_t depth_max, uint64_t in_flight_bytes_max,
                  struct ps_error *err)
{
    if (path_count < 1 || path_count > PS_MEMBER_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "measure", "name 1 to %d files or drives",
                            PS_MEMBER_COUNT_MAX);
    struct ps_bench *bench = calloc(1, sizeof(*bench));
    if (bench == NULL)
        return ps_error_set(err, -ENOMEM, paths[0], "not enough memory");
    for (int i = 0; i < PS_MEMBER_COUNT_MAX; i++)
        bench->targets[i].fd = -1;
    bench->target_count = path_count;
    bench->depth_max = depth_max;
    bench->in_flight_bytes_max = in_flight_bytes_max;
    bench->begin_ns = calloc((size_t)path_count * depth_max, sizeof(*bench->begin_ns));
    int rc = 0;
    if (bench->begin_ns == NULL)
        rc = ps_error_set(err, -ENOMEM, paths[0], "not enough memory");
    for (int i = 0; i < path_count && rc == 0; i++)
        rc = open_target(&bench->targets[i], paths[i], in_flight_bytes_max, err);
    if (rc == 0)
        rc = open_engine(bench, engine, err);
    if (rc < 0) {
        ps_bench_close(&bench);
        return rc;
    }
    *out = bench;
    return 0;
}

void ps_bench_close(struct ps_bench **bench)
{
    if (bench == NULL || *bench == NULL)
        return;
    struct ps_bench *b = *bench;
    /* Where a drive hangs, its answer may come yet: the buffers stay for it. */
    bool is_clear = ps_io_close(&b->io) == 0;
    for (int i = 0; i < b->target_count; i++) {
        if (is_clear)
            ps_region_unmap(&b->targets[i].region);
        if (b->targets[i].fd >= 0)
            close(b->targets[i].fd);
    }
    free(b->begin_ns);
    free(b);
    *bench = NULL;
}

uint64_t ps_bench_target_bytes(const struct ps_bench *bench, int target)
{
    return bench->targets[target].bytes;
}

/* ---- order ----------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

/*
 * A Feistel network of four rounds permutes the numbers below the next power of four; a result that
 * is not below count goes through it again until one is. A stride would meet each block once as
 * well, but a drive could learn it.
 */
uint64_t ps_bench_shuffle(uint64_t i, uint64_t count, uint64_t seed)
{
    uint32_t half_bits = 1;
    while (half_bits < 31 && UINT64_C(1) << 2 * half_bits < count)
        half_bits++;
    uint64_t mask = (UINT64_C(1) << half_bits) - 1;

    do {
        uint64_t left = i >> half_bits, right = i & mask;
        for (uint64_t round = 1; round <= 4; round++) {
            uint64_t next = left ^ (mix(right + (seed << 3 | round) * 0x9E3779B97F4A7C15u) & mask);
            left = right;
            right = next;
        }
        i = left << half_bits | right;
    } while (i >= count);
    return i;
}

static uint64_t next_offset(const struct ps_bench *bench, struct target *t,
                            const struct ps_bench_point *point)
{
    if (t->next == t->block_count) {
        /* Another round: what the first has left in the page cache must not serve it. */
        if (!bench->io->direct)
            drop_cached(t);
        t->next = 0;
        t->seed++;
    }
    uint64_t block = t->next++;
    if (!point->is_sequential)
        block = ps_bench_shuffle(block, t->block_count, t->seed);
    return block * point->request_bytes;
}

/* ---- reading --------------------------------------------------------------------------------- */

struct reading {
    struct ps_bench *bench;
    const struct ps_bench_point *point;
    struct ps_measure_result *result;
    struct ps_error *err;
    uint64_t begin_ns;
    uint32_t in_flight;
    bool refills; /* a read that has ended is followed by another */
    int rc;
    /* All queues were full from the first of these to the second. */
    uint64_t full_ns, full_bytes, last_ns, last_bytes;
};

static struct ps_io_request make_request(struct reading *r, uint32_t target, uint32_t slot,
                                         uint64_t now_ns)
{
    struct target *t = &r->bench->targets[target];

    r->bench->begin_ns[(uint64_t)target * r->bench->depth_max + slot] = now_ns;
    return (struct ps_io_request){
        .tag = (uint64_t)target << 32 | slot,
        .offset = next_offset(r->bench, t, r->point),
        .buf = (uint8_t *)t->region.base + (uint64_t)slot * r->point->request_bytes,
        .bytes = r->point->request_bytes,
        .member = target,
    };
}

static void submit(struct reading *r, const struct ps_io_request *requests, uint32_t count)
{
    struct ps_io *io = r->bench->io;

    /* The engine has room for depth_max on every target, so it takes them all. */
    uint32_t taken = count > 0 ? io->ops->submit(io, requests, count) : 0;
    r->in_flight += taken;
    if (taken < count && r->rc == 0)
        r->rc = ps_error_set(r->err, -EIO, r->bench->targets[requests[taken].member].path,
                             "the I/O engine took only %u of %u reads", taken, count);
}

static void begin_all(struct reading *r)
{
    struct ps_io_request batch[BATCH_COUNT];
    uint32_t n = 0;

    /* Slot by slot over all targets, so that no drive waits for the queues of the others. */
    for (uint32_t slot = 0; slot < r->point->depth; slot++) {
        for (int i = 0; i < r->bench->target_count; i++) {
            batch[n++] = make_request(r, (uint32_t)i, slot, ps_now_ns());
            if (n == BATCH_COUNT) {
                submit(r, batch, n);
                n = 0;
            }
        }
    }
    submit(r, batch, n);
}

static void fail_read(struct reading *r, uint32_t target, int32_t result)
{
    const char *path = r->bench->targets[target].path;

    if (r->rc < 0)
        return;
    if (result < 0)
        r->rc = ps_error_set(r->err, result, path, "a read of %u bytes failed: %s",
                             r->point->request_bytes, ps_strerror(result));
    else
        r->rc = ps_error_set(r->err, -PS_ERR_SHORT_READ, path,
                             "a read of %u bytes brought only %d; has it become shorter, or has "
                             "the drive gone?",
                             r->point->request_bytes, result);
}

/* Whether a read that has ended is to be followed by another, with `pending` more under way. */
static bool goes_on(const struct reading *r, uint32_t pending, uint64_t now_ns)
{
    const struct ps_bench_point *point = r->point;
    uint64_t begun = r->result->bytes + (uint64_t)pending * point->request_bytes;

    if (r->rc < 0 || (point->stop != NULL && *point->stop != 0))
        return false;
    if (point->bytes_max != 0 && begun >= point->bytes_max)
        return false;
    return now_ns - r->begin_ns < point->ns_max ||
           r->result->request_count < point->request_count_min;
}

static void take(struct reading *r, const struct ps_io_completion *done, uint32_t count)
{
    struct ps_measure_result *result = r->result;
    struct ps_io_request batch[BATCH_COUNT];
    uint64_t now_ns = ps_now_ns();
    uint32_t n = 0;

    r->in_flight -= count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t target = (uint32_t)(done[i].tag >> 32), slot = (uint32_t)done[i].tag;
        if (done[i].result != (int32_t)r->point->request_bytes) {
            fail_read(r, target, done[i].result);
            continue;
        }
        uint64_t begin = r->bench->begin_ns[(uint64_t)target * r->bench->depth_max + slot];
        ps_histogram_add(&r->bench->latency, now_ns - begin);
        result->bytes += r->point->request_bytes;
        result->request_count++;
        result->path_bytes[target] += r->point->request_bytes;
    }
    if (r->refills) {
        uint64_t warm = (uint64_t)r->point->depth * (uint64_t)r->bench->target_count;
        r->last_ns = now_ns;
        r->last_bytes = result->bytes;
        if (r->full_ns == 0 && result->request_count >= warm) {
            r->full_ns = now_ns;
            r->full_bytes = result->bytes;
        }
    }
    for (uint32_t i = 0; i < count && r->refills; i++) {
        r->refills = goes_on(r, r->in_flight + n, now_ns);
        if (r->refills)
            batch[n++] =
                make_request(r, (uint32_t)(done[i].tag >> 32), (uint32_t)done[i].tag, now_ns);
    }
    submit(r, batch, n);
}

/* Whether the drives have been silent for too long. */
static bool hangs(struct reading *r, uint64_t silent_ns)
{
    const volatile int *stop = r->point->stop;

    if (silent_ns < (stop != NULL && *stop != 0 ? STOP_HANG_NS : HANG_NS))
        return false;
    r->rc = ps_error_set(r->err, -ETIMEDOUT, r->bench->targets[0].path,
                         "%u reads have not been answered for %llu s; the drive hangs, or is gone",
                         r->in_flight, (unsigned long long)(silent_ns / 1000000000u));
    return true;
}

/* Returns with reads in flight only when the engine or a drive has failed; then r->rc says so, and
 * the bench is of no more use. */
static void read_all(struct reading *r)
{
    struct ps_io *io = r->bench->io;
    struct ps_io_completion done[BATCH_COUNT];
    uint64_t answer_ns = r->begin_ns;

    begin_all(r);
    r->refills = goes_on(r, r->in_flight, r->begin_ns);
    while (r->in_flight > 0) {
        int count = io->ops->reap(io, done, BATCH_COUNT, WAIT_NS);
        if (count < 0) {
            r->rc = ps_error_set(r->err, count, r->bench->targets[0].path,
                                 "the I/O engine failed: %s", ps_strerror(count));
            return;
        }
        if (count == 0 && hangs(r, ps_now_ns() - answer_ns))
            return;
        if (count > 0) {
            answer_ns = ps_now_ns();
            take(r, done, (uint32_t)count);
        }
    }
}

/* ---- results --------------------------------------------------------------------------------- */

static uint64_t timeval_ns(struct timeval tv)
{
    return (uint64_t)tv.tv_sec * 1000000000u + (uint64_t)tv.tv_usec * 1000u;
}

static void count_usage(struct ps_measure_result *result, const struct rusage *before,
                        const struct rusage *after)
{
    result->cpu_ns = timeval_ns(after->ru_utime) + timeval_ns(after->ru_stime) -
                     timeval_ns(before->ru_utime) - timeval_ns(before->ru_stime);
    result->faults_minor = (uint64_t)(after->ru_minflt - before->ru_minflt);
    result->faults_major = (uint64_t)(after->ru_majflt - before->ru_majflt);
}

static void fill_result(const struct reading *r, uint64_t end_ns)
{
    const struct ps_histogram *latency = &r->bench->latency;
    const struct ps_io *io = r->bench->io;
    struct ps_measure_result *result = r->result;

    result->ns = end_ns - r->begin_ns;
    result->bytes_per_s =
        result->ns > 0 ? (uint64_t)((double)result->bytes * 1e9 / (double)result->ns) : 0;
    result->steady_bytes_per_s = result->bytes_per_s;
    if (r->full_ns != 0 && r->last_ns > r->full_ns)
        result->steady_bytes_per_s = (uint64_t)((double)(r->last_bytes - r->full_bytes) * 1e9 /
                                                (double)(r->last_ns - r->full_ns));
    result->latency_p50_ns = ps_histogram_quantile(latency, 0.5);
    result->latency_p90_ns = ps_histogram_quantile(latency, 0.9);
    result->latency_p99_ns = ps_histogram_quantile(latency, 0.99);
    result->latency_p999_ns = ps_histogram_quantile(latency, 0.999);
    result->latency_max_ns = latency->max;
    snprintf(result->engine, sizeof(result->engine), "%s%s%s", io->ops->id,
             io->iopoll ? "+iopoll" : "", io->sqpoll ? "+sqpoll" : "");
    result->direct = io->direct;
    result->registered = io->registered;
}

/* Whether the last reads brought nothing but zeroes. */
static bool is_blank(const struct ps_bench *bench, const struct ps_bench_point *point)
{
    static const uint8_t zeroes[BLANK_BYTES];

    for (int i = 0; i < bench->target_count; i++) {
        const uint8_t *base = bench->targets[i].region.base;
        for (uint32_t slot = 0; slot < point->depth; slot++) {
            if (memcmp(base + (uint64_t)slot * point->request_bytes, zeroes, BLANK_BYTES) != 0)
                return false;
        }
    }
    return true;
}

static int begin_point(struct ps_bench *bench, const struct ps_bench_point *point,
                       struct ps_error *err)
{
    if (point->request_bytes == 0 || point->request_bytes % PS_IO_ALIGN_BYTES != 0 ||
        point->request_bytes > PS_IO_REQUEST_BYTES_MAX || point->depth < 1 ||
        point->depth > bench->depth_max ||
        (uint64_t)point->request_bytes * point->depth > bench->in_flight_bytes_max)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "measure",
                            "%u reads of %u bytes in flight are not possible here", point->depth,
                            point->request_bytes);
    for (int i = 0; i < bench->target_count; i++) {
        struct target *t = &bench->targets[i];
        t->block_count = t->bytes / point->request_bytes;
        t->next = 0;
        t->seed = point->seed << 16;
        if (t->block_count == 0)
            return ps_error_set(err, -PS_ERR_ARGUMENT, t->path,
                                "it is shorter (%llu bytes) than one read of %u bytes",
                                (unsigned long long)t->bytes, point->request_bytes);
        if (!bench->io->direct)
            drop_cached(t);
    }
    memset(&bench->latency, 0, sizeof(bench->latency));
    return 0;
}

int ps_bench_read(struct ps_bench *bench, const struct ps_bench_point *point,
                  struct ps_measure_result *result, struct ps_error *err)
{
    struct ps_measure_result measured = {0};
    struct reading r = {.bench = bench, .point = point, .result = &measured, .err = err};
    struct rusage before, after;
    int rc = begin_point(bench, point, err);

    if (rc < 0)
        return rc;
    struct ps_busy *busy = point->is_beside_busy ? ps_busy_begin() : NULL;
    getrusage(RUSAGE_SELF, &before);
    r.begin_ns = ps_now_ns();
    read_all(&r);
    uint64_t end_ns = ps_now_ns();
    getrusage(RUSAGE_SELF, &after);
    ps_busy_end(busy);
    if (r.rc == 0 && point->stop != NULL && *point->stop != 0)
        r.rc = ps_error_set(err, -EINTR, bench->targets[0].path, "the measurement was stopped");
    if (r.rc < 0)
        return r.rc;
    fill_result(&r, end_ns);
    count_usage(&measured, &before, &after);
    measured.is_blank = is_blank(bench, point);
    *result = measured;
    return 0;
}

int ps_measure_run(const struct ps_measure_options *options, struct ps_measure_result *result,
                   struct ps_error *err)
{
    struct ps_bench_point point = {
        .request_bytes = options->request_bytes,
        .depth = options->depth,
        .ns_max = options->ns_max != 0 ? options->ns_max : UINT64_MAX,
        .bytes_max = options->bytes_max,
        .is_sequential = options->is_sequential,
        .is_beside_busy = options->is_beside_busy,
        .seed = options->seed,
        .stop = options->stop,
    };
    uint64_t in_flight = (uint64_t)point.request_bytes * point.depth;
    struct ps_bench *bench = NULL;

    if (options->ns_max == 0 && options->bytes_max == 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "measure", "say how long or how much to read");
    if (point.request_bytes == 0 || point.request_bytes % PS_IO_ALIGN_BYTES != 0 ||
        point.request_bytes > PS_IO_REQUEST_BYTES_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "measure",
                            "reads are multiples of %u bytes up to %u, not %u", PS_IO_ALIGN_BYTES,
                            PS_IO_REQUEST_BYTES_MAX, point.request_bytes);
    if (point.depth < 1 || point.depth > PS_IO_DEPTH_MAX ||
        in_flight > PS_MEASURE_IN_FLIGHT_BYTES_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "measure",
                            "%u reads of %u bytes cannot be in flight; 1 to %u of them can, and at "
                            "most 1 GiB together",
                            point.depth, point.request_bytes, PS_IO_DEPTH_MAX);
    int rc = ps_bench_open(&bench, options->paths, options->path_count, options->engine,
                           point.depth, in_flight, err);
    if (rc == 0)
        rc = ps_bench_read(bench, &point, result, err);
    ps_bench_close(&bench);
    return rc;
}
