/*
 * From objects to reads. Every drive has one queue, bounded in requests and bytes, and takes from
 * the fetches that are waiting what it may read next: what is demanded before what is guessed,
 * older fetches before younger ones, and a slice's second copy when that will be there sooner than
 * the first. A slice counts as landed when all its bytes are there and have the recorded checksum.
 * A read that fails is tried once more on the same member, then on the copy; a drive that stops
 * answering costs the buffers that it may still write to, and nobody else's time.
 *
 * Thread rule: one thread opens and closes the engine and pumps; any other thread that holds the
 * lock may call what is marked so. done() and move() are called with the lock held.
 */
#ifndef PENSTOCK_NVME_SCHEDULER_H
#define PENSTOCK_NVME_SCHEDULER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "nvme/io.h"
#include "nvme/load.h"
#include "nvme/penstock_io.h"
#include "nvme/queue.h"

/*
 * A read is at most this long, so depth reads bound a drive's queue in bytes, too: drives reach
 * their bandwidth with a few requests of 1 to 4 MiB, and longer ones only delay the first slice.
 */
#define PS_PART_BYTES_MAX (4u << 20)
/* A drive that answers nothing for so long is taken to hang. A read that hangs twice is given up
 * after twice this time, within the 5 s that a user is promised a word. */
#define PS_READ_TIMEOUT_NS UINT64_C(2000000000)
/* Guessed reads leave a drive's queue this short at least, so that a demanded one waits for few of
 * them; those of sure guesses fill it (ps_fetch.guess_depth). */
#define PS_PREFETCH_DEPTH 2u
/* What is read to see whether a drive that was given up has come back. */
#define PS_TEST_READ_BYTES (128u << 10)

enum ps_fetch_class { PS_FETCH_DEMAND, PS_FETCH_PREFETCH, PS_FETCH_CLASS_COUNT };

/* A place in the parts of an object: part `part` of piece `piece` of a slice. */
struct ps_part_place {
    uint32_t slice, piece;
    uint32_t number;       /* of the part, over the whole object */
    uint32_t piece_offset; /* of the part in its piece */
    uint32_t slice_offset; /* of the piece in its slice */
};

/* One object on its way into memory, or there. The caller owns it and keeps it in place. */
struct ps_fetch {
    /* Set by the caller before ps_scheduler_start. */
    uint8_t **slices;  /* [slice_count]: where each goes, aligned to PS_IO_ALIGN_BYTES */
    uint8_t *landed;   /* [slice_count]: set to 1 as slices land */
    uint32_t *pending; /* [slice_count]: parts of a slice that have not come back whole */
    uint8_t *tries;    /* [slice_count]: how often each has had a wrong checksum */
    uint8_t *parts;    /* [part_count]: enum part_state of scheduler_internal.h */
    uint32_t object;

    uint32_t slice_count, landed_count, part_count;
    uint32_t in_flight;         /* reads with the engine, or back and still looked at */
    uint32_t untaken;           /* parts that no drive has taken: > 0: queued */
    struct ps_part_place first; /* no part before it is untaken */
    enum ps_fetch_class class;
    uint32_t guess_depth; /* PREFETCH: most reads with a drive when one of it is added */
    uint64_t guess_bytes; /* that drives were asked for while it was PREFETCH */
    bool is_active;       /* started and not yet handed to done() */
    bool is_streamed, is_queued;
    bool is_left;         /* nobody wants the rest: ends when its last read has come back */
    bool has_no_place;    /* failed because what hangs could not be read to other memory */
    int error;            /* the first failure, or 0: nothing lands after it */
    uint32_t error_slice; /* where it happened */
    int32_t error_member; /* -1: several */
    struct ps_fetch *next, *prev;
};

/* A read with the engine; the tag is its number. */
struct ps_read {
    struct ps_fetch *fetch; /* NULL: a test read, or free */
    uint32_t slice, part, bytes, member;
    uint64_t begin_ns;
    uint64_t usual_ns;    /* how long it takes if the drive does as usual; 0: not known */
    uint64_t ahead_bytes; /* in the drive's queue when it began, its own included */
    bool is_busy, is_stuck, is_moving;
    bool is_guess;   /* of a guessed fetch, when it began */
    bool ends_slice; /* came back as the last of its slice */
};

/* A slice whose bytes are all there. */
struct ps_check {
    struct ps_fetch *fetch;
    uint32_t slice, bytes;
    uint64_t sum; /* of what is there */
};

/* What a member has done so far. */
struct ps_tally {
    uint64_t bytes, reads, retries, errors;
};

/* Called when the last read of a fetch has come back: landed as a whole, left, or fetch->error. */
typedef void ps_fetch_done_fn(void *ctx, struct ps_fetch *fetch);

/*
 * Called when some of the fetch's reads hang: asks for a second place for the object. Returns a
 * fetch whose tables and slices are set and which is otherwise as new, or NULL when there is none
 * to be had. Slices that have landed are copied by the scheduler. The old fetch stays in place
 * until done() is called for it.
 */
typedef struct ps_fetch *ps_fetch_move_fn(void *ctx, struct ps_fetch *fetch);

struct ps_scheduler {
    pthread_mutex_t lock; /* over all that follows and what done() and move() touch */
    pthread_cond_t
        news; /* a slice has landed, a fetch has ended or failed, checks are to be made */
    pthread_cond_t work; /* something is to be read, for a thread that pumps no more meanwhile */
    bool is_waiting;     /* the pump waits for the engine, and must be woken */
    const struct ps_volume *volume;
    struct ps_io *io; /* set before the first pump */
    ps_fetch_done_fn *done;
    ps_fetch_move_fn *move;
    void *ctx;
    int member_count, queue_count;
    uint32_t copy_count, capacity;
    uint64_t timeout_ns;
    int error; /* of the engine itself: nothing works any more */
    uint32_t in_flight;
    struct ps_queue *queues;  /* [queue_count] */
    uint8_t *queue_of;        /* [member_count] */
    struct ps_tally *tallies; /* [member_count] */
    struct ps_health *health; /* [member_count] */
    struct ps_fetch *heads[PS_FETCH_CLASS_COUNT], *tails[PS_FETCH_CLASS_COUNT];
    /* With the engine, and as many again that have come back and are still looked at. */
    struct ps_read *reads;           /* [2 * capacity] */
    uint32_t *free_reads;            /* [2 * capacity] stack */
    struct ps_io_request *batch;     /* [capacity] */
    struct ps_io_completion *reaped; /* [capacity] */
    struct ps_check *checks;         /* [capacity], of this pump */
    uint32_t check_count, checks_begun, checks_made;
    ps_run_fn *run; /* what ps_scheduler_help makes several checks with at once; NULL: nothing */
    void *run_ctx;
    uint32_t free_count;
    uint8_t *test_buf; /* [PS_TEST_READ_BYTES], of all test reads: nobody looks at it */
    uint64_t read_bytes, read_count, streamed_bytes, check_ns;
    uint64_t guess_bytes;   /* of streamed_bytes, asked for on guesses */
    uint32_t demand_count;  /* streamed fetches that are demanded and have not ended */
    uint64_t demand_end_ns; /* when there was last none; 0: never */
    double demand_gap_ns;   /* how long there is none, lately */
    struct ps_load load;
    struct ps_timeline *timeline; /* set by the caller after init; NULL: nothing is recorded */
};

/* Memory for the tables of a scheduler, which the caller provides, aligned to 4096. depth: 0 = as
 * the volume's profiles say, or the default. */
uint64_t ps_scheduler_table_bytes(const struct ps_volume *volume, uint32_t depth);

/* Reads that an engine must be able to hold per member: the queue, and as many that hang. */
uint32_t ps_scheduler_engine_depth(const struct ps_volume *volume, uint32_t depth);

/* The caller sets done, move and ctx afterwards, run where there are threads, and io. */
void ps_scheduler_init(struct ps_scheduler *s, const struct ps_volume *volume, uint32_t depth,
                       void *table);
void ps_scheduler_fini(struct ps_scheduler *s);

/* The time that its waits are counted in: ps_now_ns, or the engine's own. */
uint64_t ps_scheduler_now_ns(const struct ps_scheduler *s);

/* How many parts the object is read in. */
uint32_t ps_object_part_count(const struct ps_volume *volume, uint32_t object);

/* Appends the fetch to the queue of its class and has the pump issue it. Any thread. */
void ps_scheduler_start(struct ps_scheduler *s, struct ps_fetch *fetch, enum ps_fetch_class class);

/* Makes a guessed fetch a demanded one. Takes any fetch. Any thread. */
void ps_scheduler_promote(struct ps_scheduler *s, struct ps_fetch *fetch);

/* Somebody new waits for a fetch that nobody waited for: what has failed so far was not his, and
 * every read may be tried as often as at first. Takes any fetch. Any thread. */
void ps_scheduler_renew(struct ps_fetch *fetch);

/* Gives a fetch up: what was not asked for will not be. done() is called now or, with reads in
 * flight, when they have come back. Any thread. */
void ps_scheduler_leave(struct ps_scheduler *s, struct ps_fetch *fetch);

/* Has the pump look at what is new, wherever it waits. Any thread. */
void ps_scheduler_kick(struct ps_scheduler *s);

/*
 * Issues what there is room for, takes what the engine has finished, issues more, checks the slices
 * that are complete, and calls done() for fetches that have ended. Called with the lock, which it
 * gives up while it waits or checks. Blocks until a read has come back, a drive is found to hang or
 * somebody kicks, unless none is in flight. Returns the number of reads that came back, or -errno
 * when the engine is broken.
 */
int ps_scheduler_pump(struct ps_scheduler *s);

/*
 * For a thread that waits for news: makes checks that the pump has not come to, without the lock
 * meanwhile, all of them where there is `run` and else one. False: there are none. Any thread, but
 * `run` is called by it.
 */
bool ps_scheduler_help(struct ps_scheduler *s);

/* What all drives together give now, in bytes/s; drives that are off give nothing. Any thread. */
double ps_scheduler_rate(const struct ps_scheduler *s);

/* True when everything in flight hangs, and nothing else is waiting to be read: waiting on brings
 * nothing, unless a drive comes back. Any thread. */
bool ps_scheduler_is_stalled(const struct ps_scheduler *s);

/* The sentence for a fetch that has an error; returns fetch->error. */
int ps_fetch_error(const struct ps_volume *volume, const struct ps_fetch *fetch,
                   struct ps_error *err);

#endif
