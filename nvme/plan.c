#include "nvme/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/util.h"
#include "nvme/cut.h"
#include "nvme/map.h"
#include "nvme/raw_io.h"

#define NO_MEMORY "not enough memory for the volume's map"
/* Resident objects are asked for in runs of about this size. */
#define JOB_BYTES_AIM (8u << 20)

struct builder {
    const struct ps_layout_spec *spec;
    const struct ps_plan_options *options;
    uint64_t slice_count, names_bytes, blobs_bytes, object_bytes;
    struct ps_disk_slice *slices;
    struct ps_disk_piece *pieces[2];         /* of each copy */
    uint64_t piece_count, piece_capacity;    /* of one copy */
    uint64_t filled[2][PS_MEMBER_COUNT_MAX]; /* bytes of each copy on each member so far */
    struct ps_cutter cutter;
    struct ps_part *parts[2]; /* of the object at hand, as each copy is cut */
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
        int rc = check_object(&spec->objects[i], b->options->align, err);
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

/* Appends a piece of each copy that holds the same bytes; offsets count in the member's data of
 * that copy until the sizes of all areas are known. */
static int push_piece(struct builder *b, uint32_t bytes, const uint32_t *members)
{
    if (b->piece_count == b->piece_capacity) {
        uint64_t capacity = 2 * b->piece_capacity + 1024;
        for (uint32_t copy = 0; copy < b->options->copies; copy++) {
            void *grown = realloc(b->pieces[copy], capacity * sizeof(*b->pieces[copy]));
            if (grown == NULL)
                return -ENOMEM;
            b->pieces[copy] = grown;
        }
        b->piece_capacity = capacity;
    }
    for (uint32_t copy = 0; copy < b->options->copies; copy++) {
        uint64_t *filled = &b->filled[copy][members[copy]];
        b->pieces[copy][b->piece_count] = (struct ps_disk_piece){
            .member = members[copy], .bytes = bytes, .offset_bytes = *filled};
        *filled += bytes;
    }
    b->piece_count++;
    return 0;
}

/* Fills the object's slices but for their pieces. Returns its bytes. */
static uint64_t place_slices(struct builder *b, const struct ps_layout_object *o,
                             struct ps_disk_slice *slices)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < o->slice_count; i++) {
        slices[i] = (struct ps_disk_slice){
            .offset_bytes = bytes,
            .bytes = (uint32_t)ps_align_up(o->slices[i].bytes, b->options->align),
            .unit_begin = o->slices[i].unit_begin,
            .unit_count = o->slices[i].unit_count,
        };
        bytes += slices[i].bytes;
    }
    return bytes;
}

/* Decides on the members of every byte of the object, in every copy. */
static void cut_object(struct builder *b, const struct ps_disk_slice *slices, uint64_t bytes)
{
    uint32_t count = ps_cut(&b->cutter, slices, 0, bytes, PS_CUT_FIRST, b->parts[0]);
    uint32_t further = 0;
    for (uint32_t i = 0; b->options->copies > 1 && i < count; i++) {
        const struct ps_part *part = &b->parts[0][i];
        if (part->begin < part->end)
            further += ps_cut(&b->cutter, slices, part->begin, part->end, part->member,
                              &b->parts[1][further]);
    }
}

/* Cuts slices into pieces, wherever a copy goes on on another member. */
static int place_object(struct builder *b, const struct ps_layout_object *o, uint64_t first_slice)
{
    struct ps_disk_slice *slices = &b->slices[first_slice];
    uint64_t bytes = place_slices(b, o, slices);
    const struct ps_part *part[2] = {b->parts[0], b->parts[1]};
    int rc = 0;
    cut_object(b, slices, bytes);
    b->object_bytes += bytes;
    for (uint32_t i = 0; rc == 0 && i < o->slice_count; i++) {
        uint64_t at = slices[i].offset_bytes, end = at + slices[i].bytes;
        slices[i].first_piece = b->piece_count;
        while (rc == 0 && at < end) {
            uint64_t piece_end = end;
            uint32_t members[2];
            for (uint32_t copy = 0; copy < b->options->copies; copy++) {
                while (part[copy]->end <= at)
                    part[copy]++;
                piece_end = ps_min_u64(piece_end, part[copy]->end);
                members[copy] = part[copy]->member;
            }
            rc = push_piece(b, (uint32_t)(piece_end - at), members);
            slices[i].piece_count++;
            at = piece_end;
        }
    }
    return rc;
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
    for (uint32_t copy = 0; copy < b->options->copies; copy++)
        memcpy(plan->pieces + copy * b->piece_count, b->pieces[copy],
               b->piece_count * sizeof(*b->pieces[copy]));
}

/* Allocates the map and sets header and views. */
static int shape_map(struct ps_plan *plan, const struct builder *b, struct ps_error *err)
{
    struct ps_disk_map h = {
        .magic = PS_MAP_MAGIC,
        .version = PS_FORMAT_VERSION,
        .align = b->options->align,
        .member_count = b->options->member_count,
        .object_count = b->spec->object_count,
        .slice_count = b->slice_count,
        .piece_count = b->piece_count,
        .blob_count = b->spec->blob_count,
        .further_copies = b->options->copies - 1,
        .names_bytes = b->names_bytes,
    };
    struct ps_map_shape s;
    bool fits = ps_map_shape_get(&h, PS_MAP_BYTES_MAX, &s);
    uint64_t blobs_at = ps_align_up(s.names_end, PS_BLOB_ALIGN);
    if (!fits || blobs_at + b->blobs_bytes > PS_MAP_BYTES_MAX - b->options->align)
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
    h.bytes = plan->map_bytes = ps_align_up(end, b->options->align);
    plan->map_data = ps_raw_alloc(plan->map_bytes);
    if (plan->map_data == NULL)
        return ps_error_set(err, -ENOMEM, "layout", NO_MEMORY);
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
    uint32_t align = b->options->align, members = b->options->member_count;
    plan->table_offset = ps_align_up(PS_SUPERBLOCK_BYTES, align);
    plan->table_bytes =
        ps_align_up(sizeof(struct ps_disk_table) + members * sizeof(struct ps_disk_peer), align);
    plan->map_offset = plan->table_offset + plan->table_bytes;
    plan->record_offset = plan->map_offset + plan->map_bytes;
    plan->data_begin = ps_align_up(plan->record_offset + 2 * PS_RECORD_HALF_BYTES, align);
    plan->object_bytes = b->object_bytes;
    for (uint32_t m = 0; m < members; m++) {
        plan->extents[m].data_begin = plan->data_begin;
        plan->extents[m].data_end = plan->data_begin + b->filled[0][m] + b->filled[1][m];
    }
    /* On each member all first copies lie before all second ones. */
    for (uint64_t i = 0; i < b->piece_count * b->options->copies; i++) {
        uint32_t m = plan->pieces[i].member;
        plan->pieces[i].offset_bytes +=
            plan->data_begin + (i < b->piece_count ? 0 : b->filled[0][m]);
    }
}

/*
 * The UUID follows from the content, so that a layout repeated or resumed gives the same bytes
 * (docs/decisions/0002). Version 8 of RFC 9562: the rest of the bits are ours to define.
 */
static void name_plan(struct ps_plan *plan, const struct ps_layout_spec *spec)
{
    memset(plan->header->uuid, 0, sizeof(plan->header->uuid));
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
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < b->spec->object_count; i++) {
        rc = place_object(b, &b->spec->objects[i], slice);
        slice += b->spec->objects[i].slice_count;
    }
    if (rc < 0)
        return ps_error_set(err, rc, "layout", NO_MEMORY);
    rc = shape_map(plan, b, err);
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

static int builder_init(struct builder *b, struct ps_error *err)
{
    size_t members = b->options->member_count;
    int rc = check_spec(b, err);
    if (rc < 0)
        return rc;
    if (b->slice_count > UINT32_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "layout", "too many slices; use larger ones");
    b->slices = calloc(b->slice_count, sizeof(*b->slices));
    b->parts[0] = calloc(members, sizeof(*b->parts[0]));
    b->parts[1] = calloc(members * members, sizeof(*b->parts[1]));
    rc = ps_cutter_init(&b->cutter, b->options);
    if (rc < 0 || b->slices == NULL || b->parts[0] == NULL || b->parts[1] == NULL)
        return ps_error_set(err, -ENOMEM, "layout", NO_MEMORY);
    return 0;
}

static void builder_fini(struct builder *b)
{
    ps_cutter_fini(&b->cutter);
    free(b->slices);
    for (int copy = 0; copy < 2; copy++) {
        free(b->pieces[copy]);
        free(b->parts[copy]);
    }
}

int ps_plan_make(struct ps_plan *plan, const struct ps_layout_spec *spec,
                 const struct ps_plan_options *options, struct ps_error *err)
{
    struct builder b = {.spec = spec, .options = options};
    struct ps_plan made = {.options = *options};
    int rc;
    if (options->copies > 1 && options->member_count < 2)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "layout",
                            "two copies need at least two members; name another one");
    rc = builder_init(&b, err);
    if (rc == 0)
        rc = build(&made, &b, err);
    builder_fini(&b);
    if (rc < 0) {
        ps_plan_fini(&made);
        return rc;
    }
    *plan = made;
    return 0;
}

void ps_plan_shift(struct ps_plan *plan, const struct ps_layout_spec *spec, const uint64_t *shifts)
{
    for (uint32_t m = 0; m < plan->options.member_count; m++) {
        plan->shifts[m] = shifts[m];
        plan->extents[m].data_begin += shifts[m];
        plan->extents[m].data_end += shifts[m];
    }
    for (uint64_t i = 0; i < plan->header->piece_count * plan->options.copies; i++)
        plan->pieces[i].offset_bytes += shifts[plan->pieces[i].member];
    name_plan(plan, spec);
}

void ps_plan_fini(struct ps_plan *plan)
{
    free(plan->map_data);
    free(plan->jobs);
    *plan = (struct ps_plan){0};
}

/* Zero stands for what every volume has that was given nothing else. */
void ps_plan_options_put(const struct ps_plan_options *options, struct ps_disk_superblock *sb)
{
    bool nodes_differ = false;
    for (uint32_t m = 1; m < options->member_count; m++)
        nodes_differ |= options->nodes[m] != options->nodes[0];
    for (uint32_t m = 0; m < options->member_count; m++) {
        sb->weights[m] = options->weights[m];
        sb->nodes[m] = nodes_differ ? (uint8_t)(options->nodes[m] + 1) : 0;
    }
    sb->piece_bytes_min =
        options->piece_bytes_min != PS_PIECE_BYTES_MIN ? options->piece_bytes_min : 0;
    sb->further_copies = options->copies - 1;
}

void ps_plan_options_get(struct ps_plan_options *options, const struct ps_disk_superblock *sb)
{
    *options = (struct ps_plan_options){
        .member_count = sb->member_count,
        .align = sb->align,
        .copies = 1 + sb->further_copies,
        .piece_bytes_min = sb->piece_bytes_min != 0 ? sb->piece_bytes_min : PS_PIECE_BYTES_MIN,
    };
    for (uint32_t m = 0; m < sb->member_count; m++) {
        options->weights[m] = sb->weights[m];
        options->nodes[m] = (uint8_t)(sb->nodes[m] - 1); /* 0 becomes PS_NODE_NONE */
    }
}
