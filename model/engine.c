/* The engine: one memory ceiling, the resident weights, the store, the threads. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/budget.h"
#include "core/timeline.h"
#include "core/util.h"
#include "model/ahead.h"
#include "model/engine.h"
#include "model/predictor_learned.h"

static struct ps_weight *weight_slot(struct ps_engine *engine, const struct ps_config_tensor *t)
{
    switch (t->role) {
    case PS_ROLE_EMBED:
        return &engine->embed;
    case PS_ROLE_OUT_NORM:
        return &engine->out_norm;
    case PS_ROLE_HEAD:
        return &engine->head;
    default:
        return &engine->layers[t->layer].weights[t->role];
    }
}

/*
 * Reads an object to *data. Where a drive hangs over it, and there is a second copy, that is read
 * to a place of its own, above the memory ceiling: the drive may still write to the first one.
 */
static int load_object(struct ps_engine *engine, uint32_t object, uint64_t bytes, uint8_t **data,
                       struct ps_error *err)
{
    int rc = ps_store_read(engine->store, object, *data, err);

    while (rc == -ETIMEDOUT && ps_volume_copy_count(engine->model->volume) > 1 &&
           engine->spare_count < PS_SPARE_COUNT_MAX) {
        struct ps_region *spare = &engine->spare_regions[engine->spare_count];
        rc = ps_region_map(spare, bytes, PS_NODE_INTERLEAVE, err);
        if (rc < 0)
            return rc;
        engine->spare_count++;
        *data = spare->base;
        rc = ps_store_read(engine->store, object, *data, err);
    }
    return rc;
}

/* Objects are padded to the volume's alignment, so they can follow each other in one region and
 * each still be the target of O_DIRECT reads. */
static int load_resident(struct ps_engine *engine, struct ps_error *err)
{
    const struct ps_model *model = engine->model;
    uint64_t offset = 0;

    int rc =
        ps_region_map(&engine->resident_region, ps_resident_bytes(model), PS_NODE_INTERLEAVE, err);
    for (uint32_t i = 0; rc >= 0 && i < model->tensor_count; i++) {
        const struct ps_config_tensor *t = &model->tensors[i];
        struct ps_weight *w = weight_slot(engine, t);
        struct ps_object_info info;
        uint64_t rows, cols;
        uint8_t *data = (uint8_t *)engine->resident_region.base + offset;

        uint32_t object = ps_tensor_object(model, t, &info);
        ps_role_shape(&model->config, t->role, &rows, &cols);
        w->rows = (uint32_t)rows;
        w->cols = (uint32_t)cols;
        w->type = t->type;
        w->stride_bytes = ps_row_bytes(t->type, cols);
        rc = load_object(engine, object, info.bytes, &data, err);
        w->data = data;
        offset += info.bytes;
    }
    if (rc >= 0 && !engine->head.data)
        engine->head = engine->embed;
    return rc;
}

static int place_buffers(struct ps_engine *engine, struct ps_error *err)
{
    struct ps_work_size size;

    ps_state_shape(engine->config, &engine->options, &engine->state);
    int rc = ps_region_map(&engine->state_region, engine->options.sessions * engine->state.bytes,
                           PS_NODE_INTERLEAVE, err);
    if (rc < 0)
        return rc;
    ps_work_size(engine->model, &engine->options, &size);
    engine->node_count = size.node_count;
    rc = ps_region_map(&engine->work_region, ps_work_place(&size, NULL, &engine->work),
                       PS_NODE_INTERLEAVE, err);
    if (rc < 0)
        return rc;
    ps_work_place(&size, engine->work_region.base, &engine->work);
    return 0;
}

/* The reference computes its frequencies in float; rounding them likewise keeps far positions
 * equal. */
static int make_frequencies(struct ps_engine *engine, struct ps_error *err)
{
    const struct ps_config *c = engine->config;
    uint32_t half = c->rope_dims / 2;

    engine->inv_freq = calloc(half ? half : 1, sizeof(float));
    if (!engine->inv_freq)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the engine");
    for (uint32_t j = 0; j < half; j++)
        engine->inv_freq[j] = c->rope_table_count
                                  ? c->rope_table[j]
                                  : (float)pow(c->rope_theta, -2.0 * j / c->rope_dims);
    return 0;
}

static int number_layers(struct ps_engine *engine, struct ps_error *err)
{
    uint32_t next[2] = {0, 0};

    engine->layers = calloc(engine->config->layer_count, sizeof(*engine->layers));
    if (!engine->layers)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the engine");
    for (uint32_t l = 0; l < engine->config->layer_count; l++)
        engine->layers[l].mixer_idx = next[engine->config->layers[l].mixer == PS_MIXER_DELTA]++;
    return 0;
}

static void log_pages(const struct ps_engine *engine)
{
    const struct ps_region *r = &engine->resident_region;

    if (r->bytes >= (2u << 20) && r->kind != PS_PAGE_1G && r->kind != PS_PAGE_2M)
        ps_log(PS_LOG_INFO,
               "the resident weights are in %s; huge pages are faster: sudo sysctl "
               "vm.nr_hugepages=%llu",
               ps_page_kind_name(r->kind),
               (unsigned long long)ps_div_up(engine->plan.total_bytes, 2u << 20));
}

int ps_engine_open(struct ps_engine **out, struct ps_model *model,
                   const struct ps_engine_options *options, struct ps_error *err)
{
    uint64_t cache_bytes = 0;
    int rc;

    if (model->engine)
        return ps_error_set(err, -EBUSY, NULL, "the model already has an open engine; close it");
    if (model->is_described)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                            "this model is only described: lay it out to run it");
    struct ps_engine *engine = calloc(1, sizeof(*engine));
    if (!engine)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the engine");
    engine->model = model;
    engine->config = &model->config;
    engine->k = ps_kernels_get(ps_cpu_level());
    rc = ps_engine_plan_make(model, options, &engine->options, &cache_bytes, &engine->plan, err);
    if (rc < 0)
        goto fail;
    engine->thread_count = engine->options.threads;
    if (ps_activations_are_q8(&engine->options))
        engine->q8 = ps_q8_kernels_get(ps_cpu_level());
    engine->ahead.predictor = ps_predictor_from_name(engine->options.predictor);
    uint32_t guess_slots = engine->ahead.predictor == PS_PREDICTOR_OFF
                               ? 0
                               : ps_ahead_slots(model, &engine->options, engine->plan.expert_slots);
    ps_prefetch_init(&engine->ahead.prefetch);
    struct ps_store_options so = {.engine = engine->options.io,
                                  .cache_bytes = cache_bytes,
                                  .lease_count = engine->options.experts_used,
                                  .group_count = engine->config->layer_count,
                                  .prefetch_count = guess_slots,
                                  .run = ps_store_tasks_run,
                                  .run_ctx = engine};
    rc = engine->ahead.predictor == PS_PREDICTOR_LEARNED
             ? ps_learned_load(&engine->learned, model, engine->options.predictor_file, err)
             : 0;
    if (rc >= 0)
        rc = ps_pool_open(&engine->pool, engine->thread_count, err);
    if (rc >= 0)
        rc = ps_usage_open(engine, err);
    so.timeline = engine->timeline;
    if (rc >= 0)
        rc = ps_store_open(&engine->store, model->volume, &so, err);
    if (rc >= 0)
        rc = number_layers(engine, err);
    if (rc >= 0)
        rc = make_frequencies(engine, err);
    if (rc >= 0)
        rc = load_resident(engine, err);
    if (rc >= 0)
        rc = place_buffers(engine, err);
    if (rc < 0)
        goto fail;
    engine->work.staging.capacity = guess_slots;
    /* What the weights were read for is known. */
    if (engine->timeline)
        ps_timeline_reset(engine->timeline);
    log_pages(engine);
    model->engine = engine;
    *out = engine;
    return 0;

fail:
    ps_engine_close(&engine);
    return rc;
}

void ps_engine_close(struct ps_engine **engine)
{
    struct ps_engine *e = engine ? *engine : NULL;

    if (!e)
        return;
    /* Weights that a hanging drive may still write to stay mapped. */
    if (ps_store_close(&e->store) == 0) {
        ps_region_unmap(&e->resident_region);
        for (int i = 0; i < e->spare_count; i++)
            ps_region_unmap(&e->spare_regions[i]);
    }
    ps_pool_close(&e->pool);
    ps_usage_close(e);
    ps_region_unmap(&e->state_region);
    ps_region_unmap(&e->work_region);
    ps_learned_close(&e->learned);
    free(e->inv_freq);
    free(e->layers);
    if (e->model->engine == e)
        e->model->engine = NULL;
    free(e);
    *engine = NULL;
}

void ps_engine_store_stats(const struct ps_engine *engine, struct ps_store_stats *stats)
{
    ps_store_stats(engine->store, stats);
}

void ps_engine_stats(const struct ps_engine *engine, struct ps_engine_stats *stats)
{
    memset(stats, 0, sizeof(*stats));
    ps_store_stats(engine->store, &stats->store);
    stats->member_count = ps_volume_member_count(engine->model->volume);
    for (int i = 0; i < stats->member_count; i++)
        ps_store_member_stats(engine->store, i, &stats->members[i]);
    stats->guesses_read = stats->store.prefetches;
    stats->guesses_right = stats->store.prefetches_used;
    stats->guesses_right_bytes = stats->store.prefetch_used_bytes;
    stats->guesses_vain_bytes = stats->store.prefetch_vain_bytes;
    stats->expert_ns = engine->expert_ns;
    stats->shared_ns = engine->shared_ns;
    stats->prefill_tokens = engine->prefill_tokens;
    stats->prefill_ns = engine->prefill_ns;
    stats->decode_tokens = engine->decode_tokens;
    stats->decode_ns = engine->decode_ns;
    stats->prefill_usage = engine->prefill_usage;
    stats->decode_usage = engine->decode_usage;
    stats->sample_ns = engine->sample_ns;
    stats->memory_peak_bytes = ps_rss_peak_bytes() + ps_mem_hugetlb_peak_bytes();
    stats->hugepage_bytes = ps_mem_hugetlb_bytes();
    stats->budget_bytes = engine->plan.budget_bytes;
    stats->threads = engine->thread_count;
    stats->cpu = ps_cpu_level_name(ps_cpu_level());
}
