/* Chat templates, rendered by hand, one renderer per family (spec C.3). */
#ifndef PENSTOCK_MODEL_CHAT_H
#define PENSTOCK_MODEL_CHAT_H

#include <stddef.h>

#include "core/error.h"

enum ps_chat_family { PS_CHAT_NONE, PS_CHAT_CHATML, PS_CHAT_QWEN3, PS_CHAT_QWEN3_5 };

/* "", "chatml", "qwen3", "qwen3.5". */
const char *ps_chat_family_name(enum ps_chat_family family);

/* Recognises the family from the text of a Jinja template; PS_CHAT_NONE for a template that none of
 * the renderers reproduces. */
enum ps_chat_family ps_chat_detect(const char *template_text, size_t template_bytes);

/* As ps_model_chat. */
int ps_chat_render(enum ps_chat_family family, const char *json, char **text, struct ps_error *err);

#endif
