/*
 * The io_uring engine: O_DIRECT reads with registered files into registered buffers, on a ring that
 * the kernel has been told to accept nothing but reads on.
 */
#include "nvme/io.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/budget.h"
#include "core/log.h"
#include "core/util.h"

/* Heads, tails and flags in front of the two rings, and the rounding of three mappings to pages. */
#define RING_HEADER_BYTES (4u * 4096u)

/* A registered buffer, sorted by address so that a request finds its own. */
struct buffer {
    uintptr_t begin, end;
};

struct uring {
    struct ps_io io;
    struct io_uring ring;
    bool ring_is_open;
    int member_count;
    uint32_t in_flight;
    int error; /* of io_uring_enter; the engine is of no more use */
    struct ps_io_file *files;
    struct ps_io_part *parts; /* [capacity] */
    uint32_t *free_parts;     /* stack of numbers of parts */
    uint32_t free_count;
    struct buffer *buffers; /* [buffer_count] */
    uint32_t buffer_count;  /* 0 unless registered */
};

/*
 * Newest first. COOP_TASKRUN (5.19) spares the interrupts by which completions would break into
 * the arithmetic; TASKRUN_FLAG lets a peek see that some are waiting. R_DISABLED (5.10) is what
 * restrictions need. SINGLE_ISSUER is left out: a store may be opened by one thread and used by
 * another.
 */
static const unsigned setups[] = {
    IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    IORING_SETUP_R_DISABLED,
    0,
};

static int open_ring(struct uring *u, bool *is_disabled, struct ps_error *err)
{
    int rc = -EINVAL;

    for (size_t i = 0; i < PS_ARRAY_LEN(setups) && rc == -EINVAL; i++) {
        struct io_uring_params params = {.flags = setups[i]};
        rc = io_uring_queue_init_params(u->io.capacity, &u->ring, &params);
        *is_disabled = (setups[i] & IORING_SETUP_R_DISABLED) != 0;
        if (rc == 0 && i > 0)
            ps_log(PS_LOG_INFO,
                   "this kernel has no io_uring with COOP_TASKRUN%s; a newer one (6.1) %s",
                   *is_disabled ? "" : " nor restrictions",
                   *is_disabled ? "disturbs the arithmetic less"
                                : "disturbs the arithmetic less and enforces that only is read");
    }
    if (rc < 0)
        return ps_error_set(err, rc, PS_IO_URING_WHERE, "%s", strerror(-rc));
    u->ring_is_open = true;
    return 0;
}

/*
 * Reads of registered files alone. Belt and braces: the files are open for reading only. Through
 * the raw call because liburing 2.3's shared library does not export its wrapper.
 */
static int restrict_ring(struct uring *u, struct ps_error *err)
{
    struct io_uring_restriction allowed[] = {
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ},
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ_FIXED},
        {.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE},
        {.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE},
    };
    int rc = io_uring_register((unsigned)u->ring.ring_fd, IORING_REGISTER_RESTRICTIONS, allowed,
                               PS_ARRAY_LEN(allowed));
    if (rc < 0)
        return ps_error_set(err, rc, PS_IO_URING_WHERE, "restrictions: %s", strerror(-rc));
    rc = io_uring_register((unsigned)u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (rc < 0)
        return ps_error_set(err, rc, PS_IO_URING_WHERE, "enabling the ring: %s", strerror(-rc));
    return 0;
}

static int register_files(struct uring *u, struct ps_error *err)
{
    int *fds = calloc((size_t)u->member_count, sizeof(*fds));
    if (!fds)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    for (int i = 0; i < u->member_count; i++)
        fds[i] = u->files[i].fd;
    int rc = io_uring_register_files(&u->ring, fds, (unsigned)u->member_count);
    free(fds);
    return rc < 0 ? ps_error_set(err, rc, PS_IO_URING_WHERE, "registering files: %s", strerror(-rc))
                  : 0;
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = ((const struct buffer *)a)->begin, y = ((const struct buffer *)b)->begin;
    return (x > y) - (x < y);
}

static void log_unregistered(int rc, uint64_t bytes)
{
    struct rlimit limit = {0};
    char need[32], have[32];

    getrlimit(RLIMIT_MEMLOCK, &limit);
    /* The limit counts everything that the user has locked, so it may be the larger number. */
    if (rc == -ENOMEM && limit.rlim_cur != RLIM_INFINITY)
        ps_log(PS_LOG_WARN,
               "the cache of %s is not registered with io_uring, because this user may lock %s "
               "only; reads cost a little more CPU; raise the limit with `ulimit -l unlimited` or "
               "LimitMEMLOCK=infinity",
               ps_size_text_binary(bytes, need, sizeof(need)),
               ps_size_text_binary(limit.rlim_cur, have, sizeof(have)));
    else
        ps_log(PS_LOG_WARN,
               "the cache of %s is not registered with io_uring (%s); reads cost a little more CPU",
               ps_size_text_binary(bytes, need, sizeof(need)), strerror(-rc));
}

/* Fails only for want of memory for the tables: unregistered buffers are slower, not wrong. */
static int register_buffers(struct uring *u, const struct ps_io_config *config,
                            struct ps_error *err)
{
    uint32_t count = config->buffer_count;
    uint64_t bytes = 0;

    if (count == 0)
        return 0;
    u->buffers = calloc(count, sizeof(*u->buffers));
    struct iovec *vectors = calloc(count, sizeof(*vectors));
    if (!u->buffers || !vectors) {
        free(vectors);
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++) {
        uintptr_t begin = (uintptr_t)config->buffers[i].base;
        /* An object over 1 GiB has a longer region to itself, which cannot be registered. */
        if (config->buffers[i].bytes <= PS_IO_BUFFER_BYTES_MAX && n < PS_IO_BUFFER_COUNT_MAX)
            u->buffers[n++] = (struct buffer){begin, begin + config->buffers[i].bytes};
    }
    qsort(u->buffers, n, sizeof(*u->buffers), by_address);
    for (uint32_t i = 0; i < n; i++) {
        vectors[i] =
            (struct iovec){(void *)u->buffers[i].begin, u->buffers[i].end - u->buffers[i].begin};
        bytes += vectors[i].iov_len;
    }
    int rc = n > 0 ? io_uring_register_buffers(&u->ring, vectors, n) : 0;
    free(vectors);
    u->buffer_count = rc < 0 ? 0 : n;
    u->io.registered = rc == 0 && n == count;
    if (rc < 0)
        log_unregistered(rc, bytes);
    return 0;
}

/* The number of the buffer that holds all of [p, p + bytes), or -1. */
static int find_buffer(const struct uring *u, const void *p, uint32_t bytes)
{
    uintptr_t begin = (uintptr_t)p;
    uint32_t low = 0, high = u->buffer_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (u->buffers[middle].end <= begin)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == u->buffer_count || begin < u->buffers[low].begin ||
        begin + bytes > u->buffers[low].end)
        return -1;
    return (int)low;
}

static void prepare(struct uring *u, uint32_t part_idx)
{
    const struct ps_io_part *part = &u->parts[part_idx];
    const struct ps_io_request *rq = &part->request;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    uint8_t *buf = (uint8_t *)rq->buf + part->begin;
    uint32_t bytes = rq->bytes - part->begin;
    int buffer = find_buffer(u, buf, bytes);

    /* The ring has an entry for every part, and each part is in it at most once. */
    assert(sqe);
    if (buffer >= 0)
        io_uring_prep_read_fixed(sqe, (int)rq->member, buf, bytes, rq->offset + part->begin,
                                 buffer);
    else
        io_uring_prep_read(sqe, (int)rq->member, buf, bytes, rq->offset + part->begin);
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    sqe->user_data = part_idx;
}

/* What the kernel does not take now stays in the ring and is offered again by the next reap. */
static void flush(struct uring *u, uint64_t wait_ns)
{
    struct __kernel_timespec limit = {.tv_sec = (int64_t)(wait_ns / 1000000000u),
                                      .tv_nsec = (int64_t)(wait_ns % 1000000000u)};
    struct io_uring_cqe *cqe;
    int rc;

    if (wait_ns == 0 || wait_ns == PS_IO_WAIT_FOREVER)
        rc = io_uring_submit_and_wait(&u->ring, wait_ns != 0);
    else
        rc = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &limit, NULL);
    if (rc < 0 && rc != -EAGAIN && rc != -EBUSY && rc != -EINTR && rc != -ETIME)
        u->error = rc;
}

static uint32_t uring_submit(struct ps_io *io, const struct ps_io_request *requests, uint32_t count)
{
    struct uring *u = (struct uring *)io;
    uint32_t n = 0;

    while (n < count && u->free_count > 0) {
        uint32_t part_idx = u->free_parts[--u->free_count];
        u->parts[part_idx] = (struct ps_io_part){.request = requests[n++]};
        prepare(u, part_idx);
    }
    u->in_flight += n;
    if (n > 0)
        flush(u, 0);
    return n;
}

/* True when the completion ends a request, which is then in *out. */
static bool complete(struct uring *u, const struct io_uring_cqe *cqe, struct ps_io_completion *out)
{
    uint32_t part_idx = (uint32_t)cqe->user_data;
    struct ps_io_part *part = &u->parts[part_idx];
    const struct ps_io_request *rq = &part->request;
    const struct ps_io_file *file = &u->files[rq->member];

    if (!ps_io_part_step(part, cqe->res, file->direct, &out->result)) {
        prepare(u, part_idx);
        return false;
    }
    /* Where O_DIRECT was refused the pages are of no use to anybody: the cache is ours. */
    if (!file->direct)
        posix_fadvise(file->fd, (off_t)rq->offset, (off_t)rq->bytes, POSIX_FADV_DONTNEED);
    out->tag = rq->tag;
    u->free_parts[u->free_count++] = part_idx;
    u->in_flight--;
    return true;
}

static int uring_reap(struct ps_io *io, struct ps_io_completion *out, uint32_t capacity,
                      uint64_t wait_ns)
{
    struct uring *u = (struct uring *)io;
    uint64_t end_ns = ps_deadline_ns(wait_ns);
    uint32_t n = 0;

    for (;;) {
        struct io_uring_cqe *cqe;
        while (n < capacity && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
            n += complete(u, cqe, &out[n]);
            io_uring_cqe_seen(&u->ring, cqe);
        }
        uint64_t left_ns = n == 0 && u->in_flight > 0 ? ps_left_ns(end_ns) : 0;
        if (!u->error && (left_ns > 0 || io_uring_sq_ready(&u->ring) > 0))
            flush(u, left_ns);
        if (u->error && n == 0)
            return u->error;
        if (left_ns == 0)
            return (int)n;
    }
}

static void uring_close(struct ps_io *io)
{
    struct uring *u = (struct uring *)io;
    struct ps_io_completion dropped[16];

    /* Memory must not be given back while a drive may still write to it. */
    while (u->in_flight > 0 &&
           uring_reap(io, dropped, PS_ARRAY_LEN(dropped), PS_IO_WAIT_FOREVER) >= 0) {
    }
    if (u->ring_is_open)
        io_uring_queue_exit(&u->ring);
    if (u->files)
        ps_io_files_close(u->files, u->member_count);
    free(u->files);
    free(u->parts);
    free(u->free_parts);
    free(u->buffers);
    free(u);
}

static int allocate(struct uring *u, const struct ps_io_config *config, struct ps_error *err)
{
    u->member_count = config->member_count;
    u->io.capacity = (uint32_t)config->member_count * config->depth;
    u->files = calloc((size_t)config->member_count, sizeof(*u->files));
    u->parts = calloc(u->io.capacity, sizeof(*u->parts));
    u->free_parts = calloc(u->io.capacity, sizeof(*u->free_parts));
    for (int i = 0; u->files && i < config->member_count; i++)
        u->files[i].fd = -1;
    if (!u->files || !u->parts || !u->free_parts)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    for (uint32_t i = 0; i < u->io.capacity; i++)
        u->free_parts[u->free_count++] = i;
    return 0;
}

/* The ring has a power of two of entries: 64 bytes and an index each, and two completions of 16. */
static uint64_t uring_memory_bytes(int member_count, uint32_t depth)
{
    uint64_t capacity = (uint64_t)member_count * depth;
    uint64_t entry_bytes = 64 + sizeof(uint32_t) + 2 * sizeof(struct io_uring_cqe);

    return sizeof(struct uring) + capacity * (sizeof(struct ps_io_part) + sizeof(uint32_t)) +
           (uint64_t)member_count * sizeof(struct ps_io_file) + 2 * capacity * entry_bytes +
           RING_HEADER_BYTES;
}

static int uring_open(struct ps_io **out, const struct ps_io_config *config, struct ps_error *err)
{
    bool is_disabled = false;
    struct uring *u = calloc(1, sizeof(*u));

    if (!u)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    u->io.ops = &ps_io_uring;
    int rc = allocate(u, config, err);
    if (rc == 0)
        rc = open_ring(u, &is_disabled, err);
    if (rc == 0)
        rc = ps_io_files_open(u->files, config, true, err);
    if (rc == 0)
        rc = register_files(u, err);
    if (rc == 0)
        rc = register_buffers(u, config, err);
    if (rc == 0 && is_disabled)
        rc = restrict_ring(u, err);
    if (rc < 0) {
        uring_close(&u->io);
        return rc;
    }
    u->io.direct = ps_io_files_direct(u->files, u->member_count);
    u->io.memory_bytes = uring_memory_bytes(config->member_count, config->depth);
    *out = &u->io;
    return 0;
}

const struct ps_io_ops ps_io_uring = {
    .id = "uring",
    .memory_bytes = uring_memory_bytes,
    .open = uring_open,
    .submit = uring_submit,
    .reap = uring_reap,
    .close = uring_close,
};
