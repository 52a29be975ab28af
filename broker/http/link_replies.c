/* link_replies.c - what the broker says (link_private.h). */
#include "broker/http/link_private.h"

#include <stdio.h>
#include <string.h>
#include <zmq.h>

#include "broker/http/reply.h"
#include "schema/clock.h"
#include "schema/log.h"
#include "schema/msg_json.h"
#include "schema/request.h"

#define STALE_MS 3600000 /* a job that has been over for so long is nobody's */
#define STALE_EVERY_MS 600000
#define STALE_PAGE 1000

/* What was asked of a broker that is no more is asked of the one that took its place, unless that
 * has another checkpoint. */
static void send_again(struct link *l)
{
    for (struct job *job = l->jobs; job; job = job->next)
        job->sent_us = 0;
    atomic_store(&l->looks, 1);
}

static void count_groups(struct link *l)
{
    for (struct lane *lane = l->lanes; lane; lane = lane->next) {
        const struct card_model *m = card_model_named(l->card, lane->name);
        lane->load.n_groups = m ? m->n_groups : 1;
    }
}

/* Those who asked for a newer card before this one was asked for have it. */
static void end_asking(struct link *l)
{
    for (struct ticket **at = &l->asking, *t; (t = *at);)
        if (t->since_us > l->asked_us) {
            at = &t->next;
        } else {
            *at = t->next;
            link_finish(t, NULL);
        }
}

static void take_card(struct link *l, json_t *info, long long asked_us)
{
    struct card *card, *old;
    struct err e = {0};
    if (card_new(&card, info, l->options.names, l->options.n_names, &e) != 0) {
        log_warn("event=info_refused reason=\"%s\"", e.msg);
        return;
    }
    l->max_rows = card->max_rows > 0 ? (uint32_t)card->max_rows : 1;
    l->max_bytes = (size_t)card->max_message_bytes / 2;
    int restarted = l->card && l->card->started_ms != card->started_ms;
    pthread_mutex_lock(&l->lock);
    old = l->card;
    l->card = card;
    l->heard_ms = now_mono_ms();
    l->asked_us = asked_us;
    pthread_mutex_unlock(&l->lock);
    card_release(&old);
    count_groups(l);
    link_check_left(l);
    end_asking(l);
    for (struct job *job = l->jobs; job; job = job->next)
        if (job->waits_for_card)
            job->sent_us = 0;
    if (restarted)
        send_again(l);
    if (restarted || now_mono_ms() >= l->stale_due_ms) {
        l->stale_before_ms = json_integer_value(json_object_get(card->info, "now_ms")) - STALE_MS;
        l->stale_due_ms = now_mono_ms() + STALE_EVERY_MS;
        link_ask_stale(l, 0);
    }
}

/* ---- jobs that nobody waits for ---- */

void link_ask_stale(struct link *l, int64_t after)
{
    struct msg_writer w;
    msg_writer_init(&w);
    msg_map(&w, 5);
    msg_key_int(&w, "v", REQUEST_VERSION);
    msg_key_str(&w, "op", "jobs");
    msg_key_int(&w, "id", ID_STALE);
    msg_key_int(&w, "after", after);
    msg_key_int(&w, "limit", STALE_PAGE);
    zmq_send(l->socket, w.buffer.data, w.buffer.size, ZMQ_DONTWAIT);
    msg_writer_release(&w);
}

/* A process that was killed leaves jobs behind: those that have long been over are purged. */
static void take_stale(struct link *l, const json_t *reply)
{
    const json_t *jobs = json_object_get(reply, "jobs");
    json_t *job;
    size_t k;
    json_array_foreach(jobs, k, job)
    {
        const char *key = json_string_value(json_object_get(job, "key"));
        int64_t over_ms = json_integer_value(json_object_get(job, "finished_ms"));
        if (key && job_key_is(key) && over_ms > 0 && over_ms < l->stale_before_ms)
            link_send(l, "purge", ID_NONE, key);
    }
    if (json_array_size(jobs) > 0)
        link_ask_stale(l, json_integer_value(json_object_get(reply, "next")));
}

/* ---- answers to jobs ---- */

static void note_full(struct link *l, const struct err *e)
{
    pthread_mutex_lock(&l->lock);
    l->counts.full_until_ms = now_mono_ms() + e->retry_after_ms + 1000;
    pthread_mutex_unlock(&l->lock);
}

static void take_refusal(struct link *l, struct job *job, const struct err *e)
{
    int is_form =
        e->code == ASSAY_EBADREQ || e->code == ASSAY_EBADMSG || e->code == ASSAY_ETOOLARGE;
    if (e->code == ASSAY_ETIMEOUT) {
        link_send_job(l, job);
    } else if (e->code == ASSAY_ENOTREADY) {
        return; /* it is shutting down: what it has lives on, and is asked for when it is back */
    } else if (is_form && job->n_tickets > 1) {
        link_split_job(l, job);
    } else {
        if (e->code == ASSAY_EQUEUEFULL)
            note_full(l, e);
        link_send(l, "cancel", ID_NONE, job->key); /* where it is there, it waits: held */
        link_fail_job(l, job, e);
    }
}

/* Are these the scores that the ticket's request asked for? Of an ensemble's other models, and of
 * adapters, a reply says nothing: they are those of a card that came after it. */
static int check_made(
    const struct link *l, const struct ticket *t, const struct reply *reply, struct err *e)
{
    if (slice_is(reply->checkpoint, t->model->digest) && slice_is(reply->mode, t->model->mode))
        return link_check_all(l, t, e);
    return err_set(e, ASSAY_ENOTREADY,
        "the broker was started anew with another checkpoint or mode of `%.100s`, or has loaded "
        "one: send the request again",
        t->model->name);
}

static void give_results(struct link *l, struct job *job, const struct reply *reply)
{
    struct err e = {0}, other = {0};
    struct ticket *t;
    int rc = job_give(job, reply->rows, &e);
    job->is_done = 1;
    while ((t = job_pop(job))) {
        snprintf(t->job, sizeof t->job, "%lld", (long long)reply->job);
        link_finish(t, rc != 0 ? &e : check_made(l, t, reply, &other) != 0 ? &other : NULL);
    }
    link_end_job(l, job);
}

/* Must a card come before the results are given? */
static int needs_card(const struct link *l, const struct job *job, const struct reply *reply)
{
    struct err e;
    int n = 0;
    for (uint32_t k = 0; k < job->n_rows; k++) {
        const struct ticket *t = job->rows[k].ticket;
        n += t && (t->n_all > 0 || t->adapter || check_made(l, t, reply, &e) != 0);
    }
    return n > 0;
}

/* Where a request is to be refused, a card comes first that says what the broker has now: then the
 * client may send it again at once. Then the job is asked for its results again. */
static void take_results(struct link *l, struct job *job, const struct reply *reply)
{
    if (job->waits_for_card || !needs_card(l, job, reply))
        return give_results(l, job, reply);
    job->waits_for_card = 1;
    link_send_info(l);
}

static void take_reply(struct link *l, struct slice bytes)
{
    struct err e = {0};
    struct msg_reader r;
    struct reply reply;
    json_t *whole = NULL;
    if (reply_read(bytes, &reply, &e) != 0 || reply.id == ID_NONE)
        return;
    struct job *job = l->jobs;
    while (job && job->id != reply.id)
        job = job->next;
    if (job && reply.is_ok)
        return take_results(l, job, &reply);
    msg_reader_init(&r, bytes.at, bytes.len);
    if ((!job && reply.id >= ID_FIRST_JOB) || msg_read_json(&r, &whole, &e) != 0)
        return;
    if (reply.id < 0 && reply.is_ok)
        return take_card(l, whole, -reply.id);
    if (reply.id == ID_STALE && reply.is_ok)
        take_stale(l, whole);
    results_refusal(bytes, &e);
    json_decref(whole);
    if (job)
        take_refusal(l, job, &e);
}

void link_take_replies(struct link *l)
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
