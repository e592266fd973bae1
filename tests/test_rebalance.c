/* Volumes moved to other members without their source. */
#include <sys/file.h>

#include "core/log.h"
#include "nvme/record.h"
#include "nvme/volume.h"
#include "nvme/volume_internal.h"
#include "util.h"
#include "volume_fixture.h"

#define PATHS 6

static const struct fixture_shape shape = {.resident_count = 4,
                                           .group_count = 2,
                                           .index_count = 4,
                                           .slice_count = 3,
                                           .slice_bytes = 150000};

struct scene {
    char dir[256];
    char path[PATHS][300];
    const char *paths[PATHS];
    struct fixture f;
};

static int scene_make(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    fixture_paths(s->dir, s->path, s->paths, PATHS);
    fixture_init(&s->f, 21, &shape);
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

static void remove_all(struct scene *s)
{
    for (int m = 0; m < PATHS; m++)
        unlink(s->path[m]);
}

/* Paths by their numbers: "013" is m0, m1, m3. */
static int choose(struct scene *s, const char *numbers, const char **chosen)
{
    int count = 0;
    for (; numbers[count] != 0; count++)
        chosen[count] = s->paths[numbers[count] - '0'];
    return count;
}

static void lay(struct scene *s, const char *numbers, uint32_t copies,
                const struct ps_member_profile *profiles)
{
    const char *chosen[PATHS];
    struct ps_error err = {0};
    struct ps_layout_options opts = {.copies = copies, .profiles = profiles};
    int count = choose(s, numbers, chosen);
    if (fixture_layout(&s->f, chosen, count, &opts, &err) != 0)
        fail_msg("layout %s: %s: %s", numbers, err.where, err.text);
}

static int move(struct scene *s, const char *from, const char *to,
                const struct ps_rebalance_options *options, struct ps_error *err)
{
    const char *chosen[PATHS];
    const char *volume = s->paths[from[0] - '0'];
    struct ps_rebalance_options o = options != NULL ? *options : (struct ps_rebalance_options){0};
    o.member_count = choose(s, to, chosen);
    o.members = chosen;
    memset(err, 0, sizeof(*err));
    return ps_volume_rebalance(&volume, 1, &o, err);
}

static void must_move(struct scene *s, const char *from, const char *to,
                      const struct ps_rebalance_options *options)
{
    struct ps_error err;
    int rc = move(s, from, to, options, &err);
    if (rc != 0)
        fail_msg("rebalance %s to %s: %d %s: %s", from, to, rc, err.where, err.text);
}

/* The volume is whole, on these members in this order, and nothing else is left. */
static void check(struct scene *s, const char *numbers, uint32_t copies)
{
    const char *chosen[PATHS];
    int count = choose(s, numbers, chosen);
    for (int i = 0; i < count; i++) {
        struct ps_volume *v = NULL;
        struct ps_error err = {0};
        if (ps_volume_open(&v, &chosen[i], 1, &err) != 0)
            fail_msg("open %s: %s: %s", numbers, err.where, err.text);
        assert_int_equal(ps_volume_member_count(v), count);
        assert_int_equal(ps_volume_copy_count(v), copies);
        for (int m = 0; m < count; m++) {
            struct ps_member_info info;
            struct stat st;
            ps_volume_member(v, m, &info);
            assert_string_equal(strrchr(info.path, '/'), strrchr(chosen[m], '/'));
            assert_int_equal(stat(chosen[m], &st), 0);
            assert_int_equal(info.bytes, st.st_size);
            /* What the old volume took is free again, as far as whole blocks go. */
            assert_true((uint64_t)st.st_blocks * 512 <
                        info.data_end_bytes - info.data_begin_bytes + 450000);
        }
        if (i == 0)
            assert_int_equal(fixture_verify(v), 0);
        fixture_check(&s->f, v);
        ps_volume_close(&v);
    }
    for (int m = 0; m < PATHS; m++)
        assert_int_equal(file_exists(s->path[m]), strchr(numbers, '0' + m) != NULL);
}

static const struct ps_member_profile uneven[PATHS] = {
    {.bytes_per_s = 4000}, {.bytes_per_s = 2000}, {.bytes_per_s = 2000},
    {.bytes_per_s = 1000}, {.bytes_per_s = 3000}, {.bytes_per_s = 1000}};

/* Members that are all new: the same as if the source had been laid out there. */
static void all_new(void **state)
{
    struct scene *s = *state;
    static const struct {
        const char *from, *to;
        uint32_t copies_from, copies_to;
        const struct ps_member_profile *profiles;
    } cases[] = {
        {"0", "1", 1, 1, NULL},      {"0", "123", 1, 1, NULL},  {"01", "2", 1, 1, NULL},
        {"01", "234", 1, 1, uneven}, {"01", "234", 1, 2, NULL}, {"012", "345", 2, 1, uneven},
        {"012", "34", 2, 2, uneven},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *chosen[PATHS];
        uint8_t *expected[PATHS];
        size_t bytes[PATHS];
        struct ps_rebalance_options o = {.copies = cases[i].copies_to,
                                         .profiles = cases[i].profiles};
        remove_all(s);
        lay(s, cases[i].to, cases[i].copies_to, cases[i].profiles);
        int count = choose(s, cases[i].to, chosen);
        for (int m = 0; m < count; m++)
            expected[m] = file_read(chosen[m], &bytes[m]);
        remove_all(s);
        lay(s, cases[i].from, cases[i].copies_from, NULL);
        must_move(s, cases[i].from, cases[i].to, &o);
        check(s, cases[i].to, cases[i].copies_to);
        for (int m = 0; m < count; m++) {
            size_t got_bytes;
            uint8_t *got = file_read(chosen[m], &got_bytes);
            assert_int_equal(got_bytes, bytes[m]);
            assert_memory_equal(got, expected[m], got_bytes);
            free(got);
            free(expected[m]);
        }
    }
}

/* Members of both: added, removed, replaced, in another order, and the same with other weights;
 * one after the other, so that the room before the volume is used as well as the room after it. */
static void shared(void **state)
{
    struct scene *s = *state;
    static const char *const steps[] = {"01",  "012", "02", "03", "30", "30", "0312",
                                        "012", "0",   "0",  "01", "10", "10", "2"};
    remove_all(s);
    lay(s, steps[0], 1, NULL);
    for (size_t i = 1; i < sizeof(steps) / sizeof(steps[0]); i++) {
        struct ps_rebalance_options o = {.profiles = i % 2 == 0 ? uneven : NULL};
        must_move(s, steps[i - 1], steps[i], &o);
        check(s, steps[i], 1);
        struct ps_error err;
        o.resume = true; /* nothing is left to do */
        assert_int_equal(move(s, steps[i], steps[i], &o, &err), 0);
        check(s, steps[i], 1);
    }
}

static void more_copies(void **state)
{
    struct scene *s = *state;
    struct ps_rebalance_options o = {.copies = 2};
    struct ps_error err;
    remove_all(s);
    lay(s, "01", 1, NULL);
    must_move(s, "01", "01", &o);
    check(s, "01", 2);
    o.copies = 0;
    must_move(s, "01", "120", &o);
    check(s, "120", 2);
    assert_int_equal(move(s, "1", "1", &o, &err), -PS_ERR_ARGUMENT);
    check(s, "120", 2);
    o.copies = 1;
    must_move(s, "1", "1", &o);
    check(s, "1", 1);
}

/* A copy that somebody keeps beside a member that leaves is none of ours. */
static void backups_stay(void **state)
{
    struct scene *s = *state;
    char backup[320];
    snprintf(backup, sizeof(backup), "%s/backup", s->dir);
    remove_all(s);
    lay(s, "01", 1, NULL);
    file_copy(s->path[1], backup);
    must_move(s, "0", "02", NULL);
    check(s, "02", 1);
    struct ps_rebalance_options o = {.resume = true};
    must_move(s, "0", "02", &o);
    assert_true(file_exists(backup));
    unlink(backup);
}

static int warnings;
static char warned[1024];

static void count_warnings(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx;
    if (level <= PS_LOG_WARN)
        snprintf(warned, sizeof(warned), "%s", text);
    warnings += level <= PS_LOG_WARN;
}

/* A dead drive replaced, and one dropped. */
static void degraded(void **state)
{
    struct scene *s = *state;
    for (int dead = 0; dead < 3; dead++) {
        static const char *const replaced[] = {"312", "032", "013"}, *const dropped[] = {"12", "02",
                                                                                         "01"};
        static const char *const from[] = {"1", "2", "0"};
        for (int drop = 0; drop < 2; drop++) {
            remove_all(s);
            lay(s, "012", 2, NULL);
            unlink(s->path[dead]);
            const char *to = drop ? dropped[dead] : replaced[dead];
            ps_log_set(count_warnings, NULL);
            warnings = 0;
            must_move(s, from[dead], to, NULL);
            ps_log_set(NULL, NULL);
            assert_int_equal(warnings, 1);
            check(s, to, 2);
        }
    }
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

/* Nothing bad is copied: a good second copy serves and heals, else it stops and says where. */
static void bad_slices(void **state)
{
    struct scene *s = *state;
    struct ps_error err;
    const char *path = s->path[0];
    for (uint32_t copies = 1; copies <= 2; copies++) {
        struct ps_volume *v = NULL;
        uint32_t count;
        remove_all(s);
        lay(s, "012", copies, NULL);
        assert_int_equal(ps_volume_open(&v, &path, 1, &err), 0);
        const struct ps_disk_piece first = ps_volume_slice_pieces(v, 6, 1, 0, &count)[0];
        const struct ps_disk_piece second = ps_volume_slice_pieces(v, 6, 1, copies - 1, &count)[0];
        const struct ps_disk_piece last =
            ps_volume_slice_pieces(v, 6, 1, copies - 1, &count)[count - 1];
        ps_volume_close(&v);
        flip(s->path[first.member], first.offset_bytes + 11);
        if (copies == 1) {
            assert_int_equal(move(s, "0", "34", NULL, &err), -PS_ERR_CHECKSUM);
            assert_non_null(strstr(err.where, "slice 2 of 3"));
            /* The old volume is as it was, and what was begun can go on when the slice is good. */
            flip(s->path[first.member], first.offset_bytes + 11);
            struct ps_rebalance_options o = {.resume = true};
            must_move(s, "0", "34", &o);
            check(s, "34", 1);
            continue;
        }
        ps_log_set(count_warnings, NULL);
        warnings = 0;
        must_move(s, "0", "012", NULL);
        ps_log_set(NULL, NULL);
        assert_int_equal(warnings, 1);
        assert_non_null(strstr(warned, "second copy"));
        check(s, "012", 2);
        /* Each copy bad in another piece: put together from the good ones. */
        remove_all(s);
        lay(s, "012", 2, NULL);
        assert_true(count > 1);
        flip(s->path[first.member], first.offset_bytes + 11);
        flip(s->path[last.member], last.offset_bytes + 12);
        must_move(s, "0", "34", NULL);
        check(s, "34", 2);
        remove_all(s);
        lay(s, "012", 2, NULL);
        flip(s->path[first.member], first.offset_bytes + 11);
        flip(s->path[second.member], second.offset_bytes + 12);
        assert_int_equal(move(s, "0", "013", NULL, &err), -PS_ERR_CHECKSUM);
        assert_non_null(strstr(err.text, "other copy is bad"));
    }
}

/* New members are asked for as by a layout; a volume that others read is left alone. */
static void consent(void **state)
{
    struct scene *s = *state;
    struct ps_error err;
    struct ps_volume *v = NULL;
    const char *path = s->path[0];
    remove_all(s);
    lay(s, "01", 1, NULL);
    file_write(s->path[2], "my thesis", 9);
    assert_int_equal(move(s, "0", "02", NULL, &err), -PS_ERR_WOULD_DESTROY);
    assert_non_null(strstr(err.text, "--destroy 'file:m2:9'"));
    assert_int_equal(ps_volume_open(&v, &path, 1, &err), 0);
    assert_int_equal(move(s, "0", "01", NULL, &err), -PS_ERR_IN_USE);
    struct ps_rebalance_options o = {.resume = true};
    assert_int_equal(move(s, "0", "01", &o, &err), -PS_ERR_IN_USE);
    fixture_check(&s->f, v);
    ps_volume_close(&v);
    assert_int_equal(move(s, "0", "00", NULL, &err), -PS_ERR_MEMBER);
    assert_int_equal(move(s, "3", "01", NULL, &err), -ENOENT);
    const char *identity = "file:m2:9";
    o = (struct ps_rebalance_options){.destroy = &identity, .destroy_count = 1};
    must_move(s, "0", "02", &o);
    check(s, "02", 1);
    o = (struct ps_rebalance_options){.copies = 3};
    assert_int_equal(move(s, "0", "02", &o, &err), -PS_ERR_ARGUMENT);
}

/* What is recorded moves along; profiles only where they still hold. */
static void records(void **state)
{
    struct scene *s = *state;
    struct ps_error err = {0};
    struct ps_volume *v = NULL;
    const char *path = s->path[0];
    uint8_t *half = malloc(PS_RECORD_HALF_BYTES);
    uint32_t bytes;
    remove_all(s);
    lay(s, "01", 1, NULL);
    assert_int_equal(ps_volume_open(&v, &path, 1, &err), 0);
    assert_int_equal(ps_record_put(v, "other", "data", 4, &err), 0);
    assert_int_equal(ps_volume_profile_save(v, uneven, &err), 0);
    ps_volume_close(&v);
    /* Saved, and now used: the same members in the other order. */
    must_move(s, "0", "10", NULL);
    check(s, "10", 1);
    assert_int_equal(ps_volume_open(&v, &path, 1, &err), 0);
    assert_int_equal(ps_volume_profile(v, 0)->bytes_per_s, 2000);
    assert_int_equal(ps_volume_profile(v, 1)->bytes_per_s, 4000);
    uint64_t data[2];
    for (int m = 0; m < 2; m++) {
        struct ps_member_info info;
        ps_volume_member(v, m, &info);
        data[m] = info.data_end_bytes - info.data_begin_bytes;
    }
    assert_true(data[1] > data[0] * 17 / 10 && data[1] < data[0] * 23 / 10);
    assert_true(ps_record_read(v, half));
    assert_memory_equal(ps_record_find(half, "other", &bytes), "data", 4);
    ps_volume_close(&v);
    must_move(s, "0", "02", NULL);
    assert_int_equal(ps_volume_open(&v, &path, 1, &err), 0);
    assert_null(ps_volume_profile(v, 0));
    assert_true(ps_record_read(v, half));
    assert_memory_equal(ps_record_find(half, "other", &bytes), "data", 4);
    ps_volume_close(&v);
    free(half);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_new),  cmocka_unit_test(shared),       cmocka_unit_test(more_copies),
        cmocka_unit_test(degraded), cmocka_unit_test(consent),      cmocka_unit_test(bad_slices),
        cmocka_unit_test(records),  cmocka_unit_test(backups_stay),
    };
    return cmocka_run_group_tests(tests, scene_make, scene_free);
}
