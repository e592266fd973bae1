/*
 * How busy the drives are, and why somebody waits. Time is added up whenever something changes:
 * the scheduler calls ps_load_step before it begins or ends a read, and around checks.
 *
 * Thread rule: with the scheduler's lock.
 */
#ifndef PENSTOCK_NVME_LOAD_H
#define PENSTOCK_NVME_LOAD_H

#include <stdint.h>

#include "nvme/penstock_io.h"

struct ps_scheduler;

struct ps_load {
    uint64_t at_ns; /* up to when time has been added up */
    uint32_t waiter_count, slot_waiter_count;
    uint64_t busy_ns[PS_MEMBER_COUNT_MAX]; /* by queue */
    uint64_t wait_ns[PS_WAIT_CAUSE_COUNT];
};

/* Adds up the time until now, in which things were as they still are. */
void ps_load_step(struct ps_scheduler *s, uint64_t now_ns);

/* Somebody begins to wait, for reads or (for_slot) for a slot; begin returns now. */
uint64_t ps_load_wait_begin(struct ps_scheduler *s, bool for_slot);
uint64_t ps_load_wait_end(struct ps_scheduler *s, bool for_slot);

#endif
