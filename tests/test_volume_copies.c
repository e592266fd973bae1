/* Volumes with two copies of every slice: written, verified, damaged, and with a member missing. */
#include "core/log.h"
#include "nvme/layout_internal.h"
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
    ps_test_dir_make(s->dir, sizeof(s->dir));
    for (int m = 0; m < MEMBERS; m++) {
        snprintf(s->path[m], sizeof(s->path[m]), "%s/m%d", s->dir, m);
        s->paths[m] = s->path[m];
    }
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
        cmocka_unit_test(bounded),
        cmocka_unit_test(resume_keeps_the_plan),
    };
    return cmocka_run_group_tests(tests, scene_make, scene_free);
}
