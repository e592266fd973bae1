/* The input of a batch: checked whole before anything is computed, read again line by line. */
#include "tools/batch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#define LINE_BYTES_MAX (64u << 20)
#define BAD_NAMED_MAX 8 /* bad lines named after the first */

/* Bad lines found so far: the first one's fault, and the numbers of some more. */
struct faults {
    struct ps_error first;
    uint32_t first_number;
    size_t count;
    char more[128];
};

static void fault_add(struct faults *faults, uint32_t number, const struct ps_error *err)
{
    size_t used = strlen(faults->more);

    if (faults->count == 0) {
        faults->first = *err;
        faults->first_number = number;
    } else if (faults->count <= BAD_NAMED_MAX) {
        snprintf(faults->more + used, sizeof(faults->more) - used, "%s%u", used ? ", " : "",
                 number);
    }
    faults->count++;
}

static int faults_report(const struct batch_input *input, const struct faults *faults,
                         struct ps_error *err)
{
    if (faults->count == 0)
        return 0;
    if (faults->count == 1)
        return ps_error_set(err, faults->first.code, input->path, "line %u: %s",
                            faults->first_number, faults->first.text);
    return ps_error_set(err, faults->first.code, input->path,
                        "line %u: %s; %zu more lines are bad: %s%s", faults->first_number,
                        faults->first.text, faults->count - 1, faults->more,
                        faults->count > BAD_NAMED_MAX + 1 ? ", ..." : "");
}

static bool is_blank(const char *text, size_t bytes)
{
    return strspn(text, " \t\r\n") >= bytes;
}

static int line_add(struct batch_input *input, const struct batch_line *line, size_t *room,
                    struct ps_error *err)
{
    if (input->line_count == *room) {
        size_t grown_room = 2 * *room + 64;
        struct batch_line *grown = realloc(input->lines, grown_room * sizeof(*grown));
        if (grown == NULL)
            return ps_error_set(err, -ENOMEM, input->path, "not enough memory for its lines");
        input->lines = grown;
        *room = grown_room;
    }
    input->lines[input->line_count++] = *line;
    return 0;
}

/* Checks a line. What is wrong with it goes to faults; < 0 only for what ends the check. */
static int line_check(struct batch_input *input, struct batch_line *line, const char *text,
                      size_t *room, struct faults *faults, struct ps_error *err)
{
    struct batch_request request;
    struct ps_error fault = {0};

    int rc =
        batch_request_parse(&request, input->model, &input->defaults, text, line->bytes, &fault);
    if (rc == -ENOMEM) {
        *err = fault;
        return rc;
    }
    if (rc < 0) {
        fault_add(faults, line->number, &fault);
        return 0;
    }
    line->fingerprint = XXH3_64bits_withSeed(text, line->bytes, input->settings);
    batch_request_fini(&request);
    return line_add(input, line, room, err);
}

static int lines_check(struct batch_input *input, FILE *file, const volatile int *stop,
                       struct ps_error *err)
{
    struct faults faults = {0};
    struct batch_line line = {0};
    size_t text_room = 0, room = 0;
    char *text = NULL;
    ssize_t got;
    int rc = 0;

    while (rc == 0 && (got = getline(&text, &text_room, file)) > 0) {
        size_t bytes = text[got - 1] == '\n' ? (size_t)got - 1 : (size_t)got;
        line.number++;
        line.bytes = (uint32_t)bytes;
        if (*stop)
            rc = ps_error_set(err, -EINTR, NULL, "stopped");
        else if (bytes > LINE_BYTES_MAX)
            fault_add(&faults, line.number,
                      &(struct ps_error){.code = -PS_ERR_ARGUMENT, .text = "longer than 64 MiB"});
        else if (!is_blank(text, bytes))
            rc = line_check(input, &line, text, &room, &faults, err);
        line.offset_bytes += (uint64_t)got;
    }
    if (rc == 0 && ferror(file))
        rc = ps_error_set(err, -errno, input->path, "cannot read: %s", strerror(errno));
    free(text);
    if (rc == 0)
        rc = faults_report(input, &faults, err);
    if (rc == 0 && input->line_count == 0)
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, input->path, "there are no requests in it");
    return rc;
}

int batch_input_open(struct batch_input *input, const char *path, const struct ps_model *model,
                     const struct batch_defaults *defaults, const char *settings,
                     const volatile int *stop, struct ps_error *err)
{
    struct stat st;

    *input = (struct batch_input){.path = path, .model = model, .defaults = *defaults};
    input->settings = XXH3_64bits(settings, strlen(settings));
    input->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (input->fd < 0)
        return ps_error_set(err, -errno, path, "cannot read: %s", strerror(errno));
    if (fstat(input->fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        batch_input_close(input);
        return ps_error_set(err, -PS_ERR_ARGUMENT, path,
                            "is not a plain file; prompts are read more than once, so put them "
                            "into one");
    }
    int fd = dup(input->fd);
    FILE *file = fd >= 0 ? fdopen(fd, "rb") : NULL;
    int rc = file != NULL ? lines_check(input, file, stop, err)
                          : ps_error_set(err, -errno, path, "cannot read: %s", strerror(errno));
    if (file != NULL)
        fclose(file);
    else if (fd >= 0)
        close(fd);
    if (rc < 0)
        batch_input_close(input);
    return rc;
}

void batch_input_close(struct batch_input *input)
{
    if (input->fd >= 0 && input->path != NULL)
        close(input->fd);
    free(input->lines);
    free(input->text);
    *input = (struct batch_input){.fd = -1};
}

int batch_input_read(struct batch_input *input, size_t idx, struct batch_request *request,
                     struct ps_error *err)
{
    const struct batch_line *line = &input->lines[idx];
    size_t done = 0;

    if (input->text_room < line->bytes) {
        char *grown = realloc(input->text, line->bytes);
        if (grown == NULL)
            return ps_error_set(err, -ENOMEM, input->path, "not enough memory for line %u",
                                line->number);
        input->text = grown;
        input->text_room = line->bytes;
    }
    while (done < line->bytes) {
        ssize_t got = pread(input->fd, input->text + done, line->bytes - done,
                            (off_t)(line->offset_bytes + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ps_error_set(err, -errno, input->path, "cannot read: %s", strerror(errno));
        if (got == 0)
            break;
        done += (size_t)got;
    }
    if (done < line->bytes ||
        XXH3_64bits_withSeed(input->text, line->bytes, input->settings) != line->fingerprint)
        return ps_error_set(err, -PS_ERR_ARGUMENT, input->path,
                            "line %u has changed since the batch began", line->number);
    return batch_request_parse(request, input->model, &input->defaults, input->text, line->bytes,
                               err);
}
