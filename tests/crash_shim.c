#include "crash_shim.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define SECTOR_BYTES 512u

struct shim shim;

/* A write that was issued and not flushed yet. */
struct pending {
    struct pending *next;
    int fd;
    off_t offset;
    size_t bytes;
    uint8_t data[];
};

static struct pending *first;
static struct pending **last = &first;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

ssize_t __real_pwrite(int fd, const void *buf, size_t bytes, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t bytes, off_t offset);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);
int __real_fallocate(int fd, int mode, off_t offset, off_t bytes);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t bytes);
int __real_ftruncate(int fd, off_t bytes);
int __wrap_ftruncate(int fd, off_t bytes);

static uint64_t random_next(void)
{
    shim.seed = shim.seed * 6364136223846793005u + 1442695040888963407u;
    return shim.seed >> 33;
}

/* Through a descriptor of its own: sectors are smaller than what O_DIRECT takes. */
static void apply(const struct pending *p, bool torn)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", p->fd);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        abort();
    size_t step_bytes = torn ? SECTOR_BYTES : p->bytes;
    for (size_t at = 0; at < p->bytes; at += step_bytes) {
        size_t bytes = p->bytes - at < step_bytes ? p->bytes - at : step_bytes;
        if (torn && random_next() % 2 == 0)
            continue;
        if (__real_pwrite(fd, p->data + at, bytes, p->offset + (off_t)at) != (ssize_t)bytes)
            abort();
    }
    close(fd);
}

static void apply_flushed(int fd)
{
    struct pending **link = &first;
    while (*link != NULL) {
        struct pending *p = *link;
        if (p->fd != fd) {
            link = &p->next;
            continue;
        }
        apply(p, false);
        *link = p->next;
        free(p);
    }
    last = link;
}

static void cut_power(void)
{
    for (const struct pending *p = first; p != NULL; p = p->next) {
        uint64_t fate = random_next() % 3;
        if (fate != 0)
            apply(p, fate == 2);
    }
    _exit(SHIM_POWER_EXIT);
}

/* Counts a call; true when it must fail. Called with the lock held. */
static bool step(void)
{
    shim.count++;
    bool now = shim.count == shim.call;
    if (now && shim.mode == SHIM_KILL)
        kill(getpid(), SIGKILL);
    if (now && shim.mode == SHIM_POWER)
        cut_power();
    errno = shim.fail_errno;
    return (now && shim.mode == SHIM_FAIL_ONCE) ||
           (shim.mode == SHIM_FAIL_EVER && shim.count >= shim.call);
}

ssize_t __wrap_pwrite(int fd, const void *buf, size_t bytes, off_t offset)
{
    pthread_mutex_lock(&lock);
    ssize_t rc = -1;
    if (!step()) {
        if (shim.mode == SHIM_POWER) {
            struct pending *p = malloc(sizeof(*p) + bytes);
            if (p == NULL)
                abort();
            *p = (struct pending){.fd = fd, .offset = offset, .bytes = bytes};
            memcpy(p->data, buf, bytes);
            *last = p;
            last = &p->next;
            rc = (ssize_t)bytes;
        } else {
            rc = __real_pwrite(fd, buf, bytes, offset);
        }
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

static int flush(int fd)
{
    pthread_mutex_lock(&lock);
    shim.flush_count++;
    if (shim.mode == SHIM_POWER && shim.flush_count == shim.flush)
        cut_power();
    int rc = step() ? -1 : 0;
    if (rc == 0)
        apply_flushed(fd);
    pthread_mutex_unlock(&lock);
    return rc;
}

int __wrap_fdatasync(int fd)
{
    return flush(fd);
}

int __wrap_fsync(int fd)
{
    return flush(fd);
}

int __wrap_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    pthread_mutex_lock(&lock);
    int rc = step() ? -1 : __real_fallocate(fd, mode, offset, bytes);
    pthread_mutex_unlock(&lock);
    return rc;
}

int __wrap_ftruncate(int fd, off_t bytes)
{
    pthread_mutex_lock(&lock);
    int rc = step() ? -1 : __real_ftruncate(fd, bytes);
    pthread_mutex_unlock(&lock);
    return rc;
}
