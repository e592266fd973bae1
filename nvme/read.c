#include "nvme/read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "nvme/raw_io.h"
#include "nvme/volume_internal.h"

/* Pieces of a slice in which its copies may differ and still be told apart: 2 to this power tries.
 */
#define DIFFERENT_COUNT_MAX 8
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

/* A range of a slice in which the two copies differ, or can be read only from one. */
struct difference {
    uint64_t at;
    uint32_t bytes;
};

static int read_piece(const struct ps_reader *reader, const struct ps_disk_piece *piece,
                      uint8_t *data)
{
    int fd = reader->fds[piece->member];
    return fd < 0 ? -PS_ERR_MEMBER : ps_raw_read(fd, data, piece->bytes, piece->offset_bytes);
}

/*
 * Reads both copies, each whole but for what only the other has. Returns how many pieces differ
 * (only the first ones are listed), or the error of a piece that neither gives.
 */
static int read_both(const struct ps_reader *reader, uint64_t slice, uint8_t *copies[2],
                     struct difference *differences)
{
    const struct ps_map *map = &reader->volume->map;
    const struct ps_disk_piece *pieces[2] = {ps_map_pieces(map, slice, 0),
                                             ps_map_pieces(map, slice, 1)};
    uint64_t at = 0;
    int count = 0;
    for (uint32_t i = 0; i < map->slices[slice].piece_count; at += pieces[0][i++].bytes) {
        uint32_t bytes = pieces[0][i].bytes;
        int rc[2];
        for (int c = 0; c < 2; c++)
            rc[c] = read_piece(reader, &pieces[c][i], copies[c] + at);
        if (rc[0] < 0 && rc[1] < 0)
            return rc[0];
        for (int c = 0; c < 2; c++) {
            if (rc[c] < 0)
                memcpy(copies[c] + at, copies[1 - c] + at, bytes);
        }
        if (memcmp(copies[0] + at, copies[1] + at, bytes) != 0) {
            if (count < DIFFERENT_COUNT_MAX)
                differences[count] = (struct difference){at, bytes};
            count++;
        }
    }
    return count;
}

int ps_slice_recover(const struct ps_reader *reader, uint64_t slice, uint8_t *data)
{
    const struct ps_disk_slice *s = &reader->volume->map.slices[slice];
    struct difference differences[DIFFERENT_COUNT_MAX];
    uint8_t *copies[2] = {data, ps_raw_alloc(s->bytes)};
    if (copies[1] == NULL)
        return -ENOMEM;
    int count = read_both(reader, slice, copies, differences);
    int rc = count < 0 ? count : -PS_ERR_CHECKSUM;
    /* All choices, in the order of a Gray code: between two tries one piece is exchanged. */
    for (uint32_t t = 0; count >= 0 && count <= DIFFERENT_COUNT_MAX && t < 1u << count; t++) {
        if (XXH3_64bits(data, s->bytes) == s->checksum) {
            rc = 0;
            break;
        }
        int bit = __builtin_ctz(t + 1);
        if (bit == count)
            break;
        struct difference d = differences[bit];
        for (uint32_t i = 0; i < d.bytes; i++) {
            uint8_t byte = data[d.at + i];
            data[d.at + i] = copies[1][d.at + i];
            copies[1][d.at + i] = byte;
        }
    }
    free(copies[1]);
    return rc;
}
