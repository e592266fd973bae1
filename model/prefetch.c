#include "model/prefetch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

/* So many guesses at a rank are remembered: a topic lasts for some hundred tokens, and a layer asks
 * for one expert at a rank. */
#define MEMORY_GUESSES 1024.0f
/* Layers without guesses, while they do not pay, after which they are tried. */
#define TRY_LAYERS 61u
#define NOTE_WEIGHT 0.05
/* Turns between two trials, and what the last trial counts. */
#define PAUSE_MIN 4u
#define PAUSE_MAX 64u
#define TRIAL_WEIGHT 0.1
/* Of a trial's deviation squared, before there was any. */
#define SPREAD_FIRST 0.04

void ps_prefetch_init(struct ps_prefetch *p)
{
    memset(p, 0, sizeof(*p));
    /* Try at once. */
    p->passed = TRY_LAYERS;
    for (uint32_t i = 0; i < PS_PREFETCH_RANKS; i++) {
        p->right[i] = 1;
        p->made[i] = 2;
    }
}

static uint32_t rank_of(uint32_t rank)
{
    return rank < PS_PREFETCH_RANKS ? rank : PS_PREFETCH_RANKS - 1;
}

double ps_prefetch_chance(const struct ps_prefetch *p, uint32_t rank)
{
    rank = rank_of(rank);
    return (double)p->right[rank] / (double)p->made[rank];
}

void ps_prefetch_learn(struct ps_prefetch *p, uint32_t rank, bool was_chosen)
{
    rank = rank_of(rank);
    if (p->made[rank] >= MEMORY_GUESSES) {
        p->made[rank] /= 2;
        p->right[rank] /= 2;
    }
    p->made[rank] += 1;
    p->right[rank] += was_chosen ? 1.0f : 0.0f;
}

static double time_ns(const struct ps_store_pace *pace, double bytes)
{
    return bytes * 1e9 / pace->rate_bytes_per_s;
}

double ps_prefetch_least_chance(const struct ps_store_pace *pace)
{
    if (pace->idle_ns <= 0 || pace->rate_bytes_per_s <= 0)
        return 2;
    double delay_ns = time_ns(pace, pace->delay_bytes);
    return delay_ns / (delay_ns + pace->idle_ns);
}

double ps_prefetch_gain_ns(const struct ps_store_pace *pace, double chance, double ahead_bytes,
                           double bytes)
{
    if (pace->idle_ns <= 0 || pace->rate_bytes_per_s <= 0)
        return 0;
    double ahead = time_ns(pace, ahead_bytes) / pace->idle_ns;
    double end = time_ns(pace, ahead_bytes + bytes) / pace->idle_ns;
    double ends_within = exp(-ahead) - exp(-end); /* the chance that the pause ends meanwhile */

    return ends_within * (chance * pace->idle_ns - (1 - chance) * time_ns(pace, pace->delay_bytes));
}

double ps_prefetch_choose(const struct ps_store_pace *pace, struct ps_guess *guesses,
                          uint32_t count)
{
    double least = ps_prefetch_least_chance(pace), gain_ns = 0, ahead_bytes = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct ps_guess *g = &guesses[i];
        g->is_wanted = g->is_missing && (double)g->chance >= least;
        if (!g->is_wanted)
            continue;
        gain_ns += ps_prefetch_gain_ns(pace, (double)g->chance, ahead_bytes, (double)g->bytes);
        ahead_bytes += (double)g->bytes;
    }
    return gain_ns;
}

/* The median: a disturbance meets a token or two. The first still has, or lacks, what the turn
 * before it has read. */
static double turn_token_ns(struct ps_prefetch *p)
{
    qsort(p->turn_ns + 1, PS_PREFETCH_TURN - 1, sizeof(*p->turn_ns), ps_compare_double);
    return p->turn_ns[PS_PREFETCH_TURN / 2];
}

/* A trial beside the turn before it, as texts and machines change from minute to minute. One that
 * surprises, and speaks against what was taken for faster, is soon repeated. Guesses in doubt are
 * not made. */
static void end_trial(struct ps_prefetch *p, double trial_ns)
{
    double slower = log(trial_ns / p->before_ns), loss = p->is_off ? -slower : slower;

    p->trials++;
    double weight = fmax(1.0 / p->trials, TRIAL_WEIGHT), apart = loss - p->loss;
    bool surprises = slower < 0 && apart * apart > 4 * p->spread;
    p->loss += apart * weight;
    p->spread += (apart * apart - p->spread) * fmax(1.0 / (p->trials + 1), TRIAL_WEIGHT);
    double error = sqrt(p->spread * weight / (2 - weight)); /* of the mean */
    bool was_off = !p->is_off;
    p->is_off = p->loss + error > 0;
    p->is_trial = false;
    p->turns = 0;
    p->pause = surprises || p->is_off != was_off
                   ? PAUSE_MIN
                   : (uint32_t)ps_min_u64(2ull * p->pause + PAUSE_MIN, PAUSE_MAX);
}

void ps_prefetch_time(struct ps_prefetch *p, uint32_t width, double ns)
{
    if (width != p->width) {
        p->width = width;
        p->turn_tokens = p->trials = p->turns = p->pause = 0;
        p->loss = 0;
        p->spread = SPREAD_FIRST;
        p->is_trial = false;
        p->is_off = true;
    }
    p->turn_ns[p->turn_tokens++] = ns;
    if (p->turn_tokens < PS_PREFETCH_TURN)
        return;
    p->turn_tokens = 0;
    double token_ns = fmax(turn_token_ns(p), 1);
    if (p->is_trial) {
        end_trial(p, token_ns);
        return;
    }
    p->before_ns = token_ns;
    if (++p->turns > p->pause) {
        p->is_trial = true;
        p->is_off = !p->is_off;
    }
}

bool ps_prefetch_wants(struct ps_prefetch *p)
{
    if (p->is_off)
        return false;
    p->is_try = p->gain_ns <= p->cost_ns;
    if (p->is_try && p->passed < TRY_LAYERS) {
        p->passed++;
        return false;
    }
    p->passed = 0;
    return true;
}

void ps_prefetch_note(struct ps_prefetch *p, double gain_ns, double cost_ns)
{
    /* Off for long, nothing that was known still holds. */
    double weight = p->is_try ? 1 : NOTE_WEIGHT;

    p->gain_ns += (gain_ns - p->gain_ns) * weight;
    p->cost_ns += (cost_ns - p->cost_ns) * weight;
}
