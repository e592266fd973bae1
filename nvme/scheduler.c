#include "nvme/scheduler.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "core/arena.h"
#include "core/cond.h"
#include "core/timeline.h"
#include "core/util.h"
#include "nvme/scheduler_internal.h"
#include "nvme/volume_internal.h"

/* A drive takes a part that another one has too unless that would have it so many times sooner:
 * without some slack the two would trade parts for nothing. */
#define SOONER 1.25

/* ---- tables ---------------------------------------------------------------------------------- */

uint32_t ps_scheduler_engine_depth(const struct ps_volume *volume, uint32_t depth)
{
    uint32_t most = 1;

    for (int m = 0; m < ps_volume_member_count(volume); m++)
        most = (uint32_t)ps_max_u64(most, ps_queue_depth(ps_volume_profile(volume, m), depth));
    return (uint32_t)ps_min_u64(2 * most, PS_IO_DEPTH_MAX);
}

static uint64_t place(struct ps_scheduler *s, int member_count, uint32_t engine_depth, void *table)
{
    struct ps_arena a = {table, 0};
    uint64_t capacity = (uint64_t)member_count * engine_depth;

    s->test_buf = ps_arena_take(&a, PS_TEST_READ_BYTES, 1);
    s->queues = ps_arena_take(&a, (uint64_t)member_count, sizeof(*s->queues));
    s->queue_of = ps_arena_take(&a, (uint64_t)member_count, sizeof(*s->queue_of));
    s->tallies = ps_arena_take(&a, (uint64_t)member_count, sizeof(*s->tallies));
    s->health = ps_arena_take(&a, (uint64_t)member_count, sizeof(*s->health));
    s->reads = ps_arena_take(&a, 2 * capacity, sizeof(*s->reads));
    s->free_reads = ps_arena_take(&a, 2 * capacity, sizeof(*s->free_reads));
    s->batch = ps_arena_take(&a, capacity, sizeof(*s->batch));
    s->reaped = ps_arena_take(&a, capacity, sizeof(*s->reaped));
    s->checks = ps_arena_take(&a, capacity, sizeof(*s->checks));
    return a.used;
}

uint64_t ps_scheduler_table_bytes(const struct ps_volume *volume, uint32_t depth)
{
    struct ps_scheduler none;
    return place(&none, ps_volume_member_count(volume), ps_scheduler_engine_depth(volume, depth),
                 NULL);
}

/* Members that lie on one drive share its queue. */
static void find_queues(struct ps_scheduler *s, uint32_t depth)
{
    uint64_t ids[PS_MEMBER_COUNT_MAX];

    for (int m = 0; m < s->member_count; m++) {
        uint64_t id = ps_volume_member_drive(s->volume, m);
        struct ps_member_info info;
        int d = 0;
        ps_volume_member(s->volume, m, &info);
        ps_health_init(&s->health[m], info.path, info.is_missing, s->copy_count > 1);
        while (d < s->queue_count && (id == 0 || ids[d] != id))
            d++;
        s->queue_of[m] = (uint8_t)d;
        if (d < s->queue_count)
            continue;
        ids[s->queue_count++] = id;
        ps_queue_init(&s->queues[d], info.path, (uint32_t)m, ps_volume_profile(s->volume, m), depth,
                      s->copy_count > 1);
    }
}

void ps_scheduler_init(struct ps_scheduler *s, const struct ps_volume *volume, uint32_t depth,
                       void *table)
{
    uint32_t engine_depth = ps_scheduler_engine_depth(volume, depth);

    memset(s, 0, sizeof(*s));
    pthread_mutex_init(&s->lock, NULL);
    ps_cond_init(&s->news);
    ps_cond_init(&s->work);
    s->volume = volume;
    s->member_count = ps_volume_member_count(volume);
    s->copy_count = ps_volume_copy_count(volume);
    s->capacity = (uint32_t)s->member_count * engine_depth;
    s->timeout_ns = PS_READ_TIMEOUT_NS;
    place(s, s->member_count, engine_depth, table);
    memset(s->tallies, 0, (size_t)s->member_count * sizeof(*s->tallies));
    memset(s->reads, 0, 2 * s->capacity * sizeof(*s->reads));
    find_queues(s, depth);
    for (uint32_t i = 0; i < 2 * s->capacity; i++)
        s->free_reads[s->free_count++] = i;
}

void ps_scheduler_fini(struct ps_scheduler *s)
{
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->news);
    pthread_cond_destroy(&s->work);
}

uint64_t ps_scheduler_now_ns(const struct ps_scheduler *s)
{
    return ps_io_is_simulated(s->io) ? s->io->ops->now_ns(s->io) : ps_now_ns();
}

/* ---- parts ----------------------------------------------------------------------------------- */

/* Long pieces are read in equal parts, so that none is a leftover too short to be worth a read. */
static uint32_t part_bytes(uint32_t piece_bytes, uint32_t align_bytes)
{
    uint64_t parts = ps_div_up(piece_bytes, PS_PART_BYTES_MAX);
    return (uint32_t)ps_align_up(ps_div_up(piece_bytes, parts), align_bytes);
}

static bool walk_look(struct ps_part_walk *w)
{
    if (w->at.slice >= w->slice_count)
        return false;
    for (uint32_t c = 0; w->at.piece == 0 && w->at.piece_offset == 0 && c < w->copy_count; c++)
        w->pieces[c] =
            ps_volume_slice_pieces(w->volume, w->object, w->at.slice, c, &w->piece_count);
    uint32_t piece_bytes = w->pieces[0][w->at.piece].bytes;
    w->bytes = (uint32_t)ps_min_u64(part_bytes(piece_bytes, w->align_bytes),
                                    piece_bytes - w->at.piece_offset);
    return true;
}

bool ps_part_walk_begin(struct ps_part_walk *w, const struct ps_volume *volume, uint32_t object,
                        struct ps_part_place at)
{
    struct ps_object_info info;

    ps_volume_object(volume, object, &info);
    *w = (struct ps_part_walk){
        .volume = volume,
        .object = object,
        .slice_count = info.slice_count,
        .copy_count = ps_volume_copy_count(volume),
        .align_bytes = ps_volume_align_bytes(volume),
        .at = at,
    };
    for (uint32_t c = 0; at.slice < w->slice_count && c < w->copy_count; c++)
        w->pieces[c] = ps_volume_slice_pieces(volume, object, at.slice, c, &w->piece_count);
    return walk_look(w);
}

bool ps_part_walk_next(struct ps_part_walk *w)
{
    uint32_t piece_bytes = w->pieces[0][w->at.piece].bytes;

    w->at.number++;
    w->at.piece_offset += w->bytes;
    if (w->at.piece_offset == piece_bytes) {
        w->at.slice_offset += piece_bytes;
        w->at.piece_offset = 0;
        w->at.piece++;
    }
    if (w->at.piece == w->piece_count) {
        w->at.slice++;
        w->at.piece = 0;
        w->at.slice_offset = 0;
    }
    return walk_look(w);
}

uint32_t ps_object_part_count(const struct ps_volume *volume, uint32_t object)
{
    struct ps_part_walk w;
    uint32_t count = 0;

    for (bool more = ps_part_walk_begin(&w, volume, object, (struct ps_part_place){0}); more;
         more = ps_part_walk_next(&w))
        count++;
    return count;
}

/* ---- queues ---------------------------------------------------------------------------------- */

void ps_fetch_queue(struct ps_scheduler *s, struct ps_fetch *fetch, bool in_front)
{
    struct ps_fetch **head = &s->heads[fetch->class], **tail = &s->tails[fetch->class];

    fetch->is_queued = true;
    fetch->next = in_front ? *head : NULL;
    fetch->prev = in_front ? NULL : *tail;
    *(fetch->next ? &fetch->next->prev : tail) = fetch;
    *(fetch->prev ? &fetch->prev->next : head) = fetch;
}

void ps_fetch_unqueue(struct ps_scheduler *s, struct ps_fetch *fetch)
{
    if (!fetch->is_queued)
        return;
    fetch->is_queued = false;
    *(fetch->next ? &fetch->next->prev : &s->tails[fetch->class]) = fetch->prev;
    *(fetch->prev ? &fetch->prev->next : &s->heads[fetch->class]) = fetch->next;
}

/* A gap longer than this is no pause between layers but the user's. */
#define GAP_MAX_NS 1e9
/* The weight of the newest gap. */
#define GAP_WEIGHT 0.125

static void demand_begin(struct ps_scheduler *s, const struct ps_fetch *fetch)
{
    if (fetch->class != PS_FETCH_DEMAND || !fetch->is_streamed)
        return;
    if (s->demand_count++ > 0 || s->demand_end_ns == 0)
        return;
    double gap_ns = (double)(ps_scheduler_now_ns(s) - s->demand_end_ns);
    if (gap_ns < GAP_MAX_NS)
        s->demand_gap_ns += (gap_ns - s->demand_gap_ns) * GAP_WEIGHT;
}

static void demand_end(struct ps_scheduler *s, const struct ps_fetch *fetch)
{
    if (fetch->class == PS_FETCH_DEMAND && fetch->is_streamed && --s->demand_count == 0)
        s->demand_end_ns = ps_scheduler_now_ns(s);
}

double ps_scheduler_rate(const struct ps_scheduler *s)
{
    double rate = 0;

    for (uint32_t q = 0; q < (uint32_t)s->queue_count; q++) {
        if (!ps_health_is_off(&s->health[s->queues[q].member]))
            rate += ps_queue_rate(&s->queues[q]);
    }
    return rate;
}

void ps_fetch_reset(struct ps_scheduler *s, struct ps_fetch *fetch, enum ps_fetch_class class)
{
    struct ps_object_info object;
    struct ps_part_walk w;

    ps_volume_object(s->volume, fetch->object, &object);
    fetch->is_streamed = object.kind == PS_OBJECT_STREAMED;
    fetch->slice_count = object.slice_count;
    fetch->landed_count = 0;
    fetch->part_count = 0;
    fetch->in_flight = 0;
    fetch->first = (struct ps_part_place){0};
    fetch->class = class;
    fetch->guess_bytes = 0;
    fetch->is_active = true;
    fetch->is_left = fetch->is_queued = fetch->has_no_place = false;
    fetch->error = 0;
    memset(fetch->landed, 0, object.slice_count);
    memset(fetch->tries, 0, object.slice_count);
    memset(fetch->pending, 0, object.slice_count * sizeof(*fetch->pending));
    for (bool more = ps_part_walk_begin(&w, s->volume, fetch->object, fetch->first); more;
         more = ps_part_walk_next(&w)) {
        fetch->pending[w.at.slice]++;
        fetch->parts[fetch->part_count++] = 0;
    }
    fetch->untaken = fetch->part_count;
    demand_begin(s, fetch);
}

/* ---- what a drive reads next ----------------------------------------------------------------- */

static double eta_ns(const struct ps_scheduler *s, uint32_t member, uint32_t bytes)
{
    const struct ps_queue *queue = &s->queues[s->queue_of[member]];

    /* Later than with a member that is off, which may at least be asked. */
    if (ps_queue_is_stuck(queue))
        return HUGE_VAL;
    return ps_health_is_off(&s->health[member]) ? (double)UINT64_MAX
                                                : (double)ps_queue_eta_ns(queue, bytes);
}

/* Whether a part should be read from this copy rather than be left to the other one. */
static bool is_better_here(const struct ps_scheduler *s, const struct ps_part_walk *w,
                           uint32_t copy)
{
    double here = eta_ns(s, w->pieces[copy][w->at.piece].member, w->bytes);
    double there = eta_ns(s, w->pieces[1 - copy][w->at.piece].member, w->bytes);

    return copy == 0 ? here <= there * SOONER : there > here * SOONER;
}

/* Whether the drive may take the part the walk stands at; sets the copy. */
static bool may_take(struct ps_scheduler *s, uint32_t queue_idx, const struct ps_part_walk *w,
                     uint8_t state, uint32_t *copy)
{
    const struct ps_queue *d = &s->queues[queue_idx];

    for (uint32_t c = 0; c < s->copy_count; c++) {
        if (s->queue_of[w->pieces[c][w->at.piece].member] != queue_idx ||
            ((state & PART_HELD) && c != (state & PART_COPY ? 1u : 0u)) ||
            !ps_queue_has_room(d, w->bytes))
            continue;
        if (s->copy_count > 1 && !(state & PART_HELD) && !is_better_here(s, w, c))
            continue;
        *copy = c;
        return true;
    }
    return false;
}

/* Finds the drive's next part in a fetch, in the order of its bytes. */
static bool find_part(struct ps_scheduler *s, uint32_t queue_idx, struct ps_fetch *fetch,
                      struct ps_part_walk *w, uint32_t *copy)
{
    bool is_first = true;

    for (bool more = ps_part_walk_begin(w, s->volume, fetch->object, fetch->first); more;
         more = ps_part_walk_next(w)) {
        uint8_t state = fetch->parts[w->at.number];
        if (state & PART_TAKEN)
            continue;
        if (is_first)
            fetch->first = w->at;
        is_first = false;
        if (may_take(s, queue_idx, w, state, copy))
            return true;
    }
    return false;
}

static void take_part(struct ps_scheduler *s, struct ps_fetch *fetch, const struct ps_part_walk *w,
                      uint32_t copy, struct ps_io_request *request)
{
    const struct ps_disk_piece *piece = &w->pieces[copy][w->at.piece];
    struct ps_queue *queue = &s->queues[s->queue_of[piece->member]];
    uint8_t *state = &fetch->parts[w->at.number];
    uint64_t now_ns = ps_scheduler_now_ns(s);

    assert(s->free_count > 0);
    ps_load_step(s, now_ns);
    uint32_t tag = s->free_reads[--s->free_count];
    s->reads[tag] = (struct ps_read){
        .fetch = fetch,
        .slice = w->at.slice,
        .part = w->at.number,
        .bytes = w->bytes,
        .member = piece->member,
        .begin_ns = now_ns,
        .usual_ns = ps_queue_usual_ns(queue, w->bytes),
        .ahead_bytes = queue->in_flight_bytes + w->bytes,
        .is_busy = true,
        .is_guess = fetch->class == PS_FETCH_PREFETCH,
    };
    *request = (struct ps_io_request){
        .tag = tag,
        .offset = piece->offset_bytes + w->at.piece_offset,
        .buf = fetch->slices[w->at.slice] + w->at.slice_offset + w->at.piece_offset,
        .bytes = w->bytes,
        .member = piece->member,
    };
    *state = (uint8_t)((*state & ~(PART_COPY | PART_HELD)) | PART_TAKEN | (copy ? PART_COPY : 0));
    ps_queue_begin(queue, w->bytes, now_ns);
    fetch->in_flight++;
    if (fetch->class == PS_FETCH_PREFETCH)
        fetch->guess_bytes += w->bytes;
    if (--fetch->untaken == 0)
        ps_fetch_unqueue(s, fetch);
}

/* Fills in the drive's next read; false when it has none, or no room. */
static bool next_request(struct ps_scheduler *s, uint32_t queue_idx, struct ps_io_request *request)
{
    const struct ps_queue *d = &s->queues[queue_idx];
    struct ps_part_walk w;
    uint32_t copy;

    for (int c = PS_FETCH_DEMAND; c < PS_FETCH_CLASS_COUNT; c++) {
        if (d->in_flight >= d->depth || ps_queue_is_stuck(d))
            return false;
        for (struct ps_fetch *f = s->heads[c]; f; f = f->next) {
            if (c == PS_FETCH_PREFETCH && d->in_flight >= f->guess_depth)
                continue;
            if (!find_part(s, queue_idx, f, &w, &copy))
                continue;
            take_part(s, f, &w, copy, request);
            return true;
        }
    }
    return false;
}

/* One read per drive in turn, so that all drives begin at once. */
static void issue(struct ps_scheduler *s)
{
    uint32_t count = 0, before;

    if (s->copy_count > 1)
        count += ps_test_read_make(s, ps_scheduler_now_ns(s), &s->batch[0]);
    do {
        before = count;
        for (int d = 0; d < s->queue_count && s->in_flight + count < s->capacity; d++)
            count += next_request(s, (uint32_t)d, &s->batch[count]);
    } while (count > before);
    if (count == 0)
        return;
    uint64_t begin_ns = s->timeline ? ps_scheduler_now_ns(s) : 0;
    uint32_t taken = s->io->ops->submit(s->io, s->batch, count);
    /* The engine's tables are as large as the scheduler's. */
    assert(taken == count);
    if (s->timeline)
        ps_timeline_add(s->timeline, &(struct ps_timeline_event){.kind = PS_EVENT_SUBMIT,
                                                                 .begin_ns = begin_ns,
                                                                 .end_ns = ps_scheduler_now_ns(s),
                                                                 .values = {taken}});
    s->in_flight += taken;
    s->read_count += taken;
}

void ps_scheduler_kick(struct ps_scheduler *s)
{
    if (s->is_waiting)
        s->io->ops->wake(s->io);
    s->is_waiting = false;
    pthread_cond_signal(&s->work);
}

void ps_scheduler_start(struct ps_scheduler *s, struct ps_fetch *fetch, enum ps_fetch_class class)
{
    ps_fetch_reset(s, fetch, class);
    ps_fetch_queue(s, fetch, false);
    ps_scheduler_kick(s);
}

void ps_scheduler_promote(struct ps_scheduler *s, struct ps_fetch *fetch)
{
    bool was_queued = fetch->is_queued;

    if (fetch->class == PS_FETCH_DEMAND)
        return;
    ps_fetch_unqueue(s, fetch);
    fetch->class = PS_FETCH_DEMAND;
    if (fetch->is_active)
        demand_begin(s, fetch);
    if (was_queued)
        ps_fetch_queue(s, fetch, false);
    ps_scheduler_kick(s);
}

void ps_scheduler_leave(struct ps_scheduler *s, struct ps_fetch *fetch)
{
    ps_fetch_unqueue(s, fetch);
    fetch->is_left = true;
    ps_fetch_end(s, fetch);
}

/* ---- what comes back ------------------------------------------------------------------------- */

void ps_fetch_end(struct ps_scheduler *s, struct ps_fetch *fetch)
{
    bool is_whole = fetch->landed_count == fetch->slice_count;

    if (!fetch->is_active || fetch->in_flight > 0 || !(fetch->error || fetch->is_left || is_whole))
        return;
    fetch->is_active = false;
    demand_end(s, fetch);
    s->done(s->ctx, fetch);
}

void ps_fetch_fail(struct ps_scheduler *s, struct ps_fetch *fetch, uint32_t slice, int32_t member,
                   int error)
{
    if (fetch->error)
        return;
    fetch->error = error;
    fetch->error_slice = slice;
    fetch->error_member = member;
    ps_fetch_unqueue(s, fetch);
    pthread_cond_broadcast(&s->news);
}

void ps_object_values(const struct ps_volume *volume, uint32_t object, uint32_t *values)
{
    struct ps_object_info info;

    ps_volume_object(volume, object, &info);
    values[0] = info.kind == PS_OBJECT_STREAMED ? info.group : UINT32_MAX;
    values[1] = info.index;
}

static void record_read(struct ps_scheduler *s, const struct ps_read *read, int32_t result,
                        bool is_prompt, uint64_t now_ns)
{
    struct ps_timeline_event event = {.kind = PS_EVENT_READ,
                                      .lane = (uint16_t)read->member,
                                      .begin_ns = read->begin_ns,
                                      .end_ns = now_ns,
                                      .values = {0, 0, read->slice, read->bytes}};

    if (read->fetch)
        ps_object_values(s->volume, read->fetch->object, event.values);
    event.values[4] = (read->is_guess ? PS_READ_GUESSED : 0u) | (is_prompt ? 0u : PS_READ_LATE) |
                      (result == (int32_t)read->bytes ? 0u : PS_READ_FAILED) |
                      (read->fetch ? 0u : PS_READ_TEST);
    ps_timeline_add(s->timeline, &event);
}

/* Only what came back while somebody waited for it was seen at the moment it ended. */
static void note_answer(struct ps_scheduler *s, const struct ps_read *read, int32_t result,
                        bool is_prompt, uint64_t now_ns)
{
    struct ps_queue *queue = &s->queues[s->queue_of[read->member]];
    bool is_whole = result == (int32_t)read->bytes;

    if (read->is_stuck)
        queue->stuck_count--;
    else
        ps_queue_end(queue, read->bytes);
    ps_queue_answer(queue, now_ns);
    ps_health_answer(&s->health[read->member],
                     is_whole     ? 0
                     : result < 0 ? result
                                  : -PS_ERR_SHORT_READ,
                     now_ns);
    if (is_whole && is_prompt && !read->is_stuck)
        ps_queue_pace(queue, now_ns - read->begin_ns, read->usual_ns, read->ahead_bytes, now_ns);
    if (result > 0)
        s->tallies[read->member].bytes += (uint64_t)result;
    s->tallies[read->member].reads++;
    /* One that hung has been counted when that was found. */
    s->tallies[read->member].errors += !is_whole && !read->is_stuck;
}

/* Books one completion; notes whether it was the last of a slice, which may be checked now. */
static void take_back(struct ps_scheduler *s, const struct ps_io_completion *completion,
                      bool is_prompt, uint64_t now_ns)
{
    struct ps_read *read = &s->reads[completion->tag];
    struct ps_fetch *fetch = read->fetch;

    s->in_flight--;
    read->is_busy = false;
    ps_load_step(s, now_ns);
    if (s->timeline)
        record_read(s, read, completion->result, is_prompt, now_ns);
    note_answer(s, read, completion->result, is_prompt, now_ns);
    if (!fetch) {
        s->health[read->member].is_tested = false;
        return;
    }
    if (completion->result > 0) {
        s->read_bytes += (uint64_t)completion->result;
        s->streamed_bytes += fetch->is_streamed ? (uint64_t)completion->result : 0;
        s->guess_bytes += read->is_guess ? (uint64_t)completion->result : 0;
    }
    if (fetch->error || fetch->is_left)
        return;
    if (completion->result == (int32_t)read->bytes)
        read->ends_slice = --fetch->pending[read->slice] == 0;
    else
        ps_read_retry(s, read, completion->result < 0 ? completion->result : -PS_ERR_SHORT_READ);
}

/* Waits until something comes back, a drive begins to hang, or there is something to issue. */
static int reap(struct ps_scheduler *s, bool *is_prompt)
{
    int count = s->io->ops->reap(s->io, s->reaped, s->capacity, 0);

    *is_prompt = false;
    if (count != 0 || s->in_flight == 0)
        return count;
    uint64_t deadline_ns = ps_hangs_deadline_ns(s), begin_ns = ps_scheduler_now_ns(s);
    uint64_t wait_ns = deadline_ns == UINT64_MAX ? PS_IO_WAIT_FOREVER
                       : deadline_ns > begin_ns  ? deadline_ns - begin_ns
                                                 : 1;
    *is_prompt = true;
    s->is_waiting = true;
    pthread_mutex_unlock(&s->lock);
    count = s->io->ops->reap(s->io, s->reaped, s->capacity, wait_ns);
    pthread_mutex_lock(&s->lock);
    s->is_waiting = false;
    return count;
}

int ps_scheduler_pump(struct ps_scheduler *s)
{
    bool is_prompt;

    if (s->error)
        return s->error;
    issue(s);
    int count = reap(s, &is_prompt);
    if (count < 0) {
        pthread_cond_broadcast(&s->news);
        return s->error = count;
    }
    uint64_t now_ns = ps_scheduler_now_ns(s);
    for (int i = 0; i < count; i++)
        take_back(s, &s->reaped[i], is_prompt, now_ns);
    if (count == 0)
        ps_hangs_check(s, now_ns);
    /* The drives are given new work before the checksums, which take longer than all else here. */
    issue(s);
    ps_slices_check(s, count);
    for (int i = 0; i < count; i++) {
        struct ps_read *read = &s->reads[s->reaped[i].tag];
        if (read->fetch) {
            read->fetch->in_flight--;
            ps_fetch_end(s, read->fetch);
        }
        s->free_reads[s->free_count++] = (uint32_t)s->reaped[i].tag;
    }
    if (count > 0)
        pthread_cond_broadcast(&s->news);
    return count;
}
