/*
 * The keys and values of a part are taken for all columns of a block at once, as a matrix product
 * and as sums of rows. What a column sees of a part is a matter of its position alone: rows that
 * only others see are multiplied with it, too, and their scores not looked at.
 */
#include "model/attention_block.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static_assert(PS_ATTENTION_HEADS <= PS_ATTENTION_COLUMNS, "heads of one token are columns");

/* Columns [first, first + count), and rows [begin, end) of the part in work. */
struct range {
    uint32_t first, count, begin, end;
};

static uint32_t column_positions(const struct attention_block *b, uint32_t column)
{
    return b->positions + column * b->step;
}

/* The first position beside the sinks that the last of so many sees. A window that reaches down to
 * the sinks is one range with them, cut as it is without a window. */
static uint32_t window_begin(const struct ps_engine *engine, uint32_t positions)
{
    uint32_t window = engine->state.kv_window, begin = positions > window ? positions - window : 0;

    return begin > PS_KV_SINKS ? begin : 0;
}

static void column_sees(struct attention_block *b, uint32_t column, uint64_t begin, uint64_t end)
{
    if (b->count++ == 0)
        b->first = column;
    b->begin[column] = (uint32_t)begin;
    b->end[column] = (uint32_t)end;
}

/* The sinks, for columns whose windows do not reach down to them. */
static void take_sinks(const struct ps_engine *engine, struct attention_block *b)
{
    b->row = engine->state.kv_sink_row;
    b->count = 0;
    for (uint32_t i = 0; i < b->columns; i++)
        if (window_begin(engine, column_positions(b, i)) > 0)
            column_sees(b, i, 0, PS_KV_SINKS);
}

/* The part that begins at position `at`. Its rows count from the first that any column sees, as
 * those before it may hold other positions by now. */
static void take_part(const struct ps_engine *engine, struct attention_block *b, uint64_t at)
{
    uint64_t base = ps_max_u64(at, window_begin(engine, b->positions));

    b->row = base % engine->state.kv_rows;
    b->count = 0;
    for (uint32_t i = 0; i < b->columns; i++) {
        uint32_t positions = column_positions(b, i);
        uint64_t begin = ps_max_u64(at, window_begin(engine, positions));
        uint64_t end = ps_min_u64(at + PS_ATTENTION_PART, positions);
        if (begin < end)
            column_sees(b, i, begin - base, end - base);
    }
}

static void add_values(const struct ps_engine *engine, const struct attention_block *b,
                       const struct attention_columns *h, struct range r)
{
    const struct ps_state_shape *s = &engine->state;
    struct ps_weighted_sum values = {
        .type = s->kv_type,
        .v = b->v + (b->row + r.begin) * s->kv_row_bytes,
        .v_stride_bytes = s->kv_row_bytes,
        .positions = r.end - r.begin,
        .dim = engine->config->head_dim,
        .weight = b->score + (size_t)r.first * PS_ATTENTION_PART + r.begin,
        .ldw = PS_ATTENTION_PART,
        .y = h->out + r.first * h->ldo,
        .ldy = h->ldo,
        .n = r.count,
    };

    engine->k->weighted_sum(&values);
}

static void add_values_each(const struct ps_engine *engine, const struct attention_block *b,
                            const struct attention_columns *h, uint32_t from, uint32_t to)
{
    for (uint32_t i = b->first; i < b->first + b->count; i++) {
        uint32_t begin = b->begin[i] > from ? b->begin[i] : from;
        uint32_t end = b->end[i] < to ? b->end[i] : to;
        if (begin < end)
            add_values(engine, b, h, (struct range){i, 1, begin, end});
    }
}

/* Every column's rows in ascending order. Those that all columns see are decoded once for them; a
 * short window may leave none. */
static void add_all_values(const struct ps_engine *engine, const struct attention_block *b,
                           const struct attention_columns *h)
{
    uint32_t begin = b->begin[b->first + b->count - 1], end = b->end[b->first];

    add_values_each(engine, b, h, 0, begin);
    if (begin < end)
        add_values(engine, b, h, (struct range){b->first, b->count, begin, end});
    add_values_each(engine, b, h, begin < end ? end : begin, PS_ATTENTION_PART);
}

static void add_taken(const struct ps_engine *engine, const struct attention_block *b,
                      struct attention_columns *h)
{
    const struct ps_state_shape *s = &engine->state;
    size_t dim = engine->config->head_dim;
    struct ps_matmul scores = {
        .type = s->kv_type,
        .w = b->k + b->row * s->kv_row_bytes,
        .w_stride_bytes = s->kv_row_bytes,
        .rows = b->end[b->first + b->count - 1],
        .cols = dim,
        .x = h->q + b->first * h->ldq,
        .ldx = h->ldq,
        .y = b->score + (size_t)b->first * PS_ATTENTION_PART,
        .ldy = PS_ATTENTION_PART,
        .n = b->count,
    };

    engine->k->matmul(&scores);
    for (uint32_t i = b->first; i < b->first + b->count; i++) {
        float *score = b->score + (size_t)i * PS_ATTENTION_PART + b->begin[i];
        float *out = h->out + i * h->ldo;
        float factor = engine->k->softmax_part(score, b->end[i] - b->begin[i],
                                               1.0f / sqrtf((float)dim), &h->max[i], &h->sum[i]);
        engine->k->scale(out, factor, out, dim);
    }
    add_all_values(engine, b, h);
}

static void begin_columns(const struct ps_engine *engine, const struct attention_block *b,
                          struct attention_columns *h)
{
    for (uint32_t i = 0; i < b->columns; i++) {
        memset(h->out + i * h->ldo, 0, engine->config->head_dim * sizeof(float));
        h->max[i] = -INFINITY;
        h->sum[i] = 0;
    }
}

static void end_columns(const struct ps_engine *engine, const struct attention_block *b,
                        const struct attention_columns *h)
{
    size_t dim = engine->config->head_dim;

    for (uint32_t i = 0; i < b->columns; i++) {
        float *out = h->out + i * h->ldo;
        engine->k->scale(out, 1 / h->sum[i], out, dim);
        if (engine->config->attn_gate)
            engine->k->sigmoid_mul(out, out, h->q + i * h->ldq + dim, dim);
    }
}

void ps_attention_block_run(const struct ps_engine *engine, struct attention_block *b)
{
    uint32_t positions = column_positions(b, b->columns - 1);
    uint64_t at = window_begin(engine, b->positions) / PS_ATTENTION_PART * PS_ATTENTION_PART;

    for (uint32_t i = 0; i < b->set_count; i++)
        begin_columns(engine, b, &b->sets[i]);
    if (window_begin(engine, positions) > 0) {
        take_sinks(engine, b);
        for (uint32_t i = 0; i < b->set_count; i++)
            add_taken(engine, b, &b->sets[i]);
    }
    for (; at < positions; at += PS_ATTENTION_PART) {
        take_part(engine, b, at);
        for (uint32_t i = 0; i < b->set_count; i++)
            add_taken(engine, b, &b->sets[i]);
    }
    for (uint32_t i = 0; i < b->set_count; i++)
        end_columns(engine, b, &b->sets[i]);
}
