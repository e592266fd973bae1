/* read_objects VOLUME MEMORY: streams every object of a volume within MEMORY MiB and adds up its
 * bytes. See docs/io.md. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "nvme/penstock_io.h"

#define LEASES 4

/* The work: something done with each slice as soon as it is in memory. */
static uint64_t slice_sum(const uint8_t *data, uint32_t bytes)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < bytes; i++)
        sum += data[i];
    return sum;
}

/* Works through the objects numbered [begin, begin + count) while the later ones still land. */
static int objects_sum(struct ps_volume *volume, struct ps_store *store, const uint32_t *objects,
                       size_t count, uint64_t *sum, struct ps_error *err)
{
    struct ps_lease leases[LEASES] = {0};
    uint32_t done[LEASES] = {0}; /* slices worked through */
    int rc = 0;

    for (size_t i = 0; i < count && rc >= 0; i++) {
        struct ps_object_info info;
        ps_volume_object(volume, objects[i], &info);
        rc = ps_store_get(store, info.group, info.index, &leases[i], err);
    }
    for (size_t left = count; left > 0 && rc >= 0;) {
        for (size_t i = 0; i < count; i++) {
            if (!leases[i].slices)
                continue;
            for (; done[i] < leases[i].slice_count && leases[i].landed[done[i]]; done[i]++) {
                struct ps_slice_info slice;
                ps_volume_slice(volume, objects[i], done[i], &slice);
                *sum += slice_sum(leases[i].slices[done[i]], slice.bytes);
            }
            if (done[i] == leases[i].slice_count) {
                ps_store_put(store, &leases[i]);
                left--;
            }
        }
        if (left > 0)
            rc = ps_store_wait(store, leases, count, err);
    }
    for (size_t i = 0; i < count; i++)
        ps_store_put(store, &leases[i]);
    return rc < 0 ? rc : 0;
}

static int volume_sum(struct ps_volume *volume, struct ps_store *store, uint64_t *sum,
                      struct ps_error *err)
{
    uint32_t objects[LEASES];
    size_t count = 0;

    for (uint32_t i = 0; i < ps_volume_object_count(volume); i++) {
        struct ps_object_info info;
        ps_volume_object(volume, i, &info);
        if (info.kind == PS_OBJECT_STREAMED)
            objects[count++] = i;
        if (count < LEASES && i + 1 < ps_volume_object_count(volume))
            continue;
        int rc = objects_sum(volume, store, objects, count, sum, err);
        if (rc < 0)
            return rc;
        count = 0;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct ps_volume *volume = NULL;
    struct ps_store *store = NULL;
    struct ps_store_options options = {.lease_count = LEASES};
    struct ps_store_stats stats;
    struct ps_error err = {0};
    uint64_t sum = 0;

    if (argc != 3) {
        fprintf(stderr, "usage: read_objects VOLUME MEMORY\n");
        return 2;
    }
    const char *path = argv[1];
    options.cache_bytes = strtoull(argv[2], NULL, 10) << 20;
    int rc = ps_volume_open(&volume, &path, 1, &err);
    if (rc == 0)
        rc = ps_store_open(&store, volume, &options, &err);
    if (rc == 0)
        rc = volume_sum(volume, store, &sum, &err);
    if (rc == 0) {
        ps_store_stats(store, &stats);
        printf("sum %" PRIu64 ", %" PRIu64 " bytes read by %s%s, %" PRIu64 " slots\n", sum,
               stats.streamed_bytes, stats.engine, stats.direct ? " past the page cache" : "",
               stats.slot_count);
    } else {
        fprintf(stderr, "%s: %s\n", err.where, err.text);
    }
    ps_store_close(&store);
    ps_volume_close(&volume);
    return rc < 0;
}
