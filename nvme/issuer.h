/*
 * The thread that reads for a store. It opens the engine, pumps the scheduler as long as there is
 * anything to read, sleeps otherwise, and closes the engine: drives get their next reads and slices
 * are checked while the caller's threads compute. Why a thread of its own:
 * docs/decisions/0006-who-issues-reads.md.
 */
#ifndef PENSTOCK_NVME_ISSUER_H
#define PENSTOCK_NVME_ISSUER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "nvme/io.h"
#include "nvme/scheduler.h"

/* It calls engines, which keep what is large on the heap, and the log. */
#define PS_ISSUER_STACK_BYTES ((size_t)128 << 10)

struct ps_issuer {
    struct ps_scheduler *scheduler; /* its lock is over what follows */
    const struct ps_io_config *config;
    struct ps_error *err;
    int rc; /* of opening the engine; 1: not opened yet */
    bool stop;
    uint32_t left; /* what ps_io_close returned */
    bool is_running;
    pthread_t thread;
};

/*
 * Starts the thread and returns when it has opened the engine, which is then scheduler->io. Both
 * must stay in place. Errors: -EAGAIN (thread limit), those of ps_io_open.
 */
int ps_issuer_start(struct ps_issuer *issuer, struct ps_scheduler *scheduler,
                    const struct ps_io_config *config, struct ps_error *err);

/* Closes the engine and ends the thread. Returns what ps_io_close did. Takes a zeroed issuer. */
uint32_t ps_issuer_stop(struct ps_issuer *issuer);

#endif
