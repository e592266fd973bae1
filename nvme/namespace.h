/* What the kernel knows of the drive under a member: its queue. */
#ifndef PENSTOCK_NVME_NAMESPACE_H
#define PENSTOCK_NVME_NAMESPACE_H

#include <stdint.h>

#include "core/error.h"
#include "nvme/io.h"

/*
 * The number in a file of the request queue under fd (of the device itself, or of the one that a
 * plain file lies on), such as "io_poll"; fallback where sysfs has none.
 */
uint64_t ps_queue_number(int fd, const char *file, uint64_t fallback);

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
