/* session_requests.c - the operations on sessions, as requests (session_requests.h). Nothing here
 * touches the database. */
#include "broker/api/session_requests.h"

#include <stdlib.h>

#include "broker/api/connections.h"
#include "broker/api/requests.h"
#include "broker/api/sessions.h"
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

static int on_close(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e)
{
    uint32_t closed = 0;
    int rc = sessions_close(b->sessions, q, &closed, e);
    if (rc == 0)
        msg_key_int(outbox_ok(b->outbox, env, q->id, 1), "closed", closed);
    return rc;
}

int session_request(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e)
{
    struct msg_writer names;
    if (q->op == OP_CLOSE)
        return on_close(b, env, q, e);
    int rc = request_check_draining(b, e);
    if (rc != 0)
        return rc;
    msg_writer_init(&names);
    rc = (q->op == OP_OPEN     ? sessions_open
          : q->op == OP_APPEND ? sessions_append
                               : sessions_fork)(b->sessions, q, now_mono_ms(), &names, e);
    if (rc == 0)
        reply_names(b, env, q, &names);
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
static int write_request(struct broker *b, struct message *m, struct msg_writer *w, struct err *e)
{
    struct msg_reader r;
    struct slice key, value;
    uint32_t n = 0;
    int rc;
    msg_reader_init(&r, zmq_msg_data(&m->body), zmq_msg_size(&m->body));
    rc = msg_read_map(&r, "", &n, e);
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
            rc = sessions_rows(b->sessions, &m->task.prepared.request, now_mono_ms(), w, e);
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

int session_request_expand(struct broker *b, struct message *m, struct err *e)
{
    struct msg_writer w;
    int rc = request_check_draining(b, e);
    if (rc == 0)
        rc = check_room(b, e);
    if (rc != 0)
        return rc;
    msg_writer_init(&w);
    rc = write_request(b, m, &w, e);
    if (rc == 0) {
        size_t len = w.buffer.size;
        prepared_release(&m->task.prepared);
        zmq_msg_close(&m->body);
        if (zmq_msg_init_data(&m->body, msgpack_sbuffer_release(&w.buffer), len, free_body, NULL) !=
            0)
            die(71, "event=out_of_memory wanted=a message");
    }
    msg_writer_release(&w);
    return rc;
}
