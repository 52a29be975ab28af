/* ticket.h - a request on its way through the link (link.h): its rows there, its results back. */
#ifndef ASSAY_HTTP_TICKET_H
#define ASSAY_HTTP_TICKET_H

#include <stdatomic.h>

#include "broker/ask/results.h"
#include "broker/ask/rows.h"

struct card;
struct card_choice;
struct card_model;
struct job;

#define TICKET_JOB_BYTES 24

struct ticket {
    /* Set by the owner, who touches nothing from link_submit until `done` is called, in the link's
     * thread. */
    const struct rows *rows;        /* NULL: it waits for a newer card alone */
    const struct card *card;        /* under which it was decoded, and */
    const struct card_model *model; /* the one in it that its client means: no other's scores are
                                       its own; of an ensemble the first */
    const char *adapter;            /* .. through which it scores; NULL: none */
    const struct card_choice *all;  /* [n_all] an ensemble's models; n_all 0: none */
    int n_all;
    long long deadline_us;
    void (*done)(struct ticket *t);
    void *owner;
    /* Set by the link. */
    struct row_result *results; /* [rows->n] where error.code is 0 */
    struct err error;
    char job[TICKET_JOB_BYTES]; /* the broker's number of the job; empty: none */
    long long sent_us;          /* when its rows first went to the broker; 0: they did not */
    /* The link's own. */
    struct ticket *next;
    struct job *in;
    long long since_us;
    uint32_t n_left;    /* rows without a result */
    atomic_int is_gone; /* its client has left */
    int is_alone;       /* a job of its own: with others it was refused */
};

void ticket_release(struct ticket *t);

#endif
