/* Lay a checkpoint out into a temporary volume and evaluate tokens with it. For tests only. */
#ifndef PENSTOCK_TESTS_MODEL_FIXTURE_H
#define PENSTOCK_TESTS_MODEL_FIXTURE_H

#include "model/penstock.h"

#define FIXTURE_MEMBER_COUNT_MAX 5

struct fixture_volume {
    char dir[256];
    char members[FIXTURE_MEMBER_COUNT_MAX][320];
    int member_count;
};

struct fixture_run { /* zeroes mean defaults */
    struct ps_engine_options options;
    bool one_by_one;   /* every token by an eval call of its own */
    size_t first_call; /* else: tokens in the first eval call (0 = all) */
    ps_route_fn *on_route;
    void *on_route_ctx;
    ps_oracle_fn *oracle;
    void *oracle_ctx;
};

/* Directories made here are removed at exit. Failures print the sentence and fail the cmocka test.
 */
void fixture_layout(struct fixture_volume *volume, const char *source, const char *quant,
                    uint64_t slice_bytes, int member_count);
/* The same with two copies of every slice. */
void fixture_layout_twice(struct fixture_volume *volume, const char *source, int member_count);
void fixture_remove(struct fixture_volume *volume);

struct ps_model *fixture_open(const struct fixture_volume *volume);

/* For ps_session_oracle with a uint32_t for its state: guesses that are right now and then, in any
 * order and number, and now and then of no expert. */
uint32_t fixture_guess_wildly(void *ctx, uint32_t layer, uint32_t position, uint32_t *experts);

/* [count, V] logits of the tokens, malloc'd; *stats (may be NULL) as of the end. */
float *fixture_logits(struct ps_model *model, const struct fixture_run *run, const int32_t *ids,
                      size_t count, struct ps_engine_stats *stats);

/* The first of the candidates that exists, or NULL. */
const char *fixture_find(const char *const *candidates, size_t count);

#endif
