/* What a layout writes besides data: superblocks, member table, map, record area. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/identity.h"
#include "nvme/layout_internal.h"
#include "nvme/raw_io.h"
#include "nvme/record.h"

/* What a drive writes whole or not at all, at the least. */
#define SECTOR_BYTES 512u

bool ps_writer_owns(const struct ps_writer *w, uint32_t m)
{
    const struct ps_target *t = &w->targets[m];
    return t->is_member && t->sb.state != PS_VOLUME_WIPED && t->sb.member == m &&
           t->sb.member_count == w->member_count &&
           memcmp(t->sb.uuid, w->plan.uuid, sizeof(t->sb.uuid)) == 0;
}

uint64_t ps_writer_member_bytes(const struct ps_writer *w, uint32_t m)
{
    if (w->targets[m].is_device)
        return w->targets[m].bytes;
    return ps_plan_data_end(&w->plan, m) + PS_SUPERBLOCK_BYTES;
}

static int write_error(int code, const struct ps_target *t, const char *what, struct ps_error *err)
{
    return ps_error_set(err, code, t->path, "cannot write %s: %s%s", what, ps_strerror(code),
                        code == -ENOSPC ? "; free some space and continue with --resume" : "");
}

int ps_writer_flush(struct ps_writer *w, struct ps_error *err)
{
    for (uint32_t m = 0; m < w->member_count; m++) {
        if (fdatasync(w->targets[m].fd) != 0)
            return write_error(-errno, &w->targets[m], "to the drive", err);
    }
    return 0;
}

static size_t folder_bytes(const char *path)
{
    return (size_t)(strrchr(path, '/') - path);
}

/* A neighbour's name when both lie in one folder, so that the folder may move; else the full path.
 */
static const char *path_to(const struct ps_target *from, const struct ps_target *to)
{
    size_t bytes = folder_bytes(from->real_path);
    bool neighbours = !from->is_device && !to->is_device && bytes == folder_bytes(to->real_path) &&
                      memcmp(from->real_path, to->real_path, bytes) == 0;
    return neighbours ? to->real_path + bytes + 1 : to->real_path;
}

static void fill_table(const struct ps_writer *w, uint32_t m, struct ps_disk_table *table)
{
    struct ps_disk_peer *peers = (struct ps_disk_peer *)(table + 1);
    memcpy(table->magic, PS_TABLE_MAGIC, sizeof(table->magic));
    memcpy(table->uuid, w->plan.uuid, sizeof(table->uuid));
    table->member = m;
    table->member_count = w->member_count;
    for (uint32_t i = 0; i < w->member_count; i++) {
        const struct ps_target *t = &w->targets[i];
        peers[i].bytes = ps_writer_member_bytes(w, i);
        peers[i].is_device = t->is_device;
        if (t->is_device)
            ps_identity_get(t->device, peers[i].partuuid, peers[i].serial);
        /* Its own path is not recorded: a volume of one file is the same under any name. */
        const char *path = i != m ? path_to(&w->targets[m], t) : "";
        if (strlen(path) < sizeof(peers[i].path))
            memcpy(peers[i].path, path, strlen(path) + 1);
        else
            ps_log(PS_LOG_WARN,
                   "%s: the path is too long to be recorded; name this member when "
                   "opening the volume",
                   path);
    }
}

void ps_writer_fill_superblock(struct ps_writer *w, uint32_t m, enum ps_volume_state state,
                               struct ps_disk_superblock *sb)
{
    const struct ps_plan *plan = &w->plan;
    const struct ps_target *t = &w->targets[m];
    uint64_t shift = plan->shifts[m];
    *sb = (struct ps_disk_superblock){
        .magic = PS_SUPERBLOCK_MAGIC,
        .version = PS_FORMAT_VERSION,
        .state = state,
        .member = m,
        .member_count = w->member_count,
        .generation = 1,
        .member_bytes = ps_writer_member_bytes(w, m),
        .align = plan->header->align,
        .is_device = t->is_device,
        .table_offset = plan->table_offset + shift,
        .table_bytes = plan->table_bytes,
        .table_checksum = XXH3_64bits(w->tables + m * plan->table_bytes, plan->table_bytes),
        .map_offset = plan->map_offset + shift,
        .map_bytes = plan->map_bytes,
        .record_offset = plan->record_offset + shift,
        .record_bytes = 2 * PS_RECORD_HALF_BYTES,
        .data_begin = plan->data_begin + shift,
        .data_end = ps_plan_data_end(plan, m),
        .slice_count = plan->header->slice_count,
        .watermark = w->watermark,
        .fingerprint = {w->spec->source_fingerprint[0], w->spec->source_fingerprint[1]},
        .plan_hash = {plan->plan_hash[0], plan->plan_hash[1]},
    };
    ps_plan_options_put(&plan->options, sb);
    memcpy(sb->uuid, plan->uuid, sizeof(sb->uuid));
    sb->second_offset = ps_superblock_second_offset(sb->member_bytes, t->is_device);
    sb->map_checksum = state == PS_VOLUME_COMPLETE ? XXH3_64bits(plan->map_data, plan->map_bytes)
                                                   : XXH3_64bits_digest(w->digest);
    if (state == PS_VOLUME_IN_PROGRESS)
        memcpy(sb->origin, w->origin, sizeof(sb->origin));
    if (w->spec->source_name != NULL)
        snprintf(sb->source_name, sizeof(sb->source_name), "%s", w->spec->source_name);
    ps_superblock_seal(sb);
}

bool ps_writer_only_begun(struct ps_writer *w, uint32_t m)
{
    static const uint8_t zeroes[SECTOR_BYTES];
    const struct ps_target *t = &w->targets[m];
    struct ps_disk_superblock expected, found = {0};
    if (w->shared[m] >= 0 || t->is_device || t->bytes == 0 || t->bytes > sizeof(found) ||
        ps_raw_read(t->fd, &found, t->bytes, 0) < 0)
        return false;
    ps_writer_fill_superblock(w, m, PS_VOLUME_IN_PROGRESS, &expected);
    for (size_t at = 0; at < t->bytes; at += SECTOR_BYTES) {
        size_t bytes = ps_min_u64(SECTOR_BYTES, t->bytes - at);
        const uint8_t *sector = (const uint8_t *)&found + at;
        if (memcmp(sector, (const uint8_t *)&expected + at, bytes) != 0 &&
            memcmp(sector, zeroes, bytes) != 0)
            return false;
    }
    return true;
}

int ps_writer_put_superblocks(struct ps_writer *w, enum ps_volume_state state, struct ps_error *err)
{
    struct ps_disk_superblock *sb = ps_raw_alloc(sizeof(*sb));
    int rc = 0;
    if (sb == NULL)
        rc = ps_error_set(err, -ENOMEM, "layout", "not enough memory");
    for (int copy = 0; rc == 0 && copy < 2; copy++) {
        for (uint32_t m = 0; rc == 0 && m < w->member_count; m++) {
            uint64_t stage = w->stages[m];
            ps_writer_fill_superblock(w, m, state, sb);
            if (stage != 0) {
                memcpy(sb->origin, w->origin, sizeof(sb->origin));
                ps_superblock_seal(sb);
            }
            uint64_t second = stage != 0 ? stage + PS_SUPERBLOCK_BYTES : sb->second_offset;
            rc = ps_raw_write(w->targets[m].fd, sb, sizeof(*sb), copy == 0 ? stage : second);
            if (rc < 0)
                write_error(rc, &w->targets[m], "the superblock", err);
        }
        if (rc == 0)
            rc = ps_writer_flush(w, err);
    }
    free(sb);
    return rc;
}

int ps_writer_check_superblocks(struct ps_writer *w, struct ps_error *err)
{
    struct ps_disk_superblock *sb = ps_raw_alloc(sizeof(*sb));
    int rc = 0;
    if (sb == NULL)
        return ps_error_set(err, -ENOMEM, "layout", "not enough memory");
    for (uint32_t m = 0; rc == 0 && m < w->member_count; m++) {
        const struct ps_target *t = &w->targets[m];
        rc = ps_raw_read(t->fd, sb, sizeof(*sb), w->stages[m]);
        if (rc < 0)
            ps_error_set(err, rc, t->path, "cannot read the superblock back: %s", ps_strerror(rc));
        else if (sb->member != m && sb->member < w->member_count)
            rc = ps_error_set(err, -PS_ERR_MEMBER, t->path,
                              "this is the same drive as '%s' under another name: what is written "
                              "to one is read from the other; name it once",
                              w->targets[sb->member].path);
    }
    free(sb);
    return rc;
}

int ps_writer_put_checksums(struct ps_writer *w, uint64_t begin, uint64_t end, struct ps_error *err)
{
    const struct ps_plan *plan = &w->plan;
    uint64_t entry = sizeof(struct ps_disk_slice);
    uint64_t from = plan->header->slices_offset + begin * entry;
    uint64_t to = plan->header->slices_offset + end * entry;
    from &= ~(uint64_t)(plan->header->align - 1);
    to = ps_align_up(to, plan->header->align);
    for (uint32_t m = 0; m < w->member_count; m++) {
        int rc = ps_raw_write(w->targets[m].fd, plan->map_data + from, to - from,
                              plan->map_offset + plan->shifts[m] + from);
        if (rc < 0)
            return write_error(rc, &w->targets[m], "the map", err);
    }
    return 0;
}

/* The first half counts, and holds what was known of the drives when the plan was made. */
static void fill_records(struct ps_writer *w)
{
    struct ps_disk_profile profiles[PS_MEMBER_COUNT_MAX];
    ps_record_init(w->records, w->plan.uuid, 1);
    ps_record_init(w->records + PS_RECORD_HALF_BYTES, w->plan.uuid, 0);
    if (w->old != NULL)
        ps_record_copy_others(w->records, w->old);
    if (w->opts->profiles == NULL)
        return;
    ps_record_profiles_pack(profiles, w->opts->profiles, w->member_count);
    /* Always fits but beside entries that fill the half: they stay, and this is left out. */
    ps_record_set(w->records, PS_RECORD_PROFILE, profiles,
                  (uint32_t)(w->member_count * sizeof(*profiles)), 1);
}

int ps_writer_make_tables(struct ps_writer *w, struct ps_error *err)
{
    w->tables = ps_raw_alloc(w->member_count * w->plan.table_bytes);
    w->records = ps_raw_alloc((size_t)2 * PS_RECORD_HALF_BYTES);
    if (w->tables == NULL || w->records == NULL)
        return ps_error_set(err, -ENOMEM, "layout", "not enough memory");
    for (uint32_t m = 0; m < w->member_count; m++)
        fill_table(w, m, (void *)(w->tables + m * w->plan.table_bytes));
    fill_records(w);
    return 0;
}

/* A member may have been finished, and written to since, when another one was lost. */
void ps_writer_load_records(struct ps_writer *w)
{
    uint8_t *half = ps_raw_alloc(PS_RECORD_HALF_BYTES);
    const struct ps_disk_record *record = (const void *)half;
    uint64_t newest = 0;
    for (uint32_t i = 0; half != NULL && i < 2 * w->member_count; i++) {
        uint32_t m = i / 2;
        uint64_t offset = w->plan.record_offset + w->plan.shifts[m] + i % 2 * PS_RECORD_HALF_BYTES;
        if (!ps_writer_owns(w, m) ||
            ps_raw_read(w->targets[m].fd, half, PS_RECORD_HALF_BYTES, offset) < 0 ||
            !ps_record_valid(half, w->plan.uuid) || record->generation <= newest)
            continue;
        memcpy(w->records, half, PS_RECORD_HALF_BYTES);
        newest = record->generation;
    }
    free(half);
}

int ps_writer_put_records(struct ps_writer *w, struct ps_error *err)
{
    for (uint32_t m = 0; m < w->member_count; m++) {
        int rc = ps_raw_write(w->targets[m].fd, w->records, (size_t)2 * PS_RECORD_HALF_BYTES,
                              w->plan.record_offset + w->plan.shifts[m]);
        if (rc < 0)
            return write_error(rc, &w->targets[m], "the record area", err);
    }
    return 0;
}

int ps_writer_put_head(struct ps_writer *w, struct ps_error *err)
{
    const struct ps_plan *plan = &w->plan;
    for (uint32_t m = 0; m < w->member_count; m++) {
        int fd = w->targets[m].fd;
        int rc = ps_raw_write(fd, w->tables + m * plan->table_bytes, plan->table_bytes,
                              plan->table_offset + plan->shifts[m]);
        if (rc == 0)
            rc = ps_raw_write(fd, plan->map_data, plan->map_bytes,
                              plan->map_offset + plan->shifts[m]);
        if (rc < 0)
            return write_error(rc, &w->targets[m], "the map", err);
    }
    int rc = ps_writer_put_records(w, err);
    return rc < 0 ? rc : ps_writer_flush(w, err);
}
