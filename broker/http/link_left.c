/* link_left.c - rows of requests whose clients have left, or waited too long (link_private.h).
 *
 * A client that gives up after its time-out sends the request again. So its rows stay with the broker
 * for LEFT_US: a stand-in takes the ticket's place in its job. A request with the same rows, of the
 * same checkpoint and mode, takes the stand-in's place, or its results where they are there already.
 * Nobody may come: then the rows are cancelled as those of any other that is over.
 *
 * Results are given only once the broker has said, after the request came, that it still has the
 * checkpoint, mode and adapters which they are of. Rows under way need no such question: their reply
 * says what they are of.
 *
 * LIMITS: one that comes before the first connection is known to be closed is computed by itself, and
 * so is an ensemble's. */
#include "broker/http/link_private.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/clock.h"

#define LEFT_US 10000000
#define LEFT_MOST 1000
#define ANSWER_US 1000000      /* a broker that takes longer is not waited for */
#define LEFT_BYTES (64u << 20) /* of results */
#define HASH_BYTES 32

struct left {
    struct left *next;
    struct link *link;
    struct ticket ticket; /* the stand-in; later with its results */
    struct rows rows;     /* their number alone */
    struct card *card;
    unsigned char hash[HASH_BYTES]; /* of the model's name and the rows */
    size_t n_bytes;                 /* of the results, once they are there */
    int is_done;
    struct ticket *waiter; /* came for the results: the broker's answer is waited for */
    long long asked_us;    /* .. since then */
};

static void hash_of(unsigned char hash[HASH_BYTES], const struct ticket *t)
{
    const struct msg_writer *w = &t->rows->bytes;
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, HASH_BYTES);
    crypto_generichash_update(
        &state, (const unsigned char *)t->model->name, strlen(t->model->name) + 1);
    crypto_generichash_update(&state, (const unsigned char *)w->buffer.data, w->buffer.size);
    crypto_generichash_final(&state, hash, HASH_BYTES);
}

static void forget(struct link *l, struct left *left)
{
    struct left **at = &l->left;
    while (*at != left)
        at = &(*at)->next;
    *at = left->next;
    l->n_left--;
    l->left_bytes -= left->n_bytes;
    ticket_release(&left->ticket);
    card_release(&left->card);
    free(left);
}

static size_t count_bytes(const struct ticket *t)
{
    size_t n = 0;
    for (uint32_t k = 0; k < t->rows->n; k++) {
        const struct row_result *row = &t->results[k];
        n += sizeof *row + (size_t)row->n * row->width * sizeof *row->values;
    }
    return n;
}

/* The stand-in's `done`. */
static void on_done(struct ticket *t)
{
    struct left *left = t->owner;
    size_t n = t->error.code == 0 ? count_bytes(t) : 0;
    if (t->error.code != 0 || left->link->left_bytes + n > LEFT_BYTES)
        return forget(left->link, left);
    left->is_done = 1;
    left->n_bytes = n;
    left->link->left_bytes += n;
}

int link_is_left(const struct ticket *t)
{
    return t->done == on_done;
}

void link_leave_job(struct link *l, struct job *job, struct ticket *t)
{
    int may_come = t->error.code == ASSAY_EGONE || t->error.code == ASSAY_ETIMEOUT;
    if (!may_come || link_is_left(t) || l->n_left == LEFT_MOST || t->n_all > 0)
        return job_leave(job, t);
    struct left *left = xcalloc(1, sizeof *left);
    left->link = l;
    left->card = card_hold((struct card *)t->card);
    left->rows.n = t->rows->n;
    hash_of(left->hash, t);
    left->ticket = (struct ticket){.rows = &left->rows,
        .card = t->card,
        .model = t->model,
        .adapter = t->adapter,
        .deadline_us = now_mono_us() + LEFT_US,
        .done = on_done,
        .owner = left};
    left->next = l->left;
    l->left = left;
    l->n_left++;
    job_swap(job, t, &left->ticket);
}

static int stands(const struct left *left, const struct card *now)
{
    const struct card_choice choice = {left->ticket.model, left->ticket.adapter};
    return card_choice_stands(&choice, now);
}

static struct left *find(struct link *l, const struct ticket *t)
{
    unsigned char hash[HASH_BYTES];
    struct left *left = l->left;
    if (left)
        hash_of(hash, t);
    while (left && !(memcmp(left->hash, hash, HASH_BYTES) == 0 && left->rows.n == t->rows->n &&
                       !left->waiter && stands(left, t->card)))
        left = left->next;
    return left;
}

int link_come_back(struct link *l, struct ticket *t)
{
    struct left *left = find(l, t);
    if (!left)
        return 0;
    if (left->is_done) {
        left->waiter = t;
        left->asked_us = now_mono_us();
        link_want_info(l);
    } else {
        job_swap(left->ticket.in, &left->ticket, t);
        t->sent_us = now_mono_us(); /* it waited for nothing */
        forget(l, left);
    }
    return 1;
}

static void give(struct link *l, struct left *left)
{
    struct ticket *t = left->waiter;
    t->results = left->ticket.results;
    left->ticket.results = NULL;
    memcpy(t->job, left->ticket.job, sizeof t->job);
    t->sent_us = left->asked_us;
    forget(l, left);
    link_finish(t, NULL);
}

/* Its rows are computed, as if nobody had left. */
static void forgo(struct link *l, struct left *left)
{
    struct ticket *t = left->waiter;
    forget(l, left);
    if (t)
        link_take_new(l, t);
}

static int still_holds(const struct link *l, const struct left *left)
{
    return stands(left, l->card);
}

void link_check_left(struct link *l)
{
    for (struct left *left = l->left, *next; left; left = next) {
        next = left->next;
        if (!left->is_done)
            continue;
        if (!still_holds(l, left))
            forgo(l, left);
        else if (left->waiter && left->asked_us <= l->asked_us)
            give(l, left);
    }
}

void link_expire_left(struct link *l, long long now_us)
{
    for (struct left *left = l->left, *next; left; left = next) {
        struct ticket *t = left->waiter;
        next = left->next;
        if (t && link_is_over(l, t, now_us)) {
            left->waiter = NULL;
            link_finish(t, NULL);
        } else if (t ? left->asked_us + ANSWER_US < now_us
                     : left->is_done && left->ticket.deadline_us < now_us) {
            forgo(l, left);
        }
    }
}

void link_count_left(const struct link *l)
{
    for (const struct left *left = l->left; left; left = left->next)
        if (!left->is_done)
            left->ticket.in->lane->n_running--;
}

void link_end_left(struct link *l, const struct err *e)
{
    while (l->left) {
        struct ticket *t = l->left->waiter;
        forget(l, l->left);
        if (t)
            link_finish(t, e);
    }
}
