/*
 * One drive as the scheduler sees it: a bounded queue, and what is known of its speed and health.
 * Pure book-keeping: no I/O, no memory of its own, the time is handed in.
 */
#ifndef PENSTOCK_NVME_QUEUE_H
#define PENSTOCK_NVME_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "nvme/penstock_io.h"

/* A drive that takes so many times as long as usual is called slow, and is no longer below the
 * second figure. */
#define PS_QUEUE_SLOW_PACE 3.0
#define PS_QUEUE_WELL_PACE 1.5
/* ... for so long, in so many reads, and by so much that somebody would care. */
#define PS_QUEUE_SETTLE_NS UINT64_C(1000000000)
#define PS_QUEUE_SLOW_READS 4u
#define PS_QUEUE_SLOW_MORE_NS UINT64_C(5000000)
/* Where no profile tells what is usual, the first reads do: a rate and a latency that hold for
 * reads of their size. After so many much smaller ones it is learned anew. */
#define PS_QUEUE_LEARN_READS 16u
#define PS_QUEUE_UNLIKE_READS 64u
/* Where reads may go to a copy instead, a queue holds no more than the drive reads in this time, so
 * that a drive that has become slow does not sit on work that others could do. */
#define PS_QUEUE_HOLD_NS UINT64_C(100000000)

struct ps_queue {
    const char *name;   /* the path of a member on it, for messages */
    uint32_t member;    /* the first one on it */
    uint32_t depth;     /* most reads in its queue */
    uint64_t bytes_max; /* most bytes, unless the queue is empty */
    bool has_copies;    /* its reads may go elsewhere */

    uint32_t in_flight;
    uint64_t in_flight_bytes;
    uint32_t
        stuck_count; /* reads that hang: the kernel has them, the queue no longer counts them */
    uint64_t progress_ns; /* of the last answer, or when the queue ceased to be empty */
    uint64_t test_ns;     /* of the last test read */

    /* Usual: from the profile, or learned. Pace: how many times as long reads take now. */
    uint64_t rate_bytes_per_s, latency_ns; /* rate 0: not known yet */
    double pace;
    uint32_t learned_count;
    uint64_t learned_ns, learned_bytes; /* sums over them: what they took, and what was ahead */
    uint64_t learn_begin_ns;
    uint64_t least_ns, least_bytes; /* the read that took the least time */
    uint32_t unlike_count;          /* reads much smaller than those, in a row */
    bool has_profile;
    uint32_t slow_count; /* reads since slow_ns */
    uint64_t slow_ns;    /* since when the pace has been slow; 0: it is not */
    uint64_t fast_ns;    /* the same for one that is faster than was thought usual */

    bool is_slow;
};

/* profile: NULL if nothing is known. name is kept. depth 0: as the profile says, or the default. */
void ps_queue_init(struct ps_queue *queue, const char *name, uint32_t member,
                   const struct ps_member_profile *profile, uint32_t depth, bool has_copies);

/* Reads that the queue will hold with these options: what tables are sized by. */
uint32_t ps_queue_depth(const struct ps_member_profile *profile, uint32_t depth);

/* Whether so many of its reads hang that it takes no more. */
static inline bool ps_queue_is_stuck(const struct ps_queue *queue)
{
    return queue->stuck_count >= queue->depth;
}

/* Whether one more read of so many bytes may be put into the queue. */
bool ps_queue_has_room(const struct ps_queue *queue, uint32_t bytes);

/* What the drive gives now, in bytes/s; a guess while nothing is known. */
double ps_queue_rate(const struct ps_queue *queue);

/* How long a read takes that is put into the queue now, if the drive does as usual. 0: not known.
 */
uint64_t ps_queue_usual_ns(const struct ps_queue *queue, uint32_t bytes);

/* The same as the drive does now. */
uint64_t ps_queue_eta_ns(const struct ps_queue *queue, uint32_t bytes);

/* A read was put into the queue; one has left it. */
void ps_queue_begin(struct ps_queue *queue, uint32_t bytes, uint64_t now_ns);
void ps_queue_end(struct ps_queue *queue, uint32_t bytes);

/* A read that was timed to the moment of its end: took_ns for what usually takes usual_ns (0: not
 * known; then ahead_bytes, its own included, teach what is usual). Logs a change of pace. */
void ps_queue_pace(struct ps_queue *queue, uint64_t took_ns, uint64_t usual_ns,
                   uint64_t ahead_bytes, uint64_t now_ns);

/* The drive has answered, with data or an error. */
void ps_queue_answer(struct ps_queue *queue, uint64_t now_ns);

/* True when the queue has had no answer for timeout_ns. */
bool ps_queue_hangs(const struct ps_queue *queue, uint64_t now_ns, uint64_t timeout_ns);

/* Its reads in flight hang, and count as stuck from now on. */
void ps_queue_hang(struct ps_queue *queue, uint64_t now_ns);

/* True when the drive is slow and nothing has been heard of it for a while: whether it still is
 * shows only when it is tried. */
bool ps_queue_wants_test(const struct ps_queue *queue, uint64_t now_ns);

/* ---- members --------------------------------------------------------------------------------- */

/* So many reads in a row that fail mean that the member is down, not the place that was read. */
#define PS_HEALTH_FAILURES_MAX 4u

/* Whether a member can be read at all; several may lie on one drive. */
struct ps_health {
    const char *name; /* its path */
    bool has_copies;
    bool is_missing;   /* from the start */
    bool is_down;      /* its reads fail */
    bool is_stuck;     /* its reads hang */
    bool is_tested;    /* a read that only asks whether it answers is in flight */
    uint32_t failures; /* in a row */
    uint64_t answer_ns, test_ns;
};

/* Not to be asked where there is a copy. */
static inline bool ps_health_is_off(const struct ps_health *health)
{
    return health->is_down || health->is_stuck;
}

void ps_health_init(struct ps_health *health, const char *name, bool is_missing, bool has_copies);

/* A read has ended: 0, or -errno. Logs what changes by it. */
void ps_health_answer(struct ps_health *health, int error, uint64_t now_ns);

/* Some of its reads hang: nothing has been heard for silent_ns. Logs it once. */
void ps_health_hang(struct ps_health *health, uint64_t silent_ns);

/* As ps_queue_wants_test, for a member that is down or hangs. */
bool ps_health_wants_test(const struct ps_health *health, uint64_t now_ns);

#endif
