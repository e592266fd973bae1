/*
 * Guesses on their way into memory, of the engine and of replays alike: those that the store is
 * still to be asked for, and those that it was asked for, until they are due. Not thread-safe; the
 * arrays are the caller's.
 */
#ifndef PENSTOCK_MODEL_STAGING_H
#define PENSTOCK_MODEL_STAGING_H

#include <stdbool.h>
#include <stdint.h>

#include "model/prefetch.h"

/* So many tokens ahead an oracle is asked for: the first of a topic wants ten times what the mean
 * one does, and to read that beside others takes ten to twenty of them. */
#define PS_ORACLE_TOKENS 32u

/* A guess that the store was asked for. */
struct ps_staged {
    uint32_t layer, expert;
    uint64_t due;
    float chance;
    bool is_first; /* of those for the expert: the others come after it, and ask for nothing */
    bool is_held;  /* by the store; not while it is in use */
    bool was_read; /* for this guess */
};

struct ps_staging {
    struct ps_guess *guesses; /* [guess_capacity]; from guess_next on not asked for yet */
    struct ps_staged *staged; /* [guess_capacity] in the order in which they were asked for */
    uint32_t *staged_of;      /* [layers, expert_count] how many there are for the expert */
    uint32_t expert_count;
    uint32_t guess_capacity, guess_count, guess_next, staged_count;
    uint32_t first_count; /* of those staged */
    uint32_t capacity;    /* objects that guesses may hold in the store */
    uint32_t last_layer;  /* that was settled */
    uint64_t step;        /* layers that have been settled */
};

/* The guess_capacity that an oracle's guesses take. */
uint64_t ps_oracle_guess_count(uint32_t layer_count, uint32_t expert_count, uint32_t experts_used);

/* One more guess, behind the others; nothing where there is no room. */
void ps_staging_add(struct ps_staging *s, const struct ps_guess *guess);

/* Guesses that the store has not been asked for are not made. */
void ps_staging_clear(struct ps_staging *s);

/* Asks the store for as many of the wanted guesses as it has room for, in their order. */
void ps_staging_issue(struct ps_staging *s, struct ps_store *store);

/*
 * The next layer, `layer`, has been routed, and what the last one chose is not in use any more.
 * Guesses that are due by now end: what one of them holds, the next for the same expert takes over,
 * or the store drops it unless it is in is_chosen[E]. was_staged[E] (may be NULL) gets true for
 * those chosen that were read for a guess, at least in part. To be followed by ps_store_touch of
 * what is chosen. What a demand has taken from a guess is not read for it again.
 */
void ps_staging_settle(struct ps_staging *s, struct ps_store *store, uint32_t layer,
                       const bool *is_chosen, bool *was_staged);

/* Drops all. */
void ps_staging_reset(struct ps_staging *s, struct ps_store *store);

#endif
