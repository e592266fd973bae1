/*
 * What opening a model refuses, and what it does not: a good volume is copied object by object with
 * its configuration or its slices changed. Nothing here can be made by a layout, but a volume can
 * come from anywhere.
 */
#include <jansson.h>
#include <math.h>

#include "model/model.h"
#include "model_fixture.h"
#include "nvme/layout.h"
#include "oracle.h"
#include "util.h"

#define OBJECT_COUNT_MAX 128
#define SLICE_COUNT_MAX 8
#define TOKEN_COUNT 6

struct copy {
    struct ps_volume *from;
    struct ps_store *store;
    struct ps_layout_object objects[OBJECT_COUNT_MAX];
    struct ps_layout_slice slices[OBJECT_COUNT_MAX][SLICE_COUNT_MAX];
    uint32_t source[OBJECT_COUNT_MAX]; /* object of the old volume */
    uint32_t object_count;
    json_t *config; /* model.json */
};

static struct tiny_model tiny;
static struct fixture_volume good;
static int32_t ids[TOKEN_COUNT] = {3, 70, 41, 41, 8, 25};

/* ---- copying -----------------------------------------------------------------------------------
 */

static void copy_begin(struct copy *c)
{
    const char *path = good.members[0];
    struct ps_error err = {0};
    const void *json;
    uint64_t json_bytes;

    memset(c, 0, sizeof(*c));
    assert_int_equal(ps_volume_open(&c->from, &path, 1, &err), 0);
    struct ps_store_options options = {.engine = "pread"};
    options.cache_bytes = ps_store_floor_bytes(c->from, &options);
    assert_int_equal(ps_store_open(&c->store, c->from, &options, &err), 0);
    assert_int_equal(ps_volume_metadata(c->from, PS_BLOB_MODEL, &json, &json_bytes), 0);
    assert_non_null(c->config = json_loadb(json, json_bytes, 0, NULL));
    c->object_count = ps_volume_object_count(c->from);
    assert_true(c->object_count <= OBJECT_COUNT_MAX);
    for (uint32_t i = 0; i < c->object_count; i++) {
        struct ps_object_info o;
        ps_volume_object(c->from, i, &o);
        assert_true(o.slice_count < SLICE_COUNT_MAX);
        for (uint32_t s = 0; s < o.slice_count; s++) {
            struct ps_slice_info info;
            ps_volume_slice(c->from, i, s, &info);
            c->slices[i][s] =
                (struct ps_layout_slice){info.bytes, info.unit_begin, info.unit_count};
        }
        c->source[i] = i;
        c->objects[i] = (struct ps_layout_object){
            o.kind, o.group,      o.kind == PS_OBJECT_STREAMED ? o.index : 0,
            o.name, c->slices[i], o.slice_count};
    }
}

static int copy_fill(void *ctx, int worker, uint32_t object, uint32_t begin, uint32_t end,
                     uint8_t *buf, struct ps_error *err)
{
    struct copy *c = ctx;
    struct ps_object_info info;
    uint64_t skip = 0, bytes = 0;

    (void)worker;
    ps_volume_object(c->from, c->source[object], &info);
    void *whole = aligned_alloc(4096, info.bytes);
    assert_non_null(whole);
    int rc = ps_store_read(c->store, c->source[object], whole, err);
    for (uint32_t s = 0; s < end; s++)
        *(s < begin ? &skip : &bytes) += c->objects[object].slices[s].bytes;
    memcpy(buf, (uint8_t *)whole + skip, bytes);
    free(whole);
    return rc;
}

/* Writes the copy, opens it as a model, and gives back what opening returned. */
static int copy_end(struct copy *c, struct ps_model **model, struct ps_error *err)
{
    char path[512], *json = json_dumps(c->config, 0);
    const char *member = path;

    assert_non_null(json);
    snprintf(path, sizeof(path), "%s/copy.pst", good.dir);
    unlink(path);
    struct ps_layout_blob blob = {PS_BLOB_MODEL, json, strlen(json)};
    struct ps_layout_spec spec = {.objects = c->objects,
                                  .object_count = c->object_count,
                                  .blobs = &blob,
                                  .blob_count = 1,
                                  .source_name = "copy"};
    struct ps_layout_options options = {.members = &member, .member_count = 1, .threads = 1};
    if (ps_layout_write(&spec, &options, copy_fill, c, err) < 0)
        fail_msg("%s: %s", err->where, err->text);
    free(json);
    json_decref(c->config);
    ps_store_close(&c->store);
    ps_volume_close(&c->from);
    return ps_model_open(model, &member, 1, err);
}

static uint32_t object_named(const struct copy *c, const char *name)
{
    for (uint32_t i = 0; i < c->object_count; i++)
        if (strcmp(c->objects[i].name, name) == 0)
            return i;
    fail_msg("the volume has no %s", name);
    return 0;
}

static void drop_object(struct copy *c, uint32_t i)
{
    uint32_t left = --c->object_count - i;

    memmove(&c->objects[i], &c->objects[i + 1], left * sizeof(c->objects[0]));
    memmove(&c->source[i], &c->source[i + 1], left * sizeof(c->source[0]));
}

static void drop_tensor(struct copy *c, const char *name)
{
    json_t *list = json_object_get(c->config, "tensors");

    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(json_string_value(json_object_get(json_array_get(list, i), "name")), name) == 0)
            json_array_remove(list, i);
    drop_object(c, object_named(c, name));
}

static void refused(struct copy *c, int code, const char *text)
{
    struct ps_model *model = NULL;
    struct ps_error err = {0};

    assert_int_equal(copy_end(c, &model, &err), code);
    assert_null(model);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" is not in: %s", text, err.text);
}

/* Opens the copy and compares its logits with the oracle's. */
static void runs(struct copy *c, struct oracle *o)
{
    struct fixture_run run = {.options = {.memory_bytes = PS_MEMORY_MIN, .kv = "f32"}};
    struct ps_model *model = NULL;
    struct ps_error err = {0};
    double want[256];

    if (copy_end(c, &model, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    float *got = fixture_logits(model, &run, ids, TOKEN_COUNT, NULL);
    ps_model_close(&model);
    o->renormalise = false;
    o->used = tiny.used;
    oracle_init(o, TOKEN_COUNT);
    for (size_t t = 0; t < TOKEN_COUNT; t++) {
        oracle_step(o, ids[t], want);
        for (uint32_t i = 0; i < tiny.vocab; i++)
            assert_true(fabs((double)got[t * tiny.vocab + i] - want[i]) <=
                        1e-4 * (1 + fabs(want[i])));
    }
    oracle_fini(o);
    free(got);
}

/* ---- cases -------------------------------------------------------------------------------------
 */

static void test_plain_copy(void **state)
{
    struct copy c;

    (void)state;
    copy_begin(&c);
    runs(&c, &(struct oracle){.m = &tiny});
}

static void test_heads_without_norms(void **state)
{
    struct copy c;

    (void)state;
    copy_begin(&c);
    json_object_set_new(c.config, "qk_norm", json_false());
    for (uint32_t l = 0; l < tiny.layers; l++) {
        char name[64];
        snprintf(name, sizeof(name), "blk.%u.attn_q_norm.weight", l);
        drop_tensor(&c, name);
        snprintf(name, sizeof(name), "blk.%u.attn_k_norm.weight", l);
        drop_tensor(&c, name);
    }
    runs(&c, &(struct oracle){.m = &tiny, .plain_heads = true});
}

/* Layer 0 is dense; without layer 1 no expert is left. */
static void test_no_experts(void **state)
{
    struct tiny_model first = tiny;
    struct copy c;

    (void)state;
    first.layers = 1;
    copy_begin(&c);
    json_object_set_new(c.config, "layer_count", json_integer(1));
    json_array_remove(json_object_get(c.config, "layers"), 1);
    for (uint32_t i = c.object_count; i-- > 0;) {
        if (c.objects[i].kind == PS_OBJECT_STREAMED)
            drop_object(&c, i);
        else if (strncmp(c.objects[i].name, "blk.1.", 6) == 0)
            drop_tensor(&c, c.objects[i].name);
    }
    runs(&c, &(struct oracle){.m = &first});
}

static void test_other_slices(void **state)
{
    struct copy c;

    (void)state;
    copy_begin(&c);
    uint32_t i = object_named(&c, "layer 1 expert 2");
    struct ps_layout_slice *s = c.slices[i];
    assert_int_equal(c.objects[i].slice_count, 1);
    s[1] = (struct ps_layout_slice){s[0].bytes / 2 & ~4095u, 48, s[0].unit_count - 48};
    s[0].bytes -= s[1].bytes;
    s[0].unit_count = 48;
    c.objects[i].slice_count = 2;
    refused(&c, -PS_ERR_FORMAT, "other slices");
}

/* As many slices, and one of them too short for what the first expert's has. */
static void test_shorter_slice(void **state)
{
    struct copy c;

    (void)state;
    copy_begin(&c);
    c.slices[object_named(&c, "layer 1 expert 3")][0].bytes -= 4096;
    refused(&c, -PS_ERR_FORMAT, "other slices");
}

static void test_uncovered_neurons(void **state)
{
    struct copy c;

    (void)state;
    copy_begin(&c);
    for (uint32_t i = 0; i < c.object_count; i++)
        c.slices[i][0].unit_count /= 2;
    refused(&c, -PS_ERR_FORMAT, "do not cover");
}

static void test_missing(void **state)
{
    struct copy c;

    (void)state;
    copy_begin(&c);
    drop_object(&c, object_named(&c, "layer 1 expert 1"));
    refused(&c, -PS_ERR_FORMAT, "no expert 1 of layer 1");
    copy_begin(&c);
    drop_object(&c, object_named(&c, "blk.0.attn_k.weight"));
    refused(&c, -PS_ERR_FORMAT, "no such tensor");
    copy_begin(&c);
    drop_tensor(&c, "blk.0.attn_k.weight");
    refused(&c, -PS_ERR_FORMAT, "missing among the tensors");
}

static void test_short_tensor(void **state)
{
    struct copy c;

    (void)state;
    copy_begin(&c);
    c.slices[object_named(&c, "blk.0.ffn_gate.weight")][0].bytes -= 4096;
    refused(&c, -PS_ERR_FORMAT, "bytes in the volume and needs");
}

static void test_types_without_kernels(void **state)
{
    struct copy c;

    (void)state;
    copy_begin(&c);
    json_t *layer = json_array_get(json_object_get(c.config, "layers"), 1);
    json_object_set_new(layer, "up", json_string("TQ1_0"));
    refused(&c, -PS_ERR_UNSUPPORTED, "the experts of layer 1 are of type TQ1_0");
    copy_begin(&c);
    json_t *tensor = json_array_get(json_object_get(c.config, "tensors"), 0);
    json_object_set_new(tensor, "type", json_string("TQ2_0"));
    refused(&c, -PS_ERR_UNSUPPORTED, "TQ2_0");
}

static int set_up(void **state)
{
    static char dir[256];

    *state = dir;
    tiny = tiny_default(false);
    tiny.dense = 160;
    tiny.hidden = 256; /* so that a type with long blocks can be named */
    ps_test_dir_make(dir, sizeof(dir));
    fixture_layout(&good, tiny_write_safetensors(&tiny, dir), "keep", 1u << 30, 1);
    return 0;
}

static int tear_down(void **state)
{
    ps_test_dir_remove(*state);
    ps_test_dir_remove(good.dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_copy),
        cmocka_unit_test(test_heads_without_norms),
        cmocka_unit_test(test_no_experts),
        cmocka_unit_test(test_other_slices),
        cmocka_unit_test(test_shorter_slice),
        cmocka_unit_test(test_uncovered_neurons),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_short_tensor),
        cmocka_unit_test(test_types_without_kernels),
    };
    return cmocka_run_group_tests_name("model_open", tests, set_up, tear_down) ? 1 : 0;
}
