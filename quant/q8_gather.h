/*
 * Collecting what is strewn over blocks, without permutations of bytes. Nothing but a
 * q8_<level>.c may include this.
 */
/* Sixteen bytes of four blocks of `size` bytes. */
static ALWAYS_INLINE vq q_load_blocks(const uint8_t *p, size_t size)
{
    return q_load4(p, p + size, p + 2 * size, p + 3 * size);
}

/*
 * What is strewn over the blocks is collected in integer registers: the vector units have enough to
 * do.
 */
static ALWAYS_INLINE uint64_t four_halves(const uint8_t *p, size_t stride)
{
    return (uint64_t)load_u16(p) | (uint64_t)load_u16(p + stride) << 16 |
           (uint64_t)load_u16(p + 2 * stride) << 32 | (uint64_t)load_u16(p + 3 * stride) << 48;
}

/* The halves at the beginning of the blocks of four rows, of which two fill a register. */
static ALWAYS_INLINE void gather_halves(const uint8_t *const *row, size_t size, vf *s)
{
    __m128i half[4];
    for (size_t i = 0; i < 4; i++)
        half[i] = _mm_set_epi64x((int64_t)four_halves(row[i] + 4 * size, size),
                                 (int64_t)four_halves(row[i], size));
    s[0] = f_from_halves(half[0], half[1]);
    s[1] = f_from_halves(half[2], half[3]);
}

static ALWAYS_INLINE uint32_t four_bytes(const uint8_t *p, size_t stride)
{
    return (uint32_t)p[0] | (uint32_t)p[stride] << 8 | (uint32_t)p[2 * stride] << 16 |
           (uint32_t)p[3 * stride] << 24;
}

static ALWAYS_INLINE int64_t eight_bytes(const uint8_t *p, size_t stride)
{
    return (int64_t)(four_bytes(p, stride) | (uint64_t)four_bytes(p + 4 * stride, stride) << 32);
}

/* The first bytes of the blocks of two rows, widened to 32 bits. */
static ALWAYS_INLINE vq gather_bytes(const uint8_t *const *row, size_t size)
{
    return q_widen8u_32(_mm_set_epi64x(eight_bytes(row[1], size), eight_bytes(row[0], size)));
}
