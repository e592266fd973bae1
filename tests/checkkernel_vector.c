/* The vector kernels: all lengths around a register, in place where that is allowed. */
#include "checkkernel.h"

#include <math.h>
#include <string.h>

#define EPS 0x1p-24 /* half a unit in the last place of 1 */
#define TINY 0x1p-149

static size_t random_length(size_t low)
{
    static const size_t edges[] = {0,  1,  2,  3,  7,  8,  9,   15,  16,  17,  24,  31,  32,  33,
                                   47, 48, 49, 63, 64, 65, 100, 127, 128, 129, 255, 256, 257, 1000};
    size_t n;
    do {
        n = CHECK_PICK(edges);
    } while (n < low);
    return n;
}

static float random_scalar(enum check_kind kind)
{
    float f;
    check_fill(&f, 1, kind);
    return f;
}

/* A guarded copy, so that both tables start from the same bits. */
static float *copy_of(int slot, const float *x, size_t count)
{
    float *copy = check_floats(slot, count);
    memcpy(copy, x, count * sizeof(*x));
    return copy;
}

static float *filled(int slot, size_t count, enum check_kind kind)
{
    float *x = check_floats(slot, count);
    check_fill(x, count, kind);
    return x;
}

/* Exponents of every size, besides the kinds: most of the range of exp is far from 1. */
static void widen(float *x, size_t n)
{
    const float sizes[] = {1, 10, 40, 120};
    float size = CHECK_PICK(sizes);
    for (size_t i = 0; i < n; i++)
        x[i] *= size;
}

/* ---- Level against scalar ---- */

static void same_updates(const struct ps_kernels *s, const struct ps_kernels *v,
                         enum check_kind kind)
{
    size_t n = random_length(0);
    float a = random_scalar(kind);
    float *x = filled(0, n, kind), *y = filled(1, n, kind);

    check_case("axpy, %s, n %zu", check_kind_name(kind), n);
    float *e = copy_of(2, y, n), *g = copy_of(3, y, n);
    s->axpy(e, a, x, n);
    v->axpy(g, a, x, n);
    check_same("y", e, g, n);

    check_case("add, %s, n %zu", check_kind_name(kind), n);
    e = copy_of(2, y, n), g = copy_of(3, y, n);
    s->add(e, x, n);
    v->add(g, x, n);
    check_same("y", e, g, n);

    check_case("scale, %s, n %zu", check_kind_name(kind), n);
    s->scale(e, a, x, n);
    v->scale(g, a, x, n);
    check_same("y", e, g, n);
    g = copy_of(3, x, n);
    v->scale(g, a, g, n);
    check_same("y in place", e, g, n);
    check_done();
}

static void same_norms(const struct ps_kernels *s, const struct ps_kernels *v, enum check_kind kind)
{
    size_t n = random_length(1);
    float *x = filled(0, n, kind), *w = filled(1, n, kind);
    float *e = check_floats(2, n), *g = check_floats(3, n);

    check_case("dot, %s, n %zu", check_kind_name(kind), n);
    float de = s->dot(x, w, n), dg = v->dot(x, w, n);
    check_same("dot", &de, &dg, 1);

    check_case("rmsnorm, %s, n %zu", check_kind_name(kind), n);
    s->rmsnorm(e, x, w, n, 1e-6f);
    v->rmsnorm(g, x, w, n, 1e-6f);
    check_same("y", e, g, n);
    g = copy_of(3, x, n);
    v->rmsnorm(g, g, w, n, 1e-6f);
    check_same("y in place", e, g, n);

    check_case("l2norm, %s, n %zu", check_kind_name(kind), n);
    s->l2norm(e, x, n, 1e-6f, 0.0883883f);
    v->l2norm(g, x, n, 1e-6f, 0.0883883f);
    check_same("y", e, g, n);
    g = copy_of(3, x, n);
    v->l2norm(g, g, n, 1e-6f, 0.0883883f);
    check_same("y in place", e, g, n);
    check_done();
}

static void same_gates(const struct ps_kernels *s, const struct ps_kernels *v, enum check_kind kind)
{
    size_t n = random_length(0);
    float *gate = filled(0, n, kind), *up = filled(1, n, kind);
    float *e = check_floats(2, n), *g = check_floats(3, n);
    widen(gate, n);

    check_case("swiglu, %s, n %zu", check_kind_name(kind), n);
    s->swiglu(e, gate, up, n);
    v->swiglu(g, gate, up, n);
    check_same("y", e, g, n);
    g = copy_of(3, gate, n);
    v->swiglu(g, g, up, n);
    check_same("y in gate", e, g, n);
    g = copy_of(3, up, n);
    v->swiglu(g, gate, g, n);
    check_same("y in up", e, g, n);

    check_case("silu, %s, n %zu", check_kind_name(kind), n);
    s->silu(e, gate, n);
    g = copy_of(3, gate, n);
    v->silu(g, g, n);
    check_same("y in place", e, g, n);

    check_case("sigmoid_mul, %s, n %zu", check_kind_name(kind), n);
    s->sigmoid_mul(e, up, gate, n);
    g = copy_of(3, up, n);
    v->sigmoid_mul(g, g, gate, n);
    check_same("y in place", e, g, n);
    check_done();
}

static void same_softmax(const struct ps_kernels *s, const struct ps_kernels *v,
                         enum check_kind kind)
{
    size_t n = random_length(1);
    float *x = filled(0, n, kind);
    widen(x, n);
    if (check_random() % 4 == 0)
        x[check_between(0, n - 1)] = -INFINITY; /* a masked score */

    check_case("softmax, %s, n %zu", check_kind_name(kind), n);
    float *e = copy_of(2, x, n), *g = copy_of(3, x, n);
    s->softmax(e, n);
    v->softmax(g, n);
    check_same("x", e, g, n);
    check_done();
}

/* *max and *sum of earlier parts, or as they begin. */
static void same_softmax_part(const struct ps_kernels *s, const struct ps_kernels *v,
                              enum check_kind kind)
{
    size_t n = random_length(1);
    float *x = filled(0, n, kind), factor = random_scalar(CHECK_NORMAL);
    bool first = check_random() % 2;
    float before = random_scalar(kind), sum = fabsf(random_scalar(CHECK_NORMAL));
    float es[2] = {first ? -INFINITY : before, first ? 0 : sum}, gs[2] = {es[0], es[1]};
    widen(x, n);
    if (check_random() % 4 == 0)
        x[check_between(0, n - 1)] = -INFINITY;

    check_case("softmax_part, %s, n %zu", check_kind_name(kind), n);
    float *e = copy_of(2, x, n), *g = copy_of(3, x, n);
    float ef = s->softmax_part(e, n, factor, &es[0], &es[1]);
    float gf = v->softmax_part(g, n, factor, &gs[0], &gs[1]);
    check_same("x", e, g, n);
    check_same("max and sum", es, gs, 2);
    check_same("factor", &ef, &gf, 1);
    check_done();
}

/* Values of a cache: floats of a kind in the type, each row at its stride. */
static void same_weighted_sum(const struct ps_kernels *s, const struct ps_kernels *v,
                              enum check_kind kind)
{
    static const uint32_t types[] = {PS_TYPE_F32, PS_TYPE_F16, PS_TYPE_Q8_0};
    static const size_t dims[] = {1, 15, 16, 31, 32, 33, 64, 80, 128, 256};
    static const size_t counts[] = {1, 2, 3, 4, 7, 8, 9, 10, 11, 16};
    uint32_t type = CHECK_PICK(types);
    size_t dim = CHECK_PICK(dims), n = CHECK_PICK(counts), positions = check_between(0, 40);
    dim = type == PS_TYPE_Q8_0 ? (dim + 31) / 32 * 32 : dim;
    size_t row_bytes = (size_t)ps_row_bytes(type, dim), gap = check_between(0, 40);
    size_t ldw = positions + check_between(0, 3), ldy = dim + check_between(0, 3);
    size_t stride = row_bytes + gap, y_len = (n - 1) * ldy + dim;
    uint8_t *values = check_bytes(0, positions ? (positions - 1) * stride + row_bytes : 0);
    float *weight = filled(1, positions ? (n - 1) * ldw + positions : 0, kind);
    float *y = filled(2, y_len, kind), row[256];

    for (size_t p = 0; p < positions; p++) {
        check_fill(row, dim, kind);
        ps_row_encode(type, row, values + p * stride, dim);
    }
    check_case("weighted_sum %s, %s, dim %zu, positions %zu, n %zu", ps_type_info(type)->name,
               check_kind_name(kind), dim, positions, n);
    struct ps_weighted_sum w = {.type = type,
                                .v = values,
                                .v_stride_bytes = stride,
                                .positions = positions,
                                .dim = dim,
                                .weight = weight,
                                .ldw = ldw,
                                .y = copy_of(3, y, y_len),
                                .ldy = ldy,
                                .n = n};
    float *expected = w.y;
    s->weighted_sum(&w);
    w.y = copy_of(4, y, y_len);
    v->weighted_sum(&w);
    check_same("y", expected, w.y, y_len);
    check_done();
}

static void same_delta(const struct ps_kernels *s, const struct ps_kernels *v, enum check_kind kind)
{
    static const size_t heights[] = {1, 2, 16, 64, 128};
    static const size_t widths[] = {1, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 80, 100, 128};
    size_t dk = CHECK_PICK(heights), dv = CHECK_PICK(widths);
    float *state = filled(0, dk * dv, kind), *q = filled(1, dk, kind), *k = filled(2, dk, kind);
    float *values = filled(3, dv, kind), *tmp = check_floats(4, dv);
    float *es = copy_of(5, state, dk * dv), *gs = copy_of(6, state, dk * dv);
    float *e = check_floats(7, dv), *g = check_floats(8, dv);
    float decay = fabsf(random_scalar(CHECK_NORMAL)) / 4, beta = random_scalar(kind);

    check_case("delta_step, %s, dk %zu, dv %zu", check_kind_name(kind), dk, dv);
    s->delta_step(es, q, k, values, e, tmp, dk, dv, decay, beta);
    v->delta_step(gs, q, k, values, g, tmp, dk, dv, decay, beta);
    check_same("o", e, g, dv);
    check_same("state", es, gs, dk * dv);
    check_done();
}

static void same_conv(const struct ps_kernels *s, const struct ps_kernels *v, enum check_kind kind)
{
    size_t channels = random_length(1), taps = check_random() % 4 == 0 ? check_between(1, 6) : 4;
    size_t past = (taps - 1) * channels;
    float *history = filled(0, past, kind), *x = filled(1, channels, kind);
    float *w = filled(2, taps * channels, kind);
    float *eh = copy_of(3, history, past), *gh = copy_of(4, history, past);
    float *e = check_floats(5, channels), *g = check_floats(6, channels);

    check_case("conv_step, %s, channels %zu, taps %zu", check_kind_name(kind), channels, taps);
    s->conv_step(e, eh, x, w, channels, taps);
    v->conv_step(g, gh, x, w, channels, taps);
    check_same("y", e, g, channels);
    check_same("history", eh, gh, past);
    check_done();
}

static void same_rope(const struct ps_kernels *s, const struct ps_kernels *v, enum check_kind kind)
{
    size_t half = random_length(0);
    float *x = filled(0, 2 * half, kind), *c = filled(1, half, kind), *sine = filled(2, half, kind);
    float *e = copy_of(3, x, 2 * half), *g = copy_of(4, x, 2 * half);

    check_case("rope, %s, half %zu", check_kind_name(kind), half);
    s->rope(e, c, sine, half);
    v->rope(g, c, sine, half);
    check_same("x", e, g, 2 * half);
    check_done();
}

/* Magnitudes about those of halves, large, ordinary and denormal, and some just between two of
 * them.
 */
static void same_to_half(const struct ps_kernels *s, const struct ps_kernels *v,
                         enum check_kind kind)
{
    size_t n = random_length(0);
    float *x = filled(0, n, kind);
    uint16_t *e = check_bytes(1, n * sizeof(*e)), *g = check_bytes(2, n * sizeof(*g));
    float size = ldexpf(1, (int)check_between(0, 44) - 28);

    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof(bits));
        if (check_random() % 2 && isfinite(x[i]))
            bits = (bits & 0xffffe000) | (uint32_t)(0x0fff + check_between(0, 2));
        memcpy(&x[i], &bits, sizeof(bits));
        x[i] *= size;
    }
    check_case("to_half, %s, n %zu", check_kind_name(kind), n);
    s->to_half(e, x, n);
    v->to_half(g, x, n);
    check_same_bytes("y", (const uint8_t *)e, (const uint8_t *)g, n * sizeof(*e));
    check_done();
}

void check_vectors(const struct ps_kernels *scalar, const struct ps_kernels *level)
{
    for (int kind = 0; kind < CHECK_KIND_COUNT; kind++) {
        for (int i = 0; i < 150; i++) {
            same_updates(scalar, level, (enum check_kind)kind);
            same_norms(scalar, level, (enum check_kind)kind);
            same_gates(scalar, level, (enum check_kind)kind);
            same_softmax(scalar, level, (enum check_kind)kind);
            same_softmax_part(scalar, level, (enum check_kind)kind);
            same_weighted_sum(scalar, level, (enum check_kind)kind);
            same_conv(scalar, level, (enum check_kind)kind);
            same_rope(scalar, level, (enum check_kind)kind);
            same_to_half(scalar, level, (enum check_kind)kind);
        }
        for (int i = 0; i < 40; i++)
            same_delta(scalar, level, (enum check_kind)kind);
    }
}

/* ---- Scalar against doubles ---- */

/* Bound of a sum of n products in sixteen lanes, m the sum of their magnitudes. */
static double sum_bound(size_t n, double m)
{
    return ((double)(n / PS_LANES) + 6) * (EPS * m + TINY);
}

static void oracle_norms(const struct ps_kernels *s, enum check_kind kind)
{
    size_t n = random_length(1);
    float *x = filled(0, n, kind), *w = filled(1, n, kind), *y = check_floats(2, n);
    double sum = 0, magnitude = 0, squares = 0;

    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)w[i];
        magnitude += fabs((double)x[i] * (double)w[i]);
        squares += (double)x[i] * (double)x[i];
    }
    check_case("dot against doubles, %s, n %zu", check_kind_name(kind), n);
    check_near("dot", 0, sum, sum_bound(n, magnitude), s->dot(x, w, n));

    const double relative = ((double)(n / PS_LANES) + 12) * EPS;
    check_case("rmsnorm against doubles, %s, n %zu", check_kind_name(kind), n);
    s->rmsnorm(y, x, w, n, 1e-6f);
    double rms = 1 / sqrt(squares / (double)n + (double)1e-6f);
    for (size_t i = 0; i < n; i++) {
        double exact = (double)x[i] * rms * (double)w[i];
        /* A denormal x loses up to half of TINY before w multiplies it. */
        check_near("y", i, exact, relative * fabs(exact) + TINY * (1 + fabs((double)w[i])), y[i]);
    }
    check_case("l2norm against doubles, %s, n %zu", check_kind_name(kind), n);
    s->l2norm(y, x, n, 1e-6f, 0.25f);
    double l2 = 1 / sqrt(squares + (double)1e-6f);
    for (size_t i = 0; i < n; i++) {
        double exact = (double)x[i] * l2 * 0.25;
        check_near("y", i, exact, relative * fabs(exact) + TINY, y[i]);
    }
    check_done();
}

static double silu_exact(double v)
{
    return v / (1 + exp(-v));
}

/*
 * exp is within 2 units of 2 EPS, the sum and the quotient within EPS each. Below -88.7 exp(-v)
 * overflows and the result is 0 where about 1e-36 would be right.
 */
static double gate_bound(double exact, double argument)
{
    return 8 * EPS * fabs(exact) + (argument < -88 ? 2e-36 : TINY);
}

static void oracle_gates(const struct ps_kernels *s, enum check_kind kind)
{
    size_t n = random_length(0);
    float *gate = filled(0, n, kind), *up = filled(1, n, kind), *y = check_floats(2, n);
    widen(gate, n);

    check_case("silu against doubles, %s, n %zu", check_kind_name(kind), n);
    s->silu(y, gate, n);
    for (size_t i = 0; i < n; i++) {
        double v = (double)gate[i], exact = silu_exact(v);
        check_near("y", i, exact, gate_bound(exact, v), y[i]);
    }
    check_case("swiglu against doubles, %s, n %zu", check_kind_name(kind), n);
    s->swiglu(y, gate, up, n);
    for (size_t i = 0; i < n; i++) {
        double v = (double)gate[i], u = (double)up[i], exact = silu_exact(v);
        check_near("y", i, exact * u, gate_bound(exact, v) * (fabs(u) + 0.25) + TINY, y[i]);
    }
    check_case("sigmoid_mul against doubles, %s, n %zu", check_kind_name(kind), n);
    s->sigmoid_mul(y, up, gate, n);
    for (size_t i = 0; i < n; i++) {
        double v = (double)gate[i], u = (double)up[i], exact = 1 / (1 + exp(-v));
        check_near("y", i, exact * u, gate_bound(exact, v) * (fabs(u) + 0.25) + TINY, y[i]);
    }
    check_done();
}

static void oracle_softmax(const struct ps_kernels *s, enum check_kind kind)
{
    size_t n = random_length(1);
    float *x = filled(0, n, kind);
    widen(x, n);
    float *y = copy_of(1, x, n);
    double max = -INFINITY, sum = 0;

    for (size_t i = 0; i < n; i++)
        max = fmax(max, (double)x[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);

    check_case("softmax against doubles, %s, n %zu", check_kind_name(kind), n);
    s->softmax(y, n);
    for (size_t i = 0; i < n; i++) {
        double exact = exp((double)x[i] - max) / sum;
        /* The difference x - max is rounded, and exp turns that absolute error into a relative one.
         */
        double relative = ((double)(n / PS_LANES) + 16 + fabs((double)x[i] - max)) * EPS;
        check_near("x", i, exact, relative * exact + 2 * TINY, y[i]);
    }
    check_done();
}

/* Two parts and their values, as attention goes through the positions. */
static void oracle_attention(const struct ps_kernels *s, enum check_kind kind)
{
    enum { DIM = 40 };
    size_t n[2] = {check_between(1, 50), check_between(1, 50)}, all = n[0] + n[1];
    float *x = filled(0, all, kind), *values = filled(1, all * DIM, kind);
    float y[DIM] = {0}, max = -INFINITY, sum = 0;
    double top = -INFINITY, total = 0;

    check_case("attention against doubles, %s, n %zu and %zu", check_kind_name(kind), n[0], n[1]);
    for (size_t i = 0; i < all; i++)
        top = fmax(top, 0.25 * (double)x[i]);
    for (size_t i = 0; i < all; i++)
        total += exp(0.25 * (double)x[i] - top);
    float *weight = copy_of(2, x, all);
    for (size_t part = 0, at = 0; part < 2; at += n[part++]) {
        float factor = s->softmax_part(weight + at, n[part], 0.25f, &max, &sum);
        s->scale(y, factor, y, DIM);
        struct ps_weighted_sum w = {PS_TYPE_F32,
                                    values + at * DIM,
                                    DIM * sizeof(float),
                                    n[part],
                                    DIM,
                                    weight + at,
                                    all,
                                    y,
                                    DIM,
                                    1};
        s->weighted_sum(&w);
    }
    for (size_t i = 0; i < DIM; i++) {
        double exact = 0, size = 0;
        for (size_t p = 0; p < all; p++) {
            double term = exp(0.25 * (double)x[p] - top) / total * (double)values[p * DIM + i];
            exact += term;
            size += fabs(term);
        }
        check_near("y", i, exact, 300 * (EPS * size + TINY), y[i] / sum);
    }
    check_done();
}

/* One column: the same recurrence in double, its error bounds carried along. */
static void oracle_delta_column(const float *state, const float *q, const float *k, size_t dk,
                                size_t dv, size_t j, const float *scalars, const float *got_state,
                                float got_o)
{
    double decay = (double)scalars[0], beta = (double)scalars[1], v = (double)scalars[2];
    double inner = 0, inner_size = 0, o = 0, o_size = 0, o_carried = 0;

    for (size_t i = 0; i < dk; i++) {
        double product = decay * (double)state[i * dv + j] * (double)k[i];
        inner += product;
        inner_size += fabs(product);
    }
    double d = beta * (v - inner), steps = (double)dk + 4;
    double d_bound = steps * (EPS * fabs(beta) * (fabs(v) + inner_size) + TINY);
    for (size_t i = 0; i < dk; i++) {
        double old = decay * (double)state[i * dv + j], updated = old + (double)k[i] * d;
        double bound = 3 * EPS * (fabs(old) + fabs((double)k[i] * d)) +
                       fabs((double)k[i]) * d_bound + 2 * TINY;
        check_near("state", i * dv + j, updated, bound, got_state[i * dv + j]);
        o += updated * (double)q[i];
        o_size += fabs(updated * (double)q[i]);
        o_carried += bound * fabs((double)q[i]);
    }
    check_near("o", j, o, steps * (EPS * o_size + TINY) + o_carried, got_o);
}

static void oracle_delta(const struct ps_kernels *s, enum check_kind kind)
{
    const size_t dk = check_between(1, 64), dv = check_between(1, 40);
    float *state = filled(0, dk * dv, kind), *q = filled(1, dk, kind), *k = filled(2, dk, kind);
    float *v = filled(3, dv, kind), *tmp = check_floats(4, dv), *o = check_floats(5, dv);
    float *got = copy_of(6, state, dk * dv);
    float decay = (float)check_between(1, 1000) / 1000, beta = (float)check_between(0, 1000) / 1000;

    check_case("delta_step against doubles, %s, dk %zu, dv %zu", check_kind_name(kind), dk, dv);
    s->delta_step(got, q, k, v, o, tmp, dk, dv, decay, beta);
    for (size_t j = 0; j < dv; j++) {
        const float scalars[3] = {decay, beta, v[j]};
        oracle_delta_column(state, q, k, dk, dv, j, scalars, got, o[j]);
    }
    check_done();
}

static void oracle_conv(const struct ps_kernels *s, enum check_kind kind)
{
    const size_t channels = check_between(1, 40), taps = check_between(1, 6);
    const size_t past = (taps - 1) * channels;
    float *history = filled(0, past, kind), *x = filled(1, channels, kind);
    float *w = filled(2, taps * channels, kind), *y = check_floats(3, channels);
    float *got = copy_of(4, history, past);

    check_case("conv_step against doubles, %s, channels %zu, taps %zu", check_kind_name(kind),
               channels, taps);
    s->conv_step(y, got, x, w, channels, taps);
    for (size_t ch = 0; ch < channels; ch++) {
        double sum = 0, magnitude = 0;
        for (size_t i = 0; i < taps; i++) {
            double h = (double)(i + 1 < taps ? history[i * channels + ch] : x[ch]);
            sum += (double)w[ch * taps + i] * h;
            magnitude += fabs((double)w[ch * taps + i] * h);
        }
        /* silu is nowhere steeper than 1.1. */
        double bound =
            1.1 * (double)taps * (EPS * magnitude + TINY) + gate_bound(silu_exact(sum), sum);
        check_near("y", ch, silu_exact(sum), bound, y[ch]);
    }
    if (taps > 1) {
        check_same("older history", history + channels, got, past - channels);
        check_same("newest history", x, got + past - channels, channels);
    }
    check_done();
}

static void oracle_updates(const struct ps_kernels *s, enum check_kind kind)
{
    size_t n = random_length(1) / 2;
    float a = random_scalar(kind);
    float *x = filled(0, 2 * n, kind), *c = filled(1, n, kind), *sine = filled(2, n, kind);
    float *y = copy_of(3, x, 2 * n), *z = copy_of(4, c, n), *sum = copy_of(5, c, n);
    float *scaled = check_floats(6, n);

    check_case("axpy, add, scale, rope against doubles, %s, n %zu", check_kind_name(kind), n);
    s->rope(y, c, sine, n);
    s->axpy(z, a, x, n);
    s->add(sum, x, n);
    s->scale(scaled, a, x, n);
    for (size_t i = 0; i < n; i++) {
        double p = (double)x[i], q = (double)x[i + n], cosine = (double)c[i], si = (double)sine[i];
        double size = (fabs(p) + fabs(q)) * (fabs(cosine) + fabs(si));
        check_near("rope", i, p * cosine - q * si, 2 * EPS * size + 2 * TINY, y[i]);
        check_near("rope", i + n, q * cosine + p * si, 2 * EPS * size + 2 * TINY, y[i + n]);
        double product = (double)a * p;
        check_near("axpy", i, product + cosine, EPS * fabs(product + cosine) + TINY, z[i]);
        check_near("add", i, p + cosine, EPS * fabs(p + cosine), sum[i]);
        check_near("scale", i, product, EPS * fabs(product) + TINY, scaled[i]);
    }
    check_done();
}

static void oracle_exp(void)
{
    check_case("exp, sigmoid, softplus against doubles");
    for (int i = 0; i < 200000; i++) {
        float x = (float)((double)check_random() * 0x1p-32 * 210 - 110);
        double exact = exp((double)x);
        if (exact < 0x1.fffffep127)
            check_near("exp", 0, exact, 4 * EPS * exact + TINY, ps_expf(x));
        else
            check_near("1/exp", 0, 0, 0, 1 / ps_expf(x));
        double sigmoid = 1 / (1 + exp(-(double)x));
        check_near("sigmoid", 0, sigmoid, gate_bound(sigmoid, (double)x), ps_sigmoidf(x));
        double softplus = (double)x > 30 ? (double)x : log1p(exact);
        check_near("softplus", 0, softplus, 2 * EPS * softplus + TINY, ps_softplusf(x));
    }
    const float edges[5] = {ps_expf(-INFINITY), ps_expf(INFINITY), ps_expf(NAN), ps_expf(0),
                            ps_expf(-0.0f)};
    const float expected[5] = {0, INFINITY, NAN, 1, 1};
    check_same("exp at its edges", expected, edges, 5);
}

void check_vectors_oracle(const struct ps_kernels *scalar)
{
    oracle_exp();
    for (int kind = 0; kind < CHECK_ORACLE_KINDS; kind++) {
        for (int i = 0; i < 50; i++) {
            oracle_norms(scalar, (enum check_kind)kind);
            oracle_gates(scalar, (enum check_kind)kind);
            oracle_softmax(scalar, (enum check_kind)kind);
            oracle_attention(scalar, (enum check_kind)kind);
            oracle_delta(scalar, (enum check_kind)kind);
            oracle_conv(scalar, (enum check_kind)kind);
            oracle_updates(scalar, (enum check_kind)kind);
        }
    }
}
