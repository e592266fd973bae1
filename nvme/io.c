#include "nvme/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/penstock_io.h"

/* io_uring reports -EAGAIN for want of request structures; more tries than this are no accident. */
#define RETRY_COUNT_MAX 64u

/* ---- names ----------------------------------------------------------------------------------- */

static const struct ps_io_ops *const engines[] = {&ps_io_uring, &ps_io_passthru, &ps_io_pread,
                                                  &ps_io_pagecache, &ps_io_mmap};

/* Moves *text behind `word` if it begins with that. */
static bool take(const char **text, const char *word)
{
    size_t length = strlen(word);
    bool is_there = strncmp(*text, word, length) == 0;

    *text += is_there ? length : 0;
    return is_there;
}

bool ps_io_engine_parse(const char *name, struct ps_io_engine *engine)
{
    struct ps_io_engine e = {.ops = NULL};

    if (take(&name, "fault:")) {
        e.faults = name;
        e.faults_bytes = strcspn(name, ":");
        name += e.faults_bytes;
        if (!take(&name, ":") || !ps_io_faults_known(e.faults, e.faults_bytes))
            return false;
    }
    for (size_t i = 0; i < PS_ARRAY_LEN(engines) && !e.ops; i++) {
        if (take(&name, engines[i]->id))
            e.ops = engines[i];
    }
    if (e.ops == &ps_io_uring || e.ops == &ps_io_passthru) {
        e.iopoll = take(&name, "+iopoll");
        e.sqpoll = take(&name, "+sqpoll");
    }
    if (!e.ops || *name != '\0')
        return false;
    *engine = e;
    return true;
}

bool ps_io_engine_known(const char *name)
{
    struct ps_io_engine engine;
    return ps_io_engine_parse(name, &engine);
}

const char *ps_io_engine_names(void)
{
    return "uring, passthru, pread, pagecache and mmap (+iopoll and +sqpoll with the first two)";
}

bool ps_store_engine_known(const char *name)
{
    return ps_io_engine_known(name);
}

const char *ps_store_engine_names(void)
{
    return ps_io_engine_names();
}

/* What is tried in place of an engine that is refused; NULL: nothing. */
static const struct ps_io_ops *next_best(const struct ps_io_ops *ops)
{
    if (ops == &ps_io_passthru)
        return &ps_io_uring;
    return ops == &ps_io_uring ? &ps_io_pread : NULL;
}

uint64_t ps_io_memory_bytes(const char *engine, int member_count, uint32_t depth)
{
    struct ps_io_engine e;
    uint64_t bytes = 0;

    if (!ps_io_engine_parse(engine, &e))
        return 0;
    for (const struct ps_io_ops *ops = e.ops; ops; ops = next_best(ops))
        bytes = ps_max_u64(bytes, ops->memory_bytes(member_count, depth));
    return bytes + (e.faults ? ps_io_fault.memory_bytes(member_count, depth) : 0);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int check_config(const struct ps_io_config *config, struct ps_io_engine *engine,
                        struct ps_error *err)
{
    if (!ps_io_engine_parse(config->engine, engine))
        return ps_error_set(err, -PS_ERR_ARGUMENT, "io", "'%s' is not an I/O engine; there are %s",
                            config->engine, ps_io_engine_names());
    if (config->depth < 1 || config->depth > PS_IO_DEPTH_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "io",
                            "a queue depth of %u is not possible; it may be 1 to %u", config->depth,
                            PS_IO_DEPTH_MAX);
    return 0;
}

/*
 * Takes out of *engine what could not be had. Old kernels, containers and the sysctl
 * kernel.io_uring_disabled refuse io_uring; drives, partitions of other buses and missing
 * privileges refuse passthrough. All of them leave a way to read the same bytes.
 */
static bool fall_back(struct ps_io_engine *engine, const struct ps_error *reason)
{
    bool no_uring = strcmp(reason->where, PS_IO_URING_WHERE) == 0;
    const struct ps_io_ops *next = next_best(engine->ops);

    if (engine->iopoll && strcmp(reason->where, PS_IO_POLL_WHERE) == 0) {
        ps_log(PS_LOG_WARN, "%s cannot poll (%s): waiting for interrupts instead", engine->ops->id,
               reason->text);
        engine->iopoll = false;
        return true;
    }
    if (!next || (!no_uring && strcmp(reason->where, PS_IO_PASSTHRU_WHERE) != 0))
        return false;
    if (next == &ps_io_uring)
        ps_log(PS_LOG_WARN, "NVMe passthrough cannot be used (%s): reading with --io uring instead",
               reason->text);
    else
        ps_log(PS_LOG_WARN,
               "io_uring cannot be used (%s): reading with threads instead, as --io pread does",
               reason->text);
    engine->ops = next;
    return true;
}

int ps_io_engine_open(struct ps_io **out, const struct ps_io_config *config,
                      const struct ps_io_engine *engine, struct ps_error *err)
{
    struct ps_io_engine e = *engine;
    struct ps_error reason;
    int rc;

    do {
        reason = (struct ps_error){.code = 0};
        rc = e.ops->open(out, config, &e, &reason);
    } while (rc < 0 && fall_back(&e, &reason));
    if (rc < 0 && err)
        *err = reason;
    return rc;
}

int ps_io_open(struct ps_io **out, const struct ps_io_config *config, struct ps_error *err)
{
    struct ps_io_engine engine;
    int rc = check_config(config, &engine, err);

    if (rc < 0)
        return rc;
    return engine.faults ? ps_io_fault.open(out, config, &engine, err)
                         : ps_io_engine_open(out, config, &engine, err);
}

uint32_t ps_io_close(struct ps_io **io)
{
    if (!io || !*io)
        return 0;
    uint32_t left = (*io)->ops->close(*io);
    *io = NULL;
    return left;
}

void ps_io_log_left(uint32_t count)
{
    ps_log(PS_LOG_WARN,
           "%u read%s not come back within %u s of closing and %s left to the kernel: a drive "
           "hangs or is very slow; look at the kernel's log (dmesg)",
           count, count == 1 ? " has" : "s have", (unsigned)(PS_IO_CLOSE_WAIT_NS / 1000000000u),
           count == 1 ? "is" : "are");
}

/* ---- descriptors ----------------------------------------------------------------------------- */

/* Through /proc it is the same inode whatever has happened to the path; flags of a duplicate would
 * be shared with the original. */
static int reopen(int fd, int flags)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int again = open(path, O_RDONLY | O_CLOEXEC | flags);
    return again >= 0 ? again : -errno;
}

/* Some file systems accept O_DIRECT at open and refuse the reads. */
static bool direct_works(int fd)
{
    _Alignas(PS_IO_ALIGN_BYTES) uint8_t block[PS_IO_ALIGN_BYTES];
    return pread(fd, block, sizeof(block), 0) >= 0 || errno != EINVAL;
}

static int open_error(int code, const char *name, struct ps_error *err)
{
    return ps_error_set(err, code, name, "the member could not be opened again: %s",
                        ps_strerror(code));
}

static int open_file(struct ps_io_file *file, int from, const char *name, bool direct,
                     struct ps_error *err)
{
    if (fcntl(from, F_GETFD) < 0)
        return open_error(-errno, name, err);
    if (direct) {
        int fd = reopen(from, O_DIRECT);
        if (fd >= 0 && direct_works(fd)) {
            *file = (struct ps_io_file){.fd = fd, .direct = true};
            return 0;
        }
        if (fd >= 0)
            close(fd);
        else if (fd != -EINVAL && fd != -EOPNOTSUPP && fd != -ENOENT)
            return open_error(fd, name, err);
        ps_log(PS_LOG_WARN,
               "%s: O_DIRECT is refused here, so reads go through the page cache, which is slower "
               "and needs memory; move the volume to ext4, XFS or a partition",
               name);
    }
    int fd = reopen(from, 0);
    if (fd == -ENOENT) { /* no /proc here */
        fd = fcntl(from, F_DUPFD_CLOEXEC, 0);
        fd = fd < 0 ? -errno : fd;
    }
    if (fd < 0)
        return open_error(fd, name, err);
    *file = (struct ps_io_file){.fd = fd, .direct = false};
    return 0;
}

int ps_io_files_open(struct ps_io_file *files, const struct ps_io_config *config, bool direct,
                     struct ps_error *err)
{
    for (int i = 0; i < config->member_count; i++)
        files[i] = (struct ps_io_file){.fd = -1};
    for (int i = 0; i < config->member_count; i++) {
        if (config->fds[i] == -1)
            continue;
        int rc = open_file(&files[i], config->fds[i], config->names[i], direct, err);
        if (rc < 0) {
            ps_io_files_close(files, config->member_count);
            return rc;
        }
    }
    return 0;
}

void ps_io_files_close(struct ps_io_file *files, int count)
{
    for (int i = 0; i < count; i++) {
        if (files[i].fd >= 0)
            close(files[i].fd);
        files[i].fd = -1;
    }
}

bool ps_io_files_direct(const struct ps_io_file *files, int count)
{
    for (int i = 0; i < count; i++) {
        if (files[i].fd >= 0 && !files[i].direct)
            return false;
    }
    return true;
}

/* ---- requests -------------------------------------------------------------------------------- */

bool ps_io_part_step(struct ps_io_part *part, int64_t result, bool direct, int32_t *final)
{
    uint32_t bytes = part->request.bytes;

    if (result == -EINTR || result == -EAGAIN) {
        *final = (int32_t)result;
        return ++part->retry_count > RETRY_COUNT_MAX;
    }
    if (result < 0) {
        *final = (int32_t)result;
        return true;
    }
    uint32_t done = part->begin + (uint32_t)result;
    bool ended = done <= part->done;
    if (!ended)
        part->done = done;
    if (ended || part->done >= bytes) {
        *final = (int32_t)part->done;
        return true;
    }
    /* O_DIRECT takes aligned offsets only, so what follows the last whole block is read once more;
     * at the end of the file that brings nothing new, and the request ends. */
    part->begin = direct ? part->done & ~(PS_IO_ALIGN_BYTES - 1) : part->done;
    return false;
}
