#include "nvme/volume.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/identity.h"
#include "nvme/raw_io.h"
#include "nvme/volume_internal.h"

static int check_state(const struct ps_member *m, struct ps_error *err)
{
    if (m->sb.state == PS_VOLUME_COMPLETE)
        return 0;
    if (m->sb.state == PS_VOLUME_WIPED)
        return ps_error_set(err, -PS_ERR_FORMAT, m->path,
                            "this member was being wiped; finish it with `penstock wipe`");
    return ps_error_set(err, -PS_ERR_INCOMPLETE, m->path,
                        "the layout of this volume was stopped before it finished; continue it "
                        "with `penstock layout --resume`, or give it back with `penstock wipe`");
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
    int rc = check_state(m, err);
    if (rc < 0)
        return rc;
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
    rc = check_size(m, err);
    if (rc < 0)
        return rc;
    *slot = *m;
    m->fd = -1;
    return 0;
}

static int open_named(struct ps_volume *v, const char *const *paths, int path_count, int *named,
                      struct ps_error *err)
{
    for (int i = 0; i < path_count; i++) {
        struct ps_member m;
        int rc = ps_member_open(&m, paths[i], err);
        if (rc < 0)
            return rc;
        if (i == 0) {
            *named = (int)m.sb.member;
            v->member_count = (int)m.sb.member_count;
            v->members = calloc(m.sb.member_count, sizeof(*v->members));
            if (v->members == NULL) {
                ps_member_close(&m);
                return ps_error_set(err, -ENOMEM, paths[i], "not enough memory");
            }
            for (int j = 0; j < v->member_count; j++)
                v->members[j].fd = -1;
        }
        rc = place_member(v, &m, i == 0 ? &m : &v->members[*named], err);
        if (rc < 0) {
            ps_member_close(&m);
            return rc;
        }
    }
    return 0;
}

static int find_others(struct ps_volume *v, int named, struct ps_error *err)
{
    int missing = 0;
    for (int i = 0; i < v->member_count; i++)
        missing += v->members[i].fd < 0;
    if (missing == 0)
        return 0;
    struct ps_disk_table *table = NULL;
    struct ps_error why = {0};
    for (int i = 0; table == NULL && i < v->member_count; i++) {
        const struct ps_member *m = &v->members[(named + i) % v->member_count];
        if (m->fd >= 0 && ps_member_table_read(m, &table, &why) < 0)
            ps_log(PS_LOG_WARN, "%s: %s", why.where, why.text);
    }
    int rc = 0;
    for (int i = 0; rc == 0 && i < v->member_count; i++) {
        if (v->members[i].fd >= 0)
            continue;
        struct ps_member m;
        rc = ps_member_find(&m, &v->members[named], table, (uint32_t)i, err);
        if (rc < 0)
            break;
        rc = place_member(v, &m, &v->members[named], err);
        if (rc < 0)
            ps_member_close(&m);
    }
    free(table);
    return rc;
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
        if (e->data_begin != sb->data_begin || e->data_end != sb->data_end)
            return ps_error_set(err, -PS_ERR_FORMAT, v->members[i].path,
                                "the volume's map does not belong to this member");
        /* What was read buffered is not needed again; the page cache is not ours to fill. */
        if (!v->members[i].is_device)
            posix_fadvise(v->members[i].fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    return 0;
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
    int named = 0;
    int rc = open_named(v, paths, path_count, &named, err);
    if (rc == 0)
        rc = find_others(v, named, err);
    if (rc == 0)
        rc = read_map(v, named, err);
    if (rc == 0)
        rc = check_extents(v, err);
    if (rc < 0) {
        ps_volume_close(&v);
        return rc;
    }
    ps_uuid_text(v->members[named].sb.uuid, v->uuid);
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
        .data_begin_bytes = m->sb.data_begin,
        .data_end_bytes = m->sb.data_end,
        .is_device = m->is_device,
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
    return sizeof(*volume) + (uint64_t)volume->member_count * sizeof(*volume->members) +
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
    (void)volume;
    (void)member;
    return NULL;
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
