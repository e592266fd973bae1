#include "nvme/member.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/log.h"
#include "nvme/identity.h"
#include "nvme/raw_io.h"

static int open_error(int code, const char *path, struct ps_error *err)
{
    if (code == -EACCES || code == -EPERM)
        return ps_error_set(err, code, path,
                            "no permission to read it; for a drive, join its group (often "
                            "'disk') or run as root");
    return ps_error_set(err, code, path, "cannot open the volume's member: %s", ps_strerror(code));
}

int ps_member_open(struct ps_member *member, const char *path, struct ps_error *err)
{
    struct ps_member m = {.fd = -1};
    /* O_NONBLOCK: opening a FIFO by mistake must not hang; reads of files do not heed it. */
    m.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (m.fd < 0)
        return open_error(-errno, path, err);
    int rc = ps_raw_size(m.fd, &m.bytes, &m.is_device);
    if (rc < 0) {
        ps_error_set(err, rc, path, "a volume's member is a file or a block device: %s",
                     ps_strerror(rc));
        goto fail;
    }
    rc = ps_raw_lock(m.fd, LOCK_SH);
    if (rc == -EWOULDBLOCK) {
        rc = ps_error_set(err, -PS_ERR_IN_USE, path,
                          "another process is writing this member; wait until it has finished");
        goto fail;
    }
    if (rc < 0)
        ps_log(PS_LOG_WARN, "%s: the file system does not lock files (%s)", path, ps_strerror(rc));
    rc = ps_superblock_read(m.fd, path, &m.pair, err);
    if (rc < 0)
        goto fail;
    m.sb = m.pair.copy[m.pair.best];
    if (!m.pair.valid[0])
        ps_log(PS_LOG_WARN, "%s: the first superblock is damaged; using the second", path);
    m.path = strdup(path);
    if (m.path == NULL) {
        rc = ps_error_set(err, -ENOMEM, path, "not enough memory");
        goto fail;
    }
    *member = m;
    return 0;
fail:
    close(m.fd);
    return rc;
}

void ps_member_close(struct ps_member *member)
{
    if (member->fd >= 0)
        close(member->fd);
    free(member->path);
    *member = (struct ps_member){.fd = -1};
}

static bool text_ends(const char *text, size_t bytes)
{
    return memchr(text, 0, bytes) != NULL;
}

int ps_member_table_read(const struct ps_member *member, struct ps_disk_table **table,
                         struct ps_error *err)
{
    const struct ps_disk_superblock *sb = &member->sb;
    /* The superblock allows slack after the entries; what a layout writes is below one MiB. */
    if (sb->table_bytes > 1u << 20)
        return ps_error_set(err, -PS_ERR_FORMAT, member->path, "the member table is too large");
    struct ps_disk_table *t = ps_raw_alloc(sb->table_bytes);
    if (t == NULL)
        return ps_error_set(err, -ENOMEM, member->path, "not enough memory");
    int rc = ps_raw_read(member->fd, t, sb->table_bytes, sb->table_offset);
    if (rc < 0) {
        ps_error_set(err, rc, member->path, "cannot read the member table: %s", ps_strerror(rc));
        goto fail;
    }
    bool sound = XXH3_64bits(t, sb->table_bytes) == sb->table_checksum &&
                 memcmp(t->magic, PS_TABLE_MAGIC, sizeof(t->magic)) == 0 &&
                 memcmp(t->uuid, sb->uuid, sizeof(t->uuid)) == 0 && t->member == sb->member &&
                 t->member_count == sb->member_count;
    for (uint32_t i = 0; sound && i < t->member_count; i++) {
        const struct ps_disk_peer *peer = ps_table_peer(t, i);
        sound = text_ends(peer->path, sizeof(peer->path)) &&
                text_ends(peer->partuuid, sizeof(peer->partuuid)) &&
                text_ends(peer->serial, sizeof(peer->serial));
    }
    if (!sound) {
        rc = ps_error_set(err, -PS_ERR_FORMAT, member->path, "the member table is damaged");
        goto fail;
    }
    *table = t;
    return 0;
fail:
    free(t);
    return rc;
}

/* ---- the search ------------------------------------------------------------------------------ */

struct search {
    const struct ps_member *named;
    uint32_t number;
    char folder[PATH_MAX]; /* of the named member, links resolved; empty if it cannot be told */
    struct ps_member *out;
    struct ps_error *err;
    int rc; /* > 0: still looking; 0: found; < 0: the best reason why not, so far */
};

/* Compares magic, UUID and number without locking or logging: most candidates are strangers. */
static bool peek(const struct search *s, const char *path)
{
    struct ps_disk_superblock sb;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    uint64_t bytes;
    bool is_device;
    bool same = false;
    struct ps_superblock_pair pair;
    if (ps_raw_size(fd, &bytes, &is_device) == 0 && bytes >= sizeof(sb) &&
        ps_superblock_read(fd, path, &pair, NULL) == 0) {
        sb = pair.copy[pair.best];
        same = memcmp(sb.uuid, s->named->sb.uuid, sizeof(sb.uuid)) == 0 && sb.member == s->number;
    }
    close(fd);
    return same;
}

/* Takes the candidate if it is the one; returns true when the search is over. */
static bool try_path(struct search *s, const char *path)
{
    if (!peek(s, path))
        return false;
    struct ps_member m;
    struct ps_error reason = {0};
    int rc = ps_member_open(&m, path, &reason);
    if (rc == 0 && m.sb.state != PS_VOLUME_COMPLETE) {
        rc = ps_superblock_stopped(&m.sb, path, &reason);
        ps_member_close(&m);
    }
    if (rc == 0) {
        *s->out = m;
        s->rc = 0;
        return true;
    }
    s->rc = rc;
    if (s->err != NULL)
        *s->err = reason;
    return false;
}

static bool try_beside(struct search *s, const char *name)
{
    char path[PATH_MAX];
    if (s->folder[0] == 0 || name[0] == 0 ||
        snprintf(path, sizeof(path), "%s/%s", s->folder, name) >= (int)sizeof(path))
        return false;
    return try_path(s, path);
}

static bool try_recorded(struct search *s, const struct ps_disk_peer *peer)
{
    if (peer->path[0] == 0)
        return false;
    if (peer->path[0] != '/')
        return try_beside(s, peer->path);
    return try_path(s, peer->path) || try_beside(s, strrchr(peer->path, '/') + 1);
}

/* Calls try_path for every block device, or only for those with this serial (when not NULL). */
static bool try_devices(struct search *s, const char *serial)
{
    DIR *dir = opendir("/sys/class/block");
    if (dir == NULL)
        return false;
    bool done = false;
    const struct dirent *entry;
    while (!done && (entry = readdir(dir)) != NULL) {
        char path[NAME_MAX + 8], found[64];
        if (entry->d_name[0] == '.')
            continue;
        if (serial != NULL) {
            ps_identity_serial(entry->d_name, found);
            if (strcmp(found, serial) != 0)
                continue;
        }
        snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
        done = try_path(s, path);
    }
    closedir(dir);
    return done;
}

static bool try_identity(struct search *s, const struct ps_disk_peer *peer)
{
    char path[128];
    if (peer->partuuid[0] != 0 && strchr(peer->partuuid, '/') == NULL) {
        snprintf(path, sizeof(path), "/dev/disk/by-partuuid/%s", peer->partuuid);
        if (try_path(s, path))
            return true;
    }
    return peer->serial[0] != 0 && try_devices(s, peer->serial);
}

static bool try_folder(struct search *s)
{
    DIR *dir = s->folder[0] != 0 ? opendir(s->folder) : NULL;
    if (dir == NULL)
        return false;
    bool done = false;
    const struct dirent *entry;
    while (!done && (entry = readdir(dir)) != NULL) {
        if (entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN)
            done = try_beside(s, entry->d_name);
    }
    closedir(dir);
    return done;
}

int ps_member_find(struct ps_member *member, const struct ps_member *named,
                   const struct ps_disk_table *table, uint32_t number, struct ps_error *err)
{
    struct search s = {.named = named, .number = number, .out = member, .err = err, .rc = 1};
    const struct ps_disk_peer *peer = table != NULL ? ps_table_peer(table, number) : NULL;
    if (realpath(named->path, s.folder) != NULL) {
        char *slash = strrchr(s.folder, '/');
        slash[slash == s.folder ? 1 : 0] = 0;
    } else {
        s.folder[0] = 0;
    }
    if (peer != NULL && (try_recorded(&s, peer) || try_identity(&s, peer)))
        return 0;
    /* Files are searched for beside a file, devices everywhere. */
    bool plain = peer == NULL || !peer->is_device;
    if ((plain && try_folder(&s)) || ((peer == NULL || peer->is_device) && try_devices(&s, NULL)))
        return 0;
    if (s.rc < 0)
        return s.rc;
    return ps_error_set(
        err, -PS_ERR_MEMBER, named->path,
        "member %u of %u of this volume is missing%s%s%s; name its path too", number + 1,
        named->sb.member_count, peer != NULL && peer->path[0] != 0 ? ": it was last seen as '" : "",
        peer != NULL ? peer->path : "", peer != NULL && peer->path[0] != 0 ? "'" : "");
}
