/* Whole reads and writes at an offset, and the size of what a descriptor refers to. */
#ifndef PENSTOCK_NVME_RAW_IO_H
#define PENSTOCK_NVME_RAW_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/*
 * Reads exactly `bytes` at `offset`. Returns 0, -PS_ERR_SHORT_READ (the file ends before), or
 * -errno. Interrupted and partial reads are continued. A descriptor with O_DIRECT whose request the
 * file system refuses (-EINVAL) loses O_DIRECT and is tried again. Thread-safe; blocks.
 */
int ps_raw_read(int fd, void *buf, size_t bytes, uint64_t offset);

/* The same into `count` buffers, one after the other; iov is changed. */
int ps_raw_readv(int fd, struct iovec *iov, int count, uint64_t offset);

/* Writes exactly `bytes` at `offset`, with the same fallback from O_DIRECT. Returns 0 or -errno. */
int ps_raw_write(int fd, const void *buf, size_t bytes, uint64_t offset);

/*
 * Size in bytes of a plain file or block device, and which it is. Returns 0, -EISDIR, or -ENOTBLK
 * for anything that is neither, or -errno.
 */
int ps_raw_size(int fd, uint64_t *bytes, bool *is_device);

/*
 * LOCK_EX or LOCK_SH (flock(2)); one that is held already becomes the other, and is gone on an
 * error. Returns 0, -EWOULDBLOCK (another process holds one), or -errno: the file system has none.
 * Waits for up to two seconds: udev locks a device for some milliseconds after every close by a
 * writer, and the locks of a process that was killed outlive it until the kernel has taken its
 * rings apart.
 */
int ps_raw_lock(int fd, int operation);

/* Zeroed memory aligned to 64 KiB, in whole multiples of 4096; NULL when there is none. free() it.
 */
void *ps_raw_alloc(size_t bytes);

#endif
