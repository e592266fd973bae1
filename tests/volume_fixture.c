#include "volume_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nvme/volume_internal.h"
#include "util.h"

const struct fixture_shape fixture_small = {.resident_count = 4,
                                            .group_count = 2,
                                            .index_count = 3,
                                            .slice_count = 3,
                                            .slice_bytes = 60000};
const struct fixture_shape fixture_former = {.resident_count = 3,
                                             .group_count = 3,
                                             .index_count = 3,
                                             .slice_count = 2,
                                             .slice_bytes = 70000};

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void fill_slice(uint64_t seed, uint32_t object, uint32_t slice, uint8_t *buf, uint32_t bytes)
{
    uint64_t state = mix(seed ^ ((uint64_t)object << 32 | slice));
    for (uint32_t i = 0; i < bytes; i++) {
        if (i % 8 == 0)
            state = mix(state);
        buf[i] = (uint8_t)(state >> (i % 8 * 8));
    }
}

static char *name_of(const char *fmt, uint32_t a, uint32_t b)
{
    char *name = NULL;
    if (asprintf(&name, fmt, a, b) < 0)
        abort();
    return name;
}

static uint32_t resident_bytes(uint32_t i, const struct fixture_shape *shape)
{
    if (shape->large && i == 1)
        return (8u << 20) + 12345;
    return 1 + i * 30011u;
}

void fixture_init(struct fixture *f, uint64_t seed, const struct fixture_shape *shape)
{
    uint32_t streamed_count = shape->group_count * shape->index_count;
    uint32_t object_count = shape->resident_count + streamed_count;
    memset(f, 0, sizeof(*f));
    f->seed = seed;
    f->fail_object = -1;
    f->objects = calloc(object_count, sizeof(*f->objects));
    f->slices =
        calloc(shape->resident_count * 3 + streamed_count * shape->slice_count, sizeof(*f->slices));
    struct ps_layout_slice *next = f->slices;
    for (uint32_t i = 0; i < object_count; i++) {
        struct ps_layout_object *o = &f->objects[i];
        bool streamed = i >= shape->resident_count;
        uint32_t n = i - shape->resident_count;
        o->kind = streamed ? PS_OBJECT_STREAMED : PS_OBJECT_RESIDENT;
        o->group = streamed ? n / shape->index_count : 0;
        o->index = streamed ? n % shape->index_count : i;
        o->name = streamed ? name_of("layer %u expert %u", o->group, o->index)
                           : name_of("tensor.%u.%u", i, 0);
        o->slices = next;
        o->slice_count = streamed ? shape->slice_count : 1 + i % 3;
        for (uint32_t s = 0; s < o->slice_count; s++) {
            /* Not multiples of the alignment, and the last slice shorter. */
            uint32_t bytes =
                streamed ? shape->slice_bytes - 7 - o->group * 100 : resident_bytes(i, shape);
            if (streamed && s + 1 == o->slice_count && s > 0)
                bytes = bytes / 2 + 1;
            next[s] =
                (struct ps_layout_slice){.bytes = bytes, .unit_begin = s * 256, .unit_count = 256};
        }
        next += o->slice_count;
    }
    f->blobs[0] = (struct ps_layout_blob){.name = "model.json", .data = "{\"a\":1}", .bytes = 7};
    f->blobs[1] = (struct ps_layout_blob){.name = "empty", .data = "", .bytes = 0};
    f->spec = (struct ps_layout_spec){.objects = f->objects,
                                      .object_count = object_count,
                                      .blobs = f->blobs,
                                      .blob_count = 2,
                                      .source_fingerprint = {mix(seed), mix(seed + 1)},
                                      .source_name = "a made-up model"};
}

void fixture_fini(struct fixture *f)
{
    for (uint32_t i = 0; i < f->spec.object_count; i++)
        free((char *)f->objects[i].name);
    free(f->objects);
    free(f->slices);
    memset(f, 0, sizeof(*f));
}

void fixture_paths(char dir[256], char path[][300], const char **paths, int count)
{
    ps_test_dir_make(dir, 256);
    for (int m = 0; m < count; m++) {
        snprintf(path[m], sizeof(path[m]), "%s/m%d", dir, m);
        paths[m] = path[m];
    }
}

int fixture_fill(void *ctx, int worker, uint32_t object, uint32_t slice_begin, uint32_t slice_end,
                 uint8_t *buf, struct ps_error *err)
{
    const struct fixture *f = ctx;
    (void)worker;
    if (f->fail_object == (int)object)
        return ps_error_set(err, -PS_ERR_TRUNCATED, f->objects[object].name,
                            "the source ends here");
    for (uint32_t s = slice_begin; s < slice_end; s++) {
        fill_slice(f->seed, object, s, buf, f->objects[object].slices[s].bytes);
        buf += f->objects[object].slices[s].bytes;
    }
    return 0;
}

int fixture_layout(struct fixture *f, const char *const *paths, int path_count,
                   const struct ps_layout_options *opts, struct ps_error *err)
{
    struct ps_layout_options o = opts != NULL ? *opts : (struct ps_layout_options){0};
    o.members = paths;
    o.member_count = path_count;
    if (o.threads == 0)
        o.threads = 2;
    return ps_layout_write(&f->spec, &o, fixture_fill, f, err);
}

/* Reads a copy of a slice with pread, and compares it. The copy must have been laid out whole. */
static void check_copy(const struct ps_volume *volume, uint32_t object, uint32_t slice,
                       uint32_t copy, const uint8_t *expect, uint64_t bytes)
{
    uint32_t count;
    uint64_t at = 0;
    const struct ps_disk_piece *pieces =
        ps_volume_slice_pieces(volume, object, slice, copy, &count);
    uint8_t *got = malloc(bytes);
    for (uint32_t p = 0; p < count; at += pieces[p++].bytes) {
        int fd = ps_volume_fd(volume, (int)pieces[p].member);
        assert_true(pieces[p].offset_bytes % 4096 == 0 && pieces[p].bytes % 4096 == 0);
        assert_true(at + pieces[p].bytes <= bytes);
        if (fd < 0) /* a missing member's part is not looked at */
            memcpy(got + at, expect + at, pieces[p].bytes);
        else
            assert_int_equal(pread(fd, got + at, pieces[p].bytes, (off_t)pieces[p].offset_bytes),
                             pieces[p].bytes);
    }
    assert_int_equal(at, bytes);
    assert_memory_equal(got, expect, bytes);
    free(got);
}

static void check_slice(struct fixture *f, const struct ps_volume *volume, uint32_t object,
                        uint32_t slice)
{
    struct ps_slice_info info;
    struct ps_piece_info piece;
    uint32_t payload = f->objects[object].slices[slice].bytes, count;
    ps_volume_slice(volume, object, slice, &info);
    assert_int_equal(info.bytes, (payload + 4095) / 4096 * 4096);
    assert_int_equal(info.unit_begin, f->objects[object].slices[slice].unit_begin);
    uint8_t *expect = calloc(1, info.bytes);
    fill_slice(f->seed, object, slice, expect, payload);
    for (uint32_t copy = 0; copy < ps_volume_copy_count(volume); copy++)
        check_copy(volume, object, slice, copy, expect, info.bytes);
    const struct ps_disk_piece *first = ps_volume_slice_pieces(volume, object, slice, 0, &count);
    assert_int_equal(count, info.piece_count);
    for (uint32_t p = 0; p < count; p++) {
        ps_volume_piece(volume, object, slice, p, &piece);
        assert_int_equal(piece.member, first[p].member);
        assert_int_equal(piece.bytes, first[p].bytes);
        assert_int_equal(piece.offset_bytes, first[p].offset_bytes);
    }
    free(expect);
}

void fixture_check(struct fixture *f, const struct ps_volume *volume)
{
    assert_int_equal(ps_volume_object_count(volume), f->spec.object_count);
    for (uint32_t i = 0; i < f->spec.object_count; i++) {
        struct ps_object_info info;
        const struct ps_layout_object *o = &f->objects[i];
        ps_volume_object(volume, i, &info);
        assert_int_equal(info.kind, o->kind);
        assert_string_equal(info.name, o->name);
        assert_int_equal(info.slice_count, o->slice_count);
        int64_t found = o->kind == PS_OBJECT_STREAMED
                            ? ps_volume_find_streamed(volume, o->group, o->index)
                            : ps_volume_find_resident(volume, o->name);
        assert_int_equal(found, i);
        for (uint32_t s = 0; s < o->slice_count; s++)
            check_slice(f, volume, i, s);
    }
    const void *data;
    uint64_t bytes;
    assert_int_equal(ps_volume_metadata(volume, "model.json", &data, &bytes), 0);
    assert_int_equal(bytes, 7);
    assert_memory_equal(data, "{\"a\":1}", 7);
    assert_int_equal(ps_volume_metadata(volume, "empty", &data, &bytes), 0);
    assert_int_equal(bytes, 0);
    assert_int_equal(ps_volume_metadata(volume, "absent", &data, &bytes), -ENOENT);
}

static void verify(struct ps_volume *volume, struct ps_verify_report *report)
{
    struct ps_error err = {0};
    struct ps_verify_options options = {.threads = 2};
    int rc = ps_volume_verify(volume, &options, report, &err);
    if (rc < 0)
        fail_msg("verify: %s: %s", err.where, err.text);
}

uint64_t fixture_verify(struct ps_volume *volume)
{
    struct ps_verify_report report;
    verify(volume, &report);
    return report.slices_bad;
}

uint64_t fixture_verify_slices(struct ps_volume *volume)
{
    struct ps_verify_report report;
    verify(volume, &report);
    return report.slices_bad - report.ranges_bad;
}

uint8_t *file_read(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *bytes = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = malloc(*bytes + 1);
    assert_int_equal(fread(data, 1, *bytes, file), *bytes);
    fclose(file);
    return data;
}

void file_write(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

void file_copy(const char *from, const char *to)
{
    size_t bytes;
    uint8_t *data = file_read(from, &bytes);
    file_write(to, data, bytes);
    free(data);
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

void file_patch(const char *path, uint64_t offset, const void *data, size_t bytes)
{
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, bytes, (off_t)offset), bytes);
    close(fd);
}
