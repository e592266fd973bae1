/*
 * The trace format (docs/trace.md). All sizes follow from the header, so that a file's length tells
 * at once whether it is whole, and a header that lies is found before anything is allocated by it.
 */
#include "model/trace.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "core/util.h"

#define MAGIC "PENSTRAC"
#define VERSION 1u
#define BLOCK_BYTES (1u << 20) /* what a block is filled up to, if one token is not longer */
#define RECORD_BYTES_MAX (1u << 28)
#define LAYER_COUNT_MAX 512u
#define EXPERT_COUNT_MAX 4096u
#define HIDDEN_MAX 65536u
#define FLAG_WEIGHTS 1u
#define TOKEN_BEGINS 1u

/* The file's first bytes. Little endian, as everything in a trace. */
struct disk_header {
    char magic[8];                    /*   0 "PENSTRAC" */
    uint32_t version;                 /*   8 */
    uint32_t header_bytes;            /*  12 with the layers */
    uint64_t token_count;             /*  16 */
    uint32_t layer_count;             /*  24 */
    uint32_t expert_count;            /*  28 */
    uint32_t experts_used;            /*  32 */
    uint32_t depth_count;             /*  36 */
    uint32_t rank_count;              /*  40 */
    uint32_t hidden;                  /*  44 */
    uint32_t flags;                   /*  48 */
    uint32_t reserved;                /*  52 zero */
    char model[PS_TRACE_MODEL_BYTES]; /*  56 0-terminated, zeroes behind it */
    uint64_t checksum;                /* 184 of the header and the layers, with zero here */
};
static_assert(sizeof(struct disk_header) == 192, "trace header");

/* Behind the header, [layer_count]. */
struct disk_layer {
    uint32_t layer;        /*  0 number in the model */
    uint32_t reserved;     /*  4 zero */
    uint64_t expert_bytes; /*  8 */
};
static_assert(sizeof(struct disk_layer) == 16, "trace layer");

/* As they lie in the file, so that one checksum is of both. */
struct disk_head {
    struct disk_header header;
    struct disk_layer layers[LAYER_COUNT_MAX];
};
static_assert(sizeof(struct disk_head) == 192 + 16 * LAYER_COUNT_MAX, "trace head");

/* Where the parts of a token's record lie, by the info. Offsets in bytes. */
struct record_shape {
    uint64_t weights, experts, ranks, rank_f16, hidden, bytes;
    uint64_t expert_slots, rank_slots, hidden_slots; /* values of each, over all layers */
    uint64_t block_tokens;
};

/* What reader and writer share: the shape of records and one block of them. */
struct block {
    struct ps_trace_info info;
    struct record_shape shape;
    uint32_t *layers;
    uint64_t *expert_bytes;
    uint8_t *bytes;    /* [block_tokens, shape.bytes], and the checksum behind them */
    uint32_t *seen;    /* [E] the last row that named the expert */
    uint32_t row;      /* counted up for every row checked */
    uint64_t checksum; /* of the header: blocks of another trace do not fit behind it */
};

struct ps_trace {
    struct block block;
    FILE *file;
    char *path;
    uint64_t next_token;
};

struct ps_trace_writer {
    struct block block;
    FILE *file;
    const char *name;
    uint64_t token_count; /* added so far */
    uint64_t byte_count;  /* written so far */
};

static void shape_set(struct record_shape *shape, const struct ps_trace_info *info)
{
    uint64_t at = 2 * sizeof(uint32_t); /* the token's id and flags */

    shape->expert_slots = (uint64_t)info->layer_count * info->experts_used;
    shape->rank_slots = (uint64_t)info->layer_count * info->depth_count * info->rank_count;
    shape->hidden_slots = (uint64_t)info->layer_count * info->hidden;
    shape->weights = at;
    at += info->has_weights ? shape->expert_slots * sizeof(float) : 0;
    shape->experts = at;
    at += shape->expert_slots * sizeof(uint16_t);
    shape->ranks = at;
    at += shape->rank_slots * sizeof(uint16_t);
    shape->rank_f16 = at;
    at += shape->rank_slots * sizeof(uint16_t);
    shape->hidden = at;
    at += shape->hidden_slots * sizeof(uint16_t);
    shape->bytes = ps_align_up(at, 8);
    shape->block_tokens = ps_max_u64(1, BLOCK_BYTES / shape->bytes);
}

static bool within(uint64_t value, uint64_t min, uint64_t max)
{
    return value >= min && value <= max;
}

/* The sentence on the first number out of its range, or NULL. */
static const char *info_fault(const struct ps_trace_info *info)
{
    struct record_shape shape;

    if (!within(info->layer_count, 1, LAYER_COUNT_MAX))
        return "the number of layers is not from 1 to 512";
    if (!within(info->expert_count, 1, EXPERT_COUNT_MAX))
        return "the number of experts is not from 1 to 4096";
    if (!within(info->experts_used, 1, info->expert_count))
        return "the number of experts used is not from 1 to that of all experts";
    if (info->depth_count > PS_TRACE_DEPTH_COUNT_MAX)
        return "guesses reach further ahead than 8 layers";
    if ((info->depth_count == 0) != (info->rank_count == 0) ||
        info->rank_count > info->expert_count)
        return "the number of ranks is not from 1 to that of all experts";
    if (info->hidden > HIDDEN_MAX)
        return "the routers' inputs are longer than 65536";
    shape_set(&shape, info);
    if (shape.bytes > RECORD_BYTES_MAX)
        return "a token takes more than 256 MiB";
    if (!within(info->token_count, 1, INT64_MAX / 2 / shape.bytes))
        return "the number of tokens is zero or too large";
    if (memchr(info->model, 0, sizeof(info->model)) == NULL)
        return "the model's name has no end";
    for (uint32_t i = 1; info->layers && i < info->layer_count; i++)
        if (info->layers[i] <= info->layers[i - 1])
            return "the layers do not ascend";
    return NULL;
}

static uint64_t header_bytes(const struct ps_trace_info *info)
{
    return sizeof(struct disk_header) + info->layer_count * sizeof(struct disk_layer);
}

static uint64_t file_bytes(const struct block *block)
{
    uint64_t blocks = ps_div_up(block->info.token_count, block->shape.block_tokens);

    return header_bytes(&block->info) + block->info.token_count * block->shape.bytes +
           blocks * sizeof(uint64_t);
}

static void block_fini(struct block *block)
{
    free(block->layers);
    free(block->expert_bytes);
    free(block->bytes);
    free(block->seen);
}

/* With the numbers of info, which are within their ranges; the layers are not filled in. */
static int block_init(struct block *block, const struct ps_trace_info *info)
{
    block->info = *info;
    shape_set(&block->shape, info);
    block->layers = calloc(info->layer_count, sizeof(*block->layers));
    block->expert_bytes = calloc(info->layer_count, sizeof(*block->expert_bytes));
    block->seen = calloc(info->expert_count, sizeof(*block->seen));
    block->bytes = malloc(block->shape.block_tokens * block->shape.bytes + sizeof(uint64_t));
    if (!block->layers || !block->expert_bytes || !block->seen || !block->bytes)
        return -ENOMEM;
    block->info.layers = block->layers;
    block->info.expert_bytes = block->expert_bytes;
    return 0;
}

/* Blocks that have changed places, or come from another trace, have another seed. */
static uint64_t block_checksum(const struct block *block, uint64_t block_idx, uint64_t bytes)
{
    return XXH3_64bits_withSeed(block->bytes, bytes, block->checksum + block_idx);
}

/* A row of experts: each known and named once, with nothing behind the first missing one. */
static bool row_sound(struct block *block, const uint16_t *experts, uint32_t count)
{
    uint32_t i = 0;

    /* Rows are told apart by number; when the numbers are used up, all are forgotten. */
    if (++block->row == 0) {
        memset(block->seen, 0, block->info.expert_count * sizeof(*block->seen));
        block->row = 1;
    }
    for (; i < count && experts[i] != PS_TRACE_NONE; i++) {
        if (experts[i] >= block->info.expert_count || block->seen[experts[i]] == block->row)
            return false;
        block->seen[experts[i]] = block->row;
    }
    while (i < count && experts[i] == PS_TRACE_NONE)
        i++;
    return i == count;
}

/* F16 numbers whose exponent is all ones are infinite or none. */
static bool f16_finite(const uint16_t *values, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if ((values[i] & 0x7c00) == 0x7c00)
            return false;
    return true;
}

static bool token_sound(struct block *block, const struct ps_trace_token *token)
{
    const struct ps_trace_info *info = &block->info;
    const struct record_shape *shape = &block->shape;

    for (uint64_t i = 0; i < shape->expert_slots; i += info->experts_used)
        if (!row_sound(block, token->experts + i, info->experts_used))
            return false;
    for (uint64_t i = 0; i < shape->rank_slots; i += info->rank_count)
        if (!row_sound(block, token->ranks + i, info->rank_count))
            return false;
    for (uint64_t i = 0; info->has_weights && i < shape->expert_slots; i++)
        if (!isfinite(token->weights[i]))
            return false;
    return f16_finite(token->rank_f16, shape->rank_slots) &&
           f16_finite(token->hidden, shape->hidden_slots);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static int read_failed(const struct ps_trace *trace, struct ps_error *err)
{
    if (ferror(trace->file))
        return ps_error_set(err, errno > 0 ? -errno : -EIO, trace->path, "cannot read: %s",
                            strerror(errno > 0 ? errno : EIO));
    return ps_error_set(err, -PS_ERR_TRUNCATED, trace->path,
                        "the trace ends before its last token: it was cut off, record it again");
}

static int header_read(struct ps_trace *trace, struct disk_header *header, struct ps_error *err)
{
    size_t got = fread(header, 1, sizeof(*header), trace->file);

    if (got < sizeof(header->magic) || memcmp(header->magic, MAGIC, sizeof(header->magic)) != 0)
        return ferror(trace->file)
                   ? read_failed(trace, err)
                   : ps_error_set(err, -PS_ERR_FORMAT, trace->path,
                                  "is not a trace; penstock trace records one, and imports others "
                                  "with --import");
    if (got < sizeof(*header))
        return read_failed(trace, err);
    if (header->version != VERSION)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, trace->path,
                            "is a trace of version %u, and this is for version %u: record it again",
                            header->version, VERSION);
    return 0;
}

static int header_check(struct ps_trace *trace, const struct disk_header *header,
                        struct ps_error *err)
{
    struct ps_trace_info info = {.token_count = header->token_count,
                                 .layer_count = header->layer_count,
                                 .expert_count = header->expert_count,
                                 .experts_used = header->experts_used,
                                 .depth_count = header->depth_count,
                                 .rank_count = header->rank_count,
                                 .hidden = header->hidden,
                                 .has_weights = header->flags & FLAG_WEIGHTS};
    const char *fault;
    int rc;

    memcpy(info.model, header->model, sizeof(info.model));
    fault = info_fault(&info);
    if (!fault && (header->reserved != 0 || (header->flags & ~FLAG_WEIGHTS) != 0 ||
                   header->header_bytes != header_bytes(&info)))
        fault = "its header holds what this version does not know";
    if (fault)
        return ps_error_set(err, -PS_ERR_FORMAT, trace->path, "is not a sound trace: %s", fault);
    rc = block_init(&trace->block, &info);
    if (rc < 0)
        return ps_error_set(err, rc, trace->path, "not enough memory for a block of the trace");
    return 0;
}

static int layers_read(struct ps_trace *trace, struct disk_head *head, struct ps_error *err)
{
    struct block *block = &trace->block;
    struct disk_layer *layers = head->layers;
    size_t bytes = block->info.layer_count * sizeof(*layers);
    uint64_t checksum = head->header.checksum;

    if (fread(layers, 1, bytes, trace->file) != bytes)
        return read_failed(trace, err);
    head->header.checksum = 0;
    block->checksum = XXH3_64bits(head, sizeof(head->header) + bytes);
    if (block->checksum != checksum)
        return ps_error_set(err, -PS_ERR_CHECKSUM, trace->path,
                            "the trace's header is damaged: record it again");
    for (uint32_t i = 0; i < block->info.layer_count; i++) {
        block->layers[i] = layers[i].layer;
        block->expert_bytes[i] = layers[i].expert_bytes;
    }
    const char *fault = info_fault(&block->info);
    if (fault)
        return ps_error_set(err, -PS_ERR_FORMAT, trace->path, "is not a sound trace: %s", fault);
    return 0;
}

static int size_check(struct ps_trace *trace, struct ps_error *err)
{
    uint64_t bytes = file_bytes(&trace->block);
    struct stat st;

    if (fstat(fileno(trace->file), &st) < 0)
        return ps_error_set(err, -errno, trace->path, "cannot read: %s", strerror(errno));
    if ((uint64_t)st.st_size < bytes)
        return ps_error_set(err, -PS_ERR_TRUNCATED, trace->path,
                            "the trace has %llu bytes of %llu: it was cut off, record it again",
                            (unsigned long long)st.st_size, (unsigned long long)bytes);
    if ((uint64_t)st.st_size > bytes)
        return ps_error_set(err, -PS_ERR_FORMAT, trace->path,
                            "is not a sound trace: %llu bytes follow its end",
                            (unsigned long long)((uint64_t)st.st_size - bytes));
    return 0;
}

static int file_open(struct ps_trace *trace, const char *path, struct ps_error *err)
{
    struct stat st;

    trace->path = strdup(path);
    if (!trace->path)
        return ps_error_set(err, -ENOMEM, path, "not enough memory for a file name");
    trace->file = fopen(path, "rbe");
    if (!trace->file || fstat(fileno(trace->file), &st) < 0)
        return ps_error_set(err, -errno, path, "cannot read: %s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return ps_error_set(err, -PS_ERR_ARGUMENT, path,
                            "a trace is read more than once: name a plain file");
    return 0;
}

int ps_trace_open(struct ps_trace **out, const char *path, struct ps_error *err)
{
    struct ps_trace *trace = calloc(1, sizeof(*trace));
    struct disk_head head;

    if (!trace)
        return ps_error_set(err, -ENOMEM, path, "not enough memory for a trace");
    int rc = file_open(trace, path, err);
    if (rc == 0)
        rc = header_read(trace, &head.header, err);
    if (rc == 0)
        rc = header_check(trace, &head.header, err);
    if (rc == 0)
        rc = layers_read(trace, &head, err);
    if (rc == 0)
        rc = size_check(trace, err);
    if (rc < 0) {
        ps_trace_close(&trace);
        return rc;
    }
    *out = trace;
    return 0;
}

void ps_trace_close(struct ps_trace **trace)
{
    if (!*trace)
        return;
    if ((*trace)->file)
        fclose((*trace)->file);
    block_fini(&(*trace)->block);
    free((*trace)->path);
    free(*trace);
    *trace = NULL;
}

const struct ps_trace_info *ps_trace_info(const struct ps_trace *trace)
{
    return &trace->block.info;
}

static int block_read(struct ps_trace *trace, uint64_t block_idx, struct ps_error *err)
{
    struct block *block = &trace->block;
    uint64_t left = block->info.token_count - block_idx * block->shape.block_tokens;
    uint64_t bytes = ps_min_u64(left, block->shape.block_tokens) * block->shape.bytes;
    uint64_t checksum;

    if (fread(block->bytes, 1, bytes + sizeof(checksum), trace->file) != bytes + sizeof(checksum))
        return read_failed(trace, err);
    memcpy(&checksum, block->bytes + bytes, sizeof(checksum));
    if (checksum != block_checksum(block, block_idx, bytes))
        return ps_error_set(err, -PS_ERR_CHECKSUM, trace->path,
                            "the trace is damaged in the block from token %llu on: record it again",
                            (unsigned long long)(block_idx * block->shape.block_tokens));
    return 0;
}

/* Parts of a record are aligned to what they hold: it begins at a multiple of 8, wide ones first.
 */
static const void *part(const uint8_t *record, uint64_t offset, uint64_t slots)
{
    return slots > 0 ? record + offset : NULL;
}

static void record_get(const struct block *block, const uint8_t *record,
                       struct ps_trace_token *token)
{
    const struct record_shape *shape = &block->shape;
    uint32_t flags;

    memcpy(&token->id, record, sizeof(token->id));
    memcpy(&flags, record + sizeof(token->id), sizeof(flags));
    token->begins = flags & TOKEN_BEGINS;
    token->weights =
        part(record, shape->weights, block->info.has_weights ? shape->expert_slots : 0);
    token->experts = part(record, shape->experts, shape->expert_slots);
    token->ranks = part(record, shape->ranks, shape->rank_slots);
    token->rank_f16 = part(record, shape->rank_f16, shape->rank_slots);
    token->hidden = part(record, shape->hidden, shape->hidden_slots);
}

int ps_trace_next(struct ps_trace *trace, struct ps_trace_token *token, struct ps_error *err)
{
    struct block *block = &trace->block;
    uint64_t in_block = trace->next_token % block->shape.block_tokens;
    struct ps_trace_token next;

    if (trace->next_token == block->info.token_count)
        return 0;
    if (in_block == 0) {
        int rc = block_read(trace, trace->next_token / block->shape.block_tokens, err);
        if (rc < 0)
            return rc;
    }
    record_get(block, block->bytes + in_block * block->shape.bytes, &next);
    if (!token_sound(block, &next))
        return ps_error_set(err, -PS_ERR_FORMAT, trace->path,
                            "is not a sound trace: token %llu names an expert twice, or one that "
                            "there is not, or holds what is no number",
                            (unsigned long long)trace->next_token);
    trace->next_token++;
    *token = next;
    return 1;
}

void ps_trace_rewind(struct ps_trace *trace)
{
    trace->next_token = 0;
    fseeko(trace->file, (off_t)header_bytes(&trace->block.info), SEEK_SET);
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static int bytes_write(struct ps_trace_writer *writer, const void *bytes, uint64_t count,
                       struct ps_error *err)
{
    errno = 0;
    if (fwrite(bytes, 1, count, writer->file) == count) {
        writer->byte_count += count;
        return 0;
    }
    int code = errno > 0 ? -errno : -EIO;
    return ps_error_set(err, code, writer->name, "cannot write: %s", strerror(-code));
}

static int header_write(struct ps_trace_writer *writer, struct ps_error *err)
{
    struct block *block = &writer->block;
    const struct ps_trace_info *info = &block->info;
    uint64_t bytes = header_bytes(info);
    struct disk_head head = {.header = {.magic = MAGIC,
                                        .version = VERSION,
                                        .header_bytes = (uint32_t)bytes,
                                        .token_count = info->token_count,
                                        .layer_count = info->layer_count,
                                        .expert_count = info->expert_count,
                                        .experts_used = info->experts_used,
                                        .depth_count = info->depth_count,
                                        .rank_count = info->rank_count,
                                        .hidden = info->hidden,
                                        .flags = info->has_weights ? FLAG_WEIGHTS : 0}};

    memcpy(head.header.model, info->model, strlen(info->model));
    for (uint32_t i = 0; i < info->layer_count; i++) {
        head.layers[i].layer = info->layers[i];
        head.layers[i].expert_bytes = info->expert_bytes[i];
    }
    block->checksum = head.header.checksum = XXH3_64bits(&head, bytes);
    return bytes_write(writer, &head, bytes, err);
}

int ps_trace_writer_open(struct ps_trace_writer **out, FILE *file, const char *name,
                         const struct ps_trace_info *info, struct ps_error *err)
{
    const char *fault = info_fault(info);
    struct ps_trace_writer *writer;

    if (fault)
        return ps_error_set(err, -PS_ERR_ARGUMENT, name, "no such trace can be written: %s", fault);
    writer = calloc(1, sizeof(*writer));
    if (!writer)
        return ps_error_set(err, -ENOMEM, name, "not enough memory for a trace");
    writer->file = file;
    writer->name = name;
    int rc = block_init(&writer->block, info);
    if (rc < 0) {
        ps_error_set(err, rc, name, "not enough memory for a block of the trace");
    } else {
        for (uint32_t i = 0; i < info->layer_count; i++) {
            writer->block.layers[i] = info->layers[i];
            writer->block.expert_bytes[i] = info->expert_bytes[i];
        }
        rc = header_write(writer, err);
    }
    if (rc < 0) {
        ps_trace_writer_close(&writer);
        return rc;
    }
    *out = writer;
    return 0;
}

void ps_trace_writer_close(struct ps_trace_writer **writer)
{
    if (!*writer)
        return;
    block_fini(&(*writer)->block);
    free(*writer);
    *writer = NULL;
}

/* The block that the last token added is in. */
static int block_write(struct ps_trace_writer *writer, struct ps_error *err)
{
    struct block *block = &writer->block;
    uint64_t block_idx = (writer->token_count - 1) / block->shape.block_tokens;
    uint64_t bytes =
        (writer->token_count - block_idx * block->shape.block_tokens) * block->shape.bytes;
    uint64_t checksum = block_checksum(block, block_idx, bytes);

    memcpy(block->bytes + bytes, &checksum, sizeof(checksum));
    return bytes_write(writer, block->bytes, bytes + sizeof(checksum), err);
}

static void record_put(const struct block *block, uint8_t *record,
                       const struct ps_trace_token *token)
{
    const struct record_shape *shape = &block->shape;
    uint32_t flags = token->begins ? TOKEN_BEGINS : 0;

    memset(record, 0, shape->bytes);
    memcpy(record, &token->id, sizeof(token->id));
    memcpy(record + sizeof(token->id), &flags, sizeof(flags));
    memcpy(record + shape->experts, token->experts, shape->expert_slots * sizeof(uint16_t));
    if (block->info.has_weights)
        memcpy(record + shape->weights, token->weights, shape->expert_slots * sizeof(float));
    if (shape->rank_slots > 0) {
        memcpy(record + shape->ranks, token->ranks, shape->rank_slots * sizeof(uint16_t));
        memcpy(record + shape->rank_f16, token->rank_f16, shape->rank_slots * sizeof(uint16_t));
    }
    if (shape->hidden_slots > 0)
        memcpy(record + shape->hidden, token->hidden, shape->hidden_slots * sizeof(uint16_t));
}

int ps_trace_writer_add(struct ps_trace_writer *writer, const struct ps_trace_token *token,
                        struct ps_error *err)
{
    struct block *block = &writer->block;
    uint64_t in_block = writer->token_count % block->shape.block_tokens;

    if (writer->token_count == block->info.token_count)
        return ps_error_set(err, -PS_ERR_ARGUMENT, writer->name,
                            "the trace was announced with fewer tokens");
    if (!token_sound(block, token))
        return ps_error_set(err, -PS_ERR_ARGUMENT, writer->name,
                            "token %llu names an expert twice, or one that there is not, or holds "
                            "what is no number",
                            (unsigned long long)writer->token_count);
    record_put(block, block->bytes + in_block * block->shape.bytes, token);
    writer->token_count++;
    return in_block + 1 == block->shape.block_tokens ? block_write(writer, err) : 0;
}

uint64_t ps_trace_writer_bytes(const struct ps_trace_writer *writer)
{
    return writer->byte_count;
}

int ps_trace_writer_finish(struct ps_trace_writer *writer, struct ps_error *err)
{
    const struct block *block = &writer->block;
    int rc = 0;

    if (writer->token_count != block->info.token_count)
        return ps_error_set(err, -PS_ERR_ARGUMENT, writer->name,
                            "the trace was announced with more tokens");
    if (writer->token_count % block->shape.block_tokens != 0)
        rc = block_write(writer, err);
    if (rc == 0 && fflush(writer->file) != 0)
        rc = ps_error_set(err, -errno, writer->name, "cannot write: %s", strerror(errno));
    return rc;
}
