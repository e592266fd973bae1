/*
 * bench_turns VOLUME MEMORY_MIB IDS PROMPT TOKENS TURN PREDICTOR[=FILE]...: what guessing experts
 * is worth, where runs one after the other differ by more than that. Every predictor (off, gate,
 * learned) decodes the same tokens (IDS: a file of numbers, separated by commas) in a process of
 * its own with so much memory, and the processes take turns of so many tokens, forwards and
 * backwards. A process has had a second of rest before each: for its store that is the user's
 * pause, not one between layers.
 *
 * Prints for each tokens/s over all turns; the speed beside the first predictor's, the mean of the
 * logarithms turn by turn with its standard error; what was read for a token, and of it on guesses
 * that proved right and wrong. Exit status 1 also if the last logits differ by a bit. Needs memory
 * for all at once. Free hugepages go to the first process alone: better there are none. Processes
 * differ by where their memory lies, too, which no number of turns evens out: compare "off off".
 * Environment: IO, as of --io (fault:rate=1500@1+:uring: a drive that is the same all the time).
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/util.h"
#include "model/penstock.h"

#define PREDICTOR_COUNT_MAX 4
#define REST_NS UINT64_C(1100000000)

/* What a process tells after each turn. */
struct report {
    uint64_t ns, end_ns, hash;
    uint64_t streamed_bytes, right_bytes, vain_bytes; /* of all turns so far */
};

struct player {
    char *name, *file;
    pid_t pid;
    int go, reports; /* pipes: a byte starts a turn */
    struct report last;
    uint64_t begin[3]; /* bytes, after the prompt */
    uint64_t ns;
    double log_sum, log_square_sum;
};

struct bench {
    const char *volume;
    uint64_t memory_bytes;
    uint32_t prompt, tokens, turn;
    int32_t *ids;
    struct player players[PREDICTOR_COUNT_MAX];
    int count;
};

static int read_ids(struct bench *b, const char *path)
{
    uint32_t count = b->prompt + b->tokens;
    FILE *file = fopen(path, "r");

    b->ids = malloc(count * sizeof(*b->ids));
    for (uint32_t i = 0; file && b->ids && i < count; i++)
        if (fscanf(file, "%*[^0-9]") < 0 || fscanf(file, "%" SCNd32, &b->ids[i]) != 1)
            count = 0;
    if (file)
        fclose(file);
    if (!file || !b->ids || count == 0)
        fprintf(stderr, "bench_turns: %s does not hold %" PRIu32 " token ids\n", path,
                b->prompt + b->tokens);
    return file && b->ids && count > 0 ? 0 : -1;
}

/* ---- a process ------------------------------------------------------------------------------- */

static void fill_report(struct report *r, struct ps_engine *engine, struct ps_session *session,
                        uint64_t begin_ns, uint32_t vocab_rows)
{
    struct ps_engine_stats stats;

    *r = (struct report){.end_ns = ps_now_ns()};
    r->ns = r->end_ns - begin_ns;
    ps_engine_stats(engine, &stats);
    r->streamed_bytes = stats.store.streamed_bytes;
    r->right_bytes = stats.guesses_right_bytes;
    r->vain_bytes = stats.guesses_vain_bytes;
    r->hash = ps_checksum(ps_session_logits(session), vocab_rows * sizeof(float));
}

/* The prompt is the first turn. */
static int play(const struct bench *b, const struct player *p, struct ps_engine *engine,
                struct ps_session *session, uint32_t vocab_rows, struct ps_error *err)
{
    uint32_t at = 0, count = b->prompt, step = count;
    struct report report;
    char go;

    for (; at < b->prompt + b->tokens; at += count, count = b->turn, step = 1) {
        if (read(p->go, &go, 1) != 1)
            return 0;
        uint64_t begin_ns = ps_now_ns();
        for (uint32_t i = 0; i < count; i += step) {
            int rc = ps_session_eval(session, b->ids + at + i, step, NULL, NULL, err);
            if (rc < 0)
                return rc;
        }
        fill_report(&report, engine, session, begin_ns, vocab_rows);
        if (write(p->reports, &report, sizeof(report)) != sizeof(report))
            return 0;
    }
    return 0;
}

static int run_player(const struct bench *b, const struct player *p)
{
    struct ps_engine_options options = {.memory_bytes = b->memory_bytes,
                                        .activations = "q8",
                                        .ctx = b->prompt + b->tokens,
                                        .prompt_tokens = b->prompt,
                                        .io = getenv("IO"),
                                        .predictor = p->name,
                                        .predictor_file = p->file};
    struct ps_model *model = NULL;
    struct ps_engine *engine = NULL;
    struct ps_session *session = NULL;
    struct ps_model_info info;
    struct ps_error err = {0};

    int rc = ps_model_open(&model, &b->volume, 1, &err);
    if (rc >= 0)
        rc = ps_engine_open(&engine, model, &options, &err);
    if (rc >= 0)
        rc = ps_session_open(&session, engine, &err);
    if (rc >= 0) {
        ps_model_info(model, &info);
        rc = play(b, p, engine, session, info.vocab_rows, &err);
    }
    if (rc < 0)
        fprintf(stderr, "bench_turns: %s: %s: %s\n", p->name, err.where, err.text);
    ps_session_close(&session);
    ps_engine_close(&engine);
    ps_model_close(&model);
    return rc < 0;
}

/* ---- turns ----------------------------------------------------------------------------------- */

static int start_player(struct bench *b, struct player *p)
{
    int go[2], reports[2];

    if (pipe(go) != 0 || pipe(reports) != 0)
        return -1;
    p->pid = fork();
    if (p->pid == 0) {
        for (struct player *other = b->players; other < p; other++) {
            close(other->go);
            close(other->reports);
        }
        close(go[1]);
        close(reports[0]);
        p->go = go[0];
        p->reports = reports[1];
        exit(run_player(b, p));
    }
    close(go[0]);
    close(reports[1]);
    p->go = go[1];
    p->reports = reports[0];
    return p->pid < 0 ? -1 : 0;
}

static int take_turn(struct player *p)
{
    uint64_t now_ns = ps_now_ns();

    if (p->last.end_ns > 0 && now_ns < p->last.end_ns + REST_NS)
        usleep((useconds_t)((p->last.end_ns + REST_NS - now_ns) / 1000));
    return write(p->go, "", 1) == 1 &&
                   read(p->reports, &p->last, sizeof(p->last)) == sizeof(p->last)
               ? 0
               : -1;
}

static int take_turns(struct bench *b)
{
    for (int i = 0; i < b->count; i++) {
        struct player *p = &b->players[i];
        if (start_player(b, p) < 0 || take_turn(p) < 0)
            return -1;
        p->begin[0] = p->last.streamed_bytes;
        p->begin[1] = p->last.right_bytes;
        p->begin[2] = p->last.vain_bytes;
    }
    for (uint32_t turn = 0; turn < b->tokens / b->turn; turn++) {
        for (int i = 0; i < b->count; i++)
            if (take_turn(&b->players[turn % 2 == 0 ? i : b->count - 1 - i]) < 0)
                return -1;
        for (struct player *p = b->players; p < b->players + b->count; p++) {
            double faster = log((double)b->players[0].last.ns / (double)p->last.ns);
            p->ns += p->last.ns;
            p->log_sum += faster;
            p->log_square_sum += faster * faster;
        }
    }
    return 0;
}

static void print_player(const struct bench *b, const struct player *p)
{
    double turns = b->tokens / b->turn, mean = p->log_sum / turns, per = b->tokens * 1e6;
    double error = sqrt(fmax(p->log_square_sum / turns - mean * mean, 0) / fmax(turns - 1, 1));

    printf("%-8s %9.2f %9.3f %7.3f %9.1f %9.1f %9.1f\n", p->name, b->tokens * 1e9 / (double)p->ns,
           exp(mean), error, (double)(p->last.streamed_bytes - p->begin[0]) / per,
           (double)(p->last.right_bytes - p->begin[1]) / per,
           (double)(p->last.vain_bytes - p->begin[2]) / per);
}

static int print_players(const struct bench *b)
{
    int status = 0;

    printf("%-8s %9s %9s %7s %9s %9s %9s\n", "guesses", "tokens/s", "to first", "error", "MB read",
           "MB right", "MB vain");
    for (int i = 0; i < b->count; i++) {
        print_player(b, &b->players[i]);
        if (b->players[i].last.hash != b->players[0].last.hash)
            status = 1;
    }
    if (status != 0)
        fprintf(stderr, "bench_turns: the last logits differ\n");
    return status;
}

int main(int argc, char **argv)
{
    struct bench b = {.count = argc - 7};
    int status = 1;

    if (b.count < 1 || b.count > PREDICTOR_COUNT_MAX) {
        fprintf(stderr, "usage: bench_turns VOLUME MEMORY_MIB IDS PROMPT TOKENS TURN "
                        "PREDICTOR[=FILE]...\n");
        return 2;
    }
    b.volume = argv[1];
    b.memory_bytes = strtoull(argv[2], NULL, 10) << 20;
    b.prompt = (uint32_t)strtoul(argv[4], NULL, 10);
    b.turn = (uint32_t)strtoul(argv[6], NULL, 10);
    b.tokens = (uint32_t)strtoul(argv[5], NULL, 10);
    if (b.turn == 0 || b.tokens < 2 * b.turn || b.prompt == 0) {
        fprintf(stderr, "bench_turns: takes a prompt, and at least two turns\n");
        return 2;
    }
    b.tokens -= b.tokens % b.turn;
    for (int i = 0; i < b.count; i++) {
        b.players[i].name = strtok(argv[7 + i], "=");
        b.players[i].file = strtok(NULL, "");
    }
    if (read_ids(&b, argv[3]) == 0 && take_turns(&b) == 0)
        status = print_players(&b);
    for (int i = 0; i < b.count && b.players[i].pid > 0; i++)
        close(b.players[i].go);
    while (wait(NULL) > 0)
        ;
    free(b.ids);
    return status;
}
