/* Regions without hugetlb pages: every size, zeroed, aligned, counted, bound, refused. */
#include "util.h"

#include <numa.h>
#include <numaif.h>
#include <sched.h>
#include <sys/mman.h>

#include "core/budget.h"
#include "core/internal.h"
#include "core/mem.h"
#include "core/topology.h"

#define MIB ((size_t)1 << 20)

static size_t page_bytes_of(const struct ps_region *region)
{
    switch (region->kind) {
    case PS_PAGE_1G:
        return 1024 * MIB;
    case PS_PAGE_2M:
    case PS_PAGE_THP:
        return 2 * MIB;
    case PS_PAGE_PLAIN:
        break;
    }
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void maps_every_size(void **state)
{
    (void)state;
    static const size_t sizes[] = {1,       4096,    4097,        MIB,     2 * MIB - 1,
                                   2 * MIB, 3 * MIB, 7 * MIB + 1, 16 * MIB};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct ps_region region;
        struct ps_error err;
        assert_int_equal(ps_region_map(&region, sizes[i], -1, &err), 0);
        size_t page_bytes = page_bytes_of(&region);
        assert_true(region.bytes >= sizes[i] && region.bytes < sizes[i] + page_bytes);
        assert_int_equal(region.bytes % page_bytes, 0);
        assert_int_equal((uintptr_t)region.base % page_bytes, 0);
        assert_int_equal(region.node, -1);
        if (sizes[i] < 2 * MIB)
            assert_int_equal(region.kind, PS_PAGE_PLAIN);

        unsigned char *p = region.base;
        for (size_t j = 0; j < region.bytes; j++) {
            if (p[j] != 0)
                fail_msg("byte %zu of %zu is not zero", j, region.bytes);
        }
        memset(p, 0xa5, region.bytes);
        ps_region_unmap(&region);
        assert_null(region.base);
        ps_region_unmap(&region);
    }
}

static void every_page_is_present(void **state)
{
    (void)state;
    struct ps_region region;
    assert_int_equal(ps_region_map(&region, MIB, -1, NULL), 0);
    unsigned char present[MIB / 4096];
    assert_int_equal(mincore(region.base, region.bytes, present), 0);
    for (size_t i = 0; i < region.bytes / (size_t)sysconf(_SC_PAGESIZE); i++)
        assert_true(present[i] & 1);
    ps_region_unmap(&region);
}

static void unmapping_gives_back(void **state)
{
    (void)state;
    uint64_t before = ps_rss_bytes() + ps_mem_hugetlb_bytes();
    struct ps_region region;
    assert_int_equal(ps_region_map(&region, 32 * MIB, -1, NULL), 0);
    uint64_t during = ps_rss_bytes() + ps_mem_hugetlb_bytes();
    assert_true(during + MIB >= before + 32 * MIB);
    ps_region_unmap(&region);
    assert_true(ps_rss_bytes() + ps_mem_hugetlb_bytes() + 31 * MIB <= during);
    assert_int_equal(ps_mem_hugetlb_bytes(), 0);
}

static void refuses_the_impossible(void **state)
{
    (void)state;
    struct ps_region region = {.node = 42};
    struct ps_error err = {0};
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX / 2, (size_t)1 << 50};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        assert_int_equal(ps_region_map(&region, sizes[i], -1, &err), -ENOMEM);
        assert_int_equal(err.code, -ENOMEM);
        assert_non_null(strstr(err.text, "TiB"));
    }
    assert_int_equal(ps_region_map(&region, 0, -1, &err), -PS_ERR_ARGUMENT);
    assert_null(region.base);
    assert_int_equal(region.node, 42); /* written only on success */
}

static void binds_to_a_node(void **state)
{
    (void)state;
    struct ps_topology topo;
    ps_topology_get(&topo);
    int node = topo.node_id[topo.node_count - 1];
    static const size_t sizes[] = {64 << 10, 4 << 20};
    for (size_t i = 0; i < 2; i++) {
        struct ps_region region;
        assert_int_equal(ps_region_map(&region, sizes[i], node, NULL), 0);
        if (region.node >= 0) {
            int at = -1;
            assert_int_equal(region.node, node);
            assert_int_equal(get_mempolicy(&at, NULL, 0, region.base, MPOL_F_NODE | MPOL_F_ADDR),
                             0);
            assert_int_equal(at, node);
        } else {
            print_message("The kernel does not bind memory here.\n");
        }
        ps_region_unmap(&region);

        /* A node that does not exist gives memory all the same, and says that it is not bound. */
        assert_int_equal(ps_region_map(&region, sizes[i], 1000000, NULL), 0);
        assert_int_equal(region.node, -1);
        ps_region_unmap(&region);
    }
}

static void populates_by_reading(void **state)
{
    (void)state;
    size_t bytes = 3 * MIB;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    unsigned char present[3 * MIB / 4096];
    assert_int_equal(ps_populate_by_read(p, bytes), 0);
    assert_int_equal(mincore(p, bytes, present), 0);
    for (size_t i = 0; i < bytes / (size_t)sysconf(_SC_PAGESIZE); i++)
        assert_true(present[i] & 1);

    /* What would be a signal for a store is an error here. */
    assert_int_equal(mprotect(p + 2 * MIB, MIB, PROT_READ), 0);
    assert_int_equal(ps_populate_by_read(p + 2 * MIB, MIB), -EFAULT);
    munmap(p, bytes);
}

static void topology_is_consistent(void **state)
{
    (void)state;
    struct ps_topology topo;
    ps_topology_get(&topo);
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
    assert_int_equal(topo.cpu_count, CPU_COUNT(&set));
    assert_in_range(topo.node_count, 1, topo.cpu_count);
    for (int i = 0; i < topo.cpu_count; i++) {
        assert_true(CPU_ISSET((size_t)topo.cpu_id[i], &set));
        assert_in_range(topo.cpu_node[i], 0, topo.node_count - 1);
        if (i > 0 && topo.cpu_node[i] == topo.cpu_node[i - 1])
            assert_true(topo.cpu_id[i] > topo.cpu_id[i - 1]);
        else if (i > 0)
            assert_int_equal(topo.cpu_node[i], topo.cpu_node[i - 1] + 1);
    }
    for (int i = 1; i < topo.node_count; i++)
        assert_true(topo.node_id[i] > topo.node_id[i - 1]);
}

static void topology_follows_the_affinity_mask(void **state)
{
    (void)state;
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    struct ps_topology topo;
    ps_topology_get(&topo);
    int cpu = topo.cpu_id[topo.cpu_count - 1];
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    ps_topology_get(&topo);
    assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
    assert_int_equal(topo.cpu_count, 1);
    assert_int_equal(topo.cpu_id[0], cpu);
    assert_int_equal(topo.node_count, 1);
    assert_int_equal(topo.cpu_node[0], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_every_size),
        cmocka_unit_test(every_page_is_present),
        cmocka_unit_test(unmapping_gives_back),
        cmocka_unit_test(refuses_the_impossible),
        cmocka_unit_test(binds_to_a_node),
        cmocka_unit_test(populates_by_reading),
        cmocka_unit_test(topology_is_consistent),
        cmocka_unit_test(topology_follows_the_affinity_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
