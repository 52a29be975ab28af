/* inbox.c - receives messages, puts each in its connection's line, and gives out those that are
 * first in line and prepared (inbox.h). */
#include "broker/api/inbox.h"

#include <stddef.h>
#include <stdlib.h>

#include "broker/api/connections.h"
#include "broker/api/frames.h"
#include "schema/alloc.h"
#include "schema/clock.h"

#define PREPARING_US 3000         /* what takes longer goes to a thread */
#define RELEASED_BYTES (4u << 20) /* what is larger is released by a thread */

/* Messages of a connection; it is the first one's turn. */
struct line {
    struct message *first, **end;
};

struct inbox {
    void *socket;
    struct preparing with; /* on this thread */
    struct catalog *const *catalog;
    struct preparers *preparers;
    struct line lines[INBOX_LINES];
    int at_line;                        /* for inbox_rest: those before it are empty */
    struct message *ready, **ready_end; /* first in their lines, and not away */
    struct message *over;               /* large ones that were handled; threads release them */
    int was_ready;                      /* the last one given was of these: receive the next */
};

int inbox_new(struct inbox **out, void *socket, struct admit *admit, struct catalog *const *catalog,
    const struct text_model *text, const struct request_limits *limits, struct err *e)
{
    struct inbox *in = *out = xcalloc(1, sizeof *in);
    in->socket = socket;
    in->catalog = catalog;
    in->with = (struct preparing){.admit = admit, .limits = limits, .most_us = PREPARING_US};
    in->ready_end = &in->ready;
    for (int i = 0; i < INBOX_LINES; i++)
        in->lines[i].end = &in->lines[i].first;
    int rc = preparers_new(&in->preparers, admit->model, *catalog ? NULL : text, limits, e);
    if (rc != 0)
        inbox_free(out);
    return rc;
}

int inbox_fd(const struct inbox *in)
{
    return preparers_fd(in->preparers);
}

/* ---- a message ---- */

static struct line *line_of(struct inbox *in, const struct message *m)
{
    return &in->lines[(m->envelope.connection >> 32) % INBOX_LINES];
}

struct slice message_bytes(struct message *m)
{
    return (struct slice){zmq_msg_data(&m->body), zmq_msg_size(&m->body)};
}

static void keep(struct message *m, size_t bytes)
{
    connections_keep(bytes);
    m->kept += bytes;
}

/* The message itself. */
static void keep_bytes(struct message *m)
{
    keep(m, zmq_msg_size(&m->body) + FRAMES_EACH_BYTES);
}

void message_free(struct message **out)
{
    struct message *m = *out;
    if (m->kept > 0)
        connections_let_go(m->kept);
    prepared_release(&m->task.prepared);
    zmq_msg_close(&m->body);
    free(m->sessions);
    free(m);
    *out = NULL;
}

/* Receives envelope and body of one message. 1: a message with a body; 0: a bad one; -1: none. */
static int receive_frames(struct inbox *in, struct message *m)
{
    struct envelope *env = &m->envelope;
    zmq_msg_t frame;
    int n = 0, more = 1, delimited = 0, bodies = 0, bad = 0;
    while (more) {
        zmq_msg_init(&frame);
        if (zmq_msg_recv(&frame, in->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&frame);
            connections_none_left(now_mono_ms());
            return n == 0 ? -1 : 0;
        }
        if (n > 0)
            connections_taken(zmq_msg_size(&frame));
        more = zmq_msg_more(&frame);
        int is_last = !more, is_empty = zmq_msg_size(&frame) == 0;
        /* The first frame is the routing id. The envelope is all frames up to the first empty one;
         * the body is the single frame after it, or the only frame after the routing id. */
        if (n > 0 && (delimited || (is_last && n == 1))) {
            zmq_msg_move(&m->body, &frame);
            env->connection = connections_of(zmq_msg_get(&m->body, ZMQ_SRCFD));
            bodies++;
        } else if (envelope_add(env, zmq_msg_data(&frame), zmq_msg_size(&frame)) != 0) {
            bad = 1;
        }
        delimited |= n > 0 && is_empty && bodies == 0;
        n++;
        zmq_msg_close(&frame);
    }
    return !bad && bodies == 1;
}

static int receive(struct inbox *in, struct message **out)
{
    struct message *m = *out = xcalloc(1, sizeof *m);
    zmq_msg_init(&m->body);
    int got = receive_frames(in, m);
    if (got <= 0)
        message_free(out);
    return got;
}

/* ---- lines ---- */

/* Returns whether it is the first. */
static int join_line(struct inbox *in, struct message *m)
{
    struct line *l = line_of(in, m);
    *l->end = m;
    l->end = &m->next;
    return l->first == m;
}

/* The first leaves. Returns the next. */
static struct message *leave_line(struct inbox *in, struct message *m)
{
    struct line *l = line_of(in, m);
    if (!(l->first = m->next))
        l->end = &l->first;
    return l->first;
}

static void add_ready(struct inbox *in, struct message *m)
{
    *in->ready_end = m;
    in->ready_end = &m->next_ready;
}

static struct message *take_ready(struct inbox *in)
{
    struct message *m = in->ready;
    if (m && !(in->ready = m->next_ready))
        in->ready_end = &in->ready;
    if (m)
        m->next_ready = NULL;
    return m;
}

/* ---- all ---- */

/* A message keeps the catalog that it is prepared with. */
static void take_catalog(const struct inbox *in, struct prepared *p)
{
    if (!p->catalog)
        p->catalog = catalog_use(*in->catalog);
}

static void send_away(struct inbox *in, struct message *m)
{
    take_catalog(in, &m->task.prepared);
    m->is_away = 1;
    m->task.message = message_bytes(m);
    preparers_give(in->preparers, &m->task);
}

struct message *message_of(struct task *t)
{
    return (struct message *)((char *)t - offsetof(struct message, task));
}

/* In a thread: releasing a message of 60 MB takes some 10 ms, and so do rows of sessions. */
static void release(struct task *t, const struct preparing *with)
{
    (void)with;
    struct message *m = message_of(t);
    prepared_release(&t->prepared);
    zmq_msg_close(&m->body);
    zmq_msg_init(&m->body);
}

static void add_over(struct inbox *in, struct message *m)
{
    m->next = in->over;
    in->over = m;
    m->task.work = release;
    m->task.is_urgent = 1;
    preparers_give(in->preparers, &m->task);
}

static void free_over(struct inbox *in, struct message *m)
{
    struct message **at = &in->over;
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    message_free(&m);
}

/* Takes those back that threads have prepared or released. */
static void take_back(struct inbox *in)
{
    for (struct task *t; (t = preparers_take(in->preparers));) {
        struct message *m = message_of(t);
        if (t->is_done) {
            *t->is_done = 1;
            continue;
        }
        if (t->work == release) {
            free_over(in, m);
            continue;
        }
        m->is_away = 0;
        t->work = NULL;
        if (!t->prepared.is_decoded) { /* its body is another */
            inbox_again(in, m);
            continue;
        }
        keep(m, prepared_bytes(&t->prepared));
        if (line_of(in, m)->first == m)
            add_ready(in, m);
    }
}

/* Puts a message aside that came just now, unless it can be prepared here and now: 1. */
static int take_in(struct inbox *in, struct message *m)
{
    int is_first = join_line(in, m), is_small = zmq_msg_size(&m->body) <= INBOX_SMALL_BYTES;
    if (is_first && is_small)
        return 1;
    keep_bytes(m);
    if (!is_small)
        send_away(in, m);
    return 0;
}

int inbox_next(struct inbox *in, struct message **out)
{
    take_back(in);
    *out = in->was_ready ? NULL : take_ready(in);
    in->was_ready = *out != NULL;
    if (!*out) {
        int got = receive(in, out);
        if (got < 0 && !(*out = take_ready(in)))
            return got;
        if (got == 0 || (got > 0 && !take_in(in, *out)))
            return 0;
    }
    struct prepared *p = &(*out)->task.prepared;
    take_catalog(in, p);
    if (p->is_decoded || prepare(p, &in->with, message_bytes(*out)))
        return 1;
    if ((*out)->kept == 0)
        keep_bytes(*out);
    send_away(in, *out);
    return 0;
}

void inbox_done(struct inbox *in, struct message **m)
{
    struct message *next = leave_line(in, *m);
    const struct session_work *w = (*m)->task.prepared.work;
    if ((*m)->kept > RELEASED_BYTES || (w && w->bytes > RELEASED_BYTES))
        add_over(in, *m);
    else
        message_free(m);
    *m = NULL;
    if (next && !next->is_away)
        add_ready(in, next);
}

void inbox_again(struct inbox *in, struct message *m)
{
    if (m->kept > 0)
        connections_let_go(m->kept);
    m->kept = 0;
    keep_bytes(m);
    keep(m, prepared_bytes(&m->task.prepared));
    int is_small = m->task.prepared.is_decoded || zmq_msg_size(&m->body) <= INBOX_SMALL_BYTES;
    if (m->task.work || !is_small)
        send_away(in, m);
    else
        add_ready(in, m);
}

void inbox_give(struct inbox *in, struct task *t)
{
    preparers_give(in->preparers, t);
}

void inbox_stop(struct inbox *in)
{
    preparers_stop(in->preparers);
}

int inbox_rest(struct inbox *in, struct message **out)
{
    while (in->at_line < INBOX_LINES && !in->lines[in->at_line].first)
        in->at_line++;
    if (in->at_line == INBOX_LINES)
        return receive(in, out);
    *out = in->lines[in->at_line].first;
    leave_line(in, *out);
    return 1;
}

void inbox_free(struct inbox **out)
{
    struct inbox *in = *out;
    struct message *m;
    if (!in)
        return;
    preparers_free(&in->preparers);
    while (in->over)
        free_over(in, in->over);
    for (int i = 0; i < INBOX_LINES; i++)
        while ((m = in->lines[i].first)) {
            leave_line(in, m);
            message_free(&m);
        }
    free(in);
    *out = NULL;
}
