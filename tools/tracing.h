/* Traces as the command makes them: recorded from a model, or imported. */
#ifndef PENSTOCK_TOOLS_TRACING_H
#define PENSTOCK_TOOLS_TRACING_H

#include "model/penstock.h"
#include "model/trace.h"

#define TOOL_TRACE_DEPTHS 3u /* layers that the predictors look ahead */

struct tool_record_options {
    const char *file, *out; /* the text, and the trace */
    bool are_ids;           /* the text is token ids */
    uint32_t window;        /* tokens of a sequence; the last may be shorter */
    uint64_t tokens_max;    /* of the text; 0 = all */
    uint32_t rank_count;    /* of each guess; at most the model's experts; 0 = none recorded */
    uint32_t experts_used;
    bool hidden;
};

/* What was chosen, and how much of it stood in the guesses; index of depths: the depth, from 0. */
struct tool_record_report {
    uint64_t tokens, bytes;
    uint64_t chosen[TOOL_TRACE_DEPTHS + 1];   /* in layers for which there was a guess */
    uint64_t found_k[TOOL_TRACE_DEPTHS + 1];  /* of them among the first k guessed */
    uint64_t found_2k[TOOL_TRACE_DEPTHS + 1]; /* and among the first 2k */
    uint32_t layer_count, experts_used,
        rank_2k; /* rank_2k: 2k, or all experts if those are fewer */
};

/* Evaluates the text and writes its trace. Blocks. Errors: those of the session and of the trace.
 */
int tool_trace_record(const struct tool_record_options *options, struct ps_model *model,
                      struct ps_session *session, struct tool_record_report *report,
                      struct ps_error *err);

/* Which form an imported trace has. */
enum tool_trace_form { TOOL_TRACE_AUTO, TOOL_TRACE_PAIRS, TOOL_TRACE_LAYERS, TOOL_TRACE_CSV };

/* The form of that name, or -1. */
int tool_trace_form_find(const char *name);

struct tool_import_options {
    const char *file, *out;
    enum tool_trace_form form;
    const char *model;     /* its name; NULL: the source's, or none */
    uint32_t expert_count; /* of each layer; 0: the source's, or one more than the highest seen */
    uint64_t expert_bytes; /* of each; 0: the source's, or not known */
};

/* Reads another project's trace and writes ours. -PS_ERR_FORMAT names the line. Fills *info but for
 * its arrays. */
int tool_trace_import(const struct tool_import_options *options, struct ps_trace_info *info,
                      struct ps_error *err);

#endif
