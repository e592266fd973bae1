/* One run of the comparison of I/O engines: a child process under a memory ceiling. */
#ifndef PENSTOCK_TOOLS_BENCH_MODE_H
#define PENSTOCK_TOOLS_BENCH_MODE_H

#include "model/penstock.h"

struct bench_job {
    const char *const *paths; /* [path_count] of the volume */
    int path_count;
    uint64_t memory_bytes; /* the ceiling, or PS_MEMORY_MIN */
    int threads;           /* 0: one per CPU */
    const int32_t *ids;    /* [warm + tokens] */
    uint32_t warm, tokens; /* evaluated one by one; the first are not timed */
};

/* Of the tokens that were timed. */
struct bench_sample {
    uint64_t ns, cpu_ns, wait_ns;
    uint64_t streamed_bytes; /* experts handed over by the engine */
    uint64_t drive_bytes;  /* what the process had the drives read, misses of the page cache too */
    uint64_t hits, misses; /* of the expert cache */
    uint64_t faults_major, faults_minor;
    uint64_t slots, peak_bytes, hugepage_bytes, budget_bytes;
    char engine[16]; /* after fallbacks */
    bool is_limited; /* a memory cgroup held the ceiling */
};

/*
 * Decodes with the engine `mode` in a process of its own: in a memory cgroup of the ceiling less
 * its hugepages, which a cgroup does not count, where one can be made. Fails with a sentence:
 * what the child said, or that it was killed. -EINTR: stopped by a signal. Blocks.
 */
int bench_mode_run(const struct bench_job *job, const char *mode, struct bench_sample *sample,
                   struct ps_error *err);

#endif
