#include "nvme/map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/util.h"
#include "nvme/penstock_io.h"

#define NAME_BYTES_MAX 255u

/* Appends a table of count entries at *cursor; false when it would end after bytes_max. */
static bool place(uint64_t *cursor, uint64_t *offset, uint64_t count, uint64_t entry_bytes,
                  uint64_t bytes_max)
{
    uint64_t bytes;
    *offset = *cursor;
    if (__builtin_mul_overflow(count, entry_bytes, &bytes) || bytes > bytes_max ||
        *cursor > bytes_max - bytes)
        return false;
    *cursor += bytes;
    return true;
}

bool ps_map_shape_get(const struct ps_disk_map *header, uint64_t bytes_max,
                      struct ps_map_shape *shape)
{
    uint64_t at = sizeof(struct ps_disk_map), pieces;
    bool fits =
        !__builtin_mul_overflow(header->piece_count, 1 + (uint64_t)header->further_copies,
                                &pieces) &&
        place(&at, &shape->members, header->member_count, sizeof(struct ps_disk_extent),
              bytes_max) &&
        place(&at, &shape->objects, header->object_count, sizeof(struct ps_disk_object),
              bytes_max) &&
        place(&at, &shape->slices, header->slice_count, sizeof(struct ps_disk_slice), bytes_max) &&
        place(&at, &shape->pieces, pieces, sizeof(struct ps_disk_piece), bytes_max) &&
        place(&at, &shape->blobs, header->blob_count, sizeof(struct ps_disk_blob), bytes_max) &&
        place(&at, &shape->names, header->names_bytes, 1, bytes_max);
    shape->names_end = at;
    return fits;
}

bool ps_map_name_valid(const char *name, uint64_t bytes)
{
    if (bytes < 1 || bytes > NAME_BYTES_MAX)
        return false;
    for (uint64_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c < 0x20 || c == 0x7f)
            return false;
    }
    return true;
}

/* What every check below needs; text stays NULL until one fails. */
struct checker {
    const struct ps_map *map;
    uint64_t bytes;
    const char *text;
    uint64_t number; /* of the object, slice, piece or blob that text is about */
};

static bool fail(struct checker *c, const char *text, uint64_t number)
{
    c->text = text;
    c->number = number;
    return false;
}

static bool header_sound(struct checker *c)
{
    const struct ps_disk_map *h = c->map->header;
    struct ps_map_shape s;
    if (memcmp(h->magic, PS_MAP_MAGIC, sizeof(h->magic)) != 0 || h->version != PS_FORMAT_VERSION)
        return fail(c, "the map does not start with its header", 0);
    if (h->align < PS_FORMAT_ALIGN_MIN || h->align > PS_FORMAT_ALIGN_MAX ||
        (h->align & (h->align - 1)) != 0 || h->member_count < 1 ||
        h->member_count > PS_MEMBER_COUNT_MAX || h->bytes != c->bytes ||
        h->blob_count > PS_BLOB_COUNT_MAX || h->further_copies > 1)
        return fail(c, "the map's header holds an impossible alignment, size or count", 0);
    if (!ps_map_shape_get(h, c->bytes, &s))
        return fail(c, "the map announces more entries than it has room for", 0);
    if (s.members != h->members_offset || s.objects != h->objects_offset ||
        s.slices != h->slices_offset || s.pieces != h->pieces_offset ||
        s.blobs != h->blobs_offset || s.names != h->names_offset)
        return fail(c, "the tables of the map are not where its header says", 0);
    return true;
}

/* A piece lies where the previous one on its member ended. */
static bool piece_sound(struct checker *c, uint64_t number, uint64_t *cursors)
{
    const struct ps_map *m = c->map;
    const struct ps_disk_piece *piece = &m->pieces[number];
    if (piece->member >= m->header->member_count)
        return fail(c, "a piece lies on a member that does not exist", number);
    uint64_t *cursor = &cursors[piece->member];
    if (piece->bytes == 0 || piece->bytes % m->header->align != 0)
        return fail(c, "a piece is not a multiple of the alignment", number);
    if (piece->offset_bytes != *cursor ||
        piece->bytes > m->extents[piece->member].data_end - *cursor)
        return fail(c, "a piece overlaps another or leaves its member's data area", number);
    *cursor += piece->bytes;
    return true;
}

/* Pieces of one slice's first copy: sound, and of the right sum. */
static bool pieces_sound(struct checker *c, const struct ps_disk_slice *slice, uint64_t *cursors)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < slice->piece_count; i++) {
        if (!piece_sound(c, slice->first_piece + i, cursors))
            return false;
        sum += c->map->pieces[slice->first_piece + i].bytes;
    }
    return sum == slice->bytes ||
           fail(c, "the pieces of a slice do not sum up to it", (uint64_t)(slice - c->map->slices));
}

/* The second copies follow the first ones on each member: the same bytes, on another member. */
static bool second_copies_sound(struct checker *c, uint64_t *cursors)
{
    const struct ps_disk_map *h = c->map->header;
    for (uint64_t i = 0; h->further_copies > 0 && i < h->piece_count; i++) {
        const struct ps_disk_piece *first = &c->map->pieces[i];
        const struct ps_disk_piece *second = &c->map->pieces[h->piece_count + i];
        if (!piece_sound(c, h->piece_count + i, cursors))
            return false;
        if (second->bytes != first->bytes || second->member == first->member)
            return fail(c, "the two copies of a piece differ in size or share a member", i);
    }
    return true;
}

static bool slices_sound(struct checker *c, const struct ps_disk_object *object,
                         uint64_t *next_piece, uint64_t *cursors)
{
    const struct ps_map *m = c->map;
    uint64_t offset = 0;
    for (uint32_t i = 0; i < object->slice_count; i++) {
        uint64_t number = object->first_slice + i;
        const struct ps_disk_slice *slice = &m->slices[number];
        if (slice->bytes == 0 || slice->bytes % m->header->align != 0 ||
            slice->bytes > PS_SLICE_BYTES_MAX || slice->offset_bytes != offset)
            return fail(c, "a slice has an impossible size or place", number);
        if (slice->piece_count == 0 || slice->first_piece != *next_piece ||
            slice->piece_count > m->header->piece_count - *next_piece)
            return fail(c, "a slice names pieces that are not its own", number);
        *next_piece += slice->piece_count;
        if (!pieces_sound(c, slice, cursors))
            return false;
        offset += slice->bytes;
    }
    return offset == object->bytes ||
           fail(c, "the slices of an object do not sum up to it", (uint64_t)(object - m->objects));
}

static bool name_sound(struct checker *c, uint32_t number, uint64_t *next_name)
{
    const struct ps_disk_object *object = &c->map->objects[number];
    uint64_t left = c->map->header->names_bytes - *next_name;
    if (object->name_offset != *next_name || object->name_bytes >= left ||
        !ps_map_name_valid(c->map->names + *next_name, object->name_bytes) ||
        c->map->names[*next_name + object->name_bytes] != 0)
        return fail(c, "an object's name is not printable or not in its place", number);
    *next_name += object->name_bytes + 1;
    return true;
}

static bool objects_sound(struct checker *c)
{
    const struct ps_map *m = c->map;
    uint64_t cursors[PS_MEMBER_COUNT_MAX];
    for (uint32_t i = 0; i < m->header->member_count; i++) {
        const struct ps_disk_extent *e = &m->extents[i];
        if (e->data_begin % m->header->align != 0 || e->data_end % m->header->align != 0 ||
            e->data_end < e->data_begin || e->data_end > INT64_MAX)
            return fail(c, "a member's data area is impossible", i);
        cursors[i] = e->data_begin;
    }
    uint64_t next_slice = 0, next_piece = 0, next_name = 0;
    uint32_t resident_count = 0;
    for (uint32_t i = 0; i < m->header->object_count; i++) {
        const struct ps_disk_object *o = &m->objects[i];
        if (o->kind > PS_OBJECT_STREAMED || o->reserved != 0 ||
            (o->kind == PS_OBJECT_RESIDENT && (o->group != 0 || o->index != resident_count++)))
            return fail(c, "an object is of an unknown kind or out of order", i);
        if (o->slice_count == 0 || o->first_slice != next_slice ||
            o->slice_count > m->header->slice_count - next_slice)
            return fail(c, "an object names slices that are not its own", i);
        next_slice += o->slice_count;
        if (!name_sound(c, i, &next_name) || !slices_sound(c, o, &next_piece, cursors))
            return false;
    }
    if (next_slice != m->header->slice_count || next_piece != m->header->piece_count ||
        next_name != m->header->names_bytes)
        return fail(c, "the map holds slices, pieces or names that belong to no object", 0);
    if (!second_copies_sound(c, cursors))
        return false;
    for (uint32_t i = 0; i < m->header->member_count; i++) {
        if (cursors[i] != m->extents[i].data_end)
            return fail(c, "the pieces do not fill a member's data area", i);
    }
    return true;
}

static bool blobs_sound(struct checker *c, uint64_t names_end)
{
    const struct ps_map *m = c->map;
    const uint8_t *base = (const uint8_t *)m->header;
    uint64_t at = names_end;
    for (uint32_t i = 0; i < m->header->blob_count; i++) {
        const struct ps_disk_blob *blob = &m->blobs[i];
        at = ps_align_up(at, PS_BLOB_ALIGN);
        const char *end = memchr(blob->name, 0, sizeof(blob->name));
        if (end == NULL || !ps_map_name_valid(blob->name, (uint64_t)(end - blob->name)))
            return fail(c, "a metadata entry has no valid name", i);
        if (blob->offset_bytes != at || at > c->bytes || blob->bytes > c->bytes - at)
            return fail(c, "a metadata entry is not in its place", i);
        if (XXH3_64bits(base + at, blob->bytes) != blob->checksum)
            return fail(c, "a metadata entry does not have its checksum", i);
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(m->blobs[j].name, blob->name) == 0)
                return fail(c, "two metadata entries have the same name", i);
        }
        at += blob->bytes;
    }
    return ps_align_up(at, m->header->align) == c->bytes ||
           fail(c, "the map does not end after its metadata", 0);
}

static int compare_address(const void *a, const void *b, void *ctx)
{
    const struct ps_map *map = ctx;
    const struct ps_disk_object *x = &map->objects[*(const uint32_t *)a];
    const struct ps_disk_object *y = &map->objects[*(const uint32_t *)b];
    if (x->group != y->group)
        return x->group < y->group ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int compare_name(const void *a, const void *b, void *ctx)
{
    const struct ps_map *map = ctx;
    return strcmp(ps_map_name(map, *(const uint32_t *)a), ps_map_name(map, *(const uint32_t *)b));
}

/* Fills both indexes, which also shows whether addresses and names are unique. */
static int index_objects(struct ps_map *map, struct checker *c)
{
    uint32_t count = map->header->object_count;
    map->by_address = malloc(((size_t)count + 1) * sizeof(uint32_t));
    map->by_name = malloc(((size_t)count + 1) * sizeof(uint32_t));
    if (map->by_address == NULL || map->by_name == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++) {
        map->by_name[i] = i;
        if (map->objects[i].kind == PS_OBJECT_STREAMED)
            map->by_address[map->streamed_count++] = i;
    }
    qsort_r(map->by_address, map->streamed_count, sizeof(uint32_t), compare_address, map);
    qsort_r(map->by_name, count, sizeof(uint32_t), compare_name, map);
    for (uint32_t i = 1; i < map->streamed_count; i++) {
        if (compare_address(&map->by_address[i - 1], &map->by_address[i], map) == 0)
            fail(c, "two streamed objects have the same address", map->by_address[i]);
    }
    for (uint32_t i = 1; i < count; i++) {
        if (compare_name(&map->by_name[i - 1], &map->by_name[i], map) == 0)
            fail(c, "two objects have the same name", map->by_name[i]);
    }
    return c->text != NULL ? -PS_ERR_FORMAT : 0;
}

int ps_map_parse(struct ps_map *map, const void *base, uint64_t bytes, const char *path,
                 struct ps_error *err)
{
    struct ps_map view = {.header = base};
    struct checker c = {.map = &view, .bytes = bytes};
    const uint8_t *at = base;
    int rc = -PS_ERR_FORMAT;
    if (bytes < sizeof(struct ps_disk_map))
        return ps_error_set(err, -PS_ERR_TRUNCATED, path, "the map is shorter than its header");
    if (header_sound(&c)) {
        view.extents = (const void *)(at + view.header->members_offset);
        view.objects = (const void *)(at + view.header->objects_offset);
        view.slices = (const void *)(at + view.header->slices_offset);
        view.pieces = (const void *)(at + view.header->pieces_offset);
        view.blobs = (const void *)(at + view.header->blobs_offset);
        view.names = (const char *)(at + view.header->names_offset);
        if (objects_sound(&c) &&
            blobs_sound(&c, view.header->names_offset + view.header->names_bytes))
            rc = index_objects(&view, &c);
    }
    if (rc < 0) {
        ps_map_fini(&view);
        if (rc == -ENOMEM)
            return ps_error_set(err, rc, path, "not enough memory for the volume's map");
        return ps_error_set(err, rc, path, "the map is not valid: %s (entry %llu)", c.text,
                            (unsigned long long)c.number);
    }
    *map = view;
    return 0;
}

void ps_map_fini(struct ps_map *map)
{
    free(map->by_address);
    free(map->by_name);
    *map = (struct ps_map){0};
}

int64_t ps_map_find_address(const struct ps_map *map, uint32_t group, uint32_t index)
{
    uint32_t low = 0, high = map->streamed_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct ps_disk_object *o = &map->objects[map->by_address[middle]];
        if (o->group < group || (o->group == group && o->index < index))
            low = middle + 1;
        else
            high = middle;
    }
    if (low == map->streamed_count)
        return -ENOENT;
    const struct ps_disk_object *o = &map->objects[map->by_address[low]];
    return o->group == group && o->index == index ? (int64_t)map->by_address[low] : -ENOENT;
}

int64_t ps_map_find_name(const struct ps_map *map, const char *name)
{
    uint32_t low = 0, high = map->header->object_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(ps_map_name(map, map->by_name[middle]), name);
        if (order == 0)
            return map->by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -ENOENT;
}
