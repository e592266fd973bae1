/* Reading a whole volume and checking every checksum in it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/pool.h"
#include "core/util.h"
#include "nvme/raw_io.h"
#include "nvme/read.h"
#include "nvme/record.h"
#include "nvme/volume.h"
#include "nvme/volume_internal.h"

/* Slices are taken in runs of about this size: on each member a run is one contiguous read. */
#define RUN_BYTES_AIM (8u << 20)
#define RUN_BYTES_MIN (1u << 20)
#define BUFFER_BYTES_MAX (UINT64_C(1) << 30)
/* A bounded rate comes in runs of an eighth of a second; a stop is seen within this time. */
#define PAUSE_NS_MAX 50000000u

struct verifier {
    struct ps_volume *volume;
    const struct ps_verify_options *options;
    struct ps_reader reader;
    uint32_t copies;
    uint8_t **buffers; /* one per worker and copy */
    uint64_t buffer_bytes, run_bytes, total_bytes, begin_ns;
    pthread_mutex_t lock; /* over everything below, and around the callbacks */
    uint64_t next_slice;
    uint32_t next_object;
    uint64_t taken_bytes;
    struct ps_verify_report report;
};

/* Slices [begin, end) of the map; the first belongs to `object`. */
struct job {
    uint64_t begin, end, bytes;
    uint32_t object;
};

static void report_bad(struct verifier *v, const char *text)
{
    pthread_mutex_lock(&v->lock);
    v->report.slices_bad++;
    if (v->options->bad != NULL)
        v->options->bad(v->options->ctx, text);
    pthread_mutex_unlock(&v->lock);
}

static bool is_stopped(const struct verifier *v)
{
    return v->options->stop != NULL && *v->options->stop != 0;
}

/* Waits until the bytes taken so far are due at the rate that was asked for. */
static void keep_rate(struct verifier *v, uint64_t taken_bytes)
{
    uint64_t rate = v->options->rate_bytes_per_s;
    if (rate == 0)
        return;
    uint64_t due_ns = v->begin_ns + (uint64_t)((double)taken_bytes / (double)rate * 1e9);
    for (uint64_t now; !is_stopped(v) && (now = ps_now_ns()) < due_ns;) {
        uint64_t pause_ns = ps_min_u64(due_ns - now, PAUSE_NS_MAX);
        nanosleep(&(struct timespec){.tv_nsec = (long)pause_ns}, NULL);
    }
}

/* Takes the next slices; false at the end. */
static bool take_job(struct verifier *v, struct job *job)
{
    const struct ps_map *map = &v->volume->map;
    pthread_mutex_lock(&v->lock);
    *job = (struct job){.begin = v->next_slice, .end = v->next_slice, .object = v->next_object};
    while (!is_stopped(v) && job->end < map->header->slice_count &&
           (job->end == job->begin || job->bytes + map->slices[job->end].bytes <= v->run_bytes))
        job->bytes += map->slices[job->end++].bytes;
    v->next_slice = job->end;
    while (v->next_object < map->header->object_count &&
           map->objects[v->next_object].first_slice + map->objects[v->next_object].slice_count <=
               job->end)
        v->next_object++;
    uint64_t before = v->taken_bytes;
    v->taken_bytes += job->bytes * v->copies;
    pthread_mutex_unlock(&v->lock);
    keep_rate(v, before);
    return job->begin < job->end && !is_stopped(v);
}

/*
 * What a missing member held is taken from the other copy: so what is there of this one is checked,
 * too. Both copies of a piece never lie on one member.
 */
static void fill_gaps(const struct verifier *v, const struct job *job, struct ps_run *runs)
{
    const struct ps_map *map = &v->volume->map;
    for (uint32_t copy = 0; v->copies > 1 && copy < v->copies; copy++) {
        uint64_t at = 0;
        const struct ps_disk_piece *piece = ps_map_pieces(map, job->begin, copy);
        for (; at < job->bytes; at += (piece++)->bytes) {
            if (v->reader.fds[piece->member] < 0)
                memcpy(runs[copy].buf + at, runs[1 - copy].buf + at, piece->bytes);
        }
        for (int m = 0; m < v->volume->member_count; m++) {
            if (v->reader.fds[m] < 0)
                runs[copy].member_rc[m] = 0;
        }
    }
}

static void report_slice(struct verifier *v, uint32_t object, uint64_t slice, uint32_t copy, int rc,
                         uint32_t piece, const char *other)
{
    const struct ps_map *map = &v->volume->map;
    uint32_t number = (uint32_t)(slice - map->objects[object].first_slice);
    char where[768], text[1024];
    if (rc == -PS_ERR_CHECKSUM) {
        ps_volume_copy_text(v->volume, object, number, copy, where, sizeof(where));
        snprintf(text, sizeof(text), "%s: the data does not have its checksum%s", where, other);
    } else {
        const struct ps_disk_piece *p = &ps_map_pieces(map, slice, copy)[piece];
        snprintf(text, sizeof(text),
                 "%s, slice %u of %u: bytes %llu to %llu of %s cannot be read: %s%s",
                 ps_map_name(map, object), number + 1, map->objects[object].slice_count,
                 (unsigned long long)p->offset_bytes,
                 (unsigned long long)(p->offset_bytes + p->bytes - 1),
                 v->volume->members[p->member].path, ps_strerror(rc), other);
    }
    report_bad(v, text);
}

static void check_slice(struct verifier *v, const struct ps_run *runs, uint32_t object,
                        uint64_t slice, uint64_t offset)
{
    int rc[2] = {0, 0};
    uint32_t piece[2] = {0, 0};
    for (uint32_t copy = 0; copy < v->copies; copy++)
        rc[copy] =
            ps_run_check(&v->reader, &runs[copy], slice, runs[copy].buf + offset, &piece[copy]);
    for (uint32_t copy = 0; copy < v->copies; copy++) {
        const char *other = v->copies == 1      ? ""
                            : rc[1 - copy] == 0 ? "; its other copy is good"
                                                : "; its other copy is bad, too";
        if (rc[copy] < 0)
            report_slice(v, object, slice, copy, rc[copy], piece[copy], other);
    }
}

static void check_job(struct verifier *v, const struct job *job, uint8_t *const *buffers)
{
    const struct ps_map *map = &v->volume->map;
    struct ps_run runs[2];
    uint32_t object = job->object;
    uint64_t offset = 0;
    for (uint32_t copy = 0; copy < v->copies; copy++) {
        runs[copy] = (struct ps_run){
            .begin = job->begin, .end = job->end, .copy = copy, .buf = buffers[copy]};
        ps_run_read(&v->reader, &runs[copy]);
    }
    fill_gaps(v, job, runs);
    for (uint64_t s = job->begin; s < job->end; s++) {
        while (s >= map->objects[object].first_slice + map->objects[object].slice_count)
            object++;
        check_slice(v, runs, object, s, offset);
        offset += map->slices[s].bytes;
    }
}

static void work(void *ctx, int thread_idx, int thread_count)
{
    struct verifier *v = ctx;
    uint8_t *const *buffers = &v->buffers[(uint32_t)thread_idx * v->copies];
    struct job job;
    (void)thread_count;
    while (buffers[v->copies - 1] != NULL && take_job(v, &job)) {
        check_job(v, &job, buffers);
        pthread_mutex_lock(&v->lock);
        v->report.bytes_read += job.bytes * v->copies;
        v->report.slices_checked += (job.end - job.begin) * v->copies;
        if (v->options->progress != NULL)
            v->options->progress(v->options->ctx, v->report.bytes_read, v->total_bytes);
        pthread_mutex_unlock(&v->lock);
    }
}

/* ---- what lies around the data --------------------------------------------------------------- */

static void bad_range(struct verifier *v, const struct ps_member *m, const char *what,
                      uint64_t offset, uint64_t bytes)
{
    char text[1024];
    snprintf(text, sizeof(text), "%s: the %s (bytes %llu to %llu) is damaged or cannot be read",
             m->path, what, (unsigned long long)offset, (unsigned long long)(offset + bytes - 1));
    v->report.ranges_bad++; /* the workers have finished */
    report_bad(v, text);
}

static void bad_member(struct verifier *v, int number)
{
    char text[1024];
    snprintf(text, sizeof(text),
             "member %d of %d is missing%s%s: its slices are read from their "
             "other copies",
             number + 1, v->volume->member_count,
             v->volume->members[number].path[0] != 0 ? ", last seen as " : "",
             v->volume->members[number].path);
    v->report.ranges_bad++;
    report_bad(v, text);
}

static void check_superblocks(struct verifier *v, const struct ps_member *m)
{
    static const char *const names[2] = {"first superblock", "second superblock"};
    const struct ps_disk_superblock *sb = &m->sb;
    for (int copy = 0; copy < 2; copy++) {
        struct ps_disk_superblock found;
        uint64_t offset = copy == 0 ? 0 : sb->second_offset;
        if (ps_raw_read(m->fd, &found, sizeof(found), offset) < 0 ||
            memcmp(&found, sb, sizeof(found)) != 0)
            bad_range(v, m, names[copy], offset, sizeof(found));
        v->report.bytes_read += sizeof(found);
    }
}

static bool record_good(const struct ps_member *m, uint64_t offset)
{
    uint8_t *half = ps_raw_alloc(PS_RECORD_HALF_BYTES);
    bool good = half != NULL && ps_raw_read(m->fd, half, PS_RECORD_HALF_BYTES, offset) == 0 &&
                ps_record_valid(half, m->sb.uuid);
    free(half);
    return good;
}

static void check_head(struct verifier *v, const struct ps_member *m)
{
    const struct ps_disk_superblock *sb = &m->sb;
    struct ps_disk_table *table = NULL;
    struct ps_map map = {0};
    void *data = NULL;
    /* Not what the page cache remembers from opening, but what is on the drive. */
    posix_fadvise(m->fd, 0, (off_t)sb->data_begin, POSIX_FADV_DONTNEED);
    posix_fadvise(m->fd, (off_t)sb->second_offset, 0, POSIX_FADV_DONTNEED);
    check_superblocks(v, m);
    if (ps_member_table_read(m, &table, NULL) < 0)
        bad_range(v, m, "member table", sb->table_offset, sb->table_bytes);
    if (ps_volume_map_read(m, &data, &map, NULL) < 0)
        bad_range(v, m, "map", sb->map_offset, sb->map_bytes);
    for (int half = 0; half < 2; half++) {
        uint64_t offset = sb->record_offset + (uint64_t)half * PS_RECORD_HALF_BYTES;
        if (!record_good(m, offset))
            bad_range(v, m, "record area", offset, PS_RECORD_HALF_BYTES);
    }
    v->report.bytes_read += sb->table_bytes + sb->map_bytes + sb->record_bytes;
    free(table);
    ps_map_fini(&map);
    free(data);
}

static int make_buffers(struct verifier *v, uint32_t worker_count, struct ps_error *err)
{
    const struct ps_map *map = &v->volume->map;
    uint64_t rate = v->options->rate_bytes_per_s, longest = 0, all = 0;
    v->run_bytes = RUN_BYTES_AIM;
    if (rate != 0)
        v->run_bytes = ps_max_u64(ps_min_u64(rate / 8, RUN_BYTES_AIM), RUN_BYTES_MIN);
    for (uint64_t i = 0; i < map->header->slice_count; i++) {
        longest = ps_max_u64(longest, map->slices[i].bytes);
        all += map->slices[i].bytes;
    }
    /* A slice is never cut, and a run of a small volume is all of it. */
    v->buffer_bytes = ps_max_u64(ps_min_u64(v->run_bytes, all), longest);
    for (uint32_t m = 0; m < map->header->member_count; m++)
        v->total_bytes += map->extents[m].data_end - map->extents[m].data_begin;
    uint64_t most = ps_max_u64(BUFFER_BYTES_MAX / v->buffer_bytes, 1) * v->copies;
    uint32_t count = worker_count * v->copies;
    v->buffers = calloc(count, sizeof(*v->buffers));
    for (uint32_t i = 0; v->buffers != NULL && i < count && i < most; i++)
        v->buffers[i] = ps_raw_alloc(v->buffer_bytes);
    if (v->buffers == NULL || v->buffers[v->copies - 1] == NULL)
        return ps_error_set(err, -ENOMEM, "verify", "not enough memory for a buffer of %llu bytes",
                            (unsigned long long)v->buffer_bytes);
    return 0;
}

static int check_all(struct verifier *v, struct ps_pool *pool, struct ps_error *err)
{
    struct ps_volume *volume = v->volume;
    for (int m = 0; m < volume->member_count; m++) {
        if (volume->members[m].fd < 0)
            bad_member(v, m);
    }
    v->begin_ns = ps_now_ns();
    ps_pool_run(pool, work, v);
    for (int m = 0; m < volume->member_count && !is_stopped(v); m++) {
        if (volume->members[m].fd >= 0)
            check_head(v, &volume->members[m]);
    }
    if (is_stopped(v))
        return ps_error_set(err, -EINTR, volume->members[0].path, "stopped before the end");
    return 0;
}

int ps_volume_verify(struct ps_volume *volume, const struct ps_verify_options *options,
                     struct ps_verify_report *report, struct ps_error *err)
{
    struct verifier v = {.volume = volume,
                         .options = options,
                         .copies = ps_map_copy_count(&volume->map),
                         .lock = PTHREAD_MUTEX_INITIALIZER};
    struct ps_pool *pool = NULL;
    uint32_t worker_count = 0;
    int rc = ps_reader_open(&v.reader, volume, err);
    if (rc == 0)
        rc = ps_pool_open(&pool, options->threads, err);
    if (rc == 0) {
        worker_count = (uint32_t)ps_pool_thread_count(pool);
        rc = make_buffers(&v, worker_count, err);
    }
    if (rc == 0)
        rc = check_all(&v, pool, err);
    for (uint32_t i = 0; v.buffers != NULL && i < worker_count * v.copies; i++)
        free(v.buffers[i]);
    free(v.buffers);
    ps_pool_close(&pool);
    ps_reader_close(&v.reader);
    if ((rc == 0 || rc == -EINTR) && report != NULL)
        *report = v.report;
    return rc;
}
