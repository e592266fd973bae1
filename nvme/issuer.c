#include "nvme/issuer.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLICE_NS UINT64_C(100000)

/* struct sched_attr of sched_setattr(2), which the C library does not have. */
struct thread_attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/*
 * Where threads that compute hold every CPU, one that wakes up runs when a slice of theirs ends, up
 * to 3 ms later: as long as a drive takes for a whole expert. Who asks for shorter slices than
 * theirs runs at once (EEVDF, Linux 6.12; older kernels take no notice). Its share of the CPU is no
 * larger for it, nor is any right needed.
 */
static void ask_for_short_slices(void)
{
    struct thread_attr attr = {.size = sizeof(attr)};

    if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) != 0 || attr.policy != SCHED_OTHER)
        return;
    attr.runtime = SLICE_NS;
    (void)syscall(SYS_sched_setattr, 0, &attr, 0);
}

static void *issue(void *arg)
{
    struct ps_issuer *issuer = arg;
    struct ps_scheduler *s = issuer->scheduler;

    ask_for_short_slices();
    pthread_mutex_lock(&s->lock);
    issuer->rc = ps_io_open(&s->io, issuer->config, issuer->err);
    pthread_cond_broadcast(&s->news);
    while (issuer->rc == 0 && !issuer->stop) {
        /* Whoever has something to read or stops us takes the lock to do so. */
        if (ps_scheduler_pump(s) <= 0 && (s->in_flight == 0 || s->error))
            pthread_cond_wait(&s->work, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    issuer->left = ps_io_close(&s->io);
    return NULL;
}

int ps_issuer_start(struct ps_issuer *issuer, struct ps_scheduler *scheduler,
                    const struct ps_io_config *config, struct ps_error *err)
{
    pthread_attr_t attr;
    sigset_t all, before;

    *issuer = (struct ps_issuer){.scheduler = scheduler, .config = config, .err = err, .rc = 1};
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, PS_ISSUER_STACK_BYTES);
    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&issuer->thread, &attr, issue, issuer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (rc != 0)
        return ps_error_set(err, -rc, "io",
                            "the thread that reads could not be started (%s); raise the limit with "
                            "`ulimit -u`",
                            strerror(rc));
    issuer->is_running = true;
    pthread_mutex_lock(&scheduler->lock);
    while (issuer->rc > 0)
        pthread_cond_wait(&scheduler->news, &scheduler->lock);
    pthread_mutex_unlock(&scheduler->lock);
    return issuer->rc;
}

uint32_t ps_issuer_stop(struct ps_issuer *issuer)
{
    if (!issuer->is_running)
        return 0;
    pthread_mutex_lock(&issuer->scheduler->lock);
    issuer->stop = true;
    ps_scheduler_kick(issuer->scheduler);
    pthread_mutex_unlock(&issuer->scheduler->lock);
    pthread_join(issuer->thread, NULL);
    issuer->is_running = false;
    return issuer->left;
}
