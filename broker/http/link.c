/* link.c - see link.h. */
#include "broker/http/link.h"

#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include "broker/http/jobs.h"
#include "broker/http/pack.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"
#include "schema/request.h"

#define TICK_MS 100
#define INFO_MS 1000
#define RESEND_US ((JOB_SCORE_TIMEOUT_MS + 5000) * 1000ll)
enum { ID_NONE, ID_INFO, ID_FIRST_JOB };

struct link {
    struct link_options options;
    pthread_t thread;
    int wake_fd;
    /* Shared, under the lock. */
    pthread_mutex_t lock;
    struct ticket *inbox, **inbox_end;
    struct card *card;
    long long heard_ms;
    struct link_counts counts;
    int stops, is_over; /* is_over: nobody takes the inbox any more */
    atomic_int looks;   /* a ticket's client has left */
    /* The thread's own. */
    void *zmq, *socket;
    struct coalesce waiting;
    struct job *jobs;
    int64_t next_id, epoch;
    struct coalesce_load load;
    double us_per_byte; /* of jobs, lately; 0: not known */
    uint32_t max_rows;
    size_t max_bytes;
    long long info_due_ms;
    char run[20]; /* random, in each key */
};

static void wake(struct link *l)
{
    uint64_t one = 1;
    ssize_t n = write(l->wake_fd, &one, sizeof one);
    (void)n; /* full: it is awake already */
}

/* ---- messages ---- */

static int send_bytes(struct link *l, const struct msg_writer *w)
{
    return zmq_send(l->socket, w->buffer.data, w->buffer.size, ZMQ_DONTWAIT) < 0 ? -1 : 0;
}

/* An operation with at most one field, `job`, whose answer is not waited for. */
static void send_small(struct link *l, const char *op, int id, const char *key)
{
    struct msg_writer w;
    msg_writer_init(&w);
    msg_map(&w, 3 + (key != NULL));
    msg_key_int(&w, "v", REQUEST_VERSION);
    msg_key_str(&w, "op", op);
    msg_key_int(&w, "id", id);
    if (key)
        msg_key_str(&w, "job", key);
    send_bytes(l, &w);
    msg_writer_release(&w);
}

static void send_job(struct link *l, struct job *job)
{
    job->sent_us = send_bytes(l, &job->message) == 0 ? now_mono_us() : 0;
    if (job->began_us == 0)
        job->began_us = job->sent_us;
}

static struct job *start_job(struct link *l, struct ticket *list)
{
    char key[JOB_KEY_BYTES];
    int64_t id = l->next_id++;
    snprintf(key, sizeof key, "http-%s-%lld", l->run, (long long)id);
    struct job *job = job_new(list, id, key);
    job->next = l->jobs;
    l->jobs = job;
    l->load.n_sent += job->takes_place;
    send_job(l, job);
    pthread_mutex_lock(&l->lock);
    l->counts.n_jobs++;
    l->counts.n_rows += job->n_rows;
    pthread_mutex_unlock(&l->lock);
    return job;
}

/* When the job's turn came, as far as that is known. */
static long long begin_of(const struct link *l, const struct job *job)
{
    return job->began_us > l->load.last_end_us ? job->began_us : l->load.last_end_us;
}

/* Notes that a job has ended, and how long it took. */
static void note_end(struct link *l, const struct job *job)
{
    long long now_us = now_mono_us();
    double rate = (double)(now_us - begin_of(l, job)) / (double)job->message.buffer.size;
    if (!job->takes_place)
        return;
    l->load.n_sent--;
    l->us_per_byte = l->us_per_byte > 0 ? (l->us_per_byte + rate) / 2 : rate;
    l->load.last_end_us = now_us;
    l->load.last_was_shared = job->is_shared;
}

/* Forgets the job, which has no tickets any more; the broker purges it. */
static void end_job(struct link *l, struct job *job)
{
    struct job **at = &l->jobs;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    note_end(l, job);
    send_small(l, "purge", ID_NONE, job->key);
    job_free(&job);
}

/* ---- tickets ---- */

static void finish(struct ticket *t, const struct err *e)
{
    if (e)
        t->error = *e;
    t->done(t);
}

static void fail_job(struct link *l, struct job *job, const struct err *e)
{
    struct ticket *t;
    while ((t = job_pop(job)))
        finish(t, e);
    end_job(l, job);
}

/* The broker refused what several requests had sent together: each is sent by itself, so that only
 * the one to blame is refused. */
static void split_job(struct link *l, struct job *job)
{
    struct ticket *t;
    while ((t = job_pop(job))) {
        t->next = NULL;
        t->is_alone = 1;
        struct job *own = start_job(l, t);
        l->load.n_sent -= own->takes_place;
        own->takes_place = 0;
    }
    end_job(l, job);
}

static void take_ticket(struct link *l, struct ticket *t)
{
    t->next = NULL;
    if (t->rows->n >= COALESCE_LARGE_ROWS)
        start_job(l, t);
    else
        coalesce_add(&l->waiting, t, now_mono_us());
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
        take_ticket(l, t);
        t = next;
    }
}

static long long due_us(struct link *l)
{
    long long soonest = FOREVER;
    for (const struct job *job = l->jobs; job; job = job->next) {
        double us = l->us_per_byte * (double)job->message.buffer.size;
        long long end = begin_of(l, job) + (us < 1e9 ? (long long)us : 1000000000ll);
        if (job->takes_place && end < soonest)
            soonest = end;
    }
    l->load.soonest_end_us = l->us_per_byte > 0 ? soonest : 0;
    return coalesce_due(&l->waiting, &l->load);
}

static void send_due(struct link *l)
{
    while (due_us(l) <= now_mono_us())
        start_job(l, coalesce_take(&l->waiting, l->max_rows, l->max_bytes));
}

/* ---- replies ---- */

static void take_card(struct link *l, json_t *info)
{
    struct card *card, *old;
    struct err e = {0};
    if (card_new(&card, info, l->options.names, l->options.n_names, &e) != 0) {
        log_warn("event=info_refused reason=\"%s\"", e.msg);
        return;
    }
    l->load.n_groups = card->n_groups;
    l->max_rows = card->max_rows > 0 ? (uint32_t)card->max_rows : 1;
    l->max_bytes = (size_t)card->max_message_bytes / 2;
    int restarted = l->epoch != 0 && l->epoch != card->epoch;
    l->epoch = card->epoch;
    pthread_mutex_lock(&l->lock);
    old = l->card;
    l->card = card;
    l->heard_ms = now_mono_ms();
    pthread_mutex_unlock(&l->lock);
    card_release(&old);
    for (struct job *job = l->jobs; restarted && job; job = job->next)
        send_job(l, job);
}

static void note_full(struct link *l, const struct err *e)
{
    pthread_mutex_lock(&l->lock);
    l->counts.full_until_ms = now_mono_ms() + e->retry_after_ms + 1000;
    pthread_mutex_unlock(&l->lock);
}

static void read_refusal(const json_t *reply, struct err *e)
{
    const json_t *err = json_object_get(reply, "err");
    const char *code = json_string_value(json_object_get(err, "code"));
    const char *message = json_string_value(json_object_get(err, "message"));
    const char *field = json_string_value(json_object_get(err, "field"));
    err_field(e, results_code(code ? code : "", code ? strlen(code) : 0), field ? field : "", "%s",
        message ? message : "the broker gave no reason");
    e->retry_after_ms = (uint32_t)json_integer_value(json_object_get(err, "retry_after_ms"));
}

static void take_refusal(struct link *l, struct job *job, const struct err *e)
{
    int is_form =
        e->code == ASSAY_EBADREQ || e->code == ASSAY_EBADMSG || e->code == ASSAY_ETOOLARGE;
    if (e->code == ASSAY_ETIMEOUT) {
        send_job(l, job);
    } else if (is_form && job->n_tickets > 1) {
        split_job(l, job);
    } else {
        if (e->code == ASSAY_EQUEUEFULL)
            note_full(l, e);
        send_small(l, "cancel", ID_NONE, job->key); /* where it is there, it waits: held */
        fail_job(l, job, e);
    }
}

static void take_results(struct link *l, struct job *job, int64_t number, struct slice rows)
{
    struct err e = {0};
    struct ticket *t;
    int rc = job_give(job, rows, &e);
    while ((t = job_pop(job))) {
        snprintf(t->job, sizeof t->job, "%lld", (long long)number);
        finish(t, rc == 0 ? NULL : &e);
    }
    end_job(l, job);
}

struct reply {
    int64_t id, job;
    int is_ok;
    struct slice rows;
};

/* Reads what is told apart first; all else is read by what it is. */
static int read_reply(struct msg_reader *r, struct reply *reply, struct err *e)
{
    struct slice key, value;
    uint32_t n;
    *reply = (struct reply){0};
    int rc = msg_read_map(r, "", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = msg_read_str(r, "", &key, e);
        if (rc == 0 && slice_is(key, "id") && msg_peek(r) == MSG_INT)
            rc = msg_read_int(r, "", INT64_MIN, INT64_MAX, &reply->id, e);
        else if (rc == 0 && slice_is(key, "job") && msg_peek(r) == MSG_INT)
            rc = msg_read_int(r, "", INT64_MIN, INT64_MAX, &reply->job, e);
        else if (rc == 0 && slice_is(key, "ok"))
            rc = msg_read_bool(r, "", &reply->is_ok, e);
        else if (rc == 0)
            rc = msg_read_raw(r, "", MSG_MAX_DEPTH, &value, e);
        if (rc == 0 && slice_is(key, "rows"))
            reply->rows = value;
    }
    return rc;
}

static void take_reply(struct link *l, struct slice bytes)
{
    struct err e = {0};
    struct msg_reader r;
    struct reply reply;
    json_t *whole = NULL;
    msg_reader_init(&r, bytes.at, bytes.len);
    if (read_reply(&r, &reply, &e) != 0 || reply.id == ID_NONE)
        return;
    struct job *job = l->jobs;
    while (job && job->id != reply.id)
        job = job->next;
    if (job && reply.is_ok)
        return take_results(l, job, reply.job, reply.rows);
    msg_reader_init(&r, bytes.at, bytes.len);
    if ((!job && reply.id != ID_INFO) || pack_read(&r, &whole, &e) != 0)
        return;
    if (reply.id == ID_INFO && reply.is_ok)
        return take_card(l, whole);
    read_refusal(whole, &e);
    json_decref(whole);
    if (job)
        take_refusal(l, job, &e);
}

static void take_replies(struct link *l)
{
    zmq_msg_t message;
    for (;;) {
        zmq_msg_init(&message);
        int n = zmq_msg_recv(&message, l->socket, ZMQ_DONTWAIT);
        if (n >= 0)
            take_reply(l, (struct slice){zmq_msg_data(&message), zmq_msg_size(&message)});
        zmq_msg_close(&message);
        if (n < 0)
            return;
    }
}

/* ---- time ---- */

static int is_over(struct ticket *t, long long now_us)
{
    if (atomic_load(&t->is_gone))
        err_set(&t->error, ASSAY_EGONE, "the client has left");
    else if (t->deadline_us < now_us)
        err_set(&t->error, ASSAY_ETIMEOUT, "the scores were not ready in time");
    return t->error.code != 0;
}

static void drop_waiting(struct link *l, long long now_us)
{
    for (struct ticket *t = l->waiting.first, *next; t; t = next) {
        next = t->next;
        if (is_over(t, now_us)) {
            coalesce_remove(&l->waiting, t);
            finish(t, NULL);
        }
    }
}

static void drop_sent(struct link *l, struct job *job, long long now_us)
{
    for (uint32_t k = 0; k < job->n_rows; k++) {
        struct ticket *t = job->rows[k].ticket;
        if (t && is_over(t, now_us)) {
            job_leave(job, t);
            finish(t, NULL);
        }
    }
    if (job->n_tickets > 0)
        return;
    send_small(l, "cancel", ID_NONE, job->key);
    end_job(l, job);
}

static void pass_time(struct link *l, int looks_for_gone)
{
    long long now_us = now_mono_us(), now_ms = now_us / 1000;
    if (looks_for_gone)
        drop_waiting(l, now_us);
    for (struct job *job = l->jobs, *next; job; job = next) {
        next = job->next;
        if (job->sent_us == 0 || now_us - job->sent_us > RESEND_US)
            send_job(l, job);
        if (looks_for_gone)
            drop_sent(l, job, now_us);
    }
    if (now_ms >= l->info_due_ms) {
        send_small(l, "info", ID_INFO, NULL);
        l->info_due_ms = now_ms + INFO_MS;
    }
}

static void count_requests(struct link *l)
{
    uint32_t n = 0;
    for (struct job *job = l->jobs; job; job = job->next)
        n += job->n_tickets;
    pthread_mutex_lock(&l->lock);
    l->counts.n_waiting = l->waiting.n;
    l->counts.n_running = n;
    pthread_mutex_unlock(&l->lock);
}

static void wait_for_more(struct link *l)
{
    long long due = due_us(l) - now_mono_us();
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
    while ((t = l->waiting.first)) {
        coalesce_remove(&l->waiting, t);
        finish(t, &e);
    }
    while (l->jobs) {
        send_small(l, "cancel", ID_NONE, l->jobs->key);
        fail_job(l, l->jobs, &e);
    }
}

static void *run(void *arg)
{
    struct link *l = arg;
    long long looked_ms = 0;
    while (!is_stopped(l)) {
        wait_for_more(l);
        take_replies(l);
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
    int linger = 500, none = 0, is_ipv6 = strncmp(l->options.endpoint, "tcp://[", 7) == 0;
    l->zmq = zmq_ctx_new();
    l->socket = l->zmq ? zmq_socket(l->zmq, ZMQ_DEALER) : NULL;
    if (!l->socket || zmq_setsockopt(l->socket, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
        zmq_setsockopt(l->socket, ZMQ_SNDHWM, &none, sizeof none) != 0 ||
        zmq_setsockopt(l->socket, ZMQ_IPV6, &is_ipv6, sizeof is_ipv6) != 0 ||
        zmq_connect(l->socket, l->options.endpoint) != 0)
        return err_set(e, ASSAY_EIO, "cannot connect to '%s': %s", l->options.endpoint,
            zmq_strerror(zmq_errno()));
    return 0;
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
    l->load.n_groups = 1;
    l->max_rows = 1;
    coalesce_init(&l->waiting);
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

void link_count(struct link *l, struct link_counts *counts)
{
    pthread_mutex_lock(&l->lock);
    *counts = l->counts;
    pthread_mutex_unlock(&l->lock);
}
