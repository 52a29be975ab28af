/* waiters.c - requests that wait for rows (broker.h).
 *
 * A waiter keeps all that its reply needs. It is looked at when its job changed in this turn, and
 * when its time is over. Their number is bounded; the next one is refused.
 *
 * A request that waits has no reply in the outbox that could be replaced when its turn is undone:
 * waiters of the present turn are known as such until it is settled. */
#include <stdlib.h>
#include <string.h>

#include "broker/broker.h"
#include "schema/log.h"

#define MAX_WAITERS 100000
#define FOREVER (1ll << 60)

struct waiter {
    enum waiter_kind kind;
    struct envelope envelope;
    uint8_t id[REQUEST_ID_RAW_BYTES];
    size_t id_len;
    int64_t job;
    uint64_t after;
    uint32_t limit;
    long long deadline_ms;
    int changed;
    struct waiter *next;
};

/* The newest come first, so those of the present turn are the first n_new. */
struct waiters {
    struct waiter *first;
    int n, n_new;
    int any_changed;
    long long next_ms; /* earliest deadline, as of the last tick */
};

struct waiters *waiters_new(void)
{
    return xcalloc(1, sizeof(struct waiters));
}

void waiters_free(struct waiters **out)
{
    if (!*out)
        return;
    for (struct waiter *w = (*out)->first, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    free(*out);
    *out = NULL;
}

int waiters_check_room(const struct broker *b, struct err *e)
{
    if (b->waiters->n < MAX_WAITERS)
        return 0;
    err_set(e, ASSAY_EQUEUEFULL, "expected at most %d waiting requests", MAX_WAITERS);
    e->retry_after_ms = 1000;
    return ASSAY_EQUEUEFULL;
}

void waiters_add(struct broker *b, enum waiter_kind kind, const struct envelope *env,
    const struct request *q, int64_t job, long long deadline_ms)
{
    struct waiter *w = xcalloc(1, sizeof *w);
    *w = (struct waiter){.kind = kind,
        .envelope = *env,
        .id_len = q->id.at ? q->id.len : 0,
        .job = job,
        .after = q->after,
        .limit = q->limit,
        .deadline_ms = deadline_ms,
        .changed = 1,
        .next = b->waiters->first};
    if (w->id_len > 0)
        memcpy(w->id, q->id.at, w->id_len);
    b->waiters->first = w;
    b->waiters->n++;
    b->waiters->n_new++;
    b->waiters->any_changed = 1;
}

/* The waiter at *at is answered: it goes. */
static void drop(struct waiters *all, struct waiter **at)
{
    struct waiter *w = *at;
    *at = w->next;
    all->n--;
    free(w);
}

static struct slice id_of(const struct waiter *w)
{
    return (struct slice){w->id_len ? w->id : NULL, w->id_len};
}

void waiters_settle(struct broker *b, const struct err *why)
{
    for (; why && b->waiters->n_new > 0; b->waiters->n_new--) {
        outbox_error(b->outbox, &b->waiters->first->envelope, id_of(b->waiters->first), why);
        drop(b->waiters, &b->waiters->first);
    }
    b->waiters->n_new = 0;
}

void waiters_job_changed(struct broker *b, int64_t job)
{
    for (struct waiter *w = b->waiters->first; w; w = w->next)
        if (w->job == job)
            w->changed = b->waiters->any_changed = 1;
}

/* The reply to `score` when its job is over or its time is: 1 when it was given. */
static int try_score(struct broker *b, const struct waiter *w, int timed_out, struct err *e)
{
    struct store_job j;
    int rc = store_get_job(b->store, w->job, &j, e);
    if (rc != 1)
        return rc < 0 ? rc : err_set(e, ASSAY_EUNKNOWNJOB, "no job %lld", (long long)w->job);
    if (j.sealed && j.done == j.placed) {
        rc = reply_score(b, &w->envelope, id_of(w), w->job, e);
        return rc < 0 ? rc : 1;
    }
    if (j.state == JOB_CANCELLED)
        return err_set(e, ASSAY_ESTATE, "job '%s' was cancelled", j.key);
    if (j.held)
        return err_set(e, ASSAY_ESTATE, "job '%s' is held: %s", j.key, j.reason);
    if (!timed_out)
        return 0;
    return err_set(e, ASSAY_ETIMEOUT,
        "not finished in time; job '%s' lives on, `results` will have its rows", j.key);
}

/* 1 when the waiter was answered. */
static int try_answer(struct broker *b, const struct waiter *w, long long now_ms)
{
    struct err e = {0};
    int timed_out = now_ms >= w->deadline_ms;
    int rc = w->kind == WAIT_SCORE ? try_score(b, w, timed_out, &e)
                                   : reply_results(b, &w->envelope, id_of(w), w->job, w->after,
                                         w->limit, !timed_out && !b->draining, &e);
    if (rc < 0)
        outbox_error(b->outbox, &w->envelope, id_of(w), &e);
    broker_send_replies(b);
    return rc != 0;
}

long long waiters_tick(struct broker *b, long long now_ms)
{
    struct waiters *all = b->waiters;
    struct waiter **at = &all->first;
    if (!all->any_changed && now_ms < all->next_ms && !b->draining)
        return all->next_ms;
    all->any_changed = 0;
    all->next_ms = FOREVER;
    while (*at) {
        struct waiter *w = *at;
        int due = w->changed || now_ms >= w->deadline_ms || b->draining;
        if (due && try_answer(b, w, now_ms)) {
            drop(all, at);
            continue;
        }
        w->changed = 0;
        if (w->deadline_ms < all->next_ms)
            all->next_ms = w->deadline_ms;
        at = &w->next;
    }
    return all->next_ms;
}

void waiters_end(struct broker *b, const char *why)
{
    struct err e = {0};
    while (b->waiters->first) {
        struct waiter *w = b->waiters->first;
        err_set(&e, ASSAY_ENOTREADY, "the broker %s%.400s; job %lld lives on",
            why ? "ends: " : "is shutting down", why ? why : "", (long long)w->job);
        e.retry_after_ms = 1000;
        outbox_error(b->outbox, &w->envelope, id_of(w), &e);
        drop(b->waiters, &b->waiters->first);
    }
    broker_send_replies(b);
}
