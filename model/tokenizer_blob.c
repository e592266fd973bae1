#include "model/tokenizer_blob.h"

#include <errno.h>
#include <stdbool.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/util.h"
#include "model/strbuf.h"
#include "model/utf8.h"

#define VERSION_BYTES 1u      /* byte-level */
#define VERSION_CHARACTERS 2u /* with PS_TOKENIZER_CHARACTERS */
#define FLAGS_BYTES (PS_TOKENIZER_NFC | PS_TOKENIZER_IGNORE_MERGES)
#define FLAGS_CHARACTERS                                                                           \
    (PS_TOKENIZER_IGNORE_MERGES | PS_TOKENIZER_CHARACTERS | PS_TOKENIZER_SCORES |                  \
     PS_TOKENIZER_PREFIX | PS_TOKENIZER_PREFIX_FIRST | PS_TOKENIZER_PREFIX_ONCE |                  \
     PS_TOKENIZER_BOS)
#define HEADER_BYTES 48u
#define NO_TOKEN UINT32_MAX

static const char magic[8] = "PSTOKEN\n";

/* ---- reading -------------------------------------------------------------------------------- */

static int bad(struct ps_error *err, const char *what)
{
    return ps_error_set(err, -PS_ERR_FORMAT, "tokenizer",
                        "The tokenizer stored with the model is damaged: %s.", what);
}

static uint64_t blob_u64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, 8);
    return le64toh(value);
}

static int view_flags(struct ps_token_blob *v, const uint8_t *p, struct ps_error *err)
{
    uint32_t version = ps_blob_u32(p, 2);
    if (version != VERSION_BYTES && version != VERSION_CHARACTERS)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, "tokenizer",
                            "The stored tokenizer has format version %u; this program reads %u "
                            "and %u.",
                            version, VERSION_BYTES, VERSION_CHARACTERS);
    bool characters = version == VERSION_CHARACTERS;
    v->flags = ps_blob_u32(p, 3);
    v->bos = ps_blob_u32(p, 7);
    if (v->flags & ~(characters ? FLAGS_CHARACTERS : FLAGS_BYTES) ||
        characters != !!(v->flags & PS_TOKENIZER_CHARACTERS))
        return bad(err, "it has unknown flags");
    if (v->flags & PS_TOKENIZER_BOS ? v->bos >= ps_blob_u32(p, 4) : v->bos != 0)
        return bad(err, "it has unknown flags, or begins text with a token that is not there");
    return 0;
}

static int view_header(struct ps_token_blob *v, const uint8_t *p, size_t bytes,
                       struct ps_error *err)
{
    if (bytes < HEADER_BYTES)
        return ps_error_set(err, -PS_ERR_TRUNCATED, "tokenizer",
                            "The tokenizer stored with the model ends within its header.");
    if (memcmp(p, magic, sizeof(magic)) != 0)
        return bad(err, "its magic is wrong");
    int rc = view_flags(v, p, err);
    if (rc < 0)
        return rc;
    v->token_count = ps_blob_u32(p, 4);
    v->merge_count = ps_blob_u32(p, 5);
    v->pattern_count = ps_blob_u32(p, 6);
    uint64_t text_bytes = blob_u64(p + 32), pattern_bytes = blob_u64(p + 40);
    if (v->token_count > PS_TOKEN_COUNT_MAX || v->merge_count > PS_MERGE_COUNT_MAX ||
        v->pattern_count > PS_SPLIT_COUNT_MAX || text_bytes > PS_TEXT_BYTES_MAX ||
        pattern_bytes > PS_SPLIT_COUNT_MAX * (uint64_t)PS_SPLIT_PATTERN_BYTES_MAX)
        return bad(err, "its counts are out of range");
    uint64_t rank_bytes = v->flags & PS_TOKENIZER_SCORES ? 4ull * v->token_count : 0;
    uint64_t need = HEADER_BYTES + 5ull * v->token_count + 12ull * v->merge_count + rank_bytes +
                    4ull * v->pattern_count + pattern_bytes + text_bytes;
    if (need != bytes)
        return ps_error_set(err, need > bytes ? -PS_ERR_TRUNCATED : -PS_ERR_FORMAT, "tokenizer",
                            "The stored tokenizer has %zu bytes where its header announces %llu.",
                            bytes, (unsigned long long)need);
    v->ends = p + HEADER_BYTES;
    v->merges = v->ends + 4ull * v->token_count;
    v->ranks = v->merges + 12ull * v->merge_count;
    const uint8_t *pattern_ends = v->ranks + rank_bytes;
    v->kinds = pattern_ends + 4ull * v->pattern_count;
    const char *patterns = (const char *)v->kinds + v->token_count;
    v->text = patterns + pattern_bytes;
    uint32_t begin = 0;
    for (uint32_t i = 0; i < v->pattern_count; i++) {
        uint32_t end = ps_blob_u32(pattern_ends, i);
        if (end < begin || end > pattern_bytes)
            return bad(err, "the bounds of its patterns are wrong");
        v->patterns[i] = (struct ps_text_span){patterns + begin, end - begin};
        begin = end;
    }
    if (begin != pattern_bytes)
        return bad(err, "the bounds of its patterns are wrong");
    return 0;
}

/* What a token's kind allows, besides its bounds. */
static bool kind_is_known(const struct ps_token_blob *v, uint32_t kind, uint32_t bytes)
{
    bool characters = v->flags & PS_TOKENIZER_CHARACTERS;
    if (kind & PS_TOKEN_BYTE)
        return characters && kind == PS_TOKEN_BYTE && bytes == 1;
    if ((kind & (PS_TOKEN_SPECIAL | PS_TOKEN_NORMALISED)) && !(kind & PS_TOKEN_ADDED))
        return false;
    if ((kind & PS_TOKEN_NORMALISED) && characters)
        return false;
    return kind <= 15 && (!kind || bytes);
}

static int view_tokens(const struct ps_token_blob *v, uint64_t text_bytes, struct ps_error *err)
{
    bool have[256] = {false};
    uint32_t single = v->flags & PS_TOKENIZER_CHARACTERS ? PS_TOKEN_BYTE : PS_TOKEN_NORMAL;
    uint32_t begin = 0;
    for (uint32_t id = 0; id < v->token_count; id++) {
        uint32_t end = ps_blob_u32(v->ends, id), kind = v->kinds[id];
        if (end < begin || end > text_bytes || end - begin > PS_TOKEN_BYTES_MAX)
            return bad(err, "the bounds of its tokens are wrong");
        if (!kind_is_known(v, kind, end - begin))
            return bad(err, "a token is of no known kind");
        if ((kind & single) && end - begin == 1)
            have[(uint8_t)v->text[begin]] = true;
        /* Text is cut at added tokens; were one not whole characters, the rest would not be. */
        if ((kind & PS_TOKEN_ADDED) &&
            (end - begin > PS_ADDED_BYTES_MAX || !ps_utf8_valid(v->text + begin, end - begin)))
            return bad(err, "an added token is not valid text");
        if ((v->flags & PS_TOKENIZER_SCORES) && ps_blob_u32(v->ranks, id) >= v->token_count)
            return bad(err, "the rank of a token is out of range");
        begin = end;
    }
    if (begin != text_bytes)
        return bad(err, "the bounds of its tokens are wrong");
    for (int b = 0; b < 256; b++)
        if (!have[b])
            return bad(err, "a byte has no token");
    return 0;
}

static int view_merges(const struct ps_token_blob *v, struct ps_error *err)
{
    for (uint64_t m = 0; m < v->merge_count; m++) {
        struct ps_text_span span[3];
        for (int i = 0; i < 3; i++) {
            uint32_t id = ps_blob_u32(v->merges, 3 * m + i);
            if (id >= v->token_count || !(v->kinds[id] & PS_TOKEN_NORMAL))
                return bad(err, "a merge names a token that is not there");
            span[i] = ps_blob_token(v, id);
        }
        if (span[0].bytes + span[1].bytes != span[2].bytes ||
            memcmp(span[0].data, span[2].data, span[0].bytes) != 0 ||
            memcmp(span[1].data, span[2].data + span[0].bytes, span[1].bytes) != 0)
            return bad(err, "a merge does not make the token it names");
    }
    return 0;
}

int ps_token_blob_view(struct ps_token_blob *view, const void *blob, size_t bytes,
                       struct ps_error *err)
{
    struct ps_token_blob v = {0};
    int rc = view_header(&v, blob, bytes, err);
    if (rc >= 0)
        rc = view_tokens(&v, blob_u64((const uint8_t *)blob + 32), err);
    if (rc >= 0)
        rc = view_merges(&v, err);
    if (rc >= 0)
        *view = v;
    return rc;
}

/* ---- the byte-level alphabet ---------------------------------------------------------------- */

/* Byte-level vocabularies are written in printable characters: bytes that are printable in Latin-1
 * stand for themselves, the other 68 are U+0100 and up, in order. Returns -1 outside of it. */
static int alphabet_byte(uint32_t code)
{
    static const uint8_t edges[4][2] = {{0, 32}, {127, 160}, {173, 173}, {1, 0}};
    if (code < 0x100) {
        for (int i = 0; edges[i][0] <= edges[i][1]; i++)
            if (code >= edges[i][0] && code <= edges[i][1])
                return -1;
        return (int)code;
    }
    uint32_t nth = code - 0x100;
    for (int i = 0; edges[i][0] <= edges[i][1]; i++) {
        uint32_t size = edges[i][1] - edges[i][0] + 1u;
        if (nth < size)
            return edges[i][0] + (int)nth;
        nth -= size;
    }
    return -1;
}

/* Appends the bytes that a surface stands for. False when it has characters outside the alphabet
 * (or is not UTF-8): then the surface itself is appended. */
static bool surface_bytes(struct ps_strbuf *out, struct ps_text_span surface)
{
    size_t before = out->bytes;
    for (size_t at = 0; at < surface.bytes;) {
        uint32_t code;
        bool valid;
        at += ps_utf8_next(surface.data + at, surface.bytes - at, &code, &valid);
        int byte = valid ? alphabet_byte(code) : -1;
        if (byte < 0) {
            out->bytes = before;
            ps_strbuf_add(out, surface.data, surface.bytes);
            return false;
        }
        ps_strbuf_putc(out, (char)byte);
    }
    return true;
}

/* ---- character vocabularies ------------------------------------------------------------------ */

/* The byte that "<0x0A>" spells, or -1. */
static int spelled_byte(struct ps_text_span surface)
{
    static const char digits[] = "0123456789ABCDEF";
    if (surface.bytes != 6 || memcmp(surface.data, "<0x", 3) != 0 || surface.data[5] != '>')
        return -1;
    const char *high = memchr(digits, surface.data[3], 16);
    const char *low = memchr(digits, surface.data[4], 16);
    return high && low ? (int)((high - digits) << 4 | (low - digits)) : -1;
}

/* Appends the text of a vocabulary's token; returns its kind. Text with a blank of its own is never
 * looked for: where it comes from, blanks are "\u2581". */
static uint32_t character_bytes(struct ps_strbuf *out, struct ps_text_span surface)
{
    int byte = spelled_byte(surface);
    if (byte >= 0) {
        ps_strbuf_putc(out, (char)byte);
        return PS_TOKEN_BYTE;
    }
    ps_blob_add_blanks(out, surface);
    return memchr(surface.data, ' ', surface.bytes) ? 0 : PS_TOKEN_NORMAL;
}

void ps_blob_add_blanks(struct ps_strbuf *out, struct ps_text_span text)
{
    static const char mark[] = "\xE2\x96\x81";
    for (const char *found; text.bytes && (found = memmem(text.data, text.bytes, mark, 3));) {
        size_t before = (size_t)(found - text.data);
        ps_strbuf_add(out, text.data, before);
        ps_strbuf_putc(out, ' ');
        text = (struct ps_text_span){found + 3, text.bytes - before - 3};
    }
    ps_strbuf_add(out, text.data, text.bytes);
}

/* ---- building ------------------------------------------------------------------------------- */

struct builder {
    const struct ps_token_parts *parts;
    struct ps_error *err;
    uint32_t *table; /* surfaces of normal tokens to ids; open addressing */
    uint32_t mask;
    uint32_t *ends, *merges, *ranks;
    uint8_t *kinds;
    struct ps_strbuf text;
    uint64_t pattern_bytes;
};

static int no_memory(struct ps_error *err)
{
    return ps_error_set(err, -ENOMEM, NULL, "Out of memory while building the tokenizer.");
}

static bool span_equal(struct ps_text_span a, struct ps_text_span b)
{
    return a.bytes == b.bytes && !memcmp(a.data, b.data, a.bytes);
}

/* The slot that holds the surface, or the free one where it belongs. */
static uint32_t *table_slot(const struct builder *b, struct ps_text_span surface)
{
    uint32_t at = (uint32_t)XXH3_64bits(surface.data, surface.bytes) & b->mask;
    while (b->table[at] != NO_TOKEN && !span_equal(b->parts->tokens[b->table[at]].surface, surface))
        at = (at + 1) & b->mask;
    return &b->table[at];
}

static int build_table(struct builder *b)
{
    uint32_t size = 16;
    while (size < 2 * b->parts->token_count)
        size *= 2;
    b->table = malloc(size * sizeof(*b->table));
    if (!b->table)
        return no_memory(b->err);
    memset(b->table, 0xFF, size * sizeof(*b->table));
    b->mask = size - 1;
    for (uint32_t id = 0; id < b->parts->token_count; id++) {
        const struct ps_token_part *token = &b->parts->tokens[id];
        if (!(token->kind & PS_TOKEN_NORMAL))
            continue;
        uint32_t *slot = table_slot(b, token->surface);
        if (*slot != NO_TOKEN)
            return ps_error_set(b->err, -PS_ERR_FORMAT, b->parts->where,
                                "Tokens %u and %u of the vocabulary are the same text.", *slot, id);
        *slot = id;
    }
    return 0;
}

/* Appends the bytes of a token of the vocabulary that is not an added one; returns its kind. */
static uint32_t vocabulary_bytes(struct builder *b, struct ps_text_span surface)
{
    if (b->parts->flags & PS_TOKENIZER_CHARACTERS)
        return surface.bytes ? character_bytes(&b->text, surface) : 0;
    return surface_bytes(&b->text, surface) ? PS_TOKEN_NORMAL : 0;
}

static int build_token(struct builder *b, uint32_t id)
{
    const struct ps_token_part *token = &b->parts->tokens[id];
    uint32_t kind = token->kind;
    size_t before = b->text.bytes;
    if (kind & PS_TOKEN_ADDED) {
        /* Also in the vocabulary: still reachable there if its text stands for itself. */
        if ((kind & PS_TOKEN_NORMAL) &&
            (vocabulary_bytes(b, token->surface) != PS_TOKEN_NORMAL || b->text.failed ||
             !span_equal((struct ps_text_span){b->text.data + before, b->text.bytes - before},
                         token->surface)))
            kind &= ~PS_TOKEN_NORMAL;
        b->text.bytes = before;
        ps_strbuf_add(&b->text, token->surface.data, token->surface.bytes);
    } else {
        uint32_t found = vocabulary_bytes(b, token->surface);
        kind = kind ? found : 0;
    }
    if (b->text.failed)
        return no_memory(b->err);
    size_t bytes = b->text.bytes - before;
    size_t most = kind & PS_TOKEN_ADDED ? PS_ADDED_BYTES_MAX : PS_TOKEN_BYTES_MAX;
    if (bytes > most || b->text.bytes > PS_TEXT_BYTES_MAX)
        return ps_error_set(b->err, -PS_ERR_UNSUPPORTED, b->parts->where,
                            "Token %u has %zu bytes, more than the %zu that are supported.", id,
                            bytes, most);
    if ((kind & PS_TOKEN_ADDED) && !ps_utf8_valid(token->surface.data, token->surface.bytes))
        return ps_error_set(b->err, -PS_ERR_FORMAT, b->parts->where,
                            "The text of token %u is not valid UTF-8.", id);
    b->kinds[id] = (uint8_t)(bytes ? kind : 0);
    b->ends[id] = (uint32_t)b->text.bytes;
    return 0;
}

/* A token that NFC would change is looked for in normalised text, where its own text never is. */
static int check_normalised(struct builder *b, uint32_t id)
{
    const struct ps_token_part *token = &b->parts->tokens[id];
    if (!(token->kind & PS_TOKEN_NORMALISED) || !(b->parts->flags & PS_TOKENIZER_NFC))
        return 0;
    struct ps_strbuf nfc = {0};
    ps_utf8_nfc(&nfc, token->surface.data, token->surface.bytes);
    bool failed = nfc.failed;
    bool same = nfc.bytes == token->surface.bytes &&
                (!nfc.bytes || !memcmp(nfc.data, token->surface.data, nfc.bytes));
    ps_strbuf_free(&nfc);
    if (failed)
        return no_memory(b->err);
    if (!same)
        return ps_error_set(b->err, -PS_ERR_UNSUPPORTED, b->parts->where,
                            "Added token %u is not in NFC, which is not supported.", id);
    return 0;
}

static int build_tokens(struct builder *b)
{
    uint32_t count = b->parts->token_count;
    b->ends = calloc(count + 1ull, sizeof(*b->ends));
    b->kinds = calloc(count + 1ull, 1);
    if (!b->ends || !b->kinds)
        return no_memory(b->err);
    ps_strbuf_add(&b->text, "", 0);
    for (uint32_t id = 0; id < count; id++) {
        int rc = build_token(b, id);
        if (rc >= 0)
            rc = check_normalised(b, id);
        if (rc < 0)
            return rc;
    }
    bool have[256] = {false}, characters = b->parts->flags & PS_TOKENIZER_CHARACTERS;
    for (uint32_t id = 0; id < count; id++) {
        uint32_t begin = id ? b->ends[id - 1] : 0;
        if ((b->kinds[id] & (characters ? PS_TOKEN_BYTE : PS_TOKEN_NORMAL)) &&
            b->ends[id] - begin == 1)
            have[(uint8_t)b->text.data[begin]] = true;
    }
    for (unsigned byte = 0; byte < 256; byte++)
        if (!have[byte])
            return ps_error_set(b->err, -PS_ERR_UNSUPPORTED, b->parts->where,
                                "The vocabulary has no token for byte 0x%02X: "
                                "only %s is supported.",
                                byte, characters ? "BPE with all bytes" : "byte-level BPE");
    return 0;
}

static int build_merge(struct builder *b, uint32_t m, struct ps_strbuf *joined)
{
    const struct ps_merge_part *merge = &b->parts->merges[m];
    joined->bytes = 0;
    ps_strbuf_add(joined, merge->left.data, merge->left.bytes);
    ps_strbuf_add(joined, merge->right.data, merge->right.bytes);
    if (joined->failed)
        return no_memory(b->err);
    struct ps_text_span both = {joined->data, joined->bytes};
    uint32_t ids[3] = {*table_slot(b, merge->left), *table_slot(b, merge->right),
                       *table_slot(b, both)};
    for (int i = 0; i < 3; i++) {
        if (ids[i] == NO_TOKEN)
            return ps_error_set(b->err, -PS_ERR_FORMAT, b->parts->where,
                                "Merge %u (\"%.*s\") uses or makes a token that is not in the "
                                "vocabulary.",
                                m, (int)ps_min_u64(both.bytes, 64), both.data);
        if (!(b->kinds[ids[i]] & PS_TOKEN_NORMAL))
            return ps_error_set(b->err, -PS_ERR_UNSUPPORTED, b->parts->where,
                                "Merge %u uses or makes token %u, which is not written in the "
                                "vocabulary's alphabet.",
                                m, ids[i]);
        b->merges[3ull * m + i] = ids[i];
    }
    return 0;
}

static int build_merges(struct builder *b)
{
    struct ps_strbuf joined = {0};
    int rc = 0;
    b->merges = calloc(3ull * b->parts->merge_count + 1, sizeof(*b->merges));
    if (!b->merges)
        return no_memory(b->err);
    for (uint32_t m = 0; m < b->parts->merge_count && rc >= 0; m++)
        rc = build_merge(b, m, &joined);
    ps_strbuf_free(&joined);
    return rc;
}

static int score_compare(const void *a, const void *b, void *ctx)
{
    const float *scores = *(const float *const *)ctx;
    float x = scores[*(const uint32_t *)a];
    float y = scores[*(const uint32_t *)b];
    return (x < y) - (x > y);
}

/* Places in the order of descending scores; equal scores share one. */
static int build_ranks(struct builder *b)
{
    const struct ps_token_parts *parts = b->parts;
    if (!(parts->flags & PS_TOKENIZER_SCORES))
        return 0;
    uint32_t *order = malloc((parts->token_count + 1ull) * sizeof(*order));
    b->ranks = malloc((parts->token_count + 1ull) * sizeof(*b->ranks));
    if (!order || !b->ranks) {
        free(order);
        return no_memory(b->err);
    }
    for (uint32_t id = 0; id < parts->token_count; id++)
        order[id] = id;
    qsort_r(order, parts->token_count, sizeof(*order), score_compare, (void *)&parts->scores);
    uint32_t rank = 0;
    for (uint32_t i = 0; i < parts->token_count; i++) {
        rank += i && parts->scores[order[i]] < parts->scores[order[i - 1]];
        b->ranks[order[i]] = rank;
    }
    free(order);
    return 0;
}

static uint8_t *put_u32(uint8_t *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, 4);
    return at + 4;
}

static uint8_t *put_bytes(uint8_t *at, const void *data, size_t bytes)
{
    if (bytes)
        memcpy(at, data, bytes);
    return at + bytes;
}

static void write_blob(const struct builder *b, uint8_t *at)
{
    const struct ps_token_parts *parts = b->parts;
    uint64_t text_bytes = htole64(b->text.bytes), pattern_bytes = htole64(b->pattern_bytes);
    at = put_bytes(at, magic, sizeof(magic));
    at = put_u32(at, parts->flags & PS_TOKENIZER_CHARACTERS ? VERSION_CHARACTERS : VERSION_BYTES);
    at = put_u32(at, parts->flags);
    at = put_u32(at, parts->token_count);
    at = put_u32(at, parts->merge_count);
    at = put_u32(at, parts->pattern_count);
    at = put_u32(at, parts->bos);
    at = put_bytes(at, &text_bytes, 8);
    at = put_bytes(at, &pattern_bytes, 8);
    for (uint32_t id = 0; id < parts->token_count; id++)
        at = put_u32(at, b->ends[id]);
    for (uint64_t i = 0; i < 3ull * parts->merge_count; i++)
        at = put_u32(at, b->merges[i]);
    for (uint32_t id = 0; b->ranks && id < parts->token_count; id++)
        at = put_u32(at, b->ranks[id]);
    uint32_t end = 0;
    for (uint32_t i = 0; i < parts->pattern_count; i++) {
        end += (uint32_t)parts->patterns[i].bytes;
        at = put_u32(at, end);
    }
    at = put_bytes(at, b->kinds, parts->token_count);
    for (uint32_t i = 0; i < parts->pattern_count; i++)
        at = put_bytes(at, parts->patterns[i].data, parts->patterns[i].bytes);
    put_bytes(at, b->text.data, b->text.bytes);
}

static int build_blob(struct builder *b, void **blob, size_t *blob_bytes)
{
    const struct ps_token_parts *parts = b->parts;
    for (uint32_t i = 0; i < parts->pattern_count; i++)
        b->pattern_bytes += parts->patterns[i].bytes;
    size_t bytes = HEADER_BYTES + 5ull * parts->token_count + 12ull * parts->merge_count +
                   (b->ranks ? 4ull * parts->token_count : 0) + 4ull * parts->pattern_count +
                   b->pattern_bytes + b->text.bytes;
    uint8_t *data = malloc(bytes);
    if (!data)
        return no_memory(b->err);
    write_blob(b, data);
    struct ps_token_blob view;
    int rc = ps_token_blob_view(&view, data, bytes, b->err);
    if (rc < 0) {
        free(data);
        return rc;
    }
    *blob = data;
    *blob_bytes = bytes;
    return 0;
}

int ps_token_blob_build(const struct ps_token_parts *parts, void **blob, size_t *blob_bytes,
                        struct ps_error *err)
{
    struct builder b = {.parts = parts, .err = err};
    struct ps_splitter *splitter = NULL;
    if (parts->token_count > PS_TOKEN_COUNT_MAX || parts->merge_count > PS_MERGE_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, parts->where,
                            "It has %u tokens and %u merges; at most %u and %u are supported.",
                            parts->token_count, parts->merge_count, PS_TOKEN_COUNT_MAX,
                            PS_MERGE_COUNT_MAX);
    /* Compiled for the check alone: a pattern that could not be used later is refused now. */
    int rc = ps_splitter_open(&splitter, parts->patterns, parts->pattern_count, err);
    ps_splitter_close(&splitter);
    if (rc >= 0)
        rc = build_table(&b);
    if (rc >= 0)
        rc = build_tokens(&b);
    if (rc >= 0)
        rc = build_merges(&b);
    if (rc >= 0)
        rc = build_ranks(&b);
    if (rc >= 0)
        rc = build_blob(&b, blob, blob_bytes);
    free(b.table);
    free(b.ends);
    free(b.merges);
    free(b.ranks);
    free(b.kinds);
    ps_strbuf_free(&b.text);
    return rc;
}
