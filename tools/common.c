#include "tools/tool.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/budget.h"
#include "core/util.h"

#define PROGRESS_INTERVAL_NS 100000000u
#define STOP_PATIENCE_NS 300000000u
#define PROGRESS_SETTLE_NS 1000000000u /* no estimate of the time left before this */

static const char *subject; /* what a sentence is about that does not say so itself */

/* A progress line is on the terminal: a sentence clears it first. */
static bool line_drawn;

static void line_clear(void)
{
    if (line_drawn)
        fputs("\r\033[K", stderr);
    line_drawn = false;
}

void tool_subject_set(const char *path)
{
    subject = path;
}

/* Names in sentences come from files that may be hostile, and from a command line that may hold
 * anything: no control character of theirs reaches the terminal or breaks the line. */
static void line_print(const char *where, const char *text)
{
    const char *parts[] = {"penstock: ", where, where[0] != '\0' ? ": " : "", text};

    line_clear();
    flockfile(stderr);
    for (size_t i = 0; i < PS_ARRAY_LEN(parts); i++) {
        for (const char *at = parts[i]; *at != '\0'; at++)
            putc_unlocked(iscntrl((unsigned char)*at) ? '?' : *at, stderr);
    }
    putc_unlocked('\n', stderr);
    funlockfile(stderr);
}

int tool_fail(const struct ps_error *err)
{
    const char *where = err->where[0] != '\0' || subject == NULL ? err->where : subject;

    line_print(where, err->text[0] != '\0' ? err->text : ps_strerror(err->code));
    return 1;
}

int tool_fail_text(const char *where, const char *fmt, ...)
{
    struct ps_error err = {.code = -PS_ERR_ARGUMENT};
    va_list args;

    if (where != NULL)
        snprintf(err.where, sizeof(err.where), "%s", where);
    va_start(args, fmt);
    vsnprintf(err.text, sizeof(err.text), fmt, args);
    va_end(args);
    return tool_fail(&err);
}

static void log_print(void *ctx, enum ps_log_level level, const char *text)
{
    const bool *verbose = ctx;
    if (level <= PS_LOG_WARN || *verbose)
        line_print("", text);
}

void tool_log_start(bool verbose)
{
    static bool log_verbose;
    log_verbose = verbose;
    ps_log_set(log_print, &log_verbose);
}

int tool_json_print(json_t *json)
{
    return tool_json_write(stdout, json);
}

int tool_json_write(FILE *file, json_t *json)
{
    if (json == NULL)
        return tool_fail_text(NULL, "not enough memory for the JSON output");
    json_dumpf(json, file, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    fputc('\n', file);
    json_decref(json);
    return 0; /* a failed write is found when main closes standard output */
}

size_t tool_character_bytes(const char *at)
{
    for (size_t n = 1, most = strnlen(at, 4); n <= most; n++) {
        json_t *json = json_stringn(at, n);
        json_decref(json);
        if (json != NULL)
            return n;
    }
    return 0;
}

bool tool_is_control(const char *at)
{
    unsigned char c = (unsigned char)*at;

    return c < 0x20 || c == 0x7F || (c == 0xC2 && (at[1] & 0xE0) == 0x80);
}

void tool_text_print(FILE *to, const char *text, int width)
{
    for (size_t n; *text != '\0'; text += n, width--) {
        n = tool_character_bytes(text);
        n = n > 0 ? n : 1;
        if (tool_is_control(text))
            fputc('?', to);
        else
            fwrite(text, 1, n, to);
    }
    for (; width > 0; width--)
        fputc(' ', to);
}

json_t *tool_json_text(const char *text)
{
    static const char unknown[] = "\xEF\xBF\xBD";
    json_t *json = json_string(text);
    char *valid = json == NULL ? malloc(strlen(text) * strlen(unknown) + 1) : NULL;
    size_t bytes = 0;

    if (valid == NULL)
        return json;
    while (*text != '\0') {
        size_t n = tool_character_bytes(text);
        const char *from = n > 0 ? text : unknown;
        size_t from_bytes = n > 0 ? n : strlen(unknown);
        memcpy(valid + bytes, from, from_bytes);
        bytes += from_bytes;
        text += n > 0 ? n : 1;
    }
    json = json_stringn(valid, bytes);
    free(valid);
    return json;
}

const char *tool_count_text(uint64_t count, char *buf)
{
    char digits[24];
    int len = snprintf(digits, sizeof(digits), "%" PRIu64, count);
    char *out = buf;

    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            *out++ = ',';
        *out++ = digits[i];
    }
    *out = '\0';
    return buf;
}

const char *tool_time_text(uint64_t ns, char *buf)
{
    double seconds = (double)ns / 1e9;
    uint64_t whole = (uint64_t)(seconds + 0.5);

    if (seconds < 0.95)
        snprintf(buf, 32, "%.0f ms", seconds * 1e3);
    else if (seconds < 9.95)
        snprintf(buf, 32, "%.1f s", seconds);
    else if (whole < 60)
        snprintf(buf, 32, "%" PRIu64 " s", whole);
    else if (whole < 3600)
        snprintf(buf, 32, "%" PRIu64 " min %02" PRIu64 " s", whole / 60, whole % 60);
    else
        snprintf(buf, 32, "%" PRIu64 " h %02" PRIu64 " min", whole / 3600, whole % 3600 / 60);
    return buf;
}

const char *tool_latency_text(uint64_t ns, char *buf)
{
    double us = (double)ns / 1e3;

    if (us < 999.5)
        snprintf(buf, 32, "%.0f us", us);
    else if (us < 9995)
        snprintf(buf, 32, "%.2f ms", us / 1e3);
    else if (us < 99950)
        snprintf(buf, 32, "%.1f ms", us / 1e3);
    else
        snprintf(buf, 32, "%.0f ms", us / 1e3);
    return buf;
}

void tool_warn_blank(const char *path)
{
    line_print(path, "only zeroes were read: a drive answers reads of space that was never written "
                     "without touching its flash, so its true bandwidth may be lower");
}

double tool_member_share(const struct ps_volume *volume, int member)
{
    uint64_t sum = 0, own = 0;

    for (int i = 0; i < ps_volume_member_count(volume); i++) {
        struct ps_member_info info;
        ps_volume_member(volume, i, &info);
        own = i == member ? info.data_end_bytes - info.data_begin_bytes : own;
        sum += info.data_end_bytes - info.data_begin_bytes;
    }
    return sum == 0 ? 0 : (double)own / (double)sum;
}

double tool_rate(uint64_t count, uint64_t ns)
{
    return ns == 0 ? 0 : (double)count * 1e9 / (double)ns;
}

void tool_progress_init(struct tool_progress *progress, const char *verb)
{
    *progress = (struct tool_progress){.verb = verb, .shown = isatty(STDERR_FILENO) == 1};
}

void tool_progress_step(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct tool_progress *progress = ctx;
    uint64_t now = ps_now_ns();
    char done[32], total[32], left[32];

    if (!progress->shown)
        return;
    if (progress->begin_ns == 0) {
        progress->begin_ns = now;
        progress->begin_bytes = done_bytes;
        progress->drawn_ns = now;
    }
    if (now - progress->drawn_ns < PROGRESS_INTERVAL_NS)
        return;
    progress->drawn_ns = now;
    line_drawn = true;

    if (progress->counts_ns) {
        fprintf(stderr, "\r%s  %.0f %%\033[K", progress->verb,
                total_bytes == 0 ? 100.0 : 100.0 * (double)done_bytes / (double)total_bytes);
        return;
    }
    uint64_t passed_ns = now - progress->begin_ns;
    double rate = tool_rate(done_bytes - progress->begin_bytes, passed_ns);
    fprintf(stderr, "\r%s  %s of %s  %.0f %%  %.2f GB/s", progress->verb,
            ps_size_text(done_bytes, done, sizeof(done)),
            ps_size_text(total_bytes, total, sizeof(total)),
            total_bytes == 0 ? 100.0 : 100.0 * (double)done_bytes / (double)total_bytes,
            rate / 1e9);
    if (passed_ns >= PROGRESS_SETTLE_NS && rate > 0) {
        double left_ns = (double)(total_bytes - done_bytes) / rate * 1e9;
        fprintf(stderr, "  %s left", tool_time_text((uint64_t)left_ns, left));
    }
    fputs("\033[K", stderr);
}

void tool_progress_text(struct tool_progress *progress, const char *fmt, ...)
{
    va_list args;

    if (!progress->shown)
        return;
    line_drawn = true;
    fputs("\r", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputs("\033[K", stderr);
}

void tool_progress_end(struct tool_progress *progress)
{
    line_clear();
    progress->shown = false;
}

static volatile int stop_flag;
static volatile sig_atomic_t stop_signal;
static uint64_t stop_ns;

/*
 * One request to stop may arrive as two signals: timeout(1) sends one to the process and one to its
 * group. So only a second one that comes later means that the user has lost patience.
 */
static void stop_handle(int signal_number)
{
    uint64_t now = ps_now_ns();

    if (stop_flag != 0) {
        if (now - stop_ns > STOP_PATIENCE_NS) {
            signal(signal_number, SIG_DFL);
            raise(signal_number); /* delivered when this handler returns */
        }
        return;
    }
    stop_ns = now;
    stop_signal = signal_number;
    stop_flag = 1;
}

const volatile int *tool_stop_flag(void)
{
    struct sigaction action = {.sa_handler = stop_handle};

    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return &stop_flag;
}

int tool_stop_status(void)
{
    return stop_signal == 0 ? 0 : 128 + stop_signal;
}

int tool_end(int rc, const struct ps_error *err)
{
    return rc == -EINTR && tool_stop_status() != 0 ? tool_stop_status() : tool_fail(err);
}
