/* A model as it would be once it is laid out: of a checkpoint, or of a preset, without a volume. */
#include <errno.h>
#include <malloc.h>
#include <unistd.h>

#include "model/model.h"
#include "model/preset.h"
#include "nvme/describe.h"

/* A tokenizer that a preset has not: its texts, merges and tables, for each row of the vocabulary.
 * An estimate. */
#define TOKENIZER_ROW_BYTES 64u

static int open_import(struct ps_import **import, const struct ps_model_describe_options *options,
                       bool *is_preset, struct ps_error *err)
{
    struct ps_model_layout_options layout = {
        .source = options->source, .quant = options->quant, .slice_bytes = options->slice_bytes};
    const struct ps_preset *preset;
    int rc;

    *is_preset = access(options->source, F_OK) != 0;
    if (!*is_preset)
        return ps_import_open(import, &layout, 1, err);
    rc = ps_preset_find(&preset, options->source, err);
    return rc < 0 ? rc : ps_import_open_preset(import, preset, options->quant, err);
}

int ps_model_describe(struct ps_model **out, const struct ps_model_describe_options *options,
                      struct ps_error *err)
{
    struct ps_import *import = NULL;
    struct ps_volume *volume;
    struct ps_model *model;
    bool is_preset;
    int rc = open_import(&import, options, &is_preset, err);

    if (rc < 0)
        return rc;
    rc = ps_volume_describe(&volume, &import->spec, options->member_count, options->profiles, err);
    ps_import_close(&import);
    malloc_trim(0);
    if (rc >= 0)
        rc = ps_model_take(&model, volume, err);
    if (rc < 0)
        return rc;
    model->is_described = true;
    if (is_preset)
        model->unheld_bytes = (uint64_t)model->config.vocab_rows * TOKENIZER_ROW_BYTES;
    *out = model;
    return 0;
}
