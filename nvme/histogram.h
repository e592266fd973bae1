/* Times counted in buckets whose width grows with them: percentiles without keeping every value. */
#ifndef PENSTOCK_NVME_HISTOGRAM_H
#define PENSTOCK_NVME_HISTOGRAM_H

#include <stdint.h>

/* Each power of two is cut into this many buckets, so that a percentile is off by 1/64 at most. */
#define PS_HISTOGRAM_STEPS 64u
#define PS_HISTOGRAM_BITS_MAX 42u /* 2^42 ns are over an hour; what is longer counts as that */
#define PS_HISTOGRAM_BUCKET_COUNT ((PS_HISTOGRAM_BITS_MAX - 5u) * PS_HISTOGRAM_STEPS)

/* All zero is empty. Plain data; 18.5 KiB. */
struct ps_histogram {
    uint64_t count;
    uint64_t max; /* exact */
    uint64_t buckets[PS_HISTOGRAM_BUCKET_COUNT];
};

void ps_histogram_add(struct ps_histogram *histogram, uint64_t value);

/* The value that `share` (0 to 1) of all values do not exceed, rounded up to the end of its bucket
 * and never above the largest; 0 when there are none. */
uint64_t ps_histogram_quantile(const struct ps_histogram *histogram, double share);

#endif
