/* What happens when a read fails, a drive hangs, or data is not what it should be. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "nvme/scheduler_internal.h"
#include "nvme/volume_internal.h"

/*
 * What is to be done with a part that failed on the copy that it was read from: once more from
 * there, then from the other copy, there twice as well. skip_same: where there are two copies each
 * is asked once only. False: nothing is left to try.
 */
static bool part_retry(uint8_t *state, bool has_copies, bool skip_same)
{
    bool other_left = has_copies && !(*state & PART_OUT);

    if (!(*state & PART_RETRIED) && !(skip_same && has_copies)) {
        *state = (uint8_t)((*state & (PART_COPY | PART_OUT)) | PART_HELD | PART_RETRIED);
        return true;
    }
    if (!other_left)
        return false;
    *state = (uint8_t)(((*state ^ PART_COPY) & PART_COPY) | PART_HELD | PART_OUT);
    return true;
}

void ps_scheduler_renew(struct ps_fetch *fetch)
{
    if (!fetch->is_active)
        return;
    memset(fetch->tries, 0, fetch->slice_count);
    for (uint32_t i = 0; i < fetch->part_count; i++)
        fetch->parts[i] &= (uint8_t)~PART_RETRIED;
}

/* Untaken parts go before everything younger: somebody has waited for them longest. */
static void untake(struct ps_scheduler *s, struct ps_fetch *fetch, uint32_t count)
{
    fetch->untaken += count;
    fetch->first = (struct ps_part_place){0};
    if (!fetch->is_queued)
        ps_fetch_queue(s, fetch, true);
}

void ps_read_retry(struct ps_scheduler *s, const struct ps_read *read, int error)
{
    struct ps_fetch *fetch = read->fetch;

    if (!part_retry(&fetch->parts[read->part], s->copy_count > 1,
                    ps_health_is_off(&s->health[read->member]))) {
        ps_fetch_fail(s, fetch, read->slice, (int32_t)read->member, error);
        return;
    }
    s->tallies[read->member].retries++;
    untake(s, fetch, 1);
}

/* Whether any copy of the slice the walk stands in touches the member. */
static bool slice_touches(const struct ps_part_walk *w, uint32_t member)
{
    for (uint32_t c = 0; c < w->copy_count; c++) {
        for (uint32_t i = 0; i < w->piece_count; i++) {
            if (w->pieces[c][i].member == member)
                return true;
        }
    }
    return false;
}

/*
 * A checksum tells that a slice is wrong, not which of its pieces. So it is read once more as it
 * was, and then, where there are copies, without one member after the other: were it only one of
 * them that gives wrong data, one of these reads is right.
 */
static bool next_try(struct ps_scheduler *s, struct ps_fetch *fetch, const struct ps_part_walk *w,
                     uint32_t *without)
{
    uint8_t *tries = &fetch->tries[w->at.slice];

    *without = PS_MEMBER_COUNT_MAX;
    if ((*tries)++ == 0)
        return true;
    for (; s->copy_count > 1 && *tries - 2 < s->member_count; (*tries)++) {
        *without = *tries - 2u;
        if (slice_touches(w, *without))
            return true;
    }
    return false;
}

void ps_slice_retry(struct ps_scheduler *s, struct ps_fetch *fetch, uint32_t slice)
{
    struct ps_part_walk w;
    uint32_t count = 0, without = 0;
    int32_t member = -1;
    bool more = ps_part_walk_begin(&w, s->volume, fetch->object, (struct ps_part_place){0});

    while (more && w.at.slice < slice)
        more = ps_part_walk_next(&w);
    bool can = next_try(s, fetch, &w, &without);
    bool is_whole = w.piece_count == 1;
    for (; more && w.at.slice == slice; more = ps_part_walk_next(&w)) {
        uint8_t *state = &fetch->parts[w.at.number];
        member = (int32_t)w.pieces[*state & PART_COPY ? 1 : 0][w.at.piece].member;
        s->tallies[member].errors++;
        s->tallies[member].retries += can;
        if (without < PS_MEMBER_COUNT_MAX)
            *state = w.pieces[0][w.at.piece].member == without ? PART_HELD | PART_COPY : PART_HELD;
        else
            *state = (uint8_t)((*state & PART_COPY) | PART_HELD);
        count++;
    }
    if (!can) {
        ps_fetch_fail(s, fetch, slice, is_whole ? member : -1, -PS_ERR_CHECKSUM);
        return;
    }
    fetch->pending[slice] = count;
    untake(s, fetch, count);
}

/* ---- drives that hang ------------------------------------------------------------------------ */

/*
 * The parts that a fetch still needs, in a place of its own: what hangs may be written to the old
 * one at any time. Parts that hang have been marked already; those that other drives were asked
 * for are asked for again.
 */
static void carry_on(struct ps_scheduler *s, const struct ps_fetch *from, struct ps_fetch *to)
{
    struct ps_part_walk w;

    ps_fetch_reset(s, to, from->class);
    to->untaken = 0;
    for (bool more = ps_part_walk_begin(&w, s->volume, from->object, to->first); more;
         more = ps_part_walk_next(&w)) {
        uint8_t state = from->parts[w.at.number];
        bool landed = from->landed[w.at.slice] != 0;
        to->parts[w.at.number] = landed               ? PART_TAKEN
                                 : state & PART_TAKEN ? state & (PART_RETRIED | PART_OUT)
                                                      : state;
        to->untaken += !landed;
    }
    for (uint32_t i = 0; i < from->slice_count; i++) {
        struct ps_slice_info info;
        if (!from->landed[i])
            continue;
        ps_volume_slice(s->volume, from->object, i, &info);
        memcpy(to->slices[i], from->slices[i], info.bytes);
        to->landed[i] = 1;
        to->landed_count++;
        to->pending[i] = 0;
    }
    ps_fetch_queue(s, to, true);
}

static void move_fetch(struct ps_scheduler *s, struct ps_fetch *fetch, uint32_t slice,
                       int32_t member)
{
    struct ps_fetch *to = fetch->class == PS_FETCH_DEMAND ? s->move(s->ctx, fetch) : NULL;

    if (to)
        carry_on(s, fetch, to);
    else if (fetch->class == PS_FETCH_DEMAND) {
        fetch->has_no_place = true;
        ps_fetch_fail(s, fetch, slice, member, -ETIMEDOUT);
    }
    if (to || fetch->class != PS_FETCH_DEMAND)
        ps_scheduler_leave(s, fetch);
}

/* Marks the parts that the drive was asked for; a fetch that can do without the drive, or may wait
 * for it once more, is moved. */
static void hang(struct ps_scheduler *s, uint32_t queue_idx, uint64_t now_ns)
{
    uint64_t silent_ns = now_ns - s->queues[queue_idx].progress_ns;

    ps_load_step(s, now_ns);
    ps_queue_hang(&s->queues[queue_idx], now_ns);
    for (uint32_t i = 0; i < 2 * s->capacity; i++) {
        struct ps_read *read = &s->reads[i];
        if (!read->is_busy || read->is_stuck || s->queue_of[read->member] != queue_idx)
            continue;
        read->is_stuck = read->is_moving = true;
        ps_health_hang(&s->health[read->member], silent_ns);
        s->tallies[read->member].errors++;
        if (!read->fetch || read->fetch->error || read->fetch->is_left)
            continue;
        if (part_retry(&read->fetch->parts[read->part], s->copy_count > 1, true))
            s->tallies[read->member].retries++;
        else
            ps_fetch_fail(s, read->fetch, read->slice, (int32_t)read->member, -ETIMEDOUT);
    }
    for (uint32_t i = 0; i < 2 * s->capacity; i++) {
        struct ps_read *read = &s->reads[i];
        if (!read->is_moving)
            continue;
        read->is_moving = false;
        if (read->fetch && !read->fetch->error && !read->fetch->is_left)
            move_fetch(s, read->fetch, read->slice, (int32_t)read->member);
    }
    pthread_cond_broadcast(&s->news);
}

/*
 * A drive whose queue is full of reads that hang takes no more. When a part that only such drives
 * have will have waited for its time in vain; UINT64_MAX: one of its drives takes reads.
 */
static uint64_t part_deadline_ns(const struct ps_scheduler *s, const struct ps_part_walk *w,
                                 uint8_t state)
{
    uint64_t deadline_ns = 0;

    for (uint32_t c = 0; c < w->copy_count; c++) {
        const struct ps_queue *queue = &s->queues[s->queue_of[w->pieces[c][w->at.piece].member]];
        if ((state & PART_HELD) && c != (state & PART_COPY ? 1u : 0u))
            continue;
        if (!ps_queue_is_stuck(queue))
            return UINT64_MAX;
        deadline_ns = ps_max_u64(deadline_ns, queue->progress_ns + s->timeout_ns);
    }
    return deadline_ns;
}

/* The first such moment of a fetch; *found: the walk at that part. */
static uint64_t fetch_deadline_ns(const struct ps_scheduler *s, const struct ps_fetch *fetch,
                                  struct ps_part_walk *found)
{
    uint64_t first_ns = UINT64_MAX;
    struct ps_part_walk w;

    for (bool more = ps_part_walk_begin(&w, s->volume, fetch->object, fetch->first); more;
         more = ps_part_walk_next(&w)) {
        uint8_t state = fetch->parts[w.at.number];
        uint64_t deadline_ns = state & PART_TAKEN ? UINT64_MAX : part_deadline_ns(s, &w, state);
        if (deadline_ns >= first_ns)
            continue;
        first_ns = deadline_ns;
        *found = w;
    }
    return first_ns;
}

/* The fetches that wait for drives that may be full of reads that hang; NULL: none is. */
static struct ps_fetch *first_waiting(const struct ps_scheduler *s)
{
    for (int d = 0; d < s->queue_count; d++) {
        if (ps_queue_is_stuck(&s->queues[d]))
            return s->heads[PS_FETCH_DEMAND];
    }
    return NULL;
}

static void fail_waiting(struct ps_scheduler *s, uint64_t now_ns)
{
    for (struct ps_fetch *f = first_waiting(s), *next; f; f = next) {
        struct ps_part_walk w;
        next = f->next;
        if (fetch_deadline_ns(s, f, &w) > now_ns)
            continue;
        uint32_t copy = f->parts[w.at.number] & PART_COPY ? 1 : 0;
        ps_fetch_fail(s, f, w.at.slice, (int32_t)w.pieces[copy][w.at.piece].member, -ETIMEDOUT);
        ps_fetch_end(s, f);
    }
}

void ps_hangs_check(struct ps_scheduler *s, uint64_t now_ns)
{
    for (uint32_t d = 0; d < (uint32_t)s->queue_count; d++) {
        if (ps_queue_hangs(&s->queues[d], now_ns, s->timeout_ns))
            hang(s, d, now_ns);
    }
    fail_waiting(s, now_ns);
}

uint64_t ps_hangs_deadline_ns(const struct ps_scheduler *s)
{
    uint64_t deadline_ns = UINT64_MAX;

    for (int d = 0; d < s->queue_count; d++) {
        const struct ps_queue *queue = &s->queues[d];
        if (queue->in_flight > 0)
            deadline_ns = ps_min_u64(deadline_ns, queue->progress_ns + s->timeout_ns);
    }
    for (const struct ps_fetch *f = first_waiting(s); f; f = f->next) {
        struct ps_part_walk w;
        deadline_ns = ps_min_u64(deadline_ns, fetch_deadline_ns(s, f, &w));
    }
    return deadline_ns;
}

bool ps_scheduler_is_stalled(const struct ps_scheduler *s)
{
    uint32_t stuck = 0;

    for (int d = 0; d < s->queue_count; d++)
        stuck += s->queues[d].stuck_count;
    return stuck > 0 && stuck == s->in_flight && !s->heads[PS_FETCH_DEMAND];
}

/* ---- drives that come back ------------------------------------------------------------------- */

static bool wants_test(const struct ps_scheduler *s, uint32_t member, uint64_t now_ns)
{
    const struct ps_queue *queue = &s->queues[s->queue_of[member]];

    if (s->health[member].is_missing || s->health[member].is_tested || ps_queue_is_stuck(queue))
        return false;
    return ps_health_wants_test(&s->health[member], now_ns) ||
           (queue->member == member && ps_queue_wants_test(queue, now_ns));
}

/*
 * A drive that others stand in for is asked for a little now and then, into memory that nobody
 * uses: its recovery is noticed without a demanded read having to wait for it.
 */
bool ps_test_read_make(struct ps_scheduler *s, uint64_t now_ns, struct ps_io_request *request)
{
    if (s->in_flight == s->capacity)
        return false;
    for (uint32_t m = 0; m < (uint32_t)s->member_count; m++) {
        struct ps_queue *queue = &s->queues[s->queue_of[m]];
        struct ps_member_info info;
        ps_volume_member(s->volume, (int)m, &info);
        uint32_t bytes =
            (uint32_t)ps_min_u64(PS_TEST_READ_BYTES, info.data_end_bytes - info.data_begin_bytes);
        if (bytes == 0 || !wants_test(s, m, now_ns))
            continue;
        uint32_t tag = s->free_reads[--s->free_count];
        s->reads[tag] = (struct ps_read){
            .bytes = bytes,
            .member = m,
            .begin_ns = now_ns,
            .usual_ns = ps_queue_usual_ns(queue, bytes),
            .ahead_bytes = queue->in_flight_bytes + bytes,
            .is_busy = true,
        };
        *request = (struct ps_io_request){
            .tag = tag,
            .offset = info.data_begin_bytes,
            .buf = s->test_buf,
            .bytes = bytes,
            .member = m,
        };
        queue->test_ns = s->health[m].test_ns = now_ns;
        ps_load_step(s, now_ns);
        ps_queue_begin(queue, bytes, now_ns);
        return s->health[m].is_tested = true;
    }
    return false;
}

/* ---- messages -------------------------------------------------------------------------------- */

#define ADVICE "look at the kernel's log (dmesg) and run `penstock verify`"

/* The copy of which the member at fault has a piece. */
static uint32_t error_copy(const struct ps_volume *volume, const struct ps_fetch *fetch)
{
    for (uint32_t c = 0; c < ps_volume_copy_count(volume); c++) {
        uint32_t count;
        const struct ps_disk_piece *pieces =
            ps_volume_slice_pieces(volume, fetch->object, fetch->error_slice, c, &count);
        for (uint32_t i = 0; i < count; i++) {
            if ((int32_t)pieces[i].member == fetch->error_member)
                return c;
        }
    }
    return 0;
}

int ps_fetch_error(const struct ps_volume *volume, const struct ps_fetch *fetch,
                   struct ps_error *err)
{
    const char *twice = ps_volume_copy_count(volume) > 1 ? ", nor could its other copy" : "";
    struct ps_member_info member = {.path = NULL};
    char slice[320];

    ps_volume_copy_text(volume, fetch->object, fetch->error_slice, error_copy(volume, fetch), slice,
                        sizeof(slice));
    if (fetch->error_member >= 0)
        ps_volume_member(volume, fetch->error_member, &member);
    switch (fetch->error) {
    case -PS_ERR_CHECKSUM:
        return ps_error_set(err, fetch->error, member.path,
                            "%s does not have its recorded checksum, read twice%s, so nothing is "
                            "made from it; run `penstock verify` to see all that is damaged, then "
                            "lay the volume out anew",
                            slice, *twice ? ", nor has its other copy" : "");
    case -PS_ERR_SHORT_READ:
        return ps_error_set(err, fetch->error, member.path,
                            "the read of %s ended early, twice%s: the member has shrunk or its "
                            "drive is gone; " ADVICE,
                            slice, twice);
    case -ETIMEDOUT:
        return ps_error_set(err, fetch->error, member.path,
                            "%s could not be read%s: the drive has stopped answering%s; " ADVICE,
                            slice, fetch->has_no_place ? "" : twice,
                            fetch->has_no_place ? ", and there is no memory to read it to again"
                                                : "");
    default:
        return ps_error_set(err, fetch->error, member.path, "%s could not be read%s: %s; " ADVICE,
                            slice, twice, ps_strerror(fetch->error));
    }
}
