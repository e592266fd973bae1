/* XXH3-64 with seed 0, with the instructions that are fastest: the value is the same with all. */
#ifndef PENSTOCK_NVME_CHECKSUM_H
#define PENSTOCK_NVME_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Thread-safe. */
uint64_t ps_checksum(const void *data, size_t bytes);

/* With AVX2, for processors that have it. */
uint64_t ps_checksum_avx2(const void *data, size_t bytes);

#endif
