/* Between the files of penstock plan: what it plans for, and what it found. */
#ifndef PENSTOCK_TOOLS_PLAN_H
#define PENSTOCK_TOOLS_PLAN_H

#include "tools/tool.h"

struct plan_drives {
    struct ps_member_profile drives[PS_MEMBER_COUNT_MAX];
    double shares[PS_MEMBER_COUNT_MAX]; /* of the data, of a volume's drives */
    bool has_shares;
    double busy_share; /* of what they give, while all processors compute; 0: not known */
    double read_cpu_s; /* of a read alone; 0: not known */
    struct ps_miss_times miss_times; /* measured volumes only */
    int count;                       /* 0: not known */
    const char *origin;              /* "given", "measured now", "recorded in the volume" */
};

struct plan_machine {
    struct ps_machine machine;
    bool is_known;
    bool is_probed; /* this one, now */
};

struct plan_result {
    struct ps_model *model;
    struct ps_forecast now, drive, memory; /* as it is; with one more drive; with more memory */
    bool has_drive, has_memory;
    double more_drive_bytes_per_s;
    struct plan_drives drives;
    struct plan_machine machine;
    struct ps_reuse *reuse; /* of a trace, or NULL */
    const char *hits_from;  /* what the hit rates follow from */
    bool is_volume, fits;
};

/* What "64 GB more" means. */
#define PLAN_MORE_BYTES (UINT64_C(64) << 30)

/* "2x7.0G,3.5G" (bytes per second, decimal) or the path of a profile. -PS_ERR_ARGUMENT and those of
 * tool_profile_read. */
int plan_drives_parse(struct plan_drives *drives, const char *spec, struct ps_error *err);

/* "cores=16,memory=200G,flops=1.5T", in any order. -PS_ERR_ARGUMENT. */
int plan_machine_parse(struct plan_machine *machine, const char *spec, struct ps_error *err);

/* Measures this machine's processor and memory for the model. */
int plan_machine_probe(struct plan_machine *machine, struct ps_model *model,
                       const struct ps_engine_options *options, struct ps_error *err);

/* The drives of a volume: as recorded in it, or measured now with this I/O engine. Members of one
 * drive are one. */
int plan_drives_of_volume(struct plan_drives *drives, struct ps_model *model, bool is_probed,
                          const char *io, struct ps_error *err);

/* The drive that a checkpoint lies on, measured now as the model would read it. */
int plan_drives_of_source(struct plan_drives *drives, struct ps_model *model, const char *path,
                          const char *io, struct ps_error *err);

void plan_print(const struct plan_result *result);
json_t *plan_json(const struct plan_result *result);

#endif
