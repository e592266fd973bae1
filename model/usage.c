/* What threads and drives did, added up by phase and recorded for a timeline. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/timeline.h"
#include "core/util.h"
#include "model/engine.h"

int ps_usage_open(struct ps_engine *engine, struct ps_error *err)
{
    uint64_t bytes = (uint64_t)engine->thread_count * sizeof(*engine->thread_times);
    uint32_t events = engine->options.timeline_events;

    engine->thread_times = aligned_alloc(sizeof(*engine->thread_times), bytes);
    if (!engine->thread_times)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the engine");
    memset(engine->thread_times, 0, bytes);
    engine->open_ns = ps_now_ns();
    engine->open_ticks = ps_ticks();
    if (events == 0)
        return 0;
    int rc =
        ps_region_map(&engine->timeline_region, ps_timeline_bytes(events), PS_NODE_INTERLEAVE, err);
    if (rc >= 0)
        engine->timeline = ps_timeline_init(engine->timeline_region.base, events);
    return rc;
}

void ps_usage_close(struct ps_engine *engine)
{
    free(engine->thread_times);
    ps_region_unmap(&engine->timeline_region);
}

struct ps_timeline *ps_engine_timeline(struct ps_engine *engine)
{
    return engine->timeline;
}

void ps_usage_thread(struct ps_engine *engine, int thread_idx, uint64_t begin, uint64_t task_count)
{
    uint64_t end = ps_usage_clock(engine);

    /* Ticks of two CPUs may differ a little, and the main thread is free to move. */
    engine->thread_times[thread_idx].busy += end > begin ? end - begin : 0;
    if (engine->timeline)
        ps_timeline_add(engine->timeline,
                        &(struct ps_timeline_event){
                            .kind = PS_EVENT_TASKS,
                            .lane = (uint16_t)thread_idx,
                            .begin_ns = begin,
                            .end_ns = end,
                            .values = {engine->layer, engine->stage, (uint32_t)task_count}});
}

/* What all threads have done so far. The longer ago the engine was opened, the better is known how
 * long a tick is. */
static uint64_t compute_ns(const struct ps_engine *engine)
{
    uint64_t busy = 0, ticks = ps_ticks() - engine->open_ticks;

    for (int t = 0; t < engine->thread_count; t++)
        busy += engine->thread_times[t].busy;
    if (engine->timeline || ticks == 0)
        return busy;
    return (uint64_t)((double)busy * (double)(ps_now_ns() - engine->open_ns) / (double)ticks);
}

void ps_usage_record(const struct ps_engine *engine, enum ps_engine_event kind, uint64_t begin_ns,
                     uint32_t a, uint32_t b)
{
    if (engine->timeline)
        ps_timeline_add(engine->timeline, &(struct ps_timeline_event){.kind = (uint16_t)kind,
                                                                      .begin_ns = begin_ns,
                                                                      .end_ns = ps_now_ns(),
                                                                      .values = {a, b}});
}

void ps_usage_take(const struct ps_engine *engine, struct ps_usage *usage)
{
    struct ps_store_stats store;

    memset(usage, 0, sizeof(*usage));
    ps_store_stats(engine->store, &store);
    usage->wait_ns = store.wait_ns + store.wait_cause_ns[PS_WAIT_SLOT];
    memcpy(usage->wait_cause_ns, store.wait_cause_ns, sizeof(usage->wait_cause_ns));
    for (int m = 0; m < ps_volume_member_count(engine->model->volume); m++) {
        struct ps_store_member_stats member;
        ps_store_member_stats(engine->store, m, &member);
        usage->drive_ns[m] = member.busy_ns;
    }
    usage->compute_ns = compute_ns(engine);
}

void ps_usage_add(const struct ps_engine *engine, const struct ps_usage *before,
                  struct ps_usage *sum)
{
    struct ps_usage now;

    ps_usage_take(engine, &now);
    sum->compute_ns += now.compute_ns - ps_min_u64(now.compute_ns, before->compute_ns);
    sum->wait_ns += now.wait_ns - before->wait_ns;
    for (int m = 0; m < PS_MEMBER_COUNT_MAX; m++)
        sum->drive_ns[m] += now.drive_ns[m] - before->drive_ns[m];
    for (int c = 0; c < PS_WAIT_CAUSE_COUNT; c++)
        sum->wait_cause_ns[c] += now.wait_cause_ns[c] - before->wait_cause_ns[c];
}
