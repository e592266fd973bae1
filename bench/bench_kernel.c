/*
 * How fast is each kernel on one core, and how near to the speed at which the core reads memory?
 * Weights are streamed from a working set beyond the caches (n = 1, decode) and reused for 64
 * columns (n = 64, prefill), for every type at every CPU level, beside a plain read of the same
 * memory. Usage: bench_kernel [--mib N] [--rows N] [--cols N] [--type TYPE]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/util.h"
#include "quant/kernels.h"

#define PREFILL_COLUMNS 64
#define SAMPLES 5
#define SAMPLE_NS 60000000u

struct bench {
    uint8_t *weights;
    size_t weights_bytes;
    size_t rows, cols;
    int type; /* -1: all */
    float *x, *y;
};

typedef void work_fn(void *ctx);

/* The least time of a call in ns over several samples: other load on the machine only adds. */
static double time_ns(work_fn *work, void *ctx)
{
    double best = 0;
    work(ctx);
    for (int sample = 0; sample < SAMPLES; sample++) {
        uint64_t begin = ps_now_ns(), now, calls = 0;
        do {
            work(ctx);
            calls++;
            now = ps_now_ns();
        } while (now - begin < SAMPLE_NS);
        double each = (double)(now - begin) / (double)calls;
        best = sample == 0 || each < best ? each : best;
    }
    return best;
}

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
        for (int j = 0; j < 4; j++)
            sum[j] ^= word[i + (size_t)j];
    }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

static volatile uint64_t read_result;

static void read_all(void *ctx)
{
    const struct bench *b = ctx;
#if defined(__x86_64__)
    if (ps_cpu_level() >= PS_CPU_AVX2) {
        read_result = read_avx2(b->weights, b->weights_bytes);
        return;
    }
#endif
    read_result = read_words(b->weights, b->weights_bytes);
}

struct matmul_work {
    const struct ps_kernels *kernels;
    struct ps_matmul m;
    size_t matrix_bytes, matrix_count;
    const uint8_t *weights;
};

/* As many matrices as the working set holds, one after the other. */
static void run_matmul(void *ctx)
{
    struct matmul_work *w = ctx;
    for (size_t i = 0; i < w->matrix_count; i++) {
        w->m.w = w->weights + i * w->matrix_bytes;
        w->kernels->matmul(&w->m);
    }
}

static void bench_matmul(const struct bench *b, uint32_t type, enum ps_cpu_level level,
                         double read_gbs)
{
    struct matmul_work w = {.kernels = ps_kernels_get(level), .weights = b->weights};
    w.m = (struct ps_matmul){.type = type,
                             .w_stride_bytes = (size_t)ps_row_bytes(type, b->cols),
                             .rows = b->rows,
                             .cols = b->cols,
                             .x = b->x,
                             .ldx = b->cols,
                             .y = b->y,
                             .ldy = b->rows,
                             .n = 1};
    w.matrix_bytes = w.m.w_stride_bytes * b->rows;
    /* The scalar level is timed on one matrix: it is bound by arithmetic, not by memory. */
    w.matrix_count = level == PS_CPU_SCALAR ? 1 : b->weights_bytes / w.matrix_bytes;
    double gbs = (double)(w.matrix_bytes * w.matrix_count) / time_ns(run_matmul, &w);

    w.matrix_count = 1;
    w.m.n = PREFILL_COLUMNS;
    double operations = 2.0 * (double)(b->rows * b->cols * PREFILL_COLUMNS);
    double gflops = operations / time_ns(run_matmul, &w);
    printf("%-7s %-7s %10.2f %8.0f %% %12.1f\n", ps_type_info(type)->name, ps_cpu_level_name(level),
           gbs, 100 * gbs / read_gbs, gflops);
    fflush(stdout);
}

/* ---- The other kernels: one call of a usual size, from the cache ---- */

#define VECTOR_LEN 4096
#define HEAD_LEN 128

struct vector_work {
    const struct ps_kernels *k;
    float *a, *b, *c, *d; /* VECTOR_LEN * 4 each */
    float *state;         /* [HEAD_LEN, HEAD_LEN] */
    float result;
};

static void run_dot(void *ctx)
{
    struct vector_work *w = ctx;
    w->result = w->k->dot(w->a, w->b, VECTOR_LEN);
}

static void run_axpy(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->axpy(w->c, 1e-9f, w->a, VECTOR_LEN);
}

static void run_add(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->add(w->c, w->d, VECTOR_LEN);
}

static void run_scale(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->scale(w->c, 0.5f, w->a, VECTOR_LEN);
}

static void run_rmsnorm(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->rmsnorm(w->c, w->a, w->b, VECTOR_LEN, 1e-6f);
}

static void run_l2norm(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->l2norm(w->c, w->a, HEAD_LEN, 1e-6f, 0.1f);
}

static void run_swiglu(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->swiglu(w->c, w->a, w->b, VECTOR_LEN);
}

static void run_silu(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->silu(w->c, w->a, VECTOR_LEN);
}

static void run_sigmoid_mul(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->sigmoid_mul(w->c, w->a, w->b, VECTOR_LEN);
}

static void run_softmax(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->softmax(w->c, VECTOR_LEN);
}

static void run_delta_step(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->delta_step(w->state, w->a, w->b, w->a + HEAD_LEN, w->c, w->d, HEAD_LEN, HEAD_LEN, 0.9f,
                     0.5f);
}

static void run_conv_step(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->conv_step(w->c, w->d, w->a, w->b, VECTOR_LEN, 4);
}

static void run_rope(void *ctx)
{
    struct vector_work *w = ctx;
    w->k->rope(w->c, w->a, w->b, HEAD_LEN / 2);
}

static const struct {
    const char *name;
    work_fn *run;
} vector_kernels[] = {
    {"dot, 4096", run_dot},
    {"axpy, 4096", run_axpy},
    {"add, 4096", run_add},
    {"scale, 4096", run_scale},
    {"rmsnorm, 4096", run_rmsnorm},
    {"l2norm, 128", run_l2norm},
    {"swiglu, 4096", run_swiglu},
    {"silu, 4096", run_silu},
    {"sigmoid_mul, 4096", run_sigmoid_mul},
    {"softmax, 4096", run_softmax},
    {"delta_step, 128 x 128", run_delta_step},
    {"conv_step, 4096 x 4", run_conv_step},
    {"rope, 128", run_rope},
};

/* Values in [-1, 1): arithmetic on denormals or NaN would be timed otherwise. */
static void fill(float *x, size_t count)
{
    uint32_t r = 1;
    for (size_t i = 0; i < count; i++) {
        r = r * 1664525u + 1013904223u;
        x[i] = (float)(r >> 8) * 0x1p-23f - 1;
    }
}

static void bench_vectors(void)
{
    static float buffers[4][VECTOR_LEN * 4], state[HEAD_LEN * HEAD_LEN];

    printf("\n%-22s", "microseconds a call");
    for (int level = 0; level <= (int)ps_cpu_level(); level++)
        printf(" %9s", ps_cpu_level_name((enum ps_cpu_level)level));
    printf("\n");
    for (size_t i = 0; i < PS_ARRAY_LEN(vector_kernels); i++) {
        printf("%-22s", vector_kernels[i].name);
        for (int level = 0; level <= (int)ps_cpu_level(); level++) {
            for (int j = 0; j < 4; j++)
                fill(buffers[j], VECTOR_LEN * 4);
            fill(state, HEAD_LEN * HEAD_LEN);
            struct vector_work w = {ps_kernels_get((enum ps_cpu_level)level),
                                    buffers[0],
                                    buffers[1],
                                    buffers[2],
                                    buffers[3],
                                    state,
                                    0};
            printf(" %9.3f", time_ns(vector_kernels[i].run, &w) / 1000);
            fflush(stdout);
        }
        printf("\n");
    }
}

static int parse(int argc, char **argv, struct bench *b)
{
    for (int i = 1; i < argc; i += 2) {
        char *end;
        if (i + 1 < argc && strcmp(argv[i], "--type") == 0) {
            b->type = ps_type_from_name(argv[i + 1]);
            if (b->type < 0)
                return -1;
            continue;
        }
        unsigned long value = i + 1 < argc ? strtoul(argv[i + 1], &end, 10) : 0;
        if (value == 0 || *end != '\0' || value > 1u << 20)
            return -1;
        if (strcmp(argv[i], "--mib") == 0)
            b->weights_bytes = (size_t)value << 20;
        else if (strcmp(argv[i], "--rows") == 0)
            b->rows = value;
        else if (strcmp(argv[i], "--cols") == 0)
            b->cols = value;
        else
            return -1;
    }
    size_t largest = b->rows * b->cols * sizeof(float);
    return b->cols % 32 != 0 || largest > b->weights_bytes ? -1 : 0;
}

/* Valid weights of every type at once: the pattern of a half float near 1 in every two bytes. */
static void fill_weights(uint8_t *p, size_t bytes)
{
    uint32_t r = 1;
    for (size_t i = 0; i + 2 <= bytes; i += 2) {
        r = r * 1664525u + 1013904223u;
        p[i] = (uint8_t)(r >> 24);
        p[i + 1] = (uint8_t)(0x38 | (r >> 16 & 0x83));
    }
}

int main(int argc, char **argv)
{
    struct bench b = {.weights_bytes = (size_t)256 << 20, .rows = 1024, .cols = 4096, .type = -1};
    if (parse(argc, argv, &b) < 0) {
        fprintf(stderr, "usage: bench_kernel [--mib N] [--rows N] [--cols N, a multiple of 32] "
                        "[--type TYPE]\nOne matrix of floats must fit into N MiB.\n");
        return 2;
    }
    b.weights =
        mmap(NULL, b.weights_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    b.x = malloc(PREFILL_COLUMNS * b.cols * sizeof(float));
    b.y = malloc(PREFILL_COLUMNS * b.rows * sizeof(float));
    if (b.weights == MAP_FAILED || b.x == NULL || b.y == NULL) {
        fprintf(stderr, "bench_kernel: not enough memory for %zu MiB of weights\n",
                b.weights_bytes >> 20);
        free(b.x);
        free(b.y);
        return 1;
    }
    /* As in the engine; where it is refused, plain pages are measured. */
    madvise(b.weights, b.weights_bytes, MADV_HUGEPAGE);
    fill_weights(b.weights, b.weights_bytes);
    fill(b.x, PREFILL_COLUMNS * b.cols);

    double read_gbs = (double)b.weights_bytes / time_ns(read_all, &b);
    printf("one core, %zu MiB of weights in matrices of %zu x %zu\n", b.weights_bytes >> 20, b.rows,
           b.cols);
    printf("plain read: %.2f GB/s\n\n", read_gbs);
    printf("%-7s %-7s %10s %10s %12s\n", "type", "level", "GB/s n=1", "of read", "GFLOP/s n=64");
    for (uint32_t type = 0; type < PS_TYPE_COUNT; type++) {
        if (b.type >= 0 && (int)type != b.type)
            continue;
        if (!ps_row_bytes(type, b.cols) || !ps_type_info(type)->has_kernels)
            continue;
        for (int level = 0; level <= (int)ps_cpu_level(); level++)
            bench_matmul(&b, type, (enum ps_cpu_level)level, read_gbs);
    }
    if (b.type < 0)
        bench_vectors();
    free(b.x);
    free(b.y);
    munmap(b.weights, b.weights_bytes);
    return 0;
}
