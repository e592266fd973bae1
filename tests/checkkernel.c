/*
 * Checks every kernel of every CPU level that this machine has: bit for bit against the scalar
 * table, and the scalar table against doubles. `checkkernel --seed N` repeats a run, `--level NAME`
 * does one level (scalar, avx2, avx512, vnni, amx), `--rounds N` does more.
 */
#include "checkkernel.h"

#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define AREA_BYTES ((size_t)1 << 20)
#define MARGIN_BYTES 256
#define FAILURES_SHOWN 20

struct area {
    uint8_t *base; /* AREA_BYTES, untouchable pages on both sides */
    uint8_t *used;
    size_t used_bytes;
};

static struct area areas[CHECK_SLOTS];
static uint64_t random_state;
static char current_case[256];
static size_t failure_count, comparison_count;

const char *check_kind_name(enum check_kind kind)
{
    static const char *const names[CHECK_KIND_COUNT] = {
        "normal", "denormal", "zero", "vanishing", "wide", "alternate", "special"};
    return names[kind];
}

void check_case(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(current_case, sizeof(current_case), fmt, args);
    va_end(args);
}

__attribute__((format(printf, 1, 2))) static void fail(const char *fmt, ...)
{
    if (failure_count++ >= FAILURES_SHOWN)
        return;
    va_list args;
    va_start(args, fmt);
    printf("FAIL %s: ", current_case);
    vprintf(fmt, args);
    printf("\n");
    va_end(args);
}

/* splitmix64: small, and any seed will do. */
uint32_t check_random(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

size_t check_between(size_t low, size_t high)
{
    return low + check_random() % (high - low + 1);
}

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static float random_normal(void)
{
    return ((float)(check_random() >> 8) * 0x1p-23f - 1.0f) * (float)(1 + check_random() % 4);
}

static float random_special(void)
{
    const float specials[] = {NAN,   INFINITY,     -INFINITY,    0.0f,
                              -0.0f, FLT_TRUE_MIN, -FLT_MIN / 2, FLT_MAX};
    return check_random() % 8 == 0 ? CHECK_PICK(specials) : random_normal();
}

void check_fill(float *x, size_t count, enum check_kind kind)
{
    const float vanishing = check_random() % 2 ? 0x1p-90f : -0x1p-90f;
    for (size_t i = 0; i < count; i++) {
        uint32_t u = check_random();
        switch (kind) {
        case CHECK_NORMAL:
            x[i] = random_normal();
            break;
        case CHECK_DENORMAL:
            x[i] = from_bits(u & 0x807fffff);
            break;
        case CHECK_ZERO:
            x[i] = from_bits(u & 0x80000000);
            break;
        case CHECK_VANISH:
            x[i] = vanishing * (1 + (float)(u >> 8) * 0x1p-24f);
            break;
        case CHECK_WIDE:
            x[i] = from_bits((u & 0x7f800000) == 0x7f800000 ? u & 0xbfffffff : u);
            break;
        case CHECK_ALTERNATE:
            x[i] = i % 2 == 0 ? FLT_MAX : -FLT_MAX;
            break;
        default:
            x[i] = random_special();
        }
    }
}

uint16_t check_half(enum check_kind kind)
{
    static const uint16_t extremes[] = {0x0000, 0x8000, 0x0001, 0x8001,
                                        0x03ff, 0x83ff, 0x7bff, 0xfbff};
    static const uint16_t specials[] = {0x7c00, 0xfc00, 0x7e00, 0xfe01};
    uint32_t r = check_random();

    switch (kind) {
    case CHECK_DENORMAL:
        return r & 0x83ff;
    case CHECK_ZERO:
        return r & 0x8000;
    case CHECK_WIDE:
        return (r & 0x7c00) == 0x7c00 ? r & 0xbfff : r & 0xffff;
    case CHECK_ALTERNATE:
        return r & 1 ? 0x7bff : 0xfbff;
    case CHECK_SPECIAL:
        if (r % 8 == 0)
            return CHECK_PICK(specials);
        break;
    default:
        break;
    }
    if (r % 16 == 0)
        return CHECK_PICK(extremes);
    /* 2^-10 to 2^2, any mantissa, either sign. */
    return (uint16_t)((r & 0x83ff) | (uint32_t)check_between(5, 17) << 10);
}

static void open_areas(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < CHECK_SLOTS; i++) {
        uint8_t *map =
            mmap(NULL, AREA_BYTES + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED || mprotect(map + page, AREA_BYTES, PROT_READ | PROT_WRITE) != 0) {
            perror("checkkernel: mapping guarded memory");
            exit(1);
        }
        areas[i].base = map + page;
    }
}

void *check_bytes(int slot, size_t bytes)
{
    struct area *a = &areas[slot];
    if (bytes + MARGIN_BYTES > AREA_BYTES) {
        fprintf(stderr, "checkkernel: %zu bytes do not fit a guarded area\n", bytes);
        exit(1);
    }
    a->used = check_random() % 4 == 0 ? a->base : a->base + AREA_BYTES - bytes;
    a->used_bytes = bytes;
    uint8_t *from = a->used == a->base ? a->base : a->used - MARGIN_BYTES;
    memset(from, 0xa5, bytes + MARGIN_BYTES);
    return a->used;
}

float *check_floats(int slot, size_t count)
{
    return check_bytes(slot, count * sizeof(float));
}

void check_done(void)
{
    for (int i = 0; i < CHECK_SLOTS; i++) {
        struct area *a = &areas[i];
        if (a->used == NULL)
            continue;
        const uint8_t *margin =
            a->used == a->base ? a->used + a->used_bytes : a->used - MARGIN_BYTES;
        for (size_t j = 0; j < MARGIN_BYTES; j++) {
            if (margin[j] != 0xa5) {
                fail("wrote outside of buffer %d", i);
                break;
            }
        }
        a->used = NULL;
    }
}

void check_same(const char *what, const float *expected, const float *got, size_t count)
{
    comparison_count++;
    if (count == 0 || memcmp(expected, got, count * sizeof(*got)) == 0)
        return;
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&expected[i], &got[i], sizeof(*got)) == 0 ||
            (isnan(expected[i]) && isnan(got[i])))
            continue;
        fail("%s[%zu] of %zu is %a instead of %a", what, i, count, (double)got[i],
             (double)expected[i]);
        return;
    }
}

void check_same_bytes(const char *what, const uint8_t *expected, const uint8_t *got, size_t bytes)
{
    comparison_count++;
    for (size_t i = 0; i < bytes; i++) {
        if (expected[i] != got[i]) {
            fail("byte %zu of %zu of the %s is %d instead of %d", i, bytes, what, got[i],
                 expected[i]);
            return;
        }
    }
}

void check_near(const char *what, size_t i, double exact, double bound, float got)
{
    comparison_count++;
    /* Written so that a NaN fails. */
    if (!(fabs((double)got - exact) <= bound))
        fail("%s[%zu] is %.9g, exactly %.17g, off by %g where %g is allowed", what, i, (double)got,
             exact, fabs((double)got - exact), bound);
}

static void on_fault(int sig)
{
    static const char text[] = "FAIL touched memory behind a buffer: ";
    (void)sig;
    ssize_t ignored = write(STDOUT_FILENO, text, sizeof(text) - 1);
    ignored = write(STDOUT_FILENO, current_case, strnlen(current_case, sizeof(current_case)));
    ignored = write(STDOUT_FILENO, "\n", 1);
    (void)ignored;
    _exit(1);
}

static void check_level(enum ps_cpu_level level)
{
    const struct ps_kernels *scalar = ps_kernels_get(PS_CPU_SCALAR);
    size_t before = failure_count, comparisons = comparison_count;

    if (level == PS_CPU_SCALAR) {
        check_matmul_oracle(scalar);
        check_vectors_oracle(scalar);
        check_q8_oracle();
    } else {
        check_matmul(scalar, ps_kernels_get(level));
        check_vectors(scalar, ps_kernels_get(level));
        check_q8(level);
        check_encode(level);
    }
    /* Once, with the level whose instructions it needs besides tiles. */
    if (level == PS_CPU_VNNI)
        check_q8_tiles();
    printf("%-7s %s, %zu comparisons\n", ps_cpu_level_name(level),
           failure_count == before ? "ok" : "FAILED", comparison_count - comparisons);
}

/* Sanitized builds have no kernels above AVX2 (quant/CMakeLists.txt). */
#ifdef PS_SANITIZED
#define LEVEL_LAST PS_CPU_AVX2
#else
#define LEVEL_LAST (PS_CPU_LEVEL_COUNT - 1)
#endif

struct options {
    uint64_t seed;
    int rounds;
    int level; /* -1: all */
};

static int parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc)
            return -1;
        if (strcmp(argv[i], "--seed") == 0) {
            o->seed = strtoull(argv[i + 1], NULL, 0);
        } else if (strcmp(argv[i], "--rounds") == 0) {
            o->rounds = atoi(argv[i + 1]);
        } else if (strcmp(argv[i], "--level") == 0) {
            for (int l = 0; l < PS_CPU_LEVEL_COUNT; l++) {
                if (strcmp(argv[i + 1], ps_cpu_level_name((enum ps_cpu_level)l)) == 0)
                    o->level = l;
            }
            if (o->level < 0)
                return -1;
        } else {
            return -1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct options o = {
        .seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32, .rounds = 1, .level = -1};
    if (parse(argc, argv, &o) < 0) {
        fprintf(
            stderr,
            "usage: checkkernel [--seed N] [--level scalar|avx2|avx512|vnni|amx] [--rounds N]\n");
        return 2;
    }

    printf("seed %llu\n", (unsigned long long)o.seed);
    fflush(stdout);
    random_state = o.seed;
    open_areas();
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);

    int missing = -1;
    for (int level = 0; level <= LEVEL_LAST; level++) {
        if (o.level >= 0 && o.level != level)
            continue;
        if (level > (int)ps_cpu_level()) {
            missing = missing < 0 ? level : missing;
            continue;
        }
        for (int round = 0; round < o.rounds; round++)
            check_level((enum ps_cpu_level)level);
    }
    if (failure_count > 0) {
        printf("%zu failures\n", failure_count);
        return 1;
    }
    if (missing >= 0) {
        printf("SKIP: %s cannot be used here; the levels below it were checked\n",
               ps_cpu_level_name((enum ps_cpu_level)missing));
        return o.level >= 0 ? 77 : 0;
    }
    return 0;
}
