#include "tools/tool.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/util.h"

#define TEXT_GROW_BYTES 65536u
/* What the tokenizer takes at most; /dev/zero has no end. */
#define TEXT_BYTES_MAX (1u << 30)

/* Opens a temporary file beside the path, with the permissions that a plain create would give. */
static int temp_open(struct tool_output *out, struct ps_error *err)
{
    mode_t mask = umask(0);
    int fd;

    umask(mask);
    if (asprintf(&out->temp_path, "%s.XXXXXX", out->path) < 0) {
        out->temp_path = NULL;
        return ps_error_set(err, -ENOMEM, out->name, "not enough memory for a file name");
    }
    fd = mkstemp(out->temp_path);
    if (fd < 0) {
        int code = -errno;
        free(out->temp_path);
        out->temp_path = NULL;
        return ps_error_set(err, code, out->name, "cannot create a file here: %s", strerror(-code));
    }
    fchmod(fd, 0666 & ~mask);
    out->file = fdopen(fd, "wb");
    if (out->file == NULL) {
        close(fd);
        return ps_error_set(err, -ENOMEM, out->name, "not enough memory for a file buffer");
    }
    return 0;
}

/* The open descriptor that a name such as /dev/stdout stands for, or -1. What it leads to may be a
 * plain file that others write to as well, which must be neither cut nor replaced. */
static int path_descriptor(const char *path)
{
    int fd = -1, end = 0;

    if (strcmp(path, "-") == 0 || strcmp(path, "/dev/stdout") == 0)
        return STDOUT_FILENO;
    if (strcmp(path, "/dev/stderr") == 0)
        return STDERR_FILENO;
    if (sscanf(path, "/dev/fd/%d%n", &fd, &end) == 1 && path[end] == '\0')
        return fd;
    return -1;
}

FILE *tool_report_file(const char *path)
{
    return path != NULL && path_descriptor(path) == STDOUT_FILENO ? stderr : stdout;
}

/* A volume that took hours to lay out is not what somebody means to replace by a result. */
static bool is_member(const char *path)
{
    struct ps_member_peek peek;

    return ps_member_peek(path, &peek) == 0; /* also of a volume that does not open */
}

int tool_output_open(struct tool_output *out, const char *path, struct ps_error *err)
{
    struct stat st;
    bool exists = stat(path, &st) == 0;
    int fd = path_descriptor(path), rc = 0;

    *out = (struct tool_output){.name = path};
    if (fd < 0 && exists && S_ISBLK(st.st_mode))
        return ps_error_set(err, -PS_ERR_WOULD_DESTROY, path,
                            "this is a drive or partition, which the output would overwrite: name "
                            "a file");
    if (fd >= 0 || (exists && !S_ISREG(st.st_mode))) {
        fd = fd >= 0 ? dup(fd) : open(path, O_WRONLY | O_CLOEXEC);
        out->file = fd >= 0 ? fdopen(fd, "wb") : NULL;
        if (out->file == NULL)
            rc = ps_error_set(err, -errno, path, "cannot write: %s", strerror(errno));
        return rc;
    }
    if (exists && is_member(path))
        return ps_error_set(err, -PS_ERR_WOULD_DESTROY, path,
                            "this is a member of a volume, which the output would replace: name "
                            "another file, or give it back first with penstock wipe");
    /* A link stays one: what it points to is replaced. */
    out->path = exists ? realpath(path, NULL) : strdup(path);
    if (out->path == NULL)
        return ps_error_set(err, -errno, path, "cannot write: %s", strerror(errno));
    rc = temp_open(out, err);
    if (rc < 0)
        tool_output_abandon(out);
    return rc;
}

int tool_output_commit(struct tool_output *out, struct ps_error *err)
{
    FILE *file = out->file;
    int code = 0;

    errno = 0;
    if (fflush(file) != 0 || ferror(file))
        code = errno != 0 ? -errno : -EIO;
    if (code == 0 && out->temp_path != NULL && fsync(fileno(file)) != 0)
        code = -errno;
    if (fclose(file) != 0 && code == 0)
        code = -errno;
    out->file = NULL;
    if (code == 0 && out->temp_path != NULL && rename(out->temp_path, out->path) != 0)
        code = -errno;
    if (code < 0) {
        ps_error_set(err, code, out->name, "cannot write: %s", strerror(-code));
        tool_output_abandon(out);
        return code;
    }
    free(out->temp_path);
    free(out->path);
    *out = (struct tool_output){0};
    return 0;
}

void tool_output_abandon(struct tool_output *out)
{
    if (out->file != NULL)
        fclose(out->file);
    if (out->temp_path != NULL)
        unlink(out->temp_path);
    free(out->temp_path);
    free(out->path);
    *out = (struct tool_output){0};
}

/* What a name stands for: a file that is there, or the place of one that is not yet. */
struct place {
    struct stat st;
    bool exists;
    char *folder; /* canonical, malloc'd; NULL: there is none, and what is named cannot be made */
    const char *last;
};

static void place_find(const struct tool_name *name, struct place *place)
{
    const char *slash = strrchr(name->path, '/');
    bool is_stream = strcmp(name->path, "-") == 0;

    *place = (struct place){.last = slash != NULL ? slash + 1 : name->path};
    place->exists = is_stream
                        ? fstat(name->is_input ? STDIN_FILENO : STDOUT_FILENO, &place->st) == 0
                        : stat(name->path, &place->st) == 0;
    if (place->exists || is_stream)
        return;
    char *folder =
        slash == NULL ? strdup(".") : strndup(name->path, (size_t)(slash - name->path + 1));
    place->folder = folder != NULL ? realpath(folder, NULL) : NULL;
    free(folder);
}

static bool are_same(const struct place *a, const struct place *b)
{
    if (a->exists && b->exists)
        return S_ISREG(a->st.st_mode) && a->st.st_dev == b->st.st_dev &&
               a->st.st_ino == b->st.st_ino;
    return a->folder != NULL && b->folder != NULL && strcmp(a->folder, b->folder) == 0 &&
           strcmp(a->last, b->last) == 0;
}

int tool_names_check(const struct tool_name *names, size_t count, struct ps_error *err)
{
    int rc = 0;

    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i && rc == 0; j++) {
            struct place a, b;
            if (names[i].path == NULL || names[j].path == NULL ||
                (names[i].is_input && names[j].is_input))
                continue;
            place_find(&names[i], &a);
            place_find(&names[j], &b);
            if (are_same(&a, &b))
                rc = ps_error_set(err, -PS_ERR_ARGUMENT, names[i].path,
                                  "%s and %s are the same file: name another", names[j].option,
                                  names[i].option);
            free(a.folder);
            free(b.folder);
        }
    }
    return rc;
}

int tool_inputs_check(const char *option, const char *const *inputs, int input_count,
                      const char *output, struct ps_error *err)
{
    int rc = 0;

    for (int i = 0; rc == 0 && i < input_count; i++) {
        const struct tool_name names[] = {{option, inputs[i], true}, {"--out", output, false}};
        rc = tool_names_check(names, PS_ARRAY_LEN(names), err);
    }
    return rc;
}

int tool_text_read(const char *path, char **text, size_t *text_bytes, struct ps_error *err)
{
    bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "standard input" : path;
    FILE *file = is_stdin ? stdin : fopen(path, "rb");
    size_t bytes = 0, room = 0;
    char *data = NULL;
    int rc = 0;

    if (file == NULL)
        return ps_error_set(err, -errno, name, "cannot read: %s", strerror(errno));
    for (;;) {
        if (bytes > TEXT_BYTES_MAX) {
            rc = ps_error_set(err, -PS_ERR_ARGUMENT, name,
                              "is longer than 1 GiB, the most that is read");
            break;
        }
        if (room - bytes < TEXT_GROW_BYTES) {
            room = room * 2 + 2 * TEXT_GROW_BYTES;
            char *grown = realloc(data, room);
            if (grown == NULL) {
                rc = ps_error_set(err, -ENOMEM, name, "does not fit into memory");
                break;
            }
            data = grown;
        }
        size_t most = ps_min_u64(room - 1, TEXT_BYTES_MAX + 1u) - bytes;
        size_t got = fread(data + bytes, 1, most, file);
        bytes += got;
        if (got == 0)
            break;
    }
    if (rc == 0 && ferror(file))
        rc = ps_error_set(err, -errno, name, "cannot read: %s", strerror(errno));
    if (!is_stdin)
        fclose(file);
    if (rc < 0) {
        free(data);
        return rc;
    }
    data[bytes] = '\0';
    *text = data;
    *text_bytes = bytes;
    return 0;
}

/* Steps over white space, commas and the brackets of a JSON array. */
static const char *ids_skip(const char *at)
{
    while (isspace((unsigned char)*at) || *at == ',' || *at == '[' || *at == ']')
        at++;
    return at;
}

int tool_ids_parse(const char *where, const char *text, int32_t **ids, size_t *id_count,
                   struct ps_error *err)
{
    size_t count = 0, room = strlen(text) / 2 + 1; /* an id and what parts it from the next */
    int32_t *list = malloc(room * sizeof(*list));

    if (list == NULL)
        return ps_error_set(err, -ENOMEM, where, "not enough memory for the token ids");
    for (const char *at = ids_skip(text); *at != '\0'; at = ids_skip(at)) {
        char *end;
        errno = 0;
        long value = strtol(at, &end, 10);
        bool parted = *end == '\0' || ids_skip(end) != end;
        if (!isdigit((unsigned char)*at) || errno != 0 || value > INT32_MAX || !parted) {
            free(list);
            return ps_error_set(err, -PS_ERR_ARGUMENT, where,
                                "\"%.24s\" is not a list of token ids such as 1,2,3", at);
        }
        list[count++] = (int32_t)value;
        at = end;
    }
    if (count == 0 && strchr(text, '[') == NULL) {
        free(list);
        return ps_error_set(err, -PS_ERR_ARGUMENT, where, "no token ids were given");
    }
    *ids = list;
    *id_count = count;
    return 0;
}

int tool_ids_text_parse(const char *text, size_t text_bytes, int32_t **ids, size_t *id_count,
                        struct ps_error *err)
{
    if (strlen(text) != text_bytes)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "standard input",
                            "a zero byte is no list of token ids");
    return tool_ids_parse("standard input", text, ids, id_count, err);
}

int tool_ids_fixed(size_t count, uint32_t vocab, int32_t **ids, struct ps_error *err)
{
    uint64_t state = 1;

    *ids = calloc(count, sizeof(**ids));
    if (*ids == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory for the token ids");
    for (size_t i = 0; i < count; i++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
        (*ids)[i] = (int32_t)((state >> 33) % vocab);
    }
    return 0;
}

typedef int64_t tokenize_fn(const struct ps_model *model, const char *text, size_t text_bytes,
                            int32_t *ids, size_t capacity, struct ps_error *err);

static int tokenize(tokenize_fn *fn, const struct ps_model *model, const char *text,
                    size_t text_bytes, int32_t **ids, size_t *id_count, struct ps_error *err)
{
    int64_t count = fn(model, text, text_bytes, NULL, 0, err);
    int32_t *list;

    if (count < 0)
        return (int)count;
    list = malloc(((size_t)count + 1) * sizeof(*list));
    if (list == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory for the token ids");
    count = fn(model, text, text_bytes, list, (size_t)count, err);
    if (count < 0) {
        free(list);
        return (int)count;
    }
    *ids = list;
    *id_count = (size_t)count;
    return 0;
}

int tool_tokenize(const struct ps_model *model, const char *text, size_t text_bytes, int32_t **ids,
                  size_t *id_count, struct ps_error *err)
{
    return tokenize(ps_model_tokenize, model, text, text_bytes, ids, id_count, err);
}

int tool_tokenize_more(const struct ps_model *model, const char *text, size_t text_bytes,
                       int32_t **ids, size_t *id_count, struct ps_error *err)
{
    return tokenize(ps_model_tokenize_more, model, text, text_bytes, ids, id_count, err);
}
