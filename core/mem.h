/* Memory regions in hugepages, bound to a NUMA node, faulted in when mapped. */
#ifndef PENSTOCK_CORE_MEM_H
#define PENSTOCK_CORE_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

enum ps_page_kind {
    PS_PAGE_1G,   /* hugetlb, 1 GiB */
    PS_PAGE_2M,   /* hugetlb, the default huge page size (2 MiB on x86-64) */
    PS_PAGE_THP,  /* plain mapping aligned to 2 MiB with MADV_HUGEPAGE */
    PS_PAGE_PLAIN /* base pages */
};

/* A mapping. Owned by whoever mapped it; plain data, but only one copy may be unmapped. */
struct ps_region {
    void *base;   /* aligned to page_bytes; NULL = nothing mapped */
    size_t bytes; /* mapped length, a multiple of the page size: at least what was asked for */
    enum ps_page_kind kind;
    int node; /* kernel node number it is bound to, PS_NODE_INTERLEAVE, or -1 */
};

/* Pages on all nodes in turn, for what every node's threads use. */
#define PS_NODE_INTERLEAVE (-2)

/*
 * Maps at least `bytes` (> 0) zeroed bytes, bound to `node` (-1: no binding, PS_NODE_INTERLEAVE: on
 * all nodes in turn, which a machine with one node takes as -1), every page present on return
 * (MADV_POPULATE_WRITE, so lack of memory is an error here and not a signal later).
 *
 * Tries 1 GiB pages (only when they waste nothing: bytes a multiple of 1 GiB), then 2 MiB pages
 * (libhugetlbfs tells the sizes), then transparent huge pages, then plain pages, quietly: look at
 * region->kind. Regions under 2 MiB go straight to plain pages. Hugetlb pages are bound strictly;
 * the other kinds prefer the node, and spill over to another rather than end the process. Where the
 * kernel refuses to bind, region->node is -1 and the memory is good.
 *
 * *region is written only on success. Errors: -ENOMEM (text says how much was asked for),
 * -PS_ERR_ARGUMENT (no bytes). Thread-safe. May block while pages are cleared.
 */
int ps_region_map(struct ps_region *region, size_t bytes, int node, struct ps_error *err);

/* Addresses without memory behind them, which nobody may read or write. As ps_region_map. */
int ps_region_reserve(struct ps_region *region, size_t bytes, struct ps_error *err);

/* What a region of so many bytes comes to at most: whole 2 MiB pages from 2 MiB on, else 4 KiB
 * pages. */
uint64_t ps_region_bytes(uint64_t bytes);

/* Unmaps and zeroes *region. A region that is not mapped is left alone. */
void ps_region_unmap(struct ps_region *region);

/* Bytes in hugetlb pages that this process has mapped through ps_region_map, now and at most. */
uint64_t ps_mem_hugetlb_bytes(void);
uint64_t ps_mem_hugetlb_peak_bytes(void);

/* "1 GiB pages", "2 MiB pages", "transparent huge pages", "plain pages". */
const char *ps_page_kind_name(enum ps_page_kind kind);

/* Free 2 MiB hugetlb pages on this machine, in bytes; 0 where there are none. */
uint64_t ps_mem_hugetlb_free_bytes(void);

#endif
