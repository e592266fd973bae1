/* Hit rates of one model, from what it chose itself. */
#include "model/model.h"
#include "model/reuse.h"
#include "model/trace.h"

static int check(const struct ps_trace_info *info, const struct ps_model *model, const char *path,
                 struct ps_error *err)
{
    const struct ps_config *c = &model->config;
    uint32_t layers = 0;

    for (uint32_t l = 0; l < c->layer_count; l++)
        layers += c->layers[l].ffn == PS_FFN_MOE;
    if (info->layer_count == layers && info->expert_count == c->expert_count)
        return 0;
    return ps_error_set(err, -PS_ERR_ARGUMENT, path,
                        "this is a trace of %u layers of %u experts, and the model has %u of %u",
                        info->layer_count, info->expert_count, layers, c->expert_count);
}

static void add_token(struct ps_reuse *reuse, const struct ps_trace_info *info,
                      const struct ps_trace_token *token, int is_counted)
{
    for (uint32_t l = 0; l < info->layer_count; l++) {
        for (uint32_t k = 0; k < info->experts_used; k++) {
            uint16_t expert = token->experts[l * info->experts_used + k];
            if (expert == PS_TRACE_NONE)
                break;
            ps_reuse_access(reuse, l, expert, is_counted);
        }
        ps_reuse_layer_end(reuse);
    }
}

int ps_reuse_open_trace(struct ps_reuse **out, const char *path, const struct ps_model *model,
                        struct ps_error *err)
{
    struct ps_reuse *reuse = NULL;
    struct ps_trace_token token;
    struct ps_trace *trace;
    int rc = ps_trace_open(&trace, path, err);

    if (rc < 0)
        return rc;
    const struct ps_trace_info *info = ps_trace_info(trace);
    rc = check(info, model, path, err);
    if (rc == 0)
        rc = ps_reuse_open(&reuse, info->layer_count, info->expert_count, err);
    for (uint64_t t = 0; rc >= 0 && (rc = ps_trace_next(trace, &token, err)) > 0; t++)
        add_token(reuse, info, &token, t >= info->token_count / 2);
    ps_trace_close(&trace);
    if (rc < 0) {
        ps_reuse_close(&reuse);
        return rc;
    }
    *out = reuse;
    return 0;
}
