/* Shared by the test programs: cmocka with its prerequisites, temporary folders, skipping. */
#ifndef PENSTOCK_TESTS_UTIL_H
#define PENSTOCK_TESTS_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"

/*
 * Ends the program as skipped, when it lacks a device, a privilege, a CPU level or a data file. For
 * main(), before any test has run: what was tested already must not be reported as skipped.
 */
#define PS_SKIP(...)                                                                               \
    do {                                                                                           \
        printf("SKIP: ");                                                                          \
        printf(__VA_ARGS__);                                                                       \
        printf("\n");                                                                              \
        fflush(stdout);                                                                            \
        _exit(77);                                                                                 \
    } while (0)

/* Skips one cmocka test of several. */
#define PS_SKIP_ONE(...)                                                                           \
    do {                                                                                           \
        printf("SKIP: ");                                                                          \
        printf(__VA_ARGS__);                                                                       \
        printf("\n");                                                                              \
        skip();                                                                                    \
    } while (0)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PS_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PS_TEST_SANITIZED 1
#endif
#endif
#ifndef PS_TEST_SANITIZED
#define PS_TEST_SANITIZED 0
#endif

/*
 * Makes a folder for temporary files and writes its path into buf. Not under /tmp: that may be in
 * memory, where O_DIRECT does not work.
 */
static inline void ps_test_dir_make(char *buf, size_t buf_bytes)
{
    const char *parent = getenv("TMPDIR");
    snprintf(buf, buf_bytes, "%s/penstock-test-XXXXXX", parent && *parent ? parent : "/var/tmp");
    if (!mkdtemp(buf))
        fail_msg("mkdtemp(%s): %s", buf, strerror(errno));
}

static inline int ps_test_remove_one(const char *path, const struct stat *st, int type,
                                     struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

/* Removes a folder and everything in it. */
static inline void ps_test_dir_remove(const char *dir)
{
    (void)nftw(dir, ps_test_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Writes a file of `bytes` bytes at dir/name, with the folders in between. */
static inline void ps_test_file_write(const char *dir, const char *name, const void *data,
                                      size_t bytes)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    for (char *p = path + strlen(dir) + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = '\0';
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
            fail_msg("mkdir(%s): %s", path, strerror(errno));
    }
    FILE *file = fopen(path, "we");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0)
        fail_msg("write(%s): %s", path, strerror(errno));
}

/* For ps_log_set where every read is made to fail: says nothing unless PS_TEST_VERBOSE is set. */
static inline void ps_test_log(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx;
    (void)level;
    if (getenv("PS_TEST_VERBOSE"))
        printf("log: %s\n", text);
}

#endif
