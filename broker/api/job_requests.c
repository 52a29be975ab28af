/* job_requests.c - what clients ask for about a job that is there, and purging (job_requests.h). */
#include "broker/api/job_requests.h"

#include "broker/api/kept.h"
#include "broker/api/replies.h"
#include "broker/api/requests.h"
#include "broker/api/waiters.h"
#include "broker/transaction.h"
#include "schema/clock.h"

#define RETRY_US 3000 /* of a tick */

/* ---- on jobs ---- */

/* Returns 0 and *job, or unknown_job. */
static int find_job(
    struct broker *b, const struct request *q, int64_t *job, struct store_job *j, struct err *e)
{
    int rc;
    *job = q->job;
    if (q->job_key.at) {
        rc = store_find_job(b->store, q->job_key, job, e);
        if (rc == 0)
            return err_field(e, ASSAY_EUNKNOWNJOB, "job", "no job has the key '%.*s'",
                (int)q->job_key.len, (const char *)q->job_key.at);
        if (rc < 0)
            return rc;
    }
    rc = store_get_job(b->store, *job, j, e);
    if (rc == 0)
        return err_field(
            e, ASSAY_EUNKNOWNJOB, "job", "no job has the number %lld", (long long)*job);
    return rc < 0 ? rc : 0;
}

static int on_results(struct broker *b, const struct envelope *env, const struct request *q,
    int64_t job, struct err *e)
{
    struct reply_part *part = NULL;
    struct store_page page = {job, q->after, q->limit};
    int waits = q->wait_ms > 0 && !b->draining;
    int rc = waits ? REPLY_MORE : reply_results(b, env, q->id, page, 0, &part, e);
    reply_part_free(&part); /* a long page is made while it waits */
    if (rc != REPLY_MORE)
        return rc < 0 ? rc : 0;
    rc = waiters_make_room(b, env, e);
    if (rc == 0)
        waiters_add(b, WAIT_RESULTS, env, q, job, now_mono_ms() + q->wait_ms);
    return rc;
}

static int change_job(
    struct broker *b, const struct request *q, const struct store_job *j, struct err *e)
{
    int rc = transaction_begin(b, e);
    if (rc != 0)
        return rc;
    request_touch(b, j->job);
    if (j->cancelled && q->op != OP_CANCEL)
        return err_field(e, ASSAY_ESTATE, "job", "the job is cancelled");
    if (j->state == JOB_DONE)
        return 0;
    if (q->op == OP_CANCEL)
        return store_cancel(b->store, j->job, e);
    if (q->op == OP_RESUME && j->held && !q->accept_mode)
        return err_field(e, ASSAY_ESTATE, "accept_mode",
            "the job is held: %s; expected accept_mode: true to go on", j->reason);
    if (q->op == OP_RESUME && j->held)
        rc = store_accept_mode(b->store, j->job, e);
    if (rc == 0 && q->op == OP_RESUME && j->held)
        rc = kept_look(b, j->job, e);
    return rc == 0 ? store_pause(b->store, j->job, q->op == OP_PAUSE, e) : rc;
}

static int on_change(struct broker *b, const struct envelope *env, const struct request *q,
    const struct store_job *j, struct err *e)
{
    struct store_job after;
    int rc = change_job(b, q, j, e);
    if (rc == 0)
        rc = store_get_job(b->store, j->job, &after, e);
    if (rc != 1)
        return rc;
    struct msg_writer *w = outbox_ok(b->outbox, env, q->id, 2);
    msg_key_int(w, "job", j->job);
    msg_key_str(w, "state", job_state_name(after.state));
    return 0;
}

/* Retries as many rows as a tick may; what an undone tick has retried is retried once more. */
static int retry_some(struct broker *b, struct message *m, const struct store_job *j, struct err *e)
{
    if (m->undone != b->n_undone)
        m->retried = (struct store_retried){0};
    m->undone = b->n_undone;
    int rc = transaction_begin(b, e);
    if (rc != 0)
        return rc;
    request_touch(b, j->job);
    if (j->cancelled)
        return err_field(e, ASSAY_ESTATE, "job", "the job is cancelled");
    rc = store_retry(b->store, j->job, now_mono_us() + RETRY_US, &m->retried, e);
    return rc == 1 ? REQUEST_AGAIN : rc;
}

int job_request_retry(struct broker *b, struct message *m, struct err *e)
{
    const struct request *q = &m->task.prepared.request;
    struct store_job j, after;
    int64_t job;
    int rc = find_job(b, q, &job, &j, e);
    if (rc == 0)
        rc = retry_some(b, m, &j, e);
    if (rc == 0)
        rc = store_get_job(b->store, job, &after, e);
    if (rc != 1)
        return rc;
    struct msg_writer *w = outbox_ok(b->outbox, &m->envelope, q->id, 4);
    msg_key_int(w, "job", job);
    msg_key_str(w, "state", job_state_name(after.state));
    msg_key_int(w, "retried", m->retried.rows);
    msg_key_int(w, "kept", m->retried.kept);
    return 0;
}

int job_request(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e)
{
    struct store_job j;
    int64_t job;
    int rc = find_job(b, q, &job, &j, e);
    if (rc != 0)
        return rc;
    if (q->op == OP_STATUS)
        return reply_status(b, env, q, job, e);
    if (q->op == OP_RESULTS)
        return on_results(b, env, q, job, e);
    if (q->op == OP_FAILED)
        return reply_failed(b, env, q, job, e);
    if (q->op == OP_SAMPLE)
        return reply_sample(b, env, q, &j, e);
    return on_change(b, env, q, &j, e);
}

/* ---- purge ---- */

/* Finds the one job that the request names, if any: it must be over, unless only its age
 * decides. */
static int find_purged(struct broker *b, const struct request *q, int64_t *job, struct err *e)
{
    struct store_job j;
    *job = 0;
    if (q->job < 0 && !q->job_key.at)
        return q->older_than_s >= 0 ? 0
                                    : err_field(e, ASSAY_EBADREQ, "older_than_s",
                                          "expected it, job, or both; found neither");
    int rc = find_job(b, q, job, &j, e);
    if (rc == 0 && q->older_than_s < 0 && j.finished_ms == 0)
        rc = err_field(e, ASSAY_ESTATE, "job",
            "expected a job that is done or cancelled, found one that is %s",
            job_state_name(j.state));
    return rc;
}

/* The job is over, and nobody needs it any more: the broker purges it a while later. */
static int let_go(struct broker *b, const struct envelope *env, const struct request *q,
    int64_t job, struct err *e)
{
    if (job == 0)
        return err_field(e, ASSAY_EBADREQ, "job", "purge with ephemeral needs this field");
    int rc = transaction_begin(b, e);
    if (rc == 0)
        rc = store_set_ephemeral(b->store, job, 1, e);
    if (rc != 0)
        return rc;
    request_touch(b, job);
    struct msg_writer *w = outbox_ok(b->outbox, env, q->id, 3);
    msg_key_int(w, "jobs", 0);
    msg_key_int(w, "rows", 0);
    msg_key_bool(w, "more", 0);
    return 0;
}

int job_request_purge(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e)
{
    struct store_purged purged;
    int64_t job, before_ms = INT64_MAX;
    int rc = find_purged(b, q, &job, e);
    if (rc == 0 && q->ephemeral)
        return let_go(b, env, q, job, e);
    if (q->older_than_s >= 0)
        before_ms = now_wall_ms() - q->older_than_s * 1000;
    if (b->cannot_write == ASSAY_EFULL || store_is_out_of_room(b->store))
        store_free_room_to_purge(b->store);
    if (rc == 0)
        rc = transaction_begin(b, e);
    if (rc != 0)
        return rc;
    if (job != 0)
        request_touch(b, job);
    b->purge_due_ms = 0;
    rc = store_purge(b->store, job, before_ms, &purged, e);
    if (rc != 0)
        return rc;
    struct msg_writer *w = outbox_ok(b->outbox, env, q->id, 3);
    msg_key_int(w, "jobs", purged.jobs);
    msg_key_int(w, "rows", purged.rows);
    msg_key_bool(w, "more", purged.more);
    return 0;
}
