/* penstock replay: what its arguments say (replay_spec.c), and what came out (replay_print.c). */
#ifndef PENSTOCK_TOOLS_REPLAY_H
#define PENSTOCK_TOOLS_REPLAY_H

#include "model/replay.h"
#include "tools/tool.h"

#define REPLAY_LIST_MAX 32
/* A step takes no longer, so that a trace's whole time can be counted. */
#define REPLAY_TIME_NS_MAX UINT64_C(10000000000)

/* One memory size: bytes, or a share of all experts, or the least. */
struct replay_memory {
    uint64_t bytes; /* PS_MEMORY_MIN: the least */
    double share;   /* > 0: instead of bytes */
};

struct replay_drives {
    const char *text; /* as it was given */
    struct ps_replay_drive drives[PS_MEMBER_COUNT_MAX];
    struct ps_probe_result *probes; /* owned; NULL without a profile file */
    int count;
};

/* What arithmetic takes: times, or bytes and a rate that give them. */
struct replay_compute {
    struct ps_replay_compute times;
    double memory_bytes_per_s; /* 0: not given */
    uint64_t dense_bytes;
};

/*
 * "2G,4G", "10%,25%", "min", "10%..100%" (ten sizes) into memories[REPLAY_LIST_MAX]; *count of
 * them. "2x3.5G@80us,7G" or the path of a profile file into *drives. "mixer=1.2ms,expert=80us",
 * "memory=40G,dense=1.5G" into *compute. Return 0 or -PS_ERR_ARGUMENT with a sentence; drives: also
 * errors of reading a profile.
 */
int replay_memories_parse(const char *text, struct replay_memory *memories, int *count,
                          struct ps_error *err);
int replay_drives_parse(const char *text, struct replay_drives *drives, struct ps_error *err);
int replay_compute_parse(const char *text, struct replay_compute *compute, struct ps_error *err);

/* One run of a replay. */
struct replay_row {
    const char *drives, *policy, *predictor;
    struct replay_memory memory;
    struct ps_replay_result result;
};

json_t *replay_json(const struct ps_trace_info *info, const struct replay_row *rows, int count);
void replay_print(FILE *to, const struct ps_trace_info *info, const struct replay_row *rows,
                  int count);

/* Hit rates over the size of the cache, warm, a line for every policy, predictor and drives, of
 * which there are at most SVG_LINE_COUNT_MAX. Returns 0, or
 * an error of writing; the output is closed either way. */
int replay_svg_write(struct tool_output *out, const struct ps_trace_info *info,
                     const struct replay_row *rows, int count, struct ps_error *err);

/* Hits of what had been asked for before: first touches are no cache's fault. */
double replay_warm_rate(const struct ps_replay_result *result);

#endif
