/* The tokenizer and the chat template of a source. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "model/gguf.h"
#include "model/import.h"
#include "model/tokenizer.h"

static int tokenizer_from_json(const struct ps_source *source, void **blob, size_t *blob_bytes,
                               struct ps_error *err)
{
    size_t text_bytes;
    char *text;
    int rc = ps_source_sidecar(source, "tokenizer.json", &text, &text_bytes, err);

    if (rc < 0)
        return rc;
    rc = ps_tokenizer_build_json(text, text_bytes, blob, blob_bytes, err);
    free(text);
    return rc;
}

static int wrong_length(const char *key, uint64_t tokens, uint64_t entries, struct ps_error *err)
{
    return ps_error_set(err, -PS_ERR_FORMAT, key,
                        "the GGUF file has %llu tokens, but types or scores of %llu",
                        (unsigned long long)tokens, (unsigned long long)entries);
}

/* What only character vocabularies have. *scores is malloc'd. */
static int scores_from_gguf(const struct ps_source *source, struct ps_tokenizer_gguf *g,
                            float **scores, struct ps_error *err)
{
    uint32_t add_bos = 1, prefix = 1;
    uint64_t count = 0;
    int rc;

    g->bos = 1; /* what readers of these files take for a key that is absent */
    if ((rc = ps_gguf_floats(source, "tokenizer.ggml.scores", scores, &count, err)) < 0 ||
        (rc = ps_gguf_u32(source, "tokenizer.ggml.bos_token_id", &g->bos, err)) < 0 ||
        (rc = ps_gguf_u32(source, "tokenizer.ggml.add_bos_token", &add_bos, err)) < 0 ||
        (rc = ps_gguf_u32(source, "tokenizer.ggml.add_space_prefix", &prefix, err)) < 0)
        return rc;
    if (*scores && count != g->token_count)
        return wrong_length("tokenizer.ggml.scores", g->token_count, count, err);
    g->scores = *scores;
    g->add_bos = add_bos != 0;
    g->add_space_prefix = prefix != 0;
    return 0;
}

static int tokenizer_from_gguf(const struct ps_source *source, void **blob, size_t *blob_bytes,
                               struct ps_error *err)
{
    struct ps_gguf_string *tokens = NULL, *merges = NULL;
    struct ps_tokenizer_gguf g = {0};
    uint64_t type_count = 0;
    int32_t *types = NULL;
    float *scores = NULL;
    int rc;

    if ((rc = ps_gguf_text(source, "tokenizer.ggml.model", &g.model, err)) <= 0 ||
        (rc = ps_gguf_texts(source, "tokenizer.ggml.tokens", &tokens, &g.token_count, err)) <= 0) {
        rc = rc < 0 ? rc : -ENOENT;
        goto done;
    }
    if ((rc = ps_gguf_text(source, "tokenizer.ggml.pre", &g.pre, err)) < 0 ||
        (rc = ps_gguf_texts(source, "tokenizer.ggml.merges", &merges, &g.merge_count, err)) < 0 ||
        (rc = ps_gguf_integers(source, "tokenizer.ggml.token_type", &types, &type_count, err)) < 0)
        goto done;
    if (types && type_count != g.token_count) {
        rc = wrong_length("tokenizer.ggml.token_type", g.token_count, type_count, err);
        goto done;
    }
    g.tokens = tokens;
    g.merges = merges;
    g.types = types;
    if (g.model.bytes == 5 && !memcmp(g.model.data, "llama", 5))
        rc = scores_from_gguf(source, &g, &scores, err);
    if (rc >= 0)
        rc = ps_tokenizer_build_gguf(&g, blob, blob_bytes, err);
    /* Some files carry a placeholder that no text can pass through. Nothing false can come of
     * leaving it out: commands that take text then refuse. */
    if (rc == -PS_ERR_FORMAT)
        rc = -PS_ERR_UNSUPPORTED;
done:
    free(scores);
    free(tokens);
    free(merges);
    free(types);
    return rc;
}

int ps_import_tokenizer(const struct ps_source *source, void **blob, size_t *blob_bytes,
                        struct ps_error *err)
{
    struct ps_error why = {0};
    int rc = source->kind == PS_SOURCE_GGUF ? tokenizer_from_gguf(source, blob, blob_bytes, &why)
                                            : tokenizer_from_json(source, blob, blob_bytes, &why);

    if (rc >= 0)
        return 1;
    if (rc == -ENOENT) /* the report says so */
        return 0;
    if (rc == -PS_ERR_UNSUPPORTED) {
        ps_log(PS_LOG_WARN,
               "the tokenizer of %s cannot be used (%s): commands that take token ids "
               "will work, commands that take text will not",
               source->name, why.text);
        return 0;
    }
    if (err)
        *err = why;
    return rc;
}

/* "chat_template" is a text, or a list of named ones. */
static const char *template_of(const json_t *value)
{
    size_t i;
    json_t *entry;

    if (json_is_string(value))
        return json_string_value(value);
    json_array_foreach(value, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));

        if (name && !strcmp(name, "default"))
            return json_string_value(json_object_get(entry, "template"));
    }
    return NULL;
}

static int chat_from_directory(const struct ps_source *source, char **text, size_t *text_bytes,
                               struct ps_error *err)
{
    json_t *root = NULL;
    const char *found;
    int rc = ps_source_sidecar(source, "chat_template.jinja", text, text_bytes, err);

    if (rc != -ENOENT)
        return rc < 0 ? rc : 1;
    rc = ps_source_sidecar_json(source, "tokenizer_config.json", &root, err);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    found = template_of(json_object_get(root, "chat_template"));
    rc = found != NULL;
    if (found) {
        *text = strdup(found);
        *text_bytes = strlen(found);
        if (!*text)
            rc = ps_error_set(err, -ENOMEM, "chat_template",
                              "memory for the chat template is not to be had");
    }
    json_decref(root);
    return rc;
}

int ps_import_chat(const struct ps_source *source, char **text, size_t *text_bytes,
                   struct ps_error *err)
{
    struct ps_gguf_string view;
    int rc;

    if (source->kind != PS_SOURCE_GGUF)
        return chat_from_directory(source, text, text_bytes, err);
    rc = ps_gguf_text(source, "tokenizer.chat_template", &view, err);
    if (rc <= 0)
        return rc;
    *text = strndup(view.data, view.bytes);
    if (!*text)
        return ps_error_set(err, -ENOMEM, "chat_template",
                            "memory for the chat template is not to be had");
    *text_bytes = strlen(*text);
    return 1;
}
