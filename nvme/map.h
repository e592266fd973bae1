/* The map: checked once, then read in place without further checks. */
#ifndef PENSTOCK_NVME_MAP_H
#define PENSTOCK_NVME_MAP_H

#include <stdbool.h>

#include "core/error.h"
#include "nvme/format.h"

/* A view into the map's bytes plus two sorted indexes. The bytes must outlive it. */
struct ps_map {
    const struct ps_disk_map *header;
    const struct ps_disk_extent *extents;
    const struct ps_disk_object *objects;
    const struct ps_disk_slice *slices;
    const struct ps_disk_piece *pieces;
    const struct ps_disk_blob *blobs;
    const char *names;
    uint32_t *by_address; /* numbers of the streamed objects, sorted by (group, index) */
    uint32_t *by_name;    /* numbers of all objects, sorted by name */
    uint32_t streamed_count;
};

/* Byte offsets of a map's tables, a function of its counts alone. */
struct ps_map_shape {
    uint64_t members, objects, slices, pieces, blobs, names, names_end;
};

/*
 * Computes where the tables lie. Returns false when the counts describe more than `bytes_max` bytes
 * (no overflow for any counts).
 */
bool ps_map_shape_get(const struct ps_disk_map *header, uint64_t bytes_max,
                      struct ps_map_shape *shape);

/*
 * Checks everything about the map at `base` (8-byte aligned, `bytes` long) that later code relies
 * on: counts and offsets against the size; slices follow each other and sum up to their object;
 * pieces sum up to their slice, are aligned, and fill each member's data area exactly, in order,
 * the first copies before the second ones; both copies of a piece hold as many bytes, on two
 * members; names are printable, terminated and unique; streamed addresses are unique; blobs lie
 * inside. The checksum of the map as a whole is the caller's to check; checksums of the blobs are
 * checked here. Errors: -PS_ERR_FORMAT (one sentence, where = path), -ENOMEM. Fills *map only on
 * success.
 */
int ps_map_parse(struct ps_map *map, const void *base, uint64_t bytes, const char *path,
                 struct ps_error *err);

/* Frees the indexes; takes an empty map. */
void ps_map_fini(struct ps_map *map);

/* The object's number, or -ENOENT. */
int64_t ps_map_find_address(const struct ps_map *map, uint32_t group, uint32_t index);
int64_t ps_map_find_name(const struct ps_map *map, const char *name);

/* True for a name that may be recorded: `bytes` printable characters (UTF-8 allowed), no NUL. */
bool ps_map_name_valid(const char *name, uint64_t bytes);

static inline const char *ps_map_name(const struct ps_map *map, uint32_t object)
{
    return map->names + map->objects[object].name_offset;
}

static inline uint32_t ps_map_copy_count(const struct ps_map *map)
{
    return 1 + map->header->further_copies;
}

/* The pieces of a copy (0 or 1) of slice number `slice` of the whole map: its piece_count. */
static inline const struct ps_disk_piece *ps_map_pieces(const struct ps_map *map, uint64_t slice,
                                                        uint32_t copy)
{
    return &map->pieces[copy * map->header->piece_count + map->slices[slice].first_piece];
}

static inline const struct ps_disk_slice *ps_map_slice(const struct ps_map *map, uint32_t object,
                                                       uint32_t slice)
{
    return &map->slices[map->objects[object].first_slice + slice];
}

#endif
