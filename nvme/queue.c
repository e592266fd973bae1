#include "nvme/queue.h"

#include <errno.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/io.h"
#include "nvme/scheduler.h"

/* More than this many small reads in flight win nothing, whatever a profile says. */
#define DEPTH_MAX 32u
/* Pieces are seldom shorter: a queue of so many bytes is full with this many reads. */
#define PIECE_BYTES_TYPICAL (256u << 10)
/* The weight of the newest read in the pace. */
#define PACE_WEIGHT 0.25
/* A drive under this pace is faster than was thought usual. */
#define PACE_FASTER 0.7
#define TEST_INTERVAL_NS UINT64_C(1000000000)

/* The knee is the least that reaches the bandwidth; reads of odd sizes need some more. */
static uint64_t queue_bytes(const struct ps_member_profile *profile)
{
    if (!profile || profile->request_bytes == 0 || profile->depth == 0)
        return (uint64_t)PS_IO_DEPTH_DEFAULT * PS_PART_BYTES_MAX;
    return ps_max_u64((uint64_t)profile->request_bytes * profile->depth * 3 / 2, PS_PART_BYTES_MAX);
}

uint32_t ps_queue_depth(const struct ps_member_profile *profile, uint32_t depth)
{
    if (depth > 0)
        return depth;
    if (!profile || profile->depth == 0)
        return PS_IO_DEPTH_DEFAULT;
    uint64_t reads = ps_div_up(queue_bytes(profile), PIECE_BYTES_TYPICAL);
    return (uint32_t)ps_min_u64(ps_max_u64(reads, ps_max_u64(profile->depth, PS_IO_DEPTH_DEFAULT)),
                                DEPTH_MAX);
}

void ps_queue_init(struct ps_queue *queue, const char *name, uint32_t member,
                   const struct ps_member_profile *profile, uint32_t depth, bool has_copies)
{
    *queue = (struct ps_queue){
        .name = name,
        .member = member,
        .depth = ps_queue_depth(profile, depth),
        .bytes_max = queue_bytes(profile),
        .has_copies = has_copies,
        .pace = 1,
    };
    if (profile && profile->bytes_per_s > 0) {
        /* The profile's latency is that of a whole request: what is left when its bytes have
         * moved at full speed is the drive's own. */
        uint64_t move_ns =
            (uint64_t)((double)profile->request_bytes * 1e9 / (double)profile->bytes_per_s);
        queue->has_profile = true;
        queue->rate_bytes_per_s = profile->bytes_per_s;
        queue->latency_ns = profile->latency_ns - ps_min_u64(profile->latency_ns, move_ns);
    }
}

double ps_queue_rate(const struct ps_queue *queue)
{
    double rate = (double)queue->rate_bytes_per_s;

    if (rate == 0)
        rate = queue->learned_count > 0
                   ? (double)queue->learned_bytes * 1e9 / (double)(queue->learned_ns + 1)
                   : 1e9;
    return rate / queue->pace;
}

bool ps_queue_has_room(const struct ps_queue *queue, uint32_t bytes)
{
    uint64_t most = queue->bytes_max;

    if (queue->in_flight >= queue->depth || ps_queue_is_stuck(queue))
        return false;
    if (queue->has_copies)
        most =
            ps_min_u64(most, (uint64_t)(ps_queue_rate(queue) * ((double)PS_QUEUE_HOLD_NS / 1e9)));
    return queue->in_flight == 0 || queue->in_flight_bytes + bytes <= most;
}

uint64_t ps_queue_usual_ns(const struct ps_queue *queue, uint32_t bytes)
{
    if (queue->rate_bytes_per_s == 0)
        return 0;
    return queue->latency_ns + (uint64_t)((double)(queue->in_flight_bytes + bytes) * 1e9 /
                                          (double)queue->rate_bytes_per_s);
}

uint64_t ps_queue_eta_ns(const struct ps_queue *queue, uint32_t bytes)
{
    return queue->latency_ns +
           (uint64_t)((double)(queue->in_flight_bytes + bytes) * 1e9 / ps_queue_rate(queue));
}

void ps_queue_begin(struct ps_queue *queue, uint32_t bytes, uint64_t now_ns)
{
    if (queue->in_flight++ == 0)
        queue->progress_ns = now_ns;
    queue->in_flight_bytes += bytes;
}

void ps_queue_end(struct ps_queue *queue, uint32_t bytes)
{
    queue->in_flight--;
    queue->in_flight_bytes -= bytes;
}

/* ---- pace ------------------------------------------------------------------------------------ */

/* Not the best of the first reads but all of them, over a while: many drives begin with a burst. */
static void learn(struct ps_queue *queue, uint64_t took_ns, uint64_t ahead_bytes, uint64_t now_ns)
{
    if (queue->learned_count == 0) {
        queue->learn_begin_ns = now_ns;
        queue->learned_ns = queue->learned_bytes = 0;
        queue->least_ns = UINT64_MAX;
    }
    queue->learned_count++;
    queue->learned_ns += took_ns;
    queue->learned_bytes += ahead_bytes;
    if (took_ns < queue->least_ns) {
        queue->least_ns = took_ns;
        queue->least_bytes = ahead_bytes;
    }
    if (queue->learned_count < PS_QUEUE_LEARN_READS ||
        now_ns - queue->learn_begin_ns < PS_QUEUE_SETTLE_NS)
        return;
    double rate = (double)queue->learned_bytes * 1e9 / (double)(queue->learned_ns + 1);
    uint64_t move_ns = (uint64_t)((double)queue->least_bytes * 1e9 / rate);
    queue->rate_bytes_per_s = (uint64_t)rate + 1;
    queue->latency_ns = queue->least_ns - ps_min_u64(queue->least_ns, move_ns);
    queue->learned_bytes /= queue->learned_count;
}

/* Whether a read is so unlike those that were learned from that it says nothing. */
static bool is_unlike(struct ps_queue *queue, uint64_t ahead_bytes)
{
    if (queue->has_profile || ahead_bytes * 2 >= queue->learned_bytes) {
        queue->unlike_count = 0;
        return false;
    }
    if (++queue->unlike_count == PS_QUEUE_UNLIKE_READS) {
        queue->unlike_count = queue->learned_count = 0;
        queue->rate_bytes_per_s = 0;
        queue->pace = 1;
    }
    return true;
}

static void log_slow(const struct ps_queue *queue)
{
    double usual = (double)queue->rate_bytes_per_s / 1e6;

    ps_log(PS_LOG_WARN,
           "%s: this drive has become slow: %.3g MB/s where it gave %.3g; it may be too hot (see "
           "`penstock drives`) or busy with other work%s",
           queue->name, usual / queue->pace, usual,
           queue->has_copies ? "; the other copies are read in its place where that is faster"
                             : "");
}

/* Since when a condition has held, 0 while it does not. */
static uint64_t since(uint64_t begin_ns, bool holds, uint64_t now_ns)
{
    return !holds ? 0 : begin_ns ? begin_ns : now_ns;
}

static bool has_held(uint64_t begin_ns, uint64_t now_ns)
{
    return begin_ns != 0 && now_ns - begin_ns >= PS_QUEUE_SETTLE_NS;
}

static void judge(struct ps_queue *queue, bool is_much, uint64_t now_ns)
{
    bool looks_slow = queue->pace >= PS_QUEUE_SLOW_PACE && is_much;
    bool looks_fast = queue->pace < PACE_FASTER && !queue->has_profile;

    queue->slow_ns = since(queue->slow_ns, looks_slow, now_ns);
    queue->fast_ns = since(queue->fast_ns, looks_fast, now_ns);
    queue->slow_count = looks_slow ? queue->slow_count + 1 : 0;
    if (has_held(queue->fast_ns, now_ns)) {
        queue->rate_bytes_per_s = (uint64_t)((double)queue->rate_bytes_per_s / queue->pace);
        queue->pace = 1;
        queue->fast_ns = 0;
    }
    if (queue->is_slow && queue->pace < PS_QUEUE_WELL_PACE) {
        queue->is_slow = false;
        ps_log(PS_LOG_WARN, "%s: this drive is as fast as before again", queue->name);
    } else if (!queue->is_slow && has_held(queue->slow_ns, now_ns) &&
               queue->slow_count >= PS_QUEUE_SLOW_READS) {
        queue->is_slow = true;
        log_slow(queue);
    }
}

void ps_queue_pace(struct ps_queue *queue, uint64_t took_ns, uint64_t usual_ns,
                   uint64_t ahead_bytes, uint64_t now_ns)
{
    if (usual_ns == 0) {
        learn(queue, took_ns, ahead_bytes, now_ns);
        return;
    }
    if (is_unlike(queue, ahead_bytes))
        return;
    queue->pace += PACE_WEIGHT * ((double)took_ns / (double)usual_ns - queue->pace);
    judge(queue, took_ns >= usual_ns + PS_QUEUE_SLOW_MORE_NS, now_ns);
}

/* ---- silence --------------------------------------------------------------------------------- */

void ps_queue_answer(struct ps_queue *queue, uint64_t now_ns)
{
    queue->progress_ns = now_ns;
}

bool ps_queue_hangs(const struct ps_queue *queue, uint64_t now_ns, uint64_t timeout_ns)
{
    return queue->in_flight > 0 && now_ns - queue->progress_ns >= timeout_ns;
}

void ps_queue_hang(struct ps_queue *queue, uint64_t now_ns)
{
    queue->stuck_count += queue->in_flight;
    queue->in_flight = 0;
    queue->in_flight_bytes = 0;
    queue->progress_ns = now_ns;
}

bool ps_queue_wants_test(const struct ps_queue *queue, uint64_t now_ns)
{
    return queue->has_copies && queue->is_slow &&
           now_ns - ps_max_u64(queue->test_ns, queue->progress_ns) >= TEST_INTERVAL_NS;
}

/* ---- members --------------------------------------------------------------------------------- */

void ps_health_init(struct ps_health *health, const char *name, bool is_missing, bool has_copies)
{
    *health = (struct ps_health){
        .name = name, .has_copies = has_copies, .is_missing = is_missing, .is_down = is_missing};
}

void ps_health_answer(struct ps_health *health, int error, uint64_t now_ns)
{
    bool was_down = health->is_down, was_stuck = health->is_stuck;

    health->answer_ns = now_ns;
    if (error == 0) {
        health->failures = 0;
        health->is_down = health->is_stuck = false;
        if (was_stuck || (was_down && health->has_copies))
            ps_log(PS_LOG_WARN, "%s: this member can be read again", health->name);
        return;
    }
    if (++health->failures < PS_HEALTH_FAILURES_MAX && error != -ENODEV)
        return;
    health->is_down = true;
    /* Without copies the reader hears of it by the read that fails. */
    if (!was_down && health->has_copies)
        ps_log(PS_LOG_WARN,
               "%s: this member cannot be read (%s); the other copies are read in its place until "
               "it can",
               health->name, ps_strerror(error));
}

void ps_health_hang(struct ps_health *health, uint64_t silent_ns)
{
    if (!health->is_stuck)
        ps_log(PS_LOG_WARN,
               "%s: the drive of this member has not answered for %.1f s; the memory that its "
               "reads may still write to is set aside until it does",
               health->name, (double)silent_ns / 1e9);
    health->is_stuck = true;
}

bool ps_health_wants_test(const struct ps_health *health, uint64_t now_ns)
{
    return health->has_copies && (health->is_down || health->is_stuck) && !health->is_missing &&
           now_ns - ps_max_u64(health->test_ns, health->answer_ns) >= TEST_INTERVAL_NS;
}
