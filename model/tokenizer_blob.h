/*
 * The tokenizer's form in a volume: built once at layout, checked and then read in place at open.
 *
 * Little endian, unaligned. Offsets in bytes:
 *   0  magic "PSTOKEN\n"      8  u32 version         12 u32 flags (PS_TOKENIZER_*)
 *   16 u32 token count T      20 u32 merge count M   24 u32 pattern count P   28 u32 BOS id
 *   32 u64 text bytes         40 u64 pattern bytes
 *   48 u32 end[T]: where the text of each token ends in the text section (it begins at the end of
 * the one before it), then u32 merge[M][3]: left, right and resulting id, best rank first, then
 * with PS_TOKENIZER_SCORES u32 rank[T], then u32 pattern_end[P], then u8 kind[T] (PS_TOKEN_*), the
 * patterns, the text. Nothing follows. The version is 1 without PS_TOKENIZER_CHARACTERS, and then
 * only the flags 1 and 2 are known; 2 with it. The BOS id is 0 without PS_TOKENIZER_BOS.
 */
#ifndef PENSTOCK_MODEL_TOKENIZER_BLOB_H
#define PENSTOCK_MODEL_TOKENIZER_BLOB_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/error.h"
#include "model/pretokenizer.h"
#include "model/strbuf.h"

#define PS_TOKEN_COUNT_MAX (1u << 22)
#define PS_MERGE_COUNT_MAX (1u << 23)
#define PS_TOKEN_BYTES_MAX (1u << 16)
#define PS_ADDED_BYTES_MAX 1024u
#define PS_TEXT_BYTES_MAX (1u << 28)

#define PS_TOKENIZER_NFC 1u           /* text is brought to NFC first */
#define PS_TOKENIZER_IGNORE_MERGES 2u /* a piece that is a token is taken whole, merges or not */
/* Characters, not bytes, are what is merged; one that is no token becomes its bytes' tokens. In the
 * stored text a token's "\u2581" is the blank that it stands for. The rest needs this one. */
#define PS_TOKENIZER_CHARACTERS 4u
/* No merges: any two neighbours that make a normal token together, the least rank[token] first. */
#define PS_TOKENIZER_SCORES 8u
#define PS_TOKENIZER_PREFIX 16u       /* a blank before each stretch between added tokens, ... */
#define PS_TOKENIZER_PREFIX_FIRST 32u /* ... only if it begins the text, */
#define PS_TOKENIZER_PREFIX_ONCE 64u  /* ... only if it does not begin with one */
#define PS_TOKENIZER_BOS 128u         /* ids begin with the BOS id */

/* Kinds are bits. 0 with text: decodes, and is never produced. 0 without: an unused id. */
#define PS_TOKEN_NORMAL 1u     /* reached through merges */
#define PS_TOKEN_ADDED 2u      /* matched as it stands in the text before anything else */
#define PS_TOKEN_SPECIAL 4u    /* a control token: left out by skip_special; implies ADDED */
#define PS_TOKEN_NORMALISED 8u /* matched after normalisation, not before; implies ADDED */
#define PS_TOKEN_BYTE 16u      /* alone: a byte of characters that are no token */

/* A checked blob. Pointers point into it. */
struct ps_token_blob {
    const uint8_t *ends, *merges, *ranks, *kinds; /* unaligned: read with ps_blob_u32 */
    const char *text;
    uint32_t flags, token_count, merge_count, pattern_count, bos;
    struct ps_text_span patterns[PS_SPLIT_COUNT_MAX];
};

static inline uint32_t ps_blob_u32(const uint8_t *base, uint64_t index)
{
    uint32_t value;
    memcpy(&value, base + index * 4, 4);
    return le32toh(value);
}

static inline struct ps_text_span ps_blob_token(const struct ps_token_blob *blob, uint32_t id)
{
    uint32_t begin = id ? ps_blob_u32(blob->ends, id - 1) : 0;
    return (struct ps_text_span){blob->text + begin, ps_blob_u32(blob->ends, id) - begin};
}

/*
 * Checks every byte that is relied on and fills *view: sizes, counts, ascending ends, kinds, merges
 * between normal tokens whose texts join to the result's, added tokens of valid UTF-8, a normal (or
 * byte) token for each of the 256 bytes. -PS_ERR_FORMAT, -PS_ERR_TRUNCATED, -PS_ERR_UNSUPPORTED
 * (version).
 */
int ps_token_blob_view(struct ps_token_blob *view, const void *blob, size_t bytes,
                       struct ps_error *err);

/* Appends text with a blank for each "\u2581". */
void ps_blob_add_blanks(struct ps_strbuf *out, struct ps_text_span text);

/* What both sources are brought to before the blob is written. */
struct ps_token_part {
    struct ps_text_span surface; /* as the source spells it; of added tokens: the text itself */
    uint32_t kind;               /* NORMAL for the model's own vocabulary, bits as above */
};

struct ps_merge_part {
    struct ps_text_span left, right; /* as the tokens are spelled */
};

struct ps_token_parts {
    struct ps_token_part *tokens; /* [token_count]; unused ids have an empty surface */
    struct ps_merge_part *merges;
    const float
        *scores; /* [token_count] with PS_TOKENIZER_SCORES, none NaN: the highest merges first */
    uint32_t token_count, merge_count, pattern_count, flags, bos;
    struct ps_text_span patterns[PS_SPLIT_COUNT_MAX];
    const char *where; /* for messages: "tokenizer.json" */
};

/* Resolves merges, turns surfaces into bytes and writes the blob, which passes ps_token_blob_view
 * and whose patterns compile. *blob is malloc'd, owned by the caller. */
int ps_token_blob_build(const struct ps_token_parts *parts, void **blob, size_t *blob_bytes,
                        struct ps_error *err);

#endif
