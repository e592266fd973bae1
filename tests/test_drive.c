/* What is told of drives, uses and members by path. */
#include "util.h"

#include <sys/file.h>
#include <sys/wait.h>

#include "nvme/drive.h"
#include "nvme/proc.h"
#include "volume_fixture.h"

static char dir[256];

static void test_info(void **state)
{
    struct ps_drive_info folder, file, coming;
    char path[320];

    (void)state;
    assert_int_equal(ps_drive_info("/nowhere/at/all", &folder), -ENOENT);
    assert_int_equal(ps_drive_info("/proc/self/status", &folder), -ENODEV);
    assert_int_equal(ps_drive_info("/dev/null", &folder), -ENODEV);
    int rc = ps_drive_info(dir, &folder);
    if (rc == -ENODEV)
        PS_SKIP_ONE("%s lies on no block device", dir);
    assert_int_equal(rc, 0);
    assert_true(folder.is_file && folder.bytes > 0);
    assert_memory_equal(folder.device, "/dev/", 5);
    assert_memory_equal(folder.device, folder.drive, 7); /* a partition begins with its drive */
    snprintf(path, sizeof(path), "%s/coming", dir);
    assert_int_equal(ps_drive_info(path, &coming), 0);
    ps_test_file_write(dir, "coming", "x", 1);
    assert_int_equal(ps_drive_info(path, &file), 0);
    assert_memory_equal(&folder, &file, sizeof(file));
    assert_memory_equal(&folder, &coming, sizeof(file));
    char type[40];
    assert_true(ps_drive_partition_type(path, type) < 0);
    assert_int_equal(type[0], 0);
}

/* The lock of another process, as an engine holds one. */
static void test_use(void **state)
{
    char path[320], text[128], wanted[64];
    int held[2], done[2];

    (void)state;
    snprintf(path, sizeof(path), "%s/used", dir);
    ps_test_file_write(dir, "used", "x", 1);
    assert_int_equal(ps_drive_use(path, text, sizeof(text)), 0);
    assert_string_equal(text, "");
    assert_int_equal(ps_drive_use("/nowhere", text, sizeof(text)), 0);
    assert_int_equal(pipe(held), 0);
    assert_int_equal(pipe(done), 0);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        char byte = flock(fd, LOCK_SH | LOCK_NB) == 0;
        close(done[1]);
        _exit(write(held[1], &byte, 1) != 1 || read(done[0], &byte, 1) != 0);
    }
    char locked = 0;
    assert_int_equal(read(held[0], &locked, 1), 1);
    int used = ps_drive_use(path, text, sizeof(text));
    close(done[0]);
    close(done[1]);
    waitpid(child, NULL, 0);
    if (!locked || access("/proc/locks", R_OK) != 0)
        PS_SKIP_ONE("files cannot be locked here");
    assert_int_equal(used, 1);
    snprintf(wanted, sizeof(wanted), "open in process %d (test_drive)", (int)child);
    assert_string_equal(text, wanted);
    assert_int_equal(ps_drive_use(path, text, sizeof(text)), 0);
}

static void test_peek(void **state)
{
    struct ps_member_peek peek = {.member = 7};
    char path[320];

    (void)state;
    snprintf(path, sizeof(path), "%s/none", dir);
    assert_int_equal(ps_member_peek(path, &peek), -ENOENT);
    ps_test_file_write(dir, "none", "x", 1);
    assert_int_equal(ps_member_peek(path, &peek), -PS_ERR_FORMAT);
    assert_int_equal(peek.member, 7);

    struct fixture f;
    struct ps_volume *volume = NULL;
    struct ps_error err = {0};
    char members[2][320];
    const char *paths[2] = {members[0], members[1]};
    for (int i = 0; i < 2; i++)
        snprintf(members[i], sizeof(members[i]), "%s/member.%d", dir, i);
    fixture_init(&f, 1, &fixture_small);
    assert_int_equal(fixture_layout(&f, paths, 2, NULL, &err), 0);
    assert_int_equal(ps_volume_open(&volume, paths, 1, &err), 0);
    for (int i = 0; i < 2; i++) {
        /* Open or not: looking takes no lock. */
        assert_int_equal(ps_member_peek(paths[i], &peek), 0);
        assert_int_equal(peek.member, i);
        assert_int_equal(peek.member_count, 2);
        assert_int_equal(peek.state, PS_MEMBER_COMPLETE);
        assert_string_equal(peek.uuid, ps_volume_uuid(volume));
    }
    ps_volume_close(&volume);
    volatile int stop = 1;
    struct ps_layout_options options = {.stop = &stop};
    f.spec.source_fingerprint[0]++;
    snprintf(members[0], sizeof(members[0]), "%s/stopped", dir);
    assert_int_equal(fixture_layout(&f, paths, 1, &options, &err), -EINTR);
    assert_int_equal(ps_member_peek(paths[0], &peek), 0);
    assert_int_equal(peek.state, PS_MEMBER_INCOMPLETE);
    fixture_fini(&f);
}

static void test_lines(void **state)
{
    char text[16], path[] = "/a\\040b\\134c\\011";

    (void)state;
    ps_proc_unescape(path);
    assert_string_equal(path, "/a b\\c\t");
    snprintf(text, sizeof(text), "kept");
    assert_false(ps_proc_line("/nowhere", text, sizeof(text)));
    ps_test_file_write(dir, "line", "  two words \nmore\n", 18);
    char file[320];
    snprintf(file, sizeof(file), "%s/line", dir);
    assert_false(ps_proc_line(file, text, 9));
    assert_string_equal(text, "kept");
    assert_true(ps_proc_line(file, text, 10));
    assert_string_equal(text, "two words");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_use),
        cmocka_unit_test(test_peek),
        cmocka_unit_test(test_lines),
    };
    ps_test_dir_make(dir, sizeof(dir));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ps_test_dir_remove(dir);
    return failed;
}
