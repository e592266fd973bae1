#include "nvme/probe.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* More signatures than any device carries; a wipe that goes on beyond it does not take. */
#define WIPE_COUNT_MAX 64

void ps_identities_add(struct ps_identities *list, const char *type, const char *id)
{
    char text[PS_IDENTITY_BYTES];
    snprintf(text, sizeof(text), "%s:%s", type, id != NULL && id[0] != 0 ? id : "none");
    for (int i = 0; i < list->count; i++) {
        if (strcmp(list->text[i], text) == 0)
            return;
    }
    if (list->count < PS_IDENTITY_COUNT_MAX)
        memcpy(list->text[list->count++], text, sizeof(text));
}

static int start(blkid_probe *out, int fd, const char *path, struct ps_error *err)
{
    blkid_probe probe = blkid_new_probe();
    if (probe == NULL)
        return ps_error_set(err, -ENOMEM, path, "not enough memory");
    if (blkid_probe_set_device(probe, fd, 0, 0) != 0) {
        blkid_free_probe(probe);
        return ps_error_set(err, -EIO, path, "libblkid cannot examine it, so it is left alone");
    }
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID |
                                                 BLKID_SUBLKS_MAGIC | BLKID_SUBLKS_BADCSUM);
    blkid_probe_enable_partitions(probe, 1);
    blkid_probe_set_partitions_flags(probe, BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT);
    *out = probe;
    return 0;
}

static const char *value(blkid_probe probe, const char *name)
{
    const char *data;
    return blkid_probe_lookup_value(probe, name, &data, NULL) == 0 ? data : NULL;
}

int ps_probe_signatures(int fd, const char *path, struct ps_identities *list, struct ps_error *err)
{
    blkid_probe probe;
    int rc = start(&probe, fd, path, err);
    if (rc < 0)
        return rc;
    while ((rc = blkid_do_probe(probe)) == 0) {
        const char *type = value(probe, "TYPE");
        const char *table = value(probe, "PTTYPE");
        if (type != NULL)
            ps_identities_add(list, type, value(probe, "UUID"));
        else if (table != NULL)
            ps_identities_add(list, table, value(probe, "PTUUID"));
        if (list->count == PS_IDENTITY_COUNT_MAX)
            break;
    }
    blkid_free_probe(probe);
    if (rc < 0)
        return ps_error_set(err, -EIO, path, "it cannot be read, so it is left alone");
    return 0;
}

int ps_probe_wipe(int fd, const char *path, struct ps_error *err)
{
    blkid_probe probe;
    int rc = start(&probe, fd, path, err);
    if (rc < 0)
        return rc;
    int count = 0;
    /* blkid_do_wipe steps back, so that what lay under the signature (a backup GPT) shows next. */
    while ((rc = blkid_do_probe(probe)) == 0 && count++ < WIPE_COUNT_MAX) {
        if (blkid_do_wipe(probe, 0) != 0)
            break;
    }
    blkid_free_probe(probe);
    struct ps_identities left = {0};
    if (rc < 0)
        return ps_error_set(err, -EIO, path, "its old signatures cannot be erased");
    rc = ps_probe_signatures(fd, path, &left, err);
    if (rc == 0 && left.count > 0)
        return ps_error_set(err, -EIO, path, "its old signature %s cannot be erased", left.text[0]);
    return rc;
}
