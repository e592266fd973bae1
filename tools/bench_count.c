#include "tools/bench_count.h"

#include <signal.h>
#include <stddef.h>

#if defined(__x86_64__)

static volatile sig_atomic_t trap_count;

static void on_trap(int signal)
{
    (void)signal;
    trap_count++;
}

/*
 * The trap flag (AMD64 Architecture Programmer's Manual, volume 1, section 3.1.4). The 128 bytes
 * below the stack pointer may be in use.
 */
static inline __attribute__((always_inline)) void step_begin(void)
{
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\t"
                     "lea 128(%%rsp), %%rsp" ::
                         : "memory", "cc");
}

static inline __attribute__((always_inline)) void step_end(void)
{
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\tandq $-257, (%%rsp)\n\tpopfq\n\t"
                     "lea 128(%%rsp), %%rsp" ::
                         : "memory", "cc");
}

uint64_t bench_instructions(void (*fn)(void *ctx), void *ctx)
{
    struct sigaction action = {.sa_handler = on_trap}, before;
    sigset_t trap, mask;

    /* A blocked trap would end the process. */
    sigemptyset(&trap);
    sigaddset(&trap, SIGTRAP);
    if (sigaction(SIGTRAP, &action, &before) < 0)
        return 0;
    sigprocmask(SIG_UNBLOCK, &trap, &mask);
    trap_count = 0;
    step_begin();
    fn(ctx);
    step_end();
    uint64_t count = (uint64_t)trap_count;
    sigprocmask(SIG_SETMASK, &mask, NULL);
    sigaction(SIGTRAP, &before, NULL);
    return count;
}

#else

uint64_t bench_instructions(void (*fn)(void *ctx), void *ctx)
{
    (void)fn;
    (void)ctx;
    return 0;
}

#endif
