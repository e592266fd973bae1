/*
 * The least ceiling holds with a vocabulary so large that the sampler, the logits and the prompt's
 * buffers weigh more than the rest: every engine, each in a process of its own, whose peak is what
 * the kernel says it was.
 */
#include <sys/wait.h>

#include "model_fixture.h"
#include "source_writer.h"
#include "util.h"

static struct fixture_volume volume;
static struct tiny_model tiny;

static int take_token(void *ctx, int32_t id, const char *text, size_t text_bytes)
{
    (void)id;
    (void)text;
    (void)text_bytes;
    ++*(int *)ctx;
    return 0;
}

static int report(const char *what, const struct ps_error *err)
{
    printf("    %s: %s: %s\n", what, err->where, err->text);
    fflush(stdout);
    return 1;
}

/* Generates under the least ceiling; 0 if the peak stayed under it. */
static int generate(const char *path, const char *io)
{
    struct ps_engine_options options = {.memory_bytes = PS_MEMORY_MIN, .io = io, .ctx = 64};
    struct ps_sampling sampling = {
        .temperature = 1, .top_p = 1, .repeat_penalty = 1.1f, .repeat_last_n = 64, .seed = 1};
    struct ps_sampler *sampler = NULL;
    struct ps_session *session = NULL;
    struct ps_engine *engine = NULL;
    struct ps_model *model = NULL;
    struct ps_engine_stats stats;
    struct ps_error err = {0};
    int32_t prompt[20] = {1, 2, 3};
    int tokens = 0;

    if (ps_model_open(&model, &path, 1, &err) < 0 ||
        ps_engine_open(&engine, model, &options, &err) < 0 ||
        ps_session_open(&session, engine, &err) < 0 ||
        ps_sampler_open(&sampler, model, &sampling, &err) < 0 ||
        ps_session_generate(session, prompt, 20, 20, sampler, take_token, &tokens, &err) < 0)
        return report(io, &err);
    ps_engine_stats(engine, &stats);
    printf("    %s: %d tokens, peak %llu of %llu KiB\n", io, tokens,
           (unsigned long long)stats.memory_peak_bytes / 1024,
           (unsigned long long)stats.budget_bytes / 1024);
    fflush(stdout);
    ps_sampler_close(&sampler);
    ps_session_close(&session);
    ps_engine_close(&engine);
    ps_model_close(&model);
    return stats.memory_peak_bytes > stats.budget_bytes || tokens == 0;
}

static void test_peak(void **state)
{
    const char *io = *state;
    int status = 0;

    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(execl("/proc/self/exe", "test_peak", volume.members[0], io, (char *)NULL));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static int set_up(void **state)
{
    char dir[256];

    (void)state;
    tiny = tiny_default(false);
    tiny.hidden = 16;
    tiny.vocab = 600000;
    tiny.tied = true;
    ps_test_dir_make(dir, sizeof(dir));
    fixture_layout(&volume, tiny_write_gguf(&tiny, dir), "keep", 0, 1);
    ps_test_dir_remove(dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fixture_remove(&volume);
    return 0;
}

/* With arguments this is the process whose peak counts: a forked one would find the memory that the
 * layout has freed, and use that. */
int main(int argc, char **argv)
{
    static const char *const engines[] = {"uring", "pread", "pagecache", "mmap"};
    struct CMUnitTest tests[sizeof(engines) / sizeof(engines[0])];

    if (argc == 3)
        return generate(argv[1], argv[2]);
    if (PS_TEST_SANITIZED)
        PS_SKIP("a sanitizer's own memory would be counted");
    for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++) {
        tests[i] = (struct CMUnitTest)cmocka_unit_test_prestate(test_peak, (void *)engines[i]);
        tests[i].name = engines[i];
    }
    return cmocka_run_group_tests_name("peak", tests, set_up, tear_down) ? 1 : 0;
}
