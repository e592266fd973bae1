/*
 * A store without drives: the cache, the scheduler and the queues that read for real, on a volume
 * that is only a map, with drives that are only a model and a clock that goes as far as it is told.
 * No memory is taken for slots, nothing is read, and nothing is checked.
 *
 * A drive serves its reads in the order in which they come: each takes the drive for its service
 * time, and is back its latency later; the latencies of several reads overlap. So one read after
 * the other gives bytes / (service + latency), and many at once bytes / service.
 *
 * Thread rule: all of it belongs to one thread.
 */
#ifndef PENSTOCK_NVME_SIMULATION_H
#define PENSTOCK_NVME_SIMULATION_H

#include "nvme/cache.h"
#include "nvme/io.h"
#include "nvme/layout.h"
#include "nvme/penstock_io.h"

#define PS_SIM_POINT_COUNT_MAX PS_PROBE_SIZE_COUNT

/* What reads of one size take. */
struct ps_sim_point {
    uint32_t bytes;
    uint64_t service_ns; /* > 0: the drive is taken for so long */
    uint64_t latency_ns; /* and the data is there so much later */
};

/* Between the points both are drawn straight; below the first and above the last the service takes
 * its time in proportion to the bytes. */
struct ps_sim_drive {
    struct ps_sim_point points[PS_SIM_POINT_COUNT_MAX]; /* by size, ascending */
    uint32_t point_count;                               /* >= 1 */
    double busy_share; /* how fast it is while the processors compute, (0, 1] */
};

/* A drive of this bandwidth (> 0) for reads of every size. */
void ps_sim_drive_init(struct ps_sim_drive *drive, uint64_t bytes_per_s, uint64_t latency_ns);

/* A drive as it was probed: of every size the most that it gave at any depth, and what a read by
 * itself takes on average: a layer waits for the slow ones too. Returns false when nothing was
 * measured. */
bool ps_sim_drive_probed(struct ps_sim_drive *drive, const struct ps_probe_result *probe);

/* What a read of so many bytes takes. */
void ps_sim_drive_cost(const struct ps_sim_drive *drive, uint32_t bytes, uint64_t *service_ns,
                       uint64_t *latency_ns);

/*
 * A volume of these objects on drive_count drives (1 .. PS_MEMBER_COUNT_MAX), one member each, cut
 * as a layout would cut them by the drives' bandwidth; it has one copy, no checksums and no bytes.
 * It records the drives' profiles. Errors: -PS_ERR_ARGUMENT, -ENOMEM. ps_volume_close ends it.
 */
int ps_volume_simulate(struct ps_volume **out, const struct ps_layout_object *objects,
                       uint32_t object_count, const struct ps_sim_drive *drives, int drive_count,
                       struct ps_error *err);

/*
 * As ps_store_open, on a volume of ps_volume_simulate and the same drives, which are copied. The
 * plan of the memory is that of a store which reads with opts->engine; where opts->cache_bytes is
 * 0, the cache has slot_count slots, but no fewer than are leased at once. ps_store_wait moves the
 * clock to when something lands; nothing else but ps_store_advance moves it.
 */
int ps_store_simulate(struct ps_store **out, struct ps_volume *volume,
                      const struct ps_store_options *opts, const struct ps_sim_drive *drives,
                      uint32_t slot_count, struct ps_error *err);

/* The time since the simulated store was opened. */
uint64_t ps_store_sim_now_ns(const struct ps_store *store);

/* So much time passes in arithmetic, beside which the drives go on reading at their busy_share. */
int ps_store_sim_advance(struct ps_store *store, uint64_t ns, struct ps_error *err);

/* For how long a drive has served reads, those in flight included. */
uint64_t ps_store_sim_busy_ns(const struct ps_store *store, int member);

/* What it takes to give a read to a drive: the next one waits for it. At first no time. */
void ps_store_sim_issue(struct ps_store *store, uint64_t issue_ns);

/* Another order of eviction; NULL: least recently used. *policy must outlive the store. */
void ps_store_policy_set(struct ps_store *store, const struct ps_cache_policy *policy);

/* ---- the engine (io_sim.c) ------------------------------------------------------------------- */

/* depth: reads in flight per drive. ps_io_close ends it. Errors: -ENOMEM. */
int ps_io_sim_open(struct ps_io **out, const struct ps_sim_drive *drives, int drive_count,
                   uint32_t depth, struct ps_error *err);

/* One thread gives reads to all drives, one after the other, and takes so long for each. */
void ps_io_sim_issue(struct ps_io *io, uint64_t issue_ns);
/* The processors compute for so long from now: what a drive serves meanwhile takes it longer. */
void ps_io_sim_compute(struct ps_io *io, uint64_t ns);
/* A reap moves the clock to the next completion, but not beyond this. */
void ps_io_sim_limit(struct ps_io *io, uint64_t limit_ns);
void ps_io_sim_set_now(struct ps_io *io, uint64_t now_ns);
uint64_t ps_io_sim_busy_ns(const struct ps_io *io, int drive);

#endif
