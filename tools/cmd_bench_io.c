/* penstock bench io MEMBER...: how fast files, partitions and drives are read. */
#include "tools/tool.h"

#include <errno.h>

#include "core/budget.h"
#include "core/util.h"

#define REQUEST_BYTES_DEFAULT (2u << 20)
#define REQUEST_BYTES_UNIT 4096u
#define REQUEST_BYTES_MAX (64u << 20)
#define DEPTH_DEFAULT 8u
#define DEPTH_MAX 128u
#define SECONDS_DEFAULT 3.0

enum { KEY_ENGINE = 1, KEY_SIZE, KEY_DEPTH, KEY_SECONDS, KEY_RANDOM, KEY_SEQUENTIAL, KEY_JSON };

struct bench_args {
    struct ps_measure_options options;
    const char *paths[PS_MEMBER_COUNT_MAX];
    bool json, verbose;
};

static void size_parse(struct argp_state *state, struct bench_args *args, const char *arg)
{
    uint64_t bytes = tool_size(state, "--size", arg);

    if (bytes == 0 || bytes % REQUEST_BYTES_UNIT != 0 || bytes > REQUEST_BYTES_MAX)
        argp_error(state, "--size: reads are multiples of 4096 bytes up to 64M, not \"%s\"", arg);
    args->options.request_bytes = (uint32_t)bytes;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct bench_args *args = state->input;

    switch (key) {
    case KEY_ENGINE:
        tool_engine_check(state, "--engine", arg);
        args->options.engine = arg;
        return 0;
    case KEY_SIZE:
        size_parse(state, args, arg);
        return 0;
    case KEY_DEPTH:
        args->options.depth = (uint32_t)tool_number(state, "--depth", arg, 1, DEPTH_MAX);
        return 0;
    case KEY_SECONDS:
        args->options.ns_max = (uint64_t)(tool_real(state, "--seconds", arg, 0.001, 1e6) * 1e9);
        return 0;
    case KEY_RANDOM:
        args->options.is_sequential = false;
        return 0;
    case KEY_SEQUENTIAL:
        args->options.is_sequential = true;
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    case 'v':
        args->verbose = true;
        return 0;
    case ARGP_KEY_ARG:
        if (args->options.path_count == PS_MEMBER_COUNT_MAX)
            argp_error(state, "at most %d files or drives", PS_MEMBER_COUNT_MAX);
        else
            args->paths[args->options.path_count++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (args->options.path_count == 0)
            argp_error(state, "name at least one MEMBER: a file, a partition or a drive");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"engine", KEY_ENGINE, "ENGINE", 0, "what reads, as --io of run: uring (default), pread ...",
     0},
    {"size", KEY_SIZE, "SIZE", 0, "of one read: a multiple of 4096 up to 64M (2M)", 0},
    {"depth", KEY_DEPTH, "N", 0, "reads in flight on each MEMBER (8)", 0},
    {"seconds", KEY_SECONDS, "T", 0, "how long (3)", 0},
    {"random", KEY_RANDOM, NULL, 0, "at random, every block once before any again (default)", 0},
    {"sequential", KEY_SEQUENTIAL, NULL, 0, "in order", 0},
    {"verbose", 'v', NULL, 0, "say more on standard error", 0},
    {"json", KEY_JSON, NULL, 0, "print the result as JSON", 0},
    {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "MEMBER...",
    .doc = "Reads files, partitions or drives, all together, and shows bandwidth, latencies and "
           "processor time. Writes nothing and needs no volume."};

static double cpu_s_per_gb(const struct ps_measure_result *result)
{
    return result->bytes == 0 ? 0 : (double)result->cpu_ns / (double)result->bytes;
}

static void result_print(const struct ps_measure_options *asked,
                         const struct ps_measure_result *result)
{
    char size[32], p50[32], p90[32], p99[32], p999[32], most[32];

    printf("read      %.3f GB/s, %.0f reads/s of %s %s, %u in flight%s (%s%s%s)\n",
           (double)result->bytes_per_s / 1e9, tool_rate(result->request_count, result->ns),
           ps_size_text_binary(asked->request_bytes, size, sizeof(size)),
           asked->is_sequential ? "in order" : "at random", asked->depth,
           asked->path_count > 1 ? " on each" : "", result->engine,
           result->direct ? ", O_DIRECT" : "", result->registered ? ", registered buffers" : "");
    for (int i = 0; i < asked->path_count && asked->path_count > 1; i++)
        printf("          %.3f GB/s from %s\n", tool_rate(result->path_bytes[i], result->ns) / 1e9,
               asked->paths[i]);
    printf("latency   p50 %s, p90 %s, p99 %s, p99.9 %s, max %s\n",
           tool_latency_text(result->latency_p50_ns, p50),
           tool_latency_text(result->latency_p90_ns, p90),
           tool_latency_text(result->latency_p99_ns, p99),
           tool_latency_text(result->latency_p999_ns, p999),
           tool_latency_text(result->latency_max_ns, most));
    printf("cpu       %.4f s per GB; page faults: %llu major, %llu minor\n", cpu_s_per_gb(result),
           (unsigned long long)result->faults_major, (unsigned long long)result->faults_minor);
}

static json_t *latency_json(const struct ps_measure_result *result)
{
    return json_pack(
        "{s:f, s:f, s:f, s:f, s:f}", "p50", (double)result->latency_p50_ns / 1e3, "p90",
        (double)result->latency_p90_ns / 1e3, "p99", (double)result->latency_p99_ns / 1e3, "p99_9",
        (double)result->latency_p999_ns / 1e3, "max", (double)result->latency_max_ns / 1e3);
}

static json_t *result_json(const struct ps_measure_options *asked,
                           const struct ps_measure_result *result)
{
    json_t *members = json_array();

    for (int i = 0; i < asked->path_count; i++)
        json_array_append_new(members,
                              json_pack("{s:o, s:I, s:f}", "path", tool_json_text(asked->paths[i]),
                                        "bytes", (json_int_t)result->path_bytes[i], "bytes_per_s",
                                        tool_rate(result->path_bytes[i], result->ns)));
    json_t *json =
        json_pack("{s:s, s:b, s:b, s:I, s:I, s:s, s:b, s:f, s:I, s:I}", "engine", result->engine,
                  "direct", (int)result->direct, "registered_buffers", (int)result->registered,
                  "request_bytes", (json_int_t)asked->request_bytes, "depth",
                  (json_int_t)asked->depth, "order", asked->is_sequential ? "sequential" : "random",
                  "blank", (int)result->is_blank, "seconds", (double)result->ns / 1e9, "bytes",
                  (json_int_t)result->bytes, "requests", (json_int_t)result->request_count);
    json_t *rates = json_pack("{s:f, s:f, s:f, s:o, s:{s:I, s:I}, s:o}", "bytes_per_s",
                              tool_rate(result->bytes, result->ns), "requests_per_s",
                              tool_rate(result->request_count, result->ns), "cpu_s_per_gb",
                              cpu_s_per_gb(result), "latency_us", latency_json(result),
                              "page_faults", "major", (json_int_t)result->faults_major, "minor",
                              (json_int_t)result->faults_minor, "members", members);
    json_object_update(json, rates);
    json_decref(rates);
    return json;
}

int cmd_bench_io(int argc, char **argv)
{
    struct bench_args args = {
        .options = {.request_bytes = REQUEST_BYTES_DEFAULT,
                    .depth = DEPTH_DEFAULT,
                    .ns_max = (uint64_t)(SECONDS_DEFAULT * 1e9)},
    };
    struct ps_measure_result result;
    struct ps_error err = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    tool_log_start(args.verbose);
    tool_subject_set(args.paths[0]);
    args.options.paths = args.paths;
    /* Another order every time: what the last run has left in a drive's cache must not help. */
    args.options.seed = ps_now_ns();
    args.options.stop = tool_stop_flag();
    int rc = ps_measure_run(&args.options, &result, &err);
    if (rc < 0)
        return tool_end(rc, &err);
    if (result.is_blank)
        tool_warn_blank(args.paths[0]);
    if (args.json)
        return tool_json_print(result_json(&args.options, &result));
    result_print(&args.options, &result);
    return 0;
}
