/* penstock scrub VOLUME...: verify beside an engine, slowly. */
#include "tools/tool.h"

#include <linux/ioprio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RATE_DEFAULT (100u << 20)

enum { KEY_JSON = 1, KEY_RATE };

struct scrub_args {
    struct tool_volume volume;
    uint64_t rate_bytes_per_s;
    bool json;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct scrub_args *args = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        return 0;
    case KEY_RATE:
        args->rate_bytes_per_s = tool_size(state, "--rate", arg);
        if (args->rate_bytes_per_s == 0)
            argp_error(state, "--rate: at least 1 byte per second");
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"rate", KEY_RATE, "SIZE", 0, "read at most SIZE per second (100M)", 0},
    {"json", KEY_JSON, NULL, 0, "print the result as JSON", 0},
    {0}};
static const struct argp_child children[] = {{&tool_volume_argp, 0, "Volume:", 5}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .doc = "Checks every checksum of a volume as verify does, but with one thread, at a bounded "
           "rate and at idle I/O priority, beside engines that read it. Ctrl-C stops it, and it "
           "says how far it came. The exit status is 1 if anything is bad."};

int cmd_scrub(int argc, char **argv)
{
    struct scrub_args args = {.rate_bytes_per_s = RATE_DEFAULT};

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    /* Of this thread, which is the only one that will read. Schedulers without priorities ignore
     * it; the rate holds with all. */
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
    struct ps_verify_options scrub = {
        .rate_bytes_per_s = args.rate_bytes_per_s, .threads = 1, .stop = tool_stop_flag()};
    return tool_check(&args.volume, &scrub, args.json);
}
