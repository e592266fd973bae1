/* fio's random reads on the members of a volume, as a yardstick. */
#ifndef PENSTOCK_BENCH_FIO_H
#define PENSTOCK_BENCH_FIO_H

#include <stdint.h>

struct fio_member {
    const char *path;
    uint64_t begin_bytes, end_bytes; /* what may be read */
};

/*
 * Reads blocks of block_bytes with `depth` in flight per member, O_DIRECT, for `seconds`. Returns
 * bytes per second over all members together, -ENOENT when there is no fio, or -EIO when it failed
 * (what it said is on standard error).
 */
int64_t fio_read_rate(const struct fio_member *members, int member_count, uint64_t block_bytes,
                      uint32_t depth, int seconds);

#endif
