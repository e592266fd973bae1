/* ps_model_layout: plan, then have it written. */
#include "core/topology.h"
#include "model/import.h"

static uint64_t payload_bytes(const struct ps_import *import)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < import->object_count; i++)
        for (uint32_t k = 0; k < import->objects[i].slice_count; k++)
            bytes += import->objects[i].slices[k].bytes;
    return bytes;
}

/* More than processors by default: while some convert, others wait for the source or a member. */
#define WORKERS_WAITING 4

static int worker_count(int threads)
{
    struct ps_topology topo;

    if (threads > 0)
        return threads;
    ps_topology_get(&topo);
    return topo.cpu_count + WORKERS_WAITING;
}

int ps_model_layout(const struct ps_model_layout_options *options,
                    struct ps_model_layout_report *report, struct ps_error *err)
{
    struct ps_layout_options write = {
        .members = options->members,
        .member_count = options->member_count,
        .copies = options->copies,
        .profiles = options->profiles,
        .resume = options->resume,
        .destroy = options->destroy,
        .destroy_count = options->destroy_count,
        .threads = worker_count(options->threads),
        .progress = options->progress,
        .progress_ctx = options->progress_ctx,
        .stop = options->stop,
    };
    struct ps_import *import = NULL;
    int rc = ps_import_open(&import, options, write.threads, err);

    if (rc < 0)
        return rc;
    for (int i = 0; i < options->member_count && rc >= 0; i++)
        rc = ps_source_check_member(import->source, options->members[i], err);
    if (rc >= 0)
        rc = ps_layout_write(&import->spec, &write, ps_import_fill, import, err);
    if (rc >= 0 && report) {
        *report = import->report;
        report->bytes = payload_bytes(import);
    }
    ps_import_close(&import);
    return rc;
}
