#include "nvme/load.h"

#include "core/util.h"
#include "nvme/scheduler.h"

/* Drives that could read something now. One that is off or hangs is not waited for by anybody. */
static int able_count(const struct ps_scheduler *s)
{
    uint64_t able = 0;

    for (int m = 0; m < s->member_count; m++) {
        if (!ps_health_is_off(&s->health[m]) && !ps_queue_is_stuck(&s->queues[s->queue_of[m]]))
            able |= UINT64_C(1) << s->queue_of[m];
    }
    return __builtin_popcountll(able);
}

static enum ps_wait_cause cause(const struct ps_scheduler *s, int busy_count)
{
    if (s->load.slot_waiter_count > 0)
        return PS_WAIT_SLOT;
    if (busy_count == 0)
        return s->checks_made < s->check_count ? PS_WAIT_CHECK : PS_WAIT_ISSUE;
    return busy_count < able_count(s) ? PS_WAIT_SLOWEST : PS_WAIT_READS;
}

void ps_load_step(struct ps_scheduler *s, uint64_t now_ns)
{
    struct ps_load *load = &s->load;
    int busy_count = 0;

    if (now_ns <= load->at_ns)
        return;
    uint64_t ns = now_ns - load->at_ns;
    load->at_ns = now_ns;
    for (int d = 0; d < s->queue_count; d++) {
        if (s->queues[d].in_flight == 0)
            continue;
        load->busy_ns[d] += ns;
        busy_count++;
    }
    if (load->waiter_count + load->slot_waiter_count > 0)
        load->wait_ns[cause(s, busy_count)] += ns;
}

uint64_t ps_load_wait_begin(struct ps_scheduler *s, bool for_slot)
{
    uint64_t now_ns = ps_scheduler_now_ns(s);

    ps_load_step(s, now_ns);
    *(for_slot ? &s->load.slot_waiter_count : &s->load.waiter_count) += 1;
    return now_ns;
}

uint64_t ps_load_wait_end(struct ps_scheduler *s, bool for_slot)
{
    uint64_t now_ns = ps_scheduler_now_ns(s);

    ps_load_step(s, now_ns);
    *(for_slot ? &s->load.slot_waiter_count : &s->load.waiter_count) -= 1;
    return now_ns;
}
