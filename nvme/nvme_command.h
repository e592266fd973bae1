/*
 * The few numbers of the NVMe specifications that reading takes; linux/nvme_ioctl.h has the form in
 * which the kernel takes commands. "Base" is NVM Express Base 2.0c, "NVM" the NVM Command Set 1.0c.
 */
#ifndef PENSTOCK_NVME_NVME_COMMAND_H
#define PENSTOCK_NVME_NVME_COMMAND_H

#include <errno.h>

#define PS_NVME_READ 0x02u               /* NVM §3.2.4 */
#define PS_NVME_READ_BLOCKS_MAX 65536u   /* NLB has 16 bits and counts from 0 */
#define PS_NVME_ADMIN_IDENTIFY 0x06u     /* Base §5.17 */
#define PS_NVME_IDENTIFY_NAMESPACE 0x00u /* CNS of Identify Namespace */

/* The kernel returns the status field of a completion shifted by one (Base §3.3.3.2): status code
 * in bits 7:0, status code type in bits 10:8. */
#define PS_NVME_STATUS_CODE(status) ((unsigned)(status)&0xFFu)
#define PS_NVME_STATUS_TYPE(status) ((unsigned)(status) >> 8 & 0x7u)

/*
 * What a status > 0 comes to. Generic (type 0): 0x0B no such namespace, 0x82 it is not ready. Path
 * related (type 3): no path leads to the controller.
 */
static inline int ps_nvme_errno(int status)
{
    unsigned type = PS_NVME_STATUS_TYPE(status), code = PS_NVME_STATUS_CODE(status);

    if (type == 3 || (type == 0 && (code == 0x0B || code == 0x82)))
        return -ENODEV;
    return -EIO;
}

#endif
