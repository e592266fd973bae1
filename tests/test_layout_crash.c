/*
 * A layout that is killed, loses power, fails or is stopped at any point: nothing opens what it
 * left, unless it is whole; a resume completes it to the bytes of an undisturbed layout; an old
 * volume underneath is never read as valid when it is not.
 */
#include <signal.h>
#include <sys/wait.h>
#include <xxhash.h>

#include "core/log.h"
#include "core/util.h"
#include "crash_shim.h"
#include "nvme/layout_internal.h"
#include "nvme/raw_io.h"
#include "nvme/superblock.h"
#include "util.h"
#include "volume_fixture.h"

#define MEMBERS 2
#define FLUSH_BYTES (192u << 10)

/* What a layout of plain files is planned with. */
static const struct ps_plan_options plain = {
    .member_count = MEMBERS, .align = 4096, .copies = 1, .piece_bytes_min = PS_PIECE_BYTES_MIN};

struct scene {
    char dir[256];
    char path[MEMBERS][300];
    const char *paths[MEMBERS];
    struct fixture f, old;
    char old_identity[64];
    const char *destroy[1];
    uint64_t whole[MEMBERS]; /* hash of each member after an undisturbed layout */
    char uuid[37];
    uint64_t calls, flushes; /* of an undisturbed layout; calls are writes and flushes */
    uint32_t copies;
    const struct ps_member_profile *profiles;
};

static uint64_t hash_file(const char *path)
{
    size_t bytes;
    uint8_t *data = file_read(path, &bytes);
    uint64_t hash = XXH3_64bits(data, bytes);
    free(data);
    return hash;
}

static void remove_members(const struct scene *s)
{
    for (int m = 0; m < MEMBERS; m++)
        unlink(s->path[m]);
}

/* Lays the volume out in this process with the given options. */
static int lay(struct scene *s, struct fixture *f, bool resume, struct ps_error *err)
{
    struct ps_layout_options opts = {.resume = resume,
                                     .copies = s->copies,
                                     .profiles = s->profiles,
                                     .destroy = s->destroy,
                                     .destroy_count = s->destroy[0] != NULL ? 1 : 0};
    memset(err, 0, sizeof(*err));
    return fixture_layout(f, s->paths, MEMBERS, &opts, err);
}

static void must_lay(struct scene *s, struct fixture *f, bool resume)
{
    struct ps_error err;
    int rc = lay(s, f, resume, &err);
    if (rc != 0)
        fail_msg("layout: %d %s: %s", rc, err.where, err.text);
}

/* Lays the volume out undisturbed, and remembers what that gives. */
static void measure(struct scene *s)
{
    struct ps_error err;
    struct ps_volume *v = NULL;
    remove_members(s);
    shim = (struct shim){.mode = SHIM_PASS};
    must_lay(s, &s->f, false);
    s->calls = shim.count;
    s->flushes = shim.flush_count;
    for (int m = 0; m < MEMBERS; m++)
        s->whole[m] = hash_file(s->path[m]);
    assert_int_equal(ps_volume_open(&v, s->paths, 1, &err), 0);
    snprintf(s->uuid, sizeof(s->uuid), "%s", ps_volume_uuid(v));
    ps_volume_close(&v);
    remove_members(s);
}

static int scene_make(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    struct ps_error err;
    struct ps_volume *v = NULL;
    /* In memory: nothing here needs a disk, and thousands of small volumes are written. */
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0);
    fixture_paths(s->dir, s->path, s->paths, MEMBERS);
    fixture_init(&s->f, 1, &fixture_small);
    fixture_init(&s->old, 2, &fixture_former);
    ps_layout_set_flush_bytes(FLUSH_BYTES);
    must_lay(s, &s->old, false);
    assert_int_equal(ps_volume_open(&v, s->paths, 1, &err), 0);
    snprintf(s->old_identity, sizeof(s->old_identity), "penstock:%s", ps_volume_uuid(v));
    ps_volume_close(&v);
    measure(s);
    *state = s;
    return 0;
}

static int scene_free(void **state)
{
    struct scene *s = *state;
    fixture_fini(&s->f);
    fixture_fini(&s->old);
    ps_test_dir_remove(s->dir);
    free(s);
    return 0;
}

/* Runs a layout in a child under the shim and returns its wait status. */
static int run_child(struct scene *s, const struct shim *how, bool resume)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct ps_error err;
        shim = *how;
        _exit(lay(s, &s->f, resume, &err) == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

/* Whatever opens must be whole: the new volume, or the old one before anything of it was touched.
 */
static void check_opens_only_whole(struct scene *s, bool *opened)
{
    const struct fixture *checked = NULL;
    *opened = false;
    for (int m = 0; m < MEMBERS; m++) {
        struct ps_error err = {0};
        struct ps_volume *v = NULL;
        int rc = ps_volume_open(&v, &s->paths[m], 1, &err);
        if (rc < 0) {
            assert_true(err.text[0] != 0);
            continue;
        }
        *opened = true;
        struct fixture *f = strcmp(ps_volume_uuid(v), s->uuid) == 0 ? &s->f : &s->old;
        if (checked != f) {
            assert_int_equal(fixture_verify_slices(v), 0);
            fixture_check(f, v);
        }
        checked = f;
        ps_volume_close(&v);
    }
}

static void check_same_bytes(struct scene *s, uint64_t point)
{
    for (int m = 0; m < MEMBERS; m++) {
        if (hash_file(s->path[m]) != s->whole[m])
            fail_msg("member %d differs after a crash at call %llu", m, (unsigned long long)point);
    }
}

static void crash_and_resume(struct scene *s, const struct shim *how, bool with_old)
{
    bool opened;
    shim = (struct shim){.mode = SHIM_PASS};
    remove_members(s);
    s->destroy[0] = NULL;
    if (with_old) {
        must_lay(s, &s->old, false);
        s->destroy[0] = s->old_identity;
    }
    int status = run_child(s, how, false);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    check_opens_only_whole(s, &opened);
    /* A second crash, during the resume, at another point. */
    struct shim again = *how;
    if (how->flush != 0)
        again.flush = 1 + how->flush * 7 % s->flushes;
    else
        again.call = 1 + how->call * 7 % (s->calls / 2);
    status = run_child(s, &again, true);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    check_opens_only_whole(s, &opened);
    shim = (struct shim){.mode = SHIM_PASS};
    must_lay(s, &s->f, true);
    check_same_bytes(s, how->call);
    check_opens_only_whole(s, &opened);
    assert_true(opened);
}

static void killed_anywhere(void **state)
{
    struct scene *s = *state;
    uint64_t stride = s->calls / 16 + 1;
    for (uint64_t call = 1; call <= s->calls; call += call < 16 ? 1 : stride) {
        struct shim how = {.mode = SHIM_KILL, .call = call};
        crash_and_resume(s, &how, call % 2 == 0);
    }
    /* And every step of the ending. */
    for (uint64_t call = s->calls - 16; call <= s->calls; call++) {
        struct shim how = {.mode = SHIM_KILL, .call = call};
        crash_and_resume(s, &how, false);
    }
}

/* At every flush, with what was not flushed applied, lost and torn in several ways. */
static void power_cut_at_every_flush(void **state)
{
    struct scene *s = *state;
    for (uint64_t flush = 1; flush <= s->flushes; flush++) {
        for (uint64_t seed = 0; seed < 2; seed++) {
            struct shim how = {.mode = SHIM_POWER, .flush = flush, .seed = flush * 77 + seed};
            crash_and_resume(s, &how, (flush + seed) % 2 == 0);
        }
    }
}

/* The same with a second copy of everything, and members of different weight. */
static void power_cut_of_copies(void **state)
{
    struct scene *s = *state;
    static const struct ps_member_profile profiles[MEMBERS] = {{.bytes_per_s = 3000},
                                                               {.bytes_per_s = 1000}};
    struct scene copies = *s;
    copies.copies = 2;
    copies.profiles = profiles;
    copies.destroy[0] = NULL;
    for (int m = 0; m < MEMBERS; m++)
        copies.paths[m] = copies.path[m];
    measure(&copies);
    for (uint64_t flush = 1; flush <= copies.flushes; flush += 3) {
        struct shim how = {.mode = SHIM_POWER, .flush = flush, .seed = flush * 31};
        crash_and_resume(&copies, &how, false);
    }
    remove_members(s);
}

static void killed_at_random_times(void **state)
{
    struct scene *s = *state;
    s->destroy[0] = NULL;
    shim = (struct shim){.mode = SHIM_PASS};
    srandom(12345);
    for (int i = 0; i < 10; i++) {
        bool opened;
        remove_members(s);
        fflush(NULL);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct ps_error err;
            _exit(lay(s, &s->f, false, &err) == 0 ? 0 : 1);
        }
        usleep((useconds_t)(random() % 30000));
        kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        check_opens_only_whole(s, &opened);
        if (opened)
            assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        must_lay(s, &s->f, true);
        check_same_bytes(s, (uint64_t)i);
    }
}

/* Every write and flush fails once, and from there on: a clean error, and a resume that completes.
 */
static void failing_calls(void **state)
{
    struct scene *s = *state;
    static const int errors[] = {ENOSPC, EIO};
    for (uint64_t call = 1; call <= s->calls; call += call < 12 ? 1 : 9) {
        struct ps_error err;
        int code = errors[call % 2];
        shim = (struct shim){.mode = SHIM_PASS};
        remove_members(s);
        s->destroy[0] = NULL;
        shim = (struct shim){.mode = call % 3 == 0 ? SHIM_FAIL_EVER : SHIM_FAIL_ONCE,
                             .call = call,
                             .fail_errno = code};
        int rc = lay(s, &s->f, false, &err);
        shim = (struct shim){.mode = SHIM_PASS};
        if (rc == 0) /* the folder's own flush is allowed to fail */
            continue;
        assert_int_equal(rc, -code);
        assert_int_equal(err.code, rc);
        assert_true(err.text[0] != 0);
        bool opened;
        check_opens_only_whole(s, &opened);
        must_lay(s, &s->f, true);
        check_same_bytes(s, call);
    }
}

/* Nothing durable was begun: a file that the layout created itself is taken away again. */
static void full_disk_at_once(void **state)
{
    struct scene *s = *state;
    struct ps_error err;
    s->destroy[0] = NULL;
    shim = (struct shim){.mode = SHIM_PASS};
    remove_members(s);
    must_lay(s, &s->f, false); /* to count the calls before the first space is taken */
    remove_members(s);
    for (uint64_t call = 1; call < 9; call++) {
        shim = (struct shim){.mode = SHIM_FAIL_ONCE, .call = call, .fail_errno = ENOSPC};
        int rc = lay(s, &s->f, false, &err);
        shim = (struct shim){.mode = SHIM_PASS};
        if (rc == 0) {
            remove_members(s);
            continue;
        }
        assert_int_equal(rc, -ENOSPC);
        assert_false(file_exists(s->path[0]));
        assert_false(file_exists(s->path[1]));
    }
}

static void source_changed(void **state)
{
    struct scene *s = *state;
    struct ps_error err;
    struct shim how = {.mode = SHIM_KILL, .call = s->calls / 2};
    shim = (struct shim){.mode = SHIM_PASS};
    remove_members(s);
    s->destroy[0] = NULL;
    run_child(s, &how, false);

    assert_int_equal(lay(s, &s->f, false, &err), -PS_ERR_INCOMPLETE);
    assert_non_null(strstr(err.text, "--resume"));
    assert_non_null(strstr(err.text, s->uuid));

    s->f.spec.source_fingerprint[1] ^= 1;
    assert_int_equal(lay(s, &s->f, true, &err), -PS_ERR_SOURCE_CHANGED);
    assert_non_null(strstr(err.text, "a made-up model"));
    s->f.spec.source_fingerprint[1] ^= 1;

    s->f.blobs[0].data = "{\"a\":2}";
    assert_int_equal(lay(s, &s->f, true, &err), -PS_ERR_SOURCE_CHANGED);
    s->f.blobs[0].data = "{\"a\":1}";

    const char *swapped[] = {s->paths[1], s->paths[0]};
    struct ps_layout_options opts = {.resume = true};
    assert_int_equal(fixture_layout(&s->f, swapped, MEMBERS, &opts, &err), -PS_ERR_MEMBER);

    must_lay(s, &s->f, true);
    check_same_bytes(s, 0);
    must_lay(s, &s->f, true); /* nothing left to do */
    check_same_bytes(s, 0);
}

static char logged[1024];

static void remember_log(void *ctx, enum ps_log_level level, const char *text)
{
    (void)ctx;
    if (level == PS_LOG_WARN)
        snprintf(logged, sizeof(logged), "%s", text);
}

/* Checksums recorded so far, damaged on one member (the other's serve), then on both (start over).
 */
static void damaged_checksums(void **state)
{
    struct scene *s = *state;
    for (int bad = 1; bad <= MEMBERS; bad++) {
        struct shim how = {.mode = SHIM_KILL, .call = s->calls / 2};
        shim = (struct shim){.mode = SHIM_PASS};
        remove_members(s);
        s->destroy[0] = NULL;
        run_child(s, &how, false);
        struct ps_plan plan;
        assert_int_equal(ps_plan_make(&plan, &s->f.spec, &plain, NULL), 0);
        for (int m = 0; m < bad; m++)
            file_patch(s->path[m], plan.map_offset + plan.header->slices_offset, "x", 1);
        ps_plan_fini(&plan);
        logged[0] = 0;
        ps_log_set(remember_log, NULL);
        must_lay(s, &s->f, true);
        ps_log_set(NULL, NULL);
        assert_true((strstr(logged, "starting over") != NULL) == (bad == MEMBERS));
        check_same_bytes(s, 0);
    }
}

/* The tail under the mark is read again: what was lost there in spite of a flush is redone. */
static void damaged_tail(void **state)
{
    struct scene *s = *state;
    struct shim how = {.mode = SHIM_KILL, .call = s->calls * 2 / 3};
    shim = (struct shim){.mode = SHIM_PASS};
    remove_members(s);
    s->destroy[0] = NULL;
    run_child(s, &how, false);
    struct ps_superblock_pair pair;
    int fd = open(s->path[1], O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(ps_superblock_read(fd, s->path[1], &pair, NULL), 0);
    uint64_t watermark = ps_min_u64(pair.copy[0].watermark, pair.copy[1].watermark);
    /* The last piece under the mark that lies on this member, by the plan. */
    struct ps_plan plan;
    assert_int_equal(ps_plan_make(&plan, &s->f.spec, &plain, NULL), 0);
    uint64_t piece = plan.slices[watermark].first_piece;
    while (plan.pieces[--piece].member != 1)
        ;
    uint64_t at = plan.pieces[piece].offset_bytes;
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
    ps_plan_fini(&plan);
    logged[0] = 0;
    ps_log_set(remember_log, NULL);
    must_lay(s, &s->f, true);
    ps_log_set(NULL, NULL);
    assert_non_null(strstr(logged, "written again"));
    check_same_bytes(s, 0);
}

static volatile int stop_now;

static void stop_at_half(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    uint64_t *last = ctx;
    assert_true(done_bytes > *last && done_bytes <= total_bytes);
    *last = done_bytes;
    if (done_bytes > total_bytes / 2)
        stop_now = 1;
}

static void stopped_by_the_user(void **state)
{
    struct scene *s = *state;
    struct ps_error err = {0};
    uint64_t last = 0;
    shim = (struct shim){.mode = SHIM_PASS};
    remove_members(s);
    stop_now = 0;
    struct ps_layout_options opts = {
        .progress = stop_at_half, .progress_ctx = &last, .stop = &stop_now};
    assert_int_equal(fixture_layout(&s->f, s->paths, MEMBERS, &opts, &err), -EINTR);
    assert_non_null(strstr(err.text, "--resume"));
    bool opened;
    check_opens_only_whole(s, &opened);
    assert_false(opened);
    stop_now = 0;
    must_lay(s, &s->f, true);
    check_same_bytes(s, 0);
}

static void failing_source(void **state)
{
    struct scene *s = *state;
    struct ps_error err;
    shim = (struct shim){.mode = SHIM_PASS};
    remove_members(s);
    s->f.fail_object = 6;
    assert_int_equal(lay(s, &s->f, false, &err), -PS_ERR_TRUNCATED);
    assert_string_equal(err.text, "the source ends here");
    s->f.fail_object = -1;
    must_lay(s, &s->f, true);
    check_same_bytes(s, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_anywhere),     cmocka_unit_test(power_cut_at_every_flush),
        cmocka_unit_test(power_cut_of_copies), cmocka_unit_test(killed_at_random_times),
        cmocka_unit_test(failing_calls),       cmocka_unit_test(full_disk_at_once),
        cmocka_unit_test(source_changed),      cmocka_unit_test(damaged_checksums),
        cmocka_unit_test(damaged_tail),        cmocka_unit_test(stopped_by_the_user),
        cmocka_unit_test(failing_source),
    };
    return cmocka_run_group_tests(tests, scene_make, scene_free);
}
