/* call.c - see call.h. */
#include "broker/http/call.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "broker/ask/results.h"
#include "broker/dealer.h"
#include "broker/http/reply.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/request.h"

#define REPLY_MS 30000
#define LOOK_MS 100

struct call {
    void *zmq, *socket;
    char endpoint[512];
    int64_t id;
    struct msg_writer request;
    zmq_msg_t reply;
    int has_reply;
    long patience_ms;
    atomic_int stops;
};

static int connect_socket(struct call *c, struct err *e)
{
    struct dealer_options options = {.endpoint = c->endpoint, .shown = c->endpoint};
    return dealer_connect(&c->socket, c->zmq, &options, e);
}

int call_new(struct call **out, const char *endpoint, struct err *e)
{
    struct call *c = xcalloc(1, sizeof *c);
    snprintf(c->endpoint, sizeof c->endpoint, "%s", endpoint);
    c->patience_ms = REPLY_MS;
    msg_writer_init(&c->request);
    c->zmq = zmq_ctx_new();
    int rc = c->zmq ? connect_socket(c, e) : err_set(e, ASSAY_EIO, "zeromq: no context");
    *out = c;
    if (rc != 0)
        call_free(out);
    return rc;
}

static void drop_reply(struct call *c)
{
    if (c->has_reply)
        zmq_msg_close(&c->reply);
    c->has_reply = 0;
}

void call_free(struct call **out)
{
    struct call *c = *out;
    *out = NULL;
    if (!c)
        return;
    drop_reply(c);
    if (c->socket)
        zmq_close(c->socket);
    if (c->zmq)
        zmq_ctx_term(c->zmq);
    msg_writer_release(&c->request);
    free(c);
}

void call_stop(struct call *c)
{
    atomic_store(&c->stops, 1);
}

void call_patience(struct call *c, long ms)
{
    c->patience_ms = ms;
}

struct msg_writer *call_begin(struct call *c, const char *op, uint32_t n_fields)
{
    msg_writer_clear(&c->request);
    msg_map(&c->request, n_fields + 3);
    msg_key_int(&c->request, "v", REQUEST_VERSION);
    msg_key_str(&c->request, "op", op);
    msg_key_int(&c->request, "id", ++c->id);
    return &c->request;
}

/* A message within wait_ms: 1, or 0. */
static int receive(struct call *c, long wait_ms)
{
    zmq_pollitem_t item = {.socket = c->socket, .events = ZMQ_POLLIN};
    drop_reply(c);
    if (zmq_poll(&item, 1, wait_ms) <= 0)
        return 0;
    zmq_msg_init(&c->reply);
    c->has_reply = 1;
    return zmq_msg_recv(&c->reply, c->socket, ZMQ_DONTWAIT) >= 0;
}

int call_send(struct call *c, struct slice *reply, struct err *e)
{
    long long until_ms = now_mono_ms() + c->patience_ms;
    struct reply said;
    struct err ignored;
    if (zmq_send(c->socket, c->request.buffer.data, c->request.buffer.size, ZMQ_DONTWAIT) < 0)
        return err_set(e, ASSAY_ENOTREADY, "the broker does not take requests");
    while (!atomic_load(&c->stops) && now_mono_ms() < until_ms) {
        if (!receive(c, LOOK_MS))
            continue;
        *reply = (struct slice){zmq_msg_data(&c->reply), zmq_msg_size(&c->reply)};
        if (reply_read(*reply, &said, &ignored) == 0 && said.id == c->id)
            return said.is_ok ? 0 : results_refusal(*reply, e);
    }
    /* A request that was not answered is not to be answered later, to a broker that is back. */
    zmq_close(c->socket);
    if (connect_socket(c, e) != 0)
        return e->code;
    return err_set(e, ASSAY_ENOTREADY, "the broker does not answer");
}
