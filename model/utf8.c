#include "model/utf8.h"

#include <utf8proc.h>

#include "core/util.h"

/* Length of the sequence a lead byte announces and the range of its second byte (Unicode table
 * 3-7); 0 for bytes that cannot lead. */
static int lead_class(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF)
        return 2;
    if (lead >= 0xE0 && lead <= 0xEF) {
        if (lead == 0xE0)
            *low = 0xA0;
        if (lead == 0xED)
            *high = 0x9F;
        return 3;
    }
    if (lead >= 0xF0 && lead <= 0xF4) {
        if (lead == 0xF0)
            *low = 0x90;
        if (lead == 0xF4)
            *high = 0x8F;
        return 4;
    }
    return 0;
}

size_t ps_utf8_next(const char *text, size_t bytes, uint32_t *code, bool *valid)
{
    const uint8_t *p = (const uint8_t *)text;
    *valid = true;
    if (p[0] < 0x80) {
        *code = p[0];
        return 1;
    }
    uint8_t low, high;
    int length = lead_class(p[0], &low, &high);
    uint32_t value = length == 2 ? p[0] & 0x1Fu : length == 3 ? p[0] & 0x0Fu : p[0] & 0x07u;
    int i = 1;
    for (; i < length; i++) {
        if ((size_t)i >= bytes || p[i] < low || p[i] > high)
            break;
        value = value << 6 | (p[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    *valid = length && i == length;
    *code = *valid ? value : PS_UTF8_REPLACEMENT;
    return (size_t)i;
}

size_t ps_utf8_put(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

bool ps_utf8_valid(const char *text, size_t bytes)
{
    uint32_t code;
    bool valid;
    for (size_t at = 0; at < bytes;) {
        if ((uint8_t)text[at] < 0x80) {
            at++;
            continue;
        }
        at += ps_utf8_next(text + at, bytes - at, &code, &valid);
        if (!valid)
            return false;
    }
    return true;
}

void ps_utf8_repair(struct ps_strbuf *out, const char *text, size_t bytes)
{
    size_t from = 0;
    for (size_t at = 0; at < bytes;) {
        uint32_t code;
        bool valid;
        size_t length = ps_utf8_next(text + at, bytes - at, &code, &valid);
        if (!valid) {
            ps_strbuf_add(out, text + from, at - from);
            ps_strbuf_add(out, "\xEF\xBF\xBD", 3);
            from = at + length;
        }
        at += length;
    }
    ps_strbuf_add(out, text + from, bytes - from);
}

bool ps_utf8_nfc_trivial(const char *text, size_t bytes)
{
    /* U+0300 is the first character whose NFC quick check is not "yes"; its lead byte is 0xCC. */
    for (size_t i = 0; i < bytes; i++)
        if ((uint8_t)text[i] >= 0xCC)
            return false;
    return true;
}

struct code_buffer {
    utf8proc_int32_t *codes;
    size_t count, capacity;
};

static bool code_reserve(struct code_buffer *buf, size_t more)
{
    if (buf->capacity - buf->count >= more)
        return true;
    size_t capacity = buf->capacity * 2 + more;
    utf8proc_int32_t *codes = realloc(buf->codes, capacity * sizeof(*codes));
    if (!codes)
        return false;
    buf->codes = codes;
    buf->capacity = capacity;
    return true;
}

static int combining_class(utf8proc_int32_t code)
{
    return utf8proc_get_property(code)->combining_class;
}

/* Stable sort of a run of marks by combining class. Counting, because utf8proc's own reordering
 * exchanges neighbours, which is quadratic for a long run of marks. */
static bool reorder_run(utf8proc_int32_t *codes, size_t count)
{
    bool sorted = true;
    for (size_t i = 1; i < count && sorted; i++)
        sorted = combining_class(codes[i - 1]) <= combining_class(codes[i]);
    if (sorted)
        return true;
    size_t start[257] = {0};
    for (size_t i = 0; i < count; i++)
        start[(combining_class(codes[i]) & 0xFF) + 1]++;
    for (int c = 0; c < 256; c++)
        start[c + 1] += start[c];
    utf8proc_int32_t *copy = malloc(count * sizeof(*copy));
    if (!copy)
        return false;
    memcpy(copy, codes, count * sizeof(*copy));
    for (size_t i = 0; i < count; i++)
        codes[start[combining_class(copy[i]) & 0xFF]++] = copy[i];
    free(copy);
    return true;
}

static bool reorder(struct code_buffer *buf)
{
    for (size_t at = 0; at < buf->count;) {
        size_t end = at;
        while (end < buf->count && combining_class(buf->codes[end]))
            end++;
        if (end - at > 1 && !reorder_run(buf->codes + at, end - at))
            return false;
        at = end + 1;
    }
    return true;
}

static bool decompose(struct code_buffer *buf, const char *text, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        uint32_t code;
        bool valid;
        at += ps_utf8_next(text + at, bytes - at, &code, &valid);
        if (!code_reserve(buf, 32))
            return false;
        int boundary = 0;
        utf8proc_ssize_t n =
            utf8proc_decompose_char((utf8proc_int32_t)code, buf->codes + buf->count,
                                    (utf8proc_ssize_t)(buf->capacity - buf->count),
                                    UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
        if (n < 0)
            return false;
        buf->count += (size_t)n;
    }
    return true;
}

/* One stretch that begins and ends where nothing composes across. */
static bool nfc_stretch(struct ps_strbuf *out, struct code_buffer *buf, const char *text,
                        size_t bytes)
{
    buf->count = 0;
    if (!decompose(buf, text, bytes) || !reorder(buf))
        return false;
    utf8proc_ssize_t count = utf8proc_normalize_utf32(buf->codes, (utf8proc_ssize_t)buf->count,
                                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < count; i++) {
        char utf8[4];
        ps_strbuf_add(out, utf8, ps_utf8_put((uint32_t)buf->codes[i], utf8));
    }
    return count >= 0;
}

void ps_utf8_nfc(struct ps_strbuf *out, const char *text, size_t bytes)
{
    struct code_buffer buf = {0};
    for (size_t at = 0; at < bytes && !out->failed;) {
        /* Nothing composes with a following ASCII character, so a stretch may end before one:
         * code points of a whole long text are never held at once. */
        size_t end = at + ps_min_u64(bytes - at, 4096);
        while (end < bytes && (uint8_t)text[end] >= 0x80)
            end++;
        if (ps_utf8_nfc_trivial(text + at, end - at))
            ps_strbuf_add(out, text + at, end - at);
        else if (!nfc_stretch(out, &buf, text + at, end - at))
            out->failed = true;
        at = end;
    }
    free(buf.codes);
}
