/* penstock plan SOURCE|VOLUME|PRESET: how a memory ceiling would be spent, and what comes of it. */
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/plan.h"

enum { KEY_JSON = 1, KEY_QUANT, KEY_DRIVES, KEY_MACHINE, KEY_ROUTING, KEY_PROMPT, KEY_TRACE };

struct plan_args {
    struct tool_volume volume;
    struct ps_engine_options engine;
    const char *quant, *drives, *machine, *trace;
    enum ps_routing routing;
    uint32_t prompt;
    bool json;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct plan_args *args = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        state->child_inputs[1] = &args->engine;
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    case KEY_QUANT:
        args->quant = arg;
        return 0;
    case KEY_DRIVES:
        args->drives = arg;
        return 0;
    case KEY_MACHINE:
        args->machine = arg;
        return 0;
    case KEY_ROUTING:
        if (strcmp(arg, "real") != 0 && strcmp(arg, "uniform") != 0)
            argp_error(state, "--routing: \"%s\" is neither real nor uniform", arg);
        args->routing = strcmp(arg, "uniform") == 0 ? PS_ROUTING_UNIFORM : PS_ROUTING_REAL;
        return 0;
    case KEY_TRACE:
        args->trace = arg;
        return 0;
    case KEY_PROMPT:
        args->prompt = (uint32_t)tool_number(state, "--prompt", arg, 1, 1u << 24);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"quant", KEY_QUANT, "SPEC", 0,
     "of a checkpoint: as of penstock layout; of a preset also one type for all matrices (default: "
     "experts=q4_k,rest=q8_0)",
     0},
    {"drives", KEY_DRIVES, "SPEC", 0,
     "bytes per second of each drive, such as 7G, 2x7.0G or 3.5G,7G, or a profile of penstock "
     "probe "
     "(default: what the volume records)",
     0},
    {"machine", KEY_MACHINE, "SPEC", 0,
     "probe: measure this one, and the drives of a volume or checkpoint unless --drives is given; "
     "or cores=16,memory=200G,flops=1.5T",
     0},
    {"routing", KEY_ROUTING, "real|uniform", 0,
     "hit rates as of models in use (default), or of random weights", 0},
    {"trace", KEY_TRACE, "FILE", 0,
     "hit rates of this model's own trace, as penstock trace writes it", 0},
    {"prompt", KEY_PROMPT, "N", 0, "tokens of the prompt that prefill is forecast for (512)", 0},
    {"json", KEY_JSON, NULL, 0, "print it as JSON", 0},
    {0}};
static const struct argp_child children[] = {{&tool_volume_argp, 0, "Volume:", 5},
                                             {&tool_engine_argp, 0, "Memory, disk, processor:", 4},
                                             {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .args_doc = "SOURCE|PRESET",
    .doc = "Shows what a memory ceiling would be spent on, what the least possible one (--memory "
           "min) is made of, how often experts will be found in memory, and, with --machine or "
           "--drives, how many tokens per second come of it. Of a volume; of a checkpoint that is "
           "not laid out, a GGUF file or a directory of safetensors; or of a model by its name "
           "alone."};

/* Whether a path is a checkpoint, or nothing at all; then the name of a preset is left. */
static bool is_volume(const char *path)
{
    char magic[4] = "";
    struct stat st;
    size_t length = strlen(path);

    if (stat(path, &st) < 0 || S_ISDIR(st.st_mode))
        return false;
    if (length > 12 && strcmp(path + length - 12, ".safetensors") == 0)
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, magic, sizeof(magic)) : 0;
    if (fd >= 0)
        close(fd);
    return n != (ssize_t)sizeof(magic) || memcmp(magic, "GGUF", sizeof(magic)) != 0;
}

/* What reading a checkpoint took for a moment a run will not hold. */
static void forget_peak(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    if (write(fd, "5", 1) < 0) { /* then the plan is a little too careful */
    }
    close(fd);
}

static int model_open(struct plan_result *r, struct plan_args *args, struct ps_error *err)
{
    const char *path = args->volume.paths[0];
    struct ps_model_describe_options describe = {
        .source = path, .quant = args->quant, .member_count = 1};

    r->is_volume = args->volume.path_count > 1 || is_volume(path);
    if (r->is_volume && args->quant != NULL)
        return ps_error_set(err, -PS_ERR_ARGUMENT, "--quant",
                            "a volume has its types already; they are chosen when it is laid out");
    if (r->is_volume)
        return tool_model_open(&r->model, &args->volume, err);
    if (r->drives.count > 0) {
        describe.member_count = r->drives.count;
        describe.profiles = r->drives.drives;
    }
    tool_log_start(args->volume.verbose);
    tool_subject_set(path);
    int rc = ps_model_describe(&r->model, &describe, err);
    forget_peak();
    return rc;
}

/* Drives and machine, as far as they are given, recorded or to be measured. */
static int basis_find(struct plan_result *r, struct plan_args *args, struct ps_error *err)
{
    bool probe = args->machine != NULL && strcmp(args->machine, "probe") == 0;
    const char *path = args->volume.paths[0];
    int rc = 0;

    if (!r->machine.is_known && (probe || args->drives != NULL))
        rc = plan_machine_probe(&r->machine, r->model, &args->engine, err);
    if (rc < 0 || args->drives != NULL)
        return rc;
    if (r->is_volume) {
        rc = plan_drives_of_volume(&r->drives, r->model, probe, args->engine.io, err);
        return rc < 0 || !probe
                   ? rc
                   : ps_model_time_misses(r->model, &args->engine, &r->drives.miss_times, err);
    }
    return probe && access(path, F_OK) == 0
               ? plan_drives_of_source(&r->drives, r->model, path, args->engine.io, err)
               : 0;
}

static struct ps_forecast_options forecast_options(const struct plan_result *r,
                                                   const struct plan_args *args)
{
    return (struct ps_forecast_options){
        .engine = &args->engine,
        .machine = r->machine.is_known ? &r->machine.machine : NULL,
        .drives = r->drives.drives,
        .shares = r->drives.has_shares ? r->drives.shares : NULL,
        .drive_count = r->drives.count,
        .busy_share = r->drives.busy_share,
        .read_cpu_s = r->drives.read_cpu_s,
        .miss_times = &r->drives.miss_times,
        .routing = args->routing,
        .reuse = r->reuse,
        .prompt_tokens = args->prompt,
    };
}

/* What was measured less the part that drives of this bandwidth had in it, and with that of others.
 */
static void times_speed_up(struct ps_miss_times *times, const struct ps_model *model,
                           double from_bytes_per_s, double to_bytes_per_s)
{
    struct ps_model_info info;

    ps_model_info(model, &info);
    for (uint32_t i = 0; i < times->count; i++) {
        double bytes = (i + 1.0) * (double)info.expert_bytes_max;
        double least = times->seconds[i] * from_bytes_per_s / to_bytes_per_s;
        times->seconds[i] += bytes / to_bytes_per_s - bytes / from_bytes_per_s;
        times->seconds[i] = fmax(times->seconds[i], least);
    }
}

/* The same with one more drive, as fast as the mean of those that there are, over which the data
 * would be laid out anew; and with more memory. */
static int changes_find(struct plan_result *r, const struct plan_args *args, struct ps_error *err)
{
    struct ps_forecast_options what = forecast_options(r, args);
    struct ps_engine_options engine = args->engine;
    static struct ps_member_profile drives[PS_MEMBER_COUNT_MAX];
    static struct ps_miss_times times;
    int count = r->drives.count, rc = 0;

    if (count > 0 && count < PS_MEMBER_COUNT_MAX) {
        double sum = 0;
        memcpy(drives, r->drives.drives, (size_t)count * sizeof(*drives));
        for (int i = 0; i < count; i++)
            sum += (double)drives[i].bytes_per_s;
        r->more_drive_bytes_per_s = sum / count;
        drives[count] = drives[0];
        drives[count].bytes_per_s = (uint64_t)r->more_drive_bytes_per_s;
        what.drives = drives;
        what.drive_count = count + 1;
        what.shares = NULL;
        what.plan = &r->now.plan;
        times = r->drives.miss_times;
        times_speed_up(&times, r->model, sum, sum + sum / count);
        what.miss_times = &times;
        rc = ps_model_forecast(r->model, &what, &r->drive, err);
        r->has_drive = rc == 0;
    }
    if (rc < 0)
        return rc;
    what = forecast_options(r, args);
    engine.memory_bytes = r->now.plan.budget_bytes + PLAN_MORE_BYTES;
    what.engine = &engine;
    rc = ps_model_forecast(r->model, &what, &r->memory, err);
    r->has_memory = rc == 0 && r->now.cached_fraction < 1;
    return rc;
}

/* -PS_ERR_MEMORY_FLOOR: the plan is there to be shown all the same. */
static int plan_find(struct plan_result *r, struct plan_args *args, struct ps_error *err)
{
    static struct ps_plan plan;

    args->engine.prompt_tokens = args->prompt;
    /* What is described is planned for, memory of its threads and all. */
    if (r->machine.is_known && args->engine.threads == 0)
        args->engine.threads = r->machine.machine.threads;
    int rc = ps_model_plan(r->model, &args->engine, &plan, err);
    r->now.plan = plan;
    if ((rc == 0 || rc == -PS_ERR_MEMORY_FLOOR) && args->prompt > plan.ctx)
        rc = ps_error_set(err, -PS_ERR_ARGUMENT, "--prompt",
                          "a prompt of %u tokens does not fit into a context of %u: give a larger "
                          "--ctx",
                          args->prompt, plan.ctx);
    if (rc == 0)
        rc = basis_find(r, args, err);
    if (rc == 0) {
        struct ps_forecast_options what = forecast_options(r, args);
        what.plan = &plan;
        rc = ps_model_forecast(r->model, &what, &r->now, err);
    }
    r->fits = rc == 0;
    if (rc == 0 && r->machine.is_known)
        rc = changes_find(r, args, err);
    return rc;
}

static int specs_parse(struct plan_result *r, const struct plan_args *args, struct ps_error *err)
{
    int rc = args->drives != NULL ? plan_drives_parse(&r->drives, args->drives, err) : 0;

    if (rc == 0 && args->machine != NULL && strcmp(args->machine, "probe") != 0)
        rc = plan_machine_parse(&r->machine, args->machine, err);
    r->hits_from = args->trace != NULL                   ? "the model's own trace"
                   : args->routing == PS_ROUTING_UNIFORM ? "uniform routing"
                                                         : "traces of four other models";
    return rc;
}

int cmd_plan(int argc, char **argv)
{
    struct plan_args args = {.engine.activations = "q8"};
    static struct plan_result result;
    struct ps_error err = {0};
    int status = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    int rc = specs_parse(&result, &args, &err);
    if (rc == 0)
        rc = model_open(&result, &args, &err);
    if (rc < 0)
        return tool_fail(&err);
    if (args.trace != NULL)
        rc = ps_reuse_open_trace(&result.reuse, args.trace, result.model, &err);
    if (rc == 0)
        rc = plan_find(&result, &args, &err);
    if (rc == 0 || rc == -PS_ERR_MEMORY_FLOOR) {
        if (args.json)
            status = tool_json_print(plan_json(&result));
        else
            plan_print(&result);
    }
    if (rc < 0)
        status = tool_end(rc, &err);
    ps_reuse_close(&result.reuse);
    ps_model_close(&result.model);
    return status;
}
