/*
 * Scaled rotary embeddings: the frequencies and factors that volumes get, against numbers that were
 * computed apart from this code, from the definitions of transformers 5 and of GGUF.
 */
#include <math.h>

#include "model/import.h"
#include "quant/type.h"
#include "source_writer.h"
#include "util.h"

#define PAIRS 8 /* heads of 16 values, theta 1e6, context of 512 */

static const float plain[PAIRS] = {1,     0.177827941f,    0.0316227766f,   0.00562341325f,
                                   1e-3f, 0.000177827941f, 3.16227766e-05f, 5.62341325e-06f};
static const float quarter[PAIRS] = {0.25f,    0.0444569853f,   0.00790569415f,  0.00140585331f,
                                     0.00025f, 4.44569853e-05f, 7.90569415e-06f, 1.40585331e-06f};
static const float yarn_256[PAIRS] = {1,        0.133370956f,    0.0158113883f,   0.00140585331f,
                                      0.00025f, 4.44569853e-05f, 7.90569415e-06f, 1.40585331e-06f};
static const float yarn_128[PAIRS] = {1,        0.111142463f,    0.00790569415f,  0.00140585331f,
                                      0.00025f, 4.44569853e-05f, 7.90569415e-06f, 1.40585331e-06f};
static const float yarn_8[PAIRS] = {1,         0.177827941f,    0.00901107245f,  0.000702926656f,
                                    0.000125f, 2.22284926e-05f, 3.95284708e-06f, 7.02926656e-07f};
static const float yarn_2[PAIRS] = {1,       0.148189951f,    0.0210818511f,   0.00281170663f,
                                    0.0005f, 8.89139705e-05f, 1.58113883e-05f, 2.81170663e-06f};
static const float llama3[PAIRS] = {1,         0.177827941f,    0.00661310632f,  0.000702926656f,
                                    0.000125f, 2.22284926e-05f, 3.95284708e-06f, 7.02926656e-07f};

struct dirs {
    char dir[256];
    char path[300];
};

static int make_dir(void **state)
{
    struct dirs *d = malloc(sizeof(*d));

    assert_non_null(d);
    ps_test_dir_make(d->dir, sizeof(d->dir));
    *state = d;
    return 0;
}

static int drop_dir(void **state)
{
    struct dirs *d = *state;

    ps_test_dir_remove(d->dir);
    free(d);
    return 0;
}

/* want: NULL for frequencies that theta gives. */
static void check(const char *path, const float *want, float scale)
{
    struct ps_model_layout_options options = {.source = path, .quant = "keep"};
    struct ps_import *import = NULL;
    struct ps_error err = {0};

    if (ps_import_open(&import, &options, 1, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    const struct ps_config *c = &import->config;
    assert_true(c->rope_theta == 1e6);
    assert_int_equal(c->rope_dims, 2 * PAIRS);
    assert_true(fabsf(c->rope_scale - scale) <= 1e-6f * scale);
    assert_int_equal(c->rope_table_count, want ? PAIRS : 0);
    for (uint32_t i = 0; i < c->rope_table_count; i++)
        if (!(fabsf(c->rope_table[i] - want[i]) <= 4e-7f * want[i]))
            fail_msg("frequency %u is %.9g, not %.9g", i, (double)c->rope_table[i],
                     (double)want[i]);
    /* Nothing of it is reported as left out. */
    assert_string_equal(import->report.skipped_groups, "");
    ps_import_close(&import);
}

static void test_config_json(void **state)
{
    static const struct {
        const char *fields;
        const float *want;
        float scale;
    } cases[] = {
        {"\"rope_theta\":1e6", NULL, 1},
        {"\"rope_theta\":1e6,\"rope_scaling\":null", NULL, 1},
        {"\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":1e6}", NULL, 1},
        {"\"rope_theta\":1e6,\"rope_scaling\":{\"type\":\"mrope\",\"mrope_section\":[2,3,3]}", NULL,
         1},
        {"\"rope_theta\":1e6,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}", quarter, 1},
        {"\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":4.0,\"rope_theta\":1e6}",
         quarter, 1},
        {"\"rope_theta\":1e6,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
         "\"original_max_position_embeddings\":256}",
         yarn_256, 1.13862944f},
        {"\"rope_parameters\":{\"rope_theta\":1e6,\"rope_type\":\"yarn\","
         "\"original_max_position_embeddings\":128,\"attention_factor\":0.5}",
         yarn_128, 0.5f},
        {"\"rope_parameters\":{\"rope_theta\":1e6,\"rope_type\":\"yarn\",\"factor\":8,\"beta_"
         "fast\":8,"
         "\"beta_slow\":2,\"truncate\":false,\"mscale\":0.7,\"mscale_all_dim\":0.5}",
         yarn_8, 1.03767200f},
        {"\"rope_theta\":1e6,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
         "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
         "\"original_max_position_embeddings\":256}",
         llama3, 1},
        /* Of two objects the one that asks for something counts. */
        {"\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":1e6},"
         "\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}",
         quarter, 1},
    };
    static const char from[] = "\"rope_theta\":1000000.0";
    struct tiny_model m = tiny_default(false);
    struct dirs *d = *state;
    const char *path = tiny_write_safetensors(&m, d->dir);
    char *good = tiny_config(&m), *at = strstr(good, from);

    assert_non_null(at);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *text = NULL;
        int n =
            asprintf(&text, "%.*s%s%s", (int)(at - good), good, cases[i].fields, at + strlen(from));

        assert_true(n > 0);
        ps_test_file_write(d->dir, "hf/config.json", text, (size_t)n);
        free(text);
        check(path, cases[i].want, cases[i].scale);
    }
    free(good);
}

struct key {
    const char *name; /* NULL at the end */
    const char *text; /* or a number: */
    float number;
};

static const char *write_gguf(struct dirs *d, const struct key *keys, const float *divisors)
{
    struct tiny_model m = tiny_default(false);
    struct source_writer *w = malloc(sizeof(*w));
    const uint64_t count = PAIRS;

    assert_non_null(w);
    m.kind = TINY_MIXTRAL;
    tiny_gguf(&m, w);
    for (; keys && keys->name; keys++) {
        char name[96];

        snprintf(name, sizeof(name), "llama.rope.%s", keys->name);
        if (keys->text)
            writer_key_text(w, name, keys->text);
        else
            writer_key_f32(w, name, keys->number);
    }
    if (divisors)
        writer_add(w, "rope_freqs.weight", PS_TYPE_F32, divisors, 1, &count);
    struct writer_bytes b = writer_gguf(w, 0, w->tensor_count);
    ps_test_file_write(d->dir, "rope.gguf", b.data, b.bytes);
    free(b.data);
    writer_fini(w);
    free(w);
    snprintf(d->path, sizeof(d->path), "%s/rope.gguf", d->dir);
    return d->path;
}

static void test_gguf(void **state)
{
    static const struct key linear[] = {
        {"scaling.type", "linear", 0}, {"scaling.factor", NULL, 4}, {NULL, NULL, 0}};
    static const struct key old[] = {{"scale_linear", NULL, 4}, {NULL, NULL, 0}};
    static const struct key none[] = {
        {"scaling.type", "none", 0}, {"scaling.factor", NULL, 4}, {NULL, NULL, 0}};
    static const struct key yarn[] = {{"scaling.type", "yarn", 0},
                                      {"scaling.factor", NULL, 4},
                                      {"scaling.original_context_length", NULL, 256},
                                      {NULL, NULL, 0}};
    static const struct key yarn_more[] = {
        {"scaling.type", "yarn", 0},          {"scaling.factor", NULL, 2},
        {"scaling.yarn_beta_fast", NULL, 16}, {"scaling.yarn_beta_slow", NULL, 2},
        {"scaling.attn_factor", NULL, 1.5f},  {NULL, NULL, 0}};
    struct dirs *d = *state;
    float divisors[PAIRS];

    check(write_gguf(d, NULL, NULL), NULL, 1);
    check(write_gguf(d, linear, NULL), quarter, 1);
    check(write_gguf(d, old, NULL), quarter, 1);
    check(write_gguf(d, none, NULL), NULL, 1);
    check(write_gguf(d, yarn, NULL), yarn_256, 1.13862944f);
    check(write_gguf(d, yarn_more, NULL), yarn_2, 1.60397208f);
    for (int i = 0; i < PAIRS; i++)
        divisors[i] = plain[i] / llama3[i];
    check(write_gguf(d, NULL, divisors), llama3, 1);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, make_dir, drop_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_config_json), TEST(test_gguf)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
