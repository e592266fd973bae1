/* The state of a running layout or rebalance, shared by layout.c, room.c, head.c, resume.c and
 * rebalance.c; a knob for tests. */
#ifndef PENSTOCK_NVME_LAYOUT_INTERNAL_H
#define PENSTOCK_NVME_LAYOUT_INTERNAL_H

#include <pthread.h>
#include <xxhash.h>

#include "nvme/device.h"
#include "nvme/plan.h"
#include "nvme/volume.h"

/*
 * How much data is written between two flushes, and re-checked by a resume. Tests make it small, so
 * that a small volume has many flushes. Process-wide; set it before the layout starts.
 */
void ps_layout_set_flush_bytes(uint64_t bytes);
uint64_t ps_layout_flush_bytes(void);

struct ps_writer {
    const struct ps_layout_spec *spec;
    const struct ps_layout_options *opts;
    struct ps_plan plan;
    struct ps_target *targets; /* [member_count] */
    uint32_t member_count;
    /*
     * Of a rebalance: the volume that is moved, locked; else NULL. A target that is one of its
     * members, too, has that number in shared (else -1); the superblocks of the new volume are
     * staged there (at stages, else 0), and its pair and sb are those.
     */
    const struct ps_volume *old;
    int shared[PS_MEMBER_COUNT_MAX];
    uint64_t stages[PS_MEMBER_COUNT_MAX];
    uint8_t origin[16];   /* the old volume's UUID */
    uint8_t *tables;      /* the member tables, one after the other, each plan.table_bytes */
    uint8_t *records;     /* both halves of the record area */
    bool marked;          /* the in-progress superblocks are durable: created files stay */
    uint64_t watermark;   /* slices durable */
    XXH3_state_t *digest; /* over the checksums of the slices under the watermark */
    uint32_t next_job;    /* first that is not under the watermark */

    /* What the workers share with the thread that flushes behind them, guarded by lock. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t job, job_end; /* the next to take, and where the workers have to wait */
    uint32_t complete;     /* all jobs before it are written */
    bool *written;         /* per job */
    uint64_t *checksums;   /* per slice, until they are under the watermark */
    int running;           /* workers */
    uint64_t done_bytes;
    int failed; /* first failure: its code */
    struct ps_error failure;
    ps_layout_fill_fn *fill;
    void *fill_ctx;
};

/*
 * Checks the options and makes an empty writer; close it in any case. spec, opts and old (may be
 * NULL) must outlive it.
 */
int ps_writer_open(struct ps_writer *w, const struct ps_layout_spec *spec,
                   const struct ps_layout_options *opts, const struct ps_volume *old,
                   struct ps_error *err);
/* is_failed: files that were created and not marked as a volume are removed again. */
void ps_writer_close(struct ps_writer *w, bool is_failed);

/* Everything before the first write: targets, plan, tables, consent, space. */
int ps_writer_prepare(struct ps_writer *w, struct ps_error *err);

/* True when every superblock says complete and is this volume's: nothing is left to write. */
bool ps_writer_is_complete(const struct ps_writer *w);

/* Writes the volume, or what is left of it, until both superblocks of all members say complete. */
int ps_writer_write(struct ps_writer *w, ps_layout_fill_fn *fill, void *fill_ctx,
                    struct ps_error *err);

/* True for a target that already carries this very volume as member m, stopped or complete. */
bool ps_writer_owns(const struct ps_writer *w, uint32_t m);

/*
 * True for a file that holds nothing but some sectors of the first superblock that this layout
 * writes: power failed during the very first write. Call before any watermark is known.
 */
bool ps_writer_only_begun(struct ps_writer *w, uint32_t m);

/* Size that member m's file will have; for a device its own size. */
uint64_t ps_writer_member_bytes(const struct ps_writer *w, uint32_t m);

/*
 * Makes the plan. Unless the options are recorded ones, the weights of members that have too little
 * room for their share are lowered first. Errors: those of ps_plan_make, -ENOSPC (all members
 * together are too small).
 */
int ps_writer_plan(struct ps_writer *w, const struct ps_plan_options *options, bool is_recorded,
                   struct ps_error *err);

/* -ENOSPC, with both figures, when a member has not the room that the plan needs. */
int ps_writer_check_space(struct ps_writer *w, struct ps_error *err);

/* Takes a file's space before its size, so that a full disk shows now and a crash leaves it empty.
 */
int ps_writer_reserve(struct ps_writer *w, uint32_t m, struct ps_error *err);

/* Fills tables and records. Errors: -ENOMEM. */
int ps_writer_make_tables(struct ps_writer *w, struct ps_error *err);

/* The superblock of member m as it is for this state and the present watermark. */
void ps_writer_fill_superblock(struct ps_writer *w, uint32_t m, enum ps_volume_state state,
                               struct ps_disk_superblock *sb);

/*
 * Decides where on the members that it shares with the old volume the new one lies: before what
 * is there or after it. Errors: -ENOSPC (text: how much is missing there).
 */
int ps_writer_place(struct ps_writer *w, struct ps_error *err);

/*
 * Writes both superblocks of every member (in their stage where there is one), the first copies
 * durable before the second ones are touched: whatever moment power fails, one of the two is whole.
 */
int ps_writer_put_superblocks(struct ps_writer *w, enum ps_volume_state state,
                              struct ps_error *err);

/* Reads the superblocks back. -PS_ERR_MEMBER: two members are one drive under two names. */
int ps_writer_check_superblocks(struct ps_writer *w, struct ps_error *err);

/* Writes the checksums of slices [begin, end) into every member's map. Not flushed. */
int ps_writer_put_checksums(struct ps_writer *w, uint64_t begin, uint64_t end,
                            struct ps_error *err);

/* Takes over what a stopped layout recorded: the profile that its plan followed from. */
void ps_writer_load_records(struct ps_writer *w);

/* Writes the record area of every member. Not flushed. */
int ps_writer_put_records(struct ps_writer *w, struct ps_error *err);

/* Writes member table, map and record area of every member, and flushes. */
int ps_writer_put_head(struct ps_writer *w, struct ps_error *err);

/* fdatasync of every member. */
int ps_writer_flush(struct ps_writer *w, struct ps_error *err);

/*
 * Finds out how far a stopped layout came: sets watermark, digest, next_job and the checksums of
 * the plan's slices. Reads the last flushed interval again; what is not as recorded is done anew.
 */
int ps_writer_resume(struct ps_writer *w, struct ps_error *err);

#endif
