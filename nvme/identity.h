/* What tells a drive or partition apart when its /dev name has changed. */
#ifndef PENSTOCK_NVME_IDENTITY_H
#define PENSTOCK_NVME_IDENTITY_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

/* Kernel name ("nvme0n1p2") of a block device into name[NAME_MAX + 1]. False if sysfs knows none.
 */
bool ps_identity_name(dev_t device, char *name);

/* Fills both, empty where unknown: a partition has a PARTUUID, a whole drive a serial. */
void ps_identity_get(dev_t device, char partuuid[48], char serial[64]);

/* The drive's world-wide name or serial number by its kernel name; empty where it has none. */
void ps_identity_serial(const char *name, char serial[64]);

#endif
