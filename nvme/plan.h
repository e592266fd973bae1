/* The plan of a layout: where every byte will lie, and the map that says so. No I/O. */
#ifndef PENSTOCK_NVME_PLAN_H
#define PENSTOCK_NVME_PLAN_H

#include "nvme/format.h"
#include "nvme/layout.h"

/* A unit of work: slices of one object that are produced and written together. */
struct ps_plan_job {
    uint32_t object, slice_begin, slice_end; /* slices counted in the object */
    uint64_t first_slice;                    /* slice_begin, counted in the map */
    uint64_t bytes;                          /* with padding */
};

struct ps_plan {
    uint8_t *map_data; /* the map as it will lie on disk, but for the slices' checksums */
    uint64_t map_bytes;
    /* Views into map_data. */
    struct ps_disk_map *header;
    struct ps_disk_extent *extents;
    struct ps_disk_object *objects;
    struct ps_disk_slice *slices;
    struct ps_disk_piece *pieces;
    struct ps_plan_job *jobs; /* in map order */
    uint32_t job_count;
    uint64_t job_bytes_max;
    uint64_t table_offset, table_bytes, map_offset, record_offset, data_begin;
    uint64_t data_bytes; /* of all members together */
    uint64_t plan_hash[2];
    uint8_t uuid[16];
};

/*
 * Checks the description and computes the plan, a pure function of its arguments. The bytes of each
 * object are cut over all members evenly; a cut moves to a slice's end when that is within an
 * eighth of a share (or 64 KiB, in shares of 256 KiB and more), so that no small piece arises.
 * Objects too small for 64 KiB per member go to as many members as they fill, the emptiest first.
 * Errors: -PS_ERR_ARGUMENT (the description is not valid: text), -ENOMEM. Fills *plan on success.
 */
int ps_plan_make(struct ps_plan *plan, const struct ps_layout_spec *spec, uint32_t member_count,
                 uint32_t align, struct ps_error *err);
void ps_plan_fini(struct ps_plan *plan);

/* Bytes that member m needs: up to the end of its data, without the second superblock. */
static inline uint64_t ps_plan_data_end(const struct ps_plan *plan, uint32_t m)
{
    return plan->extents[m].data_end;
}

#endif
