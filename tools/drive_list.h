/* Every NVMe drive of this machine and its partitions, as libnvme and sysfs tell of them. */
#ifndef PENSTOCK_TOOLS_DRIVE_LIST_H
#define PENSTOCK_TOOLS_DRIVE_LIST_H

#include "model/penstock.h"

/* A whole drive or a partition. Texts are printable ASCII, empty where unknown. */
struct drive_place {
    char device[PS_DRIVE_TEXT_BYTES]; /* "/dev/nvme0n1p2" */
    uint64_t bytes;
    char use[160];     /* ps_drive_use */
    char gpt_type[40]; /* of a partition */
    bool is_member;    /* of a volume: peek */
    int peek_error;    /* < 0: it could not be looked at */
    struct ps_member_peek peek;
};

struct drive {
    struct drive_place whole;
    struct drive_place *partitions; /* [partition_count], in the order of their numbers */
    int partition_count;
    char controller[32], transport[16], address[160]; /* "nvme0", "pcie", "0000:01:00.0" */
    char model[48], serial[32], firmware[16];
    uint32_t block_bytes;    /* logical */
    uint64_t transfer_bytes; /* the largest of one command, as the kernel cuts them; 0: unknown */
    int node;                /* NUMA node, or -1 */
    char link_speed[24], link_width[8]; /* "16 GT/s", "4": of the PCIe link as it runs, */
    char speed_max[24], width_max[8];   /* and as the drive could */
    int health_error;                   /* < 0: why what follows is not known */
    int temperature_c, used_percent, spare_percent;
    uint64_t media_errors;
};

struct drive_list {
    struct drive *drives; /* [count], in the order of their names */
    int count;
};

/* Lists them; none is no error. Errors: -ENOMEM. */
int drive_list_get(struct drive_list *list, struct ps_error *err);
void drive_list_fini(struct drive_list *list);

#endif
