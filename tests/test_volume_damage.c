/* Damage of every kind: nothing crashes, nothing wrong is believed, verify finds what is in the
 * data. */
#include "core/log.h"
#include "nvme/raw_io.h"
#include "nvme/superblock.h"
#include "util.h"
#include "volume_fixture.h"

static const struct fixture_shape shape = {.resident_count = 3,
                                           .group_count = 2,
                                           .index_count = 2,
                                           .slice_count = 2,
                                           .slice_bytes = 70000};

struct scene {
    char dir[256];
    char path[2][300];
    const char *paths[2];
    struct fixture f;
    struct ps_disk_superblock sb; /* of member 0 */
    size_t bytes;                 /* of member 0 */
};

static int scene_make(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    struct ps_error err = {0};
    struct ps_superblock_pair pair;
    fixture_paths(s->dir, s->path, s->paths, 2);
    fixture_init(&s->f, 5, &shape);
    int rc = fixture_layout(&s->f, s->paths, 2, NULL, &err);
    if (rc != 0)
        fail_msg("%s: %s", err.where, err.text);
    int fd = open(s->path[0], O_RDONLY);
    assert_int_equal(ps_superblock_read(fd, s->path[0], &pair, NULL), 0);
    close(fd);
    s->sb = pair.copy[0];
    free(file_read(s->path[0], &s->bytes));
    *state = s;
    return 0;
}

static int scene_free(void **state)
{
    struct scene *s = *state;
    fixture_fini(&s->f);
    ps_test_dir_remove(s->dir);
    free(s);
    return 0;
}

static void flip(const char *path, uint64_t offset, int bit)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= (uint8_t)(1 << bit);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

static void cut_short(void **state)
{
    struct scene *s = *state;
    size_t bytes;
    char path[320];
    uint8_t *data = file_read(s->path[0], &bytes);
    snprintf(path, sizeof(path), "%s/short", s->dir);
    for (int i = 0; i < 200; i++) {
        struct ps_error err = {0};
        struct ps_volume *v = NULL;
        /* Around the borders of every area, and evenly in between. */
        size_t length = i < 20 ? (size_t)i * 512 : bytes * (size_t)(i - 20) / 180;
        if (i >= 190)
            length = bytes - (size_t)(i - 189);
        file_write(path, data, length);
        const char *named = path;
        int rc = ps_volume_open(&v, &named, 1, &err);
        if (length >= 8)
            assert_int_equal(rc, -PS_ERR_TRUNCATED);
        else
            assert_int_equal(rc, -PS_ERR_FORMAT);
        assert_string_equal(err.where, path);
        assert_true(err.text[0] != 0);
        assert_null(v);
    }
    /* The other member cut short, and found by its recorded name. */
    uint8_t *other = file_read(s->path[1], &bytes);
    assert_int_equal(truncate(s->path[1], (off_t)bytes - 4096), 0);
    struct ps_error err = {0};
    struct ps_volume *v = NULL;
    assert_int_equal(ps_volume_open(&v, s->paths, 1, &err), -PS_ERR_TRUNCATED);
    assert_non_null(strstr(err.where, "/m1"));
    file_write(s->path[1], other, bytes);
    free(other);
    free(data);
    unlink(path);
}

struct bad_list {
    int count;
    char text[2048];
};

static void take_bad(void *ctx, const char *text)
{
    struct bad_list *list = ctx;
    list->count++;
    snprintf(list->text, sizeof(list->text), "%s", text);
}

static void verify_all(struct ps_volume *v, struct bad_list *list, struct ps_verify_report *report)
{
    struct ps_error err = {0};
    memset(list, 0, sizeof(*list));
    struct ps_verify_options options = {.bad = take_bad, .ctx = list};
    if (ps_volume_verify(v, &options, report, &err) != 0)
        fail_msg("%s: %s", err.where, err.text);
}

/* One flipped bit anywhere in the data, padding included: exactly one slice is bad, and it is
 * named. */
static void flipped_data(void **state)
{
    struct scene *s = *state;
    struct ps_volume *v = NULL;
    struct bad_list list;
    struct ps_verify_report report;
    assert_int_equal(ps_volume_open(&v, s->paths, 1, NULL), 0);
    verify_all(v, &list, &report);
    assert_int_equal(list.count, 0);
    assert_int_equal(report.slices_bad, 0);
    for (int m = 0; m < 2; m++) {
        struct ps_member_info info;
        ps_volume_member(v, m, &info);
        uint64_t length = info.data_end_bytes - info.data_begin_bytes;
        for (int i = 0; i < 60; i++) {
            uint64_t at = info.data_begin_bytes + (i == 0   ? 0
                                                   : i == 1 ? length - 1
                                                            : length * (uint64_t)i / 60 + 17);
            flip(s->path[m], at, i % 8);
            verify_all(v, &list, &report);
            assert_int_equal(list.count, 1);
            assert_int_equal(report.slices_bad, 1);
            assert_int_equal(report.ranges_bad, 0);
            assert_non_null(strstr(list.text, s->path[m] + strlen(s->dir)));
            assert_true(strstr(list.text, "layer") != NULL || strstr(list.text, "tensor") != NULL);
            flip(s->path[m], at, i % 8);
        }
    }
    ps_volume_close(&v);
}

/* One flipped bit anywhere before the data or in the second superblock is found by verify. */
static void flipped_head(void **state)
{
    struct scene *s = *state;
    struct ps_volume *v = NULL;
    struct bad_list list;
    struct ps_verify_report report;
    assert_int_equal(ps_volume_open(&v, s->paths, 1, NULL), 0);
    for (uint64_t at = 0; at < s->bytes; at += 509) {
        if (at >= s->sb.data_begin && at < s->sb.data_end)
            continue;
        flip(s->path[0], at, (int)(at % 8));
        verify_all(v, &list, &report);
        assert_int_equal(list.count, 1);
        assert_int_equal(report.slices_bad, 1);
        assert_int_equal(report.ranges_bad, 1);
        assert_non_null(strstr(list.text, "/m0"));
        flip(s->path[0], at, (int)(at % 8));
    }
    ps_volume_close(&v);
}

static int warnings;

static void count_warnings(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx, (void)text;
    warnings += level == PS_LOG_WARN;
}

/* Every byte of a superblock flipped: the other copy serves, with a warning, and the map is right.
 */
static void flipped_superblock(void **state)
{
    struct scene *s = *state;
    ps_log_set(count_warnings, NULL);
    for (uint64_t at = 0; at < PS_SUPERBLOCK_BYTES; at += at < 520 || at > 4080 ? 1 : 61) {
        struct ps_volume *v = NULL;
        flip(s->path[0], at, (int)(at % 8));
        warnings = 0;
        assert_int_equal(ps_volume_open(&v, s->paths, 1, NULL), 0);
        assert_true(warnings > 0);
        assert_int_equal(ps_volume_object_count(v), s->f.spec.object_count);
        ps_volume_close(&v);
        /* Both copies: not a volume any more. */
        flip(s->path[0], s->sb.second_offset + at, 0);
        struct ps_error err = {0};
        assert_true(ps_volume_open(&v, s->paths, 1, &err) < 0);
        assert_true(err.text[0] != 0);
        flip(s->path[0], s->sb.second_offset + at, 0);
        flip(s->path[0], at, (int)(at % 8));
    }
    ps_log_set(NULL, NULL);
}

/* A file as long as a device's image would be, its beginning lost: the second copy is found there
 * too. */
static void image_of_a_device(void **state)
{
    struct scene *s = *state;
    struct ps_volume *v = NULL;
    size_t bytes;
    uint8_t *data = file_read(s->path[0], &bytes);
    static const uint8_t zeroes[512];
    assert_int_equal(truncate(s->path[0], (off_t)(bytes + PS_FORMAT_DEVICE_TAIL_BYTES)), 0);
    file_patch(s->path[0], 0, zeroes, sizeof(zeroes));
    assert_int_equal(ps_volume_open(&v, s->paths, 1, NULL), 0);
    fixture_check(&s->f, v);
    ps_volume_close(&v);
    file_write(s->path[0], data, bytes);
    free(data);
}

static int warning_count;

static void count_warning(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx;
    (void)text;
    warning_count += level <= PS_LOG_WARN;
}

/* The map of the named member flipped: the other member's serves, with a warning; both flipped:
 * refused, with the error alone. */
static void flipped_map(void **state)
{
    struct scene *s = *state;
    ps_log_set(count_warning, NULL);
    for (uint64_t at = s->sb.map_offset; at < s->sb.record_offset; at += at % 3 + 1) {
        struct ps_volume *v = NULL;
        struct ps_error err = {0};
        flip(s->path[0], at, (int)(at % 8));
        warning_count = 0;
        assert_int_equal(ps_volume_open(&v, s->paths, 1, NULL), 0);
        assert_int_equal(warning_count, 1);
        assert_int_equal(ps_volume_object_count(v), s->f.spec.object_count);
        ps_volume_close(&v);
        flip(s->path[1], at, 0);
        assert_int_equal(ps_volume_open(&v, s->paths, 1, &err), -PS_ERR_FORMAT);
        assert_non_null(strstr(err.text, "damaged"));
        assert_int_equal(warning_count, 1);
        flip(s->path[1], at, 0);
        flip(s->path[0], at, (int)(at % 8));
    }
    ps_log_set(NULL, NULL);
}

/* The member table flipped: the other member is still found, by its UUID. */
static void flipped_table(void **state)
{
    struct scene *s = *state;
    for (uint64_t at = s->sb.table_offset; at < s->sb.map_offset; at += 211) {
        struct ps_volume *v = NULL;
        flip(s->path[0], at, 3);
        assert_int_equal(ps_volume_open(&v, s->paths, 1, NULL), 0);
        ps_volume_close(&v);
        flip(s->path[0], at, 3);
    }
}

/* Fields changed and sealed again: contradictions are refused even with a right checksum. */
static void contradicting_superblock(void **state)
{
    struct scene *s = *state;
    struct ps_error err;
    const struct ps_disk_superblock good = s->sb;
    struct ps_disk_superblock bad[18];
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        bad[i] = good;
    bad[0].member_count = 0;
    bad[1].member_count = 65;
    bad[2].member = 2;
    bad[3].align = 0;
    bad[4].align = 131072;
    bad[5].map_bytes = UINT64_MAX - 4095;
    bad[6].map_offset = UINT64_MAX - 4095;
    bad[7].data_end = good.member_bytes + 4096;
    bad[8].second_offset = good.data_begin;
    bad[9].record_offset = good.map_offset;
    bad[10].watermark = good.slice_count + 1;
    bad[11].state = 4;
    bad[12].not_boot[0] = 0x55;
    bad[13].weights[0] = 1; /* of two members */
    bad[14].weights[2] = 1;
    bad[15].nodes[2] = 1;
    bad[16].piece_bytes_min = PS_PIECE_BYTES_MAX + 1;
    bad[17].further_copies = 2;
    assert_int_equal(ps_superblock_check(&good, "x", &err), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ps_superblock_seal(&bad[i]);
        assert_int_equal(ps_superblock_check(&bad[i], "x", &err), -PS_ERR_FORMAT);
    }
    struct ps_disk_superblock newer = good;
    newer.version = 2;
    ps_superblock_seal(&newer);
    assert_int_equal(ps_superblock_check(&newer, "x", &err), -PS_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "version 2"));
}

/* A read error in the middle of a verify is one more bad range, not the end of it. */
static void shrinks_while_open(void **state)
{
    struct scene *s = *state;
    struct ps_volume *v = NULL;
    struct bad_list list;
    struct ps_verify_report report;
    size_t bytes;
    uint8_t *data = file_read(s->path[0], &bytes);
    assert_int_equal(ps_volume_open(&v, s->paths, 1, NULL), 0);
    assert_int_equal(truncate(s->path[0], (off_t)s->sb.data_begin + 65536), 0);
    verify_all(v, &list, &report);
    assert_true(report.ranges_bad > 0);
    assert_true(report.slices_bad > report.ranges_bad);
    assert_true(report.slices_checked > report.slices_bad);
    ps_volume_close(&v);
    file_write(s->path[0], data, bytes);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_short),          cmocka_unit_test(flipped_data),
        cmocka_unit_test(flipped_head),       cmocka_unit_test(flipped_superblock),
        cmocka_unit_test(flipped_map),        cmocka_unit_test(image_of_a_device),
        cmocka_unit_test(flipped_table),      cmocka_unit_test(contradicting_superblock),
        cmocka_unit_test(shrinks_while_open),
    };
    return cmocka_run_group_tests(tests, scene_make, scene_free);
}
