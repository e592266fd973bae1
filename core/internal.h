/* Parts of core that only core and its tests see. */
#ifndef PENSTOCK_CORE_INTERNAL_H
#define PENSTOCK_CORE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "core/cpu.h"

/* The registers that decide the CPU level; all zero where CPUID or XGETBV does not offer them. */
struct ps_cpu_bits {
    uint32_t leaf1_ecx; /* CPUID leaf 1 */
    uint32_t leaf7_ebx; /* CPUID leaf 7, subleaf 0 */
    uint32_t leaf7_ecx;
    uint32_t leaf7_edx;
    uint32_t extended_ecx; /* CPUID leaf 0x80000001 */
    bool tiles_granted;    /* by the kernel to this process */
    uint64_t xcr0;         /* which register state the kernel saves; 0 without OSXSAVE */
};

/* The level that *bits allow, lowered by `limit` (a level's name; NULL or an unknown name: none).
 */
enum ps_cpu_level ps_cpu_level_decide(const struct ps_cpu_bits *bits, const char *limit);

/*
 * ps_budget_cgroup_bytes() with every path prefixed by `root` ("" for the real system), so that
 * tests can offer made-up /proc/self/{cgroup,mountinfo} files and cgroup trees.
 */
uint64_t ps_cgroup_left_bytes(const char *root);

/*
 * Reads one small text file whole: at most buf_bytes - 1 bytes, always terminated. Returns the
 * length, or -errno. Never blocks on files of /proc, /sys or a cgroup tree.
 */
int ps_text_file_read(const char *path, char *buf, int buf_bytes);

/* The unsigned number in a one-line file, or `fallback` where there is none. */
uint64_t ps_number_file_read(const char *path, uint64_t fallback);

/* The number after `key` and a blank or colon at the start of a line of `text`; 0 if there is none.
 */
uint64_t ps_keyed_number(const char *text, const char *key);

/*
 * What the kernel thinks it could still give to programs in base pages, swap included, by
 * /proc/meminfo. UINT64_MAX if unreadable.
 */
uint64_t ps_memory_obtainable_bytes(void);

/*
 * Makes every page of [base, base + bytes) present and writable through read(2) from /dev/zero,
 * which reports lack of memory where a store would raise SIGBUS: for kernels before 5.14, which
 * have no MADV_POPULATE_WRITE. Contents become zero. Returns 0 or -errno.
 */
int ps_populate_by_read(void *base, uint64_t bytes);

#endif
