#include "nvme/switch.h"

#include <errno.h>
#include <fcntl.h>
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

static bool is_kept(const struct ps_switch *s, const struct stat *st)
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
    if (stat(path, &st) != 0 || is_kept(s, &st))
        return;
    int rc = is_held ? ps_target_open_held(&t, path, &err) : ps_target_open(&t, path, &err);
    if (rc == 0) {
        if (t.is_member && memcmp(t.sb.uuid, uuid, sizeof(t.sb.uuid)) == 0)
            rc = ps_target_give_back(&t, &err);
        ps_target_close(&t, false);
    }
    if (rc < 0)
        ps_log(
            PS_LOG_WARN,
            "%s: it still carries the old volume's marks (%s); give it back with `penstock wipe`",
            path, err.text);
}

/* Finds the old volume's members from what the stage of member m keeps of it. */
static void give_back_by_former(const struct ps_switch *s, uint32_t m)
{
    struct ps_disk_superblock *former = ps_raw_alloc(sizeof(*former));
    struct ps_disk_table *table = NULL;
    const struct ps_target *t = &s->targets[m];
    if (former == NULL ||
        ps_raw_read(t->fd, former, sizeof(*former), s->stages[m] + PS_STAGE_FORMER_OFFSET) < 0 ||
        ps_superblock_check(former, t->path, NULL) < 0) {
        free(former);
        return;
    }
    struct ps_member named = {.fd = t->fd, .path = (char *)t->path, .sb = *former};
    ps_member_table_read(&named, &table, NULL);
    for (int i = 0; i < s->path_count; i++)
        give_back(s, s->paths[i], former->uuid, false);
    for (uint32_t number = 0; number < former->member_count; number++) {
        struct ps_member found;
        if (number == former->member || ps_member_find(&found, &named, table, number, NULL) < 0)
            continue;
        char *path = found.path;
        found.path = NULL;
        ps_member_close(&found); /* and with it the shared lock */
        give_back(s, path, former->uuid, false);
        free(path);
    }
    free(table);
    free(former);
}

static void give_back_leaving(const struct ps_switch *s)
{
    for (int i = 0; s->old != NULL && i < s->old->member_count; i++) {
        const struct ps_member *m = &s->old->members[i];
        if (m->fd >= 0)
            give_back(s, m->path, m->sb.uuid, true);
    }
    for (uint32_t m = 0; s->old == NULL && m < s->count; m++) {
        if (s->stages[m] != 0)
            give_back_by_former(s, m);
    }
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

/* Before the areas of a shifted volume, and after its second superblock, a file holds nothing. What
 * the file system refuses costs space and no more. */
static void free_space(const struct ps_switch *s)
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
        free_space(s);
    return rc;
}
