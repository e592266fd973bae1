/*
 * The io_uring engine: O_DIRECT reads with registered files into registered buffers, on a ring that
 * the kernel has been told to accept nothing but reads on.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "core/util.h"
#include "nvme/io_ring.h"
#include "nvme/namespace.h"

struct uring {
    struct ps_io io;
    struct ps_ring ring;
    int member_count;
    uint32_t in_flight;
    struct ps_io_file *files;
    struct ps_io_part *parts; /* [capacity]; buf is NULL but in flight */
    uint32_t *free_parts;     /* stack of numbers of parts */
    uint32_t free_count;
};

static void prepare_read(struct io_uring_sqe *sqe, uint32_t member, void *buf, uint32_t bytes,
                         uint64_t offset, int buffer)
{
    if (buffer >= 0)
        io_uring_prep_read_fixed(sqe, (int)member, buf, bytes, offset, buffer);
    else
        io_uring_prep_read(sqe, (int)member, buf, bytes, offset);
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
}

static void prepare(struct uring *u, uint32_t part_idx)
{
    const struct ps_io_part *part = &u->parts[part_idx];
    const struct ps_io_request *rq = &part->request;
    struct io_uring_sqe *sqe = ps_ring_sqe(&u->ring);
    uint8_t *buf = (uint8_t *)rq->buf + part->begin;
    uint32_t bytes = rq->bytes - part->begin;
    const struct ps_ring_buffer *buffer = ps_ring_buffer_find(&u->ring, buf, bytes);

    /* The ring has an entry for every part, and each part is in it at most once. */
    prepare_read(sqe, rq->member, buf, bytes, rq->offset + part->begin,
                 buffer ? buffer->index : -1);
    sqe->user_data = part_idx;
}

static uint32_t uring_submit(struct ps_io *io, const struct ps_io_request *requests, uint32_t count)
{
    struct uring *u = (struct uring *)io;
    uint32_t n = 0;

    while (n < count && u->free_count > 0) {
        uint32_t part_idx = u->free_parts[--u->free_count];
        assert(requests[n].member < (uint32_t)u->member_count);
        u->parts[part_idx] = (struct ps_io_part){.request = requests[n++]};
        prepare(u, part_idx);
    }
    u->in_flight += n;
    if (n > 0)
        ps_ring_wait(&u->ring, 0);
    return n;
}

/* True when the completion ends a request, which is then in *out. */
static bool complete(struct uring *u, const struct io_uring_cqe *cqe, struct ps_io_completion *out)
{
    uint32_t part_idx = (uint32_t)cqe->user_data;
    struct ps_io_part *part = &u->parts[part_idx];
    const struct ps_io_request *rq = &part->request;
    const struct ps_io_file *file = &u->files[rq->member];
    /* The registered file of a member that is not there is an empty place: the kernel says EBADF.
     */
    int32_t result = file->fd < 0 ? -ENODEV : cqe->res;

    if (!ps_io_part_step(part, result, file->direct, &out->result)) {
        prepare(u, part_idx);
        return false;
    }
    /* Where O_DIRECT was refused the pages are of no use to anybody: the cache is ours. */
    if (file->fd >= 0 && !file->direct)
        posix_fadvise(file->fd, (off_t)rq->offset, (off_t)rq->bytes, POSIX_FADV_DONTNEED);
    out->tag = rq->tag;
    part->request.buf = NULL;
    u->free_parts[u->free_count++] = part_idx;
    u->in_flight--;
    return true;
}

static int uring_reap(struct ps_io *io, struct ps_io_completion *out, uint32_t capacity,
                      uint64_t wait_ns)
{
    struct uring *u = (struct uring *)io;
    struct ps_ring *ring = &u->ring;
    uint64_t end_ns = ps_deadline_ns(wait_ns);
    uint32_t n = 0;

    do {
        struct io_uring_cqe *cqe;
        while (n < capacity && u->in_flight > 0 && (cqe = ps_ring_peek(ring)) != NULL) {
            n += complete(u, cqe, &out[n]);
            io_uring_cqe_seen(&ring->uring, cqe);
        }
    } while (ps_ring_await(ring, n, u->in_flight, end_ns));
    return n == 0 && ring->error ? ring->error : (int)n;
}

static void uring_wake(struct ps_io *io)
{
    ps_ring_wake(&((struct uring *)io)->ring);
}

/* Reads in flight into memory that is not registered. */
static uint32_t count_unpinned(const struct uring *u)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < u->io.capacity && u->in_flight > 0; i++) {
        const struct ps_io_request *rq = &u->parts[i].request;
        if (!rq->buf)
            continue;
        const struct ps_ring_buffer *buffer = ps_ring_buffer_find(&u->ring, rq->buf, rq->bytes);
        count += !buffer || buffer->index < 0;
    }
    return count;
}

static uint32_t uring_close(struct ps_io *io)
{
    struct uring *u = (struct uring *)io;
    struct ps_io_completion dropped[16];
    uint64_t end_ns = ps_deadline_ns(PS_IO_CLOSE_WAIT_NS), left_ns = PS_IO_CLOSE_WAIT_NS;

    /* Memory should not be given back while a drive may still write to it. */
    while (u->in_flight > 0 && left_ns > 0 &&
           uring_reap(io, dropped, PS_ARRAY_LEN(dropped), left_ns) >= 0)
        left_ns = ps_left_ns(end_ns);
    uint32_t left = count_unpinned(u);
    if (u->in_flight > 0)
        ps_io_log_left(u->in_flight);
    ps_ring_close(&u->ring);
    if (u->files)
        ps_io_files_close(u->files, u->member_count);
    free(u->files);
    free(u->parts);
    free(u->free_parts);
    free(u);
    return left;
}

/* ---- opening --------------------------------------------------------------------------------- */

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

static uint64_t uring_memory_bytes(int member_count, uint32_t depth)
{
    uint64_t capacity = (uint64_t)member_count * depth;

    return sizeof(struct uring) + capacity * (sizeof(struct ps_io_part) + sizeof(uint32_t)) +
           (uint64_t)member_count * sizeof(struct ps_io_file) + ps_ring_memory_bytes(capacity, 0);
}

static int start_ring(struct uring *u, const struct ps_io_config *config, struct ps_error *err)
{
    int *fds = calloc((size_t)u->member_count, sizeof(*fds));

    if (!fds)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    for (int i = 0; i < u->member_count; i++)
        fds[i] = u->files[i].fd;
    int rc = ps_ring_start(&u->ring, fds, config, IORING_OP_READ_FIXED, err);
    free(fds);
    return rc;
}

/*
 * Reads over the longest transfer of the drive are split by the block layer, which before kernel
 * 6.3 refused to split polled ones for ever ("block: don't make REQ_POLLED imply REQ_NOWAIT"): they
 * would never come back.
 */
static int check_polling(const struct ps_io_config *config, struct ps_error *err)
{
    struct utsname system;
    unsigned major = 0, minor = 0;

    if (uname(&system) != 0 || sscanf(system.release, "%u.%u", &major, &minor) != 2 || major < 6 ||
        (major == 6 && minor < 3))
        return ps_error_set(err, -EOPNOTSUPP, PS_IO_POLL_WHERE,
                            "before kernel 6.3 long reads that are polled never end; passthru can "
                            "poll with this one");
    return ps_poll_check(config, err);
}

/* Only a read tells whether a file system, or a drive without queues of that kind, lets itself be
 * polled. */
static int try_polling(struct uring *u, const struct ps_io_config *config, struct ps_error *err)
{
    for (int i = 0; i < u->member_count; i++) {
        int32_t result = 0;
        if (u->files[i].fd < 0)
            continue;
        struct io_uring_sqe *sqe = ps_ring_sqe(&u->ring);
        prepare_read(sqe, (uint32_t)i, u->ring.scratch, PS_IO_ALIGN_BYTES, 0, -1);
        int rc = ps_ring_try(&u->ring, &result);
        rc = rc < 0 ? rc : result;
        /* What is wrong with the first block only is not the fault of polling. */
        if (rc == -EINVAL || rc == -EOPNOTSUPP || rc == -ETIMEDOUT)
            return ps_poll_error(rc, config->names[i], err);
    }
    return 0;
}

static int uring_open(struct ps_io **out, const struct ps_io_config *config,
                      const struct ps_io_engine *engine, struct ps_error *err)
{
    int rc = engine->iopoll ? check_polling(config, err) : 0;
    if (rc < 0)
        return rc;
    struct uring *u = calloc(1, sizeof(*u));
    if (!u)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    u->io.ops = &ps_io_uring;
    rc = allocate(u, config, err);
    if (rc == 0)
        rc = ps_ring_open(&u->ring, u->io.capacity, 0, engine, err);
    if (rc == 0)
        rc = ps_io_files_open(u->files, config, true, err);
    if (rc == 0)
        rc = start_ring(u, config, err);
    if (rc == 0 && engine->iopoll)
        rc = try_polling(u, config, err);
    if (rc < 0) {
        uring_close(&u->io);
        return rc;
    }
    u->io.direct = ps_io_files_direct(u->files, u->member_count);
    u->io.registered = u->ring.registered;
    u->io.iopoll = engine->iopoll;
    u->io.sqpoll = engine->sqpoll;
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
    .wake = uring_wake,
    .close = uring_close,
};
