#include "nvme/volume.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/identity.h"
#include "nvme/raw_io.h"
#include "nvme/record.h"
#include "nvme/volume_internal.h"

static int check_state(const struct ps_member *m, struct ps_error *err)
{
    if (m->sb.state == PS_VOLUME_COMPLETE)
        return 0;
    if (m->sb.state == PS_VOLUME_WIPED)
        return ps_error_set(err, -PS_ERR_FORMAT, m->path,
                            "this member was being wiped; finish it with `penstock wipe`");
    return ps_superblock_stopped(&m->sb, m->path, err);
}

static int check_size(const struct ps_member *m, struct ps_error *err)
{
    if (m->bytes >= m->sb.member_bytes)
        return 0;
    return ps_error_set(err, -PS_ERR_TRUNCATED, m->path,
                        "the volume is cut short: this member had %llu bytes when it was laid out "
                        "and has %llu now; copy it again or lay the volume out anew",
                        (unsigned long long)m->sb.member_bytes, (unsigned long long)m->bytes);
}

/* Members of one volume carry the same values in everything that is not their own. */
static bool same_volume(const struct ps_disk_superblock *a, const struct ps_disk_superblock *b)
{
    return memcmp(a->uuid, b->uuid, sizeof(a->uuid)) == 0 && a->member_count == b->member_count &&
           a->align == b->align && a->generation == b->generation && a->map_bytes == b->map_bytes &&
           a->map_checksum == b->map_checksum && a->slice_count == b->slice_count &&
           memcmp(a->fingerprint, b->fingerprint, sizeof(a->fingerprint)) == 0 &&
           memcmp(a->plan_hash, b->plan_hash, sizeof(a->plan_hash)) == 0 &&
           memcmp(a->weights, b->weights, sizeof(a->weights)) == 0 &&
           memcmp(a->nodes, b->nodes, sizeof(a->nodes)) == 0 &&
           a->piece_bytes_min == b->piece_bytes_min && a->further_copies == b->further_copies;
}

/* Puts an open member in its place; on failure it stays the caller's. */
static int place_member(struct ps_volume *v, struct ps_member *m, const struct ps_member *first,
                        struct ps_error *err)
{
    if (memcmp(m->sb.uuid, first->sb.uuid, sizeof(m->sb.uuid)) != 0)
        return ps_error_set(err, -PS_ERR_MEMBER, m->path,
                            "this is a member of another volume than '%s'; name the members of "
                            "one volume",
                            first->path);
    if (!same_volume(&m->sb, &first->sb))
        return ps_error_set(err, -PS_ERR_MEMBER, m->path,
                            "this member and '%s' disagree about their volume; lay it out anew",
                            first->path);
    struct ps_member *slot = &v->members[m->sb.member];
    if (slot->fd >= 0)
        return ps_error_set(err, -PS_ERR_MEMBER, m->path,
                            "this is member %u of the volume, and so is '%s'; name each member "
                            "once",
                            m->sb.member + 1, slot->path);
    *slot = *m;
    *m = (struct ps_member){.fd = -1};
    return 0;
}

/* What opening has found out so far. */
struct opening {
    struct ps_volume *volume;
    int base;                      /* the first member that was named and is good */
    int failure_count;             /* paths that were named and cannot be used */
    struct ps_error failure;       /* the first of them */
    int missing_count;             /* members without a path that can be used */
    int missing;                   /* the first of them */
    struct ps_error missing_error; /* why */
};

/* True for what is wrong with a member itself: with a second copy of its data it can be done
 * without. What the caller or another process can set right is not. */
static bool is_bearable(int rc)
{
    return rc != -ENOMEM && rc != -PS_ERR_IN_USE && rc != -EACCES && rc != -EPERM &&
           rc != -EMFILE && rc != -ENFILE;
}

static bool is_volumes(const struct ps_member *m, const struct ps_member *base)
{
    return memcmp(m->sb.uuid, base->sb.uuid, sizeof(m->sb.uuid)) == 0;
}

static int first_member(struct ps_volume *v, const struct ps_member *m, struct ps_error *err)
{
    v->member_count = (int)m->sb.member_count;
    v->members = calloc(m->sb.member_count, sizeof(*v->members));
    if (v->members == NULL)
        return ps_error_set(err, -ENOMEM, m->path, "not enough memory");
    for (int i = 0; i < v->member_count; i++)
        v->members[i].fd = -1;
    return 0;
}

/*
 * Opens one path that was named. Returns 0 also when it cannot be used but the volume may do
 * without it; that is booked as a failure.
 */
static int open_one(struct opening *o, const char *path, struct ps_error *err)
{
    struct ps_volume *v = o->volume;
    struct ps_error reason = {0};
    struct ps_member m;
    int rc = ps_member_open(&m, path, &reason);
    bool bearable = rc < 0 && is_bearable(rc);
    if (rc == 0) {
        const struct ps_member *base = o->base >= 0 ? &v->members[o->base] : &m;
        rc = check_state(&m, &reason);
        if (rc == 0)
            rc = check_size(&m, &reason);
        bearable = rc < 0 && is_volumes(&m, base);
        if (rc == 0 && o->base < 0) {
            rc = first_member(v, &m, &reason);
            o->base = rc == 0 ? (int)m.sb.member : -1;
        }
        if (rc == 0)
            rc = place_member(v, &m, base, &reason);
        ps_member_close(&m);
    }
    if (rc < 0 && o->failure_count++ == 0)
        o->failure = reason;
    if (rc < 0 && !bearable && err != NULL)
        *err = reason;
    return bearable ? 0 : rc;
}

static int open_named(struct opening *o, const char *const *paths, int path_count,
                      struct ps_error *err)
{
    for (int i = 0; i < path_count; i++) {
        int rc = open_one(o, paths[i], err);
        if (rc < 0)
            return rc;
    }
    if (o->base >= 0)
        return 0;
    if (err != NULL)
        *err = o->failure;
    return o->failure.code;
}

static struct ps_disk_table *read_any_table(const struct opening *o)
{
    struct ps_disk_table *table = NULL;
    const struct ps_volume *v = o->volume;
    struct ps_error why = {0};
    for (int i = 0; table == NULL && i < v->member_count; i++) {
        const struct ps_member *m = &v->members[(o->base + i) % v->member_count];
        if (m->fd >= 0 && ps_member_table_read(m, &table, &why) < 0)
            ps_log(PS_LOG_WARN, "%s: %s", why.where, why.text);
    }
    return table;
}

static int find_one(struct opening *o, const struct ps_disk_table *table, int number,
                    struct ps_error *err)
{
    struct ps_volume *v = o->volume;
    const struct ps_member *base = &v->members[o->base];
    struct ps_error reason = {0};
    struct ps_member m;
    int rc = ps_member_find(&m, base, table, (uint32_t)number, &reason);
    bool bearable = rc < 0 && is_bearable(rc);
    if (rc == 0) {
        rc = check_size(&m, &reason);
        bearable = rc < 0;
        if (rc == 0)
            rc = place_member(v, &m, base, &reason);
        ps_member_close(&m);
    }
    if (rc < 0 && !bearable) {
        if (err != NULL)
            *err = reason;
        return rc;
    }
    if (rc < 0) {
        const char *path = table != NULL ? ps_table_peer(table, (uint32_t)number)->path : "";
        v->members[number].path = strdup(path);
        if (v->members[number].path == NULL)
            return ps_error_set(err, -ENOMEM, base->path, "not enough memory");
        /* It is there to be shown, and whoever wrote the table may have put anything in it. */
        for (char *at = v->members[number].path; *at != 0; at++)
            *at = iscntrl((unsigned char)*at) ? '?' : *at;
        if (o->missing_count++ == 0) {
            o->missing = number;
            o->missing_error = reason;
        }
    }
    return 0;
}

static int find_others(struct opening *o, struct ps_error *err)
{
    struct ps_volume *v = o->volume;
    struct ps_disk_table *table = NULL;
    int rc = 0;
    for (int i = 0; rc == 0 && i < v->member_count; i++) {
        if (v->members[i].fd >= 0)
            continue;
        table = table != NULL ? table : read_any_table(o);
        rc = find_one(o, table, i, err);
    }
    free(table);
    return rc;
}

/* Lists the members that are missing: "2 ('b'), 3 ('c')". */
static void list_missing(const struct ps_volume *v, char *text, size_t text_bytes)
{
    size_t at = 0;
    text[0] = 0;
    for (int i = 0; i < v->member_count && at < text_bytes; i++) {
        if (v->members[i].fd >= 0)
            continue;
        int n = snprintf(text + at, text_bytes - at, "%s%d ('%s')", at > 0 ? ", " : "", i + 1,
                         v->members[i].path);
        at += n > 0 ? (size_t)n : 0;
    }
}

/* Decides whether what was found will do: everything, or all but one member of two copies. */
static int judge(const struct opening *o, struct ps_error *err)
{
    const struct ps_volume *v = o->volume;
    const struct ps_member *base = &v->members[o->base];
    char list[256];
    if (o->missing_count == 0 && o->failure_count == 0)
        return 0;
    /* A path that was named in vain tells more than what was not found elsewhere. */
    const struct ps_error *why = o->failure_count > 0 ? &o->failure : &o->missing_error;
    bool may_miss = base->sb.further_copies > 0;
    if (may_miss && o->missing_count == 1 && o->failure_count <= 1) {
        ps_log(PS_LOG_WARN,
               "%s: %s; member %d of %d is read from the second copies until `penstock rebalance` "
               "restores it",
               why->where, why->text, o->missing + 1, v->member_count);
        return 0;
    }
    if (may_miss && o->missing_count > 1) {
        list_missing(v, list, sizeof(list));
        return ps_error_set(err, -PS_ERR_MEMBER, base->path,
                            "members %s of %d are missing or cannot be used, and the second copies "
                            "make up for one; name their paths too",
                            list, v->member_count);
    }
    if (err != NULL)
        *err = *why;
    return why->code;
}

/* A member that lacks the others may have been stopped while a rebalance changed over. */
static int explain(const struct opening *o, int rc, struct ps_error *err)
{
    struct ps_superblock_pair pair;
    uint64_t stage;
    if (rc != -PS_ERR_MEMBER || o->base < 0)
        return rc;
    const struct ps_member *base = &o->volume->members[o->base];
    bool is_begun = ps_superblock_find_staged(base->fd, &base->sb, &stage, &pair) &&
                    pair.copy[pair.best].state == PS_VOLUME_COMPLETE;
    if (!is_begun && !ps_superblock_find_left(base->fd, &base->sb, &stage, &pair))
        return rc;
    return ps_error_set(err, -PS_ERR_INCOMPLETE, base->path,
                        "a rebalance of this volume was stopped while it changed over; finish it "
                        "with the same command and --resume");
}

int ps_volume_map_read(const struct ps_member *member, void **data, struct ps_map *map,
                       struct ps_error *err)
{
    const struct ps_disk_superblock *sb = &member->sb;
    struct ps_map parsed = {0};
    void *raw = aligned_alloc(PS_FORMAT_ALIGN_MIN, sb->map_bytes);
    if (raw == NULL)
        return ps_error_set(err, -ENOMEM, member->path, "not enough memory for a map of %llu bytes",
                            (unsigned long long)sb->map_bytes);
    int rc = ps_raw_read(member->fd, raw, sb->map_bytes, sb->map_offset);
    if (rc < 0) {
        ps_error_set(err, rc, member->path, "cannot read the volume's map: %s", ps_strerror(rc));
        goto fail;
    }
    if (XXH3_64bits(raw, sb->map_bytes) != sb->map_checksum) {
        rc = ps_error_set(err, -PS_ERR_FORMAT, member->path,
                          "the volume's map is damaged: its checksum does not match");
        goto fail;
    }
    rc = ps_map_parse(&parsed, raw, sb->map_bytes, member->path, err);
    if (rc < 0)
        goto fail;
    const struct ps_disk_map *h = parsed.header;
    if (h->align != sb->align || h->member_count != sb->member_count ||
        h->slice_count != sb->slice_count || h->further_copies != sb->further_copies ||
        memcmp(h->uuid, sb->uuid, sizeof(h->uuid)) != 0 ||
        parsed.extents[sb->member].data_begin != sb->data_begin ||
        parsed.extents[sb->member].data_end != sb->data_end) {
        rc = ps_error_set(err, -PS_ERR_FORMAT, member->path,
                          "the volume's map does not belong to this member");
        goto fail;
    }
    *data = raw;
    *map = parsed;
    return 0;
fail:
    ps_map_fini(&parsed);
    free(raw);
    return rc;
}

/* The copies are identical, so any good one serves; the named member's is tried first. */
static int read_map(struct ps_volume *v, int named, struct ps_error *err)
{
    struct ps_error first = {0};
    for (int i = 0; i < v->member_count; i++) {
        const struct ps_member *m = &v->members[(named + i) % v->member_count];
        struct ps_error reason = {0};
        if (m->fd < 0)
            continue;
        if (ps_volume_map_read(m, &v->map_data, &v->map, &reason) == 0) {
            v->map_bytes = m->sb.map_bytes;
            if (i > 0)
                ps_log(PS_LOG_WARN, "%s: %s; using the copy of another member", first.where,
                       first.text);
            return 0;
        }
        if (i == 0)
            first = reason;
    }
    if (err != NULL)
        *err = first;
    return first.code;
}

static int check_extents(const struct ps_volume *v, struct ps_error *err)
{
    for (int i = 0; i < v->member_count; i++) {
        const struct ps_disk_superblock *sb = &v->members[i].sb;
        const struct ps_disk_extent *e = &v->map.extents[i];
        if (v->members[i].fd < 0)
            continue;
        if (e->data_begin != sb->data_begin || e->data_end != sb->data_end)
            return ps_error_set(err, -PS_ERR_FORMAT, v->members[i].path,
                                "the volume's map does not belong to this member");
        /* What was read buffered is not needed again; the page cache is not ours to fill. */
        if (!v->members[i].is_device)
            posix_fadvise(v->members[i].fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    return 0;
}

/* What the record area says of the drives. That it says nothing, or cannot be read, is no error. */
static int read_records(struct ps_volume *v, struct ps_error *err)
{
    uint8_t *half = ps_raw_alloc(PS_RECORD_HALF_BYTES);
    v->profiles = calloc((size_t)v->member_count, sizeof(*v->profiles));
    if (half == NULL || v->profiles == NULL) {
        free(half);
        return ps_error_set(err, -ENOMEM, "volume", "not enough memory");
    }
    v->has_profiles = ps_record_read(v, half) &&
                      ps_record_profiles_get(half, v->profiles, (uint32_t)v->member_count);
    free(half);
    return 0;
}

int ps_volume_find_path(const struct ps_volume *volume, const char *path)
{
    struct stat st, member;
    if (stat(path, &st) != 0)
        return -1;
    for (int i = 0; i < volume->member_count; i++) {
        const struct ps_member *m = &volume->members[i];
        if (m->fd < 0 || fstat(m->fd, &member) != 0)
            continue;
        if ((st.st_dev == member.st_dev && st.st_ino == member.st_ino) ||
            (m->is_device && S_ISBLK(st.st_mode) && st.st_rdev == member.st_rdev))
            return i;
    }
    return -1;
}

int ps_volume_lock(const struct ps_volume *volume, struct ps_error *err)
{
    for (int i = 0; i < volume->member_count; i++) {
        const struct ps_member *m = &volume->members[i];
        if (m->fd < 0 || ps_raw_lock(m->fd, LOCK_EX) != -EWOULDBLOCK)
            continue;
        ps_volume_unlock(volume);
        return ps_error_set(err, -PS_ERR_IN_USE, m->path,
                            "another process has this volume open; stop it first");
    }
    return 0;
}

void ps_volume_unlock(const struct ps_volume *volume)
{
    for (int i = 0; i < volume->member_count; i++) {
        if (volume->members[i].fd >= 0)
            flock(volume->members[i].fd, LOCK_SH | LOCK_NB);
    }
}

int ps_volume_open(struct ps_volume **out, const char *const *paths, int path_count,
                   struct ps_error *err)
{
    if (path_count < 1 || path_count > PS_MEMBER_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "volume",
                            "name a volume by 1 to %d of its members", PS_MEMBER_COUNT_MAX);
    struct ps_volume *v = calloc(1, sizeof(*v));
    if (v == NULL)
        return ps_error_set(err, -ENOMEM, paths[0], "not enough memory");
    struct opening o = {.volume = v, .base = -1};
    int rc = open_named(&o, paths, path_count, err);
    if (rc == 0)
        rc = find_others(&o, err);
    if (rc == 0)
        rc = judge(&o, err);
    rc = explain(&o, rc, err);
    if (rc == 0)
        rc = read_map(v, o.base, err);
    if (rc == 0)
        rc = read_records(v, err);
    if (rc == 0)
        rc = check_extents(v, err);
    if (rc < 0) {
        ps_volume_close(&v);
        return rc;
    }
    ps_uuid_text(v->members[o.base].sb.uuid, v->uuid);
    *out = v;
    return 0;
}

void ps_volume_close(struct ps_volume **volume)
{
    if (volume == NULL || *volume == NULL)
        return;
    struct ps_volume *v = *volume;
    ps_map_fini(&v->map);
    free(v->map_data);
    free(v->profiles);
    for (int i = 0; v->members != NULL && i < v->member_count; i++)
        ps_member_close(&v->members[i]);
    free(v->members);
    free(v);
    *volume = NULL;
}

const char *ps_volume_uuid(const struct ps_volume *volume)
{
    return volume->uuid;
}

uint64_t ps_volume_content(const struct ps_volume *volume)
{
    const struct ps_map *map = &volume->map;
    uint64_t pair[2] = {0, 0};

    for (uint64_t i = 0; i < map->header->slice_count; i++) {
        pair[1] = map->slices[i].checksum;
        pair[0] = ps_checksum(pair, sizeof(pair));
    }
    for (uint64_t i = 0; i < map->header->blob_count; i++) {
        pair[1] = map->blobs[i].checksum;
        pair[0] = ps_checksum(pair, sizeof(pair));
    }
    return pair[0];
}

uint32_t ps_volume_align_bytes(const struct ps_volume *volume)
{
    return volume->map.header->align;
}

int ps_volume_member_count(const struct ps_volume *volume)
{
    return volume->member_count;
}

void ps_volume_member(const struct ps_volume *volume, int member, struct ps_member_info *info)
{
    const struct ps_member *m = &volume->members[member];
    *info = (struct ps_member_info){
        .path = m->path,
        .bytes = m->sb.member_bytes,
        .data_begin_bytes = volume->map.extents[member].data_begin,
        .data_end_bytes = volume->map.extents[member].data_end,
        .is_device = m->is_device,
        .is_missing = m->fd < 0,
    };
}

uint32_t ps_volume_object_count(const struct ps_volume *volume)
{
    return volume->map.header->object_count;
}

void ps_volume_object(const struct ps_volume *volume, uint32_t object, struct ps_object_info *info)
{
    const struct ps_disk_object *o = &volume->map.objects[object];
    *info = (struct ps_object_info){
        .kind = (enum ps_object_kind)o->kind,
        .group = o->group,
        .index = o->index,
        .name = ps_map_name(&volume->map, object),
        .bytes = o->bytes,
        .slice_count = o->slice_count,
    };
}

void ps_volume_slice(const struct ps_volume *volume, uint32_t object, uint32_t slice,
                     struct ps_slice_info *info)
{
    const struct ps_disk_slice *s = ps_map_slice(&volume->map, object, slice);
    *info = (struct ps_slice_info){
        .offset_bytes = s->offset_bytes,
        .bytes = s->bytes,
        .unit_begin = s->unit_begin,
        .unit_count = s->unit_count,
        .piece_count = s->piece_count,
    };
}

void ps_volume_piece(const struct ps_volume *volume, uint32_t object, uint32_t slice,
                     uint32_t piece, struct ps_piece_info *info)
{
    const struct ps_disk_slice *s = ps_map_slice(&volume->map, object, slice);
    const struct ps_disk_piece *p = &volume->map.pieces[s->first_piece + piece];
    *info = (struct ps_piece_info){
        .member = p->member, .bytes = p->bytes, .offset_bytes = p->offset_bytes};
}

int64_t ps_volume_find_streamed(const struct ps_volume *volume, uint32_t group, uint32_t index)
{
    return ps_map_find_address(&volume->map, group, index);
}

int64_t ps_volume_find_resident(const struct ps_volume *volume, const char *name)
{
    int64_t object = ps_map_find_name(&volume->map, name);
    if (object >= 0 && volume->map.objects[object].kind != PS_OBJECT_RESIDENT)
        return -ENOENT;
    return object;
}

int ps_volume_metadata(const struct ps_volume *volume, const char *name, const void **data,
                       uint64_t *bytes)
{
    const struct ps_map *map = &volume->map;
    for (uint32_t i = 0; i < map->header->blob_count; i++) {
        if (strcmp(map->blobs[i].name, name) == 0) {
            *data = (const uint8_t *)map->header + map->blobs[i].offset_bytes;
            *bytes = map->blobs[i].bytes;
            return 0;
        }
    }
    return -ENOENT;
}

uint64_t ps_volume_memory_bytes(const struct ps_volume *volume)
{
    return sizeof(*volume) +
           (uint64_t)volume->member_count * (sizeof(*volume->members) + sizeof(*volume->profiles)) +
           volume->map_bytes +
           2 * sizeof(uint32_t) * ((uint64_t)volume->map.header->object_count + 1);
}

int ps_volume_fd(const struct ps_volume *volume, int member)
{
    return volume->members[member].fd;
}

int ps_volume_reopen(const struct ps_volume *volume, int member, int flags)
{
    char path[64];
    const struct ps_member *m = &volume->members[member];
    if (m->fd < 0)
        return -ENODEV;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", m->fd);
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) /* no /proc here: the path is the next best */
        fd = open(m->path, flags | O_CLOEXEC);
    return fd >= 0 ? fd : -errno;
}

uint64_t ps_volume_slice_checksum(const struct ps_volume *volume, uint32_t object, uint32_t slice)
{
    return ps_map_slice(&volume->map, object, slice)->checksum;
}

uint32_t ps_volume_copy_count(const struct ps_volume *volume)
{
    return ps_map_copy_count(&volume->map);
}

const struct ps_member_profile *ps_volume_profile(const struct ps_volume *volume, int member)
{
    return volume->has_profiles ? &volume->profiles[member] : NULL;
}

/* The block device that a member is, or whose file system it lies on; 0 where it cannot be told. */
static dev_t device_under(const struct ps_member *m)
{
    struct stat st;
    if (m->fd < 0 || fstat(m->fd, &st) != 0)
        return 0;
    return m->is_device ? st.st_rdev : st.st_dev;
}

int ps_volume_member_node(const struct ps_volume *volume, int member)
{
    dev_t device = device_under(&volume->members[member]);
    return device != 0 ? ps_identity_node(device) : -1;
}

uint64_t ps_volume_member_drive(const struct ps_volume *volume, int member)
{
    dev_t device = device_under(&volume->members[member]);
    return device != 0 ? ps_identity_drive(device) : 0;
}

const struct ps_disk_piece *ps_volume_slice_pieces(const struct ps_volume *volume, uint32_t object,
                                                   uint32_t slice, uint32_t copy, uint32_t *count)
{
    const struct ps_map *map = &volume->map;
    *count = ps_map_slice(map, object, slice)->piece_count;
    return ps_map_pieces(map, map->objects[object].first_slice + slice, copy);
}

const char *ps_volume_slice_text(const struct ps_volume *volume, uint32_t object, uint32_t slice,
                                 char *buf, size_t buf_bytes)
{
    return ps_volume_copy_text(volume, object, slice, 0, buf, buf_bytes);
}

const char *ps_volume_copy_text(const struct ps_volume *volume, uint32_t object, uint32_t slice,
                                uint32_t copy, char *buf, size_t buf_bytes)
{
    const struct ps_disk_object *o = &volume->map.objects[object];
    const struct ps_disk_slice *s = ps_map_slice(&volume->map, object, slice);
    const struct ps_disk_piece *pieces = ps_map_pieces(&volume->map, o->first_slice + slice, copy);
    size_t at = 0;
    int n = snprintf(buf, buf_bytes, "%s, slice %u of %u (", ps_map_name(&volume->map, object),
                     slice + 1, o->slice_count);
    for (uint32_t i = 0; i < s->piece_count; i++) {
        at += n > 0 ? (size_t)n : 0;
        if (at >= buf_bytes)
            return buf;
        const struct ps_disk_piece *p = &pieces[i];
        n = snprintf(buf + at, buf_bytes - at, "%sbytes %llu to %llu of %s", i > 0 ? "; " : "",
                     (unsigned long long)p->offset_bytes,
                     (unsigned long long)(p->offset_bytes + p->bytes - 1),
                     volume->members[p->member].path);
    }
    at += n > 0 ? (size_t)n : 0;
    if (at < buf_bytes)
        snprintf(buf + at, buf_bytes - at, ")");
    return buf;
}
