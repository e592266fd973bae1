/* Which guesses become reads: against the same sums made by trying pauses one by one. */
#include "util.h"

#include <math.h>

#include "model/prefetch.h"

/* 1 GB/s; a byte is a nanosecond. */
static struct ps_store_pace pace_of(double idle_ns, double delay_bytes)
{
    return (struct ps_store_pace){idle_ns, 1e9, delay_bytes};
}

/*
 * What one guessed read wins over pauses of exponential length: a right one the time that it has
 * been read when the pause ends, a wrong one that is being read then costs the delay.
 */
static double try_pauses(const struct ps_store_pace *pace, double chance, double ahead,
                         double bytes)
{
    const uint32_t steps = 200000;
    double sum = 0;

    for (uint32_t i = 0; i < steps; i++) {
        double pause = -log(1 - (i + 0.5) / steps) * pace->idle_ns;
        double read = fmin(fmax(pause - ahead, 0), bytes);
        sum += chance * read;
        if (pause > ahead && pause < ahead + bytes)
            sum -= (1 - chance) * pace->delay_bytes;
    }
    return sum / steps;
}

static void test_gain(void **state)
{
    static const double chances[] = {0, 0.1, 0.5, 0.9, 1}, aheads[] = {0, 5e5, 3e6};
    struct ps_store_pace pace = pace_of(2e6, 6e5);
    (void)state;

    for (size_t c = 0; c < 5; c++) {
        for (size_t a = 0; a < 3; a++) {
            double tried = try_pauses(&pace, chances[c], aheads[a], 1e6);
            double said = ps_prefetch_gain_ns(&pace, chances[c], aheads[a], 1e6);
            assert_true(fabs(tried - said) < 2e3);
        }
    }
}

/* At the least chance a read wins nothing, whatever is before it. */
static void test_least_chance(void **state)
{
    (void)state;
    for (double idle = 1e4; idle < 1e8; idle *= 7) {
        struct ps_store_pace pace = pace_of(idle, 8e5);
        double least = ps_prefetch_least_chance(&pace);
        assert_true(least > 0 && least < 1);
        assert_true(fabs(ps_prefetch_gain_ns(&pace, least, idle, 1e6)) < 1e-3);
        assert_true(ps_prefetch_gain_ns(&pace, least + 0.01, idle, 1e6) > 0);
        assert_true(ps_prefetch_gain_ns(&pace, least - 0.001, idle, 1e6) < 0);
    }
    /* Drives that are never idle, and drives of which nothing is known. */
    struct ps_store_pace busy = pace_of(0, 8e5), unknown = {1e6, 0, 8e5};
    assert_true(ps_prefetch_least_chance(&busy) > 1);
    assert_true(ps_prefetch_least_chance(&unknown) > 1);
    assert_true(ps_prefetch_gain_ns(&busy, 1, 0, 1e6) == 0);
}

/* Ranks are learned apart, what is long ago counts less, and the last one stands for all others. */
static void test_learn(void **state)
{
    struct ps_prefetch p;
    (void)state;

    ps_prefetch_init(&p);
    assert_true(ps_prefetch_chance(&p, 0) == 0.5);
    for (uint32_t i = 0; i < 1000; i++) {
        ps_prefetch_learn(&p, 0, i % 10 > 0);
        ps_prefetch_learn(&p, 3, i % 10 == 0);
    }
    assert_true(fabs(ps_prefetch_chance(&p, 0) - 0.9) < 0.02);
    assert_true(fabs(ps_prefetch_chance(&p, 3) - 0.1) < 0.02);
    assert_true(ps_prefetch_chance(&p, 1) == 0.5);
    for (uint32_t i = 0; i < 3000; i++)
        ps_prefetch_learn(&p, 0, false);
    assert_true(ps_prefetch_chance(&p, 0) < 0.2);
    ps_prefetch_learn(&p, 1000, true);
    assert_true(ps_prefetch_chance(&p, 5000) == ps_prefetch_chance(&p, PS_PREFETCH_RANKS - 1));
    assert_true(ps_prefetch_chance(&p, 5000) > 0.5);
}

/* On while it wins, tried now and then while it does not. */
static void test_switch(void **state)
{
    uint32_t tries = 0;
    struct ps_prefetch p;
    (void)state;

    ps_prefetch_init(&p);
    assert_true(ps_prefetch_wants(&p));
    for (uint32_t i = 0; i < 10; i++) {
        ps_prefetch_note(&p, 5e5, 1e5);
        assert_true(ps_prefetch_wants(&p));
    }
    for (uint32_t i = 0; i < 100; i++)
        ps_prefetch_note(&p, 0, 1e5);
    for (uint32_t i = 0; i < 1000; i++)
        tries += ps_prefetch_wants(&p);
    assert_in_range(tries, 10, 30);
    /* One try that wins is enough. */
    while (!ps_prefetch_wants(&p))
        ;
    ps_prefetch_note(&p, 5e5, 1e5);
    assert_true(ps_prefetch_wants(&p) && ps_prefetch_wants(&p));
}

/* Tokens that take turn_ns[0] without guesses and turn_ns[1] with them: most go the faster way, and
 * where that changes, the other one is found. */
static void test_time(void **state)
{
    static const double ns[2][2] = {{100, 80}, {100, 120}};
    struct ps_prefetch p;
    (void)state;

    ps_prefetch_init(&p);
    for (int phase = 0; phase < 6; phase++) {
        const double *turn_ns = ns[phase % 2];
        uint32_t slow = 0;
        for (uint32_t i = 0; i < 20000; i++) {
            slow += i >= 2000 && p.is_off == (turn_ns[1] < turn_ns[0]);
            ps_prefetch_time(&p, 1, turn_ns[p.is_off ? 0 : 1] + (i % 7) * 0.5);
        }
        assert_in_range(slow, 100, 900);
    }
    p.is_off = true;
    assert_false(ps_prefetch_wants(&p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gain),  cmocka_unit_test(test_least_chance),
        cmocka_unit_test(test_learn), cmocka_unit_test(test_switch),
        cmocka_unit_test(test_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
