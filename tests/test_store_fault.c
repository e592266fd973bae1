/*
 * The Nth allocation, mapping or read of an open store fails, once or from there on, for N = 1, 2,
 * 3 ... until none is reached. Linked with --wrap for the calls that fail here.
 */
#include "store_fixture.h"

#include <stdatomic.h>
#include <sys/mman.h>

#include "core/util.h"

#define STREAMED (STORE_GROUPS * STORE_INDEXES)

void *__real_calloc(size_t count, size_t bytes);
void *__real_aligned_alloc(size_t align, size_t bytes);
void *__real_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
ssize_t __real_pread(int fd, void *buf, size_t bytes, off_t offset);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
ssize_t __wrap_pread(int fd, void *buf, size_t bytes, off_t offset);

enum what { NOTHING, MEMORY, READ_ERROR, READ_END, READ_PART, READ_INTERRUPTED };

/* Reads fail in the engine's threads, so these are atomic. */
static _Atomic int failing;
static _Atomic long fail_at, reached;
static _Atomic bool fail_on;

static bool fails(bool of_this_kind)
{
    if (!of_this_kind)
        return false;
    long n = atomic_fetch_add(&reached, 1) + 1;
    return fail_on ? n >= fail_at : n == fail_at;
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails(failing == MEMORY) ? NULL : __real_calloc(count, bytes);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    return fails(failing == MEMORY) ? NULL : __real_aligned_alloc(align, bytes);
}

void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    if (!fails(failing == MEMORY))
        return __real_mmap(at, bytes, prot, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

ssize_t __wrap_pread(int fd, void *buf, size_t bytes, off_t offset)
{
    int what = failing;
    if (!fails(what > MEMORY))
        return __real_pread(fd, buf, bytes, offset);
    if (what == READ_PART)
        return __real_pread(fd, buf, bytes > 4096 ? bytes / 2 & ~(size_t)4095 : bytes, offset);
    errno = what == READ_INTERRUPTED ? EINTR : EIO;
    return what == READ_END ? 0 : -1;
}

static void arm(enum what what, long n, bool on)
{
    reached = 0;
    fail_at = n;
    fail_on = on;
    failing = what;
}

static struct store_volume bed;

/* Leases one object and waits for it. Returns 0 with its content checked, or the error. */
static int use(struct ps_store *store, uint32_t object, struct ps_error *err)
{
    struct ps_lease lease = {0};
    int rc = ps_store_get(store, object / STORE_INDEXES, object % STORE_INDEXES, &lease, err);

    while (rc >= 0 && lease.state != PS_LEASE_READY)
        rc = ps_store_wait(store, &lease, 1, err);
    if (rc >= 0)
        store_check_lease(&bed, &lease);
    ps_store_put(store, &lease);
    return rc < 0 ? rc : 0;
}

/* Opening succeeds, or says that memory is out and leaves nothing behind (ASan looks). */
static void memory_runs_out(const char *engine, bool on)
{
    struct ps_store_options o = {.engine = engine, .lease_count = 2};
    o.cache_bytes = ps_store_floor_bytes(bed.volume, &o);

    for (long n = 1;; n++) {
        struct ps_store *store = NULL;
        struct ps_error err = {0};
        arm(MEMORY, n, on);
        int rc = ps_store_open(&store, bed.volume, &o, &err);
        long met = reached;
        arm(NOTHING, 0, false);
        if (rc < 0) {
            assert_null(store);
            assert_int_equal(rc, -ENOMEM);
            assert_int_equal(err.code, -ENOMEM);
            assert_true(met >= n);
            continue;
        }
        assert_int_equal(use(store, 17, &err), 0);
        ps_store_close(&store);
        if (met < n) {
            assert_true(n > 5);
            return;
        }
    }
}

static void test_memory(void **state)
{
    static const char *const engines[] = {"uring", "pread", "pagecache", "mmap"};
    (void)state;
    for (size_t i = 0; i < PS_ARRAY_LEN(engines); i++) {
        memory_runs_out(engines[i], false);
        memory_runs_out(engines[i], true);
    }
}

/* All objects one after the other, with the Nth read going wrong; `expect`: what that looks like.
 */
static long read_all(struct ps_store *store, enum what what, long n, bool on, int expect)
{
    int failed = 0;

    arm(what, n, on);
    for (uint32_t i = 0; i < STREAMED; i++) {
        struct ps_error err = {0};
        int rc = use(store, i * 5 % STREAMED, &err);
        if (rc < 0) {
            assert_int_equal(rc, expect);
            assert_non_null(strstr(err.text, ", slice "));
            assert_non_null(strstr(err.where, bed.dir));
            failed++;
        }
    }
    long met = reached;
    arm(NOTHING, 0, false);
    /* What fails once is read again, and nobody hears of it. */
    if (expect == 0 || met < n)
        assert_int_equal(failed, 0);
    else
        assert_true(failed > 0);
    return met;
}

static void test_reads(void **state)
{
    static const struct {
        enum what what;
        bool on;
        int expect;
    } cases[] = {
        {READ_ERROR, false, 0},       {READ_ERROR, true, -EIO},
        {READ_END, false, 0},         {READ_END, true, -PS_ERR_SHORT_READ},
        {READ_PART, false, 0},        {READ_PART, true, 0},
        {READ_INTERRUPTED, false, 0},
    };
    (void)state;
    for (size_t c = 0; c < PS_ARRAY_LEN(cases); c++) {
        struct ps_store_options o = {.engine = "pread", .lease_count = 2};
        struct ps_store *store = NULL;
        long n = 1, met;
        o.cache_bytes = ps_store_floor_bytes(bed.volume, &o);
        assert_int_equal(ps_store_open(&store, bed.volume, &o, NULL), 0);
        do {
            met = read_all(store, cases[c].what, n, cases[c].on, cases[c].expect);
            n += 7;
        } while (met >= n - 7);
        assert_true(n > 70);
        /* No slot has been lost on the way. */
        struct ps_lease leases[2] = {{0}};
        assert_true(ps_store_get(store, 0, 1, &leases[0], NULL) >= 0);
        assert_true(ps_store_get(store, 2, 1, &leases[1], NULL) >= 0);
        ps_store_put(store, &leases[0]);
        ps_store_put(store, &leases[1]);
        ps_store_close(&store);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_reads),
    };
    store_volume_make(&bed, 2);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    store_volume_remove(&bed);
    return rc;
}
