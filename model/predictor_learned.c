#include "model/predictor_learned.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/util.h"
#include "nvme/raw_io.h"
#include "nvme/record.h"
#include "quant/type.h"

#define MAGIC "PENSTPRE"
#define VERSION 1u
#define FILE_BYTES_MAX (1u << 30)
#define RECORD_NAME "the volume's predictor" /* in errors */

/* docs/format.md. Little endian, like the machine. */
struct disk_predictor {
    char magic[8];         /*  0 "PENSTPRE" */
    uint32_t version;      /*  8 */
    uint32_t bytes;        /* 12 of everything */
    uint32_t layer_count;  /* 16 of the model */
    uint32_t expert_count; /* 20 */
    uint32_t hidden;       /* 24 */
    uint32_t rank;         /* 28 multiple of 8 */
    uint32_t source_count; /* 32 */
    uint32_t reserved[3];  /* 36 zero */
    uint64_t model;        /* 48 XXH3 of the model's name */
    uint64_t checksum;     /* 56 of everything, with zero here */
};
static_assert(sizeof(struct disk_predictor) == 64, "predictor");

/* Followed by scales F32 [rank], A int8 [H, rank], then the targets. */
struct disk_source {
    uint32_t layer;        /* 0 */
    uint32_t target_count; /* 4 */
};

/* Followed by scales F32 [rank], the bias F16 [E], B int8 [rank, E], zeroes up to 8 bytes. */
struct disk_target {
    uint32_t depth; /* 0 */
    float gate;     /* 4 */
};

/* Where a correction lies in the stored form. */
struct target {
    const uint8_t *a, *b; /* a disk_source and a disk_target with what follows them; or NULL */
};

struct ps_learned {
    uint8_t *data;
    const struct disk_predictor *header;
    struct target *targets; /* [layers, PS_LEARNED_DEPTH_MAX] by the layer guessed */
};

static uint64_t source_bytes(const struct disk_predictor *h)
{
    return sizeof(struct disk_source) + h->rank * sizeof(float) + (uint64_t)h->rank * h->hidden;
}

static uint64_t target_bytes(const struct disk_predictor *h)
{
    return ps_align_up(sizeof(struct disk_target) + h->rank * sizeof(float) +
                           h->expert_count * sizeof(uint16_t) + (uint64_t)h->rank * h->expert_count,
                       8);
}

static uint64_t name_hash(const char *name)
{
    return XXH3_64bits(name, strlen(name));
}

/* Of a copy, whose own field is put back. */
static uint64_t checksum_of(uint8_t *data, size_t bytes)
{
    struct disk_predictor *h = (struct disk_predictor *)(void *)data;
    uint64_t kept = h->checksum;

    h->checksum = 0;
    uint64_t computed = XXH3_64bits(data, bytes);
    h->checksum = kept;
    return computed;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static bool header_sound(const struct disk_predictor *h, size_t bytes)
{
    return h->bytes == bytes && h->layer_count >= 1 && h->layer_count <= PS_LAYER_COUNT_MAX &&
           h->expert_count >= 1 && h->expert_count <= PS_EXPERT_COUNT_MAX && h->hidden >= 1 &&
           h->hidden <= 1u << 20 && h->rank >= 8 && h->rank <= PS_LEARNED_RANK_MAX &&
           h->rank % 8 == 0 && h->source_count <= h->layer_count &&
           (h->reserved[0] | h->reserved[1] | h->reserved[2]) == 0;
}

static bool floats_sound(const uint8_t *data, uint32_t count)
{
    float value;

    for (uint32_t i = 0; i < count; i++) {
        memcpy(&value, data + i * sizeof(value), sizeof(value));
        if (!isfinite(value) || fabsf(value) > 1e6f)
            return false;
    }
    return true;
}

static bool halves_sound(const uint8_t *data, uint32_t count)
{
    uint16_t value;

    for (uint32_t i = 0; i < count; i++) {
        memcpy(&value, data + i * sizeof(value), sizeof(value));
        if ((value & 0x7c00) == 0x7c00)
            return false;
    }
    return true;
}

/* The targets of the source at *at, which moves behind them. */
static bool targets_index(struct ps_learned *learned, const struct disk_source *source,
                          const uint8_t *a, size_t *at)
{
    const struct disk_predictor *h = learned->header;
    uint32_t last = 0;

    for (uint32_t i = 0; i < source->target_count; i++) {
        struct disk_target target;
        const uint8_t *b = learned->data + *at;
        if (h->bytes - *at < target_bytes(h))
            return false;
        memcpy(&target, b, sizeof(target));
        if (target.depth <= last || target.depth > PS_LEARNED_DEPTH_MAX ||
            source->layer + target.depth >= h->layer_count)
            return false;
        last = target.depth;
        if (!floats_sound(b + sizeof(uint32_t), 1 + h->rank) ||
            !halves_sound(b + sizeof(target) + h->rank * sizeof(float), h->expert_count))
            return false;
        uint32_t layer = source->layer + target.depth;
        learned->targets[layer * PS_LEARNED_DEPTH_MAX + target.depth - 1] = (struct target){a, b};
        *at += target_bytes(h);
    }
    return true;
}

static bool sources_index(struct ps_learned *learned)
{
    const struct disk_predictor *h = learned->header;
    size_t at = sizeof(*h);
    int64_t last = -1;

    for (uint32_t i = 0; i < h->source_count; i++) {
        struct disk_source source;
        const uint8_t *a = learned->data + at;
        if (h->bytes - at < source_bytes(h))
            return false;
        memcpy(&source, a, sizeof(source));
        at += source_bytes(h);
        if (source.layer <= last || source.layer >= h->layer_count ||
            !floats_sound(a + sizeof(source), h->rank) || !targets_index(learned, &source, a, &at))
            return false;
        last = source.layer;
    }
    return at == h->bytes;
}

/* Whether it is one at all, of so many bytes: looks at the first ones only. */
static int kind_check(const struct disk_predictor *h, size_t bytes, const char *name,
                      struct ps_error *err)
{
    if (bytes < sizeof(h->magic) || memcmp(h->magic, MAGIC, sizeof(h->magic)) != 0)
        return ps_error_set(err, -PS_ERR_FORMAT, name,
                            "holds no predictor; penstock train-predictor makes one");
    if (bytes < sizeof(*h) || bytes < h->bytes)
        return ps_error_set(err, -PS_ERR_TRUNCATED, name,
                            "the predictor was cut off: train it again");
    if (h->version != VERSION)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, name,
                            "the predictor has version %u, and this is for version %u: train it "
                            "again",
                            h->version, VERSION);
    return 0;
}

static int data_check(struct ps_learned *learned, size_t bytes, const char *name,
                      struct ps_error *err)
{
    const struct disk_predictor *h = learned->header;
    int rc = kind_check(h, bytes, name, err);

    if (rc < 0)
        return rc;
    if (checksum_of(learned->data, bytes) != h->checksum)
        return ps_error_set(err, -PS_ERR_CHECKSUM, name,
                            "the predictor is damaged: train it again");
    if (!header_sound(h, bytes))
        return ps_error_set(err, -PS_ERR_FORMAT, name,
                            "the predictor's header is not sound: train it again");
    return 0;
}

int ps_learned_open(struct ps_learned **out, void *data, size_t bytes, const char *name,
                    struct ps_error *err)
{
    struct ps_learned *learned = calloc(1, sizeof(*learned));
    int rc = 0;

    if (!learned) {
        free(data);
        return ps_error_set(err, -ENOMEM, name, "not enough memory for the predictor");
    }
    learned->data = data;
    learned->header = data;
    rc = data_check(learned, bytes, name, err);
    if (rc == 0) {
        learned->targets = calloc((size_t)learned->header->layer_count * PS_LEARNED_DEPTH_MAX,
                                  sizeof(*learned->targets));
        if (!learned->targets)
            rc = ps_error_set(err, -ENOMEM, name, "not enough memory for the predictor");
        else if (!sources_index(learned))
            rc = ps_error_set(err, -PS_ERR_FORMAT, name,
                              "the predictor's matrices are not sound: train it again");
    }
    if (rc < 0) {
        ps_learned_close(&learned);
        return rc;
    }
    *out = learned;
    return 0;
}

int ps_learned_open_copy(struct ps_learned **out, const void *data, size_t bytes, const char *name,
                         struct ps_error *err)
{
    void *copy = malloc(bytes + 1);

    if (!copy)
        return ps_error_set(err, -ENOMEM, name, "not enough memory for the predictor");
    memcpy(copy, data, bytes);
    return ps_learned_open(out, copy, bytes, name, err);
}

void ps_learned_close(struct ps_learned **learned)
{
    if (!*learned)
        return;
    free((*learned)->targets);
    free((*learned)->data);
    free(*learned);
    *learned = NULL;
}

static int fits(const struct disk_predictor *h, const struct ps_model *model, const char *name,
                struct ps_error *err)
{
    const struct ps_config *c = &model->config;

    if (h->layer_count == c->layer_count && h->expert_count == c->expert_count &&
        h->hidden == c->hidden && h->model == name_hash(c->name))
        return 0;
    return ps_error_set(err, -PS_ERR_ARGUMENT, name,
                        "the predictor was trained for another model, with %u layers of %u experts",
                        h->layer_count, h->expert_count);
}

/* Opens a file of no more than FILE_BYTES_MAX. */
static int file_open(const char *path, FILE **out, size_t *bytes, struct ps_error *err)
{
    FILE *file = fopen(path, "rbe");

    if (!file)
        return ps_error_set(err, -errno, path, "cannot read: %s", strerror(errno));
    if (fseeko(file, 0, SEEK_END) < 0 || ftello(file) < 0 || ftello(file) > FILE_BYTES_MAX) {
        fclose(file);
        return ps_error_set(err, -PS_ERR_FORMAT, path, "holds no predictor");
    }
    *bytes = (size_t)ftello(file);
    *out = file;
    return 0;
}

static int file_load(struct ps_learned **out, const char *path, struct ps_error *err)
{
    uint8_t *data = NULL;
    FILE *file = NULL;
    size_t bytes;
    int rc = file_open(path, &file, &bytes, err);

    if (rc < 0)
        return rc;
    rewind(file);
    data = malloc(bytes + 1);
    if (!data)
        rc = ps_error_set(err, -ENOMEM, path, "not enough memory for the predictor");
    else if (fread(data, 1, bytes, file) != bytes)
        rc = ps_error_set(err, -EIO, path, "cannot read all of it");
    fclose(file);
    if (rc < 0) {
        free(data);
        return rc;
    }
    return ps_learned_open(out, data, bytes, path, err);
}

/* The entry in the record area: to a predictor, or, out NULL, its bytes alone. */
static int record_load(struct ps_learned **out, const struct ps_model *model, size_t *bytes,
                       struct ps_error *err)
{
    uint8_t *half = ps_raw_alloc(PS_RECORD_HALF_BYTES);
    const void *found = NULL;
    uint32_t found_bytes = 0;
    int rc = 0;

    if (!half)
        return ps_error_set(err, -ENOMEM, "record", "not enough memory");
    if (ps_record_read(model->volume, half))
        found = ps_record_find(half, PS_LEARNED_RECORD, &found_bytes);
    if (!found)
        rc = ps_error_set(err, -ENOENT, NULL,
                          "no predictor has been trained for this volume: penstock "
                          "train-predictor does, or name a file with --predictor-file");
    else if (out)
        rc = ps_learned_open_copy(out, found, found_bytes, RECORD_NAME, err);
    *bytes = found_bytes;
    free(half);
    return rc;
}

int ps_learned_load(struct ps_learned **out, const struct ps_model *model, const char *path,
                    struct ps_error *err)
{
    struct ps_learned *learned = NULL;
    size_t bytes;
    int rc = path ? file_load(&learned, path, err) : record_load(&learned, model, &bytes, err);

    if (rc == 0)
        rc = fits(learned->header, model, path ? path : RECORD_NAME, err);
    if (rc < 0) {
        ps_learned_close(&learned);
        return rc;
    }
    *out = learned;
    return 0;
}

int ps_learned_load_bytes(const struct ps_model *model, const char *path, uint64_t *memory_bytes,
                          struct ps_error *err)
{
    struct disk_predictor header = {.magic = ""};
    /* A volume that is not there yet may get as much as its record area holds. */
    size_t bytes = PS_RECORD_HALF_BYTES;
    FILE *file = NULL;
    int rc = 0;

    if (path)
        rc = file_open(path, &file, &bytes, err);
    else if (!model->is_described)
        rc = record_load(NULL, model, &bytes, err);
    if (file) {
        rewind(file);
        if (fread(&header, 1, sizeof(header), file) < ps_min_u64(bytes, sizeof(header)))
            rc = ps_error_set(err, -EIO, path, "cannot read all of it");
        fclose(file);
        if (rc == 0)
            rc = kind_check(&header, bytes, path, err);
        if (rc == 0)
            rc = fits(&header, model, path, err);
    }
    if (rc < 0)
        return rc;
    *memory_bytes =
        sizeof(struct ps_learned) + bytes +
        (uint64_t)model->config.layer_count * PS_LEARNED_DEPTH_MAX * sizeof(struct target);
    return 0;
}

/* ---- guessing ---------------------------------------------------------------------------------
 */

static const struct target *target_find(const struct ps_learned *learned, uint32_t layer,
                                        uint32_t depth)
{
    if (layer >= learned->header->layer_count || depth < 1 || depth > PS_LEARNED_DEPTH_MAX)
        return NULL;
    const struct target *target = &learned->targets[layer * PS_LEARNED_DEPTH_MAX + depth - 1];
    return target->a ? target : NULL;
}

bool ps_learned_has(const struct ps_learned *learned, uint32_t layer, uint32_t depth)
{
    return target_find(learned, layer, depth) != NULL;
}

/* y[c] += x * m[c]: both matrices are stored so that this is all there is, and no sum of a row. */
static void add_scaled(float *restrict y, const int8_t *restrict m, float x, uint32_t count)
{
    for (uint32_t c = 0; c < count; c++)
        y[c] += x * (float)m[c];
}

void ps_learned_softmax(float *p, uint32_t count)
{
    float max = p[0], sum = 0;

    for (uint32_t e = 1; e < count; e++)
        max = fmaxf(max, p[e]);
    for (uint32_t e = 0; e < count; e++)
        sum += p[e] = expf(p[e] - max);
    for (uint32_t e = 0; e < count; e++)
        p[e] /= sum;
}

void ps_learned_apply(const struct ps_learned *learned, uint32_t layer, uint32_t depth,
                      const float *x, float *p)
{
    const struct disk_predictor *h = learned->header;
    const struct target *at = target_find(learned, layer, depth);
    const uint8_t *a = at->a + sizeof(struct disk_source);
    const uint8_t *b = at->b + sizeof(struct disk_target);
    float low[PS_LEARNED_RANK_MAX] = {0}, scales[PS_LEARNED_RANK_MAX];
    struct disk_target target;
    uint16_t bias;

    memcpy(&target, at->b, sizeof(target));
    memcpy(scales, a, h->rank * sizeof(float));
    a += h->rank * sizeof(float);
    for (uint32_t i = 0; i < h->hidden; i++)
        add_scaled(low, (const int8_t *)a + (size_t)i * h->rank, x[i], h->rank);
    for (uint32_t r = 0; r < h->rank; r++)
        low[r] *= scales[r];
    memcpy(scales, b, h->rank * sizeof(float));
    b += h->rank * sizeof(float);
    for (uint32_t e = 0; e < h->expert_count; e++) {
        memcpy(&bias, b + e * sizeof(bias), sizeof(bias));
        p[e] = target.gate * logf(fmaxf(p[e], PS_LEARNED_P_MIN)) + ps_f16_to_f32(bias);
    }
    b += h->expert_count * sizeof(bias);
    for (uint32_t r = 0; r < h->rank; r++)
        add_scaled(p, (const int8_t *)b + (size_t)r * h->expert_count, low[r] * scales[r],
                   h->expert_count);
    ps_learned_softmax(p, h->expert_count);
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static struct disk_predictor header_of(const struct ps_learned_shape *shape, uint32_t source_count)
{
    return (struct disk_predictor){.magic = MAGIC,
                                   .version = VERSION,
                                   .layer_count = shape->layer_count,
                                   .expert_count = shape->expert_count,
                                   .hidden = shape->hidden,
                                   .rank = shape->rank,
                                   .source_count = source_count,
                                   .model = name_hash(shape->model)};
}

uint64_t ps_learned_packed_bytes(const struct ps_learned_shape *shape, uint32_t source_count,
                                 uint32_t target_count)
{
    struct disk_predictor h = header_of(shape, source_count);

    return sizeof(h) + source_count * source_bytes(&h) + target_count * target_bytes(&h);
}

/* Rounds m [rows, cols] to 8 bits; the scale of element (r, c) is scales[r * by_row + c * by_col],
 * that is, one for each column or one for each row. */
static void matrix_round(const float *m, uint32_t rows, uint32_t cols, bool scale_by_row,
                         uint8_t *scales_to, uint8_t *to)
{
    float scales[PS_LEARNED_RANK_MAX] = {0};

    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        float *scale = &scales[scale_by_row ? i / cols : i % cols];
        *scale = fmaxf(*scale, fabsf(m[i]) / 127);
    }
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        float scale = scales[scale_by_row ? i / cols : i % cols];
        int8_t value = scale > 0 ? (int8_t)lrintf(m[i] / scale) : 0;
        memcpy(to + i, &value, 1);
    }
    memcpy(scales_to, scales, (scale_by_row ? rows : cols) * sizeof(float));
}

static void source_put(const struct disk_predictor *h, const struct ps_learned_source *source,
                       uint8_t *to)
{
    struct disk_source head = {source->layer, source->target_count};
    uint8_t *at = to + sizeof(head);

    memcpy(to, &head, sizeof(head));
    matrix_round(source->a, h->hidden, h->rank, false, at, at + h->rank * sizeof(float));
    to += source_bytes(h);
    for (uint32_t i = 0; i < source->target_count; i++, to += target_bytes(h)) {
        const struct ps_learned_target *t = &source->targets[i];
        struct disk_target target = {t->depth, t->gate};
        memcpy(to, &target, sizeof(target));
        at = to + sizeof(target) + h->rank * sizeof(float);
        for (uint32_t e = 0; e < h->expert_count; e++, at += sizeof(uint16_t)) {
            uint16_t half = ps_f32_to_f16(fminf(fmaxf(t->bias[e], -1e4f), 1e4f));
            memcpy(at, &half, sizeof(half));
        }
        matrix_round(t->b, h->rank, h->expert_count, true, to + sizeof(target), at);
    }
}

int ps_learned_pack(const struct ps_learned_shape *shape, const struct ps_learned_source *sources,
                    uint32_t source_count, void **data, size_t *bytes, struct ps_error *err)
{
    struct disk_predictor h = header_of(shape, source_count);
    uint32_t target_count = 0;

    for (uint32_t i = 0; i < source_count; i++)
        target_count += sources[i].target_count;
    uint64_t total = ps_learned_packed_bytes(shape, source_count, target_count);
    if (total > FILE_BYTES_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL,
                            "the predictor takes more than 1 GiB: give a smaller --rank");
    uint8_t *to = calloc(1, total);
    if (!to)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory for the predictor");
    h.bytes = (uint32_t)total;
    memcpy(to, &h, sizeof(h));
    size_t at = sizeof(h);
    for (uint32_t i = 0; i < source_count; i++) {
        source_put(&h, &sources[i], to + at);
        at += source_bytes(&h) + sources[i].target_count * target_bytes(&h);
    }
    h.checksum = checksum_of(to, total);
    memcpy(to, &h, sizeof(h));
    *data = to;
    *bytes = total;
    return 0;
}
