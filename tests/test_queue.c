/* What is known of a drive: its queue's bounds, its pace, its health. Time is made up here. */
#include "util.h"

#include "core/log.h"
#include "core/util.h"
#include "nvme/io.h"
#include "nvme/queue.h"
#include "nvme/scheduler.h"

#define SECOND UINT64_C(1000000000)
#define MB UINT64_C(1000000)

static char log_text[4096];

static void keep_log(void *ctx, enum ps_log_level level, const char *text)
{
    size_t at = strlen(log_text);
    (void)ctx;
    (void)level;
    snprintf(log_text + at, sizeof(log_text) - at, "%s\n", text);
}

static int forget_log(void **state)
{
    (void)state;
    log_text[0] = '\0';
    return 0;
}

static const struct ps_member_profile profile = {
    .bytes_per_s = 1000 * MB,
    .latency_ns = 1200000, /* 1 ms of it to move 1 MB */
    .request_bytes = 1000000,
    .depth = 8,
    .piece_bytes_min = 65536,
};

static void test_bounds(void **state)
{
    struct ps_queue d;
    (void)state;

    ps_queue_init(&d, "d", 0, NULL, 0, false);
    assert_int_equal(d.depth, PS_IO_DEPTH_DEFAULT);
    for (uint32_t i = 0; i < d.depth; i++) {
        assert_true(ps_queue_has_room(&d, PS_PART_BYTES_MAX));
        ps_queue_begin(&d, PS_PART_BYTES_MAX, i);
    }
    assert_false(ps_queue_has_room(&d, 4096));
    for (uint32_t i = 0; i < d.depth; i++)
        ps_queue_end(&d, PS_PART_BYTES_MAX);
    assert_int_equal(d.in_flight_bytes, 0);

    /* By bytes: one and a half times the knee, and always one read. */
    ps_queue_init(&d, "d", 0, &profile, 0, false);
    assert_int_equal(d.bytes_max, 12000000);
    assert_true(d.depth >= 12000000 / (256 << 10) - 20 && d.depth <= 32);
    assert_true(ps_queue_has_room(&d, 64 << 20));
    ps_queue_begin(&d, 11 * MB, 0);
    assert_true(ps_queue_has_room(&d, MB));
    assert_false(ps_queue_has_room(&d, 2 * MB));
    ps_queue_end(&d, 11 * MB);

    /* What was asked for counts, and engines can hold it twice. */
    assert_int_equal(ps_queue_depth(&profile, 3), 3);

    /* Where others can take over, a slow drive's queue holds no more than a tenth of a second. */
    ps_queue_init(&d, "d", 0, &profile, 0, true);
    d.pace = 100; /* 10 MB/s */
    assert_true(ps_queue_has_room(&d, 4 << 20));
    ps_queue_begin(&d, 600000, 0);
    assert_true(ps_queue_has_room(&d, 400000));
    assert_false(ps_queue_has_room(&d, 400001));
}

static void test_estimates(void **state)
{
    struct ps_queue d;
    (void)state;

    ps_queue_init(&d, "d", 0, &profile, 0, true);
    assert_int_equal(d.latency_ns, 200000);
    assert_int_equal(ps_queue_usual_ns(&d, 1000000), 1200000);
    ps_queue_begin(&d, 2000000, 0);
    assert_int_equal(ps_queue_usual_ns(&d, 1000000), 3200000);
    d.pace = 2;
    assert_int_equal(ps_queue_eta_ns(&d, 1000000), 6200000);
}

/* Reads of `bytes` one after the other at a rate, each with a latency, for so long. */
static uint64_t read_for(struct ps_queue *d, uint64_t now_ns, uint64_t span_ns, uint32_t bytes,
                         double rate, uint64_t latency_ns)
{
    uint64_t end_ns = now_ns + span_ns;
    while (now_ns < end_ns) {
        uint64_t usual_ns = ps_queue_usual_ns(d, bytes);
        uint64_t took_ns = latency_ns + (uint64_t)(bytes * 1e9 / rate);
        ps_queue_begin(d, bytes, now_ns);
        now_ns += took_ns;
        ps_queue_end(d, bytes);
        ps_queue_answer(d, now_ns);
        ps_queue_pace(d, took_ns, usual_ns, bytes, now_ns);
    }
    return now_ns;
}

static void becomes_slow(const struct ps_member_profile *known, double rate)
{
    struct ps_queue d;
    uint64_t now_ns = SECOND;

    forget_log(NULL);
    ps_queue_init(&d, "/dev/x", 0, known, 0, false);
    now_ns = read_for(&d, now_ns, 3 * SECOND, 2000000, rate, 100000);
    assert_string_equal(log_text, "");
    assert_false(d.is_slow);
    /* A moment is not worth a word. */
    now_ns = read_for(&d, now_ns, SECOND / 2, 2000000, rate / 10, 100000);
    assert_false(d.is_slow);
    now_ns = read_for(&d, now_ns, 2 * SECOND, 2000000, rate, 100000);
    assert_string_equal(log_text, "");
    now_ns = read_for(&d, now_ns, 3 * SECOND, 2000000, rate / 10, 100000);
    assert_true(d.is_slow);
    assert_non_null(strstr(log_text, "/dev/x: this drive has become slow"));
    double now = (double)d.rate_bytes_per_s / d.pace;
    assert_true(now > rate / 10 * 0.8 && now < rate / 10 * 1.3);
    forget_log(NULL);
    read_for(&d, now_ns, 3 * SECOND, 2000000, rate, 100000);
    assert_false(d.is_slow);
    assert_string_equal(log_text, "/dev/x: this drive is as fast as before again\n");
}

static void test_slow(void **state)
{
    (void)state;
    becomes_slow(&profile, 1e9);
    becomes_slow(NULL, 1e9);
    becomes_slow(NULL, 40e6);
}

/* Small reads take no time worth a word, however much longer they take than their bytes. */
static void test_small_reads(void **state)
{
    struct ps_queue d;
    uint64_t now_ns = SECOND;
    (void)state;

    ps_queue_init(&d, "/dev/x", 0, NULL, 0, false);
    now_ns = read_for(&d, now_ns, 2 * SECOND, 4 << 20, 1e9, 50000);
    now_ns = read_for(&d, now_ns, 5 * SECOND, 28672, 1e9, 800000);
    assert_false(d.is_slow);
    /* They have become the usual ones meanwhile. */
    uint64_t usual_ns = ps_queue_usual_ns(&d, 28672);
    assert_true(usual_ns > 700000 && usual_ns < 1000000);
    assert_string_equal(log_text, "");
}

/* A drive that was learned while it was busy with other work. */
static void test_faster(void **state)
{
    struct ps_queue d;
    uint64_t now_ns = SECOND;
    (void)state;

    ps_queue_init(&d, "/dev/x", 0, NULL, 0, false);
    now_ns = read_for(&d, now_ns, 2 * SECOND, 2000000, 1e8, 0);
    assert_true(d.rate_bytes_per_s > 90 * MB && d.rate_bytes_per_s < 110 * MB);
    read_for(&d, now_ns, 4 * SECOND, 2000000, 1e9, 0);
    double now = (double)d.rate_bytes_per_s / d.pace;
    assert_true(now > 0.9e9 && now < 1.1e9);
    /* A profile is believed. */
    ps_queue_init(&d, "/dev/x", 0, &profile, 0, false);
    read_for(&d, now_ns, 4 * SECOND, 2000000, 4e9, 0);
    assert_int_equal(d.rate_bytes_per_s, 1000 * MB);
}

static void test_failures(void **state)
{
    struct ps_health h;
    (void)state;

    ps_health_init(&h, "/dev/x", false, true);
    for (uint32_t i = 1; i < PS_HEALTH_FAILURES_MAX; i++)
        ps_health_answer(&h, -EIO, i);
    assert_false(h.is_down);
    ps_health_answer(&h, 0, 10); /* a bad sector here and there is not a bad member */
    for (uint32_t i = 1; i < PS_HEALTH_FAILURES_MAX; i++)
        ps_health_answer(&h, -EIO, 10 + i);
    assert_false(h.is_down);
    assert_string_equal(log_text, "");
    ps_health_answer(&h, -EIO, 20);
    assert_true(h.is_down);
    assert_non_null(strstr(log_text, "/dev/x: this member cannot be read"));
    assert_false(ps_health_wants_test(&h, 20 + SECOND / 2));
    assert_true(ps_health_wants_test(&h, 20 + SECOND));
    h.test_ns = 20 + SECOND;
    assert_false(ps_health_wants_test(&h, 21 + SECOND));
    ps_health_answer(&h, 0, 3 * SECOND);
    assert_false(h.is_down);
    assert_non_null(strstr(log_text, "can be read again"));
    ps_health_answer(&h, -ENODEV, 4 * SECOND);
    assert_true(h.is_down);
    /* What is not there at all is not looked for. */
    ps_health_init(&h, "/dev/x", true, true);
    assert_true(h.is_down);
    assert_false(ps_health_wants_test(&h, 100 * SECOND));
}

static void test_hang(void **state)
{
    struct ps_queue d;
    (void)state;

    ps_queue_init(&d, "/dev/x", 0, &profile, 2, true);
    assert_false(ps_queue_hangs(&d, 100 * SECOND, SECOND)); /* it has nothing to do */
    ps_queue_begin(&d, 4096, 10 * SECOND);
    ps_queue_begin(&d, 4096, 10 * SECOND + 5);
    assert_false(ps_queue_hangs(&d, 11 * SECOND - 1, SECOND));
    assert_true(ps_queue_hangs(&d, 11 * SECOND, SECOND));
    ps_queue_hang(&d, 11 * SECOND);
    assert_int_equal(d.stuck_count, 2);
    assert_int_equal(d.in_flight, 0);
    assert_int_equal(d.in_flight_bytes, 0);
    assert_false(ps_queue_has_room(&d, 4096)); /* as many hang as the queue may hold */
    d.stuck_count--;
    assert_true(ps_queue_has_room(&d, 4096));

    struct ps_health h;
    ps_health_init(&h, "/dev/x", false, true);
    h.answer_ns = 10 * SECOND;
    ps_health_hang(&h, SECOND);
    ps_health_hang(&h, 2 * SECOND);
    assert_string_equal(log_text,
                        "/dev/x: the drive of this member has not answered for 1.0 s; the memory "
                        "that its reads may still write to is set aside until it does\n");
    assert_true(ps_health_is_off(&h));
    assert_true(ps_health_wants_test(&h, 12 * SECOND));
    ps_health_answer(&h, -EIO, 12 * SECOND);
    assert_true(ps_health_is_off(&h));
    ps_health_answer(&h, 0, 12 * SECOND);
    assert_false(ps_health_is_off(&h));
    assert_non_null(strstr(log_text, "can be read again"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_bounds, forget_log),
        cmocka_unit_test_setup(test_estimates, forget_log),
        cmocka_unit_test_setup(test_slow, forget_log),
        cmocka_unit_test_setup(test_small_reads, forget_log),
        cmocka_unit_test_setup(test_faster, forget_log),
        cmocka_unit_test_setup(test_failures, forget_log),
        cmocka_unit_test_setup(test_hang, forget_log),
    };
    ps_log_set(keep_log, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
