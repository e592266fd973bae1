/*
 * Derives one row of model/reuse_table.c from a public trace on standard input:
 *
 *     zcat TRACE | reuse_table NAME LAYERS EXPERTS USED
 *
 * Lines: an array of [layer, expert] for each token; an object with "layers", an array of arrays of
 * experts; or CSV with layer and expert in the 3rd and 5th column (phase,step,layer,slot,expert),
 * in which a token begins where the layer is lower than before. The first half of the tokens warms
 * the cache, the second is counted.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/reuse.h"

struct access {
    uint32_t token, layer, expert;
};

struct trace {
    struct access *accesses;
    size_t count, capacity;
    uint32_t tokens, layers, experts, last_layer;
};

static void die(const char *text)
{
    fprintf(stderr, "reuse_table: %s\n", text);
    exit(1);
}

static void put(struct trace *t, json_int_t layer, json_int_t expert)
{
    if (layer < 0 || layer >= (json_int_t)t->layers || expert < 0 ||
        expert >= (json_int_t)t->experts)
        die("a layer or an expert is out of range");
    if (t->count == t->capacity) {
        t->capacity = t->capacity ? t->capacity * 2 : 1u << 16;
        t->accesses = realloc(t->accesses, t->capacity * sizeof(*t->accesses));
        if (!t->accesses)
            die("not enough memory");
    }
    t->accesses[t->count++] = (struct access){t->tokens, (uint32_t)layer, (uint32_t)expert};
}

static void json_line(struct trace *t, const json_t *line)
{
    const json_t *layers = json_object_get(line, "layers");
    size_t i, j;
    json_t *item, *expert;

    json_array_foreach((json_t *)(layers ? layers : line), i, item)
    {
        if (!layers)
            put(t, json_integer_value(json_array_get(item, 0)),
                json_integer_value(json_array_get(item, 1)));
        else
            json_array_foreach(item, j, expert) put(t, (json_int_t)i, json_integer_value(expert));
    }
    t->tokens++;
}

static void csv_line(struct trace *t, const char *line)
{
    unsigned layer, slot, expert;

    if (sscanf(line, "%*[^,],%*u,%*u,%u,%u,%u", &layer, &slot, &expert) != 3)
        return; /* comments, the header */
    t->tokens += layer < t->last_layer;
    t->last_layer = layer;
    put(t, layer, expert);
}

static void read_trace(struct trace *t)
{
    char *line = NULL;
    size_t room = 0;

    while (getline(&line, &room, stdin) > 0) {
        json_t *json = json_loads(line, 0, NULL);
        if (json)
            json_line(t, json);
        else
            csv_line(t, line);
        json_decref(json);
    }
    free(line);
}

static void print_curve(const struct ps_reuse *reuse, const struct trace *t, double used,
                        double (*at)(const struct ps_reuse *reuse, double slots))
{
    for (int i = 0; i < PS_REUSE_POINT_COUNT; i++) {
        double fraction = (used + ps_reuse_points[i] * (t->experts - used)) / t->experts;
        printf("%s%.3f", i ? ", " : "", at(reuse, fraction * t->layers * t->experts + 0.5));
    }
}

int main(int argc, char **argv)
{
    struct trace t = {0};
    struct ps_reuse *reuse;
    struct ps_error err = {0};

    if (argc != 5)
        die("give NAME LAYERS EXPERTS USED, and a trace on standard input");
    t.layers = (uint32_t)atoi(argv[2]);
    t.experts = (uint32_t)atoi(argv[3]);
    double used = atoi(argv[4]);
    if (ps_reuse_open(&reuse, t.layers, t.experts, &err) < 0)
        die(err.text);
    read_trace(&t);
    for (size_t i = 0; i < t.count; i++) {
        const struct access *a = &t.accesses[i];
        if (i > 0 && (a->token != a[-1].token || a->layer != a[-1].layer))
            ps_reuse_layer_end(reuse);
        ps_reuse_access(reuse, a->layer, a->expert, a->token >= t.tokens / 2);
    }
    ps_reuse_layer_end(reuse);
    printf("    {\"%s\", %u, %.0f, %u, {", argv[1], t.experts, used, t.tokens);
    print_curve(reuse, &t, used, ps_reuse_hit_rate);
    printf("}, {");
    print_curve(reuse, &t, used, ps_reuse_clustering);
    printf("}},\n");
    ps_reuse_close(&reuse);
    free(t.accesses);
    return 0;
}
