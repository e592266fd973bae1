/* Q6_K and Q4_K over lanes; continues encode_lanes.h. */

/* ---- Q6_K: sixteen sub-blocks of 16, x = d c q, c in [-127, 127], q in [-32, 31] ---- */

#define Q6_K_MIDDLE 121 /* where the largest sub-block's c begins: its search has room to 127 */
#define Q6_K_BELOW 7
#define Q6_K_ABOVE 6

static ALWAYS_INLINE v16 q6_k_round(v16 x, v16 inverse)
{
    return v_round(v_clamp(v_mul(x, inverse), v_set1(-32), v_set1(31)));
}

static ALWAYS_INLINE v16 q6_k_error(const struct group *g, bool weighted, v16 scale)
{
    v16 inverse = v_div(v_set1(1), scale), e[2] = {v_set1(0), v_set1(0)};

    for (int k = 0; k < 16; k++) {
        v16 x = v_load(g->x[k]);
        v16 d = v_fnma(q6_k_round(x, inverse), scale, x);
        e[k & 1] = v_fma(d, weigh(g, weighted, k, d), e[k & 1]);
    }
    return v_add(e[0], e[1]);
}

static ALWAYS_INLINE void q6_k_pack(const struct group *g, v16 scale, const float *c, float d,
                                    uint8_t *dst)
{
    const v16 inverse = v_div(v_set1(1), scale);
    uint32_t words[4][LANES];
    uint8_t q[LANES][16];

    for (int j = 0; j < 4; j++) {
        v16 part[2];
        for (int h = 0; h < 2; h++) {
            part[h] = v_set1(32 * 0x101);
            for (int i = 0; i < 2; i++) {
                v16 v = q6_k_round(v_load(g->x[4 * j + 2 * h + i]), inverse);
                part[h] = v_fma(v, v_set1((float)(1 << 8 * i)), part[h]);
            }
        }
        v_words(words[j], part[0], part[1]);
    }
    turn_out((const uint32_t(*)[LANES])words, q);
    for (int half = 0; half < 2; half++) {
        const uint8_t *p = q[8 * half];
        uint8_t *low = dst + 64 * half, *high = dst + 128 + 32 * half;
        for (int i = 0; i < 32; i++) {
            low[i] = (uint8_t)((p[i] & 15) | p[i + 64] << 4);
            low[i + 32] = (uint8_t)((p[i + 32] & 15) | p[i + 96] << 4);
            high[i] = (uint8_t)(p[i] >> 4 | p[i + 32] >> 4 << 2 | p[i + 64] >> 4 << 4 |
                                p[i + 96] >> 4 << 6);
        }
    }
    for (int i = 0; i < LANES; i++)
        dst[192 + i] = (uint8_t)(int8_t)c[i];
    store_half(dst + 208, d);
}

/*
 * All c of a block are whole steps of one d, so they are tried as such, around the one that maps
 * the largest value of the sub-block to -32. Sub-blocks are turned over for that (c carries the
 * sign): the negative side is the longer one.
 */
static ALWAYS_INLINE void q6_k_group(struct group *g, bool weighted, uint8_t *dst, size_t count)
{
    const v16 one = v_set1(1), most = v_set1(127);
    v16 top = find_top(g, 16), turn = v_pick(v_less(v_set1(0), top), v_set1(-1), one);
    lanes list;
    float max = 0;

    (void)count;
    v_store(list, v_abs(top));
    for (int i = 0; i < LANES; i++)
        max = list[i] > max ? list[i] : max;
    const float d = nearest_half_of(max / (32 * Q6_K_MIDDLE));
    for (int k = 0; k < 16; k++)
        v_store(g->x[k], v_mul(v_load(g->x[k]), turn));

    v16 middle = v_clamp(v_round(v_mul(v_abs(top), v_set1(1 / (32 * d)))), one, most);
    struct choice best = {v_set1(INFINITY), middle};
    for (int i = -Q6_K_BELOW; i <= Q6_K_ABOVE; i++) {
        v16 c = v_clamp(v_add(middle, v_set1((float)i)), one, most);
        choose(&best, q6_k_error(g, weighted, v_mul(c, v_set1(d))), c);
    }
    v_store(list, v_mul(best.value, turn));
    q6_k_pack(g, v_mul(best.value, v_set1(d)), list, max > 0 ? d : 0, dst);
}

/* ---- Q4_K: eight sub-blocks of 32, x = d c q - m n, c and n in [0, 63], q in [0, 15] ---- */

/* What is known of the sub-blocks before the search. Values less their least, which is at most 0.
 */
struct q4_k {
    lanes x[32];
    v16 low, range, sum_w, sum_x;
};

/* x = scale q + offset. */
struct line {
    v16 error, scale, offset;
};

static ALWAYS_INLINE void q4_k_begin(struct q4_k *s, const struct group *g, bool weighted)
{
    v16 high = v_load(g->x[0]), low = v_set1(0);

    s->sum_w = s->sum_x = v_set1(0);
    for (int k = 0; k < 32; k++) {
        v16 x = v_load(g->x[k]);
        low = v_min(low, x);
        high = v_max(high, x);
    }
    for (int k = 0; k < 32; k++) {
        v16 x = v_sub(v_load(g->x[k]), low);
        v_store(s->x[k], x);
        s->sum_w = v_add(s->sum_w, weigh(g, weighted, k, v_set1(1)));
        s->sum_x = v_add(s->sum_x, weigh(g, weighted, k, x));
    }
    s->low = low;
    s->range = v_sub(high, low);
}

/*
 * One rounding and the least squares that follow from it. The offset must not come out above
 * -low, where it would be added instead of subtracted; at that limit the scale alone is fitted.
 * The error is less the constant sum w x^2. Where all q are nearly one number, there is no line.
 */
static ALWAYS_INLINE struct line q4_k_fit(const struct q4_k *s, const struct group *g,
                                          bool weighted, v16 inverse, v16 shift)
{
    const v16 zero = v_set1(0), two = v_set1(2), limit = v_negate(s->low);
    v16 q1 = zero, qq[2] = {zero, zero}, xq[2] = {zero, zero};
    struct line f;

    for (int k = 0; k < 32; k++) {
        v16 x = v_load(s->x[k]);
        v16 q = v_round(v_clamp(v_fma(x, inverse, shift), zero, v_set1(15)));
        v16 wq = weigh(g, weighted, k, q);
        q1 = v_add(q1, wq);
        qq[k & 1] = v_fma(q, wq, qq[k & 1]);
        xq[k & 1] = v_fma(x, wq, xq[k & 1]);
    }
    v16 sum_qq = v_add(qq[0], qq[1]), sum_xq = v_add(xq[0], xq[1]);
    v16 square = v_mul(s->sum_w, sum_qq), det = v_fnma(q1, q1, square);
    vmask flat = v_less(det, v_fma(square, v_set1(1e-5f), v_set1(0x1p-100f)));
    v16 factor = v_div(v_set1(1), v_pick(flat, v_set1(1), det));

    f.scale = v_mul(v_fnma(s->sum_x, q1, v_mul(s->sum_w, sum_xq)), factor);
    f.offset = v_mul(v_fnma(q1, sum_xq, v_mul(sum_qq, s->sum_x)), factor);
    vmask over = v_less(limit, f.offset);
    f.offset = v_pick(over, limit, f.offset);
    f.scale = v_pick(
        over, v_div(v_fnma(limit, q1, sum_xq), v_pick(v_less(zero, sum_qq), sum_qq, v_set1(1))),
        f.scale);
    v16 cross = v_fma(f.scale, sum_xq, v_mul(f.offset, s->sum_x));
    v16 own = v_fma(
        v_mul(f.offset, f.offset), s->sum_w,
        v_fma(v_mul(f.scale, f.scale), sum_qq, v_mul(v_mul(two, q1), v_mul(f.scale, f.offset))));
    f.error = v_pick(flat, v_set1(INFINITY), v_fnma(two, cross, own));
    return f;
}

static ALWAYS_INLINE void q4_k_keep(struct line *best, struct line f)
{
    vmask better = v_less(f.error, best->error);

    best->error = v_pick(better, f.error, best->error);
    best->scale = v_pick(better, f.scale, best->scale);
    best->offset = v_pick(better, f.offset, best->offset);
}

/* The range of a sub-block takes up this many steps; beyond 15 its ends are cut. */
static const float q4_k_steps[] = {15.0f, 14.2f, 15.8f, 13.4f, 16.6f, 17.5f, 14.6f,
                                   15.4f, 13.8f, 16.2f, 12.6f, 18.5f, 17.0f, 19.6f};

static ALWAYS_INLINE struct line q4_k_search(const struct q4_k *s, const struct group *g,
                                             bool weighted)
{
    const v16 zero = v_set1(0);
    v16 unit = v_inverse(s->range);
    struct line best = {zero, v_mul(s->range, v_set1(1.0f / 15)), zero};

    for (size_t i = 0; i < PS_ARRAY_LEN(q4_k_steps); i++)
        q4_k_keep(&best, q4_k_fit(s, g, weighted, v_mul(unit, v_set1(q4_k_steps[i])), zero));
    v16 inverse = v_inverse(best.scale);
    q4_k_keep(&best, q4_k_fit(s, g, weighted, inverse, v_negate(v_mul(best.offset, inverse))));
    return best;
}

/* x = scale q - min, as it will be decoded. */
static ALWAYS_INLINE v16 q4_k_round(v16 x, v16 inverse, v16 shift)
{
    return v_round(v_clamp(v_fma(x, inverse, shift), v_set1(0), v_set1(15)));
}

static ALWAYS_INLINE v16 q4_k_error(const struct group *g, bool weighted, v16 scale, v16 min)
{
    v16 inverse = v_inverse(scale), shift = v_mul(min, inverse);
    v16 e[2] = {v_set1(0), v_set1(0)};

    for (int k = 0; k < 32; k++) {
        v16 x = v_load(g->x[k]);
        v16 d = v_fnma(q4_k_round(x, inverse, shift), scale, v_add(x, min));
        e[k & 1] = v_fma(d, weigh(g, weighted, k, d), e[k & 1]);
    }
    return v_add(e[0], e[1]);
}

/* The largest of the eight sub-blocks of each block takes 63 steps. */
static ALWAYS_INLINE v16 q4_k_unit(v16 values)
{
    lanes list;

    v_store(list, values);
    for (int b = 0; b < LANES; b += 8) {
        float max = 0;
        for (int i = 0; i < 8; i++)
            max = list[b + i] > max ? list[b + i] : max;
        for (int i = 0; i < 8; i++)
            list[b + i] = nearest_half_of(max / 63);
    }
    return v_load(list);
}

static ALWAYS_INLINE v16 steps_of(v16 value, v16 unit)
{
    return v_clamp(v_round(v_div(value, unit)), v_set1(0), v_set1(63));
}

/*
 * c and n around what the line asks for. When c changes, so should n, such that the middle of the
 * range of q stays where it was.
 */
static ALWAYS_INLINE void q4_k_settle(const struct group *g, bool weighted, v16 scale, v16 min,
                                      v16 d, v16 m, v16 *c_best, v16 *n_best)
{
    v16 start = steps_of(scale, d), error = v_set1(INFINITY);

    *c_best = start;
    *n_best = v_set1(0);
    for (int i = -2; i <= 2; i++) {
        v16 c = v_clamp(v_add(start, v_set1((float)i)), v_set1(0), v_set1(63));
        v16 moved = v_fma(v_sub(v_mul(c, d), scale), v_set1(7.5f), min);
        v16 middle = steps_of(moved, m);
        for (int j = -1; j <= 1; j++) {
            v16 n = v_clamp(v_add(middle, v_set1((float)j)), v_set1(0), v_set1(63));
            v16 e = q4_k_error(g, weighted, v_mul(c, d), v_mul(n, m));
            vmask better = v_less(e, error);
            error = v_pick(better, e, error);
            *c_best = v_pick(better, c, *c_best);
            *n_best = v_pick(better, n, *n_best);
        }
    }
}

/* The q of each sub-block, a byte each. */
static ALWAYS_INLINE void q4_k_bytes(const struct group *g, v16 scale, v16 min,
                                     uint8_t (*q)[LANES][16])
{
    v16 inverse = v_inverse(scale), shift = v_mul(min, inverse);
    uint32_t words[4][LANES];

    for (int half = 0; half < 2; half++) {
        for (int j = 0; j < 4; j++) {
            v16 part[2];
            for (int h = 0; h < 2; h++) {
                const lanes *x = g->x + 16 * half + 4 * j + 2 * h;
                v16 high = q4_k_round(v_load(x[1]), inverse, shift);
                part[h] = v_fma(high, v_set1(256), q4_k_round(v_load(x[0]), inverse, shift));
            }
            v_words(words[j], part[0], part[1]);
        }
        turn_out((const uint32_t(*)[LANES])words, q[half]);
    }
}

static ALWAYS_INLINE bool any_of(const float *list)
{
    float max = 0;

    for (int i = 0; i < 8; i++)
        max = list[i] > max ? list[i] : max;
    return max > 0;
}

/* Six bits for each c and n: the first four of both whole, the top bits of the others above them.
 */
static ALWAYS_INLINE void q4_k_scales(const float *c, const float *n, uint8_t *dst)
{
    for (int j = 0; j < 4; j++) {
        int c_high = (int)c[j + 4], n_high = (int)n[j + 4];
        dst[j] = (uint8_t)((int)c[j] | c_high >> 4 << 6);
        dst[j + 4] = (uint8_t)((int)n[j] | n_high >> 4 << 6);
        dst[j + 8] = (uint8_t)((c_high & 15) | (n_high & 15) << 4);
    }
}

static ALWAYS_INLINE void q4_k_group(struct group *g, bool weighted, uint8_t *dst, size_t count)
{
    struct q4_k s;
    lanes list_c, list_n, list_d, list_m;
    uint8_t q[2][LANES][16];
    v16 c, n;

    q4_k_begin(&s, g, weighted);
    struct line best = q4_k_search(&s, g, weighted);
    v16 min = v_max(v_negate(v_add(best.offset, s.low)), v_set1(0));
    v16 d = q4_k_unit(best.scale), m = q4_k_unit(min);
    q4_k_settle(g, weighted, best.scale, min, d, m, &c, &n);
    v_store(list_c, c);
    v_store(list_n, n);
    v_store(list_d, d);
    v_store(list_m, m);
    q4_k_bytes(g, v_mul(c, d), v_mul(n, m), q);
    for (size_t b = 0; b < count; b++, dst += 144) {
        store_half(dst, any_of(list_c + 8 * b) ? list_d[8 * b] : 0);
        store_half(dst + 2, any_of(list_n + 8 * b) ? list_m[8 * b] : 0);
        q4_k_scales(list_c + 8 * b, list_n + 8 * b, dst + 4);
        for (size_t pair = 0; pair < 4; pair++)
            for (size_t half = 0; half < 2; half++) {
                const uint8_t *even = q[half][8 * b + 2 * pair], *odd = even + 16;
                uint8_t *out = dst + 16 + 32 * pair + 16 * half;
                for (int i = 0; i < 16; i++)
                    out[i] = (uint8_t)(even[i] | odd[i] << 4);
            }
    }
}
