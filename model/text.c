#include "model/text.h"

#include <assert.h>
#include <string.h>

#include "model/model.h"
#include "model/utf8.h"

static int no_tokenizer(struct ps_error *err)
{
    return ps_error_set(err, -PS_ERR_NO_TOKENIZER, NULL,
                        "The model was laid out without a tokenizer, so it takes ids only, not "
                        "text: lay it out again from a source that has one.");
}

int64_t ps_model_tokenize(const struct ps_model *model, const char *text, size_t text_bytes,
                          int32_t *ids, size_t capacity, struct ps_error *err)
{
    if (!model->tokenizer)
        return no_tokenizer(err);
    return ps_tokenizer_encode(model->tokenizer, text, text_bytes, ids, capacity, err);
}

int64_t ps_model_tokenize_more(const struct ps_model *model, const char *text, size_t text_bytes,
                               int32_t *ids, size_t capacity, struct ps_error *err)
{
    if (!model->tokenizer)
        return no_tokenizer(err);
    return ps_tokenizer_encode_more(model->tokenizer, text, text_bytes, ids, capacity, err);
}

int64_t ps_model_detokenize(const struct ps_model *model, const int32_t *ids, size_t id_count,
                            bool skip_special, char *text, size_t capacity, struct ps_error *err)
{
    if (!model->tokenizer)
        return no_tokenizer(err);
    uint32_t tokens = ps_tokenizer_vocab_count(model->tokenizer);
    int64_t total = 0;
    for (size_t i = 0; i < id_count;) {
        /* Rows of the head beyond the tokenizer's are padding: they stand for no text. */
        if (ids[i] >= 0 && (uint32_t)ids[i] >= tokens &&
            (uint32_t)ids[i] < model->config.vocab_rows) {
            i++;
            continue;
        }
        size_t end = i + 1;
        while (end < id_count && ids[end] >= 0 && (uint32_t)ids[end] < tokens)
            end++;
        size_t room = (uint64_t)total < capacity ? capacity - (size_t)total : 0;
        int64_t rc = (total ? ps_tokenizer_decode : ps_tokenizer_decode_text)(
            model->tokenizer, ids + i, end - i, skip_special, room ? text + total : NULL, room,
            err);
        if (rc < 0)
            return rc;
        total += rc;
        i = end;
    }
    return total;
}

int ps_model_chat(const struct ps_model *model, const char *json, char **text, struct ps_error *err)
{
    return ps_chat_render(model->chat_family, json, text, err);
}

/* How many bytes the character has that begins with lead; 0 when none does. */
static size_t announced(uint8_t lead)
{
    return lead < 0xC2 || lead > 0xF4 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

size_t ps_utf8_join(struct ps_utf8_joiner *joiner, const uint8_t *bytes, size_t n, char *out,
                    size_t cap)
{
    size_t written = 0;
    assert(cap >= PS_UTF8_JOIN_BYTES(n));
    (void)cap;
    for (size_t taken = 0;;) {
        /* A window of up to four bytes, the ones held first. */
        char window[4];
        size_t held = (size_t)joiner->n, fresh = 0;
        memcpy(window, joiner->hold, held);
        while (held + fresh < sizeof(window) && taken + fresh < n) {
            window[held + fresh] = (char)bytes[taken + fresh];
            fresh++;
        }
        size_t have = held + fresh;
        if (!have)
            break;
        uint32_t code;
        bool valid;
        size_t used = ps_utf8_next(window, have, &code, &valid);
        /* All that is there fits, and there is less of it than announced: wait for the rest. */
        if (!valid && used == have && have < announced((uint8_t)window[0])) {
            memcpy(joiner->hold, window, have);
            joiner->n = (int)have;
            break;
        }
        written += ps_utf8_put(code, out + written);
        /* What is held is the beginning of one character, so it goes with it, whole. */
        taken += used - held;
        joiner->n = 0;
    }
    return written;
}

size_t ps_utf8_join_flush(struct ps_utf8_joiner *joiner, char *out, size_t cap)
{
    bool begun = joiner->n > 0;
    joiner->n = 0;
    assert(!begun || cap >= 3);
    (void)cap;
    return begun ? ps_utf8_put(PS_UTF8_REPLACEMENT, out) : 0;
}
