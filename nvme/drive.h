/* Block devices as sysfs describes them: the one under a path, its drive, its NUMA node. */
#ifndef PENSTOCK_NVME_DRIVE_H
#define PENSTOCK_NVME_DRIVE_H

#include <sys/types.h>

#include "nvme/penstock_io.h"

/*
 * The block device that a path names, or on which a file or folder lies. Returns 0, -ENOENT or
 * another -errno of stat(), or -ENODEV (memory, a network, several devices: no one device).
 */
int ps_drive_under(const char *path, dev_t *device, bool *is_file);

/* The whole drive that a partition is on; the device itself if it is not a partition. */
dev_t ps_drive_whole(dev_t device);

/* The kernel's number of the NUMA node that a whole drive's controller hangs on, or -1. */
int ps_drive_node(const char *name);

#endif
