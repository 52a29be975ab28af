/* waiters.c - requests that wait for rows (broker.h).
 *
 * A waiter keeps all that its reply needs. It is looked at when its job changed in this turn, and
 * when its time is over. Their number is bounded; the next one is refused. */
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

struct waiters {
    struct waiter *first;
    int n;
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

int waiters_add(struct broker *b, enum waiter_kind kind, const struct envelope *env,
    const struct request *q, int64_t job, long long deadline_ms, struct err *e)
{
    if (b->waiters->n >= MAX_WAITERS)
        return err_set(e, ASSAY_EQUEUEFULL, "expected at most %d waiting requests", MAX_WAITERS);
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
    return 0;
}

void waiters_job_changed(struct broker *b, int64_t job)
{
    for (struct waiter *w = b->waiters->first; w; w = w->next)
        w->changed |= w->job == job;
}

/* The reply to `score` when its job is over or its time is: 1 when it was given. */
static int try_score(
    struct broker *b, const struct waiter *w, struct slice id, int timed_out, struct err *e)
{
    struct store_job j;
    int rc = store_get_job(b->store, w->job, &j, e);
    if (rc != 1)
        return rc;
    if (j.sealed && j.done == j.placed) {
        rc = reply_score(b, &w->envelope, id, w->job, e);
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
    struct slice id = {w->id_len ? w->id : NULL, w->id_len};
    int timed_out = now_ms >= w->deadline_ms;
    int rc = w->kind == WAIT_SCORE ? try_score(b, w, id, timed_out, &e)
                                   : reply_results(b, &w->envelope, id, w->job, w->after, w->limit,
                                         !timed_out && !b->draining, &e);
    if (rc < 0)
        outbox_error(b->outbox, &w->envelope, id, &e);
    return rc != 0;
}

long long waiters_tick(struct broker *b, long long now_ms)
{
    long long next_ms = FOREVER;
    struct waiter **at = &b->waiters->first;
    while (*at) {
        struct waiter *w = *at;
        if ((w->changed || now_ms >= w->deadline_ms || b->draining) && try_answer(b, w, now_ms)) {
            *at = w->next;
            b->waiters->n--;
            free(w);
            continue;
        }
        w->changed = 0;
        if (w->deadline_ms < next_ms)
            next_ms = w->deadline_ms;
        at = &w->next;
    }
    outbox_send(b->outbox);
    return next_ms;
}
