/*
 * Threads that keep every processor busy and give way to all others: what is measured beside them
 * is measured as beside arithmetic.
 */
#ifndef PENSTOCK_CORE_BUSY_H
#define PENSTOCK_CORE_BUSY_H

struct ps_busy;

/* One thread for each processor that this process may run on, of the lowest priority there is
 * (SCHED_IDLE). NULL when none could be started. ps_busy_end ends them. */
struct ps_busy *ps_busy_begin(void);
void ps_busy_end(struct ps_busy *busy); /* NULL: nothing */

#endif
