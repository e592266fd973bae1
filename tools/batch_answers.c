/* The answers of a batch: one line each, appended in one write, in the order of finishing. */
#include "tools/batch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/util.h"

#define SYNC_INTERVAL_NS 1000000000u
#define FINGERPRINT_BYTES 17
#define ANSWER_BYTES_MAX (64u << 20)

static const char prefix[] = "{\"index\": "; /* what every line begins with */

static void fingerprint_text(uint64_t fingerprint, char *text)
{
    snprintf(text, FINGERPRINT_BYTES, "%016" PRIx64, fingerprint);
}

/* The request that a line answers, or -1. */
static int64_t line_index(const struct batch_input *input, const char *text, size_t bytes)
{
    json_t *answer = json_loadb(text, bytes, JSON_ALLOW_NUL, NULL);
    const json_t *index = json_object_get(answer, "index");
    const char *got = json_string_value(json_object_get(answer, "fingerprint"));
    json_int_t idx = json_integer_value(index);
    char want[FINGERPRINT_BYTES] = "";

    bool is_ours = json_is_integer(index) && idx >= 0 && (uint64_t)idx < input->line_count;
    if (is_ours)
        fingerprint_text(input->lines[idx].fingerprint, want);
    is_ours = is_ours && got != NULL && strcmp(got, want) == 0;
    json_decref(answer);
    return is_ours ? (int64_t)idx : -1;
}

/* The beginning of an answer, or the zeroes that a file system may put in its place when the power
 * fails. Zeroes alone are no sign of a batch: they count only behind an answer. */
static bool is_torn(const char *text, size_t bytes, bool is_behind_answer)
{
    size_t compared = bytes < sizeof(prefix) - 1 ? bytes : sizeof(prefix) - 1;

    if (memcmp(text, prefix, compared) == 0)
        return true;
    return is_behind_answer && text[0] == '\0' && memcmp(text, text + 1, bytes - 1) == 0;
}

static int refuse(const struct batch_answers *answers, size_t number, const struct batch_input *in,
                  struct ps_error *err)
{
    return ps_error_set(err, -PS_ERR_WOULD_DESTROY, answers->path,
                        "line %zu is not an answer to a request of %s with this model and these "
                        "options: give those that it was begun with, or name another file",
                        number, in->path);
}

/* One more line, with its end where it has one; what is longer than any answer is left where its
 * length says so. Returns its bytes, 0 at the end of the file, SIZE_MAX for want of memory. */
static size_t line_read(FILE *file, char **text, size_t *room)
{
    size_t bytes = 0;
    int c = 0;

    while (c != '\n' && bytes <= ANSWER_BYTES_MAX && (c = getc_unlocked(file)) != EOF) {
        if (bytes == *room) {
            char *grown = realloc(*text, 2 * *room + 4096);
            if (grown == NULL)
                return SIZE_MAX;
            *text = grown;
            *room = 2 * *room + 4096;
        }
        (*text)[bytes++] = (char)c;
    }
    return bytes;
}

static int answers_read(struct batch_answers *answers, FILE *file, struct batch_input *input,
                        struct ps_error *err)
{
    size_t room = 0, number = 0, got;
    char *text = NULL;
    int rc = 0;

    while (rc == 0 && (got = line_read(file, &text, &room)) > 0) {
        if (got == SIZE_MAX) {
            rc = ps_error_set(err, -ENOMEM, answers->path, "not enough memory for its lines");
            break;
        }
        bool is_whole = text[got - 1] == '\n';
        number++;
        if (!is_whole && got <= ANSWER_BYTES_MAX && is_torn(text, got, number > 1))
            continue; /* the last one: it is cut off */
        int64_t idx = is_whole ? line_index(input, text, got) : -1;
        if (idx < 0) {
            rc = refuse(answers, number, input, err);
            break;
        }
        answers->found_count += !input->lines[idx].is_done;
        input->lines[idx].is_done = true;
        answers->bytes += got;
    }
    if (rc == 0 && ferror(file))
        rc = ps_error_set(err, -errno, answers->path, "cannot read: %s", strerror(errno));
    free(text);
    return rc;
}

static int file_take(struct batch_answers *answers, struct ps_error *err)
{
    struct ps_member_peek peek;
    struct stat st;

    if (ps_member_peek(answers->path, &peek) == 0)
        return ps_error_set(err, -PS_ERR_WOULD_DESTROY, answers->path,
                            "this is a member of a volume; name another file");
    answers->fd = open(answers->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);
    if (answers->fd < 0)
        return ps_error_set(err, -errno, answers->path, "cannot write: %s", strerror(errno));
    if (fstat(answers->fd, &st) != 0 || !S_ISREG(st.st_mode))
        return ps_error_set(err, -PS_ERR_ARGUMENT, answers->path,
                            "is not a plain file, which answers must be read back from");
    if (flock(answers->fd, LOCK_EX | LOCK_NB) != 0)
        return ps_error_set(err, -EBUSY, answers->path, "another batch is writing to it");
    return 0;
}

int batch_answers_open(struct batch_answers *answers, const char *path, struct batch_input *input,
                       struct ps_error *err)
{
    *answers = (struct batch_answers){.path = path, .fd = -1};
    int rc = file_take(answers, err);
    int fd = rc == 0 ? dup(answers->fd) : -1;
    FILE *file = fd >= 0 ? fdopen(fd, "rb") : NULL;

    if (rc == 0 && file == NULL)
        rc = ps_error_set(err, -errno, path, "cannot read: %s", strerror(errno));
    if (rc == 0)
        rc = answers_read(answers, file, input, err);
    if (file != NULL)
        fclose(file);
    else if (fd >= 0)
        close(fd);
    if (rc == 0 && ftruncate(answers->fd, (off_t)answers->bytes) != 0)
        rc = ps_error_set(err, -errno, path, "cannot write: %s", strerror(errno));
    if (rc < 0)
        batch_answers_close(answers);
    return rc;
}

void batch_answers_close(struct batch_answers *answers)
{
    if (answers->fd >= 0 && answers->path != NULL)
        close(answers->fd);
    *answers = (struct batch_answers){.fd = -1};
}

/* Behind the whole lines, so that a line of which a full disk took only a part is written over. */
static int line_write(struct batch_answers *answers, const char *text, size_t bytes,
                      struct ps_error *err)
{
    size_t done = 0;

    while (done < bytes) {
        ssize_t put =
            pwrite(answers->fd, text + done, bytes - done, (off_t)(answers->bytes + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            int code = put < 0 ? -errno : -EIO;
            if (ftruncate(answers->fd, (off_t)answers->bytes) != 0)
                code = -errno;
            return ps_error_set(err, code, answers->path, "cannot write: %s", strerror(-code));
        }
        done += (size_t)put;
    }
    answers->bytes += bytes;
    answers->is_dirty = true;
    return 0;
}

int batch_answers_add(struct batch_answers *answers, const struct batch_input *input, size_t idx,
                      json_t *rest, struct ps_error *err)
{
    char fingerprint[FINGERPRINT_BYTES];

    fingerprint_text(input->lines[idx].fingerprint, fingerprint);
    json_t *answer = json_pack("{s:I, s:s}", "index", (json_int_t)idx, "fingerprint", fingerprint);
    bool is_whole = answer != NULL && rest != NULL && json_object_update(answer, rest) == 0;
    char *text = is_whole ? json_dumps(answer, JSON_REAL_PRECISION(9)) : NULL;
    size_t bytes = text == NULL ? 0 : strlen(text);
    json_decref(answer);
    json_decref(rest);
    if (text == NULL)
        return ps_error_set(err, -ENOMEM, answers->path, "not enough memory for an answer");
    text[bytes] = '\n'; /* in place of the end: what is written has a length */
    int rc = line_write(answers, text, bytes + 1, err);
    free(text);
    if (rc == 0 && ps_now_ns() - answers->synced_ns >= SYNC_INTERVAL_NS)
        rc = batch_answers_sync(answers, err);
    return rc;
}

int batch_answers_sync(struct batch_answers *answers, struct ps_error *err)
{
    answers->synced_ns = ps_now_ns();
    if (!answers->is_dirty)
        return 0;
    answers->is_dirty = false;
    if (fdatasync(answers->fd) != 0)
        return ps_error_set(err, -errno, answers->path, "cannot write: %s", strerror(errno));
    return 0;
}
