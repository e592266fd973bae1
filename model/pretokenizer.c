#include "model/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>

#include "core/util.h"
#include "model/strbuf.h"
#include "model/tokenizer.h"
#include "model/utf8.h"

/* Steps one match may take: a run of blanks is walked back over once, so this is far above what any
 * text of the size that is accepted needs, and ends a runaway pattern within a second or so. */
#define MATCH_STEPS_MAX 50000000u
#define MATCH_HEAP_KIB_MAX (64u * 1024)

/* Oniguruma's \s is Unicode's White_Space. PCRE2's also has U+180E, so it is spelled out. */
#define SPACE_SET "\\t-\\r\\x{85}\\p{Z}"

/* clang-format off */
static const struct { const char *name, *pattern; } named[] = {
    {"qwen35", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}"
               "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {"qwen2",  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
               "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {"dbrx",   "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
               "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
               "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {"gpt2",   "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
};
/* clang-format on */

struct ps_splitter {
    pcre2_match_context *match_context;
    pcre2_code *codes[PS_SPLIT_COUNT_MAX];
    bool jit[PS_SPLIT_COUNT_MAX];
    uint32_t count;
};

const char *ps_split_pattern(const char *name)
{
    for (size_t i = 0; i < PS_ARRAY_LEN(named); i++)
        if (!strcmp(named[i].name, name))
            return named[i].pattern;
    return NULL;
}

/* ---- translation ---------------------------------------------------------------------------- */

struct translation {
    const char *at, *end;
    bool in_class;
    struct ps_strbuf *out;
    struct ps_error *err;
};

/* One escape. Only those that mean the same in both dialects, or can be made to, pass. */
static int translate_escape(struct translation *t)
{
    if (t->at + 1 >= t->end)
        return ps_error_set(t->err, -PS_ERR_FORMAT, "pre-tokenizer pattern",
                            "The pattern ends in a lone backslash.");
    char c = t->at[1];
    if (c == 's') {
        ps_strbuf_puts(t->out, t->in_class ? SPACE_SET : "[" SPACE_SET "]");
    } else if (c == 'S' && !t->in_class) {
        ps_strbuf_puts(t->out, "[^" SPACE_SET "]");
    } else if (isalnum((unsigned char)c) && !strchr("dDpPrntfxAz", c)) {
        return ps_error_set(t->err, -PS_ERR_UNSUPPORTED, "pre-tokenizer pattern",
                            "The pattern uses \\%c%s, which is not supported.", c,
                            t->in_class ? " in a character class" : "");
    } else {
        ps_strbuf_add(t->out, t->at, 2);
    }
    t->at += 2;
    return 0;
}

/* One character that is not an escape, with the bounds of character classes followed. */
static int translate_plain(struct translation *t)
{
    char c = *t->at;
    bool twice = t->at + 1 < t->end && t->at[1] == c;
    if (t->in_class && (c == '[' || (c == '&' && twice)))
        return ps_error_set(t->err, -PS_ERR_UNSUPPORTED, "pre-tokenizer pattern",
                            "The pattern nests or intersects character classes, "
                            "which is not supported.");
    ps_strbuf_putc(t->out, c);
    t->at++;
    if (c == '[' && !t->in_class) {
        t->in_class = true;
        if (t->at < t->end && *t->at == '^')
            ps_strbuf_putc(t->out, *t->at++);
        if (t->at < t->end && *t->at == ']') /* first in its class it stands for itself */
            ps_strbuf_putc(t->out, *t->at++);
    } else if (c == ']') {
        t->in_class = false;
    }
    return 0;
}

static int translate(struct ps_strbuf *out, struct ps_text_span pattern, struct ps_error *err)
{
    struct translation t = {pattern.data, pattern.data + pattern.bytes, false, out, err};
    ps_strbuf_add(out, "", 0);
    while (t.at < t.end) {
        int rc = *t.at == '\\' ? translate_escape(&t) : translate_plain(&t);
        if (rc < 0)
            return rc;
    }
    return out->failed ? ps_error_set(err, -ENOMEM, NULL, "Out of memory.") : 0;
}

/* ---- compilation ---------------------------------------------------------------------------- */

static int compile(struct ps_splitter *s, const struct ps_strbuf *pattern, struct ps_error *err)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return ps_error_set(err, -ENOMEM, NULL, "Out of memory.");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    PCRE2_SIZE offset = 0;
    /* PCRE2_MULTILINE: ^ and $ hold at every line, as in the dialect the pattern was written for.
     */
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern->data, pattern->bytes,
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE |
                                       PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE,
                                   &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!re) {
        char text[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof(text));
        return ps_error_set(err, -PS_ERR_FORMAT, "pre-tokenizer pattern",
                            "The pattern does not compile: %s (at byte %zu).", text,
                            (size_t)offset);
    }
    s->codes[s->count] = re;
    /* No JIT (a kernel that forbids executable memory): the interpreter gives the same matches. */
    s->jit[s->count] = pcre2_jit_compile(re, PCRE2_JIT_COMPLETE) == 0;
    s->count++;
    return 0;
}

int ps_splitter_open(struct ps_splitter **out, const struct ps_text_span *patterns, uint32_t count,
                     struct ps_error *err)
{
    if (count > PS_SPLIT_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, "pre-tokenizer",
                            "It has %u split steps; at most %u are supported.", count,
                            PS_SPLIT_COUNT_MAX);
    struct ps_strbuf pattern = {0};
    int rc = -ENOMEM;
    struct ps_splitter *s = calloc(1, sizeof(*s));
    if (!s || !(s->match_context = pcre2_match_context_create(NULL))) {
        ps_error_set(err, rc, NULL, "Out of memory.");
        goto fail;
    }
    pcre2_set_match_limit(s->match_context, MATCH_STEPS_MAX);
    pcre2_set_heap_limit(s->match_context, MATCH_HEAP_KIB_MAX);
    for (uint32_t i = 0; i < count; i++) {
        rc = -PS_ERR_UNSUPPORTED;
        if (patterns[i].bytes > PS_SPLIT_PATTERN_BYTES_MAX) {
            ps_error_set(err, rc, "pre-tokenizer pattern", "The pattern is longer than %u bytes.",
                         PS_SPLIT_PATTERN_BYTES_MAX);
            goto fail;
        }
        pattern.bytes = 0;
        rc = translate(&pattern, patterns[i], err);
        if (rc < 0)
            goto fail;
        rc = compile(s, &pattern, err);
        if (rc < 0)
            goto fail;
    }
    ps_strbuf_free(&pattern);
    *out = s;
    return 0;
fail:
    ps_strbuf_free(&pattern);
    ps_splitter_close(&s);
    return rc;
}

void ps_splitter_close(struct ps_splitter **splitter)
{
    if (!splitter || !*splitter)
        return;
    struct ps_splitter *s = *splitter;
    for (uint32_t i = 0; i < s->count; i++)
        pcre2_code_free(s->codes[i]);
    pcre2_match_context_free(s->match_context);
    free(s);
    *splitter = NULL;
}

uint64_t ps_splitter_memory_bytes(const struct ps_splitter *s)
{
    uint64_t total = sizeof(*s);
    for (uint32_t i = 0; i < s->count; i++) {
        size_t bytes = 0;
        if (!pcre2_pattern_info(s->codes[i], PCRE2_INFO_SIZE, &bytes))
            total += bytes;
        if (!pcre2_pattern_info(s->codes[i], PCRE2_INFO_JITSIZE, &bytes))
            total += bytes;
    }
    return total;
}

/* ---- matching ------------------------------------------------------------------------------- */

struct split_run {
    const struct ps_splitter *splitter;
    pcre2_match_data *match;
    ps_piece_fn *fn;
    void *ctx;
    struct ps_error *err;
};

/* Finds the first match at or after `from`. Returns 1, 0 when there is none, or an error. */
static int find(struct split_run *r, uint32_t level, struct ps_text_span text, size_t from,
                size_t *begin, size_t *end)
{
    const struct ps_splitter *s = r->splitter;
    /* The text is known to be valid; checking it again at every match would be quadratic. */
    uint32_t options = PCRE2_NO_UTF_CHECK | (s->jit[level] ? 0 : PCRE2_NO_JIT);
    int rc = pcre2_match(s->codes[level], (PCRE2_SPTR)text.data, text.bytes, from, options,
                         r->match, s->match_context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter has a heap to go on with */
        rc = pcre2_match(s->codes[level], (PCRE2_SPTR)text.data, text.bytes, from,
                         options | PCRE2_NO_JIT, r->match, s->match_context);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return ps_error_set(r->err, -ENOMEM, "pre-tokenizer", "Out of memory.");
    if (rc < 0) {
        char reason[128] = "";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)reason, sizeof(reason));
        return ps_error_set(r->err, -PS_ERR_UNSUPPORTED, "pre-tokenizer",
                            "The tokenizer's pattern cannot split this text: %s.", reason);
    }
    const PCRE2_SIZE *ovector = pcre2_get_ovector_pointer(r->match);
    *begin = ovector[0];
    *end = ovector[1];
    return 1;
}

static int split(struct split_run *r, uint32_t level, struct ps_text_span text);

static int hand_on(struct split_run *r, uint32_t level, struct ps_text_span text, size_t begin,
                   size_t end)
{
    if (begin == end)
        return 0;
    return split(r, level + 1, (struct ps_text_span){text.data + begin, end - begin});
}

/* Recurses once per pattern, of which there are at most PS_SPLIT_COUNT_MAX. */
static int split(struct split_run *r, uint32_t level, struct ps_text_span text)
{
    if (level == r->splitter->count)
        return r->fn(r->ctx, text.data, text.bytes);
    size_t done = 0, from = 0;
    while (from <= text.bytes) {
        size_t begin = 0, end = 0;
        int rc = find(r, level, text, from, &begin, &end);
        if (rc < 0)
            return rc;
        if (!rc)
            break;
        assert(begin >= done && end >= begin); /* \K is refused */
        if ((rc = hand_on(r, level, text, done, begin)) < 0 ||
            (rc = hand_on(r, level, text, begin, end)) < 0)
            return rc;
        done = end;
        from = end;
        if (begin == end) { /* an empty match only cuts: look on from the next character */
            uint32_t code;
            bool valid;
            if (from == text.bytes)
                break;
            from += ps_utf8_next(text.data + from, text.bytes - from, &code, &valid);
        }
    }
    return hand_on(r, level, text, done, text.bytes);
}

int ps_splitter_run(const struct ps_splitter *splitter, struct ps_text_span text, ps_piece_fn *fn,
                    void *ctx, struct ps_error *err)
{
    struct split_run run = {splitter, NULL, fn, ctx, err};
    if (!text.bytes)
        return 0;
    run.match = pcre2_match_data_create(1, NULL);
    if (!run.match)
        return ps_error_set(err, -ENOMEM, NULL, "Out of memory.");
    int rc = split(&run, 0, text);
    pcre2_match_data_free(run.match);
    return rc < 0 ? rc : 0;
}

/* ---- for tests ------------------------------------------------------------------------------ */

struct ends_sink {
    const char *text;
    size_t *ends;
    size_t capacity;
    int64_t count;
};

static int add_end(void *ctx, const char *piece, size_t bytes)
{
    struct ends_sink *sink = ctx;
    if ((size_t)sink->count < sink->capacity)
        sink->ends[sink->count] = (size_t)(piece - sink->text) + bytes;
    sink->count++;
    return 0;
}

int64_t ps_pretokenize(const char *regex_name, const char *text, size_t text_bytes, size_t *ends,
                       size_t capacity, struct ps_error *err)
{
    const char *pattern = ps_split_pattern(regex_name);
    if (!pattern)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "There is no pre-tokenizer named %s.",
                            regex_name);
    if (!ps_utf8_valid(text, text_bytes))
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "The text is not valid UTF-8.");
    struct ps_text_span span = {pattern, strlen(pattern)};
    struct ps_splitter *splitter = NULL;
    int rc = ps_splitter_open(&splitter, &span, 1, err);
    if (rc < 0)
        return rc;
    struct ends_sink sink = {text, ends, capacity, 0};
    rc = ps_splitter_run(splitter, (struct ps_text_span){text, text_bytes}, add_end, &sink, err);
    ps_splitter_close(&splitter);
    return rc < 0 ? rc : sink.count;
}
