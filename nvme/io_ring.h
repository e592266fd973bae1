/*
 * What the engines on io_uring share: a ring with the newest flags that the kernel takes, which
 * accepts nothing but reads of registered files, how to wait for it, and how to end that wait.
 * Private to those engines. Thread rule: a ring belongs to the thread that opened it, but for
 * ps_ring_wake.
 */
#ifndef PENSTOCK_NVME_IO_RING_H
#define PENSTOCK_NVME_IO_RING_H

#include <liburing.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "nvme/io.h"

/* Memory for test reads at open; a block of any drive fits. */
#define PS_RING_SCRATCH_BYTES 65536u

struct ps_ring_buffer {
    uintptr_t begin, end;
    int index;    /* as registered; -1: it is not */
    bool is_huge; /* in huge pages, so contiguous for the drive */
};

struct ps_ring {
    struct io_uring uring;
    bool is_open, iopoll, sqpoll;
    bool registered;                /* every buffer of the config, and the scratch */
    int error;                      /* of io_uring_enter; the ring is of no more use */
    struct ps_ring_buffer *buffers; /* [buffer_count], by address */
    uint32_t buffer_count;
    void *scratch;      /* [PS_RING_SCRATCH_BYTES], not registered */
    int wake_fd;        /* an eventfd that the ring reads, -1: none */
    unsigned wake_file; /* its number among the registered files */
    _Atomic bool is_woken;
};

/*
 * Sets up a ring of `entries` submissions, disabled as yet. extra: 0, or flags for larger entries.
 * The ring has one entry more for itself.
 * Logs one line if the kernel has no newer flags. *ring: zeroed by the caller. Errors have
 * PS_IO_URING_WHERE.
 */
int ps_ring_open(struct ps_ring *ring, uint32_t entries, unsigned extra,
                 const struct ps_io_engine *engine, struct ps_error *err);

/*
 * Registers the files (-1: none there) and the buffers of config, and enables the ring for plain
 * reads and the opcode given alone. That the buffers cannot be registered is no error, but a log
 * line.
 */
int ps_ring_start(struct ps_ring *ring, const int *fds, const struct ps_io_config *config,
                  uint8_t opcode, struct ps_error *err);

/* Takes rings in any state. What is still in flight is the kernel's. */
void ps_ring_close(struct ps_ring *ring);

/* A place for the next operation. The caller has at most `entries` in the ring. */
struct io_uring_sqe *ps_ring_sqe(struct ps_ring *ring);

/* The buffer that holds all of [p, p + bytes), or NULL. */
const struct ps_ring_buffer *ps_ring_buffer_find(const struct ps_ring *ring, const void *p,
                                                 uint64_t bytes);

/* The next completion, or NULL. Enters the kernel only when that has something for us (or, with
 * polling, must be made to look). The caller calls io_uring_cqe_seen(). */
struct io_uring_cqe *ps_ring_peek(struct ps_ring *ring);

/*
 * Submits, and waits up to wait_ns until there is a completion or a wake. May return before. What
 * the kernel does not take now stays in the ring and is offered again by the next call. A failure
 * is in ring->error.
 */
void ps_ring_wait(struct ps_ring *ring, uint64_t wait_ns);

/* See ps_io_ops.wake. */
void ps_ring_wake(struct ps_ring *ring);
/* Whether there was a wake since the last call. */
bool ps_ring_take_wake(struct ps_ring *ring);

/*
 * For a reap whose look at the ring brought n reads and left in_flight: submits, and waits until
 * end_ns if n is 0. True: look again; false: that was all, or ring->error says why.
 */
bool ps_ring_await(struct ps_ring *ring, uint32_t n, uint32_t in_flight, uint64_t end_ns);

/* Submits the one entry prepared and waits for its completion. Returns 0 with *result, -ETIMEDOUT
 * after PS_IO_CLOSE_WAIT_NS, or ring->error. For test reads. */
int ps_ring_try(struct ps_ring *ring, int32_t *result);

/* What a ring takes in memory. */
uint64_t ps_ring_memory_bytes(uint64_t entries, unsigned extra);

#endif
