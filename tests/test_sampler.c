/* Sampling: order of the cuts, distributions under fixed seeds, edge cases. */
#include <math.h>

#include "core/util.h"
#include "model/model.h"
#include "util.h"

#define V 8

static struct ps_model model_of(uint32_t vocab)
{
    struct ps_model model = {0};
    model.config.vocab_rows = vocab;
    return model;
}

static struct ps_sampler *open_sampler(uint32_t vocab, struct ps_sampling options)
{
    static struct ps_model model; /* too large for the stack of some systems */
    struct ps_sampler *sampler = NULL;
    struct ps_error err = {0};
    model.config.vocab_rows = vocab;
    if (ps_sampler_open(&sampler, &model, &options, &err) < 0)
        fail_msg("%s", err.text);
    return sampler;
}

static struct ps_sampling plain(float temperature)
{
    return (struct ps_sampling){.temperature = temperature, .top_p = 1, .repeat_penalty = 1};
}

/* Draws n times; counts[id] how often each came. */
static void count_draws(struct ps_sampling options, const float *logits, int n, int counts[V])
{
    struct ps_sampler *s = open_sampler(V, options);
    memset(counts, 0, V * sizeof(*counts));
    for (int i = 0; i < n; i++) {
        int32_t id = ps_sampler_next(s, logits);
        assert_in_range(id, 0, V - 1);
        counts[id]++;
        ps_sampler_accept(s, id);
    }
    ps_sampler_close(&s);
}

/* Four standard deviations of a binomial count around what is expected. */
static void expect_share(int count, int n, double p)
{
    double slack = 4 * sqrt(n * p * (1 - p)) + 1e-9;
    if (fabs(count - n * p) > slack)
        fail_msg("%d of %d is not a share of %g", count, n, p);
}

static const float ramp[V] = {0, 1, 2, 3, 4, 5, 6, 7};

/* The probabilities of ids [first, V) of the ramp at a temperature. */
static double ramp_share(int id, int first, double temperature)
{
    double total = 0;
    for (int i = first; i < V; i++)
        total += exp(ramp[i] / temperature);
    return exp(ramp[id] / temperature) / total;
}

static void greedy_rules(void **state)
{
    (void)state;
    struct ps_sampler *s = open_sampler(V, plain(0));
    const float ties[V] = {1, 3, 2, 3, 3, 0, 0, 0};
    const float nans[V] = {NAN, -INFINITY, NAN, -5, NAN, -6, NAN, NAN};
    const float none[V] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    const float huge[V] = {0, INFINITY, INFINITY, NAN, 0, 0, 0, 0};
    assert_int_equal(ps_sampler_next(s, ramp), 7);
    assert_int_equal(ps_sampler_next(s, ties), 1);
    assert_int_equal(ps_sampler_next(s, nans), 3);
    assert_int_equal(ps_sampler_next(s, none), 0);
    assert_int_equal(ps_sampler_next(s, huge), 1);
    ps_sampler_close(&s);
    ps_sampler_close(&s);
    ps_sampler_close(NULL);
}

static void temperature_shares(void **state)
{
    (void)state;
    int counts[V], n = 20000;
    static const float temperatures[] = {0.5f, 1, 2.5f};
    for (size_t t = 0; t < PS_ARRAY_LEN(temperatures); t++) {
        count_draws(plain(temperatures[t]), ramp, n, counts);
        for (int id = 0; id < V; id++)
            expect_share(counts[id], n, ramp_share(id, 0, temperatures[t]));
    }
}

static void top_k(void **state)
{
    (void)state;
    int counts[V], n = 20000;
    struct ps_sampling options = plain(1.5f);
    for (int k = 1; k <= V + 1; k++) {
        options.top_k = k;
        count_draws(options, ramp, n, counts);
        int first = k < V ? V - k : 0;
        for (int id = 0; id < V; id++)
            expect_share(counts[id], n, id < first ? 0 : ramp_share(id, first, 1.5));
    }
    /* Among equals at the edge the lower ids stay. */
    const float flat[V] = {2, 2, 2, 2, 2, 2, 2, 3};
    options.top_k = 3;
    count_draws(options, flat, 2000, counts);
    assert_true(counts[0] && counts[1] && counts[7]);
    assert_int_equal(counts[0] + counts[1] + counts[7], 2000);
}

static void top_p(void **state)
{
    (void)state;
    int counts[V], n = 20000;
    struct ps_sampling options = plain(2);
    /* At temperature 1 the ramp's best three hold .632, .865 and .950: the nucleus is measured
     * before the temperature acts. */
    static const struct {
        float p;
        int kept;
    } cases[] = {{0, 1}, {0.5f, 1}, {0.64f, 2}, {0.86f, 2}, {0.88f, 3}, {0.9f, 3}, {1, V}};
    for (size_t i = 0; i < PS_ARRAY_LEN(cases); i++) {
        options.top_p = cases[i].p;
        for (options.top_k = 0; options.top_k <= 5; options.top_k += 5) {
            int kept = options.top_k && cases[i].kept > 5 ? 5 : cases[i].kept;
            count_draws(options, ramp, n, counts);
            for (int id = 0; id < V; id++)
                expect_share(counts[id], n, id < V - kept ? 0 : ramp_share(id, V - kept, 2));
        }
    }
    /* The nucleus is that of what top-k left: .731 of two is enough for .7, .632 of all is not. */
    options = plain(1);
    options.top_p = 0.7f;
    options.top_k = 2;
    count_draws(options, ramp, 100, counts);
    assert_int_equal(counts[7], 100);
}

static void min_p(void **state)
{
    (void)state;
    int counts[V], n = 20000;
    struct ps_sampling options = plain(3);
    static const struct {
        float p;
        int kept;
    } cases[] = {{1, 1}, {0.5f, 1}, {0.36f, 2}, {0.13f, 3}, {0.0001f, V}};
    for (size_t i = 0; i < PS_ARRAY_LEN(cases); i++) {
        options.min_p = cases[i].p;
        count_draws(options, ramp, n, counts);
        int first = V - cases[i].kept;
        for (int id = 0; id < V; id++)
            expect_share(counts[id], n, id < first ? 0 : ramp_share(id, first, 3));
    }
}

static void penalty(void **state)
{
    (void)state;
    struct ps_sampling options = plain(0);
    options.repeat_penalty = 2;
    options.repeat_last_n = 2;
    const float logits[V] = {3, 4, -3, -1, -8, -8, -8, -8};
    struct ps_sampler *s = open_sampler(V, options);
    assert_int_equal(ps_sampler_next(s, logits), 1);
    ps_sampler_accept(s, 1); /* 4 / 2 = 2 */
    assert_int_equal(ps_sampler_next(s, logits), 0);
    ps_sampler_accept(s, 0); /* 3 / 2 = 1.5: 1 leads again */
    assert_int_equal(ps_sampler_next(s, logits), 1);
    ps_sampler_accept(s, 0); /* 1 is out of the window now, 0 is in it twice */
    assert_int_equal(ps_sampler_next(s, logits), 1);
    ps_sampler_accept(s, 1);
    ps_sampler_accept(s, 7);
    assert_int_equal(ps_sampler_next(s, logits), 0);
    ps_sampler_accept(s, -1); /* no tokens of this model: passed over */
    ps_sampler_accept(s, V);
    assert_int_equal(ps_sampler_next(s, logits), 0);
    ps_sampler_close(&s);
    /* Negative logits are multiplied: -1 becomes -2, which -1.5 beats. */
    const float negative[V] = {-1, -1.5f, -9, -9, -9, -9, -9, -9};
    s = open_sampler(V, options);
    ps_sampler_accept(s, 0);
    assert_int_equal(ps_sampler_next(s, negative), 1);
    ps_sampler_close(&s);
}

static void same_seed_same_tokens(void **state)
{
    (void)state;
    /* From an own computation of the same in Python. A change here changes what users get for a
     * seed that they wrote down. */
    static const int32_t pinned[] = {5, 7, 6, 1, 6, 1, 3, 7, 2, 7, 6, 3};
    struct ps_sampling options = plain(3);
    options.seed = 42;
    struct ps_sampler *a = open_sampler(V, options), *b = open_sampler(V, options);
    struct ps_sampling other = options;
    other.seed = 43;
    struct ps_sampler *c = open_sampler(V, other);
    int differ = 0;
    for (int i = 0; i < 200; i++) {
        int32_t id = ps_sampler_next(a, ramp);
        /* One that begins in the middle needs no more than the history. */
        if (i == 100) {
            ps_sampler_close(&b);
            b = open_sampler(V, options);
            for (int told = 0; told < i; told++)
                ps_sampler_accept(b, 0);
        }
        assert_int_equal(ps_sampler_next(b, ramp), id);
        assert_int_equal(ps_sampler_next(b, ramp), id);
        differ += ps_sampler_next(c, ramp) != id;
        ps_sampler_accept(a, id);
        ps_sampler_accept(b, id);
        ps_sampler_accept(c, id);
        if (i < (int)PS_ARRAY_LEN(pinned))
            assert_int_equal(id, pinned[i]);
    }
    assert_true(differ > 50);
    ps_sampler_close(&a);
    ps_sampler_close(&b);
    ps_sampler_close(&c);
}

static void odd_logits(void **state)
{
    (void)state;
    int counts[V];
    const float nans[V] = {NAN, NAN, 1, NAN, -INFINITY, NAN, 1, NAN};
    const float none[V] = {NAN, -INFINITY, NAN, NAN, NAN, NAN, NAN, NAN};
    const float huge[V] = {0, INFINITY, -INFINITY, 3e38f, NAN, 0, 0, 0};
    static const int ks[] = {0, 1, 5};
    for (size_t i = 0; i < PS_ARRAY_LEN(ks); i++) {
        for (int cut = 0; cut < 3; cut++) {
            struct ps_sampling options = plain(1);
            options.top_k = ks[i];
            options.top_p = cut == 1 ? 0.99f : 1;
            options.min_p = cut == 2 ? 0.01f : 0;
            count_draws(options, nans, 200, counts);
            assert_int_equal(counts[2] + counts[6], 200);
            count_draws(options, none, 10, counts);
            assert_int_equal(counts[0], 10);
            count_draws(options, huge, 10, counts);
            assert_int_equal(counts[1], 10);
        }
    }
    struct ps_sampling tiny = plain(1e-30f); /* no overflow on the way to the largest logit */
    count_draws(tiny, ramp, 10, counts);
    assert_int_equal(counts[7], 10);
}

/* A real vocabulary: the selections against a sort, and in a bounded time. */
static int by_logit(const void *a, const void *b, void *logits)
{
    const float *l = logits;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return l[x] != l[y] ? (l[x] < l[y]) - (l[x] > l[y]) : (x > y) - (x < y);
}

static void large_vocabulary(void **state)
{
    (void)state;
    enum { rows = 248320, draws = 20 };
    float *logits = malloc(rows * sizeof(*logits));
    int32_t *order = malloc(rows * sizeof(*order));
    uint32_t *rank = malloc(rows * sizeof(*rank));
    uint32_t lcg = 12345;
    for (int i = 0; i < rows; i++) {
        lcg = lcg * 1664525u + 1013904223u;
        logits[i] = (float)(lcg >> 20) / 256; /* 4096 values: many ties */
        order[i] = i;
    }
    qsort_r(order, rows, sizeof(*order), by_logit, logits);
    for (uint32_t i = 0; i < rows; i++)
        rank[order[i]] = i;
    static const struct ps_sampling cases[] = {
        {.temperature = 50, .top_k = 40, .top_p = 1, .repeat_penalty = 1},
        {.temperature = 50, .top_k = 20000, .top_p = 1, .repeat_penalty = 1},
        {.temperature = 50, .top_p = 0.1f, .repeat_penalty = 1},
        {.temperature = 1,
         .top_k = 40,
         .top_p = 0.9f,
         .min_p = 0.05f,
         .repeat_penalty = 1.1f,
         .repeat_last_n = 64},
        {.temperature = 1, .top_p = 1, .repeat_penalty = 1}};
    static const uint32_t most[] = {40, 20000, 20000, 40, rows};
    for (size_t i = 0; i < PS_ARRAY_LEN(cases); i++) {
        struct ps_sampler *s = open_sampler(rows, cases[i]);
        uint64_t begin = ps_now_ns();
        for (int k = 0; k < draws; k++) {
            assert_in_range(rank[ps_sampler_next(s, logits)], 0, most[i] - 1);
            ps_sampler_accept(s, -1); /* the next position, and nothing to be penalised */
        }
        assert_in_range(ps_now_ns() - begin, 0, draws * 500000000ull);
        ps_sampler_close(&s);
    }
    free(logits);
    free(order);
    free(rank);
}

static void bad_options(void **state)
{
    (void)state;
    static const struct {
        struct ps_sampling options;
        const char *says;
    } cases[] = {{{.temperature = -1, .top_p = 1, .repeat_penalty = 1}, "temperature"},
                 {{.temperature = NAN, .top_p = 1, .repeat_penalty = 1}, "temperature"},
                 {{.temperature = INFINITY, .top_p = 1, .repeat_penalty = 1}, "temperature"},
                 {{.top_k = -1, .top_p = 1, .repeat_penalty = 1}, "top-k"},
                 {{.top_p = 1.5f, .repeat_penalty = 1}, "top-p"},
                 {{.top_p = NAN, .repeat_penalty = 1}, "top-p"},
                 {{.top_p = 1, .min_p = -0.1f, .repeat_penalty = 1}, "min-p"},
                 {{.top_p = 1, .repeat_penalty = 0}, "penalty"},
                 {{.top_p = 1, .repeat_penalty = 2, .repeat_last_n = -1}, "look back"},
                 {{.top_p = 1, .repeat_penalty = 2, .repeat_last_n = 1 << 30}, "look back"}};
    static struct ps_model model;
    model = model_of(V);
    for (size_t i = 0; i < PS_ARRAY_LEN(cases); i++) {
        struct ps_sampler *s = NULL;
        struct ps_error err = {0};
        assert_int_equal(ps_sampler_open(&s, &model, &cases[i].options, &err), -PS_ERR_ARGUMENT);
        assert_null(s);
        assert_non_null(strstr(err.text, cases[i].says));
    }
}

static void model_settings(void **state)
{
    (void)state;
    static struct ps_model model;
    struct ps_sampling s;
    ps_model_sampling(&model, &s);
    assert_true(s.temperature == 0 && s.top_p == 1 && s.repeat_penalty == 1 && s.seed == 0);
    model.config.sampling = (struct ps_config_sampling){true, 0.6f, 0.95f, 0.01f, 1.05f, 20};
    ps_model_sampling(&model, &s);
    assert_true(s.temperature == 0.6f && s.top_p == 0.95f && s.min_p == 0.01f);
    assert_true(s.repeat_penalty == 1.05f && s.top_k == 20 && s.repeat_last_n > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_rules),
        cmocka_unit_test(temperature_shares),
        cmocka_unit_test(top_k),
        cmocka_unit_test(top_p),
        cmocka_unit_test(min_p),
        cmocka_unit_test(penalty),
        cmocka_unit_test(odd_logits),
        cmocka_unit_test(same_seed_same_tokens),
        cmocka_unit_test(large_vocabulary),
        cmocka_unit_test(bad_options),
        cmocka_unit_test(model_settings),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
