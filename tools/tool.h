/*
 * What the subcommands share: errors, options, output files, numbers as text, progress, Ctrl-C.
 *
 * Exit status: 0 done; 1 failed, with one sentence "penstock: WHERE: TEXT" on standard error; 2
 * wrong usage (argp prints it); 128 + signal when the user stopped it. Results go to standard
 * output, everything else to standard error.
 */
#ifndef PENSTOCK_TOOLS_TOOL_H
#define PENSTOCK_TOOLS_TOOL_H

#include <argp.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "model/penstock.h"

/* ---- the subcommands: each parses its own arguments and returns the exit status ----------------
 */

int cmd_layout(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_scrub(int argc, char **argv);
int cmd_rebalance(int argc, char **argv);
int cmd_wipe(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_batch(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_perplexity(int argc, char **argv);
int cmd_quality(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_trace(int argc, char **argv);
int cmd_train_predictor(int argc, char **argv);
int cmd_drives(int argc, char **argv);
int cmd_probe(int argc, char **argv);
int cmd_replay(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_bench_io(int argc, char **argv);
int cmd_bench_modes(int argc, char **argv);
int cmd_bench_decode(int argc, char **argv);
int cmd_bench_kernel(int argc, char **argv);

/* ---- speaking (common.c) -----------------------------------------------------------------------
 */

/* The volume or file that the command is about: where an error is that does not say so itself. */
void tool_subject_set(const char *path);

/* Prints the error's sentence to standard error. Returns 1, the exit status. */
int tool_fail(const struct ps_error *err);

/* As tool_fail, for a failure found here. where may be NULL. */
int tool_fail_text(const char *where, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Makes the libraries' log go to standard error: warnings and errors, or all of it. */
void tool_log_start(bool verbose);

/* Prints the object and a newline to standard output and releases it. Returns the exit status. */
int tool_json_print(json_t *json);
/* The same to another stream. */
int tool_json_write(FILE *file, json_t *json);

/* The bytes of the UTF-8 character at `at`, not the end of a text; 0 if there is none. */
size_t tool_character_bytes(const char *at);

/* Whether there is a control character at `at`, in UTF-8 up to U+009F. */
bool tool_is_control(const char *at);

/* A name that may be any bytes, for people: '?' for control characters; blanks behind it up
 * to a width. */
void tool_text_print(FILE *to, const char *text, int width);

/* A name as a JSON text. A path may be any bytes: what is not UTF-8 becomes U+FFFD. NULL: no
 * memory.
 */
json_t *tool_json_text(const char *text);

/* 12345678 as "12,345,678". Returns buf, which must hold 32 bytes. */
const char *tool_count_text(uint64_t count, char *buf);

/* Nanoseconds as "40 ms", "2.5 s", "2 min 05 s" or "3 h 12 min". Returns buf, which must hold 32
 * bytes. */
const char *tool_time_text(uint64_t ns, char *buf);

/* Nanoseconds as "85 us", "1.25 ms" or "12.5 ms", for the time that one read takes. Returns buf,
 * which must hold 32 bytes. */
const char *tool_latency_text(uint64_t ns, char *buf);

/* Says on standard error that a measurement read nothing but zeroes, and what that means. */
void tool_warn_blank(const char *path);

/* What part of a volume's data lies on a member, 0 to 1. */
double tool_member_share(const struct ps_volume *volume, int member);

/* count per second, 0 when no time has passed. */
double tool_rate(uint64_t count, uint64_t ns);

/* A progress line on standard error, drawn only when that is a terminal. */
struct tool_progress {
    const char *verb; /* "reading" */
    bool shown, drawn;
    bool counts_ns;       /* set after init: what is done is time, not bytes */
    uint64_t begin_bytes; /* done when the first call came: a resumed layout does not start at 0 */
    uint64_t begin_ns, drawn_ns;
};
void tool_progress_init(struct tool_progress *progress, const char *verb);
/* Has the shape of the libraries' progress callbacks; ctx is the struct tool_progress. */
void tool_progress_step(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
/* A line of the caller's own, in its place. */
void tool_progress_text(struct tool_progress *progress, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Clears the line. */
void tool_progress_end(struct tool_progress *progress);

/* ---- stopping (common.c) -----------------------------------------------------------------------
 */

/*
 * From now on the first SIGINT or SIGTERM sets the flag that is returned; another one, a moment
 * later, ends the process as usual.
 */
const volatile int *tool_stop_flag(void);

/* 0, or 128 + the signal that came. */
int tool_stop_status(void);

/* The exit status after an error, which is printed unless a signal was the cause. */
int tool_end(int rc, const struct ps_error *err);

/* ---- input and output (output.c) ---------------------------------------------------------------
 */

/* A file that appears under its name only when it is whole. Devices and pipes are written directly.
 */
struct tool_output {
    FILE *file;
    const char *name; /* as the user gave it */
    char *path, *temp_path;
};
int tool_output_open(struct tool_output *out, const char *path, struct ps_error *err);
/* Flushes, syncs and renames; the output is closed either way. */
int tool_output_commit(struct tool_output *out, struct ps_error *err);
/* Closes and removes what was written so far. Takes an output that is not open. */
void tool_output_abandon(struct tool_output *out);

/* Where to speak of a result that goes to `path` (NULL: to no file): standard output, or standard
 * error where that is what the result itself goes to. */
FILE *tool_report_file(const char *path);

/* A file that the user named. */
struct tool_name {
    const char *option, *path; /* path NULL: not given; "-": standard input, or output */
    bool is_input;
};

/* Refuses names of which one file would be written for two, or written over what is read:
 * -PS_ERR_ARGUMENT. To be called before any work. Pipes and devices may be named twice. */
int tool_names_check(const struct tool_name *names, size_t count, struct ps_error *err);

/* The same for --out beside inputs that all go by one argument's name. */
int tool_inputs_check(const char *option, const char *const *inputs, int input_count,
                      const char *output, struct ps_error *err);

/* Reads a whole file ("-": standard input). *text is malloc'd, 0-terminated, owned by the caller.
 */
int tool_text_read(const char *path, char **text, size_t *text_bytes, struct ps_error *err);

/*
 * "1,2,3", "[1, 2, 3]" or ids apart by white space. *ids is malloc'd, owned by the caller. An empty
 * list is an error unless it is "[]". where: for the error. -PS_ERR_ARGUMENT.
 */
int tool_ids_parse(const char *where, const char *text, int32_t **ids, size_t *id_count,
                   struct ps_error *err);

/* The same for what was read from standard input, in which a zero byte is refused. */
int tool_ids_text_parse(const char *text, size_t text_bytes, int32_t **ids, size_t *id_count,
                        struct ps_error *err);

/* The same `count` ids every time, from a fixed sequence over the vocabulary, for measurements.
 * *ids is malloc'd, owned by the caller. */
int tool_ids_fixed(size_t count, uint32_t vocab, int32_t **ids, struct ps_error *err);

/* Text to ids; *ids is malloc'd, owned by the caller. */
int tool_tokenize(const struct ps_model *model, const char *text, size_t text_bytes, int32_t **ids,
                  size_t *id_count, struct ps_error *err);
/* Text that goes on with a session. */
int tool_tokenize_more(const struct ps_model *model, const char *text, size_t text_bytes,
                       int32_t **ids, size_t *id_count, struct ps_error *err);

/* ---- options (options.c) -----------------------------------------------------------------------
 */

/* A whole decimal number in [min, max], or wrong usage: argp_error names the option. */
uint64_t tool_number(struct argp_state *state, const char *option, const char *text, uint64_t min,
                     uint64_t max);
double tool_real(struct argp_state *state, const char *option, const char *text, double min,
                 double max);
/* A size such as 24G, or wrong usage. */
uint64_t tool_size(struct argp_state *state, const char *option, const char *text);

/* The name of an I/O engine, or wrong usage. */
void tool_engine_check(struct argp_state *state, const char *option, const char *name);

/* VOLUME... and --member PATH, as an argp child: its input is a struct tool_volume. */
struct tool_volume {
    const char *paths[PS_MEMBER_COUNT_MAX]; /* VOLUME... first, then what --member added */
    int path_count, named_count;
    bool verbose;
    bool optional; /* set before parsing: no volume need be named */
};
extern const struct argp tool_volume_argp;

/*
 * --memory, --ctx, --io, --threads, --activations, --chunk, --experts-used, as an argp child: its
 * input is a struct ps_engine_options.
 */
extern const struct argp tool_engine_argp;

/* --temp, --top-k, --top-p, --min-p, --repeat-penalty and --seed, as an argp child: its input is a
 * struct tool_sampling. Begins as TOOL_SAMPLING_OWN: the model's own settings. */
struct tool_sampling {
    double temperature, top_p, min_p, repeat_penalty; /* NaN: the model's own */
    int64_t top_k;                                    /* < 0: the model's own */
    uint64_t seed;
    bool has_seed;
};
#define TOOL_SAMPLING_OWN                                                                          \
    {                                                                                              \
        .temperature = NAN, .top_p = NAN, .min_p = NAN, .repeat_penalty = NAN, .top_k = -1         \
    }
extern const struct argp tool_sampling_argp;

/* Puts what was asked for over the settings in *sampling, the seed among it. */
void tool_sampling_apply(const struct tool_sampling *asked, struct ps_sampling *sampling);

/* A random seed that survives as a JSON number in every reader. */
uint64_t tool_seed_make(void);

/* The children of a command that runs a volume: tool_volume_argp, then tool_engine_argp. */
extern const struct argp_child tool_run_children[];

/* Opens the model and starts the log. */
int tool_model_open(struct ps_model **model, const struct tool_volume *volume,
                    struct ps_error *err);

/*
 * Opens the engine and a session on it, with a notice on a terminal while the weights are read.
 * Says that --experts-used changes the output.
 */
int tool_engine_open(struct ps_engine **engine, struct ps_session **session, struct ps_model *model,
                     const struct ps_engine_options *options, struct ps_error *err);

/* ---- checking (check.c) ------------------------------------------------------------------------
 */

/* Opens the volume, verifies it and prints what is bad and how far it came. options: rate, threads
 * and stop. Returns the exit status. */
int tool_check(const struct tool_volume *paths, const struct ps_verify_options *options, bool json);

/* ---- statistics (stats.c) ----------------------------------------------------------------------
 */

/* The statistics of docs/commands.md. NULL when memory is short. */
json_t *tool_stats_json(const struct ps_engine_stats *stats);

/* The same, for people, on standard error. */
void tool_stats_print(const struct ps_engine_stats *stats);

#endif
