#include "nvme/identity.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/util.h"

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

/* First line of a sysfs file without surrounding blanks; false when absent or empty. */
static bool read_line(const char *path, char *text, size_t text_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    char raw[256];
    ssize_t length = read(fd, raw, sizeof(raw) - 1);
    close(fd);
    if (length <= 0)
        return false;
    raw[length] = 0;
    raw[strcspn(raw, "\n")] = 0;
    size_t begin = strspn(raw, " \t");
    size_t end = strlen(raw);
    while (end > begin && (raw[end - 1] == ' ' || raw[end - 1] == '\t'))
        end--;
    if (end == begin || end - begin >= text_bytes)
        return false;
    memcpy(text, raw + begin, end - begin);
    text[end - begin] = 0;
    return true;
}

void ps_identity_serial(const char *name, char serial[64])
{
    /* A namespace's world-wide name first: two namespaces of one drive share its serial number. */
    static const char *const files[] = {"wwid", "device/wwid", "device/serial", "serial"};
    for (size_t i = 0; i < PS_ARRAY_LEN(files); i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "/sys/class/block/%s/%s", name, files[i]);
        if (read_line(path, serial, 64))
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
