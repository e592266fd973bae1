#include "model/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/util.h"

/* Files smaller than this may stay in the page cache: reading
 * them again is likely, losing little. */
#define LARGE_BYTES_DEFAULT (256ull << 20)
#define FOLIO_BYTES_MAX (2ull << 20)
#define SIDECAR_BYTES_MAX (256u << 20)
/* Opening a pipe would wait for a writer; reads of plain files do not heed O_NONBLOCK. */
#define OPEN_FLAGS (O_RDONLY | O_CLOEXEC | O_NONBLOCK)

static _Atomic uint64_t large_bytes = LARGE_BYTES_DEFAULT;

void ps_source_set_large_bytes(uint64_t bytes)
{
    atomic_store(&large_bytes, bytes);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void ps_source_plain_text(char *out, size_t out_bytes, const char *text, size_t text_bytes)
{
    size_t n = 0;

    for (size_t i = 0; i < text_bytes && text[i] && n + 1 < out_bytes; i++)
        out[n++] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
    out[n] = 0;
}

static int64_t mtime_ns(const struct stat *st)
{
    return st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
}

static void set_name(struct ps_source *source, const char *path)
{
    char *copy = strdup(path);

    if (!copy)
        return;
    for (size_t len = strlen(copy); len > 1 && copy[len - 1] == '/'; len--)
        copy[len - 1] = 0;
    ps_source_plain_text(source->name, sizeof(source->name), base_name(copy), strlen(copy));
    free(copy);
}

/* The same file once more, whatever its path names by now. */
static int open_direct(int fd)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
}

int ps_source_add_file(struct ps_source *source, const char *path, struct ps_error *err)
{
    struct ps_source_file *files;
    struct stat st;
    int fd, rc;

    if (source->file_count == PS_SOURCE_FILE_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_UNSUPPORTED, path,
                            "the checkpoint is spread over more than %d files",
                            PS_SOURCE_FILE_COUNT_MAX);
    files = realloc(source->files, (source->file_count + 1) * sizeof(*files));
    if (!files)
        return ps_error_set(err, -ENOMEM, path, "memory for the list of files is not to be had");
    source->files = files;

    fd = open(path, OPEN_FLAGS);
    if (fd < 0 || fstat(fd, &st) < 0) {
        rc = ps_error_set(err, -errno, path, "%s cannot be opened: %s", base_name(path),
                          strerror(errno));
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = ps_error_set(err, -PS_ERR_FORMAT, path, "%s is not a plain file", base_name(path));
        goto fail;
    }
    struct ps_source_file *file = &files[source->file_count];
    *file = (struct ps_source_file){.path = strdup(path),
                                    .fd = fd,
                                    .direct_fd = -1,
                                    .bytes = (uint64_t)st.st_size,
                                    .mtime_ns = mtime_ns(&st)};
    if (!file->path) {
        rc = ps_error_set(err, -ENOMEM, path, "memory for a path is not to be had");
        goto fail;
    }
    file->direct_fd = file->bytes >= atomic_load(&large_bytes) ? open_direct(fd) : -1;
    return (int)source->file_count++;
fail:
    if (fd >= 0)
        close(fd);
    return rc;
}

int ps_source_add_tensor(struct ps_source *source, const struct ps_source_tensor *tensor,
                         const char *name, size_t name_bytes, struct ps_error *err)
{
    char *copy = strndup(name, name_bytes);

    if (copy && source->tensor_count == source->tensor_capacity) {
        size_t capacity = source->tensor_capacity ? 2 * source->tensor_capacity : 256;
        struct ps_source_tensor *grown =
            realloc(source->tensors, capacity * sizeof(*source->tensors));
        if (grown) {
            source->tensors = grown;
            source->tensor_capacity = capacity;
        }
    }
    if (!copy || source->tensor_count == source->tensor_capacity) {
        free(copy);
        return ps_error_set(err, -ENOMEM, NULL, "memory for the list of tensors is not to be had");
    }
    source->tensors[source->tensor_count] = *tensor;
    source->tensors[source->tensor_count++].name = copy;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct ps_source_tensor *)a)->name,
                  ((const struct ps_source_tensor *)b)->name);
}

static int sort_tensors(struct ps_source *source, struct ps_error *err)
{
    if (source->tensor_count == 0)
        return ps_error_set(err, -PS_ERR_FORMAT, source->name, "%s holds no tensors", source->name);
    qsort(source->tensors, source->tensor_count, sizeof(*source->tensors), by_name);
    for (size_t i = 1; i < source->tensor_count; i++)
        if (by_name(&source->tensors[i - 1], &source->tensors[i]) == 0)
            return ps_error_set(err, -PS_ERR_FORMAT, source->tensors[i].name,
                                "tensor %s is there twice, in %s and %s", source->tensors[i].name,
                                base_name(source->files[source->tensors[i - 1].file].path),
                                base_name(source->files[source->tensors[i].file].path));
    return 0;
}

static int read_kind(struct ps_source *source, const char *path, struct ps_error *err)
{
    size_t path_len = strlen(path);
    char magic[4] = {0};
    struct stat st;
    int fd;

    if (stat(path, &st) < 0)
        return ps_error_set(err, -errno, path, "%s cannot be opened: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return ps_safetensors_read(source, path, true, err);
    if (!S_ISREG(st.st_mode))
        return ps_error_set(err, -PS_ERR_FORMAT, path,
                            "%s is neither a file nor a directory: name a GGUF file or the "
                            "directory of a safetensors checkpoint",
                            path);
    fd = open(path, OPEN_FLAGS);
    if (fd < 0)
        return ps_error_set(err, -errno, path, "%s cannot be opened: %s", path, strerror(errno));
    ssize_t got = pread(fd, magic, sizeof(magic), 0);
    close(fd);
    if (got == sizeof(magic) && !memcmp(magic, "GGUF", sizeof(magic)))
        return ps_gguf_read(source, path, err);
    if (path_len > 12 && !strcmp(path + path_len - 12, ".safetensors"))
        return ps_safetensors_read(source, path, false, err);
    return ps_error_set(err, -PS_ERR_FORMAT, path,
                        "%s is neither a GGUF file (it does not begin with \"GGUF\") nor a "
                        "directory of safetensors",
                        path);
}

int ps_source_open(struct ps_source **out, const char *path, struct ps_error *err)
{
    struct ps_source *source = calloc(1, sizeof(*source));
    int rc;

    if (!source)
        return ps_error_set(err, -ENOMEM, path, "memory for the source is not to be had");
    set_name(source, path);
    rc = read_kind(source, path, err);
    if (rc == 0)
        rc = sort_tensors(source, err);
    if (rc < 0) {
        ps_source_close(&source);
        return rc;
    }
    *out = source;
    return 0;
}

void ps_source_close(struct ps_source **source_ptr)
{
    struct ps_source *source = *source_ptr;

    if (!source)
        return;
    for (uint32_t i = 0; i < source->file_count; i++) {
        close(source->files[i].fd);
        if (source->files[i].direct_fd >= 0)
            close(source->files[i].direct_fd);
        free(source->files[i].path);
    }
    for (size_t i = 0; i < source->tensor_count; i++)
        free(source->tensors[i].name);
    free(source->files);
    free(source->tensors);
    free(source->gguf_values);
    free(source->gguf_header);
    free(source->directory);
    free(source);
    *source_ptr = NULL;
}

const struct ps_source_tensor *ps_source_find(const struct ps_source *source, const char *name)
{
    struct ps_source_tensor key = {.name = (char *)name};
    return bsearch(&key, source->tensors, source->tensor_count, sizeof(key), by_name);
}

/* Half of an old file with half of a new one is no model, however sound each read was. */
int ps_source_check_unchanged(const struct ps_source_file *f, struct ps_error *err)
{
    struct stat st;

    if (fstat(f->fd, &st) == 0 && (uint64_t)st.st_size == f->bytes && mtime_ns(&st) == f->mtime_ns)
        return 0;
    return ps_error_set(err, -PS_ERR_SOURCE_CHANGED, f->path,
                        "%s was written to while it was being read: start over when it is at rest",
                        base_name(f->path));
}

int ps_source_check_member(const struct ps_source *source, const char *path, struct ps_error *err)
{
    struct stat member, st;

    if (stat(path, &member) < 0)
        return 0;
    for (uint32_t i = 0; i < source->file_count; i++)
        if (fstat(source->files[i].fd, &st) == 0 && st.st_dev == member.st_dev &&
            st.st_ino == member.st_ino)
            return ps_error_set(err, -PS_ERR_ARGUMENT, path,
                                "this is a file of the source itself: lay it out somewhere else");
    return 0;
}

int ps_source_read(const struct ps_source *source, uint32_t file, uint64_t offset_bytes, void *buf,
                   uint64_t bytes, struct ps_error *err)
{
    const struct ps_source_file *f = &source->files[file];
    uint64_t done = 0;

    while (done < bytes) {
        size_t want = (size_t)ps_min_u64(bytes - done, 1u << 30);
        ssize_t got = pread(f->fd, (char *)buf + done, want, (off_t)(offset_bytes + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ps_error_set(err, -errno, f->path, "%s cannot be read at byte %llu: %s",
                                base_name(f->path), (unsigned long long)(offset_bytes + done),
                                strerror(errno));
        if (got == 0)
            return ps_error_set(err, -PS_ERR_TRUNCATED, f->path,
                                "%s ends at byte %llu although more was announced: it is cut short",
                                base_name(f->path), (unsigned long long)(offset_bytes + done));
        done += (uint64_t)got;
    }
    if (f->bytes >= atomic_load(&large_bytes)) {
        /* The kernel drops whole folios only, and these can be 2 MiB large: one that the previous
         * read ended in is taken along. */
        uint64_t begin = offset_bytes & ~(FOLIO_BYTES_MAX - 1);
        posix_fadvise(f->fd, (off_t)begin, (off_t)(offset_bytes + bytes - begin),
                      POSIX_FADV_DONTNEED);
    }
    return ps_source_check_unchanged(f, err);
}

int ps_source_sidecar(const struct ps_source *source, const char *name, char **text,
                      size_t *text_bytes, struct ps_error *err)
{
    struct ps_source_file file = {.direct_fd = -1};
    struct ps_source beside = {.files = &file, .file_count = 1};
    struct stat st;
    char *buf = NULL;
    int rc = -ENOENT;

    if (!source->directory)
        return -ENOENT;
    file.fd = -1;
    if (asprintf(&file.path, "%s/%s", source->directory, name) < 0)
        return ps_error_set(err, -ENOMEM, name, "memory for a path is not to be had");
    file.fd = open(file.path, OPEN_FLAGS);
    if (file.fd < 0 || fstat(file.fd, &st) < 0) {
        if (errno != ENOENT)
            rc = ps_error_set(err, -errno, name, "%s cannot be opened: %s", name, strerror(errno));
        goto done;
    }
    if (!S_ISREG(st.st_mode) || st.st_size > SIDECAR_BYTES_MAX) {
        rc = ps_error_set(err, -PS_ERR_FORMAT, name, "%s is not a file of a credible size", name);
        goto done;
    }
    file.bytes = (uint64_t)st.st_size;
    file.mtime_ns = mtime_ns(&st);
    buf = malloc((size_t)st.st_size + 1);
    rc = buf ? ps_source_read(&beside, 0, 0, buf, (uint64_t)st.st_size, err)
             : ps_error_set(err, -ENOMEM, name, "memory for %s is not to be had", name);
    if (rc == 0) {
        buf[st.st_size] = 0;
        *text = buf;
        *text_bytes = (size_t)st.st_size;
        buf = NULL;
    }
done:
    if (file.fd >= 0)
        close(file.fd);
    free(file.path);
    free(buf);
    return rc;
}

int ps_source_sidecar_json(const struct ps_source *source, const char *name, json_t **json,
                           struct ps_error *err)
{
    json_error_t at;
    size_t text_bytes;
    char *text;
    json_t *root;
    int rc = ps_source_sidecar(source, name, &text, &text_bytes, err);

    if (rc < 0)
        return rc;
    root = json_loadb(text, text_bytes, 0, &at);
    free(text);
    if (!json_is_object(root)) {
        rc = root ? ps_error_set(err, -PS_ERR_FORMAT, name, "%s is not a JSON object", name)
                  : ps_error_set(err, -PS_ERR_FORMAT, name, "%s is not valid JSON: line %d: %s",
                                 name, at.line, at.text);
        json_decref(root);
        return rc;
    }
    *json = root;
    return 0;
}

const char *ps_source_shape_text(const uint64_t *dims, uint32_t dim_count, char *buf,
                                 size_t buf_bytes)
{
    size_t n = (size_t)snprintf(buf, buf_bytes, "[");

    for (uint32_t i = 0; i < dim_count && n < buf_bytes; i++)
        n += (size_t)snprintf(buf + n, buf_bytes - n, "%s%llu", i ? ", " : "",
                              (unsigned long long)dims[i]);
    if (n < buf_bytes)
        snprintf(buf + n, buf_bytes - n, "]");
    return buf;
}
