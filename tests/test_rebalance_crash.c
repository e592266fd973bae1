/*
 * A rebalance that loses power at any flush, or is killed at every fourth call: what opens is the
 * old volume or the new one, whole; a resume completes it to the bytes of an undisturbed one.
 */
#include <signal.h>
#include <sys/wait.h>
#include <xxhash.h>

#include "crash_shim.h"
#include "nvme/layout_internal.h"
#include "util.h"
#include "volume_fixture.h"

#define PATHS 4
#define FLUSH_BYTES (200u << 10)

static const struct fixture_shape shape = {.resident_count = 3,
                                           .group_count = 1,
                                           .index_count = 3,
                                           .slice_count = 2,
                                           .slice_bytes = 90000};

static const struct ps_member_profile uneven[PATHS] = {
    {.bytes_per_s = 3000}, {.bytes_per_s = 1000}, {.bytes_per_s = 2000}, {.bytes_per_s = 2000}};

/* What is moved where. Paths by their numbers: "013" is m0, m1, m3. */
static const struct kind {
    const char *name, *from, *to;
    uint32_t copies;
    bool moved_before; /* so that there is room before the old volume */
    char dead;         /* a member that is lost before; 0: none */
} kinds[] = {
    {"all new", "01", "23", 1, false, 0},
    {"one added", "01", "012", 1, false, 0},
    {"one removed", "012", "01", 1, false, 0},
    {"one replaced", "01", "02", 1, false, 0},
    {"the same", "01", "01", 1, false, 0},
    {"the same, into the room before", "01", "01", 1, true, 0},
    {"two copies, a dead one replaced", "012", "032", 2, false, '1'},
};

struct scene {
    char dir[256];
    char path[PATHS][300];
    const char *paths[PATHS];
    struct fixture f;
    const struct kind *kind;
    uint8_t *old[PATHS], *whole[PATHS]; /* before and after; NULL: not there */
    size_t old_bytes[PATHS], whole_bytes[PATHS];
    char old_uuid[37], new_uuid[37];
    uint64_t calls, flushes; /* of an undisturbed rebalance */
    bool told;               /* a volume that was stopped half way between the two said so */
};

static int choose(struct scene *s, const char *numbers, const char **chosen)
{
    int count = 0;
    for (; numbers[count] != 0; count++)
        chosen[count] = s->paths[numbers[count] - '0'];
    return count;
}

static int move(struct scene *s, bool resume, struct ps_error *err)
{
    const char *chosen[PATHS], *volume = s->paths[s->kind->from[0] - '0'];
    struct ps_rebalance_options o = {.resume = resume, .threads = 2};
    o.member_count = choose(s, s->kind->to, chosen);
    o.members = chosen;
    /* Other weights than those of the layout: else there would be nothing to do. */
    o.profiles = strcmp(s->kind->from, s->kind->to) == 0 ? uneven : NULL;
    memset(err, 0, sizeof(*err));
    return ps_volume_rebalance(&volume, 1, &o, err);
}

static void must_move(struct scene *s, bool resume, uint64_t point)
{
    struct ps_error err;
    int rc = move(s, resume, &err);
    if (rc != 0)
        fail_msg("%s, point %llu: %d %s: %s", s->kind->name, (unsigned long long)point, rc,
                 err.where, err.text);
}

static void keep(struct scene *s, uint8_t **data, size_t *bytes)
{
    for (int m = 0; m < PATHS; m++)
        data[m] = file_exists(s->path[m]) ? file_read(s->path[m], &bytes[m]) : NULL;
}

static void restore(struct scene *s)
{
    for (int m = 0; m < PATHS; m++) {
        unlink(s->path[m]);
        if (s->old[m] != NULL)
            file_write(s->path[m], s->old[m], s->old_bytes[m]);
    }
}

static void uuid_of(struct scene *s, const char *numbers, char uuid[37])
{
    struct ps_volume *v = NULL;
    struct ps_error err = {0};
    if (ps_volume_open(&v, &s->paths[numbers[0] - '0'], 1, &err) != 0)
        fail_msg("%s: %s: %s", s->kind->name, err.where, err.text);
    snprintf(uuid, 37, "%s", ps_volume_uuid(v));
    ps_volume_close(&v);
}

static void begin(struct scene *s, const struct kind *kind)
{
    const char *chosen[PATHS];
    struct ps_error err = {0};
    s->kind = kind;
    for (int m = 0; m < PATHS; m++)
        unlink(s->path[m]);
    shim = (struct shim){.mode = SHIM_PASS};
    struct ps_layout_options opts = {.copies = kind->copies};
    int count = choose(s, kind->from, chosen);
    if (fixture_layout(&s->f, chosen, count, &opts, &err) != 0)
        fail_msg("%s: %s", err.where, err.text);
    if (kind->moved_before) {
        /* Larger members first, then back: what is left is a volume with room before it. */
        const char *volume = chosen[0];
        struct ps_rebalance_options o = {.members = chosen, .member_count = count};
        if (ps_volume_rebalance(&volume, 1, &o, &err) != 0)
            fail_msg("%s: %s", err.where, err.text);
    }
    if (kind->dead != 0)
        unlink(s->path[kind->dead - '0']);
    uuid_of(s, kind->from, s->old_uuid);
    keep(s, s->old, s->old_bytes);
    shim = (struct shim){.mode = SHIM_PASS};
    must_move(s, false, 0);
    s->calls = shim.count;
    s->flushes = shim.flush_count;
    keep(s, s->whole, s->whole_bytes);
    uuid_of(s, kind->to, s->new_uuid);
}

static void end(struct scene *s)
{
    for (int m = 0; m < PATHS; m++) {
        free(s->old[m]);
        free(s->whole[m]);
    }
}

/* Runs a rebalance in a child under the shim; true when it came to its end. */
static bool run_child(struct scene *s, const struct shim *how, bool resume)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct ps_error err;
        shim = *how;
        int rc = move(s, resume, &err);
        if (rc != 0)
            fprintf(stderr, "%s: %d %s: %s\n", s->kind->name, rc, err.where, err.text);
        _exit(rc == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Whatever opens is whole, and one of the two. Returns true if something does. */
static bool check_opens_only_whole(struct scene *s)
{
    bool opened = false;
    const char *checked = NULL;
    for (int m = 0; m < PATHS; m++) {
        struct ps_error err = {0};
        struct ps_volume *v = NULL;
        if (!file_exists(s->path[m]))
            continue;
        if (ps_volume_open(&v, &s->paths[m], 1, &err) < 0) {
            assert_true(err.text[0] != 0);
            s->told |= strstr(err.text, "changed over") != NULL;
            continue;
        }
        opened = true;
        const char *uuid = strcmp(ps_volume_uuid(v), s->old_uuid) == 0 ? s->old_uuid : s->new_uuid;
        assert_string_equal(ps_volume_uuid(v), uuid);
        if (checked != uuid)
            fixture_check(&s->f, v);
        checked = uuid;
        ps_volume_close(&v);
    }
    return opened;
}

static void check_same_bytes(struct scene *s, uint64_t point)
{
    for (int m = 0; m < PATHS; m++) {
        if (file_exists(s->path[m]) != (s->whole[m] != NULL))
            fail_msg("%s, point %llu: member %d", s->kind->name, (unsigned long long)point, m);
        if (s->whole[m] == NULL)
            continue;
        size_t bytes;
        uint8_t *data = file_read(s->path[m], &bytes);
        assert_int_equal(bytes, s->whole_bytes[m]);
        for (size_t at = 0; at < bytes; at += 4096) {
            if (memcmp(data + at, s->whole[m] + at, bytes - at < 4096 ? bytes - at : 4096) != 0)
                fail_msg("%s, point %llu: member %d differs at %zu", s->kind->name,
                         (unsigned long long)point, m, at);
        }
        free(data);
    }
}

static void crash_and_resume(struct scene *s, const struct shim *how, uint64_t point)
{
    shim = (struct shim){.mode = SHIM_PASS};
    restore(s);
    run_child(s, how, false);
    check_opens_only_whole(s);
    if (point % 4 == 0) {
        /* A second crash, while it is resumed. */
        struct shim again = *how;
        again.call = again.call * 3 / 4 + (again.call > 0);
        again.flush = again.flush * 3 / 4 + (again.flush > 0);
        run_child(s, &again, true);
        check_opens_only_whole(s);
    }
    shim = (struct shim){.mode = SHIM_PASS};
    must_move(s, true, point);
    check_same_bytes(s, point);
    assert_true(check_opens_only_whole(s));
}

static void power_cut_at_every_flush(void **state)
{
    struct scene *s = *state;
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        begin(s, &kinds[k]);
        for (uint64_t flush = 1; flush <= s->flushes; flush++) {
            for (uint64_t seed = 0; seed < 2; seed++) {
                struct shim how = {
                    .mode = SHIM_POWER, .flush = flush, .seed = flush * 7919 + seed * 31};
                crash_and_resume(s, &how, flush + seed);
            }
        }
        end(s);
    }
    assert_true(s->told);
}

/* What a kill leaves is what was written before it. Each kind begins with another call. */
static void killed_at_calls(void **state)
{
    struct scene *s = *state;
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        begin(s, &kinds[k]);
        for (uint64_t call = 1 + k % 4; call <= s->calls; call += 4) {
            struct shim how = {.mode = SHIM_KILL, .call = call};
            crash_and_resume(s, &how, call);
        }
        end(s);
    }
}

static int scene_make(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    /* In memory: nothing here needs a disk, and thousands of small volumes are written. */
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0);
    fixture_paths(s->dir, s->path, s->paths, PATHS);
    fixture_init(&s->f, 31, &shape);
    ps_layout_set_flush_bytes(FLUSH_BYTES);
    *state = s;
    return 0;
}

static int scene_free(void **state)
{
    struct scene *s = *state;
    fixture_fini(&s->f);
    ps_test_dir_remove(s->dir);
    free(s);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_cut_at_every_flush),
        cmocka_unit_test(killed_at_calls),
    };
    return cmocka_run_group_tests(tests, scene_make, scene_free);
}
