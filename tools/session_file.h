/* The file of --session: restored first, replaced when the run is over. */
#ifndef PENSTOCK_TOOLS_SESSION_FILE_H
#define PENSTOCK_TOOLS_SESSION_FILE_H

#include "tools/tool.h"

struct tool_session_file {
    const char *path;       /* NULL: none is kept */
    bool exists;            /* there was one before */
    struct tool_output out; /* of the one after */
};

/* Looks whether the file is there. Anything but a plain file is refused. */
int tool_session_find(struct tool_session_file *file, const char *path, struct ps_error *err);

/* Restores what is there into the session, and opens the output, so that a bad name is found at
 * once. What is not a session is refused here, and so never replaced. */
int tool_session_begin(struct tool_session_file *file, struct ps_session *session,
                       struct ps_error *err);

/* Replaces the file by the session as it is now. */
int tool_session_end(struct tool_session_file *file, const struct ps_session *session,
                     struct ps_error *err);

#endif
