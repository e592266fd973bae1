/* Private to model/: attention of queries that share a KV head, several multiplied together. */
#ifndef PENSTOCK_MODEL_ATTENTION_BLOCK_H
#define PENSTOCK_MODEL_ATTENTION_BLOCK_H

#include "model/engine.h"

/* Queries that are multiplied together: heads of one token, or one head of tokens in a row. */
struct attention_columns {
    const float *q; /* [block.columns, ldq] each with its gate behind it, if the model has one */
    size_t ldq;
    float *out; /* [block.columns, ldo] */
    size_t ldo;
    float max[PS_ATTENTION_COLUMNS], sum[PS_ATTENTION_COLUMNS];
};

/* Sets of columns that see the same keys. The caller fills in what stands before `row`. */
struct attention_block {
    const uint8_t *k, *v; /* the KV head's share of row 0 */
    float *score;         /* [PS_ATTENTION_COLUMNS, PS_ATTENTION_PART] scratch */
    uint32_t positions;   /* up to the first column's, itself included */
    uint32_t step;        /* positions that every column has more than the one before: 0 or 1 */
    uint32_t columns, set_count;
    struct attention_columns sets[PS_ATTENTION_HEADS];

    /* The part in work: its first row, and the columns that see some of it. */
    uint64_t row;
    uint32_t first, count;
    uint32_t begin[PS_ATTENTION_COLUMNS]; /* rows [begin, end) of the part, both ascending */
    uint32_t end[PS_ATTENTION_COLUMNS];
};

/* Fills the outputs of all sets. A column's bits do not depend on the others. */
void ps_attention_block_run(const struct ps_engine *engine, struct attention_block *block);

#endif
