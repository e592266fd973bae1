/* Private to the chat renderers: a parsed conversation, and text helpers that act as Python's do.
 */
#ifndef PENSTOCK_MODEL_CHAT_PRIVATE_H
#define PENSTOCK_MODEL_CHAT_PRIVATE_H

#include <jansson.h>
#include <stdbool.h>

#include "core/error.h"
#include "model/pretokenizer.h"
#include "model/strbuf.h"

struct ps_chat_message {
    const json_t *json;
    const char *role;
    struct ps_strbuf content; /* text parts joined; "" for none */
};

struct ps_chat {
    struct ps_chat_message *messages; /* [count], count >= 1 */
    size_t count;
    const json_t *tools; /* a list that is not empty, or NULL */
    bool add_generation_prompt;
    bool continues;    /* begin with the end of the turn before */
    bool thinking_off; /* enable_thinking is given and false */
};

/* Appends the prompt to *out. Errors: -PS_ERR_ARGUMENT; running out of memory shows in out->failed.
 */
int ps_chat_render_qwen3(const struct ps_chat *chat, struct ps_strbuf *out, struct ps_error *err);
int ps_chat_render_qwen3_5(const struct ps_chat *chat, struct ps_strbuf *out, struct ps_error *err);

/* As Python's json.dumps(value, ensure_ascii=False): ", " and ": ", keys in their own order. */
void ps_json_dumps(struct ps_strbuf *out, const json_t *value);

/* As Python's str() of a scalar: True, False, None, numbers as repr(), strings as they are. */
void ps_json_str(struct ps_strbuf *out, const json_t *scalar);

/* str.strip() without arguments: Unicode white space off both ends. */
struct ps_text_span ps_text_trim(struct ps_text_span text);
/* str.lstrip("\n") and str.rstrip("\n"). */
struct ps_text_span ps_text_lstrip_newlines(struct ps_text_span text);
struct ps_text_span ps_text_rstrip_newlines(struct ps_text_span text);

static inline struct ps_text_span ps_text_of(const struct ps_strbuf *buf)
{
    return (struct ps_text_span){buf->data ? buf->data : "", buf->bytes};
}

static inline void ps_strbuf_span(struct ps_strbuf *out, struct ps_text_span text)
{
    ps_strbuf_add(out, text.data, text.bytes);
}

#endif
