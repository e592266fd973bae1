/* A volume that is only a map, made by the planner that lays real ones out. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "nvme/plan.h"
#include "nvme/simulation.h"
#include "nvme/volume.h"
#include "nvme/weigh.h"

#define REQUEST_BYTES (1u << 20)
#define DEPTH_MAX 32u

/* As a probe would find it: the least depth that reaches 97 % of the bandwidth. */
static void profile_of(const struct ps_sim_drive *drive, struct ps_member_profile *profile)
{
    uint64_t service_ns, latency_ns;

    ps_sim_drive_cost(drive, REQUEST_BYTES, &service_ns, &latency_ns);
    uint64_t depth = ps_div_up((service_ns + latency_ns) * 97, ps_max_u64(service_ns, 1) * 100);
    *profile = (struct ps_member_profile){
        .bytes_per_s = (uint64_t)(REQUEST_BYTES * 1e9 / (double)ps_max_u64(service_ns, 1)),
        .latency_ns = service_ns + latency_ns,
        .request_bytes = REQUEST_BYTES,
        .depth = (uint32_t)ps_min_u64(ps_max_u64(depth, 2), DEPTH_MAX),
    };
}

static int fill(struct ps_volume *v, const struct ps_plan *plan, struct ps_error *err)
{
    v->map_data = malloc(plan->map_bytes);
    v->members = calloc((size_t)v->member_count, sizeof(*v->members));
    for (int m = 0; v->members && m < v->member_count; m++)
        v->members[m].fd = -1;
    if (!v->map_data || !v->members)
        return ps_error_set(err, -ENOMEM, "simulation", "out of memory");
    for (int m = 0; m < v->member_count; m++) {
        char name[32];
        snprintf(name, sizeof(name), "drive %d", m + 1);
        v->members[m].path = strdup(name);
        if (!v->members[m].path)
            return ps_error_set(err, -ENOMEM, "simulation", "out of memory");
    }
    memcpy(v->map_data, plan->map_data, plan->map_bytes);
    v->map_bytes = plan->map_bytes;
    return ps_map_parse(&v->map, v->map_data, v->map_bytes, "simulation", err);
}

int ps_volume_simulate(struct ps_volume **out, const struct ps_layout_object *objects,
                       uint32_t object_count, const struct ps_sim_drive *drives, int drive_count,
                       struct ps_error *err)
{
    struct ps_layout_spec spec = {
        .objects = objects, .object_count = object_count, .source_name = "simulation"};
    struct ps_plan_options options = {
        .member_count = (uint32_t)drive_count, .align = PS_LAYOUT_ALIGN_MIN, .copies = 1};
    uint64_t none[PS_MEMBER_COUNT_MAX] = {0};
    struct ps_plan plan = {0};
    struct ps_volume *v = NULL;
    int rc = -ENOMEM;

    if (drive_count < 1 || drive_count > PS_MEMBER_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "simulation", "there may be 1 to %d drives",
                            PS_MEMBER_COUNT_MAX);
    v = calloc(1, sizeof(*v));
    if (v) {
        v->is_map_only = v->has_profiles = true;
        v->profiles = calloc((size_t)drive_count, sizeof(*v->profiles));
    }
    if (!v || !v->profiles) {
        rc = ps_error_set(err, -ENOMEM, "simulation", "out of memory");
        goto fail;
    }
    v->member_count = drive_count;
    memset(options.nodes, PS_NODE_NONE, sizeof(options.nodes));
    for (int m = 0; m < drive_count; m++)
        profile_of(&drives[m], &v->profiles[m]);
    ps_weigh_profiles(&options, v->profiles, none);
    rc = ps_plan_make(&plan, &spec, &options, err);
    if (rc == 0)
        rc = fill(v, &plan, err);
    if (rc < 0)
        goto fail;
    ps_plan_fini(&plan);
    *out = v;
    return 0;
fail:
    ps_plan_fini(&plan);
    if (v && v->members == NULL)
        v->member_count = 0;
    ps_volume_close(&v);
    return rc;
}
