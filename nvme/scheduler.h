/*
 * From objects to reads: every member has a queue of the same fetches, in the order in which they
 * were asked for, and takes its own pieces from them slice by slice; a slice counts as landed when
 * all its bytes are there and have the recorded checksum.
 */
#ifndef PENSTOCK_NVME_SCHEDULER_H
#define PENSTOCK_NVME_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "nvme/io.h"
#include "nvme/penstock_io.h"

/*
 * A read is at most this long, so depth reads bound a member's queue in bytes, too: drives reach
 * their bandwidth with a few requests of 1 to 4 MiB, and longer ones only delay the first slice.
 */
#define PS_PART_BYTES_MAX (4u << 20)

/* One object on its way into memory, or there. The caller owns it and keeps it in place. */
struct ps_fetch {
    /* Set by the caller before ps_scheduler_start. */
    uint8_t *data;     /* [object's bytes], aligned to PS_IO_ALIGN_BYTES */
    uint8_t *landed;   /* [slice_count]: set to 1 as slices land */
    uint32_t *pending; /* [slice_count]: requests of a slice that have not come back */
    uint32_t object;

    uint32_t slice_count, landed_count;
    uint32_t in_flight;    /* requests with the engine */
    uint32_t members_left; /* members that have not issued their last piece; > 0: queued */
    bool is_active;        /* started and not yet handed to done() */
    bool is_streamed;
    int error;            /* the first failure, or 0: nothing lands after it */
    uint32_t error_slice; /* where it happened */
    int32_t error_member; /* -1: unknown, or several */
    struct ps_fetch *next, *prev;
};

/* A read with the engine; the tag is its number. */
struct ps_read {
    struct ps_fetch *fetch;
    uint32_t slice, bytes, member;
    bool ends_slice; /* came back as the last of its slice */
};

/* What a member will read next: the first byte of fetch that it has not asked for. */
struct ps_cursor {
    struct ps_fetch *fetch; /* NULL: the end of the queue */
    uint32_t slice, piece;
    uint64_t piece_begin; /* of the piece, in the object */
    uint32_t piece_done;  /* bytes of the piece asked for */
    uint32_t in_flight;
};

/* Called when the last request of a fetch has come back: landed as a whole, or fetch->error. */
typedef void ps_fetch_done_fn(void *ctx, struct ps_fetch *fetch);

struct ps_scheduler {
    const struct ps_volume *volume;
    struct ps_io *io;
    ps_fetch_done_fn *done;
    void *ctx;
    int member_count;
    uint32_t depth, align_bytes, capacity;
    uint32_t in_flight;
    int error; /* of the engine itself: nothing works any more */
    struct ps_fetch *tail;
    struct ps_cursor *cursors; /* [member_count] */
    /* With the engine, and as many again that have come back and are still looked at. */
    struct ps_read *reads;           /* [2 * capacity] */
    uint32_t *free_reads;            /* [2 * capacity] stack */
    struct ps_io_request *batch;     /* [capacity] */
    struct ps_io_completion *reaped; /* [capacity] */
    uint32_t free_count;
    uint64_t read_bytes, read_count, streamed_bytes;
};

/* Memory for the tables of a scheduler, which the caller provides, aligned to 64. */
uint64_t ps_scheduler_table_bytes(int member_count, uint32_t depth);
void ps_scheduler_init(struct ps_scheduler *s, const struct ps_volume *volume, struct ps_io *io,
                       uint32_t depth, void *table);

/* Appends the fetch to the queue and issues what there is room for. Does not block. */
void ps_scheduler_start(struct ps_scheduler *s, struct ps_fetch *fetch);

/*
 * Takes what the engine has finished, issues what there is room for then, checks the slices that
 * are complete, and calls done() for fetches that have ended. With wait, blocks until at least one
 * request has come back, unless none is in flight. Returns 0, or -errno when the engine is broken.
 */
int ps_scheduler_pump(struct ps_scheduler *s, bool wait);

/* The sentence for a fetch that has an error; returns fetch->error. */
int ps_fetch_error(const struct ps_volume *volume, const struct ps_fetch *fetch,
                   struct ps_error *err);

#endif
