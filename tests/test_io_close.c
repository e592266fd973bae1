/*
 * Reads that a drive does not give back: waits end in time and closing does not hang. io_uring is
 * given a pipe that nobody writes to; threads get stuck in pread, which is wrapped here.
 */
#include "util.h"

#include <dirent.h>
#include <pthread.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/io.h"

#define MS UINT64_C(1000000)

ssize_t __real_pread(int fd, void *buf, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *buf, size_t bytes, off_t offset);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static bool is_stuck;
static size_t free_bytes; /* reads of this length are let through */
static int stuck_count;   /* threads in the wrapped pread */
static char log_text[2048];
static struct ps_region region;

ssize_t __wrap_pread(int fd, void *buf, size_t bytes, off_t offset)
{
    pthread_mutex_lock(&lock);
    stuck_count++;
    while (is_stuck && bytes != free_bytes)
        pthread_cond_wait(&released, &lock);
    stuck_count--;
    pthread_mutex_unlock(&lock);
    return __real_pread(fd, buf, bytes, offset);
}

static void set_stuck(bool stuck)
{
    pthread_mutex_lock(&lock);
    is_stuck = stuck;
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&lock);
}

static void wait_stuck(int count)
{
    pthread_mutex_lock(&lock);
    while (stuck_count < count) {
        pthread_mutex_unlock(&lock);
        usleep(1000);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
}

static void keep_log(void *ctx, enum ps_log_level level, const char *text)
{
    size_t at = strlen(log_text);
    (void)ctx;
    (void)level;
    snprintf(log_text + at, sizeof(log_text) - at, "%s\n", text);
}

static int thread_count(void)
{
    DIR *dir = opendir("/proc/self/task");
    int count = 0;

    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count - 2;
}

static struct ps_io *open_engine(const char *engine, int fd, bool registered)
{
    static const char *name = "member";
    struct ps_io_config config = {
        .engine = engine,
        .fds = &fd,
        .names = &name,
        .member_count = 1,
        .depth = 3,
        .buffers = &region,
        .buffer_count = registered,
    };
    struct ps_io *io = NULL;
    struct ps_error err = {0};

    set_stuck(false); /* after a test that failed */
    log_text[0] = '\0';
    if (ps_io_open(&io, &config, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    return io;
}

/* Three reads of which none comes back; closing leaves `left` that may write by address. */
static void hang(struct ps_io *io, uint32_t left)
{
    struct ps_io_request requests[3];
    struct ps_io_completion got[3];

    for (uint32_t i = 0; i < 3; i++)
        requests[i] = (struct ps_io_request){
            .tag = i, .buf = (uint8_t *)region.base + i * 4096, .bytes = 4096};
    assert_int_equal(io->ops->submit(io, requests, 3), 3);
    if (is_stuck)
        wait_stuck(3);
    assert_int_equal(io->ops->reap(io, got, 3, 0), 0);
    uint64_t begin_ns = ps_now_ns();
    assert_int_equal(io->ops->reap(io, got, 3, 30 * MS), 0);
    assert_true(ps_now_ns() - begin_ns >= 30 * MS);
    begin_ns = ps_now_ns();
    assert_int_equal(ps_io_close(&io), left);
    assert_null(io);
    assert_true(ps_now_ns() - begin_ns >= PS_IO_CLOSE_WAIT_NS);
    assert_non_null(strstr(log_text, "3 reads have not come back"));
}

static void hanging_ring(const char *engine)
{
    int ends[2];

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    struct ps_io *io = open_engine(engine, ends[0], true);
    if (strcmp(io->ops->id, "uring") != 0) {
        ps_io_close(&io);
        PS_SKIP_ONE("no io_uring here");
    }
    uint32_t left = io->registered ? 0 : 3;
    hang(io, left);
    hang(open_engine(engine, ends[0], false), 3);
    close(ends[0]);
    close(ends[1]);
}

static void test_uring(void **state)
{
    (void)state;
    hanging_ring("uring");
}

static void test_uring_sqpoll(void **state)
{
    (void)state;
    hanging_ring("uring+sqpoll");
}

/* What is left ends by itself, and frees what it held, once the drive answers. */
static void test_threads(void **state)
{
    FILE *file = tmpfile();
    char zeroes[3 * 4096] = {0};
    (void)state;

    assert_non_null(file);
    assert_int_equal(fwrite(zeroes, 1, sizeof(zeroes), file), sizeof(zeroes));
    fflush(file);
    int before = thread_count();
    struct ps_io *io = open_engine("pread", fileno(file), false);
    set_stuck(true);
    hang(io, 3);
    assert_int_equal(thread_count(), before + 3);
    set_stuck(false);
    while (thread_count() > before)
        usleep(1000);
    fclose(file);
}

/* Of stuck and idle threads only the stuck ones are left. */
static void test_some_threads(void **state)
{
    FILE *file = tmpfile();
    (void)state;

    assert_non_null(file);
    int before = thread_count();
    struct ps_io *io = open_engine("pread", fileno(file), false);
    struct ps_io_request request = {.buf = region.base, .bytes = 4096};
    set_stuck(true);
    assert_int_equal(io->ops->submit(io, &request, 1), 1);
    wait_stuck(1);
    assert_int_equal(ps_io_close(&io), 1);
    assert_int_equal(thread_count(), before + 1);
    set_stuck(false);
    while (thread_count() > before)
        usleep(1000);
    fclose(file);
}

/* One member's reads are stuck, more than there are threads: the other one's go on. Not where
 * threads that were left have read to: only /proc told that they had ended. */
static void test_other_member(void **state)
{
    static const char *const names[] = {"first", "second"};
    FILE *file = tmpfile();
    char zeroes[2 * 4096] = {0};
    struct ps_io_completion got;
    struct ps_io *io = NULL;
    (void)state;

    assert_non_null(file);
    assert_int_equal(fwrite(zeroes, 1, sizeof(zeroes), file), sizeof(zeroes));
    fflush(file);
    int fds[] = {fileno(file), fileno(file)};
    struct ps_io_config config = {.engine = "pread",
                                  .fds = fds,
                                  .names = names,
                                  .member_count = 2,
                                  .depth = PS_IO_THREAD_COUNT_MAX};
    assert_int_equal(ps_io_open(&io, &config, NULL), 0);
    free_bytes = 8192;
    set_stuck(true);
    for (uint32_t i = 0; i <= PS_IO_THREAD_COUNT_MAX; i++) {
        bool is_last = i == PS_IO_THREAD_COUNT_MAX;
        struct ps_io_request request = {.tag = i,
                                        .buf = (uint8_t *)region.base + (16 + i) * 4096,
                                        .bytes = is_last ? 8192 : 4096,
                                        .member = is_last};
        assert_int_equal(io->ops->submit(io, &request, 1), 1);
    }
    assert_int_equal(io->ops->reap(io, &got, 1, 30000 * MS), 1);
    assert_int_equal(got.tag, PS_IO_THREAD_COUNT_MAX);
    assert_int_equal(got.result, 8192);
    set_stuck(false);
    assert_int_equal(ps_io_close(&io), 0);
    free_bytes = 0;
    fclose(file);
}

static void *end_at_once(void *arg)
{
    return arg;
}

int main(void)
{
    pthread_t first;
    /* The kernel's own threads for a ring end some time after it, and are counted meanwhile. */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),      cmocka_unit_test(test_some_threads),
        cmocka_unit_test(test_other_member), cmocka_unit_test(test_uring),
        cmocka_unit_test(test_uring_sqpoll),
    };

    /* The thread sanitizer has a thread of its own, which begins with the first. */
    assert_int_equal(pthread_create(&first, NULL, end_at_once, NULL), 0);
    assert_int_equal(pthread_join(first, NULL), 0);
    ps_log_set(keep_log, NULL);
    assert_int_equal(ps_region_map(&region, 1 << 20, -1, NULL), 0);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    ps_region_unmap(&region);
    return rc;
}
