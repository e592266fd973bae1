/* A memory cgroup (v1 or v2) for one child, so that its page cache is limited, too. */
#ifndef PENSTOCK_TOOLS_LIMIT_H
#define PENSTOCK_TOOLS_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

struct tool_limit {
    char dir[512]; /* of the group; empty: there is none */
    bool is_v1;
};

/* Makes a group beside or under this process's own. Returns 0, or -errno (needs root or
 * delegation).
 */
int tool_limit_make(struct tool_limit *limit);

/* Moves the calling process into the group; sets the group's limit. 0 or -errno. */
int tool_limit_join(const struct tool_limit *limit);
int tool_limit_set(const struct tool_limit *limit, uint64_t bytes);

/* Removes the group once its processes have ended. Takes an empty one. */
void tool_limit_remove(struct tool_limit *limit);

#endif
