#include "tools/profile.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tools/tool.h"

#define VERSION 1
#define REQUEST_BYTES_MAX (64u << 20)
#define DEPTH_MAX 128u

/* The path with all links resolved, of a file that is yet to be made too; empty if it cannot be. */
static void path_real(const char *path, char real[PATH_MAX])
{
    char folder[PATH_MAX];

    if (realpath(path, real) != NULL)
        return;
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    snprintf(folder, sizeof(folder), "%.*s", slash != NULL ? (int)(name - path) : 1,
             slash != NULL ? path : ".");
    size_t room = realpath(folder, real) != NULL ? PATH_MAX - strlen(real) : 0;
    if (room == 0 || (size_t)snprintf(real + PATH_MAX - room, room, "%s%s",
                                      real[1] == '\0' ? "" : "/", name) >= room)
        real[0] = '\0';
}

/* ---- writing --------------------------------------------------------------------------------- */

static json_t *points_json(const struct ps_probe_result *probe)
{
    json_t *points = json_array();

    for (uint32_t s = 0; s < PS_PROBE_SIZE_COUNT; s++) {
        for (uint32_t d = 0; d < PS_PROBE_DEPTH_COUNT; d++) {
            const struct ps_probe_point *point = &probe->points[s][d];
            if (point->bytes_per_s == 0)
                continue;
            json_array_append_new(points,
                                  json_pack("{s:I, s:I, s:I, s:{s:f, s:f}}", "request_bytes",
                                            (json_int_t)point->request_bytes, "depth",
                                            (json_int_t)point->depth, "bytes_per_s",
                                            (json_int_t)point->bytes_per_s, "latency_us", "p50",
                                            (double)point->latency_p50_ns / 1e3, "p99",
                                            (double)point->latency_p99_ns / 1e3));
        }
    }
    return points;
}

static json_t *knee_json(const struct ps_member_profile *profile)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I}", "request_bytes", (json_int_t)profile->request_bytes, "depth",
        (json_int_t)profile->depth, "bytes_per_s", (json_int_t)profile->bytes_per_s, "latency_ns",
        (json_int_t)profile->latency_ns, "piece_bytes_min", (json_int_t)profile->piece_bytes_min);
}

static json_t *member_json(const struct tool_probed *probed)
{
    const struct ps_probe_result *probe = &probed->probe;
    const struct ps_drive_info none = {.node = -1};
    const struct ps_drive_info *drive = probed->has_drive ? &probed->drive : &none;
    char real[PATH_MAX];

    path_real(probed->path, real);
    return json_pack("{s:o, s:s, s:s, s:s, s:s, s:s, s:i, s:s, s:b, s:b, s:b, s:I, s:f, s:o, s:o}",
                     "path", tool_json_text(real[0] != '\0' ? real : probed->path), "device",
                     drive->device, "drive", drive->drive, "model", drive->model, "serial",
                     drive->serial, "partuuid", drive->partuuid, "node", drive->node, "engine",
                     probe->engine, "direct", (int)probe->direct, "registered_buffers",
                     (int)probe->registered, "blank", (int)probe->is_blank, "rounds",
                     (json_int_t)probe->round_count, "busy_share", probe->busy_share, "knee",
                     knee_json(&probe->profile), "points", points_json(probe));
}

json_t *tool_profile_json(const struct tool_probed *probed, int count)
{
    json_t *members = json_array();

    for (int i = 0; i < count; i++)
        json_array_append_new(members, member_json(&probed[i]));
    return json_pack("{s:i, s:o}", "penstock_profile", VERSION, "members", members);
}

int tool_profile_write(FILE *file, const char *name, const struct tool_probed *probed, int count,
                       struct ps_error *err)
{
    json_t *json = tool_profile_json(probed, count);
    int rc = json != NULL ? json_dumpf(json, file, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : -1;

    json_decref(json);
    if (rc != 0 || fputc('\n', file) == EOF)
        return ps_error_set(err, -EIO, name, "the profile could not be written");
    return 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The whole number at `key`; false if it is none, or out of range. */
static bool number_get(const json_t *object, const char *key, uint64_t min, uint64_t max,
                       uint64_t *value)
{
    const json_t *number = json_object_get(object, key);

    if (!json_is_integer(number) || json_integer_value(number) < 0)
        return false;
    *value = (uint64_t)json_integer_value(number);
    return *value >= min && *value <= max;
}

static int knee_read(const json_t *knee, struct ps_member_profile *profile)
{
    uint64_t request_bytes, depth, piece_bytes_min;
    struct ps_member_profile read = {0};

    if (!number_get(knee, "bytes_per_s", 1, INT64_MAX, &read.bytes_per_s) ||
        !number_get(knee, "latency_ns", 0, INT64_MAX, &read.latency_ns) ||
        !number_get(knee, "request_bytes", 4096, REQUEST_BYTES_MAX, &request_bytes) ||
        !number_get(knee, "depth", 1, DEPTH_MAX, &depth) ||
        !number_get(knee, "piece_bytes_min", 0, REQUEST_BYTES_MAX, &piece_bytes_min))
        return -PS_ERR_FORMAT;
    read.request_bytes = (uint32_t)request_bytes;
    read.depth = (uint32_t)depth;
    read.piece_bytes_min = (uint32_t)piece_bytes_min;
    *profile = read;
    return 0;
}

static bool text_is(const json_t *entry, const char *key, const char *text)
{
    const char *value = json_string_value(json_object_get(entry, key));

    return value != NULL && text[0] != '\0' && strcmp(value, text) == 0;
}

/* The same of a path, as it was written. */
static bool path_is(const json_t *entry, const char *path)
{
    json_t *text = tool_json_text(path);
    bool is = text != NULL && text_is(entry, "path", json_string_value(text));

    json_decref(text);
    return is;
}

/* The entry of a member; NULL if there is none. */
static const json_t *entry_find(const json_t *entries, const char *member)
{
    struct ps_drive_info drive = {.node = -1};
    char real[PATH_MAX];
    const json_t *entry;
    size_t i;

    path_real(member, real);
    json_array_foreach((json_t *)entries, i, entry)
    {
        if (path_is(entry, real) || path_is(entry, member))
            return entry;
    }
    if (ps_drive_info(member, &drive) < 0)
        return NULL;
    json_array_foreach((json_t *)entries, i, entry)
    {
        if (text_is(entry, "partuuid", drive.partuuid))
            return entry;
    }
    json_array_foreach((json_t *)entries, i, entry)
    {
        if (text_is(entry, "serial", drive.serial))
            return entry;
    }
    return NULL;
}

static int members_find(const char *path, const json_t *entries, const char *const *members,
                        int member_count, struct ps_member_profile *profiles, struct ps_error *err)
{
    char missing[384] = "";
    size_t at = 0;

    for (int i = 0; i < member_count; i++) {
        const json_t *entry = entry_find(entries, members[i]);
        if (entry != NULL && knee_read(json_object_get(entry, "knee"), &profiles[i]) < 0)
            return ps_error_set(err, -PS_ERR_FORMAT, path,
                                "the \"knee\" of %s is not one that penstock probe writes",
                                members[i]);
        if (entry == NULL && at < sizeof(missing))
            at += (size_t)snprintf(missing + at, sizeof(missing) - at, "%s%s", at > 0 ? ", " : "",
                                   members[i]);
    }
    if (at == 0)
        return 0;
    return ps_error_set(err, -PS_ERR_MEMBER, path,
                        "the profile says nothing of %s; probe all members, or the drives under "
                        "them, with penstock probe ... --out",
                        missing);
}

static int all_find(const char *path, const json_t *entries, struct ps_member_profile *profiles,
                    struct ps_error *err)
{
    size_t count = json_array_size(entries);

    for (size_t i = 0; i < count && i < PS_MEMBER_COUNT_MAX; i++)
        if (knee_read(json_object_get(json_array_get(entries, i), "knee"), &profiles[i]) < 0)
            count = 0;
    if (count >= 1 && count <= PS_MEMBER_COUNT_MAX)
        return (int)count;
    return ps_error_set(err, -PS_ERR_FORMAT, path,
                        "this is not a profile of 1 to %d drives that penstock probe writes",
                        PS_MEMBER_COUNT_MAX);
}

/* Opens a profile file: *root is the caller's, *entries in it. */
static int profile_open(const char *path, json_t **root, const json_t **entries,
                        struct ps_error *err)
{
    size_t text_bytes;
    json_error_t reason;
    uint64_t version;
    char *text;
    int rc = tool_text_read(path, &text, &text_bytes, err);

    if (rc < 0)
        return rc;
    *root = json_loadb(text, text_bytes, JSON_REJECT_DUPLICATES, &reason);
    free(text);
    if (*root == NULL)
        return ps_error_set(err, -PS_ERR_FORMAT, path,
                            "this is not a profile that penstock probe has written: line %d: %s",
                            reason.line, reason.text);
    *entries = json_object_get(*root, "members");
    if (number_get(*root, "penstock_profile", VERSION, VERSION, &version) &&
        json_is_array(*entries))
        return 0;
    json_decref(*root);
    return ps_error_set(err, -PS_ERR_FORMAT, path,
                        "this is not a profile of version %d, as penstock probe writes it",
                        VERSION);
}

int tool_profile_read(const char *path, const char *const *members, int member_count,
                      struct ps_member_profile *profiles, struct ps_error *err)
{
    const json_t *entries;
    json_t *root;
    int rc = profile_open(path, &root, &entries, err);

    if (rc < 0)
        return rc;
    rc = members_find(path, entries, members, member_count, profiles, err);
    json_decref(root);
    return rc;
}

/* Sizes and depths that this version does not know are passed over. */
static void point_read(const json_t *json, struct ps_probe_result *probe)
{
    struct ps_probe_point read = {0};
    uint64_t bytes, depth;
    double us = json_number_value(json_object_get(json_object_get(json, "latency_us"), "p50"));

    if (!number_get(json, "request_bytes", 4096, REQUEST_BYTES_MAX, &bytes) ||
        !number_get(json, "depth", 1, DEPTH_MAX, &depth) ||
        !number_get(json, "bytes_per_s", 1, INT64_MAX, &read.bytes_per_s) || !(us > 0 && us < 1e9))
        return;
    read.request_bytes = (uint32_t)bytes;
    read.depth = (uint32_t)depth;
    read.latency_p50_ns = (uint64_t)(us * 1e3);
    for (uint32_t s = 0; s < PS_PROBE_SIZE_COUNT; s++) {
        for (uint32_t d = 0; d < PS_PROBE_DEPTH_COUNT; d++) {
            if (bytes == (UINT64_C(65536) << s) && depth == UINT64_C(1) << d)
                probe->points[s][d] = read;
        }
    }
}

int tool_profile_probes(const char *path, struct ps_probe_result *probes, int capacity,
                        struct ps_error *err)
{
    const json_t *entries, *entry, *point;
    json_t *root;
    size_t i, j;
    int rc = profile_open(path, &root, &entries, err);

    if (rc < 0)
        return rc;
    int count = (int)ps_min_u64(json_array_size(entries), INT_MAX);
    if (count > capacity)
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, path, "it has %d drives; %d are the most", count,
                          capacity);
    json_array_foreach((json_t *)entries, i, entry)
    {
        if (rc < 0)
            break;
        probes[i] = (struct ps_probe_result){0};
        double share = json_number_value(json_object_get(entry, "busy_share"));
        probes[i].busy_share = share > 0 && share < 1 ? share : 1; /* older profiles have none */
        json_array_foreach(json_object_get(entry, "points"), j, point)
            point_read(point, &probes[i]);
    }
    json_decref(root);
    return rc < 0 ? rc : count;
}

int tool_profile_read_all(const char *path, struct ps_member_profile *profiles,
                          struct ps_error *err)
{
    const json_t *entries;
    json_t *root;
    int rc = profile_open(path, &root, &entries, err);

    if (rc < 0)
        return rc;
    rc = all_find(path, entries, profiles, err);
    json_decref(root);
    return rc;
}
