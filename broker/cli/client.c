/* client.c - see client.h. The DEALER socket sends no empty delimiter frame, and the broker replies
 * the same way. */
#include "broker/cli/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "broker/cli/signals.h"
#include "broker/dealer.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/endpoint.h"
#include "schema/msg_json.h"
#include "schema/resources.h"

#define RESEND_MS 3000
#define POLL_MS 200
#define ZMQ_FILES 8   /* of a context with one connection */
#define ZMQ_THREADS 2 /* started by libzmq */
#define SILENT_MS 4000
#define PROBED_MS 10000 /* of requests that take longer, the broker is asked whether it is there */
#define PROBE_ID (-1)
#define LONGEST_LOOK_MS 1000 /* a longer gap means that this process was stopped (Ctrl-Z) */

struct client {
    void *context, *socket;
    char endpoint[512]; /* as the user named it */
    int dir_fd;         /* the socket is reached through this directory; -1: not needed */
    int timeout_ms;
    int64_t next_id, id; /* id: of the request being built or waited for */
    struct msg_writer request;
    struct msg_writer probe; /* asks whether the broker is there, while a request takes long */
    int64_t epoch;           /* of the broker that answered a probe last; 0: none did */
    int heard;               /* a probe was answered since this was last reset .. */
    int is_another;          /* .. by a broker that was started since the one before */
    int (*alive)(void *arg, struct err *e);
    void *alive_arg;
    struct waiting own_waiting, *waiting; /* where a silence is reported */
};

static struct client *make(const char *shown, int timeout_ms)
{
    struct client *c = xcalloc(1, sizeof *c);
    c->timeout_ms = timeout_ms;
    c->next_id = 1;
    c->waiting = &c->own_waiting;
    c->dir_fd = -1;
    msg_writer_init(&c->request);
    msg_writer_init(&c->probe);
    msg_map(&c->probe, 3);
    msg_key_int(&c->probe, "v", 1);
    msg_key_str(&c->probe, "op", "info");
    msg_key_int(&c->probe, "id", PROBE_ID);
    snprintf(c->endpoint, sizeof c->endpoint, "%s", shown);
    return c;
}

/* Frees c on failure. */
static int connect_to(struct client **out, struct client *c, const char *endpoint, struct err *e)
{
    struct dealer_options options = {.endpoint = endpoint, .shown = c->endpoint};
    int rc = resources_check("connection to the broker", ZMQ_FILES, ZMQ_THREADS, e);
    c->context = rc == 0 ? zmq_ctx_new() : NULL;
    if (rc == 0)
        rc = dealer_connect(&c->socket, c->context, &options, e);
    *out = c;
    if (rc != 0)
        client_free(out);
    return rc;
}

void client_say_from(struct client *c, const char *variable)
{
    size_t n = strlen(c->endpoint);
    snprintf(c->endpoint + n, sizeof c->endpoint - n, " (from %s)", variable);
}

int client_new(struct client **out, const char *endpoint, int timeout_ms, struct err *e)
{
    return connect_to(out, make(endpoint, timeout_ms), endpoint, e);
}

int client_new_in(
    struct client **out, const char *data_dir, const char *name, int timeout_ms, struct err *e)
{
    char shown[512], endpoint[ENDPOINT_BYTES];
    snprintf(shown, sizeof shown, "ipc://%s/%s", data_dir, name);
    struct client *c = make(shown, timeout_ms);
    int rc = endpoint_in_dir(endpoint, data_dir, name, &c->dir_fd, e);
    if (rc == 0)
        return connect_to(out, c, endpoint, e);
    client_free(&c);
    return rc;
}

void client_free(struct client **out)
{
    struct client *c = *out;
    if (!c)
        return;
    if (c->socket)
        zmq_close(c->socket);
    if (c->context)
        zmq_ctx_term(c->context);
    if (c->dir_fd >= 0)
        close(c->dir_fd);
    msg_writer_release(&c->request);
    msg_writer_release(&c->probe);
    free(c);
    *out = NULL;
}

int client_timeout_s(const struct client *c)
{
    return c->timeout_ms / 1000;
}

void client_set_watch(struct client *c, int (*alive)(void *arg, struct err *e), void *arg)
{
    c->alive = alive;
    c->alive_arg = arg;
}

void client_set_waiting(struct client *c, struct waiting *w)
{
    c->waiting = w ? w : &c->own_waiting;
}

struct msg_writer *client_begin(struct client *c, const char *op, uint32_t n_fields)
{
    msg_writer_clear(&c->request);
    c->id = c->next_id++;
    msg_map(&c->request, n_fields + 3);
    msg_key_int(&c->request, "v", 1);
    msg_key_str(&c->request, "op", op);
    msg_key_int(&c->request, "id", c->id);
    return &c->request;
}

/* Returns 0 and *reply, or the broker's error. Takes ownership of `body`. */
static int judge(json_t *body, json_t **reply, struct err *e)
{
    if (json_is_true(json_object_get(body, "ok"))) {
        *reply = body;
        return 0;
    }
    const json_t *err = json_object_get(body, "err");
    const json_t *code = json_object_get(err, "code");
    const char *message = json_string_value(json_object_get(err, "message"));
    const char *field = json_string_value(json_object_get(err, "field"));
    int rc = err_field(e, err_code(json_string_value(code), json_string_length(code)),
        field ? field : "", "%s", message ? message : "the broker gave no reason");
    if (e)
        e->retry_after_ms = (uint32_t)json_integer_value(json_object_get(err, "retry_after_ms"));
    json_decref(body);
    return rc;
}

/* An answer to a probe. */
static void hear(struct client *c, const json_t *body)
{
    int64_t epoch = json_integer_value(json_object_get(body, "epoch"));
    c->heard = 1;
    c->is_another |= c->epoch != 0 && epoch != 0 && epoch != c->epoch;
    c->epoch = epoch != 0 ? epoch : c->epoch;
}

/* Receives one message. Returns 1 and *body if it answers the current request, 0 if it does not or
 * there is none. */
static int receive(struct client *c, json_t **body, struct err *e)
{
    zmq_msg_t message;
    zmq_msg_init(&message);
    int n = zmq_msg_recv(&message, c->socket, ZMQ_DONTWAIT);
    int found = 0;
    if (n >= 0) {
        struct msg_reader r;
        msg_reader_init(&r, zmq_msg_data(&message), zmq_msg_size(&message));
        found = msg_read_json(&r, body, e) == 0;
        int64_t id = found ? json_integer_value(json_object_get(*body, "id")) : c->id;
        if (id != c->id) {
            if (id == PROBE_ID)
                hear(c, *body);
            json_decref(*body);
            found = 0;
        }
    }
    zmq_msg_close(&message);
    return found;
}

/* Called while no reply is there. Returns 0, CLIENT_STARTING, or negative to give up. */
static int pass_time(struct client *c, long long silent_ms, struct err *e)
{
    int rc = c->alive ? c->alive(c->alive_arg, e) : 0;
    if (rc < 0)
        return ASSAY_EIO;
    if (cli_interrupted())
        return err_set(e, ASSAY_EIO, "stopped");
    if (silent_ms > SILENT_MS)
        waiting_tell(c->waiting, "waiting for an answer from %s", c->endpoint);
    return rc;
}

static void send_bytes(struct client *c, const struct msg_writer *w)
{
    zmq_send(c->socket, w->buffer.data, w->buffer.size, ZMQ_DONTWAIT);
}

static int nobody_answers(const struct client *c, long long waited_ms, struct err *e)
{
    return err_set(e, ASSAY_ENOTREADY,
        "no broker answers at %s (waited %lld s); start one with `assayd --model DIR`, or name it "
        "with --connect or --data",
        c->endpoint, waited_ms / 1000);
}

static int takes_too_long(const struct client *c, long long waited_ms, struct err *e)
{
    return err_set(e, ASSAY_ENOTREADY,
        "the broker at %s answers, but is not done with this after %lld s; its log may say why",
        c->endpoint, waited_ms / 1000);
}

/* Returns the time since *last, bounded because this process may have been stopped meanwhile, and
 * sets *last to now. */
static long long time_spent(long long *last)
{
    long long now = now_mono_ms(), ms = now - *last;
    *last = now;
    return ms < LONGEST_LOOK_MS ? ms : LONGEST_LOOK_MS;
}

/* The times of a request that waits, in ms. */
struct patience {
    long long last;    /* when it was looked at last; monotonic */
    long long waited;  /* in all */
    long long counted; /* of it, without what passed while the broker was starting */
    long long silent;  /* of it, since the broker was heard last, or might have been silent */
    long long resend;  /* when the request is sent again, by `waited` */
    long long probe;   /* and the probe; FOREVER: never */
    int is_sent;       /* the request; where there are probes, a broker is to answer one before */
};

/* Sends what is due. A broker that was started since it was asked has not heard of the request,
 * which shows only if the one that got it was known. */
static void send_due(struct client *c, struct patience *p, int extra_ms)
{
    if (!p->is_sent && c->epoch != 0) {
        p->is_sent = 1;
        c->is_another = 1;
    }
    if (p->is_sent && (c->is_another || p->waited >= p->resend)) {
        send_bytes(c, &c->request);
        p->resend = p->waited + (c->is_another ? extra_ms : 0) + RESEND_MS;
    }
    c->is_another = 0;
    if (p->waited >= p->probe) {
        send_bytes(c, &c->probe);
        p->probe = p->waited + RESEND_MS;
    }
}

static void spend(struct client *c, struct patience *p)
{
    long long ms = time_spent(&p->last);
    p->waited += ms;
    p->counted += ms;
    p->silent += ms;
    if (c->heard && p->silent > SILENT_MS)
        waiting_over(c->waiting);
    p->silent = c->heard ? 0 : p->silent;
    c->heard = 0;
}

int client_call(struct client *c, int extra_ms, json_t **reply, struct err *e)
{
    int rc, probes = extra_ms > PROBED_MS, from = probes ? 0 : -extra_ms;
    struct patience p = {.last = now_mono_ms(),
        .silent = from,
        .resend = extra_ms + RESEND_MS,
        .probe = probes ? 0 : FOREVER,
        .is_sent = !probes};
    c->is_another = c->heard = 0;
    if (p.is_sent)
        send_bytes(c, &c->request);
    while (p.silent < c->timeout_ms && p.counted < c->timeout_ms + extra_ms) {
        zmq_pollitem_t item = {.socket = c->socket, .events = ZMQ_POLLIN};
        json_t *body;
        send_due(c, &p, extra_ms);
        if (zmq_poll(&item, 1, POLL_MS) < 0 && errno != EINTR)
            return err_set(e, ASSAY_EIO, "poll: %s", zmq_strerror(errno));
        if (item.revents && receive(c, &body, e)) {
            if (p.silent > SILENT_MS)
                waiting_over(c->waiting);
            return judge(body, reply, e);
        }
        spend(c, &p);
        if ((rc = pass_time(c, p.silent, e)) < 0)
            return rc;
        if (rc == CLIENT_STARTING) {
            p.silent = from;
            p.counted = 0;
        }
    }
    return p.silent < c->timeout_ms ? takes_too_long(c, p.waited, e)
                                    : nobody_answers(c, p.waited, e);
}

int client_call_patiently(struct client *c, int extra_ms, json_t **reply, struct err *e)
{
    int rc, waited = 0;
    while ((rc = client_call(c, extra_ms, reply, e)) != 0 && waiting_is_worth(e)) {
        if ((rc = waiting_pause(c->waiting, e)) != 0)
            return rc;
        waited = 1;
    }
    if (waited)
        waiting_over(c->waiting);
    return rc;
}
