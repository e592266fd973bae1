/*
 * The files of penstock batch: a request from a line of input (batch_line.c), the lines of an input
 * (batch_input.c), the answers written so far (batch_answers.c).
 */
#ifndef PENSTOCK_TOOLS_BATCH_H
#define PENSTOCK_TOOLS_BATCH_H

#include "tools/tool.h"

#define BATCH_STOP_COUNT_MAX 4

/* What lines that do not say otherwise are answered with. */
struct batch_defaults {
    uint32_t max_tokens;
    struct tool_sampling sampling;
};

/* One request. Owned: release with batch_request_fini. */
struct batch_request {
    json_t *id; /* the line's "id" or "custom_id", or NULL */
    int32_t *prompt;
    size_t prompt_count;
    bool from_ids; /* the prompt was given as token ids */
    uint32_t max_tokens;
    struct ps_sampling sampling;
    bool has_seed;
    char *stops[BATCH_STOP_COUNT_MAX]; /* texts that end the answer */
    int stop_count;
};

/*
 * Reads a line, a JSON object, and turns its prompt into ids. On error err->text says what is wrong
 * with it: -PS_ERR_ARGUMENT and those of ps_model_tokenize and ps_model_chat.
 */
int batch_request_parse(struct batch_request *request, const struct ps_model *model,
                        const struct batch_defaults *defaults, const char *line, size_t line_bytes,
                        struct ps_error *err);
void batch_request_fini(struct batch_request *request);

/* ---- input -------------------------------------------------------------------------------------
 */

struct batch_line {
    uint64_t offset_bytes, fingerprint; /* of the line and of what it is answered with */
    uint32_t bytes, number;             /* number: in the file, from 1 */
    bool is_done;
};

struct batch_input {
    const char *path;
    const struct ps_model *model;
    struct batch_defaults defaults;
    uint64_t settings; /* goes into every fingerprint */
    int fd;
    struct batch_line *lines; /* [line_count], blank lines left out */
    size_t line_count;
    char *text; /* of the line read last */
    size_t text_room;
};

/*
 * Opens the file, which must be one that can be read again, and checks every line, of which only
 * what struct batch_line has stays in memory. path, model and what they point to must outlive it;
 * settings: what else the answers depend on. All bad lines are named in one error, the first one's
 * fault in full. -EINTR when *stop is set.
 */
int batch_input_open(struct batch_input *input, const char *path, const struct ps_model *model,
                     const struct batch_defaults *defaults, const char *settings,
                     const volatile int *stop, struct ps_error *err);
void batch_input_close(struct batch_input *input);

/* Reads a line again. -PS_ERR_ARGUMENT when it has changed since. */
int batch_input_read(struct batch_input *input, size_t idx, struct batch_request *request,
                     struct ps_error *err);

/* ---- answers -----------------------------------------------------------------------------------
 */

struct batch_answers {
    const char *path;
    int fd;
    uint64_t bytes; /* of whole lines */
    uint64_t synced_ns;
    bool is_dirty;
    size_t found_count; /* that were there already */
};

/*
 * Opens or makes the file and marks the lines of the input that are answered in it. An answer that
 * was being written when its writer was killed is cut off. A file with anything but answers to this
 * input in it is refused and left as it is, as is one that another batch writes.
 */
int batch_answers_open(struct batch_answers *answers, const char *path, struct batch_input *input,
                       struct ps_error *err);
void batch_answers_close(struct batch_answers *answers);

/*
 * Appends the answer to a line: its index and fingerprint, then the fields of `rest`, which it
 * releases. Synchronised to the disk at most once a second; batch_answers_sync does the rest.
 */
int batch_answers_add(struct batch_answers *answers, const struct batch_input *input, size_t idx,
                      json_t *rest, struct ps_error *err);
int batch_answers_sync(struct batch_answers *answers, struct ps_error *err);

#endif
