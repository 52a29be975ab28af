/* waiters.c - requests that wait for rows (broker.h).
 *
 * A waiter keeps all that its reply needs. It is looked at when its job changed in this turn, and
 * when its time is over; when its connection has gone, it goes. Of many that are due at once a tick looks at some, so
 * that everybody else's requests are not held up; who was left over comes before who is due later.
 *
 * Their number is bounded. When all places are taken, the connection that has the most gives one to a connection that
 * has fewer: that waiter is answered as if its time were over. So n connections have an n-th of the places each, for certain.
 *
 * A request that waits has no reply in the outbox that could be replaced when its turn is undone:
 * waiters of the present turn are known as such until it is settled. */
#include "broker/api/waiters.h"

#include <stdlib.h>
#include <string.h>

#include "broker/api/connections.h"
#include "broker/api/replies.h"
#include "broker/api/send.h"
#include "schema/log.h"

#define MAX_WAITERS 100000
#define MAX_OF_ONE 20000 /* of one connection */
#define CONNECTIONS 4096 /* that are told apart: of more, some share a count */
#define FOREVER (1ll << 60)
/* Looked at in one tick: so many, and beyond FEW no longer than this. */
#define MOST 64
#define FEW 16
#define TICK_US 20000

enum due { NOT_DUE, DUE, LEFT_OVER };

struct waiter {
    enum waiter_kind kind;
    struct envelope envelope;
    uint8_t id[REQUEST_ID_RAW_BYTES];
    size_t id_len;
    int64_t job;
    uint64_t after;
    uint32_t limit;
    long long deadline_ms;
    enum due due;
    int is_new;                   /* of the present turn */
    struct waiter *next, **place; /* place: what points to it */
    struct waiter *next_of_one, **place_of_one;
};

struct of_one {
    struct waiter *first;
    int n;
};

/* The newest come first, in both lists. */
struct waiters {
    struct waiter *first;
    int n, n_new, n_left_over;
    struct of_one of_connection[CONNECTIONS];
    int any_changed;
    int64_t *changed; /* jobs, since the last tick */
    size_t n_changed, changed_room;
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
    free((*out)->changed);
    free(*out);
    *out = NULL;
}

/* What waits of its connection. Those that are there have each a descriptor of its own. */
static struct of_one *of_one(struct waiters *all, const struct envelope *env)
{
    return &all->of_connection[env->connection % CONNECTIONS];
}

/* The waiter is answered: it goes. */
static void drop(struct waiters *all, struct waiter *w)
{
    *w->place = w->next;
    if (w->next)
        w->next->place = w->place;
    *w->place_of_one = w->next_of_one;
    if (w->next_of_one)
        w->next_of_one->place_of_one = w->place_of_one;
    all->n--;
    of_one(all, &w->envelope)->n--;
    all->n_new -= w->is_new;
    all->n_left_over -= w->due == LEFT_OVER;
    free(w);
}

static struct slice id_of(const struct waiter *w)
{
    return (struct slice){w->id_len ? w->id : NULL, w->id_len};
}

/* A reply before its time, from within a turn: nothing is read for `results`, which may ask again. */
static void give_way(struct broker *b, struct waiter *w)
{
    struct err e = {0};
    struct store_job j = {0};
    if (w->kind == WAIT_RESULTS) {
        reply_no_results(b, &w->envelope, id_of(w), w->after);
    } else {
        int rc = store_get_job(b->store, w->job, &j, &e);
        if (rc == 1)
            err_set(&e, ASSAY_ETIMEOUT,
                "too many requests wait; job '%s' lives on, `results` will have its rows", j.key);
        else if (rc == 0)
            err_set(&e, ASSAY_EUNKNOWNJOB, "no job %lld", (long long)w->job);
        outbox_error(b->outbox, &w->envelope, id_of(w), &e);
    }
    drop(b->waiters, w);
}

static struct of_one *with_most(struct waiters *all)
{
    struct of_one *most = all->of_connection;
    for (int i = 1; i < CONNECTIONS; i++)
        if (all->of_connection[i].n > most->n)
            most = &all->of_connection[i];
    return most;
}

int waiters_make_room(struct broker *b, const struct envelope *env, struct err *e)
{
    struct waiters *all = b->waiters;
    int n = of_one(all, env)->n, is_one = n >= MAX_OF_ONE;
    struct of_one *most = all->n < MAX_WAITERS || is_one ? NULL : with_most(all);
    if (most && most->n > n + 1)
        give_way(b, most->first);
    if (all->n < MAX_WAITERS && !is_one)
        return 0;
    err_set(e, ASSAY_EQUEUEFULL, "expected at most %d waiting requests%s",
        is_one ? MAX_OF_ONE : MAX_WAITERS, is_one ? " of one connection" : "");
    e->retry_after_ms = 1000;
    return ASSAY_EQUEUEFULL;
}

static void insert(struct waiters *all, struct waiter *w)
{
    struct of_one *one = of_one(all, &w->envelope);
    w->next = all->first;
    w->place = &all->first;
    w->next_of_one = one->first;
    w->place_of_one = &one->first;
    if (w->next)
        w->next->place = &w->next;
    if (w->next_of_one)
        w->next_of_one->place_of_one = &w->next_of_one;
    all->first = one->first = w;
    all->n++;
    one->n++;
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
        .due = DUE,
        .is_new = 1};
    if (w->id_len > 0)
        memcpy(w->id, q->id.at, w->id_len);
    insert(b->waiters, w);
    b->waiters->n_new++;
    b->waiters->any_changed = 1;
}

void waiters_settle(struct broker *b, const struct err *why)
{
    while (why && b->waiters->n_new > 0) {
        struct waiter *w = b->waiters->first;
        outbox_error(b->outbox, &w->envelope, id_of(w), why);
        drop(b->waiters, w);
    }
    for (struct waiter *w = b->waiters->first; w && w->is_new; w = w->next)
        w->is_new = 0;
    b->waiters->n_new = 0;
}

void waiters_let_go(struct broker *b)
{
    for (struct waiter *w = b->waiters->first, *next; w; w = next) {
        next = w->next;
        if (w->envelope.connection != 0 && !connections_is_there(w->envelope.connection))
            drop(b->waiters, w);
    }
}

int waiters_count(const struct broker *b)
{
    return b->waiters->n;
}

void waiters_job_changed(struct broker *b, int64_t job)
{
    struct waiters *all = b->waiters;
    if (all->n == 0 || (all->n_changed > 0 && all->changed[all->n_changed - 1] == job))
        return;
    if (all->n_changed == all->changed_room) {
        size_t room = all->changed_room ? 2 * all->changed_room : 256;
        int64_t *more = xcalloc(room, sizeof *more);
        if (all->n_changed > 0)
            memcpy(more, all->changed, all->n_changed * sizeof *more);
        free(all->changed);
        all->changed = more;
        all->changed_room = room;
    }
    all->changed[all->n_changed++] = job;
    all->any_changed = 1;
}

static int compare_jobs(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int has_changed(const struct waiters *all, int64_t job)
{
    return all->n_changed > 0 &&
           bsearch(&job, all->changed, all->n_changed, sizeof job, compare_jobs) != NULL;
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
    return rc != 0;
}

/* Marks who is due. 1 when it is this waiter's turn in a tick that has room: those left over come first. */
static int is_next(
    struct waiters *all, struct waiter *w, int is_due, int left_over_first, int has_room)
{
    if (w->due == NOT_DUE && (is_due || has_changed(all, w->job)))
        w->due = DUE;
    if (w->due == NOT_DUE)
        return 0;
    if (has_room && (!left_over_first || w->due == LEFT_OVER))
        return 1;
    if (!left_over_first && w->due == DUE) {
        w->due = LEFT_OVER;
        all->n_left_over++;
    }
    all->any_changed = 1;
    return 0;
}

static int has_room(const struct broker *b, int looked_at, long long start_us)
{
    if (replies_are_full(b))
        return 0;
    return looked_at < FEW || (looked_at < MOST && now_mono_us() - start_us < TICK_US);
}

long long waiters_tick(struct broker *b, long long now_ms)
{
    struct waiters *all = b->waiters;
    int left_over_first = all->n_left_over > 0, looked_at = 0;
    long long start_us = now_mono_us();
    if (!all->any_changed && now_ms < all->next_ms && !b->draining)
        return all->next_ms;
    if (replies_are_full(b))
        return now_ms + 1; /* until the disk has caught up */
    if (all->n_changed > 1)
        qsort(all->changed, all->n_changed, sizeof *all->changed, compare_jobs);
    all->any_changed = 0;
    all->next_ms = FOREVER;
    for (struct waiter *w = all->first, *next; w; w = next) {
        int is_due = now_ms >= w->deadline_ms || b->draining;
        next = w->next;
        if (is_next(all, w, is_due, left_over_first, has_room(b, looked_at, start_us))) {
            looked_at++;
            if (try_answer(b, w, now_ms)) {
                drop(
                    all, w); /* first: when the database fails now, who is in the list is told so */
                send_replies(b);
                continue;
            }
            all->n_left_over -= w->due == LEFT_OVER;
            w->due = NOT_DUE;
        }
        if (w->deadline_ms < all->next_ms)
            all->next_ms = w->deadline_ms;
    }
    all->n_changed = 0;
    return all->any_changed ? now_ms : all->next_ms;
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
        drop(b->waiters, w);
    }
}
