/* Models without a volume: presets against published sizes, checkpoints against their volumes. */
#include <math.h>

#include "model/engine.h"
#include "model/preset.h"
#include "model_fixture.h"
#include "source_writer.h"
#include "util.h"

static struct ps_model *describe(const char *source, const char *quant, int members)
{
    struct ps_model_describe_options options = {
        .source = source, .quant = quant, .member_count = members};
    struct ps_model *model = NULL;
    struct ps_error err = {0};

    if (ps_model_describe(&model, &options, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    return model;
}

/* Parameters of a configuration: every role's rows times columns, and the experts. */
static double parameters(const struct ps_config *c)
{
    double sum = 0;

    for (int role = 0; role < PS_ROLE_COUNT; role++)
        for (uint32_t l = 0; l < (role < PS_ROLE_LAYER_FIRST ? 1 : c->layer_count); l++) {
            uint64_t rows, cols;
            if (!ps_role_present(c, (enum ps_role)role, l))
                continue;
            ps_role_shape(c, (enum ps_role)role, &rows, &cols);
            sum += (double)rows * (double)cols;
        }
    return sum + 3.0 * c->layer_count * c->expert_count * c->expert_width * c->hidden;
}

static void test_published_sizes(void **state)
{
    (void)state;
    for (const struct ps_preset *p = ps_presets; p->name; p++) {
        struct ps_config config;
        ps_preset_config(p, &config);
        double billions = parameters(&config) / 1e9;
        print_message("%-20s %8.2f of %8.2f\n", p->name, billions, p->parameters);
        assert_true(fabs(billions / p->parameters - 1) < 0.02);
    }
}

static void test_every_preset_plans(void **state)
{
    (void)state;
    for (const struct ps_preset *p = ps_presets; p->name; p++) {
        struct ps_engine_options options = {.memory_bytes = PS_MEMORY_MIN, .threads = 4};
        struct ps_model *model = describe(p->name, "q4_0", 1);
        struct ps_error err = {0};
        struct ps_plan plan;

        assert_int_equal(ps_model_plan(model, &options, &plan, &err), 0);
        assert_int_equal(plan.total_bytes, plan.floor_bytes);
        ps_model_close(&model);
    }
}

/* One expert of 7,077,888 bytes, 600 of them per token, 30,720 in all. */
static void test_largest(void **state)
{
    struct ps_model *model = describe("qwen3.5-397b", NULL, 2);
    struct ps_engine *engine = NULL;
    struct ps_error err = {0};
    struct ps_model_info info;

    (void)state;
    ps_model_info(model, &info);
    assert_int_equal(info.expert_bytes_max, 7077888);
    assert_int_equal(info.token_bytes, 600ull * 7077888);
    assert_int_equal(info.streamed_bytes, 30720ull * 7077888);
    assert_string_equal(info.name, "Qwen3.5-397B-A17B");
    assert_int_equal(ps_volume_member_count(ps_model_volume(model)), 2);
    assert_int_equal(ps_engine_open(&engine, model, NULL, &err), -PS_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "lay it out"));
    ps_model_close(&model);
}

static void refuse(const char *source, const char *quant, int code, const char *words)
{
    struct ps_model_describe_options options = {
        .source = source, .quant = quant, .member_count = 1};
    struct ps_model *model = NULL;
    struct ps_error err = {0};

    assert_int_equal(ps_model_describe(&model, &options, &err), code);
    if (!strstr(err.text, words))
        fail_msg("no \"%s\" in: %s", words, err.text);
}

static void test_names(void **state)
{
    (void)state;
    refuse("qwen9", NULL, -ENOENT, "Mixtral-8x22B");
    refuse("", NULL, -ENOENT, "Mixtral-8x22B");
    refuse("mixtral-8x", NULL, -PS_ERR_ARGUMENT, "Mixtral-8x7B, Mixtral-8x22B");
    refuse("olmoe", "q4", -PS_ERR_ARGUMENT, "is not understood");
    refuse("olmoe", "experts=q4_k,rest=", -PS_ERR_ARGUMENT, "is not understood");
    struct ps_model *model = describe("MIXTRAL-8X7B", "experts=q4_k,rest=bf16", 1);
    ps_model_close(&model);
}

/* Both models are open before either is planned: what the process holds is the same for both. */
static void same_table(const char *source, const char *quant, int members)
{
    struct fixture_volume volume;
    struct ps_error err = {0};

    fixture_layout(&volume, source, quant, 0, members);
    struct ps_model *laid_out = fixture_open(&volume);
    struct ps_model *described = describe(source, quant, members);
    /* Under a sanitizer the process itself, the first line, grows from one plan to the next, and no
     * ceiling of its own holds. */
    int own = PS_TEST_SANITIZED ? 1 : 0;
    for (int i = 0; i < (own ? 1 : 3); i++) {
        struct ps_engine_options options = {.memory_bytes = i ? (32ull << 20) * i : PS_MEMORY_MIN,
                                            .ctx = 64,
                                            .activations = i == 1 ? "q8" : "f32"};
        struct ps_plan a, b;
        assert_int_equal(ps_model_plan(laid_out, &options, &a, &err), 0);
        assert_int_equal(ps_model_plan(described, &options, &b, &err), 0);
        assert_memory_equal(&a.lines[own], &b.lines[own],
                            sizeof(a.lines) - (size_t)own * sizeof(a.lines[0]));
        assert_int_equal(a.expert_slots, b.expert_slots);
        assert_int_equal(a.chunk_tokens, b.chunk_tokens);
        if (own == 0)
            assert_int_equal(a.floor_bytes, b.floor_bytes);
    }
    ps_model_close(&described);
    ps_model_close(&laid_out);
    fixture_remove(&volume);
}

static void test_source_as_volume(void **state)
{
    struct tiny_model tiny = tiny_default(true);
    char dir[256];

    (void)state;
    ps_test_dir_make(dir, sizeof(dir));
    tiny.type = tiny.expert_type = PS_TYPE_Q8_0;
    same_table(tiny_write_gguf(&tiny, dir), NULL, 1);
    same_table(tiny_write_gguf(&tiny, dir), "experts=q4_0,rest=q8_0", 2);
    tiny = tiny_default(false);
    same_table(tiny_write_safetensors(&tiny, dir), NULL, 1);
    ps_test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_sizes),  cmocka_unit_test(test_every_preset_plans),
        cmocka_unit_test(test_largest),          cmocka_unit_test(test_names),
        cmocka_unit_test(test_source_as_volume),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
