/* Private to import: a planned layout of a checkpoint. */
#ifndef PENSTOCK_MODEL_IMPORT_H
#define PENSTOCK_MODEL_IMPORT_H

#include "model/arch.h"
#include "model/expert.h"
#include "model/importance.h"
#include "model/penstock.h"
#include "nvme/layout.h"

#define PS_QUANT_KEEP UINT32_MAX
/* Resident tensors are cut here: a multiple of every alignment, so
 * that they are whole in memory. */
#define PS_RESIDENT_SLICE_BYTES (4u << 20)
#define PS_IMPORT_BLOB_COUNT_MAX 3

/*
 * Groups of matrices that --quant names. Vectors, routers and the gates of shared experts belong to
 * none: they are never quantised.
 */
enum ps_quant_group {
    PS_QUANT_EXPERTS,
    PS_QUANT_ATTENTION,  /* what goes into a mixer and comes out of it, attention or delta rule */
    PS_QUANT_EMBEDDINGS, /* serves as the head too where both are tied */
    PS_QUANT_HEAD,
    PS_QUANT_SHARED, /* shared experts, and feed-forward blocks of layers without experts */
    PS_QUANT_REST,
    PS_QUANT_GROUP_COUNT
};

/* Types to lay out in: enum ps_type or PS_QUANT_KEEP. */
struct ps_quant_spec {
    uint32_t types[PS_QUANT_GROUP_COUNT];
};

/* Matrices that got another type than was asked for, and such that lose precision twice. */
struct ps_quant_counts {
    uint64_t fallbacks[2];       /* Q4_K and Q6_K that became Q8_0 */
    uint64_t requantised;        /* from blocks that were quantised before */
    uint64_t without_importance; /* though there is a file */
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
    float *importance;    /* of the columns of one matrix */
    const float *weights; /* that, or NULL, for what is being encoded */
    uint8_t *codes;       /* of F8_E4M3 rows, before they are joined with */
    uint8_t *factors;     /* F32 or BF16, as they lie in the source, then as floats */
    size_t raw_bytes, values_bytes, row_bytes, codes_bytes, factors_bytes;
    size_t importance_bytes;
};

struct ps_import {
    struct ps_source *source; /* NULL: of a preset */
    struct ps_checkpoint checkpoint;
    struct ps_config config;
    struct ps_quant_spec quant;
    struct ps_quant_counts quant_counts;
    struct ps_importance *importance; /* or NULL */
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

struct ps_preset; /* model/preset.h */

/*
 * Plans a layout of a preset, as if there were a checkpoint of that shape: import->source stays
 * NULL, and nothing can be filled. quant: as of ps_preset_quant. -PS_ERR_ARGUMENT, -ENOMEM.
 */
int ps_import_open_preset(struct ps_import **out, const struct ps_preset *preset, const char *quant,
                          struct ps_error *err);

/* A ps_layout_fill_fn; ctx is the struct ps_import. */
int ps_import_fill(void *ctx, int worker, uint32_t object, uint32_t slice_begin, uint32_t slice_end,
                   uint8_t *buf, struct ps_error *err);

/* "keep" or "GROUP=TYPE,..." (penstock.h); NULL gives the default of the kind. -PS_ERR_ARGUMENT. */
int ps_quant_spec_parse(const char *text, enum ps_source_kind kind, struct ps_quant_spec *spec,
                        struct ps_error *err);

enum ps_quant_group ps_quant_group_of(enum ps_role role);

/*
 * The type for rows of `cols` values when `wanted` was asked for: Q4_K and Q6_K become Q8_0 where
 * blocks of 256 do not fit but blocks of 32 do. Other types stay, whether they fit or not.
 */
uint32_t ps_quant_fit(uint32_t wanted, uint64_t cols);

/*
 * The name by which an importance file knows a tensor (that of GGUF models), into buf; NULL where
 * there is no file, the type has no use for it, or its order of columns is another one: the delta
 * rule's output in safetensors whose GGUF form has its value heads re-ordered (spec B.3).
 */
const char *ps_importance_role_name(const struct ps_import *import, enum ps_role role,
                                    uint32_t layer, uint32_t type, char *buf, size_t buf_bytes);
const char *ps_importance_expert_name(const struct ps_import *import, uint32_t layer,
                                      enum ps_expert_part part, uint32_t type, char *buf,
                                      size_t buf_bytes);

/* Sentences about what was counted and of importance, for the report; empty when there is none. */
void ps_quant_notes(const struct ps_import *import, char *text, size_t text_bytes);

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
