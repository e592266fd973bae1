/*
 * How fast are products with 8-bit vectors, for every type at every CPU level, and how near to the
 * speed at which the cores read memory? Weights are streamed from a working set beyond the caches
 * and from one inside the second level, by one thread and by several at once, in long rows and in
 * the short rows of an expert's slice. Usage: bench_q8 [--mib N] [--threads N] [--type NAME]
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/util.h"
#include "quant/q8.h"

#define SAMPLES 5
#define SAMPLE_NS 25000000u
#define THREADS_MAX 64
#define L2_BYTES ((size_t)384 << 10)
#define COLS_MAX 4096

struct options {
    size_t mib, threads;
    int type;
};

/* One thread's share of a measurement: matrices one after the other in its part of the memory. */
struct work {
    const struct ps_q8_kernels *kernels; /* NULL: a plain read */
    struct ps_q8_matmul m;
    const uint8_t *weights;
    size_t bytes, matrix_bytes;
    float *y;
    uint64_t deadline_ns;
    uint64_t passes, spent_ns;
};

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t read_avx2(const uint8_t *p, size_t bytes)
{
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i + 128 <= bytes; i += 128) {
        a = _mm256_xor_si256(a, _mm256_load_si256((const void *)(p + i)));
        b = _mm256_xor_si256(b, _mm256_load_si256((const void *)(p + i + 32)));
        c = _mm256_xor_si256(c, _mm256_load_si256((const void *)(p + i + 64)));
        d = _mm256_xor_si256(d, _mm256_load_si256((const void *)(p + i + 96)));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0) ^ (uint64_t)_mm256_extract_epi64(a, 3);
}
#endif

static uint64_t read_words(const uint8_t *p, size_t bytes)
{
    const uint64_t *word = (const void *)p;
    uint64_t sum[4] = {0};
    for (size_t i = 0; i + 4 <= bytes / 8; i += 4) {
        for (size_t j = 0; j < 4; j++)
            sum[j] ^= word[i + j];
    }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

static uint64_t read_all(const uint8_t *p, size_t bytes)
{
#if defined(__x86_64__)
    if (ps_cpu_level() >= PS_CPU_AVX2)
        return read_avx2(p, bytes);
#endif
    return read_words(p, bytes);
}

static volatile uint64_t read_result;

static void pass(struct work *w)
{
    if (w->kernels == NULL) {
        read_result = read_all(w->weights, w->bytes);
        return;
    }
    for (size_t at = 0; at + w->matrix_bytes <= w->bytes; at += w->matrix_bytes) {
        w->m.w = w->weights + at;
        w->kernels->matmul(&w->m);
    }
}

static void *run(void *arg)
{
    struct work *w = arg;
    uint64_t begin = ps_now_ns(), now;

    w->passes = 0;
    do {
        pass(w);
        w->passes++;
        now = ps_now_ns();
    } while (now < w->deadline_ns);
    w->spent_ns = now - begin;
    return NULL;
}

/* GB/s of all threads together; the most of several samples, as other load only takes away. */
static double measure(struct work *work, size_t threads)
{
    double best = 0;

    for (int sample = 0; sample < SAMPLES; sample++) {
        pthread_t id[THREADS_MAX];
        bool started[THREADS_MAX] = {false};
        double sum = 0;
        for (size_t i = 0; i < threads; i++)
            work[i].deadline_ns = ps_now_ns() + SAMPLE_NS;
        for (size_t i = 1; i < threads; i++)
            started[i] = pthread_create(&id[i], NULL, run, &work[i]) == 0;
        run(&work[0]);
        for (size_t i = 0; i < threads; i++) {
            if (i > 0 && started[i])
                pthread_join(id[i], NULL);
            size_t bytes = work[i].kernels == NULL
                               ? work[i].bytes
                               : work[i].bytes / work[i].matrix_bytes * work[i].matrix_bytes;
            if (i == 0 || started[i])
                sum += (double)(bytes * work[i].passes) / (double)work[i].spent_ns;
        }
        best = sum > best ? sum : best;
    }
    return best;
}

struct bench {
    uint8_t *weights;
    size_t bytes, threads;
    uint8_t *x; /* four vectors of COLS_MAX, 64-byte aligned */
    float *y;   /* per thread */
    size_t y_count;
};

/* Where thread i's memory begins: at a block of the type. */
static const uint8_t *part_of(const struct bench *b, size_t i, size_t block_bytes)
{
    return b->weights + i * (b->bytes / b->threads) / block_bytes * block_bytes;
}

/* Rows of `cols` columns; `bytes` of weights for each thread. */
static double bench_one(const struct bench *b, uint32_t type, enum ps_cpu_level level, size_t cols,
                        size_t bytes, size_t threads, size_t n)
{
    struct work work[THREADS_MAX];
    size_t row_bytes = (size_t)ps_row_bytes(type, cols), rows = cols < 1024 ? 4096 : 512;

    rows = rows * row_bytes > bytes ? bytes / row_bytes : rows;
    for (size_t i = 0; i < threads; i++) {
        work[i] = (struct work){.kernels = ps_q8_kernels_get(level),
                                .weights = part_of(b, i, ps_type_info(type)->block_bytes),
                                .bytes = bytes,
                                .matrix_bytes = rows * row_bytes};
        work[i].m = (struct ps_q8_matmul){.type = type,
                                          .w_stride_bytes = row_bytes,
                                          .rows = rows,
                                          .cols = cols,
                                          .x = b->x,
                                          .x_stride_bytes = ps_q8_bytes(COLS_MAX),
                                          .y = b->y + i * b->y_count,
                                          .ldy = rows,
                                          .n = n};
    }
    return measure(work, threads);
}

static double bench_read(const struct bench *b, size_t bytes, size_t threads)
{
    struct work work[THREADS_MAX];
    for (size_t i = 0; i < threads; i++)
        work[i] = (struct work){.weights = part_of(b, i, 4096), .bytes = bytes};
    return measure(work, threads);
}

static void fill_x(const struct bench *b, size_t cols)
{
    static float x[COLS_MAX];
    uint32_t r = 1;
    for (int c = 0; c < 4; c++) {
        for (size_t i = 0; i < cols; i++) {
            r = r * 1664525u + 1013904223u;
            x[i] = (float)(r >> 8) * 0x1p-23f - 1;
        }
        ps_q8_kernels_get(ps_cpu_level())
            ->quantize(x, cols, b->x + (size_t)c * ps_q8_bytes(COLS_MAX));
    }
}

static void bench_type(const struct bench *b, uint32_t type, enum ps_cpu_level level, double all)
{
    const size_t share = b->bytes / b->threads;
    /* The scalar level is bound by arithmetic: a little memory tells. */
    const size_t bytes = level == PS_CPU_SCALAR ? L2_BYTES : share;

    fill_x(b, 4096);
    double one = bench_one(b, type, level, 4096, bytes, 1, 1);
    double together = bench_one(b, type, level, 4096, bytes, b->threads, 1);
    double four = bench_one(b, type, level, 4096, bytes, b->threads, 4);
    double cached = bench_one(b, type, level, 4096, L2_BYTES, 1, 1);
    fill_x(b, 256);
    double slices = bench_one(b, type, level, 256, bytes, b->threads, 1);
    printf("%-8s %-7s %8.2f %8.2f %6.0f %% %8.2f %8.2f %8.2f\n", ps_type_info(type)->name,
           ps_cpu_level_name(level), one, together, 100 * together / all, slices, four, cached);
    fflush(stdout);
}

static int parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i += 2) {
        char *end;
        unsigned long value = i + 1 < argc ? strtoul(argv[i + 1], &end, 10) : 0;
        if (i + 1 < argc && strcmp(argv[i], "--type") == 0) {
            o->type = ps_type_from_name(argv[i + 1]);
            if (o->type < 0 || !ps_q8_has((uint32_t)o->type))
                return -1;
            continue;
        }
        if (value == 0 || *end != '\0' || value > 1u << 20)
            return -1;
        if (strcmp(argv[i], "--mib") == 0)
            o->mib = value;
        else if (strcmp(argv[i], "--threads") == 0 && value <= THREADS_MAX)
            o->threads = value;
        else
            return -1;
    }
    return o->mib / o->threads < 16 ? -1 : 0;
}

/*
 * Ordinary scales: the pattern of a half float near 1 in every two bytes; exponents near those of
 * 1 where a scale is a byte. Products of denormals would be timed otherwise.
 */
static void fill_weights(uint8_t *p, size_t bytes, uint32_t type)
{
    uint32_t r = 1;
    for (size_t i = 0; i + 2 <= bytes; i += 2) {
        r = r * 1664525u + 1013904223u;
        p[i] = (uint8_t)(r >> 24);
        p[i + 1] = (uint8_t)(0x38 | (r >> 16 & 0x83));
    }
    size_t block_bytes = ps_type_info(type)->block_bytes;
    for (size_t i = 0; type == PS_TYPE_MXFP4 && i < bytes; i += block_bytes)
        p[i] = (uint8_t)(120 + p[i] % 16);
}

static void bench_all(const struct bench *b, int only)
{
    double one = bench_read(b, b->bytes / b->threads, 1);
    double all = bench_read(b, b->bytes / b->threads, b->threads);

    printf("plain read: %.2f GB/s by one thread, %.2f by %zu, %.2f in the second level\n\n", one,
           all, b->threads, bench_read(b, L2_BYTES, 1));
    printf("GB/s of weights; rows of 4096 columns, slices of 256, by %zu threads but where named\n",
           b->threads);
    printf("%-8s %-7s %8s %8s %8s %8s %8s %8s\n", "type", "level", "thread", "all", "of read",
           "slices", "n=4", "L2");
    for (uint32_t type = 0; type < PS_TYPE_COUNT; type++) {
        if (!ps_q8_has(type) || (only >= 0 && only != (int)type))
            continue;
        fill_weights(b->weights, b->bytes, type);
        for (int level = 0; level <= (int)ps_cpu_level(); level++)
            bench_type(b, type, (enum ps_cpu_level)level, all);
    }
}

int main(int argc, char **argv)
{
    struct options o = {.mib = 256, .threads = 2, .type = -1};
    if (parse(argc, argv, &o) < 0) {
        fprintf(stderr, "usage: bench_q8 [--mib N, at least 16 for each thread] [--threads N] "
                        "[--type NAME]\n");
        return 2;
    }
    struct bench b = {.bytes = o.mib << 20, .threads = o.threads, .y_count = 4 * 4096};
    b.weights = mmap(NULL, b.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    b.x = aligned_alloc(64, 4 * ps_q8_bytes(COLS_MAX));
    b.y = malloc(o.threads * b.y_count * sizeof(float));
    int status = 1;
    if (b.weights == MAP_FAILED || b.x == NULL || b.y == NULL) {
        fprintf(stderr, "bench_q8: not enough memory for %zu MiB of weights\n", o.mib);
    } else {
        /* As in the engine; where it is refused, plain pages are measured. */
        madvise(b.weights, b.bytes, MADV_HUGEPAGE);
        memset(b.weights, 1, b.bytes);
        bench_all(&b, o.type);
        status = 0;
    }
    if (b.weights != MAP_FAILED)
        munmap(b.weights, b.bytes);
    free(b.x);
    free(b.y);
    return status;
}
