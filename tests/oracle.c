#include "oracle.h"

#include <math.h>
#include <stdlib.h>

#include "util.h"

#define WIDTH_MAX 2048 /* of any vector in a tiny model */

static bool is_attention(const struct oracle *o, uint32_t layer)
{
    return !o->m->qwen3_5 || layer % 4 == 3;
}

static const char *key_of(char *buf, size_t bytes, int layer, const char *name)
{
    if (layer < 0)
        snprintf(buf, bytes, "%s", name);
    else
        snprintf(buf, bytes, "blk.%d.%s", layer, name);
    return buf;
}

static double value(int layer, const char *name, uint64_t i)
{
    char key[96];

    return (double)tiny_value(key_of(key, sizeof(key), layer, name), i);
}

/* y = W x. */
static void multiply(int layer, const char *name, uint32_t rows, uint32_t cols, const double *x,
                     double *y)
{
    char key[96];

    key_of(key, sizeof(key), layer, name);
    assert_true(rows <= WIDTH_MAX && cols <= WIDTH_MAX);
    for (uint32_t r = 0; r < rows; r++) {
        y[r] = 0;
        for (uint32_t c = 0; c < cols; c++)
            y[r] += (double)tiny_value(key, (uint64_t)r * cols + c) * x[c];
    }
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void rms_norm(int layer, const char *name, uint32_t n, const double *x, double *y)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] / sqrt(sum / n + 1e-6) * value(layer, name, i);
}

static void rope(const struct oracle *o, double *head)
{
    /* Computed apart, from the definition: 8 pairs, theta 1e6, 4 times 256 positions. */
    static const double yarn[] = {1,       0.133370956,    0.0158113883,   0.00140585331,
                                  0.00025, 4.44569853e-05, 7.90569415e-06, 1.40585331e-06};
    uint32_t half = (o->m->qwen3_5 ? o->m->head_dim / 4 : o->m->head_dim) / 2;
    double scale = o->m->yarn ? 1.138629436 : 1;

    for (uint32_t j = 0; j < half; j++) {
        double angle = o->position * (o->m->yarn ? yarn[j] : pow(1e6, -(double)j / half));
        double a = scale * head[j], b = scale * head[j + half];
        head[j] = a * cos(angle) - b * sin(angle);
        head[j + half] = b * cos(angle) + a * sin(angle);
    }
}

static void clip(const struct tiny_model *m, double *v, uint32_t n)
{
    for (uint32_t i = 0; m->clip > 0 && i < n; i++)
        v[i] = fmin(fmax(v[i], -(double)m->clip), (double)m->clip);
}

static bool sees(const struct oracle *o, uint32_t position)
{
    return !o->window || position < 4 || position + o->window > o->position;
}

/* One head over the positions up to this one. */
static void attend(const struct oracle *o, const double *q, const double *cache, uint32_t kv_head,
                   double *out)
{
    uint32_t d = o->m->head_dim, row = o->m->kv_heads * d;
    double sum = 0, best = -INFINITY, *score = malloc((o->position + 1) * sizeof(*score));

    assert_non_null(score);
    for (uint32_t p = 0; p <= o->position; p++) {
        const double *k = cache + (size_t)p * 2 * row + kv_head * d;
        score[p] = 0;
        for (uint32_t i = 0; i < d; i++)
            score[p] += q[i] * k[i] / sqrt(d);
        if (!sees(o, p))
            score[p] = -INFINITY;
        best = fmax(best, score[p]);
    }
    for (uint32_t p = 0; p <= o->position; p++)
        sum += score[p] = exp(score[p] - best);
    memset(out, 0, d * sizeof(*out));
    for (uint32_t p = 0; p <= o->position; p++)
        for (uint32_t i = 0; i < d; i++)
            out[i] += score[p] / sum * cache[(size_t)p * 2 * row + row + kv_head * d + i];
    free(score);
}

/* Norm, clipping and rotation of q or k; `step` values from head to head (spec A.10). */
static void prepare(const struct oracle *o, int layer, const char *norm, uint32_t count,
                    uint32_t step, double *heads)
{
    const struct tiny_model *m = o->m;
    uint32_t d = m->head_dim;

    if (m->kind == TINY_OLMOE)
        rms_norm(layer, norm, count * d, heads, heads);
    for (uint32_t h = 0; h < count; h++) {
        double *head = heads + h * step;
        if (!o->plain_heads && m->kind != TINY_OLMOE && m->kind != TINY_MIXTRAL)
            rms_norm(layer, norm, d, head, head);
        clip(m, head, d);
        rope(o, head);
    }
}

static void attention(struct oracle *o, int layer, const double *x, double *y)
{
    const struct tiny_model *m = o->m;
    uint32_t d = m->head_dim, row = m->kv_heads * d, step = m->qwen3_5 ? 2 * d : d;
    double q[WIDTH_MAX], mix[WIDTH_MAX], *cache = o->state[layer];
    double *k = cache + (size_t)o->position * 2 * row, *v = k + row;

    multiply(layer, "attn_q.weight", m->heads * step, m->hidden, x, q);
    multiply(layer, "attn_k.weight", row, m->hidden, x, k);
    multiply(layer, "attn_v.weight", row, m->hidden, x, v);
    prepare(o, layer, "attn_k_norm.weight", m->kv_heads, d, k);
    clip(m, v, row);
    prepare(o, layer, "attn_q_norm.weight", m->heads, step, q);
    for (uint32_t h = 0; h < m->heads; h++) {
        double *head = q + h * step;
        attend(o, head, cache, h / (m->heads / m->kv_heads), mix + h * d);
        for (uint32_t i = 0; m->qwen3_5 && i < d; i++)
            mix[h * d + i] *= sigmoid(head[d + i]);
    }
    multiply(layer, "attn_output.weight", m->hidden, m->heads * d, mix, y);
}

static void l2_norm(const double *x, uint32_t n, double scale, double *y)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] / sqrt(sum + 1e-6) * scale;
}

/* In place; history is [channels, taps - 1], oldest first. */
static void convolve(const struct oracle *o, int layer, uint32_t channels, double *u)
{
    uint32_t taps = o->m->taps;

    for (uint32_t c = 0; c < channels; c++) {
        double *h = o->history[layer] + c * (taps - 1), sum = 0;
        for (uint32_t i = 0; i < taps; i++)
            sum += value(layer, "ssm_conv1d.weight", c * taps + i) * (i + 1 < taps ? h[i] : u[c]);
        memmove(h, h + 1, (taps - 2) * sizeof(*h));
        h[taps - 2] = u[c];
        u[c] = sum * sigmoid(sum);
    }
}

/* S <- e^g S; d = beta (v - S^T k); S <- S + k d^T; out = S^T q (spec A.5). */
static void delta_rule(const struct tiny_model *m, double *s, const double *q, const double *k,
                       const double *v, double decay, double beta, double *out)
{
    for (uint32_t c = 0; c < m->v_dim; c++) {
        double seen = 0;
        for (uint32_t r = 0; r < m->k_dim; r++)
            seen += (s[r * m->v_dim + c] *= decay) * k[r];
        out[c] = 0;
        for (uint32_t r = 0; r < m->k_dim; r++)
            out[c] += (s[r * m->v_dim + c] += k[r] * beta * (v[c] - seen)) * q[r];
    }
}

static void delta(struct oracle *o, int layer, const double *x, double *y)
{
    const struct tiny_model *m = o->m;
    uint32_t kd = m->k_heads * m->k_dim, vd = m->v_heads * m->v_dim;
    double u[WIDTH_MAX], z[WIDTH_MAX], b[WIDTH_MAX], a[WIDTH_MAX], mix[WIDTH_MAX];
    double q[WIDTH_MAX], k[WIDTH_MAX];

    multiply(layer, "attn_qkv.weight", 2 * kd + vd, m->hidden, x, u);
    multiply(layer, "attn_gate.weight", vd, m->hidden, x, z);
    multiply(layer, "ssm_beta.weight", m->v_heads, m->hidden, x, b);
    multiply(layer, "ssm_alpha.weight", m->v_heads, m->hidden, x, a);
    convolve(o, layer, 2 * kd + vd, u);
    for (uint32_t h = 0; h < m->v_heads; h++) {
        uint32_t key = o->tiled ? h % m->k_heads : h / (m->v_heads / m->k_heads);
        double *out = mix + h * m->v_dim;
        double plus = log1p(exp(a[h] + value(layer, "ssm_dt.bias", h)));
        l2_norm(u + key * m->k_dim, m->k_dim, 1 / sqrt(m->k_dim), q);
        l2_norm(u + kd + key * m->k_dim, m->k_dim, 1, k);
        delta_rule(m, o->state[layer] + (size_t)h * m->k_dim * m->v_dim, q, k,
                   u + 2 * kd + h * m->v_dim, exp(value(layer, "ssm_a", h) * plus), sigmoid(b[h]),
                   out);
        rms_norm(layer, "ssm_norm.weight", m->v_dim, out, out);
        for (uint32_t i = 0; i < m->v_dim; i++)
            out[i] *= z[h * m->v_dim + i] * sigmoid(z[h * m->v_dim + i]);
    }
    multiply(layer, "ssm_out.weight", m->hidden, vd, mix, y);
}

/* y += scale * down(silu(gate x) * up x). */
static void ffn(const struct oracle *o, int layer, const char *const names[3], uint32_t width,
                double scale, const double *x, double *y)
{
    double gate[WIDTH_MAX], up[WIDTH_MAX], out[WIDTH_MAX];

    multiply(layer, names[0], width, o->m->hidden, x, gate);
    multiply(layer, names[1], width, o->m->hidden, x, up);
    for (uint32_t i = 0; i < width; i++)
        gate[i] *= sigmoid(gate[i]) * up[i];
    multiply(layer, names[2], o->m->hidden, width, gate, out);
    for (uint32_t i = 0; i < o->m->hidden; i++)
        y[i] += scale * out[i];
}

/* Moves the most probable `used` experts to the front of idx. */
static void choose(struct oracle *o, const double *p, uint32_t *idx)
{
    uint32_t n = o->m->experts;

    for (uint32_t e = 0; e < n; e++)
        idx[e] = e;
    for (uint32_t i = 0; i < o->used; i++)
        for (uint32_t e = i + 1; e < n; e++)
            if (p[idx[e]] > p[idx[i]]) {
                uint32_t swap = idx[i];
                idx[i] = idx[e];
                idx[e] = swap;
            }
    for (uint32_t e = o->used; e < n; e++)
        o->worst_gap = fmin(o->worst_gap, 1 - p[idx[e]] / p[idx[o->used - 1]]);
}

static void moe(struct oracle *o, int layer, const double *x, double *y)
{
    static const char *const shared[] = {"ffn_gate_shexp.weight", "ffn_up_shexp.weight",
                                         "ffn_down_shexp.weight"};
    double p[WIDTH_MAX], sum = 0, chosen = 0, gate;
    uint32_t idx[WIDTH_MAX];

    multiply(layer, "ffn_gate_inp.weight", o->m->experts, o->m->hidden, x, p);
    for (uint32_t e = 0; e < o->m->experts; e++)
        sum += p[e] = exp(p[e]);
    for (uint32_t e = 0; e < o->m->experts; e++)
        p[e] /= sum;
    choose(o, p, idx);
    for (uint32_t i = 0; i < o->used; i++)
        chosen += p[idx[i]];
    for (uint32_t i = 0; i < o->used; i++) {
        char names[3][32];
        snprintf(names[0], sizeof(names[0]), "gate.%u", idx[i]);
        snprintf(names[1], sizeof(names[1]), "up.%u", idx[i]);
        snprintf(names[2], sizeof(names[2]), "down.%u", idx[i]);
        ffn(o, layer, (const char *const[]){names[0], names[1], names[2]}, o->m->width,
            o->renormalise ? p[idx[i]] / chosen : p[idx[i]], x, y);
    }
    if (!o->m->qwen3_5)
        return;
    multiply(layer, "ffn_gate_inp_shexp.weight", 1, o->m->hidden, x, &gate);
    ffn(o, layer, shared, o->m->shared, sigmoid(gate), x, y);
}

void oracle_init(struct oracle *o, uint32_t token_count_max)
{
    const struct tiny_model *m = o->m;
    size_t channels = 2 * (size_t)m->k_heads * m->k_dim + (size_t)m->v_heads * m->v_dim;
    size_t kv = 2 * (size_t)m->kv_heads * m->head_dim * token_count_max;
    size_t delta_state = (size_t)m->v_heads * m->k_dim * m->v_dim;

    o->worst_gap = 1;
    o->position = 0;
    o->state = calloc(m->layers, sizeof(*o->state));
    o->history = calloc(m->layers, sizeof(*o->history));
    assert_non_null(o->state);
    assert_non_null(o->history);
    for (uint32_t l = 0; l < m->layers; l++) {
        o->state[l] = calloc(kv > delta_state ? kv : delta_state, sizeof(double));
        o->history[l] = calloc(channels * m->taps, sizeof(double));
        assert_non_null(o->state[l]);
        assert_non_null(o->history[l]);
    }
}

void oracle_step(struct oracle *o, int32_t id, double *logits)
{
    static const char *const dense[] = {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"};
    const struct tiny_model *m = o->m;
    double x[WIDTH_MAX], xn[WIDTH_MAX], y[WIDTH_MAX];

    for (uint32_t i = 0; i < m->hidden; i++)
        x[i] = value(-1, "token_embd.weight", (uint64_t)id * m->hidden + i);
    for (int layer = 0; layer < (int)m->layers; layer++) {
        rms_norm(layer, "attn_norm.weight", m->hidden, x, xn);
        if (is_attention(o, (uint32_t)layer))
            attention(o, layer, xn, y);
        else
            delta(o, layer, xn, y);
        for (uint32_t i = 0; i < m->hidden; i++)
            x[i] += y[i];
        rms_norm(layer, "ffn_norm.weight", m->hidden, x, xn);
        if (m->dense && layer == 0)
            ffn(o, layer, dense, m->dense, 1, xn, x);
        else
            moe(o, layer, xn, x);
    }
    rms_norm(-1, "output_norm.weight", m->hidden, x, xn);
    multiply(-1, m->tied ? "token_embd.weight" : "output.weight", m->vocab, m->hidden, xn, logits);
    o->position++;
}

void oracle_fini(struct oracle *o)
{
    for (uint32_t l = 0; l < o->m->layers; l++) {
        free(o->state[l]);
        free(o->history[l]);
    }
    free(o->state);
    free(o->history);
}
