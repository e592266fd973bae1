#include "nvme/device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/util.h"
#include "nvme/identity.h"
#include "nvme/in_use.h"
#include "nvme/raw_io.h"

/* The larger units that the drive asks for, where they are plausible as an alignment. */
static uint32_t device_align(int fd)
{
    unsigned physical_bytes = 0, io_min_bytes = 0;
    uint32_t align = PS_FORMAT_ALIGN_MIN;
    ioctl(fd, BLKPBSZGET, &physical_bytes);
    ioctl(fd, BLKIOMIN, &io_min_bytes);
    unsigned wanted[2] = {physical_bytes, io_min_bytes};
    for (int i = 0; i < 2; i++) {
        /* A RAID reports its chunk as io_min; padding every slice to 512 KiB would only waste. */
        bool power = wanted[i] != 0 && (wanted[i] & (wanted[i] - 1)) == 0;
        if (power && wanted[i] <= PS_FORMAT_ALIGN_MAX && wanted[i] > align)
            align = wanted[i];
    }
    return align;
}

static int open_error(int code, const char *path, struct ps_error *err)
{
    if (code == -EBUSY)
        return ps_error_set(err, -PS_ERR_IN_USE, path,
                            "the device is in use by the kernel or by another program");
    if (code == -EACCES || code == -EPERM)
        return ps_error_set(err, code, path,
                            "no permission to write it; for a drive, run as root or join its "
                            "group");
    if (code == -EROFS)
        return ps_error_set(err, code, path, "it is read-only");
    return ps_error_set(err, code, path, "cannot open it for writing: %s", ps_strerror(code));
}

/* Locks an open descriptor, unless the caller has done so, and learns what it is. */
static int examine(struct ps_target *t, bool is_held, struct ps_error *err)
{
    struct stat st;
    if (fstat(t->fd, &st) != 0)
        return open_error(-errno, t->path, err);
    int rc = ps_raw_size(t->fd, &t->bytes, &t->is_device);
    if (rc < 0)
        return ps_error_set(err, rc, t->path, "a member is a plain file or a block device: %s",
                            ps_strerror(rc));
    int read_only = 0;
    if (t->is_device && ioctl(t->fd, BLKROGET, &read_only) == 0 && read_only != 0)
        return open_error(-EROFS, t->path, err);
    t->file_dev = st.st_dev;
    t->file_ino = st.st_ino;
    t->device = t->is_device ? st.st_rdev : 0;
    t->node = ps_identity_node(t->is_device ? t->device : t->file_dev);
    t->align_bytes = t->is_device ? device_align(t->fd) : PS_FORMAT_ALIGN_MIN;
    if (realpath(t->path, t->real_path) == NULL)
        return open_error(-errno, t->path, err);
    /* Without locks the superblocks still guard against readers. */
    if (!is_held && ps_raw_lock(t->fd, LOCK_EX) == -EWOULDBLOCK)
        return ps_error_set(err, -PS_ERR_IN_USE, t->path,
                            "another process has this volume open; stop it first");
    if (t->bytes == 0)
        return 0;
    t->is_member = ps_superblock_read(t->fd, t->path, &t->pair, NULL) == 0;
    if (t->is_member)
        t->sb = t->pair.copy[t->pair.best];
    return 0;
}

static int open_existing(struct ps_target *target, const char *path, bool is_held,
                         struct ps_error *err)
{
    struct ps_target t = {.fd = -1, .path = path};
    struct stat st;
    int flags = O_RDWR | O_CLOEXEC;
    int rc;
    if (stat(path, &st) != 0)
        return open_error(-errno, path, err);
    if (S_ISDIR(st.st_mode) || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))) {
        rc = S_ISDIR(st.st_mode) ? -EISDIR : -ENOTBLK;
        return ps_error_set(err, rc, path, "a member is a plain file or a block device: %s",
                            ps_strerror(rc));
    }
    if (S_ISBLK(st.st_mode)) {
        flags |= O_EXCL;
        rc = ps_in_use_device(st.st_rdev, path, err);
    } else if (realpath(path, t.real_path) == NULL) {
        rc = open_error(-errno, path, err);
    } else {
        rc = ps_in_use_file(st.st_dev, st.st_ino, t.real_path, err);
    }
    if (rc < 0)
        return rc;
    t.fd = open(path, flags);
    if (t.fd < 0)
        return open_error(-errno, path, err);
    rc = examine(&t, is_held, err);
    if (rc < 0) {
        ps_target_close(&t, false);
        return rc;
    }
    *target = t;
    return 0;
}

int ps_target_open(struct ps_target *target, const char *path, struct ps_error *err)
{
    return open_existing(target, path, false, err);
}

int ps_target_open_held(struct ps_target *target, const char *path, struct ps_error *err)
{
    return open_existing(target, path, true, err);
}

/* The folder that path lies in, links resolved, into folder[PATH_MAX]. */
static int folder_of(const char *path, char *folder)
{
    char copy[PATH_MAX];
    if (strlen(path) >= sizeof(copy))
        return -ENAMETOOLONG;
    memcpy(copy, path, strlen(path) + 1);
    char *slash = strrchr(copy, '/');
    if (slash != NULL)
        slash[slash == copy ? 1 : 0] = 0;
    return realpath(slash != NULL ? copy : ".", folder) != NULL ? 0 : -errno;
}

/* A mistyped device must not become a file in memory; /dev/shm is a file system of its own. */
static bool is_device_folder(const char *folder)
{
    struct stat st, dev;
    if (strcmp(folder, "/dev") != 0 && strncmp(folder, "/dev/", 5) != 0)
        return false;
    return stat(folder, &st) != 0 || stat("/dev", &dev) != 0 || st.st_dev == dev.st_dev;
}

static void sync_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

int ps_target_open_or_create(struct ps_target *target, const char *path, struct ps_error *err)
{
    struct stat st;
    if (stat(path, &st) == 0 || errno != ENOENT)
        return ps_target_open(target, path, err);
    char folder[PATH_MAX];
    int rc = folder_of(path, folder);
    if (rc < 0)
        return ps_error_set(err, rc, path, "the folder for this file cannot be used: %s",
                            ps_strerror(rc));
    if (is_device_folder(folder))
        return ps_error_set(err, -ENOENT, path,
                            "there is no such device, and files are never created under /dev");
    struct ps_target t = {.path = path, .created = true};
    t.fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (t.fd < 0) {
        rc = -errno;
        if (rc == -EEXIST && stat(path, &st) == 0) /* somebody else has just created it */
            return ps_target_open(target, path, err);
        return ps_error_set(err, rc, path, "the file cannot be created: %s",
                            rc == -EEXIST ? "it is a link to something that is not there"
                                          : ps_strerror(rc));
    }
    rc = examine(&t, false, err);
    if (rc < 0) {
        /* Somebody else may have locked it since: then it is theirs. */
        ps_target_close(&t, rc != -PS_ERR_IN_USE);
        return rc;
    }
    sync_folder(folder);
    *target = t;
    return 0;
}

void ps_target_close(struct ps_target *target, bool remove_created)
{
    if (target->fd >= 0) {
        if (remove_created && target->created)
            unlink(target->path);
        close(target->fd);
    }
    *target = (struct ps_target){.fd = -1};
}

int ps_target_check_distinct(const struct ps_target *targets, int count, struct ps_error *err)
{
    for (int i = 0; i < count; i++) {
        for (int j = 0; j < i; j++) {
            const struct ps_target *a = &targets[i], *b = &targets[j];
            bool same = a->file_dev == b->file_dev && a->file_ino == b->file_ino;
            bool same_device = a->is_device && b->is_device && a->device == b->device;
            if (same || same_device)
                return ps_error_set(err, -PS_ERR_MEMBER, a->path,
                                    "this is the same as '%s'; name each member once", b->path);
            if (a->is_device && b->is_device &&
                (ps_identity_drive(a->device) == b->device ||
                 ps_identity_drive(b->device) == a->device))
                return ps_error_set(err, -PS_ERR_MEMBER, a->path,
                                    "this and '%s' are a drive and a partition of it", b->path);
        }
    }
    return 0;
}

static int list_losses(const struct ps_target *t, struct ps_identities *list, struct ps_error *err)
{
    char uuid[37];
    if (!t->is_device && t->bytes == 0)
        return 0;
    if (t->is_member) {
        ps_uuid_text(t->sb.uuid, uuid);
        ps_identities_add(list, "penstock", uuid);
    }
    if (t->is_device)
        return ps_probe_signatures(t->fd, t->path, list, err);
    if (!t->is_member) {
        char id[NAME_MAX + 32];
        const char *slash = strrchr(t->real_path, '/');
        snprintf(id, sizeof(id), "%.255s:%llu", slash != NULL ? slash + 1 : t->real_path,
                 (unsigned long long)t->bytes);
        ps_identities_add(list, "file", id);
    }
    return 0;
}

static bool allowed(const char *identity, const char *const *destroy, int destroy_count)
{
    for (int i = 0; i < destroy_count; i++) {
        if (strcmp(identity, destroy[i]) == 0)
            return true;
    }
    return false;
}

/* " --destroy 'IDENTITY'", as a shell takes it: a file's name may hold quotes of its own. */
static void option_text(const char *identity, char *text, size_t text_bytes)
{
    size_t at = (size_t)snprintf(text, text_bytes, " --destroy '");
    for (; *identity != 0 && at + 6 < text_bytes; identity++)
        at += (size_t)snprintf(text + at, text_bytes - at, *identity == '\'' ? "'\\''" : "%c",
                               *identity);
    snprintf(text + at, text_bytes - at, "'");
}

int ps_target_consent(const struct ps_target *target, const char *const *destroy, int destroy_count,
                      struct ps_error *err)
{
    struct ps_identities losses = {0};
    int rc = list_losses(target, &losses, err);
    if (rc < 0)
        return rc;
    char options[384] = "";
    size_t at = 0;
    bool denied = false;
    for (int i = 0; i < losses.count; i++) {
        if (allowed(losses.text[i], destroy, destroy_count))
            continue;
        denied = true;
        char option[384];
        option_text(losses.text[i], option, sizeof(option));
        int n = snprintf(options + at, sizeof(options) - at, "%s", option);
        if (n < 0 || (size_t)n >= sizeof(options) - at) {
            options[at] = 0; /* the rest is named on the next try */
            break;
        }
        at += (size_t)n;
    }
    if (!denied)
        return 0;
    if (target->is_member && target->sb.state == PS_VOLUME_IN_PROGRESS &&
        strstr(options, "penstock:") != NULL)
        return ps_error_set(err, -PS_ERR_INCOMPLETE, target->path,
                            "a layout was stopped here; continue it with --resume, or lose it "
                            "with%s",
                            options);
    return ps_error_set(err, -PS_ERR_WOULD_DESTROY, target->path,
                        "writing would destroy what is here; if that may be lost, add%s", options);
}

/*
 * mkfs leaves the second superblock where it is, and mdadm or zpool even the first: the marks of a
 * volume do not tell that it is still there. Where the first one does, a drive that fails elsewhere
 * may be given back.
 */
int ps_target_check_alone(const struct ps_target *target, struct ps_error *err)
{
    static const uint8_t erased[8];
    const uint8_t *magic = target->pair.copy[0].magic;
    struct ps_identities others = {0};
    struct ps_error reason = {0};
    /* Encrypted without a header: no signature tells, but a superblock that is torn or was erased
     * begins otherwise, and so does one that cannot be read. */
    if (!target->pair.valid[0] && target->pair.valid[1] &&
        memcmp(magic, PS_SUPERBLOCK_MAGIC, sizeof(erased)) != 0 &&
        memcmp(magic, erased, sizeof(erased)) != 0)
        return ps_error_set(err, -PS_ERR_WOULD_DESTROY, target->path,
                            "only the end of this volume's member is left, and something else "
                            "begins here, so it is left alone; if that may be lost, zero the first "
                            "4096 bytes");
    int rc = ps_probe_signatures(target->fd, target->path, &others, &reason);
    if (others.count > 0)
        return ps_error_set(err, -PS_ERR_WOULD_DESTROY, target->path,
                            "%s has been made over this volume's member, so it is left alone; if "
                            "that may be lost, erase its signature with wipefs first",
                            others.text[0]);
    if (rc == 0 || target->pair.valid[0])
        return 0;
    return ps_error_set(err, rc, reason.where, "%s", reason.text);
}

int ps_target_clear(const struct ps_target *target, struct ps_error *err)
{
    int rc;
    if (target->is_device) {
        rc = ps_probe_wipe(target->fd, target->path, err);
        if (rc < 0)
            return rc;
    } else if (target->bytes > 0 && ftruncate(target->fd, 0) != 0) {
        rc = -errno;
        return ps_error_set(err, rc, target->path, "the old content cannot be removed: %s",
                            ps_strerror(rc));
    }
    if (fsync(target->fd) != 0) {
        rc = -errno;
        return ps_error_set(err, rc, target->path, "cannot flush: %s", ps_strerror(rc));
    }
    if (target->is_device)
        ioctl(target->fd, BLKRRPART); /* so that the kernel forgets partitions that are gone */
    return 0;
}

void ps_target_set_direct(const struct ps_target *target)
{
    int flags = fcntl(target->fd, F_GETFL);
    if (flags >= 0)
        fcntl(target->fd, F_SETFL, flags | O_DIRECT);
}
