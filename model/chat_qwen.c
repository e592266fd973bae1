/*
 * The templates of Qwen3 and Qwen3.5 (spec C.3): what the models were trained to read, byte for
 * byte, fixed instruction texts included.
 */
#include "core/util.h"
#include "model/chat_private.h"

/* clang-format off */
static const char qwen3_tools_head[] =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";

static const char qwen3_tools_tail[] =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

static const char qwen3_5_tools_head[] =
    "# Tools\n\nYou have access to the following functions:\n\n<tools>";

static const char qwen3_5_tools_tail[] =
    "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO "
    "suffix:\n\n<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\n"
    "value_1\n</parameter>\n<parameter=example_parameter_2>\nThis is the value for the second "
    "parameter\nthat can span\nmultiple lines\n</parameter>\n</function>\n</tool_call>\n\n"
    "<IMPORTANT>\nReminder:\n- Function calls MUST follow the specified format: an inner "
    "<function=...></function> block must be nested within <tool_call></tool_call> XML tags\n"
    "- Required parameters MUST be specified\n- You may provide optional reasoning for your function "
    "call in natural language BEFORE the function call, but NOT after\n- If there is no function "
    "call available, answer the question like normal with your current knowledge and do not tell "
    "the user about function calls\n</IMPORTANT>";
/* clang-format on */

/* What is left and right of a cut; found = false leaves all in `left`. */
struct cut {
    struct ps_text_span left, right;
    bool found;
};

static struct cut cut_first(struct ps_text_span text, const char *mark)
{
    size_t n = strlen(mark);
    const char *at = memmem(text.data, text.bytes, mark, n);
    if (!at)
        return (struct cut){text, {text.data + text.bytes, 0}, false};
    size_t left = (size_t)(at - text.data);
    return (struct cut){{text.data, left}, {at + n, text.bytes - left - n}, true};
}

/* What follows the last mark, or all of text. */
static struct ps_text_span after_last(struct ps_text_span text, const char *mark)
{
    for (struct cut c = cut_first(text, mark); c.found; c = cut_first(text, mark))
        text = c.right;
    return text;
}

static bool role_is(const struct ps_chat *chat, size_t index, const char *role)
{
    return !strcmp(chat->messages[index].role, role);
}

static bool is_tool_response(struct ps_text_span text)
{
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    size_t o = sizeof(open) - 1, c = sizeof(close) - 1;
    return text.bytes >= o && text.bytes >= c && !memcmp(text.data, open, o) &&
           !memcmp(text.data + text.bytes - c, close, c);
}

static struct ps_text_span content_of(const struct ps_chat *chat, size_t index, bool trim)
{
    struct ps_text_span text = ps_text_of(&chat->messages[index].content);
    return trim ? ps_text_trim(text) : text;
}

/* The last message in which the user asks something (and does not hand back a tool's result);
 * thoughts before it are left out. *found tells whether there is one. */
static size_t last_query(const struct ps_chat *chat, bool trim, bool *found)
{
    for (size_t i = chat->count; i > 0; i--) {
        if (role_is(chat, i - 1, "user") && !is_tool_response(content_of(chat, i - 1, trim))) {
            *found = true;
            return i - 1;
        }
    }
    *found = false;
    return chat->count - 1;
}

/* Splits the thought off an assistant's text unless it came in a field of its own. */
static void split_thought(struct ps_text_span *content, struct ps_text_span *thought)
{
    struct cut c = cut_first(*content, "</think>");
    *thought = (struct ps_text_span){"", 0};
    if (!c.found)
        return;
    *thought = ps_text_lstrip_newlines(after_last(ps_text_rstrip_newlines(c.left), "<think>"));
    *content = ps_text_lstrip_newlines(after_last(*content, "</think>"));
}

static void add_turn(struct ps_strbuf *out, const char *role, struct ps_text_span text)
{
    ps_strbuf_puts(out, "<|im_start|>");
    ps_strbuf_puts(out, role);
    ps_strbuf_puts(out, "\n");
    ps_strbuf_span(out, text);
    ps_strbuf_puts(out, "<|im_end|>\n");
}

static void add_tools(const struct ps_chat *chat, struct ps_strbuf *out, const char *head,
                      const char *tail)
{
    ps_strbuf_puts(out, head);
    for (size_t i = 0; i < json_array_size(chat->tools); i++) {
        ps_strbuf_puts(out, "\n");
        ps_json_dumps(out, json_array_get(chat->tools, i));
    }
    ps_strbuf_puts(out, tail);
}

/* Results are shown as the user's; those that follow each other share a turn. */
static void add_tool_result(const struct ps_chat *chat, size_t index, struct ps_text_span content,
                            bool open, struct ps_strbuf *out)
{
    if (open)
        ps_strbuf_puts(out, "<|im_start|>user");
    ps_strbuf_puts(out, "\n<tool_response>\n");
    ps_strbuf_span(out, content);
    ps_strbuf_puts(out, "\n</tool_response>");
    if (index + 1 == chat->count || !role_is(chat, index + 1, "tool"))
        ps_strbuf_puts(out, "<|im_end|>\n");
}

static void add_thought(struct ps_strbuf *out, struct ps_text_span thought)
{
    ps_strbuf_puts(out, "<think>\n");
    ps_strbuf_span(out, thought);
    ps_strbuf_puts(out, "\n</think>\n\n");
}

static int bad(struct ps_error *err, size_t index, const char *what)
{
    return ps_error_set(err, -PS_ERR_ARGUMENT, "messages", "Message %zu: %s.", index, what);
}

/* The function of a tool call, whether or not it is wrapped as in the API. */
static int read_call(const struct ps_chat *chat, size_t index, size_t nth, const char **name,
                     const json_t **arguments, struct ps_error *err)
{
    const json_t *calls = json_object_get(chat->messages[index].json, "tool_calls");
    const json_t *call = json_array_get(calls, nth), *function = json_object_get(call, "function");
    call = function ? function : call;
    *name = json_string_value(json_object_get(call, "name"));
    *arguments = json_object_get(call, "arguments");
    return *name ? 0 : bad(err, index, "a tool call has no function name");
}

static size_t call_count(const struct ps_chat *chat, size_t index)
{
    return json_array_size(json_object_get(chat->messages[index].json, "tool_calls"));
}

/* ---- Qwen3 ------------------------------------------------------------------------------------
 */

static int qwen3_calls(const struct ps_chat *chat, size_t index, bool has_content,
                       struct ps_strbuf *out, struct ps_error *err)
{
    for (size_t i = 0; i < call_count(chat, index); i++) {
        const char *name;
        const json_t *arguments;
        int rc = read_call(chat, index, i, &name, &arguments, err);
        if (rc < 0)
            return rc;
        ps_strbuf_puts(out, i || has_content ? "\n<tool_call>\n" : "<tool_call>\n");
        ps_strbuf_puts(out, "{\"name\": \"");
        ps_strbuf_puts(out, name);
        ps_strbuf_puts(out, "\", \"arguments\": ");
        if (json_is_string(arguments)) /* JSON already */
            ps_json_str(out, arguments);
        else if (arguments)
            ps_json_dumps(out, arguments);
        else
            ps_strbuf_puts(out, "{}");
        ps_strbuf_puts(out, "}\n</tool_call>");
    }
    return 0;
}

static int qwen3_assistant(const struct ps_chat *chat, size_t index, size_t query,
                           struct ps_strbuf *out, struct ps_error *err)
{
    const json_t *field = json_object_get(chat->messages[index].json, "reasoning_content");
    struct ps_text_span content = content_of(chat, index, false), thought;
    if (json_is_string(field))
        thought = (struct ps_text_span){json_string_value(field), json_string_length(field)};
    else
        split_thought(&content, &thought);
    bool shown = index > query && (index + 1 == chat->count || thought.bytes);
    ps_strbuf_puts(out, "<|im_start|>assistant\n");
    if (shown)
        add_thought(out, ps_text_lstrip_newlines(ps_text_rstrip_newlines(thought)));
    ps_strbuf_span(out, shown ? ps_text_lstrip_newlines(content) : content);
    int rc = qwen3_calls(chat, index, content.bytes > 0, out, err);
    ps_strbuf_puts(out, "<|im_end|>\n");
    return rc;
}

static void qwen3_head(const struct ps_chat *chat, struct ps_strbuf *out)
{
    bool system = role_is(chat, 0, "system");
    if (!chat->tools) {
        if (system)
            add_turn(out, "system", content_of(chat, 0, false));
        return;
    }
    ps_strbuf_puts(out, "<|im_start|>system\n");
    if (system) {
        ps_strbuf_span(out, content_of(chat, 0, false));
        ps_strbuf_puts(out, "\n\n");
    }
    add_tools(chat, out, qwen3_tools_head, qwen3_tools_tail);
    ps_strbuf_puts(out, "<|im_end|>\n");
}

int ps_chat_render_qwen3(const struct ps_chat *chat, struct ps_strbuf *out, struct ps_error *err)
{
    bool found;
    size_t query = last_query(chat, false, &found);
    qwen3_head(chat, out);
    for (size_t i = 0; i < chat->count; i++) {
        struct ps_text_span content = content_of(chat, i, false);
        int rc = 0;
        if (role_is(chat, i, "user") || (role_is(chat, i, "system") && i))
            add_turn(out, chat->messages[i].role, content);
        else if (role_is(chat, i, "assistant"))
            rc = qwen3_assistant(chat, i, query, out, err);
        else if (role_is(chat, i, "tool"))
            add_tool_result(chat, i, content, !i || !role_is(chat, i - 1, "tool"), out);
        else if (!role_is(chat, i, "system")) /* the template would drop it without a word */
            rc = bad(err, i, "the role must be system, user, assistant or tool");
        if (rc < 0)
            return rc;
    }
    if (chat->add_generation_prompt) {
        ps_strbuf_puts(out, "<|im_start|>assistant\n");
        if (chat->thinking_off)
            ps_strbuf_puts(out, "<think>\n\n</think>\n\n");
    }
    return 0;
}

/* ---- Qwen3.5 ----------------------------------------------------------------------------------
 */

static void qwen3_5_arguments(const json_t *arguments, struct ps_strbuf *out)
{
    for (void *it = json_object_iter((json_t *)arguments); it;
         it = json_object_iter_next((json_t *)arguments, it)) {
        const json_t *value = json_object_iter_value(it);
        ps_strbuf_puts(out, "<parameter=");
        ps_strbuf_add(out, json_object_iter_key(it), json_object_iter_key_len(it));
        ps_strbuf_puts(out, ">\n");
        if (json_is_object(value) || json_is_array(value))
            ps_json_dumps(out, value);
        else
            ps_json_str(out, value);
        ps_strbuf_puts(out, "\n</parameter>\n");
    }
}

static int qwen3_5_call(const struct ps_chat *chat, size_t index, size_t nth, bool has_content,
                        struct ps_strbuf *out, struct ps_error *err)
{
    const char *name;
    const json_t *arguments;
    json_t *parsed = NULL;
    int rc = read_call(chat, index, nth, &name, &arguments, err);
    if (rc < 0)
        return rc;
    /* The API has arguments as JSON in a string; the template wants them as an object. */
    if (json_is_string(arguments))
        arguments = parsed = json_loads(json_string_value(arguments), 0, NULL);
    else if (!arguments)
        arguments = parsed = json_object();
    if (!json_is_object(arguments)) {
        json_decref(parsed);
        return bad(err, index, "the arguments of a tool call are not an object");
    }
    ps_strbuf_puts(out, nth ? "\n" : has_content ? "\n\n" : "");
    ps_strbuf_puts(out, "<tool_call>\n<function=");
    ps_strbuf_puts(out, name);
    ps_strbuf_puts(out, ">\n");
    qwen3_5_arguments(arguments, out);
    ps_strbuf_puts(out, "</function>\n</tool_call>");
    json_decref(parsed);
    return 0;
}

static int qwen3_5_assistant(const struct ps_chat *chat, size_t index, size_t query,
                             struct ps_strbuf *out, struct ps_error *err)
{
    const json_t *field = json_object_get(chat->messages[index].json, "reasoning_content");
    struct ps_text_span content = content_of(chat, index, true), thought;
    if (json_is_string(field))
        thought = (struct ps_text_span){json_string_value(field), json_string_length(field)};
    else
        split_thought(&content, &thought);
    ps_strbuf_puts(out, "<|im_start|>assistant\n");
    if (index > query)
        add_thought(out, ps_text_trim(thought));
    ps_strbuf_span(out, content);
    bool has_content = ps_text_trim(content).bytes > 0;
    for (size_t i = 0; i < call_count(chat, index); i++) {
        int rc = qwen3_5_call(chat, index, i, has_content, out, err);
        if (rc < 0)
            return rc;
    }
    ps_strbuf_puts(out, "<|im_end|>\n");
    return 0;
}

static void qwen3_5_head(const struct ps_chat *chat, struct ps_strbuf *out)
{
    bool system = role_is(chat, 0, "system");
    struct ps_text_span content = content_of(chat, 0, true);
    if (!chat->tools) {
        if (system)
            add_turn(out, "system", content);
        return;
    }
    ps_strbuf_puts(out, "<|im_start|>system\n");
    add_tools(chat, out, qwen3_5_tools_head, qwen3_5_tools_tail);
    if (system && content.bytes) {
        ps_strbuf_puts(out, "\n\n");
        ps_strbuf_span(out, content);
    }
    ps_strbuf_puts(out, "<|im_end|>\n");
}

int ps_chat_render_qwen3_5(const struct ps_chat *chat, struct ps_strbuf *out, struct ps_error *err)
{
    bool found;
    size_t query = last_query(chat, true, &found);
    if (!found)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "messages",
                            "There is no user query in the conversation; this model's template "
                            "needs one.");
    qwen3_5_head(chat, out);
    for (size_t i = 0; i < chat->count; i++) {
        struct ps_text_span content = content_of(chat, i, true);
        int rc = 0;
        if (role_is(chat, i, "user"))
            add_turn(out, "user", content);
        else if (role_is(chat, i, "assistant"))
            rc = qwen3_5_assistant(chat, i, query, out, err);
        else if (role_is(chat, i, "tool"))
            /* In this template the first message of all opens no turn. */
            add_tool_result(chat, i, content, i && !role_is(chat, i - 1, "tool"), out);
        else if (!role_is(chat, i, "system"))
            rc = bad(err, i, "the role must be system, user, assistant or tool");
        else if (i)
            rc = bad(err, i, "a system message must be the first");
        if (rc < 0)
            return rc;
    }
    if (chat->add_generation_prompt) {
        ps_strbuf_puts(out, "<|im_start|>assistant\n");
        ps_strbuf_puts(out, chat->thinking_off ? "<think>\n\n</think>\n\n" : "<think>\n");
    }
    return 0;
}
