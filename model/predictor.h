/*
 * Which experts a later layer will choose, from what is known now: a pure function of a residual
 * stream and a layer. It does no I/O, and nothing that is computed depends on it.
 *
 * The gate predictor is the layer's own norm and router, on a stream that lacks what the layers in
 * between have yet to add (Eliseev and Mazur, arXiv:2312.17238, section 3.2).
 */
#ifndef PENSTOCK_MODEL_PREDICTOR_H
#define PENSTOCK_MODEL_PREDICTOR_H

#include "model/engine.h"

/*
 * x[n, H] for layers after the one whose shared expert's output is in work.y and whose mixer has
 * been added to work.x, for the chunk's tokens first .. first + n - 1, n <= PS_GUESS_TOKENS: the
 * sum of both. It is engine->work.guess_x.
 */
const float *ps_predict_input(struct ps_engine *engine, uint32_t first, uint32_t n);

/*
 * p[n, E] = softmax of the layer's router over the experts, for n <= PS_GUESS_TOKENS rows of
 * x[n, H], corrected by what was learned of guesses `depth` layers ahead, if anything was, from the
 * inputs in work.xn of the router that has just run, from row `first` on; p is
 * engine->work.guess_p. All threads. Costs the router's weights, the norm and the correction.
 */
void ps_predict(struct ps_engine *engine, uint32_t layer, uint32_t depth, const float *x,
                uint32_t first, uint32_t n);

/*
 * Guesses for the layers 1 to PS_GUESS_DEPTH after `layer`, whose shared expert's output is in
 * work.y and whose mixer has been added to work.x, and tells the listeners of the sessions of the
 * chunk's n tokens. Does nothing where nobody listens.
 */
void ps_guesses_report(struct ps_engine *engine, uint32_t layer, uint32_t n);

/* The same for `layer` itself, before its mixer has run: depth 0. */
void ps_guess_same_report(struct ps_engine *engine, uint32_t layer, uint32_t n);

#endif
