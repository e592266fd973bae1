/* What a layout refuses to write over, what it says, and what it does with leave: plain files. */
#include <sys/file.h>

#include "nvme/superblock.h"
#include "util.h"
#include "volume_fixture.h"

static const struct fixture_shape shape = {.resident_count = 2,
                                           .group_count = 1,
                                           .index_count = 2,
                                           .slice_count = 2,
                                           .slice_bytes = 30000};

struct scene {
    char dir[256];
    char path[300];
    struct fixture f;
};

static int scene_make(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    ps_test_dir_make(s->dir, sizeof(s->dir));
    snprintf(s->path, sizeof(s->path), "%s/volume", s->dir);
    fixture_init(&s->f, 3, &shape);
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

/* Whoever else creates the same file may be the first to lock it. */
static const char *lock_first;
static int lock_first_fd = -1;

int __real_flock(int fd, int operation);
int __wrap_flock(int fd, int operation);
int __wrap_flock(int fd, int operation)
{
    if (lock_first != NULL) {
        lock_first_fd = open(lock_first, O_RDWR | O_CLOEXEC);
        assert_int_equal(__real_flock(lock_first_fd, LOCK_EX | LOCK_NB), 0);
        lock_first = NULL;
    }
    return __real_flock(fd, operation);
}

static int lay(struct scene *s, const char *path, const char *identity, struct ps_error *err)
{
    struct ps_layout_options opts = {.destroy = &identity, .destroy_count = identity != NULL};
    memset(err, 0, sizeof(*err));
    return fixture_layout(&s->f, &path, 1, &opts, err);
}

static void must_open(struct scene *s, const char *path)
{
    struct ps_volume *v = NULL;
    struct ps_error err = {0};
    if (ps_volume_open(&v, &path, 1, &err) != 0)
        fail_msg("%s: %s", err.where, err.text);
    fixture_check(&s->f, v);
    assert_int_equal(fixture_verify(v), 0);
    ps_volume_close(&v);
}

static void some_file(void **state)
{
    struct scene *s = *state;
    struct ps_error err;
    size_t bytes;
    file_write(s->path, "my thesis", 9);
    assert_int_equal(lay(s, s->path, NULL, &err), -PS_ERR_WOULD_DESTROY);
    assert_non_null(strstr(err.text, "--destroy 'file:volume:9'"));
    assert_int_equal(lay(s, s->path, "file:volume:8", &err), -PS_ERR_WOULD_DESTROY);
    assert_int_equal(lay(s, s->path, "file:volume", &err), -PS_ERR_WOULD_DESTROY);
    uint8_t *data = file_read(s->path, &bytes);
    assert_int_equal(bytes, 9);
    assert_memory_equal(data, "my thesis", 9);
    free(data);
    assert_int_equal(lay(s, s->path, "file:volume:9", &err), 0);
    must_open(s, s->path);
    unlink(s->path);
}

static void empty_file(void **state)
{
    struct scene *s = *state;
    struct ps_error err;
    file_write(s->path, "", 0);
    assert_int_equal(lay(s, s->path, NULL, &err), 0);
    must_open(s, s->path);
    unlink(s->path);
}

static void other_volume(void **state)
{
    struct scene *s = *state;
    struct ps_error err;
    struct ps_volume *v = NULL;
    char identity[64];
    const char *path = s->path;
    assert_int_equal(lay(s, s->path, NULL, &err), 0);
    assert_int_equal(ps_volume_open(&v, &path, 1, NULL), 0);
    snprintf(identity, sizeof(identity), "penstock:%s", ps_volume_uuid(v));
    ps_volume_close(&v);
    assert_int_equal(lay(s, s->path, NULL, &err), -PS_ERR_WOULD_DESTROY);
    assert_non_null(strstr(err.text, identity));
    must_open(s, s->path);
    s->f.spec.source_fingerprint[0]++;
    assert_int_equal(lay(s, s->path, identity, &err), 0);
    must_open(s, s->path);
    assert_int_equal(ps_volume_open(&v, &path, 1, NULL), 0);
    assert_null(strstr(identity, ps_volume_uuid(v)));
    ps_volume_close(&v);
    assert_int_equal(ps_member_wipe(s->path, &err), 0);
}

/* Two layouts create one file: the one that does not get it leaves it to the other. */
static void created_twice(void **state)
{
    struct scene *s = *state;
    struct ps_error err = {0};
    lock_first = s->path;
    assert_int_equal(lay(s, s->path, NULL, &err), -PS_ERR_IN_USE);
    assert_true(file_exists(s->path));
    close(lock_first_fd);
    assert_int_equal(lay(s, s->path, NULL, &err), 0);
    must_open(s, s->path);
    unlink(s->path);
}

/* Something else was made in a member's file: the second superblock alone makes it no volume. */
static void made_over(void **state)
{
    struct scene *s = *state;
    struct ps_error err = {0};
    uint8_t swap[4096] = {[1024] = 1, [1028] = 200};
    const char *path = s->path;
    struct ps_layout_options opts = {.resume = true};
    memcpy(swap + 4086, "SWAPSPACE2", 10);
    assert_int_equal(lay(s, s->path, NULL, &err), 0);
    file_patch(s->path, 0, swap, sizeof(swap));
    assert_int_equal(ps_member_wipe(s->path, &err), -PS_ERR_WOULD_DESTROY);
    assert_non_null(strstr(err.text, "swap:"));
    assert_int_equal(fixture_layout(&s->f, &path, 1, &opts, &err), -PS_ERR_WOULD_DESTROY);
    /* Without a signature, too; an erased beginning is nobody's. */
    memset(swap, 0xa5, sizeof(swap));
    file_patch(s->path, 0, swap, sizeof(swap));
    assert_int_equal(ps_member_wipe(s->path, &err), -PS_ERR_WOULD_DESTROY);
    assert_non_null(strstr(err.text, "something else begins"));
    assert_int_equal(fixture_layout(&s->f, &path, 1, &opts, &err), -PS_ERR_WOULD_DESTROY);
    memset(swap, 0, sizeof(swap));
    file_patch(s->path, 0, swap, sizeof(swap));
    assert_int_equal(fixture_layout(&s->f, &path, 1, &opts, &err), 0);
    must_open(s, s->path);
    unlink(s->path);
}

/* A member named by a link: the file is removed, and not the link. */
static void wiped_by_link(void **state)
{
    struct scene *s = *state;
    struct ps_error err = {0};
    struct stat st;
    char link_path[300];
    snprintf(link_path, sizeof(link_path), "%s/link", s->dir);
    assert_int_equal(lay(s, s->path, NULL, &err), 0);
    assert_int_equal(symlink(s->path, link_path), 0);
    assert_int_equal(ps_member_wipe(link_path, &err), 0);
    assert_false(file_exists(s->path));
    assert_int_equal(lstat(link_path, &st), 0);
    unlink(link_path);
}

static void not_a_member(void **state)
{
    struct scene *s = *state;
    struct ps_error err;
    char fifo[300], missing[320];
    snprintf(fifo, sizeof(fifo), "%s/fifo", s->dir);
    snprintf(missing, sizeof(missing), "%s/no/such/folder", s->dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(lay(s, fifo, NULL, &err), -ENOTBLK);
    assert_int_equal(lay(s, s->dir, NULL, &err), -EISDIR);
    assert_int_equal(lay(s, "/dev/null", NULL, &err), -ENOTBLK);
    assert_int_equal(lay(s, missing, NULL, &err), -ENOENT);
    assert_int_equal(lay(s, "/dev/nvme77n77", NULL, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/dev"));
    /* A file system of its own under /dev holds files like any other. */
    struct stat dev, shm;
    char shared[64];
    snprintf(shared, sizeof(shared), "/dev/shm/penstock-test-%d", (int)getpid());
    assert_int_equal(stat("/dev", &dev), 0);
    if (stat("/dev/shm", &shm) == 0 && shm.st_dev != dev.st_dev && access("/dev/shm", W_OK) == 0) {
        assert_int_equal(lay(s, shared, NULL, &err), 0);
        must_open(s, shared);
        assert_int_equal(unlink(shared), 0);
    }
    assert_false(file_exists("/dev/nvme77n77"));
    unlink(fifo);
}

static void named_twice(void **state)
{
    struct scene *s = *state;
    struct ps_error err = {0};
    char other[320], link_path[300];
    snprintf(other, sizeof(other), "%s/../%s/volume", s->dir, strrchr(s->dir, '/') + 1);
    snprintf(link_path, sizeof(link_path), "%s/link", s->dir);
    const char *twice[] = {s->path, other};
    assert_int_equal(fixture_layout(&s->f, twice, 2, NULL, &err), -PS_ERR_MEMBER);
    assert_false(file_exists(s->path));
    file_write(s->path, "", 0);
    assert_int_equal(link(s->path, link_path), 0);
    const char *links[] = {s->path, link_path};
    assert_int_equal(fixture_layout(&s->f, links, 2, NULL, &err), -PS_ERR_MEMBER);
    assert_non_null(strstr(err.text, "name each member once"));
    unlink(link_path);
    unlink(s->path);
    assert_int_equal(symlink("nowhere", link_path), 0);
    assert_int_equal(lay(s, link_path, NULL, &err), -EEXIST);
    assert_non_null(strstr(err.text, "a link to something that is not there"));
    unlink(link_path);
}

/* Whether a resume that finds nothing starts afresh, and does not excuse it from asking. */
static void resume_without_begin(void **state)
{
    struct scene *s = *state;
    struct ps_error err = {0};
    const char *path = s->path;
    struct ps_layout_options opts = {.resume = true};
    assert_int_equal(fixture_layout(&s->f, &path, 1, &opts, &err), 0);
    must_open(s, s->path);
    unlink(s->path);
    file_write(s->path, "my thesis", 9);
    assert_int_equal(fixture_layout(&s->f, &path, 1, &opts, &err), -PS_ERR_WOULD_DESTROY);
    unlink(s->path);
}

static void bad_description(void **state)
{
    struct scene *s = *state;
    struct ps_error err;
    const char *name = s->f.objects[1].name;
    s->f.objects[1].name = s->f.objects[0].name;
    assert_int_equal(lay(s, s->path, NULL, &err), -PS_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "same name"));
    s->f.objects[1].name = "";
    assert_int_equal(lay(s, s->path, NULL, &err), -PS_ERR_ARGUMENT);
    s->f.objects[1].name = name;
    s->f.objects[3].index = s->f.objects[2].index;
    assert_int_equal(lay(s, s->path, NULL, &err), -PS_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "same address"));
    s->f.objects[3].index = 1;
    s->f.slices[0].bytes = 0;
    assert_int_equal(lay(s, s->path, NULL, &err), -PS_ERR_ARGUMENT);
    s->f.slices[0].bytes = PS_SLICE_BYTES_MAX;
    assert_int_equal(lay(s, s->path, NULL, &err), -PS_ERR_ARGUMENT);
    s->f.slices[0].bytes = 1;
    assert_false(file_exists(s->path));
    assert_int_equal(lay(s, s->path, NULL, &err), 0);
    must_open(s, s->path);
    unlink(s->path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(some_file),       cmocka_unit_test(empty_file),
        cmocka_unit_test(other_volume),    cmocka_unit_test(not_a_member),
        cmocka_unit_test(named_twice),     cmocka_unit_test(resume_without_begin),
        cmocka_unit_test(bad_description), cmocka_unit_test(made_over),
        cmocka_unit_test(wiped_by_link),   cmocka_unit_test(created_twice),
    };
    return cmocka_run_group_tests(tests, scene_make, scene_free);
}
