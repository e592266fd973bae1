/* Volumes with two copies of every slice: written, verified, damaged, and with a member missing. */
#include <sys/file.h>

#include "core/log.h"
#include "nvme/layout_internal.h"
#include "nvme/superblock.h"
#include "nvme/volume_internal.h"
#include "util.h"
#include "volume_fixture.h"

#define MEMBERS 3

static const struct fixture_shape shape = {.resident_count = 4,
                                           .group_count = 2,
                                           .index_count = 3,
                                           .slice_count = 3,
                                           .slice_bytes = 150000};

struct scene {
    char dir[256];
    char path[MEMBERS][300];
    const char *paths[MEMBERS];
    struct fixture f;
};

static int scene_make(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    struct ps_error err = {0};
    struct ps_layout_options opts = {.copies = 2};
    fixture_paths(s->dir, s->path, s->paths, MEMBERS);
    fixture_init(&s->f, 11, &shape);
    int rc = fixture_layout(&s->f, s->paths, MEMBERS, &opts, &err);
    if (rc != 0)
        fail_msg("%s: %s", err.where, err.text);
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

static struct ps_volume *must_open(const char *const *paths, int count)
{
    struct ps_volume *v = NULL;
    struct ps_error err = {0};
    if (ps_volume_open(&v, paths, count, &err) != 0)
        fail_msg("%s: %s", err.where, err.text);
    return v;
}

static void flip(const char *path, uint64_t offset)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

struct bad_list {
    int count;
    char text[4][1024];
};

static void take_bad(void *ctx, const char *text)
{
    struct bad_list *list = ctx;
    if (list->count < 4)
        snprintf(list->text[list->count], sizeof(list->text[0]), "%s", text);
    list->count++;
}

static void verify_all(struct ps_volume *v, struct bad_list *list, struct ps_verify_report *report)
{
    struct ps_error err = {0};
    struct ps_verify_options options = {.bad = take_bad, .ctx = list};
    memset(list, 0, sizeof(*list));
    if (ps_volume_verify(v, &options, report, &err) != 0)
        fail_msg("%s: %s", err.where, err.text);
}

/* Both copies hold the same bytes (fixture_check reads both), apart, and as verify counts them. */
static void round_trip(void **state)
{
    struct scene *s = *state;
    struct bad_list list;
    struct ps_verify_report report;
    struct ps_volume *v = must_open(s->paths, 1);
    uint64_t slices = 0;
    assert_int_equal(ps_volume_copy_count(v), 2);
    fixture_check(&s->f, v);
    for (uint32_t o = 0; o < ps_volume_object_count(v); o++) {
        struct ps_object_info info;
        ps_volume_object(v, o, &info);
        slices += info.slice_count;
        for (uint32_t i = 0; i < info.slice_count; i++) {
            uint32_t count[2];
            const struct ps_disk_piece *a = ps_volume_slice_pieces(v, o, i, 0, &count[0]);
            const struct ps_disk_piece *b = ps_volume_slice_pieces(v, o, i, 1, &count[1]);
            assert_int_equal(count[0], count[1]);
            for (uint32_t p = 0; p < count[0]; p++) {
                assert_int_not_equal(a[p].member, b[p].member);
                assert_int_equal(a[p].bytes, b[p].bytes);
            }
        }
    }
    verify_all(v, &list, &report);
    assert_int_equal(list.count, 0);
    assert_int_equal(report.slices_checked, 2 * slices);
    ps_volume_close(&v);
}

/* One flipped bit makes one copy of one slice bad; its twin flipped too, both are. */
static void flipped_copies(void **state)
{
    struct scene *s = *state;
    struct bad_list list;
    struct ps_verify_report report;
    struct ps_volume *v = must_open(s->paths, 1);
    for (uint32_t o = 0; o < ps_volume_object_count(v); o++) {
        uint32_t count;
        const struct ps_disk_piece *a = ps_volume_slice_pieces(v, o, 0, 0, &count);
        const struct ps_disk_piece *b = ps_volume_slice_pieces(v, o, 0, 1, &count);
        flip(s->path[a->member], a->offset_bytes + 5);
        verify_all(v, &list, &report);
        assert_int_equal(list.count, 1);
        assert_int_equal(report.slices_bad, 1);
        assert_non_null(strstr(list.text[0], "its other copy is good"));
        assert_non_null(strstr(list.text[0], s->path[a->member]));
        flip(s->path[b[count - 1].member], b[count - 1].offset_bytes + 7);
        verify_all(v, &list, &report);
        assert_int_equal(list.count, 2);
        assert_non_null(strstr(list.text[0], "bad, too"));
        assert_non_null(strstr(list.text[1], "bad, too"));
        flip(s->path[a->member], a->offset_bytes + 5);
        verify_all(v, &list, &report);
        assert_int_equal(list.count, 1);
        assert_non_null(strstr(list.text[0], s->path[b[count - 1].member]));
        flip(s->path[b[count - 1].member], b[count - 1].offset_bytes + 7);
    }
    ps_volume_close(&v);
}

/* ---- a member missing ------------------------------------------------------------------------ */

static char warned[1024];
static int warnings;

static void remember_warning(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx;
    if (level <= PS_LOG_WARN) {
        snprintf(warned, sizeof(warned), "%s", text);
        warnings++;
    }
}

/* Opens by a good member while `bad` cannot be used: one warning, and all data from the others. */
static void check_degraded(struct scene *s, int bad, const char *reason)
{
    struct bad_list list;
    struct ps_verify_report report;
    for (int named = 0; named < MEMBERS; named++) {
        if (named == bad)
            continue;
        warnings = 0;
        ps_log_set(remember_warning, NULL);
        struct ps_volume *v = must_open(&s->paths[named], 1);
        ps_log_set(NULL, NULL);
        assert_int_equal(warnings, 1);
        assert_non_null(strstr(warned, "second copies"));
        assert_non_null(strstr(warned, reason));
        for (int m = 0; m < MEMBERS; m++) {
            struct ps_member_info info;
            ps_volume_member(v, m, &info);
            assert_int_equal(info.is_missing, m == bad);
            assert_int_equal(ps_volume_fd(v, m) < 0, m == bad);
            assert_non_null(info.path);
        }
        assert_int_equal(ps_volume_reopen(v, bad, O_RDONLY), -ENODEV);
        assert_int_equal(ps_volume_member_node(v, bad), -1);
        assert_int_equal(ps_volume_member_drive(v, bad), 0);
        fixture_check(&s->f, v);
        if (named == (bad + 1) % MEMBERS) {
            verify_all(v, &list, &report);
            assert_int_equal(list.count, 1);
            assert_int_equal(report.ranges_bad, 1);
            assert_non_null(strstr(list.text[0], "missing"));
        }
        ps_volume_close(&v);
    }
    /* All named: the same. */
    struct ps_volume *v = must_open(s->paths, MEMBERS);
    fixture_check(&s->f, v);
    ps_volume_close(&v);
}

static void one_missing(void **state)
{
    struct scene *s = *state;
    char away[320];
    for (int bad = 0; bad < MEMBERS; bad++) {
        snprintf(away, sizeof(away), "%s.away", s->path[bad]);
        size_t bytes;
        uint8_t *data = file_read(s->path[bad], &bytes);
        struct ps_superblock_pair pair;
        int fd = open(s->path[bad], O_RDONLY);
        assert_int_equal(ps_superblock_read(fd, s->path[bad], &pair, NULL), 0);
        close(fd);

        unlink(s->path[bad]);
        check_degraded(s, bad, s->path[bad] + strlen(s->dir) + 1);
        /* Cut short. */
        file_write(s->path[bad], data, bytes - 4096);
        check_degraded(s, bad, "cut short");
        file_write(s->path[bad], data, 0);
        check_degraded(s, bad, "missing");
        /* Both superblocks damaged. */
        file_write(s->path[bad], data, bytes);
        file_patch(s->path[bad], 100, "damage", 6);
        file_patch(s->path[bad], pair.copy[0].second_offset + 100, "damage", 6);
        check_degraded(s, bad, "missing");
        /* A stopped layout of the same volume. */
        struct ps_disk_superblock sb = pair.copy[0];
        sb.state = PS_VOLUME_IN_PROGRESS;
        ps_superblock_seal(&sb);
        file_write(s->path[bad], data, bytes);
        file_patch(s->path[bad], 0, &sb, sizeof(sb));
        check_degraded(s, bad, "stopped");
        file_write(s->path[bad], data, bytes);
        free(data);
    }
    struct ps_volume *v = must_open(s->paths, 1);
    assert_int_equal(fixture_verify(v), 0);
    ps_volume_close(&v);
}

/* One missing and a bit flipped elsewhere: found, though its slice is in two parts. */
static void missing_and_damaged(void **state)
{
    struct scene *s = *state;
    struct bad_list list;
    struct ps_verify_report report;
    size_t bytes;
    uint8_t *data = file_read(s->path[2], &bytes);
    unlink(s->path[2]);
    struct ps_volume *v = must_open(s->paths, 2);
    for (int m = 0; m < 2; m++) {
        struct ps_member_info info;
        ps_volume_member(v, m, &info);
        for (int i = 0; i < 20; i++) {
            uint64_t at = info.data_begin_bytes +
                          (info.data_end_bytes - info.data_begin_bytes) * (uint64_t)i / 20 + 3;
            flip(s->path[m], at);
            verify_all(v, &list, &report);
            assert_true(report.slices_bad > report.ranges_bad);
            flip(s->path[m], at);
        }
    }
    verify_all(v, &list, &report);
    assert_int_equal(list.count, 1);
    ps_volume_close(&v);
    file_write(s->path[2], data, bytes);
    free(data);
}

static void too_much_missing(void **state)
{
    struct scene *s = *state;
    struct ps_volume *v = NULL;
    struct ps_error err = {0};
    char away[2][320];
    for (int m = 0; m < 2; m++) {
        snprintf(away[m], sizeof(away[m]), "%s/../away%d.%d", s->dir, m, (int)getpid());
        assert_int_equal(rename(s->path[m + 1], away[m]), 0);
    }
    assert_int_equal(ps_volume_open(&v, s->paths, 1, &err), -PS_ERR_MEMBER);
    assert_non_null(strstr(err.text, "2 ('m1'), 3 ('m2') of 3"));
    /* Named where it is now, one of them serves. */
    const char *named[] = {s->path[0], away[1]};
    v = must_open(named, 2);
    fixture_check(&s->f, v);
    ps_volume_close(&v);
    /* What is in the way of the command is no missing member. */
    const char *nothing[] = {s->path[0], away[0], away[1], "/nonexistent"};
    assert_int_equal(ps_volume_open(&v, nothing, 4, &err), -ENOENT);
    int fd = open(away[0], O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(ps_volume_open(&v, nothing, 3, &err), -PS_ERR_IN_USE);
    close(fd);
    for (int m = 0; m < 2; m++)
        assert_int_equal(rename(away[m], s->path[m + 1]), 0);
}

/* Slower than it could be, stopped on request, and as told with one thread. */
static void bounded(void **state)
{
    struct scene *s = *state;
    struct ps_error err = {0};
    struct ps_verify_report report = {0};
    static volatile int stop = 1;
    struct ps_volume *v = must_open(s->paths, 1);
    struct ps_verify_options options = {.rate_bytes_per_s = 1000, .threads = 1, .stop = &stop};
    assert_int_equal(ps_volume_verify(v, &options, &report, &err), -EINTR);
    assert_int_equal(report.slices_checked, 0);
    stop = 0;
    options.rate_bytes_per_s = 1u << 30;
    assert_int_equal(ps_volume_verify(v, &options, &report, &err), 0);
    assert_int_equal(report.slices_bad, 0);
    ps_volume_close(&v);
}

/* Resumed as it was begun, whatever is measured by then. */
static void resume_keeps_the_plan(void **state)
{
    struct scene *s = *state;
    struct ps_error err = {0};
    char path[2][300];
    const char *paths[2] = {path[0], path[1]};
    struct ps_member_profile profiles[2] = {{.bytes_per_s = 3000}, {.bytes_per_s = 1000}};
    struct ps_layout_options opts = {.copies = 2, .profiles = profiles};
    size_t bytes[2];
    uint8_t *whole[2];
    for (int m = 0; m < 2; m++)
        snprintf(path[m], sizeof(path[m]), "%s/r%d", s->dir, m);
    assert_int_equal(fixture_layout(&s->f, paths, 2, &opts, &err), 0);
    for (int m = 0; m < 2; m++) {
        whole[m] = file_read(path[m], &bytes[m]);
        unlink(path[m]);
    }
    ps_layout_set_flush_bytes(200000);
    s->f.fail_object = 7;
    assert_int_equal(fixture_layout(&s->f, paths, 2, &opts, &err), -PS_ERR_TRUNCATED);
    s->f.fail_object = -1;
    opts = (struct ps_layout_options){.copies = 1, .resume = true};
    assert_int_equal(fixture_layout(&s->f, paths, 2, &opts, &err), -PS_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "2 copies"));
    profiles[0].bytes_per_s = 1500;
    opts = (struct ps_layout_options){.profiles = profiles, .resume = true};
    assert_int_equal(fixture_layout(&s->f, paths, 2, &opts, &err), 0);
    for (int m = 0; m < 2; m++) {
        size_t got_bytes;
        uint8_t *got = file_read(path[m], &got_bytes);
        assert_int_equal(got_bytes, bytes[m]);
        assert_memory_equal(got, whole[m], got_bytes);
        free(got);
        free(whole[m]);
        unlink(path[m]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(flipped_copies),
        cmocka_unit_test(one_missing),
        cmocka_unit_test(missing_and_damaged),
        cmocka_unit_test(too_much_missing),
        cmocka_unit_test(bounded),
        cmocka_unit_test(resume_keeps_the_plan),
    };
    return cmocka_run_group_tests(tests, scene_make, scene_free);
}
