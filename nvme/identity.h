/* What tells a drive or partition apart when its /dev name has changed. */
#ifndef PENSTOCK_NVME_IDENTITY_H
#define PENSTOCK_NVME_IDENTITY_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Kernel name ("nvme0n1p2") of a block device into name[NAME_MAX + 1]. False if sysfs knows none.
 */
bool ps_identity_name(dev_t device, char *name);

/* Fills both, empty where unknown: a partition has a PARTUUID, a whole drive a serial. */
void ps_identity_get(dev_t device, char partuuid[48], char serial[64]);

/* The drive's world-wide name or serial number by its kernel name; empty where it has none. */
void ps_identity_serial(const char *name, char serial[64]);

/* The whole drive under a block device: of a partition, or of a mapping of one device; the device
 * itself where there is none. 0 if sysfs does not know it (a file system without a drive). */
dev_t ps_identity_drive(dev_t device);

/* The kernel's number of the NUMA node that the drive hangs on, or -1 where it tells none. */
int ps_identity_node(dev_t device);

#endif
