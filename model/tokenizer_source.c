/* The two sources of a tokenizer: Hugging Face's tokenizer.json and the metadata of a GGUF file. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "core/util.h"
#include "model/tokenizer.h"
#include "model/tokenizer_blob.h"

#define WHERE_JSON "tokenizer.json"
#define WHERE_GGUF "GGUF tokenizer"
#define BLANK_MARK "\xE2\x96\x81" /* U+2581, a blank as character vocabularies spell it */

static int no_memory(struct ps_error *err)
{
    return ps_error_set(err, -ENOMEM, NULL, "Out of memory while reading the tokenizer.");
}

static void parts_free(struct ps_token_parts *parts)
{
    free(parts->tokens);
    free(parts->merges);
}

static struct ps_text_span json_span(const json_t *string)
{
    return (struct ps_text_span){json_string_value(string), json_string_length(string)};
}

/* "left right". The alphabet has no blank, so there is exactly one. */
static bool split_merge(struct ps_text_span text, struct ps_merge_part *merge)
{
    const char *blank = text.bytes ? memchr(text.data, ' ', text.bytes) : NULL;
    if (!blank)
        return false;
    size_t left = (size_t)(blank - text.data), right = text.bytes - left - 1;
    merge->left = (struct ps_text_span){text.data, left};
    merge->right = (struct ps_text_span){blank + 1, right};
    return left && right && !memchr(blank + 1, ' ', right);
}

/* ---- tokenizer.json ------------------------------------------------------------------------- */

struct json_source {
    const json_t *root, *model, *vocab, *merges, *added;
    struct ps_token_parts parts;
    bool blanks;                       /* of a character vocabulary: blanks are replaced */
    char *literal[PS_SPLIT_COUNT_MAX]; /* patterns that were given as plain text, escaped */
    struct ps_error *err;
};

static int format_error(struct json_source *s, const char *what)
{
    return ps_error_set(s->err, -PS_ERR_FORMAT, WHERE_JSON, "%s.", what);
}

static int unsupported(struct json_source *s, const char *kind, const char *name)
{
    return ps_error_set(s->err, -PS_ERR_UNSUPPORTED, WHERE_JSON, "%s \"%.100s\" is not supported.",
                        kind, name ? name : "(unnamed)");
}

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : !object || json_is_null(object) ? "null" : "(unnamed)";
}

/* Absent, null, or an empty string. */
static bool is_blank(const json_t *value)
{
    return !value || json_is_null(value) || (json_is_string(value) && !json_string_length(value));
}

static int read_model(struct json_source *s)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    s->model = json_object_get(s->root, "model");
    s->vocab = json_object_get(s->model, "vocab");
    s->merges = json_object_get(s->model, "merges");
    s->added = json_object_get(s->root, "added_tokens");
    const char *type = json_string_value(json_object_get(s->model, "type"));
    /* Files from before the key existed are told by what they hold. */
    if (type ? strcmp(type, "BPE") != 0 : !s->merges)
        return unsupported(s, "Model type", type);
    if (!json_is_object(s->vocab) || !json_is_array(s->merges))
        return format_error(s, "The model has no vocabulary or no list of merges");
    if (s->added && !json_is_null(s->added) && !json_is_array(s->added))
        return format_error(s, "added_tokens is not a list");
    if (json_is_true(json_object_get(s->model, "byte_fallback")))
        s->parts.flags |= PS_TOKENIZER_CHARACTERS;
    if (json_number_value(json_object_get(s->model, "dropout")) != 0)
        return unsupported(s, "Option", "dropout");
    for (size_t i = 0; i < PS_ARRAY_LEN(affixes); i++)
        if (!is_blank(json_object_get(s->model, affixes[i])))
            return unsupported(s, "Option", affixes[i]);
    if (json_is_true(json_object_get(s->model, "ignore_merges")))
        s->parts.flags |= PS_TOKENIZER_IGNORE_MERGES;
    return 0;
}

static bool text_is(const json_t *value, const char *text)
{
    return json_is_string(value) && !strcmp(json_string_value(value), text);
}

/* A character vocabulary's: Prepend puts the mark before each stretch between added tokens, Replace
 * turns blanks into it. */
static int read_character_step(struct json_source *s, const json_t *step)
{
    const char *type = type_of(step);
    if (!strcmp(type, "Prepend") && text_is(json_object_get(step, "prepend"), BLANK_MARK)) {
        s->parts.flags |= PS_TOKENIZER_PREFIX;
        return 0;
    }
    const json_t *pattern = json_object_get(json_object_get(step, "pattern"), "String");
    if (strcmp(type, "Replace") != 0 || !text_is(pattern, " ") ||
        !text_is(json_object_get(step, "content"), BLANK_MARK))
        return unsupported(s, "Normalizer", type);
    s->blanks = true;
    return 0;
}

static int read_normaliser_step(struct json_source *s, const json_t *step)
{
    if (s->parts.flags & PS_TOKENIZER_CHARACTERS)
        return read_character_step(s, step);
    if (strcmp(type_of(step), "NFC") != 0)
        return unsupported(s, "Normalizer", type_of(step));
    s->parts.flags |= PS_TOKENIZER_NFC;
    return 0;
}

static int read_normaliser(struct json_source *s)
{
    const json_t *normaliser = json_object_get(s->root, "normalizer");
    if (!normaliser || json_is_null(normaliser))
        return 0;
    if (strcmp(type_of(normaliser), "Sequence") != 0)
        return read_normaliser_step(s, normaliser);
    const json_t *list = json_object_get(normaliser, "normalizers");
    for (size_t i = 0; i < json_array_size(list); i++) {
        int rc = read_normaliser_step(s, json_array_get(list, i));
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int add_pattern(struct json_source *s, struct ps_text_span pattern)
{
    if (s->parts.pattern_count == PS_SPLIT_COUNT_MAX)
        return unsupported(s, "Pre-tokenizer", "Sequence of more than 8 steps");
    s->parts.patterns[s->parts.pattern_count++] = pattern;
    return 0;
}

/* Plain text as a regex: every ASCII sign escaped. */
static int add_literal(struct json_source *s, struct ps_text_span text)
{
    if (s->parts.pattern_count == PS_SPLIT_COUNT_MAX)
        return add_pattern(s, text);
    char *escaped = malloc(2 * text.bytes + 1);
    if (!escaped)
        return no_memory(s->err);
    size_t bytes = 0;
    for (size_t i = 0; i < text.bytes; i++) {
        unsigned char c = (unsigned char)text.data[i];
        bool sign =
            c > ' ' && c < 0x7F && !((c | 32) >= 'a' && (c | 32) <= 'z') && !(c >= '0' && c <= '9');
        if (sign)
            escaped[bytes++] = '\\';
        escaped[bytes++] = (char)c;
    }
    s->literal[s->parts.pattern_count] = escaped;
    return add_pattern(s, (struct ps_text_span){escaped, bytes});
}

static int read_split(struct json_source *s, const json_t *step)
{
    const json_t *pattern = json_object_get(step, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *literal = json_object_get(pattern, "String");
    const char *behaviour = json_string_value(json_object_get(step, "behavior"));
    /* Isolated keeps matches and what is between them alike, so "invert" changes nothing. */
    if (!behaviour || strcmp(behaviour, "Isolated") != 0)
        return unsupported(s, "Split behaviour", behaviour);
    if (json_is_string(regex))
        return add_pattern(s, json_span(regex));
    if (json_is_string(literal))
        return add_literal(s, json_span(literal));
    return format_error(s, "A Split pre-tokenizer has no pattern");
}

static int read_byte_level(struct json_source *s, const json_t *step)
{
    if (json_is_true(json_object_get(step, "add_prefix_space")))
        return unsupported(s, "Option", "add_prefix_space");
    if (json_is_false(json_object_get(step, "use_regex")))
        return 0;
    const char *pattern = ps_split_pattern("gpt2");
    return add_pattern(s, (struct ps_text_span){pattern, strlen(pattern)});
}

/* Of a character vocabulary: none, or Metaspace, which replaces blanks and prefixes in one. */
static int read_metaspace(struct json_source *s, const json_t *pre)
{
    bool metaspace = !strcmp(type_of(pre), "Metaspace");
    if (!metaspace && pre && !json_is_null(pre))
        return unsupported(s, "With the option byte_fallback, pre-tokenizer", type_of(pre));
    if (!metaspace)
        return s->blanks ? 0 : unsupported(s, "Option byte_fallback without", "Metaspace");
    if (s->parts.flags & PS_TOKENIZER_PREFIX)
        return unsupported(s, "Metaspace after normalizer", "Prepend");
    if (!text_is(json_object_get(pre, "replacement"), BLANK_MARK) ||
        !json_is_false(json_object_get(pre, "split")))
        return unsupported(s, "Pre-tokenizer", "Metaspace that splits or replaces otherwise");
    const json_t *scheme = json_object_get(pre, "prepend_scheme");
    if (text_is(scheme, "first"))
        s->parts.flags |= PS_TOKENIZER_PREFIX_FIRST;
    else if (scheme && !text_is(scheme, "always") && !text_is(scheme, "never"))
        return unsupported(s, "Metaspace prepend_scheme", json_string_value(scheme));
    if (!text_is(scheme, "never"))
        s->parts.flags |= PS_TOKENIZER_PREFIX | PS_TOKENIZER_PREFIX_ONCE;
    return 0;
}

/* Split steps, then ByteLevel as the last: after it text is in another alphabet. */
static int read_pre_tokenizer(struct json_source *s)
{
    const json_t *pre = json_object_get(s->root, "pre_tokenizer");
    if (s->parts.flags & PS_TOKENIZER_CHARACTERS)
        return read_metaspace(s, pre);
    const json_t *list = NULL;
    size_t count = 1;
    if (!strcmp(type_of(pre), "Sequence")) {
        list = json_object_get(pre, "pretokenizers");
        count = json_array_size(list);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *step = list ? json_array_get(list, i) : pre;
        bool last = i + 1 == count;
        int rc;
        if (last && !strcmp(type_of(step), "ByteLevel"))
            return read_byte_level(s, step);
        if (last || strcmp(type_of(step), "Split") != 0)
            return unsupported(s, "Pre-tokenizer", type_of(step));
        if ((rc = read_split(s, step)) < 0)
            return rc;
    }
    return unsupported(s, "Pre-tokenizer", "Sequence without steps");
}

/* A character vocabulary's steps undo what encoding did; any other says that more was done. */
static int read_character_decoder(struct json_source *s, const json_t *decoder)
{
    static const char *const known[] = {"Replace", "ByteFallback", "Fuse",
                                        "Strip",   "Metaspace",    "null"};
    bool sequence = !strcmp(type_of(decoder), "Sequence");
    const json_t *list = json_object_get(decoder, "decoders");
    for (size_t i = 0; i < (sequence ? json_array_size(list) : 1); i++) {
        const char *type = type_of(sequence ? json_array_get(list, i) : decoder);
        bool found = false;
        for (size_t k = 0; k < PS_ARRAY_LEN(known); k++)
            found |= !strcmp(type, known[k]);
        if (!found)
            return unsupported(s, "Decoder", type);
    }
    return 0;
}

/* The template of a character vocabulary: at most one token, before the text. */
static int read_template(struct json_source *s)
{
    const json_t *post = json_object_get(s->root, "post_processor");
    if (!(s->parts.flags & PS_TOKENIZER_CHARACTERS) || !post || json_is_null(post))
        return 0;
    if (strcmp(type_of(post), "TemplateProcessing") != 0)
        return unsupported(s, "Post-processor", type_of(post));
    const json_t *single = json_object_get(post, "single");
    size_t count = json_array_size(single);
    const json_t *first = json_object_get(json_array_get(single, 0), "SpecialToken");
    if (!count || count > 2 || !first != (count == 1) ||
        !json_object_get(json_array_get(single, count - 1), "Sequence"))
        return unsupported(s, "Post-processor", "TemplateProcessing with more than one token");
    if (!first)
        return 0;
    const char *name = json_string_value(json_object_get(first, "id"));
    const json_t *tokens = json_object_get(post, "special_tokens");
    const json_t *ids = json_object_get(json_object_get(tokens, name ? name : ""), "ids");
    const json_t *id = json_array_get(ids, 0);
    if (json_array_size(ids) != 1 || !json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= s->parts.token_count)
        return format_error(s, "The post-processor's token has no id in the vocabulary");
    s->parts.flags |= PS_TOKENIZER_BOS;
    s->parts.bos = (uint32_t)json_integer_value(id);
    return 0;
}

static int read_decoder(struct json_source *s)
{
    const json_t *decoder = json_object_get(s->root, "decoder");
    if (s->parts.flags & PS_TOKENIZER_CHARACTERS)
        return read_character_decoder(s, decoder);
    if (decoder && !json_is_null(decoder) && strcmp(type_of(decoder), "ByteLevel") != 0)
        return unsupported(s, "Decoder", type_of(decoder));
    return 0;
}

/* The id in a token's entry, checked; `most` entries there are, so ids far above them are absurd.
 */
static int read_id(struct json_source *s, const json_t *value, uint64_t most, uint32_t *id)
{
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || (uint64_t)number >= most)
        return format_error(s, "A token's id is not a number, or far above the number of tokens");
    *id = (uint32_t)number;
    if (*id >= s->parts.token_count)
        s->parts.token_count = *id + 1;
    return 0;
}

static int read_vocab(struct json_source *s, uint64_t most)
{
    for (void *it = json_object_iter((json_t *)s->vocab); it;
         it = json_object_iter_next((json_t *)s->vocab, it)) {
        uint32_t id = 0;
        int rc = read_id(s, json_object_iter_value(it), most, &id);
        if (rc < 0)
            return rc;
        struct ps_token_part *token = &s->parts.tokens[id];
        const char *key = json_object_iter_key(it);
        if (token->kind)
            return ps_error_set(s->err, -PS_ERR_FORMAT, WHERE_JSON,
                                "Two tokens of the vocabulary have id %u.", id);
        *token = (struct ps_token_part){{key, json_object_iter_key_len(it)}, PS_TOKEN_NORMAL};
    }
    return 0;
}

static int read_added_token(struct json_source *s, const json_t *entry, uint64_t most)
{
    static const char *const options[] = {"single_word", "lstrip", "rstrip"};
    const json_t *content = json_object_get(entry, "content");
    uint32_t id = 0;
    if (!json_is_string(content))
        return format_error(s, "An entry of added_tokens has no content");
    for (size_t i = 0; i < PS_ARRAY_LEN(options); i++)
        if (json_is_true(json_object_get(entry, options[i])))
            return unsupported(s, "Added-token option", options[i]);
    if ((s->parts.flags & PS_TOKENIZER_CHARACTERS) &&
        json_is_true(json_object_get(entry, "normalized")))
        return unsupported(s, "With byte_fallback, added-token option", "normalized");
    int rc = read_id(s, json_object_get(entry, "id"), most, &id);
    if (rc < 0)
        return rc;
    struct ps_text_span text = json_span(content);
    struct ps_token_part *token = &s->parts.tokens[id];
    const json_t *known = json_object_get(s->vocab, text.data);
    bool same = token->surface.bytes == text.bytes &&
                (!text.bytes || !memcmp(token->surface.data, text.data, text.bytes));
    if ((token->kind && !same) || (known && json_integer_value(known) != (json_int_t)id))
        return ps_error_set(s->err, -PS_ERR_FORMAT, WHERE_JSON,
                            "Added token %u \"%.80s\" contradicts the vocabulary.", id, text.data);
    token->surface = text;
    token->kind |= PS_TOKEN_ADDED;
    if (json_is_true(json_object_get(entry, "special")))
        token->kind |= PS_TOKEN_SPECIAL;
    if (json_is_true(json_object_get(entry, "normalized")))
        token->kind |= PS_TOKEN_NORMALISED;
    return 0;
}

static int read_merges(struct json_source *s)
{
    size_t count = json_array_size(s->merges);
    for (size_t i = 0; i < count; i++) {
        const json_t *entry = json_array_get(s->merges, i);
        struct ps_merge_part *merge = &s->parts.merges[i];
        const json_t *left = json_array_get(entry, 0), *right = json_array_get(entry, 1);
        bool good = false;
        if (json_is_string(entry)) {
            good = split_merge(json_span(entry), merge);
        } else if (json_array_size(entry) == 2 && json_is_string(left) && json_is_string(right)) {
            *merge = (struct ps_merge_part){json_span(left), json_span(right)};
            good = true;
        }
        if (!good)
            return ps_error_set(s->err, -PS_ERR_FORMAT, WHERE_JSON,
                                "Merge %zu is not a pair of tokens.", i);
    }
    return 0;
}

static int read_tokens(struct json_source *s)
{
    uint64_t entries = json_object_size(s->vocab) + json_array_size(s->added);
    uint64_t merges = json_array_size(s->merges), most = 2 * entries + 4096;
    if (most > PS_TOKEN_COUNT_MAX || merges > PS_MERGE_COUNT_MAX)
        return unsupported(s, "Vocabulary", "of millions of tokens");
    s->parts.tokens = calloc(most, sizeof(*s->parts.tokens));
    s->parts.merges = calloc(merges + 1, sizeof(*s->parts.merges));
    if (!s->parts.tokens || !s->parts.merges)
        return no_memory(s->err);
    s->parts.merge_count = (uint32_t)merges;
    int rc = read_vocab(s, most);
    for (size_t i = 0; i < json_array_size(s->added) && rc >= 0; i++)
        rc = read_added_token(s, json_array_get(s->added, i), most);
    return rc < 0 ? rc : read_merges(s);
}

int ps_tokenizer_build_json(const char *json, size_t json_bytes, void **blob, size_t *blob_bytes,
                            struct ps_error *err)
{
    json_error_t json_error;
    struct json_source s = {.parts.where = WHERE_JSON, .err = err};
    json_t *root = json_loadb(json, json_bytes, 0, &json_error);
    if (!root)
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE_JSON, "It is not valid JSON: %s (line %d).",
                            json_error.text, json_error.line);
    s.root = root;
    int rc = read_model(&s);
    if (rc >= 0)
        rc = read_normaliser(&s);
    if (rc >= 0)
        rc = read_pre_tokenizer(&s);
    if (rc >= 0)
        rc = read_decoder(&s);
    if (rc >= 0)
        rc = read_tokens(&s);
    if (rc >= 0)
        rc = read_template(&s);
    if (rc >= 0)
        rc = ps_token_blob_build(&s.parts, blob, blob_bytes, err);
    parts_free(&s.parts);
    for (size_t i = 0; i < PS_ARRAY_LEN(s.literal); i++)
        free(s.literal[i]);
    json_decref(root);
    return rc;
}

/* ---- GGUF ----------------------------------------------------------------------------------- */

enum gguf_token_type {
    GGUF_NORMAL = 1,
    GGUF_UNKNOWN = 2,
    GGUF_CONTROL = 3,
    GGUF_USER_DEFINED = 4,
    GGUF_UNUSED = 5,
    GGUF_BYTE = 6
};

static struct ps_text_span gguf_span(struct ps_gguf_string string)
{
    return (struct ps_text_span){string.data, string.bytes};
}

static bool gguf_is(struct ps_gguf_string string, const char *text)
{
    return string.bytes == strlen(text) && !memcmp(string.data, text, string.bytes);
}

/* "llama": merges by score, the blank before each stretch of text, the BOS token. */
static int gguf_characters(const struct ps_tokenizer_gguf *source, struct ps_token_parts *parts,
                           struct ps_error *err)
{
    if (!source->scores)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, WHERE_GGUF,
                            "tokenizer.ggml.model is \"llama\", but there are no scores.");
    if (source->add_bos && source->bos >= source->token_count)
        return ps_error_set(err, -PS_ERR_FORMAT, WHERE_GGUF,
                            "The BOS token %u is outside the vocabulary.", source->bos);
    for (uint64_t i = 0; i < source->token_count; i++)
        if (isnan(source->scores[i]))
            return ps_error_set(err, -PS_ERR_FORMAT, WHERE_GGUF,
                                "The score of token %llu is not a number.", (unsigned long long)i);
    parts->scores = source->scores;
    parts->flags = PS_TOKENIZER_CHARACTERS | PS_TOKENIZER_SCORES;
    if (source->add_space_prefix)
        parts->flags |= PS_TOKENIZER_PREFIX;
    if (source->add_bos) {
        parts->flags |= PS_TOKENIZER_BOS;
        parts->bos = source->bos;
    }
    return 0;
}

static int gguf_head(const struct ps_tokenizer_gguf *source, struct ps_token_parts *parts,
                     struct ps_error *err)
{
    /* The file does not say what is done to text before; most of these models' own tokenizers bring
     * it to NFC. "olmo" and "dbrx" are those of OLMoE, of its first release and of the later ones.
     */
    static const struct {
        const char *pre, *pattern;
        uint32_t flags;
    } known[] = {
        {"qwen35", "qwen35", PS_TOKENIZER_NFC},
        {"qwen2", "qwen2", PS_TOKENIZER_NFC},
        {"olmo", "gpt2", PS_TOKENIZER_NFC},
        {"dbrx", "dbrx", 0},
    };
    if (gguf_is(source->model, "llama"))
        return gguf_characters(source, parts, err);
    if (!gguf_is(source->model, "gpt2"))
        return ps_error_set(
            err, -PS_ERR_UNSUPPORTED, WHERE_GGUF,
            "tokenizer.ggml.model \"%.*s\" is not supported; \"gpt2\" and \"llama\" are.",
            (int)ps_min_u64(source->model.bytes, 64), source->model.data);
    for (size_t i = 0; i < PS_ARRAY_LEN(known); i++) {
        if (!gguf_is(source->pre, known[i].pre))
            continue;
        const char *pattern = ps_split_pattern(known[i].pattern);
        parts->patterns[0] = (struct ps_text_span){pattern, strlen(pattern)};
        parts->pattern_count = 1;
        parts->flags = known[i].flags;
        return 0;
    }
    return ps_error_set(
        err, -PS_ERR_UNSUPPORTED, WHERE_GGUF,
        "tokenizer.ggml.pre \"%.*s\" is not supported; these are: qwen35, qwen2, olmo, "
        "dbrx.",
        (int)ps_min_u64(source->pre.bytes, 64), source->pre.data);
}

static int gguf_token(const struct ps_tokenizer_gguf *source, uint32_t id, bool characters,
                      struct ps_token_part *token, struct ps_error *err)
{
    int32_t type = source->types ? source->types[id] : GGUF_NORMAL;
    token->surface = gguf_span(source->tokens[id]);
    if (characters && type == GGUF_UNKNOWN)
        type = GGUF_CONTROL;
    if (characters && type == GGUF_BYTE) /* told by its spelling, as in the other source */
        type = GGUF_NORMAL;
    switch (type) {
    case GGUF_NORMAL:
        token->kind = PS_TOKEN_NORMAL;
        return 0;
    case GGUF_CONTROL:
        token->kind = PS_TOKEN_ADDED | PS_TOKEN_SPECIAL;
        return 0;
    case GGUF_USER_DEFINED:
        token->kind = PS_TOKEN_ADDED;
        return 0;
    case GGUF_UNUSED: /* a row of the embedding that no text leads to */
        *token = (struct ps_token_part){{"", 0}, 0};
        return 0;
    default:
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, WHERE_GGUF,
                            "Token %u has type %d, which %s BPE does not have.", id, type,
                            characters ? "character" : "byte-level");
    }
}

static int gguf_lists(const struct ps_tokenizer_gguf *source, struct ps_token_parts *parts,
                      struct ps_error *err)
{
    if (source->token_count > PS_TOKEN_COUNT_MAX || source->merge_count > PS_MERGE_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, WHERE_GGUF,
                            "It has %llu tokens and %llu merges, more than is supported.",
                            (unsigned long long)source->token_count,
                            (unsigned long long)source->merge_count);
    parts->token_count = (uint32_t)source->token_count;
    bool characters = parts->flags & PS_TOKENIZER_CHARACTERS;
    parts->merge_count = characters ? 0 : (uint32_t)source->merge_count;
    parts->tokens = calloc(parts->token_count + 1ull, sizeof(*parts->tokens));
    parts->merges = calloc(parts->merge_count + 1ull, sizeof(*parts->merges));
    if (!parts->tokens || !parts->merges)
        return no_memory(err);
    for (uint32_t id = 0; id < parts->token_count; id++) {
        int rc = gguf_token(source, id, characters, &parts->tokens[id], err);
        if (rc < 0)
            return rc;
    }
    for (uint32_t i = 0; i < parts->merge_count; i++)
        if (!split_merge(gguf_span(source->merges[i]), &parts->merges[i]))
            return ps_error_set(err, -PS_ERR_FORMAT, WHERE_GGUF,
                                "Merge %u is not a pair of tokens.", i);
    return 0;
}

int ps_tokenizer_build_gguf(const struct ps_tokenizer_gguf *source, void **blob, size_t *blob_bytes,
                            struct ps_error *err)
{
    struct ps_token_parts parts = {.where = WHERE_GGUF};
    int rc = gguf_head(source, &parts, err);
    if (rc >= 0)
        rc = gguf_lists(source, &parts, err);
    if (rc >= 0)
        rc = ps_token_blob_build(&parts, blob, blob_bytes, err);
    parts_free(&parts);
    return rc;
}
