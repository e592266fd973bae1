#include "model/importance.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/source.h"
#include "quant/type.h"

#define NAME_BYTES 160

struct ps_importance {
    struct ps_source *source;
};

static const struct ps_source_tensor *find(const struct ps_importance *importance, const char *name,
                                           const char *what)
{
    char full[NAME_BYTES];

    snprintf(full, sizeof(full), "%s.%s", name, what);
    return ps_source_find(importance->source, full);
}

/* At least one pair, so that a model named by mistake is told from an importance file. */
static int check_any(const struct ps_importance *importance, struct ps_error *err)
{
    static const char tail[] = ".in_sum2";

    for (size_t i = 0; i < importance->source->tensor_count; i++) {
        const char *name = importance->source->tensors[i].name;
        size_t len = strlen(name);

        if (len >= sizeof(tail) && !strcmp(name + len - strlen(tail), tail))
            return 0;
    }
    return ps_error_set(err, -PS_ERR_FORMAT, "--importance",
                        "%s holds no importance: no tensor's name ends in .in_sum2",
                        importance->source->name);
}

int ps_importance_open(struct ps_importance **out, const char *path, struct ps_error *err)
{
    struct ps_importance *importance;
    char magic[4] = {0};
    FILE *f = fopen(path, "rb");
    size_t got;
    int rc;

    if (!f)
        return ps_error_set(err, -errno, path, "%s cannot be opened: %s", path, strerror(errno));
    got = fread(magic, 1, sizeof(magic), f);
    fclose(f);
    if (got != sizeof(magic) || memcmp(magic, "GGUF", sizeof(magic)))
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, path,
                            "%s is no importance file in the GGUF form; llama-imatrix turns the "
                            "older form into it with --in-file and --output-format gguf",
                            path);
    importance = calloc(1, sizeof(*importance));
    if (!importance)
        return ps_error_set(err, -ENOMEM, path, "memory for the importance is not to be had");
    rc = ps_source_open(&importance->source, path, err);
    if (rc == 0)
        rc = check_any(importance, err);
    if (rc < 0) {
        ps_importance_close(&importance);
        return rc;
    }
    *out = importance;
    return 0;
}

void ps_importance_close(struct ps_importance **importance)
{
    if (!*importance)
        return;
    ps_source_close(&(*importance)->source);
    free(*importance);
    *importance = NULL;
}

bool ps_importance_has(const struct ps_importance *importance, const char *name)
{
    return find(importance, name, "in_sum2") != NULL;
}

int ps_importance_find(const struct ps_importance *importance, const char *name, uint64_t matrices,
                       uint64_t cols, struct ps_error *err)
{
    const struct ps_source_tensor *sums = find(importance, name, "in_sum2");
    const struct ps_source_tensor *counts = find(importance, name, "counts");

    if (!sums && !counts)
        return 0;
    if (!sums || !counts || sums->type != PS_TYPE_F32 || counts->type != PS_TYPE_F32 ||
        counts->bytes != matrices * sizeof(float) ||
        sums->bytes / sizeof(float) / cols != matrices ||
        sums->bytes != matrices * cols * sizeof(float))
        return ps_error_set(
            err, -PS_ERR_FORMAT, "--importance",
            "the importance of %s does not fit: %llu times %llu columns in F32, and "
            "as many counts, are needed; was the file made for this model?",
            name, (unsigned long long)matrices, (unsigned long long)cols);
    return 1;
}

int ps_importance_read(const struct ps_importance *importance, const char *name, uint64_t matrix,
                       uint64_t cols, float *values, struct ps_error *err)
{
    const struct ps_source_tensor *sums = find(importance, name, "in_sum2");
    const struct ps_source_tensor *counts = find(importance, name, "counts");
    float count = 0;
    int rc =
        ps_source_read(importance->source, counts->file,
                       counts->offset_bytes + matrix * sizeof(float), &count, sizeof(count), err);

    if (rc == 0)
        rc = ps_source_read(importance->source, sums->file,
                            sums->offset_bytes + matrix * cols * sizeof(float), values,
                            cols * sizeof(float), err);
    if (rc < 0)
        return rc;
    ps_row_decode(PS_TYPE_F32, &count, &count, 1);
    ps_row_decode(PS_TYPE_F32, values, values, cols);
    for (uint64_t i = 0; i < cols; i++)
        if (!isfinite(values[i]) || values[i] < 0 || !isfinite(count) || count < 0)
            return ps_error_set(err, -PS_ERR_FORMAT, "--importance",
                                "the importance of %s is damaged: column %llu of matrix %llu is "
                                "not a finite number from 0 up",
                                name, (unsigned long long)i, (unsigned long long)matrix);
    /* Sums of squares of any model are far below; larger ones would not survive being added. */
    for (uint64_t i = 0; i < cols; i++)
        values[i] = fminf(values[i], 0x1p100f);
    return count > 0;
}

int ps_importance_fingerprint(const struct ps_importance *importance, uint64_t fingerprint[2],
                              struct ps_error *err)
{
    return ps_source_fingerprint(importance->source, fingerprint, err);
}
