/*
 * Softmax attention with grouped KV heads, optional per-head norms and output gate (spec A.4,
 * A.10). The positions are taken in parts of PS_ATTENTION_PART that begin at multiples of it, with
 * the largest score so far (arXiv:2205.14135 section 3.1): the parts of a token depend on its
 * position alone, and its heads not on each other, so neither the cut of a prompt nor the number of
 * threads can change its value. K and V are stored as options.kv says (docs/decisions/0010) and
 * read as they are stored.
 *
 * With a window (docs/decisions/0011) a token sees the first PS_KV_SINKS positions, as a part of
 * their own, and the last kv_window, whose first part begins where the window does: again a matter
 * of its position alone. Rows are then kept in a ring of whole parts, so that none wraps round.
 */
#include <string.h>

#include "core/util.h"
#include "model/attention_block.h"
#include "quant/type.h"

struct attention_run {
    uint32_t layer;
    uint32_t attention_idx;
    uint32_t first, count; /* tokens of the chunk that are stored and then attend together */
    uint32_t q_stride;     /* floats between the queries of two heads in work.wide */
    uint32_t heads_each;   /* heads of one task: they share a KV head */
    uint32_t group_tasks;  /* tasks of one KV head and one block */
    uint32_t block_count;  /* of tokens, which begin where work.attention_blocks says */
};

/* The keys of a token's sequence: rows of state.kv_row_bytes, the ring and then the sinks. */
static uint8_t *state_k(const struct ps_engine *engine, const struct attention_run *run,
                        uint64_t token)
{
    uint8_t *base = engine->work.tokens[token].session->state;

    return base + run->attention_idx * engine->state.kv_layer_bytes;
}

static uint8_t *state_v(const struct ps_engine *engine, const struct attention_run *run,
                        uint64_t token)
{
    return state_k(engine, run, token) + engine->state.kv_layer_bytes / 2;
}

/* The new keys and values of a token, [kv_row] each, before they are stored. */
static float *new_k(const struct ps_engine *engine, uint64_t token)
{
    return engine->work.z + token * engine->work.z_cols;
}

static float *new_v(const struct ps_engine *engine, uint64_t token)
{
    return new_k(engine, token) + engine->state.kv_row;
}

static void clip(float *v, size_t n, float limit)
{
    for (size_t i = 0; i < n; i++)
        v[i] = v[i] > limit ? limit : v[i] < -limit ? -limit : v[i];
}

/* Norm, clipping and rotation of the heads of one token; `norm` may be absent. A norm over all
 * heads at once needs them without gaps, so models with output gates have none. */
static void prepare_heads(struct ps_engine *engine, float *heads, uint32_t count, size_t stride,
                          const struct ps_weight *norm, uint32_t token)
{
    const struct ps_config *c = engine->config;
    size_t half = c->rope_dims / 2;

    if (norm->data && c->qk_norm_whole)
        engine->k->rmsnorm(heads, heads, ps_weight_f32(norm), (size_t)count * c->head_dim,
                           c->norm_eps);
    for (uint32_t h = 0; h < count; h++) {
        float *head = heads + h * stride;
        if (norm->data && !c->qk_norm_whole)
            engine->k->rmsnorm(head, head, ps_weight_f32(norm), c->head_dim, c->norm_eps);
        if (c->qkv_clip > 0)
            clip(head, c->head_dim, c->qkv_clip);
        engine->k->rope(head, engine->work.rope_cos + token * half,
                        engine->work.rope_sin + token * half, half);
    }
}

/* One task per token: its query heads, and its new keys and values. */
static void prepare_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t token)
{
    const struct attention_run *run = ctx;
    const struct ps_config *c = engine->config;
    float *q = engine->work.wide + token * engine->work.wide_cols;
    float *k = new_k(engine, token);

    (void)thread_idx;
    prepare_heads(engine, q, c->head_count, run->q_stride,
                  ps_layer_weight(engine, run->layer, PS_ROLE_ATTN_Q_NORM), (uint32_t)token);
    prepare_heads(engine, k, c->kv_head_count, c->head_dim,
                  ps_layer_weight(engine, run->layer, PS_ROLE_ATTN_K_NORM), (uint32_t)token);
    if (c->qkv_clip > 0)
        clip(new_v(engine, token), engine->state.kv_row, c->qkv_clip);
}

static void store_row(const struct ps_engine *engine, const float *values, uint8_t *row)
{
    const struct ps_state_shape *s = &engine->state;

    if (s->kv_type == PS_TYPE_F16)
        engine->k->to_half((uint16_t *)(void *)row, values, s->kv_row);
    else
        ps_row_encode(s->kv_type, values, row, s->kv_row);
}

static void store_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task)
{
    const struct attention_run *run = ctx;
    const struct ps_state_shape *s = &engine->state;
    uint64_t token = run->first + task, position = engine->work.tokens[token].position;
    uint64_t at = position % s->kv_rows * s->kv_row_bytes;
    uint8_t *k = state_k(engine, run, token), *v = state_v(engine, run, token);

    (void)thread_idx;
    store_row(engine, new_k(engine, token), k + at);
    store_row(engine, new_v(engine, token), v + at);
    if (s->kv_sink_row > 0 && position < PS_KV_SINKS) {
        uint64_t sink = (s->kv_sink_row + position) * s->kv_row_bytes;
        memcpy(k + sink, k + at, s->kv_row_bytes);
        memcpy(v + sink, v + at, s->kv_row_bytes);
    }
}

/* The heads of one token from `head` on are one set of columns; of tokens in a row each is one. */
static void set_columns(const struct ps_engine *engine, const struct attention_run *run,
                        uint64_t token, uint64_t head, struct attention_block *b)
{
    const struct ps_work *w = &engine->work;
    size_t dim = engine->config->head_dim;
    bool tokens = b->step > 0;

    for (uint32_t i = 0; i < b->set_count; i++) {
        b->sets[i].q = w->wide + token * w->wide_cols + (head + i) * run->q_stride;
        b->sets[i].ldq = tokens ? w->wide_cols : run->q_stride;
        b->sets[i].out = w->mix + token * w->mix_cols + (head + i) * dim;
        b->sets[i].ldo = tokens ? w->mix_cols : dim;
    }
}

static void heads_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task)
{
    const struct attention_run *run = ctx;
    const struct ps_config *c = engine->config;
    uint32_t group = c->head_count / c->kv_head_count;
    /* Tasks of the same tokens that share keys are neighbours, so these are found in a cache. The
     * last tokens see most positions and go first, so that no thread ends with a long task. */
    uint32_t part = (uint32_t)(task % run->group_tasks) * run->heads_each;
    uint64_t kv = task / run->group_tasks % c->kv_head_count;
    uint64_t block = run->block_count - 1 - task / run->group_tasks / c->kv_head_count;
    uint32_t token = engine->work.attention_blocks[block];
    uint32_t tokens = engine->work.attention_blocks[block + 1] - token;
    uint32_t heads = (uint32_t)ps_min_u64(run->heads_each, group - part);
    uint64_t kv_offset = ps_row_bytes(engine->state.kv_type, kv * c->head_dim);
    struct attention_block b; /* large: what is not set here is written before it is read */

    b.k = state_k(engine, run, token) + kv_offset;
    b.v = state_v(engine, run, token) + kv_offset;
    b.score = ps_thread_scratch(engine, thread_idx);
    b.positions = engine->work.tokens[token].position + 1;
    b.step = tokens > 1 ? 1 : 0;
    b.columns = tokens > 1 ? tokens : heads;
    b.set_count = tokens > 1 ? heads : 1;
    set_columns(engine, run, token, kv * group + part, &b);
    ps_attention_block_run(engine, &b);
}

/* Tokens of one sequence from `first` on, `most` at most. */
static uint32_t count_in_a_row(const struct ps_engine *engine, uint32_t first, uint32_t most)
{
    const struct ps_sequence_token *t = engine->work.tokens;
    uint32_t n = 1;

    while (n < most && t[first + n].session == t[first].session)
        n++;
    return n;
}

/* Blocks of tokens in a row; those shorter than `least` fall apart into single tokens. */
static void cut_blocks(struct ps_engine *engine, struct attention_run *run, uint32_t least,
                       uint32_t most)
{
    uint32_t *blocks = engine->work.attention_blocks, end = run->first + run->count;

    run->block_count = 0;
    for (uint32_t token = run->first; token < end;) {
        uint32_t n = count_in_a_row(engine, token, (uint32_t)ps_min_u64(most, end - token));
        blocks[run->block_count++] = token;
        token += n < least ? 1 : n;
    }
    blocks[run->block_count] = end;
}

/*
 * Tokens together turn keys and values into floats once and multiply them as matrices, if they are
 * twice as many as the heads that could: what only some of them see is added for each alone. Heads
 * together find their keys in a cache, but every thread should have a task.
 */
static void deal_heads(struct ps_engine *engine, struct attention_run *run)
{
    const struct ps_config *c = engine->config;
    uint32_t group = c->head_count / c->kv_head_count, most = PS_ATTENTION_COLUMNS;
    uint32_t heads = (uint32_t)ps_min_u64(group, PS_ATTENTION_HEADS);
    uint32_t least = (uint32_t)ps_max_u64(PS_ATTENTION_TOKENS_MIN, 2ull * heads);
    uint64_t wanted = 2ull * (uint64_t)engine->thread_count;

    while (most >= 2 * least && ps_div_up(run->count, most) * c->head_count < wanted)
        most /= 2;
    cut_blocks(engine, run, least, most);
    uint64_t tasks = (uint64_t)run->block_count * c->kv_head_count;
    uint64_t parts = ps_max_u64(ps_div_up(group, PS_ATTENTION_HEADS), ps_div_up(wanted, tasks));

    run->heads_each = (uint32_t)ps_div_up(group, ps_min_u64(parts, group));
    run->group_tasks = (uint32_t)ps_div_up(group, run->heads_each);
}

/*
 * Tokens that can be stored together. Where the ring is shorter than the context a token's row
 * takes the place of one that the tokens before it may still see, so that those of a sequence's
 * next part have to wait.
 */
static uint32_t count_together(const struct ps_engine *engine, uint32_t first, uint32_t n)
{
    const struct ps_sequence_token *t = engine->work.tokens;
    uint32_t end = first + 1;

    if (engine->state.kv_sink_row == 0)
        return n - first;
    while (end < n &&
           (t[end].session != t[end - 1].session || t[end].position % PS_ATTENTION_PART != 0))
        end++;
    return end - first;
}

void ps_attention_run(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    const struct ps_config *c = engine->config;
    struct ps_work *w = &engine->work;
    struct attention_run run = {
        .layer = layer,
        .attention_idx = engine->layers[layer].mixer_idx,
        .q_stride = c->attn_gate ? 2 * c->head_dim : c->head_dim,
    };
    size_t h = c->hidden;
    struct ps_linear in[3] = {
        {ps_layer_weight(engine, layer, PS_ROLE_ATTN_Q), w->xn, h, w->wide, w->wide_cols},
        {ps_layer_weight(engine, layer, PS_ROLE_ATTN_K), w->xn, h, new_k(engine, 0), w->z_cols},
        {ps_layer_weight(engine, layer, PS_ROLE_ATTN_V), w->xn, h, new_v(engine, 0), w->z_cols},
    };
    struct ps_linear out = {ps_layer_weight(engine, layer, PS_ROLE_ATTN_OUT), w->mix, w->mix_cols,
                            w->y, h};

    ps_linear_run(engine, in, 3, n);
    ps_tasks_run(engine, prepare_task, &run, n);
    for (run.first = 0; run.first < n; run.first += run.count) {
        run.count = count_together(engine, run.first, n);
        ps_tasks_run(engine, store_task, &run, run.count);
        deal_heads(engine, &run);
        ps_tasks_run(engine, heads_task, &run,
                     (uint64_t)run.block_count * c->kv_head_count * run.group_tasks);
    }
    ps_linear_run(engine, &out, 1, n);
}
