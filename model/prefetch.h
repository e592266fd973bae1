/*
 * Which guesses become reads: plain arithmetic on what has been observed, used by the engine and by
 * replays of traces alike. A guess is worth its read when what it wins on average, time in which
 * the drives would have had nothing to do, is more than what it costs on average, time for which a
 * demanded read waits behind it. How often the guess at a rank is right is learned from the guesses
 * for objects that were not in memory, read or not: they are harder than the others.
 */
#ifndef PENSTOCK_MODEL_PREFETCH_H
#define PENSTOCK_MODEL_PREFETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "nvme/penstock_io.h"

#define PS_PREFETCH_RANKS 64u /* ranks that are told apart; the last one stands for all others */

/* Tokens of a turn. */
#define PS_PREFETCH_TURN 8u

struct ps_prefetch {
    float right[PS_PREFETCH_RANKS]; /* of the guesses at a rank that were wrong or right, */
    float made[PS_PREFETCH_RANKS];  /* and of all of them; older ones count less */
    double gain_ns, cost_ns; /* of guessing for a layer, lately; cost: of making the guesses */
    uint32_t passed;         /* layers since guesses were made */
    /* Tokens are timed with guesses and without, by turns. */
    uint32_t width;                   /* tokens that are evaluated together, */
    bool is_off;                      /* guesses are not made in this turn */
    bool is_trial;                    /* and that is not the way that is taken to be faster */
    uint32_t turn_tokens;             /* of this turn, */
    double turn_ns[PS_PREFETCH_TURN]; /* and what they took */
    double before_ns;                 /* a token of the turn before */
    double loss, spread;   /* how much longer tokens take with guesses, as a logarithm; variance, */
    uint32_t trials;       /* over so many trials */
    uint32_t turns, pause; /* since the last trial; until the next */
    bool is_try;           /* they were made, or not, in spite of winning nothing */
};

/* An expert that a layer may choose. */
struct ps_guess {
    uint32_t layer, expert;
    uint64_t due; /* the layer is the one that is settled so many-th (model/staging.h) */
    float chance;
    float bytes;                /* that its read takes */
    bool is_missing, is_wanted; /* not in memory when it was guessed; worth its read */
};

void ps_prefetch_init(struct ps_prefetch *p);

/* How likely the expert at a rank (0 = first) is chosen if it is not in memory. */
double ps_prefetch_chance(const struct ps_prefetch *p, uint32_t rank);

/* What was not in memory when it was guessed at this rank was chosen, or was not. */
void ps_prefetch_learn(struct ps_prefetch *p, uint32_t rank, bool was_chosen);

/*
 * The least chance at which a read is worth it. With pauses of random length (exponential, of the
 * mean that was measured), a guess that begins in a pause and is wrong delays a demanded read only
 * if the pause ends meanwhile, and one that is right wins what is read until then; the ratio of the
 * two does not depend on what was read before. More than 1: none is.
 */
double ps_prefetch_least_chance(const struct ps_store_pace *pace);

/* What one more guessed read of `bytes` wins on average, in ns, when ahead_bytes are guessed before
 * it; less what it costs. */
double ps_prefetch_gain_ns(const struct ps_store_pace *pace, double chance, double ahead_bytes,
                           double bytes);

/* Marks those of the missing guesses that are worth their reads, which are made in this order.
 * Returns what they win on average, in ns. */
double ps_prefetch_choose(const struct ps_store_pace *pace, struct ps_guess *guesses,
                          uint32_t count);

/*
 * Whether guesses should be made for the next layer: while they win more than they cost, and now
 * and then to see whether they would. To be called once for each layer.
 */
bool ps_prefetch_wants(struct ps_prefetch *p);

/*
 * `width` tokens, of one sequence each, took so long together. What no reckoning shows, as threads
 * that get in each other's way, shows in the time: turns of tokens go the faster way, with guesses
 * or without, and a turn of the other way is tried between two of them, ever more rarely while that
 * confirms it (guesses in doubt are not made); all anew for another width. While guesses lose,
 * ps_prefetch_wants is false.
 */
void ps_prefetch_time(struct ps_prefetch *p, uint32_t width, double ns);

/* Guesses for a layer have been made: what they win by the above, and the time it took. */
void ps_prefetch_note(struct ps_prefetch *p, double gain_ns, double cost_ns);

#endif
