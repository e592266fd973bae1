/* What is known of the drives of a layout: by a profile file, or by a short look at them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/util.h"
#include "tools/profile.h"
#include "tools/tool.h"

#define REQUEST_BYTES (1u << 20)
#define DEPTH 8u
#define BANDWIDTH_NS UINT64_C(800000000)
#define LATENCY_NS UINT64_C(200000000)

/* A member and the drive that it will be read from. */
struct place {
    const char *member;
    const char *read_path; /* what can be measured now: itself, or the device under the file */
    char drive[PS_DRIVE_TEXT_BYTES]; /* empty: not on a block device of this machine */
    dev_t file_system;
    struct ps_drive_info info;
};

static dev_t file_system_of(const char *path)
{
    char folder[4096];
    struct stat st;

    if (stat(path, &st) == 0)
        return st.st_dev;
    snprintf(folder, sizeof(folder), "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash != NULL)
        slash[slash == folder ? 1 : 0] = '\0';
    return stat(slash != NULL ? folder : ".", &st) == 0 ? st.st_dev : 0;
}

static void place_find(struct place *place, const char *member)
{
    *place = (struct place){.member = member, .file_system = file_system_of(member)};
    if (ps_drive_info(member, &place->info) < 0)
        return;
    memcpy(place->drive, place->info.drive, sizeof(place->drive));
    place->read_path = place->info.is_file ? place->info.device : member;
}

static bool same_drive(const struct place *a, const struct place *b)
{
    if (a->drive[0] == '\0' || b->drive[0] == '\0')
        return a->drive[0] == b->drive[0] && a->file_system == b->file_system;
    return strcmp(a->drive, b->drive) == 0;
}

static bool all_alike(const struct place *places, int count)
{
    for (int i = 1; i < count; i++) {
        if (!same_drive(&places[0], &places[i]))
            return false;
    }
    return true;
}

/* What a member can count on of its drive's bandwidth: the layout divides it likewise. */
static uint64_t rate_of(const struct place *places, int count,
                        const struct ps_member_profile *profiles, int member)
{
    uint64_t sharing = 1;

    for (int i = 0; i < count; i++)
        sharing += i != member && same_drive(&places[i], &places[member]);
    return profiles[member].bytes_per_s / sharing;
}

static int measure_one(const char *path, struct ps_member_profile *profile, struct ps_error *err)
{
    struct ps_measure_options options = {
        .paths = &path,
        .path_count = 1,
        .request_bytes = REQUEST_BYTES,
        .depth = DEPTH,
        .ns_max = BANDWIDTH_NS,
        .seed = ps_now_ns(),
        .stop = tool_stop_flag(),
    };
    struct ps_measure_result many, alone;
    int rc = ps_measure_run(&options, &many, err);

    options.depth = 1;
    options.ns_max = LATENCY_NS;
    options.seed++;
    if (rc == 0)
        rc = ps_measure_run(&options, &alone, err);
    if (rc < 0)
        return rc;
    if (many.is_blank)
        tool_warn_blank(path);
    *profile = (struct ps_member_profile){
        .bytes_per_s = many.steady_bytes_per_s,
        .latency_ns = alone.latency_p50_ns,
        .request_bytes = REQUEST_BYTES,
        .depth = DEPTH,
    };
    return 0;
}

/* Members of one drive are measured once. */
static int measure_all(const struct place *places, int count, struct ps_member_profile *profiles,
                       struct ps_error *err)
{
    for (int i = 0; i < count; i++) {
        int same = 0;
        while (!same_drive(&places[same], &places[i]))
            same++;
        profiles[i] = profiles[same];
        if (same < i)
            continue;
        int rc = -ENODEV;
        if (places[i].read_path != NULL)
            rc = measure_one(places[i].read_path, &profiles[i], err);
        else
            ps_error_set(err, rc, places[i].member, "it lies on no drive of this machine");
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* "members: A 3.20 GB/s, B 1.10 GB/s: cut 74 : 26". The layout takes a tenth for no difference. */
static void cut_print(const struct place *places, int count,
                      const struct ps_member_profile *profiles)
{
    uint64_t fastest = 0, slowest = UINT64_MAX, sum = 0;

    fputs("penstock: members: ", stderr);
    for (int i = 0; i < count; i++) {
        uint64_t rate = rate_of(places, count, profiles, i);
        bool is_fast = rate >= 1000000000;
        fprintf(stderr, "%s%s %.2f %s", i > 0 ? ", " : "", places[i].member,
                (double)rate / (is_fast ? 1e9 : 1e6), is_fast ? "GB/s" : "MB/s");
        fastest = ps_max_u64(fastest, rate);
        slowest = ps_min_u64(slowest, rate);
        sum += rate;
    }
    if (slowest >= fastest - fastest / 10) {
        fputs(": cut evenly\n", stderr);
        return;
    }
    for (int i = 0; i < count; i++)
        fprintf(stderr, "%s%.0f", i > 0 ? " : " : ": cut ",
                100.0 * (double)rate_of(places, count, profiles, i) / (double)sum);
    fputc('\n', stderr);
}

static int profile_measure(const char *const *members, int member_count,
                           struct ps_member_profile *profiles, struct ps_error *err)
{
    struct place places[PS_MEMBER_COUNT_MAX];
    struct ps_error reason = {0};

    for (int i = 0; i < member_count; i++)
        place_find(&places[i], members[i]);
    if (all_alike(places, member_count))
        return 0;
    int rc = measure_all(places, member_count, profiles, &reason);
    if (rc == -EINTR && tool_stop_status() != 0)
        return ps_error_set(err, rc, reason.where, "%s", reason.text);
    if (rc < 0) {
        fprintf(stderr,
                "penstock: the members are cut evenly, because %s could not be measured (%s); for "
                "drives of different speed, measure all with penstock probe --out and give "
                "--profile\n",
                reason.where, reason.text);
        return 0;
    }
    cut_print(places, member_count, profiles);
    return 1;
}

int tool_profile_get(const char *file, bool resume, const char *const *members, int member_count,
                     struct ps_member_profile *profiles, struct ps_error *err)
{
    if (file == NULL && (resume || member_count < 2))
        return 0;
    if (file == NULL)
        return profile_measure(members, member_count, profiles, err);
    int rc = tool_profile_read(file, members, member_count, profiles, err);
    return rc == 0 ? 1 : rc;
}
