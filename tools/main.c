/* penstock: dispatches to the subcommands. */
#include "tools/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"layout", "lay a checkpoint out as a volume on files, partitions or drives", cmd_layout},
    {"info", "show what a volume holds", cmd_info},
    {"verify", "read everything and check every checksum", cmd_verify},
    {"scrub", "verify slowly, beside an engine that reads the volume", cmd_scrub},
    {"rebalance", "move a volume to other members, without its source", cmd_rebalance},
    {"wipe", "give a member back", cmd_wipe},
    {"plan", "show how a memory ceiling would be spent", cmd_plan},
    {"run", "generate text", cmd_run},
    {"batch", "answer a file of prompts, several together", cmd_batch},
    {"logits", "write the logits of given tokens to a file", cmd_logits},
    {"perplexity", "measure how well the model predicts a text", cmd_perplexity},
    {"quality", "measure what a quantisation has cost, against the same model in more bits",
     cmd_quality},
    {"tokenize", "turn text into token ids, or back", cmd_tokenize},
    {"trace", "record which experts a text makes the model choose, or import a trace", cmd_trace},
    {"train-predictor", "teach the predictor from traces what the model's routers will choose",
     cmd_train_predictor},
    {"drives", "list the NVMe drives, their health and what they hold", cmd_drives},
    {"probe", "measure a drive at every request size and depth", cmd_probe},
    {"replay", "play a trace on a cache, drives and a predictor that are not there", cmd_replay},
    {"bench", "measure drives, ways to read them, and arithmetic", cmd_bench},
};
#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void usage_print(FILE *file)
{
    fputs("Usage: penstock COMMAND [OPTION...]\n"
          "Runs Mixture-of-Experts language models larger than memory by streaming their experts "
          "from disk.\n\n",
          file);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(file, "  %-17s%s\n", commands[i].name, commands[i].summary);
    fputs("\n"
          "penstock COMMAND --help (or penstock help COMMAND) shows a command's options;\n"
          "penstock --version shows the version.\n",
          file);
}

static const struct command *command_find(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    fprintf(stderr, "penstock: \"%s\" is no command; penstock --help lists them\n", name);
    return NULL;
}

/* argv[0] becomes "penstock run", which is what argp prints in usage and errors. */
static int command_run(const struct command *command, int argc, char **argv)
{
    char name[64], help_option[] = "--help";

    if (argc == 2 && strcmp(argv[1], "-h") == 0)
        argv[1] = help_option;
    snprintf(name, sizeof(name), "penstock %s", command->name);
    argv[0] = name;
    return command->run(argc, argv);
}

static int help(int argc, char **argv)
{
    char help_option[] = "--help";
    char *help_argv[] = {NULL, help_option, NULL, NULL};
    const struct command *command;

    if (argc < 3) {
        usage_print(stdout);
        return 0;
    }
    command = command_find(argv[2]);
    if (command == NULL)
        return 2;
    if (argc == 3)
        return command_run(command, 2, help_argv);
    help_argv[1] = argv[3]; /* penstock help bench io */
    help_argv[2] = help_option;
    return command_run(command, 3, help_argv);
}

/* What was printed may still be in a buffer: a full disk or a closed pipe shows only now. */
static void stdout_close(void)
{
    errno = 0;
    bool failed = ferror(stdout) != 0;
    if (fclose(stdout) != 0 || failed) {
        fprintf(stderr, "penstock: standard output: cannot write: %s\n",
                strerror(errno != 0 ? errno : EIO));
        _exit(1);
    }
}

/* A caller may have closed 0, 1 or 2: no file that is opened here may take their place. What fills
 * it fails every use, as a closed descriptor would. */
static void standard_fill(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 &&
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0)
            _exit(1);
    }
}

int main(int argc, char **argv)
{
    const struct command *command;

    standard_fill();
    /* A closed pipe and a limit on file sizes are errors with a sentence, not a silent death. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    atexit(stdout_close);
    argp_err_exit_status = 2;
    if (argc < 2) {
        usage_print(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return help(argc, argv);
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        puts("penstock " PENSTOCK_VERSION);
        return 0;
    }
    command = command_find(argv[1]);
    return command == NULL ? 2 : command_run(command, argc - 1, argv + 1);
}
