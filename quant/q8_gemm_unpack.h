/*
 * Blocks of every type to panels of bytes (q8_gemm.h), sixteen rows at a time. A panel holds the
 * integers of ps_q8_unpack() plus the format's offset, which makes them unsigned, and their scales
 * and minima as floats, which hold them exactly.
 */

/* ps_q8_iq4_values + 128 and ps_q8_mxfp4_values + 12. */
static const uint8_t iq4_bytes[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                      129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t mxfp4_bytes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

static ALWAYS_INLINE void put_word(struct panel *p, size_t block, size_t word, w16 v)
{
    w16_store(p->q[block][word], v);
}

/* One float of each row to one or to all blocks. */
static ALWAYS_INLINE void put_all(float (*dst)[PANEL_ROWS], f16 v)
{
    for (int b = 0; b < PANEL_BLOCKS; b++)
        f16_store(dst[b], v);
}

/* A half float of every block, block_bytes apart. */
static ALWAYS_INLINE void put_halves(float (*dst)[PANEL_ROWS], const uint8_t *const *row,
                                     size_t offset, size_t block_bytes, size_t blocks)
{
    uint16_t half[PANEL_BLOCKS][PANEL_ROWS];

    for (int r = 0; r < PANEL_ROWS; r++) {
        for (size_t b = 0; b < blocks; b++)
            memcpy(&half[b][r], row[r] + offset + b * block_bytes, sizeof(half[b][r]));
    }
    for (size_t b = 0; b < blocks; b++)
        f16_store(dst[b], f16_from_halves(half[b]));
}

/* A half float of every row, for all blocks. */
static ALWAYS_INLINE void put_half(float (*dst)[PANEL_ROWS], const uint8_t *const *row,
                                   size_t offset, bool negative)
{
    uint16_t half[PANEL_ROWS];

    for (int r = 0; r < PANEL_ROWS; r++)
        memcpy(&half[r], row[r] + offset, sizeof(half[r]));
    f16 v = f16_from_halves(half);
    put_all(dst, negative ? f16_negative(v) : v);
}

/* Byte i of each row, less bias. */
static ALWAYS_INLINE f16 byte_of(w16 v, int i, uint32_t bias)
{
    w16 byte = w16_and(w16_shift(v, -8 * i), w16_all(0xff));
    return f16_from_ints(w16_sub(byte, w16_all(bias)));
}

/* The four bytes of each row are the factors of four blocks. */
static ALWAYS_INLINE void put_bytes(float (*dst)[2][PANEL_ROWS], w16 v)
{
    UNROLL for (int i = 0; i < 4; i++) f16_store(dst[i][0], byte_of(v, i, 0));
}

/* The sixteen bytes of each row, less bias, are those of the halves of eight blocks. */
static ALWAYS_INLINE void put_half_bytes(float (*dst)[2][PANEL_ROWS], const w16 *w, uint32_t bias)
{
    UNROLL for (int i = 0; i < 4; i++)
    {
        UNROLL for (int j = 0; j < 4; j++)
            f16_store(dst[2 * i + j / 2][j % 2], byte_of(w[i], j, bias));
    }
}

static ALWAYS_INLINE void unpack_q8_0(struct panel *p, const uint8_t *const *row, size_t offset,
                                      size_t blocks)
{
    const w16 sign = w16_all(0x80808080); /* turns it over: 128 more */

    put_halves(p->s, row, offset, 34, blocks);
    for (size_t b = 0; b < blocks; b++, offset += 34) {
        for (size_t part = 0; part < 2; part++) {
            w16 w[4];
            w16_load4(row, offset + 2 + part * PIECE_BYTES, w);
            UNROLL for (size_t i = 0; i < 4; i++) put_word(p, b, part * 4 + i, w16_xor(w[i], sign));
        }
    }
}

/*
 * Sixteen bytes whose low halves are the first values of a block and whose high halves are the
 * last. With a table they are its indices; `fifth` holds the bits that make 5-bit numbers of them.
 */
static ALWAYS_INLINE void unpack_nibbles(struct panel *p, size_t block, const uint8_t *const *row,
                                         size_t offset, const uint8_t *table, const w16 *fifth)
{
    const w16 mask = w16_all(0x0f0f0f0f);
    w16 w[4];

    w16_load4(row, offset, w);
    UNROLL for (size_t i = 0; i < 4; i++)
    {
        w16 low = w16_and(w[i], mask), high = w16_and(w16_shift(w[i], -4), mask);
        if (table != NULL) {
            low = w16_look_up(table, low);
            high = w16_look_up(table, high);
        }
        if (fifth != NULL) {
            low = w16_or(low, fifth[i]);
            high = w16_or(high, fifth[4 + i]);
        }
        put_word(p, block, i, low);
        put_word(p, block, 4 + i, high);
    }
}

/* The 32 fifth bits of a block's rows, each where it belongs. */
static ALWAYS_INLINE void spread_bits(w16 bits, w16 *fifth)
{
    UNROLL for (int i = 0; i < 8; i++)
    {
        /* Bits 0 to 3 to 0, 8, 16 and 24, then all up by four. */
        w16 four = w16_and(w16_shift(bits, -4 * i), w16_all(15));
        w16 two = w16_or(four, w16_shift(four, 7));
        w16 one = w16_or(two, w16_shift(two, 14));
        fifth[i] = w16_and(w16_shift(one, 4), w16_all(0x10101010));
    }
}

/* Q4_0 and IQ4_NL: d, nibbles. Q4_1: d, min, nibbles. */
static ALWAYS_INLINE void unpack_four_bits(struct panel *p, const uint8_t *const *row,
                                           size_t offset, size_t blocks, bool minimum,
                                           const uint8_t *table)
{
    const size_t header = minimum ? 4 : 2, block_bytes = header + 16;

    put_halves(p->s, row, offset, block_bytes, blocks);
    if (minimum)
        put_halves(p->t, row, offset + 2, block_bytes, blocks);
    for (size_t b = 0; b < blocks; b++)
        unpack_nibbles(p, b, row, offset + b * block_bytes + header, table, NULL);
}

static ALWAYS_INLINE void unpack_q4_0(struct panel *p, const uint8_t *const *row, size_t offset,
                                      size_t blocks)
{
    unpack_four_bits(p, row, offset, blocks, false, NULL);
}

static ALWAYS_INLINE void unpack_q4_1(struct panel *p, const uint8_t *const *row, size_t offset,
                                      size_t blocks)
{
    unpack_four_bits(p, row, offset, blocks, true, NULL);
}

static ALWAYS_INLINE void unpack_iq4_nl(struct panel *p, const uint8_t *const *row, size_t offset,
                                        size_t blocks)
{
    unpack_four_bits(p, row, offset, blocks, false, iq4_bytes);
}

/* Q5_0: d, 32 bits, nibbles. Q5_1: d, min, bits, nibbles. */
static ALWAYS_INLINE void unpack_five_bits(struct panel *p, const uint8_t *const *row,
                                           size_t offset, size_t blocks, bool minimum)
{
    const size_t header = minimum ? 4 : 2, block_bytes = header + 20;

    put_halves(p->s, row, offset, block_bytes, blocks);
    if (minimum)
        put_halves(p->t, row, offset + 2, block_bytes, blocks);
    for (size_t b = 0; b < blocks; b++, offset += block_bytes) {
        w16 w[4], fifth[8];
        w16_load4(row, offset + header, w);
        spread_bits(w[0], fifth);
        unpack_nibbles(p, b, row, offset + header + 4, NULL, fifth);
    }
}

static ALWAYS_INLINE void unpack_q5_0(struct panel *p, const uint8_t *const *row, size_t offset,
                                      size_t blocks)
{
    unpack_five_bits(p, row, offset, blocks, false);
}

static ALWAYS_INLINE void unpack_q5_1(struct panel *p, const uint8_t *const *row, size_t offset,
                                      size_t blocks)
{
    unpack_five_bits(p, row, offset, blocks, true);
}

/* An exponent, nibbles. */
static ALWAYS_INLINE void unpack_mxfp4(struct panel *p, const uint8_t *const *row, size_t offset,
                                       size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, offset += 17) {
        uint32_t bits[PANEL_ROWS];
        for (int r = 0; r < PANEL_ROWS; r++) {
            uint32_t e = row[r][offset];
            bits[r] = e < 2 ? 0x200000u << e : (e - 1) << 23;
        }
        memcpy(p->s[b], bits, sizeof(bits));
        unpack_nibbles(p, b, row, offset + 1, mxfp4_bytes, NULL);
    }
}

/* The first sixteen bytes of Q4_K and Q5_K: d, dmin, and 8 + 8 numbers of 6 bits (spec B.4). */
static ALWAYS_INLINE void unpack_k_header(struct panel *p, const uint8_t *const *row, size_t offset)
{
    const w16 low6 = w16_all(0x3f3f3f3f), low4 = w16_all(0x0f0f0f0f), top2 = w16_all(0x30303030);
    w16 w[4];

    w16_load4(row, offset, w);
    put_all(p->s, f16_from_low_halves(w[0]));
    put_all(p->t, f16_negative(f16_from_low_halves(w16_shift(w[0], -16))));
    put_bytes(p->c, w16_and(w[1], low6));
    put_bytes(p->m, w16_and(w[2], low6));
    put_bytes(p->c + 4, w16_or(w16_and(w[3], low4), w16_and(w16_shift(w[1], -2), top2)));
    put_bytes(p->m + 4,
              w16_or(w16_and(w16_shift(w[3], -4), low4), w16_and(w16_shift(w[2], -2), top2)));
}

static ALWAYS_INLINE void unpack_q4_k(struct panel *p, const uint8_t *const *row, size_t offset,
                                      size_t blocks)
{
    const w16 mask = w16_all(0x0f0f0f0f);

    (void)blocks;
    unpack_k_header(p, row, offset);
    for (size_t piece = 0; piece < 8; piece++) {
        size_t block = piece / 2 * 2, word = piece % 2 * 4;
        w16 w[4];
        w16_load4(row, offset + 16 + piece * PIECE_BYTES, w);
        UNROLL for (size_t i = 0; i < 4; i++)
        {
            put_word(p, block, word + i, w16_and(w[i], mask));
            put_word(p, block + 1, word + i, w16_and(w16_shift(w[i], -4), mask));
        }
    }
}

static ALWAYS_INLINE void unpack_q5_k(struct panel *p, const uint8_t *const *row, size_t offset,
                                      size_t blocks)
{
    const w16 mask = w16_all(0x0f0f0f0f), bit = w16_all(0x10101010);

    (void)blocks;
    unpack_k_header(p, row, offset);
    for (size_t part = 0; part < 2; part++) { /* the first and the last values of every block */
        w16 high[4];
        w16_load4(row, offset + 16 + part * PIECE_BYTES, high);
        UNROLL for (int pair = 0; pair < 4; pair++)
        {
            size_t block = (size_t)pair * 2;
            w16 w[4];
            w16_load4(row, offset + 48 + (block + part) * PIECE_BYTES, w);
            UNROLL for (size_t i = 0; i < 4; i++)
            {
                w16 even = w16_and(w16_shift(high[i], 4 - 2 * pair), bit);
                w16 odd = w16_and(w16_shift(high[i], 3 - 2 * pair), bit);
                put_word(p, block, part * 4 + i, w16_or(w16_and(w[i], mask), even));
                put_word(p, block + 1, part * 4 + i,
                         w16_or(w16_and(w16_shift(w[i], -4), mask), odd));
            }
        }
    }
}

/* 128 bytes of nibbles, 64 of high crumbs, 16 scales, d. */
static ALWAYS_INLINE void unpack_q6_k(struct panel *p, const uint8_t *const *row, size_t offset,
                                      size_t blocks)
{
    const w16 mask = w16_all(0x0f0f0f0f), top = w16_all(0x30303030), sign = w16_all(0x80808080);
    w16 w[4];

    (void)blocks;
    put_half(p->s, row, offset + 208, false);
    w16_load4(row, offset + 192, w);
    for (int i = 0; i < 4; i++)
        w[i] = w16_xor(w[i], sign);
    put_half_bytes(p->c, w, 128);

    for (size_t piece = 0; piece < 4; piece++) { /* halves of 128 values; l < 16, l >= 16 */
        size_t n = piece / 2, l = piece % 2 * PIECE_BYTES, word = piece % 2 * 4;
        w16 first[4], second[4], high[4];
        w16_load4(row, offset + 64 * n + l, first);
        w16_load4(row, offset + 64 * n + 32 + l, second);
        w16_load4(row, offset + 128 + 32 * n + l, high);
        UNROLL for (size_t i = 0; i < 4; i++)
        {
            w16 h0 = w16_and(w16_shift(high[i], 4), top), h1 = w16_and(w16_shift(high[i], 2), top);
            w16 h2 = w16_and(high[i], top), h3 = w16_and(w16_shift(high[i], -2), top);
            w16 first_high = w16_and(w16_shift(first[i], -4), mask);
            w16 second_high = w16_and(w16_shift(second[i], -4), mask);
            put_word(p, 4 * n, word + i, w16_or(w16_and(first[i], mask), h0));
            put_word(p, 4 * n + 1, word + i, w16_or(w16_and(second[i], mask), h1));
            put_word(p, 4 * n + 2, word + i, w16_or(first_high, h2));
            put_word(p, 4 * n + 3, word + i, w16_or(second_high, h3));
        }
    }
}

/* The crumbs of Q2_K and Q3_K, 64 bytes; Q3_K has third bits besides, 32 bytes. */
static ALWAYS_INLINE void unpack_crumbs(struct panel *p, const uint8_t *const *row, size_t offset,
                                        bool thirds, size_t thirds_offset)
{
    const w16 mask = w16_all(0x03030303), bit = w16_all(0x04040404);

    for (size_t part = 0; part < 2; part++) { /* the first and the last values of every block */
        w16 third[4];
        if (thirds)
            w16_load4(row, thirds_offset + part * PIECE_BYTES, third);
        UNROLL for (int n = 0; n < 2; n++)
        {
            w16 w[4];
            w16_load4(row, offset + (size_t)n * 32 + part * PIECE_BYTES, w);
            UNROLL for (int j = 0; j < 4; j++)
            {
                int block = 4 * n + j;
                UNROLL for (size_t i = 0; i < 4; i++)
                {
                    w16 v = w16_and(w16_shift(w[i], -2 * j), mask);
                    if (thirds)
                        v = w16_or(v, w16_and(w16_shift(third[i], 2 - block), bit));
                    put_word(p, (size_t)block, part * 4 + i, v);
                }
            }
        }
    }
}

/* Sixteen scales and minima of four bits, crumbs, d, dmin. */
static ALWAYS_INLINE void unpack_q2_k(struct panel *p, const uint8_t *const *row, size_t offset,
                                      size_t blocks)
{
    const w16 mask = w16_all(0x0f0f0f0f);
    w16 w[4], scales[4], minima[4];

    (void)blocks;
    put_half(p->s, row, offset + 80, false);
    put_half(p->t, row, offset + 82, true);
    w16_load4(row, offset, w);
    UNROLL for (int i = 0; i < 4; i++)
    {
        scales[i] = w16_and(w[i], mask);
        minima[i] = w16_and(w16_shift(w[i], -4), mask);
    }
    put_half_bytes(p->c, scales, 0);
    put_half_bytes(p->m, minima, 0);
    unpack_crumbs(p, row, offset + 16, false, 0);
}

/* Third bits, crumbs, 12 bytes of 6-bit scales, d. */
static ALWAYS_INLINE void unpack_q3_k(struct panel *p, const uint8_t *const *row, size_t offset,
                                      size_t blocks)
{
    const w16 low4 = w16_all(0x0f0f0f0f), top2 = w16_all(0x30303030);
    w16 w[4], scales[4];

    (void)blocks;
    put_half(p->s, row, offset + 108, false);
    /* The scales are the last three words: sixteen bytes from them on could be beyond the row. */
    w16_load4(row, offset + 92, w);
    scales[0] = w16_or(w16_and(w[1], low4), w16_and(w16_shift(w[3], 4), top2));
    scales[1] = w16_or(w16_and(w[2], low4), w16_and(w16_shift(w[3], 2), top2));
    scales[2] = w16_or(w16_and(w16_shift(w[1], -4), low4), w16_and(w[3], top2));
    scales[3] = w16_or(w16_and(w16_shift(w[2], -4), low4), w16_and(w16_shift(w[3], -2), top2));
    put_half_bytes(p->c, scales, 32);
    unpack_crumbs(p, row, offset + 32, true, offset);
}

/* d, two bits of each scale, four of each, nibbles. */
static ALWAYS_INLINE void unpack_iq4_xs(struct panel *p, const uint8_t *const *row, size_t offset,
                                        size_t blocks)
{
    w16 w[4];

    (void)blocks;
    w16_load4(row, offset, w);
    put_all(p->s, f16_from_low_halves(w[0]));
    UNROLL for (int b = 0; b < PANEL_BLOCKS; b++)
    {
        w16 low = w16_and(w16_shift(w[1], -4 * b), w16_all(15));
        w16 high = w16_and(w16_shift(w[0], -12 - 2 * b), w16_all(0x30));
        f16_store(p->c[b][0], f16_from_ints(w16_sub(w16_or(low, high), w16_all(32))));
        unpack_nibbles(p, (size_t)b, row, offset + 8 + (size_t)b * PIECE_BYTES, iq4_bytes, NULL);
    }
}
