#include "nvme/io_ring.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/budget.h"
#include "core/log.h"
#include "core/util.h"

/* Heads, tails and flags in front of the two rings, and the rounding of three mappings to pages. */
#define RING_HEADER_BYTES (4u * 4096u)
/* Longer than the arithmetic between two reads of a token, and soon over once nobody reads. */
#define SQPOLL_IDLE_MS 10u
/* Behind the scratch: where the eventfd is read to, memory that stays the ring's to its end. */
#define WAKE_BYTES 4096u
#define WAKE_TAG UINT64_MAX

/*
 * Newest first. DEFER_TASKRUN (6.1) hands completions over when we ask for them and at no other
 * time, so that they never break into the arithmetic; it wants SINGLE_ISSUER. COOP_TASKRUN (5.19)
 * spares at least the interrupts. TASKRUN_FLAG lets a peek see that some are waiting. R_DISABLED
 * (5.10) is what restrictions need.
 */
static const struct {
    unsigned flags;
    const char *lacks;
} setups[] = {
    {IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
         IORING_SETUP_TASKRUN_FLAG,
     NULL},
    {IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
     "DEFER_TASKRUN"},
    {IORING_SETUP_R_DISABLED, "COOP_TASKRUN"},
};

/* Ways of running completions in our own thread, which does nothing for the kernel's. */
#define TASKRUN_FLAGS                                                                              \
    (IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG)

static unsigned setup_flags(size_t i, unsigned extra, const struct ps_io_engine *engine)
{
    unsigned flags = setups[i].flags | extra;

    if (engine->sqpoll)
        flags = (flags & ~TASKRUN_FLAGS) | IORING_SETUP_SQPOLL;
    return flags | (engine->iopoll ? IORING_SETUP_IOPOLL : 0);
}

int ps_ring_open(struct ps_ring *ring, uint32_t entries, unsigned extra,
                 const struct ps_io_engine *engine, struct ps_error *err)
{
    int rc = -EINVAL;

    ring->wake_fd = -1;
    for (size_t i = 0; i < PS_ARRAY_LEN(setups) && rc == -EINVAL; i++) {
        struct io_uring_params params = {.flags = setup_flags(i, extra, engine),
                                         .sq_thread_idle = SQPOLL_IDLE_MS};
        rc = io_uring_queue_init_params(entries + 1, &ring->uring, &params);
        if (rc == 0 && setups[i].lacks)
            ps_log(PS_LOG_INFO,
                   "this kernel's io_uring has no %s; a newer one (6.1) disturbs the arithmetic "
                   "less",
                   setups[i].lacks);
    }
    if (rc < 0)
        return ps_error_set(err, rc, PS_IO_URING_WHERE, "%s", strerror(-rc));
    ring->is_open = true;
    ring->iopoll = engine->iopoll;
    ring->sqpoll = engine->sqpoll;
    /* Waits with a limit: without it liburing would submit a timeout, which is no read. */
    if (!(ring->uring.features & IORING_FEAT_EXT_ARG))
        return ps_error_set(err, -EOPNOTSUPP, PS_IO_URING_WHERE, "kernel 5.11 or newer is needed");
    return 0;
}

void ps_ring_close(struct ps_ring *ring)
{
    if (ring->is_open)
        io_uring_queue_exit(&ring->uring);
    /* The kernel holds the pages of a test read that never came back. */
    if (ring->scratch)
        munmap(ring->scratch, PS_RING_SCRATCH_BYTES + WAKE_BYTES);
    if (ring->is_open && ring->wake_fd >= 0)
        close(ring->wake_fd);
    free(ring->buffers);
    memset(ring, 0, sizeof(*ring));
}

/* ---- buffers --------------------------------------------------------------------------------- */

static int by_address(const void *a, const void *b)
{
    uintptr_t x = ((const struct ps_ring_buffer *)a)->begin;
    uintptr_t y = ((const struct ps_ring_buffer *)b)->begin;
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

/* Fills ring->buffers, and vectors with those that can be registered. Returns their number. */
static uint32_t list_buffers(struct ps_ring *ring, const struct ps_io_config *config,
                             struct iovec *vectors)
{
    uint32_t n = 0;

    ring->buffer_count = config->buffer_count;
    for (uint32_t i = 0; i < config->buffer_count; i++) {
        const struct ps_region *region = &config->buffers[i];
        uintptr_t begin = (uintptr_t)region->base;
        ring->buffers[i] = (struct ps_ring_buffer){
            .begin = begin,
            .end = begin + region->bytes,
            .index = -1,
            .is_huge = region->kind == PS_PAGE_1G || region->kind == PS_PAGE_2M,
        };
        /* An object over 1 GiB has a longer region to itself, which cannot be registered. */
        if (region->bytes > PS_IO_BUFFER_BYTES_MAX || n == PS_IO_BUFFER_COUNT_MAX)
            continue;
        ring->buffers[i].index = (int)n;
        vectors[n++] = (struct iovec){region->base, region->bytes};
    }
    qsort(ring->buffers, ring->buffer_count, sizeof(*ring->buffers), by_address);
    return n;
}

/* Fails only for want of memory for the tables: unregistered buffers are slower, not wrong. */
static int register_buffers(struct ps_ring *ring, const struct ps_io_config *config,
                            struct ps_error *err)
{
    uint64_t bytes = 0;

    ring->scratch = mmap(NULL, PS_RING_SCRATCH_BYTES + WAKE_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring->scratch == MAP_FAILED)
        ring->scratch = NULL;
    ring->buffers = calloc(config->buffer_count + 1, sizeof(*ring->buffers));
    struct iovec *vectors = calloc(config->buffer_count + 1, sizeof(*vectors));
    if (!ring->scratch || !ring->buffers || !vectors) {
        free(vectors);
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    }
    uint32_t n = list_buffers(ring, config, vectors);
    for (uint32_t i = 0; i < n; i++)
        bytes += vectors[i].iov_len;
    int rc = n > 0 ? io_uring_register_buffers(&ring->uring, vectors, n) : 0;
    free(vectors);
    if (rc < 0) {
        log_unregistered(rc, bytes);
        for (uint32_t i = 0; i < ring->buffer_count; i++)
            ring->buffers[i].index = -1;
    }
    ring->registered = rc == 0 && n > 0 && n == config->buffer_count;
    return 0;
}

const struct ps_ring_buffer *ps_ring_buffer_find(const struct ps_ring *ring, const void *p,
                                                 uint64_t bytes)
{
    uintptr_t begin = (uintptr_t)p;
    uint32_t low = 0, high = ring->buffer_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (ring->buffers[middle].end <= begin)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == ring->buffer_count || begin < ring->buffers[low].begin ||
        begin + bytes > ring->buffers[low].end)
        return NULL;
    return &ring->buffers[low];
}

/* ---- starting -------------------------------------------------------------------------------- */

/*
 * Reads of registered files alone. Through the raw call because liburing 2.3's shared library does
 * not export its wrapper.
 */
static int restrict_ring(struct ps_ring *ring, uint8_t opcode, struct ps_error *err)
{
    struct io_uring_restriction allowed[] = {
        {.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE},
        {.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE},
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ},
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = opcode},
    };
    int rc = io_uring_register((unsigned)ring->uring.ring_fd, IORING_REGISTER_RESTRICTIONS, allowed,
                               PS_ARRAY_LEN(allowed));
    if (rc < 0)
        return ps_error_set(err, rc, PS_IO_URING_WHERE, "restrictions: %s", strerror(-rc));
    rc = io_uring_register((unsigned)ring->uring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (rc < 0)
        return ps_error_set(err, rc, PS_IO_URING_WHERE, "enabling the ring: %s", strerror(-rc));
    return 0;
}

/* The ring's own file comes after the members'. */
static int register_files(struct ps_ring *ring, const int *fds, int member_count,
                          struct ps_error *err)
{
    size_t count = (size_t)member_count;
    int *all = calloc(count + 1, sizeof(*all));

    if (!all)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    ring->wake_fd = eventfd(0, EFD_CLOEXEC);
    ring->wake_file = (unsigned)member_count;
    memcpy(all, fds, count * sizeof(*all));
    all[count] = ring->wake_fd;
    int rc = ring->wake_fd < 0
                 ? -errno
                 : io_uring_register_files(&ring->uring, all, (unsigned)member_count + 1);
    free(all);
    return rc < 0 ? ps_error_set(err, rc, PS_IO_URING_WHERE, "registering files: %s", strerror(-rc))
                  : 0;
}

/* A ring that polls takes no reads of other files than drives. */
static void expect_wake(struct ps_ring *ring)
{
    if (ring->iopoll)
        return;
    struct io_uring_sqe *sqe = ps_ring_sqe(ring);
    io_uring_prep_read(sqe, (int)ring->wake_file, (uint8_t *)ring->scratch + PS_RING_SCRATCH_BYTES,
                       sizeof(uint64_t), 0);
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    sqe->user_data = WAKE_TAG;
}

int ps_ring_start(struct ps_ring *ring, const int *fds, const struct ps_io_config *config,
                  uint8_t opcode, struct ps_error *err)
{
    int rc = register_files(ring, fds, config->member_count, err);
    if (rc == 0)
        rc = register_buffers(ring, config, err);
    if (rc == 0)
        rc = restrict_ring(ring, opcode, err);
    if (rc == 0)
        expect_wake(ring);
    return rc;
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* Whether completions come only when the kernel is entered for them. */
static bool polls_itself(const struct ps_ring *ring)
{
    return ring->iopoll && !ring->sqpoll;
}

struct io_uring_sqe *ps_ring_sqe(struct ps_ring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
    assert(sqe);
    return sqe;
}

/* The kernel may be short of memory or interrupted, and a wait may end without a completion. */
static void note_error(struct ps_ring *ring, int rc)
{
    if (rc >= 0 || rc == -EAGAIN || rc == -EBUSY || rc == -EINTR || rc == -ETIME)
        return;
    if (rc == -EEXIST && !ring->error)
        ps_log(PS_LOG_ERROR, "an I/O engine was used by another thread than the one that opened "
                             "it, which io_uring refuses");
    ring->error = rc;
}

static struct io_uring_cqe *peek(struct ps_ring *ring)
{
    struct io_uring_cqe *cqe = NULL;

    if (io_uring_cq_ready(&ring->uring) == 0) {
        unsigned flags = IO_URING_READ_ONCE(*ring->uring.sq.kflags);
        if (!polls_itself(ring) && !(flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)))
            return NULL;
        note_error(ring, io_uring_get_events(&ring->uring));
        if (io_uring_cq_ready(&ring->uring) == 0)
            return NULL;
    }
    return io_uring_peek_cqe(&ring->uring, &cqe) == 0 ? cqe : NULL;
}

struct io_uring_cqe *ps_ring_peek(struct ps_ring *ring)
{
    struct io_uring_cqe *cqe;

    while ((cqe = peek(ring)) != NULL && cqe->user_data == WAKE_TAG) {
        int rc = cqe->res;
        io_uring_cqe_seen(&ring->uring, cqe);
        note_error(ring, rc);
        if (!ring->error)
            expect_wake(ring);
    }
    return cqe;
}

/* The kernel passes over the limit of a wait on a polling ring (io_uring/io_uring.c,
 * io_iopoll_check), so it is asked to look again and again, which is what it would do itself. */
static void poll_until(struct ps_ring *ring, uint64_t wait_ns)
{
    uint64_t end_ns = ps_deadline_ns(wait_ns);

    note_error(ring, io_uring_submit(&ring->uring));
    while (!ring->error && io_uring_cq_ready(&ring->uring) == 0 && !ring->is_woken &&
           ps_left_ns(end_ns) > 0)
        note_error(ring, io_uring_get_events(&ring->uring));
}

void ps_ring_wait(struct ps_ring *ring, uint64_t wait_ns)
{
    struct __kernel_timespec limit = {.tv_sec = (int64_t)(wait_ns / 1000000000u),
                                      .tv_nsec = (int64_t)(wait_ns % 1000000000u)};
    struct io_uring_cqe *cqe;

    if (ring->iopoll && wait_ns > 0)
        poll_until(ring, wait_ns);
    else if (wait_ns == 0 || wait_ns == PS_IO_WAIT_FOREVER)
        note_error(ring, io_uring_submit_and_wait(&ring->uring, wait_ns != 0));
    else
        note_error(ring, io_uring_submit_and_wait_timeout(&ring->uring, &cqe, 1, &limit, NULL));
}

void ps_ring_wake(struct ps_ring *ring)
{
    uint64_t one = 1;

    ring->is_woken = true;
    /* It cannot fail: the number is far from full, and nobody closes the descriptor meanwhile. */
    if (!ring->iopoll && write(ring->wake_fd, &one, sizeof(one)) < 0)
        ps_log(PS_LOG_ERROR, "a reading thread could not be woken: %s", strerror(errno));
}

bool ps_ring_take_wake(struct ps_ring *ring)
{
    return atomic_exchange(&ring->is_woken, false);
}

bool ps_ring_await(struct ps_ring *ring, uint32_t n, uint32_t in_flight, uint64_t end_ns)
{
    /* Before each wait: a wake's completion may be among those that were just taken. */
    bool may_wait = n == 0 && in_flight > 0 && !ps_ring_take_wake(ring);
    uint64_t left_ns = may_wait ? ps_left_ns(end_ns) : 0;

    if (!ring->error && (left_ns > 0 || io_uring_sq_ready(&ring->uring) > 0))
        ps_ring_wait(ring, left_ns);
    return left_ns > 0 && !ring->error;
}

int ps_ring_try(struct ps_ring *ring, int32_t *result)
{
    uint64_t end_ns = ps_deadline_ns(PS_IO_CLOSE_WAIT_NS), left_ns = PS_IO_CLOSE_WAIT_NS;
    struct io_uring_cqe *cqe = NULL;

    for (; !cqe && !ring->error && left_ns > 0; left_ns = ps_left_ns(end_ns)) {
        ps_ring_wait(ring, left_ns);
        cqe = ps_ring_peek(ring);
    }
    if (!cqe)
        return ring->error ? ring->error : -ETIMEDOUT;
    *result = cqe->res;
    io_uring_cqe_seen(&ring->uring, cqe);
    return 0;
}

/* The ring has a power of two of entries, each with an index, and twice as many completions. */
uint64_t ps_ring_memory_bytes(uint64_t entries, unsigned extra)
{
    uint64_t sqe_bytes = sizeof(struct io_uring_sqe) * (extra & IORING_SETUP_SQE128 ? 2 : 1);
    uint64_t cqe_bytes = sizeof(struct io_uring_cqe) * (extra & IORING_SETUP_CQE32 ? 2 : 1);

    return 2 * (entries + 1) * (sqe_bytes + sizeof(uint32_t) + 2 * cqe_bytes) + RING_HEADER_BYTES +
           PS_RING_SCRATCH_BYTES + WAKE_BYTES;
}
