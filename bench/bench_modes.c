/*
 * What does reading past the page cache win under one memory ceiling? Decodes the same tokens with
 * every I/O engine in turn and prints tokens/s, bytes per token and GB/s, beside what fio reads
 * from the same members at the same request size.
 *
 * Each mode runs in a process of its own, with the volume dropped from the page cache before, and
 * in a memory cgroup where that is allowed: the ceiling holds for the page cache, too, and in the
 * modes that use it the engine leaves it all but the least of slots.
 *
 * Usage: bench_modes VOLUME... --memory SIZE [--tokens N] [--warm N] [--repeat N] [--threads N]
 *                    [--file TEXT] [--fio-seconds N]
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/budget.h"
#include "core/util.h"
#include "fio.h"
#include "limit.h"
#include "model/penstock.h"

#define ROUNDS_MAX 101
#define FIO_DEPTH 8
#define REQUEST_BYTES_MAX (4u << 20) /* the store's, nvme/io.h */

static const char *const modes[] = {"uring", "pread", "pagecache", "mmap"};
#define MODE_COUNT PS_ARRAY_LEN(modes)

struct args {
    const char *paths[PS_MEMBER_COUNT_MAX];
    int path_count;
    uint64_t memory_bytes;
    uint32_t tokens, warm, rounds, fio_seconds;
    int threads;
    const char *file;
};

/* What a child found out; zero tokens: it failed. */
struct sample {
    uint64_t tokens, ns, streamed_bytes, drive_bytes, wait_ns, hits, misses;
    uint64_t peak_bytes, slots;
    char engine[16];
    bool is_limited;
};

struct bench {
    struct args args;
    struct fio_member members[PS_MEMBER_COUNT_MAX];
    char paths[PS_MEMBER_COUNT_MAX][512];
    int member_count;
    uint64_t request_bytes; /* of a typical read */
    int32_t *ids;           /* [warm + tokens] */
    char about[256];
};

/* ---- the child ------------------------------------------------------------------------------- */

static void print_log(void *ctx, enum ps_log_level level, const char *text)
{
    const char *mode = ctx;
    if (level <= PS_LOG_WARN)
        fprintf(stderr, "bench_modes: %s: %s\n", mode, text);
}

/* Bytes that this process has had the drives read, the page cache's misses included. */
static uint64_t drive_bytes(void)
{
    FILE *file = fopen("/proc/self/io", "re");
    char line[128];
    uint64_t bytes = 0;

    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "read_bytes: %" SCNu64, &bytes) == 1)
            break;
    }
    if (file)
        fclose(file);
    return bytes;
}

static int eval_each(struct ps_session *session, const int32_t *ids, uint32_t count,
                     struct ps_error *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < count && rc >= 0; i++)
        rc = ps_session_eval(session, &ids[i], 1, NULL, NULL, err);
    return rc;
}

static int measure(const struct bench *bench, struct ps_engine *engine, struct ps_session *session,
                   struct sample *sample, struct ps_error *err)
{
    struct ps_engine_stats a, b;
    int rc = eval_each(session, bench->ids, bench->args.warm, err);

    if (rc < 0)
        return rc;
    ps_engine_stats(engine, &a);
    uint64_t drive = drive_bytes(), begin_ns = ps_now_ns();
    rc = eval_each(session, bench->ids + bench->args.warm, bench->args.tokens, err);
    if (rc < 0)
        return rc;
    sample->ns = ps_now_ns() - begin_ns;
    sample->drive_bytes = drive_bytes() - drive;
    ps_engine_stats(engine, &b);
    sample->streamed_bytes = b.store.streamed_bytes - a.store.streamed_bytes;
    sample->wait_ns = b.store.wait_ns - a.store.wait_ns;
    sample->hits = b.store.hits - a.store.hits;
    sample->misses = b.store.misses - a.store.misses;
    sample->slots = b.store.slot_count;
    sample->peak_bytes = b.memory_peak_bytes;
    snprintf(sample->engine, sizeof(sample->engine), "%s", b.store.engine);
    sample->tokens = bench->args.tokens;
    return 0;
}

static int run_mode(const struct bench *bench, const char *mode, const struct limit *limit,
                    struct sample *sample, struct ps_error *err)
{
    const struct args *args = &bench->args;
    struct ps_model *model = NULL;
    struct ps_engine *engine = NULL;
    struct ps_session *session = NULL;
    struct ps_engine_stats stats;
    struct ps_engine_options options = {
        .memory_bytes = args->memory_bytes,
        .io = mode,
        .threads = args->threads,
        .ctx = args->warm + args->tokens,
    };
    bool joined = limit->dir[0] != '\0' && limit_join(limit) == 0;
    int rc = ps_model_open(&model, args->paths, args->path_count, err);

    if (rc >= 0)
        rc = ps_engine_open(&engine, model, &options, err);
    if (rc >= 0)
        rc = ps_session_open(&session, engine, err);
    if (rc >= 0) {
        /* A memory cgroup does not count hugetlb pages. */
        ps_engine_stats(engine, &stats);
        uint64_t huge = ps_min_u64(stats.hugepage_bytes, stats.budget_bytes);
        sample->is_limited = joined && limit_set(limit, stats.budget_bytes - huge) == 0;
        rc = measure(bench, engine, session, sample, err);
    }
    ps_session_close(&session);
    ps_engine_close(&engine);
    ps_model_close(&model);
    return rc;
}

/* ---- the parent ------------------------------------------------------------------------------ */

static void drop_from_page_cache(const struct bench *bench)
{
    for (int i = 0; i < bench->member_count; i++) {
        int fd = open(bench->members[i].path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        fdatasync(fd);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
}

static int sample_mode(const struct bench *bench, const char *mode, struct sample *sample)
{
    struct limit limit = {.dir = ""};
    int out[2], status = 0;

    memset(sample, 0, sizeof(*sample));
    drop_from_page_cache(bench);
    limit_make(&limit);
    if (pipe2(out, O_CLOEXEC) < 0)
        return -errno;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct ps_error err = {0};
        ps_log_set(print_log, (void *)(uintptr_t)mode);
        int rc = run_mode(bench, mode, &limit, sample, &err);
        if (rc < 0)
            fprintf(stderr, "bench_modes: %s: %s: %s\n", mode, err.where, err.text);
        bool sent = rc >= 0 && write(out[1], sample, sizeof(*sample)) == sizeof(*sample);
        _exit(sent ? 0 : 1);
    }
    close(out[1]);
    bool got = child > 0 && read(out[0], sample, sizeof(*sample)) == sizeof(*sample);
    close(out[0]);
    if (child > 0)
        waitpid(child, &status, 0);
    limit_remove(&limit);
    if (WIFSIGNALED(status))
        fprintf(stderr, "bench_modes: %s was ended by signal %d, by the memory limit if it is 9\n",
                mode, WTERMSIG(status));
    return got ? 0 : -EIO;
}

static double tokens_per_s(const struct sample *sample)
{
    return sample->ns ? (double)sample->tokens * 1e9 / (double)sample->ns : 0;
}

static int by_speed(const void *a, const void *b)
{
    double x = tokens_per_s(a), y = tokens_per_s(b);
    return (x > y) - (x < y);
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_row(const char *mode, struct sample *samples, uint32_t count)
{
    qsort(samples, count, sizeof(*samples), by_speed);
    const struct sample *s = &samples[count / 2];
    double tokens = (double)s->tokens, seconds = (double)s->ns / 1e9;
    uint64_t asked = s->hits + s->misses;
    char name[40];

    snprintf(name, sizeof(name), "%s%s%s", mode, strcmp(mode, s->engine) == 0 ? "" : " as ",
             strcmp(mode, s->engine) == 0 ? "" : s->engine);
    printf("%-18s %9.2f %9.2f %9.2f %11.2f %9.2f %9.2f %6.1f %6.1f %8" PRIu64 " %9.1f\n", name,
           tokens_per_s(s), tokens_per_s(&samples[0]), tokens_per_s(&samples[count - 1]),
           (double)s->streamed_bytes / tokens / 1e6, (double)s->streamed_bytes / seconds / 1e9,
           (double)s->drive_bytes / seconds / 1e9, 100.0 * (double)s->wait_ns / (double)s->ns,
           asked ? 100.0 * (double)s->hits / (double)asked : 0.0, s->slots,
           (double)s->peak_bytes / (1 << 20));
}

static void print_head(const struct bench *bench)
{
    const struct args *a = &bench->args;
    char memory[32];

    printf("%s\n", bench->about);
    printf(
        "ceiling %s; %u tokens one by one after %u to warm up; %u rounds, median by tokens/s\n\n",
        a->memory_bytes == PS_MEMORY_MIN
            ? "at the floor"
            : ps_size_text_binary(a->memory_bytes, memory, sizeof(memory)),
        a->tokens, a->warm, a->rounds);
    printf("%-18s %9s %9s %9s %11s %9s %9s %6s %6s %8s %9s\n", "engine", "tokens/s", "least",
           "most", "MB/token", "GB/s", "drive", "wait", "hits", "slots", "peak");
    printf("%-18s %9s %9s %9s %11s %9s %9s %6s %6s %8s %9s\n", "", "", "", "", "", "", "GB/s", "%",
           "%", "", "MiB");
}

static void print_fio(const struct bench *bench, int64_t *rates, uint32_t count)
{
    qsort(rates, count, sizeof(*rates), by_value);
    int64_t rate = rates[count / 2];

    if (rate > 0)
        printf("%-18s %9s %9s %9s %11s %9.2f %9.2f   random reads of %" PRIu64
               " KiB, %d in flight per member\n",
               "fio", "", "", "", "", (double)rate / 1e9, (double)rate / 1e9,
               bench->request_bytes >> 10, FIO_DEPTH);
    else
        printf("%-18s %s\n", "fio",
               rate == -ENOENT ? "is not installed: sudo apt-get install fio"
                               : "failed (its message is above): no yardstick for the drives");
}

static int run_rounds(const struct bench *bench)
{
    static struct sample samples[MODE_COUNT][ROUNDS_MAX];
    static int64_t rates[ROUNDS_MAX];
    const struct args *args = &bench->args;
    bool is_limited = true;
    int rc = 0;

    for (uint32_t r = 0; r < args->rounds; r++) {
        for (size_t m = 0; m < MODE_COUNT && rc == 0; m++) {
            rc = sample_mode(bench, modes[m], &samples[m][r]);
            is_limited &= samples[m][r].is_limited;
        }
        if (rc < 0)
            return 1;
        rates[r] = -ECANCELED;
        if (args->fio_seconds > 0)
            rates[r] = fio_read_rate(bench->members, bench->member_count, bench->request_bytes,
                                     FIO_DEPTH, (int)args->fio_seconds);
    }
    print_head(bench);
    for (size_t m = 0; m < MODE_COUNT; m++)
        print_row(modes[m], samples[m], args->rounds);
    if (args->fio_seconds > 0)
        print_fio(bench, rates, args->rounds);
    if (!is_limited)
        printf("\nNo memory cgroup could be made, so pagecache and mmap had the page cache of the "
               "whole machine; run this as root, or under `systemd-run --scope -p "
               "MemoryMax=...`.\n");
    return 0;
}

/* ---- the volume ------------------------------------------------------------------------------ */

/* The mean request over all experts: pieces, cut where the store cuts them. */
static uint64_t typical_request(const struct ps_volume *volume)
{
    uint64_t bytes = 0, count = 0;

    for (uint32_t o = 0; o < ps_volume_object_count(volume); o++) {
        struct ps_object_info object;
        ps_volume_object(volume, o, &object);
        for (uint32_t s = 0; object.kind == PS_OBJECT_STREAMED && s < object.slice_count; s++) {
            struct ps_slice_info slice;
            ps_volume_slice(volume, o, s, &slice);
            for (uint32_t p = 0; p < slice.piece_count; p++) {
                struct ps_piece_info piece;
                ps_volume_piece(volume, o, s, p, &piece);
                bytes += piece.bytes;
                count += ps_div_up(piece.bytes, REQUEST_BYTES_MAX);
            }
        }
    }
    return count ? ps_align_up(bytes / count, 4096) : 1 << 20;
}

static char *read_text(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "re");
    char *text = malloc(1 << 20);

    *bytes = file && text ? fread(text, 1, 1 << 20, file) : 0;
    if (file)
        fclose(file);
    return text;
}

/* Tokens of the text, over again where it is too short; without a text, ids from a fixed sequence.
 */
static int make_ids(struct bench *bench, const struct ps_model *model, uint32_t vocab,
                    struct ps_error *err)
{
    uint32_t count = bench->args.warm + bench->args.tokens;
    uint64_t state = 1;

    bench->ids = calloc(count, sizeof(*bench->ids));
    if (!bench->ids)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory");
    if (!bench->args.file) {
        for (uint32_t i = 0; i < count; i++) {
            state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
            bench->ids[i] = (int32_t)((state >> 33) % vocab);
        }
        return 0;
    }
    size_t bytes;
    char *text = read_text(bench->args.file, &bytes);
    int64_t got = bytes == 0 ? ps_error_set(err, -ENOENT, bench->args.file, "no text could be read")
                             : ps_model_tokenize(model, text, bytes, bench->ids, count, err);
    free(text);
    for (uint32_t i = 0; got > 0 && i < count; i++)
        bench->ids[i] = bench->ids[i % (uint64_t)got];
    return got < 0 ? (int)got : 0;
}

static int look_at_volume(struct bench *bench, struct ps_error *err)
{
    struct ps_model *model = NULL;
    struct ps_model_info info;
    char streamed[32], token[32];
    int rc = ps_model_open(&model, bench->args.paths, bench->args.path_count, err);

    if (rc < 0)
        return rc;
    const struct ps_volume *volume = ps_model_volume(model);
    ps_model_info(model, &info);
    bench->member_count = ps_volume_member_count(volume);
    for (int i = 0; i < bench->member_count; i++) {
        struct ps_member_info member;
        ps_volume_member(volume, i, &member);
        snprintf(bench->paths[i], sizeof(bench->paths[i]), "%s", member.path);
        bench->members[i] =
            (struct fio_member){bench->paths[i], member.data_begin_bytes, member.data_end_bytes};
    }
    bench->request_bytes = typical_request(volume);
    snprintf(bench->about, sizeof(bench->about),
             "%.64s: %d member%s, experts of %s, %s per token when nothing is cached",
             info.name[0] ? info.name : info.arch, bench->member_count,
             bench->member_count == 1 ? "" : "s",
             ps_size_text(info.streamed_bytes, streamed, sizeof(streamed)),
             ps_size_text(info.token_bytes, token, sizeof(token)));
    rc = make_ids(bench, model, info.vocab_rows, err);
    ps_model_close(&model);
    return rc;
}

/* ---- arguments ------------------------------------------------------------------------------- */

enum { KEY_MEMORY = 1, KEY_TOKENS, KEY_WARM, KEY_REPEAT, KEY_THREADS, KEY_FILE, KEY_FIO };

static const struct argp_option options[] = {
    {"memory", KEY_MEMORY, "SIZE", 0, "the ceiling: bytes, K, M, G, or min", 0},
    {"tokens", KEY_TOKENS, "N", 0, "tokens that are timed (default 64)", 0},
    {"warm", KEY_WARM, "N", 0, "tokens before them (default 32)", 0},
    {"repeat", KEY_REPEAT, "N", 0, "rounds over all engines (default 3)", 0},
    {"threads", KEY_THREADS, "N", 0, "compute threads (default: one per CPU)", 0},
    {"file", KEY_FILE, "TEXT", 0, "take the tokens from this text", 0},
    {"fio-seconds", KEY_FIO, "N", 0, "length of each run of fio (default 2; 0: none)", 0},
    {0},
};

static uint32_t parse_count(struct argp_state *state, const char *arg, uint32_t least,
                            uint32_t most)
{
    char *end;
    unsigned long n = strtoul(arg, &end, 10);

    if (*end || end == arg || n < least || n > most)
        argp_error(state, "'%s' is not a number from %u to %u", arg, least, most);
    return (uint32_t)n;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct args *args = state->input;
    struct ps_error err;

    switch (key) {
    case KEY_MEMORY:
        if (strcmp(arg, "min") == 0)
            args->memory_bytes = PS_MEMORY_MIN;
        else if (ps_size_parse(arg, &args->memory_bytes, &err) < 0)
            argp_error(state, "%s", err.text);
        return 0;
    case KEY_TOKENS:
        args->tokens = parse_count(state, arg, 1, 1 << 20);
        return 0;
    case KEY_WARM:
        args->warm = parse_count(state, arg, 0, 1 << 20);
        return 0;
    case KEY_REPEAT:
        args->rounds = parse_count(state, arg, 1, ROUNDS_MAX);
        return 0;
    case KEY_THREADS:
        args->threads = (int)parse_count(state, arg, 1, 1024);
        return 0;
    case KEY_FILE:
        args->file = arg;
        return 0;
    case KEY_FIO:
        args->fio_seconds = parse_count(state, arg, 0, 3600);
        return 0;
    case ARGP_KEY_ARG:
        if (args->path_count == PS_MEMBER_COUNT_MAX)
            argp_error(state, "a volume has at most %d members", PS_MEMBER_COUNT_MAX);
        args->paths[args->path_count++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (args->path_count == 0 || args->memory_bytes == 0)
            argp_error(state, "a volume and --memory are needed");
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
        .args_doc = "VOLUME...",
        .doc = "Decodes the same tokens with every I/O engine under one memory ceiling.",
    };
    static struct bench bench = {
        .args = {.tokens = 64, .warm = 32, .rounds = 3, .fio_seconds = 2},
    };
    struct ps_error err = {0};

    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &bench.args);
    if (look_at_volume(&bench, &err) < 0) {
        fprintf(stderr, "bench_modes: %s: %s\n", err.where, err.text);
        return 1;
    }
    int rc = run_rounds(&bench);
    free(bench.ids);
    return rc;
}
