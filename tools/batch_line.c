/* One line of a batch's input: the field names are those of the OpenAI completions, chat and batch
 * APIs (platform.openai.com/docs/api-reference). */
#include "tools/batch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

#define SEED_MAX 9007199254740992.0 /* 2^53: beyond, numbers of JSON are not exact */

/* A field that a request may have, and what it may be. */
struct number_field {
    const char *name;
    double min, max;
    bool is_whole;
};

static int number_get(const json_t *object, const struct number_field *field, double *value,
                      struct ps_error *err)
{
    const json_t *json = json_object_get(object, field->name);

    if (json == NULL || json_is_null(json))
        return 0;
    double number = json_number_value(json);
    if (!(field->is_whole ? json_is_integer(json) : json_is_number(json)) || number < field->min ||
        number > field->max)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                            field->is_whole ? "\"%s\" is not a whole number from %.0f to %.0f"
                                            : "\"%s\" is not a number from %g to %g",
                            field->name, field->min, field->max);
    *value = number;
    return 1;
}

static int sampling_get(const json_t *object, struct batch_request *request, struct ps_error *err)
{
    static const struct number_field temperature = {"temperature", 0, 100, false},
                                     top_p = {"top_p", 0, 1, false}, min_p = {"min_p", 0, 1, false},
                                     penalty = {"repeat_penalty", 0.01, 100, false},
                                     top_k = {"top_k", 0, INT32_MAX, true},
                                     seed = {"seed", 0, SEED_MAX, true};
    struct ps_sampling *s = &request->sampling;
    struct {
        const struct number_field *field;
        float *value;
    } reals[] = {{&temperature, &s->temperature},
                 {&top_p, &s->top_p},
                 {&min_p, &s->min_p},
                 {&penalty, &s->repeat_penalty}};
    double value;
    int rc;

    for (size_t i = 0; i < PS_ARRAY_LEN(reals); i++) {
        rc = number_get(object, reals[i].field, &value, err);
        if (rc < 0)
            return rc;
        if (rc > 0)
            *reals[i].value = (float)value;
    }
    rc = number_get(object, &top_k, &value, err);
    if (rc < 0)
        return rc;
    if (rc > 0)
        s->top_k = (int)value;
    rc = number_get(object, &seed, &value, err);
    if (rc > 0) {
        s->seed = (uint64_t)value;
        request->has_seed = true;
    }
    return rc < 0 ? rc : 0;
}

static int max_tokens_get(const json_t *object, struct batch_request *request, struct ps_error *err)
{
    static const struct number_field names[] = {{"max_tokens", 1, UINT32_MAX, true},
                                                {"max_completion_tokens", 1, UINT32_MAX, true}};
    double value;

    for (size_t i = 0; i < PS_ARRAY_LEN(names); i++) {
        int rc = number_get(object, &names[i], &value, err);
        if (rc < 0)
            return rc;
        if (rc > 0)
            request->max_tokens = (uint32_t)value;
    }
    return 0;
}

static int stop_add(struct batch_request *request, const json_t *text, struct ps_error *err)
{
    if (!json_is_string(text) || json_string_length(text) == 0 ||
        strlen(json_string_value(text)) != json_string_length(text) ||
        request->stop_count == BATCH_STOP_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                            "\"stop\" is not a text or a list of at most %d texts",
                            BATCH_STOP_COUNT_MAX);
    char *copy = strdup(json_string_value(text));
    if (copy == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory for a request");
    request->stops[request->stop_count++] = copy;
    return 0;
}

static int stops_get(const json_t *object, struct batch_request *request, struct ps_error *err)
{
    const json_t *stop = json_object_get(object, "stop");
    int rc = 0;

    if (stop == NULL || json_is_null(stop))
        return 0;
    if (!json_is_array(stop))
        return stop_add(request, stop, err);
    for (size_t i = 0; rc == 0 && i < json_array_size(stop); i++)
        rc = stop_add(request, json_array_get(stop, i), err);
    return rc;
}

static int prompt_error(uint32_t id_end, struct ps_error *err)
{
    return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                        "\"prompt\" is neither a text nor a list of token ids below %u", id_end);
}

static int prompt_ids_get(struct batch_request *request, const struct ps_model *model,
                          const json_t *list, struct ps_error *err)
{
    struct ps_model_info info;
    size_t count = json_array_size(list);

    ps_model_info(model, &info);
    if (!json_is_array(list))
        return prompt_error(info.vocab_rows, err);
    request->prompt = malloc((count + 1) * sizeof(*request->prompt));
    if (request->prompt == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory for a request");
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(list, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value >= (json_int_t)info.vocab_rows)
            return prompt_error(info.vocab_rows, err);
        request->prompt[i] = (int32_t)value;
    }
    request->prompt_count = count;
    request->from_ids = true;
    return 0;
}

static int chat_get(struct batch_request *request, const struct ps_model *model,
                    const json_t *object, struct ps_error *err)
{
    static const char *const names[] = {"messages", "tools", "enable_thinking"};
    json_t *chat = json_object();
    char *text = NULL;

    for (size_t i = 0; i < PS_ARRAY_LEN(names); i++) {
        json_t *value = json_object_get(object, names[i]);
        if (value != NULL && !json_is_null(value))
            json_object_set(chat, names[i], value);
    }
    char *json = json_dumps(chat, 0);
    json_decref(chat);
    if (json == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory for a request");
    int rc = ps_model_chat(model, json, &text, err);
    free(json);
    if (rc >= 0)
        rc =
            tool_tokenize(model, text, strlen(text), &request->prompt, &request->prompt_count, err);
    free(text);
    return rc;
}

static int prompt_get(struct batch_request *request, const struct ps_model *model,
                      const json_t *object, struct ps_error *err)
{
    const json_t *prompt = json_object_get(object, "prompt");
    int rc;

    if ((prompt == NULL) == (json_object_get(object, "messages") == NULL))
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                            "a request has either a \"prompt\" or \"messages\"");
    if (prompt == NULL)
        rc = chat_get(request, model, object, err);
    else if (json_is_string(prompt))
        rc = tool_tokenize(model, json_string_value(prompt), json_string_length(prompt),
                           &request->prompt, &request->prompt_count, err);
    else
        rc = prompt_ids_get(request, model, prompt, err);
    if (rc >= 0 && request->prompt_count == 0)
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                          "the prompt is empty: there is nothing to continue");
    return rc < 0 ? rc : 0;
}

/* A field that is misspelt, or asks for what is not done, must not be found out after hours. */
static int fields_check(const json_t *object, bool is_body, struct ps_error *err)
{
    static const char *const known[] = {"prompt",      "messages",
                                        "tools",       "enable_thinking",
                                        "max_tokens",  "max_completion_tokens",
                                        "temperature", "top_p",
                                        "min_p",       "top_k",
                                        "seed",        "repeat_penalty",
                                        "stop",        "id",
                                        "model",       "custom_id",
                                        "user",        "metadata"};
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)object, name, value)
    {
        bool is_known = false;
        for (size_t i = 0; i < PS_ARRAY_LEN(known); i++)
            is_known |= strcmp(name, known[i]) == 0;
        is_known |=
            strcmp(name, "n") == 0 && json_is_integer(value) && json_integer_value(value) == 1;
        is_known |= strcmp(name, "stream") == 0 && json_is_false(value);
        if (is_body)
            is_known |= strcmp(name, "body") == 0 || strcmp(name, "method") == 0 ||
                        strcmp(name, "url") == 0;
        if (!is_known)
            return ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "\"%.40s\" is not supported", name);
    }
    return 0;
}

static int id_get(struct batch_request *request, const json_t *object, struct ps_error *err)
{
    json_t *id = json_object_get(object, "custom_id");

    if (id == NULL)
        id = json_object_get(object, "id");
    if (id != NULL && !json_is_string(id) && !json_is_integer(id))
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                            "\"id\" is neither a text nor a whole number");
    request->id = json_incref(id);
    return 0;
}

static int object_parse(struct batch_request *request, const struct ps_model *model,
                        const json_t *object, struct ps_error *err)
{
    const json_t *body = json_object_get(object, "body");

    int rc = fields_check(object, body != NULL, err);
    if (rc == 0)
        rc = id_get(request, object, err);
    if (rc == 0 && body != NULL) {
        if (!json_is_object(body))
            return ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "\"body\" is not a JSON object");
        object = body;
        rc = fields_check(body, false, err);
    }
    if (rc == 0)
        rc = sampling_get(object, request, err);
    if (rc == 0)
        rc = max_tokens_get(object, request, err);
    if (rc == 0)
        rc = stops_get(object, request, err);
    return rc == 0 ? prompt_get(request, model, object, err) : rc;
}

int batch_request_parse(struct batch_request *request, const struct ps_model *model,
                        const struct batch_defaults *defaults, const char *line, size_t line_bytes,
                        struct ps_error *err)
{
    json_error_t fault;
    json_t *object = json_loadb(line, line_bytes, JSON_REJECT_DUPLICATES, &fault);

    *request = (struct batch_request){.max_tokens = defaults->max_tokens,
                                      .has_seed = defaults->sampling.has_seed};
    ps_model_sampling(model, &request->sampling);
    tool_sampling_apply(&defaults->sampling, &request->sampling);
    if (!json_is_object(object)) {
        int rc = object != NULL
                     ? ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "not a JSON object")
                     : ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "not JSON: %s", fault.text);
        json_decref(object);
        return rc;
    }
    int rc = object_parse(request, model, object, err);
    json_decref(object);
    if (rc < 0)
        batch_request_fini(request);
    return rc;
}

void batch_request_fini(struct batch_request *request)
{
    json_decref(request->id);
    free(request->prompt);
    for (int i = 0; i < request->stop_count; i++)
        free(request->stops[i]);
    *request = (struct batch_request){0};
}
