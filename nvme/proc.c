#include "nvme/proc.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool ps_proc_any_line(const char *path, bool (*match)(void *ctx, char *line), void *ctx)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t capacity = 0;
    bool found = false;
    if (file == NULL)
        return false;
    while (!found && getline(&line, &capacity, file) >= 0)
        found = match(ctx, line);
    free(line);
    fclose(file);
    return found;
}

void ps_proc_unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from != 0; from++) {
        unsigned code;
        if (from[0] == '\\' && sscanf(from + 1, "%3o", &code) == 1) {
            *to++ = (char)code;
            from += 3;
        } else {
            *to++ = *from;
        }
    }
    *to = 0;
}

bool ps_proc_line(const char *path, char *text, size_t text_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    char raw[256];
    ssize_t length = read(fd, raw, sizeof(raw) - 1);
    close(fd);
    if (length <= 0)
        return false;
    raw[length] = 0;
    raw[strcspn(raw, "\n")] = 0;
    size_t begin = strspn(raw, " \t");
    size_t end = strlen(raw);
    while (end > begin && (raw[end - 1] == ' ' || raw[end - 1] == '\t'))
        end--;
    if (end == begin || end - begin >= text_bytes)
        return false;
    memcpy(text, raw + begin, end - begin);
    text[end - begin] = 0;
    return true;
}
