/*
 * What a volume is filled with, against values computed by the test itself: tiny models of all
 * architectures in both formats, in every form that checkpoints come in.
 */
#include <math.h>

#include "model/import.h"
#include "quant/encode.h"
#include "quant/type.h"
#include "source_writer.h"
#include "util.h"

struct dirs {
    char dir[256];
};

static int make_dir(void **state)
{
    struct dirs *d = malloc(sizeof(*d));

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

static struct ps_import *open_import(const char *path, const char *quant, uint64_t slice_bytes)
{
    struct ps_model_layout_options options = {
        .source = path, .quant = quant, .slice_bytes = slice_bytes};
    struct ps_import *import = NULL;
    struct ps_error err = {0};

    if (ps_import_open(&import, &options, 2, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    return import;
}

static uint64_t object_bytes(const struct ps_layout_object *o)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < o->slice_count; i++)
        bytes += o->slices[i].bytes;
    return bytes;
}

/* With a byte behind it that must not change. */
static uint8_t *fill(struct ps_import *import, uint32_t object, uint32_t begin, uint32_t end)
{
    const struct ps_layout_object *o = &import->objects[object];
    struct ps_error err = {0};
    uint64_t bytes = 0;
    uint8_t *buf;

    for (uint32_t i = begin; i < end; i++)
        bytes += o->slices[i].bytes;
    buf = malloc(bytes + 1);
    assert_non_null(buf);
    memset(buf, 0xA5, bytes + 1);
    if (ps_import_fill(import, 1, object, begin, end, buf, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    assert_int_equal(buf[bytes], 0xA5);
    return buf;
}

/* What was in the source before it was encoded there, then decoded again: exact for BF16 and F32,
 * and for block types what their blocks hold. */
static float *source_values(const char *name, uint64_t rows, uint64_t cols, uint32_t source_type)
{
    float *v = malloc(rows * cols * sizeof(*v));
    uint8_t *row = malloc(cols * sizeof(float));

    for (uint64_t i = 0; i < rows * cols; i++)
        v[i] = tiny_value(name, i);
    for (uint64_t r = 0; r < rows; r++) {
        ps_row_encode(source_type, v + r * cols, row, cols);
        ps_row_decode(source_type, row, v + r * cols, cols);
    }
    free(row);
    return v;
}

/* Never quantised in the source either; all values of the tiny models are exact in BF16. */
static bool is_plain(const struct ps_import *import, enum ps_role role)
{
    return ps_role_is_vector(role) || (import->source->kind == PS_SOURCE_GGUF &&
                                       (role == PS_ROLE_ROUTER || role == PS_ROLE_SHARED_GATE_INP));
}

/* Blocks of the source's own type are those it was written with; others are searched for. */
static void encode_row(uint32_t source_type, uint32_t type, const float *src, void *dst,
                       uint64_t cols)
{
    if (type == source_type)
        ps_row_encode(type, src, dst, cols);
    else
        ps_encode_rows(
            &(struct ps_encode){.type = type, .rows = 1, .cols = cols, .values = src, .dst = dst});
}

static void check_resident(struct ps_import *import, uint32_t i, uint32_t source_type)
{
    const struct ps_config_tensor *t = &import->tensors[i];
    const char *name = import->objects[i].name;
    uint64_t rows, cols, stride;
    uint8_t *got, *row;
    float *want;

    ps_role_shape(&import->config, t->role, &rows, &cols);
    stride = ps_row_bytes(t->type, cols);
    assert_int_equal(object_bytes(&import->objects[i]), rows * stride);
    got = fill(import, i, 0, import->objects[i].slice_count);
    row = malloc(stride);
    want = source_values(name, rows, cols, is_plain(import, t->role) ? PS_TYPE_F32 : source_type);
    for (uint64_t r = 0; r < rows; r++) {
        encode_row(source_type, t->type, want + r * cols, row, cols);
        if (t->role == PS_ROLE_DELTA_A) { /* through a logarithm that F32 cannot hold exactly */
            for (uint64_t k = 0; k < cols; k++) {
                float value;
                memcpy(&value, got + k * sizeof(value), sizeof(value));
                assert_true(fabsf(value - want[k]) <= 1e-6f * fabsf(want[k]));
            }
        } else if (memcmp(got + r * stride, row, stride)) {
            fail_msg("row %llu of %s differs", (unsigned long long)r, name);
        }
    }
    free(row);
    free(got);
    free(want);
}

/* A part of an expert: rows of gate or up, or columns of down, against the whole matrix encoded. */
static void check_slice(const struct ps_import *import, const uint8_t *slice,
                        const struct ps_layout_slice *cut, uint32_t layer, uint32_t expert,
                        uint32_t source_type)
{
    const struct ps_import_layer *l = &import->layers[layer];
    uint32_t hidden = l->shape.hidden, width = l->shape.width, n = cut->unit_count;
    const struct ps_type_info *down = ps_type_info(l->shape.down_type);
    struct ps_slice_parts parts;
    uint8_t row[4096];
    char name[64];

    ps_slice_parts(&l->shape, n, &parts);
    assert_int_equal(parts.bytes, cut->bytes);
    for (int part = 0; part < 2; part++) {
        uint32_t type = part ? l->shape.up_type : l->shape.gate_type;
        uint64_t stride = ps_row_bytes(type, hidden);
        const uint8_t *at = slice + (part ? parts.up_offset : parts.gate_offset);
        float *want;

        snprintf(name, sizeof(name), "blk.%u.%s.%u", layer, part ? "up" : "gate", expert);
        want = source_values(name, width, hidden, source_type);
        for (uint32_t r = 0; r < n; r++) {
            encode_row(source_type, type, want + (uint64_t)(cut->unit_begin + r) * hidden, row,
                       hidden);
            assert_memory_equal(at + r * stride, row, stride);
        }
        at += n * stride;
        while (at < slice + (part ? parts.down_offset : parts.up_offset))
            assert_int_equal(*at++, 0);
        free(want);
    }
    snprintf(name, sizeof(name), "blk.%u.down.%u", layer, expert);
    float *want = source_values(name, hidden, width, source_type);
    for (uint32_t r = 0; r < hidden; r++) {
        encode_row(source_type, l->shape.down_type, want + (uint64_t)r * width, row, width);
        assert_memory_equal(slice + parts.down_offset + r * parts.down_stride,
                            row + cut->unit_begin / down->block_len * down->block_bytes,
                            parts.down_stride);
    }
    free(want);
}

static void check_expert(struct ps_import *import, uint32_t object, uint32_t source_type)
{
    const struct ps_layout_object *o = &import->objects[object];
    uint8_t *got = fill(import, object, 0, o->slice_count), *at = got;
    uint32_t next = 0;
    char name[64];

    snprintf(name, sizeof(name), "layer %u expert %u", o->group, o->index);
    assert_string_equal(o->name, name);
    for (uint32_t i = 0; i < o->slice_count; i++) {
        assert_int_equal(o->slices[i].unit_begin, next);
        next += o->slices[i].unit_count;
        check_slice(import, at, &o->slices[i], o->group, o->index, source_type);
        at += o->slices[i].bytes;
    }
    assert_int_equal(next, import->config.expert_width);
    free(got);
}

static void check_all(struct ps_import *import, const struct tiny_model *m)
{
    uint32_t streamed = 0;

    for (uint32_t i = 0; i < import->object_count; i++) {
        if (import->objects[i].kind == PS_OBJECT_RESIDENT)
            check_resident(import, i, m->type);
        else
            check_expert(import, i, m->expert_type);
        streamed += import->objects[i].kind == PS_OBJECT_STREAMED;
    }
    assert_int_equal(streamed, m->experts * (m->layers + m->prediction - (m->dense ? 1 : 0)));
    assert_int_equal(import->tensor_count + streamed, import->object_count);
}

static void run(const char *dir, const struct tiny_model *m, bool gguf, const char *quant,
                uint64_t slice_bytes)
{
    const char *path = gguf ? tiny_write_gguf(m, dir) : tiny_write_safetensors(m, dir);
    struct ps_import *import = open_import(path, quant, slice_bytes);

    check_all(import, m);
    ps_import_close(&import);
}

/* Both architectures, both formats, stacked and apart, both prefixes, kept and converted. */
static void test_forms(void **state)
{
    static const char *const quants[] = {"keep", "experts=q4_0,rest=q8_0", "experts=q8_0,rest=f16",
                                         "experts=f32"};
    struct dirs *d = *state;

    for (int form = 0; form < 16; form++)
        for (size_t q = 0; q < 4; q++) {
            struct tiny_model m = tiny_default(form & 1);

            m.merged = form & 2;
            m.multimodal = (form & 5) == 5; /* qwen3_moe has no such release */
            m.dense = form & 1 ? 0 : 128;
            run(d->dir, &m, form & 8, quants[q], q == 2 ? 1 : q == 3 ? 30000 : 0);
        }
}

/* The families with packings of their own, and the layer that predicts, in all their forms. */
static void test_families(void **state)
{
    static const enum tiny_kind kinds[] = {TINY_NEXT, TINY_OLMOE, TINY_MIXTRAL, TINY_PLAIN};
    static const char *const quants[] = {"keep", "experts=q4_0,rest=q8_0"};
    struct dirs *d = *state;

    for (int form = 0; form < 8; form++)
        for (size_t k = 0; k < 4; k++) {
            bool delta = kinds[k] == TINY_NEXT || kinds[k] == TINY_PLAIN;
            struct tiny_model m = tiny_default(delta);

            m.kind = kinds[k];
            m.merged = form & 2;
            m.prediction = delta;
            m.dense = kinds[k] == TINY_NEXT && form & 4 ? 128 : 0;
            m.old_form = form == 5 && kinds[k] != TINY_OLMOE && kinds[k] != TINY_PLAIN;
            if (form >= 6) { /* rows of blocks are moved as they are */
                m.type = PS_TYPE_Q8_0;
                m.v_heads = 6;
            }
            run(d->dir, &m, form & 1 || form >= 6, quants[form & 1], form & 4 ? 1 : 0);
        }
}

/* Blocks move unchanged, whatever the cut. */
static void test_kept_blocks(void **state)
{
    static const uint32_t types[] = {PS_TYPE_Q4_0, PS_TYPE_Q8_0, PS_TYPE_F16, PS_TYPE_F32};
    struct dirs *d = *state;

    for (size_t t = 0; t < 4; t++)
        for (uint64_t slice_bytes = 0; slice_bytes < 40000; slice_bytes += 13000) {
            struct tiny_model m = tiny_default(true);

            m.expert_type = types[t];
            m.type = PS_TYPE_Q8_0;
            run(d->dir, &m, true, NULL, slice_bytes);
        }
}

/* 96 neurons in blocks of 32 give what is asked for: 1, 2 or 3 slices. */
static void test_slice_counts(void **state)
{
    static const struct {
        uint64_t slice_bytes;
        uint32_t count;
    } cases[] = {{0, 1}, {9000, 2}, {1, 3}};
    struct tiny_model m = tiny_default(true);
    struct dirs *d = *state;

    m.expert_type = PS_TYPE_Q4_0;
    for (size_t i = 0; i < 3; i++) {
        const char *path = tiny_write_gguf(&m, d->dir);
        struct ps_import *import = open_import(path, "keep", cases[i].slice_bytes);

        assert_int_equal(import->layers[0].slice_count, cases[i].count);
        ps_import_close(&import);
    }
}

/* A tensor of several slices, converted to rows that do not end where slices do: every run of
 * slices gives the same bytes as the whole. */
static void test_large_resident(void **state)
{
    struct tiny_model m = tiny_default(false);
    struct dirs *d = *state;
    struct ps_import *import;
    uint8_t *whole, *part;

    m.vocab = 140001;
    m.tied = true;
    import = open_import(tiny_write_safetensors(&m, d->dir), "experts=keep,rest=q8_0", 0);
    const struct ps_layout_object *o = &import->objects[0];
    assert_string_equal(o->name, "token_embd.weight");
    assert_int_equal(o->slice_count, 3);
    assert_int_equal(o->slices[0].bytes, 4u << 20);
    check_resident(import, 0, m.type);
    whole = fill(import, 0, 0, 3);
    for (uint32_t i = 0; i < 3; i++) {
        part = fill(import, 0, i, i + 1);
        assert_memory_equal(part, whole + (uint64_t)i * (4u << 20), o->slices[i].bytes);
        free(part);
    }
    part = fill(import, 0, 1, 3);
    assert_memory_equal(part, whole + (4u << 20), o->slices[1].bytes + o->slices[2].bytes);
    free(part);
    free(whole);
    ps_import_close(&import);
}

static int has_tensor(const struct ps_import *import, const char *name)
{
    for (uint32_t i = 0; i < import->tensor_count; i++)
        if (!strcmp(import->objects[i].name, name))
            return 1;
    return 0;
}

static void test_report(void **state)
{
    struct tiny_model m = tiny_default(true);
    struct dirs *d = *state;
    struct ps_import *import;

    m.multimodal = m.prediction = m.tied = true;
    import = open_import(tiny_write_safetensors(&m, d->dir), NULL, 0);
    assert_string_equal(import->report.skipped_groups, "model.visual.* (2)");
    assert_int_equal(import->report.tensors_skipped, 2);
    assert_false(import->report.has_tokenizer);
    assert_false(has_tensor(import, "output.weight"));
    /* The default for safetensors: experts in 4 bits, the rest BF16, routers as they are. */
    assert_int_equal(import->config.layers[0].gate_type, PS_TYPE_Q4_0);
    assert_int_equal(import->tensors[0].type, PS_TYPE_BF16);
    assert_string_equal(import->config.arch, "qwen3_5_moe");
    assert_string_equal(import->config.source_name, "hf");
    ps_import_close(&import);

    m.tied = false;
    import = open_import(tiny_write_gguf(&m, d->dir), NULL, 0);
    assert_string_equal(import->report.skipped_groups, "");
    assert_true(has_tensor(import, "blk.4.nextn.hnorm.weight"));
    assert_true(has_tensor(import, "output.weight"));
    assert_int_equal(import->config.layers[0].gate_type, PS_TYPE_BF16);
    assert_int_equal(import->config.layer_count, 4);
    assert_true(import->config.delta_tiled);
    assert_string_equal(import->config.name, "tiny");
    ps_import_close(&import);
}

static void check_config(const struct ps_config *c, bool qwen3_5)
{
    assert_int_equal(c->hidden, 64);
    assert_int_equal(c->vocab_rows, 80);
    assert_int_equal(c->context_max, 512);
    assert_int_equal(c->head_count, 4);
    assert_int_equal(c->kv_head_count, 2);
    assert_int_equal(c->head_dim, 16);
    assert_int_equal(c->rope_dims, qwen3_5 ? 4 : 16);
    assert_true(c->rope_theta == 1e6);
    assert_true(fabsf(c->norm_eps - 1e-6f) < 1e-12f);
    assert_int_equal(c->attn_gate, qwen3_5);
    assert_true(c->qk_norm);
    assert_int_equal(c->shared_width, qwen3_5 ? 32 : 0);
    assert_int_equal(c->shared_gate, qwen3_5);
    assert_int_equal(c->end_id_count, 1);
    assert_int_equal(c->end_ids[0], 7);
    for (uint32_t i = 0; i < c->layer_count; i++)
        assert_int_equal(c->layers[i].mixer,
                         qwen3_5 && i % 4 != 3 ? PS_MIXER_DELTA : PS_MIXER_ATTENTION);
}

/* Both formats of a model say the same; norm_topk_prob is off in the class of qwen3_moe. */
static void test_configurations(void **state)
{
    struct dirs *d = *state;

    for (int i = 0; i < 4; i++) {
        struct tiny_model m = tiny_default(i & 1);
        const char *path = i & 2 ? tiny_write_gguf(&m, d->dir) : tiny_write_safetensors(&m, d->dir);
        struct ps_import *import = open_import(path, "keep", 0);

        check_config(&import->config, i & 1);
        assert_int_equal(import->config.renormalise, i != 0);
        assert_int_equal(import->config.delta_tiled, i == 3);
        ps_import_close(&import);
    }
}

/* Without head_dim a head has hidden / heads values; a GGUF may say value_length all the same. */
static void test_implicit_head_dim(void **state)
{
    struct dirs *d = *state;

    for (int i = 0; i < 4; i++) {
        struct tiny_model m = tiny_default(i & 1);

        m.implicit_head_dim = true;
        const char *path = i & 2 ? tiny_write_gguf(&m, d->dir) : tiny_write_safetensors(&m, d->dir);
        struct ps_import *import = open_import(path, "keep", 0);
        check_config(&import->config, i & 1);
        ps_import_close(&import);
    }
}

/* Metadata that means nothing here is passed over, of every kind and arrays of arrays, too. */
static void test_unknown_metadata(void **state)
{
    static const uint8_t bytes_of[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}; /* by kind */
    const uint8_t ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    struct tiny_model m = tiny_default(true);
    struct dirs *d = *state;
    struct source_writer *w = malloc(sizeof(*w));
    char key[32], path[320];

    assert_non_null(w);
    tiny_gguf(&m, w);
    for (uint32_t kind = 0; kind < sizeof(bytes_of); kind++, w->value_count++) {
        snprintf(key, sizeof(key), "unknown.%u", kind);
        writer_put_text(&w->values, key);
        writer_put_u32(&w->values, kind);
        if (kind == 8) {
            writer_put_text(&w->values, "text");
        } else if (kind == 9) { /* [[1], ["a", ""], [[]]] */
            writer_put_u32(&w->values, 9);
            writer_put_u64(&w->values, 3);
            writer_put_u32(&w->values, 0);
            writer_put_u64(&w->values, 1);
            writer_put(&w->values, ones, 1);
            writer_put_u32(&w->values, 8);
            writer_put_u64(&w->values, 2);
            writer_put_text(&w->values, "a");
            writer_put_text(&w->values, "");
            writer_put_u32(&w->values, 9);
            writer_put_u64(&w->values, 1);
            writer_put_u32(&w->values, 4);
            writer_put_u64(&w->values, 0);
        } else {
            writer_put(&w->values, ones, bytes_of[kind]);
        }
    }
    struct writer_bytes b = writer_gguf(w, 0, w->tensor_count);
    ps_test_file_write(d->dir, "unknown.gguf", b.data, b.bytes);
    snprintf(path, sizeof(path), "%s/unknown.gguf", d->dir);
    struct ps_import *import = open_import(path, "keep", 0);
    check_config(&import->config, true);
    ps_import_close(&import);
    free(b.data);
    writer_fini(w);
    free(w);
}

static void write_text(const char *dir, const char *name, const char *text)
{
    ps_test_file_write(dir, name, text, strlen(text));
}

static void test_sidecars(void **state)
{
    struct tiny_model m = tiny_default(false);
    struct dirs *d = *state;
    const char *path = tiny_write_safetensors(&m, d->dir);
    struct ps_import *import;

    write_text(d->dir, "hf/generation_config.json",
               "{\"eos_token_id\":[9,7,4000],\"do_sample\":true,\"temperature\":0.5,\"top_k\":20,"
               "\"top_p\":0.8}");
    write_text(d->dir, "hf/tokenizer_config.json",
               "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"no\"},"
               "{\"name\":\"default\",\"template\":\"yes\"}]}");
    import = open_import(path, "keep", 0);
    assert_int_equal(import->config.end_id_count, 2); /* 4000 is no token of the model */
    assert_int_equal(import->config.end_ids[0], 9);
    assert_int_equal(import->config.end_ids[1], 7);
    assert_true(import->config.sampling.has);
    assert_true(import->config.sampling.temperature == 0.5f);
    assert_int_equal(import->config.sampling.top_k, 20);
    assert_int_equal(import->spec.blob_count, 2);
    assert_string_equal(import->blobs[1].name, "chat_template");
    assert_int_equal(import->blobs[1].bytes, 3);
    assert_memory_equal(import->blobs[1].data, "yes", 3);
    ps_import_close(&import);

    write_text(d->dir, "hf/generation_config.json", "{\"do_sample\":false,\"temperature\":0.5}");
    write_text(d->dir, "hf/chat_template.jinja", "{{ own file }}");
    import = open_import(path, "keep", 0);
    assert_true(import->config.sampling.has && import->config.sampling.temperature == 0);
    assert_memory_equal(import->blobs[1].data, "{{ own file }}", 14);
    ps_import_close(&import);
}

static void fingerprint_of(const char *path, const char *quant, uint64_t slice_bytes,
                           uint64_t out[2])
{
    struct ps_import *import = open_import(path, quant, slice_bytes);

    memcpy(out, import->spec.source_fingerprint, 2 * sizeof(*out));
    ps_import_close(&import);
}

static void change_byte(const char *path, off_t offset)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat st;
    uint8_t byte;

    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    if (offset < 0)
        offset += st.st_size;
    assert_int_equal(pread(fd, &byte, 1, offset), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
    /* The time goes back: the samples of the data must tell. */
    assert_int_equal(futimens(fd, (struct timespec[]){st.st_atim, st.st_mtim}), 0);
    close(fd);
}

static void test_fingerprint(void **state)
{
    struct tiny_model m = tiny_default(true);
    struct dirs *d = *state;
    const char *path = tiny_write_gguf(&m, d->dir);
    uint64_t first[2], other[2];

    fingerprint_of(path, "keep", 0, first);
    fingerprint_of(path, "keep", 0, other);
    assert_memory_equal(first, other, sizeof(first));
    fingerprint_of(path, "keep", 4096, other);
    assert_memory_not_equal(first, other, sizeof(first));
    fingerprint_of(path, "experts=q4_0,rest=keep", 0, other);
    assert_memory_not_equal(first, other, sizeof(first));
    change_byte(path, -1);
    fingerprint_of(path, "keep", 0, other);
    assert_memory_not_equal(first, other, sizeof(first));
}

/* Split into parts, the set gives what the single file gives. */
static void test_split_gguf(void **state)
{
    struct tiny_model m = tiny_default(true);
    struct source_writer *w = malloc(sizeof(*w));
    struct dirs *d = *state;
    struct ps_import *import;
    char path[512];

    tiny_gguf(&m, w);
    for (uint32_t part = 0; part < 3; part++) {
        uint32_t n = w->tensor_count, first = part == 0 ? 0 : part == 1 ? 0 : n / 2;
        struct writer_bytes kept = {0};
        struct writer_bytes b;
        uint64_t count = w->value_count;

        if (part > 0) { /* other parts say nothing but which they are */
            kept = w->values;
            w->values = (struct writer_bytes){0};
            w->value_count = 0;
        } else {
            writer_key_i32s(w, "unused.list", (const int32_t[]){1, 2}, 2);
            writer_key_u32(w, "split.tensors.count", n);
        }
        writer_key_u16(w, "split.no", (uint16_t)part);
        writer_key_u16(w, "split.count", 3);
        b = writer_gguf(w, first, part == 0 ? 0 : part == 1 ? n / 2 : n);
        snprintf(path, sizeof(path), "tiny-%05u-of-00003.gguf", part + 1);
        ps_test_file_write(d->dir, path, b.data, b.bytes);
        free(b.data);
        if (part > 0) {
            free(w->values.data);
            w->values = kept;
            w->value_count = count;
        }
    }
    snprintf(path, sizeof(path), "%s/tiny-00001-of-00003.gguf", d->dir);
    import = open_import(path, NULL, 0);
    assert_int_equal(import->source->file_count, 3);
    check_all(import, &m);
    ps_import_close(&import);
    writer_fini(w);
    free(w);
}

/* Shards with an index, and shards without. */
static void test_shards(void **state)
{
    struct tiny_model m = tiny_default(false);
    struct source_writer *w = malloc(sizeof(*w));
    struct dirs *d = *state;
    char *config = tiny_config(&m), path[512];

    tiny_safetensors(&m, w);
    for (int with_index = 0; with_index < 2; with_index++) {
        struct writer_bytes index = {0};
        uint32_t half = w->tensor_count / 2;
        struct ps_import *import;

        writer_put(&index, "{\"weight_map\":{", 15);
        for (uint32_t i = 0; i < w->tensor_count; i++) {
            char line[256];
            int n = snprintf(line, sizeof(line), "%s\"%s\":\"%s.safetensors\"", i ? "," : "",
                             w->tensors[i].name, i < half ? "a" : "b");
            writer_put(&index, line, (size_t)n);
        }
        writer_put(&index, "}}", 2);
        snprintf(path, sizeof(path), "%s/set%d", d->dir, with_index);
        for (int part = 0; part < 2; part++) {
            struct writer_bytes b =
                writer_safetensors(w, part ? half : 0, part ? w->tensor_count : half);
            assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
            ps_test_file_write(path, part ? "b.safetensors" : "a.safetensors", b.data, b.bytes);
            free(b.data);
        }
        if (with_index)
            ps_test_file_write(path, "model.safetensors.index.json", index.data, index.bytes);
        write_text(path, "config.json", config);
        import = open_import(path, "keep", 0);
        check_all(import, &m);
        ps_import_close(&import);
        free(index.data);
    }
    free(config);
    writer_fini(w);
    free(w);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, make_dir, drop_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_forms),          TEST(test_families),          TEST(test_kept_blocks),
        TEST(test_slice_counts),   TEST(test_large_resident),    TEST(test_report),
        TEST(test_configurations), TEST(test_implicit_head_dim), TEST(test_unknown_metadata),
        TEST(test_sidecars),       TEST(test_fingerprint),       TEST(test_split_gguf),
        TEST(test_shards),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
