/*
 * Shapes that no reference output covers, against a forward pass in double (oracle.h): dense
 * layers, none but dense layers, tied embeddings, raw router weights, experts of several folds,
 * layers whose experts differ in type and size. And their bits do not depend on how they are run.
 */
#include <math.h>

#include "model_fixture.h"
#include "oracle.h"
#include "quant/type.h"
#include "util.h"

#define TOKEN_COUNT 11
#define TOLERANCE 1e-4 /* of the largest logit */

struct shape {
    const char *name;
    bool qwen3_5, gguf;
    uint32_t fewer;          /* experts_used asked for, 0 = the model's */
    bool mixed;              /* GGUF: layer 1 has gate and up matrices in F32 */
    struct tiny_model other; /* fields that are not 0 replace the default's */
};

static const struct shape shapes[] = {
    {"first layer dense, router weights as they are", false, false, 0, false, {.dense = 160}},
    {"first layer dense, tied, GGUF", false, true, 0, false, {.dense = 96, .tied = true}},
    {"experts of several folds", true, false, 0, false, {.width = 544, .experts = 5, .used = 3}},
    {"experts of several folds, GGUF", false, true, 0, false, {.width = 768, .experts = 7}},
    {"tiled heads, other widths",
     true,
     true,
     0,
     false,
     {.v_heads = 6, .k_dim = 32, .taps = 3, .shared = 48}},
    {"heads without sharing, odd sizes",
     true,
     false,
     0,
     false,
     {.hidden = 48, .kv_heads = 4, .head_dim = 8, .vocab = 81, .width = 80, .taps = 2}},
    {"one expert", false, false, 0, false, {.experts = 1, .used = 1}},
    {"all experts", true, true, 0, false, {.experts = 6, .used = 6}},
    {"70 experts per token", false, true, 0, false, {.experts = 72, .used = 70}},
    {"fewer experts than the model's", true, false, 1, false, {.experts = 6, .used = 4}},
    {"layers of different types, GGUF", false, true, 0, true, {.layers = 3, .experts = 6}},
    {"Qwen3-Next, first layer dense",
     true,
     false,
     0,
     false,
     {.kind = TINY_NEXT, .v_heads = 6, .k_dim = 32, .dense = 96, .prediction = true}},
    {"Qwen3-Next, GGUF", true, true, 0, false, {.kind = TINY_NEXT, .v_heads = 6}},
    {"Qwen3-Next, older GGUF",
     true,
     true,
     0,
     false,
     {.kind = TINY_NEXT, .k_dim = 24, .old_form = true}},
    {"OLMoE, clipped", false, false, 0, false, {.kind = TINY_OLMOE, .kv_heads = 4, .clip = 1.5f}},
    {"OLMoE, clipped, GGUF", false, true, 0, false, {.kind = TINY_OLMOE, .clip = 0.75f}},
    {"Mixtral", false, false, 0, false, {.kind = TINY_MIXTRAL, .width = 544}},
    {"Mixtral, YaRN", false, false, 0, false, {.kind = TINY_MIXTRAL, .yarn = true}},
    {"OLMoE, YaRN, GGUF", false, true, 0, false, {.kind = TINY_OLMOE, .yarn = true}},
    {"Mixtral, GGUF", false, true, 0, false, {.kind = TINY_MIXTRAL, .head_dim = 24}},
    {"Mixtral, older GGUF", false, true, 0, false, {.kind = TINY_MIXTRAL, .old_form = true}},
};

static void override(struct tiny_model *m, const struct tiny_model *o)
{
#define TAKE(FIELD) m->FIELD = o->FIELD ? o->FIELD : m->FIELD
    TAKE(kind);
    TAKE(clip);
    TAKE(old_form);
    TAKE(prediction);
    TAKE(yarn);
    TAKE(layers);
    TAKE(hidden);
    TAKE(kv_heads);
    TAKE(head_dim);
    TAKE(v_heads);
    TAKE(k_dim);
    TAKE(taps);
    TAKE(experts);
    TAKE(used);
    TAKE(width);
    TAKE(shared);
    TAKE(vocab);
    TAKE(dense);
    TAKE(tied);
#undef TAKE
}

/* The same values in another type. */
static void retype(struct source_writer *w, const char *name, uint32_t type)
{
    struct writer_tensor *t = writer_find(w, name);
    uint64_t dims[4], count = 1;
    uint32_t dim_count = t->dim_count;

    memcpy(dims, t->dims, sizeof(dims));
    for (uint32_t i = 0; i < dim_count; i++)
        count *= dims[i];
    float *values = malloc(count * sizeof(*values));
    assert_non_null(values);
    ps_row_decode(t->type, t->data, values, count);
    writer_remove(w, name);
    writer_add(w, name, type, values, dim_count, dims);
    free(values);
}

static const char *write_source(const struct shape *s, const struct tiny_model *m, const char *dir)
{
    static char path[320];

    if (!s->gguf)
        return tiny_write_safetensors(m, dir);
    if (!s->mixed)
        return tiny_write_gguf(m, dir);
    struct source_writer *w = malloc(sizeof(*w));
    assert_non_null(w);
    tiny_gguf(m, w);
    retype(w, "blk.1.ffn_gate_exps.weight", PS_TYPE_F32);
    retype(w, "blk.1.ffn_up_exps.weight", PS_TYPE_F32);
    retype(w, "blk.2.ffn_down_exps.weight", PS_TYPE_F16);
    struct writer_bytes b = writer_gguf(w, 0, w->tensor_count);
    ps_test_file_write(dir, "mixed.gguf", b.data, b.bytes);
    free(b.data);
    writer_fini(w);
    free(w);
    snprintf(path, sizeof(path), "%s/mixed.gguf", dir);
    return path;
}

static void compare(const struct shape *s, const struct tiny_model *m, const int32_t *ids,
                    const float *got)
{
    bool always = m->kind == TINY_MIXTRAL, never = m->kind == TINY_OLMOE;
    struct oracle o = {.m = m,
                       .tiled = s->gguf && m->k_heads != m->v_heads && m->kind != TINY_NEXT,
                       .renormalise = always || (!never && (s->qwen3_5 || s->gguf)),
                       .used = s->fewer ? s->fewer : m->used};
    double *want = malloc(m->vocab * sizeof(*want)), worst = 0;

    assert_non_null(want);
    oracle_init(&o, TOKEN_COUNT);
    for (size_t t = 0; t < TOKEN_COUNT; t++) {
        double largest = 0;
        oracle_step(&o, ids[t], want);
        for (uint32_t i = 0; i < m->vocab; i++)
            largest = fmax(largest, fabs(want[i]));
        for (uint32_t i = 0; i < m->vocab; i++) {
            double d = fabs((double)got[t * m->vocab + i] - want[i]) / largest;
            if (!(d <= TOLERANCE))
                fail_msg("token %zu, logit %u: %g, the oracle has %g", t, i,
                         (double)got[t * m->vocab + i], want[i]);
            worst = fmax(worst, d);
        }
    }
    printf("    largest difference %.1e, smallest gap between experts %.1e\n", worst, o.worst_gap);
    /* Nearer than this a rounding could choose another expert, and the comparison would be luck. */
    assert_true(o.worst_gap > 1e-4);
    oracle_fini(&o);
    free(want);
}

static void check_bits(const struct fixture_volume *volume, const struct fixture_run *run,
                       const int32_t *ids, const float *want)
{
    struct ps_model *model = fixture_open(volume);
    struct ps_model_info info;

    ps_model_info(model, &info);
    float *got = fixture_logits(model, run, ids, TOKEN_COUNT, NULL);
    assert_memory_equal(got, want, TOKEN_COUNT * info.vocab_rows * sizeof(*got));
    free(got);
    ps_model_close(&model);
}

static void check_shape(void **state)
{
    const struct shape *s = *state;
    struct tiny_model m = tiny_default(s->qwen3_5);
    struct fixture_volume volume;
    struct fixture_run run = {.options = {.experts_used = s->fewer, .kv = "f32"}};
    int32_t ids[TOKEN_COUNT];
    char dir[256];

    override(&m, &s->other);
    for (uint32_t i = 0; i < TOKEN_COUNT; i++)
        ids[i] = (int32_t)((i * i * 7 + i * 3 + 2) % m.vocab);
    ps_test_dir_make(dir, sizeof(dir));
    const char *source = write_source(s, &m, dir);
    fixture_layout(&volume, source, "keep", 1u << 30, 1);
    struct ps_model *model = fixture_open(&volume);
    float *want = fixture_logits(model, &run, ids, TOKEN_COUNT, NULL);
    ps_model_close(&model);
    compare(s, &m, ids, want);
    run.options.threads = 3;
    run.options.ctx = TOKEN_COUNT;
    run.options.memory_bytes = PS_MEMORY_MIN;
    check_bits(&volume, &run, ids, want);
    fixture_remove(&volume);
    fixture_layout(&volume, source, "keep", 1, 3);
    check_bits(&volume, &run, ids, want);
    run.one_by_one = true;
    run.options.chunk_tokens = 1;
    check_bits(&volume, &run, ids, want);
    fixture_remove(&volume);
    ps_test_dir_remove(dir);
    free(want);
}

int main(void)
{
    struct CMUnitTest tests[sizeof(shapes) / sizeof(shapes[0])];
    size_t count = sizeof(shapes) / sizeof(shapes[0]);

    for (size_t i = 0; i < count; i++) {
        tests[i] = (struct CMUnitTest)cmocka_unit_test_prestate(check_shape, (void *)&shapes[i]);
        tests[i].name = shapes[i].name;
    }
    return cmocka_run_group_tests_name("shapes", tests, NULL, NULL) ? 1 : 0;
}
