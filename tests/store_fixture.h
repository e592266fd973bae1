/* Volumes with known contents for the tests of the store. */
#ifndef PENSTOCK_TESTS_STORE_FIXTURE_H
#define PENSTOCK_TESTS_STORE_FIXTURE_H

#include "util.h"

#include "nvme/penstock_io.h"

#define STORE_GROUPS 3u
#define STORE_INDEXES 8u
#define STORE_MEMBERS_MAX 3

/*
 * STORE_GROUPS x STORE_INDEXES streamed objects, whose size depends on the group (3 slices of about
 * 40 KiB, 3 of about 100 KiB, and one of 5 MiB with one of 60 KiB), and two resident ones, "small"
 * and "large" (9 slices of 1 MiB and a bit).
 */
struct store_volume {
    char dir[256];
    char members[STORE_MEMBERS_MAX][320];
    int member_count;
    struct ps_volume *volume;
};

void store_volume_make(struct store_volume *v, int member_count);
void store_volume_make_copies(struct store_volume *v, int member_count, uint32_t copies);
void store_volume_remove(struct store_volume *v);

/* Fails the test unless data[0 .. bytes) is what slice `slice` of the object holds. */
void store_check_slice(const struct store_volume *v, uint32_t object, uint32_t slice,
                       const uint8_t *slice_data);
void store_check_object(const struct store_volume *v, uint32_t object, const uint8_t *data);
void store_check_lease(const struct store_volume *v, const struct ps_lease *lease);

/* Changes one byte in the middle of a slice on its member, past the page cache. */
void store_corrupt(const struct store_volume *v, uint32_t object, uint32_t slice);
void store_corrupt_copy(const struct store_volume *v, uint32_t object, uint32_t slice,
                        uint32_t copy);

#endif
