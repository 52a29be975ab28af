/* inbox.h - messages of clients, from the socket until they are handled.
 *
 * A small message is prepared here (prepare.h), a large one by a thread (preparers.h) while the
 * loop goes on. The messages of one connection are given in their order: one that is not prepared
 * yet has those behind it wait here, prepared or not. What is put aside is counted in
 * connections.h, so all of it has a bound.
 *
 * LIMITS: connections whose numbers differ by a multiple of INBOX_LINES share a line. */
#ifndef ASSAY_INBOX_H
#define ASSAY_INBOX_H

#include <zmq.h>

#include "broker/api/outbox.h"
#include "broker/api/preparers.h"

#define INBOX_LINES 4096
/* A larger message goes to a thread. So much text takes some 10 ms; of ids alone, which take a
 * hundredth of that, a thread would not get more through. */
#define INBOX_SMALL_BYTES (160 << 10)

struct message {
    struct task task;
    struct envelope envelope;
    zmq_msg_t body;
    size_t kept;                  /* bytes counted as put aside */
    struct store_retried retried; /* of a `retry` that goes on in later ticks, */
    uint32_t undone;              /* as of this number of the broker's undone ticks */
    int64_t *sessions;            /* [n_sessions] whose rows its rows are, of a score of sessions */
    uint32_t n_sessions;          /* (sched/homes.h); owned; NULL: not kept */
    int is_away;                  /* a thread has it */
    struct message *next;         /* in its line */
    struct message *next_ready;   /* in the list of those whose turn it is */
};

void message_free(struct message **m);

struct inbox;

/* socket: ROUTER, borrowed. admit: the loop's own. *catalog: the one that messages are prepared
 * with; it may become another. NULL: text, and admit's model, for all. The pointers must outlive
 * it. Starts threads with the caller's signal mask. */
int inbox_new(struct inbox **in, void *socket, struct admit *admit, struct catalog *const *catalog,
    const struct text_model *text, const struct request_limits *limits, struct err *e);
void inbox_free(struct inbox **in);   /* with the messages in it; NULL-safe */
int inbox_fd(const struct inbox *in); /* readable when a thread has prepared a message */

/* Gives the next prepared message, which inbox_done takes back: 1. 0: a message
 * came, and was dropped or put aside; -1: there is none. */
int inbox_next(struct inbox *in, struct message **m);
void inbox_done(struct inbox *in, struct message **m);
/* Takes back a message, to give it once more before those behind it in its line: after a thread has
 * done m->task.work, if that is not NULL, and prepared again if its body is another now. */
void inbox_again(struct inbox *in, struct message *m);
struct message *message_of(struct task *t); /* in such work */
struct slice message_bytes(struct message *m);
/* Has a thread do t->work. *t->is_done is 1 when that is over. The caller's, until then the
 * inbox's; it ends with the threads. */
void inbox_give(struct inbox *in, struct task *t);

/* Stops the threads. inbox_next must not be called any more, but this, until it returns -1: gives
 * what is there and what still comes, prepared or not, as inbox_next does. The caller frees it. */
void inbox_stop(struct inbox *in);
int inbox_rest(struct inbox *in, struct message **m);

#endif
