#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "nvme/penstock_io.h"
#include "nvme/superblock.h"

static_assert((int)PS_MEMBER_INCOMPLETE == (int)PS_VOLUME_IN_PROGRESS &&
                  (int)PS_MEMBER_COMPLETE == (int)PS_VOLUME_COMPLETE &&
                  (int)PS_MEMBER_WIPED == (int)PS_VOLUME_WIPED,
              "the states of the format, under public names");

int ps_member_peek(const char *path, struct ps_member_peek *peek)
{
    struct ps_superblock_pair pair;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    int rc = ps_superblock_read(fd, path, &pair, NULL);
    close(fd);
    if (rc < 0)
        return rc;
    const struct ps_disk_superblock *sb = &pair.copy[pair.best];
    ps_uuid_text(sb->uuid, peek->uuid);
    peek->member = sb->member;
    peek->member_count = sb->member_count;
    peek->state = (enum ps_member_state)sb->state;
    return 0;
}
