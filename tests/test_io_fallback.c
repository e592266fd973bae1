/*
 * What the kernel may refuse: io_uring itself, locked memory, threads, process_vm_readv. Each case
 * runs in a child that has given the thing up for good.
 */
#include "util.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/log.h"
#include "nvme/io.h"

#define FILE_BYTES (1u << 20)

static char dir[256], path[320];
static int member_fd;
static struct ps_region region;
static char log_text[2048];

static void keep_log(void *ctx, enum ps_log_level level, const char *text)
{
    size_t at = strlen(log_text);
    (void)ctx;
    (void)level;
    snprintf(log_text + at, sizeof(log_text) - at, "%s\n", text);
}

static int open_engine(struct ps_io **io, const char *engine)
{
    static const char *name = path;
    struct ps_io_config config = {
        .engine = engine,
        .fds = &member_fd,
        .names = &name,
        .member_count = 1,
        .depth = 4,
        .buffers = &region,
        .buffer_count = 1,
    };
    return ps_io_open(io, &config, NULL);
}

static bool reads_right(struct ps_io *io)
{
    struct ps_io_request request = {5, 8192, region.base, 65536, 0};
    struct ps_io_completion got = {0};
    uint8_t *data = region.base;

    memset(data, 0, 65536);
    if (io->ops->submit(io, &request, 1) != 1 ||
        io->ops->reap(io, &got, 1, PS_IO_WAIT_FOREVER) != 1)
        return false;
    for (uint32_t i = 0; i < 65536; i++) {
        if (data[i] != (uint8_t)((8192 + i) / 7))
            return false;
    }
    return got.tag == 5 && got.result == 65536;
}

/* Makes a system call fail with `error` in this process from now on. */
static bool forbid(unsigned number, int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* Runs the case in a child; 77 from it skips. */
static void in_child(int (*run)(int arg), int arg)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        log_text[0] = '\0';
        int rc = run(arg);
        fflush(stdout);
        _exit(rc);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        PS_SKIP_ONE("this process cannot give that up here");
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* Each check prints the line at which it failed. */
#define NEED(x)                                                                                    \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            printf("line %d: %s; log: %s\n", __LINE__, #x, log_text);                              \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

static int without_uring(int error)
{
    struct ps_io *io = NULL;
    if (!forbid(SYS_io_uring_setup, error))
        return 77;
    NEED(open_engine(&io, "uring") == 0);
    NEED(strcmp(io->ops->id, "pread") == 0 && !io->registered);
    NEED(strstr(log_text, "io_uring cannot be used"));
    NEED(strstr(log_text, strerror(error)));
    NEED(strchr(log_text, '\n') == log_text + strlen(log_text) - 1);
    NEED(reads_right(io));
    ps_io_close(&io);
    return 0;
}

static void test_without_uring(void **state)
{
    (void)state;
    in_child(without_uring, EPERM);
    in_child(without_uring, ENOSYS);
}

static int without_locked_memory(int arg)
{
    struct rlimit limit = {4 << 20, 4 << 20}; /* half of the buffer */
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    struct ps_io *io = NULL;
    (void)arg;

    if (syscall(SYS_capget, &header, data) != 0)
        return 77;
    data[CAP_IPC_LOCK / 32].effective &= ~(1u << CAP_IPC_LOCK % 32);
    if (syscall(SYS_capset, &header, data) != 0 || setrlimit(RLIMIT_MEMLOCK, &limit) != 0)
        return 77;
    NEED(open_engine(&io, "uring") == 0);
    if (strcmp(io->ops->id, "uring") != 0)
        return 77;
    NEED(!io->registered);
    NEED(strstr(log_text, "ulimit -l"));
    NEED(reads_right(io));
    ps_io_close(&io);
    return 0;
}

static void test_without_locked_memory(void **state)
{
    (void)state;
    in_child(without_locked_memory, 0);
}

static int without_vm_readv(int arg)
{
    struct ps_io *io = NULL;
    (void)arg;

    if (!forbid(SYS_process_vm_readv, EPERM))
        return 77;
    NEED(open_engine(&io, "mmap") == 0);
    NEED(strstr(log_text, "process_vm_readv"));
    NEED(reads_right(io));
    ps_io_close(&io);
    return 0;
}

static void test_without_vm_readv(void **state)
{
    (void)state;
    in_child(without_vm_readv, 0);
}

/* Threads that cannot be started are an error, and what was started is ended again. */
static int without_threads(int arg)
{
    struct ps_io *io = NULL;
    (void)arg;

    if (!forbid(SYS_clone3, EAGAIN) || !forbid(SYS_clone, EAGAIN))
        return 77;
    NEED(open_engine(&io, "pread") == -EAGAIN);
    NEED(io == NULL);
    return 0;
}

static void test_without_threads(void **state)
{
    (void)state;
    in_child(without_threads, 0);
}

/* A file is no namespace, and the drive under it has no queues for polling unless somebody has
 * asked for them at boot. */
static void test_without_a_drive(void **state)
{
    struct ps_io *io = NULL;
    (void)state;

    log_text[0] = '\0';
    assert_int_equal(open_engine(&io, "passthru"), 0);
    assert_non_null(strstr(log_text, "is a file and not an NVMe drive"));
    assert_true(strcmp(io->ops->id, "uring") == 0 || strcmp(io->ops->id, "pread") == 0);
    assert_true(reads_right(io));
    ps_io_close(&io);

    log_text[0] = '\0';
    assert_int_equal(open_engine(&io, "uring+iopoll"), 0);
    assert_true(io->iopoll || strstr(log_text, "cannot poll") || strstr(log_text, "io_uring"));
    assert_true(reads_right(io));
    ps_io_close(&io);
}

static void *use_engine(void *arg)
{
    struct ps_io *io = arg;
    struct ps_io_request request = {5, 8192, region.base, 65536, 0};
    struct ps_io_completion got;

    io->ops->submit(io, &request, 1);
    int rc = io->ops->reap(io, &got, 1, PS_IO_WAIT_FOREVER);
    return (void *)(intptr_t)rc;
}

/* A ring that is another thread's says so in its one way; older kernels let it pass. */
static void test_wrong_thread(void **state)
{
    struct ps_io *io = NULL;
    pthread_t thread;
    void *rc;
    (void)state;

    log_text[0] = '\0';
    assert_int_equal(open_engine(&io, "uring"), 0);
    bool is_owned = strcmp(io->ops->id, "uring") == 0 && !strstr(log_text, "DEFER_TASKRUN");
    assert_int_equal(pthread_create(&thread, NULL, use_engine, io), 0);
    assert_int_equal(pthread_join(thread, &rc), 0);
    assert_int_equal((intptr_t)rc, is_owned ? -EEXIST : 1);
    assert_int_equal(strstr(log_text, "another thread") != NULL, is_owned);
    ps_io_close(&io);
}

/* The descriptor of this process's ring, or -1. */
static int find_ring(void)
{
    for (int fd = 3; fd < 256; fd++) {
        char link[64], target[64];
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = '\0';
        if (strcmp(target, "anon_inode:[io_uring]") == 0)
            return fd;
    }
    return -1;
}

/*
 * The same file and buffers with nothing refused, so that the cases above mean something; and what
 * we refuse ourselves: a ring under restrictions does not even let its files be taken away.
 */
static void test_nothing_refused(void **state)
{
    struct ps_io *io = NULL;
    (void)state;

    log_text[0] = '\0';
    assert_int_equal(open_engine(&io, "uring"), 0);
    assert_true(reads_right(io));
    int ring = find_ring();
    assert_true(ring >= 0 || strcmp(io->ops->id, "uring") != 0);
    if (ring >= 0 && !strstr(log_text, "restrictions")) {
        long rc = syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_FILES, NULL, 0);
        assert_int_equal(rc < 0 ? errno : 0, EACCES);
        assert_true(reads_right(io));
    }
    ps_io_close(&io);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_refused),       cmocka_unit_test(test_without_uring),
        cmocka_unit_test(test_without_locked_memory), cmocka_unit_test(test_without_vm_readv),
        cmocka_unit_test(test_without_threads),       cmocka_unit_test(test_without_a_drive),
        cmocka_unit_test(test_wrong_thread),
    };
    uint8_t *data = malloc(FILE_BYTES);

    for (uint32_t i = 0; i < FILE_BYTES; i++)
        data[i] = (uint8_t)(i / 7);
    ps_test_dir_make(dir, sizeof(dir));
    ps_test_file_write(dir, "member", data, FILE_BYTES);
    free(data);
    snprintf(path, sizeof(path), "%s/member", dir);
    member_fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(member_fd >= 0);
    assert_int_equal(ps_region_map(&region, 8 << 20, -1, NULL), 0);
    ps_log_set(keep_log, NULL);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    ps_region_unmap(&region);
    close(member_fd);
    ps_test_dir_remove(dir);
    return rc;
}
