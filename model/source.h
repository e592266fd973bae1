/*
 * Private to import: a checkpoint on disk, whatever its format: a list of named tensors with types,
 * shapes and places, and metadata. Headers are read with pread into heap buffers bounded by the
 * file's size, never mapped: a file that shrinks while it is read gives an error and no signal.
 */
#ifndef PENSTOCK_MODEL_SOURCE_H
#define PENSTOCK_MODEL_SOURCE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

#define PS_SOURCE_DIM_COUNT_MAX 8
#define PS_SOURCE_FILE_COUNT_MAX 512
#define PS_SOURCE_TYPE_OTHER UINT32_MAX
#define PS_SOURCE_WINDOW_BYTES (8u << 20)

enum ps_source_kind { PS_SOURCE_GGUF, PS_SOURCE_SAFETENSORS };

struct ps_source_tensor {
    char *name;
    /* enum ps_type, or PS_SOURCE_TYPE_OTHER: only type_name tells. PS_TYPE_F8_E4M3 in safetensors:
     * one byte for each value; the scales are in a companion (model/fp8.h). */
    uint32_t type;
    char type_name[16]; /* "BF16", "Q4_K", "I64": for messages */
    uint32_t dim_count;
    uint64_t dims[PS_SOURCE_DIM_COUNT_MAX]; /* outermost first; none is 0 in a GGUF file */
    uint32_t file;
    uint64_t offset_bytes, bytes; /* in that file; checked against its size */
};

struct ps_source_file {
    char *path;
    int fd;
    int direct_fd; /* of large files, past the page cache; -1 where that is not to be had */
    uint64_t bytes;
    int64_t mtime_ns;
    uint64_t header_hash; /* XXH3-64 of the header's bytes */
};

/* A value of GGUF metadata, in place in the header that the source keeps. */
struct ps_gguf_value {
    const char *key; /* not 0-terminated */
    uint64_t key_bytes;
    uint32_t type;      /* GGUF value type; 9 = array */
    uint32_t item_type; /* of an array */
    uint64_t count;     /* items of an array, else 1 */
    const uint8_t *data;
    uint64_t bytes; /* of data; every string in it has been checked */
};

struct ps_source {
    enum ps_source_kind kind;
    char *directory; /* where the files of a safetensors checkpoint lie; NULL for GGUF */
    char name[256];  /* base name of what was opened, valid UTF-8 */
    struct ps_source_file *files;
    uint32_t file_count;
    struct ps_source_tensor *tensors; /* by name, ascending; no name twice */
    size_t tensor_count, tensor_capacity;
    uint8_t *gguf_header; /* of the first file */
    struct ps_gguf_value *gguf_values;
    size_t gguf_value_count;
};

/*
 * Opens a checkpoint: a GGUF file (the first of a split set), a directory of safetensors, or a
 * single .safetensors file (its neighbours config.json, ... are used). Checks all headers: after
 * success every tensor lies within its file, none overlaps another, and no name is there twice.
 * *out is owned by the caller. Errors: -errno, -PS_ERR_FORMAT, -PS_ERR_TRUNCATED,
 * -PS_ERR_UNSUPPORTED.
 */
int ps_source_open(struct ps_source **out, const char *path, struct ps_error *err);
void ps_source_close(struct ps_source **source);

/*
 * From which size on files are read past the page cache, or dropped from it behind the read.
 * Process-wide, for tests; call it before a source is opened.
 */
void ps_source_set_large_bytes(uint64_t bytes);

/* The tensor of that name, or NULL. */
const struct ps_source_tensor *ps_source_find(const struct ps_source *source, const char *name);

/*
 * Reads a range of a file. What was read from large files is dropped from the page cache behind the
 * read, so that a source larger than memory does not push everything else out. Thread-safe.
 * Errors: -PS_ERR_TRUNCATED (the file shrank), -PS_ERR_SOURCE_CHANGED (it was written to since it
 * was opened), -errno.
 */
int ps_source_read(const struct ps_source *source, uint32_t file, uint64_t offset_bytes, void *buf,
                   uint64_t bytes, struct ps_error *err);

/*
 * One thread's view of large files: pieces of them that were read past the page cache, so that a
 * source of any size costs neither memory nor the cache's copying. Zeroed to begin with.
 */
struct ps_source_window {
    uint8_t *data; /* aligned, PS_SOURCE_WINDOW_BYTES once used */
    uint32_t file;
    uint64_t begin, end; /* what of the file it holds */
    /* Set by the caller: reads of this file up to there are going to follow. */
    uint32_t until_file;
    uint64_t until;
};

/*
 * As ps_source_read, through the window where the file is large. One thread at a time per window.
 * Errors also: -ENOMEM.
 */
int ps_source_window_read(const struct ps_source *source, struct ps_source_window *window,
                          uint32_t file, uint64_t offset_bytes, void *buf, uint64_t bytes,
                          struct ps_error *err);
void ps_source_window_fini(struct ps_source_window *window);

/* -PS_ERR_ARGUMENT when path is one of the source's own files, by whatever name: writing there
 * would destroy what is still to be read. */
int ps_source_check_member(const struct ps_source *source, const char *path, struct ps_error *err);

/*
 * A fingerprint of the source: names, sizes, times and headers of its files, and samples of the
 * data (begin, middle and end of up to 1024 tensors spread evenly), so it takes seconds at most.
 */
int ps_source_fingerprint(const struct ps_source *source, uint64_t fingerprint[2],
                          struct ps_error *err);

/*
 * A small file beside the tensors of a safetensors checkpoint, with a 0 behind it: *text is
 * malloc'd, owned by the caller. -ENOENT when there is none (err untouched), -PS_ERR_FORMAT when
 * absurdly large.
 */
int ps_source_sidecar(const struct ps_source *source, const char *name, char **text,
                      size_t *text_bytes, struct ps_error *err);

/* The same, parsed; *json is owned by the caller (json_decref). */
int ps_source_sidecar_json(const struct ps_source *source, const char *name, json_t **json,
                           struct ps_error *err);

/* A name for people that JSON can hold: at most out_bytes - 1 bytes, up to a 0; what is not
 * printable ASCII becomes '?'. */
void ps_source_plain_text(char *out, size_t out_bytes, const char *text, size_t text_bytes);

/* "[512, 2048, 4096]" into buf. Returns buf. */
const char *ps_source_shape_text(const uint64_t *dims, uint32_t dim_count, char *buf,
                                 size_t buf_bytes);

/* ---- for the formats ------------------------------------------------------------ */

/* Adds a file to the list, open for reading; returns its number. */
int ps_source_add_file(struct ps_source *source, const char *path, struct ps_error *err);
/* Adds a copy of *tensor with a copy of the name. */
int ps_source_add_tensor(struct ps_source *source, const struct ps_source_tensor *tensor,
                         const char *name, size_t name_bytes, struct ps_error *err);

/* -PS_ERR_SOURCE_CHANGED when the file was written to since it was opened. */
int ps_source_check_unchanged(const struct ps_source_file *file, struct ps_error *err);

int ps_gguf_read(struct ps_source *source, const char *path, struct ps_error *err);
int ps_safetensors_read(struct ps_source *source, const char *path, bool is_directory,
                        struct ps_error *err);

#endif
