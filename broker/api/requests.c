/* requests.c - handles what clients ask for, op by op, and refuses what the queue or the disk has
 * no room for (check_room). connections.c bounds the memory of messages that were not taken yet.
 *
 * A refused request changes nothing: all that can refuse it is checked before the first write.
 * After that only the database can fail, and then the whole tick is undone. */
#include "broker/api/requests.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/adapters.h"
#include "broker/api/ahead.h"
#include "broker/api/connections.h"
#include "broker/api/job_requests.h"
#include "broker/api/kept.h"
#include "broker/api/replies.h"
#include "broker/api/session_requests.h"
#include "broker/api/waiters.h"
#include "broker/reload.h"
#include "broker/transaction.h"
#include "schema/clock.h"

#define SCORE_PRIORITY 50
#define SCORE_TIMEOUT_MS 60000
#define MOST_FAILED 500 /* rows of a chunk that are born failed; their results take some 3 ms */

void request_touch(struct broker *b, int64_t job)
{
    assert(b->n_touched < BROKER_TOUCHED);
    b->touched[b->n_touched++] = job;
}

int request_is_slow(const struct prepared *p)
{
    return store_rows_failed(p->rows) > MOST_FAILED;
}

/* ---- submit ---- */

/* Checks that the queue has room for this request's rows. A full queue still takes a chunk that
 * adds nothing or lets other chunks go on. */
static int check_queue(struct broker *b, const struct request *q, struct err *e)
{
    uint64_t queued = store_queued_bytes(b->store), limit = (uint64_t)b->options->max_queued_bytes;
    if (q->rows.len == 0 || queued + q->rows.len <= limit)
        return 0;
    if (q->rows.len > limit) /* waiting would not help */
        return err_field(e, ASSAY_ETOOLARGE, "rows",
            "expected at most %llu bytes, all that the queue holds, found %zu",
            (unsigned long long)limit, q->rows.len);
    int owed = q->key.at ? store_chunk_is_owed(b->store, q->key, q->chunk, e) : 0;
    if (owed != 0)
        return owed < 0 ? owed : 0;
    err_set(e, ASSAY_EQUEUEFULL,
        "queued: expected at most %llu bytes of tokens, found %llu and %zu more",
        (unsigned long long)limit, (unsigned long long)queued, q->rows.len);
    e->retry_after_ms = 1000;
    return ASSAY_EQUEUEFULL;
}

int request_check_draining(const struct broker *b, struct err *e)
{
    if (!b->draining)
        return 0;
    err_set(e, ASSAY_ENOTREADY, "the broker is shutting down");
    e->retry_after_ms = 1000;
    return ASSAY_ENOTREADY;
}

/* ---- models ---- */

/* The served model that has this mode; CATALOG_NONE: none has, or it is ending. */
static uint32_t id_of_mode(const struct broker *b, int64_t mode)
{
    int place = store_place_of(b->store, mode);
    uint32_t id = place < 0 ? CATALOG_NONE : b->models[place]->id;
    return id == CATALOG_NONE || !b->catalog || catalog_of_id(b->catalog, id) ? id : CATALOG_NONE;
}

struct pinning {
    const struct broker *b;
    struct catalog_pins *pins;
};

static void pin(void *arg, int64_t mode)
{
    struct pinning *p = arg;
    const struct catalog_model *m = catalog_of_id(p->b->catalog, id_of_mode(p->b, mode));
    for (uint32_t i = 0; m && i < p->pins->n; i++)
        if (p->pins->ids[i] == m->id)
            return;
    if (m && !m->is_current)
        p->pins->ids[p->pins->n++] = m->id;
}

/* Finds the models of the job that are not current any more. */
static int pins_of_job(
    const struct broker *b, int64_t job, struct catalog_pins *pins, struct err *e)
{
    struct pinning p = {b, pins};
    *pins = (struct catalog_pins){0};
    if (!b->catalog || b->catalog->n == b->catalog->n_current)
        return 0;
    int rc = store_job_modes(b->store, job, pin, &p, e);
    return rc < 0 ? rc : 0;
}

uint32_t request_model_of_job(struct broker *b, int64_t job, struct catalog_pins *pins)
{
    struct store_job j;
    struct err ignored;
    if (pins_of_job(b, job, pins, &ignored) != 0)
        return CATALOG_NONE;
    int rc = store_get_job(b->store, job, &j, &ignored);
    return rc == 1 ? id_of_mode(b, j.mode) : CATALOG_NONE;
}

static int is_same_pins(const struct catalog_pins *a, const struct catalog_pins *b)
{
    return a->n == b->n && memcmp(a->ids, b->ids, a->n * sizeof *a->ids) == 0;
}

static int prepare_again(struct prepared *p, uint32_t model, const struct catalog_pins *pins)
{
    prepared_again(p, model, pins);
    return REQUEST_AGAIN;
}

/* Finds the job of the key, and which models names mean in it: 1; 0: none; or REQUEST_AGAIN when
 * they meant others as the message was prepared. */
static int find_models(
    struct broker *b, struct prepared *p, struct slice key, struct store_job *j, struct err *e)
{
    struct catalog_pins pins;
    int64_t job;
    if (p->catalog != b->catalog) /* a model has come or gone */
        return prepare_again(p, CATALOG_NONE, NULL);
    int rc = key.at && b->catalog ? store_find_job(b->store, key, &job, e) : 0;
    if (rc == 0 && (p->has_model || p->pins.n > 0)) /* its job was purged */
        return prepare_again(p, CATALOG_NONE, NULL);
    if (rc == 1)
        rc = store_get_job(b->store, job, j, e);
    if (rc != 1 || (rc = pins_of_job(b, job, &pins, e)) != 0)
        return rc;
    return is_same_pins(&pins, &p->pins) ? 1 : prepare_again(p, id_of_mode(b, j->mode), &pins);
}

/* Rows that name no model are for their job's, which a message that makes none need not name: 0, or
 * REQUEST_AGAIN when they were prepared for another. Names in them mean what they meant in the job's
 * rows before, or the message is refused. */
static int check_model(struct broker *b, struct prepared *p, struct slice key, struct err *e)
{
    const struct request *q = &p->request;
    struct store_job j;
    if (kept_has_come(b, p)) /* its chunk is accepted */
        return p->rows ? store_check_routes(b->store, p->job, p->rows, e) : 0;
    int rc = find_models(b, p, key, &j, e);
    if (rc != 1)
        return rc;
    if (store_mode_of_model(b->store, p->model) == j.mode)
        return p->rows ? store_check_routes(b->store, j.job, p->rows, e) : 0;
    uint32_t id = id_of_mode(b, j.mode);
    if (id == CATALOG_NONE) /* the store says that the job is held */
        return 0;
    if (q->models.n > 0 && !q->models.is_list)
        return err_field(e, ASSAY_ESTATE, "model",
            "expected '%s', the model of this job, found '%.*s': name others in the rows",
            catalog_of_id(b->catalog, id)->info->name, (int)q->models.of[0].len,
            (const char *)q->models.of[0].at);
    return prepare_again(p, id, &p->pins);
}

static int check_room(struct broker *b, const struct request *q, struct err *e)
{
    int rc = request_check_draining(b, e);
    if (rc == 0)
        rc = check_queue(b, q, e);
    return rc == 0 ? store_check_room(b->store, q->rows.len, e) : rc;
}

static int new_job(struct broker *b, const struct request *q, const struct prepared *p,
    int64_t *job, struct err *e)
{
    *job = store_job_ahead(b->store, p->rows);
    int rc = store_new_job(b->store, q->key, q->priority, q->meta, job, e);
    if (rc == 0 && b->catalog && p->model != catalog_first(b->catalog)->id)
        rc = store_set_model(b->store, *job, p->model, e);
    return rc == 0 && q->fresh ? store_set_fresh(b->store, *job, e) : rc;
}

/* Finds the job of that key: 1, or 0. A message that waited for kept chunks goes to its own job
 * only: after a purge the key is free, or another's. */
static int find_key(struct broker *b, const struct request *q, const struct prepared *p,
    int64_t *job, struct err *e)
{
    int rc = store_find_job(b->store, q->key, job, e);
    if (rc < 0 || !kept_has_come(b, p) || (rc == 1 && *job == p->job))
        return rc;
    return err_field(e, ASSAY_ESTATE, "key",
        "the job went while its chunks were placed: it was purged, or the disk had no room for it; "
        "send the chunk again if it is to be there");
}

/* Adds the chunk to its job, which is made if it does not exist. Returns 0 and *job; or 1 when the
 * job has a chunk to be placed bit by bit. */
static int add_chunk(struct broker *b, const struct request *q, const struct prepared *p,
    int64_t *job, struct err *e)
{
    int rc = transaction_begin(b, e);
    if (rc == 0)
        rc = find_key(b, q, p, job, e);
    int is_new = rc == 0;
    if (is_new)
        rc = new_job(b, q, p, job, e);
    if (rc >= 0 && (q->ephemeral || !is_new)) /* a job that is sent again is needed again */
        rc = store_set_ephemeral(b->store, *job, q->ephemeral, e);
    if (rc < 0)
        return rc;
    request_touch(b, *job);
    struct store_chunk chunk = {
        *job, q->chunk, p->encoded, q->n_rows, q->seal, p->digest, request_is_slow(p)};
    rc = store_add_chunk(b->store, &chunk, e);
    if (rc < 0 || rc == CHUNK_SAME)
        return rc < 0 ? rc : 0;
    b->counters.rows_accepted += q->n_rows;
    if (rc == CHUNK_KEPT)
        return store_next_pending(b->store, *job, &(struct store_pending){0}, e);
    rc = p->rows ? store_add_rows(b->store, *job, p->rows, e) : 0;
    return rc == 0 ? kept_place_small(b, *job, e) : rc;
}

static int on_submit(
    struct broker *b, const struct envelope *env, struct prepared *p, struct err *e)
{
    const struct request *q = &p->request;
    struct store_job j;
    int64_t job;
    int rc = check_model(b, p, q->key, e);
    if (rc == 0)
        rc = check_room(b, q, e);
    if (rc == REQUEST_AGAIN)
        return rc;
    if (rc == 0 && ahead_must_wait(b, p, q->key))
        return REQUEST_LATER;
    if (rc == 0)
        rc = add_chunk(b, q, p, &job, e);
    if (rc == 1 && !kept_has_come(b, p)) {
        p->job = job;
        return REQUEST_KEPT;
    }
    if (rc < 0 || (rc = store_get_job(b->store, job, &j, e)) != 1)
        return rc;
    struct msg_writer *w = outbox_ok(b->outbox, env, q->id, 4);
    msg_key_int(w, "job", job);
    msg_key_int(w, "accepted", q->n_rows);
    msg_str(w, "total");
    if (j.total >= 0)
        msg_int(w, j.total);
    else
        msg_nil(w);
    msg_key_str(w, "state", job_state_name(j.state));
    return 0;
}

static int on_score(struct broker *b, struct message *m, struct err *e)
{
    const struct envelope *env = &m->envelope;
    struct prepared *p = &m->task.prepared;
    struct request q = p->request;
    char key[40];
    uint8_t random[12];
    int64_t job;
    strcpy(key, "score-");
    randombytes_buf(random, sizeof random);
    sodium_bin2hex(key + 6, sizeof key - 6, random, sizeof random);
    if (!q.key.at)
        q.key = (struct slice){(const uint8_t *)key, strlen(key)};
    if (!q.has_priority)
        q.priority = SCORE_PRIORITY;
    q.seal = 1;
    q.chunk = 0;
    int rc = check_model(b, p, q.key, e);
    if (rc == 0)
        rc = check_room(b, &q, e);
    if (rc == REQUEST_AGAIN)
        return rc;
    if (rc == 0 && ahead_must_wait(b, p, q.key))
        return REQUEST_LATER;
    if (rc == 0)
        rc = waiters_make_room(b, env, e);
    if (rc == 0)
        rc = add_chunk(b, &q, p, &job, e);
    if (rc < 0)
        return rc;
    if (rc == 1)
        kept_add(b, job, NULL);
    homes_expect(b->homes, job, &m->sessions, m->n_sessions);
    uint32_t timeout_ms = q.timeout_ms ? q.timeout_ms : SCORE_TIMEOUT_MS;
    waiters_add(b, WAIT_SCORE, env, &q, job, now_mono_ms() + timeout_ms);
    return 0;
}

/* ---- all ---- */

static int serve(struct broker *b, struct message *m, struct err *e)
{
    const struct envelope *env = &m->envelope;
    struct prepared *p = &m->task.prepared;
    const struct request *q = &p->request;
    int rc;
    switch (q->op) {
    case OP_HELLO:
        reply_hello(b, env, q);
        return 0;
    case OP_INFO:
        reply_info(b, env, q);
        return 0;
    case OP_JOBS:
        return reply_jobs(b, env, q, e);
    case OP_THROUGHPUT:
        return reply_throughput(b, env, q, e);
    case OP_SUBMIT:
        return on_submit(b, env, p, e);
    case OP_SCORE:
        if (!q->sessions.at)
            return on_score(b, m, e);
        rc = session_request_expand(b, m, e);
        return rc == 0 ? REQUEST_AGAIN : rc;
    case OP_RETRY:
        return job_request_retry(b, m, e);
    case OP_PURGE:
        return job_request_purge(b, env, q, e);
    case OP_ADAPTERS:
        adapters_list(b, env, q);
        return 0;
    case OP_ADAPTER_ADD:
        return adapters_add(b, env, q, e);
    case OP_ADAPTER_REMOVE:
        return adapters_remove(b, env, q, e);
    case OP_RELOAD:
        return reload_begin(b, env, q, e);
    case OP_RELOAD_CANCEL:
        return reload_cancel(b, env, q, e);
    case OP_OPEN:
    case OP_APPEND:
    case OP_FORK:
    case OP_CLOSE:
        rc = session_request(b, m, e);
        return rc == 1 ? REQUEST_AGAIN : rc == 2 ? REQUEST_TAKEN : rc;
    default:
        return job_request(b, env, q, e);
    }
}

/* Whether the request is only for its answer, and the client has left: nobody would get it. A
 * client that chose its routing id (libzmq's own begin with 0) may be back under it. */
static int is_in_vain(const struct message *m)
{
    enum request_op op = m->task.prepared.request.op;
    uint64_t connection = m->envelope.connection;
    int asks = op == OP_HELLO || op == OP_INFO || op == OP_JOBS || op == OP_STATUS ||
               op == OP_RESULTS || op == OP_ADAPTERS || op == OP_THROUGHPUT || op == OP_FAILED ||
               op == OP_SAMPLE || op == OP_OPEN || op == OP_FORK;
    return asks && m->envelope.bytes[0] == 0 && connection != 0 &&
           !connections_is_there(connection);
}

int request_handle(struct broker *b, struct message *m, struct err *e)
{
    struct prepared *p = &m->task.prepared;
    if (p->rc == 0 && is_in_vain(m))
        return 0;
    if (p->rc != 0)
        *e = p->err;
    int rc = p->rc != 0 ? p->rc : serve(b, m, e);
    if (rc > 0)
        return rc;
    b->counters.requests++;
    if (rc < 0) {
        b->counters.refused++;
        outbox_error(b->outbox, &m->envelope, p->request.id, e);
    }
    return store_may_pass(rc) || rc == ASSAY_EIO ? rc : 0;
}
