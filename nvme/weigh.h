/* How much of the data each member is to get: by the speed of its drive, and by its room. No I/O.
 */
#ifndef PENSTOCK_NVME_WEIGH_H
#define PENSTOCK_NVME_WEIGH_H

#include <stdbool.h>

#include "nvme/plan.h"

/* Members that share room for data: a device by itself, or all files of one file system. */
struct ps_room {
    uint64_t members; /* bit m: member m is one of them */
    uint64_t bytes;   /* of data that they can hold together */
};

/*
 * Sets weights and piece_bytes_min by what was measured ([member_count] profiles, or NULL). Members
 * of one drive (equal numbers in drives[member_count]; 0: unknown) share its bandwidth. Members
 * within 10 % of each other, or of which one is unknown, count as equal; else the fastest gets
 * 1000.
 */
void ps_weigh_profiles(struct ps_plan_options *options, const struct ps_member_profile *profiles,
                       const uint64_t *drives);

/*
 * Lowers weights until no room is given more than it holds: what is too small gets what it holds,
 * the others share the rest by their weights. Returns false, with *options unchanged, when all
 * rooms together hold too little for object_bytes in as many copies as the options say.
 */
bool ps_weigh_rooms(struct ps_plan_options *options, const struct ps_room *rooms, int room_count,
                    uint64_t object_bytes);

#endif
