/* penstock info VOLUME...: what a volume holds. */
#include "tools/tool.h"

#include "core/budget.h"

enum { KEY_JSON = 1 };

struct info_args {
    struct tool_volume volume;
    bool json;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct info_args *args = state->input;

    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
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
static const struct argp_child children[] = {{&tool_volume_argp, 0, "Volume:", 5}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .doc = "Shows the model, the members, the sizes, the slices and what a token reads. A VOLUME "
           "is named by any one of its members, or by several."};

static json_t *profile_json(const struct ps_member_profile *profile)
{
    return profile == NULL
               ? json_null()
               : json_pack("{s:I, s:I, s:I, s:I, s:I}", "bytes_per_s",
                           (json_int_t)profile->bytes_per_s, "latency_ns",
                           (json_int_t)profile->latency_ns, "request_bytes",
                           (json_int_t)profile->request_bytes, "depth", (json_int_t)profile->depth,
                           "piece_bytes_min", (json_int_t)profile->piece_bytes_min);
}

static json_t *member_json(const struct ps_volume *volume, int i)
{
    struct ps_member_info member;

    ps_volume_member(volume, i, &member);
    return json_pack(
        "{s:o, s:s, s:I, s:I, s:I, s:f, s:b, s:o}", "path", tool_json_text(member.path), "kind",
        member.is_device ? "device" : "file", "bytes", (json_int_t)member.bytes, "data_begin_bytes",
        (json_int_t)member.data_begin_bytes, "data_end_bytes", (json_int_t)member.data_end_bytes,
        "share", tool_member_share(volume, i), "missing", (int)member.is_missing, "profile",
        profile_json(ps_volume_profile(volume, i)));
}

static json_t *model_json(const struct ps_model_info *info)
{
    return json_pack(
        "{s:o, s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:s, s:b, s:I, s:I}", "name",
        tool_json_text(info->name), "architecture", info->arch, "source",
        tool_json_text(info->source_name), "layers", (json_int_t)info->layer_count, "moe_layers",
        (json_int_t)info->moe_layer_count, "hidden", (json_int_t)info->hidden, "vocabulary",
        (json_int_t)info->vocab_rows, "context_max", (json_int_t)info->context_max, "chat_template",
        info->chat_family, "has_tokenizer", (int)info->has_tokenizer, "prediction_layers",
        (json_int_t)info->prediction_count, "prediction_bytes", (json_int_t)info->prediction_bytes);
}

static json_t *info_json(struct ps_model *model)
{
    struct ps_volume *volume = ps_model_volume(model);
    json_t *members = json_array();
    struct ps_model_info info;

    ps_model_info(model, &info);
    for (int i = 0; i < ps_volume_member_count(volume); i++)
        json_array_append_new(members, member_json(volume, i));
    json_t *experts =
        json_pack("{s:I, s:I, s:I, s:s, s:I, s:I}", "per_layer", (json_int_t)info.expert_count,
                  "per_token", (json_int_t)info.experts_used, "width",
                  (json_int_t)info.expert_width, "types", info.expert_types, "slices",
                  (json_int_t)info.slices_per_expert, "bytes", (json_int_t)info.expert_bytes_max);
    json_t *bytes = json_pack("{s:I, s:I, s:I}", "resident", (json_int_t)info.resident_bytes,
                              "experts", (json_int_t)info.streamed_bytes, "per_token_uncached",
                              (json_int_t)info.token_bytes);
    return json_pack("{s:s, s:I, s:I, s:o, s:o, s:o, s:o}", "uuid", ps_volume_uuid(volume),
                     "align_bytes", (json_int_t)ps_volume_align_bytes(volume), "copies",
                     (json_int_t)ps_volume_copy_count(volume), "model", model_json(&info),
                     "experts", experts, "bytes", bytes, "members", members);
}

static void model_print(const struct ps_model_info *info)
{
    char vocabulary[32], context[32];

    printf("model     %s (%s)\n", info->name[0] != '\0' ? info->name : info->source_name,
           info->arch);
    printf("          %u layers, %u of them with experts; hidden %u, vocabulary %s, context %s\n",
           info->layer_count, info->moe_layer_count, info->hidden,
           tool_count_text(info->vocab_rows, vocabulary),
           tool_count_text(info->context_max, context));
    printf("          tokenizer: %s; chat template: %s\n", info->has_tokenizer ? "yes" : "none",
           info->chat_family[0] != '\0' ? info->chat_family : "none");
}

static void prediction_print(const struct ps_model_info *info)
{
    char size[32];

    if (info->prediction_count)
        printf("          %u layer%s to predict further ahead (MTP), %s: kept, not yet used\n",
               info->prediction_count, info->prediction_count == 1 ? "" : "s",
               ps_size_text(info->prediction_bytes, size, sizeof(size)));
}

static void experts_print(const struct ps_model_info *info)
{
    char expert[32], token[32], resident[32], streamed[32];

    printf("experts   %u per layer, %u per token, width %u; %s\n", info->expert_count,
           info->experts_used, info->expert_width, info->expert_types);
    printf("          %s per expert, in %u slice%s\n",
           ps_size_text(info->expert_bytes_max, expert, sizeof(expert)), info->slices_per_expert,
           info->slices_per_expert == 1 ? "" : "s");
    printf("sizes     %s of experts on disk, %s of other weights in memory\n",
           ps_size_text(info->streamed_bytes, streamed, sizeof(streamed)),
           ps_size_text(info->resident_bytes, resident, sizeof(resident)));
    printf("          a token reads %s when nothing is cached\n",
           ps_size_text(info->token_bytes, token, sizeof(token)));
}

static void profile_print(const struct ps_member_profile *profile)
{
    char rate[32], request[32];

    if (profile == NULL || profile->bytes_per_s == 0)
        return;
    printf("          its drive reads %s/s with %u requests of %s in flight; one alone takes %.0f "
           "us\n",
           ps_size_text(profile->bytes_per_s, rate, sizeof(rate)), profile->depth,
           ps_size_text(profile->request_bytes, request, sizeof(request)),
           (double)profile->latency_ns / 1e3);
}

static void members_print(const struct ps_volume *volume)
{
    struct ps_member_info member;
    char size[32], data[32];

    printf("volume    %s, aligned to %u bytes%s\n", ps_volume_uuid(volume),
           ps_volume_align_bytes(volume),
           ps_volume_copy_count(volume) > 1 ? ", two copies of everything" : "");
    for (int i = 0; i < ps_volume_member_count(volume); i++) {
        ps_volume_member(volume, i, &member);
        ps_size_text(member.data_end_bytes - member.data_begin_bytes, data, sizeof(data));
        if (member.is_missing)
            printf("member %-2d %s: missing, with %s of data (%.1f %%)\n", i + 1, member.path, data,
                   100 * tool_member_share(volume, i));
        else
            printf("member %-2d %s: %s of %s, %s of it data (%.1f %%)\n", i + 1, member.path,
                   member.is_device ? "device" : "file",
                   ps_size_text(member.bytes, size, sizeof(size)), data,
                   100 * tool_member_share(volume, i));
        profile_print(ps_volume_profile(volume, i));
    }
}

int cmd_info(int argc, char **argv)
{
    struct info_args args = {0};
    struct ps_model *model = NULL;
    struct ps_model_info info;
    struct ps_error err = {0};
    int status = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    if (tool_model_open(&model, &args.volume, &err) < 0)
        return tool_fail(&err);
    if (args.json) {
        status = tool_json_print(info_json(model));
    } else {
        ps_model_info(model, &info);
        model_print(&info);
        prediction_print(&info);
        experts_print(&info);
        members_print(ps_model_volume(model));
    }
    ps_model_close(&model);
    return status;
}
