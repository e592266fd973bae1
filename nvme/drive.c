#include "nvme/drive.h"

#include <blkid/blkid.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/util.h"
#include "nvme/identity.h"
#include "nvme/proc.h"

#define SECTOR_BYTES 512u /* of sysfs, whatever the drive's own blocks are */

/* ---- the device under a path ----------------------------------------------------------------- */

struct source_query {
    dev_t file_system;
    dev_t device; /* 0: not found */
};

/* proc(5): "36 35 0:32 /sub /mnt rw,noatime master:1 - btrfs /dev/nvme0n1p2 rw" */
static bool source_matches(void *ctx, char *line)
{
    struct source_query *q = ctx;
    unsigned device_major, device_minor;
    char source[256];
    struct stat st;
    const char *dash = strstr(line, " - ");
    if (dash == NULL || sscanf(line, "%*s %*s %u:%u", &device_major, &device_minor) != 2 ||
        makedev(device_major, device_minor) != q->file_system ||
        sscanf(dash + 3, "%*s %255s", source) != 1)
        return false;
    ps_proc_unescape(source);
    if (source[0] != '/' || stat(source, &st) != 0 || !S_ISBLK(st.st_mode))
        return false;
    q->device = st.st_rdev;
    return true;
}

int ps_drive_under(const char *path, dev_t *device, bool *is_file)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return -errno;
    *is_file = !S_ISBLK(st.st_mode);
    if (S_ISBLK(st.st_mode)) {
        *device = st.st_rdev;
        return 0;
    }
    char name[NAME_MAX + 1];
    struct source_query query = {.file_system = st.st_dev};
    /* Some file systems (btrfs) show a device number of their own; the table of mounts tells. */
    if (ps_identity_name(st.st_dev, name))
        query.device = st.st_dev;
    else
        ps_proc_any_line("/proc/self/mountinfo", source_matches, &query);
    if (query.device == 0)
        return -ENODEV;
    *device = query.device;
    return 0;
}

/* ---- the public view ------------------------------------------------------------------------- */

/* "/dev/NAME" for a kernel name, in which '!' stands for '/'. */
static void device_path(const char *name, char path[PS_DRIVE_TEXT_BYTES])
{
    snprintf(path, PS_DRIVE_TEXT_BYTES, "/dev/%.50s", name);
    for (char *at = strchr(path, '!'); at != NULL; at = strchr(at, '!'))
        *at = '/';
}

static void read_model(const char *name, char model[PS_DRIVE_TEXT_BYTES])
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "/sys/class/block/%s/device/model", name);
    if (!ps_proc_line(path, model, PS_DRIVE_TEXT_BYTES))
        model[0] = 0;
}

static uint64_t read_bytes(const char *name)
{
    char path[PATH_MAX], text[32];
    snprintf(path, sizeof(path), "/sys/class/block/%s/size", name);
    return ps_proc_line(path, text, sizeof(text)) ? strtoull(text, NULL, 10) * SECTOR_BYTES : 0;
}

/* A file that is yet to be made lies where its folder does. */
static int find_device(const char *path, dev_t *device, bool *is_file)
{
    char folder[PATH_MAX];
    int rc = ps_drive_under(path, device, is_file);
    if (rc != -ENOENT || snprintf(folder, sizeof(folder), "%s", path) >= (int)sizeof(folder))
        return rc;
    char *slash = strrchr(folder, '/');
    if (slash != NULL)
        slash[slash == folder ? 1 : 0] = 0;
    return ps_drive_under(slash != NULL ? folder : ".", device, is_file);
}

int ps_drive_info(const char *path, struct ps_drive_info *info)
{
    struct ps_drive_info found = {.node = -1};
    char name[NAME_MAX + 1], drive_name[NAME_MAX + 1], unused[48];
    dev_t device;
    int rc = find_device(path, &device, &found.is_file);
    if (rc < 0)
        return rc;
    dev_t drive = ps_identity_drive(device);
    if (!ps_identity_name(device, name) || !ps_identity_name(drive, drive_name))
        return -ENODEV;
    device_path(name, found.device);
    device_path(drive_name, found.drive);
    read_model(drive_name, found.model);
    ps_identity_get(device, found.partuuid, found.serial);
    ps_identity_get(drive, unused, found.serial);
    found.bytes = read_bytes(name);
    found.node = ps_identity_node(drive);
    *info = found;
    return 0;
}

int ps_drive_partition_type(const char *device, char type[40])
{
    struct ps_drive_info info;
    struct stat st;
    int rc = ps_drive_info(device, &info);
    type[0] = 0;
    if (rc < 0)
        return rc;
    if (stat(device, &st) != 0 || !S_ISBLK(st.st_mode) || strcmp(info.device, info.drive) == 0)
        return -ENODEV;
    /* The table is on the drive, whose blocks it needs to read. */
    blkid_probe probe = blkid_new_probe_from_filename(info.drive);
    if (probe == NULL)
        return -EACCES;
    blkid_probe_enable_partitions(probe, 1);
    blkid_partlist list = blkid_probe_get_partitions(probe);
    blkid_partition part =
        list != NULL ? blkid_partlist_devno_to_partition(list, st.st_rdev) : NULL;
    const char *text = part != NULL ? blkid_partition_get_type_string(part) : NULL;
    if (text != NULL)
        snprintf(type, 40, "%.39s", text);
    blkid_free_probe(probe);
    return text != NULL ? 0 : -ENODEV;
}
