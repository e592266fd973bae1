/* The engine of simulated drives: it knows when each read would be back, and has a clock. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "core/util.h"
#include "nvme/simulation.h"

/* ---- a drive --------------------------------------------------------------------------------- */

/* Reads as long as these show a drive's bandwidth; what it needs beside is its latency. */
#define SIZE_TYPICAL (1u << 20)

void ps_sim_drive_init(struct ps_sim_drive *drive, uint64_t bytes_per_s, uint64_t latency_ns)
{
    *drive = (struct ps_sim_drive){.point_count = 1, .busy_share = 1};
    drive->points[0] = (struct ps_sim_point){
        .bytes = SIZE_TYPICAL,
        .service_ns = ps_max_u64((uint64_t)(SIZE_TYPICAL * 1e9 / (double)bytes_per_s), 1),
        .latency_ns = latency_ns,
    };
}

bool ps_sim_drive_probed(struct ps_sim_drive *drive, const struct ps_probe_result *probe)
{
    *drive = (struct ps_sim_drive){.busy_share = probe->busy_share > 0 ? probe->busy_share : 1};
    for (uint32_t s = 0; s < PS_PROBE_SIZE_COUNT; s++) {
        struct ps_sim_point *point = &drive->points[drive->point_count];
        uint64_t rate = 0, alone_ns = 0;
        for (uint32_t d = 0; d < PS_PROBE_DEPTH_COUNT; d++) {
            const struct ps_probe_point *p = &probe->points[s][d];
            rate = ps_max_u64(rate, p->bytes_per_s);
            if (p->depth == 1 && p->bytes_per_s > 0)
                alone_ns = (uint64_t)((double)p->request_bytes * 1e9 / (double)p->bytes_per_s);
            if (p->bytes_per_s > 0)
                point->bytes = p->request_bytes;
        }
        if (rate == 0 || alone_ns == 0)
            continue;
        point->service_ns = ps_max_u64((uint64_t)((double)point->bytes * 1e9 / (double)rate), 1);
        point->latency_ns = alone_ns - ps_min_u64(alone_ns, point->service_ns);
        drive->point_count++;
    }
    return drive->point_count > 0;
}

void ps_sim_drive_cost(const struct ps_sim_drive *drive, uint32_t bytes, uint64_t *service_ns,
                       uint64_t *latency_ns)
{
    const struct ps_sim_point *p = drive->points, *last = p + drive->point_count - 1;

    while (p < last && p[1].bytes <= bytes)
        p++;
    if (p == last || bytes <= p->bytes) {
        *service_ns = (uint64_t)((double)p->service_ns * bytes / p->bytes);
        *latency_ns = p->latency_ns;
    } else {
        double part = (double)(bytes - p->bytes) / (double)(p[1].bytes - p->bytes);
        *service_ns =
            (uint64_t)((double)p->service_ns * (1 - part) + (double)p[1].service_ns * part);
        *latency_ns =
            (uint64_t)((double)p->latency_ns * (1 - part) + (double)p[1].latency_ns * part);
    }
}

/* ---- the engine ------------------------------------------------------------------------------ */

struct sim_read {
    struct ps_io_completion completion;
    uint64_t done_ns;
};

/* Reads end in the order in which they come, as long as the drive's latency is the same; where a
 * short one has less of it, it waits for the one before. */
struct sim_queue {
    struct ps_sim_drive drive;
    struct sim_read *reads; /* [depth], a ring */
    uint32_t first, count;
    uint64_t free_ns, last_done_ns, busy_ns;
};

struct sim {
    struct ps_io io;
    struct sim_queue *queues; /* [drive_count] */
    int drive_count;
    uint32_t depth;
    uint64_t now_ns, limit_ns, busy_end_ns;
    uint64_t issue_ns, issued_ns; /* what it takes to issue a read; until when the last one took */
};

static struct sim *sim_of(struct ps_io *io)
{
    return (struct sim *)io;
}

/* When that is over which would be at until_ns if no processor computed after from_ns. */
static uint64_t end_of(const struct sim *sim, const struct sim_queue *q, uint64_t from_ns,
                       uint64_t until_ns)
{
    double share = q->drive.busy_share;

    if (until_ns <= from_ns || sim->busy_end_ns <= from_ns)
        return until_ns;
    double busy_ns = (double)(sim->busy_end_ns - from_ns), work_ns = (double)(until_ns - from_ns);
    if (work_ns <= busy_ns * share)
        return from_ns + (uint64_t)(work_ns / share);
    return until_ns + (uint64_t)(busy_ns * (1 - share));
}

static uint32_t sim_submit(struct ps_io *io, const struct ps_io_request *requests, uint32_t count)
{
    struct sim *sim = sim_of(io);

    for (uint32_t i = 0; i < count; i++) {
        const struct ps_io_request *r = &requests[i];
        struct sim_queue *q = &sim->queues[r->member];
        uint64_t service_ns, latency_ns;
        if (q->count == sim->depth)
            return i;
        ps_sim_drive_cost(&q->drive, r->bytes, &service_ns, &latency_ns);
        sim->issued_ns = ps_max_u64(sim->issued_ns, sim->now_ns) + sim->issue_ns;
        uint64_t from_ns = ps_max_u64(q->free_ns, sim->issued_ns);
        q->free_ns = end_of(sim, q, from_ns, from_ns + service_ns);
        q->busy_ns += q->free_ns - from_ns;
        q->last_done_ns = ps_max_u64(q->last_done_ns, q->free_ns + latency_ns);
        q->reads[(q->first + q->count++) % sim->depth] = (struct sim_read){
            .completion = {.tag = r->tag, .result = (int32_t)r->bytes},
            .done_ns = q->last_done_ns,
        };
    }
    return count;
}

static uint64_t next_done_ns(const struct sim *sim)
{
    uint64_t next_ns = UINT64_MAX;

    for (int d = 0; d < sim->drive_count; d++) {
        const struct sim_queue *q = &sim->queues[d];
        if (q->count > 0)
            next_ns = ps_min_u64(next_ns, q->reads[q->first].done_ns);
    }
    return next_ns;
}

static int sim_reap(struct ps_io *io, struct ps_io_completion *out, uint32_t capacity,
                    uint64_t wait_ns)
{
    struct sim *sim = sim_of(io);
    uint64_t next_ns = next_done_ns(sim);
    uint32_t count = 0;

    if (next_ns == UINT64_MAX)
        return 0;
    if (next_ns > sim->now_ns) {
        uint64_t until_ns = wait_ns < UINT64_MAX - sim->now_ns ? sim->now_ns + wait_ns : UINT64_MAX;
        sim->now_ns = ps_min_u64(next_ns, ps_min_u64(until_ns, sim->limit_ns));
    }
    for (int d = 0; d < sim->drive_count; d++) {
        struct sim_queue *q = &sim->queues[d];
        for (; count < capacity && q->count > 0 && q->reads[q->first].done_ns <= sim->now_ns;
             q->count--) {
            out[count++] = q->reads[q->first].completion;
            q->first = (q->first + 1) % sim->depth;
        }
    }
    return (int)count;
}

/* There is no thread that could be asleep. */
static void sim_wake(struct ps_io *io)
{
    (void)io;
}

static uint32_t sim_close(struct ps_io *io)
{
    struct sim *sim = sim_of(io);

    for (int d = 0; sim->queues && d < sim->drive_count; d++)
        free(sim->queues[d].reads);
    free(sim->queues);
    free(sim);
    return 0;
}

static uint64_t sim_now_ns(const struct ps_io *io)
{
    return ((const struct sim *)io)->now_ns;
}

/* Not among the engines that have a name: nobody who wants data can ask for it. */
static const struct ps_io_ops sim_ops = {
    .id = "simulated",
    .submit = sim_submit,
    .reap = sim_reap,
    .wake = sim_wake,
    .close = sim_close,
    .now_ns = sim_now_ns,
};

int ps_io_sim_open(struct ps_io **out, const struct ps_sim_drive *drives, int drive_count,
                   uint32_t depth, struct ps_error *err)
{
    struct sim *sim = calloc(1, sizeof(*sim));

    if (!sim)
        goto fail;
    sim->io = (struct ps_io){.ops = &sim_ops, .capacity = (uint32_t)drive_count * depth};
    sim->depth = depth;
    sim->limit_ns = UINT64_MAX;
    /* 0 is the time of nothing in the scheduler's tables. */
    sim->now_ns = 1;
    sim->queues = calloc((size_t)drive_count, sizeof(*sim->queues));
    if (!sim->queues)
        goto fail;
    sim->drive_count = drive_count;
    for (int d = 0; d < drive_count; d++) {
        sim->queues[d].drive = drives[d];
        sim->queues[d].reads = calloc(depth, sizeof(*sim->queues[d].reads));
        if (!sim->queues[d].reads)
            goto fail;
    }
    *out = &sim->io;
    return 0;
fail:
    if (sim)
        sim_close(&sim->io);
    return ps_error_set(err, -ENOMEM, "simulation", "out of memory");
}

void ps_io_sim_issue(struct ps_io *io, uint64_t issue_ns)
{
    sim_of(io)->issue_ns = issue_ns;
}

void ps_io_sim_compute(struct ps_io *io, uint64_t ns)
{
    struct sim *sim = sim_of(io);

    sim->busy_end_ns = sim->now_ns + ns;
    for (int d = 0; d < sim->drive_count; d++) {
        struct sim_queue *q = &sim->queues[d];
        uint64_t free_ns = end_of(sim, q, sim->now_ns, q->free_ns);
        q->busy_ns += free_ns - q->free_ns;
        q->free_ns = free_ns;
        q->last_done_ns = end_of(sim, q, sim->now_ns, q->last_done_ns);
        for (uint32_t i = 0; i < q->count; i++) {
            struct sim_read *read = &q->reads[(q->first + i) % sim->depth];
            read->done_ns = end_of(sim, q, sim->now_ns, read->done_ns);
        }
    }
}

void ps_io_sim_limit(struct ps_io *io, uint64_t limit_ns)
{
    sim_of(io)->limit_ns = limit_ns;
}

void ps_io_sim_set_now(struct ps_io *io, uint64_t now_ns)
{
    assert(now_ns >= sim_of(io)->now_ns);
    sim_of(io)->now_ns = now_ns;
}

uint64_t ps_io_sim_busy_ns(const struct ps_io *io, int drive)
{
    return ((const struct sim *)io)->queues[drive].busy_ns;
}
