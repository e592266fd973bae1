/*
 * The MoE block (spec A.6): router, then the chosen experts as their slices land.
 *
 * Tokens are grouped by expert and the experts are taken in ascending order, which is the order in
 * which they lie on the drives. A window of them is leased from the store, so that reads run ahead
 * of the arithmetic; whatever is in memory is computed while the rest lands. Only the last step has
 * an order: a token's expert outputs are added in ascending order of the experts, so what landed
 * first cannot change a bit (docs/decisions/0003). One token and a long prompt go the same way.
 */
#include "model/moe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

int ps_moe_open(struct ps_engine *engine, struct ps_error *err)
{
    const struct ps_config *c = engine->config;
    uint64_t jobs = c->expert_count ? c->expert_count : 1;
    uint64_t window = ps_min_u64(jobs, engine->work.pairs);
    uint64_t blocks = 0;

    for (uint32_t i = 0; i < ps_volume_object_count(engine->model->volume); i++) {
        struct ps_object_info o;
        uint64_t count = 0;
        ps_volume_object(engine->model->volume, i, &o);
        if (o.kind != PS_OBJECT_STREAMED)
            continue;
        for (uint32_t s = 0; s < o.slice_count; s++) {
            struct ps_slice_info slice;
            ps_volume_slice(engine->model->volume, i, s, &slice);
            count += ps_div_up(slice.unit_count, PS_UP_ROWS);
        }
        blocks = ps_max_u64(blocks, count);
        engine->slice_count_max = (uint32_t)ps_max_u64(engine->slice_count_max, o.slice_count);
    }
    engine->job_count = (uint32_t)jobs;
    engine->jobs = calloc(jobs, sizeof(*engine->jobs));
    engine->leases = calloc(jobs, sizeof(*engine->leases));
    engine->round_jobs = calloc(jobs, sizeof(*engine->round_jobs));
    engine->up_tasks = calloc(window * blocks + 1, sizeof(*engine->up_tasks));
    engine->slices = calloc((size_t)engine->slice_count_max + 1, sizeof(*engine->slices));
    if (!engine->jobs || !engine->leases || !engine->round_jobs || !engine->up_tasks ||
        !engine->slices)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the engine");
    return 0;
}

void ps_moe_close(struct ps_engine *engine)
{
    free(engine->jobs);
    free(engine->leases);
    free(engine->round_jobs);
    free(engine->up_tasks);
    free(engine->slices);
}

/* ---- router ---------------------------------------------------------------------------------- */

/* Top-k of the probabilities, the lower index first among equals, by insertion into a sorted list.
 */
static uint32_t top_k(const float *p, uint32_t count, uint32_t k, uint32_t *idx)
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
    top_k(p, c->expert_count, k, idx);
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
            engine->jobs[jobs++] = (struct ps_expert_job){
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

/* ---- the arithmetic of one round ----------------------------------------------------------------
 */

struct moe_run {
    struct ps_session *session;
    uint32_t layer;
    struct ps_expert_shape shape;
    uint32_t slice_count; /* of every expert of the layer */
    bool cut_folds;       /* some slice ends inside a fold */
    uint32_t job_count;   /* active experts */
    uint32_t head, tail;  /* jobs [head, tail) hold leases */
    uint32_t row_tail;    /* where the next job's rows may begin */
    uint32_t round_count, up_task_count;
};

static const uint8_t *slice_data(const struct ps_engine *engine, uint32_t job, uint32_t slice)
{
    return engine->leases[job].data + engine->slices[slice].offset_bytes;
}

/* act = silu(gate x) * (up x) for a block of neurons and all tokens of the job. */
static void up_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task_idx)
{
    const struct moe_run *run = ctx;
    const struct ps_up_task *task = &engine->up_tasks[task_idx];
    const struct ps_expert_job *job = &engine->jobs[task->job];
    const struct ps_slice_info *slice = &engine->slices[task->slice];
    const uint8_t *data = slice_data(engine, task->job, task->slice);
    size_t width = run->shape.width, hidden = run->shape.hidden;
    float *act = engine->work.expert_act + job->row * width + slice->unit_begin + task->neuron;
    float *up = ps_thread_scratch(engine, thread_idx);
    struct ps_slice_parts parts;

    ps_slice_parts(&run->shape, slice->unit_count, &parts);
    struct ps_matmul m = {
        .type = run->shape.gate_type,
        .w = data + parts.gate_offset + task->neuron * parts.gate_stride,
        .w_stride_bytes = parts.gate_stride,
        .rows = task->neuron_count,
        .cols = hidden,
        .x = engine->work.expert_x + job->row * hidden,
        .ldx = hidden,
        .y = act,
        .ldy = width,
        .n = job->pair_count,
    };
    engine->k->matmul(&m);
    m.type = run->shape.up_type;
    m.w = data + parts.up_offset + task->neuron * parts.up_stride;
    m.w_stride_bytes = parts.up_stride;
    m.y = up;
    m.ldy = PS_UP_ROWS;
    engine->k->matmul(&m);
    for (uint32_t i = 0; i < job->pair_count; i++)
        engine->k->swiglu(act + i * width, act + i * width, up + (size_t)i * PS_UP_ROWS,
                          task->neuron_count);
}

/* A run of columns of one slice that lies in one fold. */
struct fold_part {
    uint32_t slice;
    uint32_t begin, count; /* neurons, within the slice */
    bool first, last;      /* of its fold */
};

static bool next_part(const struct ps_engine *engine, const struct moe_run *run, uint32_t slice_end,
                      uint32_t *neuron, uint32_t *slice, struct fold_part *part)
{
    while (*slice < slice_end &&
           *neuron >= engine->slices[*slice].unit_begin + engine->slices[*slice].unit_count)
        (*slice)++;
    if (*slice >= slice_end)
        return false;
    const struct ps_slice_info *s = &engine->slices[*slice];
    uint32_t fold_end = (*neuron / PS_FOLD_NEURONS + 1) * PS_FOLD_NEURONS;
    if (fold_end > run->shape.width)
        fold_end = run->shape.width;
    uint32_t end = s->unit_begin + s->unit_count;
    if (end > fold_end)
        end = fold_end;
    *part = (struct fold_part){*slice, *neuron - s->unit_begin, end - *neuron,
                               *neuron % PS_FOLD_NEURONS == 0, end == fold_end};
    *neuron = end;
    return true;
}

/*
 * out += folds of the job's slices [done, take_end) for rows [row, row + rows) and tokens
 * [first, first + n). scratch: [n, PS_DOWN_ROWS] sums, then the lanes that a cut fold carries.
 */
static void down_rows(struct ps_engine *engine, const struct moe_run *run,
                      const struct ps_expert_job *job, uint32_t row, uint32_t first, uint32_t n,
                      float *scratch)
{
    size_t width = run->shape.width, hidden = run->shape.hidden;
    uint32_t rows = (uint32_t)ps_min_u64(PS_DOWN_ROWS, hidden - row);
    float *lanes = scratch + (size_t)engine->work.pairs * PS_DOWN_ROWS;
    uint32_t slice = job->done_slices, neuron = engine->slices[slice].unit_begin;
    struct fold_part part;

    while (next_part(engine, run, job->take_end, &neuron, &slice, &part)) {
        const struct ps_slice_info *s = &engine->slices[part.slice];
        struct ps_slice_parts parts;
        ps_slice_parts(&run->shape, s->unit_count, &parts);
        struct ps_matmul m = {
            .type = run->shape.down_type,
            .w = slice_data(engine, (uint32_t)(job - engine->jobs), part.slice) +
                 parts.down_offset + row * parts.down_stride +
                 ps_row_bytes(run->shape.down_type, part.begin),
            .w_stride_bytes = parts.down_stride,
            .rows = rows,
            .cols = part.count,
            .x = engine->work.expert_act + (job->row + first) * width + s->unit_begin + part.begin,
            .ldx = width,
            .y = scratch,
            .ldy = PS_DOWN_ROWS,
            .n = n,
            .lanes_in = part.first ? NULL : lanes,
            .lanes_out = part.last ? NULL : lanes,
        };
        engine->k->matmul(&m);
        for (uint32_t i = 0; part.last && i < n; i++)
            engine->k->add(engine->work.expert_out + (job->row + first + i) * hidden + row,
                           scratch + (size_t)i * PS_DOWN_ROWS, rows);
    }
}

static void down_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t task_idx)
{
    const struct moe_run *run = ctx;
    uint64_t blocks = ps_div_up(run->shape.hidden, PS_DOWN_ROWS);
    const struct ps_expert_job *job = &engine->jobs[engine->round_jobs[task_idx / blocks]];
    uint32_t row = (uint32_t)(task_idx % blocks) * PS_DOWN_ROWS;
    float *scratch = ps_thread_scratch(engine, thread_idx);
    /* Where folds are cut the lanes of every token are carried: few tokens at a time keep them
     * small. */
    uint32_t step = run->cut_folds ? PS_LANES : job->pair_count;

    for (uint32_t first = 0; first < job->pair_count; first += step)
        down_rows(engine, run, job, row, first, (uint32_t)ps_min_u64(step, job->pair_count - first),
                  scratch);
}

/* ---- window, rounds, retirement
 * ------------------------------------------------------------------- */

/* Slices of the job that have landed and can be computed up to the end of a fold. */
static uint32_t ready_slices(const struct ps_engine *engine, const struct moe_run *run,
                             uint32_t job)
{
    const struct ps_lease *lease = &engine->leases[job];
    uint32_t end = engine->jobs[job].done_slices;

    for (uint32_t s = end; s < run->slice_count && lease->landed[s]; s++) {
        uint32_t stop = engine->slices[s].unit_begin + engine->slices[s].unit_count;
        if (stop % PS_FOLD_NEURONS == 0 || stop == run->shape.width)
            end = s + 1;
    }
    return end;
}

static void plan_round(struct ps_engine *engine, struct moe_run *run)
{
    run->round_count = 0;
    run->up_task_count = 0;
    for (uint32_t j = run->head; j < run->tail; j++) {
        struct ps_expert_job *job = &engine->jobs[j];
        job->take_end = ready_slices(engine, run, j);
        if (job->take_end == job->done_slices)
            continue;
        engine->round_jobs[run->round_count++] = j;
        for (uint32_t s = job->done_slices; s < job->take_end; s++)
            for (uint32_t u = 0; u < engine->slices[s].unit_count; u += PS_UP_ROWS)
                engine->up_tasks[run->up_task_count++] = (struct ps_up_task){
                    j, s, u, (uint32_t)ps_min_u64(PS_UP_ROWS, engine->slices[s].unit_count - u)};
    }
}

static void compute_round(struct ps_engine *engine, struct moe_run *run)
{
    ps_tasks_run(engine, up_task, run, run->up_task_count);
    ps_tasks_run(engine, down_task, run,
                 run->round_count * ps_div_up(run->shape.hidden, PS_DOWN_ROWS));
    for (uint32_t i = 0; i < run->round_count; i++) {
        struct ps_expert_job *job = &engine->jobs[engine->round_jobs[i]];
        job->done_slices = job->take_end;
    }
}

/* Adds finished experts to their tokens, in ascending order of the experts, and ends their leases.
 */
static void retire(struct ps_engine *engine, struct moe_run *run)
{
    size_t hidden = run->shape.hidden;

    while (run->head < run->tail && engine->jobs[run->head].done_slices == run->slice_count) {
        const struct ps_expert_job *job = &engine->jobs[run->head];
        for (uint32_t i = 0; i < job->pair_count; i++)
            engine->k->axpy(engine->work.y + engine->work.pair_token[job->pair_begin + i] * hidden,
                            engine->work.pair_weight[job->pair_begin + i],
                            engine->work.expert_out + (job->row + i) * hidden, hidden);
        ps_store_put(engine->store, &engine->leases[run->head]);
        run->head++;
    }
}

/* Rows are a ring: jobs take them in order and give them back in order. Returns the first of
 * `count` rows, or -1 while there are not that many in one piece. */
static int64_t find_rows(const struct ps_engine *engine, struct moe_run *run, uint32_t count)
{
    uint32_t pairs = engine->work.pairs;

    if (run->head == run->tail)
        return 0;
    uint32_t first = engine->jobs[run->head].row;
    if (run->row_tail > first) {
        if (count <= pairs - run->row_tail)
            return run->row_tail;
        return count < first ? 0 : -1;
    }
    return count < first - run->row_tail ? (int64_t)run->row_tail : -1;
}

static void gather(struct ps_engine *engine, const struct ps_expert_job *job)
{
    size_t hidden = engine->config->hidden;

    for (uint32_t i = 0; i < job->pair_count; i++)
        memcpy(engine->work.expert_x + (job->row + i) * hidden,
               engine->work.xn + engine->work.pair_token[job->pair_begin + i] * hidden,
               hidden * sizeof(float));
    memset(engine->work.expert_out + job->row * hidden, 0,
           job->pair_count * hidden * sizeof(float));
}

/* Leases as many experts as there are slots and rows: their reads start now. */
static int fill_window(struct ps_engine *engine, struct moe_run *run, struct ps_error *err)
{
    while (run->tail < run->job_count) {
        struct ps_expert_job *job = &engine->jobs[run->tail];
        int64_t row = find_rows(engine, run, job->pair_count);
        if (row < 0)
            return 0;
        int rc =
            ps_store_get(engine->store, run->layer, job->expert, &engine->leases[run->tail], err);
        if (rc == -EAGAIN && run->tail > run->head)
            return 0;
        if (rc < 0)
            return rc;
        job->row = (uint32_t)row;
        run->row_tail = job->row + job->pair_count;
        gather(engine, job);
        run->tail++;
    }
    return 0;
}

static int run_experts(struct ps_engine *engine, struct moe_run *run, struct ps_error *err)
{
    int rc = 0;

    while (rc >= 0 && run->head < run->job_count) {
        rc = fill_window(engine, run, err);
        if (rc < 0)
            break;
        plan_round(engine, run);
        if (run->round_count == 0) {
            rc = ps_store_wait(engine->store, engine->leases + run->head, run->tail - run->head,
                               err);
            continue;
        }
        compute_round(engine, run);
        retire(engine, run);
    }
    for (uint32_t j = run->head; j < run->tail; j++)
        ps_store_put(engine->store, &engine->leases[j]);
    return rc;
}

/* ---- the block
 * ----------------------------------------------------------------------------------- */

static void load_slices(struct ps_engine *engine, struct moe_run *run)
{
    uint32_t object = (uint32_t)ps_volume_find_streamed(engine->model->volume, run->layer, 0);
    struct ps_object_info info;

    ps_volume_object(engine->model->volume, object, &info);
    run->slice_count = info.slice_count;
    for (uint32_t s = 0; s < info.slice_count; s++) {
        ps_volume_slice(engine->model->volume, object, s, &engine->slices[s]);
        uint32_t end = engine->slices[s].unit_begin + engine->slices[s].unit_count;
        run->cut_folds |= end % PS_FOLD_NEURONS != 0 && end != run->shape.width;
    }
}

static void report_routes(struct ps_session *session, uint32_t layer, uint32_t position, uint32_t n)
{
    struct ps_engine *engine = session->engine;
    uint32_t k = engine->options.experts_used;

    for (uint32_t t = 0; session->on_route && t < n; t++)
        session->on_route(session->on_route_ctx, layer, position + t, k, engine->work.route + t * k,
                          engine->work.route_weight + t * k);
}

/* y = sigmoid(gate_inp . x) * shared(x), or zero without a shared expert. */
static void run_shared(struct ps_engine *engine, uint32_t layer, uint32_t n)
{
    const struct ps_config *c = engine->config;
    size_t hidden = c->hidden;

    if (!c->shared_width) {
        memset(engine->work.y, 0, n * hidden * sizeof(float));
        return;
    }
    ps_shared_run(engine, layer, n);
    for (uint32_t t = 0; c->shared_gate && t < n; t++)
        engine->k->scale(engine->work.y + t * hidden, ps_sigmoidf(engine->work.shared_scale[t]),
                         engine->work.y + t * hidden, hidden);
}

int ps_moe_run(struct ps_session *session, uint32_t layer, uint32_t position, uint32_t n,
               struct ps_error *err)
{
    struct ps_engine *engine = session->engine;
    const struct ps_config *c = engine->config;
    const struct ps_config_layer *l = &c->layers[layer];
    struct moe_run run = {
        .session = session,
        .layer = layer,
        .shape = {c->hidden, c->expert_width, l->gate_type, l->up_type, l->down_type},
    };
    struct ps_linear in[2] = {
        {ps_layer_weight(engine, layer, PS_ROLE_ROUTER), engine->work.xn, c->hidden,
         engine->work.router, c->expert_count},
        {ps_layer_weight(engine, layer, PS_ROLE_SHARED_GATE_INP), engine->work.xn, c->hidden,
         engine->work.shared_scale, 1},
    };

    ps_linear_run(engine, in, c->shared_width && c->shared_gate ? 2 : 1, n);
    ps_tasks_run(engine, route_task, NULL, n);
    report_routes(session, layer, position, n);
    load_slices(engine, &run);
    run.job_count = group_pairs(engine, n);
    int rc = fill_window(engine, &run, err);
    if (rc < 0) {
        for (uint32_t j = 0; j < run.tail; j++)
            ps_store_put(engine->store, &engine->leases[j]);
        return rc;
    }
    /* The shared expert needs nothing from the drives: it runs while the reads fly. */
    run_shared(engine, layer, n);
    return run_experts(engine, &run, err);
}
