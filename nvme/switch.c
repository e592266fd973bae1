#include "nvme/switch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/raw_io.h"

void ps_switch_finalize(struct ps_disk_superblock *sb)
{
    memset(sb->origin, 0, sizeof(sb->origin));
    ps_superblock_seal(sb);
}

static int flush(const struct ps_switch *s, struct ps_error *err)
{
    for (uint32_t m = 0; m < s->count; m++) {
        if (fdatasync(s->targets[m].fd) != 0)
            return ps_error_set(err, -errno, s->targets[m].path,
                                "cannot write to the drive: %s; continue with --resume",
                                ps_strerror(-errno));
    }
    return 0;
}

static int put(const struct ps_target *t, const void *data, size_t bytes, uint64_t offset,
               struct ps_error *err)
{
    int rc = ps_raw_write(t->fd, data, bytes, offset);
    if (rc < 0)
        ps_error_set(err, rc, t->path, "cannot write the superblock: %s; continue with --resume",
                     ps_strerror(rc));
    return rc;
}

/*
 * Second copies first: while the first one is written, and may be torn, the second is either the
 * new volume's (after the data of a file that grew, or in the one place on a device) or the old
 * one's (at the end of a file that will shrink). So a member is always one of the two.
 */
static int change_over(const struct ps_switch *s, struct ps_error *err)
{
    int rc = 0;
    for (int copy = 1; rc == 0 && copy >= 0; copy--) {
        for (uint32_t m = 0; rc == 0 && m < s->count; m++) {
            if (s->stages[m] != 0)
                rc = put(&s->targets[m], &s->sb[m], sizeof(s->sb[m]),
                         copy == 0 ? 0 : s->sb[m].second_offset, err);
        }
        if (rc == 0)
            rc = flush(s, err);
    }
    return rc;
}

/* ---- members that leave ---------------------------------------------------------------------- */

bool ps_switch_keeps(const struct ps_switch *s, const struct stat *st)
{
    for (uint32_t m = 0; m < s->count; m++) {
        const struct ps_target *t = &s->targets[m];
        if ((t->file_dev == st->st_dev && t->file_ino == st->st_ino) ||
            (t->is_device && S_ISBLK(st->st_mode) && t->device == st->st_rdev))
            return true;
    }
    return false;
}

/* Gives one member back, if it is one of the volume with this UUID and not of the new one. */
static void give_back(const struct ps_switch *s, const char *path, const uint8_t uuid[16],
                      bool is_held)
{
    struct ps_error err = {0};
    struct ps_target t;
    struct stat st;
    if (stat(path, &st) != 0 || ps_switch_keeps(s, &st))
        return;
    int rc = is_held ? ps_target_open_held(&t, path, &err) : ps_target_open(&t, path, &err);
    if (rc == 0) {
        if (t.is_member && memcmp(t.sb.uuid, uuid, sizeof(t.sb.uuid)) == 0) {
            rc = ps_target_check_alone(&t, &err);
            rc = rc == 0 ? ps_target_give_back(&t, &err) : rc;
        }
        ps_target_close(&t, false);
    }
    if (rc < 0)
        ps_log(
            PS_LOG_WARN,
            "%s: it still carries the old volume's marks (%s); give it back with `penstock wipe`",
            path, err.text);
}

/* The path that a member table gives, seen from the member `named`. */
static void resolve(const struct ps_member *named, const char *recorded, char path[PATH_MAX])
{
    char folder[PATH_MAX];
    if (recorded[0] == '/' || realpath(named->path, folder) == NULL) {
        snprintf(path, PATH_MAX, "%s", recorded);
        return;
    }
    *(strrchr(folder, '/') + 1) = 0;
    if (snprintf(path, PATH_MAX, "%s%s", folder, recorded) >= PATH_MAX)
        path[0] = 0;
}

/*
 * All members of the old volume but `named`, where its table says that they are. Not by UUID among
 * whatever else there is: a copy that somebody keeps is not ours to remove.
 */
static void give_back_others(const struct ps_switch *s, const struct ps_member *named)
{
    struct ps_disk_table *table = NULL;
    char path[PATH_MAX];
    if (ps_member_table_read(named, &table, NULL) < 0)
        return;
    for (uint32_t number = 0; number < named->sb.member_count; number++) {
        if (number == named->sb.member)
            continue;
        resolve(named, ps_table_peer(table, number)->path, path);
        give_back(s, path, named->sb.uuid, false);
    }
    free(table);
}

/* Finds the old volume's members from what the stage of member m keeps of it. */
static void give_back_by_former(const struct ps_switch *s, uint32_t m)
{
    struct ps_disk_superblock *former = ps_raw_alloc(sizeof(*former));
    const struct ps_target *t = &s->targets[m];
    if (former != NULL &&
        ps_raw_read(t->fd, former, sizeof(*former), s->stages[m] + PS_STAGE_FORMER_OFFSET) == 0 &&
        ps_superblock_check(former, t->path, NULL) == 0) {
        struct ps_member named = {.fd = t->fd, .path = (char *)t->path, .sb = *former};
        give_back_others(s, &named);
        for (int i = 0; i < s->path_count; i++)
            give_back(s, s->paths[i], former->uuid, false);
    }
    free(former);
}

/* A member of the old volume that was named, and all that its table leads to. */
static void give_back_named(const struct ps_switch *s, const char *path)
{
    struct ps_superblock_pair pair;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return;
    if (fstat(fd, &st) == 0 && !ps_switch_keeps(s, &st) &&
        ps_superblock_read(fd, path, &pair, NULL) == 0) {
        struct ps_member named = {.fd = fd, .path = (char *)path, .sb = pair.copy[pair.best]};
        if (memcmp(named.sb.fingerprint, s->sb[0].fingerprint, sizeof(named.sb.fingerprint)) == 0) {
            give_back_others(s, &named);
            give_back(s, path, named.sb.uuid, false);
        }
    }
    close(fd);
}

/*
 * The member that the volume was named by is the last: from it a resume, which is named the same,
 * finds the others.
 */
static void give_back_leaving(const struct ps_switch *s)
{
    if (s->old != NULL) {
        int last = ps_volume_find_path(s->old, s->paths[0]);
        for (int i = 1; i <= s->old->member_count; i++) {
            const struct ps_member *m = &s->old->members[(last + i) % s->old->member_count];
            if (m->fd >= 0)
                give_back(s, m->path, m->sb.uuid, true);
        }
        return;
    }
    for (uint32_t m = 0; m < s->count; m++) {
        if (s->stages[m] != 0)
            give_back_by_former(s, m);
    }
    for (int i = 0; i < s->path_count; i++)
        give_back_named(s, s->paths[i]);
}

/* ---- what is left where the volumes lay side by side ----------------------------------------- */

static int clear_stages(const struct ps_switch *s, struct ps_error *err)
{
    size_t bytes = (size_t)3 * PS_SUPERBLOCK_BYTES;
    uint8_t *zeroes = ps_raw_alloc(bytes);
    int rc = zeroes != NULL ? 0 : ps_error_set(err, -ENOMEM, "rebalance", "not enough memory");
    for (uint32_t m = 0; rc == 0 && m < s->count; m++) {
        if (s->stages[m] != 0)
            rc = put(&s->targets[m], zeroes, bytes, s->stages[m], err);
    }
    free(zeroes);
    return rc < 0 ? rc : flush(s, err);
}

void ps_switch_free_space(const struct ps_switch *s)
{
    for (uint32_t m = 0; m < s->count; m++) {
        const struct ps_target *t = &s->targets[m];
        const struct ps_disk_superblock *sb = &s->sb[m];
        struct stat st;
        if (t->is_device || fstat(t->fd, &st) != 0)
            continue;
        int rc = 0;
        if ((uint64_t)st.st_size > sb->member_bytes)
            rc = ftruncate(t->fd, (off_t)sb->member_bytes);
        if (rc == 0 && ps_superblock_shift(sb) > 0)
            rc = fallocate(t->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PS_SUPERBLOCK_BYTES,
                           (off_t)ps_superblock_shift(sb));
        if (rc != 0)
            ps_log(PS_LOG_INFO, "%s: the old volume's space in it stays taken (%s)", t->path,
                   ps_strerror(-errno));
    }
}

int ps_switch_run(const struct ps_switch *s, struct ps_error *err)
{
    int rc = change_over(s, err);
    if (rc == 0) {
        give_back_leaving(s);
        rc = clear_stages(s, err);
    }
    if (rc == 0)
        ps_switch_free_space(s);
    return rc;
}
