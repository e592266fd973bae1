/* What Jinja templates do to values through Python: json.dumps, str(), strip(). */
#include <math.h>
#include <stdio.h>

#include "core/util.h"
#include "model/chat_private.h"
#include "model/utf8.h"

static void dump_string(struct ps_strbuf *out, const char *text, size_t bytes)
{
    static const char shorts[][2] = {{'"', '"'},  {'\\', '\\'}, {'\n', 'n'}, {'\r', 'r'},
                                     {'\t', 't'}, {'\b', 'b'},  {'\f', 'f'}};
    ps_strbuf_putc(out, '"');
    for (size_t i = 0; i < bytes; i++) {
        char escaped[8] = {text[i]};
        for (size_t k = 0; k < PS_ARRAY_LEN(shorts); k++) {
            if (text[i] == shorts[k][0]) {
                escaped[0] = '\\';
                escaped[1] = shorts[k][1];
            }
        }
        if (!escaped[1] && (unsigned char)text[i] < 0x20)
            snprintf(escaped, sizeof(escaped), "\\u%04x", (unsigned)text[i]);
        ps_strbuf_puts(out, escaped);
    }
    ps_strbuf_putc(out, '"');
}

/* repr(float): the fewest digits that read back as the same number, with an exponent from 1e16 up
 * and below 1e-4, and ".0" where nothing else shows that it is not an integer. */
static void dump_real(struct ps_strbuf *out, double value)
{
    char text[64];
    int digits = 1;
    for (; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*e", digits - 1, value);
        if (strtod(text, NULL) == value)
            break;
    }
    const char *mark = strchr(text, 'e');
    int exponent = mark ? atoi(mark + 1) : 0;
    if (exponent >= -4 && exponent < 16) {
        int decimals = digits - 1 - exponent;
        snprintf(text, sizeof(text), "%.*f", decimals > 1 ? decimals : 1, value);
        ps_strbuf_puts(out, text);
        return;
    }
    ps_strbuf_puts(out, text);
}

static void dump_integer(struct ps_strbuf *out, json_int_t value)
{
    char text[32];
    snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, value);
    ps_strbuf_puts(out, text);
}

/* Recurses as deep as the value is nested, which the JSON reader limits to 2048. */
void ps_json_dumps(struct ps_strbuf *out, const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_STRING:
        dump_string(out, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        dump_integer(out, json_integer_value(value));
        break;
    case JSON_REAL:
        dump_real(out, json_real_value(value));
        break;
    case JSON_ARRAY:
        ps_strbuf_putc(out, '[');
        for (size_t i = 0; i < json_array_size(value); i++) {
            ps_strbuf_puts(out, i ? ", " : "");
            ps_json_dumps(out, json_array_get(value, i));
        }
        ps_strbuf_putc(out, ']');
        break;
    case JSON_OBJECT:
        ps_strbuf_putc(out, '{');
        for (void *first = json_object_iter((json_t *)value), *it = first; it;
             it = json_object_iter_next((json_t *)value, it)) {
            ps_strbuf_puts(out, it != first ? ", " : "");
            dump_string(out, json_object_iter_key(it), json_object_iter_key_len(it));
            ps_strbuf_puts(out, ": ");
            ps_json_dumps(out, json_object_iter_value(it));
        }
        ps_strbuf_putc(out, '}');
        break;
    default:
        ps_strbuf_puts(out, json_is_true(value) ? "true" : json_is_false(value) ? "false" : "null");
    }
}

void ps_json_str(struct ps_strbuf *out, const json_t *scalar)
{
    if (json_is_string(scalar))
        ps_strbuf_add(out, json_string_value(scalar), json_string_length(scalar));
    else if (json_is_boolean(scalar))
        ps_strbuf_puts(out, json_is_true(scalar) ? "True" : "False");
    else if (json_is_null(scalar))
        ps_strbuf_puts(out, "None");
    else
        ps_json_dumps(out, scalar);
}

static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

struct ps_text_span ps_text_trim(struct ps_text_span text)
{
    uint32_t code;
    bool valid;
    while (text.bytes) {
        size_t n = ps_utf8_next(text.data, text.bytes, &code, &valid);
        if (!is_space(code))
            break;
        text.data += n;
        text.bytes -= n;
    }
    while (text.bytes) {
        size_t n = 1;
        while (n < text.bytes && n < 4 && ((uint8_t)text.data[text.bytes - n] & 0xC0) == 0x80)
            n++;
        ps_utf8_next(text.data + text.bytes - n, n, &code, &valid);
        if (!is_space(code))
            break;
        text.bytes -= n;
    }
    return text;
}

struct ps_text_span ps_text_lstrip_newlines(struct ps_text_span text)
{
    while (text.bytes && text.data[0] == '\n') {
        text.data++;
        text.bytes--;
    }
    return text;
}

struct ps_text_span ps_text_rstrip_newlines(struct ps_text_span text)
{
    while (text.bytes && text.data[text.bytes - 1] == '\n')
        text.bytes--;
    return text;
}
