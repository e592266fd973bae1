#include "tools/drive_list.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libnvme.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"

#define KELVIN 273

/* What a drive says of itself goes to terminals and into JSON: nothing but printable ASCII does. */
static void text_copy(char *to, size_t to_bytes, const char *from)
{
    size_t n = 0;

    for (; from != NULL && *from != '\0' && n + 1 < to_bytes; from++)
        to[n++] = isprint((unsigned char)*from) ? *from : '?';
    while (n > 0 && to[n - 1] == ' ')
        n--;
    to[n] = '\0';
}

/* One line of /sys/class/FOLDER/NAME/FILE; empty if there is none. */
static void sysfs_text(const char *folder, const char *name, const char *file, char *text,
                       size_t text_bytes)
{
    char path[PATH_MAX], line[256] = "";

    snprintf(path, sizeof(path), "/sys/class/%s/%s/%s", folder, name, file);
    FILE *stream = fopen(path, "re");
    if (stream != NULL && fgets(line, sizeof(line), stream) == NULL)
        line[0] = '\0';
    if (stream != NULL)
        fclose(stream);
    line[strcspn(line, "\n")] = '\0';
    text_copy(text, text_bytes, line);
}

static uint64_t sysfs_number(const char *name, const char *file)
{
    char text[32];

    sysfs_text("block", name, file, text, sizeof(text));
    return strtoull(text, NULL, 10);
}

/* ---- places ---------------------------------------------------------------------------------- */

static void place_fill(struct drive_place *place, const char *name)
{
    *place = (struct drive_place){0};
    snprintf(place->device, sizeof(place->device), "/dev/%.50s", name);
    place->bytes = sysfs_number(name, "size") * 512;
    ps_drive_use(place->device, place->use, sizeof(place->use));
    int rc = ps_member_peek(place->device, &place->peek);
    place->is_member = rc == 0;
    /* A code of our own says what is there (no volume, a later version), not that it is hidden. */
    place->peek_error = rc < 0 && rc > -PS_ERR_FORMAT ? rc : 0;
}

static int by_device(const void *a, const void *b)
{
    return strverscmp(((const struct drive_place *)a)->device,
                      ((const struct drive_place *)b)->device);
}

static int partitions_fill(struct drive *drive, const char *name)
{
    char path[PATH_MAX];
    const struct dirent *entry;
    int rc = 0;

    snprintf(path, sizeof(path), "/sys/class/block/%s", name);
    DIR *dir = opendir(path);
    while (dir != NULL && rc == 0 && (entry = readdir(dir)) != NULL) {
        snprintf(path, sizeof(path), "/sys/class/block/%s/%s/partition", name, entry->d_name);
        if (entry->d_name[0] == '.' || access(path, F_OK) != 0)
            continue;
        size_t count = (size_t)drive->partition_count + 1;
        struct drive_place *grown = realloc(drive->partitions, count * sizeof(*grown));
        if (grown == NULL) {
            rc = -ENOMEM;
            break;
        }
        drive->partitions = grown;
        struct drive_place *place = &grown[drive->partition_count++];
        place_fill(place, entry->d_name);
        ps_drive_partition_type(place->device, place->gpt_type);
    }
    if (dir != NULL)
        closedir(dir);
    if (drive->partition_count > 1)
        qsort(drive->partitions, (size_t)drive->partition_count, sizeof(*drive->partitions),
              by_device);
    return rc;
}

/* ---- drives ---------------------------------------------------------------------------------- */

static uint64_t little_endian(const uint8_t *bytes)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

/* The SMART / Health Information log (NVMe Base 2.0c §5.16.1.3); for administrators only. */
static void health_fill(struct drive *drive)
{
    char path[64];
    struct nvme_smart_log log = {0};

    snprintf(path, sizeof(path), "/dev/%s", drive->controller);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        drive->health_error = -errno;
        return;
    }
    errno = 0;
    int rc = nvme_get_log_smart(fd, NVME_NSID_ALL, true, &log);
    if (rc != 0)
        drive->health_error = rc < 0 && errno != 0 ? -errno : -EIO;
    close(fd);
    drive->temperature_c = (log.temperature[0] | log.temperature[1] << 8) - KELVIN;
    drive->used_percent = log.percent_used;
    drive->spare_percent = log.avail_spare;
    drive->media_errors = little_endian(log.media_errors);
}

/* "16.0 GT/s PCIe" as "16 GT/s". */
static void link_speed(const char *controller, const char *file, char text[24])
{
    char line[64];
    double speed;

    sysfs_text("nvme", controller, file, line, sizeof(line));
    text[0] = '\0';
    if (sscanf(line, "%lf GT/s", &speed) == 1)
        snprintf(text, 24, "%g GT/s", speed);
}

static void link_fill(struct drive *drive)
{
    const char *name = drive->controller;

    link_speed(name, "device/current_link_speed", drive->link_speed);
    link_speed(name, "device/max_link_speed", drive->speed_max);
    sysfs_text("nvme", name, "device/current_link_width", drive->link_width,
               sizeof(drive->link_width));
    sysfs_text("nvme", name, "device/max_link_width", drive->width_max, sizeof(drive->width_max));
    /* A slot that does not say how fast it runs says 0, or "Unknown". */
    if (atoi(drive->link_width) <= 0 || drive->link_speed[0] == '\0')
        drive->link_speed[0] = drive->link_width[0] = '\0';
    if (atoi(drive->width_max) <= 0 || drive->speed_max[0] == '\0')
        drive->speed_max[0] = drive->width_max[0] = '\0';
}

static int drive_fill(struct drive *drive, nvme_ctrl_t controller, const char *name)
{
    struct ps_drive_info info;

    *drive = (struct drive){.node = -1};
    place_fill(&drive->whole, name);
    text_copy(drive->controller, sizeof(drive->controller), nvme_ctrl_get_name(controller));
    text_copy(drive->transport, sizeof(drive->transport), nvme_ctrl_get_transport(controller));
    text_copy(drive->address, sizeof(drive->address), nvme_ctrl_get_address(controller));
    text_copy(drive->model, sizeof(drive->model), nvme_ctrl_get_model(controller));
    text_copy(drive->serial, sizeof(drive->serial), nvme_ctrl_get_serial(controller));
    text_copy(drive->firmware, sizeof(drive->firmware), nvme_ctrl_get_firmware(controller));
    drive->block_bytes = (uint32_t)sysfs_number(name, "queue/logical_block_size");
    drive->transfer_bytes = sysfs_number(name, "queue/max_hw_sectors_kb") << 10;
    if (ps_drive_info(drive->whole.device, &info) == 0)
        drive->node = info.node;
    link_fill(drive);
    health_fill(drive);
    return partitions_fill(drive, name);
}

/* Adds a namespace, which a subsystem and several of its controllers may show. */
static int add(struct drive_list *list, nvme_ctrl_t controller, nvme_ns_t ns)
{
    const char *name = nvme_ns_get_name(ns);

    if (controller == NULL || name == NULL || nvme_ctrl_get_name(controller) == NULL)
        return 0;
    for (int i = 0; i < list->count; i++) {
        if (strcmp(list->drives[i].whole.device + strlen("/dev/"), name) == 0)
            return 0;
    }
    struct drive *grown = realloc(list->drives, ((size_t)list->count + 1) * sizeof(*list->drives));
    if (grown == NULL)
        return -ENOMEM;
    list->drives = grown;
    return drive_fill(&list->drives[list->count++], controller, name);
}

static int add_subsystem(struct drive_list *list, nvme_subsystem_t subsystem)
{
    nvme_ctrl_t controller;
    nvme_ns_t ns;
    int rc = 0;

    nvme_subsystem_for_each_ns(subsystem, ns)
    {
        rc = rc == 0 ? add(list, nvme_subsystem_first_ctrl(subsystem), ns) : rc;
    }
    nvme_subsystem_for_each_ctrl(subsystem, controller)
    {
        nvme_ctrl_for_each_ns(controller, ns)
        {
            rc = rc == 0 ? add(list, controller, ns) : rc;
        }
    }
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strverscmp(((const struct drive *)a)->whole.device,
                      ((const struct drive *)b)->whole.device);
}

int drive_list_get(struct drive_list *list, struct ps_error *err)
{
    struct drive_list found = {0};
    nvme_root_t root = nvme_create_root(stderr, 0);
    nvme_subsystem_t subsystem;
    nvme_host_t host;
    int rc = root == NULL ? -ENOMEM : 0;

    /* It fails where the kernel has no NVMe at all, and then there is nothing to list. */
    if (rc == 0 && nvme_scan_topology(root, NULL, NULL) == 0) {
        nvme_for_each_host(root, host)
        {
            nvme_for_each_subsystem(host, subsystem)
            {
                rc = rc == 0 ? add_subsystem(&found, subsystem) : rc;
            }
        }
    }
    if (root != NULL)
        nvme_free_tree(root);
    if (rc < 0) {
        drive_list_fini(&found);
        return ps_error_set(err, rc, "drives", "not enough memory");
    }
    if (found.count > 1)
        qsort(found.drives, (size_t)found.count, sizeof(*found.drives), by_name);
    *list = found;
    return 0;
}

void drive_list_fini(struct drive_list *list)
{
    for (int i = 0; i < list->count; i++)
        free(list->drives[i].partitions);
    free(list->drives);
    *list = (struct drive_list){0};
}
