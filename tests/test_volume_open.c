/* Volumes as a whole: written, opened by any member, found again, and refused when they must be. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nvme/volume_internal.h"
#include "util.h"
#include "volume_fixture.h"

static const struct fixture_shape small_shape = {.resident_count = 5,
                                                 .group_count = 3,
                                                 .index_count = 4,
                                                 .slice_count = 4,
                                                 .slice_bytes = 100000};

struct set {
    char dir[256];
    char path[8][300];
    const char *paths[8];
    int count;
    struct fixture f;
};

static void set_make(struct set *s, int count, const struct fixture_shape *shape)
{
    struct ps_error err = {0};
    ps_test_dir_make(s->dir, sizeof(s->dir));
    s->count = count;
    for (int i = 0; i < count; i++) {
        snprintf(s->path[i], sizeof(s->path[i]), "%s/member.%d", s->dir, i);
        s->paths[i] = s->path[i];
    }
    fixture_init(&s->f, 42, shape);
    int rc = fixture_layout(&s->f, s->paths, count, NULL, &err);
    if (rc != 0)
        fail_msg("layout: %d %s: %s", rc, err.where, err.text);
}

static void set_free(struct set *s)
{
    fixture_fini(&s->f);
    ps_test_dir_remove(s->dir);
}

static int open_one(struct ps_volume **v, const char *path, struct ps_error *err)
{
    memset(err, 0, sizeof(*err));
    return ps_volume_open(v, &path, 1, err);
}

static void round_trip(void **state)
{
    static const int counts[] = {1, 2, 3, 5};
    (void)state;
    for (size_t c = 0; c < 4; c++) {
        struct set s;
        struct ps_error err;
        struct fixture_shape shape = small_shape;
        shape.large = counts[c] == 3;
        set_make(&s, counts[c], &shape);
        for (int i = 0; i < s.count; i++) {
            struct ps_volume *v = NULL;
            int rc = open_one(&v, s.path[i], &err);
            if (rc != 0)
                fail_msg("open %s: %s", err.where, err.text);
            assert_int_equal(ps_volume_member_count(v), s.count);
            for (int m = 0; m < s.count; m++) {
                struct ps_member_info info;
                struct stat st;
                ps_volume_member(v, m, &info);
                assert_string_equal(strrchr(info.path, '/'), strrchr(s.path[m], '/'));
                assert_int_equal(stat(info.path, &st), 0);
                assert_int_equal(info.bytes, st.st_size);
                assert_false(info.is_device);
            }
            fixture_check(&s.f, v);
            if (i == 0)
                assert_int_equal(fixture_verify(v), 0);
            ps_volume_close(&v);
            assert_null(v);
        }
        set_free(&s);
    }
}

static void moved_folder(void **state)
{
    struct set s;
    struct ps_error err;
    struct ps_volume *v = NULL;
    char moved[300], path[320];
    (void)state;
    set_make(&s, 3, &small_shape);
    snprintf(moved, sizeof(moved), "%s-moved", s.dir);
    assert_int_equal(rename(s.dir, moved), 0);
    snprintf(path, sizeof(path), "%s/member.2", moved);
    assert_int_equal(open_one(&v, path, &err), 0);
    fixture_check(&s.f, v);
    ps_volume_close(&v);
    /* Renamed in place: neither recorded name is right any more, the UUID tells. */
    char from[340], to[340];
    snprintf(from, sizeof(from), "%s/member.0", moved);
    snprintf(to, sizeof(to), "%s/other name", moved);
    assert_int_equal(rename(from, to), 0);
    assert_int_equal(open_one(&v, path, &err), 0);
    fixture_check(&s.f, v);
    ps_volume_close(&v);
    assert_int_equal(rename(moved, s.dir), 0);
    set_free(&s);
}

static void different_folders(void **state)
{
    struct fixture f;
    struct ps_error err = {0};
    struct ps_volume *v = NULL;
    char a[256], b[256], path[2][300];
    (void)state;
    ps_test_dir_make(a, sizeof(a));
    ps_test_dir_make(b, sizeof(b));
    snprintf(path[0], sizeof(path[0]), "%s/left", a);
    snprintf(path[1], sizeof(path[1]), "%s/right", b);
    const char *paths[] = {path[0], path[1]};
    fixture_init(&f, 9, &small_shape);
    assert_int_equal(fixture_layout(&f, paths, 2, NULL, &err), 0);
    assert_int_equal(open_one(&v, path[0], &err), 0);
    fixture_check(&f, v);
    ps_volume_close(&v);
    /* Gathered into one folder afterwards: found beside, under the recorded name. */
    char gathered[300];
    snprintf(gathered, sizeof(gathered), "%s/right", a);
    assert_int_equal(rename(path[1], gathered), 0);
    assert_int_equal(open_one(&v, path[0], &err), 0);
    fixture_check(&f, v);
    ps_volume_close(&v);
    fixture_fini(&f);
    ps_test_dir_remove(a);
    ps_test_dir_remove(b);
}

static void copy_opens_as_itself(void **state)
{
    struct set s;
    struct ps_error err;
    struct ps_volume *v = NULL;
    struct ps_member_info info;
    char copy[320];
    (void)state;
    set_make(&s, 1, &small_shape);
    snprintf(copy, sizeof(copy), "%s/copy", s.dir);
    file_copy(s.path[0], copy);
    assert_int_equal(open_one(&v, copy, &err), 0);
    ps_volume_member(v, 0, &info);
    assert_string_equal(info.path, copy);
    ps_volume_close(&v);
    /* Both named: which one is meant cannot be told. */
    const char *both[] = {s.path[0], copy};
    assert_int_equal(ps_volume_open(&v, both, 2, &err), -PS_ERR_MEMBER);
    assert_non_null(strstr(err.text, "member.0"));
    set_free(&s);
}

static void missing_foreign_repeated(void **state)
{
    struct set s, other;
    struct ps_error err;
    struct ps_volume *v = NULL;
    struct fixture_shape shape = small_shape;
    (void)state;
    set_make(&s, 3, &small_shape);
    shape.index_count = 5;
    set_make(&other, 1, &shape);

    const char *foreign[] = {s.path[0], other.path[0]};
    assert_int_equal(ps_volume_open(&v, foreign, 2, &err), -PS_ERR_MEMBER);
    assert_string_equal(err.where, other.path[0]);
    const char *twice[] = {s.path[1], s.path[1]};
    assert_int_equal(ps_volume_open(&v, twice, 2, &err), -PS_ERR_MEMBER);

    char away[340];
    snprintf(away, sizeof(away), "%s/member.1", other.dir);
    assert_int_equal(rename(s.path[1], away), 0);
    assert_int_equal(open_one(&v, s.path[0], &err), -PS_ERR_MEMBER);
    assert_non_null(strstr(err.text, "member 2 of 3"));
    assert_non_null(strstr(err.text, "member.1"));
    /* Named as well, it serves. */
    const char *named[] = {s.path[0], away};
    assert_int_equal(ps_volume_open(&v, named, 2, &err), 0);
    fixture_check(&s.f, v);
    ps_volume_close(&v);
    set_free(&s);
    set_free(&other);
}

static void not_a_volume(void **state)
{
    char dir[256], path[300];
    struct ps_error err;
    struct ps_volume *v = NULL;
    (void)state;
    ps_test_dir_make(dir, sizeof(dir));
    snprintf(path, sizeof(path), "%s/absent", dir);
    assert_int_equal(open_one(&v, path, &err), -ENOENT);
    assert_int_equal(open_one(&v, dir, &err), -EISDIR);
    file_write(path, "PENSTOCK", 8);
    assert_int_equal(open_one(&v, path, &err), -PS_ERR_TRUNCATED);
    file_write(path, "", 0);
    assert_int_equal(open_one(&v, path, &err), -PS_ERR_FORMAT);
    char *zeroes = calloc(1, 100000);
    file_write(path, zeroes, 100000);
    free(zeroes);
    assert_int_equal(open_one(&v, path, &err), -PS_ERR_FORMAT);
    assert_int_equal(open_one(&v, "/dev/null", &err), -ENOTBLK);
    assert_int_equal(ps_member_wipe(path, &err), -PS_ERR_FORMAT);
    assert_true(file_exists(path));
    ps_test_dir_remove(dir);
}

/* As the kernel does a while after a kill. */
static void *close_later(void *fd)
{
    usleep(60000);
    close(*(int *)fd);
    return NULL;
}

static void locks(void **state)
{
    struct set s;
    pthread_t late;
    struct ps_error err;
    struct ps_volume *v = NULL, *second = NULL;
    (void)state;
    set_make(&s, 1, &small_shape);
    assert_int_equal(open_one(&v, s.path[0], &err), 0);
    assert_int_equal(open_one(&second, s.path[0], &err), 0); /* shared */
    ps_volume_close(&second);
    const char *destroy[] = {"penstock:anything"};
    struct ps_layout_options opts = {.destroy = destroy, .destroy_count = 1};
    assert_int_equal(fixture_layout(&s.f, s.paths, 1, &opts, &err), -PS_ERR_IN_USE);
    assert_int_equal(ps_member_wipe(s.path[0], &err), -PS_ERR_IN_USE);
    ps_volume_close(&v);
    int fd = open(s.path[0], O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(open_one(&v, s.path[0], &err), -PS_ERR_IN_USE);
    assert_int_equal(pthread_create(&late, NULL, close_later, &fd), 0);
    assert_int_equal(open_one(&v, s.path[0], &err), 0);
    pthread_join(late, NULL);
    ps_volume_close(&v);
    fd = open(s.path[0], O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(pthread_create(&late, NULL, close_later, &fd), 0);
    assert_int_equal(ps_member_wipe(s.path[0], &err), 0);
    pthread_join(late, NULL);
    assert_false(file_exists(s.path[0]));
    set_free(&s);
}

static void reopen_gives_other_flags(void **state)
{
    struct set s;
    struct ps_error err;
    struct ps_volume *v = NULL;
    (void)state;
    set_make(&s, 2, &small_shape);
    assert_int_equal(open_one(&v, s.path[0], &err), 0);
    int fd = ps_volume_reopen(v, 1, O_RDONLY | O_DIRECT);
    if (fd >= 0) {
        assert_true(fcntl(fd, F_GETFL) & O_DIRECT);
        close(fd);
    } else {
        assert_int_equal(fd, -EINVAL);
    }
    assert_false(fcntl(ps_volume_fd(v, 1), F_GETFL) & O_DIRECT);
    assert_int_equal(fcntl(ps_volume_fd(v, 1), F_GETFL) & O_ACCMODE, O_RDONLY);
    /* Replaced on disk, the open volume still means its own file. */
    struct stat before, after;
    assert_int_equal(fstat(ps_volume_fd(v, 1), &before), 0);
    char other[320];
    snprintf(other, sizeof(other), "%s/other", s.dir);
    file_write(other, "x", 1);
    assert_int_equal(rename(other, s.path[1]), 0);
    fd = ps_volume_reopen(v, 1, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &after), 0);
    assert_true(before.st_ino == after.st_ino);
    close(fd);
    ps_volume_close(&v);
    set_free(&s);
}

static void names_in_messages(void **state)
{
    struct set s;
    struct ps_error err;
    struct ps_volume *v = NULL;
    char text[512];
    (void)state;
    set_make(&s, 1, &small_shape);
    assert_int_equal(open_one(&v, s.path[0], &err), 0);
    ps_volume_slice_text(v, 5 + 2 * 4 + 1, 2, text, sizeof(text));
    assert_non_null(strstr(text, "layer 2 expert 1, slice 3 of 4"));
    assert_non_null(strstr(text, s.path[0]));
    ps_volume_slice_text(v, 5 + 2 * 4 + 1, 2, text, 12);
    assert_string_equal(text, "layer 2 exp");
    assert_int_equal(strlen(ps_volume_uuid(v)), 36);
    assert_true(ps_volume_memory_bytes(v) > 4096);
    ps_volume_close(&v);
    set_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(moved_folder),
        cmocka_unit_test(different_folders),
        cmocka_unit_test(copy_opens_as_itself),
        cmocka_unit_test(missing_foreign_repeated),
        cmocka_unit_test(not_a_volume),
        cmocka_unit_test(locks),
        cmocka_unit_test(reopen_gives_other_flags),
        cmocka_unit_test(names_in_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
