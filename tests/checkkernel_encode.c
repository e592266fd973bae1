/* The encoders: every level writes the bytes of the scalar one. */
#include "checkkernel.h"

#include <math.h>
#include <string.h>

#include "quant/encode.h"

static const uint32_t types[] = {PS_TYPE_Q8_0, PS_TYPE_Q4_0, PS_TYPE_MXFP4, PS_TYPE_Q4_K,
                                 PS_TYPE_Q6_K};

/* Columns that matter, some that do not, some that count a million times more. */
static void fill_importance(float *w, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t u = check_random();
        w[i] = (float)(u >> 8) * 0x1p-24f;
        if (u % 16 == 0)
            w[i] = 0;
        else if (u % 16 == 1)
            w[i] *= 1e6f;
        else if (u % 16 == 2)
            w[i] *= 1e-30f;
    }
}

static void check_one(uint32_t type, size_t rows, size_t cols, enum check_kind kind, bool weighted,
                      enum ps_cpu_level level)
{
    size_t bytes = rows * ps_row_bytes(type, cols);
    float *values = check_floats(0, rows * cols), *importance = check_floats(1, cols);
    uint8_t *expected = check_bytes(2, bytes), *got = check_bytes(3, bytes);

    check_fill(values, rows * cols, kind);
    /* About as large as weights are, where halves are coarse, and where they are denormal. */
    const float scales[] = {1, 0x1p-6f, 0x1p-14f, 0x1p-22f};
    float scale = CHECK_PICK(scales);
    for (size_t i = 0; i < rows * cols; i++)
        values[i] *= scale;
    fill_importance(importance, cols);
    check_case("encode %s, %zu x %zu, %s values%s, level %s", ps_type_info(type)->name, rows, cols,
               check_kind_name(kind), weighted ? ", weighted" : "", ps_cpu_level_name(level));

    struct ps_encode e = {type, rows, cols, values, weighted ? importance : NULL, expected};
    ps_encode_rows_at(PS_CPU_SCALAR, &e);
    e.dst = got;
    ps_encode_rows_at(level, &e);
    check_same_bytes("blocks", expected, got, bytes);
    check_done();
}

void check_encode(enum ps_cpu_level level)
{
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        size_t block = ps_type_info(types[t])->block_len;
        for (int kind = 0; kind < CHECK_KIND_COUNT; kind++)
            for (int weighted = 0; weighted < 2; weighted++)
                for (int i = 0; i < 2; i++)
                    check_one(types[t], check_between(1, 5), block * check_between(1, 3),
                              (enum check_kind)kind, weighted, level);
    }
}
