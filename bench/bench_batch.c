/*
 * bench_batch VOLUME MEMORY_MIB TOKENS TOPICS STAY own|one SEQUENCES...: tokens/s of so many
 * sequences decoded together, with token streams that are the same for every program: with TOPICS
 * > 0 a sequence stays with the tokens of its topic with probability STAY, which makes neighbours
 * choose alike in a model that was made so; 0 draws any token. Sequences change their topic each
 * for itself (own) or all at once, as the questions about one document do (one). TOKENS tokens in
 * all, a third of them to warm up. Prints a line for each: bytes read and experts asked for are per
 * token; tokens/s over those of the first number of sequences, and how many times fewer experts are
 * asked for, by which the drives' work shrinks.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/util.h"
#include "model/penstock.h"

#define SEQUENCE_COUNT_MAX 256
#define FIRST UINT64_C(88172645463325252)

struct stream {
    uint64_t random, topic_random;
    uint32_t topic;
};

struct bench {
    struct ps_model *model;
    struct ps_model_info info;
    uint64_t memory_bytes;
    uint32_t tokens, topics;
    double stay;
    bool is_one_topic;
    struct figures *first; /* shared with the processes of all numbers of sequences */
};

struct figures {
    double tokens_per_s, experts; /* per token */
};

static uint32_t draw(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (uint32_t)(*random >> 20);
}

static void stream_start(const struct bench *b, struct stream *s, uint32_t sequence)
{
    s->random = FIRST ^ (sequence + 1) * UINT64_C(0x9E3779B97F4A7C15);
    s->topic_random = b->is_one_topic ? FIRST : s->random;
    s->topic = b->topics > 0 ? draw(&s->topic_random) % b->topics : 0;
}

static int32_t next_token(const struct bench *b, struct stream *s)
{
    uint32_t vocab = b->info.vocab_rows - 3; /* without the end tokens of the synthetic models */

    if (b->topics == 0)
        return (int32_t)(draw(&s->random) % vocab);
    if (draw(&s->topic_random) % 100000 / 1e5 > b->stay)
        s->topic = draw(&s->topic_random) % b->topics;
    return (int32_t)(s->topic + b->topics * (draw(&s->random) % (vocab / b->topics)));
}

/* Steps of one token each. Returns < 0 with *err filled. */
static int run_steps(const struct bench *b, struct ps_session **sessions, struct stream *streams,
                     uint32_t count, uint32_t steps, struct ps_error *err)
{
    struct ps_session_input inputs[SEQUENCE_COUNT_MAX];
    int32_t ids[SEQUENCE_COUNT_MAX];
    int rc = 0;

    for (uint32_t step = 0; rc >= 0 && step < steps; step++) {
        for (uint32_t i = 0; i < count; i++) {
            ids[i] = next_token(b, &streams[i]);
            inputs[i] = (struct ps_session_input){sessions[i], &ids[i], 1};
        }
        rc = ps_session_eval_batch(inputs, count, err);
    }
    return rc;
}

static void print_line(const struct bench *b, uint32_t count, uint32_t tokens, uint64_t ns,
                       const struct ps_engine_stats *from, const struct ps_engine_stats *to)
{
    double seconds = (double)ns / 1e9,
           read = (double)(to->store.streamed_bytes - from->store.streamed_bytes);
    double hits = (double)(to->store.hits - from->store.hits);
    double misses = (double)(to->store.misses - from->store.misses);

    struct figures now = {tokens / seconds, (hits + misses) / tokens};
    if (b->first->tokens_per_s == 0)
        *b->first = now;
    printf("%3" PRIu32 " sequences  %8.2f tokens/s (%.2f times, experts %.2f)  %8.1f MB/token  "
           "%6.1f experts/token  %5.1f %% hits  %5.2f GB/s  "
           "waited %3.0f %%  %" PRIu64 " slots  peak %.2f of %.2f GiB\n",
           count, now.tokens_per_s, now.tokens_per_s / b->first->tokens_per_s,
           b->first->experts / now.experts, read / tokens / 1e6, now.experts,
           100 * hits / (hits + misses), read / seconds / 1e9,
           (double)(to->store.wait_ns - from->store.wait_ns) / (double)ns * 100,
           (uint64_t)to->store.slot_count, (double)to->memory_peak_bytes / (1u << 30),
           (double)to->budget_bytes / (1u << 30));
    fflush(stdout);
}

static int run_count(const struct bench *b, uint32_t count, struct ps_error *err)
{
    uint32_t steps = b->tokens / count;
    struct ps_engine_options options = {
        .memory_bytes = b->memory_bytes, .activations = "q8", .sessions = count};
    struct ps_session *sessions[SEQUENCE_COUNT_MAX] = {0};
    struct stream streams[SEQUENCE_COUNT_MAX];
    struct ps_engine_stats from, to;
    struct ps_engine *engine = NULL;

    options.ctx = steps + 1;
    int rc = ps_engine_open(&engine, b->model, &options, err);
    for (uint32_t i = 0; rc >= 0 && i < count; i++) {
        stream_start(b, &streams[i], i);
        rc = ps_session_open(&sessions[i], engine, err);
    }
    if (rc >= 0)
        rc = run_steps(b, sessions, streams, count, steps / 3, err);
    if (rc >= 0) {
        ps_engine_stats(engine, &from);
        uint64_t start = ps_now_ns();
        rc = run_steps(b, sessions, streams, count, steps - steps / 3, err);
        uint64_t ns = ps_now_ns() - start;
        ps_engine_stats(engine, &to);
        if (rc >= 0)
            print_line(b, count, (steps - steps / 3) * count, ns, &from, &to);
    }
    for (uint32_t i = 0; i < count; i++)
        ps_session_close(&sessions[i]);
    ps_engine_close(&engine);
    return rc;
}

/* The plan counts what the process has held at most, so every number of sequences has its own. */
static int run_child(struct bench *b, const char *path, uint32_t count)
{
    struct ps_error err = {0};
    int status = 1;
    pid_t pid = fork();

    if (pid > 0)
        return waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 1;
    if (pid < 0)
        return 1;
    int rc = ps_model_open(&b->model, &path, 1, &err);
    if (rc >= 0) {
        ps_model_info(b->model, &b->info);
        rc = run_count(b, count, &err);
    }
    if (rc < 0)
        fprintf(stderr, "bench_batch: %s: %s\n", err.where, err.text);
    ps_model_close(&b->model);
    exit(rc < 0);
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    int status = 0;

    if (argc < 8 || (strcmp(argv[6], "own") != 0 && strcmp(argv[6], "one") != 0)) {
        fprintf(stderr, "usage: bench_batch VOLUME MEMORY_MIB TOKENS TOPICS STAY own|one "
                        "SEQUENCES...\n");
        return 2;
    }
    b.memory_bytes = strtoull(argv[2], NULL, 10) << 20;
    b.tokens = (uint32_t)strtoul(argv[3], NULL, 10);
    b.topics = (uint32_t)strtoul(argv[4], NULL, 10);
    b.stay = strtod(argv[5], NULL);
    b.first =
        mmap(NULL, sizeof(*b.first), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b.first == MAP_FAILED)
        return 1;
    b.is_one_topic = strcmp(argv[6], "one") == 0;
    for (int i = 7; status == 0 && i < argc; i++) {
        unsigned long count = strtoul(argv[i], NULL, 10);
        if (count == 0 || count > SEQUENCE_COUNT_MAX || b.tokens / count < 3) {
            fprintf(stderr, "bench_batch: %s: not a number of sequences for so few tokens\n",
                    argv[i]);
            return 2;
        }
        status = run_child(&b, argv[1], (uint32_t)count);
    }
    return status;
}
