/* --timeline FILE: what drives and threads did, for chrome://tracing and Perfetto. */
#ifndef PENSTOCK_TOOLS_TIMELINE_H
#define PENSTOCK_TOOLS_TIMELINE_H

#include "tools/tool.h"

struct tool_timeline {
    const char *path; /* NULL: none was asked for */
    uint32_t event_count;
    struct tool_output output;
};

/* --timeline and --timeline-events, as an argp child: its input is a struct tool_timeline. */
extern const struct argp tool_timeline_argp;

/* Before the engine is opened: has it record, and opens the file. 0 also where nothing was asked
 * for. */
int tool_timeline_open(struct tool_timeline *timeline, struct ps_engine_options *options,
                       struct ps_error *err);

/* Writes what the engine has recorded, and says on standard error what did not fit. 0 also where
 * nothing was asked for. */
int tool_timeline_write(struct tool_timeline *timeline, struct ps_engine *engine,
                        struct ps_model *model, struct ps_error *err);

/* Removes a file that is not whole. Takes what was not opened. */
void tool_timeline_abandon(struct tool_timeline *timeline);

#endif
