/*
 * The passthrough engine: NVMe read commands through io_uring to the namespace's character device,
 * past the block layer and file systems (linux/nvme_ioctl.h, NVME_URING_CMD_IO). Neither splits a
 * request for us nor keeps it inside a partition, so both happen here. The ring accepts nothing but
 * such commands, which the kernel cannot tell apart further; the descriptor is open for reading
 * only, and kernels from 6.2 on refuse commands that write through it unless we are root.
 */
#include <assert.h>
#include <errno.h>
#include <linux/nvme_ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/io_ring.h"
#include "nvme/namespace.h"
#include "nvme/nvme_command.h"

#define RING_FLAGS (IORING_SETUP_SQE128 | IORING_SETUP_CQE32)
/* Commands in flight per member: enough at the smallest transfer size to keep any drive busy. */
#define COMMAND_COUNT_MAX 128u
/* As for reads in io.c: the kernel cancels commands (-EINTR) when it resets a controller. */
#define RETRY_COUNT_MAX 64u
#define NONE UINT32_MAX

/* A request on its way. */
struct read {
    struct ps_io_request request;
    uint32_t end;    /* bytes of it that the member has */
    uint32_t issued; /* of them, given to commands */
    uint32_t command_count;
    int32_t error; /* the first */
    uint32_t next; /* in the member's queue, in the list of finished ones, or of free ones */
};

/* Part of a read, in one command or, where that proved too long, in several after each other. */
struct command {
    uint32_t read, retry_count;
    uint32_t begin, end; /* in the request; begin moves on */
    uint32_t bytes;      /* of the command in flight */
    bool is_fixed;       /* it names a registered buffer */
    bool without_fixed;  /* after a refusal: once more without */
    uint32_t next;       /* in the list of free ones */
};

struct list {
    uint32_t first, last;
};

struct member {
    struct ps_namespace ns; /* fd -1: not there */
    struct list queue;      /* of reads that are not issued in full */
    uint32_t command_count; /* in flight */
    uint32_t command_count_max;
    uint32_t bytes_max;       /* of a command, into huge pages */
    uint32_t bytes_max_plain; /* into others */
    bool has_failed;          /* and said so */
    char name[128];
};

struct passthru {
    struct ps_io io;
    struct ps_ring ring;
    int member_count;
    bool uses_fixed; /* the kernel takes registered buffers here */
    bool is_closing;
    uint32_t in_flight;     /* reads that have not been handed back */
    uint32_t command_count; /* in flight */
    struct member *members;
    struct read *reads;       /* [capacity] */
    struct command *commands; /* [member_count * COMMAND_COUNT_MAX] */
    uint32_t free_read, free_command;
    struct list finished;
};

static void list_add(struct passthru *p, struct list *list, uint32_t read_idx)
{
    p->reads[read_idx].next = NONE;
    if (list->first == NONE)
        list->first = read_idx;
    else
        p->reads[list->last].next = read_idx;
    list->last = read_idx;
}

static void list_drop_first(struct passthru *p, struct list *list)
{
    list->first = p->reads[list->first].next;
}

/* ---- commands -------------------------------------------------------------------------------- */

static void prepare_read(struct io_uring_sqe *sqe, int member_idx, const struct ps_namespace *ns,
                         void *buf, uint32_t bytes, uint64_t offset, int buffer)
{
    uint64_t block = (ns->begin_bytes + offset) / ns->block_bytes;
    struct nvme_uring_cmd command = {
        .opcode = PS_NVME_READ,
        .nsid = ns->nsid,
        .addr = (uintptr_t)buf,
        .data_len = bytes,
        .cdw10 = (uint32_t)block,
        .cdw11 = (uint32_t)(block >> 32),
        .cdw12 = bytes / ns->block_bytes - 1, /* counts from 0 */
    };

    memset(sqe, 0, 2 * sizeof(*sqe));
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->fd = member_idx;
    sqe->cmd_op = NVME_URING_CMD_IO;
    if (buffer >= 0) {
        sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
        sqe->buf_index = (uint16_t)buffer;
    }
    memcpy(sqe->cmd, &command, sizeof(command));
}

static uint32_t command_bytes(const struct member *member, const struct ps_ring_buffer *buffer,
                              uint32_t left_bytes)
{
    uint32_t most = buffer && buffer->is_huge ? member->bytes_max : member->bytes_max_plain;
    return (uint32_t)ps_min_u64(most, left_bytes);
}

/* Sends the next part of the command's range. */
static void send_next(struct passthru *p, uint32_t command_idx, const struct ps_ring_buffer *buffer)
{
    struct command *command = &p->commands[command_idx];
    const struct ps_io_request *rq = &p->reads[command->read].request;
    const struct member *member = &p->members[rq->member];
    struct io_uring_sqe *sqe = ps_ring_sqe(&p->ring);

    /* The ring has an entry for every command, and each is in it at most once. */
    command->bytes = command_bytes(member, buffer, command->end - command->begin);
    command->is_fixed = p->uses_fixed && !command->without_fixed && buffer && buffer->index >= 0;
    prepare_read(sqe, (int)rq->member, &member->ns, (uint8_t *)rq->buf + command->begin,
                 command->bytes, rq->offset + command->begin,
                 command->is_fixed ? buffer->index : -1);
    sqe->user_data = command_idx;
}

static const struct ps_ring_buffer *buffer_of(const struct passthru *p, const struct read *read)
{
    return ps_ring_buffer_find(&p->ring, read->request.buf, read->request.bytes);
}

/* Gives commands to the member's reads, first come, first served, while it may have more. */
static void issue(struct passthru *p, struct member *member)
{
    while (member->queue.first != NONE && member->command_count < member->command_count_max &&
           !p->is_closing) {
        uint32_t read_idx = member->queue.first, command_idx = p->free_command;
        struct read *read = &p->reads[read_idx];
        struct command *command = &p->commands[command_idx];
        const struct ps_ring_buffer *buffer = buffer_of(p, read);
        uint32_t bytes = command_bytes(member, buffer, read->end - read->issued);

        p->free_command = command->next;
        *command =
            (struct command){.read = read_idx, .begin = read->issued, .end = read->issued + bytes};
        read->issued += bytes;
        read->command_count++;
        member->command_count++;
        p->command_count++;
        send_next(p, command_idx, buffer);
        if (read->issued == read->end)
            list_drop_first(p, &member->queue);
    }
}

/* How much of a request its member has: whole blocks, since that is what a device consists of. */
static void begin_read(struct passthru *p, uint32_t read_idx, const struct ps_io_request *request)
{
    struct member *member = &p->members[request->member];
    const struct ps_namespace *ns = &member->ns;
    uint64_t there = request->offset < ns->bytes ? ns->bytes - request->offset : 0;
    struct read *read = &p->reads[read_idx];

    *read = (struct read){.request = *request, .next = NONE};
    if (ns->fd < 0)
        read->error = -ENODEV;
    else if (request->offset % ns->block_bytes != 0 || request->bytes % ns->block_bytes != 0)
        read->error = -EINVAL; /* as O_DIRECT does on drives with blocks over 4096 bytes */
    else
        read->end = (uint32_t)ps_min_u64(request->bytes, there);
    list_add(p, read->end > 0 ? &member->queue : &p->finished, read_idx);
    issue(p, member);
}

static uint32_t passthru_submit(struct ps_io *io, const struct ps_io_request *requests,
                                uint32_t count)
{
    struct passthru *p = (struct passthru *)io;
    uint32_t n = 0;

    for (; n < count && p->free_read != NONE; n++) {
        uint32_t read_idx = p->free_read;
        assert(requests[n].member < (uint32_t)p->member_count);
        p->free_read = p->reads[read_idx].next;
        begin_read(p, read_idx, &requests[n]);
    }
    p->in_flight += n;
    if (io_uring_sq_ready(&p->ring.uring) > 0)
        ps_ring_wait(&p->ring, 0);
    return n;
}

/* ---- completions ----------------------------------------------------------------------------- */

/* Halves the commands of a member that refused one of this length; false: they are short enough. */
static bool shorten(struct member *member, uint32_t bytes)
{
    uint32_t unit = (uint32_t)ps_max_u64(member->ns.block_bytes, PS_IO_ALIGN_BYTES);
    uint32_t half = bytes / 2 / unit * unit;

    if (half == 0)
        return false;
    if (half < member->bytes_max_plain)
        member->bytes_max_plain = half;
    /* Several refusals of one length may come back after each other: one line is enough. */
    if (half < member->bytes_max) {
        member->bytes_max = half;
        ps_log(PS_LOG_INFO,
               "%s: the kernel refuses a read command of %u bytes; %u are read at once from now on",
               member->name, bytes, half);
    }
    return true;
}

/*
 * A refusal (-EINVAL) has one of two reasons. Kernels before 6.12 count all pages of a registered
 * buffer against the limit of a command, however little of it is meant, so the command goes out
 * once more without; if that works, so do the others from now on. If not, it is too long: the
 * kernel takes fewer stretches of memory than the buffer has, or the drive's limit is not what
 * sysfs says.
 */
static bool yield(struct member *member, struct command *command)
{
    if (command->is_fixed) {
        command->without_fixed = true;
        return true;
    }
    command->without_fixed = false;
    return shorten(member, command->bytes);
}

static void note_success(struct passthru *p, const struct command *command)
{
    if (!command->without_fixed || !p->uses_fixed)
        return;
    ps_log(PS_LOG_INFO, "this kernel takes no long registered buffers for NVMe commands; a newer "
                        "one (6.12) reads with less CPU");
    p->uses_fixed = false;
    p->io.registered = false;
}

static int32_t to_errno(struct member *member, int32_t result)
{
    if (result <= 0)
        return result;
    if (!member->has_failed)
        ps_log(PS_LOG_WARN, "%s: a read command failed with NVMe status type 0x%x, code 0x%02x",
               member->name, PS_NVME_STATUS_TYPE(result), PS_NVME_STATUS_CODE(result));
    member->has_failed = true;
    return ps_nvme_errno(result);
}

/* Books the end of a command's range; the read is finished with its last one. */
static void end_command(struct passthru *p, uint32_t command_idx, int32_t error)
{
    struct command *command = &p->commands[command_idx];
    struct read *read = &p->reads[command->read];
    struct member *member = &p->members[read->request.member];

    p->command_count--;
    member->command_count--;
    read->command_count--;
    if (error != 0 && read->error == 0) {
        read->error = error;
        /* Only the first of the queue can be issued in part. The rest of it is not asked for. */
        if (read->issued < read->end)
            list_drop_first(p, &member->queue);
        read->issued = read->end;
    }
    if (read->command_count == 0 && read->issued == read->end)
        list_add(p, &p->finished, command->read);
    command->next = p->free_command;
    p->free_command = command_idx;
    issue(p, member);
}

static void complete(struct passthru *p, const struct io_uring_cqe *cqe)
{
    uint32_t command_idx = (uint32_t)cqe->user_data;
    struct command *command = &p->commands[command_idx];
    const struct read *read = &p->reads[command->read];
    struct member *member = &p->members[read->request.member];
    int32_t result = to_errno(member, cqe->res);
    bool again =
        (result == -EINTR || result == -EAGAIN) && ++command->retry_count < RETRY_COUNT_MAX;

    if (result == 0) {
        note_success(p, command);
        command->begin += command->bytes;
        again = command->begin < command->end;
    } else if (result == -EINVAL) {
        again = yield(member, command);
    }
    if (again && read->error == 0 && !p->is_closing)
        send_next(p, command_idx, buffer_of(p, read));
    else
        end_command(p, command_idx, result);
}

static void take_completions(struct passthru *p)
{
    struct io_uring_cqe *cqe;

    while (p->command_count > 0 && (cqe = ps_ring_peek(&p->ring)) != NULL) {
        complete(p, cqe);
        io_uring_cqe_seen(&p->ring.uring, cqe);
    }
}

static uint32_t hand_back(struct passthru *p, struct ps_io_completion *out, uint32_t capacity)
{
    uint32_t n = 0;

    while (n < capacity && p->finished.first != NONE) {
        uint32_t read_idx = p->finished.first;
        struct read *read = &p->reads[read_idx];
        list_drop_first(p, &p->finished);
        out[n++] = (struct ps_io_completion){
            .tag = read->request.tag,
            .result = read->error ? read->error : (int32_t)read->end,
        };
        read->next = p->free_read;
        p->free_read = read_idx;
        p->in_flight--;
    }
    return n;
}

static int passthru_reap(struct ps_io *io, struct ps_io_completion *out, uint32_t capacity,
                         uint64_t wait_ns)
{
    struct passthru *p = (struct passthru *)io;
    struct ps_ring *ring = &p->ring;
    uint64_t end_ns = ps_deadline_ns(wait_ns);
    uint32_t n;

    do {
        take_completions(p);
        n = hand_back(p, out, capacity);
    } while (ps_ring_await(ring, n, p->in_flight, end_ns));
    return n == 0 && ring->error ? ring->error : (int)n;
}

static void passthru_wake(struct ps_io *io)
{
    ps_ring_wake(&((struct passthru *)io)->ring);
}

/* ---- closing --------------------------------------------------------------------------------- */

/* Reads with commands in flight into memory that is not registered. */
static uint32_t count_unpinned(const struct passthru *p)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < p->io.capacity && p->command_count > 0; i++) {
        const struct read *read = &p->reads[i];
        const struct ps_ring_buffer *buffer = buffer_of(p, read);
        bool is_registered = p->uses_fixed && buffer && buffer->index >= 0;
        count += read->command_count > 0 && !is_registered;
    }
    return count;
}

static uint32_t passthru_close(struct ps_io *io)
{
    struct passthru *p = (struct passthru *)io;
    uint64_t end_ns = ps_deadline_ns(PS_IO_CLOSE_WAIT_NS), left_ns = PS_IO_CLOSE_WAIT_NS;

    /* Nothing more is begun; memory should not be given back while a drive may still write to it.
     */
    p->is_closing = true;
    ps_ring_take_wake(&p->ring); /* or a ring that polls would not wait */
    take_completions(p);
    while (p->command_count > 0 && !p->ring.error && left_ns > 0) {
        ps_ring_wait(&p->ring, left_ns);
        take_completions(p);
        left_ns = ps_left_ns(end_ns);
    }
    uint32_t left = count_unpinned(p);
    if (p->command_count > 0)
        ps_io_log_left(p->command_count);
    ps_ring_close(&p->ring);
    for (int i = 0; p->members && i < p->member_count; i++) {
        if (p->members[i].ns.fd >= 0)
            close(p->members[i].ns.fd);
    }
    free(p->members);
    free(p->reads);
    free(p->commands);
    free(p);
    return left;
}

/* ---- opening --------------------------------------------------------------------------------- */

static uint64_t passthru_memory_bytes(int member_count, uint32_t depth)
{
    uint64_t members = (uint64_t)member_count, commands = members * COMMAND_COUNT_MAX;

    return sizeof(struct passthru) + members * sizeof(struct member) +
           members * depth * sizeof(struct read) + commands * sizeof(struct command) +
           ps_ring_memory_bytes(commands, RING_FLAGS);
}

static int allocate(struct passthru *p, const struct ps_io_config *config, struct ps_error *err)
{
    uint32_t commands = (uint32_t)config->member_count * COMMAND_COUNT_MAX;

    p->member_count = config->member_count;
    p->io.capacity = (uint32_t)config->member_count * config->depth;
    p->members = calloc((size_t)config->member_count, sizeof(*p->members));
    p->reads = calloc(p->io.capacity, sizeof(*p->reads));
    p->commands = calloc(commands, sizeof(*p->commands));
    for (int i = 0; p->members && i < config->member_count; i++)
        p->members[i] = (struct member){.ns.fd = -1, .queue.first = NONE};
    if (!p->members || !p->reads || !p->commands)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    p->free_read = p->free_command = 0;
    p->finished.first = NONE;
    for (uint32_t i = 0; i < p->io.capacity; i++)
        p->reads[i].next = i + 1 < p->io.capacity ? i + 1 : NONE;
    for (uint32_t i = 0; i < commands; i++)
        p->commands[i].next = i + 1 < commands ? i + 1 : NONE;
    return 0;
}

/* Without huge pages every page may be a stretch of memory of its own. */
static int open_members(struct passthru *p, const struct ps_io_config *config, struct ps_error *err)
{
    for (int i = 0; i < config->member_count; i++) {
        struct member *member = &p->members[i];
        struct ps_namespace *ns = &member->ns;
        if (config->fds[i] == -1)
            continue;
        int rc = ps_namespace_open(ns, config->fds[i], config->names[i], err);
        if (rc < 0)
            return rc;
        uint64_t unit = ps_max_u64(ns->block_bytes, PS_IO_ALIGN_BYTES);
        uint64_t plain = (uint64_t)ns->segment_count_max * PS_IO_ALIGN_BYTES;
        uint64_t bytes = ps_min_u64(ns->transfer_bytes_max, PS_IO_REQUEST_BYTES_MAX);
        member->bytes_max = (uint32_t)ps_max_u64(bytes / unit * unit, unit);
        member->bytes_max_plain =
            (uint32_t)ps_max_u64(ps_min_u64(bytes, plain) / unit * unit, unit);
        /* Beyond what the driver's queue holds the kernel would sleep for us; half is left to
         * others. */
        uint64_t commands = ps_queue_number(config->fds[i], "nr_requests", COMMAND_COUNT_MAX) / 2;
        member->command_count_max =
            (uint32_t)ps_max_u64(ps_min_u64(commands, COMMAND_COUNT_MAX), 1);
        snprintf(member->name, sizeof(member->name), "%s", config->names[i]);
    }
    return 0;
}

static int start_ring(struct passthru *p, const struct ps_io_config *config, struct ps_error *err)
{
    int *fds = calloc((size_t)p->member_count, sizeof(*fds));

    if (!fds)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    for (int i = 0; i < p->member_count; i++)
        fds[i] = p->members[i].ns.fd;
    int rc = ps_ring_start(&p->ring, fds, config, IORING_OP_URING_CMD, err);
    free(fds);
    return rc;
}

/*
 * Reads a block of every member, since only that tells what the kernel's io_uring takes: NVMe
 * commands came with 5.19, polling for them with 6.1. What the drive says of the block, and errors
 * that neither explains, are left to the requests.
 */
static int try_members(struct passthru *p, const struct ps_io_config *config, struct ps_error *err)
{
    for (int i = 0; i < p->member_count; i++) {
        const struct ps_namespace *ns = &p->members[i].ns;
        int32_t result = 0;
        if (ns->fd < 0)
            continue;
        prepare_read(ps_ring_sqe(&p->ring), i, ns, p->ring.scratch, ns->block_bytes, 0, -1);
        int rc = ps_ring_try(&p->ring, &result);
        rc = rc < 0 || result > 0 ? rc : result;
        if (rc != -EINVAL && rc != -EOPNOTSUPP && rc != -EACCES && rc != -EPERM && rc != -ETIMEDOUT)
            continue;
        if (p->ring.iopoll)
            return ps_poll_error(rc, config->names[i], err);
        return ps_error_set(err, rc, PS_IO_PASSTHRU_WHERE,
                            "%s cannot be read by NVMe commands through io_uring: %s",
                            config->names[i], strerror(-rc));
    }
    return 0;
}

static int passthru_open(struct ps_io **out, const struct ps_io_config *config,
                         const struct ps_io_engine *engine, struct ps_error *err)
{
    int rc = engine->iopoll ? ps_poll_check(config, err) : 0;
    if (rc < 0)
        return rc;
    struct passthru *p = calloc(1, sizeof(*p));
    if (!p)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    p->io.ops = &ps_io_passthru;
    rc = allocate(p, config, err);
    if (rc == 0)
        rc = open_members(p, config, err);
    if (rc == 0)
        rc = ps_ring_open(&p->ring, (uint32_t)p->member_count * COMMAND_COUNT_MAX, RING_FLAGS,
                          engine, err);
    if (rc == 0)
        rc = start_ring(p, config, err);
    if (rc == 0)
        rc = try_members(p, config, err);
    if (rc < 0) {
        passthru_close(&p->io);
        return rc;
    }
    p->io.direct = true;
    p->uses_fixed = true;
    p->io.registered = p->ring.registered;
    p->io.iopoll = engine->iopoll;
    p->io.sqpoll = engine->sqpoll;
    p->io.memory_bytes = passthru_memory_bytes(config->member_count, config->depth);
    *out = &p->io;
    return 0;
}

const struct ps_io_ops ps_io_passthru = {
    .id = "passthru",
    .memory_bytes = passthru_memory_bytes,
    .open = passthru_open,
    .submit = passthru_submit,
    .reap = passthru_reap,
    .wake = passthru_wake,
    .close = passthru_close,
};
