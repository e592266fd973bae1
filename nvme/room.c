/* Room on the members of a layout: is there enough, and who gets how much if it is uneven. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/budget.h"
#include "core/util.h"
#include "nvme/layout_internal.h"
#include "nvme/weigh.h"

/* What a file system that is filled to the brim may need for itself. */
#define SPARE_PART 64u
/* The weights are computed from shares; what a plan makes of them is rounded, so it is tried. */
#define TRIES_MAX 24

static int space_error(const struct ps_target *t, uint64_t needed, uint64_t there,
                       struct ps_error *err)
{
    char a[32], b[32];
    return ps_error_set(err, -ENOSPC, t->path, "%s are needed here and %s are %s; %s",
                        ps_size_text(needed, a, sizeof(a)), ps_size_text(there, b, sizeof(b)),
                        t->is_device ? "there" : "free",
                        t->is_device ? "choose a larger device or add members"
                                     : "free some space or choose another place");
}

static uint64_t held_bytes(const struct ps_target *t)
{
    struct stat st;
    return fstat(t->fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

/* Free bytes of the file system under a plain file; UINT64_MAX where it does not tell. */
static uint64_t free_bytes(const struct ps_target *t)
{
    struct statvfs fs;
    if (fstatvfs(t->fd, &fs) != 0)
        return UINT64_MAX;
    return (geteuid() == 0 ? fs.f_bfree : fs.f_bavail) * fs.f_frsize;
}

static bool shares_room(const struct ps_target *a, const struct ps_target *b)
{
    return a == b || (!a->is_device && !b->is_device && a->file_dev == b->file_dev);
}

/* What lies on a file beside the old volume, of an earlier attempt: its space is taken already. */
static uint64_t beside_bytes(const struct ps_writer *w, uint32_t m)
{
    const struct ps_disk_superblock *old = &w->old->members[w->shared[m]].sb;
    uint64_t held = held_bytes(&w->targets[m]);
    uint64_t own = old->data_end - old->table_offset + (uint64_t)2 * PS_SUPERBLOCK_BYTES;
    return held > own ? held - own : 0;
}

/* Room that is there and room that is needed, everything included, for member m and all that share
 * it. A stage and what follows it come on top of what the old volume holds. */
static uint64_t room_of(const struct ps_writer *w, uint32_t m, uint64_t *needed, uint64_t *members)
{
    const struct ps_target *t = &w->targets[m];
    uint64_t there = t->is_device ? t->bytes : free_bytes(t);
    *needed = *members = 0;
    for (uint32_t i = 0; i < w->member_count; i++) {
        if (!shares_room(t, &w->targets[i]))
            continue;
        *members |= UINT64_C(1) << i;
        uint64_t tail = PS_SUPERBLOCK_BYTES + (t->is_device ? PS_FORMAT_DEVICE_TAIL_BYTES : 0);
        *needed += ps_plan_data_end(&w->plan, i) - (t->is_device ? 0 : w->stages[i]) + tail;
        if (!t->is_device && there != UINT64_MAX)
            there += w->stages[i] != 0 ? beside_bytes(w, i) : held_bytes(&w->targets[i]);
    }
    return there;
}

int ps_writer_check_space(struct ps_writer *w, struct ps_error *err)
{
    for (uint32_t m = 0; m < w->member_count; m++) {
        uint64_t needed, members;
        uint64_t there = room_of(w, m, &needed, &members);
        if (there < needed)
            return space_error(&w->targets[m], needed, there, err);
    }
    return 0;
}

/* Lists every room once, less what is not data. Returns how many; *fits: the plan does. */
static int list_rooms(const struct ps_writer *w, struct ps_room *rooms, uint64_t *data_bytes,
                      bool *fits)
{
    uint64_t seen = 0;
    int count = 0;
    *fits = true;
    for (uint32_t m = 0; m < w->member_count; m++) {
        if (seen >> m & 1)
            continue;
        uint64_t needed, data = 0;
        struct ps_room *room = &rooms[count];
        uint64_t there = room_of(w, m, &needed, &room->members);
        for (uint32_t i = 0; i < w->member_count; i++) {
            const struct ps_disk_extent *e = &w->plan.extents[i];
            data += room->members >> i & 1 ? e->data_end - e->data_begin : 0;
        }
        *fits &= needed <= there;
        if (!w->targets[m].is_device && there != UINT64_MAX)
            there -= there / SPARE_PART;
        room->bytes = there > needed - data ? there - (needed - data) : 0;
        data_bytes[count++] = data;
        seen |= room->members;
    }
    return count;
}

/* What to say when the weights cannot help: nothing as yet where one member alone is too small. */
static int together_error(const struct ps_writer *w, const struct ps_room *rooms, int room_count,
                          struct ps_error *err)
{
    char a[32], b[32];
    uint64_t there = 0, needed = w->plan.object_bytes * w->plan.options.copies;
    for (int r = 0; r < room_count; r++)
        there = rooms[r].bytes < UINT64_MAX - there ? there + rooms[r].bytes : UINT64_MAX;
    if (there >= needed)
        return 0;
    return ps_error_set(err, -ENOSPC, w->targets[0].path,
                        "%s of data are to be laid out, and the members have room for %s together; "
                        "add members or choose larger ones",
                        ps_size_text(needed, a, sizeof(a)), ps_size_text(there, b, sizeof(b)));
}

int ps_writer_plan(struct ps_writer *w, const struct ps_plan_options *options, bool is_recorded,
                   struct ps_error *err)
{
    struct ps_room rooms[PS_MEMBER_COUNT_MAX];
    uint64_t data_bytes[PS_MEMBER_COUNT_MAX];
    struct ps_plan_options lowered = *options;
    double margins[PS_MEMBER_COUNT_MAX];
    for (int i = 0; i < TRIES_MAX; i++) {
        bool fits;
        ps_plan_fini(&w->plan);
        int rc = ps_plan_make(&w->plan, w->spec, &lowered, err);
        if (rc < 0 || is_recorded)
            return rc;
        int count = list_rooms(w, rooms, data_bytes, &fits);
        /* One room alone: no weight helps. */
        if (fits || count == 1)
            return 0;
        lowered = *options;
        struct ps_room aims[PS_MEMBER_COUNT_MAX];
        for (int r = 0; r < count; r++) {
            margins[r] = i == 0 ? 1 : margins[r];
            if (i > 0 && data_bytes[r] > rooms[r].bytes)
                margins[r] *= 0.999 * (double)rooms[r].bytes / (double)data_bytes[r];
            aims[r] = rooms[r];
            aims[r].bytes = (uint64_t)((double)rooms[r].bytes * margins[r]);
        }
        if (!ps_weigh_rooms(&lowered, aims, count, w->plan.object_bytes))
            return together_error(w, rooms, count, err);
    }
    return 0; /* as near as it comes: ps_writer_check_space says what is missing */
}

static int beside_error(const struct ps_target *t, uint64_t missing, struct ps_error *err)
{
    char a[32];
    return ps_error_set(err, -ENOSPC, t->path,
                        "%s are missing here: until the new volume is complete the old one keeps "
                        "its place; move to other members first, or to more of them",
                        ps_size_text(missing, a, sizeof(a)));
}

int ps_writer_place(struct ps_writer *w, struct ps_error *err)
{
    uint64_t shifts[PS_MEMBER_COUNT_MAX] = {0};
    bool any = false;
    for (uint32_t m = 0; m < w->member_count; m++) {
        if (w->shared[m] < 0)
            continue;
        const struct ps_target *t = &w->targets[m];
        const struct ps_disk_superblock *old = &w->old->members[w->shared[m]].sb;
        uint64_t bytes = ps_plan_data_end(&w->plan, m) + PS_STAGE_BYTES + PS_SUPERBLOCK_BYTES;
        uint64_t places[2], limit = UINT64_MAX;
        ps_superblock_stages(old, places);
        if (w->stages[m] == 0)
            w->stages[m] =
                places[0] != 0 && places[0] + bytes <= old->table_offset ? places[0] : places[1];
        if (w->stages[m] == places[0])
            limit = old->table_offset;
        else if (t->is_device)
            limit = ps_superblock_second_offset(t->bytes, true) + PS_SUPERBLOCK_BYTES;
        if (w->stages[m] + bytes > limit)
            return beside_error(t, w->stages[m] + bytes - limit, err);
        shifts[m] = w->stages[m] + PS_STAGE_BYTES;
        any = true;
    }
    if (any)
        ps_plan_shift(&w->plan, w->spec, shifts);
    return 0;
}

int ps_writer_reserve(struct ps_writer *w, uint32_t m, struct ps_error *err)
{
    const struct ps_target *t = &w->targets[m];
    uint64_t begin = w->stages[m], needed = ps_writer_member_bytes(w, m) - begin;
    if (t->is_device)
        return 0;
    int rc;
    do {
        rc = fallocate(t->fd, FALLOC_FL_KEEP_SIZE, (off_t)begin, (off_t)needed) != 0 ? -errno : 0;
    } while (rc == -EINTR);
    if (rc == 0 || rc == -EOPNOTSUPP || rc == -ENOSYS)
        return 0;
    if (rc == -ENOSPC)
        return space_error(t, needed, free_bytes(t) + held_bytes(t), err);
    return ps_error_set(err, rc, t->path, "a file of %llu bytes cannot be made here: %s",
                        (unsigned long long)needed, ps_strerror(rc));
}
