/*
 * The end of a rebalance: every member carries the new volume, complete, be it in place or in a
 * stage beside the old one. From here on nothing of the old volume is needed, and each step may be
 * repeated.
 */
#ifndef PENSTOCK_NVME_SWITCH_H
#define PENSTOCK_NVME_SWITCH_H

#include <sys/stat.h>

#include "nvme/device.h"
#include "nvme/volume.h"

struct ps_switch {
    struct ps_target *targets; /* [count], by the new volume's numbers */
    uint32_t count;
    const uint64_t *stages;        /* [count]; 0: none */
    struct ps_disk_superblock *sb; /* [count], final; aligned for O_DIRECT */
    /* The old volume, locked, or NULL when it cannot be opened any more; then its members are
     * looked for by what the stages keep of it, and among these paths. */
    const struct ps_volume *old;
    const char *const *paths;
    int path_count;
};

/*
 * Puts the staged superblocks in their places (second copies, flush, first copies, flush), gives
 * back the members that only the old volume had (one that cannot be written is a warning), clears
 * the stages, and frees what the old volume took in plain files. Errors: -errno (resume finishes
 * it), -ENOMEM.
 */
int ps_switch_run(const struct ps_switch *s, struct ps_error *err);

/*
 * Frees what a plain file holds before the areas of a volume that is not at its beginning, and
 * after its second superblock: nothing. What the file system refuses costs space and no more.
 */
void ps_switch_free_space(const struct ps_switch *s);

/* True for a file or device that is one of the new volume's members. */
bool ps_switch_keeps(const struct ps_switch *s, const struct stat *st);

/* sb with no trace of how it came to be: as it is in its place. */
void ps_switch_finalize(struct ps_disk_superblock *sb);

#endif
