/*
 * Replay: what a cache, its drives and a predictor would have done on a recorded trace. The cache,
 * the order of evictions, the scheduler and its queues are those of the engine; the drives and the
 * arithmetic are a model of what they take (nvme/simulation.h), so that hours of decoding on a
 * machine that nobody has yet take seconds. Every token goes by itself, as in decoding.
 *
 * Thread rule: one thread at a time per replay. Functions return >= 0, or -errno / -PS_ERR_* with
 * *err filled.
 */
#ifndef PENSTOCK_MODEL_REPLAY_H
#define PENSTOCK_MODEL_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "model/trace.h"
#include "nvme/penstock_io.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ps_replay_drive {
    const struct ps_probe_result *probe; /* NULL: the two figures */
    uint64_t bytes_per_s, latency_ns;
};

/* What the arithmetic of one token takes, all threads together. */
struct ps_replay_compute {
    uint64_t mixer_ns;   /* per layer: all that comes before its experts are known */
    uint64_t shared_ns;  /* per layer: what is computed while their reads fly */
    uint64_t expert_ns;  /* of a whole expert */
    uint64_t token_ns;   /* embedding, head and sampling; layers without experts */
    uint64_t predict_ns; /* of guessing for a layer; an oracle takes none */
    /* What reads cost beside the drives' time: */
    uint64_t check_ns; /* checksums of a whole expert */
    uint64_t read_ns;  /* to issue a read and to take it back, where that keeps from computing */
    uint64_t issue_ns; /* for a read, until the next one can be given to a drive */
    uint64_t wake_ns;  /* after the first wait of a layer, until all threads compute again */
};

enum ps_replay_predictor {
    PS_REPLAY_OFF,
    PS_REPLAY_ORACLE, /* knows */
    PS_REPLAY_RECALL, /* guesses as well as is stated */
    PS_REPLAY_TRACE,  /* guesses as is recorded in the trace */
};

struct ps_replay_options { /* zeroes mean defaults, but for the drives */
    const struct ps_replay_drive *drives;
    int drive_count; /* 1 .. PS_MEMBER_COUNT_MAX */
    /* Sizes and cuts of the experts: those of the volume; or, with NULL, expert_bytes, in equal
     * slices of about slice_bytes (0: 2 MiB). expert_bytes 0: as the trace says. */
    const struct ps_volume *volume;
    uint64_t expert_bytes, slice_bytes;
    /* The cache: so many bytes, all its tables included (PS_MEMORY_MIN: the least), or, where that
     * is 0, so many experts; fewer than a layer needs are made as many. */
    uint64_t cache_bytes;
    uint32_t slot_count;
    const char *policy; /* "lru", "lfu", "least-stale", "belady"; NULL: "lru" */
    struct ps_replay_compute compute;
    enum ps_replay_predictor predictor;
    double recall;    /* RECALL: share of the experts of a layer that are among those guessed, */
    double precision; /* and of those guessed that are right; 0: the same */
    uint32_t depth;   /* layers ahead, up to 8; 0 = 1, of an oracle as many as there is room for */
    uint64_t seed;    /* of RECALL */
    const volatile int *stop; /* non-zero: -EINTR after this token; may be NULL */
};

struct ps_replay_result {
    uint64_t tokens, ns;
    uint64_t asked;     /* experts, over all tokens and layers */
    uint64_t hits;      /* of them, in memory when asked for */
    uint64_t firsts;    /* of them, for the first time: no cache can have these without a guess */
    uint64_t warm_hits; /* hits that are no firsts */
    uint64_t demands;   /* of them, had to be read, whether that was guessed or not */
    /* Demands that the trace's guesses of one layer ahead have among their first k and 2k, whatever
     * the predictor: in no first layer, and 0 without guesses. */
    uint64_t demands_guessed_k, demands_guessed_2k;
    uint64_t read_bytes, demand_bytes;
    uint64_t prefetches, prefetches_used;
    uint64_t stall_ns;                 /* of ns: waiting for reads with nothing to compute */
    uint64_t compute_ns;               /* of ns, what reads cost included */
    uint64_t bound_layers_ns;          /* layer by layer, the slower of its reads and its experts */
    uint64_t bound_overlap_ns;         /* the slower of all reads and all arithmetic */
    uint32_t slot_count, expert_count; /* of the cache; of the model, over all layers */
    uint64_t cache_bytes, expert_bytes; /* of the cache; of the largest expert */
    int drive_count;
    double busy[PS_MEMBER_COUNT_MAX]; /* share of ns in which a drive served reads */
};

struct ps_replay;

/* Reads the whole trace, from its beginning; needs it no more afterwards. *out is the caller's to
 * close. Errors: those of ps_trace_next, -ENOMEM. Blocks. */
int ps_replay_open(struct ps_replay **out, struct ps_trace *trace, struct ps_error *err);
void ps_replay_close(struct ps_replay **replay);

/*
 * Plays it from the first token on, with an empty cache. Errors: -PS_ERR_ARGUMENT (text),
 * -PS_ERR_MEMORY_FLOOR, -ENOMEM, -EINTR. Fills *result on success.
 */
int ps_replay_run(const struct ps_replay *replay, const struct ps_replay_options *options,
                  struct ps_replay_result *result, struct ps_error *err);

/* "oracle" and others into *options; "recall=R[,precision=P]" has figures in (0, 1]. False: it is
 * none of them. */
bool ps_replay_predictor_parse(const char *text, struct ps_replay_options *options);

#ifdef __cplusplus
}
#endif

#endif
