/*
 * The arithmetic of the forward pass. No I/O, no threads, no allocation: callers split the rows.
 *
 * THE SHAPE OF SUMMATION. Every dot product here is defined as follows, whatever the type of the
 * weights, the CPU level, the number of columns in the call, or the thread:
 *     sixteen lanes; lane l starts at +0 and takes the products with index k = l (mod 16) in
 *     ascending k, each as one fused multiply-add acc[l] = fma(w[k], x[k], acc[l]),
 *     w[k] the exactly decoded weight;
 *     then the lanes are added as a tree: l + (l+8), l + (l+4), l + (l+2), l + (l+1).
 * So all levels give the same bits, a token's value does not depend on which other tokens share the
 * call, and the checker can compare with memcmp. Elementwise functions are defined by the order of
 * operations in kernels.c and are also bit-identical at every level.
 */
#ifndef PENSTOCK_QUANT_KERNELS_H
#define PENSTOCK_QUANT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "core/cpu.h"
#include "quant/type.h"

#define PS_LANES 16

/*
 * y[c * ldy + r] = dot(row r of w, x[c * ldx ...]) for r in [0, rows), c in [0, n).
 * w: rows of `cols` values of `type`, row r at byte r * w_stride_bytes (no alignment needed; a
 * kernel never reads past the last row's last byte). x: [n, cols] floats, leading dimension ldx in
 * floats.
 *
 * A dot product may be cut along the columns into calls: with lanes_in the lanes continue from
 * there instead of 0, with lanes_out they are stored there instead of being added up, and y is not
 * written. Both are [n, rows, PS_LANES] floats and may be the same memory. Every part but the last
 * must then be a multiple of PS_LANES columns; the bits are those of one uncut call.
 */
struct ps_matmul {
    uint32_t type; /* enum ps_type with has_kernels */
    const void *w;
    size_t w_stride_bytes;
    size_t rows, cols; /* cols a multiple of the type's block length */
    const float *x;
    size_t ldx;
    float *y;
    size_t ldy;
    size_t n;
    const float *lanes_in; /* or NULL */
    float *lanes_out;      /* or NULL */
};

/*
 * y[c * ldy + i] continues as a chain of fma(weight[c * ldw + p], v[p][i], y[c * ldy + i]) over the
 * positions p in ascending order, for c in [0, n), i in [0, dim). v: rows of `dim` values of `type`
 * (F32, F16 or Q8_0), v_stride_bytes apart, never read past the last one's last byte. So a sum may
 * be cut into calls anywhere, and no column depends on the others.
 */
struct ps_weighted_sum {
    uint32_t type;
    const void *v;
    size_t v_stride_bytes;
    size_t positions, dim; /* dim a multiple of the type's block length */
    const float *weight;
    size_t ldw;
    float *y;
    size_t ldy;
    size_t n;
};

struct ps_kernels {
    void (*matmul)(const struct ps_matmul *m);

    /* dot(a, b) over n floats, in the shape above: index k goes to lane k mod 16, any n. */
    float (*dot)(const float *a, const float *b, size_t n);

    /* y[i] = fma(a, x[i], y[i]). */
    void (*axpy)(float *y, float a, const float *x, size_t n);

    /* y[i] = y[i] + x[i]. */
    void (*add)(float *y, const float *x, size_t n);

    /* y[i] = a * x[i]; y may be x. */
    void (*scale)(float *y, float a, const float *x, size_t n);

    /* y[i] = (x[i] * s) * w[i], s = 1 / sqrtf(dot(x, x) / n + eps). y may be x. (spec A.3, RMS) */
    void (*rmsnorm)(float *y, const float *x, const float *w, size_t n, float eps);

    /*
     * y[i] = (x[i] * s) * a, s = 1 / sqrtf(dot(x, x) + eps). y may be x.
     * (spec A.3, l2norm; a = 1 / sqrt(dk) for q)
     */
    void (*l2norm)(float *y, const float *x, size_t n, float eps, float a);

    /* y[i] = silu(gate[i]) * up[i], silu(v) = v / (1 + exp(-v)); y may be gate or up. */
    void (*swiglu)(float *y, const float *gate, const float *up, size_t n);

    /* y[i] = silu(x[i]); y may be x. */
    void (*silu)(float *y, const float *x, size_t n);

    /* y[i] = x[i] * sigmoid(gate[i]); y may be x. */
    void (*sigmoid_mul)(float *y, const float *x, const float *gate, size_t n);

    /*
     * In place: x[i] = exp(x[i] - max) / sum. Sum in 16 lanes as above (plain adds), then the tree.
     * n >= 1; a row whose maximum is not finite gives NaN throughout.
     */
    void (*softmax)(float *x, size_t n);

    /*
     * A softmax of scale * x that is taken part by part: *max and *sum begin as -inf and 0. With
     * top = the maximum of *max and all scale * x[i]: x[i] = exp(scale * x[i] - top), the parts'
     * sum in 16 lanes and a tree as above, *sum = fma(*sum, f, that), *max = top. Returns f =
     * exp(old *max - top), by which whatever was weighted with earlier parts is to be multiplied.
     * n >= 1.
     */
    float (*softmax_part)(float *x, size_t n, float scale, float *max, float *sum);

    void (*weighted_sum)(const struct ps_weighted_sum *s);

    /*
     * One step of the gated delta rule for one value head (spec A.5): state [dk, dv] row-major
     * floats, q and k [dk] (already normalised and scaled), v [dv], o [dv] out. decay = exp(g) in
     * (0, 1].
     *     state = decay * state;  d = beta * (v - state^T k);  state += k d^T;  o = state^T q.
     * Sums run over dk in ascending order, each a chain of fma per column. tmp: [dv] floats of
     * scratch, undefined afterwards. state and o overlap nothing else.
     */
    void (*delta_step)(float *state, const float *q, const float *k, const float *v, float *o,
                       float *tmp, size_t dk, size_t dv, float decay, float beta);

    /*
     * Causal depthwise convolution of width `taps` over time for one token, then silu:
     * y[ch] = silu(sum_i w[ch * taps + i] * h_i[ch]), i ascending, chain of fma from +0, where
     * h_0..h_{taps-2} are the rows of history [taps - 1, channels] (oldest first) and the last is
     * x. Then the history is shifted by one row and x becomes its newest row.
     */
    void (*conv_step)(float *y, float *history, const float *x, const float *w, size_t channels,
                      size_t taps);

    /*
     * Rotates the first 2 * half values of a head in place, half-split pairs (j, j + half):
     * x'[j] = x[j] cos[j] - x[j+half] sin[j], x'[j+half] = x[j+half] cos[j] + x[j] sin[j],
     * each as fma(x[j], c, -(x[j+half] * s)) and fma(x[j+half], c, x[j] * s).
     */
    void (*rope)(float *x, const float *cos, const float *sin, size_t half);

    /* y[i] = x[i] as a half float, rounded to nearest even, as ps_f32_to_f16 does. */
    void (*to_half)(uint16_t *y, const float *x, size_t n);
};

/*
 * The table of a level: scalar entries, overridden in ascending order up to `level`, but not beyond
 * ps_cpu_level(). Never NULL. Filled at the first call; thread-safe.
 */
const struct ps_kernels *ps_kernels_get(enum ps_cpu_level level);

/*
 * expf as the kernels compute it: polynomial and fma, within 1 ulp; -inf -> 0, +inf -> inf, NaN ->
 * NaN; results below the smallest normal float underflow gradually, within 1 unit of the last
 * denormal place.
 */
float ps_expf(float x);
/* 1 / (1 + expf(-x)). */
float ps_sigmoidf(float x);
/* ln(1 + e^x), stable at both ends. */
float ps_softplusf(float x);

#endif
