/*
 * Checksums of slices whose bytes are all there. They take longer than all else that the pump does,
 * so threads that wait for the slices help, and nobody holds the lock over it.
 */
#include "core/timeline.h"
#include "core/util.h"
#include "nvme/scheduler_internal.h"
#include "nvme/volume_internal.h"

/* Less than this is checked sooner than other threads are woken. */
#define RUN_BYTES_MIN (1u << 20)

static void check_task(void *ctx, uint32_t i)
{
    struct ps_check *check = &((struct ps_check *)ctx)[i];
    check->sum = ps_checksum(check->fetch->slices[check->slice], check->bytes);
}

static void land(struct ps_scheduler *s, const struct ps_check *check)
{
    struct ps_fetch *fetch = check->fetch;

    /* Given up during the check: nothing of it is to be read again. */
    if (fetch->error || fetch->is_left)
        return;
    if (check->sum != ps_volume_slice_checksum(s->volume, fetch->object, check->slice)) {
        ps_slice_retry(s, fetch, check->slice);
        return;
    }
    fetch->landed[check->slice] = 1;
    fetch->landed_count++;
}

/* One check, on the timeline if there is one. */
static void make_check(const struct ps_scheduler *s, struct ps_check *check, uint16_t lane)
{
    struct ps_timeline_event event = {.kind = PS_EVENT_CHECK,
                                      .lane = lane,
                                      .begin_ns = s->timeline ? ps_scheduler_now_ns(s) : 0,
                                      .values = {0, 0, check->slice, check->bytes}};

    check_task(check, 0);
    if (!s->timeline)
        return;
    event.end_ns = ps_scheduler_now_ns(s);
    ps_object_values(s->volume, check->fetch->object, event.values);
    ps_timeline_add(s->timeline, &event);
}

/* Makes the next `count` checks; run: NULL, or with it. lane: of PS_EVENT_CHECK. The fetches stay:
 * their reads are looked at until the pump has seen the end of every check. */
static void make_checks(struct ps_scheduler *s, uint32_t count, ps_run_fn *run, uint16_t lane)
{
    struct ps_check *checks = &s->checks[s->checks_begun];

    s->checks_begun += count;
    pthread_mutex_unlock(&s->lock);
    if (run && count > 1)
        run(s->run_ctx, check_task, checks, count);
    for (uint32_t i = 0; i < count && !(run && count > 1); i++)
        make_check(s, &checks[i], lane);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < count; i++)
        land(s, &checks[i]);
    s->checks_made += count;
    pthread_cond_broadcast(&s->news);
}

bool ps_scheduler_help(struct ps_scheduler *s)
{
    uint32_t count = s->check_count - s->checks_begun;
    uint64_t bytes = 0;

    if (count == 0)
        return false;
    for (uint32_t i = s->checks_begun; i < s->check_count; i++)
        bytes += s->checks[i].bytes;
    if (s->run && bytes >= RUN_BYTES_MIN)
        make_checks(s, count, s->run, 1);
    else
        make_checks(s, 1, NULL, 1);
    return true;
}

/* Lists what is to be checked. */
static void list_checks(struct ps_scheduler *s, int count)
{
    s->check_count = s->checks_begun = s->checks_made = 0;
    for (int i = 0; i < count; i++) {
        const struct ps_read *read = &s->reads[s->reaped[i].tag];
        struct ps_slice_info info;
        if (!read->ends_slice || read->fetch->error || read->fetch->is_left)
            continue;
        ps_volume_slice(s->volume, read->fetch->object, read->slice, &info);
        s->checks[s->check_count++] =
            (struct ps_check){.fetch = read->fetch, .slice = read->slice, .bytes = info.bytes};
    }
}

/* The one place where a slice counts as landed without having been looked at: nothing was read. */
static void land_unchecked(struct ps_scheduler *s)
{
    for (; s->checks_begun < s->check_count; s->checks_begun++, s->checks_made++) {
        struct ps_check *check = &s->checks[s->checks_begun];
        check->sum = ps_volume_slice_checksum(s->volume, check->fetch->object, check->slice);
        land(s, check);
    }
}

void ps_slices_check(struct ps_scheduler *s, int count)
{
    uint64_t begin_ns = ps_scheduler_now_ns(s);

    list_checks(s, count);
    if (s->check_count == 0)
        return;
    if (ps_io_is_simulated(s->io)) {
        land_unchecked(s);
        return;
    }
    ps_load_step(s, begin_ns);
    if (s->check_count > 1)
        pthread_cond_broadcast(&s->news);
    while (s->checks_begun < s->check_count)
        make_checks(s, 1, NULL, 0);
    while (s->checks_made < s->check_count)
        pthread_cond_wait(&s->news, &s->lock);
    uint64_t end_ns = ps_scheduler_now_ns(s);
    ps_load_step(s, end_ns);
    s->check_count = s->checks_begun = s->checks_made = 0;
    s->check_ns += end_ns - begin_ns;
}
