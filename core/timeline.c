#include "core/timeline.h"

#include <stdatomic.h>
#include <string.h>

#include "core/util.h"

#define CACHE_LINE_BYTES 64

/* The kind is written last: 0 says that the rest is not there yet. */
struct slot {
    uint64_t begin_ns, end_ns;
    _Atomic uint16_t kind;
    uint16_t lane;
    uint32_t values[PS_TIMELINE_VALUE_COUNT];
};

struct ps_timeline {
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t taken; /* more than room: events were dropped */
    _Alignas(CACHE_LINE_BYTES) uint64_t room;
    struct slot slots[];
};

uint64_t ps_timeline_bytes(uint32_t event_count)
{
    return sizeof(struct ps_timeline) + (uint64_t)event_count * sizeof(struct slot);
}

struct ps_timeline *ps_timeline_init(void *memory, uint32_t event_count)
{
    struct ps_timeline *t = memory;

    atomic_init(&t->taken, 0);
    t->room = event_count;
    return t;
}

void ps_timeline_reset(struct ps_timeline *t)
{
    uint32_t count = ps_timeline_count(t);

    for (uint32_t i = 0; i < count; i++)
        atomic_store_explicit(&t->slots[i].kind, 0, memory_order_relaxed);
    atomic_store(&t->taken, 0);
}

void ps_timeline_add(struct ps_timeline *t, const struct ps_timeline_event *event)
{
    uint64_t i = atomic_fetch_add_explicit(&t->taken, 1, memory_order_relaxed);

    if (i >= t->room)
        return;
    struct slot *slot = &t->slots[i];
    slot->begin_ns = event->begin_ns;
    slot->end_ns = event->end_ns;
    slot->lane = event->lane;
    memcpy(slot->values, event->values, sizeof(slot->values));
    atomic_store_explicit(&slot->kind, event->kind, memory_order_release);
}

uint32_t ps_timeline_count(const struct ps_timeline *t)
{
    return (uint32_t)ps_min_u64(atomic_load_explicit(&t->taken, memory_order_relaxed), t->room);
}

uint64_t ps_timeline_dropped(const struct ps_timeline *t)
{
    return atomic_load_explicit(&t->taken, memory_order_relaxed) - ps_timeline_count(t);
}

int ps_timeline_get(const struct ps_timeline *t, uint32_t i, struct ps_timeline_event *event)
{
    const struct slot *slot = &t->slots[i];
    uint16_t kind = atomic_load_explicit(&slot->kind, memory_order_acquire);

    if (kind == 0)
        return 0;
    *event = (struct ps_timeline_event){
        .begin_ns = slot->begin_ns, .end_ns = slot->end_ns, .kind = kind, .lane = slot->lane};
    memcpy(event->values, slot->values, sizeof(slot->values));
    return 1;
}
