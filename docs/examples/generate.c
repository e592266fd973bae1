/* generate VOLUME PROMPT: continues the prompt by 32 tokens within 64 MiB. See docs/api.md. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/penstock.h"

static int token_print(void *ctx, int32_t id, const char *text, size_t text_bytes)
{
    (void)ctx;
    (void)id;
    fwrite(text, 1, text_bytes, stdout);
    return fflush(stdout); /* anything but 0 stops the generation */
}

/* Evaluates the prompt and streams what the model makes of it. */
static int text_continue(struct ps_model *model, struct ps_engine *engine, const char *prompt,
                         struct ps_error *err)
{
    struct ps_session *session = NULL;
    struct ps_sampler *sampler = NULL;
    struct ps_sampling sampling;
    int32_t ids[512];

    int64_t id_count = ps_model_tokenize(model, prompt, strlen(prompt), ids, 512, err);
    if (id_count < 0)
        return (int)id_count;
    if (id_count > 512)
        return ps_error_set(err, -PS_ERR_ARGUMENT, NULL, "the prompt has more than 512 tokens");
    ps_model_sampling(model, &sampling);
    sampling.temperature = 0; /* the likeliest token each time */
    int rc = ps_session_open(&session, engine, err);
    if (rc == 0)
        rc = ps_sampler_open(&sampler, model, &sampling, err);
    if (rc == 0)
        rc = ps_session_generate(session, ids, (size_t)id_count, 32, sampler, token_print, NULL,
                                 err);
    ps_sampler_close(&sampler);
    ps_session_close(&session);
    return rc;
}

int main(int argc, char **argv)
{
    struct ps_engine_options options = {.memory_bytes = 64u << 20, .ctx = 1024};
    struct ps_model *model = NULL;
    struct ps_engine *engine = NULL;
    struct ps_engine_stats stats;
    struct ps_error err = {0};
    int rc;

    if (argc != 3) {
        fprintf(stderr, "usage: generate VOLUME PROMPT\n");
        return 2;
    }
    const char *paths[] = {argv[1]};
    rc = ps_model_open(&model, paths, 1, &err);
    if (rc == 0)
        rc = ps_engine_open(&engine, model, &options, &err);
    if (rc == 0)
        rc = text_continue(model, engine, argv[2], &err);
    if (rc >= 0) {
        ps_engine_stats(engine, &stats);
        fprintf(stderr, "\n%llu bytes read, %llu experts found in memory, %llu not\n",
                (unsigned long long)stats.store.read_bytes, (unsigned long long)stats.store.hits,
                (unsigned long long)stats.store.misses);
    } else {
        fprintf(stderr, "generate: %s: %s\n", err.where, err.text);
    }
    ps_engine_close(&engine);
    ps_model_close(&model);
    return rc < 0;
}
