#include "nvme/histogram.h"

#include "core/util.h"

/* log2 of PS_HISTOGRAM_STEPS: values below it have a bucket each. */
#define STEP_BITS 6u

static uint32_t bucket_of(uint64_t value)
{
    if (value < PS_HISTOGRAM_STEPS)
        return (uint32_t)value;
    uint32_t bits = 63u - (uint32_t)__builtin_clzll(value);
    if (bits >= PS_HISTOGRAM_BITS_MAX)
        return PS_HISTOGRAM_BUCKET_COUNT - 1;
    uint64_t step = value >> (bits - STEP_BITS) & (PS_HISTOGRAM_STEPS - 1);
    return (bits - STEP_BITS + 1) * PS_HISTOGRAM_STEPS + (uint32_t)step;
}

/* The largest value that falls into the bucket. */
static uint64_t bucket_end(uint32_t bucket)
{
    if (bucket < PS_HISTOGRAM_STEPS)
        return bucket;
    uint32_t shift = bucket / PS_HISTOGRAM_STEPS - 1;
    uint64_t step = PS_HISTOGRAM_STEPS + bucket % PS_HISTOGRAM_STEPS;
    return ((step + 1) << shift) - 1;
}

void ps_histogram_add(struct ps_histogram *histogram, uint64_t value)
{
    histogram->buckets[bucket_of(value)]++;
    histogram->count++;
    histogram->max = ps_max_u64(histogram->max, value);
}

uint64_t ps_histogram_quantile(const struct ps_histogram *histogram, double share)
{
    double wanted = share * (double)histogram->count;
    uint64_t seen = 0;

    if (histogram->count == 0)
        return 0;
    for (uint32_t i = 0; i < PS_HISTOGRAM_BUCKET_COUNT; i++) {
        seen += histogram->buckets[i];
        if (seen > 0 && (double)seen >= wanted)
            return ps_min_u64(bucket_end(i), histogram->max);
    }
    return histogram->max;
}
