/* penstock bench KIND: measurements of drives, of ways to read them, and of the arithmetic. */
#include "tools/tool.h"

#include <string.h>

static const struct kind {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} kinds[] = {
    {"io", "how fast files and drives are read", cmd_bench_io},
    {"modes", "direct reads beside the page cache, under one memory ceiling", cmd_bench_modes},
    {"decode", "how fast prompts are read and tokens are made", cmd_bench_decode},
    {"kernel", "how fast every kernel is, beside what the machine can do", cmd_bench_kernel},
};
#define KIND_COUNT (sizeof(kinds) / sizeof(kinds[0]))

static void usage_print(FILE *file)
{
    fputs("Usage: penstock bench KIND [OPTION...]\n"
          "Measures; reads only. KIND is one of:\n\n",
          file);
    for (size_t i = 0; i < KIND_COUNT; i++)
        fprintf(file, "  %-12s%s\n", kinds[i].name, kinds[i].summary);
    fputs("\npenstock bench KIND --help shows the options of one.\n", file);
}

int cmd_bench(int argc, char **argv)
{
    char name[64], help_option[] = "--help";

    if (argc < 2) {
        fputs("penstock bench: name a KIND of measurement\n", stderr);
        usage_print(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0) {
        usage_print(stdout);
        return 0;
    }
    for (size_t i = 0; i < KIND_COUNT; i++) {
        if (strcmp(kinds[i].name, argv[1]) != 0)
            continue;
        if (argc == 3 && strcmp(argv[2], "-h") == 0)
            argv[2] = help_option;
        snprintf(name, sizeof(name), "penstock bench %s", kinds[i].name);
        argv[1] = name;
        return kinds[i].run(argc - 1, argv + 1);
    }
    if (argv[1][0] == '-')
        fprintf(stderr, "penstock bench: unrecognized option '%s'\n", argv[1]);
    else
        fprintf(stderr, "penstock bench: \"%s\" is no kind of measurement\n", argv[1]);
    usage_print(stderr);
    return 2;
}
