#include "tools/timeline.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/timeline.h"
#include "core/util.h"

#define EVENTS_DEFAULT (512u << 10)
#define EVENTS_MAX (256u << 20)
/* Reads of one drive that overlap stand in rows of their own; more than a drive's queue holds. */
#define ROW_COUNT 160u
/* Processes and threads of the format: what a track is filed under. */
#define PID_COMPUTE 1
#define TID_MAIN 0
#define TID_THREADS 1 /* and so on */
#define TID_READER 1000
#define PID_DRIVES 10 /* and so on */

/* ---- options --------------------------------------------------------------------------------- */

enum { KEY_TIMELINE = 0x300, KEY_TIMELINE_EVENTS };

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct tool_timeline *timeline = state->input;

    switch (key) {
    case KEY_TIMELINE:
        timeline->path = arg;
        return 0;
    case KEY_TIMELINE_EVENTS:
        timeline->event_count =
            (uint32_t)tool_number(state, "--timeline-events", arg, 1, EVENTS_MAX);
        return 0;
    case ARGP_KEY_END:
        if (timeline->event_count != 0 && timeline->path == NULL)
            argp_error(state, "--timeline-events needs --timeline FILE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"timeline", KEY_TIMELINE, "FILE", 0,
     "write what every drive and thread did to FILE, for chrome://tracing or Perfetto", 0},
    {"timeline-events", KEY_TIMELINE_EVENTS, "N", 0,
     "room for N events of the timeline, within --memory (524288, 20 MiB)", 0},
    {0}};
const struct argp tool_timeline_argp = {.options = options, .parser = parse};

int tool_timeline_open(struct tool_timeline *timeline, struct ps_engine_options *engine,
                       struct ps_error *err)
{
    if (timeline->path == NULL)
        return 0;
    engine->timeline_events = timeline->event_count ? timeline->event_count : EVENTS_DEFAULT;
    return tool_output_open(&timeline->output, timeline->path, err);
}

void tool_timeline_abandon(struct tool_timeline *timeline)
{
    tool_output_abandon(&timeline->output);
}

/* ---- the file --------------------------------------------------------------------------------
 * Trace Event Format (Google, 2016): complete events "X" with a begin and a length in microseconds,
 * moments "i", names "M". Events of one track must lie side by side or inside each other.
 */

struct writer {
    FILE *file;
    uint64_t base_ns; /* the first begin */
    bool has_events;  /* a comma is due */
    /* By member and row: where the row's reads begin, seen from the last one on. */
    uint64_t (*row_begin_ns)[ROW_COUNT];
};

static void name_track(struct writer *w, int pid, int tid, const char *name)
{
    json_t *text = tool_json_text(name);
    char *quoted = json_dumps(text, JSON_ENCODE_ANY);
    const char *what = tid < 0 ? "process" : "thread";

    fprintf(w->file,
            "%s\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"name\":\"%s_name\",\"args\":{\"name\":%s}}",
            w->has_events ? "," : "", pid, tid < 0 ? 0 : tid, what, quoted ? quoted : "\"\"");
    fprintf(w->file,
            ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"name\":\"%s_sort_index\","
            "\"args\":{\"sort_index\":%d}}",
            pid, tid < 0 ? 0 : tid, what, tid < 0 ? pid : tid);
    w->has_events = true;
    free(quoted);
    json_decref(text);
}

/* All tracks that there are, whether anything happens on them or not. */
static void name_tracks(struct writer *w, struct ps_volume *volume, int thread_count)
{
    char name[PS_DRIVE_TEXT_BYTES + 4096];

    name_track(w, PID_COMPUTE, -1, "compute");
    name_track(w, PID_COMPUTE, TID_MAIN, "layers and waits");
    for (int t = 0; t < thread_count; t++) {
        snprintf(name, sizeof(name), "thread %d", t);
        name_track(w, PID_COMPUTE, TID_THREADS + t, name);
    }
    name_track(w, PID_COMPUTE, TID_READER, "reading thread");
    for (int m = 0; m < ps_volume_member_count(volume); m++) {
        struct ps_member_info info;
        ps_volume_member(volume, m, &info);
        snprintf(name, sizeof(name), "drive %d: %s", m, info.path);
        name_track(w, PID_DRIVES + m, -1, name);
        name_track(w, PID_DRIVES + m, 0, "reads");
    }
}

/* The part that all events have; the caller writes "args" and what closes the object. */
static void begin_event(struct writer *w, const struct ps_timeline_event *event, int pid, int tid)
{
    uint64_t ts = event->begin_ns - w->base_ns, ns = event->end_ns - event->begin_ns;

    fprintf(w->file, ",\n{\"pid\":%d,\"tid\":%d,\"ts\":%" PRIu64 ".%03u,", pid, tid, ts / 1000,
            (unsigned)(ts % 1000));
    if (ns == 0)
        fputs("\"ph\":\"i\",\"s\":\"t\",", w->file);
    else
        fprintf(w->file, "\"ph\":\"X\",\"dur\":%" PRIu64 ".%03u,", ns / 1000,
                (unsigned)(ns % 1000));
}

/* "L3 E17", or which of the weights. */
static void put_object(struct writer *w, const uint32_t *values)
{
    if (values[0] == UINT32_MAX)
        fprintf(w->file, "weights %" PRIu32, values[1]);
    else
        fprintf(w->file, "L%" PRIu32 " E%" PRIu32, values[0], values[1]);
}

/* The lowest row that is free. Reads of a member were recorded in the order of their ends, and the
 * caller goes backwards: a row is free until its earliest read begins. */
static int find_row(struct writer *w, const struct ps_timeline_event *event)
{
    uint64_t *begin_ns = w->row_begin_ns[event->lane];
    unsigned row = 0;

    while (row < ROW_COUNT - 1 && begin_ns[row] < event->end_ns)
        row++;
    begin_ns[row] = event->begin_ns;
    return (int)row;
}

static void write_read(struct writer *w, const struct ps_timeline_event *event)
{
    uint32_t flags = event->values[4];

    begin_event(w, event, PID_DRIVES + event->lane, find_row(w, event));
    fprintf(w->file, "\"cat\":\"%s\",\"name\":\"",
            flags & PS_READ_TEST      ? "test"
            : flags & PS_READ_GUESSED ? "guess"
                                      : "demand");
    if (flags & PS_READ_TEST) {
        fprintf(w->file, "test\",\"args\":{");
    } else {
        fputs(flags & PS_READ_GUESSED ? "guess " : "", w->file);
        put_object(w, event->values);
        fprintf(w->file, " S%" PRIu32 "\",\"args\":{", event->values[2]);
        if (event->values[0] != UINT32_MAX)
            fprintf(w->file, "\"layer\":%" PRIu32 ",\"expert\":%" PRIu32 ",\"slice\":%" PRIu32 ",",
                    event->values[0], event->values[1], event->values[2]);
    }
    fprintf(w->file, "\"bytes\":%" PRIu32 "%s%s}}", event->values[3],
            flags & PS_READ_LATE ? ",\"seen_late\":true" : "",
            flags & PS_READ_FAILED ? ",\"failed\":true" : "");
}

static void write_check(struct writer *w, const struct ps_timeline_event *event)
{
    begin_event(w, event, PID_COMPUTE, event->lane == 0 ? TID_READER : TID_MAIN);
    fputs("\"cat\":\"check\",\"name\":\"check ", w->file);
    put_object(w, event->values);
    fprintf(w->file, " S%" PRIu32 "\",\"args\":{\"bytes\":%" PRIu32 "}}", event->values[2],
            event->values[3]);
}

static void write_wait(struct writer *w, const struct ps_timeline_event *event)
{
    static const char *const causes[PS_WAIT_CAUSE_COUNT] = {
        "reads", "the slowest drive", "checksums", "reads to begin", "a slot"};

    begin_event(w, event, PID_COMPUTE, TID_MAIN);
    fprintf(w->file,
            "\"cat\":\"wait\",\"name\":\"waits for %s of layer %" PRIu32
            "\",\"args\":{\"layer\":%" PRIu32 ",\"slices\":%" PRIu32 "}}",
            event->values[2] < PS_WAIT_CAUSE_COUNT ? causes[event->values[2]] : "reads",
            event->values[0], event->values[0], event->values[1]);
}

static void write_tasks(struct writer *w, const struct ps_timeline_event *event)
{
    static const char *const stages[PS_STAGE_COUNT] = {
        "mixer", "router", "shared", "experts up", "experts down", "dense", "head", "checksums"};

    begin_event(w, event, PID_COMPUTE, TID_THREADS + event->lane);
    fprintf(w->file,
            "\"cat\":\"compute\",\"name\":\"%s\",\"args\":{\"layer\":%" PRIu32 ",\"tasks\":%" PRIu32
            "}}",
            event->values[1] < PS_STAGE_COUNT ? stages[event->values[1]] : "", event->values[0],
            event->values[2]);
}

/* An event of the main thread whose name has one number in it. */
static void write_main(struct writer *w, const struct ps_timeline_event *event, const char *format)
{
    begin_event(w, event, PID_COMPUTE, TID_MAIN);
    fputs("\"cat\":\"main\",\"name\":\"", w->file);
    fprintf(w->file, "%s %" PRIu32 "\",\"args\":{", format, event->values[0]);
    if (event->kind == PS_EVENT_EVAL)
        fprintf(w->file, "\"position\":%" PRIu32, event->values[1]);
    fputs("}}", w->file);
}

static void write_get(struct writer *w, const struct ps_timeline_event *event, const char *name)
{
    begin_event(w, event, PID_COMPUTE, TID_MAIN);
    fprintf(w->file,
            "\"cat\":\"cache\",\"name\":\"%s\",\"args\":{\"layer\":%" PRIu32 ",\"expert\":%" PRIu32
            "}}",
            name, event->values[0], event->values[1]);
}

static void write_event(struct writer *w, const struct ps_timeline_event *event)
{
    switch (event->kind) {
    case PS_EVENT_READ:
        write_read(w, event);
        break;
    case PS_EVENT_CHECK:
        write_check(w, event);
        break;
    case PS_EVENT_SUBMIT:
        begin_event(w, event, PID_COMPUTE, TID_READER);
        fprintf(w->file, "\"cat\":\"submit\",\"name\":\"submit\",\"args\":{\"reads\":%" PRIu32 "}}",
                event->values[0]);
        break;
    case PS_EVENT_WAIT:
        write_wait(w, event);
        break;
    case PS_EVENT_WAIT_SLOT:
        write_get(w, event, "waits for a slot");
        break;
    case PS_EVENT_HIT:
        write_get(w, event, "hit");
        break;
    case PS_EVENT_MISS:
        write_get(w, event, "miss");
        break;
    case PS_EVENT_HIT_STAGED:
        write_get(w, event, "hit, guessed");
        break;
    case PS_EVENT_MISS_STAGED:
        write_get(w, event, "on its way, guessed");
        break;
    case PS_EVENT_EVAL:
        write_main(w, event, "tokens");
        break;
    case PS_EVENT_LAYER:
        write_main(w, event, "layer");
        break;
    case PS_EVENT_LOGITS:
        write_main(w, event, "head: tokens");
        break;
    case PS_EVENT_SAMPLE:
        write_main(w, event, "sample: token");
        break;
    case PS_EVENT_TEXT:
        write_main(w, event, "text of token");
        break;
    case PS_EVENT_TASKS:
        write_tasks(w, event);
        break;
    default: /* of a later engine */
        break;
    }
}

static void write_events(struct writer *w, const struct ps_timeline *timeline)
{
    uint32_t count = ps_timeline_count(timeline);
    struct ps_timeline_event event;

    for (uint32_t i = 0; i < count; i++)
        if (ps_timeline_get(timeline, i, &event))
            w->base_ns = ps_min_u64(w->base_ns, event.begin_ns);
    for (uint32_t i = count; i > 0; i--)
        if (ps_timeline_get(timeline, i - 1, &event))
            write_event(w, &event);
}

int tool_timeline_write(struct tool_timeline *timeline, struct ps_engine *engine,
                        struct ps_model *model, struct ps_error *err)
{
    const struct ps_timeline *events = ps_engine_timeline(engine);
    struct writer w = {.file = timeline->output.file, .base_ns = UINT64_MAX};
    struct ps_volume *volume = ps_model_volume(model);
    size_t members = (size_t)ps_volume_member_count(volume);
    struct ps_engine_stats stats;

    if (timeline->path == NULL)
        return 0;
    w.row_begin_ns = malloc(members * sizeof(*w.row_begin_ns));
    if (w.row_begin_ns == NULL)
        return ps_error_set(err, -ENOMEM, timeline->path, "not enough memory for the timeline");
    memset(w.row_begin_ns, 0xff, members * sizeof(*w.row_begin_ns));
    ps_engine_stats(engine, &stats);
    uint64_t dropped = ps_timeline_dropped(events);
    fprintf(w.file,
            "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"events\":%" PRIu32
            ",\"dropped_events\":%" PRIu64 "},\n\"traceEvents\":[",
            ps_timeline_count(events), dropped);
    name_tracks(&w, volume, stats.threads);
    write_events(&w, events);
    fputs("\n]}\n", w.file);
    free(w.row_begin_ns);
    if (dropped > 0)
        fprintf(stderr,
                "penstock: the timeline has room for %" PRIu32 " events; the last %" PRIu64
                " were left out: give more with --timeline-events\n",
                ps_timeline_count(events), dropped);
    return tool_output_commit(&timeline->output, err);
}
