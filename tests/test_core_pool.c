/* The thread pool: every index exactly once, writes seen, sleeping and waking, clean failure. */
#include "util.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "core/budget.h"
#include "core/pool.h"
#include "core/topology.h"

#define THREADS_MAX 8

struct work {
    /* Plain on purpose: the pool alone must order these for TSan and for the assertions. */
    uint64_t runs[THREADS_MAX];
    uint64_t total; /* written by the caller between runs, read by every thread */
    int count_seen[THREADS_MAX];
    int wrong;
    unsigned pause_us; /* how long one thread dawdles */
    int slow_idx;
};

static void count_run(void *ctx, int thread_idx, int thread_count)
{
    struct work *work = ctx;
    if (thread_idx == work->slow_idx && work->pause_us > 0)
        usleep(work->pause_us);
    if (work->runs[thread_idx] != work->total)
        work->wrong = 1; /* TSan would call this a race if two threads had the same index */
    work->runs[thread_idx]++;
    work->count_seen[thread_idx] = thread_count;
}

static void run_many(int thread_count, int iterations, unsigned pause_us, int slow_idx)
{
    struct ps_pool *pool = NULL;
    struct ps_error err;
    struct work work = {.pause_us = pause_us, .slow_idx = slow_idx};
    assert_int_equal(ps_pool_open(&pool, thread_count, &err), 0);
    assert_int_equal(ps_pool_thread_count(pool), thread_count);
    for (int i = 0; i < iterations; i++) {
        ps_pool_run(pool, count_run, &work);
        work.total++;
        for (int t = 0; t < thread_count; t++) {
            assert_int_equal(work.runs[t], work.total);
            assert_int_equal(work.count_seen[t], thread_count);
        }
        if (pause_us > 0 && slow_idx < 0)
            usleep(pause_us);
    }
    assert_false(work.wrong);
    for (int t = thread_count; t < THREADS_MAX; t++)
        assert_int_equal(work.runs[t], 0);
    ps_pool_close(&pool);
    assert_null(pool);
}

static void runs_every_index_once(void **state)
{
    (void)state;
    run_many(1, 1000, 0, -1);
    run_many(2, 20000, 0, -1);
    run_many(3, 5000, 0, -1);
    run_many(8, 2000, 0, -1);
}

/* Pauses longer than the spin send the waiting side into the kernel. */
static void wakes_sleepers(void **state)
{
    (void)state;
    run_many(2, 200, 300, -1); /* workers sleep between runs */
    run_many(3, 200, 300, 0);  /* workers wait for the next run while the caller is slow */
    run_many(3, 200, 300, 2);  /* the caller sleeps */
    run_many(8, 50, 300, 5);
}

struct offer {
    _Atomic uint32_t next;
    uint32_t count;
    uint32_t *done; /* [count]; plain on purpose */
    _Atomic uint32_t came[THREADS_MAX];
};

static void take_offered(void *ctx, int thread_idx, int thread_count)
{
    struct offer *offer = ctx;
    (void)thread_count;
    atomic_fetch_add(&offer->came[thread_idx], 1);
    for (uint32_t i; (i = atomic_fetch_add(&offer->next, 1)) < offer->count;)
        offer->done[i]++;
}

/* All of it is done, by whoever came, and none comes twice or late. */
static void offers_to_whoever_comes(void **state)
{
    static const int threads[] = {1, 2, 3, 8};
    uint32_t done[64];
    (void)state;
    for (size_t t = 0; t < 4; t++) {
        struct ps_pool *pool = NULL;
        struct work work = {.slow_idx = -1};
        assert_int_equal(ps_pool_open(&pool, threads[t], NULL), 0);
        for (int i = 0; i < 3000; i++) {
            struct offer offer = {.count = (uint32_t)(i % 64), .done = done};
            memset(done, 0, sizeof(done));
            ps_pool_offer(pool, take_offered, &offer);
            for (uint32_t j = 0; j < offer.count; j++)
                assert_int_equal(done[j], 1);
            assert_int_equal(offer.came[0], 1);
            for (int idx = 1; idx < THREADS_MAX; idx++)
                assert_in_range(offer.came[idx], 0, idx < threads[t] ? 1 : 0);
            if (i % 50 == 0)
                usleep(200); /* they sleep */
            if (i % 10 != 0)
                continue;
            ps_pool_run(pool, count_run, &work); /* behind one that some have missed */
            work.total++;
            for (int idx = 0; idx < threads[t]; idx++)
                assert_int_equal(work.runs[idx], work.total);
        }
        assert_false(work.wrong);
        ps_pool_close(&pool);
    }
}

static void defaults_to_every_cpu(void **state)
{
    (void)state;
    struct ps_topology topo;
    struct ps_pool *pool = NULL;
    ps_topology_get(&topo);
    assert_int_equal(ps_pool_open(&pool, 0, NULL), 0);
    assert_int_equal(ps_pool_thread_count(pool), topo.cpu_count);
    ps_pool_close(&pool);
}

static void closes_anything(void **state)
{
    (void)state;
    struct ps_pool *pool = NULL;
    ps_pool_close(NULL);
    ps_pool_close(&pool);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(ps_pool_open(&pool, 1 + i % THREADS_MAX, NULL), 0);
        ps_pool_close(&pool);
        assert_null(pool);
    }
}

struct where {
    int cpu_count[THREADS_MAX];
    int signals_blocked[THREADS_MAX];
};

static void look_around(void *ctx, int thread_idx, int thread_count)
{
    struct where *where = ctx;
    cpu_set_t set;
    sigset_t mask;
    (void)thread_count;
    where->cpu_count[thread_idx] = sched_getaffinity(0, sizeof(set), &set) ? 0 : CPU_COUNT(&set);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    where->signals_blocked[thread_idx] = sigismember(&mask, SIGINT);
}

static void pins_workers_and_spares_the_caller(void **state)
{
    (void)state;
    struct ps_pool *pool = NULL;
    struct ps_topology topo;
    struct where where = {{0}, {0}};
    ps_topology_get(&topo);
    assert_int_equal(ps_pool_open(&pool, 3, NULL), 0);
    ps_pool_run(pool, look_around, &where);
    ps_pool_close(&pool);
    assert_int_equal(where.cpu_count[0], topo.cpu_count);
    assert_int_equal(where.signals_blocked[0], 0);
    for (int t = 1; t < 3; t++) {
        assert_int_equal(where.cpu_count[t], 1);
        assert_int_equal(where.signals_blocked[t], 1);
    }
}

static void refuses_odd_counts(void **state)
{
    (void)state;
    struct ps_pool *pool = NULL;
    struct ps_error err = {0};
    assert_int_equal(ps_pool_open(&pool, -1, &err), -PS_ERR_ARGUMENT);
    assert_int_equal(ps_pool_open(&pool, PS_CPU_COUNT_MAX + 1, &err), -PS_ERR_ARGUMENT);
    assert_int_equal(err.code, -PS_ERR_ARGUMENT);
    assert_null(pool);
}

/* In a child, since an address space cannot be widened again: some threads start, then none do. */
static int open_with_little_address_space(void)
{
    char text[64];
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long pages = 0;
    if (!file || !fgets(text, sizeof(text), file))
        return 1;
    fclose(file);
    pages = strtoul(text, NULL, 10);
    rlim_t bytes = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (40 << 20);
    struct rlimit limit = {bytes, bytes};
    if (setrlimit(RLIMIT_AS, &limit) < 0)
        return 2;
    struct ps_pool *pool = NULL;
    struct ps_error err = {0};
    if (ps_pool_open(&pool, 512, &err) != -EAGAIN || pool || err.code != -EAGAIN)
        return 3;
    /* The half-built pool has given everything back. */
    struct work work = {.slow_idx = -1};
    if (ps_pool_open(&pool, 2, &err) != 0)
        return 4;
    ps_pool_run(pool, count_run, &work);
    ps_pool_close(&pool);
    return work.runs[0] == 1 && work.runs[1] == 1 ? 0 : 5;
}

static void fails_cleanly_when_threads_do_not_start(void **state)
{
    (void)state;
    if (PS_TEST_SANITIZED)
        PS_SKIP_ONE("a sanitizer needs an unlimited address space");
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(open_with_little_address_space());
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void shares_cover_exactly(void **state)
{
    (void)state;
    static const uint64_t grains[] = {1, 2, 16, 32, 256, 1000};
    for (uint64_t count = 0; count < 2100; count = count < 70 ? count + 1 : count * 3 / 2) {
        for (size_t g = 0; g < sizeof(grains) / sizeof(grains[0]); g++) {
            for (int n = 1; n <= 9; n++) {
                uint64_t next = 0;
                for (int i = 0; i < n; i++) {
                    uint64_t begin, end;
                    ps_pool_share(count, grains[g], i, n, &begin, &end);
                    assert_int_equal(begin, next);
                    assert_true(end >= begin && end <= count);
                    assert_true(begin % grains[g] == 0 || begin == count);
                    next = end;
                }
                assert_int_equal(next, count);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fails_cleanly_when_threads_do_not_start),
        cmocka_unit_test(runs_every_index_once),
        cmocka_unit_test(wakes_sleepers),
        cmocka_unit_test(offers_to_whoever_comes),
        cmocka_unit_test(defaults_to_every_cpu),
        cmocka_unit_test(closes_anything),
        cmocka_unit_test(pins_workers_and_spares_the_caller),
        cmocka_unit_test(refuses_odd_counts),
        cmocka_unit_test(shares_cover_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
