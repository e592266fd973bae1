#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/util.h"
#include "model/import.h"
#include "model/model.h"
#include "model/preset.h"
#include "quant/type.h"

/* Larger slices than this overlap nothing any more; smaller ones the caller may ask for. */
#define SLICE_TARGET_MAX (128ull << 20)

static void add_blob(struct ps_import *import, const char *name, void *data, uint64_t bytes)
{
    import->blobs[import->spec.blob_count++] = (struct ps_layout_blob){name, data, bytes};
}

/* The blobs own their data from here on. */
static int make_blobs(struct ps_import *import, struct ps_error *err)
{
    size_t bytes = 0;
    void *data = NULL;
    char *text = NULL;
    int rc = ps_config_to_json(&import->config, import->tensors, import->tensor_count, &text, err);

    if (rc < 0)
        return rc;
    add_blob(import, PS_BLOB_MODEL, text, strlen(text));
    if (!import->source)
        return 0;
    rc = ps_import_tokenizer(import->source, &data, &bytes, err);
    if (rc < 0)
        return rc;
    if (rc > 0)
        add_blob(import, PS_BLOB_TOKENIZER, data, bytes);
    import->report.has_tokenizer = rc > 0;
    rc = ps_import_chat(import->source, &text, &bytes, err);
    if (rc < 0)
        return rc;
    if (rc > 0)
        add_blob(import, PS_BLOB_CHAT, text, bytes);
    return 0;
}

/* Of the source, of the plan's options and of the metadata: whatever
 * shapes a byte of the volume. */
static int make_fingerprint(struct ps_import *import, struct ps_error *err)
{
    uint64_t importance[2] = {0, 0};
    XXH3_state_t *state;
    XXH128_hash_t hash;
    uint64_t source[2];
    int rc = ps_source_fingerprint(import->source, source, err);

    if (rc == 0 && import->importance)
        rc = ps_importance_fingerprint(import->importance, importance, err);
    if (rc < 0)
        return rc;
    state = XXH3_createState();
    if (!state)
        return ps_error_set(err, -ENOMEM, NULL, "memory for the fingerprint is not to be had");
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, source, sizeof(source));
    XXH3_128bits_update(state, &import->slice_bytes, sizeof(import->slice_bytes));
    XXH3_128bits_update(state, &import->quant, sizeof(import->quant));
    XXH3_128bits_update(state, importance, sizeof(importance));
    for (uint32_t i = 0; i < import->spec.blob_count; i++)
        XXH3_128bits_update(state, import->blobs[i].data, import->blobs[i].bytes);
    hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    import->spec.source_fingerprint[0] = hash.low64;
    import->spec.source_fingerprint[1] = hash.high64;
    return 0;
}

/* Of checkpoints whose makers have quantised them the blocks stay as they are. */
static const char *default_quant(const struct ps_source *source)
{
    for (size_t i = 0; i < source->tensor_count; i++)
        if (source->tensors[i].type == PS_TYPE_F8_E4M3)
            return "keep";
    return NULL;
}

static int open_importance(struct ps_import *import, const char *path, struct ps_error *err)
{
    return path ? ps_importance_open(&import->importance, path, err) : 0;
}

static int prepare(struct ps_import *import, const struct ps_model_layout_options *options,
                   struct ps_error *err)
{
    const char *quant = options->quant;
    int rc;

    import->slice_bytes = options->slice_bytes ? options->slice_bytes : PS_SLICE_BYTES_DEFAULT;
    import->slice_bytes = ps_min_u64(import->slice_bytes, SLICE_TARGET_MAX);
    import->scratch = calloc((size_t)import->worker_count, sizeof(*import->scratch));
    if (!import->scratch)
        return ps_error_set(err, -ENOMEM, NULL, "memory for the workers is not to be had");
    if ((rc = ps_source_open(&import->source, options->source, err)) < 0)
        return rc;
    if (!quant)
        quant = default_quant(import->source);
    if ((rc = ps_quant_spec_parse(quant, import->source->kind, &import->quant, err)) < 0 ||
        (rc = ps_checkpoint_init(&import->checkpoint, import->source, &import->config, err)) < 0 ||
        (rc = open_importance(import, options->importance, err)) < 0 ||
        (rc = ps_import_plan(import, err)) < 0 || (rc = make_blobs(import, err)) < 0 ||
        (rc = make_fingerprint(import, err)) < 0)
        return rc;
    ps_quant_notes(import, import->report.notes, sizeof(import->report.notes));
    import->spec.objects = import->objects;
    import->spec.object_count = import->object_count;
    import->spec.blobs = import->blobs;
    import->spec.source_name = import->source->name;
    return 0;
}

static int prepare_preset(struct ps_import *import, const struct ps_preset *preset,
                          const char *quant, struct ps_error *err)
{
    int rc;

    import->slice_bytes = PS_SLICE_BYTES_DEFAULT;
    ps_preset_config(preset, &import->config);
    if ((rc = ps_preset_quant(quant, &import->quant, err)) < 0 ||
        (rc = ps_import_plan(import, err)) < 0 || (rc = make_blobs(import, err)) < 0)
        return rc;
    import->spec.objects = import->objects;
    import->spec.object_count = import->object_count;
    import->spec.blobs = import->blobs;
    import->spec.source_name = import->config.source_name;
    return 0;
}

int ps_import_open_preset(struct ps_import **out, const struct ps_preset *preset, const char *quant,
                          struct ps_error *err)
{
    struct ps_import *import = calloc(1, sizeof(*import));
    int rc;

    if (!import)
        return ps_error_set(err, -ENOMEM, NULL, "memory for the preset is not to be had");
    rc = prepare_preset(import, preset, quant, err);
    if (rc < 0) {
        ps_import_close(&import);
        return rc;
    }
    *out = import;
    return 0;
}

int ps_import_open(struct ps_import **out, const struct ps_model_layout_options *options,
                   int worker_count, struct ps_error *err)
{
    struct ps_import *import;
    int rc;

    if (!options->source)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "no source was named");
    import = calloc(1, sizeof(*import));
    if (!import)
        return ps_error_set(err, -ENOMEM, NULL, "memory for the layout is not to be had");
    import->worker_count = worker_count;
    rc = prepare(import, options, err);
    if (rc < 0) {
        ps_import_close(&import);
        return rc;
    }
    *out = import;
    return 0;
}

void ps_import_close(struct ps_import **import_ptr)
{
    struct ps_import *import = *import_ptr;

    if (!import)
        return;
    for (uint32_t i = 0; i < import->spec.blob_count; i++)
        free((void *)import->blobs[i].data);
    for (int i = 0; import->scratch && i < import->worker_count; i++) {
        ps_source_window_fini(&import->scratch[i].window);
        free(import->scratch[i].raw);
        free(import->scratch[i].values);
        free(import->scratch[i].row);
        free(import->scratch[i].importance);
        free(import->scratch[i].codes);
        free(import->scratch[i].factors);
    }
    for (uint32_t i = 0; i < import->tensor_count; i++)
        free(import->cuts[i]);
    for (uint32_t i = 0; i < PS_LAYER_COUNT_MAX; i++)
        free(import->layers[i].slices);
    ps_importance_close(&import->importance);
    free(import->scratch);
    free(import->tensors);
    free(import->refs);
    free(import->cuts);
    free(import->used);
    free(import->objects);
    free(import->names);
    ps_checkpoint_fini(&import->checkpoint);
    ps_source_close(&import->source);
    free(import);
    *import_ptr = NULL;
}
