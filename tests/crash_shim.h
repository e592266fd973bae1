/*
 * Stands between the volume's writer and the system (linked with --wrap): counts its writes and
 * flushes, and at the Nth kills the process, cuts its power, or makes the call fail.
 */
#ifndef PENSTOCK_TESTS_CRASH_SHIM_H
#define PENSTOCK_TESTS_CRASH_SHIM_H

#include <stdint.h>

enum shim_mode {
    SHIM_PASS,  /* calls go through; flushes are skipped, since nothing crashes the machine */
    SHIM_KILL,  /* SIGKILL before call N: every earlier write survives in the page cache */
    SHIM_POWER, /* at call N, or at flush N, each unflushed write survives, is lost or is torn by
                   sectors */
    SHIM_FAIL_ONCE, /* call N fails with shim_errno */
    SHIM_FAIL_EVER, /* call N and all after it fail */
};

struct shim {
    enum shim_mode mode;
    uint64_t call;  /* N, counted from 1; 0: at none */
    uint64_t flush; /* SHIM_POWER: or at this flush, before anything of it is durable */
    uint64_t seed;  /* of what survives a power cut */
    int fail_errno;
    uint64_t count, flush_count; /* calls and flushes so far; read them after a run */
};

/* One per process; set it before the layout starts. */
extern struct shim shim;

#define SHIM_POWER_EXIT 99 /* exit status of a process whose power was cut */

#endif
