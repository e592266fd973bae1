/* The record area: entries in memory, and put on members with torn writes, locks and no room. */
#include "crash_shim.h"

#include <sys/file.h>
#include <sys/wait.h>

#include "nvme/record.h"
#include "nvme/superblock.h"
#include "nvme/volume.h"
#include "util.h"
#include "volume_fixture.h"

#define MEMBERS 2

static const uint8_t uuid[16] = {1, 2, 3};
static const uint8_t other_uuid[16] = {1, 2, 4};

struct scene {
    char dir[256];
    char path[MEMBERS][300];
    const char *paths[MEMBERS];
    struct fixture f;
    struct ps_member_profile profiles[MEMBERS];
};

static int scene_make(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    fixture_paths(s->dir, s->path, s->paths, MEMBERS);
    for (int m = 0; m < MEMBERS; m++) {
        s->profiles[m] = (struct ps_member_profile){.bytes_per_s = 1000000u * (unsigned)(m + 1),
                                                    .latency_ns = 80000,
                                                    .request_bytes = 1u << 20,
                                                    .depth = 8,
                                                    .piece_bytes_min = 131072};
    }
    fixture_init(&s->f, 1, &fixture_small);
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

static void must_lay(struct scene *s, const struct ps_member_profile *profiles)
{
    struct ps_error err = {0};
    struct ps_layout_options opts = {.profiles = profiles};
    for (int m = 0; m < MEMBERS; m++)
        unlink(s->path[m]);
    shim = (struct shim){.mode = SHIM_PASS};
    if (fixture_layout(&s->f, s->paths, MEMBERS, &opts, &err) != 0)
        fail_msg("%s: %s", err.where, err.text);
}

static struct ps_volume *must_open(struct scene *s)
{
    struct ps_volume *v = NULL;
    struct ps_error err = {0};
    if (ps_volume_open(&v, s->paths, 1, &err) != 0)
        fail_msg("%s: %s", err.where, err.text);
    return v;
}

static uint8_t *new_half(void)
{
    uint8_t *half = calloc(1, PS_RECORD_HALF_BYTES);
    ps_record_init(half, uuid, 1);
    assert_true(ps_record_valid(half, uuid));
    return half;
}

static void entries(void **state)
{
    uint8_t *half = new_half();
    uint32_t bytes;
    (void)state;
    assert_null(ps_record_find(half, "a", &bytes));
    assert_int_equal(ps_record_set(half, "a", "12345", 5, 2), 0);
    assert_int_equal(ps_record_set(half, "b", "", 0, 3), 0);
    assert_int_equal(ps_record_set(half, "c", "0123456789", 10, 4), 0);
    assert_true(ps_record_valid(half, uuid));
    assert_false(ps_record_valid(half, other_uuid));
    assert_memory_equal(ps_record_find(half, "a", &bytes), "12345", 5);
    assert_int_equal(bytes, 5);
    assert_non_null(ps_record_find(half, "b", &bytes));
    assert_int_equal(bytes, 0);
    /* Longer, shorter: the others stay. */
    assert_int_equal(ps_record_set(half, "a", "abcdefghijklmnopqrstuvwxyz", 26, 5), 0);
    assert_int_equal(ps_record_set(half, "c", "x", 1, 6), 0);
    assert_true(ps_record_valid(half, uuid));
    assert_memory_equal(ps_record_find(half, "a", &bytes), "abcdefghijklmnopqrstuvwxyz", 26);
    assert_int_equal(bytes, 26);
    assert_memory_equal(ps_record_find(half, "c", &bytes), "x", 1);
    assert_int_equal(bytes, 1);
    assert_non_null(ps_record_find(half, "b", &bytes));
    for (size_t at = 0; at < 256; at++) {
        half[at] ^= 1;
        assert_false(ps_record_valid(half, uuid));
        half[at] ^= 1;
    }
    free(half);
}

static void no_room(void **state)
{
    uint8_t *half = new_half(), *before = malloc(PS_RECORD_HALF_BYTES);
    uint8_t *data = calloc(1, PS_RECORD_HALF_BYTES);
    uint32_t most = PS_RECORD_HALF_BYTES - sizeof(struct ps_disk_record) - 40, bytes;
    (void)state;
    memset(data, 7, PS_RECORD_HALF_BYTES);
    assert_int_equal(ps_record_set(half, "a", data, most, 2), 0);
    assert_true(ps_record_valid(half, uuid));
    memcpy(before, half, PS_RECORD_HALF_BYTES);
    assert_int_equal(ps_record_set(half, "b", data, 0, 3), -ENOSPC);
    assert_int_equal(ps_record_set(half, "a", data, most + 1, 3), -ENOSPC);
    assert_int_equal(ps_record_set(half, "b", data, UINT32_MAX, 3), -ENOSPC);
    assert_memory_equal(half, before, PS_RECORD_HALF_BYTES);
    assert_int_equal(ps_record_set(half, "a", data, most - 48, 3), 0);
    assert_int_equal(ps_record_set(half, "b", data, 8, 4), 0);
    assert_true(ps_record_valid(half, uuid));
    assert_non_null(ps_record_find(half, "a", &bytes));
    assert_int_equal(bytes, most - 48);
    free(data);
    free(before);
    free(half);
}

static void layout_records_its_profile(void **state)
{
    struct scene *s = *state;
    must_lay(s, NULL);
    struct ps_volume *v = must_open(s);
    assert_null(ps_volume_profile(v, 0));
    ps_volume_close(&v);
    must_lay(s, s->profiles);
    v = must_open(s);
    for (int m = 0; m < MEMBERS; m++)
        assert_memory_equal(ps_volume_profile(v, m), &s->profiles[m], sizeof(s->profiles[m]));
    assert_int_equal(fixture_verify(v), 0);
    ps_volume_close(&v);
}

static void save(void **state)
{
    struct scene *s = *state;
    struct ps_error err = {0};
    must_lay(s, NULL);
    struct ps_volume *v = must_open(s), *second = must_open(s);
    /* Not while somebody else has it open; the own shared lock is as before. */
    assert_int_equal(ps_volume_profile_save(v, s->profiles, &err), -PS_ERR_IN_USE);
    ps_volume_close(&second);
    int fd = open(s->path[1], O_RDONLY);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), -1);
    assert_int_equal(flock(fd, LOCK_SH | LOCK_NB), 0);
    close(fd);
    assert_null(ps_volume_profile(v, 0));
    for (uint64_t i = 0; i < 5; i++) {
        s->profiles[0].latency_ns = 1000 + i;
        if (ps_volume_profile_save(v, s->profiles, &err) != 0)
            fail_msg("%s: %s", err.where, err.text);
        assert_int_equal(ps_volume_profile(v, 0)->latency_ns, 1000 + i);
        second = must_open(s); /* shared again */
        assert_int_equal(ps_volume_profile(second, 0)->latency_ns, 1000 + i);
        assert_int_equal(fixture_verify(second), 0);
        ps_volume_close(&second);
    }
    /* Another entry is kept. */
    assert_int_equal(ps_record_put(v, "other", "data", 4, &err), 0);
    assert_int_equal(ps_volume_profile_save(v, s->profiles, &err), 0);
    uint8_t *half = malloc(PS_RECORD_HALF_BYTES);
    uint32_t bytes;
    assert_true(ps_record_read(v, half));
    assert_memory_equal(ps_record_find(half, "other", &bytes), "data", 4);
    /* One member's halves both damaged: the other's serve, and the next change repairs them. */
    struct ps_disk_superblock sb = v->members[0].sb;
    for (uint64_t i = 0; i < 2; i++)
        file_patch(s->path[0], sb.record_offset + i * PS_RECORD_HALF_BYTES + 100, "damage", 6);
    ps_volume_close(&v);
    v = must_open(s);
    assert_non_null(ps_volume_profile(v, 1));
    assert_int_equal(fixture_verify(v), 2);
    assert_int_equal(ps_record_put(v, "x", "y", 1, &err), 0);
    assert_int_equal(ps_record_put(v, "x", "z", 1, &err), 0);
    assert_int_equal(fixture_verify(v), 0);
    assert_true(ps_record_read(v, half));
    assert_memory_equal(ps_record_find(half, "x", &bytes), "z", 1);
    uint8_t *large = calloc(1, PS_RECORD_HALF_BYTES);
    assert_int_equal(ps_record_put(v, "large", large, PS_RECORD_HALF_BYTES - 200, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "no room"));
    free(large);
    free(half);
    ps_volume_close(&v);
}

/* Power cut or killed at every write and flush: what was there before, or what was to be. */
static void torn(void **state)
{
    struct scene *s = *state;
    static const enum shim_mode modes[] = {SHIM_POWER, SHIM_KILL, SHIM_POWER, SHIM_POWER};
    uint64_t latency_ns = 1;
    bool old = false, new = false;
    must_lay(s, s->profiles);
    s->profiles[0].latency_ns = latency_ns;
    struct ps_volume *v = must_open(s);
    assert_int_equal(ps_volume_profile_save(v, s->profiles, NULL), 0);
    ps_volume_close(&v);
    for (uint64_t i = 0; i < 40; i++) {
        fflush(NULL);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            v = must_open(s);
            s->profiles[0].latency_ns = latency_ns + 1;
            shim = (struct shim){.mode = modes[i % 4], .call = 1 + i / 8, .seed = i};
            _exit(ps_volume_profile_save(v, s->profiles, NULL) == 0 ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 1);
        v = must_open(s);
        uint64_t got = ps_volume_profile(v, 0)->latency_ns;
        assert_true(got == latency_ns || got == latency_ns + 1);
        old |= got == latency_ns;
        new |= got != latency_ns;
        latency_ns = got;
        ps_volume_close(&v);
    }
    assert_true(old && new);
    v = must_open(s);
    shim = (struct shim){.mode = SHIM_PASS};
    for (int i = 0; i < 2; i++) /* both halves anew */
        assert_int_equal(ps_volume_profile_save(v, s->profiles, NULL), 0);
    assert_int_equal(fixture_verify(v), 0);
    ps_volume_close(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries),
        cmocka_unit_test(no_room),
        cmocka_unit_test(layout_records_its_profile),
        cmocka_unit_test(save),
        cmocka_unit_test(torn),
    };
    return cmocka_run_group_tests(tests, scene_make, scene_free);
}
