#include "nvme/identity.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/util.h"
#include "nvme/proc.h"

bool ps_identity_name(dev_t device, char *name)
{
    char link[64], target[PATH_MAX];
    snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major(device), minor(device));
    ssize_t length = readlink(link, target, sizeof(target) - 1);
    if (length <= 0)
        return false;
    target[length] = 0;
    const char *slash = strrchr(target, '/');
    const char *base = slash != NULL ? slash + 1 : target;
    if (strlen(base) > NAME_MAX)
        return false;
    memcpy(name, base, strlen(base) + 1);
    return true;
}

void ps_identity_serial(const char *name, char serial[64])
{
    /* A namespace's world-wide name first: two namespaces of one drive share its serial number. */
    static const char *const files[] = {"wwid", "device/wwid", "device/serial", "serial"};
    for (size_t i = 0; i < PS_ARRAY_LEN(files); i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "/sys/class/block/%s/%s", name, files[i]);
        if (ps_proc_line(path, serial, 64))
            return;
    }
    serial[0] = 0;
}

static void find_partuuid(dev_t device, char partuuid[48])
{
    DIR *dir = opendir("/dev/disk/by-partuuid");
    if (dir == NULL)
        return;
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        struct stat st;
        if (fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 && S_ISBLK(st.st_mode) &&
            st.st_rdev == device && strlen(entry->d_name) < 48) {
            memcpy(partuuid, entry->d_name, strlen(entry->d_name) + 1);
            break;
        }
    }
    closedir(dir);
}

void ps_identity_get(dev_t device, char partuuid[48], char serial[64])
{
    char name[NAME_MAX + 1], path[PATH_MAX];
    partuuid[0] = serial[0] = 0;
    if (!ps_identity_name(device, name))
        return;
    snprintf(path, sizeof(path), "/sys/class/block/%s/partition", name);
    if (access(path, F_OK) == 0)
        find_partuuid(device, partuuid);
    else
        ps_identity_serial(name, serial);
}

/* The number of a block device by its kernel name; 0 if there is none. */
static dev_t device_of(const char *name)
{
    char path[PATH_MAX], text[64];
    unsigned device_major, device_minor;
    snprintf(path, sizeof(path), "/sys/class/block/%s/dev", name);
    if (!ps_proc_line(path, text, sizeof(text)) ||
        sscanf(text, "%u:%u", &device_major, &device_minor) != 2)
        return 0;
    return makedev(device_major, device_minor);
}

/* The only device that a mapping (dm, md) is made of; 0 when there are several, or none. */
static dev_t only_slave(const char *name)
{
    char path[PATH_MAX], slave[NAME_MAX + 1] = "";
    int count = 0;
    snprintf(path, sizeof(path), "/sys/class/block/%s/slaves", name);
    DIR *dir = opendir(path);
    if (dir == NULL)
        return 0;
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(slave, sizeof(slave), "%s", entry->d_name);
        count++;
    }
    closedir(dir);
    return count == 1 ? device_of(slave) : 0;
}

dev_t ps_identity_drive(dev_t device)
{
    char name[NAME_MAX + 1], path[PATH_MAX + NAME_MAX];
    /* A mapping of a mapping of a partition ends soon; the bound is for what is circular. */
    for (int depth = 0; depth < 8; depth++) {
        if (!ps_identity_name(device, name))
            return 0;
        snprintf(path, sizeof(path), "/sys/class/block/%s/partition", name);
        /* The class entry is a link to .../block/DRIVE/PARTITION, so ".." is the drive. */
        if (access(path, F_OK) == 0)
            snprintf(path, sizeof(path), "%s/..", name);
        else
            path[0] = 0;
        dev_t below = path[0] != 0 ? device_of(path) : only_slave(name);
        if (below == 0)
            return device;
        device = below;
    }
    return device;
}

/* A drive that several controllers lead to lies under none of them, but beside links to them. */
static bool read_controller_node(const char *subsystem, char *text, size_t text_bytes)
{
    DIR *dir = opendir(subsystem);
    bool found = false;
    if (dir == NULL)
        return false;
    const struct dirent *entry;
    while (!found && (entry = readdir(dir)) != NULL) {
        char path[PATH_MAX + NAME_MAX + 16];
        if (strncmp(entry->d_name, "nvme", 4) != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s/numa_node", subsystem, entry->d_name);
        found = ps_proc_line(path, text, text_bytes);
    }
    closedir(dir);
    return found;
}

int ps_identity_node(dev_t device)
{
    char name[NAME_MAX + 1], link[PATH_MAX], path[PATH_MAX], file[PATH_MAX + 16], text[32];
    if (!ps_identity_name(ps_identity_drive(device), name))
        return -1;
    snprintf(link, sizeof(link), "/sys/class/block/%s", name);
    if (realpath(link, path) == NULL)
        return -1;
    bool found = false;
    /* The nearest device above that has a node: the controller, or what it is plugged into. */
    for (char *slash; !found && (slash = strrchr(path, '/')) != NULL && slash > path;) {
        *slash = 0;
        snprintf(file, sizeof(file), "%s/numa_node", path);
        found = ps_proc_line(file, text, sizeof(text)) ||
                read_controller_node(path, text, sizeof(text));
    }
    return found ? atoi(text) : -1;
}
