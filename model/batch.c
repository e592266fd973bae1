/*
 * Several sequences under generation together (docs/decisions/0012). All of them take the same
 * step: what each asks of a layer is known when all have come to it, so that an expert is read once
 * for all that want it, and computed when it lands, whosever it is. A prompt that begins shares its
 * first pass with the single tokens of the others.
 */
#include <errno.h>
#include <stdlib.h>

#include "model/generate.h"

struct batch_slot {
    struct ps_sequence sequence; /* its session is the slot's */
    struct ps_generation generation;
    bool busy, begun; /* begun: the prompt has been evaluated */
};

struct batch {
    struct ps_engine *engine;
    const struct ps_generate_options *options;
    struct batch_slot *slots;        /* [slot_count] */
    struct ps_session_input *inputs; /* [slot_count] of one step */
    struct batch_slot **stepping;    /* [slot_count] beside the inputs */
    uint32_t slot_count, step_count;
    bool at_end; /* there are no more sequences */
};

static int open_slots(struct batch *batch, struct ps_error *err)
{
    uint32_t free_count = 0;

    for (uint32_t i = 0; i < batch->engine->options.sessions; i++)
        free_count += batch->engine->sessions[i] == NULL;
    if (free_count == 0)
        return ps_error_set(err, -EBUSY, NULL,
                            "no sequence state of the engine is free; close a session");
    batch->slots = calloc(free_count, sizeof(*batch->slots));
    batch->inputs = calloc(free_count, sizeof(*batch->inputs));
    batch->stepping = calloc(free_count, sizeof(*batch->stepping));
    if (!batch->slots || !batch->inputs || !batch->stepping)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory for a batch of sequences");
    while (batch->slot_count < free_count) {
        int rc =
            ps_session_open(&batch->slots[batch->slot_count].sequence.session, batch->engine, err);
        if (rc < 0)
            return rc;
        batch->slot_count++;
    }
    return 0;
}

static void close_slots(struct batch *batch)
{
    for (uint32_t i = 0; i < batch->slot_count; i++) {
        ps_sampler_close(&batch->slots[i].sequence.sampler);
        ps_session_close(&batch->slots[i].sequence.session);
    }
    free(batch->slots);
    free(batch->inputs);
    free(batch->stepping);
}

/* Gives free slots the next sequences. */
static int fill_slots(struct batch *batch, struct ps_error *err)
{
    for (uint32_t i = 0; i < batch->slot_count && !batch->at_end; i++) {
        struct batch_slot *slot = &batch->slots[i];
        if (slot->busy)
            continue;
        int rc = batch->options->next(batch->options->next_ctx, &slot->generation, err);
        batch->at_end = rc == 0;
        if (rc <= 0)
            return rc;
        slot->sequence = (struct ps_sequence){.session = slot->sequence.session,
                                              .max_tokens = slot->generation.max_tokens,
                                              .on_token = batch->options->on_token,
                                              .ctx = slot->generation.ctx};
        slot->busy = true;
        slot->begun = false;
        ps_session_reset(slot->sequence.session);
        rc = ps_sampler_open(&slot->sequence.sampler, batch->engine->model,
                             &slot->generation.sampling, err);
        if (rc < 0)
            return rc;
        ps_sequence_begin(&slot->sequence, slot->generation.prompt, slot->generation.prompt_count);
    }
    return 0;
}

/* Single tokens first: they all share the pass that a prompt begins with. */
static void gather_inputs(struct batch *batch)
{
    batch->step_count = 0;
    for (int prompts = 0; prompts < 2; prompts++) {
        for (uint32_t i = 0; i < batch->slot_count; i++) {
            struct batch_slot *slot = &batch->slots[i];
            if (!slot->busy || slot->begun == prompts)
                continue;
            batch->stepping[batch->step_count] = slot;
            batch->inputs[batch->step_count++] = (struct ps_session_input){
                .session = slot->sequence.session,
                .ids = prompts ? slot->generation.prompt : &slot->sequence.id,
                .id_count = prompts ? slot->generation.prompt_count : 1,
            };
        }
    }
}

static void choose_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t i)
{
    const struct batch *batch = ctx;

    (void)engine;
    (void)thread_idx;
    ps_sequence_choose(&batch->stepping[i]->sequence);
}

static int end_slot(struct batch *batch, struct batch_slot *slot, int reason, struct ps_error *err)
{
    ps_sampler_close(&slot->sequence.sampler);
    slot->busy = false;
    return batch->options->on_end ? batch->options->on_end(slot->generation.ctx, reason, err) : 0;
}

static int step(struct batch *batch, struct ps_error *err)
{
    gather_inputs(batch);
    int rc = ps_session_eval_batch(batch->inputs, batch->step_count, err);
    if (rc < 0)
        return rc;
    ps_tasks_run(batch->engine, choose_task, batch, batch->step_count);
    for (uint32_t i = 0; i < batch->step_count; i++) {
        struct batch_slot *slot = batch->stepping[i];
        slot->begun = true;
        rc = ps_sequence_take(&slot->sequence, err);
        if (rc >= 0 && rc != PS_SEQUENCE_ON)
            rc = end_slot(batch, slot, rc, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static bool any_busy(const struct batch *batch)
{
    for (uint32_t i = 0; i < batch->slot_count; i++)
        if (batch->slots[i].busy)
            return true;
    return false;
}

int ps_engine_generate(struct ps_engine *engine, const struct ps_generate_options *options,
                       struct ps_error *err)
{
    struct batch batch = {.engine = engine, .options = options};

    int rc = open_slots(&batch, err);
    if (rc >= 0)
        rc = fill_slots(&batch, err);
    while (rc >= 0 && any_busy(&batch)) {
        rc = step(&batch, err);
        if (rc >= 0)
            rc = fill_slots(&batch, err);
    }
    close_slots(&batch);
    return rc < 0 ? rc : 0;
}
