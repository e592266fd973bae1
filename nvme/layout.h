/* The writer of volumes: plan, consent, data with a watermark, map, final superblocks. */
#ifndef PENSTOCK_NVME_LAYOUT_H
#define PENSTOCK_NVME_LAYOUT_H

#include "nvme/penstock_io.h"

#define PS_LAYOUT_ALIGN_MIN 4096u

/* Payload bytes are padded with zeroes up to the volume's alignment by the writer. */
struct ps_layout_slice {
    uint32_t bytes; /* payload, 1 .. PS_SLICE_BYTES_MAX - alignment */
    uint32_t unit_begin, unit_count;
};

struct ps_layout_object {
    enum ps_object_kind kind;
    uint32_t group, index; /* streamed objects: unique */
    const char *name;      /* unique; [1, 255] bytes */
    const struct ps_layout_slice *slices;
    uint32_t slice_count; /* >= 1 */
};

struct ps_layout_blob {
    const char *name; /* [1, 31] bytes */
    const void *data;
    uint64_t bytes;
};

/*
 * Produces the payload of slices [slice_begin, slice_end) of an object into buf, back to back
 * WITHOUT padding. Streamed objects are always asked for whole; resident ones in runs of slices. A
 * pure function of its arguments (a resumed layout must give the same bytes). Called from several
 * worker threads at once; worker in [0, threads) lets it keep scratch per worker.
 */
typedef int ps_layout_fill_fn(void *ctx, int worker, uint32_t object, uint32_t slice_begin,
                              uint32_t slice_end, uint8_t *buf, struct ps_error *err);

struct ps_layout_spec {
    const struct ps_layout_object *objects; /* written in this order */
    uint32_t object_count;
    const struct ps_layout_blob *blobs;
    uint32_t blob_count;
    uint64_t
        source_fingerprint[2]; /* of the source's content and of every option that shapes bytes */
    const char *source_name;   /* for messages; recorded */
};

struct ps_layout_options {
    const char *const *members; /* paths */
    int member_count;
    uint32_t copies; /* of every slice, each on other members: 0 or 1: one; 2: two */
    /*
     * [member_count], or NULL: what each member's drive can do. Members get as much of every object
     * as they are fast, so that all are done with it at the same time.
     */
    const struct ps_member_profile *profiles;
    bool resume;                /* continue a stopped layout with the same fingerprint and plan */
    const char *const *destroy; /* identities that the user allows to be overwritten */
    int destroy_count;
    int threads; /* workers, each producing or writing at any time; 0 = one per CPU */
    void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_ctx;
    const volatile int *stop; /* non-zero: stop cleanly at the next flush (Ctrl-C); may be NULL */
};

/*
 * Writes the volume. Order of durable events: consent and locks; in-progress superblocks (both
 * copies of every member); data, with the watermark after each flush; map; final superblocks.
 * Killed at any point it leaves an in-progress volume, which nothing opens and `resume` completes
 * to the same bytes. Errors: -PS_ERR_WOULD_DESTROY (text names what is there and the --destroy
 * IDENTITY that would allow it), -PS_ERR_IN_USE, -PS_ERR_SOURCE_CHANGED (resume),
 * -PS_ERR_INCOMPLETE (a stopped layout is there and resume was not given), -ENOSPC (text says how
 * much is needed), -EINTR (stopped), -errno.
 */
int ps_layout_write(const struct ps_layout_spec *spec, const struct ps_layout_options *opts,
                    ps_layout_fill_fn *fill, void *fill_ctx, struct ps_error *err);

#endif
