/*
 * The record area: small named entries that may be added to a complete volume. Halves are handled
 * in memory here, PS_RECORD_HALF_BYTES each, and put on all members safe from torn writes.
 */
#ifndef PENSTOCK_NVME_RECORD_H
#define PENSTOCK_NVME_RECORD_H

#include <stdbool.h>

#include "core/error.h"
#include "nvme/format.h"
#include "nvme/penstock_io.h"

#define PS_RECORD_PROFILE "profile"

/* An empty half of the volume, sealed. half: [PS_RECORD_HALF_BYTES], 8-byte aligned, as below. */
void ps_record_init(uint8_t *half, const uint8_t uuid[16], uint64_t generation);

/* True when checksum and entries are sound and the half is this volume's. Nothing of another half
 * may be used. The half is as before on return, but not meanwhile. */
bool ps_record_valid(uint8_t *half, const uint8_t uuid[16]);

/* The entry's bytes in a valid half, 8-byte aligned, and their number; NULL where there is none. */
const void *ps_record_find(const uint8_t *half, const char *name, uint32_t *bytes);

/*
 * Replaces or adds an entry of a valid half, which is sealed again with the generation given; the
 * other entries stay. name: [1, 31] bytes. Returns 0, or -ENOSPC (no room: the half is unchanged).
 */
int ps_record_set(uint8_t *half, const char *name, const void *data, uint32_t bytes,
                  uint64_t generation);

/*
 * Reads the half that counts: of all valid ones on all members that are there the one with the
 * highest generation. half: [PS_RECORD_HALF_BYTES]. Returns false where there is none.
 */
bool ps_record_read(const struct ps_volume *volume, uint8_t *half);

/*
 * Puts an entry on every member that is there: into the half with the lower generation, with the
 * next generation, flushed. The volume's shared locks become exclusive meanwhile.
 * Errors: -PS_ERR_IN_USE (somebody else has the volume open), -ENOSPC (no room for it), -ENOMEM,
 * -EACCES, -errno. After an error the entry is on all members, on some, which is as good, or on
 * none.
 */
int ps_record_put(struct ps_volume *volume, const char *name, const void *data, uint32_t bytes,
                  struct ps_error *err);

/* Whether a later ps_record_put will be let: locks the volume and opens every member for writing,
 * for a moment. Errors: -PS_ERR_IN_USE, -EACCES, -errno. */
int ps_record_put_check(struct ps_volume *volume, struct ps_error *err);

/* Adds to a valid half of another volume, of the same generation, what this one's record area holds
 * besides the profile, which is of its own members. */
void ps_record_copy_others(uint8_t *half, const struct ps_volume *from);

/* Profiles as they are recorded. entries: [count]. */
void ps_record_profiles_pack(struct ps_disk_profile *entries,
                             const struct ps_member_profile *profiles, uint32_t count);
/* Reads `count` profiles from a valid half; false where it holds none, or another number. */
bool ps_record_profiles_get(const uint8_t *half, struct ps_member_profile *profiles,
                            uint32_t count);

#endif
