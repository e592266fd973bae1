/*
 * Products of few 8-bit vectors, written once over 64 bytes of integers and sixteen floats, and
 * included by one file per CPU level. That file first defines
 *     vq     64 bytes in registers, four lanes of sixteen bytes, and the q_ operations on them
 *     vf     sixteen floats in registers, and the f_ operations on them
 *     WIDE_BIAS, q_wide, q_dot_wide    how weights of eight bits are multiplied
 *     quantize                         the rounding of a vector
 * and afterwards finds init_versions() to fill its entries with. Everything here is static; nothing
 * but a q8_<level>.c may include this.
 *
 * THE UNIT of work is a group: eight blocks of two rows, 512 weights. Its sixteen block sums fill
 * one register, first row first, blocks ascending, so that one conversion, one multiplication of
 * the scales and one multiply-add do for all. The integers reach that register in one of two ways:
 *   - types whose blocks are nibbles of which the low ones are the first sixteen weights: register
 *     k has sixteen weights each of blocks k and k + 4 of both rows, and the second halves are
 *     added by the same instruction that multiplies them;
 *   - the others: register k has blocks k and k + 4 of one row. That order makes the sums come out
 *     ascending, and it is how the K-quants' planes of bits lie.
 * Either way four registers are summed within their lanes to one (reduce4).
 */
#define GROUP 8 /* blocks of a row: the lanes of the definition */
#define ROWS 8  /* walked together; a multiple of 4 */
#define PAIRS (ROWS / 2)
#define AHEAD_BYTES 1024 /* of each row, asked for before they are needed */

/* How a type's integers become block sums. */
enum shape {
    NIBBLE_HALVES, /* register k: halves of blocks k, k + 4 of both rows */
    WHOLE_BLOCKS   /* register k: blocks k, k + 4 of one row */
};

/* A group of two rows. What a type does not have stays unset and unread. */
struct group {
    vq u[8];    /* integers of 8 bits: by halves [k][half], or by rows [row][k] */
    vq c;       /* [row][block] scales, 32 bits */
    vq half[2]; /* per row: [first half of 0-3, second, first of 4-7, second] scales, 32 bits */
    vq pairs;   /* [row][block][half] scales, 16 bits */
    vq m;       /* [row][block][half] minima, 16 bits */
    vf s, t;    /* [row][block] */
};

/* A group of one vector. */
struct xgroup {
    vq q[8];  /* as the type's u needs them: [k][half], or [k] only */
    vq sum;   /* [block][half], twice, 16 bits */
    vq total; /* [block], twice, 32 bits */
    vf d;     /* [block], twice */
};

typedef void decode_fn(const uint8_t *const *row, struct group *w);

/* Always passed as a constant to inlined functions, so that every `if` is decided. */
struct format {
    decode_fn *decode;
    size_t bytes; /* of a group of one row */
    enum shape shape;
    bool wide;        /* u is signed, all eight bits of it (q_wide) */
    bool one_scale;   /* c */
    bool half_scales; /* half, and pairs if there is an offset */
    int offset;       /* the weight is u - offset */
    bool minima;      /* t; m too unless unit_minima */
    bool unit_minima; /* all m are 1 */
};

static ALWAYS_INLINE uint16_t load_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static ALWAYS_INLINE uint32_t load_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

/* Register k's four lanes summed to the lanes' element k. */
static ALWAYS_INLINE vq reduce4(const vq *p)
{
    vq a = q_add32(q_unpacklo32(p[0], p[1]), q_unpackhi32(p[0], p[1]));
    vq b = q_add32(q_unpacklo32(p[2], p[3]), q_unpackhi32(p[2], p[3]));
    return q_add32(q_unpacklo64(a, b), q_unpackhi64(a, b));
}

/* ---- Scales ---- */

/* Halves at the beginning of four blocks, in integer registers: the vector units have enough to do.
 */
static ALWAYS_INLINE uint64_t four_halves(const uint8_t *p, size_t stride)
{
    return (uint64_t)load_u16(p) | (uint64_t)load_u16(p + stride) << 16 |
           (uint64_t)load_u16(p + 2 * stride) << 32 | (uint64_t)load_u16(p + 3 * stride) << 48;
}

static ALWAYS_INLINE vf gather_halves(const uint8_t *const *row, size_t at, size_t stride)
{
    const uint8_t *a = row[0] + at, *b = row[1] + at;
    __m128i first = _mm_set_epi64x((int64_t)four_halves(a + 4 * stride, stride),
                                   (int64_t)four_halves(a, stride));
    __m128i second = _mm_set_epi64x((int64_t)four_halves(b + 4 * stride, stride),
                                    (int64_t)four_halves(b, stride));
    return f_from_halves(first, second);
}

/* A half of each row, for all its blocks. */
static ALWAYS_INLINE vf spread_half(const uint8_t *const *row, size_t at)
{
    uint32_t both = (uint32_t)load_u16(row[0] + at) | (uint32_t)load_u16(row[1] + at) << 16;
    return f_spread(_mm_cvtph_ps(_mm_cvtsi32_si128((int)both)), 0, 1);
}

/* d and dmin, one after the other. */
static ALWAYS_INLINE void spread_two_halves(const uint8_t *const *row, size_t at, vf *s, vf *t)
{
    uint64_t both = (uint64_t)load_u32(row[0] + at) | (uint64_t)load_u32(row[1] + at) << 32;
    __m128 four = _mm_cvtph_ps(_mm_cvtsi64_si128((int64_t)both));
    *s = f_spread(four, 0, 2);
    *t = f_spread(four, 1, 3);
}

/* Sixteen scales of 8 bits for each row, of the halves in their order. */
static ALWAYS_INLINE void set_half_scales(__m128i first, __m128i second, struct group *w)
{
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    w->half[0] = q_widen8_32(_mm_shuffle_epi8(first, order));
    w->half[1] = q_widen8_32(_mm_shuffle_epi8(second, order));
    w->pairs = q_widen8_16(first, second);
}

/* ---- Types ---- */

static ALWAYS_INLINE void decode_q8_0(const uint8_t *const *row, struct group *w)
{
    const size_t size = 34;
    UNROLL for (size_t i = 0; i < 8; i++)
    {
        const uint8_t *p = row[i / 4] + i % 4 * size + 2;
        w->u[i] = q_wide(q_load2(p, p + 4 * size));
    }
    w->s = gather_halves(row, 0, size);
}

/* Pieces of sixteen bytes of blocks k and k + 4 of both rows. */
static ALWAYS_INLINE vq load_pieces(const uint8_t *const *row, size_t k, size_t at, size_t size)
{
    return q_load4(row[0] + k * size + at, row[0] + (k + 4) * size + at, row[1] + k * size + at,
                   row[1] + (k + 4) * size + at);
}

static ALWAYS_INLINE void split_nibbles(vq v, vq *u)
{
    const vq low = q_set8(15);
    u[0] = q_and(v, low);
    u[1] = q_and(q_srl16(v, 4), low);
}

static ALWAYS_INLINE void load_nibbles(const uint8_t *const *row, size_t at, size_t size, vq *u)
{
    UNROLL for (size_t k = 0; k < 4; k++) split_nibbles(load_pieces(row, k, at, size), u + 2 * k);
}

static ALWAYS_INLINE void look_up(vq *u, const int8_t *values, int bias)
{
    __m128i table = _mm_add_epi8(_mm_loadu_si128((const void *)values), _mm_set1_epi8((char)bias));
    UNROLL for (int i = 0; i < 8; i++) u[i] = q_look_up(table, u[i]);
}

static ALWAYS_INLINE void decode_q4_0(const uint8_t *const *row, struct group *w)
{
    load_nibbles(row, 2, 18, w->u);
    w->s = gather_halves(row, 0, 18);
}

static ALWAYS_INLINE void decode_q4_1(const uint8_t *const *row, struct group *w)
{
    load_nibbles(row, 4, 20, w->u);
    w->s = gather_halves(row, 0, 20);
    w->t = gather_halves(row, 2, 20);
}

/* The fifth bits of blocks k and k + 4 of both rows, of the half that lies at `at`. */
static ALWAYS_INLINE uint64_t fifth_bits(const uint8_t *const *row, size_t k, size_t at,
                                         size_t size)
{
    return (uint64_t)load_u16(row[0] + k * size + at) |
           (uint64_t)load_u16(row[0] + (k + 4) * size + at) << 16 |
           (uint64_t)load_u16(row[1] + k * size + at) << 32 |
           (uint64_t)load_u16(row[1] + (k + 4) * size + at) << 48;
}

static ALWAYS_INLINE void add_fifth_bits(const uint8_t *const *row, size_t at, size_t size, vq *u)
{
    UNROLL for (size_t i = 0; i < 8; i++) u[i] =
        q_add_bits(u[i], fifth_bits(row, i / 2, at + i % 2 * 2, size), 16);
}

static ALWAYS_INLINE void decode_q5_0(const uint8_t *const *row, struct group *w)
{
    load_nibbles(row, 6, 22, w->u);
    add_fifth_bits(row, 2, 22, w->u);
    w->s = gather_halves(row, 0, 22);
}

static ALWAYS_INLINE void decode_q5_1(const uint8_t *const *row, struct group *w)
{
    load_nibbles(row, 8, 24, w->u);
    add_fifth_bits(row, 4, 24, w->u);
    w->s = gather_halves(row, 0, 24);
    w->t = gather_halves(row, 2, 24);
}

static ALWAYS_INLINE void decode_iq4_nl(const uint8_t *const *row, struct group *w)
{
    load_nibbles(row, 2, 18, w->u);
    look_up(w->u, ps_q8_iq4_values, WIDE_BIAS);
    w->s = gather_halves(row, 0, 18);
}

/* Exponents become floats by their bits; 2^-128 and 2^-127 are denormal. */
static ALWAYS_INLINE vf powers_of_two(vq e)
{
    vq normal = q_sll32(q_sub32(e, q_set32(1)), 23);
    vq denormal = q_sllv32(q_set32(0x200000), e);
    return f_from_bits(q_select32_less(e, q_set32(2), denormal, normal));
}

static ALWAYS_INLINE uint64_t eight_bytes(const uint8_t *p, size_t stride)
{
    uint64_t low = (uint64_t)p[0] | (uint64_t)p[stride] << 8 | (uint64_t)p[2 * stride] << 16 |
                   (uint64_t)p[3 * stride] << 24;
    p += 4 * stride;
    uint64_t high = (uint64_t)p[0] | (uint64_t)p[stride] << 8 | (uint64_t)p[2 * stride] << 16 |
                    (uint64_t)p[3 * stride] << 24;
    return low | high << 32;
}

#define MXFP4_OFFSET 12
static ALWAYS_INLINE void decode_mxfp4(const uint8_t *const *row, struct group *w)
{
    load_nibbles(row, 1, 17, w->u);
    look_up(w->u, ps_q8_mxfp4_values, MXFP4_OFFSET);
    w->s = powers_of_two(q_widen8u_32(
        _mm_set_epi64x((int64_t)eight_bytes(row[1], 17), (int64_t)eight_bytes(row[0], 17))));
}

/* The super-block's two halves of 128 weights lie one after the other: blocks k and k + 4. */
static ALWAYS_INLINE void decode_q2_k(const uint8_t *const *row, struct group *w)
{
    const vq crumb = q_set8(3);
    const __m128i low = _mm_set1_epi8(15);
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        vq v = q_load2(row[i] + 16, row[i] + 48);
        w->u[4 * i] = q_and(v, crumb);
        w->u[4 * i + 1] = q_and(q_srl16(v, 2), crumb);
        w->u[4 * i + 2] = q_and(q_srl16(v, 4), crumb);
        w->u[4 * i + 3] = q_and(q_srl16(v, 6), crumb);
    }
    __m128i first = _mm_loadu_si128((const void *)row[0]);
    __m128i second = _mm_loadu_si128((const void *)row[1]);
    set_half_scales(_mm_and_si128(first, low), _mm_and_si128(second, low), w);
    w->m = q_widen8_16(_mm_and_si128(_mm_srli_epi16(first, 4), low),
                       _mm_and_si128(_mm_srli_epi16(second, 4), low));
    spread_two_halves(row, 80, &w->s, &w->t);
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

static ALWAYS_INLINE void decode_q3_k(const uint8_t *const *row, struct group *w)
{
    const vq crumb = q_set8(3), third = q_set8(4);
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        vq v = q_load2(row[i] + 32, row[i] + 64);
        /* Bit k for block k, bit k + 4 for block k + 4. */
        vq h = q_shift_upper(q_load2(row[i], row[i]), 4);
        vq *u = w->u + 4 * i;
        u[0] = q_or(q_and(v, crumb), q_and(q_sll16(h, 2), third));
        u[1] = q_or(q_and(q_srl16(v, 2), crumb), q_and(q_sll16(h, 1), third));
        u[2] = q_or(q_and(q_srl16(v, 4), crumb), q_and(h, third));
        u[3] = q_or(q_and(q_srl16(v, 6), crumb), q_and(q_srl16(h, 1), third));
    }
    set_half_scales(q3_k_scales(row[0] + 96), q3_k_scales(row[1] + 96), w);
    w->s = spread_half(row, 108);
}

/* Scales and minima of six bits: the last four of each have their high two bits elsewhere. */
static ALWAYS_INLINE void q4_k_scales(const uint8_t *const *row, struct group *w)
{
    const uint32_t nibble = 0x0f0f0f0f, crumb = 0x30303030, six = 0x3f3f3f3f;
    uint64_t c[2], m[2];
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        uint32_t a = load_u32(row[i] + 4), b = load_u32(row[i] + 8), both = load_u32(row[i] + 12);
        c[i] = (a & six) | (uint64_t)((both & nibble) | (a >> 2 & crumb)) << 32;
        m[i] = (b & six) | (uint64_t)((both >> 4 & nibble) | (b >> 2 & crumb)) << 32;
    }
    w->c = q_widen8u_32(_mm_set_epi64x((int64_t)c[1], (int64_t)c[0]));
    w->m = q_widen8u_32(_mm_set_epi64x((int64_t)m[1], (int64_t)m[0]));
    spread_two_halves(row, 0, &w->s, &w->t);
}

/* Runs of 32 bytes: the low nibbles are one block, the high ones the next. */
static ALWAYS_INLINE void decode_q4_k(const uint8_t *const *row, struct group *w)
{
    UNROLL for (size_t i = 0; i < 4; i++)
    {
        const uint8_t *p = row[i / 2] + 16 + i % 2 * 32;
        split_nibbles(q_load2(p, p + 64), w->u + 2 * i);
    }
    q4_k_scales(row, w);
}

static ALWAYS_INLINE void decode_q5_k(const uint8_t *const *row, struct group *w)
{
    const vq fifth = q_set8(16);
    UNROLL for (size_t i = 0; i < 4; i++)
    {
        const uint8_t *p = row[i / 2] + 48 + i % 2 * 32;
        split_nibbles(q_load2(p, p + 64), w->u + 2 * i);
    }
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        vq h = q_shift_upper(q_load2(row[i] + 16, row[i] + 16), 4);
        vq *u = w->u + 4 * i;
        u[0] = q_or(u[0], q_and(q_sll16(h, 4), fifth));
        u[1] = q_or(u[1], q_and(q_sll16(h, 3), fifth));
        u[2] = q_or(u[2], q_and(q_sll16(h, 2), fifth));
        u[3] = q_or(u[3], q_and(q_sll16(h, 1), fifth));
    }
    q4_k_scales(row, w);
}

static ALWAYS_INLINE void decode_q6_k(const uint8_t *const *row, struct group *w)
{
    const vq high = q_set8(0x30);
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        vq h = q_load2(row[i] + 128, row[i] + 160), *u = w->u + 4 * i;
        vq first[2], second[2];
        split_nibbles(q_load2(row[i], row[i] + 64), first);
        split_nibbles(q_load2(row[i] + 32, row[i] + 96), second);
        u[0] = q_or(first[0], q_and(q_sll16(h, 4), high));
        u[1] = q_or(second[0], q_and(q_sll16(h, 2), high));
        u[2] = q_or(first[1], q_and(h, high));
        u[3] = q_or(second[1], q_and(q_srl16(h, 2), high));
    }
    set_half_scales(_mm_loadu_si128((const void *)(row[0] + 192)),
                    _mm_loadu_si128((const void *)(row[1] + 192)), w);
    w->s = spread_half(row, 208);
}

static ALWAYS_INLINE void decode_iq4_xs(const uint8_t *const *row, struct group *w)
{
    load_nibbles(row, 8, 16, w->u);
    look_up(w->u, ps_q8_iq4_values, WIDE_BIAS);

    vq low = q_spread32(load_u32(row[0] + 4), load_u32(row[1] + 4));
    vq high = q_spread32(load_u16(row[0] + 2), load_u16(row[1] + 2));
    low = q_and(q_srlv32(low, q_multiples32(4)), q_set32(15));
    high = q_and(q_srlv32(high, q_multiples32(2)), q_set32(3));
    w->c = q_sub32(q_or(low, q_sll32(high, 4)), q_set32(32));
    w->s = spread_half(row, 0);
}

/* ---- One group ---- */

static ALWAYS_INLINE void load_x(const int8_t *q, const float *d, const int16_t *sum,
                                 const struct format f, struct xgroup *x)
{
    const uint8_t *p = (const uint8_t *)q;
    UNROLL for (size_t k = 0; k < 4; k++)
    {
        const uint8_t *a = p + k * PS_Q8_BLOCK, *b = a + 4 * PS_Q8_BLOCK;
        if (f.shape == NIBBLE_HALVES) {
            x->q[2 * k] = q_load4(a, b, a, b);
            x->q[2 * k + 1] = q_load4(a + 16, b + 16, a + 16, b + 16);
        } else {
            x->q[k] = q_load2(a, b);
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

/* The sixteen S of the definition. */
static ALWAYS_INLINE vq block_sums(const struct group *w, const struct xgroup *x,
                                   const struct format f)
{
    const int offset = f.offset + (f.wide ? WIDE_BIAS : 0);
    vq p[4], sums;

    if (f.shape == NIBBLE_HALVES) {
        UNROLL for (int k = 0; k < 4; k++) p[k] =
            dot(dot(q_zero(), w->u[2 * k], x->q[2 * k], f), w->u[2 * k + 1], x->q[2 * k + 1], f);
        sums = reduce4(p);
    } else {
        vq half[2];
        UNROLL for (int i = 0; i < 2; i++)
        {
            UNROLL for (int k = 0; k < 4; k++) p[k] = dot(q_zero(), w->u[4 * i + k], x->q[k], f);
            half[i] = reduce4(p);
            if (f.half_scales)
                half[i] = q_mul32(half[i], w->half[i]);
        }
        sums = q_add_lanes(half[0], half[1]);
    }
    if (f.half_scales && offset != 0)
        sums = q_sub32(sums, q_mul32(q_madd16(w->pairs, x->sum), q_set32(offset)));
    else if (offset != 0)
        sums = q_sub32(sums, q_mul32(x->total, q_set32(offset)));
    return f.one_scale ? q_mul32(sums, w->c) : sums;
}

static ALWAYS_INLINE vf accumulate(const struct group *w, const struct xgroup *x, vf acc,
                                   const struct format f)
{
    acc = f_fma(q_to_float(block_sums(w, x, f)), f_mul(w->s, x->d), acc);
    if (f.minima && f.unit_minima)
        return f_fma(q_to_float(x->total), f_mul(w->t, x->d), acc);
    if (!f.minima)
        return acc;
    /* K-quants subtract their minima. With one a block, the sum of both halves is its factor. */
    vq m = q_madd16(w->m, f.half_scales ? x->sum : x->total);
    return f_fma_negated(q_to_float(m), f_mul(w->t, x->d), acc);
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
                                      const int n, const int pairs, const struct format f)
{
    struct xgroup x[PS_Q8_FEW];

    UNROLL for (int c = 0; c < n; c++) load_x(few->xq[c] + block * PS_Q8_BLOCK, few->xd[c] + block,
                                              few->xsum[c] + 2 * block, f, &x[c]);
    UNROLL for (int i = 0; i < pairs; i++)
    {
        const uint8_t *at[2] = {row[2 * i] + offset, row[2 * i + 1] + offset};
        struct group w;
        ask_for(at[0] + ahead, f.bytes);
        ask_for(at[1] + ahead, f.bytes);
        f.decode(at, &w);
        UNROLL for (int c = 0; c < n; c++) acc[c][i] = accumulate(&w, &x[c], acc[c][i], f);
    }
}

/*
 * Copies with zeros around them: nothing is read beyond a row. Lanes outside of the part keep their
 * value instead of taking a product with zero, since the other factor could be NaN.
 */
static ALWAYS_INLINE void part_group(const struct few *few, const uint8_t *const *row,
                                     const struct cut cut, vf (*acc)[PAIRS], const int n,
                                     const int pairs, const struct format f)
{
    const size_t size = f.bytes / GROUP;
    _Alignas(64) int8_t q[PS_Q8_FEW][GROUP * PS_Q8_BLOCK] = {{0}};
    float d[PS_Q8_FEW][GROUP] = {{0}};
    int16_t sum[PS_Q8_FEW][2 * GROUP] = {{0}};

    for (int c = 0; c < n; c++) {
        memcpy(q[c] + cut.lane * PS_Q8_BLOCK, few->xq[c] + cut.from * PS_Q8_BLOCK,
               cut.count * PS_Q8_BLOCK);
        memcpy(d[c] + cut.lane, few->xd[c] + cut.from, cut.count * sizeof(**d));
        memcpy(sum[c] + 2 * cut.lane, few->xsum[c] + 2 * cut.from, 2 * cut.count * sizeof(**sum));
    }
    for (int i = 0; i < pairs; i++) {
        uint8_t copy[2][GROUP * 34] = {{0}};
        const uint8_t *at[2] = {copy[0], copy[1]};
        struct group w;
        for (int j = 0; j < 2; j++)
            memcpy(copy[j] + cut.lane * size, row[2 * i + j] + cut.from * size, cut.count * size);
        f.decode(at, &w);
        for (int c = 0; c < n; c++) {
            struct xgroup x;
            load_x(q[c], d[c], sum[c], f, &x);
            acc[c][i] = f_select(accumulate(&w, &x, acc[c][i], f), acc[c][i], cut.lane, cut.count);
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
                                     const int pairs)
{
    /* Where rows are missing the last one is computed again: rare, and cheaper than more variants.
     */
    for (size_t i = 0; i < 2 * (size_t)pairs; i++)
        row[i] = (const uint8_t *)m->w + (r + (i < count ? i : count - 1)) * m->w_stride_bytes;
    UNROLL for (int c = 0; c < n; c++)
    {
        UNROLL for (int i = 0; i < pairs; i++)
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
                                   vf (*acc)[PAIRS], const int n, const int pairs)
{
    UNROLL for (int c = 0; c < n; c++)
    {
        if ((size_t)c >= m->n)
            break;
        if (m->lanes_out != NULL) {
            float *lanes = m->lanes_out + ((size_t)c * m->rows + r) * PS_Q8_LANES;
            float copy[ROWS * PS_Q8_LANES];
            for (int i = 0; i < pairs; i++)
                f_store(copy + i * 2 * PS_Q8_LANES, acc[c][i]);
            memcpy(lanes, copy, count * PS_Q8_LANES * sizeof(*lanes));
            continue;
        }
        float y[ROWS];
        for (int i = 0; i < pairs; i += 2)
            _mm_storeu_ps(y + 2 * i, sum_four(acc[c] + i));
        memcpy(m->y + (size_t)c * m->ldy + r, y, count * sizeof(*y));
    }
}

/* Rows [r, r + 2 pairs), or those of them that there are. */
static ALWAYS_INLINE void multiply_rows(const struct few *few, size_t r, const int n,
                                        const int pairs, const struct format f)
{
    const struct ps_q8_matmul *m = few->m;
    const size_t rows = 2 * (size_t)pairs;
    const size_t count = m->rows - r < rows ? m->rows - r : rows;
    const size_t blocks = m->cols / PS_Q8_BLOCK;
    const uint8_t *row[ROWS];
    vf acc[PS_Q8_FEW][PAIRS];
    size_t block = 0;

    begin_rows(m, r, count, row, acc, n, pairs);
    if (few->first != 0) {
        size_t room = GROUP - few->first;
        struct cut cut = {0, few->first, blocks < room ? blocks : room};
        part_group(few, row, cut, acc, n, pairs, f);
        block = cut.count;
    }
    /* The last columns look ahead to the first ones of the next rows. */
    const size_t row_bytes = bytes_before(blocks, f), next = rows * m->w_stride_bytes;
    for (; block + GROUP <= blocks; block += GROUP) {
        size_t offset = bytes_before(block, f), ahead = AHEAD_BYTES;
        if (offset + ahead >= row_bytes)
            ahead = next - row_bytes + ahead;
        whole_group(few, row, block, offset, ahead, acc, n, pairs, f);
    }
    if (block < blocks) {
        struct cut cut = {block, 0, blocks - block};
        part_group(few, row, cut, acc, n, pairs, f);
    }
    end_rows(m, r, count, acc, n, pairs);
}

/* n vectors, of which the last may be there more than once. */
static ALWAYS_INLINE void multiply(const struct ps_q8_matmul *m, const int n, const int pairs,
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
    for (size_t r = 0; r < m->rows; r += 2 * (size_t)pairs)
        multiply_rows(&few, r, n, pairs, f);
}

/* One function per type and number of vectors, so that its decoder is inlined. */
#define DEFINE_TYPE(name, ...)                                                                     \
    static void one_##name(const struct ps_q8_matmul *m)                                           \
    {                                                                                              \
        const struct format f = {.decode = decode_##name, __VA_ARGS__};                            \
        multiply(m, 1, PAIRS, f);                                                                  \
    }                                                                                              \
    static void two_##name(const struct ps_q8_matmul *m)                                           \
    {                                                                                              \
        const struct format f = {.decode = decode_##name, __VA_ARGS__};                            \
        multiply(m, 2, 2, f);                                                                      \
    }                                                                                              \
    static void four_##name(const struct ps_q8_matmul *m)                                          \
    {                                                                                              \
        const struct format f = {.decode = decode_##name, __VA_ARGS__};                            \
        multiply(m, 4, 2, f);                                                                      \
    }

DEFINE_TYPE(q8_0, .bytes = 34 * GROUP, .shape = WHOLE_BLOCKS, .wide = true)
DEFINE_TYPE(q4_0, .bytes = 18 * GROUP, .shape = NIBBLE_HALVES, .offset = 8)
DEFINE_TYPE(q4_1, .bytes = 20 * GROUP, .shape = NIBBLE_HALVES, .minima = true, .unit_minima = true)
DEFINE_TYPE(q5_0, .bytes = 22 * GROUP, .shape = NIBBLE_HALVES, .offset = 16)
DEFINE_TYPE(q5_1, .bytes = 24 * GROUP, .shape = NIBBLE_HALVES, .minima = true, .unit_minima = true)
DEFINE_TYPE(iq4_nl, .bytes = 18 * GROUP, .shape = NIBBLE_HALVES, .wide = true)
DEFINE_TYPE(mxfp4, .bytes = 17 * GROUP, .shape = NIBBLE_HALVES, .offset = MXFP4_OFFSET)
DEFINE_TYPE(q2_k, .bytes = 84, .shape = WHOLE_BLOCKS, .half_scales = true, .minima = true)
DEFINE_TYPE(q3_k, .bytes = 110, .shape = WHOLE_BLOCKS, .half_scales = true, .offset = 4)
DEFINE_TYPE(q4_k, .bytes = 144, .shape = WHOLE_BLOCKS, .one_scale = true, .minima = true)
DEFINE_TYPE(q5_k, .bytes = 176, .shape = WHOLE_BLOCKS, .one_scale = true, .minima = true)
DEFINE_TYPE(q6_k, .bytes = 210, .shape = WHOLE_BLOCKS, .half_scales = true, .offset = 32)
DEFINE_TYPE(iq4_xs, .bytes = 136, .shape = NIBBLE_HALVES, .wide = true, .one_scale = true)

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
