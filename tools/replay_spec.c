#include "tools/replay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/budget.h"
#include "core/util.h"
#include "tools/profile.h"

#define LATENCY_DEFAULT_NS 100000u
#define RATE_MIN 1e6
#define RANGE_COUNT 10

/* Cuts the next item off a list between commas; NULL at the end. Changes the text. */
static char *next_item(char **rest)
{
    char *item = *rest;

    if (item == NULL)
        return NULL;
    *rest = strchr(item, ',');
    if (*rest != NULL)
        *(*rest)++ = '\0';
    return item;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int memory_parse(const char *text, struct replay_memory *memory, struct ps_error *err)
{
    char *end;

    *memory = (struct replay_memory){0};
    if (strcmp(text, "min") == 0) {
        memory->bytes = PS_MEMORY_MIN;
        return 0;
    }
    double share = strtod(text, &end);
    if (end != text && strcmp(end, "%") == 0) {
        memory->share = share / 100;
        if (share > 0 && share <= 100)
            return 0;
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--memory",
                            "\"%s\" is no share of the experts: above 0 %% and up to 100 %%", text);
    }
    int rc = ps_size_parse(text, &memory->bytes, err);
    if (rc < 0)
        snprintf(err->where, sizeof(err->where), "--memory");
    if (rc == 0 && memory->bytes == 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--memory",
                            "0 bytes are no memory; \"min\" takes the least possible");
    return rc;
}

static int count_error(struct ps_error *err)
{
    return ps_error_set(err, -PS_ERR_ARGUMENT, "--memory",
                        "there may be %d sizes, of which a range takes %d", REPLAY_LIST_MAX,
                        RANGE_COUNT);
}

/* Ten equal steps from the first size to the last, or one where the text is no range. */
static int range_parse(char *text, struct replay_memory *memories, int *count, struct ps_error *err)
{
    struct replay_memory first, last;
    char *dots = strstr(text, "..");

    if (dots == NULL)
        return *count < REPLAY_LIST_MAX ? memory_parse(text, &memories[(*count)++], err)
                                        : count_error(err);
    *dots = '\0';
    int rc = memory_parse(text, &first, err);
    if (rc == 0)
        rc = memory_parse(dots + 2, &last, err);
    if (rc < 0)
        return rc;
    if ((first.share > 0) != (last.share > 0) || first.bytes == PS_MEMORY_MIN ||
        last.bytes == PS_MEMORY_MIN)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--memory",
                            "a range goes from a size to a size or from a share to a share");
    if (*count > REPLAY_LIST_MAX - RANGE_COUNT)
        return count_error(err);
    for (int i = 0; i < RANGE_COUNT; i++) {
        double part = (double)i / (RANGE_COUNT - 1);
        memories[(*count)++] = (struct replay_memory){
            .bytes = (uint64_t)((double)first.bytes * (1 - part) + (double)last.bytes * part),
            .share = first.share * (1 - part) + last.share * part};
    }
    return 0;
}

int replay_memories_parse(const char *text, struct replay_memory *memories, int *count,
                          struct ps_error *err)
{
    char *copy = strdup(text), *rest = copy, *item;
    int rc = copy != NULL ? 0 : ps_error_set(err, -ENOMEM, NULL, "out of memory");

    *count = 0;
    while (rc == 0 && (item = next_item(&rest)) != NULL)
        rc = range_parse(item, memories, count, err);
    free(copy);
    return rc;
}

/* ---- numbers with a unit --------------------------------------------------------------------- */

/* Bytes per second as drives are sold: 3.5G is 3.5e9. Returns what follows, or NULL. */
static const char *rate_read(const char *text, double *rate)
{
    static const char letters[] = "KMGT";
    char *end;

    *rate = strtod(text, &end);
    if (end == text || !(*rate > 0) || *rate > 1e15)
        return NULL;
    for (int i = 0; *end != '\0' && letters[i] != '\0'; i++) {
        if ((*end & ~0x20) != letters[i])
            continue;
        for (int n = 0; n <= i; n++)
            *rate *= 1e3;
        return *rate <= 1e15 ? end + 1 : NULL;
    }
    return end;
}

static bool time_parse(const char *text, uint64_t *ns)
{
    static const struct {
        const char *name;
        double ns;
    } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
    char *end;
    double value = strtod(text, &end);

    if (end == text || !(value >= 0))
        return false;
    for (size_t i = 0; i < PS_ARRAY_LEN(units); i++) {
        if (strcmp(end, units[i].name) == 0 && value * units[i].ns <= (double)REPLAY_TIME_NS_MAX) {
            *ns = (uint64_t)(value * units[i].ns + 0.5);
            return true;
        }
    }
    return false;
}

/* ---- drives ---------------------------------------------------------------------------------- */

/* "[Nx]RATE[@TIME]"; false if it is none. */
static bool drive_parse(const char *text, struct replay_drives *drives)
{
    struct ps_replay_drive drive = {.latency_ns = LATENCY_DEFAULT_NS};
    unsigned long count = 1;
    double rate;
    char *end;

    unsigned long number = strtoul(text, &end, 10);
    if (end != text && *end == 'x') {
        count = number;
        text = end + 1;
    }
    const char *rest = rate_read(text, &rate);
    if (rest == NULL || (*rest == '@' && !time_parse(rest + 1, &drive.latency_ns)) ||
        (*rest != '@' && *rest != '\0') || rate < RATE_MIN)
        return false;
    drive.bytes_per_s = (uint64_t)rate;
    if (count < 1 || count > (unsigned long)(PS_MEMBER_COUNT_MAX - drives->count))
        return false;
    while (count-- > 0)
        drives->drives[drives->count++] = drive;
    return true;
}

static int profile_take(const char *path, struct replay_drives *drives, struct ps_error *err)
{
    drives->probes = calloc(PS_MEMBER_COUNT_MAX, sizeof(*drives->probes));
    if (drives->probes == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory");
    int count = tool_profile_probes(path, drives->probes, PS_MEMBER_COUNT_MAX, err);
    for (int i = 0; i < count; i++)
        drives->drives[drives->count++] = (struct ps_replay_drive){.probe = &drives->probes[i]};
    return count < 0 ? count : 0;
}

int replay_drives_parse(const char *text, struct replay_drives *drives, struct ps_error *err)
{
    char *copy = strdup(text), *rest = copy, *item;
    bool are_good = true;

    *drives = (struct replay_drives){.text = text};
    if (copy == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory");
    while (are_good && (item = next_item(&rest)) != NULL)
        are_good = drive_parse(item, drives);
    free(copy);
    if (are_good)
        return 0;
    drives->count = 0;
    if (strchr(text, '/') != NULL || access(text, F_OK) == 0)
        return profile_take(text, drives, err);
    return ps_error_set(err, -PS_ERR_ARGUMENT, "--drives",
                        "\"%s\" is neither a list of drives, such as 2x3.5G or 7G@80us,3.5G (up to "
                        "%d), nor a file that penstock probe has written",
                        text, PS_MEMBER_COUNT_MAX);
}

/* ---- arithmetic ------------------------------------------------------------------------------ */

static bool compute_item(const char *name, const char *value, struct replay_compute *c)
{
    const struct {
        const char *name;
        uint64_t *ns;
    } times[] = {{"mixer", &c->times.mixer_ns},   {"shared", &c->times.shared_ns},
                 {"expert", &c->times.expert_ns}, {"predict", &c->times.predict_ns},
                 {"token", &c->times.token_ns},   {"check", &c->times.check_ns},
                 {"read", &c->times.read_ns},     {"issue", &c->times.issue_ns},
                 {"wake", &c->times.wake_ns}};
    const char *end;

    for (size_t i = 0; i < PS_ARRAY_LEN(times); i++) {
        if (strcmp(name, times[i].name) == 0)
            return time_parse(value, times[i].ns);
    }
    if (strcmp(name, "memory") == 0)
        return (end = rate_read(value, &c->memory_bytes_per_s)) != NULL && *end == '\0';
    return strcmp(name, "dense") == 0 && ps_size_parse(value, &c->dense_bytes, NULL) == 0;
}

int replay_compute_parse(const char *text, struct replay_compute *compute, struct ps_error *err)
{
    char *copy = strdup(text), *rest = copy, *item;
    int rc = copy != NULL ? 0 : ps_error_set(err, -ENOMEM, NULL, "out of memory");

    *compute = (struct replay_compute){0};
    while (rc == 0 && (item = next_item(&rest)) != NULL) {
        char *value = strchr(item, '=');
        if (value != NULL)
            *value++ = '\0';
        if (value == NULL || !compute_item(item, value, compute))
            rc = ps_error_set(
                err, -PS_ERR_ARGUMENT, "--compute",
                "\"%s\" is not understood: mixer, shared, predict, expert, token, check, read, "
                "issue and wake have a time up to 10 s (1.2ms, 80us), memory a rate (40G) and "
                "dense a size (1.5G)",
                text);
    }
    if (rc == 0 && compute->dense_bytes > 0 && compute->memory_bytes_per_s == 0)
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, "--compute",
                          "dense is read at the rate of memory, which is not given");
    free(copy);
    return rc;
}
