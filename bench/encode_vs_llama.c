/*
 * How fast are the encoders on one core, and how small is their error, beside llama.cpp's on the
 * same rows? llama.cpp's library is loaded at run time: nothing of it is needed to build.
 * Usage: encode_vs_llama [--library libggml-base.so] [--safetensors FILE] [--level NAME] [--rows N]
 *     [--cols N]
 * Both sides encode the same rows in turn, five times; a line shows the medians in MB of F32 per
 * second of the processor's time, and sum w e^2 / sum w x^2 over all rows: w = 1, or the importance
 * where there is one. The rows are drawn from four distributions, and with --safetensors taken from
 * the middle of a file, as BF16. Without --library the other side is left out.
 */
#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/util.h"
#include "quant/encode.h"

#define SAMPLES 5

/* ggml_quantize_chunk(type, src, dst, start, rows, columns, importance or NULL). */
typedef size_t quantize_fn(int type, const float *src, void *dst, int64_t start, int64_t rows,
                           int64_t cols, const float *importance);

static const uint32_t types[] = {PS_TYPE_Q8_0, PS_TYPE_Q4_0, PS_TYPE_Q4_K, PS_TYPE_Q6_K,
                                 PS_TYPE_MXFP4};
enum rows_kind { GAUSSIAN, LAPLACE, STUDENT, UNIFORM, FROM_FILE, KIND_COUNT };
static const char *const kind_names[] = {"gaussian", "laplace", "student-3", "uniform", "file"};

struct bench {
    quantize_fn *quantize; /* or NULL */
    const char *safetensors;
    enum ps_cpu_level level;
    size_t rows, cols;
    float *values, *importance, *decoded;
    uint8_t *blocks;
};

static uint64_t random_state;

/* In (0, 1); splitmix64. */
static double uniform(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return ((double)((z ^ z >> 31) >> 11) + 0.5) * 0x1p-53;
}

static double gaussian(void)
{
    double r = sqrt(-2 * log(uniform()));
    return r * cos(6.283185307179586 * uniform());
}

static double draw(enum rows_kind kind)
{
    double u, square = 0;

    switch (kind) {
    case GAUSSIAN:
        return gaussian();
    case LAPLACE:
        u = uniform();
        return u < 0.5 ? log(2 * u) : -log(2 - 2 * u);
    case STUDENT:
        for (int i = 0; i < 3; i++) {
            u = gaussian();
            square += u * u;
        }
        return gaussian() / sqrt(square / 3);
    default:
        return 2 * uniform() - 1;
    }
}

/* From the middle of the file, an even number of bytes behind its header. */
static bool read_rows(struct bench *b)
{
    size_t count = b->rows * b->cols, got = 0;
    uint64_t header = 0;
    FILE *f = fopen(b->safetensors, "rb");

    if (f != NULL && fread(&header, sizeof(header), 1, f) == 1 && fseek(f, 0, SEEK_END) == 0) {
        long data = (long)header + 8, middle = (ftell(f) - data) / 4 * 2;
        if (middle > 0 && fseek(f, data + middle, SEEK_SET) == 0)
            got = fread(b->blocks, 2, count, f);
    }
    if (f != NULL)
        fclose(f);
    if (got == count)
        ps_row_decode(PS_TYPE_BF16, b->blocks, b->values, count);
    return got == count;
}

static bool fill(struct bench *b, enum rows_kind kind)
{
    random_state = 1;
    for (size_t i = 0; i < b->cols; i++)
        b->importance[i] = (float)exp(1.5 * gaussian());
    if (kind == FROM_FILE)
        return b->safetensors != NULL && read_rows(b);
    for (size_t i = 0; i < b->rows * b->cols; i++)
        b->values[i] = (float)(0.02 * draw(kind));
    return true;
}

/* Of this thread: the slower side would be interrupted more often by what else runs. */
static double cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double median_rate(const struct bench *b, double *ns)
{
    qsort(ns, SAMPLES, sizeof(*ns), ps_compare_double);
    return (double)(b->rows * b->cols * sizeof(float)) / ns[SAMPLES / 2] * 1e3;
}

static double row_error(const struct bench *b, uint32_t type, size_t row, const float *importance)
{
    const float *x = b->values + row * b->cols;
    double error = 0;

    ps_row_decode(type, b->blocks + row * ps_row_bytes(type, b->cols), b->decoded, b->cols);
    for (size_t i = 0; i < b->cols; i++) {
        double e = (double)x[i] - (double)b->decoded[i];
        error += e * e * (importance != NULL ? (double)importance[i] : 1);
    }
    return error;
}

static double energy(const struct bench *b, const float *importance)
{
    double sum = 0;

    for (size_t i = 0; i < b->rows * b->cols; i++)
        sum += (double)b->values[i] * (double)b->values[i] *
               (importance != NULL ? (double)importance[i % b->cols] : 1);
    return sum;
}

static void encode(const struct bench *b, bool ours, uint32_t type, const float *importance)
{
    const struct ps_encode e = {type, b->rows, b->cols, b->values, importance, b->blocks};

    if (ours)
        ps_encode_rows_at(b->level, &e);
    else
        b->quantize((int)type, b->values, b->blocks, 0, (int64_t)b->rows, (int64_t)b->cols,
                    importance);
}

static void compare(const struct bench *b, const char *rows, uint32_t type, const float *importance)
{
    double ns[2][SAMPLES], error[2] = {0, 0}, *errors = calloc(b->rows, sizeof(*errors));
    size_t worse = 0;

    if (errors == NULL)
        return;
    for (int i = 0; i < SAMPLES; i++)
        for (int ours = 0; ours < 2; ours++) {
            double begin_ns = cpu_ns();
            if (ours || b->quantize != NULL)
                encode(b, ours, type, importance);
            ns[ours][i] = cpu_ns() - begin_ns;
            for (size_t r = 0; r < b->rows && i == 0; r++) {
                double e = row_error(b, type, r, importance);
                error[ours] += e;
                worse += ours && e > errors[r] * (1 + 1e-6);
                errors[r] = e;
            }
        }
    double ours = median_rate(b, ns[1]), scale = 1 / energy(b, importance);
    printf("%-9s %-5s %-3s %8.0f MB/s %.4e", rows, ps_type_info(type)->name,
           importance != NULL ? "yes" : "no", ours, error[1] * scale);
    if (b->quantize != NULL) {
        double theirs = median_rate(b, ns[0]);
        printf(" %8.0f MB/s %.4e %7.1f %7.4f %4zu of %zu", theirs, error[0] * scale, ours / theirs,
               error[1] / error[0], worse, b->rows);
    }
    printf("\n");
    free(errors);
}

static int parse(int argc, char **argv, struct bench *b)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--library") == 0) {
            void *library = dlopen(value, RTLD_NOW);
            void *symbol = library != NULL ? dlsym(library, "ggml_quantize_chunk") : NULL;
            if (symbol == NULL) {
                fprintf(stderr, "encode_vs_llama: %s\n", dlerror());
                return -1;
            }
            memcpy(&b->quantize, &symbol, sizeof(symbol));
        } else if (strcmp(argv[i], "--safetensors") == 0) {
            b->safetensors = value;
        } else if (strcmp(argv[i], "--rows") == 0) {
            b->rows = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--cols") == 0) {
            b->cols = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--level") == 0) {
            for (int l = 0; l < PS_CPU_LEVEL_COUNT; l++)
                if (strcmp(value, ps_cpu_level_name((enum ps_cpu_level)l)) == 0)
                    b->level = (enum ps_cpu_level)l;
        } else {
            return -1;
        }
    }
    return argc % 2 == 1 && b->rows > 0 && b->cols > 0 && b->cols % 256 == 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct bench b = {.level = ps_cpu_level(), .rows = 256, .cols = 1024};

    if (parse(argc, argv, &b) < 0) {
        fprintf(stderr, "usage: encode_vs_llama [--library FILE] [--safetensors FILE] "
                        "[--level NAME] [--rows N] [--cols N, a multiple of 256]\n");
        return 2;
    }
    b.values = calloc(b.rows * b.cols, sizeof(float));
    b.blocks = calloc(b.rows * b.cols, sizeof(float));
    b.importance = calloc(b.cols, sizeof(float));
    b.decoded = calloc(b.cols, sizeof(float));
    if (b.values == NULL || b.blocks == NULL || b.importance == NULL || b.decoded == NULL) {
        fprintf(stderr, "encode_vs_llama: not enough memory\n");
        return 1;
    }
    printf("%s, %zu rows of %zu; ours first, then llama.cpp's, ours : theirs in speed and error, "
           "rows where ours is worse\n",
           ps_cpu_level_name(b.level), b.rows, b.cols);
    printf("rows      type  importance\n");
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        if (!fill(&b, (enum rows_kind)kind))
            continue;
        for (size_t t = 0; t < PS_ARRAY_LEN(types); t++) {
            compare(&b, kind_names[kind], types[t], NULL);
            if (types[t] != PS_TYPE_Q8_0)
                compare(&b, kind_names[kind], types[t], b.importance);
        }
    }
    return 0;
}
