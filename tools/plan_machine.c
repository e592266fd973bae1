/* What penstock plan plans for: drives and machines, as they are described or measured. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/mem.h"
#include "core/pool.h"
#include "core/util.h"
#include "tools/bench_machine.h"
#include "tools/plan.h"
#include "tools/profile.h"

#define READ_BYTES (UINT64_C(192) << 20)
#define REQUEST_BYTES (1u << 20)
#define REQUEST_BYTES_MAX (4u << 20)
#define DEPTH 8u
#define BANDWIDTH_NS UINT64_C(800000000)
#define LATENCY_NS UINT64_C(400000000)
/* Of a drive that nobody has measured: between a request and its first byte. */
#define ACCESS_NS 100000u
#define RATE_MAX 1e15

/* "7.0G": a number, K, M, G or T of powers of 1000; *end is what follows. 0 for none. */
static double rate_parse(const char *text, const char **end)
{
    static const char units[] = "KMGT";
    char *after = NULL;
    double value = isdigit((unsigned char)*text) ? strtod(text, &after) : 0;

    if (after == NULL || after == text)
        return 0;
    const char *unit = *after ? strchr(units, toupper((unsigned char)*after)) : NULL;
    for (const char *u = units; unit != NULL && u <= unit; u++)
        value *= 1000;
    *end = unit != NULL ? after + 1 : after;
    return value > 0 && value < RATE_MAX ? value : 0;
}

/* ---- drives ---------------------------------------------------------------------------------- */

static struct ps_member_profile drive_of_rate(double rate)
{
    return (struct ps_member_profile){
        .bytes_per_s = (uint64_t)rate,
        .latency_ns = (uint64_t)(ACCESS_NS + REQUEST_BYTES / rate * 1e9),
        .request_bytes = REQUEST_BYTES,
        .depth = DEPTH,
    };
}

/* "2x7.0G" or "7.0G"; the text that follows, or NULL. */
static const char *drives_item(struct plan_drives *drives, const char *text)
{
    const char *end = NULL;
    char *after;
    unsigned long times = strtoul(text, &after, 10);

    if (isdigit((unsigned char)*text) && tolower((unsigned char)*after) == 'x')
        text = after + 1;
    else
        times = 1;
    double rate = rate_parse(text, &end);
    if (rate < 1 || times < 1 || times > PS_MEMBER_COUNT_MAX ||
        drives->count + (int)times > PS_MEMBER_COUNT_MAX || (*end != '\0' && *end != ','))
        return NULL;
    while (times-- > 0)
        drives->drives[drives->count++] = drive_of_rate(rate);
    return *end == ',' ? end + 1 : end;
}

int plan_drives_parse(struct plan_drives *drives, const char *spec, struct ps_error *err)
{
    const char *at = spec;

    *drives = (struct plan_drives){.origin = "given"};
    if (access(spec, F_OK) == 0) {
        int count = tool_profile_read_all(spec, drives->drives, err);
        drives->origin = "of the profile";
        drives->count = count > 0 ? count : 0;
        return count < 0 ? count : 0;
    }
    do
        at = drives_item(drives, at);
    while (at != NULL && *at != '\0');
    if (at != NULL && spec[strlen(spec) - 1] != ',')
        return 0;
    return ps_error_set(
        err, -PS_ERR_ARGUMENT, "--drives",
        "\"%.64s\" is neither a profile of penstock probe nor bytes per second of 1 "
        "to %d drives: write for example 7G, 2x7.0G or 3.5G,7G",
        spec, PS_MEMBER_COUNT_MAX);
}

/*
 * Reads of the size and in the number that the model asks for when every expert of a layer misses,
 * beside busy processors too, and alone. Means, not medians: a layer waits for its slowest read, so
 * what happens rarely counts as well. All members that the drive has are read together.
 */
static int drive_measure(const char *const *paths, int path_count, const struct ps_model *model,
                         const char *io, struct plan_drives *drives, int at, struct ps_error *err)
{
    struct ps_member_profile *profile = &drives->drives[at];
    struct ps_measure_result many, busy, alone;
    struct ps_model_info info;

    ps_model_info(model, &info);
    uint64_t slice = ps_align_up(ps_div_up(info.expert_bytes_max, info.slices_per_expert), 4096);
    uint64_t request = ps_min_u64(slice, REQUEST_BYTES_MAX);
    uint64_t reads = info.experts_used * ps_div_up(info.expert_bytes_max, request);
    struct ps_measure_options options = {.paths = paths,
                                         .path_count = path_count,
                                         .engine = io,
                                         .request_bytes = (uint32_t)request,
                                         .depth = (uint32_t)ps_min_u64(reads, DEPTH),
                                         .ns_max = BANDWIDTH_NS,
                                         .seed = ps_now_ns(),
                                         .stop = tool_stop_flag()};
    int rc = ps_measure_run(&options, &many, err);
    profile->depth = options.depth * (uint32_t)path_count;
    options.seed++;
    /* What serves the drive may need processors itself, as the host of a virtual machine does. */
    options.is_beside_busy = true;
    if (rc == 0)
        rc = ps_measure_run(&options, &busy, err);
    options.is_beside_busy = false;
    options.depth = 1;
    options.path_count = 1;
    options.ns_max = LATENCY_NS;
    options.seed++;
    if (rc == 0)
        rc = ps_measure_run(&options, &alone, err);
    if (rc < 0)
        return rc;
    if (many.is_blank)
        tool_warn_blank(paths[0]);
    profile->request_bytes = options.request_bytes;
    profile->bytes_per_s = many.bytes_per_s;
    profile->latency_ns = alone.request_count ? alone.ns / alone.request_count : 0;
    if (alone.request_count)
        drives->read_cpu_s =
            fmax(drives->read_cpu_s, (double)alone.cpu_ns / 1e9 / (double)alone.request_count);
    /* That of the drive which suffers most. */
    double share =
        many.bytes_per_s > 0 ? fmin((double)busy.bytes_per_s / (double)many.bytes_per_s, 1) : 1;
    if (drives->busy_share == 0 || share < drives->busy_share)
        drives->busy_share = share;
    return 0;
}

static bool same_place(const char *a, const char *b)
{
    struct ps_drive_info x, y;
    struct stat s, t;

    if (ps_drive_info(a, &x) == 0 && ps_drive_info(b, &y) == 0 && x.drive[0] && y.drive[0])
        return strcmp(x.drive, y.drive) == 0;
    return stat(a, &s) == 0 && stat(b, &t) == 0 && s.st_dev == t.st_dev;
}

int plan_drives_of_volume(struct plan_drives *drives, struct ps_model *model, bool is_probed,
                          const char *io, struct ps_error *err)
{
    const struct ps_volume *volume = ps_model_volume(model);
    const char *paths[PS_MEMBER_COUNT_MAX][PS_MEMBER_COUNT_MAX]; /* of each drive's members */
    int path_counts[PS_MEMBER_COUNT_MAX] = {0};
    int rc = 0;

    *drives = (struct plan_drives){.has_shares = true,
                                   .origin = is_probed ? "measured now" : "recorded in the volume"};
    for (int m = 0; m < ps_volume_member_count(volume); m++) {
        const struct ps_member_profile *recorded = ps_volume_profile(volume, m);
        struct ps_member_info info;
        int at = 0;
        ps_volume_member(volume, m, &info);
        if (info.is_missing)
            continue;
        while (at < drives->count && !same_place(paths[at][0], info.path))
            at++;
        drives->shares[at] += tool_member_share(volume, m);
        paths[at][path_counts[at]++] = info.path;
        if (at < drives->count)
            continue;
        if (!is_probed && (recorded == NULL || recorded->bytes_per_s == 0)) {
            drives->count = 0;
            return 0;
        }
        if (!is_probed)
            drives->drives[at] = *recorded;
        drives->count++;
    }
    for (int at = 0; is_probed && at < drives->count && rc == 0; at++)
        rc = drive_measure(paths[at], path_counts[at], model, io, drives, at, err);
    return rc;
}

/* The largest file of a folder, into path; false without one. */
static bool largest_file(const char *folder, char *path, size_t path_bytes)
{
    DIR *dir = opendir(folder);
    off_t most = 0;

    for (struct dirent *e = dir ? readdir(dir) : NULL; e != NULL; e = readdir(dir)) {
        char one[4096];
        struct stat st;
        int n = snprintf(one, sizeof(one), "%s/%s", folder, e->d_name);
        if (n < 0 || (size_t)n >= path_bytes || stat(one, &st) < 0 || !S_ISREG(st.st_mode) ||
            st.st_size <= most)
            continue;
        most = st.st_size;
        memcpy(path, one, (size_t)n + 1);
    }
    if (dir != NULL)
        closedir(dir);
    return most > 0;
}

int plan_drives_of_source(struct plan_drives *drives, struct ps_model *model, const char *path,
                          const char *io, struct ps_error *err)
{
    char file[4096];
    struct stat st;

    *drives = (struct plan_drives){.count = 1, .origin = "measured now"};
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode) && largest_file(path, file, sizeof(file)))
        path = file;
    return drive_measure(&path, 1, model, io, drives, 0, err);
}

/* ---- machines -------------------------------------------------------------------------------- */

static int machine_error(const char *spec, struct ps_error *err)
{
    return ps_error_set(err, -PS_ERR_ARGUMENT, "--machine",
                        "\"%.64s\" is neither probe nor a machine such as "
                        "cores=16,memory=200G,flops=1.5T (bytes per second that all cores together "
                        "read from memory, float operations per second)",
                        spec);
}

int plan_machine_parse(struct plan_machine *machine, const char *spec, struct ps_error *err)
{
    static const char *const keys[] = {"cores=", "memory=", "flops="};
    double values[3] = {0};
    const char *at = spec;

    while (*at != '\0') {
        size_t k = 0;
        while (k < 3 && strncmp(at, keys[k], strlen(keys[k])) != 0)
            k++;
        if (k == 3 || values[k] > 0)
            return machine_error(spec, err);
        values[k] = rate_parse(at + strlen(keys[k]), &at);
        if (values[k] <= 0 || (*at != '\0' && *at != ','))
            return machine_error(spec, err);
        if (*at == ',' && *++at == '\0')
            return machine_error(spec, err);
    }
    if (values[0] < 1 || values[0] > 512 || values[1] <= 0 || values[2] <= 0)
        return machine_error(spec, err);
    *machine = (struct plan_machine){.is_known = true,
                                     .machine = {.threads = (int)values[0],
                                                 .read_bytes_per_s = values[1],
                                                 .float_ops_per_s = values[2]}};
    return 0;
}

int plan_machine_probe(struct plan_machine *machine, struct ps_model *model,
                       const struct ps_engine_options *options, struct ps_error *err)
{
    struct ps_region region = {0};
    struct ps_pool *pool = NULL;

    *machine = (struct plan_machine){.is_known = true, .is_probed = true};
    /* The model first: its plan counts what the process has held so far. */
    int rc = ps_machine_measure(&machine->machine, model, options, err);
    if (rc == 0)
        rc = ps_pool_open(&pool, options->threads, err);
    if (rc == 0)
        rc = ps_region_map(&region, READ_BYTES, -1, err);
    if (rc == 0) {
        machine->machine.read_bytes_per_s = bench_read_rate(pool, region.base, READ_BYTES);
        machine->machine.float_ops_per_s = bench_float_rate(pool);
    }
    ps_region_unmap(&region);
    ps_pool_close(&pool);
    return rc;
}
