/* Moving a volume to other members, or to the same ones with other weights, without its source. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/topology.h"
#include "core/util.h"
#include "nvme/layout_internal.h"
#include "nvme/raw_io.h"
#include "nvme/read.h"
#include "nvme/switch.h"
#include "nvme/volume_internal.h"

/* Workers wait for drives here; more than this do not make them faster. */
#define THREAD_COUNT_MAX 16

struct mover {
    const struct ps_rebalance_options *options;
    const char *const *paths;
    int path_count;
    struct ps_volume *old;
    struct ps_reader reader;
    /* The description of the old volume, as a layout would be given it. */
    struct ps_layout_spec spec;
    struct ps_layout_object *objects;
    struct ps_layout_slice *slices;
    struct ps_layout_blob *blobs;
    struct ps_member_profile *profiles; /* recorded ones, where they hold for the new members */
    struct ps_layout_options layout;
    struct ps_writer writer;
};

/* ---- the old volume as a source -------------------------------------------------------------- */

static const struct ps_disk_superblock *any_superblock(const struct ps_volume *v)
{
    int m = 0;
    while (v->members[m].fd < 0)
        m++;
    return &v->members[m].sb;
}

/* Slices count with their padding: what is behind it cannot be told, and the cuts are the same. */
static int describe(struct mover *r, struct ps_error *err)
{
    const struct ps_map *map = &r->old->map;
    const struct ps_disk_superblock *sb = any_superblock(r->old);
    r->objects = calloc(map->header->object_count, sizeof(*r->objects));
    r->slices = calloc(map->header->slice_count, sizeof(*r->slices));
    r->blobs = calloc(map->header->blob_count + 1, sizeof(*r->blobs));
    if (r->objects == NULL || r->slices == NULL || r->blobs == NULL)
        return ps_error_set(err, -ENOMEM, "rebalance", "not enough memory");
    for (uint64_t i = 0; i < map->header->slice_count; i++)
        r->slices[i] = (struct ps_layout_slice){.bytes = map->slices[i].bytes,
                                                .unit_begin = map->slices[i].unit_begin,
                                                .unit_count = map->slices[i].unit_count};
    for (uint32_t i = 0; i < map->header->object_count; i++)
        r->objects[i] = (struct ps_layout_object){.kind = (enum ps_object_kind)map->objects[i].kind,
                                                  .group = map->objects[i].group,
                                                  .index = map->objects[i].index,
                                                  .name = ps_map_name(map, i),
                                                  .slices = &r->slices[map->objects[i].first_slice],
                                                  .slice_count = map->objects[i].slice_count};
    for (uint32_t i = 0; i < map->header->blob_count; i++)
        r->blobs[i] = (struct ps_layout_blob){.name = map->blobs[i].name,
                                              .data = (const uint8_t *)map->header +
                                                      map->blobs[i].offset_bytes,
                                              .bytes = map->blobs[i].bytes};
    r->spec =
        (struct ps_layout_spec){.objects = r->objects,
                                .object_count = map->header->object_count,
                                .blobs = r->blobs,
                                .blob_count = map->header->blob_count,
                                .source_fingerprint = {sb->fingerprint[0], sb->fingerprint[1]},
                                .source_name = sb->source_name};
    return 0;
}

/* A slice that is not as recorded in the first copy, from both. */
static int recover(struct mover *r, uint32_t object, uint32_t slice, int rc, uint8_t *data,
                   struct ps_error *err)
{
    uint64_t number = (uint64_t)(r->objects[object].slices - r->slices) + slice;
    bool two_copies = ps_volume_copy_count(r->old) > 1;
    const char *why =
        rc == -PS_ERR_CHECKSUM ? "the data does not have its checksum" : ps_strerror(rc);
    char text[512];
    int recovered = two_copies ? ps_slice_recover(&r->reader, number, data) : rc;
    ps_volume_slice_text(r->old, object, slice, text, sizeof(text));
    if (recovered < 0)
        return ps_error_set(err, recovered, text,
                            "%s%s; nothing is made from it: lay the model out again", why,
                            two_copies ? ", and its other copy is bad, too" : "");
    if (rc != -PS_ERR_MEMBER)
        ps_log(PS_LOG_WARN, "%s: %s; its second copy is used", text, why);
    return 0;
}

static int fill(void *ctx, int worker, uint32_t object, uint32_t slice_begin, uint32_t slice_end,
                uint8_t *buf, struct ps_error *err)
{
    struct mover *r = ctx;
    uint64_t first = (uint64_t)(r->objects[object].slices - r->slices);
    struct ps_run run = {.begin = first + slice_begin, .end = first + slice_end, .buf = buf};
    uint8_t *data = buf;
    int rc = 0;
    (void)worker;
    ps_run_read(&r->reader, &run);
    for (uint32_t i = slice_begin; rc == 0 && i < slice_end; i++) {
        uint32_t piece;
        rc = ps_run_check(&r->reader, &run, first + i, data, &piece);
        if (rc < 0)
            rc = recover(r, object, i, rc, data, err);
        data += r->slices[first + i].bytes;
    }
    return rc;
}

/* ---- what is asked for ----------------------------------------------------------------------- */

/* What is recorded of the drives serves again where all of them stay. */
static int choose_profiles(struct mover *r, struct ps_error *err)
{
    const struct ps_rebalance_options *o = r->options;
    r->layout.profiles = o->profiles;
    if (o->profiles != NULL || !r->old->has_profiles)
        return 0;
    r->profiles = calloc((size_t)o->member_count, sizeof(*r->profiles));
    if (r->profiles == NULL)
        return ps_error_set(err, -ENOMEM, "rebalance", "not enough memory");
    for (int m = 0; m < o->member_count; m++) {
        int number = ps_volume_find_path(r->old, o->members[m]);
        if (number < 0)
            return 0;
        r->profiles[m] = r->old->profiles[number];
    }
    r->layout.profiles = r->profiles;
    return 0;
}

static int choose_layout(struct mover *r, struct ps_error *err)
{
    const struct ps_rebalance_options *o = r->options;
    struct ps_topology topo;
    ps_topology_get(&topo);
    uint64_t threads = ps_max_u64((uint64_t)topo.cpu_count, 2 * (uint64_t)r->old->member_count);
    r->layout = (struct ps_layout_options){
        .members = o->members,
        .member_count = o->member_count,
        .copies = o->copies,
        .resume = o->resume,
        .destroy = o->destroy,
        .destroy_count = o->destroy_count,
        .threads = o->threads > 0 ? o->threads : (int)ps_min_u64(threads, THREAD_COUNT_MAX),
        .progress = o->progress,
        .progress_ctx = o->progress_ctx,
        .stop = o->stop,
    };
    return choose_profiles(r, err);
}

/*
 * A resume that finds nothing begun, and the volume as it was asked for: then it had finished.
 * Without --resume the same members are written anew, which also heals what has a good copy.
 */
static bool is_done(const struct mover *r)
{
    const struct ps_writer *w = &r->writer;
    const struct ps_disk_superblock *sb = any_superblock(r->old);
    struct ps_disk_superblock wanted = {.member_count = w->member_count};
    if (!r->options->resume || sb->member_count != w->member_count ||
        sb->align != w->plan.options.align)
        return false;
    for (uint32_t m = 0; m < w->member_count; m++) {
        if (w->shared[m] != (int)m || w->targets[m].is_member)
            return false;
    }
    ps_plan_options_put(&w->plan.options, &wanted);
    return memcmp(wanted.weights, sb->weights, sizeof(sb->weights)) == 0 &&
           memcmp(wanted.nodes, sb->nodes, sizeof(sb->nodes)) == 0 &&
           wanted.piece_bytes_min == sb->piece_bytes_min &&
           wanted.further_copies == sb->further_copies;
}

/* ---- moving ---------------------------------------------------------------------------------- */

/* What the end of the move works on; free sb. */
static int switch_init(struct mover *r, struct ps_switch *s, struct ps_error *err)
{
    struct ps_writer *w = &r->writer;
    *s = (struct ps_switch){.targets = w->targets,
                            .count = w->member_count,
                            .stages = w->stages,
                            .sb = ps_raw_alloc(w->member_count * sizeof(*s->sb)),
                            .old = r->old,
                            .paths = r->paths,
                            .path_count = r->path_count};
    if (s->sb != NULL)
        return 0;
    return ps_error_set(err, -ENOMEM, "rebalance", "not enough memory; continue with --resume");
}

static int change_over(struct mover *r, struct ps_error *err)
{
    struct ps_writer *w = &r->writer;
    struct ps_switch s;
    int rc = switch_init(r, &s, err);
    if (rc < 0)
        return rc;
    for (uint32_t m = 0; m < w->member_count; m++) {
        s.sb[m] = w->targets[m].sb;
        if (w->marked)
            ps_writer_fill_superblock(w, m, PS_VOLUME_COMPLETE, &s.sb[m]);
        ps_switch_finalize(&s.sb[m]);
    }
    rc = ps_switch_run(&s, err);
    free(s.sb);
    return rc;
}

/* The very last step is repeated, too: the space of the volume before may still be taken. */
static int tidy(struct mover *r, struct ps_error *err)
{
    struct ps_switch s;
    int rc = switch_init(r, &s, err);
    if (rc < 0)
        return rc;
    ps_log(PS_LOG_INFO, "the volume is as it was asked for; nothing was left to do");
    for (uint32_t m = 0; m < s.count; m++)
        s.sb[m] = r->old->members[m].sb;
    ps_switch_free_space(&s);
    free(s.sb);
    return 0;
}

static int move(struct mover *r, struct ps_error *err)
{
    struct ps_writer *w = &r->writer;
    int rc = ps_writer_open(w, &r->spec, &r->layout, r->old, err);
    if (rc == 0) {
        memcpy(w->origin, any_superblock(r->old)->uuid, sizeof(w->origin));
        rc = ps_writer_prepare(w, err);
    }
    if (rc == 0 && is_done(r)) {
        rc = tidy(r, err);
    } else if (rc == 0) {
        if (!r->options->resume || !ps_writer_is_complete(w))
            rc = ps_writer_write(w, fill, r, err);
        if (rc == 0)
            rc = change_over(r, err);
    }
    ps_writer_close(w, rc < 0);
    return rc;
}

/* ---- a rebalance that was stopped after everything was written ------------------------------- */

/* One member of the new volume as a resume finds it: false unless it is complete. */
static bool read_home(const struct ps_target *t, uint64_t *stage, struct ps_disk_superblock *sb)
{
    struct ps_superblock_pair pair;
    if (!t->is_member || t->sb.state != PS_VOLUME_COMPLETE)
        return false;
    *stage = 0;
    if (!ps_superblock_find_staged(t->fd, &t->sb, stage, &pair) &&
        !ps_superblock_find_left(t->fd, &t->sb, stage, &pair))
        pair = t->pair;
    *sb = pair.copy[pair.best];
    return pair.valid[0] && pair.valid[1] && pair.copy[0].state == PS_VOLUME_COMPLETE &&
           pair.copy[1].state == PS_VOLUME_COMPLETE;
}

/*
 * Opens the new members. Returns 1 when all of them carry one complete volume, *staged telling
 * whether some do so in a stage; 0 when they do not.
 */
static int gather(const struct mover *r, struct ps_switch *s, uint64_t *stages, bool *staged,
                  struct ps_error *err)
{
    const struct ps_rebalance_options *o = r->options;
    *staged = false;
    for (int m = 0; m < o->member_count; m++) {
        struct ps_error reason = {0};
        int rc = ps_target_open(&s->targets[m], o->members[m], &reason);
        if (rc == -PS_ERR_IN_USE || rc == -ENOMEM) {
            if (err != NULL)
                *err = reason;
            return rc;
        }
        if (rc < 0 || !read_home(&s->targets[m], &stages[m], &s->sb[m]) ||
            s->sb[m].member != (uint32_t)m || s->sb[m].member_count != (uint32_t)o->member_count ||
            memcmp(s->sb[m].uuid, s->sb[0].uuid, sizeof(s->sb[m].uuid)) != 0)
            return 0;
        rc = ps_target_check_alone(&s->targets[m], err);
        if (rc < 0)
            return rc;
        *staged |= stages[m] != 0;
        ps_switch_finalize(&s->sb[m]);
    }
    return 1;
}

/*
 * Moved without a difference, the old volume and the new one have one UUID: what is left of the old
 * one must not be completed by members of the new one, and opened.
 */
static bool is_twin(const struct mover *r, const struct ps_switch *s)
{
    struct ps_superblock_pair pair;
    struct stat st;
    int fd = open(r->paths[0], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool twin = fd >= 0 && fstat(fd, &st) == 0 && !ps_switch_keeps(s, &st) &&
                ps_superblock_read(fd, r->paths[0], &pair, NULL) == 0 &&
                memcmp(pair.copy[pair.best].uuid, s->sb[0].uuid, sizeof(s->sb[0].uuid)) == 0;
    if (fd >= 0)
        close(fd);
    return twin;
}

/*
 * Returns 1 when the change-over has been finished, 0 when there is none to finish. With all
 * members in place it is only taken for one when the old volume does not open: else it may be that
 * volume itself.
 */
static int finish(const struct mover *r, bool old_opens, struct ps_error *err)
{
    const struct ps_rebalance_options *o = r->options;
    struct ps_target *targets = calloc((size_t)o->member_count, sizeof(*targets));
    uint64_t stages[PS_MEMBER_COUNT_MAX] = {0};
    struct ps_switch s = {.targets = targets,
                          .count = (uint32_t)o->member_count,
                          .stages = stages,
                          .sb = ps_raw_alloc((size_t)o->member_count * sizeof(*s.sb)),
                          .paths = r->paths,
                          .path_count = r->path_count};
    bool staged = false;
    int rc = -ENOMEM;
    for (int m = 0; targets != NULL && m < o->member_count; m++)
        targets[m].fd = -1;
    if (targets == NULL || s.sb == NULL)
        ps_error_set(err, rc, "rebalance", "not enough memory");
    else
        rc = gather(r, &s, stages, &staged, err);
    if (rc == 1 && !staged && old_opens && !is_twin(r, &s))
        rc = 0;
    if (rc == 1) {
        int done = ps_switch_run(&s, err);
        rc = done < 0 ? done : 1;
    }
    for (int m = 0; targets != NULL && m < o->member_count; m++)
        ps_target_close(&targets[m], false);
    free(targets);
    free(s.sb);
    return rc;
}

int ps_volume_rebalance(const char *const *paths, int path_count,
                        const struct ps_rebalance_options *options, struct ps_error *err)
{
    struct mover r = {.options = options, .paths = paths, .path_count = path_count};
    if (options->member_count < 1 || options->member_count > PS_MEMBER_COUNT_MAX)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "rebalance", "name 1 to %d members",
                            PS_MEMBER_COUNT_MAX);
    int rc = options->resume ? finish(&r, true, err) : 0;
    if (rc != 0)
        return rc < 0 ? rc : 0;
    rc = ps_volume_open(&r.old, paths, path_count, err);
    if (rc < 0 && options->resume && rc != -PS_ERR_IN_USE && finish(&r, false, NULL) == 1)
        return 0;
    if (rc < 0)
        return rc;
    rc = ps_volume_lock(r.old, err);
    if (rc == 0)
        rc = ps_reader_open(&r.reader, r.old, err);
    if (rc == 0)
        rc = describe(&r, err);
    if (rc == 0)
        rc = choose_layout(&r, err);
    if (rc == 0)
        rc = move(&r, err);
    ps_reader_close(&r.reader);
    free(r.objects);
    free(r.slices);
    free(r.blobs);
    free(r.profiles);
    ps_volume_close(&r.old);
    return rc;
}
