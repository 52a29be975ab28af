/* coalesce.h - which requests make one job, when, and in what order their rows go.
 *
 * Trainers post one sample a request. Sent as they come, they would be jobs of one row, and lose
 * the sharing of prompts and full batches. So:
 *
 *     nothing is computed        what waits goes at once: a lone client waits for nobody
 *     a place is free            it goes COALESCE_LEAST_US after the first came, and as long as more
 *                                keep coming, COALESCE_MOST_US after it
 *     no place is free           it waits for one: rows that are sent earlier would wait in the
 *                                broker, and not beside those that are still to come
 *
 * There are as many places as worker groups, and one more, so that a group never waits. A request
 * of COALESCE_LARGE_ROWS rows is a job of its own at once and takes no place. */
#ifndef ASSAY_HTTP_COALESCE_H
#define ASSAY_HTTP_COALESCE_H

#include "broker/http/ticket.h"

#define COALESCE_LEAST_US 2000
#define COALESCE_MOST_US 5000
#define COALESCE_QUIET_US 1000
#define COALESCE_LARGE_ROWS 64

struct coalesce {
    struct ticket *first, **end; /* those that wait, in the order in which they came */
    uint32_t n, n_rows;
    size_t n_bytes;
    long long last_us; /* when the last came */
};

void coalesce_init(struct coalesce *c);
void coalesce_add(struct coalesce *c, struct ticket *t, long long now_us);
/* Takes out one that waits. */
void coalesce_remove(struct coalesce *c, struct ticket *t);

/* When what waits should go, given how many jobs are with the broker and how many places there are:
 * a moment (perhaps past), or FOREVER. */
long long coalesce_due(const struct coalesce *c, int n_sent, int n_places);

/* Takes those that make the next job: all that waits, within max_rows and max_bytes, at least one.
 * Returns the first of a list. */
struct ticket *coalesce_take(struct coalesce *c, uint32_t max_rows, size_t max_bytes);

/* A row of a job: that of a ticket. */
struct job_row {
    struct ticket *ticket;
    uint32_t i;
};
/* Puts rows with the same beginning side by side; equal ones stay in the order in which they
 * came. */
void coalesce_order(struct job_row *rows, uint32_t n);

#endif
