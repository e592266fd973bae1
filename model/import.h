/* Private to import: a planned layout of a checkpoint. */
#ifndef PENSTOCK_MODEL_IMPORT_H
#define PENSTOCK_MODEL_IMPORT_H

#include "model/arch.h"
#include "model/expert.h"
#include "model/penstock.h"
#include "nvme/layout.h"

#define PS_QUANT_KEEP UINT32_MAX
/* Resident tensors are cut here: a multiple of every alignment, so
 * that they are whole in memory. */
#define PS_RESIDENT_SLICE_BYTES (4u << 20)
#define PS_IMPORT_BLOB_COUNT_MAX 3

/* Types to lay out in: enum ps_type or PS_QUANT_KEEP. */
struct ps_quant_spec {
    uint32_t experts, rest;
};

/* How the experts of one layer are cut. All of a layer share shape and slices. */
struct ps_import_layer {
    struct ps_expert_shape shape;
    struct ps_layout_slice *slices;
    uint32_t slice_count;
};

/* Memory of one worker, grown as needed. */
struct ps_import_scratch {
    struct ps_source_window window;
    uint8_t *raw;
    float *values;
    uint8_t *row;
    uint8_t *codes;   /* of F8_E4M3 rows, before they are joined with */
    uint8_t *factors; /* F32 or BF16, as they lie in the source, then as floats */
    size_t raw_bytes, values_bytes, row_bytes, codes_bytes, factors_bytes;
};

struct ps_import {
    struct ps_source *source;
    struct ps_checkpoint checkpoint;
    struct ps_config config;
    struct ps_quant_spec quant;
    uint64_t slice_bytes;

    struct ps_config_tensor *tensors; /* resident, in the order of the volume */
    struct ps_tensor_ref *refs;       /* of each */
    struct ps_layout_slice **cuts;    /* of each */
    uint32_t tensor_count, tensor_capacity;
    struct ps_import_layer layers[PS_LAYER_COUNT_MAX];
    bool *used; /* per tensor of the source */

    struct ps_layout_object *objects; /* resident ones first, then experts by layer and number */
    uint32_t object_count;
    char *names;
    struct ps_layout_blob blobs[PS_IMPORT_BLOB_COUNT_MAX];
    struct ps_layout_spec spec;           /* points into all of the above */
    struct ps_model_layout_report report; /* but for bytes */

    struct ps_import_scratch *scratch;
    int worker_count;
};

/*
 * Opens the source and plans its layout: everything but the writing. *out is owned by the caller.
 * workers: how many may call ps_import_fill at once. Errors as of ps_model_layout.
 */
int ps_import_open(struct ps_import **out, const struct ps_model_layout_options *options,
                   int worker_count, struct ps_error *err);
void ps_import_close(struct ps_import **import);

/* A ps_layout_fill_fn; ctx is the struct ps_import. */
int ps_import_fill(void *ctx, int worker, uint32_t object, uint32_t slice_begin, uint32_t slice_end,
                   uint8_t *buf, struct ps_error *err);

/* "keep" or "GROUP=TYPE,..." (penstock.h); NULL gives the default of the kind. -PS_ERR_ARGUMENT. */
int ps_quant_spec_parse(const char *text, enum ps_source_kind kind, struct ps_quant_spec *spec,
                        struct ps_error *err);

/* ---- between the files of import ------------------------------------------------------------ */

/* Fills config.layers[].*_type, tensors, refs, layers, objects, used and the report's counts. */
int ps_import_plan(struct ps_import *import, struct ps_error *err);

/* The tokenizer's blob: 1, or 0 when the source has none that can be used (*err untouched). */
int ps_import_tokenizer(const struct ps_source *source, void **blob, size_t *blob_bytes,
                        struct ps_error *err);
/* The chat template's text, malloc'd: 1, or 0 when the source has none. */
int ps_import_chat(const struct ps_source *source, char **text, size_t *text_bytes,
                   struct ps_error *err);

#endif
