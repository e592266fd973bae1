/*
 * Private to import: what an architecture is called in each format, how its configuration is read,
 * and where its tensors are. Another architecture is one new file plus a row of the table in
 * arch.c.
 */
#ifndef PENSTOCK_MODEL_ARCH_H
#define PENSTOCK_MODEL_ARCH_H

#include "model/config.h"
#include "model/source.h"

/* What is done to the values on their way into the volume, in F32. Vectors only. */
enum ps_transform {
    PS_TRANSFORM_NONE,
    PS_TRANSFORM_PLUS_ONE, /* zero-centred norm weights become plain factors (spec A.3) */
    PS_TRANSFORM_NEG_EXP,  /* A_log becomes -exp(A_log) (spec A.5) */
};

enum ps_expert_part { PS_EXPERT_GATE, PS_EXPERT_UP, PS_EXPERT_DOWN, PS_EXPERT_PART_COUNT };

struct ps_checkpoint;

/*
 * How the rows of a matrix lie in a source that packs them otherwise. GROUPED: in parts of so many
 * rows; a part's rows come in runs, the first at `offset`, each `stride` behind the one before.
 * PAIRED: in heads of `head` rows whose first `rotated` ones alternate between the two halves that
 * the volume has one after the other: what is rotated together is neighbours (spec B.3).
 */
enum ps_order_kind { PS_ORDER_PLAIN, PS_ORDER_GROUPED, PS_ORDER_PAIRED };

#define PS_ORDER_PART_COUNT_MAX 3

struct ps_row_order {
    enum ps_order_kind kind;
    struct {
        uint64_t rows, run, stride, offset;
    } parts[PS_ORDER_PART_COUNT_MAX];
    uint64_t head, rotated;
};

/* A tensor of the source that holds the rows of a role among others, or in another order. */
struct ps_packed_role {
    const char *name; /* behind the layer's prefix */
    uint64_t rows;    /* of the whole tensor; columns are the role's */
    struct ps_row_order order;
};

struct ps_arch {
    const char *id;
    const char *const *hf_names; /* values of model_type and architectures; NULL at the end */
    const char *gguf_name;       /* general.architecture */
    /* What the model classes take where config.json is silent. */
    double theta_default, eps_default;
    const char *hf_expert_count; /* NULL: "num_experts" */
    bool plain_width; /* the experts' width is "intermediate_size", feed_forward_length in GGUF */
    bool paired_rope; /* GGUF: rows of q and k are paired for a rotation of neighbours */
    /* Fill *config but for arch, names, types, end ids and sampling. */
    int (*config_hf)(const struct ps_checkpoint *checkpoint, struct ps_config *config,
                     struct ps_error *err);
    int (*config_gguf)(const struct ps_checkpoint *checkpoint, struct ps_config *config,
                       struct ps_error *err);
    bool zero_centred_norms; /* safetensors: norms multiply by 1 + w, that of the delta rule by w */
    /* Names where they differ from those that families share (arch.c for safetensors, ps_role_name
     * for GGUF): behind the prefix for global roles, behind "layers.N." or "blk.N." for others. */
    const char *hf_roles[PS_ROLE_COUNT], *gguf_roles[PS_ROLE_COUNT];
    /* Experts one by one, where they are not "mlp.experts.N.gate_proj.weight" and so on. */
    const char *hf_expert_prefix, *hf_expert_suffix[PS_EXPERT_PART_COUNT];
    /* Groups of tensors that are left out, NULL at the end; or NULL. */
    const char *const *skip_prefixes;
    /* NULL, or: fills *packed and returns true for a role that this source packs otherwise than by
     * the names above. */
    bool (*packed_role)(const struct ps_checkpoint *checkpoint, const struct ps_config *config,
                        enum ps_role role, uint32_t layer, struct ps_packed_role *packed);
};

/* A source that has been understood: which architecture, and how its names begin. */
struct ps_checkpoint {
    const struct ps_source *source; /* owned by the caller of ps_checkpoint_open */
    const struct ps_arch *arch;
    json_t *root;       /* config.json; NULL for GGUF */
    const json_t *text; /* its text_config, or itself */
    const char *prefix; /* "model.language_model." or "model." */
    const char *head_prefix;
    bool tied;                 /* the embedding serves as head */
    uint32_t layer_count;      /* without the predicting layers; UINT32_MAX until it is known */
    uint32_t prediction_count; /* of those that are kept */
};

/* Where a matrix comes from: rows [row_begin, row_begin + rows) of a
 * tensor seen as rows of `cols`. With another order than PLAIN row_begin is 0. */
struct ps_tensor_ref {
    const struct ps_source_tensor *tensor;
    const struct ps_source_tensor *scales; /* of an F8_E4M3 tensor (model/fp8.h), else NULL */
    uint64_t row_begin, rows, cols;
    enum ps_transform transform;
    struct ps_row_order order;
};

/* Where row `row` of the reference lies in the tensor. *run (>= 1): so many rows from it on follow
 * each other there, too. */
uint64_t ps_tensor_ref_row(const struct ps_tensor_ref *ref, uint64_t row, uint64_t *run);

/* NULL-terminated. */
extern const struct ps_arch *const ps_arch_table[];
extern const struct ps_arch ps_arch_qwen3_5_moe;
extern const struct ps_arch ps_arch_qwen3_moe;
extern const struct ps_arch ps_arch_qwen3_next;
extern const struct ps_arch ps_arch_olmoe;
extern const struct ps_arch ps_arch_mixtral;

/*
 * Recognises the architecture (-PS_ERR_UNSUPPORTED names it and the supported ones) and fills
 * *config (names, architecture's fields, end ids, sampling; not the expert types).
 * ps_checkpoint_fini frees.
 */
int ps_checkpoint_init(struct ps_checkpoint *checkpoint, const struct ps_source *source,
                       struct ps_config *config, struct ps_error *err);
void ps_checkpoint_fini(struct ps_checkpoint *checkpoint);

/*
 * The source of a resident tensor, its shape compared with the configuration's. Returns 1, or 0
 * when the model has none because its head is tied, or -PS_ERR_FORMAT with the tensor's own name.
 */
int ps_checkpoint_find(const struct ps_checkpoint *checkpoint, const struct ps_config *config,
                       enum ps_role role, uint32_t layer, struct ps_tensor_ref *ref,
                       struct ps_error *err);

/* The source of one matrix of an expert. 0 or -PS_ERR_FORMAT. */
int ps_checkpoint_find_expert(const struct ps_checkpoint *checkpoint,
                              const struct ps_config *config, uint32_t layer, uint32_t expert,
                              enum ps_expert_part part, struct ps_tensor_ref *ref,
                              struct ps_error *err);

/* Is there a tensor of this name behind "layers.N." (safetensors) or "blk.N." (GGUF)? */
bool ps_checkpoint_has(const struct ps_checkpoint *checkpoint, uint32_t layer, const char *name);

/*
 * The group to which a tensor belongs that is rightly left out ("model.visual.*", "blk.60.*"), into
 * buf; 0, or -PS_ERR_UNSUPPORTED for a tensor that may not be ignored.
 */
int ps_checkpoint_skip_group(const struct ps_checkpoint *checkpoint, const char *name, char *buf,
                             size_t buf_bytes, struct ps_error *err);

/* ---- helpers for reading a configuration
 * ------------------------------------------------------------ */

/* Fields of the text configuration. With fallback < 0 the field is required, else that is its
 * default. */
int ps_hf_u32(const struct ps_checkpoint *checkpoint, const char *field, int64_t fallback,
              uint32_t *out, struct ps_error *err);
int ps_hf_bool(const struct ps_checkpoint *checkpoint, const char *field, bool fallback, bool *out,
               struct ps_error *err);
/* A number of config.json; absent or null: *out = fallback. */
int ps_hf_number(const struct ps_checkpoint *checkpoint, const char *field, double fallback,
                 double *out, struct ps_error *err);
/* What every model of these families has: sizes, heads, rope, experts. rotary: default for the
 * share of a head that is rotated. */
int ps_hf_common(const struct ps_checkpoint *checkpoint, struct ps_config *config, double rotary,
                 struct ps_error *err);

/* Keys behind "ARCH.", as ps_hf_*. */
int ps_gguf_arch_u32(const struct ps_checkpoint *checkpoint, const char *key, int64_t fallback,
                     uint32_t *out, struct ps_error *err);
int ps_gguf_arch_number(const struct ps_checkpoint *checkpoint, const char *key, double fallback,
                        double *out, struct ps_error *err);
/* *out gets the flag where the key is there. */
int ps_gguf_arch_bool(const struct ps_checkpoint *checkpoint, const char *key, bool *out,
                      struct ps_error *err);
int ps_gguf_common(const struct ps_checkpoint *checkpoint, struct ps_config *config,
                   struct ps_error *err);
/* -PS_ERR_UNSUPPORTED: the value of ARCH.key asks for something that is not supported. */
int ps_gguf_refuse_key(const struct ps_checkpoint *checkpoint, const char *key,
                       struct ps_error *err);

/* ---- layers (arch_layers.c) ---- */

/* All layers attention; dense or with experts by mlp_only_layers and decoder_sparse_step, in GGUF
 * by their tensors (spec A.10). Sets dense_width where there are dense ones. Mixers stay. */
int ps_hf_dense_layers(const struct ps_checkpoint *checkpoint, struct ps_config *config,
                       struct ps_error *err);
int ps_gguf_dense_layers(const struct ps_checkpoint *checkpoint, struct ps_config *config,
                         struct ps_error *err);
/* Mixers by layer_types; -PS_ERR_UNSUPPORTED names a type that is none of delta and attention.
 * Without the field nothing happens. */
int ps_hf_layer_types(const struct ps_checkpoint *checkpoint, struct ps_config *config,
                      struct ps_error *err);
/* What the families with delta layers share: their sizes, the mixer of each layer, the shared
 * expert, gated attention. The feed-forward blocks of the layers must be known. */
int ps_hf_delta(const struct ps_checkpoint *checkpoint, struct ps_config *config,
                struct ps_error *err);
int ps_gguf_delta(const struct ps_checkpoint *checkpoint, struct ps_config *config,
                  struct ps_error *err);
/* A predicting layer behind the others, where the source has one that is whole and of its own. */
void ps_find_prediction(const struct ps_checkpoint *checkpoint, struct ps_config *config);

/* ---- rope (arch_rope.c) ---- */

/* rope_theta, rope_dims, and rope_table and rope_scale where the source scales its frequencies:
 * linear, yarn and llama3 as transformers 5 defines them; others are refused by name. head_dim and
 * context_max must be known. rotary: default for the share of a head that is rotated. */
int ps_hf_rope(const struct ps_checkpoint *checkpoint, struct ps_config *config, double rotary,
               struct ps_error *err);
/* rope_dims and rope_theta must be known. */
int ps_gguf_rope(const struct ps_checkpoint *checkpoint, struct ps_config *config,
                 struct ps_error *err);

/* End ids and sampling, from generation_config.json and config.json,
 * or from the tokenizer's keys. */
int ps_hf_generation(const struct ps_checkpoint *checkpoint, struct ps_config *config,
                     struct ps_error *err);
int ps_gguf_generation(const struct ps_checkpoint *checkpoint, struct ps_config *config,
                       struct ps_error *err);

#endif
