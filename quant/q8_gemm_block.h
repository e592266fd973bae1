/*
 * What is left to do with the sums of a block, for the files that multiply in registers of M_ROWS
 * integers (mint, mfloat and the m_ operations).
 */

/* Of M_ROWS rows of a panel, from `row` on. */
struct scales {
    mfloat s, t, c[2], m[2];
};

static ALWAYS_INLINE void scales_load(struct scales *k, const struct panel *p, size_t b, size_t row,
                                      const struct format f)
{
    k->s = m_load_floats(p->s[b] + row);
    if (f.scaled)
        k->c[0] = m_load_floats(p->c[b][0] + row);
    if (f.scaled && f.halves)
        k->c[1] = m_load_floats(p->c[b][1] + row);
    if (f.minima)
        k->t = m_load_floats(p->t[b] + row);
    if (f.minima && !f.unit)
        k->m[0] = m_load_floats(p->m[b][0] + row);
    if (f.minima && f.halves)
        k->m[1] = m_load_floats(p->m[b][1] + row);
}

/* Adds a block of one vector to its lane. sum: of both halves, or of the block alone. */
static ALWAYS_INLINE void block_add(float *lane, const struct scales *k, const struct vector *v,
                                    size_t b, const mint *sum, const struct format f)
{
    mfloat d = m_all_floats(v->d[b]), total = m_to_float(sum[0]);

    if (f.scaled)
        total = m_mul(total, k->c[0]);
    if (f.halves)
        total = m_fma(m_to_float(sum[1]), k->c[1], total);
    mfloat acc = m_fma(total, m_mul(k->s, d), m_load_floats(lane));
    if (f.minima) {
        mfloat least = m_all_floats(v->sum[0][b]);
        if (!f.unit)
            least = m_mul(k->m[0], least);
        if (f.halves)
            least = m_fma(k->m[1], m_all_floats(v->sum[1][b]), least);
        acc = m_fma(least, m_mul(k->t, d), acc);
    }
    m_store_floats(lane, acc);
}

/* Four values of a vector, for every row. */
static ALWAYS_INLINE mint x_word(const int8_t *x, int word)
{
    int32_t v;
    memcpy(&v, x + 4 * word, sizeof(v));
    return m_all(v);
}

/* Where the sums of a block begin. */
static ALWAYS_INLINE mint block_start(const struct vector *v, size_t b, int half,
                                      const struct format f)
{
    return m_all(f.offset != 0 ? v->start[half][b] : 0);
}
