/* Between scheduler.c, scheduler_check.c and scheduler_retry.c. */
#ifndef PENSTOCK_NVME_SCHEDULER_INTERNAL_H
#define PENSTOCK_NVME_SCHEDULER_INTERNAL_H

#include "nvme/format.h"
#include "nvme/scheduler.h"

/* What is known of a part. 0: untaken, any copy will do. */
enum part_state {
    PART_TAKEN = 1,   /* with the engine, or read */
    PART_COPY = 2,    /* set: the second copy is the one meant below, or read from */
    PART_HELD = 4,    /* may be read from that copy only */
    PART_RETRIED = 8, /* has failed once on that copy */
    PART_OUT = 16,    /* the other copy has failed for good */
};

/* A walk over the parts of an object in the order of its bytes. */
struct ps_part_walk {
    const struct ps_volume *volume;
    uint32_t object, slice_count, copy_count, align_bytes;
    const struct ps_disk_piece *pieces[2]; /* of the slice, by copy */
    uint32_t piece_count;
    struct ps_part_place at;
    uint32_t bytes; /* of the part */
};

/* Starts at a place (zeroes: the first part). False: the place is the end. */
bool ps_part_walk_begin(struct ps_part_walk *walk, const struct ps_volume *volume, uint32_t object,
                        struct ps_part_place at);
/* False at the end. */
bool ps_part_walk_next(struct ps_part_walk *walk);

/* Puts the fetch's tables into the state in which nothing has been read. */
void ps_fetch_reset(struct ps_scheduler *s, struct ps_fetch *fetch, enum ps_fetch_class class);

/* Puts a fetch that has untaken parts into its queue: behind the others, or before them. */
void ps_fetch_queue(struct ps_scheduler *s, struct ps_fetch *fetch, bool in_front);
void ps_fetch_unqueue(struct ps_scheduler *s, struct ps_fetch *fetch);

/* The GROUP and INDEX of enum ps_store_event, to values[0] and [1]. */
void ps_object_values(const struct ps_volume *volume, uint32_t object, uint32_t *values);

/* Calls done() if the fetch has nothing more to wait for. */
void ps_fetch_end(struct ps_scheduler *s, struct ps_fetch *fetch);

/* Nothing of the fetch lands from here on. */
void ps_fetch_fail(struct ps_scheduler *s, struct ps_fetch *fetch, uint32_t slice, int32_t member,
                   int error);

/* A read has come back with less than its bytes: has its part read again, or fails the fetch. */
void ps_read_retry(struct ps_scheduler *s, const struct ps_read *read, int error);

/* Checks the slices that are complete after `count` reads have come back. Gives up the lock
 * meanwhile. */
void ps_slices_check(struct ps_scheduler *s, int count);

/* A slice does not have its checksum: has it read again, or fails the fetch. */
void ps_slice_retry(struct ps_scheduler *s, struct ps_fetch *fetch, uint32_t slice);

/* Looks for drives that hang, and takes what they were to read from there. */
void ps_hangs_check(struct ps_scheduler *s, uint64_t now_ns);

/* When ps_hangs_check may find something next. UINT64_MAX: never. */
uint64_t ps_hangs_deadline_ns(const struct ps_scheduler *s);

/* Fills in a read that shows whether a drive has come back; false: none is called for. */
bool ps_test_read_make(struct ps_scheduler *s, uint64_t now_ns, struct ps_io_request *request);

#endif
