/* Who uses a block device or file: mounts, swap, holders, loop devices. */
#ifndef PENSTOCK_NVME_IN_USE_H
#define PENSTOCK_NVME_IN_USE_H

#include <sys/types.h>

#include "core/error.h"

/*
 * Checks the device and each of its partitions. Returns 0 (free) or -PS_ERR_IN_USE with a sentence
 * that names the use. What cannot be read (no /proc, no /sys) counts as free: O_EXCL still guards.
 */
int ps_in_use_device(dev_t device, const char *path, struct ps_error *err);

/* The same for a plain file: swap, or behind a loop device. real_path: absolute, links resolved. */
int ps_in_use_file(dev_t file_dev, ino_t file_ino, const char *real_path, struct ps_error *err);

#endif
