/* Members opened for writing: is it free, what would be lost, is it large enough. */
#ifndef PENSTOCK_NVME_DEVICE_H
#define PENSTOCK_NVME_DEVICE_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "core/error.h"
#include "nvme/probe.h"
#include "nvme/superblock.h"

/* A member that is about to be written. fd < 0 = empty. Nothing of it has been changed by opening.
 */
struct ps_target {
    int fd;           /* O_RDWR, O_EXCL on devices, under an exclusive lock; O_DIRECT set later */
    const char *path; /* the caller's */
    char real_path[PATH_MAX];
    uint64_t bytes;
    bool is_device;
    bool created;   /* did not exist before */
    dev_t file_dev; /* what it lies on, and which one it is there */
    ino_t file_ino;
    dev_t device;         /* of a block device */
    int node;             /* NUMA node of the drive that it is or lies on; -1: none told */
    uint32_t align_bytes; /* what the device asks for; PS_FORMAT_ALIGN_MIN at least */
    bool is_member;       /* pair holds a valid superblock, which counts: sb */
    struct ps_superblock_pair pair;
    struct ps_disk_superblock sb;
};

/*
 * Opens an existing file or device for writing. Checks that it is neither mounted, swapped to, held
 * nor locked, by itself or through a partition. Changes nothing.
 * Errors: -PS_ERR_IN_USE (text: by what), -ENOENT, -EACCES, -EROFS, -EISDIR, -ENOTBLK, -errno.
 */
int ps_target_open(struct ps_target *target, const char *path, struct ps_error *err);

/* The same, for a file or device that the caller has locked through another descriptor. */
int ps_target_open_held(struct ps_target *target, const char *path, struct ps_error *err);

/* As ps_target_open, but creates a missing plain file (never under /dev: -ENOENT with a sentence).
 */
int ps_target_open_or_create(struct ps_target *target, const char *path, struct ps_error *err);

/* Closes. remove_created: also removes a file that opening created. Takes an empty target. */
void ps_target_close(struct ps_target *target, bool remove_created);

/* -PS_ERR_MEMBER when two targets are the same file or device, or one is a part of the other. */
int ps_target_check_distinct(const struct ps_target *targets, int count, struct ps_error *err);

/*
 * Lists what writing to the target would destroy (nothing for an empty file or a blank device) and
 * checks each against what the user allowed. Returns 0, or -PS_ERR_WOULD_DESTROY with the
 * identities to repeat, or -PS_ERR_INCOMPLETE when that is a stopped layout.
 */
int ps_target_consent(const struct ps_target *target, const char *const *destroy, int destroy_count,
                      struct ps_error *err);

/*
 * For what is written over or given back without consent, because it is the volume's own: fails if
 * something else has been made on it since. Returns 0, -PS_ERR_WOULD_DESTROY (text names it), -EIO.
 */
int ps_target_check_alone(const struct ps_target *target, struct ps_error *err);

/*
 * Erases what consent was given for: a file becomes empty, a device loses all its signatures.
 * Durable on return.
 */
int ps_target_clear(const struct ps_target *target, struct ps_error *err);

/* Erases the superblocks of an open member and removes it if it is a plain file. Durable but for
 * the name of the file. */
int ps_target_give_back(const struct ps_target *target, struct ps_error *err);

/* Sets O_DIRECT where the file system allows it. */
void ps_target_set_direct(const struct ps_target *target);

#endif
