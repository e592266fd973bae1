/* How many instructions a piece of work takes, counted without the processor's counters. */
#ifndef PENSTOCK_TOOLS_BENCH_COUNT_H
#define PENSTOCK_TOOLS_BENCH_COUNT_H

#include <stdint.h>

/*
 * Instructions of fn(ctx), the call's own few included: the calling thread is stepped through them,
 * one trap for each, which takes about a microsecond. Virtual machines, which seldom have hardware
 * counters, can do it too. Returns 0 where it cannot be done (other processors, emulators).
 * Thread rule: one thread at a time; SIGTRAP is taken meanwhile.
 */
uint64_t bench_instructions(void (*fn)(void *ctx), void *ctx);

#endif
