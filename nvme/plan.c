#include "nvme/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/util.h"
#include "nvme/map.h"
#include "nvme/raw_io.h"

/* Below this a drive's throughput falls off; see "Cutting" in docs/format.md. */
#define PIECE_BYTES_MIN 65536u
/* Resident objects are asked for in runs of about this size. */
#define JOB_BYTES_AIM (8u << 20)

struct builder {
    const struct ps_layout_spec *spec;
    uint32_t align, member_count;
    uint64_t slice_count, names_bytes, blobs_bytes;
    struct ps_disk_slice *slices;
    struct ps_disk_piece *pieces;
    uint64_t piece_count;
    uint64_t filled[PS_MEMBER_COUNT_MAX]; /* data bytes given to each member so far */
};

static int check_object(const struct ps_layout_object *o, uint32_t align, struct ps_error *err)
{
    if (o->name == NULL || !ps_map_name_valid(o->name, strnlen(o->name, 256)))
        return ps_error_set(err, -PS_ERR_ARGUMENT, "layout",
                            "an object's name must be 1 to 255 printable bytes");
    if (o->slice_count < 1 || o->kind > PS_OBJECT_STREAMED)
        return ps_error_set(err, -PS_ERR_ARGUMENT, o->name, "an object needs a kind and a slice");
    for (uint32_t i = 0; i < o->slice_count; i++) {
        uint32_t bytes = o->slices[i].bytes;
        if (bytes < 1 || bytes > PS_SLICE_BYTES_MAX - align)
            return ps_error_set(err, -PS_ERR_ARGUMENT, o->name,
                                "slice %u has %u bytes; 1 to %u are possible", i, bytes,
                                PS_SLICE_BYTES_MAX - align);
    }
    return 0;
}

static int check_blob(const struct ps_layout_blob *b, struct ps_error *err)
{
    if (b->name == NULL || strlen(b->name) > 31 || !ps_map_name_valid(b->name, strlen(b->name)))
        return ps_error_set(err, -PS_ERR_ARGUMENT, "layout",
                            "a metadata name must be 1 to 31 printable bytes");
    if (b->bytes > PS_MAP_BYTES_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, b->name, "metadata of this size does not fit");
    return 0;
}

static int check_spec(struct builder *b, struct ps_error *err)
{
    const struct ps_layout_spec *spec = b->spec;
    if (spec->object_count < 1 || spec->blob_count > PS_BLOB_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "layout",
                            "a volume holds at least one object and at most %u metadata entries",
                            PS_BLOB_COUNT_MAX);
    for (uint32_t i = 0; i < spec->object_count; i++) {
        int rc = check_object(&spec->objects[i], b->align, err);
        if (rc < 0)
            return rc;
        b->slice_count += spec->objects[i].slice_count;
        b->names_bytes += strlen(spec->objects[i].name) + 1;
    }
    for (uint32_t i = 0; i < spec->blob_count; i++) {
        int rc = check_blob(&spec->blobs[i], err);
        if (rc < 0)
            return rc;
        b->blobs_bytes += ps_align_up(spec->blobs[i].bytes, PS_BLOB_ALIGN);
    }
    return 0;
}

/*
 * Where an object's bytes are cut: part j is [cuts[j], cuts[j + 1]). slices: the object's own, with
 * bytes and offsets filled. Returns the number of parts.
 */
static uint32_t cut_object(const struct builder *b, const struct ps_disk_slice *slices,
                           uint64_t bytes, uint64_t cuts[PS_MEMBER_COUNT_MAX + 1])
{
    uint64_t parts = ps_min_u64(ps_max_u64(bytes / PIECE_BYTES_MIN, 1), b->member_count);
    uint64_t share = bytes / parts;
    uint64_t reach = ps_max_u64(share / 8, ps_min_u64(PIECE_BYTES_MIN, share / 4));
    uint32_t slice = 0;
    cuts[0] = 0;
    for (uint64_t j = 1; j < parts; j++) {
        uint64_t units = bytes / b->align;
        uint64_t cut = (units * j + parts / 2) / parts * b->align;
        while (slices[slice].offset_bytes + slices[slice].bytes <= cut)
            slice++;
        uint64_t begin = slices[slice].offset_bytes, end = begin + slices[slice].bytes;
        uint64_t border = cut - begin <= end - cut ? begin : end;
        uint64_t distance = border > cut ? border - cut : cut - border;
        if (distance <= reach && border > cuts[j - 1] && border < bytes)
            cut = border;
        cuts[j] = cut;
    }
    cuts[parts] = bytes;
    return (uint32_t)parts;
}

/* The members of an object's parts, ascending: all, or the emptiest when there are fewer parts. */
static void choose_members(const struct builder *b, uint32_t parts,
                           uint32_t chosen[PS_MEMBER_COUNT_MAX])
{
    bool taken[PS_MEMBER_COUNT_MAX] = {false};
    for (uint32_t i = 0; i < parts; i++) {
        uint32_t emptiest = 0;
        for (uint32_t m = 0; m < b->member_count; m++) {
            if (taken[emptiest] || (!taken[m] && b->filled[m] < b->filled[emptiest]))
                emptiest = m;
        }
        taken[emptiest] = true;
    }
    uint32_t next = 0;
    for (uint32_t m = 0; m < b->member_count; m++) {
        if (taken[m])
            chosen[next++] = m;
    }
}

/* Cuts slices into pieces; offsets are relative to the data area until the map's size is known. */
static void place_object(struct builder *b, const struct ps_layout_object *o, uint64_t first_slice)
{
    struct ps_disk_slice *slices = &b->slices[first_slice];
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < o->slice_count; i++) {
        slices[i] = (struct ps_disk_slice){
            .offset_bytes = bytes,
            .bytes = (uint32_t)ps_align_up(o->slices[i].bytes, b->align),
            .unit_begin = o->slices[i].unit_begin,
            .unit_count = o->slices[i].unit_count,
        };
        bytes += slices[i].bytes;
    }
    uint64_t cuts[PS_MEMBER_COUNT_MAX + 1];
    uint32_t chosen[PS_MEMBER_COUNT_MAX];
    uint32_t parts = cut_object(b, slices, bytes, cuts);
    choose_members(b, parts, chosen);
    uint32_t part = 0;
    for (uint32_t i = 0; i < o->slice_count; i++) {
        uint64_t at = slices[i].offset_bytes, end = at + slices[i].bytes;
        slices[i].first_piece = b->piece_count;
        while (at < end) {
            while (cuts[part + 1] <= at)
                part++;
            uint64_t piece_end = ps_min_u64(end, cuts[part + 1]);
            uint32_t member = chosen[part];
            b->pieces[b->piece_count++] = (struct ps_disk_piece){
                .member = member,
                .bytes = (uint32_t)(piece_end - at),
                .offset_bytes = b->filled[member],
            };
            slices[i].piece_count++;
            b->filled[member] += piece_end - at;
            at = piece_end;
        }
    }
}

static void copy_names_and_blobs(struct ps_plan *plan, const struct ps_layout_spec *spec)
{
    char *name = (char *)plan->map_data + plan->header->names_offset;
    for (uint32_t i = 0; i < spec->object_count; i++) {
        size_t bytes = strlen(spec->objects[i].name);
        memcpy(name, spec->objects[i].name, bytes + 1);
        name += bytes + 1;
    }
    struct ps_disk_blob *blobs = (void *)(plan->map_data + plan->header->blobs_offset);
    uint64_t at = plan->header->names_offset + plan->header->names_bytes;
    for (uint32_t i = 0; i < spec->blob_count; i++) {
        const struct ps_layout_blob *from = &spec->blobs[i];
        at = ps_align_up(at, PS_BLOB_ALIGN);
        memcpy(blobs[i].name, from->name, strlen(from->name));
        blobs[i].offset_bytes = at;
        blobs[i].bytes = from->bytes;
        blobs[i].checksum = XXH3_64bits(from->data, from->bytes);
        if (from->bytes > 0)
            memcpy(plan->map_data + at, from->data, from->bytes);
        at += from->bytes;
    }
}

static void copy_objects(struct ps_plan *plan, const struct builder *b)
{
    uint64_t slice = 0, name = 0;
    uint32_t resident_count = 0;
    for (uint32_t i = 0; i < b->spec->object_count; i++) {
        const struct ps_layout_object *from = &b->spec->objects[i];
        bool streamed = from->kind == PS_OBJECT_STREAMED;
        const struct ps_disk_slice *last = &b->slices[slice + from->slice_count - 1];
        plan->objects[i] = (struct ps_disk_object){
            .kind = from->kind,
            .group = streamed ? from->group : 0,
            .index = streamed ? from->index : resident_count++,
            .slice_count = from->slice_count,
            .first_slice = slice,
            .bytes = last->offset_bytes + last->bytes,
            .name_offset = name,
            .name_bytes = (uint32_t)strlen(from->name),
        };
        slice += from->slice_count;
        name += plan->objects[i].name_bytes + 1;
    }
    memcpy(plan->slices, b->slices, b->slice_count * sizeof(*b->slices));
    memcpy(plan->pieces, b->pieces, b->piece_count * sizeof(*b->pieces));
}

/* Allocates the map and sets header and views. */
static int shape_map(struct ps_plan *plan, const struct builder *b, struct ps_error *err)
{
    struct ps_disk_map h = {
        .magic = PS_MAP_MAGIC,
        .version = PS_FORMAT_VERSION,
        .align = b->align,
        .member_count = b->member_count,
        .object_count = b->spec->object_count,
        .slice_count = b->slice_count,
        .piece_count = b->piece_count,
        .blob_count = b->spec->blob_count,
        .names_bytes = b->names_bytes,
    };
    struct ps_map_shape s;
    bool fits = ps_map_shape_get(&h, PS_MAP_BYTES_MAX, &s);
    uint64_t blobs_at = ps_align_up(s.names_end, PS_BLOB_ALIGN);
    if (!fits || blobs_at + b->blobs_bytes > PS_MAP_BYTES_MAX - b->align)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "layout",
                            "the map would be larger than %llu bytes; use larger slices",
                            (unsigned long long)PS_MAP_BYTES_MAX);
    uint64_t end = s.names_end;
    for (uint32_t i = 0; i < b->spec->blob_count; i++)
        end = ps_align_up(end, PS_BLOB_ALIGN) + b->spec->blobs[i].bytes;
    h.members_offset = s.members;
    h.objects_offset = s.objects;
    h.slices_offset = s.slices;
    h.pieces_offset = s.pieces;
    h.blobs_offset = s.blobs;
    h.names_offset = s.names;
    h.bytes = plan->map_bytes = ps_align_up(end, b->align);
    plan->map_data = ps_raw_alloc(plan->map_bytes);
    if (plan->map_data == NULL)
        return ps_error_set(err, -ENOMEM, "layout", "not enough memory for the volume's map");
    plan->header = (void *)plan->map_data;
    *plan->header = h;
    plan->extents = (void *)(plan->map_data + h.members_offset);
    plan->objects = (void *)(plan->map_data + h.objects_offset);
    plan->slices = (void *)(plan->map_data + h.slices_offset);
    plan->pieces = (void *)(plan->map_data + h.pieces_offset);
    return 0;
}

static void place_areas(struct ps_plan *plan, const struct builder *b)
{
    plan->table_offset = ps_align_up(PS_SUPERBLOCK_BYTES, b->align);
    plan->table_bytes = ps_align_up(
        sizeof(struct ps_disk_table) + b->member_count * sizeof(struct ps_disk_peer), b->align);
    plan->map_offset = plan->table_offset + plan->table_bytes;
    plan->record_offset = plan->map_offset + plan->map_bytes;
    plan->data_begin = ps_align_up(plan->record_offset + 2 * PS_RECORD_HALF_BYTES, b->align);
    for (uint32_t m = 0; m < b->member_count; m++) {
        plan->extents[m].data_begin = plan->data_begin;
        plan->extents[m].data_end = plan->data_begin + b->filled[m];
        plan->data_bytes += b->filled[m];
    }
    for (uint64_t i = 0; i < b->piece_count; i++)
        plan->pieces[i].offset_bytes += plan->data_begin;
}

/*
 * The UUID follows from the content, so that a layout repeated or resumed gives the same bytes
 * (docs/decisions/0002). Version 8 of RFC 9562: the rest of the bits are ours to define.
 */
static void name_plan(struct ps_plan *plan, const struct ps_layout_spec *spec)
{
    XXH128_hash_t hash = XXH3_128bits(plan->map_data, plan->map_bytes);
    plan->plan_hash[0] = hash.low64;
    plan->plan_hash[1] = hash.high64;
    uint64_t seed[4] = {spec->source_fingerprint[0], spec->source_fingerprint[1], hash.low64,
                        hash.high64};
    XXH128_hash_t uuid = XXH3_128bits(seed, sizeof(seed));
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, uuid);
    memcpy(plan->uuid, canonical.digest, sizeof(plan->uuid));
    plan->uuid[6] = (uint8_t)((plan->uuid[6] & 0x0f) | 0x80);
    plan->uuid[8] = (uint8_t)((plan->uuid[8] & 0x3f) | 0x80);
    memcpy(plan->header->uuid, plan->uuid, sizeof(plan->uuid));
}

static int list_jobs(struct ps_plan *plan, struct ps_error *err)
{
    uint64_t count = 0;
    plan->jobs = malloc(plan->header->slice_count * sizeof(*plan->jobs));
    if (plan->jobs == NULL)
        return ps_error_set(err, -ENOMEM, "layout", "not enough memory for the list of work");
    for (uint32_t i = 0; i < plan->header->object_count; i++) {
        const struct ps_disk_object *o = &plan->objects[i];
        uint32_t begin = 0;
        while (begin < o->slice_count) {
            const struct ps_disk_slice *slices = &plan->slices[o->first_slice];
            uint64_t bytes = slices[begin].bytes;
            uint32_t end = begin + 1;
            while (end < o->slice_count &&
                   (o->kind == PS_OBJECT_STREAMED || bytes + slices[end].bytes <= JOB_BYTES_AIM))
                bytes += slices[end++].bytes;
            plan->jobs[count++] = (struct ps_plan_job){.object = i,
                                                       .slice_begin = begin,
                                                       .slice_end = end,
                                                       .first_slice = o->first_slice + begin,
                                                       .bytes = bytes};
            plan->job_bytes_max = ps_max_u64(plan->job_bytes_max, bytes);
            begin = end;
        }
    }
    plan->job_count = (uint32_t)count;
    return 0;
}

static int build(struct ps_plan *plan, struct builder *b, struct ps_error *err)
{
    uint64_t slice = 0;
    for (uint32_t i = 0; i < b->spec->object_count; i++) {
        place_object(b, &b->spec->objects[i], slice);
        slice += b->spec->objects[i].slice_count;
    }
    int rc = shape_map(plan, b, err);
    if (rc < 0)
        return rc;
    copy_objects(plan, b);
    copy_names_and_blobs(plan, b->spec);
    place_areas(plan, b);
    name_plan(plan, b->spec);
    /* The reader's own checks: what it would refuse is refused here, before anything is written. */
    struct ps_map map;
    struct ps_error reason = {0};
    rc = ps_map_parse(&map, plan->map_data, plan->map_bytes, "layout", &reason);
    if (rc < 0)
        return ps_error_set(err, rc == -ENOMEM ? rc : -PS_ERR_ARGUMENT, "layout",
                            "this cannot be laid out: %s", reason.text);
    ps_map_fini(&map);
    return list_jobs(plan, err);
}

int ps_plan_make(struct ps_plan *plan, const struct ps_layout_spec *spec, uint32_t member_count,
                 uint32_t align, struct ps_error *err)
{
    struct builder b = {.spec = spec, .align = align, .member_count = member_count};
    struct ps_plan made = {0};
    int rc = check_spec(&b, err);
    if (rc < 0)
        return rc;
    if (b.slice_count > UINT32_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "layout", "too many slices; use larger ones");
    uint64_t pieces_max = b.slice_count + (uint64_t)spec->object_count * (member_count - 1);
    b.slices = calloc(b.slice_count, sizeof(*b.slices));
    b.pieces = calloc(pieces_max, sizeof(*b.pieces));
    if (b.slices == NULL || b.pieces == NULL)
        rc = ps_error_set(err, -ENOMEM, "layout", "not enough memory for the volume's map");
    else
        rc = build(&made, &b, err);
    free(b.slices);
    free(b.pieces);
    if (rc < 0) {
        ps_plan_fini(&made);
        return rc;
    }
    *plan = made;
    return 0;
}

void ps_plan_fini(struct ps_plan *plan)
{
    free(plan->map_data);
    free(plan->jobs);
    *plan = (struct ps_plan){0};
}
