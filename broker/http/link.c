/* link.c - see link.h. */
#include "broker/http/link.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include "broker/dealer.h"
#include "broker/http/link_private.h"
#include "schema/alloc.h"
#include "schema/clock.h"

#define TICK_MS 100
#define SILENT_US 60000000 /* a broker that says nothing for so long is not waited for */
#define RESEND_US ((JOB_SCORE_TIMEOUT_MS + 5000) * 1000ll)

static void wake(struct link *l)
{
    uint64_t one = 1;
    ssize_t n = write(l->wake_fd, &one, sizeof one);
    (void)n; /* full: it is awake already */
}

void link_take_new(struct link *l, struct ticket *t)
{
    t->next = NULL;
    if (t->rows->n >= COALESCE_LARGE_ROWS)
        link_start_job(l, t);
    else
        coalesce_add(&link_lane(l, t->model->name)->waiting, t, now_mono_us());
}

/* Any card asked for from now on will do. */
static void await_card(struct link *l, struct ticket *t)
{
    t->since_us = now_mono_us();
    t->next = l->asking;
    l->asking = t;
    link_want_info(l);
}

static void take_inbox(struct link *l)
{
    uint64_t any;
    ssize_t n = read(l->wake_fd, &any, sizeof any);
    (void)n;
    pthread_mutex_lock(&l->lock);
    struct ticket *t = l->inbox;
    l->inbox = NULL;
    l->inbox_end = &l->inbox;
    pthread_mutex_unlock(&l->lock);
    while (t) {
        struct ticket *next = t->next;
        if (!t->rows)
            await_card(l, t);
        else if (!link_come_back(l, t))
            link_take_new(l, t);
        t = next;
    }
}

static void send_due(struct link *l)
{
    for (struct lane *lane = l->lanes; lane; lane = lane->next)
        while (link_due_us(l, lane) <= now_mono_us())
            link_start_job(l, coalesce_take(&lane->waiting, l->max_rows, l->max_bytes));
}

/* ---- time ---- */

int link_is_over(const struct link *l, struct ticket *t, long long now_us)
{
    if (atomic_load(&t->is_gone))
        err_set(&t->error, ASSAY_EGONE, "the client has left");
    else if (now_us - l->heard_ms * 1000 > SILENT_US)
        err_set(&t->error, ASSAY_ENOTREADY, "the broker does not answer");
    else if (t->deadline_us < now_us)
        err_set(&t->error, ASSAY_ETIMEOUT, "the scores were not ready in time");
    else if (t->rows)
        link_check_card(l, t, &t->error);
    return t->error.code != 0;
}

static void drop_waiting(struct link *l, struct lane *lane, long long now_us)
{
    for (struct ticket *t = lane->waiting.first, *next; t; t = next) {
        next = t->next;
        if (link_is_over(l, t, now_us)) {
            coalesce_remove(&lane->waiting, t);
            link_finish(t, NULL);
        }
    }
}

static void drop_asking(struct link *l, long long now_us)
{
    for (struct ticket **at = &l->asking, *t; (t = *at);) {
        if (now_us - l->heard_ms * 1000 > LINK_SILENT_MS * 1000ll)
            err_set(&t->error, ASSAY_ENOTREADY, "the broker does not answer");
        if (t->error.code == 0 && !link_is_over(l, t, now_us)) {
            at = &t->next;
        } else {
            *at = t->next;
            link_finish(t, NULL);
        }
    }
}

/* Returns 1 when the job is over with it. */
static int drop_sent(struct link *l, struct job *job, long long now_us)
{
    for (uint32_t k = 0; k < job->n_rows; k++) {
        struct ticket *t = job->rows[k].ticket;
        if (t && link_is_over(l, t, now_us)) {
            link_leave_job(l, job, t);
            link_finish(t, NULL);
        }
    }
    if (job->n_tickets > 0)
        return 0;
    link_send(l, "cancel", ID_NONE, job->key);
    link_end_job(l, job);
    return 1;
}

static void pass_time(struct link *l, int looks_for_gone)
{
    long long now_us = now_mono_us(), now_ms = now_us / 1000;
    for (struct lane *lane = looks_for_gone ? l->lanes : NULL; lane; lane = lane->next)
        drop_waiting(l, lane, now_us);
    if (looks_for_gone) {
        drop_asking(l, now_us);
        link_expire_left(l, now_us);
    }
    for (struct job *job = l->jobs, *next; job; job = next) {
        next = job->next;
        if (looks_for_gone && drop_sent(l, job, now_us))
            continue;
        if (job->sent_us == 0 || now_us - job->sent_us > RESEND_US)
            link_send_job(l, job);
    }
    if (atomic_exchange(&l->wants, 0))
        link_want_info(l);
    if (now_ms >= l->info_due_ms)
        link_send_info(l);
}

static void count_requests(struct link *l)
{
    pthread_mutex_lock(&l->lock);
    l->counts.n_waiting = l->counts.n_running = 0;
    for (struct lane *lane = l->lanes; lane; lane = lane->next) {
        l->counts.n_waiting += lane->n_waiting = lane->waiting.n;
        lane->n_running = 0;
    }
    for (struct job *job = l->jobs; job; job = job->next)
        job->lane->n_running += job->n_tickets;
    link_count_left(l);
    for (const struct lane *lane = l->lanes; lane; lane = lane->next)
        l->counts.n_running += lane->n_running;
    pthread_mutex_unlock(&l->lock);
}

static void wait_for_more(struct link *l)
{
    long long due = FOREVER, now_us = now_mono_us();
    for (struct lane *lane = l->lanes; lane; lane = lane->next) {
        long long of_lane = link_due_us(l, lane);
        due = of_lane < due ? of_lane : due;
    }
    due -= now_us;
    long ms = due > TICK_MS * 1000 ? TICK_MS : due <= 0 ? 0 : (long)((due + 999) / 1000);
    zmq_pollitem_t items[] = {
        {.socket = l->socket, .events = ZMQ_POLLIN}, {.fd = l->wake_fd, .events = ZMQ_POLLIN}};
    zmq_poll(items, 2, ms);
}

static int is_stopped(struct link *l)
{
    pthread_mutex_lock(&l->lock);
    int stops = l->stops;
    pthread_mutex_unlock(&l->lock);
    return stops;
}

static void end_all(struct link *l)
{
    struct err e = {0};
    struct ticket *t;
    err_set(&e, ASSAY_ENOTREADY, "assay-http is shutting down");
    pthread_mutex_lock(&l->lock);
    l->is_over = 1;
    pthread_mutex_unlock(&l->lock);
    take_inbox(l);
    for (struct lane *lane = l->lanes; lane; lane = lane->next)
        while ((t = lane->waiting.first)) {
            coalesce_remove(&lane->waiting, t);
            link_finish(t, &e);
        }
    while (l->jobs) {
        link_send(l, "cancel", ID_NONE, l->jobs->key);
        link_fail_job(l, l->jobs, &e);
    }
    link_end_left(l, &e);
    while ((t = l->asking)) {
        l->asking = t->next;
        link_finish(t, &e);
    }
}

static void *run(void *arg)
{
    struct link *l = arg;
    long long looked_ms = 0;
    while (!is_stopped(l)) {
        wait_for_more(l);
        link_take_replies(l);
        take_inbox(l);
        send_due(l);
        int looks = atomic_exchange(&l->looks, 0) || now_mono_ms() - looked_ms >= TICK_MS;
        looked_ms = looks ? now_mono_ms() : looked_ms;
        pass_time(l, looks);
        count_requests(l);
    }
    end_all(l);
    return NULL;
}

/* ---- from other threads ---- */

static int connect_broker(struct link *l, struct err *e)
{
    struct dealer_options options = {.endpoint = l->options.endpoint,
        .shown = l->options.endpoint,
        .linger_ms = 500,
        .sends_any = 1};
    l->zmq = zmq_ctx_new();
    return dealer_connect(&l->socket, l->zmq, &options, e);
}

static void close_all(struct link *l)
{
    if (l->socket)
        zmq_close(l->socket);
    if (l->zmq)
        zmq_ctx_term(l->zmq);
    if (l->wake_fd >= 0)
        close(l->wake_fd);
    card_release(&l->card);
    for (struct lane *lane = l->lanes, *next; lane; lane = next) {
        next = lane->next;
        free(lane->name);
        free(lane);
    }
    pthread_mutex_destroy(&l->lock);
    free(l);
}

int link_new(struct link **out, const struct link_options *options, struct err *e)
{
    struct link *l = xcalloc(1, sizeof *l);
    unsigned char random[8];
    l->options = *options;
    l->inbox_end = &l->inbox;
    l->next_id = ID_FIRST_JOB;
    l->max_rows = 1;
    pthread_mutex_init(&l->lock, NULL);
    randombytes_buf(random, sizeof random);
    sodium_bin2hex(l->run, sizeof l->run, random, sizeof random);
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = l->wake_fd < 0 ? err_errno(e, ASSAY_EIO, "eventfd") : connect_broker(l, e);
    if (rc == 0 && (errno = pthread_create(&l->thread, NULL, run, l)) != 0)
        rc = err_errno(e, ASSAY_EIO, "a thread for the broker's socket");
    *out = rc == 0 ? l : NULL;
    if (rc != 0)
        close_all(l);
    return rc;
}

void link_stop(struct link *l)
{
    pthread_mutex_lock(&l->lock);
    int stops = l->stops;
    l->stops = 1;
    pthread_mutex_unlock(&l->lock);
    wake(l);
    if (!stops)
        pthread_join(l->thread, NULL);
}

void link_free(struct link **out)
{
    struct link *l = *out;
    *out = NULL;
    if (!l)
        return;
    link_stop(l);
    close_all(l);
}

void link_submit(struct link *l, struct ticket *t)
{
    t->next = NULL;
    pthread_mutex_lock(&l->lock);
    int is_over = l->is_over;
    if (!is_over) {
        *l->inbox_end = t;
        l->inbox_end = &t->next;
    }
    pthread_mutex_unlock(&l->lock);
    if (!is_over)
        return wake(l);
    err_set(&t->error, ASSAY_ENOTREADY, "assay-http is shutting down");
    t->done(t);
}

void link_await_card(struct link *l, struct ticket *t)
{
    t->rows = NULL;
    link_submit(l, t);
}

void link_abandon(struct link *l, struct ticket *t)
{
    atomic_store(&t->is_gone, 1);
    atomic_store(&l->looks, 1);
    wake(l);
}

struct card *link_card(struct link *l)
{
    pthread_mutex_lock(&l->lock);
    int is_heard = l->card && now_mono_ms() - l->heard_ms < LINK_SILENT_MS;
    struct card *card = is_heard ? card_hold(l->card) : NULL;
    pthread_mutex_unlock(&l->lock);
    return card;
}

struct card *link_card_since(struct link *l, long long us)
{
    pthread_mutex_lock(&l->lock);
    int is_newer = l->asked_us >= us;
    pthread_mutex_unlock(&l->lock);
    if (is_newer)
        return link_card(l);
    atomic_store(&l->wants, 1);
    wake(l);
    return NULL;
}

void link_count_model(struct link *l, const char *name, uint32_t *n_waiting, uint32_t *n_running)
{
    *n_waiting = *n_running = 0;
    pthread_mutex_lock(&l->lock);
    for (const struct lane *lane = l->lanes; lane; lane = lane->next)
        if (strcmp(lane->name, name) == 0) {
            *n_waiting = lane->n_waiting;
            *n_running = lane->n_running;
        }
    pthread_mutex_unlock(&l->lock);
}

void link_count(struct link *l, struct link_counts *counts)
{
    pthread_mutex_lock(&l->lock);
    *counts = l->counts;
    pthread_mutex_unlock(&l->lock);
}
