#include "model/staging.h"

#include "core/util.h"

uint64_t ps_oracle_guess_count(uint32_t layer_count, uint32_t expert_count, uint32_t experts_used)
{
    /* A prompt may ask for all experts of some layers. */
    return ps_max_u64((uint64_t)PS_ORACLE_TOKENS * layer_count * experts_used,
                      UINT64_C(4) * expert_count);
}

void ps_staging_add(struct ps_staging *s, const struct ps_guess *guess)
{
    if (s->guess_count < s->guess_capacity)
        s->guesses[s->guess_count++] = *guess;
}

void ps_staging_clear(struct ps_staging *s)
{
    s->guess_count = s->guess_next = 0;
}

static uint32_t *staged_of(const struct ps_staging *s, const struct ps_staged *g)
{
    return &s->staged_of[(size_t)g->layer * s->expert_count + g->expert];
}

/* The store's answer. What it says of an expert that is in use holds no longer than that. */
static int hold(struct ps_store *store, struct ps_staged *g)
{
    int rc = ps_store_prefetch(store, g->layer, g->expert, (double)g->chance, NULL);

    g->is_held = rc == 0 || rc == 1;
    g->was_read = rc == 0;
    return rc;
}

void ps_staging_issue(struct ps_staging *s, struct ps_store *store)
{
    for (; s->guess_next < s->guess_count; s->guess_next++) {
        const struct ps_guess *g = &s->guesses[s->guess_next];
        struct ps_staged staged = {g->layer, g->expert, g->due, g->chance, false, false, false};
        if (!g->is_wanted)
            continue;
        staged.is_first = *staged_of(s, &staged) == 0;
        if (s->staged_count == s->guess_capacity ||
            (staged.is_first && (s->first_count == s->capacity || hold(store, &staged) < 0)))
            return;
        s->staged[s->staged_count++] = staged;
        s->first_count += staged.is_first;
        ++*staged_of(s, &staged);
    }
}

/* A guess is not kept any more: what it held is held for the next one for the expert, or not. */
static void end_guess(struct ps_staging *s, struct ps_store *store, uint32_t idx)
{
    const struct ps_staged *g = &s->staged[idx];

    if (--*staged_of(s, g) == 0) {
        s->first_count--;
        if (g->is_held)
            ps_store_drop(store, g->layer, g->expert);
    } else if (g->is_first) {
        struct ps_staged *next = &s->staged[idx + 1];
        while (next->expert != g->expert || next->layer != g->layer)
            next++;
        next->is_first = true;
        next->is_held = g->is_held;
        next->was_read = g->was_read;
    }
}

void ps_staging_settle(struct ps_staging *s, struct ps_store *store, uint32_t layer,
                       const bool *is_chosen, bool *was_staged)
{
    uint32_t left = 0;

    /* What the last layer has used is held for the next guess. */
    for (uint32_t i = 0; i < s->staged_count; i++)
        if (s->staged[i].layer == s->last_layer && s->staged[i].is_first && !s->staged[i].is_held)
            hold(store, &s->staged[i]);
    s->step++;
    s->last_layer = layer;
    for (uint32_t i = 0; i < s->staged_count; i++) {
        struct ps_staged *g = &s->staged[i];
        if (g->layer == layer && is_chosen[g->expert]) {
            if (was_staged && g->was_read)
                was_staged[g->expert] = true;
            g->is_held = g->was_read = false;
        }
        if (g->due <= s->step)
            end_guess(s, store, i);
        else
            s->staged[left++] = *g;
    }
    s->staged_count = left;
    left = 0;
    for (uint32_t i = s->guess_next; i < s->guess_count; i++)
        if (s->guesses[i].due > s->step)
            s->guesses[left++] = s->guesses[i];
    s->guess_next = 0;
    s->guess_count = left;
}

void ps_staging_reset(struct ps_staging *s, struct ps_store *store)
{
    for (uint32_t i = 0; i < s->staged_count; i++)
        if (s->staged[i].is_held)
            ps_store_drop(store, s->staged[i].layer, s->staged[i].expert);
    for (uint32_t i = 0; i < s->staged_count; i++)
        *staged_of(s, &s->staged[i]) = 0;
    s->staged_count = s->first_count = 0;
    ps_staging_clear(s);
}
