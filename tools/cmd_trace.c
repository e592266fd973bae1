/* penstock trace VOLUME... --file TEXT|--ids FILE --out FILE, or --import FILE --out FILE: which
 * experts a model chose for every token. */
#include "tools/tool.h"

#include <string.h>

#include "core/budget.h"
#include "core/util.h"
#include "tools/tracing.h"

#define CONTEXT_DEFAULT 4096u

enum { KEY_FILE = 1, KEY_IDS, KEY_OUT, KEY_HIDDEN, KEY_TOKENS, KEY_RANKS, KEY_JSON };
enum { KEY_IMPORT = 32, KEY_FORM, KEY_MODEL, KEY_EXPERTS, KEY_EXPERT_BYTES };

struct trace_args {
    struct tool_volume volume;
    struct ps_engine_options engine, engine_before; /* before: as no option has changed it */
    struct tool_record_options record;
    struct tool_import_options import;
    bool has_ranks, json;
};

/* Guesses are those of the gate alone otherwise, whatever is read ahead. */
static bool guesses_learned(const struct trace_args *args)
{
    return args->engine.predictor != NULL && strcmp(args->engine.predictor, "learned") == 0;
}

static void args_check(const struct trace_args *args, struct argp_state *state)
{
    bool imports = args->import.file != NULL;

    if (!imports && (args->record.file == NULL || args->volume.named_count == 0))
        argp_error(state, "name a VOLUME and a text with --file or its token ids with --ids, or a "
                          "trace with --import");
    if (args->record.out == NULL)
        argp_error(state, "--out is needed");
    if (args->record.hidden && guesses_learned(args))
        argp_error(state, "--hidden: train-predictor learns from the gate's guesses; leave out "
                          "--predictor learned");
    if (imports && (args->record.file != NULL || args->volume.path_count > 0))
        argp_error(state, "--import takes neither a volume nor --file or --ids");
    if (imports && (args->record.hidden || args->has_ranks || args->record.tokens_max > 0 ||
                    memcmp(&args->engine, &args->engine_before, sizeof(args->engine)) != 0))
        argp_error(state, "--import takes no options of recording: --hidden, --tokens, --ranks, "
                          "and those of memory, disk and processor");
    if (!imports && (args->import.form != TOOL_TRACE_AUTO || args->import.model != NULL ||
                     args->import.expert_count > 0 || args->import.expert_bytes > 0))
        argp_error(state, "--format, --model, --experts and --expert-bytes go with --import");
}

static void form_parse(struct trace_args *args, struct argp_state *state, const char *arg)
{
    int form = tool_trace_form_find(arg);

    if (form < 0)
        argp_error(state, "--format: \"%s\" is none of pairs, layers and csv", arg);
    args->import.form = (enum tool_trace_form)form;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct trace_args *args = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        memcpy(&args->engine_before, &args->engine, sizeof(args->engine));
        state->child_inputs[0] = &args->volume;
        state->child_inputs[1] = &args->engine;
        return 0;
    case KEY_FILE:
    case KEY_IDS:
        if (args->record.file != NULL)
            argp_error(state, "one text at a time: --file or --ids, once");
        args->record.file = arg;
        args->record.are_ids = key == KEY_IDS;
        return 0;
    case KEY_OUT:
        args->record.out = args->import.out = arg;
        return 0;
    case KEY_HIDDEN:
        args->record.hidden = true;
        return 0;
    case KEY_TOKENS:
        args->record.tokens_max = tool_number(state, "--tokens", arg, 1, UINT64_MAX);
        return 0;
    case KEY_RANKS:
        args->record.rank_count = (uint32_t)tool_number(state, "--ranks", arg, 0, 4096);
        args->has_ranks = true;
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    case KEY_IMPORT:
        args->import.file = arg;
        return 0;
    case KEY_FORM:
        form_parse(args, state, arg);
        return 0;
    case KEY_MODEL:
        args->import.model = arg;
        return 0;
    case KEY_EXPERTS:
        args->import.expert_count = (uint32_t)tool_number(state, "--experts", arg, 1, 4096);
        return 0;
    case KEY_EXPERT_BYTES:
        args->import.expert_bytes = tool_size(state, "--expert-bytes", arg);
        return 0;
    case ARGP_KEY_END:
        args_check(args, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"file", KEY_FILE, "TEXT", 0, "the text that is read; - reads standard input", 1},
    {"ids", KEY_IDS, "FILE", 0,
     "token ids in place of a text, separated by commas or blanks; - reads standard input", 1},
    {"out", KEY_OUT, "FILE", 0, "where the trace goes", 1},
    {"hidden", KEY_HIDDEN, NULL, 0,
     "record what the routers see, too, and guesses of all experts: for train-predictor", 1},
    {"tokens", KEY_TOKENS, "N", 0, "at most N tokens of the text", 1},
    {"ranks", KEY_RANKS, "N", 0,
     "the N most probable experts of each guess (default: twice as many as are chosen; all with "
     "--hidden); 0 records no guesses",
     1},
    {"json", KEY_JSON, NULL, 0, "print the result as JSON", 1},
    {"import", KEY_IMPORT, "FILE", 0, "read another project's trace instead of running a model", 2},
    {"format", KEY_FORM, "FORM", 0, "of that file: pairs, layers or csv (default: as it looks)", 2},
    {"model", KEY_MODEL, "NAME", 0, "the model's name, where the file has none", 2},
    {"experts", KEY_EXPERTS, "N", 0,
     "experts of a layer (default: what the file says, or one more than the highest in it)", 2},
    {"expert-bytes", KEY_EXPERT_BYTES, "SIZE", 0, "of one expert, where the file does not say", 2},
    {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = tool_run_children,
    .doc = "Records which experts the model chooses for every token of a text, with what the gate "
           "predictor, or with --predictor learned that one, guessed of them 1 to 3 layers ahead. "
           "A text longer than --ctx is cut into sequences of so many tokens, each from an empty "
           "state."};

static int record_json(FILE *to, const struct trace_args *args,
                       const struct tool_record_report *report)
{
    json_t *depths = json_array();

    for (uint32_t d = guesses_learned(args); depths != NULL && d <= TOOL_TRACE_DEPTHS; d++) {
        double chosen = (double)ps_max_u64(report->chosen[d], 1);
        double k = (double)report->found_k[d] / chosen, k2 = (double)report->found_2k[d] / chosen;
        json_array_append_new(depths,
                              json_pack("{s:i, s:f, s:f, s:f, s:f}", "depth", (int)d, "recall_k", k,
                                        "recall_2k", k2, "precision_k", k, "precision_2k",
                                        k2 * report->experts_used / report->rank_2k));
    }
    return tool_json_write(
        to,
        json_pack("{s:I, s:I, s:i, s:i, s:o?}", "tokens", (json_int_t)report->tokens, "bytes",
                  (json_int_t)report->bytes, "layers", (int)report->layer_count, "experts_used",
                  (int)report->experts_used, guesses_learned(args) ? "learned" : "gate", depths));
}

static int record_print(const struct trace_args *args, const struct tool_record_report *report)
{
    FILE *to = tool_report_file(args->record.out);
    char tokens[32], size[32];

    if (args->json)
        return record_json(to, args, report);
    fprintf(to, "%s tokens, %u MoE layers, %u experts each; %s\n",
            tool_count_text(report->tokens, tokens), report->layer_count, report->experts_used,
            ps_size_text(report->bytes, size, sizeof(size)));
    fprintf(to, "%-17sof %2u guessed   of %2u guessed\n",
            guesses_learned(args) ? "learned" : "gate predictor", report->experts_used,
            report->rank_2k);
    for (uint32_t d = guesses_learned(args); d <= TOOL_TRACE_DEPTHS; d++) {
        double chosen = (double)ps_max_u64(report->chosen[d], 1);
        fprintf(to, d == 0 ? "same layer       " : "%u ahead          ", d);
        fprintf(to, "%8.1f %%     %8.1f %%\n", 100 * (double)report->found_k[d] / chosen,
                100 * (double)report->found_2k[d] / chosen);
    }
    return 0;
}

static int record(struct trace_args *args, struct ps_model *model, struct ps_error *err)
{
    struct tool_record_report report;
    struct ps_session *session = NULL;
    struct ps_engine *engine = NULL;
    struct ps_model_info info;

    ps_model_info(model, &info);
    if (args->engine.ctx == 0)
        args->engine.ctx = (uint32_t)ps_min_u64(CONTEXT_DEFAULT, info.context_max);
    args->record.window = args->engine.ctx;
    args->record.experts_used = args->engine.experts_used;
    if (!args->has_ranks) {
        uint32_t used =
            args->engine.experts_used > 0 ? args->engine.experts_used : info.experts_used;
        args->record.rank_count = args->record.hidden ? info.expert_count : 2 * used;
    }
    int rc = tool_engine_open(&engine, &session, model, &args->engine, err);
    if (rc == 0)
        rc = tool_trace_record(&args->record, model, session, &report, err);
    if (rc >= 0)
        rc = record_print(args, &report);
    ps_session_close(&session);
    ps_engine_close(&engine);
    return rc;
}

static int import(const struct trace_args *args, struct ps_error *err)
{
    FILE *to = tool_report_file(args->import.out);
    struct ps_trace_info info;
    char tokens[32];
    int rc = tool_trace_import(&args->import, &info, err);

    if (rc < 0)
        return rc;
    if (args->json)
        return tool_json_write(
            to, json_pack("{s:I, s:i, s:i, s:i, s:b, s:o}", "tokens", (json_int_t)info.token_count,
                          "layers", (int)info.layer_count, "experts", (int)info.expert_count,
                          "experts_used", (int)info.experts_used, "weights", (int)info.has_weights,
                          "model", tool_json_text(info.model)));
    fprintf(to, "%s tokens, %u MoE layers of %u experts, %u chosen\n",
            tool_count_text(info.token_count, tokens), info.layer_count, info.expert_count,
            info.experts_used);
    return 0;
}

int cmd_trace(int argc, char **argv)
{
    struct trace_args args = {.volume.optional = true, .engine.activations = "q8"};
    struct ps_model *model = NULL;
    struct ps_error err = {0};
    int status = 0;
    int rc = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    args.engine.stop = tool_stop_flag();
    const struct tool_name names[] = {
        {args.record.are_ids ? "--ids" : "--file", args.record.file, true},
        {"--import", args.import.file, true},
        {"--predictor-file", args.engine.predictor_file, true},
        {"--out", args.record.out, false}};
    if (tool_names_check(names, PS_ARRAY_LEN(names), &err) < 0)
        return tool_fail(&err);
    if (args.import.file != NULL) {
        tool_subject_set(args.import.file);
        rc = import(&args, &err);
    } else {
        rc = tool_model_open(&model, &args.volume, &err);
        if (rc == 0)
            rc = record(&args, model, &err);
    }
    if (rc < 0)
        status = tool_end(rc, &err);
    ps_model_close(&model);
    return status;
}
