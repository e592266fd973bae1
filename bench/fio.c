#include "fio.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEMBERS_MAX 64
#define COMMON_ARGS 12
#define MEMBER_ARGS 4

/* fio separates several names by colons, so one in a name is escaped. */
static void escape(char *to, size_t to_bytes, const char *path)
{
    size_t n = 0;
    for (; *path && n + 2 < to_bytes; path++) {
        if (*path == ':')
            to[n++] = '\\';
        to[n++] = *path;
    }
    to[n] = '\0';
}

/* Becomes fio; its report goes to `out`. */
static void run_fio(const struct fio_member *members, int member_count, uint64_t block_bytes,
                    uint32_t depth, int seconds, int out)
{
    static char text[COMMON_ARGS + MEMBER_ARGS * MEMBERS_MAX][600];
    char *argv[COMMON_ARGS + MEMBER_ARGS * MEMBERS_MAX + 1];
    int n = 0;

    snprintf(text[n++], sizeof(text[0]), "fio");
    snprintf(text[n++], sizeof(text[0]), "--output-format=json");
    snprintf(text[n++], sizeof(text[0]), "--readonly");
    snprintf(text[n++], sizeof(text[0]), "--rw=randread");
    snprintf(text[n++], sizeof(text[0]), "--ioengine=io_uring");
    snprintf(text[n++], sizeof(text[0]), "--direct=1");
    snprintf(text[n++], sizeof(text[0]), "--bs=%llu", (unsigned long long)block_bytes);
    snprintf(text[n++], sizeof(text[0]), "--iodepth=%u", depth);
    snprintf(text[n++], sizeof(text[0]), "--time_based");
    snprintf(text[n++], sizeof(text[0]), "--runtime=%d", seconds);
    snprintf(text[n++], sizeof(text[0]), "--group_reporting");
    snprintf(text[n++], sizeof(text[0]), "--allow_file_create=0");
    for (int i = 0; i < member_count; i++) {
        char path[560];
        escape(path, sizeof(path), members[i].path);
        snprintf(text[n++], sizeof(text[0]), "--name=member%d", i);
        snprintf(text[n++], sizeof(text[0]), "--filename=%s", path);
        snprintf(text[n++], sizeof(text[0]), "--offset=%llu",
                 (unsigned long long)members[i].begin_bytes);
        snprintf(text[n++], sizeof(text[0]), "--size=%llu",
                 (unsigned long long)(members[i].end_bytes - members[i].begin_bytes));
    }
    for (int i = 0; i < n; i++)
        argv[i] = text[i];
    argv[n] = NULL;
    dup2(out, STDOUT_FILENO);
    execvp(argv[0], argv);
    _exit(errno == ENOENT ? 127 : 126);
}

static int64_t parse_rate(FILE *report)
{
    json_t *root = json_loadf(report, JSON_DISABLE_EOF_CHECK, NULL);
    json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
    json_t *rate = json_object_get(json_object_get(job, "read"), "bw_bytes");
    int64_t bytes = rate ? (int64_t)json_number_value(rate) : -EIO;

    json_decref(root);
    return bytes;
}

int64_t fio_read_rate(const struct fio_member *members, int member_count, uint64_t block_bytes,
                      uint32_t depth, int seconds)
{
    int out[2], status;

    if (member_count > MEMBERS_MAX || pipe2(out, O_CLOEXEC) < 0)
        return -EIO;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        run_fio(members, member_count, block_bytes, depth, seconds, out[1]);
    close(out[1]);
    FILE *report = fdopen(out[0], "r");
    int64_t rate = child > 0 && report ? parse_rate(report) : -EIO;
    if (report)
        fclose(report);
    else
        close(out[0]);
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return -EIO;
    if (WEXITSTATUS(status) == 127)
        return -ENOENT;
    return WEXITSTATUS(status) == 0 ? rate : -EIO;
}
