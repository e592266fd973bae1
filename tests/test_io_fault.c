/*
 * The fault engine: every kind of fault, at the request and on the member it was given for, and at
 * no other; delays that are neither short nor lost; and closing whatever hangs.
 */
#include "util.h"

#include <pthread.h>

#include "core/log.h"
#include "core/util.h"
#include "nvme/io.h"

#define MEMBER_COUNT 2
#define DEPTH 4
#define CAPACITY (MEMBER_COUNT * DEPTH)
#define READ_BYTES 16384u
#define FILE_BYTES (1u << 20)
#define BEFORE 0xEE /* in a buffer that nobody has written to */
#define MS UINT64_C(1000000)

static struct {
    char dir[256];
    char names[MEMBER_COUNT][320];
    int fds[MEMBER_COUNT];
    struct ps_region region;
    struct ps_io *io;
} bed;

static uint8_t byte_at(uint32_t member, uint64_t offset)
{
    return (uint8_t)((offset >> 12) * 31 + offset * 7 + member);
}

static int open_engine(const char *faults, const char *engine, struct ps_error *err)
{
    static const char *names[MEMBER_COUNT];
    char name[256];
    struct ps_io_config config = {
        .engine = name,
        .fds = bed.fds,
        .names = names,
        .member_count = MEMBER_COUNT,
        .depth = DEPTH,
        .buffers = &bed.region,
        .buffer_count = 1,
    };

    for (int i = 0; i < MEMBER_COUNT; i++)
        names[i] = bed.names[i];
    snprintf(name, sizeof(name), "fault:%s:%s", faults, engine);
    return ps_io_open(&bed.io, &config, err);
}

static void need_engine(const char *faults, const char *engine)
{
    struct ps_error err = {0};
    if (open_engine(faults, engine, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
}

static uint8_t *buffer(uint64_t tag)
{
    return (uint8_t *)bed.region.base + tag * READ_BYTES;
}

static void submit(uint64_t tag, uint32_t member)
{
    struct ps_io_request request = {tag, tag * READ_BYTES, buffer(tag), READ_BYTES, member};

    memset(buffer(tag), BEFORE, READ_BYTES);
    assert_int_equal(bed.io->ops->submit(bed.io, &request, 1), 1);
}

static struct ps_io_completion reap_one(void)
{
    struct ps_io_completion got = {0};
    assert_int_equal(bed.io->ops->reap(bed.io, &got, 1, PS_IO_WAIT_FOREVER), 1);
    return got;
}

static int32_t read_one(uint64_t tag, uint32_t member)
{
    submit(tag, member);
    struct ps_io_completion got = reap_one();
    assert_int_equal(got.tag, tag);
    return got.result;
}

/* How many of the first `bytes` bytes of a read are not the member's. */
static uint32_t wrong_bytes(uint64_t tag, uint32_t member, uint32_t bytes)
{
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < bytes; i++)
        wrong += buffer(tag)[i] != byte_at(member, tag * READ_BYTES + i);
    return wrong;
}

static bool is_untouched(uint64_t tag)
{
    for (uint32_t i = 0; i < READ_BYTES; i++) {
        if (buffer(tag)[i] != BEFORE)
            return false;
    }
    return true;
}

/* Whether a read went as this fault makes it go ("": none). */
static bool went(const char *kind, uint64_t tag, uint32_t member, int32_t result)
{
    if (strcmp(kind, "error") == 0)
        return result == -EIO;
    if (strcmp(kind, "gone") == 0)
        return result == -ENODEV;
    if (strcmp(kind, "empty") == 0)
        return result == 0 && is_untouched(tag);
    if (strcmp(kind, "short") == 0)
        return result == READ_BYTES / 2 && wrong_bytes(tag, member, READ_BYTES / 2) == 0 &&
               buffer(tag)[READ_BYTES / 2] == BEFORE;
    if (strcmp(kind, "corrupt") == 0)
        return result == READ_BYTES && wrong_bytes(tag, member, READ_BYTES) == 1;
    if (strcmp(kind, "hang=2") == 0)
        return result == READ_BYTES && wrong_bytes(tag, member, READ_BYTES) > READ_BYTES / 2;
    return result == READ_BYTES && wrong_bytes(tag, member, READ_BYTES) == 0;
}

static const char *const kinds[] = {"error", "gone", "empty", "short", "corrupt", "hang=2"};

/* Once at the Nth of six requests, for N = 1, 2, 3 ... until nothing is struck. */
static void test_every_n(void **state)
{
    const char *engine = *state;
    char faults[64];

    for (size_t k = 0; k < PS_ARRAY_LEN(kinds); k++) {
        uint64_t struck = 1;
        for (uint64_t n = 1; struck > 0; n++) {
            snprintf(faults, sizeof(faults), "%s@%llu", kinds[k], (unsigned long long)n);
            need_engine(faults, engine);
            assert_string_equal(bed.io->ops->id, "fault");
            for (uint64_t i = 1; i <= 6; i++) {
                uint32_t member = i % MEMBER_COUNT;
                int32_t result = read_one(i, member);
                bool same = member == n % MEMBER_COUNT;
                bool hit = i == n || (i > n && same && strcmp(kinds[k], "gone") == 0);
                if (!went(hit ? kinds[k] : "", i, member, result))
                    fail_msg("%s: request %d returned %d", faults, (int)i, result);
            }
            struck = ps_io_fault_count(bed.io);
            assert_int_equal(struck > 0, n <= 6);
            ps_io_close(&bed.io);
        }
    }
}

/* From then on, and counted on one member only. */
static void test_onwards(void **state)
{
    const char *engine = *state;

    need_engine("error@3+,empty@2/0", engine);
    /* Members 0 0 0 1 1: the second rule strikes at the second, the first one from the third on. */
    static const uint32_t members[] = {0, 0, 0, 1, 1};
    static const char *const expected[] = {"", "empty", "error", "error", "error"};
    for (uint64_t i = 0; i < PS_ARRAY_LEN(members); i++)
        assert_true(went(expected[i], i, members[i], read_one(i, members[i])));
    assert_int_equal(ps_io_fault_count(bed.io), 4);
    ps_io_close(&bed.io);

    need_engine("error@2+/1", engine);
    for (uint64_t i = 0; i < 6; i++)
        assert_true(went(i == 3 || i == 5 ? "error" : "", i, i % 2, read_one(i, i % 2)));
    ps_io_close(&bed.io);
}

/* A read that hangs for a time leaves its buffer alone until the moment when it comes back. */
static void test_hang_for_a_time(void **state)
{
    struct ps_io_completion got[CAPACITY];

    need_engine("hang=60@1", *state);
    uint64_t begin_ns = ps_now_ns();
    submit(0, 0);
    submit(1, 1);
    assert_int_equal(bed.io->ops->reap(bed.io, got, CAPACITY, PS_IO_WAIT_FOREVER), 1);
    assert_int_equal(got[0].tag, 1);
    assert_true(went("", 1, 1, got[0].result));
    int n = bed.io->ops->reap(bed.io, got, CAPACITY, 5 * MS);
    assert_true(n == 0 || ps_now_ns() - begin_ns >= 60 * MS);
    if (n == 0) {
        assert_true(is_untouched(0));
        assert_int_equal(bed.io->ops->reap(bed.io, got, CAPACITY, PS_IO_WAIT_FOREVER), 1);
    }
    assert_true(ps_now_ns() - begin_ns >= 60 * MS);
    assert_int_equal(got[0].tag, 0);
    assert_true(went("hang=2", 0, 0, got[0].result));
    assert_int_equal(bed.io->ops->reap(bed.io, got, CAPACITY, PS_IO_WAIT_FOREVER), 0);
    ps_io_close(&bed.io);
}

/* Slow reads come late and right, with others overtaking them, and are waited for together with
 * reads that are with the other engine. */
static void test_slow(void **state)
{
    need_engine("slow=40@1,slow=20@2", *state);
    uint64_t begin_ns = ps_now_ns();
    for (uint64_t i = 0; i < 4; i++)
        submit(i, i % 2);
    bool seen[4] = {false};
    for (int i = 0; i < 4; i++) {
        struct ps_io_completion got = reap_one();
        uint64_t late_ns = got.tag == 0 ? 40 * MS : got.tag == 1 ? 20 * MS : 0;
        assert_false(seen[got.tag]);
        seen[got.tag] = true;
        assert_true(went("", got.tag, got.tag % 2, got.result));
        assert_true(ps_now_ns() - begin_ns >= late_ns);
    }
    assert_int_equal(ps_io_fault_count(bed.io), 2);
    ps_io_close(&bed.io);
}

/* Reads at a rate come back right, each when those before it have had their time, and for each
 * member apart. In whatever order those that are due come. */
static void test_rate(void **state)
{
    bool seen[4] = {false};

    need_engine("rate=1@1+/1", *state);
    uint64_t begin_ns = ps_now_ns(), each_ns = READ_BYTES * 1000;
    for (uint64_t i = 0; i < 4; i++)
        submit(i, i == 0 ? 0 : 1);
    for (uint64_t i = 0; i < 4; i++) {
        struct ps_io_completion got = reap_one();
        assert_true(went("", got.tag, got.tag == 0 ? 0 : 1, got.result));
        assert_false(seen[got.tag]);
        seen[got.tag] = true;
        assert_true(ps_now_ns() - begin_ns >= got.tag * each_ns);
    }
    assert_int_equal(ps_io_fault_count(bed.io), 3);
    ps_io_close(&bed.io);
}

/* Reads that hang for ever hold their places, end no wait, and do not keep the engine open. */
static void test_hang(void **state)
{
    struct ps_io_request one_more = {99, 0, buffer(CAPACITY), READ_BYTES, 0};
    struct ps_io_completion got[CAPACITY];

    need_engine("hang@3+", *state);
    for (uint64_t i = 0; i < CAPACITY; i++)
        submit(i, i % 2);
    assert_int_equal(bed.io->ops->submit(bed.io, &one_more, 1), 0);
    for (int n = 0; n < 2;) {
        int k = bed.io->ops->reap(bed.io, got, CAPACITY, PS_IO_WAIT_FOREVER);
        for (int i = 0; i < k; i++, n++)
            assert_true(went("", got[i].tag, got[i].tag % 2, got[i].result));
        assert_true(k > 0 && n <= 2);
    }
    uint64_t begin_ns = ps_now_ns();
    assert_int_equal(bed.io->ops->reap(bed.io, got, CAPACITY, 0), 0);
    assert_int_equal(bed.io->ops->reap(bed.io, got, CAPACITY, 20 * MS), 0);
    assert_true(ps_now_ns() - begin_ns >= 20 * MS);
    assert_int_equal(bed.io->ops->submit(bed.io, &one_more, 1), 1);
    assert_int_equal(ps_io_close(&bed.io), 0);
    for (uint64_t i = 2; i < CAPACITY; i++)
        assert_true(is_untouched(i));
}

static void *wake_later(void *arg)
{
    (void)arg;
    usleep(5000);
    bed.io->ops->wake(bed.io);
    return NULL;
}

/* A wait for what hangs, alone or beside reads that are slow, ends when another thread says so. */
static void test_wake(void **state)
{
    struct ps_io_completion got;
    pthread_t thread;

    need_engine("hang@1,slow=60000@2", *state);
    for (uint64_t i = 0; i < 2; i++) {
        submit(i, 0);
        assert_int_equal(pthread_create(&thread, NULL, wake_later, NULL), 0);
        assert_int_equal(bed.io->ops->reap(bed.io, &got, 1, PS_IO_WAIT_FOREVER), 0);
        pthread_join(thread, NULL);
    }
    ps_io_close(&bed.io);
}

static void test_no_such_member(void **state)
{
    struct ps_error err = {0};

    assert_int_equal(open_engine("error@1/2", *state, &err), -PS_ERR_ARGUMENT);
    assert_null(bed.io);
    assert_non_null(strstr(err.text, "member 2"));
}

static void set_up(void)
{
    uint8_t *data = malloc(FILE_BYTES);

    ps_test_dir_make(bed.dir, sizeof(bed.dir));
    for (uint32_t m = 0; m < MEMBER_COUNT; m++) {
        char name[16];
        for (uint32_t i = 0; i < FILE_BYTES; i++)
            data[i] = byte_at(m, i);
        snprintf(name, sizeof(name), "member.%u", m);
        ps_test_file_write(bed.dir, name, data, FILE_BYTES);
        snprintf(bed.names[m], sizeof(bed.names[m]), "%s/%s", bed.dir, name);
        bed.fds[m] = open(bed.names[m], O_RDONLY | O_CLOEXEC);
        assert_true(bed.fds[m] >= 0);
    }
    free(data);
    assert_int_equal(ps_region_map(&bed.region, 2 << 20, -1, NULL), 0);
}

int main(void)
{
    static void (*const run[])(void **) = {test_every_n, test_onwards,       test_hang_for_a_time,
                                           test_slow,    test_rate,          test_hang,
                                           test_wake,    test_no_such_member};
    static const char *const names[] = {"every n", "onwards", "hang for a time", "slow", "rate",
                                        "hang",    "wake",    "no such member"};
    static const char *const engines[] = {"uring", "pread"};
    struct CMUnitTest tests[PS_ARRAY_LEN(run) * PS_ARRAY_LEN(engines)];
    char titles[PS_ARRAY_LEN(tests)][48];
    size_t n = 0;

    for (size_t e = 0; e < PS_ARRAY_LEN(engines); e++) {
        for (size_t i = 0; i < PS_ARRAY_LEN(run); i++, n++) {
            snprintf(titles[n], sizeof(titles[n]), "%s, %s", engines[e], names[i]);
            tests[n] =
                (struct CMUnitTest){titles[n], run[i], NULL, NULL, (void *)(uintptr_t)engines[e]};
        }
    }
    set_up();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    ps_region_unmap(&bed.region);
    for (int m = 0; m < MEMBER_COUNT; m++)
        close(bed.fds[m]);
    ps_test_dir_remove(bed.dir);
    return rc;
}
