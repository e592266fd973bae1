/* From matrices to groups of lanes; continues encode_lanes_k.h. */

typedef void encode_group_fn(struct group *g, bool weighted, uint8_t *dst, size_t count);

/* Always passed as constants to inlined functions. */
struct encoder {
    encode_group_fn *encode; /* sixteen sub-blocks, of which the first `count` blocks are stored */
    int len;                 /* values in a sub-block */
    size_t subs;             /* sub-blocks in a block */
    size_t block_bytes;
};

/* Blocks follow each other across the ends of rows: short rows fill the lanes too. */
static ALWAYS_INLINE void encode_matrix(const struct ps_encode *e, const struct encoder f,
                                        bool weighted)
{
    static const float nothing[32] = {0};
    const size_t len = (size_t)f.len, count = e->rows * (e->cols / len);
    uint8_t *dst = e->dst;
    size_t col = 0;
    struct group g;

    for (size_t b = 0; b < count; b += LANES) {
        size_t here = count - b < LANES ? count - b : LANES;
        const float *x[LANES], *w[LANES];
        for (size_t l = 0; l < LANES; l++) {
            x[l] = l < here ? e->values + (b + l) * len : nothing;
            w[l] = weighted && l < here ? e->importance + col : nothing;
            col = col + len < e->cols ? col + len : 0;
        }
        turn_in(x, f.len, g.x);
        clean(&g, f.len);
        if (weighted) {
            turn_in(w, f.len, g.w);
            even_out(&g, f.len);
        }
        f.encode(&g, weighted, dst, here / f.subs);
        dst += here / f.subs * f.block_bytes;
    }
}

static ALWAYS_INLINE void encode_either(const struct ps_encode *e, const struct encoder f)
{
    if (e->importance != NULL)
        encode_matrix(e, f, true);
    else
        encode_matrix(e, f, false);
}

/* Functions of their own, so that the compiler has one search before it at a time. */
static __attribute__((noinline)) void encode_q4_0(const struct ps_encode *e)
{
    encode_either(e, (struct encoder){q4_0_group, 32, 1, 18});
}

static __attribute__((noinline)) void encode_mxfp4(const struct ps_encode *e)
{
    encode_either(e, (struct encoder){mxfp4_group, 32, 1, 17});
}

static __attribute__((noinline)) void encode_q4_k(const struct ps_encode *e)
{
    encode_either(e, (struct encoder){q4_k_group, 32, 8, 144});
}

static __attribute__((noinline)) void encode_q6_k(const struct ps_encode *e)
{
    encode_either(e, (struct encoder){q6_k_group, 16, 16, 210});
}

static void encode_rows(const struct ps_encode *e)
{
    switch (e->type) {
    case PS_TYPE_Q8_0:
        encode_q8_0(e->values, e->dst, e->rows * (e->cols / 32));
        return;
    case PS_TYPE_Q4_0:
        encode_q4_0(e);
        return;
    case PS_TYPE_MXFP4:
        encode_mxfp4(e);
        return;
    case PS_TYPE_Q4_K:
        encode_q4_k(e);
        return;
    case PS_TYPE_Q6_K:
        encode_q6_k(e);
        return;
    default:
        assert(!"a type with an encoder");
    }
}
