/* A small made-up volume: objects of odd sizes whose bytes follow from their place. */
#ifndef PENSTOCK_TESTS_VOLUME_FIXTURE_H
#define PENSTOCK_TESTS_VOLUME_FIXTURE_H

#include "nvme/layout.h"

struct fixture {
    struct ps_layout_object *objects;
    struct ps_layout_slice *slices; /* of all objects */
    struct ps_layout_blob blobs[2];
    struct ps_layout_spec spec;
    uint64_t seed;
    volatile int fail_object; /* fill fails here; -1 = never */
};

/*
 * resident_count tensors of growing odd sizes (one of them over 8 MiB when large is set), then
 * group_count x index_count streamed objects of slice_count slices of about slice_bytes.
 */
struct fixture_shape {
    uint32_t resident_count, group_count, index_count, slice_count, slice_bytes;
    bool large;
};

/* What a layout under test writes, and what lay there before: other counts, other sizes. */
extern const struct fixture_shape fixture_small, fixture_former;

void fixture_init(struct fixture *f, uint64_t seed, const struct fixture_shape *shape);
void fixture_fini(struct fixture *f);

/* Makes a folder (ps_test_dir_remove) and the paths of members m0, m1, ... in it; no member yet. */
void fixture_paths(char dir[256], char path[][300], const char **paths, int count);

/* The fill function; ctx = the fixture. */
int fixture_fill(void *ctx, int worker, uint32_t object, uint32_t slice_begin, uint32_t slice_end,
                 uint8_t *buf, struct ps_error *err);

/* Lays the fixture out over the paths with 2 threads; other options from *opts (may be NULL). */
int fixture_layout(struct fixture *f, const char *const *paths, int path_count,
                   const struct ps_layout_options *opts, struct ps_error *err);

/* Reads every copy of every slice with pread, from the members that are there, and compares bytes
 * and padding. Asserts. */
void fixture_check(struct fixture *f, const struct ps_volume *volume);

/* Runs ps_volume_verify and returns how much was bad. */
uint64_t fixture_verify(struct ps_volume *volume);
/* The same, but of slices alone: a crash may leave one superblock of two torn, or a member out. */
uint64_t fixture_verify_slices(struct ps_volume *volume);

/* Whole files; read returns malloc'd bytes. Assert on failure. */
uint8_t *file_read(const char *path, size_t *bytes);
void file_write(const char *path, const void *data, size_t bytes);
void file_copy(const char *from, const char *to);
bool file_exists(const char *path);
/* Overwrites bytes in place. */
void file_patch(const char *path, uint64_t offset, const void *data, size_t bytes);

#endif
