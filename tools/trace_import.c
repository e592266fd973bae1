/*
 * Traces of other projects. All of them are text with a token's experts in some order; every pair
 * of token and expert becomes an entry, the entries are sorted, and the layers and the most experts
 * of a layer are what was seen.
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tools/tool.h"
#include "tools/tracing.h"

#define LAYER_COUNT_MAX 512
#define EXPERT_COUNT_MAX 4096
#define COLUMN_COUNT_MAX 32

struct entry {
    uint64_t token; /* ascending with the tokens, not without gaps */
    uint32_t line, order;
    uint16_t layer, expert;
    float weight;
};

struct source {
    const char *name;
    struct entry *entries;
    size_t count, room;
    uint64_t line;
    bool has_weights;
    uint32_t expert_count;                  /* as the file says; 0: it does not */
    uint64_t expert_bytes[LAYER_COUNT_MAX]; /* by the model's layer */
    char model[PS_TRACE_MODEL_BYTES];
    int columns[COLUMN_COUNT_MAX]; /* of the CSV form: what each is */
    int column_count;
};

int tool_trace_form_find(const char *name)
{
    static const char *const names[] = {
        [TOOL_TRACE_PAIRS] = "pairs", [TOOL_TRACE_LAYERS] = "layers", [TOOL_TRACE_CSV] = "csv"};

    for (size_t i = TOOL_TRACE_PAIRS; i < PS_ARRAY_LEN(names); i++)
        if (strcmp(names[i], name) == 0)
            return (int)i;
    return -1;
}

static int line_fails(const struct source *source, struct ps_error *err, const char *text)
{
    return ps_error_set(err, -PS_ERR_FORMAT, source->name, "line %llu %s",
                        (unsigned long long)source->line, text);
}

static int entry_add(struct source *source, const struct entry *entry, struct ps_error *err)
{
    if (source->count == source->room) {
        size_t room = source->room * 2 + 4096;
        struct entry *grown = realloc(source->entries, room * sizeof(*grown));
        if (grown == NULL)
            return ps_error_set(err, -ENOMEM, source->name, "does not fit into memory");
        source->entries = grown;
        source->room = room;
    }
    source->entries[source->count] = *entry;
    source->entries[source->count++].line = (uint32_t)source->line;
    return 0;
}

/* ---- JSON lines -------------------------------------------------------------------------------
 */

static bool index_get(const json_t *json, json_int_t end, uint16_t *value)
{
    if (!json_is_integer(json) || json_integer_value(json) < 0 || json_integer_value(json) >= end)
        return false;
    *value = (uint16_t)json_integer_value(json);
    return true;
}

/* [[layer, expert], ...] */
static int pairs_take(struct source *source, const json_t *line, struct ps_error *err)
{
    struct entry entry = {.token = source->line};
    size_t i;
    json_t *pair;

    if (json_array_size(line) == 0)
        return line_fails(source, err, "is no array of [layer, expert], or an empty one");
    json_array_foreach(line, i, pair)
    {
        if (json_array_size(pair) != 2 ||
            !index_get(json_array_get(pair, 0), LAYER_COUNT_MAX, &entry.layer) ||
            !index_get(json_array_get(pair, 1), EXPERT_COUNT_MAX, &entry.expert))
            return line_fails(source, err,
                              "holds what is no [layer, expert] with a layer below 512 and an "
                              "expert below 4096");
        entry.order = (uint32_t)i;
        int rc = entry_add(source, &entry, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* {"layers": [[expert, ...], ...]}, one list for each layer. */
static int layers_take(struct source *source, const json_t *line, struct ps_error *err)
{
    const json_t *layers = json_object_get(line, "layers");
    struct entry entry = {.token = source->line};
    size_t l, i, count = source->count;
    json_t *experts, *expert;

    if (!json_is_array(layers) || json_array_size(layers) > LAYER_COUNT_MAX)
        return line_fails(source, err, "has no \"layers\" with a list for each of at most 512");
    json_array_foreach(layers, l, experts)
    {
        if (!json_is_array(experts))
            return line_fails(source, err, "has a layer that is no list of experts");
        json_array_foreach(experts, i, expert)
        {
            if (!index_get(expert, EXPERT_COUNT_MAX, &entry.expert))
                return line_fails(source, err, "names an expert that is no number below 4096");
            entry.layer = (uint16_t)l;
            entry.order = (uint32_t)i;
            int rc = entry_add(source, &entry, err);
            if (rc < 0)
                return rc;
        }
    }
    /* Left out, it would make those before and behind it neighbours. */
    return source->count > count ? 0 : line_fails(source, err, "has a token that chose no experts");
}

typedef int line_fn(struct source *source, const json_t *line, struct ps_error *err);

static int json_take(struct source *source, const char *line, size_t bytes, line_fn *take,
                     struct ps_error *err)
{
    json_t *json = json_loadb(line, bytes, 0, NULL);

    if (json == NULL)
        return line_fails(source, err, "is not JSON, or was cut off");
    int rc = take(source, json, err);
    json_decref(json);
    return rc;
}

/* ---- CSV --------------------------------------------------------------------------------------
 */

enum column { TURN, PHASE, STEP, LAYER, SLOT, EXPERT, WEIGHT, COLUMN_COUNT };
static const char *const column_names[] = {"turn", "phase",  "step",  "layer",
                                           "slot", "expert", "weight"};

/* The next field of a line, which is cut there; NULL behind the last. */
static char *field_next(char **line)
{
    char *field = *line;

    if (field == NULL)
        return NULL;
    char *end = strchr(field, ',');
    *line = end != NULL ? end + 1 : NULL;
    if (end != NULL)
        *end = '\0';
    return field;
}

static int columns_take(struct source *source, char *line, struct ps_error *err)
{
    bool there[COLUMN_COUNT] = {false};

    for (char *field; (field = field_next(&line)) != NULL; source->column_count++) {
        if (source->column_count == COLUMN_COUNT_MAX)
            return line_fails(source, err, "has more than 32 columns");
        source->columns[source->column_count] = -1;
        for (int c = 0; c < COLUMN_COUNT; c++) {
            if (strcmp(field, column_names[c]) != 0 || there[c])
                continue;
            source->columns[source->column_count] = c;
            there[c] = true;
        }
    }
    if (there[LAYER] && there[EXPERT] && !there[STEP])
        return ps_error_set(err, -PS_ERR_FORMAT, source->name,
                            "says how often experts were chosen, and not by which token: that is "
                            "no trace");
    if (!there[LAYER] || !there[EXPERT])
        return line_fails(source, err, "does not name the columns step, layer and expert");
    source->has_weights = there[WEIGHT];
    return 0;
}

static bool number_get(const char *text, uint64_t end, uint64_t *value)
{
    char *rest;

    errno = 0;
    *value = strtoull(text, &rest, 10);
    return isdigit((unsigned char)*text) && *rest == '\0' && errno == 0 && *value < end;
}

static bool weight_get(const char *text, float *value)
{
    char *rest;

    *value = strtof(text, &rest);
    return rest != text && *rest == '\0' && isfinite(*value);
}

static int csv_take(struct source *source, char *line, struct ps_error *err)
{
    static const uint64_t ends[COLUMN_COUNT] = {
        1u << 16, 1u << 8, UINT64_C(1) << 40, LAYER_COUNT_MAX, UINT32_MAX, EXPERT_COUNT_MAX, 0};
    uint64_t values[COLUMN_COUNT] = {0};
    struct entry entry = {.weight = 0};

    if (source->column_count == 0)
        return columns_take(source, line, err);
    for (int i = 0; i < source->column_count; i++) {
        const char *field = field_next(&line);
        int c = source->columns[i];
        if (field == NULL)
            return line_fails(source, err, "has fewer fields than there are columns");
        if (c >= 0 && !(c == WEIGHT ? weight_get(field, &entry.weight)
                                    : number_get(field, ends[c], &values[c]))) {
            char text[96];
            snprintf(text, sizeof(text), "holds no %s, or one too large", column_names[c]);
            return line_fails(source, err, text);
        }
    }
    if (line != NULL)
        return line_fails(source, err, "has more fields than there are columns");
    entry.token = values[TURN] << 48 | values[PHASE] << 40 | values[STEP];
    entry.order = (uint32_t)values[SLOT];
    entry.layer = (uint16_t)values[LAYER];
    entry.expert = (uint16_t)values[EXPERT];
    return entry_add(source, &entry, err);
}

/* "# model=PATH n_expert=128", "# layer=3 expert_bytes=4336640": what is not known is passed over.
 */
static void comment_take(struct source *source, char *line)
{
    uint64_t layer = LAYER_COUNT_MAX, value;
    char *rest = NULL;

    for (char *word = strtok_r(line, " \t", &rest); word != NULL;
         word = strtok_r(NULL, " \t", &rest)) {
        char *equals = strchr(word, '=');
        if (equals == NULL)
            continue;
        *equals = '\0';
        if (strcmp(word, "model") == 0) {
            const char *slash = strrchr(equals + 1, '/');
            snprintf(source->model, sizeof(source->model), "%s",
                     slash != NULL ? slash + 1 : equals + 1);
        } else if (strcmp(word, "n_expert") == 0 &&
                   number_get(equals + 1, EXPERT_COUNT_MAX + 1, &value)) {
            source->expert_count = (uint32_t)value;
        } else if (strcmp(word, "layer") == 0) {
            number_get(equals + 1, UINT64_MAX, &layer);
        } else if (strcmp(word, "expert_bytes") == 0 && layer < LAYER_COUNT_MAX &&
                   number_get(equals + 1, UINT64_MAX, &value)) {
            source->expert_bytes[layer] = value;
        }
    }
}

/* ---- the whole file ---------------------------------------------------------------------------
 */

static int form_guess(const struct source *source, const char *text, size_t bytes,
                      enum tool_trace_form *form, struct ps_error *err)
{
    size_t at = 0;

    if (bytes >= 2 && (uint8_t)text[0] == 0x1f && (uint8_t)text[1] == 0x8b)
        return ps_error_set(err, -PS_ERR_FORMAT, source->name,
                            "is compressed: give it as gzip -dc FILE | penstock trace --import -");
    if (*form != TOOL_TRACE_AUTO)
        return 0;
    while (at < bytes && isspace((unsigned char)text[at]))
        at++;
    if (at < bytes && text[at] == '[')
        *form = TOOL_TRACE_PAIRS;
    else if (at < bytes && text[at] == '{')
        *form = TOOL_TRACE_LAYERS;
    else if (at < bytes && (text[at] == '#' || isalpha((unsigned char)text[at])))
        *form = TOOL_TRACE_CSV;
    else
        return ps_error_set(err, -PS_ERR_FORMAT, source->name,
                            "looks like none of the traces that can be imported");
    return 0;
}

static int line_take(struct source *source, char *line, size_t bytes, enum tool_trace_form form,
                     struct ps_error *err)
{
    if (memchr(line, 0, bytes) != NULL)
        return line_fails(source, err, "holds a zero byte");
    if (bytes > 0 && line[bytes - 1] == '\r')
        line[--bytes] = '\0';
    if (strspn(line, " \t") == bytes)
        return 0;
    if (form == TOOL_TRACE_PAIRS)
        return json_take(source, line, bytes, pairs_take, err);
    if (form == TOOL_TRACE_LAYERS)
        return json_take(source, line, bytes, layers_take, err);
    if (*line != '#')
        return csv_take(source, line, err);
    comment_take(source, line);
    return 0;
}

static int text_take(struct source *source, char *text, size_t bytes, enum tool_trace_form form,
                     struct ps_error *err)
{
    int rc = form_guess(source, text, bytes, &form, err);

    for (char *line = text, *end; rc == 0 && line < text + bytes; line = end + 1) {
        end = memchr(line, '\n', (size_t)(text + bytes - line));
        end = end != NULL ? end : text + bytes;
        *end = '\0';
        if (++source->line == UINT32_MAX)
            return line_fails(source, err, "is one too many");
        rc = line_take(source, line, (size_t)(end - line), form, err);
    }
    if (rc == 0 && source->count == 0)
        rc = ps_error_set(err, -PS_ERR_FORMAT, source->name, "holds no tokens");
    return rc;
}

static int entry_compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    if (x->token != y->token)
        return x->token < y->token ? -1 : 1;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    return x->line < y->line ? -1 : x->line > y->line;
}

/* Entries of the same token and layer from `begin` on: where they end. */
static size_t group_end(const struct source *source, size_t begin)
{
    const struct entry *first = &source->entries[begin];
    size_t end = begin;

    while (end < source->count && source->entries[end].token == first->token &&
           source->entries[end].layer == first->layer)
        end++;
    return end;
}

static int group_check(struct source *source, size_t begin, size_t end,
                       const struct ps_trace_info *info, struct ps_error *err)
{
    for (size_t i = begin; i < end; i++) {
        const struct entry *entry = &source->entries[i];
        source->line = entry->line;
        if (entry->expert >= info->expert_count)
            return line_fails(source, err, "names an expert that the model does not have");
        for (size_t j = begin; j < i; j++)
            if (source->entries[j].expert == entry->expert)
                return line_fails(source, err, "has one expert twice in a layer of a token");
    }
    return 0;
}

/* Sorts the entries, and fills info with what they are of. */
static int source_measure(struct source *source, struct ps_trace_info *info, uint32_t *layers,
                          uint64_t *expert_bytes, struct ps_error *err)
{
    bool there[LAYER_COUNT_MAX] = {false};
    uint32_t highest = 0;

    for (size_t i = 0; i < source->count; i++) {
        there[source->entries[i].layer] = true;
        highest = source->entries[i].expert > highest ? source->entries[i].expert : highest;
    }
    if (info->expert_count == 0)
        info->expert_count = source->expert_count > 0 ? source->expert_count : highest + 1;
    for (uint32_t l = 0; l < LAYER_COUNT_MAX; l++) {
        if (!there[l])
            continue;
        layers[info->layer_count] = l;
        expert_bytes[info->layer_count++] = source->expert_bytes[l];
    }
    qsort(source->entries, source->count, sizeof(*source->entries), entry_compare);
    for (size_t begin = 0, end; begin < source->count; begin = end) {
        end = group_end(source, begin);
        info->token_count +=
            begin == 0 || source->entries[begin].token != source->entries[begin - 1].token;
        info->experts_used = (uint32_t)ps_max_u64(info->experts_used, end - begin);
        int rc = group_check(source, begin, end, info, err);
        if (rc < 0)
            return rc;
    }
    info->has_weights = source->has_weights;
    info->layers = layers;
    info->expert_bytes = expert_bytes;
    return 0;
}

static int tokens_write(const struct source *source, const struct ps_trace_info *info,
                        struct ps_trace_writer *writer, struct ps_error *err)
{
    size_t slots = (size_t)info->layer_count * info->experts_used;
    uint16_t *experts = malloc(slots * sizeof(*experts));
    float *weights = malloc(slots * sizeof(*weights));
    struct ps_trace_token token = {PS_TRACE_NO_TOKEN, true, experts, weights, NULL, NULL, NULL};
    int rc = experts != NULL && weights != NULL ? 0 : -ENOMEM;

    if (rc < 0)
        ps_error_set(err, rc, source->name, "not enough memory for a token");
    for (size_t i = 0; rc == 0 && i < source->count;) {
        uint64_t now = source->entries[i].token;
        size_t layer = 0, slot = 0;
        memset(experts, 0xff, slots * sizeof(*experts));
        memset(weights, 0, slots * sizeof(*weights));
        for (; i < source->count && source->entries[i].token == now; i++, slot++) {
            while (info->layers[layer] != source->entries[i].layer) {
                layer++;
                slot = 0;
            }
            experts[layer * info->experts_used + slot] = source->entries[i].expert;
            weights[layer * info->experts_used + slot] = source->entries[i].weight;
        }
        rc = ps_trace_writer_add(writer, &token, err);
        token.begins = false;
    }
    free(experts);
    free(weights);
    return rc;
}

static int source_write(const struct source *source, const struct ps_trace_info *info,
                        const char *path, struct ps_error *err)
{
    struct ps_trace_writer *writer = NULL;
    struct tool_output out;
    int rc = tool_output_open(&out, path, err);

    if (rc < 0)
        return rc;
    rc = ps_trace_writer_open(&writer, out.file, path, info, err);
    if (rc == 0)
        rc = tokens_write(source, info, writer, err);
    if (rc == 0)
        rc = ps_trace_writer_finish(writer, err);
    ps_trace_writer_close(&writer);
    if (rc == 0)
        return tool_output_commit(&out, err);
    tool_output_abandon(&out);
    return rc;
}

int tool_trace_import(const struct tool_import_options *options, struct ps_trace_info *info,
                      struct ps_error *err)
{
    struct source *source = calloc(1, sizeof(*source));
    uint32_t layers[LAYER_COUNT_MAX];
    uint64_t expert_bytes[LAYER_COUNT_MAX];
    char *text = NULL;
    size_t bytes;

    if (source == NULL)
        return ps_error_set(err, -ENOMEM, options->file, "not enough memory to import it");
    source->name = strcmp(options->file, "-") == 0 ? "standard input" : options->file;
    for (size_t l = 0; l < LAYER_COUNT_MAX; l++)
        source->expert_bytes[l] = options->expert_bytes;
    *info = (struct ps_trace_info){.expert_count = options->expert_count};
    int rc = tool_text_read(options->file, &text, &bytes, err);
    if (rc == 0)
        rc = text_take(source, text, bytes, options->form, err);
    if (rc == 0)
        rc = source_measure(source, info, layers, expert_bytes, err);
    if (rc == 0) {
        snprintf(info->model, sizeof(info->model), "%s",
                 options->model != NULL ? options->model : source->model);
        rc = source_write(source, info, options->out, err);
    }
    info->layers = NULL;
    info->expert_bytes = NULL;
    free(text);
    free(source->entries);
    free(source);
    return rc;
}
