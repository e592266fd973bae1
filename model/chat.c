#include "model/chat.h"

#include <errno.h>
#include <stdlib.h>

#include "core/util.h"
#include "model/chat_private.h"

const char *ps_chat_family_name(enum ps_chat_family family)
{
    static const char *const names[] = {"", "chatml", "qwen3", "qwen3.5"};
    return names[family];
}

/* ---- detection ------------------------------------------------------------------------------ */

static bool has(struct ps_text_span text, const char *part)
{
    return memmem(text.data, text.bytes, part, strlen(part)) != NULL;
}

static bool has_all(struct ps_text_span text, const char *const *parts)
{
    for (; *parts; parts++)
        if (!has(text, *parts))
            return false;
    return true;
}

static bool has_any(struct ps_text_span text, const char *const *parts)
{
    for (; *parts; parts++)
        if (has(text, *parts))
            return true;
    return false;
}

/* Plain ChatML: one loop over all messages that treats every role alike. Anything that a template
 * may add to that, a default system text above all, makes it another one. */
static bool is_chatml(struct ps_text_span text)
{
    static const char *const needs[] = {"<|im_start|>", "<|im_end|>", "add_generation_prompt",
                                        "assistant", NULL};
    static const char *const others[] = {
        "tool",      "think",     "raise_exception", "trim",    "strip", "system", "loop.",
        "bos_token", "eos_token", "default",         "You are", "elif",  NULL};
    if (!has_all(text, needs) || has_any(text, others))
        return false;
    /* A turn ends in a newline, written as such or as "\n" after quotes and a plus sign. */
    const char *end = memmem(text.data, text.bytes, "<|im_end|>", 10);
    const char *stop = text.data + text.bytes;
    for (end += 10; end < stop && strchr("'\"+~ ", *end); end++)
        ;
    return end < stop && (*end == '\n' || (stop - end > 1 && end[0] == '\\' && end[1] == 'n'));
}

enum ps_chat_family ps_chat_detect(const char *template_text, size_t template_bytes)
{
    /* The parts by which revisions of a template differ in what they render are among the needs:
     * how old thoughts are treated, how arguments are written, whether thinking is on by default.
     */
    static const char *const qwen3_5[] = {"if loop.index0 > ns.last_query_index %}",
                                          "<function=",
                                          "args_value | string %}",
                                          "No user query found",
                                          "enable_thinking is false",
                                          "'<think>\\n'",
                                          NULL};
    static const char *const qwen3[] = {"if loop.index0 > ns.last_query_index %}",
                                        "loop.last or (not loop.last and reasoning_content)",
                                        "{\\\"name\\\": <function-name>",
                                        "enable_thinking is false",
                                        "'<think>\\n\\n</think>\\n\\n'",
                                        NULL};
    struct ps_text_span text = {template_text, template_bytes};
    if (has_all(text, qwen3_5))
        return PS_CHAT_QWEN3_5;
    if (has_all(text, qwen3) && !has(text, "<function="))
        return PS_CHAT_QWEN3;
    return is_chatml(text) ? PS_CHAT_CHATML : PS_CHAT_NONE;
}

/* ---- the conversation -------------------------------------------------------------------------
 */

static int bad_message(struct ps_error *err, size_t index, const char *what)
{
    return ps_error_set(err, -PS_ERR_ARGUMENT, "messages", "Message %zu %s.", index, what);
}

static int read_content(struct ps_chat_message *message, size_t index, struct ps_error *err)
{
    const json_t *content = json_object_get(message->json, "content");
    ps_strbuf_add(&message->content, "", 0);
    if (!content || json_is_null(content))
        return 0;
    if (json_is_string(content)) {
        ps_strbuf_add(&message->content, json_string_value(content), json_string_length(content));
        return 0;
    }
    if (!json_is_array(content))
        return bad_message(err, index, "has content that is neither text nor a list of parts");
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i);
        const json_t *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!json_is_string(text) || (type && strcmp(type, "text") != 0))
            return bad_message(err, index, "has a part that is not text, which is not supported");
        ps_strbuf_add(&message->content, json_string_value(text), json_string_length(text));
    }
    return 0;
}

static int read_messages(struct ps_chat *chat, const json_t *list, struct ps_error *err)
{
    size_t count = json_array_size(list);
    if (!count)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "messages",
                            "The conversation needs a list of at least one message.");
    chat->messages = calloc(count, sizeof(*chat->messages));
    if (!chat->messages)
        return ps_error_set(err, -ENOMEM, NULL, "Out of memory for the conversation.");
    chat->count = count;
    for (size_t i = 0; i < count; i++) {
        struct ps_chat_message *message = &chat->messages[i];
        message->json = json_array_get(list, i);
        message->role = json_string_value(json_object_get(message->json, "role"));
        if (!message->role)
            return bad_message(err, i, "is not an object with a role");
        int rc = read_content(message, i, err);
        if (rc < 0)
            return rc;
        if (message->content.failed)
            return ps_error_set(err, -ENOMEM, NULL, "Out of memory for the conversation.");
    }
    return 0;
}

static int read_flag(const json_t *root, const char *name, bool *value, struct ps_error *err)
{
    const json_t *flag = json_object_get(root, name);
    if (!flag || json_is_null(flag))
        return 0;
    if (!json_is_boolean(flag))
        return ps_error_set(err, -PS_ERR_ARGUMENT, name, "It must be true or false.");
    *value = json_is_true(flag);
    return 0;
}

static int read_chat(struct ps_chat *chat, const json_t *root, struct ps_error *err)
{
    const json_t *tools = json_object_get(root, "tools");
    bool thinking = true;
    chat->add_generation_prompt = true;
    if (tools && !json_is_null(tools) && !json_is_array(tools))
        return ps_error_set(err, -PS_ERR_ARGUMENT, "tools", "It must be a list.");
    if (json_array_size(tools))
        chat->tools = tools;
    int rc = read_flag(root, "add_generation_prompt", &chat->add_generation_prompt, err);
    if (rc >= 0)
        rc = read_flag(root, "enable_thinking", &thinking, err);
    if (rc >= 0)
        rc = read_flag(root, "continues", &chat->continues, err);
    chat->thinking_off = !thinking;
    return rc < 0 ? rc : read_messages(chat, json_object_get(root, "messages"), err);
}

/* ---- rendering --------------------------------------------------------------------------------
 */

/* Tools have no place in plain ChatML, and its template passes them over, too. */
static int render_chatml(const struct ps_chat *chat, struct ps_strbuf *out)
{
    for (size_t i = 0; i < chat->count; i++) {
        ps_strbuf_puts(out, "<|im_start|>");
        ps_strbuf_puts(out, chat->messages[i].role);
        ps_strbuf_puts(out, "\n");
        ps_strbuf_span(out, ps_text_of(&chat->messages[i].content));
        ps_strbuf_puts(out, "<|im_end|>\n");
    }
    if (chat->add_generation_prompt)
        ps_strbuf_puts(out, "<|im_start|>assistant\n");
    return 0;
}

int ps_chat_render(enum ps_chat_family family, const char *json, char **text, struct ps_error *err)
{
    if (family == PS_CHAT_NONE)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, NULL,
                            "The model has no chat template, or one that this program does not "
                            "know: give it raw text instead.");
    json_error_t json_error;
    json_t *root = json_loads(json, 0, &json_error);
    if (!root)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                            "The conversation is not valid JSON: %s (line %d).", json_error.text,
                            json_error.line);
    struct ps_chat chat = {0};
    struct ps_strbuf out = {0};
    int rc = read_chat(&chat, root, err);
    ps_strbuf_puts(&out, chat.continues ? "<|im_end|>\n" : "");
    if (rc >= 0)
        rc = family == PS_CHAT_QWEN3_5 ? ps_chat_render_qwen3_5(&chat, &out, err)
             : family == PS_CHAT_QWEN3 ? ps_chat_render_qwen3(&chat, &out, err)
                                       : render_chatml(&chat, &out);
    if (rc >= 0 && out.failed)
        rc = ps_error_set(err, -ENOMEM, NULL, "Out of memory for the conversation.");
    for (size_t i = 0; i < chat.count; i++)
        ps_strbuf_free(&chat.messages[i].content);
    free(chat.messages);
    json_decref(root);
    if (rc < 0)
        ps_strbuf_free(&out);
    else
        *text = out.data;
    return rc < 0 ? rc : 0;
}
