/* Private to model/: the open model, and what import hands to it. */
#ifndef PENSTOCK_MODEL_MODEL_H
#define PENSTOCK_MODEL_MODEL_H

#include "model/chat.h"
#include "model/config.h"
#include "model/penstock.h"
#include "model/tokenizer.h"

/* Names of the metadata blobs in a volume. */
#define PS_BLOB_MODEL "model.json"    /* ps_config_to_json */
#define PS_BLOB_TOKENIZER "tokenizer" /* ps_tokenizer_build_*; absent without a tokenizer */
#define PS_BLOB_CHAT "chat_template"  /* the template's own text; absent without one */

struct ps_model {
    struct ps_volume *volume;
    struct ps_config config;
    /* Resident tensors in the order of the volume: those that the engine loads, then those of
     * predicting layers. */
    struct ps_config_tensor *tensors;
    uint32_t tensor_count, tensor_count_all;
    struct ps_tokenizer *tokenizer; /* NULL without */
    enum ps_chat_family chat_family;
    char expert_types[64];
    struct ps_engine *engine; /* the one open engine, or NULL */
    bool is_described;        /* there are no weights behind it (model/describe.c) */
    uint64_t unheld_bytes; /* what a real one of its kind holds in memory, and this one does not */
};

/* A model of an open volume, which it takes over (also on errors, which are ps_model_open's). */
int ps_model_take(struct ps_model **out, struct ps_volume *volume, struct ps_error *err);

/* Bytes of a sampler that looks back on no more tokens than it does by default. */
uint64_t ps_sampler_bytes(uint32_t vocab_rows);

#endif
