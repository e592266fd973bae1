/* Sizes in words, cgroup limits from made-up trees, and the figures of this process. */
#include "util.h"

#include <sys/mman.h>

#include "core/budget.h"
#include "core/internal.h"

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

static void parses_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        {"0", 0},
        {"4096", 4096},
        {"512K", 512 << 10},
        {"512k", 512 << 10},
        {"512KiB", 512 << 10},
        {"512kb", 512 << 10},
        {"24G", 24 * GIB},
        {"1.5G", 3 * GIB / 2},
        {"0.25M", MIB / 4},
        {"1.000000000000000000000001K", 1024},
        {"2T", 2048 * GIB},
        {"18446744073709551615", UINT64_MAX},
        {"16777215T", UINT64_MAX - ((uint64_t)1 << 40) + 1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t bytes = 1;
        struct ps_error err = {0};
        if (ps_size_parse(cases[i].text, &bytes, &err) != 0)
            fail_msg("\"%s\" was refused: %s", cases[i].text, err.text);
        assert_int_equal(bytes, cases[i].bytes);
    }
}

static void refuses_what_is_no_size(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "",
        " 1",
        "1 ",
        "-1",
        "+1",
        "G",
        "1X",
        "1GG",
        "1.G",
        ".5G",
        "1.5",
        "0x1",
        "1Gi",
        "1iB",
        "100B",
        "1e3",
        "1,5G",
        "1..5G",
        "1.5.5G",
        "min",
        "1GiBs",
        "١",
        "1GBB",
        "16777216T",
        "99999999999999999999",
        "18446744073709551616",
        "16777215.99T0",
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t bytes = 77;
        struct ps_error err = {0};
        if (ps_size_parse(cases[i], &bytes, &err) != -PS_ERR_ARGUMENT)
            fail_msg("\"%s\" was taken for a size", cases[i]);
        assert_int_equal(bytes, 77);
        assert_int_equal(err.code, -PS_ERR_ARGUMENT);
        assert_true(strlen(err.text) > 0);
    }
    uint64_t bytes;
    assert_int_equal(ps_size_parse("x", &bytes, NULL), -PS_ERR_ARGUMENT);
}

static void writes_sizes(void **state)
{
    (void)state;
    char buf[32];
    assert_string_equal(ps_size_text(0, buf, sizeof(buf)), "0 B");
    assert_string_equal(ps_size_text(999, buf, sizeof(buf)), "999 B");
    assert_string_equal(ps_size_text(1000, buf, sizeof(buf)), "1.0 kB");
    assert_string_equal(ps_size_text(999960, buf, sizeof(buf)), "1.0 MB");
    assert_string_equal(ps_size_text(1730000000, buf, sizeof(buf)), "1.7 GB");
    assert_string_equal(ps_size_text(61440000000000, buf, sizeof(buf)), "61.4 TB");
    assert_string_equal(ps_size_text(UINT64_MAX, buf, sizeof(buf)), "18446744.1 TB");
    assert_string_equal(ps_size_text_binary(1023, buf, sizeof(buf)), "1023 B");
    assert_string_equal(ps_size_text_binary(1024, buf, sizeof(buf)), "1.00 KiB");
    assert_string_equal(ps_size_text_binary(MIB - 1, buf, sizeof(buf)), "1.00 MiB");
    assert_string_equal(ps_size_text_binary(GIB * 165 / 100, buf, sizeof(buf)), "1.65 GiB");
}

static void put(const char *root, const char *name, const char *text)
{
    ps_test_file_write(root, name, text, strlen(text));
}

static void reads_cgroup_v2(void **state)
{
    const char *root = *state;
    put(root, "proc/self/mountinfo",
        "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
        "31 22 0:28 / /sys/fs/cgroup rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw\n");
    put(root, "proc/self/cgroup", "0::/user.slice/work.service\n");
    assert_int_equal(ps_cgroup_left_bytes(root), UINT64_MAX); /* no memory controller at all */

    put(root, "sys/fs/cgroup/user.slice/work.service/memory.max", "max\n");
    put(root, "sys/fs/cgroup/user.slice/work.service/memory.high", "max\n");
    put(root, "sys/fs/cgroup/user.slice/work.service/memory.current", "1073741824\n");
    put(root, "sys/fs/cgroup/user.slice/memory.max", "max\n");
    assert_int_equal(ps_cgroup_left_bytes(root), UINT64_MAX);

    /* A limit of 4 GiB with 1 GiB used, a quarter of which is cold file cache. */
    put(root, "sys/fs/cgroup/user.slice/work.service/memory.max", "4294967296\n");
    put(root, "sys/fs/cgroup/user.slice/work.service/memory.stat",
        "anon 1\ninactive_anon 5\nworkingset_inactive_file 9\ninactive_file 268435456\n"
        "active_file 7\n");
    assert_int_equal(ps_cgroup_left_bytes(root), 4 * GIB - GIB + 256 * MIB);

    /* The ancestor is tighter, then memory.high of the group itself is. */
    put(root, "sys/fs/cgroup/user.slice/memory.max", "3221225472\n");
    put(root, "sys/fs/cgroup/user.slice/memory.current", "2147483648\n");
    assert_int_equal(ps_cgroup_left_bytes(root), GIB);
    put(root, "sys/fs/cgroup/user.slice/work.service/memory.high", "1610612736\n");
    assert_int_equal(ps_cgroup_left_bytes(root), 768 * MIB);

    /* More used than allowed is nothing left, not a huge number. */
    put(root, "sys/fs/cgroup/user.slice/memory.current", "9221225472\n");
    assert_int_equal(ps_cgroup_left_bytes(root), 0);
}

static void reads_cgroup_v1(void **state)
{
    const char *root = *state;
    /* A hybrid system, with a blank in a mount point, and the unified tree without controllers. */
    put(root, "proc/self/mountinfo",
        "31 23 0:28 / /cgroup rw - tmpfs tmpfs rw,mode=755\n"
        "32 31 0:29 / /cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
        "33 31 0:32 / /cgroup/the\\040memory rw,relatime - cgroup cgroup rw,memory\n"
        "34 31 0:38 / /cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n");
    put(root, "proc/self/cgroup",
        "9:name=systemd:/\n4:hugetlb,memory:/a/b\n2:cpu,cpuacct:/other\n0::/\n");
    put(root, "cgroup/the memory/memory.limit_in_bytes", "9223372036854771712\n");
    put(root, "cgroup/the memory/memory.usage_in_bytes", "99999999999\n");
    put(root, "cgroup/the memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(ps_cgroup_left_bytes(root), UINT64_MAX);

    put(root, "cgroup/the memory/a/memory.limit_in_bytes", "2147483648\n");
    put(root, "cgroup/the memory/a/memory.usage_in_bytes", "1073741824\n");
    put(root, "cgroup/the memory/a/memory.stat",
        "cache 9\ninactive_file 1\ntotal_inactive_file 1048576\n");
    assert_int_equal(ps_cgroup_left_bytes(root), GIB + MIB);
}

static void reads_cgroups_from_inside_a_container(void **state)
{
    const char *root = *state;
    /* The mount shows the container's own group as its root, by the name that the host gave it. */
    put(root, "proc/self/mountinfo",
        "33 31 0:32 /docker/c0ffee /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    put(root, "proc/self/cgroup", "4:memory:/docker/c0ffee/inner\n");
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
    put(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n");
    put(root, "sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "268435456\n");
    put(root, "sys/fs/cgroup/memory/inner/memory.usage_in_bytes", "0\n");
    assert_int_equal(ps_cgroup_left_bytes(root), 256 * MIB);

    /* "/docker/c0ffee2" is a sibling, not a child: only the mount itself can be looked at. */
    put(root, "proc/self/cgroup", "4:memory:/docker/c0ffee2\n");
    assert_int_equal(ps_cgroup_left_bytes(root), 512 * MIB);
    put(root, "proc/self/cgroup", "4:memory:/../outside\n");
    assert_int_equal(ps_cgroup_left_bytes(root), 512 * MIB);
}

static void survives_odd_proc_files(void **state)
{
    const char *root = *state;
    assert_int_equal(ps_cgroup_left_bytes(root), UINT64_MAX);
    static const char *const mounts[] = {
        "",
        "\n\n",
        "33 31",
        "33 31 0:32 / /m rw -",
        "33 31 0:32 / /m rw - cgroup",
        "33 31 0:32 / /m rw - cgroup cgroup memory\\",
        "33 31 0:32 /\\0 /m\\04 rw - cgroup2 x y",
    };
    static const char *const groups[] = {
        "", "::", "0", "0:", "0::", "4:memory", "4:memory:\n0::\n"};
    for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
        for (size_t j = 0; j < sizeof(groups) / sizeof(groups[0]); j++) {
            put(root, "proc/self/mountinfo", mounts[i]);
            put(root, "proc/self/cgroup", groups[j]);
            assert_int_equal(ps_cgroup_left_bytes(root), UINT64_MAX);
        }
    }
}

static void knows_this_process(void **state)
{
    (void)state;
    uint64_t before = ps_rss_bytes();
    size_t bytes = 32 << 20;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    memset(p, 1, bytes);
    uint64_t during = ps_rss_bytes();
    munmap(p, bytes);
    /* The kernel batches its counters per CPU: allow a mebibyte. */
    assert_true(during + MIB >= before + bytes);
    assert_true(ps_rss_bytes() + bytes <= during + MIB);
    assert_true(ps_rss_peak_bytes() + MIB >= during);
}

static void default_leaves_a_reserve(void **state)
{
    (void)state;
    uint64_t bytes = ps_budget_default_bytes();
    assert_true(bytes > 0);
    uint64_t physical = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_true(bytes < physical);
    assert_true(bytes <= ps_budget_cgroup_bytes());
    assert_in_range(ps_memory_obtainable_bytes(), MIB, UINT64_MAX / 2);
}

static int make_root(void **state)
{
    char *root = malloc(256);
    ps_test_dir_make(root, 256);
    *state = root;
    return 0;
}

static int remove_root(void **state)
{
    ps_test_dir_remove(*state);
    free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses_sizes),
        cmocka_unit_test(refuses_what_is_no_size),
        cmocka_unit_test(writes_sizes),
        cmocka_unit_test_setup_teardown(reads_cgroup_v2, make_root, remove_root),
        cmocka_unit_test_setup_teardown(reads_cgroup_v1, make_root, remove_root),
        cmocka_unit_test_setup_teardown(reads_cgroups_from_inside_a_container, make_root,
                                        remove_root),
        cmocka_unit_test_setup_teardown(survives_odd_proc_files, make_root, remove_root),
        cmocka_unit_test(knows_this_process),
        cmocka_unit_test(default_leaves_a_reserve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
