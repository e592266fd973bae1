/*
 * What memory control groups leave to this process. Their limits are found where the kernel says
 * that they are mounted (proc(5), /proc/pid/mountinfo), not under a fixed path: containers, hybrid
 * set-ups and old distributions all differ.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"
#include "core/util.h"

/* No machine has an exbibyte: cgroup v1 writes "no limit" as the largest multiple of a page. */
#define NO_LIMIT_BYTES ((uint64_t)1 << 60)
#define DIR_BYTES (3 * PATH_MAX)

/* One memory hierarchy: names of its files (cgroup-v2.rst, cgroup-v1/memory.rst). */
struct hierarchy {
    const char *limit[2]; /* the second may be NULL */
    const char *used;
    const char *reclaimable; /* key in memory.stat */
};

/* memory.high does not kill, but a process above it is stopped for most of its time. */
static const struct hierarchy v2 = {
    {"memory.max", "memory.high"}, "memory.current", "inactive_file"};
static const struct hierarchy v1 = {
    {"memory.limit_in_bytes", NULL}, "memory.usage_in_bytes", "total_inactive_file"};

/* A mounted hierarchy and this process's place in it. */
struct place {
    char mount_root[PATH_MAX]; /* which cgroup is visible at mount_point */
    char mount_point[PATH_MAX];
    char cgroup[PATH_MAX]; /* as /proc/self/cgroup names it */
};

static uint64_t left_in_dir(const struct hierarchy *h, const char *dir)
{
    char path[DIR_BYTES + 64], stat[8192];
    uint64_t limit = UINT64_MAX;
    for (int i = 0; i < 2 && h->limit[i]; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, h->limit[i]);
        limit = ps_min_u64(limit, ps_number_file_read(path, UINT64_MAX)); /* "max" is no number */
    }
    if (limit >= NO_LIMIT_BYTES)
        return UINT64_MAX;

    snprintf(path, sizeof(path), "%s/%s", dir, h->used);
    uint64_t used = ps_number_file_read(path, 0);
    /* Cold file cache is counted as used, but gives way as soon as somebody asks for memory. */
    snprintf(path, sizeof(path), "%s/memory.stat", dir);
    if (ps_text_file_read(path, stat, sizeof(stat)) > 0)
        used -= ps_min_u64(used, ps_keyed_number(stat, h->reclaimable));
    return limit > used ? limit - used : 0;
}

/* The least that is left in the process's cgroup and each ancestor that is visible here. */
static uint64_t left_in_place(const struct hierarchy *h, const struct place *place,
                              const char *root)
{
    char dir[DIR_BYTES];
    const char *below = place->cgroup;
    size_t prefix = strlen(place->mount_root);
    prefix = prefix == 1 ? 0 : prefix; /* "/" */
    /* Outside the visible part (a container without a namespace of its own): the mount is all we
     * see. */
    if (strncmp(below, place->mount_root, prefix) != 0 || strstr(below, "..") ||
        (below[prefix] && below[prefix] != '/'))
        below = "";
    else
        below += prefix;

    int len = snprintf(dir, sizeof(dir), "%s%s%s", root, place->mount_point, below);
    size_t top_len = strlen(root) + strlen(place->mount_point);
    uint64_t left = UINT64_MAX;
    while (len > 0 && len < (int)sizeof(dir)) {
        left = ps_min_u64(left, left_in_dir(h, dir));
        char *slash = strrchr(dir, '/');
        if (strlen(dir) <= top_len || !slash)
            break;
        *slash = '\0';
    }
    return left;
}

/* mountinfo writes space, tab, newline and backslash as three octal digits. */
static void unescape(char *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\\' && i + 3 < len) {
            *out++ =
                (char)((text[i + 1] - '0') << 6 | (text[i + 2] - '0') << 3 | (text[i + 3] - '0'));
            i += 3;
        } else {
            *out++ = text[i];
        }
    }
    *out = '\0';
}

/* The next blank-separated field of *line, moved past it. Returns its length, 0 at the end. */
static size_t next_field(const char **line, const char **field)
{
    *line += strspn(*line, " \n");
    *field = *line;
    size_t len = strcspn(*line, " \n");
    *line += len;
    return len;
}

static int field_is(const char *field, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(field, text, len) == 0;
}

/* Whether a comma-separated list has the entry `memory`. */
static int lists_memory(const char *list, size_t len)
{
    static const char word[] = "memory";
    while (len > 0) {
        const char *comma = memchr(list, ',', len);
        size_t entry_len = comma ? (size_t)(comma - list) : len;
        if (field_is(list, entry_len, word))
            return 1;
        size_t step = entry_len + (comma != NULL);
        list += step;
        len -= step;
    }
    return 0;
}

/*
 * One line of mountinfo: "id parent dev ROOT POINT options [tags...] - TYPE source OPTIONS".
 * Returns the hierarchy if it is one that controls memory, and fills both paths of *place.
 */
static const struct hierarchy *parse_mount(const char *line, struct place *place)
{
    const char *root = NULL, *point = NULL, *field;
    size_t root_len = 0, point_len = 0, len;
    for (int i = 0; (len = next_field(&line, &field)) > 0 && !(i >= 6 && field_is(field, len, "-"));
         i++) {
        if (i == 3) {
            root = field;
            root_len = len;
        } else if (i == 4) {
            point = field;
            point_len = len;
        }
    }
    if (!point || root_len >= PATH_MAX || point_len >= PATH_MAX)
        return NULL;

    const struct hierarchy *found = NULL;
    size_t type_len = next_field(&line, &field);
    if (field_is(field, type_len, "cgroup2")) {
        found = &v2;
    } else if (field_is(field, type_len, "cgroup")) {
        next_field(&line, &field);
        len = next_field(&line, &field);
        found = lists_memory(field, len) ? &v1 : NULL;
    }
    if (found) {
        unescape(place->mount_root, root, root_len);
        unescape(place->mount_point, point, point_len);
    }
    return found;
}

/*
 * Finds this process's line in /proc/self/cgroup: "0::PATH" for v2, "N:controllers:PATH" for v1.
 * Returns 1 and fills place->cgroup, or 0.
 */
static int find_cgroup(const char *root, const struct hierarchy *h, struct place *place)
{
    char path[PATH_MAX], *line = NULL;
    size_t line_bytes = 0;
    int found = 0;
    snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    while (file && !found && getline(&line, &line_bytes, file) > 0) {
        char *controllers = strchr(line, ':');
        char *cgroup = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!cgroup)
            continue;
        size_t list_len = (size_t)(cgroup - controllers - 1);
        found = h == &v2 ? list_len == 0 : lists_memory(controllers + 1, list_len);
        cgroup[1 + strcspn(cgroup + 1, "\n")] = '\0';
        if (found)
            snprintf(place->cgroup, sizeof(place->cgroup), "%s", cgroup + 1);
    }
    free(line);
    if (file)
        fclose(file);
    return found;
}

uint64_t ps_cgroup_left_bytes(const char *root)
{
    char path[PATH_MAX], *line = NULL;
    size_t line_bytes = 0;
    uint64_t left = UINT64_MAX;
    struct place *place = malloc(sizeof(*place));
    snprintf(path, sizeof(path), "%s/proc/self/mountinfo", root);
    FILE *file = fopen(path, "re");
    while (place && file && getline(&line, &line_bytes, file) > 0) {
        const struct hierarchy *h = parse_mount(line, place);
        if (h && find_cgroup(root, h, place))
            left = ps_min_u64(left, left_in_place(h, place, root));
    }
    free(line);
    free(place);
    if (file)
        fclose(file);
    return left;
}
