/*
 * Penstock's storage engine by itself: volumes of aligned objects over one or more drives, read
 * past the page cache into hugepages. The model is one user of it; anything made of many large
 * read-only records can be another. Installed as <nvme/penstock_io.h> with a pkg-config file
 * "penstock-io"; docs/io.md explains it with an example.
 *
 * Words: a *volume* is laid out over *members* (files, partitions, drives). It holds *objects*,
 * each cut into *slices* (the unit of reading, checking and computing), each made of *pieces*
 * (contiguous ranges of one member). *Resident* objects are read once; *streamed* objects are
 * addressed by (group, index), e.g. (layer, expert), and pass through a cache. See docs/format.md.
 */
#ifndef PENSTOCK_IO_H
#define PENSTOCK_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PS_MEMBER_COUNT_MAX 64
#define PS_SLICE_BYTES_MAX (256u << 20)

/* ---- volumes --------------------------------------------------------------------------------- */

struct ps_volume;

enum ps_object_kind { PS_OBJECT_RESIDENT = 0, PS_OBJECT_STREAMED = 1 };

struct ps_object_info {
    enum ps_object_kind kind;
    uint32_t group,
        index;        /* streamed: its address; resident: 0 and its number among the resident */
    const char *name; /* owned by the volume: a tensor's name, or "layer 3 expert 17" */
    uint64_t bytes;   /* sum over its slices: a multiple of the volume's alignment */
    uint32_t slice_count;
};

struct ps_slice_info {
    uint64_t offset_bytes; /* in the object: slices follow each other without gaps */
    uint32_t bytes;        /* a multiple of the volume's alignment */
    uint32_t unit_begin;   /* the caller's own units (neurons), as given to the layout */
    uint32_t unit_count;
    uint32_t piece_count;
};

struct ps_piece_info {
    uint32_t member;
    uint32_t bytes;        /* a multiple of the volume's alignment */
    uint64_t offset_bytes; /* on the member; a multiple of the volume's alignment */
};

struct ps_member_info {
    const char *path; /* owned by the volume */
    uint64_t bytes;   /* size of the file or device as recorded */
    uint64_t data_begin_bytes, data_end_bytes;
    bool is_device;
    bool is_missing; /* not there: its slices are read from their other copies */
};

/* What one drive can do, as `penstock probe` measures it: random reads, past the page cache. */
struct ps_member_profile {
    uint64_t bytes_per_s;     /* with request_bytes and depth; 0: not known */
    uint64_t latency_ns;      /* median of one read of request_bytes with nothing else in flight */
    uint32_t request_bytes;   /* requests of this size, */
    uint32_t depth;           /* this many in flight: the least that reach the bandwidth */
    uint32_t piece_bytes_min; /* shorter reads cost bandwidth even at that depth; 0: not known */
};

/*
 * Opens a complete volume named by any one of its members, or by several: finds the others (the
 * paths given always serve as themselves; then the recorded paths, then by identity and UUID),
 * checks superblocks and map, takes a shared lock on every member. Files are opened read-only. With
 * two copies of every slice one member may be missing, damaged, cut short or of a layout that was
 * stopped: a warning is logged, and ps_member_info.is_missing is set.
 * paths: path_count strings, read during the call. *out is owned by the caller.
 * Errors: -ENOENT, -PS_ERR_INCOMPLETE (stopped layout), -PS_ERR_FORMAT (not a volume or damaged),
 * -PS_ERR_MEMBER (one is missing: named), -PS_ERR_TRUNCATED (a member is shorter than recorded),
 * -PS_ERR_IN_USE (being written). Thread rule: a volume is immutable once open; close it last.
 */
int ps_volume_open(struct ps_volume **out, const char *const *paths, int path_count,
                   struct ps_error *err);
void ps_volume_close(struct ps_volume **volume);

/* 36 characters and a final 0, owned by the volume. */
const char *ps_volume_uuid(const struct ps_volume *volume);
/* What a volume records of each slice: XXH3-64 with seed 0, with the instructions that are fastest
 * here; the value is the same with all. Thread-safe. */
uint64_t ps_checksum(const void *data, size_t bytes);

/* A checksum over the checksums of all slices and metadata blobs: the same wherever the same model
 * is laid out in the same slices. */
uint64_t ps_volume_content(const struct ps_volume *volume);
uint32_t ps_volume_align_bytes(const struct ps_volume *volume);
/* How many copies there are of every slice: 1 or 2. */
uint32_t ps_volume_copy_count(const struct ps_volume *volume);
/* What is recorded in the volume of the member's drive, owned by the volume; NULL if nothing is. */
const struct ps_member_profile *ps_volume_profile(const struct ps_volume *volume, int member);
/*
 * Records what was measured, profiles[member count], on every member that is there. Needs the
 * volume to itself for a moment, and the right to write it. It does not move any data: `penstock
 * rebalance` does. Errors: -PS_ERR_IN_USE (somebody else has it open), -ENOSPC (the record area is
 * full), -EACCES, -errno.
 */
int ps_volume_profile_save(struct ps_volume *volume, const struct ps_member_profile *profiles,
                           struct ps_error *err);
int ps_volume_member_count(const struct ps_volume *volume);
void ps_volume_member(const struct ps_volume *volume, int member, struct ps_member_info *info);
/* The kernel's number of the NUMA node on which the member's drive hangs, or -1 where it tells
 * none. A plain file is on the drive under its file system. Reads sysfs. */
int ps_volume_member_node(const struct ps_volume *volume, int member);
uint32_t ps_volume_object_count(const struct ps_volume *volume);
void ps_volume_object(const struct ps_volume *volume, uint32_t object, struct ps_object_info *info);
void ps_volume_slice(const struct ps_volume *volume, uint32_t object, uint32_t slice,
                     struct ps_slice_info *info);
void ps_volume_piece(const struct ps_volume *volume, uint32_t object, uint32_t slice,
                     uint32_t piece, struct ps_piece_info *info);
/* The object's number, or -ENOENT. */
int64_t ps_volume_find_streamed(const struct ps_volume *volume, uint32_t group, uint32_t index);
int64_t ps_volume_find_resident(const struct ps_volume *volume, const char *name);

/*
 * A named blob that the layout's caller stored beside the map ("model.json", "tokenizer", ...).
 * Returns 0 and a view owned by the volume, or -ENOENT.
 */
int ps_volume_metadata(const struct ps_volume *volume, const char *name, const void **data,
                       uint64_t *bytes);

/* Bytes that the open volume itself holds in memory (map, metadata). */
uint64_t ps_volume_memory_bytes(const struct ps_volume *volume);

struct ps_verify_options {
    /* One sentence for each bad slice or range: object, slice, member, byte range. May be NULL. */
    void (*bad)(void *ctx, const char *text);
    void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes); /* may be NULL */
    void *ctx;
    uint64_t rate_bytes_per_s; /* at most; 0: as fast as it goes */
    int threads;               /* that read and check; 0: one per CPU */
    const volatile int *stop;  /* non-zero: stop with -EINTR; may be NULL */
};

struct ps_verify_report {
    uint64_t bytes_read;
    uint64_t slices_checked; /* every copy of a slice counts */
    uint64_t slices_bad;     /* all that is bad, ranges_bad included: 0 = the volume is good */
    uint64_t ranges_bad;     /* of them, no slices: superblocks, tables, maps, records, members */
};

/*
 * Reads everything (every copy of every slice of every object, both superblocks, the tables and
 * records of every member) and checks every checksum. A missing member is one bad range; what the
 * others hold is checked all the same. Callbacks come from any thread, one at a time. Returns 0
 * when all was read and checked, whether good or bad (see report), -EINTR when it was stopped
 * (report tells how far it came); < 0 when it could not be carried out.
 */
int ps_volume_verify(struct ps_volume *volume, const struct ps_verify_options *options,
                     struct ps_verify_report *report, struct ps_error *err);

struct ps_rebalance_options {
    const char *const *members; /* the new set, in the new order; may hold old members */
    int member_count;
    uint32_t copies; /* of every slice: 1 or 2; 0: as many as there are */
    /* [member_count] of the new members' drives. NULL: what the volume records, where all new
     * members are old ones; else all are alike. */
    const struct ps_member_profile *profiles;
    bool resume;
    const char *const *destroy; /* identities that may be overwritten, as of a layout */
    int destroy_count;
    int threads; /* 0: chosen by CPUs and members */
    void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_ctx;
    const volatile int *stop; /* non-zero stops at the next flush, with -EINTR; may be NULL */
};

/*
 * Moves a volume to a new set of members, without its source: to more, fewer or other ones, or to
 * the same ones with other weights. paths name the old volume as of ps_volume_open; it may lack a
 * member if it has two copies. Every slice is checked as it is read, and taken from its second copy
 * if the first is bad; one without a good copy ends it. Members of both volumes hold both
 * meanwhile. Killed at any point it leaves the old volume, the new one or, for the moment of
 * changing over, none that opens; the same call with resume completes it. Members that are left
 * over are given back as by ps_member_wipe. Nobody else may have the old volume open. Blocks.
 * Errors: those of ps_volume_open; -PS_ERR_CHECKSUM and others of reading (the slice is named);
 * -ENOSPC (text: what is missing where); -PS_ERR_WOULD_DESTROY, -PS_ERR_IN_USE, -PS_ERR_INCOMPLETE,
 * -PS_ERR_SOURCE_CHANGED as of a layout; -EINTR; -errno.
 */
int ps_volume_rebalance(const char *const *paths, int path_count,
                        const struct ps_rebalance_options *options, struct ps_error *err);

/*
 * Gives a member back: overwrites its superblocks (and, for a plain file, removes it). Refuses what
 * is not a member of a (complete or stopped) volume, and what is in use.
 */
int ps_member_wipe(const char *path, struct ps_error *err);

/* ---- the store: engine + scheduler + cache ------------------------------------------------------
 */

struct ps_store;

/* Calls task(ctx, i) for every i below count, on several threads or not, and returns when all have
 * returned. */
typedef void ps_run_fn(void *run_ctx, void (*task)(void *ctx, uint32_t i), void *ctx,
                       uint32_t count);

struct ps_timeline;

struct ps_store_options {
    const char *engine;      /* a name that ps_store_engine_known() knows; NULL: "uring" */
    uint64_t cache_bytes;    /* all that the store may take; at least ps_store_floor_bytes() */
    uint32_t lease_count;    /* streamed objects of one group that must fit at once (>= 1) */
    uint32_t queue_depth;    /* reads in flight per drive; 0 = as its profile says, or 8 */
    uint32_t prefetch_count; /* most objects that may be held on a guess; 0 = none */
    uint32_t timeout_ms;     /* a drive that answers nothing for so long hangs; 0 = 2000 */
    uint32_t group_count;    /* groups from this one on are not leased, so no memory is kept for
                                their objects; 0 = all are */
    /* Where the caller has threads that wait while it does, they can help with checksums. Called by
     * the thread that is inside ps_store_get, _wait or _read. NULL: that thread helps alone. */
    ps_run_fn *run;
    void *run_ctx;
    struct ps_timeline *timeline; /* records enum ps_store_event (core/timeline.h); NULL: nothing.
                                     Outlives the store */
};

/*
 * What a store records, with the lane and the values of each. Moments have no length. GROUP is that
 * of the object, or UINT32_MAX for a resident one, whose number among those is INDEX then.
 */
enum ps_store_event {
    /* Lane: member. From when a drive is given a read to when its end is seen. Values: GROUP,
     * INDEX, slice, bytes, enum ps_read_flag. */
    PS_EVENT_READ = 1,
    /* A checksum. Lane 0: the thread that reads; 1: the one that waits. GROUP, INDEX, slice,
     * bytes. */
    PS_EVENT_CHECK,
    /* Lane 0. Reads are handed to the kernel: how many. */
    PS_EVENT_SUBMIT,
    /* In ps_store_wait: GROUP of the first lease, slices landed, the enum ps_wait_cause of most of
     * the time. */
    PS_EVENT_WAIT,
    PS_EVENT_WAIT_SLOT, /* in ps_store_get: GROUP, INDEX */
    /* Moments of ps_store_get: GROUP, INDEX. */
    PS_EVENT_HIT,
    PS_EVENT_MISS,
    PS_EVENT_HIT_STAGED,  /* read on a guess, and there */
    PS_EVENT_MISS_STAGED, /* read on a guess, and on its way */
    PS_EVENT_STORE_END    /* the first kind that is the caller's */
};

enum ps_read_flag {
    PS_READ_GUESSED = 1, /* when it was given to the drive */
    PS_READ_LATE = 2,    /* had come back before somebody looked */
    PS_READ_FAILED = 4,
    PS_READ_TEST = 8, /* of no object: asks whether a drive has come back */
};

/*
 * Whether ps_store_options.engine may be this: [fault:SPEC:]NAME[+iopoll][+sqpoll] (docs/io.md).
 * ps_store_engine_names() lists the NAMEs for a sentence.
 */
bool ps_store_engine_known(const char *name);
const char *ps_store_engine_names(void);

/* What ps_store_open will take at least with these options (cache_bytes ignored), in bytes. */
uint64_t ps_store_floor_bytes(const struct ps_volume *volume, const struct ps_store_options *opts);

/* What ps_store_open will take with these options (at most cache_bytes; 0 when that is under the
 * floor), and how many objects its cache will hold in *slot_count (may be NULL). Opens and
 * allocates nothing. */
uint64_t ps_store_plan_bytes(const struct ps_volume *volume, const struct ps_store_options *opts,
                             uint32_t *slot_count);

/* How the cache would lie on the machine's NUMA nodes with these options. */
struct ps_store_placement {
    int node_count;
    int node_id[64];           /* the kernel's numbers */
    uint64_t cache_bytes[64];  /* on each */
    uint64_t object_bytes[64]; /* of all streamed objects together, what is read to each */
    uint64_t floating_bytes;   /* of them, what goes to any node: its drives tell none */
};
void ps_store_placement(const struct ps_volume *volume, const struct ps_store_options *opts,
                        struct ps_store_placement *placement);

/*
 * Maps the cache in hugepages, and starts a thread that opens the engine, registers files and
 * buffers, and issues reads and checks what comes back from then on. Everything the store ever
 * allocates is allocated here, and no thread is created later. An engine that the kernel or the
 * file system refuses falls back (uring to pread, O_DIRECT to buffered) with one log line;
 * ps_store_stats tells what is used. Errors: -PS_ERR_ARGUMENT (unknown engine),
 * -PS_ERR_MEMORY_FLOOR, -ENOMEM, -errno of open(). Thread rule: one thread at a time;
 * ps_store_stats and _member_stats: any. The volume must outlive it.
 *
 * Faults, for everything below: a read that fails, ends early or does not have its checksum is read
 * once more from the same member, then, in a volume with two copies, from the other one. A drive
 * that answers nothing for timeout_ms is taken to hang: its reads go to the copy, or are asked for
 * once more, into other memory; the memory that they may still write to is nobody's until the
 * kernel is done with it. Only when all of that has failed does a call return an error.
 */
int ps_store_open(struct ps_store **out, struct ps_volume *volume,
                  const struct ps_store_options *opts, struct ps_error *err);

/*
 * Waits for reads in flight, for 2 s at most: a drive that hangs keeps no process from ending.
 * Returns 0, or how many reads may still write to where they were asked to: then the cache stays
 * mapped for good, and a buffer that ps_store_read gave up with -ETIMEDOUT must, too.
 */
uint32_t ps_store_close(struct ps_store **store);

/*
 * Reads a whole object into buf (>= its bytes, aligned to the volume's alignment, faulted in), all
 * members in parallel, every slice checked. Blocks. Nothing that failed its checksum is returned as
 * good: on error the content of buf is undefined.
 * Errors: -PS_ERR_CHECKSUM, -PS_ERR_SHORT_READ, -errno; text names object, slice and member. After
 * -ETIMEDOUT, or when the engine itself has failed (text), drives may still write to buf: leave it
 * alone until ps_store_close has returned 0. In a volume with two copies the object can be read
 * into another buffer then, as the drive is not asked for it again. -EBUSY: four earlier reads hang
 * like that.
 */
int ps_store_read(struct ps_store *store, uint32_t object, void *buf, struct ps_error *err);

/*
 * A lease pins a streamed object in the cache. Filled by ps_store_get, ended by ps_store_put. Its
 * fields change only inside ps_store_get and ps_store_wait; slices too: an object whose reads hang
 * gets other memory.
 */
enum ps_lease_state { PS_LEASE_READING, PS_LEASE_READY };
struct ps_lease {
    uint32_t object;
    uint32_t slot;                /* private to the store */
    const uint8_t *const *slices; /* [slice_count]: the bytes of each slice */
    const uint8_t *landed; /* landed[s] != 0: slice s is in memory and has passed its check */
    const uint8_t *nodes;  /* [slice_count]: of its memory, as numbered in ps_store_placement */
    uint32_t slice_count;
    uint32_t landed_count; /* as of the last get or wait on this lease */
    bool was_hit;          /* everything was in memory when it was asked for */
    enum ps_lease_state state;
};

/*
 * Leases the object (group, index), starting demand reads for it if it is not in memory. Does not
 * block, with one exception: when no slot is free but for leases that were put while their reads
 * were in flight, it waits for those reads. Returns 1 (hit), 0 (reads are on their way), -EAGAIN
 * (every slot is leased: put one first), -ENOENT (no such object), -ETIMEDOUT (what is not leased
 * waits for reads that hang), or another error.
 */
int ps_store_get(struct ps_store *store, uint32_t group, uint32_t index, struct ps_lease *lease,
                 struct ps_error *err);

/*
 * Blocks until at least one more slice of one of the leases has landed and been checked, and
 * updates them all; empty leases are passed over. Returns the number of newly landed slices (0 only
 * if every lease is READY already). On an error (checksum, short read, I/O) no lease of the failing
 * object becomes READY; the others stay usable; put them all.
 */
int ps_store_wait(struct ps_store *store, struct ps_lease *leases, size_t lease_count,
                  struct ps_error *err);

/* Ends the lease (the object stays cached). A lease with reads in flight may be put: its slot is
 * reused only after the kernel is done with it. Zeroes *lease; takes an empty lease. */
void ps_store_put(struct ps_store *store, struct ps_lease *lease);

/*
 * Guesses that the object will be asked for: reads it with what the drives have to spare, behind
 * all that is demanded. ps_store_get then finds it in memory, or makes its reads demanded ones.
 * chance (0 to 1) is how likely that is: so many of its reads may be with a drive that no more than
 * one of them is in vain on average, two in any case. Never blocks. Returns 0 (its reads are
 * queued), 1 (it is in memory, and held there like what is read for guesses), 2 (it is guessed
 * already, leased, or on its way), -EAGAIN (no slot for a guess: prefetch_count are held, or half
 * of what leases leave of the slots for objects of its size), -ENOENT, or the engine's error.
 */
int ps_store_prefetch(struct ps_store *store, uint32_t group, uint32_t index, double chance,
                      struct ps_error *err);

/*
 * What the drives can do for guesses. idle_ns: how long they are asked for nothing, on average,
 * between two objects that are demanded (of the last some dozen pauses). rate_bytes_per_s: what all
 * drives together give. delay_bytes: of unsure guesses' reads, what a demanded one waits for at
 * most.
 */
struct ps_store_pace {
    double idle_ns, rate_bytes_per_s, delay_bytes;
};
void ps_store_pace(struct ps_store *store, struct ps_store_pace *pace);

/* Tells which of `count` objects of a group are neither in memory nor on their way: is_missing
 * [count]. Returns how many. Objects that do not exist are not missing. */
uint32_t ps_store_missing(struct ps_store *store, uint32_t group, const uint32_t *indexes,
                          uint32_t count, bool *is_missing);

/* Objects of a group that are all to be leased next: none that is in memory goes to make room for
 * another one of them, unless all else is gone, and what was guessed and is on its way is demanded
 * from now on. */
void ps_store_touch(struct ps_store *store, uint32_t group, const uint32_t *indexes,
                    uint32_t count);

/* Takes a guess back: what has not been asked of a drive is not read any more, and its slot is
 * free; what was in memory before is the most recently used now. Does nothing for an object that
 * was not guessed, or has been asked for since. */
void ps_store_drop(struct ps_store *store, uint32_t group, uint32_t index);

/* Why the caller waits, by what the drives do meanwhile. */
enum ps_wait_cause {
    PS_WAIT_READS,   /* every drive reads */
    PS_WAIT_SLOWEST, /* some drives have nothing left to read, and wait for the others */
    PS_WAIT_CHECK,   /* no drive reads: what came back is checked */
    PS_WAIT_ISSUE,   /* no drive reads: reads are about to be given to them */
    PS_WAIT_SLOT,    /* for memory, in ps_store_get */
    PS_WAIT_CAUSE_COUNT
};

struct ps_store_stats {
    const char *engine; /* what is in use, after fallbacks */
    bool direct;        /* O_DIRECT on every member */
    bool registered_buffers;
    uint64_t read_bytes;     /* delivered by the engine, resident objects included */
    uint64_t read_count;     /* reads issued to the engine */
    uint64_t streamed_bytes; /* of read_bytes, for streamed objects */
    uint64_t hits, misses;   /* ps_store_get calls; one that joins reads in flight is a miss too */
    uint64_t evictions;
    /* Guesses of which drives were asked for anything before they were asked for, or dropped or
     * made room for others; of them, those asked for; and the bytes that drives were asked for by
     * then, of these and of the others. A guess that is still held is in none. */
    uint64_t prefetches, prefetches_used, prefetch_used_bytes, prefetch_vain_bytes;
    uint64_t prefetch_bytes;  /* of streamed_bytes, asked for on guesses, whatever became of them */
    uint64_t retries, errors; /* reads tried again, and those that failed */
    uint64_t wait_ns;         /* time spent inside ps_store_wait */
    uint64_t wait_cause_ns[PS_WAIT_CAUSE_COUNT]; /* the same, and waits for slots */
    uint64_t check_ns;          /* time spent on checksums, mostly while others land */
    uint64_t slot_count;        /* over all size classes */
    uint64_t cache_bytes;       /* mapped for slots */
    uint64_t cache_waste_bytes; /* of them, never usable: rounding of slots and pages */
    uint64_t memory_bytes;      /* everything the store allocated */
};
void ps_store_stats(struct ps_store *store, struct ps_store_stats *stats);

struct ps_store_member_stats {
    uint64_t read_bytes, read_count;
    uint64_t retries, errors;
    uint64_t busy_ns; /* with at least one read in flight; members on one drive share the figure */
    bool is_slow;     /* takes more than three times as long as usual */
    bool is_off;      /* fails or hangs, and is not asked where there is a copy */
};
void ps_store_member_stats(struct ps_store *store, int member, struct ps_store_member_stats *stats);

/* ---- drives -----------------------------------------------------------------------------------
 */

/* The type of a GPT partition that is meant for members (docs/deploy.md). */
#define PS_PARTITION_TYPE "c4a1e0de-6d0f-4c53-8f1a-50e6570c4b01"

#define PS_DRIVE_TEXT_BYTES 64

/* Texts are empty where the kernel does not tell. */
struct ps_drive_info {
    char device[PS_DRIVE_TEXT_BYTES]; /* "/dev/nvme0n1p2": at the path, or under the file */
    char drive[PS_DRIVE_TEXT_BYTES];  /* "/dev/nvme0n1": the whole of it */
    char model[PS_DRIVE_TEXT_BYTES];
    char serial[PS_DRIVE_TEXT_BYTES]; /* of the drive: its world-wide name, or serial number */
    char partuuid[48];                /* of a partition */
    uint64_t bytes;                   /* of the device */
    int node;                         /* NUMA node that the drive hangs on, or -1 */
    bool is_file;                     /* the path is a file, or not there yet */
};

/*
 * What the kernel tells of the block device at a path or under a file; of a file that is not there
 * yet, under its folder. Needs no privileges. Returns 0, -ENOENT, another -errno of stat(), or
 * -ENODEV (the file system is in memory, on a network, or on several devices).
 */
int ps_drive_info(const char *path, struct ps_drive_info *info);

/* The GPT type of a partition, in lower case, into type[40]. Must be allowed to read the whole
 * drive. Returns 0, -EACCES, or -ENODEV (not a partition, or no type is known). */
int ps_drive_partition_type(const char *device, char type[40]);

/*
 * Whether somebody uses the device itself (of a drive, not its partitions) or a file: 1 and the
 * use in text ("mounted at /boot", "swap", "held by md0", "open in process 123 (penstock)"), or 0
 * and an empty text. What cannot be found out counts as free.
 */
int ps_drive_use(const char *path, char *text, size_t text_bytes);

enum ps_member_state {
    PS_MEMBER_INCOMPLETE = 1, /* a layout runs or was stopped */
    PS_MEMBER_COMPLETE = 2,
    PS_MEMBER_WIPED = 3, /* a wipe was stopped */
};

struct ps_member_peek {
    char uuid[37];   /* of the volume */
    uint32_t member; /* from 0 */
    uint32_t member_count;
    enum ps_member_state state;
};

/*
 * Looks whether a file or device is a member of a volume; locks nothing. Returns 0,
 * -PS_ERR_FORMAT (it is not, or is damaged), another code of ps_volume_open, or -errno of open().
 */
int ps_member_peek(const char *path, struct ps_member_peek *peek);

/* ---- measuring --------------------------------------------------------------------------------
 */

struct ps_measure_options {
    const char *const *paths; /* [path_count] files, partitions or drives, read together */
    int path_count;           /* 1 .. PS_MEMBER_COUNT_MAX */
    const char *engine;       /* as in struct ps_store_options; NULL = "uring" */
    uint32_t request_bytes;   /* a multiple of 4096, at most 64 MiB */
    uint32_t depth;           /* reads in flight on each path: 1 .. 128, at most 1 GiB together */
    uint64_t ns_max;          /* no read begins after so long; 0 = no limit */
    uint64_t bytes_max;       /* nor after so much, over all paths; 0 = no limit (of one) */
    bool is_sequential;       /* in order; otherwise at random, every block before any again */
    bool is_beside_busy;      /* while every processor computes, as far as nobody else wants it */
    uint64_t seed;            /* of the random order: another one reads elsewhere */
    const volatile int *stop; /* non-zero stops soon; may be NULL */
};

struct ps_measure_result {
    uint64_t bytes, request_count;
    uint64_t ns;                 /* from the first read's begin to the last one's end */
    uint64_t bytes_per_s;        /* over that time, as fio counts */
    uint64_t steady_bytes_per_s; /* while every queue was full: without filling and draining */
    uint64_t path_bytes[PS_MEMBER_COUNT_MAX];
    /* Of one read, exact to 1/64. */
    uint64_t latency_p50_ns, latency_p90_ns, latency_p99_ns, latency_p999_ns, latency_max_ns;
    uint64_t cpu_ns; /* of the whole process meanwhile, its kernel part and engine threads included;
                        busy processors' too */
    uint64_t faults_minor, faults_major;
    char engine[24]; /* what was used, after fallbacks: "uring+sqpoll" */
    bool direct;     /* past the page cache on every path */
    bool registered; /* buffers registered with the kernel */
    bool is_blank;   /* the last reads brought only zeroes: a drive answers reads of space that
                        was never written, or trimmed, without touching its flash */
};

/*
 * Reads, never writes, and measures. Plain files are dropped from the page cache first. Everything
 * is allocated before the first read; buffers are hugepages of the drive's node. Blocks.
 * Errors: -PS_ERR_ARGUMENT (also a file of which more than 1/64 was never written: such reads would
 * not reach the drive), -ENOENT, -EACCES, -ENOTBLK, -ENOMEM, -EINTR (stopped), -PS_ERR_SHORT_READ,
 * -ETIMEDOUT (no answer for a minute), -errno of a read.
 */
int ps_measure_run(const struct ps_measure_options *options, struct ps_measure_result *result,
                   struct ps_error *err);

#define PS_PROBE_SIZE_COUNT 8u  /* reads of 64 KiB, 128 KiB ... 8 MiB, */
#define PS_PROBE_DEPTH_COUNT 7u /* 1, 2 ... 64 of them in flight */

/* Medians over the rounds. */
struct ps_probe_point {
    uint32_t request_bytes, depth;
    uint64_t bytes_per_s; /* 0: left out, being too long for the drive or for the time given */
    uint64_t latency_p50_ns, latency_p99_ns;
};

struct ps_probe_options {
    const char *path;   /* a file, partition or drive */
    const char *engine; /* NULL = "uring" */
    uint64_t ns_max;    /* about how long; 0 = 30 s */
    void (*progress)(void *ctx, uint64_t done_ns, uint64_t total_ns); /* may be NULL */
    void *progress_ctx;
    const volatile int *stop; /* non-zero stops soon; may be NULL */
};

struct ps_probe_result {
    struct ps_probe_point points[PS_PROBE_SIZE_COUNT][PS_PROBE_DEPTH_COUNT];
    uint32_t knee_size, knee_depth; /* the point that the profile is made of */
    uint32_t round_count;
    struct ps_member_profile profile;
    double busy_share; /* of the knee's bandwidth, while every processor computes: (0, 1] */
    char engine[24];   /* what was used, after fallbacks */
    bool direct, registered, is_blank; /* as in struct ps_measure_result */
};

/*
 * Measures one file or drive, reading only, at every size and depth, in several rounds of another
 * order each, so that a disturbance does not meet one point alone. The knee is the point with the
 * fewest bytes in flight, in two reads or more of 1 to 4 MiB, that reaches 97 % of what the drive
 * gives at most; others are taken where they win a tenth. A point counts for what its neighbours in
 * the table bear out.
 * Errors: as of ps_measure_run. Blocks for ns_max, or longer on a very slow drive.
 */
int ps_probe_run(const struct ps_probe_options *options, struct ps_probe_result *result,
                 struct ps_error *err);

#ifdef __cplusplus
}
#endif

#endif
