#include "tools/tool.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/budget.h"
#include "nvme/penstock_io.h"

enum {
    KEY_IO = 0x100,
    KEY_ACTIVATIONS,
    KEY_KV,
    KEY_KV_WINDOW,
    KEY_CHUNK,
    KEY_EXPERTS_USED,
    KEY_CTX,
    KEY_MEMORY,
    KEY_PREDICTOR,
    KEY_PREDICTOR_FILE
};

uint64_t tool_number(struct argp_state *state, const char *option, const char *text, uint64_t min,
                     uint64_t max)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = isdigit((unsigned char)*text) ? strtoull(text, &end, 10) : 0;

    if (end == NULL || *end != '\0' || errno != 0 || value < min || value > max) {
        argp_error(state, "%s: \"%s\" is not a whole number from %llu to %llu", option, text,
                   (unsigned long long)min, (unsigned long long)max);
    }
    return value;
}

double tool_real(struct argp_state *state, const char *option, const char *text, double min,
                 double max)
{
    char *end = NULL;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= min && value <= max))
        argp_error(state, "%s: \"%s\" is not a number from %g to %g", option, text, min, max);
    return value;
}

uint64_t tool_size(struct argp_state *state, const char *option, const char *text)
{
    struct ps_error err = {0};
    uint64_t bytes = 0;

    if (ps_size_parse(text, &bytes, &err) < 0)
        argp_error(state, "%s: %s", option, err.text);
    return bytes;
}

/* What VOLUME names comes before the further members, wherever they stand on the command line: the
 * search for the rest begins at the first. */
static void volume_add(struct argp_state *state, struct tool_volume *volume, const char *path,
                       bool further)
{
    if (volume->path_count == PS_MEMBER_COUNT_MAX) {
        argp_error(state, "a volume has at most %d members", PS_MEMBER_COUNT_MAX);
        return;
    }
    int at = further ? volume->path_count : volume->named_count++;
    memmove(&volume->paths[at + 1], &volume->paths[at],
            (size_t)(volume->path_count - at) * sizeof(volume->paths[0]));
    volume->paths[at] = path;
    volume->path_count++;
}

static error_t volume_parse(int key, char *arg, struct argp_state *state)
{
    struct tool_volume *volume = state->input;

    switch (key) {
    case 'm':
    case ARGP_KEY_ARG:
        volume_add(state, volume, arg, key == 'm');
        return 0;
    case 'v':
        volume->verbose = true;
        return 0;
    case ARGP_KEY_END:
        if (volume->named_count == 0 && !volume->optional)
            argp_error(state, "name a VOLUME: any member of it");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option volume_options[] = {
    {"member", 'm', "PATH", 0, "a further member of the volume, where it is not found by itself",
     0},
    {"verbose", 'v', NULL, 0, "say more on standard error", 0},
    {0}};
const struct argp tool_volume_argp = {
    .options = volume_options, .parser = volume_parse, .args_doc = "VOLUME..."};

static void memory_option_parse(struct argp_state *state, struct ps_engine_options *options,
                                const char *arg)
{
    if (strcmp(arg, "min") == 0) {
        options->memory_bytes = PS_MEMORY_MIN;
        return;
    }
    options->memory_bytes = tool_size(state, "--memory", arg);
    if (options->memory_bytes == 0)
        argp_error(state, "--memory: 0 bytes are no ceiling; \"min\" takes the least possible");
}

void tool_engine_check(struct argp_state *state, const char *option, const char *name)
{
    if (!ps_store_engine_known(name))
        argp_error(state, "%s: \"%s\" is not an I/O engine; there are %s", option, name,
                   ps_store_engine_names());
}

static error_t engine_parse(int key, char *arg, struct argp_state *state)
{
    struct ps_engine_options *options = state->input;

    switch (key) {
    case KEY_MEMORY:
        memory_option_parse(state, options, arg);
        return 0;
    case KEY_CTX:
        options->ctx = (uint32_t)tool_number(state, "--ctx", arg, 1, UINT32_MAX);
        return 0;
    case KEY_IO:
        tool_engine_check(state, "--io", arg);
        options->io = arg;
        return 0;
    case 't':
        options->threads = (int)tool_number(state, "--threads", arg, 1, 512);
        return 0;
    case KEY_ACTIVATIONS:
        if (strcmp(arg, "f32") != 0 && strcmp(arg, "q8") != 0)
            argp_error(state, "--activations: \"%s\" is neither f32 nor q8", arg);
        options->activations = arg;
        return 0;
    case KEY_KV:
        options->kv = arg;
        return 0;
    case KEY_PREDICTOR:
        options->predictor = arg;
        return 0;
    case KEY_PREDICTOR_FILE:
        options->predictor_file = arg;
        return 0;
    case KEY_KV_WINDOW:
        options->kv_window = (uint32_t)tool_number(state, "--kv-window", arg, 1, UINT32_MAX);
        return 0;
    case KEY_CHUNK:
        options->chunk_tokens = (uint32_t)tool_number(state, "--chunk", arg, 1, UINT32_MAX);
        return 0;
    case KEY_EXPERTS_USED:
        options->experts_used = (uint32_t)tool_number(state, "--experts-used", arg, 1, 65536);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option engine_options[] = {
    {"memory", KEY_MEMORY, "SIZE", 0,
     "ceiling on all memory held, hugepages included: bytes, K, M or G (powers of 1024), or min "
     "(default: what the machine or the cgroup leaves)",
     0},
    {"ctx", KEY_CTX, "N", 0,
     "tokens that the context holds (default: 4096, or the model's if that is fewer or with "
     "--kv-window)",
     0},
    {"io", KEY_IO, "ENGINE", 0,
     "uring (default) or passthru, each also with +iopoll or +sqpoll; pread, pagecache or mmap", 0},
    {"threads", 't', "N", 0, "threads that compute (default: one per CPU)", 0},
    {"activations", KEY_ACTIVATIONS, "TYPE", 0,
     "numbers that quantised weights are multiplied with: q8, rounded to 8 bits (default of run, "
     "batch, plan, trace and bench decode), or f32 (default of the others); CHANGES THE OUTPUT a "
     "little",
     0},
    {"kv", KEY_KV, "TYPE", 0,
     "how keys and values are kept: f16 (default), f32 (default of logits, perplexity "
     "and quality), or q8_0; CHANGES THE OUTPUT a little",
     0},
    {"predictor", KEY_PREDICTOR, "NAME", 0,
     "what guesses the experts to read ahead: gate (default of run and batch), learned (see "
     "train-predictor) or off (default of the others)",
     0},
    {"predictor-file", KEY_PREDICTOR_FILE, "FILE", 0,
     "what train-predictor --out wrote (default: what is in the volume)", 0},
    {"kv-window", KEY_KV_WINDOW, "N", 0,
     "attention sees the first 4 tokens and the last N only, so that keys and values of no more "
     "are "
     "kept; CHANGES THE OUTPUT (default: all)",
     0},
    {"chunk", KEY_CHUNK, "N", 0, "most prompt tokens per pass (default: as memory allows)", 0},
    {"experts-used", KEY_EXPERTS_USED, "K", 0,
     "run K experts per token instead of the model's number: faster, and CHANGES THE OUTPUT", 0},
    {0}};
const struct argp tool_engine_argp = {.options = engine_options, .parser = engine_parse};
const struct argp_child tool_run_children[] = {
    {&tool_volume_argp, 0, "Volume:", 7},
    {&tool_engine_argp, 0, "Memory, disk, processor:", 6},
    {0}};

int tool_model_open(struct ps_model **model, const struct tool_volume *volume, struct ps_error *err)
{
    tool_log_start(volume->verbose);
    tool_subject_set(volume->paths[0]);
    return ps_model_open(model, volume->paths, volume->path_count, err);
}

int tool_engine_open(struct ps_engine **engine, struct ps_session **session, struct ps_model *model,
                     const struct ps_engine_options *options, struct ps_error *err)
{
    bool notice = isatty(STDERR_FILENO) == 1;
    struct ps_model_info info;
    char size[32];
    int rc;

    ps_model_info(model, &info);
    if (options->experts_used != 0 && options->experts_used < info.experts_used) {
        fprintf(stderr,
                "penstock: running %u experts per token instead of %u: this changes the output\n",
                options->experts_used, info.experts_used);
    }
    if (options->kv_window != 0 &&
        options->kv_window < (options->ctx != 0 ? options->ctx : info.context_max)) {
        fprintf(stderr,
                "penstock: attention sees the first 4 tokens and the last %u: this changes the "
                "output\n",
                options->kv_window);
    }
    if (notice) {
        fprintf(stderr, "\rreading %s of resident weights ...\033[K",
                ps_size_text(info.resident_bytes, size, sizeof(size)));
    }
    rc = ps_engine_open(engine, model, options, err);
    if (notice)
        fputs("\r\033[K", stderr);
    if (rc < 0)
        return rc;
    rc = ps_session_open(session, *engine, err);
    if (rc < 0)
        ps_engine_close(engine);
    return rc;
}
