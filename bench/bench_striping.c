/*
 * How much of the sum of several unequal drives does a reader of experts get? Reads experts of
 * 7,077,888 bytes in four slices at random, 1 to 4 of them outstanding, from the same drives in
 * three ways, in turn: cut over all by weight, cut over all evenly, and dealt whole to one drive
 * each. DESTROYS what is on the members. Meant for the rig, whose drives can be throttled.
 *
 * With --at SECONDS COMMAND it reads with 4 outstanding, runs the command (which slows a drive
 * down) after that time, and prints what is read from two seconds later on.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/io.h"
#include "nvme/layout.h"

#define SLICES 4u
#define SLICE_BYTES 1769472u
#define EXPERT_BYTES (SLICES * (uint64_t)SLICE_BYTES)
#define OUTSTANDING_MAX 4u
#define ROUNDS_MAX 21
#define SETTLE_NS UINT64_C(2000000000)

enum way { WEIGHTED, EQUAL, DEALT, WAY_COUNT };
static const char *const way_names[] = {"cut by weight", "cut evenly", "whole experts dealt"};

struct bench {
    const char *members[PS_MEMBER_COUNT_MAX];
    int member_count;
    double rates[PS_MEMBER_COUNT_MAX]; /* bytes per second */
    uint32_t experts, rounds, copies;
    double seconds, at_seconds, after_sum;
    const char *command, *engine;
    uint64_t seed;
};

/* ---- volumes --------------------------------------------------------------------------------- */

static int fill(void *ctx, int worker, uint32_t object, uint32_t begin, uint32_t end, uint8_t *buf,
                struct ps_error *err)
{
    (void)ctx;
    (void)worker;
    (void)err;
    for (uint32_t s = begin; s < end; s++, buf += SLICE_BYTES)
        memset(buf, (int)(object * SLICES + s), SLICE_BYTES);
    return 0;
}

static int lay_out(const struct bench *bench, enum way way, struct ps_error *err)
{
    static struct ps_layout_slice slices[SLICES];
    struct ps_layout_object *objects = calloc(bench->experts, sizeof(*objects));
    char(*names)[32] = calloc(bench->experts, sizeof(*names));
    struct ps_member_profile profiles[PS_MEMBER_COUNT_MAX] = {{0}};
    struct ps_layout_spec spec = {.objects = objects, .object_count = bench->experts};
    struct ps_layout_options options = {
        .members = bench->members,
        .member_count = bench->member_count,
        .threads = 1,
        .copies = bench->copies,
        .profiles = way == WEIGHTED ? profiles : NULL,
    };

    for (uint32_t s = 0; s < SLICES; s++)
        slices[s] = (struct ps_layout_slice){SLICE_BYTES, s * 256, 256};
    for (uint32_t e = 0; e < bench->experts; e++) {
        snprintf(names[e], sizeof(names[e]), "expert %u", e);
        objects[e] = (struct ps_layout_object){PS_OBJECT_STREAMED, 0, e, names[e], slices, SLICES};
    }
    for (int m = 0; m < bench->member_count; m++)
        profiles[m].bytes_per_s = (uint64_t)bench->rates[m];
    int rc = ps_layout_write(&spec, &options, fill, NULL, err);
    free(names);
    free(objects);
    return rc;
}

static int wipe(const struct bench *bench, struct ps_error *err)
{
    int rc = 0;
    for (int m = 0; m < bench->member_count && rc == 0; m++)
        rc = ps_member_wipe(bench->members[m], err);
    return rc;
}

static uint32_t next_expert(struct bench *bench)
{
    bench->seed = bench->seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)((bench->seed >> 33) % bench->experts);
}

/* ---- reading --------------------------------------------------------------------------------- */

struct window {
    uint64_t begin_ns, end_ns; /* what is read between them counts */
    uint64_t bytes;
};

static void count_bytes(struct window *w, uint64_t bytes)
{
    uint64_t now_ns = ps_now_ns();
    if (now_ns >= w->begin_ns && now_ns < w->end_ns)
        w->bytes += bytes;
}

static double rate_of(const struct window *w)
{
    return (double)w->bytes * 1e9 / (double)(w->end_ns - w->begin_ns);
}

static bool is_leased(const struct ps_lease *leases, uint32_t object)
{
    for (uint32_t i = 0; i < OUTSTANDING_MAX; i++) {
        if (leases[i].slices && leases[i].object == object)
            return true;
    }
    return false;
}

/* Leases an expert that has to be read: neither outstanding already nor in memory. */
static int lease_one(struct bench *bench, struct ps_store *store, const struct ps_lease *leases,
                     struct ps_lease *lease, struct ps_error *err)
{
    for (;;) {
        uint32_t expert = next_expert(bench);
        int rc = is_leased(leases, expert) ? 1 : ps_store_get(store, 0, expert, lease, err);
        if (rc <= 0)
            return rc;
        ps_store_put(store, lease);
    }
}

/* Keeps so many experts outstanding; the cache holds no more than those. */
static int read_experts(struct bench *bench, struct ps_store *store, uint32_t outstanding,
                        struct window *w, struct ps_error *err)
{
    struct ps_lease leases[OUTSTANDING_MAX] = {{0}};
    int rc = 0;

    while (rc >= 0 && ps_now_ns() < w->end_ns) {
        for (uint32_t i = 0; i < outstanding && rc >= 0; i++) {
            if (!leases[i].slices)
                rc = lease_one(bench, store, leases, &leases[i], err);
        }
        int news = rc < 0 ? rc : ps_store_wait(store, leases, outstanding, err);
        rc = news < 0 ? news : 0;
        count_bytes(w, news > 0 ? (uint64_t)news * SLICE_BYTES : 0);
        for (uint32_t i = 0; i < outstanding; i++) {
            if (leases[i].state == PS_LEASE_READY || rc < 0)
                ps_store_put(store, &leases[i]);
        }
    }
    for (uint32_t i = 0; i < outstanding; i++)
        ps_store_put(store, &leases[i]);
    return rc;
}

/* Starts an expert's four reads, all from one drive. */
static void deal(struct bench *bench, struct ps_io *io, uint8_t *buf, uint64_t tag)
{
    uint32_t expert = next_expert(bench), members = (uint32_t)bench->member_count;

    for (uint32_t s = 0; s < SLICES; s++) {
        struct ps_io_request request = {
            .tag = tag,
            .offset = (1 << 20) + expert / members * EXPERT_BYTES + s * (uint64_t)SLICE_BYTES,
            .buf = buf + s * (size_t)SLICE_BYTES,
            .bytes = SLICE_BYTES,
            .member = expert % members,
        };
        io->ops->submit(io, &request, 1);
    }
}

static int read_dealt(struct bench *bench, struct ps_io *io, uint8_t *buf, uint32_t outstanding,
                      struct window *w)
{
    struct ps_io_completion got[OUTSTANDING_MAX * SLICES];
    uint32_t left[OUTSTANDING_MAX] = {0};

    while (ps_now_ns() < w->end_ns) {
        for (uint32_t i = 0; i < outstanding; i++) {
            if (left[i] > 0)
                continue;
            deal(bench, io, buf + i * EXPERT_BYTES, i);
            left[i] = SLICES;
        }
        int n = io->ops->reap(io, got, PS_ARRAY_LEN(got), PS_IO_WAIT_FOREVER);
        for (int i = 0; i < n; i++) {
            if (got[i].result != (int32_t)SLICE_BYTES)
                return got[i].result < 0 ? got[i].result : -EIO;
            left[got[i].tag]--;
            count_bytes(w, SLICE_BYTES);
        }
        if (n < 0)
            return n;
    }
    return 0;
}

/* Each expert whole on one drive, in turn. No volume is needed. */
static int measure_dealt(struct bench *bench, uint32_t outstanding, struct window *w,
                         struct ps_error *err)
{
    int fds[PS_MEMBER_COUNT_MAX];
    struct ps_region region = {0};
    struct ps_io *io = NULL;
    struct ps_io_config config = {
        .engine = bench->engine,
        .fds = fds,
        .names = bench->members,
        .member_count = bench->member_count,
        .depth = OUTSTANDING_MAX * SLICES,
        .buffers = &region,
        .buffer_count = 1,
    };

    for (int m = 0; m < bench->member_count; m++)
        fds[m] = open(bench->members[m], O_RDONLY | O_CLOEXEC);
    int rc = ps_region_map(&region, OUTSTANDING_MAX * EXPERT_BYTES, -1, err);
    if (rc == 0)
        rc = ps_io_open(&io, &config, err);
    if (rc == 0) {
        rc = read_dealt(bench, io, region.base, outstanding, w);
        if (rc < 0)
            ps_error_set(err, rc, "dealt", "%s", ps_strerror(rc));
    }
    ps_io_close(&io);
    ps_region_unmap(&region);
    for (int m = 0; m < bench->member_count; m++)
        close(fds[m]);
    return rc;
}

static int measure_volume(struct bench *bench, uint32_t outstanding, struct window *w,
                          struct ps_error *err)
{
    struct ps_volume *volume = NULL;
    struct ps_store *store = NULL;
    struct ps_store_options options = {.engine = bench->engine, .lease_count = outstanding};
    int rc = ps_volume_open(&volume, bench->members, 1, err);

    if (rc == 0) {
        options.cache_bytes = ps_store_floor_bytes(volume, &options);
        rc = ps_store_open(&store, volume, &options, err);
    }
    if (rc == 0)
        rc = read_experts(bench, store, outstanding, w, err);
    ps_store_close(&store);
    ps_volume_close(&volume);
    return rc;
}

/* The first second is not counted: throttles let a burst through. */
static void window_set(struct window *w, double seconds)
{
    *w = (struct window){.begin_ns = ps_now_ns() + 1000000000};
    w->end_ns = w->begin_ns + (uint64_t)(seconds * 1e9);
}

/* ---- the comparison -------------------------------------------------------------------------- */

static double median(double *values, uint32_t count)
{
    qsort(values, count, sizeof(*values), ps_compare_double);
    return values[count / 2];
}

static double sum_of(const struct bench *bench)
{
    double sum = 0;
    for (int m = 0; m < bench->member_count; m++)
        sum += bench->rates[m];
    return sum;
}

static int compare(struct bench *bench, struct ps_error *err)
{
    static double rates[WAY_COUNT][OUTSTANDING_MAX][ROUNDS_MAX];
    double sum = sum_of(bench);

    /* The two volumes cannot lie on the drives at once, so each round lays both out anew. */
    for (uint32_t r = 0; r < bench->rounds; r++) {
        for (int way = 0; way < WAY_COUNT; way++) {
            int rc = way == DEALT ? 0 : lay_out(bench, (enum way)way, err);
            for (uint32_t n = 0; n < OUTSTANDING_MAX && rc == 0; n++) {
                struct window w;
                window_set(&w, bench->seconds);
                rc = way == DEALT ? measure_dealt(bench, n + 1, &w, err)
                                  : measure_volume(bench, n + 1, &w, err);
                rates[way][n][r] = rate_of(&w);
            }
            if (rc == 0 && way != DEALT)
                rc = wipe(bench, err);
            if (rc < 0)
                return rc;
        }
    }
    printf("%-22s %13s %13s %13s %13s\n", "experts outstanding", "1", "2", "3", "4");
    for (int way = 0; way < WAY_COUNT; way++) {
        printf("%-22s", way_names[way]);
        for (uint32_t n = 0; n < OUTSTANDING_MAX; n++) {
            double rate = median(rates[way][n], bench->rounds);
            printf(" %5.1f (%.3f)", rate / 1e6, rate / sum);
        }
        printf("\n");
    }
    printf("MB/s, and the share of the drives' sum of %.1f MB/s; medians of %u rounds, in turn\n",
           sum / 1e6, bench->rounds);
    return 0;
}

/* ---- one drive becomes slow ------------------------------------------------------------------ */

static pid_t run_later(const struct bench *bench)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        usleep((useconds_t)(bench->at_seconds * 1e6));
        int status = system(bench->command);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    return child;
}

static int slow_down(struct bench *bench, struct ps_error *err)
{
    struct window before, after;
    int status = 0, rc = lay_out(bench, WEIGHTED, err);

    if (rc < 0)
        return rc;
    window_set(&before, bench->at_seconds - 1);
    rc = measure_volume(bench, OUTSTANDING_MAX, &before, err);
    pid_t child = rc == 0 ? run_later(bench) : -1;
    after =
        (struct window){.begin_ns = ps_now_ns() + (uint64_t)(bench->at_seconds * 1e9) + SETTLE_NS};
    after.end_ns = after.begin_ns + (uint64_t)(bench->seconds * 1e9);
    if (rc == 0)
        rc = measure_volume(bench, OUTSTANDING_MAX, &after, err);
    if (child > 0)
        waitpid(child, &status, 0);
    if (rc == 0 && status != 0)
        rc = ps_error_set(err, -EIO, bench->command, "the command that slows a drive down failed");
    if (rc == 0)
        printf("%u cop%s: %.1f MB/s before; from two seconds after the change on %.1f MB/s, %.3f "
               "of the %.1f that can be had\n",
               bench->copies, bench->copies == 1 ? "y" : "ies", rate_of(&before) / 1e6,
               rate_of(&after) / 1e6, rate_of(&after) / bench->after_sum, bench->after_sum / 1e6);
    int wiped = wipe(bench, rc < 0 ? NULL : err);
    return rc < 0 ? rc : wiped;
}

/* ---- arguments ------------------------------------------------------------------------------- */

static void print_log(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx;
    if (level <= PS_LOG_WARN)
        printf("log: %s\n", text);
}

enum { KEY_RATES = 1, KEY_EXPERTS, KEY_ROUNDS, KEY_SECONDS, KEY_COPIES, KEY_AT, KEY_DO, KEY_SUM };

static const struct argp_option options[] = {
    {"rates", KEY_RATES, "MB/S,...", 0, "what each drive gives, in MB/s", 0},
    {"experts", KEY_EXPERTS, "N", 0, "experts in the volume (24)", 0},
    {"repeat", KEY_ROUNDS, "N", 0, "rounds (5)", 0},
    {"seconds", KEY_SECONDS, "T", 0, "seconds that are counted per measurement (4)", 0},
    {"copies", KEY_COPIES, "N", 0, "with --at: copies of every slice (1)", 0},
    {"engine", 'e', "ENGINE", 0, "uring, or another", 0},
    {"at", KEY_AT, "T", 0, "one drive becomes slow after so many seconds", 0},
    {"do", KEY_DO, "COMMAND", 0, "with --at: what makes it slow", 0},
    {"sum", KEY_SUM, "MB/S", 0, "with --at: what can be had afterwards", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct bench *b = state->input;
    int m = 0;

    switch (key) {
    case KEY_RATES:
        for (char *at = strtok(arg, ","); at && m < PS_MEMBER_COUNT_MAX; at = strtok(NULL, ","))
            b->rates[m++] = strtod(at, NULL) * 1e6;
        return 0;
    case KEY_EXPERTS:
        b->experts = (uint32_t)strtoul(arg, NULL, 10);
        return 0;
    case KEY_ROUNDS:
        b->rounds = (uint32_t)strtoul(arg, NULL, 10);
        return 0;
    case KEY_SECONDS:
        b->seconds = strtod(arg, NULL);
        return 0;
    case KEY_COPIES:
        b->copies = (uint32_t)strtoul(arg, NULL, 10);
        return 0;
    case KEY_AT:
        b->at_seconds = strtod(arg, NULL);
        return 0;
    case KEY_DO:
        b->command = arg;
        return 0;
    case KEY_SUM:
        b->after_sum = strtod(arg, NULL) * 1e6;
        return 0;
    case 'e':
        b->engine = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (b->member_count < PS_MEMBER_COUNT_MAX)
            b->members[b->member_count++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (b->member_count < 2 || b->rates[b->member_count - 1] == 0 || b->experts < 8 ||
            b->rounds < 1 || b->rounds > ROUNDS_MAX || b->seconds <= 0 ||
            (b->at_seconds > 0 && (b->at_seconds < 2 || !b->command || b->after_sum == 0)))
            argp_usage(state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "MEMBER MEMBER...",
        .doc = "Reads experts from unequal drives, cut by weight, cut evenly and dealt whole. "
               "DESTROYS what is on the members."};
    struct bench bench = {.experts = 24, .rounds = 5, .seconds = 4, .copies = 1, .engine = "uring"};
    struct ps_error err = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &bench);
    ps_log_set(print_log, NULL);
    int rc = bench.at_seconds > 0 ? slow_down(&bench, &err) : compare(&bench, &err);
    if (rc < 0)
        fprintf(stderr, "bench_striping: %s: %s\n", err.where, err.text);
    return rc < 0;
}
