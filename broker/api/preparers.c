/* preparers.c - the threads, and two lists under one lock: tasks that wait, and tasks that are
 * ready (preparers.h). */
#include "broker/api/preparers.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "schema/alloc.h"

struct list {
    struct task *first, **end;
};

struct preparer {
    struct preparers *all;
    pthread_t thread;
    struct admit admit;
};

struct preparers {
    struct preparer threads[PREPARERS_THREADS];
    int n_threads; /* running */
    const struct request_limits *limits;
    int event_fd;
    atomic_int stop;
    pthread_mutex_t lock; /* for the two lists, and for event_fd, which says that `ready` has one */
    pthread_cond_t more;
    struct list waiting, ready;
};

static void push(struct list *l, struct task *t)
{
    t->next = NULL;
    *l->end = t;
    l->end = &t->next;
}

static void push_first(struct list *l, struct task *t)
{
    if (!(t->next = l->first))
        l->end = &t->next;
    l->first = t;
}

static struct task *pop(struct list *l)
{
    struct task *t = l->first;
    if (t && !(l->first = t->next))
        l->end = &l->first;
    return t;
}

static struct task *await_task(struct preparers *p)
{
    while (!p->waiting.first && !p->stop)
        pthread_cond_wait(&p->more, &p->lock);
    return p->stop ? NULL : pop(&p->waiting);
}

/* Either call can only fail if the counter is what it is to become. */
static void set_event(const struct preparers *p, int is_set)
{
    uint64_t n = 1;
    ssize_t rc = is_set ? write(p->event_fd, &n, sizeof n) : read(p->event_fd, &n, sizeof n);
    (void)rc;
}

static void *prepare_for_ever(void *arg)
{
    struct preparer *self = arg;
    struct preparers *p = self->all;
    struct preparing with = {.admit = &self->admit, .limits = p->limits, .stop = &p->stop};
    struct task *t;
    pthread_mutex_lock(&p->lock);
    while ((t = await_task(p))) {
        pthread_mutex_unlock(&p->lock);
        if (t->work)
            t->work(t, &with);
        else
            (void)prepare(&t->prepared, &with, t->message);
        pthread_mutex_lock(&p->lock);
        if (!p->ready.first)
            set_event(p, 1);
        push(&p->ready, t);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int preparers_new(struct preparers **out, const struct model_info *model,
    const struct text_model *text, const struct request_limits *limits, struct err *e)
{
    struct preparers *p = *out = xcalloc(1, sizeof *p);
    p->limits = limits;
    p->waiting.end = &p->waiting.first;
    p->ready.end = &p->ready.first;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, NULL);
    p->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = p->event_fd >= 0 ? 0 : errno;
    for (int i = 0; error == 0 && i < PREPARERS_THREADS; i++) {
        struct preparer *t = &p->threads[i];
        *t = (struct preparer){.all = p, .admit.model = model};
        t->admit.composer = text ? composer_new(text) : NULL;
        error = pthread_create(&t->thread, NULL, prepare_for_ever, t);
        p->n_threads += error == 0;
    }
    if (error == 0)
        return 0;
    preparers_free(out);
    return err_set(e, ASSAY_EIO, "cannot start threads that prepare messages: %s", strerror(error));
}

void preparers_stop(struct preparers *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, 1);
    pthread_cond_broadcast(&p->more);
    pthread_mutex_unlock(&p->lock);
    while (p->n_threads > 0)
        pthread_join(p->threads[--p->n_threads].thread, NULL);
}

void preparers_free(struct preparers **out)
{
    struct preparers *p = *out;
    if (!p)
        return;
    preparers_stop(p);
    for (int i = 0; i < PREPARERS_THREADS; i++)
        admit_release(&p->threads[i].admit);
    if (p->event_fd >= 0)
        close(p->event_fd);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->more);
    free(p);
    *out = NULL;
}

void preparers_give(struct preparers *p, struct task *t)
{
    pthread_mutex_lock(&p->lock);
    if (t->is_urgent)
        push_first(&p->waiting, t);
    else
        push(&p->waiting, t);
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
}

struct task *preparers_take(struct preparers *p)
{
    pthread_mutex_lock(&p->lock);
    struct task *t = pop(&p->ready);
    if (t && !p->ready.first)
        set_event(p, 0);
    pthread_mutex_unlock(&p->lock);
    return t;
}

int preparers_fd(const struct preparers *p)
{
    return p->event_fd;
}
