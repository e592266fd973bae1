/*
 * Format version 1 of a volume: what lies on a member, byte by byte. docs/format.md says the same
 * in tables, and a test compares the two. All numbers are little-endian; all structs are naturally
 * aligned without padding; all reserved bytes are zero.
 */
#ifndef PENSTOCK_NVME_FORMAT_H
#define PENSTOCK_NVME_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* The map is used in place, so the host must have the byte order of the disk. */
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "volumes are little-endian");

#define PS_FORMAT_VERSION 1u
#define PS_FORMAT_ALIGN_MIN 4096u
#define PS_FORMAT_ALIGN_MAX 65536u
#define PS_SUPERBLOCK_BYTES 4096u
/* On devices the second superblock stays clear of the last MiB, where a backup GPT lies. */
#define PS_FORMAT_DEVICE_TAIL_BYTES (1u << 20)
#define PS_RECORD_HALF_BYTES 65536u
#define PS_BLOB_ALIGN 64u
#define PS_BLOB_COUNT_MAX 256u
#define PS_MAP_BYTES_MAX (UINT64_C(4) << 30)
/* Shares of an object that are shorter than this are not cut; a plan may ask for more. */
#define PS_PIECE_BYTES_MIN 65536u
#define PS_PIECE_BYTES_MAX (1u << 20)
#define PS_WEIGHT_MAX 1000000u
#define PS_NODE_NONE 255u /* a drive whose NUMA node is not known */

#define PS_SUPERBLOCK_MAGIC "PENSTOCK"
#define PS_TABLE_MAGIC "PENSTMEM"
#define PS_MAP_MAGIC "PENSTMAP"
#define PS_RECORD_MAGIC "PENSTREC"

enum ps_volume_state {
    PS_VOLUME_IN_PROGRESS = 1, /* a layout runs or was stopped */
    PS_VOLUME_COMPLETE = 2,
    PS_VOLUME_WIPED = 3, /* given back; only seen when a wipe was interrupted */
};

/* At offset 0 of every member and again at second_offset. */
struct ps_disk_superblock {
    uint8_t magic[8];        /*    0 "PENSTOCK" */
    uint32_t version;        /*    8 PS_FORMAT_VERSION */
    uint32_t state;          /*   12 enum ps_volume_state */
    uint8_t uuid[16];        /*   16 the same on every member */
    uint32_t member;         /*   32 this member's number, from 0 */
    uint32_t member_count;   /*   36 */
    uint64_t generation;     /*   40 of two valid copies the higher one counts; a layout writes 1 */
    uint64_t member_bytes;   /*   48 size of the file or device when it was laid out */
    uint64_t second_offset;  /*   56 of the second superblock */
    uint32_t align;          /*   64 a power of two, PS_FORMAT_ALIGN_MIN to PS_FORMAT_ALIGN_MAX */
    uint32_t is_device;      /*   68 1 for a block device, 0 for a plain file */
    uint64_t table_offset;   /*   72 member table */
    uint64_t table_bytes;    /*   80 multiple of align */
    uint64_t table_checksum; /*   88 XXH3-64 of its table_bytes */
    uint64_t map_offset;     /*   96 */
    uint64_t map_bytes;      /*  104 multiple of align */
    uint64_t map_checksum;  /*  112 XXH3-64 of the map; in progress: of the watermark's checksums */
    uint64_t record_offset; /*  120 */
    uint64_t record_bytes;  /*  128 two halves together */
    uint64_t data_begin;    /*  136 */
    uint64_t data_end;      /*  144 */
    uint64_t slice_count;   /*  152 of the whole volume */
    uint64_t watermark;     /*  160 slices below it, in map order, are durable on every member */
    uint64_t fingerprint[2]; /*  168 of the source and of the options that shape bytes */
    uint64_t plan_hash[2];   /*  184 XXH3-128 (low, high) of the map before UUID and checksums */
    char source_name[256];   /*  200 for messages; NUL-terminated */
    uint8_t reserved[54];    /*  456 */
    uint8_t not_boot[2];     /*  510 zero: never 0x55 0xAA, so never a partition table */
    /* What the plan followed from, besides the source: a resume measures nothing again. */
    uint32_t weights[64];     /*  512 of the members; all zero: equal */
    uint8_t nodes[64];        /*  768 NUMA node of each member's drive, plus 1; 0: of no account */
    uint32_t piece_bytes_min; /*  832 0: PS_PIECE_BYTES_MIN */
    uint32_t further_copies;  /*  836 of every slice: 0 or 1 */
    uint8_t origin[16];      /*  840 of a rebalance, until it is complete: UUID of the old volume */
    uint8_t reserved2[3232]; /*  856 */
    uint64_t checksum;       /* 4088 XXH3-64 of bytes 0 to 4087 */
};
static_assert(sizeof(struct ps_disk_superblock) == PS_SUPERBLOCK_BYTES, "superblock");
static_assert(offsetof(struct ps_disk_superblock, not_boot) == 510, "boot signature");

/*
 * A member that two volumes share while a rebalance runs: the new one's superblocks lie here,
 * before its areas, until the old one is given up. Two copies, then the old volume's superblock.
 */
#define PS_STAGE_BYTES 65536u
#define PS_STAGE_FORMER_OFFSET (2 * PS_SUPERBLOCK_BYTES)

/* The member table: this header, then member_count entries, then zeroes. */
struct ps_disk_table {
    uint8_t magic[8];      /*  0 "PENSTMEM" */
    uint8_t uuid[16];      /*  8 */
    uint32_t member;       /* 24 whose table this is */
    uint32_t member_count; /* 28 */
};
static_assert(sizeof(struct ps_disk_table) == 32, "member table");

/* How to find a member. Texts are NUL-terminated, empty where unknown. */
struct ps_disk_peer {
    char path[384];     /*   0 empty for the member itself; relative to the member's own folder, or
                           absolute */
    char partuuid[48];  /* 384 of a partition */
    char serial[64];    /* 432 of a drive: its world-wide name or serial number */
    uint64_t bytes;     /* 496 */
    uint32_t is_device; /* 504 */
    uint32_t reserved;  /* 508 */
};
static_assert(sizeof(struct ps_disk_peer) == 512, "peer");

/* The map, identical on every member: this header, then the tables in the order of the offsets. */
struct ps_disk_map {
    uint8_t magic[8];        /*   0 "PENSTMAP" */
    uint32_t version;        /*   8 PS_FORMAT_VERSION */
    uint32_t align;          /*  12 */
    uint8_t uuid[16];        /*  16 */
    uint32_t member_count;   /*  32 */
    uint32_t object_count;   /*  36 */
    uint64_t slice_count;    /*  40 */
    uint64_t piece_count;    /*  48 of one copy */
    uint32_t blob_count;     /*  56 */
    uint32_t further_copies; /*  60 0 or 1; every copy has piece_count pieces */
    uint64_t members_offset; /*  64 from the start of the map, as all offsets here */
    uint64_t objects_offset; /*  72 */
    uint64_t slices_offset;  /*  80 */
    uint64_t pieces_offset;  /*  88 */
    uint64_t blobs_offset;   /*  96 */
    uint64_t names_offset;   /* 104 */
    uint64_t names_bytes;    /* 112 */
    uint64_t bytes;          /* 120 the whole map, blobs and padding included */
};
static_assert(sizeof(struct ps_disk_map) == 128, "map header");

/* The data area of a member: its pieces fill it from begin to end without gaps. */
struct ps_disk_extent {
    uint64_t data_begin; /* 0 */
    uint64_t data_end;   /* 8 */
};
static_assert(sizeof(struct ps_disk_extent) == 16, "extent");

struct ps_disk_object {
    uint32_t kind;        /*  0 enum ps_object_kind: 0 resident, 1 streamed */
    uint32_t group;       /*  4 streamed: first part of the address; resident: 0 */
    uint32_t index;       /*  8 streamed: second part; resident: number among the resident */
    uint32_t slice_count; /* 12 */
    uint64_t first_slice; /* 16 */
    uint64_t bytes;       /* 24 sum over its slices */
    uint64_t name_offset; /* 32 into the names; NUL-terminated there */
    uint32_t name_bytes;  /* 40 without the NUL: 1 to 255 */
    uint32_t reserved;    /* 44 */
};
static_assert(sizeof(struct ps_disk_object) == 48, "object");

struct ps_disk_slice {
    uint64_t checksum;     /*  0 XXH3-64 of all its bytes, padding included */
    uint64_t offset_bytes; /*  8 in the object */
    uint64_t first_piece;  /* 16 */
    uint32_t bytes;        /* 24 multiple of align */
    uint32_t unit_begin;   /* 28 the caller's own units */
    uint32_t unit_count;   /* 32 */
    uint32_t piece_count;  /* 36 */
};
static_assert(sizeof(struct ps_disk_slice) == 40, "slice");

struct ps_disk_piece {
    uint32_t member;       /* 0 */
    uint32_t bytes;        /* 4 multiple of align */
    uint64_t offset_bytes; /* 8 on the member; multiple of align */
};
static_assert(sizeof(struct ps_disk_piece) == 16, "piece");

struct ps_disk_blob {
    char name[32];         /*  0 NUL-terminated, unique */
    uint64_t offset_bytes; /* 32 from the start of the map; multiple of PS_BLOB_ALIGN */
    uint64_t bytes;        /* 40 */
    uint64_t checksum;     /* 48 XXH3-64 */
};
static_assert(sizeof(struct ps_disk_blob) == 56, "blob");

/* One half of the record area. The valid half with the higher generation counts. */
struct ps_disk_record {
    uint8_t magic[8];     /*  0 "PENSTREC" */
    uint64_t generation;  /*  8 a layout writes 1 in the first half and 0 in the second */
    uint8_t uuid[16];     /* 16 */
    uint64_t used_bytes;  /* 32 after this header; 0 = empty */
    uint8_t reserved[16]; /* 40 */
    uint64_t checksum;    /* 56 XXH3-64 of the whole half with this field zero */
};
static_assert(sizeof(struct ps_disk_record) == 64, "record half");

/* The half's header is followed by used_bytes of entries: this, then `bytes` bytes, then zeroes up
 * to a multiple of 8. */
struct ps_disk_entry {
    char name[32];     /*  0 NUL-terminated, unique */
    uint32_t bytes;    /* 32 */
    uint32_t reserved; /* 36 */
};
static_assert(sizeof(struct ps_disk_entry) == 40, "record entry");

/* Entry "profile" holds one of these for each member. */
struct ps_disk_profile {
    uint64_t bytes_per_s;     /*  0 0: not known */
    uint64_t latency_ns;      /*  8 */
    uint32_t request_bytes;   /* 16 */
    uint32_t depth;           /* 20 */
    uint32_t piece_bytes_min; /* 24 0: not known */
    uint32_t reserved;        /* 28 */
};
static_assert(sizeof(struct ps_disk_profile) == 32, "profile");

#endif
