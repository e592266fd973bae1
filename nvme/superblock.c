#include "nvme/superblock.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "core/util.h"
#include "nvme/penstock_io.h"
#include "nvme/raw_io.h"

#define NOT_A_MEMBER "this is not a member of a Penstock volume; lay one out with `penstock layout`"

uint64_t ps_superblock_second_offset(uint64_t member_bytes, bool is_device)
{
    uint64_t tail = PS_SUPERBLOCK_BYTES + (is_device ? PS_FORMAT_DEVICE_TAIL_BYTES : 0);
    if (member_bytes < tail + PS_SUPERBLOCK_BYTES)
        return 0;
    return (member_bytes - tail) & ~(uint64_t)(PS_SUPERBLOCK_BYTES - 1);
}

static uint64_t checksum_of(const struct ps_disk_superblock *sb)
{
    return XXH3_64bits(sb, offsetof(struct ps_disk_superblock, checksum));
}

void ps_superblock_seal(struct ps_disk_superblock *sb)
{
    sb->checksum = checksum_of(sb);
}

static bool all_zero(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

/* True when [offset, offset + bytes) is aligned, starts at or after *cursor and ends within limit.
 */
static bool area_follows(uint64_t *cursor, uint64_t offset, uint64_t bytes, uint64_t align,
                         uint64_t limit)
{
    if (offset % align != 0 || bytes % align != 0 || offset < *cursor || offset > limit ||
        bytes > limit - offset)
        return false;
    *cursor = offset + bytes;
    return true;
}

static bool areas_sound(const struct ps_disk_superblock *sb)
{
    uint64_t align = sb->align;
    uint64_t cursor = PS_SUPERBLOCK_BYTES;
    uint64_t limit = sb->member_bytes;
    uint64_t table_bytes_min =
        sizeof(struct ps_disk_table) + sb->member_count * sizeof(struct ps_disk_peer);
    return sb->table_bytes >= table_bytes_min && sb->map_bytes >= sizeof(struct ps_disk_map) &&
           sb->map_bytes <= PS_MAP_BYTES_MAX && sb->record_bytes == 2 * PS_RECORD_HALF_BYTES &&
           sb->data_end >= sb->data_begin &&
           area_follows(&cursor, sb->table_offset, sb->table_bytes, align, limit) &&
           area_follows(&cursor, sb->map_offset, sb->map_bytes, align, limit) &&
           area_follows(&cursor, sb->record_offset, sb->record_bytes, PS_FORMAT_ALIGN_MIN, limit) &&
           area_follows(&cursor, sb->data_begin, sb->data_end - sb->data_begin, align, limit) &&
           area_follows(&cursor, sb->second_offset, PS_SUPERBLOCK_BYTES, PS_FORMAT_ALIGN_MIN,
                        limit);
}

/* Weights are given to all members or to none, and nothing to members that do not exist. */
static bool plan_sound(const struct ps_disk_superblock *sb)
{
    uint32_t count = sb->member_count, weighted = 0;
    for (uint32_t m = 0; m < count; m++) {
        weighted += sb->weights[m] != 0;
        if (sb->weights[m] > PS_WEIGHT_MAX)
            return false;
    }
    return (weighted == 0 || weighted == count) &&
           all_zero((const uint8_t *)&sb->weights[count],
                    (PS_MEMBER_COUNT_MAX - count) * sizeof(sb->weights[0])) &&
           all_zero(&sb->nodes[count], PS_MEMBER_COUNT_MAX - count) &&
           (sb->piece_bytes_min == 0 || (sb->piece_bytes_min >= PS_PIECE_BYTES_MIN &&
                                         sb->piece_bytes_min <= PS_PIECE_BYTES_MAX)) &&
           sb->further_copies <= 1 && sb->further_copies < count;
}

int ps_superblock_check(const struct ps_disk_superblock *sb, const char *where,
                        struct ps_error *err)
{
    if (memcmp(sb->magic, PS_SUPERBLOCK_MAGIC, sizeof(sb->magic)) != 0)
        return ps_error_set(err, -PS_ERR_FORMAT, where, NOT_A_MEMBER);
    if (sb->checksum != checksum_of(sb))
        return ps_error_set(err, -PS_ERR_FORMAT, where,
                            "the superblock is damaged: its checksum does not match");
    if (sb->version != PS_FORMAT_VERSION)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, where,
                            "the volume has format version %u, and this program reads version %u",
                            sb->version, PS_FORMAT_VERSION);
    bool sound = (sb->state == PS_VOLUME_IN_PROGRESS || sb->state == PS_VOLUME_COMPLETE ||
                  sb->state == PS_VOLUME_WIPED) &&
                 sb->member_count >= 1 && sb->member_count <= PS_MEMBER_COUNT_MAX &&
                 sb->member < sb->member_count && sb->align >= PS_FORMAT_ALIGN_MIN &&
                 sb->align <= PS_FORMAT_ALIGN_MAX && (sb->align & (sb->align - 1)) == 0 &&
                 sb->is_device <= 1 && sb->watermark <= sb->slice_count &&
                 memchr(sb->source_name, 0, sizeof(sb->source_name)) != NULL &&
                 all_zero(sb->reserved, sizeof(sb->reserved)) &&
                 all_zero(sb->not_boot, sizeof(sb->not_boot)) &&
                 all_zero(sb->reserved2, sizeof(sb->reserved2)) && plan_sound(sb) &&
                 areas_sound(sb);
    if (!sound)
        return ps_error_set(err, -PS_ERR_FORMAT, where,
                            "the superblock contradicts itself, so this is not a valid member");
    return 0;
}

int ps_superblock_stopped(const struct ps_disk_superblock *sb, const char *where,
                          struct ps_error *err)
{
    const char *what = all_zero(sb->origin, sizeof(sb->origin)) ? "layout" : "rebalance";
    return ps_error_set(err, -PS_ERR_INCOMPLETE, where,
                        "the %s of this volume was stopped before it finished; continue it with "
                        "`penstock %s --resume`, or give it back with `penstock wipe`",
                        what, what);
}

/* Reads the copy at `offset`; it counts only if it knows that it belongs there. */
static int read_copy(int fd, uint64_t offset, int which, struct ps_superblock_pair *pair,
                     const char *path, struct ps_error *err)
{
    struct ps_disk_superblock *sb = &pair->copy[which];
    int rc = ps_raw_read(fd, sb, sizeof(*sb), offset);
    if (rc < 0)
        return ps_error_set(err, rc, path, "cannot read the superblock at byte %llu: %s",
                            (unsigned long long)offset, ps_strerror(rc));
    rc = ps_superblock_check(sb, path, err);
    if (rc == 0 && which == 1 && sb->second_offset != offset)
        rc = ps_error_set(err, -PS_ERR_FORMAT, path, NOT_A_MEMBER);
    pair->valid[which] = rc == 0;
    return rc;
}

static int best_of(const struct ps_superblock_pair *pair)
{
    if (!pair->valid[0] || !pair->valid[1])
        return pair->valid[0] ? 0 : 1;
    for (int i = 0; i < 2; i++) {
        if (pair->copy[i].state != PS_VOLUME_COMPLETE)
            return i;
    }
    return pair->copy[1].generation > pair->copy[0].generation ? 1 : 0;
}

int ps_superblock_read(int fd, const char *path, struct ps_superblock_pair *pair,
                       struct ps_error *err)
{
    uint64_t bytes;
    bool is_device;
    memset(pair, 0, sizeof(*pair));
    int rc = ps_raw_size(fd, &bytes, &is_device);
    if (rc < 0)
        return ps_error_set(err, rc, path, "a volume's member is a file or a block device: %s",
                            ps_strerror(rc));
    if (bytes < PS_SUPERBLOCK_BYTES) {
        uint8_t magic[8];
        if (ps_raw_read(fd, magic, sizeof(magic), 0) == 0 &&
            memcmp(magic, PS_SUPERBLOCK_MAGIC, sizeof(magic)) == 0)
            return ps_error_set(err, -PS_ERR_TRUNCATED, path,
                                "the volume is cut short: the file ends inside its superblock");
        return ps_error_set(err, -PS_ERR_FORMAT, path, NOT_A_MEMBER);
    }
    /* No readahead: what is still on its way outlives POSIX_FADV_DONTNEED, 1 MiB of it and more. */
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    struct ps_error first_err = {0};
    int first_rc = read_copy(fd, 0, 0, pair, path, &first_err);
    uint64_t places[2] = {pair->copy[0].second_offset, 0};
    if (first_rc < 0) {
        /* The file may be the image of a device, or the other way round: both rules are tried. */
        places[0] = ps_superblock_second_offset(bytes, is_device);
        places[1] = ps_superblock_second_offset(bytes, !is_device);
    }
    for (int i = 0; i < 2 && !pair->valid[1]; i++) {
        if (places[i] == 0 || places[i] > bytes - PS_SUPERBLOCK_BYTES)
            continue;
        pair->second_offset = places[i];
        read_copy(fd, places[i], 1, pair, path, NULL);
    }
    if (!pair->valid[0] && !pair->valid[1]) {
        if (err != NULL)
            *err = first_err;
        return first_rc;
    }
    pair->best = best_of(pair);
    return 0;
}

bool ps_superblock_read_staged(int fd, uint64_t stage, struct ps_superblock_pair *pair)
{
    memset(pair, 0, sizeof(*pair));
    for (int i = 0; i < 2; i++)
        pair->valid[i] = ps_raw_read(fd, &pair->copy[i], sizeof(pair->copy[i]),
                                     stage + (uint64_t)i * PS_SUPERBLOCK_BYTES) == 0 &&
                         ps_superblock_check(&pair->copy[i], "stage", NULL) == 0;
    pair->second_offset = stage + PS_SUPERBLOCK_BYTES;
    pair->best = best_of(pair);
    return pair->valid[0] || pair->valid[1];
}

void ps_superblock_stages(const struct ps_disk_superblock *sb, uint64_t places[2])
{
    uint64_t end = sb->is_device ? sb->data_end : sb->member_bytes;
    places[0] = sb->table_offset >= 2 * (uint64_t)PS_STAGE_BYTES ? PS_STAGE_BYTES : 0;
    places[1] = ps_align_up(end, PS_STAGE_BYTES);
}

bool ps_superblock_find_staged(int fd, const struct ps_disk_superblock *sb, uint64_t *stage,
                               struct ps_superblock_pair *pair)
{
    uint64_t places[2];
    ps_superblock_stages(sb, places);
    for (int i = 0; i < 2; i++) {
        if (places[i] != 0 && ps_superblock_read_staged(fd, places[i], pair) &&
            memcmp(pair->copy[pair->best].origin, sb->uuid, sizeof(sb->uuid)) == 0) {
            *stage = places[i];
            return true;
        }
    }
    return false;
}

bool ps_superblock_find_left(int fd, const struct ps_disk_superblock *sb, uint64_t *stage,
                             struct ps_superblock_pair *pair)
{
    uint64_t shift = ps_superblock_shift(sb);
    if (shift < 2 * (uint64_t)PS_STAGE_BYTES ||
        !ps_superblock_read_staged(fd, shift - PS_STAGE_BYTES, pair) ||
        memcmp(pair->copy[pair->best].uuid, sb->uuid, sizeof(sb->uuid)) != 0)
        return false;
    *stage = shift - PS_STAGE_BYTES;
    return true;
}

void ps_uuid_text(const uint8_t uuid[16], char text[37])
{
    char *at = text;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *at++ = '-';
        at += sprintf(at, "%02x", uuid[i]);
    }
}
