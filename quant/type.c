/* The table of block types (spec B.4 and the GGUF specification's numbering). */
#include "quant/type.h"

#include <strings.h>

/*
 * Types without kernels can be named, sized and refused with a clear sentence, but not computed
 * with. Numbers that GGUF has retired or never stores in files (4, 5, 31 to 33, 36 to 38, Q8_1,
 * Q8_K) and the integer types, which hold no weights, stay empty.
 */
static const struct ps_type_info type_table[PS_TYPE_COUNT] = {
    [PS_TYPE_F32] = {"F32", 1, 4, true, true},
    [PS_TYPE_F16] = {"F16", 1, 2, true, true},
    [PS_TYPE_Q4_0] = {"Q4_0", 32, 18, true, true},
    [PS_TYPE_Q4_1] = {"Q4_1", 32, 20, true, false},
    [PS_TYPE_Q5_0] = {"Q5_0", 32, 22, true, false},
    [PS_TYPE_Q5_1] = {"Q5_1", 32, 24, true, false},
    [PS_TYPE_Q8_0] = {"Q8_0", 32, 34, true, true},
    [PS_TYPE_Q2_K] = {"Q2_K", 256, 84, true, false},
    [PS_TYPE_Q3_K] = {"Q3_K", 256, 110, true, false},
    [PS_TYPE_Q4_K] = {"Q4_K", 256, 144, true, true},
    [PS_TYPE_Q5_K] = {"Q5_K", 256, 176, true, false},
    [PS_TYPE_Q6_K] = {"Q6_K", 256, 210, true, true},
    [PS_TYPE_IQ2_XXS] = {"IQ2_XXS", 256, 66, true, false},
    [PS_TYPE_IQ2_XS] = {"IQ2_XS", 256, 74, true, false},
    [PS_TYPE_IQ3_XXS] = {"IQ3_XXS", 256, 98, true, false},
    [PS_TYPE_IQ1_S] = {"IQ1_S", 256, 50, true, false},
    [PS_TYPE_IQ4_NL] = {"IQ4_NL", 32, 18, true, false},
    [PS_TYPE_IQ3_S] = {"IQ3_S", 256, 110, true, false},
    [PS_TYPE_IQ2_S] = {"IQ2_S", 256, 82, true, false},
    [PS_TYPE_IQ4_XS] = {"IQ4_XS", 256, 136, true, false},
    [PS_TYPE_IQ1_M] = {"IQ1_M", 256, 56, true, false},
    [PS_TYPE_BF16] = {"BF16", 1, 2, true, true},
    [PS_TYPE_TQ1_0] = {"TQ1_0", 256, 54, false, false},
    [PS_TYPE_TQ2_0] = {"TQ2_0", 256, 66, false, false},
    [PS_TYPE_MXFP4] = {"MXFP4", 32, 17, true, true},
};

static const struct ps_type_info own_table[PS_TYPE_END - PS_TYPE_OWN_FIRST] = {
    [PS_TYPE_F8_E4M3 - PS_TYPE_OWN_FIRST] = {"F8_E4M3", 128, 132, true, false},
};

const struct ps_type_info *ps_type_info(uint32_t type)
{
    if (type >= PS_TYPE_OWN_FIRST && type < PS_TYPE_END)
        return &own_table[type - PS_TYPE_OWN_FIRST];
    if (type >= PS_TYPE_COUNT || type_table[type].name == NULL)
        return NULL;
    return &type_table[type];
}

int ps_type_from_name(const char *name)
{
    for (int type = 0; type < PS_TYPE_END; type++) {
        const struct ps_type_info *info = ps_type_info((uint32_t)type);
        if (info != NULL && strcasecmp(info->name, name) == 0)
            return type;
    }
    return -1;
}

uint64_t ps_row_bytes(uint32_t type, uint64_t cols)
{
    const struct ps_type_info *info = ps_type_info(type);
    if (info == NULL || cols % info->block_len != 0)
        return 0;
    uint64_t bytes;
    /* Column counts come from files: a row that no address space could hold has no size. */
    if (__builtin_mul_overflow(cols / info->block_len, (uint64_t)info->block_bytes, &bytes))
        return 0;
    return bytes;
}
