#include "nvme/sweep.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "nvme/measure.h"

#define SIZE_BYTES_MIN (64u << 10)
#define DEPTH_MAX (1u << (PS_PROBE_DEPTH_COUNT - 1))
#define POINT_COUNT (PS_PROBE_SIZE_COUNT * PS_PROBE_DEPTH_COUNT)
#define NS_DEFAULT UINT64_C(30000000000)
#define ROUNDS_WANTED 5u
#define ROUNDS_MAX 25u
#define SLICE_NS_MIN UINT64_C(20000000)
#define SLICE_NS_MAX UINT64_C(250000000)
/* More in flight than this, in bytes or in time, cannot make a drive faster; it only queues. */
#define IN_FLIGHT_BYTES_MAX (UINT64_C(64) << 20)
#define IN_FLIGHT_BYTES_MIN (UINT64_C(1) << 20)
#define IN_FLIGHT_NS_MAX UINT64_C(250000000)
/* Answers that are counted after the queue has become full. */
#define COUNTED_MIN 4u
#define PREFERRED_BYTES_MIN (1u << 20)
#define PREFERRED_BYTES_MAX (4u << 20)
#define REACHES_BEST 0.97
#define NEAR_BEST 0.90
#define PIECE_REACHES 0.90
#define BUSY_TURNS 3u

struct sweep {
    const struct ps_probe_options *options;
    struct ps_bench *bench;
    struct ps_probe_result *result;
    uint64_t begin_ns, budget_ns, slice_ns;
    uint32_t chosen[POINT_COUNT]; /* the points to be measured, by number */
    uint32_t chosen_count;
    /* [point][round] */
    uint64_t bytes_per_s[POINT_COUNT][ROUNDS_MAX];
    uint64_t p50_ns[POINT_COUNT][ROUNDS_MAX], p99_ns[POINT_COUNT][ROUNDS_MAX];
    uint64_t seed; /* of the next point: every one reads elsewhere */
};

static struct ps_probe_point *point_at(struct ps_probe_result *result, uint32_t number)
{
    return &result->points[number / PS_PROBE_DEPTH_COUNT][number % PS_PROBE_DEPTH_COUNT];
}

static uint64_t in_flight_bytes(const struct ps_probe_point *point)
{
    return (uint64_t)point->request_bytes * point->depth;
}

void ps_sweep_points(struct ps_probe_result *result)
{
    for (uint32_t i = 0; i < POINT_COUNT; i++) {
        point_at(result, i)->request_bytes = SIZE_BYTES_MIN << i / PS_PROBE_DEPTH_COUNT;
        point_at(result, i)->depth = 1u << i % PS_PROBE_DEPTH_COUNT;
    }
}

/* ---- judging --------------------------------------------------------------------------------- */

/* The point so many sizes and depths away; NULL outside the table or where it was left out. */
static const struct ps_probe_point *neighbour(const struct ps_probe_result *result, uint32_t number,
                                              int sizes, int depths)
{
    int size = (int)(number / PS_PROBE_DEPTH_COUNT) + sizes;
    int depth = (int)(number % PS_PROBE_DEPTH_COUNT) + depths;

    if (size < 0 || size >= (int)PS_PROBE_SIZE_COUNT || depth < 0 ||
        depth >= (int)PS_PROBE_DEPTH_COUNT || result->points[size][depth].bytes_per_s == 0)
        return NULL;
    return &result->points[size][depth];
}

static uint64_t median(uint64_t *values, uint32_t count)
{
    qsort(values, count, sizeof(*values), ps_compare_u64);
    return values[count / 2];
}

/*
 * A point's bandwidth as its neighbours bear it out: the median of it and of the pairs that lie
 * opposite each other around it. Bandwidth grows with size and with depth, so one of a pair is
 * above and the other below, and the median of an undisturbed table is the point itself; a point
 * that a disturbance has met alone falls in line. The best of fifty noisy points would not be the
 * bandwidth of the drive but the largest mistake.
 */
static uint64_t steady_bytes_per_s(const struct ps_probe_result *result, uint32_t number)
{
    static const int ways[4][2] = {{0, 1}, {1, 0}, {1, 1}, {1, -1}};
    const struct ps_probe_point *self = neighbour(result, number, 0, 0);
    uint64_t values[9], highest = 0;
    uint32_t count = 0;

    if (self == NULL)
        return 0;
    values[count++] = self->bytes_per_s;
    for (int i = 0; i < 4; i++) {
        const struct ps_probe_point *a = neighbour(result, number, ways[i][0], ways[i][1]);
        const struct ps_probe_point *b = neighbour(result, number, -ways[i][0], -ways[i][1]);
        if (a != NULL && b != NULL) {
            values[count++] = a->bytes_per_s;
            values[count++] = b->bytes_per_s;
        }
        highest = ps_max_u64(highest, a != NULL ? a->bytes_per_s : 0);
        highest = ps_max_u64(highest, b != NULL ? b->bytes_per_s : 0);
    }
    /* A corner has no pairs: it counts for no more than the best beside it. */
    return count == 1 && highest > 0 ? ps_min_u64(self->bytes_per_s, highest)
                                     : median(values, count);
}

/*
 * The smallest reads that lose at most a tenth when as many bytes of them are in flight, or as many
 * reads as there may be; no size in between may lose more.
 */
static uint32_t smallest_piece(const struct ps_probe_result *result, uint64_t knee_bytes_per_s)
{
    uint32_t bytes = result->points[result->knee_size][0].request_bytes;
    uint32_t depth = result->knee_depth;

    for (uint32_t size = result->knee_size; size-- > 0;) {
        depth = depth + 1 < PS_PROBE_DEPTH_COUNT ? depth + 1 : depth;
        uint64_t reached = steady_bytes_per_s(result, size * PS_PROBE_DEPTH_COUNT + depth);
        if ((double)reached < PIECE_REACHES * (double)knee_bytes_per_s)
            break;
        bytes = result->points[size][0].request_bytes;
    }
    return bytes;
}

/* What the drive gives at most: the median of all points that come within a tenth of the highest,
 * which lie on the plateau. 0 if all are 0. */
static uint64_t plateau(const uint64_t steady[POINT_COUNT])
{
    uint64_t best = 0, near[POINT_COUNT] = {0};
    uint32_t count = 0;

    for (uint32_t i = 0; i < POINT_COUNT; i++)
        best = ps_max_u64(best, steady[i]);
    for (uint32_t i = 0; i < POINT_COUNT; i++) {
        if ((double)steady[i] >= NEAR_BEST * (double)best)
            near[count++] = steady[i];
    }
    return median(near, count);
}

/* What the points give that could be the knee, and 0 for the others. */
static void candidates(const struct ps_probe_result *result, uint32_t bytes_min, uint32_t bytes_max,
                       uint32_t depth_min, uint64_t steady[POINT_COUNT])
{
    for (uint32_t i = 0; i < POINT_COUNT; i++) {
        uint32_t bytes = SIZE_BYTES_MIN << i / PS_PROBE_DEPTH_COUNT;
        bool is_one =
            bytes >= bytes_min && bytes <= bytes_max && 1u << i % PS_PROBE_DEPTH_COUNT >= depth_min;
        steady[i] = is_one ? steady_bytes_per_s(result, i) : 0;
    }
}

/*
 * Fills what each candidate gives, and returns what the drive does at most. With a single read in
 * flight the drive idles while its user looks at what has come, so those count only if there are no
 * others. Longer reads take longer to land and shorter ones cost the processor, so others than the
 * preferred must win a tenth.
 */
static uint64_t choose_candidates(const struct ps_probe_result *result,
                                  uint64_t steady[POINT_COUNT])
{
    candidates(result, 0, UINT32_MAX, 2, steady);
    uint64_t all = plateau(steady);
    candidates(result, PREFERRED_BYTES_MIN, PREFERRED_BYTES_MAX, 2, steady);
    uint64_t preferred = plateau(steady);
    if (preferred > 0 && (double)preferred >= NEAR_BEST * (double)all)
        return preferred;
    candidates(result, 0, UINT32_MAX, all > 0 ? 2 : 1, steady);
    return plateau(steady);
}

void ps_sweep_judge(struct ps_probe_result *result)
{
    uint64_t steady[POINT_COUNT];
    uint64_t best = choose_candidates(result, steady);
    uint32_t knee = POINT_COUNT;

    for (uint32_t i = 0; i < POINT_COUNT; i++) {
        bool reaches = steady[i] > 0 && (double)steady[i] >= REACHES_BEST * (double)best;
        if (reaches && (knee == POINT_COUNT || in_flight_bytes(point_at(result, i)) <
                                                   in_flight_bytes(point_at(result, knee))))
            knee = i;
    }
    result->knee_size = knee / PS_PROBE_DEPTH_COUNT;
    result->knee_depth = knee % PS_PROBE_DEPTH_COUNT;
    result->profile = (struct ps_member_profile){
        .bytes_per_s = steady[knee],
        .latency_ns = result->points[result->knee_size][0].latency_p50_ns,
        .request_bytes = point_at(result, knee)->request_bytes,
        .depth = point_at(result, knee)->depth,
        .piece_bytes_min = smallest_piece(result, steady[knee]),
    };
}

/* ---- measuring ------------------------------------------------------------------------------- */

static int read_point(struct sweep *s, const struct ps_probe_point *point, uint64_t seed,
                      struct ps_measure_result *measured, struct ps_error *err)
{
    struct ps_bench_point read = {
        .request_bytes = point->request_bytes,
        .depth = point->depth,
        .ns_max = s->slice_ns,
        .request_count_min = point->depth + ps_max_u64(point->depth, COUNTED_MIN),
        .seed = seed,
        .stop = s->options->stop,
    };
    return ps_bench_read(s->bench, &read, measured, err);
}

/* How long a point takes on a drive of this bandwidth. */
static uint64_t point_ns(const struct sweep *s, const struct ps_probe_point *point,
                         uint64_t bytes_per_s)
{
    uint64_t count = point->depth + ps_max_u64(point->depth, COUNTED_MIN);
    double least_s = (double)(count * point->request_bytes) / (double)bytes_per_s;

    return ps_max_u64(s->slice_ns, (uint64_t)(least_s * 1e9));
}

/* Chooses the points with at most so many bytes in flight. Returns what a round of them takes. */
static uint64_t choose(struct sweep *s, uint64_t bytes_max, uint64_t bytes_per_s)
{
    uint64_t target_bytes = ps_bench_target_bytes(s->bench, 0);
    uint64_t round_ns = 0;

    s->chosen_count = 0;
    for (uint32_t i = 0; i < POINT_COUNT; i++) {
        const struct ps_probe_point *point = point_at(s->result, i);
        if (in_flight_bytes(point) <= bytes_max && point->request_bytes <= target_bytes)
            s->chosen[s->chosen_count++] = i;
    }
    s->slice_ns = s->budget_ns / (ROUNDS_WANTED * ps_max_u64(s->chosen_count, 1));
    s->slice_ns = ps_min_u64(ps_max_u64(s->slice_ns, SLICE_NS_MIN), SLICE_NS_MAX);
    for (uint32_t i = 0; i < s->chosen_count; i++)
        round_ns += point_ns(s, point_at(s->result, s->chosen[i]), bytes_per_s);
    return round_ns;
}

/*
 * A first measurement tells how fast the drive is about, and so which points would take too long;
 * it also wakes the drive and spends what a throttle lets through at first.
 */
static int plan(struct sweep *s, struct ps_error *err)
{
    uint64_t target_bytes = ps_bench_target_bytes(s->bench, 0);
    struct ps_probe_point first = {.request_bytes = 1u << 20, .depth = 8};
    struct ps_measure_result measured;

    while (first.request_bytes > target_bytes && first.request_bytes > SIZE_BYTES_MIN)
        first.request_bytes /= 2;
    s->slice_ns = SLICE_NS_MAX;
    int rc = read_point(s, &first, s->seed++, &measured, err);
    if (rc < 0)
        return rc;
    uint64_t bytes_per_s = ps_max_u64(measured.steady_bytes_per_s, 1);
    uint64_t bytes_max = IN_FLIGHT_BYTES_MAX;
    while (bytes_max > IN_FLIGHT_BYTES_MIN &&
           (double)bytes_max / (double)bytes_per_s * 1e9 > (double)IN_FLIGHT_NS_MAX)
        bytes_max /= 2;
    while (choose(s, bytes_max, bytes_per_s) > s->budget_ns && bytes_max > IN_FLIGHT_BYTES_MIN)
        bytes_max /= 2;
    return 0;
}

static void report_progress(const struct sweep *s)
{
    uint64_t passed_ns = ps_now_ns() - s->begin_ns;

    if (s->options->progress != NULL)
        s->options->progress(s->options->progress_ctx, ps_min_u64(passed_ns, s->budget_ns),
                             s->budget_ns);
}

static int read_round(struct sweep *s, struct ps_error *err)
{
    uint32_t round = s->result->round_count;
    struct ps_measure_result measured;

    for (uint32_t i = 0; i < s->chosen_count; i++) {
        uint32_t number = s->chosen[ps_bench_shuffle(i, s->chosen_count, round)];
        int rc = read_point(s, point_at(s->result, number), s->seed++, &measured, err);
        if (rc < 0)
            return rc;
        s->bytes_per_s[number][round] = measured.steady_bytes_per_s;
        s->p50_ns[number][round] = measured.latency_p50_ns;
        s->p99_ns[number][round] = measured.latency_p99_ns;
        s->result->is_blank = s->result->is_blank && measured.is_blank;
        memcpy(s->result->engine, measured.engine, sizeof(measured.engine));
        s->result->direct = measured.direct;
        s->result->registered = measured.registered;
        report_progress(s);
    }
    s->result->round_count++;
    return 0;
}

static int sweep(struct sweep *s, struct ps_error *err)
{
    uint32_t *rounds = &s->result->round_count;
    uint64_t round_ns = 0;
    int rc = plan(s, err);

    s->result->is_blank = true;
    while (rc == 0 && *rounds < ROUNDS_MAX) {
        uint64_t round_begin_ns = ps_now_ns();
        rc = read_round(s, err);
        uint64_t now_ns = ps_now_ns();
        round_ns = ps_max_u64(round_ns, now_ns - round_begin_ns);
        if (now_ns - s->begin_ns + round_ns > s->budget_ns)
            break;
    }
    for (uint32_t i = 0; i < s->chosen_count && rc == 0; i++) {
        uint32_t number = s->chosen[i];
        struct ps_probe_point *point = point_at(s->result, number);
        point->bytes_per_s = median(s->bytes_per_s[number], *rounds);
        point->latency_p50_ns = median(s->p50_ns[number], *rounds);
        point->latency_p99_ns = median(s->p99_ns[number], *rounds);
    }
    return rc;
}

/* The knee, in turns alone and beside busy processors: what serves the drive may need them, too. */
static int measure_busy(struct sweep *s, struct ps_error *err)
{
    const struct ps_member_profile *knee = &s->result->profile;
    struct ps_bench_point read = {
        .request_bytes = knee->request_bytes,
        .depth = knee->depth,
        .ns_max = s->slice_ns,
        .request_count_min = knee->depth,
        .stop = s->options->stop,
    };
    uint64_t bytes[2] = {0}, ns[2] = {0};
    struct ps_measure_result measured;

    for (uint32_t i = 0; i < 2 * BUSY_TURNS; i++) {
        read.is_beside_busy = i % 2;
        read.seed = s->seed++;
        int rc = ps_bench_read(s->bench, &read, &measured, err);
        if (rc < 0)
            return rc;
        bytes[i % 2] += measured.bytes;
        ns[i % 2] += measured.ns;
    }
    double share = (double)bytes[1] / (double)ns[1] * (double)ns[0] / (double)bytes[0];
    s->result->busy_share = share < 1 ? share : 1;
    return 0;
}

int ps_probe_run(const struct ps_probe_options *options, struct ps_probe_result *result,
                 struct ps_error *err)
{
    struct ps_probe_result probed = {0};
    struct sweep *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return ps_error_set(err, -ENOMEM, options->path, "not enough memory");
    s->options = options;
    s->result = &probed;
    s->begin_ns = s->seed = ps_now_ns();
    s->budget_ns = options->ns_max != 0 ? options->ns_max : NS_DEFAULT;
    ps_sweep_points(&probed);
    int rc = ps_bench_open(&s->bench, &options->path, 1, options->engine, DEPTH_MAX,
                           IN_FLIGHT_BYTES_MAX, err);
    if (rc == 0 && ps_bench_target_bytes(s->bench, 0) < SIZE_BYTES_MIN)
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, options->path,
                          "it is shorter than the smallest read of %u bytes", SIZE_BYTES_MIN);
    if (rc == 0)
        rc = sweep(s, err);
    if (rc == 0) {
        ps_sweep_judge(&probed);
        rc = measure_busy(s, err);
    }
    if (rc == 0)
        *result = probed;
    ps_bench_close(&s->bench);
    free(s);
    return rc;
}
