/*
 * A session in a file (docs/format.md, "A session"): header, ids, logits, the rows of keys and
 * values that later tokens see, recurrent state, checksum. One walk over the state serves saving
 * and restoring, so the two cannot disagree. Rows are in the order of their positions, so a file
 * fits any context that holds the session.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/util.h"
#include "model/engine.h"
#include "quant/type.h"

#define SESSION_MAGIC "PSTSESSN"
#define SESSION_VERSION 1u

/* Little-endian, as everything in a volume. */
struct session_header {
    char magic[8];            /*  0 SESSION_MAGIC */
    uint32_t version;         /*  8 SESSION_VERSION */
    uint32_t id_count;        /* 12 tokens: those evaluated, and perhaps one that is not yet */
    uint64_t content;         /* 16 of the model: ps_volume_content */
    uint64_t total_bytes;     /* 24 of the file */
    uint32_t position;        /* 32 tokens evaluated */
    uint32_t kv_type;         /* 36 enum ps_type */
    uint32_t kv_window;       /* 40 0: none */
    uint32_t activations;     /* 44 bits of an activation: 8 or 32 */
    uint32_t experts_used;    /* 48 */
    uint32_t logits_count;    /* 52 floats: the vocabulary, or 0 */
    uint64_t kv_row_bytes;    /* 56 of K, and of V, in one layer */
    uint64_t recurrent_bytes; /* 64 */
    uint64_t checksum;        /* 72 XXH3-64 of what stands before it */
};
static_assert(sizeof(struct session_header) == 80, "the header is what the format says");

struct stream {
    FILE *file;
    XXH3_state_t *hash;
    bool is_saving;
};

static int no_memory(struct ps_error *err)
{
    return ps_error_set(err, -ENOMEM, NULL, "not enough memory for the session's checksum");
}

static int cannot_read(FILE *file, struct ps_error *err)
{
    if (ferror(file))
        return ps_error_set(err, errno ? -errno : -EIO, NULL, "cannot read the session: %s",
                            strerror(errno ? errno : EIO));
    return ps_error_set(err, -PS_ERR_TRUNCATED, NULL,
                        "the session ends before its time: the file was cut");
}

/* Writes bytes of the state, or reads them, and takes them into the checksum. */
static int transfer(struct stream *s, void *data, size_t bytes, struct ps_error *err)
{
    if (bytes == 0)
        return 0;
    errno = 0;
    if (s->is_saving && fwrite(data, 1, bytes, s->file) != bytes)
        return ps_error_set(err, errno ? -errno : -EIO, NULL, "cannot write the session: %s",
                            strerror(errno ? errno : EIO));
    if (!s->is_saving && fread(data, 1, bytes, s->file) != bytes)
        return cannot_read(s->file, err);
    XXH3_64bits_update(s->hash, data, bytes);
    return 0;
}

/* ---- what a header says ----------------------------------------------------------------------
 */

/* The first position behind the sinks whose row the token at `position` sees. */
static uint32_t window_begin(const struct ps_state_shape *s, uint32_t position)
{
    uint64_t low = position + 1ull > s->kv_window ? position + 1ull - s->kv_window : 0;

    return (uint32_t)ps_max_u64(low, ps_min_u64(position, PS_KV_SINKS));
}

static uint64_t row_count(const struct ps_state_shape *s, uint32_t position)
{
    return ps_min_u64(position, PS_KV_SINKS) + position - window_begin(s, position);
}

static void make_header(const struct ps_session *session, uint32_t id_count, uint32_t position,
                        bool has_logits, struct session_header *h)
{
    const struct ps_engine *engine = session->engine;
    const struct ps_state_shape *s = &engine->state;

    *h = (struct session_header){.magic = SESSION_MAGIC,
                                 .version = SESSION_VERSION,
                                 .content = ps_volume_content(engine->model->volume),
                                 .id_count = id_count,
                                 .position = position,
                                 .kv_type = s->kv_type,
                                 .kv_window = engine->options.kv_window,
                                 .activations = engine->q8 ? 8 : 32,
                                 .experts_used = engine->options.experts_used,
                                 .logits_count = has_logits ? engine->config->vocab_rows : 0,
                                 .kv_row_bytes = s->kv_row_bytes,
                                 .recurrent_bytes = s->recurrent_bytes};
    h->total_bytes = sizeof(*h) + (uint64_t)id_count * sizeof(int32_t) +
                     (uint64_t)h->logits_count * sizeof(float) +
                     row_count(s, position) * s->attention_count * 2 * s->kv_row_bytes +
                     s->recurrent_bytes + sizeof(uint64_t);
    h->checksum = XXH3_64bits(h, offsetof(struct session_header, checksum));
}

static int read_header(FILE *file, struct session_header *h, struct ps_error *err)
{
    errno = 0;
    size_t got = fread(h, 1, sizeof(*h), file);
    if (ferror(file))
        return cannot_read(file, err);
    if (got < sizeof(h->magic) || memcmp(h->magic, SESSION_MAGIC, sizeof(h->magic)) != 0)
        return ps_error_set(err, -PS_ERR_FORMAT, NULL,
                            "this is not a session: name another file, or one that is not there "
                            "yet");
    if (got < sizeof(*h))
        return cannot_read(file, err);
    if (h->version != SESSION_VERSION)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, NULL,
                            "this session has version %" PRIu32 ", and this program knows %u",
                            h->version, SESSION_VERSION);
    if (XXH3_64bits(h, offsetof(struct session_header, checksum)) != h->checksum)
        return ps_error_set(err, -PS_ERR_CHECKSUM, NULL, "the session's header is damaged");
    return 0;
}

/* What the session was made with, which must be what the engine has: each with what to do. */
static int check_options(const struct ps_engine *engine, const struct session_header *h,
                         const struct session_header *want, struct ps_error *err)
{
    if (h->content != want->content)
        return ps_error_set(err, -PS_ERR_MEMBER, NULL,
                            "the session is of another model, or of this one in other types or "
                            "slices");
    if (ps_kv_name(h->kv_type)[0] == '\0')
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, "--kv",
                            "the session keeps its keys and values in a type that this program "
                            "does not know (number %" PRIu32 "): go on with the one that wrote it",
                            h->kv_type);
    if (h->kv_type != want->kv_type)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--kv",
                            "the session keeps its keys and values as %s, not as %s",
                            ps_kv_name(h->kv_type), engine->options.kv);
    if (h->kv_window != want->kv_window && h->kv_window == 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--kv-window",
                            "the session has no window: leave it out");
    if (h->kv_window != want->kv_window)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--kv-window",
                            "the session has a window of %" PRIu32 ": give the same", h->kv_window);
    if (h->activations != want->activations)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--activations",
                            "the session was computed with %s: give the same",
                            h->activations == 8 ? "q8" : "f32");
    if (h->experts_used != want->experts_used)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--experts-used",
                            "the session was computed with %" PRIu32
                            " experts per token: give the same",
                            h->experts_used);
    if (h->position > engine->options.ctx)
        return ps_error_set(err, -PS_ERR_CONTEXT_FULL, "--ctx",
                            "the session has %" PRIu32 " tokens, more than a context of %" PRIu32
                            " holds: give a larger one",
                            h->position, engine->options.ctx);
    return 0;
}

static int check_header(const struct ps_session *session, const struct session_header *h,
                        struct ps_error *err)
{
    struct session_header want;

    make_header(session, h->id_count, h->position, h->logits_count != 0, &want);
    int rc = check_options(session->engine, h, &want, err);
    if (rc < 0)
        return rc;
    if (memcmp(h, &want, sizeof(want)) != 0 || h->id_count < h->position ||
        h->id_count - h->position > 1)
        return ps_error_set(err, -PS_ERR_FORMAT, NULL, "the session's header contradicts itself");
    return 0;
}

/* ---- the state --------------------------------------------------------------------------------
 */

/*
 * The rows of K or of V of one layer. The sinks come first. Read ones go into the ring too, where a
 * window that still reaches them finds them; where it does not, what follows may replace them.
 */
static int walk_rows(struct stream *s, const struct ps_state_shape *shape, uint8_t *rows,
                     uint32_t position, struct ps_error *err)
{
    uint64_t row_bytes = shape->kv_row_bytes;
    uint32_t sinks = (uint32_t)ps_min_u64(position, PS_KV_SINKS);
    uint8_t *sink = rows + shape->kv_sink_row * row_bytes;

    int rc = transfer(s, sink, sinks * row_bytes, err);
    if (rc >= 0 && !s->is_saving)
        memmove(rows, sink, sinks * row_bytes);
    for (uint32_t at = window_begin(shape, position), n; rc >= 0 && at < position; at += n) {
        uint32_t row = at % shape->kv_rows;
        n = (uint32_t)ps_min_u64(position - at, shape->kv_rows - row);
        rc = transfer(s, rows + row * row_bytes, n * row_bytes, err);
    }
    return rc;
}

static int walk_state(struct stream *s, const struct ps_session *session, uint32_t position,
                      struct ps_error *err)
{
    const struct ps_state_shape *shape = &session->engine->state;
    int rc = 0;

    /* K and V of each layer are the two halves of its bytes. */
    for (uint32_t half = 0; rc >= 0 && half < 2 * shape->attention_count; half++)
        rc =
            walk_rows(s, shape, session->state + half * (shape->kv_layer_bytes / 2), position, err);
    if (rc >= 0)
        rc = transfer(s, session->state + shape->kv_bytes, shape->recurrent_bytes, err);
    return rc;
}

int ps_session_save(const struct ps_session *session, FILE *file, struct ps_error *err)
{
    const float *logits = ps_session_logits(session);
    struct stream s = {.file = file, .is_saving = true};
    struct session_header h;
    size_t id_count;

    if (session->broken)
        return ps_error_set(err, -EIO, NULL,
                            "an evaluation failed half way, so there is no session to save");
    int32_t *ids = (int32_t *)ps_session_tokens(session, &id_count);
    make_header(session, (uint32_t)id_count, session->position, logits != NULL, &h);
    s.hash = XXH3_createState();
    if (!s.hash)
        return no_memory(err);
    XXH3_64bits_reset(s.hash);
    int rc = transfer(&s, &h, sizeof(h), err);
    if (rc >= 0)
        rc = transfer(&s, ids, id_count * sizeof(*ids), err);
    if (rc >= 0)
        rc = transfer(&s, (void *)logits, h.logits_count * sizeof(*logits), err);
    if (rc >= 0)
        rc = walk_state(&s, session, session->position, err);
    uint64_t checksum = XXH3_64bits_digest(s.hash);
    if (rc >= 0)
        rc = transfer(&s, &checksum, sizeof(checksum), err);
    XXH3_freeState(s.hash);
    return rc;
}

static int check_ids(const struct ps_session *session, size_t id_count, struct ps_error *err)
{
    for (size_t i = 0; i < id_count; i++)
        if (session->ids[i] < 0 || (uint32_t)session->ids[i] >= session->engine->config->vocab_rows)
            return ps_error_set(err, -PS_ERR_FORMAT, NULL,
                                "the session has a token that the model does not have");
    return 0;
}

/* What follows the header, into the session's state, ids and the engine's logits. */
static int read_body(struct stream *s, struct ps_session *session, const struct session_header *h,
                     struct ps_error *err)
{
    uint64_t checksum;
    int rc = transfer(s, session->ids, h->id_count * sizeof(*session->ids), err);

    if (rc >= 0)
        rc = transfer(s, session->engine->work.logits, h->logits_count * sizeof(float), err);
    if (rc >= 0)
        rc = walk_state(s, session, h->position, err);
    if (rc < 0)
        return rc;
    uint64_t want = XXH3_64bits_digest(s->hash);
    rc = transfer(s, &checksum, sizeof(checksum), err);
    if (rc < 0)
        return rc;
    if (checksum != want)
        return ps_error_set(err, -PS_ERR_CHECKSUM, NULL,
                            "the session is damaged: its bytes do not have their checksum");
    if (fgetc(s->file) != EOF)
        return ps_error_set(err, -PS_ERR_FORMAT, NULL,
                            "the session is followed by something else in the same file");
    return check_ids(session, h->id_count, err);
}

int ps_session_restore(struct ps_session *session, FILE *file, struct ps_error *err)
{
    struct stream s = {.file = file};
    struct session_header h;

    ps_session_reset(session);
    int rc = read_header(file, &h, err);
    if (rc >= 0)
        rc = check_header(session, &h, err);
    if (rc < 0)
        return rc;
    s.hash = XXH3_createState();
    if (!s.hash)
        return no_memory(err);
    XXH3_64bits_reset(s.hash);
    XXH3_64bits_update(s.hash, &h, sizeof(h));
    session->engine->eval_count++; /* the logits of other sessions make room */
    rc = read_body(&s, session, &h, err);
    XXH3_freeState(s.hash);
    if (rc < 0) {
        ps_session_reset(session);
        return rc;
    }
    session->position = h.position;
    session->has_pending = h.id_count > h.position;
    if (h.logits_count > 0) {
        session->logits = session->engine->work.logits;
        session->logits_eval = session->engine->eval_count;
    }
    return 0;
}
