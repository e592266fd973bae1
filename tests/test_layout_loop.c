/* Devices: consent, use, size, crashes and full disks, on loop devices. Needs root. */
#include <sys/mount.h>
#include <sys/swap.h>
#include <sys/wait.h>

#include "core/util.h"
#include "crash_shim.h"
#include "nvme/layout_internal.h"
#include "nvme/raw_io.h"
#include "nvme/superblock.h"
#include "util.h"
#include "volume_fixture.h"

#define DEVICE_BYTES (16u << 20)
#define SECTOR_BYTES 512u

static char dir[256];
static struct fixture model, old_model;

/* ---- loop devices ---------------------------------------------------------------------------- */

struct loop {
    char file[300];
    char device[64];
};

/* Runs a command; its first line of output into line (may be NULL). Returns 0 on success. */
static int command(char *line, size_t line_bytes, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int command(char *line, size_t line_bytes, const char *fmt, ...)
{
    char text[1024], scratch[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    FILE *pipe = popen(text, "r");
    if (pipe == NULL)
        return -1;
    if (line == NULL) {
        line = scratch;
        line_bytes = sizeof(scratch);
    }
    if (fgets(line, (int)line_bytes, pipe) == NULL)
        line[0] = 0;
    line[strcspn(line, "\n")] = 0;
    return pclose(pipe) == 0 ? 0 : -1;
}

static int loop_attach(struct loop *l, uint64_t bytes)
{
    static int number;
    *l = (struct loop){0};
    snprintf(l->file, sizeof(l->file), "%s/loop.%d", dir, number++);
    file_write(l->file, "", 0);
    if (truncate(l->file, (off_t)bytes) != 0)
        return -1;
    return command(l->device, sizeof(l->device), "losetup -f -P --show '%s' 2>&1", l->file);
}

static void loop_detach(struct loop *l)
{
    command(NULL, 0, "losetup -d %s 2>&1", l->device);
    unlink(l->file);
}

static void device_put(const struct loop *l, uint64_t offset, const void *data, size_t bytes)
{
    int fd = open(l->device, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, bytes, (off_t)offset), bytes);
    fsync(fd);
    close(fd);
}

static void device_get(const struct loop *l, uint64_t offset, void *data, size_t bytes)
{
    int fd = open(l->device, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, data, bytes, (off_t)offset), bytes);
    close(fd);
}

/* ---- a partition table, by hand (UEFI 2.10 section 5.3) -----------------------------------------
 */

static uint32_t crc32(const uint8_t *data, size_t bytes)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static void put_u32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof(value));
}

static void put_u64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof(value));
}

static void gpt_header(uint8_t *h, uint64_t own, uint64_t other, uint64_t entries_lba,
                       const uint8_t *entries, uint64_t last)
{
    memset(h, 0, SECTOR_BYTES);
    memcpy(h, "EFI PART", 8);
    put_u32(h + 8, 0x10000);
    put_u32(h + 12, 92);
    put_u64(h + 24, own);
    put_u64(h + 32, other);
    put_u64(h + 40, 34);
    put_u64(h + 48, last - 33);
    memset(h + 56, 0x11, 16); /* disk GUID */
    put_u64(h + 72, entries_lba);
    put_u32(h + 80, 128);
    put_u32(h + 84, 128);
    put_u32(h + 88, crc32(entries, 128 * 128));
    put_u32(h + 16, crc32(h, 92));
}

#define GPT_IDENTITY "gpt:11111111-1111-1111-1111-111111111111"

/* One partition from sector 2048 on, with the backup at the end. */
static void gpt_make(const struct loop *l)
{
    static uint8_t entries[128 * 128];
    uint8_t sector[SECTOR_BYTES] = {0};
    uint64_t last = DEVICE_BYTES / SECTOR_BYTES - 1;
    memset(entries, 0, sizeof(entries));
    memset(entries, 0x22, 16);      /* type */
    memset(entries + 16, 0x33, 16); /* PARTUUID */
    put_u64(entries + 32, 2048);
    put_u64(entries + 40, last - 34);
    sector[450] = 0xee;
    put_u32(sector + 454, 1);
    put_u32(sector + 458, (uint32_t)last);
    sector[510] = 0x55;
    sector[511] = 0xaa;
    device_put(l, 0, sector, sizeof(sector));
    gpt_header(sector, 1, last, 2, entries, last);
    device_put(l, SECTOR_BYTES, sector, sizeof(sector));
    device_put(l, 2 * SECTOR_BYTES, entries, sizeof(entries));
    gpt_header(sector, last, 1, last - 32, entries, last);
    device_put(l, last * SECTOR_BYTES, sector, sizeof(sector));
    device_put(l, (last - 32) * SECTOR_BYTES, entries, sizeof(entries));
    command(NULL, 0, "partx -u %s 2>&1 || blockdev --rereadpt %s 2>&1", l->device, l->device);
}

/* ---- helpers --------------------------------------------------------------------------------- */

static int lay(const char *path, const char *identity, bool resume, struct ps_error *err)
{
    struct ps_layout_options opts = {
        .destroy = &identity, .destroy_count = identity != NULL, .resume = resume};
    memset(err, 0, sizeof(*err));
    return fixture_layout(&model, &path, 1, &opts, err);
}

static void must(int rc, const struct ps_error *err)
{
    if (rc != 0)
        fail_msg("%d %s: %s", rc, err->where, err->text);
}

static void must_open(const char *path)
{
    struct ps_volume *v = NULL;
    struct ps_error err = {0};
    must(ps_volume_open(&v, &path, 1, &err), &err);
    fixture_check(&model, v);
    assert_int_equal(fixture_verify(v), 0);
    ps_volume_close(&v);
}

static int signatures(const char *device)
{
    struct ps_identities list = {0};
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ps_probe_signatures(fd, device, &list, NULL), 0);
    close(fd);
    return list.count;
}

static void format_ext4(const char *device)
{
    assert_int_equal(command(NULL, 0, "mkfs.ext4 -q -F %s 2>&1", device), 0);
}

/* The identity with this prefix that an error tells to repeat. */
static void identity_from(const struct ps_error *err, const char *prefix, char identity[128])
{
    const char *at = strstr(err->text, prefix);
    assert_non_null(at);
    size_t bytes = strcspn(at, "'");
    assert_true(bytes < 128);
    memcpy(identity, at, bytes);
    identity[bytes] = 0;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void blank_device(void **state)
{
    struct loop l;
    struct ps_error err;
    struct ps_volume *v = NULL;
    uint8_t first[SECTOR_BYTES];
    (void)state;
    assert_int_equal(loop_attach(&l, DEVICE_BYTES), 0);
    must(lay(l.device, NULL, false, &err), &err);
    must_open(l.device);
    device_get(&l, 0, first, sizeof(first));
    assert_false(first[510] == 0x55 && first[511] == 0xaa);
    assert_int_equal(signatures(l.device), 0);
    const char *path = l.device;
    struct ps_member_info info;
    assert_int_equal(ps_volume_open(&v, &path, 1, &err), 0);
    ps_volume_member(v, 0, &info);
    assert_true(info.is_device);
    assert_int_equal(info.bytes, DEVICE_BYTES);
    ps_volume_close(&v);
    /* The first superblock lost: the second one is found from the device's size. */
    memset(first, 0, sizeof(first));
    device_put(&l, 0, first, sizeof(first));
    assert_int_equal(ps_volume_open(&v, &path, 1, &err), 0);
    fixture_check(&model, v);
    assert_int_equal(fixture_verify(v), 1);
    ps_volume_close(&v);
    assert_int_equal(lay(l.device, NULL, false, &err), -PS_ERR_WOULD_DESTROY);
    assert_non_null(strstr(err.text, "penstock:"));
    must(ps_member_wipe(l.device, &err), &err);
    assert_int_equal(ps_volume_open(&v, &path, 1, &err), -PS_ERR_FORMAT);
    must(lay(l.device, NULL, false, &err), &err);
    loop_detach(&l);
}

/* The file under a device, by either of two names: not a place to write to, nor one to remove. */
static void file_under_a_device(void **state)
{
    struct loop l;
    struct ps_error err;
    char other[sizeof(l.file) + 8];
    (void)state;
    assert_int_equal(loop_attach(&l, DEVICE_BYTES), 0);
    snprintf(other, sizeof(other), "%s.link", l.file);
    assert_int_equal(link(l.file, other), 0);
    must(lay(l.device, NULL, false, &err), &err);
    for (int i = 0; i < 2; i++) {
        const char *file = i == 0 ? l.file : other;
        assert_int_equal(lay(file, NULL, false, &err), -PS_ERR_IN_USE);
        assert_non_null(strstr(err.text, l.device));
        assert_int_equal(ps_member_wipe(file, &err), -PS_ERR_IN_USE);
    }
    must_open(l.device);
    unlink(other);
    loop_detach(&l);
}

static void file_system(void **state)
{
    struct loop l;
    struct ps_error err;
    char identity[128], mount_point[300];
    (void)state;
    assert_int_equal(loop_attach(&l, DEVICE_BYTES), 0);
    format_ext4(l.device);
    assert_int_equal(lay(l.device, NULL, false, &err), -PS_ERR_WOULD_DESTROY);
    identity_from(&err, "ext4:", identity);
    assert_int_equal(lay(l.device, "ext4:other", false, &err), -PS_ERR_WOULD_DESTROY);

    snprintf(mount_point, sizeof(mount_point), "%s/mnt point", dir);
    assert_int_equal(mkdir(mount_point, 0755), 0);
    assert_int_equal(mount(l.device, mount_point, "ext4", 0, NULL), 0);
    assert_int_equal(lay(l.device, identity, false, &err), -PS_ERR_IN_USE);
    assert_non_null(strstr(err.text, mount_point));
    assert_int_equal(ps_member_wipe(l.device, &err), -PS_ERR_IN_USE);
    assert_int_equal(umount(mount_point), 0);
    assert_int_equal(rmdir(mount_point), 0);

    must(lay(l.device, identity, false, &err), &err);
    must_open(l.device);
    assert_int_equal(signatures(l.device), 0);
    loop_detach(&l);
}

/* A file system or a table that was made over a member, whose second superblock is left. */
static void made_over(void **state)
{
    struct loop l;
    struct ps_error err;
    static uint8_t before[34 * SECTOR_BYTES], after[34 * SECTOR_BYTES];
    (void)state;
    assert_int_equal(loop_attach(&l, DEVICE_BYTES), 0);
    must(lay(l.device, NULL, false, &err), &err);
    device_get(&l, 0, before, sizeof(before));
    for (int i = 0; i < 2; i++) {
        if (i == 0)
            assert_int_equal(command(NULL, 0, "mkfs.ext4 -q -F -E nodiscard %s 2>&1", l.device), 0);
        else
            gpt_make(&l);
        /* Of the table only the backup: the first superblock is there as well. */
        if (i == 1)
            device_put(&l, 0, before, sizeof(before));
        device_get(&l, 0, before, sizeof(before));
        assert_int_equal(ps_member_wipe(l.device, &err), -PS_ERR_WOULD_DESTROY);
        assert_non_null(strstr(err.text, i == 0 ? "ext4:" : GPT_IDENTITY));
        assert_int_equal(lay(l.device, NULL, true, &err), -PS_ERR_WOULD_DESTROY);
        assert_non_null(strstr(err.text, i == 0 ? "ext4:" : GPT_IDENTITY));
        device_get(&l, 0, after, sizeof(after));
        assert_memory_equal(after, before, sizeof(before));
        assert_int_equal(command(NULL, 0, "wipefs -qa %s 2>&1", l.device), 0);
        must(lay(l.device, NULL, true, &err), &err);
        must_open(l.device);
        device_get(&l, 0, before, sizeof(before));
    }
    must(ps_member_wipe(l.device, &err), &err);
    loop_detach(&l);
}

static void swap_space(void **state)
{
    struct loop l;
    struct ps_error err;
    uint8_t header[4096] = {0};
    (void)state;
    assert_int_equal(loop_attach(&l, DEVICE_BYTES), 0);
    put_u32(header + 1024, 1); /* version */
    put_u32(header + 1028, DEVICE_BYTES / 4096 - 1);
    memset(header + 1036, 0x44, 16); /* UUID */
    memcpy(header + 4086, "SWAPSPACE2", 10);
    device_put(&l, 0, header, sizeof(header));
    assert_int_equal(lay(l.device, NULL, false, &err), -PS_ERR_WOULD_DESTROY);
    const char *identity = "swap:44444444-4444-4444-4444-444444444444";
    assert_non_null(strstr(err.text, identity));
    if (swapon(l.device, 0) == 0) {
        assert_int_equal(lay(l.device, identity, false, &err), -PS_ERR_IN_USE);
        assert_non_null(strstr(err.text, "swap"));
        assert_int_equal(swapoff(l.device), 0);
    }
    must(lay(l.device, identity, false, &err), &err);
    must_open(l.device);
    loop_detach(&l);
}

static void partitions(void **state)
{
    struct loop l;
    struct ps_error err;
    char partition[80], mount_point[300], identity[128];
    (void)state;
    assert_int_equal(loop_attach(&l, DEVICE_BYTES), 0);
    gpt_make(&l);
    snprintf(partition, sizeof(partition), "%sp1", l.device);
    if (!file_exists(partition)) {
        loop_detach(&l);
        PS_SKIP_ONE("this kernel makes no device for a loop device's partition");
    }
    assert_int_equal(lay(l.device, NULL, false, &err), -PS_ERR_WOULD_DESTROY);
    assert_non_null(strstr(err.text, GPT_IDENTITY));

    format_ext4(partition);
    snprintf(mount_point, sizeof(mount_point), "%s/mnt", dir);
    assert_int_equal(mkdir(mount_point, 0755), 0);
    assert_int_equal(mount(partition, mount_point, "ext4", 0, NULL), 0);
    assert_int_equal(lay(l.device, GPT_IDENTITY, false, &err), -PS_ERR_IN_USE);
    assert_non_null(strstr(err.text, "p1 is mounted"));
    assert_int_equal(umount(mount_point), 0);
    assert_int_equal(rmdir(mount_point), 0);

    const char *both[] = {l.device, partition};
    struct ps_layout_options opts = {0};
    assert_true(fixture_layout(&model, both, 2, &opts, &err) < 0);

    /* The partition alone: the table around it stays. */
    assert_int_equal(lay(partition, NULL, false, &err), -PS_ERR_WOULD_DESTROY);
    identity_from(&err, "ext4:", identity);
    must(lay(partition, identity, false, &err), &err);
    must_open(partition);
    struct ps_identities list = {0};
    int fd = open(l.device, O_RDONLY | O_CLOEXEC);
    assert_int_equal(ps_probe_signatures(fd, l.device, &list, NULL), 0);
    close(fd);
    assert_string_equal(list.text[0], GPT_IDENTITY);

    /* The whole drive, but not while somebody reads the volume on its partition. */
    struct ps_volume *v = NULL;
    const char *path = partition;
    must(ps_volume_open(&v, &path, 1, &err), &err);
    assert_int_equal(lay(l.device, GPT_IDENTITY, false, &err), -PS_ERR_IN_USE);
    assert_non_null(strstr(err.text, "p1 is open in process"));
    ps_volume_close(&v);

    /* Then both copies of the table go. */
    must(lay(l.device, GPT_IDENTITY, false, &err), &err);
    must_open(l.device);
    assert_int_equal(signatures(l.device), 0);
    loop_detach(&l);
}

/* Only the backup at the very end is left of a partition table: still somebody's. */
static void backup_table_only(void **state)
{
    struct loop l;
    struct ps_error err;
    static uint8_t zeroes[34 * SECTOR_BYTES];
    (void)state;
    assert_int_equal(loop_attach(&l, DEVICE_BYTES), 0);
    gpt_make(&l);
    device_put(&l, 0, zeroes, sizeof(zeroes));
    assert_int_equal(lay(l.device, NULL, false, &err), -PS_ERR_WOULD_DESTROY);
    assert_non_null(strstr(err.text, GPT_IDENTITY));
    must(lay(l.device, GPT_IDENTITY, false, &err), &err);
    must_open(l.device);
    assert_int_equal(signatures(l.device), 0);
    loop_detach(&l);
}

static void too_small(void **state)
{
    struct loop l;
    struct ps_error err;
    (void)state;
    assert_int_equal(loop_attach(&l, 2u << 20), 0);
    assert_int_equal(lay(l.device, NULL, false, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "MB"));
    loop_detach(&l);
}

static void read_only_device(void **state)
{
    struct loop l;
    struct ps_error err;
    (void)state;
    assert_int_equal(loop_attach(&l, DEVICE_BYTES), 0);
    assert_int_equal(command(NULL, 0, "blockdev --setro %s 2>&1", l.device), 0);
    assert_int_equal(lay(l.device, NULL, false, &err), -EROFS);
    assert_non_null(strstr(err.text, "read-only"));
    assert_int_equal(command(NULL, 0, "blockdev --setrw %s 2>&1", l.device), 0);
    assert_int_equal(lay(l.device, NULL, false, &err), 0);
    must_open(l.device);
    loop_detach(&l);
}

static void same_device_twice(void **state)
{
    struct loop l;
    struct ps_error err = {0};
    char link_path[300];
    (void)state;
    assert_int_equal(loop_attach(&l, DEVICE_BYTES), 0);
    snprintf(link_path, sizeof(link_path), "%s/link", dir);
    assert_int_equal(symlink(l.device, link_path), 0);
    const char *twice[] = {l.device, link_path};
    assert_true(fixture_layout(&model, twice, 2, NULL, &err) < 0);
    assert_true(err.text[0] != 0);
    /* The file behind a loop device is in use, too. */
    assert_int_equal(lay(l.file, "file:anything:1", false, &err), -PS_ERR_IN_USE);
    assert_non_null(strstr(err.text, l.device));
    unlink(link_path);
    /* One drive under two names, as of a second path to it: only what is read back tells. */
    struct loop second = {0};
    assert_int_equal(
        command(second.device, sizeof(second.device), "losetup -f --show '%s' 2>&1", l.file), 0);
    const char *paths[] = {l.device, second.device};
    assert_int_equal(fixture_layout(&model, paths, 2, NULL, &err), -PS_ERR_MEMBER);
    assert_non_null(strstr(err.text, "the same drive"));
    assert_int_equal(command(NULL, 0, "losetup -d %s 2>&1", second.device), 0);
    must(ps_member_wipe(l.device, &err), &err);
    loop_detach(&l);
}

static void several_devices(void **state)
{
    struct loop l[3];
    struct ps_error err = {0};
    char file[300];
    const char *paths[4];
    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(loop_attach(&l[i], DEVICE_BYTES), 0);
        paths[i] = l[i].device;
    }
    snprintf(file, sizeof(file), "%s/a file too", dir);
    paths[3] = file;
    must(fixture_layout(&model, paths, 4, NULL, &err), &err);
    for (int i = 0; i < 4; i++)
        must_open(paths[i]);
    /* Attached elsewhere: the recorded names are wrong, the UUIDs tell. */
    struct loop gap;
    assert_int_equal(command(NULL, 0, "losetup -d %s 2>&1", l[0].device), 0);
    assert_int_equal(loop_attach(&gap, 1u << 20), 0);
    assert_int_equal(
        command(l[0].device, sizeof(l[0].device), "losetup -f -P --show '%s' 2>&1", l[0].file), 0);
    must_open(l[1].device);
    must_open(file);
    loop_detach(&gap);
    for (int i = 0; i < 3; i++)
        loop_detach(&l[i]);
    unlink(file);
}

/* A device too small for its share gets what it holds; all together too small are refused. */
static void unequal_devices(void **state)
{
    static const uint64_t bytes[] = {16u << 20, 2u << 20, 16u << 20};
    struct loop l[3];
    struct ps_error err = {0};
    struct fixture large;
    struct fixture_shape shape = fixture_small;
    struct ps_volume *v = NULL;
    const char *paths[3];
    (void)state;
    shape.index_count = 20;
    fixture_init(&large, 1, &shape); /* 6 MB */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(loop_attach(&l[i], bytes[i]), 0);
        paths[i] = l[i].device;
    }
    must(fixture_layout(&large, paths, 3, NULL, &err), &err);
    must(ps_volume_open(&v, paths, 1, &err), &err);
    fixture_check(&large, v);
    assert_int_equal(fixture_verify(v), 0);
    uint64_t data[3];
    for (int i = 0; i < 3; i++) {
        struct ps_member_info info;
        ps_volume_member(v, i, &info);
        data[i] = info.data_end_bytes - info.data_begin_bytes;
    }
    /* 2 MiB less tail and head; most of that is used. */
    assert_true(data[1] > 500000 && data[1] < 900000);
    assert_true(data[0] > data[2] * 9 / 10 && data[2] > data[0] * 9 / 10);
    ps_volume_close(&v);
    for (int i = 0; i < 3; i++)
        must(ps_member_wipe(paths[i], &err), &err);
    const char *small[] = {paths[1]};
    assert_int_equal(fixture_layout(&large, small, 1, NULL, &err), -ENOSPC);
    struct ps_layout_options copies = {.copies = 2};
    assert_int_equal(fixture_layout(&large, paths, 2, &copies, &err), -ENOSPC);
    fixture_fini(&large);
    shape.index_count = 160;
    fixture_init(&large, 1, &shape); /* 48 MB */
    assert_int_equal(fixture_layout(&large, paths, 3, NULL, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "together"));
    fixture_fini(&large);
    for (int i = 0; i < 3; i++)
        loop_detach(&l[i]);
}

static int move(const char *volume, const char *const *paths, int count, bool resume,
                struct ps_error *err)
{
    struct ps_rebalance_options o = {.members = paths, .member_count = count, .resume = resume};
    memset(err, 0, sizeof(*err));
    return ps_volume_rebalance(&volume, 1, &o, err);
}

/* Old and new volume on one device, whose second superblocks have one place; killed and cut off. */
static void moved_devices(void **state)
{
    struct loop l[3];
    struct ps_error err;
    const char *paths[3], *both[2];
    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(loop_attach(&l[i], i < 2 ? DEVICE_BYTES : 3u << 20), 0);
        paths[i] = l[i].device;
    }
    both[0] = paths[1];
    both[1] = paths[0];
    shim = (struct shim){.mode = SHIM_PASS};
    must(lay(paths[0], NULL, false, &err), &err);
    must(move(paths[0], paths, 2, false, &err), &err);
    must_open(paths[1]);
    shim = (struct shim){.mode = SHIM_PASS};
    must(move(paths[0], both, 2, false, &err), &err);
    must_open(paths[0]);
    uint64_t calls = shim.count;
    for (uint64_t i = 0; i < 30; i++) {
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            shim = (struct shim){.mode = i % 3 == 0 ? SHIM_KILL : SHIM_POWER,
                                 /* Most of them near the end, where the superblocks change. */
                                 .call = i < 10 ? 1 + calls * i / 10 : calls - (i - 10),
                                 .seed = i};
            _exit(move(paths[0], i % 2 == 0 ? paths : both, 2, false, &err) == 0 ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 1);
        for (int m = 0; m < 2; m++) {
            struct ps_volume *v = NULL;
            if (ps_volume_open(&v, &paths[m], 1, &err) < 0)
                continue;
            fixture_check(&model, v);
            ps_volume_close(&v);
        }
        must(move(paths[0], i % 2 == 0 ? paths : both, 2, true, &err), &err);
        must_open(paths[0]);
        must_open(paths[1]);
    }
    /* To one of them, whose room suffices for both; the other one is free again. */
    must(move(paths[0], &paths[1], 1, false, &err), &err);
    must_open(paths[1]);
    must(lay(paths[2], NULL, false, &err), &err);
    struct ps_rebalance_options o = {.members = &paths[2], .member_count = 1, .copies = 1};
    assert_int_equal(ps_volume_rebalance(&paths[2], 1, &o, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "are missing here"));
    must_open(paths[2]);
    for (int i = 0; i < 3; i++)
        loop_detach(&l[i]);
}

static void full_disk(void **state)
{
    struct loop l;
    struct ps_error err;
    char mount_point[300], path[320];
    (void)state;
    assert_int_equal(loop_attach(&l, 4u << 20), 0);
    assert_int_equal(command(NULL, 0, "mkfs.ext4 -q -F -O ^has_journal %s 2>&1", l.device), 0);
    snprintf(mount_point, sizeof(mount_point), "%s/full", dir);
    assert_int_equal(mkdir(mount_point, 0755), 0);
    assert_int_equal(mount(l.device, mount_point, "ext4", 0, NULL), 0);
    snprintf(path, sizeof(path), "%s/volume", mount_point);
    struct fixture large;
    struct fixture_shape large_shape = fixture_small;
    large_shape.index_count = 12;
    fixture_init(&large, 1, &large_shape);
    const char *paths[] = {path};
    assert_int_equal(fixture_layout(&large, paths, 1, NULL, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "MB"));
    assert_false(file_exists(path));
    fixture_fini(&large);
    assert_int_equal(umount(mount_point), 0);
    assert_int_equal(rmdir(mount_point), 0);
    loop_detach(&l);
}

static uint64_t hash_volume(const struct loop *l)
{
    uint8_t *data = malloc(DEVICE_BYTES);
    struct ps_superblock_pair pair;
    int fd = open(l->device, O_RDONLY | O_CLOEXEC);
    assert_int_equal(ps_superblock_read(fd, l->device, &pair, NULL), 0);
    close(fd);
    const struct ps_disk_superblock *sb = &pair.copy[0];
    device_get(l, 0, data, sb->data_end);
    device_get(l, sb->second_offset, data + sb->data_end, PS_SUPERBLOCK_BYTES);
    uint64_t hash = XXH3_64bits(data, sb->data_end + PS_SUPERBLOCK_BYTES);
    free(data);
    return hash;
}

/* Killed or without power at many points over an old volume on the same device. */
static void crashes(void **state)
{
    struct loop l;
    struct ps_error err;
    struct ps_volume *v = NULL;
    char old_identity[64], uuid[40];
    const char *path;
    (void)state;
    assert_int_equal(loop_attach(&l, DEVICE_BYTES), 0);
    path = l.device;
    shim = (struct shim){.mode = SHIM_PASS};
    must(lay(l.device, NULL, false, &err), &err);
    uint64_t calls = shim.count, whole = hash_volume(&l);
    assert_int_equal(ps_volume_open(&v, &path, 1, NULL), 0);
    snprintf(uuid, sizeof(uuid), "%s", ps_volume_uuid(v));
    ps_volume_close(&v);
    for (int i = 0; i < 40; i++) {
        shim = (struct shim){.mode = SHIM_PASS};
        must(ps_member_wipe(l.device, &err), &err);
        must(fixture_layout(&old_model, &path, 1, NULL, &err), &err);
        must(ps_volume_open(&v, &path, 1, &err), &err);
        snprintf(old_identity, sizeof(old_identity), "penstock:%s", ps_volume_uuid(v));
        ps_volume_close(&v);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            shim = (struct shim){.mode = i % 2 == 0 ? SHIM_POWER : SHIM_KILL,
                                 .call = i < 10 ? (uint64_t)i + 1 : 1 + calls * (uint64_t)i / 40,
                                 .seed = (uint64_t)i};
            _exit(lay(l.device, old_identity, false, &err) == 0 ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 1);
        if (ps_volume_open(&v, &path, 1, &err) == 0) {
            assert_int_equal(fixture_verify(v), 0);
            fixture_check(strcmp(ps_volume_uuid(v), uuid) == 0 ? &model : &old_model, v);
            ps_volume_close(&v);
        }
        must(lay(l.device, old_identity, true, &err), &err);
        must_open(l.device);
        assert_true(hash_volume(&l) == whole);
    }
    loop_detach(&l);
}

static int start(void **state)
{
    (void)state;
    ps_test_dir_make(dir, sizeof(dir));
    fixture_init(&model, 1, &fixture_small);
    fixture_init(&old_model, 2, &fixture_former);
    ps_layout_set_flush_bytes(96u << 10);
    return 0;
}

static int end(void **state)
{
    (void)state;
    fixture_fini(&model);
    fixture_fini(&old_model);
    ps_test_dir_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blank_device),    cmocka_unit_test(file_under_a_device),
        cmocka_unit_test(file_system),     cmocka_unit_test(swap_space),
        cmocka_unit_test(partitions),      cmocka_unit_test(backup_table_only),
        cmocka_unit_test(too_small),       cmocka_unit_test(same_device_twice),
        cmocka_unit_test(several_devices), cmocka_unit_test(full_disk),
        cmocka_unit_test(crashes),         cmocka_unit_test(unequal_devices),
        cmocka_unit_test(moved_devices),   cmocka_unit_test(read_only_device),
        cmocka_unit_test(made_over),
    };
    struct loop probe;
    if (geteuid() != 0)
        PS_SKIP("loop devices need root");
    ps_test_dir_make(dir, sizeof(dir));
    bool loops = loop_attach(&probe, DEVICE_BYTES) == 0;
    if (loops)
        loop_detach(&probe);
    ps_test_dir_remove(dir);
    if (!loops)
        PS_SKIP("no loop device can be attached here (%s)", probe.device);
    if (command(NULL, 0, "command -v mkfs.ext4") != 0)
        PS_SKIP("mkfs.ext4 is not installed");
    return cmocka_run_group_tests(tests, start, end);
}
