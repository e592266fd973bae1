/* docs/format.md against nvme/format.h: every field of every struct, its offset and its size. */
#include "nvme/format.h"
#include "util.h"

struct field {
    const char *name;
    size_t offset, bytes;
};

struct table {
    const char *name;
    size_t bytes;
    const struct field *fields;
    size_t count;
};

#define FIELD(type, field)                                                                         \
    {                                                                                              \
#field, offsetof(struct type, field), sizeof(((struct type *)0)->field)                    \
    }
#define TABLE(type, list)                                                                          \
    {                                                                                              \
#type, sizeof(struct type), list, sizeof(list) / sizeof((list)[0])                         \
    }

#define F(field) FIELD(ps_disk_superblock, field)
static const struct field superblock[] = {
    F(magic),           F(version),        F(state),         F(uuid),           F(member),
    F(member_count),    F(generation),     F(member_bytes),  F(second_offset),  F(align),
    F(is_device),       F(table_offset),   F(table_bytes),   F(table_checksum), F(map_offset),
    F(map_bytes),       F(map_checksum),   F(record_offset), F(record_bytes),   F(data_begin),
    F(data_end),        F(slice_count),    F(watermark),     F(fingerprint),    F(plan_hash),
    F(source_name),     F(reserved),       F(not_boot),      F(weights),        F(nodes),
    F(piece_bytes_min), F(further_copies), F(origin),        F(reserved2),      F(checksum),
};
#undef F
#define F(field) FIELD(ps_disk_table, field)
static const struct field table_header[] = {F(magic), F(uuid), F(member), F(member_count)};
#undef F
#define F(field) FIELD(ps_disk_peer, field)
static const struct field peer[] = {F(path),  F(partuuid),  F(serial),
                                    F(bytes), F(is_device), F(reserved)};
#undef F
#define F(field) FIELD(ps_disk_map, field)
static const struct field map[] = {
    F(magic),          F(version),        F(align),         F(uuid),          F(member_count),
    F(object_count),   F(slice_count),    F(piece_count),   F(blob_count),    F(further_copies),
    F(members_offset), F(objects_offset), F(slices_offset), F(pieces_offset), F(blobs_offset),
    F(names_offset),   F(names_bytes),    F(bytes),
};
#undef F
#define F(field) FIELD(ps_disk_extent, field)
static const struct field extent[] = {F(data_begin), F(data_end)};
#undef F
#define F(field) FIELD(ps_disk_object, field)
static const struct field object[] = {F(kind),        F(group),       F(index),
                                      F(slice_count), F(first_slice), F(bytes),
                                      F(name_offset), F(name_bytes),  F(reserved)};
#undef F
#define F(field) FIELD(ps_disk_slice, field)
static const struct field slice[] = {F(checksum),   F(offset_bytes), F(first_piece), F(bytes),
                                     F(unit_begin), F(unit_count),   F(piece_count)};
#undef F
#define F(field) FIELD(ps_disk_piece, field)
static const struct field piece[] = {F(member), F(bytes), F(offset_bytes)};
#undef F
#define F(field) FIELD(ps_disk_blob, field)
static const struct field blob[] = {F(name), F(offset_bytes), F(bytes), F(checksum)};
#undef F
#define F(field) FIELD(ps_disk_record, field)
static const struct field record[] = {F(magic),      F(generation), F(uuid),
                                      F(used_bytes), F(reserved),   F(checksum)};
#undef F

#define F(field) FIELD(ps_disk_entry, field)
static const struct field entry[] = {F(name), F(bytes), F(reserved)};
#undef F
#define F(field) FIELD(ps_disk_profile, field)
static const struct field profile[] = {F(bytes_per_s), F(latency_ns),      F(request_bytes),
                                       F(depth),       F(piece_bytes_min), F(reserved)};
#undef F

static const struct table tables[] = {
    TABLE(ps_disk_superblock, superblock),
    TABLE(ps_disk_table, table_header),
    TABLE(ps_disk_peer, peer),
    TABLE(ps_disk_map, map),
    TABLE(ps_disk_extent, extent),
    TABLE(ps_disk_object, object),
    TABLE(ps_disk_slice, slice),
    TABLE(ps_disk_piece, piece),
    TABLE(ps_disk_blob, blob),
    TABLE(ps_disk_record, record),
    TABLE(ps_disk_entry, entry),
    TABLE(ps_disk_profile, profile),
};
#define TABLE_COUNT (sizeof(tables) / sizeof(tables[0]))

/* The lists above name every byte of the struct once, so none of its fields is left out. */
static void lists_are_complete(void **state)
{
    (void)state;
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        size_t at = 0;
        for (size_t i = 0; i < tables[t].count; i++) {
            assert_int_equal(tables[t].fields[i].offset, at);
            at += tables[t].fields[i].bytes;
        }
        assert_int_equal(at, tables[t].bytes);
    }
}

static void document_agrees(void **state)
{
    FILE *file = fopen(PS_SOURCE_DIR "/docs/format.md", "re");
    const struct table *table = NULL;
    char line[512], name[64];
    size_t offset, bytes, seen = 0, row = 0;
    (void)state;
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "### `struct %63[a-z_]`, %zu bytes", name, &bytes) == 2) {
            assert_true(!table || row == table->count);
            assert_true(seen < TABLE_COUNT);
            table = &tables[seen++];
            row = 0;
            assert_string_equal(name, table->name);
            assert_int_equal(bytes, table->bytes);
        } else if (line[0] ==
                   '#') { /* what is not of the volume itself has no struct in the list */
            assert_true(!table || row == table->count);
            table = NULL;
        } else if (table &&
                   sscanf(line, "| %zu | %zu | `%63[a-z0-9_]` |", &offset, &bytes, name) == 3) {
            assert_true(row < table->count);
            if (strcmp(name, table->fields[row].name) != 0)
                fail_msg("%s: row %zu is %s, not %s", table->name, row, name,
                         table->fields[row].name);
            assert_int_equal(offset, table->fields[row].offset);
            assert_int_equal(bytes, table->fields[row].bytes);
            row++;
        }
    }
    fclose(file);
    assert_int_equal(seen, TABLE_COUNT);
    assert_true(!table || row == table->count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_are_complete),
        cmocka_unit_test(document_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
