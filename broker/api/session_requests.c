/* session_requests.c - the operations on sessions, as requests (session_requests.h). Nothing here
 * touches the database.
 *
 * Rows of more than INBOX_SMALL_BYTES together, and many rows, are written by a thread. Of such
 * appends there is one at a time: until it is over, the memory that it takes is in no account. */
#include "broker/api/session_requests.h"

#include <stdlib.h>

#include "broker/api/connections.h"
#include "broker/api/requests.h"
#include "broker/api/sessions.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

static void reply_names(struct broker *b, const struct envelope *env, const struct request *q,
    const struct msg_writer *names)
{
    struct msg_writer *w = outbox_ok(b->outbox, env, q->id, 1);
    msg_str(w, q->op == OP_OPEN ? "session" : "sessions");
    if (q->op != OP_OPEN)
        msg_array(w, q->op == OP_FORK ? q->n : q->n_sessions);
    msg_raw(w, (struct slice){(const uint8_t *)names->buffer.data, names->buffer.size});
}

static int on_close(struct broker *b, struct message *m)
{
    uint32_t closed = 0;
    struct prepared *p = &m->task.prepared;
    p->work = sessions_close(b->sessions, &p->request, &closed);
    msg_key_int(outbox_ok(b->outbox, &m->envelope, p->request.id, 1), "closed", closed);
    return 0;
}

/* Whether the loop may write the rows. */
static int is_small(const struct prepared *p)
{
    const struct session_work *w = p->work;
    return w->bytes + p->request.more.len + (uint64_t)w->n * SESSION_BYTES <= INBOX_SMALL_BYTES;
}

/* ---- append ---- */

static void extend(struct task *t, const struct preparing *with)
{
    session_work_extend(t->prepared.work, &t->prepared.request, with->stop);
}

/* Whether it is this append's turn; else it waits. */
static int has_turn(struct broker *b, struct message *m)
{
    struct large_appends *a = &b->appends;
    if (!a->now)
        a->now = m;
    if (a->now == m)
        return 1;
    m->next_ready = NULL;
    *(a->first ? &a->last->next_ready : &a->first) = m;
    a->last = m;
    return 0;
}

/* This append is over: if it was its turn, it is the next one's. */
static void pass_turn(struct broker *b, struct message *m)
{
    struct large_appends *a = &b->appends;
    if (a->now != m)
        return;
    a->now = a->first;
    if (!a->now)
        return;
    a->first = a->now->next_ready;
    a->now->next_ready = NULL;
    inbox_again(b->inbox, a->now);
}

/* Has the longer rows written, here or by a thread. 0: they are; else as session_request. */
static int begin_append(struct broker *b, struct message *m)
{
    struct prepared *p = &m->task.prepared;
    p->work = sessions_begin_append(b->sessions, &p->request);
    if (is_small(p)) {
        session_work_extend(p->work, &p->request, NULL);
        return 0;
    }
    if (has_turn(b, m)) {
        m->task.work = extend;
        return 1;
    }
    session_work_free(&p->work);
    return 2;
}

static int on_append(struct broker *b, struct message *m, struct msg_writer *names, struct err *e)
{
    struct prepared *p = &m->task.prepared;
    int rc = request_check_draining(b, e);
    if (rc == 0 && !p->work)
        rc = begin_append(b, m);
    if (rc == 0)
        rc = sessions_append(b->sessions, &p->request, p->work, now_mono_ms(), names, e);
    if (rc <= 0)
        pass_turn(b, m);
    return rc;
}

/* ---- all but score ---- */

int session_request(struct broker *b, struct message *m, struct err *e)
{
    struct prepared *p = &m->task.prepared;
    const struct request *q = &p->request;
    struct msg_writer names;
    if (q->op == OP_CLOSE)
        return on_close(b, m);
    int rc = q->op == OP_APPEND ? 0 : request_check_draining(b, e);
    if (rc != 0)
        return rc;
    msg_writer_init(&names);
    rc = q->op == OP_OPEN     ? sessions_open(b->sessions, q, &p->row, now_mono_ms(), &names, e)
         : q->op == OP_APPEND ? on_append(b, m, &names, e)
                              : sessions_fork(b->sessions, q, now_mono_ms(), &names, e);
    if (rc == 0)
        reply_names(b, &m->envelope, q, &names);
    msg_writer_release(&names);
    return rc;
}

/* ---- score ---- */

/* Few bytes ask for many rows, so what is under way has the bound of what clients send. */
static int check_room(const struct broker *b, struct err *e)
{
    uint64_t most =
        CONNECTIONS_MESSAGES * b->limits.max_message_bytes + (uint64_t)CONNECTIONS_SMALL_BYTES;
    if (connections_received() < most)
        return 0;
    err_set(e, ASSAY_EQUEUEFULL,
        "expected less than %llu bytes of messages that are not handled yet, found %llu",
        (unsigned long long)most, (unsigned long long)connections_received());
    e->retry_after_ms = 1000;
    return ASSAY_EQUEUEFULL;
}

/* Writes the request with `rows` in place of `sessions`. It was decoded, so its form is good. */
static int write_request(struct message *m, struct msg_writer *w, struct err *e)
{
    const struct prepared *p = &m->task.prepared;
    struct msg_reader r;
    struct slice key, value, body = message_bytes(m);
    uint32_t n = 0;
    msg_reader_init(&r, body.at, body.len);
    int rc = msg_read_map(&r, "", &n, e);
    if (rc == 0)
        msg_map(w, n);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = msg_read_str(&r, "", &key, e);
        if (rc == 0)
            rc = msg_read_raw(&r, "", MSG_MAX_DEPTH, &value, e);
        if (rc != 0)
            break;
        if (slice_is(key, "sessions")) {
            msg_str(w, "rows");
            session_work_write(p->work, &p->request, w);
        } else {
            msg_str_len(w, key.at, key.len);
            msg_raw(w, value);
        }
    }
    return rc;
}

static void free_body(void *data, void *hint)
{
    (void)hint;
    free(data);
}

/* Puts what was written in place of the message's body, which is to be prepared then. */
static void replace_body(struct message *m, struct msg_writer *w)
{
    size_t len = w->buffer.size;
    prepared_release(&m->task.prepared);
    zmq_msg_close(&m->body);
    if (zmq_msg_init_data(&m->body, msgpack_sbuffer_release(&w->buffer), len, free_body, NULL) != 0)
        die(71, "event=out_of_memory wanted=a message");
}

static void expand(struct task *t, const struct preparing *with)
{
    struct message *m = message_of(t);
    struct prepared *p = &t->prepared;
    struct msg_writer w;
    (void)with;
    msg_writer_init(&w);
    w.buffer.alloc = p->work->bytes + zmq_msg_size(&m->body);
    w.buffer.data = xcalloc(1, w.buffer.alloc);
    p->rc = write_request(m, &w, &p->err);
    if (p->rc == 0)
        replace_body(m, &w);
    msg_writer_release(&w);
}

/* Keeps whose rows the message's will be. */
static void note_sessions(const struct broker *b, struct message *m)
{
    const struct session_work *w = m->task.prepared.work;
    if (!b->homes)
        return;
    m->n_sessions = w->n;
    m->sessions = xcalloc(w->n, sizeof *m->sessions);
    for (uint32_t i = 0; i < w->n; i++)
        m->sessions[i] = w->items[i].key;
}

int session_request_expand(struct broker *b, struct message *m, struct err *e)
{
    struct prepared *p = &m->task.prepared;
    int rc = request_check_draining(b, e);
    if (rc == 0)
        rc = check_room(b, e);
    if (rc == 0)
        rc = sessions_begin_score(b->sessions, &p->request, now_mono_ms(), &p->work, e);
    if (rc != 0)
        return rc;
    note_sessions(b, m);
    if (is_small(p))
        expand(&m->task, NULL);
    else
        m->task.work = expand;
    return 0;
}
