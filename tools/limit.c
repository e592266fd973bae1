#include "tools/limit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT "/sys/fs/cgroup"

/* This process's path in the memory controller's tree. */
static int own_path(char *path, size_t path_bytes, bool *is_v1)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[512];
    bool found = false;

    if (!file)
        return -errno;
    while (fgets(line, sizeof(line), file)) {
        char *controllers = strchr(line, ':');
        char *at = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!at)
            continue;
        *at++ = '\0';
        at[strcspn(at, "\n")] = '\0';
        bool v1 = strcmp(controllers, ":memory") == 0;
        if (!v1 && (controllers[1] != '\0' || found))
            continue;
        snprintf(path, path_bytes, "%s", strcmp(at, "/") == 0 ? "" : at);
        *is_v1 = v1;
        found = true;
    }
    fclose(file);
    return found ? 0 : -ENOENT;
}

int tool_limit_make(struct tool_limit *limit)
{
    char path[300];
    int rc = own_path(path, sizeof(path), &limit->is_v1);

    limit->dir[0] = '\0';
    if (rc < 0)
        return rc;
    /* In v2 a group with processes of its own cannot have groups with controllers below it. */
    if (!limit->is_v1 && strrchr(path, '/'))
        *strrchr(path, '/') = '\0';
    snprintf(limit->dir, sizeof(limit->dir), ROOT "%s%s/penstock-bench-%d",
             limit->is_v1 ? "/memory" : "", path, (int)getpid());
    if (mkdir(limit->dir, 0755) == 0)
        return 0;
    rc = -errno;
    limit->dir[0] = '\0';
    return rc;
}

static int write_value(const struct tool_limit *limit, const char *name, uint64_t value)
{
    char path[600], text[32];
    int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)value);

    snprintf(path, sizeof(path), "%s/%s", limit->dir, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = write(fd, text, (size_t)n) == n ? 0 : -errno;
    close(fd);
    return rc;
}

int tool_limit_join(const struct tool_limit *limit)
{
    return write_value(limit, "cgroup.procs", (uint64_t)getpid());
}

int tool_limit_set(const struct tool_limit *limit, uint64_t bytes)
{
    return write_value(limit, limit->is_v1 ? "memory.limit_in_bytes" : "memory.max", bytes);
}

void tool_limit_remove(struct tool_limit *limit)
{
    if (limit->dir[0] != '\0')
        rmdir(limit->dir);
    limit->dir[0] = '\0';
}
