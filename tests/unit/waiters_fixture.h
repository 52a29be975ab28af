/* waiters_fixture.h - a broker and a client of it, to wait and to hear. The store and the sockets
 * are real, time is the test's own. */
#ifndef ASSAY_WAITERS_FIXTURE_H
#define ASSAY_WAITERS_FIXTURE_H

#include <zmq.h>

#include "broker/api/send.h"
#include "broker/api/waiters.h"
#include "broker/broker.h"
#include "tests/unit/store_fixture.h"

#define FAR 1000000
#define PATIENCE_MS 60000
#define FOREVER (1ll << 59) /* later than any deadline here */

struct scene {
    struct fixture *store;
    struct broker b;
    struct options options;
    struct served_model model;
    void *client; /* DEALER */
    struct envelope envelope;
};

/* What the client hears. */
struct answer {
    int64_t id;
    int ok;
    char code[32];
    uint32_t n_rows;
    int done;
    int retry;       /* retry_after_ms was there */
    int is_in_order; /* rows 0 to n_rows - 1, each with the score that finish() gives it */
};

static inline void read_error(struct msg_reader *r, struct answer *a)
{
    struct err err;
    struct slice key, text, raw;
    uint32_t n;
    must(msg_read_map(r, "err", &n, &err));
    while (n-- > 0) {
        must(msg_read_str(r, "", &key, &err));
        if (key.len == 4 && memcmp(key.at, "code", 4) == 0) {
            must(msg_read_str(r, "code", &text, &err));
            snprintf(a->code, sizeof a->code, "%.*s", (int)text.len, (const char *)text.at);
        } else {
            a->retry |= key.len == 14;
            must(msg_read_raw(r, "", 2, &raw, &err));
        }
    }
}

/* The fields of a row that was computed. */
static inline int row_is(struct msg_reader *r, uint32_t number)
{
    struct err err;
    struct slice key, raw;
    int64_t i = -1;
    double score = 0;
    uint32_t n;
    must(msg_read_map(r, "row", &n, &err));
    while (n-- > 0) {
        must(msg_read_str(r, "", &key, &err));
        if (key.len == 1 && *key.at == 'i')
            must(msg_read_int(r, "i", 0, INT64_MAX, &i, &err));
        else if (key.len == 5 && memcmp(key.at, "score", 5) == 0 && *r->at == 0xca)
            must(msg_read_float(r, "score", &score, &err));
        else
            must(msg_read_raw(r, "", MSG_MAX_DEPTH, &raw, &err));
    }
    return i == number && score == number + 0.5;
}

static inline void read_rows(struct msg_reader *r, struct answer *a)
{
    struct err err;
    must(msg_read_array(r, "rows", &a->n_rows, &err));
    a->is_in_order = 1;
    for (uint32_t i = 0; i < a->n_rows; i++)
        a->is_in_order &= row_is(r, i);
}

static inline void read_field(struct msg_reader *r, struct slice key, struct answer *a)
{
    struct err err;
    struct slice raw;
    if (key.len == 2 && memcmp(key.at, "id", 2) == 0)
        must(msg_read_int(r, "id", 0, INT64_MAX, &a->id, &err));
    else if (key.len == 2 && memcmp(key.at, "ok", 2) == 0)
        must(msg_read_bool(r, "ok", &a->ok, &err));
    else if (key.len == 3 && memcmp(key.at, "err", 3) == 0)
        read_error(r, a);
    else if (key.len == 4 && memcmp(key.at, "done", 4) == 0)
        must(msg_read_bool(r, "done", &a->done, &err));
    else if (key.len == 4 && memcmp(key.at, "rows", 4) == 0)
        read_rows(r, a);
    else
        must(msg_read_raw(r, "", MSG_MAX_DEPTH, &raw, &err));
}

/* 1 and *a, or 0 when no answer comes. */
static inline int hear_within(struct scene *s, struct answer *a, long ms)
{
    struct msg_reader r;
    struct slice key;
    struct err err;
    uint32_t n;
    static uint8_t bytes[1 << 21];
    zmq_pollitem_t item = {.socket = s->client, .events = ZMQ_POLLIN};
    memset(a, 0, sizeof *a);
    if (zmq_poll(&item, 1, ms) == 0)
        return 0;
    int len = zmq_recv(s->client, bytes, sizeof bytes, 0);
    assert_in_range(len, 1, sizeof bytes);
    msg_reader_init(&r, bytes, (size_t)len);
    must(msg_read_map(&r, "", &n, &err));
    while (n-- > 0) {
        must(msg_read_str(&r, "", &key, &err));
        read_field(&r, key, a);
    }
    must(msg_read_end(&r, &err));
    return 1;
}

static inline int hear(struct scene *s, struct answer *a)
{
    return hear_within(s, a, PATIENCE_MS);
}

static inline void assert_silence(struct scene *s)
{
    struct answer a;
    assert_int_equal(hear_within(s, &a, 50), 0);
}

static inline void assert_heard(struct scene *s, int64_t id, const char *code, uint32_t n_rows)
{
    struct answer a;
    assert_int_equal(hear(s, &a), 1);
    assert_int_equal(a.id, id);
    assert_string_equal(a.code, code);
    assert_int_equal(a.ok, *code == '\0');
    assert_int_equal(a.n_rows, n_rows);
}

/* The client's routing id, which a ROUTER learns from its first message. */
static inline void introduce(struct scene *s)
{
    uint8_t name[64], body[8];
    assert_int_equal(zmq_send(s->client, "x", 1, 0), 1);
    int n = zmq_recv(s->b.clients, name, sizeof name, 0);
    assert_int_equal(zmq_recv(s->b.clients, body, sizeof body, 0), 1);
    assert_int_equal(envelope_add(&s->envelope, name, (size_t)n), 0);
}

static inline int open_scene(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    int mandatory = 1;
    setup((void **)&s->store);
    s->b.options = &s->options;
    s->b.store = s->store->s;
    s->b.waiters = waiters_new();
    s->model.info.n_labels = 1;
    s->b.models[0] = &s->model;
    s->b.limits.max_message_bytes = 1 << 20;
    s->b.zmq = zmq_ctx_new();
    s->b.clients = zmq_socket(s->b.zmq, ZMQ_ROUTER);
    s->client = zmq_socket(s->b.zmq, ZMQ_DEALER);
    zmq_setsockopt(s->b.clients, ZMQ_ROUTER_MANDATORY, &mandatory, sizeof mandatory);
    assert_int_equal(zmq_bind(s->b.clients, "inproc://clients"), 0);
    assert_int_equal(zmq_connect(s->client, "inproc://clients"), 0);
    s->b.outbox = outbox_new(s->b.clients);
    introduce(s);
    *state = s;
    return 0;
}

static inline int close_scene(void **state)
{
    struct scene *s = *state;
    int zero = 0;
    waiters_free(&s->b.waiters);
    outbox_free(&s->b.outbox);
    zmq_setsockopt(s->client, ZMQ_LINGER, &zero, sizeof zero);
    zmq_close(s->client);
    zmq_close(s->b.clients);
    zmq_ctx_term(s->b.zmq);
    teardown((void **)&s->store);
    free(s);
    return 0;
}

static inline void wait_for(
    struct scene *s, enum waiter_kind kind, int64_t job, uint8_t id, long long deadline_ms)
{
    struct request q = {.id = {&id, 1}}; /* below 128 a byte is its own msgpack */
    waiters_add(&s->b, kind, &s->envelope, &q, job, deadline_ms);
}

#endif
