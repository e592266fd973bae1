#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/budget.h"
#include "core/topology.h"
#include "core/util.h"
#include "nvme/cache.h"
#include "nvme/io.h"
#include "nvme/scheduler.h"
#include "nvme/volume_internal.h"

#define TABLE_ALIGN 64u
/* malloc's own words around the tables. */
#define MALLOC_BYTES 8192u
/* On machines with several nodes shorter regions spread a small cache over all of them. */
#define NODE_REGION_BYTES ((uint64_t)256 << 20)

struct ps_store {
    struct ps_volume *volume;
    struct ps_io *io;
    struct ps_scheduler scheduler;
    struct ps_cache cache;
    struct ps_fetch whole; /* the object that ps_store_read reads */
    void *tables;
    uint8_t *cache_table; /* in tables */
    uint64_t table_bytes;
    uint64_t hits, misses, wait_ns;
};

/* ---- plan ------------------------------------------------------------------------------------ */

/* What the options come to. */
struct plan {
    struct ps_store_options options; /* defaults filled in */
    struct ps_cache_source source;
    struct ps_cache_plan cache;
    struct ps_topology topology;
    uint64_t scheduler_bytes; /* tables */
    uint32_t slice_count_max; /* of any object, for ps_store_read */
    uint64_t fixed_bytes;     /* all but the cache */
};

static bool describe_object(const void *ctx, uint32_t object, uint64_t *bytes,
                            uint32_t *slice_count)
{
    struct ps_object_info info;

    ps_volume_object(ctx, object, &info);
    *bytes = info.bytes;
    *slice_count = info.slice_count;
    return info.kind == PS_OBJECT_STREAMED;
}

static uint64_t whole_table_bytes(const struct plan *plan)
{
    return ps_align_up(plan->slice_count_max * sizeof(uint32_t), TABLE_ALIGN) +
           ps_align_up(plan->slice_count_max, TABLE_ALIGN);
}

static uint64_t plan_total(const struct plan *plan)
{
    return plan->fixed_bytes + plan->cache.mapped_bytes + plan->cache.table_bytes;
}

/* budget_bytes 0: the floor. Returns false when the budget is below that; plan->cache is the floor
 * then. */
static bool plan_make(struct plan *plan, const struct ps_volume *volume,
                      const struct ps_store_options *options, uint64_t budget_bytes)
{
    int members = ps_volume_member_count(volume);
    struct ps_store_options *o = &plan->options;

    memset(plan, 0, sizeof(*plan));
    *o = *options;
    o->engine = o->engine ? o->engine : "uring";
    o->queue_depth = o->queue_depth ? o->queue_depth : PS_IO_DEPTH_DEFAULT;
    o->lease_count = o->lease_count ? o->lease_count : 1;
    plan->source =
        (struct ps_cache_source){volume, ps_volume_object_count(volume), describe_object};
    for (uint32_t i = 0; i < plan->source.object_count; i++) {
        uint64_t bytes;
        uint32_t slices;
        describe_object(volume, i, &bytes, &slices);
        plan->slice_count_max = (uint32_t)ps_max_u64(plan->slice_count_max, slices);
    }
    plan->scheduler_bytes = ps_scheduler_table_bytes(members, o->queue_depth);
    plan->fixed_bytes = sizeof(struct ps_store) + plan->scheduler_bytes + whole_table_bytes(plan) +
                        MALLOC_BYTES + ps_io_memory_bytes(o->engine, members, o->queue_depth);
    ps_topology_get(&plan->topology);
    uint64_t region = plan->topology.node_count > 1 ? NODE_REGION_BYTES : PS_IO_BUFFER_BYTES_MAX;
    if (budget_bytes == 0)
        return ps_cache_plan_make(&plan->cache, &plan->source, o->lease_count, region, 0);
    /* 1: no room for anything, where 0 would ask for the floor. */
    uint64_t left = budget_bytes > plan->fixed_bytes ? budget_bytes - plan->fixed_bytes : 1;
    return ps_cache_plan_make(&plan->cache, &plan->source, o->lease_count, region, left);
}

uint64_t ps_store_floor_bytes(const struct ps_volume *volume, const struct ps_store_options *opts)
{
    struct plan plan;

    plan_make(&plan, volume, opts, 0);
    return plan_total(&plan);
}

uint64_t ps_store_plan_bytes(const struct ps_volume *volume, const struct ps_store_options *opts,
                             uint32_t *slot_count)
{
    struct plan plan;
    bool fits = opts->cache_bytes > 0 && plan_make(&plan, volume, opts, opts->cache_bytes);

    if (slot_count)
        *slot_count = fits ? plan.cache.slot_count : 0;
    return fits ? plan_total(&plan) : 0;
}

/* ---- open and close -------------------------------------------------------------------------- */

static void fetch_done(void *ctx, struct ps_fetch *fetch)
{
    struct ps_store *store = ctx;

    if (fetch != &store->whole) {
        struct ps_slot *slot = (struct ps_slot *)((char *)fetch - offsetof(struct ps_slot, fetch));
        ps_cache_finish(&store->cache, (uint32_t)(slot - store->cache.slots));
    }
}

static int open_engine(struct ps_store *store, const struct ps_store_options *options,
                       struct ps_error *err)
{
    int fds[PS_MEMBER_COUNT_MAX];
    const char *names[PS_MEMBER_COUNT_MAX];
    struct ps_io_config config = {
        .engine = options->engine,
        .fds = fds,
        .names = names,
        .member_count = ps_volume_member_count(store->volume),
        .depth = options->queue_depth,
        .buffers = store->cache.regions,
        .buffer_count = store->cache.plan.region_count,
    };

    for (int i = 0; i < config.member_count; i++) {
        struct ps_member_info info;
        ps_volume_member(store->volume, i, &info);
        fds[i] = ps_volume_fd(store->volume, i);
        names[i] = info.path;
    }
    return ps_io_open(&store->io, &config, err);
}

/* Scheduler's tables first, then the cache's, then those of ps_store_read. */
static int place_tables(struct ps_store *store, const struct plan *plan, struct ps_error *err)
{
    store->table_bytes = plan->scheduler_bytes + whole_table_bytes(plan) + plan->cache.table_bytes;
    store->tables = aligned_alloc(TABLE_ALIGN, store->table_bytes);
    if (!store->tables)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the store");
    /* Every page is touched now: what is held is held from the start. */
    memset(store->tables, 0, store->table_bytes);
    store->cache_table = (uint8_t *)store->tables + plan->scheduler_bytes;
    store->whole.pending = (uint32_t *)(void *)(store->cache_table + plan->cache.table_bytes);
    store->whole.landed = (uint8_t *)store->whole.pending +
                          ps_align_up(plan->slice_count_max * sizeof(uint32_t), TABLE_ALIGN);
    return 0;
}

static int check_options(const struct plan *plan, bool fits, struct ps_error *err)
{
    const struct ps_store_options *o = &plan->options;
    char need[32], have[32];

    if (!ps_io_engine_known(o->engine))
        return ps_error_set(err, -PS_ERR_ARGUMENT, "io",
                            "'%s' is not an I/O engine; there are uring, pread, pagecache, mmap",
                            o->engine);
    if (o->queue_depth > PS_IO_DEPTH_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "io",
                            "a queue depth of %u is not possible; it may be 1 to %u",
                            o->queue_depth, PS_IO_DEPTH_MAX);
    if (!fits)
        return ps_error_set(
            err, -PS_ERR_MEMORY_FLOOR, "memory",
            "the cache needs at least %s, for %u experts of a layer at once, and was given %s",
            ps_size_text_binary(plan_total(plan), need, sizeof(need)), o->lease_count,
            ps_size_text_binary(o->cache_bytes, have, sizeof(have)));
    return 0;
}

int ps_store_open(struct ps_store **out, struct ps_volume *volume,
                  const struct ps_store_options *opts, struct ps_error *err)
{
    struct plan plan;
    /* 0 bytes are too few for anything, and not a wish for the floor. */
    bool fits = plan_make(&plan, volume, opts, ps_max_u64(opts->cache_bytes, 1));
    int rc = check_options(&plan, fits, err);
    if (rc < 0)
        return rc;

    struct ps_store *store = calloc(1, sizeof(*store));
    if (!store)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the store");
    store->volume = volume;
    rc = place_tables(store, &plan, err);
    if (rc == 0)
        rc = ps_cache_init(&store->cache, &plan.cache, &plan.source, plan.topology.node_id,
                           plan.topology.node_count, store->cache_table, err);
    if (rc == 0)
        rc = open_engine(store, &plan.options, err);
    if (rc < 0) {
        ps_store_close(&store);
        return rc;
    }
    ps_scheduler_init(&store->scheduler, volume, store->io, plan.options.queue_depth,
                      store->tables);
    store->scheduler.done = fetch_done;
    store->scheduler.ctx = store;
    *out = store;
    return 0;
}

void ps_store_close(struct ps_store **store)
{
    struct ps_store *s = store ? *store : NULL;

    if (!s)
        return;
    /* First the engine, which waits for reads in flight; then the memory they go to. */
    ps_io_close(&s->io);
    ps_cache_fini(&s->cache);
    free(s->tables);
    free(s);
    *store = NULL;
}

/* ---- reading --------------------------------------------------------------------------------- */

static int engine_error(const struct ps_store *store, struct ps_error *err)
{
    return ps_error_set(err, store->scheduler.error, store->io->ops->id,
                        "the I/O engine has failed (%s); close the store and open it again",
                        ps_strerror(store->scheduler.error));
}

int ps_store_read(struct ps_store *store, uint32_t object, void *buf, struct ps_error *err)
{
    struct ps_fetch *fetch = &store->whole;

    if (object >= ps_volume_object_count(store->volume))
        return ps_error_set(err, -ENOENT, NULL, "the volume has no object %u", object);
    if ((uintptr_t)buf % PS_IO_ALIGN_BYTES != 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                            "the buffer of a read must be aligned to %u bytes", PS_IO_ALIGN_BYTES);
    if (store->scheduler.error)
        return engine_error(store, err);
    fetch->object = object;
    fetch->data = buf;
    ps_scheduler_start(&store->scheduler, fetch);
    /* Also after an error until the last request is back: buf is the caller's again then. */
    while (fetch->is_active) {
        if (ps_scheduler_pump(&store->scheduler, true) < 0)
            return engine_error(store, err);
    }
    return fetch->error ? ps_fetch_error(store->volume, fetch, err) : 0;
}

static void fill_lease(struct ps_store *store, uint32_t slot_idx, struct ps_lease *lease)
{
    const struct ps_slot *slot = &store->cache.slots[slot_idx];
    bool is_ready = slot->state == PS_SLOT_READY;

    *lease = (struct ps_lease){
        .object = slot->fetch.object,
        .slot = slot_idx,
        .data = slot->fetch.data,
        .landed = slot->fetch.landed,
        .slice_count = slot->fetch.slice_count,
        .landed_count = slot->fetch.landed_count,
        .was_hit = is_ready,
        .state = is_ready ? PS_LEASE_READY : PS_LEASE_READING,
    };
}

/*
 * A slot for an object that is not in memory. When all slots are taken, some by reads that nobody
 * waits for any more, those are waited for: the kernel cannot be made to give their memory back.
 */
static int take_slot(struct ps_store *store, uint32_t object, uint32_t *slot_idx,
                     struct ps_error *err)
{
    *slot_idx = ps_cache_take(&store->cache, object);
    while (*slot_idx == PS_CACHE_NONE && ps_cache_has_orphans(&store->cache, object)) {
        if (ps_scheduler_pump(&store->scheduler, true) < 0)
            return engine_error(store, err);
        *slot_idx = ps_cache_take(&store->cache, object);
    }
    if (*slot_idx == PS_CACHE_NONE)
        return ps_error_set(err, -EAGAIN, NULL,
                            "every slot of the cache is leased; put a lease first");
    return 0;
}

int ps_store_get(struct ps_store *store, uint32_t group, uint32_t index, struct ps_lease *lease,
                 struct ps_error *err)
{
    int64_t object = ps_volume_find_streamed(store->volume, group, index);

    if (object < 0)
        return ps_error_set(err, -ENOENT, NULL, "the volume has no object %u of group %u", index,
                            group);
    /* Asking is also the occasion on which the drives are given more to do. */
    if (ps_scheduler_pump(&store->scheduler, false) < 0)
        return engine_error(store, err);
    uint32_t slot_idx = ps_cache_find(&store->cache, (uint32_t)object);
    if (slot_idx != PS_CACHE_NONE) {
        ps_cache_lease(&store->cache, slot_idx);
    } else {
        int rc = take_slot(store, (uint32_t)object, &slot_idx, err);
        if (rc < 0)
            return rc;
        ps_scheduler_start(&store->scheduler, &store->cache.slots[slot_idx].fetch);
    }
    fill_lease(store, slot_idx, lease);
    store->hits += lease->was_hit;
    store->misses += !lease->was_hit;
    return lease->was_hit;
}

/* Brings the leases up to date. Adds newly landed slices to *news; returns the slot of a lease that
 * has failed, or PS_CACHE_NONE. */
static uint32_t update_leases(struct ps_store *store, struct ps_lease *leases, size_t lease_count,
                              int *news, bool *all_ready)
{
    uint32_t failed = PS_CACHE_NONE;

    *all_ready = true;
    for (size_t i = 0; i < lease_count; i++) {
        const struct ps_slot *slot;
        if (!leases[i].data)
            continue;
        slot = &store->cache.slots[leases[i].slot];
        *news += (int)(slot->fetch.landed_count - leases[i].landed_count);
        leases[i].landed_count = slot->fetch.landed_count;
        if (slot->state == PS_SLOT_READY)
            leases[i].state = PS_LEASE_READY;
        else
            *all_ready = false;
        if (slot->fetch.error && failed == PS_CACHE_NONE)
            failed = leases[i].slot;
    }
    return failed;
}

static int wait_leases(struct ps_store *store, struct ps_lease *leases, size_t lease_count,
                       struct ps_error *err)
{
    bool wait = false, all_ready;
    int news = 0;

    for (;;) {
        if (ps_scheduler_pump(&store->scheduler, wait) < 0)
            return engine_error(store, err);
        uint32_t failed = update_leases(store, leases, lease_count, &news, &all_ready);
        if (failed != PS_CACHE_NONE)
            return ps_fetch_error(store->volume, &store->cache.slots[failed].fetch, err);
        if (news > 0 || all_ready)
            return news;
        wait = true;
    }
}

int ps_store_wait(struct ps_store *store, struct ps_lease *leases, size_t lease_count,
                  struct ps_error *err)
{
    uint64_t begin_ns = ps_now_ns();
    int rc = wait_leases(store, leases, lease_count, err);

    store->wait_ns += ps_now_ns() - begin_ns;
    return rc;
}

void ps_store_put(struct ps_store *store, struct ps_lease *lease)
{
    if (lease->data)
        ps_cache_release(&store->cache, lease->slot);
    memset(lease, 0, sizeof(*lease));
}

void ps_store_stats(const struct ps_store *store, struct ps_store_stats *stats)
{
    const struct ps_cache_plan *plan = &store->cache.plan;

    *stats = (struct ps_store_stats){
        .engine = store->io->ops->id,
        .direct = store->io->direct,
        .registered_buffers = store->io->registered,
        .read_bytes = store->scheduler.read_bytes,
        .read_count = store->scheduler.read_count,
        .streamed_bytes = store->scheduler.streamed_bytes,
        .hits = store->hits,
        .misses = store->misses,
        .evictions = store->cache.eviction_count,
        .wait_ns = store->wait_ns,
        .slot_count = plan->slot_count,
        .cache_bytes = plan->mapped_bytes,
        .cache_waste_bytes = plan->waste_bytes,
        .memory_bytes = sizeof(*store) + store->table_bytes + MALLOC_BYTES + plan->mapped_bytes +
                        store->io->memory_bytes,
    };
}
