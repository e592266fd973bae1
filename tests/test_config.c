/* The configuration and the geometry of experts: limits, the round trip through model.json. */
#include <math.h>

#include "model/config.h"
#include "model/expert.h"
#include "quant/type.h"
#include "util.h"

static struct ps_config good(void)
{
    struct ps_config c = {
        .arch = "qwen3_5_moe",
        .name = "a model",
        .source_name = "dir",
        .vocab_rows = 1000,
        .hidden = 64,
        .layer_count = 4,
        .context_max = 4096,
        .norm_eps = 1e-6f,
        .head_count = 4,
        .kv_head_count = 2,
        .head_dim = 16,
        .attn_gate = true,
        .qk_norm = true,
        .rope_dims = 4,
        .rope_theta = 1e7,
        .rope_scale = 1,
        .delta_k_heads = 2,
        .delta_v_heads = 4,
        .delta_k_dim = 16,
        .delta_v_dim = 16,
        .conv_taps = 4,
        .delta_tiled = true,
        .expert_count = 8,
        .experts_used = 2,
        .expert_width = 96,
        .renormalise = true,
        .expert_scale = 1,
        .shared_width = 32,
        .shared_gate = true,
        .dense_width = 128,
        .end_ids = {3, 999},
        .end_id_count = 2,
        .sampling = {true, 0.7f, 0.95f, 0.05f, 1.1f, 40},
    };

    for (int i = 0; i < 4; i++)
        c.layers[i] = (struct ps_config_layer){PS_MIXER_DELTA, PS_FFN_MOE, PS_TYPE_Q4_0,
                                               PS_TYPE_BF16, PS_TYPE_Q8_0};
    c.layers[3] = (struct ps_config_layer){.mixer = PS_MIXER_ATTENTION, .ffn = PS_FFN_DENSE};
    return c;
}

static uint32_t list_tensors(const struct ps_config *c, struct ps_config_tensor *list)
{
    uint32_t n = 0;

    for (int role = 0; role < PS_ROLE_LAYER_FIRST; role++)
        list[n++] = (struct ps_config_tensor){(enum ps_role)role, 0, PS_TYPE_BF16};
    list[PS_ROLE_OUT_NORM].type = PS_TYPE_F32;
    for (uint32_t layer = 0; layer < ps_config_layers_all(c); layer++)
        for (int role = PS_ROLE_LAYER_FIRST; role < PS_ROLE_COUNT; role++)
            if (ps_role_present(c, (enum ps_role)role, layer))
                list[n++] = (struct ps_config_tensor){
                    (enum ps_role)role, layer,
                    ps_role_is_vector((enum ps_role)role) ? PS_TYPE_F32 : PS_TYPE_BF16};
    return n;
}

/* With everything that most models do not have. */
static struct ps_config good_more(void)
{
    struct ps_config c = good();

    c.attn_gate = false;
    c.qk_norm_whole = true;
    c.qkv_clip = 8;
    c.rope_scale = 1.25f;
    c.rope_table_count = 2;
    c.rope_table[0] = 1;
    c.rope_table[1] = 1e-3f;
    c.prediction_count = 1;
    c.layers[4] = (struct ps_config_layer){PS_MIXER_ATTENTION, PS_FFN_MOE, PS_TYPE_BF16,
                                           PS_TYPE_BF16, PS_TYPE_BF16};
    return c;
}

static void test_round_trip_more(void **state)
{
    struct ps_config_tensor list[5 * PS_ROLE_COUNT], *back_list = NULL;
    struct ps_config c = good_more(), back;
    uint32_t n = list_tensors(&c, list), back_n = 0;
    struct ps_error err = {0};
    char *json = NULL;

    (void)state;
    assert_int_equal(ps_config_to_json(&c, list, n, &json, &err), 0);
    assert_non_null(strstr(json, "\"version\": 2"));
    assert_int_equal(ps_config_from_json(json, strlen(json), &back, &back_list, &back_n, &err), 0);
    assert_int_equal(back_n, n);
    assert_memory_equal(back_list, list, n * sizeof(list[0]));
    assert_true(back.qk_norm_whole);
    assert_true(back.qkv_clip == 8 && back.rope_scale == 1.25f);
    assert_int_equal(back.rope_table_count, 2);
    assert_memory_equal(back.rope_table, c.rope_table, 2 * sizeof(float));
    assert_int_equal(back.prediction_count, 1);
    assert_memory_equal(&back.layers[4], &c.layers[4], sizeof(c.layers[4]));
    free(json);
    free(back_list);

    /* What changes no sum asks for no later release. */
    c = good();
    c.prediction_count = 1;
    c.layers[4] = good_more().layers[4];
    n = list_tensors(&c, list);
    assert_int_equal(ps_config_to_json(&c, list, n, &json, &err), 0);
    assert_non_null(strstr(json, "\"version\": 1"));
    free(json);
}

static void test_round_trip(void **state)
{
    struct ps_config_tensor list[4 * PS_ROLE_COUNT], *back_list = NULL;
    struct ps_config c = good(), back;
    uint32_t n = list_tensors(&c, list), back_n = 0;
    struct ps_error err = {0};
    char *json = NULL, *again = NULL;

    (void)state;
    memset(&back, 0xAA, sizeof(back));
    assert_int_equal(ps_config_to_json(&c, list, n, &json, &err), 0);
    assert_int_equal(ps_config_from_json(json, strlen(json), &back, &back_list, &back_n, &err), 0);
    assert_int_equal(back_n, n);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(back_list[i].role, list[i].role);
        assert_int_equal(back_list[i].layer, list[i].layer);
        assert_int_equal(back_list[i].type, list[i].type);
    }
    assert_string_equal(back.name, "a model");
    assert_true(back.rope_theta == c.rope_theta && back.norm_eps == c.norm_eps);
    assert_true(back.delta_tiled && back.attn_gate && back.shared_gate && back.renormalise);
    assert_int_equal(back.layers[3].ffn, PS_FFN_DENSE);
    assert_int_equal(back.layers[0].up_type, PS_TYPE_BF16);
    assert_int_equal(back.end_ids[1], 999);
    assert_true(back.sampling.has && back.sampling.temperature == 0.7f &&
                back.sampling.top_k == 40);
    assert_int_equal(ps_config_to_json(&back, back_list, back_n, &again, &err), 0);
    assert_string_equal(json, again);
    free(json);
    free(again);
    free(back_list);
}

/* Every field that a hostile volume could set, pushed out of its range, one at a time. */
static void test_limits(void **state)
{
    struct {
        size_t offset;
        uint32_t value;
    } cases[] = {
#define C(NAME, VALUE) offsetof(struct ps_config, NAME), VALUE
        {C(vocab_rows, 0)},
        {C(vocab_rows, 1u << 30)},
        {C(vocab_rows, 999)},
        {C(hidden, 0)},
        {C(hidden, 1u << 30)},
        {C(hidden, 65)},
        {C(layer_count, 0)},
        {C(layer_count, 513)},
        {C(context_max, 0)},
        {C(head_count, 0)},
        {C(head_count, 5)},
        {C(head_count, UINT32_MAX)},
        {C(kv_head_count, 0)},
        {C(kv_head_count, 3)},
        {C(head_dim, 0)},
        {C(head_dim, 1u << 20)},
        {C(rope_dims, 3)},
        {C(rope_dims, 18)},
        {C(delta_k_heads, 0)},
        {C(delta_v_heads, 3)},
        {C(delta_k_dim, 0)},
        {C(delta_v_dim, 1u << 20)},
        {C(conv_taps, 0)},
        {C(conv_taps, 1)},
        {C(conv_taps, 1000)},
        {C(expert_count, 0)},
        {C(expert_count, 1)},
        {C(expert_count, 5000)},
        {C(experts_used, 0)},
        {C(experts_used, 9)},
        {C(expert_width, 0)},
        {C(expert_width, 100)},
        {C(expert_width, 1u << 30)},
        {C(shared_width, 1u << 30)},
        {C(dense_width, 0)},
        {C(dense_width, 1u << 30)},
        {C(end_id_count, 9)},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ps_config c = good();
        struct ps_error err = {0};

        memcpy((char *)&c + cases[i].offset, &cases[i].value, sizeof(uint32_t));
        if (ps_config_check(&c, &err) != -PS_ERR_FORMAT)
            fail_msg("case %zu was accepted", i);
        assert_true(err.text[0]);
    }
}

/* Sizes of buffers follow from every field, so a layer kind that no layer has must be bounded, too;
 * it may be missing altogether. */
static void test_unused_limits(void **state)
{
    const struct {
        size_t offset;
        uint32_t value;
    } cases[] = {
        {C(head_count, UINT32_MAX)},    {C(head_dim, UINT32_MAX)},      {C(rope_dims, UINT32_MAX)},
        {C(kv_head_count, UINT32_MAX)}, {C(delta_k_heads, UINT32_MAX)}, {C(delta_k_dim, 1u << 31)},
        {C(delta_v_heads, UINT32_MAX)}, {C(delta_v_dim, 1u << 31)},     {C(conv_taps, 17)},
        {C(expert_count, UINT32_MAX)},  {C(experts_used, UINT32_MAX)},  {C(expert_width, 1u << 31)},
        {C(shared_width, UINT32_MAX)},  {C(dense_width, UINT32_MAX)},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int used = 0; used < 2; used++) {
            struct ps_config c = good();
            struct ps_error err = {0};
            for (int l = 0; l < 4; l++)
                c.layers[l] = (struct ps_config_layer){
                    cases[i].offset < offsetof(struct ps_config, delta_k_heads)
                        ? PS_MIXER_DELTA
                        : PS_MIXER_ATTENTION,
                    cases[i].offset == offsetof(struct ps_config, dense_width) ? PS_FFN_MOE
                                                                               : PS_FFN_DENSE,
                    PS_TYPE_BF16, PS_TYPE_BF16, PS_TYPE_BF16};
            uint32_t value = used ? cases[i].value : 0;
            memcpy((char *)&c + cases[i].offset, &value, sizeof(value));
            if (!used && cases[i].offset == offsetof(struct ps_config, head_dim))
                c.rope_dims = 0;
            if (ps_config_check(&c, &err) != (used ? -PS_ERR_FORMAT : 0))
                fail_msg("case %zu, %u: %s", i, value, err.text);
        }
    }
}
#undef C

static void test_heads_together(void **state)
{
    struct ps_config c = good();
    struct ps_error err = {0};

    (void)state;
    c.head_count = 4096;
    c.head_dim = 8192;
    assert_int_equal(ps_config_check(&c, &err), -PS_ERR_FORMAT);
    assert_non_null(strstr(err.text, "together"));
}

static void test_limits_of_numbers(void **state)
{
    struct ps_error err = {0};

    (void)state;
    for (int i = 0; i < 9; i++) {
        struct ps_config c = good();

        assert_int_equal(ps_config_check(&c, &err), 0);
        switch (i) {
        case 0:
            c.norm_eps = NAN;
            break;
        case 1:
            c.rope_theta = 0;
            break;
        case 2:
            c.expert_scale = INFINITY;
            break;
        case 3:
            c.end_ids[0] = -1;
            break;
        case 4:
            c.sampling.temperature = NAN;
            break;
        case 5:
            c.sampling.top_p = 0;
            break;
        case 6:
            c.layers[1].down_type = 12345;
            break;
        case 7:
            c.layers[1].mixer = (enum ps_mixer)7;
            break;
        default:
            c.arch[0] = 0;
            break;
        }
        assert_int_equal(ps_config_check(&c, &err), -PS_ERR_FORMAT);
    }
}

static void expect_bad_json(const char *json)
{
    struct ps_config_tensor *list = NULL;
    struct ps_error err = {0};
    struct ps_config c;
    uint32_t n;

    if (ps_config_from_json(json, strlen(json), &c, &list, &n, &err) != -PS_ERR_FORMAT)
        fail_msg("accepted: %.200s", json);
    assert_null(list);
    assert_true(err.text[0]);
}

/* Replaces the first occurrence; fails when there is none. */
static char *replaced(const char *json, const char *from, const char *to)
{
    const char *at = strstr(json, from);
    char *out = NULL;

    if (!at)
        fail_msg("the test expects %s in model.json", from);
    assert_true(asprintf(&out, "%.*s%s%s", (int)(at - json), json, to, at + strlen(from)) > 0);
    return out;
}

static void test_hostile_json_more(void **state)
{
    static const char *const edits[][2] = {
        {"\"qkv_clip\": 8.0", "\"qkv_clip\": -8.0"},
        {"\"qkv_clip\": 8.0", "\"qkv_clip\": true"},
        {"\"qk_norm_whole\": true", "\"qk_norm_whole\": 1"},
        {"\"attn_gate\": false", "\"attn_gate\": true"},
        {"\"rope_scale\": 1.25", "\"rope_scale\": 0"},
        {"\"rope_table\": [", "\"rope_table\": [1,"},
        {"\"rope_table\": [", "\"rope_table\": [-1,"},
        {"\"rope_table\": [", "\"rope_table\": [\"1\","},
        {"\"rope_table\": [", "\"rope_table\": 7, \"x\": ["},
        {"\"prediction\": {", "\"prediction\": [], \"x\": {"},
        {"\"prediction\": {", "\"prediction\": {}, \"x\": {"},
        {"\"blk.4.nextn.enorm.weight\"", "\"blk.3.nextn.enorm.weight\""},
        {"\"blk.4.nextn.enorm.weight\"", "\"blk.5.nextn.enorm.weight\""},
        {"\"blk.0.attn_norm.weight\"", "\"blk.4.attn_norm.weight\""},
    };
    struct ps_config_tensor list[5 * PS_ROLE_COUNT];
    struct ps_config c = good_more();
    uint32_t n = list_tensors(&c, list);
    struct ps_error err = {0};
    char *json = NULL;

    (void)state;
    assert_int_equal(ps_config_to_json(&c, list, n, &json, &err), 0);
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        char *bad = replaced(json, edits[i][0], edits[i][1]);

        expect_bad_json(bad);
        free(bad);
    }
    free(json);
}

static void test_hostile_json(void **state)
{
    static const char *const edits[][2] = {
        {"\"version\": 1", "\"version\": 3"},
        {"\"hidden\": 64", "\"hidden\": -64"},
        {"\"hidden\": 64", "\"hidden\": \"64\""},
        {"\"hidden\": 64", "\"hidden\": 64.5"},
        {"\"hidden\": 64", "\"hidden\": 99999999999"},
        {"\"hidden\": 64,", ""},
        {"\"layer_count\": 4", "\"layer_count\": 5"},
        {"\"layer_count\": 4", "\"layer_count\": 4000000000"},
        {"\"attn_gate\": true", "\"attn_gate\": 1"},
        {"\"Q4_0\"", "\"Q9_9\""},
        {"\"mixer\": \"delta\"", "\"mixer\": \"magic\""},
        {"\"name\": \"blk.0.attn_norm.weight\"", "\"name\": \"blk.0.attn_nrm.weight\""},
        {"\"name\": \"blk.0.attn_norm.weight\"", "\"name\": \"blk.1.attn_norm.weight\""},
        {"\"name\": \"blk.0.attn_norm.weight\"", "\"name\": \"blk.9999999999.attn_norm.weight\""},
        {"\"name\": \"blk.0.attn_norm.weight\"", "\"name\": \"blk.0.attn_q.weight\""},
        {"\"name\": \"token_embd.weight\"", "\"name\": \"output.weight\""},
        {"\"type\": \"F32\"", "\"type\": \"BF16\""},
        {"\"type\": \"BF16\"", "\"type\": \"Q4_K\""},
        {"\"end_ids\": [", "\"end_ids\": [1,2,3,4,5,6,7,"},
        {"\"end_ids\": [", "\"end_ids\": [1.5,"},
        {"\"top_k\": 40", "\"top_k\": -1"},
        {"\"tensors\": [", "\"tensors\": [{},"},
        {"\"layers\": [", "\"layers\": {}, \"x\": ["},
    };
    struct ps_config_tensor list[4 * PS_ROLE_COUNT];
    struct ps_config c = good();
    uint32_t n = list_tensors(&c, list);
    struct ps_error err = {0};
    char *json = NULL;

    (void)state;
    assert_int_equal(ps_config_to_json(&c, list, n, &json, &err), 0);
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        char *bad = replaced(json, edits[i][0], edits[i][1]);

        expect_bad_json(bad);
        free(bad);
    }
    expect_bad_json("");
    expect_bad_json("[]");
    expect_bad_json("{\"version\":1}");
    for (size_t len = 0; len < strlen(json); len += 7) {
        char *cut = strndup(json, len);

        expect_bad_json(cut);
        free(cut);
    }
    free(json);
}

/* A tied head is the one tensor that may be absent. */
static void test_missing_tensors(void **state)
{
    struct ps_config_tensor list[4 * PS_ROLE_COUNT], fewer[4 * PS_ROLE_COUNT];
    struct ps_config c = good();
    uint32_t n = list_tensors(&c, list);

    (void)state;
    for (uint32_t without = 0; without < n; without++) {
        struct ps_error err = {0};
        char *json = NULL;
        uint32_t k = 0;
        int rc;

        for (uint32_t i = 0; i < n; i++)
            if (i != without)
                fewer[k++] = list[i];
        rc = ps_config_to_json(&c, fewer, k, &json, &err);
        assert_int_equal(rc, list[without].role == PS_ROLE_HEAD ? 0 : -PS_ERR_FORMAT);
        free(json);
    }
}

static void test_slices(void **state)
{
    /* hidden, width, type, target, neurons, bytes of a whole slice */
    static const struct {
        uint32_t hidden, width, type;
        uint64_t target;
        uint32_t neurons;
        uint64_t bytes;
    } cases[] = {
        {4096, 1024, PS_TYPE_Q4_K, PS_SLICE_BYTES_DEFAULT, 256, 1769472},  /* 397B: 4 slices */
        {4096, 14336, PS_TYPE_Q4_K, PS_SLICE_BYTES_DEFAULT, 256, 1769472}, /* Mixtral: 56 */
        {4096, 768, PS_TYPE_Q4_K, PS_SLICE_BYTES_DEFAULT, 256, 1769472},   /* 3 x 256 */
        {4096, 768, PS_TYPE_Q4_K, 1, 256, 1769472},            /* no smaller than a block of down */
        {4096, 1024, PS_TYPE_Q4_K, 1ull << 30, 1024, 7077888}, /* no larger than the expert */
        {256, 96, PS_TYPE_Q4_0, PS_SLICE_BYTES_DEFAULT, 96, 41472},
        {256, 96, PS_TYPE_Q4_0, 30000, 64, 27648},
        {256, 96, PS_TYPE_Q4_0, 1, 32, 13824},
        {256, 96, PS_TYPE_Q8_0, 1, 32, 26112},
        {128, 64, PS_TYPE_BF16, 1, 16, 12288},
        {128, 40, PS_TYPE_F32, 1, 16, 24576},
        {128, 600, PS_TYPE_BF16, 300000, 256, 196608}, /* whole folds, though 390 would fit */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ps_expert_shape s = {cases[i].hidden, cases[i].width, cases[i].type, cases[i].type,
                                    cases[i].type};
        struct ps_slice_parts parts;
        struct ps_error err;

        assert_int_equal(ps_expert_check(&s, &err), 0);
        assert_int_equal(ps_slice_neurons(&s, cases[i].target), cases[i].neurons);
        ps_slice_parts(&s, cases[i].neurons, &parts);
        assert_int_equal(parts.bytes, cases[i].bytes);
    }
}

static void test_parts(void **state)
{
    /* Mixed types, and a gate part that does not end on 64 bytes: 16 rows of 2 * 34 bytes. */
    struct ps_expert_shape s = {64, 40, PS_TYPE_Q8_0, PS_TYPE_F32, PS_TYPE_BF16};
    struct ps_slice_parts parts;
    struct ps_error err = {0};

    (void)state;
    assert_int_equal(ps_slice_grain(&s), 16);
    ps_slice_parts(&s, 15, &parts);
    assert_int_equal(parts.gate_stride, 68);
    assert_int_equal(parts.up_stride, 256);
    assert_int_equal(parts.down_stride, 30);
    assert_int_equal(parts.gate_offset, 0);
    assert_int_equal(parts.up_offset, 1024); /* 1020, rounded up */
    assert_int_equal(parts.down_offset, 1024 + 15 * 256);
    assert_int_equal(parts.bytes, 1024 + 15 * 256 + 64 * 30);

    s.down_type = PS_TYPE_Q4_K;
    assert_int_equal(ps_slice_grain(&s), 256);
    assert_int_equal(ps_expert_check(&s, &err), -PS_ERR_FORMAT);
    assert_non_null(strstr(err.text, "down"));
    s.down_type = 4711;
    assert_int_equal(ps_expert_check(&s, &err), -PS_ERR_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_round_trip_more),
        cmocka_unit_test(test_hostile_json_more),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_unused_limits),
        cmocka_unit_test(test_heads_together),
        cmocka_unit_test(test_limits_of_numbers),
        cmocka_unit_test(test_hostile_json),
        cmocka_unit_test(test_missing_tensors),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_parts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
