/*
 * Products of few 8-bit vectors, written once over 64 bytes of integers and sixteen floats, and
 * included by one file per CPU level. That file first defines
 *     vq     64 bytes in registers, four lanes of sixteen bytes, and the q_ operations on them
 *     vf     sixteen floats in registers, and the f_ operations on them
 *     WIDE_BIAS, q_wide, q_dot_wide    how weights of eight bits are multiplied
 *     HIGH_IN_PLACE                    whether weights may be sixteen times their value
 *     q_load_blocks, gather_halves, gather_bytes    how what is strewn over blocks is collected
 *     quantize                         the rounding of a vector
 * and afterwards finds init_versions() to fill its entries with. Everything here is static; nothing
 * but a q8_<level>.c may include this.
 *
 * THE UNIT of work is a group: eight blocks of a row. The sixteen block sums of two rows fill one
 * register, first row first, blocks ascending, so that one conversion, one multiplication of the
 * scales and one multiply-add serve 512 weights. Four rows share the unpacking of their scales. The
 * integers become block sums in one of two ways:
 *   - types with one scale a block: a register has sixteen weights each of four blocks, the first
 *     halves or the second. The products of the second are added to those of the first by the
 *     instruction that multiplies, so that two registers are left of a row, and those of two rows
 *     are summed within their lanes to one (reduce4);
 *   - types with a scale for each half: register k has blocks k and k + 4, as the K-quants' planes
 *     of bits lie. Four are summed to the sums of halves, which are then scaled and added.
 */
#define GROUP 8 /* blocks of a row: the lanes of the definition */
#define QUAD 4  /* rows that share the unpacking of their scales */
#define ROWS 8  /* walked together at most; a multiple of QUAD */
#define PAIRS (ROWS / 2)
#define AHEAD_BYTES 1024 /* of each row, asked for before they are needed */

/* How the integers of a row lie in its four registers. */
enum shape {
    BLOCKS_ASCENDING, /* [blocks 0-3 or 4-7][half] */
    BLOCKS_BY_TWO,    /* [even or odd blocks][half] */
    SCALED_HALVES     /* [k]: blocks k and k + 4 */
};

/* The scales of a group of four rows. What a type does not have stays unset and unread. */
struct scales {
    vf s[2], t[2]; /* per two rows: [row][block] */
    vq c[2];       /* [row][block], 32 bits */
    vq half[QUAD]; /* per row: first halves of blocks 0-3, second, first of 4-7, second, 32 bits */
    vq pairs[2];   /* [row][block][half], 16 bits */
    vq m[2];       /* minima: [row][block], 32 bits; or [row][block][half], 16 bits */
};

/* A group of one vector. */
struct xgroup {
    vq q[4];  /* as the type's registers */
    vq sum;   /* [block][half], twice, 16 bits */
    vq total; /* [block], twice, 32 bits */
    vf d;     /* [block], twice */
};

typedef void row_fn(const uint8_t *row, vq *u);
typedef void scales_fn(const uint8_t *const *row, struct scales *w);

/* Always passed as a constant to inlined functions, so that every `if` is decided. */
struct format {
    row_fn *row;
    scales_fn *scales;
    size_t bytes; /* of a group of one row */
    enum shape shape;
    bool wide;        /* the registers are signed, all eight bits of them (q_wide) */
    bool high_nibble; /* odd blocks are sixteen times too large, if HIGH_IN_PLACE */
    bool one_scale;   /* c */
    int offset;       /* the weight is less by this */
    bool minima;      /* t; m too unless unit_minima */
    bool unit_minima; /* all m are 1 */
};

/* Register k's four lanes summed to the lanes' element k. */
static ALWAYS_INLINE vq reduce4(const vq *p)
{
    vq a = q_add32(q_unpacklo32(p[0], p[1]), q_unpackhi32(p[0], p[1]));
    vq b = q_add32(q_unpacklo32(p[2], p[3]), q_unpackhi32(p[2], p[3]));
    return q_add32(q_unpacklo64(a, b), q_unpackhi64(a, b));
}

/* ---- Scales ---- */

/* A half float of each row, for all its blocks. */
static ALWAYS_INLINE void spread_half(const uint8_t *const *row, size_t at, struct scales *w)
{
    uint64_t all = (uint64_t)load_u16(row[0] + at) | (uint64_t)load_u16(row[1] + at) << 16 |
                   (uint64_t)load_u16(row[2] + at) << 32 | (uint64_t)load_u16(row[3] + at) << 48;
    __m256 four = _mm256_castps128_ps256(_mm_cvtph_ps(_mm_cvtsi64_si128((int64_t)all)));
    w->s[0] = f_spread(four, 0, 1);
    w->s[1] = f_spread(four, 2, 3);
}

/* d and dmin, one after the other. */
static ALWAYS_INLINE void spread_two_halves(const uint8_t *const *row, size_t at, struct scales *w)
{
    __m256 all =
        _mm256_cvtph_ps(_mm_setr_epi32((int)load_u32(row[0] + at), (int)load_u32(row[1] + at),
                                       (int)load_u32(row[2] + at), (int)load_u32(row[3] + at)));
    w->s[0] = f_spread(all, 0, 2);
    w->t[0] = f_spread(all, 1, 3);
    w->s[1] = f_spread(all, 4, 6);
    w->t[1] = f_spread(all, 5, 7);
}

/* Sixteen scales of 8 bits for each row, of the halves in their order. */
static ALWAYS_INLINE void set_half_scales(const __m128i *scale, struct scales *w)
{
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    UNROLL for (int i = 0; i < QUAD; i++) w->half[i] =
        q_widen8_32(_mm_shuffle_epi8(scale[i], order));
    w->pairs[0] = q_widen8_16(scale[0], scale[1]);
    w->pairs[1] = q_widen8_16(scale[2], scale[3]);
}

/* ---- Types ---- */

static ALWAYS_INLINE void row_q8_0(const uint8_t *row, vq *u)
{
    const size_t size = 34;
    row += 2;
    UNROLL for (size_t i = 0; i < 2; i++, row += 4 * size)
    {
        vq a = q_load2(row, row + size), b = q_load2(row + 2 * size, row + 3 * size);
        u[2 * i] = q_wide(q_even_lanes(a, b));
        u[2 * i + 1] = q_wide(q_odd_lanes(a, b));
    }
}

static ALWAYS_INLINE void scales_q8_0(const uint8_t *const *row, struct scales *w)
{
    gather_halves(row, 34, w->s);
}

/* Blocks of sixteen bytes of nibbles, the low ones first, every `size` bytes. */
static ALWAYS_INLINE void load_nibbles(const uint8_t *p, size_t size, vq *u)
{
    const vq low = q_set8(15);
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        vq v = q_load_blocks(p + i * 4 * size, size);
        u[2 * i] = q_and(v, low);
        u[2 * i + 1] = q_and(q_srl16(v, 4), low);
    }
}

/* The same for nibbles that are indices. */
static ALWAYS_INLINE void look_up_nibbles(const uint8_t *p, size_t size, const int8_t *values,
                                          int bias, vq *u)
{
    vq table = q_table(values, bias);
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        vq v = q_load_blocks(p + i * 4 * size, size);
        u[2 * i] = q_look_up(table, v);
        u[2 * i + 1] = q_look_up(table, q_srl16(v, 4));
    }
}

static ALWAYS_INLINE void row_q4_0(const uint8_t *row, vq *u)
{
    load_nibbles(row + 2, 18, u);
}

/* Of IQ4_NL, too. */
static ALWAYS_INLINE void scales_q4_0(const uint8_t *const *row, struct scales *w)
{
    gather_halves(row, 18, w->s);
}

static ALWAYS_INLINE void row_q4_1(const uint8_t *row, vq *u)
{
    load_nibbles(row + 4, 20, u);
}

static ALWAYS_INLINE void scales_q4_1(const uint8_t *const *row, struct scales *w)
{
    const uint8_t *min[QUAD] = {row[0] + 2, row[1] + 2, row[2] + 2, row[3] + 2};
    gather_halves(row, 20, w->s);
    gather_halves(min, 20, w->t);
}

/* The fifth bits of four blocks, of the halves that begin at p. */
static ALWAYS_INLINE uint64_t fifth_bits(const uint8_t *p, size_t size)
{
    return (uint64_t)load_u16(p) | (uint64_t)load_u16(p + size) << 16 |
           (uint64_t)load_u16(p + 2 * size) << 32 | (uint64_t)load_u16(p + 3 * size) << 48;
}

static ALWAYS_INLINE void add_fifth_bits(const uint8_t *p, size_t size, vq *u)
{
    UNROLL for (size_t i = 0; i < 4; i++) u[i] =
        q_add_bits(u[i], fifth_bits(p + i / 2 * 4 * size + i % 2 * 2, size), 16);
}

static ALWAYS_INLINE void row_q5_0(const uint8_t *row, vq *u)
{
    load_nibbles(row + 6, 22, u);
    add_fifth_bits(row + 2, 22, u);
}

static ALWAYS_INLINE void scales_q5_0(const uint8_t *const *row, struct scales *w)
{
    gather_halves(row, 22, w->s);
}

static ALWAYS_INLINE void row_q5_1(const uint8_t *row, vq *u)
{
    load_nibbles(row + 8, 24, u);
    add_fifth_bits(row + 4, 24, u);
}

static ALWAYS_INLINE void scales_q5_1(const uint8_t *const *row, struct scales *w)
{
    const uint8_t *min[QUAD] = {row[0] + 2, row[1] + 2, row[2] + 2, row[3] + 2};
    gather_halves(row, 24, w->s);
    gather_halves(min, 24, w->t);
}

static ALWAYS_INLINE void row_iq4_nl(const uint8_t *row, vq *u)
{
    look_up_nibbles(row + 2, 18, ps_q8_iq4_values, WIDE_BIAS, u);
}

#define MXFP4_OFFSET 12

static ALWAYS_INLINE void row_mxfp4(const uint8_t *row, vq *u)
{
    look_up_nibbles(row + 1, 17, ps_q8_mxfp4_values, MXFP4_OFFSET, u);
}

/* Exponents become floats by their bits; 2^-128 and 2^-127 are denormal. */
static ALWAYS_INLINE vf powers_of_two(vq e)
{
    vq normal = q_sll32(q_sub32(e, q_set32(1)), 23);
    vq denormal = q_sllv32(q_set32(0x200000), e);
    return f_from_bits(q_select32_less(e, q_set32(2), denormal, normal));
}

static ALWAYS_INLINE void scales_mxfp4(const uint8_t *const *row, struct scales *w)
{
    w->s[0] = powers_of_two(gather_bytes(row, 17));
    w->s[1] = powers_of_two(gather_bytes(row + 2, 17));
}

/* The super-block's two halves of 128 weights lie one after the other: blocks k and k + 4. */
static ALWAYS_INLINE void row_q2_k(const uint8_t *row, vq *u)
{
    const vq crumb = q_set8(3);
    vq v = q_load64(row + 16);
    u[0] = q_and(v, crumb);
    u[1] = q_and(q_srl16(v, 2), crumb);
    u[2] = q_and(q_srl16(v, 4), crumb);
    u[3] = q_and(q_srl16(v, 6), crumb);
}

static ALWAYS_INLINE void scales_q2_k(const uint8_t *const *row, struct scales *w)
{
    const __m128i low = _mm_set1_epi8(15);
    __m128i scale[QUAD], min[QUAD];
    UNROLL for (int i = 0; i < QUAD; i++)
    {
        __m128i both = _mm_loadu_si128((const void *)row[i]);
        scale[i] = _mm_and_si128(both, low);
        min[i] = _mm_and_si128(_mm_srli_epi16(both, 4), low);
    }
    set_half_scales(scale, w);
    w->m[0] = q_widen8_16(min[0], min[1]);
    w->m[1] = q_widen8_16(min[2], min[3]);
    spread_two_halves(row, 80, w);
}

static ALWAYS_INLINE void row_q3_k(const uint8_t *row, vq *u)
{
    const vq crumb = q_set8(3), third = q_set8(4);
    vq v = q_load64(row + 32);
    /* Bit k for block k, bit k + 4 for block k + 4. */
    vq h = q_shift_upper(q_load2(row, row), 4);
    u[0] = q_or(q_and(v, crumb), q_and(q_sll16(h, 2), third));
    u[1] = q_or(q_and(q_srl16(v, 2), crumb), q_and(q_sll16(h, 1), third));
    u[2] = q_or(q_and(q_srl16(v, 4), crumb), q_and(h, third));
    u[3] = q_or(q_and(q_srl16(v, 6), crumb), q_and(q_srl16(h, 1), third));
}

/* Low four bits of the scales in eight bytes, high two bits of all in the four that follow. */
static ALWAYS_INLINE __m128i q3_k_scales(const uint8_t *p)
{
    uint32_t a = load_u32(p), b = load_u32(p + 4), high = load_u32(p + 8);
    const uint32_t nibble = 0x0f0f0f0f, crumb = 0x30303030;
    __m128i v = _mm_setr_epi32(
        (int)((a & nibble) | (high << 4 & crumb)), (int)((b & nibble) | (high << 2 & crumb)),
        (int)((a >> 4 & nibble) | (high & crumb)), (int)((b >> 4 & nibble) | (high >> 2 & crumb)));
    return _mm_sub_epi8(v, _mm_set1_epi8(32));
}

static ALWAYS_INLINE void scales_q3_k(const uint8_t *const *row, struct scales *w)
{
    __m128i scale[QUAD];
    UNROLL for (int i = 0; i < QUAD; i++) scale[i] = q3_k_scales(row[i] + 96);
    set_half_scales(scale, w);
    spread_half(row, 108, w);
}

/*
 * Scales and minima of six bits in twelve bytes behind d and dmin: the last four of each have their
 * high two bits above the first four. All of a row stay in its lane: eight scales, eight minima.
 */
static ALWAYS_INLINE void scales_q4_k(const uint8_t *const *row, struct scales *w)
{
    const vq low_from =
        q_lanes(_mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
    const vq high_from =
        q_lanes(_mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11));
    const vq shift = q_lanes(_mm_setr_epi32(0, 0, 0, 4));
    const vq mask = q_lanes(_mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
    vq header = q_load4(row[0], row[1], row[2], row[3]);
    vq low = q_and(q_srlv32(q_shuffle8(header, low_from), shift), mask);
    vq high = q_and(q_srl16(q_shuffle8(header, high_from), 2), q_set8(0x30));
    vq all = q_or(low, high);

    q_widen_rows(all, 0, w->c);
    q_widen_rows(all, 1, w->m);
    f_first_halves(header, w->s, w->t);
}

/* Runs of 32 bytes: the low nibbles are one block, the high ones the next. */
static ALWAYS_INLINE void load_runs(const uint8_t *p, bool high_in_place, vq *u)
{
    const vq low = q_set8(15), high = q_set8(0xf0);
    vq a = q_load64(p), b = q_load64(p + 64);
    vq half[2] = {q_even_lanes(a, b), q_odd_lanes(a, b)};
    UNROLL for (int i = 0; i < 2; i++)
    {
        u[i] = q_and(half[i], low);
        u[2 + i] = high_in_place ? q_and(half[i], high) : q_and(q_srl16(half[i], 4), low);
    }
}

static ALWAYS_INLINE void row_q4_k(const uint8_t *row, vq *u)
{
    load_runs(row + 16, HIGH_IN_PLACE, u);
}

static ALWAYS_INLINE void row_q5_k(const uint8_t *row, vq *u)
{
    load_runs(row + 48, false, u);
    UNROLL for (int i = 0; i < 2; i++)
    {
        vq h = q_lanes(_mm_loadu_si128((const void *)(row + 16 + 16 * i)));
        u[i] = q_add_where(u[i], h, q_bits_of_lanes(0x01, 0x04, 0x10, 0x40), 16);
        u[2 + i] = q_add_where(u[2 + i], h, q_bits_of_lanes(0x02, 0x08, 0x20, 0x80), 16);
    }
}

static ALWAYS_INLINE void row_q6_k(const uint8_t *row, vq *u)
{
    const vq low = q_set8(15), high = q_set8(0x30);
    vq first = q_load2(row, row + 64), second = q_load2(row + 32, row + 96);
    vq h = q_load64(row + 128);
    u[0] = q_or(q_and(first, low), q_and(q_sll16(h, 4), high));
    u[1] = q_or(q_and(second, low), q_and(q_sll16(h, 2), high));
    u[2] = q_or(q_and(q_srl16(first, 4), low), q_and(h, high));
    u[3] = q_or(q_and(q_srl16(second, 4), low), q_and(q_srl16(h, 2), high));
}

static ALWAYS_INLINE void scales_q6_k(const uint8_t *const *row, struct scales *w)
{
    __m128i scale[QUAD];
    UNROLL for (int i = 0; i < QUAD; i++) scale[i] = _mm_loadu_si128((const void *)(row[i] + 192));
    set_half_scales(scale, w);
    spread_half(row, 208, w);
}

static ALWAYS_INLINE void row_iq4_xs(const uint8_t *row, vq *u)
{
    look_up_nibbles(row + 8, 16, ps_q8_iq4_values, WIDE_BIAS, u);
}

static ALWAYS_INLINE void scales_iq4_xs(const uint8_t *const *row, struct scales *w)
{
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        const uint8_t *a = row[2 * i], *b = row[2 * i + 1];
        vq low = q_spread32(load_u32(a + 4), load_u32(b + 4));
        vq high = q_spread32(load_u16(a + 2), load_u16(b + 2));
        low = q_and(q_srlv32(low, q_multiples32(4)), q_set32(15));
        high = q_and(q_srlv32(high, q_multiples32(2)), q_set32(3));
        w->c[i] = q_sub32(q_or(low, q_sll32(high, 4)), q_set32(32));
    }
    spread_half(row, 0, w);
}

/* ---- One group ---- */

static ALWAYS_INLINE void load_x(const int8_t *q, const float *d, const int16_t *sum,
                                 const struct format f, struct xgroup *x)
{
    const uint8_t *p = (const uint8_t *)q;
    if (f.shape == SCALED_HALVES) {
        UNROLL for (size_t k = 0; k < 4; k++) x->q[k] =
            q_load2(p + k * PS_Q8_BLOCK, p + (k + 4) * PS_Q8_BLOCK);
    } else {
        vq half[4], v[4];
        UNROLL for (size_t i = 0; i < 4; i++) v[i] = q_load64(p + 64 * i);
        UNROLL for (size_t i = 0; i < 2; i++)
        {
            half[2 * i] = q_even_lanes(v[2 * i], v[2 * i + 1]);
            half[2 * i + 1] = q_odd_lanes(v[2 * i], v[2 * i + 1]);
        }
        UNROLL for (size_t i = 0; i < 2; i++)
        {
            const bool by_two = f.shape == BLOCKS_BY_TWO;
            x->q[i] = by_two ? q_even_lanes(half[i], half[2 + i]) : half[i];
            x->q[2 + i] = by_two ? q_odd_lanes(half[i], half[2 + i]) : half[2 + i];
        }
    }
    x->d = f_load2(d, d);
    x->sum = q_load2((const uint8_t *)sum, (const uint8_t *)sum);
    x->total = q_madd16(x->sum, q_set16(1));
}

static ALWAYS_INLINE vq dot(vq acc, vq u, vq x, const struct format f)
{
    return f.wide ? q_dot_wide(acc, u, x) : q_dot(acc, u, x);
}

/* The sixteen S of the definition, but for scales of blocks and offsets. */
static ALWAYS_INLINE vq plain_sums(const vq (*u)[4], const struct xgroup *x, const struct scales *w,
                                   int pair, const struct format f)
{
    vq p[4], half[2];

    if (f.shape != SCALED_HALVES) {
        UNROLL for (int i = 0; i < 4; i++)
        {
            const int at = i % 2 * 2;
            p[i] = dot(dot(q_zero(), u[i / 2][at], x->q[at], f), u[i / 2][at + 1], x->q[at + 1], f);
        }
        vq sums = reduce4(p);
        return f.shape == BLOCKS_BY_TWO ? q_from_by_two(sums) : q_from_ascending(sums);
    }
    UNROLL for (int i = 0; i < 2; i++)
    {
        UNROLL for (int k = 0; k < 4; k++) p[k] = dot(q_zero(), u[i][k], x->q[k], f);
        half[i] = q_mul32(reduce4(p), w->half[2 * pair + i]);
    }
    return q_add_lanes(half[0], half[1]);
}

static ALWAYS_INLINE vq block_sums(const vq (*u)[4], const struct xgroup *x, const struct scales *w,
                                   int pair, const struct format f)
{
    const int offset = f.offset + (f.wide ? WIDE_BIAS : 0);
    vq sums = plain_sums(u, x, w, pair, f);

    if (f.high_nibble && HIGH_IN_PLACE)
        sums = q_srav32(sums, q_lanes(_mm_setr_epi32(0, 4, 0, 4)));
    if (offset != 0) {
        vq factor = f.shape == SCALED_HALVES ? q_madd16(w->pairs[pair], x->sum) : x->total;
        sums = q_sub32(sums, q_mul32(factor, q_set32(offset)));
    }
    return f.one_scale ? q_mul32(sums, w->c[pair]) : sums;
}

/* Two rows, whose registers are u, times one vector. */
static ALWAYS_INLINE vf accumulate(const vq (*u)[4], const struct scales *w, int pair,
                                   const struct xgroup *x, vf acc, const struct format f)
{
    acc = f_fma(q_to_float(block_sums(u, x, w, pair, f)), f_mul(w->s[pair], x->d), acc);
    if (f.minima && f.unit_minima)
        return f_fma(q_to_float(x->total), f_mul(w->t[pair], x->d), acc);
    if (!f.minima)
        return acc;
    /* K-quants subtract their minima. With one a block, the sum of both halves is its factor. */
    vq m = q_madd16(w->m[pair], f.shape == SCALED_HALVES ? x->sum : x->total);
    return f_fma_negated(q_to_float(m), f_mul(w->t[pair], x->d), acc);
}

/* Four rows; acc[c] has two registers for them. */
static ALWAYS_INLINE void multiply_quad(const uint8_t *const *row, const struct xgroup *x,
                                        vf (*acc)[PAIRS], const int quad, const int n,
                                        const struct format f)
{
    struct scales w;

    f.scales(row, &w);
    UNROLL for (int pair = 0; pair < 2; pair++)
    {
        vq u[2][4];
        f.row(row[2 * pair], u[0]);
        f.row(row[2 * pair + 1], u[1]);
        UNROLL for (int c = 0; c < n; c++)
        {
            vf *sum = &acc[c][2 * quad + pair];
            *sum = accumulate((const vq(*)[4])u, &w, pair, &x[c], *sum, f);
        }
    }
}

/* ---- Rows ---- */

/* What is the same for all rows of a call. */
struct few {
    const struct ps_q8_matmul *m;
    const int8_t *xq[PS_Q8_FEW];
    const float *xd[PS_Q8_FEW];
    const int16_t *xsum[PS_Q8_FEW];
    size_t first; /* lane of the first block */
};

/* A part of a group: blocks [from, from + count) of the call into lanes [lane, lane + count). */
struct cut {
    size_t from, lane, count;
};

static ALWAYS_INLINE void ask_for(const uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* Bytes of the row before a block; super-blocks are asked for as wholes only. */
static ALWAYS_INLINE size_t bytes_before(size_t block, const struct format f)
{
    return block / GROUP * f.bytes + block % GROUP * (f.bytes / GROUP);
}

/* The whole group of all rows that begins with `block`, `offset` bytes into the rows. */
static ALWAYS_INLINE void whole_group(const struct few *few, const uint8_t *const *row,
                                      size_t block, size_t offset, size_t ahead, vf (*acc)[PAIRS],
                                      const int n, const int quads, const struct format f)
{
    struct xgroup x[PS_Q8_FEW];

    UNROLL for (int c = 0; c < n; c++) load_x(few->xq[c] + block * PS_Q8_BLOCK, few->xd[c] + block,
                                              few->xsum[c] + 2 * block, f, &x[c]);
    UNROLL for (int i = 0; i < quads; i++)
    {
        const uint8_t *at[QUAD];
        UNROLL for (int j = 0; j < QUAD; j++)
        {
            at[j] = row[QUAD * i + j] + offset;
            ask_for(at[j] + ahead, f.bytes);
        }
        multiply_quad(at, x, acc, i, n, f);
    }
}

/*
 * Copies with zeros around them: nothing is read beyond a row. Lanes outside of the part keep their
 * value instead of taking a product with zero, since the other factor could be NaN.
 */
static ALWAYS_INLINE void part_group(const struct few *few, const uint8_t *const *row,
                                     const struct cut cut, vf (*acc)[PAIRS], const int n,
                                     const int quads, const struct format f)
{
    const size_t size = f.bytes / GROUP;
    _Alignas(64) int8_t q[GROUP * PS_Q8_BLOCK] = {0};
    float d[GROUP] = {0};
    int16_t sum[2 * GROUP] = {0};
    struct xgroup x[PS_Q8_FEW];

    for (int c = 0; c < n; c++) {
        memcpy(q + cut.lane * PS_Q8_BLOCK, few->xq[c] + cut.from * PS_Q8_BLOCK,
               cut.count * PS_Q8_BLOCK);
        memcpy(d + cut.lane, few->xd[c] + cut.from, cut.count * sizeof(*d));
        memcpy(sum + 2 * cut.lane, few->xsum[c] + 2 * cut.from, 2 * cut.count * sizeof(*sum));
        load_x(q, d, sum, f, &x[c]);
    }
    for (int i = 0; i < quads; i++) {
        uint8_t copy[QUAD][GROUP * 34] = {{0}};
        const uint8_t *at[QUAD] = {copy[0], copy[1], copy[2], copy[3]};
        vf sums[PS_Q8_FEW][PAIRS];
        for (int j = 0; j < QUAD; j++)
            memcpy(copy[j] + cut.lane * size, row[QUAD * i + j] + cut.from * size,
                   cut.count * size);
        for (int c = 0; c < n; c++)
            memcpy(sums[c], acc[c] + 2 * i, 2 * sizeof(vf));
        multiply_quad(at, x, sums, 0, n, f);
        for (int c = 0; c < n; c++) {
            for (int j = 0; j < 2; j++)
                acc[c][2 * i + j] = f_select(sums[c][j], acc[c][2 * i + j], cut.lane, cut.count);
        }
    }
}

/* Trees of four rows: l + (l + 4) on each, then pairs share a register, then all four. */
static ALWAYS_INLINE __m128 sum_four(const vf *acc)
{
    __m128 quarter[4];
    UNROLL for (int i = 0; i < 4; i++)
    {
        __m256 row = i % 2 ? f_second(acc[i / 2]) : f_first(acc[i / 2]);
        quarter[i] = _mm_add_ps(_mm256_castps256_ps128(row), _mm256_extractf128_ps(row, 1));
    }
    __m128 ab =
        _mm_add_ps(_mm_movelh_ps(quarter[0], quarter[1]), _mm_movehl_ps(quarter[1], quarter[0]));
    __m128 cd =
        _mm_add_ps(_mm_movelh_ps(quarter[2], quarter[3]), _mm_movehl_ps(quarter[3], quarter[2]));
    return _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd));
}

static ALWAYS_INLINE void begin_rows(const struct ps_q8_matmul *m, size_t r, size_t count,
                                     const uint8_t **row, vf (*acc)[PAIRS], const int n,
                                     const int quads)
{
    /* Where rows are missing the last one is computed again: rare, and cheaper than more variants.
     */
    for (size_t i = 0; i < QUAD * (size_t)quads; i++)
        row[i] = (const uint8_t *)m->w + (r + (i < count ? i : count - 1)) * m->w_stride_bytes;
    UNROLL for (int c = 0; c < n; c++)
    {
        UNROLL for (int i = 0; i < 2 * quads; i++)
        {
            acc[c][i] = f_zero();
            if (m->lanes_in != NULL) {
                /* Vectors and rows beyond the last take the last one's. */
                size_t column = (size_t)c < m->n ? (size_t)c : m->n - 1;
                const float *lanes = m->lanes_in + (column * m->rows + r) * PS_Q8_LANES;
                size_t first = 2 * (size_t)i, last = count - 1;
                acc[c][i] = f_load2(lanes + (first < last ? first : last) * PS_Q8_LANES,
                                    lanes + (first + 1 < last ? first + 1 : last) * PS_Q8_LANES);
            }
        }
    }
}

static ALWAYS_INLINE void end_rows(const struct ps_q8_matmul *m, size_t r, size_t count,
                                   vf (*acc)[PAIRS], const int n, const int quads)
{
    UNROLL for (int c = 0; c < n; c++)
    {
        if ((size_t)c >= m->n)
            break;
        if (m->lanes_out != NULL) {
            float *lanes = m->lanes_out + ((size_t)c * m->rows + r) * PS_Q8_LANES;
            float copy[ROWS * PS_Q8_LANES] = {0};
            for (int i = 0; i < 2 * quads; i++)
                f_store(copy + i * 2 * PS_Q8_LANES, acc[c][i]);
            memcpy(lanes, copy, count * PS_Q8_LANES * sizeof(*lanes));
            continue;
        }
        float y[ROWS];
        for (int i = 0; i < 2 * quads; i += 2)
            _mm_storeu_ps(y + 2 * i, sum_four(acc[c] + i));
        memcpy(m->y + (size_t)c * m->ldy + r, y, count * sizeof(*y));
    }
}

/* Rows [r, r + 4 quads), or those of them that there are. */
static ALWAYS_INLINE void multiply_rows(const struct few *few, size_t r, const int n,
                                        const int quads, const struct format f)
{
    const struct ps_q8_matmul *m = few->m;
    const size_t rows = QUAD * (size_t)quads;
    const size_t count = m->rows - r < rows ? m->rows - r : rows;
    const size_t blocks = m->cols / PS_Q8_BLOCK;
    const size_t row_bytes = bytes_before(blocks, f), next = rows * m->w_stride_bytes;
    const bool super_blocks = f.one_scale || f.shape == SCALED_HALVES;
    const uint8_t *row[ROWS];
    vf acc[PS_Q8_FEW][PAIRS];

    begin_rows(m, r, count, row, acc, n, quads);
    for (size_t block = 0; block < blocks;) {
        size_t lane = super_blocks ? 0 : (few->first + block) % GROUP;
        if (super_blocks || (lane == 0 && blocks - block >= GROUP)) {
            /* The last columns look ahead to the first ones of the next rows. */
            size_t offset = bytes_before(block, f), ahead = AHEAD_BYTES;
            if (offset + ahead >= row_bytes)
                ahead = next - row_bytes + ahead;
            whole_group(few, row, block, offset, ahead, acc, n, quads, f);
            block += GROUP;
        } else {
            size_t room = GROUP - lane, left = blocks - block;
            struct cut cut = {block, lane, left < room ? left : room};
            part_group(few, row, cut, acc, n, quads, f);
            block += cut.count;
        }
    }
    end_rows(m, r, count, acc, n, quads);
}

/* n vectors, of which the last may be there more than once. */
static ALWAYS_INLINE void multiply(const struct ps_q8_matmul *m, const int n, const int quads,
                                   const struct format f)
{
    struct few few = {.m = m, .first = m->first_block % GROUP};

    for (int c = 0; c < n; c++) {
        size_t column = (size_t)c < m->n ? (size_t)c : m->n - 1;
        const uint8_t *x = (const uint8_t *)m->x + column * m->x_stride_bytes;
        few.xq[c] = (const int8_t *)x;
        few.xd[c] = ps_q8_scales(x, m->cols);
        few.xsum[c] = ps_q8_sums(x, m->cols);
    }
    for (size_t r = 0; r < m->rows; r += QUAD * (size_t)quads)
        multiply_rows(&few, r, n, quads, f);
}

/* One function per type and number of vectors, so that its decoder is inlined. */
#define DEFINE_TYPE(name, ...)                                                                     \
    static void one_##name(const struct ps_q8_matmul *m)                                           \
    {                                                                                              \
        const struct format f = {.row = row_##name, __VA_ARGS__};                                  \
        multiply(m, 1, ROWS / QUAD, f);                                                            \
    }                                                                                              \
    static void two_##name(const struct ps_q8_matmul *m)                                           \
    {                                                                                              \
        const struct format f = {.row = row_##name, __VA_ARGS__};                                  \
        multiply(m, 2, 1, f);                                                                      \
    }                                                                                              \
    static void four_##name(const struct ps_q8_matmul *m)                                          \
    {                                                                                              \
        const struct format f = {.row = row_##name, __VA_ARGS__};                                  \
        multiply(m, 4, 1, f);                                                                      \
    }

DEFINE_TYPE(q8_0, .scales = scales_q8_0, .bytes = 34 * GROUP, .shape = BLOCKS_ASCENDING,
            .wide = true)
DEFINE_TYPE(q4_0, .scales = scales_q4_0, .bytes = 18 * GROUP, .shape = BLOCKS_ASCENDING,
            .offset = 8)
DEFINE_TYPE(q4_1, .scales = scales_q4_1, .bytes = 20 * GROUP, .shape = BLOCKS_ASCENDING,
            .minima = true, .unit_minima = true)
DEFINE_TYPE(q5_0, .scales = scales_q5_0, .bytes = 22 * GROUP, .shape = BLOCKS_ASCENDING,
            .offset = 16)
DEFINE_TYPE(q5_1, .scales = scales_q5_1, .bytes = 24 * GROUP, .shape = BLOCKS_ASCENDING,
            .minima = true, .unit_minima = true)
DEFINE_TYPE(iq4_nl, .scales = scales_q4_0, .bytes = 18 * GROUP, .shape = BLOCKS_ASCENDING,
            .wide = true)
DEFINE_TYPE(mxfp4, .scales = scales_mxfp4, .bytes = 17 * GROUP, .shape = BLOCKS_ASCENDING,
            .offset = MXFP4_OFFSET)
DEFINE_TYPE(q2_k, .scales = scales_q2_k, .bytes = 84, .shape = SCALED_HALVES, .minima = true)
DEFINE_TYPE(q3_k, .scales = scales_q3_k, .bytes = 110, .shape = SCALED_HALVES, .offset = 4)
DEFINE_TYPE(q4_k, .scales = scales_q4_k, .bytes = 144, .shape = BLOCKS_BY_TWO, .high_nibble = true,
            .one_scale = true, .minima = true)
DEFINE_TYPE(q5_k, .scales = scales_q4_k, .bytes = 176, .shape = BLOCKS_BY_TWO, .one_scale = true,
            .minima = true)
DEFINE_TYPE(q6_k, .scales = scales_q6_k, .bytes = 210, .shape = SCALED_HALVES, .offset = 32)
DEFINE_TYPE(iq4_xs, .scales = scales_iq4_xs, .bytes = 136, .shape = BLOCKS_ASCENDING, .wide = true,
            .one_scale = true)

typedef void multiply_fn(const struct ps_q8_matmul *m);

#define TYPE(number, name)                                                                         \
    case number:                                                                                   \
        chosen = m->n == 1 ? one_##name : m->n == 2 ? two_##name : four_##name;                    \
        break

static bool multiply_few(const struct ps_q8_matmul *m)
{
    multiply_fn *chosen;

    switch (m->type) {
        TYPE(PS_TYPE_Q8_0, q8_0);
        TYPE(PS_TYPE_Q4_0, q4_0);
        TYPE(PS_TYPE_Q4_1, q4_1);
        TYPE(PS_TYPE_Q5_0, q5_0);
        TYPE(PS_TYPE_Q5_1, q5_1);
        TYPE(PS_TYPE_IQ4_NL, iq4_nl);
        TYPE(PS_TYPE_MXFP4, mxfp4);
        TYPE(PS_TYPE_Q2_K, q2_k);
        TYPE(PS_TYPE_Q3_K, q3_k);
        TYPE(PS_TYPE_Q4_K, q4_k);
        TYPE(PS_TYPE_Q5_K, q5_k);
        TYPE(PS_TYPE_Q6_K, q6_k);
        TYPE(PS_TYPE_IQ4_XS, iq4_xs);
    default:
        return false;
    }
    /* A part of a product ends on a block, so that super-blocks begin in the first lane. */
    if (ps_type_info(m->type)->block_len > PS_Q8_BLOCK && m->first_block % GROUP != 0)
        return false;
    chosen(m);
    return true;
}

static void init_versions(struct ps_q8_versions *v)
{
    v->few = multiply_few;
    v->quantize = quantize;
}
