/* What a device or file holds already, as identities that a user can repeat; and erasing it. */
#ifndef PENSTOCK_NVME_PROBE_H
#define PENSTOCK_NVME_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"

#define PS_IDENTITY_COUNT_MAX 16
#define PS_IDENTITY_BYTES 320

/* "ext4:UUID", "gpt:UUID", "penstock:UUID", "file:NAME:SIZE"; "TYPE:none" where there is no UUID.
 */
struct ps_identities {
    int count;
    char text[PS_IDENTITY_COUNT_MAX][PS_IDENTITY_BYTES];
};

/* Adds one, unless it is there already or the list is full. */
void ps_identities_add(struct ps_identities *list, const char *type, const char *id);

/*
 * Adds an identity for every signature that libblkid finds: file systems, RAID and LVM members,
 * swap, partition tables, with a bad checksum or only a backup left too. fd must not have O_DIRECT.
 * Errors: -ENOMEM, -EIO (could not be read). Blocks.
 */
int ps_probe_signatures(int fd, const char *path, struct ps_identities *list, struct ps_error *err);

/* Erases every signature that ps_probe_signatures would find, then looks again. Blocks. */
int ps_probe_wipe(int fd, const char *path, struct ps_error *err);

#endif
