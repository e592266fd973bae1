/* Superblocks: sealing, checking, and choosing between the two copies of a member. */
#ifndef PENSTOCK_NVME_SUPERBLOCK_H
#define PENSTOCK_NVME_SUPERBLOCK_H

#include <stdbool.h>

#include "core/error.h"
#include "nvme/format.h"

/* Where the second copy lies on a file or device of this size: multiple of 4096, or 0 if too small.
 */
uint64_t ps_superblock_second_offset(uint64_t member_bytes, bool is_device);

/* Sets the checksum. */
void ps_superblock_seal(struct ps_disk_superblock *sb);

/*
 * Checks one copy completely: magic, checksum, version, and that all areas follow each other inside
 * member_bytes. Nothing of a copy that fails may be used. where: for the message.
 * Errors: -PS_ERR_FORMAT, -PS_ERR_UNSUPPORTED (a later version).
 */
int ps_superblock_check(const struct ps_disk_superblock *sb, const char *where,
                        struct ps_error *err);

/* -PS_ERR_INCOMPLETE, with the sentence for the member of a layout or a rebalance that was stopped.
 */
int ps_superblock_stopped(const struct ps_disk_superblock *sb, const char *where,
                          struct ps_error *err);

/* Both copies of a member as they are on it. */
struct ps_superblock_pair {
    struct ps_disk_superblock copy[2];
    bool valid[2];
    uint64_t second_offset; /* where copy[1] was looked for; 0 = nowhere */
    int best;               /* the copy that counts */
};

/*
 * Reads both copies and decides which counts: one that is not complete before one that is, so that
 * an old superblock under a begun layout is never believed; else the higher generation, else the
 * first. The second copy is looked for where the first one says, or, if that is damaged, where the
 * size says. Turns the descriptor's readahead off. Returns 0 (at least one valid), -PS_ERR_FORMAT
 * (not a member, or both damaged), -PS_ERR_TRUNCATED (the file ends inside its first superblock),
 * -PS_ERR_UNSUPPORTED, or -errno. May block.
 */
int ps_superblock_read(int fd, const char *path, struct ps_superblock_pair *pair,
                       struct ps_error *err);

/* Where a volume's areas begin to differ from those of a layout: how far they are shifted. */
static inline uint64_t ps_superblock_shift(const struct ps_disk_superblock *sb)
{
    uint64_t unshifted = sb->align > PS_SUPERBLOCK_BYTES ? sb->align : PS_SUPERBLOCK_BYTES;
    return sb->table_offset - unshifted;
}

/* Reads the two copies that lie side by side at `stage` (PS_STAGE_BYTES). False: none is valid. */
bool ps_superblock_read_staged(int fd, uint64_t stage, struct ps_superblock_pair *pair);

/*
 * Looks for a volume that is being written beside the one of this superblock, before its areas or
 * after them. Fills *stage and *pair and returns true if there is one that names it as its origin.
 */
bool ps_superblock_find_staged(int fd, const struct ps_disk_superblock *sb, uint64_t *stage,
                               struct ps_superblock_pair *pair);

/* The same for the stage that the superblock's own volume was written in, if that has not been
 * cleared: its change-over has not come to its end. */
bool ps_superblock_find_left(int fd, const struct ps_disk_superblock *sb, uint64_t *stage,
                             struct ps_superblock_pair *pair);

/*
 * The two places for such a volume's stage, multiples of PS_STAGE_BYTES: before the areas of the
 * superblock's volume (0: there is no room), and after all that it has on the member.
 */
void ps_superblock_stages(const struct ps_disk_superblock *sb, uint64_t places[2]);

/* "xxxxxxxx-xxxx-8xxx-xxxx-xxxxxxxxxxxx" into text[37]. */
void ps_uuid_text(const uint8_t uuid[16], char text[37]);

#endif
