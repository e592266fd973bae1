#include "nvme/drive.h"

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

uint32_t ps_drive_depth(const struct ps_member_profile *profile, uint32_t depth)
{
    if (depth > 0)
        return depth;
    if (!profile || profile->depth == 0)
        return PS_IO_DEPTH_DEFAULT;
    uint64_t reads = ps_div_up(queue_bytes(profile), PIECE_BYTES_TYPICAL);
    return (uint32_t)ps_min_u64(ps_max_u64(reads, ps_max_u64(profile->depth, PS_IO_DEPTH_DEFAULT)),
                                DEPTH_MAX);
}

void ps_drive_init(struct ps_drive *drive, const char *name, uint32_t member,
                   const struct ps_member_profile *profile, uint32_t depth, bool has_copies)
{
    *drive = (struct ps_drive){
        .name = name,
        .member = member,
        .depth = ps_drive_depth(profile, depth),
        .bytes_max = queue_bytes(profile),
        .has_copies = has_copies,
        .pace = 1,
    };
    if (profile && profile->bytes_per_s > 0) {
        /* The profile's latency is that of a whole request: what is left when its bytes have
         * moved at full speed is the drive's own. */
        uint64_t move_ns =
            (uint64_t)((double)profile->request_bytes * 1e9 / (double)profile->bytes_per_s);
        drive->has_profile = true;
        drive->rate_bytes_per_s = profile->bytes_per_s;
        drive->latency_ns = profile->latency_ns - ps_min_u64(profile->latency_ns, move_ns);
    }
}

static double rate_now(const struct ps_drive *drive)
{
    double rate = (double)drive->rate_bytes_per_s;

    if (rate == 0)
        rate = drive->learned_count > 0
                   ? (double)drive->learned_bytes * 1e9 / (double)(drive->learned_ns + 1)
                   : 1e9;
    return rate / drive->pace;
}

bool ps_drive_has_room(const struct ps_drive *drive, uint32_t bytes)
{
    uint64_t most = drive->bytes_max;

    if (drive->in_flight >= drive->depth || drive->stuck_count >= drive->depth)
        return false;
    if (drive->has_copies)
        most = ps_min_u64(most, (uint64_t)(rate_now(drive) * ((double)PS_DRIVE_QUEUE_NS / 1e9)));
    return drive->in_flight == 0 || drive->in_flight_bytes + bytes <= most;
}

uint64_t ps_drive_usual_ns(const struct ps_drive *drive, uint32_t bytes)
{
    if (drive->rate_bytes_per_s == 0)
        return 0;
    return drive->latency_ns + (uint64_t)((double)(drive->in_flight_bytes + bytes) * 1e9 /
                                          (double)drive->rate_bytes_per_s);
}

uint64_t ps_drive_eta_ns(const struct ps_drive *drive, uint32_t bytes)
{
    if (drive->is_down || drive->is_stuck)
        return UINT64_MAX;
    return drive->latency_ns +
           (uint64_t)((double)(drive->in_flight_bytes + bytes) * 1e9 / rate_now(drive));
}

void ps_drive_begin(struct ps_drive *drive, uint32_t bytes, uint64_t now_ns)
{
    if (drive->in_flight++ == 0)
        drive->progress_ns = now_ns;
    drive->in_flight_bytes += bytes;
}

void ps_drive_end(struct ps_drive *drive, uint32_t bytes)
{
    drive->in_flight--;
    drive->in_flight_bytes -= bytes;
}

/* ---- pace ------------------------------------------------------------------------------------ */

/* Not the best of the first reads but all of them, over a while: many drives begin with a burst. */
static void learn(struct ps_drive *drive, uint64_t took_ns, uint64_t ahead_bytes, uint64_t now_ns)
{
    if (drive->learned_count == 0) {
        drive->learn_begin_ns = now_ns;
        drive->learned_ns = drive->learned_bytes = 0;
        drive->least_ns = UINT64_MAX;
    }
    drive->learned_count++;
    drive->learned_ns += took_ns;
    drive->learned_bytes += ahead_bytes;
    if (took_ns < drive->least_ns) {
        drive->least_ns = took_ns;
        drive->least_bytes = ahead_bytes;
    }
    if (drive->learned_count < PS_DRIVE_LEARN_READS ||
        now_ns - drive->learn_begin_ns < PS_DRIVE_SETTLE_NS)
        return;
    double rate = (double)drive->learned_bytes * 1e9 / (double)(drive->learned_ns + 1);
    uint64_t move_ns = (uint64_t)((double)drive->least_bytes * 1e9 / rate);
    drive->rate_bytes_per_s = (uint64_t)rate + 1;
    drive->latency_ns = drive->least_ns - ps_min_u64(drive->least_ns, move_ns);
    drive->learned_bytes /= drive->learned_count;
}

/* Whether a read is so unlike those that were learned from that it says nothing. */
static bool is_unlike(struct ps_drive *drive, uint64_t ahead_bytes)
{
    if (drive->has_profile || ahead_bytes * 2 >= drive->learned_bytes) {
        drive->unlike_count = 0;
        return false;
    }
    if (++drive->unlike_count == PS_DRIVE_UNLIKE_READS) {
        drive->unlike_count = drive->learned_count = 0;
        drive->rate_bytes_per_s = 0;
        drive->pace = 1;
    }
    return true;
}

static void log_slow(const struct ps_drive *drive)
{
    double usual = (double)drive->rate_bytes_per_s / 1e6;

    ps_log(PS_LOG_WARN,
           "%s: this drive has become slow: %.3g MB/s where it gave %.3g; it may be too hot (see "
           "`penstock drives`) or busy with other work%s",
           drive->name, usual / drive->pace, usual,
           drive->has_copies ? "; the other copies are read in its place where that is faster"
                             : "");
}

/* Since when a condition has held, 0 while it does not. */
static uint64_t since(uint64_t begin_ns, bool holds, uint64_t now_ns)
{
    return !holds ? 0 : begin_ns ? begin_ns : now_ns;
}

static bool has_held(uint64_t begin_ns, uint64_t now_ns)
{
    return begin_ns != 0 && now_ns - begin_ns >= PS_DRIVE_SETTLE_NS;
}

static void judge(struct ps_drive *drive, bool is_much, uint64_t now_ns)
{
    bool looks_slow = drive->pace >= PS_DRIVE_SLOW_PACE && is_much;
    bool looks_fast = drive->pace < PACE_FASTER && !drive->has_profile;

    drive->slow_ns = since(drive->slow_ns, looks_slow, now_ns);
    drive->fast_ns = since(drive->fast_ns, looks_fast, now_ns);
    drive->slow_count = looks_slow ? drive->slow_count + 1 : 0;
    if (has_held(drive->fast_ns, now_ns)) {
        drive->rate_bytes_per_s = (uint64_t)((double)drive->rate_bytes_per_s / drive->pace);
        drive->pace = 1;
        drive->fast_ns = 0;
    }
    if (drive->is_slow && drive->pace < PS_DRIVE_WELL_PACE) {
        drive->is_slow = false;
        ps_log(PS_LOG_WARN, "%s: this drive is as fast as before again", drive->name);
    } else if (!drive->is_slow && has_held(drive->slow_ns, now_ns) &&
               drive->slow_count >= PS_DRIVE_SLOW_READS) {
        drive->is_slow = true;
        log_slow(drive);
    }
}

void ps_drive_pace(struct ps_drive *drive, uint64_t took_ns, uint64_t usual_ns,
                   uint64_t ahead_bytes, uint64_t now_ns)
{
    if (usual_ns == 0) {
        learn(drive, took_ns, ahead_bytes, now_ns);
        return;
    }
    if (is_unlike(drive, ahead_bytes))
        return;
    drive->pace += PACE_WEIGHT * ((double)took_ns / (double)usual_ns - drive->pace);
    judge(drive, took_ns >= usual_ns + PS_DRIVE_SLOW_MORE_NS, now_ns);
}

/* ---- health ---------------------------------------------------------------------------------- */

static void go_down(struct ps_drive *drive, int error)
{
    drive->is_down = true;
    /* Without copies the reader hears of it by the read that fails. */
    if (drive->has_copies)
        ps_log(PS_LOG_WARN,
               "%s: this drive fails (%s); the other copies are read in its place until it answers "
               "again",
               drive->name, ps_strerror(error));
}

void ps_drive_answer(struct ps_drive *drive, int error, uint64_t now_ns)
{
    bool was_off = drive->is_down || drive->is_stuck;

    drive->progress_ns = now_ns;
    if (error == 0) {
        drive->failures = 0;
        drive->is_down = drive->is_stuck = false;
        if (was_off)
            ps_log(PS_LOG_WARN, "%s: this drive answers again", drive->name);
        return;
    }
    drive->failures++;
    if (!drive->is_down && (drive->failures >= PS_DRIVE_FAILURES_MAX || error == -ENODEV))
        go_down(drive, error);
}

bool ps_drive_hangs(const struct ps_drive *drive, uint64_t now_ns, uint64_t timeout_ns)
{
    return drive->in_flight > 0 && now_ns - drive->progress_ns >= timeout_ns;
}

void ps_drive_hang(struct ps_drive *drive, uint64_t now_ns)
{
    if (!drive->is_stuck)
        ps_log(PS_LOG_WARN,
               "%s: this drive has not answered for %.1f s; the memory that its reads may still "
               "write to is set aside until it does",
               drive->name, (double)(now_ns - drive->progress_ns) / 1e9);
    drive->is_stuck = true;
    drive->stuck_count += drive->in_flight;
    drive->in_flight = 0;
    drive->in_flight_bytes = 0;
    drive->progress_ns = now_ns;
}

bool ps_drive_wants_test(const struct ps_drive *drive, uint64_t now_ns)
{
    return drive->has_copies && (drive->is_down || drive->is_stuck || drive->is_slow) &&
           now_ns - ps_max_u64(drive->test_ns, drive->progress_ns) >= TEST_INTERVAL_NS;
}
