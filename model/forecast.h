/* The products that one token takes, as the engine does them: for measuring and for adding up. */
#ifndef PENSTOCK_MODEL_FORECAST_H
#define PENSTOCK_MODEL_FORECAST_H

#include "model/engine.h"

/* Rows of one weight matrix, or of parts of it, that one step of the engine multiplies. */
struct ps_forecast_product {
    uint32_t type, cols;
    uint64_t rows;
};

#define PS_FORECAST_PRODUCT_MAX 8

/* What of a layer: what comes before its experts, what runs beside their reads, one expert. */
enum ps_forecast_part { PS_PART_MIXER, PS_PART_SHARED, PS_PART_EXPERT };

/* Fills products[PS_FORECAST_PRODUCT_MAX] of a part of a layer; returns how many. */
int ps_forecast_products(const struct ps_model *model, uint32_t layer, enum ps_forecast_part part,
                         struct ps_forecast_product *products);
/* The head. */
struct ps_forecast_product ps_forecast_head(const struct ps_model *model);

/* Vectors that an expert is multiplied with on average, in a chunk of tokens. */
uint32_t ps_forecast_expert_vectors(const struct ps_config *config, uint32_t used, uint32_t chunk);

/* Bytes per second of this product's weights, from the machine's rates or, where there is none,
 * from its memory and arithmetic. is_q8: activations of 8 bits. */
double ps_machine_rate_of(const struct ps_machine *machine,
                          const struct ps_forecast_product *product, uint32_t vectors, bool is_q8);

/* For ps_pool_run, to see what it takes to wake the threads. */
void ps_run_nothing(void *ctx, int thread, int threads);

#endif
