/*
 * Loads of integers at any address, and the rounding of a vector over quantize_block(), which the
 * including file has for its level; the last block may have fewer values and is copied. Nothing but
 * a q8_<level>.c may include this.
 */

static ALWAYS_INLINE uint32_t load_u16(const uint8_t *p)
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

static void quantize(const float *x, size_t cols, void *dst)
{
    const size_t full = cols / PS_Q8_BLOCK, padded = ps_q8_padded_blocks(cols);
    int8_t *q = dst;
    float *d = (float *)ps_q8_scales(dst, cols);
    int16_t *sum = (int16_t *)ps_q8_sums(dst, cols);
    size_t b = 0;

    for (; b < full; b++)
        quantize_block(x + b * PS_Q8_BLOCK, q + b * PS_Q8_BLOCK, d + b, sum + 2 * b);
    if (cols % PS_Q8_BLOCK != 0) {
        float last[PS_Q8_BLOCK] = {0};
        memcpy(last, x + b * PS_Q8_BLOCK, cols % PS_Q8_BLOCK * sizeof(*last));
        quantize_block(last, q + b * PS_Q8_BLOCK, d + b, sum + 2 * b);
        b++;
    }
    memset(q + b * PS_Q8_BLOCK, 0, (padded - b) * PS_Q8_BLOCK);
    memset(d + b, 0, (padded - b) * sizeof(*d));
    memset(sum + 2 * b, 0, 2 * (padded - b) * sizeof(*sum));
}
