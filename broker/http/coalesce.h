/* coalesce.h - which requests make one job, when, and in what order their rows go.
 *
 * Trainers post one sample a request. Sent as they come, they would be jobs of one row, and lose
 * the sharing of prompts and full batches. So:
 *
 *     the broker is idle     a request goes at once: a lone client waits for nobody
 *     a group may be idle    what waits goes COALESCE_LEAST_US after the first came, and as long as more
 *                            keep coming, COALESCE_MOST_US after it; so too where several came at
 *                            once, or where a job of several requests has just ended, since their
 *                            clients will send the next ones
 *     every group is busy    it goes when a job is nearly over, or while more keep coming up to
 *                            COALESCE_MOST_US later: rows that are sent earlier would wait in the
 *                            broker, and not beside those that are still to come
 *
 * A job that will take long is worth a longer wait, since those who come too late may begin alike and
 * would be computed from their beginning: then more are waited for up to a 16th of its time, and it
 * goes when none came for a 64th.
 *
 * Each model's requests are by themselves: a job is of one model, and models have groups of their
 * own. There is at most one job more of a model with the broker than it has groups. A request of
 * COALESCE_LARGE_ROWS rows is a job of its own at once and does not count. */
#ifndef ASSAY_HTTP_COALESCE_H
#define ASSAY_HTTP_COALESCE_H

#include "broker/http/ticket.h"

#define COALESCE_LEAST_US 2000
#define COALESCE_MOST_US 5000
#define COALESCE_QUIET_US 1000
#define COALESCE_MOST_PART 16
#define COALESCE_QUIET_PART 64
#define COALESCE_LONG_US 2000000 /* a job of more waits as one of this time */
#define COALESCE_RECENT_US 10000 /* a job that ended so long ago has just ended */
#define COALESCE_LEAD_US 10000   /* before a job's end, in which the next is made and sent */
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

/* What the broker has of this process, of one model. */
struct coalesce_load {
    int n_sent, n_groups;     /* jobs that count; the model's worker groups */
    long long soonest_end_us; /* when one of them should be over; 0: not known */
    long long last_end_us;    /* when the last one was; 0: none was */
    int last_was_shared;      /* by several requests */
    long long takes_us;       /* what a job of all that wait would take; 0: not known */
};

/* When what waits should go: a moment (perhaps past), or FOREVER. */
long long coalesce_due(const struct coalesce *c, const struct coalesce_load *load);

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
