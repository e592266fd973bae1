/* What the kernel knows of the drive under a member: its queue, and its NVMe namespace. */
#ifndef PENSTOCK_NVME_NAMESPACE_H
#define PENSTOCK_NVME_NAMESPACE_H

#include <stdint.h>

#include "core/error.h"
#include "nvme/io.h"

/* A block device (whole namespace or partition) as a range of NVMe logical blocks. */
struct ps_namespace {
    int fd; /* of the character device /dev/ngXnY, the caller's to close */
    uint32_t nsid;
    uint32_t block_bytes;        /* of a logical block: 512 .. 65536 */
    uint64_t begin_bytes, bytes; /* the device on the namespace, multiples of block_bytes */
    uint64_t transfer_bytes_max; /* of one command (MDTS, and what the kernel takes) */
    uint32_t segment_count_max;  /* contiguous stretches of memory in one command */
};

/*
 * The number in a file of the request queue under fd (of the device itself, or of the one that a
 * plain file lies on), such as "io_poll"; fallback where sysfs has none.
 */
uint64_t ps_queue_number(int fd, const char *file, uint64_t fallback);

/*
 * Finds the namespace that the block device fd is on, opens its character device and reads one
 * block through it, as a check that this process may. *ns only on success. name is for messages.
 * Errors: where is PS_IO_PASSTHRU_WHERE; -ENOTBLK or -ENODEV (not on an NVMe namespace),
 * -PS_ERR_UNSUPPORTED (metadata, odd blocks), -EACCES and -EPERM (privileges), -errno.
 */
int ps_namespace_open(struct ps_namespace *ns, int fd, const char *name, struct ps_error *err);

/*
 * Whether the drives under all members of config that are there have queues to be polled, as far as
 * sysfs knows. Returns 0, or the error of ps_poll_error.
 */
int ps_poll_check(const struct ps_io_config *config, struct ps_error *err);

/* Fills *err: this member cannot be polled, and what to do; where is PS_IO_POLL_WHERE. Returns
 * code.
 */
int ps_poll_error(int code, const char *name, struct ps_error *err);

#endif
