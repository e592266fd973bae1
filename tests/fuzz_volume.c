/*
 * Fuzz target: the head of a member (superblock, member table, map, record area) as it lies on a
 * drive. Checksums are made right first, since chance would never get behind them; what is accepted
 * then is walked as the engines do, and every promise of the parser is checked again by other
 * means.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "nvme/map.h"
#include "nvme/member.h"
#include "nvme/penstock_io.h"
#include "nvme/raw_io.h"
#include "nvme/record.h"

#define INPUT_BYTES_MAX (1u << 20)

static void demand(bool holds)
{
    if (!holds)
        abort();
}

static bool inside(uint64_t offset, uint64_t count, uint64_t bytes)
{
    return offset <= bytes && count <= bytes - offset;
}

static void walk(const struct ps_map *map)
{
    const struct ps_disk_map *h = map->header;
    uint64_t data_bytes = 0, piece_bytes = 0;
    for (uint32_t m = 0; m < h->member_count; m++)
        data_bytes += map->extents[m].data_end - map->extents[m].data_begin;
    for (uint32_t i = 0; i < h->object_count; i++) {
        const struct ps_disk_object *o = &map->objects[i];
        uint64_t object_bytes = 0;
        demand(ps_map_find_name(map, ps_map_name(map, i)) == i);
        if (o->kind == PS_OBJECT_STREAMED)
            demand(ps_map_find_address(map, o->group, o->index) == i);
        for (uint32_t s = 0; s < o->slice_count; s++) {
            const struct ps_disk_slice *slice = ps_map_slice(map, i, s);
            demand(slice->offset_bytes == object_bytes);
            object_bytes += slice->bytes;
            for (uint32_t p = 0; p < slice->piece_count; p++) {
                const struct ps_disk_piece *piece = &map->pieces[slice->first_piece + p];
                demand(piece->member < h->member_count && piece->bytes <= slice->bytes);
                demand(piece->offset_bytes >= map->extents[piece->member].data_begin);
                demand(inside(piece->offset_bytes, piece->bytes,
                              map->extents[piece->member].data_end));
                piece_bytes += piece->bytes;
            }
        }
        demand(object_bytes == o->bytes);
    }
    for (uint64_t p = 0; h->further_copies > 0 && p < h->piece_count; p++) {
        const struct ps_disk_piece *first = &map->pieces[p];
        const struct ps_disk_piece *second = &map->pieces[h->piece_count + p];
        demand(second->member < h->member_count && second->member != first->member);
        demand(second->bytes == first->bytes);
        demand(second->offset_bytes >= map->extents[second->member].data_begin);
        demand(inside(second->offset_bytes, second->bytes, map->extents[second->member].data_end));
        piece_bytes += second->bytes;
    }
    demand(piece_bytes == data_bytes);
    for (uint32_t i = 0; i < h->blob_count; i++)
        demand(inside(map->blobs[i].offset_bytes, map->blobs[i].bytes, h->bytes));
}

static void seal_blobs(uint8_t *bytes, uint64_t count)
{
    const struct ps_disk_map *h = (const void *)bytes;
    struct ps_map_shape shape;
    if (count < sizeof(*h) || h->blob_count > PS_BLOB_COUNT_MAX ||
        !ps_map_shape_get(h, count, &shape))
        return;
    for (uint32_t i = 0; i < h->blob_count; i++) {
        struct ps_disk_blob *blob = (struct ps_disk_blob *)(bytes + shape.blobs) + i;
        if (inside(blob->offset_bytes, blob->bytes, count))
            blob->checksum = XXH3_64bits(bytes + blob->offset_bytes, blob->bytes);
    }
}

/* In memory of exactly its size, so that a sanitizer sees the first byte read beyond it. */
static void parse_map(const uint8_t *bytes, uint64_t count)
{
    struct ps_map map;
    struct ps_error err = {0};
    uint8_t *copy = malloc(count > 0 ? count : 1);
    memcpy(copy, bytes, count);
    seal_blobs(copy, count);
    int rc = ps_map_parse(&map, copy, count, "input", &err);
    demand(rc == 0 || (err.code == rc && err.text[0] != 0));
    if (rc == 0) {
        walk(&map);
        ps_map_fini(&map);
    }
    free(copy);
}

static void read_table(struct ps_disk_superblock *sb, const uint8_t *image, size_t bytes)
{
    struct ps_disk_table *table = NULL;
    if (!inside(sb->table_offset, sb->table_bytes, bytes))
        return;
    sb->table_checksum = XXH3_64bits(image + sb->table_offset, sb->table_bytes);
    struct ps_member member = {.fd = memfd_create("input", MFD_CLOEXEC), .path = (char *)"input"};
    member.sb = *sb;
    if (member.fd >= 0 && ps_raw_write(member.fd, image, bytes, 0) == 0 &&
        ps_member_table_read(&member, &table, NULL) == 0) {
        for (uint32_t i = 0; i < table->member_count; i++) {
            const struct ps_disk_peer *peer = ps_table_peer(table, i);
            demand(strlen(peer->path) < sizeof(peer->path));
            demand(strlen(peer->serial) < sizeof(peer->serial));
            demand(strlen(peer->partuuid) < sizeof(peer->partuuid));
        }
        free(table);
    }
    if (member.fd >= 0)
        close(member.fd);
}

/* A half of the record area, in memory of exactly its size: what is valid can be walked, and holds
 * one more entry or says that it does not. */
static void parse_record(const uint8_t *bytes, size_t count)
{
    static const uint8_t uuid[16];
    struct ps_member_profile profiles[3];
    uint8_t *half = calloc(1, PS_RECORD_HALF_BYTES);
    struct ps_disk_record *record = (struct ps_disk_record *)half;
    uint32_t found_bytes;
    memcpy(half, bytes, count < PS_RECORD_HALF_BYTES ? count : PS_RECORD_HALF_BYTES);
    memcpy(record->magic, PS_RECORD_MAGIC, sizeof(record->magic));
    memset(record->uuid, 0, sizeof(record->uuid));
    record->checksum = 0;
    record->checksum = XXH3_64bits(half, PS_RECORD_HALF_BYTES);
    if (ps_record_valid(half, uuid)) {
        ps_record_profiles_get(half, profiles, 3);
        const uint8_t *found = ps_record_find(half, PS_RECORD_PROFILE, &found_bytes);
        if (found != NULL)
            demand(inside((uint64_t)(found - half), found_bytes, PS_RECORD_HALF_BYTES));
        int rc = ps_record_set(half, PS_RECORD_PROFILE, bytes, count % 512, 7);
        demand(ps_record_valid(half, uuid));
        found = ps_record_find(half, PS_RECORD_PROFILE, &found_bytes);
        demand(rc < 0 || (found_bytes == count % 512 && memcmp(found, bytes, found_bytes) == 0));
    }
    free(half);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct ps_disk_superblock sb;
    struct ps_error err = {0};
    if (bytes < sizeof(sb) || bytes > INPUT_BYTES_MAX)
        return 0;
    memcpy(&sb, data, sizeof(sb));
    int rc = ps_superblock_check(&sb, "input", &err);
    demand(rc == 0 || (err.code == rc && err.text[0] != 0));
    ps_superblock_seal(&sb);
    if (ps_superblock_check(&sb, "input", &err) == 0) {
        demand(sb.second_offset <= sb.member_bytes - PS_SUPERBLOCK_BYTES);
        demand(sb.data_begin <= sb.data_end && sb.data_end <= sb.second_offset);
        read_table(&sb, data, bytes);
        if (inside(sb.map_offset, sb.map_bytes, bytes))
            parse_map(data + sb.map_offset, sb.map_bytes);
        if (inside(sb.record_offset, sb.record_bytes, bytes))
            parse_record(data + sb.record_offset, sb.record_bytes);
    }
    /* The map by itself too, so that a broken superblock does not hide it: it follows 8 KiB here.
     */
    if (bytes > 8192)
        parse_map(data + 8192, bytes - 8192);
    parse_record(data, bytes);
    return 0;
}
