/* How tokens are chosen, as options: shared by run and batch. */
#include "tools/tool.h"

#include <sys/random.h>
#include <unistd.h>

#define SEED_BITS 53u

enum { KEY_TEMP = 0x200, KEY_TOP_K, KEY_TOP_P, KEY_MIN_P, KEY_REPEAT_PENALTY, KEY_SEED };

static error_t sampling_parse(int key, char *arg, struct argp_state *state)
{
    struct tool_sampling *s = state->input;

    switch (key) {
    case KEY_TEMP:
        s->temperature = tool_real(state, "--temp", arg, 0, 100);
        return 0;
    case KEY_TOP_K:
        s->top_k = (int64_t)tool_number(state, "--top-k", arg, 0, INT32_MAX);
        return 0;
    case KEY_TOP_P:
        s->top_p = tool_real(state, "--top-p", arg, 0, 1);
        return 0;
    case KEY_MIN_P:
        s->min_p = tool_real(state, "--min-p", arg, 0, 1);
        return 0;
    case KEY_REPEAT_PENALTY:
        s->repeat_penalty = tool_real(state, "--repeat-penalty", arg, 0.01, 100);
        return 0;
    case KEY_SEED:
        s->seed = tool_number(state, "--seed", arg, 0, UINT64_MAX);
        s->has_seed = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option sampling_options[] = {
    {"temp", KEY_TEMP, "T", 0, "temperature; 0 takes the likeliest token (default: the model's)",
     0},
    {"top-k", KEY_TOP_K, "K", 0, "only the K likeliest tokens; 0 = off", 0},
    {"top-p", KEY_TOP_P, "P", 0, "only the likeliest tokens that make up P; 1 = off", 0},
    {"min-p", KEY_MIN_P, "P", 0, "only tokens at least P times as likely as the first; 0 = off", 0},
    {"repeat-penalty", KEY_REPEAT_PENALTY, "X", 0, "make recent tokens less likely; 1 = off", 0},
    {"seed", KEY_SEED, "N", 0, "of the random choices (default: a random one, which is told)", 0},
    {0}};
const struct argp tool_sampling_argp = {.options = sampling_options, .parser = sampling_parse};

void tool_sampling_apply(const struct tool_sampling *asked, struct ps_sampling *sampling)
{
    if (!isnan(asked->temperature))
        sampling->temperature = (float)asked->temperature;
    if (!isnan(asked->top_p))
        sampling->top_p = (float)asked->top_p;
    if (!isnan(asked->min_p))
        sampling->min_p = (float)asked->min_p;
    if (!isnan(asked->repeat_penalty))
        sampling->repeat_penalty = (float)asked->repeat_penalty;
    if (asked->top_k >= 0)
        sampling->top_k = (int)asked->top_k;
    if (asked->has_seed)
        sampling->seed = asked->seed;
}

uint64_t tool_seed_make(void)
{
    uint64_t seed;

    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        seed = (uint64_t)getpid() << (64 - SEED_BITS);
    return seed >> (64 - SEED_BITS);
}
