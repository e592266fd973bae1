/*
 * Three engines of one build: threads that take requests from a queue and differ in how they read.
 * "pread" reads past the page cache as io_uring does, and is what others are checked against;
 * "pagecache" and "mmap" are the ways that others read models, kept for comparison.
 */
#include "nvme/io.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/cond.h"
#include "core/log.h"
#include "core/util.h"
#include "nvme/raw_io.h"

/* The threads call little more than pread; a log line is the deepest. */
#define STACK_BYTES ((size_t)64 << 10)
/* How much of a file a thread has mapped in at once: pages that count as this process's own. */
#define MAP_STEP_BYTES ((size_t)256 << 10)
/* A fault maps pages around its own, too, up to the largest folio that a file can have in the
 * cache. */
#define MAP_AROUND_BYTES ((uint64_t)2 << 20)

struct map {
    uint8_t *base; /* NULL for an empty file */
    uint64_t bytes;
};

struct threads {
    struct ps_io io;
    int (*read)(struct threads *t, const struct ps_io_request *request);
    int member_count;
    struct ps_io_file *files;
    struct map *maps;      /* mmap only */
    bool copies_in_kernel; /* mmap only: process_vm_readv works */

    pthread_mutex_t lock;
    pthread_cond_t work, done;
    struct ps_io_request *queue; /* ring of capacity entries */
    uint32_t queue_head, queue_count;
    struct ps_io_completion *finished; /* ring of capacity entries */
    uint32_t finished_head, finished_count;
    uint32_t in_flight; /* taken and not yet handed back */
    _Atomic bool stop;  /* set under the lock; reads of several steps look at it in between */
    uint32_t running;   /* threads that have not ended */
    uint32_t reading;   /* of them, in a read */
    uint32_t *busy;     /* [member_count]: of them, in one of this member's */
    uint32_t busy_max;  /* so that a drive that hangs leaves threads to the others */
    bool is_woken;
    bool is_left; /* closed while threads were stuck: the last one frees */

    uint32_t thread_count;
    pthread_t thread[PS_IO_THREAD_COUNT_MAX];
};

/* ---- ways of reading ------------------------------------------------------------------------- */

/* Once the engine is closing, the buffer may be gone by the next step. */
static int read_file(struct threads *t, const struct ps_io_request *request)
{
    const struct ps_io_file *file = &t->files[request->member];
    struct ps_io_part part = {.request = *request};
    int32_t result = -ECANCELED;
    ssize_t got;

    do {
        got = pread(file->fd, (uint8_t *)request->buf + part.begin, request->bytes - part.begin,
                    (off_t)(request->offset + part.begin));
    } while (!ps_io_part_step(&part, got < 0 ? -errno : got, file->direct, &result) && !t->stop);
    return result;
}

static int read_direct(struct threads *t, const struct ps_io_request *request)
{
    const struct ps_io_file *file = &t->files[request->member];
    int result = read_file(t, request);

    /* Where O_DIRECT was refused the pages are of no use to anybody: the cache is ours. */
    if (!file->direct)
        posix_fadvise(file->fd, (off_t)request->offset, (off_t)request->bytes, POSIX_FADV_DONTNEED);
    return result;
}

/*
 * The descriptor has POSIX_FADV_RANDOM, so that the kernel guesses nothing; what it would have to
 * guess, the length of the read, is told to it instead, and the whole range is under way at once.
 */
static int read_cached(struct threads *t, const struct ps_io_request *request)
{
    const struct ps_io_file *file = &t->files[request->member];

    readahead(file->fd, (off_t)request->offset, request->bytes);
    return read_file(t, request);
}

/*
 * Copies out of a mapping of a file. A file that has shrunk, or a drive that fails, would end the
 * process with SIGBUS in a plain memcpy; asking the kernel to copy from our own address space takes
 * the same page faults and returns the failure as -EFAULT, at about 0.8 of memcpy's speed from a
 * warm page cache. Where the call is forbidden (some containers) memcpy it is.
 */
static int copy_mapped(const struct threads *t, void *to, const uint8_t *from, size_t bytes)
{
    struct iovec local = {to, bytes};
    struct iovec remote = {(void *)(uintptr_t)from, bytes};

    if (!t->copies_in_kernel) {
        memcpy(to, from, bytes);
        return (int)bytes;
    }
    ssize_t got = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    return got < 0 ? -errno : (int)got;
}

/*
 * Takes [begin, end) and what faults mapped around it out of this process. Another thread that is
 * copying from there faults once more.
 */
static void unmap_pages(const struct map *map, uint64_t begin, uint64_t end)
{
    uint64_t first = begin & ~(MAP_AROUND_BYTES - 1);
    uint64_t last = ps_min_u64(ps_align_up(end, MAP_AROUND_BYTES), map->bytes);

    madvise(map->base + first, last - first, MADV_DONTNEED);
}

/*
 * The pages that were copied leave this process again (the page cache keeps them), since everything
 * that a process has mapped in counts against its memory ceiling.
 */
static int read_mapped(struct threads *t, const struct ps_io_request *request)
{
    const struct map *map = &t->maps[request->member];
    uint64_t end = ps_min_u64(request->offset + request->bytes, map->bytes);
    uint64_t at = request->offset;

    while (at < end && !t->stop) {
        size_t step = ps_min_u64(end - at, MAP_STEP_BYTES);
        int got =
            copy_mapped(t, (uint8_t *)request->buf + (at - request->offset), map->base + at, step);
        unmap_pages(map, at, at + step);
        if (got <= 0) {
            /* The mapping does not say why; a read of the same bytes does. */
            struct ps_io_request rest = *request;
            rest.buf = (uint8_t *)request->buf + (at - request->offset);
            rest.bytes = (uint32_t)(end - at);
            rest.offset = at;
            int tail = read_file(t, &rest);
            return tail < 0 ? tail : (int)(at - request->offset) + tail;
        }
        at += (uint64_t)got;
    }
    return at > request->offset ? (int)(at - request->offset) : 0;
}

/* ---- threads --------------------------------------------------------------------------------- */

static void destroy(struct threads *t)
{
    for (int i = 0; t->maps && i < t->member_count; i++) {
        if (t->maps[i].base)
            munmap(t->maps[i].base, t->maps[i].bytes);
    }
    if (t->files)
        ps_io_files_close(t->files, t->member_count);
    pthread_cond_destroy(&t->work);
    pthread_cond_destroy(&t->done);
    pthread_mutex_destroy(&t->lock);
    free(t->files);
    free(t->maps);
    free(t->busy);
    free(t->queue);
    free(t->finished);
    free(t);
}

/* Takes the oldest request whose member may have one more thread; false: there is none. */
static bool take_request(struct threads *t, struct ps_io_request *request)
{
    uint32_t capacity = t->io.capacity, i = 0;

    while (i < t->queue_count &&
           t->busy[t->queue[(t->queue_head + i) % capacity].member] == t->busy_max)
        i++;
    if (i == t->queue_count)
        return false;
    *request = t->queue[(t->queue_head + i) % capacity];
    for (; i > 0; i--)
        t->queue[(t->queue_head + i) % capacity] = t->queue[(t->queue_head + i - 1) % capacity];
    t->queue_head = (t->queue_head + 1) % capacity;
    t->queue_count--;
    return true;
}

/* Takes one request from the queue, reads, and leaves the completion. Called with the lock held;
 * false: there was nothing to do. */
static bool serve_one(struct threads *t)
{
    struct ps_io_request request;

    if (!take_request(t, &request))
        return false;
    t->busy[request.member]++;
    t->reading++;
    pthread_mutex_unlock(&t->lock);

    int result = t->files[request.member].fd < 0 ? -ENODEV : t->read(t, &request);

    pthread_mutex_lock(&t->lock);
    t->busy[request.member]--;
    t->reading--;
    uint32_t tail = (t->finished_head + t->finished_count++) % t->io.capacity;
    t->finished[tail] = (struct ps_io_completion){request.tag, result};
    pthread_cond_signal(&t->done);
    return true;
}

static void *run(void *arg)
{
    struct threads *t = arg;

    pthread_mutex_lock(&t->lock);
    while (!t->stop) {
        if (!serve_one(t))
            pthread_cond_wait(&t->work, &t->lock);
    }
    bool frees = --t->running == 0 && t->is_left;
    pthread_cond_signal(&t->done);
    pthread_mutex_unlock(&t->lock);
    if (frees)
        destroy(t);
    return NULL;
}

static uint32_t threads_submit(struct ps_io *io, const struct ps_io_request *requests,
                               uint32_t count)
{
    struct threads *t = (struct threads *)io;
    uint32_t n = 0;

    pthread_mutex_lock(&t->lock);
    while (n < count && t->in_flight < io->capacity) {
        assert(requests[n].member < (uint32_t)t->member_count);
        t->queue[(t->queue_head + t->queue_count++) % io->capacity] = requests[n++];
        t->in_flight++;
        pthread_cond_signal(&t->work);
    }
    pthread_mutex_unlock(&t->lock);
    return n;
}

static int threads_reap(struct ps_io *io, struct ps_io_completion *out, uint32_t capacity,
                        uint64_t wait_ns)
{
    struct threads *t = (struct threads *)io;
    uint64_t end_ns = ps_deadline_ns(wait_ns);
    uint32_t n = 0;

    pthread_mutex_lock(&t->lock);
    while (t->finished_count == 0 && t->in_flight > 0 && !t->is_woken &&
           ps_cond_wait(&t->done, &t->lock, end_ns))
        ;
    t->is_woken = false;
    while (n < capacity && t->finished_count > 0) {
        out[n++] = t->finished[t->finished_head];
        t->finished_head = (t->finished_head + 1) % io->capacity;
        t->finished_count--;
        t->in_flight--;
    }
    pthread_mutex_unlock(&t->lock);
    return (int)n;
}

static void threads_wake(struct ps_io *io)
{
    struct threads *t = (struct threads *)io;

    pthread_mutex_lock(&t->lock);
    t->is_woken = true;
    pthread_cond_signal(&t->done);
    pthread_mutex_unlock(&t->lock);
}

/*
 * A thread that a drive does not let go can be neither ended nor waited for. It is left to itself,
 * with the record that it will look at; the last of them frees that, should the drive ever answer.
 */
static uint32_t threads_close(struct ps_io *io)
{
    struct threads *t = (struct threads *)io;
    uint64_t end_ns = ps_deadline_ns(PS_IO_CLOSE_WAIT_NS);

    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->work);
    while (t->running > 0 && ps_cond_wait(&t->done, &t->lock, end_ns))
        ;
    uint32_t left = t->running > 0 ? t->reading : 0;
    t->is_left = t->running > 0;
    for (uint32_t i = 0; t->is_left && i < t->thread_count; i++)
        pthread_detach(t->thread[i]);
    bool is_left = t->is_left;
    pthread_mutex_unlock(&t->lock);
    if (is_left) {
        ps_io_log_left(left);
        return left;
    }
    for (uint32_t i = 0; i < t->thread_count; i++)
        pthread_join(t->thread[i], NULL);
    destroy(t);
    return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

static uint32_t thread_count(uint64_t capacity)
{
    return (uint32_t)ps_min_u64(capacity, PS_IO_THREAD_COUNT_MAX);
}

static uint64_t pread_memory_bytes(int member_count, uint32_t depth)
{
    uint64_t capacity = (uint64_t)member_count * depth;

    return sizeof(struct threads) +
           capacity * (sizeof(struct ps_io_request) + sizeof(struct ps_io_completion)) +
           (uint64_t)member_count *
               (sizeof(struct ps_io_file) + sizeof(struct map) + sizeof(uint32_t)) +
           thread_count(capacity) * STACK_BYTES;
}

static uint64_t mmap_memory_bytes(int member_count, uint32_t depth)
{
    return pread_memory_bytes(member_count, depth) +
           thread_count((uint64_t)member_count * depth) * 2 * MAP_STEP_BYTES;
}

static int start_threads(struct threads *t, struct ps_error *err)
{
    pthread_attr_t attr;
    sigset_t all, before;
    int rc = 0;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    uint32_t count = thread_count(t->io.capacity);
    pthread_mutex_lock(&t->lock);
    while (rc == 0 && t->thread_count < count) {
        rc = pthread_create(&t->thread[t->thread_count], &attr, run, t);
        t->thread_count += rc == 0;
    }
    t->running = t->thread_count;
    pthread_mutex_unlock(&t->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (rc != 0)
        return ps_error_set(err, -rc, "io",
                            "%u threads for reading could not be started (%s); raise the limit "
                            "with `ulimit -u`",
                            count, strerror(rc));
    return 0;
}

static int threads_open(struct threads **out, const struct ps_io_config *config,
                        const struct ps_io_ops *ops,
                        int (*read)(struct threads *, const struct ps_io_request *),
                        struct ps_error *err)
{
    size_t members = (size_t)config->member_count;
    struct threads *t = calloc(1, sizeof(*t));

    if (!t)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    ps_cond_init(&t->done);
    t->io = (struct ps_io){.ops = ops, .capacity = (uint32_t)members * config->depth};
    t->io.memory_bytes = ops->memory_bytes(config->member_count, config->depth);
    t->read = read;
    t->member_count = config->member_count;
    t->files = calloc(members, sizeof(*t->files));
    t->maps = calloc(members, sizeof(*t->maps));
    t->busy = calloc(members, sizeof(*t->busy));
    t->busy_max = (uint32_t)ps_max_u64(thread_count(t->io.capacity) / members, 1);
    t->queue = calloc(t->io.capacity, sizeof(*t->queue));
    t->finished = calloc(t->io.capacity, sizeof(*t->finished));
    for (size_t i = 0; t->files && i < members; i++)
        t->files[i].fd = -1;
    int rc = 0;
    if (!t->files || !t->maps || !t->busy || !t->queue || !t->finished)
        rc = ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    if (rc == 0)
        rc = ps_io_files_open(t->files, config, ops == &ps_io_pread, err);
    if (rc < 0) {
        threads_close(&t->io);
        return rc;
    }
    t->io.direct = ps_io_files_direct(t->files, t->member_count);
    *out = t;
    return 0;
}

/* The last step of opening: *out is written only here. */
static int finish_open(struct threads *t, int rc, struct ps_io **out, struct ps_error *err)
{
    if (rc == 0)
        rc = start_threads(t, err);
    if (rc < 0)
        threads_close(&t->io);
    else
        *out = &t->io;
    return rc;
}

static int pread_open(struct ps_io **out, const struct ps_io_config *config,
                      const struct ps_io_engine *engine, struct ps_error *err)
{
    struct threads *t = NULL;
    int rc = threads_open(&t, config, &ps_io_pread, read_direct, err);
    (void)engine;

    return rc < 0 ? rc : finish_open(t, 0, out, err);
}

static int pagecache_open(struct ps_io **out, const struct ps_io_config *config,
                          const struct ps_io_engine *engine, struct ps_error *err)
{
    struct threads *t = NULL;
    int rc = threads_open(&t, config, &ps_io_pagecache, read_cached, err);
    (void)engine;

    if (rc < 0)
        return rc;
    for (int i = 0; i < t->member_count; i++) {
        if (t->files[i].fd >= 0)
            posix_fadvise(t->files[i].fd, 0, 0, POSIX_FADV_RANDOM);
    }
    return finish_open(t, 0, out, err);
}

static int map_members(struct threads *t, const struct ps_io_config *config, struct ps_error *err)
{
    for (int i = 0; i < t->member_count; i++) {
        struct map *map = &t->maps[i];
        bool is_device;
        if (t->files[i].fd < 0)
            continue;
        int rc = ps_raw_size(t->files[i].fd, &map->bytes, &is_device);
        if (rc == 0 && map->bytes > 0) {
            void *p = mmap(NULL, map->bytes, PROT_READ, MAP_SHARED, t->files[i].fd, 0);
            rc = p == MAP_FAILED ? -errno : 0;
            map->base = rc == 0 ? p : NULL;
        }
        if (rc < 0)
            return ps_error_set(err, rc, config->names[i], "the member cannot be mapped: %s",
                                strerror(-rc));
    }
    return 0;
}

static int mmap_open(struct ps_io **out, const struct ps_io_config *config,
                     const struct ps_io_engine *engine, struct ps_error *err)
{
    struct threads *t = NULL;
    uint8_t from = 1, to = 0;
    int rc = threads_open(&t, config, &ps_io_mmap, read_mapped, err);
    (void)engine;

    if (rc < 0)
        return rc;
    t->copies_in_kernel = true;
    t->copies_in_kernel = copy_mapped(t, &to, &from, 1) == 1;
    if (!t->copies_in_kernel)
        ps_log(PS_LOG_INFO, "process_vm_readv is not allowed here: with --io mmap a volume that "
                            "shrinks or a drive that fails ends the process");
    return finish_open(t, map_members(t, config, err), out, err);
}

const struct ps_io_ops ps_io_pread = {
    .id = "pread",
    .memory_bytes = pread_memory_bytes,
    .open = pread_open,
    .submit = threads_submit,
    .reap = threads_reap,
    .wake = threads_wake,
    .close = threads_close,
};

const struct ps_io_ops ps_io_pagecache = {
    .id = "pagecache",
    .memory_bytes = pread_memory_bytes,
    .open = pagecache_open,
    .submit = threads_submit,
    .reap = threads_reap,
    .wake = threads_wake,
    .close = threads_close,
};

const struct ps_io_ops ps_io_mmap = {
    .id = "mmap",
    .memory_bytes = mmap_memory_bytes,
    .open = mmap_open,
    .submit = threads_submit,
    .reap = threads_reap,
    .wake = threads_wake,
    .close = threads_close,
};
