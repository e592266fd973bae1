/* penstock plan VOLUME...: how a memory ceiling would be spent. */
#include "tools/tool.h"

#include "core/budget.h"

enum { KEY_JSON = 1 };

struct plan_args {
    struct tool_volume volume;
    struct ps_engine_options engine;
    bool json;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct plan_args *args = state->input;

    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        state->child_inputs[1] = &args->engine;
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {{"json", KEY_JSON, NULL, 0, "print it as JSON", 0},
                                             {0}};
static const struct argp_child children[] = {{&tool_volume_argp, 0, "Volume:", 5},
                                             {&tool_engine_argp, 0, "Memory, disk, processor:", 4},
                                             {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .doc = "Shows what a memory ceiling would be spent on, what the least possible one (--memory "
           "min) is made of, and which drive feeds which NUMA node's memory."};

static json_t *members_json(const struct ps_volume *volume)
{
    json_t *members = json_array();

    for (int i = 0; i < ps_volume_member_count(volume); i++) {
        struct ps_member_info info;
        int node = ps_volume_member_node(volume, i);
        ps_volume_member(volume, i, &info);
        json_array_append_new(members,
                              json_pack("{s:o, s:o, s:f}", "path", tool_json_text(info.path),
                                        "node", node < 0 ? json_null() : json_integer(node),
                                        "share", tool_member_share(volume, i)));
    }
    return members;
}

static json_t *nodes_json(const struct ps_store_placement *placement)
{
    json_t *nodes = json_array();

    for (int n = 0; n < placement->node_count; n++)
        json_array_append_new(nodes,
                              json_pack("{s:i, s:I, s:I}", "node", placement->node_id[n],
                                        "cache_bytes", (json_int_t)placement->cache_bytes[n],
                                        "expert_bytes", (json_int_t)placement->object_bytes[n]));
    return nodes;
}

static json_t *plan_json(const struct ps_plan *plan, const struct ps_volume *volume, bool fits)
{
    json_t *lines = json_array();

    for (int i = 0; i < plan->line_count; i++) {
        json_array_append_new(lines,
                              json_pack("{s:s, s:I, s:I}", "name", plan->lines[i].name, "bytes",
                                        (json_int_t)plan->lines[i].bytes, "floor_bytes",
                                        (json_int_t)plan->lines[i].floor_bytes));
    }
    return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:I}", "fits", (int)fits,
                     "budget_bytes", (json_int_t)plan->budget_bytes, "total_bytes",
                     (json_int_t)plan->total_bytes, "floor_bytes", (json_int_t)plan->floor_bytes,
                     "ctx", (json_int_t)plan->ctx, "chunk_tokens", (json_int_t)plan->chunk_tokens,
                     "expert_slots", (json_int_t)plan->expert_slots, "lines", lines, "members",
                     members_json(volume), "nodes", nodes_json(&plan->placement), "floating_bytes",
                     (json_int_t)plan->placement.floating_bytes);
}

static void row_print(const char *name, uint64_t bytes, uint64_t floor_bytes)
{
    char a[32], b[32];

    printf("%-28s %12s %12s\n", name, ps_size_text_binary(bytes, a, sizeof(a)),
           ps_size_text_binary(floor_bytes, b, sizeof(b)));
}

/* Which drive feeds which node's memory. Nothing to tell on one drive and one node. */
static void placement_print(const struct ps_store_placement *p, const struct ps_volume *volume)
{
    int members = ps_volume_member_count(volume);
    char size[32], share[32];

    if (members == 1 && p->node_count == 1)
        return;
    printf("\n");
    for (int i = 0; i < members; i++) {
        struct ps_member_info info;
        int node = ps_volume_member_node(volume, i);
        char where[32] = "its drive tells no node";
        if (node >= 0)
            snprintf(where, sizeof(where), "node %d", node);
        ps_volume_member(volume, i, &info);
        printf("member %d: %.0f %% of the data, %s: %s%s\n", i + 1,
               100 * tool_member_share(volume, i), where, info.path,
               info.is_missing ? " (missing)" : "");
    }
    for (int n = 0; n < p->node_count && p->node_count > 1; n++)
        printf("node %d: %s of the expert cache, for %s of experts\n", p->node_id[n],
               ps_size_text_binary(p->cache_bytes[n], size, sizeof(size)),
               ps_size_text(p->object_bytes[n], share, sizeof(share)));
    if (p->node_count > 1 && p->floating_bytes > 0)
        printf("any node: %s of experts, slot by slot in turn\n",
               ps_size_text(p->floating_bytes, size, sizeof(size)));
}

static void plan_print(const struct ps_plan *plan)
{
    char size[32];

    printf("%-28s %12s %12s\n", "", "planned", "at least");
    for (int i = 0; i < plan->line_count; i++)
        row_print(plan->lines[i].name, plan->lines[i].bytes, plan->lines[i].floor_bytes);
    row_print("total", plan->total_bytes, plan->floor_bytes);
    printf("\nThe ceiling is %s: a context of %u tokens, prompts in chunks of %u, %u experts in "
           "memory.\n",
           ps_size_text_binary(plan->budget_bytes, size, sizeof(size)), plan->ctx,
           plan->chunk_tokens, plan->expert_slots);
}

int cmd_plan(int argc, char **argv)
{
    struct plan_args args = {.engine.activations = "q8"};
    struct ps_model *model = NULL;
    struct ps_plan plan = {0};
    struct ps_error err = {0};
    int status = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    if (tool_model_open(&model, &args.volume, &err) < 0)
        return tool_fail(&err);
    int rc = ps_model_plan(model, &args.engine, &plan, &err);
    if (rc == 0 || rc == -PS_ERR_MEMORY_FLOOR) {
        if (args.json)
            status = tool_json_print(plan_json(&plan, ps_model_volume(model), rc == 0));
        else
            plan_print(&plan);
        if (!args.json)
            placement_print(&plan.placement, ps_model_volume(model));
    }
    if (rc < 0)
        status = tool_fail(&err);
    ps_model_close(&model);
    return status;
}
