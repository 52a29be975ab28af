/* kept.c - reads, prepares and places the first job's next chunk (kept.h). */
#include "broker/api/kept.h"

#include <stdlib.h>
#include <string.h>

#include "broker/api/connections.h"
#include "broker/api/requests.h"
#include "broker/transaction.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

#define PART_US 2000           /* of a tick; committing takes about as long again */
#define DROPPING_US 1000       /* likewise, deleting; committing takes several times that */
#define SMALL_US 3000          /* of a request, for chunks that it lets go on */
#define SMALL_BYTES (32 << 10) /* so much text takes some 2 ms to prepare */
#define AGAIN_MS 1000

struct kept_job {
    int64_t job;
    struct message *message; /* NULL: none */
    struct kept_job *next;
};

struct kept_work {
    struct task task;
    int is_back; /* a thread does not have it */
    enum { READ, PREPARE, PLACE, RELEASE, DROP } step;
    struct store_pending chunk;
    uint32_t model; /* its job's */
    struct catalog_pins pins;
    struct catalog *catalog; /* in use */
    uint8_t *bytes;          /* its encoded rows, until they are placed; NULL: the message's */
    const struct store_rows *rows; /* `own`, or the message's */
    struct store_rows *own;
    struct store_written placed;
    size_t counted; /* bytes of memory that connections.h counts */
    int rc;         /* of preparing them */
    struct err err;
};

/* Rows that name what is another checkpoint now than in the job's rows before are not scored by
 * it. */
static void refuse_others(struct broker *b, const struct store_pending *p, struct store_rows **rows)
{
    struct err e = {0};
    if (store_check_routes(b->store, p->job, *rows, &e) == 0)
        return;
    log_warn(
        "event=chunk_refused job=%lld chunk=%u reason=\"%s\"", (long long)p->job, p->chunk, e.msg);
    store_rows_free(rows);
    *rows = store_damaged_rows(p->n_left);
}

/* ---- at once ---- */

/* Places the chunk with the request: 1 when it is not placed whole. */
static int place_now(struct broker *b, struct store_pending *p, long long until_us, struct err *e)
{
    struct catalog_pins pins = {0};
    const struct preparing with = {.admit = &b->admit,
        .limits = &b->limits,
        .model = request_model_of_job(b, p->job, &pins),
        .pins = &pins,
        .catalog = b->catalog};
    struct store_rows *rows = NULL;
    struct store_written w = {0};
    uint8_t *bytes = xcalloc(1, p->bytes + 1);
    int rc = store_read_pending(b->store, p, bytes, INT64_MAX, e);
    if (rc == 0)
        rc = prepare_pending(&rows, &with, p, bytes, e);
    if (rc == 0)
        refuse_others(b, p, &rows);
    if (rc == 0)
        rc = store_place_pending(b->store, p, rows, &w, until_us, e);
    if (rc == 0)
        rc = store_drop_pieces(b->store, p->job, p->chunk, INT64_MAX, e);
    store_rows_free(&rows);
    free(bytes);
    return rc;
}

int kept_place_small(struct broker *b, int64_t job, struct err *e)
{
    struct store_pending p;
    long long until_us = now_mono_us() + SMALL_US;
    int rc;
    while ((rc = store_next_pending(b->store, job, &p, e)) == 1) {
        if (p.bytes > SMALL_BYTES || now_mono_us() >= until_us)
            return 1;
        if ((rc = place_now(b, &p, until_us, e)) != 0)
            return rc;
    }
    return rc;
}

/* ---- jobs that wait ---- */

void kept_add(struct broker *b, int64_t job, struct message *m)
{
    struct kept_chunks *k = &b->kept;
    struct kept_job *j = xcalloc(1, sizeof *j);
    *j = (struct kept_job){.job = job, .message = m};
    if (k->first)
        k->last->next = j;
    else
        k->first = j;
    k->last = j;
    b->wake = 1;
}

int kept_look(struct broker *b, int64_t job, struct err *e)
{
    struct store_pending p;
    int rc = store_next_pending(b->store, job, &p, e);
    if (rc == 1)
        kept_add(b, job, NULL);
    return rc < 0 ? rc : 0;
}

int kept_begin(struct broker *b, struct err *e)
{
    int64_t job = 0;
    int rc;
    while ((rc = store_jobs_with_pending(b->store, job, &job, e)) == 1)
        kept_add(b, job, NULL);
    return rc;
}

struct message *kept_next(struct broker *b)
{
    struct kept_chunks *k = &b->kept;
    struct message *m = k->handled = k->done;
    if (m) {
        k->done = m->next_ready;
        m->next_ready = NULL;
    }
    return m;
}

void kept_done(struct broker *b)
{
    b->kept.handled = NULL;
}

int kept_has_come(const struct broker *b, const struct prepared *p)
{
    return b->kept.handled && &b->kept.handled->task.prepared == p;
}

/* The message is to be handled once more, which answers it. */
static void give_message(struct broker *b, struct kept_job *j)
{
    struct message **end = &b->kept.done;
    if (!j->message)
        return;
    while (*end)
        end = &(*end)->next_ready;
    j->message->next_ready = NULL;
    *end = j->message;
    j->message = NULL;
    b->wake = 1;
}

/* The first job's next chunk is not there. */
static void end_job(struct broker *b)
{
    struct kept_job *j = b->kept.first;
    give_message(b, j);
    b->kept.first = j->next;
    free(j);
    b->wake |= b->kept.first != NULL;
}

/* ---- the first one's next chunk ---- */

static void count(struct kept_work *w, size_t bytes)
{
    connections_keep(bytes);
    w->counted += bytes;
}

static void release_memory(struct kept_work *w)
{
    store_rows_free(&w->own);
    free(w->bytes);
    w->bytes = NULL;
    w->rows = NULL;
}

static void free_work(struct kept_work **out)
{
    struct kept_work *w = *out;
    if (!w)
        return;
    release_memory(w);
    catalog_let_go(&w->catalog);
    if (w->counted > 0)
        connections_let_go(w->counted);
    free(w);
    *out = NULL;
}

/* In a thread. */
static void prepare_work(struct task *t, const struct preparing *with)
{
    struct kept_work *w = (struct kept_work *)t; /* its first member */
    struct preparing own = *with;
    own.model = w->model;
    own.pins = &w->pins;
    own.catalog = w->catalog;
    w->rc = prepare_pending(&w->own, &own, &w->chunk, w->bytes, &w->err);
    w->rows = w->own;
}

/* In a thread: releasing 60 MB takes some 10 ms. */
static void release_work(struct task *t, const struct preparing *with)
{
    (void)with;
    release_memory((struct kept_work *)t);
}

static void give_to_thread(
    struct broker *b, struct kept_work *w, void (*work)(struct task *, const struct preparing *))
{
    w->is_back = 0;
    w->task = (struct task){.work = work, .is_done = &w->is_back};
    w->task.is_urgent = work == release_work;
    inbox_give(b->inbox, &w->task);
}

/* The rows of the job's message, if they are this chunk's: another one may be there by now, if the
 * tick that kept this one was undone. */
static const struct store_rows *rows_of_message(
    const struct kept_job *j, const struct store_pending *p)
{
    const struct prepared *q = j->message ? &j->message->task.prepared : NULL;
    int is_it = q && p->n_placed == 0 && p->digest_len == sizeof q->digest &&
                memcmp(p->digest, q->digest, sizeof q->digest) == 0;
    return is_it ? q->rows : NULL;
}

static int begin_work(struct broker *b, struct kept_job *j, struct err *e)
{
    struct store_pending p;
    int rc = store_next_pending(b->store, j->job, &p, e);
    if (rc != 1) {
        if (rc == 0)
            end_job(b);
        return rc;
    }
    struct kept_work *w = b->kept.work = xcalloc(1, sizeof *w);
    w->chunk = p;
    w->model = request_model_of_job(b, p.job, &w->pins);
    w->catalog = catalog_use(b->catalog);
    w->rows = rows_of_message(j, &p);
    w->is_back = 1;
    w->step = w->rows ? PLACE : READ;
    if (w->rows)
        return 0;
    w->bytes = xcalloc(1, p.bytes + 1);
    count(w, p.bytes);
    return 0;
}

static int read_part(struct broker *b, struct kept_work *w, struct err *e)
{
    int rc = store_read_pending(b->store, &w->chunk, w->bytes, now_mono_us() + PART_US, e);
    if (rc == 0) {
        w->step = PREPARE;
        give_to_thread(b, w, prepare_work);
    }
    return rc < 0 ? rc : 0;
}

/* Writes a part: 1 when there is more. */
static int write_part(struct broker *b, struct kept_work *w, struct err *e)
{
    int rc = transaction_begin(b, e);
    if (rc != 0)
        return rc;
    long long until_us = now_mono_us() + (w->step == PLACE ? PART_US : DROPPING_US);
    int more = w->step == PLACE
                   ? store_place_pending(b->store, &w->chunk, w->rows, &w->placed, until_us, e)
                   : store_drop_pieces(b->store, w->chunk.job, w->chunk.chunk, until_us, e);
    rc = more >= 0 ? transaction_commit(b, e) : more;
    return rc == 0 ? more : rc;
}

static int place_part(struct broker *b, struct kept_work *w, struct err *e)
{
    int rc = write_part(b, w, e);
    if (rc < 0)
        return rc;
    request_touch(b, w->chunk.job);
    if (rc == 1)
        return 0;
    w->step = RELEASE;
    give_to_thread(b, w, release_work);
    return 0;
}

static int drop_part(struct broker *b, struct kept_work *w, struct err *e)
{
    int rc = write_part(b, w, e);
    if (rc == 0)
        free_work(&b->kept.work);
    return rc < 0 ? rc : 0;
}

static int go_on(struct broker *b, struct kept_work *w, struct err *e)
{
    switch (w->step) {
    case READ:
        return read_part(b, w, e);
    case PREPARE:
        count(w, store_rows_bytes(w->own));
        w->step = PLACE;
        if (w->rc != 0) {
            *e = w->err;
            return w->rc;
        }
        refuse_others(b, &w->chunk, &w->own);
        w->rows = w->own;
        return 0;
    case PLACE:
        return place_part(b, w, e);
    case RELEASE:
        w->step = DROP;
        return 0;
    case DROP:
        return drop_part(b, w, e);
    }
    return 0;
}

int kept_go_on(struct broker *b)
{
    struct err e = {0};
    struct kept_chunks *k = &b->kept;
    if (!k->first || (k->work && !k->work->is_back) || now_mono_ms() < k->again_ms ||
        store_large_waits(b->store))
        return 0;
    int rc = k->work ? go_on(b, k->work, &e) : begin_work(b, k->first, &e);
    b->wake |= k->first && (!k->work || k->work->is_back);
    if (rc >= 0)
        return 1;
    free_work(&k->work);
    transaction_forgo(b, &e);
    give_message(b, k->first); /* it is accepted, or not there */
    k->again_ms = now_mono_ms() + AGAIN_MS;
    return 1;
}

void kept_release(struct broker *b)
{
    struct kept_chunks *k = &b->kept;
    free_work(&k->work);
    for (struct kept_job *j = k->first, *next; j; j = next) {
        next = j->next;
        free(j);
    }
    *k = (struct kept_chunks){0};
}
