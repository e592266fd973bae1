/*
 * The engine interface: reads in flight on a fixed set of members. Private to nvme/ and its tests.
 *
 * An engine knows nothing of volumes, checks or order: it takes requests, keeps them in tables
 * sized at open, and hands back completions in whatever order they come. Short reads are continued
 * inside, so that a result less than what was asked for means the end of the file. Thread rule: an
 * engine belongs to the thread that opened it, and only that one submits, reaps and closes (the
 * kernel holds io_uring to this, which spares the interrupts that other threads would need). Any
 * thread may wake it while it is open.
 */
#ifndef PENSTOCK_NVME_IO_H
#define PENSTOCK_NVME_IO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "core/mem.h"

#define PS_IO_ALIGN_BYTES 4096u
/* No caller needs longer ones, and every engine takes these. */
#define PS_IO_REQUEST_BYTES_MAX (64u << 20)
#define PS_IO_DEPTH_DEFAULT 8u
#define PS_IO_DEPTH_MAX 128u
#define PS_IO_THREAD_COUNT_MAX 32u
#define PS_IO_WAIT_FOREVER UINT64_MAX
/* So long does close wait for reads that the kernel has begun: a drive that hangs never answers. */
#define PS_IO_CLOSE_WAIT_NS UINT64_C(2000000000)
/* The kernel registers buffers of at most 1 GiB, and at most 16384 of them (io_uring/rsrc.c). */
#define PS_IO_BUFFER_BYTES_MAX ((size_t)1 << 30)
#define PS_IO_BUFFER_COUNT_MAX 16384u

struct ps_io_request {
    uint64_t tag;    /* the caller's; comes back in the completion */
    uint64_t offset; /* on the member; a multiple of PS_IO_ALIGN_BYTES */
    void *buf;       /* aligned to PS_IO_ALIGN_BYTES; the engine's until the completion */
    uint32_t bytes;  /* a multiple of PS_IO_ALIGN_BYTES, 1 .. PS_IO_REQUEST_BYTES_MAX */
    uint32_t member;
};

struct ps_io_completion {
    uint64_t tag;
    /* Bytes read (fewer than asked: the member ends there), or -errno; -ENODEV: no such member. */
    int32_t result;
};

/* Needed during open only. */
struct ps_io_config {
    const char *engine; /* see ps_io_engine_parse */
    /* [member_count] readable descriptors; -1: the member is not there, and what is asked of it
     * completes with -ENODEV. */
    const int *fds;
    const char *const *names; /* [member_count] for messages */
    int member_count;         /* >= 1 */
    uint32_t depth;           /* requests in flight per member, 1 .. PS_IO_DEPTH_MAX */
    /* Where most requests will land, to be registered; they must outlive the engine. */
    const struct ps_region *buffers;
    uint32_t buffer_count;
};

struct ps_io;
struct ps_io_ops;

/* What an engine's name says. */
struct ps_io_engine {
    const struct ps_io_ops *ops;
    bool iopoll, sqpoll;
    const char *faults; /* what "fault" does to the others, in the name given; NULL: nothing */
    size_t faults_bytes;
};

struct ps_io_ops {
    const char *id;
    /* What an engine of this kind holds, thread stacks and rings included. */
    uint64_t (*memory_bytes)(int member_count, uint32_t depth);
    /* Opens; *out only on success. config has been checked. */
    int (*open)(struct ps_io **out, const struct ps_io_config *config,
                const struct ps_io_engine *engine, struct ps_error *err);
    /* Takes the first n of count requests, as many as there is room for. Returns n, never < 0: a
     * failure shows in the completions or in reap. Does not block (a buffered file system may). */
    uint32_t (*submit)(struct ps_io *io, const struct ps_io_request *requests, uint32_t count);
    /*
     * Hands back up to `capacity` completions. Blocks for at most wait_ns (0: not at all;
     * PS_IO_WAIT_FOREVER) until there is at least one, unless nothing is in flight. Returns their
     * number, or -errno when the engine itself is broken.
     */
    int (*reap)(struct ps_io *io, struct ps_io_completion *out, uint32_t capacity,
                uint64_t wait_ns);
    /* Ends the reap that blocks now, or else at most one later one, though nothing has come back.
     * Any thread. */
    void (*wake)(struct ps_io *io);
    /* See ps_io_close. */
    uint32_t (*close)(struct ps_io *io);
    /* The time as this engine has it: set for one that only simulates reads, which bring no data,
     * so that there is nothing to check. NULL: the machine's. */
    uint64_t (*now_ns)(const struct ps_io *io);
};

/* What every engine begins with. */
struct ps_io {
    const struct ps_io_ops *ops;
    uint32_t capacity;       /* member_count * depth: most requests in flight */
    bool direct;             /* past the page cache on every member that is there */
    _Atomic bool registered; /* every buffer of the config is registered with the kernel */
    bool iopoll;             /* completions are polled for, without interrupts */
    bool sqpoll;             /* a thread of the kernel takes the requests */
    uint64_t memory_bytes;
};

static inline bool ps_io_is_simulated(const struct ps_io *io)
{
    return io && io->ops->now_ns;
}

/*
 * Reads a name: [fault:SPEC:]NAME[+iopoll][+sqpoll], NAME one of "uring", "passthru", "pread",
 * "pagecache", "mmap"; +iopoll and +sqpoll with the first two only. SPEC is a list of faults
 * between commas, each KIND[=VALUE]@N[+][/M]: it strikes at the Nth request (from 1; over all
 * members, or of member M), once, or from then on with "+". KIND is
 *   error    the request fails with -EIO
 *   short    half of it is read, rounded down to PS_IO_ALIGN_BYTES
 *   empty    0 bytes are read
 *   gone     -ENODEV for this and every later request of its member
 *   hang     it stays in flight until close; with =MS it completes after MS milliseconds as if it
 *            were good, having filled its buffer with other bytes at that very moment
 *   corrupt  one bit of what was read is wrong
 *   slow=MS  it completes MS milliseconds later than it would
 *   rate=MB  it completes no sooner than by a drive of MB * 10^6 bytes per second, which serves the
 *            reads of its member that this strikes one after the other
 * Returns false when it is no such name. engine->faults points into `name`.
 */
bool ps_io_engine_parse(const char *name, struct ps_io_engine *engine);
bool ps_io_engine_known(const char *name);

/* The names that there are, for a sentence: "uring, ... and mmap". */
const char *ps_io_engine_names(void);

/* Most memory that an engine of this name takes, what it may fall back to included. */
uint64_t ps_io_memory_bytes(const char *engine, int member_count, uint32_t depth);

/*
 * Opens the engine named, or the next best in place of what the kernel refuses, with one log line
 * each: "passthru" becomes "uring" and "uring" becomes "pread", +iopoll is left out.
 * Errors: -PS_ERR_ARGUMENT, -ENOMEM, -EAGAIN (thread limit), -errno of open().
 */
int ps_io_open(struct ps_io **out, const struct ps_io_config *config, struct ps_error *err);

/*
 * Closes and nulls. Takes NULL and pointers to NULL. Waits for reads in flight, but no longer than
 * PS_IO_CLOSE_WAIT_NS, and leaves what is still in flight then to the kernel with one log line.
 * Returns how many of those may yet write to their buffers by address: their memory must stay
 * mapped. 0 where nothing was left, or the buffers are registered: those pages are the kernel's
 * until the drive is done with them, whatever becomes of the mapping.
 */
uint32_t ps_io_close(struct ps_io **io);

/* Gives an open fault engine other faults (a text as between "fault:" and ":"), counted from now
 * on; members that are gone come back, what hangs goes on hanging. Any thread. */
void ps_io_faults_set(struct ps_io *io, const char *faults);

/* How many requests a fault has struck since the last change; 0 for engines without faults. Any
 * thread. */
uint64_t ps_io_fault_count(struct ps_io *io);

/* ---- shared by the engines ------------------------------------------------------------------- */

extern const struct ps_io_ops ps_io_fault; /* not a NAME: wraps one */
extern const struct ps_io_ops ps_io_uring;
extern const struct ps_io_ops ps_io_passthru;
extern const struct ps_io_ops ps_io_pread;
extern const struct ps_io_ops ps_io_pagecache;
extern const struct ps_io_ops ps_io_mmap;

/* error.where of refusals for which there is a way round: of io_uring itself, of NVMe passthrough,
 * and of polling. */
#define PS_IO_URING_WHERE "io_uring"
#define PS_IO_PASSTHRU_WHERE "passthrough"
#define PS_IO_POLL_WHERE "polling"

/* Opens engine->ops, or what it falls back to; engine->faults is passed over. */
int ps_io_engine_open(struct ps_io **out, const struct ps_io_config *config,
                      const struct ps_io_engine *engine, struct ps_error *err);

/* Whether these bytes are a SPEC of ps_io_engine_parse. */
bool ps_io_faults_known(const char *faults, size_t bytes);

/* Says that reads were left to the kernel at close. */
void ps_io_log_left(uint32_t count);

/* A descriptor of the engine's own. */
struct ps_io_file {
    int fd;
    bool direct;
};

/*
 * Opens every member that is there once more, with O_DIRECT if direct and if the file system takes
 * it (else one log line). files: [config->member_count], all fd = -1 after an error.
 */
int ps_io_files_open(struct ps_io_file *files, const struct ps_io_config *config, bool direct,
                     struct ps_error *err);
void ps_io_files_close(struct ps_io_file *files, int count);
bool ps_io_files_direct(const struct ps_io_file *files, int count);

/* A request on its way, perhaps in several reads. */
struct ps_io_part {
    struct ps_io_request request;
    uint32_t done;  /* bytes read so far */
    uint32_t begin; /* where the next read begins: <= done */
    uint32_t retry_count;
};

/*
 * Takes account of a read of [begin, bytes) that returned `result` (bytes or -errno). Returns true
 * when the request is finished, with its result in *final; false: read once more from begin.
 */
bool ps_io_part_step(struct ps_io_part *part, int64_t result, bool direct, int32_t *final);

#endif
