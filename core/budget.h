/* What this process may hold, and what it holds: sizes, limits, resident set. */
#ifndef PENSTOCK_CORE_BUDGET_H
#define PENSTOCK_CORE_BUDGET_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

/*
 * Parses "4096", "512K", "24G", "1.5G" (K, M, G, T = powers of 1024; upper or lower case; an
 * optional "iB" or "B" after the letter). Returns 0, or -PS_ERR_ARGUMENT with a sentence.
 */
int ps_size_parse(const char *text, uint64_t *bytes, struct ps_error *err);

/* "1.7 GB" style decimal text for people, as drives are sold. Returns buf. */
const char *ps_size_text(uint64_t bytes, char *buf, size_t buf_bytes);

/* "1.65 GiB" style binary text for people, as memory is sold. Returns buf. */
const char *ps_size_text_binary(uint64_t bytes, char *buf, size_t buf_bytes);

/*
 * The default ceiling: the least of physical memory that is available now (MemAvailable plus free
 * hugetlb pages) and what the tightest memory cgroup (v1 or v2, every ancestor looked at) leaves,
 * less a reserve for the rest of the system (1/16, at least 256 MiB, at most half). > 0.
 */
uint64_t ps_budget_default_bytes(void);

/*
 * The tightest cgroup memory limit less what is used already (cold file cache not counted), or
 * UINT64_MAX where there is none.
 */
uint64_t ps_budget_cgroup_bytes(void);

/* VmRSS and VmHWM of this process in bytes (hugetlb pages are not in them). 0 if unreadable. */
uint64_t ps_rss_bytes(void);
uint64_t ps_rss_peak_bytes(void);

#endif
