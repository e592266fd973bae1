#include "model/tokenizer.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/util.h"
#include "model/strbuf.h"
#include "model/tokenizer_blob.h"
#include "model/utf8.h"

#define NONE UINT32_MAX
#define UNKNOWN (UINT32_MAX - 1)  /* a character that is no token; no merge names it */
#define BLANK_MARK "\xE2\x96\x81" /* U+2581 */
#define TEXT_BYTES_MAX (1u << 30) /* positions in a piece are 32 bits wide */

/* Added tokens sorted by their bytes: the longest one at a place is found by narrowing a range. */
struct added_set {
    uint32_t *ids;
    uint32_t count;
    bool first[256]; /* bytes that one of them begins with */
};

struct ps_tokenizer {
    struct ps_token_blob blob;
    struct ps_splitter *splitter;
    uint32_t *merges; /* hash of (left, right) to rank; open addressing, at most half full */
    uint32_t merge_mask;
    uint32_t *pieces; /* hash of bytes to id, with PS_TOKENIZER_IGNORE_MERGES or _CHARACTERS */
    uint32_t piece_mask, piece_bytes_max;
    int32_t byte_id[256];
    struct added_set added[2]; /* matched before and after normalisation */
    uint64_t memory_bytes;
};

static int no_memory(struct ps_error *err)
{
    return ps_error_set(err, -ENOMEM, NULL, "Out of memory in the tokenizer.");
}

/* ---- tables --------------------------------------------------------------------------------- */

static uint32_t *table_open(struct ps_tokenizer *t, uint64_t entries, uint32_t *mask)
{
    uint64_t size = 16;
    while (size < 2 * entries)
        size *= 2;
    uint32_t *table = malloc(size * sizeof(*table));
    if (!table)
        return NULL;
    memset(table, 0xFF, size * sizeof(*table));
    *mask = (uint32_t)(size - 1);
    t->memory_bytes += size * sizeof(*table);
    return table;
}

static uint32_t merge_hash(uint32_t left, uint32_t right)
{
    uint64_t x = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(x >> 32) ^ (uint32_t)(x >> 15);
}

/* The slot of a pair: its rank is there, or NONE. */
static uint32_t *merge_slot(const struct ps_tokenizer *t, uint32_t left, uint32_t right)
{
    uint32_t at = merge_hash(left, right) & t->merge_mask;
    for (;; at = (at + 1) & t->merge_mask) {
        uint32_t rank = t->merges[at];
        if (rank == NONE || (ps_blob_u32(t->blob.merges, 3ull * rank) == left &&
                             ps_blob_u32(t->blob.merges, 3ull * rank + 1) == right))
            return &t->merges[at];
    }
}

static uint32_t merge_result(const struct ps_tokenizer *t, uint32_t rank)
{
    return ps_blob_u32(t->blob.merges, 3ull * rank + 2);
}

static bool token_is(const struct ps_tokenizer *t, uint32_t id, const char *bytes, size_t count)
{
    struct ps_text_span token = ps_blob_token(&t->blob, id);
    return token.bytes == count && !memcmp(token.data, bytes, count);
}

static uint32_t *piece_slot(const struct ps_tokenizer *t, const char *piece, size_t bytes)
{
    uint32_t at = (uint32_t)XXH3_64bits(piece, bytes) & t->piece_mask;
    while (t->pieces[at] != NONE && !token_is(t, t->pieces[at], piece, bytes))
        at = (at + 1) & t->piece_mask;
    return &t->pieces[at];
}

static int open_tables(struct ps_tokenizer *t, struct ps_error *err)
{
    t->merges = table_open(t, t->blob.merge_count, &t->merge_mask);
    if (!t->merges)
        return no_memory(err);
    /* Of a pair that is listed twice the later rank counts, as in the source's own reader. */
    for (uint32_t rank = 0; rank < t->blob.merge_count; rank++)
        *merge_slot(t, ps_blob_u32(t->blob.merges, 3ull * rank),
                    ps_blob_u32(t->blob.merges, 3ull * rank + 1)) = rank;
    bool whole = t->blob.flags & (PS_TOKENIZER_IGNORE_MERGES | PS_TOKENIZER_CHARACTERS);
    uint32_t single = t->blob.flags & PS_TOKENIZER_CHARACTERS ? PS_TOKEN_BYTE : PS_TOKEN_NORMAL;
    if (whole && !(t->pieces = table_open(t, t->blob.token_count, &t->piece_mask)))
        return no_memory(err);
    for (uint32_t id = 0; id < t->blob.token_count; id++) {
        struct ps_text_span token = ps_blob_token(&t->blob, id);
        if ((t->blob.kinds[id] & single) && token.bytes == 1)
            t->byte_id[(uint8_t)token.data[0]] = (int32_t)id;
        if (!whole || !(t->blob.kinds[id] & PS_TOKEN_NORMAL))
            continue;
        *piece_slot(t, token.data, token.bytes) = id;
        if (token.bytes > t->piece_bytes_max)
            t->piece_bytes_max = (uint32_t)token.bytes;
    }
    return 0;
}

/* ---- added tokens --------------------------------------------------------------------------- */

static int span_compare(struct ps_text_span a, struct ps_text_span b)
{
    int order = memcmp(a.data, b.data, ps_min_u64(a.bytes, b.bytes));
    return order ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static int added_compare(const void *a, const void *b, void *blob)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    int order = span_compare(ps_blob_token(blob, x), ps_blob_token(blob, y));
    return order ? order : (x > y) - (x < y);
}

static int open_added(struct ps_tokenizer *t, struct ps_error *err)
{
    for (uint32_t pass = 0; pass < 2; pass++) {
        struct added_set *set = &t->added[pass];
        uint32_t want = PS_TOKEN_ADDED | (pass ? PS_TOKEN_NORMALISED : 0);
        uint32_t mask = PS_TOKEN_ADDED | PS_TOKEN_NORMALISED;
        uint32_t count = 0;
        for (uint32_t id = 0; id < t->blob.token_count; id++)
            count += (t->blob.kinds[id] & mask) == want;
        set->ids = malloc((count + 1ull) * sizeof(*set->ids));
        if (!set->ids)
            return no_memory(err);
        t->memory_bytes += (count + 1ull) * sizeof(*set->ids);
        for (uint32_t id = 0; id < t->blob.token_count; id++) {
            if ((t->blob.kinds[id] & mask) != want)
                continue;
            set->ids[set->count++] = id;
            set->first[(uint8_t)ps_blob_token(&t->blob, id).data[0]] = true;
        }
        qsort_r(set->ids, set->count, sizeof(*set->ids), added_compare, &t->blob);
    }
    return 0;
}

/* First index in [low, high) whose token has at `depth` a byte >= wanted; all share what is before.
 * A token that ends at `depth` sorts first. */
static uint32_t added_bound(const struct ps_tokenizer *t, const struct added_set *set, uint32_t low,
                            uint32_t high, size_t depth, int wanted)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct ps_text_span token = ps_blob_token(&t->blob, set->ids[middle]);
        int byte = token.bytes > depth ? (uint8_t)token.data[depth] : -1;
        if (byte < wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest added token that text begins with. Returns its id, or NONE. */
static uint32_t added_at(const struct ps_tokenizer *t, const struct added_set *set,
                         struct ps_text_span text)
{
    uint32_t best = NONE, low = 0, high = set->count;
    for (size_t depth = 0; depth < text.bytes && low < high; depth++) {
        int byte = (uint8_t)text.data[depth];
        low = added_bound(t, set, low, high, depth, byte);
        high = added_bound(t, set, low, high, depth, byte + 1);
        if (low < high && ps_blob_token(&t->blob, set->ids[low]).bytes == depth + 1)
            best = set->ids[low];
    }
    return best;
}

/* ---- open and close ------------------------------------------------------------------------- */

int ps_tokenizer_open(struct ps_tokenizer **out, const void *blob, size_t blob_bytes,
                      struct ps_error *err)
{
    struct ps_tokenizer *t = calloc(1, sizeof(*t));
    if (!t)
        return no_memory(err);
    t->memory_bytes = sizeof(*t);
    int rc = ps_token_blob_view(&t->blob, blob, blob_bytes, err);
    if (rc >= 0)
        rc = ps_splitter_open(&t->splitter, t->blob.patterns, t->blob.pattern_count, err);
    if (rc >= 0)
        rc = open_tables(t, err);
    if (rc >= 0)
        rc = open_added(t, err);
    if (rc < 0) {
        ps_tokenizer_close(&t);
        return rc;
    }
    t->memory_bytes += ps_splitter_memory_bytes(t->splitter);
    *out = t;
    return 0;
}

void ps_tokenizer_close(struct ps_tokenizer **tokenizer)
{
    if (!tokenizer || !*tokenizer)
        return;
    struct ps_tokenizer *t = *tokenizer;
    ps_splitter_close(&t->splitter);
    free(t->merges);
    free(t->pieces);
    free(t->added[0].ids);
    free(t->added[1].ids);
    free(t);
    *tokenizer = NULL;
}

uint64_t ps_tokenizer_memory_bytes(const struct ps_tokenizer *tokenizer)
{
    return tokenizer->memory_bytes;
}

uint32_t ps_tokenizer_vocab_count(const struct ps_tokenizer *tokenizer)
{
    return tokenizer->blob.token_count;
}

int32_t ps_tokenizer_find(const struct ps_tokenizer *t, const char *text)
{
    struct ps_text_span span = {text, strlen(text)};
    for (int pass = 0; pass < 2; pass++) {
        uint32_t id = added_at(t, &t->added[pass], span);
        if (id != NONE && ps_blob_token(&t->blob, id).bytes == span.bytes)
            return (int32_t)id;
    }
    return -1;
}

/* ---- encoding ------------------------------------------------------------------------------- */

struct symbol {
    uint32_t id; /* NONE once it has been merged into the one before it */
    uint32_t prev, next, begin;
};

struct encoder {
    const struct ps_tokenizer *t;
    int32_t *ids;
    size_t capacity;
    int64_t count;
    const char *text; /* all of it, from its beginning */
    bool goes_on;     /* it is the rest of a text */
    struct ps_text_span piece;
    struct symbol *symbols; /* scratch for one piece */
    uint64_t *heap;         /* rank << 32 | position of the left symbol: the least first */
    size_t heap_count, scratch_bytes;
    struct ps_strbuf normalised;
    struct ps_error *err;
};

static void emit(struct encoder *e, uint32_t id)
{
    if ((size_t)e->count < e->capacity)
        e->ids[e->count] = (int32_t)id;
    e->count++;
}

static int scratch_reserve(struct encoder *e, size_t bytes)
{
    if (bytes <= e->scratch_bytes)
        return 0;
    size_t want = bytes < 256 ? 256 : bytes;
    free(e->symbols);
    free(e->heap);
    e->symbols = malloc(want * sizeof(*e->symbols));
    /* A piece of n bytes starts with n - 1 pairs, and each of at most n - 1 merges takes one entry
     * and puts two. */
    e->heap = malloc(2 * want * sizeof(*e->heap));
    e->scratch_bytes = e->symbols && e->heap ? want : 0;
    return e->scratch_bytes ? 0 : no_memory(e->err);
}

static void heap_push(struct encoder *e, uint64_t key)
{
    size_t at = e->heap_count++;
    while (at && e->heap[(at - 1) / 2] > key) {
        e->heap[at] = e->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    e->heap[at] = key;
}

static uint64_t heap_pop(struct encoder *e)
{
    uint64_t top = e->heap[0], last = e->heap[--e->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < e->heap_count; at = child) {
        if (child + 1 < e->heap_count && e->heap[child + 1] < e->heap[child])
            child++;
        if (e->heap[child] >= last)
            break;
        e->heap[at] = e->heap[child];
    }
    e->heap[at] = last;
    return top;
}

static uint32_t symbol_end(const struct encoder *e, uint32_t at)
{
    uint32_t next = e->symbols[at].next;
    return next == NONE ? (uint32_t)e->piece.bytes : e->symbols[next].begin;
}

/* The rank of a symbol and the next one, and the token they make together; NONE for no token. */
static uint32_t pair_rank(const struct encoder *e, uint32_t at, uint32_t *result)
{
    const struct ps_tokenizer *t = e->t;
    const struct symbol *s = &e->symbols[at];
    if (s->next == NONE)
        return NONE;
    if (!(t->blob.flags & PS_TOKENIZER_SCORES)) {
        uint32_t rank = *merge_slot(t, s->id, e->symbols[s->next].id);
        *result = rank == NONE ? NONE : merge_result(t, rank);
        return rank;
    }
    uint32_t bytes = symbol_end(e, s->next) - s->begin;
    *result = bytes > t->piece_bytes_max ? NONE : *piece_slot(t, e->piece.data + s->begin, bytes);
    return *result == NONE ? NONE : ps_blob_u32(t->blob.ranks, *result);
}

static void push_pair(struct encoder *e, uint32_t at)
{
    uint32_t result, rank = pair_rank(e, at, &result);
    if (rank != NONE)
        heap_push(e, (uint64_t)rank << 32 | at);
}

/* Merges the pair on top of the heap, unless it is gone: entries are never taken out when one of
 * their symbols changes, but looked at again here. The test is the reference implementation's: the
 * pair that is there now must make the same token; by scores, one that is as good. */
static void merge_top(struct encoder *e)
{
    uint64_t key = heap_pop(e);
    uint32_t at = (uint32_t)key, rank = (uint32_t)(key >> 32);
    struct symbol *left = &e->symbols[at];
    if (left->id == NONE)
        return;
    bool scores = e->t->blob.flags & PS_TOKENIZER_SCORES;
    uint32_t result, now = pair_rank(e, at, &result);
    if (now == NONE || (scores ? now != rank : result != merge_result(e->t, rank)))
        return;
    struct symbol *right = &e->symbols[left->next];
    left->id = result;
    left->next = right->next;
    right->id = NONE;
    if (left->next != NONE)
        e->symbols[left->next].prev = at;
    if (left->prev != NONE)
        push_pair(e, left->prev);
    push_pair(e, at);
}

/* The piece's bytes or characters, each a symbol. Returns how many. */
static uint32_t open_symbols(struct encoder *e)
{
    const struct ps_tokenizer *t = e->t;
    const char *piece = e->piece.data;
    uint32_t count = 0, bytes = (uint32_t)e->piece.bytes;
    for (uint32_t at = 0; at < bytes; count++) {
        uint32_t code, step = 1, id = (uint32_t)t->byte_id[(uint8_t)piece[at]];
        bool valid;
        if (t->blob.flags & PS_TOKENIZER_CHARACTERS) {
            step = (uint32_t)ps_utf8_next(piece + at, bytes - at, &code, &valid);
            id = *piece_slot(t, piece + at, step);
            id = id == NONE ? UNKNOWN : id;
        }
        e->symbols[count] =
            (struct symbol){id, count - 1, at + step < bytes ? count + 1 : NONE, at};
        at += step;
    }
    return count;
}

static void emit_symbol(struct encoder *e, uint32_t at)
{
    const struct symbol *s = &e->symbols[at];
    if (s->id != UNKNOWN) {
        emit(e, s->id);
        return;
    }
    for (uint32_t i = s->begin, end = symbol_end(e, at); i < end; i++)
        emit(e, (uint32_t)e->t->byte_id[(uint8_t)e->piece.data[i]]);
}

static int encode_piece(void *ctx, const char *piece, size_t bytes)
{
    struct encoder *e = ctx;
    const struct ps_tokenizer *t = e->t;
    if (t->blob.flags & PS_TOKENIZER_IGNORE_MERGES) {
        uint32_t id = *piece_slot(t, piece, bytes);
        if (id != NONE) {
            emit(e, id);
            return 0;
        }
    }
    int rc = scratch_reserve(e, bytes);
    if (rc < 0)
        return rc;
    e->piece = (struct ps_text_span){piece, bytes};
    uint32_t count = open_symbols(e);
    e->heap_count = 0;
    for (uint32_t i = 0; i + 1 < count; i++)
        push_pair(e, i);
    while (e->heap_count)
        merge_top(e);
    for (uint32_t i = 0; i != NONE; i = e->symbols[i].next)
        emit_symbol(e, i);
    return 0;
}

/* Whether a blank goes before this stretch between added tokens. */
static bool wants_prefix(const struct encoder *e, struct ps_text_span text)
{
    uint32_t flags = e->t->blob.flags;
    if (!(flags & PS_TOKENIZER_PREFIX))
        return false;
    if (text.data == e->text ? e->goes_on : (flags & PS_TOKENIZER_PREFIX_FIRST) != 0)
        return false;
    bool has = text.data[0] == ' ' || (text.bytes >= 3 && !memcmp(text.data, BLANK_MARK, 3));
    return !((flags & PS_TOKENIZER_PREFIX_ONCE) && has);
}

static int encode_stretch(struct encoder *e, struct ps_text_span text, uint32_t pass);

/* Text between the added tokens of a pass: normalised after the first, cut after the second. */
static int encode_between(struct encoder *e, struct ps_text_span text, uint32_t pass)
{
    if (!text.bytes)
        return 0;
    if (pass == 1)
        return ps_splitter_run(e->t->splitter, text, encode_piece, e, e->err);
    if (e->t->blob.flags & PS_TOKENIZER_CHARACTERS) {
        e->normalised.bytes = 0;
        ps_strbuf_add(&e->normalised, " ", wants_prefix(e, text));
        ps_blob_add_blanks(&e->normalised, text);
        if (e->normalised.failed)
            return no_memory(e->err);
        text = (struct ps_text_span){e->normalised.data, e->normalised.bytes};
    }
    if ((e->t->blob.flags & PS_TOKENIZER_NFC) && !ps_utf8_nfc_trivial(text.data, text.bytes)) {
        e->normalised.bytes = 0;
        ps_utf8_nfc(&e->normalised, text.data, text.bytes);
        if (e->normalised.failed)
            return no_memory(e->err);
        text = (struct ps_text_span){e->normalised.data, e->normalised.bytes};
    }
    return encode_stretch(e, text, 1);
}

/* Cuts the added tokens of one pass out of text: leftmost first, the longest of those. */
static int encode_stretch(struct encoder *e, struct ps_text_span text, uint32_t pass)
{
    const struct added_set *set = &e->t->added[pass];
    size_t done = 0;
    for (size_t at = 0; set->count && at < text.bytes;) {
        uint32_t id = NONE;
        if (set->first[(uint8_t)text.data[at]])
            id = added_at(e->t, set, (struct ps_text_span){text.data + at, text.bytes - at});
        if (id == NONE) {
            at++;
            continue;
        }
        int rc = encode_between(e, (struct ps_text_span){text.data + done, at - done}, pass);
        if (rc < 0)
            return rc;
        emit(e, id);
        at += ps_blob_token(&e->t->blob, id).bytes;
        done = at;
    }
    return encode_between(e, (struct ps_text_span){text.data + done, text.bytes - done}, pass);
}

static int64_t encode(struct encoder e, const char *text, size_t text_bytes, struct ps_error *err)
{
    const struct ps_tokenizer *tokenizer = e.t;
    struct ps_strbuf repaired = {0};
    struct ps_text_span span = {text, text_bytes};
    int rc = 0;
    if (!ps_utf8_valid(text, text_bytes)) {
        ps_utf8_repair(&repaired, text, text_bytes);
        span = (struct ps_text_span){repaired.data, repaired.bytes};
        if (repaired.failed)
            rc = no_memory(err);
    }
    if (rc >= 0 && span.bytes > TEXT_BYTES_MAX)
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                          "The text is longer than 1 GiB; tokenize it in parts.");
    e.text = span.data;
    /* Text that spells the BOS token itself, as a rendered conversation may, has it once. */
    if ((tokenizer->blob.flags & PS_TOKENIZER_BOS) && !e.goes_on &&
        added_at(tokenizer, &tokenizer->added[0], span) != tokenizer->blob.bos)
        emit(&e, tokenizer->blob.bos);
    if (rc >= 0)
        rc = encode_stretch(&e, span, 0);
    free(e.symbols);
    free(e.heap);
    ps_strbuf_free(&e.normalised);
    ps_strbuf_free(&repaired);
    return rc < 0 ? rc : e.count;
}

int64_t ps_tokenizer_encode(const struct ps_tokenizer *tokenizer, const char *text,
                            size_t text_bytes, int32_t *ids, size_t capacity, struct ps_error *err)
{
    struct encoder e = {.t = tokenizer, .ids = ids, .capacity = capacity, .err = err};

    return encode(e, text, text_bytes, err);
}

int64_t ps_tokenizer_encode_more(const struct ps_tokenizer *tokenizer, const char *text,
                                 size_t text_bytes, int32_t *ids, size_t capacity,
                                 struct ps_error *err)
{
    struct encoder e = {
        .t = tokenizer, .ids = ids, .capacity = capacity, .goes_on = true, .err = err};

    return encode(e, text, text_bytes, err);
}

/* ---- decoding ------------------------------------------------------------------------------- */

static int64_t decode(const struct ps_tokenizer *tokenizer, const int32_t *ids, size_t id_count,
                      bool skip_special, bool begins, char *text, size_t capacity,
                      struct ps_error *err)
{
    const struct ps_token_blob *blob = &tokenizer->blob;
    bool strip = begins && (blob->flags & PS_TOKENIZER_PREFIX);
    uint64_t bytes = 0;
    for (size_t i = 0; i < id_count; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= blob->token_count)
            return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                                "Id %d is outside the vocabulary, which has %u tokens.", ids[i],
                                blob->token_count);
        if (skip_special && (blob->kinds[ids[i]] & PS_TOKEN_SPECIAL))
            continue;
        struct ps_text_span token = ps_blob_token(blob, (uint32_t)ids[i]);
        if (strip && token.bytes) {
            bool blank = token.data[0] == ' ';
            token = (struct ps_text_span){token.data + blank, token.bytes - blank};
            strip = false;
        }
        if (bytes < capacity)
            memcpy(text + bytes, token.data, ps_min_u64(token.bytes, capacity - bytes));
        bytes += token.bytes;
    }
    return (int64_t)bytes;
}

int64_t ps_tokenizer_decode(const struct ps_tokenizer *tokenizer, const int32_t *ids,
                            size_t id_count, bool skip_special, char *text, size_t capacity,
                            struct ps_error *err)
{
    return decode(tokenizer, ids, id_count, skip_special, false, text, capacity, err);
}

int64_t ps_tokenizer_decode_text(const struct ps_tokenizer *tokenizer, const int32_t *ids,
                                 size_t id_count, bool skip_special, char *text, size_t capacity,
                                 struct ps_error *err)
{
    return decode(tokenizer, ids, id_count, skip_special, true, text, capacity, err);
}
