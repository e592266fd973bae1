/* Profile files: what `penstock probe` has measured, as JSON (docs/commands.md). */
#ifndef PENSTOCK_TOOLS_PROFILE_H
#define PENSTOCK_TOOLS_PROFILE_H

#include <jansson.h>

#include "model/penstock.h"

/* One file or drive that was probed. */
struct tool_probed {
    const char *path; /* as it was named */
    struct ps_drive_info drive;
    bool has_drive; /* drive is filled */
    struct ps_probe_result probe;
};

/* The content of a profile file. NULL when memory is short. */
json_t *tool_profile_json(const struct tool_probed *probed, int count);

/* Writes one to an open file. -EIO when that failed, with a sentence. */
int tool_profile_write(FILE *file, const char *name, const struct tool_probed *probed, int count,
                       struct ps_error *err);

/*
 * Reads a profile file and finds each member in it: by its path, else by its PARTUUID, else by the
 * serial number of the drive that it is or lies on. profiles: [member_count].
 * Errors: -errno of reading; -PS_ERR_FORMAT (not a profile file); -PS_ERR_MEMBER (text names the
 * members that are not in it).
 */
int tool_profile_read(const char *path, const char *const *members, int member_count,
                      struct ps_member_profile *profiles, struct ps_error *err);

/* The same of all members that a profile file speaks of, in its order. profiles:
 * [PS_MEMBER_COUNT_MAX]. Returns how many. */
int tool_profile_read_all(const char *path, struct ps_member_profile *profiles,
                          struct ps_error *err);

/*
 * Reads all that a profile file says of the drives in it, in its order, into probes[capacity].
 * Returns how many. Errors: -errno of reading; -PS_ERR_FORMAT (no profile file, or without points);
 * -PS_ERR_ARGUMENT (more than capacity).
 */
int tool_profile_probes(const char *path, struct ps_probe_result *probes, int capacity,
                        struct ps_error *err);

/*
 * What is known of the drives that the members are or lie on, for a cut by their speed: from the
 * profile file, or, with file NULL, measured now for about a second each, which says on standard
 * error what follows. What is resumed is cut as it was begun: nothing is measured for it, and a
 * file counts only if nothing was begun. Returns 1; 0 when there is nothing to tell apart (one
 * member, one drive, one file system), or a drive cannot be measured, of which it says so; -EINTR
 * when stopped; errors of tool_profile_read.
 */
int tool_profile_get(const char *file, bool resume, const char *const *members, int member_count,
                     struct ps_member_profile *profiles, struct ps_error *err);

#endif
