/* Lines of files under /proc and /sys. */
#ifndef PENSTOCK_NVME_PROC_H
#define PENSTOCK_NVME_PROC_H

#include <stdbool.h>
#include <stddef.h>

/* Calls match(ctx, line) for each line of the file, which it may change, until it returns true.
 * False when none matches or the file cannot be read. */
bool ps_proc_any_line(const char *path, bool (*match)(void *ctx, char *line), void *ctx);

/* /proc writes blank, tab, newline and backslash in paths as \ooo: turned back in place. */
void ps_proc_unescape(char *text);

/* First line of a file without surrounding blanks; false when absent, empty or too long. */
bool ps_proc_line(const char *path, char *text, size_t text_bytes);

#endif
