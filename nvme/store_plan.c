/* What a store will take, and where on the machine. Opens and allocates nothing. */
#include <string.h>

#include "core/arena.h"
#include "core/budget.h"
#include "core/util.h"
#include "nvme/io.h"
#include "nvme/issuer.h"
#include "nvme/store_internal.h"
#include "nvme/volume.h"
#include "nvme/volume_internal.h"

#define QUEUE_DEPTH_MAX (PS_IO_DEPTH_MAX / 2)
/* malloc's own words around the tables. */
#define MALLOC_BYTES 8192u

/* ---- what is cached, and where it belongs ---------------------------------------------------- */

static bool describe_object(const void *ctx, uint32_t object, struct ps_cache_object *out)
{
    const struct ps_store_source *source = ctx;
    struct ps_object_info info;

    ps_volume_object(source->volume, object, &info);
    out->bytes = info.bytes;
    out->slice_count = info.slice_count;
    if (info.kind != PS_OBJECT_STREAMED || info.group >= source->group_count)
        return false;
    out->part_count = ps_object_part_count(source->volume, object);
    return true;
}

/* A slice belongs to the node on which the drives of most of its bytes hang. */
static int describe_slice(const void *ctx, uint32_t object, uint32_t slice, uint32_t *bytes)
{
    const struct ps_store_source *source = ctx;
    uint64_t sums[PS_NODE_COUNT_MAX];
    struct ps_slice_info info;
    uint32_t count;
    int best = PS_CACHE_NODE_ANY;

    ps_volume_slice(source->volume, object, slice, &info);
    *bytes = info.bytes;
    if (source->node_count == 1)
        return 0;
    const struct ps_disk_piece *pieces =
        ps_volume_slice_pieces(source->volume, object, slice, 0, &count);
    memset(sums, 0, (size_t)source->node_count * sizeof(*sums));
    for (uint32_t i = 0; i < count; i++) {
        int node = source->member_node[pieces[i].member];
        if (node == PS_CACHE_NODE_ANY)
            continue;
        sums[node] += pieces[i].bytes;
        if (best == PS_CACHE_NODE_ANY || sums[node] > sums[best])
            best = node;
    }
    return best;
}

/* A drive on a node without CPUs of ours belongs to none. */
static void find_nodes(struct ps_store_plan *plan, const struct ps_volume *volume)
{
    struct ps_store_source *source = &plan->source_ctx;

    source->volume = volume;
    source->node_count = plan->topology.node_count;
    source->group_count = plan->options.group_count ? plan->options.group_count : UINT32_MAX;
    for (int m = 0; m < ps_volume_member_count(volume); m++) {
        int id = ps_volume_member_node(volume, m);
        source->member_node[m] = PS_CACHE_NODE_ANY;
        for (int n = 0; id >= 0 && n < source->node_count; n++) {
            if (plan->topology.node_id[n] == id)
                source->member_node[m] = n;
        }
    }
    plan->source = (struct ps_cache_source){
        .ctx = source,
        .object_count = ps_volume_object_count(volume),
        .object = describe_object,
        .slice = describe_slice,
        .node_count = source->node_count,
        .copy_count = ps_volume_copy_count(volume),
    };
}

/* ---- sizes ----------------------------------------------------------------------------------- */

uint64_t ps_store_whole_place(const struct ps_store_plan *plan, void *table, struct ps_fetch *whole)
{
    struct ps_arena a = {table, 0};

    for (int i = 0; i < PS_STORE_WHOLE_COUNT; i++) {
        struct ps_fetch *fetch = &whole[i];
        fetch->slices = ps_arena_take(&a, plan->slice_count_max, sizeof(*fetch->slices));
        fetch->pending = ps_arena_take(&a, plan->slice_count_max, sizeof(*fetch->pending));
        fetch->landed = ps_arena_take(&a, plan->slice_count_max, sizeof(*fetch->landed));
        fetch->tries = ps_arena_take(&a, plan->slice_count_max, sizeof(*fetch->tries));
        fetch->parts = ps_arena_take(&a, plan->part_count_max, sizeof(*fetch->parts));
    }
    return a.used;
}

uint64_t ps_store_plan_total(const struct ps_store_plan *plan)
{
    return plan->fixed_bytes + plan->cache.mapped_bytes + plan->cache.table_bytes;
}

/* The longest piece of an object. */
static uint64_t piece_bytes_max(const struct ps_volume *volume, uint32_t object,
                                uint32_t slice_count)
{
    uint64_t most = 0;

    for (uint32_t s = 0; s < slice_count; s++) {
        uint32_t count;
        const struct ps_disk_piece *pieces = ps_volume_slice_pieces(volume, object, s, 0, &count);
        for (uint32_t i = 0; i < count; i++)
            most = ps_max_u64(most, pieces[i].bytes);
    }
    return most;
}

static void set_defaults(struct ps_store_options *o)
{
    o->engine = o->engine ? o->engine : "uring";
    o->lease_count = o->lease_count ? o->lease_count : 1;
    if (o->timeout_ms == 0)
        o->timeout_ms = (uint32_t)(PS_READ_TIMEOUT_NS / 1000000);
}

bool ps_store_plan_make(struct ps_store_plan *plan, const struct ps_volume *volume,
                        const struct ps_store_options *options, uint64_t budget_bytes)
{
    int members = ps_volume_member_count(volume);
    struct ps_store_options *o = &plan->options;
    struct ps_fetch none[PS_STORE_WHOLE_COUNT];

    memset(plan, 0, sizeof(*plan));
    *o = *options;
    set_defaults(o);
    ps_topology_get(&plan->topology);
    /* Simulated drives hang on no node of this machine. */
    plan->topology.node_count = volume->is_map_only ? 1 : plan->topology.node_count;
    find_nodes(plan, volume);
    for (uint32_t i = 0; i < plan->source.object_count; i++) {
        struct ps_cache_object object;
        if (describe_object(&plan->source_ctx, i, &object))
            plan->piece_bytes_max =
                ps_max_u64(plan->piece_bytes_max, piece_bytes_max(volume, i, object.slice_count));
        plan->slice_count_max = (uint32_t)ps_max_u64(plan->slice_count_max, object.slice_count);
        plan->part_count_max =
            (uint32_t)ps_max_u64(plan->part_count_max, ps_object_part_count(volume, i));
    }
    uint32_t depth = (uint32_t)ps_min_u64(o->queue_depth, QUEUE_DEPTH_MAX);
    plan->scheduler_bytes = ps_scheduler_table_bytes(volume, depth);
    plan->fixed_bytes =
        sizeof(struct ps_store) + plan->scheduler_bytes + ps_store_whole_place(plan, NULL, none) +
        MALLOC_BYTES + PS_ISSUER_STACK_BYTES +
        ps_io_memory_bytes(o->engine, members, ps_scheduler_engine_depth(volume, depth));
    if (budget_bytes == 0)
        return ps_cache_plan_make(&plan->cache, &plan->source, o->lease_count,
                                  PS_IO_BUFFER_BYTES_MAX, 0);
    /* 1: no room for anything, where 0 would ask for the floor. */
    uint64_t left = budget_bytes > plan->fixed_bytes ? budget_bytes - plan->fixed_bytes : 1;
    return ps_cache_plan_make(&plan->cache, &plan->source, o->lease_count, PS_IO_BUFFER_BYTES_MAX,
                              left);
}

int ps_store_plan_check(const struct ps_store_plan *plan, bool fits, struct ps_error *err)
{
    const struct ps_store_options *o = &plan->options;
    char need[32], have[32];

    if (!ps_io_engine_known(o->engine))
        return ps_error_set(err, -PS_ERR_ARGUMENT, "io", "'%s' is not an I/O engine; there are %s",
                            o->engine, ps_io_engine_names());
    if (o->queue_depth > QUEUE_DEPTH_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "io",
                            "a queue depth of %u is not possible; it may be 1 to %u",
                            o->queue_depth, QUEUE_DEPTH_MAX);
    if (!fits)
        return ps_error_set(
            err, -PS_ERR_MEMORY_FLOOR, "memory",
            "the cache needs at least %s, for %u experts of a layer at once, and was given %s",
            ps_size_text_binary(ps_store_plan_total(plan), need, sizeof(need)), o->lease_count,
            ps_size_text_binary(o->cache_bytes, have, sizeof(have)));
    return 0;
}

/* ---- what others may ask --------------------------------------------------------------------- */

uint64_t ps_store_floor_bytes(const struct ps_volume *volume, const struct ps_store_options *opts)
{
    struct ps_store_plan plan;

    ps_store_plan_make(&plan, volume, opts, 0);
    return ps_store_plan_total(&plan);
}

uint64_t ps_store_plan_bytes(const struct ps_volume *volume, const struct ps_store_options *opts,
                             uint32_t *slot_count)
{
    struct ps_store_plan plan;
    bool fits = opts->cache_bytes > 0 && ps_store_plan_make(&plan, volume, opts, opts->cache_bytes);

    if (slot_count)
        *slot_count = fits ? plan.cache.slot_count : 0;
    return fits ? ps_store_plan_total(&plan) : 0;
}

void ps_store_placement(const struct ps_volume *volume, const struct ps_store_options *opts,
                        struct ps_store_placement *placement)
{
    struct ps_store_plan plan;

    ps_store_plan_make(&plan, volume, opts, opts->cache_bytes);
    memset(placement, 0, sizeof(*placement));
    placement->node_count = plan.topology.node_count;
    for (int n = 0; n < placement->node_count; n++) {
        placement->node_id[n] = plan.topology.node_id[n];
        placement->cache_bytes[n] = plan.cache.node_mapped_bytes[n];
    }
    for (uint32_t i = 0; i < plan.source.object_count; i++) {
        struct ps_cache_object object;
        if (!describe_object(&plan.source_ctx, i, &object))
            continue;
        for (uint32_t s = 0; s < object.slice_count; s++) {
            uint32_t bytes;
            int node = describe_slice(&plan.source_ctx, i, s, &bytes);
            if (node == PS_CACHE_NODE_ANY)
                placement->floating_bytes += bytes;
            else
                placement->object_bytes[node] += bytes;
        }
    }
}
