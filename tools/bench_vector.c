#include "tools/bench_vector.h"

#include <stdint.h>

#include "core/util.h"
#include "quant/kernels.h"

#define SAMPLES 5
#define SAMPLE_NS 3000000u

#define VECTOR_LEN 4096
#define HEAD_LEN 128

struct vector_work {
    const struct ps_kernels *k;
    float *a, *b, *c, *d; /* VECTOR_LEN * 4 each */
    float *state;         /* [HEAD_LEN, HEAD_LEN] */
    float result;
};

typedef void vector_fn(struct vector_work *w);

static void run_dot(struct vector_work *w)
{
    w->result = w->k->dot(w->a, w->b, VECTOR_LEN);
}

static void run_axpy(struct vector_work *w)
{
    w->k->axpy(w->c, 1e-9f, w->a, VECTOR_LEN);
}

static void run_add(struct vector_work *w)
{
    w->k->add(w->c, w->d, VECTOR_LEN);
}

static void run_scale(struct vector_work *w)
{
    w->k->scale(w->c, 0.5f, w->a, VECTOR_LEN);
}

static void run_rmsnorm(struct vector_work *w)
{
    w->k->rmsnorm(w->c, w->a, w->b, VECTOR_LEN, 1e-6f);
}

static void run_l2norm(struct vector_work *w)
{
    w->k->l2norm(w->c, w->a, HEAD_LEN, 1e-6f, 0.1f);
}

static void run_swiglu(struct vector_work *w)
{
    w->k->swiglu(w->c, w->a, w->b, VECTOR_LEN);
}

static void run_silu(struct vector_work *w)
{
    w->k->silu(w->c, w->a, VECTOR_LEN);
}

static void run_sigmoid_mul(struct vector_work *w)
{
    w->k->sigmoid_mul(w->c, w->a, w->b, VECTOR_LEN);
}

static void run_softmax(struct vector_work *w)
{
    w->k->softmax(w->c, VECTOR_LEN);
}

static void run_delta_step(struct vector_work *w)
{
    w->k->delta_step(w->state, w->a, w->b, w->a + HEAD_LEN, w->c, w->d, HEAD_LEN, HEAD_LEN, 0.9f,
                     0.5f);
}

static void run_conv_step(struct vector_work *w)
{
    w->k->conv_step(w->c, w->d, w->a, w->b, VECTOR_LEN, 4);
}

static void run_rope(struct vector_work *w)
{
    w->k->rope(w->c, w->a, w->b, HEAD_LEN / 2);
}

static void run_to_half(struct vector_work *w)
{
    w->k->to_half((uint16_t *)(void *)w->c, w->a, VECTOR_LEN);
}

static const struct {
    const char *name;
    vector_fn *run;
} vector_kernels[] = {
    {"dot, 4096", run_dot},
    {"axpy, 4096", run_axpy},
    {"add, 4096", run_add},
    {"scale, 4096", run_scale},
    {"rmsnorm, 4096", run_rmsnorm},
    {"l2norm, 128", run_l2norm},
    {"swiglu, 4096", run_swiglu},
    {"silu, 4096", run_silu},
    {"sigmoid_mul, 4096", run_sigmoid_mul},
    {"softmax, 4096", run_softmax},
    {"delta_step, 128 x 128", run_delta_step},
    {"conv_step, 4096 x 4", run_conv_step},
    {"rope, 128", run_rope},
    {"to_half, 4096", run_to_half},
};

/* Values in [-1, 1): arithmetic on denormals or NaN would be timed otherwise. */
static void fill(float *x, size_t count)
{
    uint32_t r = 1;
    for (size_t i = 0; i < count; i++) {
        r = r * 1664525u + 1013904223u;
        x[i] = (float)(r >> 8) * 0x1p-23f - 1;
    }
}

const size_t bench_vector_count = PS_ARRAY_LEN(vector_kernels);

const char *bench_vector_name(size_t idx)
{
    return vector_kernels[idx].name;
}

double bench_vector_ns(size_t idx, enum ps_cpu_level level)
{
    static float buffers[4][VECTOR_LEN * 4], state[HEAD_LEN * HEAD_LEN];
    struct vector_work w = {
        ps_kernels_get(level), buffers[0], buffers[1], buffers[2], buffers[3], state, 0};
    double best = 0;

    for (int i = 0; i < 4; i++)
        fill(buffers[i], VECTOR_LEN * 4);
    fill(state, HEAD_LEN * HEAD_LEN);
    vector_kernels[idx].run(&w);
    for (int sample = 0; sample < SAMPLES; sample++) {
        uint64_t begin = ps_now_ns(), now, calls = 0;
        do {
            vector_kernels[idx].run(&w);
            calls++;
            now = ps_now_ns();
        } while (now - begin < SAMPLE_NS);
        double each = (double)(now - begin) / (double)calls;
        best = sample == 0 || each < best ? each : best;
    }
    return best;
}
