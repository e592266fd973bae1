#include "nvme/describe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nvme/plan.h"
#include "nvme/superblock.h"
#include "nvme/volume.h"
#include "nvme/weigh.h"

static int name_members(struct ps_volume *v, int member_count)
{
    char name[32];

    v->members = calloc((size_t)member_count, sizeof(*v->members));
    if (v->members == NULL)
        return -ENOMEM;
    v->member_count = member_count;
    for (int i = 0; i < member_count; i++)
        v->members[i].fd = -1;
    for (int i = 0; i < member_count; i++) {
        snprintf(name, sizeof(name), "drive %d", i + 1);
        v->members[i].path = strdup(name);
        if (v->members[i].path == NULL)
            return -ENOMEM;
    }
    return 0;
}

static int take_profiles(struct ps_volume *v, const struct ps_member_profile *profiles)
{
    v->profiles = calloc((size_t)v->member_count, sizeof(*v->profiles));
    if (v->profiles == NULL)
        return -ENOMEM;
    v->has_profiles = profiles != NULL;
    if (profiles != NULL)
        memcpy(v->profiles, profiles, (size_t)v->member_count * sizeof(*v->profiles));
    return 0;
}

/* The plan's map becomes the volume's. */
static int take_map(struct ps_volume *v, struct ps_plan *plan, struct ps_error *err)
{
    v->map_data = plan->map_data;
    v->map_bytes = plan->map_bytes;
    plan->map_data = NULL;
    ps_uuid_text(plan->uuid, v->uuid);
    return ps_map_parse(&v->map, v->map_data, v->map_bytes, "plan", err);
}

int ps_volume_describe(struct ps_volume **out, const struct ps_layout_spec *spec, int member_count,
                       const struct ps_member_profile *profiles, struct ps_error *err)
{
    struct ps_plan_options options = {.member_count = (uint32_t)member_count,
                                      .align = PS_LAYOUT_ALIGN_MIN,
                                      .copies = 1,
                                      .piece_bytes_min = PS_PIECE_BYTES_MIN};
    uint64_t drives[PS_MEMBER_COUNT_MAX];
    struct ps_plan plan;

    if (member_count < 1 || member_count > PS_MEMBER_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "drives", "a volume has 1 to %d members",
                            PS_MEMBER_COUNT_MAX);
    for (int i = 0; i < member_count; i++) {
        drives[i] = (uint64_t)i + 1;
        options.nodes[i] = PS_NODE_NONE;
    }
    ps_weigh_profiles(&options, profiles, drives);
    int rc = ps_plan_make(&plan, spec, &options, err);
    if (rc < 0)
        return rc;
    struct ps_volume *v = calloc(1, sizeof(*v));
    if (v == NULL || name_members(v, member_count) < 0 || take_profiles(v, profiles) < 0)
        rc = ps_error_set(err, -ENOMEM, NULL, "not enough memory");
    else
        rc = take_map(v, &plan, err);
    ps_plan_fini(&plan);
    if (rc < 0) {
        ps_volume_close(&v);
        return rc;
    }
    *out = v;
    return 0;
}
