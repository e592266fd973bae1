/*
 * The MoE block (spec A.6): router, then the chosen experts as their slices land.
 *
 * Tokens are grouped by expert and the experts are taken in ascending order, which is the order in
 * which they lie on the drives. A window of them is leased from the store, so that reads run ahead
 * of the arithmetic; whatever is in memory is computed while the rest lands. Only the last step has
 * an order: a token's expert outputs are added in ascending order of the experts, so what landed
 * first cannot change a bit (docs/decisions/0003). One token and a long prompt go the same way.
 */
#include <errno.h>
#include <string.h>

#include "core/util.h"
#include "model/ahead.h"
#include "model/engine.h"
#include "model/predictor.h"

/* ---- router ---------------------------------------------------------------------------------- */

/* By insertion into a sorted list. */
uint32_t ps_top_k(const float *p, uint32_t count, uint32_t k, uint32_t *idx)
{
    uint32_t n = 0;

    for (uint32_t e = 0; e < count; e++) {
        uint32_t i = n;
        if (n == k && !(p[e] > p[idx[k - 1]]))
            continue;
        while (i > 0 && p[e] > p[idx[i - 1]])
            i--;
        uint32_t tail = (n < k ? n : k - 1) - i;
        memmove(idx + i + 1, idx + i, tail * sizeof(*idx));
        idx[i] = e;
        if (n < k)
            n++;
    }
    return n;
}

static void route_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t token)
{
    const struct ps_config *c = engine->config;
    uint32_t k = engine->options.experts_used;
    float *p = engine->work.router + token * c->expert_count;
    uint32_t *idx = engine->work.route + token * k;
    float *weight = engine->work.route_weight + token * k;
    float sum = 0;

    (void)ctx;
    (void)thread_idx;
    engine->k->softmax(p, c->expert_count);
    ps_top_k(p, c->expert_count, k, idx);
    for (uint32_t i = 0; i < k; i++)
        sum += p[idx[i]];
    for (uint32_t i = 0; i < k; i++)
        weight[i] = (c->renormalise ? p[idx[i]] / sum : p[idx[i]]) * c->expert_scale;
}

/* Counting sort of the (token, expert) pairs by expert; tokens stay in order within an expert. */
static uint32_t group_pairs(struct ps_engine *engine, uint32_t n)
{
    struct ps_work *w = &engine->work;
    uint32_t count = engine->config->expert_count, pairs = n * engine->options.experts_used;
    uint32_t jobs = 0;

    memset(w->expert_begin, 0, ((size_t)count + 1) * sizeof(uint32_t));
    for (uint32_t i = 0; i < pairs; i++)
        w->expert_begin[w->route[i] + 1]++;
    for (uint32_t e = 0; e < count; e++) {
        if (w->expert_begin[e + 1])
            engine->work.jobs[jobs++] = (struct ps_expert_job){
                .expert = e,
                .pair_begin = w->expert_begin[e],
                .pair_count = w->expert_begin[e + 1],
            };
        w->expert_begin[e + 1] += w->expert_begin[e];
    }
    for (uint32_t i = 0; i < pairs; i++) {
        uint32_t at = w->expert_begin[w->route[i]]++;
        w->pair_token[at] = i / engine->options.experts_used;
        w->pair_weight[at] = w->route_weight[i];
    }
    return jobs;
}

/* ---- the arithmetic of one round ------------------------------------------------------------- */

struct moe_run {
    uint32_t layer;
    struct ps_expert_shape shape;
    uint32_t slice_count;        /* of every expert of the layer */
    bool cut_folds;              /* some slice ends inside a fold */
    bool takes_floats, takes_q8; /* gate and up: one of them may take each */
    uint32_t job_count;          /* active experts */
    uint32_t head, tail;         /* jobs [head, tail) hold leases */
    uint32_t row_tail;           /* where the next job's rows may begin */
    uint32_t round_count, up_task_count, fold_task_count;
    uint64_t up_task_end[PS_NODE_COUNT_MAX], fold_task_end[PS_NODE_COUNT_MAX]; /* by node */
    bool keeps_folds; /* folds of different nodes are computed apart, then added */
};

static const uint8_t *slice_data(const struct ps_engine *engine, uint32_t job, uint32_t slice)
{
    return engine->work.leases[job].slices[slice];
}

static uint32_t fold_count(const struct moe_run *run)
{
    return (uint32_t)ps_div_up(run->shape.width, PS_FOLD_NEURONS);
}

/* The 8-bit activations of one fold of a row. */
static uint8_t *fold_vector(const struct ps_engine *engine, const struct moe_run *run, size_t row,
                            uint32_t fold)
{
    return engine->work.expert_aq + (row * fold_count(run) + fold) * PS_FOLD_VECTOR_BYTES;
}

/*
 * act = silu(gate x) * (up x) for a block of neurons and all tokens of the job: gate and up meet
 * while they are in the first cache, and where the down matrix takes 8-bit vectors the result is
 * rounded there, too.
 */
static void up_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task_idx)
{
    const struct moe_run *run = ctx;
    const struct ps_up_task *task = &engine->work.up_tasks[task_idx];
    const struct ps_expert_job *job = &engine->work.jobs[task->job];
    const struct ps_slice_info *slice = &engine->work.slices[task->slice];
    const uint8_t *data = slice_data(engine, task->job, task->slice);
    size_t width = run->shape.width, hidden = run->shape.hidden;
    float *act = engine->work.expert_act + job->row * width + slice->unit_begin + task->neuron;
    float *up = ps_thread_scratch(engine, thread_idx);
    struct ps_slice_parts parts;

    ps_slice_parts(&run->shape, slice->unit_count, &parts);
    struct ps_product p = {
        .type = run->shape.gate_type,
        .w = data + parts.gate_offset + task->neuron * parts.gate_stride,
        .w_stride_bytes = parts.gate_stride,
        .rows = task->neuron_count,
        .cols = hidden,
        .x = engine->work.expert_x + job->row * hidden,
        .ldx = hidden,
        .xq = engine->work.expert_xq + job->row * ps_q8_bytes(hidden),
        .xq_stride_bytes = ps_q8_bytes(hidden),
        .y = act,
        .ldy = width,
        .n = job->pair_count,
    };
    ps_product_run(engine, &p);
    p.type = run->shape.up_type;
    p.w = data + parts.up_offset + task->neuron * parts.up_stride;
    p.w_stride_bytes = parts.up_stride;
    p.y = up;
    p.ldy = PS_UP_ROWS;
    ps_product_run(engine, &p);
    for (uint32_t i = 0; i < job->pair_count; i++)
        engine->k->swiglu(act + i * width, act + i * width, up + (size_t)i * PS_UP_ROWS,
                          task->neuron_count);
    if (!ps_product_is_q8(engine, run->shape.down_type))
        return;
    uint32_t neuron = slice->unit_begin + task->neuron;
    for (uint32_t i = 0; i < job->pair_count; i++)
        ps_fold_quantize(engine, act + i * width, neuron % PS_FOLD_NEURONS, task->neuron_count,
                         fold_vector(engine, run, job->row + i, neuron / PS_FOLD_NEURONS));
}

/* A walk over the down columns in runs, each of one slice and one fold. */
struct fold_walk {
    uint32_t neuron;       /* of the expert: where the next run begins */
    uint32_t slice;        /* of this run */
    uint32_t begin, count; /* neurons, within the slice */
    bool first, last;      /* of its fold */
};

static bool next_part(const struct ps_engine *engine, const struct moe_run *run, uint32_t slice_end,
                      struct fold_walk *walk)
{
    const struct ps_slice_info *slices = engine->work.slices;

    while (walk->slice < slice_end &&
           walk->neuron >= slices[walk->slice].unit_begin + slices[walk->slice].unit_count)
        walk->slice++;
    if (walk->slice >= slice_end)
        return false;
    const struct ps_slice_info *s = &slices[walk->slice];
    uint64_t fold_end =
        ps_min_u64((walk->neuron / PS_FOLD_NEURONS + 1) * PS_FOLD_NEURONS, run->shape.width);
    uint32_t end = (uint32_t)ps_min_u64(s->unit_begin + s->unit_count, fold_end);
    walk->begin = walk->neuron - s->unit_begin;
    walk->count = end - walk->neuron;
    walk->first = walk->neuron % PS_FOLD_NEURONS == 0;
    walk->last = end == fold_end;
    walk->neuron = end;
    return true;
}

/* Output rows [row, row + PS_DOWN_ROWS) of tokens [first, first + n) of a job. */
struct down_block {
    const struct ps_expert_job *job;
    uint32_t row, first, n;
    float *sums;    /* [n, PS_DOWN_ROWS] */
    float *lanes;   /* [n, rows, PS_LANES] that a cut fold carries */
    uint8_t *parts; /* [n] 8-bit vectors of parts of folds */
};

/*
 * The 8-bit vectors of a run of neurons: those of its fold, or, where slices end inside folds,
 * copies of a part of them.
 */
static void part_vectors(struct ps_engine *engine, const struct moe_run *run,
                         const struct fold_walk *walk, const struct down_block *block,
                         struct ps_product *p)
{
    size_t row = block->job->row + block->first;
    uint32_t begin = (walk->neuron - walk->count) % PS_FOLD_NEURONS;
    uint32_t fold = (walk->neuron - 1) / PS_FOLD_NEURONS;

    if (!ps_product_is_q8(engine, run->shape.down_type))
        return;
    p->first_block = begin / PS_Q8_BLOCK;
    p->xq = fold_vector(engine, run, row, fold);
    p->xq_stride_bytes = (size_t)fold_count(run) * PS_FOLD_VECTOR_BYTES;
    if (walk->first && walk->last)
        return;
    for (uint32_t i = 0; i < block->n; i++)
        ps_fold_part(fold_vector(engine, run, row + i, fold), begin, walk->count,
                     block->parts + (size_t)i * PS_FOLD_VECTOR_BYTES);
    p->xq = block->parts;
    p->xq_stride_bytes = PS_FOLD_VECTOR_BYTES;
}

/* out += folds of the job's slices [done, take_end). */
static void down_rows(struct ps_engine *engine, const struct moe_run *run,
                      const struct down_block *block)
{
    const struct ps_expert_job *job = block->job;
    size_t width = run->shape.width, hidden = run->shape.hidden, row = block->row;
    size_t rows = ps_min_u64(PS_DOWN_ROWS, hidden - row), token = job->row + block->first;
    struct fold_walk walk = {.neuron = engine->work.slices[job->done_slices].unit_begin,
                             .slice = job->done_slices};

    while (next_part(engine, run, job->take_end, &walk)) {
        const struct ps_slice_info *s = &engine->work.slices[walk.slice];
        struct ps_slice_parts parts;
        ps_slice_parts(&run->shape, s->unit_count, &parts);
        struct ps_product p = {
            .type = run->shape.down_type,
            .w = slice_data(engine, (uint32_t)(job - engine->work.jobs), walk.slice) +
                 parts.down_offset + row * parts.down_stride +
                 ps_row_bytes(run->shape.down_type, walk.begin),
            .w_stride_bytes = parts.down_stride,
            .rows = rows,
            .cols = walk.count,
            .x = engine->work.expert_act + token * width + s->unit_begin + walk.begin,
            .ldx = width,
            .y = block->sums,
            .ldy = PS_DOWN_ROWS,
            .n = block->n,
            .lanes_in = walk.first ? NULL : block->lanes,
            .lanes_out = walk.last ? NULL : block->lanes,
        };
        part_vectors(engine, run, &walk, block, &p);
        ps_product_run(engine, &p);
        for (size_t i = 0; walk.last && i < block->n; i++)
            engine->k->add(engine->work.expert_out + (token + i) * hidden + row,
                           block->sums + i * PS_DOWN_ROWS, rows);
    }
}

/*
 * On machines with several nodes a fold is computed where its slice lies, and only its sums, one
 * hidden vector, cross to the thread that adds them up; the order of the sums is the same.
 */
static float *fold_out(const struct ps_engine *engine, const struct moe_run *run, size_t row,
                       uint32_t fold)
{
    return engine->work.fold_out + (row * fold_count(run) + fold) * run->shape.hidden;
}

static void fold_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task_idx)
{
    const struct moe_run *run = ctx;
    uint64_t blocks = ps_div_up(run->shape.hidden, PS_FOLD_ROWS);
    const struct ps_fold_task *task = &engine->work.fold_tasks[task_idx / blocks];
    const struct ps_expert_job *job = &engine->work.jobs[task->job];
    const struct ps_slice_info *slice = &engine->work.slices[task->slice];
    size_t row = task_idx % blocks * PS_FOLD_ROWS, width = run->shape.width;
    uint32_t neuron = task->fold * PS_FOLD_NEURONS;
    struct ps_slice_parts parts;

    (void)thread_idx;
    ps_slice_parts(&run->shape, slice->unit_count, &parts);
    struct ps_product p = {
        .type = run->shape.down_type,
        .w = slice_data(engine, task->job, task->slice) + parts.down_offset +
             row * parts.down_stride +
             ps_row_bytes(run->shape.down_type, neuron - slice->unit_begin),
        .w_stride_bytes = parts.down_stride,
        .rows = ps_min_u64(PS_FOLD_ROWS, run->shape.hidden - row),
        .cols = ps_min_u64(PS_FOLD_NEURONS, width - neuron),
        .x = engine->work.expert_act + job->row * width + neuron,
        .ldx = width,
        .y = fold_out(engine, run, job->row, task->fold) + row,
        .ldy = (size_t)fold_count(run) * run->shape.hidden,
        .n = job->pair_count,
    };
    if (ps_product_is_q8(engine, run->shape.down_type)) {
        p.xq = fold_vector(engine, run, job->row, task->fold);
        p.xq_stride_bytes = (size_t)fold_count(run) * PS_FOLD_VECTOR_BYTES;
    }
    ps_product_run(engine, &p);
}

/* Adds the folds of one round to one (token, expert) pair. */
static void add_folds(struct ps_engine *engine, const struct moe_run *run, size_t row,
                      const struct ps_expert_job *job)
{
    const struct ps_slice_info *last = &engine->work.slices[job->take_end - 1];
    uint32_t begin = engine->work.slices[job->done_slices].unit_begin / PS_FOLD_NEURONS;
    uint32_t end = (uint32_t)ps_div_up(last->unit_begin + last->unit_count, PS_FOLD_NEURONS);

    for (uint32_t fold = begin; fold < end; fold++)
        engine->k->add(engine->work.expert_out + row * run->shape.hidden,
                       fold_out(engine, run, row, fold), run->shape.hidden);
}

static void down_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task_idx)
{
    const struct moe_run *run = ctx;
    uint64_t blocks = ps_div_up(run->shape.hidden, PS_DOWN_ROWS);
    const struct ps_expert_job *job =
        &engine->work.jobs[engine->work.round_jobs[task_idx / blocks]];
    struct down_block block = {.job = job,
                               .row = (uint32_t)(task_idx % blocks) * PS_DOWN_ROWS,
                               .sums = ps_thread_scratch(engine, thread_idx)};
    block.lanes = block.sums + (size_t)engine->work.pairs * PS_DOWN_ROWS;
    block.parts = (uint8_t *)(block.lanes + PS_CUT_TOKENS * PS_DOWN_ROWS * PS_LANES);
    /* Where folds are cut the lanes of every token are carried: few tokens at a time keep them
     * small. */
    uint32_t step = run->cut_folds ? PS_CUT_TOKENS : job->pair_count;

    for (; block.first < job->pair_count; block.first += step) {
        block.n = (uint32_t)ps_min_u64(step, job->pair_count - block.first);
        down_rows(engine, run, &block);
    }
}

/* ---- window, rounds, retirement -------------------------------------------------------------- */

/* Slices of the job that have landed and can be computed up to the end of a fold. */
static uint32_t ready_slices(const struct ps_engine *engine, const struct moe_run *run,
                             uint32_t job)
{
    const struct ps_lease *lease = &engine->work.leases[job];
    uint32_t end = engine->work.jobs[job].done_slices;

    for (uint32_t s = end; s < run->slice_count && lease->landed[s]; s++) {
        uint32_t stop = engine->work.slices[s].unit_begin + engine->work.slices[s].unit_count;
        if (stop % PS_FOLD_NEURONS == 0 || stop == run->shape.width)
            end = s + 1;
    }
    return end;
}

static void plan_slice(struct ps_engine *engine, struct moe_run *run, uint32_t job, uint32_t slice)
{
    const struct ps_slice_info *s = &engine->work.slices[slice];

    /* Tasks end at multiples of PS_UP_ROWS of the expert, so that none crosses a fold. */
    for (uint32_t u = 0, rows; u < s->unit_count; u += rows) {
        rows = PS_UP_ROWS - (s->unit_begin + u) % PS_UP_ROWS;
        rows = (uint32_t)ps_min_u64(rows, s->unit_count - u);
        engine->work.up_tasks[run->up_task_count++] = (struct ps_up_task){job, slice, u, rows};
    }
    for (uint32_t u = 0; run->keeps_folds && u < s->unit_count; u += PS_FOLD_NEURONS)
        engine->work.fold_tasks[run->fold_task_count++] =
            (struct ps_fold_task){job, slice, (s->unit_begin + u) / PS_FOLD_NEURONS};
}

/* The slices that lie on one node. */
static void plan_node(struct ps_engine *engine, struct moe_run *run, int node)
{
    for (uint32_t i = 0; i < run->round_count; i++) {
        uint32_t j = engine->work.round_jobs[i];
        const struct ps_expert_job *job = &engine->work.jobs[j];
        for (uint32_t s = job->done_slices; s < job->take_end; s++) {
            if (engine->work.leases[j].nodes[s] == node)
                plan_slice(engine, run, j, s);
        }
    }
}

static void plan_round(struct ps_engine *engine, struct moe_run *run)
{
    run->round_count = run->up_task_count = run->fold_task_count = 0;
    for (uint32_t j = run->head; j < run->tail; j++) {
        struct ps_expert_job *job = &engine->work.jobs[j];
        job->take_end = ready_slices(engine, run, j);
        if (job->take_end > job->done_slices)
            engine->work.round_jobs[run->round_count++] = j;
    }
    for (int n = 0; n < engine->node_count; n++) {
        plan_node(engine, run, n);
        run->up_task_end[n] = run->up_task_count;
        run->fold_task_end[n] = run->fold_task_count * ps_div_up(run->shape.hidden, PS_FOLD_ROWS);
    }
}

static void compute_down(struct ps_engine *engine, struct moe_run *run)
{
    if (!run->keeps_folds) {
        ps_tasks_run(engine, down_task, run,
                     run->round_count * ps_div_up(run->shape.hidden, PS_DOWN_ROWS));
        return;
    }
    ps_tasks_run_near(engine, fold_task, run, run->fold_task_end);
    for (uint32_t i = 0; i < run->round_count; i++) {
        const struct ps_expert_job *job = &engine->work.jobs[engine->work.round_jobs[i]];
        for (uint32_t p = 0; p < job->pair_count; p++)
            add_folds(engine, run, job->row + p, job);
    }
}

static void compute_round(struct ps_engine *engine, struct moe_run *run)
{
    engine->stage = PS_STAGE_UP;
    ps_tasks_run_near(engine, up_task, run, run->up_task_end);
    engine->stage = PS_STAGE_DOWN;
    compute_down(engine, run);
    for (uint32_t i = 0; i < run->round_count; i++) {
        struct ps_expert_job *job = &engine->work.jobs[engine->work.round_jobs[i]];
        job->done_slices = job->take_end;
    }
}

/* Floats that one thread moves before the others have woken. */
#define SERIAL_FLOATS 65536u
/* Values of a token that are added as one task. */
#define RETIRE_COLS 128u

struct retire_run {
    struct moe_run *moe;
    uint32_t end; /* jobs [moe->head, end) are finished */
    size_t cols;  /* of one task */
};

/* A block of columns of all finished jobs: no two tasks meet, and each takes the experts in order.
 */
static void retire_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t block)
{
    const struct retire_run *run = ctx;
    size_t hidden = run->moe->shape.hidden, col = block * run->cols;
    size_t cols = ps_min_u64(run->cols, hidden - col);

    (void)thread_idx;
    for (uint32_t j = run->moe->head; j < run->end; j++) {
        const struct ps_expert_job *job = &engine->work.jobs[j];
        const uint32_t *token = engine->work.pair_token + job->pair_begin;
        const float *weight = engine->work.pair_weight + job->pair_begin;
        const float *out = engine->work.expert_out + job->row * hidden + col;
        for (uint32_t i = 0; i < job->pair_count; i++)
            engine->k->axpy(engine->work.y + token[i] * hidden + col, weight[i], out + i * hidden,
                            cols);
    }
}

/* Adds finished experts to their tokens, in ascending order of the experts, and ends their leases.
 */
static void retire(struct ps_engine *engine, struct moe_run *run)
{
    struct retire_run retiring = {.moe = run, .end = run->head, .cols = run->shape.hidden};
    uint64_t pairs = 0;

    while (retiring.end < run->tail &&
           engine->work.jobs[retiring.end].done_slices == run->slice_count)
        pairs += engine->work.jobs[retiring.end++].pair_count;
    if (pairs * run->shape.hidden > SERIAL_FLOATS)
        retiring.cols = RETIRE_COLS;
    ps_tasks_run(engine, retire_task, &retiring, ps_div_up(run->shape.hidden, retiring.cols));
    for (; run->head < retiring.end; run->head++)
        ps_store_put(engine->store, &engine->work.leases[run->head]);
}

/* Rows are a ring: jobs take them in order and give them back in order. Returns the first of
 * `count` rows, or -1 while there are not that many in one piece. */
static int64_t find_rows(const struct ps_engine *engine, struct moe_run *run, uint32_t count)
{
    uint32_t pairs = engine->work.pairs;

    if (run->head == run->tail)
        return 0;
    uint32_t first = engine->work.jobs[run->head].row;
    if (run->row_tail > first) {
        if (count <= pairs - run->row_tail)
            return run->row_tail;
        return count < first ? 0 : -1;
    }
    return count < first - run->row_tail ? (int64_t)run->row_tail : -1;
}

/* The inputs of a job, only in the form that the layer's gate and up matrices take, and its sums.
 */
static void gather_job(struct ps_engine *engine, const struct moe_run *run, uint32_t job_idx)
{
    const struct ps_expert_job *job = &engine->work.jobs[job_idx];
    const uint32_t *token = engine->work.pair_token + job->pair_begin;
    size_t hidden = engine->config->hidden, xq_bytes = ps_q8_bytes(hidden);

    for (uint32_t i = 0; run->takes_floats && i < job->pair_count; i++)
        memcpy(engine->work.expert_x + (job->row + i) * hidden, engine->work.xn + token[i] * hidden,
               hidden * sizeof(float));
    for (uint32_t i = 0; run->takes_q8 && i < job->pair_count; i++)
        memcpy(engine->work.expert_xq + (job->row + i) * xq_bytes,
               engine->work.token_xq + token[i] * xq_bytes, xq_bytes);
    memset(engine->work.expert_out + job->row * hidden, 0,
           job->pair_count * hidden * sizeof(float));
}

struct gather_run {
    const struct moe_run *moe;
    uint32_t begin; /* first job */
};

static void gather_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task_idx)
{
    const struct gather_run *run = ctx;

    (void)thread_idx;
    gather_job(engine, run->moe, run->begin + (uint32_t)task_idx);
}

/* Jobs [begin, tail), whose reads have started. */
static void gather(struct ps_engine *engine, const struct moe_run *run, uint32_t begin)
{
    struct gather_run gathering = {run, begin};
    uint64_t pairs = 0;

    for (uint32_t j = begin; j < run->tail; j++)
        pairs += engine->work.jobs[j].pair_count;
    if (pairs * run->shape.hidden > SERIAL_FLOATS) {
        ps_tasks_run(engine, gather_task, &gathering, run->tail - begin);
        return;
    }
    for (uint32_t j = begin; j < run->tail; j++)
        gather_job(engine, run, j);
}

/* Leases as many experts as there are slots and rows: their reads start now. */
static int lease_window(struct ps_engine *engine, struct moe_run *run, struct ps_error *err)
{
    while (run->tail < run->job_count) {
        struct ps_expert_job *job = &engine->work.jobs[run->tail];
        int64_t row = find_rows(engine, run, job->pair_count);
        if (row < 0)
            return 0;
        int rc = ps_store_get(engine->store, run->layer, job->expert,
                              &engine->work.leases[run->tail], err);
        if (rc == -EAGAIN && run->tail > run->head)
            return 0;
        if (rc < 0)
            return rc;
        job->row = (uint32_t)row;
        run->row_tail = job->row + job->pair_count;
        run->tail++;
    }
    return 0;
}

static int fill_window(struct ps_engine *engine, struct moe_run *run, struct ps_error *err)
{
    uint32_t begin = run->tail;
    int rc = lease_window(engine, run, err);

    if (rc >= 0)
        gather(engine, run, begin);
    return rc;
}

static int run_experts(struct ps_engine *engine, struct moe_run *run, struct ps_error *err)
{
    int rc = 0;

    while (rc >= 0 && run->head < run->job_count) {
        rc = fill_window(engine, run, err);
        if (rc < 0)
            break;
        if (run->tail == run->job_count)
            ps_staging_issue(&engine->work.staging, engine->store);
        plan_round(engine, run);
        if (run->round_count == 0) {
            rc = ps_store_wait(engine->store, engine->work.leases + run->head,
                               run->tail - run->head, err);
            continue;
        }
        uint64_t begin_ns = ps_now_ns();
        compute_round(engine, run);
        retire(engine, run);
        engine->expert_ns += ps_now_ns() - begin_ns;
    }
    for (uint32_t j = run->head; j < run->tail; j++)
        ps_store_put(engine->store, &engine->work.leases[j]);
    return rc;
}

/* ---- the block ------------------------------------------------------------------------------- */

static void load_slices(struct ps_engine *engine, struct moe_run *run)
{
    uint32_t object = (uint32_t)ps_volume_find_streamed(engine->model->volume, run->layer, 0);
    struct ps_object_info info;

    ps_volume_object(engine->model->volume, object, &info);
    run->slice_count = info.slice_count;
    for (uint32_t s = 0; s < info.slice_count; s++) {
        ps_volume_slice(engine->model->volume, object, s, &engine->work.slices[s]);
        uint32_t end = engine->work.slices[s].unit_begin + engine->work.slices[s].unit_count;
        run->cut_folds |= end % PS_FOLD_NEURONS != 0 && end != run->shape.width;
    }
}

static void report_routes(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    uint32_t k = engine->options.experts_used;

    for (uint32_t t = 0; t < n; t++) {
        const struct ps_sequence_token *token = &engine->work.tokens[t];
        const struct ps_session *session = token->session;
        if (session->on_route)
            session->on_route(session->on_route_ctx, layer, token->position, k,
                              engine->work.route + t * k, engine->work.route_weight + t * k);
    }
}

static void report_inputs(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    for (uint32_t t = 0; t < n; t++) {
        const struct ps_sequence_token *token = &engine->work.tokens[t];
        const struct ps_session *session = token->session;
        if (session->on_router_input)
            session->on_router_input(session->on_router_input_ctx, layer, token->position,
                                     engine->work.xn + (size_t)t * engine->config->hidden);
    }
}

static void shared_scale_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t token)
{
    size_t hidden = engine->config->hidden;
    float *y = engine->work.y + token * hidden;

    (void)ctx;
    (void)thread_idx;
    engine->k->scale(y, ps_sigmoidf(engine->work.shared_scale[token]), y, hidden);
}

static void clear_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t token)
{
    size_t hidden = engine->config->hidden;

    (void)ctx;
    (void)thread_idx;
    memset(engine->work.y + token * hidden, 0, hidden * sizeof(float));
}

/* y = sigmoid(gate_inp . x) * shared(x), or zero without a shared expert. */
static void run_shared(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    const struct ps_config *c = engine->config;

    if (!c->shared_width) {
        ps_tasks_run(engine, clear_task, NULL, n);
        return;
    }
    ps_shared_run(engine, layer, n);
    if (c->shared_gate)
        ps_tasks_run(engine, shared_scale_task, NULL, n);
}

int ps_moe_run(struct ps_engine *engine, uint32_t layer, uint32_t n, struct ps_error *err)
{
    const struct ps_config *c = engine->config;
    const struct ps_config_layer *l = &c->layers[layer];
    struct moe_run run = {
        .layer = layer,
        .shape = {c->hidden, c->expert_width, l->gate_type, l->up_type, l->down_type},
        .takes_floats =
            !ps_product_is_q8(engine, l->gate_type) || !ps_product_is_q8(engine, l->up_type),
        .takes_q8 = ps_product_is_q8(engine, l->gate_type) || ps_product_is_q8(engine, l->up_type),
    };
    struct ps_linear in[2] = {
        {ps_layer_weight(engine, layer, PS_ROLE_ROUTER), engine->work.xn, c->hidden,
         engine->work.router, c->expert_count},
        {ps_layer_weight(engine, layer, PS_ROLE_SHARED_GATE_INP), engine->work.xn, c->hidden,
         engine->work.shared_scale, 1},
    };

    report_inputs(engine, layer, n);
    ps_linear_run(engine, in, c->shared_width && c->shared_gate ? 2 : 1, n);
    if (run.takes_q8)
        ps_quantize_rows(engine, &(struct ps_rows){engine->work.xn, c->hidden, c->hidden},
                         engine->work.token_xq, ps_q8_bytes(c->hidden), n);
    ps_tasks_run(engine, route_task, NULL, n);
    report_routes(engine, layer, n);
    load_slices(engine, &run);
    run.keeps_folds = engine->node_count > 1 && !run.cut_folds &&
                      n * engine->options.experts_used <= PS_FOLD_PAIRS;
    run.job_count = group_pairs(engine, n);
    ps_ahead_settle(engine, layer, run.job_count, n);
    int rc = fill_window(engine, &run, err);
    if (rc < 0) {
        for (uint32_t j = 0; j < run.tail; j++)
            ps_store_put(engine->store, &engine->work.leases[j]);
        return rc;
    }
    engine->stage = PS_STAGE_SHARED;
    /* The shared expert needs nothing from the drives: it runs while the reads fly. */
    uint64_t begin_ns = ps_now_ns();
    run_shared(engine, layer, n);
    engine->shared_ns += ps_now_ns() - begin_ns;
    ps_ahead_guess(engine, layer, n);
    ps_guesses_report(engine, layer, n);
    return run_experts(engine, &run, err);
}
