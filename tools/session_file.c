#include "tools/session_file.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/* The library is given an open file, whose name it cannot tell. */
static int named(int rc, const char *path, struct ps_error *err)
{
    if (rc < 0 && err->where[0] == '\0')
        snprintf(err->where, sizeof(err->where), "%s", path);
    return rc;
}

int tool_session_find(struct tool_session_file *file, const char *path, struct ps_error *err)
{
    struct stat st;

    *file = (struct tool_session_file){.path = path};
    if (path == NULL)
        return 0;
    if (stat(path, &st) == 0)
        file->exists = true;
    else if (errno != ENOENT)
        return ps_error_set(err, -errno, path, "cannot read: %s", strerror(errno));
    if (file->exists && !S_ISREG(st.st_mode))
        return ps_error_set(err, -PS_ERR_ARGUMENT, path,
                            "a session is kept in a plain file, which this is not");
    return 0;
}

int tool_session_begin(struct tool_session_file *file, struct ps_session *session,
                       struct ps_error *err)
{
    if (file->path == NULL)
        return 0;
    if (file->exists) {
        FILE *from = fopen(file->path, "rb");
        if (from == NULL)
            return ps_error_set(err, -errno, file->path, "cannot read: %s", strerror(errno));
        int rc = named(ps_session_restore(session, from, err), file->path, err);
        fclose(from);
        if (rc < 0)
            return rc;
    }
    return tool_output_open(&file->out, file->path, err);
}

int tool_session_end(struct tool_session_file *file, const struct ps_session *session,
                     struct ps_error *err)
{
    if (file->path == NULL)
        return 0;
    int rc = named(ps_session_save(session, file->out.file, err), file->path, err);
    return rc < 0 ? rc : tool_output_commit(&file->out, err);
}
