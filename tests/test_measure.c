/* Measuring: percentiles, the order of reads, what is counted and what is refused; the knee. */
#include "util.h"

#include "core/util.h"
#include "nvme/histogram.h"
#include "nvme/measure.h"
#include "nvme/sweep.h"

#define FILE_BYTES ((uint64_t)8 << 20)

static char dir[256], path[2][320];

/* ---- the parts ------------------------------------------------------------------------------- */

static void test_histogram(void **state)
{
    static struct ps_histogram histogram;
    static uint64_t values[20000];
    static const double shares[] = {0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0};
    uint64_t x = 1;

    (void)state;
    assert_int_equal(ps_histogram_quantile(&histogram, 0.5), 0);
    for (size_t i = 0; i < PS_ARRAY_LEN(values); i++) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407;
        values[i] = (x >> 20) >> (x % 43); /* of every magnitude */
        ps_histogram_add(&histogram, values[i]);
    }
    qsort(values, PS_ARRAY_LEN(values), sizeof(values[0]), ps_compare_u64);
    assert_int_equal(histogram.max, values[PS_ARRAY_LEN(values) - 1]);
    for (size_t i = 0; i < PS_ARRAY_LEN(shares); i++) {
        size_t rank = (size_t)(shares[i] * (double)PS_ARRAY_LEN(values));
        uint64_t exact = values[rank == 0 ? 0 : rank - 1];
        uint64_t got = ps_histogram_quantile(&histogram, shares[i]);
        if (exact >> PS_HISTOGRAM_BITS_MAX != 0)
            continue;
        assert_true(got >= exact && got - exact <= exact / 64 + 1);
    }
    ps_histogram_add(&histogram, UINT64_MAX);
    assert_true(ps_histogram_quantile(&histogram, 1.0) == UINT64_MAX ||
                ps_histogram_quantile(&histogram, 1.0) > UINT64_C(1) << 41);
}

static void test_shuffle(void **state)
{
    static const uint64_t counts[] = {1, 2, 3, 4, 5, 16, 17, 1000, 4096, 65537};

    (void)state;
    for (size_t c = 0; c < PS_ARRAY_LEN(counts); c++) {
        uint64_t count = counts[c], neighbours = 0, before = 0;
        uint8_t *seen = calloc(count, 1);
        for (uint64_t i = 0; i < count; i++) {
            uint64_t at = ps_bench_shuffle(i, count, c);
            assert_true(at < count);
            assert_int_equal(seen[at], 0);
            seen[at] = 1;
            neighbours += i > 0 && at == before + 1;
            before = at;
        }
        free(seen);
        /* In a random order one in `count` follows its neighbour. */
        assert_true(neighbours <= 4 || neighbours < count / 100);
    }
    uint64_t same = 0;
    for (uint64_t i = 0; i < 1000; i++)
        same += ps_bench_shuffle(i, 1000, 1) == ps_bench_shuffle(i, 1000, 2);
    assert_true(same < 20);
}

/* ---- measurements ---------------------------------------------------------------------------- */

static void set_up(void)
{
    uint64_t *data = malloc(FILE_BYTES);

    ps_test_dir_make(dir, sizeof(dir));
    for (int f = 0; f < 2; f++) {
        for (uint64_t i = 0; i < FILE_BYTES / 8; i++)
            data[i] = f == 0 ? i + 1 : 0;
        snprintf(path[f], sizeof(path[f]), "%s/file.%d", dir, f);
        ps_test_file_write(dir, path[f] + strlen(dir) + 1, data, FILE_BYTES);
    }
    free(data);
}

static struct ps_measure_options options_for(const char *const *paths, int count)
{
    return (struct ps_measure_options){.paths = paths,
                                       .path_count = count,
                                       .request_bytes = 256u << 10,
                                       .depth = 4,
                                       .bytes_max = FILE_BYTES * (uint64_t)count};
}

static void test_counts(void **state)
{
    static const char *const engines[] = {NULL,    "uring",     "uring+sqpoll",
                                          "pread", "pagecache", "mmap"};
    const char *paths[2] = {path[0], path[1]};

    (void)state;
    for (size_t e = 0; e < PS_ARRAY_LEN(engines); e++) {
        for (int sequential = 0; sequential < 2; sequential++) {
            struct ps_measure_options options = options_for(paths, 2);
            struct ps_measure_result r;
            struct ps_error err = {0};
            options.engine = engines[e];
            options.is_sequential = sequential != 0;
            int rc = ps_measure_run(&options, &r, &err);
            if (rc < 0)
                fail_msg("%s: %s", err.where, err.text);
            assert_int_equal(r.bytes, 2 * FILE_BYTES);
            assert_int_equal(r.bytes, r.path_bytes[0] + r.path_bytes[1]);
            assert_true(r.path_bytes[0] > 0 && r.path_bytes[1] > 0 && r.path_bytes[2] == 0);
            assert_int_equal(r.request_count, r.bytes / options.request_bytes);
            assert_true(r.ns > 0 && r.bytes_per_s > 0 && r.steady_bytes_per_s > 0);
            assert_true(r.latency_p50_ns > 0 && r.latency_p50_ns <= r.latency_p90_ns);
            assert_true(r.latency_p90_ns <= r.latency_p99_ns);
            assert_true(r.latency_p99_ns <= r.latency_p999_ns);
            assert_true(r.latency_p999_ns <= r.latency_max_ns && r.latency_max_ns <= r.ns);
            assert_false(r.is_blank);
            if (strcmp(r.engine, "pread") != 0)
                assert_string_equal(r.engine, options.engine != NULL ? options.engine : "uring");
        }
    }
}

static void test_limits(void **state)
{
    const char *paths[1] = {path[1]};
    struct ps_measure_options options = options_for(paths, 1);
    struct ps_measure_result r;
    struct ps_error err = {0};
    volatile int stop = 1;

    (void)state;
    /* More than one round, and less than a queue. */
    options.bytes_max = 3 * FILE_BYTES;
    assert_int_equal(ps_measure_run(&options, &r, &err), 0);
    assert_int_equal(r.bytes, 3 * FILE_BYTES);
    assert_true(r.is_blank);
    options.bytes_max = 1;
    assert_int_equal(ps_measure_run(&options, &r, &err), 0);
    assert_int_equal(r.request_count, options.depth);
    options.bytes_max = 0;
    options.ns_max = 1;
    assert_int_equal(ps_measure_run(&options, &r, &err), 0);
    assert_true(r.request_count >= options.depth);
    options.stop = &stop;
    options.ns_max = UINT64_MAX;
    assert_int_equal(ps_measure_run(&options, &r, &err), -EINTR);
}

static void refused(const struct ps_measure_options *options, int code, const char *part)
{
    struct ps_measure_result r = {.bytes = 1};
    struct ps_error err = {0};

    assert_int_equal(ps_measure_run(options, &r, &err), code);
    if (strstr(err.text, part) == NULL)
        fail_msg("no \"%s\" in: %s", part, err.text);
    assert_int_equal(r.bytes, 1);
}

static void test_refusals(void **state)
{
    char sparse[320], fifo[320];
    const char *paths[1] = {path[0]};
    const struct ps_measure_options good = options_for(paths, 1);
    struct ps_measure_options options;

    (void)state;
    snprintf(sparse, sizeof(sparse), "%s/sparse", dir);
    snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
    ps_test_file_write(dir, "sparse", "x", 1);
    assert_int_equal(truncate(sparse, (off_t)FILE_BYTES), 0);
    assert_int_equal(mkfifo(fifo, 0600), 0);
#define REFUSED(FIELD, VALUE, CODE, PART)                                                          \
    options = good;                                                                                \
    options.FIELD = VALUE;                                                                         \
    refused(&options, CODE, PART)
    REFUSED(bytes_max, 0, -PS_ERR_ARGUMENT, "how long");
    REFUSED(request_bytes, 0, -PS_ERR_ARGUMENT, "multiples");
    REFUSED(request_bytes, 4097, -PS_ERR_ARGUMENT, "multiples");
    REFUSED(request_bytes, (64u << 20) + 4096, -PS_ERR_ARGUMENT, "multiples");
    REFUSED(request_bytes, 16u << 20, -PS_ERR_ARGUMENT, "shorter");
    REFUSED(depth, 0, -PS_ERR_ARGUMENT, "in flight");
    REFUSED(depth, 129, -PS_ERR_ARGUMENT, "in flight");
    REFUSED(path_count, 0, -PS_ERR_ARGUMENT, "name 1 to");
    REFUSED(path_count, 65, -PS_ERR_ARGUMENT, "name 1 to");
    REFUSED(engine, "dma", -PS_ERR_ARGUMENT, "dma");
    paths[0] = sparse;
    REFUSED(depth, 1, -PS_ERR_ARGUMENT, "ever been written");
    paths[0] = fifo;
    REFUSED(depth, 1, -ENOTBLK, "files and block devices");
    paths[0] = dir;
    REFUSED(depth, 1, -EISDIR, "files and block devices");
    paths[0] = "/nowhere/at/all";
    REFUSED(depth, 1, -ENOENT, "cannot be opened");
#undef REFUSED
}

/* ---- the table ------------------------------------------------------------------------------- */

/* A drive of 1 GB/s that needs so many bytes in flight, and at least so long for one read. */
static void fill_table(struct ps_probe_result *r, double full_bytes, double read_s)
{
    memset(r, 0, sizeof(*r));
    ps_sweep_points(r);
    for (uint32_t s = 0; s < PS_PROBE_SIZE_COUNT; s++) {
        for (uint32_t d = 0; d < PS_PROBE_DEPTH_COUNT; d++) {
            struct ps_probe_point *p = &r->points[s][d];
            double bytes = (double)p->request_bytes * p->depth;
            double by_queue = bytes >= full_bytes ? 1e9 : 1e9 * bytes / full_bytes;
            double by_reads = bytes / read_s;
            p->bytes_per_s = (uint64_t)(by_queue < by_reads ? by_queue : by_reads);
            p->latency_p50_ns = p->request_bytes + p->depth;
        }
    }
}

static void test_knee(void **state)
{
    struct ps_probe_result r;

    (void)state;
    fill_table(&r, 4 << 20, 0);
    assert_int_equal(r.points[0][0].request_bytes, 64 << 10);
    assert_int_equal(r.points[7][6].request_bytes, 8 << 20);
    assert_int_equal(r.points[7][6].depth, 64);
    ps_sweep_judge(&r);
    assert_int_equal(r.profile.request_bytes, 1 << 20);
    assert_int_equal(r.profile.depth, 4);
    assert_int_equal(r.profile.bytes_per_s, 1000000000);
    assert_int_equal(r.profile.latency_ns, (1 << 20) + 1);
    assert_int_equal(r.profile.piece_bytes_min, 64 << 10);

    /* 64 reads at most: 64 x 64 KiB in 8 ms are only half of it. */
    fill_table(&r, 4 << 20, 0.008);
    ps_sweep_judge(&r);
    assert_int_equal(r.profile.request_bytes, 1 << 20);
    assert_int_equal(r.profile.depth, 8);
    assert_int_equal(r.profile.piece_bytes_min, 128 << 10);

    /* One read would do, but leaves the drive idle while the next is begun. */
    fill_table(&r, 1 << 20, 0);
    ps_sweep_judge(&r);
    assert_int_equal(r.profile.request_bytes, 1 << 20);
    assert_int_equal(r.profile.depth, 2);

    /* The longest reads win less than a tenth, then more. */
    fill_table(&r, 4 << 20, 0);
    for (uint32_t d = 0; d < PS_PROBE_DEPTH_COUNT; d++)
        r.points[7][d].bytes_per_s += r.points[7][d].bytes_per_s / 11;
    ps_sweep_judge(&r);
    assert_int_equal(r.profile.request_bytes, 1 << 20);
    for (uint32_t d = 0; d < PS_PROBE_DEPTH_COUNT; d++)
        r.points[7][d].bytes_per_s += r.points[7][d].bytes_per_s / 8;
    ps_sweep_judge(&r);
    assert_int_equal(r.profile.request_bytes, 8 << 20);
    assert_int_equal(r.profile.depth, 2);
    assert_int_equal(r.profile.piece_bytes_min, 8 << 20);

    /* Nothing but single reads was measured. */
    fill_table(&r, 1 << 20, 0);
    for (uint32_t s = 0; s < PS_PROBE_SIZE_COUNT; s++) {
        for (uint32_t d = 1; d < PS_PROBE_DEPTH_COUNT; d++)
            r.points[s][d].bytes_per_s = 0;
    }
    ps_sweep_judge(&r);
    assert_int_equal(r.profile.request_bytes, 1 << 20);
    assert_int_equal(r.profile.depth, 1);

    /* A file that is shorter than the preferred reads: the table has holes. */
    fill_table(&r, 256 << 10, 0);
    for (uint32_t s = 3; s < PS_PROBE_SIZE_COUNT; s++) {
        for (uint32_t d = 0; d < PS_PROBE_DEPTH_COUNT; d++)
            r.points[s][d].bytes_per_s = 0;
    }
    ps_sweep_judge(&r);
    assert_int_equal(r.profile.request_bytes * r.profile.depth, 256 << 10);
}

/* Disturbances move the knee by a step at most, and the bandwidth by little. */
static void test_noise(void **state)
{
    uint64_t x = 1;
    int off = 0;

    (void)state;
    for (int run = 0; run < 200; run++) {
        struct ps_probe_result r;
        fill_table(&r, 4 << 20, 0);
        for (uint32_t i = 0; i < PS_PROBE_SIZE_COUNT * PS_PROBE_DEPTH_COUNT; i++) {
            struct ps_probe_point *p =
                &r.points[i / PS_PROBE_DEPTH_COUNT][i % PS_PROBE_DEPTH_COUNT];
            x = x * UINT64_C(6364136223846793005) + 1442695040888963407;
            double share = 0.96 + 0.08 * (double)(x >> 40) / (double)(1 << 24);
            share *= (x >> 33) % 50 == 0 ? 1.4 : 1; /* and some are far off */
            p->bytes_per_s = (uint64_t)((double)p->bytes_per_s * share);
            if ((uint64_t)p->request_bytes * p->depth > 64 << 20)
                p->bytes_per_s = 0;
        }
        ps_sweep_judge(&r);
        uint64_t in_flight = (uint64_t)r.profile.request_bytes * r.profile.depth;
        off += in_flight < 2 << 20 || in_flight > 8 << 20 || r.profile.bytes_per_s < 930000000 ||
               r.profile.bytes_per_s > 1070000000 || r.profile.piece_bytes_min > 256 << 10;
    }
    /* Two disturbances side by side at an edge of the table are one too many. */
    assert_true(off <= 6);
}

static void test_probe(void **state)
{
    struct ps_probe_options options = {.path = path[0], .ns_max = 1};
    struct ps_probe_result r;
    struct ps_error err = {0};
    volatile int stop = 1;

    (void)state;
    if (ps_probe_run(&options, &r, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    assert_int_equal(r.round_count, 1);
    assert_false(r.is_blank);
    assert_true(r.profile.bytes_per_s > 0 && r.profile.latency_ns > 0);
    assert_int_equal(r.profile.request_bytes, r.points[r.knee_size][r.knee_depth].request_bytes);
    assert_true(r.profile.piece_bytes_min <= r.profile.request_bytes);
    options.stop = &stop;
    assert_int_equal(ps_probe_run(&options, &r, &err), -EINTR);
    ps_test_file_write(dir, "short", "x", 1);
    char tiny[320];
    snprintf(tiny, sizeof(tiny), "%s/short", dir);
    options = (struct ps_probe_options){.path = tiny};
    assert_int_equal(ps_probe_run(&options, &r, &err), -PS_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histogram), cmocka_unit_test(test_shuffle),
        cmocka_unit_test(test_counts),    cmocka_unit_test(test_limits),
        cmocka_unit_test(test_refusals),  cmocka_unit_test(test_knee),
        cmocka_unit_test(test_noise),     cmocka_unit_test(test_probe),
    };
    set_up();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ps_test_dir_remove(dir);
    return failed;
}
