/*
 * One bench for many measurements: targets, buffers and engine opened once, then any number of
 * points (request size and depth) read on them. ps_measure_run (penstock_io.h) is a bench with one
 * point, ps_probe_run one with a table of them.
 */
#ifndef PENSTOCK_NVME_MEASURE_H
#define PENSTOCK_NVME_MEASURE_H

#include "nvme/io.h"
#include "nvme/penstock_io.h"

/* Buffers of one target together: what one registered buffer may hold. */
#define PS_MEASURE_IN_FLIGHT_BYTES_MAX PS_IO_BUFFER_BYTES_MAX

struct ps_bench;

/*
 * Opens every path for reading, maps depth_max reads of buffers for each in hugepages of its node,
 * opens the engine (NULL: "uring") and drops what the page cache holds of plain files.
 * in_flight_bytes_max: the largest product of request size and depth that points will have; a
 * multiple of 4096 up to PS_MEASURE_IN_FLIGHT_BYTES_MAX.
 * Errors: -PS_ERR_ARGUMENT (unknown engine, or a file that has not been written whole), -ENOENT,
 * -EACCES, -ENOTBLK, -ENOMEM, those of ps_io_open.
 */
int ps_bench_open(struct ps_bench **out, const char *const *paths, int path_count,
                  const char *engine, uint32_t depth_max, uint64_t in_flight_bytes_max,
                  struct ps_error *err);
void ps_bench_close(struct ps_bench **bench);

struct ps_bench_point {
    uint32_t request_bytes, depth;
    uint64_t ns_max;            /* no read begins after it, unless */
    uint64_t request_count_min; /* fewer have been answered */
    uint64_t bytes_max;         /* 0: no limit */
    bool is_sequential, is_beside_busy;
    uint64_t seed;            /* of the order of random reads */
    const volatile int *stop; /* may be NULL */
};

/* Reads one point. Errors as of ps_measure_run; after one the bench can only be closed. Blocks. */
int ps_bench_read(struct ps_bench *bench, const struct ps_bench_point *point,
                  struct ps_measure_result *result, struct ps_error *err);

/* The length of a target. */
uint64_t ps_bench_target_bytes(const struct ps_bench *bench, int target);

/*
 * The i-th of the numbers below `count` in an order that looks random and holds each once (i below
 * count).
 */
uint64_t ps_bench_shuffle(uint64_t i, uint64_t count, uint64_t seed);

#endif
