#include "nvme/raw_io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/util.h"

/* Linux moves at most 2 GiB less a page per call; a smaller cap keeps requests aligned. */
#define CALL_BYTES_MAX (1u << 30)
#define LOCK_TRIES 40
#define LOCK_PAUSE_US 50000

/* Some file systems accept O_DIRECT at open and refuse it per request. True: worth another try. */
static bool direct_dropped(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || !(flags & O_DIRECT))
        return false;
    return fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0;
}

int ps_raw_read(int fd, void *buf, size_t bytes, uint64_t offset)
{
    uint8_t *at = buf;
    while (bytes > 0) {
        ssize_t got = pread(fd, at, ps_min_u64(bytes, CALL_BYTES_MAX), (off_t)offset);
        if (got < 0) {
            int code = -errno;
            if (code == -EINTR || (code == -EINVAL && direct_dropped(fd)))
                continue;
            return code;
        }
        if (got == 0)
            return -PS_ERR_SHORT_READ;
        at += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return 0;
}

int ps_raw_readv(int fd, struct iovec *iov, int count, uint64_t offset)
{
    while (count > 0) {
        ssize_t got = preadv(fd, iov, count, (off_t)offset);
        if (got < 0) {
            int code = -errno;
            if (code == -EINTR || (code == -EINVAL && direct_dropped(fd)))
                continue;
            return code;
        }
        if (got == 0)
            return -PS_ERR_SHORT_READ;
        offset += (uint64_t)got;
        for (; count > 0 && (size_t)got >= iov->iov_len; iov++, count--)
            got -= (ssize_t)iov->iov_len;
        if (count > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + got;
            iov->iov_len -= (size_t)got;
        }
    }
    return 0;
}

int ps_raw_write(int fd, const void *buf, size_t bytes, uint64_t offset)
{
    const uint8_t *at = buf;
    while (bytes > 0) {
        ssize_t put = pwrite(fd, at, ps_min_u64(bytes, CALL_BYTES_MAX), (off_t)offset);
        if (put < 0) {
            int code = -errno;
            if (code == -EINTR || (code == -EINVAL && direct_dropped(fd)))
                continue;
            return code;
        }
        if (put == 0)
            return -EIO;
        at += put;
        offset += (uint64_t)put;
        bytes -= (size_t)put;
    }
    return 0;
}

int ps_raw_size(int fd, uint64_t *bytes, bool *is_device)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return -errno;
    if (S_ISREG(st.st_mode)) {
        *bytes = (uint64_t)st.st_size;
        *is_device = false;
        return 0;
    }
    if (!S_ISBLK(st.st_mode))
        return S_ISDIR(st.st_mode) ? -EISDIR : -ENOTBLK;
    uint64_t device_bytes;
    if (ioctl(fd, BLKGETSIZE64, &device_bytes) != 0)
        return -errno;
    *bytes = device_bytes;
    *is_device = true;
    return 0;
}

int ps_raw_lock(int fd, int operation)
{
    for (int tries = LOCK_TRIES; flock(fd, operation | LOCK_NB) != 0; usleep(LOCK_PAUSE_US)) {
        if (errno != EWOULDBLOCK || --tries == 0)
            return -errno;
    }
    return 0;
}

void *ps_raw_alloc(size_t bytes)
{
    size_t rounded = ps_align_up(bytes > 0 ? bytes : 1, 65536);
    void *p = aligned_alloc(65536, rounded);
    if (p != NULL)
        memset(p, 0, rounded);
    return p;
}
