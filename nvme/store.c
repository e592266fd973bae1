#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/cond.h"
#include "core/timeline.h"
#include "core/util.h"
#include "nvme/cache.h"
#include "nvme/io.h"
#include "nvme/issuer.h"
#include "nvme/scheduler_internal.h"
#include "nvme/simulation.h"
#include "nvme/store_internal.h"
#include "nvme/volume_internal.h"

/* Test reads of the scheduler need whole blocks. */
#define TABLE_ALIGN PS_IO_ALIGN_BYTES

struct ps_io *ps_store_io(struct ps_store *store)
{
    return store->scheduler.io;
}

void ps_store_timeout_set(struct ps_store *store, uint32_t timeout_ms)
{
    ps_store_lock(store);
    store->scheduler.timeout_ns = timeout_ms * UINT64_C(1000000);
    ps_store_unlock(store);
}

/* ---- open and close -------------------------------------------------------------------------- */

static uint32_t slot_of_fetch(const struct ps_store *store, const struct ps_fetch *fetch)
{
    const struct ps_slot *slot =
        (const struct ps_slot *)((const char *)fetch - offsetof(struct ps_slot, fetch));
    return (uint32_t)(slot - store->cache.slots);
}

static bool is_whole(const struct ps_store *store, const struct ps_fetch *fetch)
{
    return fetch >= store->whole && fetch < store->whole + PS_STORE_WHOLE_COUNT;
}

static void fetch_done(void *ctx, struct ps_fetch *fetch)
{
    struct ps_store *store = ctx;

    if (!is_whole(store, fetch))
        ps_cache_finish(&store->cache, slot_of_fetch(store, fetch));
}

static struct ps_fetch *fetch_move(void *ctx, struct ps_fetch *fetch)
{
    struct ps_store *store = ctx;

    if (is_whole(store, fetch))
        return NULL;
    uint32_t to = ps_cache_move(&store->cache, slot_of_fetch(store, fetch));
    return to == PS_CACHE_NONE ? NULL : &store->cache.slots[to].fetch;
}

/* Starts the issuer, which opens the engine. */
static int start(struct ps_store *store, const struct ps_store_options *options,
                 struct ps_error *err)
{
    int fds[PS_MEMBER_COUNT_MAX];
    const char *names[PS_MEMBER_COUNT_MAX];
    struct ps_io_config config = {
        .engine = options->engine,
        .fds = fds,
        .names = names,
        .member_count = ps_volume_member_count(store->volume),
        .depth = ps_scheduler_engine_depth(store->volume, options->queue_depth),
        .buffers = store->cache.regions,
        .buffer_count = store->cache.plan.region_count,
    };

    for (int i = 0; i < config.member_count; i++) {
        struct ps_member_info info;
        ps_volume_member(store->volume, i, &info);
        fds[i] = ps_volume_fd(store->volume, i);
        names[i] = info.path;
    }
    return ps_issuer_start(&store->issuer, &store->scheduler, &config, err);
}

static void init_scheduler(struct ps_store *store, const struct ps_store_options *options)
{
    struct ps_scheduler *s = &store->scheduler;

    ps_scheduler_init(s, store->volume, options->queue_depth, store->tables);
    s->done = fetch_done;
    s->move = fetch_move;
    s->ctx = store;
    s->run = options->run;
    s->run_ctx = options->run_ctx;
    s->timeout_ns = options->timeout_ms * UINT64_C(1000000);
    s->timeline = options->timeline;
}

/* Scheduler's tables first, then the cache's, then those of ps_store_read. */
static int place_tables(struct ps_store *store, const struct ps_store_plan *plan,
                        struct ps_error *err)
{
    struct ps_fetch none[PS_STORE_WHOLE_COUNT];

    store->table_bytes =
        plan->scheduler_bytes + plan->cache.table_bytes + ps_store_whole_place(plan, NULL, none);
    store->tables = aligned_alloc(TABLE_ALIGN, ps_align_up(store->table_bytes, TABLE_ALIGN));
    if (!store->tables)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the store");
    /* Every page is touched now: what is held is held from the start. */
    memset(store->tables, 0, store->table_bytes);
    ps_store_whole_place(plan,
                         (uint8_t *)store->tables + plan->scheduler_bytes + plan->cache.table_bytes,
                         store->whole);
    return 0;
}

/* What only a simulation has. */
struct simulation {
    const struct ps_sim_drive *drives;
    uint32_t slot_count; /* 0: as memory allows */
};

static int open_store(struct ps_store **out, struct ps_volume *volume,
                      const struct ps_store_options *opts, const struct simulation *sim,
                      struct ps_error *err)
{
    struct ps_store_plan plan;
    /* 0 bytes are too few for anything, and not a wish for the floor. */
    bool fits = ps_store_plan_make(&plan, volume, opts, ps_max_u64(opts->cache_bytes, 1));
    int rc = ps_store_plan_check(&plan, fits, err);
    if (rc < 0)
        return rc;
    if (sim && sim->slot_count > 0)
        ps_cache_plan_limit(&plan.cache, plan.options.lease_count, sim->slot_count);

    struct ps_store *store = calloc(1, sizeof(*store));
    if (!store)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the store");
    store->volume = volume;
    store->source = plan.source_ctx;
    store->prefetch_count = plan.options.prefetch_count;
    store->lease_count = plan.options.lease_count;
    store->piece_bytes_max = plan.piece_bytes_max;
    plan.source.ctx = &store->source;
    rc = place_tables(store, &plan, err);
    if (rc == 0)
        rc = ps_cache_init(&store->cache, &plan.cache, &plan.source,
                           sim ? NULL : plan.topology.node_id,
                           (uint8_t *)store->tables + plan.scheduler_bytes, err);
    if (rc == 0) {
        init_scheduler(store, &plan.options);
        rc = sim ? ps_io_sim_open(&store->scheduler.io, sim->drives, ps_volume_member_count(volume),
                                  ps_scheduler_engine_depth(volume, plan.options.queue_depth), err)
                 : start(store, &plan.options, err);
    }
    if (rc < 0) {
        ps_store_close(&store);
        return rc;
    }
    /* What the engine was planned to take at most, less what it does not. */
    store->memory_bytes =
        ps_store_plan_total(&plan) + store->scheduler.io->memory_bytes -
        ps_io_memory_bytes(plan.options.engine, ps_volume_member_count(volume),
                           ps_scheduler_engine_depth(volume, plan.options.queue_depth));
    *out = store;
    return 0;
}

int ps_store_open(struct ps_store **out, struct ps_volume *volume,
                  const struct ps_store_options *opts, struct ps_error *err)
{
    return open_store(out, volume, opts, NULL, err);
}

int ps_store_simulate(struct ps_store **out, struct ps_volume *volume,
                      const struct ps_store_options *opts, const struct ps_sim_drive *drives,
                      uint32_t slot_count, struct ps_error *err)
{
    struct ps_store_options options = *opts;
    struct simulation sim = {drives, opts->cache_bytes == 0 ? slot_count : 0};

    /* No simulated drive hangs, however slow it is. */
    options.timeout_ms = UINT32_MAX;
    if (opts->cache_bytes == 0)
        options.cache_bytes = UINT64_MAX / 2;
    return open_store(out, volume, &options, &sim, err);
}

uint32_t ps_store_close(struct ps_store **store)
{
    struct ps_store *s = store ? *store : NULL;

    if (!s)
        return 0;
    /* First the engine, which waits for reads in flight; then the memory they go to. What may still
     * be written to after that must never become other memory, so it is lost on purpose. */
    uint32_t left = ps_issuer_stop(&s->issuer);
    /* The issuer has closed its own. */
    if (ps_io_is_simulated(s->scheduler.io))
        ps_io_close(&s->scheduler.io);
    if (s->scheduler.volume)
        ps_scheduler_fini(&s->scheduler);
    if (left == 0) {
        ps_cache_fini(&s->cache);
        free(s->tables);
    }
    free(s);
    *store = NULL;
    return left;
}

/* ---- reading whole objects ------------------------------------------------------------------- */

static int engine_error(const struct ps_store *store, struct ps_error *err)
{
    return ps_error_set(err, store->scheduler.error, store->scheduler.io->ops->id,
                        "the I/O engine has failed (%s); close the store and open it again",
                        ps_strerror(store->scheduler.error));
}

/* As long as it takes to give up a read that hangs twice. */
static uint64_t patience_ns(const struct ps_store *store)
{
    return 2 * store->scheduler.timeout_ns;
}

/* Waits for something that the scheduler does, and helps it meanwhile. False: the time is over. A
 * simulated store has no issuer: whoever waits pumps, and time passes by that. */
static bool wait_news(struct ps_store *store, uint64_t deadline_ns)
{
    struct ps_scheduler *s = &store->scheduler;

    if (ps_io_is_simulated(s->io))
        return ps_scheduler_pump(s) != 0 || s->in_flight > 0;
    return ps_scheduler_help(s) || ps_cond_wait(&s->news, &s->lock, deadline_ns);
}

/* The error of a fetch that may have reads out for good: its memory is not the caller's yet. */
static int whole_error(const struct ps_store *store, const struct ps_fetch *fetch,
                       struct ps_error *err)
{
    struct ps_error first = {0};
    int rc = ps_fetch_error(store->volume, fetch, &first);

    if (fetch->is_active && rc != -ETIMEDOUT)
        return ps_error_set(err, -ETIMEDOUT, first.where,
                            "%s; other reads of it wait for a drive that does not answer",
                            first.text);
    if (err)
        *err = first;
    return rc;
}

/* Waits until the fetch has ended, or has failed and its last reads hang. */
static int wait_whole(struct ps_store *store, struct ps_fetch *fetch, struct ps_error *err)
{
    uint64_t end_ns = UINT64_MAX;

    while (fetch->is_active && fetch->error != -ETIMEDOUT) {
        if (store->scheduler.error)
            return engine_error(store, err);
        if (fetch->error && end_ns == UINT64_MAX)
            end_ns = ps_deadline_ns(patience_ns(store));
        if (!wait_news(store, end_ns))
            break;
    }
    return fetch->error ? whole_error(store, fetch, err) : 0;
}

static int read_whole(struct ps_store *store, uint32_t object, void *buf, struct ps_error *err)
{
    struct ps_fetch *fetch = store->whole;
    struct ps_object_info info;

    if (store->scheduler.error)
        return engine_error(store, err);
    while (fetch->is_active && fetch < store->whole + PS_STORE_WHOLE_COUNT - 1)
        fetch++;
    if (fetch->is_active)
        return ps_error_set(err, -EBUSY, NULL,
                            "earlier reads still wait for a drive that does not answer; close the "
                            "store");
    ps_volume_object(store->volume, object, &info);
    fetch->object = object;
    for (uint32_t s = 0; s < info.slice_count; s++) {
        struct ps_slice_info slice;
        ps_volume_slice(store->volume, object, s, &slice);
        fetch->slices[s] = (uint8_t *)buf + slice.offset_bytes;
    }
    ps_scheduler_start(&store->scheduler, fetch, PS_FETCH_DEMAND);
    return wait_whole(store, fetch, err);
}

int ps_store_read(struct ps_store *store, uint32_t object, void *buf, struct ps_error *err)
{
    if (object >= ps_volume_object_count(store->volume))
        return ps_error_set(err, -ENOENT, NULL, "the volume has no object %u", object);
    if ((uintptr_t)buf % PS_IO_ALIGN_BYTES != 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                            "the buffer of a read must be aligned to %u bytes", PS_IO_ALIGN_BYTES);
    ps_store_lock(store);
    int rc = read_whole(store, object, buf, err);
    ps_store_unlock(store);
    return rc;
}

/* ---- leases ---------------------------------------------------------------------------------- */

/* What the lease says of its slot; news and was_hit are the caller's. The issuer lands slices at
 * any time, the lease tells of them when its owner asks. With the last one it is ready, though the
 * issuer has still to learn of a check that another thread made: what is asked for again meanwhile
 * is in memory. */
static const struct ps_slot *look(const struct ps_store *store, struct ps_lease *lease)
{
    const struct ps_slot *slot = &store->cache.slots[lease->slot];

    lease->object = slot->fetch.object;
    lease->slices = (const uint8_t *const *)slot->fetch.slices;
    memcpy(slot->shown, slot->fetch.landed, slot->fetch.slice_count);
    lease->landed = slot->shown;
    lease->nodes = slot->nodes;
    lease->slice_count = slot->fetch.slice_count;
    lease->landed_count = slot->fetch.landed_count;
    lease->state = lease->landed_count == lease->slice_count ? PS_LEASE_READY : PS_LEASE_READING;
    return slot;
}

/* Records something about an object that lasts since begin_ns, or with 0 a moment. */
static void record(const struct ps_store *store, enum ps_store_event kind, uint32_t object,
                   uint64_t begin_ns)
{
    uint64_t now_ns = ps_scheduler_now_ns(&store->scheduler);
    struct ps_timeline_event event = {
        .kind = (uint16_t)kind, .begin_ns = begin_ns ? begin_ns : now_ns, .end_ns = now_ns};

    ps_object_values(store->volume, object, event.values);
    ps_timeline_add(store->scheduler.timeline, &event);
}

/*
 * When all slots are taken, some by reads that nobody waits for any more, those are waited for: the
 * kernel cannot be made to give their memory back.
 */
static int wait_slot(struct ps_store *store, uint32_t object, uint32_t *slot_idx,
                     struct ps_error *err)
{
    uint64_t begin_ns = ps_load_wait_begin(&store->scheduler, true);
    uint64_t end_ns = begin_ns + patience_ns(store);
    int rc = 0;

    while (*slot_idx == PS_CACHE_NONE && ps_cache_has_orphans(&store->cache, object) &&
           !ps_scheduler_is_stalled(&store->scheduler) && wait_news(store, end_ns)) {
        if (store->scheduler.error) {
            rc = engine_error(store, err);
            break;
        }
        *slot_idx = ps_cache_take(&store->cache, object);
    }
    ps_load_wait_end(&store->scheduler, true);
    if (store->scheduler.timeline)
        record(store, PS_EVENT_WAIT_SLOT, object, begin_ns);
    return rc;
}

static void drop_slot(struct ps_store *store, uint32_t slot_idx)
{
    struct ps_fetch *fetch = &store->cache.slots[slot_idx].fetch;
    bool is_reading = fetch->is_active;

    ps_cache_unstage(&store->cache, slot_idx);
    if (is_reading)
        ps_scheduler_leave(&store->scheduler, fetch);
}

/* Drops the guesses of the object's class that have parts left to read: those come after all that
 * is demanded. */
static void drop_guesses(struct ps_store *store, uint32_t object)
{
    struct ps_cache *cache = &store->cache;

    for (uint32_t i = 0; i < cache->plan.slot_count; i++) {
        const struct ps_slot *slot = &cache->slots[i];
        if (slot->is_staged && slot->class_idx == cache->class_of[object] &&
            slot->fetch.untaken > 0)
            drop_slot(store, i);
    }
}

/* A slot for an object that is not in memory. */
static int take_slot(struct ps_store *store, uint32_t object, uint32_t *slot_idx,
                     struct ps_error *err)
{
    *slot_idx = ps_cache_take(&store->cache, object);
    if (*slot_idx == PS_CACHE_NONE) {
        drop_guesses(store, object);
        *slot_idx = ps_cache_take(&store->cache, object);
    }
    if (*slot_idx != PS_CACHE_NONE)
        return 0;
    int rc =
        ps_cache_has_orphans(&store->cache, object) ? wait_slot(store, object, slot_idx, err) : 0;
    if (rc < 0 || *slot_idx != PS_CACHE_NONE)
        return rc;
    if (ps_cache_has_orphans(&store->cache, object))
        return ps_error_set(err, -ETIMEDOUT, NULL,
                            "the cache's memory waits for reads that a drive has not answered; "
                            "look at the kernel's log (dmesg), or give more --memory");
    return ps_error_set(err, -EAGAIN, NULL, "every slot of the cache is leased; put a lease first");
}

static int64_t find_object(const struct ps_store *store, uint32_t group, uint32_t index,
                           struct ps_error *err)
{
    int64_t object = group < store->source.group_count
                         ? ps_volume_find_streamed(store->volume, group, index)
                         : -ENOENT;

    if (object < 0)
        return ps_error_set(err, -ENOENT, NULL, "the volume has no object %u of group %u", index,
                            group);
    return object;
}

static int get(struct ps_store *store, uint32_t object, struct ps_lease *lease,
               struct ps_error *err)
{
    bool was_guessed = false;

    if (store->scheduler.error)
        return engine_error(store, err);
    uint32_t slot_idx = ps_cache_find(&store->cache, object);
    if (slot_idx != PS_CACHE_NONE) {
        was_guessed = store->cache.slots[slot_idx].was_guessed;
        if (store->cache.slots[slot_idx].lease_count == 0)
            ps_scheduler_renew(&store->cache.slots[slot_idx].fetch);
        ps_cache_lease(&store->cache, slot_idx);
        ps_scheduler_promote(&store->scheduler, &store->cache.slots[slot_idx].fetch);
    } else {
        int rc = take_slot(store, object, &slot_idx, err);
        if (rc < 0)
            return rc;
        ps_scheduler_start(&store->scheduler, &store->cache.slots[slot_idx].fetch, PS_FETCH_DEMAND);
    }
    *lease = (struct ps_lease){.slot = slot_idx};
    look(store, lease);
    lease->was_hit = lease->state == PS_LEASE_READY;
    store->hits += lease->was_hit;
    store->misses += !lease->was_hit;
    if (store->scheduler.timeline)
        record(store,
               lease->was_hit ? (was_guessed ? PS_EVENT_HIT_STAGED : PS_EVENT_HIT)
                              : (was_guessed ? PS_EVENT_MISS_STAGED : PS_EVENT_MISS),
               object, 0);
    return lease->was_hit;
}

int ps_store_get(struct ps_store *store, uint32_t group, uint32_t index, struct ps_lease *lease,
                 struct ps_error *err)
{
    int64_t object = find_object(store, group, index, err);

    if (object < 0)
        return (int)object;
    ps_store_lock(store);
    int rc = get(store, (uint32_t)object, lease, err);
    ps_store_unlock(store);
    return rc;
}

/* Brings the leases up to date. Adds newly landed slices to *news; returns the slot of a lease that
 * has failed, or PS_CACHE_NONE. */
static uint32_t update_leases(struct ps_store *store, struct ps_lease *leases, size_t lease_count,
                              int *news, bool *all_ready)
{
    uint32_t failed = PS_CACHE_NONE;

    *all_ready = true;
    for (size_t i = 0; i < lease_count; i++) {
        struct ps_lease *lease = &leases[i];
        if (!lease->slices)
            continue;
        uint32_t before = lease->landed_count;
        lease->slot = ps_cache_follow(&store->cache, lease->slot);
        const struct ps_slot *slot = look(store, lease);
        *news += (int)(lease->landed_count - before);
        *all_ready &= lease->state == PS_LEASE_READY;
        if (slot->fetch.error && failed == PS_CACHE_NONE)
            failed = lease->slot;
    }
    return failed;
}

static int wait_leases(struct ps_store *store, struct ps_lease *leases, size_t lease_count,
                       struct ps_error *err)
{
    bool all_ready;
    int news = 0;

    for (;;) {
        uint32_t failed = update_leases(store, leases, lease_count, &news, &all_ready);
        if (failed != PS_CACHE_NONE)
            return ps_fetch_error(store->volume, &store->cache.slots[failed].fetch, err);
        if (news > 0 || all_ready)
            return news;
        if (store->scheduler.error)
            return engine_error(store, err);
        wait_news(store, UINT64_MAX);
    }
}

/* Records a wait for an object that returned `news`. before_ns: the causes' sums when it began. */
static void record_wait(const struct ps_store *store, uint32_t object, uint64_t begin_ns,
                        const uint64_t *before_ns, int news)
{
    struct ps_timeline_event event = {
        .kind = PS_EVENT_WAIT, .begin_ns = begin_ns, .end_ns = store->scheduler.load.at_ns};
    uint64_t most_ns = 0;

    ps_object_values(store->volume, object, event.values);
    event.values[1] = news > 0 ? (uint32_t)news : 0;
    for (uint32_t c = 0; c < PS_WAIT_CAUSE_COUNT; c++) {
        uint64_t ns = store->scheduler.load.wait_ns[c] - before_ns[c];
        if (ns <= most_ns)
            continue;
        most_ns = ns;
        event.values[2] = c;
    }
    ps_timeline_add(store->scheduler.timeline, &event);
}

int ps_store_wait(struct ps_store *store, struct ps_lease *leases, size_t lease_count,
                  struct ps_error *err)
{
    uint64_t before_ns[PS_WAIT_CAUSE_COUNT];

    ps_store_lock(store);
    uint64_t begin_ns = ps_load_wait_begin(&store->scheduler, false);
    memcpy(before_ns, store->scheduler.load.wait_ns, sizeof(before_ns));
    int rc = wait_leases(store, leases, lease_count, err);
    store->wait_ns += ps_load_wait_end(&store->scheduler, false) - begin_ns;
    if (store->scheduler.timeline && lease_count > 0)
        record_wait(store, leases->object, begin_ns, before_ns, rc);
    ps_store_unlock(store);
    return rc;
}

void ps_store_put(struct ps_store *store, struct ps_lease *lease)
{
    ps_store_lock(store);
    if (lease->slices)
        ps_cache_release(&store->cache, ps_cache_follow(&store->cache, lease->slot));
    ps_store_unlock(store);
    memset(lease, 0, sizeof(*lease));
}

/* ---- guesses --------------------------------------------------------------------------------- */

/* Half of what leases leave of the class. */
static uint32_t stage_most(const struct ps_store *store, uint32_t object)
{
    const struct ps_cache_plan *plan = &store->cache.plan;
    const struct ps_cache_class *class = &plan->classes[store->cache.class_of[object]];
    uint64_t leased =
        ps_min_u64(store->lease_count, class->object_count) * (uint64_t)plan->copy_count;

    return class->slot_count > leased ? (class->slot_count - (uint32_t)leased) / 2 : 0;
}

static int no_room(struct ps_error *err)
{
    return ps_error_set(err, -EAGAIN, NULL, "there is no slot for a guess");
}

static int prefetch(struct ps_store *store, uint32_t object, double chance, struct ps_error *err)
{
    if (store->scheduler.error)
        return engine_error(store, err);
    struct ps_cache *cache = &store->cache;
    uint32_t most = cache->staged_count < store->prefetch_count ? stage_most(store, object) : 0;
    uint32_t slot_idx = ps_cache_find(cache, object);
    if (slot_idx != PS_CACHE_NONE) {
        const struct ps_slot *slot = &cache->slots[slot_idx];
        if (slot->state != PS_SLOT_READY || slot->lease_count > 0 || slot->is_staged)
            return 2;
        return ps_cache_hold(cache, slot_idx, most) ? 1 : no_room(err);
    }
    slot_idx = ps_cache_stage(cache, object, most);
    if (slot_idx == PS_CACHE_NONE)
        return no_room(err);
    struct ps_fetch *fetch = &cache->slots[slot_idx].fetch;
    fetch->guess_depth = PS_PREFETCH_DEPTH;
    if (chance > 1 - 1.0 / PS_PREFETCH_DEPTH)
        fetch->guess_depth = chance < 1 ? (uint32_t)fmin(1 / (1 - chance), UINT32_MAX) : UINT32_MAX;
    ps_scheduler_start(&store->scheduler, fetch, PS_FETCH_PREFETCH);
    return 0;
}

int ps_store_prefetch(struct ps_store *store, uint32_t group, uint32_t index, double chance,
                      struct ps_error *err)
{
    int64_t object = find_object(store, group, index, err);

    if (object < 0)
        return (int)object;
    ps_store_lock(store);
    int rc = prefetch(store, (uint32_t)object, chance, err);
    ps_store_unlock(store);
    return rc;
}

void ps_store_pace(struct ps_store *store, struct ps_store_pace *pace)
{
    const struct ps_scheduler *s = &store->scheduler;

    ps_store_lock(store);
    *pace = (struct ps_store_pace){
        .idle_ns = s->demand_gap_ns,
        .rate_bytes_per_s = ps_scheduler_rate(s),
        .delay_bytes = (double)PS_PREFETCH_DEPTH * s->queue_count *
                       (double)ps_min_u64(store->piece_bytes_max, PS_PART_BYTES_MAX),
    };
    ps_store_unlock(store);
}

uint32_t ps_store_missing(struct ps_store *store, uint32_t group, const uint32_t *indexes,
                          uint32_t count, bool *is_missing)
{
    uint32_t missing = 0;

    ps_store_lock(store);
    for (uint32_t i = 0; i < count; i++) {
        int64_t object = find_object(store, group, indexes[i], NULL);
        is_missing[i] =
            object >= 0 && ps_cache_find(&store->cache, (uint32_t)object) == PS_CACHE_NONE;
        missing += is_missing[i];
    }
    ps_store_unlock(store);
    return missing;
}

static void touch(struct ps_store *store, uint32_t object)
{
    uint32_t slot_idx = ps_cache_find(&store->cache, object);

    if (slot_idx == PS_CACHE_NONE)
        return;
    struct ps_slot *slot = &store->cache.slots[slot_idx];
    if (slot->lease_count > 0 || (slot->state != PS_SLOT_READY && !slot->is_staged))
        return;
    ps_cache_touch(&store->cache, slot_idx);
    ps_scheduler_promote(&store->scheduler, &slot->fetch);
}

void ps_store_touch(struct ps_store *store, uint32_t group, const uint32_t *indexes, uint32_t count)
{
    ps_store_lock(store);
    for (uint32_t i = 0; i < count; i++) {
        int64_t object = find_object(store, group, indexes[i], NULL);
        if (object >= 0)
            touch(store, (uint32_t)object);
    }
    ps_store_unlock(store);
}

void ps_store_drop(struct ps_store *store, uint32_t group, uint32_t index)
{
    ps_store_lock(store);
    int64_t object = find_object(store, group, index, NULL);
    uint32_t slot_idx =
        object >= 0 ? ps_cache_find(&store->cache, (uint32_t)object) : PS_CACHE_NONE;
    if (slot_idx != PS_CACHE_NONE && store->cache.slots[slot_idx].is_staged)
        drop_slot(store, slot_idx);
    ps_store_unlock(store);
}

/* ---- simulation ------------------------------------------------------------------------------ */

uint64_t ps_store_sim_now_ns(const struct ps_store *store)
{
    return ps_scheduler_now_ns(&store->scheduler);
}

/* The issuer of a real store takes what comes back, and issues what there is room for, while the
 * caller computes. */
int ps_store_sim_advance(struct ps_store *store, uint64_t ns, struct ps_error *err)
{
    struct ps_scheduler *s = &store->scheduler;
    uint64_t until_ns = ps_scheduler_now_ns(s) + ns;
    int count;

    ps_store_lock(store);
    ps_io_sim_compute(s->io, ns);
    ps_io_sim_limit(s->io, until_ns);
    do
        count = ps_scheduler_pump(s);
    while (count > 0);
    ps_io_sim_limit(s->io, UINT64_MAX);
    ps_io_sim_set_now(s->io, until_ns);
    ps_store_unlock(store);
    return count < 0 ? engine_error(store, err) : 0;
}

void ps_store_sim_issue(struct ps_store *store, uint64_t issue_ns)
{
    ps_io_sim_issue(store->scheduler.io, issue_ns);
}

void ps_store_policy_set(struct ps_store *store, const struct ps_cache_policy *policy)
{
    ps_store_lock(store);
    store->cache.policy = policy;
    ps_store_unlock(store);
}

uint64_t ps_store_sim_busy_ns(const struct ps_store *store, int member)
{
    return ps_io_sim_busy_ns(store->scheduler.io, member);
}
