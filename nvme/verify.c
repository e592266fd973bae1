/* Reading a whole volume and checking every checksum in it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/pool.h"
#include "core/util.h"
#include "nvme/raw_io.h"
#include "nvme/volume.h"
#include "nvme/volume_internal.h"

/* Slices are taken in runs of about this size: on each member a run is one contiguous read. */
#define RUN_BYTES_AIM (8u << 20)
#define BUFFER_BYTES_MAX (UINT64_C(1) << 30)

struct verifier {
    struct ps_volume *volume;
    void (*bad)(void *ctx, const char *text);
    void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *ctx;
    int fds[PS_MEMBER_COUNT_MAX]; /* O_DIRECT where possible; -1 = not opened */
    uint8_t **buffers;            /* one per worker */
    uint64_t buffer_bytes, total_bytes;
    pthread_mutex_t lock; /* over everything below, and around the callbacks */
    uint64_t next_slice;
    uint32_t next_object;
    struct ps_verify_report report;
};

/* Slices [begin, end) of the map; the first belongs to `object`. */
struct run {
    uint64_t begin, end;
    uint32_t object;
    uint64_t bytes;
    uint64_t member_bytes[PS_MEMBER_COUNT_MAX];
    uint64_t member_offset[PS_MEMBER_COUNT_MAX];
    uint64_t member_base[PS_MEMBER_COUNT_MAX]; /* in the buffer */
    int member_rc[PS_MEMBER_COUNT_MAX];
};

static void report_bad(struct verifier *v, const char *text)
{
    pthread_mutex_lock(&v->lock);
    v->report.slices_bad++;
    if (v->bad != NULL)
        v->bad(v->ctx, text);
    pthread_mutex_unlock(&v->lock);
}

/* Takes the next run; false at the end. */
static bool take_run(struct verifier *v, struct run *run)
{
    const struct ps_map *map = &v->volume->map;
    memset(run, 0, sizeof(*run));
    pthread_mutex_lock(&v->lock);
    run->begin = run->end = v->next_slice;
    run->object = v->next_object;
    while (run->end < map->header->slice_count &&
           (run->end == run->begin || run->bytes + map->slices[run->end].bytes <= RUN_BYTES_AIM))
        run->bytes += map->slices[run->end++].bytes;
    v->next_slice = run->end;
    while (v->next_object < map->header->object_count &&
           map->objects[v->next_object].first_slice + map->objects[v->next_object].slice_count <=
               run->end)
        v->next_object++;
    pthread_mutex_unlock(&v->lock);
    return run->begin < run->end;
}

/* Pieces on one member follow each other in map order, so each member is read once per run. */
static void read_run(struct verifier *v, struct run *run, uint8_t *buf)
{
    const struct ps_map *map = &v->volume->map;
    const struct ps_disk_slice *last = &map->slices[run->end - 1];
    uint64_t base = 0;
    for (uint64_t p = map->slices[run->begin].first_piece;
         p < last->first_piece + last->piece_count; p++) {
        const struct ps_disk_piece *piece = &map->pieces[p];
        if (run->member_bytes[piece->member] == 0)
            run->member_offset[piece->member] = piece->offset_bytes;
        run->member_bytes[piece->member] += piece->bytes;
    }
    for (uint32_t m = 0; m < map->header->member_count; m++) {
        run->member_base[m] = base;
        base += run->member_bytes[m];
        if (run->member_bytes[m] > 0)
            run->member_rc[m] = ps_raw_read(v->fds[m], buf + run->member_base[m],
                                            run->member_bytes[m], run->member_offset[m]);
    }
}

/* Reads a piece by itself where the large read failed; names it if it cannot be read. */
static int read_piece(struct verifier *v, struct run *run, uint8_t *buf, uint32_t object,
                      const struct ps_disk_piece *piece)
{
    uint64_t at =
        run->member_base[piece->member] + piece->offset_bytes - run->member_offset[piece->member];
    int rc = ps_raw_read(v->fds[piece->member], buf + at, piece->bytes, piece->offset_bytes);
    if (rc < 0) {
        char text[1024];
        snprintf(text, sizeof(text), "%s: bytes %llu to %llu of %s cannot be read: %s",
                 ps_map_name(&v->volume->map, object), (unsigned long long)piece->offset_bytes,
                 (unsigned long long)(piece->offset_bytes + piece->bytes - 1),
                 v->volume->members[piece->member].path, ps_strerror(rc));
        pthread_mutex_lock(&v->lock);
        if (v->bad != NULL)
            v->bad(v->ctx, text);
        pthread_mutex_unlock(&v->lock);
    }
    return rc;
}

static void check_slice(struct verifier *v, struct run *run, uint8_t *buf, uint32_t object,
                        uint64_t slice, XXH3_state_t *state)
{
    const struct ps_map *map = &v->volume->map;
    const struct ps_disk_slice *s = &map->slices[slice];
    bool readable = true;
    XXH3_64bits_reset(state);
    for (uint32_t i = 0; i < s->piece_count; i++) {
        const struct ps_disk_piece *piece = &map->pieces[s->first_piece + i];
        uint32_t m = piece->member;
        if (run->member_rc[m] < 0 && read_piece(v, run, buf, object, piece) < 0)
            readable = false;
        uint64_t at = run->member_base[m] + piece->offset_bytes - run->member_offset[m];
        XXH3_64bits_update(state, buf + at, piece->bytes);
    }
    if (readable && XXH3_64bits_digest(state) == s->checksum)
        return;
    if (readable) {
        char where[768], text[1024];
        ps_volume_slice_text(v->volume, object,
                             (uint32_t)(slice - map->objects[object].first_slice), where,
                             sizeof(where));
        snprintf(text, sizeof(text), "%s: the data does not have its checksum", where);
        report_bad(v, text);
        return;
    }
    pthread_mutex_lock(&v->lock); /* its pieces have been named */
    v->report.slices_bad++;
    pthread_mutex_unlock(&v->lock);
}

static void work(void *ctx, int thread_idx, int thread_count)
{
    struct verifier *v = ctx;
    const struct ps_map *map = &v->volume->map;
    uint8_t *buf = v->buffers[thread_idx];
    XXH3_state_t *state = buf != NULL ? XXH3_createState() : NULL;
    struct run run;
    (void)thread_count;
    while (state != NULL && take_run(v, &run)) {
        read_run(v, &run, buf);
        uint32_t object = run.object;
        for (uint64_t s = run.begin; s < run.end; s++) {
            while (s >= map->objects[object].first_slice + map->objects[object].slice_count)
                object++;
            check_slice(v, &run, buf, object, s, state);
        }
        pthread_mutex_lock(&v->lock);
        v->report.bytes_read += run.bytes;
        v->report.slices_checked += run.end - run.begin;
        if (v->progress != NULL)
            v->progress(v->ctx, v->report.bytes_read, v->total_bytes);
        pthread_mutex_unlock(&v->lock);
    }
    XXH3_freeState(state);
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
    bool good = half != NULL && ps_raw_read(m->fd, half, PS_RECORD_HALF_BYTES, offset) == 0;
    if (good) {
        struct ps_disk_record *record = (void *)half;
        uint64_t checksum = record->checksum;
        record->checksum = 0;
        good = memcmp(record->magic, PS_RECORD_MAGIC, sizeof(record->magic)) == 0 &&
               XXH3_64bits(half, PS_RECORD_HALF_BYTES) == checksum;
    }
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

static int open_direct(struct verifier *v, struct ps_error *err)
{
    for (int m = 0; m < v->volume->member_count; m++)
        v->fds[m] = -1;
    for (int m = 0; m < v->volume->member_count; m++) {
        int fd = ps_volume_reopen(v->volume, m, O_RDONLY | O_DIRECT);
        if (fd == -EINVAL)
            fd = ps_volume_reopen(v->volume, m, O_RDONLY);
        if (fd < 0)
            return ps_error_set(err, fd, v->volume->members[m].path,
                                "cannot be opened again for reading: %s", ps_strerror(fd));
        v->fds[m] = fd;
    }
    return 0;
}

static int make_buffers(struct verifier *v, int worker_count, struct ps_error *err)
{
    const struct ps_map *map = &v->volume->map;
    v->buffer_bytes = RUN_BYTES_AIM;
    for (uint64_t i = 0; i < map->header->slice_count; i++)
        v->buffer_bytes = ps_max_u64(v->buffer_bytes, map->slices[i].bytes);
    for (uint32_t m = 0; m < map->header->member_count; m++)
        v->total_bytes += map->extents[m].data_end - map->extents[m].data_begin;
    uint64_t most = ps_max_u64(BUFFER_BYTES_MAX / v->buffer_bytes, 1);
    v->buffers = calloc((size_t)worker_count, sizeof(*v->buffers));
    for (int i = 0; v->buffers != NULL && i < worker_count && (uint64_t)i < most; i++)
        v->buffers[i] = ps_raw_alloc(v->buffer_bytes);
    if (v->buffers == NULL || v->buffers[0] == NULL)
        return ps_error_set(err, -ENOMEM, "verify", "not enough memory for a buffer of %llu bytes",
                            (unsigned long long)v->buffer_bytes);
    return 0;
}

int ps_volume_verify(struct ps_volume *volume, void (*bad)(void *ctx, const char *text),
                     void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes),
                     void *ctx, struct ps_verify_report *report, struct ps_error *err)
{
    struct verifier v = {.volume = volume,
                         .bad = bad,
                         .progress = progress,
                         .ctx = ctx,
                         .lock = PTHREAD_MUTEX_INITIALIZER};
    struct ps_pool *pool = NULL;
    int worker_count = 0;
    int rc = open_direct(&v, err);
    if (rc == 0)
        rc = ps_pool_open(&pool, 0, err);
    if (rc == 0) {
        worker_count = ps_pool_thread_count(pool);
        rc = make_buffers(&v, worker_count, err);
    }
    if (rc == 0) {
        ps_pool_run(pool, work, &v);
        if (v.next_slice < volume->map.header->slice_count)
            rc = ps_error_set(err, -ENOMEM, "verify", "not enough memory");
    }
    for (int m = 0; rc == 0 && m < volume->member_count; m++)
        check_head(&v, &volume->members[m]);
    for (int i = 0; v.buffers != NULL && i < worker_count; i++)
        free(v.buffers[i]);
    free(v.buffers);
    ps_pool_close(&pool);
    for (int m = 0; m < volume->member_count; m++) {
        if (v.fds[m] >= 0)
            close(v.fds[m]);
    }
    if (rc == 0 && report != NULL)
        *report = v.report;
    return rc;
}
