/*
 * penstock quality VOLUME --against VOLUME --file TEXT: what a quantisation has cost. The reference
 * goes first and leaves its logits in a file without a name; then the volume predicts the same
 * tokens, and both are compared row by row. So only one engine is open at a time, and each has the
 * whole memory ceiling: models that leave no room for another can be compared too.
 */
#include "tools/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/budget.h"
#include "core/util.h"
#include "tools/windows.h"

#define PIECE_BYTES_MAX 256u /* of one token's text, when vocabularies are compared */

enum { KEY_AGAINST = 1, KEY_FILE, KEY_TOKENS, KEY_JSON };

struct quality_args {
    struct tool_volume volume;
    struct ps_engine_options engine;
    struct tool_volume against;
    const char *file;
    uint64_t tokens;
    bool json;
};

/* A mean and what its error follows from. */
struct series {
    double sum, squares;
    uint64_t count;
};

struct comparison {
    struct quality_args args;
    struct tool_windows windows;
    uint32_t vocab_rows;
    FILE *logits; /* of the reference, [scored, V] floats */
    float *row;   /* [V]: one of them */
    double *kl;   /* [scored] */
    struct series reference, volume, difference, divergence;
    uint64_t agreed;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct quality_args *args = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->volume;
        state->child_inputs[1] = &args->engine;
        return 0;
    case KEY_AGAINST:
        if (args->against.path_count == PS_MEMBER_COUNT_MAX)
            argp_error(state, "--against: at most %d members", PS_MEMBER_COUNT_MAX);
        else
            args->against.paths[args->against.path_count++] = arg;
        return 0;
    case KEY_FILE:
        args->file = arg;
        return 0;
    case KEY_TOKENS:
        args->tokens = tool_number(state, "--tokens", arg, 1, UINT32_MAX);
        return 0;
    case KEY_JSON:
        args->json = true;
        return 0;
    case ARGP_KEY_END:
        if (args->against.path_count == 0 || args->file == NULL)
            argp_error(state, "--against and --file are needed");
        tool_windows_check(state, &args->engine);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"against", KEY_AGAINST, "VOLUME", 0, "the reference; again for a further member of it", 1},
    {"file", KEY_FILE, "TEXT", 0, "the text file; - reads standard input", 1},
    {"tokens", KEY_TOKENS, "N", 0, "use at most the first N tokens of the text", 1},
    {"json", KEY_JSON, NULL, 0, "print the result as JSON", 1},
    {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = tool_run_children,
    .doc =
        "Compares how a volume predicts a text with how a reference does, the same model in more "
        "bits: perplexity of both, how far the distributions of the next token are apart, and how "
        "often both find the same token likeliest. Windows as in penstock perplexity. The "
        "reference's activations are f32; its logits lie in a temporary file meanwhile."};

/* ---- the two models must speak the same language ----------------------------------------------
 */

/* What an id stands for; an id without a text has the length -1. */
static int64_t piece(const struct ps_model *model, int32_t id, char *text)
{
    int64_t bytes = ps_model_detokenize(model, &id, 1, false, text, PIECE_BYTES_MAX, NULL);
    return bytes < 0 ? -1 : (int64_t)ps_min_u64((uint64_t)bytes, PIECE_BYTES_MAX);
}

static int vocabularies_check(const struct comparison *c, const struct ps_model *reference,
                              const struct ps_model *volume, struct ps_error *err)
{
    char a[PIECE_BYTES_MAX], b[PIECE_BYTES_MAX];
    struct tool_windows windows = {0};
    struct ps_model_info ours, theirs;
    bool same;

    ps_model_info(volume, &ours);
    ps_model_info(reference, &theirs);
    same = ours.vocab_rows == theirs.vocab_rows && ours.has_tokenizer == theirs.has_tokenizer;
    for (uint32_t i = 0; same && i < ours.vocab_rows; i++) {
        int64_t bytes = piece(reference, (int32_t)i, a);
        same = piece(volume, (int32_t)i, b) == bytes &&
               (bytes <= 0 || memcmp(a, b, (size_t)bytes) == 0);
    }
    /* Standard input cannot be read twice; the tokens of a file must be the same, too. */
    if (same && strcmp(c->args.file, "-") != 0) {
        int rc = tool_windows_open(&windows, volume, c->args.file, c->args.engine.ctx,
                                   c->args.tokens, err);
        if (rc < 0)
            return rc;
        same = windows.id_count == c->windows.id_count &&
               memcmp(windows.ids, c->windows.ids, windows.id_count * sizeof(int32_t)) == 0;
        tool_windows_close(&windows);
    }
    if (!same)
        return ps_error_set(err, -PS_ERR_ARGUMENT, c->args.volume.paths[0],
                            "has another vocabulary than %s: only the same model in other types "
                            "can be compared",
                            c->args.against.paths[0]);
    return 0;
}

/* ---- the reference's logits --------------------------------------------------------------------
 */

static const char *temp_dir(void)
{
    const char *dir = getenv("TMPDIR");
    return dir != NULL && dir[0] != '\0' ? dir : "/var/tmp";
}

/* A file that is gone when it is closed, with all its room: a full disk is found before the work.
 */
static int logits_open(struct comparison *c, struct ps_error *err)
{
    uint64_t bytes = c->windows.scored_count * c->vocab_rows * sizeof(float);
    char size[32];
    int fd = open(temp_dir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0)
        return ps_error_set(err, -errno, temp_dir(), "no temporary file can be made here: %s",
                            strerror(errno));
    int code = posix_fallocate(fd, 0, (off_t)bytes);
    c->logits = code == 0 ? fdopen(fd, "w+b") : NULL;
    if (c->logits == NULL) {
        close(fd);
        return ps_error_set(err, code != 0 ? -code : -ENOMEM, temp_dir(),
                            "there is no room for %s of the reference's logits: set TMPDIR, or "
                            "compare fewer --tokens",
                            ps_size_text(bytes, size, sizeof(size)));
    }
    if (!c->args.json || isatty(STDERR_FILENO) == 1)
        fprintf(stderr, "the reference's logits take %s in %s meanwhile\n",
                ps_size_text(bytes, size, sizeof(size)), temp_dir());
    return 0;
}

static int reference_row(void *ctx, int32_t next, const float *logits, struct ps_error *err)
{
    struct comparison *c = ctx;

    (void)next;
    if (fwrite(logits, sizeof(float), c->vocab_rows, c->logits) != c->vocab_rows)
        return ps_error_set(err, -EIO, temp_dir(), "the temporary file cannot be written");
    return 0;
}

/* ---- the comparison ----------------------------------------------------------------------------
 */

static void series_add(struct series *series, double value)
{
    series->sum += value;
    series->squares += value * value;
    series->count++;
}

static double mean_of(const struct series *series)
{
    return series->sum / (double)series->count;
}

/* The standard error of the mean, as if the tokens were drawn one by one. */
static double error_of(const struct series *series)
{
    double n = (double)series->count, mean = series->sum / n;
    double variance = n > 1 ? (series->squares - n * mean * mean) / (n - 1) : 0;

    return variance > 0 ? sqrt(variance / n) : 0;
}

static uint32_t likeliest(const float *logits, uint32_t count)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < count; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* KL(reference || volume) = sum of p (ln p - ln q), p and q with their own normalisers. */
static double divergence(const float *reference, double reference_sum, const float *volume,
                         double volume_sum, uint32_t count)
{
    double sum = 0;

    for (uint32_t i = 0; i < count; i++) {
        double ln_p = (double)reference[i] - reference_sum;
        sum += exp(ln_p) * (ln_p - ((double)volume[i] - volume_sum));
    }
    return sum;
}

static int volume_row(void *ctx, int32_t next, const float *logits, struct ps_error *err)
{
    struct comparison *c = ctx;

    if (fread(c->row, sizeof(float), c->vocab_rows, c->logits) != c->vocab_rows)
        return ps_error_set(err, -EIO, temp_dir(), "the temporary file cannot be read back");
    double reference_sum = tool_log_sum_exp(c->row, c->vocab_rows);
    double volume_sum = tool_log_sum_exp(logits, c->vocab_rows);
    double reference_nats = reference_sum - (double)c->row[next];
    double volume_nats = volume_sum - (double)logits[next];
    double kl = divergence(c->row, reference_sum, logits, volume_sum, c->vocab_rows);

    c->kl[c->divergence.count] = kl;
    series_add(&c->divergence, kl);
    series_add(&c->reference, reference_nats);
    series_add(&c->volume, volume_nats);
    series_add(&c->difference, volume_nats - reference_nats);
    c->agreed += likeliest(c->row, c->vocab_rows) == likeliest(logits, c->vocab_rows);
    return 0;
}

static int model_run(struct comparison *c, struct ps_model *model,
                     const struct ps_engine_options *engine_options, tool_predicted_fn *predicted,
                     const char *verb, struct ps_error *err)
{
    struct ps_session *session = NULL;
    struct ps_engine *engine = NULL;
    int rc = tool_engine_open(&engine, &session, model, engine_options, err);

    if (rc == 0)
        rc = tool_windows_eval(&c->windows, session, predicted, c, verb, err);
    ps_session_close(&session);
    ps_engine_close(&engine);
    return rc < 0 ? rc : 0;
}

static int compare(struct comparison *c, struct ps_model *reference, struct ps_model *volume,
                   struct ps_error *err)
{
    struct ps_engine_options reference_options = c->args.engine;
    struct ps_model_info info;

    reference_options.activations = NULL;
    reference_options.kv = "f32";
    reference_options.experts_used = 0;
    ps_model_info(reference, &info);
    c->vocab_rows = info.vocab_rows;
    int rc = tool_windows_open(&c->windows, reference, c->args.file, c->args.engine.ctx,
                               c->args.tokens, err);
    if (rc == 0)
        rc = vocabularies_check(c, reference, volume, err);
    if (rc == 0)
        rc = logits_open(c, err);
    if (rc < 0)
        return rc;
    c->row = malloc(c->vocab_rows * sizeof(float));
    c->kl = calloc(c->windows.scored_count, sizeof(double));
    if (c->row == NULL || c->kl == NULL)
        return ps_error_set(err, -ENOMEM, NULL, "not enough memory for the comparison");
    rc = model_run(c, reference, &reference_options, reference_row, "reference", err);
    if (rc == 0 && fseek(c->logits, 0, SEEK_SET) != 0)
        rc = ps_error_set(err, -errno, temp_dir(), "the temporary file cannot be written");
    if (rc == 0)
        rc = model_run(c, volume, &c->args.engine, volume_row, "volume", err);
    return rc;
}

/* ---- the result --------------------------------------------------------------------------------
 */

/* The least value that `share` of all do not exceed; kl is sorted. */
static double quantile(const struct comparison *c, double share)
{
    uint64_t at = (uint64_t)ceil(share * (double)c->divergence.count);
    return c->kl[at > 0 ? at - 1 : 0];
}

static json_t *perplexity_json(const struct series *series)
{
    return json_pack("{s:f, s:f, s:f}", "perplexity", exp(mean_of(series)), "error",
                     exp(mean_of(series)) * error_of(series), "nats_per_token", mean_of(series));
}

static json_t *result_json(const struct comparison *c)
{
    double agreed = (double)c->agreed / (double)c->divergence.count;

    return json_pack(
        "{s:o, s:o, s:{s:f, s:f}, s:{s:f, s:f, s:f, s:f, s:f}, s:{s:f, s:f}, s:I, s:I, s:I}",
        "reference", perplexity_json(&c->reference), "volume", perplexity_json(&c->volume),
        "perplexity_ratio", "mean", exp(mean_of(&c->difference)), "error",
        exp(mean_of(&c->difference)) * error_of(&c->difference), "kl_divergence", "mean",
        mean_of(&c->divergence), "error", error_of(&c->divergence), "median", quantile(c, 0.5),
        "p99", quantile(c, 0.99), "max", quantile(c, 1), "same_top", "share", agreed, "error",
        sqrt(agreed * (1 - agreed) / (double)c->divergence.count), "tokens_scored",
        (json_int_t)c->windows.scored_count, "windows", (json_int_t)c->windows.window_count, "ctx",
        (json_int_t)c->args.engine.ctx);
}

static void perplexity_print(const char *name, const struct series *series, const char *path)
{
    double perplexity = exp(mean_of(series));
    printf("%-16s perplexity %.4f +- %.4f   %s\n", name, perplexity, perplexity * error_of(series),
           path);
}

static void result_print(const struct comparison *c)
{
    double agreed = (double)c->agreed / (double)c->divergence.count;
    double ratio = exp(mean_of(&c->difference));
    char scored[32], windows[32];

    perplexity_print("reference", &c->reference, c->args.against.paths[0]);
    perplexity_print("volume", &c->volume, c->args.volume.paths[0]);
    printf("%-16s perplexity x %.5f +- %.5f\n", "cost", ratio, ratio * error_of(&c->difference));
    printf("%-16s mean %.6f +- %.6f, median %.6f, 99 %% %.6f, most %.6f nats\n", "KL divergence",
           mean_of(&c->divergence), error_of(&c->divergence), quantile(c, 0.5), quantile(c, 0.99),
           quantile(c, 1));
    printf("%-16s %.2f %% +- %.2f %%\n", "same likeliest", 100 * agreed,
           100 * sqrt(agreed * (1 - agreed) / (double)c->divergence.count));
    printf("%s tokens scored, %s windows of %u\n", tool_count_text(c->windows.scored_count, scored),
           tool_count_text(c->windows.window_count, windows), c->args.engine.ctx);
}

int cmd_quality(int argc, char **argv)
{
    static struct comparison c = {.args.engine.kv = "f32"};
    struct ps_model *reference = NULL, *volume = NULL;
    struct ps_error err = {0};
    int status = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &c.args);
    c.args.engine.stop = tool_stop_flag();
    c.args.against.verbose = c.args.volume.verbose;
    int rc = tool_model_open(&reference, &c.args.against, &err);
    if (rc == 0)
        rc = tool_model_open(&volume, &c.args.volume, &err);
    if (rc == 0)
        rc = compare(&c, reference, volume, &err);
    if (rc == 0)
        qsort(c.kl, c.divergence.count, sizeof(*c.kl), ps_compare_double);
    if (rc < 0)
        status = tool_end(rc, &err);
    else if (c.args.json)
        status = tool_json_print(result_json(&c));
    else
        result_print(&c);
    if (c.logits != NULL)
        fclose(c.logits);
    free(c.kl);
    free(c.row);
    tool_windows_close(&c.windows);
    ps_model_close(&volume);
    ps_model_close(&reference);
    return status;
}
