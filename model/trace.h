/*
 * Traces: which experts a model chose for every token, what was guessed of it beforehand, and, for
 * training a predictor, what its routers saw. docs/trace.md is the format, byte by byte. Files are
 * read and written a block of tokens at a time, so a trace may be longer than memory.
 *
 * Layers are counted among the MoE layers of the model, from 0. Thread rule: one thread at a time
 * per trace or writer. Functions return >= 0, or -errno / -PS_ERR_* with *err filled.
 */
#ifndef PENSTOCK_MODEL_TRACE_H
#define PENSTOCK_MODEL_TRACE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "core/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PS_TRACE_NONE UINT16_MAX     /* in place of an expert: there is none, nor any behind it */
#define PS_TRACE_NO_TOKEN UINT32_MAX /* in place of a token's id: it is not known */
#define PS_TRACE_DEPTH_COUNT_MAX 8
#define PS_TRACE_MODEL_BYTES 128

/* What every token of a trace has. */
struct ps_trace_info {
    uint64_t token_count;             /* from 1 up */
    uint32_t layer_count;             /* L, MoE layers, in [1, 512] */
    uint32_t expert_count;            /* E, of every layer, in [1, 4096] */
    uint32_t experts_used;            /* K, in [1, E]: most experts of a token in a layer */
    uint32_t depth_count;             /* D, in [0, 8]: guesses were made 1 .. D layers ahead */
    uint32_t rank_count;              /* R, in [1, E], or 0 with D: experts of a guess */
    uint32_t hidden;                  /* H: length of a router's input, or 0: not recorded */
    bool has_weights;                 /* of the experts */
    char model[PS_TRACE_MODEL_BYTES]; /* the model's name, 0-terminated; may be empty */
    const uint32_t *layers;           /* [L] ascending numbers of the layers in the model */
    const uint64_t *expert_bytes;     /* [L] bytes of an expert as it was read, 0 = not known */
};

/* One token. Arrays that the trace does not have are NULL. */
struct ps_trace_token {
    uint32_t id;              /* or PS_TRACE_NO_TOKEN */
    bool begins;              /* the first token of a sequence: nothing precedes it */
    const uint16_t *experts;  /* [L, K] best first; PS_TRACE_NONE from the first missing one on */
    const float *weights;     /* [L, K] what the outputs are multiplied with; 0 for missing ones */
    const uint16_t *ranks;    /* [L, D, R] see ps_trace_ranks; PS_TRACE_NONE as in experts */
    const uint16_t *rank_f16; /* [L, D, R] their probabilities, F16; 0 for missing ones */
    const uint16_t *hidden;   /* [L, H] inputs of the routers, normalised, F16 */
};

/* [R] what was guessed for `layer` when layer - depth was computed, best first; depth in [1, D].
 * All PS_TRACE_NONE where there is no layer so far ahead of it. */
static inline const uint16_t *ps_trace_ranks(const struct ps_trace_info *info,
                                             const struct ps_trace_token *token, uint32_t layer,
                                             uint32_t depth)
{
    return token->ranks + ((uint64_t)layer * info->depth_count + depth - 1) * info->rank_count;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

struct ps_trace;

/*
 * Opens a file and checks its header and size. *out is owned by the caller. Errors: -errno,
 * -PS_ERR_FORMAT (no trace, or not sound), -PS_ERR_UNSUPPORTED (another version),
 * -PS_ERR_TRUNCATED, -PS_ERR_CHECKSUM (the header is damaged), -ENOMEM. Blocks.
 */
int ps_trace_open(struct ps_trace **out, const char *path, struct ps_error *err);
void ps_trace_close(struct ps_trace **trace);

/* Owned by the trace. */
const struct ps_trace_info *ps_trace_info(const struct ps_trace *trace);

/*
 * The next token: 1; or 0 behind the last one. Its arrays are the trace's, valid until the next
 * call. Experts and ranks are below E or PS_TRACE_NONE, none twice in a row of K or R; weights are
 * finite. Errors: -errno, -PS_ERR_CHECKSUM (the block is damaged), -PS_ERR_FORMAT (its values are
 * not sound), -PS_ERR_TRUNCATED (the file shrank). Blocks.
 */
int ps_trace_next(struct ps_trace *trace, struct ps_trace_token *token, struct ps_error *err);

/* Back to the first token. */
void ps_trace_rewind(struct ps_trace *trace);

/* ---- writing ----------------------------------------------------------------------------------
 */

struct ps_trace_writer;

/*
 * Begins a trace of info->token_count tokens on a stream, which stays the caller's and is written
 * front to back (it need not seek). name: the stream's, for errors; kept, not copied. info is
 * copied, with its arrays. Errors: -PS_ERR_ARGUMENT (a number outside its range), -ENOMEM, -errno.
 */
int ps_trace_writer_open(struct ps_trace_writer **out, FILE *file, const char *name,
                         const struct ps_trace_info *info, struct ps_error *err);
/* Frees; what was written so far is not finished by it. */
void ps_trace_writer_close(struct ps_trace_writer **writer);

/* Adds a token, which must have the arrays that info speaks of. Errors: -errno, -PS_ERR_ARGUMENT
 * (values that ps_trace_next would refuse, or more tokens than announced). */
int ps_trace_writer_add(struct ps_trace_writer *writer, const struct ps_trace_token *token,
                        struct ps_error *err);

/* Bytes written so far: after ps_trace_writer_finish, of the whole trace. */
uint64_t ps_trace_writer_bytes(const struct ps_trace_writer *writer);

/* Writes what is left and flushes the stream. -PS_ERR_ARGUMENT: fewer tokens than announced. */
int ps_trace_writer_finish(struct ps_trace_writer *writer, struct ps_error *err);

#ifdef __cplusplus
}
#endif

#endif
