/* The plan of a layout: where every byte will lie, and the map that says so. No I/O. */
#ifndef PENSTOCK_NVME_PLAN_H
#define PENSTOCK_NVME_PLAN_H

#include "nvme/format.h"
#include "nvme/layout.h"

/* What a plan follows from besides the description. Plain data; ps_plan_options_get reads it back
 * from a superblock. */
struct ps_plan_options {
    uint32_t member_count;
    uint32_t align;
    uint32_t copies;                       /* of every slice: 1 or 2 */
    uint32_t piece_bytes_min;              /* PS_PIECE_BYTES_MIN to PS_PIECE_BYTES_MAX */
    uint32_t weights[PS_MEMBER_COUNT_MAX]; /* 1 to PS_WEIGHT_MAX; all 0: equal */
    uint8_t nodes[PS_MEMBER_COUNT_MAX];    /* kernel's node, or PS_NODE_NONE */
};

/* A unit of work: slices of one object that are produced and written together. */
struct ps_plan_job {
    uint32_t object, slice_begin, slice_end; /* slices counted in the object */
    uint64_t first_slice;                    /* slice_begin, counted in the map */
    uint64_t bytes;                          /* with padding */
};

struct ps_plan {
    struct ps_plan_options options;
    uint8_t *map_data; /* the map as it will lie on disk, but for the slices' checksums */
    uint64_t map_bytes;
    /* Views into map_data. */
    struct ps_disk_map *header;
    struct ps_disk_extent *extents;
    struct ps_disk_object *objects;
    struct ps_disk_slice *slices;
    struct ps_disk_piece *pieces; /* of the first copy, then of the second */
    struct ps_plan_job *jobs;     /* in map order */
    uint32_t job_count;
    uint64_t job_bytes_max;
    uint64_t shifts[PS_MEMBER_COUNT_MAX]; /* all areas of a member lie this much further on */
    /* Without the shift. */
    uint64_t table_offset, table_bytes, map_offset, record_offset, data_begin;
    uint64_t object_bytes; /* of all objects, with padding; data is as many times that as copies */
    uint64_t plan_hash[2];
    uint8_t uuid[16];
};

/*
 * Checks the description and computes the plan, a pure function of its arguments. The bytes of each
 * object are cut over all members in proportion to their weights, those of one node side by side; a
 * cut moves to a slice's end where that costs little balance. An object too small to give every
 * member piece_bytes_min goes to fewer: those that hold the least, relative to their weight. The
 * second copy of each member's part is cut over the other members in the same way. docs/format.md,
 * "Cutting", has the rule to the byte.
 * Errors: -PS_ERR_ARGUMENT (the description is not valid: text), -ENOMEM. Fills *plan on success.
 */
int ps_plan_make(struct ps_plan *plan, const struct ps_layout_spec *spec,
                 const struct ps_plan_options *options, struct ps_error *err);
void ps_plan_fini(struct ps_plan *plan);

/*
 * Moves all areas of member m by shifts[m] bytes, multiples of PS_STAGE_BYTES, to where another
 * volume leaves room. Plan and UUID become those of this volume. Call before there are checksums.
 */
void ps_plan_shift(struct ps_plan *plan, const struct ps_layout_spec *spec, const uint64_t *shifts);

/* Records the options, but for member_count and align, which have fields of their own. */
void ps_plan_options_put(const struct ps_plan_options *options, struct ps_disk_superblock *sb);

/* The options that a checked superblock records. */
void ps_plan_options_get(struct ps_plan_options *options, const struct ps_disk_superblock *sb);

/* The pieces of a copy (0 or 1) of a slice: piece_count of them. */
static inline const struct ps_disk_piece *ps_plan_pieces(const struct ps_plan *plan, uint64_t slice,
                                                         uint32_t copy)
{
    return &plan->pieces[copy * plan->header->piece_count + plan->slices[slice].first_piece];
}

/* Bytes that member m needs: up to the end of its data, without the second superblock. */
static inline uint64_t ps_plan_data_end(const struct ps_plan *plan, uint32_t m)
{
    return plan->extents[m].data_end;
}

#endif
