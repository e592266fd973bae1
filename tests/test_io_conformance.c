/*
 * Every engine, the same demands: right bytes at every size and offset, short results at the end of
 * a file, errors in completions, any number of requests, any buffers. On plain files, with "loop"
 * as argument on loop devices (root only), and with the names of block devices on these, WHICH ARE
 * OVERWRITTEN: there no engine may fall back to another, unless the first argument is
 * --may-fall-back. --only NAME leaves out engines whose names do not begin with NAME.
 */
#include "util.h"

#include <linux/fs.h>
#include <linux/loop.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/utsname.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/io.h"

#define MEMBER_COUNT_MAX 8
#define DEPTH 4
#define BUFFER_BYTES ((size_t)PS_IO_REQUEST_BYTES_MAX)
#define REQUEST_COUNT_MAX 512
/* What of a device has known content: its begin, for the longest request, and its end. */
#define HEAD_BYTES ((uint64_t)PS_IO_REQUEST_BYTES_MAX + (4u << 20))
#define TAIL_BYTES ((uint64_t)2 << 20)
/* Longer than any read takes; only a completion that is lost lasts so long. */
#define LOST_NS UINT64_C(60000000000)

static const char *const file_engines[] = {"uring", "uring+sqpoll", "pread", "pagecache", "mmap"};
static const char *const device_engines[] = {
    "uring",
    "uring+iopoll",
    "uring+sqpoll",
    "uring+iopoll+sqpoll",
    "passthru",
    "passthru+iopoll",
    "passthru+sqpoll",
    "passthru+iopoll+sqpoll",
    "pread",
    "pagecache",
    "mmap",
};

static struct {
    char dir[256];
    int member_count;
    char names[MEMBER_COUNT_MAX][320];
    int fds[MEMBER_COUNT_MAX];
    uint64_t bytes[MEMBER_COUNT_MAX];
    bool on_loop, on_devices, may_fall_back;
    struct ps_region region;
    int direct_log_count;
} bed;

static void count_log(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx;
    (void)level;
    printf("log: %s\n", text);
    bed.direct_log_count += strstr(text, "O_DIRECT") != NULL;
}

/* The byte at an offset of a member, so that no misplaced block looks right. */
static uint64_t word_at(uint32_t member, uint64_t offset)
{
    uint64_t x = (offset / 8 + 1) * UINT64_C(0x9E3779B97F4A7C15) + member;
    return x ^ x >> 29;
}

static void check_bytes(uint32_t member, uint64_t offset, const uint8_t *data, size_t bytes)
{
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t got;
        memcpy(&got, data + i, 8);
        if (got != word_at(member, offset + i))
            fail_msg("member %u: wrong byte at %llu", member, (unsigned long long)(offset + i));
    }
}

static void write_range(int fd, uint32_t member, uint64_t begin, uint64_t end)
{
    static uint64_t block[8192];
    for (uint64_t at = begin; at < end; at += sizeof(block)) {
        for (size_t i = 0; i < PS_ARRAY_LEN(block); i++)
            block[i] = word_at(member, at + i * 8);
        size_t n = ps_min_u64(sizeof(block), end - at);
        assert_int_equal(pwrite(fd, block, n, (off_t)at), n);
    }
}

static void write_member(int fd, uint32_t member, uint64_t bytes)
{
    uint64_t head = ps_min_u64(bytes, HEAD_BYTES);
    uint64_t tail = ps_max_u64(head, bytes - ps_min_u64(bytes, TAIL_BYTES)) & ~UINT64_C(4095);

    write_range(fd, member, 0, head);
    write_range(fd, member, ps_max_u64(tail, head), bytes);
    assert_int_equal(fsync(fd), 0);
}

#define SKIP_LOOP(...)                                                                             \
    do {                                                                                           \
        ps_test_dir_remove(bed.dir);                                                               \
        PS_SKIP(__VA_ARGS__);                                                                      \
    } while (0)

/* Turns the file into a loop device; its name replaces the file's. */
static void attach_loop(int member)
{
    char device[64];
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number = control >= 0 ? ioctl(control, LOOP_CTL_GET_FREE) : -1;
    if (number < 0)
        SKIP_LOOP("loop devices need root and the loop module");
    close(control);
    snprintf(device, sizeof(device), "/dev/loop%d", number);
    int file = open(bed.names[member], O_RDWR | O_CLOEXEC);
    int loop = open(device, O_RDWR | O_CLOEXEC);
    struct loop_config config = {
        .fd = (unsigned)file,
        .block_size = 512,
        /* Gone with the last descriptor, however this program ends. */
        .info = {.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO},
    };
    if (file < 0 || loop < 0)
        SKIP_LOOP("%s cannot be opened", device);
    int rc = ioctl(loop, LOOP_CONFIGURE, &config);
    if (rc < 0) {
        config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
        rc = ioctl(loop, LOOP_CONFIGURE, &config);
    }
    if (rc < 0)
        SKIP_LOOP("%s cannot be set up: %s", device, strerror(errno));
    close(file);
    close(bed.fds[member]);
    bed.fds[member] = loop;
    snprintf(bed.names[member], sizeof(bed.names[member]), "%s", device);
}

static void set_up_files(void)
{
    bed.member_count = 3;
    for (int i = 0; i < bed.member_count; i++) {
        snprintf(bed.names[i], sizeof(bed.names[i]), "%s/member.%d", bed.dir, i);
        bed.fds[i] = open(bed.names[i], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        /* Files end in the middle of a block, devices in multiples of 512; the first is long enough
         * for the longest request. */
        bed.bytes[i] = (i == 0 ? HEAD_BYTES : UINT64_C(24) << 20) + (uint64_t)i * 8192 +
                       (bed.on_loop ? 512 : 1000);
        write_member(bed.fds[i], (uint32_t)i, bed.bytes[i]);
        if (bed.on_loop)
            attach_loop(i);
    }
}

static void set_up_devices(char **paths, int count)
{
    bed.member_count = count;
    for (int i = 0; i < count; i++) {
        snprintf(bed.names[i], sizeof(bed.names[i]), "%s", paths[i]);
        bed.fds[i] = open(paths[i], O_RDWR | O_EXCL | O_CLOEXEC);
        if (bed.fds[i] < 0 || ioctl(bed.fds[i], BLKGETSIZE64, &bed.bytes[i]) != 0 ||
            bed.bytes[i] < HEAD_BYTES + TAIL_BYTES)
            fail_msg("%s: not a free block device of %llu bytes or more", paths[i],
                     (unsigned long long)(HEAD_BYTES + TAIL_BYTES));
        write_member(bed.fds[i], (uint32_t)i, bed.bytes[i]);
    }
}

static void tear_down(void)
{
    for (int i = 0; i < bed.member_count; i++)
        close(bed.fds[i]);
    ps_region_unmap(&bed.region);
    ps_test_dir_remove(bed.dir);
}

static struct ps_io_config make_config(const char *engine, bool registered)
{
    static const char *names[MEMBER_COUNT_MAX];
    for (int i = 0; i < bed.member_count; i++)
        names[i] = bed.names[i];
    return (struct ps_io_config){
        .engine = engine,
        .fds = bed.fds,
        .names = names,
        .member_count = bed.member_count,
        .depth = DEPTH,
        .buffers = &bed.region,
        .buffer_count = registered ? 1 : 0,
    };
}

static struct ps_io *open_engine(const char *engine, bool registered)
{
    struct ps_io_config config = make_config(engine, registered);
    struct ps_io *io = NULL;
    struct ps_error err = {0};
    if (ps_io_open(&io, &config, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    return io;
}

/* Reads one range and returns its result. */
static int32_t read_one(struct ps_io *io, uint32_t member, uint64_t offset, uint32_t bytes,
                        void *buf)
{
    struct ps_io_request request = {77, offset, buf, bytes, member};
    struct ps_io_completion completion = {0};
    assert_int_equal(io->ops->submit(io, &request, 1), 1);
    assert_int_equal(io->ops->reap(io, &completion, 1, PS_IO_WAIT_FOREVER), 1);
    assert_int_equal(completion.tag, 77);
    assert_int_equal(io->ops->reap(io, &completion, 1, PS_IO_WAIT_FOREVER), 0);
    return completion.result;
}

static void sizes_and_offsets(const char *engine, bool registered)
{
    static const uint32_t sizes[] = {4096, 8192, 12288, 1 << 16, 139264, 1 << 20, 4 << 20};
    struct ps_io *io = open_engine(engine, registered);
    uint8_t *buf = bed.region.base;

    for (size_t s = 0; s < PS_ARRAY_LEN(sizes); s++) {
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t member = k % (uint32_t)bed.member_count;
            uint64_t offset = (UINT64_C(4096) << k * 3) + k * 4096;
            memset(buf, 0xEE, sizes[s] + 4096);
            assert_int_equal(read_one(io, member, offset, sizes[s], buf), sizes[s]);
            check_bytes(member, offset, buf, sizes[s]);
            assert_int_equal(buf[sizes[s]], 0xEE);
        }
    }
    ps_io_close(&io);
    assert_null(io);
}

static void end_of_file(const char *engine)
{
    struct ps_io *io = open_engine(engine, true);
    uint8_t *buf = bed.region.base;

    for (uint32_t m = 0; m < (uint32_t)bed.member_count; m++) {
        uint64_t last = bed.bytes[m] & ~UINT64_C(4095);
        uint32_t tail = (uint32_t)(bed.bytes[m] - last);
        assert_int_equal(read_one(io, m, last, 4096, buf), tail);
        check_bytes(m, last, buf, tail);
        assert_int_equal(read_one(io, m, last - 65536, 1 << 20, buf), 65536 + tail);
        check_bytes(m, last - 65536, buf, 65536 + tail);
        assert_int_equal(read_one(io, m, last + 4096, 8192, buf), 0);
        assert_int_equal(read_one(io, m, UINT64_C(1) << 40, 4096, buf), 0);
    }
    ps_io_close(&io);
}

/* Random requests, more than there is room for, reaped a few at a time in between. */
static void many_requests(const char *engine, bool registered)
{
    struct ps_io *io = open_engine(engine, registered);
    struct ps_io_request requests[REQUEST_COUNT_MAX];
    bool seen[REQUEST_COUNT_MAX] = {false};
    struct ps_io_completion got[8];
    uint32_t submitted = 0, reaped = 0, refused = 0;
    uint64_t seed = 12345;
    size_t slot_bytes = BUFFER_BYTES / REQUEST_COUNT_MAX;

    for (uint32_t i = 0; i < REQUEST_COUNT_MAX; i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint32_t bytes = (uint32_t)(1 + (seed >> 33) % (slot_bytes / 4096)) * 4096;
        requests[i] = (struct ps_io_request){
            .tag = i,
            .offset = (seed >> 40) % 4000 * 4096,
            .buf = (uint8_t *)bed.region.base + i * slot_bytes,
            .bytes = bytes,
            .member = i % (uint32_t)bed.member_count,
        };
    }
    while (reaped < REQUEST_COUNT_MAX) {
        uint32_t want = (uint32_t)ps_min_u64(REQUEST_COUNT_MAX - submitted, 40);
        uint32_t n = io->ops->submit(io, requests + submitted, want);
        assert_true(submitted + n - reaped <= io->capacity);
        refused += n < want;
        submitted += n;
        int k =
            io->ops->reap(io, got, PS_ARRAY_LEN(got), submitted % 2 == 0 ? PS_IO_WAIT_FOREVER : 0);
        assert_true(k >= 0);
        for (int i = 0; i < k; i++, reaped++) {
            const struct ps_io_request *rq = &requests[got[i].tag];
            assert_false(seen[got[i].tag]);
            seen[got[i].tag] = true;
            assert_int_equal(got[i].result, rq->bytes);
            check_bytes(rq->member, rq->offset, rq->buf, rq->bytes);
        }
    }
    assert_true(refused > 0);
    ps_io_close(&io);
}

/* The longest request. */
static void long_requests(const char *engine, bool registered)
{
    struct ps_io *io = open_engine(engine, registered);
    uint8_t *buf = bed.region.base;

    memset(buf, 0xEE, BUFFER_BYTES);
    assert_int_equal(read_one(io, 0, 8192, PS_IO_REQUEST_BYTES_MAX, buf), PS_IO_REQUEST_BYTES_MAX);
    check_bytes(0, 8192, buf, PS_IO_REQUEST_BYTES_MAX);
    ps_io_close(&io);
}

static void submit_all(struct ps_io *io, struct ps_io_request *requests, uint32_t bytes)
{
    for (uint32_t i = 0; i < io->capacity; i++)
        requests[i] = (struct ps_io_request){
            .tag = i,
            .offset = UINT64_C(65536) * i,
            .buf = (uint8_t *)bed.region.base + (size_t)i * bytes,
            .bytes = bytes,
            .member = i % (uint32_t)bed.member_count,
        };
    assert_int_equal(io->ops->submit(io, requests, io->capacity), io->capacity);
}

/* Looking without waiting, or waiting for next to no time, finds every completion in the end. */
static void short_waits(const char *engine, uint64_t wait_ns)
{
    struct ps_io_request requests[MEMBER_COUNT_MAX * DEPTH];
    struct ps_io_completion got[3];
    struct ps_io *io = open_engine(engine, true);
    uint64_t end_ns = ps_deadline_ns(LOST_NS);
    uint32_t reaped = 0;

    assert_int_equal(io->ops->reap(io, got, PS_ARRAY_LEN(got), wait_ns), 0);
    submit_all(io, requests, 1 << 20);
    while (reaped < io->capacity) {
        int k = io->ops->reap(io, got, PS_ARRAY_LEN(got), wait_ns);
        assert_true(k >= 0);
        for (int i = 0; i < k; i++, reaped++) {
            const struct ps_io_request *rq = &requests[got[i].tag];
            assert_int_equal(got[i].result, rq->bytes);
            check_bytes(rq->member, rq->offset, rq->buf, rq->bytes);
        }
        if (ps_left_ns(end_ns) == 0)
            fail_msg("%u of %u completions have come", reaped, io->capacity);
    }
    assert_int_equal(io->ops->reap(io, got, PS_ARRAY_LEN(got), wait_ns), 0);
    ps_io_close(&io);
}

struct waker {
    struct ps_io *io;
    unsigned pause_us;
    _Atomic bool stop;
};

static void *wake(void *arg)
{
    struct waker *w = arg;

    do {
        usleep(w->pause_us);
        w->io->ops->wake(w->io);
    } while (!w->stop);
    return NULL;
}

/* Another thread that keeps waking takes nothing away and adds nothing. */
static void woken_often(const char *engine)
{
    struct ps_io_request requests[MEMBER_COUNT_MAX * DEPTH];
    struct ps_io_completion got[3];
    struct ps_io *io = open_engine(engine, true);
    struct waker waker = {.io = io, .pause_us = 50};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, wake, &waker), 0);
    for (int round = 0; round < 8; round++) {
        submit_all(io, requests, 1 << 20);
        for (uint32_t reaped = 0; reaped < io->capacity;) {
            int k = io->ops->reap(io, got, PS_ARRAY_LEN(got), PS_IO_WAIT_FOREVER);
            assert_true(k >= 0);
            for (int i = 0; i < k; i++, reaped++) {
                const struct ps_io_request *rq = &requests[got[i].tag];
                assert_int_equal(got[i].result, rq->bytes);
                check_bytes(rq->member, rq->offset, rq->buf, rq->bytes);
            }
        }
    }
    waker.stop = true;
    pthread_join(thread, NULL);
    assert_int_equal(io->ops->reap(io, got, PS_ARRAY_LEN(got), 0), 0);
    ps_io_close(&io);
}

/* A wait that only a wake can end: nobody writes into the pipe that is read. */
static void woken_from_waiting(const char *engine)
{
    char path[320];
    struct ps_io *io = NULL;
    struct ps_io_request request = {.buf = bed.region.base, .bytes = 4096};
    struct ps_io_completion got;
    struct ps_error err = {0};
    pthread_t thread;

    snprintf(path, sizeof(path), "%s/pipe", bed.dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    const char *name = path;
    struct ps_io_config config = {
        .engine = engine, .fds = &fd, .names = &name, .member_count = 1, .depth = 1};
    if (ps_io_open(&io, &config, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    assert_int_equal(io->ops->submit(io, &request, 1), 1);
    for (int round = 0; round < 3; round++) {
        struct waker waker = {.io = io, .pause_us = 2000, .stop = true};
        assert_int_equal(pthread_create(&thread, NULL, wake, &waker), 0);
        assert_int_equal(io->ops->reap(io, &got, 1, PS_IO_WAIT_FOREVER), 0);
        pthread_join(thread, NULL);
    }
    /* One that comes before the wait ends it, too, and is used up by that. */
    for (int round = 0; round < 3; round++) {
        io->ops->wake(io);
        assert_int_equal(io->ops->reap(io, &got, 1, PS_IO_WAIT_FOREVER), 0);
        assert_int_equal(io->ops->reap(io, &got, 1, 20000000), 0);
    }
    static const uint8_t data[4096] = {1};
    assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
    assert_int_equal(io->ops->reap(io, &got, 1, PS_IO_WAIT_FOREVER), 1);
    assert_int_equal(got.result, sizeof(data));
    ps_io_close(&io);
    close(fd);
    unlink(path);
}

/* A member that is not there fails its own requests and nothing else. */
static void absent_member(const char *engine)
{
    struct ps_io_config config = make_config(engine, true);
    struct ps_io_request requests[MEMBER_COUNT_MAX * DEPTH];
    struct ps_io_completion got;
    struct ps_io *io = NULL;
    int fds[MEMBER_COUNT_MAX];

    memcpy(fds, bed.fds, sizeof(fds));
    fds[1] = -1;
    config.fds = fds;
    assert_int_equal(ps_io_open(&io, &config, NULL), 0);
    if (strcmp(engine, "pread") == 0)
        assert_true(io->direct);
    submit_all(io, requests, 65536);
    for (uint32_t i = 0; i < io->capacity; i++) {
        assert_int_equal(io->ops->reap(io, &got, 1, PS_IO_WAIT_FOREVER), 1);
        const struct ps_io_request *rq = &requests[got.tag];
        assert_int_equal(got.result, rq->member == 1 ? -ENODEV : (int32_t)rq->bytes);
        if (rq->member != 1)
            check_bytes(rq->member, rq->offset, rq->buf, rq->bytes);
    }
    ps_io_close(&io);
}

/* A buffer that belongs to nobody fails its request and nothing else. */
static void bad_buffer(const char *engine)
{
    struct ps_io *io = open_engine(engine, true);
    uint32_t last = (uint32_t)bed.member_count - 1;
    void *hole = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(hole != MAP_FAILED);
    assert_int_equal(read_one(io, last, 4096, 8192, hole), -EFAULT);
    assert_int_equal(read_one(io, last, 4096, 8192, bed.region.base), 8192);
    check_bytes(last, 4096, bed.region.base, 8192);
    munmap(hole, 8192);
    ps_io_close(&io);
}

/* /proc/self/mem cannot be read at offset 0: a member whose reads fail with EIO. */
static void failing_member(const char *engine)
{
    struct ps_io_config config = make_config(engine, true);
    int fds[MEMBER_COUNT_MAX] = {bed.fds[0], open("/proc/self/mem", O_RDONLY | O_CLOEXEC),
                                 bed.fds[2]};
    struct ps_io *io = NULL;
    int before = bed.direct_log_count;

    assert_true(fds[1] >= 0);
    config.fds = fds;
    assert_int_equal(ps_io_open(&io, &config, NULL), 0);
    if (strcmp(engine, "pagecache") != 0) {
        assert_false(io->direct);
        assert_int_equal(bed.direct_log_count, before + 1);
    }
    assert_int_equal(read_one(io, 1, 0, 4096, bed.region.base), -EIO);
    assert_int_equal(read_one(io, 2, 8192, 4096, bed.region.base), 4096);
    check_bytes(2, 8192, bed.region.base, 4096);
    ps_io_close(&io);
    close(fds[1]);
}

static void bad_descriptor(const char *engine)
{
    struct ps_io_config config = make_config(engine, true);
    int fds[MEMBER_COUNT_MAX];
    struct ps_io *io = NULL;
    struct ps_error err = {0};

    memcpy(fds, bed.fds, sizeof(fds));
    fds[1] = 987654;
    config.fds = fds;
    assert_int_equal(ps_io_open(&io, &config, &err), -EBADF);
    assert_null(io);
    assert_string_equal(err.where, bed.names[1]);
}

/* The file shrinks under a reader: a short result, for mmap too. */
static void shrinking_member(const char *engine)
{
    char path[512];
    uint8_t *buf = bed.region.base;
    snprintf(path, sizeof(path), "%s/shrinks", bed.dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    const char *name = path;
    struct ps_io_config config = make_config(engine, true);
    struct ps_io *io = NULL;

    write_member(fd, 0, 1 << 20);
    config.fds = &fd;
    config.names = &name;
    config.member_count = 1;
    assert_int_equal(ps_io_open(&io, &config, NULL), 0);
    assert_int_equal(read_one(io, 0, 0, 1 << 20, buf), 1 << 20);
    assert_int_equal(ftruncate(fd, 65536), 0);
    assert_int_equal(read_one(io, 0, 0, 1 << 20, buf), 65536);
    check_bytes(0, 0, buf, 65536);
    assert_int_equal(read_one(io, 0, 1 << 19, 1 << 16, buf), 0);
    ps_io_close(&io);
    close(fd);
}

static void close_in_flight(const char *engine)
{
    struct ps_io *io = open_engine(engine, true);
    struct ps_io_request requests[MEMBER_COUNT_MAX * DEPTH];

    submit_all(io, requests, 2 << 20);
    assert_int_equal(ps_io_close(&io), 0);
}

/* How many pages of a file the page cache holds. */
static size_t cached_pages(int fd, uint64_t bytes)
{
    size_t pages = ps_div_up(bytes, 4096), count = 0;
    unsigned char *state = malloc(pages);
    void *p = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(p != MAP_FAILED && state);
    assert_int_equal(mincore(p, bytes, state), 0);
    for (size_t i = 0; i < pages; i++)
        count += state[i] & 1;
    munmap(p, bytes);
    free(state);
    return count;
}

/* Direct engines leave the page cache alone; the others fill it, without keeping it mapped. */
static void page_cache_use(const char *engine)
{
    struct ps_io *io = open_engine(engine, true);
    uint32_t bytes = 4 << 20;

    fsync(bed.fds[0]);
    posix_fadvise(bed.fds[0], 0, 0, POSIX_FADV_DONTNEED);
    size_t before = cached_pages(bed.fds[0], bed.bytes[0]);
    assert_int_equal(read_one(io, 0, 8 << 20, bytes, bed.region.base), bytes);
    size_t more = cached_pages(bed.fds[0], bed.bytes[0]) - before;
    bool caches = strcmp(engine, "pagecache") == 0 || strcmp(engine, "mmap") == 0;
    if (before > 0) /* a file system in memory drops nothing */
        assert_int_equal(more, 0);
    else if (caches)
        assert_true(more >= bytes / 4096);
    else if (io->direct)
        assert_int_equal(more, 0);
    ps_io_close(&io);
}

static bool kernel_is_before(unsigned major, unsigned minor)
{
    struct utsname system;
    unsigned a = 0, b = 0;

    assert_int_equal(uname(&system), 0);
    assert_int_equal(sscanf(system.release, "%u.%u", &a, &b), 2);
    return a < major || (a == major && b < minor);
}

static void facts(const char *engine)
{
    struct ps_io *io = open_engine(engine, true);
    struct ps_io_engine wanted;

    assert_true(ps_io_engine_parse(engine, &wanted));
    if (wanted.ops == &ps_io_uring && kernel_is_before(6, 3))
        wanted.iopoll = false; /* see check_polling in io_uring.c */
    if (!bed.may_fall_back) {
        assert_string_equal(io->ops->id, wanted.ops->id);
        assert_int_equal(io->iopoll, wanted.iopoll);
        assert_int_equal(io->sqpoll, wanted.sqpoll);
    }
    assert_int_equal(io->capacity, bed.member_count * DEPTH);
    assert_true(io->memory_bytes > 0);
    assert_true(io->memory_bytes <= ps_io_memory_bytes(engine, bed.member_count, DEPTH));
    printf("%s: %s, direct %d, registered %d, iopoll %d, sqpoll %d\n", engine, io->ops->id,
           io->direct, io->registered, io->iopoll, io->sqpoll);
    ps_io_close(&io);
}

static void test_engine(void **state)
{
    const char *engine = *state;

    facts(engine);
    for (int registered = 0; registered < 2; registered++) {
        sizes_and_offsets(engine, registered);
        many_requests(engine, registered);
        long_requests(engine, registered);
    }
    end_of_file(engine);
    short_waits(engine, 0);
    short_waits(engine, 1000);
    woken_often(engine);
    if (strcmp(engine, "uring") == 0 || strcmp(engine, "uring+sqpoll") == 0)
        woken_from_waiting(engine);
    if (bed.member_count > 1) {
        absent_member(engine);
        bad_descriptor(engine);
    }
    close_in_flight(engine);
    bad_buffer(engine);
    if (bed.on_loop || bed.on_devices)
        return;
    if (strcmp(engine, "mmap") != 0)
        failing_member(engine);
    shrinking_member(engine);
    page_cache_use(engine);
}

static void test_names(void **state)
{
    static const char *const good[] = {
        "uring",
        "uring+iopoll",
        "uring+iopoll+sqpoll",
        "passthru+sqpoll",
        "pread",
        "pagecache",
        "mmap",
        "fault:error@1:pread",
        "fault:hang=20@3+/1,slow=5@2,gone@18:passthru+iopoll",
    };
    static const char *const bad[] = {
        "",
        "u",
        "uringx",
        "uring+",
        "uring+sqpoll+iopoll",
        "uring+iopoll+iopoll",
        "pread+iopoll",
        "mmap+sqpoll",
        "floppy",
        "fault",
        "fault:",
        "fault::uring",
        "fault:error@1",
        "fault:error@1:",
        "fault:error@0:uring",
        "fault:error:uring",
        "fault:error@1,:uring",
        "fault:error=5@1:uring",
        "fault:slow@1:uring",
        "fault:rate@1:uring",
        "fault:rate=0@1:uring",
        "fault:slow=0@1:uring",
        "fault:error@1/:uring",
        "fault:error@x:uring",
        "fault:melt@1:uring",
        "fault:error@1:fault:error@1:uring",
        "fault:error@9999999999999999999:uring",
    };
    (void)state;

    for (size_t i = 0; i < PS_ARRAY_LEN(good); i++) {
        if (!ps_io_engine_known(good[i]) || ps_io_memory_bytes(good[i], 2, 8) == 0)
            fail_msg("'%s' should be known", good[i]);
    }
    for (size_t i = 0; i < PS_ARRAY_LEN(bad); i++) {
        if (ps_io_engine_known(bad[i]))
            fail_msg("'%s' should not be known", bad[i]);
    }
}

static void test_refusals(void **state)
{
    struct ps_io_config config = make_config("floppy", true);
    struct ps_io *io = NULL;
    struct ps_error err = {0};
    (void)state;

    assert_int_equal(ps_io_open(&io, &config, &err), -PS_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "floppy"));
    assert_non_null(strstr(err.text, ps_io_engine_names()));
    config = make_config("pread", true);
    config.depth = 0;
    assert_int_equal(ps_io_open(&io, &config, &err), -PS_ERR_ARGUMENT);
    config.depth = PS_IO_DEPTH_MAX + 1;
    assert_int_equal(ps_io_open(&io, &config, &err), -PS_ERR_ARGUMENT);
    assert_null(io);
    ps_io_close(&io);
    ps_io_close(NULL);
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[PS_ARRAY_LEN(device_engines) + 2];
    const char *const *engines = file_engines;
    const char *only = "";
    size_t engine_count = PS_ARRAY_LEN(file_engines), n = 0;
    int at = 1;

    if (argc > at && strcmp(argv[at], "--may-fall-back") == 0)
        bed.may_fall_back = at++;
    if (argc > at + 1 && strcmp(argv[at], "--only") == 0) {
        only = argv[at + 1];
        at += 2;
    }
    bed.on_loop = argc > at && strcmp(argv[at], "loop") == 0;
    bed.on_devices = argc > at && !bed.on_loop;
    if (argc - at > MEMBER_COUNT_MAX)
        fail_msg("at most %d devices", MEMBER_COUNT_MAX);
    if (bed.on_loop && geteuid() != 0)
        PS_SKIP("loop devices need root");
    if (bed.on_devices) {
        engines = device_engines;
        engine_count = PS_ARRAY_LEN(device_engines);
    }
    for (size_t i = 0; i < engine_count; i++) {
        if (strncmp(engines[i], only, strlen(only)) == 0)
            tests[n++] = (struct CMUnitTest){engines[i], test_engine, NULL, NULL,
                                             (void *)(uintptr_t)engines[i]};
    }
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_names);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_refusals);
    ps_log_set(count_log, NULL);
    ps_test_dir_make(bed.dir, sizeof(bed.dir));
    if (bed.on_devices)
        set_up_devices(argv + at, argc - at);
    else
        set_up_files();
    assert_int_equal(ps_region_map(&bed.region, BUFFER_BYTES, -1, NULL), 0);
    int rc = _cmocka_run_group_tests("engines", tests, n, NULL, NULL);
    tear_down();
    return rc;
}
