#include "model/reuse.h"

const double ps_reuse_points[PS_REUSE_POINT_COUNT] = {
    0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1};

/* name, experts, used, tokens of the trace; hit rates at the points, over its second half. Made by
 * bench/reuse_table from traces of real models that other projects published: OLMoE and gpt-oss
 * (four workloads one after the other) of BrianBoitano/nvmoe, Kimi-Linear of sqliteai/waste, gemma
 * (6 of its 8 experts) of Helldez/BigMoeOnEdge. */
const struct ps_reuse_curve ps_reuse_table[] = {
    {"OLMoE-1B-7B",
     64,
     8,
     897,
     {0.283, 0.407, 0.408, 0.414, 0.452, 0.504, 0.545, 0.609, 0.660, 0.719, 0.806, 0.869, 0.919,
      0.954, 0.979, 0.994, 1.000}},
    {"gpt-oss-120b",
     128,
     4,
     1396,
     {0.436, 0.544, 0.619, 0.679, 0.720, 0.756, 0.820, 0.860, 0.893, 0.913, 0.942, 0.960, 0.972,
      0.982, 0.991, 0.997, 1.000}},
    {"Kimi-Linear-48B-A3B",
     256,
     8,
     300,
     {0.233, 0.358, 0.439, 0.503, 0.534, 0.559, 0.624, 0.697, 0.749, 0.785, 0.851, 0.903, 0.941,
      0.973, 0.984, 0.992, 1.000}},
    {"gemma-4-26B-A4B",
     128,
     6,
     128,
     {0.260, 0.358, 0.449, 0.516, 0.592, 0.639, 0.717, 0.786, 0.846, 0.889, 0.954, 0.980, 0.987,
      0.990, 0.993, 0.997, 1.000}},
    {0},
};
