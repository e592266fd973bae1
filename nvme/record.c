#include "nvme/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/util.h"
#include "nvme/map.h"
#include "nvme/raw_io.h"
#include "nvme/volume.h"
#include "nvme/volume_internal.h"

#define ROOM_BYTES (PS_RECORD_HALF_BYTES - sizeof(struct ps_disk_record))

/* Of the whole half with the checksum's own field zero, which it is for a moment. */
static uint64_t checksum_of(uint8_t *half)
{
    struct ps_disk_record *record = (void *)half;
    uint64_t checksum = record->checksum;
    record->checksum = 0;
    uint64_t computed = XXH3_64bits(half, PS_RECORD_HALF_BYTES);
    record->checksum = checksum;
    return computed;
}

void ps_record_init(uint8_t *half, const uint8_t uuid[16], uint64_t generation)
{
    struct ps_disk_record *record = (void *)half;
    memset(half, 0, PS_RECORD_HALF_BYTES);
    memcpy(record->magic, PS_RECORD_MAGIC, sizeof(record->magic));
    memcpy(record->uuid, uuid, sizeof(record->uuid));
    record->generation = generation;
    record->checksum = checksum_of(half);
}

static uint64_t entry_bytes(uint32_t bytes)
{
    return sizeof(struct ps_disk_entry) + ps_align_up(bytes, 8);
}

/* The entry at *at of the half's entries, which then moves to the next; NULL at the end, or where
 * the entry is not sound (then *at does not reach `used`). */
static const struct ps_disk_entry *next_entry(const uint8_t *half, uint64_t used, uint64_t *at)
{
    const uint8_t *entries = half + sizeof(struct ps_disk_record);
    const struct ps_disk_entry *e = (const void *)(entries + *at);
    if (used - *at < sizeof(*e) || entry_bytes(e->bytes) > used - *at || e->reserved != 0)
        return NULL;
    const char *end = memchr(e->name, 0, sizeof(e->name));
    if (end == NULL || !ps_map_name_valid(e->name, (uint64_t)(end - e->name)))
        return NULL;
    *at += entry_bytes(e->bytes);
    return e;
}

bool ps_record_valid(uint8_t *half, const uint8_t uuid[16])
{
    const struct ps_disk_record *record = (const void *)half;
    uint64_t at = 0;
    if (memcmp(record->magic, PS_RECORD_MAGIC, sizeof(record->magic)) != 0 ||
        memcmp(record->uuid, uuid, sizeof(record->uuid)) != 0 || record->used_bytes > ROOM_BYTES ||
        record->checksum != checksum_of(half))
        return false;
    const struct ps_disk_entry *e;
    while ((e = next_entry(half, record->used_bytes, &at)) != NULL) {
        uint32_t bytes;
        /* The first of its name is found, so it must be this one. */
        if (ps_record_find(half, e->name, &bytes) != (const void *)(e + 1))
            return false;
    }
    return at == record->used_bytes;
}

const void *ps_record_find(const uint8_t *half, const char *name, uint32_t *bytes)
{
    const struct ps_disk_record *record = (const void *)half;
    uint64_t at = 0;
    const struct ps_disk_entry *e;
    while ((e = next_entry(half, record->used_bytes, &at)) != NULL) {
        if (strcmp(e->name, name) == 0) {
            *bytes = e->bytes;
            return e + 1;
        }
    }
    return NULL;
}

int ps_record_set(uint8_t *half, const char *name, const void *data, uint32_t bytes,
                  uint64_t generation)
{
    struct ps_disk_record *record = (void *)half;
    uint8_t *entries = half + sizeof(*record);
    uint32_t old_bytes;
    const void *old = ps_record_find(half, name, &old_bytes);
    uint64_t freed = old != NULL ? entry_bytes(old_bytes) : 0;
    if (entry_bytes(bytes) > ROOM_BYTES - (record->used_bytes - freed))
        return -ENOSPC;
    if (old != NULL) {
        uint8_t *begin = entries + ((const uint8_t *)old - entries) - sizeof(struct ps_disk_entry);
        uint64_t after = record->used_bytes - (uint64_t)(begin - entries) - freed;
        memmove(begin, begin + freed, after);
        record->used_bytes -= freed;
    }
    struct ps_disk_entry *e = (void *)(entries + record->used_bytes);
    memset(e, 0, ROOM_BYTES - record->used_bytes);
    memcpy(e->name, name, strlen(name));
    e->bytes = bytes;
    memcpy(e + 1, data, bytes);
    record->used_bytes += entry_bytes(bytes);
    record->generation = generation;
    record->checksum = checksum_of(half);
    return 0;
}

/* ---- on the members -------------------------------------------------------------------------- */

static uint64_t generation_of(const uint8_t *half)
{
    return ((const struct ps_disk_record *)(const void *)half)->generation;
}

/* Reads a half; false when it is not there or not valid. */
static bool read_half(const struct ps_member *m, uint64_t number, uint8_t *half)
{
    return ps_raw_read(m->fd, half, PS_RECORD_HALF_BYTES,
                       m->sb.record_offset + number * PS_RECORD_HALF_BYTES) == 0 &&
           ps_record_valid(half, m->sb.uuid);
}

bool ps_record_read(const struct ps_volume *volume, uint8_t *half)
{
    uint8_t *found = ps_raw_alloc(PS_RECORD_HALF_BYTES);
    bool any = false;
    for (int m = 0; found != NULL && m < volume->member_count; m++) {
        for (uint64_t number = 0; volume->members[m].fd >= 0 && number < 2; number++) {
            if (!read_half(&volume->members[m], number, found) ||
                (any && generation_of(found) <= generation_of(half)))
                continue;
            memcpy(half, found, PS_RECORD_HALF_BYTES);
            any = true;
        }
    }
    free(found);
    return any;
}

static int write_error(const struct ps_member *member, int rc, struct ps_error *err)
{
    return ps_error_set(err, rc, member->path, "its record area cannot be written: %s",
                        ps_strerror(rc));
}

/* Writes into the half of member m that counts less. */
static int write_half(const struct ps_volume *volume, int m, const uint8_t *half, uint8_t *scratch,
                      struct ps_error *err)
{
    const struct ps_member *member = &volume->members[m];
    uint64_t generations[2] = {0, 0};
    bool valid[2];
    for (uint64_t number = 0; number < 2; number++) {
        valid[number] = read_half(member, number, scratch);
        generations[number] = generation_of(scratch);
    }
    uint64_t to = valid[0] && (!valid[1] || generations[1] < generations[0]) ? 1 : 0;
    int fd = ps_volume_reopen(volume, m, O_RDWR);
    int rc = fd < 0 ? fd
                    : ps_raw_write(fd, half, PS_RECORD_HALF_BYTES,
                                   member->sb.record_offset + to * PS_RECORD_HALF_BYTES);
    if (rc == 0 && fdatasync(fd) != 0)
        rc = -errno;
    if (fd >= 0)
        close(fd);
    return rc < 0 ? write_error(member, rc, err) : 0;
}

static int put_locked(struct ps_volume *volume, const char *name, const void *data, uint32_t bytes,
                      uint8_t *half, uint8_t *scratch, struct ps_error *err)
{
    const struct ps_member *any = &volume->members[0];
    while (any->fd < 0)
        any++;
    if (!ps_record_read(volume, half))
        ps_record_init(half, any->sb.uuid, 0);
    int rc = ps_record_set(half, name, data, bytes, generation_of(half) + 1);
    if (rc < 0)
        return ps_error_set(err, rc, any->path,
                            "the record area has no room for %u bytes of '%s' beside what it holds",
                            bytes, name);
    for (int m = 0; rc == 0 && m < volume->member_count; m++) {
        if (volume->members[m].fd >= 0)
            rc = write_half(volume, m, half, scratch, err);
    }
    return rc;
}

int ps_record_put(struct ps_volume *volume, const char *name, const void *data, uint32_t bytes,
                  struct ps_error *err)
{
    uint8_t *halves = ps_raw_alloc((size_t)2 * PS_RECORD_HALF_BYTES);
    if (halves == NULL)
        return ps_error_set(err, -ENOMEM, "record", "not enough memory");
    int rc = ps_volume_lock(volume, err);
    if (rc == 0) {
        rc = put_locked(volume, name, data, bytes, halves, halves + PS_RECORD_HALF_BYTES, err);
        ps_volume_unlock(volume);
    }
    free(halves);
    return rc;
}

int ps_record_put_check(struct ps_volume *volume, struct ps_error *err)
{
    int rc = ps_volume_lock(volume, err);
    if (rc < 0)
        return rc;
    for (int m = 0; rc == 0 && m < volume->member_count; m++) {
        if (volume->members[m].fd < 0)
            continue;
        int fd = ps_volume_reopen(volume, m, O_RDWR);
        if (fd < 0)
            rc = write_error(&volume->members[m], fd, err);
        else
            close(fd);
    }
    ps_volume_unlock(volume);
    return rc;
}

void ps_record_copy_others(uint8_t *half, const struct ps_volume *from)
{
    uint8_t *found = ps_raw_alloc(PS_RECORD_HALF_BYTES);
    uint64_t generation = generation_of(half), at = 0;
    if (found != NULL && ps_record_read(from, found)) {
        const struct ps_disk_record *record = (const void *)found;
        const struct ps_disk_entry *e;
        while ((e = next_entry(found, record->used_bytes, &at)) != NULL) {
            if (strcmp(e->name, PS_RECORD_PROFILE) != 0)
                ps_record_set(half, e->name, e + 1, e->bytes, generation);
        }
    }
    free(found);
}

/* ---- profiles -------------------------------------------------------------------------------- */

void ps_record_profiles_pack(struct ps_disk_profile *entries,
                             const struct ps_member_profile *profiles, uint32_t count)
{
    for (uint32_t m = 0; m < count; m++)
        entries[m] = (struct ps_disk_profile){
            .bytes_per_s = profiles[m].bytes_per_s,
            .latency_ns = profiles[m].latency_ns,
            .request_bytes = profiles[m].request_bytes,
            .depth = profiles[m].depth,
            .piece_bytes_min = profiles[m].piece_bytes_min,
        };
}

bool ps_record_profiles_get(const uint8_t *half, struct ps_member_profile *profiles, uint32_t count)
{
    uint32_t bytes;
    const struct ps_disk_profile *entries = ps_record_find(half, PS_RECORD_PROFILE, &bytes);
    if (entries == NULL || bytes != count * sizeof(*entries))
        return false;
    for (uint32_t m = 0; m < count; m++)
        profiles[m] = (struct ps_member_profile){
            .bytes_per_s = entries[m].bytes_per_s,
            .latency_ns = entries[m].latency_ns,
            .request_bytes = entries[m].request_bytes,
            .depth = entries[m].depth,
            .piece_bytes_min = entries[m].piece_bytes_min,
        };
    return true;
}

int ps_volume_profile_save(struct ps_volume *volume, const struct ps_member_profile *profiles,
                           struct ps_error *err)
{
    struct ps_disk_profile entries[PS_MEMBER_COUNT_MAX];
    uint32_t count = (uint32_t)volume->member_count;
    ps_record_profiles_pack(entries, profiles, count);
    int rc = ps_record_put(volume, PS_RECORD_PROFILE, entries, (uint32_t)(count * sizeof(*entries)),
                           err);
    if (rc == 0) {
        memcpy(volume->profiles, profiles, count * sizeof(*profiles));
        volume->has_profiles = true;
    }
    return rc;
}
