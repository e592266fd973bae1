/*
 * How near a replay comes to the engine: decodes a text with several sizes of the cache, probes the
 * drive before each run, and plays the same routes back with as many slots.
 *
 *     build/bench/bench_replay VOLUME TEXT|- [TOKENS [SECONDS [ROUNDS]]]
 *
 * Before each run are measured: the drive (a probe of SECONDS); with everything in memory, what the
 * experts' arithmetic takes, and all else of a layer; and what reads cost the processors, that is
 * checksums over memory, the processor's time for one read, and what a missing expert takes in the
 * store beyond its reads. Medians over the rounds. The volume is one of a single member.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/mem.h"
#include "core/util.h"
#include "model/penstock.h"
#include "model/replay.h"

#define ROUNDS_MAX 25u
#define CHECK_BYTES ((size_t)128 << 20)
#define READ_NS_MAX UINT64_C(300000000)

struct bench {
    struct ps_model *model;
    struct ps_model_info info;
    int32_t *ids;
    uint32_t token_count;
    uint32_t *moe_of; /* [layer_count]: number among the MoE layers */
    uint32_t *moe_layers;
    uint16_t *experts; /* [T, L, K] */
};

static void stop_on(int rc, const struct ps_error *err)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "bench_replay: %s: %s\n", err->where, err->text);
    exit(1);
}

static void *allocate(size_t count, size_t bytes)
{
    void *p = calloc(count, bytes);

    if (!p) {
        fprintf(stderr, "bench_replay: out of memory\n");
        exit(1);
    }
    return p;
}

static void read_text(struct bench *b, const char *path)
{
    static char text[1 << 20];
    struct ps_error err = {0};
    FILE *file = strcmp(path, "-") == 0 ? NULL : fopen(path, "rb");

    b->ids = allocate(b->token_count, sizeof(*b->ids));
    /* For models without a tokenizer. */
    for (uint64_t i = 0, x = 1; strcmp(path, "-") == 0 && i < b->token_count; i++) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407;
        b->ids[i] = (int32_t)((x >> 33) % b->info.vocab_rows);
    }
    if (strcmp(path, "-") == 0)
        return;
    if (!file) {
        fprintf(stderr, "bench_replay: %s cannot be read\n", path);
        exit(1);
    }
    size_t bytes = fread(text, 1, sizeof(text), file);
    fclose(file);
    int64_t count = ps_model_tokenize(b->model, text, bytes, b->ids, b->token_count, &err);
    stop_on((int)ps_min_u64((uint64_t)(count < 0 ? 0 : count), 1) - (count < 0), &err);
    b->token_count = (uint32_t)ps_min_u64((uint64_t)count, b->token_count);
}

static void note_route(void *ctx, uint32_t layer, uint32_t position, uint32_t count,
                       const uint32_t *experts, const float *weights)
{
    struct bench *b = ctx;
    uint32_t k = b->info.experts_used;
    uint16_t *to = b->experts + ((size_t)position * b->info.moe_layer_count + b->moe_of[layer]) * k;

    (void)weights;
    b->moe_layers[b->moe_of[layer]] = layer;
    for (uint32_t i = 0; i < count; i++)
        to[i] = (uint16_t)experts[i];
}

/* MoE layers are those that routes are told of. */
static void number_layer(void *ctx, uint32_t layer, uint32_t position, uint32_t count,
                         const uint32_t *experts, const float *weights)
{
    struct bench *b = ctx;

    (void)position;
    (void)count;
    (void)experts;
    (void)weights;
    b->moe_of[layer] = 1;
}

/* ---- the engine ------------------------------------------------------------------------------ */

struct run {
    uint64_t ns, expert_ns, shared_ns;
    struct ps_store_stats store;
};

static void decode(struct bench *b, struct ps_session *session, struct ps_engine *engine,
                   struct run *run)
{
    struct ps_engine_stats before, after;
    struct ps_error err = {0};

    ps_session_reset(session);
    ps_engine_stats(engine, &before);
    uint64_t begin_ns = ps_now_ns();
    for (uint32_t t = 0; t < b->token_count; t++)
        stop_on(ps_session_eval(session, &b->ids[t], 1, NULL, NULL, &err), &err);
    run->ns = ps_now_ns() - begin_ns;
    ps_engine_stats(engine, &after);
    run->expert_ns = after.expert_ns - before.expert_ns;
    run->shared_ns = after.shared_ns - before.shared_ns;
    run->store = after.store;
}

/* memory_bytes 0: as much as there is. A pass before it fills the cache where is_warm. */
static void run_engine(struct bench *b, uint64_t memory_bytes, bool is_warm, ps_route_fn *fn,
                       struct run *run)
{
    struct ps_engine_options options = {
        .memory_bytes = memory_bytes, .ctx = b->token_count, .activations = "q8"};
    struct ps_engine *engine = NULL;
    struct ps_session *session = NULL;
    struct ps_error err = {0};

    stop_on(ps_engine_open(&engine, b->model, &options, &err), &err);
    stop_on(ps_session_open(&session, engine, &err), &err);
    ps_session_on_route(session, fn, b);
    for (int i = 0; i < (is_warm ? 2 : 1); i++)
        decode(b, session, engine, run);
    ps_session_close(&session);
    ps_engine_close(&engine);
}

static uint64_t memory_for(const struct bench *b, double share)
{
    struct ps_engine_options options = {
        .memory_bytes = PS_MEMORY_MIN, .ctx = b->token_count, .activations = "q8"};
    uint32_t want = (uint32_t)(share * b->info.expert_count * b->info.moe_layer_count);
    struct ps_plan plan;
    struct ps_error err = {0};

    stop_on(ps_model_plan(b->model, &options, &plan, &err), &err);
    options.memory_bytes = plan.floor_bytes;
    while (plan.expert_slots < want) {
        options.memory_bytes += ps_max_u64(b->info.streamed_bytes / 256, 65536);
        stop_on(ps_model_plan(b->model, &options, &plan, &err), &err);
    }
    return options.memory_bytes;
}

/* ---- the replay ------------------------------------------------------------------------------ */

static struct ps_replay *open_replay(const struct bench *b)
{
    char path[] = "/tmp/penstock-bench-XXXXXX";
    uint32_t per_token = b->info.moe_layer_count * b->info.experts_used;
    uint64_t *bytes = allocate(b->info.moe_layer_count, sizeof(*bytes));
    struct ps_trace_info info = {.token_count = b->token_count,
                                 .layer_count = b->info.moe_layer_count,
                                 .expert_count = b->info.expert_count,
                                 .experts_used = b->info.experts_used,
                                 .layers = b->moe_layers,
                                 .expert_bytes = bytes};
    struct ps_trace_writer *writer = NULL;
    struct ps_trace *trace = NULL;
    struct ps_replay *replay = NULL;
    struct ps_error err = {0};
    int fd = mkstemp(path);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "wb");

    if (!file) {
        fprintf(stderr, "bench_replay: no temporary file\n");
        exit(1);
    }
    stop_on(ps_trace_writer_open(&writer, file, path, &info, &err), &err);
    for (uint32_t t = 0; t < b->token_count; t++) {
        struct ps_trace_token token = {.id = (uint32_t)b->ids[t],
                                       .begins = t == 0,
                                       .experts = b->experts + (size_t)t * per_token};
        stop_on(ps_trace_writer_add(writer, &token, &err), &err);
    }
    stop_on(ps_trace_writer_finish(writer, &err), &err);
    ps_trace_writer_close(&writer);
    fclose(file);
    stop_on(ps_trace_open(&trace, path, &err), &err);
    stop_on(ps_replay_open(&replay, trace, &err), &err);
    ps_trace_close(&trace);
    unlink(path);
    free(bytes);
    return replay;
}

static void probe(struct bench *b, double seconds, struct ps_probe_result *result)
{
    struct ps_member_info member;
    struct ps_error err = {0};

    ps_volume_member(ps_model_volume(b->model), 0, &member);
    struct ps_probe_options options = {.path = member.path, .ns_max = (uint64_t)(seconds * 1e9)};
    stop_on(ps_probe_run(&options, result, &err), &err);
}

/* ---- what reads cost the processors ---------------------------------------------------------- */

/* Checksums of as much memory as no cache holds, in pieces of a slice. */
static uint64_t check_ns(const struct bench *b, int threads)
{
    uint64_t slice_bytes = ps_div_up(b->info.expert_bytes_max, b->info.slices_per_expert);
    struct ps_region region = {0};
    struct ps_error err = {0};
    uint64_t sum = 0, bytes = 0;

    stop_on(ps_region_map(&region, CHECK_BYTES, -1, &err), &err);
    memset(region.base, 1, CHECK_BYTES);
    uint64_t begin_ns = ps_now_ns();
    for (; bytes + slice_bytes <= CHECK_BYTES; bytes += slice_bytes)
        sum += ps_checksum((const uint8_t *)region.base + bytes, slice_bytes);
    uint64_t ns = ps_now_ns() - begin_ns;
    if (sum == 0)
        printf("the sum is 0\n");
    ps_region_unmap(&region);
    return (uint64_t)((double)ns / (double)bytes * (double)b->info.expert_bytes_max / threads);
}

/* With everything in memory. */
static void measure_arithmetic(struct bench *b, struct ps_replay_compute *compute)
{
    uint64_t layers = (uint64_t)b->token_count * b->info.moe_layer_count;
    struct run run;

    run_engine(b, 0, true, NULL, &run);
    compute->expert_ns = run.expert_ns / (layers * b->info.experts_used);
    compute->shared_ns = run.shared_ns / layers;
    compute->mixer_ns = (run.ns - run.expert_ns - run.shared_ns) / layers;
}

static void measure_costs(struct bench *b, struct ps_replay_compute *compute)
{
    struct ps_engine_options options = {.ctx = b->token_count, .activations = "q8"};
    struct ps_miss_times misses;
    struct ps_plan plan;
    struct ps_member_info member;
    struct ps_measure_result read;
    struct ps_error err = {0};

    stop_on(ps_model_plan(b->model, &options, &plan, &err), &err);
    ps_volume_member(ps_model_volume(b->model), 0, &member);
    uint64_t slice = ps_div_up(b->info.expert_bytes_max, b->info.slices_per_expert);
    const char *path = member.path;
    struct ps_measure_options measure = {.paths = &path,
                                         .path_count = 1,
                                         .request_bytes = (uint32_t)ps_align_up(slice, 4096),
                                         .depth = 1, /* as they are asked for, one by one */
                                         .ns_max = READ_NS_MAX,
                                         .seed = ps_now_ns()};
    stop_on(ps_measure_run(&measure, &read, &err), &err);
    compute->check_ns = check_ns(b, plan.threads);
    compute->issue_ns = read.cpu_ns / ps_max_u64(read.request_count, 1);
    compute->read_ns = compute->issue_ns / (uint64_t)plan.threads;
    /* What a missing expert takes beyond its read: the store's threads, then all that compute. */
    stop_on(ps_model_time_misses(b->model, &options, &misses, &err), &err);
    double alone_ns = (double)read.ns / (double)ps_max_u64(read.request_count, 1);
    double beyond_ns = misses.seconds[0] * 1e9 - alone_ns * (double)b->info.slices_per_expert;
    compute->wake_ns = beyond_ns > 0 ? (uint64_t)beyond_ns : 0;
}

/* ---- rounds ---------------------------------------------------------------------------------- */

struct round {
    double
        ratio; /* replayed tokens/s over those of the engine; first, as rounds are sorted by it */
    double rates[2], waited[2];
    uint64_t hits[2], slots;
};

static void round_run(struct bench *b, double share, double seconds, struct round *round)
{
    struct ps_replay_compute compute = {0};
    struct ps_probe_result probed;
    struct ps_replay_result played;
    struct ps_error err = {0};
    struct run run;

    probe(b, seconds, &probed);
    measure_arithmetic(b, &compute);
    measure_costs(b, &compute);
    /* Behind the measurements: a plan counts what the process has held so far. */
    run_engine(b, memory_for(b, share), false, note_route, &run);
    struct ps_replay *replay = open_replay(b);
    struct ps_replay_drive drive = {.probe = &probed};
    struct ps_replay_options options = {.drives = &drive,
                                        .drive_count = 1,
                                        .volume = ps_model_volume(b->model),
                                        .slot_count = (uint32_t)run.store.slot_count,
                                        .compute = compute};
    stop_on(ps_replay_run(replay, &options, &played, &err), &err);
    ps_replay_close(&replay);
    *round = (struct round){
        .ratio = (double)run.ns / (double)played.ns,
        .rates = {b->token_count * 1e9 / (double)run.ns, b->token_count * 1e9 / (double)played.ns},
        .waited = {100.0 * (double)run.store.wait_ns / (double)run.ns,
                   100.0 * (double)played.stall_ns / (double)played.ns},
        .hits = {run.store.hits, played.hits},
        .slots = run.store.slot_count};
}

static void compare(struct bench *b, double share, double seconds, uint32_t count)
{
    struct round rounds[ROUNDS_MAX] = {0};

    for (uint32_t i = 0; i < count; i++)
        round_run(b, share, seconds, &rounds[i]);
    qsort(rounds, count, sizeof(*rounds), ps_compare_double);
    const struct round *r = &rounds[count / 2];
    printf("%6llu %9llu %9llu  %9.2f %9.2f  %6.2f (%.2f-%.2f)  %7.1f %% %7.1f %%\n",
           (unsigned long long)r->slots, (unsigned long long)r->hits[0],
           (unsigned long long)r->hits[1], r->rates[0], r->rates[1], r->ratio, rounds[0].ratio,
           rounds[count - 1].ratio, r->waited[0], r->waited[1]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const double shares[] = {0.1, 0.25, 0.5, 1};
    struct bench b = {.token_count = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 256};
    double seconds = argc > 4 ? strtod(argv[4], NULL) : 8;
    uint32_t rounds = argc > 5 ? (uint32_t)strtoul(argv[5], NULL, 10) : 5;
    struct ps_error err = {0};
    struct run run;

    if (argc < 3 || b.token_count == 0 || rounds == 0 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "Usage: bench_replay VOLUME TEXT|- [TOKENS [SECONDS [ROUNDS]]]\n");
        return 2;
    }
    stop_on(ps_model_open(&b.model, (const char *const *)&argv[1], 1, &err), &err);
    ps_model_info(b.model, &b.info);
    read_text(&b, argv[2]);
    b.moe_of = allocate(b.info.layer_count, sizeof(*b.moe_of));
    b.moe_layers = allocate(b.info.moe_layer_count, sizeof(*b.moe_layers));
    b.experts = allocate((size_t)b.token_count * b.info.moe_layer_count * b.info.experts_used,
                         sizeof(*b.experts));
    run_engine(&b, 0, true, number_layer, &run);
    for (uint32_t l = 0, moe = 0; l < b.info.layer_count; l++)
        b.moe_of[l] = b.moe_of[l] ? moe++ : 0;
    printf(
        " slots      hits  replayed   tokens/s  replayed   ratio (least-most)  waited  replayed\n");
    for (size_t i = 0; i < PS_ARRAY_LEN(shares); i++)
        compare(&b, shares[i], seconds, rounds);
    free(b.ids);
    free(b.moe_of);
    free(b.moe_layers);
    free(b.experts);
    ps_model_close(&b.model);
    return 0;
}
