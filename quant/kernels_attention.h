/*
 * What attention does with the positions of the cache, written once for every CPU level and
 * included by kernels_vector.h alone. The scores are matrix products (kernels_few.h,
 * kernels_gemm.h).
 */

static ALWAYS_INLINE v16 part_step(float *x, v16 factor, v16 top, size_t count)
{
    v16 scaled = v_mul(factor, load_upto(x, count));
    store_upto(x, scaled, count);
    return v_select_part(v_max(scaled, top), top, count);
}

static float softmax_part(float *x, size_t n, float factor, float *max, float *sum)
{
    const v16 scale_by = v_set1(factor);
    v16 tops = v_set1(*max), parts = v_zero();
    float lanes[PS_LANES], top;

#define STEP(i, count) tops = part_step(x + (i), scale_by, tops, count)
    FOR_LANES(n, STEP);
#undef STEP
    v_store(lanes, tops);
    top = lanes[0];
    for (int l = 1; l < PS_LANES; l++)
        top = lanes[l] > top ? lanes[l] : top;
    top = top + 0.0f;

    const v16 shift = v_set1(top);
#define STEP(i, count) parts = softmax_step(x + (i), shift, parts, count)
    FOR_LANES(n, STEP);
#undef STEP
    float before = ps_expf(*max - top);
    *sum = fmaf(*sum, before, sum_one(parts));
    *max = top;
    return before;
}

/*
 * DECODE_LEN values of every position, from byte `offset` of its row, into columns [c, c + n) of y
 * from i on: the sums stay in registers over all positions, and each value is decoded once for n
 * columns.
 */
static ALWAYS_INLINE void sum_stripe(const struct ps_weighted_sum *s, size_t offset, size_t i,
                                     size_t c, const struct format f, const int n)
{
    const uint8_t *src = (const uint8_t *)s->v + offset;
    const float *weight = s->weight + c * s->ldw;
    float *y = s->y + c * s->ldy + i;
    v16 acc[SUM_COLUMNS][2];

    UNROLL for (int j = 0; j < n; j++)
    {
        acc[j][0] = v_load(y + (size_t)j * s->ldy);
        acc[j][1] = v_load(y + (size_t)j * s->ldy + PS_LANES);
    }
    for (size_t p = 0; p < s->positions; p++, src += s->v_stride_bytes) {
        float scale = 0;
        v16 v[2];
        if (f.scaled) {
            uint16_t half;
            memcpy(&half, src, sizeof(half));
            scale = _cvtsh_ss(half);
        }
        f.decode(src, &scale, v);
        UNROLL for (int j = 0; j < n; j++)
        {
            v16 factor = v_set1(weight[(size_t)j * s->ldw + p]);
            acc[j][0] = v_fma(factor, v[0], acc[j][0]);
            acc[j][1] = v_fma(factor, v[1], acc[j][1]);
        }
    }
    UNROLL for (int j = 0; j < n; j++)
    {
        v_store(y + (size_t)j * s->ldy, acc[j][0]);
        v_store(y + (size_t)j * s->ldy + PS_LANES, acc[j][1]);
    }
}

static ALWAYS_INLINE void sum_whole(const struct ps_weighted_sum *s, const struct format f)
{
    for (size_t i = 0; i + DECODE_LEN <= s->dim; i += DECODE_LEN) {
        size_t offset = i / DECODE_LEN * f.src_bytes, c = 0;
        for (; c + SUM_COLUMNS <= s->n; c += SUM_COLUMNS)
            sum_stripe(s, offset, i, c, f, SUM_COLUMNS);
        for (; c + 2 <= s->n && SUM_COLUMNS > 2; c += 2)
            sum_stripe(s, offset, i, c, f, 2);
        if (c < s->n)
            sum_stripe(s, offset, i, c, f, 1);
    }
}

/* The last values of rows that are not whole stripes: types with blocks of one value only. */
static void sum_tail(const struct ps_weighted_sum *s)
{
    const size_t end = s->dim / DECODE_LEN * DECODE_LEN;
    const size_t offset = end * ps_type_info(s->type)->block_bytes;
    float v[DECODE_LEN];

    for (size_t p = 0; p < s->positions && end < s->dim; p++) {
        const uint8_t *row = (const uint8_t *)s->v + p * s->v_stride_bytes;
        ps_row_decode(s->type, row + offset, v, s->dim - end);
        for (size_t c = 0; c < s->n; c++)
            axpy(s->y + c * s->ldy + end, s->weight[c * s->ldw + p], v, s->dim - end);
    }
}

static void sum_f32(const struct ps_weighted_sum *s)
{
    sum_whole(s, (struct format){.decode = decode_f32, .src_bytes = 128});
}

static void sum_f16(const struct ps_weighted_sum *s)
{
    sum_whole(s, (struct format){.decode = decode_f16, .src_bytes = 64});
}

static void sum_q8_0(const struct ps_weighted_sum *s)
{
    sum_whole(s, (struct format){.decode = decode_q8_0, .src_bytes = 34, .scaled = true});
}

static void weighted_sum(const struct ps_weighted_sum *s)
{
    switch (s->type) {
    case PS_TYPE_F32:
        sum_f32(s);
        break;
    case PS_TYPE_F16:
        sum_f16(s);
        break;
    case PS_TYPE_Q8_0:
        sum_q8_0(s);
        break;
    default:
        ps_kernels_get(PS_CPU_SCALAR)->weighted_sum(s);
        return;
    }
    sum_tail(s);
}
