#include "core/budget.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/internal.h"
#include "core/mem.h"
#include "core/util.h"

#define BYTES_1M ((uint64_t)1 << 20)

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char to_upper(char c)
{
    return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

/* The power of 1024 of a unit at *text, moved past it; 0 without a unit, -1 for an unknown one. */
static int unit_shift(const char **text)
{
    static const char letters[] = "KMGT";
    const char *p = *text;
    if (!*p)
        return 0;
    const char *found = strchr(letters, to_upper(*p));
    if (!found)
        return -1;
    p++;
    if (to_upper(p[0]) == 'I' && to_upper(p[1]) == 'B')
        p += 2;
    else if (to_upper(p[0]) == 'B')
        p++;
    *text = p;
    return 10 * (int)(found - letters + 1);
}

static int size_error(struct ps_error *err, const char *text, const char *what)
{
    return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                        "\"%.64s\" is not a size: %s; write for example 4096, 512M, 24G or 1.5G.",
                        text, what);
}

/* No strtod: its decimal point depends on the locale, and a double loses bytes beyond 2^53. */
int ps_size_parse(const char *text, uint64_t *bytes, struct ps_error *err)
{
    const char *p = text;
    uint64_t whole = 0, fraction = 0, fraction_unit = 1;
    if (!is_digit(*p))
        return size_error(err, text, "it does not begin with a digit");
    for (; is_digit(*p); p++) {
        if (__builtin_mul_overflow(whole, 10u, &whole) ||
            __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
            return size_error(err, text, "it is too large");
    }
    int has_fraction = *p == '.';
    if (has_fraction && !is_digit(*++p))
        return size_error(err, text, "no digit follows the point");
    for (; has_fraction && is_digit(*p); p++) {
        if (fraction_unit < 1000000) { /* finer digits are less than a byte of most units */
            fraction = fraction * 10 + (uint64_t)(*p - '0');
            fraction_unit *= 10;
        }
    }
    int shift = unit_shift(&p);
    if (shift < 0 || *p)
        return size_error(err, text, "its unit is not one of K, M, G and T");
    if (has_fraction && shift == 0)
        return size_error(err, text, "a byte has no fractions");
    if (whole > UINT64_MAX >> shift)
        return size_error(err, text, "it is too large");
    uint64_t sum;
    if (__builtin_add_overflow(whole << shift, (fraction << shift) / fraction_unit, &sum))
        return size_error(err, text, "it is too large");
    *bytes = sum;
    return 0;
}

static const char *size_text(uint64_t bytes, double base, const char *const units[5], int digits,
                             char *buf, size_t buf_bytes)
{
    if ((double)bytes < base) {
        snprintf(buf, buf_bytes, "%llu B", (unsigned long long)bytes);
        return buf;
    }
    /* What would be rounded up to 1000.0 kB is written 1.0 MB. */
    double value = (double)bytes / base;
    int unit = 1;
    for (; unit < 4 && value >= base - (digits == 1 ? 0.05 : 0.005); unit++)
        value /= base;
    snprintf(buf, buf_bytes, "%.*f %s", digits, value, units[unit]);
    return buf;
}

const char *ps_size_text(uint64_t bytes, char *buf, size_t buf_bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    return size_text(bytes, 1000, units, 1, buf, buf_bytes);
}

const char *ps_size_text_binary(uint64_t bytes, char *buf, size_t buf_bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    return size_text(bytes, 1024, units, 2, buf, buf_bytes);
}

int ps_text_file_read(const char *path, char *buf, int buf_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int len = 0;
    for (;;) {
        ssize_t n = read(fd, buf + len, (size_t)(buf_bytes - 1 - len));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            len = -errno;
        if (n <= 0)
            break;
        len += (int)n;
    }
    close(fd);
    buf[len > 0 ? len : 0] = '\0';
    return len;
}

uint64_t ps_number_file_read(const char *path, uint64_t fallback)
{
    char text[64];
    if (ps_text_file_read(path, text, sizeof(text)) <= 0 || !is_digit(text[0]))
        return fallback;
    return strtoull(text, NULL, 10);
}

uint64_t ps_keyed_number(const char *text, const char *key)
{
    size_t key_len = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, key_len) != 0)
            continue;
        if (line[key_len] == ' ' || line[key_len] == ':')
            return strtoull(line + key_len + 1, NULL, 10);
    }
    return 0;
}

static uint64_t kib_of_file(const char *path, const char *key)
{
    char text[8192];
    if (ps_text_file_read(path, text, sizeof(text)) <= 0)
        return 0;
    return ps_keyed_number(text, key) * 1024;
}

uint64_t ps_rss_bytes(void)
{
    return kib_of_file("/proc/self/status", "VmRSS");
}

uint64_t ps_rss_peak_bytes(void)
{
    return kib_of_file("/proc/self/status", "VmHWM");
}

uint64_t ps_memory_obtainable_bytes(void)
{
    char text[8192];
    if (ps_text_file_read("/proc/meminfo", text, sizeof(text)) <= 0)
        return UINT64_MAX;
    return (ps_keyed_number(text, "MemAvailable") + ps_keyed_number(text, "SwapFree")) * 1024;
}

uint64_t ps_budget_cgroup_bytes(void)
{
    return ps_cgroup_left_bytes("");
}

uint64_t ps_budget_default_bytes(void)
{
    uint64_t left = kib_of_file("/proc/meminfo", "MemAvailable") + ps_mem_hugetlb_free_bytes();
    left = ps_min_u64(left, ps_budget_cgroup_bytes());
    uint64_t reserve = ps_min_u64(ps_max_u64(left / 16, 256 * BYTES_1M), left / 2);
    /* Nothing left at all still gives a ceiling: the floor is then what does not fit under it. */
    return ps_max_u64(left - reserve, BYTES_1M);
}
