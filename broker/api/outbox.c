/* outbox.c - keeps replies as letters in order of writing, each with the commit that it waits
 * for (outbox.h). */
#include "broker/api/outbox.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <zmq.h>

#include "broker/api/connections.h"
#include "schema/alloc.h"
#include "schema/log.h"

struct letter {
    struct envelope envelope;
    struct msg_writer body;
    uint8_t id[REQUEST_ID_RAW_BYTES];
    size_t id_len;  /* 0: none */
    uint64_t needs; /* the commit that must be on the disk before it is sent */
    struct letter *next;
};

struct outbox {
    void *socket;
    struct letter *first, **end;
    struct letter **fresh; /* the first letter made since outbox_send */
    size_t held_bytes;     /* bytes of the letters before `fresh` */
    uint32_t n_held;       /* number of the letters before `fresh` */
};

int envelope_add(struct envelope *env, const void *frame, size_t len)
{
    size_t used = 0;
    for (int i = 0; i < env->n_frames; i++)
        used += env->sizes[i];
    if (env->n_frames == ENVELOPE_MAX_FRAMES || len > ENVELOPE_MAX_BYTES - used)
        return -1;
    if (len > 0)
        memcpy(env->bytes + used, frame, len);
    env->sizes[env->n_frames++] = (uint16_t)len;
    return 0;
}

struct outbox *outbox_new(void *socket)
{
    struct outbox *o = xcalloc(1, sizeof *o);
    o->socket = socket;
    o->end = o->fresh = &o->first;
    return o;
}

static void drop_first(struct outbox *o)
{
    struct letter *l = o->first;
    o->first = l->next;
    if (o->fresh == &l->next)
        o->fresh = &o->first;
    if (o->end == &l->next)
        o->end = &o->first;
    msg_writer_release(&l->body);
    free(l);
}

void outbox_free(struct outbox **out)
{
    if (!*out)
        return;
    while ((*out)->first)
        drop_first(*out);
    free(*out);
    *out = NULL;
}

static struct letter *add_letter(struct outbox *o, const struct envelope *env, struct slice id)
{
    struct letter *l = xcalloc(1, sizeof *l);
    l->envelope = *env;
    l->id_len = id.at && id.len <= sizeof l->id ? id.len : 0;
    if (l->id_len > 0)
        memcpy(l->id, id.at, l->id_len);
    msg_writer_init(&l->body);
    *o->end = l;
    o->end = &l->next;
    return l;
}

static void write_head(struct letter *l, uint32_t n_fields, int ok)
{
    msg_writer_clear(&l->body);
    msg_map(&l->body, 3 + n_fields);
    msg_key_int(&l->body, "v", REQUEST_VERSION);
    msg_str(&l->body, "id");
    if (l->id_len > 0)
        msg_raw(&l->body, (struct slice){l->id, l->id_len});
    else
        msg_nil(&l->body);
    msg_key_bool(&l->body, "ok", ok);
}

struct msg_writer *outbox_ok(
    struct outbox *o, const struct envelope *env, struct slice id, uint32_t n_fields)
{
    struct letter *l = add_letter(o, env, id);
    write_head(l, n_fields, 1);
    return &l->body;
}

struct msg_writer *outbox_message(struct outbox *o, const struct envelope *env)
{
    return &add_letter(o, env, (struct slice){0})->body;
}

static void write_error(struct letter *l, const struct err *e)
{
    write_head(l, 1, 0);
    msg_str(&l->body, "err");
    msg_map(&l->body, 2 + (uint32_t)(e->field[0] != '\0') + (uint32_t)(e->retry_after_ms > 0));
    msg_key_str(&l->body, "code", err_name(e->code));
    msg_key_str(&l->body, "message", e->msg);
    if (e->field[0])
        msg_key_str(&l->body, "field", e->field);
    if (e->retry_after_ms > 0)
        msg_key_int(&l->body, "retry_after_ms", e->retry_after_ms);
}

void outbox_error(
    struct outbox *o, const struct envelope *env, struct slice id, const struct err *e)
{
    write_error(add_letter(o, env, id), e);
}

void outbox_keep_later(struct outbox_later *l, const struct envelope *env, struct slice id)
{
    l->envelope = *env;
    memcpy(l->id, id.at ? id.at : l->id, id.len);
    l->request_id = (struct slice){id.at ? l->id : NULL, id.len};
}

void outbox_fail(struct outbox *o, const struct err *e)
{
    for (struct letter *l = *o->fresh; l; l = l->next)
        write_error(l, e);
}

void outbox_fail_all(struct outbox *o, const struct err *e)
{
    o->fresh = &o->first;
    o->held_bytes = o->n_held = 0;
    outbox_fail(o, e);
}

/* A body that libzmq holds; it counts as unread until libzmq lets go. */
struct sent {
    uint64_t connection;
    size_t bytes;
};

/* Called on any of libzmq's threads. */
static void let_go(void *data, void *arg)
{
    struct sent *sent = arg;
    connections_reply_gone(sent->connection, sent->bytes);
    free(sent);
    free(data);
}

/* Hands the body to libzmq. Returns 0 or -1. */
static int send_body(struct outbox *o, struct letter *l)
{
    zmq_msg_t body;
    struct sent *sent = xcalloc(1, sizeof *sent);
    size_t size = l->body.buffer.size;
    *sent = (struct sent){l->envelope.connection, sizeof *l + l->body.buffer.alloc};
    connections_replied(sent->connection, sent->bytes);
    if (zmq_msg_init_data(&body, msgpack_sbuffer_release(&l->body.buffer), size, let_go, sent) != 0)
        die(EX_OSERR, "event=no_memory bytes=%zu", size);
    if (zmq_msg_send(&body, o->socket, ZMQ_DONTWAIT) >= 0)
        return 0;
    zmq_msg_close(&body);
    return -1;
}

static void send_letter(struct outbox *o, struct letter *l)
{
    const uint8_t *at = l->envelope.bytes;
    int rc = 0;
    if (connections_is_over(l->envelope.connection))
        return;
    for (int i = 0; rc >= 0 && i < l->envelope.n_frames; at += l->envelope.sizes[i++])
        rc = zmq_send(o->socket, at, l->envelope.sizes[i], ZMQ_SNDMORE | ZMQ_DONTWAIT);
    if (rc >= 0)
        rc = send_body(o, l);
    if (rc < 0)
        log_debug("event=reply_dropped error=%s",
            zmq_strerror(errno)); /* the client is gone or does not read */
}

size_t outbox_bytes(const struct outbox *o)
{
    size_t n = o->held_bytes;
    for (const struct letter *l = *o->fresh; l; l = l->next)
        n += l->body.buffer.size;
    return n;
}

uint32_t outbox_held(const struct outbox *o)
{
    return o->n_held;
}

static void hold(struct outbox *o, uint64_t written)
{
    for (struct letter *l = *o->fresh; l; l = l->next) {
        l->needs = written;
        o->n_held++;
        o->held_bytes += l->body.buffer.size;
    }
    o->fresh = o->end;
}

int outbox_send(struct outbox *o, uint64_t written, uint64_t synced)
{
    hold(o, written);
    for (; o->first && o->first->needs <= synced; drop_first(o)) {
        o->held_bytes -= o->first->body.buffer.size; /* before send_letter gives the body away */
        o->n_held--;
        send_letter(o, o->first);
    }
    return o->first != NULL;
}
