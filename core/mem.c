#include "core/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <hugetlbfs.h>
#include <numa.h>
#include <numaif.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/budget.h"
#include "core/internal.h"
#include "core/util.h"

#define BYTES_4K ((size_t)4096)
#define BYTES_2M ((size_t)2 << 20)
#define BYTES_1G ((size_t)1 << 30)
#define NODE_MASK_WORDS 16

/* Linux 5.14; Debian 12's libc knows it, older headers do not. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

static _Atomic uint64_t hugetlb_now_bytes;
static _Atomic uint64_t hugetlb_peak_bytes;

static void hugetlb_account(uint64_t bytes)
{
    uint64_t now = atomic_fetch_add(&hugetlb_now_bytes, bytes) + bytes;
    uint64_t peak = atomic_load(&hugetlb_peak_bytes);
    while (peak < now && !atomic_compare_exchange_weak(&hugetlb_peak_bytes, &peak, now)) {
    }
}

static int hugetlb_size_exists(size_t page_bytes)
{
    long sizes[16];
    int count = gethugepagesizes(sizes, PS_ARRAY_LEN(sizes));
    for (int i = 0; i < count; i++) {
        if ((size_t)sizes[i] == page_bytes)
            return 1;
    }
    return 0;
}

/* Over the nodes that this process may use. */
static int interleave(void *base, size_t bytes)
{
    if (numa_available() < 0 || numa_num_configured_nodes() < 2)
        return -1;
    struct bitmask *nodes = numa_get_mems_allowed();
    long rc = mbind(base, bytes, MPOL_INTERLEAVE, nodes->maskp, nodes->size + 1, 0);
    numa_bitmask_free(nodes);
    return rc == 0 ? PS_NODE_INTERLEAVE : -1;
}

/*
 * Hugetlb pages are bound strictly, since a node that has too few of them fails cleanly and the
 * next kind is tried. For other pages a strict binding would call the out-of-memory killer while
 * another node has room, so they prefer their node. Returns the node, or -1 where the kernel has no
 * NUMA or refuses (containers without CAP_SYS_NICE filter mbind): memory on the wrong node is only
 * slower.
 */
static int bind_to_node(void *base, size_t bytes, int node, int strict)
{
    if (node == PS_NODE_INTERLEAVE)
        return interleave(base, bytes);
    unsigned long mask[NODE_MASK_WORDS] = {0};
    size_t word_bits = 8 * sizeof(mask[0]);
    if (node < 0 || (size_t)node >= PS_ARRAY_LEN(mask) * word_bits || numa_available() < 0)
        return -1;
    mask[(size_t)node / word_bits] = 1ul << (size_t)node % word_bits;
    int mode = strict ? MPOL_BIND : MPOL_PREFERRED;
    return mbind(base, bytes, mode, mask, PS_ARRAY_LEN(mask) * word_bits, 0) == 0 ? node : -1;
}

int ps_populate_by_read(void *base, uint64_t bytes)
{
    int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = 0;
    for (uint64_t done = 0; done < bytes && rc == 0;) {
        ssize_t n = read(fd, (char *)base + done, ps_min_u64(bytes - done, BYTES_1G));
        if (n > 0)
            done += (uint64_t)n;
        else if (n == 0 || errno != EINTR)
            rc = n == 0 ? -EIO : -errno;
    }
    close(fd);
    return rc;
}

static int populate(void *base, size_t bytes)
{
    while (madvise(base, bytes, MADV_POPULATE_WRITE) < 0) {
        if (errno == EINVAL)
            return ps_populate_by_read(base, bytes);
        if (errno != EINTR && errno != EAGAIN)
            return -errno;
    }
    return 0;
}

static void *map_anonymous(size_t bytes, int flags)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Fills *region on success. Any failure unmaps again; the caller goes on to the next kind. */
static int finish(struct ps_region *region, void *base, size_t bytes, enum ps_page_kind kind,
                  int node)
{
    int hugetlb = kind == PS_PAGE_1G || kind == PS_PAGE_2M;
    int bound = bind_to_node(base, bytes, node, hugetlb);
    int rc = populate(base, bytes);
    if (rc < 0) {
        munmap(base, bytes);
        return rc;
    }
    if (hugetlb)
        hugetlb_account(bytes);
    *region = (struct ps_region){.base = base, .bytes = bytes, .kind = kind, .node = bound};
    return 0;
}

static int map_hugetlb(struct ps_region *region, size_t bytes, enum ps_page_kind kind, int node)
{
    size_t page_bytes = kind == PS_PAGE_1G ? BYTES_1G : BYTES_2M;
    if (!hugetlb_size_exists(page_bytes))
        return -ENOENT;
    size_t mapped = ps_align_up(bytes, page_bytes);
    int log2_bytes = kind == PS_PAGE_1G ? 30 : 21;
    void *base = map_anonymous(mapped, MAP_HUGETLB | log2_bytes << MAP_HUGE_SHIFT);
    return base ? finish(region, base, mapped, kind, node) : -ENOMEM;
}

static int thp_is_enabled(void)
{
    char text[128];
    int n = ps_text_file_read("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text));
    return n > 0 && !strstr(text, "[never]");
}

static int map_thp(struct ps_region *region, size_t bytes, int node)
{
    if (!thp_is_enabled())
        return -ENOENT;

    /* The kernel aligns a mapping to base pages: take one huge page more and trim both ends. */
    size_t mapped = ps_align_up(bytes, BYTES_2M);
    char *raw = map_anonymous(mapped + BYTES_2M, 0);
    if (!raw)
        return -ENOMEM;
    char *base = (char *)ps_align_up((uintptr_t)raw, BYTES_2M);
    size_t head = (size_t)(base - raw);
    if (head > 0)
        munmap(raw, head);
    if (head < BYTES_2M)
        munmap(base + mapped, BYTES_2M - head);
    if (madvise(base, mapped, MADV_HUGEPAGE) < 0) {
        munmap(base, mapped);
        return -ENOENT;
    }
    return finish(region, base, mapped, PS_PAGE_THP, node);
}

static int map_plain(struct ps_region *region, size_t bytes, int node)
{
    size_t mapped = ps_align_up(bytes, (size_t)sysconf(_SC_PAGESIZE));
    void *base = map_anonymous(mapped, 0);
    return base ? finish(region, base, mapped, PS_PAGE_PLAIN, node) : -ENOMEM;
}

int ps_region_map(struct ps_region *region, size_t bytes, int node, struct ps_error *err)
{
    if (bytes == 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "memory", "A region of no bytes was asked for.");

    /* Half of the address space: rounding up below cannot overflow. */
    if (bytes <= SIZE_MAX / 2) {
        if (bytes % BYTES_1G == 0 && map_hugetlb(region, bytes, PS_PAGE_1G, node) == 0)
            return 0;
        if (bytes >= BYTES_2M && map_hugetlb(region, bytes, PS_PAGE_2M, node) == 0)
            return 0;
        /* The kernel promises more than it has, and then ends a process to keep its promise. */
        int fits = bytes < BYTES_2M || bytes <= ps_memory_obtainable_bytes();
        if (bytes >= BYTES_2M && fits && map_thp(region, bytes, node) == 0)
            return 0;
        if (fits && map_plain(region, bytes, node) == 0)
            return 0;
    }
    char size[32];
    return ps_error_set(err, -ENOMEM, "memory",
                        "The kernel did not give %s of memory; free some, or ask for less.",
                        ps_size_text_binary(bytes, size, sizeof(size)));
}

uint64_t ps_region_bytes(uint64_t bytes)
{
    return ps_align_up(bytes, bytes < BYTES_2M ? BYTES_4K : BYTES_2M);
}

int ps_region_reserve(struct ps_region *region, size_t bytes, struct ps_error *err)
{
    void *base = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (base == MAP_FAILED)
        return ps_error_set(err, -ENOMEM, "memory", "%zu bytes of addresses are not to be had",
                            bytes);
    *region = (struct ps_region){.base = base, .bytes = bytes, .kind = PS_PAGE_PLAIN, .node = -1};
    return 0;
}

void ps_region_unmap(struct ps_region *region)
{
    if (!region->base)
        return;
    munmap(region->base, region->bytes);
    if (region->kind == PS_PAGE_1G || region->kind == PS_PAGE_2M)
        atomic_fetch_sub(&hugetlb_now_bytes, region->bytes);
    memset(region, 0, sizeof(*region));
}

uint64_t ps_mem_hugetlb_bytes(void)
{
    return atomic_load(&hugetlb_now_bytes);
}

uint64_t ps_mem_hugetlb_peak_bytes(void)
{
    return atomic_load(&hugetlb_peak_bytes);
}

const char *ps_page_kind_name(enum ps_page_kind kind)
{
    static const char *const names[] = {"1 GiB pages", "2 MiB pages", "transparent huge pages",
                                        "plain pages"};
    return names[kind];
}

uint64_t ps_mem_hugetlb_free_bytes(void)
{
    static const char dir[] = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    char path[128];
    snprintf(path, sizeof(path), "%s/free_hugepages", dir);
    uint64_t free_count = ps_number_file_read(path, 0);
    /* Reserved pages count as free, but belong to mappings that have not touched them yet. */
    snprintf(path, sizeof(path), "%s/resv_hugepages", dir);
    uint64_t reserved_count = ps_number_file_read(path, 0);
    return free_count > reserved_count ? (free_count - reserved_count) * BYTES_2M : 0;
}
