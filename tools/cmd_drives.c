/* penstock drives: the NVMe drives of this machine and what they hold. */
#include "tools/tool.h"

#include <string.h>

#include "core/budget.h"
#include "tools/drive_list.h"

enum { KEY_JSON = 1 };

static error_t parse(int key, char *arg, struct argp_state *state)
{
    bool *json = state->input;

    switch (key) {
    case KEY_JSON:
        *json = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "\"%s\": drives takes no arguments, it lists all", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {{"json", KEY_JSON, NULL, 0, "print it as JSON", 0},
                                             {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .doc =
        "Lists every NVMe drive and partition: model, size, link, NUMA node, health, who uses "
        "it, and whether it holds a member of a volume. Temperature, wear and errors need root."};

/* ---- the table ------------------------------------------------------------------------------- */

enum { DEVICE, SIZE, NODE, LINK, TEMPERATURE, WORN, SPARE, ERRORS, HOLDS, COLUMN_COUNT };

static const char *const titles[COLUMN_COUNT] = {"device", "size",  "node",   "link", "temp",
                                                 "worn",   "spare", "errors", "holds"};

struct row {
    char cells[COLUMN_COUNT][192];
};

static const char *state_name(enum ps_member_state state)
{
    switch (state) {
    case PS_MEMBER_COMPLETE:
        return "complete";
    case PS_MEMBER_INCOMPLETE:
        return "incomplete";
    case PS_MEMBER_WIPED:
        return "wiped";
    }
    return "unknown";
}

static bool is_ours(const struct drive_place *place)
{
    return strcmp(place->gpt_type, PS_PARTITION_TYPE) == 0;
}

static void holds_text(const struct drive_place *place, int partition_count, char *text,
                       size_t bytes)
{
    size_t at = 0;

    text[0] = '\0';
    if (place->is_member)
        snprintf(text, bytes, "member %u of %u of volume %s%s%s", place->peek.member + 1,
                 place->peek.member_count, place->peek.uuid,
                 place->peek.state == PS_MEMBER_COMPLETE ? "" : ", ",
                 place->peek.state == PS_MEMBER_COMPLETE ? "" : state_name(place->peek.state));
    else if (is_ours(place))
        snprintf(text, bytes, "a partition for Penstock, without a volume");
    else if (partition_count > 0)
        snprintf(text, bytes, "%d partition%s", partition_count, partition_count == 1 ? "" : "s");
    at = strlen(text);
    if (place->use[0] != '\0')
        snprintf(text + at, bytes - at, "%s%s", at > 0 ? "; " : "", place->use);
    else if (at == 0)
        snprintf(text, bytes, "not in use%s",
                 place->peek_error < 0 ? " (not allowed to look into it)" : "");
}

static void link_text(const struct drive *drive, char *text, size_t bytes)
{
    bool is_slow =
        drive->speed_max[0] != '\0' && (strcmp(drive->link_speed, drive->speed_max) != 0 ||
                                        strcmp(drive->link_width, drive->width_max) != 0);

    if (drive->link_speed[0] == '\0')
        snprintf(text, bytes, "%s", strcmp(drive->transport, "pcie") == 0 ? "-" : drive->transport);
    else if (is_slow)
        snprintf(text, bytes, "%s x%s of %s x%s", drive->link_speed, drive->link_width,
                 drive->speed_max, drive->width_max);
    else
        snprintf(text, bytes, "%s x%s", drive->link_speed, drive->link_width);
}

static struct row drive_row(const struct drive *drive)
{
    struct row row = {0};
    char(*cells)[192] = row.cells;

    snprintf(cells[DEVICE], sizeof(cells[0]), "%s", drive->whole.device);
    ps_size_text(drive->whole.bytes, cells[SIZE], sizeof(cells[0]));
    snprintf(cells[NODE], sizeof(cells[0]), drive->node < 0 ? "-" : "%d", drive->node);
    link_text(drive, cells[LINK], sizeof(cells[0]));
    holds_text(&drive->whole, drive->partition_count, cells[HOLDS], sizeof(cells[0]));
    if (drive->health_error < 0) {
        for (int i = TEMPERATURE; i <= ERRORS; i++)
            strcpy(cells[i], "?");
        return row;
    }
    snprintf(cells[TEMPERATURE], sizeof(cells[0]), "%d C", drive->temperature_c);
    snprintf(cells[WORN], sizeof(cells[0]), "%d %%", drive->used_percent);
    snprintf(cells[SPARE], sizeof(cells[0]), "%d %%", drive->spare_percent);
    snprintf(cells[ERRORS], sizeof(cells[0]), "%llu", (unsigned long long)drive->media_errors);
    return row;
}

static struct row partition_row(const struct drive_place *place)
{
    struct row row = {0};

    snprintf(row.cells[DEVICE], sizeof(row.cells[0]), "  %s", place->device);
    ps_size_text(place->bytes, row.cells[SIZE], sizeof(row.cells[0]));
    holds_text(place, 0, row.cells[HOLDS], sizeof(row.cells[0]));
    return row;
}

static void widen(int widths[COLUMN_COUNT], const struct row *row)
{
    for (int i = 0; i < COLUMN_COUNT; i++) {
        int width = (int)strlen(row->cells[i]);
        widths[i] = width > widths[i] ? width : widths[i];
    }
}

static void row_print(const int widths[COLUMN_COUNT], const struct row *row)
{
    for (int i = 0; i < HOLDS; i++) {
        bool is_number = i != DEVICE && i != LINK;
        printf("%*s  ", is_number ? widths[i] : -widths[i], row->cells[i]);
    }
    puts(row->cells[HOLDS]);
}

static void details_print(const struct drive *drive)
{
    char transfer[32];

    printf("  %s, serial %s, firmware %s\n", drive->model[0] != '\0' ? drive->model : "no model",
           drive->serial[0] != '\0' ? drive->serial : "none",
           drive->firmware[0] != '\0' ? drive->firmware : "unknown");
    printf("  %s %s, blocks of %u bytes, transfers of at most %s\n", drive->transport,
           drive->address, drive->block_bytes,
           drive->transfer_bytes > 0
               ? ps_size_text_binary(drive->transfer_bytes, transfer, sizeof(transfer))
               : "unknown size");
}

/* The first pass over the rows finds the widths, the second prints. */
static void row_take(bool prints, int widths[COLUMN_COUNT], const struct row *row)
{
    if (prints)
        row_print(widths, row);
    else
        widen(widths, row);
}

static void table_print(const struct drive_list *list)
{
    int widths[COLUMN_COUNT] = {0};
    struct row row = {0};

    for (int i = 0; i < COLUMN_COUNT; i++)
        snprintf(row.cells[i], sizeof(row.cells[i]), "%s", titles[i]);
    struct row head = row;
    for (int pass = 0; pass < 2; pass++) {
        row_take(pass == 1, widths, &head);
        for (int i = 0; i < list->count; i++) {
            const struct drive *drive = &list->drives[i];
            row = drive_row(drive);
            row_take(pass == 1, widths, &row);
            if (pass == 1)
                details_print(drive);
            for (int p = 0; p < drive->partition_count; p++) {
                row = partition_row(&drive->partitions[p]);
                row_take(pass == 1, widths, &row);
            }
        }
    }
}

static void health_note(const struct drive_list *list)
{
    for (int i = 0; i < list->count; i++) {
        if (list->drives[i].health_error < 0) {
            fprintf(stderr,
                    "penstock: %s: temperature, wear and errors could not be read (%s); root may\n",
                    list->drives[i].whole.device, ps_strerror(list->drives[i].health_error));
            return;
        }
    }
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *text_json(const char *text)
{
    return text[0] != '\0' ? json_string(text) : json_null();
}

static json_t *place_json(const struct drive_place *place)
{
    json_t *member = json_null();

    if (place->is_member)
        member =
            json_pack("{s:s, s:I, s:I, s:s}", "uuid", place->peek.uuid, "number",
                      (json_int_t)place->peek.member + 1, "count",
                      (json_int_t)place->peek.member_count, "state", state_name(place->peek.state));
    return json_pack("{s:s, s:I, s:o, s:o}", "device", place->device, "bytes",
                     (json_int_t)place->bytes, "use", text_json(place->use), "member", member);
}

static json_t *link_json(const char *speed, const char *width)
{
    if (speed[0] == '\0')
        return json_null();
    return json_pack("{s:s, s:s}", "speed", speed, "width", width);
}

static json_t *health_json(const struct drive *drive)
{
    if (drive->health_error < 0)
        return json_null();
    return json_pack("{s:i, s:i, s:i, s:I}", "temperature_c", drive->temperature_c, "used_percent",
                     drive->used_percent, "spare_percent", drive->spare_percent, "media_errors",
                     (json_int_t)drive->media_errors);
}

static json_t *drive_json(const struct drive *drive)
{
    json_t *json = place_json(&drive->whole);
    json_t *partitions = json_array();

    for (int i = 0; i < drive->partition_count; i++) {
        json_t *partition = place_json(&drive->partitions[i]);
        json_object_set_new(partition, "gpt_type", text_json(drive->partitions[i].gpt_type));
        json_object_set_new(partition, "for_penstock",
                            json_boolean(is_ours(&drive->partitions[i])));
        json_array_append_new(partitions, partition);
    }
    json_object_set_new(json, "controller", text_json(drive->controller));
    json_object_set_new(json, "transport", text_json(drive->transport));
    json_object_set_new(json, "address", text_json(drive->address));
    json_object_set_new(json, "model", text_json(drive->model));
    json_object_set_new(json, "serial", text_json(drive->serial));
    json_object_set_new(json, "firmware", text_json(drive->firmware));
    json_object_set_new(json, "block_bytes", json_integer(drive->block_bytes));
    json_object_set_new(json, "transfer_bytes_max",
                        drive->transfer_bytes > 0 ? json_integer((json_int_t)drive->transfer_bytes)
                                                  : json_null());
    json_object_set_new(json, "node", drive->node >= 0 ? json_integer(drive->node) : json_null());
    json_object_set_new(json, "link", link_json(drive->link_speed, drive->link_width));
    json_object_set_new(json, "link_max", link_json(drive->speed_max, drive->width_max));
    json_object_set_new(json, "health", health_json(drive));
    json_object_set_new(json, "partitions", partitions);
    return json;
}

int cmd_drives(int argc, char **argv)
{
    struct drive_list list = {0};
    struct ps_error err = {0};
    bool json = false;
    int status = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &json);
    if (drive_list_get(&list, &err) < 0)
        return tool_fail(&err);
    if (json) {
        json_t *drives = json_array();
        for (int i = 0; i < list.count; i++)
            json_array_append_new(drives, drive_json(&list.drives[i]));
        status = tool_json_print(drives);
    } else if (list.count == 0) {
        puts(
            "There is no NVMe drive in this machine; members can be files and other devices, too.");
    } else {
        table_print(&list);
        health_note(&list);
    }
    drive_list_fini(&list);
    return status;
}
