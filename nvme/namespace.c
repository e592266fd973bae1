#include "nvme/namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/nvme_ioctl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "nvme/identity.h"
#include "nvme/nvme_command.h"

#define SECTOR_BYTES 512u /* the unit of sysfs, whatever the drive's blocks are */
#define BLOCK_BYTES_MAX 65536u
#define IDENTIFY_BYTES 4096u

/* The number in a one-line file; false where there is none. */
static bool read_number(const char *path, uint64_t *number)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool found = fscanf(file, "%" SCNu64, number) == 1;
    fclose(file);
    return found;
}

uint64_t ps_queue_number(int fd, const char *file, uint64_t fallback)
{
    /* A partition has no queue of its own; its folder lies in the drive's. */
    static const char *const folders[] = {"queue", "../queue"};
    char path[128];
    struct stat st;
    uint64_t number;

    if (fstat(fd, &st) != 0)
        return fallback;
    dev_t device = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(device), minor(device),
                 folders[i], file);
        if (read_number(path, &number))
            return number;
    }
    return fallback;
}

int ps_poll_error(int code, const char *name, struct ps_error *err)
{
    return ps_error_set(err, code, PS_IO_POLL_WHERE,
                        "%s: %s; load the NVMe driver with nvme.poll_queues=N, one for every "
                        "reading thread",
                        name,
                        code == -ETIMEDOUT ? "a polled read did not come back"
                                           : "its drive has no queues for polling");
}

int ps_poll_check(const struct ps_io_config *config, struct ps_error *err)
{
    /* Before kernel 6.12 reads from a queue without polling succeed: by interrupt, while we spin.
     */
    for (int i = 0; i < config->member_count; i++) {
        if (config->fds[i] >= 0 && ps_queue_number(config->fds[i], "io_poll", 1) == 0)
            return ps_poll_error(-EOPNOTSUPP, config->names[i], err);
    }
    return 0;
}

/* ---- from the block device to the character device ------------------------------------------- */

/* The whole drive's name ("nvme0n1") and where on it the device begins. */
static bool find_drive(dev_t device, char drive[NAME_MAX + 1], uint64_t *begin_bytes)
{
    char name[NAME_MAX + 1], path[PATH_MAX], real[PATH_MAX];
    uint64_t start = 0;

    *begin_bytes = 0;
    if (!ps_identity_name(device, name))
        return false;
    memcpy(drive, name, strlen(name) + 1);
    snprintf(path, sizeof(path), "/sys/class/block/%s/partition", name);
    if (access(path, F_OK) != 0)
        return true;
    snprintf(path, sizeof(path), "/sys/class/block/%s/start", name);
    if (!read_number(path, &start))
        return false;
    *begin_bytes = start * SECTOR_BYTES;
    /* The class entry is a link to .../DRIVE/PARTITION. */
    snprintf(path, sizeof(path), "/sys/class/block/%s/..", name);
    if (!realpath(path, real))
        return false;
    snprintf(drive, NAME_MAX + 1, "%.*s", NAME_MAX, strrchr(real, '/') + 1);
    return true;
}

/*
 * The kernel gives the block device nvmeXnY and the character device ngXnY the same numbers and the
 * same parent: the controller, or the subsystem where several paths lead to one namespace
 * (drivers/nvme/host/core.c, nvme_alloc_ns; multipath.c, nvme_mpath_set_live). Both are compared.
 */
static bool same_parent(const char *drive, const char *node)
{
    char path[PATH_MAX], a[PATH_MAX], b[PATH_MAX];

    snprintf(path, sizeof(path), "/sys/class/block/%s/device", drive);
    if (!realpath(path, a))
        return false;
    snprintf(path, sizeof(path), "/sys/class/nvme-generic/%s/device", node);
    return realpath(path, b) && strcmp(a, b) == 0;
}

static int fail(int code, const char *name, const char *text, struct ps_error *err)
{
    return ps_error_set(err, code, PS_IO_PASSTHRU_WHERE, "%s %s", name, text);
}

/* Opens /dev/ngXnY of the drive. Returns its descriptor. */
static int open_node(const char *drive, const char *name, struct ps_error *err)
{
    char node[NAME_MAX + 8], path[PATH_MAX];
    unsigned node_major, node_minor;
    struct stat st;

    if (strncmp(drive, "nvme", 4) != 0)
        return fail(-ENODEV, name, "is not on an NVMe namespace", err);
    snprintf(node, sizeof(node), "ng%s", drive + 4);
    if (!same_parent(drive, node))
        return fail(-ENODEV, name, "has no NVMe character device; kernel 5.13 or newer has one",
                    err);
    snprintf(path, sizeof(path), "/sys/class/nvme-generic/%s/dev", node);
    FILE *file = fopen(path, "re");
    bool found = file && fscanf(file, "%u:%u", &node_major, &node_minor) == 2;
    if (file)
        fclose(file);
    snprintf(path, sizeof(path), "/dev/%s", node);
    int fd = found ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    int rc = found ? -errno : -ENODEV;
    if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISCHR(st.st_mode) ||
                    st.st_rdev != makedev(node_major, node_minor))) {
        close(fd);
        fd = -1;
        rc = -ENODEV;
    }
    if (fd < 0)
        return ps_error_set(err, rc, PS_IO_PASSTHRU_WHERE,
                            "%s needs /dev/%s, which cannot be opened: %s", name, node,
                            strerror(-rc));
    return fd;
}

/* ---- format and limits ----------------------------------------------------------------------- */

/*
 * Bytes of metadata with every block, by sysfs (6.8) or the drive itself: Identify Namespace (NVM
 * Command Set 1.0c §4.1.5.1) has the format in use in FLBAS, bits 3:0 and 6:5, and the formats,
 * four bytes each, from byte 128 on; the first two of these are the metadata's size.
 */
static int find_metadata(int fd, const char *drive, uint32_t nsid, uint64_t *bytes)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "/sys/class/block/%s/metadata_bytes", drive);
    if (read_number(path, bytes))
        return 0;
    uint8_t *data = aligned_alloc(IDENTIFY_BYTES, IDENTIFY_BYTES);
    if (!data)
        return -ENOMEM;
    struct nvme_admin_cmd command = {
        .opcode = PS_NVME_ADMIN_IDENTIFY,
        .nsid = nsid,
        .addr = (uintptr_t)data,
        .data_len = IDENTIFY_BYTES,
        .cdw10 = PS_NVME_IDENTIFY_NAMESPACE,
    };
    int rc = ioctl(fd, NVME_IOCTL_ADMIN_CMD, &command);
    rc = rc < 0 ? -errno : rc > 0 ? ps_nvme_errno(rc) : 0;
    if (rc == 0) {
        uint32_t format = (data[26] & 15u) | (data[26] >> 5 & 3u) << 4;
        *bytes = data[128 + 4 * format] | (uint64_t)data[129 + 4 * format] << 8;
    }
    free(data);
    return rc;
}

static int privilege_error(int rc, const char *name, struct ps_error *err)
{
    if (rc == -EACCES || rc == -EPERM)
        return fail(rc, name,
                    "may not be read by NVMe commands; before kernel 6.2 that takes "
                    "CAP_SYS_ADMIN, since then a drive that lists its commands' effects",
                    err);
    return ps_error_set(err, rc, PS_IO_PASSTHRU_WHERE, "%s cannot be read by NVMe commands: %s",
                        name, strerror(-rc));
}

static int find_format(struct ps_namespace *ns, int fd, const char *drive, const char *name,
                       struct ps_error *err)
{
    uint64_t metadata_bytes = 0;
    int rc = find_metadata(ns->fd, drive, ns->nsid, &metadata_bytes);
    if (rc < 0)
        return privilege_error(rc, name, err);
    if (metadata_bytes > 0)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, PS_IO_PASSTHRU_WHERE,
                            "%s is formatted with %" PRIu64 " bytes of metadata in every block",
                            name, metadata_bytes);
    ns->block_bytes = (uint32_t)ps_queue_number(fd, "logical_block_size", 0);
    if (ns->block_bytes < SECTOR_BYTES || ns->block_bytes > BLOCK_BYTES_MAX ||
        (ns->block_bytes & (ns->block_bytes - 1)) != 0 || ns->begin_bytes % ns->block_bytes != 0 ||
        ns->bytes % ns->block_bytes != 0)
        return fail(-PS_ERR_UNSUPPORTED, name, "does not consist of whole blocks of its drive",
                    err);
    uint64_t transfer = ps_queue_number(fd, "max_hw_sectors_kb", 128) << 10;
    uint64_t blocks_max = (uint64_t)PS_NVME_READ_BLOCKS_MAX * ns->block_bytes;
    ns->transfer_bytes_max = transfer < blocks_max ? transfer : blocks_max;
    ns->segment_count_max = (uint32_t)ps_queue_number(fd, "max_segments", 127);
    return 0;
}

/* The kernel asks for the same privilege by ioctl as by io_uring, and here it is told before
 * anything is registered. */
static int try_read(const struct ps_namespace *ns, const char *name, struct ps_error *err)
{
    void *data = aligned_alloc(BLOCK_BYTES_MAX, BLOCK_BYTES_MAX);
    uint64_t block = ns->begin_bytes / ns->block_bytes;
    struct nvme_passthru_cmd command = {
        .opcode = PS_NVME_READ,
        .nsid = ns->nsid,
        .addr = (uintptr_t)data,
        .data_len = ns->block_bytes,
        .cdw10 = (uint32_t)block,
        .cdw11 = (uint32_t)(block >> 32),
    };

    if (!data)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    /* A first block that cannot be read (> 0: the drive's own status) says nothing of the rest. */
    int rc = ioctl(ns->fd, NVME_IOCTL_IO_CMD, &command);
    rc = rc < 0 ? -errno : 0;
    free(data);
    return rc < 0 ? privilege_error(rc, name, err) : 0;
}

int ps_namespace_open(struct ps_namespace *ns, int fd, const char *name, struct ps_error *err)
{
    char drive[NAME_MAX + 1];
    struct ps_namespace n = {.fd = -1};
    struct stat st;
    int rc;

    if (fstat(fd, &st) != 0)
        return fail(-errno, name, "cannot be examined", err);
    if (!S_ISBLK(st.st_mode))
        return fail(-ENOTBLK, name, "is a file and not an NVMe drive or partition", err);
    if (!find_drive(st.st_rdev, drive, &n.begin_bytes))
        return fail(-ENODEV, name, "is not known to sysfs", err);
    if (ioctl(fd, BLKGETSIZE64, &n.bytes) != 0)
        return fail(-errno, name, "does not tell its size", err);
    rc = n.fd = open_node(drive, name, err);
    if (rc >= 0) {
        rc = ioctl(n.fd, NVME_IOCTL_ID);
        n.nsid = (uint32_t)rc;
        if (rc <= 0)
            rc = fail(rc < 0 ? -errno : -ENODEV, name, "does not tell its namespace", err);
    }
    if (rc >= 0)
        rc = find_format(&n, fd, drive, name, err);
    if (rc >= 0)
        rc = try_read(&n, name, err);
    if (rc < 0) {
        if (n.fd >= 0)
            close(n.fd);
        return rc;
    }
    *ns = n;
    return 0;
}
