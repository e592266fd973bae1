/*
 * How fast does each engine read at random from one file or drive, with nothing else going on?
 * Every block is read at most once, so that the page cache cannot serve it twice. Usage: bench_io
 * FILE [REQUEST_KIB [DEPTH [SECONDS]]]
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/io.h"
#include "nvme/raw_io.h"

static const char *const engines[] = {"uring", "pread", "pagecache", "mmap"};

struct job {
    int fd;
    const char *path;
    uint64_t block_count;
    uint32_t bytes, depth, seconds;
    struct ps_region region;
};

static void print_log(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx;
    (void)level;
    fprintf(stderr, "bench_io: %s\n", text);
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* A stride that is far and meets every block once: coprime to their number. */
static uint64_t choose_stride(uint64_t count)
{
    uint64_t stride = (uint64_t)((double)count * 0.6180339887) | 1;

    while (common_divisor(stride, count) != 1)
        stride += 2;
    return stride;
}

static void submit_block(const struct job *job, struct ps_io *io, uint64_t block, uint64_t slot)
{
    struct ps_io_request request = {
        .tag = slot,
        .offset = block * job->bytes,
        .buf = (uint8_t *)job->region.base + slot * job->bytes,
        .bytes = job->bytes,
    };
    io->ops->submit(io, &request, 1);
}

/* Keeps `depth` reads in flight until the time is over or every block has been read. */
static int read_blocks(const struct job *job, struct ps_io *io, uint64_t *done_bytes,
                       struct ps_error *err)
{
    struct ps_io_completion got[PS_IO_DEPTH_MAX];
    uint64_t stride = choose_stride(job->block_count), block = 0, next = 0;
    uint64_t stop_ns = ps_now_ns() + job->seconds * UINT64_C(1000000000);
    uint32_t in_flight = 0;

    for (; in_flight < job->depth && next < job->block_count; in_flight++, next++) {
        submit_block(job, io, block, in_flight);
        block = (block + stride) % job->block_count;
    }
    while (in_flight > 0) {
        int count = io->ops->reap(io, got, PS_IO_DEPTH_MAX, PS_IO_WAIT_FOREVER);
        bool go_on = ps_now_ns() < stop_ns;
        for (int i = 0; i < count; i++) {
            if (got[i].result != (int32_t)job->bytes)
                return ps_error_set(err, -EIO, job->path, "a read of %u bytes returned %d",
                                    job->bytes, got[i].result);
            *done_bytes += job->bytes;
            in_flight--;
            if (!go_on || next == job->block_count)
                continue;
            submit_block(job, io, block, got[i].tag);
            block = (block + stride) % job->block_count;
            next++;
            in_flight++;
        }
        if (count < 0)
            return ps_error_set(err, count, job->path, "the engine failed");
    }
    return 0;
}

static int run_engine(const struct job *job, const char *engine, struct ps_error *err)
{
    struct ps_io_config config = {
        .engine = engine,
        .fds = &job->fd,
        .names = &job->path,
        .member_count = 1,
        .depth = job->depth,
        .buffers = &job->region,
        .buffer_count = 1,
    };
    struct ps_io *io = NULL;
    uint64_t done_bytes = 0;

    posix_fadvise(job->fd, 0, 0, POSIX_FADV_DONTNEED);
    int rc = ps_io_open(&io, &config, err);
    if (rc < 0)
        return rc;
    uint64_t begin_ns = ps_now_ns();
    rc = read_blocks(job, io, &done_bytes, err);
    double seconds = (double)(ps_now_ns() - begin_ns) / 1e9;
    if (rc == 0)
        printf("%-10s %8.3f GB/s %10.0f reads/s%s%s%s\n", engine,
               (double)done_bytes / seconds / 1e9, (double)(done_bytes / job->bytes) / seconds,
               io->direct ? ", O_DIRECT" : "", io->registered ? ", registered buffers" : "",
               done_bytes / job->bytes == job->block_count ? ", all of it once" : "");
    ps_io_close(&io);
    return rc;
}

static int open_job(struct job *job, struct ps_error *err)
{
    uint64_t bytes;
    bool is_device;

    job->fd = open(job->path, O_RDONLY | O_CLOEXEC);
    int rc = job->fd < 0 ? -errno : ps_raw_size(job->fd, &bytes, &is_device);
    if (rc < 0)
        return ps_error_set(err, rc, job->path, "%s", ps_strerror(rc));
    fdatasync(job->fd);
    job->block_count = bytes / job->bytes;
    if (job->block_count == 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, job->path, "is shorter than one read");
    return ps_region_map(&job->region, (size_t)job->bytes * job->depth, -1, err);
}

int main(int argc, char **argv)
{
    struct job job = {.bytes = 2u << 20, .depth = PS_IO_DEPTH_DEFAULT, .seconds = 3, .fd = -1};
    struct ps_error err = {0};

    if (argc > 1)
        job.path = argv[1];
    if (argc > 2)
        job.bytes = (uint32_t)strtoul(argv[2], NULL, 10) << 10;
    if (argc > 3)
        job.depth = (uint32_t)strtoul(argv[3], NULL, 10);
    if (argc > 4)
        job.seconds = (uint32_t)strtoul(argv[4], NULL, 10);
    if (argc < 2 || argc > 5 || job.bytes % PS_IO_ALIGN_BYTES || job.bytes < PS_IO_ALIGN_BYTES ||
        job.bytes > 4u << 20 || job.depth < 1 || job.depth > PS_IO_DEPTH_MAX) {
        fprintf(stderr, "usage: bench_io FILE [REQUEST_KIB [DEPTH [SECONDS]]]\n"
                        "requests of 4 to 4096 KiB in steps of 4, at most 128 in flight\n");
        return 2;
    }
    ps_log_set(print_log, NULL);
    int rc = open_job(&job, &err);
    if (rc == 0)
        printf("%s: random reads of %u KiB, %u in flight\n", job.path, job.bytes >> 10, job.depth);
    for (size_t i = 0; i < PS_ARRAY_LEN(engines) && rc == 0; i++)
        rc = run_engine(&job, engines[i], &err);
    if (rc < 0)
        fprintf(stderr, "bench_io: %s: %s\n", err.where, err.text);
    ps_region_unmap(&job.region);
    if (job.fd >= 0)
        close(job.fd);
    return rc < 0;
}
