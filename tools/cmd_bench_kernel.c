/*
 * penstock bench kernel: how fast is every kernel, and how near to what the machine can do? Weights
 * of every type are streamed from a working set beyond the caches, by all threads, each on rows of
 * its own, for one column (decode), a few, and many (prefill), at every CPU level that the type has
 * a kernel for; beside plain reads of the same memory and multiply-adds on registers.
 */
#include "tools/tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/budget.h"
#include "core/cpu.h"
#include "core/mem.h"
#include "core/pool.h"
#include "core/util.h"
#include "quant/kernels.h"
#include "quant/q8.h"
#include "tools/bench_count.h"
#include "tools/bench_machine.h"
#include "tools/bench_vector.h"

#define ROWS_DEFAULT 1024u
#define COLS_DEFAULT 4096u
#define COLS_UNIT 32u
#define SIDE_MAX (1u << 20)
#define WORKING_SET_DEFAULT (UINT64_C(256) << 20)
#define WORKING_SET_MAX (UINT64_C(1) << 40)
#define COLUMNS_MAX 512
/* The scalar level is slow: with many columns it gets calls of a few rows, so that a sample ends.
 */
#define SCALAR_ROWS 8u
#define MANY_COLUMNS 64u /* from here on arithmetic counts, not bytes */
/* Weights of one thread that stay in the second cache of every processor of the last ten years. */
#define CACHED_BYTES (192u << 10)
/* Rows and most columns whose instructions are counted: rows are done by eight at most. */
#define COUNTED_ROWS 8u
#define COUNTED_COLS 4096u
/* Share of plain reads from which on a kernel counts as bound by them. */
#define READ_BOUND 0.85

static const uint32_t columns[] = {1, 4, 64, COLUMNS_MAX};
#define COLUMNS_COUNT PS_ARRAY_LEN(columns)

enum { KEY_TYPE = 1, KEY_SHAPE, KEY_WORKING_SET, KEY_JSON };

struct kernel_args {
    int type; /* or -1: all */
    uint32_t rows, cols;
    uint64_t working_set_bytes;
    int threads;
    bool json;
};

struct bench {
    struct kernel_args args;
    struct ps_pool *pool;
    struct ps_region weights;
    float *x;    /* [COLUMNS_MAX, cols] */
    uint8_t *x8; /* the same as 8-bit vectors */
    size_t x8_stride_bytes;
    float *y; /* [threads][COLUMNS_MAX, rows] */
    double read_rate, checksum_rate, float_rate, int8_rate;
    struct tool_progress progress;
};

/* What is timed. */
struct job {
    struct bench *bench;
    uint32_t type;
    enum ps_cpu_level level;
    bool is_q8;
    uint32_t n;
    bool cached; /* the same weights again and again */
    size_t row_bytes, matrix_bytes, matrix_count;
};

/* ---- arguments ------------------------------------------------------------------------------- */

static void shape_parse(struct argp_state *state, struct kernel_args *args, const char *arg)
{
    char *end;
    unsigned long rows = strtoul(arg, &end, 10);
    unsigned long cols = *end == 'x' ? strtoul(end + 1, &end, 10) : 0;

    if (*end != '\0' || arg[0] == '-' || strchr(arg, '-') != NULL || rows < 1 || rows > SIDE_MAX ||
        cols < COLS_UNIT || cols > SIDE_MAX || cols % COLS_UNIT != 0)
        argp_error(state,
                   "--shape: \"%s\" is no ROWSxCOLUMNS, both up to %u, columns a multiple of %u",
                   arg, SIDE_MAX, COLS_UNIT);
    args->rows = (uint32_t)rows;
    args->cols = (uint32_t)cols;
}

static void type_parse(struct argp_state *state, struct kernel_args *args, const char *arg)
{
    args->type = ps_type_from_name(arg);
    if (args->type < 0 || !ps_type_info((uint32_t)args->type)->has_kernels)
        argp_error(state, "--type: there are no kernels for \"%s\"", arg);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct kernel_args *args = state->input;

    switch (key) {
    case KEY_TYPE:
        type_parse(state, args, arg);
        return 0;
    case KEY_SHAPE:
        shape_parse(state, args, arg);
        return 0;
    case KEY_WORKING_SET:
        args->working_set_bytes = tool_size(state, "--working-set", arg);
        if (args->working_set_bytes == 0 || args->working_set_bytes > WORKING_SET_MAX)
            argp_error(state, "--working-set: more than nothing and at most 1T, not \"%s\"", arg);
        return 0;
    case 't':
        args->threads = (int)tool_number(state, "--threads", arg, 1, 512);
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    case ARGP_KEY_END:
        if (args->type >= 0 && args->cols % ps_type_info((uint32_t)args->type)->block_len != 0)
            argp_error(state, "--shape: %u columns are no multiple of the %u values of a block",
                       args->cols, ps_type_info((uint32_t)args->type)->block_len);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"type", KEY_TYPE, "TYPE", 0, "of the weights: q4_k, q8_0, bf16 ... (default: all)", 0},
    {"shape", KEY_SHAPE, "RxC", 0, "rows and columns of a matrix (1024x4096)", 0},
    {"threads", 't', "N", 0, "threads, each on rows of its own (default: one per CPU)", 0},
    {"working-set", KEY_WORKING_SET, "SIZE", 0,
     "bytes of weights to stream, more than the caches hold (256M)", 0},
    {"json", KEY_JSON, NULL, 0, "print the result as JSON", 0},
    {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .doc = "Times the kernels on weights of every type, for one column, 4, 64 and 512, at every "
           "level of the processor's instructions, beside the machine's own bandwidth of reads and "
           "its peak of multiply-adds, measured in the same run."};

/* ---- memory ----------------------------------------------------------------------------------
 */

/* Values in [-1, 1): arithmetic on denormals or NaN would be timed otherwise. */
static void fill_floats(float *x, size_t count)
{
    uint32_t r = 1;

    for (size_t i = 0; i < count; i++) {
        r = r * 1664525u + 1013904223u;
        x[i] = (float)(r >> 8) * 0x1p-23f - 1;
    }
}

/*
 * Weights of any type whose scales are neither huge nor tiny: the pattern of a half float near 1 in
 * every two bytes, and where blocks have an odd length (their scale is a byte, an exponent) a
 * little less than that of 1 in every byte.
 */
static void fill_weights(uint8_t *p, size_t bytes, bool is_odd)
{
    uint32_t r = 1;

    for (size_t i = 0; i + 2 <= bytes; i += 2) {
        r = r * 1664525u + 1013904223u;
        p[i] = (uint8_t)(is_odd ? 0x70 | (r >> 24 & 0x0f) : r >> 24);
        p[i + 1] = (uint8_t)(is_odd ? 0x70 | (r >> 16 & 0x0f) : 0x38 | (r >> 16 & 0x83));
    }
}

static int bench_open(struct bench *b, struct ps_error *err)
{
    const struct kernel_args *args = &b->args;
    int rc = ps_pool_open(&b->pool, args->threads, err);

    if (rc < 0)
        return rc;
    size_t threads = (size_t)ps_pool_thread_count(b->pool);
    uint64_t bytes =
        ps_max_u64(args->working_set_bytes, (uint64_t)args->rows * args->cols * sizeof(float));
    rc = ps_region_map(&b->weights, bytes, PS_NODE_INTERLEAVE, err);
    if (rc < 0)
        return rc;
    b->x8_stride_bytes = ps_q8_bytes(args->cols);
    b->x = malloc(sizeof(float) * COLUMNS_MAX * args->cols);
    b->x8 = aligned_alloc(64, COLUMNS_MAX * b->x8_stride_bytes);
    b->y = malloc(sizeof(float) * threads * COLUMNS_MAX * args->rows);
    if (b->x == NULL || b->x8 == NULL || b->y == NULL)
        return ps_error_set(err, -ENOMEM, "--shape",
                            "not enough memory for %d columns of %u and "
                            "their %u results",
                            COLUMNS_MAX, args->cols, args->rows);
    fill_floats(b->x, (size_t)COLUMNS_MAX * args->cols);
    for (size_t i = 0; i < COLUMNS_MAX; i++)
        ps_q8_kernels_get(ps_cpu_level())
            ->quantize(b->x + i * args->cols, args->cols, b->x8 + i * b->x8_stride_bytes);
    fill_weights(b->weights.base, bytes, false);
    return 0;
}

static void bench_close(struct bench *b)
{
    free(b->y);
    free(b->x8);
    free(b->x);
    ps_region_unmap(&b->weights);
    ps_pool_close(&b->pool);
}

static void keep_most(double *most, double value)
{
    *most = value > *most ? value : *most;
}

/* Taken again beside every row of the table, the most counts: both see the same other work. */
static void machine_measure(struct bench *b)
{
    keep_most(&b->read_rate, bench_read_rate(b->pool, b->weights.base, b->args.working_set_bytes));
    keep_most(&b->checksum_rate,
              bench_checksum_rate(b->pool, b->weights.base, b->args.working_set_bytes));
    keep_most(&b->float_rate, bench_float_rate(b->pool));
    keep_most(&b->int8_rate, bench_int8_rate(b->pool));
}

/* ---- the kernels ------------------------------------------------------------------------------
 */

static void rows_multiply(const struct job *job, const uint8_t *w, size_t rows, size_t cols,
                          float *y)
{
    const struct bench *b = job->bench;

    if (job->is_q8) {
        ps_q8_kernels_get(job->level)
            ->matmul(&(struct ps_q8_matmul){.type = job->type,
                                            .w = w,
                                            .w_stride_bytes = job->row_bytes,
                                            .rows = rows,
                                            .cols = cols,
                                            .x = b->x8,
                                            .x_stride_bytes = b->x8_stride_bytes,
                                            .y = y,
                                            .ldy = b->args.rows,
                                            .n = job->n});
    } else {
        ps_kernels_get(job->level)
            ->matmul(&(struct ps_matmul){.type = job->type,
                                         .w = w,
                                         .w_stride_bytes = job->row_bytes,
                                         .rows = rows,
                                         .cols = cols,
                                         .x = b->x,
                                         .ldx = b->args.cols,
                                         .y = y,
                                         .ldy = b->args.rows,
                                         .n = job->n});
    }
}

/* This thread's rows of one matrix; the unit is a row. */
static uint64_t matmul_step(void *ctx, int thread, int threads, uint64_t step)
{
    const struct job *job = ctx;
    const struct bench *b = job->bench;
    uint64_t begin, end;

    ps_pool_share(b->args.rows, 1, thread, threads, &begin, &end);
    if (job->level == PS_CPU_SCALAR && job->n >= MANY_COLUMNS)
        end = ps_min_u64(end, begin + SCALAR_ROWS);
    if (job->cached) {
        uint64_t rows = ps_max_u64(COUNTED_ROWS, CACHED_BYTES / job->row_bytes);
        end = ps_min_u64(end, begin + rows);
        step = 0;
    }
    if (begin >= end)
        return 0;
    const uint8_t *w = (const uint8_t *)b->weights.base +
                       step % job->matrix_count * job->matrix_bytes + begin * job->row_bytes;
    rows_multiply(job, w, end - begin, b->args.cols,
                  b->y + (size_t)thread * COLUMNS_MAX * b->args.rows);
    return end - begin;
}

struct count_run {
    const struct job *job;
    size_t rows, cols;
};

static void count_rows(void *ctx)
{
    const struct count_run *run = ctx;
    rows_multiply(run->job, run->job->bench->weights.base, run->rows, run->cols,
                  run->job->bench->y);
}

/* Instructions for 32 weights of one column, or 0 if they cannot be counted: of sixteen rows, less
 * those of eight, so that what a call takes besides is left out. */
static double block_instructions(const struct job *job)
{
    size_t cols = ps_min_u64(job->bench->args.cols, COUNTED_COLS);
    struct count_run once = {job, COUNTED_ROWS, cols}, twice = {job, 2 * COUNTED_ROWS, cols};

    if (job->bench->args.rows < 2 * COUNTED_ROWS)
        return 0;
    uint64_t few = bench_instructions(count_rows, &once);
    uint64_t many = bench_instructions(count_rows, &twice);
    return few == 0 || many <= few ? 0 : (double)(many - few) / COUNTED_ROWS / ((double)cols / 32);
}

/* Whether the level multiplies otherwise than the one below. */
static bool level_counts(enum ps_cpu_level level, bool is_q8)
{
    if (level == PS_CPU_SCALAR)
        return true;
    enum ps_cpu_level below = (enum ps_cpu_level)(level - 1);
    return is_q8 ? ps_q8_kernels_get(level)->matmul != ps_q8_kernels_get(below)->matmul
                 : ps_kernels_get(level)->matmul != ps_kernels_get(below)->matmul;
}

/* ---- the measurements: all results are JSON, which is printed as a table or as it is ------------
 */

static json_t *cell_measure(struct job *job, uint32_t n)
{
    job->n = n;
    double rows_per_s = bench_rate(job->bench->pool, matmul_step, job);

    return json_pack("{s:I, s:f, s:f}", "columns", (json_int_t)n, "bytes_per_s",
                     rows_per_s * (double)job->row_bytes, "flops",
                     rows_per_s * 2.0 * job->bench->args.cols * n);
}

/*
 * Why one column is as slow as it is: `memory` where it comes near to plain reads, `instructions`
 * where it would not even with the weights in the second cache, else `both`: each leaves room for
 * READ_BOUND, but they do not overlap enough.
 */
static const char *bound_name(double rate, double cached_rate, double read_rate)
{
    if (rate >= READ_BOUND * read_rate)
        return "memory";
    return cached_rate < READ_BOUND * read_rate ? "instructions" : "both";
}

/* The scalar level is never bound by memory, and would take long to count. */
static json_t *bound_measure(struct job *job, const json_t *cells)
{
    if (job->level == PS_CPU_SCALAR || tool_stop_status() != 0)
        return json_null();
    job->n = 1;
    job->cached = true;
    double cached_rate = bench_rate(job->bench->pool, matmul_step, job) * (double)job->row_bytes;
    job->cached = false;
    double rate = json_number_value(json_object_get(json_array_get(cells, 0), "bytes_per_s"));
    return json_pack("{s:f, s:f, s:s}", "cached_bytes_per_s", cached_rate, "instructions",
                     block_instructions(job), "by",
                     bound_name(rate, cached_rate, job->bench->read_rate));
}

static json_t *row_measure(struct job *job)
{
    json_t *cells = json_array();

    tool_progress_text(&job->bench->progress, "%s, %s, %s", ps_type_info(job->type)->name,
                       job->is_q8 ? "q8" : "f32", ps_cpu_level_name(job->level));
    machine_measure(job->bench);
    for (size_t i = 0; i < COLUMNS_COUNT && tool_stop_status() == 0; i++)
        json_array_append_new(cells, cell_measure(job, columns[i]));
    json_t *bound = bound_measure(job, cells);
    return json_pack("{s:s, s:s, s:s, s:o, s:o}", "type", ps_type_info(job->type)->name,
                     "activations", job->is_q8 ? "q8" : "f32", "level",
                     ps_cpu_level_name(job->level), "columns", cells, "bound", bound);
}

static void type_measure(struct bench *b, uint32_t type, json_t *list)
{
    const struct ps_type_info *info = ps_type_info(type);
    struct job job = {.bench = b, .type = type};

    job.row_bytes = (size_t)ps_row_bytes(type, b->args.cols);
    job.matrix_bytes = job.row_bytes * b->args.rows;
    job.matrix_count = (size_t)ps_max_u64(1, b->args.working_set_bytes / job.matrix_bytes);
    if (info->block_bytes % 2 != 0)
        fill_weights(b->weights.base, b->weights.bytes, true);
    for (int q8 = 0; q8 <= (ps_q8_has(type) ? 1 : 0); q8++) {
        for (int level = 0; level <= (int)ps_cpu_level() && tool_stop_status() == 0; level++) {
            job.is_q8 = q8 != 0;
            job.level = (enum ps_cpu_level)level;
            if (level_counts(job.level, job.is_q8))
                json_array_append_new(list, row_measure(&job));
        }
    }
    if (info->block_bytes % 2 != 0)
        fill_weights(b->weights.base, b->weights.bytes, false);
}

static json_t *types_measure(struct bench *b)
{
    json_t *list = json_array();

    for (uint32_t type = 0; type < PS_TYPE_COUNT; type++) {
        const struct ps_type_info *info = ps_type_info(type);
        if (info != NULL && info->has_kernels && b->args.cols % info->block_len == 0 &&
            (b->args.type < 0 || b->args.type == (int)type))
            type_measure(b, type, list);
    }
    return list;
}

/* The other kernels do not depend on the type: they are left out when one is asked for. */
static json_t *vectors_measure(struct bench *b)
{
    json_t *list = json_array();

    for (size_t i = 0; i < bench_vector_count && b->args.type < 0; i++) {
        json_t *times = json_object();
        tool_progress_text(&b->progress, "%s", bench_vector_name(i));
        for (int level = 0; level <= (int)ps_cpu_level() && tool_stop_status() == 0; level++) {
            double ns = bench_vector_ns(i, (enum ps_cpu_level)level);
            json_object_set_new(times, ps_cpu_level_name((enum ps_cpu_level)level),
                                json_real(ns / 1000));
        }
        json_array_append_new(
            list, json_pack("{s:s, s:o}", "kernel", bench_vector_name(i), "microseconds", times));
    }
    return list;
}

static json_t *bench_measure(struct bench *b)
{
    json_t *types = types_measure(b), *vectors = vectors_measure(b);

    return json_pack("{s:I, s:s, s:I, s:I, s:I, s:{s:f, s:f, s:f, s:f}, s:o, s:o}", "threads",
                     (json_int_t)ps_pool_thread_count(b->pool), "pages",
                     ps_page_kind_name(b->weights.kind), "rows", (json_int_t)b->args.rows, "cols",
                     (json_int_t)b->args.cols, "working_set_bytes",
                     (json_int_t)b->args.working_set_bytes, "machine", "read_bytes_per_s",
                     b->read_rate, "checksum_bytes_per_s", b->checksum_rate, "flops", b->float_rate,
                     "int8_ops", b->int8_rate, "matmul", types, "other", vectors);
}

/* ---- results ----------------------------------------------------------------------------------
 */

static void head_print(const struct bench *b)
{
    char bytes[32];

    printf("%d threads, %s of weights in matrices of %u x %u, %s\n", ps_pool_thread_count(b->pool),
           ps_size_text_binary(b->args.working_set_bytes, bytes, sizeof(bytes)), b->args.rows,
           b->args.cols, ps_page_kind_name(b->weights.kind));
    printf("plain reads          %8.2f GB/s\n", b->read_rate / 1e9);
    printf("checksums            %8.2f GB/s\n", b->checksum_rate / 1e9);
    printf("float multiply-adds  %8.1f GFLOP/s\n", b->float_rate / 1e9);
    if (b->int8_rate > 0)
        printf("8-bit multiply-adds  %8.1f Gop/s\n", b->int8_rate / 1e9);
    printf("\nGB/s of weights and their share of plain reads, then GFLOP/s and their share of the "
           "float peak\n%-8s %-4s %-7s",
           "weights", "x", "level");
    for (size_t i = 0; i < COLUMNS_COUNT; i++) {
        char title[32];
        snprintf(title, sizeof(title), "%u column%s", columns[i], columns[i] == 1 ? "" : "s");
        printf("  %15s", title);
    }
    printf("\n");
}

static double real_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static void row_print(const struct bench *b, const json_t *row)
{
    const json_t *cells = json_object_get(row, "columns");

    printf("%-8s %-4s %-7s", text_of(row, "type"), text_of(row, "activations"),
           text_of(row, "level"));
    for (size_t i = 0; i < json_array_size(cells); i++) {
        const json_t *cell = json_array_get(cells, i);
        double bytes = real_of(cell, "bytes_per_s"), flops = real_of(cell, "flops");
        if (columns[i] < MANY_COLUMNS)
            printf("  %8.2f (%3.0f %%)", bytes / 1e9, 100 * bytes / b->read_rate);
        else
            printf("  %8.1f (%3.0f %%)", flops / 1e9, 100 * flops / b->float_rate);
    }
    printf("\n");
}

/* The share of the shorter of two times, of reading and of computing, that passed during the other.
 */
static double overlap_of(double rate, double cached_rate, double read_rate)
{
    double compute = 1 / cached_rate, read = 1 / read_rate;
    double shorter = compute < read ? compute : read;
    double share = (compute + read - 1 / rate) / shorter;

    return share < 0 ? 0 : share > 1 ? 1 : share;
}

static void bound_print(const struct bench *b, const json_t *row)
{
    const json_t *bound = json_object_get(row, "bound");
    const json_t *cell = json_array_get(json_object_get(row, "columns"), 0);
    double rate = real_of(cell, "bytes_per_s"), cached = real_of(bound, "cached_bytes_per_s");

    if (!json_is_object(bound) || rate == 0 || cached == 0)
        return;
    printf("%-8s %-4s %-7s  %8.2f (%3.0f %%)  %8.2f (%3.0f %%)", text_of(row, "type"),
           text_of(row, "activations"), text_of(row, "level"), rate / 1e9,
           100 * rate / b->read_rate, cached / 1e9, 100 * cached / b->read_rate);
    if (real_of(bound, "instructions") > 0)
        printf("  %12.1f", real_of(bound, "instructions"));
    else
        printf("  %12s", "-");
    printf("  %s", text_of(bound, "by"));
    if (strcmp(text_of(bound, "by"), "both") == 0)
        printf(", overlapping by %.0f %%", 100 * overlap_of(rate, cached, b->read_rate));
    printf("\n");
}

static void bounds_print(const struct bench *b, const json_t *rows)
{
    printf("\nOne column: GB/s of weights from memory and from the second cache, each beside plain "
           "reads of memory;\ninstructions for 32 weights; what it is bound by\n"
           "%-8s %-4s %-7s  %17s  %17s  %12s  %s\n",
           "weights", "x", "level", "from memory", "from the cache", "instructions", "bound by");
    for (size_t i = 0; i < json_array_size(rows); i++)
        bound_print(b, json_array_get(rows, i));
}

static void vectors_print(const json_t *list)
{
    if (json_array_size(list) == 0)
        return;
    printf("\n%-22s", "microseconds a call");
    for (int level = 0; level <= (int)ps_cpu_level(); level++)
        printf(" %9s", ps_cpu_level_name((enum ps_cpu_level)level));
    printf("\n");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        printf("%-22s", text_of(row, "kernel"));
        for (int level = 0; level <= (int)ps_cpu_level(); level++)
            printf(" %9.3f", real_of(json_object_get(row, "microseconds"),
                                     ps_cpu_level_name((enum ps_cpu_level)level)));
        printf("\n");
    }
}

static void result_print(const struct bench *b, const json_t *json)
{
    const json_t *rows = json_object_get(json, "matmul");

    head_print(b);
    for (size_t i = 0; i < json_array_size(rows); i++)
        row_print(b, json_array_get(rows, i));
    bounds_print(b, rows);
    vectors_print(json_object_get(json, "other"));
}

static int bench_run(struct bench *b)
{
    tool_progress_init(&b->progress, NULL);
    json_t *json = bench_measure(b);
    tool_progress_end(&b->progress);
    if (tool_stop_status() == 0 && b->args.json)
        return tool_json_print(json);
    if (tool_stop_status() == 0)
        result_print(b, json);
    json_decref(json);
    return tool_stop_status();
}

int cmd_bench_kernel(int argc, char **argv)
{
    struct bench b = {.args = {.type = -1,
                               .rows = ROWS_DEFAULT,
                               .cols = COLS_DEFAULT,
                               .working_set_bytes = WORKING_SET_DEFAULT}};
    struct ps_error err = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &b.args);
    tool_log_start(false);
    tool_stop_flag();
    int rc = bench_open(&b, &err);
    int status = rc < 0 ? tool_end(rc, &err) : bench_run(&b);
    bench_close(&b);
    return status;
}
