/*
 * The search for the least error, written once over sixteen lanes and included by one file per CPU
 * level. That file first defines
 *     v16, vmask   sixteen floats and sixteen truth values, and the v_ operations on them
 *     turn_in      n values of each of sixteen sub-blocks to n times sixteen lanes
 *     turn_out     four words of sixteen lanes to the sixteen bytes of each
 *     encode_q8_0  blocks of Q8_0, which need no search
 * and afterwards finds encode_rows(). Everything here is static; nothing but an encode<_level>.c
 * may include this.
 *
 * Why all levels give the same bits: each lane is a sub-block of its own, every operation is one
 * IEEE operation per lane, and sums run over the values of a sub-block in ascending order, even and
 * odd ones apart. Lanes meet only in plain loops over the few sub-blocks of a block.
 *
 * Why no error is compared through a scale that was not rounded yet: where a format stores scales
 * in coarse steps (Q4_K, Q6_K), the step moves the result more than the search does.
 */
#define LANES PS_ENCODE_LANES
#define VALUE_MAX 0x1p50f

typedef float lanes[LANES] __attribute__((aligned(64)));

/* The values of sixteen sub-blocks and, where there is an importance, their weights. */
struct group {
    lanes x[32], w[32];
};

static ALWAYS_INLINE v16 v_clamp(v16 v, v16 low, v16 high)
{
    return v_min(v_max(v, low), high);
}

static ALWAYS_INLINE v16 v_negate(v16 v)
{
    return v_sub(v_set1(0), v);
}

/* 1 / v, or 0 where |v| is too small for a scale that could be stored. */
static ALWAYS_INLINE v16 v_inverse(v16 v)
{
    v16 zero = v_set1(0);
    vmask none = v_less(v_abs(v), v_set1(PS_HALF_MIN / 4));

    return v_pick(none, zero, v_div(v_set1(1), v_pick(none, v_set1(1), v)));
}

/* v times the weights of value k, all 1 without importance. */
static ALWAYS_INLINE v16 weigh(const struct group *g, bool weighted, int k, v16 v)
{
    return weighted ? v_mul(v_load(g->w[k]), v) : v;
}

/* The nearest scale that a half can hold; none but 0 itself becomes 0. */
static ALWAYS_INLINE v16 nearest_half(v16 v)
{
    v16 h = v_half(v_clamp(v, v_set1(-PS_HALF_MAX), v_set1(PS_HALF_MAX)));
    v16 least = v_pick(v_less(v, v_set1(0)), v_set1(-PS_HALF_MIN), v_set1(PS_HALF_MIN));

    least = v_pick(v_less(v_abs(v), v_set1(PS_HALF_MIN / 64)), v_set1(0), least);
    return v_pick(v_less(v_abs(h), v_set1(PS_HALF_MIN)), least, h);
}

static ALWAYS_INLINE float nearest_half_of(float f)
{
    float h = ps_f16_to_f32(ps_f32_to_f16(f < PS_HALF_MAX ? f : PS_HALF_MAX));

    return h < PS_HALF_MIN ? PS_HALF_MIN : h;
}

static ALWAYS_INLINE void store_half(uint8_t *dst, float f)
{
    uint16_t h = ps_f32_to_f16(f);

    dst[0] = (uint8_t)h;
    dst[1] = (uint8_t)(h >> 8);
}

/* Numbers that no sum survives: NaN, infinities, and what is as good as one. */
static ALWAYS_INLINE void clean(struct group *g, int n)
{
    v16 probe = v_set1(0);

    for (int k = 0; k < n; k++)
        probe = v_fma(v_load(g->x[k]), v_set1(0x1p127f / VALUE_MAX), probe);
    if (v_all(v_less(v_abs(probe), v_set1(INFINITY))))
        return;
    for (int k = 0; k < n; k++)
        for (int l = 0; l < LANES; l++) {
            float x = g->x[k][l];
            x = x < VALUE_MAX ? x : x >= VALUE_MAX ? VALUE_MAX : 0;
            g->x[k][l] = x > -VALUE_MAX ? x : -VALUE_MAX;
        }
}

/* Weights of 1 on average; of sub-blocks without any, all of them 1. */
static ALWAYS_INLINE void even_out(struct group *g, int n)
{
    v16 sum = v_set1(0);

    for (int k = 0; k < n; k++)
        sum = v_add(sum, v_load(g->w[k]));
    vmask none = v_less(sum, v_set1(0x1p-100f));
    v16 factor = v_div(v_set1((float)n), v_pick(none, v_set1(1), sum));
    for (int k = 0; k < n; k++)
        v_store(g->w[k], v_pick(none, v_set1(1), v_mul(v_load(g->w[k]), factor)));
}

/* The value of largest magnitude, with its sign. */
static ALWAYS_INLINE v16 find_top(const struct group *g, int n)
{
    v16 low = v_set1(0), high = v_set1(0);

    for (int k = 0; k < n; k++) {
        v16 x = v_load(g->x[k]);
        low = v_min(low, x);
        high = v_max(high, x);
    }
    return v_pick(v_less(v_negate(low), high), high, low);
}

/* Candidates are kept when they are better; the first of equals stays. */
struct choice {
    v16 error, value;
};

static ALWAYS_INLINE void choose(struct choice *c, v16 error, v16 value)
{
    vmask better = v_less(error, c->error);

    c->error = v_pick(better, error, c->error);
    c->value = v_pick(better, value, c->value);
}

/* ---- Q4_0: x = d q, q in [-8, 7] ---- */

/* d of the least squares; *error is the weighted squared error less a constant, sum w x^2. */
static ALWAYS_INLINE v16 q4_0_solve(v16 xq, v16 qq, v16 *error)
{
    v16 d = v_div(xq, v_pick(v_less(v_set1(0), qq), qq, v_set1(1)));

    *error = v_negate(v_mul(d, xq));
    return d;
}

/* One rounding with weights, and the least squares that follow from it. */
static ALWAYS_INLINE void q4_0_try(const struct group *g, v16 inverse, struct choice *best)
{
    const v16 zero = v_set1(0);
    v16 xq[2] = {zero, zero}, qq[2] = {zero, zero}, error;

    for (int k = 0; k < 32; k++) {
        v16 x = v_load(g->x[k]);
        v16 q = v_round(v_clamp(v_mul(x, inverse), v_set1(-8), v_set1(7)));
        v16 wq = v_mul(v_load(g->w[k]), q);
        xq[k & 1] = v_fma(x, wq, xq[k & 1]);
        qq[k & 1] = v_fma(q, wq, qq[k & 1]);
    }
    v16 d = q4_0_solve(v_add(xq[0], xq[1]), v_add(qq[0], qq[1]), &error);
    choose(best, error, d);
}

/*
 * The scale maps the largest value to one of these, most often slightly beyond the end of the
 * range, where it is cut and all others gain. Weights can make it worth to cut much more, or to use
 * the shorter side.
 */
static const float q4_0_tops[3] = {-8.0f, -7.2f, -8.49f};
static const float q4_0_weighted_tops[] = {-8.0f, -7.2f, -8.5f,  -7.6f, -9.1f, -6.8f, 7.5f,
                                           8.3f,  -9.8f, -10.5f, -7.8f, 7.1f,  -8.25f};

/*
 * Without weights all three are tried in one pass, which hides the latency of each. The largest
 * value lies above -8.5, so that nothing is rounded to less than -8.
 */
static ALWAYS_INLINE void q4_0_try_three(const struct group *g, v16 unit, struct choice *best)
{
    const v16 zero = v_set1(0), high = v_set1(7);
    v16 inverse[3], xq[3] = {zero, zero, zero}, qq[3] = {zero, zero, zero};

    for (int i = 0; i < 3; i++)
        inverse[i] = v_mul(v_set1(q4_0_tops[i]), unit);
    for (int k = 0; k < 32; k++) {
        v16 x = v_load(g->x[k]);
        for (int i = 0; i < 3; i++) {
            v16 q = v_round(v_min(v_mul(x, inverse[i]), high));
            xq[i] = v_fma(x, q, xq[i]);
            qq[i] = v_fma(q, q, qq[i]);
        }
    }
    for (int i = 0; i < 3; i++) {
        v16 error, d = q4_0_solve(xq[i], qq[i], &error);
        choose(best, error, d);
    }
}

/* q + 8, a nibble each, in the order of the block: values i and i + 16 share byte i. */
static ALWAYS_INLINE void q4_0_pack(const struct group *g, v16 d, uint8_t (*bytes)[16])
{
    const v16 inverse = v_inverse(d);
    uint32_t words[4][LANES];

    for (int j = 0; j < 4; j++) {
        v16 part[2];
        for (int h = 0; h < 2; h++) {
            part[h] = v_set1(8 * 0x1111);
            for (int i = 0; i < 4; i++) {
                v16 x = v_load(g->x[4 * j + 2 * h + i / 2 + i % 2 * 16]);
                v16 q = v_round(v_clamp(v_mul(x, inverse), v_set1(-8), v_set1(7)));
                part[h] = v_fma(q, v_set1((float)(1 << 4 * i)), part[h]);
            }
        }
        v_words(words[j], part[0], part[1]);
    }
    turn_out((const uint32_t(*)[LANES])words, bytes);
}

static ALWAYS_INLINE void q4_0_group(struct group *g, bool weighted, uint8_t *dst, size_t count)
{
    v16 unit = v_inverse(find_top(g, 32));
    struct choice best = {v_set1(0), v_set1(0)};
    uint8_t bytes[LANES][16];
    lanes d;

    if (!weighted)
        q4_0_try_three(g, unit, &best);
    for (size_t i = 0; i < PS_ARRAY_LEN(q4_0_weighted_tops) && weighted; i++)
        q4_0_try(g, v_mul(v_set1(q4_0_weighted_tops[i]), unit), &best);
    best.value = nearest_half(best.value);
    v_store(d, best.value);
    q4_0_pack(g, best.value, bytes);
    for (size_t b = 0; b < count; b++, dst += 18) {
        store_half(dst, d[b]);
        memcpy(dst + 2, bytes[b], 16);
    }
}

/* ---- MXFP4: x = 2^(e - 128) q, |q| in {0, 1, 2, 3, 4, 6, 8, 12} ---- */

/* The nearest |q|: from 2 on these are the numbers of two significant bits. */
static ALWAYS_INLINE v16 mxfp4_round(v16 u)
{
    u = v_min(u, v_set1(12));
    return v_pick(v_less(u, v_set1(2)), v_round(u), v_snap(u));
}

/* The code of q for x: its place in the row above, and 8 for a minus. */
static ALWAYS_INLINE v16 mxfp4_code(v16 x, v16 q)
{
    const v16 zero = v_set1(0), four = v_set1(4);
    v16 code = v_min(q, four);

    code = v_fma(v_clamp(v_sub(q, four), zero, four), v_set1(0.5f), code);
    code = v_fma(v_max(v_sub(q, v_set1(8)), zero), v_set1(0.25f), code);
    return v_add(code, v_pick(v_less(v_mul(x, q), zero), v_set1(8), zero));
}

static ALWAYS_INLINE v16 mxfp4_error(const struct group *g, bool weighted, v16 inverse)
{
    v16 e[2] = {v_set1(0), v_set1(0)};

    for (int k = 0; k < 32; k++) {
        v16 u = v_mul(v_abs(v_load(g->x[k])), inverse);
        v16 d = v_sub(u, mxfp4_round(u));
        e[k & 1] = v_fma(d, weigh(g, weighted, k, d), e[k & 1]);
    }
    return v_add(e[0], e[1]);
}

static ALWAYS_INLINE void mxfp4_pack(const struct group *g, v16 inverse, uint8_t (*bytes)[16])
{
    uint32_t words[4][LANES];

    for (int j = 0; j < 4; j++) {
        v16 part[2];
        for (int h = 0; h < 2; h++) {
            part[h] = v_set1(0);
            for (int i = 0; i < 4; i++) {
                v16 x = v_load(g->x[4 * j + 2 * h + i / 2 + i % 2 * 16]);
                v16 code = mxfp4_code(x, mxfp4_round(v_mul(v_abs(x), inverse)));
                part[h] = v_fma(code, v_set1((float)(1 << 4 * i)), part[h]);
            }
        }
        v_words(words[j], part[0], part[1]);
    }
    turn_out((const uint32_t(*)[LANES])words, bytes);
}

/*
 * A scale is a power of two: the one that maps the largest value into [8, 16), where it is cut to
 * 12 if need be, its double, its half, and with weights a quarter. Errors are compared in units of
 * the first, so that nothing overflows.
 */
static ALWAYS_INLINE void mxfp4_group(struct group *g, bool weighted, uint8_t *dst, size_t count)
{
    static const float steps[] = {1, 2, 0.5f, 0.25f};
    const size_t n = weighted ? 4 : 3;
    v16 top = v_abs(find_top(g, 32)), power = v_max(v_pow2(top), v_set1(0x1p-120f));
    v16 unit = v_div(v_set1(8), power);
    struct choice best = {v_set1(INFINITY), v_set1(1)};
    uint8_t bytes[LANES][16];
    lanes scale, tops;

    for (size_t i = 0; i < n; i++) {
        v16 error = mxfp4_error(g, weighted, v_mul(unit, v_set1(1 / steps[i])));
        choose(&best, v_mul(error, v_set1(steps[i] * steps[i])), v_set1(steps[i]));
    }
    v_store(tops, top);
    v_store(scale, v_mul(power, best.value));
    mxfp4_pack(g, v_div(unit, best.value), bytes);
    for (size_t b = 0; b < count; b++, dst += 17) {
        uint32_t bits;
        memcpy(&bits, &scale[b], sizeof(bits));
        /* scale = 8 * 2^(e - 128), and the bias of a float's exponent is 127. */
        dst[0] = tops[b] > 0 ? (uint8_t)((bits >> 23) - 2) : 0;
        memcpy(dst + 1, bytes[b], 16);
    }
}
