/* Giving a member back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nvme/device.h"
#include "nvme/penstock_io.h"
#include "nvme/raw_io.h"

static int put(const struct ps_target *t, const void *block, uint64_t offset, struct ps_error *err)
{
    int rc = ps_raw_write(t->fd, block, PS_SUPERBLOCK_BYTES, offset);
    if (rc == 0 && fdatasync(t->fd) != 0)
        rc = -errno;
    if (rc < 0)
        return ps_error_set(err, rc, t->path, "the superblock cannot be erased: %s",
                            ps_strerror(rc));
    return 0;
}

/*
 * First a mark in the first copy: were the power to fail between the two erasures, the second copy
 * alone would look like a volume with a damaged beginning. A file is removed while it carries the
 * mark, so that what is left of it after a kill can be told. A link that it was named by stays.
 */
int ps_target_give_back(const struct ps_target *t, struct ps_error *err)
{
    struct ps_disk_superblock *block = ps_raw_alloc(sizeof(*block));
    uint64_t second = t->pair.second_offset;
    bool has_second = second != 0 && second + PS_SUPERBLOCK_BYTES <= t->bytes;
    if (block == NULL)
        return ps_error_set(err, -ENOMEM, t->path, "not enough memory");
    *block = t->sb;
    block->state = PS_VOLUME_WIPED;
    ps_superblock_seal(block);
    int rc = put(t, block, 0, err);
    int removed = rc == 0 && !t->is_device && unlink(t->real_path) != 0 ? -errno : 0;
    memset(block, 0, sizeof(*block));
    if (rc == 0 && has_second)
        rc = put(t, block, second, err);
    if (rc == 0)
        rc = put(t, block, 0, err);
    free(block);
    if (rc == 0 && removed < 0)
        rc = ps_error_set(err, removed, t->path,
                          "it is no longer a volume, but cannot be removed: %s",
                          ps_strerror(removed));
    return rc;
}

int ps_member_wipe(const char *path, struct ps_error *err)
{
    struct ps_target t;
    int rc = ps_target_open(&t, path, err);
    if (rc < 0)
        return rc;
    if (!t.is_member)
        rc = ps_error_set(err, -PS_ERR_FORMAT, path,
                          "this is not a member of a Penstock volume, so it is left alone");
    if (rc == 0)
        rc = ps_target_check_alone(&t, err);
    if (rc == 0)
        rc = ps_target_give_back(&t, err);
    ps_target_close(&t, false);
    return rc;
}
