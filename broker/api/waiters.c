/* waiters.c - the lists of waiters: by job, by what is due, by deadline (waiters.h).
 *
 * A waiter keeps all that its reply needs. It waits in its job's list until there is a reason to
 * look at it: it is new, its job has changed, or its deadline has passed. Then it is due, and
 * queues behind the other due waiters of its connection. A tick looks at some of the due waiters,
 * one connection after another, so a client that waits for much holds up neither other requests nor
 * replies whose time has come. A long reply is made in parts, one a tick, and is the only one of
 * its kind: other waiters for long replies queue behind it. When a connection has gone, its waiters
 * go too.
 *
 * The number of waiters is bounded. When all places are taken, the connection with the most gives
 * one to a connection with fewer: that waiter is answered as if its deadline had passed. So n
 * connections are sure of an n-th of the places each.
 *
 * A waiting request has no reply in the outbox that could be replaced when its tick is undone, so
 * the waiters of the present tick are marked until it is settled. */
#include "broker/api/waiters.h"

#include <stdlib.h>
#include <string.h>

#include "broker/api/blocked.h"
#include "broker/api/connections.h"
#include "broker/api/replies.h"
#include "broker/api/send.h"
#include "broker/outcomes.h"
#include "broker/table.h"
#include "schema/alloc.h"
#include "schema/clock.h"

#define MAX_WAITERS 100000
#define MAX_OF_ONE 20000 /* waiters of one connection */
#define CONNECTIONS 4096 /* buckets; more connections than this share them */
/* A tick looks at one waiter, and at others up to MOST until TICK_US are over. */
#define MOST 64
#define TICK_US 4000

enum { NOWHERE = -1 };

struct of_job {
    int n;                /* waiters, due ones included */
    struct waiter *first; /* those that are not due */
};

struct waiter {
    enum waiter_kind kind;
    struct envelope envelope;
    uint8_t id[REQUEST_ID_RAW_BYTES];
    size_t id_len;
    int64_t job;
    uint64_t after;
    uint32_t limit;
    long long deadline_ms;
    int at;                       /* index in the heap of deadlines; NOWHERE: passed */
    int is_new;                   /* added in the present tick */
    struct waiter *next, **place; /* place: the pointer that points to it */
    struct waiter *next_of_one, **place_of_one;
    int is_due;
    int is_long; /* its reply did not fit into a tick, while another's was being made in parts */
    struct waiter *next_alike, **place_alike; /* in its job's or the due list */
    struct of_job *of_job;
};

struct of_one {
    struct waiter *first;
    int n;
    struct waiter *due, **due_end; /* oldest first */
    int is_in_turn;
    struct of_one *next_in_turn;
};

/* The lists of all waiters and of each connection have the newest first. */
struct waiters {
    struct waiter *first;
    int n, n_new, n_due;
    struct of_one of_connection[CONNECTIONS];
    struct of_one *turn, **turn_end; /* connections with due waiters */
    struct table jobs;               /* struct of_job by job */
    struct waiter **deadlines;       /* a heap, earliest on top */
    int n_deadlines, room;
    int is_draining;         /* find_due has seen that the broker drains */
    struct waiter *begun;    /* its reply is being made in parts; in no list. NULL: none */
    struct reply_part *part; /* of begun's */
};

struct waiters *waiters_new(void)
{
    struct waiters *all = xcalloc(1, sizeof *all);
    all->turn_end = &all->turn;
    return all;
}

/* The waiters of env's connection. Connections that exist at once have different descriptors. */
static struct of_one *of_one(struct waiters *all, const struct envelope *env)
{
    return &all->of_connection[env->connection % CONNECTIONS];
}

/* ---- deadlines ---- */

static void put_at(struct waiters *all, int at, struct waiter *w)
{
    all->deadlines[at] = w;
    w->at = at;
}

/* Moves the waiter at `at` to where its deadline belongs in the heap. */
static void sift(struct waiters *all, int at)
{
    struct waiter *w = all->deadlines[at];
    for (; at > 0 && all->deadlines[(at - 1) / 2]->deadline_ms > w->deadline_ms; at = (at - 1) / 2)
        put_at(all, at, all->deadlines[(at - 1) / 2]);
    for (int child; (child = 2 * at + 1) < all->n_deadlines; at = child) {
        if (child + 1 < all->n_deadlines &&
            all->deadlines[child + 1]->deadline_ms < all->deadlines[child]->deadline_ms)
            child++;
        if (all->deadlines[child]->deadline_ms >= w->deadline_ms)
            break;
        put_at(all, at, all->deadlines[child]);
    }
    put_at(all, at, w);
}

static void add_deadline(struct waiters *all, struct waiter *w)
{
    if (all->n_deadlines == all->room) {
        all->room = all->room ? 2 * all->room : 256;
        all->deadlines = xgrow(
            all->deadlines, (size_t)all->n_deadlines, (size_t)all->room, sizeof(struct waiter *));
    }
    put_at(all, all->n_deadlines++, w);
    sift(all, w->at);
}

static void remove_deadline(struct waiters *all, struct waiter *w)
{
    int at = w->at;
    if (at == NOWHERE)
        return;
    w->at = NOWHERE;
    struct waiter *last = all->deadlines[--all->n_deadlines];
    if (last == w)
        return;
    put_at(all, at, last);
    sift(all, at);
}

/* ---- lists: of a job, or due ---- */

static void join_job(struct waiters *all, struct waiter *w)
{
    w->of_job = table_find(&all->jobs, w->job);
    if (!w->of_job) {
        w->of_job = xcalloc(1, sizeof *w->of_job);
        table_set(&all->jobs, w->job, w->of_job);
    }
    w->of_job->n++;
}

static void leave_job(struct waiters *all, struct waiter *w)
{
    if (--w->of_job->n > 0)
        return;
    table_remove(&all->jobs, w->job);
    free(w->of_job);
}

/* Unlinks it from its job's list, or from the due ones. */
static void unlink_alike(struct waiters *all, struct waiter *w)
{
    struct of_one *one = of_one(all, &w->envelope);
    if (!w->place_alike)
        return;
    *w->place_alike = w->next_alike;
    if (w->next_alike)
        w->next_alike->place_alike = w->place_alike;
    else if (w->is_due)
        one->due_end = w->place_alike;
    all->n_due -= w->is_due;
    w->is_due = 0;
    w->place_alike = NULL;
    w->next_alike = NULL;
}

static void wait_on(struct waiters *all, struct waiter *w)
{
    unlink_alike(all, w);
    w->next_alike = w->of_job->first;
    w->place_alike = &w->of_job->first;
    if (w->next_alike)
        w->next_alike->place_alike = &w->next_alike;
    w->of_job->first = w;
}

static void take_turn(struct waiters *all, struct of_one *one)
{
    if (one->is_in_turn)
        return;
    one->is_in_turn = 1;
    one->next_in_turn = NULL;
    *all->turn_end = one;
    all->turn_end = &one->next_in_turn;
}

static void make_due(struct waiters *all, struct waiter *w)
{
    struct of_one *one = of_one(all, &w->envelope);
    if (w->is_due || w == all->begun)
        return;
    unlink_alike(all, w);
    if (!one->due)
        one->due_end = &one->due;
    w->place_alike = one->due_end;
    *one->due_end = w;
    one->due_end = &w->next_alike;
    w->is_due = 1;
    all->n_due++;
    take_turn(all, one);
}

/* Returns the oldest due waiter of the connection whose turn it is, and leaves it in its list.
 * There must be one. */
static struct waiter *next_due(struct waiters *all)
{
    for (;;) {
        struct of_one *one = all->turn;
        all->turn = one->next_in_turn;
        if (!all->turn)
            all->turn_end = &all->turn;
        one->is_in_turn = 0;
        if (!one->due)
            continue; /* its due waiters have gone since */
        if (one->due->next_alike)
            take_turn(all, one);
        return one->due;
    }
}

/* Removes a waiter that was answered. */
static void drop(struct waiters *all, struct waiter *w)
{
    if (w == all->begun) {
        reply_part_free(&all->part);
        all->begun = NULL;
    }
    *w->place = w->next;
    if (w->next)
        w->next->place = w->place;
    *w->place_of_one = w->next_of_one;
    if (w->next_of_one)
        w->next_of_one->place_of_one = w->place_of_one;
    unlink_alike(all, w);
    leave_job(all, w);
    remove_deadline(all, w);
    all->n--;
    of_one(all, &w->envelope)->n--;
    all->n_new -= w->is_new;
    free(w);
}

void waiters_free(struct waiters **out)
{
    if (!*out)
        return;
    while ((*out)->first)
        drop(*out, (*out)->first);
    table_release(&(*out)->jobs);
    free((*out)->deadlines);
    free(*out);
    *out = NULL;
}

static struct slice id_of(const struct waiter *w)
{
    return (struct slice){w->id_len ? w->id : NULL, w->id_len};
}

/* Answers a waiter early, from within a tick. For `results` nothing is read: the client may ask
 * again. */
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
    join_job(all, w);
    add_deadline(all, w);
    make_due(all, w);
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
        .is_new = 1};
    if (w->id_len > 0)
        memcpy(w->id, q->id.at, w->id_len);
    insert(b->waiters, w);
    b->waiters->n_new++;
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

int waiters_has_job(const struct broker *b, int64_t job)
{
    const struct of_job *of_job = table_find(&b->waiters->jobs, job);
    return of_job && of_job->n > 0;
}

void waiters_job_changed(struct broker *b, int64_t job)
{
    struct of_job *of_job = table_find(&b->waiters->jobs, job);
    while (of_job && of_job->first)
        make_due(b->waiters, of_job->first);
    const struct waiter *begun = b->waiters->begun;
    if (begun && begun->kind == WAIT_SCORE && begun->job == job)
        reply_part_free(&b->waiters->part); /* its rows may be others now */
}

/* The deadline has passed: says so, and why, where the workers do not start. */
static int refuse_late(struct broker *b, const struct store_job *j, struct err *e)
{
    char why[BLOCKED_BYTES];
    int rc = blocked_why(b, j->job, why, e);
    if (rc != 0)
        return rc;
    const char *unwritten = why[0] ? NULL : outcomes_unwritten(b);
    return err_set(e, ASSAY_ETIMEOUT,
        "not finished in time%s%.200s; job '%s' lives on, `results` will have its rows",
        why[0]      ? ": the workers do not start, they are tried again: "
        : unwritten ? ": results cannot be written, that is tried again: "
                    : "",
        unwritten ? unwritten : why, j->key);
}

/* Answers `score` when its job is over or its deadline has passed. Returns as reply_score does; 0:
 * it waits. */
static int try_score(struct broker *b, const struct waiter *w, int timed_out,
    struct reply_part **part, struct err *e)
{
    struct store_job j;
    int rc = store_get_job(b->store, w->job, &j, e);
    if (rc != 1)
        return rc < 0 ? rc : err_set(e, ASSAY_EUNKNOWNJOB, "no job %lld", (long long)w->job);
    if (j.sealed && j.done == j.placed)
        return reply_score(b, &w->envelope, id_of(w), w->job, part, e);
    if (j.state == JOB_CANCELLED)
        return err_set(e, ASSAY_ESTATE, "job '%s' was cancelled", j.key);
    if (j.held)
        return err_set(e, ASSAY_ESTATE, "job '%s' is held: %s", j.key, j.reason);
    return timed_out ? refuse_late(b, &j, e) : 0;
}

/* Returns 1 when the waiter was answered, 0 when it goes on waiting, or REPLY_MORE. */
static int try_answer(
    struct broker *b, const struct waiter *w, long long now_ms, struct reply_part **part)
{
    struct err e = {0};
    int timed_out = now_ms >= w->deadline_ms;
    int rc = w->kind == WAIT_SCORE ? try_score(b, w, timed_out, part, &e)
                                   : reply_results(b, &w->envelope, id_of(w),
                                         (struct store_page){w->job, w->after, w->limit},
                                         !timed_out && !b->draining, part, &e);
    if (rc < 0)
        outbox_error(b->outbox, &w->envelope, id_of(w), &e);
    return rc < 0 ? 1 : rc;
}

static int has_room(const struct broker *b, int looked_at, long long start_us)
{
    if (replies_are_full(b))
        return 0;
    return looked_at < 1 || (looked_at < MOST && now_mono_us() - start_us < TICK_US);
}

static void find_due(struct waiters *all, long long now_ms, int draining)
{
    while (all->n_deadlines > 0 && all->deadlines[0]->deadline_ms <= now_ms) {
        make_due(all, all->deadlines[0]);
        remove_deadline(all, all->deadlines[0]);
    }
    for (struct waiter *w = draining && !all->is_draining ? all->first : NULL; w; w = w->next)
        make_due(all, w);
    all->is_draining = draining;
}

static void to_the_end(struct waiters *all, struct waiter *w)
{
    unlink_alike(all, w);
    make_due(all, w);
}

/* Its reply needs more time: keeps what there is, unless another's is kept. */
static void go_on_later(struct waiters *all, struct waiter *w, struct reply_part **part)
{
    w->is_long = 1;
    if (all->begun) {
        to_the_end(all, w);
        return;
    }
    unlink_alike(all, w);
    all->begun = w;
    all->part = *part;
    *part = NULL;
}

/* Returns 1 when it was answered. */
static int look_at(struct broker *b, struct waiter *w, long long now_ms)
{
    struct waiters *all = b->waiters;
    struct reply_part *part = NULL;
    if (w == all->begun) {
        part = all->part;
        all->part = NULL;
        all->begun = NULL;
    } else if (w->is_long && all->begun) {
        to_the_end(all, w);
        return 0;
    }
    int rc = try_answer(b, w, now_ms, &part);
    if (rc == 1)
        drop(all, w);
    else if (rc == 0)
        wait_on(all, w);
    else
        go_on_later(all, w, &part);
    reply_part_free(&part);
    return rc == 1;
}

long long waiters_tick(struct broker *b, long long now_ms)
{
    struct waiters *all = b->waiters;
    int looked_at = 0, answered = 0;
    long long start_us = now_mono_us();
    find_due(all, now_ms, b->draining);
    if (all->begun && has_room(b, 0, start_us)) {
        answered += look_at(b, all->begun, now_ms);
        looked_at++;
    }
    for (; all->n_due > 0 && has_room(b, looked_at, start_us); looked_at++)
        answered += look_at(b, next_due(all), now_ms);
    if (answered > 0) /* waiters still in a list have no reply in the outbox */
        send_replies(b);
    if (all->n_due > 0 || all->begun)
        return looked_at > 0 ? now_ms : now_ms + 1; /* until the disk has caught up */
    return all->n_deadlines > 0 ? all->deadlines[0]->deadline_ms : FOREVER;
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
