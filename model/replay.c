/*
 * The loop of model/moe.c over a trace, on a simulated store: lease what a layer needs, compute
 * what is there, wait, compute slices as they land. What the arithmetic takes is the caller's word.
 */
#include "model/replay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/expert.h"
#include "model/replay_internal.h"
#include "nvme/policy.h"
#include "nvme/simulation.h"

#define SLICE_BYTES_DEFAULT (2u << 20)
#define SLICE_COUNT_MAX 4096u

/* One expert of the layer that is being computed. */
struct job {
    uint32_t expert, done_slices, take_end;
};

struct run {
    const struct ps_replay *replay;
    const struct ps_replay_options *options;
    struct ps_replay_result result;
    struct ps_sim_drive drives[PS_MEMBER_COUNT_MAX];
    double rate_bytes_per_s; /* of all drives */
    struct ps_layout_object *objects;
    struct ps_layout_slice *slices; /* of all objects, those of a layer's experts alike or not */
    char (*names)[24];
    struct ps_volume *volume;
    struct ps_policy *policy;
    struct ps_store *store;
    struct ps_lease *leases; /* [K] */
    struct job *jobs;        /* [K] */
    struct ps_replay_ahead ahead;
    uint32_t *experts;                 /* [K] */
    uint8_t *is_known;                 /* [L, E]: asked for before */
    uint64_t taken_bytes, taken_reads; /* for which the processors have done their part */
    /* Of the layer. */
    uint64_t token;
    uint32_t layer, job_count, head, tail;
    bool is_woken; /* from a wait of this layer */
};

/* ---- drives ---------------------------------------------------------------------------------- */

static int set_drives(struct run *run, struct ps_error *err)
{
    const struct ps_replay_options *o = run->options;

    if (o->drive_count < 1 || o->drive_count > PS_MEMBER_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "drives", "there may be 1 to %d drives",
                            PS_MEMBER_COUNT_MAX);
    for (int d = 0; d < o->drive_count; d++) {
        const struct ps_replay_drive *drive = &o->drives[d];
        uint64_t service_ns, latency_ns;
        if (drive->probe ? !ps_sim_drive_probed(&run->drives[d], drive->probe)
                         : drive->bytes_per_s == 0)
            return ps_error_set(err, -PS_ERR_ARGUMENT, "drives", "drive %d reads nothing", d + 1);
        if (!drive->probe)
            ps_sim_drive_init(&run->drives[d], drive->bytes_per_s, drive->latency_ns);
        ps_sim_drive_cost(&run->drives[d], 1u << 20, &service_ns, &latency_ns);
        run->rate_bytes_per_s += 0x1p20 * 1e9 / (double)ps_max_u64(service_ns, 1);
    }
    run->result.drive_count = o->drive_count;
    return 0;
}

/* ---- the volume ------------------------------------------------------------------------------ */

/* The number of an expert in the volume whose cuts are taken; -1 with a sentence. */
static int64_t find_object(const struct run *run, uint32_t layer, uint32_t expert,
                           struct ps_error *err)
{
    uint32_t group = run->replay->layers[layer];
    int64_t object = ps_volume_find_streamed(run->options->volume, group, expert);

    if (object < 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "replay",
                            "the volume has no expert %u in layer %u: it is not of the model that "
                            "the trace was made with",
                            expert, group);
    return object;
}

static int count_slices(const struct run *run, uint32_t layer, uint32_t expert, uint64_t *bytes,
                        struct ps_error *err)
{
    const struct ps_replay_options *o = run->options;
    struct ps_object_info info;

    if (o->volume) {
        int64_t object = find_object(run, layer, expert, err);
        if (object < 0)
            return (int)object;
        ps_volume_object(o->volume, (uint32_t)object, &info);
        *bytes = info.bytes;
        return (int)info.slice_count;
    }
    *bytes = o->expert_bytes ? o->expert_bytes : run->replay->expert_bytes[layer];
    uint64_t count = ps_div_up(*bytes, o->slice_bytes ? o->slice_bytes : SLICE_BYTES_DEFAULT);
    if (*bytes == 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "replay",
                            "the trace does not tell how large its experts are; say it with "
                            "--expert-bytes, or name a --volume");
    if (count > SLICE_COUNT_MAX || *bytes / count > PS_SLICE_BYTES_MAX / 2)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "replay",
                            "experts of so many bytes are not "
                            "possible");
    return (int)count;
}

static void fill_slices(const struct run *run, uint32_t layer, uint32_t expert, uint64_t bytes,
                        const struct ps_layout_object *object)
{
    struct ps_layout_slice *slices = run->slices + (object->slices - run->slices);

    for (uint32_t s = 0; s < object->slice_count; s++) {
        struct ps_slice_info info;
        if (!run->options->volume) {
            uint64_t end = bytes * (s + 1) / object->slice_count;
            slices[s] = (struct ps_layout_slice){(uint32_t)(end - bytes * s / object->slice_count),
                                                 s * PS_FOLD_NEURONS, PS_FOLD_NEURONS};
            continue;
        }
        int64_t number = find_object(run, layer, expert, NULL);
        ps_volume_slice(run->options->volume, (uint32_t)number, s, &info);
        slices[s] = (struct ps_layout_slice){info.bytes, info.unit_begin, info.unit_count};
    }
}

/* Two walks over all experts: what there is to hold, then what it is. Objects of layer l are the
 * numbers l * E to l * E + E - 1. */
static int describe_objects(struct run *run, struct ps_error *err)
{
    uint32_t layers = run->replay->info.layer_count, experts = run->replay->info.expert_count;
    uint64_t slice_count = 0, at = 0, bytes = 0;

    for (uint32_t i = 0; i < layers * experts; i++) {
        int count = count_slices(run, i / experts, i % experts, &bytes, err);
        if (count < 0)
            return count;
        slice_count += (uint64_t)count;
    }
    run->objects = calloc((size_t)layers * experts, sizeof(*run->objects));
    run->names = calloc((size_t)layers * experts, sizeof(*run->names));
    run->slices = calloc(slice_count, sizeof(*run->slices));
    if (!run->objects || !run->names || !run->slices)
        return ps_error_set(err, -ENOMEM, "replay", "out of memory");
    for (uint32_t i = 0; i < layers * experts; i++) {
        int count = count_slices(run, i / experts, i % experts, &bytes, err);
        snprintf(run->names[i], sizeof(run->names[i]), "%u.%u", i / experts, i % experts);
        run->objects[i] = (struct ps_layout_object){.kind = PS_OBJECT_STREAMED,
                                                    .group = i / experts,
                                                    .index = i % experts,
                                                    .name = run->names[i],
                                                    .slices = run->slices + at,
                                                    .slice_count = (uint32_t)count};
        fill_slices(run, i / experts, i % experts, bytes, &run->objects[i]);
        run->result.expert_bytes = ps_max_u64(run->result.expert_bytes, bytes);
        at += (uint64_t)count;
    }
    run->result.expert_count = layers * experts;
    return ps_volume_simulate(&run->volume, run->objects, layers * experts, run->drives,
                              run->options->drive_count, err);
}

/* ---- the store ------------------------------------------------------------------------------- */

/* The numbers of all experts in the order in which they are asked for. */
static int list_uses(const struct run *run, uint32_t **uses, struct ps_error *err)
{
    const struct ps_replay *r = run->replay;
    uint64_t at = 0;

    *uses = calloc(ps_max_u64(r->asked, 1), sizeof(**uses));
    if (!*uses)
        return ps_error_set(err, -ENOMEM, "replay", "out of memory");
    for (uint64_t t = 0; t < r->info.token_count; t++) {
        for (uint32_t l = 0; l < r->info.layer_count; l++) {
            const uint16_t *experts;
            uint32_t count = ps_replay_experts(r, t, l, &experts);
            for (uint32_t i = 0; i < count; i++)
                (*uses)[at++] = (uint32_t)ps_volume_find_streamed(run->volume, l, experts[i]);
        }
    }
    return 0;
}

static int open_policy(struct run *run, struct ps_error *err)
{
    const char *name = run->options->policy ? run->options->policy : "lru";
    int kind = ps_policy_find(name), rc = 0;
    uint32_t *uses = NULL;

    if (kind < 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "policy",
                            "'%s' is not a policy; there are lru, lfu, least-stale and belady",
                            name);
    if (kind == PS_POLICY_BELADY)
        rc = list_uses(run, &uses, err);
    if (rc == 0)
        rc = ps_policy_open(&run->policy, (enum ps_policy_kind)kind, run->volume, uses,
                            uses ? run->replay->asked : 0, err);
    free(uses);
    return rc;
}

static int open_store(struct run *run, struct ps_error *err)
{
    const struct ps_replay_options *o = run->options;
    uint32_t k = run->replay->info.experts_used;
    struct ps_store_options options = {.lease_count = k, .cache_bytes = o->cache_bytes};
    struct ps_store_stats stats;

    if (o->cache_bytes == UINT64_MAX)
        options.cache_bytes = ps_store_floor_bytes(run->volume, &options);
    /* How many guesses are held follows from what the memory comes to. */
    options.prefetch_count = ps_replay_ahead_slots(run->replay, o, run->result.expert_count);
    int rc = ps_store_simulate(&run->store, run->volume, &options, run->drives,
                               (uint32_t)ps_max_u64(o->slot_count, 1), err);
    if (rc < 0)
        return rc;
    ps_store_sim_issue(run->store, o->compute.issue_ns);
    ps_store_policy_set(run->store, ps_policy_hook(run->policy));
    ps_store_stats(run->store, &stats);
    run->result.slot_count = (uint32_t)stats.slot_count;
    run->result.cache_bytes = stats.memory_bytes;
    run->ahead.store = run->store;
    run->ahead.expert_bytes = run->result.expert_bytes;
    run->ahead.staging.capacity = ps_replay_ahead_slots(run->replay, o, run->result.slot_count);
    return 0;
}

static int open_run(struct run *run, struct ps_error *err)
{
    const struct ps_trace_info *info = &run->replay->info;

    run->leases = calloc(info->experts_used, sizeof(*run->leases));
    run->jobs = calloc(info->experts_used, sizeof(*run->jobs));
    run->experts = calloc(info->experts_used, sizeof(*run->experts));
    run->is_known = calloc(info->layer_count, info->expert_count);
    if (!run->leases || !run->jobs || !run->experts || !run->is_known)
        return ps_error_set(err, -ENOMEM, "replay", "out of memory");
    int rc = ps_replay_ahead_open(&run->ahead, run->replay, run->options, err);
    if (rc == 0)
        rc = set_drives(run, err);
    if (rc == 0)
        rc = describe_objects(run, err);
    if (rc == 0)
        rc = open_policy(run, err);
    return rc == 0 ? open_store(run, err) : rc;
}

static void close_run(struct run *run)
{
    ps_store_close(&run->store);
    ps_policy_close(&run->policy);
    ps_volume_close(&run->volume);
    free(run->objects);
    free(run->names);
    free(run->slices);
    free(run->leases);
    free(run->jobs);
    free(run->experts);
    ps_replay_ahead_close(&run->ahead);
    free(run->is_known);
}

/* ---- a layer --------------------------------------------------------------------------------- */

static const struct ps_layout_object *object_of(const struct run *run, uint32_t job)
{
    return &run->objects[run->layer * run->replay->info.expert_count + run->jobs[job].expert];
}

static uint64_t bytes_of(const struct ps_layout_object *object, uint32_t begin, uint32_t end)
{
    uint64_t bytes = 0;

    for (uint32_t s = begin; s < end; s++)
        bytes += object->slices[s].bytes;
    return bytes;
}

/* Books a lease that was just given. */
/* Where an expert stands in what the trace has guessed of this layer one layer ahead. */
static uint32_t rank_of(const struct run *run, uint32_t expert)
{
    const struct ps_trace_info *info = &run->replay->info;
    struct ps_trace_token token = {.ranks = run->replay->ranks};
    uint32_t rank = 0;

    if (!token.ranks)
        return UINT32_MAX;
    token.ranks += run->token * info->layer_count * info->depth_count * info->rank_count;
    const uint16_t *ranks = ps_trace_ranks(info, &token, run->layer, 1);
    while (rank < info->rank_count && ranks[rank] != expert)
        rank++;
    return rank < info->rank_count ? rank : UINT32_MAX;
}

static void note_lease(struct run *run, uint32_t job, bool was_hit)
{
    struct ps_replay_result *r = &run->result;
    const struct ps_layout_object *object = object_of(run, job);
    uint8_t *is_known =
        &run->is_known[run->layer * run->replay->info.expert_count + run->jobs[job].expert];

    r->asked++;
    r->hits += was_hit;
    r->firsts += !*is_known;
    r->warm_hits += was_hit && *is_known;
    *is_known = 1;
    if (was_hit && !run->ahead.was_staged[run->jobs[job].expert])
        return;
    uint32_t rank = rank_of(run, run->jobs[job].expert), k = run->replay->info.experts_used;
    r->demands++;
    r->demands_guessed_k += rank < k;
    r->demands_guessed_2k += rank < 2 * k;
    r->demand_bytes += bytes_of(object, 0, object->slice_count);
}

static int lease_more(struct run *run, struct ps_error *err)
{
    for (; run->tail < run->job_count; run->tail++) {
        int rc = ps_store_get(run->store, run->layer, run->jobs[run->tail].expert,
                              &run->leases[run->tail], err);
        if (rc == -EAGAIN && run->tail > run->head)
            return 0;
        if (rc < 0)
            return rc;
        note_lease(run, run->tail, rc == 1);
    }
    return 0;
}

/* Slices that have landed and can be computed up to the end of a fold, as in moe.c. */
static uint32_t ready_slices(const struct run *run, uint32_t job)
{
    const struct ps_layout_object *object = object_of(run, job);
    const struct ps_layout_slice *slices = object->slices;
    uint32_t end = run->jobs[job].done_slices;

    for (uint32_t s = end; s < object->slice_count && run->leases[job].landed[s]; s++) {
        if ((slices[s].unit_begin + slices[s].unit_count) % PS_FOLD_NEURONS == 0 ||
            s + 1 == object->slice_count)
            end = s + 1;
    }
    return end;
}

static uint64_t plan_round(struct run *run)
{
    uint64_t ns = 0;

    for (uint32_t j = run->head; j < run->tail; j++) {
        const struct ps_layout_object *object = object_of(run, j);
        double whole = (double)bytes_of(object, 0, object->slice_count);
        struct job *job = &run->jobs[j];
        job->take_end = ready_slices(run, j);
        double part = (double)bytes_of(object, job->done_slices, job->take_end) / whole;
        ns += (uint64_t)(part * (double)run->options->compute.expert_ns + 0.5);
    }
    return ns;
}

static bool has_round(const struct run *run)
{
    for (uint32_t j = run->head; j < run->tail; j++) {
        if (run->jobs[j].take_end > run->jobs[j].done_slices)
            return true;
    }
    return false;
}

static int pass(struct run *run, uint64_t ns, struct ps_error *err)
{
    run->result.compute_ns += ns;
    return ps_store_sim_advance(run->store, ns, err);
}

/* The processors' part in what has come since the last time. In a wait they have nothing else to do
 * than to take it back, but they must be woken: between the reads of one layer they sleep less
 * deeply, and no longer to wake than they slept. */
static int take_back(struct run *run, uint64_t waited_ns, struct ps_error *err)
{
    const struct ps_replay_compute *c = &run->options->compute;
    struct ps_store_stats stats;

    if (c->check_ns == 0 && c->read_ns == 0 && c->wake_ns == 0)
        return 0;
    ps_store_stats(run->store, &stats);
    double experts = (double)(stats.streamed_bytes - run->taken_bytes) /
                     (double)ps_max_u64(run->result.expert_bytes, 1);
    uint64_t ns = (uint64_t)(experts * (double)c->check_ns);
    if (waited_ns > 0)
        ns += run->is_woken ? ps_min_u64(c->wake_ns, waited_ns) : c->wake_ns;
    else
        ns += (stats.read_count - run->taken_reads) * c->read_ns;
    run->is_woken |= waited_ns > 0;
    run->taken_bytes = stats.streamed_bytes;
    run->taken_reads = stats.read_count;
    return ns > 0 ? pass(run, ns, err) : 0;
}

static int compute(struct run *run, uint64_t ns, struct ps_error *err)
{
    int rc = pass(run, ns, err);

    return rc < 0 ? rc : take_back(run, 0, err);
}

static void retire(struct run *run)
{
    for (uint32_t j = run->head; j < run->tail; j++)
        run->jobs[j].done_slices = run->jobs[j].take_end;
    while (run->head < run->tail &&
           run->jobs[run->head].done_slices == object_of(run, run->head)->slice_count)
        ps_store_put(run->store, &run->leases[run->head++]);
}

static int run_experts(struct run *run, struct ps_error *err)
{
    int rc = 0;

    while (rc >= 0 && run->head < run->job_count) {
        rc = lease_more(run, err);
        if (rc < 0)
            break;
        if (run->tail == run->job_count)
            ps_staging_issue(&run->ahead.staging, run->store);
        uint64_t ns = plan_round(run);
        if (!has_round(run)) {
            uint64_t begin_ns = ps_store_sim_now_ns(run->store);
            rc = ps_store_wait(run->store, run->leases + run->head, run->tail - run->head, err);
            uint64_t waited_ns = ps_store_sim_now_ns(run->store) - begin_ns;
            rc = rc < 0 ? rc : take_back(run, waited_ns, err);
            continue;
        }
        rc = compute(run, ns, err);
        retire(run);
    }
    return rc;
}

static int run_layer(struct run *run, struct ps_error *err)
{
    const struct ps_replay_compute *c = &run->options->compute;
    uint64_t demand_before = run->result.demand_bytes;
    const uint16_t *experts;

    int rc = compute(run, c->mixer_ns, err);
    if (rc < 0)
        return rc;
    run->head = run->tail = 0;
    run->is_woken = false;
    run->job_count = ps_replay_experts(run->replay, run->token, run->layer, &experts);
    for (uint32_t j = 0; j < run->job_count; j++) {
        run->jobs[j] = (struct job){.expert = experts[j]};
        run->experts[j] = experts[j];
    }
    ps_replay_ahead_settle(&run->ahead, run->layer, run->experts, run->job_count);
    if ((rc = lease_more(run, err)) < 0 || (rc = compute(run, c->shared_ns, err)) < 0)
        return rc;
    if (ps_replay_ahead_guess(&run->ahead, run->token, run->layer))
        rc = compute(run, c->predict_ns, err);
    if (rc < 0 || (rc = run_experts(run, err)) < 0)
        return rc;
    double read_ns =
        (double)(run->result.demand_bytes - demand_before) * 1e9 / run->rate_bytes_per_s;
    run->result.bound_layers_ns +=
        c->mixer_ns + ps_max_u64((uint64_t)read_ns, c->shared_ns + run->job_count * c->expert_ns);
    return 0;
}

/* ---- all ------------------------------------------------------------------------------------- */

static int play(struct run *run, struct ps_error *err)
{
    const struct ps_replay_options *o = run->options;
    const struct ps_trace_info *info = &run->replay->info;

    for (run->token = 0; run->token < info->token_count; run->token++) {
        for (run->layer = 0; run->layer < info->layer_count; run->layer++) {
            int rc = run_layer(run, err);
            if (rc < 0)
                return rc;
        }
        int rc = compute(run, o->compute.token_ns, err);
        if (rc < 0)
            return rc;
        run->result.bound_layers_ns += o->compute.token_ns;
        if (o->stop && *o->stop)
            return ps_error_set(err, -EINTR, "replay", "stopped");
    }
    return 0;
}

static void finish(struct run *run, uint64_t ns)
{
    struct ps_replay_result *r = &run->result;
    struct ps_store_stats stats;

    ps_store_stats(run->store, &stats);
    r->tokens = run->replay->info.token_count;
    r->ns = ns;
    r->read_bytes = stats.streamed_bytes;
    r->prefetches = stats.prefetches;
    r->prefetches_used = stats.prefetches_used;
    r->stall_ns = stats.wait_ns;
    uint64_t read_ns = (uint64_t)((double)r->demand_bytes * 1e9 / run->rate_bytes_per_s);
    r->bound_overlap_ns = ps_max_u64(read_ns, r->compute_ns);
    for (int d = 0; d < r->drive_count; d++)
        r->busy[d] = (double)ps_store_sim_busy_ns(run->store, d) / (double)ps_max_u64(ns, 1);
}

int ps_replay_run(const struct ps_replay *replay, const struct ps_replay_options *options,
                  struct ps_replay_result *result, struct ps_error *err)
{
    struct run run = {.replay = replay, .options = options};

    if (options->predictor == PS_REPLAY_TRACE && !replay->ranks)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "predictor",
                            "the trace has no guesses: take off, oracle or recall=R");
    int rc = open_run(&run, err);
    uint64_t begin_ns = rc == 0 ? ps_store_sim_now_ns(run.store) : 0;
    if (rc == 0)
        rc = play(&run, err);
    if (rc == 0) {
        finish(&run, ps_store_sim_now_ns(run.store) - begin_ns);
        *result = run.result;
    }
    close_run(&run);
    return rc;
}
