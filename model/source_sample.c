/* The fingerprint of a source: what a resumed layout compares before it trusts what is there. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/util.h"
#include "model/source.h"

/* 1024 tensors x 3 x 64 KiB = 192 MiB at most: a second or two on any drive worth the name. */
#define SAMPLE_TENSOR_COUNT_MAX 1024u
#define SAMPLE_BYTES (64u << 10)

static int hash_tensor(const struct ps_source *source, const struct ps_source_tensor *t,
                       XXH3_state_t *state, uint8_t *buf, struct ps_error *err)
{
    uint64_t bytes = ps_min_u64(t->bytes, SAMPLE_BYTES);
    const uint64_t starts[] = {0, (t->bytes - bytes) / 2, t->bytes - bytes};

    XXH3_128bits_update(state, t->name, strlen(t->name) + 1);
    for (size_t i = 0; i < PS_ARRAY_LEN(starts); i++) {
        int rc = ps_source_read(source, t->file, t->offset_bytes + starts[i], buf, bytes, err);
        if (rc < 0)
            return rc;
        XXH3_128bits_update(state, buf, bytes);
        if (bytes == t->bytes)
            break;
    }
    return 0;
}

static void hash_file(const struct ps_source_file *f, XXH3_state_t *state)
{
    const char *slash = strrchr(f->path, '/');
    const char *name = slash ? slash + 1 : f->path;
    const uint64_t numbers[] = {f->bytes, (uint64_t)f->mtime_ns, f->header_hash};

    XXH3_128bits_update(state, name, strlen(name) + 1);
    XXH3_128bits_update(state, numbers, sizeof(numbers));
}

int ps_source_fingerprint(const struct ps_source *source, uint64_t fingerprint[2],
                          struct ps_error *err)
{
    size_t step = ps_div_up(source->tensor_count, SAMPLE_TENSOR_COUNT_MAX);
    XXH3_state_t *state = XXH3_createState();
    uint8_t *buf = malloc(SAMPLE_BYTES);
    int rc = 0;

    if (!state || !buf)
        rc =
            ps_error_set(err, -ENOMEM, source->name, "memory for the fingerprint is not to be had");
    else
        XXH3_128bits_reset(state);
    for (uint32_t i = 0; i < source->file_count && rc == 0; i++)
        hash_file(&source->files[i], state);
    for (size_t i = 0; i < source->tensor_count && rc == 0; i += step)
        rc = hash_tensor(source, &source->tensors[i], state, buf, err);
    if (rc == 0) {
        XXH128_hash_t hash = XXH3_128bits_digest(state);
        fingerprint[0] = hash.low64;
        fingerprint[1] = hash.high64;
    }
    free(buf);
    XXH3_freeState(state);
    return rc;
}
