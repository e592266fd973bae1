/* Members opened for reading: one by its path, or by what a member table says about it. */
#ifndef PENSTOCK_NVME_MEMBER_H
#define PENSTOCK_NVME_MEMBER_H

#include <stdbool.h>
#include <sys/types.h>

#include "core/error.h"
#include "nvme/superblock.h"

/* One open member. fd < 0 = empty. */
struct ps_member {
    int fd;     /* O_RDONLY, under a shared lock */
    char *path; /* as it was found; owned */
    uint64_t bytes;
    bool is_device;
    struct ps_superblock_pair pair;
    struct ps_disk_superblock sb; /* the copy that counts */
};

/*
 * Opens the member at `path`, takes a shared lock and reads its superblocks. Says nothing about its
 * state; a damaged first copy is logged. Fills *member only on success.
 * Errors: -ENOENT, -EACCES, -EISDIR, -PS_ERR_IN_USE (being written), those of ps_superblock_read.
 */
int ps_member_open(struct ps_member *member, const char *path, struct ps_error *err);

/* Closes and empties. Takes an empty member. */
void ps_member_close(struct ps_member *member);

/*
 * Reads and checks a member's table. *table is allocated with malloc (bytes as in the superblock).
 * Errors: -PS_ERR_FORMAT (damaged), -ENOMEM, -errno.
 */
int ps_member_table_read(const struct ps_member *member, struct ps_disk_table **table,
                         struct ps_error *err);

/* Entry n of a table. */
static inline const struct ps_disk_peer *ps_table_peer(const struct ps_disk_table *table,
                                                       uint32_t n)
{
    return (const struct ps_disk_peer *)(table + 1) + n;
}

/*
 * Looks for member `number` of the volume that `named` belongs to: under the path recorded (table
 * may be NULL), beside `named` under the recorded name, by PARTUUID, by serial, and last by UUID
 * among the files beside `named` and all block devices. A candidate counts only if it is complete
 * and has the same UUID; one that is not complete is remembered for the message. Errors:
 * -PS_ERR_MEMBER (text names what was looked for), -PS_ERR_INCOMPLETE, -PS_ERR_IN_USE.
 */
int ps_member_find(struct ps_member *member, const struct ps_member *named,
                   const struct ps_disk_table *table, uint32_t number, struct ps_error *err);

#endif
