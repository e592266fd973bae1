#include "nvme/in_use.h"

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "nvme/identity.h"
#include "nvme/penstock_io.h"
#include "nvme/proc.h"

struct mount_query {
    dev_t device;
    char where[256];
};

/* proc(5): "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw" */
static bool mount_matches(void *ctx, char *line)
{
    struct mount_query *q = ctx;
    unsigned device_major, device_minor;
    char where[256], source[256];
    if (sscanf(line, "%*s %*s %u:%u %*s %255s", &device_major, &device_minor, where) != 3)
        return false;
    bool same = makedev(device_major, device_minor) == q->device;
    /* Some file systems (btrfs) show a device number of their own; then the source tells. */
    const char *dash = strstr(line, " - ");
    struct stat st;
    if (!same && dash != NULL && sscanf(dash + 3, "%*s %255s", source) == 1) {
        ps_proc_unescape(source);
        same = source[0] == '/' && stat(source, &st) == 0 && S_ISBLK(st.st_mode) &&
               st.st_rdev == q->device;
    }
    if (same) {
        ps_proc_unescape(where);
        memcpy(q->where, where, sizeof(where));
    }
    return same;
}

struct swap_query {
    dev_t device, file_dev;
    ino_t file_ino;
};

static bool swap_matches(void *ctx, char *line)
{
    const struct swap_query *q = ctx;
    line[strcspn(line, " \t\n")] = 0;
    ps_proc_unescape(line);
    struct stat st;
    if (line[0] != '/' || stat(line, &st) != 0)
        return false;
    if (S_ISBLK(st.st_mode))
        return q->device != 0 && st.st_rdev == q->device;
    return q->device == 0 && st.st_dev == q->file_dev && st.st_ino == q->file_ino;
}

/* The first entry of /sys/class/block/NAME/holders into holder[NAME_MAX + 1]; false when empty. */
static bool first_holder(const char *name, char *holder)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "/sys/class/block/%s/holders", name);
    DIR *dir = opendir(path);
    bool found = false;
    if (dir == NULL)
        return false;
    const struct dirent *entry;
    while (!found && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.') {
            snprintf(holder, NAME_MAX + 1, "%s", entry->d_name);
            found = true;
        }
    }
    closedir(dir);
    return found;
}

/* How one device by itself is used. */
enum use { USE_NONE, USE_MOUNT, USE_SWAP, USE_HOLDER };

/* by[256]: where it is mounted, or what holds it. */
static enum use find_use(dev_t device, const char *name, char by[256])
{
    struct mount_query mount = {.device = device};
    struct swap_query swap = {.device = device};
    char holder[NAME_MAX + 1];
    if (ps_proc_any_line("/proc/self/mountinfo", mount_matches, &mount)) {
        memcpy(by, mount.where, sizeof(mount.where));
        return USE_MOUNT;
    }
    if (ps_proc_any_line("/proc/swaps", swap_matches, &swap))
        return USE_SWAP;
    if (first_holder(name, holder)) {
        memcpy(by, holder, sizeof(holder));
        return USE_HOLDER;
    }
    return USE_NONE;
}

/* One device by itself; name is its kernel name, path what the user called the whole. */
static int check_one(dev_t device, const char *name, const char *path, struct ps_error *err)
{
    char by[256];
    switch (find_use(device, name, by)) {
    case USE_MOUNT:
        return ps_error_set(err, -PS_ERR_IN_USE, path, "%s is mounted at %s; unmount it first",
                            name, by);
    case USE_SWAP:
        return ps_error_set(err, -PS_ERR_IN_USE, path,
                            "%s is in use as swap; take it out with swapoff first", name);
    case USE_HOLDER:
        return ps_error_set(err, -PS_ERR_IN_USE, path,
                            "%s is held by %s (RAID, LVM or encryption); release it first", name,
                            by);
    case USE_NONE:
        break;
    }
    return 0;
}

struct lock_query {
    dev_t file_dev;
    ino_t file_ino;
    int pid;
};

/* proc_locks(5): "1: FLOCK  ADVISORY  READ 1234 00:06:345 0 EOF"; the device in hexadecimal. */
static bool lock_matches(void *ctx, char *line)
{
    struct lock_query *q = ctx;
    unsigned device_major, device_minor;
    unsigned long long ino;
    return sscanf(line, "%*s FLOCK %*s %*s %d %x:%x:%llu", &q->pid, &device_major, &device_minor,
                  &ino) == 4 &&
           makedev(device_major, device_minor) == q->file_dev && ino == q->file_ino;
}

/* Every engine and every writer holds a lock on the members that it has open. */
static bool find_lock(const struct stat *st, char *text, size_t text_bytes)
{
    struct lock_query lock = {.file_dev = st->st_dev, .file_ino = st->st_ino};
    char path[64], name[32] = "unknown";
    if (!ps_proc_any_line("/proc/locks", lock_matches, &lock))
        return false;
    snprintf(path, sizeof(path), "/proc/%d/comm", lock.pid);
    ps_proc_line(path, name, sizeof(name));
    snprintf(text, text_bytes, "open in process %d (%s)", lock.pid, name);
    return true;
}

/* A volume on a partition that is read is no less in use than one that is mounted, but nothing in
 * the kernel says so of the whole drive. */
static int check_lock(dev_t device, const char *name, const char *path, struct ps_error *err)
{
    char node[NAME_MAX + 8], text[128];
    struct stat st;
    snprintf(node, sizeof(node), "/dev/%s", name);
    if (stat(node, &st) != 0 || st.st_rdev != device || !find_lock(&st, text, sizeof(text)))
        return 0;
    return ps_error_set(err, -PS_ERR_IN_USE, path, "%s is %s; stop that first", name, text);
}

int ps_in_use_device(dev_t device, const char *path, struct ps_error *err)
{
    char name[NAME_MAX + 1], folder[PATH_MAX], partition[PATH_MAX + NAME_MAX + 16];
    if (!ps_identity_name(device, name))
        return 0;
    int rc = check_one(device, name, path, err);
    if (rc < 0)
        return rc;
    snprintf(folder, sizeof(folder), "/sys/class/block/%s", name);
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return 0;
    const struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        unsigned device_major, device_minor;
        snprintf(partition, sizeof(partition), "%s/%s/partition", folder, entry->d_name);
        FILE *file = entry->d_name[0] != '.' ? fopen(partition, "re") : NULL;
        if (file == NULL)
            continue;
        fclose(file);
        snprintf(partition, sizeof(partition), "%s/%s/dev", folder, entry->d_name);
        file = fopen(partition, "re");
        if (file == NULL)
            continue;
        if (fscanf(file, "%u:%u", &device_major, &device_minor) == 2) {
            dev_t number = makedev(device_major, device_minor);
            rc = check_one(number, entry->d_name, path, err);
            rc = rc == 0 ? check_lock(number, entry->d_name, path, err) : rc;
        }
        fclose(file);
    }
    closedir(dir);
    return rc;
}

struct backing_query {
    dev_t file_dev;
    ino_t file_ino;
    const char *path;
};

/* By its name, which may be another one of the same file. */
static bool backing_matches(void *ctx, char *line)
{
    const struct backing_query *q = ctx;
    struct stat st;
    line[strcspn(line, "\n")] = 0;
    return strcmp(line, q->path) == 0 ||
           (stat(line, &st) == 0 && st.st_dev == q->file_dev && st.st_ino == q->file_ino);
}

int ps_in_use_file(dev_t file_dev, ino_t file_ino, const char *real_path, struct ps_error *err)
{
    struct swap_query swap = {.file_dev = file_dev, .file_ino = file_ino};
    if (ps_proc_any_line("/proc/swaps", swap_matches, &swap))
        return ps_error_set(err, -PS_ERR_IN_USE, real_path,
                            "the file is in use as swap; take it out with swapoff first");
    DIR *dir = opendir("/sys/class/block");
    if (dir == NULL)
        return 0;
    int rc = 0;
    const struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        char path[NAME_MAX + 64];
        struct backing_query query = {file_dev, file_ino, real_path};
        if (strncmp(entry->d_name, "loop", 4) != 0)
            continue;
        snprintf(path, sizeof(path), "/sys/class/block/%s/loop/backing_file", entry->d_name);
        if (ps_proc_any_line(path, backing_matches, &query))
            rc = ps_error_set(err, -PS_ERR_IN_USE, real_path,
                              "the file is attached as /dev/%s; detach it with losetup first",
                              entry->d_name);
    }
    closedir(dir);
    return rc;
}

int ps_drive_use(const char *path, char *text, size_t text_bytes)
{
    char name[NAME_MAX + 1], by[256];
    struct stat st;
    enum use use = USE_NONE;
    text[0] = 0;
    if (stat(path, &st) != 0)
        return 0;
    if (S_ISBLK(st.st_mode) && ps_identity_name(st.st_rdev, name)) {
        use = find_use(st.st_rdev, name, by);
    } else if (S_ISREG(st.st_mode)) {
        struct swap_query swap = {.file_dev = st.st_dev, .file_ino = st.st_ino};
        use = ps_proc_any_line("/proc/swaps", swap_matches, &swap) ? USE_SWAP : USE_NONE;
    }
    if (use == USE_MOUNT)
        snprintf(text, text_bytes, "mounted at %s", by);
    else if (use == USE_SWAP)
        snprintf(text, text_bytes, "swap");
    else if (use == USE_HOLDER)
        snprintf(text, text_bytes, "held by %s", by);
    else
        return find_lock(&st, text, text_bytes);
    return 1;
}
