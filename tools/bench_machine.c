#include "tools/bench_machine.h"

#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/cpu.h"
#include "core/util.h"
#include "nvme/penstock_io.h"

/* Many short samples: on a machine that does other work too, one of them finds it idle. */
#define SAMPLE_NS 10000000u
#define SAMPLES_NS 90000000u
#define READ_STEP_BYTES ((size_t)1 << 20)
/* Enough chains that none waits for its own last result: latency 4, two units, and some more. */
#define CHAINS 12
#define CHAIN_TURNS 10000u

struct rate_thread {
    double rate;
    uint64_t step;  /* goes on from sample to sample, so that memory is not read twice */
    char apart[48]; /* a cache line for each */
};

struct rate_run {
    bench_step_fn *step;
    void *ctx;
    struct rate_thread *threads;
};

static void rate_thread_run(void *ctx, int thread, int threads)
{
    struct rate_run *run = ctx;
    uint64_t begin = ps_now_ns(), now, units = 0, step = run->threads[thread].step;

    do {
        units += run->step(run->ctx, thread, threads, step++);
        now = ps_now_ns();
    } while (now - begin < SAMPLE_NS);
    run->threads[thread].step = step;
    run->threads[thread].rate = (double)units * 1e9 / (double)(now - begin);
}

double bench_rate(struct ps_pool *pool, bench_step_fn *step, void *ctx)
{
    int threads = ps_pool_thread_count(pool);
    struct rate_run run = {
        .step = step, .ctx = ctx, .threads = calloc((size_t)threads, sizeof(*run.threads))};
    uint64_t begin = ps_now_ns();
    double best = 0;

    while (run.threads != NULL && (best == 0 || ps_now_ns() - begin < SAMPLES_NS)) {
        double sum = 0;
        ps_pool_run(pool, rate_thread_run, &run);
        for (int i = 0; i < threads; i++)
            sum += run.threads[i].rate;
        if (sum == 0)
            break;
        best = sum > best ? sum : best;
    }
    free(run.threads);
    return best;
}

/* ---- memory ----------------------------------------------------------------------------------
 */

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

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t read_avx2(const uint8_t *p, size_t bytes)
{
    __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                      _mm256_setzero_si256()};

    for (size_t i = 0; i + 128 <= bytes; i += 128) {
        for (size_t j = 0; j < 4; j++)
            sum[j] = _mm256_xor_si256(sum[j], _mm256_load_si256((const void *)(p + i + 32 * j)));
    }
    sum[0] = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
    return (uint64_t)_mm256_extract_epi64(sum[0], 0) ^ (uint64_t)_mm256_extract_epi64(sum[0], 3);
}
#endif

struct read_work {
    const uint8_t *p;
    size_t bytes;
    uint64_t (*read)(const uint8_t *p, size_t bytes);
    volatile uint64_t result; /* so that the reads are not left out */
};

static uint64_t read_step(void *ctx, int thread, int threads, uint64_t step)
{
    struct read_work *work = ctx;
    uint64_t begin, end;

    ps_pool_share(work->bytes, READ_STEP_BYTES, thread, threads, &begin, &end);
    if (begin >= end)
        return 0;
    uint64_t steps = ps_div_up(end - begin, READ_STEP_BYTES);
    begin += step % steps * READ_STEP_BYTES;
    size_t bytes = (size_t)ps_min_u64(end - begin, READ_STEP_BYTES);
    work->result = work->read(work->p + begin, bytes);
    return bytes;
}

double bench_read_rate(struct ps_pool *pool, const uint8_t *p, size_t bytes)
{
    struct read_work work = {.p = p, .bytes = bytes, .read = read_words};
#if defined(__x86_64__)
    if (ps_cpu_level() >= PS_CPU_AVX2)
        work.read = read_avx2;
#endif
    return bench_rate(pool, read_step, &work);
}

static uint64_t read_checked(const uint8_t *p, size_t bytes)
{
    return ps_checksum(p, bytes);
}

double bench_checksum_rate(struct ps_pool *pool, const uint8_t *p, size_t bytes)
{
    struct read_work work = {.p = p, .bytes = bytes, .read = read_checked};
    return bench_rate(pool, read_step, &work);
}

/* ---- arithmetic -------------------------------------------------------------------------------
 *
 * Chains in registers; the empty assembly keeps the compiler from folding them.
 */

static uint64_t float_scalar(void)
{
    float chain[CHAINS] = {0}, a = 0.5f, b = 1;

    for (uint32_t turn = 0; turn < CHAIN_TURNS; turn++) {
        for (int i = 0; i < CHAINS; i++)
            chain[i] = chain[i] * a + b;
        __asm__ volatile("" : "+m"(chain));
    }
    return 2 * CHAINS * CHAIN_TURNS;
}

#if defined(__x86_64__)
/* Each chain is a variable of its own: compilers keep an array of them in memory. */
#define CHAINS_OF(name, isa, type, place, begin, step, per_step)                                   \
    __attribute__((target(isa))) static uint64_t name(void)                                        \
    {                                                                                              \
        type c0 = begin, c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0, c8 = c0,   \
             c9 = c0, c10 = c0, c11 = c0;                                                          \
        for (uint32_t turn = 0; turn < CHAIN_TURNS; turn++) {                                      \
            c0 = step(c0), c1 = step(c1), c2 = step(c2), c3 = step(c3);                            \
            c4 = step(c4), c5 = step(c5), c6 = step(c6), c7 = step(c7);                            \
            c8 = step(c8), c9 = step(c9), c10 = step(c10), c11 = step(c11);                        \
            __asm__ volatile(""                                                                    \
                             : place(c0), place(c1), place(c2), place(c3), place(c4), place(c5),   \
                               place(c6), place(c7), place(c8), place(c9), place(c10),             \
                               place(c11));                                                        \
        }                                                                                          \
        return (uint64_t)2 * per_step * CHAINS * CHAIN_TURNS;                                      \
    }

#define FMA_AVX2(c) _mm256_fmadd_ps(c, _mm256_set1_ps(0.5f), _mm256_set1_ps(1))
#define FMA_AVX512(c) _mm512_fmadd_ps(c, _mm512_set1_ps(0.5f), _mm512_set1_ps(1))
#define DOT_VNNI(c) _mm512_dpbusd_epi32(c, _mm512_set1_epi8(1), _mm512_set1_epi8(2))
CHAINS_OF(float_avx2, "avx2,fma", __m256, "+x", _mm256_set1_ps(1), FMA_AVX2, 8)
CHAINS_OF(float_avx512, "avx512f", __m512, "+v", _mm512_set1_ps(1), FMA_AVX512, 16)
CHAINS_OF(int8_vnni, "avx512f,avx512vnni", __m512i, "+v", _mm512_set1_epi8(2), DOT_VNNI, 64)
#endif

static uint64_t float_step(void *ctx, int thread, int threads, uint64_t step)
{
    (void)ctx, (void)thread, (void)threads, (void)step;
#if defined(__x86_64__)
    if (ps_cpu_level() >= PS_CPU_AVX512)
        return float_avx512();
    if (ps_cpu_level() >= PS_CPU_AVX2)
        return float_avx2();
#endif
    return float_scalar();
}

double bench_float_rate(struct ps_pool *pool)
{
    return bench_rate(pool, float_step, NULL);
}

#if defined(__x86_64__)
static uint64_t int8_step(void *ctx, int thread, int threads, uint64_t step)
{
    (void)ctx, (void)thread, (void)threads, (void)step;
    return int8_vnni();
}
#endif

double bench_int8_rate(struct ps_pool *pool)
{
#if defined(__x86_64__)
    if (ps_cpu_level() >= PS_CPU_VNNI)
        return bench_rate(pool, int8_step, NULL);
#endif
    (void)pool;
    return 0;
}
