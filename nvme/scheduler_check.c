/*
 * Checksums of slices whose bytes are all there. They take longer than all else that the pump does,
 * so threads that wait for the slices help, and nobody holds the lock over it.
 */
#include "core/util.h"
#include "nvme/checksum.h"
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

/* Makes the next `count` checks; run: NULL, or with it. The fetches stay: their reads are looked at
 * until the pump has seen the end of every check. */
static void make_checks(struct ps_scheduler *s, uint32_t count, ps_run_fn *run)
{
    struct ps_check *checks = &s->checks[s->checks_begun];

    s->checks_begun += count;
    pthread_mutex_unlock(&s->lock);
    if (run && count > 1)
        run(s->run_ctx, check_task, checks, count);
    for (uint32_t i = 0; i < count && !(run && count > 1); i++)
        check_task(checks, i);
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
        make_checks(s, count, s->run);
    else
        make_checks(s, 1, NULL);
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

void ps_slices_check(struct ps_scheduler *s, int count)
{
    uint64_t begin_ns = ps_now_ns();

    list_checks(s, count);
    if (s->check_count == 0)
        return;
    if (s->check_count > 1)
        pthread_cond_broadcast(&s->news);
    while (s->checks_begun < s->check_count)
        make_checks(s, 1, NULL);
    while (s->checks_made < s->check_count)
        pthread_cond_wait(&s->news, &s->lock);
    s->check_ns += ps_now_ns() - begin_ns;
}
