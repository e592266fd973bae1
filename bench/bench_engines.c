/*
 * Do the engines read the same, and what does each cost the processor? Reads every object of a
 * volume through the store with each engine in turn, several times, and prints a hash over all
 * bytes, the rate, and CPU seconds per GB, as medians. Status 1 if the hashes differ, or if an
 * engine had to be replaced by another.
 *
 * Usage: bench_engines VOLUME ENGINE ENGINE... [--repeat N] [--depth N]
 */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <xxhash.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/penstock_io.h"

#define ENGINE_COUNT_MAX 8
#define ROUNDS_MAX 51
#define LEASES 8u

struct bench {
    const char *volume, *engines[ENGINE_COUNT_MAX];
    int engine_count;
    uint32_t rounds, depth;
};

struct sample {
    uint64_t hash, bytes, ns, cpu_ns;
    bool is_itself; /* no other engine stood in */
};

static uint64_t cpu_ns(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (uint64_t)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000000u +
           (uint64_t)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1000u;
}

/* Streamed objects [begin, begin + count) together; their hashes are added, so order is no matter.
 */
static int read_some(struct ps_volume *volume, struct ps_store *store, const uint32_t *objects,
                     uint32_t count, struct sample *sample, struct ps_error *err)
{
    struct ps_lease leases[LEASES] = {{0}};
    int rc = 0;

    for (uint32_t i = 0; i < count && rc >= 0; i++) {
        struct ps_object_info info;
        ps_volume_object(volume, objects[i], &info);
        rc = ps_store_get(store, info.group, info.index, &leases[i], err);
        sample->bytes += info.bytes;
    }
    while (rc >= 0 && (rc = ps_store_wait(store, leases, count, err)) > 0) {
    }
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t s = 0; rc >= 0 && s < leases[i].slice_count; s++) {
            struct ps_slice_info slice;
            ps_volume_slice(volume, objects[i], s, &slice);
            sample->hash += XXH3_64bits_withSeed(leases[i].slices[s], slice.bytes,
                                                 (uint64_t)objects[i] << 32 | s);
        }
        ps_store_put(store, &leases[i]);
    }
    return rc;
}

static int read_all(struct ps_volume *volume, struct ps_store *store, struct sample *sample,
                    struct ps_error *err)
{
    uint32_t objects[LEASES], count = 0, total = ps_volume_object_count(volume);
    int rc = 0;

    for (uint32_t i = 0; i < total && rc >= 0; i++) {
        struct ps_object_info info;
        ps_volume_object(volume, i, &info);
        if (info.kind == PS_OBJECT_STREAMED) {
            objects[count++] = i;
        } else {
            void *buf = aligned_alloc(65536, ps_align_up(info.bytes, 65536));
            rc = buf ? ps_store_read(store, i, buf, err) : -ENOMEM;
            if (rc == 0)
                sample->hash += XXH3_64bits_withSeed(buf, info.bytes, i);
            sample->bytes += info.bytes;
            free(buf);
        }
        if (rc >= 0 && count > 0 && (count == LEASES || i + 1 == total)) {
            rc = read_some(volume, store, objects, count, sample, err);
            count = 0;
        }
    }
    return rc;
}

static int measure(const struct bench *bench, const char *engine, struct sample *sample,
                   struct ps_error *err)
{
    struct ps_store_options options = {
        .engine = engine, .lease_count = LEASES, .queue_depth = bench->depth};
    struct ps_volume *volume = NULL;
    struct ps_store *store = NULL;
    struct ps_store_stats stats;
    int rc = ps_volume_open(&volume, &bench->volume, 1, err);

    *sample = (struct sample){0};
    if (rc == 0) {
        options.cache_bytes = ps_store_floor_bytes(volume, &options);
        rc = ps_store_open(&store, volume, &options, err);
    }
    if (rc == 0) {
        uint64_t begin_ns = ps_now_ns(), begin_cpu_ns = cpu_ns();
        rc = read_all(volume, store, sample, err);
        sample->ns = ps_now_ns() - begin_ns;
        sample->cpu_ns = cpu_ns() - begin_cpu_ns;
        ps_store_stats(store, &stats);
        sample->is_itself = strncmp(engine, stats.engine, strlen(stats.engine)) == 0;
    }
    ps_store_close(&store);
    ps_volume_close(&volume);
    return rc;
}

static bool print_engine(const char *engine, const struct sample *samples, uint32_t rounds,
                         uint64_t hash)
{
    double rates[ROUNDS_MAX] = {0}, costs[ROUNDS_MAX] = {0};
    bool is_good = true;

    for (uint32_t r = 0; r < rounds; r++) {
        rates[r] = (double)samples[r].bytes * 1e9 / (double)samples[r].ns / 1e6;
        costs[r] = (double)samples[r].cpu_ns / (double)samples[r].bytes;
        is_good &= samples[r].hash == hash && samples[r].is_itself;
    }
    qsort(rates, rounds, sizeof(*rates), ps_compare_double);
    qsort(costs, rounds, sizeof(*costs), ps_compare_double);
    printf("%-18s %016" PRIx64 " %10.1f %10.3f%s\n", engine, samples[0].hash, rates[rounds / 2],
           costs[rounds / 2], is_good ? "" : "   DIFFERS, or another engine stood in");
    return is_good;
}

static int run(const struct bench *bench)
{
    static struct sample samples[ENGINE_COUNT_MAX][ROUNDS_MAX];
    struct ps_error err = {0};
    bool is_good = true;

    for (uint32_t r = 0; r < bench->rounds; r++) {
        for (int e = 0; e < bench->engine_count; e++) {
            if (measure(bench, bench->engines[e], &samples[e][r], &err) < 0) {
                fprintf(stderr, "bench_engines: %s: %s: %s\n", bench->engines[e], err.where,
                        err.text);
                return 1;
            }
        }
    }
    printf("%.1f MB, %u rounds in turn, medians\n", (double)samples[0][0].bytes / 1e6,
           bench->rounds);
    printf("%-18s %16s %10s %10s\n", "engine", "hash of all", "MB/s", "CPU s/GB");
    for (int e = 0; e < bench->engine_count; e++)
        is_good &= print_engine(bench->engines[e], samples[e], bench->rounds, samples[0][0].hash);
    return is_good ? 0 : 1;
}

static void print_log(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx;
    if (level <= PS_LOG_WARN)
        fprintf(stderr, "bench_engines: %s\n", text);
}

enum { KEY_REPEAT = 1, KEY_DEPTH };

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct bench *b = state->input;

    switch (key) {
    case KEY_REPEAT:
        b->rounds = (uint32_t)strtoul(arg, NULL, 10);
        return 0;
    case KEY_DEPTH:
        b->depth = (uint32_t)strtoul(arg, NULL, 10);
        return 0;
    case ARGP_KEY_ARG:
        if (!b->volume)
            b->volume = arg;
        else if (b->engine_count < ENGINE_COUNT_MAX)
            b->engines[b->engine_count++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (b->engine_count < 1 || b->rounds < 1 || b->rounds > ROUNDS_MAX)
            argp_usage(state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"repeat", KEY_REPEAT, "N", 0, "rounds (5)", 0},
        {"depth", KEY_DEPTH, "N", 0, "reads in flight per drive (8)", 0},
        {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "VOLUME ENGINE...",
        .doc = "Reads a whole volume with each engine in turn, and compares bytes and cost."};
    struct bench bench = {.rounds = 5};

    argp_parse(&argp, argc, argv, 0, NULL, &bench);
    ps_log_set(print_log, NULL);
    return run(&bench);
}
