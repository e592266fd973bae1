/* What a predictor would have said. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "model/replay_internal.h"

#define WRONG_TRIES 16u

/* ---- names ----------------------------------------------------------------------------------- */

/* "R" up to `end` or the text's end, in (0, 1]. */
static bool parse_share(const char *text, const char *end, double *share)
{
    char *stop;

    *share = strtod(text, &stop);
    return stop == end && stop > text && *share > 0 && *share <= 1;
}

static bool parse_recall(const char *text, struct ps_replay_options *options)
{
    static const char precision[] = ",precision=";
    const char *more = strstr(text, precision), *end = text + strlen(text);

    options->precision = 0;
    if (more && !parse_share(more + strlen(precision), end, &options->precision))
        return false;
    return parse_share(text, more ? more : end, &options->recall);
}

bool ps_replay_predictor_parse(const char *text, struct ps_replay_options *options)
{
    static const char *const names[] = {"off", "oracle", NULL, "trace"};
    static const char recall[] = "recall=";

    for (int i = PS_REPLAY_OFF; i <= PS_REPLAY_TRACE; i++) {
        if (names[i] && strcmp(text, names[i]) == 0) {
            options->predictor = (enum ps_replay_predictor)i;
            return true;
        }
    }
    options->predictor = PS_REPLAY_RECALL;
    return strncmp(text, recall, strlen(recall)) == 0 &&
           parse_recall(text + strlen(recall), options);
}

/* ---- guesses --------------------------------------------------------------------------------- */

static double next_share(uint64_t *state)
{
    return (double)(ps_random_next(state) >> 11) * 0x1p-53;
}

static bool is_in(const uint16_t *experts, uint32_t count, uint32_t expert)
{
    for (uint32_t i = 0; i < count; i++) {
        if (experts[i] == expert)
            return true;
    }
    return false;
}

static bool is_guessed(const uint32_t *guess, uint32_t count, uint32_t expert)
{
    for (uint32_t i = 0; i < count; i++) {
        if (guess[i] == expert)
            return true;
    }
    return false;
}

static void shuffle(uint32_t *guess, uint32_t count, uint64_t *state)
{
    for (uint32_t i = count; i > 1; i--) {
        uint32_t j = (uint32_t)(ps_random_next(state) % i), swap = guess[i - 1];
        guess[i - 1] = guess[j];
        guess[j] = swap;
    }
}

/* Wrong guesses are like right ones: what some other token has chosen in the layer. */
static uint32_t random_expert(const struct ps_replay *r, uint32_t layer, uint64_t *state)
{
    const uint16_t *experts;
    uint64_t token = ps_random_next(state) % r->info.token_count;
    uint32_t count = ps_replay_experts(r, token, layer, &experts);

    return count > 0 ? experts[ps_random_next(state) % count] : UINT32_MAX;
}

/* Each of the right ones with the probability of the recall, and so many wrong ones that the
 * precision comes out on average; in no order, which is the worst that a predictor can do. */
static uint32_t guess_by_recall(const struct ps_replay *r, const struct ps_replay_options *options,
                                uint64_t token, uint32_t layer, uint32_t *guess)
{
    double precision = options->precision > 0 ? options->precision : options->recall;
    /* The same guess for the same place in the trace, whatever has been guessed before. */
    uint64_t state = options->seed ^ (token * r->info.layer_count + layer);
    const uint16_t *right;
    uint32_t right_count = ps_replay_experts(r, token, layer, &right), count = 0;
    double wrong = right_count * options->recall * (1 / precision - 1);

    for (uint32_t i = 0; i < right_count; i++) {
        if (next_share(&state) < options->recall)
            guess[count++] = right[i];
    }
    /* There are no more than the others, whatever the precision asks for. */
    double others = r->info.expert_count - right_count;
    uint32_t wrong_count = (uint32_t)fmin(wrong + next_share(&state), others);
    uint32_t most = count + wrong_count;
    /* A short trace may not have so many others. */
    for (uint32_t tries = 0; count < most && tries < WRONG_TRIES * wrong_count; tries++) {
        uint32_t expert = random_expert(r, layer, &state);
        if (expert != UINT32_MAX && !is_in(right, right_count, expert) &&
            !is_guessed(guess, count, expert))
            guess[count++] = expert;
    }
    shuffle(guess, count, &state);
    return count;
}

/* All that was recorded: which of them are read is decided elsewhere. */
static uint32_t guess_by_trace(const struct ps_replay *r, uint64_t token, uint32_t layer,
                               uint32_t depth, uint32_t *guess)
{
    const struct ps_trace_info *info = &r->info;
    struct ps_trace_token t = {.ranks = r->ranks};
    uint32_t count = 0;

    if (!r->ranks || depth > info->depth_count)
        return 0;
    t.ranks += token * info->layer_count * info->depth_count * info->rank_count;
    const uint16_t *ranks = ps_trace_ranks(info, &t, layer, depth);
    for (; count < info->rank_count && ranks[count] != PS_TRACE_NONE; count++)
        guess[count] = ranks[count];
    return count;
}

uint32_t ps_replay_guess(const struct ps_replay *r, const struct ps_replay_options *options,
                         uint64_t token, uint32_t layer, uint32_t depth, uint32_t *guess)
{
    const uint16_t *right;
    uint32_t count = ps_replay_experts(r, token, layer, &right);

    switch (options->predictor) {
    case PS_REPLAY_ORACLE:
        for (uint32_t i = 0; i < count; i++)
            guess[i] = right[i];
        return count;
    case PS_REPLAY_RECALL:
        /* The same wherever it is made from. */
        return guess_by_recall(r, options, token, layer, guess);
    case PS_REPLAY_TRACE:
        return guess_by_trace(r, token, layer, depth, guess);
    default:
        return 0;
    }
}
