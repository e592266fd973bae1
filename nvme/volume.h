/* An open volume: its members and its map. */
#ifndef PENSTOCK_NVME_VOLUME_H
#define PENSTOCK_NVME_VOLUME_H

#include "nvme/map.h"
#include "nvme/member.h"
#include "nvme/penstock_io.h"

struct ps_volume {
    char uuid[37];
    int member_count;
    struct ps_member *members; /* [member_count], by number; one may be missing: fd -1, path as it
                                  was last seen (never NULL), the rest zero */
    void *map_data;
    uint64_t map_bytes;
    struct ps_map map;
    struct ps_member_profile *profiles; /* [member_count] */
    bool has_profiles;                  /* something is recorded */
    bool is_map_only;                   /* there are no members: simulation.h */
};

/* The number of the member that this path leads to, or -1. */
int ps_volume_find_path(const struct ps_volume *volume, const char *path);

/*
 * Makes the shared locks of all members exclusive. -PS_ERR_IN_USE when somebody else holds one of
 * them (all are shared again then).
 */
int ps_volume_lock(const struct ps_volume *volume, struct ps_error *err);
/* Back to shared locks. */
void ps_volume_unlock(const struct ps_volume *volume);

/*
 * Reads and checks the copy of the map on one member: checksum, structure, and agreement with the
 * member's own superblock. *data (malloc) and *map are filled only on success; map refers to data.
 */
int ps_volume_map_read(const struct ps_member *member, void **data, struct ps_map *map,
                       struct ps_error *err);

#endif
