/*
 * Models by name: their shapes, as their makers published them in config.json, for planning without
 * any weights. Tokens that other layers predict ahead (MTP) are not part of them.
 */
#ifndef PENSTOCK_MODEL_PRESET_H
#define PENSTOCK_MODEL_PRESET_H

#include "model/import.h"

struct ps_preset {
    const char *name;  /* "Qwen3.5-397B-A17B" */
    const char *arch;  /* a row of the table in arch.c */
    double parameters; /* as published, in 10^9, of the language model */
    uint32_t layers, hidden, vocab, context;
    uint32_t heads, kv_heads, head_dim;
    uint32_t interval;      /* every so many-th layer is attention, the others are delta; 1: all */
    uint32_t delta_v_heads; /* of width 128, as are the 16 key heads; convolutions of 4 taps */
    uint32_t experts, used, width, shared;
    double rope_theta;
    uint32_t rope_dims;
};

/* NULL-named at the end. */
extern const struct ps_preset ps_presets[];

/*
 * The preset of that name: any case, or the beginning of one name alone. *out is static. -ENOENT
 * (none begins like that), -PS_ERR_ARGUMENT (several do); err's sentence lists them.
 */
int ps_preset_find(const struct ps_preset **out, const char *name, struct ps_error *err);

/* Fills *config; the experts' types are the plan's to choose. */
void ps_preset_config(const struct ps_preset *preset, struct ps_config *config);

/* What ps_quant_spec_parse takes, or one type for all matrices; NULL: experts Q4_K, the rest Q8_0.
 * -PS_ERR_ARGUMENT. */
int ps_preset_quant(const char *text, struct ps_quant_spec *spec, struct ps_error *err);

#endif
