/* Reading runs of slices from an open volume, past the page cache, and checking them. */
#ifndef PENSTOCK_NVME_READ_H
#define PENSTOCK_NVME_READ_H

#include "nvme/volume.h"

struct ps_reader {
    const struct ps_volume *volume;
    int fds[PS_MEMBER_COUNT_MAX]; /* O_DIRECT where possible; -1: a missing member */
};

/* Opens every member once more. The volume must outlive the reader. Errors: -errno. */
int ps_reader_open(struct ps_reader *reader, const struct ps_volume *volume, struct ps_error *err);
/* Takes a reader whose opening failed. */
void ps_reader_close(struct ps_reader *reader);

/* One copy of slices [begin, end) of the map, in memory one after the other. */
struct ps_run {
    uint64_t begin, end;
    uint32_t copy;
    uint8_t *buf; /* aligned to the volume's alignment; the caller's */
    int member_rc[PS_MEMBER_COUNT_MAX];
};

/*
 * Reads the run: each member once, since its pieces of a run lie side by side. What a member does
 * not give shows in ps_run_check. Thread-safe; blocks.
 */
void ps_run_read(const struct ps_reader *reader, struct ps_run *run);

/*
 * Checks a slice of the run; data: where in buf it begins. Pieces on a member that failed are read
 * once more by themselves. Returns 0, -PS_ERR_CHECKSUM, or why a piece cannot be read
 * (-PS_ERR_MEMBER: its member is missing); *piece is that piece's number in the slice.
 */
int ps_run_check(const struct ps_reader *reader, const struct ps_run *run, uint64_t slice,
                 uint8_t *data, uint32_t *piece);

/*
 * Puts a slice together from both copies, piece by piece: what cannot be read of one is taken from
 * the other, and where both can be read and differ, whichever gives the recorded checksum. data:
 * [the slice's bytes], aligned as above. Returns 0, or -PS_ERR_CHECKSUM, or why a piece can be read
 * from neither copy, or -ENOMEM. Blocks.
 */
int ps_slice_recover(const struct ps_reader *reader, uint64_t slice, uint8_t *data);

#endif
