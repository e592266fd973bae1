#include "nvme/scheduler.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "core/arena.h"
#include "core/util.h"
#include "nvme/volume_internal.h"

/* ---- tables ---------------------------------------------------------------------------------- */

static uint64_t place(struct ps_scheduler *s, int member_count, uint32_t depth, void *table)
{
    struct ps_arena a = {table, 0};
    uint64_t capacity = (uint64_t)member_count * depth;

    s->cursors = ps_arena_take(&a, (uint64_t)member_count, sizeof(*s->cursors));
    s->reads = ps_arena_take(&a, 2 * capacity, sizeof(*s->reads));
    s->free_reads = ps_arena_take(&a, 2 * capacity, sizeof(*s->free_reads));
    s->batch = ps_arena_take(&a, capacity, sizeof(*s->batch));
    s->reaped = ps_arena_take(&a, capacity, sizeof(*s->reaped));
    return a.used;
}

uint64_t ps_scheduler_table_bytes(int member_count, uint32_t depth)
{
    struct ps_scheduler none;
    return place(&none, member_count, depth, NULL);
}

void ps_scheduler_init(struct ps_scheduler *s, const struct ps_volume *volume, struct ps_io *io,
                       uint32_t depth, void *table)
{
    memset(s, 0, sizeof(*s));
    s->volume = volume;
    s->io = io;
    s->member_count = ps_volume_member_count(volume);
    s->depth = depth;
    s->capacity = (uint32_t)s->member_count * depth;
    s->align_bytes = ps_volume_align_bytes(volume);
    place(s, s->member_count, depth, table);
    memset(s->cursors, 0, (size_t)s->member_count * sizeof(*s->cursors));
    for (uint32_t i = 0; i < 2 * s->capacity; i++)
        s->free_reads[s->free_count++] = i;
}

/* ---- the queue ------------------------------------------------------------------------------- */

static void cursor_set(struct ps_cursor *cursor, struct ps_fetch *fetch)
{
    uint32_t in_flight = cursor->in_flight;
    *cursor = (struct ps_cursor){.fetch = fetch, .in_flight = in_flight};
}

static void unqueue(struct ps_scheduler *s, struct ps_fetch *fetch)
{
    if (fetch->prev)
        fetch->prev->next = fetch->next;
    if (fetch->next)
        fetch->next->prev = fetch->prev;
    if (s->tail == fetch)
        s->tail = fetch->prev;
    fetch->members_left = 0;
}

/* Takes a fetch out before its time: what was not asked for yet will not be. */
static void cancel_rest(struct ps_scheduler *s, struct ps_fetch *fetch)
{
    if (fetch->members_left == 0)
        return;
    for (int m = 0; m < s->member_count; m++) {
        if (s->cursors[m].fetch == fetch)
            cursor_set(&s->cursors[m], fetch->next);
    }
    unqueue(s, fetch);
}

/* Long pieces are read in equal parts, so that none is a leftover too short to be worth a request.
 */
static uint32_t part_bytes(const struct ps_scheduler *s, uint32_t piece_bytes)
{
    uint64_t parts = ps_div_up(piece_bytes, PS_PART_BYTES_MAX);
    return (uint32_t)ps_align_up(ps_div_up(piece_bytes, parts), s->align_bytes);
}

/* Moves to the next byte that is this member's. Returns false at the end of the queue. */
static bool cursor_seek(struct ps_scheduler *s, uint32_t member, struct ps_disk_piece *piece,
                        uint32_t *slice)
{
    struct ps_cursor *c = &s->cursors[member];

    while (c->fetch) {
        struct ps_fetch *fetch = c->fetch;
        for (; c->slice < fetch->slice_count; c->slice++, c->piece = 0) {
            uint32_t count;
            const struct ps_disk_piece *pieces =
                ps_volume_slice_pieces(s->volume, fetch->object, c->slice, 0, &count);
            for (; c->piece < count; c->piece++, c->piece_done = 0) {
                if (pieces[c->piece].member == member && c->piece_done < pieces[c->piece].bytes) {
                    *piece = pieces[c->piece];
                    *slice = c->slice;
                    return true;
                }
                c->piece_begin += pieces[c->piece].bytes;
            }
        }
        cursor_set(c, fetch->next);
        if (--fetch->members_left == 0)
            unqueue(s, fetch);
    }
    return false;
}

/* Fills in the member's next request; false when it has none. */
static bool next_request(struct ps_scheduler *s, uint32_t member, struct ps_io_request *request)
{
    struct ps_cursor *c = &s->cursors[member];
    struct ps_disk_piece piece;
    uint32_t slice;

    if (c->in_flight == s->depth || !cursor_seek(s, member, &piece, &slice))
        return false;
    uint32_t bytes = (uint32_t)ps_min_u64(part_bytes(s, piece.bytes), piece.bytes - c->piece_done);
    assert(s->free_count > 0);
    uint32_t tag = s->free_reads[--s->free_count];
    s->reads[tag] = (struct ps_read){c->fetch, slice, bytes, member, false};
    *request = (struct ps_io_request){
        .tag = tag,
        .offset = piece.offset_bytes + c->piece_done,
        .buf = c->fetch->data + c->piece_begin + c->piece_done,
        .bytes = bytes,
        .member = member,
    };
    c->piece_done += bytes;
    c->in_flight++;
    c->fetch->in_flight++;
    return true;
}

/* One request per member in turn, so that all drives begin at once. */
static void issue(struct ps_scheduler *s)
{
    uint32_t count = 0, before;

    do {
        before = count;
        for (int m = 0; m < s->member_count; m++)
            count += next_request(s, (uint32_t)m, &s->batch[count]);
    } while (count > before);
    if (count == 0)
        return;
    uint32_t taken = s->io->ops->submit(s->io, s->batch, count);
    /* The engine's tables are as large as the scheduler's. */
    assert(taken == count);
    s->in_flight += taken;
    s->read_count += taken;
}

void ps_scheduler_start(struct ps_scheduler *s, struct ps_fetch *fetch)
{
    struct ps_object_info object;

    ps_volume_object(s->volume, fetch->object, &object);
    fetch->is_streamed = object.kind == PS_OBJECT_STREAMED;
    fetch->slice_count = object.slice_count;
    fetch->landed_count = 0;
    fetch->in_flight = 0;
    fetch->error = 0;
    fetch->is_active = true;
    memset(fetch->landed, 0, object.slice_count);
    for (uint32_t i = 0; i < object.slice_count; i++) {
        uint32_t count;
        const struct ps_disk_piece *pieces =
            ps_volume_slice_pieces(s->volume, fetch->object, i, 0, &count);
        fetch->pending[i] = 0;
        for (uint32_t p = 0; p < count; p++)
            fetch->pending[i] +=
                (uint32_t)ps_div_up(pieces[p].bytes, part_bytes(s, pieces[p].bytes));
    }
    fetch->members_left = (uint32_t)s->member_count;
    fetch->next = NULL;
    fetch->prev = s->tail;
    if (s->tail)
        s->tail->next = fetch;
    s->tail = fetch;
    for (int m = 0; m < s->member_count; m++) {
        if (!s->cursors[m].fetch)
            cursor_set(&s->cursors[m], fetch);
    }
    issue(s);
}

/* ---- completions ----------------------------------------------------------------------------- */

static void fail_fetch(struct ps_scheduler *s, struct ps_fetch *fetch, uint32_t slice,
                       int32_t member, int error)
{
    if (fetch->error)
        return;
    fetch->error = error;
    fetch->error_slice = slice;
    fetch->error_member = member;
    cancel_rest(s, fetch);
}

/* Books one completion; notes whether it was the last request of a slice that may be checked now.
 */
static void take_back(struct ps_scheduler *s, const struct ps_io_completion *completion)
{
    struct ps_read *read = &s->reads[completion->tag];
    struct ps_fetch *fetch = read->fetch;

    s->in_flight--;
    s->cursors[read->member].in_flight--;
    fetch->in_flight--;
    if (completion->result > 0) {
        s->read_bytes += (uint64_t)completion->result;
        s->streamed_bytes += fetch->is_streamed ? (uint64_t)completion->result : 0;
    }
    if (completion->result != (int64_t)read->bytes) {
        int error = completion->result < 0 ? completion->result : -PS_ERR_SHORT_READ;
        fail_fetch(s, fetch, read->slice, (int32_t)read->member, error);
        return;
    }
    read->ends_slice = --fetch->pending[read->slice] == 0;
}

static void check_slice(struct ps_scheduler *s, struct ps_fetch *fetch, uint32_t slice)
{
    struct ps_slice_info info;

    if (fetch->error)
        return;
    ps_volume_slice(s->volume, fetch->object, slice, &info);
    uint64_t got = XXH3_64bits(fetch->data + info.offset_bytes, info.bytes);
    if (got != ps_volume_slice_checksum(s->volume, fetch->object, slice)) {
        fail_fetch(s, fetch, slice, -1, -PS_ERR_CHECKSUM);
        return;
    }
    fetch->landed[slice] = 1;
    fetch->landed_count++;
}

static void end_fetch(struct ps_scheduler *s, struct ps_fetch *fetch)
{
    bool is_whole = fetch->landed_count == fetch->slice_count;

    if (!fetch->is_active || fetch->in_flight > 0 || !(fetch->error || is_whole))
        return;
    fetch->is_active = false;
    s->done(s->ctx, fetch);
}

int ps_scheduler_pump(struct ps_scheduler *s, bool wait)
{
    if (s->error)
        return s->error;
    int count = s->io->ops->reap(s->io, s->reaped, s->capacity, wait ? PS_IO_WAIT_FOREVER : 0);
    if (count < 0)
        return s->error = count;
    for (int i = 0; i < count; i++)
        take_back(s, &s->reaped[i]);
    /* The drives are given new work before the checksums, which take longer than all else here. */
    issue(s);
    for (int i = 0; i < count; i++) {
        struct ps_read *read = &s->reads[s->reaped[i].tag];
        if (read->ends_slice)
            check_slice(s, read->fetch, read->slice);
        end_fetch(s, read->fetch);
        s->free_reads[s->free_count++] = (uint32_t)s->reaped[i].tag;
    }
    return 0;
}

/* ---- messages -------------------------------------------------------------------------------- */

int ps_fetch_error(const struct ps_volume *volume, const struct ps_fetch *fetch,
                   struct ps_error *err)
{
    struct ps_member_info member = {.path = NULL};
    char slice[320];

    ps_volume_slice_text(volume, fetch->object, fetch->error_slice, slice, sizeof(slice));
    if (fetch->error_member >= 0)
        ps_volume_member(volume, fetch->error_member, &member);
    if (fetch->error == -PS_ERR_CHECKSUM)
        return ps_error_set(err, fetch->error, NULL,
                            "%s does not have its recorded checksum, so nothing is made from it; "
                            "run `penstock verify` to see all that is damaged, then lay the volume "
                            "out anew",
                            slice);
    if (fetch->error == -PS_ERR_SHORT_READ)
        return ps_error_set(err, fetch->error, member.path,
                            "the read of %s ended early: the member has shrunk or its drive is "
                            "gone; run `penstock verify`",
                            slice);
    return ps_error_set(err, fetch->error, member.path,
                        "%s could not be read: %s; look at the kernel's log and run `penstock "
                        "verify`",
                        slice, ps_strerror(fetch->error));
}
