/* The block device under a path. */
#ifndef PENSTOCK_NVME_DRIVE_H
#define PENSTOCK_NVME_DRIVE_H

#include <sys/types.h>

#include "nvme/penstock_io.h"

/*
 * The block device that a path names, or on which a file or folder lies. Returns 0, -ENOENT or
 * another -errno of stat(), or -ENODEV (memory, a network, several devices: no one device).
 */
int ps_drive_under(const char *path, dev_t *device, bool *is_file);

#endif
