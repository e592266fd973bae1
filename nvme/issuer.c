#include "nvme/issuer.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

static void *issue(void *arg)
{
    struct ps_issuer *issuer = arg;
    struct ps_scheduler *s = issuer->scheduler;

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
