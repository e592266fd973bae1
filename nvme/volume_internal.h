/* What the rest of nvme/ may ask of an open volume beyond penstock_io.h. */
#ifndef PENSTOCK_NVME_VOLUME_INTERNAL_H
#define PENSTOCK_NVME_VOLUME_INTERNAL_H

#include "nvme/format.h"
#include "nvme/penstock_io.h"

/*
 * The open descriptor of a member, or -1 where it is missing: O_RDONLY | O_CLOEXEC, without
 * O_DIRECT, under a shared lock; owned by the volume. Flags of a duplicate are shared with it (dup
 * does not give another O_DIRECT): use ps_volume_reopen for other flags.
 */
int ps_volume_fd(const struct ps_volume *volume, int member);

/*
 * Opens the same file or device once more with `flags` (O_RDONLY | O_DIRECT ...; O_CLOEXEC is
 * added), through /proc/self/fd so that it is the same inode even if the path has been replaced.
 * Returns a descriptor that the caller closes, or -errno (-EINVAL: the file system refuses
 * O_DIRECT; -ENODEV: the member is missing).
 */
int ps_volume_reopen(const struct ps_volume *volume, int member, int flags);

/* XXH3-64 over all bytes of the slice, padding included. */
uint64_t ps_volume_slice_checksum(const struct ps_volume *volume, uint32_t object, uint32_t slice);

/*
 * The pieces of a copy (0, the first, or 1) of the slice, in the order of its bytes, owned by the
 * volume; *count is theirs. All copies are cut alike: piece i of each holds the same bytes, on
 * different members. The map has been checked: members, offsets and sums need no further check.
 */
const struct ps_disk_piece *ps_volume_slice_pieces(const struct ps_volume *volume, uint32_t object,
                                                   uint32_t slice, uint32_t copy, uint32_t *count);

/* The whole drive that a member lies on, the same number for members that share one; 0 where it
 * cannot be told. */
uint64_t ps_volume_member_drive(const struct ps_volume *volume, int member);

/*
 * "layer 3 expert 17, slice 2 of 4 (bytes 8192 to 12287 of /mnt/a/model.0; ...)" for messages;
 * slices are counted from 1 there. Cut to buf_bytes. Returns buf.
 */
const char *ps_volume_slice_text(const struct ps_volume *volume, uint32_t object, uint32_t slice,
                                 char *buf, size_t buf_bytes);

/* The same, with the bytes of the given copy. */
const char *ps_volume_copy_text(const struct ps_volume *volume, uint32_t object, uint32_t slice,
                                uint32_t copy, char *buf, size_t buf_bytes);

#endif
