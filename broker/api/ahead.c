/* ahead.c - keeps the large messages that wait, and writes rows of the first, for some
 * milliseconds a tick (ahead.h). */
#include "broker/api/ahead.h"

#include <string.h>

#include "broker/api/kept.h"
#include "broker/api/requests.h"
#include "broker/api/send.h"
#include "broker/transaction.h"

#define LARGE_BYTES                                                                                \
    (512u << 10)        /* of rows, prepared or as they came; they take some 5 ms to write */
#define WRITING_US 2500 /* of a tick; committing takes about as long again */

static int is_large(const struct prepared *p)
{
    return store_rows_bytes(p->rows) > LARGE_BYTES || p->request.rows.len > LARGE_BYTES;
}

static int has_come(const struct broker *b, const struct prepared *p)
{
    return b->ahead.handled && &b->ahead.handled->task.prepared == p;
}

int ahead_must_wait(const struct broker *b, const struct prepared *p, struct slice key)
{
    const struct message *first = b->ahead.first;
    if (has_come(b, p) || kept_has_come(b, p))
        return 0;
    return is_large(p) || (first && key.at && first->task.prepared.request.key.at &&
                              slice_is_same(first->task.prepared.request.key, key));
}

void ahead_add(struct broker *b, struct message *m)
{
    struct ahead *a = &b->ahead;
    m->next_ready = NULL;
    if (a->first)
        a->last->next_ready = m;
    else
        a->first = m;
    a->last = m;
}

struct message *ahead_next(struct broker *b)
{
    struct ahead *a = &b->ahead;
    if (!a->is_written)
        return NULL;
    a->is_written = 0;
    a->handled = a->first;
    a->first = a->handled->next_ready;
    a->handled->next_ready = NULL;
    return a->handled;
}

void ahead_done(struct broker *b)
{
    b->ahead.handled = NULL;
    store_forget_ahead(b->store);
}

static int write_some(struct broker *b, const struct prepared *p, struct err *e)
{
    const struct request *q = &p->request;
    struct store_ahead_of of = {
        q->key, q->chunk, q->n_rows, p->rows, p->encoded, request_is_slow(p)};
    int rc = transaction_begin(b, e);
    int more = rc == 0 ? store_write_ahead(b->store, &of, WRITING_US, e) : rc;
    rc = more >= 0 ? transaction_commit(b, e) : more;
    return rc == 0 ? more : rc;
}

int ahead_go_on(struct broker *b)
{
    struct err e = {0};
    struct ahead *a = &b->ahead;
    if (!a->first || (!a->is_written && store_large_waits(b->store)))
        return 0;
    struct prepared *p = &a->first->task.prepared;
    int rc = a->is_written || !is_large(p) ? 0 : write_some(b, p, &e);
    a->is_written = rc != 1;
    b->wake |= !replies_are_full(b); /* else once some have left */
    if (rc >= 0)
        return 1;
    transaction_forgo(b, &e);
    store_forget_ahead(b->store);
    transaction_refuse(&e);
    p->rc = e.code;
    p->err = e;
    return 1;
}
