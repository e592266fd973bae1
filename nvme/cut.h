/* Which members an object's bytes go to, and where they are cut between them. No I/O. */
#ifndef PENSTOCK_NVME_CUT_H
#define PENSTOCK_NVME_CUT_H

#include <stdbool.h>

#include "nvme/plan.h"

#define PS_CUT_FIRST UINT32_MAX /* in place of a member: the first copy */

/* A range of an object's bytes, of one member. */
struct ps_part {
    uint64_t begin, end; /* in the object; multiples of the alignment; may be empty */
    uint32_t member;
};

/* What has been given to whom so far; the same objects in the same order give the same cuts. */
struct ps_cutter {
    const struct ps_plan_options *options; /* the caller's */
    bool is_weighted;                      /* the weights differ */
    uint64_t weights[PS_MEMBER_COUNT_MAX];
    uint32_t order[PS_MEMBER_COUNT_MAX];  /* the members by node, then by number */
    uint64_t filled[PS_MEMBER_COUNT_MAX]; /* bytes of first copies on each member */
    uint64_t *spread; /* [of][on]: bytes of second copies of `of` on `on`; NULL with one copy */
};

/* Errors: -ENOMEM. options must outlive the cutter. */
int ps_cutter_init(struct ps_cutter *cutter, const struct ps_plan_options *options);
void ps_cutter_fini(struct ps_cutter *cutter);

/*
 * Cuts [begin, end) of an object over all members, or, for the second copy of what lies on member
 * `of`, over all but that one; books what each is given. slices: the object's own, with bytes and
 * offsets filled. Fills parts[at most member_count], in the order of their bytes; returns how many.
 */
uint32_t ps_cut(struct ps_cutter *cutter, const struct ps_disk_slice *slices, uint64_t begin,
                uint64_t end, uint32_t of, struct ps_part *parts);

#endif
