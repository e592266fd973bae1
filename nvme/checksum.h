/* ps_checksum (penstock_io.h) with the instructions of some processors. */
#ifndef PENSTOCK_NVME_CHECKSUM_H
#define PENSTOCK_NVME_CHECKSUM_H

#include "nvme/penstock_io.h"

/* With AVX2, for processors that have it. */
uint64_t ps_checksum_avx2(const void *data, size_t bytes);

#endif
