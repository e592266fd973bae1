#include "nvme/namespace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* The number in a one-line file; false where there is none. */
static bool read_number(const char *path, uint64_t *number)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool found = fscanf(file, "%" SCNu64, number) == 1;
    fclose(file);
    return found;
}

uint64_t ps_queue_number(int fd, const char *file, uint64_t fallback)
{
    /* A partition has no queue of its own; its folder lies in the drive's. */
    static const char *const folders[] = {"queue", "../queue"};
    char path[128];
    struct stat st;
    uint64_t number;

    if (fstat(fd, &st) != 0)
        return fallback;
    dev_t device = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(device), minor(device),
                 folders[i], file);
        if (read_number(path, &number))
            return number;
    }
    return fallback;
}

int ps_poll_error(int code, const char *name, struct ps_error *err)
{
    return ps_error_set(err, code, PS_IO_POLL_WHERE,
                        "%s: %s; load the NVMe driver with nvme.poll_queues=N, one for every "
                        "reading thread",
                        name,
                        code == -ETIMEDOUT ? "a polled read did not come back"
                                           : "its drive has no queues for polling");
}

int ps_poll_check(const struct ps_io_config *config, struct ps_error *err)
{
    /* Before kernel 6.12 reads from a queue without polling succeed: by interrupt, while we spin.
     */
    for (int i = 0; i < config->member_count; i++) {
        if (config->fds[i] >= 0 && ps_queue_number(config->fds[i], "io_poll", 1) == 0)
            return ps_poll_error(-EOPNOTSUPP, config->names[i], err);
    }
    return 0;
}
