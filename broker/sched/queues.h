/* queues.h - the queues of jobs with rows to run: a heap by (stalled, priority, tokens served, job)
 * says whose turn it is, an array by job finds them. The number of jobs is not limited; a turn
 * costs its logarithm. The rows of a queue wait in lines: one for each model and home. */
#ifndef ASSAY_QUEUES_H
#define ASSAY_QUEUES_H

#include <stddef.h>
#include <stdint.h>

#include "broker/sched/homes.h"

struct sequence;

/* The rows of a queue that go through one model and have one home, as far as they are read. */
struct line {
    struct sequence *first, *last;
    uint32_t looked; /* how many of the first ones were prefetched for dedupe */
};

struct queue {
    int64_t job;
    int priority;
    uint64_t served;    /* tokens given out, plus those it started at (queues_add) */
    int64_t after;      /* the next window begins after this row number */
    struct line *lines; /* [n_lanes * n_homes] by the number of the model, and by home */
    uint32_t n_lanes, n_homes;
    uint32_t n_held;     /* rows in all of them */
    uint32_t row_tokens; /* of the last row read; 0: none yet */
    int exhausted;       /* the store has no row after `after` now */
    int rescan;          /* rows before `after` may be queued again: the job changed */
    int fresh;
    int stalled;        /* its first row cannot be taken this round */
    int copies;         /* its last row taken needed no computing */
    int begun;          /* a row of it was given out */
    long long since_us; /* when its last row was given out, or the queue was made; monotonic */
    size_t at;          /* index in the heap */
};

/* All queues; zeroed, it holds none. */
struct queues {
    struct queue **heap;   /* [n] the first one's turn is next */
    struct queue **by_job; /* [n] ascending */
    size_t n, room;
    uint32_t
        n_homes; /* that rows of the queues added from now on may have, none among them; 0: 1 */
    int any_stalled;
};

struct queue *queues_find(const struct queues *all, int64_t job); /* NULL: none */
/* Adds a queue for a job that has none. It starts at the fewest tokens served of its priority.
 * `all` owns it. */
struct queue *queues_add(struct queues *all, int64_t job, int priority);
void queues_remove(struct queues *all, struct queue **q);                /* frees it */
void queues_serve(struct queues *all, struct queue *q, uint64_t served); /* `served` never falls */
void queues_stall(struct queues *all, struct queue *q);
void queues_begin_round(struct queues *all); /* no queue is stalled any more */
/* The line of rows like this one, which the queue has or had. */
struct line *queues_line_of(const struct queue *q, const struct sequence *r);
/* The first row of the choice, which has the lowest number of those that are first in their lines;
 * NULL: there is none. */
struct sequence *queues_first(const struct queue *q, struct choice c);
void queues_put(struct queue *q, struct sequence *r); /* behind the others of its line; owned */
/* Gives the first row of the choice to the caller; there must be one. */
struct sequence *queues_take(struct queue *q, struct choice c);
void queues_release(struct queues *all); /* frees the arrays; no queue may be left */

#endif
