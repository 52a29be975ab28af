/* queues.h - the queues of jobs with rows to run: a heap by (stalled, priority, tokens served, job)
 * says whose turn it is, an array by job finds them. The number of jobs is not limited; a turn
 * costs its logarithm. */
#ifndef ASSAY_QUEUES_H
#define ASSAY_QUEUES_H

#include <stddef.h>
#include <stdint.h>

struct queue {
    int64_t job;
    int priority;
    uint64_t served; /* tokens given out, plus those it started at (queues_add) */
    int64_t after;   /* the next window begins after this row number */
    struct sequence *first, **end;
    uint32_t row_tokens; /* of the last row read; 0: none yet */
    int exhausted;       /* the store has no row after `after` now */
    int rescan;          /* rows before `after` may be queued again: the job changed */
    int fresh;
    int stalled;     /* its first row cannot be taken this round */
    int copies;      /* its last row taken needed no computing */
    uint32_t looked; /* how many of its first rows were prefetched for dedupe */
    size_t at;       /* index in the heap */
};

/* All queues; zeroed, it holds none. */
struct queues {
    struct queue **heap;   /* [n] the first one's turn is next */
    struct queue **by_job; /* [n] ascending */
    size_t n, room;
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
/* Gives the queue's first row to the caller; it must have one. */
struct sequence *queues_take(struct queue *q);
void queues_release(struct queues *all); /* frees the arrays; no queue may be left */

#endif
