/* Products of weights with activations, as floats or rounded to 8 bits. */
#include <assert.h>
#include <string.h>

#include "core/util.h"
#include "model/engine.h"

bool ps_product_is_q8(const struct ps_engine *engine, uint32_t type)
{
    return engine->q8 && ps_q8_has(type);
}

void ps_product_run(const struct ps_engine *engine, const struct ps_product *p)
{
    if (ps_product_is_q8(engine, p->type)) {
        struct ps_q8_matmul m = {
            .type = p->type,
            .w = p->w,
            .w_stride_bytes = p->w_stride_bytes,
            .rows = p->rows,
            .cols = p->cols,
            .x = p->xq,
            .x_stride_bytes = p->xq_stride_bytes,
            .y = p->y,
            .ldy = p->ldy,
            .n = p->n,
            .first_block = p->first_block,
            .lanes_in = p->lanes_in,
            .lanes_out = p->lanes_out,
        };
        engine->q8->matmul(&m);
        return;
    }
    struct ps_matmul m = {
        .type = p->type,
        .w = p->w,
        .w_stride_bytes = p->w_stride_bytes,
        .rows = p->rows,
        .cols = p->cols,
        .x = p->x,
        .ldx = p->ldx,
        .y = p->y,
        .ldy = p->ldy,
        .n = p->n,
        .lanes_in = p->lanes_in,
        .lanes_out = p->lanes_out,
    };
    engine->k->matmul(&m);
}

/* ---- rounding ----------------------------------------------------------------------------------
 */

struct quantize_run {
    const struct ps_rows *rows;
    uint8_t *dst;
    size_t stride_bytes;
};

static void quantize_task(struct ps_engine *engine, void *ctx, int thread_idx, uint64_t row)
{
    const struct quantize_run *run = ctx;

    (void)thread_idx;
    engine->q8->quantize(run->rows->x + row * run->rows->ldx, run->rows->cols,
                         run->dst + row * run->stride_bytes);
}

void ps_quantize_rows(struct ps_engine *engine, const struct ps_rows *rows, uint8_t *dst,
                      size_t stride_bytes, uint32_t n)
{
    struct quantize_run run = {rows, dst, stride_bytes};

    ps_tasks_run(engine, quantize_task, &run, n);
}

/* ---- vectors that are made in pieces ----------------------------------------------------------
 */

/* Sizes and places in engine.h are those of quant/q8.h for a fold, which is padded to 16 blocks. */
static_assert(PS_FOLD_VECTOR_BYTES == 16 * (PS_Q8_BLOCK + sizeof(float) + 2 * sizeof(int16_t)) &&
                  PS_FOLD_SCALES == 16 * PS_Q8_BLOCK &&
                  PS_FOLD_SUMS == PS_FOLD_SCALES + 16 * sizeof(float) && PS_FOLD_NEURONS <= 512,
              "a fold's vector is one padded run of blocks");
static_assert(PS_UP_ROWS % PS_Q8_BLOCK == 0 && PS_FOLD_NEURONS % PS_UP_ROWS == 0,
              "a task's neurons are whole blocks of one fold");

void ps_fold_quantize(const struct ps_engine *engine, const float *x, uint32_t begin,
                      uint32_t count, uint8_t *fold)
{
    _Alignas(64) uint8_t part[PS_FOLD_VECTOR_BYTES];
    uint32_t block = begin / PS_Q8_BLOCK, blocks = (uint32_t)ps_div_up(count, PS_Q8_BLOCK);

    engine->q8->quantize(x, count, part);
    memcpy(fold + (size_t)block * PS_Q8_BLOCK, part, (size_t)blocks * PS_Q8_BLOCK);
    memcpy(fold + PS_FOLD_SCALES + block * sizeof(float), ps_q8_scales(part, count),
           blocks * sizeof(float));
    memcpy(fold + PS_FOLD_SUMS + 2 * block * sizeof(int16_t), ps_q8_sums(part, count),
           2 * blocks * sizeof(int16_t));
}

void ps_fold_part(const uint8_t *fold, uint32_t begin, uint32_t count, uint8_t *part)
{
    uint32_t block = begin / PS_Q8_BLOCK, blocks = (uint32_t)ps_div_up(count, PS_Q8_BLOCK);

    memset(part, 0, PS_FOLD_VECTOR_BYTES);
    memcpy(part, fold + (size_t)block * PS_Q8_BLOCK, (size_t)blocks * PS_Q8_BLOCK);
    memcpy(part + PS_FOLD_SCALES, fold + PS_FOLD_SCALES + block * sizeof(float),
           blocks * sizeof(float));
    memcpy(part + PS_FOLD_SUMS, fold + PS_FOLD_SUMS + 2 * block * sizeof(int16_t),
           2 * blocks * sizeof(int16_t));
}
