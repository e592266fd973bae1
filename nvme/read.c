#include "nvme/read.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "nvme/raw_io.h"
#include "nvme/volume_internal.h"

/* Pieces that one system call takes; the kernel's limit is 1024. */
#define IOV_COUNT_MAX 256

int ps_reader_open(struct ps_reader *reader, const struct ps_volume *volume, struct ps_error *err)
{
    reader->volume = volume;
    for (int m = 0; m < PS_MEMBER_COUNT_MAX; m++)
        reader->fds[m] = -1;
    for (int m = 0; m < volume->member_count; m++) {
        if (volume->members[m].fd < 0)
            continue;
        int fd = ps_volume_reopen(volume, m, O_RDONLY | O_DIRECT);
        if (fd == -EINVAL)
            fd = ps_volume_reopen(volume, m, O_RDONLY);
        if (fd < 0) {
            ps_reader_close(reader);
            return ps_error_set(err, fd, volume->members[m].path,
                                "cannot be opened again for reading: %s", ps_strerror(fd));
        }
        reader->fds[m] = fd;
    }
    return 0;
}

void ps_reader_close(struct ps_reader *reader)
{
    for (int m = 0; reader->volume != NULL && m < reader->volume->member_count; m++) {
        if (reader->fds[m] >= 0)
            close(reader->fds[m]);
        reader->fds[m] = -1;
    }
}

/* Reads what member m holds of the run, straight to where each piece belongs. */
static int read_member(const struct ps_reader *reader, const struct ps_run *run, uint32_t m)
{
    const struct ps_map *map = &reader->volume->map;
    const struct ps_disk_piece *piece = ps_map_pieces(map, run->begin, run->copy);
    const struct ps_disk_piece *end =
        ps_map_pieces(map, run->end - 1, run->copy) + map->slices[run->end - 1].piece_count;
    struct iovec iov[IOV_COUNT_MAX];
    uint64_t offset = 0;
    uint8_t *at = run->buf;
    int count = 0, rc = 0;
    for (; rc == 0 && piece < end; at += (piece++)->bytes) {
        if (piece->member != m)
            continue;
        if (count == 0)
            offset = piece->offset_bytes;
        iov[count++] = (struct iovec){.iov_base = at, .iov_len = piece->bytes};
        if (count == IOV_COUNT_MAX) {
            rc = ps_raw_readv(reader->fds[m], iov, count, offset);
            count = 0;
        }
    }
    return rc == 0 && count > 0 ? ps_raw_readv(reader->fds[m], iov, count, offset) : rc;
}

void ps_run_read(const struct ps_reader *reader, struct ps_run *run)
{
    for (int m = 0; m < reader->volume->member_count; m++)
        run->member_rc[m] =
            reader->fds[m] < 0 ? -PS_ERR_MEMBER : read_member(reader, run, (uint32_t)m);
}

int ps_run_check(const struct ps_reader *reader, const struct ps_run *run, uint64_t slice,
                 uint8_t *data, uint32_t *piece)
{
    const struct ps_disk_slice *s = &reader->volume->map.slices[slice];
    const struct ps_disk_piece *pieces = ps_map_pieces(&reader->volume->map, slice, run->copy);
    uint8_t *at = data;
    for (uint32_t i = 0; i < s->piece_count; at += pieces[i++].bytes) {
        int rc = run->member_rc[pieces[i].member];
        if (rc < 0 && rc != -PS_ERR_MEMBER)
            rc = ps_raw_read(reader->fds[pieces[i].member], at, pieces[i].bytes,
                             pieces[i].offset_bytes);
        if (rc < 0) {
            *piece = i;
            return rc;
        }
    }
    return XXH3_64bits(data, s->bytes) == s->checksum ? 0 : -PS_ERR_CHECKSUM;
}
