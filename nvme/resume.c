/* Resuming: which slices of a stopped layout may be trusted. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/layout_internal.h"
#include "nvme/raw_io.h"

/* The watermark of one superblock copy; a complete one has everything. */
static uint64_t watermark_of(const struct ps_disk_superblock *sb)
{
    return sb->state == PS_VOLUME_COMPLETE ? sb->slice_count : sb->watermark;
}

static bool is_ours(const struct ps_writer *w, const struct ps_disk_superblock *sb)
{
    return memcmp(sb->uuid, w->plan.uuid, sizeof(sb->uuid)) == 0;
}

/* The lowest mark of all copies: killed between two superblock writes, the older one is the safe
 * one. */
static uint64_t lowest_watermark(const struct ps_writer *w)
{
    uint64_t lowest = w->plan.header->slice_count;
    for (uint32_t m = 0; m < w->member_count; m++) {
        if (!ps_writer_owns(w, m))
            return 0;
        for (int copy = 0; copy < 2; copy++) {
            const struct ps_disk_superblock *sb = &w->targets[m].pair.copy[copy];
            if (w->targets[m].pair.valid[copy])
                lowest = is_ours(w, sb) ? ps_min_u64(lowest, watermark_of(sb)) : 0;
        }
    }
    return lowest;
}

/* The digest that was recorded together with this mark, if a copy still holds it. */
static bool recorded_digest(const struct ps_writer *w, uint64_t watermark, uint64_t *digest)
{
    for (uint32_t m = 0; m < w->member_count; m++) {
        for (int copy = 0; copy < 2; copy++) {
            const struct ps_disk_superblock *sb = &w->targets[m].pair.copy[copy];
            if (w->targets[m].pair.valid[copy] && is_ours(w, sb) &&
                sb->state == PS_VOLUME_IN_PROGRESS && sb->watermark == watermark) {
                *digest = sb->map_checksum;
                return true;
            }
        }
    }
    return false;
}

static bool same_but_checksum(struct ps_disk_slice a, struct ps_disk_slice b)
{
    a.checksum = b.checksum = 0;
    return memcmp(&a, &b, sizeof(a)) == 0;
}

/* Takes the checksums under the mark from member m's map if they are what the digest says. */
static bool load_checksums(struct ps_writer *w, uint32_t m, uint64_t watermark, uint64_t digest,
                           struct ps_disk_slice *entries)
{
    const struct ps_plan *plan = &w->plan;
    uint64_t from = plan->header->slices_offset & ~(uint64_t)(plan->header->align - 1);
    uint64_t skip = plan->header->slices_offset - from;
    uint64_t bytes = ps_align_up(skip + watermark * sizeof(*entries), plan->header->align);
    if (ps_raw_read(w->targets[m].fd, entries, bytes, plan->map_offset + plan->shifts[m] + from) <
        0)
        return false;
    memmove(entries, (uint8_t *)entries + skip, watermark * sizeof(*entries));
    XXH3_64bits_reset(w->digest);
    for (uint64_t i = 0; i < watermark; i++) {
        if (!same_but_checksum(entries[i], plan->slices[i]))
            return false;
        XXH3_64bits_update(w->digest, &entries[i].checksum, sizeof(entries[i].checksum));
    }
    if (XXH3_64bits_digest(w->digest) != digest)
        return false;
    for (uint64_t i = 0; i < watermark; i++)
        plan->slices[i].checksum = entries[i].checksum;
    return true;
}

/* All copies that are left say complete, so the whole map is durable: take it if it is intact. */
static bool load_map(struct ps_writer *w, uint32_t m)
{
    const struct ps_plan *plan = &w->plan;
    const struct ps_disk_superblock *sb = &w->targets[m].sb;
    uint8_t *map = ps_raw_alloc(plan->map_bytes);
    bool good =
        map != NULL && sb->state == PS_VOLUME_COMPLETE && sb->map_bytes == plan->map_bytes &&
        ps_raw_read(w->targets[m].fd, map, plan->map_bytes, plan->map_offset + plan->shifts[m]) ==
            0 &&
        XXH3_64bits(map, plan->map_bytes) == sb->map_checksum;
    if (good)
        memcpy(plan->slices, map + plan->header->slices_offset,
               plan->header->slice_count * sizeof(*plan->slices));
    free(map);
    return good;
}

static bool copy_good(const struct ps_writer *w, uint64_t slice, uint32_t copy, uint8_t *buf)
{
    const struct ps_disk_slice *s = &w->plan.slices[slice];
    const struct ps_disk_piece *pieces = ps_plan_pieces(&w->plan, slice, copy);
    uint64_t at = 0;
    for (uint32_t i = 0; i < s->piece_count; i++) {
        const struct ps_disk_piece *p = &pieces[i];
        if (ps_raw_read(w->targets[p->member].fd, buf + at, p->bytes, p->offset_bytes) < 0)
            return false;
        at += p->bytes;
    }
    return XXH3_64bits(buf, s->bytes) == s->checksum;
}

static bool slice_good(const struct ps_writer *w, uint64_t slice, uint8_t *buf)
{
    bool good = true;
    for (uint32_t copy = 0; good && copy < w->plan.options.copies; copy++)
        good = copy_good(w, slice, copy, buf);
    return good;
}

/* Reads the last interval under the mark again; lowers the mark to the first slice that is not
 * good. */
static int recheck(struct ps_writer *w, uint64_t *watermark, struct ps_error *err)
{
    uint64_t begin = *watermark, bytes = 0;
    while (begin > 0 && bytes < ps_layout_flush_bytes())
        bytes += w->plan.slices[--begin].bytes;
    uint8_t *buf = ps_raw_alloc(w->plan.job_bytes_max);
    if (buf == NULL)
        return ps_error_set(err, -ENOMEM, "layout", "not enough memory to check what is there");
    for (uint64_t i = begin; i < *watermark; i++) {
        if (!slice_good(w, i, buf)) {
            ps_log(PS_LOG_WARN, "the last part that was written is not as recorded; it is written "
                                "again");
            *watermark = i;
            break;
        }
    }
    free(buf);
    return 0;
}

/* Sets the state so that work goes on at the job that holds the mark. */
static void start_at(struct ps_writer *w, uint64_t watermark)
{
    uint32_t job = 0;
    w->done_bytes = 0;
    while (job < w->plan.job_count) {
        const struct ps_plan_job *j = &w->plan.jobs[job];
        if (j->first_slice + (j->slice_end - j->slice_begin) > watermark)
            break;
        w->done_bytes += j->bytes;
        job++;
    }
    w->next_job = job;
    w->watermark =
        job < w->plan.job_count ? w->plan.jobs[job].first_slice : w->plan.header->slice_count;
    XXH3_64bits_reset(w->digest);
    for (uint64_t i = 0; i < w->watermark; i++)
        XXH3_64bits_update(w->digest, &w->plan.slices[i].checksum, sizeof(uint64_t));
}

int ps_writer_resume(struct ps_writer *w, struct ps_error *err)
{
    uint64_t watermark = lowest_watermark(w);
    uint64_t digest;
    bool loaded = false;
    if (watermark > 0 && recorded_digest(w, watermark, &digest)) {
        uint64_t bytes = watermark * sizeof(struct ps_disk_slice);
        struct ps_disk_slice *entries = ps_raw_alloc(bytes + 2 * w->plan.header->align);
        if (entries == NULL)
            return ps_error_set(err, -ENOMEM, "layout", "not enough memory to check what is there");
        for (uint32_t m = 0; !loaded && m < w->member_count; m++)
            loaded = load_checksums(w, m, watermark, digest, entries);
        free(entries);
    } else if (watermark == w->plan.header->slice_count) {
        for (uint32_t m = 0; !loaded && m < w->member_count; m++)
            loaded = load_map(w, m);
    }
    if (watermark > 0 && !loaded) {
        ps_log(PS_LOG_WARN, "what the stopped layout recorded cannot be trusted; starting over");
        watermark = 0;
    }
    int rc = watermark > 0 ? recheck(w, &watermark, err) : 0;
    if (rc == 0)
        start_at(w, watermark);
    return rc;
}
