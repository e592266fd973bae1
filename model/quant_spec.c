/* --quant: which type each group of matrices is laid out in, and what is said about it. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "model/import.h"
#include "quant/type.h"

static const char *const group_names[PS_QUANT_GROUP_COUNT] = {
    "experts", "attention", "embeddings", "head", "shared", "rest",
};

static int parse_type(const char *text, size_t len, uint32_t *type)
{
    char name[16];
    int found;

    if (len == 0 || len >= sizeof(name))
        return -1;
    memcpy(name, text, len);
    name[len] = 0;
    if (!strcmp(name, "keep")) {
        *type = PS_QUANT_KEEP;
        return 0;
    }
    found = ps_type_from_name(name);
    if (found < 0 || !ps_type_info((uint32_t)found)->has_encoder)
        return -1;
    *type = (uint32_t)found;
    return 0;
}

/* "GROUP=TYPE"; given says which groups have been named. */
static int parse_group(const char *text, size_t len, struct ps_quant_spec *spec, bool *given)
{
    const char *equal = memchr(text, '=', len);
    size_t name_len = equal ? (size_t)(equal - text) : 0;

    for (int g = 0; g < PS_QUANT_GROUP_COUNT && equal; g++) {
        if (strlen(group_names[g]) != name_len || memcmp(text, group_names[g], name_len))
            continue;
        if (given[g])
            return -1;
        given[g] = true;
        return parse_type(equal + 1, len - name_len - 1, &spec->types[g]);
    }
    return -1;
}

int ps_quant_spec_parse(const char *text, enum ps_source_kind kind, struct ps_quant_spec *spec,
                        struct ps_error *err)
{
    bool given[PS_QUANT_GROUP_COUNT] = {false};
    struct ps_quant_spec parsed;

    for (int g = 0; g < PS_QUANT_GROUP_COUNT; g++)
        parsed.types[g] = PS_QUANT_KEEP;
    if (!text)
        text = kind == PS_SOURCE_GGUF ? "keep" : "experts=q4_0,rest=bf16";
    while (strcmp(text, "keep")) {
        size_t len = strcspn(text, ",");

        if (parse_group(text, len, &parsed, given) < 0)
            return ps_error_set(err, -PS_ERR_ARGUMENT, "--quant",
                                "\"%.*s\" is not understood: say keep, or GROUP=TYPE with commas "
                                "between them, GROUP one of experts, attention, embeddings, head, "
                                "shared, rest, TYPE one of f32, f16, bf16, q8_0, q4_0, q4_k, q6_k, "
                                "mxfp4, keep",
                                (int)ps_min_u64(len, 64), text);
        if (!text[len])
            break;
        text += len + 1;
    }
    for (int g = PS_QUANT_ATTENTION; g < PS_QUANT_REST; g++)
        if (!given[g])
            parsed.types[g] = parsed.types[PS_QUANT_REST];
    *spec = parsed;
    return 0;
}

enum ps_quant_group ps_quant_group_of(enum ps_role role)
{
    switch (role) {
    case PS_ROLE_EMBED:
        return PS_QUANT_EMBEDDINGS;
    case PS_ROLE_HEAD:
        return PS_QUANT_HEAD;
    case PS_ROLE_ATTN_Q:
    case PS_ROLE_ATTN_K:
    case PS_ROLE_ATTN_V:
    case PS_ROLE_ATTN_OUT:
    case PS_ROLE_DELTA_QKV:
    case PS_ROLE_DELTA_Z:
    case PS_ROLE_DELTA_BETA:
    case PS_ROLE_DELTA_ALPHA:
    case PS_ROLE_DELTA_OUT:
        return PS_QUANT_ATTENTION;
    case PS_ROLE_SHARED_GATE:
    case PS_ROLE_SHARED_UP:
    case PS_ROLE_SHARED_DOWN:
    case PS_ROLE_DENSE_GATE:
    case PS_ROLE_DENSE_UP:
    case PS_ROLE_DENSE_DOWN:
        return PS_QUANT_SHARED;
    default:
        return PS_QUANT_REST;
    }
}

uint32_t ps_quant_fit(uint32_t wanted, uint64_t cols)
{
    bool long_blocks = wanted == PS_TYPE_Q4_K || wanted == PS_TYPE_Q6_K;

    /* Upwards: a file that turns out larger can be seen, one that is worse cannot. */
    if (long_blocks && !ps_row_bytes(wanted, cols) && ps_row_bytes(PS_TYPE_Q8_0, cols))
        return PS_TYPE_Q8_0;
    return wanted;
}

/* One note more, behind "; ". */
__attribute__((format(printf, 3, 4))) static void append(char *text, size_t text_bytes,
                                                         const char *fmt, ...)
{
    size_t n = strlen(text);
    va_list args;

    if (n)
        n += (size_t)snprintf(text + n, text_bytes - n, "; ");
    if (n >= text_bytes)
        return;
    va_start(args, fmt);
    vsnprintf(text + n, text_bytes - n, fmt, args);
    va_end(args);
}

void ps_quant_notes(const struct ps_import *import, char *text, size_t text_bytes)
{
    static const char *const names[] = {"Q4_K", "Q6_K"};
    const struct ps_quant_counts *counts = &import->quant_counts;

    text[0] = 0;
    for (size_t i = 0; i < PS_ARRAY_LEN(names); i++)
        if (counts->fallbacks[i])
            append(text, text_bytes,
                   "%llu matrices are Q8_0 instead of %s, whose blocks of 256 do not divide their "
                   "rows",
                   (unsigned long long)counts->fallbacks[i], names[i]);
    if (counts->requantised)
        append(text, text_bytes, "%llu matrices were quantised in the source and are so again",
               (unsigned long long)counts->requantised);
    if (counts->without_importance)
        append(text, text_bytes,
               "%llu matrices are not in the importance file: their columns count alike",
               (unsigned long long)counts->without_importance);
}

/* ---- importance ------------------------------------------------------------ */

static bool is_weighted(const struct ps_import *import, uint32_t type)
{
    return import->importance && (type == PS_TYPE_Q4_0 || type == PS_TYPE_Q4_K ||
                                  type == PS_TYPE_Q6_K || type == PS_TYPE_MXFP4);
}

const char *ps_importance_role_name(const struct ps_import *import, enum ps_role role,
                                    uint32_t layer, uint32_t type, char *buf, size_t buf_bytes)
{
    const struct ps_config *c = &import->config;

    if (!is_weighted(import, type))
        return NULL;
    if (role == PS_ROLE_DELTA_OUT && import->source->kind == PS_SOURCE_SAFETENSORS &&
        !strcmp(c->arch, "qwen3_5_moe") && c->delta_k_heads != c->delta_v_heads)
        return NULL;
    return ps_role_name(role, layer, buf, buf_bytes);
}

const char *ps_importance_expert_name(const struct ps_import *import, uint32_t layer,
                                      enum ps_expert_part part, uint32_t type, char *buf,
                                      size_t buf_bytes)
{
    static const char *const parts[] = {"gate", "up", "down"};

    if (!is_weighted(import, type))
        return NULL;
    snprintf(buf, buf_bytes, "blk.%u.ffn_%s_exps.weight", layer, parts[part]);
    /* Models whose gate and up are one tensor have one entry for both. */
    if (part != PS_EXPERT_DOWN && !ps_importance_has(import->importance, buf))
        snprintf(buf, buf_bytes, "blk.%u.ffn_gate_up_exps.weight", layer);
    return buf;
}
