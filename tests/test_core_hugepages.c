/* Regions in hugetlb pages: taken when there are enough, given up whole when there are not. */
#include "util.h"

#include <sys/mman.h>

#include "core/budget.h"
#include "core/internal.h"
#include "core/mem.h"

#define MIB ((size_t)1 << 20)

/*
 * What the kernel says that this process holds, and what exists at all. Free pages are not
 * compared: another process may take or return some between any two looks.
 */
static uint64_t held_bytes(void)
{
    char text[8192];
    assert_true(ps_text_file_read("/proc/self/status", text, sizeof(text)) > 0);
    return ps_keyed_number(text, "HugetlbPages") * 1024;
}

static uint64_t existing_bytes(void)
{
    static const char dir[] = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    char path[128];
    uint64_t count = 0;
    static const char *const names[] = {"nr_hugepages", "nr_overcommit_hugepages"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        count += ps_number_file_read(path, 0);
    }
    return count * 2 * MIB;
}

static void takes_hugetlb_pages(void **state)
{
    (void)state;
    uint64_t rss_before = ps_rss_bytes();
    struct ps_region a, b;
    assert_int_equal(ps_region_map(&a, 4 * MIB, -1, NULL), 0);
    assert_int_equal(a.kind, PS_PAGE_2M);
    assert_int_equal(ps_mem_hugetlb_bytes(), 4 * MIB);
    assert_int_equal(ps_region_map(&b, 2 * MIB + 1, -1, NULL), 0);
    assert_int_equal(b.kind, PS_PAGE_2M);
    assert_int_equal(b.bytes, 4 * MIB);
    assert_int_equal(ps_mem_hugetlb_bytes(), 8 * MIB);
    assert_true(ps_rss_bytes() < rss_before + 4 * MIB); /* not part of the resident set */
    assert_int_equal(held_bytes(), 8 * MIB);

    memset(a.base, 0xff, a.bytes);
    ps_region_unmap(&a);
    assert_int_equal(ps_mem_hugetlb_bytes(), 4 * MIB);
    ps_region_unmap(&b);
    assert_int_equal(ps_mem_hugetlb_bytes(), 0);
    assert_int_equal(held_bytes(), 0);
    assert_true(ps_mem_hugetlb_peak_bytes() >= 8 * MIB);
}

static void small_regions_leave_them_alone(void **state)
{
    (void)state;
    struct ps_region region;
    assert_int_equal(ps_region_map(&region, 2 * MIB - 1, -1, NULL), 0);
    assert_int_equal(region.kind, PS_PAGE_PLAIN);
    ps_region_unmap(&region);
}

/* Both tests below ask for one page more than exist, again if an administrator changed that number.
 */
static void too_few_means_none(void **state)
{
    (void)state;
    uint64_t existing, counted, held;
    enum ps_page_kind kind;
    struct ps_region region;
    do {
        existing = existing_bytes();
        if (existing > 1024 * MIB)
            PS_SKIP_ONE("there may be more than 1 GiB of 2 MiB pages; this would fill memory");
        assert_int_equal(ps_region_map(&region, existing + 2 * MIB, -1, NULL), 0);
        kind = region.kind;
        counted = ps_mem_hugetlb_bytes();
        held = held_bytes();
        ps_region_unmap(&region);
    } while (existing_bytes() != existing);
    assert_true(kind == PS_PAGE_THP || kind == PS_PAGE_PLAIN);
    assert_int_equal(counted, 0);
    assert_int_equal(held, 0);
}

static void old_kernels_get_an_error_not_a_signal(void **state)
{
    (void)state;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE;
    uint64_t existing;
    int rc;
    do {
        existing = existing_bytes();
        if (existing > 1024 * MIB)
            PS_SKIP_ONE("there may be more than 1 GiB of 2 MiB pages; this would take them all");
        /* Without a reservation the lack of pages shows when they are touched. */
        size_t bytes = existing + 2 * MIB;
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        assert_true(p != MAP_FAILED);
        rc = ps_populate_by_read(p, bytes);
        munmap(p, bytes);
    } while (existing_bytes() != existing);
    assert_int_equal(rc, -EFAULT);
}

int main(void)
{
    if (ps_mem_hugetlb_free_bytes() < 16 * MIB)
        PS_SKIP("8 free hugepages of 2 MiB are needed (echo 64 > /proc/sys/vm/nr_hugepages)");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_hugetlb_pages),
        cmocka_unit_test(small_regions_leave_them_alone),
        cmocka_unit_test(too_few_means_none),
        cmocka_unit_test(old_kernels_get_an_error_not_a_signal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
