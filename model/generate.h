/* Private to model/: one sequence under generation, alone (generate.c) or of several (batch.c). */
#ifndef PENSTOCK_MODEL_GENERATE_H
#define PENSTOCK_MODEL_GENERATE_H

#include "model/engine.h"
#include "model/text.h"

/* Zero-initialise, then fill the first group. Owns nothing. */
struct ps_sequence {
    struct ps_session *session;
    struct ps_sampler *sampler;
    uint32_t max_tokens;
    ps_token_fn *on_token; /* may be NULL */
    void *ctx;

    struct ps_utf8_joiner joiner;
    uint32_t token_count; /* handed over */
    int32_t id;           /* chosen last; what is to be evaluated while the sequence goes on */
};

/* Tells the sampler of the prompt. */
void ps_sequence_begin(struct ps_sequence *sequence, const int32_t *prompt, size_t prompt_count);

/* Chooses the next token from the session's logits, which must be there. Sequences are independent
 * of each other: several threads may choose for several of them. */
void ps_sequence_choose(struct ps_sequence *sequence);

/* Takes the token that was chosen, and hands it to the caller. Returns the ps_stop_reason that ends
 * the sequence, PS_SEQUENCE_ON when sequence->id is to be evaluated, or an error. */
#define PS_SEQUENCE_ON 1000
int ps_sequence_take(struct ps_sequence *sequence, struct ps_error *err);

#endif
