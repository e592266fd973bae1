/*
 * How often experts come back: from a sequence of accesses to the hit rate of the engine's cache,
 * an LRU over all (layer, expert) together, at every size of it. Mattson's stack distances: an
 * access hits in a cache of C objects exactly if fewer than C others were asked for since the last
 * time.
 */
#ifndef PENSTOCK_MODEL_REUSE_H
#define PENSTOCK_MODEL_REUSE_H

#include <stdint.h>

#include "model/penstock.h"

/* For layers * experts objects. *out is owned by the caller (ps_reuse_close).
 * Errors: -ENOMEM, -PS_ERR_ARGUMENT. */
int ps_reuse_open(struct ps_reuse **out, uint32_t layers, uint32_t experts, struct ps_error *err);

/*
 * An access to an expert (layer < layers, expert < experts). Counted or not, it ages the others.
 * One thread at a time.
 */
void ps_reuse_access(struct ps_reuse *reuse, uint32_t layer, uint32_t expert, int is_counted);

/* What was asked for since the last end were the experts of one layer for one token. */
void ps_reuse_layer_end(struct ps_reuse *reuse);

/*
 * The share of counted accesses that hit with so many slots, 0 to 1; 0 if none was counted. An
 * object that was never asked for before would, in a longer sequence, have been asked for longer
 * ago than all those that were: where between there and the farthest end is not known, and is taken
 * to be equally likely everywhere.
 */
double ps_reuse_hit_rate(const struct ps_reuse *reuse, double slots);

/*
 * How much misses of one layer come together with so many slots: the correlation of any two experts
 * of a layer, 0 (each misses by itself) to 1 (all or none); 0 where nothing misses, or all.
 */
double ps_reuse_clustering(const struct ps_reuse *reuse, double slots);

/* Experts of a layer that at least one of so many tokens in a row chooses, 0 if no access was
 * counted. Of longer rows than half of what was accessed, and than 4096 tokens, it says too much.
 */
double ps_reuse_distinct(const struct ps_reuse *reuse, uint32_t tokens);

/* ---- hit rates that were derived from traces (reuse_table.c, made by bench/reuse_table) --------
 */

#define PS_REUSE_POINT_COUNT 17

/*
 * Where the points lie. A cache that does not hold the experts of one token, K of E in each layer,
 * hits nothing, and one that holds all of them always: point x stands for a cache of the fraction
 * (K + x (E - K)) / E of the experts.
 */
extern const double ps_reuse_points[PS_REUSE_POINT_COUNT];

struct ps_reuse_curve {
    const char *name; /* NULL at the end of the table */
    uint32_t experts, used, tokens;
    double hit_rate[PS_REUSE_POINT_COUNT];
    double clustering[PS_REUSE_POINT_COUNT];
};
extern const struct ps_reuse_curve ps_reuse_table[];

struct ps_hit_rate {
    double low, central, high; /* the least, the median and the most over the curves */
    double clustering;         /* the median; of ps_reuse_clustering */
};

/* Warm hit rates with this fraction of the experts (used of experts per token) in memory. */
void ps_reuse_predict(double fraction, uint32_t used, uint32_t experts, struct ps_hit_rate *rate);

#endif
