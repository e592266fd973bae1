#include "store_fixture.h"

#include "core/util.h"
#include "nvme/layout.h"
#include "nvme/volume_internal.h"

#define STREAMED (STORE_GROUPS * STORE_INDEXES)
#define OBJECTS (STREAMED + 2)
#define SLICES_MAX 9

static struct ps_layout_slice slices[OBJECTS][SLICES_MAX];
static struct ps_layout_object objects[OBJECTS];
static char names[OBJECTS][64];

static uint8_t byte_at(uint32_t object, uint32_t slice, uint32_t i)
{
    uint32_t x = (object * 31 + slice * 7 + i) * 2654435761u;
    return (uint8_t)(x >> 24 ^ x >> 9);
}

static uint32_t slice_bytes(uint32_t object, uint32_t slice)
{
    static const uint32_t sizes[STORE_GROUPS] = {40000, 100000, 5 << 20};
    if (object < STREAMED)
        return object / STORE_INDEXES == 2 && slice == 1
                   ? 60000
                   : sizes[object / STORE_INDEXES] - slice * 100;
    return object == STREAMED ? 3000 : (1 << 20) + 17;
}

static uint32_t slice_count(uint32_t object)
{
    if (object < STREAMED)
        return object / STORE_INDEXES == 2 ? 2 : 3;
    return object == STREAMED ? 1 : SLICES_MAX;
}

static int fill(void *ctx, int worker, uint32_t object, uint32_t begin, uint32_t end, uint8_t *buf,
                struct ps_error *err)
{
    (void)ctx;
    (void)worker;
    (void)err;
    for (uint32_t s = begin; s < end; s++) {
        for (uint32_t i = 0; i < slice_bytes(object, s); i++)
            *buf++ = byte_at(object, s, i);
    }
    return 0;
}

static void describe(void)
{
    for (uint32_t o = 0; o < OBJECTS; o++) {
        uint32_t group = o < STREAMED ? o / STORE_INDEXES : 0;
        uint32_t index = o < STREAMED ? o % STORE_INDEXES : 0;
        if (o < STREAMED)
            snprintf(names[o], sizeof(names[o]), "layer %u expert %u", group, index);
        else
            snprintf(names[o], sizeof(names[o]), o == STREAMED ? "small" : "large");
        for (uint32_t s = 0; s < slice_count(o); s++)
            slices[o][s] = (struct ps_layout_slice){slice_bytes(o, s), s * 10, 10};
        objects[o] = (struct ps_layout_object){
            o < STREAMED ? PS_OBJECT_STREAMED : PS_OBJECT_RESIDENT,
            group,
            index,
            names[o],
            slices[o],
            slice_count(o),
        };
    }
}

void store_volume_make(struct store_volume *v, int member_count)
{
    store_volume_make_copies(v, member_count, 1);
}

void store_volume_make_copies(struct store_volume *v, int member_count, uint32_t copies)
{
    const char *paths[STORE_MEMBERS_MAX];
    struct ps_error err = {0};

    memset(v, 0, sizeof(*v));
    describe();
    ps_test_dir_make(v->dir, sizeof(v->dir));
    v->member_count = member_count;
    for (int i = 0; i < member_count; i++) {
        snprintf(v->members[i], sizeof(v->members[i]), "%s/volume.%d", v->dir, i);
        paths[i] = v->members[i];
    }
    struct ps_layout_spec spec = {
        .objects = objects,
        .object_count = OBJECTS,
        .source_fingerprint = {1, 2},
        .source_name = "test",
    };
    struct ps_layout_options options = {
        .members = paths, .member_count = member_count, .threads = 1, .copies = copies};
    if (ps_layout_write(&spec, &options, fill, NULL, &err) < 0)
        fail_msg("layout: %s: %s", err.where, err.text);
    if (ps_volume_open(&v->volume, paths, 1, &err) < 0)
        fail_msg("open: %s: %s", err.where, err.text);
    assert_int_equal(ps_volume_object_count(v->volume), OBJECTS);
}

void store_volume_remove(struct store_volume *v)
{
    ps_volume_close(&v->volume);
    ps_test_dir_remove(v->dir);
}

void store_check_slice(const struct store_volume *v, uint32_t object, uint32_t slice,
                       const uint8_t *slice_data)
{
    struct ps_slice_info info;
    ps_volume_slice(v->volume, object, slice, &info);
    for (uint32_t i = 0; i < slice_bytes(object, slice); i++) {
        if (slice_data[i] != byte_at(object, slice, i))
            fail_msg("object %u slice %u: wrong byte %u", object, slice, i);
    }
    for (uint32_t i = slice_bytes(object, slice); i < info.bytes; i++)
        assert_int_equal(slice_data[i], 0);
}

void store_check_object(const struct store_volume *v, uint32_t object, const uint8_t *data)
{
    for (uint32_t s = 0; s < slice_count(object); s++) {
        struct ps_slice_info info;
        ps_volume_slice(v->volume, object, s, &info);
        store_check_slice(v, object, s, data + info.offset_bytes);
    }
}

void store_check_lease(const struct store_volume *v, const struct ps_lease *lease)
{
    assert_int_equal(lease->slice_count, slice_count(lease->object));
    for (uint32_t s = 0; s < lease->slice_count; s++)
        store_check_slice(v, lease->object, s, lease->slices[s]);
}

void store_corrupt(const struct store_volume *v, uint32_t object, uint32_t slice)
{
    store_corrupt_copy(v, object, slice, 0);
}

void store_corrupt_copy(const struct store_volume *v, uint32_t object, uint32_t slice,
                        uint32_t copy)
{
    struct ps_member_info member;
    struct ps_disk_piece piece;
    uint32_t count;
    uint8_t byte;

    piece = *ps_volume_slice_pieces(v->volume, object, slice, copy, &count);
    ps_volume_member(v->volume, (int)piece.member, &member);
    int fd = open(member.path, O_RDWR | O_CLOEXEC);
    off_t at = (off_t)(piece.offset_bytes + piece.bytes / 2);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    assert_int_equal(fsync(fd), 0);
    close(fd);
}
