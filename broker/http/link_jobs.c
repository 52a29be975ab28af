/* link_jobs.c - jobs that are with the broker, and the messages about them (link_private.h). */
#include "broker/http/link_private.h"

#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/request.h"

#define INFO_MS 1000
#define INFO_APART_MS 50

static int send_bytes(struct link *l, const struct msg_writer *w)
{
    return zmq_send(l->socket, w->buffer.data, w->buffer.size, ZMQ_DONTWAIT) < 0 ? -1 : 0;
}

/* An operation with at most one field, `job`, whose answer is not waited for. */
void link_send(struct link *l, const char *op, int64_t id, const char *key)
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

void link_send_info(struct link *l)
{
    l->info_sent_ms = now_mono_ms();
    l->info_due_ms = l->info_sent_ms + INFO_MS;
    link_send(l, "info", -now_mono_us(), NULL);
}

void link_want_info(struct link *l)
{
    if (l->info_due_ms > l->info_sent_ms + INFO_APART_MS)
        l->info_due_ms = l->info_sent_ms + INFO_APART_MS;
}

void link_send_job(struct link *l, struct job *job)
{
    job->sent_us = send_bytes(l, &job->message) == 0 ? now_mono_us() : 0;
    if (job->began_us == 0)
        job->began_us = job->sent_us;
}

struct lane *link_lane(struct link *l, const char *name)
{
    struct lane *lane = l->lanes;
    size_t size = strlen(name) + 1;
    while (lane && strcmp(lane->name, name) != 0)
        lane = lane->next;
    if (lane)
        return lane;
    const struct card_model *m = card_model_named(l->card, name);
    lane = xcalloc(1, sizeof *lane);
    lane->name = memcpy(xcalloc(size, 1), name, size);
    lane->load.n_groups = m ? m->n_groups : 1;
    coalesce_init(&lane->waiting);
    pthread_mutex_lock(&l->lock);
    lane->next = l->lanes;
    l->lanes = lane;
    pthread_mutex_unlock(&l->lock);
    return lane;
}

struct job *link_start_job(struct link *l, struct ticket *list)
{
    char key[JOB_KEY_BYTES];
    int64_t id = l->next_id++;
    job_key_write(key, l->run, id);
    struct job *job = job_new(list, id, key);
    job->lane = link_lane(l, list->model->name);
    job->next = l->jobs;
    l->jobs = job;
    job->lane->load.n_sent += job->takes_place;
    link_send_job(l, job);
    pthread_mutex_lock(&l->lock);
    l->counts.n_jobs++;
    l->counts.n_rows += job->n_rows;
    pthread_mutex_unlock(&l->lock);
    return job;
}

/* When the job's turn came, as far as that is known. */
static long long begin_of(const struct job *job)
{
    long long last_us = job->lane->load.last_end_us;
    return job->began_us > last_us ? job->began_us : last_us;
}

/* Notes that a job has ended, and how long it took where it was computed. */
static void note_end(const struct job *job)
{
    struct lane *lane = job->lane;
    long long now_us = now_mono_us();
    if (!job->takes_place)
        return;
    lane->load.n_sent--;
    if (job->is_done) {
        lane->done_us = lane->done_us / 2 + (double)(now_us - begin_of(job));
        lane->done_bytes = lane->done_bytes / 2 + (double)job->message.buffer.size;
    }
    lane->load.last_end_us = now_us;
    lane->load.last_was_shared = job->is_shared;
}

/* Forgets the job, which has no tickets any more; the broker purges it. */
void link_end_job(struct link *l, struct job *job)
{
    struct job **at = &l->jobs;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    note_end(job);
    link_send(l, "purge", ID_NONE, job->key);
    job_free(&job);
}

/* ---- tickets ---- */

void link_finish(struct ticket *t, const struct err *e)
{
    if (e)
        t->error = *e;
    t->done(t);
}

int link_check_card(const struct link *l, const struct ticket *t, struct err *e)
{
    const struct card_model *now = card_model_named(l->card, t->model->name);
    if (t->card->started_ms == l->card->started_ms)
        return 0;
    if ((!now || card_is_alike(t->model, now)) && link_check_all(l, t, e) == 0)
        return 0;
    return err_set(e, ASSAY_ENOTREADY,
        "the broker was started anew with another checkpoint or mode: send the request again");
}

int link_check_all(const struct link *l, const struct ticket *t, struct err *e)
{
    const struct card_choice own = {t->model, t->adapter}, *other = NULL;
    if (t->adapter && !card_choice_stands(&own, l->card))
        other = &own;
    for (int k = 1; !other && k < t->n_all; k++)
        if (!card_choice_stands(&t->all[k], l->card))
            other = &t->all[k];
    if (!other)
        return 0;
    return err_set(e, ASSAY_ENOTREADY,
        "the broker has another checkpoint, mode or adapter of `%.100s` by now: send the request "
        "again",
        other->model->name);
}

void link_fail_job(struct link *l, struct job *job, const struct err *e)
{
    struct ticket *t;
    while ((t = job_pop(job)))
        link_finish(t, e);
    link_end_job(l, job);
}

/* The broker refused what several requests had sent together: each is sent by itself, so that only
 * the one to blame is refused. */
void link_split_job(struct link *l, struct job *job)
{
    struct ticket *t;
    struct err gone = {.code = ASSAY_EGONE};
    while ((t = job_pop(job))) {
        if (link_is_left(t)) { /* nobody waits, and its rows cannot be sent again */
            link_finish(t, &gone);
            continue;
        }
        t->next = NULL;
        t->is_alone = 1;
        struct job *own = link_start_job(l, t);
        own->lane->load.n_sent -= own->takes_place;
        own->takes_place = 0;
    }
    link_end_job(l, job);
}

/* What a job of so many bytes should take; 0: not known. */
static long long time_of(const struct lane *lane, size_t n_bytes)
{
    double us = lane->done_bytes > 0 ? lane->done_us / lane->done_bytes * (double)n_bytes : 0;
    return us < 1e9 ? (long long)us : 1000000000ll;
}

long long link_due_us(struct link *l, struct lane *lane)
{
    long long soonest = FOREVER;
    for (const struct job *job = l->jobs; job; job = job->next) {
        long long end = begin_of(job) + time_of(lane, job->message.buffer.size);
        if (job->lane == lane && job->takes_place && end < soonest)
            soonest = end;
    }
    lane->load.soonest_end_us = lane->done_bytes > 0 ? soonest : 0;
    lane->load.takes_us = time_of(lane, lane->waiting.n_bytes);
    return coalesce_due(&lane->waiting, &lane->load);
}
