#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/util.h"
#include "model/source.h"

/* O_DIRECT wants offsets, lengths and memory in multiples of the drive's block; a drive that wants
 * more than this refuses the read, which then goes through the page cache. */
#define ALIGN_BYTES 4096u
#define HUGE_BYTES (2u << 20)

/* In huge pages where they are to be had: a read into 4 KiB pages has a segment for each, more than
 * a request to many drives may have. */
static int make_memory(struct ps_source_window *w, struct ps_error *err)
{
    if (w->data)
        return 0;
    w->data = aligned_alloc(HUGE_BYTES, PS_SOURCE_WINDOW_BYTES);
    if (!w->data)
        return ps_error_set(err, -ENOMEM, NULL, "memory for reading the source is not to be had");
    madvise(w->data, PS_SOURCE_WINDOW_BYTES, MADV_HUGEPAGE);
    return 0;
}

/* Fills the window from offset on. 0 bytes: read some other way. */
static void load(const struct ps_source_file *f, struct ps_source_window *w, uint32_t file,
                 uint64_t offset, uint64_t end)
{
    uint64_t begin = offset & ~(uint64_t)(ALIGN_BYTES - 1);
    uint64_t want;
    ssize_t got;

    if (file == w->until_file)
        end = ps_max_u64(end, w->until);
    want = ps_min_u64(ps_align_up(end, ALIGN_BYTES) - begin, PS_SOURCE_WINDOW_BYTES);
    do
        got = pread(f->direct_fd, w->data, want, (off_t)begin);
    while (got < 0 && errno == EINTR);
    w->begin = begin;
    w->end = got > 0 ? begin + (uint64_t)got : begin;
}

int ps_source_window_read(const struct ps_source *source, struct ps_source_window *w, uint32_t file,
                          uint64_t offset, void *buf, uint64_t bytes, struct ps_error *err)
{
    const struct ps_source_file *f = &source->files[file];
    uint8_t *to = buf;
    int rc;

    if (f->direct_fd < 0)
        return ps_source_read(source, file, offset, buf, bytes, err);
    rc = make_memory(w, err);
    while (rc == 0 && bytes > 0) {
        if (w->file != file || offset < w->begin || offset >= w->end) {
            load(f, w, file, offset, offset + bytes);
            w->file = file;
            /* Refused, damaged or at the end: the ordinary way succeeds, or says what is wrong. */
            if (offset >= w->end)
                return ps_source_read(source, file, offset, to, bytes, err);
            rc = ps_source_check_unchanged(f, err);
        }
        uint64_t n = ps_min_u64(bytes, w->end - offset);
        memcpy(to, w->data + (offset - w->begin), n);
        to += n;
        offset += n;
        bytes -= n;
    }
    return rc;
}

void ps_source_window_fini(struct ps_source_window *w)
{
    free(w->data);
    *w = (struct ps_source_window){0};
}
