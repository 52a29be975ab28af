/* thread_pool.c - see thread_pool.h. A new generation number publishes a job. Helpers that see it
 * take task numbers from one counter until none is left, then count themselves out. */
#include "worker/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "schema/alloc.h"
#include "schema/log.h"

#define SPINS 4000

struct helper {
    struct thread_pool *pool;
    pthread_t thread;
    int number;
};

struct thread_pool {
    int n_threads, spins, stop;
    uint64_t generation; /* of the present job */
    int busy;            /* helpers that have not counted themselves out */
    int64_t next, n_tasks;
    thread_pool_task *task;
    void *arg;
    void (*bump)(void *);
    void *bump_arg;
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    struct helper *helpers; /* [n_threads - 1] */
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void take_tasks(struct thread_pool *p, int number)
{
    int64_t k;
    while ((k = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED)) < p->n_tasks) {
        p->task(p->arg, k, number);
        if (p->bump)
            p->bump(p->bump_arg);
    }
}

/* Waits for a generation other than `seen` and returns it. */
static uint64_t await_job(struct thread_pool *p, uint64_t seen)
{
    uint64_t now = seen;
    for (int i = 0; i < p->spins && now == seen; i++, relax())
        now = __atomic_load_n(&p->generation, __ATOMIC_ACQUIRE);
    if (now != seen)
        return now;
    pthread_mutex_lock(&p->lock);
    while (p->generation == seen)
        pthread_cond_wait(&p->begin, &p->lock);
    now = p->generation;
    pthread_mutex_unlock(&p->lock);
    return now;
}

static void *help(void *arg)
{
    struct helper *h = arg;
    struct thread_pool *p = h->pool;
    uint64_t seen = 0;
    for (;;) {
        seen = await_job(p, seen);
        if (p->stop)
            return NULL;
        take_tasks(p, h->number);
        if (__atomic_sub_fetch(&p->busy, 1, __ATOMIC_ACQ_REL) > 0)
            continue;
        pthread_mutex_lock(&p->lock);
        pthread_cond_signal(&p->end);
        pthread_mutex_unlock(&p->lock);
    }
}

static void publish(struct thread_pool *p)
{
    __atomic_store_n(&p->busy, p->n_threads - 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&p->lock);
    __atomic_store_n(&p->generation, p->generation + 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&p->begin);
    pthread_mutex_unlock(&p->lock);
}

struct thread_pool *thread_pool_new(int n_threads, int spin)
{
    struct thread_pool *p = xcalloc(1, sizeof *p);
    p->n_threads = n_threads;
    p->spins = spin ? SPINS : 0;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->begin, NULL);
    pthread_cond_init(&p->end, NULL);
    p->helpers = xcalloc((size_t)n_threads, sizeof *p->helpers);
    for (int i = 0; i + 1 < n_threads; i++) {
        p->helpers[i] = (struct helper){.pool = p, .number = i + 1};
        if (pthread_create(&p->helpers[i].thread, NULL, help, &p->helpers[i]) != 0)
            die(71, "event=no_thread wanted=%d", n_threads);
    }
    return p;
}

void thread_pool_free(struct thread_pool **out)
{
    struct thread_pool *p = *out;
    if (!p)
        return;
    p->stop = 1;
    publish(p);
    for (int i = 0; i + 1 < p->n_threads; i++)
        pthread_join(p->helpers[i].thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->begin);
    pthread_cond_destroy(&p->end);
    free(p->helpers);
    free(p);
    *out = NULL;
}

int thread_pool_threads(const struct thread_pool *p)
{
    return p->n_threads;
}

void thread_pool_set_bump(struct thread_pool *p, void (*bump)(void *), void *arg)
{
    p->bump = bump;
    p->bump_arg = arg;
}

static void await_end(struct thread_pool *p)
{
    for (int i = 0; i < p->spins; i++, relax())
        if (__atomic_load_n(&p->busy, __ATOMIC_ACQUIRE) == 0)
            return;
    pthread_mutex_lock(&p->lock);
    while (__atomic_load_n(&p->busy, __ATOMIC_ACQUIRE) > 0)
        pthread_cond_wait(&p->end, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

void thread_pool_run(struct thread_pool *p, thread_pool_task *task, void *arg, int64_t n_tasks)
{
    p->task = task;
    p->arg = arg;
    p->n_tasks = n_tasks;
    __atomic_store_n(&p->next, 0, __ATOMIC_RELAXED);
    if (p->n_threads == 1 || n_tasks == 1) {
        take_tasks(p, 0);
        return;
    }
    publish(p);
    take_tasks(p, 0);
    await_end(p);
}
