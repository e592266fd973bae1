#include "nvme/layout.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"
#include "core/topology.h"
#include "core/util.h"
#include "nvme/identity.h"
#include "nvme/layout_internal.h"
#include "nvme/raw_io.h"
#include "nvme/weigh.h"

/* A crash costs at most twice this much work: one interval is flushed while the next is written. */
#define FLUSH_BYTES_DEFAULT (256u << 20)
/* All workers' buffers together; beyond it fewer workers run. */
#define BUFFER_BYTES_MAX (UINT64_C(1) << 30)

static _Atomic uint64_t flush_bytes = FLUSH_BYTES_DEFAULT;

void ps_layout_set_flush_bytes(uint64_t bytes)
{
    atomic_store(&flush_bytes, bytes);
}

uint64_t ps_layout_flush_bytes(void)
{
    return atomic_load(&flush_bytes);
}

/* ---- before anything is written -------------------------------------------------------------- */

/* A member that the old volume holds locked is opened beside it; what counts there is the new
 * volume's stage, and only to a resume. */
static int open_target(struct ps_writer *w, uint32_t m, struct ps_error *err)
{
    struct ps_target *t = &w->targets[m];
    w->shared[m] = w->old != NULL ? ps_volume_find_path(w->old, w->opts->members[m]) : -1;
    if (w->shared[m] < 0)
        return ps_target_open_or_create(t, w->opts->members[m], err);
    int rc = ps_target_open_held(t, w->opts->members[m], err);
    if (rc < 0)
        return rc;
    const struct ps_disk_superblock *old = &w->old->members[w->shared[m]].sb;
    t->is_member =
        w->opts->resume && ps_superblock_find_staged(t->fd, old, &w->stages[m], &t->pair);
    t->sb = t->is_member ? t->pair.copy[t->pair.best] : (struct ps_disk_superblock){0};
    return 0;
}

static int open_targets(struct ps_writer *w, struct ps_error *err)
{
    int rc = 0;
    for (uint32_t m = 0; rc == 0 && m < w->member_count; m++) {
        rc = open_target(w, m, err);
        /* A file named twice exists the second time, and is locked by us: say what it is. */
        for (uint32_t i = 0; rc == -PS_ERR_IN_USE && i < m; i++) {
            struct stat st;
            if (stat(w->opts->members[m], &st) == 0 && st.st_dev == w->targets[i].file_dev &&
                st.st_ino == w->targets[i].file_ino)
                rc = ps_error_set(err, -PS_ERR_MEMBER, w->opts->members[m],
                                  "this is the same as '%s'; name each member once",
                                  w->targets[i].path);
        }
    }
    return rc < 0 ? rc : ps_target_check_distinct(w->targets, (int)w->member_count, err);
}

/* A resume must find its own layout, or nothing of value. */
static int check_mismatch(const struct ps_writer *w, uint32_t m, struct ps_error *err)
{
    const struct ps_target *t = &w->targets[m];
    char uuid[37];
    if (!t->is_member || t->sb.state != PS_VOLUME_IN_PROGRESS)
        return 0;
    ps_uuid_text(t->sb.uuid, uuid);
    if (memcmp(t->sb.uuid, w->plan.uuid, sizeof(t->sb.uuid)) == 0)
        return ps_error_set(err, -PS_ERR_MEMBER, t->path,
                            "this is member %u of %u of the stopped layout; name the members as "
                            "they were named then",
                            t->sb.member + 1, t->sb.member_count);
    bool same_source =
        memcmp(t->sb.fingerprint, w->spec->source_fingerprint, sizeof(t->sb.fingerprint)) == 0;
    return ps_error_set(err, -PS_ERR_SOURCE_CHANGED, t->path,
                        "%s since this layout of '%s' was begun; restore them, or start over "
                        "with --destroy penstock:%s and without --resume",
                        same_source ? "the members or the metadata have changed"
                                    : "the source or its options have changed",
                        t->sb.source_name, uuid);
}

static int get_consent(struct ps_writer *w, struct ps_error *err)
{
    for (uint32_t m = 0; m < w->member_count; m++) {
        /* What a rebalance shares with the old volume it was told to replace, in due time. */
        bool is_ours = w->shared[m] >= 0 || (w->opts->resume && ps_writer_owns(w, m));
        int rc = is_ours ? ps_target_check_alone(&w->targets[m], err) : 0;
        if (rc < 0)
            return rc;
        if (is_ours || (w->opts->resume && ps_writer_only_begun(w, m)))
            continue;
        rc = ps_target_consent(&w->targets[m], w->opts->destroy, w->opts->destroy_count, err);
        if (rc < 0 && w->opts->resume) {
            int mismatch = check_mismatch(w, m, err);
            rc = mismatch < 0 ? mismatch : rc;
        }
        if (rc < 0)
            return rc;
    }
    return 0;
}

bool ps_writer_is_complete(const struct ps_writer *w)
{
    for (uint32_t m = 0; m < w->member_count; m++) {
        const struct ps_superblock_pair *pair = &w->targets[m].pair;
        for (int copy = 0; copy < 2; copy++) {
            if (!ps_writer_owns(w, m) || !pair->valid[copy] ||
                pair->copy[copy].state != PS_VOLUME_COMPLETE ||
                memcmp(pair->copy[copy].uuid, w->plan.uuid, sizeof(w->plan.uuid)) != 0)
                return false;
        }
    }
    return true;
}

/*
 * What a stopped layout of this source recorded of its plan. What has not finished goes first: a
 * finished one may lie there from before.
 */
static bool recorded_options(const struct ps_writer *w, struct ps_plan_options *options)
{
    static const enum ps_volume_state states[] = {PS_VOLUME_IN_PROGRESS, PS_VOLUME_COMPLETE};
    for (size_t i = 0; i < PS_ARRAY_LEN(states); i++) {
        for (uint32_t m = 0; m < w->member_count; m++) {
            const struct ps_target *t = &w->targets[m];
            if (t->is_member && t->sb.state == states[i] && t->sb.member_count == w->member_count &&
                memcmp(t->sb.fingerprint, w->spec->source_fingerprint, sizeof(t->sb.fingerprint)) ==
                    0) {
                ps_plan_options_get(options, &t->sb);
                return true;
            }
        }
    }
    return false;
}

static void fresh_options(const struct ps_writer *w, struct ps_plan_options *options)
{
    options->member_count = w->member_count;
    options->copies = w->old != NULL ? ps_volume_copy_count(w->old) : 1;
    if (w->opts->copies != 0)
        options->copies = w->opts->copies;
    uint64_t drives[PS_MEMBER_COUNT_MAX];
    for (uint32_t m = 0; m < w->member_count; m++) {
        const struct ps_target *t = &w->targets[m];
        int node = t->node;
        drives[m] = ps_identity_drive(t->is_device ? t->device : t->file_dev);
        options->nodes[m] = node >= 0 && node < (int)PS_NODE_NONE ? (uint8_t)node : PS_NODE_NONE;
    }
    ps_weigh_profiles(options, w->opts->profiles, drives);
}

static int make_plan(struct ps_writer *w, struct ps_error *err)
{
    struct ps_plan_options options = {0};
    bool is_recorded = w->opts->resume && recorded_options(w, &options);
    if (!is_recorded)
        fresh_options(w, &options);
    else if (w->opts->copies != 0 && w->opts->copies != options.copies)
        return ps_error_set(err, -PS_ERR_ARGUMENT, w->targets[0].path,
                            "what was begun has %u cop%s of every slice; resume it without asking "
                            "for another number",
                            options.copies, options.copies == 1 ? "y" : "ies");
    options.align = PS_LAYOUT_ALIGN_MIN;
    for (uint32_t m = 0; m < w->member_count; m++)
        options.align = (uint32_t)ps_max_u64(options.align, w->targets[m].align_bytes);
    return ps_writer_plan(w, &options, is_recorded, err);
}

int ps_writer_prepare(struct ps_writer *w, struct ps_error *err)
{
    int rc = open_targets(w, err);
    if (rc == 0)
        rc = make_plan(w, err);
    if (rc == 0)
        rc = ps_writer_place(w, err);
    if (rc == 0)
        rc = ps_writer_make_tables(w, err);
    if (rc == 0)
        rc = get_consent(w, err);
    if (rc == 0)
        rc = ps_writer_check_space(w, err);
    return rc;
}

/* ---- claiming the members -------------------------------------------------------------------- */

/*
 * Begins beside the old volume: its superblock is put down for the time when its own place is
 * taken, and what an earlier rebalance may have left in the other stage must not be found first.
 */
static int begin_stage(struct ps_writer *w, uint32_t m, struct ps_error *err)
{
    const struct ps_disk_superblock *old = &w->old->members[w->shared[m]].sb;
    const struct ps_target *t = &w->targets[m];
    uint64_t places[2];
    struct ps_superblock_pair pair;
    uint8_t *block = ps_raw_alloc((size_t)2 * PS_SUPERBLOCK_BYTES);
    int rc = block != NULL ? 0 : -ENOMEM;
    ps_superblock_stages(old, places);
    for (int i = 0; rc == 0 && i < 2; i++) {
        if (places[i] != 0 && places[i] != w->stages[m] &&
            ps_superblock_read_staged(t->fd, places[i], &pair))
            rc = ps_raw_write(t->fd, block, (size_t)2 * PS_SUPERBLOCK_BYTES, places[i]);
    }
    if (rc == 0 && fdatasync(t->fd) != 0)
        rc = -errno;
    if (rc == 0) {
        memcpy(block, old, sizeof(*old));
        rc = ps_raw_write(t->fd, block, sizeof(*old), w->stages[m] + PS_STAGE_FORMER_OFFSET);
    }
    free(block);
    if (rc < 0)
        return ps_error_set(err, rc, t->path, "cannot write beside the old volume: %s",
                            ps_strerror(rc));
    return 0;
}

/* From here on the old content is gone, but for an old volume's that is moved; ends when the
 * in-progress marks are durable. */
static int claim(struct ps_writer *w, struct ps_error *err)
{
    int rc = 0;
    for (uint32_t m = 0; rc == 0 && m < w->member_count; m++) {
        if (!w->opts->resume || !ps_writer_owns(w, m))
            rc = w->stages[m] != 0 ? begin_stage(w, m, err) : ps_target_clear(&w->targets[m], err);
    }
    for (uint32_t m = 0; rc == 0 && m < w->member_count; m++)
        rc = ps_writer_reserve(w, m, err);
    if (rc < 0)
        return rc;
    for (uint32_t m = 0; m < w->member_count; m++)
        ps_target_set_direct(&w->targets[m]);
    rc = ps_writer_put_superblocks(w, PS_VOLUME_IN_PROGRESS, err);
    w->marked = rc == 0;
    if (rc == 0)
        rc = ps_writer_check_superblocks(w, err);
    return rc == 0 ? ps_writer_put_records(w, err) : rc;
}

/* ---- data ------------------------------------------------------------------------------------ */

/* Moves payloads that lie back to back to their padded places (last first) and checks them in. */
static void pad_slices(struct ps_writer *w, const struct ps_plan_job *job, uint8_t *buf)
{
    const struct ps_layout_slice *payload = w->spec->objects[job->object].slices;
    const struct ps_disk_slice *slices = &w->plan.slices[job->first_slice];
    uint64_t *checksums = &w->checksums[job->first_slice];
    uint64_t from = 0;
    for (uint32_t i = job->slice_begin; i < job->slice_end; i++)
        from += payload[i].bytes;
    for (uint32_t i = job->slice_end; i-- > job->slice_begin;) {
        const struct ps_disk_slice *s = &slices[i - job->slice_begin];
        uint8_t *to = buf + (s->offset_bytes - slices[0].offset_bytes);
        from -= payload[i].bytes;
        memmove(to, buf + from, payload[i].bytes);
        memset(to + payload[i].bytes, 0, s->bytes - payload[i].bytes);
        checksums[i - job->slice_begin] = XXH3_64bits(to, s->bytes);
    }
}

/* Writes one copy of a job's bytes; neighbouring pieces on one member lie together there too. */
static int write_copy(struct ps_writer *w, const struct ps_plan_job *job, uint32_t copy,
                      const uint8_t *buf, struct ps_error *err)
{
    const struct ps_disk_piece *piece = ps_plan_pieces(&w->plan, job->first_slice, copy);
    uint64_t at = 0;
    while (at < job->bytes) {
        const struct ps_disk_piece *first = piece;
        uint64_t bytes = 0;
        while (at + bytes < job->bytes && piece->member == first->member)
            bytes += (piece++)->bytes;
        const struct ps_target *t = &w->targets[first->member];
        int rc = ps_raw_write(t->fd, buf + at, bytes, first->offset_bytes);
        if (rc < 0)
            return ps_error_set(err, rc, t->path, "cannot write data: %s%s", ps_strerror(rc),
                                rc == -ENOSPC ? "; free some space and continue with --resume"
                                              : "");
        at += bytes;
    }
    return 0;
}

static int run_job(struct ps_writer *w, const struct ps_plan_job *job, int worker, uint8_t *buf,
                   struct ps_error *err)
{
    int rc = w->fill(w->fill_ctx, worker, job->object, job->slice_begin, job->slice_end, buf, err);
    if (rc < 0) {
        if (err->code == 0)
            ps_error_set(err, rc, w->spec->objects[job->object].name, "cannot be produced: %s",
                         ps_strerror(rc));
        return rc;
    }
    pad_slices(w, job, buf);
    for (uint32_t copy = 0; rc == 0 && copy < w->plan.options.copies; copy++)
        rc = write_copy(w, job, copy, buf, err);
    return rc;
}

/*
 * A worker produces a job and writes it, so reading the source, converting and writing overlap as
 * there are several workers. They stay ahead of the flushes by an interval at most.
 */
struct worker {
    struct ps_writer *w;
    pthread_t thread;
    int idx;
    uint8_t *buf;
};

static bool is_stopped(const struct ps_writer *w)
{
    return w->failed != 0 || (w->opts->stop != NULL && *w->opts->stop != 0);
}

/* The next job, or NULL when there is none, something failed, or the user wants to stop. */
static const struct ps_plan_job *take_job(struct ps_writer *w)
{
    const struct ps_plan_job *job = NULL;
    pthread_mutex_lock(&w->lock);
    while (!is_stopped(w) && w->job == w->job_end && w->job < w->plan.job_count)
        pthread_cond_wait(&w->changed, &w->lock);
    if (!is_stopped(w) && w->job < w->job_end)
        job = &w->plan.jobs[w->job++];
    pthread_mutex_unlock(&w->lock);
    return job;
}

/* Called with the lock held. */
static void finish_job(struct ps_writer *w, const struct ps_plan_job *job)
{
    w->written[job - w->plan.jobs] = true;
    while (w->complete < w->plan.job_count && w->written[w->complete])
        w->complete++;
    w->done_bytes += job->bytes;
    if (w->opts->progress != NULL)
        w->opts->progress(w->opts->progress_ctx, w->done_bytes, w->plan.object_bytes);
}

static void *work(void *ctx)
{
    struct worker *worker = ctx;
    struct ps_writer *w = worker->w;
    const struct ps_plan_job *job;
    while ((job = take_job(w)) != NULL) {
        struct ps_error err = {0};
        int rc = run_job(w, job, worker->idx, worker->buf, &err);
        pthread_mutex_lock(&w->lock);
        if (rc >= 0) {
            finish_job(w, job);
        } else if (w->failed == 0) {
            w->failed = rc;
            w->failure = err;
        }
        pthread_cond_broadcast(&w->changed);
        pthread_mutex_unlock(&w->lock);
    }
    pthread_mutex_lock(&w->lock);
    w->running--;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Makes the slices up to `end` durable, then says so. */
static int advance(struct ps_writer *w, uint64_t end, struct ps_error *err)
{
    for (uint64_t i = w->watermark; i < end; i++)
        w->plan.slices[i].checksum = w->checksums[i];
    int rc = ps_writer_put_checksums(w, w->watermark, end, err);
    if (rc == 0)
        rc = ps_writer_flush(w, err);
    if (rc < 0)
        return rc;
    for (uint64_t i = w->watermark; i < end; i++)
        XXH3_64bits_update(w->digest, &w->plan.slices[i].checksum, sizeof(uint64_t));
    w->watermark = end;
    return ps_writer_put_superblocks(w, PS_VOLUME_IN_PROGRESS, err);
}

/* Where the interval between two flushes ends that begins at this job. */
static uint32_t interval_end(const struct ps_writer *w, uint32_t job)
{
    uint64_t bytes = 0;
    while (job < w->plan.job_count && bytes < ps_layout_flush_bytes())
        bytes += w->plan.jobs[job++].bytes;
    return job;
}

/* Waits until the jobs before `end` are written, or will not be. Returns up to where they are. */
static int await_jobs(struct ps_writer *w, uint32_t end, uint32_t *complete, struct ps_error *err)
{
    pthread_mutex_lock(&w->lock);
    w->job_end = interval_end(w, end);
    pthread_cond_broadcast(&w->changed);
    while (w->failed == 0 && w->complete < end && w->running > 0)
        pthread_cond_wait(&w->changed, &w->lock);
    int rc = w->failed;
    if (rc < 0 && err != NULL)
        *err = w->failure;
    *complete = (uint32_t)ps_min_u64(w->complete, end);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

/* Flushes behind the workers, interval by interval. */
static int write_data(struct ps_writer *w, struct ps_error *err)
{
    const struct ps_plan *plan = &w->plan;
    while (w->next_job < plan->job_count) {
        uint32_t end = interval_end(w, w->next_job);
        int rc = await_jobs(w, end, &w->next_job, err);
        bool all = w->next_job == plan->job_count;
        if (rc < 0)
            return rc;
        uint64_t slices = all ? plan->header->slice_count : plan->jobs[w->next_job].first_slice;
        if (slices > w->watermark)
            rc = advance(w, slices, err);
        if (rc < 0)
            return rc;
        if (w->next_job < end)
            return ps_error_set(err, -EINTR, w->targets[0].path, "stopped; continue with --resume");
    }
    return 0;
}

static void free_workers(struct worker *workers, int count)
{
    for (int i = 0; workers != NULL && i < count; i++)
        free(workers[i].buf);
    free(workers);
}

/* Buffers for as many as there is memory for, at least one. Returns how many. */
static int make_workers(struct ps_writer *w, struct worker **out, struct ps_error *err)
{
    uint64_t most = ps_max_u64(BUFFER_BYTES_MAX / w->plan.job_bytes_max, 1);
    int count = w->opts->threads, made = 0;
    if (count == 0) {
        struct ps_topology topo;
        ps_topology_get(&topo);
        count = topo.cpu_count;
    }
    count = (int)ps_min_u64((uint64_t)count, most);
    struct worker *workers = calloc((size_t)count, sizeof(*workers));
    w->written = calloc((size_t)w->plan.job_count + 1, sizeof(*w->written));
    w->checksums = calloc(w->plan.header->slice_count + 1, sizeof(*w->checksums));
    for (; workers != NULL && made < count; made++) {
        workers[made] = (struct worker){.w = w, .buf = ps_raw_alloc(w->plan.job_bytes_max)};
        if (workers[made].buf == NULL)
            break;
    }
    if (made == 0 || w->written == NULL || w->checksums == NULL) {
        free_workers(workers, made);
        return ps_error_set(err, -ENOMEM, "layout", "not enough memory for a buffer of %llu bytes",
                            (unsigned long long)w->plan.job_bytes_max);
    }
    *out = workers;
    return made;
}

static int run_workers(struct ps_writer *w, struct worker *workers, int count, struct ps_error *err)
{
    int started = 0, rc = 0;
    w->job = w->job_end = w->complete = w->next_job;
    pthread_mutex_lock(&w->lock); /* none may count how many there are before all have begun */
    for (; rc == 0 && started < count; started += rc == 0) {
        workers[started].idx = started;
        rc = -pthread_create(&workers[started].thread, NULL, work, &workers[started]);
    }
    w->running = started;
    pthread_mutex_unlock(&w->lock);
    if (started == 0)
        return ps_error_set(err, rc, "layout", "no thread can be started: %s", ps_strerror(rc));
    rc = write_data(w, err);
    pthread_mutex_lock(&w->lock);
    if (w->failed == 0)
        w->failed = rc; /* the workers end, too */
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    return rc;
}

static int write_volume(struct ps_writer *w, struct ps_error *err)
{
    struct worker *workers = NULL;
    int count = make_workers(w, &workers, err);
    if (count < 0)
        return count;
    int rc = claim(w, err);
    if (rc == 0)
        rc = run_workers(w, workers, count, err);
    if (rc == 0)
        rc = ps_writer_put_head(w, err);
    if (rc == 0)
        rc = ps_writer_put_superblocks(w, PS_VOLUME_COMPLETE, err);
    free_workers(workers, count);
    return rc;
}

static int check_options(const struct ps_layout_options *opts, struct ps_error *err)
{
    if (opts->member_count < 1 || opts->member_count > PS_MEMBER_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "layout", "name 1 to %d members",
                            PS_MEMBER_COUNT_MAX);
    if (opts->copies > 2)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "layout", "1 or 2 copies are possible, not %u",
                            opts->copies);
    if (opts->threads < 0)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "layout",
                            "the number of threads cannot be negative");
    return 0;
}

int ps_writer_open(struct ps_writer *w, const struct ps_layout_spec *spec,
                   const struct ps_layout_options *opts, const struct ps_volume *old,
                   struct ps_error *err)
{
    *w = (struct ps_writer){.spec = spec,
                            .opts = opts,
                            .old = old,
                            .member_count = (uint32_t)opts->member_count,
                            .lock = PTHREAD_MUTEX_INITIALIZER,
                            .changed = PTHREAD_COND_INITIALIZER};
    int rc = check_options(opts, err);
    if (rc < 0) {
        w->member_count = 0;
        return rc;
    }
    w->digest = XXH3_createState();
    w->targets = calloc(w->member_count, sizeof(*w->targets));
    if (w->digest == NULL || w->targets == NULL)
        return ps_error_set(err, -ENOMEM, "layout", "not enough memory");
    XXH3_64bits_reset(w->digest);
    for (uint32_t m = 0; m < w->member_count; m++) {
        w->targets[m].fd = -1;
        w->shared[m] = -1;
    }
    return 0;
}

void ps_writer_close(struct ps_writer *w, bool is_failed)
{
    for (uint32_t m = 0; w->targets != NULL && m < w->member_count; m++)
        ps_target_close(&w->targets[m], is_failed && !w->marked);
    free(w->targets);
    free(w->tables);
    free(w->records);
    free(w->written);
    free(w->checksums);
    ps_plan_fini(&w->plan);
    XXH3_freeState(w->digest);
}

int ps_writer_write(struct ps_writer *w, ps_layout_fill_fn *fill, void *fill_ctx,
                    struct ps_error *err)
{
    int rc = 0;
    w->fill = fill;
    w->fill_ctx = fill_ctx;
    if (w->opts->resume) {
        for (uint32_t m = 0; m < w->member_count; m++) {
            if (ps_writer_owns(w, m))
                ps_target_set_direct(&w->targets[m]);
        }
        ps_writer_load_records(w);
        rc = ps_writer_resume(w, err);
    }
    return rc == 0 ? write_volume(w, err) : rc;
}

int ps_layout_write(const struct ps_layout_spec *spec, const struct ps_layout_options *opts,
                    ps_layout_fill_fn *fill, void *fill_ctx, struct ps_error *err)
{
    struct ps_writer w;
    int rc = ps_writer_open(&w, spec, opts, NULL, err);
    if (rc == 0)
        rc = ps_writer_prepare(&w, err);
    if (rc == 0 && opts->resume && ps_writer_is_complete(&w))
        ps_log(PS_LOG_INFO, "the layout had already finished; nothing was left to do");
    else if (rc == 0)
        rc = ps_writer_write(&w, fill, fill_ctx, err);
    ps_writer_close(&w, rc < 0);
    return rc;
}
