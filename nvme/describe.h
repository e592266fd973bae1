/* A volume that is only described: what a layout would make, with nothing on any drive. */
#ifndef PENSTOCK_NVME_DESCRIBE_H
#define PENSTOCK_NVME_DESCRIBE_H

#include "nvme/layout.h"

/*
 * The volume that a layout of this description over so many drives would make, for what plans by
 * its map: objects, slices, pieces, metadata, sizes. Its members are there in name only ("drive 1",
 * ...) and count as missing, so no store opens on it. profiles: [member_count] of the drives, by
 * which their shares are weighed, or NULL. spec is read during the call. *out is owned by the
 * caller (ps_volume_close). Errors: those of ps_plan_make, -ENOMEM.
 */
int ps_volume_describe(struct ps_volume **out, const struct ps_layout_spec *spec, int member_count,
                       const struct ps_member_profile *profiles, struct ps_error *err);

#endif
