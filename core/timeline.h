/*
 * A recorder of what happened when: a table of fixed size, filled by any number of threads without
 * locks. It knows nothing of what it records: a kind is a small number of the caller's, and so are
 * the lane (which drive, which thread) and the values.
 *
 * Code that may be recorded holds a pointer, NULL while nobody records, and looks at that alone.
 */
#ifndef PENSTOCK_CORE_TIMELINE_H
#define PENSTOCK_CORE_TIMELINE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PS_TIMELINE_VALUE_COUNT 5

struct ps_timeline_event {
    uint64_t begin_ns, end_ns; /* of ps_now_ns; equal: a moment */
    uint16_t kind;             /* 1 or more */
    uint16_t lane;
    uint32_t values[PS_TIMELINE_VALUE_COUNT]; /* as the kind says */
};

struct ps_timeline;

/* Memory of a timeline for so many events, which the caller provides, aligned to 64 and zeroed. */
uint64_t ps_timeline_bytes(uint32_t event_count);

/* Makes a timeline of that memory, in place; it is the memory's owner who ends it. */
struct ps_timeline *ps_timeline_init(void *memory, uint32_t event_count);

/* Forgets everything. Not while another thread adds. */
void ps_timeline_reset(struct ps_timeline *timeline);

/* Records an event; once the table is full, only counts it. Any thread, any number at once. */
void ps_timeline_add(struct ps_timeline *timeline, const struct ps_timeline_event *event);

/* Events that are there, in the order in which they ended, nearly. Any thread. */
uint32_t ps_timeline_count(const struct ps_timeline *timeline);

/* Those for which there was no room. Any thread. */
uint64_t ps_timeline_dropped(const struct ps_timeline *timeline);

/* Copies event i < ps_timeline_count. 1, or 0: its thread is still writing it. Any thread. */
int ps_timeline_get(const struct ps_timeline *timeline, uint32_t i,
                    struct ps_timeline_event *event);

#ifdef __cplusplus
}
#endif

#endif
