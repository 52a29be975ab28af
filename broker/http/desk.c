/* desk.c - see desk.h. */
#include "broker/http/desk.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/http/call.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/msg_json.h"

#define WAIT_MS 2000 /* for one reply, and for a request's turn */
#define KEEP_MS 1000
#define MOST_WAITING 64
#define KEPT 16
#define NEWEST 60
#define OF_A_STATE 100
#define MOST_FAILED 1000
#define MOST_PARTS 12 /* of a reply that the broker gives in parts, */
#define PARTS_MS 60   /* and after so long no more are asked for */

/* A reply that was given lately. */
struct kept {
    enum desk_what what;
    int64_t job;
    char *text;
    long long since_ms;
};

struct desk {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t asked;
    struct desk_request *first, *last;
    int n_waiting, stops;
    struct call *call;
    struct kept kept[KEPT]; /* the thread's */
    unsigned n_kept;
};

static const char *const ops[] = {
    "jobs", "throughput", "sample", "failed", "pause", "resume", "cancel", "retry"};

/* ---- asking ---- */

/* Sends what was begun. Returns the reply as JSON without its form, or NULL. */
static json_t *send_out(struct desk *d, struct err *e)
{
    struct slice reply;
    struct msg_reader r;
    json_t *found = NULL;
    if (call_send(d->call, &reply, e) != 0)
        return NULL;
    msg_reader_init(&r, reply.at, reply.len);
    if (msg_read_json(&r, &found, e) != 0)
        return NULL;
    json_object_del(found, "v");
    json_object_del(found, "id");
    json_object_del(found, "ok");
    return found;
}

static json_t *ask_of_job(struct desk *d, const struct desk_request *q, struct err *e)
{
    msg_key_int(call_begin(d->call, ops[q->what], 1), "job", q->job);
    return send_out(d, e);
}

/* Appends the jobs of one state, or the newest (state NULL). */
static int add_jobs(struct desk *d, json_t *all, const char *state, struct err *e)
{
    struct msg_writer *w = call_begin(d->call, "jobs", 2);
    if (state)
        msg_key_str(w, "state", state);
    else
        msg_key_int(w, "before", INT32_MAX);
    msg_key_int(w, "limit", state ? OF_A_STATE : NEWEST);
    json_t *page = send_out(d, e);
    if (!page)
        return e->code;
    json_object_set(all, state ? state : "newest", json_object_get(page, "jobs"));
    json_decref(page);
    return 0;
}

static json_t *ask_jobs(struct desk *d, struct err *e)
{
    static const char *const states[] = {"running", "queued", "open", "paused"};
    json_t *all = json_object();
    int rc = add_jobs(d, all, NULL, e);
    for (size_t i = 0; rc == 0 && i < sizeof states / sizeof states[0]; i++)
        rc = add_jobs(d, all, states[i], e);
    if (rc != 0)
        json_decref(all);
    return rc == 0 ? all : NULL;
}

/* Adds another part's list and count to the first one's; its other fields take the place of the
 * first one's. */
static json_t *join(json_t *whole, json_t *part, const char *list)
{
    if (!whole)
        return part;
    json_array_extend(json_object_get(part, list), json_object_get(whole, list));
    json_t *others = json_object_get(part, "others");
    if (others)
        json_integer_set(others,
            json_integer_value(others) + json_integer_value(json_object_get(whole, "others")));
    json_decref(whole);
    return part;
}

static json_t *ask_parts(struct desk *d, const struct desk_request *q, struct err *e)
{
    const char *list = q->what == DESK_SCORES ? "scores" : "rows";
    const char *end = q->what == DESK_SCORES ? "end" : "done";
    json_t *whole = NULL, *part;
    json_int_t next = 0;
    long long until_ms = now_mono_ms() + PARTS_MS;
    for (int n = 0; n < MOST_PARTS; n++) {
        struct msg_writer *w = call_begin(d->call, ops[q->what], 2);
        msg_key_int(w, "job", q->job);
        msg_key_int(w, "after", next);
        if (!(part = send_out(d, e))) {
            json_decref(whole);
            return NULL;
        }
        whole = join(whole, part, list);
        next = json_integer_value(json_object_get(whole, "next"));
        if (json_is_true(json_object_get(whole, end)) ||
            json_array_size(json_object_get(whole, list)) >= MOST_FAILED ||
            now_mono_ms() >= until_ms)
            break;
    }
    return whole;
}

static json_t *ask(struct desk *d, const struct desk_request *q, struct err *e)
{
    switch (q->what) {
    case DESK_JOBS:
        return ask_jobs(d, e);
    case DESK_THROUGHPUT:
        call_begin(d->call, "throughput", 0);
        return send_out(d, e);
    case DESK_SCORES:
    case DESK_FAILED:
        return ask_parts(d, q, e);
    default:
        return ask_of_job(d, q, e);
    }
}

/* ---- replies ---- */

static struct kept *find_kept(struct desk *d, const struct desk_request *q)
{
    for (int i = 0; i < KEPT; i++)
        if (d->kept[i].text && d->kept[i].what == q->what && d->kept[i].job == q->job)
            return &d->kept[i];
    return NULL;
}

/* What is known of jobs is old as soon as one was changed. */
static void forget(struct desk *d)
{
    for (int i = 0; i < KEPT; i++) {
        free(d->kept[i].text);
        d->kept[i].text = NULL;
    }
}

static void keep(struct desk *d, const struct desk_request *q)
{
    struct kept *k = find_kept(d, q);
    if (q->what >= DESK_PAUSE)
        return forget(d);
    if (!k)
        k = &d->kept[d->n_kept++ % KEPT];
    free(k->text);
    *k = (struct kept){q->what, q->job, strdup(q->text), now_mono_ms()};
}

static void answer(struct desk *d, struct desk_request *q)
{
    const struct kept *kept = find_kept(d, q);
    if (now_mono_ms() > q->until_ms) {
        err_set(&q->error, ASSAY_ENOTREADY, "the broker does not answer");
    } else if (kept && now_mono_ms() - kept->since_ms < KEEP_MS) {
        q->text = strdup(kept->text);
    } else {
        json_t *reply = ask(d, q, &q->error);
        q->text = reply ? json_dumps(reply, JSON_COMPACT) : NULL;
        json_decref(reply);
        if (q->text)
            keep(d, q);
    }
    if (!q->text && q->error.code == 0)
        err_set(&q->error, ASSAY_EINTERNAL, "no memory for the reply");
    q->done(q);
}

/* ---- the thread ---- */

/* The next request; NULL: the desk is over. */
static struct desk_request *take(struct desk *d)
{
    pthread_mutex_lock(&d->lock);
    while (!d->first && !d->stops)
        pthread_cond_wait(&d->asked, &d->lock);
    struct desk_request *q = d->first;
    if (q) {
        d->first = q->next;
        d->n_waiting--;
    }
    pthread_mutex_unlock(&d->lock);
    return q;
}

static void *run(void *arg)
{
    struct desk *d = arg;
    struct desk_request *q;
    while ((q = take(d)))
        answer(d, q);
    return NULL;
}

int desk_new(struct desk **out, const char *endpoint, struct err *e)
{
    struct desk *d = xcalloc(1, sizeof *d);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->asked, NULL);
    int rc = call_new(&d->call, endpoint, e);
    if (rc == 0)
        call_patience(d->call, WAIT_MS);
    if (rc == 0 && (errno = pthread_create(&d->thread, NULL, run, d)) != 0)
        rc = err_errno(e, ASSAY_EIO, "a thread for the page's requests");
    *out = d;
    if (rc != 0) {
        d->stops = 2; /* there is no thread */
        desk_free(out);
    }
    return rc;
}

void desk_stop(struct desk *d)
{
    pthread_mutex_lock(&d->lock);
    int was = d->stops;
    d->stops = was ? was : 1;
    pthread_cond_broadcast(&d->asked);
    pthread_mutex_unlock(&d->lock);
    if (was)
        return;
    call_stop(d->call);
    pthread_join(d->thread, NULL);
}

void desk_free(struct desk **out)
{
    struct desk *d = *out;
    *out = NULL;
    if (!d)
        return;
    desk_stop(d);
    forget(d);
    call_free(&d->call);
    pthread_cond_destroy(&d->asked);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

void desk_ask(struct desk *d, struct desk_request *q)
{
    q->next = NULL;
    q->until_ms = now_mono_ms() + WAIT_MS;
    pthread_mutex_lock(&d->lock);
    int is_full = d->n_waiting >= MOST_WAITING, is_over = d->stops;
    if (!is_full && !is_over) {
        if (d->first)
            d->last->next = q;
        else
            d->first = q;
        d->last = q;
        d->n_waiting++;
        pthread_cond_signal(&d->asked);
    }
    pthread_mutex_unlock(&d->lock);
    if (!is_full && !is_over)
        return;
    err_set(&q->error, ASSAY_ENOTREADY,
        is_over ? "assay-http is shutting down" : "too many pages ask at once");
    q->done(q);
}
